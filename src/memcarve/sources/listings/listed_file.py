"""What one file lists of a process."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, NamedTuple

from memcarve.errors import MapError, NotRecognisedError, ProcessError, UsageError
from memcarve.formats.listing import Listing
from memcarve.formats.listing.listing_kinds import DLLLIST, LINUX_MAPS, MAC_MAPS, PROC_MAPS, THREADS, VADINFO, VADWALK
from memcarve.sources.counterparts import open_beside
from memcarve.sources.listings.listing_rows import DoubtfulError, UnknownError, reader

if TYPE_CHECKING:
    from collections.abc import Callable

    from memcarve.formats.compression import Reading
    from memcarve.metadata import Module, Region, Thread

    Found = Region | Module | Thread

_LISTED = 40
#: what each table says of a process
_HOLDS = {
    **dict.fromkeys((VADINFO, VADWALK, LINUX_MAPS, MAC_MAPS, PROC_MAPS), "regions"),
    DLLLIST: "modules",
    THREADS: "threads",
}


class Taken(NamedTuple):
    """What was read from one file: its rows, by which name they go, and the file itself, ready for JSON."""

    source: str
    rows: list[Found]
    notes: list[str]
    file: dict[str, Any]


def taken_from(path: str, kind: str, pid: int | None, bits: int, reading: Reading, *, beside: bool = False) -> Taken:
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
        return Taken(f"{listing.name} ({os.path.basename(path)})", rows, [*listing.notes, *notes], file)


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
