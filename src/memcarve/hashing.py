"""Hash functions by name, and the hash of all that a backing holds."""

from __future__ import annotations

import functools
import hashlib
import queue
import threading
from typing import TYPE_CHECKING, Protocol

from memcarve.errors import MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Callable

    from memcarve.backing import Backing

BLAKE3 = "blake3"

_BLOCK = 1 << 18  # stays in a processor's cache between reading and hashing
_LARGE = 1 << 26  # bytes from which on a thread that reads ahead saves more than it costs
_AHEAD, _BUFFERS = 1 << 20, 4  # what it reads at a time, and how often before that is hashed


class Digest(Protocol):
    """What takes bytes and has their hash."""

    @property
    def digest_size(self) -> int:
        """The bytes of the hash."""

    def update(self, data: bytes | memoryview, /) -> object:
        """Take the bytes that follow."""

    def digest(self) -> bytes:
        """Return the hash of all bytes that were taken."""

    def hexdigest(self) -> str:
        """Return it in hexadecimal."""


def new_digest(kind: str, data: bytes | memoryview = b"") -> Digest:
    """Return what takes a hash by its name: ``blake3``, or one that hashlib knows; `data` are its first bytes.

    Raises MissingExtraError if the package for it is not installed.
    """
    return _blake3()(data) if kind == BLAKE3 else hashlib.new(kind, data, usedforsecurity=False)


@functools.cache
def _blake3() -> Callable[[bytes | memoryview], Digest]:
    """Return BLAKE3, in one thread: several hash at once as it is."""
    try:
        from blake3 import blake3
    except ImportError:
        raise MissingExtraError("BLAKE3 needs another package", remedy="pip install 'memcarve[blake3]'") from None
    found: Callable[[bytes | memoryview], Digest] = blake3
    return found


def hash_of(backing: Backing, kind: str = "sha256", between: Callable[[int], object] = lambda _: None) -> str:
    """Return the hash of all bytes of a backing, in hexadecimal; `kind` is as for `new_digest`.

    `between` is called before each block, with the offset at which that ends, and may wait or raise. Raises
    SourceReadError, MissingExtraError.
    """
    digest, buffer = new_digest(kind), memoryview(bytearray(min(_BLOCK, backing.size)))
    for place in range(0, backing.size, _BLOCK):
        part = buffer[: min(_BLOCK, backing.size - place)]
        between(place + len(part))
        backing.read_into(place, part)
        digest.update(part)
    return digest.hexdigest()


def hash_alone(backing: Backing) -> str:
    """Return the SHA-256 of all bytes of a backing, with which no other thread is busy: one reads while one hashes.

    Raises SourceReadError.
    """
    if backing.size < _LARGE:
        return hash_of(backing)
    free: queue.SimpleQueue[bytearray | None] = queue.SimpleQueue()
    full: queue.SimpleQueue[tuple[bytearray, int] | BaseException] = queue.SimpleQueue()

    def read() -> None:
        try:
            for place in range(0, backing.size, _AHEAD):
                buffer = free.get()
                if buffer is None:  # nobody waits for more
                    return
                size = min(_AHEAD, backing.size - place)
                backing.read_into(place, memoryview(buffer)[:size])
                full.put((buffer, size))
        except BaseException as error:  # noqa: BLE001 - raised again below
            full.put(error)

    digest = hashlib.sha256(usedforsecurity=False)
    for _ in range(_BUFFERS):
        free.put(bytearray(_AHEAD))
    thread = threading.Thread(target=read)
    thread.start()
    try:
        for _ in range(0, backing.size, _AHEAD):
            found = full.get()
            if isinstance(found, BaseException):
                raise found
            buffer, size = found
            digest.update(memoryview(buffer)[:size])
            free.put(buffer)
    finally:
        free.put(None)
        thread.join()
    return digest.hexdigest()
