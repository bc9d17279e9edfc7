"""Processes and their memory from images of Windows machines, held against how the images were planned."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import shutil
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import containers
import memcarve
import winimage
from memcarve.permissions import TRANSITION
from planned import (
    Columns,
    assert_all_found,
    changed,
    found,
    found_pages,
    kernel_first,
    planned,
    planned_pages,
    segments_of,
    tables_below,
)
from sweeps import LONG, some
from winimage import kernel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from winimage import Truth

PAGE = 4096
MIB = 1 << 20
U64 = np.uint64
FEW = (
    winimage.Plan(388, b"smss.exe"),
    winimage.Plan(1624, b"explorer.exe", 388, winimage.MIXED),
    winimage.Plan(2860, b"gone.exe", 1624, exited=True),
    winimage.Plan(3272, b"hidden.exe", 388, listed=False),
)
#: a mutation that takes so long, or grows so large, has met something unbounded
LONGEST, LARGEST = 30, 512 * MIB


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return where images go, each over the one before: they are large."""
    return tmp_path_factory.mktemp("images") / "mem.raw"


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> Truth:
    """Return an image as it is unless told otherwise."""
    return winimage.build(tmp_path_factory.mktemp("usual") / "mem.raw")


def assert_pages(truth: Truth, process: memcarve.ProcessMemory, half: str = "all", holes: Any = ()) -> None:
    """Hold every page, with what the tables allow, against the plan; and the sums by kind in the user half."""
    assert process.pid is not None
    for actual, expected in zip(found_pages(process), planned_pages(truth, process.pid, half, holes), strict=True):
        assert np.array_equal(actual, expected)


def assert_counts(truth: Truth, process: memcarve.ProcessMemory) -> None:
    """Hold the numbers of pages of the user half, by kind, against the plan."""
    assert process.pid is not None
    assert process.pages is not None
    planned_one = truth.process(process.pid)
    flags = planned_pages(truth, process.pid, "user").flags
    moving = int((flags == TRANSITION).sum())
    expected = {
        "present": len(flags) - moving,
        "transition": moving,
        "outside": int(planned_one.user.size.sum()) // PAGE - len(flags),
        **{kind.replace("-", "_"): count for kind, count in planned_one.absent.items() if kind != "zero"},
    }
    counted = {kind: process.pages.get(kind, 0) for kind in expected}
    assert counted == expected
    assert not {"prot_none", "swapped", "not_present"} & process.pages.keys()


def every_process(truth: Truth, half: str) -> Iterator[memcarve.ProcessMemory]:
    """Open one half (or all) of every process of an image, and check that each of the plan is there."""
    with memcarve.open(truth.path) as container:
        entries = container.processes()
        assert {entry.pid for entry in entries} == {process.pid for process in truth.processes}
        for index in range(len(entries)):
            yield container.process(index=index, half=half)


# processes


@pytest.mark.parametrize(
    ("layout", "exports"),
    [
        (layout, exports)
        for layout in range(winimage.LAYOUTS)
        for number, exports in enumerate(winimage.EXPORTS)
        # without the long sweep the full exports of each layout, and one of the others
        if LONG or number in (0, 1 + layout % (len(winimage.EXPORTS) - 1))
    ],
)
def test_processes(place: Path, layout: int, exports: str) -> None:
    """In every layout all processes are found, in order, whether accessors and exports can be read or not."""
    truth = winimage.build(place, layout=layout, exports=exports, seed=layout)
    assert assert_all_found(truth) == []


@pytest.mark.parametrize("exports", winimage.EXPORTS)
@pytest.mark.parametrize(("layout", "build"), [(8, 19045), (7, 18363), (10, 22631), (3, 15063), (2, 9600)])
def test_builds(place: Path, layout: int, build: int, exports: str) -> None:
    """A build that carries an older kernel's file, or that no table knows, is read as well; its number is said."""
    truth = winimage.build(place, layout=layout, build=build, exports=exports, processes=FEW)
    assert assert_all_found(truth) == []
    with memcarve.open(place) as container:
        container.processes()
        assert any(f".{build} x64" in note for note in container.notes) or (exports == "none" and build == 9600)


@pytest.mark.parametrize(
    "options",
    [
        {"decoy": False},
        {"freed": False},
        {"kpti": True},
        {"kpti": True, "exports": "none"},
        {"small_pages": True},
        {"small_pages": True, "kpti": True, "exports": "no-accessors", "layout": 4},
        {"top_page": True},
        {"megabytes": 64, "seed": 5},
    ],
    ids=str,
)
def test_variants(place: Path, options: dict[str, Any]) -> None:
    """Decoys, freed processes, second roots, small pages and the last page change nothing."""
    truth = winimage.build(place, **options)
    assert assert_all_found(truth) == []
    for process in every_process(truth, "all"):
        assert_pages(truth, process)


@pytest.mark.parametrize("exports", ["full", "none"])
@pytest.mark.parametrize("damage", winimage.DAMAGE[1:])
def test_damaged_list(place: Path, damage: str, exports: str) -> None:
    """However the list is damaged, all processes are found, with the states they have, and a note says the damage."""
    truth = winimage.build(place, damage=damage, exports=exports)
    (note,) = assert_all_found(truth, ordered=False)
    assert "list of processes is damaged" in note


def test_structures_across_pages(place: Path) -> None:
    """Processes that only a search finds are found wherever in their structure a page ends."""
    plans = [winimage.Plan(400 + 4 * at, b"w%d.exe" % at, listed=at % 7 == 0, exited=at % 5 == 4) for at in range(24)]
    truth = winimage.build(place, processes=plans)
    assert {process.straddles for process in truth.processes if not process.listed} == {True, False}
    assert_all_found(truth)


def test_names(usual: Truth) -> None:
    """Names are shown with everything escaped that is not plainly visible; fifteen bytes without an end are whole."""
    with memcarve.open(usual.path) as container:
        names = {entry.pid: entry.name for entry in container.processes()}
    assert names[4096] == "\\x1b[2J\\x1b]0;x\\x07.ex"
    assert names[4100] == "\\xff\\xfe\\xc3(.exe\\xe2\\x80\\xae"
    assert names[4104] == "../../etc/cron"
    assert names[4108] == "fifteen-bytes.x"
    assert names[70000] == ""
    assert names[70004] == '=1+1"<b>,\\x0a'


def test_wiped_structure(place: Path) -> None:
    """A process whose number or name was wiped to hide it is not passed over in silence."""
    truth = winimage.build(place, processes=FEW)
    layout = truth.layout
    for field, size in (("ImageFileName", 15), ("UniqueProcessId", 8)):
        wiped = changed(place, truth, truth.process(388).eprocess + layout[field], bytes(size))
        with wiped, memcarve.open(place) as container:
            pids = {entry.pid for entry in container.processes()}
            assert {4, 1624, 2860, 3272} <= pids
            assert 388 in pids or any("0x" in note for note in container.warnings), field


def test_unreadable_kernel(place: Path) -> None:
    """Where no process can be found, the message says what was and that --dtb works; and it does."""
    truth = winimage.build(place, processes=FEW)
    with contextlib.ExitStack() as stack:
        for one in truth.processes:
            number = one.eprocess + truth.layout["UniqueProcessId"]
            stack.enter_context(changed(place, truth, number, b"\xff" * 8))
        with memcarve.open(place) as container, pytest.raises(memcarve.ProcessError) as caught:
            container.processes()
        message = str(caught.value)
        assert message.startswith(f"{place}: ")
        for words in (f"10.0.{truth.build}", "0x1ad000", "System", "dtb=", "roots()"):
            assert words in message
        with memcarve.open(place, dtb=truth.process(1624).stored_root) as container:
            assert segments_of(container.process(), "user") == truth.segments(1624, "user")
            assert truth.process(1624).root in [root.root for root in container.roots()]


@pytest.mark.parametrize(("member", "data"), [("UniqueProcessId", b"\xff" * 8), ("ActiveProcessLinks", bytes(16))])
def test_damaged_system(place: Path, member: str, data: bytes) -> None:
    """Where the System process itself is damaged the others are found all the same, and a note says so."""
    truth = winimage.build(place, processes=FEW)
    system = truth.process(4).eprocess
    with changed(place, truth, system + truth.layout[member], data), memcarve.open(place) as container:
        found = {entry.pid for entry in container.processes()}
        assert found >= {one.pid for one in truth.processes} - {4}
        assert any("System process is damaged" in remark for remark in container.warnings)
        assert segments_of(container.process(1624), "user") == truth.segments(1624, "user")


def test_hidden_with_a_damaged_link(place: Path) -> None:
    """A process that was taken out of the list is found by the search, also where one of its links is no address."""
    truth = winimage.build(place)
    one = truth.process(3272)
    for link in (0, 8):
        at = one.eprocess + truth.layout["ActiveProcessLinks"] + link
        with changed(place, truth, at, b"A" * 8), memcarve.open(place) as container:
            assert [entry.state for entry in container.processes() if entry.pid == 3272] == ["unlinked"]


def test_reused_page_tables(place: Path) -> None:
    """Of a process that has ended it is said that its page tables may be another's by now."""
    truth = winimage.build(place)
    gone, other = truth.process(2860), truth.process(1624)
    root = other.stored_root.to_bytes(8, "little")
    with changed(place, truth, gone.eprocess + 0x28, root), memcarve.open(place) as container:
        process = container.process(2860)
        assert segments_of(process, "user") == truth.segments(1624, "user")
        assert any("another process's by now" in remark for remark in process.warnings)


def test_flags_of_cr3(place: Path) -> None:
    """A root in the structure may carry the PCID and the bit that keeps translations, bit 63."""
    truth = winimage.build(place, processes=FEW)
    with contextlib.ExitStack() as stack:
        for one in truth.processes:
            flagged = (one.stored_root | 1 << 63).to_bytes(8, "little")
            stack.enter_context(changed(place, truth, one.eprocess + 0x28, flagged))
        assert_all_found(truth)


def test_many_that_look_like_processes(place: Path, tmp_path: Path) -> None:
    """Copies of a process all over the memory cost no more than they are; each is marked for what it is."""
    truth = winimage.build(place, processes=FEW)
    one = truth.process(1624)
    page = bytearray(PAGE)
    path = tmp_path / "copies.raw"
    shutil.copyfile(place, path)
    with path.open("r+b") as file:
        file.seek(one.physical)
        data = file.read(min(0x700, PAGE - one.physical % PAGE))
        page[0x10 : 0x10 + len(data)] = data
        file.seek(0, 2)
        file.write(bytes(page) * 5000)
    with memcarve.open(path) as container:
        listed = [entry for entry in container.processes() if entry.listed]
    assert sorted(entry.pid for entry in listed if entry.pid is not None) == sorted(
        process.pid for process in truth.processes if process.listed
    )


def test_kernel_without_headers(place: Path) -> None:
    """Where the kernel's image has lost its headers, the shared page's build number and the table suffice."""
    truth = winimage.build(place, processes=FEW)
    with changed(place, truth, truth.kernel_base, bytes(0x200)):
        assert_all_found(truth)


# memory


@pytest.mark.parametrize("layout", range(winimage.LAYOUTS))
def test_user_segments(place: Path, layout: int) -> None:
    """In every layout the segments, pages, permissions and counts of every process are those planned."""
    truth = winimage.build(place, layout=layout, seed=layout)
    for process in every_process(truth, "user"):
        pid = process.pid or 0
        assert segments_of(process, "user") == truth.segments(pid, "user")
        assert_pages(truth, process, "user")
        assert_counts(truth, process)


def test_all_segments(usual: Truth) -> None:
    """Both halves of every process are those planned; the user half is what is taken where nobody says."""
    for process in every_process(usual, "all"):
        pid = process.pid or 0
        assert segments_of(process, "all") == usual.segments(pid)
        assert_pages(usual, process)
        starts = [(segment.start, segment.size) for segment in process.segments()]
        assert starts == [segment[:2] for segment in usual.segments(pid, "user")]
    for process in every_process(usual, "kernel"):
        pid = process.pid or 0
        starts = [(segment.start, segment.size) for segment in process.segments(memcarve.Selection("kernel"))]
        assert starts == [segment[:2] for segment in usual.segments(pid, "kernel")]


def test_split_by_permissions(usual: Truth) -> None:
    """Split by permissions, a segment ends where the next page is allowed something else, and nowhere else."""
    for process in every_process(usual, "all"):
        address, _, flags = planned_pages(usual, process.pid or 0)
        first = np.ones(len(address), np.bool_)
        first[1:] = (np.diff(address) != U64(PAGE)) | (flags[1:] != flags[:-1])
        segments = process.segments(memcarve.Selection("all"), split="permissions")
        assert np.array_equal(segments.start, address[first])
        assert int(segments.size.sum()) == len(address) * PAGE


def test_ended_processes_are_empty(usual: Truth) -> None:
    """What has ended has no memory left; a note says why, and nothing is called missing."""
    with memcarve.open(usual.path) as container:
        for pid in (2860, 3684):
            process = container.process(pid)
            assert not len(process.segments(memcarve.Selection("all")))
            assert not process.incomplete
            assert any("has ended" in note for note in process.notes)


@pytest.mark.parametrize("edge", winimage.EDGES)
def test_edges(place: Path, edge: str) -> None:
    """Each edge case of page tables is read as planned."""
    truth = winimage.build(place, processes=[winimage.Plan(1624, b"edge.exe", edges=(edge,))])
    with memcarve.open(place) as container:
        process = container.process(1624)
        assert_pages(truth, process)
        assert segments_of(process, "user") == truth.segments(1624, "user")
        user = container.process(index=1, half="user")
        assert_counts(truth, user)
        assert user.incomplete is (edge in {"large-outside", "page-outside", "table-outside"})


def test_large_page_with_holes(place: Path, tmp_path: Path) -> None:
    """A large page of which the image lacks some 4 KiB pages is kept on both sides of each."""
    truth = winimage.build(place, processes=[winimage.Plan(1624, b"edge.exe", edges=("large-hole",))])
    ranges = [(start, containers.Slice(place, start, size)) for start, size in truth.ranges()]
    with memcarve.open(containers.write_lime(tmp_path / "mem.lime", ranges)) as container:
        process = container.process(1624)
        assert_pages(truth, process, holes=truth.holes)
        assert segments_of(process, "user") == truth.segments(1624, "user", truth.holes)
        missing = sum(gap.size for gap in process.space.missing if gap.start < 1 << 47)
        assert missing == sum(size for _, size in truth.holes)


def test_huge_page(place: Path) -> None:
    """A page of 1 GiB in a smaller image is there as far as the image goes, and the rest is said to be missing."""
    plan = winimage.Plan(1624, b"huge.exe", memory=(winimage.Huge(), winimage.Run(3)))
    truth = winimage.build(place, processes=[plan])
    with memcarve.open(place) as container:
        process = container.process(1624)
        assert_pages(truth, process)
        assert process.incomplete
        assert sum(gap.size for gap in process.space.missing if gap.start < 1 << 47) == (1 << 30) - truth.size


def test_loop_of_tables(place: Path) -> None:
    """Tables that lead to each other are stopped by the limit, which says how much they claim; others are well."""
    plans = [winimage.Plan(1624, b"loop.exe", edges=(winimage.LOOP,)), FEW[0]]
    truth = winimage.build(place, processes=plans)
    assert assert_all_found(truth) == []
    with memcarve.open(place) as container:
        with pytest.raises(memcarve.InputError, match="limit=") as caught:
            container.process(1624)
        assert getattr(caught.value, "claimed", 0) >= truth.process(1624).claimed // 2
        assert segments_of(container.process(388), "user") == truth.segments(388, "user")


@pytest.mark.slow
def test_sparse_image(place: Path) -> None:
    """An image of 8 GiB with little in it is read like a small one."""
    truth = winimage.sparse(place, gigabytes=8)
    try:
        with memcarve.open(place) as container:
            process = container.process(1624)
            assert segments_of(process, "user") == truth.segments(1624, "user")
            assert sorted(found(container)) == sorted(map(planned, truth.processes))
    finally:
        place.unlink()


# images that end too early


def test_cut_raw_images(place: Path) -> None:
    """Cut anywhere, a raw image gives its processes, each as planned, or a declared error that names it."""
    truth = winimage.build(place, processes=FEW)
    known = {process.pid: planned(process) for process in truth.processes}
    sizes = {0, 1, 8, PAGE - 1, PAGE, 3 * MIB + 7, truth.size // 2, truth.size - PAGE, truth.size - 1}
    sizes |= {process.root + more for process in truth.processes for more in (0, 0x428, PAGE)}
    sizes |= {process.physical + more for process in truth.processes for more in (0, 0x428)}
    listed = 0
    for size in some(sorted((size for size in sizes if size < truth.size), reverse=True), 2):
        os.truncate(place, size)
        try:
            with memcarve.open(place) as container:
                assert not size % PAGE or any("cut off" in note for note in container.warnings)
                assert all(one == known[one.pid] for one in found(container))
                listed += 1
        except memcarve.MemcarveError as error:
            assert str(error).startswith(str(place))  # noqa: PT017
    assert listed


def test_unrecognised_images_are_told_what_to_do(place: Path) -> None:
    """Of a large file in which no system is recognised, the message says that it may be an image, and --dtb."""
    truth = winimage.build(place, processes=FEW)
    os.truncate(place, truth.size // 2)
    with pytest.raises(memcarve.InputError, match="dtb="):
        memcarve.open(place)


def test_cut_containers(place: Path, tmp_path: Path) -> None:
    """Cut anywhere behind the kernel, a container gives all processes: right bytes, and what lacks makes them so."""
    truth = winimage.build(place, processes=FEW)
    data, path = place.read_bytes(), tmp_path / "mem.lime"
    ranges, first = kernel_first(truth)
    containers.write_lime(path, ranges)
    words = np.frombuffer(data, U64).reshape(-1, 512)
    at, starts = 0, {}
    for start, content in ranges:
        starts[start], at = (at + 32, content.size), at + 32 + content.size
    interesting = sorted(set().union(*(tables_below(words, truth.process(pid).root) for pid in (388, 1624))))
    places = [
        begin + (frame * PAGE - start)
        for frame in interesting
        for start, (begin, size) in starts.items()
        if start <= frame * PAGE < start + size
    ]
    behind = starts[ranges[first][0]][0]
    sizes = {size + more for size in places for more in (0, 0x428, PAGE)} | {at - 1, at - PAGE - 1}
    # cut between two ranges, such a file looks whole
    sizes -= {size for begin, length in starts.values() for size in (begin - 32, begin + length)}
    sizes |= {begin - 16 for begin, _ in starts.values() if begin > behind}
    partial = 0
    for size in some(sorted((size for size in sizes if behind < size < at), reverse=True), 4):
        os.truncate(path, size)
        with memcarve.open(path) as container:
            assert sorted(found(container)) == sorted(map(planned, truth.processes))
            assert container.warnings
            there = {start: min(size - begin, length) for start, (begin, length) in starts.items() if begin < size}
            for index in range(len(truth.processes)):
                partial += assert_what_is_there(truth, data, container, index, there)
    assert partial


def assert_what_is_there(
    truth: Truth, data: bytes, container: memcarve.Container, index: int, there: dict[int, int]
) -> bool:
    """Hold what a cut image has of a process against the plan; return whether something lacks."""
    entry = container.processes()[index]
    root = entry.root or 0
    inside = any(start <= root < start + size and root + PAGE <= start + size for start, size in there.items())
    try:
        process = container.process(index=index, half="user")
    except memcarve.ProcessError:
        assert not inside
        return True
    wanted, pages = planned_pages(truth, entry.pid or 0, "user"), found_pages(process)
    places = np.searchsorted(wanted.address, pages.address)
    for actual, column in zip(pages, wanted, strict=True):
        assert np.array_equal(actual, column[places])
    assert all(any(low <= at < low + size for low, size in there.items()) for at in set(pages.physical.tolist()))
    for start, length, digest in segments_of(process, "user"):
        assert hashlib.sha256(model(data, wanted, start, length)).hexdigest() == digest
    lacking = len(pages.address) < len(wanted.address)
    assert process.incomplete is lacking, (entry.pid, process.notes, len(pages.address), len(wanted.address))
    assert inside or entry.ended
    return lacking


def model(data: bytes, pages: Columns, start: int, size: int) -> bytes:
    """Return what lies at addresses, page by page."""
    first = int(np.searchsorted(pages.address, U64(start)))
    frames = pages.physical[first : first + -(-size // PAGE)].tolist()
    return b"".join(data[at : at + PAGE] for at in frames)[:size]


# hostile images


def table_entry(rng: random.Random, tables: list[int], count: int) -> int:
    """Return an entry for a table: noise, or one that leads where it should not."""
    frame = rng.choice([rng.choice(tables), rng.randrange(count), count + rng.randrange(9), rng.getrandbits(40)])
    low = rng.choice([0x07, 0x03, 0x87, 0x01, 0x800, 0x880, 0x8E0, 0xC80, 0x0, 0x1083, rng.getrandbits(12)])
    return rng.choice([frame << 12 | low, frame << 12 | low, frame << 12 | low | 1 << 63, rng.getrandbits(64)])


class Mutated:
    """An image that is changed in place and put back."""

    def __init__(self, path: Path, truth: Truth) -> None:
        self.words = np.memmap(path, U64, "r+").reshape(-1, 512)
        self.bytes = self.words.view(np.uint8).reshape(-1)
        self.tables = sorted(set().union(*(tables_below(self.words, truth.process(pid).root) for pid in (4, 1624))))
        pages, physical = truth.frames(4, "kernel")
        self.where = dict(zip(pages.tolist(), physical.tolist(), strict=True))
        self.truth = truth
        self.before: dict[int, int] = {}

    def physical(self, address: int) -> int:
        """Return where a kernel address lies."""
        return int(self.where[address & ~(PAGE - 1)]) + address % PAGE

    def put(self, at: int, value: int) -> None:
        """Change a byte."""
        self.before.setdefault(at, int(self.bytes[at]))
        self.bytes[at] = value

    def restore(self) -> None:
        """Put everything back."""
        for at, value in self.before.items():
            self.bytes[at] = value
        self.before.clear()

    def mutate_tables(self, rng: random.Random) -> None:
        """Change some entries of page tables."""
        for _ in range(rng.choice([1, 3, 30, 300])):
            table = rng.choice(self.tables)
            used = np.flatnonzero(self.words[table]).tolist()
            index = rng.choice(used) if used and rng.random() < 0.7 else rng.randrange(512)
            entry = table_entry(rng, self.tables, len(self.words))
            for byte, value in enumerate(entry.to_bytes(8, "little")):
                self.put(table * PAGE + index * 8 + byte, value)

    def mutate_at(self, rng: random.Random, address: int, size: int) -> None:
        """Change some bytes or words of a structure."""
        for _ in range(rng.choice([1, 2, 8, 64])):
            place = address + rng.randrange(size)
            if rng.random() < 0.5:
                self.put(self.physical(place), rng.choice([0, 0xFF, 0x7F, 0x80, rng.getrandbits(8)]))
                continue
            word = rng.choice([0, (1 << 64) - 1, rng.choice(list(self.where)), rng.getrandbits(64), 1 << 47, 1 << 63])
            for byte, value in enumerate(word.to_bytes(8, "little")):
                if (place & ~7) + byte < address + size:
                    self.put(self.physical((place & ~7) + byte), value)

    def mutate(self, rng: random.Random, number: int) -> None:
        """Change something, of another kind for each number."""
        truth = self.truth
        process = rng.choice(truth.processes)
        kinds: list[Callable[[random.Random], None]] = [
            self.mutate_tables,
            lambda rng: self.mutate_at(rng, process.eprocess, truth.layout["size"]),
            lambda rng: self.mutate_at(rng, process.eprocess + truth.layout["UniqueProcessId"], 24),
            lambda rng: self.mutate_at(rng, truth.kernel_base + kernel.EDATA, 0x28),
            lambda rng: self.mutate_at(rng, truth.kernel_base + kernel.EDATA, 0x3000),
            lambda rng: self.mutate_at(rng, truth.kernel_base, 0x400),
            lambda rng: self.mutate_at(rng, truth.kernel_base + kernel.ACCESSORS, 0x200),
            lambda rng: self.mutate_at(rng, truth.kernel_base + kernel.INITIAL, 8),
            lambda rng: self.mutate_at(rng, 0xFFFFF78000000000, 0x300),
        ]
        kinds[number % len(kinds)](rng)


def look_at_everything(path: Path, size: int) -> None:
    """Do with an image what commands do; only declared errors, and no byte from outside of it."""
    with memcarve.open(path) as container:
        for index, entry in enumerate(container.processes()):
            assert entry.facts()
            assert str(entry).isprintable()
            try:
                process = container.process(index=index)
                segments = process.segments(memcarve.Selection("all"), split="permissions")
            except memcarve.MemcarveError:
                continue
            space = process.space
            assert not len(space.start) or int((space.offset + space.size).max()) <= size
            assert not np.any(space.start[1:] < space.start[:-1] + space.size[:-1])
            for segment in list(segments)[:3]:
                assert len(space.read(segment.start, min(segment.size, MIB))) == min(segment.size, MIB)


def peak() -> int:
    """Return the most memory this process ever had, in bytes; 0 where the system does not say."""
    try:
        import resource  # noqa: PLC0415 - Unix only
    except ImportError:
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@pytest.mark.slow
@pytest.mark.parametrize("part", range(4))
def test_mutated_images(place: Path, part: int) -> None:
    """Whatever befalls tables, structures, exports and headers: declared errors, in bounded time and memory."""
    truth = winimage.build(place, processes=FEW, megabytes=20, exports=("full", "none")[part % 2])
    image = Mutated(place, truth)
    before, errors = peak(), 0
    for seed in range(80 if LONG else 9):  # each kind of change, in each part
        rng = random.Random(seed * 4 + part)  # noqa: S311 - test data
        image.mutate(rng, seed)
        begun = time.monotonic()
        try:
            look_at_everything(place, truth.size)
        except memcarve.MemcarveError as error:
            errors += 1
            assert "\n" not in str(error)  # noqa: PT017
        assert time.monotonic() - begun < LONGEST, seed
        image.restore()
    assert peak() - before < LARGEST
    assert errors or part % 2  # without exports little is an error
    assert_all_found(truth)


def test_mutated_processes_do_not_hide_the_others(place: Path) -> None:
    """Noise over one process's structure, wherever it is in the list, leaves all the others to be found."""
    truth = winimage.build(place, processes=FEW)
    rng = random.Random(1)  # noqa: S311 - test data
    for process in truth.processes[1:]:
        with changed(place, truth, process.eprocess, rng.randbytes(truth.layout["size"])):
            with memcarve.open(place) as container:
                names = {entry.pid: entry for entry in container.processes()}
            assert {one.pid for one in truth.processes} - names.keys() <= {process.pid}
            assert len(names) <= len(truth.processes)
