"""The table that all scripts share: where in the original file the bytes of each address lie, and what they are."""

from __future__ import annotations

import itertools
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from memcarve import provenance
from memcarve.errors import printable
from memcarve.intervals import TOP, Intervals, chunks
from memcarve.paths import base_name
from memcarve.permissions import EXECUTE, NOT_PRESENT, WRITE
from memcarve.sinks.ownership import SCRIPTS
from memcarve.sinks.ranges import pieces

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from memcarve.dtypes import I64, U8, U64, Bools
    from memcarve.metadata import Module, Region
    from memcarve.sinks.ranges import Ranges


NAME = SCRIPTS

#: the access, by the column `access`: unknown, then all combinations of the three letters
ACCESS = (None, *("".join(letters) for letters in itertools.product("-r", "-w", "-x")))
_LETTERS = {"r": 4, "w": 2, "c": 2, "x": 1}
_PLAIN = re.compile(r"[^A-Za-z0-9_.]+")
_LONGEST_WORD = 48
_LONGEST_TEXT = 500


class Name(NamedTuple):
    """What a range is called: `word` is made of letters, digits, ``_`` and ``.``; `text` is all of it, printable."""

    word: str
    text: str


@dataclass(frozen=True, eq=False)
class Rows(Intervals):
    """Columns, one row for each piece that is contiguous in memory and in the file, in order of addresses.

    `start`, `size`, `offset` (uint64); `access` (uint8), an index into ACCESS; `name` (int64), an index into `names`,
    and `first` (bool): whether the row begins what has that name.
    """

    start: U64
    size: U64
    offset: U64
    access: U8
    name: I64
    first: Bools
    names: Sequence[Name]

    def __iter__(self) -> Iterator[tuple[int, int, int, int, int, bool]]:
        for part in chunks(len(self), 1 << 16):
            columns = (self.start, self.size, self.offset, self.access, self.name, self.first)
            yield from zip(*(column[part].tolist() for column in columns), strict=True)


def table_rows(ranges: Ranges) -> Rows:
    """Return the rows for ranges; a row ends with its range, and if its bytes are not consecutive in the file."""
    parts = ranges.space.cut(ranges.segments, ranges.start)
    offset, size = pieces(ranges.space, parts)
    owner = np.repeat(np.arange(len(parts)), parts.extents.astype(np.int64))
    begun = np.cumsum(size) - size  # how many bytes of the whole lie before a row, and before its range
    start = parts.start[owner] + (begun - (np.cumsum(parts.size) - parts.size)[owner])
    name, names = _names(ranges)
    changed = np.ones(len(name), np.bool_)
    changed[1:] = (name[1:] != name[:-1]) | (parts.start[1:] != parts.start[:-1] + parts.size[:-1])
    first = changed[owner]
    first[1:] &= owner[1:] != owner[:-1]
    return Rows(start, size, offset, _access(ranges)[owner], name[owner], first, names)


def lines(document: dict[str, Any], rows: Rows) -> Iterator[str]:
    """Yield the table: ASCII, so that nothing in it can do anything to a terminal."""
    access = [json.dumps(letters) for letters in ACCESS]
    return provenance.lines(
        document,
        names=(json.dumps([name.word, name.text]) for name in rows.names),
        rows=(
            f'["0x{start:x}", {size}, {offset}, {access[letters]}, {name}]'
            for start, size, offset, letters, name, _ in rows
        ),
    )


def _access(ranges: Ranges) -> U8:
    """Return the access to each range: from the page tables if they are known, else from its region.

    Write-copy counts as writing: the process may have written there.
    """
    by_region = [0, *(_code(region.collapsed) for region in ranges.regions)]
    found = np.array(by_region, np.uint8)[ranges.region + 1]
    if ranges.flags is None:
        return found
    flags = ranges.flags
    bits = 4 + 2 * ((flags & WRITE) > 0) + ((flags & EXECUTE) > 0)
    return np.where(flags & NOT_PRESENT, found, bits + 1).astype(np.uint8)


def _code(letters: str | None) -> int:
    return 0 if letters is None else 1 + sum(_LETTERS.get(letter, 0) for letter in letters)


def _names(ranges: Ranges) -> tuple[I64, list[Name]]:
    """Return for each range the index of its name (int64), and the names."""
    module = _module_of(ranges.start, ranges.modules)
    key = (module + 1) * (len(ranges.regions) + 1) + ranges.region + 1
    unique, place = np.unique(key, return_inverse=True)
    names = []
    for value in unique.tolist():
        number, index = divmod(value, len(ranges.regions) + 1)
        listed = ranges.modules[number - 1] if number else None
        names.append(_name(listed, ranges.regions[index - 1] if index else None))
    return place.astype(np.int64).reshape(-1), names


def _module_of(start: U64, modules: Sequence[Module]) -> I64:
    """Return for each address the index of the module in which it lies (int64), -1 if none is known."""
    return Intervals.of((row.start, min(row.end - row.start, TOP - 1)) for row in modules).rows_of(start)


def _name(module: Module | None, region: Region | None) -> Name:
    """Return the name of what lies in a module and a region."""
    file = region.file if region else None
    known = [module.name or base_name(module.path or "") if module else "", base_name(file or "")]
    kind = region.kind if region else None
    word = next((word for word in map(plain, [*known, kind or ""]) if word), "memory")
    said = [
        *([module.path or module.name or ""] if module else []),
        *([file] if file and not (module and module.path == file) else []),
        kind or "",
        (region.protection or "") if region else "",
    ]
    return Name(word, "; ".join(printable(text)[:_LONGEST_TEXT] for text in said if text) or word)


def plain(text: str) -> str:
    """Return a text's letters, digits, ``_`` and ``.``, the others as ``_``, without ``_`` and ``.`` at its ends."""
    return _PLAIN.sub("_", text[:_LONGEST_WORD]).strip("._")
