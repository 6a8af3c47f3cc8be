"""What the ground truth of scored images holds, and whether it agrees with their tags."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

from drstool.errors import InputError
from drstool.labels import BACKGROUND, ignore_label, label_names, label_of
from drstool.reports.text import counted
from drstool.text import listed

__all__ = ["GroundTruth", "MaskSummary", "agreement_lines", "summarize"]

# Up to this share of the images, masks that hold classes which the tags do not are usual: objects were overlooked.
_USUAL = 0.1
# Another order of the classes explains more if it leaves at most this share of the disagreements.
_EXPLAINED = 0.5


class MaskSummary(NamedTuple):
    """What one mask holds.

    Attributes
    ----------
    place
        The folder or file of annotations that it is from.
    tags
        The image's, if they are known.
    labels
        Labels that occur, ascending, background included.
    pixels, ignored
        Numbers of all pixels and of ignored ones.
    ignore_value
        The value that they have in the file.
    """

    place: str
    tags: tuple[str, ...] | None
    labels: tuple[int, ...]
    pixels: int
    ignored: int
    ignore_value: int


def summarize(target: np.ndarray, place: str, tags: tuple[str, ...] | None) -> MaskSummary:
    """What a label image, (H, W) uint8 or uint16, holds."""
    ignored = ignore_label(target.dtype)
    counts = np.bincount(target.ravel(), minlength=ignored + 1)
    return MaskSummary(
        place, tags, tuple(np.flatnonzero(counts[:ignored]).tolist()), target.size, int(counts[ignored]), ignored)


@dataclass(frozen=True)
class GroundTruth:
    """What the masks of some images hold.

    Attributes
    ----------
    class_names
        The C object classes.
    mask_values
        The values that the user gave for them; empty if the masks hold label values.
    masks
        By image id.
    """

    class_names: tuple[str, ...]
    mask_values: str = ""
    masks: dict[str, MaskSummary] = field(default_factory=dict)

    def of(self, ids: Iterable[str]) -> GroundTruth:
        """That of some of the images."""
        return replace(self, masks={identifier: self.masks[identifier] for identifier in ids})

    @property
    def places(self) -> list[str]:
        """The folders, or files of annotations, that the masks are from; those of most masks first."""
        return [place for place, _ in Counter(mask.place for mask in self.masks.values()).most_common()]

    @property
    def ignored_share(self) -> float:
        """The share of ignored pixels."""
        pixels = sum(mask.pixels for mask in self.masks.values())
        return sum(mask.ignored for mask in self.masks.values()) / pixels if pixels else 0.0

    @property
    def unseen(self) -> list[str]:
        """Names of the object classes without a pixel."""
        seen = {label for mask in self.masks.values() for label in mask.labels}
        return [name for label, name in enumerate(label_names(self.class_names))
                if label != BACKGROUND and label not in seen]

    def check(self) -> None:
        """Check that ground truth without a pixel of an object is meant so.

        Masks drawn in black and white hold 0 and 255, of which 255 is ignored: empty predictions would be perfect.

        Raises
        ------
        InputError
            All pixels are background or ignored, and the user has not given the masks' values.
        """
        if self.mask_values or len(self.unseen) < len(self.class_names) or not self.ignored_share:
            return
        value = next(mask.ignore_value for mask in self.masks.values() if mask.ignored)
        classes = len(self.class_names)
        meant = f"0,{value}" if classes == 1 else "BACKGROUND,CLASS1,…"
        numbers = ",".join(map(str, range(classes + 1))) if classes < 4 else f"0,1,…,{classes}"
        raise InputError(
            listed(self.places), f"has no pixel of a class: {self.ignored_share:.2%} are {value} (ignored), the others "
            "background",
            f"if {value} is {repr(self.class_names[0]) if classes == 1 else 'a class'}, give --mask-values {meant}; if "
            f"it is to be ignored, --mask-values {numbers},ignore={value}")

    def notes(self) -> list[str]:
        """What a reader of the scores must know, one line each."""
        values = f" (values {self.mask_values})" if self.mask_values else ""
        return [f"ground truth: {listed(self.places)}{values}; {self.ignored_share:.2%} of its pixels ignored"]

    def warnings(self) -> list[str]:
        """What is probably wrong with it, one line each."""
        unseen = self.unseen
        lines = [f"no pixel in the ground truth: {listed(unseen)}"] if unseen else []
        return lines + agreement_lines(self.masks.values(), self.class_names)

    def to_json(self) -> dict:
        """For :func:`json.dumps`."""
        return {
            "masks": self.places, "mask_values": self.mask_values or None, "ignored_share": self.ignored_share,
            "classes_without_pixels": self.unseen}


def agreement_lines(masks: Iterable[MaskSummary], class_names: Sequence[str]) -> list[str]:
    """A line if many masks hold classes that the tags of their images do not.

    If another order of the masks' classes explains them, the line says it: the one with the fewest disagreements.

    Examples
    --------
    >>> masks = [MaskSummary("gt", ("cat",), (0, 2), 1, 0, 255), MaskSummary("gt", ("dog",), (0, 1), 1, 0, 255)]
    >>> agreement_lines(masks * 2, ("cat", "dog"))  # doctest: +NORMALIZE_WHITESPACE
    ["masks and tags contradict each other in 4 of 4 images; all would agree if the masks' labels were 1 = dog, 2 = cat;
    list the classes in the masks' order with --classes FILE"]
    """
    channels = {name: channel for channel, name in enumerate(class_names)}
    tagged = [(mask.tags, mask.labels) for mask in masks if mask.tags is not None]
    tags, held = np.zeros((2, len(tagged), len(class_names)), bool)
    for row, (names, labels) in enumerate(tagged):
        tags[row, [channels[name] for name in names if name in channels]] = True
        held[row, [label - label_of(0) for label in labels if BACKGROUND < label <= len(class_names)]] = True
    wrong = int((held & ~tags).any(axis=1).sum())
    if wrong <= _USUAL * len(tagged):
        return []
    text = f"masks and tags contradict each other in {wrong:,} of {counted(len(tagged), 'image')}"
    order = _better_order(tags, held)
    if order is None:
        return [f"{text}: the masks hold classes that the tags do not"]
    left = int((held & ~tags[:, order]).any(axis=1).sum())
    agree = "all" if not left else f"all but {left:,}"
    moved = [f"{label_of(label)} = {class_names[tag]}" for label, tag in enumerate(order)
             if tag != label and held[:, label].any()]
    return [f"{text}; {agree} would agree if the masks' labels were {listed(moved)}; list the classes in the masks' "
            "order with --classes FILE"]


def _better_order(tags: np.ndarray, held: np.ndarray) -> np.ndarray | None:
    """For each object label of the masks the class that it probably is; None if no order is clearly better.

    Parameters
    ----------
    tags, held : (N, C) bool
        Whether each image has the class in its tags, and in its mask.
    """
    # Its import takes a while.
    from scipy.optimize import linear_sum_assignment

    # In how many images a label is in the mask or the class among the tags, but not both.
    together = held.T.astype(np.int64) @ tags.astype(np.int64)
    apart = held.sum(axis=0)[:, None] + tags.sum(axis=0)[None] - 2 * together
    labels, order = linear_sum_assignment(apart)
    return order if apart[labels, order].sum() <= _EXPLAINED * np.trace(apart) else None
