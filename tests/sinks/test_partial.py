"""Several processes on bad days: what is whole stays in a folder that says it is partial, and another run goes on."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import memcarve
import winimage
from cli import command, invoke, run
from dumps import write_several
from files import listing
from headers import BASE, pe_page
from memcarve.formats import partial_mark
from memory import PAGE, noise
from mounts import tmpfs
from portable import PORTABLE
from sweeps import LONG

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cli import Ran
    from dumps import Piece

    Capture = pytest.CaptureFixture[bytes]

MARK = "processes.json.partial"
LISTS = ["SHA256SUMS", "processes.json"]
PIDS = (4, 8, 12, 16)
KILLS = 60 if LONG else 2

#: a library's caller whose clock stands still, so that what it writes is the same each time, and how long it takes
CALLER = """
import datetime, os, sys, time
import memcarve, memcarve.provenance as provenance, memcarve.sinks.sink as sink
from memcarve.sinks import export
from memcarve.sinks.extract import extract
table, out, kind, resume, pause = sys.argv[1:]
begin = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
provenance.now = sink.now = lambda: begin
def one(process, path, options, progress):
    if kind == "modules":
        result = extract(process, memcarve.find_modules(process).modules, path, options, progress)
    else:
        result = export(process, process.segments(), path, kind, options, progress)
    time.sleep(float(pause))
    return result
def named(entry, index, taken):
    return f"{entry.pid}.dmp" if kind == "memmap" else str(entry.pid)
options = memcarve.SinkOptions(
    command=["x"],
    begin=begin,
    resume=resume == "resume",
    address=(0x10000, 0x30000) if kind == "flat" else None,
)
with memcarve.open(table, hashed=True) as container:
    memcarve.write_several(
        container, container.certain(), out, one, options, named=named, at_once=kind == "segments"
    )
"""


def layout(pid: int) -> list[Piece]:
    """Return the memory of a process: a module, and segments that no other process has."""
    rows: list[Piece] = [(BASE, bytes(pe_page())), (BASE + PAGE, noise(pid))]
    return rows + [(0x10000 * (number + 1), noise(1000 * pid + number, 2 * PAGE)) for number in range(20)]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Return the map of four processes."""
    return write_several(tmp_path, {pid: layout(pid) for pid in PIDS})


def call(table: Path, out: Path, kind: str = "segments", resume: str = "", pause: float = 0) -> subprocess.Popen[bytes]:
    """Start a caller of the library."""
    words = [sys.executable, "-c", CALLER, str(table), str(out), kind, resume, str(pause)]
    return subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def called(*arguments: Any, **options: Any) -> None:
    """Have a caller of the library write all of it."""
    process = call(*arguments, **options)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err.decode()


def tree(folder: Path) -> dict[str, bytes]:
    """Return every file below a folder, but of processes.json what tells of the runs."""
    found = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    document = json.loads(found["processes.json"])
    assert document.pop("runs")
    digest = hashlib.sha256(found["processes.json"]).hexdigest()
    found["SHA256SUMS"] = found["SHA256SUMS"].replace(f"{digest}  processes.json\n".encode(), b"processes.json\n")
    return found | {"processes.json": json.dumps(document).encode()}


def stop_at(monkeypatch: pytest.MonkeyPatch, pid: int, error: BaseException) -> None:
    """Have the writing of one process raise an error, and of those behind it."""
    from memcarve.sinks import several  # noqa: PLC0415

    true = several._Several.write

    def write(self: several._Several, number: int) -> Any:
        if (self.container.entry(self.tasks[number][0]).pid or 0) >= pid:
            raise error
        return true(self, number)

    monkeypatch.setattr(several._Several, "write", write)


@pytest.fixture
def partial(table: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: Capture) -> Path:
    """Return a folder of carved processes, of which 12 and 16 are not there."""
    out = table.parent / "out"
    with monkeypatch.context() as patched:
        patched.setattr(os, "cpu_count", lambda: 1)
        stop_at(patched, 12, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt) as raised:
            carve(capfdbinary, table)
    state = f"{out} is partial: 2 of 4 processes are whole; not there: 12, 16; go on with "
    assert raised.value.__notes__ == [state + shlex.join(["memcarve", *sys.argv[1:], "--resume"])]
    assert listing(out) == ["4", "8", MARK]
    return out


def carve(capture: Capture, table: Path, *words: str | Path) -> Ran:
    """Carve all processes into the folder beside their map."""
    return invoke(capture, "carve", table, "--all", "-o", table.parent / "out", "-q", *words)


# the mark


@pytest.mark.parametrize("force", [False, True])
def test_mark_is_there_from_the_beginning(table: Path, tmp_path: Path, *, force: bool) -> None:
    """The folder has its name and its mark before a process is written, and no mark when all are; so with force."""
    seen: list[list[str]] = []

    def one(process: memcarve.ProcessMemory, path: str, options: memcarve.SinkOptions, _: object) -> memcarve.Result:
        seen.append(listing(Path(path).parent))
        assert Path(path).parent == tmp_path / "out"
        return memcarve.carve(process, process.segments(), path, options)

    with memcarve.open(table) as container:
        memcarve.write_several(container, [0, 1], tmp_path / "out", one, memcarve.SinkOptions(force=force))
    assert seen == [[MARK], ["4", MARK]]
    assert listing(tmp_path / "out") == ["4", "8", *LISTS]


def test_mark_says_what_is_wanted(partial: Path) -> None:
    """The mark begins with a document that names every process, and has a line for each that is whole."""
    head, *lines = map(json.loads, (partial / MARK).read_text().splitlines())
    assert (head["schema"], head["tool"], head["what"], head["state"]) == (2, "memcarve", "processes", "partial")
    assert [(row["pid"], row["file"]) for row in head["processes"]] == [(pid, str(pid)) for pid in PIDS]
    assert [line["files"] for line in lines if "process" in line] == [["4"], ["8"]]


def test_what_exists_stays_until_the_new_one_is_whole(
    table: Path, tmp_path: Path, capfdbinary: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With --force, what is replaced stays as it is if the run is stopped, and nothing else is left."""
    assert carve(capfdbinary, table).code == 0
    before = tree(tmp_path / "out")
    stop_at(monkeypatch, 12, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt) as raised:
        carve(capfdbinary, table, "--force")
    assert raised.value.__notes__ == ["nothing was kept"]
    assert tree(tmp_path / "out") == before
    assert [name for name in listing(tmp_path) if "out" in name] == ["out"]


COMMANDS: Mapping[str, tuple[int, str]] = {
    "verify {out}": (1, "is partial: 2 of 4 processes are whole; not there: 12, 16; "),
    "segments {out} --pid 4": (1, "is partial: 2 of 4 processes are whole; not there: 12, 16; "),
    "processes {out}": (1, "is partial: 2 of 4 processes are whole; not there: 12, 16; "),
    "find {out} x --pid 4": (1, "is partial: "),
    "carve {out} --all": (1, "is partial: "),
    "diff {out} {table} --pid 4": (1, "is partial: "),
    "carve {table} --all -o {out}": (1, "exists, and is partial: 2 of 4 processes are whole; not there: 12, 16; "),
    "carve {table} --pid 4 -o {out}": (1, "exists, and is partial: "),
    "extract {table} --all -o {out}": (1, "exists, and is partial: "),
    "carve {table} --pid 4 -o {out} --force": (
        0,
        "is partial: 2 of 4 processes are whole; not there: 12, 16; it is rep",
    ),
    "carve {table} --all -o {out} --force": (0, "is partial: 2 of 4 processes are whole; not there: 12, 16; it is rep"),
}


@pytest.mark.parametrize("words", COMMANDS)
def test_every_command_says_so(partial: Path, table: Path, capfdbinary: Capture, words: str) -> None:
    """Every command that is given the folder says that it is partial and what is not there."""
    code, text = COMMANDS[words]
    ran = invoke(capfdbinary, *words.format(out=partial, table=table).split())
    assert (ran.code, text in ran.err) == (code, True), ran.err
    assert code or not (partial / MARK).exists()


def test_force_replaces_what_was_killed(partial: Path, table: Path, capfdbinary: Capture) -> None:
    """With --force a folder that is partial is replaced, with what a run that was killed was building in it."""
    (partial / ".12.abcdefgh.incomplete").mkdir()
    (partial / ".12.abcdefgh.incomplete" / "0x").write_text("half")
    assert carve(capfdbinary, table, "--force").code == 0
    assert listing(partial) == ["12", "16", "4", "8", *LISTS]


def test_whole_processes_are_usable(partial: Path, capfdbinary: Capture) -> None:
    """A process that is whole can be verified and opened by its own folder."""
    assert invoke(capfdbinary, "verify", partial / "4").code == 0
    assert invoke(capfdbinary, "segments", partial / "8").code == 0


FIRST = {"tool": "memcarve", "what": "processes", "state": "partial", "schema": 2, "run": {}}
HOSTILE = {
    "nothing": "",
    "a list": "[]",
    "another's": '{"tool": "other"}',
    "a path": json.dumps(FIRST | {"processes": [{"file": "../x"}]}),
    "half a character": json.dumps(FIRST | {"processes": [{"file": "\ud800"}]}),
    "a name twice": json.dumps(FIRST | {"processes": []}).replace("{", '{"processes": [], ', 1),
    "deep": "[" * 100000,
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize("words", ["--resume", "--force"])
def test_hostile_mark(table: Path, tmp_path: Path, capfdbinary: Capture, words: str, text: str) -> None:
    """A mark that memcarve did not write makes no folder memcarve's: it is refused, and nothing in it changes."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / MARK).write_text(text)
    (tmp_path / "out" / "mine.doc").write_text("mine")
    ran = carve(capfdbinary, table, words)
    assert (ran.code, "that memcarve did not write" in ran.err) == (1, True)
    assert listing(tmp_path / "out") == ["mine.doc", MARK]
    assert invoke(capfdbinary, "verify", tmp_path / "out").code == 1


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no pipes in folders")
@pytest.mark.parametrize("words", [["carve", "{table}", "--all", "-o", "{out}", "--resume"], ["verify", "{out}"]])
def test_pipe_in_place_of_a_mark(table: Path, tmp_path: Path, words: list[str]) -> None:
    """A named pipe in place of a mark is refused, and nothing waits for it."""
    (tmp_path / "out").mkdir()
    os.mkfifo(tmp_path / "out" / MARK)
    ran = run(*(word.format(table=table, out=tmp_path / "out") for word in words))
    assert (ran.code, ran.err.count("\n")) == (1, 1)


# going on


@pytest.mark.parametrize("kind", ["segments", "minidump", "elfcore", "flat", "scripts", "memmap", "modules"])
def test_the_result_is_the_same(table: Path, tmp_path: Path, kind: str) -> None:
    """What was gone on with is, to the byte, what a run that nothing stopped writes, and says that there were two."""
    called(table, tmp_path / "other", kind)
    shutil.move(tmp_path / "other", tmp_path / "once")
    process = call(table, tmp_path / "other", kind, pause=1)
    until(lambda: len(recorded(tmp_path / "other")) > 0, process)
    process.kill()
    process.communicate()
    assert (tmp_path / "other" / MARK).exists()
    called(table, tmp_path / "other", kind, "resume")
    assert tree(tmp_path / "other") == tree(tmp_path / "once")
    runs = json.loads((tmp_path / "other" / "processes.json").read_text())["runs"]
    assert [(run["command"], run["end"] is None) for run in runs] == [(["x"], True), (["x"], False)]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are written in threads here")
def test_the_result_of_copies_is_the_same(image: Path, tmp_path: Path) -> None:
    """The same holds of an image, whose processes are written by copies of the program."""
    called(image, tmp_path / "other")
    shutil.move(tmp_path / "other", tmp_path / "once")
    process = call(image, tmp_path / "other", pause=1)
    until(lambda: len(recorded(tmp_path / "other")) > 0, process)
    process.kill()
    process.communicate()
    called(image, tmp_path / "other", resume="resume")
    assert tree(tmp_path / "other") == tree(tmp_path / "once")


def recorded(folder: Path) -> dict[int, Any]:
    """Return what a folder's mark says is whole; nothing if there is no mark."""
    try:
        mark = partial_mark.of(str(folder))
    except memcarve.InputError:  # it is gone by now
        mark = None
    return {} if mark is None else mark.rows


def until(condition: Any, process: subprocess.Popen[bytes]) -> None:
    """Wait until something is so; the process must still run then."""
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)


def test_only_what_is_not_there_is_written(partial: Path, table: Path, capfdbinary: Capture) -> None:
    """Processes that are whole are verified and left as they are."""
    before = {path: path.stat().st_mtime_ns for path in (partial / "4").iterdir()}
    ran = invoke(capfdbinary, "carve", table, "--all", "-o", partial, "--resume")
    assert ran.code == 0, ran.err
    assert ran.err.count("note: is whole already, and as it was recorded") == 2
    assert {path: path.stat().st_mtime_ns for path in (partial / "4").iterdir()} == before
    assert listing(partial) == ["12", "16", "4", "8", *LISTS]
    assert invoke(capfdbinary, "verify", partial, "--source", table).code == 0


REFUSED: Mapping[str, tuple[tuple[str, ...], str]] = {
    "hash": (("--hash", "md5"), 'hashes was ["sha256"], and is now ["md5"]'),
    "range": (("--range", "user"), 'given_half was null, and is now "user"'),
    "address": (("--address", "0x10000"), "address was []"),
    "split": (("--content", "full"), 'content was null, and is now "full"'),
    "case": (("--case-id", "7"), 'case_id was null, and is now "7"'),
}


@pytest.mark.parametrize("case", REFUSED)
def test_other_options(partial: Path, table: Path, capfdbinary: Capture, case: str) -> None:
    """With other options nothing is gone on with, and the first that differs is named."""
    words, text = REFUSED[case]
    ran = carve(capfdbinary, table, "--resume", *words)
    assert (ran.code, f"was begun differently: {text}" in ran.err) == (1, True), ran.err
    assert listing(partial) == ["4", "8", MARK]


@pytest.mark.parametrize("what", ["time", "length", "bytes", "dump", "map"])
def test_another_input(partial: Path, table: Path, capfdbinary: Capture, what: str) -> None:
    """If the input is not the same, by length, time, bytes, or in a dump of what is whole, it is refused."""
    file = table if what != "dump" else table.parent / "pid.4.dmp"
    status = file.stat()
    text = file.read_bytes()
    if what == "length":
        file.write_bytes(text + b"\n")
    elif what == "bytes":
        file.write_bytes(b"v" + text[1:])
    elif what == "map":
        write_several(table.parent, {pid: layout(pid) for pid in (4, 8, 12)})
    if what in ("time", "dump"):
        os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    else:
        os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    ran = carve(capfdbinary, table, "--resume")
    assert ran.code == 1
    assert ("pid.4.dmp: has changed since 4 was written" if what == "dump" else "differently: input was") in ran.err
    assert listing(partial) == ["4", "8", MARK]


def test_an_input_elsewhere(partial: Path, table: Path, tmp_path: Path, capfdbinary: Capture) -> None:
    """An input that lies elsewhere by now, and is the same, is gone on with."""
    (tmp_path / "moved").mkdir()
    for path in tmp_path.glob("*.*"):
        path.rename(tmp_path / "moved" / path.name)
    ran = invoke(capfdbinary, "carve", tmp_path / "moved" / table.name, "--all", "-o", partial, "--resume", "-q")
    assert (ran.code, ran.err) == (0, "")


def test_other_processes(partial: Path, table: Path, capfdbinary: Capture) -> None:
    """With a choice of other processes nothing is gone on with."""
    ran = invoke(capfdbinary, "carve", table, "--pid", "4", "--pid", "12", "-o", partial, "--resume")
    assert (ran.code, "list of processes was" in ran.err) == (1, True)


def test_another_version(partial: Path, table: Path, capfdbinary: Capture) -> None:
    """What another version of memcarve began is not gone on with."""
    text = (partial / MARK).read_text()
    (partial / MARK).write_text(text.replace(f'"version": "{memcarve.__version__}"', '"version": "0.0.1"'))
    ran = carve(capfdbinary, table, "--resume")
    assert (ran.code, f'version was "0.0.1", and is now "{memcarve.__version__}"' in ran.err) == (1, True)


def test_another_command(partial: Path, table: Path, capfdbinary: Capture) -> None:
    """What one command began another does not go on with."""
    ran = invoke(capfdbinary, "extract", table, "--all", "-o", partial, "--resume")
    assert (ran.code, "was begun differently" in ran.err) == (1, True)


def test_nothing_to_go_on_with(table: Path, tmp_path: Path, capfdbinary: Capture) -> None:
    """A folder that is not there, is whole, or somebody else's is not gone on with, and --force has no place then."""
    ran = carve(capfdbinary, table, "--resume")
    assert (ran.code, "does not exist; leave --resume out to begin" in ran.err) == (1, True)
    assert carve(capfdbinary, table).code == 0
    ran = carve(capfdbinary, table, "--resume")
    assert (ran.code, "is not partial: there is nothing to go on with" in ran.err) == (1, True)
    assert carve(capfdbinary, table, "--resume", "--force").code == 2
    (tmp_path / "file").write_text("")
    assert invoke(capfdbinary, "carve", table, "--all", "-o", tmp_path / "file", "--resume").code == 1


@pytest.mark.parametrize("words", [["carve"], ["export", "--to", "elfcore"], ["extract"]], ids=" ".join)
def test_one_process_is_not_gone_on_with(table: Path, tmp_path: Path, capfdbinary: Capture, words: list[str]) -> None:
    """One process is whole or nothing: --resume is wrong usage for it."""
    ran = invoke(capfdbinary, *words, table, "--pid", "4", "-o", tmp_path / "out", "--resume")
    assert (ran.code, "--resume is for several processes" in ran.err) == (2, True)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("damage", ["byte", "file", "more", "list", "resealed"])
def test_damaged_process(partial: Path, table: Path, capfdbinary: Capture, damage: str) -> None:
    """A process that is not as it was recorded is named and left alone; once it is moved away it is written again."""
    segment = min((partial / "4").glob("0x*"))
    if damage == "byte":
        segment.write_bytes(bytes(segment.stat().st_size))
    elif damage == "file":
        segment.unlink()
    elif damage == "more":
        (partial / "4" / "more").write_text("")
    elif damage == "list":
        (partial / "4" / "segments.json").write_text("")
    else:
        shutil.rmtree(partial / "4")
        words = ("carve", table, "--pid", "4", "--hash", "sha256", "-o", partial / "4", "-q", "--operator", "another")
        assert invoke(capfdbinary, *words).code == 0
    before = sorted(path.name for path in (partial / "4").iterdir())
    ran = carve(capfdbinary, table, "--resume")
    assert (ran.code, ran.err.count("\n")) == (1, 1)
    assert f"{partial}/4" in ran.err
    assert "move it away: --resume writes it again" in ran.err
    assert (listing(partial), listing(partial / "4")) == (["4", "8", MARK], before)
    (partial / "4").rename(table.parent / "damaged")
    assert carve(capfdbinary, table, "--resume").code == 0
    assert invoke(capfdbinary, "verify", partial, "--source", table).code == 0


@pytest.mark.parametrize("moment", [1, 2])
def test_stopped_as_the_folder_is_made(
    table: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: Capture, moment: int
) -> None:
    """A signal while the folder and its mark are made, which waits for the disk, leaves nothing of them."""
    from memcarve.sinks import partial_folder  # noqa: PLC0415

    before, calls = listing(table.parent), []

    def sync(folder: str) -> None:
        calls.append(folder)
        if len(calls) == moment:
            raise KeyboardInterrupt

    monkeypatch.setattr(partial_folder, "_sync", sync)
    with pytest.raises(KeyboardInterrupt):
        carve(capfdbinary, table)
    assert len(calls) == moment
    assert listing(table.parent) == before


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
@pytest.mark.parametrize(
    "name", [b"a b", b"a\x1b[2J", b"a\nb", b"a\xff0", b"\xe2\x80\xae1", b"'; x #", b"$(x)\t\\", b"\xc3\xa9", b"a\x9b'"]
)
def test_the_command_that_goes_on_can_be_pasted(
    table: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: Capture, name: bytes
) -> None:
    """The words that a shell takes from the command that is printed are those that were given, whatever is in them."""
    out = table.parent / os.fsdecode(name)
    stop_at(monkeypatch, PIDS[2], KeyboardInterrupt())
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    monkeypatch.setattr(sys, "argv", ["memcarve", "carve", str(table), "--all", "-o", str(out)])
    with pytest.raises(KeyboardInterrupt) as raised:
        carve(capfdbinary, table, "-o", out)
    shown = raised.value.__notes__[0].partition("; go on with ")[2]
    assert shown.isprintable()
    words = subprocess.run(["bash", "-c", f"printf '%s\\0' {shown}"], capture_output=True, check=True).stdout
    assert words == b"\0".join(map(os.fsencode, [*sys.argv, "--resume", ""]))


@pytest.mark.parametrize("member", ["sha256", "files", "complete", "error", "pid", "more", "of"])
def test_forged_row(partial: Path, table: Path, capfdbinary: Capture, member: str) -> None:
    """A row for the list that says anything else than the process and its hashes do is refused, and nothing is lost."""
    path = partial / MARK
    lines = path.read_text().split("\n")
    number = next(at for at, line in enumerate(lines) if '"row"' in line)
    found = json.loads(lines[number])
    found["row"][member] = {"sha256": {}, "files": ["x"], "pid": 5}.get(member, "\\ud800")
    if member in ("complete", "of"):
        found["row"].pop(member, None)
        found["row"] |= {"of": 3} if member == "of" else {}
    lines[number] = json.dumps(found)
    path.write_text("\n".join(lines))
    before = listing(partial)
    ran = carve(capfdbinary, table, "--resume")
    assert ran.code in (0, 1)
    assert "Traceback" not in ran.err
    if ran.code:
        assert "records of it is not what memcarve writes" in ran.err
        assert set(before) <= set(listing(partial))
    else:  # a line that is damaged says nothing
        assert member == "complete"
        assert invoke(capfdbinary, "verify", partial).code == 0


def test_what_killed_runs_left(partial: Path, table: Path, capfdbinary: Capture) -> None:
    """What was being built, or is whole and not recorded, is removed and written again; a line cut off says nothing."""
    (partial / ".12.abcdefgh.incomplete").mkdir()
    (partial / ".12.abcdefgh.incomplete" / "0x").write_text("half")
    (partial / ".processes.json.abcdefgh.incomplete").write_text("half")
    (partial / "processes.json").write_text("half")
    (partial / "SHA256SUMS").write_text("half")
    shutil.copytree(partial / "8", partial / "16")
    with (partial / MARK).open("a") as file:
        file.write('\n{"process": 2, "files": ["12"], "sha2')
    ran = carve(capfdbinary, table, "--resume")
    assert ran.code == 0, ran.err
    assert listing(partial) == ["12", "16", "4", "8", *LISTS]
    assert invoke(capfdbinary, "verify", partial, "--source", table).code == 0


@pytest.mark.parametrize("name", ["12", "notes", ".notes.abcdefgh.incomplete"])
def test_what_is_somebody_elses(partial: Path, table: Path, capfdbinary: Capture, name: str) -> None:
    """What somebody else put into the folder is neither removed nor replaced."""
    (partial / name).mkdir()
    (partial / name / "mine.doc").write_text("mine")
    ran = carve(capfdbinary, table, "--resume")
    assert (ran.code, f"holds {name}" in ran.err) == (1, True)
    assert "move it away" in ran.err
    assert (partial / name / "mine.doc").read_text() == "mine"


def test_somebody_elses_file_while_it_runs(table: Path, tmp_path: Path) -> None:
    """What somebody puts into the folder while it is written stays, also if nothing else does."""

    def one(process: memcarve.ProcessMemory, path: str, *_: object) -> memcarve.Result:
        (Path(path).parent / "mine").write_text(str(process.pid))
        raise memcarve.InputError("is broken on purpose")

    with memcarve.open(table) as container, pytest.raises(memcarve.InputError):
        memcarve.write_several(container, [0, 1], tmp_path / "out", one, memcarve.SinkOptions())
    assert listing(tmp_path / "out") == ["mine"]


@pytest.mark.skipif(PORTABLE or sys.platform == "win32", reason="without locks runs cannot know of each other")
def test_two_at_once(partial: Path, table: Path, capfdbinary: Capture) -> None:
    """While one run writes the folder, another neither goes on with it nor changes anything in it."""
    import fcntl  # noqa: PLC0415 - Unix

    with (partial / MARK).open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        ran = carve(capfdbinary, table, "--resume")
        assert (ran.code, "is being written by another run" in ran.err) == (1, True)
        assert listing(partial) == ["4", "8", MARK]
    assert carve(capfdbinary, table, "--resume").code == 0


def test_one_that_failed_is_tried_again(partial: Path, table: Path, capfdbinary: Capture) -> None:
    """A process that fails when it is gone on with is told as ever, and then all are done."""
    (table.parent / "pid.12.dmp").rename(table.parent / "gone")
    ran = carve(capfdbinary, table, "--resume")
    assert ran.code == 3
    assert listing(partial) == ["16", "4", "8", *LISTS]


# full disks


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an image of four processes, of which two are large."""
    path = tmp_path_factory.mktemp("full") / "mem.raw"
    plans = [winimage.Plan(388, b"smss.exe")]
    plans += [winimage.Plan(pid, b"big.exe", 388, winimage.MIXED) for pid in (1624, 2036)]
    winimage.build(path, processes=tuple(plans))
    return path


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("kind", ["carve", "export --to elfcore", "export --to minidump"])
def test_disk_too_small(image: Path, tmp_path: Path, kind: str, *, late: bool) -> None:
    """What fits stays; the message says what is not there, its room, and the command that goes on, which works."""
    before = "import shutil, types; shutil.disk_usage = lambda _: types.SimpleNamespace(free=1 << 60)" if late else ""
    with tmpfs(tmp_path, "size=9m") as where:
        out = where / "out"
        ran = run(*kind.split(), image, "--all", "-o", out, "-q", before=before)
        assert (ran.code, ran.err.count("\n")) == (1, 1), ran.err
        names = [name for name in listing(out) if name != MARK]
        assert len(names) == 3
        assert MARK in listing(out)
        assert f"{out} is partial: 3 of 4 processes are whole; not there: " in ran.err
        room = int(ran.err.split("what is not there takes about ")[1].split()[0])
        assert 5 << 20 < room < 6 << 20
        words = shlex.split(ran.err.split("go on with memcarve ")[1]) if not late else []
        subprocess.run(["mount", "-o", "remount,size=40m", where], check=True)
        again = run(*(words or [*kind.split(), image, "--all", "-o", out, "-q", "--resume"]))
        assert (again.code, again.err) == (0, "")
        assert len(listing(out)) == 6


def test_smaller_ones_behind_one_that_does_not_fit(image: Path, tmp_path: Path) -> None:
    """One process that does not fit is passed over: those behind it that do are written."""
    before = "import shutil, types; shutil.disk_usage = lambda _: types.SimpleNamespace(free=1 << 20)"
    words = ("--pid", 1624, "--pid", 388, "--pid", 2036)
    ran = run("carve", image, *map(str, words), "-o", tmp_path / "out", "-q", before=before)
    assert ran.code == 1
    assert listing(tmp_path / "out") == ["388-smss.exe", MARK]
    assert "2036-big.exe" in ran.err
    assert f"{tmp_path}/out/1624-big.exe: needs " in ran.err


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limits of files")
@pytest.mark.parametrize("kind", ["carve", "export --to elfcore", "extract"])
def test_limit_of_files(image: Path, tmp_path: Path, kind: str) -> None:
    """A limit of how long files may be stops the run like a full disk, and without it the rest is written."""
    before = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, resource.RLIM_INFINITY))"
    out = tmp_path / "out"
    ran = run(*kind.split(), image, "--all", "-o", out, "-q", before=before)
    if ran.code == 0:
        assert kind == "extract"  # no module is as large
        return
    assert (ran.code, ran.err.count("\n"), "File too large" in ran.err) == (1, 1, True), ran.err
    assert [name for name in listing(out) if name.startswith(".")] == []
    assert len(listing(out)) == 3
    assert run(*kind.split(), image, "--all", "-o", out, "-q", "--resume").code == 0
    assert len(listing(out)) == 6


def test_no_inodes_left(image: Path, tmp_path: Path) -> None:
    """A file system without room for another name is a full disk, not the failure of a process."""
    with tmpfs(tmp_path, "size=40m,nr_inodes=30") as where:
        ran = run("carve", image, "--all", "-o", where / "out", "-q")
        assert (ran.code, "No space left" in ran.err) == (1, True), ran.err
        assert "4-System" in listing(where / "out")
        assert [name for name in listing(where / "out") if name.startswith(".")] == []


def test_no_room_for_the_list(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: Capture
) -> None:
    """If only the list does not fit, all processes stay, and going on writes it."""
    from memcarve.sinks.partial_folder import PartialFolder  # noqa: PLC0415

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(PartialFolder, "put", full)
        ran = carve(capfdbinary, table)
    assert (ran.code, "4 of 4 processes are whole, and only processes.json is not there" in ran.err) == (1, True)
    assert listing(tmp_path / "out") == ["12", "16", "4", "8", MARK]
    assert carve(capfdbinary, table, "--resume").code == 0
    assert listing(tmp_path / "out") == ["12", "16", "4", "8", *LISTS]


# signals and kills


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
@pytest.mark.parametrize(
    ("kind", "name", "code"),
    [
        (kind, name, code)
        for number, (name, code) in enumerate({"SIGINT": 130, "SIGTERM": 143, "SIGHUP": 129}.items())
        for place, kind in enumerate(("carve", "export --to elfcore", "extract"))
        if LONG or place in (0, number)  # each signal, and each command
    ],
)
def test_signals(table: Path, tmp_path: Path, kind: str, name: str, code: int) -> None:
    """After a signal what is whole stays, the mark, too, and one line says how to go on; which works."""
    before = (
        f"import os, signal, time, memcarve.sinks.several as several\n"
        "for each in ('SIGINT', 'SIGTERM', 'SIGHUP'): signal.signal(getattr(signal, each), signal.SIG_DFL)\n"
        "true, program, os.cpu_count = several._Several.write, os.getpid(), lambda: 1\n"
        "def write(self, number):\n"
        f"    if number == 2: os.kill(program, signal.{name}), time.sleep(0.5)\n"
        "    return true(self, number)\n"
        "several._Several.write = write\n"
    )
    words = (*kind.split(), table, "--all", "-o", tmp_path / "out", "-q")
    ran = run(*words, before=before)
    assert (ran.code, ran.err.count("\n")) == (code, 1), ran.err
    said = f"memcarve: stopped ({name}); {tmp_path}/out is partial: 2 of 4 processes are whole; not there: "
    assert ran.err.startswith(said)
    assert ran.err.endswith(" --resume\n")  # the end of a command that can be pasted
    assert [name for name in listing(tmp_path / "out") if name.startswith(".")] == []
    assert (run(*words, "--resume").code, (tmp_path / "out" / MARK).exists()) == (0, False)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are written in threads here")
def test_signal_while_copies_are_made(image: Path, tmp_path: Path) -> None:
    """A signal in the moment when a copy is made is not lost: the run stops, and so do the copies."""
    before = (
        "import os, signal\n"
        "signal.signal(signal.SIGTERM, signal.SIG_DFL)\n"
        "sent = []\n"
        "def send(): sent or sent.append(os.kill(os.getpid(), signal.SIGTERM))\n"
        "os.register_at_fork(after_in_parent=send)\n"
    )
    ran = run("carve", image, "--all", "-o", tmp_path / "out", "-q", before=before)
    assert (ran.code, ran.err.count("\n")) == (143, 1), ran.err
    assert running(f"{tmp_path}/out") == []
    assert not (tmp_path / "out").exists() or MARK in listing(tmp_path / "out")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["segments", "elfcore", "modules"])
def test_killed_at_random_moments(table: Path, tmp_path: Path, kind: str) -> None:
    """Killed at any moment, and again while it is gone on with, the folder is marked, and in the end it is the same."""
    out = tmp_path / "out"
    called(table, out, kind)
    once = tree(out)
    shutil.rmtree(out)
    moments = random.Random(14)  # noqa: S311 - moments of a test
    killed = 0
    for _ in range(KILLS):
        resume = ""
        for longest in itertools.count(0.8, 0.2):  # ever later, so that there is an end to it on a slow machine
            process = call(table, out, kind, resume, pause=0.1)
            while process.poll() is None and not (out / MARK).exists():
                time.sleep(0.002)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(moments.uniform(0, longest))
            process.kill()
            process.communicate()
            assert not out.exists() or (out / MARK).exists() or (out / "processes.json").exists()
            if process.returncode == 0:
                break
            killed += 1
            if not (out / MARK).exists():
                break
            resume = "resume"
        if not out.exists():
            continue
        assert tree(out) == once
        shutil.rmtree(out)
        for path in tmp_path.glob(".out.*.incomplete"):
            shutil.rmtree(path)
    assert killed


STEPS = ("rename", "replace", "link", "unlink", "fsync", *(("mkdir", "write") if LONG else ()))


@pytest.mark.slow
@pytest.mark.parametrize("step", STEPS)
def test_killed_at_each_step(table: Path, tmp_path: Path, step: str) -> None:
    """Killed before any call that changes the disk, a folder that has its name is marked or whole, and goes on."""
    words = ("export", table, "--pid", "4", "--pid", "8", "--to", "memmap", "-q", "-o")
    assert run(*words, tmp_path / "once").code == 0
    once = {name: (tmp_path / "once" / name).read_bytes() for name in listing(tmp_path / "once")}
    del once["processes.json"], once["SHA256SUMS"]
    out = tmp_path / "out"
    for number in range(1, 400 if LONG else 4):
        before = (
            "import os, signal\n"
            f"true, calls = os.{step}, []\n"
            "def counted(*arguments, **options):\n"
            "    calls.append(1)\n"
            f"    if len(calls) == {number}: os.kill(os.getpid(), signal.SIGKILL)\n"
            "    return true(*arguments, **options)\n"
            f"os.{step} = counted\n"
        )
        ran = run(*words, out, before=before)
        ended = ran.code == 0
        if (out / MARK).exists():
            assert ran.code == -signal.SIGKILL
            ran = run(*words, out, "--resume")
        elif not out.exists():
            assert ran.code == -signal.SIGKILL
            ran = run(*words, out)
            assert ran.code == 0, ran.err
        assert listing(out) == sorted([*once, *LISTS]), ran.err
        assert {name: (out / name).read_bytes() for name in once} == once
        shutil.rmtree(out)
        for path in tmp_path.glob(".out.*"):
            shutil.rmtree(path)
        if ended:
            break


def running(words: str) -> list[int]:
    """Return the numbers of the programs whose command line holds something."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if words.encode() in (path / "cmdline").read_bytes():
                found.append(int(path.name))
        except OSError:  # it has ended
            pass
    return found


@pytest.mark.skipif(sys.platform != "linux" or PORTABLE, reason="programs are looked for as Linux lists them")
def test_copies_end_with_their_parent(image: Path, tmp_path: Path) -> None:
    """If the program is killed, so are its copies at once, and nothing is left but the folder with its mark."""
    before = (
        "import os, time, memcarve.forking as forking, memcarve.sinks.several as several\n"
        "several._Several.write, os.cpu_count = lambda *_: time.sleep(60), lambda: 3\n"
        "forking._end_with = lambda _: time.sleep(60)\n"  # what systems without such a call have
    )
    words = command("carve", image, "--all", "-o", tmp_path / "out", "-q", before=before)
    process = subprocess.Popen(words, stdin=subprocess.DEVNULL)
    try:
        until(lambda: len(running(f"{tmp_path}/out")) == 4, process)
        process.kill()
        process.wait()
        end = time.monotonic() + 5
        while running(f"{tmp_path}/out") and time.monotonic() < end:
            time.sleep(0.01)
        assert running(f"{tmp_path}/out") == []
    finally:
        process.kill()
        process.wait()
        for number in running(f"{tmp_path}/out"):
            os.kill(number, signal.SIGKILL)
    assert listing(tmp_path / "out") == [MARK]
    assert run("carve", image, "--all", "-o", tmp_path / "out", "-q", "--resume").code == 0


# names that are empty


def test_empty_names(table: Path) -> None:
    """An input or an output whose name is empty is a typed error that shows the name."""
    with pytest.raises(memcarve.InputError, match="''"):
        memcarve.open("")
    with memcarve.open(table) as container:
        process = container.process(4)
        with pytest.raises(memcarve.OutputError, match="'': is not the name of a f"):
            memcarve.carve(process, process.segments(), "")
        with pytest.raises(memcarve.OutputError, match="'': is not the name of a f"):
            memcarve.export(process, process.segments(), "", "elfcore")
        for resume in (False, True):
            with pytest.raises(memcarve.OutputError, match="'': is not the name of a f"):
                memcarve.write_several(container, [0, 1], "", memcarve.carve, memcarve.SinkOptions(resume=resume))  # type: ignore[arg-type]
