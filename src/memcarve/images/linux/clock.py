"""When a Linux machine began, by its own clock: what makes times since then times of the calendar.

The kernel's ``struct timekeeper`` (include/linux/timekeeper_internal.h of Linux) says how far the clock of the calendar
and the one that counts from the machine's start are ahead of the monotonic one. It lies in the kernel's image, near
the first task, and is known by saying the same twice: `wall_to_monotonic`, in seconds and nanoseconds, is the negative
of `offs_real`, in nanoseconds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from memcarve.intervals import PAGE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memcarve.dtypes import I64, U64
    from memcarve.images.linux.kernel import Kernel

_NEAR = 32 << 20  # how far from the first task it is looked for
_BLOCK = 1 << 20
_SECOND = 1_000_000_000
_EARLIEST = 86_400  # seconds after 1970: a clock that was not set says nothing
_LATEST = 1 << 33
_CENTURY = 36_525 * 86_400  # seconds: no machine runs for longer


def started(kernel: Kernel) -> int | None:
    """Return when the machine began, in ns since 1970; None if its clock is not found, or was not set.

    That is the time of its calendar minus the time since its start: if the clock is set, it moves.
    """
    types = kernel.first.types
    names = ("wall_to_monotonic.tv_sec", "wall_to_monotonic.tv_nsec", "offs_real", "offs_boot", "xtime_sec")
    members = [types.member("timekeeper", name) for name in names]
    places = [(member.offset, 4 if member.size == 4 else 8) for member in members if member is not None]  # noqa: PLR2004
    if len(places) < len(names):
        return None
    looked = (_look(data, types.pointer_size, places) for data in near_first_task(kernel))
    return next((found for found in looked if found is not None), None)


def near_first_task(kernel: Kernel) -> Iterator[bytes]:
    """Yield the memory around the first task, what is nearest first: blocks with the page behind them.

    Of pages that are not there, the bytes are zeros.
    """
    middle = kernel.first.physical // _BLOCK * _BLOCK
    for step in sorted(range(-_NEAR, _NEAR, _BLOCK), key=abs):
        low = max(middle + step, 0)
        pages: U64 = np.arange(low, middle + step + _BLOCK + PAGE, PAGE, dtype=np.uint64)
        there = kernel.memory.holds(pages, PAGE)
        if middle + step >= 0 and there.any():
            words = np.zeros((len(pages), PAGE // 8), np.uint64)
            words[there] = kernel.memory.pages(pages[there])
            yield words.tobytes()


def agreeing(second: I64, nanosecond: I64, real: I64, boot: I64, now: I64) -> I64:
    """Return the rows of columns in which the members of a clock make sense together.

    `second` and `nanosecond` are of `wall_to_monotonic`, `real` and `boot` are `offs_real` and `offs_boot` (ns), and
    `now` is `xtime_sec`.
    """
    rows = np.flatnonzero((second < -_EARLIEST) & (second > -_LATEST))
    second, nanosecond, real, boot, now = (column[rows] for column in (second, nanosecond, real, boot, now))
    good = (nanosecond >= 0) & (nanosecond < _SECOND) & (-(second * _SECOND + nanosecond) == real)
    good &= (boot >= 0) & (boot < _CENTURY * _SECOND)
    good &= (now >= real // _SECOND) & (now - real // _SECOND < _CENTURY)
    found: I64 = rows[good]
    return found


def _look(data: bytes, pointer_size: int, places: list[tuple[int, int]]) -> int | None:
    """Return when the machine began if its clock lies in some memory, given offset and size of its members."""
    first, last = min(offset for offset, _ in places), max(offset + size for offset, size in places)
    count = (len(data) - (last - first) - 8) // 8
    # numbers of 64 bits need not lie at multiples of 8 bytes if pointers have 32
    for shift in (0,) if pointer_size == 8 else (0, 4):  # noqa: PLR2004
        columns = []
        for offset, size in places:
            begin = shift + offset - first
            column = np.frombuffer(data, np.int64, count, begin)
            # of a number of 4 bytes the lower half
            columns.append(column if size == 8 else column << 32 >> 32)  # noqa: PLR2004
        second, nanosecond, real, boot, now = columns
        for row in agreeing(second, nanosecond, real, boot, now)[:1].tolist():
            return int(real[row]) - int(boot[row])
    return None
