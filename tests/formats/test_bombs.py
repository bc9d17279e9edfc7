"""Small maps and tables that become endless: each is an error with a remedy, in little memory."""

from __future__ import annotations

import io
import json
import os
import struct
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import memcarve
from cli import invoke
from files import put
from memcarve.errors import LimitError, MapError
from memcarve.formats.listing import Listing
from memcarve.formats.memmap import MemoryMap
from packing import PACKERS
from sweeps import LONG

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    Capture = pytest.CaptureFixture[bytes]

HEADER = b"Volatility 3 Framework 2.28.2\n\nVirtual\tPhysical\tSize\tOffset in File\tFile output\n\n"
LISTING = b"Volatility 3 Framework 2.28.2\n\nPID\tProcess\tBase\tSize\tName\tPath\n\n"
SAME = b"0x1000\t0x0\t0x1000\t0x0\tpid.4.dmp\n"
#: what a child may add to what an interpreter with numpy and pyarrow takes: resident bytes, not seconds
MEMORY = 600 << 20

_CHILD = """
import sys, memcarve
try:
    import pyarrow.parquet, pyarrow.compute
except ImportError:
    pass
with open("/proc/self/statm") as file:
    before = int(file.read().split()[1]) * 4096
try:
    with memcarve.open(sys.argv[1], limit_decoded=int(sys.argv[2]) or None) as container:
        container.process(index=0)
    print("opened")
except memcarve.MemcarveError as error:
    print(type(error).__name__, error)
with open("/proc/self/status") as file:
    peak = next(int(line.split()[1]) << 10 for line in file if line.startswith("VmHWM:"))
print(peak - before)
"""


def goes_off(path: str, limit: int = 0) -> str:
    """Open a file in a program of its own; return what it says if it takes little memory.

    `limit` is how many bytes it may decode to, 0 the usual number.
    """
    if not os.path.exists("/proc/self/statm"):
        pytest.skip("needs /proc to see how much memory a program takes")
    words = [sys.executable, "-c", _CHILD, path, str(limit)]
    ran = subprocess.run(words, capture_output=True, text=True, timeout=300, check=False)
    assert ran.returncode == 0, ran.stderr
    said, taken = ran.stdout.splitlines()
    assert int(taken) < MEMORY
    return said


def streams(kind: str, begin: bytes, unit: bytes, times: int) -> bytes:
    """Return compressed data that decode to a beginning, and many times a unit."""
    pack = PACKERS[kind]
    return pack(begin) + pack(unit) * times


@pytest.mark.parametrize("kind", ["bzip2", "xz", "zstd", "lz4"])  # gzip packs no table as much
def test_the_same_row_for_ever(kind: str, tmp_path: Path) -> None:
    """Text that decodes to hundreds of times its size is refused with the option that says how much it may be."""
    data = streams(kind, HEADER, SAME * 300_000, 60)
    assert len(data) * 150 < 60 * len(SAME) * 300_000
    # what is done at the limit is the same whatever it is: one kind goes as far as is usual
    said = goes_off(put(tmp_path / "pid.4.map", data), 0 if LONG or kind == "zstd" else 64 << 20)
    assert said.startswith("LimitError")
    assert "limit_decoded=SIZE" in said


@pytest.mark.parametrize(
    "unit",
    [b"\n" * 10_000_000, b"0x1000\t0x0\t0x1000\t0x0\tError outputting to file\n" * 200_000, b" \r\n" * 3_000_000],
    ids=["empty lines", "rows that were not written", "spaces"],
)
def test_other_text_for_ever(unit: bytes, tmp_path: Path) -> None:
    """Lines that are no rows count like rows, and so do rows that lead nowhere."""
    said = goes_off(put(tmp_path / "pid.4.map", streams("zstd", HEADER + SAME, unit, 60)))
    assert said.startswith(("LimitError", "MapError"))
    assert "limit_decoded=SIZE" in said or "processes" in said


def test_messages_for_ever(tmp_path: Path) -> None:
    """Lines behind the beginning of a message are looked at one by one, and not without end."""
    unit = b"Traceback (most recent call last):\n" + b"x\n" * 1_000_000
    said = goes_off(put(tmp_path / "pid.4.map", streams("zstd", HEADER + SAME, unit, 60)))
    assert said.startswith("MapError")
    assert "1048576 lines that are not rows; remove them" in said


def test_a_position_of_0_for_ever(tmp_path: Path) -> None:
    """Each row at position 0 begins a process if no file is named; there are not as many as that."""
    rows = b"".join(b"0x%x\t0x0\t0x1000\t0x0\tDisabled\n" % (place << 13) for place in range(100_000))
    with pytest.raises(MapError, match=r"more than 65536 processes.*cut it"):
        memcarve.open(put(tmp_path / "pid.4.map", HEADER + rows))


def test_a_file_that_is_named_decides_at_position_0(tmp_path: Path) -> None:
    """Rows that name one file are of one process, however many say that they begin it."""
    rows = b"".join(b"0x%x\t0x0\t0x1000\t0x0\tpid.4.dmp\n" % (place << 13) for place in range(1, 100_000))
    with memcarve.open(put(tmp_path / "pid.4.map", HEADER + rows)) as container:
        assert len(container.processes()) == 1


@pytest.mark.parametrize("alternating", [(b"pid.4.dmp", b"pid.8.dmp"), (b"pid.4.dmp", b"Error outputting to file")])
def test_rows_that_alternate(alternating: tuple[bytes, bytes], tmp_path: Path) -> None:
    """Rows of two files, or of one and of none, may alternate: each file has its own, in order."""
    begin = b"0x1000\t0x0\t0x1000\t0x0\tpid.4.dmp\n"
    both = [
        b"0x%x\t0x0\t0x1000\t0x%x\t%s\n" % (place << 13, place << 12, alternating[place % 2])
        for place in range(1, 60_001)
    ]
    path = put(tmp_path / "all.map", HEADER + begin + b"".join(both))
    with memcarve.open(path, trust="printed") as container:
        entries = container.processes()
        assert [entry.pid for entry in entries] == ([4, 8] if alternating[1] == b"pid.8.dmp" else [4])
        space = container.process(index=0).space
        assert space.start.tolist() == [0x1000, *(place << 13 for place in range(2, 60_001, 2))]
        assert space.offset.tolist() == [0, *(place << 12 for place in range(2, 60_001, 2))]
        lost = len(space.missing)
        assert lost == (0 if len(entries) == 2 else 30_000)


def columns(count: int, virtual: Any = None, file: Any = None) -> Any:
    """Return a table of Arrow with the columns of a map."""
    pa = pytest.importorskip("pyarrow")
    return pa.table(
        {
            "Virtual": pa.array(np.full(count, 0x1000, np.uint64) if virtual is None else virtual),
            "Physical": pa.array(np.zeros(count, np.uint64)),
            "Size": pa.array(np.full(count, 0x1000, np.uint64)),
            "Offset in File": pa.array(np.zeros(count, np.uint64)),
            "File output": pa.array(["pid.4.dmp"]).take(pa.array(np.zeros(count, np.int32))) if file is None else file,
        }
    )


def parquet(table: Any, **how: Any) -> bytes:
    """Return a table as Parquet."""
    file = io.BytesIO()
    pytest.importorskip("pyarrow.parquet").write_table(table, file, compression="zstd", **how)
    return file.getvalue()


def arrow(table: Any, compression: str | None = "zstd") -> bytes:
    """Return a table as a stream of Arrow, in one batch."""
    file, ipc = io.BytesIO(), pytest.importorskip("pyarrow.ipc")
    with ipc.new_stream(file, table.schema, options=ipc.IpcWriteOptions(compression=compression)) as writer:
        writer.write_table(table, max_chunksize=1 << 40)
    return file.getvalue()


def in_file(table: Any) -> bytes:
    """Return a table as a file of Arrow."""
    file, ipc = io.BytesIO(), pytest.importorskip("pyarrow.ipc")
    with ipc.new_file(file, table.schema, options=ipc.IpcWriteOptions(compression="zstd")) as writer:
        writer.write_table(table, max_chunksize=1 << 40)
    return file.getvalue()


@pytest.mark.slow
def test_columns_of_one_number(tmp_path: Path) -> None:
    """Fifteen million equal rows in a file of some kilobytes are refused before they are decoded."""
    table = columns(15_000_000)
    for write in (parquet, arrow, in_file):
        said = goes_off(put(tmp_path / "pid.4.map", write(table)))
        assert said.startswith("LimitError")
        assert "limit_decoded=SIZE" in said


@pytest.mark.slow
def test_differences(tmp_path: Path) -> None:
    """Addresses that are stored as differences pack without end; what they come to counts."""
    table = columns(15_000_000, np.arange(15_000_000, dtype=np.uint64) << np.uint64(12))
    how = {"use_dictionary": ["Size", "File output"], "column_encoding": {"Virtual": "DELTA_BINARY_PACKED"}}
    assert goes_off(put(tmp_path / "pid.4.map", parquet(table, **how))).startswith("LimitError")


@pytest.mark.parametrize("write", [parquet, arrow], ids=["parquet", "stream"])
@pytest.mark.parametrize("dictionary", [True, False])
def test_one_long_name(write: Callable[[Any], bytes], dictionary: bool, tmp_path: Path) -> None:  # noqa: FBT001
    """A name of 400 KB in thousands of rows stays one name, or is refused for what it comes to."""
    pa = pytest.importorskip("pyarrow")
    name = "A" * 400_000 + ".dmp"
    cells = pa.DictionaryArray.from_arrays(pa.array(np.zeros(1500, np.int32)), pa.array([name]))
    table = columns(1500, file=cells if dictionary else cells.cast(pa.string()))
    said = goes_off(put(tmp_path / "pid.4.map", write(table)))
    assert said.startswith(("MapError", "LimitError"))


def test_one_long_name_in_a_listing(tmp_path: Path) -> None:
    """Text that a table of modules repeats counts as often as it stands there."""
    pa = pytest.importorskip("pyarrow")
    names = pa.DictionaryArray.from_arrays(pa.array(np.zeros(5000, np.int32)), pa.array(["A" * 400_000]))
    table = pa.table(
        {
            "PID": [4] * 5000, "Process": ["System"] * 5000, "Base": list(range(0, 5000 << 12, 1 << 12)),
            "Size": [4096] * 5000, "Name": names, "Path": ["x"] * 5000,
        }
    )  # fmt: skip
    path = put(tmp_path / "modules", parquet(table))
    with Listing(path) as listing, pytest.raises(MapError, match="more than 268435456 characters"):
        list(listing.rows())


def test_only_what_is_needed_is_decoded(tmp_path: Path) -> None:
    """A column that no map needs is not decoded: what is damaged there does no harm, and its size does not count."""
    pa = pytest.importorskip("pyarrow")
    table = columns(4).append_column("TreeDepth", pa.array([0] * 4))
    with MemoryMap(put(tmp_path / "map", parquet(table))) as memory_map:
        assert sum(len(rows.virtual) for rows in memory_map.rows()) == 4


def test_a_batch_whose_description_lies(tmp_path: Path) -> None:
    """A message of Arrow that is cut off, or describes itself wrongly, is an error of the map."""
    data = arrow(columns(1000))
    for place in (4, 8, 12, 20, len(data) // 3, len(data) // 2):
        for changed in (data[:place], data[:place] + struct.pack("<I", 0x7FFFFFF0) + data[place + 4 :]):
            try:
                with MemoryMap(put(tmp_path / "map", changed)) as memory_map:
                    list(memory_map.rows())
            except memcarve.InputError:
                continue


def test_a_file_of_arrow_that_ends_between_its_batches(tmp_path: Path) -> None:
    """A file of Arrow without its end is refused, never a shorter map."""
    file, table, ipc = io.BytesIO(), columns(1000), pytest.importorskip("pyarrow.ipc")
    with ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
        between = file.tell()
        writer.write_table(table)
    with (
        MemoryMap(put(tmp_path / "map", file.getvalue()[:between])) as memory_map,
        pytest.raises(MapError, match="early"),
    ):
        list(memory_map.rows())


def test_rows(tmp_path: Path, capfdbinary: Capture) -> None:
    """More rows than may be are refused in every encoding, and as many as may be are not."""
    text = HEADER + b"".join(b"0x%x\t0x0\t0x1000\t0x%x\tpid.4.dmp\n" % (n << 13, n << 12) for n in range(1, 101))
    pytest.importorskip("pyarrow")
    table = columns(100, np.arange(1, 101, dtype=np.uint64) << np.uint64(13))
    records: Iterable[dict[str, Any]] = table.to_pylist()
    written = [text, json.dumps(list(records)).encode(), parquet(table), arrow(table), PACKERS["xz"](text)]
    for number, data in enumerate(written):
        path = put(tmp_path / f"{number}.map", data)
        memcarve.open(path, limit_rows=100).close()
        with pytest.raises(MapError, match="more than 99 rows; if it is genuine, limit_rows=N"):
            memcarve.open(path, limit_rows=99)
    ran = invoke(capfdbinary, "segments", path, "--limit-rows", "99")
    assert (ran.code, ran.err.count("\n")) == (1, 1)
    assert "--limit-rows N" in ran.err


def test_the_bound_can_be_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is refused for its size is read if the user says that it may be as large."""
    monkeypatch.setattr("memcarve.formats.compression._NEVER_TOO_MUCH", 1 << 20)
    pytest.importorskip("pyarrow")
    table = columns(100_000, np.arange(1, 100_001, dtype=np.uint64) << np.uint64(13))
    for write in (parquet, arrow):
        path = put(tmp_path / "pid.4.map", write(table, **({"use_dictionary": True} if write is parquet else {})))
        size = os.path.getsize(path)
        with MemoryMap(path) as memory_map:
            if size * 150 < 3_000_000:
                with pytest.raises(LimitError):
                    list(memory_map.rows())
        memcarve.open(path, limit_decoded=1 << 30).close()


def test_a_compressed_map_needs_no_temporary_file(tmp_path: Path) -> None:
    """Maps of text and streams of Arrow are decoded while they are read, and nowhere else."""
    pytest.importorskip("pyarrow")
    for kind in PACKERS:
        for data in (HEADER + SAME, json.dumps(columns(1).to_pylist()).encode(), arrow(columns(1))):
            path = put(tmp_path / "pid.4.map", PACKERS[kind](data))
            with memcarve.open(path, temp=tmp_path / "nowhere") as container:
                assert len(container.processes()) == 1
