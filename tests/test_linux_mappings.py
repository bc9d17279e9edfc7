"""Lines of /proc/PID/maps: made of regions, they are what they were made of, byte for byte; and the kernel's own."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, strategies as st

from cli import invoke
from files import put
from memcarve import linux_mappings
from memcarve.formats.listing.procmaps import cells
from memcarve.linux_mappings import Mapping
from memcarve.metadata import Region
from memcarve.sources.listings.listing_rows import reader

if TYPE_CHECKING:
    from collections.abc import Iterator

    Capture = pytest.CaptureFixture[bytes]

ON_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")

#: maps memory of every kind that has a name of its own, and says that it is done
PROGRAM = r"""
import ctypes, mmap, os, sys
libc = ctypes.CDLL(None)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
PAGE = mmap.PAGESIZE
keep = []
def mapped(protection, flags, fd=-1, offset=0):
    keep.append(libc.mmap(None, 4 * PAGE, protection, flags, fd, offset))
    return keep[-1]
for protection in (0, 1, 3, 7, 5):
    mapped(protection, 0x22)
mapped(3, 0x21)
names = b"plain", b"a b  c", b"new\nline", b"b\\slash\\012", b"not \xff\xc3( text", b"\x1b[2J", b"gone", b" (deleted)"
for name in names:
    with open(name, "wb") as file:
        file.write(bytes(9 * PAGE))
    fd = os.open(name, os.O_RDWR)
    mapped(5, 2, fd, PAGE)
    mapped(1, 1, fd, 5 * PAGE)
os.unlink("gone")
fd = os.memfd_create("hidden \n one")
os.ftruncate(fd, 4 * PAGE)
mapped(7, 2, fd)
named = mapped(3, 0x22)
libc.prctl(0x53564D41, 0, ctypes.c_void_p(named), ctypes.c_size_t(4 * PAGE), b"a name of its own")
print("ready", flush=True)
sys.stdin.read()
"""
#: with threads it has a guard page and stacks; static, so that it needs no 32-bit libraries on the machine
SOURCE = r"""
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>
int main(void) {
    char *kept = malloc(100);
    kept[0] = 1;
    mmap(0, 8192, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    puts("ready");
    fflush(stdout);
    for (;;) pause();
}
"""


@pytest.fixture(params=["64-bit", "32-bit"])
def waiting(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[int]:
    """Return the pid of a stopped program."""
    command = [sys.executable, "-c", PROGRAM]
    if request.param == "32-bit":
        command = [str(_narrow(tmp_path))]
    try:
        child = subprocess.Popen(command, cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    except OSError as error:
        pytest.skip(f"this kernel runs no 32-bit programs: {error.strerror}")
    with child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == b"ready\n"
            child.send_signal(signal.SIGSTOP)
            while Path(f"/proc/{child.pid}/stat").read_text().rpartition(") ")[2][0] != "T":
                time.sleep(0.001)
            yield child.pid
        finally:
            child.kill()


def _narrow(folder: Path) -> Path:
    """Return a 32-bit program; skip if no compiler here makes one."""
    source, program = folder / "small.c", folder / "small"
    put(source, SOURCE.encode())
    for compiler in (["i686-linux-gnu-gcc"], ["gcc", "-m32"]):
        if shutil.which(compiler[0]) is not None:
            built = subprocess.run([*compiler, "-static", "-o", program, source], capture_output=True, check=False)
            if not built.returncode:
                return program
    pytest.skip("no compiler here makes 32-bit programs (i686-linux-gnu-gcc)")


@ON_LINUX
def test_the_kernels_own_lines(waiting: int, capfdbinary: Capture) -> None:
    """What is printed of a process that stands still is its maps, byte for byte: names of any bytes, 32 bits too."""
    ran = invoke(capfdbinary, "regions", f"/proc/{waiting}", "--format", "maps")
    assert (ran.code, ran.out) == (0, Path(f"/proc/{waiting}/maps").read_bytes())
    assert ran.out.count(b"\n") > 10


@ON_LINUX
def test_again_from_what_was_written(waiting: int, tmp_path: Path, capfdbinary: Capture) -> None:
    """What a carved folder and a core keep of regions is enough for the same lines, of what they hold."""
    lines = Path(f"/proc/{waiting}/maps").read_bytes().splitlines()
    for name, command in (("core", "export"), ("folder", "carve")):
        target = tmp_path / name
        more = ["--to", "elfcore"] if command == "export" else ["--hash", "none"]
        assert invoke(capfdbinary, command, f"/proc/{waiting}", *more, "-o", target).code in (0, 3)
        found = invoke(capfdbinary, "regions", target, "--format", "maps").out.splitlines()
        if name == "core":
            assert found == lines
        else:  # as text, names that are none are escaped in segments.json
            assert {line for line in found if b"\\udc" not in line} <= set(lines)
        assert len(found) > 3


def test_a_file_of_lines_gives_the_same_again(tmp_path: Path, capfdbinary: Capture) -> None:
    """Beside a dump, what was copied from maps is printed as it was."""
    text = (
        b"00010000-00011000 r-xp 00002000 08:01 5                                  /usr/bin/a prog\n"
        b"00011000-00012000 rw-p 00000000 00:00 0 \n"
        b"00020000-00022000 rw-p 00000000 00:00 0                                  [stack:77]\n"
        b"7fff00000000-7fff00001000 rw-s 123456789000 103:100002 18446744073709551615  /dev/shm/x\n"
        b"ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]\n"
    )
    put(tmp_path / "a.dmp", bytes(4096))
    put(
        tmp_path / "a.map",
        b"Virtual\tPhysical\tSize\tOffset in File\tFile output\n0x10000\t0x1000\t0x1000\t0x0\tDisabled\n",
    )
    maps = put(tmp_path / "maps", text)
    ran = invoke(capfdbinary, "regions", tmp_path / "a.dmp", "--regions", maps, "--format", "maps")
    assert (ran.code, ran.out) == (0, text), ran.err


def test_what_is_not_known_is_no_line(tmp_path: Path, capfdbinary: Capture) -> None:
    """Regions that do not say all of a line are refused, and the message says what lacks."""
    put(tmp_path / "a.dmp", bytes(4096))
    put(
        tmp_path / "a.map",
        b"Virtual\tPhysical\tSize\tOffset in File\tFile output\n0x10000\t0x1000\t0x1000\t0x0\tDisabled\n",
    )
    header = "PID\tStart\tEnd\tFlags\tPgOff\tMajor\tMinor\tInode\tFile Path\n"
    table = put(tmp_path / "t", f"{header}7\t0x10000\t0x11000\tr-x\t0x0\t8\t1\t5\t/bin/a\n".encode())
    ran = invoke(capfdbinary, "regions", tmp_path / "a.dmp", "--regions", table, "--format", "maps")
    assert (ran.code, ran.out) == (2, b"")
    assert "its protection in four letters; --format table" in ran.err
    assert "inode" not in ran.err


def test_a_kernel_of_32_bits_pads_less() -> None:
    """The name begins at column 49 there, and behind a space in any case."""
    row = linux_mappings.region(Mapping(0x8048000, 0x1000, "r-xp", 0, (8, 1), 5, "/a"))
    assert linux_mappings.line(row, 32) == "08048000-08049000 r-xp 00000000 08:01 5 ".ljust(49) + "/a"
    assert linux_mappings.line(row, 48) == "08048000-08049000 r-xp 00000000 08:01 5 ".ljust(73) + "/a"
    long = linux_mappings.region(Mapping(0x8048000, 0x1000, "r-xp", 1 << 40, (259, 1048575), 1 << 60, "/a"))
    assert linux_mappings.line(long, 32).endswith(f" 10000000000 103:fffff {1 << 60}  /a")


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ({}, ["its protection in four letters", "the inode", "the device"]),
        ({"protection": "r-x"}, ["its protection in four letters", "the inode", "the device"]),
        ({"protection": "r-xp", "inode": 0, "device": (0, 0)}, []),
        ({"protection": "r-xp", "inode": 7, "device": (0, 0)}, ["the offset in the file"]),
        ({"protection": "PAGE_READONLY", "inode": 0, "device": (0, 0)}, ["its protection in four letters"]),
    ],
)
def test_what_a_region_does_not_say(members: dict[str, object], words: list[str]) -> None:
    """No inode is 0 by default, and no offset."""
    assert linux_mappings.unsaid(Region(0, 4096)._replace(**members)) == words  # type: ignore[arg-type]


_WORDS = st.text(st.characters(exclude_characters="\0\r", exclude_categories=["Cs"]), max_size=20)


@given(
    start=st.integers(0, 1 << 51),
    pages=st.integers(1, 1 << 20),
    letters=st.from_regex("[r-][w-][x-][ps]", fullmatch=True),
    offset=st.integers(0, 1 << 40),
    device=st.tuples(st.integers(0, 4095), st.integers(0, (1 << 20) - 1)),
    inode=st.integers(1, (1 << 64) - 1),
    words=_WORDS,
)
def test_any_mapping_of_a_file_is_read_as_it_was_written(
    start: int, pages: int, letters: str, offset: int, device: tuple[int, int], inode: int, words: str
) -> None:
    """A line says what the region said, but for a newline in the name, which has become its escape."""
    row = linux_mappings.region(Mapping(start << 12, pages << 12, letters, offset << 12, device, inode, f"/{words}"))
    line = linux_mappings.line(row, 64)
    known = cells(line.encode())
    assert known is not None
    again = reader("/proc/PID/maps")(known, 64)
    assert again == row._replace(file=f"/{words}".replace("\n", "\\012"))
    assert linux_mappings.line(again, 64) == line  # type: ignore[arg-type]
