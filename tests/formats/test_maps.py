"""Memory maps of every kind parse to the rows they hold; what is none is refused, and so is what is doubtful."""

from __future__ import annotations

import codecs
import gzip
import hashlib
import json
import lzma
import os
import re
import sys
from itertools import combinations
from typing import TYPE_CHECKING, NamedTuple
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import maps
import memcarve
from files import SAMPLES, put
from maps import COLUMNS, FAILED, RENDERERS, TEXTS, Row, written
from memcarve.errors import InputError, MapError, MissingExtraError, NotRecognisedError
from memcarve.formats.memmap import MemoryMap, fast_rows
from memcarve.formats.memmap.text_map import TextMap
from memcarve.formats.tables import text_file
from sweeps import LONG

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

#: a row as it was read: address, size, position, cell of "File output"; and the line
Read = tuple[int, int, int | None, str | None]


def read(path: str) -> list[Read]:
    """Return the rows of a map as memcarve reads them."""
    with MemoryMap(path) as memory_map:
        return rows_of(memory_map)


def rows_of(memory_map: MemoryMap) -> list[Read]:
    """Return the rows of a map that is open."""
    found: list[Read] = []
    for block in memory_map.rows():
        count = len(block.virtual)
        printed = [None] * count if block.printed is None else block.printed.tolist()
        codes = [] if block.codes is None else block.codes.tolist()
        files = [memory_map.columns.texts[code].decode() for code in codes] or [None] * count
        found += zip(block.virtual.tolist(), block.size.tolist(), printed, files, strict=True)
    return found


def lines_of(path: str) -> list[int]:
    """Return the line numbers that memcarve gives the rows of a map."""
    with MemoryMap(path) as memory_map:
        return [line for block in memory_map.rows() for line in block.lines.tolist()]


def owners_of(path: str) -> list[tuple[int | None, str | None]]:
    """Return for each row the pid and the name that marks in the map say."""
    owner: tuple[int | None, str | None] = (None, None)
    found = []
    with MemoryMap(path) as memory_map:
        for block in memory_map.rows():
            marks = {mark.row: (mark.pid, mark.name) for mark in block.marks}
            for row in range(len(block.virtual) + 1):
                owner = marks.get(row, owner)
                found += [owner] if row < len(block.virtual) else []
    return found


def expected(rows: list[Row], columns: tuple[str, ...] = COLUMNS) -> list[Read]:
    """Return what should be read of rows of which some columns are shown."""
    return [
        (
            row.virtual,
            row.size,
            row.offset if "Offset in File" in columns else None,
            row.file if "File output" in columns else None,
        )
        for row in rows
    ]


# the samples: what each holds

#: the image of the releases' samples, pages of which are contiguous joined since 2.0
RUNS = [
    (0x10000, 0x2000),
    (0x12000, 0x1000),
    (0x20000, 0x1000),
    (0x30000, 0x1000),
    (0x40000000, 0x201000),
    (0x7FFE0000, 0x1000),
    (0xF80000000000, 0x1000),
    (0xFFFFFFFFF000, 0xFFF),
]
OFFSETS = [0, 0x2000, 0x3000, 0x4000, 0x5000, 0x206000, 0x207000, 0x208000]
PAGES = [
    (0x10000, 0x1000),
    (0x11000, 0x1000),
    (0x12000, 0x1000),
    (0x20000, 0x1000),
    (0x30000, 0x1000),
    (0x40000000, 0x200000),
    (0x40200000, 0x1000),
    (0x7FFE0000, 0x1000),
    (0xF80000000000, 0x1000),
    (0xFFFFFFFFF000, 0xFFF),
]
MODERN: list[Read] = [(*run, offset, "pid.4.dmp") for run, offset in zip(RUNS, OFFSETS, strict=True)]
FIRST: list[Read] = [(*page, None, "pid.4.dmp") for page in PAGES]
X64 = [
    (0x10000, 0x1000, 0, None),
    (0x11000, 0x1000, 0x1000, None),
    (0x12000, 0x1000, 0x2000, None),
    (0x40000000, 0x200000, 0x3000, None),
    (0x7FFE0000, 0x1000, 0x203000, None),
    (0xF80000000000, 0x1000, 0x204000, None),
]
X86 = [
    (0x10000, 0x1000, 0, None),
    (0x11000, 0x1000, 0x1000, None),
    (0x400000, 0x400000, 0x2000, None),
    (0x7FFE0000, 0x1000, 0x402000, None),
    (0xFFDF0000, 0x1000, 0x403000, None),
]


def disabled(rows: list[Read]) -> list[Read]:
    """Return the rows as they are without --dump."""
    return [(*row[:3], "Disabled") for row in rows]


def naive(name: str) -> list[Read]:
    """Read the rows of a larger sample in the dumbest way: every number of a line, whatever stands around."""
    data = sample(name)
    text = data.decode("utf-16") if data.startswith(codecs.BOM_UTF16_LE) else data.decode()
    found: list[Read] = []
    records = json.loads(text) if text.startswith("\n[") else []
    for line in text.splitlines():
        numbers = [int(word, 16) for word in re.findall(r"\b0x[0-9a-f]+", line)]
        if line.startswith('{"'):  # JSON lines
            records.append(json.loads(line))
        elif len(numbers) == 4:
            found.append((numbers[0], numbers[2], numbers[3], re.findall(r"Disabled|pid\.\d+\.dmp", line)[0]))
    found += [(item["Virtual"], item["Size"], item["Offset in File"], item["File output"]) for item in records]
    assert len(found) in (38, 59)
    return found


def sample(name: str) -> bytes:
    """Return the bytes of a sample."""
    with open(os.path.join(SAMPLES, name), "rb") as file:
        return file.read()


class Holds(NamedTuple):
    """What a sample holds: its rows, its kind in words, and whose the rows are where marks say it."""

    rows: list[Read]
    kind: str
    owners: list[tuple[int | None, str | None]] | None = None


def _samples() -> dict[str, Holds]:
    found = {}
    for release, rows in (("1.0.0", FIRST), ("2.0.1", MODERN), ("2.4.1", MODERN), ("2.28.2", MODERN)):
        for renderer in ("quick", "pretty", "csv", "json", "jsonl"):
            version = "" if renderer in ("csv", "json", "jsonl") else f" {release}"
            found[f"{release}/{renderer}.stdout"] = Holds(rows, f"volatility3 {renderer}{version}")
        kind = f"volatility3 quick {release}"
        found[f"{release}/quick-merged-2and1.txt"] = Holds(rows, kind)
        found[f"{release}/quick-nodump-allpids.stdout"] = Holds(disabled(rows + rows), kind)
    for renderer in ("arrow", "parquet"):
        found[f"2.28.2/{renderer}.stdout"] = Holds(MODERN, f"volatility3 {renderer}")
    quick = "volatility3 quick 2.28.2"
    found["drift/trunc4k.lime.2.28.2.stdout"] = Holds(
        [
            (0x10000, 0x1000, 0, "pid.4.dmp"),
            (0x20000, 0x2000, 0x1000, FAILED),
            (0x30000, 0x1000, 0x3000, "pid.4.dmp"),
            (0x40000, 0x1000, 0x4000, "pid.4.dmp"),
        ],
        quick,
    )
    for renderer in ("quick", "pretty", "csv", "json", "jsonl"):
        name = f"e2e/memmap.{renderer}.stdout"
        version = " 2.28.2" if renderer in ("quick", "pretty") else ""
        found[name] = Holds(naive(name), f"volatility3 {renderer}{version}")
    for name in ("e2e/memmap.merged.txt", "e2e/memmap.allpids.stdout", "windows_redirect/cmd_redirect.crlf.txt"):
        found[name] = Holds(naive(name), quick)
    name = "windows_redirect/terminal_copy_tabs_expanded.txt"
    found[name] = Holds(naive(name), "volatility3 quick with its tabs expanded 2.28.2")
    name = "windows_redirect/powershell51_gt.utf16le-bom-crlf.txt"
    found[name] = Holds(naive(name), f"{quick}, utf-16-le")
    found["variants/filter-virtual-0x1.quick.txt"] = Holds(MODERN[:2], quick)
    found["variants/hide-o.pretty.txt"] = Holds(
        [(start, size, None, "pid.4.dmp") for start, size in RUNS], "volatility3 pretty 2.28.2"
    )
    found["variants/hide-physical-file.quick.txt"] = Holds([(*row[:3], None) for row in MODERN], quick)
    both = [(4, "System"), (1234, "explorer.exe")]
    for name, kind, rows in (
        ("memmap.x64.text", "text", X64),
        ("memmap.x64.json", "json", X64),
        ("memmap.x64.greptext", "greptext", X64),
        ("memmap.x86.text", "text", X86),
        ("memmap.x86-elided.text", "text", X86),  # only Physical is elided there
    ):
        owners = [owner for owner in both for _ in rows]
        found[f"vol2/{name}"] = Holds(rows + rows, f"volatility2 {kind}", owners)  # type: ignore[operator]
    found["rekall/memdump.idx"] = Holds(
        [
            (0x10000, 0x1000, 0, None),
            (0x11000, 0x1000, 0x1000, None),
            (0x40000000, 0x100000, 0x2000, None),
            (0x40100000, 0x100000, 0x102000, None),
        ],
        "rekall memdump index",
    )
    found["rekall/memmap.txt"] = Holds(
        [
            (0x10000, 0x1000, None, None),
            (0x11000, 0x1000, None, None),
            (0x40000000, 0x200000, None, None),
            (0x7FFE0000, 0x1000, None, None),
        ],
        "rekall memmap",
        [(1234, "explorer.exe")] * 4,
    )
    return found


HOLDS = _samples()
ALL = sorted(
    os.path.relpath(os.path.join(folder, file), SAMPLES).replace(os.sep, "/")
    for folder, _, files in os.walk(SAMPLES)
    for file in files
)
REFUSED = [name for name in ALL if name not in HOLDS]


def test_every_sample_is_a_map_or_known_to_be_none() -> None:
    """No sample of a memory map is left out, and what is refused are other tables, stderr and notes."""
    assert set(HOLDS) <= set(ALL)
    others = re.compile(r"(vad|linux_mac)/|e2e/(malfind|vad)|.*\.stderr$|.*/none\.stdout$|vol2/memdump|.*\.dumpsize$")
    assert [name for name in REFUSED if not others.match(name)] == []


@pytest.mark.parametrize("name", HOLDS)
def test_a_sample_parses_to_the_rows_it_holds(name: str) -> None:
    """A sample's kind is recognised by its content, and its rows are read as they stand there."""
    holds = HOLDS[name]
    path = os.path.join(SAMPLES, name)
    assert read(path) == holds.rows
    with MemoryMap(path) as memory_map:
        assert memory_map.description == holds.kind
        assert rows_of(memory_map)
        assert memory_map.notes == []
    if holds.owners:
        assert owners_of(path) == holds.owners


@pytest.mark.parametrize("name", [name for name in HOLDS if not re.search(r"json|arrow|parquet", name)])
def test_rows_of_samples_have_their_line_numbers(name: str) -> None:
    """The line numbers of a text map's rows are those that an editor shows."""
    data = sample(name)
    text = data.decode("utf-16") if data.startswith(codecs.BOM_UTF16_LE) else data.decode()
    lines = [number for number, line in enumerate(text.split("\n"), 1) if len(re.findall(r"\b0x[0-9a-f]", line)) > 1]
    assert lines_of(os.path.join(SAMPLES, name)) == lines


@pytest.mark.parametrize("name", REFUSED)
def test_a_sample_of_something_else_is_refused(name: str) -> None:
    """A table of another plugin, a map that was not printed, an empty file and stderr are no memory map."""
    path = os.path.join(SAMPLES, name)
    with pytest.raises(NotRecognisedError) as caught:
        MemoryMap(path)
    assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("2.28.2/none.stdout", "-r none"),
        ("2.28.2/quick.stderr", "is empty"),
        ("vol2/memdump.x64.text", "memdump"),
        ("vad/vadinfo.quick", "PID, Process"),
        ("vad/dlllist.csv", "PID, Process"),
        ("vad/malfind.pretty", "PID, Process"),
    ],
)
def test_a_refusal_says_what_the_file_is(name: str, word: str) -> None:
    """The message for a file that is no map says what it is instead."""
    with pytest.raises(NotRecognisedError, match=re.escape(word)):
        MemoryMap(os.path.join(SAMPLES, name))


def test_the_kind_is_recognised_by_content_not_by_ending(tmp_path: Path) -> None:
    """A map with the ending of another kind is read as what it is."""
    for name, ending in (("csv", "json"), ("json", "parquet"), ("jsonl", "csv"), ("parquet", "txt"), ("quick", "gz")):
        path = put(tmp_path / f"{name}.{ending}", sample(f"2.28.2/{name}.stdout"))
        assert read(path) == MODERN


# renderers, encodings, compression

RANGES = [(0x1000, 0x1000), (0x5000, 0x3000), (0x8000, 0x1000), (0x7FFFFFFDE000, 0x2000), (0xFFFFFFFFF000, 0xFFF)]
ROWS = [*written(RANGES[:2], failed=[1]), *written(RANGES[2:], "pid.4711.dmp")]


@pytest.mark.parametrize("renderer", RENDERERS)
def test_every_renderer_gives_the_same_rows(renderer: str, tmp_path: Path) -> None:
    """The same rows are read from whatever renderer wrote them, error rows and several files among them."""
    assert read(put(tmp_path / "map", RENDERERS[renderer](ROWS))) == expected(ROWS)


@pytest.mark.parametrize("renderer", RENDERERS)
@pytest.mark.parametrize(
    "columns",
    [c for n in range(1, 6) for c in combinations(COLUMNS, n)],
    ids="+".join,
)
def test_columns_may_be_hidden(renderer: str, columns: tuple[str, ...], tmp_path: Path) -> None:
    """Columns are found by their names; a map without Virtual or Size is refused."""
    path = put(tmp_path / "map", RENDERERS[renderer](ROWS, columns))
    if {"Virtual", "Size"} <= set(columns):
        assert read(path) == expected(ROWS, columns)
    else:
        with pytest.raises(NotRecognisedError):
            MemoryMap(path)


@pytest.mark.parametrize("hidden", ["Virtual", "Size"])
@pytest.mark.parametrize("renderer", [name for name in RENDERERS if name != "expanded"])
def test_a_hidden_column_that_is_needed_is_named(renderer: str, hidden: str, tmp_path: Path) -> None:
    """The message for a map without Virtual or Size names the column that is lacking."""
    columns = [name for name in COLUMNS if name != hidden]
    with pytest.raises(NotRecognisedError, match=f"has no column {hidden}"):
        MemoryMap(put(tmp_path / "map", RENDERERS[renderer](ROWS, columns)))


ENCODINGS: dict[str, Callable[[str], bytes]] = {
    "utf-8": str.encode,
    "utf-8 with mark": lambda text: codecs.BOM_UTF8 + text.encode(),
    "utf-16-le": lambda text: text.encode("utf-16-le"),
    "utf-16-le with mark": lambda text: codecs.BOM_UTF16_LE + text.encode("utf-16-le"),
    "utf-16-be": lambda text: text.encode("utf-16-be"),
    "utf-16-be with mark": lambda text: codecs.BOM_UTF16_BE + text.encode("utf-16-be"),
}
COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    "plain": bytes,
    "gzip": gzip.compress,
    "xz": lzma.compress,
    "zstd": zstd.compress,
}


@pytest.mark.parametrize("newline", ["\n", "\r\n"], ids=["LF", "CRLF"])
@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("renderer", [*TEXTS, *maps.JSONS])
def test_every_encoding_gives_the_same_rows(renderer: str, encoding: str, newline: str, tmp_path: Path) -> None:
    """UTF-8 and UTF-16, with and without a mark, LF and CRLF: a redirection does not change what is read."""
    text = RENDERERS[renderer](ROWS).decode().replace("\n", newline)
    assert read(put(tmp_path / "map", ENCODINGS[encoding](text))) == expected(ROWS)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16-le with mark"])
@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("renderer", [*TEXTS, *maps.JSONS])
def test_a_map_may_be_compressed(renderer: str, compression: str, encoding: str, tmp_path: Path) -> None:
    """A map compressed with gzip, xz or zstd is read as it is, whatever it is called."""
    data = ENCODINGS[encoding](RENDERERS[renderer](ROWS).decode())
    path = put(tmp_path / "map", COMPRESSIONS[compression](data))
    assert read(path) == expected(ROWS)
    with MemoryMap(path) as memory_map:
        assert (compression in memory_map.description) == (compression != "plain")


@pytest.mark.parametrize("compression", ["gzip", "xz", "zstd"])
def test_compressed_data_may_come_in_several_parts(compression: str, tmp_path: Path) -> None:
    """What several compressors wrote one after the other is one map."""
    data = maps.quick(ROWS)
    compress = COMPRESSIONS[compression]
    assert read(put(tmp_path / "map", b"".join(map(compress, (data[:70], b"", data[70:100], data[100:]))))) == expected(
        ROWS
    )


@pytest.mark.parametrize("compression", ["gzip", "xz", "zstd"])
def test_compressed_data_that_ends_early_is_refused(compression: str, tmp_path: Path) -> None:
    """A compressed map that was cut off anywhere is an error, never a shorter map."""
    data = COMPRESSIONS[compression](maps.quick(written([(n << 13, 0x1000) for n in range(1, 400)])))
    for length in [*range(6, 40), *range(40, len(data), 97), len(data) - 1]:
        with pytest.raises((MapError, NotRecognisedError)):
            read(put(tmp_path / "map", data[:length]))


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("renderer", maps.BINARIES)
def test_a_compressed_table_of_arrow_is_read(renderer: str, compression: str, tmp_path: Path) -> None:
    """Parquet and Arrow files are read from within a compressed file, too, and hashed as it lies there."""
    path = put(tmp_path / "map", COMPRESSIONS[compression](RENDERERS[renderer](ROWS)))
    assert read(path) == expected(ROWS)
    with MemoryMap(path, hashed=True) as memory_map:
        list(memory_map.rows())
        assert memory_map.sha256 == hashlib.sha256((tmp_path / "map").read_bytes()).hexdigest()


def test_an_arrow_file_is_read_like_a_stream(tmp_path: Path) -> None:
    """Arrow's file format is read, not only the stream that Volatility writes."""
    pa = pytest.importorskip("pyarrow")
    table = pa.ipc.open_stream(maps.arrow(ROWS)).read_all()
    path = tmp_path / "map"
    with pa.ipc.new_file(str(path), table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    assert read(str(path)) == expected(ROWS)


@pytest.mark.parametrize("renderer", maps.BINARIES)
def test_without_pyarrow_the_message_says_how_to_install_it(renderer: str, tmp_path: Path) -> None:
    """Where pyarrow is not installed, a file that needs it is an error with the command that installs it."""
    path = put(tmp_path / "map", RENDERERS[renderer](ROWS))
    with mock.patch.dict(sys.modules, {"pyarrow": None}), pytest.raises(MissingExtraError, match=r"memcarve\[arrow\]"):
        MemoryMap(path)


def test_the_hash_of_a_map_is_that_of_the_file(tmp_path: Path) -> None:
    """The SHA-256 of a map is that of the file on disk, compressed or not, whatever follows the data."""
    import hashlib  # noqa: PLC0415

    for compression, compress in COMPRESSIONS.items():
        for renderer in RENDERERS if compression == "plain" else ("quick", "json", "jsonl"):
            data = compress(RENDERERS[renderer](ROWS))
            with MemoryMap(put(tmp_path / "map", data), hashed=True) as memory_map:
                assert rows_of(memory_map) == expected(ROWS)
                assert memory_map.sha256 == hashlib.sha256(data).hexdigest()
                assert memory_map.size == len(data)


# what stands around the rows

PROGRESS = "\rProgress:  100.00\t\tPDB scanning finished                        \r\r"
TRACEBACK = (
    "Traceback (most recent call last):\n"
    '  File "/usr/bin/vol", line 8, in <module>\n'
    "    sys.exit(main())\n"
    "             ^^^^^^\n"
    "volatility3.framework.exceptions.PagedInvalidAddressException: Page Fault at entry 0x0 in page directory\n"
)


@pytest.mark.parametrize("renderer", ["quick", "expanded", "pretty", "jsonl"])
@pytest.mark.parametrize(
    "behind",
    [
        TRACEBACK,
        f"WARNING  volatility3.framework.layers: failed\n{TRACEBACK}",
        f"\n{TRACEBACK}\nDuring handling of the above exception, another exception occurred:\n\n{TRACEBACK}",
        "Volatility was unable to read a requested page:\nPage error 0x10 in layer primary\n\n\t* Memory smear\n",
        "Unable to validate the plugin requirements\n",
        PROGRESS,
        "Formatting...\r\n",
        "\n\n",
    ],
    ids=["traceback", "warning", "two", "unable", "unable2", "progress", "formatting", "empty"],
)
def test_messages_behind_the_rows_are_passed_over(renderer: str, behind: str, tmp_path: Path) -> None:
    """Warnings and tracebacks that follow the rows in a mixed output do not change the rows."""
    data = RENDERERS[renderer](ROWS) + behind.encode()
    assert read(put(tmp_path / "map", data)) == expected(ROWS)


@pytest.mark.parametrize("renderer", ["quick", "expanded", "pretty", "csv", "jsonl", "json"])
def test_messages_before_the_header_are_passed_over(renderer: str, tmp_path: Path) -> None:
    """Progress and warnings between the banner and the header do not change the rows."""
    first, _, rest = RENDERERS[renderer](ROWS).decode().partition("\n")
    many = PROGRESS * 50 + "WARNING  volatility3.framework.plugins: something [odd] {here}\n" + PROGRESS
    text = f"{first}\n{many}{rest}" if renderer not in ("csv", "json", "jsonl") else f"{many}{first}\n{rest}"
    assert read(put(tmp_path / "map", text.encode())) == expected(ROWS)


@pytest.mark.parametrize("renderer", ["quick", "expanded", "pretty", "csv", "jsonl"])
def test_a_warning_between_rows_is_passed_over(renderer: str, tmp_path: Path) -> None:
    """A warning or a progress message between two rows does not change the rows."""
    lines = RENDERERS[renderer](ROWS).decode().split("\n")
    place = next(n for n, line in enumerate(lines) if "0x5000" in line or "20480" in line)
    lines[place:place] = ["WARNING  volatility3.framework.layers.intel: unable to map 0x5000\t0x10", PROGRESS]
    lines[place + 2] = PROGRESS + lines[place + 2]
    assert read(put(tmp_path / "map", "\n".join(lines).encode())) == expected(ROWS)


@pytest.mark.parametrize("renderer", ["quick", "expanded", "pretty", "csv"])
@pytest.mark.parametrize("file", ["pid.4.dmp", "Disabled", FAILED])
@pytest.mark.parametrize("behind", [TRACEBACK, "WARNING  volatility3.plugins: odd\n", "Volatility was unable\n"])
def test_a_message_glued_behind_the_last_row(renderer: str, file: str, behind: str, tmp_path: Path) -> None:
    """A message printed right behind the last row's file name, without a newline between, is no part of the name."""
    rows = written(RANGES[:3], file)
    data = RENDERERS[renderer](rows).rstrip(b"\n") + behind.encode()
    assert read(put(tmp_path / "map", data)) == expected(rows)


def test_a_row_behind_the_rest_of_a_message_is_refused(tmp_path: Path) -> None:
    """Where rows follow lines that nothing explains, the first of those lines is named and nothing is read."""
    lines = maps.quick(ROWS).decode().split("\n")
    lines[6:6] = ["Traceback (most recent call last):", "  something odd"]
    with pytest.raises(MapError, match=r"line 8: 'something odd'"):
        read(put(tmp_path / "map", "\n".join(lines).encode()))


@pytest.mark.parametrize("renderer", ["quick", "expanded", "pretty", "csv"])
@pytest.mark.parametrize("place", [-2, -1])
def test_a_warning_excuses_no_later_row(renderer: str, place: int, tmp_path: Path) -> None:
    """After a warning between rows a row that is damaged is refused like any other, the last one too."""
    lines = RENDERERS[renderer](ROWS).decode().rstrip("\n").split("\n")
    size = hex(ROWS[place].size)
    lines[place] = re.sub(rf"{size}\b", "0x" + "z" * (len(size) - 2), lines[place])
    lines[-3:-3] = ["WARNING  volatility3.framework.layers: odd"]
    with pytest.raises(MapError, match="line"):
        read(put(tmp_path / "map", "\n".join([*lines, ""]).encode()))


@pytest.mark.parametrize("renderer", ["quick", "expanded", "pretty", "csv", "quoted csv", "jsonl"])
def test_the_final_newline_may_be_missing(renderer: str, tmp_path: Path) -> None:
    """A last row without a newline is read where its file name shows that it is whole."""
    path = put(tmp_path / "map", RENDERERS[renderer](ROWS).rstrip(b"\n"))
    assert read(path) == expected(ROWS)
    with MemoryMap(path) as memory_map:
        rows_of(memory_map)
        assert not memory_map.table.cut_off


@pytest.mark.parametrize("renderer", ["quick", "expanded", "pretty", "csv", "quoted csv", "json", "jsonl"])
@pytest.mark.parametrize(
    "columns",
    [COLUMNS, ("Virtual", "Size"), ("Virtual", "Size", "Offset in File"), ("Size", "Virtual", "Physical")],
    ids=["all", "two", "offset", "physical"],
)
def test_a_map_cut_off_anywhere_gives_only_whole_rows(renderer: str, columns: tuple[str, ...], tmp_path: Path) -> None:
    """Wherever a map is cut off, the rows read are the first ones as they were; a row that was cut is said so."""
    rows = written([(0x1000, 0x1000), (0x20000, 0x23000), (0x50000, 0x45000)])
    data, whole = RENDERERS[renderer](rows, columns), expected(rows, columns)
    begins = data.index(b"0x1000" if b"0x1000" in data else b"4096")
    for length in range(begins + 12, len(data)):
        path = put(tmp_path / "map", data[:length])
        try:
            with MemoryMap(path) as memory_map:
                found = rows_of(memory_map)
                said = memory_map.table.cut_off
        except NotRecognisedError:
            assert renderer in ("json", "jsonl")  # not even the first record is whole
            continue
        assert found == whole[: len(found)]
        complete = data[:length].count(b"}") if "json" in renderer else data[begins:length].count(b"\n")
        assert len(found) - complete in (0, 1)
        finished = data[length - 1 : length] == b"\n" or data[length : length + 1] == b"\n"
        if renderer != "json" and not finished and len(found) == complete:
            assert said
            assert memory_map.notes
        assert said <= (found != whole or renderer == "json")  # an array lacks its bracket to the very end


@pytest.mark.parametrize("renderer", TEXTS)
def test_a_header_without_rows_has_no_rows(renderer: str, tmp_path: Path) -> None:
    """A map with a header and no rows is recognised, has no rows, and cannot be opened as memory."""
    path = put(tmp_path / "map", RENDERERS[renderer]([]))
    assert read(path) == []
    with pytest.raises(MapError, match="a header and no rows"):
        memcarve.open(path)


@pytest.mark.parametrize("renderer", ["json", *maps.BINARIES])
def test_an_empty_table_of_records_has_no_rows(renderer: str, tmp_path: Path) -> None:
    """An array without elements, and a Parquet or Arrow table without rows, are maps without rows."""
    path = put(tmp_path / "map", RENDERERS[renderer]([]))
    assert read(path) == []
    with pytest.raises(MapError, match="no rows"):
        memcarve.open(path)


@pytest.mark.parametrize("renderer", TEXTS)
def test_two_maps_appended_are_read_as_both(renderer: str, tmp_path: Path) -> None:
    """A header in the middle, of a second map appended to the first, begins another process."""
    other = written([(0x9000, 0x1000), (0xA000, 0x2000)], "pid.8.dmp")
    path = put(tmp_path / "map", RENDERERS[renderer](ROWS) + RENDERERS[renderer](other))
    assert read(path) == expected([*ROWS, *other])
    with MemoryMap(path) as memory_map:
        marks, before = [], 0
        for block in memory_map.rows():
            marks += [before + mark.row for mark in block.marks]
            before += len(block.virtual)
    assert marks == [len(ROWS)]


@pytest.mark.parametrize("renderer", TEXTS)
def test_blank_lines_and_upper_case_are_harmless(renderer: str, tmp_path: Path) -> None:
    """Blank lines between rows, and hexadecimal digits and prefixes in upper case, change nothing."""
    text = RENDERERS[renderer](ROWS).decode()
    shouted = re.sub(r"0x[0-9a-f]+", lambda found: found[0].upper(), text).replace("\n", "\n\n")
    assert read(put(tmp_path / "map", shouted.encode())) == expected(ROWS)


def test_tabs_expanded_to_other_widths(tmp_path: Path) -> None:
    """How far tabs were expanded does not matter."""
    for width in (1, 2, 4, 8, 16):
        data = maps.quick(ROWS).decode().expandtabs(width).encode()
        assert read(put(tmp_path / "map", data)) == expected(ROWS)


# what is refused


@pytest.mark.parametrize("renderer", ["quick", "expanded", "pretty", "csv"])
@pytest.mark.parametrize(
    "line", ["...", "<SNIP>", "[...]", "[snip]", "\u2026", "--- snip ---", "(truncated)", "....", "*** cut ***", "etc."]
)
def test_an_excerpt_is_refused(renderer: str, line: str, tmp_path: Path) -> None:
    """A line that says that rows were left out is named, wherever it stands, and nothing is guessed."""
    lines = RENDERERS[renderer](ROWS).decode().split("\n")
    begin = next(n for n, found in enumerate(lines) if "0x1000" in found)
    for place in range(begin, begin + len(ROWS) + 1):
        changed = [*lines[:place], line, *lines[place:]]
        with pytest.raises(MapError, match=f"line {place + 1}: .*left out"):
            read(put(tmp_path / "map", "\n".join(changed).encode()))


@pytest.mark.parametrize("shape", ["{start}...{end}", "{start}\u2026{end}"])
@pytest.mark.parametrize("place", range(4))
def test_elided_cells_of_volatility_2(place: int, shape: str, tmp_path: Path) -> None:
    """A row whose Virtual, Size or DumpFileOffset was shortened is refused by its line; Physical does no harm."""
    rows = written([(0x10000, 0x1000), (0x7FFE0000, 0x12345000), (0x91110000, 0x1000)])
    lines = maps.volatility2([("System", 4, rows)], 8).decode().split("\n")
    cells = lines[4].split()
    cells[place] = shape.format(start=cells[place][:4], end=cells[place][-3:])
    lines[4] = " ".join(cells)
    path = put(tmp_path / "map", "\n".join(lines).encode())
    if place == 1:
        assert read(path) == [(row.virtual, row.size, row.offset, None) for row in rows]
    else:
        with pytest.raises(MapError, match=r"line 5: .*shortened"):
            read(path)


@pytest.mark.parametrize("renderer", ["quick", "expanded", "pretty", "csv"])
@pytest.mark.parametrize(
    "cell", ["0x", "0xg", "x1000", "0x10000000000000000", "-0x1", "0x1_0", "0x1000h", "0x 1000", "\u0660x1"]
)
def test_a_cell_that_is_no_number_is_refused(renderer: str, cell: str, tmp_path: Path) -> None:
    """A cell that is no hexadecimal number of up to 64 bits is refused by its line."""
    lines = RENDERERS[renderer](ROWS).decode().split("\n")
    place = next(n for n, line in enumerate(lines) if "0x3000" in line and "0x5000" in line)
    lines[place] = lines[place].replace("0x3000", cell)
    with pytest.raises(MapError, match=f"line {place + 1}: "):
        read(put(tmp_path / "map", "\n".join(lines).encode()))


@pytest.mark.parametrize("renderer", RENDERERS)
@pytest.mark.parametrize(
    ("row", "why"),
    [
        (Row(1 << 57, 0x1000, 0x1000), "not a range of virtual addresses"),
        (Row((1 << 64) - (1 << 56) - 0x1000, 0x1000, 0x1000), "not a range of virtual addresses"),
        (Row((1 << 64) - 0x1000, 0x2000, 0x1000), "not a range of virtual addresses"),
        (Row((1 << 57) - 0x1000, 0x2000, 0x1000), "not a range of virtual addresses"),
        (Row(0x5000, 1 << 58, 0x1000), "not a range of virtual addresses"),
        (Row(0x5000, 1 << 63, 0x1000), ""),
        (Row(0x5000, (1 << 64) - 1, 0x1000), ""),
        (Row(0x5000, 0x1000, 1 << 63), "beyond the end of any file"),
    ],
    ids=["beyond", "between", "wraps", "leaves", "huge", "2**63", "2**64", "offset"],
)
def test_a_row_that_cannot_be_is_refused(renderer: str, row: Row, why: str, tmp_path: Path) -> None:
    """A row that claims no addresses or bytes beyond any file is named by its line and refused."""
    rows = [Row(0x1000, 0x1000, 0), row]
    path = put(tmp_path / "map", RENDERERS[renderer](rows))
    with pytest.raises(MapError, match=f"(line|row) \\d+: .*{why}") as caught, memcarve.open(path) as container:
        container.process()
    assert str(caught.value).startswith(str(tmp_path / "map"))


@pytest.mark.parametrize("renderer", RENDERERS)
@pytest.mark.parametrize("place", [0, 1, 3])
def test_a_row_without_a_byte_is_passed_over(renderer: str, place: int, tmp_path: Path) -> None:
    """A row of size 0 is told, and all others are taken as if it were not there."""
    rows = [Row(0x1000, 0x1000, 0), Row(0x3000, 0x2000, 0x1000), Row(0x9000, 0x1000, 0x3000)]
    expected = put(tmp_path / "map", RENDERERS[renderer](rows))
    with memcarve.open(expected) as container:
        segments = [(part.start, part.size) for part in container.process().segments()]
    given = [*rows[:place], Row(0x7000, 0, rows[place].offset if place < 3 else 0x4000), *rows[place:]]
    path = put(tmp_path / "other.map", RENDERERS[renderer](given))
    with memcarve.open(path) as container:
        assert [(part.start, part.size) for part in container.process().segments()] == segments
        assert len(segments) == 3
        (note,) = container.warnings
        assert re.fullmatch(rf"1 row of size 0 passed over; the first is {re.escape(str(path))}: (line|row) \d+", note)


def test_rows_without_a_byte_between_processes(tmp_path: Path) -> None:
    """Rows of size 0 where one process ends and another begins go to neither."""
    rows = [*written([(0x1000, 0x1000), (0x2000, 0)]), *written([(0x4000, 0), (0x5000, 0x1000)], "pid.5.dmp")]
    with memcarve.open(put(tmp_path / "map", maps.quick(rows))) as container:
        found = [[(part.start, part.size) for part in process.segments()] for process in container]
        assert found == [[(0x1000, 0x1000)], [(0x5000, 0x1000)]]


@pytest.mark.parametrize("renderer", RENDERERS)
def test_rows_without_a_byte_alone(renderer: str, tmp_path: Path) -> None:
    """A map in which every row is of size 0 is refused, and the message says so."""
    path = put(tmp_path / "map", RENDERERS[renderer]([Row(0x1000, 0, 0), Row(0x2000, 0, 0)]))
    with pytest.raises(MapError, match="has 2 rows and all of them are of size 0"), memcarve.open(path) as container:
        container.process()


def test_what_is_not_yet_known_is_not_guessed(tmp_path: Path) -> None:
    """A table with Virtual and Size but with a column that no release prints is refused, with its name."""
    data = maps.quick(ROWS).replace(b"Physical", b"Protection")
    with pytest.raises(NotRecognisedError, match="Protection"):
        MemoryMap(put(tmp_path / "map", data))


@pytest.mark.parametrize("name", ["../../etc/passwd.dmp", "/etc/x.dmp", "pid.4.exe", "\x1b[31mpid.4.dmp", "", "dmp"])
def test_file_output_that_is_no_plain_dump_name_is_refused(name: str, tmp_path: Path) -> None:
    """A cell of File output that is none of what Volatility prints is refused; no escape gets into the message."""
    for renderer in ("quick", "pretty", "csv", "json", "jsonl", "arrow", "parquet"):
        rows = written(RANGES[:2], name)
        with pytest.raises(MapError) as caught:
            read(put(tmp_path / "map", RENDERERS[renderer](rows)))
        assert "\x1b" not in str(caught.value)


# the fast way and the careful way


def careful(path: str) -> list[Read]:
    """Return the rows as the careful reader reads them, line by line."""
    with mock.patch.object(fast_rows, "_regular_rows", return_value=None):
        return read_unchecked(path)


def read_unchecked(path: str) -> list[Read]:
    """Return the rows without the check whether they can be."""
    with mock.patch.object(MemoryMap, "_checked", lambda _, rows: rows):
        return read(path)


@pytest.mark.parametrize("others", [[], [b"0x0", b"0x123456789abcdef0"]], ids=["of one length", "of several lengths"])
def test_no_wrong_byte_in_a_number_gets_through(others: list[bytes]) -> None:
    """Whatever byte stands at whatever place of a cell, the fast way reads it exactly if it is a number as printed."""
    number = re.compile(rb"0x[0-9a-f]{1,16}")
    pad = b"\xff" * 32
    for digits in (b"0", b"f19a03e8", b"9a0f1e2d37", b"7ffa15208000abcd"):
        for place in range(2 + len(digits)):
            for byte in range(256):
                cell = bytearray(b"0x" + digits)
                cell[place] = byte
                cells = [bytes(cell), *others]
                lengths = np.array([len(each) for each in cells])
                found = fast_rows._numbers(pad + b"".join(cells), 32 + np.cumsum(lengths), lengths)
                expected = [int(each, 16) for each in cells] if number.fullmatch(cell) else None
                assert (None if found is None else found.tolist()) == expected, cells


@st.composite
def any_rows(draw: st.DrawFn) -> list[Row]:
    """Return rows of numbers of 1 to 16 digits and several file texts."""
    digits = st.integers(0, 16).flatmap(lambda n: st.integers(0, (1 << 4 * n) - 1))
    files = st.sampled_from(["pid.4.dmp", "pid.12345.dmp", FAILED, "Disabled", "pid.4-1.dmp", "a.dmp"])
    row = st.builds(Row, digits, digits, digits, files, digits)
    return draw(st.lists(row, min_size=1, max_size=12))


@pytest.mark.parametrize("renderer", TEXTS)
@given(rows=any_rows(), columns=st.sampled_from([COLUMNS, COLUMNS[:4], COLUMNS[::2], ("Virtual", "Size")]))
@settings(max_examples=60)
def test_the_fast_way_and_the_careful_way_agree(
    renderer: str, rows: list[Row], columns: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Rows of numbers of every length and several files are read alike both ways, and as they were written."""
    path = put(tmp_path_factory.getbasetemp() / "agree", RENDERERS[renderer](rows, columns))
    assert read_unchecked(path) == expected(rows, columns)
    assert careful(path) == expected(rows, columns)


@pytest.mark.parametrize("renderer", ["quick", "pretty", "csv"])
def test_regular_blocks_take_the_fast_way(renderer: str, tmp_path: Path) -> None:
    """A map as it was printed never needs the careful reader, where no cell holds the padding error rows neither."""
    failed = [] if renderer == "pretty" else range(7, 3000, 50)
    rows = written([(n << 14, 0x1000 * (n % 3 + 1)) for n in range(1, 3000)], failed=failed)
    path = put(tmp_path / "map", RENDERERS[renderer](rows))
    with mock.patch.object(TextMap, "_careful", side_effect=AssertionError):
        assert read(path) == expected(rows)


BASIS = written(
    [(0x1000, 0x1000), (0x7FFE0000, 0x12000), (0xF80000000000, 0x1000), (0xFFFFFFFFF000, 0xFFF)], failed=[1]
)


@pytest.mark.parametrize("renderer", ["quick", "pretty", "csv", "quoted csv"])
@given(st.data())
@settings(max_examples=400 if LONG else 130)
def test_one_wrong_byte_never_gives_other_rows(
    renderer: str, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Whatever one byte becomes: the fast way reads what the careful way reads; it may pass over cells not needed."""
    text = RENDERERS[renderer](BASIS)
    begin = text.index(b"File output") + len(b'File output"\n\n')
    place = data.draw(st.integers(begin, len(text) - 1))
    byte = data.draw(
        st.sampled_from([b"\t", b"\n", b"\r", b"\0", b" ", b'"', b",", b"|", b"x", b"0", b"F"]) | st.binary()
    )
    length = data.draw(st.integers(0, 1))
    changed = text[:place] + byte + text[place + length :]
    path = put(tmp_path_factory.getbasetemp() / "changed", changed)

    def outcome(reader: Callable[[str], list[Read]]) -> list[Read] | str:
        try:
            return reader(path)
        except InputError:
            return "refused"

    fast = outcome(read_unchecked)
    assert fast == outcome(careful) or fast == expected(BASIS)


# maps of many blocks


@pytest.fixture
def small_blocks(request: pytest.FixtureRequest) -> Iterator[int]:
    """Have maps read in blocks of a few lines, by several threads."""
    size = request.param
    with (
        mock.patch.object(fast_rows, "_BLOCK", size),
        mock.patch.object(fast_rows, "_SMALL", 40),
        mock.patch.object(text_file, "HEAD", 600),
        mock.patch.object(text_file, "BLOCK", size),
        mock.patch.object(text_file.TextFile.blocks, "__defaults__", (0, size)),
        mock.patch("os.cpu_count", return_value=4),
    ):
        yield size


MANY = written([(0x10000 + (n << 14), 0x1000 * (n % 4 + 1)) for n in range(300)], failed=[3, 100, 101])


@pytest.mark.parametrize("small_blocks", [64, 200, 1000, 5000], indirect=True)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16-le with mark"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"], ids=["LF", "CRLF"])
@pytest.mark.parametrize("renderer", [*TEXTS, *maps.JSONS])
@pytest.mark.usefixtures("small_blocks")
def test_blocks_join_without_a_seam(renderer: str, encoding: str, newline: str, tmp_path: Path) -> None:
    """A map read in many blocks by several threads has the same rows, in order, with the same line numbers."""
    text = RENDERERS[renderer](MANY).decode().replace("\n", newline)
    path = put(tmp_path / "map", ENCODINGS[encoding](text))
    assert read(path) == expected(MANY)
    if renderer == "json":
        assert lines_of(path) == list(range(1, len(MANY) + 1))
    else:
        lines = text.split("\n")
        first = next(n for n, line in enumerate(lines, 1) if "0x10000" in line or "65536" in line)
        assert lines_of(path) == list(range(first, first + len(MANY)))


def test_rows_of_json_lines_are_numbered_by_their_lines(tmp_path: Path) -> None:
    """Whatever stands between them: empty lines and messages count."""
    first, *others = maps.json_lines(written([(n << 14, 0x1000) for n in range(1, 5)])).splitlines(keepends=True)[1:]
    path = put(
        tmp_path / "map", b"".join([first, b"\n", others[0], b"WARNING  volatility3: odd\n", b" \n", *others[1:]])
    )
    assert lines_of(path) == [1, 3, 6, 7]


@pytest.mark.parametrize("small_blocks", [64, 1000], indirect=True)
@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("place", [0, 1, 150, 298, 299])
@pytest.mark.parametrize("renderer", ["quick", "pretty", "csv", "expanded"])
def test_a_bad_line_in_a_later_block_is_named(renderer: str, place: int, tmp_path: Path) -> None:
    """The line that is wrong is named with its number, in whichever block it stands."""
    lines = RENDERERS[renderer](MANY).decode().split("\n")
    first = next(n for n, line in enumerate(lines) if "0x10000" in line)
    lines[first + place] = lines[first + place].replace("0x", "0y", 1)
    with pytest.raises(MapError, match=f"line {first + place + 1}: "):
        read(put(tmp_path / "map", "\n".join(lines).encode()))


@pytest.mark.parametrize("small_blocks", [64, 1000], indirect=True)
@pytest.mark.usefixtures("small_blocks")
def test_processes_and_headers_across_blocks(tmp_path: Path) -> None:
    """Several processes in a map of many blocks keep their rows."""
    rows = written([(0x10000 + (n << 14), 0x1000) for n in range(60)])
    for data in (
        maps.volatility2([("System", 4, rows), ("a b", 8, rows)]),
        maps.greptext([("System", 4, rows), ("a b", 8, rows)]),
        maps.volatility2_json([("System", 4, rows), ("a b", 8, rows)]),
    ):
        path = put(tmp_path / "map", data)
        assert read(path) == [(row.virtual, row.size, row.offset, None) for row in rows] * 2
        assert owners_of(path) == [(4, "System")] * 60 + [(8, "a b")] * 60


def test_arrow_with_two_columns_of_one_name(tmp_path: Path) -> None:
    """Which of two columns of one name is meant cannot be told: the file is refused."""
    import pyarrow as pa  # noqa: PLC0415 - an extra
    from pyarrow import ipc  # noqa: PLC0415

    columns = [pa.array([4096], pa.uint64()) for _ in range(4)]
    table = pa.table([*columns, pa.array(["pid.4.dmp"])], names=["Virtual", "Size", "Size", "Physical", "File output"])
    path = tmp_path / "two.arrow"
    with ipc.new_stream(str(path), table.schema) as writer:
        writer.write_table(table)
    with pytest.raises(MapError, match="two columns of one name"), MemoryMap(str(path)):
        pass
