"""The command that runs others on many inputs: each of them once more, with inputs for its input, and a few options.

An option means in a batch what it means without, and those of a batch have names that no command has; `-o` alone is of
both, and is the folder above all. So the line for a batch is the line for one input with ``batch`` in it.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import os
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from memcarve.cli import option_groups as groups, run_log
from memcarve.cli.commands import BEGIN, COMMANDS, Command
from memcarve.cli.exit_status import USAGE
from memcarve.cli.option_values import InputPath, OutputPath
from memcarve.cli.stopping import raise_exceptions
from memcarve.cli.usage_errors import NoSuchCommandError
from memcarve.remote.locations import word_without_secrets
from memcarve.times import now

if TYPE_CHECKING:
    from collections.abc import Callable

#: the commands that take one input, do not ask about one address of it, and end
NAMES = (
    "carve",
    "export",
    "extract",
    "processes",
    "hunt",
    "report",
    "scan",
    "find",
    "strings",
    "segments",
    "regions",
    "verify",
)
#: options of a command that a batch gives itself
_OWN = ("--output", "--force", "--resume")
#: what a command takes besides its input, and the option that a batch has for it
_PATTERNS = "patterns"
_PATTERN = click.Option(
    ["--pattern"], metavar="PATTERN", multiple=True, required=True, help="What to find; may be repeated."
)


class Given(NamedTuple):
    """What was given for a command: its name, its options as they were typed, and what of it concerns a batch.

    `in_folder` are options whose value is the name of something that the command writes into the folder of an input;
    `patterns` are arguments behind the input; `files` are those that options name.
    """

    command: str
    options: list[str]
    in_folder: list[tuple[str, str]]
    patterns: list[str]
    files: list[str]
    #: all of what is known of it, parsed
    parsed: dict[str, Any]

    def words(self, folder: str) -> list[str]:
        """Return the words behind the input, for the folder of the input."""
        named = [word for option, name in self.in_folder for word in (option, os.path.join(folder, name))]
        return [*self.options, *named, *(["--", *self.patterns] if self.patterns else [])]


class BatchCommand(Command):
    """A command for many inputs."""

    def __init__(self, command: Command) -> None:
        text = f"Run {command.name} on each INPUT, in a process of its own.\n\n{inspect.cleandoc(str(command.help))}"
        super().__init__(
            str(command.name),
            "running_batch",
            str(command.short_help),
            text,
            [click.Argument(["inputs"], metavar="INPUT...", type=InputPath(), nargs=-1)],
            batch=groups.Batch,
            **command.groups,
        )
        self.command = command

    @functools.cached_property
    def headings(self) -> dict[str, list[click.Parameter]]:
        """Its options by their headings in help: those of the command, less what a batch gives it, and its own."""
        found = super().headings
        for options in found.values():
            options[:] = [each for each in options if not self._is_replaced(each)]
        if any(each.name == _PATTERNS for each in self.command.params):
            found[groups.TAKE].insert(0, _PATTERN)
        return found

    @staticmethod
    def _is_replaced(option: click.Parameter) -> bool:
        return not str(option.name).startswith("batch_") and any(word in option.opts for word in _OWN)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Take the arguments and options, and see whether the command takes its own; raises click.UsageError."""
        raw = list(args)
        try:
            extra = super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            if error.option_name != "--force":
                raise
            raise click.UsageError(
                "a batch replaces nothing: --resume goes on with it, -o names another", ctx
            ) from None
        if not ctx.resilient_parsing:
            typed, _, order = self.make_parser(ctx).parse_args(raw)
            ctx.meta[_GIVEN] = self._given(ctx, typed, [*dict.fromkeys(order)])
        return extra

    def _given(self, ctx: click.Context, typed: dict[str, Any], order: list[click.Parameter]) -> Given:
        """Return what was given for the command, of options as they were `typed`, in their `order`."""
        options, in_folder, files = list[str](), list[tuple[str, str]](), list[str]()
        for each in order:
            name = str(each.name)
            if not isinstance(each, click.Option) or "--quiet" in each.opts or name not in typed:
                continue
            if each is _PATTERN or name.startswith("batch_"):
                continue
            word, value = each.opts[-1], typed[name]
            values = value if isinstance(value, list) else [value]
            if isinstance(each.type, OutputPath) and word != "--log":
                in_folder += [(word, _bare(value, each, ctx)) for value in values]
            elif each.is_flag:
                options.append(word)
            else:
                values = [_without_secrets(str(value), each.type) for value in values]
                options += [text for value in values for text in (word, value)]
            if isinstance(each.type, InputPath):
                files += [each.type.path(value) for value in values]
        patterns = list(ctx.params.get(str(_PATTERN.name)) or ())
        given = Given(str(self.name), options, in_folder, patterns, files, {})
        words = ["INPUT", *given.words("")]
        with self.command.make_context(str(self.name), words, parent=ctx.parent) as parsed:
            return given._replace(parsed=parsed.params)

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401 - click's
        """Run the command on each input."""
        ctx.meta[BEGIN] = now()
        batch = groups.Batch(**_of_group(ctx, "batch", groups.Batch))
        messages = groups.Messages(**_of_group(ctx, "messages", groups.Messages))
        function = self.function  # imports
        raise_exceptions()
        run_log.begin(
            messages.log, ["memcarve", *map(word_without_secrets, sys.argv[1:])], ctx.params["inputs"], batch.output
        )
        return function(ctx.meta[_GIVEN], ctx.params["inputs"], batch, messages)

    @property
    def function(self) -> Callable[..., int]:
        """What is run."""
        found: Callable[..., int] = importlib.import_module("memcarve.cli.running_batch").batch
        return found


class _BatchGroup(click.Group):
    """The commands that can be run on many inputs."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's
        return list(self.commands)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if not (args[0] in self.commands or args[0].startswith("-") or ctx.resilient_parsing):
            raise NoSuchCommandError(args[0], self.commands, ctx, "that batch can run")
        return super().resolve_command(ctx, args)


_GIVEN = "memcarve.given"


def _without_secrets(value: str, kind: click.ParamType[Any]) -> str:
    """Return a value as other programs may be given it, who find its secrets elsewhere."""
    return kind.without_secrets(value) if isinstance(kind, InputPath) else word_without_secrets(value)


def _of_group(ctx: click.Context, name: str, group: type[groups.Group]) -> dict[str, Any]:
    """Return what was given of a group of options."""
    return {member: ctx.params[f"{name}_{member}"] for member in group.options}


def _bare(value: str, option: click.Option, ctx: click.Context) -> str:
    """Return a name without a folder; raises click.BadParameter."""
    if os.path.basename(value) != value or value in (".", ".."):
        raise click.BadParameter(f"{value!r} must be a bare name: it lies in the folder of each input", ctx, option)
    return value


@click.pass_context
def _alone(context: click.Context) -> int | None:
    """Print the help if no command is named."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())
        return USAGE
    return None


_BY_NAME = {str(each.name): each for commands in COMMANDS.values() for each in commands}
#: the command
BATCH = _BatchGroup(
    "batch",
    invoke_without_command=True,
    callback=_alone,
    commands=[BatchCommand(_BY_NAME[name]) for name in NAMES],
    short_help="Run a command on many inputs.",
    help="""Run a command on many inputs, some at once, each in a process of its own.

    Put batch before the command, name more inputs, and a new folder with -o. It gets a folder for each input, with what
    the command writes and prints; and batch.json, which says what became of each. --resume goes on after whatever
    stopped it.

    Try: memcarve batch carve case/*.raw --all -o out
    """,
)
