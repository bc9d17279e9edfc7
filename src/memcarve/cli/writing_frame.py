"""What commands that write share: names after the input, and the report of what was written."""

from __future__ import annotations

import os
import sys
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from memcarve.cli import run_log
from memcarve.cli.commands import BEGIN
from memcarve.cli.exit_status import COMPLETE, INCOMPLETE
from memcarve.cli.wording import amount, complain, counted, say, tell
from memcarve.errors import printable
from memcarve.formats.compression import plain_name
from memcarve.remote.locations import is_location, name_of, word_without_secrets
from memcarve.sinks.input_identity import identity
from memcarve.sinks.several import folder_name

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from memcarve.cli.option_groups import Group, Input, Messages, Record, SeveralProcesses
    from memcarve.process import Container, ProcessMemory, Selection
    from memcarve.sinks.sink import Result

#: which file says more about missing bytes
_MORE = {"segment": "; segments.json lists them", "module": ", or modules were refused; modules.json says which"}


def are_several(container: Container, wanted: SeveralProcesses, indexes: Sequence[int]) -> bool:
    """Return True if several outputs are to be written: one that was taken of all is one of several."""
    return len(indexes) > 1 or (wanted.everything and len(container.processes()) > 1)


def stem_of(path: str) -> str:
    """Return an input's name without folder and endings: what is written is named after it.

    A number is not an ending: ``core.1234`` is a process's.
    """
    base = plain_name(name_of(path) if is_location(path) else os.path.basename(os.path.normpath(path)))
    stem, ending = os.path.splitext(base)
    return base if ending[1:].isdigit() else stem or base


def process_words(process: ProcessMemory, index: int) -> list[str]:
    """Return what is added to an image's name in what is written: ``4-System``, or the page tables' root."""
    if not process.is_image:
        return []
    if process.pid is None:
        return [str(process.inputs["image"]["root"])]
    return [folder_name(process.entry, index, Counter())]


def recorded(record: Record) -> dict[str, Any]:
    """Return what the library records of a command: its line, when it began, and what options say of the case."""
    return {
        **vars(record),
        "command": ["memcarve", *map(word_without_secrets, sys.argv[1:])],
        "begin": click.get_current_context().meta[BEGIN],
    }


def past_unreadable(process: ProcessMemory, write: Callable[[ProcessMemory], Result], wanted: Selection) -> Result:
    """Write a process, without what of it cannot be read; the result's notes say so."""

    def noted(there: ProcessMemory) -> Result:
        result = write(there)
        return replace(result, notes=[*there.notes[len(process.notes) :], *result.notes])

    return process.past_unreadable(noted, wanted)


def chosen(source: Input, *groups: Group, **more: object) -> dict[str, Any]:
    """Return what was given that changes what is written, for `write_several` to compare when it is gone on with.

    Of files that were named, what is in them counts.
    """
    no_matter = ("temp", "limit", "cache")
    opening = {name: value for name, value in vars(source).items() if not name.startswith(no_matter)}
    for name in ("memory_map", "dump", "regions", "modules", "threads"):
        paths = [opening[name]] if isinstance(opening[name], str) else opening[name] or ()
        opening[name] = [identity(path) for path in paths]
    return {**more, **{name: value for group in groups for name, value in vars(group).items()}, "source": opening}


def report(result: Result, messages: Messages) -> int:
    """Print what was written, of one process or of several, on standard error; return the exit status."""
    if result.parts:
        say(result.notes, quiet=messages.quiet)
    for part in result.parts:
        if part.error is not None:
            complain(part.error, part.entry)
        else:
            tell(f"{part.entry}:", quiet=messages.quiet)
            _report(part, messages)
            _tell_seal(part, quiet=not messages.verbose)
    _report(result, messages)
    _tell_seal(result, quiet=messages.quiet)
    return COMPLETE if result.complete else INCOMPLETE


def _report(result: Result, messages: Messages) -> None:
    quiet = messages.quiet
    if result.what != "process":
        say(result.notes, quiet=quiet)
        for left in result.left_out if messages.verbose else [left for left in result.left_out if left.bytes]:
            where = f" in {counted(left.segments, 'segment')}" if left.segments else ""
            tell(f"left out: {counted(left.bytes, 'byte')}{where}: {left.reason}", quiet=quiet)
        if not result.complete:
            tell(f"incomplete: bytes are known to be missing{_MORE.get(result.what, '')}", quiet=quiet)
        for way, count in result.moved.items() if messages.verbose else ():
            tell(f"moved: {counted(count, 'byte')} by {way}", quiet=quiet)
        if not result.count and result.what in ("range", "row"):
            say(["nothing is selected, or nothing is there: no memory is in what was written"], quiet=quiet)
    tell(f"{_summary(result)}: {', '.join(result.files)}", quiet=quiet)


def _tell_seal(result: Result, *, quiet: bool) -> None:
    """Print the hash that belongs in the notes of the case: whoever changes what was written cannot keep it."""
    if result.seal is not None:
        run_log.record("info", "seal", files=list(result.files), of=result.sealed, sha256=result.seal)
        if not quiet:
            click.echo(printable(f"seal (SHA-256 of {result.sealed}): {result.seal}"), err=True)


def _summary(result: Result) -> str:
    if result.what == "process":
        return f"{result.count} of {counted(result.of, result.what)}"
    if result.what == "module":
        missing = f", {amount(result.missing_bytes)} of them not in memory" if result.missing_bytes else ""
        files = f"{counted(result.count, 'file')} of {counted(result.of, 'module')}"
        return f"{files}, {amount(result.bytes)}{missing}, in {result.seconds:.2f} s"
    if not result.moved:
        return counted(result.count, result.what) + (", nothing to write" if result.what == "segment" else "")
    rate = result.bytes / max(result.seconds, 1e-9)
    how = " and ".join(sorted(result.moved, key=lambda way: -result.moved[way]))
    return (
        f"{counted(result.count, result.what)}, {amount(result.bytes)} in {result.seconds:.2f} s ({amount(rate)}/s), "
        f"by {how}"
    )
