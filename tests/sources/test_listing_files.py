"""What tables beside a dump, or named by the user, say of a process: regions, modules, threads."""

from __future__ import annotations

import hashlib
import json
import os
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import listings
from files import SAMPLES, put
from listings import BOTH, DLLLIST, LINUX, MAC, RENDERERS, THREADS, VADINFO, VADWALK, dll, thread, vad, vma
from memcarve.errors import MapError, NotRecognisedError, ProcessError, UsageError
from memcarve.metadata import Metadata, Module, Region, Thread
from memcarve.sources.listings import metadata_from_files

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

PID = 6988


def records(name: str) -> list[dict[str, Any]]:
    """Return the rows of a JSON sample."""
    with open(os.path.join(SAMPLES, name), encoding="utf-8") as file:
        found: list[dict[str, Any]] = json.load(file)
    return found


def regions(path: str, pid: int | None = None) -> list[Region]:
    """Return the regions that a file tells of a process."""
    (found,) = metadata_from_files({"regions": (path,)}, pid).regions
    return found.rows


def read(folder: Path, table: Sequence[dict[str, Any]], columns: Sequence[str], kind: str, pid: int = 4) -> Metadata:
    """Return what a table says, written as JSON lines."""
    path = put(folder / "table", listings.json_lines(table, columns))
    return metadata_from_files({kind: (path,)}, pid)


@pytest.mark.parametrize("renderer", ["quick", "pretty", "csv", "json", "jsonl"])
@pytest.mark.parametrize("stem", ["vad/vadinfo.{}", "e2e/vadinfo.{}.stdout"])
def test_regions_of_vadinfo(stem: str, renderer: str) -> None:
    """A VAD is a region whose last byte is at its End VPN; its kind follows from what is private and what is a file."""
    expected = [
        (
            row["Start VPN"],
            row["End VPN"] + 1,
            row["Protection"],
            "private" if row["PrivateMemory"] else "image" if row["File"] else "mapped",
            row["File"],
            row["Tag"],
            row["PrivateMemory"] == 1,
        )
        for row in sorted(records(stem.format("json")), key=lambda row: row["Start VPN"])
    ]
    found = regions(os.path.join(SAMPLES, stem.format(renderer)), PID)
    assert [(row.start, row.end, *row[2:7]) for row in found] == expected
    assert {row.offset for row in found} == {None}


@pytest.mark.parametrize("renderer", ["quick", "pretty", "csv", "json", "jsonl"])
def test_regions_of_vadwalk(renderer: str) -> None:
    """Of a VAD's place in the tree only addresses and tag are known."""
    rows = sorted(records("e2e/vadwalk.json.stdout"), key=lambda row: row["Start"])
    expected = [Region(row["Start"], row["End"] - row["Start"] + 1, tag=row["Tag"]) for row in rows]
    assert regions(os.path.join(SAMPLES, f"e2e/vadwalk.{renderer}.stdout"), PID) == expected


@pytest.mark.parametrize("renderer", ["quick", "pretty", "csv", "json", "jsonl"])
def test_regions_of_linux_and_mac(renderer: str) -> None:
    """Of a Unix process the end is the address after the last byte, and nothing says what is private."""
    rows = records("linux_mac/linux.proc.Maps.json")
    sizes = [row["End"] - row["Start"] for row in rows]
    assert regions(os.path.join(SAMPLES, f"linux_mac/linux.proc.Maps.{renderer}"), 1) == [
        Region(rows[0]["Start"], sizes[0], "r-x", "mapped", "/sbin/init", offset=0, device=(8, 1), inode=652843),
        Region(rows[1]["Start"], sizes[1], "rw-", "heap", device=(0, 0), inode=0),
        # an inode without a path
        Region(rows[2]["Start"], sizes[2], "---", "mapped", None, offset=0x2000, device=(8, 1), inode=913938),
    ]
    (row,) = records("linux_mac/mac.proc_maps.Maps.json")
    assert regions(os.path.join(SAMPLES, f"linux_mac/mac.proc_maps.Maps.{renderer}"), 1) == [
        Region(row["Start"], row["End"] - row["Start"], "r-x", "mapped", "/sbin/launchd")
    ]


@pytest.mark.parametrize("renderer", ["quick", "pretty", "csv", "json", "jsonl"])
def test_modules_of_dlllist(renderer: str) -> None:
    """A module has base, size, name and path; those that could not be read are not known."""
    expected = [Module(row["Base"], row["Size"], row["Name"], row["Path"]) for row in records("vad/dlllist.json")]
    path = os.path.join(SAMPLES, f"vad/dlllist.{renderer}")
    (found,) = metadata_from_files({"modules": (path,)}, PID).modules
    assert list(found.rows) == expected
    assert found.source == f"windows.dlllist (dlllist.{renderer})"


EWC = "PAGE_EXECUTE_WRITECOPY"


@pytest.mark.parametrize(
    ("row", "kind"),
    [
        (vad(0, 1, private=1), "private"),
        (vad(0, 1, private=1, protection=EWC), "private"),
        (vad(0, 1, private=0), "mapped"),
        (vad(0, 1, private=0, protection=EWC), "mapped"),
        (vad(0, 1, private=0, protection="", file="\\a"), "mapped"),
        (vad(0, 1, private=0, protection="PAGE_EXECUTE_READ", file="\\a"), "mapped"),
        (vad(0, 1, private=0, protection=EWC, file="\\a"), "image"),
        (vad(0, 1, private=0, protection=f"{EWC}|PAGE_NOCACHE", file="\\a"), "image"),
        (vad(0, 1, private=None), None),
        (vad(0, 1, private=None, file="\\a"), "mapped"),
        (vad(0, 1, private=None, protection=None, file="\\a"), "mapped"),
        (vad(0, 1, private=None, protection=EWC, file="\\a"), "image"),
    ],
)
def test_kind_of_a_vad(row: dict[str, Any], kind: str | None, tmp_path: Path) -> None:
    """What the table does not say makes no kind: neither a protection alone nor what is not known."""
    (region,) = read(tmp_path, [row], VADINFO, "regions").regions[0]
    assert region.kind == kind
    assert region.private is (None if row["PrivateMemory"] is None else row["PrivateMemory"] == 1)
    assert region.protection == (row["Protection"] or None)


@pytest.mark.parametrize(
    ("path", "inode", "kind", "file"),
    [
        ("/lib/a.so", 7, "mapped", "/lib/a.so"),
        ("/dev/zero (deleted)", 0, "mapped", "/dev/zero (deleted)"),
        ("[heap]", 0, "heap", None),
        ("[stack]", 0, "stack", None),
        ("[vdso]", 0, None, "[vdso]"),
        ("Anonymous Mapping", 0, None, None),
        ("-", 0, None, None),
        (None, 0, None, None),
        (None, 7, "mapped", None),
        ("anon_inode:[x]", 7, "mapped", "anon_inode:[x]"),
    ],
)
def test_kind_of_a_linux_region(
    path: str | None, inode: int, kind: str | None, file: str | None, tmp_path: Path
) -> None:
    """linux.proc.Maps does not say what is shared: memory without a file has no kind there, unless it has a name."""
    (region,) = read(tmp_path, [vma(0x1000, 0x2000, path, inode=inode, offset=0x3000)], LINUX, "regions").regions[0]
    offset = 0x3000 if kind == "mapped" else None
    assert region == Region(0x1000, 0x1000, "rw-", kind, file, offset=offset, device=(8, 1), inode=inode)


def test_threads(tmp_path: Path) -> None:
    """A thread begins where CreateThread was told to, else where the system began it; bit 47 is extended."""
    rows = [thread(8, 1, 0x401000), thread(12, 0x7FFD0000, None), thread(16, None, None), thread(20, 0xF80012345678, 0)]
    rows += [thread(24, 0xF80012345678, None), thread(28, 0, 0, pid=5), thread(None, 0, 0)]
    found = read(tmp_path, rows, THREADS, "threads")
    assert list(found.threads[0].rows) == [
        Thread(8, begin=0x401000), Thread(12, begin=0x7FFD0000), Thread(16), Thread(20, begin=0),
        Thread(24, begin=0xFFFFF80012345678),
    ]  # fmt: skip
    assert found.threads[0].source == "windows.threads or windows.thrdscan (table)"
    assert any("row 7: its id could not be read" in note or "line 8: its id" in note for note in found.notes)


def test_addresses_are_extended_as_wide_as_the_memory_is(tmp_path: Path) -> None:
    """Bit 47, or bit 56, of an address goes through all bits above it, once."""
    rows = [dll(0xF80000000000, 0x1000, None, None), dll(0xFFFFF90000000000, 0x1000, None, None)]
    path = put(tmp_path / "table", listings.csv(rows, DLLLIST))

    def starts(bits: int) -> list[int]:
        (found,) = metadata_from_files({"modules": (path,)}, 4, address_bits=bits).modules
        return [row.start for row in found.rows]

    assert starts(48) == [0xFFFFF80000000000, 0xFFFFF90000000000]
    assert starts(57) == [0xF80000000000, 0xFFFFF90000000000]


def test_what_lacks_is_counted_and_what_repeats_is_taken_once(tmp_path: Path) -> None:
    """Rows without addresses say nothing, rows that stand there twice nothing new; notes count both."""
    rows: list[dict[str, Any]] = [vad(0x1000, 0x1FFF), {**vad(0, 0), "End VPN": None}, vad(0x1000, 0x1FFF)]
    found = read(tmp_path, [*rows, {**vad(0, 0), "Start VPN": None}], VADINFO, "regions")
    assert len(found.regions[0]) == 1
    assert any("line 3 (and 1 more): its addresses could not be read" in note for note in found.notes)
    assert any("line 4: repeats another one" in note for note in found.notes)


def test_regions_that_overlap_are_counted(tmp_path: Path) -> None:
    """Regions that share addresses, as no honest system has them, are noted."""
    rows = [vad(0x1000, 0x4FFF), vad(0x2000, 0x2FFF), vad(0x8000, 0x8FFF)]
    found = read(tmp_path, rows, VADINFO, "regions")
    assert found.regions[0].overlapping == 2
    assert any("2 regions share addresses" in note for note in found.notes)


@pytest.mark.parametrize("name", RENDERERS)
@pytest.mark.parametrize(("start", "last"), [(0x2000, 0xFFF), (1, 0), ((1 << 64) - 1, 0)])
def test_a_region_that_ends_before_it_begins_is_named(name: str, start: int, last: int, tmp_path: Path) -> None:
    """Such a row is an error with its line: the table is damaged."""
    path = put(tmp_path / "table", RENDERERS[name]([vad(0, 0xFFF), vad(start, last)], VADINFO))
    with pytest.raises(MapError, match=rf"(line|row) \d+: the region at 0x{start:x} ends at 0x{last:x}"):
        regions(path, 4)


def test_the_ends_of_the_address_space(tmp_path: Path) -> None:
    """Address 0 and 2**64 are legal; what reaches beyond is not; a Unix region without bytes is noted."""
    for start, last in ((0, (1 << 64) - 2), (1, (1 << 64) - 1)):
        (row,) = regions(put(tmp_path / "table", listings.csv([vad(start, last)], VADINFO)), 4)
        assert (row.start, row.end) == (start, last + 1)
    with pytest.raises(MapError, match="line 2: the region is all of the address space"):
        regions(put(tmp_path / "table", listings.csv([vad(0, (1 << 64) - 1)], VADINFO)), 4)
    row = vma(0x800000000000, 0x1000000000000000, None)
    with pytest.raises(MapError, match="line 2: "):
        regions(put(tmp_path / "table", listings.csv([row], LINUX)), 4)
    found = read(tmp_path, [vma(0x1000, 0x1000, None), vma(0x1000, 0x2000, None)], LINUX, "regions")
    assert [(row.start, row.end) for row in found.regions[0]] == [(0x1000, 0x2000)]
    assert any("line 2: the region is of size 0; not used" in note for note in found.notes)


def test_a_forged_module_does_no_harm(tmp_path: Path) -> None:
    """The list of modules lies in the process's own memory: an entry that cannot be is noted, the others are used."""
    rows = [
        dll((1 << 64) - 0x1000, 0x2000, "a", "a"),
        dll(0x1000, 0x1000, "b\x1b[31m", "\ud800"),
        dll(None, 1, "c", "c"),
    ]
    found = read(tmp_path, rows, DLLLIST, "modules")
    assert list(found.modules[0].rows) == [Module(0x1000, 0x1000, "b\x1b[31m", "\ud800")]
    assert any("line 2: the module at 0xfffffffffffff000" in note for note in found.notes)
    assert any("line 4: its base could not be read" in note for note in found.notes)


# whose rows


@pytest.mark.parametrize("renderer", RENDERERS)
def test_the_rows_of_the_process_are_taken(renderer: str, tmp_path: Path) -> None:
    """Of a table of several processes only the rows of the one are used."""
    path = put(tmp_path / "table", RENDERERS[renderer](BOTH, VADINFO))
    assert [row.start for row in regions(path, 4)] == [0x1000, 0x7000]
    assert [row.start for row in regions(path, 8)] == [0x5000]
    with pytest.raises(ProcessError, match="no row of process 12; it holds rows of: 4, 8"):
        regions(path, 12)
    with pytest.raises(UsageError, match=r"rows of 2 processes \(4, 8\)"):
        regions(path)


def test_a_damaged_row_of_another_process_does_no_harm(tmp_path: Path) -> None:
    """What cannot be of another process does not concern this one."""
    path = put(tmp_path / "table", listings.quick([*BOTH, vad(9, 1, pid=8)], VADINFO))
    assert len(regions(path, 4)) == 2
    with pytest.raises(MapError):
        regions(path, 8)


def test_a_table_of_one_process_is_enough_where_the_pid_is_unknown(tmp_path: Path) -> None:
    """Where nothing says which process a dump is of, a table of one process is taken, and a note says so."""
    path = put(tmp_path / "table", listings.quick(BOTH[1:2], VADINFO))
    found = metadata_from_files({"regions": (path,)}, None)
    assert [row.start for row in found.regions[0]] == [0x5000]
    assert any("all rows are of process 8" in note for note in found.notes)


def test_a_table_without_rows_is_refused(tmp_path: Path) -> None:
    """A header without rows says nothing: it may have been cut off there, and is no empty list of modules."""
    path = put(tmp_path / "table", listings.quick([], DLLLIST))
    with pytest.raises(ProcessError, match="holds no row"):
        metadata_from_files({"modules": (path,)}, 4)


@pytest.mark.parametrize("kind", ["regions", "modules", "threads"])
def test_a_table_of_another_kind_is_refused_with_its_own_option(kind: str, tmp_path: Path) -> None:
    """A list of modules is no list of regions, and so on: the message says where it belongs."""
    tables = {
        "regions": [
            listings.quick(BOTH, VADINFO),
            listings.quick([vma(0, 4096, None)], LINUX),
            listings.quick([], MAC),
            listings.quick([], VADWALK),
            b"00001000-00002000 rw-p 00000000 00:00 0\n",
        ],
        "modules": [listings.quick([], DLLLIST)],
        "threads": [listings.quick([], THREADS)],
    }
    for holds in tables.keys() - {kind}:
        for data in tables[holds]:
            path = put(tmp_path / "table", data)
            with pytest.raises(NotRecognisedError, match=f"holds {holds}, not {kind}; give it with {holds}="):
                metadata_from_files({kind: (path,)}, 4)


def test_several_files_are_several_sources(tmp_path: Path) -> None:
    """Each file that is given is a source of its own, in the order given; what was used can be recorded."""
    first = put(tmp_path / "a.csv", listings.csv(BOTH, VADINFO))
    second = put(tmp_path / "b.json", listings.json_array(BOTH, VADINFO))
    found = metadata_from_files({"regions": (first, second)}, 4)
    files = found.files
    assert [each.source for each in found.regions] == ["windows.vadinfo (a.csv)", "windows.vadinfo (b.json)"]
    assert found.regions[0].rows == found.regions[1].rows
    with open(second, "rb") as file:
        data = file.read()
        status = os.fstat(file.fileno())
    modified = np.datetime64(files[1].pop("modified").removesuffix("Z"), "ns")
    assert modified == np.datetime64(status.st_mtime_ns, "ns")
    assert (files[1].pop("device"), files[1].pop("inode")) == (status.st_dev, status.st_ino)
    assert files[1] == {
        "kind": "regions",
        "path": second,
        "size": len(data),
        "format": "windows.vadinfo, volatility3 json",
        "sha256": hashlib.sha256(data).hexdigest(),
    }


@pytest.mark.parametrize(("bits", "start"), [(32, 0xC0000000), (36, 0xC0000000), (48, 0xC0000000), (32, 0x80000000)])
def test_addresses_of_32_bits(tmp_path: Path, bits: int, start: int) -> None:
    """Where addresses have 32 bits, the upper half of them is nothing that must be extended."""
    path = tmp_path / "maps"
    path.write_text(f"{start:08x}-{start + 0x1000:08x} r-xp 00000000 00:00 0 \n")
    found = metadata_from_files({"regions": (str(path),)}, None, address_bits=bits)
    assert [row.start for row in found.regions[0]] == [start]
