"""The pid namespaces' tables, in which the kernel looks processes up by number (include/linux/pid.h of Linux).

Since Linux 4.15 a namespace keeps its ``struct pid`` in an IDR: a tree of nodes of 64 slots (include/linux/xarray.h,
radix-tree.h), whose lowest bits tell a node from an entry. A task that was taken out of the list of tasks still has its
number here, unless that was taken away, too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcarve.images.linux.tasks import DEEPEST

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from memcarve.images.linux.kernel_structures import Structures

_MOST_ENTRIES = 1 << 19  # nodes and numbers of all namespaces together
_MOST_WAITING = 1 << 12  # a node has 64 slots, and a tree no more than four levels
_NODE = 3  # the bits by which a pointer to a node is told: 2, before Linux 4.20 1
_LEAST = 4096  # what is less is not a pointer


def namespaces_of(kernel: Structures, tasks: Iterable[int]) -> list[int]:
    """Return the addresses of the pid namespaces that some tasks are in, from the outermost to their own."""
    numbers, size = kernel.offset("pid", "numbers"), kernel.types.size("upid")
    found: dict[int, None] = {}
    for task in tasks:
        proxy = kernel.pointer(task, "task_struct", "nsproxy")
        own = None if proxy is None else kernel.pointer(proxy, "nsproxy", "pid_ns_for_children")
        if own is not None:
            found[own] = None
        pid = kernel.pointer(task, "task_struct", "thread_pid")
        level = None if pid is None else kernel.number(pid, "pid", "level")
        if pid is None or level is None or numbers is None or size is None:
            continue
        for number in range(min(level, DEEPEST) + 1):
            held = kernel.pointer(pid + numbers + number * size, "upid", "ns")
            if held is not None:
                found[held] = None
    return [*found]


def numbered_tasks(kernel: Structures, namespace: int, seen: set[int]) -> Iterator[int]:
    """Yield the addresses of the tasks, threads among them, to which the numbers of a namespace lead.

    `seen` is what was looked at for others, which is not looked at again: a process has a number in several.
    """
    heads, links = kernel.offset("pid", "tasks"), links_of_numbers(kernel)
    if heads is None or links is None:
        return
    for pid in _entries(kernel, namespace, seen):
        first = kernel.reader.number(pid + heads, kernel.word)  # PIDTYPE_PID is 0: the task whose number it is
        if first is not None and kernel.is_kernel(first):
            yield first - links


def links_of_numbers(kernel: Structures) -> int | None:
    """Return where in a task, in bytes, the link is that its number leads to; None if that is not known."""
    found = kernel.offset("task_struct", "pid_links")
    return kernel.offset("task_struct", "pids") if found is None else found  # before Linux 4.19


def _entries(kernel: Structures, namespace: int, seen: set[int]) -> Iterator[int]:
    """Yield what the slots of a namespace's tree lead to: addresses of ``struct pid``."""
    tree = kernel.offset("pid_namespace", "idr")
    head = kernel.offset("idr", "idr_rt.xa_head")
    head = kernel.offset("idr", "idr_rt.rnode") if head is None else head
    node = "xa_node" if kernel.offset("xa_node", "slots") is not None else "radix_tree_node"
    slots = kernel.place(node, "slots")
    if tree is None or head is None or slots is None:
        return
    root = kernel.reader.number(namespace + tree + head, kernel.word)
    waiting = [] if root is None else [root]
    while waiting and len(seen) < _MOST_ENTRIES:
        entry = waiting.pop()
        if entry < _LEAST or entry in seen or not kernel.is_kernel(entry):
            continue
        seen.add(entry)
        if not entry & _NODE:
            yield entry
            continue
        data = kernel.reader.read((entry & ~_NODE) + slots[0], min(slots[1], _LEAST))
        if data is not None and len(waiting) < _MOST_WAITING:
            held = (data[at : at + kernel.word] for at in range(0, len(data), kernel.word))
            waiting += [value for each in held if (value := int.from_bytes(each, "little"))][::-1]
