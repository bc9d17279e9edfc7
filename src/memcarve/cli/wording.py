"""What is printed for people: errors, notes, numbers with their nouns."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING

import click

from memcarve.cli import run_log
from memcarve.errors import MemcarveError, OutputError, printable
from memcarve.note import Note

if TYPE_CHECKING:
    from collections.abc import Iterable

#: arguments whose options have another name
_OPTIONS = {
    "half": "--range",
    "hashes": "--hash",
    "memory_map": "--map",
    "page_files": "--pagefile",
    "out": "-o",
    "pictures": "--picture",
    "platform": "--os-version",
    "renderer": "--format",
    "scan": "memcarve processes --scan",
    "system": "--os",
}


def option(name: str, value: str = "") -> str:
    """Return the option for an argument of the library; see errors.py."""
    named = _OPTIONS.get(name) or f"--{name.replace('_', '-')}"
    return f"{named} {value}" if value else named


def complain(problem: MemcarveError | str, about: object = None) -> None:
    """Print an error on standard error; `about` is its subject, if the error does not say so."""
    text = problem.worded(option) if isinstance(problem, MemcarveError) else problem
    shown = printable(text if about is None else f"{about}: {text}")
    with contextlib.suppress(OutputError):  # the end of the run says that its log has failed
        run_log.record("error", "error", text=shown)
    click.echo(f"memcarve: {shown}", err=True)


def say(notes: Iterable[str], *, quiet: bool) -> None:
    """Print notes for the user on standard error, and log them."""
    for note in notes:
        shown = printable(note + note.more if isinstance(note, Note) else note)
        run_log.record("note", "note", text=shown)
        if not quiet:
            click.echo(f"note: {shown}", err=True)


def tell(text: str, *, quiet: bool) -> None:
    """Print a line of the result on standard error, and log it."""
    shown = printable(text)
    run_log.record("info", "result", text=shown)
    if not quiet:
        click.echo(shown, err=True)


def counted(count: int, noun: str) -> str:
    """Return a number with its noun: 1 segment, 2 segments, 3 processes."""
    ending = "" if count == 1 else "es" if noun.endswith("s") else "s"
    return f"{count} {noun}{ending}"


def amount(count: float) -> str:
    """Return a number of bytes for people: 1.6 MiB."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if count < 1024:  # noqa: PLR2004 - a binary unit
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def at_terminal() -> bool:
    """Return True if standard output is a terminal."""
    return sys.stdout.isatty()
