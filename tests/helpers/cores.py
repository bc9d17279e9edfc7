"""ELF cores of processes, made by hand; programs whose cores real systems write; and other programs that read cores.

Nothing here is memcarve's.
"""

from __future__ import annotations

import glob
import itertools
import math
import os
import re
import resource
import shutil
import struct
import subprocess
from typing import TYPE_CHECKING, NamedTuple

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

PAGE = 0x1000
#: prints its map, has a page of each kind, then ends by abort(), or waits where it is given an argument
PROGRAM = r"""
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static void *wait_here(void *name) { for (;;) pause(); return name; }

int main(int count, char **words) {
    unsigned char *data = mmap((void *)0x10000000, 0x5000, 3, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    for (int i = 0; i < 0x5000; i++) data[i] = (unsigned char)(i * 7 + (i >> 8));
    mprotect(data + 0x1000, 0x1000, PROT_READ | PROT_EXEC);
    mmap((void *)0x20000000, 0x4000, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    int file = open(words[0], O_RDONLY);
    mmap((void *)0x30000000, 0x1000, PROT_READ, MAP_SHARED | MAP_FIXED, file, 0x1000);
    pthread_t thread;
    pthread_create(&thread, 0, wait_here, 0);
    char line[4096];
    FILE *maps = fopen("/proc/self/maps", "r");
    while (fgets(line, sizeof line, maps)) fputs(line, stdout);
    fclose(maps);
    fflush(stdout);
    if (count > 1) for (;;) pause();
    abort();
}
"""
#: of 32 bits, without any library: fills its data and ends by an illegal instruction
PROGRAM_32 = """
unsigned char data[0x3000] __attribute__((aligned(4096)));
void _start(void) {
    for (int i = 0; i < 0x3000; i++) data[i] = (unsigned char)(i * 5 + (i >> 8));
    __asm__("mov $0x1234567, %esi; ud2");
}
"""


class Load(NamedTuple):
    """A PT_LOAD: its address, what of it is stored, its size in memory (None: what is stored), p_flags."""

    start: int
    stored: bytes
    whole: int | None = None
    flags: int = 6


def note(owner: bytes, kind: int, content: bytes, order: str = "<") -> bytes:
    """Return a note."""
    name = owner + b"\0"
    return b"".join(
        (
            struct.pack(f"{order}III", len(name), len(content), kind),
            name + bytes(-len(name) % 4),
            content + bytes(-len(content) % 4),
        )
    )


def info(pid: int, name: bytes, bits: int = 64, order: str = "<") -> bytes:
    """Return a note of type NT_PRPSINFO."""
    before, place = ("4xQII", 24) if bits == 64 else ("4xIHH", 12)
    content = struct.pack(f"{order}{before.replace('Q', '4xQ')}", 0, 0, 0)
    assert len(content) == place
    return note(b"CORE", 3, content + struct.pack(f"{order}I12x16s80s", pid, name, name), order)


def status(tid: int, registers: Sequence[int], bits: int = 64, order: str = "<", signal: int = 0) -> bytes:
    """Return a note of type NT_PRSTATUS."""
    head = struct.pack(f"{order}3ih2x", signal, 0, 0, signal)
    if bits == 64:
        content = head + struct.pack(f"{order}16xI76x27Qi4x", tid, *registers, 0)
    else:
        content = head + struct.pack(f"{order}8xI44x17Ii", tid, *registers, 0)
    return note(b"CORE", 1, content, order)


def siginfo(signal: int, code: int, address: int, bits: int = 64, order: str = "<") -> bytes:
    """Return a siginfo_t with an address, and something behind it."""
    layout = f"{order}3i4xQ" if bits == 64 else f"{order}3iI"
    return struct.pack(layout, signal, 0, code, address).ljust(120, b"\0") + b"trailer."


def fxsave(seed: int, top: int = 5) -> bytes:
    """Return what FXSAVE saves: some x87 registers on a stack whose top is `top`, and all of SSE."""
    values = [1.5 + seed, -2.0, 0.0]
    used = sum(1 << (top + place & 7) for place in range(len(values)))
    data = struct.pack("<HHBxHIHxxIHxxII", 0x37F, top << 11, used, 0x123, 0x401234, 0, 0x7FFE10, 0, 0x1FA0, 0xFFFF)
    for value in values:
        mantissa, exponent = math.frexp(abs(value))
        word = (exponent - 1 + 16383 if value else 0) | (0x8000 if value < 0 else 0)
        data += struct.pack("<QH6x", int(mantissa * (1 << 64)), word)
    data = data.ljust(160, b"\0")
    return (
        data
        + b"".join(struct.pack("<QQ", seed << 32 | place, ~place & (1 << 64) - 1) for place in range(16))
        + bytes(96)
    )


def files(
    rows: Sequence[tuple[int, int, int, bytes]], bits: int = 64, order: str = "<", count: int | None = None
) -> bytes:
    """Return a note of type NT_FILE: start, end, offset in pages, name; `count` is what it claims to hold."""
    words = [len(rows) if count is None else count, PAGE, *(word for row in rows for word in row[:3])]
    numbers = struct.pack(f"{order}{len(words)}{'Q' if bits == 64 else 'I'}", *words)
    return note(b"CORE", 0x46494C45, numbers + b"".join(row[3] + b"\0" for row in rows), order)


def core(
    loads: Sequence[Load],
    notes: bytes = b"",
    *,
    bits: int = 64,
    order: str = "<",
    machine: int = 62,
    many: bool = False,
    offsets: Sequence[int] | None = None,
    physical: Sequence[int] | None = None,
    system: int = 0,
) -> bytes:
    """Return a core: headers, notes, and the bytes one after the other, unless `offsets` says where they are.

    `system` is EI_OSABI.
    """
    wide = bits == 64
    header, row, section = (64, 56, 64) if wide else (52, 32, 40)
    rows = len(loads) + 1
    sections = header + row * rows
    notes_at = sections + section * many
    ident = b"\x7fELF" + bytes([2 if wide else 1, 1 if order == "<" else 2, 1, system]).ljust(12, b"\0")
    data = ident + struct.pack(
        order + ("HHIQQQIHHHHHH" if wide else "HHIIIIIHHHHHH"),
        *(4, machine, 1, 0, header, sections * many, 0, header, row),
        *(0xFFFF if many else rows, section * many, int(many), 0),
    )

    def program(kind: int, offset: int, load: Load, place: int = 0) -> bytes:
        size = len(load.stored)
        whole = size if load.whole is None else load.whole
        if wide:
            return struct.pack(f"{order}IIQQQQQQ", kind, load.flags, offset, load.start, place, size, whole, 1)
        return struct.pack(f"{order}8I", kind, offset, load.start, place, size, whole, load.flags, 1)

    parts = [program(4, notes_at, Load(0, notes, 0, 0))]
    place = notes_at + len(notes)
    for index, load in enumerate(loads):
        where = place if offsets is None else offsets[index]
        parts.append(program(1, where, load, physical[index] if physical else 0))
        place += len(load.stored)
    data += b"".join(parts)
    if many:
        data += (
            (bytes(44) + struct.pack(f"{order}I", rows)).ljust(64, b"\0")
            if wide
            else (bytes(28) + struct.pack(f"{order}I", rows)).ljust(40, b"\0")
        )
    return data + notes + b"".join(load.stored for load in loads)


# what real systems write


def needed(program: str) -> str:
    """Return where a program is; skip where it is not."""
    found = shutil.which(program)
    if found is None:
        pytest.skip(f"{program} is not installed")
    return found


def compiled(folder: Path, text: str, *options: str) -> Path:
    """Return a program made from its text; skip where that does not work."""
    source, program = folder / "program.c", folder / "program"
    source.write_text(text)
    done = subprocess.run(
        [needed("gcc"), *options, "-o", str(program), str(source)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"gcc {' '.join(options)} does not work here: {done.stderr.splitlines()[0]}")
    return program


def crashed(program: Path) -> tuple[Path, str]:
    """Run a program that ends badly; return its core and what it printed. Skip where the system writes none here."""
    with open("/proc/sys/kernel/core_pattern", encoding="ascii") as file:
        pattern = file.read().strip()
    if "/" in pattern or "|" in pattern:
        pytest.skip(f"the system does not write cores beside programs: its core_pattern is {pattern}")

    def unlimited() -> None:
        hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
        resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))

    try:
        done = subprocess.run(
            [str(program)],
            cwd=program.parent,
            capture_output=True,
            text=True,
            check=False,
            preexec_fn=unlimited,
        )
    except OSError as error:
        pytest.skip(f"this system does not run {program.name} of another kind: {error.strerror}")
    found = glob.glob(str(program.parent / "core*"))
    if done.returncode >= 0 or not found:
        pytest.skip("the system wrote no core: RLIMIT_CORE may be 0")
    return type(program)(found[0]), done.stdout


class Mapping(NamedTuple):
    """A line of /proc/PID/maps."""

    start: int
    end: int
    permissions: str
    offset: int
    inode: int
    name: str


def mappings(text: str) -> list[Mapping]:
    """Return the lines of /proc/PID/maps."""
    rows = re.findall(r"(?m)^([0-9a-f]+)-([0-9a-f]+) (....) ([0-9a-f]+) \S+ (\d+) *(.*)$", text)
    return [
        Mapping(int(a, 16), int(b, 16), word, int(at, 16), int(inode), name) for a, b, word, at, inode, name in rows
    ]


# other programs


def run(*words: str, seconds: int = 120) -> str:
    """Run a program in a plain environment; return all that it prints."""
    environment = {"PATH": os.environ["PATH"], "LC_ALL": "C", "HOME": "/nonexistent"}
    done = subprocess.run(
        words, capture_output=True, text=True, errors="replace", check=False, timeout=seconds, env=environment
    )
    return done.stdout + done.stderr


def gdb(core_file: str | Path, *commands: str) -> str:
    """Return what gdb prints."""
    # without its own files of the same names as those of the core
    words = ["-ex", "set sysroot /nonexistent", "-ex", f"core-file {core_file}"]
    return run(needed("gdb"), "-nx", "-batch", *words, *(word for command in commands for word in ("-ex", command)))


def gdb_memory(core_file: str | Path, addresses: Iterable[int], size: int) -> list[bytes | None]:
    """Return the bytes that gdb shows at addresses; None where it shows none."""
    wanted = list(addresses)
    asked = [(f"echo \\n{index}:\\n", f"x/{size}xb {address}") for index, address in enumerate(wanted)]
    text = gdb(core_file, *itertools.chain.from_iterable(asked))
    return [
        _bytes(part, r"0x[0-9a-f]+(?: <[^>]*>)?:((?:\s+0x[0-9a-f]{2})+)", size) for part in _parts(text, len(wanted))
    ]


def lldb(core_file: str | Path, *commands: str) -> str:
    """Return what lldb prints."""
    words = ["-o", f"target create -c {core_file}", *(word for command in commands for word in ("-o", command))]
    return run(needed("lldb"), "--no-lldbinit", "--batch", *words)


def _parts(text: str, count: int) -> list[str]:
    parts = re.split(r"(?m)^(\d+):\n", text)
    found = dict(zip(map(int, parts[1::2]), parts[2::2], strict=True))
    return [found[index] for index in range(count)]


def _bytes(text: str, pattern: str, size: int) -> bytes | None:
    data = bytes(int(word, 16) for line in re.findall(pattern, text) for word in line.split())
    return data if len(data) == size else None
