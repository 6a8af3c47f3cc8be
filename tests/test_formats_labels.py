"""Label PNGs and folders of them."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import zlib
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps
from PIL import Image

from drstool.artifacts.header import Header
from drstool.errors import InputError, OutputError
from drstool.files import _read_whole
from drstool.formats import open_records, open_sink
from drstool.formats.label_png import encode_label_png, read_label_png
from drstool.formats.records import LabelRecord
from drstool.labels import palette

HEADER = Header("labels", ("cat", "dog"))
LABELS = np.array([[0, 1, 2], [255, 0, 1]], np.uint8)


def png(picture: Image.Image, **options) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", **options)
    return buffer.getvalue()


def raw_png(values: np.ndarray, depth: int, colour: int = 0) -> bytes:
    """A PNG of few bits a pixel, which Pillow itself does not write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    height, width = values.shape
    bits = np.unpackbits(values[..., None], axis=-1)[..., -depth:].reshape(height, -1)
    rows = b"".join(b"\0" + np.packbits(row).tobytes() for row in bits)
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    colours = chunk(b"PLTE", palette()[: 1 << depth].tobytes()) if colour == 3 else b""
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + colours
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def write(folder, *records: LabelRecord, header: Header = HEADER, **options) -> None:
    with open_sink(str(folder), header, **options) as sink:
        sink.write_all(records)


def read(folder) -> dict[str, list]:
    with open_records(str(folder)) as source:
        assert not source.is_maps
        return {record.id: record.labels.tolist() for record in source.records()}


@settings(max_examples=50, deadline=None)
@given(nps.arrays(np.uint8, nps.array_shapes(min_dims=2, max_dims=2, max_side=9)), st.booleans())
def test_any_labels_survive(labels, grey):
    assert np.array_equal(read_label_png(encode_label_png(labels, grey=grey)), labels)


def test_files_that_change_while_they_are_read(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(bytes(range(100)))
    file = os.open(path, os.O_RDONLY)
    try:
        for told in (100, 0, 10, 99, 150):
            os.lseek(file, 0, os.SEEK_SET)
            assert _read_whole(file, told, 100, "x") == bytes(range(100))
        for told, most in ((10, 99), (99, 99), (0, 0)):
            os.lseek(file, 0, os.SEEK_SET)
            with pytest.raises(InputError, match=f"x: has more than {most} bytes"):
                _read_whole(file, told, most, "x")
    finally:
        os.close(file)


def test_the_png_is_paletted_in_voc_colours():
    picture = Image.open(io.BytesIO(encode_label_png(LABELS)))
    assert picture.mode == "P" and picture.size == (3, 2)
    assert np.array_equal(np.asarray(picture.convert("RGB")), palette()[LABELS])


def test_other_peoples_pngs_are_read():
    small = np.array([[0, 1, 1, 0, 1]], np.uint8)
    for depth in (1, 2, 4, 8):
        for colour in (0, 3):
            assert np.array_equal(read_label_png(raw_png(small, depth, colour)), small)
    many = np.arange(16, dtype=np.uint8).reshape(2, 8)
    for colour in (0, 3):
        assert np.array_equal(read_label_png(raw_png(many, 4, colour)), many)
    assert np.array_equal(read_label_png(png(Image.fromarray(LABELS))), LABELS)


@pytest.mark.parametrize(
    ("picture", "told"),
    [
        (Image.new("RGB", (2, 2)), "mode RGB"),
        (Image.new("RGBA", (2, 2)), "mode RGBA"),
        (Image.new("LA", (2, 2)), "mode LA"),
    ],
)
def test_colours_are_no_labels(picture, told):
    with pytest.raises(InputError, match=f"{told}.*greyscale PNG"):
        read_label_png(png(picture), "a.png")


def test_cut_and_flipped_pngs_are_told():
    labels = np.random.default_rng(0).integers(0, 256, (9, 9), np.uint8)
    data = encode_label_png(labels)
    for end in range(len(data) - 4):
        with pytest.raises(InputError):
            read_label_png(data[:end], "a.png")
    for place in range(len(data)):
        flipped = bytearray(data)
        flipped[place] ^= 1
        # The length of the empty last chunk says nothing about the picture.
        with suppress(InputError):
            assert np.array_equal(read_label_png(bytes(flipped), "a.png"), labels)
            assert place >= len(data) - 12


def test_a_huge_png_is_refused_before_it_is_unpacked():
    data = bytearray(encode_label_png(LABELS))
    data[16:24] = struct.pack(">II", 1 << 17, 1 << 17)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    with pytest.raises(InputError, match="pixels"):
        read_label_png(bytes(data), "a.png")


def test_a_missing_png_is_told(tmp_path):
    with pytest.raises(InputError, match="No such file"):
        read_label_png(tmp_path / "a.png")


@pytest.mark.parametrize("array", [LABELS.astype(int), LABELS[None], LABELS[:0]])
def test_only_labels_are_coded(array, tmp_path):
    with pytest.raises(ValueError):
        encode_label_png(array)
    with pytest.raises(InputError), open_sink(str(tmp_path / "out"), HEADER) as sink:
        sink.write(LabelRecord("a", array))


def test_a_folder_survives(tmp_path):
    write(tmp_path / "out", LabelRecord("b/ä 1", LABELS, "b/ä 1.jpg"), LabelRecord("a.x", LABELS.T))
    names = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.*")}
    assert names == {"drstool.json", "drstool.end.json", "b/ä 1.png", "a.x.png"}
    assert {path.name for path in tmp_path.iterdir()} == {"out"}
    with open_records(str(tmp_path / "out")) as source:
        assert source.header == HEADER and source.kind == "labels"
        assert source.ids() == ("a.x", "b/ä 1") and source.read("b/ä 1").image == "b/ä 1.jpg"
        assert source.read("a.x").labels.tolist() == LABELS.T.tolist()
        with pytest.raises(InputError, match="no labels for 'c'"):
            source.read("c")


def test_an_empty_folder_of_ours_is_whole(tmp_path):
    write(tmp_path / "out")
    assert read(tmp_path / "out") == {}


def test_saliency_is_grey_and_of_any_value(tmp_path):
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    write(tmp_path / "out", LabelRecord("a", grey), header=Header("saliency", ()))
    assert Image.open(tmp_path / "out/a.png").mode == "L"
    assert read(tmp_path / "out") == {"a": grey.tolist()}


def test_the_same_labels_are_the_same_bytes(tmp_path):
    for name in ("1", "2"):
        write(tmp_path / name, LabelRecord("a", LABELS, "a.jpg"))
    for name in ("drstool.json", "a.png", "drstool.end.json"):
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes()


@pytest.mark.parametrize(
    ("first", "second"), [("a", "a"), ("a", "a.png/b"), ("a.png/b", "a"), ("a", "a.png/b/c")]
)
def test_names_that_clash_are_told_and_the_rest_goes_on(tmp_path, first, second):
    with open_sink(str(tmp_path / "out"), HEADER) as sink:
        sink.write(LabelRecord(first, LABELS))
        with pytest.raises(InputError, match="its name is already taken"):
            sink.write(LabelRecord(second, LABELS))
        sink.write(LabelRecord("z", LABELS))
        assert sink.count == 2
    assert set(read(tmp_path / "out")) == {first, "z"}


@pytest.mark.parametrize(
    "record", [LabelRecord("../a", LABELS), LabelRecord("a", np.full((2, 2), 3, np.uint8))]
)
def test_a_bad_record_is_told(tmp_path, record):
    with pytest.raises(InputError), open_sink(str(tmp_path / "out"), HEADER) as sink:
        sink.write(record)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt])
def test_a_failure_leaves_no_folder(tmp_path, failure):
    with pytest.raises(failure), open_sink(str(tmp_path / "out"), HEADER) as sink:
        sink.write(LabelRecord("a", LABELS))
        raise failure
    assert not list(tmp_path.iterdir())


def test_overwriting_is_asked_for(tmp_path):
    write(tmp_path / "out", LabelRecord("a", LABELS))
    with pytest.raises(OutputError, match="--overwrite"):
        write(tmp_path / "out", LabelRecord("b", LABELS))
    assert set(read(tmp_path / "out")) == {"a"}
    write(tmp_path / "out", LabelRecord("b", LABELS), overwrite=True)
    assert set(read(tmp_path / "out")) == {"b"}


def test_a_folder_of_somebody_else_is_read(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/x 1.png").write_bytes(encode_label_png(LABELS))
    (tmp_path / "b.PNG").write_bytes(png(Image.fromarray(LABELS)))
    (tmp_path / "c.png").symlink_to(tmp_path / "b.PNG")
    (tmp_path / "._b.png").write_bytes(b"junk")
    (tmp_path / "notes.txt").write_bytes(b"junk")
    with open_records(str(tmp_path)) as source:
        assert source.header is None and source.kind == "labels"
        assert source.ids() == ("b", "c", "sub/x 1")
        assert all(np.array_equal(record.labels, LABELS) for record in source.records())


def test_folders_that_are_not_whole_are_told(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no PNG"):
        open_records(str(tmp_path / "empty"))
    write(tmp_path / "out", LabelRecord("a", LABELS), LabelRecord("b", LABELS))
    (tmp_path / "out/b.png").unlink()
    with pytest.raises(InputError, match="1 records where its end record says 2"):
        open_records(str(tmp_path / "out"))
    for damage in (b"", b"{}", b'{"count": "2", "complete": true}', b'{"count": 1}'):
        (tmp_path / "out/drstool.end.json").write_bytes(damage)
        with pytest.raises(InputError, match="end record"):
            open_records(str(tmp_path / "out"))
    (tmp_path / "out/drstool.end.json").unlink()
    with pytest.raises(InputError, match=r"has no end record 'drstool.end.json'"):
        open_records(str(tmp_path / "out"))
    (tmp_path / "out/drstool.json").write_bytes(b"{}")
    with pytest.raises(InputError, match=r"drstool.json: "):
        open_records(str(tmp_path / "out"))


def test_a_value_that_is_no_class_is_told_on_reading(tmp_path):
    write(tmp_path / "out", LabelRecord("a", LABELS))
    (tmp_path / "out/a.png").write_bytes(encode_label_png(LABELS + np.uint8(2)))
    with pytest.raises(InputError, match=r"out: a: contains unknown label values: 3, 4"):
        read(tmp_path / "out")


def test_a_limit_of_the_file_size_ends_in_one_line(tmp_path):
    code = """
import resource, sys
import numpy as np
from drstool.errors import OutputError
from drstool.formats import Header, LabelRecord, open_sink
resource.setrlimit(resource.RLIMIT_FSIZE, (3_000, 3_000))
noise = np.random.default_rng(0).integers(0, 2, (200, 200), np.uint8)
try:
    with open_sink("out", Header("labels", ("cat",))) as sink:
        sink.write(LabelRecord("a", noise))
except OutputError as error:
    print(error, file=sys.stderr)
    sys.exit(1)
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.getcwd()},
    )
    assert done.returncode == 1 and done.stderr.startswith("out: cannot be written: File too large")
    assert done.stderr.count("\n") == 1 and not list(tmp_path.iterdir())
