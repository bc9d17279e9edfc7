"""An ELF core of a process: Linux writes one when a program ends badly, gcore of one that runs, and so does memcarve.

What is mapped and not in the core (p_filesz < p_memsz: by default what files hold unchanged) is missing, not zero.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from memcarve.errors import InputError, MapError, NotRecognisedError, OverlapError
from memcarve.formats.elf_core import core_headers, process_notes
from memcarve.intervals import total
from memcarve.missing import CUT_OFF, NOT_WRITTEN, REASONS, MissingMemory
from memcarve.note import Note
from memcarve.process import Account, Container, Machine, ProcessEntry, ProcessMemory, width_of
from memcarve.sources.core.core_metadata import auxiliary_vector, core_metadata_of, in_words, read_core_notes
from memcarve.sources.listings import metadata_from_files
from memcarve.sources.opening import CORE as TYPE
from memcarve.sources.overlaps import untangled
from memcarve.space import AddressSpace

if TYPE_CHECKING:
    from memcarve.dtypes import U64
    from memcarve.sources.opening import Opened, OpenOptions


BEFORE = "headers and notes, before the memory"
BEHIND = "between and behind the parts of the memory"
_NARROW = 32
_BITS = (32, 48, 57, 64)
_ACCESS = 7  # of p_flags


class CoreContainer(Container):
    """The one process of a core."""

    def __init__(self, opened: Opened, options: OpenOptions) -> None:
        """Look closer: raise NotRecognisedError if it is not a core, or a machine's."""
        self.path, self.file = opened.path, opened.file
        header = core_headers.read_header(self.file)
        if header is None:
            raise NotRecognisedError("is not an ELF core", subject=self.path)
        self.header = header
        #: `_remarks` say what of its headers and notes it ends too early for
        self.table, self._remarks = core_headers.program_headers(self.file, header)
        found = core_headers.origin(self.file, header, self.table)
        if options.input_type != TYPE and (not found.process or (found.doubtful and options.for_image)):
            raise NotRecognisedError("is the ELF core of a machine, not of a process", subject=self.path)
        self.loads = self.table[self.table["type"] == core_headers.LOAD]
        self.listings, self.reading = options.listings, options.reading
        self._known = read_core_notes(self.file, header, self.table)
        self.notes = [*map(Note, self._remarks), *self._known.remarks, *opened.notes]
        if found.doubtful and options.input_type is None:
            doubt = "nothing in the core tells a process's from a machine's; it is taken for a process's"
            self.notes.append(f"{self.path}: {doubt}; if it is a machine's, open it as input type 'image'")

    def processes(self) -> list[ProcessEntry]:
        """Return the process."""
        return [ProcessEntry(self._known.pid, self._known.name, self._known.parent)]

    def _process(self, index: int) -> ProcessMemory:  # noqa: ARG002 - there is one
        """Return the process's memory.

        Raises InputError if the core holds none, OverlapError if two of its segments claim one address with different
        bytes, MapError if one reaches beyond the address space.
        """
        known = self._known
        if not len(self.loads) and known.own is None:
            said = in_words(self.file, self.header, known)
            why = f"it has notes alone{f' ({said})' if said else ''}; gcore writes cores with memory"
            why = self._remarks[0] if self._remarks else why
            raise InputError(f"is the core of a process that holds no memory: {why}", subject=self.file.path)
        space, shared = self._space()
        left_out = _left_out(space)
        missing = [
            f"{size} bytes are mapped, but {reason}"
            for place, reason in enumerate(REASONS)
            if (size := total(space.missing.size[space.missing.reason == place]))
        ]
        bits = known.own and known.own.address_bits
        bits = bits if bits in _BITS else _NARROW if self.header.bits == _NARROW else self._width(space)
        # a 32-bit process may have all 4 GiB on a 64-bit kernel
        kernel_half = (known.own and known.own.kernel_half) or (1 << _NARROW if self.header.bits == _NARROW else None)
        whole = known.own is not None and not self._is_cut()
        return ProcessMemory(
            space,
            ProcessEntry(known.pid, known.name, known.parent),
            machine=Machine(known.platform, self._architecture(), bits, kernel_half),
            account=Account(
                space.total + sum(left_out.values()), left_out, self._lacks(space) or self.file.incomplete, whole
            ),
            inputs={
                "dump": {
                    **self.file.described,
                    "format": f"{self.header.bits}-bit ELF core of a process",
                    "processor": self.header.processor,
                    **self.said,
                    **(known.own.written_from if known.own else {}),
                }
            },
            notes=[*self.notes, *map(Note, (*shared, *missing))],
            metadata=lambda: (
                core_metadata_of(self.file, self.header, self.table, known)
                + metadata_from_files(self.listings, known.pid, address_bits=max(bits, 48), reading=self.reading)
            ),
            auxiliary_vector=auxiliary_vector(self.file, known),
        )

    def close(self) -> None:
        """Close the file."""
        self.file.close()

    def _space(self) -> tuple[AddressSpace, list[str]]:
        """Return the address space, and a note if segments claim the same addresses."""
        path, limit = self.file.path, np.uint64(self.file.size)
        names = ("vaddr", "filesz", "memsz", "offset")
        start, stored, whole, offset = (self.loads[name].astype(np.uint64) for name in names)
        whole = np.maximum(stored, whole)
        top = np.uint64((1 << self.header.bits) - 1)
        if ((whole > 0) & (whole - np.uint64(1) > top - start)).any():
            raise MapError("a segment of the core reaches beyond the last address; the file is damaged", subject=path)
        there = np.minimum(stored, limit - np.minimum(offset, limit))
        noted = np.array(self._known.own.missing if self._known.own else [], np.uint64).reshape(-1, 3)
        missing = MissingMemory(
            np.concatenate([start + there, start + stored, noted[:, 0]]),
            np.concatenate([stored - there, whole - stored, noted[:, 1]]),
            np.concatenate([_reasons(CUT_OFF, len(start)), _reasons(NOT_WRITTEN, len(start)), noted[:, 2]]),
        )
        some, gone = there > 0, missing.size > 0
        try:
            kept, gaps, count = untangled(
                self.file,
                (start[some], there[some], offset[some]),
                MissingMemory(missing.start[gone], missing.size[gone], missing.reason[gone].astype(np.uint8)),
            )
        except OverlapError as error:
            error.subject = path
            raise
        words = [f"{count} segments claim addresses that others have, too; their bytes are the same"] if count else []
        return AddressSpace(*kept, self.file, gaps, absent="not in the core"), words

    def _is_cut(self) -> bool:
        """Return True if the file ends before the bytes that it should hold."""
        size, offset = (self.loads[name].astype(np.uint64) for name in ("filesz", "offset"))
        limit = np.uint64(self.file.size)
        return bool((size > limit - np.minimum(offset, limit)).any())

    def _lacks(self, space: AddressSpace) -> bool:
        """Return True if bytes are known to be missing; what the process could not access has none."""
        if self._remarks or self._is_cut() or (space.missing.reason == REASONS.index(CUT_OFF)).any():
            return True
        own = self._known.own
        if own is not None:
            return not own.complete
        short = (self.loads["filesz"] < self.loads["memsz"]) & (self.loads["flags"] & _ACCESS != 0)
        return bool(len(space.missing)) and bool(short.any())

    def _width(self, space: AddressSpace) -> int:
        return width_of(space.start, space.size, self._architecture())

    def _architecture(self) -> str | None:
        """Return the architecture as far as memcarve has words for it; what it only assumed itself is not known."""
        if self._known.own is not None and self._known.own.document:
            return self._known.own.architecture
        return process_notes.architecture(self.header)


def _reasons(reason: str, count: int) -> U64:
    return np.full(count, REASONS.index(reason), np.uint64)


def _left_out(space: AddressSpace) -> dict[str, int]:
    """Return how many bytes of the file are at no address, before and behind the first that is."""
    length = space.backing.size
    order = np.argsort(space.offset, kind="stable")
    offset, end = space.offset[order], (space.offset + space.size)[order]
    reach = np.maximum.accumulate(end)
    fresh = np.maximum(reach[1:], offset[1:]) - np.maximum(reach[:-1], offset[1:])
    first = int(offset[0]) if len(offset) else length
    used = int(end[0] - offset[0]) + int(fresh.sum()) if len(offset) else 0
    return {reason: count for reason, count in ((BEFORE, first), (BEHIND, length - first - used)) if count}
