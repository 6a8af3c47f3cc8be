"""Which pixel values of images become black and white, where files do not use their whole range."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from drstool.errors import UsageError

if TYPE_CHECKING:
    import numpy as np

__all__ = ["ValueRange", "recorded_range", "scaled"]

_NUMBER = re.compile(r"-?\d{1,10}(?:\.\d{1,6})?%?", re.ASCII)
_TABLE_LENGTH = 2**16


@dataclass(frozen=True)
class ValueRange:
    """The values that become black and white: numbers, or percentiles of each image.

    Attributes
    ----------
    low, high
        As text: ``4095`` or ``99%``.
    """

    low: str
    high: str

    @classmethod
    def parse(cls, option: str, text: str) -> ValueRange:
        """The range that an option gives as ``MIN,MAX``.

        Raises
        ------
        UsageError
            It is no range.

        Examples
        --------
        >>> str(ValueRange.parse("--range", "0, 4095"))
        '0,4095'
        """
        found = cls(*parts) if len(parts := [part.strip() for part in text.split(",")]) == 2 else None
        if found is None or not all(_NUMBER.fullmatch(end) for end in (found.low, found.high)):
            raise UsageError(option, f"{text!r} is not a range", "expected MIN,MAX such as 0,4095 or 1%,99%")
        numbers = [float(end.rstrip("%")) for end in (found.low, found.high)]
        if any(end.endswith("%") and not 0 <= number <= 100 for end, number in zip((found.low, found.high), numbers)):
            raise UsageError(option, f"{text!r} has a percentile outside 0% to 100%", "expected such as 1%,99%")
        if found.low.endswith("%") == found.high.endswith("%") and numbers[0] >= numbers[1]:
            raise UsageError(option, f"{text!r} begins where it ends, or above", "give MIN,MAX with MIN below MAX")
        return found

    def __str__(self) -> str:
        return f"{self.low},{self.high}"

    @property
    def largest(self) -> float:
        """The largest value that it names; 0 where it names percentiles only."""
        return max((float(end) for end in (self.low, self.high) if not end.endswith("%")), default=0.0)

    def limits(self, values: np.ndarray) -> tuple[float, float]:
        """The values that become black and white in an image of any shape."""
        import numpy as np

        low, high = (float(np.percentile(values, float(end[:-1]))) if end.endswith("%") else float(end)
                     for end in (self.low, self.high))
        return low, high


def scaled(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """The values as uint8: ``low`` and less become 0, ``high`` and more 255.

    Examples
    --------
    >>> import numpy as np
    >>> scaled(np.uint16([0, 1000, 2000, 4000, 5000]), 1000, 4000).tolist()
    [0, 0, 85, 255, 255]
    """
    import numpy as np

    def steps(numbers: np.ndarray) -> np.ndarray:
        # A range of nothing: percentiles of an image of one value.
        width = max(high - low, 1e-9)
        return np.rint(np.clip((numbers - low) / width, 0, 1) * 255).astype(np.uint8)

    if values.dtype.kind in "ui" and values.size and values.min() >= 0 and values.max() < _TABLE_LENGTH:
        # A lookup table, because arithmetic would take eight times the picture's memory.
        return steps(np.arange(_TABLE_LENGTH))[values]
    return steps(np.nan_to_num(values.astype(np.float64)))


def recorded_range(history: Iterable[Mapping]) -> str | None:
    """The range with which the images of an artifact were read, as its history says; None if it says none."""
    ranges = [inputs.get("range") for step in history if isinstance(inputs := step.get("inputs"), Mapping)]
    return next((text for text in reversed(ranges) if isinstance(text, str)), None)
