"""A real Linux machine's own structures, read and written by their members' names, to damage images on purpose.

It shares nothing with memcarve. Where members lie is read from the BTF at the place that truth.json tells
(Documentation/bpf/btf.rst of Linux); kernel addresses are translated entry by entry, as the processors' manuals say.
"""

from __future__ import annotations

import functools
import mmap
import os
import re
import shutil
import struct
from typing import TYPE_CHECKING, NamedTuple

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from linux_machines import Machine

_STRUCT, _UNION = 4, 5
_MODIFIERS = (8, 9, 10, 11, 18)  # typedef, volatile, const, restrict, type tag
_BEHIND = {
    1: (4, 0),
    3: (12, 0),
    4: (0, 12),
    5: (0, 12),
    6: (0, 8),
    13: (0, 8),
    14: (4, 0),
    15: (0, 12),
    17: (4, 0),
    19: (0, 12),
}
_BTF = struct.Struct("<HBBIIIII")


class _Type(NamedTuple):
    name: int  # where its name is, among the strings
    kind: int
    size: int  # in bytes, or the number of the type that it leads to
    at: int  # where its members are
    count: int  # of members
    bit_fields: bool


class Types:
    """What a kernel's BTF says of its structures."""

    def __init__(self, btf: bytes) -> None:
        magic, _, _, header, types, types_size, strings, strings_size = _BTF.unpack_from(btf)
        assert magic == 0xEB9F
        self._btf, self._words = btf, btf[header + strings : header + strings + strings_size]
        self._types = [_Type(0, 0, 0, 0, 0, bit_fields=False)]
        at, end = header + types, header + types + types_size
        while at < end:
            name, info, size = struct.unpack_from("<III", btf, at)
            kind, count = info >> 24 & 31, info & 0xFFFF
            fixed, each = _BEHIND.get(kind, (0, 0))
            self._types.append(_Type(name, kind, size, at + 12, count, bit_fields=info >> 31 != 0))
            at += 12 + fixed + each * count
        assert at == end

    def _text(self, at: int) -> str:
        return self._words[at : self._words.index(b"\0", at)].decode()

    @functools.cached_property
    def structures(self) -> dict[str, _Type]:
        """All structures and unions by name."""
        found = (kind for kind in self._types if kind.kind in (_STRUCT, _UNION) and kind.name)
        return {self._text(kind.name): kind for kind in found}

    def _members(self, structure: _Type) -> Iterator[tuple[str, int, int]]:
        """Yield name, type and offset in bits of each member."""
        rows = self._btf[structure.at : structure.at + 12 * structure.count]
        for name, number, offset in struct.iter_unpack("<III", rows):
            yield self._text(name), number, offset & 0xFFFFFF if structure.bit_fields else offset

    def offset(self, path: str) -> int:
        """Return the offset in bytes of a member, as "task_struct.tasks.next"."""
        name, *parts = path.split(".")
        found, total = self.structures[name], 0
        for part in parts:
            inside = self._member(found, part)
            assert inside is not None, f"{path}: no {part}"
            total += inside[0]
            found = self._stripped(inside[1])
        return total // 8

    def _member(self, structure: _Type, name: str) -> tuple[int, int] | None:
        for member, number, bits in self._members(structure):
            if member == name:
                return bits, number
            if not member and (inside := self._member(self._stripped(number), name)):
                return bits + inside[0], inside[1]
        return None

    def _stripped(self, number: int) -> _Type:
        found = self._types[number]
        while found.kind in _MODIFIERS:
            found = self._types[found.size]
        return found


@functools.cache
def types_of(machine: Machine) -> Types:
    """Return a machine's types; skip the test if its kernel has none."""
    said = machine.truth["btf"]
    if not said or not said["contiguous"]:
        pytest.skip(f"{machine.name}: its kernel has no BTF")
    with machine.raw.open("rb") as file:
        file.seek(said["physical"] - machine.raw_base)
        return Types(file.read(said["size"]))


class Damaged:
    """A copy of a machine's image, for a test to change: kernel memory by address, structures by member.

    The copy in `folder` is made once; `restore` takes all changes back for the next test.
    """

    def __init__(self, machine: Machine, folder: Path) -> None:
        self.machine, self.path = machine, folder / f"{machine.name}.raw"
        self.types = types_of(machine)
        self._before: list[tuple[int, bytes]] = []
        if not self.path.exists():
            _copy(machine.raw, self.path)
        self._file = self.path.open("r+b")
        self._image = mmap.mmap(self._file.fileno(), 0)
        names = machine.kallsyms
        code = re.search(r"([0-9a-f]+)-[0-9a-f]+ : Kernel code", machine.truth["iomem"])
        root = names.get("init_top_pgt") or names.get("swapper_pg_dir")
        if not code or not root or "init_task" not in names:
            pytest.skip(f"{machine.name}: its kernel does not name its page tables")
        self.root = root - names["_text"] + int(code[1], 16)
        self.init_task = names["init_task"]

    def restore(self) -> None:
        """Take all changes back."""
        for at, data in reversed(self._before):
            self._image[at : at + len(data)] = data
        self._before.clear()

    def close(self) -> None:
        """Take all changes back; the file stays."""
        self.restore()
        self._image.close()
        self._file.close()

    # physical memory

    def _place(self, physical: int) -> int:
        return physical - self.machine.raw_base

    def physical(self, address: int) -> int:
        """Return the physical address of a kernel address."""
        size = self.machine.page_size
        shift = size.bit_length() - 1
        arm = self.machine.arch == "arm64"
        bits = shift - 3  # of an address that choose an entry
        top = 39 if shift == 12 else 36
        if not arm and self.machine.name.endswith("la57"):
            top = 48
        table = self.root
        for level in range(top, shift - 1, -bits):
            at = self._place(table + (address >> level & ((1 << bits) - 1)) * 8)
            (entry,) = struct.unpack_from("<Q", self._image, at)
            assert entry & 1, f"{address:#x} is not mapped"
            frame = entry & ((1 << 48) - 1) & -size
            large = not entry >> 1 & 1 if arm else entry >> 7 & 1
            if level == shift or large:
                return frame & -(1 << level) | address & ((1 << level) - 1)
            table = frame
        raise AssertionError

    def read(self, address: int, size: int) -> bytes:
        """Return bytes of kernel memory, of one page."""
        at = self._place(self.physical(address))
        return self._image[at : at + size]

    def write(self, address: int, data: bytes) -> None:
        """Change bytes of kernel memory, of one page."""
        self.write_physical(self.physical(address), data)

    def read_physical(self, physical: int, size: int) -> bytes:
        """Return bytes of physical memory."""
        at = self._place(physical)
        return self._image[at : at + size]

    def write_physical(self, physical: int, data: bytes) -> None:
        """Change bytes of physical memory."""
        at = self._place(physical)
        self._before.append((at, self._image[at : at + len(data)]))
        self._image[at : at + len(data)] = data

    # structures

    def get(self, address: int, path: str, size: int = 8) -> int:
        """Return a member of a structure, as "task_struct.pid", as a number of `size` bytes."""
        return int.from_bytes(self.read(address + self.types.offset(path), size), "little")

    def put(self, address: int, path: str, value: int | bytes, size: int = 8) -> None:
        """Change a member of a structure."""
        data = value if isinstance(value, bytes) else value.to_bytes(size, "little")
        self.write(address + self.types.offset(path), data)

    def at(self, path: str) -> Callable[[int], int]:
        """Return what makes of a member's address that of the structure around it."""
        offset = self.types.offset(path)
        return lambda address: address - offset

    # tasks

    def tasks(self) -> Iterator[int]:
        """Yield the addresses of all tasks that are linked, beginning with that of pid 0."""
        task, outer = self.init_task, self.at("task_struct.tasks")
        while True:
            yield task
            task = outer(self.get(task, "task_struct.tasks.next"))
            if task == self.init_task:
                return

    def task(self, pid: int) -> int:
        """Return the address of the task of a process."""
        return next(task for task in self.tasks() if self.get(task, "task_struct.pid", 4) == pid)

    def unlink(self, task: int) -> None:
        """Take a task out of the list, as a rootkit does: its neighbours lead past it, it still leads to them."""
        following = self.get(task, "task_struct.tasks.next")
        before = self.get(task, "task_struct.tasks.prev")
        outer = self.at("task_struct.tasks")
        self.put(outer(before), "task_struct.tasks.next", following)
        self.put(outer(following), "task_struct.tasks.prev", before)


def _copy(source: Path, target: Path, block: int = 1 << 24) -> None:
    """Copy a file with its holes."""
    if not hasattr(os, "SEEK_DATA"):
        shutil.copyfile(source, target)
        return
    size, at = source.stat().st_size, 0
    with source.open("rb") as file, target.open("wb") as copy:
        while at < size:
            try:
                at = os.lseek(file.fileno(), at, os.SEEK_DATA)
            except OSError:  # nothing but a hole is left
                break
            end = os.lseek(file.fileno(), at, os.SEEK_HOLE)
            while at < end:
                data = os.pread(file.fileno(), min(block, end - at), at)
                os.pwrite(copy.fileno(), data, at)
                at += len(data)
        copy.truncate(size)
