"""The tutorial of the library: its examples run as they are written, and print what their comments say."""

from __future__ import annotations

import contextlib
import io
import re
from typing import TYPE_CHECKING, Any

import pytest

import memcarve
from files import ROOT
from linux_machines import machine, machines

if TYPE_CHECKING:
    from pathlib import Path

BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "library.md").read_text(encoding="utf-8"), re.DOTALL)
_SAID = re.compile(r"(?m)^(?:# |.*print\(.*\)  # )(.*)$")


def test_examples_print_what_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each example runs after the ones before it, and prints what its comments say; one needs an image."""
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    needing_an_image = 0
    for block in BLOCKS:
        program = compile(block, "library.md", "exec")
        if "mem.raw" in block or "mem.lime" in block:
            needing_an_image += 1
            continue
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(program, names)  # noqa: S102 - the project's own page
        assert printed.getvalue().splitlines() == _SAID.findall(block), block
    assert needing_an_image == 2 < len(BLOCKS)


@pytest.mark.parametrize("name", machines()[:1])
def test_example_of_linux(name: str) -> None:
    """What is said of Linux runs on a real machine: of each program a line, of a process its regions and threads."""
    real = machine(name)
    (block,) = (block for block in BLOCKS if "mem.lime" in block)
    pid = max(real.stopped, key=lambda pid: len(real.processes[pid]["threads"]))
    text = block.replace('"mem.lime"', repr(str(real.raw))).replace("812", str(pid))
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(compile(text, "library.md", "exec"), {"memcarve": memcarve})  # noqa: S102 - the project's own page
    lines = printed.getvalue().splitlines()
    assert any(line.startswith(f"{pid} {pid} 0 stopped ") for line in lines)
    for vma in real.vmas(pid):
        assert any(line.startswith(f"{hex(vma.start)} {vma.permissions[:3]}") for line in lines)
    for thread in real.processes[pid]["threads"]:
        assert f"{thread['tid']} {thread['comm']} stopped {int(thread['pc'], 16)}" in lines
    assert lines[-1].startswith("Linux 5.10.0") or name != "linux-5.10-amd64"
