"""Man pages and completions: all commands have them, and the programs that they are for take them."""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from files import ROOT
from memcarve.cli.batch_commands import NAMES
from memcarve.cli.program import cli
from memcarve.version import __version__
from share_files import manual_pages, share_files

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Self

PAGES = manual_pages()


@pytest.fixture(scope="module")
def share(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the files, as the script writes them."""
    folder = tmp_path_factory.mktemp("share")
    script = str(ROOT / "distribution" / "share_files.py")
    subprocess.run([sys.executable, script, str(folder)], check=True)
    return folder


def test_each_command_has_a_page() -> None:
    """There is a page for the program and for each of its commands, and the program's page names the others."""
    names = {f"memcarve-{name}" for name in cli.commands}
    assert {*PAGES} == {"memcarve", *names}
    assert {name.replace("\\-", "-") for name in re.findall(r"(?m)^\.BR (\S+) \(1\)", PAGES["memcarve"])} == names


@pytest.mark.parametrize("name", sorted(PAGES))
def test_pages_have_all_options(name: str) -> None:
    """Every option of a command is in its page, with what it takes, and so is its text."""
    told = (
        PAGES[name].replace("\\-", "-").replace("\\fB", "").replace("\\fR", "").replace("\\fI", "").replace("\\:", "")
    )
    command = cli if name == "memcarve" else cli.commands[name.removeprefix("memcarve-")]
    for parameter in command.params:
        assert parameter.param_type_name == "argument" or all(f"{word}" in told for word in parameter.opts), parameter
    assert __version__ in told.partition("\n")[0]
    for word in NAMES if name == "memcarve-batch" else []:
        assert f".B memcarve batch {word}\n" in told


def test_help_is_in_the_page() -> None:
    """What --help says of an option, man says too."""
    text = " ".join(PAGES["memcarve-carve"].replace("\\-", "-").replace("\\(aq", "'").replace("\\(ga", "`").split())
    for parameter in cli.commands["carve"].params:
        assert " ".join((getattr(parameter, "help", None) or "").split()) in text


@pytest.mark.parametrize("program", [["mandoc", "-Tlint", "-Wstyle"], ["man", "--warnings", "-E", "UTF-8", "-l"]])
def test_pages_are_rendered(program: list[str], share: Path) -> None:
    """Mandoc's lint and man-db find nothing to complain of in any page."""
    if shutil.which(program[0]) is None:
        pytest.skip(f"{program[0]} is not installed: the man pages were not checked by it")
    pages = sorted(str(path) for path in share.glob("man/man1/*.1"))
    assert len(pages) == len(PAGES)
    done = subprocess.run(
        [*program, *pages], capture_output=True, text=True, check=False, env={**os.environ, "MANPAGER": "cat"}
    )
    assert done.stderr == ""
    if program[0] == "mandoc":  # which says what it finds where others print the page
        assert done.stdout == ""
    else:
        assert "MEMCARVE-CARVE(1)" in done.stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_same_as_the_command_prints(shell: str, share: Path) -> None:
    """The file for a shell is what `memcarve completion` prints, but for zsh's last lines, which call it always."""
    (path,) = [path for path in share_files() if path.startswith(shell)]
    words = [sys.executable, "-m", "memcarve", "completion", shell]
    printed = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    if shell == "zsh":
        printed = printed.partition("\nif [[ $zsh_eval_context")[0] + '\n_memcarve_completion "$@"'
    assert (share / path).read_text() == f"{printed.strip()}\n"


@pytest.mark.parametrize(
    ("shell", "words"),
    [
        ("bash", ["bash", "--norc", "--noprofile", "-i"]),
        ("zsh", ["zsh", "-f", "-i"]),
        ("fish", ["fish", "--no-config", "--private"]),
    ],
)
def test_completion_in_the_shell(shell: str, words: list[str], share: Path, tmp_path: Path) -> None:
    """An interactive shell that finds the file completes a command and an option at the press of a key."""
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed: completion was not tried in it")
    program = tmp_path / "memcarve"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m memcarve "$@"\n')
    program.chmod(0o755)
    begin = {
        "bash": f"source {share}/bash-completion/completions/memcarve",
        "zsh": f"fpath=({share}/zsh/site-functions $fpath); autoload -Uz compinit; compinit -u -D",
        "fish": f"set -p fish_complete_path {share}/fish/vendor_completions.d",
    }[shell]
    environment = {
        **os.environ,
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "PS1": "> ",
        "TERM": "dumb",
        "HOME": str(tmp_path),
    }
    with _Terminal(words, environment) as terminal:
        terminal.type(f"{begin}; echo rea''dy\n", "ready")
        terminal.type("memcarve segm\t", "memcarve segments")
        terminal.type("\x15memcarve carve --skip-z\t", "--skip-zero")


class _Terminal:
    """A program at a terminal: what is typed, and what it shows."""

    def __init__(self, words: list[str], environment: dict[str, str]) -> None:
        self._process, self._terminal = pty.fork()
        if self._process == 0:
            os.execvpe(words[0], words, environment)  # noqa: S606 - a shell is what is tested

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._terminal)
        os.kill(self._process, 9)
        os.waitpid(self._process, 0)

    def type(self, keys: str, expected: str) -> None:
        """Type keys, and wait until it shows what is expected; a hang fails."""
        os.write(self._terminal, keys.encode())
        shown, end = "", time.monotonic() + 60
        while expected not in re.sub(r"\x1b\[[\d;?]*[A-Za-z]|\x1b\][^\x07]*\x07", "", shown):
            ready, _, _ = select.select([self._terminal], [], [], end - time.monotonic())
            assert ready, f"it shows {shown!r}, and not {expected!r}"
            shown += os.read(self._terminal, 65536).decode(errors="replace")
