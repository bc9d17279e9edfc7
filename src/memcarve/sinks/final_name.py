"""Output that is complete once it has its name: built beside it, and renamed when whole.

One set of rules for files, folders and archives: what is made is for its owner alone (files 0600, folders 0700, also
those above it that were not there); nothing is put onto, into or around an input; what exists is replaced by force
alone, and only if memcarve wrote it (`foreign`).
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import shutil
import tempfile
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from memcarve.copying.output_file import FULL, Target, write
from memcarve.errors import InputError, MemcarveError, NoSpaceError, OutputError, TargetExistsError
from memcarve.formats import partial_mark
from memcarve.sinks.ownership import BUILT, LONGEST_BUILT, REPLACED, foreign, left_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from types import TracebackType
    from typing import Self

    from memcarve.process import ProcessMemory

_BUFFER = 1 << 16
_ANOTHER, _REPLACE = "choose another with {out}", "{force} replaces it, {out} chooses another"
_NAME = "name one with {out}"


class Files(Protocol):
    """Where files are put: a new folder, or the files of another program."""

    def create(self, name: str) -> contextlib.AbstractContextManager[io.RawIOBase]:
        """Create a file that must not exist.

        It is whole once the ``with`` block ends without an exception. Files that have a descriptor (``fileno``) are
        written to by the kernel. Several threads call this at once.
        """

    def named(self, name: str) -> str:
        """Return what a file that was created under a name, and is whole, is called."""


@runtime_checkable
class WholeFiles(Files, Protocol):
    """Files of which several can be written in one go, which takes less for many small ones."""

    def write_new(self, files: Iterable[tuple[str, memoryview]], shown: str) -> object:
        """Create files that must not exist, each with all of its bytes; messages call their folder `shown`."""


class Output(ABC):
    """Builds the file or folder `target` beside it, at `path`.

    It gets its name when the ``with`` block ends; an exception removes it, and the error says so. `notes` tell what
    killed runs have left, or what other runs are writing now.
    """

    def __init__(self, target: str | os.PathLike[str], *, force: bool = False, inputs: Sequence[str] = ()) -> None:
        #: the final name, as it was given
        self.name = os.fspath(target)
        self.target = os.path.abspath(self.name)
        self.force = force
        self.path = ""
        self.notes: Sequence[str] = ()
        self._inputs = inputs
        self._parent, base = os.path.split(self.target)
        self._base = base[:LONGEST_BUILT]
        self._prefix = f".{self._base}."
        self._made: list[str] = []

    def check(self) -> None:
        """Raise TargetExistsError if the target exists and may not be replaced, or is or touches an input.

        Raises OutputError if nothing can have that name.
        """
        if not self.name:
            raise OutputError("is not the name of a file or a folder", subject=repr(self.name), remedy=_NAME)
        self._check_inputs()
        while (there := self._identity()) is not None:
            try:
                self._check_existing()
            except (OSError, TargetExistsError):
                if self._identity() == there:
                    raise
            else:
                return
            # another run has taken it away, or replaced it, while it was looked through

    def _identity(self) -> tuple[int, int] | None:
        """Return what tells the file or folder at the target from others; None if nothing is there."""
        try:
            status = os.lstat(self.target)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:  # its name is too long, say: nothing could be given it once it is whole
            raise self._cannot(error) from error
        return status.st_dev, status.st_ino

    def _check_existing(self) -> None:
        self._check_kind()
        problem, partial = self._foreign(), self._partial()
        if problem is None and self.force:
            return
        if problem is not None and self.force:
            raise self._exists(problem, "{force} replaces only what memcarve wrote; " + _ANOTHER)
        raise self._exists(f"exists, and {partial}" if partial else "exists", self._remedy(problem))

    def _check_inputs(self) -> None:
        """Raise TargetExistsError if the target is an input, holds one or lies in one."""
        target = os.path.realpath(self.target)
        for path in self._inputs:
            source = os.path.realpath(path)
            if source == target or source.startswith(os.path.join(target, "")):
                raise self._exists("is the input, or holds it")
            if os.path.isdir(source) and target.startswith(os.path.join(source, "")):
                raise self._exists("lies in the input")

    def _remedy(self, problem: str | None) -> str:
        """Return what can be done about what exists, of which `problem` is why it is not to be replaced."""
        return _REPLACE if problem is None else _ANOTHER

    def _partial(self) -> str:
        """Return what is not there of several processes that were to be written here, in words; "" if nothing is."""
        with contextlib.suppress(InputError):
            mark = partial_mark.of(self.target)
            return "" if mark is None else mark.problem
        return ""

    @abstractmethod
    def _check_kind(self) -> None:
        """Raise TargetExistsError if what exists is of another kind."""

    def _foreign(self) -> str | None:
        return foreign(self.target)

    @abstractmethod
    def _begin(self) -> str:
        """Make what is built, and return its path."""

    @abstractmethod
    def _rename(self) -> None:
        """Give it its name."""

    def __enter__(self) -> Self:
        """Check the target and begin beside it; raises TargetExistsError, OutputError."""
        self.check()
        try:
            self._make_folders(self._parent)
            self.notes = [
                f"{os.path.join(self._parent, entry)}: left by a run that was killed, or being written by another"
                for entry in sorted(os.listdir(self._parent))
                if left_of(entry) == self._base
            ]
            partial = self._partial()
            if partial:
                self.notes = [*self.notes, f"{self.name}: {partial}; it is replaced"]
            self.path = self._begin()
        except OSError as error:
            self._remove()
            kind = NoSpaceError if error.errno in FULL else OutputError
            raise kind(
                f"cannot be written to: {error.strerror}", subject=self._parent, remedy="choose another with {out}"
            ) from error
        except BaseException:  # a signal: what was begun would be left behind
            self._remove()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            try:
                self.check()  # something may have appeared meanwhile
                self._rename()
            except BaseException as problem:
                self._failed(problem)
                raise
        else:
            self._failed(error)

    def _make_folders(self, path: str) -> None:
        """Make a folder and those above it that are not there, with mode 0700; `_made` are those that were made."""
        missing = []
        while not os.path.isdir(path):
            missing.append(path)
            path, below = os.path.dirname(path), path
            if path == below:  # a drive that is not there
                break
        for folder in reversed(missing):
            try:
                os.mkdir(folder, 0o700)
            except FileExistsError:  # another run made it, or it is a file
                if not os.path.isdir(folder):
                    raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), folder) from None
            else:
                self._made.append(folder)

    def _failed(self, error: BaseException) -> None:
        """Remove what was built, and have the error say so."""
        state = self._undo()
        if isinstance(error, OSError):
            raise self._cannot(error, state) from error
        if isinstance(error, MemcarveError):
            error.state = state
        else:
            error.add_note(state)

    def _undo(self) -> str:
        """Remove what was built; return what is left of it, in words."""
        left = self._remove()
        return f"{left} could not be removed: remove it" if left else "nothing was kept"

    def _remove(self) -> str:
        """Remove what was built, and the folders that were made for it; return the path of what is left."""
        if os.path.isdir(self.path):
            self._remove_folder()
        elif self.path:
            with contextlib.suppress(OSError):
                os.unlink(self.path)
        with contextlib.suppress(OSError):  # another program uses it by now
            for folder in reversed(self._made):
                os.rmdir(folder)
        return self.path if os.path.lexists(self.path) else ""

    def _remove_folder(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)

    def _exists(self, problem: str, remedy: str = _ANOTHER) -> TargetExistsError:
        return TargetExistsError(problem, subject=self.name, remedy=remedy)

    def _cannot(self, error: OSError, state: str = "") -> OutputError:
        kind = NoSpaceError if error.errno in FULL else OutputError
        return kind(f"cannot be written: {error.strerror or error}", subject=self.name, state=state)


class NewFile(Output):
    """Builds a file, at `path`; with `beside`, the name of a file that describes it, that one at `beside_path`, too.

    A description that is there always belongs to the file: it is removed before the file is replaced.
    """

    def __init__(
        self,
        target: str | os.PathLike[str],
        *,
        force: bool = False,
        inputs: Sequence[str] = (),
        beside: str | None = None,
    ) -> None:
        super().__init__(target, force=force, inputs=inputs)
        self._beside = None if beside is None else NewFile(beside, force=force, inputs=inputs)

    @property
    def beside_path(self) -> str:
        """Where the description is built."""
        return "" if self._beside is None else self._beside.path

    def check(self) -> None:
        """Raise TargetExistsError if a target exists and may not be replaced, or is or touches an input."""
        if not os.path.basename(self.name):
            raise OutputError("is not the name of a file", subject=repr(self.name), remedy=_NAME)
        super().check()
        if self._beside is not None:
            self._beside.check()

    def _check_kind(self) -> None:
        if os.path.isdir(self.target) and not os.path.islink(self.target):
            raise self._exists("is a folder", "name a file with {out}")

    def _foreign(self) -> str | None:
        return foreign(self.target, None if self._beside is None else self._beside.target)

    def _begin(self) -> str:
        if self._beside is not None:
            self._beside.path = self._beside._begin()  # noqa: SLF001 - of the same kind
        fd, path = tempfile.mkstemp(BUILT, self._prefix, self._parent)  # with mode 0600
        os.close(fd)
        return path

    def _rename(self) -> None:
        """Give the files their names; without `force` nothing is replaced, not even what has appeared this moment."""
        if self._beside is not None and self.force:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._beside.target)
        self._move()
        if self._beside is not None:
            try:
                self._beside._move()  # noqa: SLF001
            except BaseException:  # nobody would know where the file comes from
                os.unlink(self.target)
                raise

    def _move(self) -> None:
        if not self.force:
            try:
                os.link(self.path, self.target)
            except FileExistsError:
                self.check()  # raises, and says what is there
                raise
            except OSError:  # a file system without links
                pass
            else:
                os.unlink(self.path)
                return
        os.replace(self.path, self.target)

    def _remove(self) -> str:
        beside = "" if self._beside is None else self._beside._remove()  # noqa: SLF001
        return super()._remove() or beside


class NewFolder(Output):
    """Builds a folder, in which files are created by name."""

    _directory: int | None = None

    def _check_kind(self) -> None:
        if not os.path.isdir(self.target) or os.path.islink(self.target):
            raise self._exists("exists and is not a folder")

    def _begin(self) -> str:
        self.path = path = tempfile.mkdtemp(BUILT, self._prefix, self._parent)
        if os.open in os.supports_dir_fd:
            self._directory = os.open(path, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0))
        return path

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._directory is not None:
            os.close(self._directory)
            self._directory = None
        super().__exit__(kind, error, trace)

    def create(self, name: str) -> io.FileIO:
        """Create a file that must not exist, for writing and reading back, with mode 0600."""
        return io.FileIO(self.open_new(name), "r+b")

    def write_new(self, files: Iterable[tuple[str, memoryview]], shown: str) -> None:
        """Create files that must not exist, each with all of its bytes; messages call their folder `shown`."""
        for name, data in files:
            fd = self.open_new(name)
            try:
                write(Target(fd, f"{shown}{name}"), data)
            finally:
                os.close(fd)

    def open_new(self, name: str) -> int:
        """Create a file as `create` does; return its descriptor, which the caller closes."""
        path = name if self._directory is not None else os.path.join(self.path, name)
        return create_file(path, self._directory)

    def named(self, name: str) -> str:
        """Return what a file is called: as it was created."""
        return name

    def _check_replaced(self, path: str) -> None:
        """Raise TargetExistsError if what was moved aside is not memcarve's: something may have come into it.

        Nobody else can change it there before it is removed.
        """
        problem = foreign(path)
        if problem is not None:
            raise self._exists(problem, "{force} replaces only what memcarve wrote; " + _ANOTHER)

    def _rename(self) -> None:
        """Give the folder its name; if that fails, put back what had it before."""
        replaced = ""
        try:
            if os.path.lexists(self.target):
                replaced = tempfile.mkdtemp(REPLACED, self._prefix, self._parent)
                os.rename(self.target, os.path.join(replaced, "folder"))
                self._check_replaced(os.path.join(replaced, "folder"))
            os.rename(self.path, self.target)
        except BaseException:
            old = os.path.join(replaced, "folder")
            if replaced and os.path.isdir(old) and not os.path.lexists(self.target):
                os.rename(old, self.target)
            if replaced:
                with contextlib.suppress(OSError):  # it holds what could not be put back
                    os.rmdir(replaced)
            raise
        if replaced:
            shutil.rmtree(replaced, ignore_errors=True)


def create_file(path: str, directory: int | None = None) -> int:
    """Create a file that must not exist, for writing and reading back, with mode 0600; return its descriptor."""
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0)
    return os.open(path, flags, 0o600, dir_fd=directory)


def check_room(path: str, shown: str, needed: int, remedy: str = "") -> None:
    """Raise NoSpaceError if the file system of a path has less than `needed` bytes free."""
    free = shutil.disk_usage(path).free
    if needed > free:
        error = NoSpaceError(
            f"needs {needed} bytes, and its file system has {free} free",
            subject=shown,
            remedy=f"choose another with {{out}}{', ' if remedy else ''}{remedy}",
        )
        error.needed = needed
        raise error


class _Buffered:
    """Collects small writes into large ones."""

    def __init__(self, file: io.RawIOBase) -> None:
        self._file = file
        self._waiting = bytearray()

    def write(self, data: bytes) -> None:
        """Collect data to be written."""
        self._waiting += data
        if len(self._waiting) >= _BUFFER:
            self.flush()

    def flush(self) -> None:
        """Write what is waiting."""
        write_all(self._file, memoryview(bytes(self._waiting)))
        self._waiting.clear()


def write_all(file: io.RawIOBase, view: memoryview) -> None:
    """Write all of some data to a file; one that does not say how much it wrote has written all."""
    while len(view):
        count = file.write(view)
        view = view[len(view) if count is None else count :]


@contextlib.contextmanager
def buffered(files: Files, name: str) -> Iterator[_Buffered]:
    """Create a file for many small writes."""
    with files.create(name) as file:
        collected = _Buffered(file)
        yield collected
        collected.flush()


def write_text(files: Files, name: str, texts: Iterable[str]) -> None:
    """Write a file of text; it is ASCII, whatever is in it."""
    with buffered(files, name) as file:
        for text in texts:
            file.write(text.encode("ascii"))


def input_paths(process: ProcessMemory) -> list[str]:
    """Return the files and folders that a process was read from: none of them is ever written to."""
    inputs = [row for each in process.inputs.values() for row in (each if isinstance(each, list) else [each])]
    return [str(each["path"]) for each in inputs if isinstance(each, dict) and "path" in each]
