"""Where the pages of a process of Windows are that its page tables do not lead to.

A page of a section is found by its prototype PTE, which all who map the section share: an entry of the page table has
its address, or the VAD does, also if the process's own page table was never made. If the process has a copy of its own,
its own entry says so, and the prototype does not count. Prototypes, like the entries of page tables, are in memory, in
transition, or name a place in a page file or in the mapped file.
"""

from __future__ import annotations

import functools
import threading
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from memcarve.errors import LimitError, SourceReadError, UsageError
from memcarve.images.nonresident import KINDS, Found, Gathered, not_physical, space_of
from memcarve.images.paging import default_limit, invalid_words, walk_invalid
from memcarve.images.structure_reader import LookedUp, Reader
from memcarve.images.windows import vads
from memcarve.images.windows.eprocess_scan import USER_END
from memcarve.images.windows.resolving import invalid_ptes as ptes
from memcarve.images.windows.resolving.compression_store import CompressionStore, find_store
from memcarve.images.windows.resolving.page_file_numbers import numbered_by_name
from memcarve.images.windows.resolving.paged_kernel import PagedKernel
from memcarve.images.windows.resolving.paged_tables import tables_below
from memcarve.images.windows.resolving.paging_files import find_paging_files
from memcarve.images.windows.resolving.pfn_database import pages_in_both
from memcarve.images.windows.resolving.prototype_arrays import arrays
from memcarve.images.x86_entries import X86Entries
from memcarve.intervals import PAGE, TOP, Intervals, chunks, smallest_owner, union
from memcarve.missing import (
    BEYOND_PAGE_FILE,
    COMPRESSED,
    DEMAND_ZERO,
    IN_FILE,
    NOT_PROVEN,
    OUTSIDE,
    PAGED_OUT,
    REASONS,
    UNKNOWN_PROTOTYPE,
    UNKNOWN_TABLE,
    MissingMemory,
)
from memcarve.permissions import COMPRESSED as DECOMPRESSED, DEMAND_ZERO as ZEROS, PAGEFILE, PROTOTYPE
from memcarve.space import AddressSpace

if TYPE_CHECKING:
    from memcarve.dtypes import U8, U64, Bools
    from memcarve.images.page_files import PageFiles
    from memcarve.images.paging import Invalid, Pages
    from memcarve.images.paging_modes import AddressTable
    from memcarve.images.windows.offsets import Tree
    from memcarve.images.windows.resolving.paging_files import PagingFile
    from memcarve.images.windows.windows_system import WindowsSystem
    from memcarve.process import ProcessEntry

_PAGES = 1 << 18  # pages looked at in one go
_BATCH = 1 << 12  # pages of prototypes read in one go: 16 MiB
_SAMPLE, _FEW = 32, 4  # processes whose entries prove how entries are read
_MOST_SAMPLED = 1 << 18  # entries of each
_PLENTY = 1 << 10  # entries of a few processes that are enough if they prove it
_LARGEST = 1 << 33  # bytes of tables' claims that are walked for that
_STORE_BUILD = 10240  # from here on memory is compressed
_FEWEST_VIEWED = 4 << 30  # bytes of views whose prototypes are followed in any image: more, if memory is larger
_PAGES_OF_PIECE = 1 << 4  # of views, at least, on average for each piece of an array: 512 fit a page of it
_EIGHT, _TWELVE = np.uint64(3), np.uint64(12)
_LOW = np.uint64(PAGE - 1)
_ZERO = REASONS.index(DEMAND_ZERO)


class Stored(NamedTuple):
    """Where pages lie that were paged out, in columns: `offset` in the backing (uint64), and `flags` (uint8).

    The flags are 0 of those that are nowhere; these have a `reason`, an index into REASONS (uint8).
    """

    offset: U64
    flags: U8
    reason: U8


class WindowsResolver:
    """Finds pages of processes of one machine; `files` are the page files that were given."""

    def __init__(self, windows: WindowsSystem, files: PageFiles) -> None:
        self.windows = windows
        self.files = files
        self.memory = windows.memory
        self.kernel = windows.kernel.space
        self.possible = X86Entries(windows.kernel.table, windows.memory).possible
        self.paged_kernel = PagedKernel(self)
        #: what is learned is kept for other processes: threads take turns
        self.lock = threading.RLock()
        self.no_store = self.contradicted = ""
        self._owner_is_read = False
        self._sample = np.zeros(0, np.uint64)
        #: those of the process that was asked for last
        self._views: tuple[int, tuple[Reader, Tree, list[vads.Node]]] | None = None
        if files.files:
            known, why = self.paging_files
            if known:
                files.files = numbered_by_name(files.files, known)
            else:
                files.remarks.append(f"Windows' own list of its page files is not known ({why}): order gives numbers")
                if any(each.number > 1 for each in files.files):
                    _ = self.store  # whose number one of them may have
            self._check_files()

    def _check_files(self) -> None:
        """Look at what page files have where entries of the machine lead, and where memory has the same.

        Raises InputError if one is cleared, encrypted or of another moment.
        """
        layout = self.layout[0]
        if layout is not None:
            self.files.check(*self._sampled(layout))
        both, why = pages_in_both(self)
        if both is None:
            self.files.uncompared = f"the PFN database is not known ({why})"
        elif layout is not None:
            # whether the mask is in what the database keeps is not known: what agrees with the files does
            written = layout.written(both.original, self.windows.kernel.version)
            original, physical = both.original[written], both.physical[written] & ~_LOW
            readings = [layout.place(original), layout._replace(mask=0).place(original)]
            self.files.compare(readings, lambda rows: self.memory.pages(physical[rows]))

    @functools.cached_property
    def paging_files(self) -> tuple[tuple[PagingFile, ...], str]:
        """The page files that Windows had, by its own list, none if that is not known; and why not, in words."""
        return find_paging_files(self)

    @property
    def numbers_of_stores(self) -> frozenset[int] | None:
        """The numbers of page files that are none, but stores of compressed pages; None if they are not known."""
        known = self.paging_files[0]
        return frozenset(each.number for each in known if each.store) if known else None

    @functools.cached_property
    def layout(self) -> tuple[ptes.PteLayout | None, str]:
        """How entries are read that name a place in a page file, None if that is not proven; and why not."""
        words = [np.zeros(0, np.uint64)]
        # each process's tables cost if the memory comes from afar: then as few are read as it takes, and no more than
        # a few as long as nothing is read by what they prove
        frugal = not self.memory.searchable
        most = _FEW if frugal and not self.files.files and self.files.zeros is None else _SAMPLE
        for entry in [one for one in self.windows.listed() if not one.ended and one.has_memory][:most]:
            table = self.windows.table_of(entry)
            try:
                found_words = invalid_words(self.memory, table, 0, table.kernel_half, _LARGEST)
            except LimitError:
                continue
            words.append(ptes.sample(found_words, _MOST_SAMPLED))
            self._sample = np.concatenate(words)
            if frugal or (len(words) > _FEW and len(self._sample) > _PLENTY):
                found = ptes.proven(self.windows.kernel.version.build, self._sample, self.possible)
                if found[0] is not None:
                    return found
        return ptes.proven(self.windows.kernel.version.build, self._sample, self.possible)

    def _sampled(self, layout: ptes.PteLayout) -> tuple[U8, U64]:
        """Return the numbers of page files (uint8) and pages in them (uint64) that entries of the sample name."""
        return layout.place(self._sample[ptes.kinds(self._sample, self.possible) == ptes.PAGED])

    def walk(
        self, entry: ProcessEntry, table: AddressTable, start: int, end: int, limit: int | None
    ) -> tuple[Pages, Found]:
        """Return what page tables map of ``start <= x < end``, and what else can be found there. Raises LimitError."""
        with self.lock:
            self.paged_kernel.begin()
            return self._walk(entry, table, start, end, limit)

    def _walk(
        self, entry: ProcessEntry, table: AddressTable, start: int, end: int, limit: int | None
    ) -> tuple[Pages, Found]:
        pages, invalid = walk_invalid(self.memory, table, start, end, limit)
        try:
            return pages, self._beside(entry, table, (start, end), pages, invalid, limit)
        except LimitError as error:  # of the kernel's page tables
            remedy = f"{error.remedy}; {{pages_from:ram}} needs less of them"
            raise LimitError(error.problem, error.claimed, subject=error.subject, remedy=remedy) from error

    def _beside(
        self,
        entry: ProcessEntry,
        table: AddressTable,
        span: tuple[int, int],
        pages: Pages,
        invalid: Invalid,
        limit: int | None,
    ) -> Found:
        """Return what is found of ``start <= x < end`` beside `pages`. Raises LimitError."""
        start, end = span
        # a few pages of prototypes can be mapped often, so that views of any size are full of pages
        viewed = (max(_FEWEST_VIEWED, 4 * self.memory.total) if limit is None else limit) // PAGE
        if not len(invalid.paged.word) or entry.ended or invalid.cut:
            return _Resolving(self).run(entry, pages, invalid, viewed, (start, min(end, TOP)))
        most = (default_limit(self.memory) if limit is None else limit) // PAGE
        below = tables_below(self, invalid, table.mode.levels, (start, end), most)
        found = _Resolving(self).run(entry, pages, below.invalid, viewed, (start, min(end, TOP)))
        found.notes.extend(below.notes)
        found.counts["paged_tables"] = pages.counts["paged_tables"] + below.change
        return found

    def originals(self, entry: ProcessEntry, pages: U64) -> AddressSpace | None:
        """Return what sections have of some pages (addresses, uint64) of a process's images, as far as that is found.

        None if its VADs are not known.
        """
        with self.lock:
            self.paged_kernel.begin()
            known = self.views(entry)
            if known is None or not len(pages):
                return None
            reader, tree, nodes = known
            images = [node for node in nodes if node.kind == vads.IMAGE_MAP]
            found = arrays(reader, tree, images, int(pages.min()), int(pages.max()) + 1)
            views = smallest_owner(found.views.start, found.views.size)
            row = views.rows_of(pages)
            pages, view = pages[row >= 0], views.owner[row[row >= 0]]
            resolving = _Resolving(self)
            away = (pages - found.views.start[view]) >> _TWELVE
            resolving.prototypes(pages, found.entries[view] + (away << _EIGHT))
            placed = resolving.gathered.found((), ()).placed
        return AddressSpace(
            placed.start, placed.size, placed.offset, self.files.backing, flags=placed.flags, absent="not in memory"
        )

    def views(self, entry: ProcessEntry) -> tuple[Reader, Tree, list[vads.Node]] | None:
        """Return the VADs of a process, and what reads them; None if they are not known."""
        tree = self.windows.vad_tree
        if tree is None or entry.object is None or entry.ended:
            return None
        if self._views is None or self._views[0] != entry.object:
            reader = Reader(self.paged_kernel)
            self._views = entry.object, (reader, tree, vads.walk(reader, tree, entry.object).nodes)
        return self._views[1]

    def user_half(self, entry: ProcessEntry, table: AddressTable) -> ResolvedMemory:
        """Return a process's memory, walked only where it is read."""
        return ResolvedMemory(self, entry, table)

    def pages_at(self, addresses: U64) -> tuple[U64, Bools]:
        """Return pages of the kernel at addresses (uint64): shape (n, 512); and which are in memory (bool)."""
        return self.kernel.pages_at(addresses)

    def _pages_at(self, pages: U64, *, paged: bool) -> tuple[U64, Bools]:
        """Return what `pages_at` does; with `paged`, also pages that left memory and are found."""
        data, there = self.pages_at(pages)
        if paged and not there.all():
            away = np.flatnonzero(~there)
            offset, found = self.paged_kernel.places(pages[away])
            data[away[found]], there[away[found]] = self.contents(offset[found])
        return data, there

    def entries_at(self, addresses: U64, *, paged: bool = False) -> tuple[U64, Bools]:
        """Return the entries of 8 bytes at addresses of the kernel (uint64), and which are in memory (bool).

        The addresses are multiples of 8, in any order. With `paged`, also those count that left memory and are found.
        """
        page = addresses & ~_LOW
        if not len(page):
            return np.zeros(0, np.uint64), np.zeros(0, np.bool_)
        first = np.flatnonzero(np.append(True, page[1:] != page[:-1]))  # entries of an array follow each other
        pages, inverse = np.unique(page[first], return_inverse=True)
        inverse = np.repeat(inverse, np.diff(np.append(first, len(page))))
        entry = ((addresses & _LOW) >> _EIGHT).astype(np.int64)
        if len(pages) <= _BATCH:
            data, there = self._pages_at(pages, paged=paged)
            return data[inverse, entry], there[inverse]
        words, held = np.zeros(len(addresses), np.uint64), np.zeros(len(addresses), np.bool_)
        order = np.argsort(inverse, kind="stable")
        bounds = np.searchsorted(inverse[order], np.arange(len(pages) + 1))
        for part in chunks(len(pages), _BATCH):
            data, there = self._pages_at(pages[part], paged=paged)
            mine = order[bounds[part.start] : bounds[part.stop]]
            row = inverse[mine] - part.start
            words[mine] = data[row, entry[mine]]
            held[mine] = there[row]
        return words, held

    def stored(self, words: U64) -> Stored:
        """Return where the pages are that software entries (uint64) name."""
        count = len(words)
        offset, flags = np.zeros(count, np.uint64), np.zeros(count, np.uint8)
        layout = self.layout[0]
        if layout is None:
            zero = words >> np.uint64(32) == 0
            return Stored(offset, flags, np.where(zero, _ZERO, REASONS.index(NOT_PROVEN)).astype(np.uint8))
        numbers, pages = layout.place(words)
        zero = pages == 0
        place, given, held = self.files.place(numbers, pages)
        held &= ~zero
        self.files.check(numbers[held], pages[held])
        offset[held], flags[held] = place[held], PAGEFILE
        rest = ~given & ~zero
        if (~zero & (~given | (numbers > 1))).any():
            self._compressed(numbers, pages, rest, offset, flags)
        in_store = self.may_be_stored(numbers) if rest.any() else rest
        reason = np.where(in_store, REASONS.index(COMPRESSED), REASONS.index(PAGED_OUT))
        reason[given] = REASONS.index(BEYOND_PAGE_FILE)
        reason[zero] = _ZERO
        return Stored(offset, flags, reason.astype(np.uint8))

    def _compressed(self, numbers: U8, pages: U64, chosen: Bools, offset: U64, flags: U8) -> None:
        """Write `offset` and `flags` of those of some chosen pages that the compression store has."""
        store, area = self.store, self.files.area
        if store is None or area is None:
            return
        keys, mine = store.keys(numbers, pages)
        rows = np.flatnonzero(mine & chosen)
        rows = rows[store.sound(keys[rows])]
        offset[rows] = np.uint64(area.begin) + (keys[rows] << _TWELVE)
        flags[rows] = DECOMPRESSED

    def contents(self, offset: U64) -> tuple[U64, Bools]:
        """Return pages at offsets of the backing (uint64): words, shape (n, 512); and which can be read (bool)."""
        words, there = np.zeros((len(offset), PAGE // 8), np.uint64), np.ones(len(offset), np.bool_)
        for row in np.argsort(offset, kind="stable").tolist():  # as they lie in the files
            try:
                self.files.backing.read_into(int(offset[row]), memoryview(words[row]).cast("B"))
            except SourceReadError:
                there[row] = False
        return words, there

    @functools.cached_property
    def store(self) -> CompressionStore | None:
        """What holds compressed pages; None if there is none that can be read."""
        if self._owner_is_read:
            return None
        found, self.no_store = find_store(self)
        if found is not None:
            layout = self.layout[0]
            if layout is not None:
                found.learn_number(*self._sampled(layout))
            if self.numbers_of_stores is not None:
                self.contradicted = self.no_store = found.agree_on(self.numbers_of_stores)
            if self.files.area is not None:
                self.files.area.source = found.pages
            if not found.numbers and not self.no_store:
                self.no_store = "by which number entries go for them is not known"
            clash = found.numbers & {each.number for each in self.files.files}
            if clash:
                number = min(clash)
                raise UsageError(
                    f"page file {number} is none: compressed pages go by this number",
                    remedy="give each file its own number with {page_files}, as 1=FILE",
                )
        return found

    def may_be_stored(self, numbers: U8) -> Bools:
        """Return which numbers (uint8) may be that of compressed pages (bool): by Windows' list, else by usage."""
        known, build = self.numbers_of_stores, self.windows.kernel.version.build or 0
        return (numbers > 1) & (build >= _STORE_BUILD) if known is None else np.isin(numbers, [*known])

    def space_of_owner(self, entry: ProcessEntry) -> AddressSpace:
        """Return the user half of the process that compressed pages lie in, which may be in page files themselves.

        Raises LimitError.
        """
        self._owner_is_read = True  # it is not looked for in itself
        try:
            table = self.windows.table_of(entry)
            pages, found = self.walk(entry, table, 0, table.kernel_half, None)
        finally:
            self._owner_is_read = False
            self.paged_kernel.forget()
        return space_of(pages, self.files.backing, MissingMemory.of([]), found)


class ResolvedMemory(LookedUp):
    """A process's memory with what page tables do not lead to, walked only where it is read."""

    def __init__(self, resolver: WindowsResolver, entry: ProcessEntry, table: AddressTable) -> None:
        super().__init__(resolver.memory, table)
        self.resolver = resolver
        self.entry = entry

    def walked(self, start: int, end: int) -> AddressSpace:
        """Return what is found of ``start <= x < end``."""
        pages, found = self.resolver.walk(self.entry, self.table, start, end, None)
        return space_of(pages, self.resolver.files.backing, MissingMemory.of([]), found)


class _Resolving:
    """Resolves what is not where the page tables of one process point."""

    pages: Pages
    invalid: Invalid
    most: int

    def __init__(self, resolver: WindowsResolver) -> None:
        self.resolver = resolver
        self.gathered = Gathered()
        self.unproven: str | None = None
        self.left_compressed: str | None = None

    def run(self, entry: ProcessEntry, pages: Pages, invalid: Invalid, most: int, span: tuple[int, int]) -> Found:
        """Return what was found and what was not of ``start <= x < end``, beside `pages`, with `most` prototypes."""
        self.pages, self.invalid, self.most = pages, invalid, most
        gathered, (start, end) = self.gathered, span
        if entry.ended or invalid.cut:
            if invalid.cut:
                gathered.notes.append(
                    "the page tables hold more entries that are not present than {limit} has pages: none were followed"
                )
            return gathered.found((), KINDS)
        kinds = ptes.kinds(invalid.word, self.resolver.possible)
        own = np.isin(kinds, (ptes.PAGED, ptes.DEMAND_ZERO))
        self._software(invalid.address[own], invalid.word[own], 0)
        gathered.lose(invalid.address[kinds == ptes.IN_FILE], IN_FILE)
        by_address = kinds == ptes.BY_ADDRESS
        pointers = ptes.addresses(invalid.word[by_address])
        self.prototypes(invalid.address[by_address], pointers)
        by_vad = invalid.address[kinds == ptes.BY_VAD]
        self._by_vads(entry, start, end, kinds != ptes.BY_VAD, by_vad)
        gathered.lose(invalid.unknown.start, UNKNOWN_TABLE, invalid.unknown.size)
        if self.unproven is not None:
            gathered.notes.append(f"pages that were paged out are left out: {self.unproven}")
        if self.left_compressed is not None:
            gathered.notes.append(f"compressed pages are left out: {self.left_compressed}")
        # a page file that was given should hold what is paged out, whatever its number is
        due = (BEYOND_PAGE_FILE, NOT_PROVEN) if self.resolver.files.files else (BEYOND_PAGE_FILE,)
        return gathered.found(due, KINDS)

    def _by_vads(self, entry: ProcessEntry, start: int, end: int, told: Bools, marked: U64) -> None:
        """Look for the prototypes of what a process's VADs map and its own entries (those `told`) say nothing of.

        `marked` are pages (uint64) whose entries say that the VAD counts.
        """
        known = self.resolver.views(entry) if start < USER_END else None
        if known is None:
            self.gathered.lose(marked, UNKNOWN_PROTOTYPE)
            return
        found = arrays(*known, start, end)
        if found.wrong:
            self.gathered.notes.append(
                f"the prototypes of {found.wrong} views were not looked for: their structures contradict each other"
            )
        # of views that claim the same address the first one counts: as often as it is claimed it would be looked up
        views = smallest_owner(found.views.start, found.views.size, np.arange(len(found.views)))
        low, high = start & -PAGE, -(-end // PAGE) * PAGE
        limits = Intervals.of([(low, min(high, USER_END) - low)])
        bare = views.intersect(limits)[0].subtract(self._covered(told))
        # where the entries of these stretches are; of views that are mostly not in memory their entries are not either
        away = (bare.start - found.views.start[bare.owner]) >> _TWELVE
        tables = Intervals(found.entries[bare.owner] + (away << _EIGHT), bare.size >> (_TWELVE - _EIGHT))
        mapped = self.resolver.kernel.mapped(tables)[0]
        there = Intervals(mapped.start, mapped.size)
        bare, tables = self._few_pieces(bare, tables, there)
        gone = tables.subtract(there)
        if len(gone) and len(paged := self.resolver.paged_kernel.held(gone)):
            there = union(there, paged)
            bare, tables = self._few_pieces(bare, tables, there)
            gone = tables.subtract(there)
        held = tables.intersect(there)[0]
        first = ((gone.start - tables.start[gone.owner]) >> _EIGHT) << _TWELVE
        self.gathered.lose(bare.start[gone.owner] + first, UNKNOWN_PROTOTYPE, gone.size << (_TWELVE - _EIGHT))
        self._follow(held, tables, bare)
        self.gathered.lose(marked[union(views).rows_of(marked) < 0], UNKNOWN_PROTOTYPE)

    def _covered(self, told: Bools) -> Intervals:
        """Return what the process's own page tables say something of, or could say if they were known."""
        placed, outside = self.pages.placed, self.pages.outside
        own = self.invalid.address[told]
        return union(
            Intervals(placed.start, placed.size),
            Intervals(outside.start, outside.size),
            Intervals(own, np.full(len(own), PAGE, np.uint64)),
            self.invalid.unknown,
        )

    def _follow(self, held: Intervals, tables: Intervals, bare: Intervals) -> None:
        """Resolve pages by the prototypes in stretches `held`, as many as are allowed.

        The owner of each is its row among `tables`, arrays that have the entries of pages in the same row of `bare`.
        """
        count = (held.size >> _EIGHT).astype(np.int64)
        if int(count.sum()) > self.most:
            self._too_many()
            count = np.where(np.cumsum(count) <= self.most, count, 0)
        self.most -= int(count.sum())
        ends = np.cumsum(count)
        for part in chunks(int(ends[-1]) if len(ends) else 0, _PAGES):
            number = np.arange(part.start, part.stop)
            row = np.searchsorted(ends, number, "right")
            step = (number - (ends[row] - count[row])).astype(np.uint64)
            entry_at = held.start[row] + (step << _EIGHT)
            owner = held.owner[row]
            address = bare.start[owner] + (((entry_at - tables.start[owner]) >> _EIGHT) << _TWELVE)
            self.prototypes(address, entry_at)

    def _few_pieces(self, bare: Intervals, tables: Intervals, there: Intervals) -> tuple[Intervals, Intervals]:
        """Return those stretches of views and their arrays that are in not too many pieces of what is `there`.

        Views may share arrays, and each page of an array may be a piece: as forged, every view has all of them.
        """
        first, end = there.touched(tables)
        keep = np.cumsum(end - first + 1) <= self.most // _PAGES_OF_PIECE
        if not keep.all():
            self._too_many()
        bare, tables = bare.where(keep), tables.where(keep)
        return bare, Intervals(tables.start, tables.size, np.arange(len(tables)))

    def _too_many(self) -> None:
        note = "views of the process have more prototypes than {limit} has pages: not all were followed"
        if note not in self.gathered.notes:
            self.gathered.notes.append(note)

    def prototypes(self, address: U64, entry_at: U64) -> None:
        """Resolve pages (uint64) by the prototypes at addresses of the kernel; an address of 0 is none."""
        if not len(address):
            return
        gathered, possible = self.gathered, self.resolver.possible
        words, there = self.resolver.entries_at(entry_at, paged=True)
        there &= entry_at != 0
        gathered.lose(address[~there], UNKNOWN_PROTOTYPE)
        address, words = address[there], words[there]
        kinds = ptes.kinds(words, possible)
        inside = np.isin(kinds, (ptes.IN_MEMORY, ptes.MOVED))
        physical = ptes.frames(words[inside], kinds[inside] == ptes.MOVED, possible)
        size = np.full(len(physical), PAGE, np.uint64)
        flags = np.full(len(physical), PROTOTYPE, np.uint8)
        placed, outside = self.resolver.memory.place(address[inside], size, physical, flags)
        gathered.place(placed.start, placed.physical, placed.offset, PROTOTYPE, placed.size)
        gathered.lose(outside.start, OUTSIDE, outside.size)
        # in an array, an entry that is a prototype itself leads to a subsection: the page is in its file
        in_file = np.isin(kinds, (ptes.IN_FILE, ptes.BY_ADDRESS, ptes.BY_VAD))
        gathered.lose(address[in_file], IN_FILE)
        software = np.isin(kinds, (ptes.PAGED, ptes.DEMAND_ZERO))
        self._software(address[software], words[software], PROTOTYPE)

    def _software(self, address: U64, words: U64, flags: int) -> None:
        """Resolve pages (uint64) by entries that name a place in a page file, or nothing but a protection."""
        if not len(address):
            return
        gathered, found = self.gathered, self.resolver.stored(words)
        self._zeros(address[found.reason == _ZERO], flags)
        held = found.flags != 0
        offset = found.offset[held]
        gathered.place(address[held], not_physical(offset), offset, found.flags[held] | np.uint8(flags))
        for reason in (NOT_PROVEN, BEYOND_PAGE_FILE, COMPRESSED, PAGED_OUT):
            gathered.lose(address[~held & (found.reason == REASONS.index(reason))], reason)
        if (found.reason == REASONS.index(NOT_PROVEN)).any():
            self.unproven = self.resolver.layout[1]
        compressed = (found.reason == REASONS.index(COMPRESSED)).any()
        if (compressed and self.resolver.no_store) or self.resolver.contradicted:
            self.left_compressed = self.resolver.no_store

    def _zeros(self, address: U64, flags: int) -> None:
        """Note pages of zeros that nobody wrote."""
        zeros = self.resolver.files.zeros
        if zeros is None:
            self.gathered.lose(address, DEMAND_ZERO)
        else:
            # each page of zeros has an offset of its own, that of its address: neighbours are joined
            offset = np.uint64(zeros) + (address & np.uint64(0xFFFFFFFFFFFF))
            self.gathered.place(address, not_physical(offset), offset, flags | ZEROS)
