"""What processes were started with, when and where they run is what real Linux machines said of themselves."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest

from linux_machines import as_bytes, link_bytes, machine, machines
from linux_systems import entries, stopped, typed_system_of

if TYPE_CHECKING:
    from memcarve.images.linux.linux_system import LinuxSystem
    from memcarve.metadata import Parameters
    from memcarve.process import ProcessEntry

each_machine = pytest.mark.parametrize("name", machines())

_TICK = 100  # of /proc/PID/stat, in a second
_GONE = re.compile(r"gone-\d")


def _started(system: LinuxSystem, entry: ProcessEntry) -> Parameters:
    (found,) = system.start_of(entry, system.table_of(entry)).parameters
    return found


def _with_leaders(name: str) -> list[tuple[dict[str, Any], ProcessEntry]]:
    """Return what was said of the processes that stood still and whose leaders live, and what was found."""
    said = machine(name).processes
    return [(said[pid], entry) for pid, entry in stopped(machine(name)) if said[pid]["state"] != "Z"]


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else text.encode("utf-8", "surrogateescape")


def _swapped(name: str, pid: int, first: int, last: int) -> bool:
    """Return whether a page between two addresses was swapped out."""
    return bool(
        ((machine(name).swapped(pid).address >= first & -4096) & (machine(name).swapped(pid).address < last)).any()
    )


@each_machine
def test_command_lines(name: str) -> None:
    """Command lines are what /proc/PID/cmdline held, a space for each NUL; also those that programs wrote over."""
    system, wrong = typed_system_of(name), []
    for said, entry in _with_leaders(name):
        found = _bytes(_started(system, entry).command_line)
        if _swapped(name, said["pid"], said["arg_start"], said["env_end"]):
            assert found is None
        elif found != as_bytes(said["cmdline"]).rstrip(b"\0").replace(b"\0", b" "):
            wrong.append((said["pid"], found, said["cmdline"]))
    assert wrong == []
    assert any(said["cmdline"].startswith("rich: worker 3") for said, _ in _with_leaders(name))


@each_machine
def test_environments(name: str) -> None:
    """Environments are the strings of /proc/PID/environ."""
    system, wrong = typed_system_of(name), []
    for said, entry in _with_leaders(name):
        found = _started(system, entry).environment
        if _swapped(name, said["pid"], said["env_start"], said["env_end"]):
            assert found is None
            continue
        assert found is not None
        if [*map(_bytes, found)] != [*filter(None, as_bytes(said["environ"]).split(b"\0"))]:
            wrong.append((said["pid"], found, said["environ"]))
    assert wrong == []


@each_machine
def test_programs_and_directories(name: str) -> None:
    """Program and working directory are what /proc/PID/exe and cwd led to, deleted programs and memfds among them."""
    system, wrong, deleted = typed_system_of(name), [], 0
    for said, entry in _with_leaders(name):
        found = _started(system, entry)
        links = said["links"]
        told = _bytes(found.image_path), _bytes(found.current_directory)
        if told != (link_bytes(links["exe"]), link_bytes(links["cwd"])):
            wrong.append((said["pid"], told, links["exe"], links["cwd"]))
        deleted += links["exe"].endswith(" (deleted)")
    assert wrong == []
    assert deleted


@each_machine
def test_auxiliary_vectors(name: str) -> None:
    """The auxiliary vector is that of /proc/PID/auxv up to its end."""
    system = typed_system_of(name)
    for said, entry in _with_leaders(name):
        found = system.auxiliary_vector(entry)
        assert found is not None
        expected = bytes.fromhex(said["auxv"])
        assert expected.startswith(found) or found.startswith(expected)
        assert len(found) >= 16 * system.kernel.structures.word


@each_machine
def test_start_times(name: str) -> None:
    """A process began as many ticks after the machine did as /proc/PID/stat says, by the machine's own calendar."""
    system = typed_system_of(name)
    now = float(machine(name).truth["time"])
    found = entries(system)
    began = set()
    for pid, said in machine(name).processes.items():
        if pid not in found:
            continue
        created = found[pid].created
        assert created is not None
        # what is left of the time is when the machine began: the same for all
        began.add(round(created.timestamp() - said["start_ticks"] / _TICK, 1))
        assert now - 3600 < created.timestamp() < now
    assert max(began) - min(began) <= 0.11


@each_machine
def test_host_names_tell_of_containers(name: str) -> None:
    """What runs under another host's name is told by it; all else is in no container that is named by an identifier."""
    system = typed_system_of(name)
    inner = {pid for pid, entry in stopped(machine(name)) if entry.unix is not None and entry.unix.container}
    own = machine(name).processes[1]["links"]["ns/uts"]
    expected = {said["pid"] for said, _ in _with_leaders(name) if said["links"]["ns/uts"] != own}
    assert expected
    assert expected <= inner
    identifiers = {entry.unix.container for _, entry in stopped(machine(name)) if entry.unix is not None} - {None}
    assert "inner-host" in identifiers
    assert system.problem == ""


@each_machine
def test_ended_tasks_are_told_as_such(name: str) -> None:
    """What only the search finds on a machine where nothing hides has ended; of processes that were there before."""
    system = typed_system_of(name)
    listed = {entry.object for entry in system.listed()}
    rest = [entry for entry in system.processes() if entry.object not in listed]
    assert system.processes()[: len(listed)] == system.listed()
    for entry in rest:
        assert entry.unix is not None
        assert (entry.state, entry.ended, entry.root, entry.doubts) == ("exited, unlinked", True, None, ())
        assert entry.unix.found == "search"
        assert not _GONE.match(entry.name or "") or entry.unix.exit_code is not None
    assert rest
