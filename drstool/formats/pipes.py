"""Reading from what may be a pipe."""

from __future__ import annotations

import select
from typing import BinaryIO

from drstool.files import unreadable

__all__ = ["BLOCK", "read_up_to"]

# Size of a tar archive's blocks; also enough of a file to know its format by.
BLOCK = 512
_READ_BYTES = 1 << 20


def read_up_to(stream: BinaryIO, size: int, where: object) -> bytes:
    """``size`` bytes of a stream; fewer only at its end.

    Raises
    ------
    InputError
        The system cannot read on.
    """
    parts: list[bytes] = []
    try:
        # In portions: a false size costs no more memory than the bytes that come.
        while size > 0:
            part = stream.read(min(size, _READ_BYTES))
            if part is None:
                # A non-blocking pipe that is empty: wait for its writer.
                select.select([stream], [], [])
                continue
            if not part:
                break
            parts.append(part)
            size -= len(part)
    except OSError as error:
        raise unreadable(where, error) from error
    return b"".join(parts)
