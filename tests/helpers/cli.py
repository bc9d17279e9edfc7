"""Ways to run the command line: within this process, and as a program of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING, NamedTuple

from memcarve.cli.program import run as run_program
from portable import PORTABLE

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import pytest


HELPERS = os.path.dirname(os.path.abspath(__file__))


class Ran(NamedTuple):
    """How a run ended: exit status, standard output, standard error."""

    code: int
    out: bytes
    err: str


def invoke(capture: pytest.CaptureFixture[bytes], *arguments: str | Path) -> Ran:
    """Run the command line within this process."""
    capture.readouterr()
    code = run_program([str(argument) for argument in arguments])
    sys.stdout.flush()
    out, err = capture.readouterr()
    return Ran(code, out, err.decode())


def run(
    *arguments: str | Path,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    before: str = "",
) -> Ran:
    """Run the command line as a program of its own; the Python text `before` is executed first in it."""
    found = subprocess.run(
        command(*arguments, before=before),
        cwd=cwd,
        env={**os.environ, **(env or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=120,
        check=False,
    )
    return Ran(found.returncode, found.stdout, found.stderr.decode())


def command(*arguments: str | Path, before: str = "") -> list[str]:
    """Return the command line of a run as a program of its own."""
    words = [str(argument) for argument in arguments]
    if PORTABLE:
        before = f"import sys; sys.path.insert(0, {HELPERS!r}); import portable; del sys.path[0]\n{before}"
    if before:
        return [sys.executable, "-W", "error", "-c", f"{before}\nfrom memcarve.cli import main; main()", *words]
    return [sys.executable, "-W", "error", "-m", "memcarve", *words]
