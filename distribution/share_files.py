"""What a wheel has for the system beside the package: a man page for each command, completion for bash, zsh and fish.

All is made of the commands themselves when a wheel is built (`build_hook.py`), so that nothing is written twice and
nothing can be out of date. It needs click alone.

    python distribution/share_files.py FOLDER    # writes them below FOLDER, as they lie below /usr/share
"""

from __future__ import annotations

import inspect
import re
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.shell_completion import get_completion_class

from memcarve.cli import option_groups as groups
from memcarve.cli.batch_commands import BATCH
from memcarve.cli.commands import Command
from memcarve.cli.program import cli
from memcarve.version import __version__

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[1]
NAME = "memcarve"
#: where each shell looks for the completion of a command
COMPLETIONS = {
    "bash": f"bash-completion/completions/{NAME}",
    "zsh": f"zsh/site-functions/_{NAME}",
    "fish": f"fish/vendor_completions.d/{NAME}.fish",
}
BREAK = "\\:"  # where a line may end, in roff
_USAGE = re.compile(r"^Usage: |\s*\n\s*")


def share_files() -> dict[str, str]:
    """Return the text of each file by its path below ``share``."""
    pages = {f"man/man1/{name}.1": text for name, text in manual_pages().items()}
    return {**pages, **{path: _completion(shell) for shell, path in COMPLETIONS.items()}}


def _completion(shell: str) -> str:
    """Return what ``memcarve completion`` prints, without running the shell to ask for its version."""
    found = get_completion_class(shell)
    if found is None:
        raise ValueError(f"{shell}: click cannot complete in it")
    made = found(cli, {}, NAME, f"_{NAME.upper()}_COMPLETE")
    text = (made.source_template % made.source_vars()).strip()
    if shell == "zsh":
        # zsh loads the file once and calls it each time: the second time click's would register, and complete nothing
        text = re.sub(r"\nif \[\[ \$zsh_eval_context.*\Z", f'\n_{NAME}_completion "$@"', text, flags=re.DOTALL)
    return f"{text}\n"


def manual_pages() -> dict[str, str]:
    """Return a page in man(7) for the program, and one for each command, by name."""
    program = click.Context(cli, info_name=NAME, **cli.context_settings)
    pages = {NAME: _page(NAME, program, [])}
    for name, command in cli.commands.items():
        if not command.hidden:
            pages[f"{NAME}-{name}"] = _page(f"{NAME}-{name}", click.Context(command, program, name), [NAME])
    return pages


def _page(name: str, context: click.Context, others: list[str]) -> str:
    command = context.command
    summary, text = _told(command)
    lines = [
        f'.TH {name.upper()} 1 "{_date()}" "{NAME} {__version__}" "{NAME}"',
        ".nh",  # no option or command is hyphenated
        ".ad l",
        ".SH NAME",
        f"{_plain(name)} \\- {_plain(summary.rstrip('.'))}",
        ".SH SYNOPSIS",
        *_synopsis(context),
        ".SH DESCRIPTION",
        *_paragraphs(text),
    ]
    lines += [line for heading, rows in _sections(context) for line in (f".SH {heading}", *rows)]
    if command.epilog:
        title, _, rest = command.epilog.partition(": ")
        lines += [f".SH {title.upper()}", *_paragraphs(rest)]
    if isinstance(command, click.Group) and not others:
        others = [f"{NAME}-{each}" for each in command.commands if not command.commands[each].hidden]
    lines += [
        ".SH SEE ALSO",
        "\n".join(f".BR {_plain(each)} (1){',' if each != others[-1] else ''}" for each in others),
    ]
    return "\n".join(lines) + "\n"


def _date() -> str:
    """Return the date of the newest version in the changelog; pages are the same whenever they are made."""
    changelog = ROOT / "CHANGELOG.md"
    found = re.search(r"(?m)^## \S+ - (\d{4}-\d\d-\d\d)", changelog.read_text("utf-8")) if changelog.is_file() else None
    return found[1] if found else ""


def _told(command: click.Command) -> tuple[str, str]:
    """Return what a command does, in a line and at length."""
    text = inspect.cleandoc(command.help or "")
    return command.get_short_help_str(200) if command.short_help else text.partition("\n")[0], text


def _synopsis(context: click.Context) -> list[str]:
    words = _USAGE.sub(" ", context.command.get_usage(context)).split()
    called = context.command_path
    rest = " ".join(words)[len(called) :].split()
    return [f".B {_plain(called)}", " ".join(f"\\fI{_plain(word)}\\fR" for word in rest) or "\\&"]


def _sections(context: click.Context) -> Iterator[tuple[str, list[str]]]:
    """Yield headings with what is said of each command or option below them."""
    command = context.command
    if isinstance(command, click.Group):
        told = [(f"{context.command_path} {name}", _told(each)[0]) for name, each in command.commands.items()]
        yield "COMMANDS", [line for words, text in told for line in (".TP", f".B {_plain(words)}", *_lines(text))]
    grouped = _grouped(command, context)
    helping = command.get_help_option(context)
    several = len(grouped) > 1
    rows: list[str] = []
    for heading, options in grouped:
        shown = [*options, *([helping] if helping and heading == "Other" and helping not in options else [])]
        found = [row for each in shown if (row := each.get_help_record(context))]
        if found:
            rows += [f".SS {heading}"] if several else []
            rows += [line for words, text in found for line in (".TP", _option(words), *_lines(text))]
    yield "OPTIONS", rows


def _grouped(command: click.Command, context: click.Context) -> list[tuple[str, list[click.Parameter]]]:
    """Return a command's options by their headings; those that all commands of a batch have are the batch's."""
    if isinstance(command, Command):
        return [*command.headings.items()]
    own = [("Other", command.get_params(context))]
    if command is BATCH:
        shared = next(iter(BATCH.commands.values()))
        assert isinstance(shared, Command)  # noqa: S101 - they are made so
        return [(groups.BATCH, shared.headings[groups.BATCH]), *own]
    return own


def _option(words: str) -> str:
    """Return an option's names in bold, and what it takes in italics."""
    found = re.fullmatch(r"((?:-[\w-]+(?:, | / )?)+)(.*)", words, re.DOTALL)
    names, values = (found[1], found[2]) if found else (words, "")
    shown = re.sub(r"-[\w-]+", lambda name: f"\\fB{_plain(name[0])}\\fR", names)
    # a line may end after any of the words that an option takes
    return f"{shown}\\fI{_plain(values).replace('|', '|' + BREAK)}\\fR" if values else shown


def _paragraphs(text: str) -> list[str]:
    found = [" ".join(each.split()) for each in inspect.cleandoc(text).split("\n\n")]
    return [line for number, each in enumerate(found) for line in ([".PP"] if number else []) + _lines(each)]


def _lines(text: str) -> list[str]:
    """Return text as lines; one that begins as a request would is data."""
    lines = textwrap.wrap(_plain(text), 79, break_long_words=False, break_on_hyphens=False)
    return [f"\\&{line}" if line.startswith((".", "'")) else line for line in lines]


def _plain(text: str) -> str:
    """Return text in which nothing is an escape, and hyphens and quotes are those that one can type and copy."""
    text = (
        text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq").replace("`", "\\(ga").replace("^", "\\(ha")
    )
    return text.replace("~", "\\(ti")


def main() -> int:
    """Write the files."""
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        print(__doc__, file=sys.stderr)
        return 2
    for path, text in share_files().items():
        file = Path(sys.argv[1]) / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8", newline="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
