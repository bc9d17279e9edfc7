"""Copies of real machines' images that tests may damage."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from linux_machines import machine
from linux_structures import Damaged

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture(scope="session")
def _copies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("copies")


@pytest.fixture
def damaged(_copies: Path) -> Iterator[Callable[[str], Damaged]]:
    """Return what opens a copy of a machine's image, by name; afterwards it is again as it was."""
    opened: list[Damaged] = []

    def of(name: str) -> Damaged:
        opened.append(Damaged(machine(name), _copies))
        return opened[-1]

    yield of
    for each in opened:
        each.close()
