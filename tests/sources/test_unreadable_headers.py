"""Headers in blocks that cannot be read: what they say is not known, which is said; what can be read is right."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Any

import pytest

import containers
import memcarve
from cli import invoke
from dumps import write_dump
from memcarve.backing import FileBacking
from memcarve.images.physical import PhysicalMemory
from memcarve.sources.image import machine_memory
from memory import PAGE, noise

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SECTOR = 512
ROWS = [(0x10000000 + number * 4 * PAGE, noise(number + 1, 2 * PAGE)) for number in range(60)]
RANGES = [(number * 8 * PAGE, noise(number + 500, 3 * PAGE)) for number in range(40)]
MACHINES: dict[str, Callable[[], bytes]] = {
    "lime": lambda: containers.lime(RANGES),
    "avml": lambda: containers.avml(RANGES),
    "core": lambda: containers.elf_core(RANGES),
    "crash dump": lambda: containers.crash_dump(RANGES, kind="SDMP"),
}


def bad_sector(monkeypatch: pytest.MonkeyPatch, begin: int, true: Any = os.preadv) -> list[int]:
    """Have one sector of every file fail; return a list that grows with each failure."""
    failures: list[int] = []

    def preadv(fd: int, buffers: Any, offset: int) -> int:
        size = sum(map(len, buffers))
        if begin <= offset < begin + SECTOR:
            failures.append(offset)
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        if offset < begin < offset + size:
            return int(true(fd, [memoryview(buffers[0])[: begin - offset]], offset))
        return int(true(fd, buffers, offset))

    monkeypatch.setattr(os, "preadv", preadv)
    return failures


@pytest.mark.parametrize("to", ["minidump", "elfcore"])
def test_a_process_of_which_headers_cannot_be_read(
    tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch, to: str
) -> None:
    """Whichever sector before the memory is bad: what is there is right and known to be incomplete, or an error."""
    path = tmp_path / "process"
    assert invoke(capfdbinary, "export", write_dump(tmp_path, ROWS), "--to", to, "-o", path).code == 0
    found = 0
    whole = dict(ROWS)
    for begin in range(0, path.stat().st_size - sum(len(data) for _, data in ROWS), SECTOR):
        failures = bad_sector(monkeypatch, begin)
        try:
            with memcarve.open(path) as container:
                process = container.process().readable()
                assert process.metadata is not None
                rows = {each.start: process.read(each.start, each.size) for each in process.segments()}
                assert process.incomplete is bool(failures), hex(begin)  # some sectors are padding
        except memcarve.InputError:
            continue
        found += 1
        for start, data in rows.items():
            base = max(address for address in whole if address <= start)
            assert whole[base][start - base :][: len(data)] == data
    assert found


@pytest.mark.parametrize("kind", MACHINES)
def test_a_machine_of_which_headers_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """Whichever sector of a container is bad: each page that is found is the right one, or there is an error."""
    path = tmp_path / "machine"
    path.write_bytes(MACHINES[kind]())
    pages = {start + at: data[at : at + PAGE] for start, data in RANGES for at in range(0, len(data), PAGE)}
    found = 0
    for begin in range(0, path.stat().st_size, 5 * SECTOR):
        bad_sector(monkeypatch, begin)
        with FileBacking(path) as file:
            try:
                machine = machine_memory(file, certain=True)
            except memcarve.InputError:
                continue
            if machine is None:
                continue
            memory = PhysicalMemory(machine)
            for physical, page in pages.items():
                data = memory.read(physical, PAGE)
                assert data in (None, page), (hex(begin), hex(physical))
                found += data is not None
    assert found
