"""Floating-point and vector registers as systems save them, told apart by their length.

The x87 and SSE registers of x86: FSAVE, FXSAVE and XSAVE. Those of ARM64 as Linux has them (user_fpsimd_state: V0 to
V31, FPSR, FPCR, 8 bytes that are reserved), those of 32-bit ARM likewise (D0 to D31, FPSCR). Sources: Intel's Software
Developer's Manual, volume 1, sections 8.1.10 (FSAVE of 32-bit protected mode), 10.5 (FXSAVE) and 13.4 (XSAVE, which
begins with what FXSAVE saves); the kernel's include/uapi/asm/ptrace.h of arch/arm64 and of arch/arm (ARM_VFPREGS_SIZE).
"""

from __future__ import annotations

import struct

FSAVE, FXSAVE = 108, 512
#: an XSAVE area: FXSAVE's, and the header behind it; with the most that a processor has
XSAVE, LARGEST = FXSAVE + 64, 1 << 14
#: of ARM64 and of ARM: where what is not a vector register begins
FPSIMD, FPSIMD_STATE = 528, 512
VFP, VFP_STATE = 260, 256
OF_ARM = frozenset({FPSIMD, VFP})
MXCSR = slice(24, 28)
#: of an XSAVE area, what systems use for notes of their own (XCR0); no register
_NOTES = slice(464, FXSAVE)
_FX_HEAD = struct.Struct("<HHBxHIHxxIHxx")
_FS_HEAD = struct.Struct("<7I")
_ST, _STEP, _WIDTH = 32, 16, 10  # where FXSAVE has ST(0), how far apart they are, and how long
_UNUSED = 0xFFFF0000  # the upper halves of words that hold 16 bits
_EMPTY, _SPECIAL, _ZERO, _VALID = 3, 2, 1, 0  # tags
_ALL_ONES = 0x7FFF


def is_sound(size: int) -> bool:
    """Return True if `size` is that of an area of one of the kinds, in bytes."""
    return size in (FSAVE, FXSAVE, *OF_ARM) or XSAVE <= size <= LARGEST


def fxsave(area: bytes) -> bytes | None:
    """Return what FXSAVE saves (512 bytes) of an area; None of one that FSAVE saved, which has no SSE registers."""
    if len(area) < FXSAVE:
        return None
    if len(area) == FXSAVE:
        return area
    return area[: _NOTES.start] + bytes(_NOTES.stop - _NOTES.start)


def fsave(area: bytes) -> bytes:
    """Return what FSAVE saves (108 bytes) of an area: the x87 registers, with their tags in full."""
    if len(area) < FXSAVE:
        return area[:FSAVE]
    control, status, used, opcode, place, segment, data_place, data_segment = _FX_HEAD.unpack_from(area)
    registers = [area[_ST + _STEP * n : _ST + _STEP * n + _WIDTH] for n in range(8)]
    top, tags = status >> 11 & 7, 0
    for number in range(8):  # tags are of the registers as they lie, not of the stack
        tag = _tag(registers[number - top & 7]) if used >> number & 1 else _EMPTY
        tags |= tag << 2 * number
    words = (control | _UNUSED, status | _UNUSED, tags | _UNUSED, place, segment | (opcode & 0x7FF) << 16)
    return _FS_HEAD.pack(*words, data_place, data_segment | _UNUSED) + b"".join(registers)


def _tag(register: bytes) -> int:
    exponent, mantissa = int.from_bytes(register[8:], "little") & _ALL_ONES, int.from_bytes(register[:8], "little")
    if not exponent and not mantissa:
        return _ZERO
    return _VALID if 0 < exponent < _ALL_ONES and mantissa >> 63 else _SPECIAL
