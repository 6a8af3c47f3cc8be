"""PNGs whose rows are stored as they are, read without Pillow: the same values; what is wrong, Pillow tells."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from drstool.errors import InputError
from drstool.formats.label_png import _check_chunks, _plain, decode_label, encode_label_png, read_label_png

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


def plain(data):
    found = _plain(_check_chunks(data))
    return None if found is None else found[0]


def by_pillow(data):
    return np.asarray(Image.open(io.BytesIO(data)))


SUB = np.diff(LABELS, axis=1, prepend=np.uint8(0))
PLAIN = {
    "ours": encode_label_png(LABELS),
    "grey": png(rows_of(LABELS)),
    "many chunks": png(rows_of(LABELS), cuts=(1, 2, 40)),
}
OTHERS = {
    "filtered": png(rows_of(SUB, 1)),
    "one row filtered": png(rows_of(LABELS[:-1]) + rows_of(SUB[-1:], 1)),
    "text behind": png(rows_of(LABELS), tail=chunk(b"tEXt", b"a\0b")),
    "more behind the pixels": png(rows_of(LABELS), more=b"more"),
    "4 bits": png(rows_of(LABELS[:, :16] & 0xF), depth=4),
    "16 bits": png(rows_of(np.repeat(LABELS, 2, axis=1)), depth=16),
}


@pytest.mark.parametrize("name", PLAIN)
def test_plain_ones_are_read_at_once(name):
    found = plain(PLAIN[name])
    assert found.dtype == np.uint8 and found.flags.writeable
    np.testing.assert_array_equal(found, LABELS)
    np.testing.assert_array_equal(read_label_png(PLAIN[name]), by_pillow(PLAIN[name]))


@pytest.mark.parametrize("name", OTHERS)
def test_others_are_left_to_pillow(name):
    assert plain(OTHERS[name]) is None
    expected = by_pillow(OTHERS[name])
    np.testing.assert_array_equal(read_label_png(OTHERS[name]), expected // 17 if name == "4 bits" else expected)


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
def test_where_other_chunks_may_have_a_say_pillow_decides(name):
    data = SUSPECT[name]
    assert plain(data) is None
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
    np.testing.assert_array_equal(plain(data), LABELS)
    np.testing.assert_array_equal(by_pillow(data), LABELS)


KEY = b"drstool:image"
PATH = "a/\u00e9.jpg".encode()
TEXTS = {
    "none": ((), True),
    "ours": ([(b"iTXt", KEY + b"\0\0\0\0\0" + PATH)], True),
    "another's": ([(b"iTXt", b"Title\0\0\0\0\0" + PATH), (b"tEXt", b"Title\0x")], True),
    "of a language": ([(b"iTXt", KEY + b"\0\0\0fr\0\0" + PATH)], False),
    "packed": ([(b"iTXt", KEY + b"\0\1\0\0\0" + zlib.compress(PATH))], False),
    "another's, packed": ([(b"zTXt", b"Title\0\0" + zlib.compress(b"x"))], False),
    "of Latin letters": ([(b"tEXt", KEY + b"\0a.jpg")], False),
    "twice": ([(b"iTXt", KEY + b"\0\0\0\0\0a"), (b"iTXt", KEY + b"\0\0\0\0\0b")], False),
    "of many letters": ([(b"iTXt", KEY + b"\0\0\0\0\0" + b"a" * 70_000)], False),
    "no letters": ([(b"iTXt", KEY + b"\0\0\0\0\0\xff")], False),
}


@pytest.mark.parametrize("name", TEXTS)
def test_path_of_the_image_is_read_as_pillow_reads_it(name):
    chunks, at_once = TEXTS[name]
    data = with_chunks(*chunks)
    assert (plain(data) is not None) is at_once
    picture = Image.open(io.BytesIO(data))
    picture.load()
    assert decode_label("a", data, None, "x").image == picture.info.get(KEY.decode(), "")


@pytest.mark.parametrize("rows", [
    rows_of(LABELS)[:-1], rows_of(LABELS[:5]), rows_of(LABELS) + b"\0", b"", b"\0" * 50_000_000])
def test_wrong_numbers_of_pixels_are_no_plain_ones(rows):
    """Fewer than there should be, or more, of which no more than one is unpacked."""
    data = png(rows)
    assert plain(data) is None
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
    assert plain(data) is None
    with pytest.raises(InputError, match="damaged"):
        read_label_png(data)
