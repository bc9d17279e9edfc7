"""What is remarkable about a Linux mapping by its file: memory that only looks like one, deleted and preloaded files.

Sources: proc_pid_maps(5); memfd_create(2), memfd_secret(2), shmget(2) and mmap(2) for what the kernel calls memory that
has no file on any disk; ld.so(8) for LD_PRELOAD and LD_AUDIT.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from memcarve.errors import printable
from memcarve.linux_mappings import DELETED
from memcarve.paths import base_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from memcarve.metadata import Region

#: a memfd, secret memory, shared anonymous memory, shared memory of System V
_MEMORY = re.compile(r"/memfd:.*|/secretmem.*|/dev/zero \(deleted\)|/SYSV[0-9a-f]{8} \(deleted\)", re.DOTALL)
_PRELOADS = ("LD_PRELOAD", "LD_AUDIT")
_MOST_NAMES = 1000
_LONGEST = 200  # characters of a name in a finding


def is_memory(file: str) -> bool:
    """Return True if what a mapping calls its file is memory that no disk holds."""
    return _MEMORY.fullmatch(file) is not None


def memory_run(regions: Sequence[Region]) -> Iterator[tuple[int, str]]:
    """Yield the executable mappings of memory that goes by a name, by their places, with the reason in words."""
    for place, row in enumerate(regions):
        if row.file is not None and _runs(row) and is_memory(row.file):
            yield place, f"code in memory that no file on a disk holds ({row.file[:_LONGEST]})"


def deleted_run(regions: Sequence[Region]) -> Iterator[tuple[int, str]]:
    """Yield the executable mappings of files that were deleted, by their places, with the reason in words."""
    for place, row in enumerate(regions):
        if row.file is not None and row.file.endswith(DELETED) and _runs(row) and not is_memory(row.file):
            yield place, f"code of a file that was deleted or replaced ({row.file[:_LONGEST]})"


def preloaded(regions: Sequence[Region], environment: Iterable[str]) -> Iterator[tuple[int, str]]:
    """Yield the mappings of libraries that LD_PRELOAD or LD_AUDIT names, by their places, with the reason in words.

    A name without a slash, or with a token that ld.so replaces (``$LIB``), is compared by its last part.
    """
    wanted = dict(_names(environment))
    if not wanted:
        return
    for place, row in enumerate(regions):
        if row.file is None or not row.file.startswith("/"):
            continue
        file = row.file.removesuffix(DELETED)
        variable = wanted.get(file) or wanted.get(base_name(file))
        if variable is not None:
            yield place, f"{variable} had the program load {printable(file[:_LONGEST])}"


def _names(environment: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield what the variables name: a path, or the last part of one if that is all that can be compared."""
    count = 0
    for text in environment:
        variable, equals, value = text.partition("=")
        if not equals or variable not in _PRELOADS:
            continue
        for name in re.split(r"[: \t\n]+" if variable == "LD_PRELOAD" else ":", value):
            count += 1
            if name and count <= _MOST_NAMES:
                yield name if "/" in name and "$" not in name else base_name(name), variable


def _runs(row: Region) -> bool:
    return "x" in (row.collapsed or "")
