"""What a report says of one process: its facts, and its segments, regions, modules, threads and missing memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from memcarve.intervals import Intervals, total
from memcarve.labels import Labelling
from memcarve.labels.resident_regions import Residence
from memcarve.labels.segment_labels import Words, permission_words
from memcarve.missing import REASONS
from memcarve.process import Selection
from memcarve.report.looking_at_bytes import look
from memcarve.report.streamed_json import addresses, encoded, hashes, integers, reals, values
from memcarve.times import rfc3339
from memcarve.vocabulary import NARROW, Content

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Iterable, Sequence

    from memcarve.dtypes import I64, Bools
    from memcarve.errors import MemcarveError
    from memcarve.hunting.findings.finding_record import Finding, More
    from memcarve.labels.segment_labels import SegmentLabels
    from memcarve.process import ProcessEntry, ProcessMemory, Progress
    from memcarve.segments import Segments

#: bytes that are shown of the beginning of each segment
FIRST = 256
_MOST_MISSING = 1 << 16  # rows
_INSTRUCTIONS = ("rip", "pc", "eip")


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

    `room` is how many bytes of its memory they may hold, `embedded` how many they do. Raises SourceReadError.
    """

    def __init__(
        self,
        entry: ProcessEntry,
        process: ProcessMemory,
        found: Found,
        wanted: Wanted,
        room: int,
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
        self.flags = [
            _flag(finding, row if row >= 0 else None)
            for finding, row in zip(found.findings, self._rows_of(found.findings).tolist(), strict=True)
        ]
        self.first_bytes = self._first_bytes(room)

    def facts(self) -> dict[str, Any]:
        """Return its members."""
        process, space, looked = self.process, self.process.space, self.looked
        threads = process.threads
        regions, modules, missing = self._regions(), self._modules(), self._missing()
        told = process.metadata.told()
        segments = self._segments()
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
                "regions": regions["start"].rows,
                "modules": modules["start"].rows,
                "threads": len(threads),
                "flags": len(self.flags) + sum(more.number for more in self.found.more),
                "flagged_segments": int(np.count_nonzero(self._is_flagged())),
            },
            "segments": segments,
            "entropy_along": {str(row): bits for row, bits in looked.along.items()},
            "first_bytes": {str(row): data for row, data in self.first_bytes.items()},
            "header": self._headers(),
            "regions": regions,
            "modules": modules,
            "threads": _threads(threads),
            "flags": self.flags,
            "flags_counted": [
                {"flag": str(more.flag), "severity": str(more.severity), "number": more.number}
                for more in self.found.more
            ],
            "flags_looked_for": [*self.labels.flagged.where],
            **missing,
        }

    # segments

    def _segments(self) -> dict[str, Any]:
        segments, looked, words = self.segments, self.looked, self.words
        no_hashes = values([None] * len(segments))
        return {
            "start": addresses(segments.start),
            "size": integers(segments.size),
            "extents": integers(segments.extents),
            "offset": integers(segments.offset),
            "permissions": encoded(words["permissions"]),
            "protection": encoded(words["protection"]),
            "kind": encoded(words["kind"]),
            "content": encoded(self._content()),
            "file": encoded(words["file"]),
            "entropy": reals(looked.entropy),
            "sha256": hashes(looked.sha256, looked.hashed) if len(looked.sha256) else no_hashes,
            "flagged": encoded(words["flags"]),
            "flags": values(self._indices()),
        }

    def _content(self) -> Words:
        """Return what lies in segments, in a word."""
        contents = self.labels.contents
        found = Words.empty(len(self.segments))
        if contents is None:
            return found
        for place, word in ((self.looked.text, "text"), (contents.zero_pages == contents.pages, "zeros")):
            for row in np.flatnonzero(place & contents.known).tolist():
                found.set(row, row + 1, word)
        for row, headers in contents.headers_of.items():
            if headers:
                found.set(row, row + 1, headers[0].format)
        return found

    def _headers(self) -> dict[str, Any]:
        """Return the first header of each segment that has one."""
        contents = self.labels.contents
        found: dict[str, Any] = {}
        for row, headers in sorted(contents.headers_of.items()) if contents is not None else ():
            if headers:
                facts = headers[0].members()
                found[str(row)] = {"kind": facts.pop("format"), **{_RENAMED.get(k, k): v for k, v in facts.items()}}
        return found

    def _is_flagged(self) -> Bools:
        nothing = np.array([value is None for value in self.words["flags"].values], np.bool_)
        found: Bools = ~nothing[self.words["flags"].codes]
        return found

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

    # what the system says

    def _regions(self) -> dict[str, Any]:
        known = self.process.metadata.regions
        rows = [*Residence(self.process, Selection(half=self.segments.choice.half)).rows()] if known else []
        regions = [row.region for row in rows]
        return {
            "start": addresses(np.array([row.start for row in regions], np.uint64)),
            "size": integers([row.size for row in regions]),
            "resident": integers([row.resident for row in rows]),
            "protection": encoded(Words.of(row.protection for row in regions)),
            "permissions": encoded(Words.of(", ".join(permission_words(row.permissions)) or None for row in rows)),
            "kind": encoded(Words.of(row.kind for row in rows)),
            "file": encoded(Words.of(row.file for row in regions)),
            "file_offset": values([row.offset for row in regions]),
            "private": values([row.private for row in regions]),
            "tag": values([row.tag for row in regions]),
            "source": encoded(Words.of(row.source for row in rows)),
        }

    def _modules(self) -> dict[str, Any]:
        rows = self.known.modules
        return {
            "start": addresses(np.array([row.module.start for row in rows], np.uint64)),
            "size": values([row.module.size for row in rows]),
            "name": values([row.module.name for row in rows]),
            "path": values([row.module.path for row in rows]),
            "source": encoded(Words.of(row.source for row in rows)),
        }

    def _missing(self) -> dict[str, Any]:
        """Return what is mapped and not there: what is known to be missing first, then what the system took out."""
        space = self.process.space
        kinds = (space.missing, True), (space.elsewhere, False)
        rows = [
            [kind.start, kind.size, kind.reason.astype(np.int64), np.full(len(kind), known)] for kind, known in kinds
        ]
        start, size, reason, is_known = (np.concatenate(column)[:_MOST_MISSING] for column in zip(*rows, strict=True))
        count, whole = sum(len(kind) for kind, _ in kinds), sum(total(kind.size) for kind, _ in kinds)
        used, codes = np.unique(reason, return_inverse=True)
        return {
            "missing": {
                "start": addresses(start),
                "size": integers(size),
                "reason": encoded(Words([REASONS[place] for place in used.tolist()], codes)),
                "known_missing": integers(is_known),
            },
            "missing_not_listed": {"rows": count - len(start), "bytes": whole - total(size)},
        }


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
        "benign": [],
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
    nothing: list[Any] = []
    empty = {"values": nothing, "codes": nothing}
    columns = {
        "segments": (
            ("start", "size", "extents", "offset", "entropy", "sha256", "flags"),
            ("permissions", "protection", "kind", "content", "file", "flagged"),
        ),
        "regions": (
            ("start", "size", "resident", "file_offset", "private", "tag"),
            ("protection", "permissions", "kind", "file", "source"),
        ),
        "modules": (("start", "size", "name", "path"), ("source",)),
        "threads": (("tid", "name", "start", "instruction", "teb", "stack_start", "stack_end"), ("state",)),
        "missing": (("start", "size", "known_missing"), ("reason",)),
    }
    tables = {
        name: dict.fromkeys(plain, nothing) | dict.fromkeys(shared, empty) for name, (plain, shared) in columns.items()
    }
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
        "segments": tables["segments"],
        "entropy_along": {},
        "first_bytes": {},
        "header": {},
        "regions": tables["regions"],
        "modules": tables["modules"],
        "threads": tables["threads"],
        "flags": flags,
        "flags_counted": [
            {"flag": str(more.flag), "severity": str(more.severity), "number": more.number} for more in found.more
        ],
        "flags_looked_for": [],
        "missing": tables["missing"],
        "missing_not_listed": {"rows": 0, "bytes": 0},
    }


def _threads(rows: Sequence[Any]) -> dict[str, Any]:
    def places(found: Iterable[int | None]) -> Any:  # noqa: ANN401 - a column
        return values([None if value is None else f"0x{value:x}" for value in found])

    registers = [row.registers or {} for row in rows]
    counters = [next((each[name] for name in _INSTRUCTIONS if name in each), None) for each in registers]
    return {
        "tid": integers([row.tid for row in rows]),
        "name": values([row.name for row in rows]),
        "state": encoded(Words.of(row.state for row in rows)),
        "start": places(row.begin for row in rows),
        "instruction": places(counters),
        "teb": places(row.teb for row in rows),
        "stack_start": places(row.stack_start for row in rows),
        "stack_end": places(row.stack_end for row in rows),
    }


def _time(value: dt.datetime | None) -> str | None:
    return None if value is None else rfc3339(value, "microseconds")
