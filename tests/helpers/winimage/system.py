"""A whole machine: its processes over one kernel half."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from winimage import kernel
from winimage.compression import NUMBER, Store
from winimage.contents import PAGE
from winimage.edges import finish_self_table
from winimage.hostile import THREADS, lost
from winimage.left_ram import Left, LeftRam, file_pages, write_files
from winimage.paging_files import Written
from winimage.pfn import Database
from winimage.physical import LARGE, Physical
from winimage.plans import Plan
from winimage.pool import PROCESS, freed, thread
from winimage.processlist import cut_off, links
from winimage.tables import SELF_ENTRY, TABLE, Tables, selfmap
from winimage.threads import Threads
from winimage.truth import Pages, Process, Truth
from winimage.upper import EPOCH, SLOT_BITS, Options, Upper
from winimage.user import Library, User
from winimage.userland import SYSTEM_REGIONS, encoded
from winimage.vadtree import Tree

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from winimage.layouts import Layout
    from winimage.userland import Userland, Vad

#: the System process's number, and where its root is
SYSTEM = 4
_ROOT, _ROOT_BEFORE_10 = 0x1AD000, 0x187000
_RUNNING, _CRASHED = 0x103, 0xC0000005
#: the priority class: not zero, and right behind the name, which may have no NUL
_PRIORITY = 2
#: bytes of the members that are no number of eight
_SIZES = {"ImageFileName": 15, "ActiveProcessLinks": 16, "ThreadListHead": 16}
#: the process that compressed pages lie in
COMPRESSION = b"MemCompression"
#: in which field of which process a page ends
_CROSSINGS = (None, "ImageFileName", "UniqueProcessId", None, "ExitTime", "Peb")


class _Placed(NamedTuple):
    """A process whose structure has its place."""

    plan: Plan
    eprocess: int
    wow64: int | None
    vads: tuple[Vad, ...] = ()
    left: Left | None = None


class System:
    """Builds an image, step by step."""

    def __init__(self, physical: Physical, upper: Upper, blocks: int) -> None:
        self.physical, self.upper, self.pool = physical, upper, upper.pool
        self.layout, self.options = upper.layout, upper.options
        physical.reserve_large(blocks + (0 if self.options.small else kernel.SIZE // LARGE))
        self.library = Library.made(physical, 0x7FFA00000000 | int(physical.rng.integers(1 << 12)) << 20)
        self.holes: list[tuple[int, int]] = []
        #: the pages of page files, by number and place
        self.files: dict[int, dict[int, bytes]] = {}
        self.left: dict[int, Left] = {}
        paging = self.options.paging
        self.store = Store(self.layout.build, NUMBER if paging is None else paging.store)
        self.pfn: Database | None = None
        if self.options.pfn is not None:
            self.pfn = Database(physical, self.pool, self.layout, upper.slot, wrong=self.options.pfn == "wrong")
        self.paging = None if paging is None else Written(paging, self.pool, self.layout)

    def build(self, plans: Sequence[Plan]) -> tuple[Process, ...]:
        """Write everything."""
        self.masked = all(plan.left is None or plan.left.mask for plan in plans)
        placed = self._place(plans)
        owner = next((one.eprocess for one in placed if one.plan.name == COMPRESSION), None)
        if owner is not None and self.store.pages:
            self.store.write(self.pool, owner)
            self.upper.globals = self.store.globals
        self.kernel_entries = self.upper.map()
        self.kernel_pages = self.upper.tables.pages()
        processes = tuple(self._process(one) for one in placed)
        head = self.upper.base + kernel.HEAD
        entries = [(one.eprocess + self.layout["ActiveProcessLinks"], one.plan.listed) for one in placed]
        pointers = links(head, entries, self.options.damage, self.upper.base + kernel.TEXT + 0x4318)
        for entry, _ in entries:
            self.pool.put(entry, "QQ", *pointers[entry])
        for one in placed:
            for name in one.plan.wiped:
                size = _SIZES.get(name, 8)
                self.pool.put(one.eprocess + self.layout[name], f"{size}s", bytes(size))
        if self.paging is not None:
            self.paging.finish({number: file_pages(pages) for number, pages in self.files.items()})
            self.upper.data |= self.paging.data(self.upper.base)
        if self.pfn is not None:
            self.upper.data |= self.pfn.finish()
        self.upper.store(placed[0].eprocess, pointers[head])
        self.upper.store_stub(processes[0].root)
        if self.options.freed:
            # an old root: its entry for itself is all that is left
            stale = self.physical.take_one() << 12
            self._write_root(stale, {self.upper.slot: stale | SELF_ENTRY})
        return processes

    def _place(self, plans: Sequence[Plan]) -> list[_Placed]:
        """Give every process its structure, in the pool; some end in another page than they begin in."""
        layout, placed = self.layout, []
        for number, plan in enumerate([Plan(SYSTEM, b"System", 0, ()), *plans]):
            field = _CROSSINGS[number % len(_CROSSINGS)]
            if plan.unmapped:
                eprocess = self.pool.place_unmapped(layout["size"], b"Proc")
            else:
                eprocess = self.pool.place(layout["size"], b"Proc", None if field is None else layout[field] + 1)
            head = eprocess + layout["ThreadListHead"]
            self.pool.put(head, "QQ", head, head)
            vads: tuple[Vad, ...] = ()
            if not plan.exited:
                if plan.pid == SYSTEM and self.options.realistic:
                    vads = SYSTEM_REGIONS
                    Tree(self.pool, layout, eprocess + layout["VadRoot"], vads)
                if plan.userland is None:
                    thread(self.pool, layout, head, plan.pid)
                else:
                    vads = self._userland(plan, plan.userland, eprocess)
                self._handles(eprocess, plan.pid)
                self._audited(eprocess, plan)
            wow64 = self.pool.place(64, b"Wow6") if plan.wow64 and layout.wow64_structure else None
            placed.append(_Placed(plan, eprocess, wow64, vads, self.left.get(plan.pid)))
            if self.options.freed and number == 1:
                freed(self.pool, layout, 9996)
        return placed

    def _audited(self, eprocess: int, plan: Plan) -> None:
        """Write the path of a process's program as the kernel keeps it for audits: a UNICODE_STRING and its text."""
        name = plan.name.decode("latin-1")
        text = encoded("" if plan.pid == SYSTEM else f"\\Device\\HarddiskVolume2\\Windows\\System32\\{name}")
        at = self.pool.place(16 + len(text) + 2, b"SeOn", before=16)
        self.pool.put(at, "HH4xQ", len(text), len(text) + 2, at + 16 if text else 0)
        self.pool.put(at + 16, f"{len(text)}s", text)
        self.pool.put(eprocess + self.layout["SeAuditProcessCreationInfo"], "Q", at)

    def _handles(self, eprocess: int, pid: int) -> None:
        """Give a process its table of handles; those of System are charged to nobody."""
        # no object: it has the pool's header alone
        layout, table = self.layout, self.pool.place(128, b"Obtb", before=16)
        quota, number = (0x10, 0x28) if layout.version > (6, 1) else (0x08, 0x10)
        self.pool.put(table + quota, "Q", 0 if pid == SYSTEM else eprocess)
        self.pool.put(table + number, "I", pid)
        self.pool.put(eprocess + layout["ObjectTable"], "Q", table)

    def _userland(self, plan: Plan, userland: Userland, eprocess: int) -> tuple[Vad, ...]:
        """Write what the kernel knows of a process's memory; return the regions that it still leads to."""
        layout, pool = self.layout, self.pool
        if plan.left is not None:
            more = [part.vad for part in (*plan.left.views, *plan.left.private)]
            userland = userland._replace(vads=tuple(sorted([*userland.vads, *more])))
        threads = Threads(pool, layout, eprocess + layout["ThreadListHead"], plan.pid, userland.threads)
        if userland.damage in THREADS:
            THREADS[userland.damage][0](threads)
        first = pool.next_page() if plan.left is not None and plan.left.kernel else 0
        tree = Tree(pool, layout, eprocess + layout["VadRoot"], userland.vads, userland.lean)
        if plan.left is not None:
            self.left[plan.pid] = left = Left(plan.left, self.physical, self.files, self.store)
            left.place(pool, layout, tree)
            if plan.left.kernel:
                pool.next_page()
                left.leave(pool, first)
        gone = lost(tree, userland.damage)
        return tuple(vad for number, vad in enumerate(userland.vads) if number not in gone)

    def _process(self, one: _Placed) -> Process:
        """Write a process and its tables; exited ones have lost them, System has nothing in its user half."""
        plan, upper = one.plan, self.upper
        user, root, entries = None, self._root(plan), {}
        if not plan.exited:
            lower = Tables(self.physical)
            if plan.pid != SYSTEM:
                user = User(self.physical, plan, upper.shared_data, self.library, self.layout, one.left)
                lower = user.tables
                if one.left is not None:
                    one.left.map(lower)
                if plan.name == COMPRESSION:
                    self._regions(lower)
                self.holes += user.holes
            entries = {**lower.write(), **self.kernel_entries, upper.slot: root | SELF_ENTRY}
            if self.pfn is not None:
                self.pfn.note(lower, one.left)
            if user is not None:
                finish_self_table(user)
            self._write_root(root, entries)
        nothing = Pages.joined([])
        user_root = self._user_root(user) if self.options.kpti and user is not None else None
        create = EPOCH + (plan.pid + plan.later) * 10_000_019
        process = Process(
            pid=plan.pid,
            ppid=plan.ppid,
            name=plan.name,
            root=root,
            # the number of the address space, where the processor has those
            stored_root=root | (2 if self.options.kpti or plan.pid % 8 else 0),
            user_root=user_root,
            create=create,
            exit=create + 36_000_000_001 if plan.exited else 0,
            exit_status=_CRASHED if plan.exited else _RUNNING,
            image_base=0 if user is None else user.image_base,
            peb=0 if user is None else user.peb,
            peb32=None if user is None else user.peb32,
            eprocess=one.eprocess,
            physical=self.pool.physical(one.eprocess),
            straddles=one.eprocess // PAGE != (one.eprocess + self.layout["size"] - 1) // PAGE,
            listed=plan.listed,
            user=nothing if user is None else user.tables.pages(),
            kernel=nothing if plan.exited else self.kernel_pages,
            selfmap=nothing if plan.exited else self._selfmap(entries, user),
            shadow=nothing if user_root is None else upper.shadow.pages(),
            absent=(Tables(self.physical) if user is None else user.tables).counts(),
            claimed=self._loop(root, entries) if user is not None and user.loop else 0,
            userland=None if plan.exited else plan.userland,
            vads=one.vads,
        )
        self._write_process(process, one.wow64)
        return process

    def _regions(self, tables: Tables) -> None:
        """Map the regions of the store; now and then a page of one is in a page file itself."""
        way = LeftRam()
        for number, (address, data) in enumerate(self.store.memory.items()):
            if number % 7 == 3:
                file = self.files.setdefault(0, {})
                place = 0x200 + len(file)
                file[place] = data
                tables.put(0, address >> 12, way.entry(0, place) if self.masked else place << 32 | 4 << 5 | 1 << 2)
            else:
                frames = self.physical.take(1)
                self.physical.store(data, frames)
                tables.put(0, address >> 12, int(frames[0]) << 12 | 0x8000000000000867)

    def _root(self, plan: Plan) -> int:
        if plan.pid == SYSTEM:
            return _ROOT if self.layout.modern else _ROOT_BEFORE_10
        return self.physical.take_one() << 12

    def _selfmap(self, entries: dict[int, int], user: User | None) -> Pages:
        return selfmap(self.upper.slot, entries, [self.upper.tables, *([] if user is None else [user.tables])])

    def _write_root(self, root: int, entries: dict[int, int]) -> None:
        for index, entry in entries.items():
            self.physical.words[root >> 12, index] = entry

    def _user_root(self, user: User) -> int:
        root = self.physical.take_one() << 12
        self._write_root(root, {**user.tables.entries[3], **self.upper.shadow.entries[3]})
        return root

    def _loop(self, root: int, entries: dict[int, int]) -> int:
        """Let two tables that point to each other have every slot that is free; return how much they claim."""
        one, other = (int(frame) for frame in self.physical.take(2))
        self.physical.words[one] = other << 12 | TABLE
        self.physical.words[other] = one << 12 | TABLE
        slots = [slot for slot in range(512) if slot not in entries]
        self._write_root(root, dict.fromkeys(slots, one << 12 | TABLE))
        return len(slots) << SLOT_BITS

    def _write_process(self, process: Process, wow64: int | None) -> None:
        layout, pool, at = self.layout, self.pool, process.eprocess
        pool.header(at, PROCESS, layout["_KPROCESS.size"], int(process.exit != 0))
        # an empty list of profiles
        pool.put(at + 0x18, "QQ", at + 0x18, at + 0x18)
        for name, value in (
            ("_KPROCESS.DirectoryTableBase", process.stored_root),
            ("_KPROCESS.UserDirectoryTableBase", 0 if process.user_root is None else process.user_root | 1),
            ("UniqueProcessId", process.pid),
            ("InheritedFromUniqueProcessId", process.ppid),
            ("CreateTime", process.create),
            ("ExitTime", process.exit),
            ("Peb", process.peb),
            ("SectionBaseAddress", process.image_base),
        ):
            pool.put(at + layout[name], "Q", value)
        pool.put(at + layout["ImageFileName"], "15sB", process.name, _PRIORITY)
        threads = 1 if process.userland is None else len(process.userland.threads)
        pool.put(at + layout["ActiveThreads"], "I", threads if process.exit == 0 else 0)
        pool.put(at + layout.exit_status, "I", process.exit_status)
        if process.peb32 is not None:
            if wow64 is not None:
                pool.put(wow64, "Q", process.peb32)
            pool.put(at + layout.wow64, "Q", process.peb32 if wow64 is None else wow64)


def build_system(
    path: str | Path, layout: Layout, megabytes: int, seed: int, plans: Sequence[Plan], options: Options
) -> Truth:
    """Write an image; return what it holds."""
    physical = Physical(path, megabytes, seed)
    upper = Upper(physical, layout, options)
    system = System(physical, upper, sum(plan.blocks for plan in plans))
    processes = system.build(plans)
    return Truth(
        path=str(path),
        size=physical.size,
        seed=seed,
        layout=upper.layout,
        build=upper.layout.build,
        kernel_root=processes[0].root,
        kernel_base=upper.base,
        kernel_size=kernel.SIZE,
        list_head=upper.base + kernel.HEAD,
        selfmap_slot=upper.slot,
        stub=upper.stub,
        holes=tuple(system.holes),
        cut_off=cut_off([process.pid for process in processes if process.listed], options.damage),
        processes=processes,
        page_files=write_files(path, system.files),
        left=system.left,
    )
