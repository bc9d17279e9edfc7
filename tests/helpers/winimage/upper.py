"""The kernel half of every address space: the kernel, its pool, the data it shares, and what tempts readers."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from winimage import kernel
from winimage.contents import MASK48, MASK64, PAGE, SHARED, U64, page_words
from winimage.physical import LARGE, SPAN, numbers
from winimage.pool import Pool
from winimage.tables import Allowed, Tables, flags

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from winimage.layouts import Layout
    from winimage.paging_files import PagingFiles
    from winimage.physical import Physical

#: FILETIME of a day in February 2023
EPOCH = 133_200_000_000_000_000
SLOT_BITS = 39
_BEGIN = MASK64 & ~MASK48 | 1 << 47
_KUSER = 0xFFFFF78000000000
#: device memory and tables of the processor's own
_HAL = 0xFFFFF7E000000000
_TOP = MASK64 - PAGE + 1
#: which pages of the first MiB can have the start block; below them is the BIOS's, above them the display's
_STUBS = range(1, 0x9F)
#: the root's slots of these, of the kernel, and of the self-map before Windows 10
_FIXED = (0x1ED, 0x1EF, 0x1F0, 0x1FF)


class Options(NamedTuple):
    """What the kernel and the list of processes are like; see `winimage.build`."""

    exports: str = "full"
    damage: str | None = None
    small_pages: bool = False
    kpti: bool = False
    decoy: bool = True
    freed: bool = True
    top_page: bool = False
    stub: bool = False
    realistic: bool = False
    paging: PagingFiles | None = None
    pfn: str | None = None

    @property
    def small(self) -> bool:
        """Whether the kernel is mapped by 4 KiB pages."""
        return self.small_pages or self.exports == "paged-out"


class Upper:
    """Lays out the kernel half: made first, mapped when the pool's size is known, stored when its contents are."""

    def __init__(self, physical: Physical, layout: Layout, options: Options) -> None:
        self.physical, self.layout, self.options = physical, layout, options
        self.rng = physical.rng
        slots = [slot for slot in self.rng.permutation(range(0x100, 0x200)).tolist() if slot not in _FIXED]
        # the slot has been random since Windows 10
        self.slot = slots[0] if layout.modern else 0x1ED
        self.pool = Pool(_BEGIN | slots[1] << SLOT_BITS | self._random(1 << 17) << 21)
        self.cache = _BEGIN | slots[2] << SLOT_BITS | self._random(1 << 20) << 16
        # the decoy lies below
        self.base = 0xFFFFF80000000000 | (64 + self._random(1 << 13)) << 21
        self.shared_data = self._shared_data()
        #: where the start block is, physically, and where it sends processors
        self.stub = _STUBS[physical.seed * 37 % len(_STUBS)] * PAGE if options.stub else None
        self.entry = self.base + kernel.TEXT + 0x2340
        #: what of the kernel's data leads to the store of compressed pages
        self.globals = b""
        #: what else stands where in the kernel's image
        self.data: dict[int, bytes] = {}
        self.tables = Tables(physical, user=False)
        #: what user-mode roots have of it
        self.shadow = Tables(physical, user=False)

    def _random(self, below: int) -> int:
        return int(self.rng.integers(below))

    def _shared_data(self) -> int:
        """Write the page that the kernel shares with every process; return its frame."""
        data = bytearray(PAGE)
        now = EPOCH + 10**12
        struct.pack_into("<Iii", data, 0x14, now & 0xFFFFFFFF, now >> 32, now >> 32)
        system_root = "C:\\Windows".encode("utf-16-le")
        data[0x30 : 0x30 + len(system_root)] = system_root
        major, minor = self.layout.version
        # build number, product type, whether that is valid; before Windows 10 the first is something else
        struct.pack_into("<IIIII", data, 0x260, self.layout.build if self.layout.modern else 0, 1, 1, major, minor)
        frames = self.physical.take(1)
        self.physical.store(data, frames)
        return int(frames[0])

    def map(self) -> dict[int, int]:
        """Write the tables; return the root's entries."""
        self._map_kernel()
        self.pool.claim(self.physical)
        mapped = self.pool.mapped
        self.tables.present(_pages(self.pool.base, len(self.pool.data))[mapped], self.pool.frames[mapped], "RW")
        for page, entry in self.pool.paged.items():
            self.tables.put(0, _pages(self.pool.base, len(self.pool.data))[page], entry)
        self.tables.present(_pages(_KUSER, PAGE), np.array([self.shared_data], U64), "R")
        if self.options.decoy:
            self._map_decoy()
        self._map_cache()
        self._map_hal()
        if self.options.top_page:
            self._filled(_pages(_TOP, PAGE), "present", 1)
        self.shadow.write()
        return self.tables.write()

    def _filled(self, pages: NDArray[np.uint64], kind: str, chunk: int) -> None:
        frames = self.physical.take(len(pages), chunk)
        self.physical.fill(SHARED, pages, frames)
        if kind == "present":
            self.tables.present(pages, frames, "RW")
        else:
            self.tables.transition(pages, frames, "RW", mask=kind == "masked")

    def _map_kernel(self) -> None:
        pages = _pages(self.base, kernel.SIZE)
        if self.options.small:
            self.frames = self.physical.take(len(pages), 4)
            self._map_small(pages)
        else:
            blocks = [self.physical.take_large() for _ in range(kernel.SIZE // LARGE)]
            for number, frame in enumerate(blocks):
                # code, constants, data
                self.tables.large(self.base + number * LARGE, frame, ("RX", "R", "RW")[number])
            self.frames = np.concatenate([numbers(frame, SPAN) for frame in blocks])
        if self.options.kpti:
            for at, protection in ((kernel.TEXT // PAGE, "RX"), (kernel.DATA // PAGE, "RW")):
                self.shadow.present(pages[at : at + 1], self.frames[at : at + 1], protection)

    def _map_small(self, pages: NDArray[np.uint64]) -> None:
        places = (pages - pages[0]) * U64(PAGE)
        gone = (places == kernel.ACCESSORS) & (self.options.exports == "paged-out")
        code = (places >= kernel.TEXT) & (places < kernel.RDATA) & ~gone
        data = places >= kernel.DATA
        for part, protection in ((code, "RX"), (data, "RW"), (~code & ~data & ~gone, "R")):
            self.tables.present(pages[part], self.frames[part], protection)
        self.tables.absent(pages[gone], 2)

    def _map_decoy(self) -> None:
        base = self.base - 4 * LARGE
        pages, frames = _pages(base, kernel.DECOY), self.physical.take(kernel.DECOY // PAGE)
        filler = page_words(self.physical.seed, SHARED, pages << U64(12)).tobytes()
        self.physical.store(kernel.decoy(base, filler, self.rng), frames)
        self.tables.present(pages, frames, "RX")

    def _map_cache(self) -> None:
        """Map runs with gaps, present and in transition, and entries of the other kinds."""
        pages = _pages(self.cache, 80 * PAGE).reshape(-1, 16)
        for row, (kind, chunk) in enumerate((("present", 4), ("present", 1), ("transition", 1), ("masked", 2))):
            self._filled(pages[row][: 16 - 3 * row], kind, chunk)
        self.tables.absent(pages[4], np.arange(16) % 4)

    def _map_hal(self) -> None:
        """Map a device outside memory, and a page table of 512 identical entries."""
        pages, frames = _pages(_HAL, 1024 * PAGE), self.physical.take(2)
        self.physical.fill(SHARED, pages[:2], frames)
        self.tables.present(pages[:2], np.array([0xFEE00, frames[0]], U64), "RW")
        same = np.full(512, frames[1])
        self.tables.put(0, pages[512:], same << U64(12) | U64(flags("R", user=False)))
        rights = Allowed(user=False, writable=False, executable=False)
        self.tables.plan(pages[512:] << U64(12), same << U64(12), PAGE, rights)

    def store(self, initial: int, head: tuple[int, int]) -> None:
        """Write the kernel's image and the pool: the System process, and the pointers of the list's head."""
        filler = page_words(self.physical.seed, SHARED, _pages(self.base, kernel.SIZE) << U64(12)).tobytes()
        image = kernel.image(self.base, self.layout, self.options.exports, initial, filler, self.rng)
        struct.pack_into("<QQ", image, kernel.HEAD, *head)
        if self.globals:
            kernel.put_globals(image, self.globals)
        for place, data in self.data.items():
            image[place : place + len(data)] = data
        if self.options.exports == "paged-out":
            # the frame belongs to somebody else by now
            image[kernel.ACCESSORS : kernel.ACCESSORS + PAGE] = filler[:PAGE]
        self.physical.store(image, self.frames)
        self.physical.store(self.pool.data, self.pool.frames)

    def store_stub(self, root: int) -> None:
        """Write the block that processors start with (Windows' PROCESSOR_START_BLOCK), with the kernel's root."""
        if self.stub is None:
            return
        block = bytearray(PAGE)
        # jmp near, of 16 bits; the flag that the processor has started
        struct.pack_into("<BHxI", block, 0, 0xE9, 0x64D, 1)
        struct.pack_into("<Q", block, 0x70, self.entry)
        # cr0, cr2, cr3, cr4
        struct.pack_into("<QQQQ", block, 0x90, 0x80050031, 0, root, 0x6F8)
        self.physical.store(block, numbers(self.stub // PAGE, 1))


def _pages(address: int, size: int) -> NDArray[np.uint64]:
    """Return the page numbers, of 36 bits, of a stretch of addresses."""
    return numbers((address & MASK48) >> 12, size // PAGE)
