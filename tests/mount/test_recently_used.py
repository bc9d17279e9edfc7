"""What was made last is kept within a bound, and made once."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from memcarve.mount.recently_used import RecentlyUsed


def test_the_oldest_goes_first() -> None:
    """What was not used for longest is let go of; one that is larger than the bound stays until the next."""
    kept, made = RecentlyUsed[str](10), list[str]()

    def get(word: str, size: int) -> None:
        kept.get(word, lambda: (made.append(word) or word, size))

    for word, size in (("a", 4), ("b", 4), ("a", 4), ("c", 4), ("a", 4), ("b", 4), ("large", 50), ("large", 50)):
        get(word, size)
    assert made == ["a", "b", "c", "b", "large"]
    assert kept.size == 50


def test_many_threads_make_it_once() -> None:
    """Whoever asks while it is being made gets the same; if making it fails, the next one tries again."""
    kept, made, begun = RecentlyUsed[object](10), list[int](), threading.Event()

    def make() -> tuple[object, int]:
        made.append(1)
        begun.wait(0.05)
        return object(), 1

    with ThreadPoolExecutor(8) as pool:
        found = {*pool.map(lambda _: kept.get("key", make), range(32))}
    assert (len(found), len(made)) == (1, 1)

    def fail() -> tuple[object, int]:
        raise ValueError("no")

    for _ in range(2):
        with pytest.raises(ValueError, match="no"):
            kept.get("other", fail)
    assert kept.get("other", lambda: (1, 1)) == 1
