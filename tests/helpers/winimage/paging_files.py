"""What the kernel says of its page files: blocks (_MMPAGING_FILE) in the pool, and the array in its data that has them.

From Microsoft's public symbols of _MMPAGING_FILE and _MI_VISIBLE_PARTITION, not from memcarve's reader.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

from winimage import kernel
from winimage.contents import PAGE

if TYPE_CHECKING:
    from winimage.layouts import Layout
    from winimage.pool import Pool

#: where in the kernel's data the array is: not at 16 bytes, as it need not be
_PLACE, _SECOND = kernel.DATA + 0x27CA8, kernel.DATA + 0x5F128
_STORE, _SWAP = 1 << 6, 1 << 4
USUAL = ("\\??\\C:\\pagefile.sys", "\\??\\C:\\swapfile.sys", None)


class PagingFiles(NamedTuple):
    """The paths of page files, by number; None is the store of compressed pages, "" that there is none.

    `pages` and `most` are of files whose size is another than that of what is written. `wrong` is what is wrong:
    ``number``, ``sizes``, ``file``, ``names`` (they are not in memory), ``loop`` (a block is the array itself),
    ``slot`` (there is more in the array), ``two`` (another array says something else), ``copy`` (another says the
    same); ``drive``: the names are not in memory, but the file objects' are; ``name``: the first is in neither;
    ``keys``: those of the store have another number.
    """

    paths: tuple[str | None, ...] = USUAL
    pages: tuple[tuple[int, int], ...] = ()
    most: tuple[tuple[int, int], ...] = ()
    wrong: str = ""

    @property
    def store(self) -> int:
        """The number of the store; that of most machines if there is none."""
        return self.paths.index(None) + (self.wrong == "keys") if None in self.paths else 2


class _Members(NamedTuple):
    size: int
    width: str
    file: int
    name: int
    number: int


def _members(layout: Layout) -> _Members:
    if layout.build >= 26100:
        return _Members(0x100, "I", 0x18, 0x40, 0xAC)
    if layout.build >= 10586:
        return _Members(0x120, "Q", 0x38, 0x60, 0xCC)
    if layout.version >= (6, 3):
        return _Members(0x100, "Q", 0x40, 0x70, 0xA4)
    if layout.version >= (6, 2):
        return _Members(0xE0, "Q", 0x40, 0x70, 0xA8)
    return _Members(0x90, "Q", 0x30, 0x48, 0x74)


class Written:
    """The blocks, placed first; their sizes are written when those of the files are known."""

    def __init__(self, plan: PagingFiles, pool: Pool, layout: Layout) -> None:
        self.plan, self.pool, self.members = plan, pool, _members(layout)
        self.layout = layout
        self.blocks = [0 if path == "" else self._block(number, path) for number, path in enumerate(plan.paths)]

    def _block(self, number: int, path: str | None) -> int:
        pool, members, wrong = self.pool, self.members, self.plan.wrong
        at = pool.place(members.size, b"Mm  ", None, 16)
        old = self.layout.version < (6, 3)
        flags = _STORE if path is None else _SWAP if path.endswith("swapfile.sys") and not old else 0
        pool.put(at + members.number, "H", (number + (wrong == "number") & 15) | flags)
        if path is not None:
            text = path.encode("utf-16-le")
            lost = wrong in {"names", "drive"} or (wrong == "name" and not number)
            self._text(at + members.name, text, lost=lost)
            file = pool.place(0xD8, b"File")
            # the name in a file object is that on its drive
            self._text(file + 0x58, text[12:], lost=lost and wrong != "drive")
            pool.put(file, "HH", 3 if wrong == "file" else 5, 0xD8)
            pool.put(at + members.file, "Q", file)
        return at

    def _text(self, at: int, text: bytes, *, lost: bool) -> None:
        """Write a UNICODE_STRING; `lost`: the text is not in memory."""
        room = len(text) + 2
        buffer = self.pool.place_unmapped(PAGE, b"MmPf") if lost else self.pool.place(room, b"MmPf", None, 16)
        if not lost:
            self.pool.put(buffer, f"{len(text)}s", text)
        self.pool.put(at, "HH4xQ", len(text), room, buffer)

    def finish(self, files: dict[int, int]) -> None:
        """Write sizes, in pages; `files` are those of files that are written."""
        for number, at in enumerate(self.blocks):
            if at:
                pages = dict(self.plan.pages).get(number, files.get(number, 0x4000))
                most = dict(self.plan.most).get(number, 3 * pages)
                values = (pages, pages - 1, pages) if self.plan.wrong == "sizes" else (pages, most, max(pages // 2, 1))
                self.pool.put(at, 3 * self.members.width, *values)

    def data(self, base: int) -> dict[int, bytes]:
        """Return what stands where in the kernel's image: pages of the machine, how many files, then the array."""
        blocks, wrong = [*self.blocks], self.plan.wrong
        if wrong == "loop":
            blocks[0] = base + _PLACE
        array = blocks + [0] * (16 - len(blocks))
        if wrong == "slot":
            array[9] = 0x7FFE0000
        told = struct.pack("<QQQII16Q", 1, 0x2FFF, 0x2F00, sum(map(bool, blocks)), 1, *array)
        found = {_PLACE - 0x20: told}
        if wrong == "two":
            array[1], array[2] = 0, 0
        if wrong in {"two", "copy"}:
            found[_SECOND] = struct.pack("<16Q", *array)
        # single pointers to blocks, as lists have them, among zeros and not
        found[_SECOND + 0x1008] = struct.pack("<16Q", *[0] * 7, self.blocks[0], *[0] * 8)
        return found
