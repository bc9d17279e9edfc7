"""Real programs and libraries mapped by models of loaders, and extracted: held against their files, LIEF, pefile.

Where the files come from: see test_headers.py (PE), this very program (ELF), test_real.py (a process of Wine's).
"""

from __future__ import annotations

import glob
import json
import os
import shutil
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import memcarve
from carved import undone
from headers import mapped
from memcarve.labels.modules import find_modules
from memcarve.metadata import Module, Region
from memory import PAGE
from processes import metadata_of, process_of
from real import STEM, needed, needed_dlls
from sinking import extract

BASES = {"AMD64": 0x7FFA_1234_0000, "I386": 0x6234_0000, "ARM64": 0x7FFA_1234_0000}
LIBRARY = 0x7F12_3456_7000
#: every page whose number leaves this rest is not in memory, but the first one always is
DROPPED = 5
LIBRARIES = ("/usr/lib/*-linux-gnu/libc.so.6", "/usr/lib/*-linux-gnu/libm.so.6", "/usr/lib/*-linux-gnu/libz.so.1",
             "/usr/lib/*-linux-gnu/liblzma.so.5", "/usr/lib/*-linux-gnu/libstdc++.so.6", "/usr/bin/bash",
             "/usr/lib/*-linux-gnu/ld-linux-*.so.*")  # fmt: skip
#: what glibc's loader makes absolute: DT_HASH, STRTAB, SYMTAB, RELA, JMPREL, PLTGOT, VERSYM, GNU_HASH
RELOCATED = {4, 5, 6, 7, 0x17, 3, 0x6FFFFFF0, 0x6FFFFEF5}


def pages_of(memory: bytes, base: int, *, drop: bool) -> dict[int, bytes]:
    """Return memory as pages by number, without those that are dropped."""
    numbers = range((len(memory) + PAGE - 1) // PAGE)
    kept = [number for number in numbers if not (drop and number % DROPPED == DROPPED - 1)]
    return {base // PAGE + number: memory[number * PAGE :][:PAGE].ljust(PAGE, b"\0") for number in kept}


def extracted(pages: dict[int, bytes], out: Path, metadata: Any = None, **options: Any) -> tuple[bytes, dict[str, Any]]:
    """Extract the one module that pages hold at their beginning; return its file, and what is said of it."""
    process = process_of(dict.fromkeys(pages), metadata, pages)
    first = min(pages) * PAGE
    found = [module for module in find_modules(process).modules if module.start == first]
    shutil.rmtree(out, ignore_errors=True)
    extract(process, out, found, **options)
    (module,) = json.loads((out / "modules.json").read_text())["modules"]
    return (out / module["file"]).read_bytes(), module


def residency(module: dict[str, Any]) -> set[int]:
    """Return the numbers of the pages that are said to be missing."""
    gaps = [gap for row in module["sections"] for gap in row["missing"]]
    return {at // PAGE for gap in gaps for at in range(int(gap["start"], 16), int(gap["end"], 16), PAGE)}


@pytest.mark.parametrize("drop", [False, True], ids=["whole", "pages dropped"])
def test_real_dlls(tmp_path: Path, drop: bool) -> None:  # noqa: FBT001
    """Each section of an extracted DLL is the section of its file where it is in memory, zeros where it is not."""
    lief, pefile = pytest.importorskip("lief"), pytest.importorskip("pefile")
    for path in needed_dlls()[:24]:
        with open(path, "rb") as file:
            data = file.read()
        original = lief.PE.parse(data)
        base = BASES[original.header.machine.name]
        memory = mapped(original, data)
        pages = pages_of(memory, base, drop=drop)
        made, module = extracted(pages, tmp_path / "out")
        parsed, other = lief.PE.parse(made), pefile.PE(data=made, fast_load=True)
        assert parsed.optional_header.imagebase == base
        assert [row.name for row in parsed.sections] == [row.name for row in original.sections]
        before = pefile.PE(data=data, fast_load=True)
        restored = undone(made, module)
        for old, new, third in zip(before.sections, parsed.sections, other.sections, strict=True):
            assert (new.virtual_address, new.virtual_size) == (old.VirtualAddress, old.Misc_VirtualSize)
            assert new.characteristics == old.Characteristics
            assert new.pointerto_raw_data % parsed.optional_header.file_alignment == 0
            assert new.sizeof_raw_data % parsed.optional_header.file_alignment == 0
            assert third.PointerToRawData == new.pointerto_raw_data
            stored = data[old.PointerToRawData :][: min(old.SizeOfRawData, old.Misc_VirtualSize)]
            content = restored[new.pointerto_raw_data :][: new.sizeof_raw_data]
            assert len(content) >= old.Misc_VirtualSize
            for at in range(0, len(content), PAGE):
                there = (base + new.virtual_address + at) // PAGE in pages
                assert content[at : at + PAGE] == (stored[at : at + PAGE] if there else b"").ljust(PAGE, b"\0"), path
        gone = {base // PAGE + number for number in range(len(memory) // PAGE)} - pages.keys()
        assert residency(module) == gone
        assert module["missing_bytes"] == len(gone) * PAGE
        if not drop:
            assert_same_tables(original, parsed, path)
            with_debug = pefile.PE(data=made)
            assert not [text for text in with_debug.get_warnings() if "Error" in text or "Invalid" in text], path


def assert_same_tables(original: Any, parsed: Any, path: str) -> None:
    """Hold what an extracted file exports and imports against the original; certificates and symbols are gone."""
    assert parsed.has_exports == original.has_exports
    if original.has_exports:
        names = [(entry.name, entry.ordinal, entry.address) for entry in original.get_export().entries]
        assert [(entry.name, entry.ordinal, entry.address) for entry in parsed.get_export().entries] == names, path
    imports = [(row.name, [entry.name for entry in row.entries]) for row in original.imports]
    assert [(row.name, [entry.name for entry in row.entries]) for row in parsed.imports] == imports, path
    assert len(parsed.relocations) == len(original.relocations)
    assert parsed.header.pointerto_symbol_table == parsed.header.numberof_symbols == 0
    assert not parsed.has_signatures


def test_real_dlls_as_in_memory(tmp_path: Path) -> None:
    """As in memory, a DLL's file is its memory, byte for byte; found by a list without its header, too."""
    lief = pytest.importorskip("lief")
    for path in needed_dlls()[:6]:
        with open(path, "rb") as file:
            data = file.read()
        original = lief.PE.parse(data)
        base = BASES[original.header.machine.name]
        memory = mapped(original, data)
        pages = pages_of(memory, base, drop=True)
        expected = b"".join(
            pages.get(base // PAGE + number, bytes(PAGE))[: len(memory) - number * PAGE]
            for number in range((len(memory) + PAGE - 1) // PAGE)
        )
        made, _ = extracted(pages, tmp_path / "out", layout="memory")
        assert made == expected, path
        metadata = metadata_of(modules=[Module(base, len(memory), "x.dll")])
        process = process_of({number: None for number in pages if number != base // PAGE}, metadata, pages)
        extract(process, tmp_path / "listed", find_modules(process).modules)
        found = (tmp_path / "listed" / f"0x{base:016x}.x.dll.bin").read_bytes()
        assert found == bytes(PAGE) + expected[PAGE:], path
        shutil.rmtree(tmp_path / "listed")


def test_real_dlls_that_were_read(tmp_path: Path) -> None:
    """A DLL that was read into memory is told from one that is mapped, and copied as it lies."""
    lief = pytest.importorskip("lief")
    for path in needed_dlls()[:24]:
        with open(path, "rb") as file:
            data = file.read()
        original = lief.PE.parse(data)
        made, module = extracted(pages_of(data, 0x5000_0000, drop=False), tmp_path / "out")
        same = all(row.pointerto_raw_data in (0, row.virtual_address) for row in original.sections)
        if not same:  # then both are one
            assert module["layout"] == "as it lies", path
            assert made == data[: len(made)], path
            assert len(made) >= max(row.pointerto_raw_data + row.sizeof_raw_data for row in original.sections)


def libraries() -> list[str]:
    """Return real programs and libraries, or skip the test."""
    found = sorted({os.path.realpath(path) for place in LIBRARIES for path in glob.glob(place)})
    if not found:
        pytest.skip(f"none of {', '.join(LIBRARIES)} is here")
    return found


def loaded(oracle: Any, data: bytes, lief: Any) -> bytes:
    """Map a library as the kernel and glibc's loader do: whole pages of the file, zeros behind what is stored."""
    loads = [row for row in oracle.segments if row.type == lief.ELF.Segment.TYPE.LOAD]
    end = max(row.virtual_address + row.virtual_size for row in loads)
    memory = bytearray(end + -end % PAGE)
    for row in loads:
        skew = row.virtual_address % PAGE
        size = skew + row.physical_size
        size += -size % PAGE
        part = data[row.file_offset - skew :][:size].ljust(size, b"\0")
        if row.virtual_size > row.physical_size:
            part = part[: skew + row.physical_size].ljust(size, b"\0")
        memory[row.virtual_address - skew : row.virtual_address - skew + size] = part
    dynamic = next((row for row in oracle.segments if row.type == lief.ELF.Segment.TYPE.DYNAMIC), None)
    for at in range(dynamic.virtual_address, dynamic.virtual_address + dynamic.virtual_size, 16) if dynamic else ():
        tag, value = struct.unpack_from("<qQ", memory, at)
        if tag in RELOCATED:
            struct.pack_into("<Q", memory, at + 8, value + LIBRARY)
    return bytes(memory)


@pytest.mark.parametrize("drop", [False, True], ids=["whole", "pages dropped"])
def test_real_libraries(tmp_path: Path, drop: bool) -> None:  # noqa: FBT001
    """What an extracted library loads is what its file loads, where it is in memory; its symbols are all there."""
    lief = pytest.importorskip("lief")
    for path in libraries():
        with open(path, "rb") as file:
            data = file.read()
        original = lief.ELF.parse(data)
        memory = loaded(original, data, lief)
        pages = pages_of(memory, LIBRARY, drop=drop)
        made, module = extracted(pages, tmp_path / "out")
        assert module["layout"] == "file"
        parsed = lief.ELF.parse(made)
        # section headers are not in memory: e_shoff, e_shnum, e_shstrndx
        told = data[:40] + bytes(8) + data[48:60] + bytes(4) + data[64:]
        for row in original.segments:
            if row.type != lief.ELF.Segment.TYPE.LOAD:
                continue
            start, end = row.file_offset, row.file_offset + row.physical_size
            compare(made, told, pages, (start, end, row.virtual_address - row.file_offset), path)
        if not drop:
            names = [(symbol.name, symbol.value) for symbol in original.dynamic_symbols]
            assert [(symbol.name, symbol.value) for symbol in parsed.dynamic_symbols] == names, path
            assert [row.name for row in parsed.dynamic_entries if hasattr(row, "name")] == [
                row.name for row in original.dynamic_entries if hasattr(row, "name")
            ]


def test_real_libraries_in_readelf(tmp_path: Path) -> None:
    """Of an extracted library readelf reads headers and dynamic section, and complains of nothing."""
    lief = pytest.importorskip("lief")
    readelf = shutil.which("readelf")
    if readelf is None:
        pytest.skip("readelf is missing (binutils)")
    for path in libraries():
        with open(path, "rb") as file:
            data = file.read()
        memory = loaded(lief.ELF.parse(data), data, lief)
        made, _ = extracted(pages_of(memory, LIBRARY, drop=False), tmp_path / "out")
        (tmp_path / "made").write_bytes(made)
        ran = subprocess.run(
            [readelf, "-hldW", tmp_path / "made"], capture_output=True, text=True, check=True,
            env={**os.environ, "LC_ALL": "C"},
        )  # fmt: skip
        assert not ran.stderr, path
        assert os.path.basename(path).split(".so")[0] in ran.stdout or "SONAME" not in ran.stdout


def compare(made: bytes, data: bytes, pages: dict[int, bytes], where: tuple[int, int, int], path: str) -> None:
    """Hold a stretch of an extracted file against the original: the same where in memory, else zeros."""
    start, end, skew = where
    at = start
    while at < end:
        address = LIBRARY + skew + at
        upto = min(at + PAGE - address % PAGE, end)
        expected = data[at:upto] if address // PAGE in pages else bytes(upto - at)
        assert made[at:upto] == expected, (path, hex(at))
        at = upto


@pytest.mark.skipif(sys.platform != "linux", reason="reads its own memory, as Linux lets programs")
def test_own_libraries(tmp_path: Path) -> None:
    """Libraries of this very program, from its live memory: code as in the file, dynamic symbols as in the file."""
    lief = pytest.importorskip("lief")
    with open("/proc/self/maps", encoding="utf-8") as maps:
        rows = [row for row in (line.rstrip("\n").split(None, 5) for line in maps) if len(row) > 5]
    wanted = [path for path in dict.fromkeys(row[5] for row in rows) if ".so" in path and os.path.isfile(path)]
    sizes = {path: os.path.getsize(path) for path in wanted}
    for path in sorted(wanted, key=lambda path: sizes[path])[:12]:
        regions, pages = [], {}
        with open("/proc/self/mem", "rb", buffering=0) as memory:
            for row in [row for row in rows if row[5] == path]:
                start, end = (int(word, 16) for word in row[0].split("-"))
                regions.append(Region(start, end - start, row[1], "mapped", path, offset=int(row[2], 16)))
                for at in range(start, end, PAGE) if row[1][0] == "r" else ():
                    memory.seek(at)
                    pages[at // PAGE] = memory.read(PAGE)
        made, module = extracted(pages, tmp_path / "out", metadata_of(regions))
        with open(path, "rb") as file:
            data = file.read()
        original, parsed = lief.ELF.parse(data), lief.ELF.parse(made)
        assert module["loaded"], path
        for segment in original.segments:
            if segment.type == lief.ELF.Segment.TYPE.LOAD and not segment.has(lief.ELF.Segment.FLAGS.W):
                part = slice(segment.file_offset, segment.file_offset + segment.physical_size)
                changed = undone(made, module)
                header = 64 if segment.file_offset == 0 else 0  # where the section table was taken out
                assert changed[part][header:] == data[part][header:], path
                assert changed[part][:40] == data[part][:40], path
        assert [row.name for row in parsed.dynamic_symbols] == [row.name for row in original.dynamic_symbols], path


def test_ordinary_core_of_gcore(tmp_path: Path) -> None:
    """Of a core that gcore wrote as it usually does, without code, every program and library is extracted, by name."""
    lief = pytest.importorskip("lief")
    gcore, sleep = shutil.which("gcore"), shutil.which("sleep")
    if gcore is None or sleep is None:
        pytest.skip("gcore (gdb) or sleep (coreutils) is missing")
    with subprocess.Popen([sleep, "60"]) as child:
        try:
            # until the loader is through
            deadline = time.monotonic() + 10
            while "libc" not in Path(f"/proc/{child.pid}/maps").read_text() and time.monotonic() < deadline:
                time.sleep(0.02)
            ran = subprocess.run([gcore, "-o", tmp_path / "core", str(child.pid)], capture_output=True, check=False)
            rows = [line.split(None, 5) for line in Path(f"/proc/{child.pid}/maps").read_text().splitlines()]
        finally:
            child.kill()
    core = tmp_path / f"core.{child.pid}"
    if not core.exists():
        pytest.skip(f"gcore may not look into a process here: {ran.stderr.decode()[-200:]}")
    files = {row[5] for row in rows if len(row) > 5 and "x" in row[1] and row[5].startswith("/")}
    expected = {int(row[0].split("-")[0], 16): row[5] for row in rows
                if len(row) > 5 and row[5] in files and int(row[2], 16) == 0}  # fmt: skip
    assert len(expected) == len(files) >= 2
    with memcarve.open(core) as container:
        process = container.process()
        result = extract(process, tmp_path / "out", find_modules(process).modules)
    modules = json.loads((tmp_path / "out" / "modules.json").read_text())["modules"]
    found = {int(row["base"], 16): row for row in modules}
    assert {start: row["path"] for start, row in found.items() if "path" in row} == expected
    for start, path in expected.items():
        row = found[start]
        assert (row["name"], row["layout"]) == (os.path.basename(path), "file")
        assert 0 < row["resident"] < row["bytes"]
        made = (tmp_path / "out" / row["file"]).read_bytes()
        original, parsed = lief.ELF.parse(Path(path).read_bytes()), lief.ELF.parse(made)
        assert [(part.type, part.file_offset) for part in parsed.segments] == [
            (part.type, part.file_offset) for part in original.segments
        ]
    assert result.count == len(modules)


def test_process_of_wine(tmp_path: Path) -> None:
    """Of a real process of Wine's every program and library is extracted whose header is there: PE and ELF, parsed."""
    lief, pefile = pytest.importorskip("lief"), pytest.importorskip("pefile")
    maps = needed("114.maps")
    rows = [line.split(None, 5) for line in maps.read_text().splitlines()]
    executable = {row[5] for row in rows if len(row) > 5 and "x" in row[1]}
    first = {row[5]: int(row[0].split("-")[0], 16) for row in reversed(rows) if len(row) > 5 and int(row[2], 16) == 0}
    planned = {(first[path], path) for path in executable & first.keys() if path.startswith("/")}
    with memcarve.open(needed(f"{STEM}.dmp"), memory_map=needed(f"{STEM}.map"), regions=[maps]) as dump:
        process = dump.process()
        found = find_modules(process)
        result = extract(process, tmp_path / "out", found.modules)
        resident = {address for address, _ in planned if is_there(process, address)}
    document = json.loads((tmp_path / "out" / "modules.json").read_text())
    modules = {int(row["base"], 16): row for row in document["modules"]}
    assert {address for address, _ in planned} <= modules.keys()
    assert len(resident) > 15
    for address, path in planned:
        row = modules[address]
        assert row["path"] == path
        if address not in resident:
            continue
        assert row["layout"] == "file"
        data = (tmp_path / "out" / row["file"]).read_bytes()
        assert len(data) == row["bytes"] == row["resident"] + row["missing_bytes"] + padding(row)
        if row["header"]["format"] == "PE":
            parsed = lief.PE.parse(data)
            assert parsed.optional_header.imagebase == address
            assert len(parsed.sections) == len(pefile.PE(data=data, fast_load=True).sections) > 10
        else:
            binary = lief.ELF.parse(data)
            assert len(binary.segments) > 4
            assert len(binary.dynamic_symbols) > 10
    assert result.count >= len(resident)


def is_there(process: Any, address: int) -> bool:
    """Say whether a byte is in memory."""
    try:
        return len(process.space.read(address, 1)) == 1
    except memcarve.AddressError:
        return False


def padding(row: dict[str, Any]) -> int:
    """Return how many bytes of a file are of no part: between what is loaded."""
    return int(row["bytes"]) - sum(part["size"] for part in row["sections"] if part["offset"] is not None)
