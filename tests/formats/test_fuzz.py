"""Maps that are damaged, or made to harm: only declared errors escape, in bounded time and memory."""

from __future__ import annotations

import gzip
import json
import lzma
import os
import random
import struct
import subprocess
import sys
import tracemalloc
from typing import TYPE_CHECKING
from unittest import mock

import pytest
from hypothesis import given, settings, strategies as st

import maps
import memcarve
from files import SAMPLES, put
from maps import FAILED, RENDERERS, Row, written
from memcarve.errors import InputError, MapError, MemcarveError, NotRecognisedError
from memcarve.formats.memmap import MemoryMap, map_columns
from sweeps import LONG as EVERYTHING

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

ROWS = [*written([(0x1000, 0x1000), (0x5000, 0x3000)], failed=[1]), *written([(0xF80000000000, 0x1000)], "pid.8.dmp")]
COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": lambda data: gzip.compress(data, 1),
    "xz": lambda data: lzma.compress(data, preset=0),
    "zstd": lambda data: zstd.compress(data, options={zstd.CompressionParameter.checksum_flag: 1}),
}
CORPUS: dict[str, bytes] = {}
for _folder, _, _files in os.walk(SAMPLES):
    for _file in _files:
        with open(os.path.join(_folder, _file), "rb") as _opened:
            CORPUS[os.path.relpath(os.path.join(_folder, _file), SAMPLES)] = _opened.read()
CORPUS |= {f"written {name}": render(ROWS) for name, render in RENDERERS.items()}
CORPUS |= {name: compress(maps.quick(ROWS)) for name, compress in COMPRESSIONS.items()}
BINARY = [name for name in CORPUS if "arrow" in name or "parquet" in name]
PIECES = [
    *(b"\0", b"\r", b"\n", b"\t", b"|", b",", b'"', b"'", b"[", b"]", b"{", b"}", b":", b"\\", b" ", b"-", b"."),
    *(b"0x", b"0x0", b"0xffffffffffffffff", b"0x8000000000000000", b"18446744073709551615", b"-1", b"1e999", b"NaN"),
    *(b"null", b"true", b"...", b"0x12...000", b"\xff\xfe", b"\xef\xbb\xbf", b"\xff", b"\xc3\x28", b"\xe2\x80\xa6"),
    *(b"Virtual", b"File output", b"PID", b"Process", b"Size", b" pid: 4", b"Traceback (most recent call last):\n"),
    *(FAILED.encode(), b"pid.4.dmp", b"Disabled", b"../../x.dmp", b"\x1b[31m", b"\xd8\x00", b"\\ud800"),
    *(b"1" * 5000, b"0x" + b"1" * 5000, b"[" * 3000, b'{"a":' * 3000, b"-" * 3000, b"." * 3000, b" " * 3000),
]


def use(path: str) -> None:
    """Do with a map what can be done: open each process, list its segments, read its first bytes."""
    with memcarve.open(path, hashed=True) as container:
        for index in range(len(container.processes())):
            process = container.process(index=index)
            assert process.segments().total == process.space.total
            assert all(gap.end <= 1 << 64 for gap in process.space.missing)
            for extent in list(process.space.extents())[:3]:
                assert extent.end <= 1 << 64
                process.space.read(extent.start, min(extent.size, 16))


def survives(path: str) -> None:
    """Check that nothing but a declared error comes of a map, with a message of one printable line."""
    try:
        use(path)
    except MemcarveError as error:
        message = str(error)
        assert message
        assert message.isprintable()
        assert len(message) < 2000


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder in which a dump lies beside the map."""
    made = tmp_path_factory.mktemp("fuzz")
    put(made / "pid.4.dmp", bytes(0x4000))
    put(made / "pid.8.dmp", bytes(0x1000))
    return made


def mutated(data: bytes, source: random.Random) -> bytes:
    """Return data with a few bytes, pieces or lines changed, moved, repeated or removed."""
    for _ in range(source.choice([1, 1, 1, 2, 4])):
        place, end = sorted(source.randrange(len(data) + 1) for _ in (0, 1))
        kind = source.randrange(7)
        if kind == 0:
            data = data[:place] + bytes([source.randrange(256)]) + data[place + 1 :]
        elif kind == 1:
            data = data[:place] + source.choice(PIECES) + data[place + source.choice([0, 0, 1, 5]) :]
        elif kind == 2:
            data = data[:place]
        elif kind == 3:
            data = data[:place] + data[min(end, place + 40) :]
        elif kind == 4:
            data = data[:end] + data[place : place + 400] + data[end:]
        else:
            lines = data.split(b"\n")
            at, other = source.randrange(len(lines)), source.randrange(len(lines))
            if kind == 5:
                lines[at], lines[other] = lines[other], lines[at]
            else:
                cells = lines[at].split(source.choice([b"\t", b",", b" "]))
                cells[source.randrange(len(cells))] = source.choice(PIECES)
                lines[at] = b"\t".join(cells)
            data = b"\n".join(lines)
    return data


@pytest.mark.parametrize("name", CORPUS)
def test_a_mutated_sample_raises_only_declared_errors(name: str, folder: Path) -> None:
    """Whatever is done to a sample, what comes of it is rows or a declared error, never another exception."""
    source = random.Random(name)  # noqa: S311 - to be repeatable is what it is for
    for _ in range((15 if name in BINARY else 40) // (1 if EVERYTHING else 3)):
        survives(put(folder / "pid.4.map", mutated(CORPUS[name], source)))


@given(st.binary(max_size=300))
@settings(max_examples=80)
def test_any_bytes_raise_only_declared_errors(folder: Path, data: bytes) -> None:
    """Bytes of any kind, also behind the beginnings of the formats, are rows or a declared error."""
    for begin in (
        b"",
        b"PAR1",
        b"ARROW1\0\0",
        b"\xff\xff\xff\xff",
        b"\x1f\x8b\x08\0",
        b"[{",
        b"(\xb5/\xfd",
        b"\xfd7zXZ\0",
    ):
        survives(put(folder / "pid.4.map", begin + data))


@given(st.text(alphabet=" \t\n\r|,.x0123456789abfpid-:*<>\"'{}[]Virtual Size\x00\u2026", max_size=200))
@settings(max_examples=100)
def test_any_text_behind_a_header_raises_only_declared_errors(folder: Path, text: str) -> None:
    """Text of any kind behind a header is rows or a declared error."""
    for render in (maps.quick, maps.csv, maps.pretty, maps.expanded, maps.json_lines):
        survives(put(folder / "pid.4.map", render(ROWS[:1]) + text.encode()))


@pytest.mark.parametrize("name", BINARY)
def test_a_table_cut_off_or_with_a_wrong_byte_is_refused_or_read(name: str, folder: Path) -> None:
    """A Parquet or Arrow file that was cut off or damaged raises only declared errors."""
    source = random.Random(name)  # noqa: S311
    data = CORPUS[name]
    for length in range(4, len(data), 61):
        survives(put(folder / "pid.4.map", data[:length]))
    for _ in range(60):
        place = source.randrange(len(data))
        survives(put(folder / "pid.4.map", data[:place] + bytes([source.randrange(256)]) + data[place + 1 :]))


@pytest.mark.parametrize(
    "rows",
    [
        {"Virtual": [1.5], "Size": [1.0]},
        {"Virtual": [-1], "Size": [-1]},
        {"Virtual": ["0x1000"], "Size": ["0x1000"]},
        {"Virtual": [None], "Size": [4096]},
        {"Virtual": [True], "Size": [True]},
        {"Virtual": [[1]], "Size": [[1]]},
        {"Virtual": [4096], "Size": [4096], "File output": [None]},
        {"Virtual": [4096], "Size": [4096], "File output": [7]},
        {"Virtual": [4096], "Size": [4096], "File output": ["\x1b[31m.dmp"]},
    ],
    ids=["floats", "negative", "text", "null", "bool", "lists", "no file", "number", "escape"],
)
@pytest.mark.parametrize("kind", ["parquet", "arrow", "jsonl", "json"])
def test_records_of_other_types_are_refused(kind: str, rows: dict[str, list[object]], folder: Path) -> None:
    """Columns that hold anything but whole numbers that are not negative, and names, are a declared error."""
    if kind in ("parquet", "arrow"):
        pa = pytest.importorskip("pyarrow")
        from pyarrow import parquet  # noqa: PLC0415

        path = str(folder / "pid.4.map")
        table = pa.table(rows)
        if kind == "parquet":
            parquet.write_table(table, path)
        else:
            with pa.ipc.new_stream(path, table.schema) as writer:
                writer.write_table(table)
    else:
        record = {name: cells[0] for name, cells in rows.items()}
        path = put(folder / "pid.4.map", json.dumps(record if kind == "jsonl" else [record]).encode())
    with pytest.raises(InputError):
        use(path)


@pytest.mark.parametrize(
    ("place", "value"), [(3, 0x7FFFFFFF), (1, 0x10000000), (2, -5), (0, 0x40000000), (1, -1 << 30)]
)
def test_places_outside_an_arrow_table_are_refused(place: int, value: int, folder: Path) -> None:
    """Names that claim to lie outside the table are a declared error and not the end of the program."""
    rows = written([(n << 12, 0x1000) for n in range(1, 4)])
    data, offsets = maps.arrow(rows), struct.pack("<4i", 0, 9, 18, 27)
    at = data.index(offsets) + 4 * place
    path = put(folder / "places", data[:at] + struct.pack("<i", value) + data[at + 4 :])
    code = "import sys, memcarve as m\ntry:\n    m.open(sys.argv[1])\nexcept m.InputError:\n    print('refused')\n"
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, check=True)
    assert done.stdout.strip() == b"refused"


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_columns_named_twice_are_refused(kind: str, folder: Path) -> None:
    """A table with two columns of one name is a declared error."""
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet  # noqa: PLC0415

    column = pa.array([4096], pa.uint64())
    table = pa.table([column, column, column], names=["Virtual", "Size", "Virtual"])
    path = str(folder / "pid.4.map")
    if kind == "parquet":
        parquet.write_table(table, path)
    else:
        with pa.ipc.new_stream(path, table.schema) as writer:
            writer.write_table(table)
    with pytest.raises(InputError):
        use(path)


# claims that are too large


@pytest.mark.parametrize("renderer", RENDERERS)
@pytest.mark.parametrize("size", [1 << 63, (1 << 64) - 1, 1 << 62, (1 << 62) + 1, 1 << 58, 1 << 46])
@pytest.mark.parametrize("offset", [0, 1 << 40, 1 << 62, (1 << 64) - 1])
def test_rows_that_claim_too_much_cost_nothing(renderer: str, size: int, offset: int, folder: Path) -> None:
    """A row that claims up to 2**64 bytes, or bytes far beyond the file, is refused or missing, not allocated."""
    for file in ("pid.4.dmp", FAILED):
        rows = [Row(0, 0x1000, 0), Row(0x10000, size, offset, file)]
        survives(put(folder / "pid.4.map", RENDERERS[renderer](rows)))


def test_sizes_that_add_up_beyond_any_file_are_refused(folder: Path) -> None:
    """Rows whose sizes add up to more than any file holds are refused by their line, not wrapped around."""
    rows = [Row(n << 46, 1 << 46, 0) for n in range(1 << 11)]
    for data in (maps.quick(rows), maps.quick(rows, ("Virtual", "Size"))):
        with pytest.raises(InputError):
            use(put(folder / "pid.4.map", data))


def test_a_row_far_beyond_the_end_of_the_dump_is_not_padded(folder: Path) -> None:
    """A row of a terabyte that the dump holds the beginning of is missing from there on; no zeros stand for it."""
    path = put(folder / "pid.4.map", maps.quick([Row(0x1000, 0x1000, 0), Row(0x5000, 1 << 40, 0x1000)]))
    with memcarve.open(path) as container:
        process = container.process()
        assert [(gap.start, gap.size) for gap in process.space.missing] == [(0x8000, (1 << 40) - 0x3000)]
        assert process.space.total == 0x4000


# texts that are too long, too deep, too many

LONG = 10 << 20


@pytest.mark.parametrize("character", [b"0", b" ", b"\t", b"-", b".", b"x", b"|", b"[", b"{", b'"', b"\r", b"\0", b"a"])
def test_ten_megabytes_without_a_newline_are_refused(character: bytes, folder: Path) -> None:
    """A file that is one line of 10 MB is no map, and one behind a header is a damaged one."""
    with pytest.raises(InputError):
        use(put(folder / "long", character * LONG))
    for renderer in ("quick", "csv", "expanded", "json", "jsonl"):
        path = put(folder / "pid.4.map", RENDERERS[renderer](ROWS[:1]) + character * LONG)
        if renderer == "json":  # what follows the array does not matter
            survives(path)
        else:
            with pytest.raises(InputError):
                use(path)


QUADRATIC = {
    "dashes": b"-" * 1_000_000 + b"x",
    "dots": b"." * 1_000_000 + b"x",
    "ellipses": b"\xe2\x80\xa6" * 300_000 + b"x",
    "spaces": b" " * 1_000_000 + b"x",
    "pids": b" pid: " * 170_000 + b"x",
    "pid and spaces": b"a pid:" + b" " * 1_000_000 + b"x",
    "brackets": b"[" * 1_000_000 + b"x",
    "snips": b"snip" * 250_000 + b"-",
    "returns": b"\r" * 1_000_000 + b"x",
    "stars": b"*" * 1_000_000 + b"x",
    "words": b"a." * 500_000,
    "cells": b"0x1 " * 250_000,
    "quotes": b'"' * 999_999,
    "commas": b"," * 1_000_000,
    "dumps": b"a.dmp" * 200_000,
}


@pytest.mark.parametrize("renderer", ["quick", "vol2"])
@pytest.mark.parametrize("name", QUADRATIC)
def test_a_long_line_takes_no_longer_than_it_is_long(name: str, renderer: str, tmp_path: Path) -> None:
    """No line of a megabyte takes time with the square of its length, which would be hours."""
    head = maps.volatility2([("a", 4, ROWS[:1])]) if renderer == "vol2" else RENDERERS[renderer](ROWS[:1])
    path = put(tmp_path / "map", head + QUADRATIC[name] + b"\n")
    code = (
        "import sys, memcarve\n"
        "try:\n    memcarve.open(sys.argv[1])\n"
        "except memcarve.MemcarveError as error:\n    print('refused')\n"
    )
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, timeout=20, check=True)
    assert done.stdout.strip() in (b"refused", b"")


@pytest.mark.parametrize("depth", [*range(150, 1100, 25), *range(900, 1010, 3), 20_000, 300_000])
@pytest.mark.parametrize("brackets", ["[]", "{}"])
def test_deep_json_is_refused(depth: int, brackets: str, folder: Path) -> None:
    """JSON that is nested as deep as one likes, in any place, is a declared error."""
    deep = "[" * depth + "]" * depth if brackets == "[]" else '{"a":' * depth + "1" + "}" * depth
    for text in (
        deep,
        f'{{"Virtual": {deep}, "Size": 4096}}\n',
        f'[\n  {{\n    "Size": 4096,\n    "Virtual": {deep}\n  }}\n]\n',
        f'{{"Virtual": 4096, "Size": 4096, "File output": {deep}}}\n',
        f'{{"rows": [["a", 4, {deep}, 1, 2, 3]], "columns": []}}',
        f'{{"Virtual": 4096, "Size": 4096}}\n{deep}\n',
    ):
        with pytest.raises(InputError):
            use(put(folder / "pid.4.map", text.encode()))


@pytest.mark.parametrize("digits", [20, 4299, 4300, 4301, 5000, 100_000])
def test_long_numbers_are_refused(digits: int, folder: Path) -> None:
    """A number of thousands of digits, decimal or hexadecimal, is a declared error wherever it stands."""
    number = "9" * digits
    for text in (
        f'{{"Virtual": {number}, "Size": 4096}}\n',
        f'{{"Virtual": 4096, "Size": 4096}}\n{{"Virtual": {number}, "Size": 4096}}\n',
        f'[\n  {{\n    "Size": 4096,\n    "Virtual": {number}\n  }}\n]\n',
        f'{{"rows": [["a", 4, {number}, 1, 2, 3]], "columns": []}}',
        f'{{"Virtual": 4096, "Size": 4096, "File output": {number}}}\n',
        f"Virtual\tSize\n\n0x{number}\t0x1000\n",
        f"a pid: {number}\nVirtual Physical Size DumpFileOffset\n0x1 0x1 0x1 0x0\nx\n",
        f"Process|PID|Virtual|Physical|Size|DumpFileOffset\n>|a|{number}|0x1|0x1|0x1|0x0\n",
    ):
        with pytest.raises(InputError):
            use(put(folder / "pid.4.map", text.encode()))


def test_a_pid_too_large_for_a_number_is_refused(folder: Path) -> None:
    """A process id of 2**64 in a record is a name for nothing, and no other exception."""
    for pid in (1 << 64, -1, 1 << 200):
        text = f'{{"rows": [["a", {pid}, 4096, 1, 4096, 0]], "columns": []}}'
        survives(put(folder / "pid.4.map", text.encode()))


def test_very_many_file_names_are_refused(folder: Path) -> None:
    """A map that names a new dump in every row is refused when there are more than any system has processes."""
    rows = [Row(n << 12, 0x1000, 0, f"pid.{n}.dmp") for n in range(2000)]
    path = put(folder / "pid.4.map", maps.quick(rows))
    with mock.patch.object(map_columns, "_MOST_TEXTS", 1000), pytest.raises(MapError, match="1000 different files"):
        use(path)


# compressed data


@pytest.mark.parametrize("compression", ["gzip", "xz", "zstd"])
@pytest.mark.parametrize("what", ["zeros", "newlines", "spaces"])
def test_a_decompression_bomb_is_refused_before_it_goes_off(compression: str, what: str, folder: Path) -> None:
    """A small file that decompresses to 256 MB costs no memory to refuse; newlines alone are no rows."""
    character = {"zeros": b"\0", "newlines": b"\n", "spaces": b" "}[what]
    path = put(folder / "bomb", COMPRESSIONS[compression](character * (1 << 20)) * 256)
    with pytest.raises(NotRecognisedError):
        MemoryMap(path)


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("character", [b"\0", b" ", b"1"])
def test_a_decompression_bomb_behind_a_header(compression: str, character: bytes, folder: Path) -> None:
    """Behind a header, too, a line that a small file decompresses to is refused long before it is in memory."""
    piece = COMPRESSIONS[compression](character * (1 << 20))
    path = put(folder / "pid.4.map", COMPRESSIONS[compression](maps.quick(ROWS[:1])) + piece * 128)
    tracemalloc.start()
    try:
        with pytest.raises(InputError):
            use(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 64 << 20


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_empty_lines_behind_the_rows_are_no_rows(compression: str, folder: Path) -> None:
    """However many empty lines a small file decompresses to, they are passed over."""
    path = put(folder / "pid.4.map", COMPRESSIONS[compression](maps.quick(ROWS[:1]) + b"\n" * (3 << 20)))
    with memcarve.open(path) as container:
        assert container.process().space.total == 0x1000


@pytest.mark.parametrize("name", ["gzip", "xz", "zstd"])
def test_damaged_compressed_data_is_refused(name: str, folder: Path) -> None:
    """Every cut and every changed byte of compressed data is a declared error, or does not change the rows."""
    data = CORPUS[name]
    with MemoryMap(put(folder / "map", data)) as memory_map:
        whole = [block.virtual.tolist() for block in memory_map.rows()]
    for place in range(len(data)):
        for changed in (data[:place], data[:place] + bytes([data[place] ^ 0x41]) + data[place + 1 :]):
            path = put(folder / "map", changed)
            try:
                with MemoryMap(path) as memory_map:
                    found = [block.virtual.tolist() for block in memory_map.rows()]
            except InputError:
                continue
            assert found == whole


def test_what_follows_compressed_data_is_refused_or_ignored(folder: Path) -> None:
    """Rubbish behind compressed data is a declared error or ignored, never read as rows."""
    for name in ("gzip", "xz", "zstd"):
        for behind in (b"\0" * 100, b"rubbish" * 30, maps.quick(ROWS), CORPUS[name][:20]):
            survives(put(folder / "pid.4.map", CORPUS[name] + behind))
