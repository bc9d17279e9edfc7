"""What a Linux kernel says of itself: BTF, symbol files, kallsyms, VMCOREINFO, in files and in memory."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import struct
from typing import TYPE_CHECKING, Any

import numpy as np

import btf_writer
import kallsyms_writer
from fuzzing.case import Case, Depth
from memcarve.errors import KernelTypesError
from memcarve.formats.compression import Reading
from memcarve.formats.images.machine import MachineMemory
from memcarve.formats.kernel_types import Member
from memcarve.formats.kernel_types.symbol_file import read_symbols
from memcarve.images.linux.btf_search import kernel_btf
from memcarve.images.linux.kallsyms import find_kallsyms
from memcarve.images.linux.landmarks import find_landmarks
from memcarve.images.physical import PhysicalMemory
from memory import Memory

if TYPE_CHECKING:
    from fuzzing.case import Reached
    from fuzzing.draw import Draw
    from memcarve.formats.images import vmcoreinfo
    from memcarve.formats.kernel_types import KernelTypes

_TEXT = (
    b"OSRELEASE=6.12.1-test\nBUILD-ID=0123\nPAGESIZE=4096\nNUMBER(phys_base)=-4096\nSYMBOL(_stext)=ffffffff81000000\n"
)
_BASE, _SIZE = 0xFFFFFFFF81000000, 1 << 18
_PATHS = ("comm", "pid", "list.next", "list.next.prev", "inner", "bits", "many.next", "a.b.c", "", "state.x")
_KINDS = ("btf", "btf", "isf", "memory", "memory")
_TOP = 1 << 64


class Types:
    """Types and symbols; each case is a file, or memory in which they lie."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        symbols = [(_BASE + 16 * number, f"Tfunction_{number}") for number in range(1200)]
        forms = ("old", "seqs", "new", "self")
        self.tables = {form: kallsyms_writer.tables(symbols, form)[0] for form in forms}

    def make(self, draw: Draw) -> Case:
        """Return a case."""
        kind = draw.choice(_KINDS)
        if kind == "btf":
            return Case({"types": self._btf(draw)}, {"kind": kind})
        if kind == "isf":
            document = draw.document(_isf()) if draw.chance(0.9) else _isf()
            data = json.dumps(document).encode()
            return Case({"types": draw.torn(data) if draw.chance(0.1) else data}, {"kind": kind})
        form = draw.choice([*self.tables])
        table = self.tables[form]
        digits = table.index(b"0\x001\x00")
        for _ in range(draw.few() if draw.chance(0.7) else 0):
            at = draw.choice((draw.randrange(len(table)), draw.randrange(64), digits + draw.randrange(-200, 1400)))
            table = table[:at] + draw.randbytes(draw.few()) + table[at + 4 :]
        text = draw.lines(_TEXT) if draw.chance(0.7) else _TEXT
        btf = self._btf(draw)
        decoy = struct.pack("<Q", draw.number(_BASE)).ljust(48, b"\0") + btf[:24]
        data = bytearray(_SIZE)
        for at, part in ((0x18, text), (0x3000, decoy), (0x4040, btf), (0x18000, table)):
            data[at : at + len(part)] = part
        return Case(
            {"memory": bytes(data[:_SIZE])}, {"kind": kind, "gap": draw.randrange(64) if draw.chance(0.3) else None}
        )

    @staticmethod
    def _btf(draw: Draw) -> bytes:
        """Return BTF in which numbers of types, members and headers are others."""
        made = btf_writer.Writer(draw.choice("<<<>"))
        long, count = made.integer("long unsigned int", draw.choice((8, 8, 4))), 60

        def reference() -> int:
            return draw.number(bits=32) if draw.chance(0.1) else draw.randrange(count)

        members = [(name, reference() if draw.chance(0.5) else long, 64 * place) for place, name in enumerate(
            ("comm", "pid", "list", "inner", "bits", "many", "state", "a", "", "")
        )]  # fmt: skip
        made.structure("task_struct", draw.number(1 << 12, bits=32) if draw.chance(0.3) else 1 << 12, *members)
        made.structure("list", 16, ("next", reference(), 0), ("prev", long, 64))
        while len(made.types) < count:
            kind = draw.randrange(1, 20)
            if kind in {btf_writer.STRUCT, btf_writer.UNION}:
                rows = [(draw.choice(("next", "x", "")), reference(), draw.number(bits=32)) for _ in range(draw.few())]
                made.structure(draw.choice(("", "", "s", "btf")), draw.number(64, bits=32), *rows, kind=kind)
            elif kind == btf_writer.ARRAY:
                made.array(reference(), draw.number(4, bits=32))
            elif kind in {btf_writer.ENUM, btf_writer.ENUM64}:
                made.enumeration(draw.choice(("e", "")), 8 if kind == btf_writer.ENUM64 else 4, ONE=draw.number())
            elif kind == btf_writer.INT:
                made.integer("int", draw.randrange(9), draw.randrange(256), draw.randrange(256))
            else:
                more = {btf_writer.VAR: 1, btf_writer.DECL_TAG: 1}.get(kind, 0)
                made.add(kind, draw.choice(("t", "")), reference(), *[reference()] * more)
        data = made.written()
        if draw.chance(0.3):
            data = draw.fields(data, [(at, 4) for at in range(4, 24, 4)])
        return draw.torn(data) if draw.chance(0.1) else data

    def run(self, case: Case, reached: Reached) -> None:
        """Ask for everything."""
        if case.told["kind"] != "memory":
            found = read_symbols(os.path.join(self.folder, "types"), Reading())
            reached(Depth.ROWS)
            if self._asked(found.types):
                reached(Depth.MEMORY)
            assert found.banner is None or isinstance(found.banner, str)
            with contextlib.suppress(KernelTypesError):  # it is of another kernel
                found.check({"6.1"}, {"Linux version 6.1 x"}, {"aa"})
            return
        data, gap = case.files["memory"], case.told["gap"]
        ranges = (
            [(0, len(data))] if gap is None else [(0, gap * 4096), ((gap + 1) * 4096, len(data) - (gap + 1) * 4096)]
        )
        rows = [row for row in ranges if row[1] > 0]
        start, size = (np.array(column, np.uint64) for column in zip(*rows, strict=True))
        memory = PhysicalMemory(MachineMemory("test", Memory(data), start, size, start.copy(), [], declared=False))
        landmarks = find_landmarks(memory)
        reached(Depth.PARSED)
        for each in kernel_btf(memory, landmarks):
            reached(Depth.MEMORY)
            self._asked(each.types)
        for information in landmarks.information:
            self._information(information.vmcoreinfo)
        symbols = find_kallsyms(memory, [0x4040], 8, _BASE)
        if symbols is not None:
            reached(Depth.MEMORY)
            assert len(symbols.names()) == len(symbols.types()) == len(symbols)
            assert symbols.addresses is None or len(symbols.addresses) == len(symbols)
            symbols.address("function_7")

    @staticmethod
    def _asked(types: KernelTypes) -> bool:
        assert types.pointer_size in {4, 8}
        known = False
        for structure in ("task_struct", "list", "s", "btf", "t", "e", "int", "nothing"):
            size = types.size(structure)
            assert size is None or size >= 0
            for path in _PATHS:
                member = types.member(structure, path)
                if member is None:
                    continue
                known = True
                assert isinstance(member, Member)
                assert 0 <= member.offset < _TOP
                if member.bit_size is not None:
                    assert member.bit_offset is not None
                    assert member.size is not None
                    assert 0 <= member.bit_offset < member.bit_offset + member.bit_size <= 8 * member.size
        for owner in ("e", None, "nothing"):
            value = types.constant(owner, "ONE")
            assert value is None or isinstance(value, int)
        return known

    @staticmethod
    def _information(said: vmcoreinfo.Vmcoreinfo) -> None:
        for value in (
            said.page_size,
            said.symbol("_stext"),
            said.number("phys_base"),
        ):
            assert value is None or isinstance(value, int)
        assert said.release


def _isf() -> dict[str, Any]:
    pointer = {"kind": "pointer", "subtype": {"kind": "struct", "name": "list"}}
    array = {"kind": "array", "count": 3, "subtype": {"kind": "struct", "name": "list"}}
    bits = {"kind": "bitfield", "bit_length": 3, "bit_position": 5, "type": {"kind": "base", "name": "int"}}
    task = {
        "comm": {"offset": 0, "type": {"kind": "array", "count": 16, "subtype": {"kind": "base", "name": "char"}}},
        "list": {"offset": 16, "type": {"kind": "struct", "name": "list"}},
        "many": {"offset": 32, "type": array},
        "bits": {"offset": 80, "type": bits},
        "unnamed_0": {"offset": 88, "anonymous": True, "type": {"kind": "union", "name": "unnamed_1"}},
    }
    banner = base64.b64encode(b"Linux version 6.12.1-test (x@y) (gcc) #1 SMP\n\0").decode()
    return {
        "metadata": {"format": "6.2.0", "linux": {}},
        "base_types": {"pointer": {"size": 8}, "int": {"size": 4}, "char": {"size": 1}},
        "enums": {"e": {"size": 4, "base": "int", "constants": {"ONE": 1}}},
        "user_types": {
            "task_struct": {"kind": "struct", "size": 128, "fields": task},
            "list": {"kind": "struct", "size": 16, "fields": {"next": {"offset": 0, "type": pointer}}},
            "unnamed_1": {"kind": "union", "size": 8, "fields": {"inner": {"offset": 0, "type": pointer}}},
        },
        "symbols": {"linux_banner": {"address": 1, "constant_data": banner}, "init_task": {"address": 1 << 63}},
    }
