"""Where an unknown kernel keeps a task's namespaces, and among them the machine's names.

The order of members relied on is that of include/linux/nsproxy.h and utsname.h from Linux 4.19 to 7.3. What proves it:
the first of the machine's names is "Linux".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from memcarve.images.linux.learning.structure_table import MOSTLY, NEARLY, are_pointers, share
from memcarve.intervals import distinct

if TYPE_CHECKING:
    from memcarve.images.linux.learning.learned_types import LearnedTypes
    from memcarve.images.linux.learning.task_members import Tasks

_UTS = 65  # __NEW_UTS_LEN + 1, include/uapi/linux/utsname.h
_UTS_NAMES = ("sysname", "nodename", "release", "version", "machine", "domainname")


def learn_namespaces(tasks: Tasks, types: LearnedTypes) -> None:
    """Learn `nsproxy`, between `comm` and `signal`, the namespaces that it has, and the names in one of them."""
    table, word, end = tasks.table, tasks.shape.word, types.at("task_struct", "signal")
    if end is None:
        return
    found: list[tuple[int, int]] = []
    for at in table.places(tasks.shape.comm + 16, end):
        pointers = table.column(at)
        there = are_pointers(pointers, word)
        if share(there) < MOSTLY:
            continue
        names = table.follow(distinct(pointers[there]), word)
        for inside in (0, 4, 8):
            said = [table.reader.read(name + inside, 6) for name in names.tolist()]
            if share(np.array([text == b"Linux\0" for text in said])) >= NEARLY:
                found.append((at, inside))
    if len(found) != 1:
        return
    at, inside = found[0]
    types.put_pointer("task_struct", "nsproxy", at)
    types.put("uts_namespace", "name", inside, _UTS * len(_UTS_NAMES))
    for row, name in enumerate(_UTS_NAMES):
        types.put("new_utsname", name, row * _UTS, _UTS)
    for row, name in enumerate(("uts_ns", "ipc_ns", "mnt_ns", "pid_ns_for_children"), 1):
        types.put_pointer("nsproxy", name, row * word)
