"""The command that compares a process's memory with what it was before."""

from __future__ import annotations

import contextlib
import os
import sys
from collections import Counter
from typing import TYPE_CHECKING, Any

import click

from memcarve.cli.options import (
    COMPLETE,
    INCOMPLETE,
    at_terminal,
    choice,
    choose_one,
    filter_options,
    labeller,
    process_options,
    quiet_options,
    say,
    selection,
    size as to_size,
)
from memcarve.cli.progress import ProgressBar, counted
from memcarve.cli.tables import Column, format_option, print_table
from memcarve.vocabulary import InputType, System

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from memcarve.differences import Difference
    from memcarve.process import ProcessMemory
    from memcarve.segments import Segments


def _start(segments: Segments) -> int | None:
    return segments[0].start if len(segments) else None


def _end(segments: Segments) -> int | None:
    return segments[-1].end if len(segments) else None


def _split(found: Difference) -> str | None:
    """Say how many segments there were and are, where one side has several."""
    count, before = len(found.now), len(found.was)
    return f"{before} -> {count}" if max(count, before) > 1 else None


def _ranges(ranges: Iterable[tuple[int, int]]) -> list[dict[str, str]]:
    return [{"start": f"0x{start:016x}", "end": f"0x{end:016x}"} for start, end in ranges]


def _parts(segments: Segments) -> list[dict[str, str]]:
    return _ranges((part.start, part.end) for part in segments)


#: by a column's name: its kind, and what makes its cells; ``ranges`` can stand in JSON alone
_VALUES: dict[str, tuple[str, Callable[[Difference], Any]]] = {
    "state": ("text", lambda found: found.state),
    "start": ("address", lambda found: _start(found.now)),
    "end": ("end", lambda found: _end(found.now)),
    "size": ("number", lambda found: found.now.total),
    "segments": ("number", lambda found: len(found.now)),
    "was_start": ("address", lambda found: _start(found.was)),
    "was_end": ("end", lambda found: _end(found.was)),
    "was_size": ("number", lambda found: found.was.total),
    "was_segments": ("number", lambda found: len(found.was)),
    "split": ("text", _split),
    "added": ("number", lambda found: found.added),
    "removed": ("number", lambda found: found.removed),
    "unknown": ("number", lambda found: found.unknown),
    "changed_pages": ("number", lambda found: found.changed.pages),
    "first_changed": ("address", lambda found: found.first_changed),
    "now": ("ranges", lambda found: _parts(found.now)),
    "was": ("ranges", lambda found: _parts(found.was)),
    "changed": ("ranges", lambda found: _ranges(found.changed)),
}
_WIDE = {"size", "segments", "was_size", "was_segments"}  # what a terminal has no room for
_NESTED = {"now", "was", "changed"}
_PLAIN = [name for name in _VALUES if name not in {*_NESTED, "split"}]
_JSON = [name for name in _VALUES if name != "split"]
_TABLE = [name for name in _VALUES if name not in _NESTED | _WIDE]
_LAYOUTS = {"table": _TABLE, "json": _JSON, "jsonl": _JSON, "csv": _PLAIN, "parquet": _PLAIN}
_PAGE_COLUMNS = (
    Column("start", "address"),
    Column("end", "end"),
    Column("size", "number"),
    Column("segment", "address"),
)


@click.command()
@click.argument("before", type=click.Path())
@click.argument("after", type=click.Path())
@process_options
@click.option("--other-pid", type=click.IntRange(0), help="The process of AFTER, where it has another id.")
@filter_options
@click.option("--unchanged", is_flag=True, help="List what did not change, too.")
@click.option("--changed-pages", is_flag=True, help="List the pages that changed instead, a row for each stretch.")
@format_option
@click.option(
    "--os",
    "system",
    type=choice(System),
    help="Of images: what page-table entries mean that are not present.  [default: recognised]",
)
@click.option("--limit", type=to_size, metavar="SIZE", help="Of images: how much virtual memory page tables may claim.")
@click.option("--input-type", type=choice(InputType), help="What BEFORE and AFTER are, if not recognised.")
@click.option("--other-input-type", type=choice(InputType), help="What AFTER is, if that is another.")
@quiet_options
def diff(
    before: str,
    after: str,
    pid: Sequence[int],
    name: str | None,
    other_pid: int | None,
    wanted: dict[str, Any],
    layout: str,
    system: str | None,
    limit: int | None,
    input_type: str | None,
    other_input_type: str | None,
    *,
    unchanged: bool,
    changed_pages: bool,
    quiet: bool,
    verbose: bool,
) -> int:
    """Tell what became of a process's memory from BEFORE to AFTER.

    Each is a dump, a folder that memcarve carved, or an image. A row is a segment, or several of both sides that share
    addresses: one that was split, or some that were merged. Its state: appeared (nothing was at these addresses),
    vanished (nothing is there now: freed, or paged out), grown and shrunk (bytes were added, removed), changed (bytes
    at the same addresses differ), unknown (one side knows of bytes that it lacks); several of the last four may hold.

    What is called was_ is of BEFORE. JSON also lists the segments of both sides (now, was) and the pages that changed.
    Exit status: 0 whether anything differs or not, 3 where either side is known to lack bytes.
    """
    from memcarve.comparing import compare  # noqa: PLC0415 - numpy is not needed for --help

    with contextlib.ExitStack() as stack:
        half = wanted["half"]
        opening = {"system": system, "limit": limit}
        was = _open(stack, before, pid, name, half, {**opening, "input_type": input_type})
        other = {**opening, "input_type": other_input_type or input_type}
        now = _open(stack, after, pid if other_pid is None else [other_pid], name, half, other)
        # rows and a bar would get into each other's way at a terminal
        progress = stack.enter_context(ProgressBar("comparing", quiet=quiet or at_terminal()))
        compared = compare(
            was, now, selection(wanted), labeller=labeller(wanted), unchanged=unchanged, progress=progress
        )
        listed: Counter[str] = Counter()
        pages = 0

        def differences() -> Iterator[Difference]:
            nonlocal pages
            for difference in compared:
                listed[difference.state] += 1
                pages += difference.changed.pages
                yield difference

        if changed_pages:
            print_table(layout, "pages", _PAGE_COLUMNS, _page_rows(differences()))
        else:
            names = _LAYOUTS[layout]
            columns = [Column(name, _VALUES[name][0]) for name in names]
            values = [_VALUES[name][1] for name in names]
            print_table(layout, "differences", columns, ([of(found) for of in values] for found in differences()))
    sys.stdout.flush()
    for process in (was, now):
        everything = verbose or process.incomplete or process.pages is not None
        say(process.notes if everything else [*process.notes[:1], *process.remarks], quiet=quiet)
    say(list(_doubts(was, now)), quiet=quiet)
    listed["unchanged"] += len(compared) - listed.total()
    if not quiet:
        told = [f"{count} {state}" for state, count in listed.items()]
        click.echo(
            f"{'; '.join(told)}; {counted(pages, 'page')} changed of {counted(compared.bytes, 'byte')}", err=True
        )
    return INCOMPLETE if was.incomplete or now.incomplete else COMPLETE


def _open(
    stack: contextlib.ExitStack,
    path: str,
    pid: Sequence[int],
    name: str | None,
    half: str | None,
    opening: dict[str, Any],
) -> ProcessMemory:
    """Open one side; what is said of images means nothing to a folder."""
    from memcarve.sources import open_container  # noqa: PLC0415

    if os.path.isdir(path):
        opening = {"input_type": opening["input_type"]}
    container = stack.enter_context(open_container(path, **opening))
    return container.open_process(choose_one(container, pid, name), half or container.default_range)


def _page_rows(differences: Iterable[Difference]) -> Iterator[list[int]]:
    for found in differences:
        for start, end in found.changed:
            yield [start, end, end - start, found.now[0].start]


def _doubts(was: ProcessMemory, now: ProcessMemory) -> Iterator[str]:
    """Yield why the two may not be the same process."""
    one, other = was.entry, now.entry
    if None not in (one.created, other.created) and one.created != other.created:
        yield f"{one} and {other} were created at different times: they are two processes"
    elif any(None not in pair and pair[0] != pair[1] for pair in ((was.pid, now.pid), (was.name, now.name))):
        yield f"{one} is compared with {other}"
    if None not in (was.architecture, now.architecture) and was.architecture != now.architecture:
        yield f"{was.architecture} is compared with {now.architecture}"
