"""Measure what looking at content costs beside SHA-256: ``python bench/content.py [MIB]``.

Two kinds of memory, a quarter each of noise, zeros, text, and numbers and addresses: in large segments, shown in blocks
as the copier does, and in segments of one page each. CPU time counts, of the fastest of several rounds.
"""

from __future__ import annotations

import hashlib
import sys
import time
from typing import TYPE_CHECKING

import numpy as np

from memcarve.copying.output_file import BUFFER
from memcarve.intervals import PAGE
from memcarve.labels.content import ContentObserver

if TYPE_CHECKING:
    from collections.abc import Callable

_ROUNDS = 5
_LARGE = 16 << 20  # bytes of a large segment
_MIX = 16 << 20  # bytes after which the mixture repeats
_LEVELS = (None, "headers", "full")


def mixture() -> memoryview:
    """Return noise, zeros, text and numbers, in runs of 16 pages."""
    random = np.random.default_rng(4)
    size = _MIX // 4
    noise = random.integers(0, 256, size, np.uint8)
    words = np.frombuffer(b"the quick brown fox jumps over the lazy dog\r\n" * (size // 45 + 1), np.uint8)[:size]
    numbers = random.integers(0, 1 << 12, size // 8, np.uint64)
    numbers[::3] += np.uint64(0x7FF6_1000_0000)
    parts = (noise, np.zeros(size, np.uint8), words, numbers.view(np.uint8))
    return memoryview(bytearray(np.stack([part.reshape(-1, 16 * PAGE) for part in parts], axis=1).tobytes()))


def run(memory: memoryview, total: int, segment: int, level: str | None, *, hashed: bool) -> None:
    """Show segments to a hash and to an observer, as a carve does."""
    for begin in range(0, total, segment):
        digest = hashlib.sha256() if hashed else None
        observer = None if level is None else ContentObserver(begin, level)
        for at in range(begin, begin + segment, BUFFER):
            place = at % len(memory)
            view = memory[place : place + min(BUFFER, segment)]
            if digest is not None:
                digest.update(view)
            if observer is not None:
                observer(view)
        if digest is not None:
            digest.digest()
        if observer is not None:
            observer.finish()


def fastest(work: Callable[[], None]) -> float:
    """Return the seconds of CPU time of the fastest round."""
    times = []
    for _ in range(_ROUNDS):
        begun = time.process_time()
        work()
        times.append(time.process_time() - begun)
    return min(times)


def main() -> None:
    """Print bytes a second and the cost per segment, with and without looking at content."""
    total = int(sys.argv[1]) << 20 if len(sys.argv) > 1 else 512 << 20
    memory = mixture()
    for name, segment in (("segments of 16 MiB", _LARGE), ("segments of one page", PAGE)):
        alone = fastest(lambda: run(memory, total, segment, None, hashed=True))  # noqa: B023 - called at once
        for level in _LEVELS:
            both = fastest(lambda: run(memory, total, segment, level, hashed=True))  # noqa: B023
            beside = fastest(lambda: run(memory, total, segment, level, hashed=False))  # noqa: B023
            print(
                f"{name}: sha256 + {level or 'nothing'}: {total / both / 1e9:.2f} GB/s, "
                f"{(both / alone - 1) * 100:+.0f} %; without sha256 {total / beside / 1e9:.2f} GB/s, "
                f"{beside / (total // segment) * 1e6:.2f} us a segment"
            )


if __name__ == "__main__":
    main()
