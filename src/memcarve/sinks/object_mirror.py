"""Objects laid out as the files of a temporary folder, with as much of their bytes as is wanted."""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from typing import TYPE_CHECKING

from memcarve.copying.output_file import FULL
from memcarve.errors import InputError, NoSpaceError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from memcarve.remote.objects import Objects

_WINDOW = 1 << 23  # bytes that are fetched at a time
_PLAIN = re.compile(r"(?!\.\.?$)[^\x00-\x1f\x7f/\\]{1,255}")


@contextlib.contextmanager
def mirror(
    objects: Objects,
    listed: Mapping[str, int],
    wanted: Callable[[str, int], Iterable[tuple[int, int]]],
    temp: str | None = None,
) -> Iterator[str]:
    """Give a folder that holds the `listed` objects as files, each as long as the object; it is removed behind that.

    ``wanted(name, size)`` says which stretches of an object are fetched, as offset and length; the rest is a hole.
    Raises InputError if a name is not one that a file can have, or an object is shorter than it was; NoSpaceError.
    """
    with tempfile.TemporaryDirectory(prefix="memcarve-", dir=temp) as folder:
        try:
            for name, size in listed.items():
                _lay_out(objects, folder, name, size, wanted(name, size))
        except OSError as error:
            if error.errno not in FULL:
                raise
            raise NoSpaceError(
                f"is full: {error.strerror}", subject=folder, remedy="{temp} names a folder with more room"
            ) from error
        yield folder


def is_plain(name: str) -> bool:
    """Return True if an object's name can be that of a file in a folder, and leads nowhere else."""
    return all(map(_PLAIN.fullmatch, name.split("/")))


def _lay_out(objects: Objects, folder: str, name: str, size: int, wanted: Iterable[tuple[int, int]]) -> None:
    if not is_plain(name):
        raise InputError(f"holds an object called {name!r}, which is not the name of a file", subject=objects.name)
    path = os.path.join(folder, *name.split("/"))
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "xb") as file:
            file.truncate(size)
            for begin, length in wanted:
                _fetch(objects, name, begin, length, file.seek, file.write)
    except (FileExistsError, NotADirectoryError):  # one is a folder and a file, or they differ in the case of letters
        problem = f"holds an object called {name!r}, whose name is another's as well"
        raise InputError(problem, subject=objects.name) from None


def _fetch(
    objects: Objects,
    name: str,
    begin: int,
    length: int,
    seek: Callable[[int], object],
    write: Callable[[bytes], object],
) -> None:
    seek(begin)
    for place in range(begin, begin + length, _WINDOW):
        count = min(_WINDOW, begin + length - place)
        data = objects.read(name, place, count)
        if len(data) != count:
            raise InputError("has become shorter while it was read", subject=objects.name + name)
        write(data)
