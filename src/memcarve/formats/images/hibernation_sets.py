"""The compressed sets of pages in a hibernation file: where each lies, and which pages it has.

Windows 8 and later: a set is a number of 32 bits (bits 0 to 7 the number of descriptors, 8 to 29 the bytes of its data,
30 and 31 how they are compressed), the descriptors of 64 bits (the low four are the number of pages less one, the
others the first page's frame), and the data; the next set follows at once. The pages of all its descriptors are
compressed as one. (LeechCore's device_hibr.c; Hibr2Bin's MemoryBlocks.cpp.)

Windows 7: pages of tables, each of which begins with the number of the next one's page (64 bits), and the number of its
rows (32 bits); from 16 on are rows of two numbers of 64 bits, the first frame and the one behind the last. A table that
is not full is the last one, whatever it says of a next. Behind the table's page are the pages of all of its rows, in
blocks: a magic, the number of pages less one (8 bits), four times the bytes of its data less one (32 bits), other 19
bytes, and the data, filled up to 8 bytes. (libhibr's documentation; Hibr2Bin's Hiber.h and MemoryBlocks.cpp.)

Data that are as long as their pages are stored as they are.
"""

from __future__ import annotations

import struct
from array import array
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from memcarve.backing import FileBacking
    from memcarve.dtypes import I64, U8, U32, U64

PAGE = 4096
#: how a set is compressed, as Windows 8 and later number it. What 1 is, sources do not agree on: one or the other
PLAIN, EITHER, HUFFMAN, HUFFMAN_TOO = range(4)
BLOCK_MAGIC = b"\x81\x81xpress"

_USUAL = 16  # descriptors and pages of a set; there may be more
_MOST_FRAMES = 1 << 40  # no physical address is as high
_BLOCK = struct.Struct("<8sBI19x")
_TABLE_HEAD = 16
_MOST_ROWS = (PAGE - _TABLE_HEAD) // 16
_FULL = _MOST_ROWS - 1  # rows of a table that others follow: it may lack one
#: no machine has so many: of 512 GiB, in sets of 16 pages. 25 bytes are kept of each
MOST_SETS = 1 << 23
#: nor so many runs of pages: of 128 GiB, page by page. 16 bytes are kept of each
MOST_RUNS = 1 << 25
#: there are no more in a file that is so much smaller: even if its pages compress well, or are zeros by sixteens
_FEWEST, _SET_BYTES, _RUN_BYTES = 1 << 20, 1 << 7, 1 << 8
_MOST_OF_SET = (1 << 22) // PAGE - 1  # pages, which must fit the set's 22 bits for bytes as they are


class Sets(NamedTuple):
    """The sets, in the order of the file, and the runs of pages that they hold, in the order in which they decode.

    Of each set `place` and `length` are where its data lie in the file, `method` is how they are compressed; `first`
    (one more than there are sets) is the number of its first page among all pages. Of each run `frame` is the first
    page's frame, `pages` the number of them. Runs may name the same page more than once.
    """

    place: I64
    length: I64
    method: U8
    first: I64
    frame: U64
    pages: U64


def frames_of(descriptors: U64) -> tuple[U64, U64] | None:
    """Return first frame and number of pages of runs (uint64); None if there are pages that no machine has."""
    found = _frames(descriptors)
    return None if (found[0] >= np.uint64(_MOST_FRAMES - _USUAL)).any() else found


def _frames(descriptors: U64) -> tuple[U64, U64]:
    return descriptors >> np.uint64(4), (descriptors & np.uint64(15)) + np.uint64(1)


def most_of(size: int) -> tuple[int, int]:
    """Return how many sets and runs a file of `size` bytes can have."""
    return min(MOST_SETS, max(_FEWEST, size // _SET_BYTES)), min(MOST_RUNS, max(_FEWEST, size // _RUN_BYTES))


class Walk:
    """Collects the sets of a file. `problem` says why a walk ended early, None if it did not.

    `lost` are the runs (first frame, pages) that the file names and whose data it does not hold.
    """

    def __init__(self, file: FileBacking) -> None:
        self._file = file
        self._most_sets, self._most_runs = most_of(file.size)
        self._offset, self._size, self._method, self._pages = array("q"), array("q"), array("B"), array("q")
        self._words = array("I")  # that sets begin with
        self._descriptors = bytearray()
        self._rows = array("Q")  # first frame and number of pages, by turns
        self.problem: str | None = None
        self.lost: list[tuple[int, int]] = []
        self.pages = 0

    def sets(self) -> Sets:
        """Return what was found."""
        if self._rows:
            rows = np.array(self._rows, np.uint64)
            frame, count = rows[::2], rows[1::2]
        else:
            frame, count = _frames(self.heads()[1])
        pages = np.frombuffer(self._pages, np.int64) if self._pages else np.empty(0, np.int64)
        return Sets(
            np.array(self._offset, np.int64),
            np.array(self._size, np.int64),
            np.array(self._method, np.uint8),
            np.concatenate([[0], np.cumsum(pages)]).astype(np.int64),
            frame,
            count,
        )

    def heads(self) -> tuple[U32, U64]:
        """Return what sets of Windows 8 and later begin with: the number of each, and the descriptors of all."""
        return np.array(self._words, np.uint32), np.frombuffer(self._descriptors, "<u8")

    # Windows 8 and later

    def compressed_sets(self, begin: int, expected: int) -> int:
        """Collect the sets from an offset on until they have the pages that are expected; return how many they have."""
        file, at, done = self._file, begin, 0
        while done < expected and self.problem is None:
            head = file.read_there(at, 4 + 8 * _USUAL)
            if len(head) < 4:  # noqa: PLR2004 - bytes of a number
                self.problem = f"the file ends at 0x{file.size:x}"
                break
            word = int.from_bytes(head[:4], "little")
            rows, size, method = word & 0xFF, word >> 8 & 0x3FFFFF, word >> 30
            if rows > _USUAL:
                head = file.read_there(at, 4 + 8 * rows)
            table = head[4 : 4 + 8 * rows]
            pages = sum(byte & 15 for byte in table[::8]) + rows
            data = at + 4 + 8 * rows
            if len(table) < 8 * rows:
                self.problem = f"the file ends inside the set at 0x{at:x}"
            elif not 0 < size <= pages * PAGE or pages > _MOST_OF_SET:
                self.problem = f"at 0x{at:x} is no set of pages" + ("; there are zeros" if not any(head) else "")
            elif max(struct.unpack(f"<{rows}Q", table)) >> 4 >= _MOST_FRAMES - _USUAL:
                self.problem = f"the set at 0x{at:x} names pages that no machine has"
            elif len(self._descriptors) + len(table) > 8 * self._most_runs:
                self.problem = f"it has more than {self._most_runs} runs of pages"
            elif data + size > file.size:
                self.problem = f"the file ends inside the set at 0x{at:x}"
                self.lost += [(one >> 4, (one & 15) + 1) for one in struct.unpack(f"<{rows}Q", table)]
            else:
                self._add(data, size, method, pages)
                self._words.append(word)
                self._descriptors += table
                done += pages
                at = data + size
        return done

    def _add(self, offset: int, size: int, method: int, pages: int) -> None:
        if len(self._pages) == self._most_sets:
            self.problem = f"it has more than {self._most_sets} sets of pages"
        self._offset.append(offset)
        self._size.append(size)
        self._method.append(method)
        self._pages.append(pages)
        self.pages += pages

    # Windows 7

    def tables(self, page: int) -> None:
        """Collect the blocks of the tables from a page of the file on."""
        while page and self.problem is None:
            head = self._file.read_there(page * PAGE, PAGE)
            following, count = (int.from_bytes(head[at:end], "little") for at, end in ((0, 8), (8, 12)))
            words = (
                struct.unpack_from(f"<{2 * count}Q", head, _TABLE_HEAD)
                if len(head) == PAGE and count <= _MOST_ROWS
                else ()
            )
            rows = [*zip(words[::2], words[1::2], strict=True)]
            if len(head) < PAGE:
                self.problem = f"the file ends before the table at 0x{page * PAGE:x}"
            elif count > _MOST_ROWS or any(not low < end < _MOST_FRAMES for low, end in rows):
                self.problem = f"the table at 0x{page * PAGE:x} makes no sense"
            elif len(self._rows) + 2 * len(rows) > 2 * self._most_runs:
                self.problem = f"it has more than {self._most_runs} runs of pages"
            else:
                self._blocks((page + 1) * PAGE, rows)
                following = following if count >= _FULL else 0
                if following and following <= page:
                    self.problem = self.problem or f"the table at 0x{page * PAGE:x} leads back in the file"
                page = following

    def _blocks(self, at: int, rows: list[tuple[int, int]]) -> None:
        """Collect the blocks behind a table, whose rows are (first frame, the one behind the last)."""
        wanted, done = sum(end - low for low, end in rows), 0
        while done < wanted and self.problem is None:
            head = self._file.read_there(at, _BLOCK.size)
            magic, pages, size = _BLOCK.unpack(head) if len(head) == _BLOCK.size else (b"", 0, 0)
            pages, size = pages + 1, size // 4 + 1
            if len(head) < _BLOCK.size or at + _BLOCK.size + size > self._file.size:
                self.problem = f"the file ends inside the block at 0x{at:x}"
            elif magic != BLOCK_MAGIC or size > pages * PAGE or done + pages > wanted:
                self.problem = f"at 0x{at:x} is no block of pages"
            else:
                self._add(at + _BLOCK.size, size, PLAIN, pages)
                done += pages
                at += _BLOCK.size + (size + 7 & ~7)
        for low, end in rows:
            held = min(end - low, done)
            if held:
                self._rows.extend((low, held))
            if held < end - low:
                self.lost.append((low + held, end - low - held))
            done -= held
