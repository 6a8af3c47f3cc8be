"""Feed thousands of damaged and malicious files to every reader: ``python tests/harness_fuzz.py``.

Each reader gets mutations of small valid files, and must return their contents or raise one of
drstool's own errors. Any other exception, a crash of the interpreter, more than ten seconds of CPU
time (or ten minutes without progress), or too much memory is a failure. Workers run in separate
processes, so that failures are counted and the next file is tried. The same seed gives the same
files; ``--show N`` writes the N-th.
"""

import argparse
import io
import json
import os
import random
import resource
import select
import struct
import subprocess
import sys
import tarfile
import tempfile
import time
import traceback
import zipfile
import zlib
from collections import Counter
from contextlib import suppress
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import h5py
import numpy as np
from PIL import Image

from drstool.annotations.labelmap import read_labelmap
from drstool.annotations.labelme import LabelmeMask
from drstool.annotations.voc_xml import object_names
from drstool.annotations.yolo import YoloMask
from drstool.artifacts.job import Job
from drstool.artifacts.resume import Journal, PartialFolder
from drstool.checkpoints.checkpoint import Checkpoint
from drstool.data import image_size, load_image, load_saliency, load_target, open_dataset
from drstool.data.tags import read_class_names
from drstool.errors import DrstoolError
from drstool.exchange.maps_in import open_maps
from drstool.formats import Header, LabelRecord, MapRecord, open_records, open_sink
from drstool.formats.label_png import encode_label_png, read_label_png
from drstool.formats.map_file import MapFileWriter, restored_map
from drstool.formats.stream import StreamWriter, restored_member

SECONDS, PATIENCE = 10, 600
MEMORY = 2 << 30

HEADER = Header("localization-maps", ("bar", "disc"), ({"command": "drstool cam", "used": {"tags": True}},))
LABELS = Header("labels", ("bar", "disc"), HEADER.provenance)
WORK = Job("cam", ("bar", "disc"), {"sizes": (32, 40)}, {"list": "sha256:1"}, {"tags": "the data"}, "cpu", 0)


# --- valid files -------------------------------------------------------------------------------


def map_records():
    values = (np.arange(2 * 6 * 7).reshape(2, 6, 7) % 256).astype(np.uint8)
    yield MapRecord("a", values, (1, 2), (12, 14), "a.jpg")
    yield MapRecord("b/c", values[:1].astype(np.float16), (2,), (6, 7), "b/c.jpg")


def map_files():
    """A map file, and one in the older HDF5 format, which has no checksums of its own."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "x.h5")
        with open_sink(str(path), HEADER) as sink:
            sink.write_all(map_records())
        yield path.read_bytes()
        with h5py.File(path, "w", libver="earliest") as file:
            file.attrs.update({"format": "drstool", "version": 1, "kind": HEADER.kind, "complete": True})
            file.attrs["class_names"] = list(HEADER.class_names)
            for record in map_records():
                dataset = file.create_dataset(
                    f"maps/{record.id}", data=record.values, compression="gzip", chunks=(1, 6, 7))
                dataset.attrs["labels"] = np.array(record.labels)
                dataset.attrs["image_size"], dataset.attrs["image"] = record.image_size, record.image
        yield path.read_bytes()


def label_records():
    for number, identifier in enumerate(("a", "b/c")):
        yield LabelRecord(identifier, (np.arange(30).reshape(5, 6) % 3).astype(np.uint8) + 0 * number, "a.jpg")


def streams():
    for header, records in ((HEADER, map_records()), (LABELS, label_records())):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "x.tar")
            with open_sink(str(path), header) as sink:
                sink.write_all(records)
            yield path.read_bytes()


def saved(image, **options):
    buffer = io.BytesIO()
    image.save(buffer, **options)
    return buffer.getvalue()


def grey():
    return Image.fromarray((np.arange(11 * 13).reshape(11, 13) % 256).astype(np.uint8))


def label_pngs():
    labels = np.asarray(grey()) % 3
    yield encode_label_png(labels, image="a.jpg")
    yield encode_label_png(labels, grey=True)
    yield saved(Image.fromarray(labels == 1), format="PNG")
    yield saved(Image.fromarray(labels), format="PNG", bits=2)


def saliency_pngs():
    yield saved(grey(), format="PNG")
    yield saved(Image.fromarray(np.asarray(grey()).astype(np.uint16) * 200), format="PNG")
    yield saved(grey().convert("RGB"), format="PNG")
    yield saved(grey().convert("LA"), format="PNG")


def pictures():
    rgb = Image.merge("RGB", (grey(), grey().rotate(180), grey()))
    exif = Image.Exif()
    exif[0x0112] = 6
    yield saved(rgb, format="JPEG", exif=exif)
    yield saved(rgb, format="JPEG", progressive=True, quality=50)
    yield saved(rgb.convert("CMYK"), format="JPEG")
    yield saved(rgb, format="PNG", exif=exif)
    yield saved(rgb.quantize(), format="PNG", transparency=3)
    yield saved(rgb, format="GIF", save_all=True, append_images=[grey()])
    yield saved(rgb, format="BMP")
    yield saved(rgb, format="TIFF", compression="tiff_lzw")
    yield saved(grey(), format="TIFF")
    yield saved(rgb, format="WEBP")
    yield saved(rgb, format="PPM")


def checkpoints():
    import torch

    from drstool.checkpoints.checkpoint import save_checkpoint

    weights = {"a.weight": torch.ones(3, 2), "a.bias": torch.zeros(3).half(), "n": torch.tensor(3)}
    recipe = {"lr": 0.1, "sizes": (256, 320), "epochs": 15}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "x.pt")
        save_checkpoint(path, Checkpoint(
            "classifier", HEADER.class_names, {"backbone": "vgg16-small"}, recipe, weights, HEADER.provenance))
        yield path.read_bytes()
        torch.save({"format": "drstool", "weights": weights}, path, _use_new_zipfile_serialization=False)
        yield path.read_bytes()


def states():
    """The saved state of training a tiny network for one step."""
    with tempfile.TemporaryDirectory() as folder:
        state, file = tiny_training(Path(folder, "x.pt"))
        state.step = 1
        file.load(TINY)
        file.save(state.state_dict())
        yield file.path.read_bytes()


TINY = Checkpoint("classifier", HEADER.class_names, {"backbone": "vgg16-small"}, {"lr": 0.1}, {})


def tiny_training(output):
    """The loop of a training that has not started, and its state file."""
    import torch

    from drstool.checkpoints.training_state import TrainingState
    from drstool.training.state import TrainState

    network = torch.nn.Linear(3, 2)
    state = TrainState(network, torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9), torch.device("cpu"))
    return state, TrainingState(output, WORK, lambda error: None)


def journals():
    """Journals of an unfinished map file and of an unfinished stream."""
    for name in ("x.h5", "x.tar"):
        with tempfile.TemporaryDirectory() as folder, Path(folder, name).open("w+b") as file:
            journal = Journal(Path(folder, name), WORK)
            journal.start()
            records = map_records() if name == "x.h5" else label_records()
            writer = MapFileWriter(file, HEADER) if name == "x.h5" else StreamWriter(file, LABELS)
            for record in records:
                writer.write(record)
                journal.add(record.id, *writer.stored(record))
            writer.close()
            journal.close()
            yield journal.path.read_bytes()


def notes():
    """Notes on an unfinished folder."""
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(2):
            kept = PartialFolder(Path(folder, "labels"), WORK)
            kept.load()
            yield Path(folder, NOTE).read_bytes()


NOTE = ".labels.resume.json"


def headers():
    yield json.dumps(HEADER.to_json(), indent=1).encode()
    yield json.dumps({**LABELS.to_json(), "class_names": ["größe", "\u732b"]}).encode()


ROWS = [{"id": "a", "image": "a.png", "tags": ["bar"], "mask": "m.png", "saliency": "s.png", "split": "train"},
        {"id": "b c/ä", "image": "a.png", "tags": ["disc", "bar"], "mask": "c.json#1"},
        {"id": "c", "image": "a.png", "tags": [0]}]


def json_manifests():
    rows = [{"class_names": ["bar", "disc"]}, *ROWS]
    yield "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    yield "".join(json.dumps(row) + "\n" for row in ROWS[:2]).encode()


def tables(separator):
    lines = [["id", "image", "tags", "mask"], ["a", "a.png", "bar;disc", "m.png"], ['"b, c"', "a.png", '"disc"', ""]]
    yield "\n".join(separator.join(line) for line in lines).encode()
    yield ("\ufeff" + "\r\n".join(separator.join(line) for line in lines)).encode()


def voc_lists():
    yield b"a\nb\n"
    yield b"/JPEGImages/a.jpg /SegmentationClass/a.png\nb\t1\n"


def annotations():
    text = ("<annotation><size><width>5</width></size><object><name>bar</name><bndbox><xmin>1</xmin></bndbox>"
            "</object><object><name> disc </name></object></annotation>")
    yield text.encode()
    yield ('<?xml version="1.0" encoding="iso8859-1"?>\n<!-- x -->' + text + "\n").encode("latin1")


def coco_files():
    square = {"image_id": 1, "iscrowd": 0, "bbox": [0, 0, 5, 5], "area": 9}
    yield json.dumps({
        "images": [{"id": 1, "file_name": "a.png", "height": 11, "width": 13}],
        "categories": [{"id": 3, "name": "bar"}, {"id": 1, "name": "disc"}],
        "annotations": [
            {**square, "id": 1, "category_id": 1, "segmentation": [[1, 1, 5, 1, 5.5, 6], [2, 2, 3, 2, 3, 3]]},
            {**square, "id": 2, "category_id": 3, "segmentation": {"size": [11, 13], "counts": [3, 40, 100]}},
            {**square, "id": 3, "category_id": 3, "segmentation": {"size": [11, 13], "counts": "3X1T3"}}]}).encode()


def labelme_files():
    shapes = [("cat", [[1, 1], [5, 1], [5, 6]], "polygon"), ("dog", [[0, 0], [9, 9]], "rectangle"),
              ("cat", [[4, 4], [6, 6]], "circle")]
    yield json.dumps({
        "version": "5.4.1", "flags": {"cat": True}, "imagePath": "a.png", "imageHeight": 11, "imageWidth": 13,
        "shapes": [{"label": label, "points": points, "shape_type": kind} for label, points, kind in shapes]}).encode()


def yolo_labels():
    yield b"0 0.1 0.1 0.5 0.1 0.5 0.9\n\n1 0 0 1 0 1 1 0 1\n"


def yamls():
    yield b"train: ../train/images\nval: [a, 'b c']\nnc: 2\nnames: ['cat', \"dog\"] # two\n"
    yield b"path: x\nnames:\n  0: cat\n  1: it's\nnested:\n  a: {b: 1}\n"


def labelmaps():
    yield b"# label:color_rgb:parts:actions\nbackground:0,0,0::\ncat:48,112,32::\nd\xc3\xb6g:1,2,3:head,tail:run\n"


def class_lists():
    yield b"bar\ndisc\n"
    yield "gr\u00f6\u00dfe\r\n\u732b\r\n".encode()


def tag_lists():
    yield b"a 0 1\nb c/\xc3\xa4\tbar disc\nc disc\n"
    yield b"a bar\nc 1\n"


def tag_arrays():
    buffer = io.BytesIO()
    np.save(buffer, {"a": np.float32([1, 0]), "c": np.float32([0, 1])}, allow_pickle=True)
    yield buffer.getvalue()


def foreign_maps():
    import torch

    maps = np.float32([[[0, 0.5], [1, 0.25]], [[1, 0], [0, 0.3]]])
    for content in (
            {"keys": torch.tensor([0, 1]), "cam": torch.from_numpy(maps), "high_res": maps}, dict(enumerate(maps)),
            {"keys": np.array([0, 1, 2]), "hr_cam": maps}, {"keys": np.array([1, 0]), "attn_highres": np.half(maps)}):
        buffer = io.BytesIO()
        np.save(buffer, content, allow_pickle=True)
        yield buffer.getvalue()


def foreign_archives():
    for save in (np.savez, np.savez_compressed):
        buffer = io.BytesIO()
        save(buffer, maps=np.zeros((2, 3, 4), np.uint8), labels=np.array([1, 2]), image_size=np.array([6, 8]))
        yield buffer.getvalue()


def bare_hdf5():
    with h5py.File(buffer := io.BytesIO(), "w") as file:
        for name in ("a", "b c/\xe4"):
            file[name] = np.full((2, 3, 4), 0.5, np.float32)
            file[name].attrs.update(labels=[1, 2], image_size=[6, 8], image="a.jpg")
    yield buffer.getvalue()


# --- readers -----------------------------------------------------------------------------------


class Place:
    """A folder with the files that the inputs refer to."""

    def __init__(self, folder):
        self.folder = Path(folder)
        (self.folder / "JPEGImages").mkdir()
        for name in ("a.png", "JPEGImages/a.jpg", "JPEGImages/b.jpg", "s.png"):
            grey().save(self.folder / name)
        (self.folder / "m.png").write_bytes(next(label_pngs()))
        (self.folder / "c.json").write_bytes(next(coco_files()))
        (self.folder / "whole.jsonl").write_bytes(next(json_manifests()))
        (self.folder / "classes").write_text("bar\ndisc\n")

    def file(self, name, data):
        path = self.folder / name
        path.write_bytes(data)
        return path

    def data(self, name, *arguments, **options):
        """Open a dataset that contains a file of that name, and read all of it."""
        dataset = open_dataset(str(self.folder / name), *arguments, **options)
        for item in dataset.items:
            json.dumps(item.to_json(), ensure_ascii=False).encode("utf-8", "surrogateescape")
            if item.mask is not None:
                load_target(item, (11, 13))
        dataset.digest()


def all_records(source):
    """Read all records."""
    with source:
        for attempt in source.attempts():
            with suppress(DrstoolError):
                attempt()
        source.check_extent()
        json.dumps(source.header.to_json() if source.header else None).encode()


def read_folder(place, data):
    """Read a label folder with the file as its header."""
    folder = place.folder / "labels"
    folder.mkdir(exist_ok=True)
    (folder / "drstool.json").write_bytes(data)
    (folder / "drstool.end.json").write_bytes(b'{"count": 1, "complete": true}')
    (folder / "a.png").write_bytes(next(label_pngs()))
    all_records(open_records(folder))


def read_header(place, data):
    header = Header.from_json(data, "header")
    json.dumps(header.to_json(), indent=1).encode()
    if data[:1] == b"{" and header.kind == "labels":
        read_folder(place, data)


def read_picture(place, data):
    path = place.file("x.picture", data)
    assert load_image(path).shape[:2] == image_size(path)


def read_checkpoint(place, data):
    from drstool.checkpoints.checkpoint import load_checkpoint, load_tensors
    from drstool.stages.info import as_json, as_text, describe

    path = place.file("x.pt", data)
    if data[:2] == b"PK":
        load_checkpoint(path)
        told = describe(str(path))
        (as_text(told) + as_json(told)).encode()
    else:
        load_tensors(path)


def read_state(place, data):
    state, file = tiny_training(place.folder / "x.pt")
    file.path.write_bytes(data)
    file.left_over()
    file.last_network()
    file.read()
    state.load_state_dict(file.load(TINY))


def read_journal(place, data):
    output = place.folder / "x.h5"
    place.file(".x.h5.resume", data)
    Journal(output, WORK).leftover()
    journal = Journal(output, WORK)
    try:
        journal.load(["a", "b/c"])
        for identifier, told, kept in journal.records():
            with suppress(DrstoolError):
                restored_map(identifier, told, kept, output)
            with suppress(DrstoolError):
                restored_member(identifier, told, kept, LABELS, output)
        journal.add("d", {}, b"")
    finally:
        journal.close()


def read_note(place, data):
    place.file(NOTE, data)
    folder = place.folder / ".labels.resume"
    folder.mkdir(exist_ok=True)
    (folder / "a.png").write_bytes(next(label_pngs()))
    PartialFolder(place.folder / "labels", WORK).leftover()
    PartialFolder(place.folder / "labels", WORK).load()


def read_tags(place, data):
    place.file("tags.txt", data)
    place.data("whole.jsonl", tags=str(place.folder / "tags.txt"))


def read_tag_array(place, data):
    place.file("tags.npy", data)
    place.data("whole.jsonl", tags=str(place.folder / "tags.npy"))


def read_foreign(name):
    def read(place, data):
        with open_maps(str(place.file(name, data)), class_names=("bar", "disc")) as source:
            list(source.records())

    return read


def read_voc_list(place, data):
    place.file("list.txt", data)
    place.data("", str(place.folder / "list.txt"), classes=str(place.folder / "classes"))


def read_dataset(name):
    def read(place, data):
        place.file(name, data)
        place.data(name)
    return read


def draw(mask):
    def read(place, data):
        mask(Path(place.file("x.txt", data))).rasterize((11, 13))
    return read


READERS = {
    "map": (map_files, lambda place, data: all_records(open_records(place.file("x.h5", data)))),
    "stream": (streams, lambda place, data: all_records(open_records(None, io.BytesIO(data)))),
    "label-png": (label_pngs, lambda place, data: read_label_png(data, "x.png")),
    "saliency-png": (saliency_pngs, lambda place, data: load_saliency(place.file("x.png", data))),
    "picture": (pictures, read_picture),
    "checkpoint": (checkpoints, read_checkpoint),
    "state": (states, read_state),
    "journal": (journals, read_journal),
    "note": (notes, read_note),
    "header": (headers, read_header),
    "jsonl": (json_manifests, read_dataset("x.jsonl")),
    "csv": (lambda: tables(","), read_dataset("x.csv")),
    "tsv": (lambda: tables("\t"), read_dataset("x.tsv")),
    "voc-list": (voc_lists, read_voc_list),
    "voc-xml": (annotations, lambda place, data: object_names(place.file("x.xml", data))),
    "coco": (coco_files, read_dataset("x.json")),
    "labelme": (labelme_files, draw(lambda path: LabelmeMask(path, ("cat", "dog")))),
    "yolo": (yolo_labels, draw(lambda path: YoloMask(path, ("cat", "dog"), path, ("cat", "dog")))),
    "yaml": (yamls, lambda place, data: read_class_names(place.file("x.yaml", data))),
    "labelmap": (labelmaps, lambda place, data: read_labelmap(Path(place.file("labelmap.txt", data)))),
    "classes": (class_lists, lambda place, data: read_class_names(place.file("x.txt", data))),
    "tags": (tag_lists, read_tags),
    "tag-array": (tag_arrays, read_tag_array),
    "foreign-npy": (foreign_maps, read_foreign("x.npy")),
    "foreign-npz": (foreign_archives, read_foreign("x.npz")),
    "foreign-hdf5": (bare_hdf5, read_foreign("x.h5")),
}


# --- mutations ---------------------------------------------------------------------------------


WORDS = [
    b"\0", b"\xff", b"\xef\xbb\xbf", b"null", b"NaN", b"-1", b"1e999", b"9" * 40, b'"', b"{", b"[" * 50, b"[]", b"\n",
    b"\t", b",", b";", b"../", b"/etc/passwd", b"\\ud800", b"\xed\xa0\x80", b"%s", b"true", b"<!DOCTYPE a [", b"&a;",
    b"<![CDATA[", b"drstool", b"labels", b"maps", b"complete", b"IHDR", b"IDAT", b"zTXt", b"q\x00", b"\x85R",
    b"c__builtin__\neval\n",
]
NUMBERS = (0, 1, 2, 3, 7, 8, 127, 128, 255, 256, 1023, 32767, 32768, 65535, 2**24, 2**31 - 1, 2**31, 2**32 - 1, 2**40,
           2**63, 2**64 - 1)


def mutated(random, data, others):
    """A valid file with some changes."""
    data = bytearray(data)
    for _ in range(random.choice((1, 1, 1, 2, 2, 3, 5, 9, 20))):
        if not data:
            break
        random.choice(CHANGES)(random, data, others)
    return bytes(data)


def flip(random, data, others):
    data[random.randrange(len(data))] ^= 1 << random.randrange(8)


def set_byte(random, data, others):
    data[random.randrange(len(data))] = random.randrange(256)


def set_number(random, data, others):
    size, order = random.choice((1, 2, 4, 4, 8)), random.choice("<>")
    value = random.choice(NUMBERS) % 256**size
    place = random.randrange(len(data))
    data[place: place + size] = struct.pack(order + {1: "B", 2: "H", 4: "I", 8: "Q"}[size], value)


def count_up(random, data, others):
    place = random.randrange(len(data))
    data[place] = (data[place] + random.choice((-1, 1, 2, -2))) % 256


def cut(random, data, others):
    del data[random.randrange(len(data)):]


def drop(random, data, others):
    place = random.randrange(len(data))
    del data[place: place + random.choice((1, 2, 4, 16, 100))]


def repeat(random, data, others):
    place, size = random.randrange(len(data)), random.choice((1, 4, 16, 100, 512))
    data[place:place] = bytes(data[place: place + size]) * random.choice((1, 1, 2, 10))


def word(random, data, others):
    place = random.randrange(len(data))
    data[place: place + random.choice((0, 0, 1, 4))] = random.choice(WORDS)


def zero(random, data, others):
    place, size = random.randrange(len(data)), random.choice((2, 8, 64, 512))
    data[place: place + size] = bytes(len(data[place: place + size]))


def splice(random, data, others):
    other = random.choice(others)
    place, start, size = random.randrange(len(data)), random.randrange(len(other)), random.choice((4, 16, 64, 512))
    data[place: place + size] = other[start: start + size]


CHANGES = (flip, flip, set_byte, set_number, set_number, count_up, cut, drop, repeat, word, word, zero, splice)


def repaired(data):
    """The file with recomputed checksums, so that the code behind them is reached."""
    if data.startswith(b"\x89PNG"):
        return _png(data)
    if data[257:262] == b"ustar":
        return _tar(data)
    if data.startswith(b"drstool unfinished 1\n"):
        return _journal(data)
    return data


def _journal(data):
    place = data.index(b"\n") + 1
    made = bytearray(data)
    while place + 12 <= len(made):
        _, length = struct.unpack_from("<IQ", made, place)
        length = min(length, len(made) - place - 12)
        struct.pack_into("<IQ", made, place, zlib.crc32(made[place + 12: place + 12 + length]), length)
        place += 12 + length
    return bytes(made)


def _png(data):
    made, place = bytearray(data[:8]), 8
    while place + 8 <= len(data):
        (length,) = struct.unpack_from(">I", data, place)
        if place + 12 + length > len(data):
            break
        body = data[place + 4: place + 8 + length]
        made += data[place: place + 4] + body + struct.pack(">I", zlib.crc32(body))
        place += 12 + length
    return bytes(made + data[place:])


def _tar(data):
    made, place = bytearray(data), 0
    while place + 512 <= len(made):
        block = made[place: place + 512]
        if block[257:262] == b"ustar":
            block[148:156] = b" " * 8
            made[place + 148: place + 156] = b"%06o\0 " % sum(block)
        place += 512
    return bytes(made)


def mutated_member(random, data, others):
    """A valid zip or tar archive with one changed member."""
    buffer = io.BytesIO()
    if data[:2] == b"PK":
        with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(buffer, "w") as new:
            names = old.namelist()
            chosen = random.choice([*names, *[name for name in names if name.endswith("data.pkl")] * 20])
            for name in names:
                content = old.read(name)
                new.writestr(name, mutated(random, content, others) if name == chosen else content)
    else:
        with tarfile.open(fileobj=io.BytesIO(data)) as old, tarfile.open(fileobj=buffer, mode="w") as new:
            infos = old.getmembers()
            chosen = random.choice(infos)
            for info in infos:
                content = old.extractfile(info).read()
                if info is chosen:
                    content = repaired(mutated(random, content, others))
                info.size, info.pax_headers = len(content), {}
                new.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def attempt_file(reader, seeds, seed, number):
    """The N-th file for a reader."""
    chance = random.Random(f"{reader} {seed} {number}")
    data = chance.choice(seeds)
    archive = data[:2] == b"PK" or data[257:262] == b"ustar"
    if archive and chance.random() < 0.7:
        return mutated_member(chance, data, seeds)
    changed = mutated(chance, data, seeds)
    return repaired(changed) if chance.random() < 0.6 else changed


# --- workers and their supervisor --------------------------------------------------------------


def attempt(read, place, data):
    """Outcome of reading a file: ``read``, ``refused`` or the traceback of a failure."""
    try:
        read(place, data)
    except DrstoolError as error:
        assert "\n" not in str(error)
        return "refused"
    except Exception:
        return traceback.format_exc()
    return "read"


def work(reader, seed, start, stop):
    """Try files, and report each one on stdout before it is read, and its outcome afterwards."""
    make, read = READERS[reader]
    seeds = list(make())
    limit = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    tell = sys.stdout
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as folder:
        place = Place(folder)
        # The address space of the loaded libraries, plus what a file may take.
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
        for number in range(start, stop):
            tell.write(f"{number}\n")
            tell.flush()
            outcome = attempt(read, place, attempt_file(reader, seeds, seed, number))
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            tell.write(json.dumps([number, outcome, peak - limit]) + "\n")
    tell.write("end\n")
    tell.flush()


def seconds_of(process):
    """CPU time of a process so far."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def keep(reader, seed, times):
    """Run workers until all files have been tried, and count the outcomes."""
    counts, failures, number, peak = Counter(), [], 0, 0
    while number < times:
        worker = subprocess.Popen(
            [sys.executable, __file__, "--reader", reader, "--seed", str(seed), "--work", str(number), str(times)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        kind, pending, ended, begun = "crash", b"", False, False
        heard, used = time.monotonic(), 0.0
        while not ended:
            ready, _, _ = select.select([worker.stdout], [], [], 0.5)
            if not ready:
                # CPU time, because other load on the machine is not the file's fault.
                if begun and seconds_of(worker.pid) - used > SECONDS or time.monotonic() - heard > PATIENCE:
                    kind = "hang"
                    worker.kill()
                    break
                continue
            heard, used = time.monotonic(), seconds_of(worker.pid)
            part = os.read(worker.stdout.fileno(), 1 << 16)
            if not part:
                break
            *lines, pending = (pending + part).split(b"\n")
            for line in lines:
                if line == b"end":
                    ended = True
                elif line.startswith(b"["):
                    _, outcome, memory = json.loads(line)
                    peak = max(peak, memory)
                    name = outcome if outcome in ("read", "refused") else "traceback"
                    if "MemoryError" in outcome or "Unable to allocate" in outcome:
                        name = "memory"
                    if name not in ("read", "refused"):
                        failures.append((number, name, outcome.strip().splitlines()[-1]))
                    counts[name] += 1
                    number += 1
                else:
                    number, begun = int(line), True
        error = worker.communicate()[1].decode(errors="replace").strip().splitlines()
        if not begun:
            raise SystemExit(f"the worker for {reader} did not start: {error[-1:]}")
        if not ended:
            counts[kind] += 1
            failures.append((number, kind, f"{worker.returncode} {error[-1] if error else ''}"))
            number += 1
    return counts, failures, peak


COLUMNS = ("read", "refused", "traceback", "crash", "hang", "memory")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reader", choices=READERS, action="append", help="reader to test; repeatable; default: all")
    parser.add_argument("--times", type=int, default=1000, help="number of files per reader")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--show", type=int, metavar="N", help="write the N-th file to stdout, and read it")
    parser.add_argument("--work", type=int, nargs=2, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.work:
        work(chosen.reader[0], chosen.seed, *chosen.work)
        return 0
    if chosen.show is not None:
        make, read = READERS[chosen.reader[0]]
        data = attempt_file(chosen.reader[0], list(make()), chosen.seed, chosen.show)
        sys.stdout.buffer.write(data)
        with tempfile.TemporaryDirectory() as folder:
            print(attempt(read, Place(folder), data), file=sys.stderr)
        return 0
    print(f"{'reader':<13} {'tries':>7} " + " ".join(f"{name:>9}" for name in COLUMNS) + f" {'MB':>6} {'s':>6}")
    failed = False
    for reader in chosen.reader or READERS:
        began = time.monotonic()
        counts, failures, peak = keep(reader, chosen.seed, chosen.times)
        print(f"{reader:<13} {chosen.times:>7} " + " ".join(f"{counts[name]:>9}" for name in COLUMNS)
              + f" {peak / 1024:>6.0f} {time.monotonic() - began:>6.0f}", flush=True)
        for number, kind, line in failures[:20]:
            print(f"  file {number}: {kind}: {line}", flush=True)
        failed |= bool(failures)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
