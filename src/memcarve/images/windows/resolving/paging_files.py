r"""Which page files Windows itself had, by its own list: number, name, sizes.

The kernel's data have an array of 16 pointers to blocks (_MMPAGING_FILE), one for each page file, at the place that is
its number; the rest is 0. Where the array is only symbols tell, so it is found by what proves itself: a block has its
own number, a path as ``\??\C:\pagefile.sys``, the file object of an open file, and three sizes of which one lies
between the others; an array has nothing but such blocks, each where its number says. A store of compressed pages is
among them as well: it has no path, and says that it is one.

Sources: Microsoft's public symbols of _MMPAGING_FILE, whose members lie in five places since Windows 7; wdm.h for a
file object's type (IO_TYPE_FILE) and name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from memcarve.errors import LimitError
from memcarve.formats.programs import pe
from memcarve.images.physical import past_unreadable
from memcarve.images.structure_reader import Reader
from memcarve.intervals import PAGE, TOP, chunks, distinct

if TYPE_CHECKING:
    from memcarve.dtypes import I64, U64, Bools
    from memcarve.images.windows.resolving.windows_resolver import WindowsResolver

_SLOTS = 16  # of the array
_MOST_DATA = 16 << 20  # bytes of the kernel's own data that are looked at
_MOST_BLOCKS = 1 << 17  # pointers that are followed
_MOST_NAMED = 1 << 10  # of which so many may look as if they led to a name
_MOST_PLACES = 1 << 9  # where the array may begin
_BATCH = 1 << 12  # pages
_KERNEL, _GRAIN = np.uint64(0xFFFF800000000000), np.uint64(15)  # the pool's grain
_LOST = np.uint64(1)  # what stands for a word that is not in memory: neither a pointer nor 0
_SHORTEST, _LONGEST = 8, 1024  # bytes of a path
_FILE_OBJECT, _FILE_NAME = 5, 0x58
_MOST_PAGES = 1 << 32  # an entry has 32 bits for a place in a page file
_STORE, _SWAP, _SWAP_NAME = 1 << 6, 1 << 4, "swapfile.sys"


class PagingFile(NamedTuple):
    """A page file as Windows had it: `pages` it has, and may have at `most`; `store`: it is one of compressed pages.

    `path` is empty if it is not in memory, and for a store.
    """

    number: int
    path: str
    pages: int
    most: int
    store: bool = False

    @property
    def name(self) -> str:
        """Its name, in lower case."""
        return self.path.rpartition("\\")[2].lower()

    def __str__(self) -> str:
        """Return number and path, in words."""
        known = self.path or "a page file whose name is not in memory"
        return f"{self.number} is {'where compressed pages are' if self.store else known}"


class Members(NamedTuple):
    """Where a block has its members: three sizes of `width` bytes from 0 on, file object, path, number and flags."""

    width: int
    file: int
    path: int
    number: int


#: of Windows 7, 7 with its service pack, 8, 8.1 and 10240, 10586 to 22631, 26100
_MEMBERS = (
    Members(8, 0x30, 0x48, 0x68),
    Members(8, 0x30, 0x48, 0x74),
    Members(8, 0x40, 0x70, 0xA8),
    Members(8, 0x40, 0x70, 0xA4),
    Members(8, 0x38, 0x60, 0xCC),
    Members(4, 0x18, 0x40, 0xAC),
)
_FLAGGED = _MEMBERS[3:]  # which say what is a store, and what swapfile.sys


@past_unreadable
def find_paging_files(resolver: WindowsResolver) -> tuple[tuple[PagingFile, ...], str]:
    """Return the page files of a machine by number, none if their list does not prove itself; and why not, in words."""
    if not resolver.memory.searchable:
        return (), "finding it takes reading more of the kernel's memory, which comes from afar"
    try:
        words = kernel_data(resolver)
        slots = _slots(words)
        found = {files for members in _MEMBERS for files in _arrays(resolver, words, slots, members)}
    except LimitError as error:
        return (), error.problem
    if len(found) > 1:
        return (), f"{len(found)} lists look like it, and contradict each other"
    return (found.pop(), "") if found else ((), "nothing in the kernel's data proves to be it")


def kernel_data(resolver: WindowsResolver) -> U64:
    """Return the words of the kernel's own data that may be written (uint64), 1 for those not in memory.

    Between two stretches lie 16 of these.
    """
    parts, base, left = [np.zeros(0, np.uint64)], resolver.windows.kernel.base, _MOST_DATA
    image = None if base is None else pe.image(resolver.kernel.padded(base, PAGE))
    if image is None or base is None:
        return parts[0]
    for section in image.sections:
        size = min(section.size, left) // PAGE * PAGE if "w" in section.permissions else 0
        left -= size
        pages = np.uint64(base + section.address & TOP - 1) + np.arange(size // PAGE, dtype=np.uint64) * np.uint64(PAGE)
        for part in chunks(len(pages), _BATCH):
            words, there = resolver.pages_at(pages[part])
            words[~there] = _LOST
            parts.append(words.reshape(-1))
        parts.append(np.full(_SLOTS, _LOST))
    return np.concatenate(parts)


def _slots(words: U64) -> I64:
    """Return the places of pointers among words (uint64) that lie in 16 pointers, or zeros. Raises LimitError."""
    pointer = (words >= _KERNEL) & (words & _GRAIN == 0)
    if len(words) < _SLOTS:
        return np.flatnonzero(pointer[:0])
    sums = np.concatenate([[0], np.cumsum(pointer | (words == 0), dtype=np.int32)])
    whole = sums[_SLOTS:] - sums[:-_SLOTS] == _SLOTS  # whether 16 words from here on are
    # how many of the 16 places that end with a word are such
    around = np.pad(whole, (_SLOTS, _SLOTS - 1))
    sums = np.cumsum(around, dtype=np.int32)
    slots = np.flatnonzero(pointer & (sums[_SLOTS:] > sums[:-_SLOTS]))
    targets = len(distinct(words[slots]))
    if targets > _MOST_BLOCKS:
        raise LimitError("the kernel's data hold too many pointers to follow them", targets)
    return slots


def _arrays(resolver: WindowsResolver, words: U64, slots: I64, members: Members) -> set[tuple[PagingFile, ...]]:
    """Return what arrays among words (uint64) lead to, if all of each proves to be page files.

    `slots` are the places of pointers that may be in one. Raises LimitError.
    """
    targets = distinct(words[slots])
    named = targets[_have_paths(resolver, targets, members)]
    if len(named) > _MOST_NAMED:
        raise LimitError("too many pointers in the kernel's data lead to what looks like a page file", len(named))
    reader = Reader(resolver.kernel)
    blocks = {at: file for at in named.tolist() if (file := _block(reader, at, members)) is not None}
    found, known = set(), np.array(sorted(blocks), np.uint64)
    numbers = np.array([blocks[at].number for at in known.tolist()], np.int64)
    slots = slots[np.isin(words[slots], known)]
    places = distinct(slots - numbers[np.searchsorted(known, words[slots])])
    places = places[(places >= 0) & (places + _SLOTS <= len(words))]
    if len(places) > _MOST_PLACES:
        raise LimitError("too many places in the kernel's data look like the list", len(places))
    for first in places.tolist():
        files = [
            blocks.get(target) or _store(reader, target, members) if target else None
            for target in words[first : first + _SLOTS].tolist()
        ]
        right = [
            file is None if not target else file is not None and file.number == number
            for number, (target, file) in enumerate(zip(words[first : first + _SLOTS].tolist(), files, strict=True))
        ]
        if all(right) and any(file.path not in ("", _SWAP_NAME) for file in files if file):
            found.add(tuple(file for file in files if file is not None))
    return found


def _have_paths(resolver: WindowsResolver, targets: U64, members: Members) -> Bools:
    """Return which blocks (uint64) have what may be a UNICODE_STRING where the path belongs (bool)."""
    length, there = resolver.entries_at(targets + np.uint64(members.path))
    buffer, also = resolver.entries_at(targets + np.uint64(members.path + 8))
    used, room = length & np.uint64(0xFFFF), length >> np.uint64(16) & np.uint64(0xFFFF)
    sound: Bools = there & also & (used >= np.uint64(_SHORTEST)) & (used <= np.uint64(_LONGEST))
    sound &= (used & np.uint64(1) == 0) & (room >= used) & (buffer >= _KERNEL) & (buffer & np.uint64(1) == 0)
    return sound


def _block(reader: Reader, at: int, members: Members) -> PagingFile | None:
    """Return the page file that a block is of, None if it does not prove to be one."""
    file = reader.number(at + members.file)
    if file is None or file < int(_KERNEL) or file & 7 or reader.number(file, 2) != _FILE_OBJECT:
        return None
    path = reader.text(reader.read(at + members.path, 16))
    if path is None:  # it is in memory that may be paged out; what the file object says then lacks the drive
        path = reader.text(reader.read(file + _FILE_NAME, 16)) or ""
        flags = reader.number(at + members.number, 1) or 0
        if not path and members in _FLAGGED and flags & _SWAP:
            path = _SWAP_NAME
    elif not path.startswith(("\\??\\", "\\Device\\")):
        return None
    return _sized(reader, at, members, path) if not path or path.isprintable() else None


def _store(reader: Reader, at: int, members: Members) -> PagingFile | None:
    """Return the store of compressed pages that a block is of, None if it does not prove to be one."""
    unnamed = reader.read(at + members.path, 16) == bytes(16)
    flags = reader.number(at + members.number, 1)
    if members not in _FLAGGED or not unnamed or flags is None or not flags & _STORE:
        return None
    found = _sized(reader, at, members, "")
    return None if found is None else found._replace(store=True)


def _sized(reader: Reader, at: int, members: Members, path: str) -> PagingFile | None:
    number = reader.number(at + members.number, 1)
    pages, most, least = (reader.number(at + place * members.width, members.width) for place in range(3))
    if number is None or pages is None or most is None or least is None:
        return None
    if not 0 < least <= pages <= most < _MOST_PAGES:
        return None
    return PagingFile(number & (_SLOTS - 1), path, pages, most)
