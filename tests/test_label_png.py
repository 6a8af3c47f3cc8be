"""Label PNGs as other programs may write them, whole and damaged."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from drstool.artifacts.header import Header
from drstool.errors import InputError
from drstool.formats.label_png import decode_label, encode_label_png, label_info, read_label_png
from drstool.png import chunks, is_whole_png

LABELS = np.random.default_rng(0).choice(np.uint8([0, 1, 7, 20, 255]), (23, 31))


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(rows, *, depth=8, colour=0, interlace=0, width=31, height=23, cuts=(), tail=b"", more=b""):
    """A PNG of packed rows, cut into chunks of pixels."""
    packed = zlib.compress(rows) + more
    ends = (0, *cuts, len(packed))
    pixels = b"".join(chunk(b"IDAT", packed[a:b]) for a, b in zip(ends, ends[1:]))
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlace))
    return b"\x89PNG\r\n\x1a\n" + header + pixels + tail + chunk(b"IEND", b"")


def rows_of(labels, number=0):
    """Rows with the number of their filter before."""
    return np.pad(labels, ((0, 0), (1, 0)), constant_values=number).tobytes()


def by_pillow(data):
    return np.asarray(Image.open(io.BytesIO(data)))


SUB = np.diff(LABELS, axis=1, prepend=np.uint8(0))
PICTURES = {
    "ours": encode_label_png(LABELS),
    "grey": png(rows_of(LABELS)),
    "many chunks": png(rows_of(LABELS), cuts=(1, 2, 40)),
    "filtered": png(rows_of(SUB, 1)),
    "one row filtered": png(rows_of(LABELS[:-1]) + rows_of(SUB[-1:], 1)),
    "text behind": png(rows_of(LABELS), tail=chunk(b"tEXt", b"a\0b")),
    "more behind the pixels": png(rows_of(LABELS), more=b"more"),
    "4 bits": png(rows_of(LABELS[:, :16] & 0xF), depth=4),
    "16 bits": png(rows_of(np.repeat(LABELS, 2, axis=1)), depth=16),
}


@pytest.mark.parametrize("name", PICTURES)
def test_pngs_of_all_makes_are_read(name):
    found, expected = read_label_png(PICTURES[name]), by_pillow(PICTURES[name])
    assert found.dtype == (np.uint16 if name == "16 bits" else np.uint8) and found.flags.writeable
    np.testing.assert_array_equal(found, expected // 17 if name == "4 bits" else expected)


def with_chunks(*before, cut=None, between=b""):
    """A plain PNG with other chunks before its pixels, or between them."""
    data = png(rows_of(LABELS), cuts=() if cut is None else (cut,))
    place = data.index(b"IDAT") - 4
    data = data[:place] + b"".join(chunk(*each) for each in before) + data[place:]
    if cut is not None:
        place = data.rindex(b"IDAT") - 4
        data = data[:place] + between + data[place:]
    return data


PALETTE = bytes(range(256)) * 3
SUSPECT = {
    "text between the pixels": with_chunks(cut=50, between=chunk(b"tEXt", b"a\0b")),
    "a frame of an animation": with_chunks((b"acTL", struct.pack(">II", 1, 0)),
                                           (b"fcTL", struct.pack(">IIIIIHHBB", 0, 4, 4, 0, 0, 1, 1, 0, 0))),
    "a second header": with_chunks((b"IHDR", struct.pack(">IIBBBBB", 31, 23, 1, 0, 0, 0, 0))),
    "a palette that is too long": with_chunks((b"PLTE", PALETTE + b"abc")),
    "a chunk that nobody knows": with_chunks((b"abCd", b"x")),
    "thousands of parts": png(rows_of(LABELS), cuts=(1,) * 5000),
    "a resolution cut short": with_chunks((b"pHYs", b"\0")),
    "a gamma that is too long": with_chunks((b"gAMA", struct.pack(">II", 45455, 0))),
    "transparency": with_chunks((b"tRNS", b"\0\1")),
}


@pytest.mark.parametrize("name", SUSPECT)
def test_odd_chunks_are_read_as_pillow_reads_them_or_refused(name):
    data = SUSPECT[name]
    try:
        expected = by_pillow(data)
    except (OSError, ValueError, SyntaxError):
        with pytest.raises(InputError, match="damaged"):
            read_label_png(data)
    else:
        if expected.dtype == np.uint8:
            np.testing.assert_array_equal(read_label_png(data), expected)


def test_harmless_chunks_change_nothing():
    data = with_chunks((b"tEXt", b"a\0b"), (b"pHYs", struct.pack(">IIB", 1, 1, 1)), (b"gAMA", struct.pack(">I", 45455)))
    np.testing.assert_array_equal(read_label_png(data), LABELS)


@pytest.mark.parametrize("name", [*PICTURES, *SUSPECT])
def test_info_is_that_of_the_decoded_record(name):
    data = {**PICTURES, **SUSPECT}[name]
    try:
        record = decode_label("a", data, None, "x")
    except InputError:
        return
    found = label_info("a", data, None, "x")
    assert found == {"shape": list(record.labels.shape), "dtype": str(record.labels.dtype), "image": ""}


def test_info_of_what_we_wrote_and_of_damaged_files():
    narrow, wide = (Header("labels", tuple(map(str, range(count)))) for count in (20, 300))
    for labels, header in ((LABELS, narrow), (LABELS.astype(np.uint16) % 8, wide), (LABELS % 8, wide)):
        data = encode_label_png(labels, image="a/\u00e9.jpg")
        record = decode_label("a", data, header, "x")
        assert {"id": "a", **label_info("a", data, header, "x")} == record.info()
        colours = png(rows_of(np.repeat(LABELS, 3, axis=1)), colour=2)
        for bad in (data[:-20], data[:50] + b"?" + data[51:], b"", colours):
            with pytest.raises(InputError, match="x: a: "):
                label_info("a", bad, header, "x")


KEY = b"drstool:image"
PATH = "a/\u00e9.jpg".encode()
TEXTS = {
    "none": (),
    "ours": [(b"iTXt", KEY + b"\0\0\0\0\0" + PATH)],
    "another's": [(b"iTXt", b"Title\0\0\0\0\0" + PATH), (b"tEXt", b"Title\0x")],
    "of a language": [(b"iTXt", KEY + b"\0\0\0fr\0\0" + PATH)],
    "packed": [(b"iTXt", KEY + b"\0\1\0\0\0" + zlib.compress(PATH))],
    "another's, packed": [(b"zTXt", b"Title\0\0" + zlib.compress(b"x"))],
    "of Latin letters": [(b"tEXt", KEY + b"\0a.jpg")],
    "twice": [(b"iTXt", KEY + b"\0\0\0\0\0a"), (b"iTXt", KEY + b"\0\0\0\0\0b")],
    "of many letters": [(b"iTXt", KEY + b"\0\0\0\0\0" + b"a" * 70_000)],
    "no letters": [(b"iTXt", KEY + b"\0\0\0\0\0\xff")],
}


@pytest.mark.parametrize("name", TEXTS)
def test_path_of_the_image_is_read_as_pillow_reads_it(name):
    data = with_chunks(*TEXTS[name])
    picture = Image.open(io.BytesIO(data))
    picture.load()
    assert decode_label("a", data, None, "x").image == picture.info.get(KEY.decode(), "")


@pytest.mark.parametrize("rows", [
    rows_of(LABELS)[:-1], rows_of(LABELS[:5]), rows_of(LABELS) + b"\0", b"", b"\0" * 50_000_000])
def test_wrong_numbers_of_pixels(rows):
    """Fewer than there should be are an error; of more, the rest is not unpacked."""
    data = png(rows)
    try:
        expected = by_pillow(data)
    except OSError:
        with pytest.raises(InputError, match="damaged"):
            read_label_png(data)
    else:
        np.testing.assert_array_equal(read_label_png(data), expected)


def test_damaged_pixels_are_an_error():
    packed = bytearray(zlib.compress(rows_of(LABELS)))
    packed[len(packed) // 2] ^= 0xFF
    data = png(rows_of(LABELS)).replace(
        chunk(b"IDAT", zlib.compress(rows_of(LABELS))), chunk(b"IDAT", bytes(packed)))
    with pytest.raises(InputError, match="damaged"):
        read_label_png(data)


def test_chunks_are_listed_with_and_without_their_checksums(tmp_path):
    data = png(rows_of(LABELS), cuts=(9,), tail=chunk(b"tEXt", b"a\0b"))
    kinds = [b"IHDR", b"IDAT", b"IDAT", b"tEXt", b"IEND"]
    assert [kind for kind, _ in chunks(io.BytesIO(data))] == kinds
    assert list(chunks(io.BytesIO(data)))[-2:] == [(b"tEXt", b"a\0b"), (b"IEND", b"")]
    assert list(chunks(io.BytesIO(data), check=False)) == [(kind, b"") for kind in kinds]
    changed = data.replace(b"a\0b", b"a\0c")
    assert [kind for kind, _ in chunks(io.BytesIO(changed), check=False)] == kinds
    with pytest.raises(ValueError, match="checksum of chunk b'tEXt'"):
        list(chunks(io.BytesIO(changed)))
    for cut in range(len(data)):
        with pytest.raises(ValueError, match="truncated|does not begin"):
            list(chunks(io.BytesIO(data[:cut])))


def test_whole_pngs_are_told_from_others(tmp_path):
    path = tmp_path / "a.png"
    Image.linear_gradient("L").save(path)
    data = path.read_bytes()
    assert is_whole_png(path)
    for bad in (*(data[:n] for n in range(0, len(data), 7)), data + b"x", b"", data[:60] + b"?" + data[61:]):
        path.write_bytes(bad)
        assert not is_whole_png(path)
    assert not is_whole_png(tmp_path / "none.png")
