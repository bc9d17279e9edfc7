"""Few bytes are read to find a machine's system, to list its processes and to carve one: counted, not timed."""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING

import pytest

import containers
import memcarve
import winimage
from cli import invoke
from counted_reads import counting, fetched
from linux_machines import machine, machines
from memcarve.errors import ProcessError, UsageError
from memcarve.images.linux import linux_system
from memcarve.images.windows import kernel
from memory import PAGE
from planned import found, planned

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from cli import Ran
    from counted_reads import CountedFile
    from winimage import Truth

    Capture = pytest.CaptureFixture[bytes]
    Invoke = Callable[..., Ran]

BLOCK = 256 << 10
LARGE = 8 << 30
SHARE = 0.03  # of an image may be read beside a process's own bytes
each_machine = pytest.mark.parametrize("name", machines())


@pytest.fixture
def go(capfdbinary: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Invoke:
    """Return what runs the command line in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return lambda *words: invoke(capfdbinary, *map(str, words))


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> Truth:
    """Return an image of 8 GiB, nearly all of it holes, whose processes lie all over it."""
    path = tmp_path_factory.mktemp("large") / "mem.raw"
    plans = [*winimage.USERLAND, *(winimage.Plan(4000 + 4 * at, b"more.exe", 388) for at in range(60))]
    return winimage.build(path, megabytes=LARGE >> 20, processes=plans, stub=True, realistic=True)


@pytest.fixture
def files() -> Iterator[list[CountedFile]]:
    """Have all inputs opened as objects in a store whose reads are counted."""
    with counting() as opened:
        yield opened


def enlarged(name: str, path: Path) -> Path:
    """Write a real machine's image as if it had 8 GiB of memory; what it does not use is zeros."""
    with machine(name).raw.open("rb") as source, path.open("wb") as target:
        end = 0
        while True:
            try:
                start = os.lseek(source.fileno(), end, os.SEEK_DATA)
            except OSError:  # nothing but a hole is left
                break
            end = os.lseek(source.fileno(), start, os.SEEK_HOLE)
            target.seek(start)
            target.write(os.pread(source.fileno(), end - start, start))
        target.truncate(LARGE)
    return path


def read_by(files: list[CountedFile], block: int = BLOCK) -> int:
    """Return how many bytes a reader of aligned blocks fetched for two commands, which have a cache in common."""
    known: set[int] = set()
    return sum(fetched(file.reads, block, known)[0] for file in files if file.size >= LARGE)


def test_windows(truth: Truth, go: Invoke, files: list[CountedFile]) -> None:
    """`processes` and `carve --pid` of 8 GiB fetch at most 3 % of it, the process's own bytes included."""
    listed = go("processes", truth.path, "-q", "--format", "csv")
    assert listed.out.count(b"\n") == 1 + sum(process.listed for process in truth.processes)
    assert go("carve", truth.path, "--pid", 1624, "-q").code == 0
    assert 0 < read_by(files) <= SHARE * LARGE
    assert read_by(files, PAGE) < 24 << 20


@each_machine
def test_linux(name: str, tmp_path: Path, go: Invoke, files: list[CountedFile]) -> None:
    """The same of a real Linux machine."""
    path = enlarged(name, tmp_path / "mem.raw")
    listed = go("processes", path, "--format", "csv")
    assert listed.code == 0, listed.err
    assert len(machine(name).stopped) <= listed.out.count(b"\n")
    pid = next(pid for pid in machine(name).stopped if machine(name).processes[pid]["comm"] == "syslogd")
    assert go("carve", path, "--pid", pid, "-q").code in (0, 3)
    assert 0 < read_by(files) <= SHARE * LARGE


@pytest.mark.parametrize("options", [{}, {"small_pages": True}, {"exports": "none"}, {"kpti": True}], ids=str)
def test_windows_without_its_start_block(tmp_path: Path, options: dict[str, bool], files: list[CountedFile]) -> None:
    """If nothing tells where a Windows' page tables lie, they are met in low memory, and no more is looked through."""
    truth = winimage.build(tmp_path / "mem.raw", megabytes=LARGE >> 20, **options)  # type: ignore[arg-type]
    assert truth.kernel_root < 64 << 20
    with memcarve.open(truth.path) as container:
        assert {each.pid for each in container.processes()} == {each.pid for each in truth.processes if each.listed}
    assert 0 < read_by(files) <= SHARE * LARGE


def test_scattered_pages_are_announced(tmp_path: Path, go: Invoke, files: list[CountedFile]) -> None:
    """Pages that lie one by one are not read one by one: what is carved is asked for together, and little more."""
    truth = winimage.big(tmp_path / "mem.raw", 3000, 256)
    assert go("processes", truth.path, "-q", "--listed").code == 0
    known: set[int] = set()
    for file in files:
        fetched(file.reads, BLOCK, known)
    files.clear()
    assert go("carve", truth.path, "--pid", 800, "-q", "-o", "out").code == 0
    with memcarve.open("out") as container:
        own = container.process().space.total
    (size, waits), *_ = (fetched(file.reads, BLOCK, known) for file in files)
    assert own > 3000 * PAGE
    assert size < 1.5 * own
    assert waits < 150


def test_nothing_is_searched_unasked(truth: Truth, go: Invoke, files: list[CountedFile]) -> None:
    """What costs to read is not searched for processes that no list holds; that, and what searches it, is said."""
    ran = go("processes", truth.path, "--format", "csv")
    assert (
        f"unlisted processes were not looked for: --search all does so, and reads all {LARGE} bytes of the memory"
        in ran.err
    )
    assert "--search all" in ran.err
    assert go("processes", truth.path, "--search", "lists", "--format", "csv").out == ran.out
    assert go("processes", truth.path, "--listed", "--format", "csv").out == ran.out
    hidden = 999_996
    ran = go("segments", truth.path, "--pid", hidden)
    assert ran.code == 1
    assert f"holds no process {hidden}" in ran.err
    assert "--search all looks for others in all of the memory" in ran.err
    assert read_by(files) < SHARE * LARGE


def test_search(tmp_path: Path, go: Invoke, files: list[CountedFile]) -> None:
    """What costs to read is searched with `--search all`; without it, the same file gives what its lists hold."""
    truth = winimage.build(tmp_path / "mem.raw", stub=True)
    ran = go("processes", truth.path, "--search", "all", "--format", "csv")
    assert ran.out.count(b"\n") == 1 + len(truth.processes)
    assert "not looked for" not in ran.err
    files.clear()
    some = go("processes", truth.path, "--format", "csv").out
    assert some.count(b"\n") == 1 + sum(process.listed for process in truth.processes)


def test_search_of_a_local_file(tmp_path: Path, go: Invoke) -> None:
    """A local file is searched unless `--search lists` says otherwise, in the library as on the command line."""
    truth = winimage.build(tmp_path / "mem.raw", stub=True)
    listed = sum(process.listed for process in truth.processes)
    for search, number in ((None, len(truth.processes)), ("all", len(truth.processes)), ("lists", listed)):
        with memcarve.open(truth.path, search=search) as container:
            assert len(container.processes()) == number
    hidden = next(process.pid for process in truth.processes if not process.listed and not process.exit)
    assert go("segments", truth.path, "--pid", hidden).code == 0
    assert go("segments", truth.path, "--pid", hidden, "--search", "lists").code == 1
    assert go("processes", truth.path, "--listed", "--search", "all").code == 2
    with pytest.raises(UsageError, match="unknown search 'everything'"):
        memcarve.open(truth.path, search="everything")


def test_carved_of_the_lists_alone_verifies(tmp_path: Path, go: Invoke) -> None:
    """What was chosen among the processes of the lists is chosen so again when it is verified."""
    truth = winimage.build(tmp_path / "mem.raw", stub=True)
    ran = go("carve", truth.path, "--all", "--search", "lists", "-o", "out")
    assert ran.code in (0, 3), ran.err
    ran = go("verify", "out", "--source", truth.path)
    assert ran.code in (0, 3), ran.err


@each_machine
def test_linux_is_the_same_as_by_a_look_through_everything(name: str) -> None:
    """What few pages tell leads to the same kernel, processes, notes and description as all the memory does."""
    with memcarve.open(machine(name).raw, input_type="image") as container:
        memory = container.memory  # type: ignore[attr-defined]
        quick, whole = linux_system.find_linux_quickly(memory), linux_system.find_linux(memory)
        assert quick is not None
        assert whole is not None
        assert quick.listed() == whole.listed()
        assert quick.kernel.table == whole.kernel.table
        assert (quick.description, quick.notes) == (whole.description, whole.notes)
        assert quick.quick
        assert quick.confirm()
        assert quick.processes() == whole.processes()


@each_machine
def test_linux_without_what_tells(name: str, tmp_path: Path) -> None:
    """Without the pages that tell where the kernel lies, or with some that lie, all the memory tells the same."""
    given = machine(name)
    path = tmp_path / "mem.raw"
    with memcarve.open(given.raw, search="lists") as container:
        listed = container.processes()
    data = bytearray(given.raw.read_bytes())
    for page in range(0, 1 << 20, PAGE):
        (last,) = struct.unpack_from("<Q", data, page + PAGE - 8)
        if last & 1:  # as if the kernel's image were where a page of zeros is, or something else
            struct.pack_into("<Q", data, page + PAGE - 8, 0x7FF063)
    for place in range(0, 64 << 20, 2 << 20):
        if data[place + 56 : place + 60] == b"ARM\x64":
            data[place + 56 : place + 60] = bytes(4)
    path.write_bytes(data)
    with memcarve.open(path, search="lists") as container:
        assert container.processes() == listed


def test_page_that_leads_to_itself_is_no_windows(tmp_path: Path) -> None:
    """Decoys in low memory, with an entry for themselves and Windows' shared data, hide no kernel behind them."""
    truth = winimage.build(tmp_path / "mem.raw", megabytes=96)
    with open(truth.path, "r+b") as file:
        data = bytearray(file.read())
        root = bytes(data[truth.kernel_root : truth.kernel_root + PAGE])
        free = [at for at in range(1 << 20, 32 << 20, PAGE) if not any(data[at : at + PAGE])][:3]
        for at in free:  # the upper half of the kernel's tables, but what leads to its image: nothing is found by it
            entries = [word for (word,) in struct.iter_unpack("<Q", root)]
            own = next(place for place, word in enumerate(entries) if word & 0xFFFFFFFFFF000 == truth.kernel_root)
            entries[own] = at | 0x63
            image = truth.kernel_base >> 39 & 511
            shared = kernel.SHARED_DATA >> 39 & 511
            entries = [word if place in (own, shared) and place != image else 0 for place, word in enumerate(entries)]
            file.seek(at)
            file.write(struct.pack("<512Q", *entries))
    for search in ("lists", "all"):
        with memcarve.open(truth.path, search=search) as container:
            listed = {each.pid for each in container.processes()}
            told = any("others, of which one may be a decoy, were not looked for" in note for note in container.notes)
            assert told == (search == "lists")
            assert {process.pid for process in truth.processes if process.listed} <= listed


@pytest.mark.parametrize("layout", range(0, 25, 8))
@pytest.mark.parametrize("stub", [True, False])
def test_windows_is_the_same_as_by_a_look_through_everything(tmp_path: Path, layout: int, *, stub: bool) -> None:
    """What is listed after a quick look is what is listed after a look through everything, and was planned."""
    truth = winimage.build(tmp_path / "mem.raw", layout=layout, stub=stub, small_pages=layout % 2 == 1)
    with memcarve.open(truth.path, search="lists") as quick, memcarve.open(truth.path) as whole:
        assert quick.processes() == whole.processes()[: len(quick.processes())] == whole.listed()
        assert sorted(found(whole)) == sorted(map(planned, truth.processes))
        for index in range(len(quick.processes())):
            found_quickly, of_all = (each.process(index=index).metadata for each in (quick, whole))
            for rows in ("regions", "modules", "threads"):
                one, other = ([[*part] for part in getattr(known, rows)] for known in (found_quickly, of_all))
                assert one == other


def test_a_container_that_tells_the_kernel(tmp_path: Path, files: list[CountedFile]) -> None:
    """In a container, the same few pages tell."""
    given = machine("linux-6.12-amd64")
    data = given.raw.read_bytes()
    path = tmp_path / "mem.lime"
    path.write_bytes(containers.lime([(0, data), (LARGE, bytes(PAGE))]))
    with memcarve.open(path) as container:
        assert {entry.pid for entry in container.processes()} >= set(given.stopped)
    assert sum(fetched(file.reads, PAGE, set())[0] for file in files) < len(data) / 2


def test_unlisted_by_name(truth: Truth) -> None:
    """A name that no listed process has says what else can be done."""
    with memcarve.open(truth.path, search="lists") as container, pytest.raises(ProcessError) as caught:
        container.choose(name="nothing.exe")
    assert "search='all'" in str(caught.value) or "search" in str(caught.value)
