"""What was made last, kept within a bound: each is made once, however many threads ask for it."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

_T = TypeVar("_T")


class RecentlyUsed(Generic[_T]):
    """Values by key, those that were used last, of together at most `limit` bytes; the last one always stays.

    Safe to use from several threads.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.size = 0  # the bytes that all of them take
        self._lock = threading.Lock()
        self._kept: dict[Hashable, tuple[_T, int]] = {}  # the one used last comes last
        self._making: dict[Hashable, threading.Lock] = {}

    def get(self, key: Hashable, make: Callable[[], tuple[_T, int]]) -> _T:
        """Return a value; if it is not kept, `make` returns it and how many bytes it takes. Raises what that does."""
        with self._lock:
            if key in self._kept:
                return self._used(key)
            making = self._making.setdefault(key, threading.Lock())
        with making:
            with self._lock:
                if key in self._kept:  # another thread made it meanwhile
                    return self._used(key)
            try:
                made = make()
            finally:
                with self._lock:
                    self._making.pop(key, None)
            with self._lock:
                self._kept[key] = made
                self.size += made[1]
                while self.size > self.limit and len(self._kept) > 1:
                    self.size -= self._kept.pop(next(iter(self._kept)))[1]
            return made[0]

    def _used(self, key: Hashable) -> _T:
        found = self._kept[key] = self._kept.pop(key)
        return found[0]
