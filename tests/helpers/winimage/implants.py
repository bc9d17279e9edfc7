"""Processes with what intruders leave behind, one thing each, among processes of the same program without it.

All have the same program and libraries, and of what is the same and may not be written the same frames. One library,
moved.dll, holds addresses of itself in its code, and lies elsewhere in some processes.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from winimage.contents import PAGE
from winimage.kernel import Section, header
from winimage.plans import Plan
from winimage.programs import CODE, CONSTANTS, Content, code, sections
from winimage.userland import SYSTEM32, Loaded, Userland, Vad, image, plain

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

PROGRAM, LIBRARY = 0x140000000, 0x7FFA11000000
#: where moved.dll lies, and where it lies in those processes in which something else was there
MOVED, ELSEWHERE = 0x7FFA20000000, 0x7FFB40010000
_MOVED_PAGES, _RELOCATIONS = 8, 6
#: memory that no file backs and that runs, and places in it: where a thread begins, what a call returns to
INJECTED = 0x2A0000
BEGIN, RETURN = INJECTED + 0x40, INJECTED + 0x127
HOOK = b"\xe9\x00\x00\x20\x00"
#: places in the second page of moved.dll's code that hold addresses of it, the last cut by the end of the page
POINTERS = (0x10, 0x123, 0x800, 0xFFC)


def _moved(base: int, *, relocations: bool, hooked: bool) -> list[Content]:
    """Return the pages of moved.dll; `relocations`: its directory is in memory; `hooked`: its code is changed."""
    parts = (
        Section(b".text", PAGE, 4 * PAGE, CODE),
        Section(b".reloc", _RELOCATIONS * PAGE, PAGE, CONSTANTS),
    )
    block = struct.pack("<II4H", 2 * PAGE, 16, *(10 << 12 | place for place in POINTERS))
    head = bytearray(header(base, _MOVED_PAGES * PAGE, parts))
    struct.pack_into("<II", head, 0xE8 + 24 + 112 + 8 * 5, _RELOCATIONS * PAGE, len(block))
    text = bytearray(code(MOVED + PAGE, 3))
    for number, place in enumerate(POINTERS):
        struct.pack_into("<Q", text, PAGE + place, base + 0x2340 + number)
    if hooked:
        text[PAGE + 0x200 : PAGE + 0x205] = HOOK
    found = [Content(base, bytes(head), 1, "R"), Content(base + PAGE, bytes(text), 3, "RX")]
    return [*found, *([Content(base + _RELOCATIONS * PAGE, block, 1, "R")] if relocations else [])]


def clean(pid: int, base: int = MOVED, *, relocations: bool = False, hooked: bool = False) -> Userland:
    """Return a process without anything that is odd; moved.dll lies at `base`."""
    plan = plain(pid)
    path = SYSTEM32 + "moved.dll"
    return plan._replace(
        vads=tuple(sorted((*plan.vads, image(base, _MOVED_PAGES, path)))),
        modules=(*plan.modules, Loaded(base, _MOVED_PAGES * PAGE, "moved.dll", "C:" + path)),
        contents=(*plan.contents, *_moved(base, relocations=relocations, hooked=hooked)),
        shares=True,
    )


def hooked(pid: int) -> Userland:
    """Return one whose library has another first instruction, on its second page of code."""
    page = bytearray(code(LIBRARY + 2 * PAGE, 1))
    page[: len(HOOK)] = HOOK
    return _with(clean(pid), Content(LIBRARY + 2 * PAGE, bytes(page), 1, "RX"))


def unlinked(pid: int, lists: str = "mi") -> Userland:
    """Return one in which a library is in some of the loader's lists only."""
    plan = clean(pid)
    modules = [each._replace(lists=lists) if each.base == LIBRARY else each for each in plan.modules]
    return plan._replace(modules=tuple(modules))


def _injected(pid: int) -> Userland:
    """Return one that has code in private memory: `RETURN` stands behind a call."""
    plan = clean(pid)
    page = bytearray(b"\x90" * PAGE)
    page[RETURN - INJECTED - 6 : RETURN - INJECTED] = b"\xff\x15" + struct.pack("<I", 0x10)
    plan = _with(plan, Content(INJECTED, bytes(page), 1, "RX"))
    return plan._replace(vads=tuple(sorted((*plan.vads, Vad(INJECTED, 4 * PAGE, "PAGE_EXECUTE_READWRITE")))))


def begun(pid: int, begin: int = BEGIN) -> Userland:
    """Return one whose last thread begins in private memory, or elsewhere."""
    plan = _injected(pid)
    return plan._replace(threads=(*plan.threads[:-1], plan.threads[-1]._replace(begin=begin)))


def returning(pid: int, target: int = RETURN) -> Userland:
    """Return one in which a thread's stack holds an address in private memory."""
    plan = _injected(pid)
    top = plan.threads[1].stack.base - PAGE
    page = bytearray(PAGE)
    struct.pack_into("<Q", page, 0xE28, target)
    return _with(plan, Content(top, bytes(page), 1, "RW"))


def replaced(pid: int) -> Userland:
    """Return one whose program was unmapped, and another written to private memory at its place."""
    plan = clean(pid)
    vads = [each for each in plan.vads if each.start != PROGRAM]
    vads.append(Vad(PROGRAM, 24 * PAGE, "PAGE_EXECUTE_READWRITE"))
    return plan._replace(vads=tuple(sorted(vads)))


def overwritten(pid: int, *, alike: bool = False) -> Userland:
    """Return one whose program's header is another's: of another size, or `alike`, but of another time."""
    head = bytearray(header(PROGRAM, (24 if alike else 20) * PAGE, sections(24 if alike else 20)))
    struct.pack_into("<I", head, 0xE8 + 8, 0x60000000)
    return _with(clean(pid), Content(PROGRAM, bytes(head), 1, "R"))


def elsewhere(pid: int) -> Userland:
    """Return one whose PEB says that the program is somewhere else."""
    return clean(pid)._replace(peb_image=0x150000000)


def _with(plan: Userland, *contents: Content) -> Userland:
    return plan._replace(contents=(*plan.contents, *contents))


#: what is planted, by the number of the process
PLANTED: dict[int, Callable[[int], Userland]] = {
    1000: hooked,
    1004: unlinked,
    1008: lambda pid: unlinked(pid, "lm"),
    1012: begun,
    1016: lambda pid: begun(pid, 0x66660000),
    1020: returning,
    1024: replaced,
    1028: overwritten,
    1032: lambda pid: overwritten(pid, alike=True),
    1036: elsewhere,
    1040: lambda pid: clean(pid, ELSEWHERE, relocations=True, hooked=True),
    1044: lambda pid: clean(pid, ELSEWHERE, hooked=True),
}
#: and processes without anything; some have moved.dll elsewhere, one a word on its stack that no call put there
CLEAN: dict[int, Callable[[int], Userland]] = {
    800: clean,
    804: clean,
    808: lambda pid: clean(pid, ELSEWHERE),
    812: lambda pid: clean(pid, ELSEWHERE, relocations=True),
    816: lambda pid: returning(pid, RETURN + 1),
}


def plans(pids: Iterable[int] = (*CLEAN, *PLANTED)) -> list[Plan]:
    """Return the plans of some of these processes."""
    every = CLEAN | PLANTED
    return [Plan(pid, b"plain.exe", memory=(), userland=every[pid](pid)) for pid in pids]
