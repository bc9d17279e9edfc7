"""An open file that bytes are written to, and the ways to write them."""

from __future__ import annotations

import errno
import os
from typing import NamedTuple

from memcarve.errors import NoSpaceError, OutputError

BUFFER = 1 << 18  # stays in a processor's cache between reading, hashing and writing
PAGE = 4096
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG} if hasattr(errno, "EDQUOT") else {errno.ENOSPC, errno.EFBIG}
_ZEROS = bytes(BUFFER)


class Target(NamedTuple):
    """An open file to write to: its descriptor, and its name for messages."""

    fd: int
    name: str


def is_zero(view: memoryview) -> bool:
    """Return True if a block holds nothing but zeros."""
    if len(view) <= BUFFER:
        return _ZEROS.startswith(view)
    return all(_ZEROS.startswith(view[at : at + BUFFER]) for at in range(0, len(view), BUFFER))


def seek(target: Target, place: int) -> None:
    """Set the position in the file."""
    os.lseek(target.fd, place, os.SEEK_SET)


def write(target: Target, view: memoryview) -> None:
    """Write all of a block at the current position; raises OutputError."""
    try:
        while len(view):
            view = view[os.write(target.fd, view) :]
    except OSError as error:
        raise write_error(error, target) from error


def write_sparse(target: Target, view: memoryview) -> None:
    """Write a block that begins at the file's position, leaving out its pages of zeros."""
    begin = len(view) if is_zero(view) else 0
    if begin:
        os.lseek(target.fd, begin, os.SEEK_CUR)
    while begin < len(view):
        zero = is_zero(view[begin : begin + PAGE])
        end = begin + PAGE
        while end < len(view) and is_zero(view[end : end + PAGE]) == zero:
            end += PAGE
        end = min(end, len(view))
        if zero:
            os.lseek(target.fd, end - begin, os.SEEK_CUR)
        else:
            write(target, view[begin:end])
        begin = end


def write_error(error: OSError, target: Target) -> OutputError:
    """Return the error for a write that failed."""
    if error.errno in FULL:
        return NoSpaceError(f"cannot be written: {error.strerror}", subject=target.name)
    return OutputError(f"cannot be written: {error.strerror}", subject=target.name)
