"""Hibernation files of the machine that `machines.Containers` has, with other numbers in headers, tables and sets."""

from __future__ import annotations

from typing import TYPE_CHECKING

import hibernation
from fuzzing import machines
from fuzzing.machines import ROOT, _grid
from memory import PAGE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fuzzing.draw import Draw
    from fuzzing.machines import Ranges

_TOP = 1 << 51


class Containers(machines.Containers):
    """Files of Windows 7, and of each header since Windows 8, in every state."""

    kinds = ("seven", "eight", "eight", "eight")

    @staticmethod
    def _possible(kind: str, ranges: Ranges) -> Ranges:
        """Return ranges as such a file can hold them: a page may be in it twice."""
        del kind
        return [(min(start & _TOP - 1, _TOP - len(data)) & -PAGE, data) for start, data in ranges]

    @staticmethod
    def _contained(draw: Draw, kind: str, ranges: Ranges) -> tuple[bytes, Sequence[tuple[int, int]]]:
        """Return a file, and what of it are numbers."""
        state = draw.choice((b"HIBR", b"HIBR", b"WAKE", b"RSTR", b"HORM"))
        whole = [(start, data[: len(data) // PAGE * PAGE]) for start, data in ranges]
        if kind == "seven":
            state = bytes(4) if draw.chance(0.1) else state
            data = hibernation.seven(whole, state=state, root=ROOT)
            return data, [*_grid(0, 0x70), *_grid(PAGE, PAGE + 32), *_grid(6 * PAGE, 6 * PAGE + 64), (7 * PAGE + 8, 4)]
        build, per_set = draw.choice([*hibernation.HEADERS]), draw.choice((1, 7, 16, 64))
        loader, first = draw.choice((0, 0.3, 1)), draw.chance(0.3)
        how = {"state": state, "root": ROOT, "per_set": per_set, "loader": loader, "kernel_first": first}
        data = hibernation.eight(whole, build=build, **how)
        header = [*_grid(0, 0x78), *_grid(0x1C8, 0x240), *_grid(PAGE, PAGE + 32)]
        return data, [*header, *_grid(3 * PAGE, 3 * PAGE + 100), *_grid(4 * PAGE, 4 * PAGE + 60)]
