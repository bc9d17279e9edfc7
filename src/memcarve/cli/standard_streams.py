"""Standard streams that are closed, full, or that nobody reads.

If a descriptor from 0 to 2 is closed, the next file that is opened gets its number: what is meant for a stream would be
written into evidence or output.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

_IN, _OUT, _ERR = range(3)


class _Output(io.FileIO):
    """Standard output: an error says that it is of this."""

    def write(self, data: ReadableBuffer) -> int:
        try:
            return super().write(data)
        except OSError as error:
            error.filename = "standard output"
            raise


class _Messages(io.FileIO):
    """Standard error, where what cannot be written is lost: no work is given up for that."""

    def write(self, data: ReadableBuffer) -> int:
        try:
            return super().write(data) or memoryview(data).nbytes
        except OSError:
            return memoryview(data).nbytes


def prepare() -> None:
    """Open the standard streams that are closed: what is printed then fails, and messages go nowhere."""
    for number, flags in ((_IN, os.O_WRONLY), (_OUT, os.O_RDONLY), (_ERR, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:  # closed; the lowest number that is free is taken, which is this one
            os.open(os.devnull, flags)
    out, err = sys.stdout, sys.stderr  # None if they were closed; what terminals need is left to Python
    if out is None or not out.isatty():
        words = ("utf-8", "strict") if out is None else (out.encoding, out.errors)
        sys.stdout = io.TextIOWrapper(io.BufferedWriter(_Output(_OUT, "w", closefd=False)), *words)
    if err is None or not err.isatty():
        words = ("utf-8", "backslashreplace") if err is None else (err.encoding, err.errors)
        written = io.BufferedWriter(_Messages(_ERR, "w", closefd=False))
        sys.stderr = io.TextIOWrapper(written, *words, line_buffering=True)


def give_up_output() -> None:
    """Lose what is waiting for standard output: it would be tried again, and complained of, by the interpreter."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.stdout.flush()
