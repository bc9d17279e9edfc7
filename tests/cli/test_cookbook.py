"""The cookbook: its commands run as they are written, and print what it says."""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from files import ROOT

if TYPE_CHECKING:
    from pathlib import Path

TEXT = (ROOT / "docs" / "cookbook.md").read_text()


def blocks() -> list[tuple[str, list[str]]]:
    """Return each command that runs in a clone, and what is said to be printed."""
    found: list[tuple[str, list[str]]] = []
    for line in TEXT.splitlines():
        if not line.startswith("    "):
            continue
        if line.startswith("    $ "):
            found.append((line[6:], []))
        elif "examples/" in line and line.startswith("    memcarve "):
            found.append((line.strip(), []))
        elif found and not line.startswith("    memcarve "):
            found[-1][1].append(line[4:])
    return found


def test_commands_print_what_is_said(tmp_path: Path) -> None:
    """Every command with the repository's example ends well, and prints the lines that stand below it."""
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    program = f"{shlex.quote(sys.executable)} -m memcarve "
    for command, lines in blocks():
        script = re.sub(r"^memcarve ", lambda _: program, command)
        ran = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert ran.returncode == 0, (command, ran.stderr)
        shown = ran.stdout + (ran.stderr if lines else "")
        assert shown.splitlines() == lines, command


def said(path: Path) -> set[str]:
    """Return the texts in a module; what is put into them is N, and arguments are named as the command line does."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.JoinedStr):
            found.add("".join(str(part.value) if isinstance(part, ast.Constant) else "N" for part in node.values))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.add(re.sub(r"\{(\w+)\}", r"--\1", node.value))
    return found


def test_messages_are_what_the_program_says() -> None:
    """Every message that the index explains stands in the code."""
    index = TEXT.partition("## What the messages mean")[2]
    messages = [
        cell for row in re.findall(r"^\| (`.*?) \|", index, re.MULTILINE) for cell in re.findall("`(.*?)`", row)
    ]
    texts = "\n".join(text for path in (ROOT / "src" / "memcarve").rglob("*.py") for text in said(path))
    parts = {part for message in messages for part in re.split(r" \.\.\. |; ", message)}
    assert len(parts) > len(messages)
    assert {part for part in parts if part not in texts} == set()


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\(([\w.]*)#([\w-]+)\)", TEXT))), ids="#".join)
def test_links_lead_to_headings(target: tuple[str, str]) -> None:
    """Every link into a page leads to a heading that is there."""
    page, anchor = target
    text = (ROOT / "docs" / (page or "cookbook.md")).read_text()
    headings = {re.sub(r"[^\w -]", "", line.lstrip("# ").lower()).replace(" ", "-")
                for line in text.splitlines() if line.startswith("#")}  # fmt: skip
    assert anchor in headings
