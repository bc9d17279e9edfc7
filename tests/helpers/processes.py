"""Small processes with metadata: a page is 4096 bytes, addresses are written in pages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from memcarve.errors import MemcarveError
from memcarve.metadata import Metadata, Module, Region, Regions, SourceRows
from memcarve.permissions import EXECUTE, USER, WRITE
from memcarve.process import Account, Container, Machine, ProcessEntry, ProcessMemory, Selection
from memcarve.space import AddressSpace
from memory import PAGE, Memory

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from memcarve.labels import SegmentLabels

R, RW, RX, RWX = USER, USER | WRITE, USER | EXECUTE, USER | WRITE | EXECUTE


def page_region(start: int, pages: int, protection: str | None = None, **members: object) -> Region:
    """Return a region that begins at page `start`."""
    return Region(start * PAGE, pages * PAGE, protection, **members)  # type: ignore[arg-type]


def metadata_of(
    regions: Sequence[Region] | None = None, modules: Sequence[Module] | None = None, areas: Sequence[Region] = ()
) -> Metadata:
    """Return evidence of one source each; None is a source that is not there."""
    return Metadata(
        regions=() if regions is None else (Regions("windows.vadinfo", regions),),
        modules=() if modules is None else (SourceRows("windows.dlllist", modules),),
        areas=(SourceRows("PEB", areas),) if areas else (),
    )


def process_of(
    pages: Mapping[int, int | None] | Sequence[int],
    metadata: Metadata | None = None,
    contents: Mapping[int, bytes] | None = None,
) -> ProcessMemory:
    """Return a process with these pages, each with its flags (None: not from an image), and these contents."""
    flags = pages if hasattr(pages, "keys") else dict.fromkeys(pages)
    numbers = sorted(flags)
    data = b"".join((contents or {}).get(page, bytes([page % 251 + 1]) * PAGE).ljust(PAGE, b"\0") for page in numbers)
    start = np.array([page * PAGE for page in numbers], np.uint64)
    size = np.full(len(numbers), PAGE, np.uint64)
    offset = np.arange(len(numbers), dtype=np.uint64) * np.uint64(PAGE)
    known = [flags[page] for page in numbers]  # type: ignore[index]
    columns = {"flags": np.array(known, np.uint8), "physical": offset} if numbers and None not in known else {}
    space = AddressSpace(start, size, offset, Memory(data), **columns)  # type: ignore[arg-type]
    return ProcessMemory(space, ProcessEntry(4), metadata=lambda: metadata or Metadata())


def process_with(space: AddressSpace, **known: Any) -> ProcessMemory:
    """Return a process's memory by all that is known of it, in no groups."""
    groups = [{name: known.pop(name) for name in kind._fields if name in known} for kind in (Machine, Account)]
    named = {name: known.pop(name) for name in ("pid", "name") if name in known}
    entry = known.pop("entry", None) or ProcessEntry(**named)
    return ProcessMemory(space, entry, machine=Machine(**groups[0]), account=Account(**groups[1]), **known)


def labels_of(
    process: ProcessMemory, wanted: Selection | None = None, split: str = "none", **labelling: object
) -> SegmentLabels:
    """Return the labels of a process's segments."""
    from memcarve.labels import Labelling  # noqa: PLC0415 - so that a mistake there fails tests, not their collection

    found = process.segments(wanted, split, Labelling(**labelling)).labels  # type: ignore[arg-type]
    assert found is not None
    return found  # type: ignore[return-value]


def contents(process: ProcessMemory) -> dict[int, bytes]:
    """Return the segments' bytes by address."""
    return {each.start: process.space.read(each.start, each.size) for each in process.segments()}


def balance(process: ProcessMemory) -> int:
    """Return how many bytes are accounted for."""
    return process.space.total + sum(process.left_out.values())


class Held(Container):
    """A container of processes that are given; an error in place of one is raised when it is opened."""

    path = "held"

    def __init__(self, *held: ProcessMemory | MemcarveError) -> None:
        self.held = held

    def processes(self) -> list[ProcessEntry]:
        """Return the processes, in this order."""
        return [
            ProcessEntry(1000 + place, "failing") if isinstance(each, MemcarveError) else each.entry
            for place, each in enumerate(self.held)
        ]

    def _process(self, index: int) -> ProcessMemory:
        found = self.held[index]
        if isinstance(found, MemcarveError):
            raise found
        return found

    def close(self) -> None:
        """Close nothing."""
