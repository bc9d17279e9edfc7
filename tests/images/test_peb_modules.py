"""What Windows processes say of themselves, read from images where it is planned or tampered with.

Modules, threads, stacks and heaps; what they were started with, and which modules they unloaded.
"""

from __future__ import annotations

import json
import random
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import pytest

import memcarve
import winimage
from memcarve.metadata import Thread
from winimage import hostile
from winimage.loader import NARROW_TEB
from winimage.userland import plain

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from memcarve.metadata import Metadata, Region
    from winimage import Process, Truth
    from winimage.userland import Threaded, Userland

    Listed = list[tuple[int, int | None, str | None, str | None]]
    Texts = tuple[object, ...]
    Gone = tuple[object, ...]

USER_END = 1 << 47
#: tampered with in what the process or its threads say
USER_SIDE = [name for name in hostile.NAMES if name not in hostile.TREE or name in hostile.LOADER]


@contextmanager
def opened(truth: Truth) -> Iterator[memcarve.Container]:
    """Open the image of a truth."""
    with memcarve.open(truth.path) as image:
        yield image


def plan(process: Process) -> Userland:
    """Return the plan of a process's memory."""
    assert process.userland is not None
    return process.userland


def listed(metadata: Metadata, source: str = "PEB") -> Listed:
    """Return the modules that a source lists, as `Loaded.seen` has them."""
    (modules,) = (modules for modules in metadata.modules if modules.source == source)
    return [(row.start, row.size, row.name, row.path) for row in modules.rows]


def threads(metadata: Metadata) -> list[Thread]:
    """Return the threads."""
    (found,) = metadata.threads
    assert found.source == "thread list"
    return list(found.rows)


def started(metadata: Metadata, source: str = "PEB") -> tuple[Texts, ...]:
    """Return what a source says that the process was started with, as `Started.seen` has it; nothing if it does not."""
    return tuple(tuple(row[1:]) for row in metadata.parameters if row.source == source)


def unloaded(metadata: Metadata, source: str = "ntdll") -> list[Gone] | None:
    """Return the modules that were unloaded, as `Event.seen` has them; None if they are not known."""
    found = [
        [(row.start, row.size, row.name, row.timestamp, row.checksum, row.sequence) for row in one.rows]
        for one in metadata.unloaded
        if one.source == source
    ]
    assert len(found) < 2
    return found[0] if found else None


def areas(metadata: Metadata, kind: str) -> list[Region]:
    """Return the areas of a kind, in order."""
    return sorted(row for areas in metadata.areas for row in areas.rows if row.kind == kind)


def expected_thread(thread: Threaded) -> Thread:
    """Return what is planned of a thread; its stack is all that was set aside for it, committed or not.

    Registers of threads that do not run lie on their kernel stacks: they are not known.
    """
    return Thread(thread.tid, thread.teb, thread.stack.reserved, thread.stack.base, thread.begin)


# honest images


@pytest.mark.parametrize("exports", ["full", "none"])
@pytest.mark.parametrize("layout", range(winimage.LAYOUTS))
def test_everything_is_as_planned(tmp_path: Path, layout: int, exports: str) -> None:
    """In every layout modules, threads, stacks and heaps are those planned, of 64 and of 32 bits."""
    truth = winimage.build(tmp_path / "mem.raw", layout=layout, exports=exports, processes=winimage.USERLAND)
    with opened(truth) as image:
        for pid in (1624, 2036):
            assert_as_planned(truth.process(pid), image.process(pid).metadata)


def assert_as_planned(process: Process, metadata: Metadata) -> None:
    """Hold what is known of a process against its plan."""
    planned = plan(process)
    # in the order of loading; what is in another list only comes in some place of its own
    found = listed(metadata)
    assert [row for row in found if row[2] != "only-in-memory-order.dll"] == [
        module.seen for module in planned.modules if "l" in module.lists
    ]
    assert {module.seen for module in planned.modules} == set(found)
    assert len({row[0] for row in found}) == len(found)
    notes = metadata.notes
    assert len(notes) == (not process.wow64), notes
    sources = [modules.source for modules in metadata.modules]
    assert sources == (["PEB", "32-bit PEB"] if process.wow64 else ["PEB"])
    if process.wow64:
        assert listed(metadata, "32-bit PEB") == [module.seen for module in planned.modules32]
    assert threads(metadata) == [expected_thread(thread) for thread in planned.threads]
    stacks = [stack for thread in planned.threads for stack in (thread.stack, thread.narrow) if stack is not None]
    assert [(row.start, row.end, row.whole) for row in areas(metadata, "stack")] == sorted(
        (stack.reserved, stack.base, True) for stack in stacks
    )
    assert {(row.start, row.whole) for row in areas(metadata, "heap")} == {
        (heap, True) for heap in planned.heaps + planned.heaps32
    }
    blocks = {thread.teb for thread in planned.threads}
    blocks |= {thread.teb + NARROW_TEB for thread in planned.threads if thread.narrow}
    assert {(row.start, row.whole) for row in areas(metadata, "TEB")} == {(teb, False) for teb in blocks}
    assert {(row.start, row.whole) for row in areas(metadata, "PEB")} == {
        (peb, False) for peb in (process.peb, process.peb32) if peb is not None
    }
    assert planned.started is not None
    assert planned.trace is not None
    assert started(metadata) == (planned.started.seen,)
    assert unloaded(metadata) == [event.seen for event in planned.trace.events]
    if process.wow64:
        assert planned.started32 is not None
        assert planned.trace32 is not None
        assert started(metadata, "32-bit PEB") == (planned.started32.seen,)
        assert unloaded(metadata, "32-bit ntdll") == [event.seen for event in planned.trace32.events]
    else:
        assert len(metadata.parameters) == len(metadata.unloaded) == 1
    # a block takes no more than its own pages
    assert all(0 < row.size <= 0x2000 for kind in ("PEB", "TEB") for row in areas(metadata, kind))


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Truth, memcarve.Container]]:
    """Return a usual image, opened."""
    truth = winimage.build(tmp_path_factory.mktemp("usual") / "mem.raw", processes=winimage.USERLAND)
    with opened(truth) as image:
        yield truth, image


def test_nothing_is_wrong_with_what_is_honest(usual: tuple[Truth, memcarve.Container]) -> None:
    """Of a process that nobody tampered with there is no note; of the other there is one about its lists alone."""
    image = usual[1]
    assert [image.process(pid).metadata.notes for pid in (4, 388, 2036, 2860)] == [()] * 4
    (note,) = image.process(1624).metadata.notes
    assert "only-in-memory-order.dll" in note


def test_what_odd_texts_and_full_lists_are(usual: tuple[Truth, memcarve.Container]) -> None:
    """The planned command line has escapes, halves of characters and a zero; the list of modules unloaded is full."""
    planned = plan(usual[0].process(1624))
    assert planned.started is not None
    assert planned.trace is not None
    assert {"\x1b", "\ud800", "\0", "\u202e"} <= set(planned.started.seen[0])
    assert len(planned.trace.events) == 64
    assert sum(2 * len(string) + 2 for string in planned.started.seen[3]) > 0x1000
    narrow = plan(usual[0].process(2036))
    assert narrow.started32 is not None
    assert not narrow.started32.normalised


def test_the_start_is_known_without_the_rest(usual: tuple[Truth, memcarve.Container]) -> None:
    """What is looked up of the start alone is the same as in all that is known of a process."""
    image = usual[1]
    for index, entry in enumerate(image.processes()):
        metadata, found = image.process(index=index).metadata, image.start_of(index)
        assert (found.parameters, found.unloaded) == (metadata.parameters, metadata.unloaded)
        assert found.notes == ()
        assert bool(found.parameters) == (entry.pid in (1624, 2036))


def test_whichever_half_was_opened(usual: tuple[Truth, memcarve.Container]) -> None:
    """What a process says of itself does not depend on which half of its memory was asked for."""
    image = usual[1]
    for index in range(len(image.processes())):
        found = [image.process(index=index, half=half).metadata for half in ("user", "kernel", "all")]
        assert len({(one.parameters, repr(one.unloaded), one.notes) for one in found}) == 1


def test_whatever_part_was_opened(usual: tuple[Truth, memcarve.Container]) -> None:
    """What is known of a process is known though only a page of it was asked for."""
    image = usual[1]
    index = [entry.pid for entry in image.processes()].index(1624)
    part, whole = image.open_span(index, 0x2A0000, 0x2A1000).metadata, image.process(index=index).metadata
    assert part._replace(regions=()) == whole._replace(regions=())
    assert [list(one) for one in part.regions] == [list(one) for one in whole.regions]


def test_lists_and_mappings_differ(usual: tuple[Truth, memcarve.Container]) -> None:
    """A module taken out of every list is in none, though it is mapped; one that is listed need not be mapped."""
    metadata = usual[1].process(1624).metadata
    names = {row[2] for row in listed(metadata)}
    files = {row.file for row in metadata.regions[0].rows}
    assert "hidden.dll" not in names
    assert "\\Windows\\System32\\hidden.dll" in files
    assert "gone.dll" in names
    assert not any(row.start <= 0x7FFA15000000 < row.end for row in metadata.regions[0].rows)


def test_a_module_in_one_list_only(usual: tuple[Truth, memcarve.Container]) -> None:
    """A module that was taken out of the list of loading alone is still a module that a list names."""
    assert "only-in-memory-order.dll" in {row[2] for row in listed(usual[1].process(1624).metadata)}


def test_processes_without_a_loader(usual: tuple[Truth, memcarve.Container]) -> None:
    """System has a thread and no modules; a process that has ended, or has just begun, has what it has."""
    image = usual[1]
    (thread,) = threads(image.process(4).metadata)
    assert (thread.tid, thread.teb, thread.stack_start, thread.stack_end) == (8, None, None, None)
    for pid in (4, 388, 2860):
        metadata = image.process(pid).metadata
        assert [row for modules in metadata.modules for row in modules.rows] == []
        assert (metadata.parameters, metadata.unloaded) == ((), ())
    assert [row.tid for row in threads(image.process(388).metadata)] == [392]
    assert [row for found in image.process(2860).metadata.threads for row in found.rows] == []


@pytest.mark.parametrize(("layout", "build"), [(0, 7602), (1, 9601), (3, 15063), (8, 22631), (9, 22631)])
def test_an_unknown_build(tmp_path: Path, layout: int, build: int) -> None:
    """Of a build that no table knows, laid out as one that is known, everything is as planned."""
    truth = winimage.build(tmp_path / "mem.raw", layout=layout, build=build, processes=winimage.USERLAND)
    with opened(truth) as image:
        for pid in (1624, 2036):
            assert_as_planned(truth.process(pid), image.process(pid).metadata)


def test_a_list_of_threads_that_is_overwritten(tmp_path: Path) -> None:
    """Where the list of threads leads nowhere none are told, and a note says so; the loader's lists need no kernel."""
    # another member is written over its head
    moved: dict[str, int | str] = {"_EPROCESS.ThreadListHead": 0x5C0}
    truth = winimage.build(tmp_path / "mem.raw", build=26100, moved=moved, processes=winimage.USERLAND)
    with opened(truth) as image:
        metadata = image.process(1624).metadata
    assert metadata.threads == ()
    assert any("threads" in note for note in metadata.notes)
    assert {module.seen for module in plan(truth.process(1624)).modules} == set(listed(metadata))


# tampered ones


class Tampered(NamedTuple):
    """The image in which everything is wrong, and what each process is known to be."""

    truth: Truth
    found: dict[str, Metadata]
    #: of the start alone
    started: dict[str, Metadata]


@pytest.fixture(scope="module", params=[0, 2, 8])
def tampered(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Tampered:
    """Return the tampered processes of an image."""
    path = tmp_path_factory.mktemp("tampered") / "mem.raw"
    plans = [hostile.plan(name) for name in USER_SIDE]
    truth = winimage.build(path, layout=request.param, megabytes=64, processes=plans)
    with opened(truth) as image:
        places = {entry.pid: index for index, entry in enumerate(image.processes())}
        return Tampered(
            truth,
            {name: image.process(hostile.PIDS[name]).metadata for name in USER_SIDE},
            {name: image.start_of(places[hostile.PIDS[name]]) for name in USER_SIDE},
        )


@pytest.mark.parametrize("name", USER_SIDE)
def test_the_rest_is_untouched(tampered: Tampered, name: str) -> None:
    """What is wrong in one structure costs nothing of the others; what is known is bounded, and so are the notes."""
    process = tampered.truth.process(hostile.PIDS[name])
    planned, metadata = plan(process), tampered.found[name]
    if name not in hostile.LOADER and not name.startswith(("module", "peb", "ldr")):
        assert listed(metadata) == [module.seen for module in planned.modules]
    if name not in hostile.THREADS and not name.startswith(("teb", "stack")):
        assert threads(metadata) == [expected_thread(thread) for thread in planned.threads]
    assert planned.started is not None
    assert planned.trace is not None
    if (name not in hostile.STARTS and not name.startswith("peb")) or "-32-" in name:
        assert started(metadata) == (planned.started.seen,)
    if name not in hostile.TRACES or "-32-" in name:
        assert unloaded(metadata) == [event.seen for event in planned.trace.events]
    quick = tampered.started[name]
    assert (quick.parameters, quick.unloaded) == (metadata.parameters, metadata.unloaded)
    assert set(quick.notes) <= set(metadata.notes)
    assert len(metadata.regions[0]) == len(process.vads)
    assert sum(len(found.rows) for found in metadata.areas) < 100
    assert len(metadata.notes) < 20
    assert all(len(note) < 1000 and note.isprintable() for note in metadata.notes)
    # of the process's own structures none lies in the kernel's half
    own = [row for kind in ("PEB", "TEB", "heap", "stack") for row in areas(metadata, kind)]
    assert all(0 < row.start < row.end <= USER_END for row in own)


@pytest.mark.parametrize("name", hostile.LOADER)
def test_modules_that_can_be_reached(tampered: Tampered, name: str) -> None:
    """A list that was cut, closed or led astray gives what it leads to, in order and once; a note says so."""
    narrow = "-32-" in name
    metadata, planned = tampered.found[name], plan(tampered.truth.process(hostile.PIDS[name]))
    known = [module.seen for module in (planned.modules32 if narrow else planned.modules)]
    found = listed(metadata, "32-bit PEB" if narrow else "PEB") if "ldr" not in name else [
        (row.start, row.size, row.name, row.path) for modules in metadata.modules for row in modules.rows
    ]  # fmt: skip
    surely = hostile.LOADER[name][1]
    if narrow:
        surely = 2
    assert set(known[:surely]) <= set(found) <= set(known)
    assert len(found) == len(set(found))
    assert found[:surely] == known[:surely]
    if name != "ldr-nothing":
        assert metadata.notes


def test_other_lists_make_up_for_one(tampered: Tampered) -> None:
    """Where the order of loading is cut, its other direction or the other lists still lead to every module."""
    for name in ("modules-cycle", "modules-itself", "modules-unmapped", "modules-kernel", "modules-nothing",
                 "modules-misaligned", "modules-cut"):  # fmt: skip
        planned = plan(tampered.truth.process(hostile.PIDS[name]))
        assert {row[0] for row in listed(tampered.found[name])} == {module.base for module in planned.modules}


def test_heaps_that_cannot_be(tampered: Tampered) -> None:
    """Billions of heaps are not believed, and a list of them that cannot be read is none."""
    heaps = set(plain(0).heaps)
    assert {row.start for row in areas(tampered.found["heaps-many"], "heap")} >= heaps
    for name in ("heaps-unmapped", "heaps-kernel"):
        assert {row.start for row in areas(tampered.found[name], "heap")} <= heaps


@pytest.mark.parametrize("name", [name for name in hostile.CHANGES if name.startswith("module-")])
def test_modules_that_cannot_be(tampered: Tampered, name: str) -> None:
    """An entry that says what cannot be does not cost the others; its name is never made up."""
    planned, found = plan(tampered.truth.process(hostile.PIDS[name])), listed(tampered.found[name])
    known = [module.seen for module in planned.modules]
    assert [row for row in found if row in known and row != known[2]] == known[:2] + known[3:]
    assert len(found) in {4, 5}
    other = [row for row in found if row not in known[:2] + known[3:]]
    for start, size, text, path in other:
        assert start == planned.modules[2].base
        assert size in {None, planned.modules[2].size}
        if planned.modules[2].raw is None:
            assert (text, path) == (planned.modules[2].name, planned.modules[2].path)
        else:
            assert text is None or "x.dll".startswith(text) or name == "module-name-most"
    # nothing has modules there, and what has no address cannot be labelled
    assert all(start < USER_END for start, *_ in found)


def test_names_of_modules_that_cannot_be_read(tampered: Tampered) -> None:
    """A module whose name is not in memory, or is said to be in the kernel's, is there without a name."""
    for name in ("module-name-unmapped", "module-name-kernel"):
        row = listed(tampered.found[name])[2]
        assert row[2:] == (None, None)
        assert row[:2] == plain(0).modules[2].seen[:2]


@pytest.mark.parametrize("name", hostile.THREADS)
def test_threads_that_can_be_reached(tampered: Tampered, name: str) -> None:
    """A list of threads that was tampered with gives what it leads to, once; a note says what is wrong."""
    process = tampered.truth.process(hostile.PIDS[name])
    metadata, known = tampered.found[name], [expected_thread(thread) for thread in plan(process).threads]
    found = [tuple(row) for row in threads(metadata)]
    surely = hostile.THREADS[name][1]
    assert found[:surely] == known[:surely]
    assert set(found) <= set(known)
    assert len(found) == len(set(found))
    assert metadata.notes
    assert hostile.FAKE_TID not in {row[0] for row in found}


def test_the_other_direction_makes_up_for_one(tampered: Tampered) -> None:
    """Where the list of threads is cut or led astray forward, the way backward still leads to all of them."""
    for name in hostile.THREADS:
        if name != "threads-owner":
            planned = plan(tampered.truth.process(hostile.PIDS[name]))
            assert {row.tid for row in threads(tampered.found[name])} == {thread.tid for thread in planned.threads}


BLOCKS = [name for name in hostile.NAMES if name.startswith(("teb-", "stack-"))]


@pytest.mark.parametrize("name", BLOCKS)
def test_blocks_of_threads_that_cannot_be_read(tampered: Tampered, name: str) -> None:
    """A thread whose block is not there, or says what cannot be, is one without a stack; the others have theirs."""
    metadata, planned = tampered.found[name], plan(tampered.truth.process(hostile.PIDS[name])).threads
    rows = threads(metadata)
    assert [(row.tid, row.begin) for row in rows] == [(thread.tid, thread.begin) for thread in planned]
    assert (rows[1].stack_start, rows[1].stack_end) == (None, None)
    others = [number for number in range(4) if number != 1]
    assert [rows[number].stack_end for number in others] == [planned[number].stack.base for number in others]
    assert {row.end for row in areas(metadata, "stack")} == {planned[number].stack.base for number in others}
    if name == "teb-nothing":
        assert rows[1].teb is None
    if name in {"teb-unmapped", "teb-not-itself", "stack-reversed", "stack-limit"}:
        assert rows[1].teb == planned[1].teb


def test_a_block_of_32_bits_that_cannot_be(tampered: Tampered) -> None:
    """What lies above 4 GiB is no 32-bit PEB: no modules are taken from there."""
    metadata = tampered.found["peb-32-wide"]
    assert [modules.source for modules in metadata.modules] == ["PEB"]
    assert len(areas(metadata, "PEB")) == 1


def test_a_process_whose_block_is_not_in_memory(tampered: Tampered) -> None:
    """Without its PEB a process has no list of modules, and a note says so; the kernel still knows the rest."""
    metadata = tampered.found["peb-unmapped"]
    assert [row for modules in metadata.modules for row in modules.rows] == []
    assert metadata.notes


@pytest.mark.parametrize("name", hostile.STARTS)
def test_starts_that_cannot_be_read(tampered: Tampered, name: str) -> None:
    """What of the start cannot be read is not known, and a note names it; the rest is as planned to the letter."""
    narrow = "-32-" in name
    planned, metadata = plan(tampered.truth.process(hostile.PIDS[name])), tampered.found[name]
    side = planned.started32 if narrow else planned.started
    assert side is not None
    members = ("command_line", "image_path", "directory", "environment")
    lost = hostile.STARTS[name][1]
    found = started(metadata, "32-bit PEB" if narrow else "PEB")
    if lost == members:
        assert found == ()
    else:
        expected = zip(members, side.seen, strict=True)
        assert found == (tuple(None if member in lost else text for member, text in expected),)
    words = [word.replace("directory", "current directory").replace("_", " ") for word in lost]
    assert len(metadata.notes) == (bool(lost) and name != "start-nothing")
    for note in metadata.notes:
        assert "process parameters" in note
        assert all(word in note for word in words) or lost == members


@pytest.mark.parametrize("name", hostile.TRACES)
def test_lists_of_unloaded_modules(tampered: Tampered, name: str) -> None:
    """A list is believed only where known code leads to it and it makes sense; else a note says that it is unknown."""
    narrow = "-32-" in name
    planned, metadata = plan(tampered.truth.process(hostile.PIDS[name])), tampered.found[name]
    trace = planned.trace32 if narrow else planned.trace
    assert trace is not None
    found = unloaded(metadata, "32-bit ntdll" if narrow else "ntdll")
    known = hostile.TRACES[name][1]
    assert found == ([event.seen for event in trace.events] if known else None)
    assert len(metadata.notes) == (not known or name == "unload-wrong")
    assert all("unloaded" in note for note in metadata.notes)


def test_entries_that_cannot_be(tampered: Tampered) -> None:
    """Of unloaded modules with impossible addresses, without a size, or out of turn there is a count in a note."""
    (note,) = tampered.found["unload-wrong"].notes
    assert note == "5 modules in the list of unloaded modules (ntdll) had impossible values"


def test_structures_damaged_at_random(tmp_path: Path) -> None:
    """Whatever stands in a process's own structures, what is told of it lies in its user half, and nothing fails."""
    truth = winimage.build(tmp_path / "mem.raw", processes=winimage.USERLAND)
    dice, image = random.Random(5), bytearray((tmp_path / "mem.raw").read_bytes())  # noqa: S311 - no secret
    places = []
    for pid in (1624, 2036):
        planned = plan(truth.process(pid))
        pages = [planned.peb, planned.peb32 or planned.peb]
        for start in (planned.arena, planned.arena32, planned.ntdll, planned.ntdll32):
            pages += range(start & ~0xFFF, (start & ~0xFFF) + 40 * 0x1000, 0x1000) if start else []
        addresses, frames = truth.frames(pid, "user")
        places += [frame for page, frame in zip(addresses.tolist(), frames.tolist(), strict=True) if page in pages]
    words = [0, 1, 0xFFFFFFFF, (1 << 64) - 1, USER_END - 1, hostile.KERNEL, 0x10000, 0x2000000000]
    for _ in range(60):
        damaged = bytearray(image)
        for _ in range(dice.randrange(1, 8)):
            at, size = dice.choice(places) + dice.randrange(0xFF8), dice.choice((1, 2, 4, 8))
            word = dice.choice(words) if dice.randrange(3) else dice.getrandbits(64)
            damaged[at : at + size] = (word & (1 << 8 * size) - 1).to_bytes(size, "little")
        (tmp_path / "damaged.raw").write_bytes(damaged)
        with memcarve.open(tmp_path / "damaged.raw") as machine:
            for pid in (1624, 2036):
                metadata = machine.process(pid).metadata
                quick = machine.start_of([entry.pid for entry in machine.listed()].index(pid))
                assert (quick.parameters, quick.unloaded) == (metadata.parameters, metadata.unloaded)
                json.dumps(metadata.told(environment=True)).encode()
                gone = [row for one in metadata.unloaded for row in one.rows]
                assert all(0 < row.start < row.end <= USER_END for row in gone)
                assert all(note.isprintable() for note in metadata.notes)
