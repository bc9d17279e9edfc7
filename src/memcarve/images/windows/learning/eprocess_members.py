"""Where a kernel that no table knows, or that differs from its table, keeps the members of an EPROCESS.

The list of processes is walked by its links alone. Then each member is compared with what it must be in most processes:
a System process with that name and id, times that a calendar has, parents that are processes, a PEB that names the
image base beside it, and so on. Chance does not make that so, and one damaged process does not undo it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from memcarve.formats.programs import pe
from memcarve.images.paging_modes import ROOT, WINDOWS, AddressTable
from memcarve.images.physical_scan import look_through, pages_of
from memcarve.images.structure_reader import Reader
from memcarve.images.windows import eprocess
from memcarve.images.windows.eprocess import RUNNING, SYSTEM, Layout, is_id
from memcarve.images.windows.eprocess_scan import PROCESS, TYPE_MASK, USER_END, are_times
from memcarve.images.windows.learning.sample import STRUCTURE, Probe, has_waiters, words_of
from memcarve.images.windows.peb_modules import PEB_IMAGE
from memcarve.images.windows.vads import is_kernel
from memcarve.intervals import PAGE, Intervals

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from memcarve.dtypes import U32, U64, Bools
    from memcarve.images.physical import PhysicalMemory
    from memcarve.images.windows.kernel import Kernel


_MOST = 64  # processes that are looked at
_SEVERAL = 2  # so many proven members make the unrefuted ones of the same layout likely
_READ = 8  # processes whose own memory is looked at
_LEAST = 3  # with fewer processes nothing is learned
_MOST_NAMES = 1 << 10  # occurrences of the name System
_FIRST = 0x30  # what comes before is the same in every kernel
_NAME_WORD = int.from_bytes(b"System\0\0", "little")
_MOSTLY, _HALF, _SOME = 0.75, 0.5, 0.25
_NEARLY = 0.9
_NARROW = 1 << 32
_PLAIN = range(32, 127)


class Judged(NamedTuple):
    """A layout as far as it holds up, with the number of processes in its list, and of members that are proven."""

    layout: Layout
    listed: int
    proven: int


class Sample:
    """The processes that the list leads to from System, System first: `words` of each, uint64, shape (n, words).

    Processes that are not completely in memory are left out if there are enough others.
    """

    def __init__(self, memory: PhysicalMemory, kernel: Kernel, system: int, links: int) -> None:
        reader = Reader(kernel.space)
        self.probes = []
        for address in _neighbours(reader, system, links):
            root = reader.number(address + eprocess.ROOT)
            table = None if root is None else AddressTable(root & ROOT, kernel.table.mode, WINDOWS)
            self.probes.append(Probe(reader, memory, table, address))
        whole = [probe for probe in self.probes[1:] if reader.read(probe.address, STRUCTURE) is not None]
        if len(whole) >= _LEAST:
            self.probes[1:] = whole
        self.structures = [probe.structure for probe in self.probes]
        self.words = words_of(self.structures)
        self._status: tuple[int | None] | None = None
        self.pids = self.words[:, (links - 8) // 8]

    def __len__(self) -> int:
        return len(self.probes)

    def column(self, at: int) -> U64:
        """Return the numbers of 8 bytes at an offset of every process but System, uint64."""
        return self.words[1:, at // 8]

    def status(self, layout: Layout) -> int | None:
        """Return the offset of exit statuses, if it is found."""
        if self._status is None:
            self._status = (_only(self, layout, "exit_status", range(_FIRST, STRUCTURE - 16, 4)),)
        return self._status[0]

    def texts(self, at: int) -> list[bytes]:
        """Return the names at an offset."""
        return [data[at : at + eprocess.NAME] for data in self.structures]

    def statuses(self, at: int) -> U32:
        """Return the numbers of 4 bytes at an offset of every process, System first."""
        return self.words.view("<u4")[:, at // 4]


def judge(sample: Sample, layout: Layout, told: Iterable[str], *, own: bool) -> Judged:
    """Return a layout without the members that do not hold up.

    Members that the kernel's own code gives (`told`) stay. What the table says of its build (`own`) stays unless it is
    refuted. What it says of other kernels is dropped unless it is proven, or unless several other members are proven
    and the processes' memory, which would prove it, is not there.
    """
    if len(sample) < _LEAST:
        return Judged(layout if own else layout.only({"pid", "name", *told}), len(sample), 0)
    members: dict[str, int] = layout._asdict()
    verdicts: dict[str, bool | None] = {}
    for member, check in _CHECKS.items():
        at = members.get(member)
        if at is not None and member not in told:
            verdicts[member] = check(sample, at, layout) if at % 8 == 0 and at < STRUCTURE - 16 else False
    proven = sum(verdict is True for verdict in verdicts.values())
    for member, verdict in verdicts.items():
        likely = own or (member != "exit" and proven >= _SEVERAL)
        if verdict is False or (verdict is None and not likely):
            del members[member]
    return Judged(Layout(**members), len(sample), proven)


def has_names(sample: Sample, layout: Layout, told: Iterable[str], *, own: bool) -> bool:
    """Return True if processes have names at a layout's offset; if it is the build's `own`, System's may be damaged.

    If the kernel's own code has `told` the offset, processes may have any names.
    """
    if "name" in told:
        return True
    system = sample.texts(layout.name)[0].rstrip(b"\0").lower() == b"system"
    return (system or own) and (len(sample) < _LEAST or _named(sample, layout.name))


def agreed(judged: Sequence[Judged]) -> Layout:
    """Return what the best of several layouts have in common; members on which they differ are unknown."""
    best = max((one.listed, one.proven) for one in judged)
    layouts = [one.layout for one in judged if (one.listed, one.proven) == best]
    layouts = [layout for layout in layouts if (layout.pid, layout.name) == (layouts[0].pid, layouts[0].name)]
    said = {member: {getattr(layout, member) for layout in layouts} - {None} for member in Layout._fields}
    return Layout(**{member: offsets.pop() for member, offsets in said.items() if len(offsets) == 1})


def completed(sample: Sample, layout: Layout) -> Layout:
    """Return a layout completed with the members that it lacks, as far as they are recognised by their contents."""
    if len(sample) < _LEAST:
        return layout
    places = range(_FIRST, STRUCTURE - 16, 8)
    for member in ("create", "parent", "exit"):
        if getattr(layout, member) is None:
            layout = _with(layout, member, _only(sample, layout, member, places))
    if layout.exit is None and layout.exit_status is None:
        layout = _with(layout, "exit_status", sample.status(layout))
    if layout.peb is None or layout.section is None:
        layout = _blocks(sample, layout)
    if layout.wow64 is None:
        layout = _with(layout, "wow64", _only(sample, layout, "wow64", places) or _unused_wow64(sample, layout))
    return layout


def learned(
    memory: PhysicalMemory, kernel: Kernel, system: int | None, decoded: dict[str, int]
) -> tuple[Layout, int] | None:
    """Return the layout of an EPROCESS and the System process's address, found without any table.

    `system` is that address if it is known, `decoded` what the kernel's own code gives.
    """
    for address in _systems(memory, kernel) if system is None else [system]:
        best: tuple[int, Layout] = (_LEAST - 1, Layout(0, 0))
        data = Reader(kernel.space).padded(address, STRUCTURE)
        places = [at for at in range(_FIRST, STRUCTURE - 24, 8) if data[at : at + 8] == SYSTEM.to_bytes(8, "little")]
        for pid in [decoded["pid"]] if "pid" in decoded else places:
            sample = Sample(memory, kernel, address, pid + 8)
            pids = sample.pids.tolist()
            if len(set(pids)) < len(pids) or not all(map(is_id, pids)):
                continue
            name = _name(sample) if "name" not in decoded else decoded["name"]
            if name is not None and len(sample) > best[0]:
                best = len(sample), Layout(**{**decoded, "pid": pid, "name": name})
        if best[1].pid:
            return completed(Sample(memory, kernel, address, best[1].links), best[1]), address
    return None


def _with(layout: Layout, member: str, at: int | None) -> Layout:
    return Layout(**{**layout._asdict(), member: at})


def _neighbours(reader: Reader, system: int, links: int) -> list[int]:
    """Return the addresses of the processes in the list, System first: forward; if that ends early, also backward."""
    found = [system]
    for forward in (True, False):
        here = system + links
        while len(found) < _MOST:
            link = reader.number(here if forward else here + 8)
            if link is None or not is_kernel(link) or reader.number(link + 8 if forward else link) != here:
                break
            address = link - links
            if address in found:
                if address == system and forward:
                    return found
                break
            kind = reader.number(address, 1)
            # the list's head is not a process
            if address % 16 == 0 and kind is not None and kind & TYPE_MASK == PROCESS:
                found.append(address)
            here = link
    return found


def _systems(memory: PhysicalMemory, kernel: Kernel) -> Iterator[int]:
    """Yield the kernel addresses of possible System processes, by the name and the header of an object."""
    space, reader = kernel.space.whole, Reader(kernel.space)
    order = np.argsort(space.offset, kind="stable")
    stored = Intervals(space.offset[order], space.size[order])

    def look(physical: U64, words: U64) -> U64:
        flat = words.reshape(-1)
        place = np.flatnonzero(flat == np.uint64(_NAME_WORD))
        return np.asarray(physical[place // (PAGE // 8)] + (place % (PAGE // 8)).astype(np.uint64) * np.uint64(8))

    left = _MOST_NAMES
    for physical in look_through(memory, pages_of(memory, space), look):
        offsets = memory.offsets_of(physical)
        rows = stored.rows_of(offsets)
        addresses = space.start[order[rows]] + (offsets - stored.start[rows])
        for name in addresses[rows >= 0].tolist():
            left -= 1
            if left < 0:
                return
            for address in range(name // 16 * 16, max(name - STRUCTURE, 0), -16):
                if is_process(reader, address):
                    yield address


def is_process(reader: Reader, address: int) -> bool:
    """Return True if a process's object begins at an address: type, list of waiters, root."""
    kind, root = reader.number(address, 1), reader.number(address + eprocess.ROOT)
    if kind is None or kind & TYPE_MASK != PROCESS or not root or root & ROOT == 0 or root >= 1 << 52:
        return False
    return has_waiters(reader, address)


def _name(sample: Sample) -> int | None:
    """Return the offset of the names; None if there is not exactly one."""
    found, at = [], sample.structures[0].find(b"System\0")
    while at >= 0:
        if _named(sample, at):
            found.append(at)
        at = sample.structures[0].find(b"System\0", at + 1)
    return found[0] if len(found) == 1 else None


def _named(sample: Sample, at: int) -> bool:
    """Return True if half of the processes have a plain-text name there."""
    good = 0
    for text in sample.texts(at):
        name = text.split(b"\0")[0]
        good += len(name) > 0 and all(byte in _PLAIN for byte in name)
    return good >= _HALF * len(sample)


def _only(sample: Sample, layout: Layout, member: str, places: Iterable[int]) -> int | None:
    """Return the offset at which a member is proven; None if there is none, or if two give different results."""
    taken = {at for at in layout if at is not None} | {layout.links, layout.links + 8, layout.name + 8}
    check = _CHECKS.get(member, _is_status)
    found = [at for at in places if at not in taken and check(sample, at, layout)]
    if not found:
        return None
    told = [sample.statuses(at) if member == "exit_status" else sample.column(at) for at in found]
    return found[0] if all(np.array_equal(told[0], other) for other in told[1:]) else None


# what members must be: True if a sample proves it, False if it refutes it, None if it says nothing


def _is_create(sample: Sample, at: int, _: Layout) -> bool | None:
    return _share(are_times(sample.column(at))) >= _MOSTLY


def _is_exit(sample: Sample, at: int, layout: Layout) -> bool | None:
    column = sample.column(at)
    ended = column != 0
    if _share(~ended | are_times(column)) < _NEARLY or _share(ended) > _HALF:
        return False
    if layout.create is not None and _share(~ended | (column >= sample.column(layout.create))) < _NEARLY:
        return False
    status = sample.status(layout) if layout.exit_status is None else layout.exit_status
    if status is not None:
        says = sample.statuses(status)[1:] != RUNNING
        if says.any() and _share(ended[says]) < _MOSTLY:
            return False
        if (~says).any() and _share(~ended[~says]) < _NEARLY:
            return False
        return True if says.any() else None
    # a process that has ended has no threads left, and its tables are gone; but neither is certain
    return True if ended.any() else None


def _is_status(sample: Sample, at: int, _: Layout) -> bool | None:
    running = sample.statuses(at) == RUNNING
    return bool(running[0]) and _share(running) > _HALF


def _is_parent(sample: Sample, at: int, _: Layout) -> bool | None:
    column, own = sample.column(at), sample.pids[1:]
    possible = (column < np.uint64(_NARROW)) & (column % np.uint64(4) == 0) & (column != own)
    if sample.words[0, at // 8] or _share(possible) < _NEARLY or _share(column != 0) < _MOSTLY:
        return False
    return True if _share(np.isin(column, sample.pids)) >= _SOME else None


def _is_section(sample: Sample, at: int, layout: Layout) -> bool | None:
    column = sample.column(at)
    if not _is_user(column):
        return False
    if layout.peb is None or not _is_user(sample.column(layout.peb)):
        return None
    return _same(sample, layout.peb, at)


def _is_peb(sample: Sample, at: int, layout: Layout) -> bool | None:
    if not _is_user(sample.column(at)):
        return False
    return None if layout.section is None else _same(sample, at, layout.section)


def _is_wow64(sample: Sample, at: int, layout: Layout) -> bool | None:
    column = sample.column(at)
    used = column != 0
    if _share(used) > _MOSTLY:
        return False
    leads = [(probe, value) for probe, value in zip(sample.probes[1:], column.tolist(), strict=True) if value]
    if not leads:
        return False if _narrow_programs(sample, layout) else None
    verdicts = [_narrow_peb(probe, value) for probe, value in leads[:_READ]]
    proven = [verdict for verdict in verdicts if verdict is not None]
    return sum(proven) >= _NEARLY * len(proven) if proven else None


_CHECKS: dict[str, Callable[[Sample, int, Layout], bool | None]] = {
    "create": _is_create,
    "parent": _is_parent,
    "exit": _is_exit,
    "section": _is_section,
    "peb": _is_peb,
    "wow64": _is_wow64,
}


def _share(column: Bools) -> float:
    return float(column.mean()) if len(column) else 0.0


def _is_user(column: U64) -> bool:
    """Return True if these can be page addresses in the user half, and half of them are not 0."""
    possible = (column < np.uint64(USER_END)) & (column % np.uint64(PAGE) == 0)
    return _share(possible) >= _NEARLY and _share(possible & (column != 0)) >= _SOME


def _same(sample: Sample, peb: int, section: int) -> bool | None:
    """Return True if PEBs name the image base; None if no PEB can be read."""
    read: list[bool] = []
    for probe, block, base in zip(
        sample.probes[1:], sample.column(peb).tolist(), sample.column(section).tolist(), strict=True
    ):
        if len(read) == _READ:
            break
        said = probe.user.number(block + PEB_IMAGE) if block and probe.user is not None else None
        if said is not None:
            read.append(said == base != 0)
    return sum(read) >= _MOSTLY * len(read) if read else None


def _narrow_peb(probe: Probe, value: int) -> bool | None:
    """Return True if the value there is a 32-bit PEB's address, or leads to a structure that begins with one.

    None if that PEB is not in memory.
    """
    if is_kernel(value):
        found = probe.kernel.number(value)
        value = 0 if found is None else found
    if not 0 < value < _NARROW or value % PAGE:
        return False
    image = None if probe.user is None else probe.user.number(value + PEB_IMAGE // 2, 4)
    return None if image is None else image % PAGE == 0


def _narrow_programs(sample: Sample, layout: Layout) -> bool:
    """Return True if a process runs a 32-bit program, according to the header of its image."""
    if layout.section is None:
        return False
    bases = zip(sample.probes[1:], sample.column(layout.section).tolist(), strict=True)
    low = [(probe, base) for probe, base in bases if 0 < base < _NARROW and base % PAGE == 0]
    for probe, base in low[:_READ]:
        header = None if probe.user is None else probe.user.read(base, PAGE)
        image = None if header is None else pe.image(header)
        if image is not None and not image.wiped and image.machine == pe.I386:
            return True
    return False


def _unused_wow64(sample: Sample, layout: Layout) -> int | None:
    """Return the offset of 32-bit PEBs, though there are none, from known kernels that are otherwise the same.

    No process may be a 32-bit one (their programs lie below 4 GiB), and the member must be 0 in all.
    """
    if layout.section is None:
        return None
    section = sample.column(layout.section)
    if not section.any() or (section[section != 0] < np.uint64(_NARROW)).any():
        return None
    places = {other.wow64 for other in eprocess.agreeing(layout) if other.wow64 is not None}
    return places.pop() if len(places) == 1 and not sample.words[:, max(places) // 8].any() else None


def _blocks(sample: Sample, layout: Layout) -> Layout:
    """Return a layout with the offsets of PEB and image base, if they are found together."""
    places = [at for at in range(_FIRST, STRUCTURE - 16, 8) if _is_user(sample.column(at))]
    pebs = places if layout.peb is None else [layout.peb]
    sections = places if layout.section is None else [layout.section]
    found = [(peb, section) for peb in pebs for section in sections if peb != section and _same(sample, peb, section)]
    if not found:
        return layout
    told = [(sample.column(peb).tolist(), sample.column(section).tolist()) for peb, section in found]
    if any(other != told[0] for other in told[1:]):
        return layout
    return _with(_with(layout, "peb", found[0][0]), "section", found[0][1])
