"""Regions, modules and threads from files that lie beside a dump, or that the user names."""

from __future__ import annotations

import itertools
import os
import sys
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from memcarve.errors import MapError, MemcarveError, NotRecognisedError, ProcessError, UsageError
from memcarve.formats.compression import ENDINGS, Reading, plain_name
from memcarve.formats.listing import Listing
from memcarve.formats.listing.listing_kinds import DLLLIST, LINUX_MAPS, MAC_MAPS, PROC_MAPS, THREADS, VADINFO, VADWALK
from memcarve.metadata import Metadata, Regions, SourceRows
from memcarve.remote import is_there, names_in
from memcarve.remote.locations import is_location
from memcarve.sources.counterparts import MAP_ENDINGS, base_file, open_beside
from memcarve.sources.listings.listing_rows import DoubtfulError, UnknownError, reader

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from memcarve.metadata import Module, Region, Thread

    Found = Region | Module | Thread

_LISTED = 40
_MOST_NAMES = 1 << 14  # of a folder: one by one they are asked for sooner then
_SETTLED = 2_000_000_000  # ns after which a folder's time of change says that nothing has changed since
#: the folder that was listed last: when it had changed, and the names in it
_folders: dict[str, tuple[int, frozenset[str] | None]] = {}
_COMPRESSED = ("", *ENDINGS)
#: what each table says of a process
_HOLDS = {
    **dict.fromkeys((VADINFO, VADWALK, LINUX_MAPS, MAC_MAPS, PROC_MAPS), "regions"),
    DLLLIST: "modules",
    THREADS: "threads",
}
#: what stands between the dump's name without its ending and the file's own ending
_WORDS = {"regions": ("vadinfo", "maps"), "modules": ("dlllist",), "threads": ("threads",)}


class _Taken(NamedTuple):
    """What was read from one file: its rows, by which name they go, and the file itself, ready for JSON."""

    source: str
    rows: list[Found]
    notes: list[str]
    file: dict[str, Any]


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
    taken: dict[str, list[_Taken]] = {}
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


def _told_apart(found: list[_Taken]) -> list[_Taken]:
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
                for ending in (f"{end}{packed}" for end in ("", *MAP_ENDINGS) for packed in _COMPRESSED):
                    file = os.path.join(folder, f"{stem}.{word}{ending}")
                    if names is not None and os.path.basename(file) not in names:
                        continue
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
) -> tuple[list[_Taken], list[str]]:
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


def _take(path: str, kind: str, pid: int | None, bits: int, reading: Reading, *, beside: bool = False) -> _Taken:
    """Read the rows of a process from a file; they are `regions`, `modules` or `threads`. Nobody named one `beside`."""
    with open_beside(Listing, path, reading=reading) if beside else Listing(path, reading) as listing:
        holds = _HOLDS[listing.name]
        if holds != kind:
            raise NotRecognisedError(
                f"is what {listing.name} prints and holds {holds}, not {kind}",
                subject=path,
                remedy=f"give it with {{{holds}}}",
            )
        rows, notes = _rows(listing, pid, bits)
        file = {
            "kind": kind,
            **listing.described,
            "format": listing.description,
            "sha256": listing.sha256,
        }
        return _Taken(f"{listing.name} ({os.path.basename(path)})", rows, [*listing.notes, *notes], file)


def _rows(listing: Listing, pid: int | None, bits: int) -> tuple[list[Found], list[str]]:
    """Return what the rows of a process say, each once, and notes on those that say nothing."""
    read: Callable[..., Found] = reader(listing.name)
    found: dict[Found, None] = {}
    owners: dict[int | None, None] = {}
    passed: dict[str, list[int]] = {}  # why rows are not used -> their numbers
    for number, cells in listing.rows():
        if listing.has_pid:
            owner = cells["PID"]
            owners[owner if isinstance(owner, int) else None] = None
            if owner is None or (pid is not None and owner != pid):
                continue
        try:
            row = read(cells, bits)
        except UnknownError as why:
            passed.setdefault(str(why), []).append(number)
        except DoubtfulError as why:
            raise MapError(f"{why}; the table is damaged", subject=listing.place(number)) from None
        else:
            if row in found:
                passed.setdefault("repeats another one", []).append(number)
            found[row] = None
    notes = [
        f"{listing.place(numbers[0])}{f' (and {len(numbers) - 1} more)' * (len(numbers) > 1)}: {why}; not used"
        for why, numbers in passed.items()
    ]
    if not found and not (pid is not None and owners and pid not in owners):
        first = f"; {notes[0]}" if notes else ""
        raise ProcessError(
            f"holds no row that says anything, perhaps because it was cut off{first}", subject=listing.path
        )
    return list(found), [*notes, *_of_owners(listing, pid, [owner for owner in owners if owner is not None])]


def _of_owners(listing: Listing, pid: int | None, owners: list[int]) -> list[str]:
    """Return notes on whose rows a table holds; raise an error if it cannot be told which are wanted."""
    if not listing.has_pid:
        return [f"{listing.path}: does not say which process it is of"]
    listed = ", ".join(map(str, owners[:_LISTED])) + (", ..." if len(owners) > _LISTED else "")
    if pid is None and len(owners) > 1:
        raise UsageError(
            f"holds rows of {len(owners)} processes ({listed}), and it is not known which of them this one is",
            subject=listing.path,
            remedy="cut it to one process, or name the dump pid.N.dmp",
        )
    if pid is not None and pid not in owners:
        raise ProcessError(f"holds no row of process {pid}; it holds rows of: {listed}", subject=listing.path)
    if pid is None:
        return [f"{listing.path}: all rows are of process {owners[0]}; which one this is, is not known otherwise"]
    return []
