"""Running programs: wall time and peak memory, contenders in turn."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


#: what a copy and the hashes of it take, each done by the usual program
HASHED = "openssl dgst"
_COPY_AND_HASH = 'cp -r "$1" "$2" && find "$2" -type f -exec openssl dgst -sha256 {} +'


class UnavailableError(Exception):
    """Something that a benchmark needs is not here; the message names it."""


class Run(NamedTuple):
    """One run: seconds, the peak of the resident set in bytes, and the seconds that processors spent on it."""

    seconds: float
    rss: int
    processors: float = 0.0


class Contender(NamedTuple):
    """A program to be measured.

    `before` is called before every run, outside of the timing. Where `reports` is true, the program prints the seconds
    that count as the last line of its output; else its wall time from start to end counts, or with `busy` the time that
    processors spent on it.
    """

    command: list[str]
    before: Callable[[], None] = lambda: None
    reports: bool = False
    exits: tuple[int, ...] = (0,)
    busy: bool = False


def copy_and_hash(source: Path, target: Path, before: Callable[[], None]) -> dict[str, Contender]:
    """Return what copies a file or a folder and then hashes the copy, by its name; nothing without openssl."""
    if shutil.which("openssl") is None:
        return {}
    return {HASHED: Contender(["sh", "-c", _COPY_AND_HASH, "sh", str(source), str(target)], before)}


def run(contender: Contender) -> Run:
    """Run a program once. It inherits this process's peak of memory, so this process must stay small."""
    contender.before()
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        actions: list[tuple[int, ...] | tuple[int, int, str, int, int]] = [
            (os.POSIX_SPAWN_DUP2, err.fileno(), 2),
            (os.POSIX_SPAWN_DUP2, out.fileno(), 1)
            if contender.reports
            else (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
        ]
        begun = time.perf_counter()
        pid = os.posix_spawnp(contender.command[0], contender.command, os.environ, file_actions=actions)
        _, status, usage = os.wait4(pid, 0)
        processors = usage.ru_utime + usage.ru_stime
        seconds = processors if contender.busy else time.perf_counter() - begun
        if os.waitstatus_to_exitcode(status) not in contender.exits:
            err.seek(0)
            message = err.read().decode(errors="replace")[-2000:]
            raise subprocess.CalledProcessError(status, contender.command, stderr=message)
        if contender.reports:
            out.seek(0)
            seconds = float(out.read().split(b"\n")[-2])
    return Run(seconds, usage.ru_maxrss * 1024, processors)


def anonymous(contender: Contender) -> int:
    """Run a program once; return the peak of its memory that is no file's, in bytes (a mapped image does not count)."""
    contender.before()
    with open(os.devnull, "wb") as nothing:
        process = subprocess.Popen(contender.command, stdout=nothing, stderr=nothing)
        most = 0
        while process.poll() is None:
            try:
                with open(f"/proc/{process.pid}/status", encoding="ascii", errors="replace") as file:
                    kept = next((line for line in file if line.startswith("RssAnon")), "0 0")
            except OSError:  # it has just ended
                break
            most = max(most, int(kept.split()[1]) << 10)
            time.sleep(0.002)
        if process.wait() not in contender.exits:
            raise subprocess.CalledProcessError(process.returncode, contender.command)
    return most


def in_turn(contenders: dict[str, Contender], runs: int, warm_up: int) -> dict[str, list[Run]]:
    """Run the contenders in turn, `runs` rounds, every other one backwards, after `warm_up` that do not count."""
    found: dict[str, list[Run]] = {name: [] for name in contenders}
    for number in range(warm_up + runs):
        names = list(contenders)
        for name in names if number % 2 else reversed(names):
            result = run(contenders[name])
            if number >= warm_up:
                found[name].append(result)
    return found
