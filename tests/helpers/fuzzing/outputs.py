"""What is written may be an input again: carved folders and manifests, other tools' folders, programs in memory."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import shutil
import struct
from typing import TYPE_CHECKING, Any

import listings
import maps
import memcarve
from fuzzing import checks
from fuzzing.case import Case, Depth
from fuzzing.written import laid_out
from headers import elf_page, pe_page
from maps import written
from memcarve import Labelling, SinkOptions
from memory import PAGE, content

if TYPE_CHECKING:
    from fuzzing.case import Reached
    from fuzzing.draw import Draw

_ARRAYS = ("missing", "segments")
_SUMS = {"SHA256SUMS": "sha256", "MD5SUMS": "md5"}


def _beside(ranges: list[tuple[int, int]]) -> dict[str, bytes]:
    """Return what lies beside a dump: its map, and lists of what is in it."""
    image = {"file": "\\W\\x.dll", "tag": "Vad ", "private": 0, "protection": "PAGE_EXECUTE_WRITECOPY"}
    regions = [listings.vad(0x10000, 0x1FFFF, **image), listings.vad(0x100000, 0x1FFFFF)]
    return {
        "pid.4.map": maps.quick(written(ranges)),
        "pid.4.vadinfo.txt": listings.quick(regions, listings.VADINFO),
        "pid.4.dlllist.txt": listings.quick([listings.dll(0x10000, 0x2000, "x.dll", "C:\\x.dll")], listings.DLLLIST),
        "pid.4.threads.txt": listings.quick([listings.thread(5, 0x10010, 0x20000)], listings.THREADS),
    }


class Carved(checks.Looked):
    """A carved folder whose manifest says something else, and sums that agree with it."""

    def prepare(self) -> None:
        """Carve a process."""
        dump = bytes(pe_page()) + content(0, 5 * PAGE)
        ranges = [(0x10000, 2 * PAGE), (0x20000, PAGE), (0x100000, 3 * PAGE)]
        Case({"pid.4.dmp": dump, **_beside(ranges)}, {}).write(self.folder)
        self.path, self.files = os.path.join(self.folder, "carved"), {}
        self.source = memcarve.open(os.path.join(self.folder, "pid.4.dmp")).process()
        segments = self.source.segments(labeller=Labelling(content="headers"))
        memcarve.carve(self.source, segments, self.path, SinkOptions(hashes=tuple(_SUMS.values())))
        for name in sorted(os.listdir(self.path)):
            with open(os.path.join(self.path, name), "rb") as file:
                self.files[name] = file.read()
        self.document = json.loads(self.files["segments.json"])

    def make(self, draw: Draw) -> Case:
        """Change members of the manifest; where files and sums must agree with it, mostly have them agree."""
        files, document = dict(self.files), copy.deepcopy(self.document)
        kind = draw.randrange(10)
        if kind < 3:
            self._move(draw, document, files)
        if kind < 7:
            header = {name: value for name, value in document.items() if name not in _ARRAYS}
            document = {**draw.document(header), **{name: document[name] for name in _ARRAYS}}
        elif kind < 9:
            name = draw.choice(_ARRAYS)
            document[name] = draw.document(document[name] or [{"start": "0x0", "end": "0x1000", "size": 4096}])
        files["segments.json"] = laid_out(document)
        if draw.chance(0.1):
            files["segments.json"] = draw.lines(files["segments.json"])
        for name, function in _SUMS.items() if draw.chance(0.9) else ():
            files[name] = _sums(files, document, function)
        told = checks.drawn(draw, "carved")
        told["use"] = draw.choice(("look", "look", "look", "verify", "verify", "source", "compare", "force"))
        return Case({f"carved/{name}": data for name, data in files.items()}, told)

    @staticmethod
    def _move(draw: Draw, document: dict[str, Any], files: dict[str, bytes]) -> None:
        """Have a segment lie elsewhere or be shorter, and its file have the name and the size that follow."""
        rows = document["segments"]
        row = draw.choice(rows)
        start = draw.number(int(row["start"], 16), [int(one[name], 16) for one in rows for name in ("start", "end")])
        data = files.pop(row["file"])
        data = data[: draw.choice((len(data), len(data), PAGE, 1))]
        end = min(start + len(data), 1 << 64)
        row |= {"start": f"0x{start:016x}", "end": f"0x{end:016x}", "size": len(data)}
        row |= {"file": f"{row['start']}-{row['end']}.bin"}
        row |= {kind: hashlib.new(kind, data).hexdigest() for kind in _SUMS.values()}
        files[row["file"]] = data
        if draw.chance(0.7):
            rows.sort(key=lambda one: int(one["start"], 16))
            document["totals"]["bytes"] = sum(one["size"] for one in rows)

    def run(self, case: Case, reached: Reached) -> None:
        """Open, verify, compare or replace the folder."""
        use = case.told["use"]
        if use == "look":
            super().run(Case({}, {name: value for name, value in case.told.items() if name != "use"}), reached)
        elif use == "compare":
            with memcarve.open(self.path) as container:
                process = container.process()
                checks.use(process, reached)
                list(memcarve.compare(self.source, process))
        else:
            reached(Depth.PARSED)
            if use == "force":
                memcarve.carve(self.source, self.source.segments(), self.path, SinkOptions(force=True))
            else:
                memcarve.verify(self.path, self.source if use == "source" else None)
            reached(Depth.MEMORY)


def _sums(files: dict[str, bytes], document: dict[str, Any], function: str) -> bytes:
    """Return the file of sums that belongs to a manifest."""
    rows = [row for row in document["segments"] if isinstance(row, dict)]
    rows.append({function: hashlib.new(function, files["segments.json"]).hexdigest(), "file": "segments.json"})
    return "".join(f"{row.get(function)}  {row.get('file')}\n" for row in rows).encode("utf-8", "replace")


_NAMES = (
    *("0x{start:016x}-0x{end:016x}.bin", "0x{start:x}-0x{end:x}.bin", "pid.4.vad.0x{start:x}-0x{last:x}.dmp"),
    *(
        "0x{start:016x}-0x{end:016x}.{word}.x.dll.bin",
        "a.exe.pid.4.0x{start:x}-0x{last:x}.dmp",
        "{start:x}-{end:x}.dump",
    ),
    *("0x{start:08x}-0x{end:08x}-{word}.dmp", "a.exe.3f0.0x{start:016x}-0x{last:016x}.dmp", "pid.4.x.0x{start:x}.dmp"),
)


class Named(checks.Looked):
    """A folder of files that other tools named by their addresses."""

    def make(self, draw: Draw) -> Case:
        """Draw addresses, and a way to write them into names."""
        forms = draw.sample(_NAMES, 2 if draw.chance(0.1) else 1)
        files, address = {}, draw.choice((0, 0x10000, 0x7FF612340000))
        for _ in range(draw.randrange(1, 5)):
            size = draw.choice((PAGE, PAGE, 2 * PAGE, 1))
            start = draw.number(address, (0x10000, 0x20000)) if draw.chance(0.2) else address
            end = start + size if draw.chance(0.95) else draw.number(start + size)
            word = draw.choice(("r-x", "rwx", "---", "rw-", "x.dll"))
            name = draw.choice(forms).format(start=start, end=end, last=end - 1, word=word)
            if draw.chance(0.1):
                at = draw.randrange(len(name))
                name = name[:at] + draw.plain() + name[at + draw.randrange(2) :]
            name = name.replace("/", "_").replace("\0", "_").encode()[:200].decode("utf-8", "ignore")
            length = size if draw.chance(0.95) else draw.choice((0, 1, 3 * PAGE))
            files[f"named/{'_' * (name in {'', '.', '..'})}{name}"] = bytes([len(files) + 1]) * length
            address += size + draw.choice((0, PAGE, 0x10000))
        return Case(files, checks.drawn(draw, "named"))


class Programs(checks.Looked):
    """Programs and libraries as a loader lays them out, with other numbers in their headers."""

    def prepare(self) -> None:
        """Write what lies beside the dump."""
        Case(_beside([(0x10000, 32 * PAGE)]), {}).write(self.folder)
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
                json.loads(labels.text(0))
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
