"""Processes of a batch: how many run at once, how they end, and that what happens to one is its own affair."""

from __future__ import annotations

import signal
import sys
import time
from typing import TYPE_CHECKING

import pytest

from memcarve.batching import children
from memcarve.batching.children import Ended, Job, run_all
from processes_alive import is_alive

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[int, Ended]]:
    """Return a function that runs scripts in place of memcarve, and returns how each ended."""
    monkeypatch.setattr(children, "program", lambda: [sys.executable, "-I", "-S", "-c"])
    monkeypatch.chdir(tmp_path)

    def run(
        *scripts: str, at_once: int = 2, limit: float | None = None, asked: Callable[[], int] = lambda: 0
    ) -> dict[int, Ended]:
        found: dict[int, Ended] = {}

        def jobs() -> Iterator[Job]:
            for number, script in enumerate(scripts):
                yield Job(number, [script], str(tmp_path / f"{number}.out"), str(tmp_path / f"{number}.log"))

        run_all(jobs(), at_once, limit, lambda job, how: found.update({job.number: how}), asked)
        return found

    return run


def test_how_they_end(run: Callable[..., dict[int, Ended]], tmp_path: Path) -> None:
    """Exit statuses and signals are told as they are, and what is printed lies in files for their owner alone."""
    kill = "import os; print('half', flush=True); os.kill(os.getpid(), 9)"
    found = run("print('all well')", "import sys; sys.exit('no')", kill, "import sys; sys.exit(3)")
    assert {number: how.code for number, how in found.items()} == {0: 0, 1: 1, 2: -9, 3: 3}
    assert not any(how.stopped or how.timed_out for how in found.values())
    assert [(tmp_path / f"{number}.out").read_text() for number in range(3)] == ["all well\n", "", "half\n"]
    assert (tmp_path / "1.log").read_text() == "no\n"
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}


@pytest.mark.parametrize("at_once", [1, 3, 50])
def test_fifty(run: Callable[..., dict[int, Ended]], tmp_path: Path, at_once: int) -> None:
    """Of fifty, never more run at once than may, and all are run."""
    (tmp_path / "here").mkdir()
    script = """
import os
mine = f"here/{os.getpid()}"
os.close(os.open(mine, os.O_CREAT))
print(len(os.listdir("here")))
os.unlink(mine)
"""
    found = run(*[script] * 50, at_once=at_once)
    assert [found[number].code for number in range(50)] == [0] * 50
    assert max(int((tmp_path / f"{number}.out").read_text()) for number in range(50)) <= at_once


def test_one_that_hangs(run: Callable[..., dict[int, Ended]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """One that takes too long is ended, if need be by force and with what it started; the others are done."""
    monkeypatch.setattr(children, "_GRACE", 0.2)
    hangs = "import time; time.sleep(60)"
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
    forks = "import os; child = os.fork(); print(child or os.getpid(), flush=True); time.sleep(60)"
    found = run(hangs, deaf + forks, "print(1)", limit=1.5)
    assert found[0][0] == -signal.SIGTERM
    assert found[1][0] == -signal.SIGKILL
    assert (found[0].timed_out, found[1].timed_out, found[2].code) == (True, True, 0)
    for line in (tmp_path / "1.out").read_text().split():
        assert not is_alive(int(line))


@pytest.mark.parametrize(("urgency", "code"), [(1, -signal.SIGTERM), (2, -signal.SIGKILL)])
def test_all_are_asked_to_end(run: Callable[..., dict[int, Ended]], urgency: int, code: int, tmp_path: Path) -> None:
    """When the program is to end, those that run are asked to, at the second time killed, and no more are begun."""
    log = tmp_path / "0.log"
    nap = "import sys, time; print('ready', file=sys.stderr, flush=True); time.sleep(60)"
    times = 0

    def asked() -> int:
        nonlocal times
        times += log.exists() and log.read_text() == "ready\n"
        return min(times, urgency)

    script = nap if urgency == 1 else f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {nap}"
    found = run(script, nap, nap, at_once=1, asked=asked)
    assert list(found) == [0]
    assert (found[0].code, found[0].stopped, found[0].timed_out) == (code, True, False)


def test_one_that_a_signal_finds_ended(run: Callable[..., dict[int, Ended]], monkeypatch: pytest.MonkeyPatch) -> None:
    """One that ends while it is being killed has ended, whoever finds that out."""
    end_others = children._Child._end_others

    def slowly(child: children._Child) -> None:
        end_others(child)
        child._process.wait()

    monkeypatch.setattr(children._Child, "_end_others", slowly)
    script = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"
    begun = time.monotonic()
    found = run(script, asked=lambda: 2 if time.monotonic() > begun + 0.5 else 0)
    assert found[0].code in (-9, -15)


def test_one_that_cannot_be_started(run: Callable[..., dict[int, Ended]], monkeypatch: pytest.MonkeyPatch) -> None:
    """If the system starts no more processes, that is how the input ended, and the next is tried."""
    monkeypatch.setattr(children, "program", lambda: ["/no/such/program"])
    found = run("", "")
    assert [how.code for how in found.values()] == [None, None]
    assert "No such file" in str(found[0].problem)


def test_an_error_ends_them(run: Callable[..., dict[int, Ended]], tmp_path: Path) -> None:
    """Whatever goes wrong here, no process is left behind."""
    script = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
    begun = time.monotonic()

    def asked() -> int:
        if (tmp_path / "0.out").exists() and (tmp_path / "0.out").read_text().endswith("\n"):
            raise KeyError
        assert time.monotonic() - begun < 60
        return 0

    with pytest.raises(KeyError):
        run(script, asked=asked)
    assert not is_alive(int((tmp_path / "0.out").read_text()))
