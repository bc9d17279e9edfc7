"""The cookbook's recipes for a Linux server: each command runs on a real machine, and finds what it is for."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from files import ROOT
from linux_machines import machine

if TYPE_CHECKING:
    from pathlib import Path

    from linux_machines import Machine

_TEXT = (ROOT / "docs" / "cookbook.md").read_text(encoding="utf-8")
_PART = _TEXT.partition("\n## A Linux server\n")[2].partition("\n## ")[0]
COMMANDS = re.findall(r"(?m)^    (memcarve .*)$", _PART)
_PROGRAM = f"{shlex.quote(sys.executable)} -m memcarve "


def _pid(real: Machine, arguments: str) -> int:
    return next(pid for pid in real.stopped if real.processes[pid]["cmdline"].rstrip("\0") == arguments)


def _run(real: Machine, command: str, pid: int, folder: Path) -> str:
    """Return what a command prints on standard output, for another image and another process."""
    if "| jq" in command and shutil.which("jq") is None:
        pytest.skip("jq is not installed")
    script = command.replace("server.lime", shlex.quote(str(real.raw))).replace("812", str(pid))
    script = f"set -o pipefail; {script.replace('memcarve ', _PROGRAM, 1)}"
    ran = subprocess.run(["bash", "-c", script], cwd=folder, capture_output=True, encoding="utf-8", check=False)
    assert ran.returncode in (0, 3), (command, ran.stderr)
    return ran.stdout


def test_there_are_recipes() -> None:
    """The page has recipes that name the image and the process as this test expects."""
    assert len(COMMANDS) >= 10
    assert all("server.lime" in command for command in COMMANDS)


@pytest.mark.slow
def test_recipes(tmp_path: Path) -> None:
    """On a machine with injected code, a program in a memfd, deleted files and a namespace, each recipe finds them."""
    real = machine("linux-6.12-amd64")
    maps, disguised = _pid(real, "rich\0maps"), _pid(real, "[kworker/u8:7]\0sleep")
    deleted = _PART.partition("### What runs from")[2].partition("###")[0]
    printed = {
        command: _run(real, command, disguised if command in deleted else maps, tmp_path) for command in COMMANDS
    }
    for command, found in printed.items():
        if re.match("memcarve (segments|regions)", command) and "text-differs" not in command:
            assert len(found.splitlines()) > 1, command
    programs = next(found for command, found in printed.items() if "grep" in command)
    assert {"/memfd:kworker/u8:7", "/data/tmp/.hidden-tool"} <= set(re.findall(r"(\S+) \(deleted\)", programs))
    containers = next(found for command, found in printed.items() if "jq" in command)
    assert re.search(r"(?m)^inner-host\t\d+\t1\trich ns$", containers)
    assert (tmp_path / "server.csv").stat().st_size > 0
    assert [*(tmp_path / "programs").glob("*.memfd_kworker_u8_7.bin")]
    assert [*(tmp_path / "suspects" / f"{maps}-rich").glob("*.rwx.bin")]
    assert (tmp_path / f"{maps}.core").read_bytes()[:4] == b"\x7fELF"
    (noted,) = (note for note in real.processes[maps]["notes"] if note.startswith("rwx-shellcode "))
    injected = next(found for command, found in printed.items() if "--pid 812 --flag private-executable" in command)
    assert f"0x{int(noted.split()[1], 16):016x}" in injected
