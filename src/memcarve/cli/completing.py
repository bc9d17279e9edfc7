"""Completion in the user's shell."""

from __future__ import annotations

import click

from memcarve.cli.exit_status import COMPLETE
from memcarve.errors import UsageError


def completion(shell: str) -> int:
    """Print the script for a shell."""
    from click.shell_completion import get_completion_class

    found = get_completion_class(shell)
    if found is None:
        raise UsageError(f"{shell} cannot be completed")
    root = click.get_current_context().find_root().command
    click.echo(found(root, {}, "memcarve", "_MEMCARVE_COMPLETE").source())
    return COMPLETE
