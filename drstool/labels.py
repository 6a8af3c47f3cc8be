"""Class names, label values and colours: the only place that knows them.

A *class name list* holds the object classes only. Object channel ``c`` of a map (counted from 0)
is label ``c + 1`` of a label image; 0 is background, and the highest value of the data type is
ignored: 255 in uint8, for up to 254 object classes, or 65535 in uint16.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence, Sized
from typing import TYPE_CHECKING

from drstool.errors import InputError
from drstool.text import listed

if TYPE_CHECKING:
    import numpy as np

__all__ = [
    "BACKGROUND", "BACKGROUND_NAME", "IGNORE", "MAX_NARROW_CLASSES", "MAX_OBJECT_CLASSES",
    "as_label_type", "channel_of", "check_class_names", "check_label_values", "colorize", "ignore_label",
    "is_background", "is_object_name", "label_names", "label_of", "label_type", "labels_by_name", "num_classes",
    "object_classes", "palette", "plain_name", "shown_palette",
]

BACKGROUND = 0
# Of uint8 label images; `ignore_label` knows both data types.
IGNORE = 255
BACKGROUND_NAME = "background"
# Of uint8 and uint16, less background and ignore.
MAX_NARROW_CLASSES, MAX_OBJECT_CLASSES = 254, 65534
_LONGEST_NAME = 200
# How lists of classes call what is no object, without case and marks: labelme writes "_background_", CVAT
# "background", Mask R-CNN "BG"; "__ignore__", "void" and "unlabeled" are no class at all.
_BACKGROUND = re.compile("background(class|area|pixels?|google)?|bg|bkg|hintergrund")
# The background only as the first of a list: there are classes of these names.
_BACKGROUND_IF_FIRST = frozenset(("none", "nothing", "noobject", "noobjects"))
_IGNORE_NAMES = frozenset(("ignore", "ignored", "ignorelabel", "void", "unlabeled", "unlabelled", "dontcare"))


def label_of(channel: int) -> int:
    """Label value of an object channel.

    Examples
    --------
    >>> label_of(0)
    1
    """
    return channel + 1


def channel_of(label: int) -> int:
    """Object channel of a label value; the inverse of :func:`label_of`.

    Examples
    --------
    >>> channel_of(20)
    19
    """
    return label - 1


def label_type(num_object_classes: int) -> np.dtype:
    """Data type of label images with this many object classes: uint8 up to 254, else uint16.

    Examples
    --------
    >>> label_type(254), label_type(255)
    (dtype('uint8'), dtype('uint16'))
    """
    import numpy as np

    return np.dtype(np.uint8 if num_object_classes <= MAX_NARROW_CLASSES else np.uint16)


def ignore_label(dtype: np.dtype | type | str) -> int:
    """The ignore label of label images of a data type: its highest value.

    Examples
    --------
    >>> ignore_label("uint8"), ignore_label("uint16")
    (255, 65535)
    """
    import numpy as np

    return int(np.iinfo(dtype).max)


def as_label_type(labels: np.ndarray, num_object_classes: int) -> np.ndarray:
    """A label image in the data type that its number of classes requires, with that type's ignore label.

    Parameters
    ----------
    labels : (H, W) uint8 or uint16
    num_object_classes

    Returns
    -------
    (H, W) uint8 or uint16
        ``labels`` itself where its type is right already, or where it contains a value too large
        for uint8, which :func:`check_label_values` will name.

    Examples
    --------
    >>> import numpy as np
    >>> as_label_type(np.uint8([[1, 255]]), 300).tolist()
    [[1, 65535]]
    >>> as_label_type(np.uint16([[1, 65535]]), 20).tolist()
    [[1, 255]]
    """
    dtype = label_type(num_object_classes)
    if labels.dtype == dtype:
        return labels
    ignored = labels == ignore_label(labels.dtype)
    if dtype.itemsize == 1 and (labels >= IGNORE)[~ignored].any():
        return labels
    converted = labels.astype(dtype)
    converted[ignored] = ignore_label(dtype)
    return converted


def num_classes(class_names: Sized) -> int:
    """Number of classes, including background.

    Examples
    --------
    >>> num_classes(["cat", "dog"])
    3
    """
    return len(class_names) + 1


def label_names(class_names: Sequence[str]) -> list[str]:
    """Names by label value, background first.

    Examples
    --------
    >>> label_names(["cat", "dog"])
    ['background', 'cat', 'dog']
    """
    return [BACKGROUND_NAME, *class_names]


def check_class_names(names: Sequence[str], where: object) -> tuple[str, ...]:
    """The names as a tuple, after checking that they are valid object classes.

    Raises
    ------
    InputError
        There are none or too many, or a name is empty, repeated, too long, not printable, or means
        background or ignored pixels.
    """
    names = tuple(names)
    if not names:
        raise InputError(where, "names no object class", "at least one is needed")
    if len(names) > MAX_OBJECT_CLASSES:
        raise InputError(
            where, f"names {len(names)} object classes", f"a label PNG can have at most {MAX_OBJECT_CLASSES}")
    seen: set[str] = set()
    for name in names:
        if not isinstance(name, str) or not name.strip():
            raise InputError(where, "contains an empty class name", "give every class a name")
        if len(name) > _LONGEST_NAME or any(unicodedata.category(c) in ("Cc", "Cs") for c in name):
            raise InputError(
                where, f"contains the class name {name[:40]!r}",
                f"a name has up to {_LONGEST_NAME} printable characters")
        if not is_object_name(name):
            raise InputError(
                where, f"lists '{name}' as an object class",
                "it may only come before the classes: label 0 is always the background, the highest one ignored, and "
                "an image of background alone has no tags")
        if name in seen:
            raise InputError(where, f"names class '{name}' twice", "list each class once")
        seen.add(name)
    return names


def object_classes(listed: Sequence[str], where: object) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The object classes of a list that may begin with background, as the lists of annotation tools do.

    Its first entry is then label 0: a background under one of its usual names, or the pixels of no class
    (``unlabeled``). labelme's lists begin with ``__ignore__``, label -1, before ``_background_``.

    Parameters
    ----------
    listed
        Names in label order.
    where
        Named in errors and notices.

    Returns
    -------
    names, notices
        The object classes, as of :func:`check_class_names`, and a line for the user if there was such an entry.

    Raises
    ------
    InputError
        The names are invalid; such an entry stands elsewhere.

    Examples
    --------
    >>> object_classes(["__ignore__", "_background_", "cat"], "classes.txt")  # doctest: +NORMALIZE_WHITESPACE
    (('cat',), ("classes.txt: '__ignore__' and '_background_' are taken for ignored pixels and the background;
    'cat' is label 1",))
    """
    first, second, *_ = [*(name if isinstance(name, str) else "" for name in listed[:2]), "", ""]
    if is_object_name(first) and plain_name(first) not in _BACKGROUND_IF_FIRST:
        return check_class_names(listed, where), ()
    both = plain_name(first) in _IGNORE_NAMES and is_background(second)
    names = check_class_names(listed[1 + both:], where)
    meaning = (f"'{listed[0]}' and '{listed[1]}' are taken for ignored pixels and the background" if both
               else f"'{listed[0]}' is taken for the background")
    return names, (f"{where}: {meaning}; '{names[0]}' is label {label_of(0)}",)


def is_background(name: str) -> bool:
    """Whether a name is one that lists of classes use for the background.

    Examples
    --------
    >>> [is_background(name) for name in ("_background_", "BG", "background_class", "none", "void")]
    [True, True, True, False, False]
    """
    return _BACKGROUND.fullmatch(plain_name(name)) is not None


def is_object_name(name: str) -> bool:
    """Whether a name in an annotation tool's file is an object class, and not background or ignored pixels.

    Examples
    --------
    >>> [is_object_name(name) for name in ("cat", "_background_", "__ignore__")]
    [True, False, False]
    """
    return not is_background(name) and plain_name(name) not in _IGNORE_NAMES


def labels_by_name(class_names: Sequence[str]) -> Callable[[str], int]:
    """A function that gives the label of a name: an object class, background, or else the ignore label.

    Examples
    --------
    >>> list(map(labels_by_name(["cat", "dog"]), ("dog", "Background", "__ignore__", "emu")))
    [2, 0, 255, 255]
    """
    ignored = ignore_label(label_type(len(class_names)))
    labels = {name: label_of(channel) for channel, name in enumerate(class_names)}
    return lambda name: BACKGROUND if is_background(name) else labels.get(name, ignored)


def plain_name(name: str) -> str:
    """A name's letters and digits without case, to compare names that tools write differently."""
    return "".join(filter(str.isalnum, name.casefold()))


def check_label_values(labels: np.ndarray, class_names: Sequence[str], where: object) -> None:
    """Check that a label image contains only 0 .. C and the ignore label.

    Parameters
    ----------
    labels : (H, W) uint8 or uint16
    class_names
        The C object classes.
    where
        Named in the error.

    Raises
    ------
    InputError
        Another value occurs.
    """
    import numpy as np

    ignored, highest = ignore_label(labels.dtype), len(class_names)
    # Adding one turns the ignore label, the highest value of its type, into 0.
    if (labels + labels.dtype.type(1)).max(initial=0) <= highest + 1:
        return
    unknown = np.unique(labels[(labels > highest) & (labels != ignored)])
    if unknown.size:
        raise InputError(
            where, f"contains unknown label values: {listed(unknown.tolist())}",
            f"with {highest} object classes the values are 0..{highest} and {ignored} (ignored)")


def palette() -> np.ndarray:
    """The 256 colours of PASCAL VOC's label images, ``(256, 3) uint8``.

    The bits of a label, three at a time from the lowest, become bits of red, green and blue, from the
    highest down, so that neighbouring labels differ strongly in colour.

    References
    ----------
    Everingham et al., The PASCAL Visual Object Classes Challenge, VOC development kit (VOCcolormap).

    Examples
    --------
    >>> palette()[[0, 1, 15, 255]].tolist()
    [[0, 0, 0], [128, 0, 0], [192, 128, 128], [224, 224, 192]]
    """
    import numpy as np

    labels = np.arange(256)
    colors = np.zeros((256, 3), dtype=np.uint8)
    for shift in range(8):
        for channel in range(3):
            bit = (labels >> (3 * shift + channel)) & 1
            colors[:, channel] |= (bit << (7 - shift)).astype(np.uint8)
    return colors


def shown_palette() -> np.ndarray:
    """As :func:`palette`, for pictures to look at: the ignore label is white, which is no class's colour.

    Examples
    --------
    >>> shown_palette()[[1, 255]].tolist()
    [[128, 0, 0], [255, 255, 255]]
    """
    colors = palette()
    colors[IGNORE] = 255
    return colors


def colorize(labels: np.ndarray) -> np.ndarray:
    """Colours of a label image, ignored pixels white.

    Parameters
    ----------
    labels : (H, W) uint8 or uint16
        In uint16 the colours of the objects repeat after 254.

    Returns
    -------
    (H, W, 3) uint8
    """
    if labels.dtype.itemsize > 1:
        objects = (labels.astype("int32") - label_of(0)) % MAX_NARROW_CLASSES + label_of(0)
        objects[labels == BACKGROUND] = BACKGROUND
        objects[labels == ignore_label(labels.dtype)] = IGNORE
        labels = objects
    return shown_palette()[labels]
