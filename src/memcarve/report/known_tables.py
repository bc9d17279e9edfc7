"""What is known of a process besides its bytes, as tables of a report: regions, modules, threads, missing memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from memcarve.intervals import total
from memcarve.labels.segment_labels import Words, permission_words
from memcarve.missing import REASONS
from memcarve.report.streamed_json import addresses, encoded, integers, values

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from memcarve.labels.metadata_index import Listed
    from memcarve.labels.resident_regions import ResidentRegion
    from memcarve.metadata import Thread
    from memcarve.missing import MissingMemory
    from memcarve.report.streamed_json import Column

_MOST_MISSING = 1 << 16  # rows
_INSTRUCTIONS = ("rip", "pc", "eip")


def regions_table(rows: Sequence[ResidentRegion]) -> dict[str, Any]:
    """Return the regions of all sources, and how much of each is there."""
    regions = [row.region for row in rows]
    return {
        "start": addresses(np.array([row.start for row in regions], np.uint64)),
        "size": values([row.size for row in regions]),
        "resident": values([row.resident for row in rows]),
        "protection": encoded(Words.of(row.protection for row in regions)),
        "permissions": encoded(Words.of(", ".join(permission_words(row.permissions)) or None for row in rows)),
        "kind": encoded(Words.of(row.kind for row in rows)),
        "file": encoded(Words.of(row.file for row in regions)),
        "file_offset": values([row.offset for row in regions]),
        "private": values([row.private for row in regions]),
        "tag": values([row.tag for row in regions]),
        "source": encoded(Words.of(row.source for row in rows)),
    }


def modules_table(rows: Sequence[Listed]) -> dict[str, Any]:
    """Return the modules of all lists, of those at one address the first list's."""
    return {
        "start": addresses(np.array([row.module.start for row in rows], np.uint64)),
        "size": values([row.module.size for row in rows]),
        "name": values([row.module.name for row in rows]),
        "path": values([row.module.path for row in rows]),
        "source": encoded(Words.of(row.source for row in rows)),
    }


def threads_table(rows: Sequence[Thread]) -> dict[str, Any]:
    """Return the threads of all lists."""

    def places(found: Iterable[int | None]) -> Column:
        return values([None if value is None else f"0x{value:x}" for value in found])

    registers = [row.registers or {} for row in rows]
    counters = [next((each[name] for name in _INSTRUCTIONS if name in each), None) for each in registers]
    return {
        "tid": values([row.tid for row in rows]),
        "name": values([row.name for row in rows]),
        "state": encoded(Words.of(row.state for row in rows)),
        "start": places(row.begin for row in rows),
        "instruction": places(counters),
        "teb": places(row.teb for row in rows),
        "stack_start": places(row.stack_start for row in rows),
        "stack_end": places(row.stack_end for row in rows),
    }


def missing_tables(missing: MissingMemory, elsewhere: MissingMemory) -> dict[str, Any]:
    """Return what is mapped and not there: what is known to be missing first, then what the system took out."""
    kinds = (missing, True), (elsewhere, False)
    rows = [[kind.start, kind.size, kind.reason.astype(np.int64), np.full(len(kind), known)] for kind, known in kinds]
    start, size, reason, is_known = (np.concatenate(column)[:_MOST_MISSING] for column in zip(*rows, strict=True))
    count, whole = len(missing) + len(elsewhere), total(missing.size) + total(elsewhere.size)
    used, codes = np.unique(reason, return_inverse=True)
    return {
        "missing": {
            "start": addresses(start),
            "size": integers(size),
            "reason": encoded(Words([REASONS[place] for place in used.tolist()], codes)),
            "known_missing": integers(is_known),
        },
        "missing_not_listed": {"rows": count - len(start), "bytes": whole - total(size)},
    }
