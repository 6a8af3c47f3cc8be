"""Pictures of any kind as arrays (images, ground truth, saliency), or an error naming the file."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TypeVar

import numpy as np
from PIL import Image

import drstool.pillow  # noqa: F401 - silences Pillow's warnings of large and of odd pictures
from drstool.errors import DrstoolError, InputError, is_shortage
from drstool.pixels import MAX_PIXELS, shown_size
from drstool.png import chunks

if TYPE_CHECKING:
    from drstool.data.item import Item

__all__ = ["image_size", "load_image", "load_pil", "load_saliency", "load_target", "tiff_tags"]

# Pillow opens some forty formats, one of them by running another program (EPS). These are enough.
_FORMATS = ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM")

_WHITE = (255, 255, 255, 255)
_MODES_16_BIT = ("I;16", "I;16L", "I;16B", "I;16N", "I")
# 0..65535 onto 0..255: 65535 = 255 * 257.
_STEP_16_BIT = 257

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


def load_image(path: str | os.PathLike) -> np.ndarray:
    """An image upright and in colour, whatever kind of picture the file holds.

    The image is turned as its EXIF orientation says. Grey and palette images become RGB; 16-bit
    grey is scaled by its full range (65535 becomes 255), never clipped; whatever is transparent
    lies over white; of an animation the first frame counts. Embedded colour profiles are not
    applied, as in the field's training data.

    Parameters
    ----------
    path
        JPEG, PNG, GIF, BMP, TIFF, WebP or PPM.

    Returns
    -------
    (H, W, 3) uint8
        sRGB, C-contiguous, writable.

    Raises
    ------
    InputError
        Missing, no picture, damaged, cut short, or more than :data:`drstool.pixels.MAX_PIXELS` pixels.
    """
    return np.array(load_pil(path))


def load_pil(path: str | os.PathLike) -> Image.Image:
    """An image upright and in colour, as a Pillow image of mode RGB; see :func:`load_image`.

    Raises
    ------
    InputError
        As :func:`load_image`.
    """
    def upright_rgb(image: Image.Image) -> Image.Image:
        image.load()
        orientation = _orientation(image)
        image = _to_rgb(image, path)
        return image.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else image

    return _decode(path, upright_rgb)


def image_size(path: str | os.PathLike) -> tuple[int, int]:
    """Size ``(H, W)`` of the upright image, from the file's header and without decoding pixels.

    Equal to ``load_image(path).shape[:2]`` for every image that can be decoded.

    Raises
    ------
    InputError
        Missing, no picture, or more than :data:`drstool.pixels.MAX_PIXELS` pixels.
    """
    def upright_size(image: Image.Image) -> tuple[int, int]:
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

    is_file = isinstance(item.mask, Path)
    # Files that give fractions of the image's size do not say it.
    known = image_size(item.image) if size is None and getattr(item.mask, "needs_size", False) else size
    target = read_label_png(item.mask) if is_file else item.mask.rasterize(known)
    _check_size(target, size, item.mask, "the mask")
    return target


def load_saliency(path: str | os.PathLike, size: tuple[int, int] | None = None) -> np.ndarray:
    """A saliency map.

    Parameters
    ----------
    path
        A grey picture of 1, 8 or 16 bits; also one in colour whose channels are equal.
    size : (H, W), optional
        Size the map must have: the upright image's.

    Returns
    -------
    (H, W) uint8
        0 not salient .. 255 salient; 16 bits are scaled to 8.

    Raises
    ------
    InputError
        It cannot be read, is a colour picture, or its size differs.
    """
    def grey(image: Image.Image) -> np.ndarray:
        image.load()
        return _to_grey(image, path)

    saliency = _decode(path, grey)
    _check_size(saliency, size, path, "the saliency map")
    return saliency


def _decode(path: str | os.PathLike, use: Callable[[Image.Image], _T]) -> _T:
    """What ``use`` makes of the opened picture, with every failure as an :class:`InputError`."""
    with _open(path) as image:
        if image.width * image.height > MAX_PIXELS:
            raise InputError(
                path, f"has {shown_size(image.size[::-1])} pixels", f"at most {MAX_PIXELS:,} pixels are read")
        _check_scans(image, path)
        return use(image)


def _check_scans(image: Image.Image, path: str | os.PathLike) -> None:
    """Check the number of scans of a progressive JPEG: a few bytes can ask for thousands of them."""
    if "progressive" not in image.info or image.fp is None:
        return
    position = image.fp.tell()
    image.fp.seek(0)
    scans = sum(part.count(_SCAN) for part in iter(lambda: image.fp.read(_READ_SIZE), b""))
    image.fp.seek(position)
    if scans > _MAX_SCANS:
        raise InputError(path, f"is a JPEG with {scans} scans", f"at most {_MAX_SCANS} are read")


@contextmanager
def _open(path: str | os.PathLike) -> Iterator[Image.Image]:
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


def _orientation(image: Image.Image) -> int:
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


def _metadata_follow_pixels(file: BinaryIO | None) -> bool:
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


def _to_rgb(image: Image.Image, where: object) -> Image.Image:
    if image.mode in _MODES_16_BIT:
        return Image.fromarray(_scale_16_bit(image, where)).convert("RGB")
    if image.mode == "F":
        raise InputError(where, "has floating-point pixels", "use 8 or 16 bits per channel")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, _WHITE), image).convert("RGB")
    return image.convert("RGB")


def _to_grey(image: Image.Image, where: object) -> np.ndarray:
    if image.mode in _MODES_16_BIT:
        return _scale_16_bit(image, where)
    if image.mode == "F":
        raise InputError(where, "has floating-point pixels", "use 8 or 16 bits")
    if image.mode in ("L", "1", "LA", "La"):
        return np.array(image.convert("L"))
    color = np.asarray(image.convert("RGB"))
    # Rounding in a lossy file may make equal channels differ by one.
    if np.ptp(color.astype(np.int16), axis=2).max() > 2:
        raise InputError(where, "is a colour image", "expected a greyscale saliency map, 0 to 255")
    return color[..., 0].copy()


def _scale_16_bit(image: Image.Image, where: object) -> np.ndarray:
    values = np.asarray(image)
    if values.min() < 0 or values.max() > 255 * _STEP_16_BIT:
        raise InputError(where, "has 32-bit grey values", "use 8 or 16 bits")
    # A lookup table, because arithmetic would take eight times the picture's memory.
    table = (np.arange(255 * _STEP_16_BIT + 1) + _STEP_16_BIT // 2) // _STEP_16_BIT
    return table.astype(np.uint8)[values]


def _check_size(found: np.ndarray, size: tuple[int, int] | None, where: object, what: str) -> None:
    if size is not None and found.shape != tuple(size):
        turned = found.shape == tuple(size)[::-1]
        raise InputError(
            where, f"is {shown_size(found.shape)} pixels, but its image is {shown_size(size)}",
            f"if the image is rotated by EXIF, rotate {what} too" if turned else f"{what} must have the image's size")

