"""The pages of documentation: their examples run as they are written, and print what the pages say."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

import winimage
from files import ROOT

if TYPE_CHECKING:
    from pathlib import Path

PAGES = {
    "README.md": ROOT / "README.md",
    **{path.name: path for path in sorted((ROOT / "docs").glob("*.md")) if path.name != "cookbook.md"},
}
#: inputs that are not in the repository, and what earlier examples make of them
_ELSEWHERE = re.compile(r"\bmem\.|linux\.raw|\b(later|before|two|cores|case)\b|/proc/")
#: how an example begins that runs here
_BEGINS = ("memcarve ", "ls ", "rm ", "(cd ")
#: other programs in examples, without which they are passed over
_PROGRAMS = ("jq", "iconv", "sha256sum")
#: what differs from run to run
_TIMES = (
    (re.compile(r"\bin \d+\.\d\d s( \([\d.]+ \w+/s\))?"), "in TIME"),
    (re.compile(r"\bby (reflink|in-kernel copy|read and write|gathering scattered pages)( and [\w -]+)?:"), "by WAY:"),
    (re.compile(r"^seal \(SHA-256 of .*\): [0-9a-f]{64}\n", re.MULTILINE), ""),
)


def examples(page: Path) -> list[tuple[str, str]]:
    """Return each command of a page whose inputs are at hand, and what is said to be printed."""
    found: list[tuple[str, list[str]]] = []
    for line in page.read_text(encoding="utf-8").splitlines():
        if line.startswith("    $ "):
            found.append((line[6:], []))
        elif found and line.startswith("    "):
            found[-1][1].append(line[4:])
        else:
            found.append(("", []))
    return [
        (command, "".join(f"{line}\n" for line in lines))
        for command, lines in found
        if command.startswith(_BEGINS) and not _ELSEWHERE.search(command)
    ]


def plain(text: str) -> str:
    """Return a text without what differs from run to run."""
    for pattern, word in _TIMES:
        text = pattern.sub(word, text)
    return text


EXAMPLES = {name: found for name, page in PAGES.items() if (found := examples(page))}


def test_there_are_examples() -> None:
    """The reference of commands, and the first page, have examples that run."""
    assert {"README.md", "commands.md"} <= EXAMPLES.keys()
    assert len(EXAMPLES["commands.md"]) > 15


@pytest.mark.slow
@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_print_what_is_said(name: str, tmp_path: Path) -> None:
    """Each example of a page, one after the other in one folder, prints what stands below it.

    A page may leave out what goes to standard error.
    """
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    winimage.build(tmp_path / "win.raw", processes=winimage.USERLAND)
    program = f"{shlex.quote(sys.executable)} -m memcarve "
    ran = 0
    for command, said in EXAMPLES[name]:
        if any(word in _PROGRAMS and shutil.which(word) is None for word in shlex.split(command)):
            continue
        script = re.sub(r"(^|\| |&& )memcarve ", lambda found: found[1] + program, command)
        both = _output(script, tmp_path, together=True)
        if plain(both) != plain(said):
            assert plain(_output(script, tmp_path, together=False)) == plain(said), f"{command}\n{both}"
        ran += 1
    assert ran


def _output(script: str, folder: Path, *, together: bool) -> str:
    """Return what a shell prints on standard output, and perhaps on standard error; each line has an end."""
    error = subprocess.STDOUT if together else subprocess.DEVNULL
    ran = subprocess.run(
        ["bash", "-c", script], cwd=folder, stdout=subprocess.PIPE, stderr=error, encoding="utf-8", check=False
    )
    return ran.stdout if ran.stdout.endswith("\n") or not ran.stdout else f"{ran.stdout}\n"
