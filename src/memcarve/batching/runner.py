"""A batch: the inputs that are not done yet are run, and what becomes of each is written down as it happens."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, NamedTuple

from memcarve.batching import outputs
from memcarve.batching.children import Job, run_all
from memcarve.batching.inputs import folder_names, identity
from memcarve.batching.state import NAME, Row
from memcarve.errors import OutputError, printable
from memcarve.times import now, rfc3339
from memcarve.vocabulary import RunStatus

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from memcarve.batching.children import Ended
    from memcarve.batching.state import BatchFolder

_FEWEST = 512 << 20  # bytes of memory for each process that runs
#: the exit statuses of a command that has done what it can
_OVER = {0: RunStatus.DONE, 3: RunStatus.INCOMPLETE}
_OVER_MEMORY = "; the system does that if memory runs out"


class Work(NamedTuple):
    """What is done with each input: the command's name and its words, and what it leaves.

    `words` returns those behind the input's path, for the folder of the input. `output` is the name of what the command
    writes, `listing` that of what it prints; either may be None.
    """

    command: str
    words: Callable[[str], Sequence[str]]
    output: str | None
    listing: str | None


class Limits(NamedTuple):
    """How many run at once, and for how many seconds each."""

    at_once: int
    seconds: float | None


def default_jobs() -> int:
    """Return how many may run at once: one for each processor, if there is memory for so many."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            available = next(int(line.split()[1]) << 10 for line in file if line.startswith("MemAvailable:"))
    except (OSError, ValueError, IndexError, StopIteration):  # not Linux
        return usable
    return max(1, min(usable, available // _FEWEST))


class Batch:
    """Some inputs in a folder, each with a `Row`: those of a batch that is gone on with, and new ones."""

    def __init__(self, folder: BatchFolder, paths: Sequence[str], work: Work) -> None:
        self.folder = folder
        self.rows: list[Row] = []
        #: what is to be said of inputs
        self.notes: list[str] = []
        self._work = work
        self._anew: set[str] = set()  # folders in which what was begun is of no use
        self._told: Callable[[Row], object] = lambda _: None
        new = iter(folder_names([path for path in paths if folder.row(path) is None], self._taken()))
        for path in paths:
            known = folder.row(path)
            row = Row(path, **identity(path), folder=next(new)) if known is None else self._known(known, path)
            self.rows.append(row)
            folder.add(row)

    def _taken(self) -> list[str]:
        """Return the names that no folder of a new input may have."""
        return [NAME, *(row.folder for row in self.folder.rows.values())]

    def _known(self, row: Row, path: str) -> Row:
        """Return what is known of an input that the batch had before; if it is to be run again, without how it ended.

        What is there of an input that is not there any more stays: nothing better can come of it.
        """
        found = identity(path)
        row.path = path
        gone = found["modified"] is None
        same = (row.size, row.modified) == (found["size"], found["modified"])
        there = all(os.path.lexists(os.path.join(self.folder.path, row.folder, name)) for name in row.outputs)
        if row.is_over and there and (same or gone):
            if gone:
                self.notes.append(f"{path}: is not there any more; what was written of it stays")
            return row
        if row.is_over:
            why = "has changed since" if not same else "what was written of it is not there any more"
            self.notes.append(f"{path}: {why}; it is done again")
        in_vain = row.status == RunStatus.FAILED and "--resume" in (row.command or ())
        if in_vain or not same:
            self._anew.add(row.folder)
        return Row(path, **found, folder=row.folder)

    @property
    def waiting(self) -> list[Row]:
        """Those that are to be run."""
        return [row for row in self.rows if not row.is_over]

    def run(self, limits: Limits, asked: Callable[[], int], told: Callable[[Row], object]) -> None:
        """Run those that are not done; `told` is called with each when it has ended.

        `asked` is as `children.run_all` has it. Those that were stopped so are as good as not begun.

        Raises OutputError if what became of them cannot be written down.
        """

        def meanwhile() -> int:
            self.folder.write(must=False)
            return asked()

        self._told = told
        self.folder.write()
        try:
            jobs = self._jobs()
            run_all(jobs, limits.at_once, limits.seconds, self._ended, meanwhile, kept=self.folder.kept)
        finally:
            self.folder.end()

    def _path(self, row: Row) -> str:
        return os.path.join(self.folder.path, row.folder)

    def _jobs(self) -> Iterator[Job]:
        """Make what is to be run ready, one after the other."""
        for number, row in enumerate(self.rows):
            if row.is_over:
                continue
            folder = self._path(row)
            try:
                outputs.prepare(folder)
            except OutputError as error:
                self._over(row, RunStatus.FAILED, str(error))
                continue
            row.command = self._words(row)
            row.begin, row.status = rfc3339(now()), RunStatus.RUNNING
            self.folder.changed = True
            listing = self._work.listing
            part = None if listing is None else outputs.listing_part(folder, listing)
            yield Job(number, row.command[1:], part, os.path.join(folder, outputs.LOG))

    def _words(self, row: Row) -> list[str]:
        """Return the command line for an input, as somebody would type it."""
        folder, work = self._path(row), self._work
        path = f".{os.sep}{row.path}" if row.path.startswith("-") else row.path
        words = ["memcarve", work.command, path]
        if work.output is not None:
            output = os.path.join(folder, work.output)
            words += ["-o", output]
            words += outputs.how_to_go_on(output, anew=row.folder in self._anew)
        return [*words, *work.words(folder)]

    def _ended(self, job: Job, how: Ended) -> None:
        """Note what became of an input."""
        row, folder = self.rows[job.number], self._path(self.rows[job.number])
        row.seconds = round(how.seconds, 3)
        status, why = _status(how)
        try:
            over = status in _OVER.values()
            if self._work.listing is not None:
                outputs.finish_listing(folder, self._work.listing, whole=over)
            if over:
                row.outputs, row.bytes = outputs.written(folder)
            else:
                outputs.clear(folder)
        except OSError as error:
            status, why = RunStatus.FAILED, f"{error.filename or folder}: {error.strerror}"
        if how.code is not None and how.code >= 0:
            row.exit_status = how.code
        elif how.code is not None:
            row.signal = -how.code
        if status != RunStatus.DONE:
            why = why or outputs.reason(folder, failed=status == RunStatus.FAILED) or _unsaid(status, how)
        self._over(row, status, why)

    def _over(self, row: Row, status: RunStatus, why: str | None) -> None:
        shown = None if why is None else printable(why).removeprefix(f"{printable(row.path)}: ")
        row.status, row.end, row.error = status, rfc3339(now()), shown
        self.folder.changed = True
        self._told(row)


def _status(how: Ended) -> tuple[RunStatus, str | None]:
    """Return what an end is called, and why it is so if the log need not be asked."""
    if how.code is None:
        return RunStatus.FAILED, how.problem
    if how.code in _OVER:
        return _OVER[how.code], None
    if how.timed_out:
        return RunStatus.TIMED_OUT, f"had not ended after {how.seconds:.0f} seconds"
    if how.stopped:
        return RunStatus.STOPPED, "was stopped"
    number = -how.code if how.code < 0 else how.code - 128
    if how.code < 0 or number in (signal.SIGINT, signal.SIGTERM):
        name = signal.Signals(number).name if number in [*signal.Signals] else f"signal {number}"
        return RunStatus.KILLED, f"was killed ({name})" + (_OVER_MEMORY if name == "SIGKILL" else "")
    return RunStatus.FAILED, None


def _unsaid(status: RunStatus, how: Ended) -> str:
    """Return what is said of a run that says nothing itself."""
    return "bytes are known to be missing" if status == RunStatus.INCOMPLETE else f"ended with status {how.code}"
