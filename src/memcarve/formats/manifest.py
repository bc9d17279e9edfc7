"""``segments.json``, ``modules.json``, ``processes.json``: what a folder that memcarve wrote holds.

``docs/formats.md`` describes them. They are written and read line by line, an element of an array a line, so that half
a million segments cost no memory.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any, NamedTuple

from memcarve.backing import open_regular
from memcarve.errors import InputError, NotRecognisedError, SourceReadError
from memcarve.formats.json_text import dumps, half_in, strict

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

NAME = "segments.json"
#: beside the folders of several processes: how each of them ended
PROCESSES = "processes.json"
#: beside the files of modules: how each was made, and what of it was missing
MODULES = "modules.json"
#: the versions of the documents that are read; the last one is written. It changes when a reader would be wrong
SCHEMAS = (1, 2)
TOOL = "memcarve"
#: hash functions by name, as `hashing.new_digest` takes them, and the file that sums of each go into: it is called as
#: the program that checks it, sha256sum or b3sum
SUMS = {"sha256": "SHA256SUMS", "sha1": "SHA1SUMS", "md5": "MD5SUMS", "blake3": "B3SUMS"}

#: a segment's file: start, end, and perhaps words of its labels, each after a dot
FILE_NAME = re.compile(r"0x([0-9a-f]{16})-0x([0-9a-f]{16,17})(?:\.[A-Za-z0-9_-][A-Za-z0-9_.-]{0,99})?\.bin")

#: a module's file: its first address and plain words, under an ending that no double click runs
MODULE_FILE = re.compile(r"0x[0-9a-f]{16}\.[A-Za-z0-9_-][A-Za-z0-9_.-]{0,99}\.bin")

_LONGEST = 1 << 26  # a segment may lie in very many regions
_LARGEST_HEADER = 1 << 25
_OTHER_HANDS = "memcarve writes nothing of the kind: it was changed, or written by an earlier version; write it again"
_LARGEST = 1 << 26  # bytes of processes.json that are read


class Record(NamedTuple):
    """One segment in the manifest.

    `hashes` are by the function's name, `zero` is None if nothing read the bytes, `labels` hold anything.
    """

    start: int
    end: int
    file: str
    offset: int
    extents: int
    hashes: dict[str, str]
    zero: bool | None
    labels: dict[str, Any] = {}  # noqa: RUF012 - nobody changes it

    @property
    def size(self) -> int:
        """The number of bytes."""
        return self.end - self.start


def missing_lines(missing: Iterable[tuple[int, int, str]]) -> Iterator[str]:
    """Yield what is missing, given as start, size and reason, as JSON."""
    for start, size, reason in missing:
        yield (
            f'{{"start": "0x{start:016x}", "end": "0x{start + size:016x}", "size": {size}, "reason": {dumps(reason)}}}'
        )


def file_name(start: int, end: int, words: str = "") -> str:
    """Return a segment's file name; `words` of its labels are plain, and each has a dot before it."""
    return f"0x{start:016x}-0x{end:016x}{words}.bin"


def module_file_name(start: int, name: str) -> str:
    """Return the name of a module's file; of its own name, which may hold anything, plain characters are kept."""
    plain = re.sub(r"[^A-Za-z0-9_.-]", "_", name[-80:]).lstrip(".") or "_"
    return f"0x{start:016x}.{plain}.bin"


def segment_lines(rows: Iterable[tuple[int, int, int, int, bool | None, str, str]]) -> Iterator[str]:
    """Yield segments as JSON: each by start, size, offset, number of extents, whether it is zero, and its file's name.

    The last of a row are other members, as `hash_members` and others make them.
    """
    for start, size, offset, extents, zero, file, members in rows:
        yield (
            f'{{"start": "0x{start:016x}", "end": "0x{start + size:016x}", "size": {size}, '
            f'"file": "{file}", "offset": {offset}, "extents": {extents}, '
            f'{members}"zero": {_ZERO[zero]}}}'
        )


def hash_members(name: str, values: Iterable[str]) -> list[str]:
    """Return the members that hold hashes of segments, by the function `name`."""
    return [f'"{name}": "{value}", ' for value in values]


def permission_members(permissions: str | None, state: str) -> str:
    """Return the members that say what page tables allow of a segment, and how its pages were found."""
    return f'"permissions": {dumps(permissions)}, "state": {dumps(state)}, '


def origin_member(origins: Mapping[str, int]) -> str:
    """Return the member that says how many bytes of a segment were found in which way; empty if nothing is said."""
    return f'"origins": {dumps(dict(origins))}, ' if origins else ""


def part_member(start: int, end: int) -> str:
    """Return the member that says what a segment that was split off is part of."""
    return f'"part_of": {{"start": "0x{start:016x}", "end": "0x{end:016x}"}}, '


def label_member(labels: str) -> str:
    """Return the member that holds a segment's labels, which are JSON already; empty if there are none."""
    return f'"labels": {labels}, ' if labels != "{}" else ""


_ZERO = {None: "null", True: "true", False: "false"}


def read(path: str) -> tuple[dict[str, Any], Iterator[Record]]:
    """Read a manifest: return its header (without ``missing`` and ``segments``) and an iterator of the segments.

    It is as hostile as any input. Raises NotRecognisedError if memcarve did not write it, and InputError if it is
    damaged, at once or while iterating.
    """
    header, elements = rows(path)
    return header, _records(path, elements)


def rows(path: str) -> tuple[dict[str, Any], Iterator[tuple[str, str]]]:
    """Read a manifest as it is written: return its header, and each element as the name of its array and its text.

    Raises as `read`, but for what is damaged in an element.
    """
    source = lines(path)
    header = _header(path, source, "missing")
    if header.get("schema") not in SCHEMAS:
        raise InputError(f"has schema {header.get('schema')}; this memcarve knows {SCHEMAS[-1]}", subject=path)
    return header, _rows(path, source)


def _rows(path: str, source: Iterator[str]) -> Iterator[tuple[str, str]]:
    array = "missing"
    for line in source:
        text = line.rstrip("\n")
        if array == "missing" and text == ' "segments": [':
            array = "segments"
        elif text == " ]" and array == "segments":
            if next(source, "").rstrip("\n") != "}" or next(source, None) is not None:
                raise InputError("does not end after its segments", subject=path)
            return
        elif text != " ]," or array == "segments":
            yield array, text.removesuffix(",").removeprefix("  ")
    raise InputError(
        "is cut off within its segments" if array == "segments" else "is cut off: it lists no segments", subject=path
    )


def _header(path: str, source: Iterator[str], array: str) -> dict[str, Any]:
    """Read the members before the first array."""
    opening, length = [], 0
    for line in source:
        if line.rstrip("\n") == f' "{array}": [':
            break
        opening.append(line)
        length += len(line)
        if len(opening) > 100_000 or length > _LARGEST_HEADER:  # noqa: PLR2004 - threads and findings are bounded
            raise NotRecognisedError("has no end to its header; memcarve did not write it", subject=path)
    try:
        header = strict("".join(opening).rstrip().removesuffix(",") + "}")
    except (ValueError, RecursionError):
        raise NotRecognisedError("is not a manifest that memcarve wrote", subject=path) from None
    if not isinstance(header, dict) or header.get("tool") != TOOL:
        raise NotRecognisedError("is not a manifest that memcarve wrote", subject=path)
    return header


def modules(path: str) -> dict[str, str]:
    """Return the names of the files that a ``modules.json`` lists, with their SHA-256.

    Raises NotRecognisedError, SourceReadError, and ValueError, TypeError, KeyError or RecursionError if it is damaged.
    """
    source = lines(path)
    _header(path, source, "modules")
    elements = iter(lambda: next(source, ""), " ]\n")
    found = [strict(line.strip().removesuffix(",")) for line in elements]
    return {row["file"]: row["sha256"] for row in found if row["file"] and MODULE_FILE.fullmatch(row["file"])}


def processes(path: str) -> list[str] | None:
    """Return the files and folders that a ``processes.json`` lists, sorted; None if memcarve did not write it.

    Raises InputError if it is not a regular file or holds half of a character, SourceReadError.
    """
    text = "".join(lines(path, _LARGEST))
    try:
        document = strict(text)
        if document["tool"] != TOOL:
            return None
        rows = document["processes"]
        if document["schema"] == 1:
            return sorted(str(row["folder"]) for row in rows if row["folder"] is not None)
        return sorted(str(name) for row in rows for name in row["files"])
    except (ValueError, TypeError, KeyError, RecursionError):
        return None


def document(path: str) -> dict[str, Any]:
    """Return all of a short document that memcarve wrote; raises as `processes`, and NotRecognisedError."""
    text = "".join(lines(path, _LARGEST))
    try:
        found = strict(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or found.get("tool") != TOOL:
        raise NotRecognisedError("is not a document that memcarve wrote", subject=path)
    return found


def lines(path: str, most: int | None = None) -> Iterator[str]:
    """Yield the lines of a document that memcarve wrote, which is ASCII; nothing is waited for, no link is followed.

    Raises InputError, which names the line, if one holds half of a character or is not UTF-8; NotRecognisedError if one
    is longer than memcarve writes any, or all of it is longer than `most` bytes; SourceReadError.
    """
    try:
        with open_regular(path) as file:
            if most is not None and os.fstat(file.fileno()).st_size > most:
                raise NotRecognisedError(f"is longer than {most >> 20} MiB; memcarve did not write it", subject=path)
            number = 0
            while line := file.readline(_LONGEST):
                number += 1
                if len(line) == _LONGEST:
                    raise NotRecognisedError(
                        f"holds a line of {_LONGEST >> 20} MiB; memcarve did not write it", subject=path
                    )
                try:
                    text = line.decode("utf-8")
                except UnicodeDecodeError:
                    raise InputError(f"line {number}: is not UTF-8", subject=path, remedy=_OTHER_HANDS) from None
                half = half_in(text)
                if half is not None:
                    problem = f"line {number}: holds half of a character, {half}"
                    raise InputError(problem, subject=path, remedy=_OTHER_HANDS)
                yield text
    except OSError as error:
        raise SourceReadError(f"cannot be read: {error.strerror}", subject=path) from error


def _records(path: str, elements: Iterator[tuple[str, str]]) -> Iterator[Record]:
    segments = (text for array, text in elements if array == "segments")
    for number, text in enumerate(segments):
        try:
            yield record(strict(text))
        except (ValueError, TypeError, KeyError, RecursionError):
            raise InputError(f"segment {number} is damaged: {text.strip()[:60]}", subject=path) from None


def record(found: dict[str, Any]) -> Record:
    """Return one segment of a manifest; raises ValueError, TypeError or KeyError if it is damaged."""
    start, end = int(found["start"], 16), int(found["end"], 16)
    numbers = (found["size"], found["offset"], found["extents"])
    if any(type(value) is not int or value < 0 for value in numbers) or end - start != found["size"]:
        raise ValueError("numbers that do not fit")
    if not isinstance(found["file"], str) or not isinstance(found["zero"], bool | None):
        raise TypeError("a name or a flag of another type")
    hashes = {name: found[name] for name in SUMS if name in found}
    if any(not isinstance(value, str) for value in hashes.values()):
        raise ValueError("a hash of another type")
    labels = found.get("labels", {})
    if not isinstance(labels, dict):
        raise TypeError("labels of another type")
    return Record(start, end, found["file"], found["offset"], found["extents"], hashes, found["zero"], labels)
