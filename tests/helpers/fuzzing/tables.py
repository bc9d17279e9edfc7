"""Maps in every form beside a dump, and lists of regions, modules and threads beside a map."""

from __future__ import annotations

import bz2
import gzip
import itertools
import lzma
import os
import sys
from typing import TYPE_CHECKING, Any

import cramjam

import listings
import maps
from fuzzing import checks
from fuzzing.case import Case, Depth, Reached
from fuzzing.columnar import columnar
from fuzzing.draw import CELLS, Draw
from headers import elf_page, pe_page
from maps import COLUMNS, FAILED, Row, written
from memory import content

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

if TYPE_CHECKING:
    from collections.abc import Callable

PAGE = 0x1000
_DUMP = content(0, 16 * PAGE)
_PID = 4
COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    "gz": lambda data: gzip.compress(data, 1, mtime=0),
    "xz": lambda data: lzma.compress(data, preset=0),
    "zst": lambda data: zstd.compress(data, 1),
    "bz2": lambda data: bz2.compress(data, 1),
    "lz4": lambda data: bytes(cramjam.lz4.compress(data)),
}
#: how many bits of an address a map may have printed
_PRINTED = (64, 48, 57)


def compressed(draw: Draw, data: bytes) -> bytes:
    """Return data compressed, in one part or in several; now and then damaged afterwards, or twice."""
    pack = COMPRESSIONS[draw.choice([*COMPRESSIONS])]
    at = draw.randrange(len(data) + 1) if draw.chance(0.2) else len(data)
    packed = pack(data[:at]) + (pack(data[at:]) if at < len(data) else b"")
    kind = draw.random()
    if kind < 0.08:
        return draw.torn(packed)
    if kind < 0.12:
        return packed + draw.choice((b"\0" * 100, b"rubbish" * 9, packed[:20], pack(b"")))
    return pack(packed) if kind < 0.14 else packed


class Maps:
    """A memory map of a few rows beside its dump, in every form that tools print."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        Case({"pid.8.dmp": _DUMP}, {}).write(folder)

    def make(self, draw: Draw) -> Case:
        """Draw rows, change what they say, then print them."""
        rows = self._rows(draw)
        if draw.chance(0.75):
            self._change(draw, rows)
        form = draw.choice((*maps.RENDERERS, "arrow", "parquet", "vol2", "greptext", "vol2 json", "rekall"))
        told = checks.drawn(draw)
        told["trust"] = draw.choice(("printed", "sum")) if draw.chance(0.2) else None
        columns = list(COLUMNS)
        if draw.chance(0.15):
            columns = draw.sample(columns, draw.randrange(2, 6))
        data, sound = self._printed(draw, rows, columns, form)
        if draw.chance(0.12):
            data, sound = draw.torn(data) if form in maps.BINARIES or draw.chance(0.2) else draw.lines(data), False
        elif form not in maps.BINARIES and draw.chance(0.03):
            data = data.decode().encode(draw.choice(("utf-16", "utf-16-le", "utf-8-sig")))
        if draw.chance(0.25):
            data = compressed(draw, data)
        told["rows"] = [list(row) for row in rows] if sound else None
        total = min(sum(row.size for row in rows if row.file != FAILED), len(_DUMP))
        length = total if draw.chance(0.7) else draw.choice((len(_DUMP), total + 1, total - 1, PAGE, 0))
        return Case({"pid.4.map": data, "pid.4.dmp": _DUMP[: max(length, 0)]}, told)

    def _rows(self, draw: Draw) -> list[Row]:
        ranges, address = [], draw.choice((0, 0x1000, 0x7FF0000, 0x7FF612340000, 0xF80000000000, 0xFFFFF80000000000))
        for _ in range(draw.randrange(1, 9)):
            size = draw.choice((PAGE, PAGE, PAGE, 2 * PAGE))
            ranges.append((address, size))
            address += size + draw.choice((0, 0, PAGE, 0x10000))
        failed = [index for index in range(len(ranges)) if draw.chance(0.1)]
        rows = written(ranges, failed=failed)
        if draw.chance(0.1):
            half = len(rows) // 2
            rows[half:] = written([(row.virtual, row.size) for row in rows[half:]], "pid.8.dmp")
        return rows

    def _change(self, draw: Draw, rows: list[Row]) -> None:
        """Change rows; mostly, positions are worked out anew afterwards, so that they fit."""
        known = [number for row in rows for number in (row.virtual, row.size, row.offset, row.virtual + row.size)]
        for _ in range(draw.few()):
            at = draw.randrange(len(rows))
            row, kind = rows[at], draw.randrange(8)
            if kind < 3:
                name = ("virtual", "size", "offset")[kind]
                rows[at] = row._replace(**{name: draw.number(getattr(row, name), known)})
            elif kind == 3:
                rows[at] = row._replace(physical=draw.number(row.physical, known))
            elif kind == 4:
                rows[at] = row._replace(file=draw.choice((FAILED, "pid.8.dmp", "Disabled", draw.text(row.file))))
            elif kind == 5:
                rows.insert(draw.randrange(len(rows)), row)
            elif kind == 6:
                rows[at], rows[0] = rows[0], row
            elif len(rows) > 1:
                del rows[at]
        if draw.chance(0.6):
            sizes = [0 if row.file == FAILED and draw.chance(0.5) else row.size for row in rows]
            rows[:] = [
                row._replace(offset=offset & (1 << 64) - 1)
                for row, offset in zip(rows, itertools.accumulate(sizes, initial=0), strict=False)
            ]

    def _printed(self, draw: Draw, rows: list[Row], columns: list[str], form: str) -> tuple[bytes, bool]:
        """Return the map, and whether it says what the rows say, all of them of one process."""
        one = len({row.file for row in rows if row.file != FAILED}) == 1 and len(columns) == len(COLUMNS)
        if form in maps.BINARIES:
            cells = [{name: row.cell(name) for name in columns} for row in rows]
            data, usual = columnar(draw, [self._clean(cell) for cell in cells], columns, form)
            return data, usual and one
        rows = [row._replace(file=row.file.encode("utf-8", "replace").decode()) for row in rows]
        if form in maps.RENDERERS:
            return maps.RENDERERS[form](rows, columns), one
        if form == "rekall":
            return maps.rekall_index(rows), all(row.file != FAILED for row in rows)
        processes = [(draw.text("a"), _PID, rows)]
        if draw.chance(0.3):
            processes.append(("b", draw.choice((0, 8, 4, 1 << 32)), rows[: len(rows) // 2]))
        name = {"vol2": maps.volatility2, "greptext": maps.greptext, "vol2 json": maps.volatility2_json}[form]
        processes = [(text.encode("utf-8", "replace").decode(), pid, some) for text, pid, some in processes]
        return name(processes), False

    @staticmethod
    def _clean(cells: dict[str, Any]) -> dict[str, Any]:
        """Return cells with no text that Arrow cannot hold."""
        return {
            name: value.encode("utf-8", "replace").decode() if isinstance(value, str) else value
            for name, value in cells.items()
        }

    def run(self, case: Case, reached: Reached) -> None:
        """Open the map, and compare every byte with where its row says that it lies."""
        told = case.told
        rows = None if told["rows"] is None else [Row(*row) for row in told["rows"]]
        model = None if rows is None else lambda address, data: _as_printed(rows, address, data)
        how = {name: told[name] for name in ("sink", "labels", "trust")}
        checks.look(os.path.join(self.folder, "pid.4.map"), reached, model=model, **how)


def _as_printed(rows: list[Row], address: int, data: bytes) -> bool:
    """Return whether bytes lie where rows print it, or where those lie that were written one after the other."""
    written_rows = sorted((row.offset, number, row.size) for number, row in enumerate(rows) if row.file != FAILED)
    ends = itertools.accumulate((size for _, _, size in written_rows), initial=0)
    sums = {number: end for (_, number, _), end in zip(written_rows, ends, strict=False)}
    agree = [True, True]
    while data:
        at = next(
            (
                (number, shown - row.virtual)
                for shown in (address & (1 << bits) - 1 for bits in _PRINTED)
                for number, row in enumerate(rows)
                if row.file != FAILED and row.virtual <= shown < row.virtual + row.size
            ),
            None,
        )
        if at is None:
            return False
        number, inner = at
        count = min(rows[number].size - inner, len(data))
        for which, offset in enumerate((rows[number].offset + inner, sums[number] + inner)):
            agree[which] &= _DUMP[offset : offset + count] == data[:count]
        address, data = address + count, data[count:]
    return any(agree)


_PROCMAPS = (
    b"00010000-00012000 r-xp 00000000 08:01 1234       /usr/bin/x\n"
    b"00020000-00021000 rw-p 00000000 00:00 0          [heap]\n"
    b"00100000-00103000 rwxp 00001000 08:01 99         /srv/a b (deleted)\n"
    b"ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]\n"
)
#: where the dump of lists has memory
_PLACES = ((0x10000, 2 * PAGE), (0x20000, PAGE), (0x100000, 3 * PAGE))


class Lists:
    """Regions, modules and threads as plugins print them, beside a sound dump."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        image = bytes(pe_page()) + bytes(PAGE) + bytes(elf_page()) + content(0, 3 * PAGE)
        rows = written(_PLACES)
        Case({"pid.4.map": maps.quick(rows), "pid.4.dmp": image}, {}).write(folder)
        self.tables = {
            "regions": (
                ([listings.vad(0x10000, 0x11FFF, file="\\W\\x.dll", tag="Vad ", private=0,
                               protection="PAGE_EXECUTE_WRITECOPY"),
                  listings.vad(0x20000, 0x2FFFF), listings.vad(0x100000, 0x1FFFFF, protection="PAGE_EXECUTE_READ")],
                 listings.VADINFO),
                ([listings.vma(0x10000, 0x12000, "/bin/x", "r-x", 5), listings.vma(0x20000, 0x30000, "[stack]")],
                 listings.LINUX),
                ([{"PID": 4, "Process": "a", "Offset": 1 << 40, "Parent": 0, "Left": 0, "Right": 0, "Start": 0x10000,
                   "End": 0x1FFFF, "Tag": "VadS"}], listings.VADWALK),
                ([{"PID": 4, "Process": "a", "Start": 0x10000, "End": 0x20000, "Protection": "rwx", "Map Name": "/x",
                   "File output": "Disabled"}], listings.MAC),
            ),
            "modules": (
                ([listings.dll(0x10000, 0x2000, "x.dll", "C:\\W\\x.dll"), listings.dll(0x100000, None, None, None)],
                 listings.DLLLIST),
            ),
            "threads": (([listings.thread(5, 0x10010, 0x20000), listings.thread(None, None, None)], listings.THREADS),),
        }  # fmt: skip

    def make(self, draw: Draw) -> Case:
        """Draw a list, change its cells, then print it."""
        told = checks.drawn(draw) | {"kind": draw.choice(("regions", "regions", "modules", "threads"))}
        if told["kind"] == "regions" and draw.chance(0.2):
            return Case({"list": self._procmaps(draw)}, told)
        some, columns = draw.choice(self.tables[told["kind"]])
        rows = [dict(row) for row in some]
        rows += [dict(draw.choice(rows)) for _ in range(draw.randrange(3))]
        known = [value for row in rows for value in row.values() if isinstance(value, int)]
        for _ in range(draw.few(6)):
            row, name = draw.choice(rows), draw.choice(columns)
            if isinstance(row[name], int) and name != "PID":
                row[name] = draw.number(row[name], known)
            elif name != "PID" or draw.chance(0.2):
                row[name] = draw.choice((None, draw.number(), draw.text(str(row[name]))))
        form = draw.choice([*listings.RENDERERS])
        try:
            if form in listings.BINARIES:
                data = columnar(draw, rows, columns, form)[0]
            else:
                data = listings.RENDERERS[form](rows, columns)
        except UnicodeError:
            form, data = "quick", listings.quick(rows, columns)
        if draw.chance(0.12):
            data = draw.torn(data) if form in listings.BINARIES else draw.lines(data)
        return Case({"list": compressed(draw, data) if draw.chance(0.15) else data}, told)

    def _procmaps(self, draw: Draw) -> bytes:
        lines = _PROCMAPS.splitlines(keepends=True)
        for _ in range(draw.few()):
            at = draw.randrange(len(lines))
            words = lines[at].split(b" ")
            if draw.chance(0.5):
                ends = [draw.number(int(word, 16) if word else 0) for word in (words[0] + b"-").split(b"-")[:2]]
                words[0] = b"%x-%x" % (*ends,)
            else:
                wild = draw.choice((draw.text(), draw.choice(CELLS)))
                words[draw.randrange(1, len(words))] = wild.encode("utf-8", "surrogatepass")
            lines[at] = b" ".join(words)
        data = b"".join(lines)
        return draw.lines(data) if draw.chance(0.2) else data

    def run(self, case: Case, reached: Reached) -> None:
        """Open the dump with the list."""
        named: dict[str, Any] = {case.told["kind"]: [os.path.join(self.folder, "list")]}
        path = os.path.join(self.folder, "pid.4.dmp")
        checks.look(path, _Beyond(reached), sink=case.told["sink"], **named)
        reached(Depth.MEMORY)


class _Beyond(Reached):
    """Counts a list as used if it is: that the dump beside it can be read says nothing."""

    def __init__(self, outer: Reached) -> None:
        self.outer = outer

    def __call__(self, depth: Depth) -> None:
        self.outer(min(depth, Depth.PARSED))
