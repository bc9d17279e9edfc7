"""What the parser of options finds wrong, in the words of the other messages: what was found, what to do."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Iterable


class NoSuchCommandError(click.UsageError):
    """The first word is not a command."""

    def __init__(self, name: str, commands: Iterable[str], context: click.Context, kind: str = "") -> None:
        like = _like(name, commands)
        if like is None and os.path.exists(name):
            like = f"carve {name}"
        super().__init__(f"{name!r} is not a command{kind and f' {kind}'}{_meant(like)}", context)


class ExtraArgumentsError(click.UsageError):
    """There are more arguments than a command takes."""

    def __init__(self, extra: Iterable[str], context: click.Context) -> None:
        takes = " ".join(_metavar(each) for each in context.command.params if isinstance(each, click.Argument))
        given = " ".join(map(repr, extra))
        expected = f"takes {takes}; a name that holds spaces needs quotes" if takes else "takes no arguments"
        super().__init__(f"unexpected {given}; {context.command_path} {expected}", context)


def worded(error: click.ClickException) -> str:
    """Return what is wrong, and where help is."""
    context = getattr(error, "ctx", None)
    text = _problem(error, context)
    return f"{text}{'' if text.endswith('?') else ';'} see {context.command_path if context else 'memcarve'} --help"


def _problem(error: click.ClickException, context: click.Context | None) -> str:  # noqa: PLR0911 - one for each kind
    options = _options(context)
    if isinstance(error, click.NoSuchOption):
        if context is not None and isinstance(context.command, click.Group):
            own = f"{error.option_name} is not an option of {context.command_path} itself"
            return f"{own}; those of a command stand after its name"
        return f"{error.option_name} is not an option{_meant(_like(error.option_name, options))}"
    if isinstance(error, click.BadOptionUsage):
        option = options.get(error.option_name)
        if option is None or option.is_flag:
            return f"{error.option_name} takes no value; leave out what follows the ="
        return f"{error.option_name} has no value; it takes {_taken(option)}"
    if isinstance(error, click.MissingParameter) and error.param is not None:
        return f"{_called(error.param)} is missing{_wanted(error.param)}"
    if isinstance(error, click.BadParameter) and error.param is not None:
        return f"{_called(error.param)}: {error.message}"
    text = " ".join(error.format_message().split()).rstrip(".")
    return text[:1].lower() + text[1:]


def _options(context: click.Context | None) -> dict[str, click.Option]:
    """Return the options of the command by each of their names."""
    if context is None:
        return {}
    found = [each for each in context.command.get_params(context) if isinstance(each, click.Option)]
    return {name: each for each in found for name in [*each.opts, *each.secondary_opts]}


def _metavar(argument: click.Argument) -> str:
    return argument.metavar or str(argument.name).upper()


def _called(parameter: click.Parameter) -> str:
    """Return what a parameter is called: an argument as help shows it, an option by its longest name."""
    return _metavar(parameter) if isinstance(parameter, click.Argument) else parameter.opts[-1]


def _taken(option: click.Option) -> str:
    """Return what an option takes: one of a few words, or what help calls it."""
    if isinstance(option.type, click.Choice):
        return f"one of {', '.join(map(str, option.type.choices))}"
    return option.metavar or "a value"


def _wanted(parameter: click.Parameter) -> str:
    return f"; it takes {_taken(parameter)}" if isinstance(parameter, click.Option) else ""


def _like(word: str, names: Iterable[str]) -> str | None:
    import difflib  # only for those who mistype

    found = difflib.get_close_matches(word, [*names], n=1)
    return found[0] if found else None


def _meant(like: str | None) -> str:
    return "" if like is None else f"; did you mean {like}?"
