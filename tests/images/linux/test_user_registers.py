"""Where the kernel keeps a thread's registers is learned from its tasks, however large stacks are."""

from __future__ import annotations

import pytest

from kernel_memory import KernelMemory
from memcarve.images.linux.user_registers import UserRegisters
from memcarve.images.paging_modes import MODES, PAE, X64, Mode

_ARM64 = MODES["arm64-4k-48"]
_X64_FRAME = "r15 r14 r13 r12 bp bx r11 r10 r9 r8 ax cx dx si di orig_ax ip cs flags sp ss"
_X86_FRAME = "bx cx dx si di bp ax ds es fs gs orig_ax ip cs flags sp ss"


class Machine(KernelMemory):
    """Tasks with kernel stacks of `size` bytes, at whose ends a frame and `padding` bytes are."""

    def __init__(self, mode: Mode, size: int, padding: int) -> None:
        super().__init__(8 if mode.wide else 4, 1 << 23)
        self.mode, self.size, self.padding = mode, size, padding
        self.types.lay_out("task_struct", "thread.fsbase", "stack", "mm", "on_cpu", sizes={"on_cpu": 4})
        self.types.members["task_struct", "thread"] = self.types.members["task_struct", "thread.fsbase"]
        self.types.lay_out("thread_struct", "fsbase")
        self.tasks: list[int] = []

    def task(self, frame: list[int], *, running: bool = False) -> int:
        """Return a new task with a frame."""
        stack = self.take(self.size, self.size)
        self.words(stack + self.size - self.padding - self.word * len(frame), *frame)
        made = self.make("task_struct", stack=stack, mm=self.base, on_cpu=int(running))
        self.put(made, "task_struct", "thread.fsbase", 0x7F00_0000 if self.word == 8 else 0)
        self.tasks.append(made)
        return made

    def registers(self) -> UserRegisters:
        """Return what reads the registers of the tasks as they are now."""
        return UserRegisters(self.structures(), self.mode, self.tasks)


def frame(mode: Mode, number: int) -> list[int]:
    """Return the words of a frame of user code."""
    if mode.split:
        return [*range(number, number + 31), 0x7FFF_0000 + 16 * number, 0x40_0000 + number, 0x6000_0000, *[0] * 8]
    names = (_X64_FRAME if mode.wide else _X86_FRAME).split()
    values = {name: 0x1_0000 + number + place for place, name in enumerate(names)}
    segments = {"cs": 0x33, "ss": 0x2B} if mode.wide else {"cs": 0x73, "ss": 0x7B, "ds": 0x7B}
    return [(values | segments | {"flags": 0x246})[name] for name in names]


@pytest.mark.parametrize("size", [8192, 16384, 32768, 65536])
@pytest.mark.parametrize(("mode", "padding"), [(X64, 0), (X64, 16), (PAE, 8), (PAE, 16), (_ARM64, 0)])
def test_place(mode: Mode, size: int, padding: int) -> None:
    """All words of a frame are read from where they are, though the test's kernel tells nothing of frames."""
    it = Machine(mode, size, padding)
    frames = {it.task(frame(mode, number)): frame(mode, number) for number in range(9)}
    kernel_task = it.task([0] * len(frame(mode, 0)))
    found = it.registers()
    for task, words in frames.items():
        values = found.of(task) or {}
        if mode.split:
            assert [values[f"x{number}"] for number in range(31)] == words[:31]
            assert [values[name] for name in ("sp", "pc", "cpsr")] == words[31:34]
            continue
        letter = "r" if mode.wide else "e"
        names = (_X64_FRAME if mode.wide else _X86_FRAME).split()
        called = [
            {"flags": "eflags", "orig_ax": f"orig_{letter}ax"}.get(name)
            or (name if name[-1].isdigit() or (len(name) == 2 and name[1] == "s") else letter + name)
            for name in names
        ]
        assert [values[name] & 0xFFFF if name[1:] == "s" else values[name] for name in called] == [
            word & 0xFFFF if name[1:] == "s" else word for name, word in zip(called, words, strict=True)
        ]
        assert not mode.wide or values["fs_base"] == 0x7F00_0000
    assert found.of(kernel_task) is None


def test_running_task() -> None:
    """What the stack of a task holds that runs is of an earlier moment: it is not given."""
    it = Machine(X64, 16384, 0)
    for number in range(3):
        it.task(frame(X64, number))
    running = it.task(frame(X64, 9), running=True)
    found = it.registers()
    assert found.of(it.tasks[0]) is not None
    assert found.of(running) is None


def test_nothing_makes_sense() -> None:
    """Stacks without a frame, or none at all, tell nothing."""
    it = Machine(X64, 16384, 0)
    assert it.registers().place is None
    for _ in range(4):
        it.task([0x1234] * 21)
    assert it.registers().place is None
    assert it.registers().of(it.tasks[0]) is None


@pytest.mark.parametrize(
    ("name", "value"),
    [("cs", 0x10), ("ss", 0x18), ("flags", 0), ("flags", 1 << 30 | 2), ("ip", 1 << 63), ("sp", 1 << 47)],
)
def test_frame_of_the_kernel(name: str, value: int) -> None:
    """A frame that cannot be one of user code is not given."""
    it = Machine(X64, 16384, 0)
    for number in range(3):
        it.task(frame(X64, number))
    words = frame(X64, 9)
    words[_X64_FRAME.split().index(name)] = value
    odd = it.task(words)
    assert it.registers().of(odd) is None


def test_32_bit_code_of_arm() -> None:
    """Of a 32-bit program on ARM64 the registers have that processor's names."""
    it = Machine(_ARM64, 16384, 0)
    for number in range(3):
        it.task(frame(_ARM64, number))
    words = frame(_ARM64, 9)
    words[33] = 0x6000_0010
    it.task(words)
    found = it.registers().of(it.tasks[-1]) or {}
    assert found["r0"] == 9
    assert found["sp"] == 9 + 13
    assert "x0" not in found
