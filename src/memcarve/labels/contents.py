"""What segments' bytes say, kept in columns: half a million of them in flat memory."""

from __future__ import annotations

import json
import threading
from typing import TYPE_CHECKING, Any

import numpy as np

from memcarve.labels.content import Content, ContentObserver
from memcarve.labels.headers import name_of

if TYPE_CHECKING:
    from memcarve.dtypes import Bools
    from memcarve.labels.headers import Header, Read


_MOST_HEADERS = 1 << 16  # of all segments together
_MOST_NAMED = 1 << 12  # headers whose names are looked up
_MEASURED = ("entropy", "peak", "share_of_text")


class Contents:
    """What the bytes of segments say, a row a segment.

    Columns: `pages` and `zero_pages` (uint64); with level ``"full"`` (float32, NaN unknown) `entropy` in bits a byte,
    `peak`, its highest in a window, and `share_of_text`, that of the pages. Headers are kept by segment.

    `level` is ``"headers"`` or ``"full"``. Observers of several segments may be at work at once.
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
        """Return what is known of some of the segments."""
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
        """Return what is to be shown the bytes of a segment; None where they were looked at already."""
        return None if self.known[index] else ContentObserver(start, self.level)

    def keep(self, index: int, content: Content) -> None:
        """Keep what was found in a segment; of headers no more than a bounded number in all."""
        self.pages[index], self.zero_pages[index] = content.pages, content.zero_pages
        if self.level == "full":
            measured = (content.entropy, content.peak, content.text)
            for name, value in zip(_MEASURED, measured, strict=True):
                getattr(self, name)[index] = np.nan if value is None else value
        self.known[index] = True
        if content.headers or content.more_headers:
            with self._lock:
                room = max(_MOST_HEADERS - self._kept, 0)
                kept = content.headers[:room]
                self._kept += len(kept)
                self.headers_of[index] = kept
                self.more_of[index] = content.more_headers + len(content.headers) - len(kept)

    def headers(self) -> list[Header]:
        """Return every header that was found, in order of the segments."""
        return [header for index in sorted(self.headers_of) for header in self.headers_of[index]]

    def text(self, index: int, read: Read) -> list[str]:
        """Return a member for JSON with what a segment's bytes say; nothing where they were not looked at.

        Names of images lie elsewhere in them: `read` gives the bytes at an address, or raises AddressError.
        """
        if not self.known[index]:
            return []
        members = [f'"pages": {self.pages[index]}, "zero_pages": {self.zero_pages[index]}']
        for word, name in (
            zip(("entropy", "entropy_peak", "text"), _MEASURED, strict=True) if self.level == "full" else ()
        ):
            value = getattr(self, name)[index]
            members += [] if np.isnan(value) else [f'"{word}": {value:.3f}']
        headers = self.headers_of.get(index, ())
        if headers:
            members.append(f'"headers": {json.dumps([self._header(header, read) for header in headers])}')
        if self.more_of.get(index):
            members.append(f'"headers_not_listed": {self.more_of[index]}')
        return [f'"content": {{{", ".join(members)}}}']

    def _header(self, header: Header, read: Read) -> dict[str, Any]:
        self._named += 1
        name = name_of(read, header) if self._named <= _MOST_NAMED else None
        return header.members() | ({} if name is None else {"name": name})
