"""The tasks, each through a real Redis and a real worker, against what the images are known to hold."""

from __future__ import annotations

import gzip
import hashlib
import html
import json
import os
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from celery import chain, group

import memcarve
from conftest import HOSTILE, PATIENCE, ROOT, WITH_MEMORY, Relik
from memcarve.errors import printable
from openrelik_worker_memcarve.naming import cell

if TYPE_CHECKING:
    from collections.abc import Iterator

    from conftest import Server


@pytest.fixture(scope="module")
def steady(redis_server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Relik]:
    """Return OpenRelik's part with a worker that all tests here use."""
    made = Relik(redis_server, tmp_path_factory.mktemp("steady"))
    made.work(2)
    yield made
    made.close()


def unpacked(path: Path, folder: Path) -> Path:
    """Unpack an archive as anybody would."""
    with tarfile.open(path) as archive:
        archive.extractall(folder, filter="data")
    return folder


def test_processes_are_listed_as_the_library_lists_them(steady: Relik, image: Path) -> None:
    """Number, name and parent of every process are in processes.json, and all of them in the report."""
    told = steady.get(steady.send("processes", image, command_lines=True))
    with memcarve.open(image) as container:
        expected = [(entry.pid, entry.name, entry.parent) for entry in container.processes()]
    rows = told.json("processes.json")["processes"]
    assert [(row["pid"], row["name"], row["parent"]) for row in rows] == expected
    assert next(row for row in rows if row["pid"] == 1624)["command_line"]
    assert told.document["task_report"]["summary"] == f"{len(expected)} processes"
    assert [file["data_type"] for file in told.files] == [
        f"worker:memcarve:processes:{kind}" for kind in ("processes", "report")
    ]


def test_a_hostile_name_is_text_in_the_report(steady: Relik, image: Path) -> None:
    """A process's name neither marks up a report nor ends a cell of its table."""
    told = steady.get(steady.send("processes", image))
    content = told.document["task_report"]["content"]
    assert "\x1b" not in content
    assert "<b>" not in content
    (line,) = [line for line in content.splitlines() if "|3004|" in line]
    assert line.count("|") == 5
    assert told.path(".md").read_text().rstrip("\n") == content.rstrip("\n")
    (row,) = [row for row in told.json("processes.json")["processes"] if row["pid"] == 3004]
    assert row["name"].endswith(HOSTILE[1:].decode())


@pytest.mark.parametrize(
    "name", ["&#8238;gpj.exe", "&lt;b&gt;", "a|b`c`", "<img src=x>", "[a](b:c)", "*x*_y_", "a\\|b"]
)
def test_a_cell_of_a_report_is_text(name: str) -> None:
    """What a cell of a report says is what stands there, once entities are resolved; nothing in it marks up."""
    shown = cell(name)
    assert html.unescape(shown) == printable(name)
    assert not set("<>[]`|*_\\") & set(shown)


def test_each_process_is_an_archive_that_verifies(steady: Relik, image: Path, tmp_path: Path) -> None:
    """What `carve` gives of a process is a carved folder, whole, and the same as the source."""
    told = steady.get(steady.send("carve", image, processes="1624, smss*", case_id="7-b"))
    assert told.names() == [
        "machine.1624-program.exe.tar",
        "machine.388-smss.exe.tar",
        "processes.json",
        "carve-report.md",
    ]
    folder = unpacked(told.path("program.exe.tar"), tmp_path)
    with memcarve.open(image) as container:
        checked = memcarve.verify(folder / "1624-program.exe", container.process(1624, half="user"))
    assert checked.compared
    (row, _) = told.json("processes.json")["processes"]
    assert (row["pid"], row["count"], row["error"]) == (1624, checked.count, None)
    assert "7-b" in (folder / "1624-program.exe" / "segments.json").read_text()
    assert steady.leftovers() == []


@pytest.mark.parametrize("fan_out", [False, True])
def test_all_processes_of_an_image_are_one_archive(
    steady: Relik, relik: Relik, image: Path, tmp_path: Path, *, fan_out: bool
) -> None:
    """One archive of all is as memcarve writes it of several processes, whoever wrote which of them."""
    if fan_out:
        steady = relik
        relik.work(2, MEMCARVE_FAN_OUT_MIB="1")
    told = steady.get(steady.send("carve", image, archive="all", hash_input=True))
    folder = unpacked(told.path("machine.carve.tar"), tmp_path) / "machine.carve"
    digest = hashlib.sha256(image.read_bytes()).hexdigest()
    assert all(digest in path.read_text() for path in folder.glob("*/segments.json"))
    done = subprocess.run(
        [sys.executable, "-m", "memcarve", "verify", folder], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert sorted(row["pid"] for row in told.json("processes.json")["processes"]) == WITH_MEMORY
    for line in (folder / "SHA256SUMS").read_text().splitlines():
        digest, name = line.split("  ")
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
    assert steady.leftovers() == []


def test_programs_are_extracted(steady: Relik, image: Path, tmp_path: Path) -> None:
    """Modules that match are files in the archive, the same as the library writes."""
    told = steady.get(steady.send("extract", image, processes="1624", files="ntdll*"))
    folder = unpacked(told.path(".tar"), tmp_path) / "1624-program.exe"
    listed = json.loads((folder / "modules.json").read_text())
    with memcarve.open(image) as container:
        process = container.process(1624, half="user")
        found = memcarve.find_modules(process, memcarve.Selection(file=["ntdll*"])).modules
        memcarve.extract(process, found, tmp_path / "own")
    assert listed["modules"]
    assert (folder / "SHA256SUMS").read_text().splitlines()[:-1] == (
        (tmp_path / "own" / "SHA256SUMS").read_text().splitlines()[:-1]
    )


@pytest.mark.parametrize(
    ("kind", "ending"), [("", ".mdmp"), ("elfcore", ".core"), ("memmap", ".map"), ("scripts", ".tar")]
)
def test_processes_are_exported(steady: Relik, image: Path, kind: str, ending: str) -> None:
    """A file of the wanted type for each process; minidumps and cores hold the process's segments."""
    told = steady.get(steady.send("export", image, processes="1624", type=kind))
    path = told.path(ending)
    if ending in (".mdmp", ".core"):
        with memcarve.open(path) as written, memcarve.open(image) as container:
            expected = container.process(1624, half="user").segments()
            assert written.process().segments(half="all").start.tolist() == expected.start.tolist()
    else:
        assert path.stat().st_size > 0


def test_findings_are_those_of_the_library(steady: Relik, image: Path) -> None:
    """All findings, as lines of JSON, and the worst of them decides how urgent the report is."""
    told = steady.get(steady.send("hunt", image, severity="info"))
    with memcarve.open(image) as container:
        expected = [finding.facts() for finding in memcarve.hunt(container)]
    found = [{key: value for key, value in row.items() if key != "input"} for row in told.lines("findings.jsonl")]
    assert sorted(map(json.dumps, found)) == sorted(map(json.dumps, expected))
    assert told.document["task_report"]["priority"] == {"high": 80, "medium": 40}[expected[0]["severity"]]


RULE = 'rule program { strings: $a = "MZ" condition: $a at 0 }'


# rules reach a part as they reach all, in whatever way they are given
@pytest.mark.parametrize(("given", "fan_out"), [("text", False), ("file", False), ("path", False), ("text", True)])
def test_rules_are_asked(
    steady: Relik, relik: Relik, image: Path, tmp_path: Path, given: str, *, fan_out: bool
) -> None:
    """Rules as text, as an input file, or from the worker's folder: the hits of the library, at once or in parts."""
    rules = tmp_path / "rules" / "program.yar"
    rules.parent.mkdir()
    rules.write_text(RULE)
    used = steady
    if fan_out or given == "path":
        used = relik
        relik.work(2, MEMCARVE_FAN_OUT_MIB="1" if fan_out else "1024", MEMCARVE_RULES=str(rules.parent))
    words = {"text": {"rules": RULE}, "path": {"rules_path": "program.yar"}, "file": {}}[given]
    told = used.get(used.send("scan", image, *[rules] * (given == "file"), **words))
    with memcarve.open(image) as container:
        expected = [
            (process.pid, f"0x{hit.address:x}")
            for process in (container.process(index=index, half="user") for index in container.certain())
            for _, hit, _ in memcarve.scan(process, memcarve.Rules.of(RULE))
        ]
    assert [(row["pid"], row["address"]) for row in told.lines("hits.jsonl")] == expected
    assert expected


def test_a_chain_goes_on_with_what_a_task_made(relik: Relik, image: Path) -> None:
    """Tasks in a chain take the outputs of the one before, whether that was done in parts or not; so does a group.

    OpenRelik hears of the tasks that it made, and of no other.
    """
    relik.work(2, MEMCARVE_FAN_OUT_MIB="1")
    heard = []
    first = relik.signature("export", image, processes="388 1624")
    others = [relik.signature("processes"), relik.signature("scan", rules=RULE)]
    with relik.app.connection() as connection:
        receiver = relik.app.events.Receiver(connection, handlers={"*": heard.append})
        consumer = receiver.itercapture(limit=None, timeout=PATIENCE, wakeup=True)
        next(consumer)
        result = chain(first, group(others)).apply_async()
        ends = ("task-succeeded", "task-failed")
        until = time.monotonic() + PATIENCE
        while sum(event["type"] in ends for event in heard) < 3 and time.monotonic() < until:
            next(consumer)  # a worker's heartbeat at the latest
    told = [relik.get(relik.app.AsyncResult(each.options["task_id"])) for each in (first, *others)]
    assert [row["pid"] for row in told[1].json("processes.json")["processes"]] == [388, 1624]
    assert {row["pid"] for row in told[2].lines("hits.jsonl")} == {388, 1624}
    known = {each.options["task_id"] for each in (first, *others)}
    of_tasks = [event for event in heard if event["type"].startswith("task-")]
    assert {event["uuid"] for event in of_tasks} == known
    assert any(event["type"] == "task-progress" and event["data"].get("total_processes") == 2 for event in of_tasks)
    del result


@pytest.fixture(scope="module")
def bomb(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a small file that decodes to 3 GiB."""
    path = tmp_path_factory.mktemp("bomb") / "bomb.raw.gz"
    with path.open("wb") as raw, gzip.GzipFile(fileobj=raw, mode="wb", compresslevel=1) as file:
        for _ in range(3 << 10):
            file.write(b"\1" * (1 << 20))
    return path


def test_poisoned_inputs_fail_for_themselves(steady: Relik, image: Path, bomb: Path, tmp_path: Path) -> None:
    """Each fails its own task, with the reason; what lies beside it in a task, and the tasks after it, are done."""
    cut = tmp_path / "cut.raw"
    cut.write_bytes(image.read_bytes()[: 1 << 20])
    noise = tmp_path / "noise.raw"
    noise.write_bytes(hashlib.shake_128(b"noise").digest(1 << 20))
    gone = tmp_path / "gone.raw"
    failing = {path: steady.send("carve", path) for path in (cut, noise, gone, bomb)}
    for path, result in failing.items():
        steady.fails(result, path.name)
    told = steady.get(steady.send("carve", noise, image, processes="1624"))
    assert told.names()[0] == "machine.1624-program.exe.tar"
    errors = {each["name"]: each["error"] for each in told.json("processes.json")["inputs"]}
    assert errors["machine.raw"] is None
    assert "noise.raw" in errors["noise.raw"]
    assert "noise.raw" in told.document["task_report"]["content"]
    assert steady.leftovers() == []


def test_hostile_names_of_inputs_are_plain_in_outputs(steady: Relik, image: Path, tmp_path: Path) -> None:
    """The name that an input was uploaded under leads nowhere and steers nothing."""
    noise = tmp_path / "noise"
    noise.write_bytes(b"noise" * 9999)
    named = {image: "../../../etc/\x1b[31m`$(id)`|x.raw", noise: "..\\..\n# <b>|[a](javascript:b)|\u202egpj.raw"}
    told = steady.get(steady.signature("carve", image, noise, named=named, processes="1624").apply_async())
    (row, *_) = told.json("processes.json")["processes"]
    assert set(row["input"]) <= set("abcdefghijklmnopqrstuvwxyz0123456789_.-")
    for file in told.files:
        assert set(file["display_name"]) <= set("abcdefghijklmnopqrstuvwxyz0123456789_.-")
        assert Path(file["path"]).parent == steady.out
    report = told.document["task_report"]["content"]
    assert not set("<>[]`\x1b\u202e") & set(report)
    assert "noise" not in report
    assert "gpj.raw" in report


@pytest.mark.parametrize(
    ("task", "config", "words"),
    [
        ("scan", {}, "there are no rules"),
        ("scan", {"rules": "rule x {"}, "syntax"),
        ("scan", {"rules": 'include "/etc/passwd"'}, "include statements not allowed"),
        ("scan", {"rules_path": "../../etc/passwd"}, "no rules of this name"),
        ("carve", {"case_id": "7\nb"}, "is not text on one line"),
        ("carve", {"processes": "x" * 9000}, "x"),
        ("export", {"type": "exe"}, "'exe' is not one of minidump"),
        ("carve", {"processes": "77777"}, "77777"),
        ("carve", {"range": "none"}, "'none' is not one of user"),
    ],
)
def test_what_cannot_be_asked_is_said(
    steady: Relik, image: Path, task: str, config: dict[str, str], words: str
) -> None:
    """A wrong field fails the task in one line."""
    steady.fails(steady.send(task, image, **config), words)


def test_uploaded_rules_include_no_files(steady: Relik, image: Path, tmp_path: Path) -> None:
    """Rules that were uploaded read neither files of the worker nor those of other workflows."""
    other = tmp_path / "other.yar"
    other.write_text(RULE)
    rules = tmp_path / "rules.yar"
    rules.write_text(f'include "{other}"')
    steady.fails(steady.send("scan", image, rules), "include statements not allowed")


def test_only_json_is_read(relik: Relik, image: Path, tmp_path: Path) -> None:
    """A message that would run code as it is read is refused, and the worker goes on."""
    relik.work(1)
    signature = relik.signature("processes", image)
    signature.kwargs["task_config"] = Trap(tmp_path / "sprung")
    signature.apply_async(serializer="pickle")
    assert relik.get(relik.send("processes", image)).names()
    assert not (tmp_path / "sprung").exists()
    assert "ContentDisallowed" in relik.log()


class Trap:
    """What makes a file as soon as it is read."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self._path),)


def test_workflows_see_nothing_of_each_other(relik: Relik, image: Path, tmp_path: Path) -> None:
    """Two workflows that work on one image at a time each find their own outputs in their own folders alone."""
    relik.work(2, MEMCARVE_FAN_OUT_MIB="1")
    folders = [tmp_path / "one", tmp_path / "two"]
    sent = []
    for folder, pid in zip(folders, ("388", "1624"), strict=True):
        folder.mkdir()
        signature = relik.signature("carve", image, processes=f"{pid} 4")
        signature.kwargs["output_path"] = str(folder)
        sent.append(signature.apply_async())
    for folder, told in zip(folders, map(relik.get, sent), strict=True):
        shown = sorted(str(path) for path in folder.iterdir() if not path.name.startswith("."))
        assert shown == sorted(file["path"] for file in told.files)
    pids = [{row["pid"] for row in relik.get(each).json("processes.json")["processes"]} for each in sent]
    assert pids == [{388, 4}, {1624, 4}]
    assert list(relik.out.iterdir()) == []


def test_progress_is_told(relik: Relik, image: Path) -> None:
    """A task that is done at once tells how many bytes of how many it has written."""
    relik.work(1)
    heard = []
    with relik.app.connection() as connection:
        receiver = relik.app.events.Receiver(connection, handlers={"*": heard.append})
        consumer = receiver.itercapture(limit=None, timeout=PATIENCE, wakeup=True)
        next(consumer)
        result = relik.send("carve", image)
        until = time.monotonic() + PATIENCE
        while not any(event["type"] == "task-succeeded" for event in heard) and time.monotonic() < until:
            next(consumer)
    told = [event["data"] for event in heard if event["type"] == "task-progress" and event["uuid"] == result.id]
    assert told
    assert all(0 <= each["done_bytes"] <= each["total_bytes"] for each in told)
    assert told[-1]["done_bytes"] == told[-1]["total_bytes"] > 0


def test_a_dump_is_found_with_its_map(steady: Relik, tmp_path: Path) -> None:
    """Files that belong together are found by the names they were uploaded under, whatever they are stored as."""
    examples = ROOT / "examples"
    stored = {}
    for number, name in enumerate(("pid.1624.dmp", "pid.1624.map", "vadinfo.txt")):
        path = tmp_path / f"{number}"
        path.write_bytes((examples / name).read_bytes())
        stored[path] = name
    told = steady.get(steady.signature("carve", *stored, named=stored).apply_async())
    (row,) = told.json("processes.json")["processes"]
    assert (row["pid"], row["count"], row["bytes"]) == (1624, 114, 1691648)
