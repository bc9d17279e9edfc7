"""Page tables of real Linux machines: each page and each entry of the swap is what /proc/PID/pagemap said of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

import memcarve
from linux_machines import machine, machines
from memcarve.images.linux.absent_entries import KINDS, SWAPPED
from memcarve.images.paging import absent, walk
from memcarve.intervals import expand
from memcarve.permissions import EXECUTE, PROT_NONE
from memcarve.sources.image import ImageContainer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from linux_machines import Machine
    from memcarve.dtypes import U64
    from memcarve.images.paging_modes import AddressTable

pytestmark = pytest.mark.parametrize("name", machines())


def opened(real: Machine) -> ImageContainer:
    """Return the machine's image; skip the test if no processes are found in it, which is another test's matter."""
    container = memcarve.open(real.raw, input_type="image")
    assert isinstance(container, ImageContainer)
    try:
        container.listed()
    except memcarve.ProcessError as error:
        pytest.skip(f"{real.name}: {error}")
    return container


def tables(real: Machine, container: ImageContainer) -> Iterator[tuple[int, AddressTable]]:
    """Yield how the tables of each stopped process are read, by pid."""
    for entry in container.listed():
        if entry.pid in real.stopped and entry.root is not None:
            yield entry.pid, container.system.table_of(entry)


def page_by_page(start: U64, size: U64, physical: U64, page: int) -> tuple[U64, U64]:
    """Return the address and the physical address of each page of stretches."""
    row, within = expand((size // np.uint64(page)).astype(np.int64))
    ahead = within.astype(np.uint64) * np.uint64(page)
    return start[row] + ahead, physical[row] + ahead


def test_pages_as_pagemap(name: str) -> None:
    """Every resident page lies in the frame that pagemap said; others are of areas of which it says nothing."""
    real = machine(name)
    seen = 0
    with opened(real) as container:
        for pid, table in tables(real, container):
            placed = walk(container.memory, table, 0, table.kernel_half).placed
            address, physical = page_by_page(placed.start, placed.size, placed.physical, real.page_size)
            said = real.pages(pid)
            place = np.searchsorted(address, said.address)
            assert (address[np.minimum(place, len(address) - 1)] == said.address).all()
            assert (physical[place] == said.frame * np.uint64(real.page_size)).all()
            more = np.setdiff1d(address, said.address)
            silent = [(vma.start, vma.end) for vma in real.vmas(pid) if "pf" in vma.flags]
            assert all(any(start <= at < end for start, end in silent) for at in more.tolist())
            seen += len(said.address)
    assert seen > 1000


def test_what_may_run(name: str) -> None:
    """Pages of areas that may run are executable, also with page-table isolation; no others are."""
    real, seen = machine(name), 0
    with opened(real) as container:
        for pid, table in tables(real, container):
            placed = walk(container.memory, table, 0, table.kernel_half).placed
            for vma in real.vmas(pid):
                here = (placed.start >= np.uint64(vma.start)) & (placed.start < np.uint64(vma.end))
                flags = placed.flags[here & (placed.flags & PROT_NONE == 0)]
                if "x" in vma.permissions:
                    assert (flags & EXECUTE != 0).all(), (pid, vma)
                    seen += len(flags)
                elif table.mode.wide:  # without NX every page may run
                    assert not (flags & EXECUTE).any(), (pid, vma)
    assert seen > 100


def test_swap_as_pagemap(name: str) -> None:
    """Every entry of the swap has the area and the page in it that pagemap said, and there is no other."""
    real = machine(name)
    with opened(real) as container:
        for pid, table in tables(real, container):
            found, said = absent(container.memory, table, 0, table.kernel_half), real.swapped(pid)
            assert found.address.tolist() == said.address.tolist()
            assert found.type.tolist() == said.type.tolist()
            assert found.offset.tolist() == said.offset.tolist()
            assert set(found.kind.tolist()) <= {KINDS.index(SWAPPED)}
            counts = walk(container.memory, table, 0, table.kernel_half).counts
            assert counts["swapped"] == len(said.address) * real.page_size // 4096
            assert not set(counts) & {*KINDS} - {SWAPPED}


def test_kernel_half_is_shared(name: str) -> None:
    """The kernel's memory is the same in every process, read through each one's own tables (or with PTI hardly any)."""
    real = machine(name)
    with opened(real) as container:
        system, memory = container.system, container.memory
        own = [table for _, table in tables(real, container)][:3]
        text = next(entry for entry in container.listed() if entry.root is None)
        kernel = system.table_of(text)
        size = walk(memory, kernel, kernel.kernel_half).counts["present"]
        assert size > 1000
        for table in own:
            assert abs(walk(memory, table, kernel.kernel_half).counts["present"] - size) < size // 100
            assert not walk(memory, kernel, 0, kernel.kernel_half).placed.total
