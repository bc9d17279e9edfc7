"""What a shell does to a program: closed, full and broken streams, few descriptors, signals at any moment."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

import winimage
from cli import command, run
from files import EXAMPLE

if TYPE_CHECKING:
    from pathlib import Path

SHELL = "/bin/sh"
SEGMENTS = 114  # of the example

pytestmark = pytest.mark.skipif(not os.path.exists(SHELL), reason=f"{SHELL}: there is no such shell")


def in_shell(words: list[str], how: str, cwd: Path | None = None) -> subprocess.CompletedProcess[bytes]:
    """Run a command with what a shell can do to it: `how` stands behind it, and "$@" is the command."""
    return subprocess.run(
        [SHELL, "-c", f'"$@" {how}', "sh", *words], cwd=cwd, capture_output=True, timeout=60, check=False
    )


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_closed_streams(tmp_path: Path, closed: str) -> None:
    """With standard streams closed, carve writes all it does otherwise, and nothing else into any file."""
    ran = in_shell(command("carve", EXAMPLE, "-o", tmp_path / "out"), closed)
    assert ran.returncode == 0, ran.stderr
    assert run("verify", tmp_path / "out").code == 0


@pytest.mark.parametrize("arguments", [["segments", EXAMPLE], ["--help"], ["read", EXAMPLE, "0x7ffe0000", "16"]])
def test_closed_standard_output(arguments: list[str]) -> None:
    """What prints to a closed standard output fails and says so."""
    ran = in_shell(command(*arguments), ">&-")
    assert ran.returncode == 1
    assert ran.stderr.decode().splitlines()[-1] == f"memcarve: standard output: {os.strerror(errno.EBADF)}"


@pytest.mark.parametrize("layout", ["table", "csv", "json", "jsonl", "parquet"])
@pytest.mark.parametrize(("where", "code"), [("> /dev/full", 1), ("| true", 141)])
def test_output_that_cannot_be_written(layout: str, where: str, code: int) -> None:
    """A full standard output ends with 1 and a line that names it; one that nobody reads with 141 and none."""
    if layout == "parquet":
        pytest.importorskip("pyarrow")
    if code == 1 and not os.path.exists("/dev/full"):
        pytest.skip("/dev/full: there is no such device")
    words = command("segments", "-q", EXAMPLE, "--format", layout)
    # the pipe's own status is the reader's: that of the program is printed on standard error
    ran = subprocess.run(
        [SHELL, "-c", f'{{ "$@"; echo "status $?" >&2; }} {where}', "sh", *words],
        capture_output=True,
        timeout=60,
        check=False,
    )
    *said, status = ran.stderr.decode().splitlines()
    assert status == f"status {code}"
    assert said == ([] if code == 141 else [f"memcarve: standard output: {os.strerror(errno.ENOSPC)}"])


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["completion", "bash"], ["debug-info"]])
def test_help_that_nobody_reads(arguments: list[str]) -> None:
    """What prints without opening anything ends with 141 like the rest if nobody reads it."""
    words = command(*arguments)
    ran = subprocess.run(
        [SHELL, "-c", '{ "$@"; echo $? >&2; } | true', "sh", *words], capture_output=True, timeout=60, check=False
    )
    assert ran.stderr == b"141\n"


def test_output_that_is_not_read_to_the_end() -> None:
    """What is still waiting to be written when a command has failed is no traceback, and its status stays."""
    script = (
        "import sys, memcarve.cli.looking as c, memcarve.errors as e\n"
        "def read(*_, **__): sys.stdout.write('x'); raise e.InputError('is broken')\n"
        "c.read = read\n"
    )
    words = command("read", EXAMPLE, "0x7ffe0000", "16", before=script)
    ran = subprocess.run(
        [SHELL, "-c", '{ "$@"; echo $? >&2; } | true', "sh", *words], capture_output=True, timeout=60, check=False
    )
    assert ran.stderr == b"memcarve: is broken\n1\n"


@pytest.mark.parametrize("where", ["2> /dev/full", "2>&1 > /dev/null | true"])
def test_messages_that_cannot_be_written(tmp_path: Path, where: str) -> None:
    """Messages that cannot be shown do not stop the work."""
    if not os.path.exists("/dev/full"):
        pytest.skip("/dev/full: there is no such device")
    in_shell(command("carve", "-v", EXAMPLE, "-o", "out"), where, tmp_path)
    ran = run("verify", tmp_path / "out")
    assert ran.code == 0, ran.err


@pytest.mark.parametrize("count", [4, 8, 12, 15, 16, 17, 20, 24])
def test_few_descriptors(tmp_path: Path, count: int) -> None:
    """However few files may be open, carving several processes ends, with all there is or an error that says so."""
    winimage.build(tmp_path / "mem.raw", megabytes=16, processes=winimage.USERLAND)
    words = command("carve", tmp_path / "mem.raw", "--all", "-o", tmp_path / "out", "-q")
    limited = f'ulimit -n {count} && exec "$@"'
    ran = subprocess.run([SHELL, "-c", limited, "sh", *words], capture_output=True, timeout=120, check=False)
    said = ran.stderr.decode()
    assert ran.returncode in {0, 1, 3}
    assert "bug in memcarve" not in said
    if count > 4:  # with so few, Python itself hardly starts
        assert "Traceback" not in said
    if ran.returncode:
        assert os.strerror(errno.EMFILE) in said


# signals


@pytest.mark.parametrize("name", ["click", "memcarve.cli.commands", "numpy", "memcarve.cli.carving"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_while_importing(tmp_path: Path, name: str, number: signal.Signals) -> None:
    """A signal while the program is loading ends it with 128 and its number, and with one line."""
    before = (
        "import os, sys, importlib.abc\n"
        "class Stop(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path, target=None):\n"
        f"        if name == {name!r}: os.kill(os.getpid(), {int(number)})\n"
        "sys.meta_path.insert(0, Stop())\n"
    )
    ran = run("carve", EXAMPLE, "-o", tmp_path / "out", before=before)
    assert (ran.code, ran.out, ran.err) == (128 + number, b"", f"memcarve: stopped ({number.name})\n")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)])
def test_ignored_signals(tmp_path: Path, number: signal.Signals) -> None:
    """A signal that the parent made it ignore does not stop a run."""
    before = (
        "import os, memcarve.copying.copier as c\n"
        "copy = c.Copier.copy\n"
        f"c.Copier.copy = lambda *a, **k: (os.kill(os.getpid(), {int(number)}), copy(*a, **k))[1]\n"
    )
    ran = subprocess.run(
        command("carve", "-q", EXAMPLE, "-o", tmp_path / "out", before=before),
        preexec_fn=lambda: signal.signal(number, signal.SIG_IGN),
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert (ran.returncode, ran.stderr) == (0, b"")
    assert run("verify", tmp_path / "out").code == 0


def test_a_job_in_the_background(tmp_path: Path) -> None:
    """In the background of a shell without job control, where SIGINT is ignored, several processes are carved."""
    winimage.build(tmp_path / "mem.raw", megabytes=16, processes=winimage.USERLAND)
    words = command("carve", tmp_path / "mem.raw", "--all", "-o", tmp_path / "out", "-q")
    ran = subprocess.run(
        [SHELL, "-c", '"$@" & sleep 0.3; kill -INT $!; wait $!', "sh", *words],
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert sys.platform == "win32" or (tmp_path / "out" / "processes.json").exists()
