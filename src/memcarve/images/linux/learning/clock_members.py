"""Where an unknown kernel keeps what its clock says: members of struct timekeeper.

The order of members relied on is that of include/linux/timekeeper_internal.h from Linux 4.19 to 7.3:

    struct tk_read_base tkr_mono;              begins with a pointer to the source of the clock
    (struct tk_read_base tkr_raw;)             here until 6.14, with the same source; later farther behind
    u64 xtime_sec; unsigned long ktime_sec; struct timespec64 wall_to_monotonic; ktime_t offs_real, offs_boot;

What proves them: `wall_to_monotonic`, in seconds and nanoseconds, is the negative of `offs_real`, in nanoseconds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from memcarve.intervals import PAGE

if TYPE_CHECKING:
    from memcarve.dtypes import I64, U64
    from memcarve.images.linux.kernel import Kernel
    from memcarve.images.linux.learning.learned_types import LearnedTypes

_NEAR = 32 << 20  # how far from the first task it is looked for: both lie in the kernel's image
_BLOCK = 1 << 20
_SECOND = 1_000_000_000
_EARLIEST, _LATEST = 86_400, 1 << 33  # seconds between 1970 and the machine's start
_CENTURY = 36_525 * 86_400
_READ_BASE = {8: 56, 4: 52}  # bytes of tk_read_base, by those of a pointer


def learn_clock(kernel: Kernel, types: LearnedTypes) -> None:
    """Learn the members, if the clock is found."""
    word, middle = types.pointer_size, kernel.first.physical // _BLOCK * _BLOCK
    for low in sorted(range(middle - _NEAR, middle + _NEAR, _BLOCK), key=lambda low: abs(low - middle)):
        data = _read(kernel, low) if low >= 0 else b""
        for at in _candidates(data, word):
            begin = _begin(data, at, word)
            if begin is not None:
                seconds = at - begin
                monotonic = seconds + 8 + word
                types.put("timekeeper", "xtime_sec", seconds, 8)
                types.put("timekeeper", "wall_to_monotonic.tv_sec", monotonic, 8)
                types.put_pointer("timekeeper", "wall_to_monotonic.tv_nsec", monotonic + 8)
                types.put("timekeeper", "offs_real", monotonic + 8 + word, 8)
                types.put("timekeeper", "offs_boot", monotonic + 16 + word, 8)
                return


def _read(kernel: Kernel, low: int) -> bytes:
    """Return the bytes of a block and the page behind it, zeros for what is not there."""
    pages: U64 = np.arange(low, low + _BLOCK + PAGE, PAGE, dtype=np.uint64)
    there = kernel.memory.holds(pages, PAGE)
    words = np.zeros((len(pages), PAGE // 8), np.uint64)
    if there.any():
        words[there] = kernel.memory.pages(pages[there])
    return words.tobytes() if there.any() else b""


def _candidates(data: bytes, word: int) -> list[int]:
    """Return where `xtime_sec` may be."""
    found: list[int] = []
    span = 8 + word + 8 + word + 16
    for shift in range(0, 8, word):
        size = (len(data) - span - 8) // 8 * 8
        if size <= 0:
            break

        def column(behind: int, kind: str = "<i8", start: int = shift, size: int = size) -> I64:
            """Return the numbers so many bytes behind each place where `xtime_sec` may be."""
            width = int(kind[-1])
            whole = np.frombuffer(data, kind, (size - 8) // width, start + behind)
            return whole[:: 8 // width].astype(np.int64)

        now, second = column(0), column(8 + word)
        nanosecond = column(16 + word, f"<i{word}")
        real, boot = column(16 + 2 * word), column(24 + 2 * word)
        good = (second < -_EARLIEST) & (second > -_LATEST) & (nanosecond >= 0) & (nanosecond < _SECOND)
        good &= -(np.where(good, second, 0) * _SECOND + nanosecond) == real
        good &= (
            (boot >= 0) & (boot < _CENTURY * _SECOND) & (now >= real // _SECOND) & (now - real // _SECOND < _CENTURY)
        )
        found += (np.flatnonzero(good) * 8 + shift).tolist()
    return found


def _begin(data: bytes, at: int, word: int) -> int | None:
    """Return where the timekeeper begins whose `xtime_sec` is at a place: with a pointer to the clock's source.

    Both clocks have one source: the other is between, or behind.
    """
    step = _READ_BASE[word]
    near, far = (int.from_bytes(data[at - step * count : at - step * count + word], "little") for count in (1, 2))
    if at < 2 * step or near >> (8 * word - 1) != 1:
        return None
    if near == far:
        return at - 2 * step
    return at - step if near.to_bytes(word, "little") in data[at + 8 * word : at + 8 * word + 0x100] else None
