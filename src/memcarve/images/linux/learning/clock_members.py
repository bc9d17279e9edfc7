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

from memcarve.images.linux.clock import agreeing, near_first_task

if TYPE_CHECKING:
    from memcarve.dtypes import I64
    from memcarve.images.linux.kernel import Kernel
    from memcarve.images.linux.learning.learned_types import LearnedTypes

_READ_BASE = {8: 56, 4: 52}  # bytes of tk_read_base, by those of a pointer


def learn_clock(kernel: Kernel, types: LearnedTypes) -> None:
    """Learn the members, if the clock is found."""
    word = types.pointer_size
    for data in near_first_task(kernel):
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
        found += (agreeing(second, nanosecond, real, boot, now) * 8 + shift).tolist()
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
