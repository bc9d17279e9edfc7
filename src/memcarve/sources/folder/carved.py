"""A folder that memcarve carved, read as the memory it was carved from; or the folder above those of several."""

from __future__ import annotations

import os
import re
from array import array
from typing import TYPE_CHECKING, Any

import numpy as np

from memcarve.backing import FileBacking, FolderBacking
from memcarve.errors import InputError, NotRecognisedError, OverlapError
from memcarve.formats import manifest, partial_mark
from memcarve.formats.json_text import strict
from memcarve.hashing import hash_of
from memcarve.images.paging_modes import LINUX, MODES, AddressTable
from memcarve.intervals import TOP
from memcarve.missing import REASONS, MissingMemory
from memcarve.note import Note
from memcarve.process import (
    Account,
    Container,
    Machine,
    Platform,
    ProcessEntry,
    ProcessMemory,
    kernel_half_of,
    width_of,
)
from memcarve.provenance import Provenance, member, word
from memcarve.sources.listings import metadata_from_files
from memcarve.space import AddressSpace

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memcarve.formats.manifest import Record
    from memcarve.metadata import Metadata
    from memcarve.sources.opening import Opened, OpenOptions

_MOST_MISSING = 1 << 24
_MOST_NOTES = 1000
#: what the folders of processes may be called: nothing that leads out of the folder above them
_FOLDER = re.compile(r"[A-Za-z0-9_+-][A-Za-z0-9_.+-]*")


class FolderContainer(Container):
    """A carved folder, or several in one."""

    def __init__(self, opened: Opened, options: OpenOptions) -> None:
        path = self.path = opened.path
        self.listings = options.listings
        self.notes: list[str] = []
        self._backings: list[FolderBacking] = []
        self._folders = _folders(path)
        self._entries = [Provenance(_opened(folder)[0]).entry for folder in self._folders]

    def processes(self) -> list[ProcessEntry]:
        """Return the processes: of several, in the order of their folders' names."""
        return list(self._entries)

    def _process(self, index: int) -> ProcessMemory:
        """Return what a folder holds as the memory of a process.

        Every file is checked, and none is read: ``memcarve verify`` compares them with their hashes. Raises InputError
        if one is missing, has another length or is not a regular file, OverlapError if two segments, or a segment and
        what is missing, claim one address.
        """
        folder = self._folders[index]
        path = os.path.join(folder, manifest.NAME)
        with FileBacking(path, follow=False) as document:
            header, records = _opened(folder)
            start, size = array("Q"), array("Q")
            backing = FolderBacking(folder, _files(path, records, start, size))
            missing = _missing(path)
            digest = hash_of(document)
            if document.changed():
                raise InputError("was changed while it was read", subject=path)
        self._backings.append(backing)
        starts, sizes = np.array(start, np.uint64), np.array(size, np.uint64)
        offsets = np.cumsum(sizes, dtype=np.uint64) - sizes
        try:
            space = AddressSpace(starts, sizes, offsets, backing, missing)
        except OverlapError as error:
            error.subject = path
            raise
        said = Provenance(header)
        table = _table(said)
        narrow = (said.kernel_half or table.kernel_half) if table and not table.mode.wide else None
        left_out = [f"{count} bytes were left out when it was carved: {why}" for why, count in said.left_out if count]
        entry = self._entries[index]
        bits = table.mode.address_bits if table else width_of(starts, sizes)
        machine = Machine(Platform(), said.architecture, bits, narrow)
        return ProcessMemory(
            space,
            entry,
            machine=machine,
            account=Account(incomplete=not said.complete),
            inputs={"folder": {"path": folder, "size": backing.size, "manifest_sha256": digest}},
            notes=[f"{folder}: carved from {said.origin}", *map(Note, left_out), *said.notes],
            metadata=lambda: _metadata(folder) + metadata_from_files(self.listings, entry.pid, address_bits=bits),
            half=_half(said, space, narrow or kernel_half_of(said.architecture)),
        )

    def close(self) -> None:
        """Close the files."""
        for backing in self._backings:
            backing.close()


def _folders(path: str) -> list[str]:
    """Return the carved folders: the one itself, or those that ``processes.json`` lists."""
    mark = partial_mark.of(path)
    if mark is not None:
        raise InputError(
            mark.problem, subject=path, remedy="give one of the folders in it, or let {resume} of what wrote it go on"
        )
    listing = os.path.join(path, manifest.PROCESSES)
    if not os.path.lexists(listing):
        return [path]
    names = manifest.processes(listing)
    if names is None:
        raise InputError("is not what memcarve writes", subject=listing, remedy="give one of the folders beside it")
    if not names:
        raise InputError("holds no process: carving each of them failed", subject=path)
    found = []
    for name in names:
        if not _FOLDER.fullmatch(name):
            raise InputError(f"{name[:80]!r} is not the name of a folder that memcarve carves", subject=listing)
        folder = os.path.join(path, name)
        if os.path.islink(folder) or not os.path.isdir(folder):
            raise InputError(
                f"is listed in {manifest.PROCESSES} and is not a folder", subject=folder, remedy="put it back"
            )
        found.append(folder)
    if len(set(found)) < len(found):
        raise InputError("lists a folder twice", subject=listing)
    return found


def _opened(folder: str) -> tuple[dict[str, Any], Iterator[Record]]:
    """Return a manifest's header and its segments; raises InputError if there is none."""
    path = os.path.join(folder, manifest.NAME)
    if not os.path.lexists(path):
        raise InputError(
            f"is a folder without {manifest.NAME}",
            subject=folder,
            remedy="give an image, a dump or its map, or a folder that memcarve carved",
        )
    try:
        return manifest.read(path)
    except NotRecognisedError as error:
        raise InputError(str(error)) from None


def _files(path: str, records: Iterator[Record], start: array[int], size: array[int]) -> Iterator[tuple[str, int]]:
    """Yield name and size of each segment's file, in order of addresses; its columns are added to `start`, `size`."""
    before = (0, 0)
    for record in records:
        here = record.start, record.end
        named = manifest.FILE_NAME.fullmatch(record.file)
        if not named or named.groups() != (f"{here[0]:016x}", f"{here[1]:016x}") or not here[0] < here[1] <= TOP:
            raise InputError(
                f"{record.file[:80]!r} is not the file name of the segment 0x{record.start:x}-0x{record.end:x}",
                subject=path,
            )
        if here[0] < before[1]:
            both = f"0x{before[0]:x}-0x{before[1]:x} and 0x{here[0]:x}-0x{here[1]:x}"
            if here[1] <= before[0]:
                raise InputError(f"its segments {both} are not in order of addresses", subject=path)
            address = max(here[0], before[0])
            raise OverlapError(f"two segments claim the address 0x{address:x}: {both}", address, subject=path)
        before = here
        yield record.file, record.size  # whoever takes it holds the size against the file's
        start.append(record.start)
        size.append(record.size)


def _missing(path: str) -> MissingMemory:
    """Return what a manifest lists as missing; its lines are known to be short."""
    start, size, reason = array("Q"), array("Q"), array("B")
    inside = False
    for line in manifest.lines(path):
        text = line.rstrip("\n")
        if inside and text == ' "segments": [':
            break
        if inside and text != " ],":
            try:
                row = strict(text.removesuffix(","))
                begin, end = int(row["start"], 16), int(row["end"], 16)
                place = REASONS.index(row["reason"])
            except (ValueError, TypeError, KeyError, RecursionError):
                raise InputError(f"what is missing is damaged: {text.strip()[:80]}", subject=path) from None
            if not 0 <= begin < end <= TOP or end - begin == TOP:
                raise InputError(f"what is missing is damaged: {text.strip()[:80]}", subject=path)
            if len(start) == _MOST_MISSING:
                raise InputError(f"lists more than {_MOST_MISSING} missing ranges", subject=path)
            start.append(begin)
            size.append(end - begin)
            reason.append(place)
        inside = inside or text == ' "missing": ['
    starts = np.array(start, np.uint64)
    order = np.argsort(starts, kind="stable")
    return MissingMemory(starts[order], np.array(size, np.uint64)[order], np.array(reason, np.uint8)[order])


def _metadata(folder: str) -> Metadata:
    header, records = _opened(folder)
    return Provenance(header).metadata(record.labels for record in records)


def _table(said: Provenance) -> AddressTable | None:
    """Return what is known of the page tables that a folder was carved through, if any."""
    image = member(said.inputs, "image")
    name = word(image.get("paging"), tuple(MODES))
    return None if name is None else AddressTable(0, MODES[name], word(image.get("os"), (LINUX,)) or "")


def _half(said: Provenance, space: AddressSpace, kernel_half: int) -> str:
    """Return which half the folder is about: as a selection tells, or, of an image, as its addresses do."""
    listed = [reason for reason, _ in said.left_out]
    for half in ("user", "kernel"):
        if f"outside --range {half}" in listed:
            return half
    if member(said.inputs, "image"):  # whose other half is left alone unless it is asked for
        starts = np.concatenate([space.start, space.missing.start])
        kernel = starts >= np.uint64(kernel_half)
        if len(starts) and (kernel.all() or not kernel.any()):
            return "kernel" if kernel.all() else "user"
    return "all"


def is_carved(opened: Opened) -> bool:
    """Return True if a folder holds what memcarve writes beside segments."""
    named = (os.path.join(opened.path, name) for name in (manifest.NAME, manifest.PROCESSES, partial_mark.NAME))
    return any(map(os.path.lexists, named))
