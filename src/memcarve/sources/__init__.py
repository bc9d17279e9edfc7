"""What opens an input: one file for each kind, the most specific first."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from memcarve.errors import InputError, NotRecognisedError
from memcarve.sources.memmap import open_memmap

if TYPE_CHECKING:
    from memcarve.process import Container

#: each takes a path and options, and raises NotRecognisedError where the file is not of its kind
SOURCES = (open_memmap,)


def open_container(
    path: str | os.PathLike[str],
    *,
    memory_map: str | os.PathLike[str] | None = None,
    dump: str | os.PathLike[str] | None = None,
    trust: str | None = None,
    hashed: bool = False,
) -> Container:
    """Open whatever holds memory: a process dump or its map, which are looked for beside each other.

    `memory_map` and `dump` name the other file where it lies elsewhere; `trust` (``"printed"`` or ``"sum"``) says which
    positions to believe where the map is at odds with itself; `hashed` has the map's SHA-256 taken on the way. Close
    the result, or use it in a ``with`` statement. Raises InputError, with the remedy, where nothing can be made of it.
    """
    name = os.fspath(path)
    if os.path.isdir(name):
        raise InputError(f"{name}: is a folder; give the dump or its map")
    problem: NotRecognisedError | None = None
    for source in SOURCES:
        try:
            return source(
                name,
                memory_map=None if memory_map is None else os.fspath(memory_map),
                dump=None if dump is None else os.fspath(dump),
                trust=trust,
                hashed=hashed,
            )
        except NotRecognisedError as error:
            problem = problem or error
    raise problem or NotRecognisedError(f"{name}: is of no known kind")
