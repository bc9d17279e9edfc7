"""The memory of a running Linux process: which ranges of it are there, and how they are read.

Sources: proc_pid_mem(5), proc_pid_smaps(5) for the flags of mappings.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import numpy as np

from memcarve.errors import SourceReadError
from memcarve.intervals import Intervals, union
from memcarve.missing import BEYOND_FILE, DENIED, DEVICE, Missing
from memcarve.sources.proc.live_pages import PAGE

if TYPE_CHECKING:
    from memcarve.backing import Span
    from memcarve.sources.proc.live_pages import MappedFiles, Mapping, PageMap
    from memcarve.space import AddressSpace


READABLE = 1 << 63  # the first address that pread(2) cannot be asked for
_CODE = "[vdso]"  # the kernel's own, which every program has
_DEVICE = {b"io", b"pf"}  # VM_IO, VM_PFNMAP
# huge pages, of which reading takes one from a pool; pages for which the process itself is asked (userfaultfd)
_NEVER_WHOLE = {b"ht", b"um", b"uw", b"ui"}


class LiveBacking:
    """The memory of a process that runs: an offset is an address. Safe to use from several threads.

    `fd` is ``/proc/PID/mem``, opened read-only; it belongs to the instance. Messages call the process `path`.
    """

    size = READABLE

    def __init__(self, path: str, fd: int) -> None:
        self.path = path
        self._fd = fd

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` with the bytes at the address `offset`, or raise SourceReadError."""
        done = 0
        while done < len(buffer):
            try:
                count = os.preadv(self._fd, [buffer[done:]], offset + done)
            except OSError as error:
                if error.errno == errno.EBADF:
                    raise SourceReadError("has been closed", subject=self.path) from error
                raise SourceReadError(
                    f"cannot be read at address 0x{offset + done:x}: {error.strerror}; what was there may have been "
                    "given back meanwhile: stop the process (kill -STOP) and try again",
                    subject=self.path,
                ) from error
            if not count:
                raise self._gone()
            done += count

    def readable(self, address: int) -> bool:
        """Return True if the byte at an address can be read; raise SourceReadError if the process has ended."""
        try:
            count = os.preadv(self._fd, [bytearray(1)], address)
        except OSError:
            return False
        if not count:
            raise self._gone()
        return True

    def _gone(self) -> SourceReadError:
        return SourceReadError("has ended, or begun another program, while it was read", subject=self.path)

    def spans(self, offset: int, size: int) -> list[Span] | None:  # noqa: ARG002
        """Return None: the kernel copies memory to nowhere but memory."""
        return None

    def close(self) -> None:
        """Close the memory; a second call does nothing."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


class EndToEnd:
    """All that is there of a process, in order of addresses: what a hash of the input is of."""

    def __init__(self, path: str, space: AddressSpace) -> None:
        self.path = path
        self._space = space
        self._ends = np.cumsum(space.size, dtype=np.uint64)
        self.size = space.total

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` with the bytes at `offset`, or raise SourceReadError."""
        done = 0
        while done < len(buffer):
            index = int(np.searchsorted(self._ends, np.uint64(offset + done), "right"))
            if index == len(self._ends):
                raise SourceReadError(f"has no byte at offset 0x{offset + done:x}", subject=self.path)
            left = int(self._ends[index]) - offset - done
            count = min(left, len(buffer) - done)
            address = int(self._space.start[index]) + int(self._space.size[index]) - left
            self._space.backing.read_into(address, buffer[done : done + count])
            done += count

    def spans(self, offset: int, size: int) -> list[Span] | None:  # noqa: ARG002
        """Return None: nothing of it lies in a file."""
        return None

    def close(self) -> None:
        """Do nothing."""


class Present:
    """What is there of a process's mappings, one looked at after the other.

    Of mapped files all that the process could read, of everything else what is in memory or in swap: what was never
    touched is not there. `missing` is mapped and cannot be read; if `unreadable`, some of that is in memory.
    """

    def __init__(self, backing: LiveBacking, pages: PageMap, files: MappedFiles) -> None:
        self.files = files
        self.missing: list[Missing] = []
        self.unreadable = False
        self._backing = backing
        self._pages = pages
        self._found: list[Intervals] = []

    def ranges(self) -> Intervals:
        """Return the ranges found."""
        return union(*self._found)

    def look(self, mapping: Mapping) -> None:
        """Take note of what is there of a mapping; raise SourceReadError."""
        region = mapping.region
        if region.end > READABLE or mapping.flags & _DEVICE:
            reason = DEVICE if mapping.flags & _DEVICE else DENIED
            self.missing.append(Missing(region.start, region.size, reason))
            return
        parts, known = self._of_file(mapping)
        if not known and mapping.resident + mapping.swapped:
            pages, swapped = self._pages.stretches(region.start, region.end)
            marked = pages.where(swapped)
            if marked.total > mapping.swapped:
                marked = self._truly_swapped(marked)
            parts = union(parts, pages.where(~swapped), marked)
        if not len(parts):
            return
        first = int(parts.start.min())
        if self._backing.readable(first):
            self._found.append(parts)
        else:
            self.missing.append(Missing(first, int(parts.last.max()) + 1 - first, DENIED))
            self.unreadable = True

    def _of_file(self, mapping: Mapping) -> tuple[Intervals, bool]:
        """Return what a mapped file gives to a mapping, and whether that is all there is."""
        region, none = mapping.region, Intervals.of([])
        if region.file == _CODE:
            return Intervals.of([(region.start, region.size)]), True
        if not mapping.inode or not (region.protection or "").startswith("r") or mapping.flags & _NEVER_WHOLE:
            return none, False
        found = self.files.parts(mapping)
        if found is None:
            return none, False
        parts, end, holes = found
        if end < region.end:
            self.missing.append(Missing(end, region.end - end, BEYOND_FILE))
        return Intervals.of((low, high - low) for low, high in parts), not holes

    def _truly_swapped(self, marked: Intervals) -> Intervals:
        """Return which of the pages marked as swapped are: guard pages and poisoned ones have the mark, too."""
        found = []
        for low, high in marked.bounds():
            for address in range(low, high, PAGE):
                last = self.missing[-1] if self.missing else None
                if self._backing.readable(address):
                    found.append(address)
                elif last is not None and last.reason == DENIED and last.end == address:
                    self.missing[-1] = last._replace(size=last.size + PAGE)
                else:
                    self.missing.append(Missing(address, PAGE, DENIED))
        return Intervals.of((address, PAGE) for address in found)
