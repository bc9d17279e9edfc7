"""Where memory begins in a file that holds it behind a header."""

from __future__ import annotations

from memcarve.intervals import PAGE

_LARGE = 1 << 21
_MUCH = 1 << 26


def memory_begins(end: int, total: int) -> int:
    """Return the first offset from `end` on at which `total` bytes of memory may begin.

    That is at a page, so that blocks can be shared; of much memory at a multiple of 2 MiB: systems that cache files in
    large pieces (Linux, ext4) copy twice as fast between places that lie alike in them.
    """
    alignment = _LARGE if total >= _MUCH else PAGE
    return end + -end % alignment
