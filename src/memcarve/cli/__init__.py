"""The command line: parse, call the library, print."""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import sys
from typing import TYPE_CHECKING, NamedTuple, NoReturn

import click

from memcarve.cli.options import FAILED, USAGE
from memcarve.cli.wording import complain
from memcarve.errors import MemcarveError, UsageError
from memcarve.version import __version__

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import FrameType

_EPILOG = (
    "Exit status: 0 complete, 1 it could not be done, 2 wrong usage, 3 done, but bytes are known to be missing, "
    "or one of several processes failed; 129, 130 and 143 stopped by a signal."
)


_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")


class _Command(NamedTuple):
    """Where a command stands, and what the program's help says of it."""

    module: str
    attribute: str
    help: str


#: the commands by what they are for; each one's module is imported when it is used
COMMANDS = {
    "Look": {
        "processes": _Command("looking", "processes", "List the processes of an image, or of a map of several."),
        "segments": _Command("listing", "segments", "List the contiguous segments of a process's memory."),
        "regions": _Command("listing", "regions", "List what the operating system says of memory."),
        "read": _Command("looking", "read", "Print the bytes at an address."),
        "find": _Command("looking", "find", "Find text or bytes, with their addresses."),
        "locate": _Command("looking", "locate", "Tell where an address lies in the file, and back."),
        "diff": _Command("comparing", "diff", "Tell what became of a process's memory."),
    },
    "Write": {
        "carve": _Command("carving", "carve", "Write each segment into a file named by its addresses."),
        "export": _Command("exporting", "export", "Write one file that another program opens."),
        "extract": _Command("extracting", "extract", "Write the programs and libraries in memory as files."),
        "verify": _Command("carving", "verify", "Check a carved folder, also against its source."),
    },
    "Help": {
        "completion": _Command("completing", "completion", "Print a script that completes commands and options."),
        "debug-info": _Command("debugging", "debug_info", "Print what a report of a fault should say."),
    },
}


class _Lazy(click.Group):
    """Commands that are imported when they are used: what one needs holds up no other, nor the program's help."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's
        return [name for commands in COMMANDS.values() for name in commands]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's
        for commands in COMMANDS.values():
            if cmd_name in commands:
                where = commands[cmd_name]
                found: click.Command = getattr(importlib.import_module(f"memcarve.cli.{where.module}"), where.attribute)
                return found
        return None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click's
        for title, commands in COMMANDS.items():
            with formatter.section(title):
                formatter.write_dl([(name, command.help) for name, command in commands.items()])


class _StoppedBySignal(BaseException):
    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


@click.group(
    cls=_Lazy, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]}, epilog=_EPILOG
)
@click.version_option(__version__, prog_name="memcarve", message="%(prog)s %(version)s")
@click.pass_context
def cli(context: click.Context) -> int | None:
    """Carve a process's memory into its contiguous segments.

    FILE is an image of a machine's memory (raw, LiME, AVML, ELF core, Windows crash dump, VMware); or one process's: a
    dump or the memory map that belongs to it, as Volatility's windows.memmap --dump writes them (Volatility 2 and
    Rekall too; the other one is looked for beside it), a Windows minidump, an ELF core, a folder of segments (carved by
    memcarve, or files named by their addresses), or /proc/PID. Try: memcarve carve pid.4321.dmp, or memcarve processes
    mem.raw
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help())
        return USAGE
    return None


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit; every error is a line on standard error."""
    # numpy's linear algebra, which nothing here uses, would start a thread for each processor when it is imported
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    for name in _SIGNALS:
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _on_signal)
    sys.exit(_run(arguments))


def _on_signal(number: int, _: FrameType | None) -> None:
    for name in _SIGNALS:  # from here on the work is put away, which another signal must not disturb
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
        complain(f"{_one_line(error.format_message())}; see {command} --help")
        return error.exit_code
    except click.exceptions.Exit as error:
        return error.exit_code
    except MemcarveError as error:
        complain(error)
        return USAGE if isinstance(error, UsageError) else FAILED
    except BrokenPipeError:
        # whoever read our output has had enough; keep the interpreter from complaining about it at the end
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
        complain(
            f"{kind}: {error}; this is a mistake in memcarve: please report it, with what MEMCARVE_TRACEBACK=1 shows"
        )
        return FAILED
    return result if isinstance(result, int) else 0


def _one_line(message: str) -> str:
    """Return a message of click's in the style of the others."""
    text = " ".join(message.split()).rstrip(".")
    return text[:1].lower() + text[1:]
