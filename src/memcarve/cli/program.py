"""The program: its commands, and how it ends."""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING, Any

import click

from memcarve.cli import run_log, stopping
from memcarve.cli.batch_commands import BATCH
from memcarve.cli.commands import COMMANDS
from memcarve.cli.exit_status import COMPLETE, FAILED, INCOMPLETE, USAGE
from memcarve.cli.standard_streams import give_up_output
from memcarve.cli.usage_errors import NoSuchCommandError, worded
from memcarve.cli.wording import complain
from memcarve.errors import MemcarveError, UsageError
from memcarve.version import __version__

if TYPE_CHECKING:
    from collections.abc import Sequence

_EPILOG = (
    "Exit status: 0 complete; 1 could not be done; 2 wrong usage; 3 done, but bytes are known to be missing or one of "
    "several processes failed; 129, 130, 143 stopped by a signal; 141 nobody read the output."
)
_NAME = "memcarve"
_COMPLETING = "_MEMCARVE_COMPLETE"  # set by the scripts that complete commands
_HELP = "Help"
_SHOWN: dict[str, list[click.Command]] = {title: [*each] for title, each in COMMANDS.items() if title != _HELP}
_SHOWN |= {"Repeat": [BATCH], _HELP: [*COMMANDS[_HELP]]}
_SIGPIPE = getattr(signal, "SIGPIPE", 13)  # Windows has none


class _Program(click.Group):
    """Commands under headings by what they are for."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's
        return list(self.commands)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click's
        for title, commands in _SHOWN.items():
            with formatter.section(title):
                formatter.write_dl([(str(command.name), command.get_short_help_str(200)) for command in commands])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if not (args[0] in self.commands or args[0].startswith("-") or ctx.resilient_parsing):
            raise NoSuchCommandError(args[0], self.commands, ctx)
        return super().resolve_command(ctx, args)


@click.group(
    cls=_Program,
    commands=[command for commands in _SHOWN.values() for command in commands],
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
    epilog=_EPILOG,
)
@click.version_option(__version__, prog_name=_NAME, message="%(prog)s %(version)s")
@click.pass_context
def cli(context: click.Context) -> int | None:
    """Carve a process's memory into its contiguous segments.

    FILE is an image of a machine's memory: raw, LiME, AVML, ELF core, kdump, QEMU migration stream, virsh save, Xen
    core, Windows crash dump, hiberfil.sys or VMware. Or it holds one process: a dump or its memory map, as Volatility's
    windows.memmap --dump writes them (so do Volatility 2 and Rekall; the other of the two is looked for beside it), a
    Windows minidump, an ELF core, a folder of segments (carved by memcarve, or named by their addresses), or /proc/PID.
    FILE may lie in an object store or on a web server: s3://BUCKET/KEY, gs://, az://, https://.

    Try: memcarve carve pid.4321.dmp, or memcarve processes mem.raw
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help())
        return USAGE
    return None


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line, and write all that is waiting for standard output; return the exit status."""
    if "memcarve.remote.remote_file" in sys.modules:  # this run tells what it read itself
        sys.modules["memcarve.remote.remote_file"].forget()
    status = _status(sys.argv[1:] if arguments is None else arguments)
    try:
        sys.stdout.flush()
    except OSError as error:
        give_up_output()
        status = status if status not in (COMPLETE, INCOMPLETE) else _failed(error)
    problem = run_log.end(status)
    if problem is not None:
        complain(problem)
        return status if status not in (COMPLETE, INCOMPLETE) else FAILED
    return status


def _status(arguments: Sequence[str]) -> int:  # noqa: PLR0911 - one way out for each way to end
    try:
        result = _invoke(arguments)
    except click.ClickException as error:
        complain(worded(error))
        return error.exit_code
    except click.exceptions.Exit as error:
        return error.exit_code
    except MemcarveError as error:
        complain(error)
        return USAGE if isinstance(error, UsageError) else FAILED
    except stopping.StoppedBySignal as error:
        complain(stopping.line(error.number, *getattr(error, "__notes__", [])))
        return 128 + error.number
    except MemoryError:
        complain("not enough memory")
        return FAILED
    except OSError as error:
        return _failed(error)
    except Exception as error:
        if os.environ.get("MEMCARVE_TRACEBACK"):
            raise
        kind = type(error).__name__
        complain(f"{kind}: {error}; this is a bug in memcarve: please report it, with what MEMCARVE_TRACEBACK=1 shows")
        return FAILED
    return result if isinstance(result, int) else COMPLETE


def _invoke(arguments: Sequence[str]) -> Any:  # noqa: ANN401 - what commands return
    """Parse the command line and run the command, or answer a shell that completes one.

    Click's own `main` would end the program where nobody reads its output.
    """
    if asked := os.environ.get(_COMPLETING):
        from click.shell_completion import shell_complete

        return shell_complete(cli, {}, _NAME, _COMPLETING, asked)
    with cli.make_context(_NAME, list(arguments)) as context:
        return cli.invoke(context)


def _failed(error: OSError) -> int:
    """Return the exit status of a run that the system stopped, after a word about it, if somebody reads."""
    if isinstance(error, BrokenPipeError):
        return 128 + _SIGPIPE
    complain(f"{error.filename or 'the system'}: {error.strerror or error}")
    return FAILED
