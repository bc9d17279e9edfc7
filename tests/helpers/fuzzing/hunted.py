"""Machines whose structures are changed, asked as a whole: findings, places of patterns, rules, and owners of pages.

What is found must be what lies in the processes' memory, laid flat and searched by other means.
"""

from __future__ import annotations

import importlib.util
import re
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np

import memcarve
from fuzzing import checks
from fuzzing.case import Depth
from fuzzing.windows import Windows

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fuzzing.case import Case, Reached
    from fuzzing.draw import Draw
    from fuzzing.windows import Machine

_LARGEST = 1 << 24  # bytes of all processes that are laid flat
_QUESTIONS = 50
_RULES = """
rule marked { strings: $a = "MZ" $b = "program" wide ascii condition: any of them }
rule small { condition: filesize < 8192 and uint16(0) == 0x5a4d }
"""
#: what is searched for, and an expression that matches at the same places
_SOUGHT: Sequence[tuple[Any, bytes]] = (
    (b"MZ", b"(?=(MZ))"),
    (b"\0\0\1", b"(?=(\0\0\1))"),
    (memcarve.hex_pattern("4d 5a ?? 00"), b"(?=(MZ.\0))"),
    (memcarve.expression(r"[a-z]{4,12}\.(exe|dll)"), rb"([a-z]{4,12}\.(?:exe|dll))"),
)


class Hunted(Windows):
    """The machines of `Windows`, of which all processes are asked at once."""

    def make(self, draw: Draw) -> Case:
        """Draw what is changed, and which physical addresses are asked about."""
        case = super().make(draw)
        size = max(len(machine.raw) for machine in self.machines)
        case.told["asked"] = [draw.randrange(size) for _ in range(_QUESTIONS)]
        return case

    def _use(self, container: memcarve.Container, machine: Machine, told: dict[str, Any], reached: Reached) -> None:
        del machine
        reached(Depth.PARSED)
        found = memcarve.hunt(container)
        checks.texts([*found.notes, *(str(error) for _, error in found.failed)])
        for row in found:
            assert row.facts()["severity"] == row.severity
            assert row.address is None or 0 <= row.address < checks.TOP
        processes = []
        for index in container.certain():
            try:
                processes.append(container.process(index=index, half="user"))
            except memcarve.InputError:
                continue
        _owners(container, processes, told["asked"])
        if sum(process.space.total for process in processes) > _LARGEST:
            return
        reached(Depth.ROWS)
        flat = [
            [(each.start, process.read(each.start, each.size)) for each in process.segments()] for process in processes
        ]
        _places(processes, flat)
        if importlib.util.find_spec("yara_x") is not None:
            _rules(processes, flat)
        reached(Depth.MEMORY)


def _places(processes: list[memcarve.ProcessMemory], flat: list[list[tuple[int, bytes]]]) -> None:
    numbers = {id(process): number for number, process in enumerate(processes)}
    found = Counter(
        (numbers[id(each.process)], each.hit.address, each.hit.pattern, each.hit.size)
        for each in memcarve.find(processes, [pattern for pattern, _ in _SOUGHT])
    )
    expected = Counter(
        (number, start + match.start(), pattern, len(match[1]))
        for number, segments in enumerate(flat)
        for start, data in segments
        for pattern, (_, expression) in enumerate(_SOUGHT)
        for match in re.finditer(expression, data, re.DOTALL)
    )
    assert found == expected, f"{[*(found - expected)][:3]} too many, {[*(expected - found)][:3]} missed"


def _rules(processes: list[memcarve.ProcessMemory], flat: list[list[tuple[int, bytes]]]) -> None:
    yara_x = importlib.import_module("yara_x")
    rules = memcarve.Rules.of(_RULES)
    parts = [(process.space, process.segments()) for process in processes]
    found = Counter((hit.part, hit.address, hit.rule, hit.pattern, hit.size) for hit in memcarve.Scans(parts, rules))
    scanner = yara_x.Scanner(yara_x.compile(_RULES))
    expected: Counter[tuple[int, int, str, str | None, int]] = Counter()
    for number, segments in enumerate(flat):
        for start, data in segments:
            for rule in scanner.scan(data).matching_rules:
                places = [
                    (number, start + match.offset, rule.identifier, pattern.identifier, match.length)
                    for pattern in rule.patterns
                    for match in pattern.matches
                ]
                expected.update(places or [(number, start, rule.identifier, None, 0)])
    assert found == expected, f"{[*(found - expected)][:3]} too many, {[*(expected - found)][:3]} missed"


def _owners(container: memcarve.Container, processes: list[memcarve.ProcessMemory], asked: list[int]) -> None:
    if not processes:
        return
    answers = memcarve.Owners(container).of_physical(asked, 1 << 20)
    found = {
        (each.query, each.process.pid, each.address)
        for each in answers
        if each.process is not None and each.address is not None and each.address < 1 << 47
    }
    expected = set()
    for process in processes:
        space = process.space
        if space.physical is None:
            continue
        for query, address in enumerate(asked):
            away = np.uint64(address) - space.physical
            for row in np.flatnonzero((space.physical <= np.uint64(address)) & (away < space.size)).tolist():
                expected.add((query, process.pid, int(space.start[row] + away[row])))
    assert found == expected, f"{[*(found - expected)][:3]} too many, {[*(expected - found)][:3]} missed"
