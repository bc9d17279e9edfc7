"""A running Linux process: what is there of its memory, what is not, and that looking at it changes nothing."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import json
import mmap
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, strategies as st

import memcarve
import sinking
from carved import binaries, manifest
from cli import invoke
from files import listing
from memcarve.errors import AddressError, InputError, MapError, NotRecognisedError, SourceReadError, UsageError
from memcarve.intervals import Intervals
from memcarve.sources import proc
from memcarve.sources.opening import OpenOptions
from memcarve.sources.proc import live_pages
from memcarve.sources.proc.live_memory import Present
from memcarve.sources.proc.live_pages import mappings
from memcarve.sources.recognised import LIVE
from memory import content
from opening import opened_as

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memcarve.dtypes import Bools
    from memcarve.process import ProcessMemory

    Capture = pytest.CaptureFixture[bytes]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="live processes are read on Linux")

PAGE = mmap.PAGESIZE
MIB, GIB, TIB = 1 << 20, 1 << 30, 1 << 40

#: prepares memory of every kind, tells in a line of JSON where it is, and does what lines on its input say
PROGRAM = r"""
import ctypes, json, mmap, os, sys, threading
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
libc.syscall.restype = ctypes.c_long
PAGE = mmap.PAGESIZE
READ, WRITE, SHARED, PRIVATE, ANONYMOUS, NORESERVE = 1, 2, 1, 2, 0x20, 0x4000

def mapped(size, protection, flags, fd=-1, offset=0):
    found = libc.mmap(None, size, protection, flags, fd, offset)
    return None if found == ctypes.c_void_p(-1).value else found

def fill(address, size=PAGE):
    words = range(address, address + size, 8)
    data = b"".join((word ^ 0xA5A5A5A5A5A5A500).to_bytes(8, "big") for word in words)
    ctypes.memmove(address, data, size)

facts = {}
facts["sparse"] = start = mapped(16 << 30, READ | WRITE, PRIVATE | ANONYMOUS | NORESERVE)
libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(16 << 30), 15)  # MADV_NOHUGEPAGE
for place in (0, 5 * PAGE, 6 * PAGE, 9 << 30, (16 << 30) - PAGE):
    fill(start + place)
facts["reserved"] = mapped(32 << 40, 0, PRIVATE | ANONYMOUS | NORESERVE)
facts["locked"] = mapped(3 * PAGE, READ | WRITE, PRIVATE | ANONYMOUS)
fill(facts["locked"] + PAGE)
libc.mprotect(ctypes.c_void_p(facts["locked"]), ctypes.c_size_t(3 * PAGE), 0)
with open("cut", "wb") as file:
    file.write(b"c" * (5 * PAGE + 100))
fd = os.open("cut", os.O_RDWR)
facts["cut"] = mapped(8 * PAGE, READ, PRIVATE, fd)
os.truncate("cut", 2 * PAGE + 100)
with open("holes", "wb") as file:
    file.write(b"h" * PAGE)
    file.seek(1023 * PAGE)
    file.write(b"H" * PAGE)
fd = os.open("holes", os.O_RDWR)
facts["holes"] = mapped(1024 * PAGE, READ | WRITE, PRIVATE, fd)
facts["shared_holes"] = mapped(1024 * PAGE, READ, SHARED, fd)
fill(facts["holes"] + 7 * PAGE)
fd = os.memfd_create("hidden")
os.ftruncate(fd, 4 << 30)
facts["memory_file"] = mapped(4 << 30, READ | WRITE, SHARED, fd)
facts["memory_file_fd"] = fd
fill(facts["memory_file"] + (77 << 20))
os.pwrite(fd, b"unmapped" * (PAGE // 8), 99 << 20)
fd = libc.syscall(ctypes.c_long(447), ctypes.c_long(0))  # memfd_secret(2)
facts["secret"] = None
if fd >= 0:
    os.ftruncate(fd, 2 * PAGE)
    facts["secret"] = mapped(2 * PAGE, READ | WRITE, SHARED, fd)
    if facts["secret"] is not None:
        fill(facts["secret"], 2 * PAGE)
facts["guards"] = mapped(8 * PAGE, READ | WRITE, PRIVATE | ANONYMOUS)
fill(facts["guards"], 8 * PAGE)
guarded = libc.madvise(ctypes.c_void_p(facts["guards"] + 2 * PAGE), ctypes.c_size_t(3 * PAGE), 102) == 0
facts["guarded"] = guarded  # MADV_GUARD_INSTALL
facts["given"] = mapped(4 * PAGE, READ | WRITE, PRIVATE | ANONYMOUS)
fill(facts["given"], 4 * PAGE)
libc.prctl(15, b"a) R (\x1b[31m\xff", 0, 0, 0)  # PR_SET_NAME
waiting = threading.Event()
threading.Thread(target=waiting.wait, daemon=True).start()
facts["tids"] = sorted(map(int, os.listdir("/proc/self/task")))
print(json.dumps(facts), flush=True)
for line in sys.stdin:
    if line == "unmap\n":
        libc.munmap(ctypes.c_void_p(facts["given"] + PAGE), ctypes.c_size_t(PAGE))
    if line == "exec\n":
        os.execv("/bin/sleep", ["sleep", "600"])
    print("done", flush=True)
"""


class Child(NamedTuple):
    """A program that waits, and where it says that its memory is."""

    program: subprocess.Popen[str]
    facts: dict[str, Any]

    @property
    def path(self) -> str:
        """Its folder."""
        return f"/proc/{self.program.pid}"

    def stop(self) -> None:
        """Stop it, and wait until it is."""
        self.program.send_signal(signal.SIGSTOP)
        while self.state() != "T":
            time.sleep(0.001)

    def state(self) -> str:
        """Return the letter of its state."""
        return _state(self.program.pid)

    def tell(self, word: str) -> None:
        """Have it do something."""
        assert self.program.stdin is not None
        self.program.stdin.write(f"{word}\n")
        self.program.stdin.flush()

    def resident(self, address: int) -> int:
        """Return how much of the mapping that begins at an address is in memory, as the system counts it."""
        with open(f"{self.path}/smaps", encoding="utf-8", errors="replace") as file:
            inside = False
            for line in file:
                inside = line.startswith(f"{address:x}-") or (inside and not line[0].isdigit())
                if inside and line.startswith("Rss:"):
                    return int(line.split()[1]) << 10
        raise AssertionError(f"no mapping at {address:x}")


def _state(pid: int) -> str:
    """Return the letter of a process's state."""
    return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0].decode()


@contextlib.contextmanager
def running(folder: Path, program: str = PROGRAM) -> Iterator[Child]:
    """Start a program, and end it afterwards."""
    command = [sys.executable, "-c", program]
    with subprocess.Popen(
        command, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, errors="replace"
    ) as child:
        try:
            assert child.stdout is not None
            yield Child(child, json.loads(child.stdout.readline()))
        finally:
            child.kill()


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Child]:
    """Return a program that is stopped: its memory stays as it is."""
    with running(tmp_path_factory.mktemp("stopped")) as child:
        child.stop()
        yield child


@pytest.fixture
def child(tmp_path: Path) -> Iterator[Child]:
    """Return a program that waits for what it is told."""
    with running(tmp_path) as child:
        yield child


@contextlib.contextmanager
def opened(path: str) -> Iterator[ProcessMemory]:
    """Open a process as the registry of sources does."""
    with memcarve.open(path) as container:
        yield container.process()


def there(process: ProcessMemory, start: int, size: int) -> list[tuple[int, int]]:
    """Return what is there of a range, as offsets from its beginning."""
    found = [(max(row.start, start), min(row.end, start + size)) for row in process.space.extents()]
    return [(low - start, high - start) for low, high in found if low < high]


def missing(process: ProcessMemory, start: int, size: int) -> list[tuple[int, int, str]]:
    """Return what is missing of a range, as offsets from its beginning."""
    rows = [row for row in process.space.missing if start <= row.start < start + size]
    return [(row.start - start, row.end - start, row.reason) for row in rows]


def vm_readv(pid: int, address: int, size: int) -> bytes | None:
    """Read another program's memory by process_vm_readv(2); None where that fails."""
    libc = ctypes.CDLL(None, use_errno=True)
    buffer = ctypes.create_string_buffer(size)
    pair = ctypes.c_size_t * 2
    mine, other = pair(ctypes.addressof(buffer), size), pair(address, size)
    libc.process_vm_readv.restype = ctypes.c_ssize_t
    count = libc.process_vm_readv(pid, ctypes.byref(mine), 1, ctypes.byref(other), 1, 0)
    return buffer.raw if count == size else None


@pytest.fixture(params=["scanned", "read"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Have page maps scanned by the kernel where it can, or read word by word as on older ones."""
    if request.param == "read":
        monkeypatch.setattr(live_pages, "_SCAN", 0)
        monkeypatch.setattr(live_pages, "_WORDS", 1000)  # several blocks for a mapping
    return str(request.param)


# what is there


@pytest.mark.usefixtures("way")
def test_what_was_touched(stopped: Child, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of anonymous memory what was written is there, with its content, and nothing of what was reserved."""
    start = stopped.facts["sparse"]
    monkeypatch.setattr(live_pages, "_WORDS", 1 << 20)
    with opened(stopped.path) as process:
        rows = [(0, PAGE), (5 * PAGE, 7 * PAGE), (9 * GIB, 9 * GIB + PAGE), (16 * GIB - PAGE, 16 * GIB)]
        assert there(process, start, 16 * GIB) == rows
        for low, high in rows:
            assert process.space.read(start + low, high - low) == content(start + low, high - low)
        assert there(process, stopped.facts["reserved"], 32 * TIB) == []
        with pytest.raises(AddressError, match="not in memory") as caught:
            process.space.read(start, 2 * PAGE)
        assert caught.value.address == start + PAGE
        assert process.space.total < 64 * MIB


@pytest.mark.usefixtures("way")
def test_without_access(stopped: Child) -> None:
    """What the program locked away from itself is read all the same."""
    start = stopped.facts["locked"]
    with opened(stopped.path) as process:
        assert there(process, start, 3 * PAGE) == [(PAGE, 2 * PAGE)]
        assert process.space.read(start + PAGE, PAGE) == content(start + PAGE, PAGE)


def test_file_that_was_cut(stopped: Child) -> None:
    """Of a mapped file all is there that the file has, up to its last page; what lies beyond is missing."""
    start = stopped.facts["cut"]
    with opened(stopped.path) as process:
        assert there(process, start, 8 * PAGE) == [(0, 3 * PAGE)]
        assert missing(process, start, 8 * PAGE) == [(3 * PAGE, 8 * PAGE, "beyond the end of the mapped file")]
        assert process.space.read(start, 3 * PAGE) == (b"c" * (2 * PAGE + 100)).ljust(3 * PAGE, b"\0")
        with pytest.raises(AddressError, match=r"mapped but missing \(beyond the end of the mapped file\)"):
            process.space.read(start + 3 * PAGE, 1)


@pytest.mark.usefixtures("way")
def test_files_with_holes(stopped: Child) -> None:
    """Of a private mapping holes are there, as the program reads them; of a shared one they are passed over."""
    private, shared, size = stopped.facts["holes"], stopped.facts["shared_holes"], 1024 * PAGE
    with opened(stopped.path) as process:
        assert there(process, private, size) == [(0, size)]
        data = process.space.read(private, size)
        mine = content(private + 7 * PAGE, PAGE)
        assert data == b"h" * PAGE + bytes(6 * PAGE) + mine + bytes(1015 * PAGE) + b"H" * PAGE
        assert process.space.read(shared, PAGE) == b"h" * PAGE
        assert process.space.read(shared + 1023 * PAGE, PAGE) == b"H" * PAGE
        if os.stat(f"{stopped.path}/cwd/holes").st_blocks * 512 < size // 2:  # file systems write some more
            rows = there(process, shared, size)
            assert len(rows) == 2
            assert sum(high - low for low, high in rows) < size // 2


@pytest.mark.usefixtures("way")
def test_files_in_memory(stopped: Child) -> None:
    """Of a file that lies in memory what anybody wrote is there; reading takes no memory for the rest."""
    start, path = stopped.facts["memory_file"], f"{stopped.path}/fd/{stopped.facts['memory_file_fd']}"
    blocks = os.stat(path).st_blocks
    with opened(stopped.path) as process:
        assert there(process, start, 4 * GIB) == [(77 * MIB, 77 * MIB + PAGE), (99 * MIB, 99 * MIB + PAGE)]
        assert process.space.read(start + 77 * MIB, PAGE) == content(start + 77 * MIB, PAGE)
        assert process.space.read(start + 99 * MIB, PAGE) == b"unmapped" * (PAGE // 8)
    assert os.stat(path).st_blocks == blocks


@pytest.mark.usefixtures("way")
def test_guard_pages(stopped: Child) -> None:
    """Guard pages, which look like swapped ones, are missing; that is normal, and no incomplete process."""
    if not stopped.facts["guarded"]:
        pytest.skip("this kernel has no MADV_GUARD_INSTALL (Linux 6.13)")
    start = stopped.facts["guards"]
    with opened(stopped.path) as process:
        assert there(process, start, 8 * PAGE) == [(0, 2 * PAGE), (5 * PAGE, 8 * PAGE)]
        assert missing(process, start, 8 * PAGE) == [(2 * PAGE, 5 * PAGE, "the system does not let it be read")]
        if stopped.facts["secret"] is None:
            assert not process.incomplete


def test_secret_memory(stopped: Child) -> None:
    """Memory that the system gives to nobody else is missing, and the process known to be incomplete."""
    start = stopped.facts["secret"]
    if start is None:
        pytest.skip("this kernel has no memfd_secret(2), or has it turned off")
    with opened(stopped.path) as process:
        assert there(process, start, 2 * PAGE) == []
        assert missing(process, start, 2 * PAGE) == [(0, 2 * PAGE, "the system does not let it be read")]
        assert process.incomplete


def test_devices(stopped: Child) -> None:
    """What the kernel shares by pages of its own is missing; its code [vdso] is there."""
    with opened(stopped.path) as process:
        named = {region.file: region for region in process.metadata.regions[0]}
        vdso = named["[vdso]"]
        assert there(process, vdso.start, vdso.size) == [(0, vdso.size)]
        assert process.space.read(vdso.start, 4) == b"\x7fELF"
        vvar = named["[vvar]"]
        assert missing(process, vvar.start, vvar.size) == [(0, vvar.size, "a device's memory")]
        if "[vsyscall]" in named:
            assert missing(process, named["[vsyscall]"].start, PAGE)


def test_every_byte_as_others_read_it(stopped: Child) -> None:
    """Every byte is what process_vm_readv(2) reads at its address, where that may."""
    compared = 0
    with opened(stopped.path) as process:
        for segment in process.segments():
            for address in range(segment.start, segment.end, MIB):
                size = min(MIB, segment.end - address)
                other = vm_readv(stopped.program.pid, address, size)
                if other is not None:  # that call obeys the program's own protections
                    assert process.space.read(address, size) == other
                    compared += size
        assert compared > 0.9 * process.space.total


def test_regions_and_threads(stopped: Child) -> None:
    """Regions are the lines of maps, threads those of the process."""
    with open(f"{stopped.path}/maps", encoding="utf-8", errors="surrogateescape") as file:
        lines = [line.rstrip("\n").split(maxsplit=5) for line in file]
    with opened(stopped.path) as process:
        (regions,) = process.metadata.regions
        bounds = [(row.start, row.end, row.protection) for row in regions]
        expected = [(*(int(word, 16) for word in line[0].split("-")), line[1]) for line in lines]
        assert bounds == expected
        assert [row.file for row in regions if row.file] == [
            line[5] for line in lines if len(line) > 5 and line[5] not in ("[heap]", "[stack]")
        ]
        (threads,) = process.metadata.threads
        assert [thread.tid for thread in threads.rows] == stopped.facts["tids"]
        assert len(threads.rows) == 2


def test_gcore(tmp_path: Path) -> None:
    """A core that gdb's gcore writes of the same stopped process holds the same bytes at the same addresses."""
    gcore = shutil.which("gcore")
    if gcore is None:
        pytest.skip("gcore (gdb) is not installed")
    from elftools.elf.elffile import ELFFile  # noqa: PLC0415 - for this test alone

    with running(tmp_path, "import sys; print('{}', flush=True); sys.stdin.read()") as child:
        child.stop()
        subprocess.run([gcore, "-o", tmp_path / "core", str(child.program.pid)], check=True, capture_output=True)
        with opened(child.path) as process, (tmp_path / f"core.{child.program.pid}").open("rb") as file:
            loads = [part for part in ELFFile(file).iter_segments("PT_LOAD") if part["p_filesz"]]
            compared = 0
            for load in loads:
                for low, high in there(process, load["p_vaddr"], load["p_filesz"]):
                    assert process.space.read(load["p_vaddr"] + low, high - low) == load.data()[low:high]
                    compared += high - low
            assert compared > MIB


# what is said of it


def test_what_is_told(stopped: Child, tmp_path: Path, capfdbinary: Capture) -> None:
    """The manifest tells which process it was and when it began; a hostile name does nothing to a terminal."""
    ran = invoke(capfdbinary, "carve", stopped.path, "-o", tmp_path / "out", "-v")
    assert ran.code == (3 if stopped.facts["secret"] is not None else 0), ran.err
    assert "\x1b" not in ran.err
    assert "runs while it is read" not in ran.err
    document = manifest(tmp_path / "out")
    told = document["inputs"]["live"]
    assert (told["path"], told["pid"], told["state"]) == (stopped.path, stopped.program.pid, "T")
    assert told["program"] == os.path.realpath(sys.executable)
    assert told["host"] == os.uname().nodename
    assert os.uname().release in told["kernel"]
    started = np.datetime64(told["started"].removesuffix("Z"))
    assert abs(started - np.datetime64(int(os.stat(stopped.path).st_ctime), "s")) < np.timedelta64(60, "s")
    assert document["process"]["pid"] == stopped.program.pid
    assert document["process"]["name"] == "a) R (\x1b[31m\\udcff"  # a byte that is not UTF-8, as JSON can hold it
    assert document["totals"]["input_bytes"] == document["totals"]["bytes"]
    reasons = {row["reason"] for row in document["missing"]}
    assert {"a device's memory", "beyond the end of the mapped file"} <= reasons
    ran = invoke(capfdbinary, "processes", stopped.path)
    assert (ran.code, b"\x1b" in ran.out) == (0, False)


def test_what_runs(child: Child, capfdbinary: Capture) -> None:
    """Of a process that runs it is said that it does, and how to stop it."""
    ran = invoke(capfdbinary, "segments", child.path)
    assert f"kill -STOP {child.program.pid}" in ran.err
    child.stop()
    assert "kill" not in invoke(capfdbinary, "segments", child.path).err


def test_architecture(stopped: Child) -> None:
    """Processor and system are those of the running program."""
    with opened(stopped.path) as process:
        assert process.architecture == ("x64" if os.uname().machine == "x86_64" else None)
        release = [int(word) for word in os.uname().release.split(".")[:2]]
        assert process.platform[:3] == ("linux", *release)


def test_32_bit(tmp_path: Path, capfdbinary: Capture) -> None:
    """Of a 32-bit program all memory is its own, also above 3 GiB, where a 64-bit kernel puts its stack."""
    code = bytes.fromhex("b81d000000cd80ebf7")  # pause(2), again and again
    header = b"\x7fELF\x01\x01\x01".ljust(16, b"\0") + b"".join(
        number.to_bytes(size, "little")
        for number, size in zip(
            (2, 3, 1, 0x8048054, 52, 0, 0, 52, 32, 1, 0, 0, 0), (2, 2, 4, 4, 4, 4, 4, 2, 2, 2, 2, 2, 2), strict=True
        )
    )
    program = b"".join(number.to_bytes(4, "little") for number in (1, 0, 0x8048000, 0x8048000, 93, 93, 5, PAGE))
    path = tmp_path / "small"
    path.write_bytes(header + program + code)
    path.chmod(0o700)
    try:
        small = subprocess.Popen([path])
    except OSError as error:
        pytest.skip(f"this kernel runs no 32-bit programs: {error.strerror}")
    with small:
        try:
            while b"08048000-" not in Path(f"/proc/{small.pid}/maps").read_bytes() or _state(small.pid) != "S":
                time.sleep(0.001)
            with opened(f"/proc/{small.pid}") as process:
                assert process.architecture == "x86"
                assert process.space.read(0x8048000, 93) == path.read_bytes()
                assert len(process.segments(memcarve.Selection(half="user"))) == len(process.segments())
                assert int(process.space.start.max()) >= 0xC0000000
            assert b"0x00000000ff" in invoke(capfdbinary, "segments", f"/proc/{small.pid}", "--range", "user").out
        finally:
            small.kill()


# nothing is changed


def test_nothing_is_touched(child: Child, tmp_path: Path) -> None:
    """Listing and carving give the process no memory that it did not have, and leave it as it was."""
    child.stop()
    before = {name: child.resident(child.facts[name]) for name in ("sparse", "reserved", "locked", "memory_file")}
    with opened(child.path) as process:
        result = sinking.carve(process, tmp_path / "out", hashes=())
    assert result.bytes == result.input_bytes
    after = {name: child.resident(child.facts[name]) for name in before}
    # what others wrote into the file in memory becomes a page of the process's when it is read there
    assert after["memory_file"] - before["memory_file"] <= PAGE
    assert {**after, "memory_file": 0} == {**before, "memory_file": 0}
    assert child.state() == "T"


def test_hash_of_the_input(stopped: Child, tmp_path: Path) -> None:
    """The input's hash is of all bytes in order of addresses: that of the files, one after the other."""
    with opened(stopped.path) as process:
        digest = hashlib.sha256()
        sinking.carve(process, tmp_path / "out", hash_input=True)
        for place in range(0, process.file.size, 12345):
            view = memoryview(bytearray(min(12345, process.file.size - place)))
            process.file.read_into(place, view)
            digest.update(view)
        with pytest.raises(SourceReadError, match="has no byte at offset"):
            process.file.read_into(process.file.size, memoryview(bytearray(1)))
    whole = hashlib.sha256(b"".join(data for _, data in sorted(binaries(tmp_path / "out").items())))
    assert whole.hexdigest() == digest.hexdigest() == manifest(tmp_path / "out")["inputs"]["live"]["sha256"]


# what cannot be read


def test_given_back(child: Child, tmp_path: Path) -> None:
    """What a process gives back while it is read is an error with address and remedy, and nothing is kept."""
    start = child.facts["given"]
    with opened(child.path) as process:
        assert process.space.read(start, 4 * PAGE) == content(start, 4 * PAGE)
        child.tell("unmap")
        assert child.program.stdout is not None
        child.program.stdout.readline()
        assert process.space.read(start, PAGE) == content(start, PAGE)
        with pytest.raises(SourceReadError, match=rf"address 0x{start + PAGE:x}: .*kill -STOP"):
            process.space.read(start, 4 * PAGE)
        with pytest.raises(SourceReadError, match="kill -STOP"):
            sinking.carve(process, tmp_path / "out")
    assert "out" not in listing(tmp_path)


def test_another_program(child: Child) -> None:
    """When a process begins another program, the memory of the first is gone, and none of the second's is taken."""
    start = child.facts["given"]
    with opened(child.path) as process:
        child.tell("exec")
        while b"sleep" not in Path(child.path, "maps").read_bytes():
            time.sleep(0.001)
        with pytest.raises(SourceReadError, match="has ended, or begun another program"):
            process.space.read(start, PAGE)
    with opened(child.path) as process:
        assert there(process, start, PAGE) == []


def test_ended(child: Child, capfdbinary: Capture) -> None:
    """A process that has ended is said to have: while it is read, before its parent took note, and afterwards."""
    with opened(child.path) as process:
        child.program.kill()
        while child.state() != "Z" or len(os.listdir(f"{child.path}/task")) > 1:
            time.sleep(0.001)
        with pytest.raises(SourceReadError, match="has ended"):
            process.space.read(child.facts["given"], PAGE)
    with pytest.raises(InputError, match="has ended"):
        opened_as(LIVE, child.path)
    container = None
    child.program.wait()
    with pytest.raises(SourceReadError, match="no such process"):
        container = opened_as(LIVE, child.path)
    assert container is None
    ran = invoke(capfdbinary, "carve", child.path)
    assert (ran.code, ran.err.count("\n")) == (1, 1)


def test_the_first_thread_has_ended(tmp_path: Path) -> None:
    """Where the first thread has ended, as hiding programs have it, the memory is found through another."""
    program = (
        "import ctypes, sys, threading\n"
        "kept = ctypes.create_string_buffer(b'what the others keep')\n"
        "threading.Thread(target=sys.stdin.read).start()\n"
        "print(ctypes.addressof(kept), flush=True)\n"
        "ctypes.CDLL(None).syscall(60, 0)\n"  # exit(2), of this thread alone
    )
    if os.uname().machine != "x86_64":
        pytest.skip("exit(2) has the number 60 on x86-64")
    with running(tmp_path, program) as child:
        while child.state() != "Z":
            time.sleep(0.001)
        with opened(child.path) as process:
            assert process.pid == child.program.pid
            assert process.architecture == "x64"
            assert process.space.read(int(child.facts), 20) == b"what the others keep"  # type: ignore[call-overload]


def test_ended_between(tmp_path: Path) -> None:
    """A process that ends after its container was opened is said to have ended."""
    with running(tmp_path) as child, opened_as(LIVE, child.path) as container:
        child.program.kill()
        child.program.wait()
        with pytest.raises(SourceReadError, match="the process has ended"):
            container.process()


def test_kernel_thread() -> None:
    """A thread of the kernel has no memory, and that is said."""
    threads = [pid for pid in os.listdir("/proc") if pid.isdecimal() and not _has_program(int(pid))]
    if not threads:
        pytest.skip("no thread of the kernel is seen here (a container)")
    with pytest.raises(InputError, match="is a thread of the kernel"):
        opened_as(LIVE, f"/proc/{threads[0]}")


def _has_program(pid: int) -> bool:
    try:
        words = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return True
    return not int(words[6]) & 0x200000


def test_forbidden(stopped: Child) -> None:
    """A process that the user may not read is refused with what would help, and nothing else is tried."""
    if os.geteuid() != 0:
        pytest.skip("must be root to become another user")
    os.seteuid(65534)
    try:
        with memcarve.open(stopped.path) as container, pytest.raises(SourceReadError) as caught:
            container.process()
    finally:
        os.seteuid(0)
    message = str(caught.value)
    assert message.startswith(f"{stopped.path}/mem: this user may not read")
    assert "root" in message
    assert "CAP_SYS_PTRACE" in message


@pytest.mark.parametrize(("scope", "words"), [("0", ""), ("1", "only its parents"), ("2", "only administrators")])
def test_what_yama_says(scope: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The security module that forbids reading is named, with what it says."""
    (tmp_path / "scope").write_text(f"{scope}\n")
    monkeypatch.setattr(proc, "_YAMA", str(tmp_path / "scope"))
    found = proc._yama()
    assert words in found
    assert bool(found) == bool(words)
    monkeypatch.setattr(proc, "_YAMA", str(tmp_path / "none"))
    assert proc._yama() == ""


def test_as_another_user() -> None:
    """A user's own process is read without being root, and mapped files are found by their names."""
    if os.geteuid() != 0:
        pytest.skip("must be root to become another user")
    program = ["/bin/sleep", "600"]
    with subprocess.Popen(program, user=65534, group=65534, extra_groups=[], cwd="/") as child:
        try:
            while b"libc" not in Path(f"/proc/{child.pid}/maps").read_bytes() or _state(child.pid) != "S":
                time.sleep(0.001)
            groups = os.getgroups()
            with opened(f"/proc/{child.pid}") as process:
                whole = process.space.total
            os.setgroups([])
            os.setegid(65534)
            os.seteuid(65534)
            try:
                with opened(f"/proc/{child.pid}") as process:
                    assert process.space.total == whole
                    assert process.space.read(int(process.space.start[0]), 4) == b"\x7fELF"
            finally:
                os.seteuid(0)
                os.setegid(0)
                os.setgroups(groups)
        finally:
            child.kill()


@pytest.mark.usefixtures("way")
def test_files_that_cannot_be_looked_at(stopped: Child, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of mapped files that the user may not look at what is in memory is taken, and that is said."""
    start = stopped.facts["memory_file"]
    with opened(stopped.path) as process:
        whole = process.space.total
    monkeypatch.setattr(live_pages.MappedFiles, "_status", lambda _, mapping: (mapping.region.file, None))
    with opened(stopped.path) as process:
        assert any("mapped files cannot be looked at by this user" in note for note in process.notes)
        assert 0 < process.space.total <= whole  # what was read before is in memory since
        assert there(process, start, 4 * GIB)[0] == (77 * MIB, 77 * MIB + PAGE)
        assert process.space.read(start + 77 * MIB, PAGE) == content(start + 77 * MIB, PAGE)
        first = process.metadata.regions[0].rows[0]  # of the program itself
        assert process.space.read(first.start, 4) == b"\x7fELF"


def test_files_of_very_many_pieces(stopped: Child, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of more pieces than are looked at cost no more: of them what is in memory is taken."""
    monkeypatch.setattr(live_pages, "_MOST_PIECES", 0)
    with opened(stopped.path) as process:
        assert any("mapped files cannot be looked at" in note for note in process.notes)
        rows = there(process, stopped.facts["memory_file"], 4 * GIB)
        assert (77 * MIB, 77 * MIB + PAGE) in rows


# what is taken for one


def test_ways_to_name_it(stopped: Child, capfdbinary: Capture) -> None:
    """A process is named by its folder or by its memory; its number is checked where it is given."""
    for path in (stopped.path, f"{stopped.path}/", f"{stopped.path}/mem", f"/proc/1/../{stopped.program.pid}"):
        with memcarve.open(path) as container:
            (entry,) = container.processes()
            assert entry.pid == stopped.program.pid
            assert str(container) == path
    assert invoke(capfdbinary, "segments", stopped.path, "--pid", str(stopped.program.pid)).code in (0, 3)
    ran = invoke(capfdbinary, "segments", stopped.path, "--pid", "0")
    assert (ran.code, "holds no process 0" in ran.err) == (1, True)


@pytest.mark.parametrize("path", ["/proc/self", "/proc/self/mem"])
def test_itself(path: str) -> None:
    """The program can look at itself."""
    mark = ctypes.create_string_buffer(b"a mark of our own")
    with opened(path) as process:
        assert process.pid == os.getpid()
        assert process.space.read(ctypes.addressof(mark), 18) == b"a mark of our own\0"


def test_another_mount(stopped: Child, tmp_path: Path) -> None:
    """A proc file system is known wherever it is mounted, as that of a host in a container."""
    (tmp_path / "proc").mkdir()
    mounted = subprocess.run(["mount", "-t", "proc", "proc", tmp_path / "proc"], check=False, capture_output=True)
    if mounted.returncode:
        pytest.skip("must be allowed to mount a proc file system")
    try:
        with opened(str(tmp_path / "proc" / str(stopped.program.pid))) as process:
            assert process.space.read(stopped.facts["sparse"], 8) == content(stopped.facts["sparse"], 8)
    finally:
        subprocess.run(["umount", tmp_path / "proc"], check=True)


def test_what_only_looks_like_one(tmp_path: Path) -> None:
    """A folder of such a name, and with such files, is no process where it lies in no proc file system."""
    folder = tmp_path / "1234"
    folder.mkdir()
    for name in ("stat", "mem", "smaps"):
        (folder / name).write_text("1234 (x) R 1")
    for path in (
        folder,
        folder / "mem",
        "/proc",
        "/proc/net",
        "/proc/cpuinfo",
        tmp_path / "nothing",
        "/proc/uptime/mem",
    ):
        with pytest.raises(NotRecognisedError, match="not a running process below /proc"):
            opened_as(LIVE, path)


def test_other_systems(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there are no mounts to be read, as on other systems, nothing is taken for a process."""
    monkeypatch.setattr(proc, "_MOUNTS", "/nowhere")
    with pytest.raises(NotRecognisedError):
        opened_as(LIVE, "/proc/self")


def test_options_of_others(stopped: Child) -> None:
    """Options for dumps and images are refused."""
    for options in (OpenOptions(trust="sum"), OpenOptions(dtb=0x1000), OpenOptions(limit=1), OpenOptions(dump="x")):
        with pytest.raises(UsageError, match=r"leave .* out"):
            opened_as(LIVE, stopped.path, options)


# what the system prints


@pytest.mark.parametrize(
    ("swapped", "probed", "taken"), [(3, [0x1000], [1, 2, 5]), (2, [0x1000, 0x2000, 0x5000], [1, 5])]
)
def test_swapped(swapped: int, probed: list[int], taken: list[int]) -> None:
    """What is in swap is there; it is read to be sure of that only where more is marked than the system counts."""
    asked = []

    class Pages:
        def stretches(self, start: int, end: int) -> tuple[Intervals, Bools]:
            assert (start, end) == (0x1000, 0x7000)
            return Intervals.of([(0x1000, 0x2000), (0x5000, 0x1000)]), np.ones(2, np.bool_)

    class Backing:
        def readable(self, address: int) -> bool:
            asked.append(address)
            return address != 0x2000

    lines = [b"00001000-00007000 rw-p 00000000 00:00 0 \n", f"Swap: {swapped * 4} kB\n".encode()]
    present = Present(Backing(), Pages(), None)  # type: ignore[arg-type]
    for mapping in mappings(lines, "x"):
        present.look(mapping)
    found = present.ranges()
    rows = zip(found.start.tolist(), found.size.tolist(), strict=True)
    pages = [page for low, size in rows for page in range(low, low + size, 0x1000)]
    assert pages == [page * 0x1000 for page in taken]
    assert sorted(set(asked)) == probed
    assert [(row.start, row.size) for row in present.missing] == ([] if 2 in taken else [(0x2000, 0x1000)])
    assert not present.unreadable


@given(st.lists(st.one_of(st.binary(max_size=80), st.from_regex(rb"[0-9a-f]{8}-[0-9a-f]{8} rw-p 0{8} 00:00 0\n"))))
def test_any_lines(lines: list[bytes]) -> None:
    """Whatever lines there are, they are read or refused by one error."""
    with contextlib.suppress(MapError):
        for mapping in mappings(lines, "x"):
            assert mapping.region.size > 0


def test_lines_of_details() -> None:
    """Details belong to the line before them; what looks like one in a path does not count."""
    lines = [
        b"00400000-00402000 r-xp 00001000 08:01 12                     /a\\012Rss: 9 kB\n",
        b"Rss:                   4 kB\n",
        b"Swap:                  8 kB\n",
        b"SwapPss:               8 kB\n",
        b"VmFlags: rd ex mr \n",
        b"00402000-00403000 rw-p 00000000 00:00 0 \n",
        b"Private_Hugetlb:    2048 kB\n",
    ]
    first, second = mappings(lines, "x")
    assert (first.resident, first.swapped, first.flags, first.inode) == (
        4096,
        8192,
        frozenset([b"rd", b"ex", b"mr"]),
        12,
    )
    assert (first.region.start, first.region.size, first.region.offset) == (0x400000, 0x2000, 0x1000)
    assert (second.resident, second.swapped, second.flags, second.inode) == (2 * MIB, 0, frozenset(), 0)
