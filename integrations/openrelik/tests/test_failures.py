"""Workers that are killed, a broker that is away, tasks that are delivered twice or revoked."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from celery.exceptions import TaskRevokedError
from vanishing import present, text_of

from conftest import PATIENCE, QUEUE, WITH_MEMORY, Relik, Server, eventually
from openrelik_worker_memcarve import tasks
from openrelik_worker_memcarve.app import UNACKED
from openrelik_worker_memcarve.failure import TaskFailed
from openrelik_worker_memcarve.once import Journal


def stopped_job(relik: Relik) -> int:
    """Wait for work to be begun, and stop it in the middle; return its process."""

    def stopped() -> int | None:
        for pid in relik.jobs():
            with contextlib.suppress(OSError):  # it has ended
                os.kill(pid, signal.SIGSTOP)
                while (state := Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]) not in "TZX":
                    time.sleep(0.01)
                if state == "T":
                    return pid
        return None

    return int(eventually(stopped, relik.log))


def resident(pid: int) -> int:
    """Return how many bytes of memory a process has of its own."""
    words = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("RssAnon"))
    return int(words.split()[1]) << 10


def outputs(relik: Relik) -> list[str]:
    """Return the names of all files that the output folder shows."""
    return sorted(path.name for path in relik.out.iterdir() if not path.name.startswith("."))


def begun(relik: Relik) -> int:
    """Return how often the work of tasks was begun."""
    return sum(text_of(path).count('"begin"') for path in present(relik.out, ".memcarve-*.journal"))


def test_the_process_of_a_task_is_killed(relik: Relik, image: Path) -> None:
    """If the system kills a worker's process, its task is delivered again at once, done once, and nothing is left."""
    worker = relik.work(1)
    result = relik.send("carve", image, processes="1624")
    job = stopped_job(relik)
    (child,) = worker.children
    os.kill(child, signal.SIGKILL)
    os.kill(job, signal.SIGCONT)
    told = relik.get(result)
    assert sorted(Path(file["path"]).name for file in told.files) == outputs(relik)
    assert begun(relik) == 2
    assert relik.leftovers() == []


@pytest.mark.parametrize("fan_out", ["1024", "1"])
def test_a_worker_is_killed_with_all_it_began(relik: Relik, image: Path, fan_out: str) -> None:
    """Another worker does what was under way after the time-out, and what was done already is not done again."""
    settings = {"MEMCARVE_VISIBILITY_TIMEOUT": "2", "MEMCARVE_FAN_OUT_MIB": fan_out}
    first = relik.work(2, **settings)
    result = relik.send("carve", image)
    if fan_out == "1":
        eventually(lambda: present(relik.out, ".memcarve-*/.memcarve-*/unit.json"), relik.log)
    job = stopped_job(relik)
    first.kill()
    os.kill(job, signal.SIGKILL)
    time.sleep(2)
    relik.work(2, **settings)
    told = relik.get(result)
    assert sorted(row["pid"] for row in told.json("processes.json")["processes"]) == WITH_MEMORY
    assert sorted(Path(file["path"]).name for file in told.files) == outputs(relik)
    assert relik.leftovers() == []


def test_a_task_that_kills_its_workers_is_given_up(relik: Relik, image: Path) -> None:
    """After some attempts none of which came to an end the task fails, with the reason, and others are done."""
    worker = relik.work(1, MEMCARVE_ATTEMPTS="2")
    result = relik.send("carve", image, processes="1624")
    for attempt in (1, 2):
        eventually(lambda number=attempt: begun(relik) == number, relik.log)
        job = stopped_job(relik)
        for child in worker.children:
            os.kill(child, signal.SIGKILL)
        os.kill(job, signal.SIGKILL)
    relik.fails(result, "2 attempts ended together with their worker")
    assert relik.get(relik.send("processes", image)).names() == ["processes.json", "processes-report.md"]
    assert relik.leftovers() == []


def test_a_task_is_delivered_while_it_is_done(relik: Relik, image: Path) -> None:
    """Of two deliveries one does the work, and one result is told."""
    relik.work(2)
    signature = relik.signature("carve", image, processes="1624")
    result = signature.apply_async()
    job = stopped_job(relik)
    signature.apply_async()
    eventually(lambda: relik.log().count(" received") == 2, relik.log)
    os.kill(job, signal.SIGCONT)
    told = relik.get(result)
    eventually(lambda: relik.log().count(" ignored") == 1, relik.log)
    assert relik.log().count("succeeded in") == 1
    assert begun(relik) == 1
    assert sorted(Path(file["path"]).name for file in told.files) == outputs(relik)


def test_signs_of_life_keep_a_long_task_from_being_delivered_again(relik: Relik, image: Path) -> None:
    """A task takes longer than the time-out; workers that look for lost ones leave it alone."""
    settings = {"MEMCARVE_VISIBILITY_TIMEOUT": "5"}
    relik.work(1, **settings)
    result = relik.send("carve", image, processes="1624")
    job = stopped_job(relik)
    relik.work(1, **settings)  # looks once after ten seconds
    client = relik.app.connection().default_channel.client
    scores = set()
    until = time.monotonic() + 11
    while time.monotonic() < until:
        scores |= {score for _, score in client.zrange(UNACKED["unacked_index_key"], 0, -1, withscores=True)}
        time.sleep(0.1)
    assert len(scores) > 3  # one every 1.25 seconds, if the machine has time
    os.kill(job, signal.SIGCONT)
    assert relik.get(result).names()
    assert relik.log().count("received") == 1


def test_the_broker_is_away(tmp_path: Path, image: Path) -> None:
    """Redis is killed in the middle and comes back with what it had: all tasks are done once."""
    server = Server(tmp_path)
    server.start()
    relik = Relik(server, tmp_path)
    results = []
    try:
        relik.work(2, MEMCARVE_FAN_OUT_MIB="1")
        results += [relik.send("carve", image), relik.send("processes", image), relik.send("hunt", image)]
        eventually(lambda: present(relik.out, ".memcarve-*/.memcarve-*/unit.json"), relik.log)
        server.stop()
        time.sleep(1)
        server.start()
        told = [relik.get(result) for result in results]
        assert sorted(row["pid"] for row in told[0].json("processes.json")["processes"]) == WITH_MEMORY
        assert sorted(Path(file["path"]).name for each in told for file in each.files) == outputs(relik)
        assert relik.leftovers() == []
    finally:
        relik.close()
        server.stop()


def test_a_task_is_revoked(relik: Relik, image: Path) -> None:
    """A revoked task ends with its work, leaves nothing half done, and the worker goes on."""
    relik.work(1)
    result = relik.send("carve", image, processes="1624")
    job = stopped_job(relik)
    result.revoke(terminate=True)
    with pytest.raises(TaskRevokedError):
        result.get(timeout=PATIENCE)
    os.kill(job, signal.SIGCONT)
    eventually(lambda: not Path(f"/proc/{job}").exists(), relik.log)
    eventually(lambda: relik.leftovers() == [], relik.log)
    assert outputs(relik) == []
    assert relik.get(relik.send("processes", image)).names()


def test_a_task_in_parts_is_revoked(relik: Relik, image: Path) -> None:
    """Its sub-tasks are given up, those under way and those that wait; what some of them wrote is taken away."""
    relik.work(1, MEMCARVE_FAN_OUT_MIB="1")
    result = relik.send("carve", image)
    eventually(lambda: present(relik.out, ".memcarve-*/.memcarve-*/unit.json"), relik.log)
    job = stopped_job(relik)
    result.revoke(terminate=True)
    os.kill(job, signal.SIGCONT)
    with pytest.raises(TaskRevokedError):
        result.get(timeout=PATIENCE)
    eventually(lambda: relik.leftovers() == [], relik.log)
    assert outputs(relik) == []
    told = relik.get(relik.send("processes", image))
    assert told.names()
    assert relik.log().count(f"Task {QUEUE}.one") < 2 * len(WITH_MEMORY)


def test_a_sub_task_ends_after_its_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a sub-task writes while the folder of its revoked task is taken away is taken away, too."""
    above = Journal(str(tmp_path), "all")
    unit = {"id": "part", "folder": f"{above.folder}/.memcarve-part"}
    with above.held():
        os.mkdir(above.folder)
        above.add(job={"units": [unit]})

    def work(job: dict[str, Any], *_: object) -> None:
        with above.held():
            above.add(failed="the task was revoked")
            above.clear()
        Path(job["folder"], "out").mkdir(parents=True)
        raise TaskFailed("the task was revoked")

    monkeypatch.setattr(tasks, "run", work)
    monkeypatch.setattr(tasks, "_tell", lambda *_: None)  # no Redis
    assert tasks.one("all", 0, above.folder, str(tmp_path)) == {"number": 0, "error": "the task was revoked"}
    assert [path.name for path in tmp_path.iterdir()] == [".memcarve-all.journal"]


@pytest.mark.parametrize(
    ("limit", "words"), [("IDLE", "did nothing for 1 seconds"), ("TIME", "took longer than 1 sec")]
)
def test_a_task_that_does_not_end_is_ended(relik: Relik, image: Path, limit: str, words: str) -> None:
    """Work that waits for what never comes, or takes too long, fails its task, with the reason; the worker goes on."""
    relik.work(1, **{f"MEMCARVE_{limit}_LIMIT": "1"})
    result = relik.send("carve", image, processes="1624")
    stopped_job(relik)
    relik.fails(result, words)
    assert relik.jobs() == []
    assert relik.leftovers() == []


def test_a_process_that_kills_its_workers(relik: Relik, image: Path) -> None:
    """Of a task in parts, one that never comes to an end is told as failed, and the others are done."""
    worker = relik.work(1, MEMCARVE_FAN_OUT_MIB="1", MEMCARVE_ATTEMPTS="1")
    result = relik.send("carve", image)
    eventually(lambda: present(relik.out, ".memcarve-*/.memcarve-*/unit.json"), relik.log)
    job = stopped_job(relik)
    for pid in (*worker.children, job):
        os.kill(pid, signal.SIGKILL)
    told = relik.get(result)
    rows = told.json("processes.json")["processes"]
    assert sorted(row["pid"] for row in rows) == WITH_MEMORY
    (error,) = [row["error"] for row in rows if "attempts" in str(row["error"])]
    assert error.startswith("1 attempts ended together with their worker")
    assert "ended together" in told.document["task_report"]["content"]
    assert relik.leftovers() == []


def test_a_task_that_waits_is_revoked(relik: Relik, image: Path) -> None:
    """A task that is revoked before a worker takes it is not begun, and leaves nothing."""
    relik.work(1)
    first, second = relik.send("carve", image, processes="1624"), relik.send("carve", image, processes="388")
    job = stopped_job(relik)
    second.revoke()
    eventually(lambda: f"revoked: {second.id}" in relik.log(), relik.log)
    os.kill(job, signal.SIGCONT)
    assert relik.get(first).names()[0] == "machine.1624-program.exe.tar"
    with pytest.raises(TaskRevokedError):
        second.get(timeout=PATIENCE)
    assert not any("388" in row for path in present(relik.out, ".*.journal") for row in text_of(path).splitlines()[:1])


def test_memory_is_bounded(relik: Relik, image: Path) -> None:
    """Work that needs more memory than it may have fails its task, and neither the worker nor the next task."""
    # below it threads can be begun, or not, or find no memory as soon as they are
    worker = relik.work(1, MEMCARVE_MEMORY_MIB="98", MEMCARVE_IDLE_LIMIT="8")
    for _ in range(2):
        relik.fails(
            relik.send("carve", image), "needs more memory than the 98 MiB|was there not enough memory|last words"
        )
    assert relik.jobs() == []
    # what takes tasks is still there, and reads no images
    assert sum(resident(pid) for pid in (worker.process.pid, *worker.children)) < 200 << 20
    assert relik.leftovers() == []


def test_many_images_in_flight(relik: Relik, tmp_path: Path) -> None:
    """Many tasks, an image each, on one worker with two processes: each gives its own image's processes.

    With MEMCARVE_LONG there are fifty.
    """
    from winimage import Plan, build  # noqa: PLC0415

    template = tmp_path / "template.raw"
    build(template, megabytes=16, processes=(Plan(388, b"smss.exe"),))
    data = template.read_bytes()
    place = data.index(b"smss.exe")
    relik.work(2)
    results = []
    for number in range(50 if os.environ.get("MEMCARVE_LONG") else 16):
        path = tmp_path / f"{number}.raw"
        with path.open("wb") as file:  # the name in the image says which it is
            file.write(data)
            file.seek(place)
            file.write(b"p%03d.exe" % number)
        results.append(relik.send("processes", path))
    for number, result in enumerate(results):
        names = [row["name"] for row in relik.get(result).json("processes.json")["processes"]]
        assert f"p{number:03}.exe" in names
