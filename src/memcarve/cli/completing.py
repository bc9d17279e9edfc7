"""Completion in the user's shell."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from memcarve.errors import UsageError


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print a script that completes commands and options.

    For bash, put this into ~/.bashrc: eval "$(memcarve completion bash)"
    """
    found = get_completion_class(shell)
    if found is None:
        raise UsageError(f"{shell}: is no shell that can be completed")
    click.echo(found(context.find_root().command, {}, "memcarve", "_MEMCARVE_COMPLETE").source())
