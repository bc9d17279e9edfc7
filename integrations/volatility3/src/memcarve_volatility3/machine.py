# This file is Copyright 2026 the memcarve authors and licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""The machine that Volatility opened, as an image of memcarve's: its processes are those that Volatility found."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, NamedTuple

from volatility3.framework import constants, exceptions
from volatility3.framework.layers import intel

from memcarve.images.paging_modes import LINUX, PAE, X64, X64_5, X86, AddressTable
from memcarve.images.physical import PhysicalMemory
from memcarve.intervals import PAGE
from memcarve.metadata import Metadata, Regions
from memcarve.sources.image import ImageContainer
from memcarve.sources.listings.listing_rows import DoubtfulError, UnknownError, reader
from memcarve.sources.opening import OpenOptions
from memcarve_volatility3.layers import machine_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from memcarve.images.nonresident import Resolver
    from memcarve.process import ProcessEntry, ProcessMemory

_LEVELS_OF_LA57 = 5
_FEW = 3  # rows that a note names


class Found(NamedTuple):
    """A process that Volatility found: its page tables, the layer they lie in, and what finds its regions.

    `regions` yields the cells of rows as the plugin `listing` (windows.vadinfo, linux.proc.Maps) has them.
    """

    entry: ProcessEntry
    table: AddressTable
    physical: str
    regions: Callable[[], Iterable[dict[str, Any]]]
    listing: str
    source: str
    swap: bool = False


def table_of(layer: Any, system: str) -> tuple[AddressTable, str, bool]:  # noqa: ANN401 - Volatility has no types
    """Return the page tables of a process's layer, the layer of physical memory, and whether there is swap, too."""
    if isinstance(layer, intel.Intel32e):
        mode = X64_5 if len(layer.structure) == _LEVELS_OF_LA57 else X64
    else:
        mode = PAE if isinstance(layer, intel.IntelPAE) else X86
    # CR3 holds flags or a number of the address space below the address
    root = int(layer.config["page_map_offset"]) & ((1 << 52) - (32 if mode is PAE else PAGE))
    return AddressTable(root, mode, system), layer.config["memory_layer"], len(layer.dependencies) > 1


class Machine(ImageContainer):
    """The memory of the machine in one of Volatility's layers of physical memory."""

    def __init__(self, context: Any, physical: str) -> None:  # noqa: ANN401
        memory = PhysicalMemory(machine_of(context, physical))
        super().__init__(memory.backing, memory, OpenOptions())  # type: ignore[arg-type] - it has a path and a size
        self._found: dict[int, Found] = {}

    def memory_of(self, found: Found, half: str) -> ProcessMemory:
        """Return the memory of a process, of both halves or one. Raises ProcessError, LimitError."""
        self._entries, self._complete = [found.entry], True
        self._found[id(found.entry)] = found  # which lives as long
        process = self.process(index=0, half=half)
        image = process.inputs["image"]
        image["volatility"] = constants.PACKAGE_VERSION
        # what memcarve finds by itself is not held against it
        image["read_by"] = f"Volatility 3 {constants.PACKAGE_VERSION}"
        # so memcarve finds the process again where it finds none by itself
        image["dtb"] = found.table.system == LINUX
        if found.swap:
            process.notes.append("pages in swap files are left out, though Volatility was given some")
        return process

    @functools.cached_property
    def _resolver(self) -> Resolver | None:
        """What finds pages that page tables do not lead to; None if memcarve does not find the system by itself."""
        self.recognise()
        return None if self._system is None else super()._resolver

    def _table_of(self, entry: ProcessEntry) -> tuple[AddressTable, str]:
        return self._found[id(entry)].table, f"found by Volatility 3 {constants.PACKAGE_VERSION}"

    def _metadata(self, entry: ProcessEntry, table: AddressTable) -> Metadata:
        return _metadata(self._found[id(entry)], table.mode.bits)


def _metadata(found: Found, bits: int) -> Metadata:
    """Return the regions that Volatility lists; what of them cannot be read is told."""
    region_of = reader(found.listing)
    rows, notes, doubtful = [], [], []
    try:
        for cells in found.regions():
            try:
                rows.append(region_of(cells, bits))
            except (UnknownError, DoubtfulError) as error:
                doubtful.append(str(error))
    except (exceptions.VolatilityException, AttributeError, ValueError, RuntimeError) as error:
        # what it follows lies in memory: smeared, or made to deceive
        notes.append(f"{found.source}: ends early, regions are missing: {error}")
    if doubtful:
        notes.append(f"{found.source}: {len(doubtful)} rows say what cannot be: {'; '.join(doubtful[:_FEW])}")
    if not rows and notes:
        return Metadata(notes=tuple(notes))
    regions = Regions(found.source, rows)  # type: ignore[arg-type] - these readers return regions
    if regions.overlapping:
        notes.append(f"{found.source}: {regions.overlapping} regions overlap others")
    return Metadata((regions,), notes=tuple(notes))
