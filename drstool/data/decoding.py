"""Pictures of any kind as arrays (images, ground truth, saliency), or an error naming the file."""

from __future__ import annotations

import os
import re
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar

import numpy as np
from PIL import Image, ImageFile

import drstool.pillow  # noqa: F401 - silences Pillow's warnings of large and of odd pictures
from drstool.data.value_range import ValueRange, scaled
from drstool.errors import DrstoolError, InputError, is_shortage
from drstool.pixels import MAX_PIXELS, shown_size
from drstool.png import chunks

if TYPE_CHECKING:
    from drstool.data.item import Item

__all__ = [
    "Look", "image_size", "load_image", "load_pil", "load_saliency", "load_target", "look_at", "stored_size",
    "tiff_tags",
]

# Pillow opens some forty formats, one of them by running another program (EPS). These are enough.
_FORMATS = ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM")

_WHITE = (255, 255, 255, 255)
_MODES_16_BIT = ("I;16", "I;16L", "I;16B", "I;16N", "I")
_LARGEST_8_BIT, _LARGEST_16_BIT = 2**8 - 1, 2**16 - 1

# How Pillow calls the order of a sample's two bytes, of which it keeps the upper; and the order that makes it keep
# the other one. N is the machine's.
_OTHER_BYTE = {";16L": ";16B", ";16B": ";16L", ";16N": ";16B" if sys.byteorder == "little" else ";16L"}

# Tags of TIFF: what further samples are; samples per pixel, their bits, and their smallest and largest value.
_EXTRA_SAMPLES, _SAMPLES_PER_PIXEL, _BITS_PER_SAMPLE, _MIN_SAMPLE_VALUE, _MAX_SAMPLE_VALUE = 338, 277, 258, 280, 281
# Values of the first: alpha of either kind, and what Corel Draw writes for it.
_ALPHA_SAMPLES = (1, 2, 999)

_EXIF_ORIENTATION = 0x0112
# How to undo each value of the EXIF orientation tag; 1 and anything unknown: as stored.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SWAPS_SIDES = (5, 6, 7, 8)

# Marks the start of a scan in a JPEG; encoders make about ten.
_SCAN, _MAX_SCANS, _READ_SIZE = b"\xff\xda", 100, 1 << 20

_PNG_METADATA = (b"eXIf", b"iTXt", b"tEXt", b"zTXt")

_T = TypeVar("_T")


def load_image(path: str | os.PathLike, value_range: ValueRange | None = None) -> np.ndarray:
    """An image upright and in colour, whatever kind of picture the file holds.

    The image is turned as its EXIF orientation says. Grey and palette images become RGB; 16 bits
    are scaled by the range that the file says (12 bits, say), or else by all of it (65535 becomes 255);
    whatever is transparent lies over white, but a fourth band of a TIFF that is not marked as alpha is
    left out; of an animation the first frame counts. Embedded colour profiles are not applied, as in
    the field's training data.

    Parameters
    ----------
    path
        JPEG, PNG, GIF, BMP, TIFF, WebP or PPM.
    value_range
        The file's values that become black and white.

    Returns
    -------
    (H, W, 3) uint8
        sRGB, C-contiguous, writable.

    Raises
    ------
    InputError
        Missing, no picture, damaged, cut short, or more than :data:`drstool.pixels.MAX_PIXELS` pixels.
    """
    return np.array(load_pil(path, value_range))


def load_pil(path: str | os.PathLike, value_range: ValueRange | None = None) -> Image.Image:
    """An image upright and in colour, as a Pillow image of mode RGB; see :func:`load_image`.

    Raises
    ------
    InputError
        As :func:`load_image`.
    """
    def upright_rgb(image: ImageFile.ImageFile) -> Image.Image:
        values = _deep_values(image, path, value_range)
        image.load()
        orientation = _orientation(image)
        rgb = _to_rgb(image) if values is None else _to_rgb(_with_alpha(Image.fromarray(values), image))
        return rgb.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else rgb

    return _decode(path, upright_rgb)


def image_size(path: str | os.PathLike) -> tuple[int, int]:
    """Size ``(H, W)`` of the upright image, from the file's header and without decoding pixels.

    Equal to ``load_image(path).shape[:2]`` for every image that can be decoded.

    Raises
    ------
    InputError
        Missing, no picture, or more than :data:`drstool.pixels.MAX_PIXELS` pixels.
    """
    def upright_size(image: ImageFile.ImageFile) -> tuple[int, int]:
        if image.format == "TIFF" and _orientation(image) in _SWAPS_SIDES:
            image.load()  # Turns the image and drops the tag: Pillow does so for TIFF alone.
        return image.size if _orientation(image) in _SWAPS_SIDES else image.size[::-1]

    return _decode(path, upright_size)


def tiff_tags(path: str | os.PathLike) -> dict[int, object]:
    """Values of the tags of a TIFF by their numbers; none of another kind of picture.

    Raises
    ------
    InputError
        As :func:`image_size`.
    """
    return _decode(path, lambda image: dict(getattr(image, "tag_v2", {})))


def stored_size(path: str | os.PathLike) -> tuple[int, int]:
    """Size ``(H, W)`` of an image as it is stored, before it is turned upright.

    Raises
    ------
    InputError
        As :func:`image_size`.
    """
    return _decode(path, lambda image: image.size[::-1])


def load_target(item: Item, size: tuple[int, int] | None = None) -> np.ndarray:
    """The ground truth of an image.

    Parameters
    ----------
    item
        With a mask: a label PNG, or annotations that are rasterised now.
    size : (H, W), optional
        Size the ground truth must have: the upright image's.

    Returns
    -------
    (H, W) uint8, or uint16 as a PNG of 16 bits has it
        0 background, 1 .. C object classes, the highest value of the type ignored.

    Raises
    ------
    InputError
        The item has no mask, it cannot be read, or its size differs.
    """
    if item.mask is None:
        raise InputError(item.id, "has no ground truth mask", "add the mask, or remove the image from the dataset")
    # Imported here: it brings h5py, which listing images does not need.
    from drstool.formats.label_png import read_label_png

    # Files that give fractions of the image's size do not say it.
    known = image_size(item.image) if size is None and getattr(item.mask, "needs_size", False) else size
    target = read_label_png(item.mask) if isinstance(item.mask, Path) else item.mask.rasterize(known)
    _check_size(target, size, item.mask, "the mask")
    return target


def load_saliency(
    path: str | os.PathLike, size: tuple[int, int] | None = None, value_range: tuple[int, ...] = (),
    largest: list[int] | None = None,
) -> np.ndarray:
    """A saliency map.

    Parameters
    ----------
    path
        A grey picture of 1, 8 or 16 bits; also one in colour whose channels are equal.
    size : (H, W), optional
        Size the map must have: the upright image's.
    value_range
        The file's values that mean 0 and 255; none: all values of its type, 0 to 255 or to 65535.
    largest
        The file's largest value is added to it, see :func:`drstool.reports.empty_maps.saliency_lines`.

    Returns
    -------
    (H, W) uint8
        0 not salient .. 255 salient; 16 bits are scaled to 8.

    Raises
    ------
    InputError
        It cannot be read, is a colour picture, or its size differs.
    """
    def grey(image: ImageFile.ImageFile) -> np.ndarray:
        image.load()
        return _grey_values(image, path)

    saliency = _decode(path, grey)
    _check_size(saliency, size, path, "the saliency map")
    if largest is not None:
        largest.append(int(saliency.max()))
    if not value_range and saliency.dtype == np.uint8:
        return saliency
    low, high = value_range or (0, _LARGEST_16_BIT)
    return scaled(saliency, low, high)


def _decode(path: str | os.PathLike, use: Callable[[ImageFile.ImageFile], _T]) -> _T:
    """What ``use`` makes of the opened picture, with every failure as an :class:`InputError`."""
    with _open(path) as image:
        if image.width * image.height > MAX_PIXELS:
            raise InputError(
                path, f"has {shown_size(image.size[::-1])} pixels", f"at most {MAX_PIXELS:,} pixels are read")
        _check_scans(image, path)
        return use(image)


def _check_scans(image: ImageFile.ImageFile, path: str | os.PathLike) -> None:
    """Check the number of scans of a progressive JPEG: a few bytes can ask for thousands of them."""
    if "progressive" not in image.info or image.fp is None:
        return
    file: Any = image.fp
    position = file.tell()
    file.seek(0)
    scans = sum(part.count(_SCAN) for part in iter(lambda: file.read(_READ_SIZE), b""))
    file.seek(position)
    if scans > _MAX_SCANS:
        raise InputError(path, f"is a JPEG with {scans} scans", f"at most {_MAX_SCANS} are read")


@contextmanager
def _open(path: str | os.PathLike) -> Iterator[ImageFile.ImageFile]:
    try:
        # Before opening: a named pipe would block, a device never end.
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise InputError(path, "is not a file", "give a picture file")
        if status.st_size == 0:
            raise InputError(path, "is empty (0 bytes)", "recreate or download it again")
        with open(path, "rb") as file, Image.open(file, formats=_FORMATS) as image:
            yield image
    except DrstoolError:
        raise
    except FileNotFoundError:
        raise InputError(
            path, "no such file",
            "check the path; a relative one in a map file starts at the folder where the maps were made") from None
    except Image.UnidentifiedImageError:
        raise InputError(
            path, "is not a readable picture", "give a JPEG, PNG, GIF, BMP, TIFF, WebP or PPM file") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise InputError(path, "has too many pixels", f"at most {MAX_PIXELS:,} pixels are read") from None
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged files.
        if is_shortage(error):
            raise
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise InputError(path, f"cannot be read: {reason}", "the file may be damaged or truncated") from None


def _orientation(image: ImageFile.ImageFile) -> int:
    """Value 1..8 of the orientation tag; 1 where there is none or the EXIF data are broken."""
    try:
        if image.format == "PNG" and not _metadata_follow_pixels(image.fp):
            # What the PNG class overrides would decode the pixels in search of later metadata.
            exif = Image.Image.getexif(image)
        else:
            exif = image.getexif()
        return int(exif.get(_EXIF_ORIENTATION, 1))
    except Exception:  # Broken metadata do not make the pixels unreadable.
        return 1


def _metadata_follow_pixels(file: IO[bytes] | None) -> bool:
    """Whether an open PNG has metadata behind its pixels, where some programs put them."""
    if file is None:  # Decoded and closed: all metadata are known.
        return False
    position, pixels_seen = file.tell(), False
    file.seek(0)
    try:
        for kind, _ in chunks(file, check=False):
            if pixels_seen and kind in _PNG_METADATA:
                return True
            pixels_seen |= kind == b"IDAT"
    except ValueError:  # Cut short.
        pass
    finally:
        file.seek(position)
    return False


def _deep_values(image: ImageFile.ImageFile, path: str | os.PathLike, chosen: ValueRange | None) -> np.ndarray | None:
    """The pixels as uint8, grey or RGB, of a file of more than 8 bits or with a chosen range; None: as Pillow does."""
    grey, deep_colour = image.mode in (*_MODES_16_BIT, "F"), _is_deep_colour(image)
    if not grey and not deep_colour:
        return None if chosen is None else _stretched_values(image, path, chosen)
    said = _said_range(image)
    if chosen is None and not grey and said is None:
        return None
    values = _sample_values(image, path, deep_colour)
    if chosen is not None:
        return scaled(values, *chosen.limits(values))
    if image.mode == "F" or values.min() < 0 or values.max() > _LARGEST_16_BIT:
        kind = "floating-point pixels" if image.mode == "F" else "32-bit grey values"
        raise InputError(path, f"has {kind}", "give the values that become black and white with --range MIN,MAX")
    return scaled(values, *(_checked_range(said, image, values) or (0, _LARGEST_16_BIT)))


def _stretched_values(image: ImageFile.ImageFile, path: str | os.PathLike, chosen: ValueRange) -> np.ndarray:
    """The pixels of a file of 8 bits, (H, W, 3) uint8."""
    if chosen.largest > _LARGEST_8_BIT:
        raise InputError(
            path, f"has 8 bits, whose values end at {_LARGEST_8_BIT}, but --range is {chosen}",
            "use percentiles, such as --range 1%,99%, for images of several depths")
    image.load()
    values = np.asarray(image.convert("RGB"))
    return scaled(values, *chosen.limits(values))


def _is_deep_colour(image: ImageFile.ImageFile) -> bool:
    """Whether an image that is not decoded yet has 16 bits a channel, of which Pillow keeps the upper 8."""
    return len(image.getbands()) >= 3 and any(
        order in str(tile[3]) for tile in image.tile[:1] for order in _OTHER_BYTE)


def _sample_values(image: ImageFile.ImageFile, path: str | os.PathLike, deep_colour: bool) -> np.ndarray:
    """The values in the file, (H, W) of any type, or (H, W, 3) uint16 in colour."""
    image.load()
    if not deep_colour:
        return np.asarray(image)
    lower: Any
    with _open(path) as lower:
        lower.tile = [(*tile[:3], _with_other_byte(tile[3])) for tile in lower.tile]
        lower.load()
        low = np.asarray(lower)[..., :3]
    return np.asarray(image)[..., :3].astype(np.uint16) * (_LARGEST_8_BIT + 1) + low


def _with_other_byte(arguments: object) -> object:
    """A decoder's arguments, changed so that it keeps the lower byte of each sample."""
    if isinstance(arguments, tuple):
        return tuple(_with_other_byte(each) if isinstance(each, str) else each for each in arguments)
    return re.sub(";16[LBN]", lambda order: _OTHER_BYTE[order[0]], str(arguments))


def _said_range(image: ImageFile.ImageFile) -> tuple[int, int] | None:
    """Smallest and largest value that a file of more than 8 bits says its samples have; None where it does not say."""
    if image.format == "TIFF":
        low, high, bits = (max(_tiff_numbers(image, tag), default=0)
                           for tag in (_MIN_SAMPLE_VALUE, _MAX_SAMPLE_VALUE, _BITS_PER_SAMPLE))
        high = high or (2 ** bits - 1 if bits < 16 else 0)
        return (low, high) if 0 <= low < high < _LARGEST_16_BIT else None
    bits = _significant_bits(image.fp) if image.format == "PNG" else 0
    return (0, 2 ** bits - 1) if 8 < bits < 16 else None


def _checked_range(said: tuple[int, int] | None, image: Image.Image, values: np.ndarray) -> tuple[int, int] | None:
    """The range that a file says, unless that of a PNG is about its upper bits, as the standard has it.

    The other bits are then zero, or the upper ones again.
    """
    if said is None or image.format != "PNG":
        return said
    bits = said[1].bit_length()
    rest = values & ((1 << 16 - bits) - 1)
    padded = not rest.any() or bool((rest == values >> bits).all())
    return None if padded or values.max() > said[1] else said


def _tiff_numbers(image: Image.Image, tag: int) -> tuple[int, ...]:
    value = image.tag_v2.get(tag)  # type: ignore[attr-defined]
    values = value if isinstance(value, tuple) else (value,)
    return tuple(int(each) for each in values if isinstance(each, (int, float)))


def _significant_bits(file: IO[bytes] | None) -> int:
    """The largest number of bits that a PNG says its samples have (sBIT); 0 where it does not say."""
    if file is None:
        return 0
    position = file.tell()
    file.seek(0)
    try:
        # It stands before the pixels.
        kind, content = next(chunk for chunk in chunks(file) if chunk[0] in (b"sBIT", b"IDAT"))
        return max(content[:3], default=0) if kind == b"sBIT" else 0
    except (ValueError, StopIteration):
        return 0
    finally:
        file.seek(position)


def _has_unmarked_band(image: Image.Image) -> bool:
    """Whether a TIFF in colour has a further band that is not marked as alpha, such as near infrared."""
    return (
        image.format == "TIFF" and image.mode in ("RGB", "RGBA", "RGBX")
        and max(_tiff_numbers(image, _SAMPLES_PER_PIXEL), default=1) > 3
        and not set(_tiff_numbers(image, _EXTRA_SAMPLES)) & set(_ALPHA_SAMPLES))


@dataclass(frozen=True)
class Look:
    """What is odd about how an image is stored.

    Attributes
    ----------
    extra_band
        It has a fourth band that is no alpha and left out.
    largest
        The largest value of 16 bits of which the file says no range; None for other images.
    """

    extra_band: bool
    largest: int | None


def look_at(path: str | os.PathLike, *, decode: bool = True) -> Look:
    """What is odd about how an image is stored; without ``decode`` only what its header says.

    Raises
    ------
    InputError
        As :func:`load_image`.
    """
    def look(image: ImageFile.ImageFile) -> Look:
        extra = _has_unmarked_band(image)
        deep_colour = _is_deep_colour(image)
        if not decode or not deep_colour and image.mode not in _MODES_16_BIT:
            return Look(extra, None)
        said, values = _said_range(image), _sample_values(image, path, deep_colour)
        return Look(extra, None if _checked_range(said, image, values) is not None else int(values.max()))

    return _decode(path, look)


def _with_alpha(picture: Image.Image, image: Image.Image) -> Image.Image:
    """A picture with the alpha of the image that it was made of, if that has one."""
    if image.has_transparency_data and image.mode not in (*_MODES_16_BIT, "F") and not _has_unmarked_band(image):
        picture.putalpha(image.convert("RGBA").getchannel("A"))
    return picture


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.has_transparency_data and not _has_unmarked_band(image):
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, _WHITE), image).convert("RGB")
    return image.convert("RGB")


def _grey_values(image: ImageFile.ImageFile, where: object) -> np.ndarray:
    """The values of a grey picture, (H, W) uint8, or uint16 and others of more bits."""
    if image.mode in _MODES_16_BIT:
        values = np.asarray(image)
        if values.min() < 0 or values.max() > _LARGEST_16_BIT:
            raise InputError(where, "has 32-bit grey values", "use 8 or 16 bits")
        return values
    if image.mode == "F":
        raise InputError(where, "has floating-point pixels", "use 8 or 16 bits")
    if image.mode in ("L", "1", "LA", "La"):
        return np.array(image.convert("L"))
    color = np.asarray(image.convert("RGB"))
    # Rounding in a lossy file may make equal channels differ by one.
    if np.ptp(color.astype(np.int16), axis=2).max() > 2:
        raise InputError(where, "is a colour image", "expected a greyscale saliency map, 0 to 255")
    return color[..., 0].copy()


def _check_size(found: np.ndarray, size: tuple[int, int] | None, where: object, what: str) -> None:
    if size is not None and found.shape != tuple(size):
        turned = found.shape == tuple(size)[::-1]
        raise InputError(
            where, f"is {shown_size(found.shape)} pixels, but its image is {shown_size(size)}",
            f"if the image is rotated by EXIF, rotate {what} too" if turned else f"{what} must have the image's size")

