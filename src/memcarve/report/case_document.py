"""The document of a report: what is known of the processes of an input, one after another, bounded and streamed."""

from __future__ import annotations

import dataclasses
import os
from typing import TYPE_CHECKING, Any

from memcarve.backing import FileBacking
from memcarve.errors import MemcarveError, UsageError
from memcarve.formats.manifest import TOOL
from memcarve.hunting.findings.hunt import hunt
from memcarve.provenance import is_source, written
from memcarve.remote.objects import check_here
from memcarve.report.changes import partners
from memcarve.report.picture.drawing_memory import MOST, Portrait
from memcarve.report.process_facts import Found, ProcessFacts, Wanted, failed
from memcarve.sinks.final_name import NewFile
from memcarve.sinks.input_hash import hashed_before
from memcarve.sinks.sink import SinkOptions
from memcarve.times import now, rfc3339
from memcarve.version import __version__
from memcarve.vocabulary import Content, Split

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Iterator, Sequence

    from memcarve.hunting.findings.finding_record import Finding, More
    from memcarve.process import Container, ProcessEntry, ProcessMemory, Progress

SCHEMA = 1
KIND = "memcarve-report"
#: bytes of memory that a report holds at most, unless it is said otherwise
LIMIT = 8 << 20
_NAME = 60  # characters of a process's name above its picture
#: bytes that lie at a finding
EVIDENCE = 64


@dataclasses.dataclass(frozen=True)
class ReportOptions:
    """What a report holds, and what it records.

    `content` is a vocabulary.Content: how closely the bytes are looked at; `split` a vocabulary.Split: where segments
    end, too. `sha256`: each segment has its hash. No more than `max_bytes` of the memory are in the report, 0 for none.
    `title` stands at its top (None: the input's name). `command` is recorded (None: this program's arguments), and so
    are `begin`, `case_id`, `operator`, `hash_input` and `input_sha256`, as in `SinkOptions`. `force` replaces what
    memcarve wrote.

    Raises UsageError for an unknown word.
    """

    content: str = Content.FULL
    split: str = "none"
    sha256: bool = True
    max_bytes: int = LIMIT
    title: str | None = None
    force: bool = False
    command: Sequence[str] | None = None
    begin: dt.datetime | None = None
    case_id: str | None = None
    operator: str | None = None
    hash_input: bool = False
    input_sha256: str | None = None

    def __post_init__(self) -> None:
        _ = self.record  # raises
        Content.check(self.content)
        Split.check(self.split)
        if self.max_bytes < 0:
            raise UsageError(f"{self.max_bytes} is no number of bytes", remedy="give {max_bytes} of 0 or more")

    @property
    def record(self) -> SinkOptions:
        """What is recorded, as sinks take it."""
        names = "force", "command", "begin", "case_id", "operator", "hash_input", "input_sha256"
        return SinkOptions(**{name: vars(self)[name] for name in names})

    def facts(self) -> dict[str, Any]:
        """Return what shapes the report, ready for JSON."""
        return {name: vars(self)[name] for name in ("content", "split", "sha256", "max_bytes")}


class CaseDocument:
    """The document about the processes at some places of a container's list; made while its `members` are iterated.

    Afterwards `failed` are those whose memory could not be looked at, `incomplete` says whether one failed or bytes are
    known to be missing, `embedded` how many bytes of memory are in it; `counts` sums up the totals of all. `notes` are
    sentences for the user, those about a process begin with it. A process that fails does not stop the others.
    `before` is an earlier state, with which each process is compared that was there. With `draws`, `portraits` are what
    a picture shows, of the first 64 of the processes.
    """

    def __init__(
        self,
        container: Container,
        indexes: Sequence[int],
        options: ReportOptions,
        progress: Progress | None = None,
        before: Container | None = None,
        *,
        draws: bool = False,
    ) -> None:
        self.before = before
        self.draws = draws
        self.portraits: list[Portrait] = []
        self.container = container
        self.indexes = [*indexes]
        self.options = options
        self.failed: list[tuple[ProcessEntry, MemcarveError]] = []
        self.incomplete = False
        self.embedded = 0
        self.counts: dict[str, int] = {}
        self.notes: list[str] = []
        self._begin = options.begin or now()
        self._progress = progress
        self._done = 0
        self._inputs: dict[str, dict[str, Any]] = {}
        self._found: dict[int, Found] = {}
        self._was: dict[int, int] = {}
        self._ended: list[ProcessEntry] = []
        self._inputs_before: dict[str, dict[str, Any]] = {}

    def new_file(self, out: str | os.PathLike[str]) -> NewFile:
        """Return a file that is to be written; raises UsageError if it would not lie on this machine."""
        check_here(os.fspath(out), "a report is a file of this machine")
        return NewFile(out, force=self.options.force, inputs=self._paths)

    @property
    def _paths(self) -> list[str]:
        """What must not be written to."""
        return [each.path for each in (self.container, self.before) if each is not None and each.path]

    @property
    def inputs(self) -> list[dict[str, Any]]:
        """The files that were read, ready for JSON."""
        return [*self._inputs.values()]

    @property
    def title(self) -> str:
        """What stands at its top."""
        return _name(self.container) if self.options.title is None else self.options.title

    def members(self) -> Iterator[tuple[str, Any]]:
        """Yield the names and values of its members, for `streamed_json.document`; only once."""
        self._hunt()
        if self.before is not None:
            self._was, self._ended = partners(self.before, self.container, self.indexes)
        yield "schema", SCHEMA
        yield "kind", KIND
        yield "title", self.title
        yield "created", rfc3339(self._begin)
        yield "tool", {"name": TOOL, "version": __version__}
        yield "processes", self._processes()
        yield "bytes", {"embedded": self.embedded, "limit": self.options.max_bytes}
        if self.before is not None:
            yield (
                "compared_with",
                {
                    "title": _name(self.before),
                    "inputs": [*self._inputs_before.values()],
                    "ended": [{"pid": entry.pid, "name": entry.name} for entry in self._ended],
                },
            )
        yield "provenance", self._provenance()

    def _hunt(self) -> None:
        """Look at all processes at once for what is remarkable: much of that comes from comparing them."""
        entries = [self.container.entry(index) for index in self.indexes]
        together = [self.indexes] if len({*entries}) == len(entries) else [[index] for index in self.indexes]
        evidence = EVIDENCE if self.options.max_bytes else 0
        for indexes in together:
            hunted = hunt(self.container, indexes, evidence=evidence)
            self.incomplete |= hunted.incomplete
            findings: dict[ProcessEntry, list[Finding]] = {}
            more: dict[ProcessEntry, list[More]] = {}
            for finding in hunted.findings:
                findings.setdefault(finding.entry, []).append(self._with_room(finding))
            for each in hunted.more:
                more.setdefault(each.entry, []).append(each)
            for index in indexes:
                entry = self.container.entry(index)
                self._found[index] = Found(findings.get(entry, ()), more.get(entry, ()))

    def _with_room(self, finding: Finding) -> Finding:
        """Return a finding without its bytes if there is no room for them."""
        if finding.evidence is None:
            return finding
        if self.embedded + len(finding.evidence.data) > self.options.max_bytes:
            return finding._replace(evidence=None)
        self.embedded += len(finding.evidence.data)
        return finding

    def _processes(self) -> Iterator[dict[str, Any]]:
        for done, index in enumerate(self.indexes):
            yield self._process(index, len(self.indexes) - done)

    def _process(self, index: int, left: int) -> dict[str, Any]:
        entry, found = self.container.entry(index), self._found.pop(index)
        options = self.options
        wanted = Wanted(options.content, options.split, options.sha256)
        error: MemcarveError | None = None
        if entry.has_memory:
            room = (options.max_bytes - self.embedded) // left

            def look(there: ProcessMemory) -> ProcessFacts:
                return ProcessFacts(entry, there, found, wanted, room, was, self._tell(len(self.indexes) - left + 1))

            try:
                was = self._earlier(index)
                memory = self.container.process(index=index, half=self.container.default_half)
                looked = memory.past_unreadable(look)
                facts = self._compared(index, looked.facts())
            except MemcarveError as problem:
                error = problem
                self.failed.append((entry, error))
                self.incomplete = True
            else:
                self._note(entry, looked.process)
                self.embedded += looked.embedded
                self._count(facts["totals"])
                if self.draws and len(self.portraits) < MOST:
                    self.portraits.append(Portrait(_heading(entry, facts["totals"]), looked.drawn))
                return facts
        facts = self._compared(index, failed(entry, error, found))
        self._count(facts["totals"])
        return facts

    def _earlier(self, index: int) -> ProcessMemory | None:
        """Return the earlier state of a process; None if there is none."""
        if self.before is None or index not in self._was or not self.before.entry(self._was[index]).has_memory:
            return None
        found = self.before.process(index=self._was[index], half=self.container.default_half)
        self.incomplete |= found.incomplete
        self._take_inputs(found, self._inputs_before)
        return found

    def _compared(self, index: int, facts: dict[str, Any]) -> dict[str, Any]:
        """Return the members of a process, and if states are compared whether it was there before."""
        return facts if self.before is None else {**facts, "compared": index in self._was}

    def _tell(self, number: int) -> Progress | None:
        """Return what is told how far the work on one process is, the so-and-so-many of all."""
        if self._progress is None:
            return None
        progress, before = self._progress, self._done

        def tell(done: int, total: int) -> None:
            self._done = before + done
            progress(self._done, (before + total) * len(self.indexes) // number)

        return tell

    def _note(self, entry: ProcessEntry, process: ProcessMemory) -> None:
        self.incomplete |= process.incomplete
        self.notes += [f"{entry}: {note}" for note in process.warnings]
        self._take_inputs(process, self._inputs)

    def _take_inputs(self, process: ProcessMemory, taken: dict[str, dict[str, Any]]) -> None:
        for role, each in process.used_inputs.items():
            for row in each if isinstance(each, list) else [each]:
                if isinstance(row, dict) and isinstance(row.get("path"), str) and row["path"] not in taken:
                    more = self._hashed(process) if is_source(process, row) and taken is self._inputs else {}
                    taken[row["path"]] = {"role": role, "sha256": None, **row, **more}

    def _hashed(self, process: ProcessMemory) -> dict[str, Any]:
        """Return what is recorded of the file that a process's memory lies in, which is read once more for its hash."""
        file = process.file
        return hashed_before(file, self.options.record) if isinstance(file, FileBacking) else {}

    def _count(self, totals: dict[str, int]) -> None:
        for name, count in totals.items():
            self.counts[name] = self.counts.get(name, 0) + count

    def _provenance(self) -> dict[str, Any]:
        options = self.options
        record = {
            "command": options.command, "begin": self._begin, "case_id": options.case_id, "operator": options.operator,
        }  # fmt: skip
        found = written("report", record)
        del found["schema"]
        return {
            **found,
            "inputs": self.inputs,
            "options": options.facts(),
            "complete": not self.incomplete,
            "notes": [*self.container.notes],
        }


def _name(container: Container) -> str:
    """Return what an input is called: its whole path is in the provenance."""
    path = str(container)
    name = os.path.basename(os.path.abspath(path))
    return path if not name or name.isdigit() else name  # /proc/4321 tells more than a number


def _heading(entry: ProcessEntry, totals: dict[str, int]) -> str:
    """Return what stands above the picture of a process."""
    words = f"{totals['segments']} segments, {totals['bytes']} bytes, {totals['flags']} findings"
    name = str(entry)
    return f"{name if len(name) <= _NAME else f'{name[: _NAME - 2]}..'}: {words}"
