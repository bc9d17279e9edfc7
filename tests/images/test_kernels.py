"""Kernels that a table knows in part or not at all: what they tell of their processes is right, or said to be unknown.

The images keep the layout that they are made with; memcarve's table is taken away from it. `python check.py --long`
tries every kernel with all kinds of exports and more seeds.
"""

from __future__ import annotations

import itertools
import json
import random
from importlib import resources
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import memcarve
import winimage
from memcarve.images.windows import eprocess
from memcarve.images.windows.kernel import Version
from sweeps import LONG
from winimage import hostile
from winimage.layouts import layout as layout_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from winimage import Truth

KERNELS = range(winimage.ALL_LAYOUTS)
EXPORTS = ("full", "no-accessors", "none")
#: kernel, its exports, seed
CASES = (
    [(number, exports, seed) for number in KERNELS for exports in EXPORTS for seed in range(1, 9)]
    if LONG
    else [(number, EXPORTS[number % 3], 1 + number) for number in KERNELS]
)
#: members by which kernels differ for whoever reads processes
MEMBERS = (
    *(f"_EPROCESS.{name}" for name in ("UniqueProcessId", "ImageFileName", "CreateTime", "ExitTime", "Peb",
                                       "InheritedFromUniqueProcessId", "SectionBaseAddress", "VadRoot",
                                       "ThreadListHead")),
    "_ETHREAD.Cid", "_ETHREAD.ThreadListEntry", "_ETHREAD.Win32StartAddress", "_KTHREAD.Teb",
)  # fmt: skip
USER_PROCESSES = (1624, 2036)


def table() -> list[dict[str, Any]]:
    """Return the table as it is shipped."""
    text = resources.files("memcarve.images.windows").joinpath("windows_x64_layouts.json").read_text(encoding="utf-8")
    entries: list[dict[str, Any]] = json.loads(text)
    return entries


@pytest.fixture
def withhold(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Return what takes a kernel's layout out of the table, under whatever build it is there."""
    every = list(eprocess._table())

    def take(number: int) -> None:
        own = [every[number][2].get(name) for name in MEMBERS]
        rest = [entry for entry in every if [entry[2].get(name) for name in MEMBERS] != own]
        assert len(rest) < len(every)
        monkeypatch.setattr(eprocess, "_table", lambda: rest)

    return take


def told(truth: Truth) -> tuple[list[str], list[str]]:
    """Return in words what an image tells that is wrong, and what it says is not known."""
    wrong: list[str] = []
    unknown: list[str] = []

    def hold(what: str, actual: object, expected: object) -> None:
        if actual is None and expected is not None:
            unknown.append(what)
        elif actual != expected:
            wrong.append(f"{what}: {actual} instead of {expected}")

    with memcarve.open(truth.path) as container:
        entries = {entry.pid: entry for entry in container.processes()}
        assert entries.keys() == {process.pid for process in truth.processes}
        for process in truth.processes:
            entry = entries[process.pid]
            hold(f"{process.pid}: name", entry.name, process.name.decode())
            hold(f"{process.pid}: parent", entry.parent, process.ppid)
            hold(f"{process.pid}: root", entry.root, process.root)
            hold(f"{process.pid}: object", entry.object, process.eprocess)
            hold(f"{process.pid}: wow64", entry.wow64, process.wow64)
            hold(f"{process.pid}: ended", entry.ended, process.exit != 0)
            for what, value, planned in (
                ("image base", entry.image_base, process.image_base),
                ("PEB", entry.peb, process.peb),
                ("created", _filetime(entry.created), process.create // 10),
                ("exited", _filetime(entry.exited), process.exit // 10),
            ):
                hold(f"{process.pid}: {what}", value, planned or None)
        for pid in USER_PROCESSES:
            metadata = container.process(pid).metadata
            regions_of(truth, pid, metadata, hold)
            threads_of(truth, pid, metadata, hold)
    return wrong, unknown


def _filetime(moment: Any) -> int | None:
    """Return a time in microseconds since 1601."""
    if moment is None:
        return None
    since = moment - moment.replace(year=1601, month=1, day=1, hour=0, minute=0, second=0, microsecond=0)
    return (since.days * 86400 + since.seconds) * 1_000_000 + int(since.microseconds)


def regions_of(truth: Truth, pid: int, metadata: Any, hold: Any) -> None:
    """Hold the regions of a process against its plan."""
    notes = " ".join(metadata.notes)
    if not metadata.regions:
        assert "keeps its regions is not known" in notes
        hold(f"{pid}: regions", None, "some")
        return
    planned = sorted(vad.seen for vad in truth.process(pid).vads)
    rows = metadata.regions[0].rows
    hold(f"{pid}: ranges", [(row.start, row.end, row.tag) for row in rows], [(*vad[:2], vad[5]) for vad in planned])
    for row, vad in zip(rows, planned, strict=True):
        for what, actual, expected in (
            ("protections", row.protection, vad[2]),
            ("kinds", row.kind, vad[3]),
            ("files", row.file, vad[4]),
            ("privacy", row.private, vad[6]),
        ):
            hold(f"{pid}: {what}", actual, expected)
            if actual is None and expected is not None:
                assert "of regions" in notes


def threads_of(truth: Truth, pid: int, metadata: Any, hold: Any) -> None:
    """Hold the threads and modules of a process against its plan."""
    plan = truth.process(pid).userland
    assert plan is not None
    hold(f"{pid}: modules", metadata.modules[0].rows[0].start if metadata.modules else None, plan.modules[0].base)
    rows = {row.tid: row for threads in metadata.threads for row in threads.rows}
    if not metadata.threads:
        assert any("keeps its threads is not known" in note for note in metadata.notes)
        hold(f"{pid}: threads", None, "some")
        return
    hold(f"{pid}: tids", sorted(rows), sorted(thread.tid for thread in plan.threads))
    for thread in plan.threads:
        hold(f"{pid}: TEBs", rows[thread.tid].teb, thread.teb)
        hold(f"{pid}: begins", rows[thread.tid].begin, thread.begin)
        assert rows[thread.tid].begin is not None or any(
            "start addresses of threads" in note for note in metadata.notes
        )
        hold(f"{pid}: stacks", rows[thread.tid].stack_end, thread.stack.base)


# what the table says


def test_what_the_table_has_from_others() -> None:
    """Layouts that others gathered say so, name no kernel files, and tell neither VADs nor bit fields."""
    gathered = [entry for entry in table() if "origin" in entry]
    assert len(gathered) == winimage.ALL_LAYOUTS - winimage.LAYOUTS
    for entry in gathered:
        assert "kernels" not in entry
        assert not [name for name in entry["offsets"] if name.startswith("_MM")]
        assert all(isinstance(at, int) for at in entry["offsets"].values())


@pytest.mark.parametrize(
    ("build", "pid"),
    [(9200, 0x2E0), (10240, 0x2E8), (10586, 0x2E8), (15063, 0x2E0), (16299, 0x2E0), (17134, 0x2E0), (18363, 0x2E8),
     (19045, 0x440), (22621, 0x440), (22631, 0x440), (25398, 0x440), (26100, 0x1D0), (26200, 0x1D0), (28000, 0x1D0)],
)  # fmt: skip
def test_builds_that_the_table_has(build: int, pid: int) -> None:
    """Builds that were released are in the table, by the number of the kernel file that they carry."""
    version = Version(*((6, 2) if build == 9200 else (10, 0)), build)
    found = next(eprocess.layouts(version, {}))
    assert found.own
    assert {layout.pid for layout in found.layouts} == {pid}


def test_where_a_layout_ends() -> None:
    """The links behind the process's number belong to a layout, also where nothing that is known lies behind them."""
    assert eprocess.Layout(pid=0x440, name=0x100).end >= 0x440 + 8 + 16
    assert eprocess.Layout(pid=0x440, name=0x5A8).end >= 0x5A8 + 15


@pytest.mark.parametrize("number", range(winimage.LAYOUTS, winimage.ALL_LAYOUTS))
def test_kernels_that_the_table_knows_in_part(tmp_path: Path, number: int) -> None:
    """Of a kernel of which the table says nothing of VADs everything is right, and nothing is unknown."""
    truth = winimage.build(tmp_path / "mem.raw", layout=number, exports=EXPORTS[number % 3],
                           processes=winimage.USERLAND)  # fmt: skip
    assert told(truth) == ([], [])


@pytest.mark.parametrize(("number", "build"), [(22, 22631), (23, 26200)])
def test_builds_that_carry_another_file(tmp_path: Path, number: int, build: int) -> None:
    """23H2 and 25H2 are read by the kernel's file that they carry, and say their own number."""
    truth = winimage.build(tmp_path / "mem.raw", layout=number, build=build, exports="no-accessors",
                           processes=winimage.USERLAND)  # fmt: skip
    assert told(truth) == ([], [])
    with memcarve.open(truth.path) as container:
        container.processes()
        assert any(f"Windows 10.0.{build} x64" in note and "by build" in note for note in container.notes)


# what is learned


@pytest.mark.parametrize(("number", "exports", "seed"), CASES)
def test_a_kernel_that_no_table_knows(
    tmp_path: Path, withhold: Callable[[int], None], number: int, exports: str, seed: int
) -> None:
    """With a kernel's layout taken out of the table, processes, regions, modules and threads still come out right."""
    withhold(number)
    truth = winimage.build(tmp_path / "mem.raw", layout=number, exports=exports, seed=seed,
                           processes=winimage.USERLAND)  # fmt: skip
    assert told(truth) == ([], [])


#: what lies elsewhere than any known kernel has it, by layout; and what cannot be told then
ODD: list[tuple[int, dict[str, int | str], set[str]]] = [
    (8, {"_EPROCESS.VadRoot": 0x7E8}, set()),
    (8, {"_EPROCESS.Peb": 0x5C8}, set()),
    (8, {"_EPROCESS.ExitTime": 0x900}, set()),
    (8, {"_EPROCESS.CreateTime": 0x900}, set()),
    (8, {"_EPROCESS.ImageFileName": 0x700}, set()),
    (8, {"_EPROCESS.InheritedFromUniqueProcessId": 0x5C8}, set()),
    (8, {"_EPROCESS.WoW64Process": 0x5D0}, set()),
    (8, {"_EPROCESS.UniqueProcessId": 0x500, "_EPROCESS.ActiveProcessLinks": 0x508}, set()),
    (8, {"_EPROCESS.ThreadListHead": 0x5C8}, set()),
    (23, {"_MMVAD_FLAGS.PrivateMemory": "0:25:1"}, set()),
    (23, {"_MMVAD_FLAGS.Protection": "0:12:5"}, set()),
    (8, {"_MMVAD_FLAGS.VadType": "0:24:3"}, set()),
    (8, {"_MMVAD_SHORT.u": 56}, set()),
    (0, {"_MMVAD_SHORT.u": 48}, set()),
    (8, {"_MMVAD.Subsection": 64}, set()),
    (24, {"_CONTROL_AREA.FilePointer": 72}, set()),
    (8, {"_MMVAD_SHORT.StartingVpn": 32, "_MMVAD_SHORT.EndingVpn": 36, "_MMVAD_SHORT.StartingVpnHigh": 40,
         "_MMVAD_SHORT.EndingVpnHigh": 41}, set()),
    (8, {"_MMVAD_SHORT.VadNode": 8, "_MMVAD_SHORT.StartingVpn": 32, "_MMVAD_SHORT.EndingVpn": 36,
         "_MMVAD_SHORT.StartingVpnHigh": 40, "_MMVAD_SHORT.EndingVpnHigh": 41}, set()),
    (8, {"_ETHREAD.Cid": 0x480}, set()),
    (8, {"_KTHREAD.Teb": 0xF8}, set()),
    (8, {"_ETHREAD.Win32StartAddress": 0x4D8}, set()),
    (8, {"_MMVAD_SHORT.StartingVpn": 28, "_MMVAD_SHORT.EndingVpn": 24}, {"regions"}),
    (8, {"_MMVAD.Subsection": 120, "_MMVAD.size": 144}, {"files"}),
    (23, {"_FILE_OBJECT.FileName": 96}, {"files"}),
    (23, {"_MMVAD_FLAGS.VadType": "0:0:3", "_MMVAD_FLAGS.Protection": "0:20:5"}, {"protections"}),
    (8, {"_ETHREAD.Win32StartAddress": 0x600}, {"begins"}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("number", "moved", "lost", "build"),
    # without the long sweep each with one of the builds
    [
        (*odd, build)
        for place, odd in enumerate(ODD)
        for build in ((None, 29000) if LONG else [(None, 29000)[place % 2]])
    ],
    ids=str,
)
def test_a_kernel_that_is_laid_out_otherwise(
    tmp_path: Path, number: int, moved: dict[str, int | str], lost: set[str], build: int | None
) -> None:
    """Of a kernel that is laid out otherwise, whatever its build, all is right but what is said to be unknown."""
    wrong: list[str] = []
    unknown: set[str] = set()
    for exports in EXPORTS if LONG or next(iter(moved)).startswith("_EPROCESS") else ("full",):
        truth = winimage.build(tmp_path / "mem.raw", layout=number, moved=moved, build=build, exports=exports,
                               processes=winimage.USERLAND)  # fmt: skip
        found = told(truth)
        wrong += found[0]
        unknown |= {what.split(": ")[1] for what in found[1]}
    assert (wrong, unknown) == ([], lost)


@pytest.mark.parametrize("number", KERNELS if LONG else (0, 8, 23))
def test_tampered_processes_do_not_mislead(tmp_path: Path, withhold: Callable[[int], None], number: int) -> None:
    """Where every process was tampered with, in tree, lists or threads, the kernel is learned all the same."""
    withhold(number)
    truth = winimage.build(tmp_path / "mem.raw", layout=number, megabytes=64, processes=hostile.PLANS)
    apart = {"names", "tags", "region-high", "child-noise"}  # what they should be is told by tests of their own
    with memcarve.open(truth.path) as container:
        for name in hostile.NAMES:
            metadata = container.process(hostile.PIDS[name]).metadata
            rows = [
                (row.start, row.end, row.protection, row.kind, row.file, row.tag, row.private)
                for row in metadata.regions[0].rows
            ]
            planned = sorted(vad.seen for vad in truth.process(hostile.PIDS[name]).vads)
            assert name in apart or rows == planned
            assert metadata.threads


def test_a_forged_process_is_outvoted(tmp_path: Path, withhold: Callable[[int], None]) -> None:
    """A process that has its tree and its list of threads elsewhere does not make the kernel have them there."""
    withhold(8)
    plans = [winimage.Plan(5000 + 4 * at, b"plain%d" % at, memory=(), userland=hostile.plain(5000 + 4 * at))
             for at in range(4)]  # fmt: skip
    truth = winimage.build(tmp_path / "mem.raw", processes=[*winimage.USERLAND, *plans])
    forged = truth.process(5000).eprocess
    pages, physical = truth.frames(4, "kernel")
    image = np.memmap(truth.path, np.uint8, "r+")

    def place(address: int) -> int:
        return int(physical[np.searchsorted(pages, np.uint64(address & ~0xFFF))]) + address % 4096

    root = truth.layout["VadRoot"]
    for step in range(8):
        image[place(forged + root - 0x40 + step)] = image[place(forged + root + step)]
        image[place(forged + root + step)] = 0
    image.flush()
    assert told(truth) == ([], [])
    with memcarve.open(truth.path) as container:
        assert [len(regions) for regions in container.process(5000).metadata.regions] == [0]


def test_what_the_build_says_is_checked(tmp_path: Path) -> None:
    """A kernel that says a build of the table and is laid out as another is read as what it is."""
    for number, build in ((3, 15063), (10, 19041), (9, 26100), (5, 14393)):
        truth = winimage.build(tmp_path / "mem.raw", layout=number, build=build, exports="no-accessors",
                               processes=winimage.USERLAND)  # fmt: skip
        assert told(truth) == ([], [])


def future(seed: int) -> tuple[int, dict[str, int | str]]:
    """Return a kernel that may come: which one it grew out of, and what lies elsewhere.

    Members have come in between, as they do; in a VAD the flags have changed their order.
    """
    rng = random.Random(seed)  # noqa: S311 - test data
    number = rng.randrange(winimage.ALL_LAYOUTS)
    layout = layout_of(number)
    moved: dict[str, int | str] = {}
    for structure, first in (("_EPROCESS", 0x30), ("_ETHREAD", 0x200)):
        places = {name: at for name, at in layout.offsets.items() if name.startswith(structure + ".")}
        grown = [(rng.randrange(first, 0x700), 8 * rng.choice([-2, -1, 1, 2, 5, 16])) for _ in range(3)]
        links = places.pop("_EPROCESS.ActiveProcessLinks", 0)
        shifted = {name: at + sum(by for place, by in grown if at > place) for name, at in places.items()}
        ordered = sorted(places, key=lambda name: places[name])
        apart = all(
            shifted[after] - shifted[before] >= min(places[after] - places[before], 16)
            for before, after in itertools.pairwise(ordered)
        )
        if links:
            number_at = shifted["_EPROCESS.UniqueProcessId"]
            apart &= number_at >= first and not any(number_at < at < number_at + 24 for at in shifted.values())
        if not apart:
            continue
        moved |= shifted
        if links:
            moved["_EPROCESS.ActiveProcessLinks"] = shifted["_EPROCESS.UniqueProcessId"] + 8
            moved["_EPROCESS.size"] = max(shifted.values()) + 64 & ~15
    if rng.random() < 0.5:
        moved["_KTHREAD.Teb"] = layout["_KTHREAD.Teb"] + 8 * rng.randrange(-3, 9)
    if rng.random() < 0.7:
        first, second, third = rng.sample(range(3), 3)
        bits = {first: rng.randrange(3), second: rng.randrange(8, 11), third: rng.randrange(16, 24)}
        widths = {"VadType": 3, "Protection": 5, "PrivateMemory": 1}
        for place, (name, width) in enumerate(widths.items()):
            moved[f"_MMVAD_FLAGS.{name}"] = f"0:{bits[place]}:{width}"
    return number, moved


@pytest.mark.parametrize("seed", range(400 if LONG else 12))
def test_kernels_to_come(tmp_path: Path, seed: int) -> None:
    """Of kernels between whose members others have come nothing is wrong, and the list of processes is found."""
    number, moved = future(seed)
    truth = winimage.build(tmp_path / "mem.raw", layout=number, moved=moved, build=30000,
                           exports=EXPORTS[seed % 3], processes=winimage.USERLAND)  # fmt: skip
    wrong, unknown = told(truth)
    assert wrong == []
    assert {what.split(": ")[1] for what in unknown} <= {"wow64"}


@pytest.mark.parametrize("system", [True, False], ids=["", "without-system"])
@pytest.mark.parametrize("layout", [0, 8, winimage.LAYOUTS - 1])
def test_processes_without_headers(tmp_path: Path, layout: int, *, system: bool) -> None:
    """If every process's header is overwritten and the kernel exports nothing, its list still leads to all of them."""
    truth = winimage.build(tmp_path / "mem.raw", layout=layout, exports="none")
    with open(truth.path, "r+b") as file:
        for process in truth.processes:
            file.seek(process.physical)
            file.write(bytes(0x18))
        if not system:  # its number, too
            file.seek(truth.process(4).physical + truth.layout["UniqueProcessId"])
            file.write(bytes(8))
    with memcarve.open(truth.path) as container:
        listed = {entry.pid for entry in container.listed()}
    expected = {process.pid for process in truth.processes if process.listed}
    assert listed == (expected if system else listed & expected)
    assert len(listed) >= len(expected) - 1


@pytest.mark.parametrize("exports", winimage.EXPORTS)
@pytest.mark.parametrize(
    "names",
    [[b"a", b"b"], [b"\xd1\xf2\xee\xeb.exe", b"\xb2\xe2\xca\xd4", b"\xc0\xc1"], []],
    ids=["one-letter", "other-alphabets", "system-alone"],
)
@pytest.mark.parametrize("same", [False, True], ids=["", "same-number"])
def test_few_processes_of_odd_names(tmp_path: Path, exports: str, names: list[bytes], *, same: bool) -> None:
    """Few processes do not refute what a kernel is like, whatever they are called, also if several have one number."""
    plans = [winimage.Plan(1624 if same else 1624 + 4 * place, name) for place, name in enumerate(names)]
    truth = winimage.build(tmp_path / "mem.raw", layout=8, exports=exports, processes=plans)
    with memcarve.open(truth.path) as container:
        found = sorted((entry.pid, entry.root) for entry in container.processes())
    assert found == sorted((process.pid, process.root) for process in truth.processes)
