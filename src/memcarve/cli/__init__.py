"""The command line: parse, call the library, print."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from typing import TYPE_CHECKING, NoReturn

import click

from memcarve.cli.commands import COMMANDS
from memcarve.cli.exit_status import FAILED, USAGE
from memcarve.cli.wording import complain
from memcarve.errors import MemcarveError, UsageError
from memcarve.version import __version__

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import FrameType

_EPILOG = (
    "Exit status: 0 complete; 1 could not be done; 2 wrong usage; 3 done, but bytes are known to be missing or one of "
    "several processes failed; 129, 130, 143 stopped by a signal."
)


_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")


class _Program(click.Group):
    """Commands under headings by what they are for."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's
        return list(self.commands)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click's
        for title, commands in COMMANDS.items():
            with formatter.section(title):
                formatter.write_dl([(str(command.name), command.get_short_help_str(200)) for command in commands])


class _StoppedBySignal(BaseException):
    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


@click.group(
    cls=_Program,
    commands=[command for commands in COMMANDS.values() for command in commands],
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
    epilog=_EPILOG,
)
@click.version_option(__version__, prog_name="memcarve", message="%(prog)s %(version)s")
@click.pass_context
def cli(context: click.Context) -> int | None:
    """Carve a process's memory into its contiguous segments.

    FILE is an image of a machine's memory: raw, LiME, AVML, ELF core, Windows crash dump or VMware. Or it holds one
    process: a dump or its memory map, as Volatility's windows.memmap --dump writes them (so do Volatility 2 and Rekall;
    the other of the two is looked for beside it), a Windows minidump, an ELF core, a folder of segments (carved by
    memcarve, or named by their addresses), or /proc/PID.

    Try: memcarve carve pid.4321.dmp, or memcarve processes mem.raw
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help())
        return USAGE
    return None


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit; every error is a line on standard error."""
    # numpy's linear algebra, which is not used here, would start a thread for each processor when it is imported
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    for name in _SIGNALS:
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _on_signal)
    sys.exit(_run(arguments))


def _on_signal(number: int, _: FrameType | None) -> None:
    for name in _SIGNALS:  # another signal must not disturb the clean-up
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    raise _StoppedBySignal(number)


def _run(arguments: Sequence[str] | None) -> int:  # noqa: PLR0911 - one way out for each way to end
    try:
        result = cli.main(arguments, prog_name="memcarve", standalone_mode=False)
        sys.stdout.flush()
    except click.ClickException as error:
        context = getattr(error, "ctx", None)
        command = context.command_path if context else "memcarve"
        complain(f"{_worded(error)}; see {command} --help")
        return error.exit_code
    except click.exceptions.Exit as error:
        return error.exit_code
    except MemcarveError as error:
        complain(error)
        return USAGE if isinstance(error, UsageError) else FAILED
    except BrokenPipeError:
        # the reader of our output has gone; keep the interpreter from complaining about it at the end
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except _StoppedBySignal as error:
        notes = "; ".join(["stopped", *getattr(error, "__notes__", [])])
        complain(f"{notes} ({signal.Signals(error.number).name})")
        return 128 + error.number
    except MemoryError:
        complain("not enough memory")
        return FAILED
    except OSError as error:
        complain(f"{error.filename or 'the system'}: {error.strerror or error}")
        return FAILED
    except Exception as error:
        if os.environ.get("MEMCARVE_TRACEBACK"):
            raise
        kind = type(error).__name__
        complain(f"{kind}: {error}; this is a bug in memcarve: please report it, with what MEMCARVE_TRACEBACK=1 shows")
        return FAILED
    return result if isinstance(result, int) else 0


def _worded(error: click.ClickException) -> str:
    """Return click's complaint in the style of the other messages."""
    text = " ".join(error.format_message().split()).rstrip(".")
    if type(error) is click.BadParameter and error.param is not None:
        name = error.param.human_readable_name if isinstance(error.param, click.Argument) else error.param.opts[-1]
        return f"{name}: {error.message}"
    return text[:1].lower() + text[1:]
