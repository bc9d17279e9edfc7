"""What every source must do: inputs of every kind whose content is known, and the tests that all of them pass.

An input is made without memcarve, but for the folder that it carves; what it must hold is worked out beside it.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import json
import os
import random
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import pytest

import memcarve
import reported
import sinking
import winimage
from carved import binaries, manifest, named
from cli import invoke
from dumps import write_dump
from memcarve.backing import FileBacking
from memcarve.errors import AddressError, InputError, MemcarveError, NotRecognisedError, SourceReadError, UsageError
from memcarve.sources import SOURCES
from memcarve.sources.opening import Opened, OpenOptions
from memory import PAGE, noise

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from dumps import Piece
    from memcarve.process import ProcessMemory
    from memcarve.sources.opening import Source

    Capture = pytest.CaptureFixture[bytes]

#: neighbours that form one segment, single pages, sizes that are no pages, zeros, both halves of the address space
MEMORY: dict[int, bytes] = {
    0x10000: noise(1) + noise(2, 2 * PAGE),
    0x20000: noise(3),
    0x7FF600000000: noise(4, 5 * PAGE),
    0x7FF600010000: bytes(PAGE),
    0xFFFF800000000000: noise(5, PAGE + 16),
}
PIECES: list[tuple[int, bytes]] = [
    (start + place, data[place : place + PAGE]) for start, data in MEMORY.items() for place in range(0, len(data), PAGE)
]
#: options that nothing but images, or dumps with maps, understand
_FOREIGN: tuple[dict[str, Any], ...] = ({"dtb": 0x1000}, {"trust": "sum"}, {"dump": "x"}, {"paging": "x64"})


class Given(NamedTuple):
    """An input: where it is, which process of it, what it must hold (start of a segment to its content).

    Unless `exact`, it may hold other segments, too. `left_out` are bytes of the input that have no address, None where
    nobody knows how many. `files` must never change.
    """

    path: Path
    memory: Mapping[int, bytes]
    pid: int | None = None
    exact: bool = True
    left_out: int | None = 0
    code: int = 0
    files: Sequence[Path] = ()

    @property
    def choice(self) -> list[str]:
        """The options of commands that choose the process."""
        return [] if self.pid is None else ["--pid", str(self.pid)]

    @contextlib.contextmanager
    def opened(self) -> Iterator[ProcessMemory]:
        """Open it, and its process."""
        with memcarve.open(self.path) as container:
            yield container.process(self.pid)

    def seen(self) -> dict[str, tuple[int, str]]:
        """Return when each file was changed last, and the hash of its content."""
        return {str(p): (p.stat().st_mtime_ns, hashlib.sha256(p.read_bytes()).hexdigest()) for p in self.files}


Maker = "Callable[[Path], contextlib.AbstractContextManager[Given]]"


def _made(function: Callable[[Path], Given]) -> Callable[[Path], contextlib.AbstractContextManager[Given]]:
    return lambda folder: contextlib.nullcontext(function(folder))


@_made
def dump(folder: Path) -> Given:
    """Write a dump of Volatility's with its map."""
    rows: list[Piece] = [(start, data) for start, data in reversed(PIECES)]
    path = write_dump(folder, rows, 1624)
    return Given(path, MEMORY, 1624, files=(path, path.with_suffix(".map")))


def _machine(path: Path) -> Given:
    """Write the image of a Windows machine; the process is a small one of it."""
    truth = winimage.build(path, processes=[winimage.Plan(388, b"small.exe")])
    data, found, end = path.read_bytes(), dict[int, bytes](), None
    for address, size, physical, *_ in truth.process(388).user.items():
        if physical + size > len(data):
            end = None
        elif address == end:
            found[next(reversed(found))] += data[physical : physical + size]
            end = address + size
        else:
            found[address] = data[physical : physical + size]
            end = address + size
    return Given(path, found, 388, files=(path,))


@_made
def image(folder: Path) -> Given:
    """Write an image as it lies in memory."""
    return _machine(folder / "mem.raw")


@_made
def lime(folder: Path) -> Given:
    """Write an image in one range of LiME's format."""
    given = _machine(folder / "mem.raw")
    data = given.path.read_bytes()
    given.path.unlink()
    path = folder / "mem.lime"
    path.write_bytes(struct.pack("<IIQQ8x", 0x4C694D45, 1, 0, len(data) - 1) + data)
    return given._replace(path=path, files=(path,))


@_made
def carved_folder(folder: Path) -> Given:
    """Carve a dump into a folder."""
    (folder / "from").mkdir()
    with memcarve.open(write_dump(folder / "from", [*PIECES], 1624)) as container:
        sinking.carve(container.process(), folder / "carved")
    files = tuple((folder / "carved").iterdir())
    return Given(folder / "carved", MEMORY, 1624, files=files)


@_made
def named_folder(folder: Path) -> Given:
    """Write a folder of files named by addresses, and one that is not."""
    (folder / "bare").mkdir()
    for start, data in PIECES:
        (folder / "bare" / f"pid.1624.vma.0x{start:x}-0x{start + len(data):x}.dmp").write_bytes(data)
    (folder / "bare" / "notes.txt").write_bytes(b"of yesterday")
    return Given(folder / "bare", MEMORY, 1624, left_out=12, files=tuple((folder / "bare").iterdir()))


@_made
def core(folder: Path) -> Given:
    """Write the core of an x86-64 process as Linux lays it out: notes, then memory."""
    name = b"small\0".ljust(136 - 40, b"\0")  # struct elf_prpsinfo: pid at 24, pr_fname at 40
    info = struct.pack("<24xiii4x", 1624, 0, 0) + name
    status = struct.pack("<32xi", 1624).ljust(336, b"\0")  # struct elf_prstatus
    notes = b"".join(
        struct.pack("<III", 5, len(body), kind) + b"CORE\0\0\0\0" + body for kind, body in ((1, status), (3, info))
    )
    begin = 64 + 56 * (len(PIECES) + 1)
    place = -(-(begin + len(notes)) // PAGE) * PAGE
    rows, body = [struct.pack("<IIQQQQQQ", 4, 0, begin, 0, 0, len(notes), 0, 4)], b""
    for start, data in PIECES:
        rows.append(struct.pack("<IIQQQQQQ", 1, 6, place + len(body), start, 0, len(data), len(data), PAGE))
        body += data
    ident = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    head = ident + struct.pack("<HHIQQQIHHHHHH", 4, 62, 1, 0, 64, 0, 0, 64, 56, len(rows), 0, 0, 0)
    path = folder / "core.1624"
    path.write_bytes((head + b"".join(rows) + notes).ljust(place, b"\0") + body)
    return Given(path, MEMORY, 1624, left_out=place, files=(path,))


@_made
def minidump(folder: Path) -> Given:
    """Write a minidump with all memory of a process and nothing known of it but its system."""
    system = struct.pack("<HHHBBIIIIIHH24x", 9, 6, 1, 1, 1, 10, 0, 19045, 2, 0, 0, 0)  # MINIDUMP_SYSTEM_INFO
    streams: list[tuple[int, bytes]] = [(7, system), (4, bytes(4)), (3, bytes(4))]
    place = 32 + 12 * (len(streams) + 1) + sum(len(data) for _, data in streams) + 4
    base = -(-(place + 16 + 16 * len(PIECES)) // PAGE) * PAGE
    ranges = struct.pack("<QQ", len(PIECES), base)
    ranges += b"".join(struct.pack("<QQ", start, len(data)) for start, data in PIECES)
    streams.append((9, ranges))
    head = struct.pack("<4sIIIIIQ", b"MDMP", 0xA793, len(streams), 32, 0, 0, 2)
    directory, body, place = b"", b"", 32 + 12 * len(streams)
    for kind, data in streams:
        directory += struct.pack("<III", kind, len(data), place + len(body))
        body += data
    path = folder / "small.mdmp"
    path.write_bytes((head + directory + body).ljust(base, b"\0") + b"".join(data for _, data in PIECES))
    return Given(path, MEMORY, left_out=base, files=(path,))


_PROGRAM = """
import ctypes, mmap, sys
libc = ctypes.CDLL(None)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t] + [ctypes.c_int] * 3 + [ctypes.c_long]
size = int(sys.argv[1])
start = libc.mmap(None, size + 2 * mmap.PAGESIZE, 0, 0x22, -1, 0) + mmap.PAGESIZE
libc.mprotect(ctypes.c_void_p(start), ctypes.c_size_t(size), 3)
ctypes.memmove(start, sys.stdin.buffer.read(size), size)
print(start, flush=True)
sys.stdin.buffer.read()
"""


@contextlib.contextmanager
def live(folder: Path) -> Iterator[Given]:
    """Start a program with known memory between two pages that nobody may touch, and stop it."""
    if sys.platform != "linux":
        pytest.skip("live processes are read on Linux")
    data = noise(6, 3 * PAGE)
    command = [sys.executable, "-c", _PROGRAM, str(len(data))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=folder) as program:
        try:
            assert program.stdin is not None
            assert program.stdout is not None
            program.stdin.write(data)
            program.stdin.flush()
            start = int(program.stdout.readline())
            program.send_signal(signal.SIGSTOP)
            place = Path(f"/proc/{program.pid}")
            while (place / "stat").read_bytes().rpartition(b")")[2].split()[0] != b"T":
                time.sleep(0.001)
            yield Given(place, {start: data}, program.pid, exact=False)
        finally:
            program.kill()


MAKERS: dict[str, Callable[[Path], contextlib.AbstractContextManager[Given]]] = {
    "dump": dump,
    "image": image,
    "LiME image": lime,
    "carved folder": carved_folder,
    "named folder": named_folder,
    "core": core,
    "minidump": minidump,
    "live": live,
}


class SourceContract:
    """The tests of a source; a subclass says how an input of its kind is made, and which function opens it."""

    kind: ClassVar[str]
    opens: ClassVar[Source]
    foreign: ClassVar[Sequence[dict[str, Any]]] = _FOREIGN

    @pytest.fixture(scope="class")
    @classmethod
    def given(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Given]:
        """Return an input."""
        with MAKERS[cls.kind](tmp_path_factory.mktemp("given")) as found:
            yield found

    @pytest.fixture(autouse=True)
    def _unchanged(self, given: Given) -> Iterator[None]:
        """Hold the input's files against what they were before the test."""
        before = given.seen()
        yield
        assert given.seen() == before

    def test_one_source_opens_it(self, given: Given) -> None:
        """The first source that takes the input is the one for its kind, and those before it do not know it."""
        with Opened(given.path) as opened:
            for source in SOURCES:
                if not source.recognise(opened):
                    continue
                try:
                    container = source.open(opened, OpenOptions())
                except (NotRecognisedError, memcarve.CounterpartError):
                    continue
                container.close()
                assert source is self.opens
                return
        pytest.fail("no source opens it")

    def test_recognising_looks_at_the_first_bytes_alone(self, given: Given, monkeypatch: pytest.MonkeyPatch) -> None:
        """Its source recognises it by its path and its first bytes: nothing else is read, and nothing is opened."""
        with Opened(given.path) as opened:
            assert len(opened.head) <= 4096
            monkeypatch.setattr(os, "open", lambda *_, **__: pytest.fail("something is opened"))
            monkeypatch.setattr(FileBacking, "read_into", lambda *_: pytest.fail("more is read"))
            monkeypatch.setattr(FileBacking, "read_some", lambda *_: pytest.fail("more is read"))
            assert self.opens.recognise(opened)

    def test_opened_once(self, given: Given, monkeypatch: pytest.MonkeyPatch) -> None:
        """Each file of the input is opened once at most, whatever looks at it, until its memory is read."""
        calls, before = list[str](), os.open

        def spy(path: str, *arguments: Any, **named: Any) -> int:
            calls.append(os.path.abspath(path))
            return before(path, *arguments, **named)

        monkeypatch.setattr(os, "open", spy)
        with given.opened():
            names = [str(path) for path in given.files if path.suffix != ".json"]
        assert all(calls.count(name) <= 1 for name in names), calls

    def test_segments(self, given: Given) -> None:
        """Segments are those that the input holds, with their bytes, and nothing is missing unless it is said."""
        with given.opened() as process:
            found = {part.start: process.space.read(part.start, part.size) for part in process.segments()}
            if given.exact:
                assert found == given.memory
            assert found.items() >= given.memory.items()
            assert process.pid == given.pid
            assert process.incomplete == (given.code == 3)
            starts = list(found)
            assert starts == sorted(starts)

    def test_reading(self, given: Given) -> None:
        """Any part of a segment reads the same; before and behind it the address is named that has no byte."""
        chance = random.Random(1)  # noqa: S311
        with given.opened() as process:
            for start, data in given.memory.items():
                for _ in range(5):
                    low, high = sorted(chance.sample(range(len(data) + 1), 2))
                    assert process.space.read(start + low, high - low) == data[low:high]
                for address, size, bad in (
                    (start - 1, 2, start - 1),
                    (start + len(data) - 1, 2, start + len(data)),
                    (start + len(data), 1, start + len(data)),
                ):
                    with pytest.raises(AddressError) as caught:
                        process.space.read(address, size)
                    assert caught.value.address == bad
                segment, extent = process.space.locate(start + len(data) - 1)
                assert (segment.start, segment.end) == (start, start + len(data))
                assert start + len(data) - 1 in process.space.addresses_of(extent.offset + extent.size - 1)
            assert process.space.read(next(iter(given.memory)), 0) == b""

    def test_carving(self, given: Given, tmp_path: Path) -> None:
        """Every byte of the input is in a file or left out for a reason, and the files are the segments."""
        with given.opened() as process:
            result = sinking.carve(process, tmp_path / "out", hash_input=True)
            assert result.input_bytes == process.input_bytes
            assert result.bytes + sum(row.bytes for row in result.left_out) == result.input_bytes
            if given.left_out is not None and given.exact:
                assert sum(row.bytes for row in result.left_out if not row.segments) == given.left_out
            found = binaries(tmp_path / "out")
            assert found.items() >= named(given.memory).items()
            assert len(found) == result.count
            assert memcarve.verify(tmp_path / "out", process).compared
        document = manifest(tmp_path / "out")
        paths = [row["path"] for row in document["inputs"].values() if isinstance(row, dict) and "path" in row]
        assert str(given.path) in paths
        assert document["process"]["pid"] == given.pid

    def test_carved_again(self, given: Given, tmp_path: Path) -> None:
        """What is carved from what was carved is the same."""
        with given.opened() as process:
            sinking.carve(process, tmp_path / "out")
        with memcarve.open(tmp_path / "out") as container:
            sinking.carve(container.process(), tmp_path / "again")
        assert binaries(tmp_path / "again") == binaries(tmp_path / "out")

    def test_commands(self, given: Given, tmp_path: Path, capfdbinary: Capture) -> None:
        """Every command takes it, and tells the same."""
        start, data = next(iter(given.memory.items()))
        ran = invoke(capfdbinary, "processes", given.path, "--format", "json")
        assert ran.code == 0, ran.err
        assert given.pid in [row["pid"] for row in json.loads(ran.out)["processes"]]
        ran = invoke(capfdbinary, "segments", given.path, *given.choice, "--format", "json")
        assert ran.code == given.code, ran.err
        rows = {int(row["start"], 16): row["size"] for row in json.loads(ran.out)["segments"]}
        assert rows.items() >= {at: len(content) for at, content in given.memory.items()}.items()
        for options in ([], ["--content", "full"], ["--extents"], ["--format", "csv"]):
            assert invoke(capfdbinary, "segments", given.path, *given.choice, *options).code == given.code
        ran = invoke(capfdbinary, "regions", given.path, *given.choice)
        assert ran.code == given.code or (ran.code, "--regions FILE" in ran.err) == (2, True), ran.err
        pattern = data[100:120].hex()
        ran = invoke(capfdbinary, "find", given.path, pattern, "--hex", *given.choice, "--format", "json")
        assert ran.code == given.code, ran.err
        assert start + 100 in [int(row["address"], 16) for row in json.loads(ran.out)["hits"]]
        ran = invoke(capfdbinary, "read", given.path, hex(start), str(len(data)), *given.choice)
        assert (ran.code, ran.out) == (given.code, data)
        ran = invoke(capfdbinary, "locate", given.path, hex(start + 5), *given.choice, "--format", "json")
        (place,) = json.loads(ran.out)["places"]
        assert (int(place["segment"], 16), int(place["segment_end"], 16)) == (start, start + len(data))
        ran = invoke(capfdbinary, "report", given.path, *given.choice, "--format", "json")
        assert ran.code == given.code, ran.err
        (process,) = reported.checked(json.loads(ran.out))["processes"]
        told = {
            int(at, 16): size for at, size in zip(*(process["segments"][n] for n in ("start", "size")), strict=True)
        }
        assert told.items() >= {at: len(content) for at, content in given.memory.items()}.items()
        out = tmp_path / "out"
        assert invoke(capfdbinary, "carve", given.path, *given.choice, "-o", out).code == given.code
        assert invoke(capfdbinary, "verify", out, "--source", given.path, *given.choice).code == 0

    def test_evidence(self, given: Given) -> None:
        """What is known of the memory is found without error, each source named; splitting by it changes no byte."""
        with given.opened() as process:
            metadata = process.metadata
            for kind in (metadata.regions, metadata.modules, metadata.threads, metadata.areas):
                assert all(source.source for source in kind)
            try:
                split = process.segments(split="region")
            except UsageError as error:
                assert not metadata.regions
                assert "regions=" in str(error)  # noqa: PT017
            else:
                assert split.total == process.segments().total

    def test_regions_from_a_file(self, given: Given, tmp_path: Path) -> None:
        """Regions may be given to every source, and are recorded with the file's hash."""
        start, data = next(iter(given.memory.items()))
        listed = tmp_path / "maps"
        listed.write_text(f"{start:08x}-{start + len(data):08x} r-xp 00000000 08:01 77 /lib/given.so\n")
        with memcarve.open(given.path, regions=listed) as container:
            process = container.process(given.pid)
            rows = [row for source in process.metadata.regions for row in source]
            assert "/lib/given.so" in [row.file for row in rows]
            assert "evidence" not in process.inputs
            (used,) = process.used_inputs["evidence"]
            assert process.metadata.files == (used,)
            assert used["sha256"] == hashlib.sha256(listed.read_bytes()).hexdigest()

    def test_reading_changes_nothing(self, given: Given, tmp_path: Path) -> None:
        """Looking what is known of a process up changes nothing of what is told of it."""
        start, data = next(iter(given.memory.items()))
        listed = tmp_path / "maps"
        listed.write_text(f"{start:08x}-{start + len(data):08x} r-xp 00000000 08:01 77 /lib/given.so\n")
        with memcarve.open(given.path, regions=listed) as container:
            process = container.process(given.pid)
            before = copy.deepcopy((process.inputs, process.notes, process.left_out, process.warnings))
            assert process.metadata.regions
            assert (process.inputs, process.notes, process.left_out, process.warnings) == before

    def test_closing(self, given: Given) -> None:
        """Closing twice does no harm; reading afterwards is an error that says so."""
        container = memcarve.open(given.path)
        process = container.process(given.pid)
        container.close()
        container.close()
        start, data = next(iter(given.memory.items()))
        with pytest.raises(SourceReadError, match="has been closed"):
            process.space.read(start, len(data))

    def test_options_for_others(self, given: Given, capfdbinary: Capture) -> None:
        """Options that mean nothing here are refused as wrong usage, and the message says which to leave out."""
        for options in self.foreign:
            (name,) = options
            with pytest.raises(UsageError, match=rf"leave {name}=\S* out") as caught:
                memcarve.open(given.path, **options)
            assert caught.value.subject == str(given.path)
        if self.foreign:
            ran = invoke(capfdbinary, "segments", given.path, "--dtb", "0x1000")
            assert (ran.code, ran.err.count("\n")) == (2, 1)

    def test_another_process(self, given: Given) -> None:
        """A process that it does not hold is an error that says so."""
        with memcarve.open(given.path) as container:
            if container.processes()[0].pid is not None:
                with pytest.raises(memcarve.ProcessError, match="holds no process 4294967295"):
                    container.process(4294967295)

    def test_damaged(self, given: Given, tmp_path: Path) -> None:
        """Whatever is cut off or changed, the input opens or is refused by a typed error of one line."""
        chance = random.Random(2)  # noqa: S311
        for path in given.files:
            data = path.read_bytes()
            head = min(len(data), 1 << 14)
            for number in range(24 if len(given.files) < 4 and len(data) < 1 << 20 else 3):
                damaged = bytearray(data)
                if number % 3:
                    for _ in range(chance.choice([1, 4, 64])):
                        damaged[chance.randrange(head)] = chance.choice([0, 1, 0x7F, 0xFF, chance.randrange(256)])
                else:
                    del damaged[chance.randrange(head if number % 2 else len(data)) :]
                folder = tmp_path / f"{path.name}.{number}"
                copy = _copied(given, folder, path, bytes(damaged))
                try:
                    with memcarve.open(copy) as container:
                        entry = container.processes()[0]
                        process = container.process(index=0)
                        assert entry.pid == process.pid
                        assert process.metadata
                        sinking.carve(process, folder / "out", partial=True, hashes=())
                except MemcarveError as error:
                    assert "\n" not in str(error)  # noqa: PT017 - it may as well open
                    assert "bug in memcarve" not in str(error)  # noqa: PT017

    def test_nothing_there(self, tmp_path: Path) -> None:
        """What is not there is an error of the input that names it."""
        with pytest.raises(InputError, match="nothing-there"):
            memcarve.open(tmp_path / "nothing-there")


def _copied(given: Given, folder: Path, changed: Path, data: bytes) -> Path:
    """Copy an input's files, one of them with another content; return what to open."""
    inside = given.path.name if given.path.is_dir() else ""
    (folder / inside).mkdir(parents=True)
    for path in given.files:
        target = folder / inside / path.name
        if path == changed:
            target.write_bytes(data)
        else:
            os.link(path, target)
    return folder / given.path.name
