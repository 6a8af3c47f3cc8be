"""Label images: paletted PNGs in VOC colours, alone and in folders.

With more object classes than a byte holds they are grey PNGs of 16 bits, as a palette has 256 colours.

A folder of labels is an unpacked stream: ``drstool.json``, ``<id>.png`` for each image, and
``drstool.end.json`` last. A folder without ``drstool.json`` is somebody else's; its PNGs are read
all the same, with their paths below the folder as ids.
"""

from __future__ import annotations

import io
import json
import os
import stat
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from drstool.errors import ForeignError, InputError, UnfinishedError
from drstool.formats.header import (
    END_NAME, HEADER_NAME, MAX_HEADER_BYTES, MAX_PIXELS, Header, carrier, json_bytes,
)
from drstool.formats.outputs import writing
from drstool.formats.unread import Unread
from drstool.identifiers import ONE_NAME_RULE, Names, check_id, member_name
from drstool.labels import as_label_type, check_label_values, label_type, palette

if TYPE_CHECKING:
    from PIL import Image

__all__ = [
    "LabelFolderReader", "LabelFolderWriter", "LabelRecord",
    "check_end_file", "check_end_record", "check_folder", "check_label_record", "decode_label",
    "encode_label", "encode_label_png", "end_record", "label_paths", "read_bytes", "read_label_png",
]

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# Of a PNG whose first chunk is its description, as the standard demands: type, depth, colour.
_FIRST_CHUNK, _DEPTH, _COLOUR = slice(12, 16), 24, 25
# Sixteen times what the largest picture takes uncompressed.
_MAX_PNG_BYTES = 2**31
_MAX_END_BYTES = 1 << 16
_READ_ONLY = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
_PART_BYTES = 1 << 20
_IMAGE_KEY = "drstool:image"
# Between a text's key and the text: it is not packed, and neither of a language nor with a key in one.
_PLAIN_TEXT = b"\0\0\0\0\0"
_GREY, _PALETTED, _PNG_LEVEL = 0, 3, 6
# Chunks that hold pixels of 8 bits, or have no say in what they are; with their bytes, where there are always as many.
_KNOWN = {
    b"IHDR": 13, b"IDAT": None, b"PLTE": None, b"tEXt": None, b"iTXt": None, b"tIME": 7, b"pHYs": 9, b"gAMA": 4,
    b"sRGB": 1, b"cHRM": 32}
# Longer texts, and those that are packed, of which a few bytes can ask for gigabytes, are Pillow's, which has limits.
_MOST_TEXT_BYTES = 1 << 16
_MOST_PALETTE_BYTES = 3 * 256
# Chunks of a kind; Pillow's way with more of them takes less memory.
_MOST_PARTS = 4096
_DTYPES = (np.dtype(np.uint8), np.dtype(np.uint16))
# Grey PNGs of 2 and 4 bits a pixel come out of Pillow stretched to 0..255 by these factors.
_STRETCH = {2: 85, 4: 17}


@dataclass(frozen=True, eq=False)
class LabelRecord:
    """The label image of one image.

    Parameters
    ----------
    id
        The image's id.
    labels : (H, W) uint8 or uint16
        0 background, 1..C object classes, the highest value ignored, of the type that so many
        classes ask for (:func:`drstool.labels.label_type`); uint8 grey values of saliency maps.
    image
        The image's path as it was given; may be empty.
    """

    id: str
    labels: np.ndarray
    image: str = ""


def encode_label_png(labels: np.ndarray, *, image: str = "", grey: bool = False) -> bytes:
    """A paletted PNG in VOC colours, or a grey one of 16 bits.

    Parameters
    ----------
    labels : (H, W) uint8 or uint16
    image
        Path of the image, kept in the PNG's text where given.
    grey
        Write a grey PNG instead, for saliency maps.

    Examples
    --------
    >>> read_label_png(encode_label_png(np.array([[0, 1, 255]], np.uint8)), "memory").tolist()
    [[0, 1, 255]]
    """
    labels = np.asarray(labels)
    if labels.ndim != 2 or labels.dtype not in _DTYPES or not labels.size:
        raise ValueError(f"a label image is (H, W) uint8 or uint16, not {labels.shape} {labels.dtype}")
    (height, width), wide = labels.shape, labels.dtype == np.uint16
    coloured = not (grey or wide)
    # Before each row, the number of its filter: none.
    rows = np.zeros((height, 1 + width * labels.itemsize), dtype=np.uint8)
    rows[:, 1:] = labels.astype(">u2", order="C").view(np.uint8) if wide else labels
    # Labels lie in runs, and only runs are looked for: a quarter of the time, and up to a quarter more bytes.
    packing = zlib.compressobj(_PNG_LEVEL, strategy=zlib.Z_RLE if coloured else zlib.Z_DEFAULT_STRATEGY)
    chunks = [
        (b"IHDR", struct.pack(">II5B", width, height, 8 * labels.itemsize, _PALETTED if coloured else _GREY, 0, 0, 0)),
        (b"PLTE", _palette_bytes() if coloured else b""),
        # A path that is no Unicode is only shown; nothing reads a file by it.
        (b"iTXt", _IMAGE_KEY.encode() + _PLAIN_TEXT + image.encode("utf-8", "replace") if image else b""),
        (b"IDAT", packing.compress(rows) + packing.flush()),
    ]
    return _SIGNATURE + b"".join(_chunk(*each) for each in chunks if each[1]) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(content, zlib.crc32(kind)))


def read_label_png(source: bytes | str | Path, where: object = None) -> np.ndarray:
    """The label values of a PNG.

    Parameters
    ----------
    source
        The PNG's bytes, or its path.
    where
        Named in errors; the path where not given.

    Returns
    -------
    (H, W) uint8 or uint16
        The palette's indices, or the grey values; uint16 of a PNG of 16 bits.

    Raises
    ------
    InputError
        It is missing, no PNG, damaged, too large, or in colours instead of label values.
    """
    return _decode(read_bytes(source, where), where if where is not None else source)[0]


def encode_label(record: LabelRecord, header: Header) -> bytes:
    """A record as the PNG that folders and streams of its kind hold.

    Raises
    ------
    InputError
        The record holds values that are no class.
    """
    return encode_label_png(record.labels, image=record.image, grey=header.kind == "saliency")


def decode_label(identifier: str, data: bytes, header: Header | None, where: object) -> LabelRecord:
    """The record a PNG holds; values are checked against the header's classes where there is one.

    Raises
    ------
    InputError
        The PNG is damaged, in colours, or holds values that are no class.
    """
    told = f"{where}: {identifier}"
    labels, image = _decode(data, told)
    if header is not None and header.kind == "labels":
        labels = as_label_type(labels, len(header.class_names))
    record = LabelRecord(identifier, labels, image)
    if header is not None:
        check_label_record(record, header, where)
    return record


def check_label_record(record: LabelRecord, header: Header, where: object) -> None:
    """Check that a record is one an artefact of that header can hold.

    Raises
    ------
    InputError
        Its id, shape, dtype or values are not as :class:`LabelRecord` says.
    """
    check_id(record.id, where)
    told, labels = f"{where}: {record.id}", record.labels
    if header.kind == "labels" and labels.dtype in _DTYPES:
        check_label_values(labels, header.class_names, told)
    right = label_type(len(header.class_names)) if header.kind == "labels" else np.dtype(np.uint8)
    if labels.ndim != 2 or labels.dtype != right or not 0 < labels.size <= MAX_PIXELS:
        raise InputError(
            told, f"is a {labels.dtype} array of shape {labels.shape}",
            f"label images are (H, W) {right} of 1 to {MAX_PIXELS:,} pixels",
        )


class LabelFolderWriter:
    """Fills a folder with label PNGs; it is whole once :meth:`close` has returned.

    Parameters
    ----------
    folder
        An existing folder, empty but for records.
    header
        What the folder says about itself.
    where
        Named in errors.
    records
        Ids of the records that are in it.
    """

    def __init__(
        self, folder: Path, header: Header, *, where: object = None, records: Sequence[str] = (),
    ) -> None:
        self._folder, self._header = Path(folder), header
        self.where = str(where if where is not None else folder)
        self.count = len(records)
        self._names = Names(self.where)
        for identifier in records:
            self._names.add(identifier)
        self._head = json_bytes(header.to_json())
        self._write(HEADER_NAME, self._head)

    def prepare(self, record: LabelRecord) -> tuple[str, bytes]:
        """Id and PNG of the record, after checking it: what costs time, and may be done by threads.

        Raises
        ------
        InputError
            The record is none.
        """
        check_label_record(record, self._header, self.where)
        return record.id, encode_label(record, self._header)

    def write(self, record: LabelRecord) -> None:
        """Add a record.

        Raises
        ------
        InputError
            The record is none, or its file is there already, or would be on another system.
        OutputError
            The system refuses.
        """
        self.put(self.prepare(record))

    def put(self, prepared: tuple[str, bytes]) -> None:
        """Add what :meth:`prepare` made; raises as :meth:`write`."""
        identifier, data = prepared
        self._names.add(identifier)
        name = member_name(identifier, ".png")
        with writing(self.where, self._folder):
            try:
                (self._folder / name).parent.mkdir(parents=True, exist_ok=True)
                self._write(name, data)
            except (FileExistsError, NotADirectoryError) as error:
                raise _clash(self.where, identifier) from error
        self.count += 1

    def close(self) -> None:
        """Write the end record."""
        self._write(END_NAME, end_record(self.count, self._head))

    def abort(self) -> None:
        """Leave the folder without its end record."""

    def _write(self, name: str, data: bytes) -> None:
        with open(self._folder / name, "xb") as file:
            file.write(data)


class LabelFolderReader:
    """Reads a folder of label PNGs, ours or somebody else's.

    Raises
    ------
    InputError
        It is missing, holds no PNG, or says that it is ours and is not whole.
    """

    searchable = True

    def __init__(self, folder: str | Path, where: object = None) -> None:
        self._folder = Path(folder)
        self.where = str(where if where is not None else folder)
        header = self._folder / HEADER_NAME
        self.header: Header | None = None
        self._head: bytes | None = None
        if os.path.exists(header):
            self._head = read_bytes(header, most=MAX_HEADER_BYTES)
            self.header = Header.from_json(self._head, header)
        self._files = _png_files(self._folder, self.where, ours=self.header is not None)
        self._check_whole()

    def __len__(self) -> int:
        return len(self._files)

    def __contains__(self, identifier: object) -> bool:
        return identifier in self._files

    def __iter__(self) -> Iterator[LabelRecord]:
        return (self.read(identifier) for identifier in self._files)

    def unread(self, identifier: str) -> Unread:
        """As :meth:`read`, left for later."""
        return Unread(identifier, partial(self.read, identifier), is_maps=False)

    def ids(self) -> tuple[str, ...]:
        """The image ids, sorted."""
        return tuple(self._files)

    def read(self, identifier: str) -> LabelRecord:
        """The label image of one image.

        Raises
        ------
        InputError
            There is none in the folder, or it is damaged.
        """
        if identifier not in self._files:
            raise InputError(
                self.where, f"holds no labels of '{identifier}'", f"add '{identifier}.png'")
        data = read_bytes(self._files[identifier])
        return decode_label(identifier, data, self.header, self.where)

    def close(self) -> None:
        """Nothing is held open."""

    def _check_whole(self) -> None:
        if self.header is None:
            if not self._files:
                raise ForeignError(self.where, "holds no PNG", "name a folder of label PNGs")
            return
        if carrier(self.header.kind) != "labels":
            raise InputError(self.where, f"holds {self.header.kind}", "name a folder of label PNGs")
        check_end_file(self._folder, len(self._files), self._head, self.where)


def check_folder(folder: str | Path) -> None:
    """Check that a folder of ours has all of its PNGs; somebody else's passes.

    Raises
    ------
    InputError
        It is ours, and not whole.
    """
    if os.path.lexists(Path(folder, HEADER_NAME)):
        LabelFolderReader(folder)


def label_paths(folder: str | Path) -> tuple[Header | None, dict[str, Path]]:
    """Header (None for a foreign folder) and files by image id of a whole folder of label PNGs.

    Raises
    ------
    InputError
        As :class:`LabelFolderReader`; also for what is no folder, since training reads the label
        images in any order.
    """
    if not Path(folder).is_dir():
        wrong = "is no folder" if Path(folder).exists() else "no such folder"
        raise InputError(folder, wrong, "a folder of label PNGs, as 'drstool pseudo-label -o' writes")
    reader = LabelFolderReader(folder)
    if reader.header is not None and reader.header.kind != "labels":
        raise InputError(folder, f"holds {reader.header.kind}", "name a folder of label PNGs")
    return reader.header, dict(reader._files)


def end_record(count: int, head: bytes | None = None) -> bytes:
    """The last member of a whole stream or folder of ``count`` records.

    Parameters
    ----------
    count
    head
        Bytes of its header member, whose checksum is kept.
    """
    told: dict[str, object] = {"count": count, "complete": True}
    if head is not None:
        told["header_crc32"] = zlib.crc32(head)
    return json_bytes(told)


def check_end_file(folder: Path, count: int, head: bytes | None, where: object) -> None:
    """Check that a folder of ours has an end record, and that it fits.

    Raises
    ------
    InputError
        It does not; an ``UnfinishedError`` where there is none.
    """
    end = folder / END_NAME
    if not os.path.exists(end):
        raise UnfinishedError(where, f"lacks '{END_NAME}'", "copy or make it again")
    check_end_record(read_bytes(end, most=_MAX_END_BYTES), count, where, head)


def check_end_record(data: bytes, count: int, where: object, head: bytes | None = None) -> None:
    """Check that an end record tells of as many records as were found, and of this header.

    Parameters
    ----------
    data
        The end record.
    count
        Number of records.
    where
        Named in errors.
    head
        Bytes of the header member.

    Raises
    ------
    InputError
        It does not.
    """
    told, crc = _end_in(data)
    if told is None:
        raise InputError(where, f"its end record '{END_NAME}' is damaged", "copy or make it again")
    if head is not None and crc is not None and crc != zlib.crc32(head):
        raise InputError(where, f"'{HEADER_NAME}' was changed or damaged", "copy or make it again")
    if told != count:
        raise InputError(
            where, f"holds {count} records where its end record says {told}",
            "copy or make it again",
        )


def _end_in(data: bytes) -> tuple[int | None, int | None]:
    """Count and the header's checksum, where an end record holds them."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return None, None
    if not isinstance(value, dict) or value.get("complete") is not True:
        return None, None
    count, crc = value.get("count"), value.get("header_crc32")
    return (count if type(count) is int else None), (crc if type(crc) is int else None)


@cache
def _palette_bytes() -> bytes:
    return palette().tobytes()


def _decode(data: bytes, where: object) -> tuple[np.ndarray, str]:
    if not data.startswith(_SIGNATURE):
        raise InputError(where, "is no PNG" if data else "is empty", "label images are PNGs")
    if data[_FIRST_CHUNK] != b"IHDR":
        raise InputError(where, "is a damaged PNG (it does not begin with IHDR)", "copy or make it again")
    try:
        plain = _plain(_check_chunks(data))
    except (struct.error, ValueError) as error:
        raise _damaged(where, error) from error
    return plain if plain is not None else _by_pillow(data, where)


def _by_pillow(data: bytes, where: object) -> tuple[np.ndarray, str]:
    from drstool.pillow import DAMAGE

    try:
        picture = _opened(data, where)
        depth, colour_type = data[_DEPTH], data[_COLOUR]
        # Older releases of Pillow open 16 bits as "I".
        wide = (depth, colour_type) == (16, _GREY) and picture.mode in ("I;16", "I")
        if not wide and picture.mode not in ("P", "L", "1"):
            raise InputError(
                where, f"is of mode {picture.mode}, not of label values",
                "give a paletted or grey PNG of 8 or 16 bits whose pixels are the labels",
            )
        labels = np.asarray(picture).astype(np.uint16 if wide else np.uint8)
    except DAMAGE as error:
        raise _damaged(where, error) from error
    if colour_type == _GREY and depth in _STRETCH:
        labels //= _STRETCH[depth]
    return labels, str(picture.info.get(_IMAGE_KEY, ""))


def _damaged(where: object, error: Exception) -> InputError:
    # What struct says is about bytes, and for nobody who has pictures.
    told = "it is cut short" if isinstance(error, struct.error) else error
    return InputError(where, f"is a damaged PNG ({told})", "copy or make it again")


def _check_chunks(data: bytes) -> dict[bytes, list[memoryview]]:
    """Look at every chunk's checksum up to the end: loading alone lets a flipped bit pass.

    Pillow's own ``verify`` does as much, at a fifth of what decoding costs.

    Returns
    -------
    dict of lists of bytes
        Contents of the chunks by kind, in their order; empty where there are others than those that are known to
        have no say in what the pixels are, or in another order.
    """
    view, place, kind = memoryview(data), len(_SIGNATURE), b""
    chunks: dict[bytes, list[memoryview]] = {b"IHDR": [], b"IDAT": []}
    plain = True
    while kind != b"IEND":
        length, kind = struct.unpack_from(">I4s", data, place)
        end = place + 8 + length
        (expected,) = struct.unpack_from(">I", data, end)
        if zlib.crc32(view[place + 4: end]) != expected:
            raise ValueError(f"broken checksum of chunk {kind!r}")
        if kind in _KNOWN and plain:
            chunks.setdefault(kind, []).append(view[place + 8: end])
            # Pixels come last, and all together.
            plain = (kind == b"IDAT" or not chunks[b"IDAT"]) and len(chunks[kind]) <= _MOST_PARTS
            plain &= _KNOWN[kind] in (None, length)
        elif kind != b"IEND":
            plain = False
        place = end + 4
    return chunks if plain else {}


def _plain(chunks: dict[bytes, list[memoryview]]) -> tuple[np.ndarray, str] | None:
    """Pixels (H, W) uint8 and the image's path of a PNG of 8 bits whose rows are stored as they are.

    Label images mostly are such, and then are read sooner than by Pillow. None of any other PNG, damaged ones among
    them, of which Pillow says what is wrong.
    """
    headers, packed, palettes = (chunks.get(kind, ()) for kind in (b"IHDR", b"IDAT", b"PLTE"))
    if len(headers) != 1 or not packed:
        return None
    width, height, *kind = struct.unpack(">II5B", headers[0])
    # Depth and colour type; ways of packing, filtering and interlacing.
    if kind not in ([8, _GREY, 0, 0, 0], [8, _PALETTED, 0, 0, 0]):
        return None
    if any(len(each) > _MOST_PALETTE_BYTES for each in palettes):
        return None
    image = _plain_image(chunks)
    if image is None or not 0 < width * height <= MAX_PIXELS:
        return None
    size = height * (width + 1)
    inflate = zlib.decompressobj()
    try:
        # One byte more than there should be, so that more is seen.
        pixels = inflate.decompress(packed[0] if len(packed) == 1 else b"".join(packed), size + 1)
    except zlib.error:
        return None
    if len(pixels) != size or not inflate.eof or inflate.unused_data:
        return None
    rows = np.frombuffer(pixels, np.uint8).reshape(height, width + 1)
    # Each row begins with the number of its filter.
    return None if rows[:, 0].any() else (rows[:, 1:].copy(), image)


def _plain_image(chunks: dict[bytes, list[memoryview]]) -> str | None:
    """The image's path, if it is kept as we keep it; empty where there is none, None where it may be kept otherwise."""
    key, image = _IMAGE_KEY.encode(), ""
    if any(len(text) > _MOST_TEXT_BYTES for kind in (b"tEXt", b"iTXt") for text in chunks.get(kind, ())):
        return None
    if any(bytes(content[:len(key)]) == key for content in chunks.get(b"tEXt", ())):
        return None
    for content in chunks.get(b"iTXt", ()):
        name, plain, text = bytes(content).partition(_PLAIN_TEXT)
        if not plain or b"\0" in name or name == key and image:
            return None
        if name == key:
            try:
                image = text.decode()
            except UnicodeDecodeError:
                return None
    return image


def _opened(data: bytes, where: object) -> Image.Image:
    from PIL import Image

    picture = Image.open(io.BytesIO(data), formats=["PNG"])
    width, height = picture.size
    if width * height > MAX_PIXELS:
        raise InputError(where, f"has {width} x {height} pixels", f"at most {MAX_PIXELS:,}")
    return picture


def read_bytes(source: bytes | str | Path, where: object = None, *, most: int = _MAX_PNG_BYTES) -> bytes:
    """A regular file's bytes, of which there may be so many; bytes stay as they are.

    Raises
    ------
    InputError
        It is missing, no file, too large, or may not be read.
    """
    if isinstance(source, bytes):
        return source
    told = where if where is not None else source
    try:
        # Before opening: a named pipe would block, a device never end.
        status = os.stat(source)
        if not stat.S_ISREG(status.st_mode):
            raise InputError(told, "is no file", "give a regular file")
        if status.st_size > most:
            raise InputError(told, f"has {status.st_size:,} bytes", f"at most {most:,}")
        # The system is asked as little as can be: at each call threads wait for each other.
        file = os.open(source, _READ_ONLY)
        try:
            return _read_whole(file, status.st_size, most, told)
        finally:
            os.close(file)
    except OSError as error:
        raise InputError(told, f"cannot be read: {error.strerror or error}") from error


def _read_whole(file: int, size: int, most: int, where: object) -> bytes:
    """All bytes of a file that was of that size."""
    data = os.read(file, size + 1)
    if len(data) == size:
        return data
    # It has changed meanwhile, or is one of those that the system makes up.
    parts, found = [data], len(data)
    while found <= most and (part := os.read(file, _PART_BYTES)):
        parts.append(part)
        found += len(part)
    if found > most:
        raise InputError(where, "grows while it is read", f"at most {most:,} bytes")
    return b"".join(parts)


def _png_files(folder: Path, where: str, *, ours: bool) -> dict[str, Path]:
    """PNGs below a folder by id, sorted; in other people's, hidden files are left out."""
    files: dict[str, Path] = {}
    for path in sorted(_walk(folder, where, hidden=ours)):
        identifier = check_id(path.relative_to(folder).as_posix()[: -len(".png")], where)
        if identifier in files:
            raise InputError(where, f"holds two PNGs for '{identifier}'", "remove one")
        files[identifier] = path
    return dict(sorted(files.items()))


def _walk(folder: Path, where: str, *, hidden: bool) -> Iterator[Path]:
    def refuse(error: OSError) -> None:
        raise InputError(where, f"cannot be read: {error.strerror or error}") from error

    def seen(name: str) -> bool:
        # '._NAME' is what one system drops beside each file that it copies elsewhere.
        return not name.startswith("._") if hidden else not name.startswith(".")

    for root, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = sorted(filter(seen, folders))
        for name in filter(seen, names):
            if name.lower().endswith(".png"):
                yield Path(root, name)


def _clash(where: object, identifier: str) -> InputError:
    return InputError(where, f"cannot take '{identifier}': its name is taken", ONE_NAME_RULE)
