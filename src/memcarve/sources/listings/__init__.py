"""Regions, modules and threads from files that lie beside a dump, or that the user names."""

from __future__ import annotations

import itertools
import os
import sys
import time
from typing import TYPE_CHECKING

from memcarve.errors import MemcarveError
from memcarve.formats.compression import ENDINGS, Reading, plain_name
from memcarve.metadata import Metadata, Regions, SourceRows
from memcarve.remote import is_there, names_in
from memcarve.remote.locations import is_location
from memcarve.sources.counterparts import MAP_ENDINGS, base_file

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from memcarve.sources.listings.listed_file import Taken

_MOST_NAMES = 1 << 14  # of a folder: one by one they are asked for sooner then
_SETTLED = 2_000_000_000  # ns after which a folder's time of change says that nothing has changed since
#: the folder that was listed last: when it had changed, and the names in it
_folders: dict[str, tuple[int, frozenset[str] | None]] = {}
_FILE_ENDINGS = [f"{end}{packed}" for end in ("", *MAP_ENDINGS) for packed in ("", *ENDINGS)]
#: what stands between the dump's name without its ending and the file's own ending
_WORDS = {"regions": ("vadinfo", "maps"), "modules": ("dlllist",), "threads": ("threads",)}


def metadata_from_files(
    given: Mapping[str, Sequence[str]],
    pid: int | None,
    beside: Sequence[str] = (),
    *,
    address_bits: int = 48,
    reading: Reading = Reading(),  # noqa: B008 - a tuple
) -> Metadata:
    """Return what files say of the process `pid` (None: not known).

    Files are those `given`, by ``"regions"``, ``"modules"``, ``"threads"``; if none is given of a kind, those that lie
    beside the files in `beside` (dumps, maps): for a ``NAME.dmp``, ``NAME.vadinfo.csv`` or ``pid.N.vadinfo.csv`` and so
    on, see `names_beside`. Addresses are extended as those of the process's memory are, whose width is `address_bits`.
    ``Metadata.files`` are those that were used.

    From a table of several processes the rows of `pid` are taken; without a `pid` it must list only one. A file that
    was found and cannot be used gives a note. For one that was given, raises NotRecognisedError if it holds something
    else, MapError if it is damaged, ProcessError if it has no row of the process, UsageError if it lists several
    processes and `pid` is None.
    """
    taken: dict[str, list[Taken]] = {}
    notes: list[str] = []
    for kind in _WORDS:
        named = given.get(kind, ())
        taken[kind] = [_take(path, kind, pid, address_bits, reading) for path in named]
        for choices in () if named else names_beside(kind, pid, beside):
            found, remarks = _first_usable(choices, kind, pid, address_bits, reading)
            taken[kind] += found
            notes += remarks
        notes += [note for each in taken[kind] for note in each.notes]
    files = tuple(each.file for found in taken.values() for each in found)
    taken = {kind: _told_apart(found) for kind, found in taken.items()}
    regions = tuple(Regions(each.source, each.rows) for each in taken["regions"])  # type: ignore[arg-type]
    notes += [
        f"{each.source}: {each.overlapping} regions share addresses; an address belongs to the smallest of them"
        for each in regions
        if each.overlapping
    ]
    return Metadata(
        regions,
        tuple(SourceRows(each.source, each.rows) for each in taken["modules"]),  # type: ignore[arg-type]
        tuple(SourceRows(each.source, each.rows) for each in taken["threads"]),  # type: ignore[arg-type]
        notes=tuple(notes),
        files=files,
    )


def _told_apart(found: list[Taken]) -> list[Taken]:
    """Return the same with the paths in the names of sources that would be called the same."""
    names = [each.source for each in found]
    return [
        each._replace(source=f"{each.source} of {_folder_of(each.file['path'])}")
        if names.count(each.source) > 1
        else each
        for each in found
    ]


def _folder_of(path: str) -> str:
    return os.path.dirname(path if is_location(path) else os.path.abspath(path))


def names_beside(kind: str, pid: int | None, beside: Sequence[str]) -> list[list[str]]:
    """Return the files of a kind that lie beside others: a list for each word in their names, the first of each first.

    Beside ``NAME.dmp`` that is ``NAME.WORD`` and ``NAME.WORD`` with each ending that maps may have, compressed or not;
    then the same with ``pid.N`` for NAME. The words are vadinfo and maps, dlllist, threads.
    """
    inputs = {os.path.abspath(path) for path in beside}
    found = []
    for word in _WORDS[kind]:
        here: dict[str, None] = {}
        for path in beside:
            folder, name = os.path.split(path)
            names = _names_in(folder)
            for stem in dict.fromkeys([*_stems(name), *([f"pid.{pid}"] if pid is not None else [])]):
                for candidate in (f"{stem}.{word}{ending}" for ending in _FILE_ENDINGS):
                    if names is not None and candidate not in names:
                        continue
                    file = os.path.join(folder, candidate)
                    if is_there(file) and os.path.abspath(file) not in inputs:
                        here[file] = None
        if here:
            found.append(list(here))
    return found


def _names_in(folder: str) -> frozenset[str] | None:
    """Return the names in a folder; None if it cannot be listed or has too many, or if other spellings may name a file.

    An image has hundreds of processes, and each asks for hundreds of names: the list is kept as long as the folder does
    not change. One that changed a moment ago may do so again within the same tick of its clock, and is not kept.
    """
    if is_location(folder):
        return names_in(folder) or frozenset()
    if sys.platform != "linux":  # elsewhere capitals, or how letters with accents are written, may not matter
        return None
    try:
        changed = os.stat(folder or ".").st_mtime_ns
        known = _folders.get(folder)
        if known is not None and known[0] == changed:
            return known[1]
        with os.scandir(folder or ".") as found:
            listed = [entry.name for entry in itertools.islice(found, _MOST_NAMES + 1)]
    except OSError:
        return None
    names = None if len(listed) > _MOST_NAMES else frozenset(listed)
    if time.time_ns() - changed > _SETTLED:
        _folders.clear()
        _folders[folder] = changed, names
    return names


def _stems(name: str) -> list[str]:
    """Return what stands before the ending of a dump's or map's name, also without the number that avoids a clash."""
    plain = plain_name(name).removesuffix(".idx")
    return [os.path.splitext(plain)[0], os.path.splitext(base_file(plain))[0]]


def _first_usable(
    choices: list[str], kind: str, pid: int | None, bits: int, reading: Reading
) -> tuple[list[Taken], list[str]]:
    """Return the first file that can be used, if one can, and notes on those before it that cannot."""
    notes = []
    for path in choices:
        try:
            found = _take(path, kind, pid, bits, reading, beside=True)
        except MemcarveError as error:
            notes.append(f"{error}; it is not used")
            continue
        others = [os.path.basename(other) for other in choices if other != path]
        also = f" (also there: {', '.join(others)})" if others else ""
        return [found], [*notes, f"{kind}: {path}, {found.file['format']}{also}"]
    return [], notes


def _take(path: str, kind: str, pid: int | None, bits: int, reading: Reading, *, beside: bool = False) -> Taken:
    """Read the rows of a process from a file; see `listed_file.taken_from`."""
    from memcarve.sources.listings.listed_file import taken_from  # many dumps have none

    return taken_from(path, kind, pid, bits, reading, beside=beside)
