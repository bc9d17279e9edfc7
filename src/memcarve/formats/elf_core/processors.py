"""What NT_PRSTATUS and other notes of a process's core hold of a thread, by processor.

Sources: the Linux kernel's include/linux/elfcore.h and elfcore-compat.h (prstatus); the order of registers of x86:
include/uapi/asm/ptrace-abi.h and user_64.h of arch/x86; of ARM64 and ARM: include/uapi/asm/ptrace.h of either
(user_pt_regs, pt_regs), Documentation/arch/arm64/elf_hwcaps.rst and pointer-authentication.rst; NT_ARM_...:
include/uapi/linux/elf.h. Registers go by gdb's names: it calls the processor's state cpsr on ARM64, too.
"""

from __future__ import annotations

from typing import NamedTuple

from memcarve.formats.elf_core.core_headers import ARM64, I386, X86_64
from memcarve.vocabulary import Architecture

ARM = 40  # e_machine
#: types of notes named LINUX: NT_ARM_VFP, NT_ARM_TLS, NT_ARM_PAC_MASK
ARM_VFP, ARM_TLS, ARM_PAC_MASK = 0x400, 0x401, 0x406

_X64 = (
    "r15 r14 r13 r12 rbp rbx r11 r10 r9 r8 rax rcx rdx rsi rdi orig_rax rip cs eflags rsp ss fs_base gs_base ds es fs "
    "gs"
)
_X86 = "ebx ecx edx esi edi ebp eax ds es fs gs orig_eax eip cs eflags esp ss"


class Processor(NamedTuple):
    """How cores of a processor are laid out.

    `machine` is its e_machine. NT_PRSTATUS has `size` bytes, the thread's id is at `tid_at`, and from `registers_at` on
    are the `registers` by name, each a word of `bits`; ``-`` is one that has no name. `more` are notes named LINUX that
    are words of `bits` alone, by type: the registers in them.
    """

    bits: int
    machine: int
    size: int
    tid_at: int
    registers_at: int
    registers: tuple[str, ...]
    more: tuple[tuple[int, tuple[str, ...]], ...] = ()


PROCESSORS = {
    Architecture.X64: Processor(64, X86_64, 336, 32, 112, tuple(_X64.split())),
    Architecture.X86: Processor(32, I386, 144, 24, 72, tuple(_X86.split())),
    Architecture.ARM64: Processor(
        64,
        ARM64,
        392,
        32,
        112,
        (*(f"x{number}" for number in range(31)), "sp", "pc", "cpsr"),
        ((ARM_TLS, ("tpidr",)), (ARM_PAC_MASK, ("pauth_dmask", "pauth_cmask"))),
    ),
    Architecture.ARM: Processor(
        32, ARM, 148, 24, 72, (*(f"r{number}" for number in range(13)), "sp", "lr", "pc", "cpsr", "-")
    ),
}
#: of processors that memcarve has no word for, by bits: only the thread's id is taken
LIKE = {64: PROCESSORS[Architecture.X64], 32: PROCESSORS[Architecture.X86]}


def processor_of(bits: int | None, machine: int) -> Architecture | None:
    """Return which processor an ELF file's class (32 or 64) and e_machine are; None if there is no word for it."""
    return next((word for word, each in PROCESSORS.items() if each[:2] == (bits, machine)), None)
