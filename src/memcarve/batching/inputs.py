"""The inputs of a batch: lists of them, the same one named twice, and whether one has changed since."""

from __future__ import annotations

import codecs
import os
import re
import sys
import unicodedata
from collections import Counter
from typing import TYPE_CHECKING, Any

from memcarve import remote
from memcarve.errors import InputError, UsageError
from memcarve.remote.locations import is_location

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_LARGEST = 1 << 26  # bytes of a list
_LONGEST = 60  # characters of a folder's name, which may take four bytes each
_DEEPEST = 8  # how many folders above an input may be in the name of its folder
#: what cannot be the name of a folder on Windows, whatever its ending
_DEVICES = re.compile(r"(?i)(con|prn|aux|nul|com\d|lpt\d)(\..*)?")


def read_list(path: str, *, nul: bool) -> list[str]:
    """Return the paths that a file has one a line, or with a NUL after each; ``-`` is standard input.

    Lines may end as on Windows, and be in UTF-16 with a byte-order mark, as PowerShell writes them. Empty ones are left
    out; nothing else is: a name may begin and end with spaces.

    Raises InputError, UsageError.
    """
    called = "standard input" if path == "-" else path
    try:
        if path == "-":
            data = sys.stdin.buffer.read(_LARGEST + 1)
        else:
            with open(path, "rb") as file:
                data = file.read(_LARGEST + 1)
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", subject=called) from error
    if len(data) > _LARGEST:
        raise InputError(f"is larger than {_LARGEST >> 20} MiB, and is hardly a list of inputs", subject=called)
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        data = data.decode("utf-16", "replace").encode("utf-8", "replace")
    data = data.removeprefix(codecs.BOM_UTF8)
    if not nul and b"\0" in data:
        raise UsageError("holds NUL, which no name does", subject=called, remedy="a list of such is read with -0")
    if nul and data and b"\0" not in data:
        raise UsageError("holds no NUL", subject=called, remedy="leave -0 out: a list has one name a line")
    parts = data.split(b"\0") if nul else [line.removesuffix(b"\r") for line in data.split(b"\n")]
    return [os.fsdecode(part) for part in parts if part]


def once_each(paths: Iterable[str]) -> tuple[list[str], list[str]]:
    """Return paths without those that lead to what another has named, and these."""
    seen: set[str] = set()
    kept, again = list[str](), list[str]()
    for path in paths:
        place = path if is_location(path) else os.path.realpath(path)
        (again if place in seen else kept).append(path)
        seen.add(place)
    return kept, again


def identity(path: str) -> dict[str, Any]:
    """Return length and time of modification (ns) of a file, the latter of a folder; None if nothing is there.

    It is only asked of the system, or of the store that an input lies in: what the input holds is the business of the
    command, in its own process.
    """
    if is_location(path):
        return remote.identity(path)
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return {"size": None, "modified": None}
    return {"size": None if os.path.isdir(path) else status.st_size, "modified": status.st_mtime_ns}


def folder_names(paths: Sequence[str], taken: Iterable[str] = ()) -> list[str]:
    """Return a folder's name for each input: its own name, in which plain characters alone stay.

    Inputs of one name have the folders that they lie in put before it, as many as tell them apart (``host1-mem.raw``);
    what cannot be told apart so, or is `taken` already, gets a number.
    """
    parts = [[part for part in _place(path).split(os.sep) if part] for path in paths]
    names = [_plain(part[-1:]) for part in parts]
    for depth in range(2, _DEEPEST + 1):
        count = Counter(map(_folded, names))
        deeper = [number for number, name in enumerate(names) if count[_folded(name)] > 1]
        if not deeper:
            break
        for number in deeper:
            names[number] = _plain(parts[number][-depth:])
    used = set(map(_folded, taken))
    found = []
    for name in names:
        told, number = name, 1
        while _folded(told) in used:
            number += 1
            told = f"{name}+{number}"  # many of one name are rare
        used.add(_folded(told))
        found.append(told)
    return found


def _place(path: str) -> str:
    """Return an absolute path, or what follows the scheme of a location."""
    if is_location(path):
        return path.partition("://")[2].partition("?")[0].replace("/", os.sep)
    return os.path.abspath(path)


def _plain(parts: Sequence[str]) -> str:
    """Return a name for a folder: letters of any language, digits, and little else."""
    found = re.sub(r"[^\w.-]+", "_", unicodedata.normalize("NFC", "-".join(parts)))
    found = found.lstrip(".-")[-_LONGEST:].strip(".-") or "input"
    return f"_{found}" if _DEVICES.fullmatch(found) else found


def _folded(name: str) -> str:
    """Return a name as file systems compare it that take some names for the same."""
    return unicodedata.normalize("NFKC", name).casefold()
