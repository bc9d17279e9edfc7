"""Programs and libraries among the mapped files of Linux processes."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from linux_machines import machine, machines
from linux_systems import stopped, typed_system_of
from memcarve.images.linux.mapped_programs import MappedPrograms
from memcarve.images.structure_reader import Reader
from memcarve.metadata import Module, Region
from memcarve.space import AddressSpace
from memory import Memory

_PHDR, _BASE, _SYSINFO_EHDR = 3, 7, 33  # getauxval(3)
_PAGE = 4096


@pytest.mark.parametrize("name", machines())
def test_programs_of_a_real_machine(name: str) -> None:
    """What the auxiliary vector says is there: program, loader and vDSO; and no file of data."""
    given, system = machine(name), typed_system_of(name)
    for pid, entry in stopped(given):
        said = given.processes[pid]
        if said["auxv"] is None:  # its leader has ended
            continue
        data = bytes.fromhex(said["auxv"])
        layout = "<2I" if given.arch == "i386" or said["links"]["exe"].endswith("32") else "<2Q"
        vector = dict(struct.iter_unpack(layout, data[: len(data) // 16 * 16]))
        rows = {row.start: row for row in system.metadata(entry, system.table_of(entry)).modules[0].rows}
        assert vector[_PHDR] & -given.page_size in rows
        assert vector[_BASE] in rows or not vector[_BASE]
        assert rows[vector[_SYSINFO_EHDR]].name == "[vdso]"
        by_start = {vma.start: vma for vma in given.vmas(pid)}
        for row in rows.values():
            assert by_start[row.start].offset == 0
            assert row.end in {vma.end for vma in given.vmas(pid)}
            assert not (row.path or "").endswith((".bin", "/dev/zero", "/file"))


def reader(data: bytes) -> Reader:
    """Return what reads a process whose memory begins at 0."""
    columns = (np.array([value], np.uint64)[: len(data)] for value in (0, len(data), 0))
    return Reader(AddressSpace(*columns, Memory(data)))


def region(start: int, pages: int, file: str | None = None, offset: int | None = None, letters: str = "r--p") -> Region:
    """Return a region of so many pages."""
    return Region(start * _PAGE, pages * _PAGE, letters, file=file, offset=offset, inode=hash(file))


def test_parts() -> None:
    """Parts of a file are one module, whatever lies between; its beginning again, or another file, is another one."""
    content = bytearray(64 * _PAGE)
    for page in (0, 10, 20, 30, 40):
        content[page * _PAGE : page * _PAGE + 4] = b"\x7fELF"
    regions = [
        region(0, 1, "/lib/a.so", 0),
        region(1, 2, "/lib/a.so", _PAGE, "r-xp"),
        region(3, 1),
        region(5, 1, "/lib/a.so", 4 * _PAGE),
        region(6, 1),
        region(10, 1, "/lib/a.so", 0),
        region(12, 1, "/data", 0),
        region(13, 1, "/lib/a.so", 2 * _PAGE),
        region(20, 1, "/lib/b.so (deleted)", 0),
        region(30, 2, "[vdso]", None),
        region(32, 1, "[vvar]", None),
        region(40, 1, "/part", _PAGE),
        region(41, 1, None),
    ]
    found = MappedPrograms().of(regions, reader(bytes(content)))
    assert found == [
        Module(0, 6 * _PAGE, "a.so", "/lib/a.so"),
        Module(10 * _PAGE, _PAGE, "a.so", "/lib/a.so"),
        Module(20 * _PAGE, _PAGE, "b.so", "/lib/b.so (deleted)"),
        Module(30 * _PAGE, 2 * _PAGE, "[vdso]", None),
    ]


@pytest.mark.parametrize("letters", ["r-xp", "r--p"])
def test_beginning_that_is_not_in_memory(letters: str) -> None:
    """Then the file is a program if code of it is mapped."""
    regions = [region(1, 1, "/x", 0), region(2, 1, "/x", _PAGE, letters)]
    assert bool(MappedPrograms().of(regions, reader(b""))) == (letters == "r-xp")
