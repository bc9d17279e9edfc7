"""Who maps a page: against a search of every page of every process, on machines made up, made and real."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import containers
import memcarve
import winimage
from dumps import write_dump, write_several
from linux_machines import machine, unlike_machines
from made_linux import PROGRAM, MadeLinux
from memcarve.errors import ProcessError, UsageError
from memcarve.hunting.owners import mappings, naming
from memcarve.permissions import EXECUTE, PROT_NONE, TRANSITION, USER, WRITE, permissions
from memcarve.process import Container, ProcessEntry, ProcessMemory
from memcarve.space import AddressSpace
from memory import PAGE, Memory

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from winimage import Truth

#: address, size, physical address, flags
Row = tuple[int, int, int, int]
FLAGS = (0, USER, USER | WRITE, USER | EXECUTE, TRANSITION, PROT_NONE)
SIZES = (PAGE, PAGE, 2 * PAGE, 3 * PAGE, 7 * PAGE, 16 * PAGE)


class MadeUp(Container):
    """An image whose processes are rows: of each its user half, or an error; and the kernel's half of all."""

    path = "made-up"
    default_half = "user"

    def __init__(
        self,
        ranges: Sequence[tuple[int, int, int]],
        users: Sequence[Sequence[Row] | np.ndarray | None],
        kernel: Sequence[Row] = (),
    ) -> None:
        self.ranges, self.users, self.kernel = ranges, users, kernel
        self.backing = Memory(bytes(max((offset + size for _, size, offset in ranges), default=0)))

    def processes(self) -> list[ProcessEntry]:
        """Return a process for each of the users."""
        return [ProcessEntry(100 + number, f"user-{number}") for number in range(len(self.users))]

    def _process(self, index: int) -> ProcessMemory:
        raise NotImplementedError

    def _half(self, index: int, half: str) -> ProcessMemory:
        rows = self.kernel if half == "kernel" else self.users[index]
        if rows is None:
            raise ProcessError("its page tables are gone")
        table = rows if isinstance(rows, np.ndarray) else np.array(sorted(rows), np.uint64).reshape(-1, 4)
        start, size, physical, flags = (table[:, number].copy() for number in range(4))
        # nothing but the columns is asked for: what lies outside the image need not be cut off
        space = AddressSpace(
            start, size, physical, self.backing, physical=physical, flags=flags.astype(np.uint8), absent="not in memory"
        )
        return ProcessMemory(space, self.processes()[index])

    def physical_space(self) -> AddressSpace:
        """Return the ranges."""
        table = np.array(self.ranges, np.uint64).reshape(-1, 3)
        return AddressSpace(*(table[:, number].copy() for number in range(3)), self.backing)

    def close(self) -> None:
        """Do nothing."""


@st.composite
def mapped(draw: st.DrawFn, begin: int) -> list[Row]:
    """Draw what one process maps: stretches of any physical memory, aliases and large pages among them."""
    rows, address = [], begin
    for _ in range(draw(st.integers(0, 8))):
        address += draw(st.integers(0, 3)) * PAGE
        size = draw(st.sampled_from(SIZES))
        physical = draw(st.integers(0, 24)) * PAGE
        for _ in range(draw(st.sampled_from([1, 1, 1, 5]))):
            rows.append((address, size, physical, draw(st.sampled_from(FLAGS))))
            address += size
    return rows


def brute_force(rows: Iterable[tuple[int, Row]], physical: int) -> list[tuple[int, int, int]]:
    """Return owner, address and flags of each of (owner, row) that holds a physical address."""
    return [
        (owner, address + physical - begin, flags)
        for owner, (address, size, begin, flags) in rows
        if begin <= physical < begin + size
    ]


@given(st.data(), st.lists(st.booleans(), min_size=1, max_size=4))
@settings(max_examples=60)
def test_against_every_row(data: st.DataObject, fails: list[bool]) -> None:
    """Each owner of each byte is told, by physical address and by offset, and nothing else; a failure is kept."""
    users = [None if failed else data.draw(mapped(0x10000)) for failed in fails]
    kernel = data.draw(mapped(0xFFFF800000000000))
    ranges = [(0, 10 * PAGE, 5 * PAGE), (12 * PAGE, 7 * PAGE, 17 * PAGE), (20 * PAGE, PAGE, 3 * PAGE)]
    container = MadeUp(ranges, users, kernel)
    if all(fails):
        with pytest.raises(ProcessError, match="gone"):
            memcarve.Owners(container)
        return
    owners = memcarve.Owners(container)
    assert [mapper.entry.pid for mapper, _ in owners.failures if mapper.entry] == [
        100 + number for number, failed in enumerate(fails) if failed
    ]
    rows = [(number, row) for number, each in enumerate(users) for row in sorted(each or ())]
    rows += [(len(users), row) for row in sorted(kernel)]
    asked = data.draw(st.lists(st.integers(0, 30 * PAGE), max_size=12))
    answers = owners.of_physical(asked, 1000)
    assert not answers.more.any()
    for place, physical in enumerate(asked):
        offset = next((o + physical - p for p, size, o in ranges if p <= physical < p + size), None)
        mine = np.flatnonzero(answers.query == place)
        told = [(int(answers.owner[row]), int(answers.address[row]), int(answers.flags[row])) for row in mine]
        assert {int(answers.physical[row]) for row in mine} == {physical}
        if offset is None:
            assert told == [(-2, 0, 0)]
            continue
        assert {int(answers.offset[row]) for row in mine} == {offset}
        expected = brute_force(rows, physical)
        assert told == (expected or [(-1, 0, 0)])
    offsets = data.draw(st.lists(st.integers(0, 30 * PAGE), max_size=12))
    for place, answer in enumerate(_by_query(owners.of(np.array(offsets, np.uint64), 1000), len(offsets))):
        found = next((p + offsets[place] - o for p, size, o in ranges if o <= offsets[place] < o + size), None)
        if found is None:
            assert [(each.owner, each.physical) for each in answer] == [("not memory", None)]
            continue
        expected = brute_force(rows, found)
        assert [(each.address, each.permissions) for each in answer] == (
            [(address, permissions(flags)) for _, address, flags in expected] or [(None, None)]
        )
        assert {(each.physical, each.offset) for each in answer} == {(found, offsets[place])}


def _by_query(answers: memcarve.Answers, count: int) -> list[list[memcarve.Answer]]:
    found: list[list[memcarve.Answer]] = [[] for _ in range(count)]
    for answer in answers:
        found[answer.query].append(answer)
    return found


def test_million_aliases() -> None:
    """One page that a process maps a million times is told a few times and counted exactly; others are not hidden."""
    alias = np.empty((1 << 20, 4), np.uint64)
    alias[:, 0] = 0x10000 + PAGE * np.arange(1 << 20)
    alias[:, 1:] = PAGE, 5 * PAGE, USER
    once = [(0x7000, PAGE, 5 * PAGE, USER | WRITE)]
    owners = memcarve.Owners(MadeUp([(0, 16 * PAGE, 0)], [alias, once], [(0xFFFF800000000000, PAGE, 5 * PAGE, WRITE)]))
    answers = list(owners.of_physical([5 * PAGE + 3] * 2, max_owners=4))
    assert [answer.query for answer in answers] == [0, 0, 0, 0, 1, 1, 1, 1]
    told = [(answer.owner, answer.process and answer.process.pid, answer.address) for answer in answers[:4]]
    assert told == [
        ("process", 100, 0x10003),
        ("process", 100, 0x11003),
        ("process", 101, 0x7003),
        ("kernel", None, 0xFFFF800000000003),
    ]
    assert [answer.more for answer in answers] == [0, 0, 0, (1 << 20) + 2 - 4] * 2


def test_more_than_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of processes that map more stretches than are kept, those that do not fit fail, and the others are told."""
    monkeypatch.setattr(mappings, "_LEAST_ROWS", 4)
    many = [(0x10000 + 2 * PAGE * number, PAGE, 0, USER) for number in range(5)]
    few = many[:2]
    owners = memcarve.Owners(MadeUp([(0, PAGE, 0)], [few, many, few], []))
    assert [(mapper.index, type(error)) for mapper, error in owners.failures] == [(1, memcarve.LimitError)]
    assert [answer.process.pid for answer in owners.of_physical([0]) if answer.process] == [100, 100, 102, 102]
    # one that maps as much as is kept does not take the place of those that come later
    monkeypatch.setattr(mappings, "_LEAST_ROWS", 5)
    owners = memcarve.Owners(MadeUp([(0, PAGE, 0)], [few[:1], many[:3], few, few[:1]], few[:1]))
    assert [(mapper.index, type(error)) for mapper, error in owners.failures] == [(1, memcarve.LimitError)]
    found = [(answer.owner, answer.process and answer.process.pid) for answer in owners.of_physical([0])]
    assert found == [("process", 100), ("process", 102), ("process", 102), ("process", 103), ("kernel", None)]


def test_names_without_end(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A process with more regions than are kept does not use up what there is for others."""
    truth = winimage.build(tmp_path / "mem.raw", processes=winimage.USERLAND)
    with memcarve.open(truth.path) as container:
        counts = {
            process.pid: len(process.metadata.regions[0].rows) + len(process.modules)
            for process in map(container.process, (1624, 2036))
        }
        many, few = max(counts, key=lambda pid: counts[pid]), min(counts, key=lambda pid: counts[pid])
        monkeypatch.setattr(naming, "_MOST_NAMES", counts[many] - 1)
        owners = memcarve.Owners(container)
        numbers = {mapper.entry.pid: number for number, mapper in enumerate(owners.mappers) if mapper.entry}
        start = {pid: container.process(pid).metadata.regions[0].rows[0].start for pid in (many, few)}
        for pid, known in ((many, False), (few, True)):
            named = owners.names.of(np.array([numbers[pid]], np.int32), np.array([start[pid]], np.uint64))
            assert (named.region_texts() != [None]) == known
        assert [mapper.entry and mapper.entry.pid for mapper, _ in owners.names.failures] == [many]


def test_questions_that_make_no_sense() -> None:
    """Numbers of more than 64 bits, negative ones and no owners at all are usage errors."""
    owners = memcarve.Owners(MadeUp([(0, PAGE, 0)], [[]]))
    for number in (-1, 1 << 64):
        with pytest.raises(UsageError, match="64 bits"):
            owners.of([number])
    with pytest.raises(UsageError, match="at least one"):
        owners.of([0], max_owners=0)
    assert len(owners.of([])) == 0
    assert [answer.owner for answer in owners.of([PAGE, (1 << 64) - 1, 0])] == ["not memory"] * 2 + ["none found"]


# a Windows machine


@pytest.fixture(scope="module")
def windows(tmp_path_factory: pytest.TempPathFactory) -> Truth:
    """Return an image of a machine of Windows with every kind of page, whose container has holes."""
    return winimage.build(tmp_path_factory.mktemp("windows") / "mem.raw")


class Expected(NamedTuple):
    """Who maps 4 KiB pages, by physical address: pid (None: the kernel) and address."""

    user: dict[int, set[tuple[int, int]]]
    kernel: dict[int, set[tuple[int, int]]]


def expected_of(truth: Truth, pids: Iterable[int]) -> Expected:
    """Return who maps what, page by page, of some processes as they were planned."""
    tables = Expected({}, {})
    for pid in pids:
        for half, table in zip(("user", "kernel"), tables, strict=True):
            address, physical = truth.frames(pid, half, truth.holes)
            for one, other in zip(address.tolist(), physical.tolist(), strict=True):
                table.setdefault(other, set()).add((pid, one))
    return tables


def written(truth: Truth, kind: str, path: Path) -> str:
    """Write the image into a container."""
    ranges = [(start, containers.Slice(truth.path, start, size)) for start, size in truth.ranges()]
    parts: dict[str, Any] = {
        "LiME": lambda: containers.lime_parts(ranges),
        "ELF core": lambda: containers.elf_core_parts(ranges, root=truth.kernel_root),
        "kdump": lambda: containers.kdump_parts(ranges, level=1),
    }
    return containers.write(path, parts[kind]())


@pytest.mark.parametrize("kind", ["LiME", "ELF core", "kdump"])
def test_windows(windows: Truth, kind: str, tmp_path: Path) -> None:
    """In containers of every sort each page of the user halves has the owners that it was planned to have.

    Of the kernel's half each page has one of its addresses at least, in the kernel or in the process that alone has it.
    """
    loops = {process.pid for process in windows.processes if process.claimed}
    with memcarve.open(written(windows, kind, tmp_path / "mem")) as container:
        owners = memcarve.Owners(container)
        pids = {container.entry(index).pid for index in container.certain()}
        known = expected_of(windows, sorted(pid for pid in pids if pid is not None and pid not in loops))
        frames = np.arange(0, windows.size, PAGE, dtype=np.uint64)
        inside = np.uint64(0x123)
        answers = owners.of_physical(frames + inside, 1 << 20)
        there = {start + at for start, size in windows.ranges() for at in range(0, size, PAGE)}
        rows = zip(
            answers.physical.tolist(), answers.owner.tolist(), answers.address.tolist(), answers.offset.tolist(),
            strict=True,
        )  # fmt: skip
        user, kernel = dict[int, set[tuple[int, int]]](), dict[int, set[int]]()
        image = memcarve.image_ranges(container)
        for physical, owner, address, offset in rows:
            frame = physical - 0x123
            assert (owner == -2) == (frame not in there)
            if owner == -2:
                continue
            assert offset == image.offset_of(physical)
            if owner >= 0 and address < 1 << 63:
                entry = owners.mappers[owner].entry
                assert entry is not None
                assert entry.pid is not None
                if entry.pid not in loops:
                    user.setdefault(frame, set()).add((entry.pid, address - 0x123))
            elif owner >= 0:
                kernel.setdefault(frame, set()).add(address - 0x123)
        assert user == known.user
        selfmap = (1 << 64) - (1 << 48) + (windows.selfmap_slot << 39)
        for frame, mapped_at in known.kernel.items():
            for _, address in mapped_at:
                # the tables of the kernel's half are the kernel's at the address that they have in one process
                if not selfmap + (1 << 38) <= address < selfmap + (1 << 39):
                    assert address in kernel[frame]
        # what was asked by offset is the same
        stored = np.array([number for number in frames.tolist() if number in there], np.uint64)
        offsets = np.array([image.offset_of(number) for number in stored.tolist()], np.uint64)
        by_offset, by_address = owners.of(offsets), owners.of_physical(stored)
        for name in ("query", "physical", "offset", "owner", "address", "flags", "more"):
            assert np.array_equal(getattr(by_offset, name), getattr(by_address, name)), name


def test_names(tmp_path: Path) -> None:
    """Regions and modules of Windows are named; a page that two processes share has both for owners."""
    plans = [*winimage.USERLAND]
    truth = winimage.build(tmp_path / "mem.raw", processes=plans)
    with memcarve.open(truth.path) as container:
        owners = memcarve.Owners(container)
        plan = truth.process(1624).userland
        assert plan is not None
        frames = dict(zip(*(column.tolist() for column in truth.frames(1624, "user")), strict=True))
        asked = [frames[address] for address in sorted(frames)]
        named = 0
        for query, answers in enumerate(_by_query(owners.of_physical(asked), len(asked))):
            (mine,) = (each for each in answers if each.process and each.process.pid == 1624 and each.query == query
                       and each.address == sorted(frames)[query])  # fmt: skip
            process = container.process(1624, half="user")
            held = [row for row in process.modules if row.start <= (mine.address or 0) < row.end]
            if held:
                named += 1
                assert mine.module == f"{held[0].name}+0x{(mine.address or 0) - held[0].start:x}"
            region = [row for row in process.regions if row.start <= (mine.address or 0) < row.end]
            assert (mine.region is None) == (not region)
            assert mine.page in ("present", "transition")
        assert named > 3
        shared = [frame for frame in expected_of(truth, [388, 1624]).user.items() if len({p for p, _ in frame[1]}) > 1]
        (answers,) = _by_query(owners.of_physical([shared[0][0]]), 1)
        assert {388, 1624} <= {each.process.pid for each in answers if each.process}


@pytest.mark.parametrize("seed", range(3))
def test_damaged_page_tables(windows: Truth, seed: int, tmp_path: Path) -> None:
    """Whatever stands in page tables, every mapping of every process is told, or the process is a failure."""
    data = bytearray(Path(windows.path).read_bytes())
    chance = np.random.default_rng(seed)
    roots = [process.root for process in windows.processes]
    for root in roots:
        for at in chance.integers(0, 512, 6).tolist():
            data[root + 8 * at : root + 8 * at + 8] = int(chance.integers(1, 1 << 25) | 0x67).to_bytes(8, "little")
    path = tmp_path / "mem.raw"
    path.write_bytes(data)
    try:
        container = memcarve.open(path, input_type="image")
        owners = memcarve.Owners(container)
    except memcarve.InputError:
        return
    with container:
        failed = {mapper.index for mapper, _ in owners.failures}
        for number, mapper in enumerate(owners.mappers):
            if mapper.index is None or mapper.index in failed:
                continue
            space = container.process(index=mapper.index, half="user").space
            rows = chance.integers(0, max(len(space), 1), 20 if len(space) else 0)
            told = owners.of_physical(space.physical[rows], 1 << 20)  # type: ignore[index]
            mine = set(zip(told.query.tolist(), told.owner.tolist(), told.address.tolist(), strict=True))
            assert {(query, number, address) for query, address in enumerate(space.start[rows].tolist())} <= mine


# Linux


def test_direct_map(tmp_path: Path) -> None:
    """Linux's map of all memory is told apart, last, and is the owner of what nothing else maps."""
    linux = MadeLinux()
    linux.process(7, b"seven", b"/bin/seven\0")
    linux.process(8, b"eight", b"/bin/eight\0")
    with memcarve.open(linux.written(tmp_path)) as container:
        process = container.process(8, half="user")
        physical = int(process.space.physical[0])  # type: ignore[index]
        owners = memcarve.Owners(container)
        told = [
            (each.owner, each.process and each.process.pid, each.address) for each in owners.of_physical([physical])
        ]
        assert told[0] == ("process", 8, PROGRAM)
        assert {owner for owner, _, _ in told[1:]} <= {"kernel", "direct map"}
        assert told[-1][0] == "direct map"
        assert len(told) == len(set(told))
        free = [each.owner for each in owners.of([linux.used + 3 * PAGE])]
        assert set(free) <= {"kernel", "direct map"}
        assert "direct map" in owners.hidden


@pytest.mark.parametrize("name", unlike_machines())
def test_real_linux(name: str) -> None:
    """On a real machine every page that /proc/PID/pagemap tells has that process for an owner at that address."""
    real = machine(name)
    with memcarve.open(real.raw) as container:
        owners = memcarve.Owners(container)
        assert not owners.failures
        generator = np.random.default_rng(1)
        for pid in real.stopped[:: max(1, len(real.stopped) // 12)]:
            pages = real.pages(pid)
            chosen = generator.permutation(len(pages.address))[:200]
            physical = pages.frame[chosen] * np.uint64(real.page_size) + np.uint64(7)
            told = owners.of_physical(physical, 4096)
            mine = {
                (query, address)
                for query, owner, address in zip(
                    told.query.tolist(), told.owner.tolist(), told.address.tolist(), strict=True
                )
                if owner >= 0 and (entry := owners.mappers[owner].entry) is not None and entry.pid == pid
            }
            wanted = {(query, int(pages.address[row]) + 7) for query, row in enumerate(chosen.tolist())}
            assert wanted <= mine, pid


# what is no image


def test_dump(tmp_path: Path) -> None:
    """A dump's offsets lead to the addresses of its process; physical addresses are a usage error."""
    path = write_dump(tmp_path, [(0x10000, bytes(PAGE)), (0x30000, bytes(2 * PAGE))], 4)
    with memcarve.open(path) as container:
        owners = memcarve.Owners(container)
        told = [(each.owner, each.process and each.process.pid, each.address, each.physical, each.permissions)
                for each in owners.of([0, PAGE + 5, 3 * PAGE])]  # fmt: skip
        assert told == [
            ("process", 4, 0x10000, None, None),
            ("process", 4, 0x30005, None, None),
            ("not memory", None, None, None, None),
        ]
        with pytest.raises(UsageError, match="is not an image"):
            owners.of_physical([0])
        with pytest.raises(UsageError, match="is not an image"):
            memcarve.image_ranges(container)


def test_several_dumps(tmp_path: Path) -> None:
    """If each process has a file of its own, an offset tells nothing until one is chosen."""
    rows: dict[int, Any] = {4: [(0x10000, bytes(PAGE))], 8: [(0x20000, bytes(PAGE))]}
    with memcarve.open(write_several(tmp_path, rows)) as container:
        with pytest.raises(UsageError, match="each in a file of its own"):
            memcarve.Owners(container)
        assert [each.address for each in memcarve.Owners(container, container.choose([8])).of([5])] == [0x20005]


# the whole image


def test_image_ranges(tmp_path: Path) -> None:
    """The whole image is an address space by physical address: a text across two pieces of the container is found."""
    text = b"across the border"
    data = bytearray(4 * PAGE)
    data[2 * PAGE - 5 : 2 * PAGE - 5 + len(text)] = text
    ranges = [(0x5000, bytes(data[: 2 * PAGE])), (0x5000 + 2 * PAGE, bytes(data[2 * PAGE :])), (0x100000, text)]
    path = tmp_path / "mem.lime"
    path.write_bytes(containers.lime(ranges))
    with memcarve.open(path, dtb=0x5000, paging="x64", system="none") as container:
        space = memcarve.image_ranges(container)
        hits = list(space.find(text, space.segments()))
        assert [hit.address for hit in hits] == [0x7000 - 5, 0x100000]
        assert [space.offset_of(hit.address) == hit.offset for hit in hits] == [True, True]
        assert path.read_bytes()[hits[1].offset :][: len(text)] == text
