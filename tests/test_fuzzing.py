"""A short round of each surface's cases, the same every time; ``tests/fuzz.py`` runs long ones."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

import fuzzing
from fuzzing import rounds
from fuzzing.case import Case, Depth
from fuzzing.draw import Draw
from sweeps import LONG

if TYPE_CHECKING:
    from pathlib import Path

    from fuzzing.case import Reached

#: how many cases; and the share of them, in percent, that must get through to the memory that the input leads to
ROUNDS = {
    "maps": (400, 35),
    "lists": (300, 50),
    "minidumps": (500, 70),
    "cores": (500, 70),
    "containers": (200, 60),
    "linux": (60, 50),
    "linux-containers": (150, 35),
    "hibernated": (100, 40),
    "kernel-types": (300, 40),
    "paging": (150, 60),
    "windows": (100, 80),
    "hunted": (6, 80),
    "named": (400, 35),
    "programs": (150, 80),
    "written": (500, 30),
}


@pytest.mark.parametrize("name", fuzzing.SURFACES)
def test_a_round_finds_nothing(name: str) -> None:
    """Whatever an input says, what comes of it is a declared error or memory of which every property holds."""
    if name == "named" and os.name == "nt":
        pytest.skip("Windows has no such names of files")
    count, through = ROUNDS[name]
    # the folder's name stands in documents: of one length, it makes the same cases
    with rounds.folder_for(name) as folder, rounds.strict():
        one = rounds.Round(name, fuzzing.surface(name, folder), folder)
        for number in range(20 * count if LONG else count):
            one.run(one.case(f"ci {number}"))
    assert one.tally.found == {}
    assert 100 * one.tally.share(Depth.MEMORY) >= through, str(one.tally)


@pytest.mark.parametrize("name", fuzzing.SURFACES)
def test_a_seed_makes_the_same_case(name: str, tmp_path: Path) -> None:
    """A case follows from its seed alone, so that a round can be repeated."""
    surface = fuzzing.surface(name, str(tmp_path))
    assert [surface.make(Draw(seed)) for seed in range(20)] == [surface.make(Draw(seed)) for seed in range(20)]


class Faulty:
    """A surface that fails as readers must not."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def make(self, draw: Draw) -> Case:
        """Return a case that says nothing."""
        return Case({"x": draw.randbytes(3)}, {"number": draw.randrange(9)})

    def run(self, case: Case, reached: Reached) -> None:
        """Fail."""
        assert case.files
        reached(Depth.ROWS)
        raise self.error


@pytest.mark.parametrize("error", [KeyError("x"), RecursionError(), MemoryError(), AssertionError(), RuntimeWarning()])
def test_what_is_found_is_kept_and_can_be_run_again(error: Exception, tmp_path: Path) -> None:
    """Anything but a declared error is found; the case is kept once, with its files, and reads back as it was."""
    one = rounds.Round("faulty", Faulty(error), str(tmp_path), str(tmp_path / "kept"))
    for number in range(3):
        one.run(one.case(str(number)))
    (kept,) = (tmp_path / "kept").iterdir()
    assert Case.kept(str(kept)) == ("faulty", one.case("0"))
    assert one.tally.depths == {"ROWS": 3}
