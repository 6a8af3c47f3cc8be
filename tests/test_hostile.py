"""Files made to harm their reader: no code runs, nothing outside is touched, memory stays bounded."""

import io
import json
import os
import pickle
import resource
import struct
import subprocess
import sys
import tarfile
import zipfile
import zlib

import h5py
import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from drstool.annotations.coco import CocoMask
from drstool.annotations.voc_xml import object_names
from drstool.checkpoints.torch_file import check_torch_file
from drstool.data import load_image, load_saliency, open_dataset
from drstool.data.tags import read_class_names
from drstool.errors import InputError
from drstool.formats import Header, LabelRecord, MapRecord, open_records, open_sink, write_pictures
from drstool.formats.label_png import read_label_png
from drstool.identifiers import Names, check_id

MAPS = Header("localization-maps", ("bar", "disc"))
LABELS = Header("labels", ("bar", "disc"))


# --- checkpoints -------------------------------------------------------------------------------


def state_dict(path):
    import torch

    torch.save({"w": torch.ones(4)}, path)
    return path


def members(path):
    with zipfile.ZipFile(path) as archive:
        return {info.filename: archive.read(info) for info in archive.infolist()}


def rewritten(path, change=lambda name, data: data, compression=zipfile.ZIP_STORED):
    """The same archive with other contents, and with checksums that fit."""
    content = members(path)
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in content.items():
            archive.writestr(name, change(name, data))
    return path


def pickled(path, data):
    return rewritten(path, lambda name, old: data if name.endswith("data.pkl") else old)


CHECKPOINTS = {
    "bytes by the gigabyte": lambda p: pickled(p, b"\x80\x02cbuiltins\nbytearray\nJ\x00\x00\x00\x7f\x85R."),
    "tensor of a size": lambda p: pickled(p, b"\x80\x02ctorch\nTensor\nJ\x00\x00\x00\x7f\x85R."),
    "code": lambda p: pickled(p, b"\x80\x02cposix\nsystem\nX\x04\x00\x00\x00true\x85R."),
    "code by an instance": lambda p: pickled(p, b"(S'true'\nios\nsystem\n."),
    "code, protocol 4": lambda p: pickled(p, pickle.dumps(os.system, 4)),
    "code by an extension": lambda p: pickled(p, b"\x80\x02\x82\x01."),
    "members that inflate": lambda p: rewritten(
        p, lambda name, data: data + bytes(1 << 20) if "/data/" in name else data, zipfile.ZIP_DEFLATED),
    "storage larger than its member": lambda p: rewritten(
        p, lambda name, data: data.replace(b"K\x04tq", b"J\x00\x00\x00\x10tq")),
    "tensor larger than its storage": lambda p: rewritten(
        p, lambda name, data: data.replace(b"K\x00K\x04\x85", b"K\x00J\x00\x00\x00\x10\x85")),
    "two archives in one": lambda p: p.write_bytes(b"".join((p.read_bytes(), p.read_bytes()))) and p,
    "archive behind something": lambda p: p.write_bytes(b"PK\3\4" + p.read_bytes()) and p,
    "bytes behind the archive": lambda p: p.write_bytes(p.read_bytes() + b"more") and p,
    "flipped bit": lambda p: p.write_bytes(p.read_bytes().replace(b"\x80\x3f", b"\x80\x40", 1)) and p,
    "old form, code": lambda p: p.write_bytes(pickle.dumps(os.system, 2)) and p,
    "old form, bytes by the gigabyte": lambda p: p.write_bytes(
        b"\x80\x02cbuiltins\nbytearray\nJ\x00\x00\x00\x7f\x85R.") and p,
    "pickle without end": lambda p: pickled(p, b"\x80\x02]q\x00"),
    "nothing on the stack": lambda p: pickled(p, b"\x80\x02Rs."),
}


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_checkpoint(tmp_path, name):
    from drstool.checkpoints.checkpoint import load_tensors

    path = CHECKPOINTS[name](state_dict(tmp_path / "x.pt"))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InputError, match="x.pt"):
        load_tensors(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000


def test_overlapping_members(tmp_path):
    """Many names for the same bytes: more comes out than is there."""
    path = state_dict(tmp_path / "x.pt")
    data = bytearray(path.read_bytes())
    (entries,) = struct.unpack_from("<H", data, len(data) - 22 + 10)
    start, = struct.unpack_from("<I", data, len(data) - 22 + 16)
    place = start
    for _ in range(entries):
        name_length, extra, comment = struct.unpack_from("<HHH", data, place + 28)
        struct.pack_into("<II", data, place + 20, 1 << 20, 1 << 20)
        place += 46 + name_length + extra + comment
    path.write_bytes(data)
    with pytest.raises(InputError, match="x.pt"):
        check_torch_file(path)


@pytest.mark.parametrize("error", [RecursionError("too deep"), KeyError("x"), RuntimeError("a\nb")])
def test_whatever_torch_raises_is_one_line(tmp_path, monkeypatch, error):
    import torch

    from drstool.checkpoints.checkpoint import load_tensors

    def fail(*_, **more):
        assert more["weights_only"]
        raise error

    monkeypatch.setattr(torch, "load", fail)
    with pytest.raises(InputError, match="^[^\n]*x.pt: is not a torch file, or is damaged [^\n]*$"):
        load_tensors(state_dict(tmp_path / "x.pt"))


def test_state_dicts_of_all_ages_pass(tmp_path):
    import torch

    content = {"model": {"w": torch.ones(2, 3), "h": torch.ones(2).half(), "n": torch.tensor(3)},
               "p": torch.nn.Parameter(torch.ones(2)), "sizes": torch.Size([1, 2]), "epoch": 3, "best": (0.5, None)}
    torch.save(content, tmp_path / "new.pt")
    torch.save(content, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    torch.save(torch.nn.Linear(2, 2).state_dict(), tmp_path / "module.pt")
    for name in ("new", "old", "module"):
        check_torch_file(tmp_path / f"{name}.pt")


@pytest.mark.parametrize("field, value", [
    ("weights", {"w": "not a tensor"}), ("weights", {1: 2}), ("provenance", ["not an object"]),
    ("recipe", {"lr": 10**5000}), ("class_names", ["a\x1b[2J"]),
])
def test_checkpoint_of_other_values(drs, made, tmp_path, field, value):
    import torch

    content = torch.load(made.cls, weights_only=True)
    content[field] = value
    torch.save(content, tmp_path / "x.pt")
    for command in ("info", "check"):
        outcome = drs(command, tmp_path / "x.pt")
        assert outcome.code == 3
        assert len((outcome.err + outcome.out).splitlines()) == 1


def test_settings_in_settings_without_end(drs, made, tmp_path):
    import torch

    content, deep = torch.load(made.cls, weights_only=True), []
    for _ in range(60):
        deep = [deep, deep]
    content["recipe"] = {"x": deep}
    torch.save(content, tmp_path / "x.pt")
    outcome = drs("info", tmp_path / "x.pt")
    assert (outcome.code, len(outcome.err.splitlines())) == (3, 1)


# --- map files ---------------------------------------------------------------------------------


def map_file(path):
    with open_sink(str(path), MAPS) as sink:
        for identifier in ("a", "b"):
            sink.write(MapRecord(identifier, np.ones((2, 40, 50), np.uint8), (1, 2), (40, 50), "x.jpg"))
    return path


def replaced(file, **options):
    """The first map in another form, under its own attributes."""
    attributes = dict(file["maps/a"].attrs)
    del file["maps/a"]
    dataset = file["maps"].create_dataset("a", **options)
    for name, value in attributes.items():
        dataset.attrs[name] = value


def linked(file, link):
    del file["maps/a"]
    file["maps/a"] = link


def elsewhere(file):
    layout = h5py.VirtualLayout((2, 40, 50), "u1")
    layout[:] = h5py.VirtualSource("other.h5", "x", (2, 40, 50))
    del file["maps/a"]
    file["maps"].create_virtual_dataset("a", layout)


def attribute(file, value, name="image"):
    file["maps/a"].attrs[name] = value


def bomb_chunk(file):
    """A chunk that is declared 2 kB and inflates to a quarter of a gigabyte."""
    replaced(file, shape=(1, 40, 50), dtype="u1", chunks=(1, 40, 50), compression="gzip")
    file["maps/a"].attrs["labels"] = np.array([1], np.uint8)
    deflate = zlib.compressobj(1)
    stored = b"".join(deflate.compress(bytes(1 << 20)) for _ in range(256)) + deflate.flush()
    file["maps/a"].id.write_direct_chunk((0, 0, 0), stored)


def claimed_shape(file):
    """One chunk of zeros, declared as gigabytes."""
    replaced(file, shape=(40, 10_000, 10_000), dtype="u1", chunks=(40, 10_000, 10_000), compression="gzip")


def huge_chunk(file):
    replaced(file, shape=(1, 40, 50), maxshape=(None, None, None), dtype="u1", chunks=(1, 50_000, 50_000))


HDF5 = {
    "external link": lambda f: linked(f, h5py.ExternalLink("/etc/passwd", "/")),
    "soft link": lambda f: linked(f, h5py.SoftLink("/maps/b")),
    "external storage": lambda f: replaced(f, shape=(2, 40, 50), dtype="u1", external=[("/etc/passwd", 0, 4000)]),
    "virtual": elsewhere,
    "no chunk stored": lambda f: replaced(f, shape=(254, 9000, 9000), dtype="f2", chunks=(1, 100, 100)),
    "claimed shape": claimed_shape,
    "huge chunk": huge_chunk,
    "compression bomb": bomb_chunk,
    "filter of a library": lambda f: replaced(f, data=np.ones((2, 40, 50), "u1"), compression="lzf"),
    "filter that is needless": lambda f: replaced(f, data=np.ones((2, 40, 50), "u1"), scaleoffset=4),
    "objects": lambda f: replaced(f, shape=(2, 40, 50), dtype=h5py.ref_dtype),
    "texts": lambda f: replaced(f, data=np.full((2, 4, 5), "x", object), dtype=h5py.string_dtype()),
    "lists": lambda f: replaced(f, shape=(2, 4, 5), dtype=h5py.vlen_dtype(np.uint8)),
    "records": lambda f: replaced(f, shape=(2, 4, 5), dtype=np.dtype([("a", "u1")])),
    "floats": lambda f: replaced(f, shape=(2, 40, 50), dtype="f8"),
    "group": lambda f: linked(f, f["maps"]),
    "long attribute": lambda f: attribute(f, np.zeros(1 << 20), "labels"),
    "attribute of objects": lambda f: attribute(f, f["maps"].ref),
    "attribute of floats": lambda f: attribute(f, 1.5, "image_size"),
    "long text": lambda f: attribute(f, "x" * (17 << 20)),
}


@pytest.mark.parametrize("name", HDF5)
def test_map_file(tmp_path, name):
    path = map_file(tmp_path / "x.h5")
    with h5py.File(path, "r+") as file:
        HDF5[name](file)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with open_records(path) as source, pytest.raises(InputError, match="x.h5: a: "):
        source.read("a")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 400_000
    with open_records(path) as source:
        assert source.read("b").values.all()


def forget_ids(file):
    del file["ids"], file.attrs["count"], file.attrs["crc32"]


def groups_in_groups(file):
    forget_ids(file)
    file["maps/g"] = file["maps"]


def deep_groups(file):
    forget_ids(file)
    file.create_group("maps/" + "/".join("g" * 200))


HEADERS = {
    "nested too deeply": groups_in_groups,
    "deep groups": deep_groups,
    "maps are a link": lambda f: f.move("maps", "m") or f.__setitem__("maps", h5py.SoftLink("/m")),
    "ids of numbers": lambda f: f.__delitem__("ids") or f.create_dataset("ids", data=np.arange(2)),
    "ids of a lie": lambda f: f.__delitem__("ids") or f.create_dataset("ids", (1 << 40,), "S9", chunks=(1000,)),
    "list for a name": lambda f: f.attrs.__setitem__("format", ["drstool"] * 100),
    "class names by the thousand": lambda f: f.attrs.__setitem__("class_names", ["x"] * 5000),
    "class names of a table": lambda f: f.attrs.__setitem__("class_names", [["a"], ["b"]]),
    "long provenance": lambda f: f.attrs.__setitem__("provenance", "[" + " " * (20 << 20) + "]"),
    "deep provenance": lambda f: f.attrs.__setitem__("provenance", '[{"a":' + "[" * 500 + "]" * 500 + "}]"),
    "version of objects": lambda f: f.attrs.__setitem__("version", f["maps"].ref),
}


@pytest.mark.parametrize("name", HEADERS)
def test_map_file_header(tmp_path, name):
    path = map_file(tmp_path / "x.h5")
    with h5py.File(path, "r+") as file:
        HEADERS[name](file)
    with pytest.raises(InputError, match="x.h5"):
        open_records(path)


# --- streams and folders -----------------------------------------------------------------------


def stream_with(member=None, name="a.png", header=None):
    """A stream of one label image, in which the image is another member."""
    png, content = io.BytesIO(), io.BytesIO()
    Image.new("L", (4, 4)).save(png, "PNG")
    with tarfile.open(fileobj=content, mode="w") as archive:
        parts = [("drstool.json", json.dumps(header or LABELS.to_json()).encode()), (name, png.getvalue()),
                 ("drstool.end.json", b'{"count": 1, "complete": true}')]
        for part, data in parts:
            info = tarfile.TarInfo(part)
            info.size = len(data)
            if part == name and member is not None:
                info.type, info.linkname, info.size = member, "/etc/passwd", 0
            archive.addfile(info, io.BytesIO(data))
    return io.BytesIO(content.getvalue())


def test_stream_that_is_whole():
    with open_records(None, stream_with()) as source:
        assert [record.id for record in source.records()] == ["a"]


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE,
                                  tarfile.CONTTYPE, tarfile.GNUTYPE_SPARSE, b"?"])
def test_member_that_is_no_file(kind):
    with open_records(None, stream_with(kind)) as source, pytest.raises(InputError, match="not a file"):
        list(source.records())


@pytest.mark.parametrize("name", ["../a.png", "/a.png", "b/../../a.png", "b//a.png", "a\x07.png", ".png", "b/./a.png"])
def test_member_that_leaves(name):
    with open_records(None, stream_with(name=name)) as source, pytest.raises(InputError):
        list(source.records())


@pytest.mark.parametrize("header", [
    {**LABELS.to_json(), "provenance": [{"a": 10**30}]},
    {**LABELS.to_json(), "class_names": ["\ud800"]},
    {**LABELS.to_json(), "class_names": ["x" * 1000]},
    {**LABELS.to_json(), "provenance": [json.loads("[" * 40 + "]" * 40)]},
])
def test_header_of_a_stream(header):
    with pytest.raises(InputError):
        open_records(None, stream_with(header=header))


TWINS = [("A", "a"), ("stra\u00dfe", "STRASSE"), ("\u00e9", "e\u0301"), ("A/1", "a/2"), ("a/b", "A"), ("A", "a/b"),
         ("\u017f", "S"), ("x/\u00c5", "x/A\u030a"), ("a", "a"), ("a", "a/b"), ("a/b", "a")]


@pytest.mark.parametrize("first, second", TWINS)
def test_names_that_some_system_takes_for_one(first, second, tmp_path):
    names = Names("folder")
    names.add(first)
    with pytest.raises(InputError, match="folder: cannot store"):
        names.add(second)
    with pytest.raises(InputError), open_sink(str(tmp_path / "x"), LABELS) as sink:
        for identifier in (first, second):
            sink.write(LabelRecord(identifier, np.zeros((2, 2), np.uint8)))
    assert list(tmp_path.iterdir()) == []


def test_names_that_are_told_apart():
    names = Names("folder")
    for name in ("a", "b", "a b", "a-b", "c/a", "c/b", "d/a", "ä", "o", "ö", "\u00bd", "1/2", "K", ".x"):
        names.add(name)


def test_figures_of_one_name(tmp_path):
    pictures = [("a_heat_b.png", Image.new("L", (2, 2)))] * 2
    with pytest.raises(InputError, match="name is already taken"):
        write_pictures(tmp_path / "x", Header("figures", ()), pictures)
    assert list(tmp_path.iterdir()) == []


def test_id_that_begins_with_a_dot(tmp_path):
    with open_sink(str(tmp_path / "x"), LABELS) as sink:
        for identifier in (".a", ".b/c", "...d"):
            sink.write(LabelRecord(identifier, np.zeros((2, 2), np.uint8)))
    with open_records(tmp_path / "x") as source:
        assert sorted(record.id for record in source.records()) == ["...d", ".a", ".b/c"]
    with pytest.raises(InputError), open_sink(str(tmp_path / "y"), LABELS) as sink:
        sink.write(LabelRecord("._a", np.zeros((2, 2), np.uint8)))


def test_ids_that_are_too_long():
    check_id("/".join(["x" * 100] * 10), "list")
    for identifier in ("/".join(["x" * 100] * 11), "x" * 201, "a\ud800", "a\n"):
        with pytest.raises(InputError):
            check_id(identifier, "list")


def test_label_that_is_no_file(tmp_path):
    folder = tmp_path / "labels"
    folder.mkdir()
    os.mkfifo(folder / "a.png")
    (folder / "b.png").symlink_to("/dev/zero")
    with open_records(folder) as source:
        for identifier in ("a", "b"):
            with pytest.raises(InputError, match="is not a file"):
                source.read(identifier)


# --- pictures ----------------------------------------------------------------------------------


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width, height, *between, colour=0, first=b""):
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0))
    pixels = zlib.compress(bytes((width + 1) * min(height, 4)))
    return b"\x89PNG\r\n\x1a\n" + first + head + b"".join(between) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


PICTURES = {
    "pixel bomb": png(30_000, 30_000),
    "pixel bomb below Pillow's limit": png(11_000, 11_000),
    "description behind another chunk": png(11_000, 11_000, first=chunk(b"tEXt", b"a\0" + b"b" * 20)),
    "two descriptions": png(4, 4, chunk(b"IHDR", struct.pack(">IIBBBBB", 30_000, 30_000, 8, 0, 0, 0, 0))),
    "text bomb": png(4, 4, *[chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(1 << 26)))] * 4),
    "not a size": png(0, 0),
}


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("name", PICTURES)
def test_picture(tmp_path, name):
    path = tmp_path / "x.png"
    path.write_bytes(PICTURES[name])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for read in (read_label_png, load_image, load_saliency):
        with pytest.raises(InputError, match="x.png"):
            read(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000


def test_long_text_in_a_label_is_bounded(tmp_path):
    text = PngImagePlugin.PngInfo()
    text.add_itxt("drstool:image", "x" * (8 << 20), zip=True)
    Image.new("L", (4, 4)).save(tmp_path / "x.png", pnginfo=text)
    with pytest.raises(InputError, match="x.png"):
        read_label_png(tmp_path / "x.png")


def test_jpeg_of_a_thousand_scans(tmp_path):
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64), (9, 99, 9)).save(buffer, "JPEG", progressive=True)
    data = buffer.getvalue()
    (tmp_path / "usual.jpg").write_bytes(data)
    assert load_image(tmp_path / "usual.jpg").shape == (64, 64, 3)
    last = data.rindex(b"\xff\xda")
    (tmp_path / "x.jpg").write_bytes(data[:last] + data[last:-2] * 1000 + data[-2:])
    with pytest.raises(InputError, match="x.jpg: is a JPEG with 10"):
        load_image(tmp_path / "x.jpg")


# --- lists, annotations ------------------------------------------------------------------------


BOMB = ('<!DOCTYPE lolz [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;">]>'
        "<annotation><object><name>&b;</name></object></annotation>")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "cp037", "iso8859-1"])
def test_document_types_are_refused_in_any_encoding(tmp_path, encoding):
    path = tmp_path / "x.xml"
    declared = f'<?xml version="1.0" encoding="{encoding}"?>'
    if encoding == "cp037":
        # The declaration in ASCII, and what follows in EBCDIC.
        path.write_bytes(declared.encode() + BOMB.encode(encoding))
    else:
        path.write_bytes((declared + BOMB).encode(encoding))
    with pytest.raises(InputError, match="x.xml"):
        object_names(path)


def test_large_annotation_is_refused(tmp_path):
    (tmp_path / "x.xml").write_bytes(b"<a>" + b"<b/>" * (2 << 20) + b"</a>")
    with pytest.raises(InputError, match="at most"):
        object_names(tmp_path / "x.xml")


@pytest.mark.parametrize("name", ["a\tb", "\x1b[31mred", "x" * 201, "\ud800"])
def test_class_names_that_cannot_be_printed(tmp_path, name):
    (tmp_path / "list.jsonl").write_text(json.dumps({"class_names": [name]}) + "\n" + json.dumps(
        {"id": "a", "image": "x.jpg", "tags": [name]}))
    (tmp_path / "x.jpg").write_bytes(b"")
    with pytest.raises(InputError, match="class name"):
        open_dataset(str(tmp_path / "list.jsonl"))


@pytest.mark.parametrize("field", ["image", "mask", "saliency"])
@pytest.mark.parametrize("name", ["\ud800.png", "a\0.png"])
def test_paths_that_no_file_can_have(tmp_path, field, name):
    Image.new("L", (2, 2)).save(tmp_path / "x.png")
    (tmp_path / "list.jsonl").write_text(json.dumps({"id": "a", "image": "x.png", "tags": ["a"], field: name}))
    with pytest.raises(InputError, match="list.jsonl line 1"):
        open_dataset(str(tmp_path / "list.jsonl"))


def test_lists_that_never_end():
    with pytest.raises(InputError, match="more than"):
        read_class_names("/dev/zero")


def coco(tmp_path, size, count):
    Image.new("L", (10, 10)).save(tmp_path / "x.png")
    square = {"image_id": 1, "category_id": 1, "segmentation": [[0, 0, 9, 0, 9, 9]]}
    (tmp_path / "c.json").write_text(json.dumps({
        "images": [{"id": 1, "file_name": "x.png", "height": size, "width": size}],
        "categories": [{"id": 1, "name": "cat"}], "annotations": [{**square, "id": n} for n in range(count)]}))
    return open_dataset(str(tmp_path / "c.json"))


def test_coco_file_that_claims_another_size_is_not_drawn(tmp_path, monkeypatch):
    from drstool.data import load_target

    monkeypatch.setattr("drstool.annotations.coco._region", None)
    with pytest.raises(InputError, match="10000 × 10000"):
        load_target(coco(tmp_path, 10_000, 3).items[0], (10, 10))


def test_coco_file_of_too_many_objects(tmp_path):
    coco(tmp_path, 10_000, 200)
    with pytest.raises(InputError, match="200 annotations"):
        CocoMask(tmp_path / "c.json", "1").rasterize()


def test_csv_field_that_is_too_long(tmp_path):
    (tmp_path / "x.csv").write_text('id,image\n"' + "x" * 200_000 + '",x.jpg\n')
    with pytest.raises(InputError, match="x.csv line"):
        open_dataset(str(tmp_path / "x.csv"))


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 5000, "9" * 10_000, '{"images": ' + "[" * 3000])
def test_deep_json(tmp_path, text):
    for name in ("x.jsonl", "x.json"):
        (tmp_path / name).write_text(text)
        with pytest.raises(InputError, match=name):
            open_dataset(str(tmp_path / name))


# --- outside ------------------------------------------------------------------------------------

_PLUGIN = """
import sys
from drstool.formats import open_records
from drstool.errors import InputError
with open_records(sys.argv[1]) as source:
    try:
        source.read("a")
    except InputError as error:
        print(error)
"""


def test_no_library_is_looked_for(tmp_path):
    """A filter's library would be loaded from here; it is refused before HDF5 looks."""
    path = map_file(tmp_path / "x.h5")
    with h5py.File(path, "r+") as file:
        plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plan.set_chunk((2, 40, 50))
        plan.set_filter(32015, h5py.h5z.FLAG_OPTIONAL, ())
        del file["maps/a"]
        space = h5py.h5s.create_simple((2, 40, 50))
        h5py.h5d.create(file["maps"].id, b"a", h5py.h5t.STD_U8LE, space, plan)
        h5py.Dataset(file["maps"].id and h5py.h5d.open(file["maps"].id, b"a")).id.write_direct_chunk(
            (0, 0, 0), bytes(4000))
    (tmp_path / "plugins").mkdir()
    os.mkfifo(tmp_path / "plugins" / "libtrap.so")
    done = subprocess.run(
        [sys.executable, "-c", _PLUGIN, path], capture_output=True, text=True, timeout=60,
        env={**os.environ, "HDF5_PLUGIN_PATH": str(tmp_path / "plugins"),
             "PYTHONPATH": os.pathsep.join(sys.path)})
    assert "uses the HDF5 filters [32015]" in done.stdout, done.stderr
