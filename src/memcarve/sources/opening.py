"""How an input is opened: what was named, opened once; what may be said about it; and what a source is."""

from __future__ import annotations

import functools
import os
from typing import TYPE_CHECKING, NamedTuple

from memcarve.errors import InputError, UnreadableError, UsageError
from memcarve.formats.compression import Decoder, RawFile, Reading, compression_of, decoded, first_bytes
from memcarve.note import Note
from memcarve.remote import open_file
from memcarve.remote.locations import hidden, is_location
from memcarve.vocabulary import InputType, PagesFrom, Paging, Search, System, Trust

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

    from memcarve.backing import FileBacking
    from memcarve.process import Container, Progress

IMAGE, DUMP, MAP, CORE, MINIDUMP, FOLDER, PROC = InputType

#: options that mean something for every input
_FOR_ALL = frozenset(
    {
        "hashed",
        "search",
        "regions",
        "modules",
        "threads",
        "input_type",
        "temp",
        "limit_rows",
        "limit_decoded",
        "progress",
        "cache",
        "cache_size",
    }
)
#: options of which any says that the input is an image
FOR_IMAGES = frozenset({"dtb", "system", "paging", "limit", "symbols", "page_files", "pages_from", "demand_zero"})
_HEAD = 4096


class Opened:
    """What a path names, opened once and shared by all sources that look at it.

    The container that a source makes of it owns `file` (or `raw`, if that is all it uses); until then they are closed
    here.
    """

    def __init__(self, path: str | os.PathLike[str], reading: Reading = Reading()) -> None:  # noqa: B008 - a tuple
        self.path = hidden(os.fspath(path))
        if not self.path:
            raise InputError("is not the name of a file or a folder", subject=repr(self.path), remedy="name the input")
        self.is_folder = not is_location(self.path) and os.path.isdir(self.path)
        self._reading = reading
        self._kept = False
        #: why its beginning cannot be read, if it was tried
        self.headless: UnreadableError | None = None

    @functools.cached_property
    def raw(self) -> FileBacking:
        """The file as it is stored. Raises SourceReadError, or InputError if it is not a regular file."""
        return open_file(self.path, self._reading.keeping)

    @functools.cached_property
    def compression(self) -> str | None:
        """How the file is compressed; None if it is not."""
        return None if self.is_folder else compression_of(first_bytes(self.raw))

    @functools.cached_property
    def file(self) -> FileBacking:
        """The file, or what a compressed one holds, decoded when first asked for.

        Raises what `raw` and `decoded_file.DecodedFile` raise.
        """
        return decoded(self.raw, self.compression, self._reading)

    @functools.cached_property
    def head(self) -> bytes:
        """The first 4096 bytes of the content; fewer if it is shorter, damaged or unreadable; none of a folder."""
        if self.is_folder:
            return b""
        if self.compression is not None and "file" not in self.__dict__:
            raw, most = RawFile(self.raw, hashed=False), self._reading.most(self.raw.size)
            return Decoder(raw, self.compression, most).read(_HEAD)
        try:
            return self.file.read_at(0, _HEAD)
        except UnreadableError as error:
            self.headless = error
            return self.file.read_at(0, error.offset)

    @property
    def size(self) -> int | None:
        """The length of the content in bytes; None as long as it is not decoded, and of a folder."""
        if self.is_folder or (self.compression is not None and "file" not in self.__dict__):
            return None
        return self.file.size

    @property
    def notes(self) -> list[Note]:
        """What the user should know of how the file was opened."""
        return [Note(note, "input", more) for note, more in self.file.notes]

    def keep(self) -> None:
        """Leave open what is used: something else closes it now."""
        self._kept = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        opened = [self.__dict__[name] for name in ("file", "raw") if name in self.__dict__]
        used = opened[0] if self._kept and opened else None
        for file in opened:
            if file is not used:
                file.close()


class OpenOptions(NamedTuple):
    """What may be said about an input; `memcarve.open` explains each. None leaves it to memcarve."""

    memory_map: str | None = None
    dump: str | None = None
    trust: str | None = None
    hashed: bool = False
    dtb: int | None = None
    system: str | None = None
    paging: str | None = None
    limit: int | None = None
    symbols: str | None = None
    page_files: tuple[str, ...] = ()
    pages_from: str | None = None
    demand_zero: bool = False
    search: str | None = None
    regions: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()
    threads: tuple[str, ...] = ()
    input_type: str | None = None
    temp: str | None = None
    limit_rows: int | None = None
    limit_decoded: int | None = None
    cache: str | None = None
    cache_size: int | None = None
    progress: Progress | None = None

    def check(self) -> None:
        """Raise UsageError for unknown words."""
        InputType.check(self.input_type)
        Trust.check(self.trust)
        if self.trust == Trust.PAGE_FILES and not self.page_files:
            raise UsageError(
                "page files are trusted, and none was given", remedy="give {page_files} with {trust:pagefile}"
            )
        System.check(self.system)
        Paging.check(self.paging)
        PagesFrom.check(self.pages_from)
        Search.check(self.search)

    @property
    def given(self) -> set[str]:
        """The options that were given, except those that every input has."""
        said = {
            name for name, value in self._asdict().items() if value is not None and value is not False and value != ()
        }
        # trust in page files comes with these, and is nothing of a map
        return said - _FOR_ALL - ({"trust"} if self.trust == Trust.PAGE_FILES else set())

    @property
    def for_image(self) -> bool:
        """Whether an option was given that only an image has."""
        return self.input_type == IMAGE or bool(self.given & FOR_IMAGES)

    @property
    def reading(self) -> Reading:
        """How what must be decoded is read."""
        return Reading(self.temp, self.limit_decoded, self.limit_rows, self.progress, self.cache, self.cache_size)

    @property
    def listings(self) -> dict[str, tuple[str, ...]]:
        """The files that were named, by what they list."""
        return {"regions": self.regions, "modules": self.modules, "threads": self.threads}


class Source(NamedTuple):
    """A kind of input: how it is recognised by its path and first bytes, and how it is opened.

    `what` is what messages call it, `types` what a user may say that it is, `understands` the options that mean
    something for it. `open` looks closer, and raises NotRecognisedError or CounterpartError if the input is of another
    kind after all. If options are given that it does not understand, a source that is `sure` of what it opened refuses
    them; others leave the input to the sources behind them.
    """

    what: str
    types: tuple[InputType, ...]
    recognise: Callable[[Opened], bool]
    open: Callable[[Opened, OpenOptions], Container]
    understands: frozenset[str] = frozenset()
    sure: bool = True


def refusal(path: str, what: str, options: set[str]) -> UsageError:
    """Return the error for options that do not apply to the input, which is `what`."""
    named = " and ".join(f"{{{name}}}" for name in sorted(options))
    return UsageError(
        f"{what}, and options were given that do not apply to it", subject=path, remedy=f"leave {named} out"
    )
