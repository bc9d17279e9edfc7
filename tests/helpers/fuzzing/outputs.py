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
from headers import elf_page, pe_page
from maps import written
from memcarve import Labelling, SinkOptions
from memory import content

if TYPE_CHECKING:
    from fuzzing.case import Reached
    from fuzzing.draw import Draw

PAGE = 0x1000
_RANGES = ((0x10000, 2 * PAGE), (0x20000, PAGE), (0x100000, 3 * PAGE))


def _process(folder: str, dump: bytes, ranges: tuple[tuple[int, int], ...] = _RANGES) -> str:
    """Write a dump, its map and lists of what is in it; return the dump's path."""
    regions = [
        listings.vad(0x10000, 0x1FFFF, file="\\W\\x.dll", tag="Vad ", private=0, protection="PAGE_EXECUTE_WRITECOPY"),
        listings.vad(0x100000, 0x1FFFFF, protection="PAGE_EXECUTE_READWRITE"),
    ]
    files = {
        "pid.4.map": maps.quick(written(ranges)),
        "pid.4.dmp": dump,
        "pid.4.vadinfo.txt": listings.quick(regions, listings.VADINFO),
        "pid.4.dlllist.txt": listings.quick([listings.dll(0x10000, 0x2000, "x.dll", "C:\\x.dll")], listings.DLLLIST),
        "pid.4.threads.txt": listings.quick([listings.thread(5, 0x10010, 0x20000)], listings.THREADS),
    }
    Case(files, {}).write(folder)
    return os.path.join(folder, "pid.4.dmp")


class Carved:
    """A carved folder whose manifest says something else, and sums that agree with it."""

    def __init__(self, folder: str) -> None:
        self.folder, self.path = folder, os.path.join(folder, "carved")
        self.source = memcarve.open(_process(folder, bytes(pe_page()) + content(0, 5 * PAGE))).process()
        segments = self.source.segments(labeller=Labelling(content="headers"))
        memcarve.carve(self.source, segments, self.path, SinkOptions(hashes=("sha256", "md5")))
        self.files = {}
        for name in os.listdir(self.path):
            with open(os.path.join(self.path, name), "rb") as file:
                self.files[name] = file.read()
        self.document = json.loads(self.files["segments.json"])
        self.sums = {name: kind for name in self.files if (kind := _SUMS.get(name))}

    def make(self, draw: Draw) -> Case:
        """Change members of the manifest; where files and sums must agree with it, have them agree."""
        files = dict(self.files)
        document = copy.deepcopy(self.document)
        kind = draw.randrange(10)
        if kind < 3:
            self._move(draw, document, files)
        if kind < 6:
            header = {name: value for name, value in document.items() if name not in _ARRAYS}
            document = {**draw.document(header), **{name: document[name] for name in _ARRAYS}}
        elif kind < 9:
            name = draw.choice(_ARRAYS)
            document[name] = draw.document(document[name] or [{"start": "0x0", "end": "0x1000", "size": 4096}])
        data = _manifest(document)
        if draw.chance(0.1):
            data = draw.lines(data)
        files["segments.json"] = data
        for name, function in self.sums.items() if draw.chance(0.9) else ():
            files[name] = _sums(files, document, function)
            if draw.chance(0.05):
                files[name] = draw.lines(files[name])
        use = draw.choice(("look", "look", "look", "verify", "verify", "source", "compare", "force"))
        return Case({f"carved/{name}": data for name, data in files.items()}, checks.drawn(draw) | {"use": use})

    @staticmethod
    def _move(draw: Draw, document: dict[str, Any], files: dict[str, bytes]) -> None:
        """Have a segment lie elsewhere or be shorter, and its file have the name and the size that follow."""
        rows = document["segments"]
        row = draw.choice(rows)
        known = [int(one[name], 16) for one in rows for name in ("start", "end")]
        start = draw.number(int(row["start"], 16), known)
        data = files.pop(row["file"])
        data = data[: draw.choice((len(data), len(data), PAGE, 1))]
        end = min(start + len(data), 1 << 64)
        name = f"0x{start:016x}-0x{end:016x}.bin"
        sums = {kind: hashlib.new(kind, data).hexdigest() for kind in ("sha256", "md5")}
        row |= {"start": f"0x{start:016x}", "end": f"0x{end:016x}", "size": len(data), "file": name} | sums
        files[name] = data
        if draw.chance(0.7):
            rows.sort(key=lambda one: int(one["start"], 16))
            document["totals"]["bytes"] = sum(one["size"] for one in rows)

    def run(self, case: Case, reached: Reached) -> None:
        """Open, verify, compare or replace the folder."""
        use = case.told["use"]
        try:
            if use == "look":
                checks.look(self.path, reached, labels=case.told["labels"], sink=case.told["sink"])
            elif use == "compare":
                with memcarve.open(self.path) as container:
                    process = container.process()
                    checks.use(process, reached)
                    list(memcarve.compare(self.source, process))
            elif use == "force":
                reached(Depth.PARSED)
                memcarve.carve(self.source, self.source.segments(), self.path, SinkOptions(force=True))
                reached(Depth.MEMORY)
            else:
                reached(Depth.PARSED)
                memcarve.verify(self.path, self.source if use == "source" else None)
                reached(Depth.MEMORY)
        finally:
            shutil.rmtree(self.path)
            os.mkdir(self.path)


_ARRAYS = ("missing", "segments")
_SUMS = {"SHA256SUMS": "sha256", "MD5SUMS": "md5"}


def _manifest(document: dict[str, Any]) -> bytes:
    """Return a manifest as one is laid out: its header, then each segment in a line of its own."""
    header = json.dumps({name: value for name, value in document.items() if name not in _ARRAYS}, indent=1)
    text = header.removesuffix("\n}").removesuffix("{}")
    for name in _ARRAYS:
        rows = document[name] if isinstance(document[name], list) else [document[name]]
        lines = ",\n".join(f"  {json.dumps(row)}" for row in rows)
        text += f',\n "{name}": [' + (f"\n{lines}" if rows else "") + "\n ]"
    return (text + "\n}\n").encode()


def _sums(files: dict[str, bytes], document: dict[str, Any], function: str) -> bytes:
    """Return the file of sums that belongs to a manifest."""
    rows = document["segments"] if isinstance(document["segments"], list) else []
    lines = [f"{row.get(function)}  {row.get('file')}\n" for row in rows if isinstance(row, dict)]
    lines.append(f"{hashlib.new(function, files['segments.json']).hexdigest()}  segments.json\n")
    return "".join(lines).encode("utf-8", "replace")


class Named:
    """A folder of files that other tools named by their addresses."""

    def __init__(self, folder: str) -> None:
        self.path, self.noise = os.path.join(folder, "named"), content(0, 2 * PAGE)
        os.mkdir(self.path)

    def make(self, draw: Draw) -> Case:
        """Draw addresses, and a way to write them into names."""
        form = draw.choice(_NAMES)
        files = {}
        address = draw.choice((0, 0x10000, 0x7FF612340000))
        for _ in range(draw.randrange(1, 5)):
            size = draw.choice((PAGE, PAGE, 2 * PAGE, 1))
            start = draw.number(address, (0x10000, 0x20000)) if draw.chance(0.2) else address
            end = start + size if draw.chance(0.9) else draw.number(start + size)
            word = draw.choice(("r-x", "rwx", "---", "rw-", "x.dll"))
            name = form.format(start=start, end=end, last=end - 1, word=word)
            if draw.chance(0.1):
                at = draw.randrange(len(name))
                name = name[:at] + draw.text() + name[at + draw.randrange(2) :]
            name = name.replace("/", "_").replace("\0", "_").encode("utf-8", "replace")[:200].decode("utf-8", "ignore")
            if name not in {"", ".", ".."}:
                length = size if draw.chance(0.9) else draw.choice((0, 1, size - 1, 3 * PAGE))
                files[f"named/{name}"] = self.noise[:length]
            address += size + draw.choice((0, PAGE, 0x10000))
            form = draw.choice(_NAMES) if draw.chance(0.1) else form
        return Case(files, checks.drawn(draw))

    def run(self, case: Case, reached: Reached) -> None:
        """Open the folder."""
        try:
            checks.look(self.path, reached, labels=case.told["labels"], sink=case.told["sink"])
        finally:
            shutil.rmtree(self.path)
            os.mkdir(self.path)


_NAMES = (
    *("0x{start:016x}-0x{end:016x}.bin", "0x{start:x}-0x{end:x}.bin", "pid.4.vad.0x{start:x}-0x{last:x}.dmp"),
    *(
        "0x{start:016x}-0x{end:016x}.{word}.x.dll.bin",
        "a.exe.pid.4.0x{start:x}-0x{last:x}.dmp",
        "{start:x}-{end:x}.dump",
    ),
    *("0x{start:08x}-0x{end:08x}-{word}.dmp", "a.exe.3f0.0x{start:016x}-0x{last:016x}.dmp", "pid.4.x.0x{start:x}.dmp"),
)


class Programs:
    """Programs and libraries as a loader lays them out, with other numbers in their headers."""

    def __init__(self, folder: str) -> None:
        self.path = _process(folder, bytes(32 * PAGE), ((0x10000, 32 * PAGE),))
        self.noise = content(0, 32 * PAGE)

    def make(self, draw: Draw) -> Case:
        """Draw a header or two, then change numbers in them."""
        memory = bytearray(self.noise)
        for place in (PAGE, 16 * PAGE)[: draw.randrange(1, 3)]:  # what begins a dump may tell what it is
            page = self._pe(draw) if draw.chance(0.6) else self._elf(draw)
            if draw.chance(0.6):
                places = [(at, width) for at in range(0, 0x300, 2) for width in (2, 4, 8) if at % width == 0]
                page = draw.fields(page, places)
            memory[place : place + PAGE] = page
            # a directory of exports, and of debugging: each as the directories above may say
            struct.pack_into(
                "<IIHHIIIIIII",
                memory,
                place + PAGE,
                0,
                0,
                0,
                0,
                *(draw.choice((0x1100, 0x1000, draw.number(bits=32))) for _ in range(7)),
            )
            memory[place + 0x1100 : place + 0x1110] = draw.choice(
                (b"name.dll\0", b"\x1b[31m\xff\0", b"a/../b\0", b"x" * 16)
            ).ljust(16, b"x")
            struct.pack_into(
                "<IIHHIIII", memory, place + 0x1200, 0, 0, 0, 0, 2, 0x40, 0x1300, draw.number(0x500, bits=32)
            )
            memory[place + 0x1300 : place + 0x1320] = b"RSDS" + bytes(20) + b"x.pdb\0\0\0"
        told = checks.drawn(draw) | {"layout": draw.choice(("file", "memory")), "content": draw.chance(0.2)}
        return Case({"pid.4.dmp": bytes(memory)}, told)

    @staticmethod
    def _pe(draw: Draw) -> bytes:
        sections = [
            (draw.number(0x1000 * (at + 1), (0x1000, 0x5000), 32) if draw.chance(0.3) else 0x1000 * (at + 1),
             draw.number(0x1000, (0x1000,), 32) if draw.chance(0.3) else 0x1000,
             draw.choice((0x60000020, 0xC0000040, 0x40000040)))
            for at in range(draw.choice((0, 1, 3, 3, 8)))
        ]  # fmt: skip
        directories = {
            number: (at, size) for number, at, size in ((0, 0x1000, 0x200), (6, 0x1200, 28)) if draw.chance(0.8)
        }
        return bytes(
            pe_page(
                draw.choice(("x64", "x86", "arm64")),
                draw.choice((0x80, 0x80, 0x40, 0xE8, 0x300)),
                sections,
                size=draw.choice((0x5000, 0x5000, 0x10000, 0x20000, draw.number(bits=32))),
                traits=draw.choice((0x2022, 0x22, 0x102)),
                alignment=draw.choice((0x1000, 0x1000, 0x200, 1, 0)),
                directories=directories,
                count=draw.choice((None, None, 0, 96, 0xFFFF)),
            )
        )

    @staticmethod
    def _elf(draw: Draw) -> bytes:
        wide, order = draw.chance(0.7), draw.choice(("<", "<", ">"))
        bits = 64 if wide else 32
        loads = [
            (*(draw.number(value, (0x1000, 0x2000), bits) if draw.chance(0.15) else value for value in row), 5)
            for row in ((0, 0, 0x1800), (0x2000, 0x3000, 0x900), (0x3000, 0x5000, 0x2000))[: draw.randrange(4)]
        ]
        dynamic = (0x2000, draw.choice((0x1000, 0x3000, 0x1200)), 0x100) if draw.chance(0.5) else None
        return bytes(elf_page(loads, wide=wide, order=order, kind=draw.choice((2, 3, 4)), dynamic=dynamic))

    def run(self, case: Case, reached: Reached) -> None:
        """Find the modules, and extract them."""
        told = case.told
        with memcarve.open(self.path) as container:
            process = container.process()
            reached(Depth.PARSED)
            if told["content"]:
                labelled = process.segments(labeller=Labelling(content="full", read=True))
                for index in range(len(labelled)):
                    json.loads(labelled.labels.text(index))  # type: ignore[union-attr]
            found = memcarve.find_modules(process)
            checks.texts(found.notes)
            if not found.modules:
                return
            reached(Depth.ROWS)
            out = f"{self.path}.out"
            try:
                options = SinkOptions(layout=told["layout"], largest=1 << 20)
                result = memcarve.extract(process, found.modules, out, options)
                reached(Depth.MEMORY)
                assert result.count <= result.of or not result.of
                checks.printable(checks.strict_files(out))
            finally:
                shutil.rmtree(out, ignore_errors=True)
