"""What the bytes of segments are, in one pass over them: hashes, entropy, text, headers, pages of zeros."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np

from memcarve.intervals import PAGE
from memcarve.labels.content import BLOCK, blocks
from memcarve.labels.text_stats import bits_of, counts_of, is_text, text_pages

if TYPE_CHECKING:
    from memcarve.dtypes import U8, Bools
    from memcarve.process import Progress
    from memcarve.segments import Segments
    from memcarve.space import AddressSpace

#: parts of a segment whose entropy is told one by one
MOST_PARTS = 64

_HALF = 2


class Entropies:
    """The entropy of a segment of `size` bytes, and of each of up to 64 equal parts of it; and how much of it is text.

    Parts are of whole pages of 4096 bytes, the last may be shorter.
    """

    def __init__(self, size: int) -> None:
        pages = -(-size // PAGE)
        self.part = max(-(-pages // MOST_PARTS), 1) * PAGE
        self.size = size
        self.along: list[float] = []
        self.pages_of_text = 0
        self._done = 0
        self._all, self._here = np.zeros(256, np.int64), np.zeros(256, np.int64)

    def add(self, view: memoryview) -> None:
        """Take the next bytes: whole pages, but for the last."""
        whole = len(view) - len(view) % PAGE
        if whole:
            self.pages_of_text += text_pages(view[:whole])
        if whole < len(view):
            self.pages_of_text += is_text(bytes(view[whole:]))
        done = 0
        while done < len(view):
            step = view[done : done + self.part - self._done % self.part]
            self._here += counts_of(step)
            done += len(step)
            self._done += len(step)
            if self._done % self.part == 0 or self._done == self.size:
                self.along.append(bits_of(self._here))
                self._all += self._here
                self._here[:] = 0

    @property
    def entropy(self) -> float:
        """The entropy of all, in bits a byte."""
        return self.along[0] if len(self.along) == 1 else bits_of(self._all)

    @property
    def is_text(self) -> bool:
        """Whether half of its pages or more are text."""
        return self.pages_of_text * _HALF >= -(-self.size // PAGE)


class Looked:
    """What the bytes of some segments are, one row a segment; NaN and False if they were not looked at.

    `entropy` is in bits a byte (float32), `along` that of the parts of those that have several, by row. `sha256` has
    rows of 32 bytes, `hashed` says which are there. `text` (bool): half of the pages or more are text.
    """

    def __init__(self, count: int, *, sha256: bool) -> None:
        self.entropy = np.full(count, np.nan, np.float32)
        self.along: dict[int, list[float]] = {}
        self.text: Bools = np.zeros(count, np.bool_)
        self.sha256: U8 = np.zeros((count if sha256 else 0, 32), np.uint8)
        self.hashed: Bools = np.zeros(count, np.bool_)


def look(
    space: AddressSpace, segments: Segments, *, entropy: bool, sha256: bool, progress: Progress | None = None
) -> Looked:
    """Read segments once, show their bytes to their labels, and return what else is wanted of them.

    Raises SourceReadError.
    """
    found = Looked(len(segments), sha256=sha256)
    labels: Any = segments.labels
    done, total = 0, segments.total
    buffer = memoryview(bytearray(BLOCK))
    for index, segment in enumerate(segments):
        observer = None if labels is None else labels.observer(index)
        measured = Entropies(segment.size) if entropy else None
        digest = hashlib.sha256() if sha256 else None
        watching = [each for each in (observer, measured and measured.add, digest and digest.update) if each]
        if not watching:
            break
        for block in blocks(space, segment, buffer):
            for watch in watching:
                watch(block)
            done += len(block)
            if progress is not None:
                progress(done, total)
        if observer is not None:
            labels.observed(index, observer)
        if measured is not None:
            found.entropy[index] = measured.entropy
            found.text[index] = measured.is_text
            if len(measured.along) > 1:
                found.along[index] = [round(bits, 3) for bits in measured.along]
        if digest is not None:
            found.sha256[index] = np.frombuffer(digest.digest(), np.uint8)
            found.hashed[index] = True
    return found
