"""Scattered pieces of a source, collected and written to a target together, which saves calls.

Usually the kernel gets a list of ranges in a mapping of the source (writev(2)); what was written is then read back for
the observer. Only the kernel touches the mapping: if a page cannot be read because the disk is bad or the file was cut
meanwhile, that call fails, instead of a signal that ends the program.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from typing import TYPE_CHECKING

from memcarve.backing import Composite, FileBacking, check_unchanged
from memcarve.copying.output_file import BUFFER, FULL, Target, seek, write, write_error, write_sparse
from memcarve.errors import OutputError, SourceReadError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from memcarve.backing import Backing

    Observer = Callable[[memoryview], object]
    Told = Callable[[int], object]

GATHERED = "gathering scattered pages"

_MOST_PARTS = 1024  # per writev: IOV_MAX of Linux and macOS


class Gathered:
    """Pieces that are read into a buffer, observed, and written together, from `place` in the target on."""

    def __init__(
        self,
        backing: Backing,
        target: Target,
        buffer: memoryview,
        place: int,
        observe: Observer | None,
        told: Told,
        *,
        sparse: bool,
    ) -> None:
        self.place = place
        self._read = backing.read_into
        self._target = target
        self._buffer = buffer
        self._observe = observe
        self._told = told
        self._sparse = sparse
        self._used = 0

    def add(self, offset: int, size: int) -> None:
        """Read a piece that fits into the buffer."""
        end = self._used + size
        if end > len(self._buffer):
            self.flush()
            end = size
        self._read(offset, self._buffer[end - size : end])
        self._used = end

    def flush(self) -> int:
        """Write what was read; return the position after it."""
        if self._used:
            view, self._used = self._buffer[: self._used], 0
            if self._observe is not None:
                self._observe(view)
            seek(self._target, self.place)
            write_sparse(self._target, view) if self._sparse else write(self._target, view)
            self.place += len(view)
            self._told(len(view))
        return self.place

    def close(self) -> None:
        """Do nothing: a buffer keeps no file open."""


class GatheredByKernel:
    """Pieces that the kernel writes from mappings of the source: each with the offset at which it begins."""

    def __init__(
        self,
        backing: Backing,
        mappings: Sequence[tuple[int, memoryview]],
        target: Target,
        buffer: memoryview,
        place: int,
        observe: Observer | None,
        told: Told,
    ) -> None:
        self.place = place
        self._backing = backing
        self._mappings = mappings
        self._begins = [begin for begin, _ in mappings]
        self._target = target
        self._buffer = buffer
        self._observe = observe
        self._told = told
        self._parts: list[memoryview] = []
        self._places: list[int] = []
        self._used = 0

    def add(self, offset: int, size: int) -> None:
        """Add a piece."""
        if self._used + size > BUFFER or len(self._parts) >= _MOST_PARTS:
            self.flush()
        begin, mapping = self._mappings[bisect_right(self._begins, offset) - 1]
        place = offset - begin
        if place >= len(mapping):  # decompressed, or in what cannot be mapped
            part = memoryview(bytearray(size))
            self._backing.read_into(offset, part)
        else:
            part = mapping[place : place + size]
        if len(part) < size:
            self._backing.read_into(offset, self._buffer[:size])  # says where the file ends
            raise SourceReadError("the source was shorter when it was opened", subject=self._target.name)
        self._parts.append(part)
        self._places.append(offset)
        self._used += size

    def flush(self) -> int:
        """Write what was added; return the position after it."""
        if not self._used:
            return self.place
        size, parts, places = self._used, self._parts, self._places
        seek(self._target, self.place)
        try:
            done = os.writev(self._target.fd, parts)
        except OSError as error:
            if error.errno in FULL:
                raise write_error(error, self._target) from error
            done = 0
        if done < size:
            self._carefully(parts, places, done)
        self._used, self._parts, self._places = 0, [], []
        # after a new end of the file, the rest of its last page reads as zeros
        check_unchanged([self._backing])
        if self._observe is not None:
            self._read_back(size)
        self.place += size
        self._told(size)
        return self.place

    def close(self) -> None:
        """Let go of the mapping: what is left of an error would keep the source open, and its file system busy."""
        for part in (*self._parts, *(mapping for _, mapping in self._mappings)):
            part.release()

    def _carefully(self, parts: list[memoryview], places: list[int], done: int) -> None:
        """Write the rest through the buffer: reading or writing raises the error."""
        begin = 0
        for part, place in zip(parts, places, strict=True):
            skip = min(max(done - begin, 0), len(part))
            view = self._buffer[: len(part) - skip]
            if len(view):
                self._backing.read_into(place + skip, view)
                seek(self._target, self.place + begin + skip)
                write(self._target, view)
            begin += len(part)

    def _read_back(self, size: int) -> None:
        view = self._buffer[:size]
        try:
            count = os.preadv(self._target.fd, (view,), self.place)
        except OSError as error:
            raise OutputError(f"cannot be read back: {error.strerror}", subject=self._target.name) from error
        if count != size:
            raise OutputError(f"reading back what was written gave {count} of {size} bytes", subject=self._target.name)
        if self._observe is not None:
            self._observe(view)


def gatherer(
    backing: Backing,
    target: Target,
    buffer: memoryview,
    place: int,
    observe: Observer | None,
    told: Told,
    *,
    sparse: bool,
) -> Gathered | GatheredByKernel:
    """Return the better way to collect pieces of `backing`; `told` is called with the bytes of each write."""
    able = not sparse and hasattr(os, "writev") and hasattr(os, "preadv")
    # an image may have page files behind it; without a mapping of its own, none of its pieces is worth one
    parts = (
        list(zip([0, *backing.begins], backing.parts, strict=True))
        if isinstance(backing, Composite)
        else [(0, backing)]
    )
    mappings = [
        (begin, mapping)
        for begin, part in parts
        if able and isinstance(part, FileBacking) and (mapping := part.mapping) is not None
    ]
    if not mappings or mappings[0][0]:
        for _, mapping in mappings:
            mapping.release()
        return Gathered(backing, target, buffer, place, observe, told, sparse=sparse)
    return GatheredByKernel(backing, mappings, target, buffer, place, observe, told)
