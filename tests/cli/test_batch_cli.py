"""``memcarve batch``: real runs of small inputs, some of which fail, hang or are killed; and how one goes on."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

from cli import command, invoke
from dumps import write_dump, write_several
from files import ROOT
from memcarve.batching import children
from memcarve.cli.batch_commands import BATCH
from memory import PAGE
from processes_alive import is_alive
from vanishing import present

if TYPE_CHECKING:
    from pathlib import Path

    Capture = pytest.CaptureFixture[bytes]

#: a program in place of memcarve, which at a step that it is told waits until it is killed, once
_WAITING = """
import os, sys, time
from memcarve.sinks.final_name import NewFolder
renamed = NewFolder._rename
def rename(self):
    if os.environ["WAIT_AT"] in self.target and not os.path.exists("waited"):
        os.close(os.open("waited", os.O_CREAT))
        open("waiting", "w").write(str(os.getpid()))
        time.sleep(60)
    renamed(self)
NewFolder._rename = rename
from memcarve.cli import main
main()
"""
_PATIENCE = 60


def make_dump(folder: Path, fill: int = 1) -> Path:
    """Write a dump of two segments into a new folder."""
    folder.mkdir()
    return write_dump(folder, [(0x10000, bytes([fill]) * PAGE), (0x20000, b"needle" + bytes(PAGE - 6))])


@pytest.fixture
def case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder that one works in, with three dumps of one name."""
    monkeypatch.chdir(tmp_path)
    for number in (1, 2, 3):
        make_dump(tmp_path / f"host{number}", number)
    return tmp_path


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have each input done by a program that starts faster than memcarve: it prints a line, fails or hangs."""
    script = "import os, sys, time\nprint('row', flush=True)\n"
    script += "os.path.exists(sys.argv[2]) or sys.exit('memcarve: No such file')\n"
    script += "time.sleep(60 if 'hangs' in sys.argv[2] else 0)"
    monkeypatch.setattr(children, "program", lambda: [sys.executable, "-I", "-S", "-c", script])


DUMPS = [f"host{number}/pid.4.dmp" for number in (1, 2, 3)]
FOLDERS = [f"host{number}-pid.4.dmp" for number in (1, 2, 3)]


def state(out: Path) -> dict[str, Any]:
    """Return what ``batch.json`` says."""
    found: dict[str, Any] = json.loads((out / "batch.json").read_text())
    return found


def statuses(out: Path) -> list[str]:
    """Return what became of each input."""
    return [row["status"] for row in state(out)["inputs"]]


def files(folder: Path) -> dict[str, bytes]:
    """Return what is in a folder, but for documents that say when they were written, and logs."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix not in {".json", ".txt"} and not path.name.endswith("SUMS")
    }


def left(out: Path) -> list[str]:
    """Return what is half done."""
    return [str(path) for path in present(out, "**") if path.name.endswith((".incomplete", ".part", ".partial"))]


def wait_for(path: Path) -> str:
    """Return what is in a file once something is."""
    end = time.monotonic() + _PATIENCE
    while not (path.exists() and path.read_text()):
        assert time.monotonic() < end
        time.sleep(0.02)
    return path.read_text()


def started(*words: str, at: str = "") -> subprocess.Popen[bytes]:
    """Start a batch as a program of its own, whose processes wait, once, `at` a folder that is about to be whole."""
    before = ""
    if at:
        child = [sys.executable, "-c", _WAITING]
        before = f"import os\nos.environ['WAIT_AT'] = {at!r}\n"
        before += f"from memcarve.batching import children\nchildren.program = lambda: {child!r}"
    return subprocess.Popen(command("batch", *words, before=before), stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_carve(case: Path, capfdbinary: Capture) -> None:
    """Each input gets a folder, which holds just what the same command writes by hand, and all is for the owner."""
    ran = invoke(capfdbinary, "batch", "carve", *DUMPS, "-o", "out", "--hash", "md5", "--case-id", "c 7", "--jobs", "2")
    assert ran.code == 0
    lines = ran.out.decode().splitlines()
    assert lines[0].split() == ["input", "status", "seconds", "bytes", "folder", "reason"]
    assert [line.split()[:2] for line in lines[1:]] == [[dump, "done"] for dump in DUMPS]
    assert ran.err.splitlines()[-1] == "3 inputs: 3 done: out"
    assert sorted(os.listdir("out")) == ["batch.json", *FOLDERS]
    for dump, folder in zip(DUMPS, FOLDERS, strict=True):
        by_hand = invoke(capfdbinary, "carve", dump, "-o", f"by-hand-{folder}", "--hash", "md5", "--case-id", "c 7")
        assert files(case / "out" / folder / "segments") == files(case / f"by-hand-{folder}")
        assert (case / "out" / folder / "log.txt").read_text().splitlines()[0] == by_hand.err.splitlines()[0]
        said = json.loads((case / "out" / folder / "segments" / "segments.json").read_text())
        options = ["--hash", "md5", "--case-id", "c 7"]
        assert said["command"] == ["memcarve", "carve", dump, "-o", f"out/{folder}/segments", *options]
    for path in [case / "out", *(case / "out").rglob("*")]:
        assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600)


def test_state(case: Path, capfdbinary: Capture) -> None:
    """What became of each input is written down: what it was, the command, times, how it ended, and what is there."""
    assert invoke(capfdbinary, "batch", "carve", DUMPS[0], "absent", "-o", "out", "--summary", "json").code == 3
    found = state(case / "out")
    assert (found["schema"], found["tool"], found["what"]) == (1, "memcarve", "batch")
    assert found["work"] == {"command": "carve", "options": [], "files": []}
    assert [run["end"] is not None for run in found["runs"]] == [True]
    done, failed = found["inputs"]
    status = (case / DUMPS[0]).stat()
    assert (done["path"], done["size"], done["modified"]) == (DUMPS[0], status.st_size, status.st_mtime_ns)
    assert (done["status"], done["exit_status"], done["signal"], done["error"]) == ("done", 0, None, None)
    assert done["begin"] <= done["end"]
    assert done["outputs"] == ["segments"]
    assert done["bytes"] == sum(path.stat().st_size for path in (case / "out" / "pid.4.dmp" / "segments").iterdir())
    assert (failed["status"], failed["exit_status"], failed["outputs"]) == ("failed", 1, [])
    assert "No such file" in failed["error"]


@pytest.mark.usefixtures("quick")
def test_summary_in_json(case: Path, capfdbinary: Capture) -> None:
    """The summary has a row for each input, in the order in which they were named."""
    ran = invoke(capfdbinary, "batch", "segments", "absent", DUMPS[0], "-o", "out", "--summary", "json", "-q")
    assert (ran.code, ran.err.count("\n")) == (3, 1)
    failed, done = json.loads(ran.out)["inputs"]
    assert (failed["input"], failed["status"], failed["bytes"]) == ("absent", "failed", None)
    assert "No such file" in failed["reason"]
    assert (done["input"], done["status"], done["reason"], done["folder"]) == (DUMPS[0], "done", None, "out/pid.4.dmp")
    assert done["bytes"] == (case / "out" / "pid.4.dmp" / "segments.txt").stat().st_size


@pytest.mark.parametrize(
    ("words", "name", "hand"),
    [
        (["segments", "--format", "csv"], "segments.csv", ["segments", "INPUT", "--format", "csv"]),
        (["hunt", "--format", "json"], "hunt.json", ["hunt", "INPUT", "--format", "json"]),
        (["processes"], "processes.txt", ["processes", "INPUT"]),
        (["strings", "--min-length", "6"], "strings.txt", ["strings", "INPUT", "--min-length", "6"]),
        (
            ["find", "--pattern", "needle", "--pattern", "-o", "--encoding", "utf-8"],
            "find.txt",
            ["find", "INPUT", "--encoding", "utf-8", "--", "needle", "-o"],
        ),
    ],
)
def test_listings(case: Path, capfdbinary: Capture, words: list[str], name: str, hand: list[str]) -> None:
    """What a command prints is in a file of its name and format, as it would be printed by hand."""
    ran = invoke(capfdbinary, "batch", words[0], DUMPS[0], *words[1:], "-o", "out")
    by_hand = invoke(capfdbinary, *[DUMPS[0] if word == "INPUT" else word for word in hand])
    assert ran.code == by_hand.code == 0
    assert (case / "out" / "pid.4.dmp" / name).read_bytes() == by_hand.out
    assert sorted(os.listdir("out/pid.4.dmp")) == sorted([name, "log.txt"])


@pytest.mark.parametrize(
    ("words", "outputs"),
    [
        (["export", "--to", "elfcore"], ["elfcore.core"]),
        (["export", "--to", "flat", "--address", "0x10000-0x11000"], ["flat.bin", "flat.bin.json"]),
        (["export", "--to", "memmap", "--all"], ["memmap"]),
        (["extract", "--zip"], ["modules.zip"]),
    ],
)
def test_what_is_written(case: Path, capfdbinary: Capture, words: list[str], outputs: list[str]) -> None:
    """What a command writes has a name that says what it is, and is well."""
    assert invoke(capfdbinary, "batch", words[0], DUMPS[0], *words[1:], "-o", "out").code == 0
    assert state(case / "out")["inputs"][0]["outputs"] == outputs


def test_verify_all(case: Path, capfdbinary: Capture) -> None:
    """Folders are inputs, too: what a batch has carved, another verifies; all that fail make it 1."""
    assert invoke(capfdbinary, "batch", "carve", DUMPS[0], "-o", "out").code == 0
    carved = ["out/pid.4.dmp/segments"]
    assert invoke(capfdbinary, "batch", "verify", *carved, "-o", "checked").code == 0
    for folder in carved:
        next((case / folder).glob("*.bin")).write_bytes(b"changed")
    assert invoke(capfdbinary, "batch", "verify", *carved, "-o", "again").code == 1
    assert statuses(case / "again") == ["failed"]


def test_hostile_names(case: Path, capfdbinary: Capture) -> None:
    """Inputs of any name are done, in folders of plain names; nothing of them reaches the terminal as it is."""
    names = [b"-o", b"a\nb.dmp", b"\x1b]0;x\x07.dmp", b"\xff.dmp", "\u202egnp.dmp".encode(), b"--all"]
    for name in names:
        shutil.copy(case / DUMPS[0], os.fsencode(case) + b"/" + name)
        shutil.copy(case / "host1" / "pid.4.map", os.fsencode(case) + b"/" + name.removesuffix(b".dmp") + b".map")
    (case / "list").write_bytes(b"".join(name + b"\0" for name in names))
    words = ["batch", "segments", "--inputs", "list", "-0", "-o", "out", "--input-type", "dump"]
    ran = invoke(capfdbinary, *words)
    assert sorted(os.listdir("out")) == ["_.dmp", "_0_x_.dmp", "_gnp.dmp", "a_b.dmp", "all", "batch.json", "o"]
    assert statuses(case / "out") == ["done"] * len(names)
    assert ran.code == 0
    assert not set(ran.out + ran.err.encode()) & {0x1B, 0x07, 0xFF}
    assert "\u202e" not in ran.out.decode() + ran.err
    again = invoke(capfdbinary, *words, "--resume")
    assert (again.code, state(case / "out")["inputs"]) == (0, state(case / "out")["inputs"])
    assert "done: segments" not in again.err


def test_lists_on_standard_input(case: Path) -> None:
    """Inputs come from standard input, as find prints them, beside those that are named."""
    listed = subprocess.run(
        command("batch", "segments", DUMPS[2], "--inputs", "-", "-o", "out"),
        input=f"{DUMPS[0]}\n".encode(),
        capture_output=True,
        check=False,
    )
    assert listed.returncode == 0
    assert [row["path"] for row in state(case / "out")["inputs"]] == [DUMPS[2], DUMPS[0]]


def test_all_failed(case: Path, capfdbinary: Capture) -> None:
    """If nothing could be done for any input, the exit status is 1, and each reason is said."""
    (case / "text").write_text("text")
    ran = invoke(capfdbinary, "batch", "carve", "absent", "text", "-o", "out")
    assert ran.code == 1
    assert ran.err.count("memcarve: ") == 2
    assert ran.err.splitlines()[-1] == "2 inputs: 2 failed: out"


def test_incomplete(case: Path, capfdbinary: Capture) -> None:
    """An input of which bytes are missing is incomplete, which makes it 3, and is not done again."""
    folder = case / "cut"
    folder.mkdir()
    write_dump(folder, [(0x10000, bytes([1]) * PAGE), (0x20000, PAGE)])
    words = ["batch", "carve", "cut/pid.4.dmp", "-o", "out"]
    assert invoke(capfdbinary, *words).code == 3
    before = state(case / "out")["inputs"]
    assert (before[0]["status"], before[0]["exit_status"]) == ("incomplete", 3)
    assert "missing" in before[0]["error"]
    assert invoke(capfdbinary, *words, "--resume").code == 3
    assert state(case / "out")["inputs"] == before


def test_one_that_is_killed(case: Path) -> None:
    """An input whose process is killed is told as killed and leaves nothing half done; the others are done."""
    batch = started("carve", *DUMPS, "-o", "out", "--jobs", "2", at=FOLDERS[1])
    number = int(wait_for(case / "waiting"))
    os.kill(number, signal.SIGKILL)
    _, messages = batch.communicate(timeout=_PATIENCE)
    assert batch.returncode == 3
    assert b"killed: was killed (SIGKILL)" in messages
    row = state(case / "out")["inputs"][1]
    assert (row["status"], row["signal"], row["exit_status"], row["outputs"]) == ("killed", 9, None, [])
    assert statuses(case / "out") == ["done", "killed", "done"]
    assert (os.listdir(case / "out" / FOLDERS[1]), left(case / "out")) == (["log.txt"], [])


@pytest.mark.usefixtures("quick")
def test_one_that_hangs(case: Path, capfdbinary: Capture) -> None:
    """An input that takes longer than it may is ended, and leaves nothing half done; the others are done."""
    (case / "hangs").touch()
    ran = invoke(capfdbinary, "batch", "segments", "hangs", DUMPS[0], "-o", "out", "--jobs", "2", "--time-limit", "2")
    assert ran.code == 3
    assert "memcarve: hangs: timed out: had not ended after 2 seconds" in ran.err
    assert statuses(case / "out") == ["timed out", "done"]
    assert os.listdir("out/hangs") == ["log.txt"]
    assert os.listdir("out/pid.4.dmp") != ["log.txt"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped(case: Path, capfdbinary: Capture, number: int) -> None:
    """A batch that is told to stop ends what runs, says how to go on, and goes on."""
    batch = started("carve", *DUMPS, "-o", "out", "--jobs", "1", at=FOLDERS[1])
    child = int(wait_for(case / "waiting"))
    batch.send_signal(number)
    table, messages = batch.communicate(timeout=_PATIENCE)
    assert (batch.returncode, table) == (128 + number, b"")
    said = messages.decode().splitlines()[-1]
    assert said.startswith(
        f"memcarve: stopped ({signal.Signals(number).name}); 1 of 3 inputs done; go on with memcarve"
    )
    assert said.endswith("batch carve host1/pid.4.dmp host2/pid.4.dmp host3/pid.4.dmp -o out --jobs 1 --resume")
    assert not is_alive(child)
    assert statuses(case / "out") == ["done", "stopped", "waiting"]
    assert left(case / "out") == []
    assert _goes_on(case, capfdbinary) == [True, False, False]


@pytest.mark.slow
def test_killed(case: Path, capfdbinary: Capture) -> None:
    """A batch that is killed takes with it what it runs; another goes on, and what was begun is done anew."""
    batch = started("carve", *DUMPS, "-o", "out", "--jobs", "1", at=FOLDERS[1])
    child = int(wait_for(case / "waiting"))
    other = invoke(capfdbinary, "batch", "carve", *DUMPS, "-o", "out", "--resume")
    assert (other.code, "is being written by another batch" in other.err) == (1, True)
    end = time.monotonic() + _PATIENCE
    while statuses(case / "out") != ["done", "running", "waiting"]:  # it is not written at once
        assert time.monotonic() < end
    batch.kill()
    batch.communicate(timeout=_PATIENCE)
    while is_alive(child):
        assert time.monotonic() < end
    assert len(left(case / "out")) == 1
    assert _goes_on(case, capfdbinary) == [True, False, False]


def _goes_on(case: Path, capfdbinary: Capture) -> list[bool]:
    """Go on with a batch, see that all is there and well; return which inputs were not done again."""
    before = {folder: (case / "out" / folder / "segments") for folder in FOLDERS}
    there = {folder: path.stat().st_ino for folder, path in before.items() if path.exists()}
    assert invoke(capfdbinary, "batch", "carve", *DUMPS, "-o", "out", "--resume").code == 0
    assert statuses(case / "out") == ["done"] * 3
    assert left(case / "out") == []
    assert len(state(case / "out")["runs"]) == 2
    for path in before.values():
        assert invoke(capfdbinary, "verify", path).code == 0
    return [there.get(folder) == path.stat().st_ino for folder, path in before.items()]


@pytest.mark.parametrize("damaged", [False, True])
def test_carve_goes_on_within_an_input(case: Path, capfdbinary: Capture, *, damaged: bool) -> None:
    """Of an input of several processes what is whole stays when one is killed; if it is damaged, all is done anew."""
    folder = case / "several"
    folder.mkdir()
    write_several(folder, {pid: [(0x10000, bytes([pid]) * PAGE)] for pid in (4, 8)})
    words = ["carve", "several/all.map", "--all", "-o", "out"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "cpu_count", lambda: 1)
        batch = started(*words, at="/8")
    child = int(wait_for(case / "waiting"))
    end = time.monotonic() + _PATIENCE
    segments = case / "out" / "all.map" / "segments"
    # not before it is recorded that it is whole, which is said after it has its name
    mark = segments / "processes.json.partial"
    while not mark.exists() or b'"row"' not in mark.read_bytes():
        assert time.monotonic() < end
        time.sleep(0.01)
    os.kill(batch_child(batch.pid, child), signal.SIGKILL)
    batch.communicate(timeout=_PATIENCE)
    assert batch.returncode == 1
    first = (segments / "4").stat().st_ino
    if damaged:
        next((segments / "4").glob("*.bin")).write_bytes(bytes(PAGE))
        assert invoke(capfdbinary, "batch", *words, "--resume").code == 1
    assert invoke(capfdbinary, "batch", *words, "--resume").code == 0
    assert state(case / "out")["inputs"][0]["command"][5] == ("--force" if damaged else "--resume")
    assert ((segments / "4").stat().st_ino == first, left(case / "out")) == (not damaged, [])
    assert invoke(capfdbinary, "verify", segments).code == 0


def batch_child(batch: int, below: int) -> int:
    """Return which process of a batch another is, or is below."""
    while True:
        with open(f"/proc/{below}/stat", encoding="utf-8") as file:
            parent = int(file.read().rpartition(")")[2].split()[1])
        if parent == batch:
            return below
        below = parent


def test_going_on_looks_at_inputs(case: Path, capfdbinary: Capture) -> None:
    """An input that has changed is done again, as is one whose output is gone; one that is gone itself stays."""
    words = ["batch", "carve", *DUMPS, "-o", "out"]
    assert invoke(capfdbinary, *words).code == 0
    old = [(case / "out" / folder / "segments").stat().st_ino for folder in FOLDERS]
    dump = case / DUMPS[0]
    dump.write_bytes(b"9" * PAGE + dump.read_bytes()[PAGE:])
    shutil.rmtree(case / "out" / FOLDERS[1] / "segments")
    (case / DUMPS[2]).unlink()
    make_dump(case / "host4", 4)
    ran = invoke(capfdbinary, *words, "host4/pid.4.dmp", "--resume")
    assert ran.code == 0
    assert f"note: {DUMPS[0]}: has changed since; it is done again" in ran.err
    assert f"note: {DUMPS[1]}: what was written of it is not there any more; it is done again" in ran.err
    assert f"note: {DUMPS[2]}: is not there any more; what was written of it stays" in ran.err
    now = [(case / "out" / folder / "segments").stat().st_ino for folder in FOLDERS]
    assert [one == other for one, other in zip(old, now, strict=True)][::2] == [False, True]
    assert b"9" * PAGE in files(case / "out" / FOLDERS[0] / "segments").values()
    assert (case / "out" / "pid.4.dmp" / "segments").is_dir()


@pytest.mark.parametrize(
    ("before", "now"),
    [
        (["carve"], ["carve", "--range", "user"]),
        (["carve"], ["segments"]),
        (["find", "--pattern", "a"], ["find", "--pattern", "b"]),
    ],
)
@pytest.mark.usefixtures("quick")
def test_another_command_does_not_go_on(case: Path, capfdbinary: Capture, before: list[str], now: list[str]) -> None:
    """A batch is gone on with by the same command alone."""
    assert invoke(capfdbinary, "batch", before[0], DUMPS[0], *before[1:], "-o", "out").code == 0
    ran = invoke(capfdbinary, "batch", now[0], DUMPS[0], *now[1:], "-o", "out", "--resume")
    assert (ran.code, "was begun with another command" in ran.err) == (1, True)
    assert statuses(case / "out") == ["done"]


@pytest.mark.usefixtures("quick")
def test_a_file_that_an_option_names_must_be_the_same(case: Path, capfdbinary: Capture) -> None:
    """Other rules, say, in a file of the same name are another command."""
    (case / "rules.yar").write_text("rule a { condition: true }")
    words = ["batch", "regions", DUMPS[0], "--regions", "rules.yar", "-o", "out"]
    invoke(capfdbinary, *words)
    (case / "rules.yar").write_text("rule other { condition: true }")
    ran = invoke(capfdbinary, *words, "--resume")
    assert (ran.code, "was begun with another command: files" in ran.err) == (1, True)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ([], 2, "Usage"),
        (["carve"], 2, "--output is missing"),
        (["carve", "-o", "new"], 2, "no input is named"),
        (["carve", "x", "-o", "new", "-0"], 2, "-0 says how --inputs"),
        (
            ["carve", "x", "-o", "new", "--force"],
            2,
            "a batch replaces nothing: --resume goes on with it, -o names another",
        ),
        (["carve", "x", "-o", "new", "--hash", "crc"], 2, "unknown hash 'crc'"),
        (["find", "x", "y", "-o", "new"], 2, "--pattern is missing"),
        (["scan", "x", "-o", "new", "--rules", "r", "--carve-hits", "a/b"], 2, "must be a bare name"),
        (["carve", "x", "-o", "new", "--jobs", "0"], 2, "--jobs"),
        (["diff", "x", "-o", "new"], 2, "'diff' is not a command"),
        (["x.raw"], 2, "'x.raw' is not a command"),
        (["-o", "new", "carve", "x"], 2, "those of a command stand after its name"),
        (["carve", "x", "-o", "new", "--resume"], 1, "leave --resume out to begin"),
        (["carve", "x", "-o", "full"], 1, "full: exists, and is not empty"),
        (["carve", "x", "-o", "full/file"], 1, "cannot be written: Not a directory"),
        (["carve", "full", "-o", "full/new"], 2, "full/new: lies in the input full"),
        (["carve", "--inputs", "absent", "-o", "new"], 1, "absent: cannot be read"),
    ],
)
def test_what_is_wrong_is_said_at_once(
    case: Path, capfdbinary: Capture, words: list[str], code: int, said: str
) -> None:
    """A mistake in the line is told before anything is run or written."""
    (case / "full").mkdir()
    (case / "full" / "file").touch()
    ran = invoke(capfdbinary, "batch", *words)
    assert ran.code == code
    assert said in ran.err + ran.out.decode()
    assert not (case / "new").exists()
    assert sorted(os.listdir("full")) == ["file"]


@pytest.mark.parametrize("change", ["", "[]", "{}", "folder", "status", "twice", "schema"])
@pytest.mark.usefixtures("quick")
def test_damaged_state(case: Path, capfdbinary: Capture, change: str) -> None:
    """A ``batch.json`` that memcarve did not write is an error, and leads nowhere."""
    words = ["batch", "segments", *DUMPS[:2], "-o", "out"]
    invoke(capfdbinary, *words)
    said = state(case / "out")
    first = said["inputs"][0]
    edits = {"folder": "../host1", "status": "well", "twice": said["inputs"][1]["folder"]}
    first["folder" if change == "twice" else change or "path"] = edits.get(change, 7)
    said |= {"schema": 2} if change == "schema" else {}
    (case / "out" / "batch.json").write_text(json.dumps(said) if change in {*edits, "schema"} else change)
    ran = invoke(capfdbinary, *words, "--resume")
    assert (ran.code, ran.err.count("\n")) == (1, 1)
    assert "batch.json: is not what memcarve writes" in ran.err


def test_hits_are_carved_into_each_folder(case: Path, capfdbinary: Capture) -> None:
    """What a command writes besides lies in the folder of the input, by the bare name that is given."""
    pytest.importorskip("yara_x")
    (case / "rules.yar").write_text('rule needle { strings: $a = "needle" condition: $a }')
    words = ["--rules", "rules.yar", "--carve-hits", "hits", "--format", "csv"]
    assert invoke(capfdbinary, "batch", "scan", DUMPS[0], *words, "-o", "out").code == 0
    assert state(case / "out")["inputs"][0]["outputs"] == ["hits", "scan.csv"]


def test_a_log_of_all(case: Path, capfdbinary: Capture) -> None:
    """One log takes what the batch says, and what each run says of itself."""
    assert invoke(capfdbinary, "batch", "carve", *DUMPS[:2], "-o", "out", "--log", "log").code == 0
    lines = list(map(json.loads, (case / "log").read_text().splitlines()))
    begun = [line["command"][1:3] for line in lines if line["event"] == "begin"]
    assert sorted(begun)[1:] == [["carve", DUMPS[0]], ["carve", DUMPS[1]]]
    assert [line["exit_status"] for line in lines if line["event"] == "end"] == [0, 0, 0]


@pytest.mark.parametrize("name", BATCH.commands)
def test_help(capfdbinary: Capture, name: str) -> None:
    """Help of a batch of a command has its own options, and the command's under their headings."""
    text = invoke(capfdbinary, "batch", name, "--help").out.decode()
    assert f"Usage: memcarve batch {name} [OPTIONS] INPUT..." in text
    own = text[text.index("\nMany inputs:") : text.index("\nWhat")]
    for option in ("-o, --output", "--inputs", "-0, --null", "--jobs", "--time-limit", "--resume", "--summary"):
        assert option in own
        assert text.count(f"  {option}") == 1
    assert "--force" not in text


def test_no_name_means_two_things() -> None:
    """No option of a batch has the name of an option of a command, but for -o and --resume, which mean the same."""
    for name, batch in BATCH.commands.items():
        own = {word for each in batch.params if str(each.name).startswith("batch_") for word in each.opts}
        theirs = {word for each in batch.command.params for word in each.opts}  # type: ignore[attr-defined]
        assert own & theirs <= {"-o", "--output", "--resume"}, name


def test_every_command_of_a_batch_is_documented() -> None:
    """The page about batches names all that can be run so, and each option."""
    page = (ROOT / "docs" / "batch.md").read_text()
    for name in BATCH.commands:
        assert f"`{name}`" in page
    for option in ("`-o", "`--inputs", "`-0`", "`--jobs", "`--time-limit", "`--resume`", "`--summary"):
        assert option in page
