"""Flattened dumps of makedumpfile (-F, and QEMU's dump-guest-memory if it compresses): a file sent in pieces.

The format is that of makedumpfile (its IMPLEMENTATION): a header of 4096 bytes that begins with its name, type 1 and
version 1; then pieces, each behind its offset and size in the file that is meant (numbers of 8 bytes, big-endian),
until an offset is -1. A later piece overwrites an earlier one. Here the pieces are put in order as a table, and the
file that is meant is read through it: nothing is written.
"""

from __future__ import annotations

import os
import struct
from array import array
from typing import TYPE_CHECKING

import numpy as np

from memcarve.backing import FileBacking, Span
from memcarve.errors import InputError, NotRecognisedError, SourceReadError, UnreadableError
from memcarve.formats.images import kdump, machine_core
from memcarve.formats.images.machine import MOST_RANGES, column
from memcarve.formats.images.signatures import FLATTENED as MAGIC
from memcarve.intervals import TOP, joined, smallest_owner

if TYPE_CHECKING:
    from memcarve.dtypes import U64
    from memcarve.formats.images.machine import MachineMemory

_HEAD = struct.Struct(">16sqq")
_HEAD_SIZE = 4096
_PIECE = struct.Struct(">qq")
_SPANS = 64  # pieces that the kernel is given at once


def read(file: FileBacking) -> MachineMemory | None:
    """Return the machine's memory, None if the file is not flattened.

    Raises InputError if the file is of another type or version, holds too many pieces, or does not hold a dump of a
    machine; what the readers of such dumps raise; and SourceReadError.
    """
    data = file.read_there(0, _HEAD.size)
    if len(data) < _HEAD.size or not data.startswith(MAGIC):
        return None
    _, kind, version = _HEAD.unpack(data)
    if (kind, version) != (1, 1):
        raise InputError(
            f"is a flattened dump of makedumpfile of type {kind}, version {version}; expected type 1, version 1",
            subject=file.path,
            remedy="makedumpfile -R puts it together",
        )
    view = FlattenedFile(file)
    try:
        found = kdump.read(view) or machine_core.read(view, certain=True)
    except BaseException:
        view.close()
        raise
    if found is None:
        view.close()
        raise NotRecognisedError(
            "is a flattened file of makedumpfile that holds no dump of a machine",
            subject=file.path,
            remedy="makedumpfile -R puts it together",
        )
    notes = (*view.remarks, *found.notes)
    # more may have been sent than arrived
    return found._replace(kind=f"{found.kind}, flattened", notes=notes, declared=found.declared and view.whole)


class FlattenedFile(FileBacking):
    """The file that the pieces of a flattened one make; what no piece holds is zeros, as in a file with holes.

    If the flattened one was cut off, it cannot be told from what did not arrive, and cannot be read.

    Columns, uint64, sorted and disjoint: `start` and `length` in the file that is meant, `place` in the flattened one.
    """

    direct = False

    def __init__(self, file: FileBacking) -> None:
        super().__init__(file.path, fd=os.dup(file.fd))
        self._inner = file
        self.whole = False
        self.remarks: list[str] = []
        start, length, place = self._pieces(file)
        once = smallest_owner(start, length, np.arange(len(start))[::-1].copy())
        shift = place[once.owner] - start[once.owner]  # modulo 2**64
        self.start, self.length, self.place = joined(once.start, once.size, once.start + shift)
        self._size = int(self.start[-1]) + int(self.length[-1]) if len(self.start) else 0

    def _pieces(self, file: FileBacking) -> tuple[U64, U64, U64]:
        """Return where each piece belongs, how long it is, and where it lies (uint64), in the order they come."""
        start, length, place = array("Q"), array("Q"), array("Q")
        position, count = _HEAD_SIZE, 0
        while True:
            count += 1  # also those of no length: a file with holes may seem to have any number
            if count > MOST_RANGES:
                raise InputError(
                    f"is flattened in more than {MOST_RANGES} pieces; the file is damaged",
                    subject=file.path,
                    remedy="makedumpfile -R puts it together",
                )
            data = file.read_there(position, _PIECE.size)
            if len(data) < _PIECE.size:
                self.remarks.append(
                    f"flattened: the file ends at 0x{file.size:x}, before its last piece: it was cut off"
                )
                break
            offset, size = _PIECE.unpack(data)
            if offset == -1:
                self.whole = True
                break
            if offset < 0 or size < 0 or offset + size >= TOP >> 1:
                self.remarks.append(
                    f"flattened: the piece at 0x{position:x} makes no sense; from there on nothing is used"
                )
                break
            position += _PIECE.size
            there = min(size, max(file.size - position, 0))
            if there:
                start.append(offset)
                length.append(there)
                place.append(position)
            position += size
        return column(start), column(length), column(place)

    @property
    def size(self) -> int:
        """The length of the file that is meant, as far as its pieces go."""
        return self._size

    def changed(self) -> bool:
        """Return True if the flattened file has changed since it was opened."""
        return self._inner.changed()

    def read_some(self, offset: int, buffer: memoryview) -> int:
        """Read up to ``len(buffer)`` bytes at `offset`, of one piece or one hole; return how many; 0 at the end.

        Raises UnreadableError in a hole of a file that was cut off.
        """
        if offset >= self._size:
            return 0
        row = int(np.searchsorted(self.start, np.uint64(offset), "right")) - 1
        into = offset - int(self.start[row]) if row >= 0 else 0
        if row >= 0 and into < int(self.length[row]):
            count = min(len(buffer), int(self.length[row]) - into)
            try:
                return self._inner.read_some(int(self.place[row]) + into, buffer[:count])
            except UnreadableError as error:
                raise UnreadableError(error.problem, offset, subject=self.path) from error
        if not self.whole:
            raise UnreadableError("has a part that did not arrive", offset, subject=self.path)
        count = min(len(buffer), int(self.start[row + 1]) - offset)
        buffer[:count] = bytes(count)
        return count

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` with the bytes at `offset`, or raise SourceReadError."""
        done = 0
        while done < len(buffer) and (count := self.read_some(offset + done, buffer[done:])):
            done += count
        if done < len(buffer):
            raise SourceReadError(
                f"ends at offset 0x{self._size:x} of what its pieces make, before the 0x{len(buffer):x} bytes at "
                f"0x{offset:x}",
                subject=self.path,
            )

    def next_written(self, offset: int) -> int:
        """Return `offset`, or if no piece holds it, and all have arrived, where the next one begins."""
        row = int(np.searchsorted(self.start, np.uint64(offset), "right")) - 1
        held = row >= 0 and offset - int(self.start[row]) < int(self.length[row])
        if held or not self.whole or offset >= self._size:
            return offset
        return int(self.start[row + 1])

    def spans(self, offset: int, size: int) -> list[Span] | None:
        """Return where the bytes lie in the flattened file; None if they lie in many pieces, or some in none."""
        spans: list[Span] = []
        row = int(np.searchsorted(self.start, np.uint64(offset), "right")) - 1
        while size and 0 <= row < len(self.start) and len(spans) < _SPANS:
            into = offset - int(self.start[row])
            count = min(size, int(self.length[row]) - into)
            if into < 0 or count <= 0:
                return None
            found = self._inner.spans(int(self.place[row]) + into, count)
            if found is None:
                return None
            spans += found
            offset, size, row = offset + count, size - count, row + 1
        return None if size else spans

    def close(self) -> None:
        """Close both files; a second call does nothing."""
        super().close()
        if hasattr(self, "_inner"):
            self._inner.close()
