"""Signals that wait: what would break a training in the middle of a step comes between two of them."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any

__all__ = ["Shield"]


class Shield:
    """Holds back what would raise in the middle of a step: Ctrl-C, SIGTERM, news of dead workers.

    Parameters
    ----------
    held
        Hold all back between steps too, until :meth:`stop`: not this process alone decides when it
        ends, and that a worker is dead the loader notices too.

    Attributes
    ----------
    torn
        A step broke off in the middle: the weights are neither those before it nor those after it.
    last
        Number of the signal that got through last, or 0.
    """

    _SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD)
    _TO_END = (signal.SIGINT, signal.SIGTERM)

    def __init__(self, held: bool = False) -> None:
        self.torn, self.last = False, 0
        self._closed, self._deaf, self._held = False, False, held
        self._waiting: list[tuple[int, Any]] = []
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Shield:
        if threading.current_thread() is threading.main_thread():
            for number in self._SIGNALS:
                # What is ignored or ends the process at once stays as it is.
                if callable(signal.getsignal(number)):
                    self._before[number] = signal.signal(number, self._came)
        return self

    def __exit__(self, kind: Any, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if kind is None and self.wanted:
            self.stop(self.wanted)

    @contextlib.contextmanager
    def closed(self) -> Iterator[None]:
        """In the block nothing gets through; what came meanwhile does at its end."""
        self._closed = self.torn = True
        try:
            yield
            self.torn = False
        finally:
            self._closed = False
            if not self._held:
                if self._waiting and not self.torn:
                    self._act()
                self._waiting.clear()

    @contextlib.contextmanager
    def opened(self) -> Iterator[None]:
        """In the block everything gets through, what is held back first."""
        held, self._held = self._held, False
        try:
            self._act()
            yield
        finally:
            self._held = held

    def news(self) -> None:
        """Raise what is held back about dead workers, if anything."""
        news = [came for came in self._waiting if came[0] == signal.SIGCHLD]
        for came in news:
            self._waiting.remove(came)
            self._before[came[0]](*came)

    @property
    def wanted(self) -> int:
        """Number of the signal that is held back, or 0."""
        return int(min((number for number, _ in self._waiting if number in self._TO_END), default=0))

    def stop(self, number: int) -> None:
        """Do what this process does at a signal, whether it came here or to another one."""
        self._waiting.clear()
        handler = self._before.get(number)
        if handler is not None:
            handler(number, None)
        raise SystemExit(128 + number)

    @contextlib.contextmanager
    def last_words(self) -> Iterator[None]:
        """In the block only Ctrl-C gets through: who presses it again does not want to wait."""
        self._deaf, self._held = True, False
        try:
            yield
        finally:
            self._deaf = False

    def _came(self, number: int, frame: Any) -> None:
        if self._deaf and number != signal.SIGINT:
            return
        self._waiting.append((number, frame))
        if not self._closed and not self._held:
            self._act()

    def _act(self) -> None:
        # To be told to stop comes before news of workers that were told so too.
        while self._waiting:
            try:
                first = min(self._waiting, key=lambda came: self._SIGNALS.index(came[0]))
                self._waiting.remove(first)
            except ValueError:
                # One more came in between, and it has been seen to already.
                continue
            self.last = int(first[0])
            self._before[first[0]](*first)
