"""What pages hold: bytes that follow from a seed, an owner and an address."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

PAGE = 0x1000
U64 = np.uint64
MASK48 = (1 << 48) - 1
MASK64 = (1 << 64) - 1

#: whose the pages are that every process shares
SHARED = 0


def _mixed(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return what the last step of splitmix64 makes of words."""
    words = words ^ (words >> U64(30))
    words *= U64(0xBF58476D1CE4E5B9)
    words ^= words >> U64(27)
    words *= U64(0x94D049BB133111EB)
    words ^= words >> U64(31)
    return words


_ROW = _mixed(np.arange(1, 513, dtype=U64) * U64(0x9E3779B97F4A7C15))


def page_words(seed: int, owner: int, addresses: ArrayLike) -> NDArray[np.uint64]:
    """Return the pages at addresses (of 48 bits) as rows of 512 words.

    Of sixteen pages one is all zero, three are lower-case text, the rest is noise; all but those of zeros begin with
    ``WINIMAGE``, their owner and their address.
    """
    addresses = np.asarray(addresses, U64) & U64(MASK48)
    key = ((seed + 1) * 0x9E3779B97F4A7C15 ^ (owner + 1) * 0xC2B2AE3D27D4EB4F) & MASK64
    page = _mixed((addresses >> U64(12)) * U64(0xD6E8FEB86659FD93) + np.full(1, key, U64))
    kind = page >> U64(60)
    words = _ROW * (page | U64(1))[:, None]
    words ^= _mixed(page)[:, None]
    text = (kind >= 1) & (kind <= 3)
    words[text] = (words[text] & U64(0x0F0F0F0F0F0F0F0F)) + U64(0x6161616161616161)
    words[:, 0] = int.from_bytes(b"WINIMAGE", "little")
    words[:, 1] = owner
    words[:, 2] = addresses
    words[kind == 0] = 0
    return words


def page_bytes(seed: int, owner: int, address: int) -> bytes:
    """Return the page at an address."""
    return bytes(page_words(seed, owner, [address])[0])
