"""A machine that runs Linux: a made-up one, whose kernel's structures and page tables are changed at any place."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import TYPE_CHECKING

import memcarve
from fuzzing import checks
from fuzzing.case import Case, Depth
from made_linux import BASE, IMAGE, PROGRAM, SIZE, MadeLinux
from memcarve.errors import MemcarveError
from memcarve.linux_mappings import line, unsaid

if TYPE_CHECKING:
    from fuzzing.case import Reached
    from fuzzing.draw import Draw

_FIRST, _TABLES = 0x40000, 0x1000  # where structures begin, and page tables
_MOST_PROCESSES, _MOST_PRINTED = 1000, 1 << 16
_POINTERS = (IMAGE, BASE, BASE + SIZE - 8, 0xDEAD000000000100, 0xDEAD000000000122, (1 << 64) - 4096)


class Linux:
    """Tasks, numbers, threads, regions, files, page tables: each case is a machine with some words changed."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        made = MadeLinux()
        mount = made.mounted()
        program = made.file(mount, b"usr", b"bin", b"program\n")
        for pid in range(1, 9):
            task = made.process(pid, b"program", b"/usr/bin/program\0-x\0", b"HOME=/\0", uid=pid)
            rows = [(PROGRAM, PROGRAM + 0x1000, 0x75, program), (PROGRAM + 0x1000, PROGRAM + 0x3000, 0x73, 0)]
            made.regions(task, *rows, (0x7FFF00000000, 0x7FFF00021000, 0x100173, 0))
            made.thread(task, 20 + pid)
        made.contained(task, b"docker", b"0123456789abcdef" * 4, host=b"inside")
        made.process(30, b"kthreadd")
        made.ended(made.process(31, b"gone", b"gone\0"))
        made.unlink(made.process(32, b"hidden", b"hidden\0"))
        self.memory, self.used = bytes(made.memory), made.used
        whole = range(_FIRST, made.used, 8)
        self.words = [at for at in whole if self.memory[at : at + 8] != bytes(8)]
        self.known = [value for at in self.words if (value := struct.unpack_from("<Q", self.memory, at)[0]) >= BASE]

    def make(self, draw: Draw) -> Case:
        """Draw words of structures, and now and then of page tables, and what is written there."""
        memory = bytearray(self.memory)
        for _ in range(draw.choice((1, 2, 5, 20, 100))):
            at = draw.choice(self.words) if draw.chance(0.8) else draw.randrange(_FIRST, self.used, 4)
            if draw.chance(0.03):
                at = _TABLES + 8 * draw.randrange(2048)
            value = draw.number(draw.choice(self.known), self.known)
            if draw.chance(0.4):
                value = draw.choice(self.known) if draw.chance(0.8) else draw.choice(_POINTERS)
            width = draw.choice((8, 8, 4))
            memory[at : at + width] = (value & (1 << 8 * width) - 1).to_bytes(width, "little")
        return Case({"made.raw": bytes(memory)}, {"some": draw.randrange(8)})

    def run(self, case: Case, reached: Reached) -> None:
        """List the processes; look at all that is known of some."""
        with memcarve.open(Path(self.folder, "made.raw")) as container:
            reached(Depth.PARSED)
            entries = container.processes()
            assert len(entries) < _MOST_PROCESSES
            checks.texts([*map(str, entries), *container.notes, *container.warnings])
            for number in range(3):
                index = case.told["some"] + 4 * number
                if index >= len(entries):
                    continue
                try:
                    container.start_of(index)
                    process = container.process(index=index)
                    checks.use(process, reached)
                    checks.known(process)
                    printed = [line(row, 64) for row in process.regions[:_MOST_PRINTED] if not unsaid(row)]
                    assert not any("\n" in each for each in printed)
                except MemcarveError:
                    continue  # of one process; others have theirs
