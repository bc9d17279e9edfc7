"""Where an unknown kernel keeps the members of a task_struct, its cred, its signal_struct and its pid.

The order of members that is relied on is that of include/linux/sched.h, cred.h, sched/signal.h and pid.h from Linux
4.19 to 7.3; what is between two members differs by version and configuration, and is searched. How many bytes of a task
are looked at follows from where its name is.
"""

from __future__ import annotations

import functools
import itertools
from typing import TYPE_CHECKING

import numpy as np

from memcarve.images.linux.learning.structure_table import MOSTLY, NEARLY, StructureTable, are_pointers, share, sole
from memcarve.images.linux.tasks import DEEPEST, HIGHEST_PID, KERNEL_THREAD, NAME_SIZE
from memcarve.intervals import distinct, spread

if TYPE_CHECKING:
    from memcarve.dtypes import U64, Bools
    from memcarve.images.linux.kernel_structures import Structures
    from memcarve.images.linux.learning.first_task_shape import Shape
    from memcarve.images.linux.learning.learned_types import LearnedTypes

_MOST_TASKS = 512  # that are looked at
_FIRST_TASKS = 8  # of the list, that are looked at in any case: init and kthreadd are among them
_MOST_LISTED = 1 << 16
_MOST_TRIED = 16  # lists: there is one
_LEAST = 8  # with fewer tasks nothing is learned: a kernel alone has dozens of threads
_INIT, _KTHREADD = 1, 2
_KINDS = 4  # PIDTYPE_MAX, include/linux/pid_types.h
_BEHIND_COMM = 0x400  # how far behind comm members are looked for
_IDS = 8  # user and group: real, saved, effective, of the file system
_CHILD_ENDED = 17  # SIGCHLD, what the parent of a process is told
_STATES = 0xFFFF
_NEAR_BEGIN = 0x100
_LATEST = 1 << 60  # ns since the machine was started


class Tasks:
    """The tasks in the kernel's list, the first task apart: a table, and what is known of each."""

    def __init__(self, kernel: Structures, shape: Shape, addresses: list[int]) -> None:
        self.shape = shape
        self.listed = len(addresses)
        if len(addresses) > _MOST_TASKS:
            chosen = spread(len(addresses), _MOST_TASKS).tolist()
            addresses = [addresses[row] for row in sorted({*range(_FIRST_TASKS), *chosen})]
        size = shape.comm + _BEHIND_COMM
        self.table = StructureTable(kernel.reader, addresses, size, shape.word)
        self.first = StructureTable(kernel.reader, [shape.address], size, shape.word)
        self.parents = self.table.column(shape.real_parent)
        #: whether each runs in the kernel alone: kthreadd, the second child of the first task, and its children
        self.in_kernel: Bools = np.zeros(len(addresses), np.bool_)
        self.pids: U64 = np.zeros(len(addresses), np.uint64)

    def __len__(self) -> int:
        """Return how many tasks are looked at."""
        return len(self.table)


def learn_tasks(kernel: Structures, shape: Shape, types: LearnedTypes) -> Tasks | None:
    """Learn the members of tasks; return the tasks, None if what was found is no list of tasks.

    What must be there: the list, names, numbers, parents. All else is learned if it proves itself.
    """
    _put_shape(shape, types)
    listed = _list(kernel, shape)
    if listed is None or len(listed[1]) < _LEAST:
        return None
    link, addresses = listed
    types.put_list("task_struct", "tasks", link)
    types.put_pointer("task_struct", "tasks.next", link)
    types.put_pointer("task_struct", "tasks.prev", link + shape.word)
    found = Tasks(kernel, shape, addresses)
    if not _learn_pids(found, types):
        return None
    for learn in (_learn_stack, _learn_mm, _learn_exit, _learn_pid, _learn_threads, _learn_start, _learn_cred):
        learn(found, types)
    return found


def _put_shape(shape: Shape, types: LearnedTypes) -> None:
    word, at = shape.word, shape.real_parent
    types.put_pointer("task_struct", "real_parent", at)
    types.put_pointer("task_struct", "parent", at + word)
    types.put_list("task_struct", "children", at + 2 * word)
    types.put_list("task_struct", "sibling", at + 4 * word)
    types.put_pointer("task_struct", "group_leader", at + 6 * word)
    types.put("task_struct", "comm", shape.comm, NAME_SIZE)


def _list(kernel: Structures, shape: Shape) -> tuple[int, list[int]] | None:
    """Return where the links of the list of tasks are, and the addresses of those that it leads to.

    Each leads its own thread group; the list leads back, in one direction at least. It comes before the parents.
    """
    best: tuple[int, list[int]] | None = None
    tried = 0
    leader = shape.real_parent + 6 * shape.word
    head = StructureTable(kernel.reader, [shape.address], shape.real_parent, shape.word)
    for at in head.places(shape.word, shape.real_parent - shape.word):
        following, before = int(head.column(at)[0]), int(head.column(at + shape.word)[0])
        if not kernel.is_kernel(following) or not kernel.is_kernel(before) or following == shape.address + at:
            continue
        if tried == _MOST_TRIED or not any(_leads(kernel, each - at, leader) for each in (following, before)):
            continue
        tried += 1
        forward, backward = (
            list(itertools.islice(kernel.linked(shape.address + at, at, forward=way), _MOST_LISTED))
            for way in (True, False)
        )
        ways = [[each for each in way if _leads(kernel, each, leader)] for way in (forward, backward)]
        if max(map(len, ways)) < NEARLY * max(len(forward), len(backward)):
            continue
        known = set(ways[0])
        addresses = ways[0] + [each for each in reversed(ways[1]) if each not in known]
        if best is None or len(addresses) > len(best[1]):
            best = at, addresses
    return best


def _leads(kernel: Structures, task: int, leader: int) -> bool:
    """Return True if a task leads its own thread group."""
    return task % kernel.word == 0 and kernel.reader.number(task + leader, kernel.word) == task


def _learn_pids(tasks: Tasks, types: LearnedTypes) -> bool:
    """Learn `pid` and `tgid`, which come before the parents, with a canary between (CONFIG_STACKPROTECTOR) or without.

    They are the same, as all lead their groups; no two have one; that of init is 1, that of kthreadd 2.
    """
    table, shape = tasks.table, tasks.shape
    own = tasks.parents == np.uint64(shape.address)
    for gap in (0, shape.word):
        at = shape.real_parent - gap - 8
        pids = table.column(at, 4)
        same = pids == table.column(at + 4, 4)
        possible = (pids > 0) & (pids < np.uint64(HIGHEST_PID))
        if (
            share(same & possible) >= NEARLY
            and len(distinct(pids)) >= NEARLY * len(pids)
            and int(tasks.first.column(at, 8)[0]) == 0
            and {_INIT, _KTHREADD} & set(pids[own].tolist())
        ):
            types.put("task_struct", "pid", at, 4)
            types.put("task_struct", "tgid", at + 4, 4)
            tasks.pids = pids
            kthreadd = table.addresses[own & (pids == np.uint64(_KTHREADD))]
            tasks.in_kernel = np.isin(tasks.parents, kthreadd) | np.isin(table.addresses, kthreadd)
            return True
    return False


def _learn_stack(tasks: Tasks, types: LearnedTypes) -> None:
    """Learn `stack`, `flags` and `__state`, which are the first members behind thread_info.

        unsigned int __state;  (before Linux 5.14 long state; with PREEMPT_RT another state behind it)
        void *stack; refcount_t usage; unsigned int flags;

    Stacks begin at pages and are of one task each; `flags` tells threads of the kernel (PF_KTHREAD).
    """
    table, word = tasks.table, tasks.shape.word
    found = []
    for at in table.places(word, 0x80):
        stack, flags = table.column(at), table.column(at + word + 4, 4)
        begins = (stack % np.uint64(4096) == 0) & (stack >> np.uint64(8 * word - 1) == 1)
        threads = (flags & np.uint64(KERNEL_THREAD)) != 0
        if (
            share(begins) >= MOSTLY
            and len(distinct(stack[begins])) == begins.sum()
            and share(threads == tasks.in_kernel) >= NEARLY
            and int(tasks.first.column(at + word + 4, 4)[0]) & KERNEL_THREAD
        ):
            found.append(at)
    stack_at = sole(found)
    if stack_at is None:
        return
    types.put_pointer("task_struct", "stack", stack_at)
    types.put("task_struct", "flags", stack_at + word + 4, 4)
    # most tasks sleep in some way: a column of zeros is another member
    for at in (stack_at - 4, stack_at - 8):
        state = table.column(at, 4)
        if share(state <= np.uint64(_STATES)) >= NEARLY and share(state != 0) >= MOSTLY:
            types.put("task_struct", "__state", at, 4)
            return


def _learn_mm(tasks: Tasks, types: LearnedTypes) -> None:
    """Learn `mm` and `active_mm`, between the list and the numbers.

    They follow each other, and are the same for a process; a thread of the kernel has no mm of its own.
    """
    table, word = tasks.table, tasks.shape.word
    begin, end = types.at("task_struct", "tasks"), types.at("task_struct", "pid")
    if begin is None or end is None:
        return
    high, found = np.uint64(8 * word - 1), []
    for at in table.places(begin + 2 * word, end - word):
        own, active = table.column(at), table.column(at + word)
        used = own != 0
        if (
            share(own[tasks.in_kernel] == 0) >= NEARLY
            and share(used[~tasks.in_kernel]) >= MOSTLY / 2
            and share((own == active)[used]) >= NEARLY
            and share(own[used] >> high == 1) >= NEARLY
        ):
            found.append(at)
    at_mm = sole(found)
    if at_mm is not None:
        types.put_pointer("task_struct", "mm", at_mm)
        types.put_pointer("task_struct", "active_mm", at_mm + word)


def _learn_exit(tasks: Tasks, types: LearnedTypes) -> None:
    """Learn `exit_state`, `exit_code` and `exit_signal`, integers in a row between `active_mm` and `pid`.

    The parent of a process, and of a thread of the kernel, is told by SIGCHLD when it ends. A process that has
    ended has exit_state 16 or 32 (EXIT_DEAD, EXIT_ZOMBIE), and no memory; all others have 0.
    """
    table, word = tasks.table, tasks.shape.word
    begin, end = types.at("task_struct", "active_mm"), types.at("task_struct", "pid")
    if begin is None or end is None:
        return
    lives = table.column(begin - word) != 0
    found = []
    for at in table.places(begin + word, end - 12, 4):
        state, signal = table.column(at, 4), table.column(at + 8, 4)
        ended = (state == np.uint64(16)) | (state == np.uint64(32))
        if (
            share(signal == np.uint64(_CHILD_ENDED)) >= MOSTLY
            and share((state == 0) | ended) >= NEARLY
            and share(state[lives | tasks.in_kernel] == 0) >= NEARLY
        ):
            found.append(at)
    at_state = sole(found)
    if at_state is not None:
        types.put("task_struct", "exit_state", at_state, 4)
        types.put("task_struct", "exit_code", at_state + 4, 4)
        types.put("task_struct", "exit_signal", at_state + 8, 4)


def _learn_pid(tasks: Tasks, types: LearnedTypes) -> None:
    """Learn `thread_pid`, behind the leader, and of the struct pid that it points to `level`, `tasks` and `numbers`.

    The number in the outermost namespace is the task's own. It is followed by the namespace, which is the same for all;
    with a level come further pairs of both. The links behind `thread_pid` lead back into the same struct pid.
    """
    table, word = tasks.table, tasks.shape.word
    begin = types.at("task_struct", "group_leader")
    if begin is None:
        return
    found: list[tuple[int, int]] = []
    for at in table.places(begin + word, begin + 40 * word):
        pointer = table.column(at)
        if share(are_pointers(pointer, word)) >= NEARLY and len(distinct(pointer)) >= NEARLY * len(pointer):
            found += [(at, inside) for inside in _numbers(tasks, pointer)]
    if not found or len([each for each in found if each[0] == found[0][0]]) > 1:
        return
    at, inside = found[0]  # the others are links that lead into the same struct pid
    pid = StructureTable(table.reader, table.column(at).tolist(), inside + 4 * word, word)
    level = pid.column(4, 4)
    if share(level <= np.uint64(DEEPEST)) < NEARLY or share(level == 0) < 1 - MOSTLY:
        return
    second = pid.column(inside + 2 * word, 4)[level != 0]
    if len(second) and share((second > 0) & (second < np.uint64(HIGHEST_PID))) < NEARLY:
        return
    types.put_pointer("task_struct", "thread_pid", at)
    types.put("pid", "level", 4, 4)
    types.put("pid", "numbers", inside, 0)  # an array without an end
    types.put("upid", "nr", 0, 4)
    types.put_pointer("upid", "ns", word)
    types.put_size("upid", 2 * word)
    back = table.column(at + 2 * word) - table.column(at)
    if share(back == back[0]) >= NEARLY and 0 < int(back[0]) < inside:
        types.put("task_struct", "pid_links", at + word, _KINDS * 2 * word)
        types.put("pid", "tasks", int(back[0]), _KINDS * word)


def _numbers(tasks: Tasks, pointers: U64) -> list[int]:
    """Return where in what is pointed to is a task's number, and behind it something that is the same for all."""
    word = tasks.shape.word
    pid = StructureTable(tasks.table.reader, pointers.tolist(), 0x180, word)
    found = []
    for inside in pid.places(8, pid.size - 2 * word):
        space = pid.column(inside + word)
        same = share(space == space[0]) >= NEARLY and int(space[0]) >> (8 * word - 1) == 1
        if same and share(pid.column(inside, 4) == tasks.pids) >= NEARLY:
            found.append(inside)
    return found


def _learn_threads(tasks: Tasks, types: LearnedTypes) -> None:
    """Learn `thread_node`, `signal`, `sighand`, which follows, and signal_struct's `thread_head`, the list of threads.

    A process of one thread, as the kernel's all are, is alone in its list: its links and those of the head lead to each
    other, and the head lies as far behind the begin of what `signal` points to as in all others.
    """
    table, word, shape = tasks.table, tasks.shape.word, tasks.shape
    begin = types.at("task_struct", "group_leader")
    if begin is None:
        return
    nodes = []
    for at in table.places(begin + word, begin + 48 * word):
        here = table.addresses + np.uint64(at)
        forward, backward = table.column(at), table.column(at + word)
        alone = (forward == backward) & (forward != here)
        if share(alone[tasks.in_kernel]) < NEARLY:
            continue
        heads = forward[alone]
        if (
            share(table.follow(heads) == here[alone]) >= NEARLY
            and share(table.follow(heads, word) == here[alone]) >= NEARLY
        ):
            nodes.append((at, alone))
    found: list[tuple[int, int, int]] = []
    for (at, alone), signal in itertools.product(nodes, table.places(shape.comm + NAME_SIZE, table.size)):
        inside = (table.column(at) - table.column(signal))[alone]
        if len(inside) and share(inside == inside[0]) >= NEARLY and int(inside[0]) < _NEAR_BEGIN:
            found.append((at, signal, int(inside[0])))
    if len(found) != 1:
        return
    at, signal, inside = found[0]
    types.put_list("task_struct", "thread_node", at)
    types.put_pointer("task_struct", "signal", signal)
    types.put_list("signal_struct", "thread_head", inside)
    handlers = table.column(signal + word)
    there = handlers != 0
    if share(there) >= MOSTLY and share(are_pointers(handlers[there], word)) >= NEARLY:
        types.put_pointer("task_struct", "sighand", signal + word)


def _learn_start(tasks: Tasks, types: LearnedTypes) -> None:
    """Learn `start_time` and `start_boottime`, ns since the machine was started, between the leader and `comm`.

    Both differ by how long the machine was suspended. The list is in the order in which processes began, and no child
    is older than its parent.
    """
    table, shape = tasks.table, tasks.shape
    begin = types.at("task_struct", "group_leader")
    if begin is None:
        return
    rows = {int(address): row for row, address in enumerate(table.addresses.tolist())}
    parent = np.array([rows.get(int(each), -1) for each in tasks.parents.tolist()])
    found: list[int] = []
    for at in table.places(begin + shape.word, shape.comm - 16, min(shape.word, 8)):
        start, boot = table.column(at, 8), table.column(at + 8, 8)
        if not (share((boot >= start) & (start > 0) & (boot < np.uint64(_LATEST))) >= NEARLY):
            continue
        later = [np.diff(column.astype(np.int64)) >= 0 for column in (start, boot)]
        older = (parent < 0) | (start >= start[parent])
        if min(map(share, (*later, older))) >= NEARLY and len(distinct(start)) > len(start) // 4:
            found.append(at)
    at_start = sole(found)
    if at_start is not None:
        types.put("task_struct", "start_time", at_start, 8)
        types.put("task_struct", "start_boottime", at_start + 8, 8)


def _learn_cred(tasks: Tasks, types: LearnedTypes) -> None:
    """Learn `real_cred` and `cred`, shortly before `comm`, and where in a cred the ids of users and groups are.

    Both are the same unless a task acts for somebody else. In a cred, behind a count of 4 or 8 bytes, are 8 ids
    (uid, gid, suid, sgid, euid, egid, fsuid, fsgid), 4 bytes of securebits, and sets of capabilities, 8 bytes each:
    inheritable (empty, but for few), permitted, effective, bounding. The threads of the kernel have all of them.
    """
    table, shape, word = tasks.table, tasks.shape, tasks.shape.word
    found: list[tuple[int, U64]] = []
    for at in table.places(shape.comm - 6 * word, shape.comm - word):
        real, cred = table.column(at), table.column(at + word)
        if share((real == cred) & (real >> np.uint64(8 * word - 1) == 1)) >= NEARLY:
            found.append((at, real))
    if len(found) != 1:
        return
    at, pointers = found[0]
    creds = StructureTable(table.reader, pointers.tolist(), 0x80, word)
    ids = [each for each in sorted({4, word}) if _are_ids(creds, tasks.in_kernel, each)]
    users = sole(ids)
    if users is None:
        return
    types.put_pointer("task_struct", "real_cred", at)
    types.put_pointer("task_struct", "cred", at + word)
    types.put("cred", "usage", 0, users)
    for row, name in enumerate(("uid", "gid", "suid", "sgid", "euid", "egid", "fsuid", "fsgid")):
        types.put("cred", name, users + 4 * row, 4)


def _are_ids(creds: StructureTable, in_kernel: Bools, at: int) -> bool:
    """Return True if ids lie there, and behind them all capabilities of the threads of the kernel."""
    behind = at + 4 * _IDS + 4
    for sets in {behind, behind + -behind % 8}:
        permitted, effective, bounding = (creds.column(sets + 8 * each, 8)[in_kernel] for each in (1, 2, 3))
        everything = ((permitted & (permitted + np.uint64(1))) == 0) & (permitted >= np.uint64((1 << 32) - 1))
        if share(everything & (permitted == effective) & (permitted == bounding)) >= NEARLY:
            ids = [creds.column(at + 4 * each, 4)[in_kernel] for each in range(_IDS)]
            nothing = functools.reduce(np.logical_and, [column == 0 for column in ids])
            return share(nothing) >= NEARLY and share(creds.column(sets, 8)[in_kernel] == 0) >= NEARLY
    return False
