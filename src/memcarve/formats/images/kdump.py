"""Compressed kernel dumps: what makedumpfile writes (kdump), and QEMU's dump-guest-memory if it compresses.

The format is that of makedumpfile (its IMPLEMENTATION, and diskdump_mod.h for the structures), which took it over from
diskdump: a header; a header behind it that grew with the version; a bitmap of the pages that the machine has, and one
of those that are stored; a descriptor of 24 bytes for each of the latter, in order; and the pages, each compressed by
itself or not at all. All pages of zeros share one descriptor's place. Blocks are as large as the machine's pages.
QEMU's writer is its dump/dump.c.

The pages of the first bitmap that are not in the second are left out: by makedumpfile's dump level, pages that the
kernel says to be free, of the page cache or of programs. What was in them is not known. (Pages of zeros are not among
them: the level makes them share one place.) Of a dump that --split wrote as several files, each has all of the bitmaps,
and the descriptors and pages from one number on to another.
"""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from memcarve.backing import next_written
from memcarve.errors import InputError, MissingExtraError, SourceReadError
from memcarve.formats.elf_core.core_headers import PRSTATUS, notes_between
from memcarve.formats.images.decoded_pages import DecodedPages
from memcarve.formats.images.machine import CutOff, MachineMemory, column
from memcarve.formats.images.machine_core import MOST_TEXT, qemu_root
from memcarve.formats.images.signatures import KDUMP, KDUMPS
from memcarve.intervals import Intervals

if TYPE_CHECKING:
    from memcarve.backing import FileBacking
    from memcarve.dtypes import I64, U8, U64, Bools, Records
    from memcarve.formats.elf_core.core_headers import Note

_NEWEST = 6
_NAMES_AT, _NAME = 12, 65  # six names of the system (struct new_utsname)
_MACHINE = 4  # the fifth says which processor
#: status, block size, blocks of the second header, blocks of bitmaps, number of pages
_SIZES = struct.Struct("<IiiII")
_SIZES_AT = {64: 424, 32: 412}  # behind the names is a time of 16 or 8 bytes, aligned
#: phys_base, dump level, whether it was split, first and last page of a part; then offsets and sizes of VMCOREINFO,
#: of notes, of what was erased; and with 64 bits first and last page and number of pages. By version there is less
_SECOND = {64: struct.Struct("<QiiQQQQQQQQQQQ"), 32: struct.Struct("<IiiIIQIQIQIQQQ")}
_LEVEL_SINCE, _SPLIT_SINCE, _VMCOREINFO_SINCE, _NOTES_SINCE, _ERASED_SINCE, _WIDE_SINCE = 1, 2, 3, 4, 5, 6
_BLOCK_SIZES = [1 << bits for bits in range(12, 17)]
_MOST_PAGES = 1 << 36  # 256 TiB of memory, and a bitmap of 8 GiB
_INCOMPLETE = 8  # in the status: there was no room for all of it

_ZLIB, _LZO, _SNAPPY, _ZSTD = 0x1, 0x2, 0x4, 0x20
_HOW = _ZLIB | _LZO | _SNAPPY | _ZSTD
_DESCRIPTOR = np.dtype([("offset", "<u8"), ("size", "<u4"), ("flags", "<u4"), ("page_flags", "<u8")])
_PIECE = 1 << 16  # bytes of a bitmap that are looked at together
_LONG = 256  # pages: so many zeros in a row are not looked through
_APART = 1 << 16  # bytes between two pages that are read along with them
_STRETCH = 8 << 20  # bytes of compressed pages that are read together

#: what the processor's name means, for page tables
_ARCHITECTURES = {b"x86_64": "x64", b"aarch64": "arm64", **{b"i%d86" % number: "x86" for number in range(3, 7)}}
#: QEMU does not know what its own machine is called, unless it is a PC
_UNTOLD = (b"", b"(none)", b"Unknown")
#: then the length of a processor's registers tells (NT_PRSTATUS of Linux: struct elf_prstatus)
_PRSTATUS = {144: "x86", 148: "32-bit ARM", 336: "x64", 376: "64-bit RISC-V", 392: "arm64", 504: "64-bit PowerPC"}
_LEVELS = (
    (1, "zeros"),
    (2, "the page cache"),
    (4, "the page cache that is private"),
    (8, "programs' own memory"),
    (16, "free memory"),
)
_ZEROS = 1


class _Header(NamedTuple):
    """What the headers say: numbers of pages and bytes, offsets in the file, offset and size of what lies elsewhere.

    Each bitmap has `half` bytes, 0 if there is one alone. Of the pages those from `first` to `end` are in this file.
    A header is `unnamed` that does not say which system it was (QEMU's).
    """

    writer: str
    unnamed: bool
    block: int
    bitmap: int
    half: int
    descriptors: int
    pages: int
    first: int
    end: int
    incomplete: bool
    split: bool
    level: int
    vmcoreinfo: tuple[int, int]
    notes: tuple[int, int]
    erased: bool
    processor: bytes


def read(file: FileBacking) -> MachineMemory | None:
    """Return the machine's memory, None if the file is not a compressed kernel dump.

    Reads bitmaps and descriptors, and no page but one. Raises InputError if the dump is of a processor that memcarve
    does not know or of a later version, or its headers make no sense; and SourceReadError. Close the backing, which
    closes `file`.
    """
    if file.read_there(0, 8) not in KDUMPS:
        return None
    header = _headers(file)
    notes = [] if not header.notes[1] else [*notes_between(file, "<", header.notes[0], sum(header.notes))]
    by_qemu = [note for note in notes if note.owner == b"QEMU"]
    roots = (qemu_root(file, note, wide=header.processor == b"x86_64") for note in by_qemu)
    root = next((root for root in roots if root is not None), None)
    text = None
    if 0 < header.vmcoreinfo[1] <= MOST_TEXT:
        text = file.read_there(*header.vmcoreinfo) or None
    architecture = _architecture(file, header, notes)
    index = _Index(file, header)
    index.build()
    backing = _Pages(file, header, index)
    remarks = _remarks(header, index)
    whole = not (header.split or header.incomplete or index.truncated or index.bitmap_cut)
    return MachineMemory(
        f"{header.writer} (QEMU)" if header.unnamed and by_qemu else header.writer,
        backing,
        *index.columns(),
        index.cut.listed(),
        declared=whole and header.half > 0,
        root=root,
        notes=(*remarks, *index.cut.notes()),
        zeros=index.zeros(),
        gaps=_gaps(header, index),
        left_out=index.left_out(),
        vmcoreinfo=text,
        architecture=architecture,
    )


def _headers(file: FileBacking) -> _Header:
    data = file.read_there(0, 512)
    if len(data) < _SIZES_AT[64] + _SIZES.size:
        raise InputError(
            f"is a compressed kernel dump that ends inside its header, at 0x{len(data):x}; the file was cut off",
            subject=file.path,
        )
    place = _NAMES_AT + _MACHINE * _NAME
    processor = data[place : place + _NAME].split(b"\0")[0]
    version = int.from_bytes(data[8:12], "little")
    if processor not in {*_ARCHITECTURES, *_UNTOLD}:
        raise _of_another_processor(file, processor.decode("latin-1"))
    if version > _NEWEST:
        raise InputError(
            f"is a compressed kernel dump of version {version}; memcarve knows those up to {_NEWEST}",
            subject=file.path,
            remedy="makedumpfile -E makes an ELF core of it",
        )
    fitting = [bits for bits, at in _SIZES_AT.items() if _is_sane(_SIZES.unpack_from(data, at))]
    narrow = _ARCHITECTURES.get(processor) == "x86"
    if not fitting:
        raise InputError(
            "is a compressed kernel dump whose header makes no sense; it is damaged",
            subject=file.path,
            remedy="makedumpfile -E makes an ELF core of it, if it can read it",
        )
    bits = 32 if 32 in fitting and (narrow or 64 not in fitting) else 64  # noqa: PLR2004
    status, block, blocks, bitmap_blocks, pages = _SIZES.unpack_from(data, _SIZES_AT[bits])
    writer = "kdump" if data.startswith(KDUMP) else "diskdump"
    layout = _SECOND[bits]
    behind = file.read_there(block, layout.size).ljust(layout.size, b"\0") if writer == "kdump" else bytes(layout.size)
    _, level, split, first, end, *rest = layout.unpack(behind)
    if version < _LEVEL_SINCE:
        level = 0
    if version < _SPLIT_SINCE:
        split = 0
    if version >= _WIDE_SINCE:
        first, end, pages = rest[6], rest[7], rest[8] or pages
    if pages > _MOST_PAGES:
        raise InputError(
            f"is a compressed kernel dump of 0x{pages:x} pages; no machine has so many, the file is damaged",
            subject=file.path,
        )
    bitmap_at = (1 + blocks) * block
    needed = -(-pages // (8 * block))
    return _Header(
        writer,
        unnamed=not data[_NAMES_AT],
        block=block,
        bitmap=bitmap_at,
        half=bitmap_blocks // 2 * block if bitmap_blocks >= 2 * needed else 0,
        descriptors=bitmap_at + bitmap_blocks * block,
        pages=pages,
        first=first if split else 0,
        end=min(end, pages) if split else pages,
        incomplete=bool(status & _INCOMPLETE),
        split=bool(split),
        level=level,
        vmcoreinfo=(rest[0], rest[1]) if version >= _VMCOREINFO_SINCE else (0, 0),
        notes=(rest[2], rest[3]) if version >= _NOTES_SINCE else (0, 0),
        erased=version >= _ERASED_SINCE and rest[5] > 0,
        processor=processor,
    )


def _of_another_processor(file: FileBacking, name: str) -> InputError:
    return InputError(
        f"is the dump of a machine whose processor is {name}; memcarve reads page tables of x86, x86-64 and ARM64 "
        "alone",
        subject=file.path,
        remedy="make a core of each process on the machine itself (gcore), and give those",
    )


def _architecture(file: FileBacking, header: _Header, notes: list[Note]) -> str | None:
    """Return the architecture, by its name or the length of registers; None if nothing tells.

    Raises InputError if it is another one.
    """
    lengths = [note.size for note in notes if (note.owner, note.kind) == (b"CORE", PRSTATUS)]
    found = _ARCHITECTURES.get(header.processor) or (_PRSTATUS.get(lengths[0]) if lengths else None)
    if found is not None and found not in _ARCHITECTURES.values():
        raise _of_another_processor(file, found)
    return found


def _is_sane(sizes: tuple[Any, ...]) -> bool:
    """Return True if the numbers of a header fit to each other: the bitmap has a bit for each page."""
    _, block, blocks, bitmap_blocks, pages = sizes
    bits = bitmap_blocks * block * 8
    return block in _BLOCK_SIZES and 0 < blocks < 1 << 16 and bitmap_blocks > 0 and min(pages, bits) == pages


class _Index:
    """What a dump's bitmaps and descriptors say of each page: where it is stored, that it is zeros, or that it lacks.

    Pages are stored in the order of their numbers: of the n-th stored page, the descriptor is the n-th, and so its
    bytes are at n times the page's size of what is decoded.
    """

    def __init__(self, file: FileBacking, header: _Header) -> None:
        self._file = file
        self._header = header
        self._rows: list[tuple[U64, U64, U64]] = []  # first page, pages, number of the first among the stored ones
        self._zeros: list[tuple[U64, U64]] = []  # first page, pages
        self._out: list[tuple[U64, U64]] = []
        self.stored = 0
        self.cut = CutOff()
        self.bitmap_cut = self.truncated = False
        #: where the page of zeros lies that others share
        self.zero_place: int | None = None

    def build(self) -> None:
        """Look through bitmaps and descriptors, a piece at a time."""
        header = self._header
        bytes_ = -(-header.pages // 8)
        low = self._written(0)
        while low < bytes_:
            size = min(_PIECE, bytes_ - low)
            has = self._bits(header.bitmap + low, size, header.pages - low * 8)
            stored = self._bits(header.bitmap + header.half + low, size, header.pages - low * 8) if header.half else has
            if header.half:
                runs = _runs(has & ~stored)
                self._out.append((runs[0] + np.uint64(low * 8), runs[1]))
            if header.split:
                page = np.arange(low * 8, low * 8 + len(stored))
                stored &= (page >= header.first) & (page < header.end)
            if stored.any():
                self._add(np.flatnonzero(stored) + low * 8)
            low = self._written(low + size)

    def _written(self, low: int) -> int:
        """Return from which byte of the bitmaps on, at or behind `low`, either is not only a hole of the file."""
        begins = {self._header.bitmap, self._header.bitmap + self._header.half}
        found = min(next_written(self._file, begin + low) - begin for begin in begins)
        return max(low, found // _PIECE * _PIECE)

    def _bits(self, offset: int, size: int, bits: int) -> Bools:
        """Return the bits of a part of a bitmap (bool); those behind the end of the file are not set."""
        data = self._file.read_there(offset, size)
        self.bitmap_cut |= len(data) < size
        if data.count(0) == len(data):
            return np.zeros(min(size * 8, bits), np.bool_)
        found = np.unpackbits(np.frombuffer(data.ljust(size, b"\0"), np.uint8), bitorder="little")
        return found[:bits].view(np.bool_)

    def _add(self, pages: I64) -> None:
        """Add pages that are stored, by their descriptors."""
        header, page = self._header, np.uint64(self._header.block)
        table = descriptors(self._file, header.descriptors, self.stored, len(pages))
        first, self.stored = self.stored, self.stored + len(pages)
        place = table["offset"].astype(np.uint64)
        size = np.minimum(table["size"], page).astype(np.uint64)  # a page that is damaged is there, and tells when read
        there = np.zeros(len(pages), np.bool_)
        end = np.uint64(self._file.size)
        there[: len(table)] = (place > 0) & (place < end) & (end - np.minimum(place, end) >= size)
        if not there.all():
            gone = pages[~there].astype(np.uint64) * page
            self.truncated = True
            self.cut.add(gone, np.full_like(gone, page))
        kind = there.astype(np.int8)
        if there.any():
            kind[: len(table)][there[: len(table)] & (place == self._zero_place(table, place, there))] = 2
        edges = np.flatnonzero((np.diff(pages) != 1) | (np.diff(kind) != 0)) + 1
        begins, ends = np.append(0, edges), np.append(edges, len(pages))
        few = (kind[begins] == 2) & (ends - begins < _LONG)  # noqa: PLR2004 - zeros, too few to be treated apart
        kind[np.repeat(few, ends - begins)] = 1
        edges = np.flatnonzero((np.diff(pages) != 1) | (np.diff(kind) != 0)) + 1
        begins, ends = np.append(0, edges), np.append(edges, len(pages))
        start, count = pages[begins].astype(np.uint64), (ends - begins).astype(np.uint64)
        rank = begins.astype(np.uint64) + np.uint64(first)
        kept, zeros = kind[begins] == 1, kind[begins] == 2  # noqa: PLR2004
        self._rows.append((start[kept], count[kept], rank[kept]))
        self._zeros.append((start[zeros], count[zeros]))

    def _zero_place(self, table: Records, place: U64, there: Bools) -> int:
        """Return where the page of zeros lies that others share: the first one that a writer stores; else 0."""
        lowest = int(np.argmin(np.where(there[: len(table)], place, np.uint64((1 << 64) - 1))))
        if self.zero_place is None and np.count_nonzero(place == place[lowest]) > 1:
            data = bytearray(self._header.block)
            try:
                decode(self._file, table[lowest : lowest + 1], memoryview(data), self._header.block)
            except SourceReadError:
                return 0
            self.zero_place = int(place[lowest]) if not any(data) else 0
        return self.zero_place or 0

    def columns(self) -> tuple[U64, U64, U64]:
        """Return the columns of what is stored: physical start, size and offset in what is decoded, in bytes."""
        page = np.uint64(self._header.block)
        if not self._rows:
            return column([]), column([]), column([])
        start, count, rank = (np.concatenate(columns) for columns in zip(*self._rows, strict=True))
        return start * page, count * page, rank * page

    def zeros(self) -> Intervals:
        """Return the memory that is zeros."""
        return self._intervals(self._zeros)

    def left_out(self) -> Intervals:
        """Return the memory that the machine has and the writer left out."""
        return self._intervals(self._out)

    def _intervals(self, parts: list[tuple[U64, U64]]) -> Intervals:
        page = np.uint64(self._header.block)
        if not parts:
            return Intervals.of([])
        start, count = (np.concatenate(columns) for columns in zip(*parts, strict=True))
        return Intervals(start * page, count * page)


def _runs(flags: Bools) -> tuple[U64, U64]:
    """Return where flags are set: the first of each run, and how many they are."""
    edges = np.flatnonzero(np.diff(flags.view(np.int8), prepend=0, append=0)).astype(np.uint64)
    return edges[0::2], edges[1::2] - edges[0::2]


def descriptors(file: FileBacking, begin: int, first: int, count: int) -> Records:
    """Return descriptors from number `first` on, fewer if the file ends before `count` of them."""
    data = file.read_there(begin + first * _DESCRIPTOR.itemsize, count * _DESCRIPTOR.itemsize)
    return np.frombuffer(data, _DESCRIPTOR, len(data) // _DESCRIPTOR.itemsize)


class _Pages(DecodedPages):
    """The stored pages of a dump, decoded by their descriptors, which are read again each time."""

    def __init__(self, file: FileBacking, header: _Header, index: _Index) -> None:
        super().__init__(file, index.stored, header.block)
        self._descriptors = header.descriptors
        self._zero_place = index.zero_place

    def decode(self, first: int, target: memoryview) -> None:
        """Fill `target` with pages. Raises SourceReadError if one is damaged."""
        count = len(target) // self.page
        table = descriptors(self.file, self._descriptors, first, count)
        if len(table) < count:
            raise SourceReadError("ends inside its page descriptors", subject=self.path)
        if self._zero_place:
            zero = table["offset"] == self._zero_place
            if zero.any():
                pages: U8 = np.frombuffer(target, np.uint8).reshape(count, self.page)
                pages[zero] = 0
                for begin, length in zip(*(each.tolist() for each in _runs(~zero)), strict=True):
                    part = target[begin * self.page : (begin + length) * self.page]
                    decode(self.file, table[begin : begin + length], part, self.page)
                return
        decode(self.file, table, target, self.page)


def decode(file: FileBacking, table: Records, target: memoryview, page: int) -> None:
    """Decode the pages of some descriptors, one behind the other. Raises SourceReadError if one is damaged."""
    rows = [(place, size, flags) for place, size, flags, _ in table.tolist()]
    begin, data = 0, memoryview(b"")
    for number, (place, size, flags) in enumerate(rows):
        if not 0 < size <= page:
            raise _damaged(file, place, f"says to have {size} bytes, of at most {page}")
        if not begin <= place <= begin + len(data) - size:
            end = place + size
            for later, length, _ in rows[number + 1 :]:
                if not (place <= later <= end + _APART and later + length - place <= _STRETCH and length <= page):
                    break
                end = max(end, later + length)
            buffer = bytearray(max(min(end, file.size) - place, size))
            file.read_into(place, memoryview(buffer))
            begin, data = place, memoryview(buffer)
        stored = data[place - begin : place - begin + size]
        into = target[number * page : (number + 1) * page]
        if flags & _HOW:
            _decompress(file, place, flags & _HOW, stored, into)
        elif size == page:
            into[:] = stored
        else:
            raise _damaged(file, place, f"is not compressed, and has {size} bytes of {page}")


def _decompress(file: FileBacking, place: int, how: int, stored: memoryview, into: memoryview) -> None:
    """Decompress a page into `into`, which it must fill. Raises SourceReadError."""
    if how == _ZLIB:
        try:
            found: bytes | bytearray = zlib.decompressobj().decompress(stored, len(into) + 1)
        except zlib.error as error:
            raise _damaged(file, place, str(error)) from error
    elif how == _LZO:
        found = _lzo(file, place, stored, len(into))
    else:
        import cramjam  # nothing else needs it

        found = bytearray(len(into))
        unpack = cramjam.snappy.decompress_raw_into if how == _SNAPPY else cramjam.zstd.decompress_into
        try:
            count = unpack(stored, found)
        except cramjam.DecompressionError as error:
            raise _damaged(file, place, str(error)) from error
        found = found[:count]
    if len(found) != len(into):
        raise _damaged(file, place, f"decodes to {len(found)} bytes, not to {len(into)}")
    into[:] = found


def _lzo(file: FileBacking, place: int, stored: memoryview, size: int) -> bytes:
    try:
        import lzallright  # there are no wheels of it for some systems
    except ImportError:
        raise MissingExtraError(
            "is compressed (LZO); to read it: pip install lzallright, or makedumpfile -E makes an ELF core of it",
            subject=file.path,
        ) from None
    try:
        return lzallright.LZOCompressor.decompress(stored, size)
    except lzallright.LZOError as error:
        raise _damaged(file, place, str(error.args[0])) from error


def _damaged(file: FileBacking, place: int, why: str) -> SourceReadError:
    return SourceReadError(f"the page at offset 0x{place:x} is damaged: {' '.join(why.split())}", subject=file.path)


def _remarks(header: _Header, index: _Index) -> tuple[str, ...]:
    remarks = []
    if header.split:
        remarks.append(
            f"is one of several files of a dump (makedumpfile --split): pages 0x{header.first:x} to 0x{header.end:x} "
            "of the machine are in this one; makedumpfile --reassemble puts them together"
        )
    if header.incomplete:
        remarks.append("the dump says that it is incomplete: there was no room for all of it when it was written")
    if header.erased:
        remarks.append("makedumpfile overwrote what it was configured to erase: such bytes are not the machine's")
    if index.bitmap_cut:
        remarks.append("the file ends inside its bitmaps: which pages there are beyond is not known")
    return tuple(f"{header.writer}: {remark}" for remark in remarks)


def _gaps(header: _Header, index: _Index) -> str | None:
    """Return in words what the writer left out, None if nothing."""
    if not len(index.left_out()):
        return "the other files of the dump hold the rest" if header.split else None
    kinds = ", ".join(words for bit, words in _LEVELS if header.level & bit and bit != _ZEROS)
    return f"makedumpfile left pages out: {kinds or 'why is not known'} (dump level {header.level})"
