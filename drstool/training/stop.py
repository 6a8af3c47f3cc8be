"""Signals that wait: what would break off a training in the middle of a step acts between two of them."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["Stop"]


class Stop:
    """In the block Ctrl-C, SIGTERM and news of dead workers only leave a note, and act when they are let.

    Where they raise nothing, because they are ignored or end the process at once, all stays as it is.
    A signal to end that is still waiting when the block ends acts then.
    """

    _TO_END = (signal.SIGINT, signal.SIGTERM)
    # A request to stop comes before news of workers that were stopped by it too.
    _DEFERRED = (*_TO_END, *([signal.SIGCHLD] if hasattr(signal, "SIGCHLD") else ()))

    def __init__(self) -> None:
        self._waiting: set[int] = set()
        self._acting: tuple[int, ...] = ()
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> Stop:
        if threading.current_thread() is threading.main_thread():
            for number in self._DEFERRED:
                if callable(signal.getsignal(number)):
                    self._handlers[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        # What ends the process already is not replaced.
        if kind is None or issubclass(kind, Exception):
            self._act(self._TO_END)

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """In the block signals act at once, and first those that are waiting."""
        self._acting = self._DEFERRED
        try:
            self._act(self._acting)
            yield
        finally:
            self._acting = ()

    @contextmanager
    def final_save(self) -> Iterator[None]:
        """In the block only one more Ctrl-C acts: whoever presses it again does not want to wait."""
        self._acting = (signal.SIGINT,)
        try:
            yield
        finally:
            self._acting = ()

    def _note(self, number: int, frame: Any) -> None:
        self._waiting.add(number)
        if number in self._acting:
            self._act((number,))

    def _act(self, numbers: tuple[int, ...]) -> None:
        for number in numbers:
            if number in self._waiting:
                self._waiting.discard(number)
                self._handlers[number](number, None)
