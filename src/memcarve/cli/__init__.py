"""The command line: parse, call the library, print."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from typing import TYPE_CHECKING, NoReturn

import click

from memcarve.cli.carving import carve, verify
from memcarve.cli.comparing import diff
from memcarve.cli.debugging import debug_info
from memcarve.cli.exporting import export
from memcarve.cli.extracting import extract
from memcarve.cli.listing import regions, segments
from memcarve.cli.looking import find, locate, processes, read
from memcarve.cli.options import FAILED, USAGE, complain
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


class _StoppedBySignal(BaseException):
    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


@click.group(context_settings={"help_option_names": ["-h", "--help"]}, epilog=_EPILOG)
@click.version_option(__version__, prog_name="memcarve", message="%(prog)s %(version)s")
def cli() -> None:
    """Carve a process's memory into its contiguous segments.

    FILE is an image of a machine's memory (raw, LiME, AVML, ELF core, Windows crash dump, VMware); or one process's: a
    dump or the memory map that belongs to it, as Volatility's windows.memmap --dump writes them (Volatility 2 and
    Rekall too; the other one is looked for beside it), a Windows minidump, an ELF core, a folder of segments (carved by
    memcarve, or files named by their addresses), or /proc/PID. Try: memcarve carve pid.4321.dmp, or memcarve processes
    mem.raw
    """


@cli.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print a script that completes commands and options.

    For bash, put this into ~/.bashrc: eval "$(memcarve completion bash)"
    """
    from click.shell_completion import get_completion_class  # noqa: PLC0415 - for this command alone

    found = get_completion_class(shell)
    if found is None:
        raise UsageError(f"{shell}: is no shell that can be completed")
    click.echo(found(cli, {}, "memcarve", "_MEMCARVE_COMPLETE").source())


for _command in (processes, carve, export, extract, segments, regions, verify, diff, read, find, locate, debug_info):
    cli.add_command(_command)


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


def _run(arguments: Sequence[str] | None) -> int:  # noqa: C901, PLR0911 - one way out for each way to end
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
    except UsageError as error:
        complain(str(error))
        return USAGE
    except MemcarveError as error:
        complain(str(error))
        return FAILED
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
