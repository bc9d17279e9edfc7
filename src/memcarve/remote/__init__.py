"""Inputs that lie elsewhere: in object stores and on web servers, read by ranged requests.

`locations` says what such an input is called, `transports` how each kind of store is asked for a range of bytes,
`requesting` when and how often, `block_store` keeps what came, and `remote_file` is the file that all of it makes.
Nothing of the packages for the stores, and little of this, is imported before an input of that kind is opened.
"""

from __future__ import annotations

import datetime as dt
import os
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

from memcarve import backing
from memcarve.backing import FileBacking
from memcarve.errors import InputError, MemcarveError
from memcarve.remote.locations import is_like_one, is_location, shown_of

if TYPE_CHECKING:
    from memcarve.remote.remote_file import RemoteFile

_READ = ("s3://BUCKET/KEY", "gs://BUCKET/NAME", "az://CONTAINER/BLOB", "http://", "https://")


class Keeping(NamedTuple):
    """Where what is fetched is kept: in a file in the folder `temp`, which is gone in the end, or in a `cache`.

    `bound` is how many bytes are kept, at most, there or in all of the cache; by default 16 GiB.
    """

    temp: str | None = None
    cache: str | None = None
    bound: int | None = None


def open_file(path: str, keeping: Keeping = Keeping(), *, follow: bool = True) -> FileBacking:  # noqa: B008 - a tuple
    """Open a file on disk, or what a location names. Raises what `FileBacking` and `remote_file.RemoteFile` raise."""
    if is_like_one(path) and not os.path.lexists(path):
        raise InputError(
            "is not a location that memcarve reads", subject=shown_of(path), remedy=f"it reads {', '.join(_READ)}"
        )
    if not is_location(path):
        return FileBacking(path, follow=follow)
    from memcarve.remote.remote_file import RemoteFile

    return RemoteFile(path, keeping)


def is_there(path: str) -> bool:
    """Return True if a file lies at a path, or an object in a store that can be asked for a list."""
    if not is_location(path):
        return backing.is_there(path)
    folder, name = os.path.split(path)
    return name in (names_in(folder) or ())


def names_in(folder: str) -> frozenset[str] | None:
    """Return the names of what lies in a folder of a store; None if the store has no lists, or refuses it."""
    from memcarve.remote.remote_file import names_in as listed

    return listed(folder)


def facts_of(path: str) -> dict[str, Any] | None:
    """Return what identifies an object that this program opened, ready for JSON; None if it did not."""
    found = _opened(path)
    return found[-1].described if found else None


def read_of(path: str) -> dict[str, int] | None:
    """Return how many `requests` were made for such an object, and how many bytes were `fetched`."""
    found = [each.read_so_far for each in _opened(path)]
    return {name: sum(each[name] for each in found) for name in found[0]} if found else None


def _opened(path: str) -> list[RemoteFile]:
    module = sys.modules.get("memcarve.remote.remote_file")
    return [] if module is None else module.read_before(path)


def look_at(path: str) -> dict[str, Any]:
    """Return what identifies an object, ready for JSON, without opening it. Raises what `open_file` raises."""
    from memcarve.remote.remote_file import described, look_at as looked

    return described(looked(path))


def identity(path: str) -> dict[str, Any]:
    """Return length and time of modification (ns; 0 if unknown) of an object; None if the store does not say them."""
    try:
        facts = look_at(path)
    except MemcarveError:
        return {"size": None, "modified": None}
    when = dt.datetime.fromisoformat(facts["modified"] or "1970-01-01T00:00:00Z")
    return {"size": facts["size"], "modified": int(when.timestamp()) * 1_000_000_000}
