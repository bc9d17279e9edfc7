"""A compressed file, decoded once into a temporary one, which has no name and takes room on disk only."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from typing import TYPE_CHECKING, Any

from memcarve.backing import FileBacking
from memcarve.errors import InputError, NoSpaceError, OutputError
from memcarve.formats.compression import Decoder, RawFile, Reading, too_much
from memcarve.temporary_folders import temporary_folder

if TYPE_CHECKING:
    from collections.abc import Iterator

_BLOCK = 1 << 22
_ZEROS = bytes(1 << 16)  # as many and more become a hole
_LOOK = 64 << 20  # bytes that are written between two looks at how much room there is
_SPARE = 1 << 30  # bytes that stay free on a file system, or a twentieth of a small one
#: zeros take no room: with them a file may become this large, this many times its size beyond that, and never larger
_MOST_WITH_ZEROS, _RATIO_WITH_ZEROS, _LARGEST = 16 << 30, 4096, 1 << 44
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_REMEDY = "{temp:DIR} names another folder"


class DecodedFile(FileBacking):
    """The content of a compressed file, in a temporary file that only this program can reach; once closed, it is gone.

    `path` is the compressed file's, and `described` is about it; everything else is about the content. If the data are
    cut off or damaged, what comes before is there, and `incomplete` is True. Runs of zeros are holes.

    `packed` is not used any more then. Raises what `Decoder` raises; InputError if nothing could be decoded, or the
    file changes meanwhile; NoSpaceError before the file system is full; OutputError if no folder can hold the content.
    """

    def __init__(self, packed: FileBacking, kind: str, reading: Reading) -> None:
        folder = temporary_folder(packed.path) if reading.temp is None else reading.temp
        raw = RawFile(packed, hashed=True)
        zeros = min(max(_MOST_WITH_ZEROS, _RATIO_WITH_ZEROS * packed.size), _LARGEST)
        decoder = Decoder(raw, kind, zeros if reading.decoded is None else reading.decoded)
        writer = _Writer(folder, decoder, reading.most(packed.size))
        try:
            while block := decoder.read(_BLOCK):
                writer.write(block)
                if reading.progress is not None:
                    reading.progress(raw.place, packed.size)
            digest = writer.finished(raw)
        except BaseException:
            os.close(writer.fd)
            raise
        super().__init__(packed.path, fd=writer.fd)
        self.incomplete = decoder.damage is not None
        said = [f"is compressed ({kind}): decoded to {self.size} bytes"]
        if decoder.damage is not None:
            said.append(f"{decoder.damage}: what was decoded is used (its end may be wrong), and the rest is missing")
        if decoder.junk is not None:
            said.append(f"what follows the {kind} data at offset 0x{decoder.junk:x} is something else, and not used")
        self.notes = tuple(
            (f"{self.path}: {words}", "" if place else f" in {folder}") for place, words in enumerate(said)
        )
        self._described = {**packed.described, "compression": kind, "decoded_size": self.size}
        if digest is not None:
            self._described |= {"sha256": digest, "sha256_is": "computed", "sha256_pass": "while it was decoded"}

    @property
    def described(self) -> dict[str, Any]:
        """What identifies the compressed file, its SHA-256, how it is compressed, and the size of its content."""
        return self._described


class _Writer:
    """Writes blocks one behind the other into a new file without a name, as long as there is room."""

    def __init__(self, folder: str, decoder: Decoder, most: int) -> None:
        self.folder = folder
        self._decoder = decoder
        self._most = most  # bytes that are not holes
        self._written = 0
        self._place = 0
        self._looked = -_LOOK
        try:
            with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
                self.fd = os.dup(file.fileno())
        except OSError as error:
            raise OutputError(
                f"the temporary file for the decoded bytes cannot be made: {error.strerror}",
                subject=folder,
                remedy=_REMEDY,
            ) from error

    def write(self, block: bytes) -> None:
        """Write a block, runs of zeros as holes."""
        for start, end in _substance(block):
            self._written += end - start
            if self._written > self._most:
                raise too_much(self._decoder.path, self._decoder.size, self._most)
            self._look(end - start)
            try:
                os.lseek(self.fd, self._place + start, os.SEEK_SET)
                rest = memoryview(block)[start:end]
                while rest:
                    rest = rest[os.write(self.fd, rest) :]
            except OSError as error:
                if error.errno in _FULL:
                    raise self._full(0) from error
                raise OutputError(f"cannot be written to: {error.strerror}", subject=self.folder) from error
        self._place += len(block)

    def finished(self, raw: RawFile) -> str | None:
        """Give the file its length; return the SHA-256 of `raw`. Raises InputError if what was decoded is of no use."""
        os.ftruncate(self.fd, self._decoder.total)
        digest = raw.digest()
        if raw.file.changed():
            raise InputError("was changed while it was read", subject=self._decoder.path)
        if self._decoder.damage is not None and not self._decoder.total:
            raise InputError(f"{self._decoder.damage}: nothing could be decoded", subject=self._decoder.path)
        return digest

    def _look(self, coming: int) -> None:
        """Raise NoSpaceError if there is too little room, every now and then."""
        if self._written - self._looked >= _LOOK:
            self._looked = self._written
            usage = shutil.disk_usage(self.folder)
            if usage.free - min(_SPARE, usage.total // 20) < max(coming, min(_LOOK, usage.total // 20)):
                raise self._full(usage.free)

    def _full(self, free: int) -> NoSpaceError:
        declared = self._decoder.declared
        needs = "" if declared is None else f", of {declared} that it needs if none of them are zeros"
        return NoSpaceError(
            f"to decode it there is too little room in {self.folder}: {free} bytes are free, and {self._place} are "
            f"decoded{needs}",
            subject=self._decoder.path,
            remedy=_REMEDY,
            state="nothing was kept",
        )


def _substance(block: bytes) -> Iterator[tuple[int, int]]:
    """Yield start and end of each part of a block that is not zeros."""
    start = None
    for place in range(0, len(block), len(_ZEROS)):
        if block.startswith(_ZEROS, place):
            if start is not None:
                yield start, place
                start = None
        elif start is None:
            start = place
    if start is not None:
        yield start, len(block)
