"""Processes whose structures were tampered with: trees, lists and texts that tempt a reader to err, to loop or to die.

Each is `userland.plain` with one thing wrong, under the name of what that is. What is wrong and can be said in a plan
is in `CHANGES`, `STARTS` and `TRACES`; links are damaged when they are written: those of the tree (`TREE`, which return
the regions that nothing leads to any more), of the loader's lists (`LOADER`) and of the threads (`THREADS`).
"""

from __future__ import annotations

import struct
from functools import partial
from typing import TYPE_CHECKING

from winimage import ntdll
from winimage.contents import PAGE
from winimage.ntdll import Trace
from winimage.plans import Plan
from winimage.userland import SYSTEM32, Name, Stack, Userland, Vad, image, mapped, plain, wow64
from winimage.vadtree import fields

if TYPE_CHECKING:
    from collections.abc import Callable

    from winimage.layouts import Layout
    from winimage.loader import Side, Sides
    from winimage.threads import Threads
    from winimage.vadtree import Tree

#: a kernel address that is canonical, aligned and not mapped; and an address that is not canonical
NOWHERE, IMPOSSIBLE = 0xFFFF923456789AB0, 0x0012345678901230
#: a page of the process's own, in which a VAD and a thread are faked
FAKE = 0x66000000
FAKE_VAD, FAKE_THREAD = FAKE + 0x20, FAKE + 0x600
#: what the faked VAD claims, and the faked thread's number
FAKE_REGION, FAKE_TID = Vad(0x77770000, 0x1000, "PAGE_EXECUTE_READWRITE"), 0x7774
#: what every process and the kernel share, where the kernel has it; a text of 20 bytes lies in it
KERNEL, KERNEL_TEXT = 0xFFFFF78000000000, 0xFFFFF78000000030
LONG = 3000
DEEP = 64
FIRST_PID = 5000


def fake_page(layout: Layout) -> bytes:
    """Return the page of the fakes."""
    data = bytearray(PAGE)
    for at, part in (
        (FAKE_VAD - 12, b"VadS"),
        (FAKE_VAD, fields(layout, FAKE_REGION)),
        (FAKE_THREAD + layout["_ETHREAD.Cid"] + 8, FAKE_TID.to_bytes(8, "little")),
        (FAKE_THREAD, b"\x06"),
        (FAKE_THREAD + layout["_ETHREAD.ThreadListEntry"],
         2 * (FAKE_THREAD + layout["_ETHREAD.ThreadListEntry"]).to_bytes(8, "little")),
        (FAKE + 0xF80, "\\from\\user.dll".encode("utf-16-le")),
    ):  # fmt: skip
        data[at - FAKE : at - FAKE + len(part)] = part
    return bytes(data)


# the tree: fifteen regions; 7 is the root, 3 and 11 are below it, those of even numbers are the leaves


def _left_of_3(address: int, tree: Tree) -> set[int]:
    tree.point(tree.nodes[3], left=address)
    return {0, 1, 2}


def _cycle(tree: Tree) -> set[int]:
    tree.point(tree.nodes[0], left=tree.nodes[7])
    tree.point(tree.nodes[14], right=tree.nodes[11])
    return set()


def _self(tree: Tree) -> set[int]:
    tree.point(tree.nodes[2], left=tree.nodes[2], right=tree.nodes[2])
    return set()


def _root_cycle(tree: Tree) -> set[int]:
    tree.point(tree.nodes[7], left=tree.nodes[7])
    return set(range(7))


def _shared(tree: Tree) -> set[int]:
    tree.point(tree.nodes[3], right=tree.nodes[11])
    return {4, 5, 6}


def _root(address: int, tree: Tree) -> set[int]:
    tree.point_root(address)
    return set(range(len(tree.nodes)))


def _noise(tree: Tree) -> set[int]:
    """Have a child be somewhere in the process's own structure, where no node is."""
    return _left_of_3((tree.root & ~15) - 64, tree)


def _ladder(tree: Tree) -> set[int]:
    """Have both children of every node be the next: few nodes, more paths than can be walked."""
    for node, following in zip(tree.nodes, [*tree.nodes[1:], 0], strict=True):
        tree.point(node, left=following, right=following)
    tree.point_root(tree.nodes[0])
    return set()


def _no_files(tree: Tree) -> set[int]:
    """Have the sections of mapped files lead nowhere, in several ways; their regions say so in the plan."""
    subsection = tree.layout["_MMVAD.Subsection"]
    long = [node for node, vad in zip(tree.nodes, tree.vads, strict=True) if not vad.private]
    for node, value in zip(long, (NOWHERE, FAKE, IMPOSSIBLE, 0), strict=False):
        tree.pool.put(node + subsection, "Q", value)
    # the fifth leads to a file that is none any more, by the type that it begins with
    tree.pool.put(tree.files[long[4]], "H", 0x91)
    return set()


TREE: dict[str, Callable[[Tree], set[int]]] = {
    "child-cycle": _cycle,
    "child-itself": _self,
    "child-shared": _shared,
    "child-noise": _noise,
    "child-misaligned": lambda tree: _left_of_3(tree.nodes[1] + 4, tree),
    "child-impossible": partial(_left_of_3, IMPOSSIBLE),
    "child-unmapped": partial(_left_of_3, NOWHERE),
    "child-top": partial(_left_of_3, (1 << 64) - 16),
    "child-user": partial(_left_of_3, FAKE_VAD),
    "root-cycle": _root_cycle,
    "root-unmapped": partial(_root, NOWHERE),
    "root-user": partial(_root, FAKE_VAD),
    "ladder": _ladder,
    "no-files": _no_files,
}


# the loader: five modules


def _entry(number: int, forward: Callable[[Side], int], sides: Sides) -> None:
    """Have a module's forward link in the order of loading be something else."""
    sides.wide.links(sides.wide.entries[number], forward(sides.wide))


def _cut(sides: Sides) -> None:
    """Cut all three lists forward: that of initialization, which runs the other way, at the last module."""
    for number, shift in ((2, 0), (2, 16), (4, 32)):
        sides.wide.links(sides.wide.entries[number] + shift, 0)


def _all_backward(sides: Sides) -> None:
    for entry in sides.wide.entries:
        sides.wide.links(entry, None, NOWHERE)


def _cycle_32(sides: Sides) -> None:
    if sides.narrow is None:
        raise AssertionError
    sides.narrow.links(sides.narrow.entries[1], sides.narrow.entries[0])


def _ldr(address: int, sides: Sides) -> None:
    sides.memory.put(sides.wide.peb + 0x18, "Q", address)


def _heaps(count: int, address: int | None, sides: Sides) -> None:
    sides.memory.put(sides.wide.peb + 0xE8, "II", count, count)
    if address is not None:
        sides.memory.put(sides.wide.peb + 0xF0, "Q", address)


def _not_itself(sides: Sides) -> None:
    """Have the second thread's block say that it is another's."""
    sides.memory.put(plain(0).threads[1].teb + 0x30, "Q", plain(0).threads[2].teb)


#: and how many modules a walk from the head forward still finds
LOADER: dict[str, tuple[Callable[[Sides], None], int]] = {
    "modules-cycle": (partial(_entry, 3, lambda side: side.entries[1]), 4),
    "modules-itself": (partial(_entry, 2, lambda side: side.entries[2]), 3),
    "modules-unmapped": (partial(_entry, 2, lambda _: 0x55550000), 3),
    "modules-kernel": (partial(_entry, 2, lambda _: NOWHERE), 3),
    "modules-nothing": (partial(_entry, 2, lambda _: 0), 3),
    "modules-misaligned": (partial(_entry, 2, lambda side: side.entries[3] + 1), 3),
    "modules-cut": (_cut, 3),
    "modules-backward": (_all_backward, 5),
    "modules-32-cycle": (_cycle_32, 3),
    "ldr-nothing": (partial(_ldr, 0), 0),
    "ldr-unmapped": (partial(_ldr, 0x55550000), 0),
    "ldr-kernel": (partial(_ldr, NOWHERE), 0),
    "heaps-many": (partial(_heaps, 0xFFFFFFFF, None), 5),
    "heaps-unmapped": (partial(_heaps, 2, 0x55550000), 5),
    "teb-not-itself": (_not_itself, 5),
    "heaps-kernel": (partial(_heaps, 2, NOWHERE), 5),
}


# the threads: four


def _forward(number: int, value: Callable[[Threads], int], threads: Threads) -> None:
    threads.forward(number, value(threads))


def _fake_thread(threads: Threads) -> int:
    return FAKE_THREAD + threads.layout["_ETHREAD.ThreadListEntry"]


def _owner(threads: Threads) -> None:
    """Have a thread belong to another process by what it says itself."""
    threads.pool.put(threads.places[2] + threads.layout["_ETHREAD.Cid"], "Q", 0x7774)


#: and how many threads a walk from the head forward still finds
THREADS: dict[str, tuple[Callable[[Threads], None], int]] = {
    "threads-cycle": (partial(_forward, 2, lambda threads: threads.links[0]), 3),
    "threads-itself": (partial(_forward, 1, lambda threads: threads.links[1]), 2),
    "threads-unmapped": (partial(_forward, 1, lambda _: NOWHERE), 2),
    "threads-user": (partial(_forward, 1, _fake_thread), 2),
    "threads-misaligned": (partial(_forward, 1, lambda threads: threads.links[2] + 3), 2),
    "threads-nothing": (partial(_forward, -1, lambda _: 0), 0),
    "threads-owner": (_owner, 2),
    "threads-backward": (lambda threads: threads.backward(2, NOWHERE), 4),
}


# what a plan can say


def _with_vad(number: int, plan: Userland, **changes: object) -> Userland:
    vads = list(plan.vads)
    vads[number] = vads[number]._replace(**changes)  # type: ignore[arg-type]
    return plan._replace(vads=tuple(vads))


def _with_module(number: int, plan: Userland, **changes: object) -> Userland:
    modules = list(plan.modules)
    modules[number] = modules[number]._replace(**changes)  # type: ignore[arg-type]
    return plan._replace(modules=tuple(modules))


def _with_thread(number: int, plan: Userland, **changes: object) -> Userland:
    threads = list(plan.threads)
    threads[number] = threads[number]._replace(**changes)  # type: ignore[arg-type]
    return plan._replace(threads=tuple(threads))


def _reversed(plan: Userland) -> Userland:
    return _with_vad(5, plan, vpns=(0x1F00300, 0x1F00200))


def _high(plan: Userland) -> Userland:
    """Have a region end beyond what 64 bits can say; where the number is narrower, at its highest."""
    return _with_vad(14, plan, vpns=(plan.vads[14].start >> 12, (1 << 64) - 1))


def _unordered(plan: Userland) -> Userland:
    """Have the first region and the last stand in each other's place."""
    first, *others, last = plan.vads
    return plan._replace(vads=(last, *others, first))


def _overlapping(plan: Userland) -> Userland:
    five = plan.vads[5]
    plan = _with_vad(5, plan, start=five.start + 0x10000, size=0x300000)
    return _with_vad(9, plan, start=plan.vads[8].start, size=0x1000)


def _many(lean: str, plan: Userland) -> Userland:
    vads = tuple(Vad(0x100000000 + number * 0x3000, 0x1000 + (number & 1) * PAGE) for number in range(LONG))
    return plan._replace(vads=vads, lean=lean)


def _rungs(plan: Userland) -> Userland:
    return plan._replace(vads=tuple(Vad(0x100000000 + number * 0x10000, 0x1000) for number in range(DEEP)))


def _tags(plan: Userland) -> Userland:
    plan = _with_vad(0, plan, tag="\x1b[2J")
    return _with_vad(1, plan, tag="\0\0\0\0")


def _without_files(plan: Userland) -> Userland:
    for number in [number for number, vad in enumerate(plan.vads) if not vad.private][:5]:
        # the structures are made, and nothing leads to them
        plan = _with_vad(number, plan, file=None, name=Name(plan.vads[number].file or ""))
    return plan


#: texts that cannot be what they say, at addresses from 0x50000000 on
RAW = (
    Name("\\odd.dll", length=15),
    Name("\\longer.dll", maximum=8),
    Name("\\unmapped.dll", buffer=NOWHERE),
    Name("\\nothing.dll", buffer=0),
    Name("\\user.dll", length=26, maximum=28, buffer=FAKE + 0xF80),
    Name("\\impossible.dll", buffer=IMPOSSIBLE),
    Name("\\most.dll", length=0xFFFF, maximum=0xFFFF),
    Name("\\more.dll", length=0xFFFE, maximum=0x10),
    Name("\\wrapping.dll", length=0x40, maximum=0x42, buffer=(1 << 64) - 16),
)


def _names(plan: Userland) -> Userland:
    vads = [mapped(0x50000000 + 0x10000 * number, PAGE, name=name) for number, name in enumerate(RAW)]
    return plan._replace(vads=tuple(sorted([*plan.vads, *vads])))


CHANGES: dict[str, Callable[[Userland], Userland]] = {
    "region-reversed": _reversed,
    "region-high": _high,
    "regions-overlap": _overlapping,
    "regions-unordered": _unordered,
    "regions-right": partial(_many, "right"),
    "regions-left": partial(_many, "left"),
    "ladder": _rungs,
    "tags": _tags,
    "no-files": _without_files,
    "names": _names,
    "module-huge": lambda plan: _with_module(2, plan, size=0xFFFFFFFF),
    "module-nothing": lambda plan: _with_module(2, plan, size=0),
    "module-unaligned": lambda plan: _with_module(2, plan, base=0x7FFA11000123),
    "module-kernel": lambda plan: _with_module(2, plan, base=0xFFFFF80011000000),
    "module-escapes": lambda plan: _with_module(
        2, plan, name="\x1b]0;x\x07\ud800.dll", path="C:\\\x1b[2J\ud800", lists="m"
    ),
    "module-name-unmapped": lambda plan: _with_module(2, plan, raw=Name("x.dll", buffer=0x55550000)),
    "module-name-kernel": lambda plan: _with_module(2, plan, raw=Name("x.dll", buffer=NOWHERE)),
    "module-name-shared": lambda plan: _with_module(2, plan, raw=Name("C:\\Windows", buffer=KERNEL_TEXT)),
    "module-name-longer": lambda plan: _with_module(2, plan, raw=Name("x.dll", maximum=4)),
    "module-name-most": lambda plan: _with_module(2, plan, raw=Name("x.dll", length=0xFFFF, maximum=0xFFFF)),
    "teb-unmapped": lambda plan: _with_thread(1, plan, mapped=False),
    "teb-kernel": lambda plan: _with_thread(1, plan, teb=NOWHERE & ~0xFFF, mapped=False),
    "teb-nothing": lambda plan: _with_thread(1, plan, teb=0),
    "stack-reversed": lambda plan: _with_thread(1, plan, stack=Stack(0x1F00200000, 0x1F002FD000, 0x1F00300000)),
    "stack-limit": lambda plan: _with_thread(1, plan, stack=Stack(0x1F00300000, 0x1F00400000, 0x1F00200000)),
    "stack-kernel": lambda plan: _with_thread(1, plan, stack=Stack(NOWHERE, NOWHERE & ~0xFFF, NOWHERE & ~0xFFFF)),
    "peb-32-wide": lambda plan: plan._replace(peb32=0x2100000000),
    "peb-unmapped": lambda plan: plan._replace(peb=0x55550000),
}


# what a process was started with, and which modules it unloaded


def _started(plan: Userland, **changes: object) -> Userland:
    """Change what a process was started with; of 32 bits what that side says."""
    side = "started" if plan.peb32 is None else "started32"
    return plan._replace(**{side: getattr(plan, side)._replace(**changes)})


def _traced(plan: Userland, **changes: object) -> Userland:
    side = "trace" if plan.peb32 is None else "trace32"
    return plan._replace(**{side: getattr(plan, side)._replace(**changes)})


def _copied(plan: Userland) -> Userland:
    """Map another ntdll below, as it is in its file."""
    base = 0x7FF900000000
    copy = image(base, ntdll.PAGES, SYSTEM32 + "ntdll.dll")
    contents = ntdll.contents(base, Trace(lost=("list",), pointer=0), 0)
    return plan._replace(vads=tuple(sorted([*plan.vads, copy])), contents=(*plan.contents, *contents))


_TEXTS = ("command_line", "image_path", "directory", "environment")
_X = Name("x.exe /y")
#: and what of it cannot be read
STARTS: dict[str, tuple[Callable[[Userland], Userland], tuple[str, ...]]] = {
    "start-nothing": (lambda plan: _started(plan, at=0), _TEXTS),
    "start-unmapped": (lambda plan: _started(plan, at=0x55550000), _TEXTS),
    "start-kernel": (lambda plan: _started(plan, at=KERNEL), _TEXTS),
    "start-impossible": (lambda plan: _started(plan, at=IMPOSSIBLE), _TEXTS),
    "start-lost": (lambda plan: _started(plan, lost=("parameters",)), _TEXTS),
    "start-odd": (lambda plan: _started(plan, command_line=_X._replace(length=13)), ("command_line",)),
    "start-longer": (lambda plan: _started(plan, command_line=_X._replace(maximum=4)), ("command_line",)),
    "start-most": (lambda plan: _started(plan, image_path=_X._replace(length=65535, maximum=65535)), ("image_path",)),
    "start-text-kernel": (
        lambda plan: _started(plan, command_line=Name("C:\\Windows", buffer=KERNEL_TEXT)),
        ("command_line",),
    ),
    "start-text-unmapped": (lambda plan: _started(plan, directory=_X._replace(buffer=0x55550000)), ("directory",)),
    "start-text-lost": (lambda plan: _started(plan, lost=("command_line", "directory")), ("command_line", "directory")),
    "start-relative": (lambda plan: _started(plan, normalised=False), ()),
    "start-relative-far": (
        lambda plan: _started(plan, normalised=False, command_line=_X._replace(buffer=(1 << 64) - 16)),
        ("command_line",),
    ),
    "start-unflagged": (lambda plan: _started(plan, flagged=False), ()),
    "start-empty": (lambda plan: _started(plan, command_line=Name(""), image_path=Name(""), directory=Name("")), ()),
    "start-long": (lambda plan: _started(plan, command_line=Name("y\ud800" * 16383)), ()),
    "start-32-odd": (lambda plan: _started(plan, command_line=_X._replace(length=13)), ("command_line",)),
    "start-32-flagged": (lambda plan: _started(plan, normalised=True), ()),
    "start-32-lost": (lambda plan: _started(plan, lost=("parameters",)), _TEXTS),
    "environment-empty": (lambda plan: _started(plan, environment=()), ()),
    "environment-none": (lambda plan: _started(plan, environment=(), environment_at=0), ()),
    "environment-endless": (lambda plan: _started(plan, ends=False), ("environment",)),
    "environment-huge": (lambda plan: _started(plan, environment_size=1 << 40), ()),
    "environment-unsized": (lambda plan: _started(plan, environment_size=0), ()),
    "environment-short": (lambda plan: _started(plan, environment_size=9), ("environment",)),
    "environment-lost": (lambda plan: _started(plan, lost=("environment",)), ("environment",)),
    "environment-kernel": (lambda plan: _started(plan, environment_at=KERNEL_TEXT), ("environment",)),
    "environment-32-long": (lambda plan: _started(plan, environment=("A=" + "\u4e2d" * 40000, "B=")), ()),
}
_BAD = struct.Struct("<QQIII64s")
_RAW = (
    (10, _BAD.pack(0xFFFFF80011000000, 0x1000, 10, 1, 1, b"k\0")),
    (11, _BAD.pack(0x7FFA40000010, 0x1000, 11, 1, 1, b"u\0")),
    (12, _BAD.pack(0x7FFA40000000, 0, 12, 1, 1, b"n\0")),
    (13, _BAD.pack(0x7FFA40000000, 1 << 47, 13, 1, 1, b"h\0")),
    (14, _BAD.pack(0x7FFA40000000, 0x1000, 15, 1, 1, b"s\0")),
)
_NOISE = tuple((number, bytes((number * 37 + at) % 255 + 1 for at in range(104))) for number in range(6, 60))
#: and whether it is known nevertheless
TRACES: dict[str, tuple[Callable[[Userland], Userland], bool]] = {
    "unload-nothing": (lambda plan: _traced(plan, events=(), pointer=0), True),
    "unload-array": (lambda plan: _traced(plan, code="array"), True),
    "unload-variables": (lambda plan: _traced(plan, code="variables"), True),
    "unload-other": (lambda plan: _traced(plan, code="other"), False),
    "unload-unnamed": (lambda plan: _traced(plan, code="unnamed"), False),
    "unload-outside": (lambda plan: _traced(plan, code="outside"), False),
    "unload-headers": (lambda plan: _traced(plan, lost=("headers",)), False),
    "unload-exports": (lambda plan: _traced(plan, lost=("exports",)), False),
    "unload-code": (lambda plan: _traced(plan, lost=("code",)), False),
    "unload-null": (lambda plan: _traced(plan, pointer=0), True),
    "unload-kernel": (lambda plan: _traced(plan, pointer=NOWHERE), True),
    "unload-shared": (lambda plan: _traced(plan, pointer=KERNEL), True),
    "unload-unmapped": (lambda plan: _traced(plan, pointer=0x55550000), True),
    "unload-number": (lambda plan: _traced(plan, number=0xFFFFFFFF), True),
    "unload-number-none": (lambda plan: _traced(plan, number=0), True),
    "unload-list-lost": (lambda plan: _traced(plan, lost=("list",)), True),
    "unload-array-lost": (lambda plan: _traced(plan, lost=("array",)), True),
    "unload-lost": (lambda plan: _traced(plan, code="variables", lost=("list",)), False),
    "unload-short": (lambda plan: _traced(plan, code="array", entry=96), True),
    "unload-wide": (lambda plan: _traced(plan, code="variables", entry=128), True),
    "unload-wrong": (lambda plan: _traced(plan, raw=_RAW), True),
    "unload-noise": (lambda plan: _traced(plan, raw=_NOISE), False),
    "unload-copy": (_copied, True),
    "unload-unlisted": (lambda plan: _with_module(1, plan, name="other.dll"), True),
    "unload-32-array": (lambda plan: _traced(plan, code="array"), True),
    "unload-32-variables": (lambda plan: _traced(plan, code="variables"), True),
    "unload-32-short": (lambda plan: _traced(plan, code="array", entry=84), True),
    "unload-32-other": (lambda plan: _traced(plan, code="other"), False),
    "unload-32-outside": (lambda plan: _traced(plan, code="outside"), False),
}
CHANGES |= {name: change for name, (change, _) in (*STARTS.items(), *TRACES.items())}
NAMES = tuple(dict.fromkeys([*TREE, *LOADER, *THREADS, *CHANGES]))
PIDS = {name: FIRST_PID + 4 * number for number, name in enumerate(NAMES)}


def plan(name: str) -> Plan:
    """Return the process that has something wrong."""
    pid = PIDS[name]
    narrow = "-32-" in name
    userland = (wow64 if narrow else plain)(pid)._replace(damage=name)
    if name in CHANGES:
        userland = CHANGES[name](userland)
    return Plan(pid, name[:14].encode(), memory=(), wow64=narrow, userland=userland)


#: what of a process's own memory is not there
UNMAPPED = {"peb-unmapped"}
PLANS = tuple(plan(name) for name in NAMES)


def lost(tree: Tree, name: str) -> set[int]:
    """Damage a tree; return the regions that nothing leads to, or that are none."""
    gone = TREE[name](tree) if name in TREE else set()
    return gone | {number for number, vad in enumerate(tree.vads) if vad.vpns}
