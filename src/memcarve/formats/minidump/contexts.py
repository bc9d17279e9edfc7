"""CONTEXT: a thread's registers, as winnt.h lays them out for x64 (1232 bytes) and x86 (716 bytes).

ContextFlags says which groups are valid. Registers go by the names that gdb has for them; flags, segments and the rest
of a group are there or it is not valid. Floating point and debug registers are neither read nor written.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

_CONTROL, _INTEGER, _SEGMENTS = 1, 2, 4


class _Form(NamedTuple):
    """A CONTEXT: its size, where ContextFlags are, what they have set, and by group where each register is."""

    size: int
    flags: int
    mark: int
    groups: dict[int, dict[str, tuple[int, str]]]


def _row(names: str, place: int, step: int, form: str) -> dict[str, tuple[int, str]]:
    return {name: (place + number * step, form) for number, name in enumerate(names.split())}


_FORMS = {
    "x64": _Form(
        1232,
        0x30,
        0x100000,
        {
            _CONTROL: _row("cs", 0x38, 2, "<H")
            | _row("ss", 0x42, 2, "<H")
            | _row("eflags", 0x44, 4, "<I")
            | _row("rsp", 0x98, 8, "<Q")
            | _row("rip", 0xF8, 8, "<Q"),
            _INTEGER: _row("rax rcx rdx rbx", 0x78, 8, "<Q")
            | _row("rbp rsi rdi r8 r9 r10 r11 r12 r13 r14 r15", 0xA0, 8, "<Q"),
            _SEGMENTS: _row("ds es fs gs", 0x3A, 2, "<H"),
        },
    ),
    "x86": _Form(
        716,
        0,
        0x10000,
        {
            _CONTROL: _row("ebp eip cs eflags esp ss", 0xB4, 4, "<I"),
            _INTEGER: _row("edi esi ebx edx ecx eax", 0x9C, 4, "<I"),
            _SEGMENTS: _row("gs fs es ds", 0x8C, 4, "<I"),
        },
    ),
}


def context(registers: Mapping[str, int] | None, architecture: str) -> bytes:
    """Return the CONTEXT of a thread; groups of which not all registers are known are not valid in it.

    Empty if the architecture is neither ``"x64"`` nor ``"x86"``.
    """
    form = _FORMS.get(architecture)
    if form is None:
        return b""
    data, flags, known = bytearray(form.size), form.mark, registers or {}
    for group, places in form.groups.items():
        if all(name in known for name in places):
            flags |= group
            for name, (place, kind) in places.items():
                size = struct.calcsize(kind)
                data[place : place + size] = (known[name] & ((1 << 8 * size) - 1)).to_bytes(size, "little")
    struct.pack_into("<I", data, form.flags, flags)
    return bytes(data)


def registers(data: bytes, architecture: str | None) -> dict[str, int]:
    """Return the registers of a CONTEXT's valid groups; none if it is not a CONTEXT of that architecture."""
    form = _FORMS.get(architecture or "")
    if form is None or len(data) < form.size:
        return {}
    flags = struct.unpack_from("<I", data, form.flags)[0]
    if not flags & form.mark:
        return {}
    return {
        name: struct.unpack_from(kind, data, place)[0]
        for group, places in form.groups.items()
        if flags & group
        for name, (place, kind) in places.items()
    }
