"""A document that memcarve wrote, held against itself and against what it should say: each difference in one line."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from memcarve.formats import manifest
from memcarve.formats.json_text import dumps
from memcarve.provenance import UNFOUNDED
from memcarve.vocabulary import Half, Split

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    Check = Callable[[Any], bool]

_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")
_ADDRESS = re.compile(r"0x[0-9a-f]{1,17}")
_LONGEST = 60  # characters of a value that are shown
_DEEPEST = 40
#: bytes that are accounted for before and behind the writing of each: of what came first the reason counts
_PROGRAM = "not among the segments that were given"


def differences(found: Any, expected: Any, place: str = "") -> Iterator[str]:  # noqa: ANN401 - as JSON has them
    """Yield how what was found differs from what was expected, each with its place in the document, in one line."""
    if isinstance(found, dict) and isinstance(expected, dict) and place.count(".") < _DEEPEST:
        for name in {**expected, **found}:
            here = f"{place}.{name}" if place else str(name)
            if name not in found:
                yield f"{here[:200]}: is missing; it should be {shown(expected[name])}"
            elif name not in expected:
                yield f"{here[:200]}: is {shown(found[name])}, and should not be there"
            else:
                yield from differences(found[name], expected[name], here)
    elif isinstance(found, list) and isinstance(expected, list) and place.count("[") < _DEEPEST:
        for number, (one, other) in enumerate(zip(found, expected, strict=False)):
            yield from differences(one, other, f"{place}[{number}]")
        if len(found) != len(expected):
            yield f"{place}: has {len(found)} elements, and should have {len(expected)}"
    elif type(found) is not type(expected) or found != expected:
        yield f"{place}: is {shown(found)}, and should be {shown(expected)}"


def shown(value: Any) -> str:  # noqa: ANN401
    """Return a value as JSON, not more of it than a message can hold."""
    text = dumps(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."


def _is_count(value: Any) -> bool:  # noqa: ANN401
    return type(value) is int and value >= 0


def _is_text(value: Any) -> bool:  # noqa: ANN401
    return isinstance(value, str)


def _is_texts(value: Any) -> bool:  # noqa: ANN401
    return isinstance(value, list) and all(isinstance(text, str) for text in value)


def _is_address(value: Any) -> bool:  # noqa: ANN401
    return isinstance(value, str) and _ADDRESS.fullmatch(value) is not None


def _is_left_out(value: Any) -> bool:  # noqa: ANN401
    return isinstance(value, list) and all(
        isinstance(row, dict)
        and row.keys() == {"reason", "segments", "bytes"}
        and isinstance(row["reason"], str)
        and _is_count(row["segments"])
        and _is_count(row["bytes"])
        and row["bytes"] >= row["segments"]
        for row in value
    )


def _or_none(check: Check) -> Check:
    return lambda value: value is None or check(value)


def _is_process(value: Any) -> bool:  # noqa: ANN401
    if not isinstance(value, dict):
        return False
    pid, name, architecture = (value.get(key, 0) for key in ("pid", "name", "architecture"))
    return (pid is None or _is_count(pid)) and all(
        text is None or isinstance(text, str) for text in (name, architecture)
    )


def _is_platform(value: Any) -> bool:  # noqa: ANN401
    return (
        isinstance(value, dict)
        and value.keys() == {"system", "major", "minor", "build"}
        and all(value[name] is None or _is_count(value[name]) for name in ("major", "minor", "build"))
        and (value["system"] is None or isinstance(value["system"], str))
    )


#: what each member must be, in every document of schema 2
_MEMBERS: dict[str, Check] = {
    "schema": lambda value: type(value) is int and value in manifest.SCHEMAS,
    "tool": lambda value: value == manifest.TOOL,
    "version": _is_text,
    "command": _is_texts,
    "time": lambda value: isinstance(value, str) and _TIME.fullmatch(value) is not None,
    "case_id": _or_none(_is_text),
    "operator": _or_none(_is_text),
    "run": lambda value: isinstance(value, dict),
}
_OF_PROCESS: dict[str, Check] = {
    "inputs": lambda value: isinstance(value, dict) and bool(value),
    "process": _is_process,
    "platform": _is_platform,
    "address_bits": lambda value: type(value) is int and value in (32, 48, 57, 64),
    "kernel_half": _is_address,
    "complete": lambda value: isinstance(value, bool),
    "looked_at": lambda value: value in [*Half],
    "choice": _or_none(lambda value: isinstance(value, dict)),
    "options": lambda value: isinstance(value, dict),
    "left_out": _is_left_out,
    "notes": _is_texts,
}
_OF_SEGMENTS: dict[str, Check] = {
    "positions": _or_none(_is_text),
    "partial": lambda value: isinstance(value, bool),
    "totals": lambda value: isinstance(value, dict) and all(_is_count(number) for number in value.values()),
    "hashes": lambda value: _is_texts(value) and len(set(value)) == len(value),
    "split": lambda value: value in [*Split],
}


#: members that no document of schema 1 had
_ONLY_LATER = ("run", "case_id", "operator", "looked_at", "choice", "options")


def own_faults(header: Mapping[str, Any], what: str) -> Iterator[str]:
    """Yield what a document says that memcarve would not write, by itself: members that lack, or of another kind."""
    members = dict(_MEMBERS)
    members |= _OF_PROCESS if what != "processes" else {}
    members |= _OF_SEGMENTS if what == "segments" else {}
    old = header.get("schema") == 1
    for name, check in members.items():
        if name not in header:
            if not old:
                yield f"{name}: is missing"
        elif not check(header[name]):
            yield f"{name}: is {shown(header[name])}, which memcarve does not write"
    for name in _ONLY_LATER if old else ():
        if name in header:
            yield f"{name}: is in a document of schema 1, which had no such member"
    if not old and header.get("what") != what:
        yield f"what: is {shown(header.get('what'))}, and should be {shown(what)}"
    yield from _run_faults(header)
    yield from _input_faults(header)


def _input_faults(header: Mapping[str, Any]) -> Iterator[str]:
    inputs = header.get("inputs")
    rows = [(name, row) for name, row in inputs.items() if isinstance(row, dict)] if isinstance(inputs, dict) else []
    for name, row in rows:
        if "sha256_stated" in row and row["sha256_stated"] != row.get("sha256"):
            yield f"inputs.{name}.sha256_stated: is {shown(row['sha256_stated'])}, and sha256 is another"
        for word in ("sha256_is", "sha256_pass", "sha256_stated"):
            if word in row and not row.get("sha256"):
                yield f"inputs.{name}.{word}: is {shown(row[word])}, and there is no sha256"


def _run_faults(header: Mapping[str, Any]) -> Iterator[str]:
    run, time = header.get("run"), header.get("time")
    if isinstance(run, dict):
        if run.get("end") != time:
            yield f"run.end: is {shown(run.get('end'))}, and time is {shown(time)}"
        begin = run.get("begin")
        if not isinstance(begin, str) or not _TIME.fullmatch(begin) or (isinstance(time, str) and begin > time):
            yield f"run.begin: is {shown(begin)}, and time is {shown(time)}"
        if run.get("memcarve", header.get("version")) != header.get("version"):
            yield f"run.memcarve: is {shown(run.get('memcarve'))}, and version is {shown(header.get('version'))}"


def by_program(header: Mapping[str, Any]) -> int:
    """Return how many bytes a program left out by a choice of its own, which cannot be made again."""
    rows = header.get("left_out")
    named = [row for row in rows if isinstance(row, dict) and row.get("reason") == _PROGRAM] if rows else []
    return sum(row["bytes"] for row in named if _is_count(row.get("bytes")))


def read_by(header: Mapping[str, Any]) -> str | None:
    """Return the program other than memcarve that read an input and says so in its facts; None if there is none."""
    inputs = header.get("inputs")
    rows = inputs.values() if isinstance(inputs, dict) else ()
    return next((row["read_by"] for row in rows if isinstance(row, dict) and isinstance(row.get("read_by"), str)), None)


def differing(header: Mapping[str, Any], expected: Mapping[str, Any]) -> Iterator[str]:
    """Yield how a document differs from the one that the same sink would write now, of what follows from the input.

    Of schema 1 only the members that both have are compared.
    """
    if header.get("schema") == 1:
        both = header.keys() & expected.keys() - {"schema", *UNFOUNDED}
        yield from differences({name: header[name] for name in both}, {name: expected[name] for name in both})
    else:
        yield from differences(dict(header), dict(expected))


def other_tables(header: Mapping[str, Any], expected: Mapping[str, Any]) -> list[str]:
    """Return which tables of regions, modules and threads only one of two documents used; their hashes tell them."""
    before, now = _tables(header), _tables(expected)
    used, were = {row.get("sha256") for row in now}, {row.get("sha256") for row in before}
    return [
        f"inputs.evidence: {row.get('kind')} came from {row.get('path')}, which is not used now: "
        f"give it with --{row.get('kind')}"
        for row in before
        if row.get("sha256") not in used
    ] + [
        f"inputs.evidence: {row.get('path')} is used now, and was not then: leave it out"
        for row in now
        if row.get("sha256") not in were
    ]


def _tables(header: Mapping[str, Any]) -> list[dict[str, Any]]:
    inputs = header.get("inputs")
    rows = inputs.get("evidence") if isinstance(inputs, dict) else None
    return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
