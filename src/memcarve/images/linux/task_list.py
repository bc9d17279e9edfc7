"""The kernel's list of tasks, which begins and ends with ``init_task``: one for each process (kernel/fork.c of Linux).

It is followed in both directions, because either may have been changed: by whoever hides a process, or by the machine
itself, which ran on while its memory was acquired.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from memcarve.images.linux.tasks import makes_sense

if TYPE_CHECKING:
    from memcarve.images.linux.kernel_structures import Structures

_MOST_TASKS = 1 << 17  # no machine has as many processes: what is beyond is made to deceive


class TaskList(NamedTuple):
    """The addresses of the tasks that the list leads to, in its order, without ``init_task``.

    `problem` says in words what is wrong with it; it is empty if nothing is.
    """

    tasks: list[int]
    problem: str


def read_list(kernel: Structures, first: int) -> TaskList:
    """Return the list that the task at `first` begins; what only one of the directions leads to comes last."""
    link = kernel.offset("task_struct", "tasks")
    if link is None:
        return TaskList([], "where tasks are linked is not known")
    forward, problem = _follow(kernel, first, link, forward=True)
    backward, other = _follow(kernel, first, link, forward=False)
    known = set(forward)
    rest = [task for task in reversed(backward) if task not in known]
    if not problem and not other and set(backward) != known:
        problem = "the two directions lead to different tasks"
    return TaskList(forward + rest, problem or other)


def _follow(kernel: Structures, first: int, link: int, *, forward: bool) -> tuple[list[int], str]:
    """Return the tasks in one direction, up to what is none or was met before; and in words what is wrong."""
    way, word = ("forward", kernel.word) if forward else ("backward", 0)
    found, here, problem = list[int](), first + link, ""
    seen = {here}
    while len(found) < _MOST_TASKS:
        following = kernel.reader.number(here + kernel.word - word, kernel.word)
        if following is None or not kernel.is_kernel(following):
            return found, problem or f"{way}, what follows 0x{here - link:x} cannot be told"
        if kernel.reader.number(following + word, kernel.word) != here and not problem:
            problem = f"{way}, 0x{following - link:x} does not lead back to 0x{here - link:x}"
        if following == first + link:
            return found, problem
        if following in seen:
            return found, problem or f"{way}, it leads to 0x{following - link:x} again"
        if not makes_sense(kernel, following - link):
            leads = kernel.pointer(following - link, "task_struct", "group_leader") == following - link
            if problem or not leads:
                return found, problem or f"{way}, 0x{following - link:x} is not a task"
            problem = f"the task 0x{following - link:x} has a number that none can have"
        seen.add(following)
        found.append(following - link)
        here = following
    return found, f"{way}, it does not end"
