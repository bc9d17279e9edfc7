"""The log of a run: what stands in it, that nobody can forge it, and where it may not lie."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import time
from typing import TYPE_CHECKING, Any

import pytest

import memcarve
from cli import command, invoke, run
from dumps import write_dump
from files import EXAMPLE, listing
from memory import PAGE, noise

if TYPE_CHECKING:
    from pathlib import Path

    from dumps import Piece

Capture = pytest.CaptureFixture[bytes]

ROWS: list[Piece] = [(0x10000, noise(1, 2 * PAGE)), (0x20000, noise(2))]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Return the name of a log."""
    return tmp_path / "run.log"


def lines(log: Path) -> list[dict[str, Any]]:
    """Return the lines of a log, each of which is JSON in ASCII."""
    text = log.read_bytes().decode("ascii")
    assert text.endswith("\n")
    return [json.loads(line) for line in text.splitlines()]


def test_a_carve(capfdbinary: Capture, tmp_path: Path, log: Path) -> None:
    """The log has the command, the machine, the inputs before and after, what was printed, the seal and the status."""
    ran = invoke(capfdbinary, "carve", EXAMPLE, "-o", tmp_path / "out", "--log", log)
    assert ran.code == 0
    found = lines(log)
    assert [each["event"] for each in found] == [
        "begin", "input", "input", "note", "result", "seal", "input after", "input after", "end",
    ]  # fmt: skip
    assert {each["tool"] for each in found} == {"memcarve"}
    assert len({each["run"] for each in found}) == 1
    assert [each["time"] for each in found] == sorted(each["time"] for each in found)
    assert found[0]["command"][0] == "memcarve"
    assert found[0]["memcarve"] == memcarve.__version__
    for before, after, path in zip(found[1:3], found[6:8], (EXAMPLE, EXAMPLE.with_suffix(".map")), strict=True):
        assert before["path"] == after["path"] == str(path)
        assert before["size"] == after["size"] == path.stat().st_size
        assert before["modified"] == after["modified"]
    printed = ran.err.splitlines()
    assert [f"note: {found[3]['text']}", found[4]["text"]] == printed[:2]
    digest = hashlib.sha256((tmp_path / "out" / "segments.json").read_bytes()).hexdigest()
    assert (found[5]["of"], found[5]["sha256"]) == ("segments.json", digest)
    assert printed[2] == f"seal (SHA-256 of segments.json): {digest}"
    assert (found[-1]["exit_status"], found[-1]["level"]) == (0, "info")


def test_quiet_runs_are_logged(capfdbinary: Capture, tmp_path: Path, log: Path) -> None:
    """With -q nothing is printed, and the log has it all the same."""
    assert invoke(capfdbinary, "carve", EXAMPLE, "-o", tmp_path / "out", "--log", log, "-q").err == ""
    assert {"note", "result", "seal"} <= {each["event"] for each in lines(log)}


@pytest.mark.parametrize(
    "words",
    [
        ["segments"],
        ["processes"],
        ["regions", "--regions", "{vadinfo}"],
        ["find", "{}", "MZ"],
        ["read", "{}", "0x7ffe0000", "16"],
        ["locate", "{}", "0x7ffe0000"],
        ["diff", "{}", "{}"],
        ["export", "--to", "flat", "--address", "0x7ffe0000-0x7ffe1000", "-o", "{out}"],
        ["extract", "-o", "{out}"],
    ],
    ids=lambda words: words[0],
)
def test_every_command(capfdbinary: Capture, words: list[str], tmp_path: Path, log: Path) -> None:
    """Every command that opens an input has the log, and what it says ends in its exit status."""
    names = {"{}": EXAMPLE, "{out}": tmp_path / "out", "{vadinfo}": EXAMPLE.parent / "vadinfo.txt"}
    arguments = [names.get(word, word) for word in words] + ([] if "{}" in words else [EXAMPLE])
    ran = invoke(capfdbinary, *arguments, "--log", log)
    assert ran.code == 0, ran.err
    found = lines(log)
    assert (found[0]["event"], found[-1]["event"], found[-1]["exit_status"]) == ("begin", "end", 0)
    assert str(EXAMPLE) in [each.get("path") for each in found if each["event"] == "input"]
    assert [line for line in ran.err.splitlines() if line.startswith("note: ")] == [
        f"note: {each['text']}" for each in found if each["event"] == "note"
    ]


def test_verifying(capfdbinary: Capture, tmp_path: Path, log: Path) -> None:
    """A check is logged, with its result; so is one that fails."""
    invoke(capfdbinary, "carve", EXAMPLE, "-o", tmp_path / "out")
    assert invoke(capfdbinary, "verify", tmp_path / "out", "--log", log).code == 0
    assert any("all well" in each.get("text", "") for each in lines(log))
    next((tmp_path / "out").glob("0x*.bin")).unlink()
    assert invoke(capfdbinary, "verify", tmp_path / "out", "--log", log).code == 1
    error, *_, end = lines(log)[-3:]
    assert "is missing" in error["text"]
    assert (end["exit_status"], end["level"]) == (1, "error")


def test_runs_are_appended(capfdbinary: Capture, log: Path) -> None:
    """A second run adds its lines; what stands there stays; errors are logged, too."""
    invoke(capfdbinary, "segments", EXAMPLE, "--log", log)
    first = log.read_bytes()
    ran = invoke(capfdbinary, "read", EXAMPLE, "0x1", "4", "--log", log)
    assert ran.code == 1
    assert log.read_bytes().startswith(first)
    found = lines(log)
    assert len({each["run"] for each in found}) == 2
    (error,) = (each for each in found if each["event"] == "error")
    assert (error["level"], f"memcarve: {error['text']}") == ("error", ran.err.splitlines()[-1])
    assert log.stat().st_mode & 0o777 == 0o600


def test_an_input_that_is_not_there(capfdbinary: Capture, tmp_path: Path, log: Path) -> None:
    """An input that cannot be opened is logged with the reason."""
    assert invoke(capfdbinary, "segments", tmp_path / "absent", "--log", log).code == 1
    found = lines(log)
    assert [each["event"] for each in found] == ["begin", "input", "error", "input after", "end"]
    assert found[1]["problem"] == "No such file or directory"


def test_incomplete(capfdbinary: Capture, tmp_path: Path, log: Path) -> None:
    """A run that ends with 3 is logged as a warning."""
    dump = write_dump(tmp_path, [*ROWS, (0x30000, 2 * PAGE)], 4)
    assert invoke(capfdbinary, "carve", dump, "-o", tmp_path / "out", "--log", log).code == 3
    assert (lines(log)[-1]["exit_status"], lines(log)[-1]["level"]) == (3, "warning")


def test_names_cannot_forge_lines(capfdbinary: Capture, tmp_path: Path, log: Path) -> None:
    """A name with line ends, escapes and bytes that are no text stays within its line, and is data there."""
    name = b'x\n{"tool": "memcarve", "event": "end"}\x1b[2J\x7f\xff.dmp'
    path = os.path.join(os.fsencode(tmp_path), name)
    with open(path, "wb") as file:
        file.write(bytes(PAGE))
    assert invoke(capfdbinary, "segments", os.fsdecode(path), "--log", log).code == 1
    data = log.read_bytes()
    assert all(byte == 10 or 32 <= byte < 127 for byte in data)
    assert len(lines(log)) == data.count(b'\n{"tool": "memcarve", "time"') + 1
    assert [each["event"] for each in lines(log)].count("end") == 1


def test_a_line_that_was_cut(capfdbinary: Capture, log: Path) -> None:
    """If a run was killed within a line, the next run begins a new one."""
    invoke(capfdbinary, "segments", EXAMPLE, "--log", log)
    whole = log.read_bytes()
    log.write_bytes(whole[:-10])
    invoke(capfdbinary, "segments", EXAMPLE, "--log", log)
    cut = log.read_bytes()[len(whole) - 10 :]
    assert cut.startswith(b'\n{"tool"')


# where it may not be


@pytest.fixture
def places(tmp_path: Path, capfdbinary: Capture) -> Path:
    """Return a folder with what a log may not be."""
    write_dump(tmp_path, ROWS, 4)
    assert invoke(capfdbinary, "carve", tmp_path / "pid.4.dmp", "-o", tmp_path / "carved").code == 0
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "real.log").write_bytes(b"")
    (tmp_path / "link").symlink_to("real.log")
    (tmp_path / "notes.txt").write_bytes(b"of somebody else")
    os.link(tmp_path / "pid.4.dmp", tmp_path / "hard")
    return tmp_path


def state(folder: Path) -> dict[str, tuple[int, ...]]:
    """Return of all that lies in a folder what would tell a change."""
    found = ((str(path), path.lstat()) for path in folder.rglob("*"))
    return {path: (at.st_mode, at.st_ino, at.st_size, at.st_mtime_ns) for path, at in found}


@pytest.mark.parametrize(
    "name",
    ["pid.4.dmp", "pid.4.map", "hard", "carved/log", "carved/segments.json", "pipe", "link", "notes.txt", "carved",
     "new/log", "/dev/null", "/dev/full", "new.bin"],
)  # fmt: skip
def test_places_that_are_refused(capfdbinary: Capture, places: Path, name: str) -> None:
    """Evidence, output, links, pipes, devices and other people's files are refused before any work, and stay."""
    before = state(places)
    words = ["export", places / "pid.4.dmp", "--to", "flat", "-o", places / "new.bin"]
    ran = invoke(capfdbinary, *words, "--log", places / name)
    assert ran.code in (1, 2)
    assert name in ran.err
    assert len(ran.err.splitlines()) == 1
    assert state(places) == before


def test_a_folder_for_temporary_files(capfdbinary: Capture, tmp_path: Path) -> None:
    """The folder of --temp is not an input: it is not logged as one, and a log may lie in it."""
    log = tmp_path / "temporary" / "run.log"
    log.parent.mkdir()
    assert invoke(capfdbinary, "segments", EXAMPLE, "--temp", log.parent, "--log", log).code == 0
    inputs = [each["path"] for each in lines(log) if each["event"] == "input"]
    assert inputs == [str(EXAMPLE), str(EXAMPLE.with_suffix(".map"))]


def test_within_a_folder_of_evidence(capfdbinary: Capture, tmp_path: Path) -> None:
    """Of an input that is a folder nothing inside is a log."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "0x10000-0x11000.bin").write_bytes(noise(1))
    ran = invoke(capfdbinary, "segments", tmp_path / "in", "--log", tmp_path / "in" / "deeper.log")
    assert (ran.code, listing(tmp_path / "in")) == (2, ["0x10000-0x11000.bin"])


def test_a_log_without_room(capfdbinary: Capture, tmp_path: Path, log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A log that cannot be written ends the work, and nothing of it is kept."""
    write, count = os.write, [0]

    def full(fd: int, data: bytes) -> int:
        if bytes(data[:20]).startswith(b'{"tool": "memcarve"'):
            count[0] += 1
            if count[0] > 3:
                raise OSError(28, "No space left on device")
        return write(fd, data)

    monkeypatch.setattr(os, "write", full)
    ran = invoke(capfdbinary, "carve", EXAMPLE, "-o", tmp_path / "out", "--log", log)
    assert ran.code == 1
    assert "run.log: the log cannot be written: No space left on device" in ran.err
    assert listing(tmp_path) == ["run.log"]


def test_a_run_that_is_interrupted(tmp_path: Path, log: Path) -> None:
    """A signal is logged, and so is the exit status; a run that is killed leaves what it had logged."""
    slow = "import memcarve.sinks.carved_folder as c, time; c._Carver.run = lambda *_: time.sleep(60)"
    for number, last in ((signal.SIGTERM, "end"), (signal.SIGKILL, "note")):
        log.unlink(missing_ok=True)
        words = command("carve", EXAMPLE, "-o", tmp_path / "out", "--log", log, before=slow)
        with subprocess.Popen(words, stderr=subprocess.PIPE) as process:
            for _ in range(300):
                if log.exists() and b'"note"' in log.read_bytes():
                    break
                time.sleep(0.1)
            process.send_signal(number)
            process.communicate(timeout=60)
        assert lines(log)[-1]["event"] == last
        if last == "end":
            assert lines(log)[-1]["exit_status"] == 143
            assert any("SIGTERM" in each.get("text", "") for each in lines(log))


def test_wrong_usage_leaves_no_log(log: Path) -> None:
    """Wrong usage opens no input, and leaves no log; an empty name is wrong usage."""
    assert run("segments", EXAMPLE, "--log", "").code == 2
    assert run("segments", EXAMPLE, "--log", log, "--nonsense").code == 2
    assert not log.exists()
