"""Flags with Linux meanings: what must be flagged and what must not, in made-up processes and in real ones."""

from __future__ import annotations

import mmap
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

import memcarve
from cores import compiled
from headers import dll_page, elf_page
from memcarve.errors import ProcessError, UsageError
from memcarve.labels import same_files, text_pages
from memcarve.linux_mappings import Mapping, region
from memcarve.metadata import Metadata, Parameters, Regions
from memcarve.process import Container, ProcessEntry, ProcessMemory, Selection
from memcarve.space import AddressSpace
from memory import PAGE, Memory, noise
from processes import labels_of, process_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping as MappingOf, Sequence

    from memcarve.metadata import Region

FILE = (254, 1), 77


def vma(page: int, letters: str, name: str | None = None, inode: int | None = None, offset: int = 0) -> Region:
    """Return a mapping of four pages; a name with a slash is that of a file."""
    inode = (77 if name is not None and name.startswith("/") else 0) if inode is None else inode
    device = (254, 1) if inode else (0, 0)
    return region(Mapping(page * PAGE, 4 * PAGE, letters, offset, device, inode, name))


def flagged(rows: Sequence[Region], *, content: str = "none", **known: object) -> dict[int, list[str]]:
    """Return the flags of each mapping, by the page it begins at."""
    contents: MappingOf[int, bytes] = known.pop("contents", {})  # type: ignore[assignment]
    metadata = Metadata((Regions("VMAs", rows),), **known)  # type: ignore[arg-type]
    process = process_of([row.start // PAGE for row in rows], metadata, contents)
    labels = labels_of(process, Selection("all"), content=content, read=True)
    found = {segment.start // PAGE: [*labels.flags(index)] for index, segment in enumerate(labels.segments)}
    return {page: flags for page, flags in found.items() if flags}


def test_what_every_process_has() -> None:
    """Nothing that an ordinary process maps is flagged: neither what the kernel puts there nor code of files."""
    rows = [
        vma(0x400, "r-xp", "/usr/bin/a"),
        vma(0x410, "rw-p", "/usr/bin/a", offset=4 * PAGE),
        vma(0x420, "rw-p", "[heap]"),
        vma(0x430, "rw-p"),
        vma(0x440, "---p"),
        vma(0x450, "rw-s", "/memfd:pulse (deleted)", 5),
        vma(0x460, "r--p", "/usr/share/x (deleted)"),
        vma(0x470, "rw-s", "/dev/zero (deleted)", 9),
        vma(0x480, "rw-p", "[anon:scratch]"),
        vma(0x490, "r--p", "[vvar]"),
        vma(0x4A0, "r-xp", "[vdso]"),
        vma(0x4B0, "rw-p", "[stack]"),
        vma(0x4C0, "--xp", "[uprobes]"),
        vma(0x4D0, "r-xp", "/opt/(deleted)"),
        vma(0x4E0, "r-xp", None, 12),  # of a file whose name could not be read
        vma(0xFFFFFFFFFF600, "--xp", "[vsyscall]"),
    ]
    program = bytes(elf_page())
    assert flagged(rows, content="headers", contents={0x400: program, 0x4A0: program}) == {}


def test_code_without_a_file_on_disk() -> None:
    """Anonymous memory, memfds, shared memory, deleted files and stacks that run are each told apart."""
    rows = [
        vma(0x400, "r-xp"),
        vma(0x410, "rwxp"),
        vma(0x420, "r-xp", "[anon:v8]"),
        vma(0x430, "rwxp", "[heap]"),
        vma(0x440, "r-xp", "/memfd:x (deleted)", 5),
        vma(0x450, "r-xs", "/memfd: /usr/bin/a", 6),
        vma(0x460, "rwxs", "/dev/zero (deleted)", 7),
        vma(0x470, "r-xs", "/SYSV0000abcd (deleted)", 8),
        vma(0x480, "r-xp", "/srv/x (deleted)"),
        vma(0x490, "rwxp", "[stack]"),
        vma(0x4A0, "r-xp", "/srv/memfd:x"),
        vma(0x4B0, "rwxp", "/usr/lib/x.so"),
    ]
    assert flagged(rows) == {
        0x400: ["private-executable"],
        0x410: ["private-executable", "writable-executable"],
        0x420: ["private-executable"],
        0x430: ["private-executable", "writable-executable"],
        0x440: ["memfd-executable"],
        0x450: ["memfd-executable"],
        0x460: ["writable-executable", "memfd-executable"],
        0x470: ["memfd-executable"],
        0x480: ["deleted-executable"],
        0x490: ["private-executable", "writable-executable", "executable-stack"],
        0x4B0: ["writable-executable"],
    }


def test_programs_in_private_memory() -> None:
    """ELF and PE headers in memory without a file; a core that was read is no program, nor is a file's own header."""
    rows = [vma(0x400, "rw-p"), vma(0x410, "rw-p", "[heap]"), vma(0x420, "r--p", "/bin/a"), vma(0x430, "rw-p")]
    program = bytes(elf_page())
    contents = {0x400: program, 0x410: dll_page([(1, 2, 0x60000020)]), 0x420: program}
    contents[0x430] = bytes(elf_page(kind=4))
    assert flagged(rows, content="headers", contents=contents) == {0x400: ["elf-in-private"], 0x410: ["pe-in-private"]}


@pytest.mark.parametrize(
    ("environment", "places"),
    [
        (["PATH=/bin", "LD_PRELOAD=/srv/evil.so"], [0x400, 0x410]),
        (["LD_PRELOAD=/srv/other.so evil.so"], [0x400, 0x410]),
        (["LD_PRELOAD=libm.so.6:/nowhere/x.so"], [0x420]),
        (["LD_AUDIT=/srv/gone.so"], [0x430]),
        (["LD_PRELOAD=/usr/$LIB/libm.so.6"], [0x420]),
        (["LD_PRELOAD=", "LD_PRELOADED=/srv/evil.so", "X=LD_PRELOAD=/srv/evil.so", "LD_PRELOAD"], []),
        (["LD_PRELOAD=/other/evil.so"], []),
        ([], []),
        (None, None),
    ],
)
def test_preloaded_libraries(environment: list[str] | None, places: list[int] | None) -> None:
    """All mappings of a library that LD_PRELOAD or LD_AUDIT names; a path is another library than one elsewhere."""
    rows = [
        vma(0x400, "r-xp", "/srv/evil.so"),
        vma(0x410, "rw-p", "/srv/evil.so", offset=4 * PAGE),
        vma(0x420, "r--p", "/usr/lib/libm.so.6"),
        vma(0x430, "r--p", "/srv/gone.so (deleted)"),
        vma(0x440, "r--p", "/bin/a"),
    ]
    told = Parameters("stack", environment=None if environment is None else tuple(environment))
    process = process_of([row.start // PAGE for row in rows], Metadata((Regions("VMAs", rows),), parameters=(told,)))
    labels = labels_of(process)
    assert ("preloaded-library" in labels.flagged.where) == (places is not None)
    found = [
        segment.start // PAGE
        for index, segment in enumerate(labels.segments)
        if "preloaded-library" in labels.flags(index)
    ]
    assert found == (places or [])
    assert len(labels.flagged.findings) == len({row.file for row in rows if row.start // PAGE in found})


# code that differs

_ADDRESS = 0x7F0000000


class Several(Container):
    """Processes that map two pages of one file's code each, at addresses of their own, over one backing."""

    path = "several"

    def __init__(self, frames: Sequence[Sequence[int] | None], contents: Sequence[bytes]) -> None:
        self.frames = frames
        self.backing = Memory(b"".join(contents))
        self.opened: list[int] = []

    def processes(self) -> list[ProcessEntry]:
        """Return them all."""
        return [ProcessEntry(index) for index in range(len(self.frames))]

    def _process(self, index: int) -> ProcessMemory:
        self.opened.append(index)
        frames = self.frames[index]
        if frames is None:
            raise ProcessError("its page tables are not in the image", subject=self.path)
        base = _ADDRESS + index * 0x10
        there = [place for place, frame in enumerate(frames) if frame >= 0]
        start = np.array([(base + place) * PAGE for place in there], np.uint64)
        offset = np.array([frames[place] * PAGE for place in there], np.uint64)
        space = AddressSpace(start, np.full(len(there), PAGE, np.uint64), offset, self.backing)
        row = region(Mapping(base * PAGE, len(frames) * PAGE, "r-xp", 3 * PAGE, *FILE, "/usr/lib/libc.so.6"))
        return ProcessMemory(space, ProcessEntry(index), metadata=lambda: Metadata((Regions("VMAs", [row]),)))

    def close(self) -> None:
        """Do nothing."""


def differing(container: Container, index: int) -> list[int]:
    """Return at which page of its code a process differs."""
    process = container.process(index=index)
    labels = labels_of(process, Selection("all", flag=["text-differs"]))
    found = [each.address // PAGE for each in labels.flagged.findings if each.flag == "text-differs"]
    where = labels.flagged.where["text-differs"]
    assert [page for low, high in where.bounds() for page in range(low // PAGE, high // PAGE)] == found
    return [page - _ADDRESS - index * 0x10 for page in found]


PAGES = [noise(seed) for seed in range(4)]


def test_code_that_was_changed() -> None:
    """The one process with other bytes is flagged, at the page that differs; those that share a frame are not."""
    container = Several([(0, 1), (0, 2), (0, 1), (0, 1)], PAGES)
    assert [differing(container, index) for index in range(4)] == [[], [1], [], []]
    (finding,) = labels_of(container.process(index=1), Selection("all", flag=["text-differs"])).flagged.findings
    assert re.search(r"libc.so.6 \(offset 0x4000\) is not what 3 other processes have there; 1 have", finding.why)
    # each was opened for itself, and once for all the others
    assert len(container.opened) <= 2 * 4 + 1


def test_the_same_bytes_in_another_frame() -> None:
    """A copy with the same bytes (fork, or read again) is no difference."""
    container = Several([(0, 1), (0, 2), (3, 1)], [PAGES[0], PAGES[1], PAGES[1], PAGES[0]])
    assert [differing(container, index) for index in range(3)] == [[], [], []]


def test_who_is_right_is_not_known_of_two() -> None:
    """Where as many have one as the other, both are told; pages that only one has are not."""
    assert [differing(Several([(0, 1), (0, 2)], PAGES), index) for index in range(2)] == [[1], [1]]
    assert differing(Several([(0, 1), (-1, -1)], PAGES), 0) == []


def test_processes_that_cannot_be_opened() -> None:
    """They are left out, and so is what is outside the image; alone, nothing is looked for."""
    container = Several([(0, 2), None, (0, 1), (0, 1)], PAGES)
    assert differing(container, 0) == [1]
    assert differing(Several([(0, 9), (0, 1), (0, 1)], PAGES), 0) == []
    alone = Several([(0, 1)], PAGES).process(index=0)
    with pytest.raises(UsageError, match="text-differs by; it needs an image whose regions say"):
        labels_of(alone, Selection("all", flag=["text-differs"]))
    assert "text-differs" not in labels_of(Several([(0, 1), (0, 2)], PAGES).process(index=0)).flagged.where


def limits_of(container: Several, index: int) -> list[str]:
    """Return what is said not to have been compared."""
    return labels_of(container.process(index=index), Selection("all", flag=["text-differs"])).flagged.limits


def test_comparing_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many pages differ, so many are read; code of a hostile size is not looked at."""
    monkeypatch.setattr(same_files, "_MOST_COMPARED", 2)
    contents = [noise(seed) for seed in range(20)]
    container = Several([range(10), range(10, 20), range(10, 20)], contents)
    assert len(differing(container, 0)) == 2
    assert limits_of(container, 0) == ["text-differs: 8 pages of code were too many to be compared"]
    monkeypatch.setattr(text_pages, "_MOST_PAGES", 5)
    assert limits_of(Several([range(10), range(10, 20)], contents), 0) == [
        "text-differs: 10 pages of code were too many to be compared"
    ]
    assert differing(Several([range(10), range(10, 20)], contents), 0) == []
    monkeypatch.undo()
    monkeypatch.setattr(same_files, "_MOST_IN_ALL", 25)
    several = Several([range(10)] * 3 + [range(10, 20)] * 7, contents)
    assert differing(several, 0) == []
    # for itself; then all of them, of which those count that the bound allows
    assert several.opened == [0, *range(10)]
    # one of hostile size does not take the place of others
    several = Several([range(10), range(26), *[[0, 19]] * 3, [0, 18]], [*contents, *contents])
    assert differing(several, 5) == [1]
    monkeypatch.undo()
    monkeypatch.setattr(same_files, "_MOST_READ", 3)
    monkeypatch.setattr(same_files, "_LEAST_READ", 3)
    several = Several([range(10), range(10, 20)], contents)
    assert differing(several, 0) == [0, 1, 2]
    # what others have used up is there for each
    assert differing(several, 1) == [0, 1, 2, 3, 4]
    assert limits_of(several, 1) == ["text-differs: 3 pages of code were too many to be compared"]


# real processes

PROGRAM = r"""
import ctypes, mmap, os, sys
libc = ctypes.CDLL(None)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
fd = os.memfd_create("kworker")
os.truncate(fd, mmap.PAGESIZE)
libc.mmap(None, mmap.PAGESIZE, 5, 2, fd, 0)
with open("gone", "w+b") as file:
    file.write(bytes(mmap.PAGESIZE))
    file.flush()
    libc.mmap(None, mmap.PAGESIZE, 5, 2, file.fileno(), 0)
os.unlink("gone")
program = open("/proc/self/exe", "rb").read(mmap.PAGESIZE)
place = libc.mmap(None, mmap.PAGESIZE, 3, 0x22, -1, 0)
ctypes.memmove(place, program, len(program))
print(place, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def waiting(tmp_path: Path) -> Iterator[tuple[int, int]]:
    """Return the pid of a program that has a memfd, a deleted file, and a program in its own memory; and its place."""
    if sys.platform != "linux":
        pytest.skip("/proc is Linux's")
    libraries = [line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if "libc.so.6" in line]
    math = os.path.join(os.path.dirname(libraries[0]), "libm.so.6") if libraries else ""
    if not os.path.exists(math):
        pytest.skip("the C library is not called libc.so.6 here")
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        cwd=tmp_path,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={"LD_PRELOAD": math},
    ) as child:
        try:
            assert child.stdout is not None
            place = int(child.stdout.readline())
            child.send_signal(signal.SIGSTOP)
            while Path(f"/proc/{child.pid}/stat").read_text().rpartition(") ")[2][0] != "T":
                time.sleep(0.001)
            yield child.pid, place
        finally:
            child.kill()


def test_a_real_process(waiting: tuple[int, int]) -> None:
    """All four are found in it, by what /proc says; nothing else is flagged but what ctypes itself runs."""
    pid, place = waiting
    with memcarve.open(f"/proc/{pid}") as container:
        process = container.process()
        labels = labels_of(process, content="headers", read=True)
        findings = {found.flag: found for found in labels.flagged.findings}
        by_flag = {flag: {int(start) for start in where.start} for flag, where in labels.flagged.where.items()}
        (told,) = process.metadata.parameters
        assert told.command_line == f"{sys.executable} -c {PROGRAM}"
        assert told.environment is not None
        assert any(text.startswith("LD_PRELOAD=") for text in told.environment)
        assert told.image_path == os.path.realpath(sys.executable)
    assert "/memfd:kworker (deleted)" in findings["memfd-executable"].why
    assert "/gone (deleted)" in findings["deleted-executable"].why
    assert "libm" in findings["preloaded-library"].why
    assert place // mmap.PAGESIZE * mmap.PAGESIZE in by_flag["elf-in-private"]
    assert not by_flag["executable-stack"]


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_a_stack_that_runs(tmp_path: Path) -> None:
    """A program that is linked so has a stack that runs."""
    text = '#include <stdio.h>\n#include <unistd.h>\nint main(void) { puts("x"); fflush(stdout); for (;;) pause(); }\n'
    program = compiled(tmp_path, text, "-z", "execstack")
    with subprocess.Popen([program], stdout=subprocess.PIPE) as child:
        try:
            assert child.stdout is not None
            child.stdout.readline()
            with memcarve.open(f"/proc/{child.pid}") as container:
                labels = labels_of(container.process())
                assert len(labels.flagged.where["executable-stack"]) == 1
        finally:
            child.kill()
