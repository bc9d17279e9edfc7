"""What memcarve wrote to a bucket, to be verified: its lists are fetched, and segments read as they are checked."""

from __future__ import annotations

import contextlib
import os
import shutil
from typing import TYPE_CHECKING, NamedTuple

from memcarve.errors import (
    InputError,
    MemcarveError,
    NoSpaceError,
    OutputError,
    SourceReadError,
    VerificationError,
)
from memcarve.formats import manifest
from memcarve.remote.objects import Objects, objects_of
from memcarve.sinks.object_mirror import mirror
from memcarve.sinks.object_ownership import LISTS, MARKS
from memcarve.sinks.verify.own_document import WANTED
from memcarve.temporary_folders import temporary_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from concurrent.futures import Future

    from memcarve.backing import Backing, Span

_WINDOW = 1 << 23  # bytes of a request
_AHEAD = 8  # requests that are under way at once
#: what may lie beside a file and tell of it: endings that are added or taken away
_BESIDE = (("", ".json"), (".json", ""), (".dmp", ".map"), (".map", ".dmp"))


class Fetched(NamedTuple):
    """Objects laid out below the folder or file `path`; `contents` opens the bytes of one that was not fetched."""

    path: str
    name: str
    contents: Callable[[str], Backing] | None

    def told(self, text: str) -> str:
        """Return a message with the name of what lies in the bucket."""
        return text.replace(self.path, self.name)

    @contextlib.contextmanager
    def messages(self) -> Iterator[None]:
        """Have errors say what the objects are called."""
        try:
            yield
        except MemcarveError as error:
            error.subject, error.problem = self.told(error.subject), self.told(error.problem)
            if isinstance(error, VerificationError):
                error.faults = [self.told(fault) for fault in error.faults]
            raise


@contextlib.contextmanager
def fetched(location: str, *, whole: bool, temp: str | None = None) -> Iterator[Fetched]:
    """Lay out what memcarve wrote to a bucket; segments are read later, unless all of it is wanted `whole`.

    Raises InputError if nothing lies there, or what is there has no list; NoSpaceError, MissingExtraError.
    """
    try:
        objects, listed, path = _found(location)
        into = temp or temporary_folder(objects.name, "is fetched")

        def wanted(name: str, size: int) -> list[tuple[int, int]]:
            return [(0, size)] if whole or not _is_segment(name, listed) else []

        needed = sum(count for name, size in listed.items() for _, count in wanted(name, size))
        if needed > shutil.disk_usage(into).free:
            raise NoSpaceError(
                f"has no room for the {needed} bytes that are fetched to be verified",
                subject=into,
                remedy="{temp} names a folder with more",
            )
        with mirror(objects, listed, wanted, into) as folder:
            contents = None if whole else _Contents(objects, listed, folder).open
            yield Fetched(os.path.join(folder, path) if path else folder, _name(objects, path), contents)
    except OutputError as error:
        if isinstance(error, NoSpaceError):
            raise
        raise SourceReadError(error.problem, subject=error.subject, remedy=error.remedy) from error


def _name(objects: Objects, path: str) -> str:
    return f"{objects.name}{path}".rstrip("/")


def _found(location: str) -> tuple[Objects, dict[str, int], str]:
    """Return the objects below a location, or one with what lies beside it, and its name among them."""
    objects = objects_of(location, folder=True)
    if objects is None:
        raise InputError("does not lie in a bucket", subject=location)
    here = objects.listed(deep=False)
    if any(name in here for name in LISTS):
        listed = objects.listed()
        for name in LISTS:
            listed.pop(name + MARKS, None)  # its run was killed when all was there
        return objects, listed, ""
    if any(name + MARKS in here for name in LISTS):
        problem = "is partial: another run writes it, or was killed"
        raise InputError(problem, subject=_name(objects, ""), remedy="write it again with {force}")
    if here:
        raise InputError(f"holds no {manifest.NAME}", subject=_name(objects, ""), remedy=WANTED)
    return _single(location)


def _single(location: str) -> tuple[Objects, dict[str, int], str]:
    one = objects_of(location)
    key, parted, name = ("", "", "") if one is None else one.key.rpartition("/")
    if one is None or not name:
        raise InputError("is not there", subject=location, remedy=WANTED)
    beside = one.below(key + parted, one.name.removesuffix(name))
    names = [name.removesuffix(old) + new for old, new in _BESIDE if name.endswith(old)]
    listed = {each: size for each in [name, *names] if (size := beside.size(each)) is not None}
    if name not in listed:
        raise InputError("is not there", subject=location, remedy=WANTED)
    return beside, listed, name


def _is_segment(name: str, listed: Mapping[str, int]) -> bool:
    """Return True if an object is a segment beside a list of segments."""
    folder, parted, base = name.rpartition("/")
    return f"{folder}{parted}{manifest.NAME}" in listed and manifest.FILE_NAME.fullmatch(base) is not None


class _Contents:
    """The segments, in the order of their names: what is read next is on its way while one is looked at."""

    def __init__(self, objects: Objects, listed: Mapping[str, int], folder: str) -> None:
        self._objects = objects
        self._folder = folder
        self._sizes = {name: listed[name] for name in sorted(listed) if _is_segment(name, listed)}
        self._windows: list[tuple[str, int, int]] = []
        self._first: dict[str, int] = {}
        for name, size in self._sizes.items():
            self._first[name] = len(self._windows)
            self._windows += [(name, place, min(_WINDOW, size - place)) for place in range(0, size, _WINDOW)]
        self._under_way: dict[int, Future[bytes]] = {}

    def open(self, path: str) -> Backing:
        """Return the bytes of a segment, by the path of its file."""
        name = os.path.relpath(path, self._folder).replace(os.sep, "/")
        return _Segment(self, self._objects.name + name, self._first[name], self._sizes[name])

    def take(self, number: int) -> bytes:
        """Return a window, and have the next ones come."""
        ahead = range(number, min(number + _AHEAD, len(self._windows)))
        for other in [other for other in self._under_way if other not in ahead]:
            self._under_way.pop(other).cancel()
        for each in ahead:
            if each not in self._under_way:
                self._under_way[each] = self._objects.begin(self._objects.reading(*self._windows[each]))
        data = bytes(self._objects.wait_for(self._under_way[number]))
        if len(data) != self._windows[number][2]:
            raise InputError("has become shorter while it was read", subject=self._windows[number][0])
        return data


class _Segment:
    """The bytes of one object, read in order."""

    def __init__(self, contents: _Contents, path: str, first: int, size: int) -> None:
        self.path = path
        self.size = size
        self._contents = contents
        self._number = self._first = first
        self._data: bytes | None = None

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` with the bytes at `offset`; it lies in one window."""
        number = self._first + offset // _WINDOW
        if self._data is None or number != self._number:
            self._number, self._data = number, self._contents.take(number)
        begin = offset % _WINDOW
        buffer[:] = self._data[begin : begin + len(buffer)]

    def spans(self, offset: int, size: int) -> list[Span] | None:  # noqa: ARG002
        """Return None."""
        return None

    def close(self) -> None:
        """Do nothing."""
