"""Programs in memory: as a loader lays them out, with other numbers in their headers."""

from __future__ import annotations

import os
import shutil
import struct
from typing import TYPE_CHECKING

import listings
import maps
import memcarve
from fuzzing import checks
from fuzzing.case import Case, Depth
from headers import elf_page, pe_page
from maps import written
from memcarve import Labelling, SinkOptions
from memory import PAGE, content

if TYPE_CHECKING:
    from fuzzing.case import Reached
    from fuzzing.draw import Draw


class Programs(checks.Looked):
    """A dump in which one or two programs or libraries are mapped."""

    def prepare(self) -> None:
        """Write what lies beside the dump."""
        modules = listings.quick([listings.dll(0x11000, 0x2000, "x.dll", "C:\\x.dll")], listings.DLLLIST)
        files = {"pid.4.map": maps.quick(written([(0x10000, 32 * PAGE)])), "pid.4.dlllist.txt": modules}
        Case(files, {}).write(self.folder)
        self.noise = content(0, 32 * PAGE)

    def make(self, draw: Draw) -> Case:
        """Draw a header or two, then change numbers in them."""
        memory = bytearray(self.noise)
        for place in (PAGE, 16 * PAGE)[: draw.randrange(1, 3)]:  # what begins a dump may tell what it is
            page = self._pe(draw) if draw.chance(0.6) else self._elf(draw)
            if draw.chance(0.6):
                page = draw.fields(page, [(at, width) for width in (2, 4, 8) for at in range(0, 0x300, width)])
            memory[place : place + PAGE] = page
            # a directory of exports, a name, a directory of debugging: as the directories of the header may say
            exports = [draw.choice((0x1100, 0x1000, draw.number(bits=32))) for _ in range(7)]
            struct.pack_into("<12x7I", memory, place + 0x1000, *exports)
            name = draw.choice((b"name.dll\0", b"\x1b[31m\xff\0", b"a/../b\0", b"x" * 16))
            struct.pack_into("16s", memory, place + 0x1100, name)
            struct.pack_into("<12xIIII", memory, place + 0x1200, 2, 0x40, 0x1300, draw.number(0x500, bits=32))
            struct.pack_into("4s20x8s", memory, place + 0x1300, b"RSDS", b"x.pdb\0")
        told = checks.drawn(draw, "pid.4.dmp") | {"layout": draw.choice(("file", "memory")), "full": draw.chance(0.2)}
        return Case({"pid.4.dmp": bytes(memory)}, told)

    @staticmethod
    def _pe(draw: Draw) -> bytes:
        def odd(usual: int) -> int:
            return draw.number(usual, (0x1000, 0x5000), 32) if draw.chance(0.25) else usual

        flags = (0x60000020, 0xC0000040, 0x40000040)
        return bytes(
            pe_page(
                draw.choice(("x64", "x86", "arm64")),
                draw.choice((0x80, 0x80, 0x40, 0xE8, 0x300)),
                [(odd(at << 12), odd(0x1000), draw.choice(flags)) for at in range(1, draw.choice((1, 2, 4, 4, 9)))],
                size=draw.choice((0x5000, 0x5000, 0x10000, 0x20000, odd(0x5000))),
                traits=draw.choice((0x2022, 0x22, 0x102)),
                alignment=draw.choice((0x1000, 0x1000, 0x200, 1, 0)),
                directories={0: (odd(0x1000), odd(0x200)), 6: (odd(0x1200), odd(28))},
                count=draw.choice((None, None, None, 0, 96, 0xFFFF)),
            )
        )

    @staticmethod
    def _elf(draw: Draw) -> bytes:
        wide, order = draw.chance(0.7), draw.choice(("<", "<", ">"))
        rows = ((0, 0, 0x1800), (0x2000, 0x3000, 0x900), (0x3000, 0x5000, 0x2000))[: draw.randrange(4)]
        loads = [
            (*(draw.number(at, (0x1000, 0x2000), 64 if wide else 32) if draw.chance(0.15) else at for at in row), 5)
            for row in rows
        ]
        dynamic = (0x2000, draw.choice((0x1000, 0x3000, 0x1200)), 0x100) if draw.chance(0.5) else None
        return bytes(elf_page(loads, wide=wide, order=order, kind=draw.choice((2, 3, 4)), dynamic=dynamic))

    def run(self, case: Case, reached: Reached) -> None:
        """Find the modules, and extract them."""
        with memcarve.open(os.path.join(self.folder, "pid.4.dmp")) as container:
            process = container.process()
            reached(Depth.PARSED)
            labels = (
                process.segments(labeller=Labelling(content="full", read=True)).labels if case.told["full"] else None
            )
            if labels is not None:
                labels.record(0)
            found = memcarve.find_modules(process)
            checks.texts(found.notes)
            reached(Depth.ROWS if found.modules else Depth.PARSED)
            out = os.path.join(self.folder, "out")
            try:
                options = SinkOptions(layout=case.told["layout"], largest=1 << 20)
                memcarve.extract(process, found.modules, out, options)
                reached(Depth.MEMORY if found.modules else Depth.PARSED)
                checks.printable(checks.strict_files(out))
            finally:
                shutil.rmtree(out, ignore_errors=True)
