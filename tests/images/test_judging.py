"""What looks like a process of Windows and is none, or is doubtful; held against how images were planned."""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pytest

import containers
import memcarve
import winimage
from carved import manifest
from cli import invoke
from memcarve.images.windows import judging, processes
from planned import changed, shown
from sweeps import LONG
from winimage import Plan
from winimage.upper import EPOCH

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from cli import Ran
    from winimage import Process, Truth

    Capture = pytest.CaptureFixture[bytes]
    Invoke = Callable[..., Ran]

PAGE = 4096
SEEDS = range(1, 41)

NO_ROOT, NO_NUMBER = "no page-table root", "no process id"
NO_TIME, NO_NAME = "no time of creation", "no name"
NOWHERE = "its entry for the list of processes leads nowhere"
NO_THREADS = "its list of threads does not lead back to it"
NO_HEADER = "its header is not that of a process"
NOT_MAPPED = "no kernel address leads to it"
IMPOSSIBLE = "its PEB or its program is at an impossible address"
LATE = "created after the image was taken"

_ROOT, _LINKS = "_KPROCESS.DirectoryTableBase", "ActiveProcessLinks"
#: processes of every kind that a search alone finds, and what is doubtful about each
KINDS: dict[Plan, tuple[str, ...]] = {
    Plan(3272, b"hidden.exe", 388, listed=False): (),
    Plan(3276, b"Registry", listed=False, minimal=True): (),
    Plan(3280, b"bash", 388, listed=False, minimal=True): (),
    Plan(3284, b"thirtytwo.exe", 388, listed=False, wow64=True): (),
    Plan(3288, b"\xce\xe5.exe", 388, listed=False): (),
    Plan(3684, b"both.exe", 388, exited=True, listed=False): (),
    Plan(3688, b"no-root.exe", 388, exited=True, listed=False, wiped=(_ROOT,)): (),
    Plan(3692, b"freed.exe", 388, exited=True, listed=False, unmapped=True): (),
    Plan(3700, b"unmapped.exe", 388, listed=False, unmapped=True): (NOT_MAPPED,),
    Plan(3704, b"", 388, listed=False, wiped=("ImageFileName",)): (NO_NAME,),
    Plan(3708, b"time.exe", 388, listed=False, wiped=("CreateTime",)): (NO_TIME,),
    Plan(3712, b"number.exe", 388, listed=False, wiped=("UniqueProcessId",)): (NO_NUMBER,),
    Plan(3716, b"links.exe", 388, listed=False, wiped=(_LINKS,)): (NOWHERE,),
    Plan(3720, b"root.exe", 388, listed=False, wiped=(_ROOT,)): (NO_ROOT,),
    Plan(3724, b"threads.exe", 388, listed=False, wiped=("ThreadListHead",)): (NO_THREADS,),
    Plan(3728, b"", 388, listed=False, wiped=("ImageFileName", "CreateTime", _LINKS)): (NOWHERE, NO_TIME, NO_NAME),
    Plan(3732, b"", 388, exited=True, listed=False, wiped=("ImageFileName",)): (NO_NAME,),
}
#: what a kernel is like, in turn by seed
VARIANTS: tuple[dict[str, object], ...] = (
    {},
    {"exports": "none"},
    {"kpti": True},
    {"exports": "no-accessors", "small_pages": True},
    {"exports": "paged-out", "top_page": True},
    {"decoy": False, "freed": False},
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return where images go, each over the one before: they are large."""
    return tmp_path_factory.mktemp("judging") / "mem.raw"


@pytest.fixture
def go(capfdbinary: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Invoke:
    """Return what runs the command line in an empty folder, where default outputs go."""
    monkeypatch.chdir(tmp_path)
    return lambda *words: invoke(capfdbinary, *map(str, words))


class Listed(NamedTuple):
    """What is listed of a process."""

    pid: int | None
    name: str
    state: str
    doubts: tuple[str, ...]
    object: int | None


def listed(path: Path) -> list[Listed]:
    """Return what is listed of the processes of an image, in order."""
    with memcarve.open(path) as container:
        return [
            Listed(entry.pid, entry.name or "", entry.state or "", entry.doubts, entry.object)
            for entry in container.processes()
        ]


def planned(process: Process, plan: Plan | None, doubts: tuple[str, ...]) -> Listed:
    """Return what is to be listed of a process."""
    words = ["exited"] * bool(process.exit) + ["unlinked"] * (not process.listed)
    wiped, unmapped = (plan.wiped, plan.unmapped) if plan else ((), False)
    return Listed(
        None if "UniqueProcessId" in wiped else process.pid,
        shown(process.name),
        ", ".join([*(words or ["running"]), *["doubtful"] * bool(doubts)]),
        doubts,
        None if unmapped else process.eprocess,
    )


def by_number(one: Listed) -> tuple[int, str]:
    """Return what to sort by."""
    return one.pid or 0, one.name


def assert_none_false_none_missed(place: Path, layout: int, seed: int) -> None:
    """Hold what is listed of an image with every kind of process against its plan."""
    table = winimage.layout_of(layout)
    alike = winimage.alike(table["ActiveProcessLinks"], table["CreateTime"], 60)
    plans = [
        Plan(388, b"smss.exe"),
        Plan(800, b"running.exe", 388),
        Plan(804, b"ended.exe", 388, exited=True),
        Plan(4000, b"alike.exe", 388, alike),
    ]
    # another order puts the ends of pages elsewhere in the structures
    kinds = list(KINDS)
    plans += kinds[seed % len(kinds) :] + kinds[: seed % len(kinds)]
    truth = winimage.build(place, layout=layout, seed=seed, processes=plans, **VARIANTS[seed % len(VARIANTS)])  # type: ignore[arg-type]
    by_pid = {plan.pid: plan for plan in plans}
    expected = [
        planned(one, by_pid.get(one.pid), KINDS.get(by_pid[one.pid], ()) if one.pid in by_pid else ())
        for one in truth.processes
    ]
    assert sorted(listed(place), key=by_number) == sorted(expected, key=by_number)


@pytest.mark.parametrize("layout", range(winimage.LAYOUTS))
def test_none_false_none_missed(place: Path, layout: int) -> None:
    """In every layout each kind of hidden, ended and damaged process is listed as what it is, and nothing else."""
    for seed in SEEDS if LONG else (1 + layout, 12 + layout, 23 + layout):
        assert_none_false_none_missed(place, layout, seed)


def like_processes(truth: Truth) -> int:
    """Count the places of an image that have a process id of 128, a kernel address or two behind it, and a time."""
    words = np.memmap(truth.path, np.uint64, "r").reshape(-1, 512)
    links = truth.layout["ActiveProcessLinks"] // 8
    create = truth.layout["CreateTime"] // 8 - links
    kernel = np.uint64(0xFFFF800000000000)
    count = 0
    for link in range(8, 512 - 8):
        near = (words[:, link - 1] == 128) & ((words[:, link] >= kernel) | (words[:, link + 1] >= kernel))
        year = words[near, link + create] // np.uint64(10_000_000 * 86400 * 365) + 1601
        count += int(((year >= 1991) & (year < 2199)).sum())
    return count


@pytest.mark.parametrize("layout", range(winimage.LAYOUTS))
def test_page_tables_that_look_like_processes(place: Path, layout: int) -> None:
    """Page tables in which a number of 128 stands before a kernel address and a time are no processes."""
    table = winimage.layout_of(layout)
    memory = winimage.alike(table["ActiveProcessLinks"], table["CreateTime"])
    plans = [Plan(388, b"smss.exe"), Plan(4000, b"alike.exe", 388, memory)]
    truth = winimage.build(place, layout=layout, processes=plans)
    assert like_processes(truth) > 1
    assert [one.pid for one in listed(place)] == [4, 388, 4000]


# what is overwritten


#: bytes of members, and what is doubtful about a hidden process where they are zeros or ones; about one that has ended
OVERWRITTEN: dict[str, tuple[int, tuple[str, str], tuple[str, str]]] = {
    "header": (0x18, (NO_HEADER, NO_HEADER), (NO_HEADER, NO_HEADER)),
    _ROOT: (8, (NO_ROOT, "its page-table root is not in the image"), ("", "")),
    "UniqueProcessId": (8, (NO_NUMBER, NO_NUMBER), (NO_NUMBER, NO_NUMBER)),
    _LINKS: (16, (NOWHERE, NOWHERE), (NOWHERE, NOWHERE)),
    "CreateTime": (8, (NO_TIME, LATE), (NO_TIME, LATE)),
    "ImageFileName": (15, (NO_NAME, ""), (NO_NAME, "")),
    "InheritedFromUniqueProcessId": (8, ("", "its parent's id is impossible"), ("", "its parent's id is impossible")),
    "ThreadListHead": (16, (NO_THREADS, NO_THREADS), (NO_THREADS, NO_THREADS)),
    "ObjectTable": (
        8,
        ("", "its handle table is not at a kernel address"),
        ("", "its handle table is not at a kernel address"),
    ),
    "Peb": (8, ("", IMPOSSIBLE), ("", IMPOSSIBLE)),
    "SectionBaseAddress": (8, ("", IMPOSSIBLE), ("", IMPOSSIBLE)),
}
LAYOUTS = range(winimage.LAYOUTS) if LONG else (0, 1, 3, 8)


@pytest.fixture(scope="module", params=LAYOUTS)
def hidden(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Truth:
    """Return an image with hidden processes, running and ended, in which a page ends at every place that there is."""
    path = tmp_path_factory.mktemp("hidden") / "mem.raw"
    plans = [Plan(400 + 4 * at, b"w%d.exe" % at, 388, listed=False, exited=at >= 6) for at in range(12)]
    return winimage.build(path, layout=request.param, processes=[Plan(388, b"smss.exe"), *plans])


@contextlib.contextmanager
def overwritten(truth: Truth, members: list[tuple[int, int]], fill: bytes) -> Iterator[list[Process]]:
    """Overwrite members, (offset, size), of all hidden processes of an image; give these."""
    found = [process for process in truth.processes if not process.listed]
    with contextlib.ExitStack() as stack:
        for process in found:
            for at, size in members:
                stack.enter_context(changed(truth.path, truth, process.eprocess + at, fill * size))  # type: ignore[arg-type]
        yield found


@pytest.mark.parametrize("fill", [b"\0", b"\xff"])
@pytest.mark.parametrize("member", OVERWRITTEN)
def test_one_member_overwritten(hidden: Truth, member: str, fill: bytes) -> None:
    """A hidden process of which one member was overwritten is listed with the doubt, wherever a page ends in it."""
    size, running, ended = OVERWRITTEN[member]
    at = 0 if member == "header" else hidden.layout[member]
    with overwritten(hidden, [(at, size)], fill) as processes:
        found = {one.object: one for one in listed(hidden.path)}  # type: ignore[arg-type]
    assert len(found) == len(hidden.processes)
    for process in processes:
        doubt = (ended if process.exit else running)[fill != b"\0"]
        one = found[process.eprocess]
        assert one.doubts == ((doubt,) if doubt else ())
        assert ("doubtful" in one.state) is bool(doubt)
        assert one.pid == (None if member == "UniqueProcessId" else process.pid)


@pytest.mark.parametrize("anchor", ["header", _LINKS])
def test_all_but_one_way_overwritten(hidden: Truth, anchor: str) -> None:
    """Of all that a rootkit can do without, what leads to a hidden process may be all that is left."""
    layout = hidden.layout
    members = {"ImageFileName": 15, "CreateTime": 8, "InheritedFromUniqueProcessId": 8, "ExitTime": 8}
    members |= {"UniqueProcessId": 8, _LINKS: 16} if anchor == "header" else {"header": 0x18}
    places = [(0 if name == "header" else layout[name], size) for name, size in members.items()]
    with overwritten(hidden, places, b"\0") as processes:
        found = {one.object: one for one in listed(hidden.path)}  # type: ignore[arg-type]
    whole = [one for one in processes if not one.straddles and not one.exit]
    assert whole
    for process in whole:
        assert found[process.eprocess].state == "unlinked, doubtful"
        assert NO_NAME in found[process.eprocess].doubts
        assert NO_TIME in found[process.eprocess].doubts


def test_damaged_list_with_unusual_names(place: Path) -> None:
    """What the list still leads to by a neighbour may have any name, as the list's own processes may."""
    plans = [
        Plan(388 + 4 * at, name) for at, name in enumerate([b"smss.exe", b"a", b"\x1b[2J", b"", b"b\n", b"c", b"d"])
    ]
    truth = winimage.build(place, processes=plans, damage="both")
    assert {392, 396, 400} & set(truth.cut_off)
    assert {one.state for one in listed(place)} == {"running"}


# times


@pytest.mark.parametrize(("hours", "doubts"), [(0, ()), (23, ()), (25, (LATE,)), (24 * 365 * 100, (LATE,))])
def test_created_after_the_image_was_taken(place: Path, hours: int, doubts: tuple[str, ...]) -> None:
    """A process of which the machine could not know yet is doubtful; a day is left for clocks and acquisitions."""
    truth = winimage.build(place, processes=[Plan(388, b"smss.exe"), Plan(3272, b"hidden.exe", 388, listed=False)])
    now = EPOCH + 10**12
    at = truth.process(3272).eprocess + truth.layout["CreateTime"]
    with changed(place, truth, at, (now + hours * 36 * 10**9).to_bytes(8, "little")):
        (one,) = [one for one in listed(place) if one.pid == 3272]
    assert one.doubts == doubts


def test_clock_set_back(place: Path) -> None:
    """Where a process of the list is younger than the machine's time, the clock was set back: so may others be."""
    truth = winimage.build(place, processes=[Plan(388, b"smss.exe"), Plan(3272, b"hidden.exe", 388, listed=False)])
    late = (EPOCH + 10**15).to_bytes(8, "little")
    with contextlib.ExitStack() as stack:
        for process in truth.processes[1:]:
            at = process.eprocess + truth.layout["CreateTime"]
            stack.enter_context(changed(place, truth, at, late))
        assert {one.doubts for one in listed(place)} == {()}


def test_torn_time(place: Path) -> None:
    """A system time that was caught while it changed bounds nothing."""
    truth = winimage.build(place, processes=[Plan(388, b"smss.exe"), Plan(3272, b"hidden.exe", 388, listed=False)])
    late = (EPOCH + 10**15).to_bytes(8, "little")
    at = truth.process(3272).eprocess + truth.layout["CreateTime"]
    with changed(place, truth, at, late), changed(place, truth, 0xFFFFF7800000001C, bytes(4)):
        assert {one.doubts for one in listed(place)} == {()}


def test_ended_before_it_was_created(place: Path) -> None:
    """Times that do not follow each other are doubtful."""
    truth = winimage.build(
        place, processes=[Plan(388, b"smss.exe"), Plan(3684, b"both.exe", 388, exited=True, listed=False)]
    )
    process = truth.process(3684)
    before = (process.create - 1).to_bytes(8, "little")
    with changed(place, truth, process.eprocess + truth.layout["ExitTime"], before):
        assert [one.doubts for one in listed(place) if one.pid == 3684] == [("ended before it was created",)]


# what a fact is worth on a machine


def test_facts_that_fail_for_the_list_say_nothing(place: Path) -> None:
    """What the processes of the list do not have is no doubt about others: it is another kernel."""
    truth = winimage.build(place, processes=[Plan(388, b"smss.exe"), Plan(3272, b"hidden.exe", 388, listed=False)])
    with contextlib.ExitStack() as stack:
        for process in truth.processes:
            stack.enter_context(changed(place, truth, process.eprocess, b"\x55"))
        assert {one.doubts for one in listed(place)} == {()}


def test_unknown_kernel(place: Path) -> None:
    """Where nobody knows where a kernel has its threads and handles, these say nothing of a hidden process."""
    moved: dict[str, int | str] = {"_EPROCESS.ThreadListHead": 0x5E8, "_EPROCESS.ObjectTable": 0x5F8}
    plans = [Plan(388, b"smss.exe"), Plan(3272, b"hidden.exe", 388, listed=False), *list(KINDS)[5:6]]
    winimage.build(place, build=26100, moved=moved, processes=plans)
    assert {one.pid: one.state for one in listed(place)} == {
        4: "running",
        388: "running",
        3272: "unlinked",
        3684: "exited, unlinked",
    }


def test_root_of_something_else(place: Path) -> None:
    """A root that leads to no page table of the kernel's is doubtful, whatever lies there."""
    truth = winimage.build(place, processes=[Plan(388, b"smss.exe"), Plan(3272, b"hidden.exe", 388, listed=False)])
    process = truth.process(3272)
    page = int(process.user.physical[0])
    with changed(place, truth, process.eprocess + 0x28, page.to_bytes(8, "little")):
        assert [one.doubts for one in listed(place) if one.pid == 3272] == [
            ("no page-table root that maps the kernel",)
        ]


def test_waited_for(place: Path) -> None:
    """The list in the header of a process that somebody waits for leads to who waits, and back."""
    truth = winimage.build(place, processes=[Plan(388, b"smss.exe"), Plan(3272, b"hidden.exe", 388, listed=False)])
    head, waiter = truth.process(3272).eprocess + 8, truth.process(388).eprocess + truth.layout["size"] - 16
    link = waiter.to_bytes(8, "little")
    with (
        changed(place, truth, head, link * 2),
        changed(place, truth, waiter, head.to_bytes(8, "little") * 2),
        changed(place, truth, head + 0x10, bytes(16)),
    ):
        assert [one.state for one in listed(place) if one.pid == 3272] == ["unlinked"]


def test_part_of_it_is_not_in_the_image(hidden: Truth, tmp_path: Path) -> None:
    """Of a process of which a page is missing what lay there says nothing: neither a doubt, nor that it runs."""
    layout, path = hidden.layout, tmp_path / "mem.lime"
    pages, physical = hidden.frames(4, "kernel")
    straddling = [process for process in hidden.processes if process.straddles and not process.listed]
    assert len(straddling) > 5
    for process in straddling:
        first, links, ended, last = (
            (process.eprocess + at) // PAGE
            for at in (0, layout["ActiveProcessLinks"], layout["ExitTime"], layout["size"] - 1)
        )
        gone = last if links == first else first
        at = int(physical[np.searchsorted(pages, np.uint64(gone * PAGE))])
        parts = [(0, at), (at + PAGE, hidden.size - at - PAGE)]
        containers.write_lime(path, [(start, containers.Slice(hidden.path, start, size)) for start, size in parts])
        (one,) = [one for one in listed(path) if one.object == process.eprocess]
        assert one.doubts == ()
        # which of a build's layouts it is may stay open if no process of the list has ended: then the status says it
        states = {"exited, unlinked"} if process.exit else {"unlinked"}
        assert one.state in states | ({"unlinked"} if ended == gone else set())


# copies, and what is planted


def with_pages(place: Path, path: Path, pages: bytes, times: int = 1) -> None:
    """Write an image with more pages at its end."""
    shutil.copyfile(place, path)
    with path.open("ab") as file:
        for _ in range(times):
            file.write(pages)


@pytest.mark.parametrize(("pid", "state"), [(388, "unlinked, doubtful"), (3684, "exited, unlinked, doubtful")])
def test_copies(place: Path, tmp_path: Path, pid: int, state: str) -> None:
    """Copies of the page that a process lies in are doubtful, and say of which process they are copies."""
    plans = [
        Plan(400, b"first.exe"),
        Plan(404, b"second.exe"),
        Plan(388, b"smss.exe"),
        Plan(3684, b"both.exe", 388, exited=True, listed=False),
    ]
    truth = winimage.build(place, processes=plans)
    process = truth.process(pid)
    image = np.memmap(place, np.uint8, "r")
    at = process.physical
    page = bytearray(PAGE)
    size = min(truth.layout["size"], PAGE - at % PAGE)
    page[at % PAGE : at % PAGE + size] = image[at : at + size].tobytes()
    path = tmp_path / "copies.raw"
    with_pages(place, path, bytes(page), 50)
    found = [one for one in listed(path) if one.pid == pid]
    assert len(found) == 51
    copies = [one for one in found if one.object is None]
    assert {one.state for one in copies} == {state}
    assert {one.doubts for one in copies} == {(f"a copy of the process at 0x{process.eprocess:x}",)}


def entry_of(words: NDArray[np.uint64], root: int, address: int) -> tuple[int, int] | None:
    """Return frame and place of the entry in a page table that an address has; None where there is no page table."""
    frame = root >> 12
    for shift in (39, 30, 21):
        entry = int(words[frame, address >> shift & 511])
        if not entry & 1 or (shift < 39 and entry & 0x80):
            return None
        frame = (entry & (1 << 52) - PAGE) >> 12
    return frame, address >> 12 & 511


@pytest.mark.parametrize("part", [0, 1], ids=["first page", "last page"])
@pytest.mark.parametrize("pick", [0, -1], ids=["below", "above"])
def test_mapped_twice(place: Path, part: int, pick: int) -> None:
    """A process whose page is mapped at another kernel address, too, is found at its own, and is not doubtful."""
    plans = [Plan(400 + 4 * at, b"w%d.exe" % at, listed=at == 0, exited=at % 5 == 4) for at in range(12)]
    truth = winimage.build(place, processes=plans)
    words = np.memmap(place, np.uint64, "r+").reshape(-1, 512)
    pages, physical = truth.frames(4, "kernel")
    usual = words[physical >> np.uint64(12), 0] == int.from_bytes(b"WINIMAGE", "little")
    others = [one for one in pages[usual].tolist() if entry_of(words, truth.kernel_root, one)]
    hidden = [one for one in truth.processes if not one.listed]
    assert {one.straddles for one in hidden} == {True, False}
    for process, other in zip(hidden, others[:: 1 if pick == 0 else -1], strict=False):
        at = entry_of(words, truth.kernel_root, process.eprocess + part * (truth.layout["size"] - 1))
        twice = entry_of(words, truth.kernel_root, other)
        assert at
        assert twice
        words[twice] = words[at]
    assert sorted(listed(place), key=by_number) == [planned(one, None, ()) for one in truth.processes]


def test_page_before_is_mapped_twice(place: Path) -> None:
    """What is mapped twice may end in front of a process: what goes on beyond it counts."""
    plans = [Plan(400 + 4 * at, b"w%d.exe" % at, listed=at == 0) for at in range(6)]
    truth = winimage.build(place, processes=plans)
    process = [one for one in truth.processes if not one.listed and not one.straddles][-1]
    words = np.memmap(place, np.uint64, "r").reshape(-1, 512)
    both = [entry_of(words, truth.kernel_root, process.eprocess + more) for more in (-PAGE, 0)]
    pages, physical = truth.frames(4, "kernel")
    usual = words[physical >> np.uint64(12), 0] == int.from_bytes(b"WINIMAGE", "little")
    others = [entry_of(words, truth.kernel_root, one) for one in pages[usual].tolist()]
    frame = truth.size >> 12
    # the two pages become neighbours in physical memory
    with place.open("ab") as file:
        for at in both:
            assert at
            file.write(words[int(words[at] & np.uint64((1 << 52) - PAGE)) >> 12].tobytes())
    words = np.memmap(place, np.uint64, "r+").reshape(-1, 512)
    for number, at in enumerate(both):
        words[int(words[at] & np.uint64((1 << 52) - PAGE)) >> 12] = 0
        words[at] = (frame + number) << 12 | 0x63
    words[next(at for at in others[::-1] if at)] = frame << 12 | 0x63
    assert sorted(listed(place), key=by_number) == [planned(one, None, ()) for one in truth.processes]


def half_made(truth: Truth, number: int) -> bytes:
    """Return a page with what somebody made to look like a process: a number, links, a name and a time."""
    layout = truth.layout
    page = bytearray(PAGE)
    for name, value in (
        ("UniqueProcessId", (4 + 4 * number).to_bytes(8, "little")),
        ("ActiveProcessLinks", (truth.kernel_base + 0x1000).to_bytes(8, "little") * 2),
        ("ImageFileName", b"planted.exe"),
        ("CreateTime", truth.processes[0].create.to_bytes(8, "little")),
    ):
        page[layout[name] : layout[name] + len(value)] = value
    return bytes(page)


def test_planted(place: Path, tmp_path: Path) -> None:
    """Thousands of half-made processes are listed as doubtful, cost little, and do not hide a real one."""
    truth = winimage.build(place, processes=[Plan(388, b"smss.exe"), Plan(3272, b"hidden.exe", 388, listed=False)])
    path = tmp_path / "planted.raw"
    with_pages(place, path, b"".join(half_made(truth, 2000 + number) for number in range(3000)))
    begun = time.monotonic()
    found = listed(path)
    assert time.monotonic() - begun < 30
    assert [(one.pid, one.state) for one in found[:3]] == [(4, "running"), (388, "running"), (3272, "unlinked")]
    assert {one.state for one in found[3:]} == {"unlinked, doubtful"}
    assert all(NO_HEADER in one.doubts and NOT_MAPPED in one.doubts for one in found[3:])


def test_budget(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is an end to how much of what looks like a process is looked at, and a note says that it was reached."""
    truth = winimage.build(place, processes=[Plan(388, b"smss.exe")])
    path = tmp_path / "planted.raw"
    with_pages(place, path, b"".join(half_made(truth, 2000 + number) for number in range(1000)))
    monkeypatch.setattr(processes, "_MOST_CANDIDATES", 500)
    monkeypatch.setattr(processes, "_CANDIDATE_PAGES", 1 << 30)
    with memcarve.open(path) as container:
        assert len(container.processes()) <= 502
        assert any("more than 500 places look like processes" in remark for remark in container.warnings)


def test_most_likely_are_kept(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of more doubtful processes than are listed those stay of which the most holds up; a note counts the others."""
    plans = [Plan(388, b"smss.exe"), Plan(3708, b"time.exe", 388, listed=False, wiped=("CreateTime",))]
    truth = winimage.build(place, processes=plans)
    path = tmp_path / "planted.raw"
    with_pages(place, path, b"".join(half_made(truth, 2000 + number) for number in range(300)))
    monkeypatch.setattr(judging, "MOST_DOUBTFUL", 50)
    with memcarve.open(path) as container:
        entries = container.processes()
        assert len(entries) == 2 + 50
        assert 3708 in {entry.pid for entry in entries}
        assert any("251 more doubtful processes are not listed" in remark for remark in container.warnings)


# what is done with them


@pytest.fixture(scope="module")
def doubtful(tmp_path_factory: pytest.TempPathFactory) -> Truth:
    """Return an image with processes of which two are doubtful; one has the number of one that is not."""
    plans = [
        Plan(388, b"smss.exe"),
        Plan(3272, b"hidden.exe", 388, listed=False),
        Plan(3708, b"shady.exe", 388, listed=False, wiped=("CreateTime",)),
    ]
    return winimage.build(tmp_path_factory.mktemp("doubtful") / "mem.raw", processes=plans)


def test_doubts_are_printed(doubtful: Truth, go: Invoke) -> None:
    """In JSON and CSV the state says doubtful and the reasons stand beside; a table has them where there are any."""
    ran = go("processes", doubtful.path, "--format", "jsonl")
    assert ran.code == 0
    rows = {row["pid"]: row for row in map(json.loads, ran.out.splitlines())}
    assert (rows[3708]["state"], rows[3708]["doubts"]) == ("unlinked, doubtful", [NO_TIME])
    assert (rows[3272]["state"], rows[3272]["doubts"]) == ("unlinked", [])
    assert list(rows) == [4, 388, 3272, 3708]
    assert "note: the search found 1 doubtful process" in ran.err
    text = go("processes", doubtful.path, "--format", "csv").out.decode()
    assert text.splitlines()[0].endswith(",state,doubts")
    assert text.splitlines()[-1].endswith(f'"unlinked, doubtful",{NO_TIME}')
    assert NO_TIME in go("processes", doubtful.path).out.decode()


def test_table_without_doubts(place: Path, go: Invoke) -> None:
    """A table for a person has no column of doubts where there are none."""
    winimage.build(place, processes=[Plan(388, b"smss.exe")])
    assert b"doubts" not in go("processes", place).out.splitlines()[0]


def test_pages_of_doubtful_ones(place: Path, go: Invoke) -> None:
    """What is doubtful need not have page tables that can be walked: the listing is complete without."""
    plans = [Plan(388, b"smss.exe"), Plan(3720, b"root.exe", 388, listed=False)]
    truth = winimage.build(place, processes=plans)
    with changed(place, truth, truth.process(3720).eprocess + 0x28, (1 << 40).to_bytes(8, "little")):
        ran = go("processes", place, "--pages", "--format", "jsonl")
    assert ran.code == 0
    assert "outside the image" in ran.err
    assert [json.loads(line).get("present") is None for line in ran.out.splitlines()] == [False, False, True]


@pytest.mark.parametrize("command", [("carve",), ("export", "--to", "memmap"), ("extract",)])
def test_doubtful_is_not_in_all(doubtful: Truth, go: Invoke, tmp_path: Path, command: tuple[str, ...]) -> None:
    """What is doubtful is not taken by --all, and a note says so."""
    ran = go(command[0], doubtful.path, *command[1:], "--all")
    assert ran.code in (0, 3)
    assert "taken only by their pids" in ran.err
    names = " ".join(str(path) for path in tmp_path.rglob("*"))
    assert "3272" in names
    assert "3708" not in names


def test_doubtful_by_name(doubtful: Truth, go: Invoke, tmp_path: Path) -> None:
    """What is doubtful is not taken by --name; if nothing else has such a name, the message says how to take it."""
    assert go("carve", doubtful.path, "--name", "s*", "-o", "named").code == 0
    assert sorted(path.name for path in (tmp_path / "named").iterdir()) == [
        "388-smss.exe",
        "4-System",
        "SHA256SUMS",
        "processes.json",
    ]
    ran = go("carve", doubtful.path, "--name", "shady*")
    assert ran.code == 1
    assert "only doubtful processes" in ran.err
    assert "3708 shady.exe" in ran.err
    assert "--pid" in ran.err


def test_doubtful_by_number(doubtful: Truth, go: Invoke, tmp_path: Path) -> None:
    """What is doubtful is taken by its number; a note and the manifest say the doubt, and so does the folder opened."""
    ran = go("carve", doubtful.path, "--pid", "3708", "-o", "one")
    assert ran.code == 0
    assert f"note: 3708 shady.exe is doubtful as a process: {NO_TIME}" in ran.err
    found = manifest(tmp_path / "one")
    assert found["process"]["doubts"] == [NO_TIME]
    assert found["process"]["state"] == "unlinked, doubtful"
    digests = {row["sha256"] for row in found["segments"] if row.get("sha256")}
    assert digests <= {segment.sha256 for segment in doubtful.segments(3708, "user")}
    with memcarve.open(tmp_path / "one") as folder:
        (entry,) = folder.processes()
    assert entry.doubts == (NO_TIME,)
    assert entry.state == "unlinked, doubtful"


def test_doubtful_does_not_hide_another(place: Path) -> None:
    """By a number that a doubtful process has, too, the certain one is taken, whatever its state."""
    plans = [
        Plan(388, b"smss.exe"),
        Plan(3272, b"certain.exe", 388, listed=False),
        Plan(3708, b"shady.exe", 388, listed=False, wiped=("CreateTime",)),
    ]
    truth = winimage.build(place, processes=plans)
    at = truth.process(3708).eprocess + truth.layout["UniqueProcessId"]
    with changed(place, truth, at, (3272).to_bytes(8, "little")), memcarve.open(place) as container:
        assert [entry.pid for entry in container.processes()].count(3272) == 2
        assert container.process(3272).name == "certain.exe"
