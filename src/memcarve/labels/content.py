"""The content of segments, found in one pass: zero pages, PE and ELF headers, entropy, text; kept in columns."""

from __future__ import annotations

import json
import threading
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from memcarve.formats.programs import elf
from memcarve.formats.programs.pe import SEARCHED, SIGNATURE
from memcarve.intervals import PAGE
from memcarve.labels.headers import ZEROS, Header, may_begin, name_of, parse_header
from memcarve.labels.text_stats import Entropy, is_text, text_pages

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memcarve.dtypes import I64, U64, Bools
    from memcarve.labels.headers import Header, Read
    from memcarve.segments import Segment
    from memcarve.space import AddressSpace


#: headers that are kept of a segment
MOST_HEADERS = 1024

BLOCK = 1 << 18  # stays in a processor's cache
_ZEROS = bytes(BLOCK)
_FEW = 4 * PAGE  # up to here looking page by page is faster than setting numpy up
_FRONT = 64  # bytes that tell whether a page may begin with a header
_HIGHEST = np.uint32(PAGE - 1)  # a place in the page
_MARK, _MARK_BITS, _ONE = np.uint32(elf.MARK), np.uint32(elf.MARK_BITS), np.uint32(1)
_PE, _SEARCHED = np.uint32(int.from_bytes(SIGNATURE, "little")), slice(_FRONT // 4, SEARCHED // 4)


class Content(NamedTuple):
    """The content of a segment; None if it was not looked for.

    `pages` counts the pages of 4 KiB that the segment touches, including partial ones at its ends; `zero_pages` those
    that hold only zeros. `entropy` is in bits per byte (0 to 8), `peak` the highest entropy of a window of 64 KiB,
    `text` the share of pages that are text (`text_stats.is_text`). `headers` are in order of their addresses;
    `more_headers` counts later pages that look like more headers at a glance.
    """

    pages: int
    zero_pages: int
    entropy: float | None
    text: float | None
    headers: tuple[Header, ...]
    more_headers: int
    peak: float | None = None


class ContentObserver:
    """Gets the bytes of one segment once, in order, in blocks of any length.

    Headers are looked for in the first 4096 bytes of the segment and of every page. A page that comes in several blocks
    is copied until it is complete.
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
        """Take the next bytes; the block may be reused afterwards."""
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
        """Return the content of all the bytes."""
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
            self._zero += int(zero.sum())
            for at in places.tolist():
                if may_begin(view, at, at + PAGE):
                    self._parse(view[at : at + PAGE], self._address + at)
        if self._entropy is not None:
            self._text += text_pages(view)

    def _finish_page(self) -> None:
        """Look at a page that came in parts, or at a partial one."""
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
        """Keep the header that a page may begin with, or count it if there are many already."""
        if len(self._headers) >= self._most:
            self._more += 1
            return
        header = parse_header(address, bytes(page))
        if header is not None:
            self._headers.append(header)


def observe(space: AddressSpace, segment: Segment, level: str) -> Content:
    """Read a segment and return its content; `level` is ``"headers"`` or ``"full"``. Raises SourceReadError."""
    observer = ContentObserver(segment.start, level)
    buffer = memoryview(bytearray(min(BLOCK, segment.size)))
    for block in blocks(space, segment, buffer):
        observer(block)
    return observer.finish()


def blocks(space: AddressSpace, segment: Segment, buffer: memoryview) -> Iterator[memoryview]:
    """Yield the bytes of a segment in blocks of at most BLOCK bytes, each in `buffer`. Raises SourceReadError."""
    for address in range(segment.start, segment.end, BLOCK):
        block = buffer[: min(BLOCK, segment.end - address)]
        done = 0
        for offset, size in space.pieces(address, len(block)):
            space.backing.read_into(offset, block[done : done + size])
            done += size
        yield block


def glance(view: memoryview) -> tuple[Bools, I64]:
    """Return for each page of a block (bool) whether it is zeros, and where pages begin that are worth a look (int64).

    The latter are all for which `may_begin` is true, and few others.
    """
    words = np.frombuffer(view, "<u4").reshape(-1, PAGE // 4)
    zero = np.zeros(len(words), np.bool_)
    place = words[:, 15]
    wanted = place - _ONE < _HIGHEST
    wanted |= (words[:, 1] - _MARK) & _MARK_BITS == 0
    blank = (place == 0).nonzero()[0]
    if len(blank):
        longs = np.frombuffer(view, "<u8").reshape(-1, PAGE // 8)
        blank = blank[~longs[blank, 1:8].any(axis=1)]  # all of the DOS header, but its start
        zero[blank] = [ZEROS.startswith(view[page * PAGE : (page + 1) * PAGE]) for page in blank.tolist()]
        used = blank[~zero[blank]]
        wanted[used] |= (words[used, _SEARCHED] == _PE).any(axis=1)
    return zero, wanted.nonzero()[0] * PAGE


_MOST_HEADERS = 1 << 16  # of all segments together
_MOST_NAMED = 1 << 12  # headers whose names are looked up
_MEASURED = ("entropy", "peak", "share_of_text")


class Contents:
    """The content of segments, one row per segment.

    Columns: `pages` and `zero_pages` (uint64); with level ``"full"`` (float32, NaN unknown) `entropy` in bits per byte,
    `peak`, the highest in a window, and `share_of_text` among the pages. Headers are kept by segment.

    `level` is ``"headers"`` or ``"full"``. Several segments may be observed at once.
    """

    def __init__(self, count: int, level: str) -> None:
        self.level = level
        self.pages = np.zeros(count, np.uint64)
        self.zero_pages = np.zeros(count, np.uint64)
        measured = count if level == "full" else 0
        self.entropy, self.peak, self.share_of_text = (np.full(measured, np.nan, np.float32) for _ in range(3))
        self.known = np.zeros(count, np.bool_)
        self.headers_of: dict[int, tuple[Header, ...]] = {}
        self.more_of: dict[int, int] = {}
        self._kept = self._named = 0
        self._complete = False
        self._lock = threading.Lock()

    def where(self, keep: Bools) -> Contents:
        """Return the content of some of the segments."""
        found = Contents(int(keep.sum()), self.level)
        for name in ("pages", "zero_pages", "known", *(_MEASURED if self.level == "full" else ())):
            setattr(found, name, getattr(self, name)[keep])
        places = {old: new for new, old in enumerate(np.flatnonzero(keep).tolist())}
        found.headers_of = {places[old]: rows for old, rows in self.headers_of.items() if old in places}
        found.more_of = {places[old]: more for old, more in self.more_of.items() if old in places}
        return found

    @property
    def complete(self) -> bool:
        """Whether the bytes of every segment were looked at."""
        self._complete = self._complete or bool(self.known.all())
        return self._complete

    def observer(self, index: int, start: int) -> ContentObserver | None:
        """Return what must be called with the bytes of a segment; None if they were looked at already."""
        return None if self.known[index] else ContentObserver(start, self.level)

    def observe_together(self, first: int, start: U64, size: U64, view: memoryview) -> None:
        """Look at segments from the `first` on, given by `start` and `size`, which lie one behind the other in `view`.

        As observers do, but what can be said of all their pages at once is. Those that were looked at are left alone.
        """
        part = slice(first, first + len(start))
        pages = size // np.uint64(PAGE)
        end = np.cumsum(pages).astype(np.int64)
        whole = not ((start | size) % np.uint64(PAGE)).any()
        if self.level != "headers" or not whole or len(view) > MOST_HEADERS * PAGE or self.known[part].any():
            self._observe_each(first, start, size, view)
            return
        zero, places = glance(view)
        zeros = np.add.reduceat(zero, end - pages.astype(np.int64), dtype=np.uint64)
        self.pages[part], self.zero_pages[part], self.known[part] = pages, zeros, True
        found: dict[int, list[Header]] = {}
        for at in places.tolist():
            if may_begin(view, at, at + PAGE):
                row = int(np.searchsorted(end, at // PAGE, "right"))
                begin = int(end[row] - pages[row]) * PAGE  # of its segment, in the block
                header = parse_header(int(start[row]) + at - begin, bytes(view[at : at + PAGE]))
                if header is not None:
                    found.setdefault(row, []).append(header)
        for row, headers in found.items():
            self._keep_headers(first + row, tuple(headers), 0)

    def _observe_each(self, first: int, start: U64, size: U64, view: memoryview) -> None:
        done = 0
        for index, (address, length) in enumerate(zip(start.tolist(), size.tolist(), strict=True), first):
            observer = self.observer(index, address)
            if observer is not None:
                observer(view[done : done + length])
                self.keep(index, observer.finish())
            done += length

    def keep(self, index: int, content: Content) -> None:
        """Keep the content of a segment; the number of headers of all segments is bounded."""
        self.pages[index], self.zero_pages[index] = content.pages, content.zero_pages
        if self.level == "full":
            measured = (content.entropy, content.peak, content.text)
            for name, value in zip(_MEASURED, measured, strict=True):
                getattr(self, name)[index] = np.nan if value is None else value
        self.known[index] = True
        if content.headers or content.more_headers:
            self._keep_headers(index, content.headers, content.more_headers)

    def _keep_headers(self, index: int, headers: tuple[Header, ...], more: int) -> None:
        with self._lock:
            kept = headers[: max(_MOST_HEADERS - self._kept, 0)]
            self._kept += len(kept)
            self.headers_of[index] = kept
            self.more_of[index] = more + len(headers) - len(kept)

    def headers(self) -> list[Header]:
        """Return all headers, in order of the segments."""
        return [header for index in sorted(self.headers_of) for header in self.headers_of[index]]

    def texts(self, first: int, end: int, read: Read) -> Iterator[str]:
        """Yield a member for JSON with the content of each segment from `first` to `end`; "" if it was not looked at.

        Images' names lie elsewhere in them: `read` returns the bytes at an address, or raises AddressError.
        """
        part = slice(first, end)
        columns = (column[part].tolist() for column in (self.known, self.pages, self.zero_pages))
        for index, (known, pages, zero_pages) in enumerate(zip(*columns, strict=True), first):
            if known:
                more = "" if self.level == "headers" and index not in self.headers_of else self._more(index, read)
                yield f'"content": {{"pages": {pages}, "zero_pages": {zero_pages}{more}}}'
            else:
                yield ""

    def _more(self, index: int, read: Read) -> str:
        members = []
        for word, name in (
            zip(("entropy", "entropy_peak", "text"), _MEASURED, strict=True) if self.level == "full" else ()
        ):
            value = getattr(self, name)[index]
            members += [] if np.isnan(value) else [f', "{word}": {value:.3f}']
        headers = self.headers_of.get(index, ())
        if headers:
            members.append(f', "headers": {json.dumps([self._header(header, read) for header in headers])}')
        if self.more_of.get(index):
            members.append(f', "headers_not_listed": {self.more_of[index]}')
        return "".join(members)

    def _header(self, header: Header, read: Read) -> dict[str, Any]:
        self._named += 1
        name = name_of(read, header) if self._named <= _MOST_NAMED else None
        return header.members() | ({} if name is None else {"name": name})
