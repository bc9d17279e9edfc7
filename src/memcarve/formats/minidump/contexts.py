"""CONTEXT: a thread's registers, as winnt.h lays them out for x64 (1232 bytes), x86 (716), ARM64 (912) and ARM (416).

ContextFlags says which groups are valid. Registers go by the names that gdb has for them; flags, segments and the rest
of a group are there or it is not valid. The x87 and SSE registers are an area as FXSAVE saves it (x86 has a second one
as FSAVE does, whose Cr0NpxState is not used), those of ARM64 and ARM become areas as Linux has them. Debug registers,
and what XSAVE adds behind the CONTEXT, are neither read nor written.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

from memcarve.formats.floating_point import (
    FPSIMD,
    FPSIMD_STATE,
    FSAVE,
    FXSAVE,
    MXCSR,
    OF_ARM,
    VFP,
    VFP_STATE,
    fsave,
    fxsave,
)
from memcarve.vocabulary import Architecture

if TYPE_CHECKING:
    from collections.abc import Mapping

_CONTROL, _INTEGER, _SEGMENTS, _FLOATING, _EXTENDED = 1, 2, 4, 8, 0x20
_OF_ARM_FLOATING = 4
_FLOAT_SAVE = 0x1C  # of x86
_MXCSR = 0x34  # of x64, beside the one in its area
#: of ARM64 and ARM: how long an area is as Linux has it; its parts there (start, length), and where a CONTEXT has them
_PARTS = {
    Architecture.ARM64: (
        FPSIMD,
        # V0 to V31; FPSR and FPCR, which a CONTEXT has the other way round
        ((0, FPSIMD_STATE, 0x110), (FPSIMD_STATE, 4, 0x314), (FPSIMD_STATE + 4, 4, 0x310)),
    ),
    Architecture.ARM: (VFP, ((0, VFP_STATE, 0x50), (VFP_STATE, 4, 0x48))),
}


class _Form(NamedTuple):
    """A CONTEXT: its size, where ContextFlags are, what they have set, and by group where each register is.

    `area` is the group of the area of floating-point registers, and where that is.
    """

    size: int
    flags: int
    mark: int
    area: tuple[int, int]
    groups: dict[int, dict[str, tuple[int, str]]]


def _row(names: str, place: int, step: int, form: str) -> dict[str, tuple[int, str]]:
    return {name: (place + number * step, form) for number, name in enumerate(names.split())}


_FORMS = {
    "x64": _Form(
        1232,
        0x30,
        0x100000,
        (_FLOATING, 0x100),
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
        (_EXTENDED, 0xCC),
        {
            _CONTROL: _row("ebp eip cs eflags esp ss", 0xB4, 4, "<I"),
            _INTEGER: _row("edi esi ebx edx ecx eax", 0x9C, 4, "<I"),
            _SEGMENTS: _row("gs fs es ds", 0x8C, 4, "<I"),
        },
    ),
    "arm64": _Form(
        912,
        0,
        0x400000,
        (_OF_ARM_FLOATING, 0x110),
        {
            _CONTROL: _row("cpsr", 4, 4, "<I") | _row("x29 x30 sp pc", 0xF0, 8, "<Q"),
            _INTEGER: _row(" ".join(f"x{number}" for number in range(29)), 8, 8, "<Q"),
        },
    ),
    "arm": _Form(
        416,
        0,
        0x200000,
        (_OF_ARM_FLOATING, 0x50),
        {
            _CONTROL: _row("sp lr pc cpsr", 0x38, 4, "<I"),
            _INTEGER: _row(" ".join(f"r{number}" for number in range(13)), 4, 4, "<I"),
        },
    ),
}


def context(registers: Mapping[str, int] | None, architecture: str, floating: bytes | None = None) -> bytes:
    """Return the CONTEXT of a thread; groups of which not all registers are known are not valid in it.

    `floating` is an area of `floating_point`; one of another processor is left out. Empty if the architecture is no
    vocabulary.Architecture.
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
    if floating is not None:
        if architecture in _PARTS:
            flags |= _put_of_arm(data, form, floating, Architecture(architecture))
        elif len(floating) not in OF_ARM:
            flags |= _put(data, form, floating, narrow=architecture == "x86")
    struct.pack_into("<I", data, form.flags, flags)
    return bytes(data)


def _put(data: bytearray, form: _Form, floating: bytes, *, narrow: bool) -> int:
    """Put an area into a CONTEXT; return the groups that are valid by that."""
    group, place = form.area
    flags, area = 0, fxsave(floating)
    if area is not None:
        data[place : place + FXSAVE] = area
        flags |= group
    if narrow:
        data[_FLOAT_SAVE : _FLOAT_SAVE + FSAVE] = fsave(floating)
        flags |= _FLOATING
    elif area is not None:
        data[_MXCSR : _MXCSR + 4] = area[MXCSR]
    return flags


def _put_of_arm(data: bytearray, form: _Form, floating: bytes, architecture: Architecture) -> int:
    """Put an area of ARM64 or ARM into a CONTEXT; return the group that is valid by that."""
    size, parts = _PARTS[architecture]
    if len(floating) != size:
        return 0
    for start, length, place in parts:
        data[place : place + length] = floating[start : start + length]
    return form.area[0]


def floating(data: bytes, architecture: str | None) -> bytes | None:
    """Return the floating-point registers of a CONTEXT; None if it has none.

    Of x86 as FXSAVE saves them, or FSAVE if there are no more; of ARM64 and ARM as Linux has them.
    """
    form = _FORMS.get(architecture or "")
    if form is None or len(data) < form.size:
        return None
    flags = struct.unpack_from("<I", data, form.flags)[0]
    group, place = form.area
    if not flags & form.mark:
        return None
    if architecture in _PARTS:
        return _taken_of_arm(data, Architecture(architecture)) if flags & group else None
    if flags & group:
        return data[place : place + FXSAVE]
    narrow = architecture == "x86" and flags & _FLOATING
    return data[_FLOAT_SAVE : _FLOAT_SAVE + FSAVE] if narrow else None


def _taken_of_arm(data: bytes, architecture: Architecture) -> bytes:
    size, parts = _PARTS[architecture]
    found = bytearray(size)
    for start, length, place in parts:
        found[start : start + length] = data[place : place + length]
    return bytes(found)


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
