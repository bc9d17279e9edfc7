"""The table of results: one line a measurement, with its goals."""

from __future__ import annotations

import os
import platform
import statistics
import time
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from measure import Run

MIB = 1 << 20


class Goal(NamedTuple):
    """What is wanted of the `ratio`, the `seconds`, what is `more` of them, or the `rss` (bytes).

    At most `limit`, or at least it.
    """

    of: str
    limit: float
    at_least: bool = False

    def __str__(self) -> str:
        sign = ">=" if self.at_least else "<="
        unit = {
            "ratio": f"{self.limit:g}x",
            "seconds": f"{self.limit:g} s",
            "more": f"{self.limit:g} s more",
            "rss": f"{self.limit / MIB:.0f} MiB",
        }
        return f"{sign} {unit[self.of]}"


class Row:
    """A measurement: our runs beside those of a baseline, or numbers that are no times.

    The ratio is worked out pair by pair: ours / baseline, or baseline / ours (`speedup`), and then its median taken.
    """

    def __init__(
        self,
        name: str,
        where: str,
        ours: Sequence[Run] = (),
        baseline: str = "",
        theirs: Sequence[Run] = (),
        *,
        goals: Sequence[Goal] = (),
        speedup: bool = False,
        scale: float = 1,
        note: str = "",
    ) -> None:
        """`scale` is what a ratio is multiplied by: how much more work the baseline did."""
        self.name, self.where, self.baseline, self.goals, self.note = name, where, baseline, goals, note
        self.ours = [run.seconds for run in ours]
        self.theirs = [run.seconds for run in theirs]
        self.rss = max((run.rss for run in ours), default=0)
        pairs = zip(self.ours, self.theirs, strict=True) if self.theirs else ()
        self.ratios = [scale * (other / own if speedup else own / other) for own, other in pairs]

    @property
    def met(self) -> bool | None:
        """Whether every goal is met; None where there is none, or nothing was measured."""
        values: dict[str, Sequence[float]] = {
            "ratio": self.ratios,
            "seconds": self.ours,
            "more": [own - other for own, other in zip(self.ours, self.theirs, strict=False)],
            "rss": [self.rss] if self.rss else [],
        }
        judged = [(goal, statistics.median(values[goal.of])) for goal in self.goals if values[goal.of]]
        if not judged or len(judged) < len(self.goals):
            return None
        return all(value >= goal.limit if goal.at_least else value <= goal.limit for goal, value in judged)

    def cells(self) -> list[str]:
        """Return the cells of the table."""
        met = {True: "yes", False: "NO", None: ""}[self.met]
        return [
            self.name,
            self.where,
            _seconds(self.ours),
            self.baseline,
            _seconds(self.theirs),
            f"{statistics.median(self.ratios):.2f}x" if self.ratios else "",
            f"{min(self.ratios):.2f}..{max(self.ratios):.2f}" if self.ratios else "",
            ", ".join(map(str, self.goals)),
            met,
            f"{self.rss / MIB:.0f} MiB" if self.rss else "",
            self.note,
        ]

    def record(self) -> dict[str, Any]:
        """Return the measurement for JSON."""
        return {
            "name": self.name,
            "where": self.where,
            "seconds": self.ours,
            "baseline": self.baseline,
            "baseline_seconds": self.theirs,
            "ratios": self.ratios,
            "ratio": statistics.median(self.ratios) if self.ratios else None,
            "goals": [str(goal) for goal in self.goals],
            "met": self.met,
            "peak_rss": self.rss or None,
            "note": self.note,
        }


HEAD = ["name", "where", "ours", "against", "theirs", "ratio", "min..max", "goal", "met", "peak RSS", "note"]


def text(rows: Sequence[Row]) -> str:
    """Return the table, columns aligned."""
    lines = [HEAD, *(row.cells() for row in rows)]
    widths = [max(len(line[place]) for line in lines) for place in range(len(HEAD))]
    lines.insert(1, ["-" * width for width in widths])
    aligned = ("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)
    return "\n".join(line.rstrip() for line in aligned) + "\n"


def machine() -> dict[str, Any]:
    """Return what the numbers were measured on."""
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "system": platform.platform(),
        "processor": _processor(),
        "processors": os.cpu_count(),
        "memory": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "python": platform.python_version(),
        "load": os.getloadavg(),
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next((line.split(":", 1)[1].strip() for line in file if line.startswith("model name")), "")
    except OSError:
        return platform.processor()


def _seconds(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.3f} s" if values else ""
