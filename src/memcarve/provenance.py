"""Where what memcarve wrote comes from: one document, which everything that is written holds or has beside it.

``docs/formats.md`` describes it. `document` makes it, and `Provenance` reads it back.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import re
import sys
from typing import TYPE_CHECKING, Any

from memcarve import remote
from memcarve.backing import status_facts
from memcarve.formats import floating_point
from memcarve.formats.elf_core.process_notes import SIGINFO_SIZE
from memcarve.formats.json_text import dumps, whole
from memcarve.formats.manifest import SCHEMAS, TOOL
from memcarve.intervals import TOP
from memcarve.metadata import Fault, Metadata, Module, Parameters, Region, Regions, SourceRows, Thread
from memcarve.missing import REASONS
from memcarve.process import Platform, ProcessEntry
from memcarve.remote.locations import is_location, word_without_secrets
from memcarve.surroundings import surroundings
from memcarve.times import now, rfc3339
from memcarve.version import __version__
from memcarve.vocabulary import Architecture, Kind

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from memcarve.process import ProcessMemory
    from memcarve.segments import LeftOut

_MOST = 1 << 20  # regions, modules, areas, threads: each
_MOST_MISSING = 1 << 16
_MOST_NOTES = 1000
_LONGEST = 1 << 15  # characters of a text
_LONGEST_ORIGIN = 1 << 16
_MOST_REGISTERS = 64
_MOST_STRINGS = 1 << 16  # of an environment, and
_LONGEST_STRING = 1 << 20  # characters of one of them
_MOST_PARAMETERS = 16
_FIELD = 0xFFFFFFFF
_BYTES = re.compile(r"(?:[0-9a-f]{2})*")
_REGISTER = re.compile(r"[a-z][a-z0-9_]{1,11}")
_ADDRESS = re.compile(r"0x[0-9a-f]{1,17}")
_DEVICE = re.compile(r"([0-9a-f]{2,8}):([0-9a-f]{2,8})")
_BITS = (32, 48, 57, 64)
#: what a source is called whose word is known only by what memcarve wrote
_RECORDED = re.compile(r", as (segments\.json|the core's note|the comment) has it$")


def written(what: str, record: Mapping[str, Any]) -> dict[str, Any]:
    """Return what every document begins with: what it is about, and by which program and command it was written, when.

    `record` is what the caller says: `command`, the command line (None is this program's arguments), `begin`, when the
    work began, `end`, if that is not now, `case_id` and `operator`.
    """
    end = record.get("end") or rfc3339(now())
    command = record["command"]
    found = {
        "schema": SCHEMAS[-1],
        "tool": TOOL,
        "what": what,
        "version": __version__,
        "command": [word_without_secrets(word) for word in (sys.argv if command is None else command)],
        "time": end,
        "case_id": record["case_id"],
        "operator": record["operator"],
        "run": {"begin": rfc3339(record["begin"]), "end": end, **surroundings()},
    }
    return said_again(found, record["again"]) if record.get("again") else found


def document(
    what: str,
    process: ProcessMemory,
    record: Mapping[str, Any],
    *,
    left_out: Iterable[LeftOut] = (),
    choice: Mapping[str, Any] | None = None,
    notes: Iterable[str] = (),
    told: Mapping[str, Any] | None = None,
    architecture: str | None = None,
    platform: Platform | None = None,
) -> dict[str, Any]:
    """Return what is said of a process, ready for JSON; a sink adds what is its own.

    `record` is as for `written`, and may hold `input`, more about the file that the memory lies in, `options`, those
    that shape what is written, and `again`, see `said_again`. `choice` is how the memory was chosen
    (`Selection.facts`), None if a program did it. `told` is what the process says of itself; `architecture` and
    `platform` are given if they are known better than from the process.
    """
    found = {
        **written(what, record),
        "inputs": _inputs(process, record.get("input", {})),
        "process": {
            "pid": process.pid,
            "name": process.name,
            "architecture": architecture or process.architecture,
            **process.entry.facts(),
            **(told or {}),
        },
        "platform": (platform or process.platform)._asdict(),
        "address_bits": process.address_bits,
        "kernel_half": f"0x{process.kernel_half:x}",
        "complete": not process.incomplete,
        "looked_at": process.half,
        "choice": choice,
        "options": record.get("options", {}),
        "left_out": [row._asdict() for row in left_out],
        "notes": [*process.notes, *notes],
    }
    return said_again(found, record["again"]) if record.get("again") else found


#: members that do not follow from the input: of a document, and of each of its inputs
UNFOUNDED = ("version", "command", "time", "case_id", "operator", "run")
UNFOUNDED_OF_INPUTS = (
    "path", "described_by", "modified", "device", "inode", "size_after", "modified_after", "sha256_is", "sha256_pass",
    "sha256_stated", "etag", "object_version", "requests", "fetched", "reused",
)  # fmt: skip
#: how notes begin that say which files were found where, or how a process was looked for
_OPENING_NOTES = (
    *("map: ", "dump: ", "regions: ", "modules: ", "threads: "),
    *("unlisted processes were not looked for", "few pages told"),
)


def said_again(document: dict[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    """Return a document in which everything that does not follow from the input is as in one that was written before.

    That is who wrote it, when, where and by which command, where the inputs lay, and notes on that.
    """
    found = _with(document, before, UNFOUNDED)
    inputs, inputs_before = found.get("inputs"), before.get("inputs")
    if isinstance(inputs, dict) and isinstance(inputs_before, dict):
        found["notes"] = _notes_again(found.get("notes"), before.get("notes"), inputs, inputs_before)
        found["inputs"] = {name: _input_again(each, inputs_before.get(name)) for name, each in inputs.items()}
    return found


def _with(found: dict[str, Any], before: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """Return the same with some members as they were before; one that was not there is not there."""
    found = {name: before.get(name, value) if name in names else value for name, value in found.items()}
    return {name: value for name, value in found.items() if name not in names or name in before}


def _input_again(each: Any, before: Any) -> Any:  # noqa: ANN401 - as JSON has them
    if isinstance(each, list) and isinstance(before, list) and len(each) == len(before):
        return [_input_again(*pair) for pair in zip(each, before, strict=True)]
    if not isinstance(each, dict) or not isinstance(before, dict):
        return each
    found = {**each, **{name: before[name] for name in UNFOUNDED_OF_INPUTS if name in before}}
    found = {name: value for name, value in found.items() if name not in UNFOUNDED_OF_INPUTS or name in before}
    if found.get("sha256", 0) is None or before.get("sha256", 0) is None:  # it was not asked for
        found["sha256"] = before.get("sha256")
    if "trusted" in found and before.get("trusted", 0) is None:  # what settled the positions is said elsewhere
        found["trusted"] = None
    return {name: found[name] for name in (*before, *found) if name in found}  # in the order of before


def _notes_again(notes: Any, before: Any, inputs: dict[str, Any], inputs_before: dict[str, Any]) -> Any:  # noqa: ANN401
    """Return the notes as before if they say the same: where the inputs lie, and how they were found, may differ."""
    texts = [text for text in notes or [] if isinstance(text, str)]
    texts_before = [text for text in before or [] if isinstance(text, str)] if isinstance(before, list) else []
    same = _without_paths(texts, inputs) == _without_paths(texts_before, inputs_before)
    return before if same and isinstance(before, list) and len(texts_before) == len(before) else notes


def _without_paths(notes: Iterable[str], inputs: dict[str, Any]) -> list[str]:
    rows = [row for each in inputs.values() for row in (each if isinstance(each, list) else [each])]
    paths = {str(row["path"]): "" for row in rows if isinstance(row, dict) and row.get("path")}
    found = [text for text in notes if not text.startswith(_OPENING_NOTES)]
    for path in sorted(paths, key=len, reverse=True):
        found = [text.replace(path, "*") for text in found]
    return sorted(found)


def _inputs(process: ProcessMemory, more: Mapping[str, Any]) -> dict[str, Any]:
    """Return the inputs, with `more` about the one that the memory lies in, and what has become of each meanwhile."""
    found: dict[str, Any] = {}
    for name, each in process.used_inputs.items():
        if isinstance(each, list):
            found[name] = [_afterwards(row) for row in each]
        elif isinstance(each, dict):
            found[name] = _afterwards({**each, **(more if is_source(process, each) else {})})
        else:
            found[name] = each
    return found


def is_source(process: ProcessMemory, described: object) -> bool:
    """Return True if one of a process's inputs is the file that its memory lies in."""
    return isinstance(described, dict) and described.get("path") == process.file.path


def _afterwards(described: dict[str, Any]) -> dict[str, Any]:
    """Return what is said of an input, with its length and time of modification now, if they were noted before.

    What lies elsewhere was compared in the end; of it, what was asked for is said instead.
    """
    if is_location(described.get("path")):
        return {**described, **(remote.read_of(described["path"]) or {})}
    if "modified" not in described:
        return described
    try:
        status = status_facts(os.stat(described["path"]))
    except OSError:  # it has been moved or removed
        status = {}
    return {**described, "size_after": status.get("size"), "modified_after": status.get("modified")}


class Later:
    """Texts of a document that are known only once the memory behind it is written: until then, words of their length.

    A file's header is laid out before its memory is written, and written last. The words are random, so that nothing
    from evidence can be taken for them.
    """

    def __init__(self) -> None:
        self.end = f"pending-{os.urandom(6).hex()}"  # as long as a time
        self.sha256 = os.urandom(32).hex()

    def settled(self, blocks: Iterable[bytes], sha256: str | None, end: dt.datetime | None = None) -> Iterator[bytes]:
        """Yield the blocks of a header, none of which ends within a word, with the time and the input's hash.

        `end` is that time (UTC), None if it is now.
        """
        for block in blocks:
            settled = block.replace(self.end.encode(), rfc3339(end or now()).encode())
            yield settled if sha256 is None else settled.replace(self.sha256.encode(), sha256.encode())


def lines(document: Mapping[str, Any], **arrays: Iterable[str]) -> Iterator[str]:
    """Yield a document as text in ASCII: its members, then arrays whose elements are JSON already, one a line.

    So one of half a million elements is written and read line by line. It holds no half of a character, see
    `formats.json_text`.
    """
    yield dumps(document, indent=1)[:-2]
    for name, elements in arrays.items():
        yield f',\n "{name}": ['
        separator = "\n"
        for element in elements:
            yield f"{separator}  {whole(element)}"
            separator = ",\n"
        yield "\n ]"
    yield "\n}\n"


class Provenance:
    """What a document that memcarve wrote says. It is hostile: what memcarve would not write is ignored.

    `called` names the document in the names of sources that are known from it alone.
    """

    def __init__(self, document: dict[str, Any], called: str = "segments.json") -> None:
        self.document = document
        self.process = member(document, "process")
        self.inputs = member(document, "inputs")
        self._called = called

    @classmethod
    def parse(cls, data: bytes, called: str) -> Provenance:
        """Read a document that has been found to be memcarve's; one that is damaged says nothing."""
        try:
            found = json.loads(data)
        except (ValueError, RecursionError):
            found = {}
        return cls(found if isinstance(found, dict) else {}, called)

    @property
    def name(self) -> str | None:
        """The process's name."""
        return _text(self.process.get("name"))

    @property
    def entry(self) -> ProcessEntry:
        """What a list of processes said of it."""
        found, state = self.process, self.process.get("state")
        pid, root = number(found.get("pid")), address(found.get("root"))
        if root is None:
            return ProcessEntry(pid, self.name)
        words = state.split(", ") if isinstance(state, str) else []
        return ProcessEntry(
            pid,
            self.name,
            parent=number(found.get("parent")),
            created=_time(found.get("created")),
            exited=_time(found.get("exited")),
            root=root,
            image_base=address(found.get("image_base")),
            peb=address(found.get("peb")),
            wow64=found["wow64"] if isinstance(found.get("wow64"), bool) else None,
            listed="unlinked" not in words if words else None,
            ended="exited" in words if words else None,
            object=address(found.get("object")),
            doubts=tuple(_texts(found.get("doubts"))),
        )

    @property
    def architecture(self) -> str | None:
        """A vocabulary.Architecture, or None."""
        return word(self.process.get("architecture"), tuple(Architecture))

    @property
    def platform(self) -> Platform:
        """The operating system."""
        found = member(self.document, "platform")
        numbers = (number(found.get(name)) for name in ("major", "minor", "build"))
        system = _text(found.get("system"))
        return Platform(system if system is not None and system.isalnum() else None, *numbers)

    @property
    def complete(self) -> bool:
        """Whether it is said that no bytes are known to be missing."""
        return self.document.get("complete") is True

    @property
    def address_bits(self) -> int | None:
        """How wide addresses are."""
        found = number(self.document.get("address_bits"))
        return found if found in _BITS else None

    @property
    def kernel_half(self) -> int | None:
        """The first address of the kernel's half; cores of schema 1 have it as a number."""
        found = self.document.get("kernel_half")
        return address(found) if isinstance(found, str) else number(found)

    @property
    def origin(self) -> str:
        """The path of the input."""
        paths = [member(self.inputs, name).get("path") for name in ("dump", "image", "map", "folder", *self.inputs)]
        return next((path for path in map(_text, paths) if path is not None), "an unknown input")

    @property
    def written_from(self) -> dict[str, Any]:
        """The inputs, if there are any: the plain members alone, at moderate length."""
        found = {
            name: {key: value for key, value in each.items() if isinstance(value, str | int)}
            for name, each in self.inputs.items()
            if isinstance(each, dict)
        }
        return {"written_from": found} if found and len(dumps(found)) < _LONGEST_ORIGIN else {}

    @property
    def notes(self) -> list[str]:
        """What was said about the input."""
        return _texts(self.document.get("notes"))

    @property
    def left_out(self) -> list[tuple[str, int]]:
        """Why bytes of the input were left out, and how many."""
        rows = ((_text(row.get("reason")), number(row.get("bytes"))) for row in _rows(self.document, "left_out"))
        return [(reason, count) for reason, count in rows if reason is not None and count is not None][:_MOST_NOTES]

    @property
    def missing(self) -> list[tuple[int, int, int]]:
        """What is mapped and not there: start, size, and the place of the reason in REASONS."""
        found = []
        for row in _rows(self.document, "missing")[:_MOST_MISSING]:
            bounds, reason = _bounds(row), word(row.get("reason"), REASONS)
            if bounds is not None and bounds[1] < TOP and reason is not None:
                found.append((*bounds, REASONS.index(reason)))
        return found

    def metadata(self, touched: Iterable[dict[str, Any]]) -> Metadata:
        """Return what is known of a process, of regions, modules, areas and threads at most 2**20 each.

        `touched` are labels of segments, as ``segments.json`` has them, in which regions, modules and areas stand.
        Raises what iterating them raises.
        """
        regions: dict[Region, None] = {}
        modules: dict[str, dict[Module, None]] = {}
        areas: dict[Region, None] = {}
        for labels in touched:
            for row in _rows(labels, "regions"):
                bounds = _bounds(row)
                if bounds and len(regions) < _MOST:
                    regions[_region(row, *bounds)] = None
            for row in _rows(labels, "modules"):
                base = address(row.get("base"))
                listed = modules.setdefault(_text(row.get("source")) or "unknown", {}) if len(modules) < _MOST else {}
                if base is not None and len(listed) < _MOST:
                    listed[Module(base, number(row.get("size")), _text(row.get("name")), _text(row.get("path")))] = None
            for row in _rows(labels, "areas"):
                bounds, kind = _bounds(row), _kind(row)
                if bounds and kind and len(areas) < _MOST:
                    areas[
                        Region(*bounds, kind=kind, whole=row.get("whole") is True, detail=_text(row.get("detail")))
                    ] = None
        summary = self.document.get("labels")
        document: dict[str, Any] = summary if isinstance(summary, dict) else {}
        sources = document.get("sources")
        named = next(iter(_rows(sources if isinstance(sources, dict) else {}, "regions")), {}).get("source")
        threads = [thread for row in _rows(document, "threads")[:_MOST] if (thread := _thread(row)) is not None]
        return Metadata(
            (Regions(self._recorded(_text(named)), regions),) if regions else (),
            tuple(SourceRows(self._recorded(source), list(rows)) for source, rows in modules.items()),
            (SourceRows(self._recorded(None), threads),) if threads else (),
            (SourceRows(self._recorded(None), list(areas)),) if areas else (),
            complete=not (regions or modules),
            parameters=self.parameters,
            unloaded=self._unloaded(),
        )

    @property
    def parameters(self) -> tuple[Parameters, ...]:
        """What the process was started with."""
        return tuple(
            Parameters(
                self._recorded(_text(row.get("source"))),
                _text(row.get("command_line")),
                _text(row.get("image_path")),
                _text(row.get("current_directory")),
                _strings(row.get("environment")),
            )
            for row in _rows(self.process, "parameters")[:_MOST_PARAMETERS]
        )

    def _unloaded(self) -> tuple[SourceRows[Module], ...]:
        """Return the modules that were unloaded, by their sources."""
        lists: dict[str, list[Module]] = {}
        for row in _rows(self.process, "unloaded")[:_MOST]:
            base = address(row.get("base"))
            if base is not None:
                size, timestamp, checksum, sequence = (
                    number(row.get(name)) for name in ("size", "timestamp", "checksum", "sequence")
                )
                listed = Module(base, size, _text(row.get("name")), None, timestamp, checksum, sequence)
                lists.setdefault(_text(row.get("source")) or "unknown", []).append(listed)
        if not lists and self.process.get("unloaded") == []:
            return (SourceRows(self._recorded(None), ()),)
        return tuple(SourceRows(self._recorded(source), rows) for source, rows in lists.items())

    def _recorded(self, source: str | None) -> str:
        """Return what a source is called whose word is known by this alone."""
        return self._called if source is None else f"{_RECORDED.sub('', source)}, as {self._called} has it"


def _time(value: object) -> dt.datetime | None:
    try:
        found = dt.datetime.fromisoformat(value) if isinstance(value, str) else None
        return found.astimezone(dt.UTC) if found and found.tzinfo else None
    except (ValueError, OverflowError):
        return None


def _texts(value: object) -> list[str]:
    texts = value if isinstance(value, list) else []
    return [text for text in texts[:_MOST_NOTES] if isinstance(text, str)]


def _strings(value: object) -> tuple[str, ...] | None:
    """Return texts; None for anything else."""
    if not isinstance(value, list) or len(value) > _MOST_STRINGS:
        return None
    found = tuple(text for text in value if isinstance(text, str) and len(text) <= _LONGEST_STRING)
    return found if len(found) == len(value) else None


def _rows(labels: dict[str, Any], name: str) -> list[dict[str, Any]]:
    rows = labels.get(name)
    return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []


def _region(row: dict[str, Any], start: int, size: int) -> Region:
    private = row.get("private")
    return Region(
        start,
        size,
        _text(row.get("protection")),
        _kind(row),
        _text(row.get("file")),
        _text(row.get("tag")),
        private if isinstance(private, bool) else None,
        number(row.get("offset")),
        address(row.get("allocation")),
        detail=_text(row.get("detail")),
        device=_device(row.get("device")),
        inode=number(row.get("inode")),
    )


def _device(value: object) -> tuple[int, int] | None:
    """Return major and minor number of a device."""
    found = _DEVICE.fullmatch(value) if isinstance(value, str) else None
    return None if found is None else (int(found[1], 16), int(found[2], 16))


def _thread(row: dict[str, Any]) -> Thread | None:
    tid = number(row.get("tid"))
    teb, low, high, begin = (address(row.get(name)) for name in ("teb", "stack_start", "stack_end", "begin"))
    if tid is None:
        return None
    known, area = _registers(row.get("registers")), _area(row.get("floating"))
    name, state = _text(row.get("name")), _text(row.get("state"))
    return Thread(tid, teb, low, high, begin, known, area, name, fault(row.get("fault")), state)


def fault(row: object) -> Fault | None:
    """Return why a thread was stopped, as `Fault.facts` says it; None for anything else."""
    if not isinstance(row, dict):
        return None
    given = row.get("parameters")
    parameters = [address(value) for value in given[:_MOST_PARAMETERS]] if isinstance(given, list) else []
    information = row.get("siginfo")
    return Fault(
        number(row.get("signal")),
        address(row.get("exception"), most=_FIELD),
        number(row.get("flags")),
        address(row.get("address")),
        tuple(value for value in parameters if value is not None),
        _bytes(information) if isinstance(information, str) and len(information) == 2 * SIGINFO_SIZE else None,
        _registers(row.get("registers")),
        _area(row.get("floating")),
    )


def _area(value: object) -> bytes | None:
    """Return an area of x87 and SSE registers; None for anything else."""
    if not isinstance(value, str) or len(value) > 2 * floating_point.LARGEST:
        return None
    found = _bytes(value)
    return found if found is not None and floating_point.is_sound(len(found)) else None


def _bytes(text: str) -> bytes | None:
    return bytes.fromhex(text) if _BYTES.fullmatch(text) else None


def _registers(row: object) -> dict[str, int] | None:
    if not isinstance(row, dict) or len(row) > _MOST_REGISTERS:
        return None
    found = {name: value for name, text in row.items() if (value := address(text)) is not None}
    return {name: value for name, value in found.items() if _REGISTER.fullmatch(name)}


def _bounds(row: dict[str, Any]) -> tuple[int, int] | None:
    """Return start and size; None if they are not a range."""
    start, end = address(row.get("start")), address(row.get("end"), most=TOP)
    return None if start is None or end is None or not start < end else (start, end - start)


def address(value: object, most: int = TOP - 1) -> int | None:
    """Return an address as memcarve writes it, up to `most`; None for anything else."""
    found = int(value, 16) if isinstance(value, str) and _ADDRESS.fullmatch(value) else None
    return found if found is None or found <= most else None


def number(value: object) -> int | None:
    """Return a number below 2**64; None for anything else."""
    return value if type(value) is int and 0 <= value < TOP else None


def member(document: dict[str, Any], name: str) -> dict[str, Any]:
    """Return the object that a document has under a name; an empty one if there is none."""
    found = document.get(name)
    return found if isinstance(found, dict) else {}


def word(value: object, known: tuple[str, ...]) -> str | None:
    """Return one of the `known` words; None for anything else."""
    return next((known_word for known_word in known if known_word == value), None)


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and len(value) <= _LONGEST else None


def _kind(row: dict[str, Any]) -> str | None:
    kind = row.get("kind")
    return next((known for known in Kind if known == kind), None)
