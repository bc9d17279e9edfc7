"""What a carved folder's manifest says of its segments, read back as evidence."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from memcarve.intervals import TOP
from memcarve.metadata import Metadata, Module, Parameters, Region, Regions, SourceRows, Thread
from memcarve.vocabulary import Kind

if TYPE_CHECKING:
    from collections.abc import Iterable

    from memcarve.formats.manifest import Record

_MOST = 1 << 20  # regions, modules, areas, threads: each
_LONGEST = 1 << 15  # characters of a text
_MOST_REGISTERS = 64
_MOST_STRINGS = 1 << 16  # of an environment, and
_LONGEST_STRING = 1 << 20  # characters of one of them
_MOST_PARAMETERS = 16
_REGISTER = re.compile(r"[a-z][a-z0-9_]{1,9}")
_ADDRESS = re.compile(r"0x[0-9a-f]{1,17}")


def recorded_metadata(header: dict[str, Any], records: Iterable[Record]) -> Metadata:
    """Return what a manifest tells of a process, of regions, modules, areas and threads at most 2**20 each.

    Regions, modules and areas are those that segments touched. The manifest may hold anything: what is not as memcarve
    writes it is passed over. Raises what iterating the records raises.
    """
    regions: dict[Region, None] = {}
    modules: dict[str, dict[Module, None]] = {}
    areas: dict[Region, None] = {}
    for record in records:
        for row in _rows(record.labels, "regions"):
            bounds = _bounds(row)
            if bounds and len(regions) < _MOST:
                regions[_region(row, *bounds)] = None
        for row in _rows(record.labels, "modules"):
            base = address(row.get("base"))
            listed = modules.setdefault(_text(row.get("source")) or "unknown", {}) if len(modules) < _MOST else {}
            if base is not None and len(listed) < _MOST:
                listed[Module(base, number(row.get("size")), _text(row.get("name")), _text(row.get("path")))] = None
        for row in _rows(record.labels, "areas"):
            bounds, kind = _bounds(row), _kind(row)
            if bounds and kind and len(areas) < _MOST:
                areas[Region(*bounds, kind=kind, whole=row.get("whole") is True, detail=_text(row.get("detail")))] = (
                    None
                )
    labels = header.get("labels")
    document: dict[str, Any] = labels if isinstance(labels, dict) else {}
    sources = document.get("sources")
    named = next(iter(_rows(sources if isinstance(sources, dict) else {}, "regions")), {}).get("source")
    threads = [thread for row in _rows(document, "threads")[:_MOST] if (thread := _thread(row)) is not None]
    return Metadata(
        (Regions(_recorded(_text(named)), regions),) if regions else (),
        tuple(SourceRows(_recorded(source), list(rows)) for source, rows in modules.items()),
        (SourceRows(_recorded(None), threads),) if threads else (),
        (SourceRows(_recorded(None), list(areas)),) if areas else (),
        complete=not (regions or modules),
        parameters=recorded_parameters(header),
        unloaded=_recorded_unloaded(header),
    )


def recorded_parameters(header: dict[str, Any]) -> tuple[Parameters, ...]:
    """Return what a document that memcarve wrote says that the process was started with."""
    return tuple(
        Parameters(
            _recorded(_text(row.get("source"))),
            _text(row.get("command_line")),
            _text(row.get("image_path")),
            _text(row.get("current_directory")),
            _strings(row.get("environment")),
        )
        for row in _rows(member(header, "process"), "parameters")[:_MOST_PARAMETERS]
    )


def _recorded_unloaded(header: dict[str, Any]) -> tuple[SourceRows[Module], ...]:
    """Return the modules that were unloaded, by their sources."""
    process = member(header, "process")
    lists: dict[str, list[Module]] = {}
    for row in _rows(process, "unloaded")[:_MOST]:
        base = address(row.get("base"))
        if base is not None:
            size, timestamp, checksum, sequence = (
                number(row.get(name)) for name in ("size", "timestamp", "checksum", "sequence")
            )
            listed = Module(base, size, _text(row.get("name")), None, timestamp, checksum, sequence)
            lists.setdefault(_text(row.get("source")) or "unknown", []).append(listed)
    if not lists and process.get("unloaded") == []:
        return (SourceRows(_recorded(None), ()),)
    return tuple(SourceRows(_recorded(source), rows) for source, rows in lists.items())


def _strings(value: object) -> tuple[str, ...] | None:
    """Return texts; None for anything else."""
    if not isinstance(value, list) or len(value) > _MOST_STRINGS:
        return None
    found = tuple(text for text in value if isinstance(text, str) and len(text) <= _LONGEST_STRING)
    return found if len(found) == len(value) else None


def _recorded(source: str | None) -> str:
    """Return what a source is called whose word is known by the manifest alone."""
    return "segments.json" if source is None else source.removesuffix(_SUFFIX) + _SUFFIX


_SUFFIX = ", as segments.json has it"


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
    )


def _thread(row: dict[str, Any]) -> Thread | None:
    tid = number(row.get("tid"))
    teb, low, high, begin = (address(row.get(name)) for name in ("teb", "stack_start", "stack_end", "begin"))
    return None if tid is None else Thread(tid, teb, low, high, begin, _registers(row.get("registers")))


def _registers(row: object) -> dict[str, int] | None:
    if not isinstance(row, dict) or len(row) > _MOST_REGISTERS:
        return None
    found = {name: value for name, text in row.items() if (value := address(text)) is not None}
    return {name: value for name, value in found.items() if _REGISTER.fullmatch(name)}


def _bounds(row: dict[str, Any]) -> tuple[int, int] | None:
    """Return start and size; None where they make no range."""
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
    """Return the object that a document has under a name; an empty one where there is none."""
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
