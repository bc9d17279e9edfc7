"""hiberfil.sys of 64-bit Windows 7 to 11: the memory of a machine as it was when it was hibernated.

The header is a PO_MEMORY_IMAGE at offset 0, which grew with Windows: its own length tells which (the public symbols of
the kernels; LeechCore's device_hibr.c). It says where the compressed sets of pages begin (`hibernation_sets`): two runs
of them since Windows 8, one that the loader restores and one that the kernel does; a chain of tables in Windows 7.

Its signature tells what became of it. HIBR: the machine was hibernated. WAKE: it was resumed; Windows 8 and later then
write zeros over the sets, Windows 7 over the header at most. RSTR: it was being resumed, or that failed. HORM: it is
resumed from the same state each time.

What need not be restored is not in the file: free pages, and most of those that only cache a file. They are not zeros.
Since Windows 8 the usual shutdown ("fast startup") logs all users off and hibernates what is left, the kernel and its
services: there are no programs of users in such a file. The header's member Hiberboot tells. Pages of the secure kernel
(VBS) are a run of their own since Windows 10, whose form is not public.

A set that is compressed wrongly cannot be read; nothing else that is public says whether its bytes are right.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from memcarve.errors import InputError, SourceReadError
from memcarve.formats.compressed_pages import IS_COMPILED, XPRESS, XPRESS_HUFFMAN, decode
from memcarve.formats.compression import plain_name
from memcarve.formats.images.hibernation_sets import BLOCK_MAGIC, EITHER, PAGE, Walk
from memcarve.formats.images.machine import CutOff, MachineMemory
from memcarve.formats.images.signatures import HIBERFIL
from memcarve.intervals import joined, smallest_owner, total
from memcarve.times import rfc3339

if TYPE_CHECKING:
    from memcarve.backing import FileBacking, Span
    from memcarve.dtypes import I64, Bools
    from memcarve.formats.images.hibernation_index import Heads, Index
    from memcarve.formats.images.hibernation_sets import Sets

KIND = "hiberfil.sys"
NAME = "hiberfil.sys"
#: what the file begins with, and what that means for what is in it
_STATES = {
    b"HIBR": None,
    b"WAKE": "the machine was resumed after it was written: what is still in it is of the time before",
    b"RSTR": "the machine was being resumed from it, or that failed",
    b"HORM": "the machine is resumed from it each time it starts: it is of the time when that was set up",
}
_OLD = (b"hibr", b"wake")

CACHE = 64 << 20  # bytes of decoded sets that are kept
_BATCH = 8 << 20  # bytes of pages that are decoded together
_SPAN = 16 << 20  # bytes of the file that are read together

#: of Windows 8 and later: length of the header -> where the numbers are of the two runs' first pages in the file, of
#: the pages that the kernel restores, and whether it was fast startup. That of the loader's pages has one place
_LAYOUTS = {
    0x360: (0x60, 0x68, 0x1C8, 0x2FC),  # 9200, 9600
    0x3B0: (0x68, 0x70, 0x218, 0x34C),  # 10240, 10586
    0x3C8: (0x68, 0x70, 0x220, 0x354),  # 14393
    0x3D8: (0x68, 0x70, 0x230, 0x364),  # 15063 to 17134
    0x3E0: (0x68, 0x70, 0x230, 0x364),  # 17763 to 19045
    0x448: (0x68, 0x70, 0x230, 0x3CC),  # 20348, 22000 to 22631
    0x4D8: (0x68, 0x70, 0x238, 0x464),  # 26100
}
_FAST_STARTUP = 1  # from 26100 on it is a bit among others
_SECURE_PAGES = 0x60  # the first page of those in the file, unless the loader's are there
#: of Windows 7; Vista's first one has the same length, and the table's number 8 bytes further
_SEVEN, _SEVEN_TABLE, _VISTA_TABLE = 0x128, 0x60, 0x68
_NARROW = (0x2C8, 0x310, 0x328, 0x338, 0x340)  # of 32-bit Windows
_LENGTH, _PAGE_SIZE, _NARROW_PAGE_SIZE, _TIME, _LOADER_PAGES = 0xC, 0x18, 0x14, 0x20, 0x58
_EPOCH = dt.datetime(1601, 1, 1, tzinfo=dt.UTC)
_LOOKED = 64  # pages in which the first block of a file without a header is looked for
_MOST_PAGES = 1 << 36
_MOST_RUNS = 1 << 23  # of a machine of 64 GiB every other page

#: KPROCESSOR_STATE, in the file's second page, begins with cr0, cr2, cr3 and cr4
_PROCESSOR, _PAGING_ON, _PAE, _FRAME = PAGE, 0x80000001, 0x20, ((1 << 52) - 1) & -PAGE


class _Header(NamedTuple):
    """What the header says; the `runs` of sets are (page of the file, pages to restore), of Windows 7 one without.

    `fast` is whether it was written by a shutdown with fast startup, None if there was none yet; `secure` the page of
    the file that the secure kernel's begin at, 0 if there are none.
    """

    signature: bytes
    time: int
    runs: tuple[tuple[int, int | None], ...]
    fast: bool | None = None
    secure: int = 0


def is_wiped(file: FileBacking, head: bytes) -> bool:
    """Return True if a file that begins with `head` has no header, but the name or the blocks of a hiberfil.sys."""
    if not head or any(head[:PAGE]):
        return False
    name = plain_name(file.path).replace("\\", "/").rpartition("/")[2].lower()
    return name == NAME or _first_block(file) is not None


def read(file: FileBacking, cache: str | None = None) -> MachineMemory | None:
    """Return the machine's memory, None if the file is no hiberfil.sys.

    Reads the headers of all sets, and no page but one; in a folder `cache` they are kept for other runs. Raises
    InputError if the file is of a Windows that memcarve does not know, or holds no memory (any more); SourceReadError;
    and OutputError if `cache` cannot be used. Close the backing, which closes `file`.
    """
    head = file.read_there(0, PAGE)
    if head.startswith(HIBERFIL):
        header = _header(file, head)
    elif is_wiped(file, head):
        page = _first_block(file)
        if page is None:
            raise _empty(file, "its first page is zeros", "it was never hibernated, or wiped when it was resumed")
        header = _Header(bytes(4), 0, ((page - 1, None),))
    else:
        header = None
    if header is None:
        return None
    walk, expected = Walk(file), sum(pages or 0 for _, pages in header.runs)
    runs = [(page, pages) for page, pages in header.runs if pages is not None]
    index = _index(file, head, cache) if cache is not None and runs else None
    known = None if index is None else index.load(runs, file.size)
    if isinstance(known, tuple):
        heads, sets = known
        walk.pages = int(sets.first[-1])
        return _memory(file, header, walk, expected, sets, heads)
    for page, pages in header.runs:
        if pages is None:
            walk.tables(page)
            continue
        before, walk.problem = walk.problem, None
        walk.compressed_sets(page * PAGE, pages)
        walk.problem = before or walk.problem
    if not walk.pages and (walk.problem or not expected):
        if header.signature not in _STATES:
            return None  # blocks of another Windows
        why = walk.problem or "its header says that no pages are in it"
        state = header.signature.decode("latin-1")
        more = " (since Windows 8 the memory is wiped when the machine is resumed)" if state == "WAKE" else ""
        raise _empty(file, f"its state is {state!r}, and {why}", f"the memory is not in it{more}")
    memory = _memory(file, header, walk, expected, walk.sets())
    said = [known, index.save(*walk.heads()) if walk.problem is None else None] if index is not None else []
    return memory._replace(notes=(*memory.notes, *(f"{KIND}: {note}" for note in said if note)))


def _index(file: FileBacking, head: bytes, cache: str) -> Index:
    from memcarve.formats.images.hibernation_index import Index  # few inputs have one

    return Index(file, head, cache)


def _empty(file: FileBacking, found: str, meaning: str) -> InputError:
    return InputError(
        f"is a hiberfil.sys without memory: {found}; {meaning}",
        subject=file.path,
        remedy="what was in it may be in a copy of the volume from before, in a shadow copy for instance",
    )


def _number(head: bytes, at: int, size: int = 8) -> int:
    return int.from_bytes(head[at : at + size], "little")


def _header(file: FileBacking, head: bytes) -> _Header | None:
    """Return what the header says, None if it is none. Raises InputError if it is of another Windows."""
    signature, length = head[:4], _number(head, _LENGTH, 4)
    wide, narrow = (_number(head, at, 4) == PAGE for at in (_PAGE_SIZE, _NARROW_PAGE_SIZE))
    if signature in _OLD and len(head) == PAGE and (wide or narrow):
        raise _unknown(file, "of Windows XP or Vista")
    if signature in _OLD or not (wide or narrow):
        return None
    if len(head) < PAGE:
        raise InputError(
            f"is a hibernation file that ends inside its header, at 0x{len(head):x}; the file was cut off",
            subject=file.path,
        )
    if length in _NARROW and narrow:
        raise _unknown(file, "of a 32-bit Windows")
    if not wide or length not in (_SEVEN, *_LAYOUTS):
        raise _unknown(file, f"of a Windows that memcarve does not know (its header has 0x{length:x} bytes)")
    time = _number(head, _TIME)
    if length == _SEVEN:
        table = _page(file, head, _SEVEN_TABLE)
        if not _is_before_block(file, table) and _is_before_block(file, _page(file, head, _VISTA_TABLE)):
            raise _unknown(file, "of Windows XP or Vista")
        return _Header(signature, time, ((table, None),))
    loader, kernel, kernel_pages, fast = _LAYOUTS[length]
    runs = (
        (_page(file, head, loader), _count(file, head, _LOADER_PAGES)),
        (_page(file, head, kernel), _count(file, head, kernel_pages)),
    )
    secure = 0 if loader == _SECURE_PAGES else _number(head, _SECURE_PAGES)
    return _Header(signature, time, runs, bool(head[fast] & _FAST_STARTUP), secure)


def _is_before_block(file: FileBacking, page: int) -> bool:
    return file.read_there((page + 1) * PAGE, len(BLOCK_MAGIC)) == BLOCK_MAGIC


def _unknown(file: FileBacking, what: str) -> InputError:
    return InputError(
        f"is a hibernation file {what}; those of 64-bit Windows 7 to 11 are read",
        subject=file.path,
        remedy="hibr2bin (of Comae) makes a raw image of it",
    )


def _page(file: FileBacking, head: bytes, at: int) -> int:
    return min(_number(head, at), file.size // PAGE + 1)


def _count(file: FileBacking, head: bytes, at: int) -> int:
    pages = _number(head, at)
    if pages > _MOST_PAGES:
        raise InputError(
            f"is a hibernation file of 0x{pages:x} pages; no machine has so many, the file is damaged",
            subject=file.path,
        )
    return pages


def _first_block(file: FileBacking) -> int | None:
    """Return the page of the file that the first block of Windows 7 begins, None if there is none near its beginning.

    The page before it is the first table.
    """
    pages = range(2, min(_LOOKED, file.size // PAGE))
    return next((page for page in pages if _is_before_block(file, page - 1)), None)


def _memory(
    file: FileBacking, header: _Header, walk: Walk, expected: int, sets: Sets, heads: Heads | None = None
) -> MachineMemory:
    page = np.uint64(PAGE)
    runs = joined(sets.frame * page, sets.pages * page, (np.cumsum(sets.pages) - sets.pages) * page)
    if len(runs[0]) > _MOST_RUNS:
        raise InputError(
            f"is a hibernation file of more than {_MOST_RUNS} runs of pages; no machine has so many, it is damaged",
            subject=file.path,
        )
    # what is restored later counts: the last one of those that claim a page
    start, size, offset = (column[::-1] for column in runs)
    once = smallest_owner(start, size, np.arange(len(start)))
    offset = offset[once.owner] + (once.start - start[once.owner])
    cut = CutOff()
    if walk.lost:
        first, count = (np.array(column, np.uint64) for column in zip(*walk.lost, strict=True))
        cut.add(first * page, count * page)
    backing = HibernatedPages(file, sets, heads)
    twice = total(sets.pages) - once.total // PAGE
    return MachineMemory(
        KIND,
        backing,
        once.start,
        once.size,
        offset,
        cut.listed(),
        declared=False,
        root=_root(file),
        notes=tuple(f"{KIND}: {note}" for note in _notes(header, walk, expected, twice)),
        gaps="Windows leaves out of hiberfil.sys what it need not restore: free pages, and many that cache files",
        architecture="x64",
    )


def _root(file: FileBacking) -> int | None:
    """Return the page-table root that the processor had, if its state is where it is expected."""
    state = file.read_there(_PROCESSOR, 32)
    cr0, _, cr3, cr4 = (_number(state, at) for at in range(0, 32, 8))
    plausible = cr0 & _PAGING_ON == _PAGING_ON and cr0 < 1 << 32 and cr4 & _PAE and cr4 < 1 << 32
    return cr3 & _FRAME if plausible and cr3 & _FRAME else None


def _notes(header: _Header, walk: Walk, expected: int, twice: int) -> list[str]:
    notes = _meaning(header)
    if walk.problem is not None:
        lost = f"{expected - walk.pages} of {expected} pages" if expected else "the pages behind it"
        notes.append(f"{walk.problem}: {lost} are missing, and which they are is known of the last set alone")
    elif expected and walk.pages != expected:
        notes.append(f"its header says that it has {expected} pages, its sets have {walk.pages}")
    if not IS_COMPILED:
        notes.append("its pages are decoded in Python, some 100 times slower than with a C compiler at installation")
    if twice:
        notes.append(f"{twice} pages are in it more than once: of each the last one was taken, which is restored last")
    return notes


def _meaning(header: _Header) -> list[str]:
    """Return what the header means for what is in the file."""
    notes = []
    if header.signature not in _STATES:
        notes.append("its header is wiped, as Windows 7 does when it is resumed: what is still in it is of before")
    elif (state := _STATES[header.signature]) is not None:
        notes.append(f"its state is {header.signature.decode()}: {state}")
    if header.time:
        written = "a time that no calendar has"
        if header.time < 1 << 62:
            with contextlib.suppress(OverflowError):
                written = rfc3339(_EPOCH + dt.timedelta(microseconds=header.time // 10))
        notes.append(f"the machine was hibernated at {written}")
    if header.fast:
        notes.append(
            "it was written by a shutdown with fast startup: all users were logged off before, so that it holds the "
            "kernel, drivers and services, and no program of a user"
        )
    if header.secure:
        begin = f"page 0x{header.secure:x} of the file"
        notes.append(f"pages of the secure kernel (VBS) are in it, from {begin} on; they are not read")
    return notes


class HibernatedPages:
    """The pages of all sets, one behind the other, decoded when they are asked for.

    Sets that were asked for in part are kept up to `CACHE` bytes, the most recently used ones. Owns `file`. Safe to use
    from several threads; what is read in large parts is decoded by several. `heads` is what an index says that sets
    begin with, if they were not read from the file: they are compared when the sets are read.
    """

    def __init__(self, file: FileBacking, sets: Sets, heads: Heads | None = None) -> None:
        self.file = file
        self.path = file.path
        self.size = int(sets.first[-1]) * PAGE
        self._sets = sets
        self._heads = heads
        #: bytes of each set's header that lie before its data and are read with them
        self._before = np.zeros(len(sets.place), np.int64) if heads is None else heads.sizes()
        self._begins = sets.first * PAGE
        #: the sets that lie before the one before them in the file: that of the second run may
        self._back = np.flatnonzero(np.diff(sets.place) < 0) + 1
        self._cache: OrderedDict[int, bytearray] = OrderedDict()
        self._cached = 0
        self._lock = threading.Lock()
        self._closed = False

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` with the bytes at `offset`, or raise SourceReadError, also if a set is damaged."""
        end = offset + len(buffer)
        if offset < 0 or end > self.size:
            raise SourceReadError(
                f"decodes to 0x{self.size:x} bytes, not to 0x{len(buffer):x} at 0x{offset:x}", subject=self.path
            )
        begins, done = self._begins, 0
        index = int(np.searchsorted(begins, offset, "right")) - 1
        while done < len(buffer):
            begin = int(begins[index])
            behind = self._together(index, end) if begin == offset + done else index
            if behind > index:
                count = int(begins[behind]) - begin
                self._decode(index, behind, buffer[done : done + count])
                index = behind
            else:
                into = offset + done - begin
                count = min(int(begins[index + 1]) - begin - into, len(buffer) - done)
                buffer[done : done + count] = self._kept(index)[into : into + count]
                index += 1
            done += count

    def spans(self, offset: int, size: int) -> list[Span] | None:  # noqa: ARG002 - nothing lies in the file as it is
        """Return None: the bytes must be decoded."""
        return None

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        with self._lock:
            self._closed = True
            self._cache.clear()
        self.file.close()

    def _together(self, index: int, end: int) -> int:
        """Return the set behind those that are decoded together from one on, up to an offset; itself if none is."""
        last = min(end, int(self._begins[index]) + _BATCH)
        behind = int(np.searchsorted(self._begins, last, "right")) - 1
        behind = min([behind, *self._back[self._back > index].tolist()])
        ends = self._sets.place[index:behind] + self._sets.length[index:behind]
        return index + int(np.searchsorted(ends, int(self._sets.place[index]) + _SPAN, "right"))

    def _kept(self, index: int) -> bytearray:
        """Return a set's pages, and keep them."""
        with self._lock:
            if index in self._cache:
                self._cache.move_to_end(index)
                return self._cache[index]
        data = bytearray(int(self._begins[index + 1] - self._begins[index]))
        self._decode(index, index + 1, memoryview(data))  # without the lock: that two threads do it does no harm
        with self._lock:
            if not self._closed and index not in self._cache:
                self._cache[index] = data
                self._cached += len(data)
            while self._cached > CACHE:
                self._cached -= len(self._cache.popitem(last=False)[1])
        return data

    def _decode(self, low: int, high: int, target: memoryview) -> None:
        """Decode sets, which lie near each other in the file, into all of `target`. Raises SourceReadError."""
        sets = self._sets
        place, size, method = sets.place[low:high], sets.length[low:high], sets.method[low:high]
        begin = place - self._before[low:high]
        base = int(begin.min())
        buffer = bytearray(int((place + size).max()) - base)  # of a second run that begins inside the first one, too
        self.file.read_into(base, memoryview(buffer))
        self._compare(low, buffer, begin - base, place - base)
        data, pages = np.frombuffer(buffer, np.uint8), np.frombuffer(target, np.uint8)
        into, length = self._begins[low:high] - self._begins[low], np.diff(self._begins[low : high + 1])
        sound = np.zeros(high - low, np.bool_)

        def try_as(how: str, which: Bools) -> None:
            row = np.flatnonzero(which & ~sound)
            if len(row):
                sound[row] = decode(how, data, place[row] - base, size[row], pages, into[row], length[row])

        try_as(XPRESS, method <= EITHER)
        try_as(XPRESS_HUFFMAN, method >= EITHER)
        if not sound.all():
            row = int(np.argmin(sound))
            raise SourceReadError(
                f"the set of {int(length[row]) // PAGE} pages at offset 0x{int(place[row]):x} is damaged: it does not "
                "decode to as many",
                subject=self.path,
            )

    def _compare(self, first: int, data: bytearray, begin: I64, end: I64) -> None:
        """Raise SourceReadError if sets from number `first` on do not have the headers in `data` that an index says."""
        if self._heads is None:
            return
        for number, (low, high) in enumerate(zip(begin.tolist(), end.tolist(), strict=True), first):
            if data[low:high] != self._heads.header(number):
                raise SourceReadError(
                    f"at offset 0x{int(self._sets.place[number]) - (high - low):x} is another set of pages than its "
                    "index says: that is wrong, or the file was changed",
                    subject=self.path,
                    remedy=f"remove {self._heads.path}",
                )
