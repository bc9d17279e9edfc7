"""One module's file: planned from its header, then made block by block of what of it is in memory."""

from __future__ import annotations

import bisect
import itertools
from typing import TYPE_CHECKING, Any

from memcarve.copying.output_file import BUFFER
from memcarve.errors import AddressError
from memcarve.formats.programs import elf, elf_image, pe, pe_image
from memcarve.formats.programs.mapped_module import Part, plan_memory
from memcarve.intervals import PAGE, TOP, Intervals, union
from memcarve.vocabulary import Layout

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from memcarve.formats.programs.mapped_module import MappedModule, Plan
    from memcarve.space import AddressSpace

    #: is told how many bytes of a file are written
    Told = Callable[[int], object]

_MOST_MISSING = 1000  # ranges of one module that are listed


def _there(space: AddressSpace, start: int, end: int) -> Intervals:
    """Return the contiguous stretches of ``start <= x < end`` that are there."""
    size = min(end, TOP) - start
    return union(Intervals.of([(start, min(size, TOP - 1))] if size > 0 else []).intersect(space)[0])


class ModuleFile:
    """The file that is made of a module: `size` bytes, of which `resident` come from memory; the rest is zeros.

    `layout` and `largest` (bytes) are what was asked for. `refused` says why no file is made of it; None if one
    is.
    """

    def __init__(self, space: AddressSpace, module: MappedModule, layout: str, largest: int) -> None:
        self.space = space
        self.module = module
        self.plan = self._planned(layout)
        if self.plan.size > largest and layout == Layout.FILE:
            smaller = self._planned("memory")
            if smaller.size <= largest:
                self.plan = smaller._replace(why=f"its file would have {self.plan.size} bytes")
        self.size = self.plan.size
        #: whether it is refused for its size alone
        self.too_large = self.size > largest
        stored = [part for part in self.plan.parts if part.offset is not None]
        self.resident = sum(self._resident(part) for part in stored)
        self.missing = sum(part.size for part in stored) - self.resident
        self._stored = sorted(stored, key=lambda part: part.offset or 0)
        ends = ((part.offset or 0) + part.size for part in self._stored)
        self._reached = [*itertools.accumulate(ends, max)]  # where the last of the parts so far ends
        self._changes = sorted((change.offset, change.new) for change in self.plan.changes)
        self.refused: str | None = None
        if not self.size:
            self.refused = self.plan.why or "nothing says how large it is"
        elif not self.resident:
            self.refused = "none of it is in memory"
        elif self.too_large:
            self.refused = f"its file would have {self.size} bytes; --largest takes more"

    def _planned(self, layout: str) -> Plan:
        module, space = self.module, self.space

        def read(address: int, size: int) -> bytes:
            return space.read(module.start + address, size)

        if module.header is None:
            why = None if len(_there(space, module.start, module.start + 1)) else "its header is not in memory"
            return plan_memory(module, why=why or "no header lies where it begins")
        page = self._first_page()
        program = elf.image(page) if module.header["format"] == "ELF" else None
        if program is not None:
            return elf_image.plan(module, page, program, read, layout)
        found = pe.image(page)
        if found is None:
            return plan_memory(module, why="no header lies where it begins")
        return pe_image.plan(module, page, found, read, layout)

    def _first_page(self) -> bytes:
        """Return what is there of a page's length at the module's first address."""
        size = PAGE
        try:
            return self.space.read(self.module.start, size)
        except AddressError as error:
            size = error.address - self.module.start
        return self.space.read(self.module.start, size)

    def _resident(self, part: Part) -> int:
        start = self.module.start + part.address
        return _there(self.space, start, start + part.size).total

    def blocks(self) -> Iterator[tuple[memoryview, bool]]:
        """Yield the file's bytes block by block, each with whether all of it is from memory.

        A block is good until the next one is asked for. Raises SourceReadError.
        """
        buffer = memoryview(bytearray(BUFFER))
        for place in range(0, self.size, BUFFER):
            view = buffer[: min(BUFFER, self.size - place)]
            yield view, self.read_into(place, view) == len(view)

    def read_into(self, place: int, view: memoryview) -> int:
        """Fill `view` with the bytes from `place` on; return how many are from memory. Raises SourceReadError."""
        view[:] = bytes(len(view))
        end, filled = place + len(view), 0
        for part in self._stored[bisect.bisect_right(self._reached, place) :]:
            offset = part.offset or 0
            if offset >= end:
                break
            begin, last = max(offset, place), min(offset + part.size, end)
            if begin < last:
                filled += self._fill(view[begin - place : last - place], part.address + begin - offset)
        for at, new in self._changes:
            low, high = max(at, place), min(at + len(new), end)
            if low < high:
                view[low - place : high - place] = new[low - at : high - at]
        return filled

    def _fill(self, view: memoryview, address: int) -> int:
        """Put into a block what is there at an address, relative to the module; return how many bytes that was."""
        start, filled = self.module.start + address, 0
        found = _there(self.space, start, start + len(view))
        for low, length in zip(found.start.tolist(), found.size.tolist(), strict=True):
            done = low - start
            for offset, size in self.space.pieces(low, length):
                self.space.backing.read_into(offset, view[done : done + size])
                done += size
            filled += length
        return filled

    def sections(self) -> list[dict[str, Any]]:
        """Return what the module consists of, ready for JSON: where it lies, and what of it is missing in memory."""
        rows, room = [], _MOST_MISSING
        for part in self.plan.parts:
            start = self.module.start + part.address
            there = self._resident(part)
            if part.name is None and part.offset is None and not there:
                continue  # nothing is there that could be missed
            missing = self._missing(start, start + part.size, room) if there < part.size else []
            room -= len(missing)
            row: dict[str, Any] = {} if part.name is None else {"name": part.name}
            row |= {"address": f"0x{start:x}", "size": part.size, "offset": part.offset}
            row |= {} if part.permissions is None else {"permissions": part.permissions}
            row |= {"resident": there, "missing": missing}
            if sum(gap["size"] for gap in missing) + there < part.size:
                row["missing_not_listed"] = part.size - there - sum(gap["size"] for gap in missing)
            rows.append(row)
        return rows

    def _missing(self, start: int, end: int, most: int) -> list[dict[str, Any]]:
        found = _there(self.space, start, end)
        # a gap lies before each stretch that is there, and behind the last one
        low = [start, *(last + 1 for last in found.last[:most].tolist())]
        high = [*found.start[: most + 1].tolist(), end][: len(low)]
        gaps = [(begin, until) for begin, until in zip(low, high, strict=True) if begin < until]
        return [{"start": f"0x{begin:x}", "end": f"0x{until:x}", "size": until - begin} for begin, until in gaps[:most]]
