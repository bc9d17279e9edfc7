"""What a segment's bytes say, found in one pass: zero pages, PE and ELF headers, entropy, text."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from memcarve.formats.programs import elf
from memcarve.formats.programs.pe import SEARCHED, SIGNATURE
from memcarve.intervals import PAGE
from memcarve.labels.headers import ZEROS, Header, may_begin, parse_header
from memcarve.labels.text_stats import Entropy, is_text, text_pages

if TYPE_CHECKING:
    from memcarve.segments import Segment
    from memcarve.space import AddressSpace

#: headers that are kept of a segment
MOST_HEADERS = 1024

_BLOCK = 1 << 18  # stays in a processor's cache
_ZEROS = bytes(_BLOCK)
_FEW = 4 * PAGE  # up to here looking page by page is faster than setting numpy up
_FRONT = 64  # bytes that tell whether a page may begin with a header
_HIGHEST = np.uint32(PAGE - 1)  # a place in the page
_MARK, _MARK_BITS, _ONE = np.uint32(elf.MARK), np.uint32(elf.MARK_BITS), np.uint32(1)
_PE, _SEARCHED = np.uint32(int.from_bytes(SIGNATURE, "little")), slice(_FRONT // 4, SEARCHED // 4)


class Content(NamedTuple):
    """What a segment's bytes say; None was not looked for.

    `pages` counts the pages of 4 KiB that the segment touches, those at its ends too of which it has only a part;
    `zero_pages` those of which nothing but zeros is there. `entropy` is in bits a byte (0 to 8), `text` the share of
    the pages that are text, as `measures.is_text` has it. `headers` are in order of their addresses; `more_headers`
    counts pages behind them that look like more, at a glance. `peak` is the highest entropy of a window of 64 KiB.
    """

    pages: int
    zero_pages: int
    entropy: float | None
    text: float | None
    headers: tuple[Header, ...]
    more_headers: int
    peak: float | None = None


class ContentObserver:
    """Is shown the bytes of one segment once, in order, in blocks of any length.

    Headers are looked for at the segment's start, and where a page begins; in the first 4096 bytes from there. Of a
    page that several blocks share, a copy is kept until it is whole.
    """

    def __init__(self, start: int, level: str, most_headers: int = MOST_HEADERS) -> None:
        """Begin at address `start`; `level` is ``"headers"`` or ``"full"``, which measures entropy and text, too."""
        self._address = start  # of the next byte
        self._first = start
        self._most = most_headers
        self._pages = self._zero = self._text = self._more = 0
        self._headers: list[Header] = []
        self._part: bytearray | None = None  # of a page that is not whole
        self._front = bytearray() if start % PAGE else None  # of a segment that does not start with a page
        self._entropy = Entropy() if level == "full" else None

    def __call__(self, view: memoryview) -> None:
        """Take note of the bytes that follow; the block may be used for others afterwards."""
        size, done = len(view), 0
        if self._entropy is not None:
            self._entropy.add(view, self._address)
        if self._front is not None and len(self._front) < PAGE:
            self._front += view[: PAGE - len(self._front)]
        if self._address % PAGE:
            done = min(PAGE - self._address % PAGE, size)
            self._part = self._part or bytearray()
            self._part += view[:done]
            self._address += done
            if self._address % PAGE:
                return
            self._finish_page()
        end = size - (size - done) % PAGE
        if done < end:
            self._look(view[done:end] if done or end < size else view)
            self._address += end - done
        if end < size:
            self._part = bytearray(view[end:])
            self._address += size - end

    def finish(self) -> Content:
        """Return what all the bytes say."""
        if self._part:
            self._finish_page()
        if self._front is not None:
            header = parse_header(self._first, bytes(self._front))
            self._headers[:0] = [] if header is None else [header]
        entropy = peak = text = None
        if self._entropy is not None and self._pages:
            entropy, peak = self._entropy.finish()
            text = self._text / self._pages
        return Content(self._pages, self._zero, entropy, text, tuple(self._headers), self._more, peak)

    def _look(self, view: memoryview) -> None:
        """Look at whole pages."""
        size = len(view)
        self._pages += size // PAGE
        if not view[0] and _ZEROS.startswith(view):
            self._zero += size // PAGE
            return
        if size <= _FEW:
            for at in range(0, size, PAGE):
                if not view[at] and ZEROS.startswith(view[at : at + PAGE]):
                    self._zero += 1
                elif may_begin(view, at, at + PAGE):
                    self._parse(view[at : at + PAGE], self._address + at)
        else:
            zero, places = glance(view)
            self._zero += zero
            for at in places:
                if may_begin(view, at, at + PAGE):
                    self._parse(view[at : at + PAGE], self._address + at)
        if self._entropy is not None:
            self._text += text_pages(view)

    def _finish_page(self) -> None:
        """Look at a page that came in parts, or at the part of one that is there."""
        part, self._part = memoryview(self._part or b""), None
        self._pages += 1
        if ZEROS.startswith(part):
            self._zero += 1
            return
        begin = self._address - len(part)
        if begin % PAGE == 0 and len(part) >= _FRONT and may_begin(part, 0, len(part)):
            self._parse(part, begin)
        if self._entropy is not None:
            self._text += is_text(bytes(part))

    def _parse(self, page: memoryview, address: int) -> None:
        """Keep the header that a page may begin with, or count it where there are many already."""
        if len(self._headers) >= self._most:
            self._more += 1
            return
        header = parse_header(address, bytes(page))
        if header is not None:
            self._headers.append(header)


def observe(space: AddressSpace, segment: Segment, level: str) -> Content:
    """Read a segment and say what its bytes are; `level` is ``"headers"`` or ``"full"``. Raises SourceReadError."""
    observer = ContentObserver(segment.start, level)
    buffer = memoryview(bytearray(min(_BLOCK, segment.size)))
    for address in range(segment.start, segment.end, _BLOCK):
        block = buffer[: min(_BLOCK, segment.end - address)]
        done = 0
        for offset, size in space.pieces(address, len(block)):
            space.backing.read_into(offset, block[done : done + size])
            done += size
        observer(block)
    return observer.finish()


def glance(view: memoryview) -> tuple[int, list[int]]:
    """Count the pages of zeros, and return where pages begin that `may_begin` may be true of: few more, none less."""
    words = np.frombuffer(view, "<u4").reshape(-1, PAGE // 4)
    longs = np.frombuffer(view, "<u8").reshape(-1, PAGE // 8)
    wanted = (words[:, 1] - _MARK) & _MARK_BITS == 0
    wanted |= words[:, 15] - _ONE < _HIGHEST
    blank = np.flatnonzero(np.bitwise_or.reduce(longs[:, 1:8], axis=1) == 0)  # all of the DOS header, but its start
    used = [page for page in blank.tolist() if not ZEROS.startswith(view[page * PAGE : (page + 1) * PAGE])]
    if used:
        wanted[used] |= (words[used, _SEARCHED] == _PE).any(axis=1)
    places: list[int] = (np.flatnonzero(wanted) * PAGE).tolist()
    return len(blank) - len(used), places
