"""A minidump of a process: those of Windows with full memory, others as far as they hold any, and memcarve's own."""

from __future__ import annotations

import functools
import os
from typing import TYPE_CHECKING, Any

import numpy as np

from memcarve.backing import FileBacking
from memcarve.columns import total, union
from memcarve.errors import NotRecognisedError, OverlapError
from memcarve.formats.minidump import layout
from memcarve.formats.minidump.reading import Minidump
from memcarve.missing import CUT_OFF, REASONS, MissingColumns
from memcarve.names import base_name
from memcarve.process import Container, Platform, ProcessEntry, ProcessMemory
from memcarve.sources.evidence import EvidenceFiles, file_evidence
from memcarve.sources.minidumpevidence import Noted, minidump_evidence
from memcarve.sources.untangling import untangled
from memcarve.space import AddressSpace

if TYPE_CHECKING:
    import numpy.typing as npt

    from memcarve.evidence import Evidence
    from memcarve.sources.options import OpenOptions

    Column = npt.NDArray[np.uint64]

REST = "headers and streams"
TWICE = "of addresses that the file holds twice"
_NARROW = 32
_SYSTEMS = {number: word for word, number in layout.PLATFORMS.items()}


class MinidumpContainer(Container):
    """The one process of a minidump."""

    def __init__(
        self,
        file: FileBacking,
        evidence_files: EvidenceFiles = EvidenceFiles(),  # noqa: B008 - a tuple
    ) -> None:
        """Take over `file`, which `close` closes."""
        self.file = file
        self.dump = Minidump(file)
        self.evidence_files = evidence_files
        self.noted = Noted(self.dump.comment())
        self.system = self.dump.system()
        self._entry = ProcessEntry(self.dump.pid(), self._name())
        self.notes: list[str] = list(self.dump.notes)

    def __str__(self) -> str:
        return self.file.path

    def processes(self) -> list[ProcessEntry]:
        """Return the process; it goes by the name of its first module."""
        return [self._entry]

    def open_process(self, index: int, half: str = "all") -> ProcessMemory:  # noqa: ARG002 - there is one
        """Return the process's memory.

        Raises InputError where the minidump holds none, OverlapError where it holds different bytes for one address.
        """
        path, architecture = self.file.path, self._architecture()
        space, left_out = self._space()
        remarks = list(self.dump.notes)
        cut = total(space.missing_size)
        if cut:
            remarks.append(f"{cut} bytes are missing at the end of the minidump")
        notes = [*self._origin(), *remarks]
        if layout.MEMORY64_LIST not in self.dump and not self.dump.flags & layout.FULL_MEMORY:
            notes.append(f"{path}: was made without full memory: most of the process's is not in it")
        if self.system is not None and architecture is None and self.noted.document is None:
            word = self.system.architecture or f"unknown (0x{self.system.number:x})"
            notes.append(f"{path}: is of a process whose architecture is {word}")
        bits = self.noted.address_bits or _bits(space, architecture)
        inputs: dict[str, Any] = {"dump": {"path": path, "size": self.file.size, "format": "minidump"}}
        # a program of 32 bits may have all of them, where the kernel has more
        narrow = 1 << _NARROW if architecture == "x86" else None
        return ProcessMemory(
            space,
            pid=self._entry.pid,
            name=self._entry.name,
            architecture=architecture,
            inputs=inputs,
            left_out=left_out,
            notes=notes,
            remarks=remarks,
            incomplete=bool(remarks) or self.noted.incomplete,
            kernel_half=self.noted.kernel_half or narrow,
            address_bits=bits,
            evidence=functools.partial(self._evidence, max(bits, 48), inputs),
            platform=self._platform(),
            input_bytes=space.total + sum(left_out.values()),
        )

    def close(self) -> None:
        """Close the file."""
        self.file.close()

    def _space(self) -> tuple[AddressSpace, dict[str, int]]:
        """Return the address space, and what of the file's bytes is not in it, by reason."""
        start, size, offset = self.dump.memory()
        limit = np.uint64(self.file.size)
        there = np.minimum(size, limit - np.minimum(offset, limit))
        short = there < size
        lost = union(start[short] + there[short], size[short] - there[short])
        some = there > 0
        stored = start[some], there[some], offset[some]
        reason = np.full(len(lost[0]), REASONS.index(CUT_OFF), np.uint8)
        try:
            kept, missing, _ = untangled(self.file, stored, MissingColumns(*lost, reason))
            space = AddressSpace(*kept, self.file, missing)
        except OverlapError as error:
            raise OverlapError(f"{self.file.path}: {error}", error.address) from None
        described, used = (total(union(each[2], each[1])[1]) for each in (stored, kept))
        left_out = {REST: self.file.size - described, TWICE: described - used}
        return space, {reason: count for reason, count in left_out.items() if count}

    def _evidence(self, bits: int, inputs: dict[str, Any]) -> Evidence:
        """Return what the minidump says of the process, and the files that were named; those are added to `inputs`."""
        files: list[dict[str, Any]] = []
        found = file_evidence(self.evidence_files, self._entry.pid, address_bits=bits, files=files)
        if files:
            inputs["evidence"] = files
        return minidump_evidence(self.dump, self.noted) + found

    def _name(self) -> str | None:
        if self.noted.document is not None:
            return self.noted.name
        first = next((module.name for module in self.dump.modules()), None)
        return base_name(first) or None if first is not None else None

    def _architecture(self) -> str | None:
        """Return the architecture as far as memcarve has words for it; what it only assumed itself is not known."""
        found = None if self.system is None else self.system.architecture
        if self.noted.document is not None and self.noted.architecture is None:
            return None
        return found if found in ("x86", "x64") else None

    def _platform(self) -> Platform:
        if self.system is None or (self.noted.document is not None and self.noted.system is None):
            return Platform()
        version = (self.system.major, self.system.minor, self.system.build)
        return Platform(_SYSTEMS.get(self.system.platform), *(version if any(version) else ()))

    def _origin(self) -> list[str]:
        if self.noted.document is None:
            return []
        return [f"{self.file.path}: written by memcarve from {self.noted.origin or 'an unknown input'}"]


def open_minidump(path: str, options: OpenOptions) -> MinidumpContainer:
    """Open a minidump.

    Raises NotRecognisedError where `path` is none, InputError where its directory is not in it, UsageError where
    options are given that are for dumps with maps or for images.
    """
    if os.path.isdir(path) or options.image:
        raise NotRecognisedError(f"{path}: is a folder, or said to be an image, and no minidump")
    file = FileBacking(path)
    try:
        return _opened(file, options)
    except BaseException:
        file.close()
        raise


def _opened(file: FileBacking, options: OpenOptions) -> MinidumpContainer:
    found = MinidumpContainer(file, options.evidence_files)
    options.refuse_other(file.path, "a minidump")
    return found


def _bits(space: AddressSpace, architecture: str | None) -> int:
    """Return how wide addresses are."""
    last = space.start + (space.size - np.uint64(1))
    if architecture == "x86" and not (last >= np.uint64(1 << _NARROW)).any():
        return _NARROW
    wide = (last >= np.uint64(1 << 47)) & (space.start < np.uint64((1 << 64) - (1 << 47)))
    return 57 if wide.any() else 48
