"""The kernel of a Windows x64 machine: its page-table root, its memory, its version and what it exports."""

from __future__ import annotations

import contextlib
import itertools
import re
import struct
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from memcarve.errors import AddressError, LimitError, SourceReadError, UnreadableError
from memcarve.formats.programs import pe
from memcarve.images.paging import translate
from memcarve.images.paging_modes import FRAME, PRESENT, ROOT, UPPER_HALF, WINDOWS, X64, X64_5, AddressTable
from memcarve.images.physical_scan import BLOCK, everything, part_of, words_of
from memcarve.intervals import PAGE, TOP, Intervals
from memcarve.permissions import EXECUTE

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from memcarve.dtypes import I64
    from memcarve.images.kernel_half import KernelHalf
    from memcarve.images.physical import PhysicalMemory
    from memcarve.images.physical_scan import Block
    from memcarve.space import AddressSpace

#: KUSER_SHARED_DATA, at the same address in every kernel; its fields are documented in ntddk.h
SHARED_DATA = 0xFFFFF78000000000
_SYSTEM_ROOT, _BUILD, _MAJOR, _MINOR = 0x30, 0x260, 0x26C, 0x270
_SHARED = _MINOR + 4  # the page need not be there to its end
_SYSTEM_ROOT_TEXT = re.compile(rb"(?:[A-Za-z]\0:\0\\\0)(?:[^\0]\0){1,250}\0\0")

#: where Windows loads its kernel: the 512 GiB that begin here
_KERNELS = 0xFFFFF80000000000
_KERNELS_END = 0xFFFFF88000000000

#: the block with which processors start, in the first MiB: offsets of words, their masks and the masked values
_START = 1 << 20
_BLOCK = (
    (0x00, 0xFFFFFFFFFFFF00FF, 0x00000001000600E9),
    (0x70, 0xFFFFF80000000003, _KERNELS),
    (0xA0, ~0xFFFFFFF000, 0),
)
_BLOCK_END = 0xA8  # the page need not be there to its end
_LARGEST_KERNEL = 64 << 20
_LARGE_PAGE = 2 << 20

#: how far page tables are looked for
KNOWN, LOW, EVERYWHERE = "known", "low", "everywhere"
#: below this lie the System process's page tables: at 0x187000 in Windows 7, at 0x1aa000 to 0x1ae000 since 8
_LOW = 64 << 20
_MOST_LOW = 16  # candidates there

_MOST_UNSURE = 16
_MOST_KERNELS = 16
_MOST_IMAGES = 1 << 16
_MOST_CANDIDATES = 4096
_MOST_SURE = 16
_MOST_HEADS = 1 << 20  # pages looked at for the beginning of an image


class Version(NamedTuple):
    """Which Windows it is; `build` is None, and `major` 0, if they are not known."""

    major: int
    minor: int
    build: int | None

    def __str__(self) -> str:
        if not self.major:
            return "of unknown version" if self.build is None else str(self.build)
        return f"{self.major}.{self.minor}" + (f".{self.build}" if self.build is not None else "")


class Kernel(NamedTuple):
    """A kernel as far as it was found: `base` and `exports` (absolute addresses) if its image was found."""

    space: KernelHalf
    version: Version
    base: int | None
    exports: dict[bytes, int]

    @property
    def table(self) -> AddressTable:
        """The page tables through which all of it is seen."""
        return self.space.table


class StartBlock(NamedTuple):
    """What processors start with: the physical address of the kernel's page tables, and an address in the kernel."""

    root: int
    entry: int


def start_block(memory: PhysicalMemory) -> StartBlock | None:
    """Return what the block in the first MiB that starts the processors says; None if there is none.

    Not every machine has it, and the caller must check what it says.
    """
    physical = np.arange(PAGE, _START, PAGE, dtype=np.uint64)
    try:
        words = memory.pages(physical := physical[memory.holds(physical, _BLOCK_END)])
    except UnreadableError:  # what can be read of it may say enough
        return start_block(memory)
    except SourceReadError:
        return None
    found = np.ones(len(physical), np.bool_)
    for at, mask, value in _BLOCK:
        found &= words[:, at // 8] & np.uint64(mask & (TOP - 1)) == np.uint64(value)
    blocks = words[found]
    return StartBlock(int(blocks[0, 0xA0 // 8]), int(blocks[0, 0x70 // 8])) if len(blocks) else None


def find_tables(memory: PhysicalMemory, where: str = EVERYWHERE) -> Iterator[tuple[AddressTable, Version]]:
    """Yield the page tables of a kernel, or of a process that maps all of it; nothing if there is no Windows x64.

    A candidate is a page with an entry for itself in its upper half, through which KUSER_SHARED_DATA can be read. If
    that page is lost, there are none; then the pages with such an entry are yielded last, with an unknown version.
    With `KNOWN`, only what the container or the processors' start block tells is looked at; `low_tables` are for `LOW`.
    """
    if where == LOW:
        yield from low_tables(memory)
        return
    told, block = memory.root, start_block(memory)
    for root in dict.fromkeys([*([] if told is None else [told]), *([block.root] if block else [])]):
        table, version = _checked(memory, root & ROOT)
        if version:
            yield table, version
    if where == KNOWN:
        return
    sure, others = 0, list[AddressTable]()
    for root in itertools.islice(_with_itself(memory, everything(memory)), _MOST_CANDIDATES):
        table, version = _checked(memory, root)
        if version:
            yield table, version
            sure += 1
            if sure == _MOST_SURE:
                return
        elif len(others) < _MOST_UNSURE:
            others.append(table)
    for table in others if not sure else ():
        yield table, Version(0, 0, None)


def low_tables(memory: PhysicalMemory) -> Iterator[tuple[AddressTable, Version]]:
    """Yield the candidates in the memory in which the kernel's tables usually lie, read from the lowest address on."""
    found = _with_itself(memory, part_of(memory, Intervals.of([(0, _LOW)])))
    for table, version in (_checked(memory, root) for root in itertools.islice(found, _MOST_LOW)):
        if version:
            yield table, version


def _with_itself(memory: PhysicalMemory, blocks: Iterable[Block]) -> Iterator[int]:
    """Yield the physical addresses of the pages in some blocks that have an entry for themselves in the upper half."""
    buffer = np.empty(BLOCK, np.uint8)
    for block in blocks:  # one by one: the kernel's tables lie low
        try:
            entries = words_of(memory, block, buffer)[:, UPPER_HALF:] & (FRAME | PRESENT)
        except SourceReadError:  # what cannot be read holds no root; reading it later raises the error
            continue
        # an entry that is not present leads nowhere: else every page of zeros at 0 would have one
        yield from block.physical[(entries == (block.physical | PRESENT)[:, None]).any(axis=1)].tolist()


def shared_data(memory: PhysicalMemory, table: AddressTable, address: int = SHARED_DATA) -> Version | None:
    """Return which Windows the page at the address of KUSER_SHARED_DATA names; None if it is not such a page."""
    physical = translate(memory, table, address)
    page = memory.read(physical, _SHARED) if physical is not None else None
    if page is None or not _SYSTEM_ROOT_TEXT.match(page, _SYSTEM_ROOT):
        return None
    build, major, minor = (struct.unpack_from("<I", page, at)[0] for at in (_BUILD, _MAJOR, _MINOR))
    if (major, minor) == (10, 0):
        return Version(major, minor, build & 0xFFFF or None)
    # before Windows 10 the page holds no build
    return Version(major, minor, None) if (major, minor) in {(5, 1), (5, 2), (6, 0), (6, 1), (6, 2), (6, 3)} else None


def kernels(space: KernelHalf, version: Version, wanted: set[bytes]) -> Iterator[Kernel]:
    """Yield what may be the kernel: images that call themselves ntoskrnl.exe, with the `wanted` exports they have.

    Any module may claim that name: the caller must check that the exports make sense. The last one has no image and no
    exports. What is near the address that the processors' start block tells is looked at first; only behind that all of
    the half is walked, which raises LimitError if it claims too much.
    """
    budget = _MOST_KERNELS
    block = start_block(space.memory)
    for base, image in _images(space, block.entry if block else None):

        def look(at: int, size: int, base: int = base) -> bytes:
            return space.padded(base + at, size)

        directory = pe.directory(look, image, pe.EXPORTS)
        if not all(directory) or pe.export_name(look, directory).lower() != b"ntoskrnl.exe":
            continue
        budget -= 1
        found = pe.exported(look, directory, wanted) if budget >= 0 else {}
        if found:
            exports = {symbol: base + at for symbol, at in found.items()}
            build = exports.get(b"NtBuildNumber")
            number = struct.unpack("<I", space.padded(build, 4))[0] & 0xFFFF if build is not None else 0
            yield Kernel(space, version._replace(build=number or version.build), base, exports)
    yield Kernel(space, version, None, {})


def _checked(memory: PhysicalMemory, root: int) -> tuple[AddressTable, Version | None]:
    """Return how to read the tables at a root, and which Windows is seen through them, if any."""
    for mode in (X64, X64_5):
        table = AddressTable(root, mode, WINDOWS)
        try:
            version = shared_data(memory, table)
        except LimitError:
            continue
        if version:
            return table, version
    return AddressTable(root, X64, WINDOWS), None


def _images(space: KernelHalf, entry: int | None) -> Iterator[tuple[int, pe.Image]]:
    """Yield the 64-bit images in a kernel half, those where Windows loads its kernel first.

    Images not far from `entry`, an address that should lie in the kernel, come before all others: those below it from
    the nearest down, then those above it.
    """
    seen: set[int] = set()
    for address in itertools.chain(() if entry is None else _near(space, entry), _everywhere(space)):
        place = space.offset_of(address)
        if place in seen or len(seen) > _MOST_IMAGES:  # one page may be mapped at a million addresses
            continue
        seen.add(place)
        image = pe.image(space.padded(address, PAGE))
        if image is not None and not image.wiped and image.wide and image.machine == pe.AMD64:
            yield address, image


def _near(space: KernelHalf, entry: int) -> Iterator[int]:
    """Yield the addresses of pages near `entry` that begin with ``MZ``.

    Kernels are large and lie at whole 2 MiB if they are mapped by large pages: there it costs little to look first.
    """
    page = entry // PAGE * PAGE
    if not _KERNELS <= page < _KERNELS_END:
        return
    large = entry // _LARGE_PAGE * _LARGE_PAGE
    lowest, highest = max(page - _LARGEST_KERNEL, _KERNELS), min(page + _LARGEST_KERNEL, _KERNELS_END)
    ways = (range(large, lowest, -_LARGE_PAGE), range(page, lowest, -PAGE), range(page + PAGE, highest, PAGE))
    for address in itertools.chain(*ways):
        with contextlib.suppress(AddressError):
            if space.read(address, 2) == b"MZ":
                yield address


def _everywhere(space: KernelHalf) -> Iterator[int]:
    """Yield the addresses of pages that begin with ``MZ``, those where Windows loads its kernel first.

    If reading all the memory is to be avoided, those come before all that look like the header of an image.
    """
    if not space.is_walked and not space.memory.searchable:
        yield from _likely(space.part(_KERNELS, _KERNELS_END))
    walked = space.whole
    usual = (walked.start >= np.uint64(_KERNELS)) & (walked.start < np.uint64(_KERNELS_END))
    for chosen in (usual, ~usual):
        yield from _heads(walked, np.flatnonzero(chosen))


def _likely(space: AddressSpace) -> Iterator[int]:
    """Yield the addresses of pages that begin with ``MZ``, of those that are followed by code but hold none.

    So are the headers of images that are mapped by small pages; those that are mapped by large ones begin with one.
    """
    if space.flags is None or not len(space):
        return
    code = space.flags & EXECUTE != 0
    end = space.start + space.size
    before = np.flatnonzero(~code[:-1] & code[1:] & (end[:-1] == space.start[1:]))
    large = np.flatnonzero(code & (space.size >= np.uint64(_LARGE_PAGE)))
    found = set((end[before] - np.uint64(PAGE)).tolist())
    for begin, size in zip(space.start[large].tolist(), space.size[large].tolist(), strict=True):
        found.update(range(-(-begin // _LARGE_PAGE) * _LARGE_PAGE, begin + min(size, _LARGEST_KERNEL), _LARGE_PAGE))
    for address in sorted(found):
        with contextlib.suppress(AddressError):
            if space.read(address, 2) == b"MZ":
                yield address


def _heads(space: AddressSpace, extents: I64) -> Iterator[int]:
    """Yield the addresses of pages that begin with ``MZ``; an extent may begin and end within a page."""
    buffer, budget = memoryview(bytearray(1 << 20)), _MOST_HEADS
    for index in extents.tolist():
        start, size, offset = int(space.start[index]), int(space.size[index]), int(space.offset[index])
        for done in range(-start % PAGE, size - 1, len(buffer)):
            view = buffer[: min(len(buffer), size - done)]
            budget -= -(-len(view) // PAGE)
            if budget < 0:
                return
            space.backing.read_into(offset + done, view)
            second = np.frombuffer(view, np.uint8)[1::PAGE]
            first = np.frombuffer(view, np.uint8)[::PAGE][: len(second)]
            for page in np.flatnonzero((first == ord("M")) & (second == ord("Z"))).tolist():
                yield start + done + page * PAGE
