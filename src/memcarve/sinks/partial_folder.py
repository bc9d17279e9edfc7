"""The folder that several processes are written into: it has its name, and a mark of being partial, from its creation.

Each process's file or folder in it is built beside its own name, and renamed when it is whole. When all are done,
``processes.json`` takes the mark's place. Until then another run can go on (`resume`), one at a time. What is replaced
by force stays until the new one is whole: so this one, too, is built beside it then.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import tempfile
from typing import TYPE_CHECKING, Any

from memcarve.errors import InputError, NoSpaceError, OutputError
from memcarve.formats import manifest, partial_mark
from memcarve.formats.json_text import dumps
from memcarve.sinks.final_name import NewFolder, create_file, write_all
from memcarve.sinks.ownership import BUILT, LONGEST_BUILT, foreign_part, left_of, names_in_partial
from memcarve.sinks.several_parts import hashes_of
from memcarve.sinks.several_sums import chained, sums
from memcarve.times import now, rfc3339

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
    from typing import Self

    from memcarve.sinks.sink import Result, SinkOptions

_FLAGS = os.O_RDWR | os.O_APPEND | getattr(os, "O_BINARY", 0)
_FLAGS |= getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
_SHOWN = 200  # characters of a value that differs
#: what of a mark must be the same to go on, and what it is called
_SAME = {
    "version": "version",
    "inputs": "input",
    "options": "option",
    "processes": "list of processes",
}
_ANOTHER = "write into another folder with {out}"


class PartialFolder(NewFolder):
    """Builds a folder of several processes; `begin` returns the document of its mark.

    With ``options.resume`` it must be there and partial, and its mark must say the same. `room` is how many bytes the
    processes take that are not there, as far as that is known.
    """

    room: int | None = None
    #: whether copies of this program may write to it
    in_copies = True

    def __init__(
        self,
        target: str | os.PathLike[str],
        begin: Callable[[], dict[str, Any]],
        options: SinkOptions,
        *,
        inputs: Sequence[str] = (),
    ) -> None:
        super().__init__(target, force=options.force, inputs=inputs)
        #: the document of the mark
        self.head: dict[str, Any] = {}
        self._begin_with = begin
        self._options = options
        self._fd = -1  # of the mark, which is locked
        self._in_place = False

    def check(self) -> None:
        """Raise TargetExistsError as ever; nothing is wrong with what is written to already."""
        if not self._in_place:
            super().check()

    def _remedy(self, problem: str | None) -> str:
        remedy = super()._remedy(problem)
        return f"{{resume}} goes on, {remedy}" if self._partial() else remedy

    def __enter__(self) -> Self:
        """Make the folder with its mark, or go on with one; raises TargetExistsError, OutputError."""
        if self._options.resume:
            self._go_on()
            return self
        self.check()  # before an input is hashed, say
        self.head = self._begin_with()
        super().__enter__()
        return self

    def mark(self) -> partial_mark.Mark:
        """Return what the mark says now."""
        return partial_mark.read(os.path.join(self.path, partial_mark.NAME))

    def add(self, members: Mapping[str, Any]) -> None:
        """Add a line to the mark; copies of this program do so, too. Raises NoSpaceError, OutputError."""
        data = partial_mark.line(members)
        try:
            whole = os.write(self._fd, data) == len(data)
        except OSError as error:
            raise self._cannot(error) from error
        if not whole:
            raise NoSpaceError("cannot be written: there is no room for all of it", subject=self.name)

    def clear(self, keep: Collection[str]) -> None:
        """Remove what was being built, and of processes what is not called as in `keep`; nothing else is touched."""
        mark = self.mark()
        for number, row in mark.rows.items():
            if not set(row["files"]) <= set(keep):
                self.add({"process": number})  # is not whole any more
        names = names_in_partial(mark)
        built = _as_built(names)
        for entry in set(os.listdir(self.path)) - {*keep}:
            if entry in names or left_of(entry) in built:
                _remove(os.path.join(self.path, entry))

    def put(self, name: str, chunks: Iterable[bytes]) -> None:
        """Write a file that is about all processes: the mark is removed when the ``with`` block ends."""
        fd, path = tempfile.mkstemp(BUILT, f".{name}.", self.path)
        with open(fd, "wb") as file:
            file.writelines(chunks)
            file.flush()
            os.fsync(fd)
        os.replace(path, os.path.join(self.path, name))
        _sync(self.path)

    def hashes_of(self, files: Iterable[str], known: Mapping[str, str], check: Callable[[], object]) -> dict[str, str]:
        """Return the SHA-256 of what was written of a process; see `several_parts.hashes_of`."""
        return hashes_of(self.path, files, known, check)

    def chained(self, part: Result, *, hashed: bool) -> dict[str, str]:
        """Return the SHA-256 of what stands for all that was written of a process; see `several_sums.chained`."""
        return chained(self.path, part, hashed=hashed)

    def sums(self, kind: str, files: Iterable[str], known: Mapping[str, str], processes: bytes) -> Iterator[bytes]:
        """Yield the lines of a file of checksums; see `several_sums.sums`."""
        return sums(self.path, kind, files, known, processes)

    def _begin(self) -> str:
        self.path = super()._begin()
        path = os.path.join(self.path, partial_mark.NAME)
        with open(create_file(path), "wb", buffering=0) as file:
            write_all(file, memoryview(dumps(self.head, default=str).encode("ascii")))
            os.fsync(file.fileno())
        _sync(self.path)
        if not os.path.lexists(self.target):
            os.rename(self.path, self.target)
            self.path, self._in_place = self.target, True
            _sync(self._parent)
        self._lock()
        return self.path

    def _go_on(self) -> None:
        """Go on with a folder that is partial; raises TargetExistsError if it is not one, or not of the same."""
        if not self.name:
            super().check()
        self._check_inputs()
        if not os.path.lexists(self.target):
            raise OutputError("does not exist", subject=self.name, remedy="leave {resume} out to begin")
        self._check_kind()
        if not os.path.lexists(os.path.join(self.target, partial_mark.NAME)):
            raise self._exists("is not partial: there is nothing to go on with")
        self.path = self.target
        try:
            self.mark()
        except InputError as error:
            raise self._exists(f"holds a {partial_mark.NAME} that memcarve did not write") from error
        self._lock()
        try:
            mark = self.mark()  # of before another run ended
            self.head = json.loads(dumps(self._begin_with(), default=str))
            self._check_same(mark.head)
            self._clear_left(mark)
            self._in_place = True
            self.add({"run": self.head["run"], **{name: self.head[name] for name in ("command", "operator")}})
        except BaseException:
            self._unlock()
            raise

    def _check_same(self, before: Mapping[str, Any]) -> None:
        """Raise TargetExistsError if what was begun differs from what is to be gone on with."""
        for name, what in _SAME.items():
            different = _difference(_content(before.get(name)), _content(self.head[name]), what)
            if different:
                raise self._exists(f"was begun differently: {different}", f"{{resume}} needs the same; else {_ANOTHER}")

    def _clear_left(self, mark: partial_mark.Mark) -> None:
        """Remove what a run that was killed was building, and what became whole and was not recorded any more.

        Raises TargetExistsError if anything else is there.
        """
        names = names_in_partial(mark)
        entries = (
            set(os.listdir(self.path)) - mark.files - {partial_mark.NAME, manifest.PROCESSES, *manifest.SUMS.values()}
        )
        built = _as_built(names)
        left = {name for entry in entries if (name := left_of(entry)) is not None}
        for entry in sorted(entries):
            if left_of(entry) not in built:
                if entry not in names or not (
                    foreign_part(os.path.join(self.path, entry)) is None or _was_named_just_now(entry, left)
                ):
                    problem = f"holds {entry}, which is not recorded as whole, and may not be memcarve's"
                    raise self._exists(problem, "move it away, and go on with {resume}")
                self.notes = [*self.notes, f"{entry}: is not recorded as whole; it is written again"]
        self.clear(mark.files)

    def _lock(self) -> None:
        """Open the mark, and keep other runs from going on with the folder until this one has ended."""
        path = os.path.join(self.path, partial_mark.NAME)
        try:
            self._fd = os.open(path, _FLAGS)
            _take(self._fd)
        except OSError as error:
            self._unlock()
            self.path = ""  # it is not this run's
            if isinstance(error, BlockingIOError):
                raise self._exists("is being written by another run", "wait until it has ended") from None
            raise self._cannot(error) from error

    def _unlock(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def _rename(self) -> None:
        """Take the mark away, and give the folder its name if it has not got it."""
        path = os.path.join(self.path, partial_mark.NAME)
        if os.name == "nt":  # where no file is removed that is open
            self._unlock()
        os.unlink(path)
        _sync(self.path)
        self._unlock()
        if not self._in_place:
            super()._rename()

    def _undo(self) -> str:
        """Keep what is whole, or if nothing is, nothing; return it in words."""
        try:
            marked = self._in_place and os.path.lexists(os.path.join(self.path, partial_mark.NAME))
            mark = self.mark() if marked else None
            if mark is None or not (mark.rows or self._options.resume):
                return super()._undo()
            self.clear(mark.files)
            with contextlib.suppress(OutputError):  # there may be no room
                self.add({"end": rfc3339(now())})
            words = [f"{self.name} {mark.problem}"]
            if self.room is not None:
                words.append(f"what is not there takes about {self.room} bytes")
            return "; ".join([*words, f"go on with {self._command()}"])
        finally:
            self._unlock()

    def _remove_folder(self) -> None:
        """Remove what was built; as long as anything of it is there it is marked, and what is somebody else's stays."""
        if not self._in_place:
            super()._remove_folder()
            return
        with contextlib.suppress(OSError):
            self.clear(())
            os.unlink(os.path.join(self.path, partial_mark.NAME))
            os.rmdir(self.path)

    def _command(self) -> str:
        """Return the command that goes on."""
        if self._options.command is None:
            return "resume=True"
        words = [word for word in self._options.command if word not in ("--force", "--resume")]
        return " ".join(map(quoted, [*words, "--resume"]))


def quoted(word: str) -> str:
    r"""Return a word for a shell: if not all of it is shown as it is, as ``\NNN`` in ``$'...'``, which bash knows."""
    if word.isprintable():
        return shlex.quote(word)
    plain = (chr(byte) if 32 <= byte < 127 and byte not in b"'\\" else f"\\{byte:03o}" for byte in os.fsencode(word))  # noqa: PLR2004 - ASCII
    return f"$'{''.join(plain)}'"


def _as_built(names: Iterable[str]) -> set[str]:
    """Return names as `left_of` has them."""
    return {name[:LONGEST_BUILT] for name in names}


def _was_named_just_now(entry: str, left: Collection[str]) -> bool:
    """Return True if what belongs to a file, or is the file, still lies there as it was built."""
    beside = f"{entry.removesuffix('.dmp')}."[:LONGEST_BUILT]
    return any(name == entry[:LONGEST_BUILT] or name.startswith(beside) for name in left)


def _content(value: object) -> object:
    """Return what matters of inputs: where they lie does not."""
    if isinstance(value, list):
        return [_content(each) for each in value]
    return {name: each for name, each in value.items() if name != "path"} if isinstance(value, dict) else value


def _difference(before: object, now: object, what: str) -> str:
    """Return what differs first between two values, in words; "" if they are the same."""
    if isinstance(before, dict) and isinstance(now, dict):
        pairs = ((before.get(name), now.get(name), name) for name in sorted(before.keys() | now.keys()))
        return next(filter(None, (_difference(*pair) for pair in pairs)), "")
    if before == now:
        return ""
    return f"{what} was {_shown(before)}, and is now {_shown(now)}"


def _shown(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _remove(path: str) -> None:
    shutil.rmtree(path) if os.path.isdir(path) and not os.path.islink(path) else os.unlink(path)


def _sync(folder: str) -> None:
    """Have the names in a folder survive a power cut, if the system can."""
    with contextlib.suppress(OSError):  # Windows opens no folders, and some file systems do not sync them
        fd = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def _take(fd: int) -> None:
    """Lock a file until it is closed here and in all copies of this program; raises BlockingIOError if another has it.

    Without locks, as on Windows and some network file systems, nothing is done.
    """
    with contextlib.suppress(ImportError):
        import fcntl

        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if isinstance(error, BlockingIOError):
                raise
