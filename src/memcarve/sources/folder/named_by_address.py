"""A bare folder of files that are named by the addresses they hold, as other tools and older scripts write them."""

from __future__ import annotations

import functools
import os
import re
import stat
from array import array
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from memcarve.backing import FolderBacking
from memcarve.errors import InputError, OverlapError, SourceReadError
from memcarve.intervals import TOP
from memcarve.metadata import Metadata, Region, Regions
from memcarve.process import Account, Container, Machine, Note, Platform, ProcessEntry, ProcessMemory, width_of
from memcarve.sources.listings import metadata_from_files
from memcarve.sources.opening import FOLDER, Source
from memcarve.space import AddressSpace

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memcarve.dtypes import U64
    from memcarve.sources.opening import Opened, OpenOptions


_MOST = 1 << 21  # things in the folder
OTHERS = "in files that are not named by addresses"

_BOUNDS = r"0[xX](?P<start>[0-9a-fA-F]{1,17})-0[xX](?P<end>[0-9a-fA-F]{1,17})"


class _Writer(NamedTuple):
    """Who writes files with such names: `regions` is its name if each file is a region, `system` what it looks at."""

    pattern: re.Pattern[str]
    regions: str | None = None
    system: str | None = None


#: longer names before those that they look like; ``-1`` is what Volatility 3 adds if a name is taken
_WRITERS = (
    _Writer(re.compile(rf"{_BOUNDS}(?:\..*)?", re.DOTALL)),
    _Writer(
        re.compile(rf"pid\.(?P<pid>\d{{1,18}})\.vad\.{_BOUNDS}(?:-\d{{1,9}})?\.dmp"),
        "windows.vadinfo --dump",
        "windows",
    ),
    _Writer(
        re.compile(rf"pid\.(?P<pid>\d{{1,18}})\.vma\.{_BOUNDS}(?:-\d{{1,9}})?\.dmp"), "linux.proc.Maps --dump", "linux"
    ),
    # Volatility 2 has the process's name and the physical address of what the kernel knows of it
    _Writer(
        re.compile(rf"(?P<name>.{{1,64}})\.(?P<object>[0-9a-f]{{1,16}})\.{_BOUNDS}\.dmp", re.DOTALL),
        "vaddump",
        "windows",
    ),
)
_ACCEPTED = "0xSTART-0xEND.*, pid.N.vad.0xSTART-0xEND.dmp, pid.N.vma.0xSTART-0xEND.dmp, NAME.OFFSET.0xSTART-0xEND.dmp"


class _Files:
    """The files of one process, in the order of the folder: their names, where each starts and how long it is."""

    def __init__(self, writer: _Writer, entry: ProcessEntry, prefix: str) -> None:
        self.writer = writer
        self.entry = entry
        self.prefix = prefix  # how the names begin, before the addresses
        self.names: list[str] = []
        self.start = array("Q")
        self.size = array("Q")


class NamedContainer(Container):
    """A folder of files named by addresses: of one process, or of several that the names tell apart.

    A name's end is the first address outside, or the last one inside: the file's length tells. Raises InputError if no
    file in the folder is so named, or one that is so named has another length or is not a regular file.
    """

    def __init__(self, opened: Opened, options: OpenOptions) -> None:
        path = self.path = opened.path
        self.listings = options.listings
        self.notes: list[str] = []
        self._backings: list[FolderBacking] = []
        self._others, self._others_size = 0, 0
        found: dict[tuple[object, ...], _Files] = {}
        for count, (name, status) in enumerate(_entries(path), 1):
            if count > _MOST:
                raise InputError(
                    f"holds more than {_MOST} files", subject=path, remedy="give a folder with the files of one process"
                )
            matched = _matched(name)
            if matched is None:
                self._others += 1
                self._others_size += status.st_size if stat.S_ISREG(status.st_mode) else 0
                continue
            writer, parts, prefix = matched
            start, size = _bounds(os.path.join(path, name), parts, status)
            entry = ProcessEntry(None if parts.get("pid") is None else int(parts["pid"]), parts.get("name"))
            files = found.setdefault((writer, entry, parts.get("object")), _Files(writer, entry, prefix))
            files.names.append(name)
            files.start.append(start)
            files.size.append(size)
        if not found:
            raise InputError(
                f"is a folder without segments.json, and of its {_files(self._others)} none is named by addresses; "
                f"give an image, a dump or its map, a folder that memcarve carved, or files named {_ACCEPTED}",
                subject=path,
            )
        self._found = sorted(found.values(), key=_order)
        entries = Counter(files.entry for files in self._found)
        self._entries = [
            files.entry._replace(name=files.prefix) if entries[files.entry] > 1 else files.entry
            for files in self._found
        ]
        if len(entries) < len(self._entries):
            several = "holds files of several processes with the same number or name"
            how = (
                "choose one by name, which is how its files' names begin, or put the files of each into its own folder"
            )
            self.notes.append(Note(f"{path}: {several}; {how}", "input"))
        if self._others:
            others = f"{_files(self._others, 'other ')} of {self._others_size} bytes"
            self.notes.append(Note(f"{path}: left out, because their names are not addresses: {others}", "input"))

    def processes(self) -> list[ProcessEntry]:
        """Return the processes that the names tell apart, by pid and name; if they tell neither, there is one.

        Those that have both in common are called by how their files' names begin: ``pid.5.vad``, ``task.exe.1f2e3d40``.
        """
        return self._entries

    def _process(self, index: int) -> ProcessMemory:
        """Return what the files hold as the memory of a process.

        No file is read. Raises InputError if one has changed meanwhile, OverlapError if two claim one address.
        """
        files = self._found[index]
        starts, sizes = np.array(files.start, np.uint64), np.array(files.size, np.uint64)
        order = np.argsort(starts, kind="stable")
        starts, sizes = starts[order], sizes[order]
        names = [files.names[place] for place in order.tolist()]
        self._check_disjoint(names, starts, sizes)
        backing = FolderBacking(self.path, zip(names, sizes.tolist(), strict=True))
        self._backings.append(backing)
        space = AddressSpace(starts, sizes, np.cumsum(sizes, dtype=np.uint64) - sizes, backing)
        bits = width_of(starts, sizes)
        notes = [f"{self.path}: taken for the memory at the addresses in their names: {_files(len(names))}"]
        if files.writer.regions is not None:
            notes.append(
                f"{self.path}: {files.writer.regions} writes zeros for pages that are not in memory: which of the "
                "zeros were there is not known"
            )
        left_out = {OTHERS: self._others_size} if self._others_size else {}
        return ProcessMemory(
            space,
            files.entry,
            machine=Machine(Platform(files.writer.system), address_bits=bits),
            account=Account(backing.size + self._others_size, left_out),
            inputs={"folder": {"path": self.path, "size": backing.size, "files": len(names)}},
            notes=[*notes, *self.notes],
            metadata=functools.partial(self._metadata, files, (starts, sizes), bits),
        )

    def close(self) -> None:
        """Close the files; a second call does nothing."""
        for backing in self._backings:
            backing.close()

    def _metadata(self, files: _Files, bounds: tuple[U64, U64], bits: int) -> Metadata:
        """Return what files say that were named or lie among these, and the regions that the names tell."""
        pid = files.entry.pid
        beside = [] if pid is None else [os.path.join(self.path, f"pid.{pid}.dmp")]
        found = metadata_from_files(self.listings, pid, beside, address_bits=bits)
        if files.writer.regions is None:
            return found
        rows = [Region(*row) for row in zip(*(column.tolist() for column in bounds), strict=True)]
        named = Regions(f"file names of {files.writer.regions}", rows)
        return found + Metadata((named,), complete=False)

    def _check_disjoint(self, names: list[str], starts: U64, sizes: U64) -> None:
        """Raise OverlapError, which names both files, if two claim one address."""
        shared = np.flatnonzero(starts[1:] <= starts[:-1] + (sizes[:-1] - np.uint64(1)))
        if len(shared):
            first, second = names[int(shared[0])], names[int(shared[0]) + 1]
            address = int(starts[int(shared[0]) + 1])
            raise OverlapError(
                f"{first} and {second} both hold the address 0x{address:x}",
                address,
                subject=self.path,
                remedy="put the files of each process and of each moment into a folder of their own",
            )


def _entries(path: str) -> Iterator[tuple[str, os.stat_result]]:
    """Yield name and status of what lies in a folder; links are not followed."""
    try:
        with os.scandir(path) as entries:
            for entry in entries:
                yield entry.name, entry.stat(follow_symlinks=False)
    except OSError as error:
        raise SourceReadError(f"cannot be read: {error.strerror}", subject=error.filename or path) from error


def _matched(name: str) -> tuple[_Writer, dict[str, str], str] | None:
    """Return who writes files of this name, what the name says, and what of it comes before the addresses.

    None if the name does not hold addresses.
    """
    for writer in _WRITERS:
        found = writer.pattern.fullmatch(name)
        if found:
            return writer, found.groupdict(), name[: found.start("start") - 2].rstrip(".")
    return None


def _bounds(path: str, parts: dict[str, str], status: os.stat_result) -> tuple[int, int]:
    """Return start and size of what a file holds; raise InputError if its name and its length do not agree."""
    if not stat.S_ISREG(status.st_mode):
        raise InputError(
            "is named by addresses and is not a regular file", subject=path, remedy="give a folder without it"
        )
    start, end, size = int(parts["start"], 16), int(parts["end"], 16), status.st_size
    if not start < TOP or not start <= end <= TOP:
        raise InputError("is named by addresses that make no range; rename it", subject=path)
    if not size:
        raise InputError("is empty; by its name it holds memory", subject=path, remedy="give a folder without it")
    if size not in (end - start, end - start + 1) or size > TOP - start:
        raise InputError(
            f"is {size} bytes long; by its name it must be {end - start} (if 0x{end:x} is the first address outside) "
            f"or {end - start + 1} (if it is the last one inside); it was changed or cut off: give a folder without "
            "it",
            subject=path,
        )
    return start, size


def _files(count: int, word: str = "") -> str:
    return f"{count} {word}file{'s' * (count != 1)}"


def _order(files: _Files) -> tuple[bool, int, str, str]:
    entry = files.entry
    return entry.pid is None, -1 if entry.pid is None else entry.pid, entry.name or "", files.prefix


NAMED = Source("a folder", (FOLDER,), lambda opened: opened.is_folder, NamedContainer)
