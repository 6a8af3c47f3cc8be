"""User errors: the exit code, one line on stderr, and nothing left behind."""

import contextlib
import io
import json
import os
import pickle
import resource
import shutil
import struct
import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

FAILED, USAGE, INPUT, SOME_FAILED = 1, 2, 3, 4
SMALL = ("--backbone", "vgg16-small", "--init", "none", "--epochs", "1", "--image-size", "32", "--device", "cpu")


class World:
    """Paths of the artifacts that tests use, and helpers to create more."""

    def __init__(self, voc, made, tmp):
        self.voc, self.made, self.tmp = voc, made, tmp
        self.train = ("--data", voc, "--split", "train")
        self.val = ("--data", voc, "--split", "val")
        self.saliency = ("--saliency", voc / "saliency_map")

    @property
    def out(self):
        """Path of the output; nothing may exist there in the end."""
        return self.tmp / "result"

    def file(self, name, content=b""):
        path = self.tmp / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    def copied(self, name):
        """A copy of an artifact."""
        source = getattr(self.made, name)
        copy = shutil.copytree if source.is_dir() else shutil.copy
        return Path(copy(source, self.tmp / source.name))

    def manifest(self, *rows):
        """A manifest with one image per row; ``image`` defaults to the first training image."""
        image = str(self.voc / "JPEGImages" / "p0.jpg")
        lines = (json.dumps({"image": image, "tags": ["bar"], **row}) for row in rows)
        return self.file("list.jsonl", "".join(line + "\n" for line in lines))

    def pictured(self, name, content):
        """A manifest of two images, the second of which is the given file."""
        return self.manifest({"id": "good"}, {"id": "bad", "image": str(self.file(name, content)), "tags": ["disc"]})

    def labels(self, array, mode="P", name="p4"):
        """A foreign folder of labels for the validation images, one of which is the given array."""
        folder = self.tmp / "foreign"
        shutil.copytree(self.voc / "SegmentationClass", folder)
        Image.fromarray(np.asarray(array, np.uint8)).convert(mode).save(folder / f"{name}.png")
        return folder


@pytest.fixture
def world(voc, made, tmp_path):
    return World(voc, made, tmp_path)


def check_failure(outcome, code, folder, *words):
    """Check what holds for every failure."""
    lines = outcome.err.splitlines()
    assert outcome.code == code, outcome.err
    assert len(lines) == 1, outcome.err
    assert lines[0].startswith("drstool: ")
    assert outcome.out == ""
    for word in words:
        assert word in lines[0]
    check_nothing_left(folder)


def check_nothing_left(folder):
    left = [path.name for path in folder.rglob("*") if "partial" in path.name or path.name == "result"]
    assert left == []


def jpeg(width=20, height=20):
    buffer = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 255, (height, width, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue()


def bomb_png():
    """A PNG of a few bytes that claims 30000 × 30000 pixels."""
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", 30000, 30000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


BAD_IMAGES = {
    "corrupt": b"\xff\xd8\xff\xe0 no JPEG at all",
    "truncated": jpeg()[:400],
    "empty": b"",
    "text": b"once upon a time",
    "bomb": bomb_png(),
}


def train_cls(w, *more):
    return ("train-cls", *SMALL, "-o", w.out, *more)


def cam(w, *more):
    return ("cam", "--weights", w.made.cls, "--sizes", "32", "-o", w.out, *more)


# --- the data ----------------------------------------------------------------------------------

DATA = {
    "no folder": (INPUT, lambda w: ("ids", "--data", w.tmp / "none"), ["none", "no such"]),
    "no split": (INPUT, lambda w: ("ids", "--data", w.voc, "--split", "nowhere"), ["nowhere", "train"]),
    "splits, none named": (USAGE, lambda w: ("ids", "--data", w.voc), ["--split", "train, val"]),
    "no such id": (
        INPUT, lambda w: ("ids", "--data", w.voc, "--split", w.file("list.txt", "p0\np99\n")), ["p99"]),
    "id twice": (
        INPUT, lambda w: ("ids", "--data", w.voc, "--split", w.file("list.txt", "p0\np1\np0\n")), ["p0", "twice"]),
    "id that leaves": (
        INPUT, lambda w: ("ids", "--data", w.voc, "--split", w.file("list.txt", "../p0\n")), ["../p0"]),
    "manifest id that leaves": (INPUT, lambda w: cam(w, "--data", w.manifest({"id": "../p0"})), ["../p0"]),
    "manifest id twice": (INPUT, lambda w: cam(w, "--data", w.manifest({"id": "a"}, {"id": "a"})), ["twice"]),
    "manifest without an image": (
        INPUT, lambda w: cam(w, "--data", w.manifest({"id": "a", "image": "gone.jpg"})), ["gone.jpg"]),
    "manifest of no JSON": (INPUT, lambda w: cam(w, "--data", w.file("x.jsonl", "{")), ["x.jsonl line 1"]),
    "empty manifest": (INPUT, lambda w: cam(w, "--data", w.file("x.jsonl")), ["no image"]),
    "unknown layout": (INPUT, lambda w: cam(w, "--data", w.file("x.txt", "p0\n")), ["x.txt"]),
    "tag file with no class, train-cls": (
        INPUT, lambda w: train_cls(w, *w.train, "--tags", w.file("tags.txt", "p0 unicorn\n")), ["unicorn"]),
    "tag file with no class, cam": (
        INPUT, lambda w: cam(w, *w.train, "--tags", w.file("tags.txt", "p0 unicorn\n")), ["unicorn"]),
    "tag file that is missing": (INPUT, lambda w: cam(w, *w.train, "--tags", w.tmp / "gone"), ["gone"]),
    "no tag, train-cls": (
        INPUT, lambda w: train_cls(w, "--data", w.manifest({"id": "a"}, {"id": "b", "tags": None})), ["'b'", "tag"]),
    "no tag, cam": (INPUT, lambda w: cam(w, "--data", w.manifest({"id": "a"}, {"id": "b", "tags": None})), ["'b'"]),
    "no class names": (
        INPUT, lambda w: train_cls(w, "--data", w.manifest({"id": "a", "tags": [0]})), ["--classes"]),
    "no tags at all": (INPUT, lambda w: train_cls(w, "--data", w.manifest({"id": "a", "tags": None})), ["--tags"]),
    "class names twice": (
        INPUT, lambda w: train_cls(w, *w.train, "--classes", w.file("names", "bar\nbar\n")), ["bar", "twice"]),
    "other classes than the checkpoint": (
        INPUT, lambda w: cam(w, "--data", w.manifest({"id": "a", "tags": ["cat"]})), ["cat"]),
    "no images in common, eval": (INPUT, lambda w: ("eval", w.made.pred, *w.train), ["none of the 2", "p0"]),
    "no masks, eval": (
        INPUT, lambda w: ("eval", w.made.pred, "--data", w.manifest({"id": "p4"})), []),
}


@pytest.mark.parametrize("name", DATA)
def test_data(drs, world, name):
    code, arguments, words = DATA[name]
    check_failure(drs(*arguments(world)), code, world.tmp, *words)


IMAGE_READERS = {
    "train-cls": lambda w, data: train_cls(w, "--data", data),
    "cam": lambda w, data: cam(w, "--data", data),
    "refine": lambda w, data: (
        "refine", "--weights", w.made.refiner, "--sizes", "32", "--data", data, "-o", w.out),
    "segment": lambda w, data: ("segment", "--weights", w.made.seg, "--data", data, "-o", w.out),
    "saliency": lambda w, data: ("saliency", "--data", data, "-o", w.out),
    "overlay": lambda w, data: ("overlay", "--data", data, "-o", w.out),
}


@pytest.mark.parametrize("kind", BAD_IMAGES)
def test_bad_image(drs, world, kind):
    data = world.pictured("bad.jpg", BAD_IMAGES[kind])
    check_failure(drs(*cam(world, "--data", data)), INPUT, world.tmp, "bad.jpg")


@pytest.mark.parametrize("command", IMAGE_READERS)
def test_bad_image_in_every_command(drs, world, command):
    data = world.pictured("bad.jpg", BAD_IMAGES["truncated"])
    check_failure(drs(*IMAGE_READERS[command](world, data), "-q"), INPUT, world.tmp, "bad.jpg")


@pytest.mark.parametrize("workers", [0, 1])
def test_bad_image_while_training(drs, world, workers):
    data = world.pictured("bad.jpg", BAD_IMAGES["truncated"])
    outcome = drs(*train_cls(world, "--data", data, "--workers", workers, "-q"))
    check_failure(outcome, INPUT, world.tmp, "bad.jpg")


@pytest.mark.parametrize("command", ["cam", "refine", "segment", "saliency", "overlay"])
def test_keep_going_leaves_bad_images_out(drs, world, command):
    data = world.pictured("bad.jpg", BAD_IMAGES["truncated"])
    outcome = drs(*IMAGE_READERS[command](world, data), "--keep-going", "-q")
    assert outcome.code == SOME_FAILED
    first, last = outcome.err.splitlines()
    assert "bad.jpg" in first
    assert "1 image failed" in last
    assert world.out.exists()


def odd_images(folder):
    """Write unusual but valid images; return their names."""
    rgb = Image.fromarray(np.random.default_rng(0).integers(0, 255, (30, 20, 3)).astype(np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    made = {
        "cmyk.jpg": lambda path: rgb.convert("CMYK").save(path),
        "deep.png": lambda path: Image.fromarray(np.full((30, 20), 40000, np.uint16)).save(path),
        "grey.png": lambda path: rgb.convert("L").save(path),
        "animated.gif": lambda path: rgb.save(path, save_all=True, append_images=[rgb.rotate(90)]),
        "turned.jpg": lambda path: rgb.save(path, exif=exif),
        "dot.png": lambda path: rgb.crop((0, 0, 1, 1)).save(path),
        "clear.png": lambda path: rgb.convert("RGBA").save(path),
    }
    for name, save in made.items():
        save(folder / name)
    return sorted(made)


def test_odd_images_work(drs, world):
    from drstool.formats import open_records

    names = odd_images(world.tmp)
    data = world.manifest(*({"id": name, "image": name} for name in names))
    assert drs(*cam(world, "--data", data)).code == 0
    with open_records(world.out) as maps:
        sizes = {record.id: record.image_size for record in maps.records()}
    assert sizes.pop("dot.png") == (1, 1)
    assert sizes.pop("turned.jpg") == (20, 30)
    assert set(sizes.values()) == {(30, 20)}
    assert drs("pseudo-label", world.out, "--background", "constant", "-o", world.tmp / "labels").code == 0
    for command in ("segment", "saliency", "overlay"):
        arguments = [world.tmp / command if a == world.out else a for a in IMAGE_READERS[command](world, data)]
        outcome = drs(*arguments)
        assert outcome.code == 0, outcome.err


# --- maps, checkpoints, label images -----------------------------------------------------------


def cut(source, target, share=0.6):
    data = source.read_bytes()
    target.write_bytes(data[: int(share * len(data))])
    return target


def foreign_hdf5(path):
    with h5py.File(path, "w") as file:
        file["x"] = np.arange(3)
    return path


BAD_MAPS = {
    "missing": lambda w: w.tmp / "gone.h5",
    "empty": lambda w: w.file("maps.h5"),
    "text": lambda w: w.file("maps.h5", b"once upon a time " * 100),
    "cut short": lambda w: cut(w.made.cams, w.tmp / "maps.h5"),
    "foreign": lambda w: foreign_hdf5(w.tmp / "maps.h5"),
    "checkpoint": lambda w: w.made.cls,
}
MAP_READERS = {
    "pseudo-label": lambda w, maps: ("pseudo-label", maps, *w.saliency, "-o", w.out),
    "refine": lambda w, maps: ("refine", maps, "--weights", w.made.refiner, "-o", w.out),
    "refine-train": lambda w, maps: ("refine-train", *w.train, *SMALL, "--maps", maps, "-o", w.out),
    "eval": lambda w, maps: ("eval", maps, *w.val, "--background", "constant"),
    "overlay": lambda w, maps: ("overlay", *w.train, "--maps", maps, "-o", w.out),
    "info": lambda w, maps: ("info", maps),
}


@pytest.mark.parametrize("command", MAP_READERS)
@pytest.mark.parametrize("kind", BAD_MAPS)
def test_bad_maps(drs, world, kind, command):
    if (kind, command) == ("checkpoint", "info"):
        pytest.skip("info reads checkpoints")
    maps = BAD_MAPS[kind](world)
    check_failure(drs(*MAP_READERS[command](world, maps)), INPUT, world.tmp, maps.name)


def test_label_images_where_maps_are_needed(drs, world):
    for command in ("pseudo-label", "refine"):
        check_failure(drs(*MAP_READERS[command](world, world.made.labels)), INPUT, world.tmp, "labels")


def test_maps_of_other_images(drs, world):
    arguments = ("refine-train", *world.val, *SMALL, "--maps", world.made.cams, "-o", world.out)
    check_failure(drs(*arguments), INPUT, world.tmp, "p4")


def test_maps_whose_images_moved(drs, world, own_voc):
    maps = world.tmp / "maps.h5"
    assert drs("cam", "--data", own_voc, "--split", "train", "--weights", world.made.cls, "-o", maps).code == 0
    (own_voc / "JPEGImages" / "p1.jpg").unlink()
    check_failure(drs(*MAP_READERS["refine"](world, maps)), INPUT, world.tmp, "p1.jpg")


class Code:
    """Runs a shell command when unpickled."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


BAD_CHECKPOINTS = {
    "missing": lambda w: w.tmp / "gone.pt",
    "empty": lambda w: w.file("x.pt"),
    "text": lambda w: w.file("x.pt", "once upon a time"),
    "cut short": lambda w: cut(w.made.cls, w.tmp / "x.pt"),
    "folder": lambda w: w.made.labels,
    "maps": lambda w: w.made.cams,
    "of another kind": lambda w: w.made.seg,
}
CHECKPOINT_READERS = {
    "cam": lambda w, weights: ("cam", *w.train, "--weights", weights, "-o", w.out),
    "refine": lambda w, weights: ("refine", *w.train, "--weights", weights, "-o", w.out),
    "import": lambda w, weights: ("import", weights, "-o", w.out),
    "--init": lambda w, weights: ("train-cls", *w.train, *SMALL, "--init", weights, "-o", w.out),
}


@pytest.mark.parametrize("command", CHECKPOINT_READERS)
@pytest.mark.parametrize("kind", BAD_CHECKPOINTS)
def test_bad_checkpoint(drs, world, kind, command):
    check_failure(drs(*CHECKPOINT_READERS[command](world, BAD_CHECKPOINTS[kind](world))), INPUT, world.tmp)


def test_refiner_where_a_classifier_is_needed(drs, world):
    outcome = drs(*CHECKPOINT_READERS["cam"](world, world.made.refiner))
    check_failure(outcome, INPUT, world.tmp, "holds a refiner", "train-cls")


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("command", [*CHECKPOINT_READERS, "info"])
def test_code_in_a_checkpoint_is_not_run(drs, world, command, zipped):
    import torch

    mark, path = world.tmp / "mark", world.tmp / "evil.pt"
    content = {"format": "drstool", "weights": Code(f"touch {mark}")}
    if zipped:
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content))
    arguments = ("info", path) if command == "info" else CHECKPOINT_READERS[command](world, path)
    check_failure(drs(*arguments), INPUT, world.tmp, "evil.pt")
    assert not mark.exists()


def test_checkpoint_of_other_classes(drs, world):
    data = world.manifest({"id": "a", "tags": ["cat"]})
    weights, maps = world.tmp / "cats.pt", world.tmp / "cats.h5"
    small = ("--backbone", "vgg16-small", "--init", "none", "--epochs", "0", "--image-size", "32")
    assert drs("train-cls", "--data", data, *small, "-o", weights).code == 0
    assert drs("cam", "--data", data, "--weights", weights, "-o", maps).code == 0
    check_failure(drs(*MAP_READERS["refine"](world, maps)), INPUT, world.tmp, "classes")
    check_failure(drs("eval", maps, *world.val, "--background", "constant"), INPUT, world.tmp, "classes")


BAD_LABELS = {
    "of another size": lambda w: w.labels(np.zeros((5, 7))),
    "in colours": lambda w: w.labels(np.zeros((52, 64, 3)), "RGB"),
    "of no class": lambda w: w.labels(np.full((52, 64), 9)),
}


@pytest.mark.parametrize("kind", BAD_LABELS)
def test_bad_label_images(drs, world, kind):
    folder = BAD_LABELS[kind](world)
    check_failure(drs("eval", folder, *world.val), INPUT, world.tmp, "p4")
    training = ("train-seg", *world.val, *SMALL, "--labels", folder, "-o", world.out, "-q")
    check_failure(drs(*training), INPUT, world.tmp, "p4.png")


def test_damaged_label_image(drs, world):
    folder = world.labels(np.zeros((52, 64)))
    (folder / "p4.png").write_bytes((folder / "p4.png").read_bytes()[:60])
    check_failure(drs("eval", folder, *world.val), INPUT, world.tmp, "p4")


def test_missing_label_image(drs, world):
    folder = world.labels(np.zeros((52, 64)))
    (folder / "p4.png").unlink()
    training = ("train-seg", *world.val, *SMALL, "--labels", folder, "-o", world.out)
    check_failure(drs(*training), INPUT, world.tmp, "p4")


def test_folder_of_labels_that_is_not_whole(drs, world):
    folder = world.tmp / "labels"
    shutil.copytree(world.made.pred, folder)
    (folder / "p4.png").unlink()
    check_failure(drs("eval", folder, *world.val), INPUT, world.tmp, "1 records", "2")


def test_saliency_of_one_image_missing(drs, world, own_voc):
    (own_voc / "saliency_map" / "p2.png").unlink()
    arguments = ("pseudo-label", world.made.cams, "--saliency", own_voc / "saliency_map", "-o", world.out)
    check_failure(drs(*arguments), INPUT, world.tmp, "p2")
    outcome = drs(*arguments, "--keep-going")
    assert outcome.code == SOME_FAILED
    assert sorted(path.stem for path in world.out.glob("p*.png")) == ["p0", "p1", "p3"]


def test_saliency_of_another_size(drs, world, own_voc):
    Image.new("L", (5, 5)).save(own_voc / "saliency_map" / "p2.png")
    arguments = ("pseudo-label", world.made.cams, "--saliency", own_voc / "saliency_map", "-o", world.out)
    check_failure(drs(*arguments), INPUT, world.tmp, "p2")


def test_maps_that_do_not_name_their_images(drs, world):
    from drstool.formats import Header, MapRecord, open_sink

    maps = world.tmp / "maps.h5"
    with open_sink(str(maps), Header("localization-maps", ("bar", "disc"))) as sink:
        sink.write(MapRecord("p0", np.zeros((1, 4, 4), np.uint8), (1,), (48, 64)))
    check_failure(drs(*MAP_READERS["refine"](world, maps)), INPUT, world.tmp, "'p0'", "--data")


def test_stdin_that_is_no_stream(drs, world):
    for content in (b"", b"once upon a time", bytes(2000), world.made.cams.read_bytes()[:1000]):
        outcome = drs("pseudo-label", *world.saliency, "-o", world.out, stdin=content)
        check_failure(outcome, INPUT, world.tmp, "stdin")


# --- outputs -----------------------------------------------------------------------------------

WRITERS = {
    "train-cls": lambda w, out: ("train-cls", *w.train, *SMALL, "-o", out),
    "cam": lambda w, out: ("cam", *w.train, "--weights", w.made.cls, "--sizes", "32", "-o", out),
    "refine-train": lambda w, out: ("refine-train", *w.train, *SMALL, "--maps", w.made.cams, "-o", out),
    "refine": lambda w, out: ("refine", w.made.cams, "--weights", w.made.refiner, "--sizes", "32", "-o", out),
    "pseudo-label": lambda w, out: ("pseudo-label", w.made.cams, *w.saliency, "-o", out),
    "train-seg": lambda w, out: ("train-seg", *w.train, *SMALL, "--labels", w.made.labels, "-o", out),
    "segment": lambda w, out: ("segment", *w.val, "--weights", w.made.seg, "-o", out),
    "overlay": lambda w, out: ("overlay", *w.val, "--labels", w.made.pred, "-o", out),
    "saliency": lambda w, out: ("saliency", *w.val, "-o", out),
    "demo": lambda w, out: ("demo", out, "--train", "2", "--val", "1", "--size", "48"),
    "import": lambda w, out: ("import", w.made.cls, "-o", out),
}
FOLDERS = ("pseudo-label", "segment", "overlay", "saliency", "demo")


def occupied(world, command):
    """An existing output that drstool did not write, and a function that checks that it is unchanged."""
    if command not in FOLDERS:
        return world.file("taken", b"mine"), lambda path: path.read_bytes() == b"mine"
    folder = world.tmp / "taken"
    folder.mkdir()
    (folder / "mine").write_bytes(b"mine")
    return folder, lambda path: [p.name for p in path.iterdir()] == ["mine"]


@pytest.mark.parametrize("command", WRITERS)
def test_existing_output(drs, world, command):
    out, untouched = occupied(world, command)
    check_failure(drs(*WRITERS[command](world, out)), FAILED, world.tmp, "taken", "exists")
    assert untouched(out)


# Outputs that are what the command reads: the output, and the command line without it.
ITSELF = {
    "cat": lambda w: (w.copied("cams"), lambda out: ("cat", out)),
    "pseudo-label": lambda w: (w.copied("cams"), lambda out: ("pseudo-label", out, *w.saliency)),
    "refine": lambda w: (w.copied("cams"), lambda out: (
        "refine", out, "--weights", w.made.refiner, "--sizes", "32")),
    "cam": lambda w: (w.copied("cls"), lambda out: ("cam", *w.train, "--weights", out, "--sizes", "32")),
    "crf": lambda w: (w.copied("cams"), lambda out: ("crf", out, "--background", "power")),
    "overlay": lambda w: (w.copied("labels"), lambda out: ("overlay", *w.train, "--labels", out)),
    "train-cls": lambda w: (w.copied("cls"), lambda out: ("train-cls", *w.train, *SMALL, "--init", out)),
}


@pytest.mark.parametrize("command", ITSELF)
@pytest.mark.parametrize("linked", [False, True])
def test_an_input_is_no_output(drs, world, command, linked):
    path, line = ITSELF[command](world)
    before, out = path.stat().st_mtime_ns, path
    if linked:
        out = world.tmp / "link"
        out.symlink_to(path)
    for more in (("--overwrite",), ("--resume",) if command != "cat" else ()):
        check_failure(drs(*line(path), *more, "-o", out), FAILED, world.tmp, "is also an input of this command")
    assert path.stat().st_mtime_ns == before


def test_the_name_of_a_split_is_no_input(drs, world, monkeypatch):
    line = ("segment", *world.val, "--weights", world.made.seg, "-o", "val")
    monkeypatch.chdir(world.tmp)
    assert drs(*line).code == 0
    assert drs(*line, "--overwrite").code == 0


@pytest.mark.parametrize("name", ["JPEGImages/p0.jpg", "ImageSets/Segmentation/train.txt", "classes.txt"])
def test_the_files_of_a_dataset_are_no_output(drs, world, own_voc, name):
    before = (own_voc / name).read_bytes()
    line = ("cat", world.made.cams, "--overwrite", "-o", own_voc / name)
    training = ("train-cls", *world.train, *SMALL, "--overwrite", "-o", world.tmp / "x.pt", "--log", own_voc / name)
    for words in (line, training):
        check_failure(drs(*words), FAILED, world.tmp, f"is part of the dataset '{own_voc}'")
    assert (own_voc / name).read_bytes() == before


@pytest.mark.parametrize("command", FOLDERS)
def test_overwrite_spares_folders_of_others(drs, world, command):
    out, untouched = occupied(world, command)
    check_failure(drs(*WRITERS[command](world, out), "--overwrite"), FAILED, world.tmp, "taken")
    assert untouched(out)


def test_existing_scores(drs, world):
    out, untouched = occupied(world, "cam")
    arguments = (*WRITERS["segment"](world, world.out), "--scores", out)
    check_failure(drs(*arguments), FAILED, world.tmp, "taken", "exists")
    assert untouched(out)


def test_scores_among_the_labels(drs, world):
    arguments = (*WRITERS["segment"](world, world.out), "--scores", world.out / "scores.h5")
    check_failure(drs(*arguments), USAGE, world.tmp, "--scores", "would go where the labels go")


@pytest.mark.parametrize("command", WRITERS)
def test_folder_of_the_output_is_missing(drs, world, command):
    out = world.tmp / "gone" / "result"
    check_failure(drs(*WRITERS[command](world, out)), FAILED, world.tmp, "gone")


@contextlib.contextmanager
def full_disk(size):
    """Limit the size of files, which has the same effect as a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("command", [name for name in WRITERS if name != "import"])
def test_full_disk(drs, world, command):
    arguments = WRITERS[command](world, world.out)
    with full_disk(100):
        outcome = drs(*arguments, "-q")
    check_failure(outcome, FAILED, world.tmp, "result", "cannot be written")


def test_full_disk_for_the_scores(drs, world):
    out = world.tmp / "scores"
    with full_disk(1500):
        outcome = drs("segment", *world.val, "--weights", world.made.seg, "-o", world.out, "--scores", out)
    check_failure(outcome, FAILED, world.tmp, "cannot be written")
    assert not out.exists()


# --- the command line --------------------------------------------------------------------------

LINES = {
    "unknown command": (lambda w: ("paint",), ["paint"]),
    "unknown option": (lambda w: ("ids", "--data", w.voc, "--colour", "red"), ["--colour", "drstool ids --help"]),
    "missing required option": (lambda w: ("cam", "--data", w.voc), ["--weights"]),
    "missing argument": (lambda w: ("demo",), ["folder"]),
    "one argument too many": (lambda w: ("demo", "a", "b"), ["b"]),
    "option without a value": (lambda w: ("ids", "--data"), ["--data"]),
    "no number": (lambda w: train_cls(w, *w.train, "--epochs", "many"), ["--epochs", "drstool train-cls --help"]),
    "number too small": (lambda w: train_cls(w, *w.train, "--batch-size", "0"), ["--batch-size"]),
    "share above 1": (lambda w: ("pseudo-label", w.made.cams, "--alpha", "2", "-o", w.out), ["--alpha"]),
    "no finite number": (lambda w: train_cls(w, *w.train, "--lr", "nan"), ["--lr"]),
    "infinite": (lambda w: train_cls(w, *w.train, "--lr", "inf"), ["--lr"]),
    "seed": (lambda w: train_cls(w, *w.train, "--seed", "-1"), ["--seed"]),
    "workers": (lambda w: cam(w, *w.train, "--workers", "-1"), ["--workers"]),
    "resize below the crop": (lambda w: train_cls(w, *w.train, "--resize-size", "20"), ["--resize-size"]),
    "sizes of words": (lambda w: cam(w, *w.train, "--sizes", "big"), ["--sizes", "big"]),
    "sizes of nothing": (lambda w: cam(w, *w.train, "--sizes", ","), ["--sizes"]),
    "sizes below 1": (lambda w: cam(w, *w.train, "--sizes", "32,0"), ["--sizes"]),
    "sizes too large": (lambda w: cam(w, *w.train, "--sizes", "999999999"), ["--sizes"]),
    "image size too large": (lambda w: cam(w, *w.train, "--image-size", "999999999"), ["--image-size"]),
    "scales": (lambda w: (*WRITERS["segment"](w, w.out), "--scales", "1,nan"), ["--scales"]),
    "layers": (lambda w: train_cls(w, *w.train, "--drs-layers", "17"), ["--drs-layers"]),
    "layers of words": (lambda w: train_cls(w, *w.train, "--drs-layers", "first"), ["--drs-layers", "first"]),
    "recipe": (lambda w: train_cls(w, *w.train, "--recipe", "secret"), ["--recipe", "secret", "paper"]),
    "backbone": (lambda w: train_cls(w, *w.train, "--backbone", "vgg99"), ["--backbone", "vgg99"]),
    "suppression": (lambda w: train_cls(w, *w.train, "--suppression", "some"), ["--suppression", "some"]),
    "background": (lambda w: ("pseudo-label", w.made.cams, "--background", "sky", "-o", w.out), ["sky"]),
    "saliency not given": (lambda w: ("pseudo-label", w.made.cams, "-o", w.out), ["--saliency"]),
    "saliency not given, eval": (lambda w: ("eval", w.made.cams, "--data", w.manifest({"id": "p0"})), ["--saliency"]),
    "device": (lambda w: cam(w, *w.train, "--device", "abacus"), ["--device", "abacus"]),
    "device of torch's": (lambda w: cam(w, *w.train, "--device", "meta"), ["--device", "meta"]),
    "precision": (lambda w: cam(w, *w.train, "--precision", "exact"), ["--precision", "exact"]),
    "map size": (lambda w: cam(w, *w.train, "--map-size", "huge"), ["--map-size", "huge"]),
    "dtype": (lambda w: cam(w, *w.train, "--dtype", "int3"), ["--dtype", "int3"]),
    "dtype, refine": (lambda w: (*WRITERS["refine"](w, w.out), "--dtype", "int3"), ["--dtype", "int3"]),
    "method": (lambda w: cam(w, *w.train, "--method", "guess"), ["--method", "guess"]),
    "method of saliency": (lambda w: ("saliency", *w.val, "--method", "guess", "-o", w.out), ["--method", "guess"]),
    "layer": (lambda w: cam(w, *w.train, "--method", "grad-cam", "--layer", "17"), ["--layer"]),
    "ignored": (lambda w: ("eval", w.made.pred, *w.val, "--ignored", "maybe"), ["--ignored", "maybe"]),
    "two formats": (lambda w: ("eval", w.made.pred, *w.val, "--json", "--csv"), ["JSON"]),
    "images and maps": (lambda w: (*WRITERS["refine"](w, w.out), *w.train), ["--data"]),
    "split without data": (lambda w: (*WRITERS["refine"](w, w.out), "--split", "train"), ["--split"]),
    "nothing to draw": (lambda w: ("overlay", "-o", w.out), ["--data"]),
    "one picture for batch norm": (
        lambda w: ("train-seg", "--data", w.manifest({"id": "p0"}), *SMALL, "--labels", w.made.labels, "-o", w.out),
        ["two"]),
    "too many pictures": (lambda w: ("demo", w.out, "--train", "9" * 20), ["--train"]),
    "batch too large": (lambda w: cam(w, *w.train, "--batch-size", "9" * 20), ["--batch-size"]),
    "batch of none": (lambda w: cam(w, *w.train, "--batch-size", "0"), ["--batch-size", "auto"]),
    "batch of words": (lambda w: cam(w, *w.train, "--batch-size", "some"), ["--batch-size", "some"]),
    "float16 on a CPU": (
        lambda w: cam(w, *w.train, "--device", "cpu", "--precision", "float16"), ["--precision", "float32"]),
    "scales too large": (lambda w: (*WRITERS["segment"](w, w.out), "--scales", "1e9"), ["--scales"]),
    "empty data": (lambda w: cam(w, "--data", ""), ["--data", "empty"]),
    "empty weights": (lambda w: ("cam", *w.train, "--weights", "", "-o", w.out), ["--weights", "empty"]),
    "empty input": (lambda w: ("info", ""), ["INPUT", "empty"]),
    "empty output": (lambda w: ("cam", *w.train, "--weights", w.made.cls, "-o", ""), ["-o", "empty"]),
    "folder on stdout": (lambda w: ("export", "--to", "irn", w.made.cams, "-o", "-"), ["-", "stdout", "name a file"]),
    "checkpoint on stdout": (lambda w: WRITERS["train-seg"](w, "-"), ["-", "stdout", "name a file"]),
    "log on stdout": (lambda w: (*WRITERS["train-seg"](w, w.out), "--log", "-"), ["-", "stdout", "name a file"]),
    "project": (lambda w: ("import", "--from", "mars", w.made.cls, "-o", w.out), ["--from", "mars"]),
    "kind of import": (lambda w: ("import", "--kind", "poet", w.made.cls, "-o", w.out), ["--kind", "poet"]),
    "no train pictures": (lambda w: ("demo", w.out, "--train", "0"), ["--train"]),
    "pictures too small": (lambda w: ("demo", w.out, "--size", "3"), ["--size"]),
    "two streams on stdout": (
        lambda w: ("segment", *w.val, "--weights", w.made.seg, "--scores", "-"), ["--scores", "stdout"]),
    "labels and scores under one name": (
        lambda w: ("segment", *w.val, "--weights", w.made.seg, "-o", w.out, "--scores", w.out), ["--scores", "result"]),
    "sizes too small": (lambda w: cam(w, *w.train, "--sizes", "7"), ["--sizes", "8"]),
    "infinite scales": (lambda w: (*WRITERS["segment"](w, w.out), "--scales", "inf"), ["--scales"]),
    "split without data, overlay": (
        lambda w: ("overlay", "--labels", w.made.pred, "--split", "val", "-o", w.out), ["--split"]),
    "keep going while training": (lambda w: train_cls(w, *w.train, "--keep-going"), ["--keep-going"]),
}


@pytest.mark.parametrize("name", LINES)
def test_command_line(drs, world, name):
    arguments, words = LINES[name]
    check_failure(drs(*arguments(world)), USAGE, world.tmp, *words)


def test_cuda_where_there_is_none(drs, world):
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    check_failure(drs(*cam(world, *world.train, "--device", "cuda")), USAGE, world.tmp, "--device cpu")


def test_pretrained_weights_that_cannot_be_had(drs, world, monkeypatch):
    import urllib.request

    def offline(*arguments, **more):
        raise urllib.error.URLError("no network")

    monkeypatch.setenv("TORCH_HOME", str(world.tmp / "cache"))
    monkeypatch.setattr(urllib.request, "urlopen", offline)
    monkeypatch.setattr("torch.hub.urlopen", offline)
    outcome = drs("train-cls", *world.train, "--epochs", "1", "-o", world.out)
    check_failure(outcome, INPUT, world.tmp, "--init imagenet", "--init FILE", "vgg16", "--init none")
    small = ("train-cls", *world.train, "--backbone", "vgg16-small", "-o", world.out)
    check_failure(drs(*small), INPUT, world.tmp, "--init none")


# --- ids ---------------------------------------------------------------------------------------


def test_ids_of_any_text(drs, world, tmp_path):
    ids = ["street/0 1", "v1.2.x", "größe", "猫/犬", "-o"]
    rows = []
    for number, identifier in enumerate(ids):
        image = world.voc / "JPEGImages" / f"p{number}.jpg"
        mask = world.voc / "SegmentationClass" / f"p{number}.png"
        rows.append({"id": identifier, "image": str(image), "mask": str(mask)})
    data = world.manifest(*rows)
    maps, refined, labels = tmp_path / "m.h5", tmp_path / "r.h5", tmp_path / "l"
    steps = [
        ("cam", "--data", data, "--weights", world.made.cls, "--sizes", "32", "-o", maps),
        ("refine", maps, "--weights", world.made.refiner, "--sizes", "32", "-o", refined),
        ("pseudo-label", refined, "--background", "power", "-o", labels),
        ("overlay", "--labels", labels, "-o", tmp_path / "f"),
        ("train-seg", "--data", data, *SMALL[:4], "--epochs", "0", "--labels", labels, "-o", tmp_path / "s.pt"),
        ("pseudo-label", refined, "--background", "power", "-o", tmp_path / "l.tar"),
    ]
    for step in steps:
        outcome = drs(*step)
        assert outcome.code == 0, outcome.err
    assert sorted(p.relative_to(labels).as_posix() for p in labels.rglob("*.png")) == sorted(f"{i}.png" for i in ids)
    for found in (labels, tmp_path / "l.tar"):
        outcome = drs("eval", found, "--data", data, "--json")
        assert outcome.json()["images"] == len(ids)
    listed = [json.loads(line)["id"] for line in drs("ids", "--data", data).out.splitlines()]
    assert listed == ids


@pytest.mark.parametrize("name", ["../out.h5", "a/../../out.h5", "/tmp/out.h5"])
def test_stream_with_a_name_that_leaves_the_folder(drs, world, name):
    import tarfile

    stream = world.tmp / "maps.tar"
    arguments = ("cam", *world.train, "--weights", world.made.cls, "--sizes", "32", "-o", stream)
    assert drs(*arguments).code == 0
    changed = io.BytesIO()
    with tarfile.open(stream) as old, tarfile.open(fileobj=changed, mode="w", format=tarfile.PAX_FORMAT) as new:
        for member in old:
            content = old.extractfile(member)
            if member.name == "p0.h5":
                member.name, member.pax_headers = name, {}
            new.addfile(member, content)
    outcome = drs("pseudo-label", *world.saliency, "-o", world.out, stdin=changed.getvalue())
    check_failure(outcome, INPUT, world.tmp, "outside the output folder")
