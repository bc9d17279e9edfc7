"""The floating-point and vector registers of a thread, which the kernel saves when another runs.

Of x86: arch/x86/include/asm/fpu/types.h of Linux (fpu, fpstate, xregs_state), and x86_task_fpu of asm/processor.h, by
which they lie behind the task from 6.16 on; what XSAVE leaves out, and its compacted form: Intel's Software Developer's
Manual, volume 1, sections 13.4 to 13.8. Of ARM64: arch/arm64/include/asm/processor.h and fpsimd.c (user_fpsimd_state;
Z registers, of which V registers are the first 128 bits, if SVE was in use).
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from memcarve.formats.floating_point import FPSIMD, FPSIMD_STATE, FXSAVE, MXCSR, XSAVE

if TYPE_CHECKING:
    from memcarve.images.linux.kernel_structures import Structures
    from memcarve.images.paging_modes import Mode

_HEADER = struct.Struct("<2Q")  # XSTATE_BV, XCOMP_BV
_COMPACTED = 1 << 63
_X87, _SSE, _AVX = 1, 2, 4
_AVX_SIZE = 256  # the upper halves of YMM0 to YMM15, behind the header in either form
_FEATURES_AT = 464  # where systems note in an area which components it has
_ST, _XMM = slice(32, 160), slice(160, 416)
_NEW_X87, _NEW_MXCSR = struct.pack("<H22x", 0x37F), struct.pack("<I", 0x1F80)
_SVE_FLAG = 23  # TIF_SVE
_VECTOR = 16  # bytes of a V register
_LARGEST_VECTOR = 256  # bytes of a Z register


class UserFloating:
    """Reads the registers of tasks that run user code, but not now."""

    def __init__(self, kernel: Structures, mode: Mode) -> None:
        self.kernel = kernel
        self.mode = mode

    def of(self, task: int) -> bytes | None:
        """Return the registers of a task as `metadata.Thread` has them; None if they are not known.

        Of x86 as FXSAVE saves them, or with AVX as XSAVE saves them, without those of AVX-512.
        """
        thread = self.kernel.offset("task_struct", "thread")
        if thread is None:
            return None
        return self._of_arm(task, task + thread) if self.mode.split else self._of_x86(task, task + thread)

    def _of_x86(self, task: int, thread: int) -> bytes | None:
        kernel = self.kernel
        inside, behind = kernel.offset("thread_struct", "fpu"), kernel.types.size("task_struct")
        if inside is None and behind is None:
            return None
        unit = task + (behind or 0) if inside is None else thread + inside
        features: int | None = None
        if kernel.offset("fpu", "fpstate") is not None:
            state = kernel.pointer(unit, "fpu", "fpstate")
            at = kernel.offset("fpstate", "regs")
            if state is None or at is None:
                return None
            features = kernel.number(state, "fpstate", "xfeatures")
        else:
            state, at = unit, kernel.offset("fpu", "state")
            if at is None:
                return None
        area = kernel.reader.read(state + at, XSAVE + _AVX_SIZE) or kernel.reader.read(state + at, FXSAVE)
        return None if area is None else standard(area, features)

    def _of_arm(self, task: int, thread: int) -> bytes | None:
        kernel = self.kernel
        place = kernel.offset("thread_struct", "uw.fpsimd_state")
        data = None if place is None else kernel.reader.read(thread + place, FPSIMD)
        if data is None or not self._is_scalable(task, thread):
            return data
        state = kernel.pointer(thread, "thread_struct", "sve_state")
        at = kernel.offset("thread_struct", "vl")
        at = kernel.offset("thread_struct", "sve_vl") if at is None else at
        length = None if at is None else kernel.reader.number(thread + at, 4)
        if state is None or not length or length % _VECTOR or length > _LARGEST_VECTOR:
            return None
        vectors = [kernel.reader.read(state + number * length, _VECTOR) for number in range(32)]
        known = [vector for vector in vectors if vector is not None]
        return b"".join(known) + data[FPSIMD_STATE:] if len(known) == len(vectors) else None

    def _is_scalable(self, task: int, thread: int) -> bool:
        """Return whether the registers were saved as those of SVE."""
        kind = self.kernel.number(thread, "thread_struct", "fp_type")
        if kind is not None:
            return kind == self.kernel.types.constant("fp_type", "FP_STATE_SVE")
        flags = self.kernel.number(task, "task_struct", "thread_info.flags")
        return flags is not None and bool(flags >> _SVE_FLAG & 1)


def standard(area: bytes, features: int | None) -> bytes:
    """Return what FXSAVE or XSAVE would have saved, given an area as the kernel has it.

    `features` are the components that the area may hold; None if that is not known. What was as it is in a new process
    need not be in the area: its header says so.
    """
    used, compacted = _HEADER.unpack_from(area, FXSAVE) if len(area) >= XSAVE + _AVX_SIZE else (0, 0)
    if not (features or used or compacted):
        return area[:FXSAVE]
    legacy = bytearray(area[:FXSAVE])
    if not used & _X87:
        legacy[: MXCSR.start] = _NEW_X87
        legacy[_ST] = bytes(_ST.stop - _ST.start)
    if not used & _SSE:
        legacy[_XMM] = bytes(_XMM.stop - _XMM.start)
        if compacted & _COMPACTED:
            legacy[MXCSR] = _NEW_MXCSR
    if not (used | compacted | (features or 0)) & _AVX:
        return bytes(legacy)
    components = _X87 | _SSE | _AVX
    legacy[_FEATURES_AT : _FEATURES_AT + 8] = struct.pack("<Q", components)
    upper = area[XSAVE:] if used & _AVX else bytes(_AVX_SIZE)
    return bytes(legacy) + _HEADER.pack(used & components, 0) + bytes(XSAVE - FXSAVE - _HEADER.size) + upper
