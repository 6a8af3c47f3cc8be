"""``cat`` and ``--shard``: parts merged equal the whole, and what does not belong together is told."""

import json
import os
import resource
import subprocess
from pathlib import Path

import h5py
import numpy as np
import pytest

from drstool.artifacts.shard import Shard, ids_digest, shard_slice
from drstool.errors import InputError, UsageError
from drstool.formats import Header, LabelRecord, MapRecord, open_records, open_sink
from drstool.stages.cat import cat, fuse

CLASSES = ("bar", "disc")
SIZES = ("--sizes", "32", "--batch-size", "1")


def files_of(path):
    """Bytes by name: of a file one entry, of a folder all of it."""
    if path.is_file():
        return {"": path.read_bytes()}
    return {p.relative_to(path).as_posix(): p.read_bytes() for p in path.rglob("*") if p.is_file()}


def commands(voc, made):
    """What can be made in parts, as command lines without the output, and the output's ending."""
    train = ("--data", voc, "--split", "train")
    return {
        "cam": (("cam", *train, "--weights", made.cls, *SIZES), ".h5"),
        "refine": (("refine", *train, "--weights", made.refiner, *SIZES), ".h5"),
        "refine of maps": (("refine", made.cams, "--weights", made.refiner, *SIZES), ".h5"),
        "pseudo-label": (("pseudo-label", made.cams, "--saliency", voc / "saliency_map"), ""),
        "saliency": (("saliency", *train), ""),
        "cam as a stream": (("cam", *train, "--weights", made.cls, *SIZES), ".tar"),
    }


@pytest.fixture(scope="module")
def parts(voc, made, drs, tmp_path_factory):
    """Maps of the training pictures in three parts, with history."""
    folder = tmp_path_factory.mktemp("parts")
    line, _ = commands(voc, made)["cam"]
    paths = [folder / f"cams.{i}.h5" for i in (1, 2, 3)]
    for number, path in enumerate(paths, start=1):
        assert drs(*line, "--shard", f"{number}/3", "-o", path).code == 0
    return paths


def write_maps(path, ids, *, classes=CLASSES, kind="localization-maps", part=None, seed=0, size=(4, 5), labels=(1,),
               dtype=np.uint8):
    random = np.random.default_rng(seed)
    with open_sink(str(path), Header(kind, classes, (), part)) as sink:
        for identifier in ids:
            values = random.integers(0, 256, (len(labels), *size)).astype(dtype)
            sink.write(MapRecord(identifier, values, labels, (8, 10), f"{identifier}.jpg"))
    return path


def read(path):
    with open_records(path) as source:
        return {record.id: record for record in source.records()}


# --- parts -------------------------------------------------------------------------------------


@pytest.mark.parametrize("unit", [1, 3])
@pytest.mark.parametrize("count", [0, 1, 7, 10])
@pytest.mark.parametrize("of", [1, 3, 10, 12])
def test_spans_cover_each_image_once(count, of, unit):
    spans = [range(count)[shard_slice(number, of, count, unit)] for number in range(1, of + 1)]
    assert [i for images in spans for i in images] == list(range(count))
    assert [images for images in spans if images and images[0] % unit] == []
    lengths = sorted(map(len, spans))
    assert lengths[-1] - lengths[0] <= unit


@pytest.mark.parametrize("name", ["cam", "refine", "refine of maps", "pseudo-label", "saliency", "cam as a stream"])
def test_merged_parts_are_the_whole(drs, voc, made, tmp_path, name):
    line, suffix = commands(voc, made)[name]
    whole, merged = tmp_path / f"whole{suffix}", tmp_path / f"merged{suffix}"
    assert drs(*line, "--no-provenance", "-o", whole).code == 0
    paths = [tmp_path / f"part{number}{suffix}" for number in (1, 2, 3)]
    for number, path in enumerate(paths, start=1):
        outcome = drs(*line, "--no-provenance", "--shard", f"{number}/3", "-o", path)
        assert outcome.code == 0, outcome.err
        assert drs("info", path, "--json").json()["part"] == f"{number}/3"
    # In whatever order the shell lists them.
    outcome = drs("cat", paths[2], paths[0], paths[1], "--no-provenance", "-o", merged)
    assert outcome.code == 0, outcome.err
    assert files_of(merged) == files_of(whole)


def test_label_images_and_scores_come_in_parts_too(drs, voc, made, tmp_path):
    line = ("segment", "--data", voc, "--split", "val", "--weights", made.seg, "--no-provenance")
    assert drs(*line, "-o", tmp_path / "labels", "--scores", tmp_path / "scores.h5").code == 0
    for part in ("1", "2"):
        more = ("--shard", f"{part}/2", "-o", tmp_path / f"l{part}", "--scores", tmp_path / f"s{part}.h5")
        assert drs(*line, *more).code == 0
    for whole, names in (("labels", ("l1", "l2")), ("scores.h5", ("s1.h5", "s2.h5"))):
        merged = tmp_path / f"merged-{whole}"
        assert drs("cat", *(tmp_path / name for name in names), "--no-provenance", "-o", merged).code == 0
        assert files_of(merged) == files_of(tmp_path / whole)


def test_batches_are_not_parted(drs, voc, made, tmp_path):
    """Four images in batches of three: a float sum may depend on the batch, a part must not."""
    line = ("cam", "--data", voc, "--split", "train", "--weights", made.cls, "--sizes", "32", "--batch-size", "3")
    for part, ids in (("1", ["p0", "p1", "p2"]), ("2", ["p3"])):
        assert drs(*line, "--shard", f"{part}/2", "-o", tmp_path / f"{part}.h5").code == 0
        assert list(read(tmp_path / f"{part}.h5")) == ids


def test_more_parts_than_images(drs, made, tmp_path):
    paths = [tmp_path / str(number) for number in range(1, 7)]
    for number, path in enumerate(paths, start=1):
        line = ("pseudo-label", made.cams, "--background", "constant", "--shard", f"{number}/6", "-o", path)
        assert drs(*line).code == 0
    assert drs("cat", *paths, "-o", tmp_path / "all").code == 0
    assert list(read(tmp_path / "all")) == ["p0", "p1", "p2", "p3"]


def test_labels_of_a_part_are_a_part(drs, voc, made, parts, tmp_path):
    """What is made of a part, image by image, merges like it."""
    for number, path in enumerate(parts, start=1):
        line = ("pseudo-label", path, "--saliency", voc / "saliency_map", "--no-provenance")
        assert drs(*line, "-o", tmp_path / f"labels{number}").code == 0
    merged = tmp_path / "labels"
    assert drs("cat", *(tmp_path / f"labels{n}" for n in (3, 1, 2)), "-o", merged, "--no-provenance").code == 0
    assert drs("cat", *parts, "-o", tmp_path / "cams.h5").code == 0
    line = ("pseudo-label", tmp_path / "cams.h5", "--saliency", voc / "saliency_map", "--no-provenance")
    assert drs(*line, "-o", tmp_path / "whole").code == 0
    assert files_of(merged) == files_of(tmp_path / "whole")


def test_history_of_merged_parts(drs, parts, tmp_path):
    assert drs("cat", *parts, "-o", tmp_path / "cams.h5").code == 0
    told = drs("info", tmp_path / "cams.h5", "--json").json()
    commands = [step["command"].split()[1] for step in told["provenance"]]
    assert commands == ["train-cls", "cam", "cam", "cam", "cat"]
    assert "part" not in told


def test_merging_on_pipes(program, parts, tmp_path):
    done = program.shell(f"""
        drstool cat '{parts[1]}' '{parts[2]}' '{parts[0]}' -q | drstool cat --no-provenance -q -o piped.h5 &&
        drstool cat '{parts[0]}' '{parts[1]}' '{parts[2]}' --no-provenance > redirected.h5 &&
        printf 'p2\\n{{"id": "p0"}}\\n' |
        drstool cat piped.h5 --ids - -q -o some.h5
        """, tmp_path)
    assert done.returncode == 0, done.stderr
    assert list(read(tmp_path / "piped.h5")) == ["p0", "p1", "p2", "p3"]
    assert list(read(tmp_path / "redirected.h5")) == ["p0", "p1", "p2", "p3"]
    assert list(read(tmp_path / "some.h5")) == ["p0", "p2"]


@pytest.fixture(scope="module")
def bad_parts(parts, tmp_path_factory):
    """Parts that cannot be merged, and what is to be said of them."""
    tmp = tmp_path_factory.mktemp("bad")
    ids = ids_digest(["p0", "p1"])
    one = write_maps(tmp / "one.h5", ["p0"], part=Shard(1, 2, ids))
    return {
        "missing": (parts[:2], ["1 of 3", "3/3", "--incomplete"]),
        "twice": ([parts[0], parts[1], parts[1]], ["cams.2.h5", "2/3", "each shard once"]),
        "of another count": ([parts[0], one], ["one.h5", "1/2", "1/3"]),
        "of another list": (
            [one, write_maps(tmp / "other.h5", ["q1"], part=Shard(2, 2, ids_digest(["q0", "q1"])))],
            ["other.h5", "another list"]),
        "whole among parts": ([*parts, write_maps(tmp / "whole.h5", ["x"])], ["whole.h5", "not a shard"]),
        "with the same image": (
            [one, write_maps(tmp / "two.h5", ["p0"], part=Shard(2, 2, ids))], ["two.h5", "'p0'", "one.h5"]),
    }


@pytest.mark.parametrize("name", ["missing", "twice", "of another count", "of another list", "whole among parts",
                                  "with the same image"])
def test_parts_that_make_no_whole(drs, bad_parts, tmp_path, name):
    inputs, words = bad_parts[name]
    outcome = drs("cat", *inputs, "-o", tmp_path / "result.h5")
    assert outcome.code == 3
    (line,) = outcome.err.splitlines()
    assert [word for word in words if word not in line] == []
    assert not (tmp_path / "result.h5").exists()


def test_parts_made_in_different_ways_without_history(drs, voc, made, tmp_path):
    line, _ = commands(voc, made)["cam"]
    for number, more in ((1, ()), (2, ()), (3, ("--sizes", "40"))):
        words = (*line, *more, "--shard", f"{number}/3", "--no-provenance", "-o", tmp_path / f"{number}.h5")
        assert drs(*words).code == 0
    outcome = drs("cat", *(tmp_path / f"{number}.h5" for number in (1, 2, 3)), "-o", tmp_path / "result.h5")
    assert outcome.code == 3 and not (tmp_path / "result.h5").exists()
    first, last = tmp_path / "1.h5", tmp_path / "3.h5"
    assert outcome.err.splitlines() == [
        f"drstool: {last}: was made with other settings or inputs than {first}; make all shards in the same way"]


def test_parts_made_in_different_ways(drs, voc, made, parts, tmp_path):
    line, _ = commands(voc, made)["cam"]
    assert drs(*line, "--flip", "--shard", "2/3", "-o", tmp_path / "flipped.h5").code == 0
    outcome = drs("cat", parts[0], tmp_path / "flipped.h5", parts[2], "-o", tmp_path / "result.h5")
    assert outcome.code == 3
    assert "flipped.h5: was made with other settings" in outcome.err


def test_incomplete_parts_on_request(drs, parts, tmp_path):
    assert drs("cat", parts[2], parts[0], "--incomplete", "-o", tmp_path / "some.h5").code == 0
    assert list(read(tmp_path / "some.h5")) == [*read(parts[0]), *read(parts[2])]


SHARDS = {
    "above": ("4/3", ["4", "1/3 to 3/3"]), "zero": ("0/3", ["1/3"]), "of none": ("1/0", ["1 to"]),
    "words": ("first", ["2/4"]), "one number": ("2", ["2/4"]), "negative": ("-1/3", ["2/4"]),
    "huge": (f"1/{'9' * 30}", ["2/4"]), "many": ("1/9999999", ["1 to"]),
}


@pytest.mark.parametrize("name", SHARDS)
def test_shard_out_of_range(drs, voc, made, tmp_path, name):
    shard, words = SHARDS[name]
    line, _ = commands(voc, made)["saliency"]
    outcome = drs(*line, "--shard", shard, "-o", tmp_path / "result")
    assert outcome.code == 2
    (line,) = outcome.err.splitlines()
    assert [word for word in ["--shard", *words] if word not in line] == []


def test_shard_of_what_cannot_be_sharded(drs, voc, made, parts, tmp_path):
    more = ("--background", "constant", "--shard", "1/2", "-o", tmp_path / "result")
    outcome = drs("pseudo-label", parts[0], *more)
    assert (outcome.code, "is shard 1/3 already" in outcome.err) == (2, True)
    assert drs("cat", made.cams, "-o", tmp_path / "cams.tar").code == 0
    outcome = drs("pseudo-label", tmp_path / "cams.tar", *more)
    assert (outcome.code, "drstool cat -o FILE" in outcome.err) == (2, True)


# --- torchrun ----------------------------------------------------------------------------------


def test_ranks_write_parts(drs, voc, made, tmp_path, monkeypatch):
    line, _ = commands(voc, made)["cam"]
    labels, _ = commands(voc, made)["pseudo-label"]
    for rank in (0, 1):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("LOCAL_RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", "2")
        assert drs(*line, "--no-provenance", "-o", tmp_path / "cams.h5").code == 0
        assert drs(*labels, "-o", tmp_path / "labels.v2").code == 0
        outcome = drs(*line)
        assert (outcome.code, "-o NAME" in outcome.err) == (2, True)
    monkeypatch.delenv("RANK")
    names = {"cams.1-of-2.h5", "cams.2-of-2.h5", "labels.v2.1-of-2", "labels.v2.2-of-2"}
    assert {path.name for path in tmp_path.iterdir()} == names
    assert drs(*line, "--no-provenance", "-o", tmp_path / "whole.h5").code == 0
    merged = drs("cat", *sorted(tmp_path.glob("cams.*")), "--no-provenance", "-o", tmp_path / "merged.h5")
    assert merged.code == 0
    assert files_of(tmp_path / "merged.h5") == files_of(tmp_path / "whole.h5")


def test_shard_wins_over_ranks(drs, voc, made, tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    line, _ = commands(voc, made)["cam"]
    assert drs(*line, "--shard", "1/4", "-o", tmp_path / "cams.h5").code == 0
    assert list(read(tmp_path / "cams.h5")) == ["p0"]


@pytest.mark.parametrize("rank", ["2", "-1", "x"])
def test_ranks_out_of_range(drs, voc, made, tmp_path, monkeypatch, rank):
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", "2")
    line, _ = commands(voc, made)["saliency"]
    outcome = drs(*line, "-o", tmp_path / "result")
    assert (outcome.code, "RANK/WORLD_SIZE" in outcome.err) == (2, True)


# --- merging, converting, filtering --------------------------------------------------------------


def test_conversions_keep_everything(drs, made, tmp_path):
    for source in (made.cams, made.refined, made.labels, made.pred):
        folder = tmp_path / source.stem
        folder.mkdir()
        again = folder / source.name
        assert drs("cat", source, "-o", folder / "x.tar").code == 0
        assert drs("cat", folder / "x.tar", "--no-provenance", "-o", again).code == 0
        before, after = read(source), read(again)
        assert list(before) == list(after)
        for identifier, record in before.items():
            values = "values" if isinstance(record, MapRecord) else "labels"
            for name in {values, "labels", "image"}:
                assert np.array_equal(getattr(record, name), getattr(after[identifier], name))


def test_merging_in_the_order_named(drs, tmp_path):
    a, b = write_maps(tmp_path / "a.h5", ["x", "y"]), write_maps(tmp_path / "b.h5", ["v/w"], seed=1)
    assert drs("cat", b, a, "-o", tmp_path / "ba.h5").code == 0
    assert list(read(tmp_path / "ba.h5")) == ["v/w", "x", "y"]


def test_folder_of_somebody_else(drs, voc, tmp_path):
    folder = voc / "SegmentationClass"
    outcome = drs("cat", folder, "-o", tmp_path / "labels")
    assert (outcome.code, "--classes" in outcome.err) == (3, True)
    assert drs("cat", folder, "--classes", voc / "classes.txt", "-o", tmp_path / "labels").code == 0
    with open_records(tmp_path / "labels") as source:
        assert source.header.class_names == CLASSES
        assert len(source.ids()) == 6


def test_classes_kept(drs, made, tmp_path):
    assert drs("cat", made.cams, "--only", "disc", "-o", tmp_path / "disc.h5").code == 0
    before, after = read(made.cams), read(tmp_path / "disc.h5")
    assert list(after) == [i for i, record in before.items() if 2 in record.labels] != list(before)
    for identifier, record in after.items():
        assert record.labels == (2,)
        assert np.array_equal(record.values[0], before[identifier].values[-1])


def bad_lines(made, tmp):
    a = write_maps(tmp / "a.h5", ["x", "y"])
    other = write_maps(tmp / "other.h5", ["z"], classes=("cat",))
    refined = write_maps(tmp / "refined.h5", ["z"], kind="refined-maps")
    ids = tmp / "ids.txt"
    ids.write_text("x\nq\n")
    return {
        "other classes": (3, (a, other), ["other.h5", "classes", "a.h5"]),
        "other kind": (3, (a, refined), ["refined.h5", "refined-maps", "localization-maps"]),
        "labels and maps": (3, (a, made.labels), ["labels", "localization-maps"]),
        "the same twice": (3, (a, a), ["a.h5", "'x'"]),
        "no such file": (3, (a, tmp / "gone.h5"), ["gone.h5"]),
        "ids that are not there": (3, (a, "--ids", ids), ["'q'"]),
        "no such class": (2, (a, "--only", "cat"), ["--only", "'cat'", "bar, disc"]),
        "classes of labels": (2, (made.labels, "--only", "bar"), ["--only"]),
        "stdin twice": (2, ("-", "-"), ["once"]),
        "stdin and ids": (2, ("--ids", "-"), ["once"]),
        "factors alone": (2, (a, "--factors", "1"), ["--fuse"]),
        "factors of max": (2, (a, a, "--fuse", "max", "--factors", "1,2"), ["--factors", "mean"]),
        "too few factors": (2, (a, a, "--fuse", "mean", "--factors", "1"), ["has 1 values for 2"]),
        "factors of words": (2, (a, a, "--fuse", "mean", "--factors", "much"), ["--factors", "much"]),
        "fusion": (2, (a, a, "--fuse", "median"), ["--fuse", "median"]),
        "fusing labels": (3, (made.labels, made.labels, "--fuse", "max"), ["only maps"]),
        "fusing other images": (3, (a, refined, "--fuse", "max"), ["lacks 'x'"]),
        "fusing incomplete parts": (2, (a, "--fuse", "max", "--incomplete"), ["--incomplete"]),
    }


@pytest.mark.parametrize("name", [
    "other classes", "other kind", "labels and maps", "the same twice", "no such file", "ids that are not there",
    "no such class", "classes of labels", "stdin twice", "stdin and ids", "factors alone", "factors of max",
    "too few factors", "factors of words", "fusion", "fusing labels", "fusing other images", "fusing incomplete parts"])
def test_what_cannot_be_merged(drs, made, tmp_path, name):
    code, arguments, words = bad_lines(made, tmp_path)[name]
    outcome = drs("cat", *arguments, "-o", tmp_path / "result")
    assert outcome.code == code, outcome.err
    (line,) = outcome.err.splitlines()
    assert [word for word in words if word not in line] == []
    assert not (tmp_path / "result").exists()


def test_damaged_part_in_a_header(tmp_path):
    path = write_maps(tmp_path / "a.h5", ["x"], part=Shard(1, 2, "sha256:0"))
    for told in ("{}", '{"number": 3, "of": 2, "ids": ""}', '{"number": true, "of": 2, "ids": ""}', "[]", "no"):
        with h5py.File(path, "r+") as file:
            file.attrs["part"] = told
        with pytest.raises(InputError):
            open_records(path)


# --- fusing ------------------------------------------------------------------------------------


def test_fused_maps(drs, tmp_path):
    a = write_maps(tmp_path / "a.h5", ["x", "y"], labels=(1,))
    b = write_maps(tmp_path / "b.h5", ["y", "x"], labels=(1, 2), seed=1, kind="refined-maps")
    for how, more in (("max", ()), ("mean", ("--factors", "2,1"))):
        out = tmp_path / f"{how}.h5"
        assert drs("cat", a, b, "--fuse", how, *more, "-o", out).code == 0
        left, right, fused = read(a), read(b), read(out)
        assert list(fused) == ["x", "y"]
        for identifier, record in fused.items():
            one, two = (r[identifier].values.astype(float) for r in (left, right))
            one = np.concatenate([one, np.zeros_like(one)])
            expected = np.maximum(one, two) if how == "max" else (2 * one + two) / 3
            assert record.labels == (1, 2)
            assert record.values.dtype == np.uint8
            assert np.abs(record.values - expected).max() <= (0 if how == "max" else 0.5 + 1e-4)


def test_fusing_float16_keeps_values_above_one():
    def source(values):
        class Source:
            where, is_maps = "maps", True

            def ids(self):
                return ("x",)

            def records(self):
                return iter([self.read("x")])

            def read(self, identifier):
                return MapRecord(identifier, np.full((1, 2, 2), *values), (1,), (2, 2))

        return Source()

    (record,) = fuse([source((1.5, np.float16)), source((255, np.uint8))], "mean")
    assert record.values.dtype == np.float16
    assert record.values[0, 0, 0] == 1.25
    with pytest.raises(UsageError):
        fuse([source((1, np.uint8))], "mean", (1, 2))


def test_fusing_checks_sizes(drs, tmp_path):
    a = write_maps(tmp_path / "a.h5", ["x"])
    b = write_maps(tmp_path / "b.h5", ["x"], size=(5, 4))
    outcome = drs("cat", a, b, "--fuse", "max", "-o", tmp_path / "result.h5")
    assert (outcome.code, "4 × 5" in outcome.err, "5 × 4" in outcome.err) == (3, True, True)


@pytest.mark.parametrize("ids, word", [(["y", "x"], "'y'"), (["x"], "nothing more"), (["x", "y", "z"], "'z'")])
def test_fusing_streams_needs_one_order(drs, tmp_path, ids, word):
    a = write_maps(tmp_path / "a.h5", ["x", "y"])
    stream = write_maps(tmp_path / "b.tar", ids)
    outcome = drs("cat", a, stream, "--fuse", "max", "-o", tmp_path / "result.h5")
    assert (outcome.code, word in outcome.err) == (3, True), outcome.err
    assert not (tmp_path / "result.h5").exists()


def test_fusing_streams(drs, tmp_path):
    a = write_maps(tmp_path / "a.h5", ["x", "y"])
    b = write_maps(tmp_path / "b.tar", ["x", "y"], seed=1)
    c = write_maps(tmp_path / "c.h5", ["x", "y"], seed=1)
    for other, out in ((b, "ab.h5"), (c, "ac.h5")):
        assert drs("cat", a, other, "--fuse", "mean", "--no-provenance", "-o", tmp_path / out).code == 0
    assert files_of(tmp_path / "ab.h5") == files_of(tmp_path / "ac.h5")


def test_fused_parts_stay_parts(drs, tmp_path):
    part = Shard(2, 3, ids_digest(["w", "x", "y"]))
    a, b = (write_maps(tmp_path / f"{s}.h5", ["x"], part=part, seed=s) for s in (0, 1))
    assert drs("cat", a, b, "--fuse", "max", "-o", tmp_path / "fused.h5").code == 0
    assert drs("info", tmp_path / "fused.h5", "--json").json()["part"] == "2/3"


# --- examples ----------------------------------------------------------------------------------


def test_label_folders_in_parts_are_marked(tmp_path):
    part = Shard(1, 2, ids_digest(["a", "b"]))
    with open_sink(str(tmp_path / "labels"), Header("labels", CLASSES, (), part)) as sink:
        sink.write(LabelRecord("a", np.zeros((2, 2), np.uint8)))
    assert json.loads((tmp_path / "labels" / "drstool.json").read_text())["part"] == part.to_json()
    with open_records(tmp_path / "labels") as source:
        assert source.header.shard == part


def test_slurm_example(drs, program, voc, made, tmp_path, monkeypatch):
    """The script as two tasks of an array and the merge after them; Slurm itself is only variables."""
    script = Path(__file__).parents[1] / "examples" / "slurm.sh"
    assert subprocess.run(["bash", "-n", script]).returncode == 0
    # In place of the program one that writes down how it is called.
    (tmp_path / "drstool").write_text("#!/bin/sh\nprintf '%s\\n' \"$@\" END >> calls\n")
    (tmp_path / "drstool").chmod(0o755)
    monkeypatch.chdir(tmp_path)
    environment = {
        "PATH": f"{tmp_path}:{program.environment['PATH']}", "DATA": str(voc), "WEIGHTS": str(made.cls),
        "SLURM_ARRAY_TASK_COUNT": "2"}
    for task, arguments in (("1", ()), ("2", ()), ("", ("merge", "2"))):
        subprocess.run(["bash", script, *arguments], env=environment | {"SLURM_ARRAY_TASK_ID": task}, check=True)
    calls = (tmp_path / "calls").read_text().removesuffix("END\n").split("END\n")
    assert len(calls) == 6
    for call in calls:
        outcome = drs(*call.splitlines())
        assert outcome.code == 0, outcome.err
    assert list(read(tmp_path / "cams.h5")) == list(read(tmp_path / "labels")) == ["p0", "p1", "p2", "p3"]


# --- many files ----------------------------------------------------------------------------------


@pytest.fixture
def many(tmp_path):
    paths = [tmp_path / f"{number}.h5" for number in range(24)]
    for number, path in enumerate(paths):
        with open_sink(str(path), Header("localization-maps", ("a",))) as sink:
            sink.write(MapRecord(f"i{number:02}", np.full((1, 4, 4), number, np.uint8), (1,), (8, 8), "i.jpg"))
    return paths


def test_more_files_than_may_be_open(drs, many, tmp_path):
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    line = ("cat", *many, "-o", tmp_path / "all.h5", "-q")
    # What is imported needs handles too.
    assert drs(*line).code == 0
    lowest = os.dup(0)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + 12, before[1]))
    try:
        merged, fused = drs(*line, "--overwrite"), drs(*line, "--overwrite", "--fuse", "max")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert merged.code == 0, merged.err
    with open_records(str(tmp_path / "all.h5")) as source:
        assert [record.values.max() for record in source.records()] == list(range(24))
    # Fusing needs all of them at once.
    assert fused.code == 3 and fused.err.endswith("Too many open files; raise the limit of open files (ulimit -n)\n")


def test_file_that_is_replaced_before_its_turn(many):
    sources = [open_records(str(path)) for path in many[:2]]
    for source in sources:
        source.close()
    os.replace(many[5], many[1])
    with pytest.raises(InputError, match=r"1\.h5: was replaced while it was being read"):
        list(cat(sources))
