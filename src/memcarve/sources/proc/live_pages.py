"""What of a running Linux process is mapped, and which pages of it are there.

Sources: proc_pid_smaps(5), proc_pid_pagemap(5), proc_pid_map_files(5), ioctl_pagemap_scan(2).
"""

from __future__ import annotations

import errno
import itertools
import mmap
import os
import re
import stat
import struct
from typing import TYPE_CHECKING, NamedTuple, cast

import numpy as np

from memcarve.errors import MapError, SourceReadError
from memcarve.formats.listing.listing_kinds import PROC_MAPS
from memcarve.formats.listing.procmaps import cells
from memcarve.intervals import Intervals
from memcarve.sources.listings.listing_rows import DoubtfulError, UnknownError, reader

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from memcarve.dtypes import Bools
    from memcarve.metadata import Region


PAGE = mmap.PAGESIZE
_MOST = 1 << 21  # mappings; Linux lets a process have 65,530 unless told otherwise
_MOST_PIECES = 1 << 20  # pieces of files with holes
_LARGE = 1 << 30  # bytes of a mapping
_DETAIL = re.compile(rb"(Rss|Swap|Shared_Hugetlb|Private_Hugetlb): +(\d{1,18}) kB")
_FLAGS = b"VmFlags: "
_PRESENT, _SWAPPED = 63, 62  # bits of a page's word in pagemap
_WORDS = 1 << 20  # of them, that are read in one go
# the request, and the twelve words of its struct pm_scan_arg; the fifth says how far the kernel came
_SCAN, _SCAN_ARGUMENT = 0xC0606610, struct.Struct("=12Q")
_IS_PRESENT, _IS_SWAPPED = 8, 16  # PAGE_IS_PRESENT, PAGE_IS_SWAPPED
_SCANNED = 1 << 14  # stretches that are asked for in one go
_NO_SCAN = {errno.ENOTTY, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM}


class Mapping(NamedTuple):
    """A region, and what ``smaps`` adds: bytes in memory and in swap, two-letter flags; the mapped file's inode."""

    region: Region
    resident: int
    swapped: int
    flags: frozenset[bytes]
    inode: int


def mappings(lines: Iterable[bytes], path: str) -> Iterator[Mapping]:
    """Yield what the lines of a ``smaps`` say, which messages call `path`; raise MapError if they cannot be read."""
    found, resident, swapped, flags, inode = None, 0, 0, frozenset[bytes](), 0
    count = 0
    for line in itertools.chain(lines, [b""]):
        detail = _DETAIL.match(line)
        if detail is not None:
            swapped += int(detail[2]) << 10 if detail[1] == b"Swap" else 0
            resident += int(detail[2]) << 10 if detail[1] != b"Swap" else 0
            continue
        if line.startswith(_FLAGS):
            flags = frozenset(line[len(_FLAGS) :].split())
            continue
        row = cells(line.removesuffix(b"\n"))
        if row is None and line:
            continue  # another detail
        if found is not None:
            yield Mapping(found, resident, swapped, flags, inode)
        if row is None:
            return
        count += 1
        if count > _MOST:
            raise MapError(f"lists more than {_MOST} mappings", subject=path)
        try:
            found = cast("Region", reader(PROC_MAPS)(row, 64))
        except (DoubtfulError, UnknownError) as error:
            raise MapError(str(error), subject=path) from None
        resident, swapped, flags, inode = 0, 0, frozenset(), cast("int", row["Inode"])


class PageMap:
    """``pagemap`` of a process, opened as `fd`; which the caller closes. Messages call it `path`."""

    def __init__(self, fd: int, path: str) -> None:
        self._fd = fd
        self._path = path
        self.scans = True

    def stretches(self, start: int, end: int) -> tuple[Intervals, Bools]:
        """Return the pages between two addresses that are in memory or in swap; which of these are only in swap (bool).

        Pages that only look like swapped ones (guard pages, poisoned ones) are among the swapped. Raises
        SourceReadError.
        """
        try:
            if self.scans:
                try:
                    return self._scanned(start, end)
                except OSError as error:
                    if error.errno not in _NO_SCAN:
                        raise
                    self.scans = False  # a kernel before 6.7
            return self._read(start, end)
        except OSError as error:
            raise SourceReadError(f"cannot be read: {error.strerror}", subject=self._path) from error

    def _scanned(self, start: int, end: int) -> tuple[Intervals, Bools]:
        """Have the kernel look for them, which passes over what was never touched at once."""
        import fcntl  # Linux alone gets here

        parts, room, wanted = [], np.zeros((_SCANNED, 3), np.uint64), _IS_PRESENT | _IS_SWAPPED
        while start < end:
            argument = bytearray(
                _SCAN_ARGUMENT.pack(
                    _SCAN_ARGUMENT.size, 0, start, end, 0, room.ctypes.data, len(room), 0, 0, 0, wanted, wanted
                )
            )
            count = fcntl.ioctl(self._fd, _SCAN, argument)
            parts.append(room[:count].copy())
            reached = _SCAN_ARGUMENT.unpack(argument)[4]
            if reached <= start:
                break
            start = reached
        rows = np.concatenate(parts) if parts else room[:0]
        return Intervals(rows[:, 0], rows[:, 1] - rows[:, 0]), rows[:, 2] & np.uint64(_IS_PRESENT) == 0

    def _read(self, start: int, end: int) -> tuple[Intervals, Bools]:
        """Read a word for each page."""
        starts, ends, states = [], [], []
        for number in range(start // PAGE, end // PAGE, _WORDS):
            data = os.pread(self._fd, (min(number + _WORDS, end // PAGE) - number) * 8, number * 8)
            state = (np.frombuffer(data, np.uint64, len(data) // 8) >> np.uint64(_SWAPPED)).astype(np.uint8)
            if not state.any():
                continue
            first = np.flatnonzero(np.diff(state, prepend=np.uint8(255)))
            last = np.append(first[1:], len(state))
            keep = state[first] > 0
            starts.append((number + first[keep]) * PAGE)
            ends.append((number + last[keep]) * PAGE)
            states.append(state[first][keep])
        if not starts:
            return Intervals.of([]), np.zeros(0, np.bool_)
        swapped = np.concatenate(states) < 1 << (_PRESENT - _SWAPPED)
        low, high = (np.concatenate(columns).astype(np.uint64) for columns in (starts, ends))
        return Intervals(low, high - low), swapped


class MappedFiles:
    """The files behind the mappings of the process whose folder below ``/proc`` is open as `folder`."""

    def __init__(self, folder: int) -> None:
        self._folder = folder
        self._pieces = 0
        #: mappings of files of which nothing could be found out
        self.unknown = 0

    def parts(self, mapping: Mapping) -> tuple[list[tuple[int, int]], int, bool] | None:
        """Return what a file gives to a mapping: ranges of addresses, where it ends, and whether it has holes.

        None if that is not known. What lies beyond the file's end cannot be read. Holes are skipped if
        reading them costs memory or time: of shared mappings, whose files may be memory, and of large ones.
        """
        name, status = self._status(mapping)
        region = mapping.region
        if status is None or region.offset is None:
            self.unknown += 1
            return None
        if not stat.S_ISREG(status.st_mode):
            return None
        length = -(-status.st_size // PAGE) * PAGE
        end = region.start + min(max(length - region.offset, 0), region.size)
        small = region.private is not False and region.size <= _LARGE
        if small or status.st_blocks * 512 >= status.st_size:
            return [(region.start, end)] if end > region.start else [], end, False
        found = self._written(name, region.offset, end - region.start)
        if found is None:
            self.unknown += 1
            return None
        shift = region.start - region.offset
        return [(low + shift, high + shift) for low, high in found], end, True

    def _status(self, mapping: Mapping) -> tuple[str, os.stat_result | None]:
        """Return a path that leads to a mapping's file from the folder, and the file's status."""
        region = mapping.region
        name = f"map_files/{region.start:x}-{region.end:x}"
        try:  # it leads to the file even if that was deleted; not every user may use it
            return name, os.stat(name, dir_fd=self._folder)
        except OSError:
            pass
        name = "root/" + (region.file or "").lstrip("/")
        try:
            status = os.stat(name, dir_fd=self._folder)
        except (OSError, ValueError):
            return name, None
        return name, status if status.st_ino == mapping.inode else None

    def _written(self, name: str, offset: int, size: int) -> list[tuple[int, int]] | None:
        """Return which whole pages of a file, as far as it is mapped, are written; None if that is not known."""
        found: list[tuple[int, int]] = []
        place, end = offset, offset + size
        try:
            fd = os.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=self._folder)
        except OSError:
            return None
        try:
            while place < end:
                self._pieces += 1
                if self._pieces > _MOST_PIECES:
                    return None
                low = os.lseek(fd, place, os.SEEK_DATA) // PAGE * PAGE
                high = -(-os.lseek(fd, max(low, place), os.SEEK_HOLE) // PAGE) * PAGE
                if low >= end or high <= place:
                    break
                found.append((max(low, place), min(high, end)))
                place = high
        except OSError as error:
            return found if error.errno == errno.ENXIO else None  # no more data; or a file that cannot tell
        finally:
            os.close(fd)
        return found
