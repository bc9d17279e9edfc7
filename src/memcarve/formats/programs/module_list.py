"""``modules.json``: which programs and libraries were taken out of memory, how, and what of them was missing.

The document is written and read line by line, a module a line. ``docs/formats.md`` describes it.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

NAME = "modules.json"
SUMS = "SHA256SUMS"
TOOL = "memcarve"

#: a module's file: its first address and plain words, under an ending that no double click runs
FILE_NAME = re.compile(r"0x[0-9a-f]{16}\.[A-Za-z0-9_-][A-Za-z0-9_.-]{0,99}\.bin")

_OPENING = ' "modules": ['
_LONGEST_HEADER = 1 << 20  # characters
_LONGEST = 1 << 26
_PLAIN = re.compile(r"[^A-Za-z0-9_.-]")


def file_name(start: int, name: str) -> str:
    """Return the name of a module's file; of its own name, which may hold anything, plain characters are kept."""
    plain = _PLAIN.sub("_", name[-80:]).lstrip(".") or "_"
    return f"0x{start:016x}.{plain}.bin"


def files(path: str) -> set[str] | None:
    """Return the names of the files that a ``modules.json`` lists; None if memcarve did not write it."""
    found: set[str] = set()
    try:
        with open(path, encoding="utf-8") as file:
            if not _is_own(file):
                return None
            for line in iter(lambda: file.readline(_LONGEST), " ]\n"):
                name = json.loads(line.strip().removesuffix(","))["file"]
                if name is not None:
                    found.add(name)
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None
    return {name for name in found if isinstance(name, str) and FILE_NAME.fullmatch(name)}


def _is_own(file: Iterable[str]) -> bool:
    opening: list[str] = []
    length = 0
    for line in file:
        if line == f"{_OPENING}\n":
            header = json.loads("".join(opening).rstrip().removesuffix(",") + "}")
            return bool(header["tool"] == TOOL)
        opening.append(line)
        length += len(line)
        if length > _LONGEST_HEADER:
            break
    return False
