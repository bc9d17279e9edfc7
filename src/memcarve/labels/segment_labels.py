"""Labels of segments in columns, one row per segment; what neighbours in the same regions share is computed once."""

from __future__ import annotations

import functools
import itertools
import json
import re
from typing import TYPE_CHECKING, Any

import numpy as np

from memcarve.errors import UsageError, encodable
from memcarve.labels.filters import CHOICES, names_match
from memcarve.labels.flags import MOST_FINDINGS, NEEDS, Flagged
from memcarve.metadata import hexadecimal
from memcarve.paths import base_name
from memcarve.permissions import NOT_PRESENT, TRANSITION, permissions
from memcarve.vocabulary import Flag

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from memcarve.dtypes import I64, U64, Bools
    from memcarve.intervals import Intervals
    from memcarve.labels.content import ContentObserver, Contents
    from memcarve.labels.metadata_index import Known, Listed
    from memcarve.labels.same_files import Compared
    from memcarve.metadata import Region, Thread
    from memcarve.segments import Segments
    from memcarve.space import AddressSpace


MOST_LISTED = 50_000  # regions listed of one segment


class Group:
    """What is known about an address range that touches these regions, modules and areas, given by their indices."""

    def __init__(self, known: Known, regions: list[int], modules: list[int], areas: list[int]) -> None:
        self.regions: list[Region] = [known.regions[place] for place in regions]
        self.modules: list[Listed] = [known.modules[place] for place in modules]
        self.areas: list[Region] = [known.areas[place] for place in areas]
        self.protections: list[str] = distinct(row.collapsed for row in self.regions)
        self.region_kinds: list[str] = distinct(known.kinds[place] for place in regions)
        conflicts = known.conflicts
        lists = [*map(conflicts.regions.get, regions), *map(conflicts.modules.get, modules)]
        self._conflicts = sorted(conflict for found in lists if found is not None for conflict in found)
        self._whole = [area for place in regions for area in known.whole_areas.get(place, ())]
        self._region_text = known.region_text
        self._listed = regions[:MOST_LISTED]
        self._texts: list[str] | None = None

    @property
    def is_empty(self) -> bool:
        """Whether nothing is known."""
        return not (self.regions or self.modules or self.areas)

    def kinds(self, start: int, last: int) -> list[str]:
        """Return the kinds of memory from `start` to `last`: those of areas, then those of regions."""
        if not self.areas:
            return self.region_kinds
        covered = any(area.start <= start and last < area.end for area in self.areas)
        return distinct([*(area.kind for area in self.areas), *([] if covered else self.region_kinds)])

    def conflicts(self, start: int, last: int) -> list[str]:
        """Return the conflicts between sources about the addresses from `start` to `last`."""
        if not self._conflicts:
            return []
        return distinct(text for begin, end, text in self._conflicts if begin <= last and start <= end)

    def files(self, start: int) -> list[tuple[str, int | None]]:
        """Return the names of modules, or else the paths of files, each once with the offset of `start` in it.

        The offset is None if `start` lies before it or it is unknown.
        """
        found: dict[str, int | None] = {}
        for listed in self.modules:
            name = listed.module.name or listed.module.path
            if name is not None:
                found.setdefault(name, start - listed.module.start if start >= listed.module.start else None)
        if not found:
            for region in self.regions:
                if region.file is not None:
                    known = region.offset is not None and start >= region.start
                    found.setdefault(region.file, (region.offset or 0) + start - region.start if known else None)
        return [*found.items()]

    def texts(self) -> list[str]:
        """Return the known members for JSON that do not depend on the address."""
        if self._texts is None:
            more = len(self.regions) - len(self._listed)
            regions = ", ".join(map(self._region_text, self._listed))
            self._texts = [
                *member("protection", self.protections),
                *([] if self.areas else member("kind", self.region_kinds)),
                *([f'"regions": [{regions}]'] if regions else []),
                *member("regions_not_listed", max(more, 0)),
                *member("areas", [_area(row) for row in (*self.areas, *self._whole)]),
            ]
        return self._texts


def distinct(values: Iterable[str | None]) -> list[str]:
    """Return the values other than None, each once, in order."""
    return [value for value in dict.fromkeys(values) if value is not None]


def member(name: str, value: Sequence[Any] | int) -> list[str]:
    """Return a member for JSON, in a list; an empty list if the value is empty."""
    return [f'"{name}": {json.dumps(value)}'] if value else []


def module_record(listed: Listed, start: int) -> dict[str, Any]:
    """Return a module for JSON, with the offset of `start` in it."""
    module = listed.module
    record = {
        "name": module.name,
        "path": module.path,
        "base": f"0x{module.start:x}",
        "size": module.size,
        "offset": start - module.start if start >= module.start else None,
        "source": listed.source,
    }
    return {name: value for name, value in record.items() if value is not None}


def _area(row: Region) -> dict[str, Any]:
    record = {"kind": row.kind, "start": f"0x{row.start:x}", "end": f"0x{row.end:x}"}
    return {
        **record,
        **({"whole": True} if row.whole else {}),
        **({} if row.detail is None else {"detail": row.detail}),
    }


class Words:
    """A text, or None, for each of many rows: different `values`, and in `codes` the place of each row's (int64)."""

    def __init__(self, values: list[str | None], codes: I64) -> None:
        self.values = values
        self.codes = codes
        self._places = {value: place for place, value in enumerate(values)}

    @classmethod
    def empty(cls, rows: int) -> Words:
        """Return None for each of some rows."""
        return cls([None], np.zeros(rows, np.int64))

    @classmethod
    def of(cls, texts: Iterable[str | None]) -> Words:
        """Return the texts of rows."""
        places: dict[str | None, int] = {}
        codes = np.array([places.setdefault(text, len(places)) for text in texts], np.int64)
        return cls([*places], codes)

    def set(self, low: int, end: int, text: str | None) -> None:
        """Give the rows from `low` to `end` a text; an empty one is None."""
        self.codes[low:end] = self._place(text or None)

    def set_where(self, rows: Bools, text: str | None) -> None:
        """Give some rows (bool) a text."""
        self.codes[rows] = self._place(text)

    def _place(self, text: str | None) -> int:
        place = self._places.setdefault(text, len(self.values))
        if place == len(self.values):
            self.values.append(text)
        return place

    def joined(self, other: Words) -> Words:
        """Return these rows, and others behind them."""
        found = Words([*self.values], np.concatenate([self.codes, np.zeros(len(other), np.int64)]))
        for place, text in enumerate(other.values):
            found.set_where(np.append(np.zeros(len(self), np.bool_), other.codes == place), text)
        return found

    def taken(self, rows: I64) -> Words:
        """Return some rows in another order."""
        return Words(self.values, self.codes[rows])

    def __len__(self) -> int:
        return len(self.codes)

    def __getitem__(self, row: int) -> str | None:
        return self.values[int(self.codes[row])]


_PLAIN = re.compile(r"[^A-Za-z0-9_.-]+")
_LONGEST_NAME = 48
_MOST_THREADS = 4096  # listed
_MOST_CONFLICTS = 20  # listed per segment
_MOST_GROUPS = 1 << 12  # cached: neighbours share them


class _Join:
    """The intervals that each segment touches: from `first` to `end` (int64, exclusive), one row per segment."""

    def __init__(self, intervals: Intervals, segments: Segments) -> None:
        self.intervals = intervals
        self.segments = segments
        self.first, self.end = intervals.touched(segments)

    def changes(self) -> Bools:
        """Return for each segment (bool) whether it touches other intervals than the segment before it."""
        found = np.ones(len(self.first), np.bool_)
        nothing = self.first == self.end
        same = (self.first[1:] == self.first[:-1]) & (self.end[1:] == self.end[:-1])
        found[1:] = ~(same | (nothing[1:] & nothing[:-1]))
        return found

    def places(self, index: int) -> list[int]:
        """Return the owners of the intervals that a segment touches, in order of addresses, each once."""
        return [*dict.fromkeys(self.intervals.owner[self.first[index] : self.end[index]].tolist())]

    def any(self, wanted: Bools) -> Bools:
        """Return for each segment (bool) whether it touches an interval whose owner is wanted (bool, by owner)."""
        sums = np.concatenate([[0], np.cumsum(wanted[self.intervals.owner])])
        return np.asarray(sums[self.end] > sums[self.first])

    def begins(self) -> tuple[Bools, U64]:
        """Return for each segment (bool) whether it touches an interval, and at which address first (uint64)."""
        start = self.intervals.start[np.minimum(self.first, len(self.intervals) - 1)] if len(self.intervals) else 0
        return self.end > self.first, np.maximum(start, self.segments.start)


class SegmentLabels:
    """What is known about `segments`, in the same order; `contents` is what their bytes say, None if not looked at.

    `others` is what other processes have of the same files, None if that was not looked for.

    Implements ``segments.Labels``.
    """

    def __init__(
        self,
        space: AddressSpace,
        known: Known,
        segments: Segments,
        contents: Contents | None,
        others: Compared | None = None,
    ) -> None:
        self.space = space
        self.known = known
        self.segments = segments
        self.contents = contents
        self._others = others
        self._regions = _Join(known.region_pieces, segments)
        self._modules = _Join(known.module_pieces, segments)
        self._areas = _Join(known.area_pieces, segments)
        self._joins = (self._regions, self._modules, self._areas)
        self._group_of = np.cumsum(np.logical_or.reduce([join.changes() for join in self._joins]))
        first = segments.first.astype(np.int64)
        self._permissions = None if space.flags is None else permission_bits(space, first, first + segments.extents)
        self._threads = [(threads.source, row) for threads in known.metadata.threads for row in threads.rows]
        begun = sorted((row.begin, row.tid) for _, row in self._threads if row.begin is not None)
        self._begins = np.array([begin for begin, _ in begun], np.uint64)
        self._tids = [tid for _, tid in begun]
        self._flagged: Flagged | None = None
        self._flag_columns: dict[str, tuple[Bools, U64]] = {}
        self._any_flag = np.zeros(0, np.bool_)
        self._groups: dict[int, Group] = {}

    def __repr__(self) -> str:
        return f"<SegmentLabels: of {len(self.segments)} segments>"

    # carrying along

    def where(self, keep: Bools) -> SegmentLabels:
        """Return the labels of some of the segments."""
        bare = self.segments.labelled(None).where(keep)
        contents = None if self.contents is None else self.contents.where(keep)
        found = SegmentLabels(self.space, self.known, bare, contents, self._others)
        found._flagged = self._flagged  # about the whole process
        return found

    def observer(self, index: int) -> ContentObserver | None:
        """Return what must be called with the bytes of a segment; None if they are known or not wanted."""
        return None if self.contents is None else self.contents.observer(index, int(self.segments.start[index]))

    def observed(self, index: int, observer: ContentObserver) -> None:
        """Keep what an observer found in a segment's bytes."""
        if self.contents is not None:
            self.contents.keep(index, observer.finish())

    def observe_together(self, first: int, count: int, view: memoryview) -> None:
        """Look at segments from the `first` on, whose bytes lie one behind the other in `view`, if that is wanted."""
        if self.contents is not None:
            part = slice(first, first + count)
            self.contents.observe_together(first, self.segments.start[part], self.segments.size[part], view)

    # what is known of one segment

    def group(self, index: int) -> Group:
        """Return what is known about all segments that lie in the same regions, modules and areas as one."""
        key = int(self._group_of[index])
        found = self._groups.get(key)
        if found is None:
            if len(self._groups) > _MOST_GROUPS:
                self._groups.clear()
            found = self._groups[key] = Group(self.known, *(join.places(index) for join in self._joins))
        return found

    def regions(self, index: int) -> list[Region]:
        """Return the regions of the first source that a segment touches, in order of addresses."""
        return self.group(index).regions

    def modules(self, index: int) -> list[Listed]:
        """Return the listed modules that a segment touches, in order of addresses."""
        return self.group(index).modules

    def kinds(self, index: int) -> list[str]:
        """Return the kinds of memory in a segment: those of areas, then those of regions."""
        start = int(self.segments.start[index])
        return self.group(index).kinds(start, start + int(self.segments.size[index]) - 1)

    def protections(self, index: int) -> list[str]:
        """Return the regions' protections in three letters, each once, in order of addresses."""
        return self.group(index).protections

    def permissions(self, index: int) -> list[str]:
        """Return what the page tables of an image allow in a segment, each once."""
        return [] if self._permissions is None else permission_words(int(self._permissions[index]))

    def file(self, index: int) -> list[tuple[str, int | None]]:
        """Return the names of modules, or else the paths of files, in a segment, with the segment's offset in each."""
        return self.group(index).files(int(self.segments.start[index]))

    def conflicts(self, index: int) -> list[str]:
        """Return the conflicts between sources about a segment."""
        start = int(self.segments.start[index])
        return self.group(index).conflicts(start, start + int(self.segments.size[index]) - 1)

    def flags(self, index: int) -> dict[str, int]:
        """Return the flags of a segment, each with the first address that it concerns."""
        if not self._flags_anywhere[index]:
            return {}
        return {flag: int(where[index]) for flag, (held, where) in self._flag_columns.items() if held[index]}

    # all segments at once

    def columns(self) -> dict[str, Words]:
        """Return the words of all segments: ``protection``, ``permissions``, ``kind``, ``file`` and ``flags``.

        Several words of one segment are joined with commas; of several files it is the first one.
        """
        bounds = [*np.flatnonzero(np.diff(self._group_of, prepend=-1)).tolist(), len(self.segments)]
        protection, kind, file = (Words.empty(len(self.segments)) for _ in range(3))
        for low, end in itertools.pairwise(bounds):
            group = self.group(low)
            protection.set(low, end, ", ".join(group.protections))
            file.set(low, end, next((name for name, _ in group.files(0)), None))
            if group.areas:  # how far they reach decides
                for index in range(low, end):
                    kind.set(index, index + 1, ", ".join(self.kinds(index)))
            else:
                kind.set(low, end, ", ".join(group.region_kinds))
        found = {"protection": protection, "kind": kind, "file": file}
        if self._permissions is None:
            found["permissions"] = Words.empty(len(self.segments))
        else:
            bits, codes = np.unique(self._permissions, return_inverse=True)
            found["permissions"] = Words([", ".join(permission_words(each)) or None for each in bits.tolist()], codes)
        return found | {"flags": self._flag_words()}

    def _flag_words(self) -> Words:
        _ = self.flagged  # whose columns are made with it
        mask = np.zeros(len(self.segments), np.int64)
        for place, (held, _) in enumerate(self._flag_columns.values()):
            mask |= held.astype(np.int64) << place
        bits, codes = np.unique(mask, return_inverse=True)
        names = [*self._flag_columns]
        return Words(
            [", ".join(name for at, name in enumerate(names) if each >> at & 1) or None for each in bits.tolist()],
            codes,
        )

    @property
    def flagged(self) -> Flagged:
        """The flags of the process, by what is known so far."""
        contents = self.contents
        complete = contents is not None and contents.complete
        if self._flagged is None or (complete and not self._flagged.by_content):
            headers = contents.headers() if contents is not None and complete else None
            self._flagged = Flagged(self.space, self.known, headers, self._others)
            self._flag_columns = {}
        if not self._flag_columns:
            where = self._flagged.where
            self._flag_columns = {flag: _Join(where[flag], self.segments).begins() for flag in Flag if flag in where}
            self._any_flag = np.zeros(0, np.bool_)
        return self._flagged

    @property
    def _flags_anywhere(self) -> Bools:
        """Return for each segment (bool) whether it has a flag."""
        flagged = self.flagged  # whose columns are made with it
        if len(self._any_flag) != len(self.segments):
            columns = [held for held, _ in self._flag_columns.values()]
            nothing = np.zeros(len(self.segments), np.bool_)
            self._any_flag = np.logical_or.reduce([nothing, *columns]) if flagged.where else nothing
        return self._any_flag

    # choosing

    def matches(self, name: str, values: Sequence[str]) -> Bools:
        """Return for each segment (bool) whether its label `name` is any of `values`. Raises UsageError."""
        if name == "flag":
            return self._has_flag(values)
        wanted = CHOICES[name](values)
        known = self.known
        can_tell = {
            "kind": known.has_kinds or bool(known.areas),
            "protection": known.has_protections,
            "file": known.has_files or bool(known.modules),
        }
        if not can_tell[name]:
            raise UsageError(
                f"nothing is known to choose by {name}",
                subject=known.subject,
                remedy="{regions:FILE} gives what Volatility printed",
            )
        keep = np.array([wanted(row, kind) for row, kind in zip(known.regions, known.kinds, strict=True)], np.bool_)
        found = self._regions.any(keep)
        if name == "kind":
            areas = np.array([area.kind in values for area in known.areas], np.bool_)
            found |= self._areas.any(areas)
        if name == "file":
            modules = np.array(
                [names_match(values, listed.module.name, listed.module.path) for listed in known.modules], np.bool_
            )
            found |= self._modules.any(modules)
        return found

    def _has_flag(self, values: Sequence[str]) -> Bools:
        found = np.zeros(len(self.segments), np.bool_)
        for flag in values:
            Flag.check(flag)
            if flag not in self.flagged.where:
                raise UsageError(
                    f"nothing is known to look for {flag} by",
                    subject=self.known.subject,
                    remedy=f"it needs {NEEDS[Flag(flag)]}",
                )
            found |= self._flag_columns[flag][0]
        return found

    # showing

    def record(self, index: int) -> dict[str, Any]:
        """Return all known labels of a segment."""
        found: dict[str, Any] = json.loads(next(self.texts(index, index + 1)))
        return found

    def texts(self, first: int, end: int) -> Iterator[str]:
        """Yield all known labels of each segment from `first` to `end` as JSON."""
        part = slice(first, end)
        count = end - first
        flagged = self._flags_anywhere[part].tolist()
        permissions = itertools.repeat(None, count) if self._permissions is None else self._permissions[part].tolist()
        contents: Iterable[str] = itertools.repeat("", count)
        if self.contents is not None:
            contents = self.contents.texts(first, end, self.space.read)
        columns = (range(first, end), self._group_of[part].tolist(), flagged, permissions, self._begun(part), contents)
        last, group = None, Group(self.known, [], [], [])
        for index, key, has_flag, bits, begun, content in zip(*columns, strict=True):
            if key != last:  # neighbours share it
                last, group = key, self.group(index)
            members = [] if group.is_empty else self._texts(group, index)
            if bits is not None:
                members += _permission_member(bits)
            if begun:
                members += member("threads", begun)
            if has_flag:
                flags = self.flags(index).items()
                rows = (f'{{"name": "{flag}", "address": "0x{address:x}"}}' for flag, address in flags)
                members.append(f'"flags": [{", ".join(rows)}]')
            if content:
                members.append(content)
            yield f"{{{', '.join(members)}}}"

    def _texts(self, group: Group, index: int) -> list[str]:
        """Return the members for JSON about regions, modules and areas."""
        start = int(self.segments.start[index])
        members = [*group.texts()]
        conflicts = self.conflicts(index)
        members += member("conflicts", conflicts[:_MOST_CONFLICTS])
        members += member("conflicts_not_listed", max(len(conflicts) - _MOST_CONFLICTS, 0))
        if group.areas:
            members += member("kind", group.kinds(start, start + int(self.segments.size[index]) - 1))
        if group.modules:
            members += member("modules", [module_record(listed, start) for listed in group.modules])
        return members

    def _begun(self, part: slice) -> Iterator[list[dict[str, Any]]]:
        """Yield the threads that began in each of some segments."""
        start, size = self.segments.start[part], self.segments.size[part]
        if not len(self._begins):
            yield from [[]] * len(start)
            return
        first = np.searchsorted(self._begins, start)
        end = np.searchsorted(self._begins, start + (size - np.uint64(1)), "right")
        for low, high in zip(first.tolist(), end.tolist(), strict=True):
            rows = dict.fromkeys(zip(self._tids[low:high], self._begins[low:high].tolist(), strict=True))
            yield [{"tid": tid, "begin": f"0x{begin:x}"} for tid, begin in rows] if rows else []

    def name(self, index: int) -> str:
        """Return what a file's name adds to the addresses: ``.r-x.ntdll.dll``, in a few plain characters."""
        protections, files = self.protections(index), self.file(index)
        words = protections if len(protections) == 1 else []
        if files:
            plain = _PLAIN.sub("_", base_name(files[0][0]))[:_LONGEST_NAME].strip(".")
            words = [*words, plain] if plain else words
        return "".join(f".{word}" for word in words)

    @property
    def notes(self) -> list[str]:
        """Sentences for the user about the sources, conflicts between them, and entries without a mapping."""
        return [*self.known.metadata.notes, *self.known.notes, *self.flagged.notes]

    def summary(self) -> dict[str, Any]:
        """Return the labels' sources and the findings, for JSON."""
        metadata = self.known.metadata
        flagged = self.flagged
        return {
            "sources": {
                name: [{"source": found.source, "count": len(found.rows)} for found in lists]
                for name, lists in (
                    ("regions", metadata.regions),
                    ("modules", metadata.modules),
                    ("threads", metadata.threads),
                    ("areas", metadata.areas),
                )
                if lists
            },
            "threads": [_thread(row, source) for source, row in self._threads[:_MOST_THREADS]],
            "threads_in_all": len(self._threads),
            "content": None if self.contents is None else self.contents.level,
            "flags_looked_for": [*flagged.where],
            "findings": [
                {"flag": found.flag, "address": f"0x{found.address:016x}", "why": found.why}
                for found in flagged.findings[:MOST_FINDINGS]
            ],
            "findings_in_all": len(flagged.findings),
            "conflicts": len(self.known.conflicts),
        }


def _thread(thread: Thread, source: str) -> dict[str, Any]:
    record = thread._asdict() | {"source": source}
    addresses = ("teb", "stack_start", "stack_end", "begin")
    del record["floating"]  # a manifest's header has no room for that of thousands of threads
    if thread.registers is not None:
        record["registers"] = hexadecimal(thread.registers)
    if thread.name is not None:
        record["name"] = encodable(thread.name)
    if thread.state is not None:
        record["state"] = encodable(thread.state)
    if thread.fault is not None:
        record["fault"] = thread.fault.facts()
    return {name: f"0x{value:x}" if name in addresses else value for name, value in record.items() if value is not None}


@functools.cache
def _permission_member(bits: int) -> list[str]:
    return member("permissions", permission_words(bits))


@functools.cache
def permission_words(bits: int) -> list[str]:
    """Return the permissions in `bits`, each once: bit n is set if the flags n occur."""
    return distinct(permissions(code) for code in range(bits.bit_length()) if bits >> code & 1)


def permission_bits(space: AddressSpace, first: I64, end: I64) -> I64:
    """Return the flags of the extents from each `first` to `end` (int64): bit n is set if one has the flags n."""
    if space.flags is None or not len(first):
        return np.zeros(len(first), np.int64)
    # reduceat cannot do empty ranges: the last element stands for them
    # of pages that are not present nothing is told
    known = np.where(space.flags & np.uint8(NOT_PRESENT), np.uint8(TRANSITION), space.flags)
    bits = np.append(np.left_shift(np.int64(1), known.astype(np.int64)), np.int64(0))
    bounds = np.column_stack([first, np.maximum(end, first + 1)]).ravel().astype(np.int64)
    found = np.bitwise_or.reduceat(bits, np.minimum(bounds, len(bits) - 1))[::2]
    return np.where(end > first, found, 0)
