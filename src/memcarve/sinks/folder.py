"""A folder that is complete once it has its name: built beside it, and renamed when whole."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
import tempfile
from typing import TYPE_CHECKING

from memcarve.errors import InputError, MemcarveError, NoSpaceError, OutputError, TargetExistsError
from memcarve.formats import manifest

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType
    from typing import Self

_BUILT = ".incomplete"
_REPLACED = ".replaced"


class NewFolder:
    """Builds `target` in a folder beside it, `path`, with mode 0700.

    Leaving the ``with`` block in peace gives it its name; leaving it by any exception removes it. `foreign` says of an
    existing folder what in it is not memcarve's own, or None: only then may `force` replace it. `inputs` are never
    replaced, nor is anything put into them. `leftovers` are folders that runs which were killed have left, or that
    others are writing now.
    """

    def __init__(
        self, target: str, *, force: bool, foreign: Callable[[str], str | None], inputs: Sequence[str] = ()
    ) -> None:
        self.target = os.path.abspath(target)
        self.name = target
        self._inputs = inputs
        self._force = force
        self._foreign = foreign
        self._parent, base = os.path.split(self.target)
        self._prefix = f".{base[:100]}."
        self.path = ""
        self.leftovers: list[str] = []

    def __enter__(self) -> Self:
        """Check the target and create the folder beside it; raises TargetExistsError, OutputError."""
        self.check()
        try:
            os.makedirs(self._parent, exist_ok=True)
            self.leftovers = sorted(
                os.path.join(self._parent, entry)
                for entry in os.listdir(self._parent)
                if entry.startswith(self._prefix) and entry.endswith((_BUILT, _REPLACED))
            )
            self.path = tempfile.mkdtemp(_BUILT, self._prefix, self._parent)
        except OSError as error:
            raise OutputError(f"{self._parent}: cannot be written to: {error.strerror}; choose with -o") from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self._rename()
            return
        left = self._remove(self.path)
        if isinstance(error, OSError):
            raise self._translated(error, left) from error
        if isinstance(error, MemcarveError):
            error.state = self._state(left)
        else:
            error.add_note(self._state(left))

    def check(self) -> None:
        """Raise TargetExistsError where something has the target's name that may not be replaced, or is the input."""
        self._check_inputs()
        try:
            status = os.lstat(self.target)
        except OSError:
            return
        if not stat.S_ISDIR(status.st_mode):
            raise TargetExistsError(f"{self.name}: exists and is no folder; choose another with -o")
        if not self._force:
            raise TargetExistsError(f"{self.name}: exists; --force replaces it, -o chooses another")
        foreign = self._foreign(self.target)
        if foreign:
            raise TargetExistsError(f"{self.name}: {foreign}; --force replaces only what memcarve wrote")

    def _check_inputs(self) -> None:
        """Raise TargetExistsError where an input would be replaced, or evidence that is a folder be added to."""
        target = os.path.realpath(self.target)
        for path in self._inputs:
            source = os.path.realpath(path)
            if source == target or source.startswith(os.path.join(target, "")):
                raise TargetExistsError(f"{self.name}: is the input, or holds it; choose another with -o")
            if os.path.isdir(source) and target.startswith(os.path.join(source, "")):
                raise TargetExistsError(f"{self.name}: lies in the input; choose another with -o")

    def _rename(self) -> None:
        """Give the folder its name; what had it before is put back if that fails, whatever the reason."""
        replaced = ""
        try:
            if os.path.lexists(self.target):
                self.check()  # it may have appeared meanwhile
                replaced = tempfile.mkdtemp(_REPLACED, self._prefix, self._parent)
                os.rename(self.target, os.path.join(replaced, "folder"))
            os.rename(self.path, self.target)
        except BaseException as error:
            old = os.path.join(replaced, "folder")
            if replaced and os.path.isdir(old) and not os.path.lexists(self.target):
                os.rename(old, self.target)
            if replaced:
                with contextlib.suppress(OSError):  # it holds what could not be put back
                    os.rmdir(replaced)
            left = self._remove(self.path)
            if isinstance(error, OSError):
                raise self._translated(error, left) from error
            raise
        if replaced:
            self._remove(replaced)

    def _translated(self, error: OSError, left: str) -> OutputError:
        full = error.errno in {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}
        kind = NoSpaceError if full else OutputError
        return kind(f"{self.name}: cannot be written: {error.strerror or error}; {self._state(left)}")

    def _state(self, left: str) -> str:
        return f"{left} could not be removed: remove it" if left else "nothing was kept"

    @staticmethod
    def _remove(path: str) -> str:
        """Remove a folder; return its path where something of it is left."""
        shutil.rmtree(path, ignore_errors=True)
        return path if os.path.lexists(path) else ""


def create_file(name: str, directory: int | None) -> int:
    """Create a file that must not exist, for writing and reading back, with mode 0600; return its descriptor."""
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0)
    return os.open(name, flags, 0o600, dir_fd=directory)


def leftover_notes(folder: NewFolder) -> list[str]:
    """Return a note for each folder that a run which was killed may have left."""
    return [f"{path}: left by a run that was killed, or being written by another" for path in folder.leftovers]


def foreign(folder: str) -> str | None:
    """Say what in an existing folder memcarve did not write; None where all of it is its own, or it is empty."""
    entries = _entries(folder)
    if manifest.PROCESSES not in entries:
        return _foreign_inside(folder) if entries else None
    if manifest.processes(os.path.join(folder, manifest.PROCESSES)) is None:
        return f"holds a {manifest.PROCESSES} that memcarve did not write"
    for entry in sorted(entries.keys() - {manifest.PROCESSES}):
        problem = _foreign_inside(os.path.join(folder, entry)) if stat.S_ISDIR(entries[entry]) else "is no folder"
        if problem:
            return f"{entry} {problem}"
    return None


def _foreign_inside(folder: str) -> str | None:
    own = {manifest.NAME, *manifest.SUMS.values()}
    try:
        _, records = manifest.read(os.path.join(folder, manifest.NAME))
        own.update(record.file for record in records if manifest.FILE_NAME.fullmatch(record.file))
    except InputError:
        return f"holds no {manifest.NAME} that memcarve wrote"
    entries = _entries(folder)
    others = sorted(name for name, mode in entries.items() if name not in own or not stat.S_ISREG(mode))
    return f"holds {others[0]}, which memcarve did not write" if others else None


def _entries(folder: str) -> dict[str, int]:
    """Return what lies in a folder, with the modes; links are not followed."""
    with os.scandir(folder) as entries:
        return {entry.name: entry.stat(follow_symlinks=False).st_mode for entry in entries}
