"""The command that compares the memory of a process at two times."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TYPE_CHECKING

from memcarve.cli import run_log
from memcarve.cli.difference_rows import DifferenceRows, doubts
from memcarve.cli.diffing_several import compare_several
from memcarve.cli.exit_status import COMPLETE, INCOMPLETE
from memcarve.cli.frame import choose, choose_one, open_input
from memcarve.cli.printed_tables import print_table
from memcarve.cli.progress_bar import ProgressBar
from memcarve.cli.wording import say, tell
from memcarve.errors import ProcessError, UsageError
from memcarve.hunting.process_pairs import paired

if TYPE_CHECKING:
    from memcarve.cli.option_groups import Differences, DiffInput, ListedProcesses, Messages, Printing, SegmentFilters
    from memcarve.hunting.process_pairs import Pair
    from memcarve.process import Container, ProcessMemory


def diff(
    before: str,
    after: str,
    processes: ListedProcesses,
    wanted: Differences,
    filters: SegmentFilters,
    source: DiffInput,
    printing: Printing,
    messages: Messages,
) -> int:
    """Compare a process of two inputs, or several."""
    with contextlib.ExitStack() as stack:
        was = _open(stack, before, source, source.input_type, messages)
        now = _open(stack, after, source, source.other_input_type or source.input_type, messages)
        pairs = _pairs(was, now, processes, wanted)
        # rows and a bar would clash at a terminal
        progress = stack.enter_context(ProgressBar("comparing", messages, data=True))
        found = DifferenceRows(wanted, filters, printing, progress)
        if pairs is not None:
            status = compare_several(was, now, pairs, found, filters, messages)
        else:
            other = processes if wanted.other_pid is None else processes.replaced(pid=[wanted.other_pid])
            sides = [(was, choose_one(was, processes)), (now, choose_one(now, other))]
            one, two = (each.process(index=index, half=filters.half or each.default_half) for each, index in sides)
            status = _compare_one(one, two, found, messages)
    return status


def _compare_one(was: ProcessMemory, now: ProcessMemory, found: DifferenceRows, messages: Messages) -> int:
    compared = found.compared(was, now)
    columns = [column._replace(width=None) for column in found.columns]
    print_table(found.layout, found.title, columns, found.rows(compared))
    found.clear()
    sys.stdout.flush()
    was, now = compared.was, compared.now
    for side in (was, now):
        run_log.record_inputs(side.used_inputs)
        everything = messages.verbose or side.incomplete or side.is_image
        say(side.notes if everything else [*side.notes[:1], *side.warnings], quiet=messages.quiet)
    say(doubts(was, now), quiet=messages.quiet)
    tell(found.summary, quiet=messages.quiet)
    return INCOMPLETE if was.incomplete or now.incomplete else COMPLETE


def _open(
    stack: contextlib.ExitStack, path: str, source: DiffInput, input_type: str | None, messages: Messages
) -> Container:
    """Open one side; options for images do not apply to a folder."""
    how = {name: value for name, value in vars(source).items() if name != "other_input_type"}
    if os.path.isdir(path):
        how |= {"system": None, "limit": None}
    return stack.enter_context(open_input(path, {**how, "input_type": input_type}, messages))


def _pairs(was: Container, now: Container, processes: ListedProcesses, wanted: Differences) -> list[Pair] | None:
    """Return which processes are to be compared if several were chosen; None if it is one.

    Raises UsageError, and ProcessError if neither side holds one that was named.
    """
    several = processes.everything or len(processes.pid) > 1
    if several and wanted.other_pid is not None:
        raise UsageError("--other-pid is for one process", remedy="leave it out, or give one --pid")
    if not several and (processes.name is None or wanted.other_pid is not None):
        return None
    before, after = (_chosen(each, processes) for each in (was, now))
    problems = [problem for _, found in (before, after) for problem in found]
    if not several and max(len(before[0]), len(after[0])) < 2:  # noqa: PLR2004 - one on either side
        return None
    for pid in processes.pid:
        of_pid = [problem for number, problem in problems if number == pid]
        if len(of_pid) > 1:
            raise of_pid[1]
    if not before[0] and not after[0]:
        raise problems[0][1]
    return paired(was.processes(), now.processes(), before[0], after[0])


def _chosen(
    container: Container, processes: ListedProcesses
) -> tuple[list[int], list[tuple[int | None, ProcessError]]]:
    """Return the places of the chosen processes, and which of those that were named are not there."""
    found: dict[int, None] = {}
    problems: list[tuple[int | None, ProcessError]] = []
    each = [processes.replaced(pid=[pid]) for pid in processes.pid] or [processes]
    for one in each:
        try:
            found |= dict.fromkeys(choose(container, one))
        except ProcessError as error:
            problems.append((next(iter(one.pid), None), error))
    return [*found], problems
