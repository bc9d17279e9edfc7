"""What is found in the memory of real Linux machines is what they said of themselves in the same moment."""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import linux_machines
import memcarve
from linux_machines import STATES, as_bytes, crc32s, link_bytes, machine, machines

if TYPE_CHECKING:
    from collections.abc import Iterator

    from linux_machines import Machine
    from memcarve.process import Container, ProcessEntry
    from memcarve.space import AddressSpace

_TICK = 100  # a second, in the clock ticks of /proc

each_machine = pytest.mark.parametrize("name", machines())


_opened: dict[str, Container] = {}


@pytest.fixture(scope="module", autouse=True)
def _closed() -> Iterator[None]:
    yield
    for container in _opened.values():
        container.close()
    _opened.clear()
    _entries.cache_clear()


def _container(name: str) -> Container:
    if name not in _opened:
        _opened[name] = memcarve.open(machine(name).raw)
    return _opened[name]


@functools.cache
def _entries(name: str) -> dict[int, ProcessEntry]:
    entries = {}
    for entry in _container(name).processes():
        if entry.pid and entry.listed:
            assert entry.pid not in entries
            entries[entry.pid] = entry
    return entries


def _stopped(it: Machine) -> list[dict[str, Any]]:
    """Return what was said of the processes that stood still: what the kernel does of its own went on."""
    return [said for pid, said in it.processes.items() if not said["kernel_thread"] and pid != it.collector_pid]


@each_machine
def test_processes_are_all_found_and_no_others(name: str) -> None:
    """The list of processes leads to those that the machine listed; only workers of the kernel come and go."""
    it, found = machine(name), _entries(name)
    workers = re.compile(r"kworker/|scsi_|irq/")
    missing = set(it.processes) - set(found)
    more = set(found) - set(it.processes)
    assert [pid for pid in missing if not workers.match(it.processes[pid]["comm"])] == []
    assert [pid for pid in more if not workers.match(found[pid].name or "")] == []


@each_machine
def test_parents_names_users_and_states(name: str) -> None:
    """Parent, name to the byte, user and group, state and the number inside its namespace are what /proc said."""
    it, found = machine(name), _entries(name)
    wrong = []
    for said in _stopped(it):
        entry = found[said["pid"]]
        assert entry.unix is not None
        assert entry.name is not None
        told = (
            entry.parent,
            entry.name.encode("utf-8", "surrogateescape"),
            entry.unix.uid,
            entry.unix.gid,
            entry.unix.status,
            entry.unix.namespace_pid,
            entry.unix.kernel_thread,
        )
        inner = said["NSpid"].split()[-1]
        expected = (
            said["ppid"],
            as_bytes(said["comm"]),
            said["uid"][0],
            said["gid"][0],
            STATES[said["state"]],
            int(inner),
            False,
        )
        if told != expected:
            wrong.append((said["pid"], told, expected))
    assert wrong == []


@each_machine
def test_kernel_threads_are_told_apart(name: str) -> None:
    """A thread of the kernel is one, has its name, and no memory of its own."""
    it, found = machine(name), _entries(name)
    threads = [said for said in it.processes.values() if said["kernel_thread"] and said["pid"] in found]
    assert len(threads) > 20
    for said in threads:
        entry = found[said["pid"]]
        assert entry.unix is not None
        assert entry.unix.kernel_thread
        assert entry.root is None
        assert entry.parent == said["ppid"]
        # /proc adds what a worker does at the moment
        name_of = re.split("[+-]", said["comm"])[0] if said["comm"].startswith("kworker") else said["comm"]
        assert (entry.name or "").startswith(name_of[:15])


@each_machine
def test_start_times(name: str) -> None:
    """Each process began when /proc said, to the tick; when the machine did is known to the second."""
    it, found = machine(name), _entries(name)
    boot = int(re.search(rb"^btime (\d+)$", it.system("system/stat"), re.MULTILINE)[1])  # type: ignore[index]
    differences = []
    for said in _stopped(it):
        created = found[said["pid"]].created
        assert created is not None
        differences.append(created.timestamp() - boot - said["start_ticks"] / _TICK)
    assert max(differences) - min(differences) < 1.5 / _TICK  # all by the same clock
    assert -0.05 < min(differences) < 1.05  # btime is whole seconds, rounded down


@each_machine
def test_command_lines_environments_and_directories(name: str) -> None:
    """Command line, environment, program and working directory are what /proc said, to the byte."""
    it = machine(name)
    wrong = []
    for pid in it.stopped:
        said, links = it.processes[pid], it.processes[pid]["links"]
        if said["state"] == "Z":  # its other thread lives, and has what /proc no longer shows of the process
            continue
        (told,) = _container(name).process(pid, half="user").metadata.parameters
        environment = [*filter(None, as_bytes(said["environ"] or "").split(b"\0"))]
        expected = (
            as_bytes(said["cmdline"] or "").rstrip(b"\0").replace(b"\0", b" "),
            None if links["exe"].startswith("!") else link_bytes(links["exe"]),
            None if links["cwd"].startswith("!") else link_bytes(links["cwd"]),
            environment,
        )
        found = (
            _encoded(told.command_line),
            _encoded(told.image_path),
            _encoded(told.current_directory),
            [_encoded(text) for text in told.environment or ()],
        )
        wrong += [(pid, one, two) for one, two in zip(found, expected, strict=True) if one != two]
    assert wrong == []


@each_machine
def test_containers(name: str) -> None:
    """A process is in the container that its control group names, or else in that of its own host name, or in none."""
    it, found = machine(name), _entries(name)
    outside = it.processes[1]["links"]["ns/uts"]
    for said in _stopped(it):
        unix = found[said["pid"]].unix
        assert unix is not None
        told = re.search("[0-9a-f]{64}|(?<=/lxc/)[a-z]+", said.get("cgroup") or "")
        inside = said["links"]["ns/uts"] not in {outside, "!2"}
        assert unix.container == (told[0] if told else "inner-host" if inside else None), said["pid"]


@each_machine
def test_auxiliary_vectors(name: str) -> None:
    """What the kernel gave each program when it began is what /proc/PID/auxv said."""
    it = machine(name)
    for pid in it.stopped:
        said, process = it.processes[pid]["auxv"], _container(name).process(pid, half="user")
        found = process.auxiliary_vector
        if said is None or (found is None and it.truth["btf"] is None):
            continue  # where it lies is not learned if the kernel has no types
        assert found is not None
        if process.architecture == "x86" and it.truth["arch"] == "amd64":
            # of a 32-bit program, /proc goes on to where two words of 64 bits are zero
            assert bytes.fromhex(said).startswith(found), pid
            assert not any(bytes.fromhex(said)[len(found) :]), pid
        else:
            assert found.hex() == said, pid


def _encoded(text: str | None) -> bytes | None:
    return None if text is None else text.encode("utf-8", "surrogateescape")


@each_machine
def test_every_resident_page(name: str) -> None:
    """Each resident page of each process lies at the frame that pagemap said, with the CRC-32 that its content had."""
    it, found = machine(name), _entries(name)
    size, checked = it.page_size, 0
    image = np.memmap(it.raw, np.uint8, "r")
    for pid in it.stopped:
        pages = it.pages(pid)
        space = _container(name).process(pid).space
        place = _offsets(space, pages.address)
        assert (place >= 0).all(), (pid, [hex(it) for it in pages.address[place < 0].tolist()])
        wrong = place != pages.frame.astype(np.int64) * size - it.raw_base
        assert not wrong.any(), (pid, [hex(it) for it in pages.address[wrong].tolist()])
        content = b"".join(image[at : at + size].tobytes() for at in place[pages.readable].tolist())
        differ = pages.address[pages.readable][crc32s(content, size) != pages.crc32[pages.readable]]
        assert [hex(address) for address in differ.tolist() if not _moves(it, pid, address)] == [], pid
        # the library's own way to the bytes
        for address, crc in zip(pages.address[:3].tolist(), pages.crc32[:3].tolist(), strict=True):
            assert crc32s(space.read(address, size), size)[0] == crc or not pages.readable.all()
        checked += len(pages.address)
    assert checked > 5_000
    assert found[it.stopped[0]].root is not None


@each_machine
def test_no_page_that_the_machine_did_not_name(name: str) -> None:
    """A process's user half holds only pages that pagemap named, and areas of which pagemap says nothing.

    What pagemap named as swapped is there if it is on zram, which lies in the memory.
    """
    it = machine(name)
    for pid in it.stopped:
        process = _container(name).process(pid, half="user")
        space = process.space
        swapped = it.swapped(pid).address if name == "linux-6.12-amd64" else np.zeros(0, np.uint64)
        named = np.concatenate([it.pages(pid).address, swapped])
        addresses = np.concatenate(
            [
                np.arange(start, start + size, it.page_size, np.uint64)
                for start, size in zip(space.start.tolist(), space.size.tolist(), strict=True)
            ]
        )
        for address in np.setdiff1d(addresses, named).tolist():
            vma = next((vma for vma in it.vmas(pid) if vma.start <= address < vma.end), None)
            assert vma is not None, (pid, hex(address))
            # VM_PFNMAP and VM_MIXEDMAP, as smaps calls them
            unsaid = vma.flags & {"pf", "mm"} or vma.name.startswith((b"[v", b"anon_inode:[io_uring]", b"/dev/mem"))
            assert unsaid, (pid, hex(address), vma)


def _moves(it: Machine, pid: int, address: int) -> bool:
    """Return whether a page changes though its process stands still: the clock that the kernel shows all programs."""
    vma = next(vma for vma in it.vmas(pid) if vma.start <= address < vma.end)
    return vma.name.startswith(b"[vvar")


def _offsets(space: AddressSpace, addresses: np.ndarray[Any, np.dtype[np.uint64]]) -> np.ndarray[Any, Any]:
    """Return where in the image the byte at each address is; -1 if it is not mapped."""
    row = np.searchsorted(space.start, addresses, "right").astype(np.int64) - 1
    inside = row >= 0
    row = np.maximum(row, 0)
    delta = addresses - space.start[row]
    inside &= delta < space.size[row]
    return np.where(inside, (space.offset[row] + delta).astype(np.int64), -1)


def test_expectations_say_something() -> None:
    """The machines that are here hold what the tests above are about."""
    if machines() == [linux_machines.NONE]:
        machine(linux_machines.NONE)
    for name in machines():
        it = machine(name)
        assert {"Z", "T", "t"} <= {said["state"] for said in it.processes.values()}
        assert any(len(said["NSpid"].split()) > 1 for said in _stopped(it))
        assert {0, 1000} <= {said["uid"][0] for said in _stopped(it)}


@each_machine
def test_symbols_agree_with_what_was_found_without_them(name: str) -> None:
    """Where the kernel's own list of symbols has its first task, there it was found by its looks."""
    it, system = machine(name), _container(name).system  # type: ignore[attr-defined]
    told = system.symbols.address("init_task")  # kernels without CONFIG_KALLSYMS_ALL list functions alone
    assert told in (None, system.kernel.first.address)
    assert len(system.symbols) > 10_000
    assert system.release == it.truth["kernel"]
