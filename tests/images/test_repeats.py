"""Page tables that are shared in the kernel half, as Windows 10 and 11 share them: one page mapped millions of times.

The images are planned by `winimage`; what is shared is written into free pages of theirs. What must be found follows
from the plan, and for the kernel half from the slow walker that passes over repeats.
"""

from __future__ import annotations

import json
import struct
import tracemalloc
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

import memcarve
import walker
import winimage
from cli import invoke
from memcarve.formats.manifest import NAME
from planned import assert_all_found, segments_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from cli import Ran
    from winimage import Truth

    Capture = pytest.CaptureFixture[bytes]
    Invoke = Callable[..., Ran]

PAGE, LARGE, HUGE, SLOT = 1 << 12, 1 << 21, 1 << 30, 1 << 39
KERNEL = 1 << 63
TABLE, LEAF = 0x63, 0x8000000000000121
MANY = 16
PID = 1624

#: how many entries of the directory-pointer table, the directory and the page table say the same; slots of the root
SHAPES = {
    "as-seen": ((512, 512, 512), 6),
    "one-slot": ((512, 512, 512), 1),
    "every-slot": ((512, 512, 512), 999),
    "pointers-alone": ((512, 1, 8), 2),
    "directory-alone": ((1, 512, 8), 1),
    "slots-alone": ((1, 1, 8), 200),
    "not-quite-all": ((511, 300, 512), 4),
}


class Shared:
    """An image in which slots of every root lead to shared tables: `slots` of the kernel half, `reads` addresses."""

    def __init__(self, truth: Truth, counts: Sequence[int], slots: int, half: int = 256) -> None:
        self.truth, self.counts = truth, counts
        with open(truth.path, "rb") as file:
            self.data = bytearray(file.read())
        free = [at for at in range(truth.size - PAGE, 0, -PAGE) if not any(self.data[at : at + PAGE])]
        pointers, directory, table, *pages = free[: 3 + 8]
        self.pages = pages
        for at, below, count in ((pointers, directory, counts[0]), (directory, table, counts[1])):
            for index in range(count):
                self.put(at, index, below | TABLE)
        for index in range(counts[2]):  # few entries are of different pages
            self.put(table, index, pages[index % 8 if counts[2] <= 8 else 0] | LEAF)
        for number, page in enumerate(pages):
            self.data[page : page + 8] = b"shared%2d" % number
        roots = [process.root for process in truth.processes if process.exit == 0]
        free_of_all = [
            slot
            for slot in range(half, half + 256)
            if all(not any(self.data[root + 8 * slot : root + 8 * slot + 8]) for root in roots)
        ]
        self.slots = free_of_all[:slots]
        for root in roots:
            for slot in self.slots:
                self.put(root, slot, pointers | TABLE | 4 * (half == 0))
        with open(truth.path, "wb") as file:
            file.write(self.data)

    def put(self, table: int, index: int, value: int) -> None:
        """Write an entry of a table."""
        struct.pack_into("<Q", self.data, table + 8 * index, value)

    def address(self, slot: int, *indexes: int) -> int:
        """Return the address of a page by the slot of the root and the entries of the three tables."""
        found = slot << 39 | indexes[0] << 30 | indexes[1] << 21 | indexes[2] << 12
        return found | 0xFFFF << 48 if slot & 256 else found

    def read(self, physical: int, size: int) -> bytes | None:
        """Return physical memory, for the walker."""
        return bytes(self.data[physical : physical + size]) if physical + size <= len(self.data) else None

    def kernel(self, pid: int) -> list[tuple[int, int]]:
        """Return the segments of a process's kernel half, as the slow walker has them."""
        once = walker.Once("x86-64", "windows", MANY)
        root = self.truth.process(pid).root
        # of what is shared, the first walk that learns it would meet all: it is told instead
        once.begin()
        once.shared = {(level + 1, *pair) for level in range(3) for pair in self.shared()}
        top = self.truth.size - 1
        items = walker.walk(self.read, root, "x86-64", "windows", limit=1 << 22, top=top, once=once)
        rows: list[list[int]] = []
        for address, size, physical, *_ in items:
            length = min(size, max(self.truth.size - physical, 0))
            if address < KERNEL or not length:
                continue
            if rows and sum(rows[-1]) == address:
                rows[-1][1] += length
            else:
                rows.append([address, length])
        return [(start, size) for start, size in rows]

    def shared(self) -> set[tuple[int, int]]:
        """Return the directories of which many entries lead to one table, each with that."""
        found = set()
        for at in range(0, len(self.data), PAGE):
            entries = struct.unpack_from("<512Q", self.data, at)
            frames = Counter(entry & ((1 << 52) - PAGE) for entry in entries if entry & 1)
            found |= {(at, each) for each, count in frames.items() if count >= MANY}
        return found


@pytest.fixture
def go(capfdbinary: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Invoke:
    """Return what runs the command line in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return lambda *words: invoke(capfdbinary, *map(str, words))


def built(place: Path, shape: str, **options: Any) -> Shared:
    """Return an image with shared tables."""
    counts, slots = SHAPES[shape]
    return Shared(winimage.build(place, processes=winimage.USERLAND, **options), counts, slots)


@pytest.mark.parametrize("shape", SHAPES)
def test_same_answers_as_without(tmp_path: Path, shape: str) -> None:
    """Processes and user halves are those planned; the kernel half is the walker's, which passes over repeats."""
    shared = built(tmp_path / "mem.raw", shape)
    truth = shared.truth
    assert assert_all_found(truth) == []
    with memcarve.open(truth.path) as container:
        process = container.process(PID)
        assert segments_of(process, "user") == truth.segments(PID, "user")
        segments = process.segments(memcarve.Selection(half="kernel"))
        assert [(segment.start, segment.size) for segment in segments] == shared.kernel(PID)
        assert not process.incomplete


@pytest.mark.parametrize("shape", ["as-seen", "every-slot", "not-quite-all"])
def test_in_the_same_memory(tmp_path: Path, shape: str) -> None:
    """However much is mapped again, walking the kernel half takes no more than some MiB."""
    shared = built(tmp_path / "mem.raw", shape)
    with memcarve.open(shared.truth.path) as container:
        container.processes()
        tracemalloc.start()
        space = container.process(PID).space
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert most < 64 << 20
    first, second, third = shared.counts
    # what the slots map, and what is seen of that through the root's entry for itself; less what was walked
    through = len(shared.slots) * first * (second * third + second + 1) * PAGE
    assert 0 <= through - space.repeated <= 64 << 20


def test_read_and_locate_still_answer(go: Invoke, tmp_path: Path) -> None:
    """Anywhere in what is repeated, the bytes and their place in the image are told; no segment is."""
    shared = built(tmp_path / "mem.raw", "pointers-alone")
    image = shared.truth.path
    first = shared.address(shared.slots[0], 0, 0, 3)
    for address in (first, shared.address(shared.slots[0], 511, 0, 3), shared.address(shared.slots[1], 200, 0, 3)):
        ran = go("read", image, f"0x{address:x}", 8, "--pid", PID, "--raw", "-q")
        assert (ran.code, ran.out) == (0, b"shared 3")
        (row,) = json.loads(go("locate", image, f"0x{address + 5:x}", "--pid", PID, "--format", "json", "-q").out)[
            "places"
        ]
        assert row["offset"] == shared.pages[3] + 5
        assert (row["segment"] is None) == (address != first)
        assert int(row["extent"], 16) == address
    ran = go("read", image, f"0x{shared.address(shared.slots[1], 200, 0, 8):x}", 1, "--pid", PID)
    assert ran.code == 1
    assert "not in memory" in ran.err


def test_a_range_that_begins_inside_a_shared_table(tmp_path: Path) -> None:
    """Of a large range whose first page lies in the middle of shared tables every address can be read."""
    shared = built(tmp_path / "mem.raw", "as-seen")
    slot = shared.slots[0]
    start = shared.address(slot, 3, 5, 7)
    with memcarve.open(shared.truth.path) as container:
        index = container.choose([PID])[0]
        space = container.open_span(index, start, start + 17 * HUGE).space
    assert len(space.repeats.start) > 0
    for indexes in ((3, 5, 7), (3, 5, 511), (4, 0, 0), (4, 5, 6), (12, 511, 511), (20, 0, 0)):
        assert space.offset_of(shared.address(slot, *indexes)) == shared.pages[0]


@pytest.mark.parametrize("level", ["directory", "table"])
def test_a_decoy_at_a_lower_address_hides_nothing(tmp_path: Path, level: str) -> None:
    """If a table of the kernel is shared elsewhere, too, the kernel stays memory where it lies, and is found there."""
    truth = winimage.build(tmp_path / "mem.raw", processes=winimage.USERLAND, small_pages=level == "table")
    base = truth.kernel_base
    with memcarve.open(truth.path) as container:
        wanted = [row for row in segments_of(container.process(PID), "kernel") if row[0] <= base < sum(row[:2])]
    with open(truth.path, "rb") as file:
        data = bytearray(file.read())

    def entry(table: int, index: int) -> int:
        return int.from_bytes(data[table + 8 * index : table + 8 * index + 8], "little")

    found = truth.kernel_root
    for shift in (39, 30, 21)[: 2 if level == "directory" else 3]:
        found = entry(found, base >> shift & 511) & ((1 << 52) - PAGE)
    roots = [process.root for process in truth.processes if process.exit == 0]
    slot = next(slot for slot in range(256, 512) if not any(entry(root, slot) for root in roots))
    assert slot < base >> 39 & 511
    pointers, directory = [at for at in range(truth.size - PAGE, 0, -PAGE) if not any(data[at : at + PAGE])][:2]
    rows = [(root, slot, pointers) for root in roots]
    if level == "directory":
        rows += [(pointers, index, found) for index in range(100)]
    else:
        rows += [(pointers, 0, directory), *((directory, index, found) for index in range(100))]
    for table, index, below in rows:
        struct.pack_into("<Q", data, table + 8 * index, below | TABLE)
    with open(truth.path, "wb") as file:
        file.write(data)
    assert assert_all_found(truth) == []
    with memcarve.open(truth.path) as container:
        process = container.process(PID)
        assert process.space.repeated >= 99 * LARGE
        assert [row for row in segments_of(process, "kernel") if row[0] <= base < sum(row[:2])] == wanted != []
        assert container.system.kernel.base == base  # type: ignore[attr-defined]


def test_damage_elsewhere_does_not_matter_to_read(go: Invoke, tmp_path: Path) -> None:
    """Of a process whose tables claim too much, read and locate look at what they are asked for."""
    plan = winimage.Plan(PID, b"loop.exe", edges=(winimage.LOOP,))
    truth = winimage.build(tmp_path / "mem.raw", processes=[plan])
    address, size, _ = truth.segments(PID, "user")[0]
    assert go("segments", truth.path, "--pid", PID).code == 1
    ran = go("read", truth.path, f"0x{address:x}", 64, "--pid", PID, "--raw", "-q")
    page = {item[0]: item[2] for item in truth.process(PID).user.items()}[address]
    with open(truth.path, "rb") as file:
        file.seek(page)
        assert (ran.code, ran.out) == (0, file.read(64))
    ran = go("locate", truth.path, f"0x{address:x}", "--pid", PID, "--format", "json")
    (row,) = json.loads(ran.out)["places"]
    assert (ran.code, row["offset"], row["segment"]) == (0, page, None)
    assert "the segment is not known" in ran.err
    assert size


def test_every_byte_is_accounted_for(go: Invoke, tmp_path: Path) -> None:
    """What is left out is told with its bytes and its reason, here and in segments.json; the exit status stays 0."""
    shared = built(tmp_path / "mem.raw", "directory-alone")
    image = shared.truth.path
    ran = go("carve", image, "--pid", PID, "--range", "kernel", "-o", "out")
    assert ran.code == 0, ran.err
    header = json.loads((tmp_path / "out" / NAME).read_text())
    (left,) = [row for row in header["left_out"] if "shared page tables" in row["reason"]]
    # 511 tables of 8 pages; seen through the root's entry for itself: 511 tables as pages are one table of 512 entries
    assert left["bytes"] == 511 * 8 * PAGE
    assert f"{left['bytes']} bytes of the kernel half are mapped again" in ran.err
    first = shared.address(shared.slots[0], 0, 0, 0)
    assert header["repeats"] == {
        "bytes": left["bytes"],
        "ranges": [{"start": f"0x{first + LARGE:x}", "end": f"0x{first + HUGE:x}", "same_as": f"0x{first:x}"}],
    }
    totals = header["totals"]
    assert totals["input_bytes"] == totals["bytes"] + sum(row["bytes"] for row in header["left_out"])
    assert header["complete"]
    assert go("verify", "out", "--source", image, "--pid", PID).code == 0
    hits = go("find", image, "shared 3", "--pid", PID, "--range", "all", "--format", "json", "-q")
    assert [hit["address"] for hit in json.loads(hits.out)["hits"]] == [
        f"0x{shared.address(shared.slots[0], 0, 0, 3):016x}"
    ]


@pytest.mark.parametrize("sink", ["memmap", "minidump", "elfcore"])
def test_exports_pass_over_repeats(go: Invoke, tmp_path: Path, sink: str) -> None:
    """What is exported of both halves has the segments, and a note tells what is left out."""
    shared = built(tmp_path / "mem.raw", "as-seen")
    chosen = () if sink == "memmap" else ("--range", "all")
    ran = go("export", shared.truth.path, "--pid", PID, "--to", sink, *chosen)
    assert ran.code == 0, ran.err
    assert "mapped again by shared page tables" in ran.err
    assert sum(path.stat().st_size for path in tmp_path.iterdir() if path.name != "mem.raw") < 64 << 20


def test_a_flat_file_tells_what_it_does_not_hold(go: Invoke, tmp_path: Path) -> None:
    """A range that touches repeats says how much of it they are, and one of nothing else is no file, but told."""
    shared = built(tmp_path / "mem.raw", "directory-alone")
    first, second, third = (shared.address(shared.slots[0], 0, index, 0) for index in range(3))
    flat = ("export", shared.truth.path, "--pid", PID, "--range", "kernel", "--to", "flat", "-o", "flat.bin")
    ran = go(*flat, "--address", f"0x{second:x}-0x{third:x}")
    assert ran.code == 1
    assert "what shared page tables map again: read --raw gives it" in ran.err
    ran = go(*flat, "--address", f"0x{first:x}-0x{second + PAGE:x}")
    assert ran.code == 0, ran.err
    assert f"{PAGE} of these bytes lie in what shared page tables map again" in ran.err
    assert json.loads((tmp_path / "flat.bin.json").read_text())["repeated_bytes"] == PAGE


def test_scan_lists_the_same_roots(go: Invoke, tmp_path: Path) -> None:
    """Roots of such a machine are as plausible as others."""
    truth = winimage.build(tmp_path / "mem.raw", processes=winimage.USERLAND)
    rows = [json.loads(go("processes", truth.path, "--scan", "--format", "json").out)["roots"]]
    Shared(truth, *SHAPES["as-seen"])
    rows.append(json.loads(go("processes", truth.path, "--scan", "--format", "json").out)["roots"])
    before, after = ({row["root"]: row["user_bytes"] for row in each} for each in rows)
    assert before == after


def test_a_table_of_equal_entries_stays_memory(tmp_path: Path) -> None:
    """A page table that maps one page 512 times is a segment of 2 MiB in either half."""
    shared = built(tmp_path / "mem.raw", "one-slot")
    with memcarve.open(shared.truth.path) as container:
        segment, extent = container.process(PID).space.locate(shared.address(shared.slots[0], 0, 0, 500))
        assert segment is not None
        assert (segment.start, segment.size, extent.size) == (shared.address(shared.slots[0], 0, 0, 0), LARGE, PAGE)


def test_whole_gigabytes_of_one_page_in_the_user_half(tmp_path: Path) -> None:
    """In the user half what is shared is memory like any other: Windows 11 combines equal pages."""
    truth = winimage.build(tmp_path / "mem.raw", processes=winimage.USERLAND)
    shared = Shared(truth, (1, 512, 512), 1, half=0)
    start = shared.address(shared.slots[0], 0, 0, 0)
    with memcarve.open(truth.path) as container:
        process = container.process(PID)
        assert (start, HUGE) in [(segment.start, segment.size) for segment in process.segments()]
        assert process.space.read(start + HUGE - PAGE, 8) == b"shared 0"
