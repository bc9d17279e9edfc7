"""Bytes of memory that tests know: noise, bytes that say their address, and a backing that holds them.

Nothing here uses memcarve's own arithmetic.
"""

from __future__ import annotations

import hashlib

from memcarve.errors import SourceReadError

PAGE = 4096


def noise(seed: int, size: int = PAGE) -> bytes:
    """Return bytes that are the same for the same seed, and not zero."""
    return hashlib.shake_128(str(seed).encode()).digest(size)


def content(address: int, size: int) -> bytes:
    """Return bytes that say where they are: each eight of them are the address of the first (big-endian, scrambled)."""
    first, last = address & ~7, address + size
    data = b"".join((word ^ 0xA5A5A5A5A5A5A500).to_bytes(8, "big") for word in range(first, last, 8))
    return data[address - first : address - first + size]


def canonical(address: int, bit: int = 47) -> int:
    """Extend bit 47 (or another) of an address through the bits above."""
    return address | ((1 << 64) - (1 << bit)) if address >> bit & 1 else address


class Memory:
    """A backing in memory, which reads exactly or not at all."""

    path = "memory"

    def __init__(self, data: bytes) -> None:
        self.data = data

    @property
    def size(self) -> int:
        """The number of bytes."""
        return len(self.data)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer`, or raise SourceReadError."""
        if offset < 0 or offset + len(buffer) > len(self.data):
            raise SourceReadError(f"memory: ends at offset 0x{len(self.data):x}")
        buffer[:] = self.data[offset : offset + len(buffer)]

    def spans(self, offset: int, size: int) -> None:
        """Say that the bytes lie in no file."""

    def close(self) -> None:
        """Do nothing."""
