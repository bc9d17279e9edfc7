"""A minidump of a process: those of Windows with full memory, others as far as they hold any, and memcarve's own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from memcarve.errors import OverlapError
from memcarve.formats.minidump import structures
from memcarve.formats.minidump.minidump_reading import Minidump
from memcarve.intervals import Intervals, total, union
from memcarve.missing import CUT_OFF, MISPLACED, NOT_WRITTEN, REASONS, MissingMemory
from memcarve.note import Note
from memcarve.paths import base_name
from memcarve.process import Account, Container, Machine, Platform, ProcessEntry, ProcessMemory, width_of
from memcarve.provenance import Provenance
from memcarve.sources.listings import metadata_from_files
from memcarve.sources.minidump.linux_copies import status_of
from memcarve.sources.minidump.minidump_metadata import minidump_metadata_of
from memcarve.sources.opening import MINIDUMP as TYPE
from memcarve.sources.overlaps import added, untangled
from memcarve.space import AddressSpace
from memcarve.vocabulary import NARROW

if TYPE_CHECKING:
    from memcarve.dtypes import U64
    from memcarve.sources.opening import Opened, OpenOptions

REST = "headers and streams"
TWICE = "of addresses that the file holds twice"
_NARROW = 32
_LONGEST_VECTOR = 1 << 16
#: why bytes are missing, and what is said of that
_LOST = {
    MISPLACED: "whose place in the minidump cannot be right",
    NOT_WRITTEN: "that the minidump lists without a place in it (RVA 0)",
    CUT_OFF: "at the end of the minidump",
}
_SYSTEMS = {number: word for word, number in structures.PLATFORMS.items()}


class MinidumpContainer(Container):
    """The one process of a minidump."""

    def __init__(self, opened: Opened, options: OpenOptions) -> None:
        self.path, self.file = opened.path, opened.file
        self.dump = Minidump(self.file, said=options.input_type == TYPE)
        self.listings, self.reading = options.listings, options.reading
        comment = self.dump.comment()
        #: what memcarve noted, if it wrote the minidump
        self.noted = Provenance.parse(comment, "the comment") if comment.startswith(structures.MARK) else None
        self.system = self.dump.system()
        pid, name = self.dump.pid(), self._name()
        if pid is None or name is None:
            copied = status_of(self.dump)
            pid, name = copied[0] if pid is None else pid, copied[1] if name is None else name
        self._entry = ProcessEntry(pid, name)
        self.notes: list[str] = [*opened.notes, *self.dump.notes]

    def processes(self) -> list[ProcessEntry]:
        """Return the process; it goes by the name of its first module."""
        return [self._entry]

    def _process(self, index: int) -> ProcessMemory:  # noqa: ARG002 - there is one
        """Return the process's memory.

        Raises InputError if the minidump holds none, OverlapError if it holds different bytes for one address.
        """
        path, architecture = self.file.path, self._architecture()
        space, left_out, different = self._space()
        remarks = [Note(note) for note in self.dump.notes]
        if different:
            remarks.append(
                Note(
                    f"{path}: the stacks of {len(different)} threads have other bytes than a list of memory, or "
                    f"another thread's stack, has at the same addresses, first at "
                    f"0x{different[0]:x}; the list's are used"
                )
            )
        for reason, words in _LOST.items():
            lost = total(space.missing.size[space.missing.reason == np.uint8(REASONS.index(reason))])
            if lost:
                remarks.append(Note(f"{lost} bytes are missing {words}"))
        notes = [] if self.noted is None else [f"{path}: written by memcarve from {self.noted.origin}"]
        if self.dump.signature != structures.MAGIC:
            notes.append(
                f"{path}: begins with {self.dump.signature.hex()} in place of a minidump's signature, as some tools "
                "leave it to hide what they wrote; its directory is a minidump's"
            )
        notes += [*Note.of(self.notes, "input"), *remarks]
        if structures.MEMORY64_LIST not in self.dump and not self.dump.flags & structures.FULL_MEMORY:
            notes.append(f"{path}: was made without full memory: most of the process's is not in it")
        if self.system is not None and architecture is None and self.noted is None:
            notes.append(f"{path}: the architecture of its process is unknown (0x{self.system.number:x})")
        # a 32-bit program may have all 4 GiB on a 64-bit kernel
        narrow = self.dump.narrow or architecture in NARROW
        kernel_half = (self.noted and self.noted.kernel_half) or (1 << _NARROW if narrow else None)
        bits = (self.noted and self.noted.address_bits) or _bits(space, architecture, narrow=narrow)
        incomplete = bool(remarks) or self.file.incomplete or not (self.noted is None or self.noted.complete)
        return ProcessMemory(
            space,
            self._entry,
            machine=Machine(self._platform(), architecture, bits, kernel_half),
            account=Account(space.total + sum(left_out.values()), left_out, incomplete=incomplete),
            inputs={"dump": {**self.file.described, "format": "minidump", **self.said}},
            notes=notes,
            metadata=lambda: (
                minidump_metadata_of(self.dump, self.noted)
                + metadata_from_files(self.listings, self._entry.pid, address_bits=max(bits, 48), reading=self.reading)
            ),
            auxiliary_vector=self.dump.copied(structures.LINUX_AUXV)[:_LONGEST_VECTOR] or None,
        )

    def close(self) -> None:
        """Close the file."""
        self.file.close()

    def _space(self) -> tuple[AddressSpace, dict[str, int], list[int]]:
        """Return the address space, what of the file's bytes is not in it, by reason, and where stacks disagree."""
        found, stacks = self.dump.memory(), self.dump.stacks()
        stored, cut_off = self._there(found.stored)
        of_threads, more = self._there(stacks)
        cut = tuple(np.concatenate(columns) for columns in zip(cut_off, more, strict=True))
        lost = _missing((found.misplaced, MISPLACED), (found.unwritten, NOT_WRITTEN), (cut, CUT_OFF))
        try:
            kept, missing, _ = untangled(self.file, stored, lost)
        except OverlapError as error:
            error.subject = self.file.path
            raise
        kept, missing, different = added(self.file, kept, missing, of_threads)
        space = AddressSpace(*kept, self.file, missing)
        places = [Intervals(each[2], each[1]) for each in (stored, of_threads)]
        described, used = union(*places).total, union(Intervals(kept[2], kept[1])).total
        left_out = {REST: self.file.size - described, TWICE: described - used}
        return space, {reason: count for reason, count in left_out.items() if count}, different

    def _there(self, ranges: tuple[U64, U64, U64]) -> tuple[tuple[U64, U64, U64], tuple[U64, U64]]:
        """Return what of ranges is in the file (start, size, offset), and what is cut off (start, size)."""
        start, size, offset = ranges
        limit = np.uint64(self.file.size)
        there = np.minimum(size, limit - np.minimum(offset, limit))
        short, some = there < size, there > 0
        return (start[some], there[some], offset[some]), (start[short] + there[short], size[short] - there[short])

    def _name(self) -> str | None:
        if self.noted is not None:
            return self.noted.name
        first = next((module.name for module in self.dump.modules()), None)
        return base_name(first) or None if first is not None else None

    def _architecture(self) -> str | None:
        """Return the architecture if memcarve knows it, and did not only assume it when it wrote the minidump."""
        found = None if self.system is None else self.system.architecture
        if self.noted is not None and self.noted.architecture is None:
            return None
        return found

    def _platform(self) -> Platform:
        if self.noted is not None:  # what of the numbers is not known has a place, too
            return self.noted.platform
        if self.system is None:
            return Platform()
        version = (self.system.major, self.system.minor, self.system.build)
        return Platform(_SYSTEMS.get(self.system.platform), *(version if any(version) else ()))


def _missing(*lost: tuple[tuple[U64, ...], str]) -> MissingMemory:
    """Return what is missing for each reason, given as start and size, in one table."""
    found = [(union(Intervals(columns[0], columns[1])), REASONS.index(reason)) for columns, reason in lost]
    return MissingMemory(
        np.concatenate([each.start for each, _ in found]),
        np.concatenate([each.size for each, _ in found]),
        np.concatenate([np.full(len(each), reason, np.uint8) for each, reason in found]),
    )


def _bits(space: AddressSpace, architecture: str | None, *, narrow: bool) -> int:
    """Return how wide addresses are."""
    last = space.start + (space.size - np.uint64(1))
    if narrow and not (last >= np.uint64(1 << _NARROW)).any():
        return _NARROW
    return width_of(space.start, space.size, architecture)
