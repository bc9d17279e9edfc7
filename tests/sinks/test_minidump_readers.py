"""Minidumps of memcarve's, asked of independent readers: minidump, udmp-parser, lldb, angr's cle."""

from __future__ import annotations

import io
import json
import os
import re
import struct
import subprocess
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pytest

import memcarve
import minidumps
import winimage
from cores import lldb
from files import EXAMPLE, ROOT
from memcarve.metadata import Metadata, SourceRows, Thread
from memcarve.process import Platform, ProcessMemory, Selection
from memcarve.sources.recognised import MINIDUMP
from memcarve.space import AddressSpace
from memory import PAGE, Memory, noise
from opening import opened_as
from processes import process_of, process_with
from sinking import How, export_minidump

if TYPE_CHECKING:
    from pathlib import Path

REGISTERS = minidumps.some_registers(minidumps.AMD64_REGISTERS)
#: what VADs say, as loaders should see it: readable, writable, executable
LETTERS = {
    "PAGE_READONLY": "r--",
    "PAGE_READWRITE": "rw-",
    "PAGE_EXECUTE_READWRITE": "rwx",
    "PAGE_EXECUTE_WRITECOPY": "r-x",
    None: "---",
}
NUMBERS = {"---": 0, "r--": 2, "rw-": 4, "r-x": 0x20, "rwx": 0x40}
#: what cle prints of a minidump, as JSON
CLE = """
import json, logging, sys
logging.disable()
import cle
file, *addresses = sys.argv[1:]
main = cle.Loader(file, auto_load_libs=False).main_object
memory = []
for address in map(int, addresses):
    try:
        memory.append(main.memory.load(address - main.mapped_base, 8).hex())
    except KeyError:
        memory.append(None)
print(json.dumps({
    "arch": main.arch.name,
    "memory": memory,
    "modules": {name: [section.vaddr, section.memsize] for name, section in main.sections_map.items()},
    "threads": {thread: main.thread_registers(thread)["gs_const"] for thread in main.threads},
}))
"""


class Exported(NamedTuple):
    """A process, the minidump made of it, and what must be in it.

    `ranges` are start, size and letters, `modules` name and size by base; `tebs`, by thread, are those that are there
    and lead to themselves. `unloaded` are base, size, check sum, time stamp and name; None: they are not known.
    """

    process: ProcessMemory
    path: Path
    ranges: list[tuple[int, int, str]]
    modules: dict[int, tuple[str, int]]
    threads: list[int]
    tebs: dict[int, int]
    unloaded: list[tuple[int, int, int, int, str]] | None = None

    def addresses(self) -> list[int]:
        """Return addresses around the bounds of ranges, some of which are not there."""
        found = {0x10, 0x7FF000000000}
        for start, size, _ in self.ranges:
            found |= {start, start + size // 2, start + size - 8, start + size, start - 8}
        return sorted(found)

    def expected(self, address: int) -> bytes | None:
        """Return the eight bytes at an address, None where they are not in one range."""
        if not any(start <= address and address + 8 <= start + size for start, size, _ in self.ranges):
            return None
        return self.process.space.read(address, 8)


def joined(letters: dict[int, str | None], places: set[int]) -> list[tuple[int, int, str]]:
    """Return ranges of pages; they end at gaps, at changes of permissions, and at `places`."""
    found: list[tuple[int, int, str]] = []
    for page in sorted(letters):
        word = letters[page] or "---"
        if found and found[-1][0] + found[-1][1] == page and found[-1][2] == word and page not in places:
            found[-1] = found[-1][0], found[-1][1] + PAGE, word
        else:
            found.append((page, PAGE, word))
    return found


def example(folder: Path) -> Exported:
    """Export the example; what regions and modules are known is read from its tables."""
    examples = ROOT / "examples"
    process = memcarve.open(EXAMPLE, regions=examples / "vadinfo.txt", modules=examples / "dlllist.txt").process()
    registers = Thread(4, 0x17F0D130000, 0x17F25680000, 0x17F25690000, 0x7FF673401000, REGISTERS)
    metadata = process.metadata + Metadata(threads=(SourceRows("made up", [registers, Thread(8)]),))
    process.metadata = metadata
    vads = [line.split("\t") for line in (examples / "vadinfo.txt").read_text().splitlines()[4:] if line]
    regions = [(int(row[3], 16), int(row[4], 16) + 1, row[6]) for row in vads]
    rows = [line.split("\t") for line in (examples / "dlllist.txt").read_text().splitlines()[4:] if line]
    modules = {int(row[2], 16): (row[5], int(row[3], 16)) for row in rows}
    pages = {}
    for each in process.segments():
        for page in range(each.start, each.end, PAGE):
            pages[page] = next((LETTERS[word] for start, end, word in regions if start <= page < end), None)
    places = {place for start, end, _ in regions for place in (start, end)}
    path = folder / "example.mdmp"
    export_minidump(process, path, platform=Platform("windows", 10, 0, 19041))
    return Exported(process, path, joined(pages, places), modules, [4, 8], {})


def image(folder: Path) -> Exported:
    """Export a process of an image; what is known of it is its plan."""
    truth = winimage.build(folder / "mem.raw", layout=8, processes=winimage.USERLAND)
    process = memcarve.open(truth.path).process(1624)
    plan = truth.process(1624)
    assert plan.userland is not None
    pages, places = {}, set()
    for vad in plan.userland.vads:
        places |= {vad.start, vad.end}
    size = os.path.getsize(truth.path)
    for address, length, physical, _, writable, executable, state in plan.user.items():
        if physical + length <= size:
            word = f"r{'w' if writable else '-'}{'x' if executable else '-'}" if state == "present" else None
            pages |= dict.fromkeys(range(address, address + length, PAGE), word)
    modules = {row.base: row for row in plan.userland.modules}
    places |= {place for start, row in modules.items() for place in (start, start + row.size)}
    path = folder / "image.mdmp"
    export_minidump(process, path, How(Selection(half="user")))
    planned = sorted(plan.userland.threads, key=lambda row: row.tid)
    tebs = {row.tid: row.teb for row in planned if row.mapped}
    there = {start: (row.path, row.size) for start, row in modules.items() if row.name != "gone.dll"}
    assert plan.userland.trace is not None
    unloaded = [
        (event.base, event.size, event.checksum, event.timestamp, event.name.replace("\ud800", "\ufffd"))
        for event in plan.userland.trace.events
    ]
    return Exported(process, path, joined(pages, places), there, [row.tid for row in planned], tebs, unloaded)


@pytest.fixture(scope="module", params=[example, image])
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """Return what was exported, of each kind."""
    return request.param(tmp_path_factory.mktemp("readers"))


def test_minidump(exported: Exported, caplog: pytest.LogCaptureFixture) -> None:
    """Skelsec's minidump, on which pypykatz is built, has the same memory, modules, threads, system and protections."""
    minidumpfile = pytest.importorskip("minidump.minidumpfile", reason="minidump is not installed")
    caplog.set_level("CRITICAL")  # it looks for a PEB, which need not be there
    found = minidumpfile.MinidumpFile.parse_buff(io.BytesIO(exported.path.read_bytes()))
    segments = found.memory_segments_64.memory_segments
    assert [(each.start_virtual_address, each.size) for each in segments] == [row[:2] for row in exported.ranges]
    reader = found.get_reader()
    for address in exported.addresses():
        expected = exported.expected(address)
        if expected is None:
            with pytest.raises(Exception, match=r"not in memory range|read over"):
                reader.read(address, 8)
        else:
            assert reader.read(address, 8) == expected
    assert {each.baseaddress: (each.name, each.size) for each in found.modules.modules} == exported.modules
    unloaded = found.unloaded_modules and [
        (each.baseaddress, each.size, each.checksum, each.timestamp, each.name)
        for each in found.unloaded_modules.modules
    ]
    assert unloaded == exported.unloaded
    assert found.sysinfo.ProcessorArchitecture.name == "AMD64"
    assert found.sysinfo.OperatingSystem.startswith("Windows 10")
    assert found.misc_info.ProcessId == 1624
    infos = {each.BaseAddress: each.Protect.value if each.Protect else 0 for each in found.memory_info.infos}
    known = {start: NUMBERS[word] for start, _, word in exported.ranges if word != "---"}
    assert {start: infos[start] for start in known} == known
    threads = {each.ThreadId: each for each in found.threads.threads}
    assert set(threads) == set(exported.threads)
    if 8 in threads:
        context = threads[4].ContextObject
        assert (context.Rip, context.R15, context.Rsp) == (REGISTERS["rip"], REGISTERS["r15"], REGISTERS["rsp"])
        assert json.loads(found.comment_a.data.rstrip("\0"))["tool"] == "memcarve"


def test_udmp_parser(exported: Exported) -> None:
    """udmp-parser has the same memory, modules, threads and protections."""
    udmp_parser = pytest.importorskip("udmp_parser", reason="udmp-parser is not installed")
    found = udmp_parser.UserDumpParser()
    assert found.Parse(str(exported.path))
    for address in exported.addresses():
        expected = exported.expected(address)
        if expected is not None:
            assert bytes(found.ReadMemory(address, 8)) == expected
    assert {base: (each.ModuleName, each.SizeOfImage) for base, each in found.Modules().items()} == exported.modules
    assert all(bytes(each.CvRecord).startswith(b"RSDS") for each in found.Modules().values())
    blocks = {start: (each.Protect, each.RegionSize) for start, each in found.Memory().items()}
    known = {start: (NUMBERS[word], size) for start, size, word in exported.ranges if word != "---"}
    assert {start: blocks[start] for start in known} == known
    threads = found.Threads()
    assert set(threads) == set(exported.threads)
    if 8 in threads:
        assert (threads[4].Context.Rip, threads[4].Context.Rbp) == (REGISTERS["rip"], REGISTERS["rbp"])
        assert threads[4].Teb == 0x17F0D130000


def test_lldb(exported: Exported, tmp_path: Path) -> None:
    """Lldb, the debugger, has the same memory, modules, permissions and threads."""
    wanted = [address for address in exported.addresses() if exported.expected(address) is not None][:120]
    files = [tmp_path / f"{address:x}" for address in wanted]
    commands = [
        f"memory read --force --binary --outfile {file} --count 8 0x{address:x}"
        for address, file in zip(wanted, files, strict=True)
    ]
    known = [row for row in exported.ranges if row[2] != "---"]
    commands += [f"memory region 0x{start:x}" for start, _, _ in known]
    text = lldb(exported.path, *commands, "image list -h -f", "thread list", "register read rip r15 rsp", "target list")
    assert [file.read_bytes() for file in files] == [exported.expected(address) for address in wanted]
    regions = re.findall(r"\[0x(\w+)-0x(\w+)\) (...)", text)
    assert [(int(start, 16), int(end, 16), word) for start, end, word in regions] == [
        (start, start + size, word) for start, size, word in known
    ]
    modules = re.findall(r"(?m)^\[ *\d+\] 0x(\w+) (\S.*?) *$", text)
    assert {int(base, 16): name for base, name in modules} == {
        base: name for base, (name, _) in exported.modules.items()
    }
    assert "arch=x86_64-pc-windows" in text
    assert "pid=1624" in text
    threads = [int(tid, 16) for tid in re.findall(r"thread #\d+: tid = 0x(\w+)", text)]
    assert sorted(threads) == exported.threads
    if 8 in threads:
        shown = {name: int(value, 16) for name, value in re.findall(r"(\w+) = 0x(\w+)", text)}
        assert (shown["rip"], shown["r15"], shown["rsp"]) == tuple(REGISTERS[name] for name in ("rip", "r15", "rsp"))


def test_cle(exported: Exported, tmp_path: Path) -> None:
    """Angr's loader has the same memory, modules and threads, where nothing is listed that it refuses."""
    pytest.importorskip("cle", reason="cle is not installed")
    addresses = [address for address in exported.addresses() if address < 1 << 63]
    path = tmp_path / "for-angr.mdmp"
    export_minidump(exported.process, path, How(Selection(half="user")), resident=True)
    found = run_cle(path, *map(str, addresses))
    assert found["arch"] == "AMD64"
    whole = {start + size for start, size, _ in exported.ranges}
    for address, data in zip(addresses, found["memory"], strict=True):
        expected = exported.expected(address)
        if expected is not None or address + 8 not in whole:  # cle reads across neighbours
            assert data == (None if expected is None else expected.hex()), hex(address)
    assert found["modules"] == {
        name.rpartition("\\")[2]: [base, size] for base, (name, size) in exported.modules.items()
    }
    assert found["threads"] == {str(tid): teb for tid, teb in exported.tebs.items()}


def run_cle(path: Path, *addresses: str) -> Any:
    """Return what cle says of a minidump."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", CLE, str(path), *addresses], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def beyond_4_gib(path: Path) -> bytes:
    """Write a minidump of a process of more than 4 GiB, but for its zeros; return the page at 2**44, its last."""
    size = (1 << 32) + PAGE
    columns = (np.array([[0x10000], [size], [0]], np.uint64), np.array([[1 << 44], [PAGE], [size]], np.uint64))
    space = AddressSpace(*np.concatenate(columns, axis=1), Memory(b""))
    calls: list[tuple[Any, ...]] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("memcarve.sinks.minidump.write_file", lambda *given, **_: calls.append(given))
        export_minidump(process_with(space, pid=4), path)
    plan = calls[0][1]
    with path.open("wb") as file:
        file.writelines(plan.head)
        assert file.tell() == plan.base
        file.seek(plan.base + int(plan.ranges.size[0]))
        file.write(noise(10))
    return noise(10)


def test_beyond_4_gib(tmp_path: Path) -> None:
    """More than 4 GiB of memory: all structures lie before it, and only its own offset has 64 bits."""
    path = tmp_path / "large.mdmp"
    last = beyond_4_gib(path)
    with opened_as(MINIDUMP, path) as container:
        process = container.process()
        assert process.space.read(1 << 44, PAGE) == last
        assert process.space.total == (1 << 32) + 2 * PAGE
        assert process.input_bytes == path.stat().st_size


def test_lldb_beyond_4_gib(tmp_path: Path) -> None:
    """Lldb finds memory that lies behind the first 4 GiB of a minidump's bytes; the file is mostly a hole."""
    path = tmp_path / "large.mdmp"
    expected = beyond_4_gib(path)
    lldb(path, f"memory read --force --binary --outfile {tmp_path / 'out'} --count {PAGE} 0x{1 << 44:x}")
    assert (tmp_path / "out").read_bytes() == expected


def test_lldb_x86(tmp_path: Path) -> None:
    """Lldb reads a minidump of 32 bits, registers and all."""
    registers = minidumps.some_registers(minidumps.X86_REGISTERS)
    metadata = Metadata(threads=(SourceRows("list", [Thread(4, registers=registers)]),))
    path = tmp_path / "narrow.mdmp"
    space = process_of([0x10, 0x11]).space
    process = process_with(space, pid=4, architecture="x86", metadata=lambda: metadata)
    export_minidump(process, path, How(Selection(address=[(0, 1 << 32)])))
    text = lldb(
        path, "register read eip esp edi eflags", "memory read --format x --size 4 --count 1 0x10000", "target list"
    )
    shown = {name: int(value, 16) for name, value in re.findall(r"(\w+) = 0x(\w+)", text)}
    assert {name: shown[name] for name in ("eip", "esp", "edi")} == {
        name: registers[name] for name in ("eip", "esp", "edi")
    }
    assert f"0x{struct.unpack('<I', process.space.read(0x10000, 4))[0]:08x}" in text
    assert "arch=i386" in text
