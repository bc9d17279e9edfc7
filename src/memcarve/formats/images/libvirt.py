"""What libvirt saves of a machine (virsh save, managedsave): a header, and QEMU's migration stream.

The header is that of libvirt's src/qemu/qemu_saveimage.h, in the byte order of the machine that wrote it: magic,
version, length of what follows (the machine's XML, and a cookie), and how the stream behind that is compressed. While
it is written, the magic is another one. The stream itself says better than the number how it is compressed.
"""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING

from memcarve.backing import FileBacking
from memcarve.errors import InputError, SourceReadError
from memcarve.formats.compression import Reading, compression_of, decoded
from memcarve.formats.images import migration
from memcarve.formats.images.signatures import LIBVIRT, LIBVIRT_WHOLE

if TYPE_CHECKING:
    from memcarve.backing import Span
    from memcarve.formats.images.machine import MachineMemory

_HEADER = 16 + 19 * 4
_NUMBERS = "IIII"  # version, length of the XML, whether it ran, how it is compressed
_KNOWN = (2, 3)
_LZOP = b"\x89LZO\0\r\n\x1a\n"
_HEAD = 4096
_REMEDY = "virsh restore --paused loads it, and then virsh dump --memory-only makes an ELF core of it"


def read(file: FileBacking, reading: Reading = Reading()) -> MachineMemory | None:  # noqa: B008 - a tuple
    """Return the machine's memory, None if the file is not a saved machine of libvirt.

    A compressed stream is decoded into a temporary file, as `reading` says. Raises InputError if the stream is not
    there or is compressed in a way that memcarve does not read, what `DecodedFile` raises, and what `migration.read`
    does. Close the backing, which closes `file`.
    """
    head = file.read_there(0, _HEADER)
    if head[:16] not in LIBVIRT:
        return None
    if len(head) < _HEADER:
        raise InputError("is a machine that libvirt saved, and ends inside its header", subject=file.path)
    order = "<" if head[16] else ">"  # the version is a small number
    version, length, _, number = struct.unpack_from(order + _NUMBERS, head, 16)
    if version not in _KNOWN:
        raise InputError(
            f"is a machine that libvirt saved in version {version}; expected version 2 or 3",
            subject=file.path,
            remedy=_REMEDY,
        )
    begin = _HEADER + length
    found = _stream(file, begin, reading)
    if found is None:
        raise InputError(
            f"is a machine that libvirt saved, but QEMU's stream is not at 0x{begin:x} (format {number})",
            subject=file.path,
            remedy=_REMEDY,
        )
    notes = () if head.startswith(LIBVIRT_WHOLE) else ("libvirt: the machine was not saved to the end",)
    kind = found.kind.replace("QEMU migration stream", "libvirt save", 1)
    return found._replace(kind=kind, notes=(*notes, *found.notes))


def _stream(file: FileBacking, begin: int, reading: Reading) -> MachineMemory | None:
    """Return the memory that the stream at an offset holds; None if none is there."""
    body = file.read_there(begin, _HEAD)
    if body.startswith(_LZOP):
        raise InputError(
            "is a machine that libvirt saved with lzop, which memcarve does not read", subject=file.path, remedy=_REMEDY
        )
    kind = compression_of(body)
    if kind is None:
        return migration.read(file, begin)
    with _Behind(file, begin) as packed:
        stream = decoded(packed, kind, reading)
    found = None
    try:
        found = migration.read(stream)
    finally:
        if found is None:
            stream.close()
    if found is None:
        return None
    return found._replace(notes=(*(note for note, _ in stream.notes), *found.notes))


class _Behind(FileBacking):
    """A file without its first bytes, to be decoded; the file must stay open meanwhile."""

    direct = False

    def __init__(self, file: FileBacking, begin: int) -> None:
        super().__init__(file.path, fd=os.dup(file.fd))
        self._whole = file
        self._begin = begin

    @property
    def size(self) -> int:
        """The number of bytes behind the beginning."""
        return self._whole.size - self._begin

    def changed(self) -> bool:
        """Return True if the file has changed since it was opened."""
        return self._whole.changed()

    def read_some(self, offset: int, buffer: memoryview) -> int:
        """Read up to ``len(buffer)`` bytes at `offset`; return how many came."""
        return self._whole.read_some(self._begin + offset, buffer)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` with the bytes at `offset`, or raise SourceReadError."""
        done = 0
        while done < len(buffer) and (count := self.read_some(offset + done, buffer[done:])):
            done += count
        if done < len(buffer):
            raise SourceReadError(f"ends at offset 0x{self._begin + offset + done:x}", subject=self.path)

    def next_written(self, offset: int) -> int:
        """Return `offset`: what is compressed has no holes."""
        return offset

    def spans(self, offset: int, size: int) -> list[Span] | None:
        """Return the one span of the bytes, in the file; None if they must be fetched."""
        return self._whole.spans(self._begin + offset, size)
