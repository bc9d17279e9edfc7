"""A process dump that Volatility or Rekall wrote, read through the memory map that belongs to it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np

from memcarve.backing import AbsentBacking, FileBacking
from memcarve.errors import (
    CounterpartError,
    InputError,
    NotRecognisedError,
    OverlapError,
    UnreadableError,
    UsageError,
)
from memcarve.formats.compression import open_file
from memcarve.formats.memmap import BinaryError, MemoryMap
from memcarve.intervals import TOP, chunks, total
from memcarve.missing import CUT_OFF, NOT_WRITTEN, Missing
from memcarve.note import Note
from memcarve.process import Account, Container, Machine, Platform, ProcessEntry, ProcessMemory
from memcarve.sources.counterparts import base_file, find_dump, find_map, pid_in_name
from memcarve.sources.listings import metadata_from_files
from memcarve.sources.memmap.map_rows import ProcessRows, read_rows
from memcarve.sources.memmap.positions import Columns, settle
from memcarve.sources.opening import DUMP, MAP
from memcarve.space import AddressSpace

if TYPE_CHECKING:
    from memcarve.dtypes import U64
    from memcarve.sources.opening import Opened, OpenOptions


#: Windows maps its shared data page here in every 32-bit kernel half (KI_USER_SHARED_DATA)
_SHARED_DATA_32 = 0xFFDF0000

TAIL = "after the last row of the map"
_WHY_TAIL = "(rows left out by a filter, or a map that is cut off); no address is known for them"
BETWEEN = "between the rows of the map (rows left out)"


class MemmapContainer(Container):
    """A memory map and the dump, or dumps, that belong to it."""

    def __init__(
        self,
        memory_map: MemoryMap,
        options: OpenOptions,
        *,
        dump: str | None = None,
        file: FileBacking | None = None,
        notes: list[str] | None = None,
    ) -> None:
        """Read the map. `dump` is the dump if it was given, `file` if it is open; else it is looked for beside the map.

        `close` closes the map and the file.
        """
        self.listings, self.reading = options.listings, options.reading
        self.map = memory_map
        self.dump = dump
        self.path = dump or memory_map.path
        self.trust = options.trust
        self.notes: list[str] = notes or []
        self._files = {} if dump is None or file is None else {dump: file}
        try:
            self._rows = read_rows(memory_map)
            if count := memory_map.empty:
                words = f"{count} row{'s' * (count != 1)} of size 0 passed over; the first is {memory_map.first_empty}"
                self.notes.append(Note(words, "input"))
            self._alone = len(self._rows) == 1
            self._choose_by_dump()
            self._wide = _is_wide(self._rows)
        except BaseException:
            self.close()
            raise

    def processes(self) -> list[ProcessEntry]:
        """Return the processes it holds, in the order of the map."""
        return [self._entry(rows) for rows in self._rows]

    def _process(self, index: int) -> ProcessMemory:
        """Return the memory of a process; its dump is opened if there is one.

        Raises PositionError if the rows' positions in the dump cannot be settled, OverlapError if two rows claim one
        address.
        """
        rows = self._rows[index]
        notes = [*self.notes, *self.map.notes]
        backing = self._dump_of(rows, notes)
        file = backing if isinstance(backing, FileBacking) else None
        length = file.size if file else None
        where = f"{self.map.path} and {file.path}" if file else self.map.path
        columns = Columns(self.map.columns.has_printed, self.map.columns.file is not None, self.map.filters_possible)

        def stranger() -> tuple[str, str]:
            from memcarve.sources.memmap.strangers import stranger  # few dumps have another length

            return stranger(rows, file)

        positions = settle(where, rows, columns, length, self.trust, stranger)
        if positions.how in ("printed", "sum") and columns.printed:
            notes.append(f"positions in the dump: {positions.how}, because the two ways to work them out differ")
        space, cut_off = self._space(rows, positions.offset, backing)
        tail = max(length - positions.end, 0) if length is not None else 0
        between = (positions.end if length is None else length - tail) - space.total
        left_out = {reason: count for reason, count in ((TAIL, tail), (BETWEEN, between)) if count}
        unwritten = total(rows.unwritten.size)
        remarks = [
            words
            for count, words in (
                (tail, f"{tail} bytes of the dump lie after the last row of the map {_WHY_TAIL}"),
                (between, f"{between} bytes of the dump lie between the rows of the map (rows left out)"),
                (unwritten, f"{unwritten} bytes were not written to the dump ('Error outputting to file')"),
                (cut_off, f"{cut_off} bytes are missing at the end of the dump"),
                (self.map.of_incomplete, f"{self.map.path}: bytes of its process were known to be missing"),
            )
            if count
        ]
        entry = self._entry(rows)
        notes += [Note(note, "process", more) for note, more in (file.notes if file else ())]
        lacking = cut_off or (file is not None and file.incomplete)
        incomplete = bool(unwritten or lacking or left_out or self.map.table.cut_off or self.map.of_incomplete)
        bits = 57 if self._wide else 48
        return ProcessMemory(
            space,
            entry,
            machine=Machine(Platform(), "x86" if self._is_32_bit(rows) else None, bits),
            account=Account(None, left_out, incomplete),
            inputs=self._inputs(file),
            notes=[*notes, *map(Note, remarks)],
            metadata=lambda: metadata_from_files(
                self.listings, entry.pid, self._beside(entry.pid, file), address_bits=bits, reading=self.reading
            ),
            positions=positions.how,
        )

    def close(self) -> None:
        """Close the map and every dump that was opened."""
        self.map.close()
        for file in self._files.values():
            file.close()

    def _beside(self, pid: int | None, dump: FileBacking | None) -> list[str]:
        """Return the files beside which others may lie that list what a process holds."""
        beside = [] if dump is None else [dump.path]
        if self._alone:
            beside.append(self.map.path)
        elif pid is not None:  # the map is of several processes, and so would be what has its name
            beside.append(os.path.join(os.path.dirname(self.map.path), f"pid.{pid}.dmp"))
        return beside

    def _entry(self, rows: ProcessRows) -> ProcessEntry:
        if rows.pid is not None or rows.name is not None:
            return ProcessEntry(rows.pid, rows.name)
        if rows.file:
            return ProcessEntry(*pid_in_name(rows.file))
        if len(self._rows) == 1:  # the rows do not say it; the name that the program gave the file does
            pid, name = pid_in_name(self.dump or self.map.path)
            return ProcessEntry(pid, name)
        return ProcessEntry(None, None)

    def _choose_by_dump(self) -> None:
        """If a dump was given and the map holds several processes, keep the one whose rows name it."""
        if self.dump is None or len(self._rows) == 1:
            return
        name = base_file(self.dump)
        pid, _ = pid_in_name(self.dump)
        mine = [rows for rows in self._rows if rows.file == name or (pid is not None and rows.pid == pid)]
        if len(mine) == 1:
            self.notes.append(f"{self.map.path}: holds {len(self._rows)} processes; taken: {name}")
            self._rows = mine

    def _dump_of(self, rows: ProcessRows, notes: list[str]) -> FileBacking | AbsentBacking:
        """Open the dump of a process, if it is there."""
        path = self.dump
        if path is None:
            try:
                path, found = find_dump(self.map.path, rows.file, rows.pid, rows.name, alone=self._alone)
            except CounterpartError as error:
                return AbsentBacking(error)
            notes += found
        if rows.file and rows.file != base_file(path):
            notes.append(f"{path}: the rows of the map call their dump {rows.file}")
        if path not in self._files:
            self._files[path] = open_file(path, self.reading, follow=self.dump is not None)
        return self._files[path]

    def _space(self, rows: ProcessRows, offset: U64, file: FileBacking | AbsentBacking) -> tuple[AddressSpace, int]:
        """Return the address space, and how many bytes the dump should hold but does not."""
        start, size = rows.written.start, rows.written.size
        missing, cut_off = [], 0
        start, size, offset = _split_at_half(start, size, offset, wide=self._wide)
        if isinstance(file, FileBacking):
            start, size, offset, cut = _cut(start, size, offset, file.size)
            missing += [Missing(self._canonical(at), count, CUT_OFF) for at, count in cut]
            cut_off = sum(count for _, count in cut)
        gaps = _split_at_half(rows.unwritten.start, rows.unwritten.size, rows.unwritten.offset, wide=self._wide)
        missing += [
            Missing(self._canonical(at), count, NOT_WRITTEN)
            for at, count in zip(gaps[0].tolist(), gaps[1].tolist(), strict=True)
        ]
        try:
            return AddressSpace(_canonical(start, wide=self._wide), size, offset, file, missing), cut_off
        except OverlapError as error:
            error.subject = self.map.path
            error.problem += self._overlapping_rows(rows, error.address)
            raise

    def _canonical(self, address: int) -> int:
        return int(_canonical(np.array([address], np.uint64), wide=self._wide)[0])

    def _overlapping_rows(self, rows: ProcessRows, address: int) -> str:
        """Look the two rows up in the map, which has been joined to extents meanwhile; return them in words."""
        found = []
        with MemoryMap(self.map.path, reading=self.reading) as again:
            for block in again.rows():
                virtual = _canonical(block.virtual, wide=self._wide)
                inside = (virtual <= np.uint64(address)) & (np.uint64(address) - virtual < block.size)
                inside &= (block.lines >= rows.lines[0]) & (block.lines <= rows.lines[1])
                found += [
                    f"line {block.lines[row]} (0x{int(virtual[row]):x}, 0x{int(block.size[row]):x} bytes)"
                    for row in np.flatnonzero(inside)[:2]
                ]
                if len(found) > 1:
                    break
        lines = f": {' and '.join(found[:2])}" if found else ""
        return f"{lines}; the map may hold several processes, or one twice: cut it into one map for each"

    def _inputs(self, file: FileBacking | None) -> dict[str, object]:
        inputs: dict[str, object] = {
            "map": {
                **self.map.described,
                "format": self.map.description,
                "sha256": self.map.sha256,
                "trusted": self.trust,
            }
        }
        if file:
            inputs["dump"] = {**file.described, **self.said}
        return inputs

    def _is_32_bit(self, rows: ProcessRows) -> bool:
        if self.map.columns.narrow:
            return True
        start = rows.written.start
        if not len(start) or int(start.max()) >= 1 << 32:
            return False
        return bool(((start <= _SHARED_DATA_32) & (np.uint64(_SHARED_DATA_32) - start < rows.written.size)).any())


def open_dump_or_map(opened: Opened, options: OpenOptions) -> MemmapContainer:
    """Open a dump with its map: the input is either; the other is looked for beside it, or given.

    Raises NotRecognisedError if it is neither, CounterpartError if the map was not found.
    """
    path, hashed, reading, said = opened.path, options.hashed, options.reading, options.input_type
    is_map, is_dump = (_is_same(path, given) for given in (options.memory_map, options.dump))
    if (said == MAP and is_map is False) or (said == DUMP and is_dump is False):
        option = "memory_map" if said == MAP else "dump"
        problem = f"was said to be the {said} itself, and another one was named"
        raise UsageError(problem, subject=path, remedy=f"leave {{{option}}} or {{input_type}} out")
    if is_map is False and is_dump is False:
        raise NotRecognisedError("is neither the map nor the dump that was given", subject=path)
    what = said or (MAP if is_map or is_dump is False else DUMP if is_dump or is_map is False else None)
    refused: NotRecognisedError | UnreadableError | None = None
    if what != DUMP:
        try:
            return MemmapContainer(MemoryMap(opened.raw, hashed=hashed, reading=reading), options, dump=options.dump)
        except (NotRecognisedError, UnreadableError) as error:
            if what == MAP:
                raise
            refused = error
    file, notes = opened.file, list[str]()
    try:
        if options.memory_map is None:
            memory_map, notes = find_map(path, hashed=hashed, reading=reading)
        else:
            memory_map = MemoryMap(options.memory_map, hashed=hashed, reading=reading)
    except InputError as error:
        # for a dump the map is what is missing; a text that is not a map was not meant as a dump
        raise (error if refused is None or isinstance(refused, BinaryError) else refused) from None
    return MemmapContainer(memory_map, options, dump=path, file=file, notes=notes)


def _is_same(path: str, other: str | None) -> bool | None:
    """Return True if two paths are the same; None if the other was not given."""
    return None if other is None else os.path.abspath(path) == os.path.abspath(other)


# addresses: maps print them cut to 48 bits (57 with five levels of page tables), or sign-extended


def _is_wide(processes: list[ProcessRows]) -> bool:
    """Return True if any row reaches beyond 48 bits without being sign-extended: a map of 57-bit addresses."""
    limit, extended = np.uint64(1 << 48), np.uint64((TOP - 1) ^ ((1 << 47) - 1))
    for process in processes:
        for rows in (process.written, process.unwritten):
            for part in chunks(len(rows)):
                last = rows.start[part] + (rows.size[part] - np.uint64(1))
                if ((last >= limit) & (rows.start[part] < extended)).any():
                    return True
    return False


def _canonical(start: U64, *, wide: bool) -> U64:
    """Extend the highest bit of the addresses, bit 47 or bit 56, through the bits above it; changes `start` itself.

    Doing it twice does no harm.
    """
    bit = 56 if wide else 47
    above = np.uint64((TOP - 1) ^ ((1 << (bit + 1)) - 1))
    for part in chunks(len(start)):
        start[part] |= ((start[part] >> np.uint64(bit)) & np.uint64(1)) * above
    return start


def _split_at_half(start: U64, size: U64, offset: U64, *, wide: bool) -> tuple[U64, U64, U64]:
    """Cut rows in two that cross the middle of the printed address space: there is a hole once they are canonical."""
    half = np.uint64(1 << (56 if wide else 47))
    last_below = half - np.uint64(1)
    found = [
        np.flatnonzero((start[part] <= last_below) & (start[part] + (size[part] - np.uint64(1)) > last_below))
        + part.start
        for part in chunks(len(start))
    ]
    crossing = np.concatenate(found) if found else np.zeros(0, np.int64)
    if not len(crossing):
        return start, size, offset
    below = half - start[crossing]
    lower = size.copy()
    lower[crossing] = below
    upper = np.full(len(crossing), half, np.uint64), size[crossing] - below, offset[crossing] + below
    return (
        np.concatenate([start, upper[0]]),
        np.concatenate([lower, upper[1]]),
        np.concatenate([offset, upper[2]]),
    )


def _cut(start: U64, size: U64, offset: U64, length: int) -> tuple[U64, U64, U64, list[tuple[int, int]]]:
    """Cut what lies beyond the end of a dump of `length` bytes; return it as (address, size), too."""
    end = np.uint64(length)
    beyond = np.zeros(len(start), np.bool_)
    for part in chunks(len(start)):
        beyond[part] = offset[part] + size[part] > end
    if not beyond.any():
        return start, size, offset, []
    there = np.where(offset < end, np.minimum(size, end - np.minimum(offset, end)), np.uint64(0))
    lost = np.flatnonzero(beyond)
    cut = zip((start[lost] + there[lost]).tolist(), (size[lost] - there[lost]).tolist(), strict=True)
    keep = there > 0
    return start[keep], there[keep], offset[keep], list(cut)
