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
    from memcarve.dtypes import U64
    from memcarve.formats.kernel_types import KernelTypes
    from memcarve.images.linux.kernel import Kernel
    from memcarve.images.physical import PhysicalMemory

_NEAR = 32 << 20  # how far from the first task it is looked for
_BLOCK = 1 << 20
_SECOND = 1_000_000_000
_EARLIEST = 86_400  # seconds after 1970: a clock that was not set says nothing
_LATEST = 1 << 33
_CENTURY = 36_525 * 86_400 * _SECOND  # no machine runs for longer


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
    middle = kernel.first.physical // _BLOCK * _BLOCK
    steps = sorted(range(-_NEAR, _NEAR, _BLOCK), key=abs)
    for low in (middle + step for step in steps if middle + step >= 0):
        found = _look(kernel.memory, types, low, places)
        if found is not None:
            return found
    return None


def _look(memory: PhysicalMemory, types: KernelTypes, low: int, places: list[tuple[int, int]]) -> int | None:
    """Return when the machine began if its clock lies in the block at `low`, given offset and size of its members."""
    pages = np.arange(low, low + _BLOCK + PAGE, PAGE, dtype=np.uint64)
    there = memory.holds(pages, PAGE)
    if not there.any():
        return None
    words: U64 = np.zeros((len(pages), PAGE // 8), np.uint64)
    words[there] = memory.pages(pages[there])
    data = words.view(np.uint8).reshape(-1)
    first, last = min(offset for offset, _ in places), max(offset + size for offset, size in places)
    count = (len(data) - (last - first) - 8) // 8
    # numbers of 64 bits need not lie at multiples of 8 bytes if pointers have 32
    for shift in (0,) if types.pointer_size == 8 else (0, 4):  # noqa: PLR2004
        columns = []
        for offset, size in places:
            begin = shift + offset - first
            column = data[begin : begin + 8 * count].view(np.int64)
            # of a number of 4 bytes the lower half
            columns.append(column if size == 8 else column << 32 >> 32)  # noqa: PLR2004
        place = np.flatnonzero((columns[0] < -_EARLIEST) & (columns[0] > -_LATEST))
        second, nanosecond, real, boot, now = (column[place] for column in columns)
        said = (nanosecond >= 0) & (nanosecond < _SECOND) & (-(second * _SECOND + nanosecond) == real)
        said &= (boot >= 0) & (boot < _CENTURY) & (now >= real // _SECOND) & (now - real // _SECOND < _CENTURY)
        if said.any():
            at = int(np.flatnonzero(said)[0])
            return int(real[at]) - int(boot[at])
    return None
