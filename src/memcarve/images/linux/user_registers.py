"""What the registers of a thread held when it last entered the kernel, which keeps them at the end of its stack there.

The frame (``struct pt_regs``): arch/x86/include/asm/ptrace.h and arch/arm64/include/asm/ptrace.h of Linux; where it
ends: task_pt_regs and TOP_OF_KERNEL_STACK_PADDING (arch/x86/include/asm/processor.h, thread_info.h). How large stacks
are and what lies between frame and end differs by kernel (KASAN, FRED, 32 bits, pages of ARM64): that place is taken
at which the frames of a machine's threads make sense. The registers that the kernel switches with a thread are in its
``thread_struct`` (asm/processor.h). Registers go by gdb's names.
"""

from __future__ import annotations

import functools
import itertools
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from memcarve.images.linux.process_start import is_narrow
from memcarve.images.linux.tasks import state_number

if TYPE_CHECKING:
    from collections.abc import Iterable

    from memcarve.images.linux.kernel_structures import Structures
    from memcarve.images.paging_modes import Mode

_SIZES = tuple(1 << shift for shift in range(12, 18))  # of kernel stacks, in bytes
_PADDINGS = (0, 8, 16)
_SAMPLE, _MOST = 64, 1 << 14  # tasks with user code that are looked at, and tasks among which these are looked for
_USER_RING = 3
#: what user code runs with in CS, and with Xen's paravirtualisation: __USER_CS, __USER32_CS, FLAT_RING3_CS64, ..._CS32
_CODE = {64: {0x33, 0x23, 0xE033, 0xE023}, 32: {0x73, 0xE073}}
_ALWAYS, _FLAGS_END = 2, 1 << 22  # the bit of EFLAGS that is always set, and behind the highest that there is
_EL0, _AARCH32 = 0xF, 0x10  # bits of PSTATE: exception level and stack pointer, 0 for user code; AArch32
_LOWEST, _ALIGNED = 4096, 16  # nothing is mapped below; a stack pointer that is used is a multiple
_MOST_AUTHENTICATED = 54  # the highest bit of a pointer that may be part of its authentication code

#: the members of a frame, in the order in which they lie
_X64 = (
    "r15", "r14", "r13", "r12", "bp", "bx", "r11", "r10", "r9", "r8", "ax", "cx", "dx", "si", "di",
    "orig_ax", "ip", "cs", "flags", "sp", "ss",
)  # fmt: skip
_X86 = (
    "bx", "cx", "dx", "si", "di", "bp", "ax", "ds", "es", "fs", "gs", "orig_ax", "ip", "cs", "flags",
    "sp", "ss",
)  # fmt: skip
_SWITCHED = {"fs_base": "fsbase", "gs_base": "gsbase", "ds": "ds", "es": "es", "fs": "fsindex", "gs": "gsindex"}
_GENERAL = 31  # X0 to X30
_ARM_FRAME = 42  # words
_ARM = (*(f"r{number}" for number in range(13)), "sp", "lr")
_SELECTORS = {"cs", "ss", "ds", "es", "fs", "gs"}


class Frame(NamedTuple):
    """Where a frame lies, and what is in it: its size in bytes, and each register's offset and size."""

    size: int
    places: dict[str, tuple[int, int]]


class UserRegisters:
    """Reads the registers of threads; `sample` yields the addresses of tasks from which the place is learned."""

    def __init__(self, kernel: Structures, mode: Mode, sample: Iterable[int]) -> None:
        self.kernel = kernel
        self.mode = mode
        self.frame = _frame(kernel, mode)
        self._sample = sample

    def of(self, task: int) -> dict[str, int] | None:
        """Return the registers of a task by name, as it left user code; None if they are not known.

        Of one that runs, what its stack holds is of the last time that it entered the kernel: it is not taken.
        """
        stack = self._stack(task)
        if stack is None or self.place is None:
            return None
        found = self._read(stack + self.place)
        if found is None:
            return None
        found |= self._switched(task)
        mm = self.kernel.pointer(task, "task_struct", "mm")
        return found if mm is None or self.mode.split or not is_narrow(self.kernel, mm) else _narrowed(found)

    @functools.cached_property
    def place(self) -> int | None:
        """Where in a kernel stack the frame begins; None if it is not known."""
        known = (stack for stack in map(self._stack, itertools.islice(self._sample, _MOST)) if stack is not None)
        stacks = [*itertools.islice(known, _SAMPLE)]
        votes = Counter[int]()
        for stack in stacks:
            for place in {size - padding - self.frame.size for size, padding in itertools.product(_SIZES, _PADDINGS)}:
                votes[place] += place > 0 and self._read(stack + place) is not None
        best = votes.most_common(2)
        if not best or best[0][1] * 2 <= len(stacks) or (len(best) > 1 and best[0][1] == best[1][1]):
            return None
        return best[0][0]

    def _stack(self, task: int) -> int | None:
        """Return the address of the kernel stack of a task that runs user code, but not now."""
        kernel = self.kernel
        if kernel.pointer(task, "task_struct", "mm") is None or self._runs(task):
            return None
        return kernel.pointer(task, "task_struct", "stack")

    def _runs(self, task: int) -> bool:
        """Return whether a task runs, or may run: kernels for one processor do not say which one does."""
        running = self.kernel.number(task, "task_struct", "on_cpu")
        if running is None:
            return state_number(self.kernel, task) == 0
        return running != 0

    def _read(self, address: int) -> dict[str, int] | None:
        """Return the registers in a frame; None if it cannot be one of user code."""
        data = self.kernel.reader.read(address, self.frame.size)
        if data is None:
            return None
        found = {name: int.from_bytes(data[at : at + size], "little") for name, (at, size) in self.frame.places.items()}
        return self._of_arm(found) if self.mode.split else found if self._is_sound(found) else None

    def _is_sound(self, found: dict[str, int]) -> bool:
        bits, words = (64, ("rip", "rsp")) if self.mode.wide else (32, ("eip", "esp"))
        end = 1 << (self.mode.bits - 1) if self.mode.wide else self.kernel.lowest
        user = found["cs"] in _CODE[bits] and found["ss"] & _USER_RING == _USER_RING
        flags = found["eflags"]
        return user and flags & _ALWAYS != 0 and flags < _FLAGS_END and all(found[name] < end for name in words)

    def _of_arm(self, found: dict[str, int]) -> dict[str, int] | None:
        """Return the registers of user code, by its own names if it is 32-bit code; None if it is none."""
        state = found["cpsr"]
        if state & _EL0 or state >> 32 or not _LOWEST <= found["pc"] < 1 << self.mode.bits:
            return None
        if state & _AARCH32:
            named = {name: found[f"x{number}"] & 0xFFFFFFFF for number, name in enumerate(_ARM)}
            return named | {"pc": found["pc"], "cpsr": state}
        return found if found["sp"] % _ALIGNED == 0 and _LOWEST <= found["sp"] < 1 << self.mode.bits else None

    def _switched(self, task: int) -> dict[str, int]:
        """Return the registers that are kept apart from the frame."""
        kernel = self.kernel
        thread = kernel.offset("task_struct", "thread")
        if thread is None:
            return {}
        if self.mode.split:
            pointer = kernel.number(task + thread, "thread_struct", "uw.tp_value")
            return {} if pointer is None else {"tpidr": pointer} | self._authentication(task + thread)
        if not self.mode.wide:
            return {}
        values = kernel.numbers(task + thread, "thread_struct", tuple(_SWITCHED.values()))
        return {name: value for name, value in zip(_SWITCHED, values, strict=True) if value is not None}

    def _authentication(self, thread: int) -> dict[str, int]:
        """Return which bits of pointers hold their authentication codes, if the processor makes any."""
        at, size = self.kernel.place("thread_struct", "keys_user") or (0, 0)
        keys = self.kernel.reader.read(thread + at, size) if size else None
        if keys is None or not any(keys):
            return {}
        mask = (1 << _MOST_AUTHENTICATED + 1) - (1 << self.mode.bits)
        return {"pauth_dmask": mask, "pauth_cmask": mask}


def _frame(kernel: Structures, mode: Mode) -> Frame:
    """Return what a frame looks like by the kernel's types; what these do not tell is as it has been for years."""
    size, word = kernel.types.size("pt_regs"), kernel.word
    places: dict[str, tuple[int, int]]
    if mode.split:
        at = kernel.offset("pt_regs", "regs") or 0
        places = {f"x{number}": (at + number * word, word) for number in range(_GENERAL)}
        for number, (name, member) in enumerate((("sp", "sp"), ("pc", "pc"), ("cpsr", "pstate")), _GENERAL):
            places[name] = kernel.place("pt_regs", member) or (number * word, word)
        return Frame(size or _ARM_FRAME * word, places)
    names = _X64 if mode.wide else _X86
    places = {
        _called(name, "r" if mode.wide else "e"): kernel.place("pt_regs", name) or (number * word, word)
        for number, name in enumerate(names)
    }
    for name in _SELECTORS & places.keys():  # 16 bits of a word, of which the rest may be something else
        places[name] = (places[name][0], 2)
    return Frame(size or len(names) * word, places)


def _narrowed(found: dict[str, int]) -> dict[str, int]:
    """Return the registers of a 32-bit program by its own names: a 64-bit kernel saves more, and wider ones."""
    names = {_called(name, "r"): _called(name, "e") for name in _X86}
    return {names[name]: value & 0xFFFFFFFF for name, value in found.items() if name in names}


def _called(member: str, letter: str) -> str:
    """Return what gdb calls a member of a frame of x86; `letter` is what names of whole registers begin with."""
    if member == "flags":
        return "eflags"
    if member in _SELECTORS or member[-1].isdigit():
        return member
    return f"orig_{letter}ax" if member == "orig_ax" else letter + member
