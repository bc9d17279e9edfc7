"""What all processes of an image have of the same files: where the bytes of one process's code differ from others'.

Pages whose bytes lie at the same place of the image are the same; only the others are read. What is found out about a
page is kept for the next process that has it.
"""

from __future__ import annotations

import functools
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from memcarve.errors import AddressError, SourceReadError
from memcarve.formats.programs import pe
from memcarve.formats.programs.pe_relocation import Relocations, differ_by_bases, unrelocated
from memcarve.intervals import PAGE, TOP, distinct
from memcarve.labels.original_pages import TOLERATED, UNRELOCATED, OriginalPages
from memcarve.labels.text_pages import can_be_compared, is_relocated, key_of, mapped_files_of
from memcarve.process import Others
from memcarve.vocabulary import Half

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from memcarve.backing import Backing
    from memcarve.dtypes import Bools
    from memcarve.labels.text_pages import Key, MappedFiles, Text
    from memcarve.metadata import Region
    from memcarve.process import Container, ProcessMemory
    from memcarve.space import AddressSpace

_MOST_IN_ALL = 1 << 23  # pages of all processes' code
_MOST_COMPARED = 1 << 12  # pages of one process that are compared,
_MOST_READ = 1 << 16  # and frames that are read of all processes' code
_MOST_REBASED = 1 << 12  # comparisons of pages whose relocations are not known: each takes milliseconds
_MOST_RELOCATIONS = 1 << 25  # bytes of relocation directories that are read in all
_LEAST_READ, _LEAST_REBASED, _LEAST_RELOCATIONS = (
    1 << 9,
    1 << 6,
    1 << 18,
)  # of each process in any case: others cannot use up what is its
_KEPT = 1 << 10  # pages, whose bytes are kept for a while
_MOST_HEADERS = 1 << 8  # pages with headers of one file that are looked at
_MOST_KINDS = 4  # of one page, that are compared with each other if bases differ
_IMPORTS = 12  # the data directory of imported addresses, which may lie among code


class Difference(NamedTuple):
    """A page of code at `address` that differs: of which `file`, and at which `place` in it (bytes).

    `own` processes have these bytes there, this one among them; `others` have the same other bytes. `rebased` says how
    images at different addresses were compared; empty if all are at the same. If `changed` is not 0, that many bytes of
    the page are not those of the page that all share, the first at the address `first`, and nobody was counted.
    """

    address: int
    file: str
    place: int
    own: int
    others: int
    rebased: str = ""
    changed: int = 0
    first: int = 0


class _File:
    """The pages of one file's code that processes have, in columns, one row per page and place in the backing.

    In order of `page` and `offset` (uint64); `base` is where one of the `count` processes has the file. A process that
    has it at several addresses counts with the first alone, however often it maps a file.
    """

    def __init__(self, of_each: Sequence[Sequence[Text]]) -> None:
        texts = [text for several in of_each for text in several]
        sizes = [len(text.page) for text in texts]
        page = np.concatenate([text.page for text in texts])
        offset = np.concatenate([text.offset for text in texts])
        base = np.repeat(np.array([text.base % TOP for text in texts], np.uint64), sizes)
        counts = np.repeat([text is several[0] for several in of_each for text in several], sizes).astype(np.int64)
        order = np.lexsort((1 - counts, offset, page))
        page, offset = page[order], offset[order]
        first = np.flatnonzero(np.append(True, (page[1:] != page[:-1]) | (offset[1:] != offset[:-1])))
        self.page, self.offset, self.base = page[first], offset[first], base[order][first]
        self.count = np.add.reduceat(counts[order], first)

    def contested(self, text: Text) -> list[int]:
        """Return the rows of a process's pages that not all have at the same place of the backing."""
        low, high = (np.searchsorted(self.page, text.page, side) for side in ("left", "right"))
        known = np.minimum(low, len(self.page) - 1)
        return np.flatnonzero((high > low) & ((high - low > 1) | (self.offset[known] != text.offset))).tolist()

    def unshared(self, text: Text) -> Bools:
        """Return which of a process's pages nobody is known to share (bool)."""
        low, high = (np.searchsorted(self.page, text.page, side) for side in ("left", "right"))
        known = np.minimum(low, len(self.page) - 1)
        alone = (high - low != 1) | (self.offset[known] != text.offset) | (self.count[known] < 2)  # noqa: PLR2004
        return np.asarray(alone, np.bool_)

    def rows(self, page: int) -> range:
        """Return the rows of a page."""
        low, high = (int(np.searchsorted(self.page, np.uint64(page), side)) for side in ("left", "right"))
        return range(low, high)


class _Judged(NamedTuple):
    """Which kind of content is where, by offset in the backing; how many processes have each kind; how it was told."""

    kinds: dict[int, int]
    counts: Counter[int]
    rebased: str


class SameFiles:
    """All processes of an image whose bytes lie in one backing, and what they have of files."""

    def __init__(self, backing: Backing, files: Iterable[tuple[int, MappedFiles]]) -> None:
        """Take what processes said of themselves, each with its place in the list."""
        self.backing = backing
        self.places: set[int] = set()
        texts: dict[Key, list[Sequence[Text]]] = {}
        self._headers: dict[Key, Counter[tuple[int, int]]] = {}
        for place, each in files:
            self.places.add(place)
            for key, several in each.texts.items():
                texts.setdefault(key, []).append(several)
            for key, where in each.headers.items():
                self._headers.setdefault(key, Counter())[where] += 1
        self._files = {key: _File(rows) for key, rows in texts.items()}
        self._left, self._rebased = _MOST_READ, _MOST_REBASED
        self._spare, self._spare_rebased = _LEAST_READ, _LEAST_REBASED
        self._relocations: dict[Key, Relocations] = {}
        self._relocations_left = _MOST_RELOCATIONS
        #: the files whose relocations the process at hand was asked for
        self._asked: set[Key] = set()
        self._imported: dict[Key, tuple[int, int]] = {}
        self._facts: dict[int, dict[str, object]] = {}
        self._judged: dict[tuple[Key, int], _Judged] = {}
        self._page = functools.lru_cache(maxsize=_KEPT)(self._read_page)

    def differing(self, process: ProcessMemory, place: int | None) -> tuple[list[Difference], int]:
        """Return the pages of a process's code that differ from what as many or more other processes have there.

        `place` is that of the process in the list. At most 4,096 pages are compared, of the files with fewest first;
        how many more may differ is returned, too. What cannot be read is left out, as is a process that could not be
        opened.
        """
        regions = process.metadata.regions[0].rows if process.metadata.regions else ()
        names = {key_of(row): row.file or "" for row in regions}
        files = mapped_files_of(process)
        contested = [
            (self._files[key].contested(text), key, text, several[0])
            for key, several in files.texts.items()
            if key in self._files
            for text in several
        ]
        found: list[Difference] = []
        self._spare, self._spare_rebased = _LEAST_READ, _LEAST_REBASED
        self._asked.clear()
        proven, uncompared = self._proven(process, files, names)
        found += [each for each in proven.values() if each is not None]
        left, uncompared = _MOST_COMPARED, uncompared + files.left_out
        for rows, key, text, first in sorted(contested, key=lambda each: len(each[0])):
            uncompared += len(rows[left:])
            for row in rows[:left]:
                page, offset = int(text.page[row]), int(text.offset[row])
                if text.address(row) in proven:
                    continue
                judged = self._judgement(key, page, offset, text.base, process.space)
                if judged is None:
                    uncompared += 1
                if judged is None or offset not in judged.kinds:
                    continue
                kind, votes = judged.kinds[offset], judged.counts.copy()
                counted = first.at(page) if place in self.places else None
                if counted is not None and counted in judged.kinds:
                    votes[judged.kinds[counted]] -= 1
                own = votes[kind] + 1
                most = max((count for other, count in votes.items() if other != kind), default=0)
                if most and most >= own:
                    found.append(Difference(text.address(row), names[key], page * PAGE, own, most, judged.rebased))
            left -= len(rows[:left])
        return sorted(found), uncompared

    def _proven(
        self, process: ProcessMemory, files: MappedFiles, names: Mapping[Key | None, str]
    ) -> tuple[dict[int, Difference | None], int]:
        """Hold code that nobody is known to share against the pages that all share; by address, None if it is the same.

        What is not known of these is not among them. At most 4,096 pages are compared; how many more there are is
        returned, too.
        """
        texts = [
            (key, text, text.page[self._files[key].unshared(text)] if key in self._files else text.page)
            for key, several in files.texts.items()
            if is_relocated(key)
            for text in several
        ]
        asked = [np.uint64(text.base) + pages * np.uint64(PAGE) for _, text, pages in texts]
        found: dict[int, Difference | None] = {}
        if process.originals is None or not any(map(len, asked)):
            return found, 0
        bases = np.array([text.base for _, text, _ in texts], np.uint64)
        shared = process.originals(distinct(np.concatenate([bases, *asked])))
        if shared is None:
            return found, 0
        originals, left, uncompared = OriginalPages(shared, process.space), _MOST_COMPARED, 0
        for (key, text, pages), addresses in zip(texts, asked, strict=True):
            row, place = originals.places(addresses)
            own = text.offset[np.searchsorted(text.page, pages)]
            found.update(dict.fromkeys(addresses[(row >= 0) & (place == own)].tolist()))
            differ = np.flatnonzero((row >= 0) & (place != own)).tolist()
            uncompared += len(differ[left:])
            for number in differ[:left]:
                page, address = int(pages[number]), int(addresses[number])
                relocated = functools.partial(self._relocated, key, page, text.base, process.space)
                known, change = originals.change(text.base, page, relocated)
                if known:
                    found[address] = change and Difference(
                        address, names[key], page * PAGE, 1, 0, change.rebased, change.size, address + change.first
                    )
            left -= len(differ[:left])
        return found, uncompared

    def compared(self, region: Region, page: bytes) -> tuple[int, int, str]:
        """Return how many processes have the same header of a region's file, how many another one, and what differs.

        `page` is the process's own first page of it. Of other headers the one counts that most processes have.
        """
        key = key_of(region)
        own = _facts_of(page)
        votes: Counter[tuple[tuple[str, object], ...]] = Counter()
        for (_, offset), count in self._headers.get(key, Counter()).items() if key is not None else ():
            if offset not in self._facts:
                self._facts[offset] = _facts_of(self._page(offset) or b"")
            votes[tuple(self._facts[offset].items())] += count
        votes.pop((), None)
        same = votes.pop(tuple(own.items()), 0)
        if not own or not votes:
            return same, 0, ""
        other, count = votes.most_common(1)[0]
        return max(same, 1), count, ", ".join(name for name, value in other if own.get(name) != value)

    def _judgement(self, key: Key, page: int, offset: int, base: int, space: AddressSpace) -> _Judged | None:
        """Return what is known of a page; None if too much was read already."""
        file = self._files[key]
        rows = file.rows(page)
        places = {int(file.offset[row]): (int(file.count[row]), int(file.base[row])) for row in rows}
        if offset not in places:  # a process that is in no list has a page of its own
            return self._judge(key, page, {**places, offset: (0, base)}, base, space)
        judged = self._judged.get((key, page))
        # what one process does not have of the relocations, another may have
        better = (
            judged is not None and judged.rebased == TOLERATED and self._relocated(key, page, base, space) is not None
        )
        if better or judged is None:
            judged = self._judge(key, page, places, base, space)
            if judged is not None:  # another process may have what is left for it
                self._judged[key, page] = judged
        return judged

    def _judge(
        self, key: Key, page: int, places: dict[int, tuple[int, int]], base: int, space: AddressSpace
    ) -> _Judged | None:
        """Read the frames that a page has, and tell which hold the same."""
        if self._left < len(places) and self._spare <= 0:
            return None
        if self._left >= len(places):
            self._left -= len(places)
        else:
            self._spare -= len(places)
        contents = {offset: data for offset in places if (data := self._page(offset)) is not None}
        kinds: dict[int, int] = {}
        rebased = ""
        apart = len({where for _, where in places.values()}) > 1 and len(set(contents.values())) > 1
        if apart and is_relocated(key):
            relocated = self._relocated(key, page, base, space)
            if relocated is None:
                kinds_at_most = len(set(contents.values()))
                if self._rebased < kinds_at_most and self._spare_rebased <= 0:
                    return None
                if self._rebased >= kinds_at_most:
                    self._rebased -= kinds_at_most
                else:
                    self._spare_rebased -= kinds_at_most
                hidden = self._imports(key, page)
                kinds = _by_tolerance({at: _without(data, hidden) for at, data in contents.items()}, places)
                rebased = TOLERATED
            else:
                contents = {at: unrelocated(data, places[at][1], relocated) for at, data in contents.items()}
                rebased = UNRELOCATED
        if not kinds:
            hidden = self._imports(key, page)
            numbers: dict[bytes, int] = {}
            for offset, data in contents.items():
                kinds[offset] = numbers.setdefault(_without(data, hidden), len(numbers))
        counts: Counter[int] = Counter()
        for offset, kind in kinds.items():
            counts[kind] += places[offset][0]
        return _Judged(kinds, counts, rebased)

    def _imports(self, key: Key, page: int) -> range:
        """Return which bytes of a page are imported addresses, that a loader writes; none of a file that has none."""
        if key not in self._imported:
            self._imported[key] = self._imports_of(key)
        low, end = (place - page * PAGE for place in self._imported[key])
        return range(max(low, 0), max(min(end, PAGE), 0)) if low < end else range(0)

    def _imports_of(self, key: Key) -> tuple[int, int]:
        """Return start and end of a file's imported addresses, by what most processes have as its header.

        Of several that as many have, what all of them call so: one may be there to hide what is beside them.
        """
        votes: Counter[tuple[int, int]] = Counter()
        for (_, offset), count in self._headers.get(key, Counter()).most_common(_MOST_HEADERS):
            first = self._page(offset)
            if first is not None:
                low, size = _directory(first, _IMPORTS)
                votes[low, low + size] += count
        most = max(votes.values(), default=0)
        tied = [bounds for bounds, count in votes.items() if count == most] or [(0, 0)]
        return max(low for low, _ in tied), min(end for _, end in tied)

    def _relocated(self, key: Key, page: int, base: int, space: AddressSpace) -> Sequence[tuple[int, int]] | None:
        """Return what is relocated in a page, None if no process so far has told it."""
        found = self._relocations.get(key)
        if (found is None or found.of(page) is None) and key not in self._asked:
            self._asked.add(key)
            found = self._relocations[key] = self._relocations_of(space, base)
        return None if found is None else found.of(page)

    def _relocations_of(self, space: AddressSpace, base: int) -> Relocations:
        """Return the relocations of an image as far as its process has them in memory."""
        self._relocations_left = max(self._relocations_left, _LEAST_RELOCATIONS)

        def read(place: int, size: int) -> bytes | None:
            self._relocations_left -= size
            if self._relocations_left < 0:
                return None
            try:
                return space.read(base + place, size)
            except (AddressError, SourceReadError):
                return None

        first = read(0, PAGE)
        return Relocations(read, (0, 0) if first is None else _directory(first, pe.RELOCATIONS))

    def _read_page(self, offset: int) -> bytes | None:
        data = bytearray(PAGE)
        try:
            self.backing.read_into(offset, memoryview(data))
        except SourceReadError:
            return None
        return bytes(data)


class Compared(NamedTuple):
    """What other processes have of a process's files, and where its code differs, None if that was not looked for.

    `uncompared` counts pages of code that may differ and are too many to be compared.
    """

    same_files: SameFiles
    differences: Sequence[Difference] | None
    uncompared: int = 0


def look_at_all(container: Container) -> None:
    """Look at all processes of an image that can be compared with each other, so that it is done once for all."""
    others = Others(container, None)
    if len(others) > 1 and container.default_half == Half.USER:
        others.together(_by_backing)


def compared(process: ProcessMemory, *, code: bool) -> Compared | None:
    """Compare a process with the others of its container, its `code` too; None if there is nothing to compare."""
    regions = process.metadata.regions[0].rows if process.metadata.regions else ()
    others = process.others if process.others is not None and len(process.others) else None
    if not can_be_compared(regions) or (others is None and (process.originals is None or not code)):
        return None
    backing = process.space.backing
    found = None if others is None else others.together(_by_backing).get(id(backing))
    found = found or SameFiles(backing, [])
    return Compared(found, *(found.differing(process, None if others is None else others.place) if code else (None, 0)))


def _by_backing(processes: Iterable[tuple[int, ProcessMemory]]) -> dict[int, SameFiles]:
    """Return what processes have of files, up to 32 GiB of code, by the identity of the backing of their bytes."""
    files: dict[int, list[tuple[int, MappedFiles]]] = {}
    left = _MOST_IN_ALL
    for place, process in processes:
        each = mapped_files_of(process)
        pages = sum(len(text.page) for several in each.texts.values() for text in several)
        if pages > left:
            continue
        left -= pages
        files.setdefault(id(each.backing), []).append((place, each))
    return {number: SameFiles(rows[0][1].backing, rows) for number, rows in files.items()}


def _without(data: bytes, hidden: range) -> bytes:
    """Return bytes with zeros for some of them."""
    return data[: hidden.start] + bytes(len(hidden)) + data[hidden.stop :] if hidden else data


def _by_tolerance(contents: dict[int, bytes], places: dict[int, tuple[int, int]]) -> dict[int, int]:
    """Return the kind of each content, by its offset, if only numbers may differ, as the bases do."""
    kinds: dict[int, int] = {}
    first: list[tuple[bytes, int]] = []
    numbers: dict[bytes, int] = {}
    for offset, data in contents.items():
        base = places[offset][1]
        if data not in numbers:
            alike = (
                number
                for number, (other, at) in enumerate(first[:_MOST_KINDS])
                if at != base and differ_by_bases(data, other, base, at)
            )
            number = next(alike, len(first))
            if number == len(first):
                first.append((data, base))
            numbers[data] = number
        kinds[offset] = numbers[data]
    return kinds


def _facts_of(page: bytes) -> dict[str, object]:
    """Return what a header says that no loader changes, by what it is called; nothing if it is none."""
    found = pe.image(page)
    if found is None:
        return {}
    return {
        "machine": found.machine,
        "time stamp": found.timestamp,
        "size": found.size,
        "entry point": pe.number_at(page, found.place + pe.ENTRY_AT, 4),
        "sections": tuple((row.address, row.size, row.permissions) for row in found.sections),
    }


def _directory(page: bytes, number: int) -> tuple[int, int]:
    """Return relative address and size of a data directory, by the first page of an image."""
    found = pe.image(page)
    return (
        (0, 0)
        if found is None
        else pe.directory(lambda at, size: page[at : at + size].ljust(size, b"\0"), found, number)
    )
