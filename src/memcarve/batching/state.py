"""``batch.json``: what a batch is to do, and what became of each input. ``docs/batch.md`` describes it.

It is written anew whenever something has happened, beside its name and renamed, so that at every moment a whole one is
there. It lies in the folder that holds the outputs, and is as hostile as any input when it is read.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import tempfile
import time
from typing import TYPE_CHECKING, Any

from memcarve.backing import FileBacking
from memcarve.errors import InputError, NotRecognisedError, OutputError, TargetExistsError, encodable
from memcarve.formats.json_text import dumps, loads
from memcarve.formats.manifest import TOOL
from memcarve.formats.partial_mark import is_plain
from memcarve.sinks.ownership import BUILT, left_of
from memcarve.surroundings import surroundings
from memcarve.times import now, rfc3339
from memcarve.vocabulary import RunStatus

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Self

NAME = "batch.json"
SCHEMA = 1
_LARGEST = 1 << 28  # bytes of it that are read
_RESTRAINT = 20  # writing takes at most one part in so many of the time
_PATIENCE = 3.0  # seconds that what a killed batch was running has to end
_ANOTHER = "choose another with {out}"


@dataclasses.dataclass
class Row:
    """What is known of an input: as it was when it was looked at, and what became of the run."""

    path: str
    size: int | None
    modified: int | None
    folder: str
    status: str = RunStatus.WAITING
    command: list[str] | None = None
    begin: str | None = None
    end: str | None = None
    seconds: float | None = None
    exit_status: int | None = None
    signal: int | None = None
    error: str | None = None
    bytes: int | None = None
    outputs: list[str] = dataclasses.field(default_factory=list)

    @property
    def is_over(self) -> bool:
        """Whether the command has done what it can."""
        return self.status in (RunStatus.DONE, RunStatus.INCOMPLETE)

    def as_known(self) -> str:
        """Return the path as it stands in the file."""
        return encodable(self.path)


class BatchFolder:
    """The folder that a batch is written into, with `rows` of inputs by their paths; it is locked while it is open.

    A new one must not exist, or be empty. With `resume` it must be a batch's, with the same `work`: what is done with
    each input, ready for JSON. `command` is the line that was typed.

    Raises TargetExistsError, OutputError; NotRecognisedError, InputError for a damaged ``batch.json``.
    """

    def __init__(self, path: str, work: dict[str, Any], command: Sequence[str], *, resume: bool) -> None:
        self.path = path
        self.rows: dict[str, Row] = {}
        self._work = work
        self._run = {"command": list(command), "begin": rfc3339(now()), "end": None, **surroundings()}
        self._runs: list[dict[str, Any]] = []
        self._next = 0.0  # when it may be written again
        #: whether what is written is not what is known
        self.changed = True
        self.fd = -1
        if resume:
            self._go_on()
        else:
            self._begin()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    @property
    def kept(self) -> list[int]:
        """The descriptors that what is run keeps open: as long as any of it runs, the folder is locked."""
        return [] if self.fd < 0 else [self.fd]

    def row(self, path: str) -> Row | None:
        """Return what is known of an input."""
        return self.rows.get(encodable(path))

    def add(self, row: Row) -> None:
        """Take an input in, or again."""
        self.rows[row.as_known()] = row
        self.changed = True

    def write(self, *, must: bool = True) -> None:
        """Write what is known; unless it `must` be, only if it has `changed`, and that takes little of the time.

        Raises OutputError if it must be and cannot.
        """
        begun = time.monotonic()
        if not must and (not self.changed or begun < self._next):
            return
        try:
            self._write()
            self.changed = False
        except OSError as error:
            if must:
                raise OutputError(f"cannot be written: {error.strerror}", subject=self._name) from error
        end = time.monotonic()
        self._next = end + _RESTRAINT * (end - begun)

    def end(self) -> None:
        """Write it for the last time in this run; raises OutputError."""
        self._run["end"] = rfc3339(now())
        self.write()

    @property
    def _name(self) -> str:
        return os.path.join(self.path, NAME)

    def _write(self) -> None:
        rows = [{**dataclasses.asdict(row), "path": row.as_known()} for row in self.rows.values()]
        head = {"schema": SCHEMA, "tool": TOOL, "what": "batch", "work": self._work, "runs": [*self._runs, self._run]}
        fd, path = tempfile.mkstemp(BUILT, f".{NAME}.", self.path)
        try:
            with open(fd, "w", encoding="ascii") as file:
                file.write(f"{dumps(head)[:-1]},\n")
                file.write('"inputs": [\n' + ",\n".join(map(dumps, rows)) + "\n]}\n")
                file.flush()
                os.fsync(fd)
            os.replace(path, self._name)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(path)
            raise

    def _begin(self) -> None:
        self._make()
        entries = os.listdir(self.path)
        if NAME in entries:
            raise TargetExistsError(
                f"holds a {NAME}", subject=self.path, remedy="{resume} goes on with that batch; else " + _ANOTHER
            )
        if any(left_of(entry) != NAME for entry in entries):
            raise TargetExistsError("exists, and is not empty", subject=self.path, remedy=_ANOTHER)
        self._lock()
        self.write()

    def _make(self) -> None:
        """Make the folder, and those above it, for their owner alone."""
        made, path = list[str](), os.path.abspath(self.path)
        while not os.path.lexists(path):
            made.append(path)
            path = os.path.dirname(path)
        try:
            for each in reversed(made):
                os.mkdir(each, 0o700)
            os.listdir(self.path)
        except OSError as error:
            problem = f"cannot be written: {error.strerror}"
            raise OutputError(problem, subject=self.path, remedy=_ANOTHER) from error

    def _go_on(self) -> None:
        if not os.path.lexists(self._name):
            raise OutputError(f"holds no {NAME}", subject=self.path, remedy="leave {resume} out to begin")
        self._lock()
        work, self._runs, rows = _read(self._name)
        different = _different(work, loads(dumps(self._work)))
        if different:
            problem = f"was begun with another command: {different}"
            raise TargetExistsError(problem, subject=self.path, remedy="{resume} needs the same; else " + _ANOTHER)
        for row in rows:
            self.add(row)
        for entry in os.listdir(self.path):
            if left_of(entry) == NAME:
                with contextlib.suppress(OSError):
                    os.unlink(os.path.join(self.path, entry))

    def _lock(self) -> None:
        """Keep other batches out until this one and all that it runs has ended; where folders can be locked."""
        try:
            import fcntl
        except ImportError:  # Windows
            return
        try:
            self.fd = os.open(self.path, os.O_RDONLY)
            end = time.monotonic() + _PATIENCE
            while True:
                try:
                    fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    if time.monotonic() >= end:
                        raise
                    time.sleep(0.05)
                else:
                    return
        except BlockingIOError:
            self.__exit__()
            problem = "is being written by another batch, or by what one has left running"
            raise TargetExistsError(problem, subject=self.path, remedy="wait until it has ended") from None
        except OSError:  # a file system without locks
            return


def _read(path: str) -> tuple[dict[str, Any], list[dict[str, Any]], list[Row]]:
    """Return what a file says of the work, the runs and the inputs; raises NotRecognisedError, InputError."""
    with FileBacking(path, follow=False) as file:
        if file.size > _LARGEST:
            raise InputError(f"is larger than {_LARGEST >> 20} MiB", subject=path)
        data = file.read_at(0, file.size)
    try:
        found = loads(data.decode("ascii"))
        ours = (found["schema"], found["tool"], found["what"]) == (SCHEMA, TOOL, "batch")
        rows = list(map(_row, found["inputs"]))
        work, runs = dict(found["work"]), [dict(run) for run in found["runs"]]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise NotRecognisedError("is not what memcarve writes", subject=path, remedy=_ANOTHER) from error
    if not ours or len({row.folder for row in rows}) < len(rows):
        raise NotRecognisedError("is not what memcarve writes", subject=path, remedy=_ANOTHER)
    return work, runs, rows


def _row(said: dict[str, Any]) -> Row:
    """Return what is said of an input; raises ValueError, KeyError, TypeError if memcarve would not say it."""
    row = Row(**{field.name: said[field.name] for field in dataclasses.fields(Row)})
    texts = (row.begin, row.end, row.error)
    numbers = (row.size, row.modified, row.exit_status, row.signal, row.bytes)
    sound = (
        isinstance(row.path, str)
        and is_plain(row.folder)
        and row.folder != NAME
        and row.status in [*RunStatus]
        and all(value is None or isinstance(value, str) for value in texts)
        and all(value is None or type(value) is int for value in numbers)
        and (row.seconds is None or isinstance(row.seconds, float))
        and all(map(is_plain, row.outputs))
    )
    if not sound:
        raise ValueError(row.path)
    return row


def _different(before: dict[str, Any], now: dict[str, Any]) -> str:
    """Return what differs first, in words; "" if nothing does."""
    for name, value in now.items():
        if before.get(name) != value:
            return f"{name} {_shown(before.get(name))}, and now {_shown(value)}"
    return ""


def _shown(value: object) -> str:
    words: Iterable[object] = value if isinstance(value, list) else [value]
    text = " ".join(map(str, words)) or "none"
    return text if len(text) <= 200 else f"{text[:200]}..."  # noqa: PLR2004 - what one reads
