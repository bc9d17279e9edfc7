"""A bare folder of files that are named by the addresses they hold, as other tools and older scripts write them."""

from __future__ import annotations

import functools
import os
import stat
from array import array
from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

from memcarve.backing import FileBacking, FolderBacking
from memcarve.errors import InputError, OverlapError, SourceReadError
from memcarve.formats.programs import elf
from memcarve.formats.programs.mapped_module import up
from memcarve.intervals import PAGE, TOP
from memcarve.metadata import Metadata, Region, Regions
from memcarve.note import Note
from memcarve.process import Account, Container, Machine, Platform, ProcessEntry, ProcessMemory, width_of
from memcarve.sources.folder.name_forms import ACCEPTED, named
from memcarve.sources.listings import metadata_from_files
from memcarve.space import AddressSpace

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from memcarve.dtypes import U64
    from memcarve.sources.folder.name_forms import Named
    from memcarve.sources.opening import Opened, OpenOptions


_MOST = 1 << 21  # things in the folder
OTHERS = "in files that are not named by addresses"
TWICE = "of addresses that another of the files holds"
_MOST_NAMED = 3  # strangers that a note names
_ENDS = ("first address outside", "last one inside")


class _Files:
    """The files of one process: what their names say, and which parts of them lie where.

    The columns have a row for each part: the file's place in `names`, the part's start, size and offset in the file.
    """

    def __init__(self, said: Named, entry: ProcessEntry) -> None:
        self.form = said.form
        self.entry = entry
        self.prefix = said.prefix
        self.names: list[str] = []
        self.lengths: list[int] = []
        self.permissions: dict[int, str] = {}  # by the file's place
        self.file = array("Q")
        self.start = array("Q")
        self.size = array("Q")
        self.offset = array("Q")

    def add(self, name: str, length: int, said: Named, parts: Iterable[tuple[int, int]]) -> None:
        """Add a file, of which `parts` (start, size) lie one behind the other."""
        place, offset = len(self.names), 0
        self.names.append(name)
        self.lengths.append(length)
        if said.permissions is not None:
            self.permissions[place] = said.permissions
        for start, size in parts:
            self.file.append(place)
            self.start.append(start)
            self.size.append(size)
            self.offset.append(offset)
            offset += size


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
        self._strangers: dict[str, list[str]] = {}
        found: dict[tuple[object, ...], _Files] = {}
        for count, (name, status) in enumerate(_entries(path), 1):
            if count > _MOST:
                raise InputError(
                    f"holds more than {_MOST} files", subject=path, remedy="give a folder with the files of one process"
                )
            said = named(name)
            parts = None if said is None else self._parts(name, said, status)
            if said is None or parts is None:
                self._others += 1
                self._others_size += status.st_size if stat.S_ISREG(status.st_mode) else 0
                continue
            entry = ProcessEntry(said.pid, said.name)
            key = (said.form.by, said.form.system, entry, said.object)
            found.setdefault(key, _Files(said, entry)).add(name, status.st_size, said, parts)
        if not found:
            of_all = f"is a folder without segments.json, and of its {_files(self._others)}"
            if self._strangers:
                why, names = min(self._strangers.items())
                raise InputError(
                    f"{of_all} none can be read: {names[0]} is named by addresses, but {why}",
                    subject=path,
                    remedy="give the files as the program wrote them",
                )
            raise InputError(
                f"{of_all} none is named by addresses",
                subject=path,
                remedy=f"give an image, a dump or its map, a folder that memcarve carved, or files named {ACCEPTED}",
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
        for why, names in sorted(self._strangers.items()):
            few = ", ".join(names[:_MOST_NAMED]) + (", ..." if len(names) > _MOST_NAMED else "")
            left_out = f"left out although named by addresses, because {why}: {_files(len(names))}: {few}"
            self.notes.append(Note(f"{path}: {left_out}", "input"))

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
        columns = [np.array(column, np.uint64) for column in (files.file, files.start, files.size, files.offset)]
        order = np.argsort(columns[1], kind="stable")
        file, starts, sizes, offsets = (column[order] for column in columns)
        # the files one behind the other, in the order of their first addresses
        _, first = np.unique(file, return_index=True)
        ordered = file[np.sort(first)].tolist()
        lengths = np.array([files.lengths[place] for place in ordered], np.uint64)
        begins = np.zeros(len(files.names), np.uint64)
        begins[ordered] = np.cumsum(lengths, dtype=np.uint64) - lengths
        names = [files.names[place] for place in ordered]
        twice = 0
        if files.form.loaded:
            starts, sizes, offsets, twice = _once(starts, sizes, offsets)
            file, starts, sizes, offsets = (column[sizes > 0] for column in (file, starts, sizes, offsets))
        self._check_disjoint([files.names[place] for place in file.tolist()], starts, sizes)
        backing = FolderBacking(self.path, zip(names, lengths.tolist(), strict=True))
        self._backings.append(backing)
        space = AddressSpace(starts, sizes, begins[file] + offsets, backing)
        bits = width_of(starts, sizes)
        notes = [f"{self.path}: taken for the memory at the addresses in their names: {_files(len(names))}"]
        if files.form.pads:
            notes.append(
                f"{self.path}: {files.form.by} writes zeros for pages that are not in memory: which of the "
                "zeros were there is not known"
            )
        left_out = {why: count for why, count in ((OTHERS, self._others_size), (TWICE, twice)) if count}
        return ProcessMemory(
            space,
            files.entry,
            machine=Machine(Platform(files.form.system), address_bits=bits),
            account=Account(backing.size + self._others_size, left_out),
            inputs={"folder": {"path": self.path, "size": backing.size, "files": len(names)}},
            notes=[*notes, *self.notes],
            metadata=functools.partial(self._metadata, files, bits),
        )

    def close(self) -> None:
        """Close the files; a second call does nothing."""
        for backing in self._backings:
            backing.close()

    def _metadata(self, files: _Files, bits: int) -> Metadata:
        """Return what files say that were named or lie among these, and the regions that the names tell."""
        pid = files.entry.pid
        beside = [] if pid is None else [os.path.join(self.path, f"pid.{pid}.dmp")]
        found = metadata_from_files(self.listings, pid, beside, address_bits=bits)
        rows = [
            Region(start, size, files.permissions.get(place))
            for place, start, size in zip(files.file, files.start, files.size, strict=True)
            if files.form.region or place in files.permissions
        ]
        if not rows:
            return found
        source = "file names" if files.form.by is None else f"file names of {files.form.by}"
        return found + Metadata((Regions(source, rows),), complete=False)

    def _parts(self, name: str, said: Named, status: os.stat_result) -> list[tuple[int, int]] | None:
        """Return start and size of what a file holds, one behind the other; None if it only happens to be so named.

        Raises InputError if a name that is no accident and its file do not agree.
        """
        path = os.path.join(self.path, name)
        if said.form.sure:
            _check(path, said, status)
        size = said.size(status.st_size) if stat.S_ISREG(status.st_mode) else None
        if size is None:
            if stat.S_ISREG(status.st_mode) and said.makes_a_range() and said.of_pages():
                self._strangers.setdefault("the length is not what the name says", []).append(name)
            return None
        if not said.form.loaded:
            return [(said.bounds[0], size)]
        with FileBacking(path, follow=False) as file:
            parts = _loaded(file.read_at(0, PAGE), said.bounds[0], size)
        if parts is None:
            why = "no program headers that fit the length say where the bytes belong"
            self._strangers.setdefault(why, []).append(name)
        return parts

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


def _check(path: str, said: Named, status: os.stat_result) -> None:
    """Raise InputError if the name of a file and what lies there do not agree."""
    if not stat.S_ISREG(status.st_mode):
        raise InputError(
            "is named by addresses and is not a regular file", subject=path, remedy="give a folder without it"
        )
    if not said.makes_a_range():
        raise InputError("is named by addresses that make no range; rename it", subject=path)
    if not status.st_size:
        raise InputError("is empty; by its name it holds memory", subject=path, remedy="give a folder without it")
    if said.size(status.st_size) is None:
        _, end = said.bounds
        must = [f"{size} (if 0x{end:x} is the {which})" for size, which in zip(said.sizes(), _ENDS, strict=False)]
        raise InputError(
            f"is {status.st_size} bytes long; by its name it must be {' or '.join(must)}; it was changed or cut off: "
            "give a folder without it",
            subject=path,
        )


def _loaded(page: bytes, address: int, length: int) -> list[tuple[int, int]] | None:
    """Return start and size of the whole pages that an ELF header loads, which its file holds one behind the other.

    `page` is the beginning of the file, which was read from `address`. None if there is no header, or if the file has
    another length.
    """
    program = elf.image(page)
    loads = () if program is None else program.sections
    starts: dict[int, int] = {}
    for load in loads:
        start = (load.address + program.base) // PAGE * PAGE if program else 0
        starts[start] = up(load.address + (program.base if program else 0) + load.size) - start
    parts = [(address + start, size) for start, size in sorted(starts.items())]
    fits = sum(size for _, size in parts) == length and all(start + size <= TOP for start, size in parts)
    return parts if parts and fits else None


def _once(starts: U64, sizes: U64, offsets: U64) -> tuple[U64, U64, U64, int]:
    """Cut from parts, in order of their starts, what one before has; return how many bytes these were, too."""
    last = np.maximum.accumulate(starts + (sizes - np.uint64(1)))
    shared = np.zeros(len(starts), np.uint64)
    over = (last[:-1] >= starts[1:]).nonzero()[0]
    shared[over + 1] = np.minimum(last[over] - starts[over + 1] + np.uint64(1), sizes[over + 1])
    return starts + shared, sizes - shared, offsets + shared, int(shared.sum())


def _files(count: int, word: str = "") -> str:
    return f"{count} {word}file{'s' * (count != 1)}"


def _order(files: _Files) -> tuple[bool, int, str, str]:
    entry = files.entry
    return entry.pid is None, -1 if entry.pid is None else entry.pid, entry.name or "", files.prefix
