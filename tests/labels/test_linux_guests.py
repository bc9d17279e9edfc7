"""Flags of the processes of real Linux machines: those that were made to be remarkable, and no others."""

from __future__ import annotations

import shutil
import struct
from typing import TYPE_CHECKING

import pytest

import memcarve
from linux_machines import Machine, Vma, machine, machines
from memcarve.process import Selection
from memcarve.vocabulary import Severity
from memory import PAGE
from processes import labels_of

if TYPE_CHECKING:
    from pathlib import Path

    from memcarve.process import Container

#: what the kernel calls memory that has no file on a disk
_NAMED_MEMORY = (b"/memfd:", b"/dev/zero (deleted)", b"/SYSV", b"/secretmem")
_FRAME = 0x0000_FFFF_FFFF_F000


def runs(vma: Vma) -> bool:
    """Return True if a mapping is executable."""
    return vma.permissions[2] == "x"


def expected(vmas: tuple[Vma, ...]) -> dict[str, set[int]]:
    """Return the starts of the mappings that each flag is about, by the lines of maps alone."""
    own = [vma for vma in vmas if not vma.inode and (vma.name in (b"", b"[heap]", b"[stack]") or b"[anon" in vma.name)]
    named = [vma for vma in vmas if vma.name.startswith(_NAMED_MEMORY)]
    deleted = [vma for vma in vmas if vma.name.endswith(b" (deleted)") and vma not in named]
    return {
        "private-executable": {vma.start for vma in own if runs(vma)},
        "writable-executable": {vma.start for vma in vmas if vma.permissions[1:3] == "wx"},
        "memfd-executable": {vma.start for vma in named if runs(vma)},
        "deleted-executable": {vma.start for vma in deleted if runs(vma)},
        "executable-stack": {vma.start for vma in vmas if vma.name == b"[stack]" and runs(vma)},
    }


@pytest.mark.parametrize("name", machines())
def test_flags(name: str) -> None:
    """Each flag is about exactly the mappings that the machine's own lines say; page tables say no more than these."""
    given = machine(name)
    seen: set[str] = set()
    with memcarve.open(given.raw) as container:
        for pid in given.stopped:
            index = container.choose([pid])[0]
            flagged = labels_of(container.process(index=index, half="user")).flagged
            where = flagged.where
            # on a machine that nobody broke into nothing is urgent
            assert {"thread-in-private", "stack-in-private"} <= set(where)
            assert not [row for row in flagged.findings if row.severity == Severity.HIGH]
            vmas = given.vmas(pid)
            for flag, starts in expected(vmas).items():
                found = {
                    next(vma.start for vma in vmas if vma.start <= low < vma.end) for low, _ in where[flag].bounds()
                }
                assert found <= starts, (pid, flag)
                # neighbours are one interval
                assert bool(found) == bool(starts), (pid, flag)
                seen |= {flag} if found else set()
    assert {"private-executable", "writable-executable", "memfd-executable", "deleted-executable"} <= seen


def entry_of(memory: bytearray, given: Machine, root: int, address: int) -> int | None:
    """Return where in the file the entry of the lowest table is that maps an address, if there are four levels."""
    table, place = root & _FRAME, 0
    for shift in (39, 30, 21, 12):
        place = table - given.raw_base + (address >> shift & 511) * 8
        if not 0 <= place <= len(memory) - 8:
            return None
        table = struct.unpack_from("<Q", memory, place)[0] & _FRAME
    return place


def differing(container: Container, pid: int) -> list[int]:
    """Return the pages of code that differ from other processes'."""
    process = container.process(index=container.choose([pid])[0], half="user")
    found = labels_of(process, Selection(flag=["text-differs"])).flagged.findings
    return [each.address for each in found if each.flag == "text-differs"]


@pytest.mark.parametrize("name", machines())
def test_code_that_was_patched(name: str, tmp_path: Path) -> None:
    """No process of a machine has other code than the others; one that gets a page of its own with a change has."""
    given = machine(name)
    alive = [pid for pid in given.stopped if given.processes[pid]["state"] != "Z"]
    with_library = [pid for pid in alive if any(b"libc" in vma.name and runs(vma) for vma in given.vmas(pid))]
    pid, other = with_library[3:5]
    code = next(vma for vma in given.vmas(pid) if b"libc" in vma.name and runs(vma))
    frames = dict(zip(given.pages(pid).address.tolist(), given.pages(pid).frame.tolist(), strict=True))
    address = next(place for place in range(code.start, code.end, PAGE) if place in frames)
    changed = tmp_path / "memory.raw"
    shutil.copyfile(given.raw, changed)
    with changed.open("r+b") as file:
        data = bytearray(file.read())
        spare = next(at for at in range(len(data) - PAGE, 0, -PAGE) if not any(data[at : at + PAGE]))
        with memcarve.open(given.raw) as container:
            root = next(each.root for each in container.listed() if each.pid == pid) or 0
        entry = entry_of(data, given, root, address)
        old = struct.unpack_from("<Q", data, entry)[0] if entry is not None else 0
        if (old & _FRAME) >> 12 != frames[address]:
            pytest.skip("this test walks four levels of 4 KiB pages")
        content = bytearray(data[(old & _FRAME) - given.raw_base :][:PAGE])
        content[0x123] ^= 0xFF
        for place, block in ((spare, content), (entry, struct.pack("<Q", (old & ~_FRAME) | (spare + given.raw_base)))):
            file.seek(place)
            file.write(block)
    with memcarve.open(given.raw) as container:
        assert {pid: differing(container, pid) for pid in given.stopped} == {pid: [] for pid in given.stopped}
    with memcarve.open(changed) as container:
        assert differing(container, pid) == [address]
        assert differing(container, other) == []
