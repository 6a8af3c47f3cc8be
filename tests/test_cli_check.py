"""``drstool check``: whole from cut, changed, unfinished and foreign, for every kind of artifact."""

import io
import json
import shutil
import zipfile

import h5py
import numpy as np
import pytest
from PIL import Image

from drstool.formats import Header, LabelRecord, MapRecord, open_records, open_sink
from drstool.stages.check import check

WRONG = 3
ARTEFACTS = ("cls", "cams", "refiner", "refined", "labels", "seg", "pred", "figures")


def states(outcome):
    return [(json.loads(line)["state"], json.loads(line)["kind"]) for line in outcome.out.splitlines()]


@pytest.fixture(scope="module")
def demo(drs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo") / "demo"
    assert drs("demo", folder, "--train", "2", "--val", "1", "--size", "48").code == 0
    return folder


@pytest.fixture
def own_demo(demo, tmp_path):
    return shutil.copytree(demo, tmp_path / "demo")


@pytest.fixture(scope="module")
def stream(drs, made, tmp_path_factory):
    path = tmp_path_factory.mktemp("stream") / "labels.tar"
    assert drs("pseudo-label", made.cams, "--background", "power", "-o", path).code == 0
    return path


def test_what_is_whole(drs, made, demo, stream):
    paths = [*(getattr(made, name) for name in ARTEFACTS), demo, demo / "saliency_map", stream]
    outcome = drs("check", *paths, "--json")
    assert outcome.code == 0
    kinds = ["classifier", "localization-maps", "refiner", "refined-maps", "labels", "segmenter", "labels", "figures",
             "dataset", "saliency", "labels"]
    assert states(outcome) == [("whole", kind) for kind in kinds]
    quiet = drs("check", *paths[1:2], "-q")
    assert (quiet.code, quiet.out, quiet.err) == (0, "", "")
    assert drs("check", made.cams).err.startswith("check: no problems found in ")


def test_counts(drs, made, demo, stream):
    counts = [json.loads(line)["count"] for line in
              drs("check", made.cams, made.labels, made.figures, demo, stream, "--json").out.splitlines()]
    assert counts == [4, 4, 8, 3, 4]


@pytest.mark.parametrize("name", ["cams", "cls", "stream"])
def test_stdin(drs, made, stream, name):
    path = stream if name == "stream" else getattr(made, name)
    assert drs("check", stdin=path.read_bytes()).code == 0
    outcome = drs("check", "-", "--json", stdin=path.read_bytes()[:-700])
    assert (outcome.code, json.loads(outcome.out)["input"]) == (WRONG, "stdin")


def test_each_problem_is_a_line_on_stdout_and_quiet_says_nothing(drs, made, tmp_path):
    folder = shutil.copytree(made.labels, tmp_path / "labels")
    (folder / "p0.png").write_bytes(b"")
    (folder / "p2.png").write_bytes((folder / "p2.png").read_bytes()[:-20])
    outcome = drs("check", made.cams, folder)
    assert (outcome.code, outcome.err) == (WRONG, "")
    first, second = outcome.out.splitlines()
    assert first.startswith(f"{folder}: p0: is empty") and second.startswith(f"{folder}: p2: is a damaged PNG")
    quiet = drs("check", made.cams, folder, "-q")
    assert (quiet.code, quiet.out, quiet.err) == (WRONG, "", "")
    told = json.loads(drs("check", folder, "--json", "-q").out)
    assert [problem["where"] for problem in told["problems"]] == [f"{folder}: p0", f"{folder}: p2"]


def test_goes_on_after_a_bad_input(drs, made, tmp_path):
    outcome = drs("check", tmp_path / "gone", made.cams, tmp_path / "also gone", "--json")
    assert outcome.code == WRONG
    assert [state for state, _ in states(outcome)] == ["missing", "whole", "missing"]


# --- every kind, broken in every way -----------------------------------------------------------


def changed(path, place, to=None):
    data = bytearray(path.read_bytes())
    data[place] = data[place] ^ 1 if to is None else to
    path.write_bytes(data)


def rewrite(path, change):
    with h5py.File(path, "r+") as file:
        change(file)


def drop_ids(file):
    del file["maps/p1"]


def add_unlisted(file):
    file["maps/extra"] = np.zeros((1, 4, 4), np.uint8)


def deny(file):
    file.attrs["complete"] = False


def miscount(file):
    file.attrs["count"] = 5


def other_class(file):
    file.attrs["class_names"] = ["bar", "disk"]


def bad_label(file):
    file["maps/p0"].attrs["labels"] = np.array([9], np.uint8)


MAPS = {
    "cut": ("damaged", lambda p: p.write_bytes(p.read_bytes()[:-100])),
    "appended": ("damaged", lambda p: p.write_bytes(p.read_bytes() + bytes(100))),
    "lost record": ("damaged", lambda p: rewrite(p, drop_ids)),
    "added record": ("damaged", lambda p: rewrite(p, add_unlisted)),
    "incomplete": ("unfinished", lambda p: rewrite(p, deny)),
    "count": ("damaged", lambda p: rewrite(p, miscount)),
    "class name": ("damaged", lambda p: rewrite(p, other_class)),
    "label": ("damaged", lambda p: rewrite(p, bad_label)),
    "empty": ("damaged", lambda p: p.write_bytes(b"")),
    "text": ("foreign", lambda p: p.write_bytes(b"once upon a time" * 100)),
    "foreign HDF5": ("foreign", lambda p: h5py.File(p, "w").close()),
}


@pytest.mark.parametrize("name", MAPS)
def test_broken_maps(made, tmp_path, name):
    state, harm = MAPS[name]
    path = tmp_path / "maps.h5"
    shutil.copy(made.cams, path)
    harm(path)
    report = check(str(path))
    assert report.state == state, report.problems
    assert all(str(path) in str(problem) for problem in report.problems)


def records_of(path):
    with open_records(path) as source:
        return source.header, [(r.id, r.labels, r.image_size, r.image, r.values.tobytes()) for r in source.records()]


def test_no_flipped_bit_of_a_map_file_goes_unseen(tmp_path):
    """Everything that can be read is covered by some checksum; what is not read does not matter."""
    path = tmp_path / "maps.h5"
    random = np.random.default_rng(0)
    header = Header("localization-maps", ("bar", "disc"), ({"command": "x"},))
    with open_sink(str(path), header) as sink:
        for identifier in ("a", "b/c"):
            values = random.integers(0, 255, (2, 5, 6)).astype(np.uint8)
            sink.write(MapRecord(identifier, values, (1, 2), (50, 60), f"images/{identifier}.jpg"))
    whole, data = records_of(path), path.read_bytes()
    seen = 0
    for place in range(0, len(data), 29):
        flipped = bytearray(data)
        flipped[place] ^= 1 << place % 8
        path.write_bytes(flipped)
        if check(str(path)).problems:
            seen += 1
        else:
            assert records_of(path) == whole, place
    assert seen > len(data) / 29 / 4


def test_no_flipped_bit_of_a_stream_goes_unseen(tmp_path):
    header = Header("labels", ("bar", "disc"), ({"command": "x"},))
    path = tmp_path / "labels.tar"
    with open_sink(str(path), header) as sink:
        sink.write(LabelRecord("a", np.arange(3, dtype=np.uint8).reshape(1, 3), "a.jpg"))
    data = path.read_bytes()

    def told(content):
        with open_records(None, io.BytesIO(content)) as source:
            return source.header, [(r.id, r.labels.tobytes(), r.image) for r in source.records()]

    whole = told(data)
    for place in range(0, len(data), 7):
        flipped = bytearray(data)
        flipped[place] ^= 1 << place % 8
        if not check(None, stdin=io.BufferedReader(io.BytesIO(bytes(flipped)))).problems:
            assert told(bytes(flipped)) == whole, place


def end(folder, text):
    (folder / "drstool.end.json").write_text(text)


LABELS = {
    "lost": ("damaged", lambda f: (f / "p0.png").unlink()),
    "added": ("damaged", lambda f: shutil.copy(f / "p0.png", f / "p9.png")),
    "unfinished": ("unfinished", lambda f: (f / "drstool.end.json").unlink()),
    "no header": ("foreign", lambda f: (f / "drstool.json").unlink()),
    "changed header": ("damaged", lambda f: (f / "drstool.json").write_text(
        (f / "drstool.json").read_text().replace('"disc"', '"disk"'))),
    "flipped bit": ("damaged", lambda f: changed(f / "p0.png", -30)),
    "value of no class": ("damaged", lambda f: Image.fromarray(np.full((9, 9), 9, np.uint8)).save(f / "p0.png")),
    "in colours": ("damaged", lambda f: Image.new("RGB", (9, 9)).save(f / "p0.png")),
    "end of another count": ("damaged", lambda f: end(f, '{"count": 9, "complete": true}')),
    "end of no JSON": ("damaged", lambda f: end(f, "{")),
}


@pytest.mark.parametrize("name", LABELS)
def test_broken_labels(made, tmp_path, name):
    state, harm = LABELS[name]
    folder = shutil.copytree(made.labels, tmp_path / "labels")
    harm(folder)
    assert check(str(folder)).state == state


FIGURES = {
    "lost": lambda f: next(f.glob("*.png")).unlink(),
    "cut": lambda f: (f / "p4_image.png").write_bytes((f / "p4_image.png").read_bytes()[:200]),
    "empty": lambda f: (f / "p4_overlay.png").write_bytes(b""),
    "flipped bit": lambda f: changed(f / "p4_pred.png", -30),
}


@pytest.mark.parametrize("name", FIGURES)
def test_broken_figures(made, tmp_path, name):
    folder = shutil.copytree(made.figures, tmp_path / "figures")
    FIGURES[name](folder)
    assert check(str(folder)).state == "damaged"
    (folder / "drstool.end.json").unlink()
    assert "unfinished" in {check(str(folder)).state, *(type(p).__name__.removesuffix("Error").lower()
                                                        for p in check(str(folder)).problems)}


DATASET = {
    "lost picture": lambda f: next((f / "JPEGImages").iterdir()).unlink(),
    "cut picture": lambda f: cut(next((f / "JPEGImages").iterdir())),
    "cut mask": lambda f: cut(next((f / "SegmentationClass").iterdir())),
    "mask of another size": lambda f: Image.new("L", (3, 3)).save(next((f / "SegmentationClass").iterdir())),
    "mask of no class": lambda f: Image.fromarray(np.full(
        np.array(Image.open(next((f / "SegmentationClass").iterdir()))).shape, 99, np.uint8)).save(
            next((f / "SegmentationClass").iterdir())),
    "lost saliency map": lambda f: next((f / "saliency_map").glob("*.png")).unlink(),
    "whole saliency maps of fewer images": lambda f: of_one_image(f / "saliency_map"),
    "shorter list": lambda f: (f / "ImageSets" / "Segmentation" / "trainval.txt").write_text("demo_000000\n"),
    "lost list": lambda f: (f / "ImageSets" / "Segmentation" / "trainval.txt").unlink(),
}


def of_one_image(folder):
    first, *others = sorted(folder.glob("*.png"))
    for other in others:
        other.unlink()
    end = json.loads((folder / "drstool.end.json").read_text())
    (folder / "drstool.end.json").write_text(json.dumps({**end, "count": 1}))


def cut(path):
    path.write_bytes(path.read_bytes()[:-40])


@pytest.mark.parametrize("name", DATASET)
def test_broken_dataset(own_demo, name):
    DATASET[name](own_demo)
    assert check(str(own_demo)).state == "damaged"


def test_unfinished_dataset(own_demo):
    (own_demo / "drstool.end.json").unlink()
    assert check(str(own_demo)).state == "unfinished"


def not_finite(path):
    import torch

    content = torch.load(path, weights_only=True)
    next(iter(content["weights"].values())).fill_(float("nan"))
    torch.save(content, path)


def other_shape(path):
    import torch

    content = torch.load(path, weights_only=True)
    name = next(iter(content["weights"]))
    content["weights"][name] = content["weights"][name][:1].clone()
    torch.save(content, path)


def zip_with(path, other):
    path.unlink()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.txt", other)


CHECKPOINTS = {
    "cut": ("damaged", lambda p: p.write_bytes(p.read_bytes()[:-100])),
    "flipped bit of a weight": ("damaged", lambda p: changed(p, len(p.read_bytes()) // 2)),
    "weight that is no number": ("damaged", not_finite),
    "weight of another shape": ("damaged", other_shape),
    "zip of something else": ("foreign", lambda p: zip_with(p, "x")),
}


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_broken_checkpoints(made, tmp_path, name):
    state, harm = CHECKPOINTS[name]
    path = tmp_path / "x.pt"
    shutil.copy(made.cls, path)
    harm(path)
    assert check(str(path)).state == state


def test_state_dict_of_others_is_foreign(tmp_path):
    import torch

    torch.save({"w": torch.zeros(2)}, tmp_path / "x.pt")
    assert check(str(tmp_path / "x.pt")).state == "foreign"


def test_what_a_stopped_command_left_is_unfinished(made, tmp_path):
    left = tmp_path / ".maps.h5.partial-0011aabb"
    shutil.copy(made.cams, left)
    assert check(str(left)).state == "unfinished"
    report = check(str(tmp_path / "maps.h5"))
    assert report.state == "unfinished" and left.name in str(report.problems[0])


def test_what_resume_goes_on_with_is_unfinished(tmp_path):
    (tmp_path / ".cls.pt.resume").write_bytes(b"x")
    assert check(str(tmp_path / ".cls.pt.resume")).state == "unfinished"
    report = check(str(tmp_path / "cls.pt"))
    assert report.state == "unfinished" and "--resume" in str(report.problems[0])


def test_single_picture(made, tmp_path):
    assert check(str(made.labels / "p0.png")).state == "whole"
    cut_short = tmp_path / "x.png"
    cut_short.write_bytes((made.labels / "p0.png").read_bytes()[:-20])
    assert check(str(cut_short)).state == "damaged"


def test_stream_goes_on_after_a_bad_record(made, tmp_path):
    """What is wrong with two records is told of both."""
    path = tmp_path / "labels.tar"
    header = Header("labels", ("bar", "disc"))
    with open_sink(str(path), header) as sink:
        for identifier in "abc":
            sink.write(LabelRecord(identifier, np.zeros((9, 9), np.uint8)))
    data = bytearray(path.read_bytes())
    for start in (data.index(b"\x89PNG"), data.rindex(b"\x89PNG")):
        data[start + 50] ^= 255
    path.write_bytes(data)
    told = [str(problem) for problem in check(str(path)).problems]
    assert [": a: " in told[0], ": c: " in told[1], len(told)] == [True, True, 2]


def test_workers_do_not_matter(made, tmp_path):
    folder = shutil.copytree(made.labels, tmp_path / "labels")
    for name in ("p0.png", "p3.png"):
        (folder / name).write_bytes(b"")
    told = [[str(problem) for problem in check(str(folder), workers=workers).problems] for workers in (1, 4)]
    assert told[0] == told[1] and len(told[0]) == 2


def test_a_folder_that_lacks_a_label_is_read_on(drs, made, tmp_path):
    labels = shutil.copytree(made.labels, tmp_path / "labels")
    (labels / "p0.png").unlink()
    (labels / "p1.png").write_bytes((labels / "p1.png").read_bytes()[:-20])
    outcome = drs("check", labels)
    first, second = outcome.out.splitlines()
    assert outcome.code == 3 and "holds 3 records where its end record says 4" in first and "p1" in second
    (labels / "drstool.end.json").unlink()
    report = drs("check", "--json", labels).json()
    assert report["state"] == "unfinished" and len(report["problems"]) == 2
