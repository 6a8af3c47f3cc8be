"""Commands that work image by image, interrupted and killed: what is finished is kept, and used once."""

import hashlib
import json
import os
import shutil
import signal
import struct
import time
import tracemalloc
import zlib

import pytest
from PIL import Image

from drstool import formats
from drstool.artifacts import job as works
from drstool.artifacts.atomic import clear_away, new_folder
from drstool.artifacts.job import Job
from drstool.artifacts.resume import Journal, PartialFolder
from drstool.errors import InputError, OutputError
from drstool.files import content_digest
from drstool.formats import pictures

PLAIN = ("--no-provenance",)


def lines(voc, made):
    """Command lines but for their -o, with the name of the output."""
    train, val = ("--data", voc, "--split", "train"), ("--data", voc, "--split", "val")
    cam = ("cam", *train, "--weights", made.cls, "--sizes", "32", "--batch-size", "2", *PLAIN)
    refine = ("refine", "--weights", made.refiner, "--sizes", "32", "--batch-size", "2", *PLAIN)
    labels = ("pseudo-label", made.cams, "--saliency", voc / "saliency_map", *PLAIN)
    segment = ("segment", *train, "--weights", made.seg, *PLAIN)
    return {
        "cam": (cam, "result.h5"),
        "cam, stream": (cam, "result.tar"),
        "refine maps": ((*refine, made.cams), "result.h5"),
        "refine data": ((*refine, *train), "result.h5"),
        "pseudo-label": (labels, "result"),
        "pseudo-label, stream": (labels, "result.tar"),
        "segment": (segment, "result"),
        "crf": (("crf", made.refined, "--background", "power", "--crf-iterations", "2", *PLAIN), "result.h5"),
        "crf, stream": (("crf", made.cams, "--background", "power", "--crf-iterations", "2", *PLAIN), "result.tar"),
        "saliency": (("saliency", *val, *PLAIN), "result"),
        "overlay labels": (("overlay", *train, "--labels", made.labels, *PLAIN), "result"),
        "overlay maps": (("overlay", *train, "--maps", made.cams, *PLAIN), "result"),
    }


NAMES = ("cam", "cam, stream", "refine maps", "refine data", "pseudo-label", "pseudo-label, stream", "segment",
         "crf", "crf, stream", "saliency", "overlay labels", "overlay maps")


def contents(path):
    if path.is_file():
        return path.read_bytes()
    return {file.relative_to(path).as_posix(): file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}


def left_in(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(scope="module")
def world(voc, made, tmp_path_factory):
    """Command lines, and what each makes when nothing happens; made when first asked for."""

    class World:
        known = {}

        @staticmethod
        def line(name):
            return lines(voc, made)[name]

        def whole(self, drs, name):
            if name not in self.known:
                words, output = self.line(name)
                folder = tmp_path_factory.mktemp("whole")
                outcome = drs(*words, "-o", folder / output)
                assert outcome.code == 0, outcome.err
                assert left_in(folder) == [output]
                self.known[name] = contents(folder / output)
            return self.known[name]

    return World()


@pytest.fixture
def after(monkeypatch):
    """Does something after so many records or pictures of this sitting were finished, once."""

    def plan(count, action):
        undone = [count]

        def counting(function):
            def counted(kept, *arguments):
                function(kept, *arguments)
                undone[0] -= 1
                if undone[0] == 0:
                    action()

            return counted

        for kind in (Journal, PartialFolder):
            monkeypatch.setattr(kind, "add", counting(kind.add))

    return plan


def interrupt(drs, after, words, output, count, number=signal.SIGTERM):
    after(count, lambda: signal.raise_signal(number))
    return drs(*words, "-o", output)


# --- interrupted ---------------------------------------------------------------------------------


def test_every_line_is_tried(voc, made):
    assert tuple(lines(voc, made)) == NAMES


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("number", "code", "count"), [(signal.SIGINT, 130, 1), (signal.SIGTERM, 143, 3)])
def test_interrupted_and_gone_on_with(drs, world, tmp_path, after, name, number, code, count):
    words, output = world.line(name)
    if name == "saliency":
        count = 1
    first = interrupt(drs, after, words, tmp_path / output, count, number)
    assert first.code == code, first.err
    noun = "picture" if words[0] == "overlay" else "image"
    assert f"{words[0]}: {count} {noun}{'s' if count > 1 else ''} finished; continue with --resume\n" in first.err
    assert output not in left_in(tmp_path)
    assert set(left_in(tmp_path)) <= {f".{output}.resume", f".{output}.resume.json"} != set()
    second = drs(*words, "-o", tmp_path / output, "--resume")
    assert second.code == 0, second.err
    # Of what is made in batches, whole batches are.
    kept = count - count % 2 if words[0] in ("cam", "refine") else count
    assert ("resuming after" in second.err) == (kept > 0)
    assert contents(tmp_path / output) == world.whole(drs, name)
    assert left_in(tmp_path) == [output]


def test_labels_with_scores_that_were_not_interrupted_say_so(drs, voc, made, tmp_path):
    outputs = tmp_path / "labels.tar", tmp_path / "scores.h5"
    words = ("segment", "--data", voc, "--split", "train", "--weights", made.seg)
    assert drs(*words, "-o", outputs[0], "--scores", outputs[1]).code == 0
    for output in outputs:
        with formats.open_records(output) as source:
            assert source.header.provenance and not any("resumed" in step for step in source.header.provenance)


@pytest.mark.parametrize("scores", ["scores.h5", "scores.tar"])
def test_a_stream_of_labels_with_scores(drs, voc, made, tmp_path, after, scores):
    words = ("segment", "--data", voc, "--split", "train", "--weights", made.seg, *PLAIN)
    both = ("-o", tmp_path / "labels.tar", "--scores", tmp_path / scores)
    assert drs(*words, *both).code == 0
    expected = contents(tmp_path / "labels.tar"), contents(tmp_path / scores)
    for path in (tmp_path / "labels.tar", tmp_path / scores):
        path.unlink()
    after(3, lambda: signal.raise_signal(signal.SIGINT))
    assert drs(*words, *both).code == 130
    second = drs(*words, *both, "--resume")
    assert second.code == 0 and "resuming after 1 image" in second.err
    assert (contents(tmp_path / "labels.tar"), contents(tmp_path / scores)) == expected
    assert left_in(tmp_path) == ["labels.tar", scores]


def test_labels_with_scores(drs, voc, made, tmp_path, after):
    words = ("segment", "--data", voc, "--split", "train", "--weights", made.seg, *PLAIN)
    both = ("-o", tmp_path / "labels", "--scores", tmp_path / "scores.h5")
    assert drs(*words, *both).code == 0
    expected = contents(tmp_path / "labels"), contents(tmp_path / "scores.h5")
    for count in (1, 2, 3, 5):
        shutil.rmtree(tmp_path / "labels", ignore_errors=True)
        (tmp_path / "scores.h5").unlink(missing_ok=True)
        # Of each image the labels are written first.
        after(count, lambda: signal.raise_signal(signal.SIGINT))
        assert drs(*words, *both).code == 130
        second = drs(*words, *both, "--resume")
        assert second.code == 0, second.err
        assert (f"resuming after {count // 2} image" in second.err) == (count > 1)
        assert (contents(tmp_path / "labels"), contents(tmp_path / "scores.h5")) == expected
        assert left_in(tmp_path) == ["labels", "scores.h5"]
    # Killed after the scores came to be, and before the labels did.
    shutil.rmtree(tmp_path / "labels")
    second = drs(*words, *both, "--resume")
    assert second.code == 0, second.err
    assert (contents(tmp_path / "labels"), contents(tmp_path / "scores.h5")) == expected


def test_interrupted_again_and_again(drs, world, tmp_path, after):
    words, output = world.line("refine data")
    for _ in range(2):
        assert interrupt(drs, after, (*words, "--resume"), tmp_path / output, 2).code == 143
    assert drs(*words, "-o", tmp_path / output, "--resume").code == 0
    assert contents(tmp_path / output) == world.whole(drs, "refine data")


# Killed after so many were finished.
KILLED = """
import os, signal
from drstool.artifacts.resume import Journal, PartialFolder
left = [{count}]
def counting(function):
    def counted(kept, *arguments):
        function(kept, *arguments)
        left[0] -= 1
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)
    return counted
for kind in (Journal, PartialFolder):
    kind.add = counting(kind.add)
"""


@pytest.mark.parametrize("name", ["cam", "pseudo-label", "overlay maps"])
def test_killed(drs, zygote, world, tmp_path, name):
    words, output = world.line(name)
    killed = zygote.run(*words, "-o", tmp_path / output, before=KILLED.format(count=3), errors=os.devnull)
    assert killed == -signal.SIGKILL
    assert output not in left_in(tmp_path)
    second = drs(*words, "-o", tmp_path / output, "--resume")
    assert second.code == 0, second.err
    assert f"resuming after {2 if name == 'cam' else 3} " in second.err
    assert contents(tmp_path / output) == world.whole(drs, name)
    assert left_in(tmp_path) == [output]


def test_the_history_tells_of_the_interruption(drs, world, tmp_path, after):
    for name in ("cam", "pseudo-label"):
        words, output = world.line(name)
        words = [word for word in words if word not in PLAIN]
        interrupt(drs, after, words, tmp_path / output, 2)
        assert drs(*words, "-o", tmp_path / output, "--resume").code == 0
        entry = drs("info", tmp_path / output, "--json").json()["provenance"][-1]
        assert [sitting["done"] for sitting in entry["resumed"]] == [2]


# --- failures that are none of the signal's --------------------------------------------------------


def test_what_was_finished_before_a_failure_is_kept(drs, own_voc, made, tmp_path):
    train = ("--data", own_voc, "--split", "train")
    words = ("cam", *train, "--weights", made.cls, "--sizes", "32", "--batch-size", "1", "--workers", "1", *PLAIN)
    image = own_voc / "JPEGImages" / "p2.jpg"
    good = image.read_bytes()
    image.write_bytes(good[:300])
    first = drs(*words, "-o", tmp_path / "m.h5")
    assert first.code == 3 and len(first.err.splitlines()) == 1
    image.write_bytes(good)
    second = drs(*words, "-o", tmp_path / "m.h5", "--resume")
    assert second.code == 0
    assert "resuming after 2 " in second.err
    assert drs(*words, "-o", tmp_path / "n.h5").code == 0
    assert (tmp_path / "m.h5").read_bytes() == (tmp_path / "n.h5").read_bytes()


def test_after_an_image_that_failed_all_is_done_again(drs, own_voc, made, tmp_path, after):
    """Who shares a batch with whom is as it would have been."""
    train = ("--data", own_voc, "--split", "train")
    words = ("cam", *train, "--weights", made.cls, "--sizes", "32", "--batch-size", "1", "--keep-going", *PLAIN)
    image = own_voc / "JPEGImages" / "p1.jpg"
    image.write_bytes(image.read_bytes()[:300])
    assert drs(*words, "-o", tmp_path / "whole.h5").code == 4
    assert interrupt(drs, after, words, tmp_path / "m.h5", 2).code == 143
    second = drs(*words, "-o", tmp_path / "m.h5", "--resume")
    assert second.code == 4
    assert "resuming after 1 " in second.err and "p1.jpg" in second.err
    assert (tmp_path / "m.h5").read_bytes() == (tmp_path / "whole.h5").read_bytes()


def test_a_full_disk_leaves_little_work_nowhere_and_much_where_it_is(drs, world, tmp_path, monkeypatch):
    words, output = world.line("pseudo-label")
    add = PartialFolder.add

    def full(kept, name):
        add(kept, name)
        if len(kept.finished) == 2:
            raise OutputError(output, "cannot be written: No space left on device")

    monkeypatch.setattr(PartialFolder, "add", full)
    assert drs(*words, "-o", tmp_path / output).code == 1
    assert left_in(tmp_path) == []
    monkeypatch.setattr(works, "WORTH_KEEPING", 0.0)
    assert drs(*words, "-o", tmp_path / output).code == 1
    assert left_in(tmp_path) == [f".{output}.resume", f".{output}.resume.json"]


def test_nothing_is_kept_of_nothing(drs, world, tmp_path):
    for name in ("cam", "segment"):
        words, output = world.line(name)
        assert drs(*words, "--precision", "exact", "-o", tmp_path / output).code == 2
    assert left_in(tmp_path) == []


# --- what is kept is damaged ------------------------------------------------------------------------


@pytest.mark.parametrize("damage", ["cut", "flipped", "grown"])
def test_a_journal_counts_as_far_as_it_is_whole(drs, world, tmp_path, after, damage):
    words, output = world.line("cam, stream")
    interrupt(drs, after, words, tmp_path / output, 4)
    journal = tmp_path / f".{output}.resume"
    data = bytearray(journal.read_bytes())
    if damage == "cut":
        del data[-100:]
    elif damage == "flipped":
        data[-100] ^= 1
    else:
        data += b"\x01" * 50
    journal.write_bytes(bytes(data))
    second = drs(*words, "-o", tmp_path / output, "--resume")
    assert second.code == 0, second.err
    assert f"resuming after {4 if damage == 'grown' else 2} images" in second.err
    assert contents(tmp_path / output) == world.whole(drs, "cam, stream")


@pytest.mark.parametrize("name", ["pseudo-label", "overlay labels"])
def test_pictures_that_were_cut_off_are_made_again(drs, world, tmp_path, after, name):
    words, output = world.line(name)
    interrupt(drs, after, words, tmp_path / output, 3)
    first, second, third = sorted((tmp_path / f".{output}.resume").rglob("*.png"))
    first.write_bytes(first.read_bytes()[:-1])
    second.write_bytes(b"")
    outcome = drs(*words, "-o", tmp_path / output, "--resume")
    assert outcome.code == 0, outcome.err
    assert "resuming after 1 " in outcome.err
    assert contents(tmp_path / output) == world.whole(drs, name)


def test_what_others_put_where_work_is_kept_is_named_and_stays(drs, world, tmp_path):
    for name, at, content in (
        ("cam", ".result.h5.resume", b"mine"), ("cam", ".result.h5.resume", None), ("cam", ".result.h5.resume", "link"),
        ("pseudo-label", ".result.resume", b"mine"), ("pseudo-label", ".result.resume.json", b"mine"),
        ("pseudo-label", ".result.resume.json", b'{"format": "other"}'), ("pseudo-label", ".result.resume/notes", b"x"),
        ("cam", ".result.h5.lock", b"mine"), ("pseudo-label", ".result.lock", b"mine"),
    ):
        words, output = world.line(name)
        folder = tmp_path / str(len(left_in(tmp_path)))
        folder.mkdir()
        place = folder / at
        place.parent.mkdir(exist_ok=True)
        if content == "link":
            place.symlink_to(folder / "elsewhere")
        elif content is None:
            (place / "inner").mkdir(parents=True)
        else:
            place.write_bytes(content)
        for more in ((), ("--resume",), ("--overwrite",)):
            outcome = drs(*words, "-o", folder / output, *more)
            assert outcome.code == 1 and f"/{at}" in outcome.err, outcome.err
            assert os.path.lexists(place) and (not isinstance(content, bytes) or place.read_bytes() == content)
            assert left_in(folder) == [at.partition("/")[0]]


@pytest.mark.parametrize("name", ["notes.txt", "street/p9.png", "p9.png", "p9.png, a link"])
def test_what_others_put_among_what_is_kept_is_named_and_stays(drs, world, tmp_path, after, made, name):
    words, output = world.line("pseudo-label")
    interrupt(drs, after, words, tmp_path / output, 2)
    name, _, link = name.partition(", ")
    place = tmp_path / f".{output}.resume" / name
    place.parent.mkdir(exist_ok=True)
    if link:
        place.symlink_to(made.labels / "p0.png")
    else:
        shutil.copy(made.labels / "p0.png", place)
    outcome = drs(*words, "-o", tmp_path / output, "--resume")
    assert outcome.code == 1 and f".result.resume/{name}: lies where unfinished work is kept" in outcome.err
    assert os.path.lexists(place)
    place.unlink()
    assert drs(*words, "-o", tmp_path / output, "--resume").code == 0
    assert contents(tmp_path / output).keys() == world.whole(drs, "pseudo-label").keys()


def test_a_journal_that_ends_in_zeros_counts_up_to_them(drs, world, tmp_path, after):
    """As a power failure leaves it on some file systems."""
    words, output = world.line("cam, stream")
    interrupt(drs, after, words, tmp_path / output, 4)
    with open(tmp_path / f".{output}.resume", "ab") as journal:
        journal.write(bytes(5000))
    assert "resuming after 4 images" in drs(*words, "-o", tmp_path / output, "--resume").err
    assert contents(tmp_path / output) == world.whole(drs, "cam, stream")


# --- what --keep-going left out, and damage -------------------------------------------------------


def without(own_voc, made, tmp_path):
    """Command lines whose image p1 fails, and those files that make it fail; pictures are all of one batch."""
    train = ("--data", own_voc, "--split", "train")
    image, saliency = own_voc / "JPEGImages" / "p1.jpg", own_voc / "saliency_map" / "p1.png"
    map_lines = {
        "cam": ("cam", *train, "--weights", made.cls, "--sizes", "32", "--batch-size", "1"),
        "cam, batches": ("cam", *train, "--weights", made.cls, "--sizes", "32", "--batch-size", "2"),
        "refine": ("refine", *train, "--weights", made.refiner, "--sizes", "32", "--batch-size", "3"),
        "segment": ("segment", *train, "--weights", made.seg),
        "crf": ("crf", made.cams, *train, "--background", "power", "--crf-iterations", "1"),
        "saliency": ("saliency", *train),
        "overlay": ("overlay", *train, "--labels", made.labels),
    }
    lines = {name: (words, image) for name, words in map_lines.items()}
    return lines | {"pseudo-label": (
        ("pseudo-label", made.cams, "--saliency", own_voc / "saliency_map"), saliency)}


LACKING = {
    "cam": ("result.h5", 3), "cam, batches": ("result.tar", 2), "refine": ("result.h5", 1), "segment": ("result", 3),
    "crf": ("result.h5", 3), "saliency": ("result.tar", 3), "overlay": ("result", 12)}


@pytest.mark.parametrize(("name", "history"), [*((name, False) for name in LACKING), ("cam", True), ("overlay", True)])
def test_what_was_left_out_is_taken_up(drs, own_voc, made, tmp_path, name, history):
    words, spoilt = without(own_voc, made, tmp_path)[name]
    (output, kept), plain = LACKING[name], () if history else PLAIN
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    assert drs(*words, *PLAIN, "-o", there / output).code == 0
    good = spoilt.read_bytes()
    spoilt.write_bytes(good[:100])
    line = (*words, *plain, "-o", here / output, "--keep-going")
    assert drs(*line).code == 4
    first = contents(here / output)
    # Still damaged, with --keep-going and without.
    outcome = drs(*line, "--resume")
    assert outcome.code == 4 and "finished already" not in outcome.err
    if not history:
        assert contents(here / output) == first
    assert drs(*line[:-1], "--resume").code == 3
    assert history or contents(here / output) == first
    spoilt.write_bytes(good)
    outcome = drs(*line, "--resume")
    assert outcome.code == 0, outcome.err
    assert f"resuming after {kept} " in outcome.err
    assert drs(*line, "--resume").err.endswith("is finished already\n")
    assert left_in(here) == [output]
    assert history or contents(here / output) == contents(there / output)


def test_maps_without_saliency_are_taken_up(drs, own_voc, made, tmp_path):
    """There the inputs' digest changes with the mended file: it is another job, unless nothing tells of it."""
    words, spoilt = without(own_voc, made, tmp_path)["pseudo-label"]
    good = spoilt.read_bytes()
    spoilt.write_bytes(good[:100])
    assert drs(*words, *PLAIN, "--keep-going", "-o", tmp_path / "labels").code == 4
    spoilt.write_bytes(good)
    outcome = drs(*words, *PLAIN, "--resume", "-o", tmp_path / "labels")
    assert outcome.code == 0 and "lacks 1 image, resuming after 3 images" in outcome.err
    assert drs(*words, *PLAIN, "-o", tmp_path / "again").code == 0
    assert contents(tmp_path / "labels") == contents(tmp_path / "again")


@pytest.mark.parametrize("scores", ["scores.h5", "scores.tar"])
def test_what_was_left_out_of_labels_with_scores_is_taken_up(drs, own_voc, made, tmp_path, scores):
    words, spoilt = without(own_voc, made, tmp_path)["segment"]

    def line(folder, *more):
        folder.mkdir(exist_ok=True)
        return drs(*words, *PLAIN, "-o", folder / "labels", "--scores", folder / scores, *more)

    here, there = tmp_path / "here", tmp_path / "there"
    assert line(there).code == 0
    good = spoilt.read_bytes()
    spoilt.write_bytes(good[:100])
    assert line(here, "--keep-going").code == 4
    assert line(here, "--keep-going", "--resume").code == 4
    spoilt.write_bytes(good)
    outcome = line(here, "--resume")
    assert outcome.code == 0 and "lacks 1 image, resuming after 3 images" in outcome.err
    assert contents(here / "labels") == contents(there / "labels")
    assert contents(here / scores) == contents(there / scores)
    assert line(here, "--resume").err.endswith("is finished already\n")
    # Of two outputs one is not enough.
    (here / scores).unlink()
    assert line(here, "--resume").code == 0
    assert contents(here / scores) == contents(there / scores) and left_in(here) == ["labels", scores]


def test_interrupted_while_what_was_left_out_is_taken_up(drs, own_voc, made, tmp_path, after):
    words, spoilt = without(own_voc, made, tmp_path)["cam"]
    good = spoilt.read_bytes()
    assert drs(*words, *PLAIN, "-o", tmp_path / "whole.h5").code == 0
    for count in (1, 2, 3):
        spoilt.write_bytes(good[:100])
        assert drs(*words, *PLAIN, "-o", tmp_path / "m.h5", "--keep-going", "--overwrite").code == 4
        before = contents(tmp_path / "m.h5")
        spoilt.write_bytes(good)
        assert interrupt(drs, after, (*words, *PLAIN, "--resume"), tmp_path / "m.h5", count).code == 143
        assert contents(tmp_path / "m.h5") == before
        assert drs(*words, *PLAIN, "-o", tmp_path / "m.h5", "--resume").code == 0
        assert contents(tmp_path / "m.h5") == contents(tmp_path / "whole.h5")
    assert left_in(tmp_path) == ["m.h5", "own", "whole.h5"]


@pytest.mark.parametrize("damage", ["empty", "flipped", "longer"])
@pytest.mark.parametrize("name", ["cam", "cam, stream", "pseudo-label", "saliency", "overlay labels"])
def test_damaged_work_is_not_finished(drs, world, tmp_path, name, damage):
    words, output = world.line(name)
    target = tmp_path / output
    assert drs(*words, "-o", target).code == 0
    file = target if target.is_file() else sorted(target.glob("*.png"))[1]
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes({"empty": b"", "flipped": bytes(data), "longer": file.read_bytes() + b"more"}[damage])
    outcome = drs(*words, "-o", target, "--resume")
    assert outcome.code == 1 and outcome.err.endswith("; choose another name, or use --overwrite\n"), outcome.err
    assert target.is_file() or file.name in outcome.err
    assert drs(*words, "-o", target, "--resume", "--overwrite").code == 0
    assert contents(target) == world.whole(drs, name)


# --- another work, no part, a finished one --------------------------------------------------------


OTHER = {
    "cam": (("--sizes", "40"), "--sizes changed from 32 to 40"),
    "cam, stream": (("--split", "val"), "the list of images and tags changed"),
    "refine maps": (("--dtype", "uint8"), "--dtype changed from float16 to uint8"),
    "refine data": (("--flip",), "--flip changed from False to True"),
    "pseudo-label": (("--alpha", "0.3"), "--alpha changed from 0.2 to 0.3"),
    "pseudo-label, stream": (("--background", "power"), "--background changed from saliency to power"),
    "crf": (("--crf-bilateral-srgb", "7"), "--crf-bilateral-srgb changed from 3.0 to 7.0"),
    "crf, stream": (("--crf", "irn"), "--crf changed from deeplab to irn, --crf-bilateral-sxy changed"),
    "segment": (("--scales", "1,2"), "--scales changed from 1.0 to 1.0,2.0"),
    "saliency": (("--method", "rbd"), "--method changed from mbd to rbd"),
    "overlay labels": (("--no-target",), "--target changed from True to False"),
    "overlay maps": (("--opacity", "0.5"), "--opacity changed from 0.7 to 0.5"),
}


@pytest.mark.parametrize("name", NAMES)
def test_other_work_is_refused(drs, world, tmp_path, after, name):
    words, output = world.line(name)
    interrupt(drs, after, words, tmp_path / output, 2 if name != "saliency" else 1)
    before = {path: path.stat().st_size for path in tmp_path.rglob("*")}
    change, told = OTHER[name]
    outcome = drs(*words, *change, "-o", tmp_path / output, "--resume")
    assert outcome.code == 3, outcome.err
    (line,) = outcome.err.splitlines()
    assert f"belongs to a different job: {told}" in line
    assert {path: path.stat().st_size for path in tmp_path.rglob("*")} == before


@pytest.mark.parametrize("name", NAMES)
def test_other_work_is_made_anew_where_it_may_be(drs, world, tmp_path, after, name):
    """With --overwrite too, whether the earlier work was interrupted or finished."""
    words, output = world.line(name)
    change, told = OTHER[name]
    target, line = tmp_path / output, (*words, "-o", tmp_path / output, "--resume", "--overwrite")
    interrupt(drs, after, (*words, *change), target, 2 if name != "saliency" else 1)
    outcome = drs(*line)
    assert outcome.code == 0, outcome.err
    assert "belongs to a different job: " in outcome.err and "; discarding it\n" in outcome.err
    assert contents(target) == world.whole(drs, name)
    words = [word for word in words if word not in PLAIN]
    for _ in range(2):
        # Once with what has no history yet.
        assert drs(*words, "-o", target, "--resume", "--overwrite").code == 0
    before = target.stat().st_mtime_ns
    assert drs(*words, "-o", target, "--resume", "--overwrite").err.endswith(f"{target} is finished already\n")
    assert target.stat().st_mtime_ns == before
    outcome = drs(*words, *change, "-o", target, "--resume", "--overwrite")
    assert outcome.code == 0, outcome.err
    assert f"{words[0]}: {target} exists, but {told}" in outcome.err and "; making it again\n" in outcome.err
    assert left_in(tmp_path) == [output]


def test_a_damaged_journal_is_discarded_where_it_may_be(drs, world, tmp_path, after):
    words, output = world.line("cam")
    interrupt(drs, after, words, tmp_path / output, 2)
    journal = tmp_path / f".{output}.resume"
    data = journal.read_bytes()
    journal.write_bytes(data[:25] + b"x" + data[26:])
    assert drs(*words, "-o", tmp_path / output, "--resume").code == 3
    outcome = drs(*words, "-o", tmp_path / output, "--resume", "--overwrite")
    assert outcome.code == 0 and f"{journal}: is damaged; discarding it" in outcome.err
    assert contents(tmp_path / output) == world.whole(drs, "cam")


def test_other_inputs_are_refused(drs, voc, own_voc, made, tmp_path, after):
    """Weights, maps, labels and saliency maps are known by what is in them, wherever they lie."""
    train = ("--data", voc, "--split", "train")
    copied = tmp_path / "copy.h5"
    shutil.copy(made.cams, copied)
    shutil.copytree(voc / "saliency_map", tmp_path / "saliency")
    cases = {
        "cam": (("cam", *train, "--weights", made.cls, "--sizes", "32"), ("--weights", tmp_path / "other.pt"),
                "the checkpoint changed"),
        "pseudo-label": (("pseudo-label", "--saliency", voc / "saliency_map"),
                         ("--saliency", tmp_path / "saliency"), "--saliency changed"),
    }
    small = ("--backbone", "vgg16-small", "--init", "none", "--epochs", "0", "--image-size", "32", "--seed", "9")
    assert drs("train-cls", *train, *small, "-o", tmp_path / "other.pt").code == 0
    for name, (words, change, told) in cases.items():
        given = (made.cams,) if name == "pseudo-label" else ()
        out = ("-o", tmp_path / f"{name}.out" if name == "cam" else tmp_path / name)
        interrupt(drs, after, (*words, *given), out[1], 1)
        if name == "pseudo-label":
            # The same maps and saliency maps from another place.
            assert "resuming" in drs(*words, copied, *change, *out, "--resume").err
            shutil.rmtree(out[1])
            interrupt(drs, after, (*words, *given), out[1], 1)
            Image.new("L", (64, 48), 255).save(tmp_path / "saliency" / "p0.png")
        outcome = drs(*words, *given, *change, *out, "--resume")
        assert outcome.code == 3 and told in outcome.err, outcome.err
    outcome = drs("pseudo-label", made.refined, "--saliency", voc / "saliency_map", "-o", tmp_path / "pseudo-label",
                  "--resume")
    assert outcome.code == 3 and "the map file changed" in outcome.err


def test_photographs_from_elsewhere_are_another_work(drs, voc, made, tmp_path, after):
    """Those that --data names, and those that the maps name."""
    words = ("crf", made.cams, "--background", "power", "--crf-iterations", "1")
    interrupt(drs, after, (*words, "--data", voc, "--split", "train"), tmp_path / "maps.h5", 1)
    outcome = drs(*words, "-o", tmp_path / "maps.h5", "--resume")
    assert outcome.code == 3 and "the list of images and tags changed" in outcome.err
    outcome = drs(*words, "--data", voc, "--split", "train", "-o", tmp_path / "maps.h5", "--resume")
    assert outcome.code == 0 and "resuming after 1 " in outcome.err


def test_a_digest_is_of_all_bytes(tmp_path):
    path = tmp_path / "large"
    path.write_bytes(b"")
    assert content_digest(path).startswith("sha256:e3b0c442")
    data = bytearray(os.urandom(10_000_000))
    path.write_bytes(data)
    before = content_digest(path)
    assert before == f"sha256:{hashlib.sha256(data).hexdigest()}"
    for place in (0, 5_000_001, 9_999_999):
        data[place] ^= 1
        path.write_bytes(data)
        assert content_digest(path) != before
        data[place] ^= 1
    with pytest.raises(InputError, match="cannot be read: No such file"):
        content_digest(tmp_path / "none")


def test_a_folders_digest_is_of_names_and_bytes(tmp_path):
    def digest(files):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        for name, data in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)
        return content_digest(folder)

    plain = {"a": b"1234", "b/c": b"5"}
    assert digest(plain) == digest(dict(reversed(plain.items()))) == digest(plain | {".hidden": b"x"})
    others = [{"a": b"1234", "b/d": b"5"}, {"a": b"1235", "b/c": b"5"}, {"a": b"123", "b/c": b"45"}, {"a": b"1234"}]
    assert len({digest(files) for files in (plain, *others)}) == 5


def test_without_resume_little_is_dropped_and_much_is_not(drs, world, tmp_path, after, monkeypatch):
    for name, noun in (("cam", "images"), ("segment", "images"), ("overlay labels", "pictures")):
        words, output = world.line(name)
        interrupt(drs, after, words, tmp_path / output, 2)
        with monkeypatch.context() as patch:
            patch.setattr(works, "WORTH_KEEPING", 0.0)
            outcome = drs(*words, "-o", tmp_path / output)
        assert outcome.code == 1
        assert f"an interrupted run finished 2 {noun}" in outcome.err
        assert outcome.err.endswith("continue it with --resume, or discard it with --overwrite\n")
        outcome = drs(*words, "-o", tmp_path / output)
        assert outcome.code == 0
        assert f"starting from scratch, discarding 2 {noun} of an interrupted run" in outcome.err
        assert contents(tmp_path / output) == world.whole(drs, name)
        assert left_in(tmp_path) == [output]
        shutil.rmtree(tmp_path / output) if (tmp_path / output).is_dir() else (tmp_path / output).unlink()


@pytest.mark.parametrize("history", [True, False])
@pytest.mark.parametrize("name", ["cam", "cam, stream", "pseudo-label", "saliency", "overlay labels"])
def test_finished_work_is_not_done_again(drs, world, tmp_path, name, history):
    words, output = world.line(name)
    words = [word for word in words if not history or word not in PLAIN]
    target = tmp_path / output
    outcome = drs(*words, "-o", target, "--resume")
    assert outcome.code == 0 and "resum" not in outcome.err, outcome.err
    before = contents(target)
    for more in ((), ("--overwrite",))[:1 + history]:
        outcome = drs(*words, "-o", target, "--resume", *more)
        assert (outcome.code, outcome.err) == (0, f"{words[0]}: {target} is finished already\n")
    assert contents(target) == before
    if not history:
        # Nobody knows whether it is what this line makes.
        outcome = drs(*words, "-o", target, "--resume", "--overwrite")
        assert outcome.code == 0 and "exists, but has no history" in outcome.err
    else:
        change, told = OTHER[name]
        outcome = drs(*words, *change, "-o", target, "--resume")
        assert outcome.code == 1
        assert f"exists, and {told}" in outcome.err
        assert outcome.err.endswith("; choose another name, or use --overwrite\n")
    assert contents(target) == before
    assert left_in(tmp_path) == [output]


def test_what_else_lies_there_is_not_taken_for_finished(drs, world, tmp_path, made):
    words, _ = world.line("cam")
    for path in (made.refined, made.cls):
        shutil.copy(path, tmp_path / "there")
        outcome = drs(*words, "-o", tmp_path / "there", "--resume")
        assert outcome.code == 1 and "exists, and " in outcome.err
    words, _ = world.line("pseudo-label")
    shutil.copytree(made.figures, tmp_path / "figures")
    assert "exists, and holds figures" in drs(*words, "-o", tmp_path / "figures", "--resume").err


def test_pipes_cannot_be_gone_on_with(drs, world, made, tmp_path):
    words, _ = world.line("cam")
    outcome = drs(*words, "--resume")
    assert outcome.code == 2
    assert outcome.err == (
        "drstool: --resume: stdout is not a file that can be resumed; give -o FILE, or omit --resume\n")
    outcome = drs("pseudo-label", "--background", "power", "-o", tmp_path / "labels", "--resume",
                  stdin=stream_of(made.cams))
    assert outcome.code == 2
    assert "the input comes through a pipe, which can only be read once" in outcome.err
    assert left_in(tmp_path) == []


def stream_of(path):
    import io

    stream = io.BytesIO()
    with formats.open_records(path) as source, formats.open_sink("-", source.header, stdout=stream) as sink:
        sink.write_all(source.records())
    return stream.getvalue()


# --- two at once, and what the killed leave ------------------------------------------------------


WAITING = """
import os, time
from drstool.artifacts.resume import Journal, PartialFolder
for kind in (Journal, PartialFolder):
    def wait(kept, *arguments, add=kind.add):
        add(kept, *arguments)
        open({mark!r}, "w").close()
        while os.path.exists({mark!r}):
            time.sleep(0.005)
    kind.add = wait
"""


@pytest.mark.parametrize("name", ["cam", "pseudo-label"])
def test_of_two_commands_the_second_is_told(drs, zygote, world, tmp_path, name):
    words, output = world.line(name)
    folder = tmp_path / "here"
    folder.mkdir()
    mark = tmp_path / "mark"
    pid = zygote.start(*words, "-o", folder / output, before=WAITING.format(mark=str(mark)), errors=tmp_path / "err")
    end = time.monotonic() + 120
    while not mark.exists():
        assert time.monotonic() < end, (tmp_path / "err").read_text()
        time.sleep(0.01)
    for more in ((), ("--overwrite",), ("--resume",)):
        outcome = drs(*words, "-o", folder / output, *more)
        assert outcome.code == 1
        assert outcome.err == (f"drstool: {folder / output}: is already being written; wait for that command, "
                               "or choose another -o\n")
    assert not (folder / output).exists()
    os.kill(pid, signal.SIGKILL)
    zygote.wait(pid)
    assert drs(*words, "-o", folder / output).code == 0
    assert contents(folder / output) == world.whole(drs, name)
    assert left_in(folder) == [output]


def test_what_the_killed_left_goes(drs, world, tmp_path):
    """Also where it was about to replace an older output, which comes back."""
    words, output = world.line("pseudo-label")
    assert drs(*words, "-o", tmp_path / output).code == 0
    os.rename(tmp_path / output, tmp_path / f".{output}.replaced-0123abcd")
    for name in (f".{output}.partial-01234567", f"..{output}.resume.partial-89abcdef",
                 f"..{output}.resume.json.partial-89abcdef"):
        (tmp_path / name).write_bytes(b"half")
    others = [".other.partial-01234567", f".{output}.partial-mine", f".{output}"]
    for name in others:
        (tmp_path / name).write_bytes(b"mine")
    outcome = drs(*words, "-o", tmp_path / output)
    assert outcome.code == 1 and "exists" in outcome.err
    assert contents(tmp_path / output) == world.whole(drs, "pseudo-label")
    assert left_in(tmp_path) == sorted([*others, output])


def test_clearing_away_is_no_danger_to_what_is_there(tmp_path):
    with new_folder(tmp_path / "out") as making:
        (making / "a").touch()
    old = tmp_path / ".out.replaced-0123abcd"
    old.mkdir()
    (old / "drstool.json").write_text('{"format": "drstool", "kind": "labels"}')
    clear_away(tmp_path / "out")
    assert left_in(tmp_path) == ["out"] and (tmp_path / "out" / "a").exists()
    # Nor to what others gave such a name, or to what is no longer whole and would come back.
    for name in (".out.partial-0123abcd", ".out.replaced-0123abcd", ".out.replaced-4567abcd"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine").touch()
    (tmp_path / ".out.replaced-89abcdef").touch()
    (tmp_path / ".out.partial-89abcdef").symlink_to(tmp_path / "out")
    before = left_in(tmp_path)
    clear_away(tmp_path / "out")
    assert left_in(tmp_path) == before
    os.rename(tmp_path / "out", tmp_path / "other")
    (tmp_path / ".out.replaced-0123abcd" / "drstool.json").write_text('{"format": "drstool", "kind": "labels"}')
    clear_away(tmp_path / "out")
    assert "out" not in left_in(tmp_path) and ".out.replaced-0123abcd" not in left_in(tmp_path)
    clear_away(tmp_path / "none" / "x")


# --- the parts ---------------------------------------------------------------------------------


def test_a_journal_keeps_what_it_was_given(tmp_path):
    work = Job("cam", ("a",))
    journal = Journal(tmp_path / "out", work)
    journal.load()
    for number in range(5):
        journal.add(f"i{number}", {"n": number}, bytes([number]) * number)
    journal.close()
    again = Journal(tmp_path / "out", work)
    assert again.leftover()[0] == 5
    again.load([f"i{n}" for n in range(9)], unit=2)
    assert again.finished == ["i0", "i1", "i2", "i3"]
    assert [(i, told["n"], data) for i, told, data in again.records()] == [
        (f"i{n}", n, bytes([n]) * n) for n in range(4)]
    again.keep_only(["i0"])
    again.add("i1", {"n": 7}, b"seven")
    again.close()
    last = Journal(tmp_path / "out", work)
    last.load(["i0", "i1"], unit=4)
    assert last.finished == ["i0", "i1"]
    assert [told["n"] for _, told, _ in last.records()] == [0, 7]
    assert [sitting["done"] for sitting in last.runs] == [1, 2]
    last.remove()
    assert left_in(tmp_path) == []


def frame(told, length=None):
    content = told if isinstance(told, bytes) else json.dumps(told).encode() + b"\n"
    return struct.pack("<IQ", zlib.crc32(content), len(content) if length is None else length) + content


FORGED = {
    "work of one word": [{"work": "cam", "seconds": 1.0}],
    "work without settings": [{"work": {**Job("cam", ("a",)).to_json(), "settings": None}, "seconds": 1.0}],
    "seconds of text": [{"work": Job("cam", ("a",)).to_json(), "seconds": "1"}],
    "no text": [b"\xff\n"],
    "endless seconds": [b'{"work": {}, "seconds": Infinity}\n'],
    "negative seconds": [b'{"work": {}, "seconds": -1.0}\n'],
    "a number": [b"3\n"],
}


@pytest.mark.parametrize("name", FORGED)
def test_a_forged_journal_is_refused(tmp_path, name):
    journal = Journal(tmp_path / "out", Job("cam", ("a",)))
    journal.path.write_bytes(b"drstool unfinished 1\n" + b"".join(map(frame, FORGED[name])))
    assert journal.leftover()[1] in (0.0, 1.0)
    with pytest.raises(InputError, match="is damaged"):
        journal.load()


def test_a_journal_that_was_hardly_begun_is_begun_anew(tmp_path):
    """Whatever part of its first lines the program came to write before it was killed."""
    work = Job("cam", ("a",))
    journal = Journal(tmp_path / "out", work)
    journal.start()
    journal.close()
    whole = journal.path.read_bytes()
    for size in range(len(whole)):
        journal.path.write_bytes(whole[:size])
        again = Journal(tmp_path / "out", work)
        again.load(["a"])
        again.add("a", {}, b"x")
        again.close()
        assert [identifier for identifier, _, _ in reread(tmp_path / "out", work)] == ["a"]
    # The length alone is not believed.
    place = len(b"drstool unfinished 1\n") + 4
    length = struct.pack("<Q", struct.unpack_from("<Q", whole, place)[0] | 1 << 20)
    journal.path.write_bytes(whole[:place] + length + whole[place + 8:] + frame({"id": "a"}))
    with pytest.raises(InputError, match="is damaged"):
        Journal(tmp_path / "out", work).load(["a"])
    # One bit of the same, with all of it there, is damage.
    for place in range(0, len(whole), 7):
        journal.path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x40]) + whole[place + 1:] + frame({"id": "a"}))
        with pytest.raises(InputError, match="is damaged"):
            Journal(tmp_path / "out", work).load(["a"])


def reread(output, work):
    journal = Journal(output, work)
    journal.load()
    try:
        return list(journal.records())
    finally:
        journal.close()


def test_a_journal_that_claims_more_than_it_holds_takes_no_memory(tmp_path):
    work = Job("cam", ("a",))
    journal = Journal(tmp_path / "out", work)
    whole = frame({"work": work.to_json(), "seconds": 1.0}) + frame({"sitting": 3, "seconds": 1.0})
    journal.path.write_bytes(b"drstool unfinished 1\n" + whole + frame({"id": "a", "seconds": 1.0}, 1 << 32))
    tracemalloc.start()
    try:
        journal.load()
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
        journal.close()
    assert journal.finished == [] and len(journal.runs) == 1


@pytest.mark.parametrize("part", ["settings", "sittings"])
def test_a_forged_note_is_refused(tmp_path, part):
    kept = PartialFolder(tmp_path / "out", Job("cam", ("a",)))
    kept.start()
    (note,) = tmp_path.glob(".*.json")
    noted = json.loads(note.read_text())
    (noted["work"] if part == "settings" else noted)[part] = [3]
    note.write_text(json.dumps(noted))
    assert kept.leftover()[0] == 0
    with pytest.raises(InputError, match="is damaged"):
        kept.load()


def test_a_difference_of_work_is_named():
    work = Job(
        "cam", ("a", "b"), {"lr": 0.1, "sizes": (1, 2)}, {"list": "x"}, {"tags": "list"}, "cpu", 3, version="1.0")
    told = json.loads(json.dumps(work.to_json()))
    assert work.difference(told) is None
    cases = [
        ({"command": "refine"}, "the command changed from refine to cam"),
        ({"version": "0.9"}, "the version of drstool changed from 0.9 to 1.0"),
        ({"seed": None}, "--seed changed from not given to 3"),
        ({"device": "cuda"}, "--device changed from cuda to cpu"),
        ({"classes": ["b", "a"]}, "the classes changed from b,a to a,b"),
        ({"settings": {"lr": 0.1}}, "--sizes changed from not given to 1,2"),
        ({"settings": {**told["settings"], "more": 1}}, "--more changed from 1 to not given"),
        ({"inputs": {}}, "the list of images and tags changed"),
        ({"used": {"tags": "predicted"}}, "--tags changed from predicted to list"),
    ]
    for change, expected in cases:
        assert work.difference({**told, **change}) == expected
    assert pictures.write_pictures.__kwdefaults__["resume"] is None
