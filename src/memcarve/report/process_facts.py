"""What a report says of one process: its facts, and its segments, regions, modules, threads and missing memory."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np

from memcarve.hunting.findings.benign_causes import BENIGN
from memcarve.intervals import Intervals, total
from memcarve.labels import Labelling
from memcarve.labels.resident_regions import Residence
from memcarve.labels.segment_labels import Words
from memcarve.labels.severities import RANKS, RATINGS
from memcarve.missing import MissingMemory
from memcarve.process import Selection
from memcarve.report.changes import REMOVED, changes
from memcarve.report.known_tables import missing_tables, modules_table, regions_table, threads_table
from memcarve.report.looking_at_bytes import look
from memcarve.report.picture.memory_line import Drawn, severities
from memcarve.report.streamed_json import addresses, encoded, hashes, integers, reals, values, with_nothing
from memcarve.times import rfc3339
from memcarve.vocabulary import NARROW, Content

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Callable, Sequence

    from memcarve.dtypes import I64, U64, Bools
    from memcarve.errors import MemcarveError
    from memcarve.hunting.findings.finding_record import Finding, More
    from memcarve.labels.segment_labels import SegmentLabels
    from memcarve.process import ProcessEntry, ProcessMemory, Progress
    from memcarve.segments import Segments

_T = TypeVar("_T")

#: bytes that are shown of the beginning of each segment
FIRST = 256
_LABELS = ("permissions", "protection", "kind", "content", "file", "flagged")


class Found(NamedTuple):
    """What was found in a process over all of the input: findings, those that were only counted."""

    findings: Sequence[Finding] = ()
    more: Sequence[More] = ()


class Wanted(NamedTuple):
    """How closely a process is looked at: a vocabulary.Content, a vocabulary.Split; with `sha256` segments have one."""

    content: str = Content.FULL
    split: str = "none"
    sha256: bool = True


class ProcessFacts:
    """A process in a report; `facts` are its members, ready for `streamed_json.pieces`.

    `room` is how many bytes of its memory they may hold, `embedded` how many they do. `was` is an earlier state of it,
    with which it is compared. Raises SourceReadError.
    """

    def __init__(
        self,
        entry: ProcessEntry,
        process: ProcessMemory,
        found: Found,
        wanted: Wanted,
        room: int,
        was: ProcessMemory | None = None,
        progress: Progress | None = None,
    ) -> None:
        self.entry = entry
        self.process = process
        self.found = found
        self.embedded = 0
        level = "none" if wanted.content == Content.NONE else "headers"
        selection = Selection()
        segments = process.segments(selection, wanted.split, Labelling(level))
        full = wanted.content == Content.FULL
        self.looked = look(process.space, segments, entropy=full, sha256=wanted.sha256, progress=progress)
        self.segments: Segments = segments
        labels: Any = segments.labels
        self.labels: SegmentLabels = labels
        self.words = self.labels.columns()
        self.known = self.labels.known
        self._changes = None if was is None else changes(was, process, segments.choice.half, progress)
        self._gone = None if self._changes is None else self._changes.labels.columns()
        self.flags = [
            _flag(finding, int(self._place[row]) if row >= 0 else None)
            for finding, row in zip(found.findings, self._rows_of(found.findings).tolist(), strict=True)
        ]
        self.first_bytes = self._first_bytes(room)

    def facts(self) -> dict[str, Any]:
        """Return its members."""
        process, space, looked = self.process, self.process.space, self.looked
        threads, modules = process.threads, self.known.modules
        known = bool(process.metadata.regions)
        regions = [*Residence(process, Selection(half=self.segments.choice.half)).rows()] if known else []
        told = process.metadata.told()
        return {
            **described(self.entry, process),
            "command_line": told.get("command_line"),
            "path": told.get("image_path"),
            "error": None,
            "incomplete": process.incomplete,
            "looked_at": self.segments.choice.half,
            "notes": [*process.notes, *self.labels.notes],
            "totals": {
                "segments": len(self.segments),
                "bytes": self.segments.total,
                "missing_bytes": total(space.missing.size),
                "not_in_memory_bytes": total(space.elsewhere.size),
                "regions": len(regions),
                "modules": len(modules),
                "threads": len(threads),
                "flags": len(self.flags) + sum(more.number for more in self.found.more),
                "flagged_segments": int(np.count_nonzero(self._is_flagged())),
                **({} if self._changes is None else {"removed_segments": len(self._changes.removed)}),
            },
            **({} if self._changes is None else {"compared": True}),
            "segments": self._segments(),
            "entropy_along": self._by_place(looked.along),
            "first_bytes": self._by_place(self.first_bytes),
            "header": self._by_place(self._headers()),
            "regions": regions_table(regions),
            "modules": modules_table(modules),
            "threads": threads_table(threads),
            "flags": self.flags,
            "flags_counted": [
                {"flag": str(more.flag), "severity": str(more.severity), "number": more.number}
                for more in self.found.more
            ],
            "flags_looked_for": [*self.labels.flagged.where],
            **missing_tables(space.missing, space.elsewhere),
        }

    @property
    def drawn(self) -> Drawn:
        """What a picture of it shows."""
        severity = severities(self.words["flags"], RATINGS)
        for row, found in enumerate(self._indices):
            if found:
                severity[row] = max(len(RANKS) - self.found.findings[place].rank for place in found)
        return Drawn(self.segments, self.words, severity, self.known.region_pieces)

    # segments

    def _segments(self) -> dict[str, Any]:
        """Return the table of segments: of those that are there, and between them those that are gone."""
        segments, looked, words, order = self.segments, self.looked, self.words, self._order
        gone = len(order) - len(segments)
        found: dict[str, Any] = {
            "start": addresses(self._start[order]),
            "size": integers(self._with_gone(segments.size, lambda removed: removed.size)),
            "extents": integers(np.append(segments.extents, np.zeros(gone, np.uint32))[order]),
            "offset": with_nothing(
                np.append(segments.offset, np.zeros(gone, np.uint64))[order], order >= len(segments)
            ),
        }
        for name in ("permissions", "protection", "kind"):
            found[name] = encoded(self._words_with_gone(name))
        found |= {
            "content": encoded(self._content().joined(Words.empty(gone)).taken(order)),
            "file": encoded(self._words_with_gone("file")),
            "entropy": reals(np.append(looked.entropy, np.full(gone, np.nan, np.float32))[order]),
        }
        if len(looked.sha256):
            digests = np.concatenate([looked.sha256, np.zeros((gone, 32), np.uint8)])
            found["sha256"] = hashes(digests[order], np.append(looked.hashed, np.zeros(gone, np.bool_))[order])
        else:
            found["sha256"] = values([None] * len(order))
        indices = [*self._indices, *([] for _ in range(gone))]
        found |= {
            "flagged": encoded(words["flags"].joined(Words.empty(gone)).taken(order)),
            "flags": values([indices[row] for row in order.tolist()]),
        }
        if self._changes is not None:
            removed = Words([REMOVED], np.zeros(gone, np.int64))
            found["change"] = encoded(self._changes.of(segments).joined(removed).taken(order))
        return found

    @functools.cached_property
    def _start(self) -> U64:
        """The start of each segment, and of each that is gone."""
        return (
            self.segments.start
            if self._changes is None
            else np.append(self.segments.start, self._changes.removed.start)
        )

    @functools.cached_property
    def _order(self) -> I64:
        """The order in which segments are listed (int64): those that are gone stand behind the others in columns."""
        return np.argsort(self._start, kind="stable")

    @functools.cached_property
    def _place(self) -> I64:
        """Where in the list each segment stands (int64)."""
        found = np.empty(len(self._order), np.int64)
        found[self._order] = np.arange(len(self._order))
        return found

    def _with_gone(self, column: U64, of: Callable[[Segments], U64]) -> U64:
        return column if self._changes is None else np.append(column, of(self._changes.removed))[self._order]

    def _words_with_gone(self, name: str) -> Words:
        words: Words = self.words[name]
        return words if self._gone is None else words.joined(self._gone[name]).taken(self._order)

    def _by_place(self, found: dict[int, _T]) -> dict[str, _T]:
        """Return what is known of some segments by where in the list they stand."""
        return {str(place): value for place, value in sorted((int(self._place[row]), v) for row, v in found.items())}

    def _content(self) -> Words:
        """Return what lies in segments, in a word."""
        contents = self.labels.contents
        found = Words.empty(len(self.segments))
        if contents is None:
            return found
        found.set_where(self.looked.text & contents.known, "text")
        found.set_where((contents.zero_pages == contents.pages) & contents.known, "zeros")
        for row, headers in contents.headers_of.items():
            if headers:
                found.set(row, row + 1, headers[0].format)
        return found

    def _headers(self) -> dict[int, Any]:
        """Return the first header of each segment that has one."""
        contents = self.labels.contents
        found: dict[int, Any] = {}
        for row, headers in sorted(contents.headers_of.items()) if contents is not None else ():
            if headers:
                facts = headers[0].members()
                found[row] = {"kind": facts.pop("format"), **{_RENAMED.get(k, k): v for k, v in facts.items()}}
        return found

    def _is_flagged(self) -> Bools:
        nothing = np.array([value is None for value in self.words["flags"].values], np.bool_)
        found: Bools = ~nothing[self.words["flags"].codes]
        return found

    @functools.cached_property
    def _indices(self) -> list[list[int]]:
        """Return the findings that concern each segment.

        That is every one whose address lies in it; and if it has the finding's flag, one in the same allocation, which
        is told once for all of it.
        """
        found: list[list[int]] = [[] for _ in range(len(self.segments))]
        for row, place in enumerate(self._rows_of(self.found.findings).tolist()):
            if place >= 0:
                found[place].append(row)
        words = self.words["flags"]
        flags_of = [set((value or "").split(", ")) for value in words.values]
        for row, finding in enumerate(self.found.findings):
            region = None if finding.region is None else self.known.region_at(finding.region.start)
            if region is None or not any(finding.flag in flags for flags in flags_of):
                continue
            parts = self.known.allocated(region)
            held = Intervals.of([(self.known.regions[place].start, self.known.regions[place].size) for place in parts])
            low, end = self.segments.touched(held)
            for begin, behind in zip(low.tolist(), end.tolist(), strict=True):
                for place in range(begin, behind):
                    if finding.flag in flags_of[int(words.codes[place])] and row not in found[place][-1:]:
                        found[place].append(row)
        return [sorted(set(rows)) if len(rows) > 1 else rows for rows in found]

    def _rows_of(self, findings: Sequence[Finding]) -> I64:
        """Return the segment that each finding's address lies in (int64), -1 if it lies in none."""
        places = [-1 if finding.address is None else self.segments.at(finding.address) for finding in findings]
        return np.array([-1 if place is None else place for place in places], np.int64)

    def _first_bytes(self, room: int) -> dict[int, bytes]:
        """Return the first bytes of segments, of flagged ones first, as many as there is room for."""
        flagged = self._is_flagged()
        rows = self._rows_of(self.found.findings)
        flagged[rows[rows >= 0]] = True
        order = [*np.flatnonzero(flagged).tolist(), *np.flatnonzero(~flagged).tolist()] if room > 0 else []
        found: dict[int, bytes] = {}
        for row in order:
            size = min(FIRST, int(self.segments.size[row]), room - self.embedded)
            if size <= 0:
                break
            found[row] = self.process.space.read(int(self.segments.start[row]), size)
            self.embedded += size
        return dict(sorted(found.items()))


def _flag(finding: Finding, row: int | None) -> dict[str, Any]:
    """Return a finding's members; `row` is the segment that its address lies in."""
    facts, evidence = finding.facts(), finding.evidence
    if evidence is not None:
        facts["evidence"]["address"] = f"0x{evidence.address:x}"
    return {
        "flag": facts["flag"],
        "severity": facts["severity"],
        "address": None if finding.address is None else f"0x{finding.address:x}",
        "size": None,
        "segment": row,
        **{name: facts[name] for name in ("why", "reason", "kind", "file", "region", "permissions", "evidence")},
        "benign": [cause.rstrip(".") for cause in BENIGN[finding.flag]],
    }


#: members of headers that mean something else elsewhere in the document
_RENAMED = {"kind": "type"}


def described(entry: ProcessEntry, process: ProcessMemory | None) -> dict[str, Any]:
    """Return what the list of processes says of one, and its memory about the machine."""
    narrow = process is not None and (process.architecture in NARROW or process.address_bits == 32)  # noqa: PLR2004 - bits
    return {
        "pid": entry.pid,
        "ppid": entry.parent,
        "name": entry.name,
        "state": entry.state,
        "started": _time(entry.created),
        "exited": _time(entry.exited),
        "doubts": [*entry.doubts],
        "bits": None if process is None else 32 if narrow else 64,
        "architecture": None if process is None else process.architecture,
        "system": None if process is None else process.platform.system,
        "address_bits": None if process is None else process.address_bits,
        "kernel_half": None if process is None else f"0x{process.kernel_half:x}",
    }


def failed(entry: ProcessEntry, error: MemcarveError | None, found: Found) -> dict[str, Any]:
    """Return the members of a process that could not be looked at, or that has no memory."""
    plain, shared = ("start", "size", "extents", "offset", "entropy", "sha256", "flags"), _LABELS
    no_segments = {name: values([]) for name in plain} | {name: encoded(Words.empty(0)) for name in shared}
    flags = [_flag(finding, None) for finding in found.findings]
    words = "segments", "bytes", "missing_bytes", "not_in_memory_bytes", "regions", "modules", "threads"
    return {
        **described(entry, None),
        "command_line": None,
        "path": None,
        "error": None if error is None else str(error),
        "incomplete": False,
        "looked_at": None,
        "notes": [],
        "totals": {
            **dict.fromkeys(words, 0),
            "flags": len(flags) + sum(more.number for more in found.more),
            "flagged_segments": 0,
        },
        "segments": no_segments,
        "entropy_along": {},
        "first_bytes": {},
        "header": {},
        "regions": regions_table([]),
        "modules": modules_table([]),
        "threads": threads_table([]),
        "flags": flags,
        "flags_counted": [
            {"flag": str(more.flag), "severity": str(more.severity), "number": more.number} for more in found.more
        ],
        "flags_looked_for": [],
        **missing_tables(MissingMemory.of([]), MissingMemory.of([])),
    }


def _time(value: dt.datetime | None) -> str | None:
    return None if value is None else rfc3339(value, "microseconds")
