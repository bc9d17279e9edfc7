"""A page found entry by entry lies where the walk of all tables, which slow walkers check, finds it."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from memcarve.errors import AddressError
from memcarve.images import physical
from memcarve.images.one_page import present_page
from memcarve.images.paging import walk
from memcarve.images.paging_modes import LINUX, MODES, WINDOWS, AddressTable
from memcarve.images.structure_reader import LookedUp
from memcarve.permissions import TRANSITION
from walked_pages import physical_memory

_SIZE = 1 << 20
_ALIKE = {"x64", "x64-5", "pae", "arm64-4k-39", "arm64-4k-48", "arm64-16k-36", "arm64-16k-47", "arm64-16k-48"}


def _image(mode: str, rng: np.random.Generator) -> bytes:
    """Return memory of which every page may be a table: entries that lead into it, blocks, noise, zeros."""
    page, count = MODES[mode].page, _SIZE // 8
    frames = rng.integers(0, _SIZE // page + 2, count, np.uint64) * np.uint64(page)
    low = rng.choice(np.array([*(0x67, 0x703) * 12, 0x1, 0x3, 0xE7, 0x860, 0x160, 0x701, 0x800], np.uint64), count)
    words = frames | low
    words[rng.random(count) < 0.03] = 0
    words[rng.random(count) < 0.02] = rng.integers(0, 1 << 63, 1, np.uint64)[0]
    return words.tobytes()


@pytest.mark.parametrize("system", [LINUX, WINDOWS])
@pytest.mark.parametrize("mode", MODES)
def test_a_page_lies_where_a_walk_finds_it(mode: str, system: str) -> None:
    """What the processor would find is found, at the same place; nothing else is; other kinds are left to the walk."""
    rng, found = np.random.default_rng(sorted(MODES).index(mode)), 0
    memory, kind = physical_memory(_image(mode, rng)), MODES[mode]
    roots = (rng.integers(0, _SIZE // kind.page, 8) * kind.page).tolist()
    tables = [
        AddressTable(one, kind, system, other if kind.split else None) for one, other in itertools.pairwise(roots)
    ]
    inside = rng.integers(0, 1 << (kind.bits - kind.wide), 400, np.uint64) | rng.choice(
        np.array([0, kind.upper], np.uint64), 400
    )
    for address in [*inside.tolist(), *rng.integers(0, 1 << 63, 10, np.uint64).tolist(), 0, (1 << 64) - 1]:
        table = tables[address % len(tables)]
        placed = walk(memory, table, address, address + 1).placed
        page = present_page(memory, table, address)
        row = np.flatnonzero(np.uint64(address) - placed.start < placed.size)
        if len(row) and placed.flags[row[0]] < TRANSITION:
            where = int(placed.physical[row[0]]) + address - int(placed.start[row[0]])
            assert page == (where - where % 4096 if mode in _ALIKE else None)
            found += 1
        elif page is not None:  # it is mapped, and its page is not in the image
            assert memory.read(page, 4096) is None
    assert found > 3 or mode not in _ALIKE


class Forgetful(dict[int, Any]):
    """What another thread empties as soon as anything was put into it."""

    def __setitem__(self, key: int, value: Any) -> None:
        super().__setitem__(key, value)
        self.clear()


def test_what_other_threads_forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stretch that was walked is returned, though another thread had no room for it any more."""
    memory = physical_memory(bytes(1 << 14))
    looked_up = LookedUp(memory, AddressTable(0, MODES["x64"], LINUX))
    monkeypatch.setattr(looked_up, "_stretches", Forgetful())
    assert not len(looked_up.around(0x1000).start)
    with pytest.raises(AddressError):
        looked_up.read(0x1000, 1)


def test_pages_are_asked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages that are read together are said ahead once: each time costs a look at all of them."""
    memory, told = physical_memory(bytes(1 << 14)), list[list[int]]()

    def noted(backing: object, offsets: Any, sizes: int) -> None:
        assert (backing, sizes) == (memory.backing, 4096)
        told.append(offsets.tolist())

    monkeypatch.setattr(physical, "fetch_ahead", noted)
    memory.pages(np.array([0x3000, 0x1000], np.uint64))
    assert told == [[0x1000, 0x3000]]
