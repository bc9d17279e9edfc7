"""The command that runs others on many inputs."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TYPE_CHECKING, Any

from memcarve.batching.inputs import identity, once_each, read_list
from memcarve.batching.runner import Batch, Limits, Work, default_jobs
from memcarve.batching.state import BatchFolder
from memcarve.cli import stopping
from memcarve.cli.exit_status import COMPLETE, FAILED, INCOMPLETE
from memcarve.cli.printed_tables import print_table
from memcarve.cli.progress_bar import ProgressBar
from memcarve.cli.wording import complain, counted, say, tell
from memcarve.errors import UsageError
from memcarve.formats.tables.table_cells import Column
from memcarve.remote.locations import hand_on, hidden, word_without_secrets
from memcarve.remote.objects import check_here
from memcarve.sinks.partial_folder import quoted
from memcarve.vocabulary import RunStatus

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Self

    from memcarve.batching.state import Row
    from memcarve.cli.batch_commands import Given
    from memcarve.cli.option_groups import Batch as Wanted, Messages
    from memcarve.formats.tables.table_cells import Cell

_OUTPUTS = {"carve": "segments", "extract": "modules"}
_EXPORTS = {"minidump": "minidump.mdmp", "elfcore": "elfcore.core", "flat": "flat.bin"}
_ENDINGS = {"table": "txt", "maps": "txt"}
_COLUMNS = [
    Column("input", "text"),
    Column("status", "text"),
    Column("seconds", "real"),
    Column("bytes", "number"),
    Column("folder", "text"),
    Column("reason", "text"),
]


def batch(given: Given, inputs: Sequence[str], wanted: Wanted, messages: Messages) -> int:
    """Run a command on each of some inputs."""
    listed = (path for name in wanted.inputs for path in read_list(name, nul=wanted.nul))
    paths, again = once_each([*inputs, *map(hidden, listed)])
    if not paths:
        raise UsageError("no input is named", remedy="name some, or a list of them with --inputs")
    if wanted.nul and not wanted.inputs:
        raise UsageError("-0 says how --inputs are written", remedy="give both, or leave it out")
    say([f"{path}: is named twice, and done once" for path in again], quiet=messages.quiet)
    _check_place(wanted.output, paths)
    work = Work(given.command, given.words, _output(given), _listing(given))
    command = ["memcarve", *map(word_without_secrets, sys.argv[1:])]
    with BatchFolder(wanted.output, _recorded(given), command, resume=wanted.resume) as folder:
        found = Batch(folder, paths, work)
        say(found.notes, quiet=messages.quiet)
        with stopping.only_noted() as requests, _Progress(found.rows, messages) as progress:
            limits = Limits(wanted.jobs or default_jobs(), wanted.time_limit)
            hand_on()  # whatever opens a location here takes what was handed on before
            found.run(limits, lambda: progress.ask(requests), progress.told)
        if requests.number is not None and found.waiting:
            _stop(requests.number, found, command)
    return _finish(found, wanted, messages)


def _check_place(output: str, paths: Iterable[str]) -> None:
    """Raise UsageError if the output would lie in an input, or not on this machine."""
    check_here(output, "a batch keeps what it knows in files of this machine")
    place = os.path.join(os.path.realpath(output), "")
    for path in paths:
        if os.path.isdir(path) and place.startswith(os.path.join(os.path.realpath(path), "")):
            raise UsageError(f"lies in the input {path}", subject=output, remedy="choose another with {out}")


def _output(given: Given) -> str | None:
    """Return what is called what the command writes: one thing, or a folder for several processes."""
    parsed = given.parsed
    if given.command == "export":
        kind = str(parsed["write_kind"])
        several = parsed["processes_everything"] or parsed["processes_name"] or len(parsed["processes_pid"]) > 1
        return kind if several else _EXPORTS.get(kind, kind)
    if given.command == "extract" and parsed["write_archive"] and not parsed["processes_everything"]:
        return "modules.zip"
    if given.command == "report":
        return f"report.{given.parsed['write_layout'] or 'html'}"
    return _OUTPUTS.get(given.command)


def _listing(given: Given) -> str | None:
    """Return what the file is called that holds what the command prints; None if it prints nothing there."""
    layout = given.parsed.get("printing_layout")
    return None if layout is None else f"{given.command}.{_ENDINGS.get(layout, layout)}"


def _recorded(given: Given) -> dict[str, Any]:
    """Return what is done with each input, which must be the same to go on with: the files that are named, too."""
    return {
        "command": given.command,
        "options": given.words(""),
        "files": [{"path": path, **identity(path)} for path in given.files],
    }


class _Progress:
    """Tells of each input that has ended, and draws how much of the inputs is done."""

    def __init__(self, rows: Sequence[Row], messages: Messages) -> None:
        self._messages = messages
        self._bar = ProgressBar("batch", messages)
        self._total = sum(_weight(row) for row in rows)
        self._done = sum(_weight(row) for row in rows if row.is_over)
        self._count, self._of = sum(row.is_over for row in rows), len(rows)

    def told(self, row: Row) -> None:
        """Tell of one."""
        self._done += _weight(row)
        self._bar.clear()
        if row.status == RunStatus.STOPPED:
            return
        self._count += 1
        said = f"{row.path}: {row.status}" + ("" if row.error is None else f": {row.error}")
        if row.is_over:
            tell(f"[{self._count}/{self._of}] {said}", quiet=self._messages.quiet)
        else:
            complain(said)

    def ask(self, requests: stopping.Requests) -> int:
        """Draw; return how often the program was asked to end."""
        self._bar(self._done, self._total)
        return requests.count

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.__exit__(None, None, None)


def _weight(row: Row) -> int:
    """Return how much an input counts: its length, and a little, so that one without a length counts."""
    return (row.size or 0) + 1


def _stop(number: int, found: Batch, command: Sequence[str]) -> None:
    """Raise what ends the program, after a signal."""
    error = stopping.StoppedBySignal(number)
    words = [word for word in command if word != "--resume"]
    there = len(found.rows) - len(found.waiting)
    error.add_note(f"{there} of {counted(len(found.rows), 'input')} done")
    error.add_note(f"go on with {' '.join(map(quoted, [*words, '--resume']))}")
    raise error


def _finish(found: Batch, wanted: Wanted, messages: Messages) -> int:
    """Print what became of each input; return the exit status."""
    rows = found.rows

    def cells(row: Row) -> list[Cell]:
        folder = os.path.join(wanted.output, row.folder)
        return [row.path, row.status, row.seconds, row.bytes, folder, row.error]

    print_table(wanted.summary, "inputs", _COLUMNS, map(cells, rows))
    with contextlib.suppress(OSError):  # the end of the program sees that it cannot be written
        sys.stdout.flush()
    counts = {word: sum(row.status == word for row in rows) for word in RunStatus}
    words = [f"{count} {word}" for word, count in counts.items() if count]
    tell(f"{counted(len(rows), 'input')}: {', '.join(words)}: {wanted.output}", quiet=messages.quiet)
    over = sum(row.is_over for row in rows)
    if counts[RunStatus.DONE] == len(rows):
        return COMPLETE
    return INCOMPLETE if over else FAILED
