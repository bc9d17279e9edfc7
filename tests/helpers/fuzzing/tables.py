"""Maps in every form beside a dump, and lists of regions, modules and threads beside a map."""

from __future__ import annotations

import itertools
import os
from typing import TYPE_CHECKING, Any

import listings
import maps
from fuzzing import checks
from fuzzing.case import Case, Depth, Reached
from fuzzing.columnar import columnar
from fuzzing.compression import compressed
from fuzzing.draw import CELLS, Draw
from headers import elf_page, pe_page
from maps import COLUMNS, FAILED, Row, written
from memory import PAGE, content

if TYPE_CHECKING:
    from collections.abc import Sequence

_DUMP = content(0, 16 * PAGE)


class Maps(checks.Looked):
    """A memory map of a few rows beside its dump, in every form that tools print."""

    def prepare(self) -> None:
        """Write the other process's dump."""
        Case({"pid.8.dmp": _DUMP}, {}).write(self.folder)

    def model(self, held: Any) -> checks.Model:
        """Return what compares bytes with where their row says that they lie."""
        rows = [Row(*row) for row in held]
        return lambda address, data: _as_printed(rows, address, data)

    def make(self, draw: Draw) -> Case:
        """Draw rows, change what they say, then print them."""
        told = checks.drawn(draw, "pid.4.map")
        told["trust"] = draw.choice(("printed", "sum")) if draw.chance(0.2) else None
        rows = self._rows(draw)
        if draw.chance(0.6):
            self._change(draw, rows)
        total = min(sum(row.size for row in rows if row.file != FAILED), len(_DUMP))
        length = total if draw.chance(0.85) else draw.choice((len(_DUMP), total + 1, total - 1, PAGE, 0))
        form = draw.choice((*maps.RENDERERS, "arrow", "parquet", "vol2", "greptext", "vol2 json", "rekall"))
        columns = draw.sample(COLUMNS, draw.randrange(2, 6)) if draw.chance(0.1) else list(COLUMNS)
        data, sound = self._printed(draw, rows, columns, form)
        if draw.chance(0.12):
            data, sound = draw.torn(data) if form in maps.BINARIES or draw.chance(0.2) else draw.lines(data), False
        elif form not in maps.BINARIES and draw.chance(0.03):
            data = data.decode().encode(draw.choice(("utf-16", "utf-16-le", "utf-8-sig")))
        told["held"] = [list(row) for row in rows] if sound else None
        data = compressed(draw, data, told) if draw.chance(0.25) else data
        return Case({"pid.4.map": data, "pid.4.dmp": _DUMP[: max(length, 0)]}, told)

    @staticmethod
    def _rows(draw: Draw) -> list[Row]:
        ranges, address = [], draw.choice((0, 0x1000, 0x7FF0000, 0x7FF612340000, 0xF80000000000, 0xFFFFF80000000000))
        for _ in range(draw.randrange(1, 9)):
            size = draw.choice((PAGE, PAGE, PAGE, 2 * PAGE))
            ranges.append((address, size))
            address += size + draw.choice((0, 0, PAGE, 0x10000))
        rows = written(ranges, failed=[index for index in range(len(ranges)) if draw.chance(0.1)])
        half = draw.randrange(len(rows)) if draw.chance(0.1) else len(rows)
        return rows[:half] + written([(row.virtual, row.size) for row in rows[half:]], "pid.8.dmp")

    @staticmethod
    def _change(draw: Draw, rows: list[Row]) -> None:
        """Change rows; mostly, positions are worked out anew afterwards, so that they fit."""
        known = [number for row in rows for number in (row.virtual, row.size, row.offset, row.virtual + row.size)]
        for _ in range(draw.few()):
            at, kind = draw.randrange(len(rows)), draw.randrange(9)
            row = rows[at]
            if kind < 4:
                name = ("virtual", "size", "offset", "physical")[kind]
                rows[at] = row._replace(**{name: draw.number(getattr(row, name), known)})
            elif kind == 4:
                rows[at] = row._replace(file=draw.choice((FAILED, "pid.8.dmp", "Disabled", draw.plain(row.file))))
            elif kind == 5:
                rows.insert(draw.randrange(len(rows)), row)
            elif kind < 8:
                rows[at], rows[0] = rows[0], row
            elif len(rows) > 1:
                del rows[at]
        if draw.chance(0.7):
            sizes = [0 if row.file == FAILED and draw.chance(0.5) else row.size for row in rows]
            offsets = [offset & (1 << 64) - 1 for offset in itertools.accumulate(sizes, initial=0)]
            rows[:] = [row._replace(offset=offset) for row, offset in zip(rows, offsets, strict=False)]

    @staticmethod
    def _printed(draw: Draw, rows: list[Row], columns: Sequence[str], form: str) -> tuple[bytes, bool]:
        """Return the map, and whether it says what the rows say, all of them of one process."""
        one = len({row.file for row in rows if row.file != FAILED}) == 1 and len(columns) == len(COLUMNS)
        if form in maps.BINARIES:
            data, usual = columnar(draw, [{name: row.cell(name) for name in columns} for row in rows], columns, form)
            return data, usual and one
        if form in maps.RENDERERS:
            return maps.RENDERERS[form](rows, columns), one
        if form == "rekall":
            return maps.rekall_index(rows), all(row.file != FAILED for row in rows)
        processes = [(draw.plain("a"), 4, rows)]
        if draw.chance(0.3):
            processes.append(("b", draw.choice((0, 8, 4, 1 << 32)), rows[: len(rows) // 2]))
        write = {"vol2": maps.volatility2, "greptext": maps.greptext, "vol2 json": maps.volatility2_json}[form]
        return write(processes), False


def _as_printed(rows: list[Row], address: int, data: bytes) -> bool:
    """Return whether bytes lie where rows print it, or where those lie that were written one after the other."""
    order = sorted((row.offset, number, row.size) for number, row in enumerate(rows) if row.file != FAILED)
    ends = itertools.accumulate((size for _, _, size in order), initial=0)
    sums = {number: end for (_, number, _), end in zip(order, ends, strict=False)}
    agree = [True, True]
    while data:
        places = (
            (number, shown - row.virtual)
            for shown in (address & (1 << bits) - 1 for bits in (64, 48, 57))  # as it may have been printed
            for number, row in enumerate(rows)
            if row.file != FAILED and row.virtual <= shown < row.virtual + row.size
        )
        number, inner = next(places, (-1, 0))
        if number < 0:
            return False
        count = min(rows[number].size - inner, len(data))
        for which, offset in enumerate((rows[number].offset + inner, sums[number] + inner)):
            agree[which] &= _DUMP[offset : offset + count] == data[:count]
        address, data = address + count, data[count:]
    return any(agree)


_PROCMAPS = (
    b"00010000-00012000 r-xp 00000000 08:01 1234       /usr/bin/x",
    b"00020000-00021000 rw-p 00000000 00:00 0          [heap]",
    b"00100000-00103000 rwxp 00001000 08:01 99         /srv/a b (deleted)",
    b"ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]",
)
#: what each kind of table lists; and one that `listings` does not print
_LISTED = {"vadinfo": "regions", "dlllist": "modules", "linux": "regions", "mac": "regions", "threads": "threads"}
_WALKED = {"PID": 4, "Process": "a", "Offset": 1 << 40, "Parent": 0, "Left": 0, "Right": 0, "Start": 0x10000,
           "End": 0x1FFFF, "Tag": "VadS"}  # fmt: skip


class Lists(checks.Looked):
    """Regions, modules and threads as plugins print them, beside a sound dump."""

    def prepare(self) -> None:
        """Write the dump and its map."""
        dump = bytes(pe_page()) + bytes(PAGE) + bytes(elf_page()) + content(0, 3 * PAGE)
        rows = written([(0x10000, 2 * PAGE), (0x20000, PAGE), (0x100000, 3 * PAGE)])
        Case({"pid.4.map": maps.quick(rows), "pid.4.dmp": dump}, {}).write(self.folder)
        self.tables = [("regions", [_WALKED], listings.VADWALK)]
        for title, (some, columns) in listings.TABLES.items():
            kind = next(kind for word, kind in _LISTED.items() if word in title)
            self.tables.append((kind, [row | {"PID": 4} for row in some], columns))

    def make(self, draw: Draw) -> Case:
        """Draw a list, change its cells, then print it."""
        told = checks.drawn(draw, "pid.4.dmp")
        if draw.chance(0.15):
            return Case({"list": self._procmaps(draw)}, told | {"kind": "regions"})
        told["kind"], some, columns = draw.choice(self.tables)
        rows = [dict(draw.choice(some)) for _ in range(draw.randrange(1, 5))]
        known = [0x10000, 0x20000, *(value for row in rows for value in row.values() if isinstance(value, int))]
        for _ in range(draw.few(6)):
            row, name = draw.choice(rows), draw.choice(columns)
            if isinstance(row[name], int) and name != "PID":
                row[name] = draw.number(row[name], known)
            elif name != "PID" or draw.chance(0.1):
                row[name] = draw.choice((None, draw.number(), draw.text(str(row[name]))))
        form = draw.choice([*listings.RENDERERS])
        try:
            binary = form in listings.BINARIES
            data = columnar(draw, rows, columns, form)[0] if binary else listings.RENDERERS[form](rows, columns)
        except UnicodeError:
            binary, data = False, listings.quick(rows, columns)
        if draw.chance(0.12):
            data = draw.torn(data) if binary else draw.lines(data)
        return Case({"list": compressed(draw, data, {}) if draw.chance(0.15) else data}, told)

    @staticmethod
    def _procmaps(draw: Draw) -> bytes:
        lines = [*_PROCMAPS]
        for _ in range(draw.few()):
            at = draw.randrange(len(lines))
            words = lines[at].split(b" ")
            if draw.chance(0.5):
                start, end = (draw.number(int(word, 16)) for word in _PROCMAPS[at].split(b" ")[0].split(b"-"))
                words[0] = b"%x-%x" % (start, end)
            else:
                wild = draw.choice((draw.text(), draw.choice(CELLS)))
                words[draw.randrange(1, len(words))] = wild.encode("utf-8", "surrogatepass")
            lines[at] = b" ".join(words)
        data = b"\n".join([*lines, b""])
        return draw.lines(data) if draw.chance(0.2) else data

    def run(self, case: Case, reached: Reached) -> None:
        """Open the dump with the list, which is what was used if all of that could be done."""
        named = {case.told["kind"]: [os.path.join(self.folder, "list")]}
        told = {name: value for name, value in case.told.items() if name != "kind"} | named | {"labels": True}
        super().run(Case({}, told), Reached())
        reached(Depth.MEMORY)
