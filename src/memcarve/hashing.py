"""The hash of all that a backing holds."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from memcarve.backing import Backing

_BLOCK = 1 << 18  # stays in a processor's cache between reading and hashing


def hash_of(backing: Backing, kind: str = "sha256", between: Callable[[], object] = lambda: None) -> str:
    """Return the hash of all bytes of a backing, in hexadecimal; `kind` is what hashlib calls the function.

    `between` is called before each block, and may raise. Raises SourceReadError.
    """
    digest, buffer = hashlib.new(kind, usedforsecurity=False), memoryview(bytearray(min(_BLOCK, backing.size)))
    for place in range(0, backing.size, _BLOCK):
        between()
        part = buffer[: min(_BLOCK, backing.size - place)]
        backing.read_into(place, part)
        digest.update(part)
    return digest.hexdigest()
