"""What errors say to people at the command line: options, where the library speaks of arguments."""

from __future__ import annotations

import click

from memcarve.errors import MemcarveError, printable

#: arguments whose options are called differently; the others have the argument's name
_OPTIONS = {
    "half": "--range",
    "image": "--scan",
    "memory_map": "--map",
    "out": "-o",
    "scan": "memcarve processes --scan",
    "system": "--os",
}


def option(name: str, value: str = "") -> str:
    """Return how an argument is said with an option; see errors.py."""
    named = _OPTIONS.get(name) or f"--{name.replace('_', '-')}"
    return f"{named} {value}" if value else named


def complain(problem: MemcarveError | str, about: object = None) -> None:
    """Print an error on standard error; with what it is about, if the error does not say so."""
    text = problem.worded(option) if isinstance(problem, MemcarveError) else problem
    click.echo(printable(f"memcarve: {text}" if about is None else f"memcarve: {about}: {text}"), err=True)
