"""Signals that stop the program: at once while it is loading, and afterwards as an exception, so that it cleans up.

What its parent made it ignore (nohup, a job in the background of a shell without job control) stays ignored.
"""

from __future__ import annotations

import contextlib
import os
import signal
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


class StoppedBySignal(BaseException):
    """The program was asked to stop by the signal `number`."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


def end_at_once() -> None:
    """Let signals end the program where it is, with a line that says so: nothing has been opened yet."""
    for number in _SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _end)


def raise_exceptions() -> None:
    """From here on let the signals that would have ended the program at once raise StoppedBySignal."""
    for number in _SIGNALS:
        if signal.getsignal(number) is _end:
            signal.signal(number, _raise)


class Requests:
    """The signals that came meanwhile: the `number` of the first, and how many."""

    def __init__(self) -> None:
        self.number: int | None = None
        self.count = 0


@contextlib.contextmanager
def only_noted() -> Iterator[Requests]:
    """Within the block take note of the signals that would raise StoppedBySignal: it looks for them itself."""
    found = Requests()

    def note(number: int, _: FrameType | None) -> None:
        found.number = number if found.number is None else found.number
        found.count += 1

    changed = [number for number in _SIGNALS if signal.getsignal(number) is _raise]
    try:
        for number in changed:
            signal.signal(number, note)
        yield found
    finally:
        for number in changed:
            signal.signal(number, _raise)


def line(number: int, *notes: str) -> str:
    """Return what is said of a run that a signal has stopped; a command in the last of the notes can be pasted."""
    return "; ".join([f"stopped ({signal.Signals(number).name})", *notes])


def _end(number: int, _: FrameType | None) -> NoReturn:
    try:
        os.write(2, f"memcarve: {line(number)}\n".encode())
    finally:
        os._exit(128 + number)


def _raise(number: int, _: FrameType | None) -> NoReturn:
    for other in _SIGNALS:  # another signal must not disturb the clean-up
        signal.signal(other, signal.SIG_IGN)
    raise StoppedBySignal(number)
