"""What is recorded of the files and folders of one of several processes, and whether they still are as recorded."""

from __future__ import annotations

import importlib
import os
import stat
from typing import TYPE_CHECKING

from memcarve.backing import FileBacking
from memcarve.errors import VerificationError
from memcarve.formats import manifest
from memcarve.hashing import hash_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from typing import Any

    from memcarve.process import Progress

_LISTS = (manifest.NAME, manifest.MODULES)
_MOST_HOLES = 4 << 30  # bytes of a sparse file that are not read to take a hash


def hashes_of(
    folder: str, files: Iterable[str], known: Mapping[str, str], check: Callable[[], object]
) -> dict[str, str]:
    """Return the SHA-256 of what was written of a process, by names in `folder`; those that are `known` are believed.

    A folder with a list of files and their hashes is known by that list, any other by all that is in it. `check` is
    called between blocks. Raises SourceReadError, InputError if anything is not a regular file.
    """
    names = [name for file in files for name in _hashed(folder, file)]
    return {name: known.get(name) or _sha256(os.path.join(folder, name), check) for name in names}


def _hashed(folder: str, file: str) -> Iterator[str]:
    path = os.path.join(folder, file)
    status = os.lstat(path)
    if not stat.S_ISDIR(status.st_mode):
        if status.st_size - 512 * getattr(status, "st_blocks", 0) <= _MOST_HOLES:
            yield file
        return
    inside = sorted(os.listdir(path))
    yield from (f"{file}/{name}" for name in [name for name in _LISTS if name in inside][:1] or inside)


def _sha256(path: str, check: Callable[[], object] = lambda: None) -> str:
    with FileBacking(path, follow=False) as file:
        return hash_of(file, between=lambda _: check())


def check_part(folder: str, recorded: Mapping[str, Any], progress: Progress | None = None) -> None:
    """Read all that was written of a process; raises VerificationError, InputError if it is not as recorded."""
    gone = [name for name in recorded["files"] if not os.path.lexists(os.path.join(folder, name))]
    if gone:
        raise VerificationError("is missing", subject=os.path.join(folder, gone[0]))
    try:
        hashes = hashes_of(folder, recorded["files"], {}, lambda: None)
    except OSError as error:
        raise VerificationError(f"cannot be read: {error.strerror}", subject=str(error.filename)) from error
    for name in sorted({**hashes, **recorded["sha256"]}):
        if hashes.get(name) != recorded["sha256"].get(name):
            raise VerificationError("is not what was recorded of it", subject=os.path.join(folder, name))
    for name in recorded["files"]:
        path = os.path.join(folder, name)
        if f"{name}/{manifest.NAME}" in hashes:
            verifying = importlib.import_module("memcarve.sinks.verify")  # only a run that goes on needs it
            verifying.verify(path, progress=progress)
        elif f"{name}/{manifest.MODULES}" in hashes:
            _check_sums(path)


def _check_sums(folder: str) -> None:
    """Hold the files of a folder of modules against the hashes in its list."""
    sums = {manifest.MODULES: "", **manifest.modules(os.path.join(folder, manifest.MODULES))}
    there = set(os.listdir(folder))
    for name in sorted(there ^ {*sums, manifest.SUMS["sha256"]}):
        raise VerificationError("is missing" if name in sums else "is not listed", subject=os.path.join(folder, name))
    for name, digest in sums.items():
        if digest and _sha256(os.path.join(folder, name)) != digest:
            raise VerificationError("its SHA-256 is not the one in the list", subject=os.path.join(folder, name))
