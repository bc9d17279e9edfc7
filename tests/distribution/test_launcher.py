"""The shell script at the head of the single file, with a small program behind it in place of a large one."""

from __future__ import annotations

import gzip
import io
import os
import shutil
import signal
import subprocess
import tarfile
from typing import TYPE_CHECKING

import pytest

import bundle

if TYPE_CHECKING:
    from pathlib import Path

if os.name != "posix":
    pytest.skip("Windows has no sh: the launcher is not tried", allow_module_level=True)

#: what is packed: it tells how it was started
PROGRAM = """#!/bin/sh
[ "$1" != sleep ] || exec sleep 60
umask; printf '<%s>\\n' "$@"; cat; exit 7
"""
SHELLS = [shell for shell in (["dash"], ["bash", "--posix"], ["busybox", "sh"]) if shutil.which(shell[0])]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Return a single file, whose name and folder have blanks in them."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        entry = tarfile.TarInfo("memcarve")
        entry.mode, entry.size = 0o755, len(PROGRAM)
        archive.addfile(entry, io.BytesIO(PROGRAM.encode()))
        archive.addfile(_large(), io.BytesIO(os.urandom(1 << 20)))
    path = tmp_path / "a folder" / "mem carve"
    path.parent.mkdir()
    path.write_bytes(bundle.with_launcher(gzip.compress(packed.getvalue(), mtime=0), 1 << 20, "1.2.3"))
    path.chmod(0o755)
    return path


def _large() -> tarfile.TarInfo:
    entry = tarfile.TarInfo("_internal/library")
    entry.size = 1 << 20
    return entry


def run(words: list[str], home: Path | None, **more: str) -> subprocess.CompletedProcess[str]:
    """Run the file, for a user with a home."""
    environment = {"PATH": os.environ["PATH"], **({"HOME": str(home)} if home else {}), **more}
    return subprocess.run(words, env=environment, input="given\n", capture_output=True, text=True, check=False)


def unpacked(folder: Path) -> list[str]:
    """Return what is in a folder to unpack into, by name."""
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("shell", SHELLS, ids=lambda shell: shell[0])
def test_started_twice(file: Path, tmp_path: Path, shell: list[str]) -> None:
    """It passes on arguments, input, mask and status, unpacks once, for its owner alone, and never again."""
    home = tmp_path / "my home"
    for words in ([*shell, str(file)], [*shell, str(file)]):
        done = run([*words, "a b", "", "*"], home)
        assert (done.returncode, done.stderr) == (7, "")
        assert done.stdout.splitlines()[1:] == ["<a b>", "<>", "<*>", "given"]
        assert int(done.stdout.splitlines()[0], 8) == _umask()
        (name,) = unpacked(home / ".cache" / "memcarve")
        assert name.startswith("1.2.3-")
    assert (home / ".cache" / "memcarve").stat().st_mode & 0o777 == 0o700
    os.truncate(file, file.read_bytes().index(b"\x1f\x8b"))  # it reads nothing of the archive any more
    assert run([*shell, str(file)], home).returncode == 7


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_where_it_unpacks(file: Path, tmp_path: Path) -> None:
    """MEMCARVE_UNPACKED goes before XDG_CACHE_HOME, and that before HOME; without any it says so."""
    given: list[tuple[dict[str, str], Path]] = [
        ({}, tmp_path / "h" / ".cache" / "memcarve"),
        ({"XDG_CACHE_HOME": str(tmp_path / "x")}, tmp_path / "x" / "memcarve"),
        ({"XDG_CACHE_HOME": str(tmp_path / "x"), "MEMCARVE_UNPACKED": str(tmp_path / "m")}, tmp_path / "m"),
    ]
    for more, folder in given:
        assert not folder.exists()
        assert run([str(file)], tmp_path / "h", **more).returncode == 7
        assert len(unpacked(folder)) == 1
    done = run([str(file)], None)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "memcarve: HOME is not set; MEMCARVE_UNPACKED=FOLDER names a folder to unpack into\n"


def test_started_at_once(file: Path, tmp_path: Path) -> None:
    """Many that are started at once before it was unpacked all run, and leave one folder."""
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    nothing = subprocess.DEVNULL
    programs = [subprocess.Popen([str(file)], env=environment, stdin=nothing, stdout=nothing) for _ in range(12)]
    assert [program.wait(60) for program in programs] == [7] * 12
    (name,) = unpacked(tmp_path / ".cache" / "memcarve")
    assert unpacked(tmp_path / ".cache" / "memcarve" / name) == ["_internal", "memcarve"]


@pytest.mark.parametrize("length", [1.0, 0.5, 0.02])
def test_cut_off(file: Path, tmp_path: Path, length: float) -> None:
    """A file that was cut off says that it cannot be unpacked, and leaves nothing."""
    begin = file.read_bytes().index(b"\x1f\x8b")
    os.truncate(file, begin + int((file.stat().st_size - begin) * length) - 4096)
    done = run([str(file)], tmp_path)
    assert done.returncode == 1
    assert "2 MiB of the program could not be unpacked there and run; MEMCARVE_UNPACKED=FOLDER" in done.stderr
    assert unpacked(tmp_path / ".cache" / "memcarve") == []


def test_folder_that_cannot_be_made(file: Path, tmp_path: Path) -> None:
    """If there is a file where the folder should be, it says so, and ends with 1."""
    (tmp_path / ".cache").write_text("")
    done = run([str(file)], tmp_path)
    assert (done.returncode, "memcarve: cannot make a folder; MEMCARVE_UNPACKED=FOLDER" in done.stderr) == (1, True)


def test_folder_of_another_user(file: Path, tmp_path: Path) -> None:
    """What another user unpacked, or a folder of theirs, is not run and not written to."""
    if os.geteuid() != 0:
        pytest.skip("it takes root to make another user's folder: a foreign cache was not tried")
    assert run([str(file)], tmp_path).returncode == 7
    folder = tmp_path / ".cache" / "memcarve"
    (name,) = unpacked(folder)
    for foreign in (folder / name, folder):
        os.chown(foreign, 12345, 12345)
        done = run([str(file)], tmp_path)
        assert (done.returncode, done.stdout) == (1, "")
        assert f"{foreign}: belongs to another user" in done.stderr
        os.chown(foreign, 0, 0)


def test_stopped_while_unpacking(file: Path, tmp_path: Path) -> None:
    """A signal while it unpacks leaves nothing; the next start unpacks anew."""
    slow = tmp_path / "slow"
    slow.mkdir()
    (slow / "gzip").write_text("#!/bin/sh\nsleep 60\n")
    (slow / "gzip").chmod(0o755)
    words, environment = [str(file)], {"PATH": f"{slow}:{os.environ['PATH']}", "HOME": str(tmp_path)}
    folder = tmp_path / ".cache" / "memcarve"
    with subprocess.Popen(words, env=environment, stdin=subprocess.DEVNULL, start_new_session=True) as program:
        while not (folder.exists() and unpacked(folder)):
            assert program.poll() is None
        os.killpg(program.pid, signal.SIGTERM)  # as a terminal sends what stops programs
        assert program.wait(60) in {1, 143, -signal.SIGTERM}
    assert run([str(file)], tmp_path).returncode == 7
    assert len([name for name in unpacked(folder) if "." not in name[6:]]) == 1


def test_signals_reach_the_program(file: Path, tmp_path: Path) -> None:
    """The program takes the launcher's place: what is sent to the one reaches the other."""
    assert run([str(file)], tmp_path).returncode == 7
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    with subprocess.Popen([str(file), "sleep"], env=environment) as program:
        while b"sleep" not in _command(program.pid):
            assert program.poll() is None
        program.terminate()
        assert program.wait(60) == -signal.SIGTERM


def _command(pid: int) -> bytes:
    with open(f"/proc/{pid}/cmdline", "rb") as file:
        return file.read().partition(b"\0")[0]
