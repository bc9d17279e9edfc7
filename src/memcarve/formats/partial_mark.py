"""``processes.json.partial``: the mark of a folder whose processes are not all there yet.

It is in the folder from its creation until ``processes.json`` takes its place. The first line is a document that says
what was wanted. Lines are added to it: for each process that is whole, and for each run's begin and end. A line that is
cut off, as a full disk or a power cut leaves it, says nothing. ``docs/formats.md`` describes it.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any, NamedTuple

from memcarve.backing import FileBacking
from memcarve.errors import NotRecognisedError
from memcarve.formats.json_text import dumps, loads
from memcarve.formats.manifest import PROCESSES, SCHEMAS, TOOL

if TYPE_CHECKING:
    from collections.abc import Mapping

NAME = f"{PROCESSES}.partial"
_LARGEST = 1 << 28  # bytes of it that are read
_SHOWN = 20  # processes that a message names
#: a name, which leads nowhere else: where paths are not parted by backslashes, one may stand in it
_PLAIN = re.compile(r"(?!\.\.?$)[^/\0]{1,255}" if os.sep == "/" else r"(?!\.\.?$)[^/\\\0]{1,255}")
_HASH = re.compile(r"[0-9a-f]{64}")


class Mark(NamedTuple):
    """What a mark says: the document, and by the number of a process in it what was recorded when it was whole."""

    head: dict[str, Any]
    rows: dict[int, dict[str, Any]]
    runs: list[dict[str, Any]]

    @property
    def names(self) -> list[str]:
        """What the folder or file of each process is called."""
        return [str(each["file"]) for each in self.head["processes"]]

    @property
    def files(self) -> set[str]:
        """The folders and files of those that are whole."""
        return {name for row in self.rows.values() for name in row["files"]}

    @property
    def missing(self) -> list[int]:
        """The numbers of the processes that are not there."""
        return [number for number in range(len(self.head["processes"])) if number not in self.rows]

    @property
    def problem(self) -> str:
        """What is there and what is not, in words."""
        names = self.names
        there = f"is partial: {len(self.rows)} of {len(names)} processes are whole"
        missing = [names[number] for number in self.missing]
        if not missing:
            return f"{there}, and only {PROCESSES} is not there"
        listed = ", ".join(missing[:_SHOWN])
        more = f" and {len(missing) - _SHOWN} others" if len(missing) > _SHOWN else ""
        return f"{there}; not there: {listed}{more}"


def line(members: Mapping[str, Any]) -> bytes:
    """Return what is added to a mark; it begins a line, so that one before it that was cut off spoils nothing."""
    return b"\n" + dumps(members).encode("ascii")


def of(folder: str) -> Mark | None:
    """Return the mark of a folder; None if it has none. Raises NotRecognisedError, InputError as `read`."""
    path = os.path.join(folder, NAME)
    return read(path) if os.path.lexists(path) else None


def read(path: str) -> Mark:
    """Read a mark, which is as hostile as any input.

    Raises NotRecognisedError if memcarve did not write it, InputError if it is not a regular file, SourceReadError.
    """
    with FileBacking(path, follow=False) as file:
        first, *others = file.read_at(0, _LARGEST).lstrip(b"\n").split(b"\n")
    head = _members(first)
    if head is None or not _is_head(head):
        raise NotRecognisedError("is not what memcarve writes", subject=path)
    rows: dict[int, dict[str, Any]] = {}
    runs = [_run(head)]
    count = len(head["processes"])
    for text in others:
        found = _members(text)
        if found is None:
            continue
        number = found.get("process")
        if type(number) is int and 0 <= number < count:
            rows.pop(number, None)  # it is written again
            if _is_row(found):
                rows[number] = found
        elif isinstance(found.get("run"), dict):
            runs.append(_run(found))
        elif isinstance(found.get("end"), str):
            runs[-1]["end"] = found["end"]
    return Mark(head, rows, runs)


def _run(said: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is known of a run; one that was killed has no end."""
    return {"command": said.get("command"), "operator": said.get("operator"), **said["run"], "end": None}


def is_plain(name: object) -> bool:
    """Return True if a name can be that of a file or folder of a process, and leads nowhere else."""
    return isinstance(name, str) and _PLAIN.fullmatch(name) is not None


def _members(text: bytes) -> dict[str, Any] | None:
    try:
        found = loads(text.decode("ascii"))
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _is_head(head: dict[str, Any]) -> bool:
    rows = head.get("processes")
    return (
        (head.get("tool"), head.get("what"), head.get("state")) == (TOOL, "processes", "partial")
        and head.get("schema") in SCHEMAS
        and isinstance(head.get("run"), dict)
        and isinstance(rows, list)
        and all(isinstance(row, dict) and is_plain(row.get("file")) for row in rows)
    )


def _is_row(found: dict[str, Any]) -> bool:
    files, hashes, row = found.get("files"), found.get("sha256"), found.get("row")
    return (
        isinstance(files, list)
        and all(map(is_plain, files))
        and isinstance(hashes, dict)
        and all(isinstance(value, str) and _HASH.fullmatch(value) for value in hashes.values())
        and isinstance(row, dict)
        and isinstance(row.get("what"), str)
        and isinstance(row.get("complete"), bool)
        and all(type(value) is int for value in (row.get("count"), row.get("bytes"), row.get("of", 0)))
        and isinstance(found.get("input"), dict)
    )
