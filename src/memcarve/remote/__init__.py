"""Inputs that lie elsewhere: in object stores and on web servers, read by ranged requests.

`locations` says what such an input is called, `transports` how each kind of store is asked for a range of bytes,
`requesting` when and how often, `block_store` keeps what came, and `remote_file` is the file that all of it makes.
Nothing of the packages for the stores is imported before an input of that kind is opened.
"""

from __future__ import annotations

from typing import NamedTuple

from memcarve.backing import FileBacking
from memcarve.remote.locations import is_location


class Keeping(NamedTuple):
    """Where what is fetched is kept: in a file in the folder `temp`, which is gone in the end."""

    temp: str | None = None


def open_file(path: str, keeping: Keeping = Keeping(), *, follow: bool = True) -> FileBacking:  # noqa: B008 - a tuple
    """Open a file on disk, or what a location names. Raises what `FileBacking` and `remote_file.RemoteFile` raise."""
    if not is_location(path):
        return FileBacking(path, follow=follow)
    from memcarve.remote.remote_file import RemoteFile

    return RemoteFile(path, keeping)
