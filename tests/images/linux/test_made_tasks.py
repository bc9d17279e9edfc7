"""Processes of a made-up Linux machine, whose structures no real kernel has: what is found depends on its BTF alone."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
from random import Random
from typing import TYPE_CHECKING

import pytest

import memcarve
from cli import run
from made_linux import BASE, BEGAN, IMAGE, SIZE, MadeLinux
from memcarve.permissions import EXECUTE

if TYPE_CHECKING:
    from pathlib import Path

    from memcarve.process import ProcessEntry

_ID = b"0123456789abcdef" * 4


@pytest.fixture
def made() -> MadeLinux:
    """Return a machine with two threads of the kernel and three programs."""
    found = MadeLinux()
    found.process(1, b"init", b"/sbin/init\0splash\0", b"HOME=/\0TERM=linux\0")
    found.process(2, b"kthreadd")
    found.process(3, b"kworker/0:1")
    found.process(10, b"sh\xff\n", b"-sh\0", uid=1000)
    found.process(20, b"server", b"server: idle (no NUL", b"was=environment\0")
    return found


def _entries(made: MadeLinux, folder: Path) -> dict[int | None, ProcessEntry]:
    with memcarve.open(made.written(folder)) as container:
        found = container.processes()
    assert len({entry.pid for entry in found}) == len(found)
    return {entry.pid: entry for entry in found}


def test_list(made: MadeLinux, tmp_path: Path) -> None:
    """The list's tasks are found, with users, names in bytes, times, and kernel threads as such."""
    found = _entries(made, tmp_path)
    assert [*found] == [1, 2, 3, 10, 20]
    assert [entry.listed for entry in found.values()] == [True] * 5
    assert [entry.unix.kernel_thread for entry in found.values() if entry.unix] == [False, True, True, False, False]
    shell = found[10]
    assert shell.unix is not None
    assert (shell.name, shell.unix.uid, shell.unix.gid, shell.state) == ("sh\udcff\n", 1000, 1001, "sleeping")
    assert shell.created == dt.datetime.fromtimestamp(BEGAN + 10, dt.UTC)
    assert found[2].root is None


def test_start(made: MadeLinux, tmp_path: Path) -> None:
    """Arguments, environment and auxiliary vector are those of the process; a title goes on over the environment."""
    with memcarve.open(made.written(tmp_path)) as container:
        (init,) = container.start_of(0).parameters
        (server,) = container.start_of(4).parameters
        assert not container.start_of(1).parameters
        vector = container.process(1).auxiliary_vector
    assert (init.command_line, init.environment) == ("/sbin/init splash", ("HOME=/", "TERM=linux"))
    assert server.command_line == "server: idle (no NULwas=environment"
    assert vector is not None
    assert len(vector) == 32


def test_hidden(made: MadeLinux, tmp_path: Path) -> None:
    """Tasks that the list does not lead to are found by number, by a thread, by their looks; each says how."""
    by_number, by_thread, by_looks, ended = (made.process(pid, b"", b"x\0") for pid in (30, 31, 32, 33))
    made.thread(by_thread, 40)
    for task in (by_number, by_thread, by_looks):
        made.unlink(task)
    for task in (by_thread, by_looks):
        made.forget(task)
    made.ended(ended)
    found = _entries(made, tmp_path)
    how = {pid: entry.unix.found for pid, entry in found.items() if entry.unix and entry.unix.found}
    assert how == {30: "pid table", 31: "pid table", 32: "search", 33: "search"}
    assert [found[pid].state for pid in (30, 31, 32, 33)] == [*["sleeping, unlinked"] * 3, "exited, unlinked"]
    assert found[33].unix is not None
    assert found[33].unix.exit_code == 0x300
    assert not any(entry.doubts for entry in found.values())


def test_thread_leads_to_its_process(made: MadeLinux, tmp_path: Path) -> None:
    """A process that nothing else shows, whose name has no end either, is found by one of its threads."""
    task = made.process(30, b"0123456789abcdef", b"x\0")
    thread = made.thread(task, 31)
    made.unlink(task)
    made.forget(task)
    made.forget(thread)
    found = _entries(made, tmp_path)
    assert 31 not in found
    assert found[30].unix is not None
    assert (found[30].object, found[30].unix.found, found[30].name) == (task, "thread", "0123456789abcdef")


def test_leader_that_ended(made: MadeLinux, tmp_path: Path) -> None:
    """A process whose leader has ended while a thread lives is a zombie with that thread's memory."""
    task = made.process(30, b"leader", b"x\0")
    made.thread(task, 31)
    made.task(task, mm=0, exit_state=0x20)
    with memcarve.open(made.written(tmp_path)) as container:
        entry = next(entry for entry in container.processes() if entry.pid == 30)
        assert (entry.state, entry.ended, entry.has_memory) == ("zombie", False, True)
        process = container.process(30, half="user")
        assert process.space.total == 4096
        assert not [note for note in process.notes if "has ended" in note]


@pytest.mark.parametrize("copied", [True, False])
def test_page_table_isolation(made: MadeLinux, tmp_path: Path, *, copied: bool) -> None:
    """What may run is what the copy for user mode says; a root that has no copy is taken as it is."""
    task = made.process(30, b"isolated", b"x\0")
    made.isolate(task, copied=copied)
    with memcarve.open(made.written(tmp_path)) as container:
        for pid, runs in ((30, copied), (1, True)):
            process = container.process(pid, half="user")
            assert process.space.flags is not None
            assert [flags & EXECUTE != 0 for flags in process.space.flags.tolist()] == [runs]
        assert container.process(30).space.total > container.process(30, half="user").space.total == 4096


def test_two_with_one_memory(made: MadeLinux, tmp_path: Path) -> None:
    """Two processes that share their memory, as after vfork, are two with the same root."""
    task, child = made.process(30, b"parent", b"x\0"), made.process(31, b"child", b"y\0")
    memory = made.get(task, "task_struct", "mm")
    made.task(child, mm=memory, active_mm=memory, real_parent=task)
    found = _entries(made, tmp_path)
    assert found[30].root == found[31].root
    assert found[31].parent == 30
    assert run("carve", tmp_path / "made.raw", "--all", "-o", tmp_path / "out").code == 0


def test_doubtful(made: MadeLinux, tmp_path: Path) -> None:
    """What lacks much that a task needs is doubtful, and says why; what lacks most of it is none."""
    doubtful, none = made.process(30, b"half", b"x\0"), made.process(31, b"nothing", b"x\0")
    for task in (doubtful, none):
        made.unlink(task)
        made.forget(task)
    made.task(doubtful, stack=0)
    made.task(none, stack=0, signal=0, sighand=0, mm=1 << 62, real_cred=made.user, cred=made.user)
    found = _entries(made, tmp_path)
    assert found[30].doubts == ("it has no kernel stack",)
    assert 31 not in found
    with memcarve.open(made.written(tmp_path)) as container:
        assert 30 not in {container.entry(index).pid for index in container.certain()}


def test_copy(made: MadeLinux, tmp_path: Path) -> None:
    """A copy of a task elsewhere in memory is doubtful, because it points to the original."""
    task = made.process(30, b"twice", b"x\0")
    begin, room = task % SIZE, 0x300000 + task % 4096
    made.memory[room : room + 512] = made.memory[begin : begin + 512]
    with memcarve.open(made.written(tmp_path)) as container:
        *found, copy = container.processes()
        assert container.choose([30]) == [5]
    assert [entry.pid for entry in found] == [1, 2, 3, 10, 20, 30]
    assert not any(entry.doubts for entry in found)
    assert copy.doubts == (f"a copy of the task at 0x{task:x}",)


@pytest.mark.parametrize("where", [0, 8, 0xDEAD000000000100, (1 << 64) - 8, 0xFFFF888000200008])
def test_torn_list(made: MadeLinux, tmp_path: Path, where: int) -> None:
    """A link that leads nowhere is told, and the other direction has what is behind it."""
    task = made.process(30, b"torn", b"x\0")
    made.process(31, b"behind", b"x\0")
    made.put(task, "task_struct", "tasks.next", where)
    with memcarve.open(made.written(tmp_path)) as container:
        listed = container.listed()
        assert {entry.pid for entry in listed} == {1, 2, 3, 10, 20, 30, 31}
        assert any("damaged" in note for note in container.notes)


def test_links_beyond_all_addresses(made: MadeLinux, tmp_path: Path) -> None:
    """If both links of the first task lead to the last address, no processes are found, and that is said."""
    for way in ("next", "prev"):
        made.put(made.first, "task_struct", f"tasks.{way}", (1 << 64) - 1)
    with (
        memcarve.open(made.written(tmp_path), input_type="image") as container,
        pytest.raises(memcarve.MemcarveError),
    ):
        container.processes()


def test_containers(made: MadeLinux, tmp_path: Path) -> None:
    """A container is told by the identifier in its control groups' names, by LXC's name, or by its host's name."""
    docker, lxc, host, none = (made.process(pid, b"x", b"x\0") for pid in (30, 31, 32, 33))
    made.contained(docker, b"", b"system.slice", b"docker-" + _ID + b".scope")
    made.contained(lxc, b"", b"lxc.payload.web", b"init.scope")
    made.contained(host, b"", b"user.slice", host=b"inner")
    made.contained(none, b"", b"system.slice")
    found = _entries(made, tmp_path)
    told = {pid: entry.unix.container for pid, entry in found.items() if entry.unix}
    assert (told[30], told[31], told[32], told[33], told[1]) == (_ID.decode(), "web", "inner", None, None)


def test_tree_of_numbers_that_loops(made: MadeLinux, tmp_path: Path) -> None:
    """A node of the tree of numbers that is its own child is passed once."""
    task = made.process(30, b"x", b"x\0")
    made.unlink(task)
    at = made.node % SIZE
    made.memory[at + 8 : at + 16] = (made.node | 2).to_bytes(8, "little")
    assert 30 in _entries(made, tmp_path)


def test_commands(made: MadeLinux, tmp_path: Path) -> None:
    """The list is printed with what each process needs; what takes all leaves kernel threads out, in words."""
    image = made.written(tmp_path)
    table = run("processes", image, "--listed")
    assert table.code == 0
    assert "sh\\udcff\\x0a" in table.out.decode()
    assert "/sbin/init splash" in table.out.decode()
    assert "image_path" not in table.out.decode()
    detailed = run("processes", image, "--listed", "--details").out.decode().splitlines()
    assert detailed[0].split()[-2:] == ["image_path", "command_line"]
    rows = json.loads(run("processes", image, "--format", "json", "--environment").out)["processes"]
    assert rows[0]["parameters"][0]["environment"] == ["HOME=/", "TERM=linux"]
    assert (rows[3]["uid"], rows[3]["gid"], rows[1]["kernel_thread"]) == (1000, 1001, True)
    done = run("carve", image, "--all", "-o", tmp_path / "out")
    assert done.code == 0, done.err
    assert "2 kernel threads" in done.err
    assert len([path for path in (tmp_path / "out").iterdir() if path.is_dir()]) == 3
    assert run("verify", tmp_path / "out").code == 0
    refused = run("carve", image, "--pid", "2", "-o", tmp_path / "other")
    assert refused.code == 1
    assert "2 kthreadd is a kernel thread: it has no memory of its own; --range kernel" in refused.err
    assert run("carve", image, "--pid", "2", "--range", "kernel", "-o", tmp_path / "kernel").code == 0


@pytest.mark.parametrize("seed", range(12))
def test_damaged_structures(made: MadeLinux, tmp_path: Path, seed: int) -> None:
    """Whatever the kernel's structures say, processes are listed and told of, or a declared error is raised."""
    random = Random(seed)  # noqa: S311
    made.thread(made.process(30, b"x", b"x\0"), 31)
    made.contained(made.process(32, b"y", b"y\0"), b"", b"system.slice", b"docker-" + _ID + b".scope")
    words = [*range(made.node % SIZE, made.used, 8)]
    pointers = [made.first, made.node | 2, BASE + 8, BASE + SIZE - 4, IMAGE - 8, 0, 1, (1 << 64) - 1, (1 << 63) + 1]
    pointers += [BASE + random.randrange(made.used) for _ in range(8)]
    for at in random.sample(words, 60):
        made.memory[at : at + 8] = random.choice(pointers).to_bytes(8, "little")
    with memcarve.open(made.written(tmp_path), input_type="image") as container:
        try:
            entries = container.processes()
        except memcarve.MemcarveError:
            return
        for index, entry in enumerate(entries):
            assert all(isinstance(doubt, str) for doubt in entry.doubts)
            with contextlib.suppress(memcarve.MemcarveError):
                container.start_of(index).told(environment=True)
                assert container.process(index=index, half="user").metadata is not None


def test_thread_of_another_group(made: MadeLinux, tmp_path: Path) -> None:
    """A thread whose group has another number does not lead to its leader: that is found by what it looks like."""
    with memcarve.open(made.written(tmp_path)) as container:
        task = next(entry.object for entry in container.processes() if entry.pid == 20)
    assert task is not None
    thread = made.thread(task, 21)
    made.unlink(task)
    made.forget(task)
    for group, how in ((20, "pid table"), (99, "search")):
        made.put(thread, "task_struct", "tgid", group)
        unix = _entries(made, tmp_path)[20].unix
        assert unix is not None
        assert unix.found == how
