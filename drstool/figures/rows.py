"""Rows of a figure: which images are shown, and by what they were chosen."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

from drstool.data.item import Dataset
from drstool.errors import InputError, UsageError
from drstool.files import is_file
from drstool.labels import label_names
from drstool.metrics import ConfusionMatrix
from drstool.reports.scores import Evaluation
from drstool.reports.text import counted
from drstool.text import read_lines

__all__ = ["MOST_ROWS", "Pick", "named_ids", "parse_pick"]

# Whoever wants more rows names them, or picks.
MOST_ROWS = 40
_KINDS = ("worst", "best", "median", "random", "even", "around")


@dataclass(frozen=True)
class Pick:
    """How images are chosen; ``kind`` is one of ``_KINDS``, ``around`` a class."""

    kind: str
    count: int
    object_class: str = ""

    @property
    def needs_scores(self) -> bool:
        """Whether the choice depends on the scores of a column."""
        return self.kind not in ("random", "even")

    def words(self, title: str, images: int) -> str:
        """By what the images were chosen, of a number of them; ``title`` is the column's whose scores count."""
        if not self.needs_scores and self.count == images:
            return f"all {counted(images, 'image')}"
        if self.kind == "random":
            return f"{counted(self.count, 'image')} chosen at random"
        if self.kind == "even":
            return f"{counted(self.count, 'image')} chosen at equal distances in the list"
        score = f"IoU of {self.object_class}" if self.kind == "around" else "mean IoU"
        place = {"worst": "lowest", "best": "highest"}.get(self.kind)
        if place is not None:
            return f"{counted(self.count, 'image')} chosen by the {place} {score} of {title}"
        return f"{counted(self.count, 'image')} chosen by the {score} of {title} nearest to its median"

    def unscored(self, dataset: Dataset, seed: int) -> tuple[str, ...]:
        """The ids of a choice that needs no scores, in the dataset's order."""
        ids = [item.id for item in dataset.items]
        count = min(self.count, len(ids))
        if self.kind == "random":
            places = sorted(random.Random(seed).sample(range(len(ids)), count))
        else:
            places = [place * (len(ids) - 1) // max(count - 1, 1) for place in range(count)]
        return tuple(ids[place] for place in places)

    def scored(self, evaluation: Evaluation) -> tuple[str, ...]:
        """The ids of a choice by scores, the first that the choice is about first; of ``median``, by rising score.

        Parameters
        ----------
        evaluation
            Of the column, with the counts of each image.

        Raises
        ------
        InputError
            No image has a score.
        """
        scores = sorted((score, identifier) for identifier, score in self._scores(evaluation) if not math.isnan(score))
        if not scores:
            raise InputError("--pick", "no image has such a score", "see 'drstool eval --per-image'")
        if self.kind in ("worst", "best"):
            ordered = scores if self.kind == "worst" else scores[::-1]
            return tuple(identifier for _, identifier in ordered[:self.count])
        middle = scores[(len(scores) - 1) // 2][0]
        nearest = sorted(scores, key=lambda each: (abs(each[0] - middle), each))[:self.count]
        return tuple(identifier for _, identifier in sorted(nearest))

    def _scores(self, evaluation: Evaluation) -> list[tuple[str, float]]:
        if not self.object_class:
            return [(row.id, row.mean_iou) for row in evaluation.per_image()]
        if self.object_class not in evaluation.class_names:
            raise InputError(
                "--pick", f"there is no class '{self.object_class}'",
                f"the classes are {', '.join(evaluation.class_names)}")
        label, found = label_names(evaluation.class_names).index(self.object_class), []
        for identifier, counts in evaluation.counts.items():
            matrix = ConfusionMatrix(evaluation.class_names)
            matrix.add(counts)
            score = matrix.scores(evaluation.protocol.ignored).classes[label]
            found += [(identifier, score.iou)] if score.pixels else []
        return found


def parse_pick(text: str) -> Pick:
    """A choice as the command line writes it.

    Raises
    ------
    UsageError
        It is none.

    Examples
    --------
    >>> parse_pick("worst:5"), parse_pick("around:potted plant:3")
    (Pick(kind='worst', count=5, object_class=''), Pick(kind='around', count=3, object_class='potted plant'))
    """
    kind, _, rest = text.partition(":")
    name, _, count = rest.rpartition(":") if kind == "around" else ("", "", rest)
    if kind not in _KINDS or not (count.isascii() and count.isdecimal() and int(count)) or (kind == "around") != bool(
            name):
        raise UsageError(
            "--pick", f"{text!r} is not a choice of images",
            "expected worst:N, best:N, median:N, random:N, even:N or around:CLASS:N")
    return Pick(kind, int(count), name)


def named_ids(text: str) -> tuple[str, ...]:
    """Ids separated by commas, or the lines of a file, which may begin with them.

    Raises
    ------
    InputError
        There are none.
    """
    found = read_lines(text) if is_file(text) else [part.strip() for part in text.split(",") if part.strip()]
    if not found:
        raise InputError("--ids", f"{text!r} names no image", "give ids separated by commas, or a file of them")
    return tuple(found)
