"""Compressed files: recognised by their first bytes, and decoded as a stream that has bounds.

Magic numbers and framing: gzip RFC 1952 section 2.3.1; Zstandard RFC 8878 section 3.1 (with its skippable frames, which
LZ4 shares); xz file format 1.2.1 section 2.1.1.1; bzip2 as its reference implementation writes it; LZ4 frame format
1.6.4; LZMA_Alone as liblzma reads it.
"""

from __future__ import annotations

import bz2
import io
import sys
import zlib
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from memcarve.errors import InputError, LimitError, MapError, MissingExtraError, UnreadableError
from memcarve.remote import Keeping, open_file as open_as_it_is

if TYPE_CHECKING:
    from collections.abc import Callable

    from memcarve.backing import FileBacking

#: endings of compressed files, in the order in which they are tried
ENDINGS = (".gz", ".zst", ".xz", ".bz2", ".lz4", ".lzma")
#: what unpacks a file by hand
COMMANDS = {"gzip": "gunzip", "bzip2": "bunzip2", "xz": "unxz", "zstd": "unzstd", "lz4": "unlz4", "lzma": "unlzma"}

#: bytes that a small file may always decode to, and how many times its own size beyond that. Maps come to 46 times as
#: text, and columns that Parquet writes as differences to 500 times: of 12 million rows they are below the first number
_NEVER_TOO_MUCH = 384 << 20
_RATIO = 150

_HEAD = 4096  # bytes that are looked at to tell
_MEMORY = 256 << 20  # what xz data may ask for while they are read
_PIECE = 1 << 16  # bytes that are decoded at a time: what damage can take along is no more than they hold
_START = 18  # bytes that tell a stream's kind
_MAGICS = {
    "gzip": b"\x1f\x8b\x08", "zstd": b"\x28\xb5\x2f\xfd", "xz": b"\xfd7zXZ\x00", "bzip2": b"BZh",
    "lz4": b"\x04\x22\x4d\x18", "lzma": b"\x5d",
}  # fmt: skip
_BZIP2_BLOCKS = (b"\x31\x41\x59\x26\x53\x59", b"\x17\x72\x45\x38\x50\x90")
_GZIP_RESERVED = 0xE0
_SKIPPABLE = b"\x2a\x4d\x18"  # behind a byte 0x50 to 0x5f
_PADDED = ("gzip", "xz")  # zeros between and behind their streams mean nothing
_MOST_ALONE = 1 << 48  # bytes that a file of LZMA_Alone says to hold


class Reading(NamedTuple):
    """How inputs that must be decoded are read: where to, how much is too much, and who is told how far it is.

    `temp` is the folder for decoded bytes that need a file; `decoded` the bytes that a compressed file or a table may
    decode to, and `rows` the rows that a table may have: None is a bound by the file's own size, or by kind.
    `progress` is called with the bytes read and the file's length. `cache` is the folder for what is fetched of an
    input that lies elsewhere, and for indexes; `cache_size` is how many bytes of what is fetched are kept.
    """

    temp: str | None = None
    decoded: int | None = None
    rows: int | None = None
    progress: Callable[[int, int], object] | None = None
    cache: str | None = None
    cache_size: int | None = None

    @property
    def keeping(self) -> Keeping:
        """Where what is fetched of an input that lies elsewhere is kept."""
        return Keeping(self.temp, self.cache, self.cache_size)

    def check_rows(self, path: str, rows: int, most: int) -> None:
        """Raise MapError if a table has more rows than may be: `rows`, or if that is not given `most`."""
        most = most if self.rows is None else self.rows
        if rows > most:
            raise MapError(
                f"has more than {most} rows",
                subject=path,
                remedy="if it is genuine, {limit_rows:N} sets how many it may have",
            )

    def most(self, size: int) -> int:
        """Return the number of bytes that a file of `size` bytes may decode to."""
        return max(_NEVER_TOO_MUCH, _RATIO * size) if self.decoded is None else self.decoded


def too_much(path: str, size: int, most: int) -> LimitError:
    """Return the error for a file of `size` bytes that decodes to more than `most`."""
    ratio = f", {most // size} times its size" if size and most // size > 1 else ""
    return LimitError(
        f"decodes to more than {most} bytes{ratio}, as a file made to harm would",
        most,
        subject=path,
        remedy="if it is genuine, {limit_decoded:SIZE} sets how many bytes it may decode to",
    )


def plain_name(path: str) -> str:
    """Return a path without the ending of a compressed file, if it has one."""
    return next((path[: -len(end)] for end in ENDINGS if path.lower().endswith(end)), path)


def compression_of(head: bytes) -> str | None:
    """Return how a file is compressed that begins with `head` (a few bytes suffice, more are better); None: not."""
    while len(head) >= 8 and head[1:4] == _SKIPPABLE and head[0] >> 4 == 5:  # noqa: PLR2004 - magic and length
        head = head[8 + int.from_bytes(head[4:8], "little") :]
    kind = next((kind for kind, magic in _MAGICS.items() if head.startswith(magic)), None)
    sound = {
        "gzip": not (head[3:4] or b"\xff")[0] & _GZIP_RESERVED,
        "bzip2": head[3:4] in b"123456789" and head[4:10] in _BZIP2_BLOCKS,
        "lzma": _is_alone(head),
    }
    return kind if sound.get(str(kind), True) else None


def _is_alone(head: bytes) -> bool:
    """Return True if `head` begins a file of LZMA_Alone; it has no magic, so its header must be as it is usual."""
    if len(head) < _START or head[0] != 0x5D or head[13] != 0:  # noqa: PLR2004 - lc=3 lp=0 pb=2; the coder's first
        return False
    dictionary, size = int.from_bytes(head[1:5], "little"), int.from_bytes(head[5:13], "little")
    usual = dictionary in [1 << bits for bits in range(12, 31)] or dictionary in [3 << bits for bits in range(11, 30)]
    return usual and (size == (1 << 64) - 1 or 0 < size < _MOST_ALONE)


def first_bytes(file: FileBacking) -> bytes:
    """Return the first 4096 bytes of a file, fewer if it is shorter or they cannot be read."""
    try:
        return file.read_at(0, _HEAD)
    except UnreadableError as error:
        return file.read_at(0, error.offset)


class RawFile(io.RawIOBase):
    """A file read from start to end, and hashed on the way if that is wanted."""

    def __init__(self, file: FileBacking, *, hashed: bool) -> None:
        self.file = file
        self.place = 0
        self.hash = None
        if hashed:
            from memcarve.formats.sha256 import sha256

            self.hash = sha256()

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # typeshed's Buffer needs 3.12
        """Fill `buffer` with what follows; return how many bytes that are."""
        view = memoryview(buffer).cast("B")
        count = self.file.read_some(self.place, view)
        if self.hash is not None:
            self.hash.update(view[:count])
        self.place += count
        return count

    def digest(self) -> str | None:
        """Return the SHA-256 of all of the file, whose rest is read for it; None if it was not wanted, or cannot be."""
        if self.hash is None:
            return None
        try:
            while self.read(1 << 20):
                pass
        except UnreadableError:
            return None
        return self.hash.hexdigest()


class _Stream(Protocol):
    """One stream, member or frame, as the modules decode it."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes | None: ...
    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class Decoder:
    """The decoded content of a compressed file of a `kind` that `compression_of` names, read from start to end.

    All streams, members or frames that follow each other are read, and skippable frames passed over. `total` counts
    the bytes decoded, `size` is the file's length. `damage` says what is wrong with the data, and where, if that ended
    them; `junk` is the offset of other bytes behind them; both are None as long as nothing is known. `declared` is how
    many bytes the first stream says it holds, if it does.

    Raises MissingExtraError if a package is needed, InputError if the data ask for too much memory, SourceReadError if
    the file cannot be read, and LimitError for more than `most` bytes.
    """

    def __init__(self, raw: RawFile, kind: str, most: int) -> None:
        self.kind = kind
        self.path = raw.file.path
        self.total = 0
        self.damage: str | None = None
        self.junk: int | None = None
        self._raw = raw
        self.size = raw.file.size
        self._most = most
        self._new, self._errors = _maker(kind, self.path)
        self._data = b""  # read from the file and not given to a stream
        self._ended = False
        self._stream: _Stream | None = None
        self.declared = self._declared()

    def read(self, size: int) -> bytes:
        """Return `size` bytes, fewer only at the end of the data or of what is sound of them."""
        found: list[bytes] = []
        wanted = size
        while wanted and (piece := self._some(wanted)):
            found.append(piece)
            wanted -= len(piece)
        self.total += size - wanted
        if self.total > self._most:
            raise too_much(self.path, self.size, self._most)
        return found[0] if len(found) == 1 else b"".join(found)

    def _some(self, most: int) -> bytes:
        """Return some decoded bytes; none at the end."""
        while not self._ended:
            if self._stream is None and not self._begin():
                break
            stream = self._stream
            assert stream is not None  # noqa: S101 - for the type checker: that is what `_begin` is for
            if stream.needs_input and not self._data:
                self._data = self._more()
                if not self._data:
                    self._broken("ends early")
                    break
            data, self._data = self._data, b""
            try:
                piece = stream.decompress(data, most)
            except MemoryError as error:
                raise self._greedy() from error
            except self._errors as error:
                words = " ".join(str(error).split())
                if "memory" in words.lower():
                    raise self._greedy() from error
                self._broken(f"is damaged ({words})")
                break
            if stream.eof:
                self._data, self._stream = stream.unused_data or b"", None
            if piece:
                return piece
        return b""

    def _begin(self) -> bool:
        """Begin the stream that follows; return False if none does."""
        begun = self.total > 0 or self._place > 0
        while True:
            if self.kind in _PADDED and begun:
                self._data = self._data.lstrip(b"\0")
            while len(self._data) < _START and (more := self._more()):
                self._data += more
                if self.kind in _PADDED and begun:
                    self._data = self._data.lstrip(b"\0")
            if self._data[1:4] != _SKIPPABLE or self._data[0] >> 4 != 5:  # noqa: PLR2004 - see above
                break
            if not self._skip(8 + int.from_bytes(self._data[4:8], "little")):
                self._broken("ends early")
                return False
        if not self._data or compression_of(self._data) != self.kind:
            if self._data and _MAGICS[self.kind].startswith(self._data):
                self._broken("ends early")
            elif self._data:
                self.junk = self._place
            self._ended, self._data = True, b""
            return False
        self._stream = self._new()
        return True

    def _skip(self, size: int) -> bool:
        """Pass over bytes of the file; return False if it ends before."""
        while size > len(self._data):
            size -= len(self._data)
            self._data = self._more()
            if not self._data:
                return False
        self._data = self._data[size:]
        return True

    @property
    def _place(self) -> int:
        """The offset in the file of what comes next."""
        return self._raw.place - len(self._data)

    def _more(self) -> bytes:
        """Return what follows in the file, none at its end; what cannot be read of it ends the data."""
        try:
            return self._raw.read(_PIECE) or b""
        except UnreadableError as error:
            self._broken(f"cannot be read ({error.problem})")
            return b""

    def _broken(self, words: str) -> None:
        """Note that the data end here, and what is wrong, unless that is known."""
        self.damage = self.damage or f"the {self.kind} data {words}, near offset 0x{self._place:x}"
        self._ended = True

    def _greedy(self) -> InputError:
        return InputError(
            f"its {self.kind} data ask for too much memory",
            subject=self.path,
            remedy=f"decompress it first ({COMMANDS[self.kind]}{' --long=31' if self.kind == 'zstd' else ''})",
        )

    def _declared(self) -> int | None:
        head = first_bytes(self._raw.file)[:_START]
        if self.kind == "zstd" and compression_of(head[:4]) == "zstd":
            try:
                found: int | None = _zstd().get_frame_info(head).decompressed_size
            except self._errors:  # a header that is cut off
                return None
            return found
        if self.kind == "lzma":
            size = int.from_bytes(head[5:13], "little")
            return size if size < _MOST_ALONE else None
        if self.kind == "lz4" and head[:1] == b"\x04" and len(head) == _START and head[4] & 8:  # it has a size
            return int.from_bytes(head[6:14], "little")
        return None


class _Gzip:
    """A member of a gzip file, with the members that the other modules' decompressors have."""

    def __init__(self) -> None:
        self._inner = zlib.decompressobj(31)
        self.needs_input = True

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        tail = self._inner.unconsumed_tail
        found = self._inner.decompress(tail + data if tail else data, max_length)
        self.needs_input = len(found) < max_length
        return found


def _maker(kind: str, path: str) -> tuple[Callable[[], _Stream], tuple[type[Exception], ...]]:
    """Return what begins a stream of a kind, and what it raises for damaged data; each is imported only if needed."""
    if kind == "gzip":
        return _Gzip, (zlib.error,)
    if kind == "bzip2":
        return bz2.BZ2Decompressor, (OSError, ValueError)
    if kind == "zstd":
        zstd = _zstd()
        return zstd.ZstdDecompressor, (zstd.ZstdError,)
    if kind == "lz4":
        try:
            from lz4 import frame  # an extra
        except ImportError:
            raise MissingExtraError(
                "is compressed (lz4); to read it: pip install 'memcarve[lz4]', or decompress it first (unlz4)",
                subject=path,
            ) from None
        return frame.LZ4FrameDecompressor, (RuntimeError,)
    import lzma

    form = lzma.FORMAT_XZ if kind == "xz" else lzma.FORMAT_ALONE
    return lambda: lzma.LZMADecompressor(form, memlimit=_MEMORY), (lzma.LZMAError,)


def _zstd() -> Any:  # noqa: ANN401 - two modules of one interface
    if sys.version_info >= (3, 14):
        from compression import zstd
    else:
        from backports import zstd
    return zstd


def open_file(path: str, reading: Reading, *, follow: bool = True) -> FileBacking:
    """Open a file, or what a compressed one holds. Raises what `FileBacking` and `DecodedFile` raise."""
    file = open_as_it_is(path, reading.keeping, follow=follow)
    found = None
    try:
        found = decoded(file, compression_of(first_bytes(file)), reading)
    finally:
        if found is not file:
            file.close()
    return found


def decoded(file: FileBacking, kind: str | None, reading: Reading) -> FileBacking:
    """Return the content of a file that is compressed (of a `kind`), or the file. Raises what `DecodedFile` raises."""
    if kind is None:
        return file
    from memcarve.formats.decoded_file import DecodedFile  # what it imports takes long, and few files are compressed

    return DecodedFile(file, kind, reading)
