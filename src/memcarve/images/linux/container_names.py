"""Which container a process runs in: what its control group is called, else its own host's name.

Programs that run containers put each one's identifier into the names of its control groups (``docker-ID.scope``,
``/kubepods/.../cri-containerd-ID.scope``, ``libpod-ID``, ``/lxc/NAME``). Structures: include/linux/cgroup-defs.h,
kernfs.h and utsname.h of Linux.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from memcarve.images.linux.kernel_structures import Structures

_MOST_ABOVE = 64  # control groups above one another
_LONGEST = 255  # bytes of a name: NAME_MAX
_MOST_GROUPS = 64  # kinds of control groups, each with a tree of its own before the second version
_IDENTIFIER = re.compile(rb"(?<![0-9a-f])([0-9a-f]{64})(?![0-9a-f])")
#: of LXC and of systemd-machined, whose virtual machines (``machine-qemu``) are none
_NAMED = re.compile(rb"(?:^|/)(?:lxc/|lxc\.payload[./]|machine\.slice/machine-(?!qemu))([^/]+?)(?:\.scope)?(?=/|$)")


class ContainerNames:
    """Finds the containers of tasks; control groups are looked at once."""

    def __init__(self, kernel: Structures, first: int) -> None:
        """`first` is the first task, which runs in none."""
        self._kernel = kernel
        self._groups: dict[int, bytes | None] = {}
        self._sets: dict[int, str | None] = {}
        self._own_names = self._names_of(first)
        self._host = self._host_in(self._own_names)

    def of(self, task: int) -> str | None:
        """Return the identifier of the container that the task at an address runs in; None if nothing tells of one."""
        found = self._kernel.pointer(task, "task_struct", "cgroups")
        if found is not None:
            if found not in self._sets:
                self._sets[found] = self._of_set(found)
            if self._sets[found] is not None:
                return self._sets[found]
        names = self._names_of(task)
        host = None if names == self._own_names else self._host_in(names)
        return None if not host or host == self._host else host.decode("utf-8", "surrogateescape")

    def _of_set(self, found: int) -> str | None:
        """Return the identifier in the names of a task's control groups, of any kind."""
        kernel = self._kernel
        groups = [kernel.pointer(found, "css_set", "dfl_cgrp")]
        kinds = kernel.place("css_set", "subsys")
        for number in range(min(kinds[1] // kernel.word, _MOST_GROUPS) if kinds is not None else 0):
            state = kernel.reader.number(found + (kinds or (0, 0))[0] + number * kernel.word, kernel.word)
            if state is not None and kernel.is_kernel(state):
                groups.append(kernel.pointer(state, "cgroup_subsys_state", "cgroup"))
        for group in dict.fromkeys(groups):
            path = None if group is None else self._path(group)
            told = _IDENTIFIER.findall(path) or _NAMED.findall(path) if path else []
            if told:
                return str(told[-1].decode("utf-8", "surrogateescape"))
        return None

    def _path(self, group: int) -> bytes | None:
        if group not in self._groups:
            self._groups[group] = self._path_of(group)
        return self._groups[group]

    def _path_of(self, group: int) -> bytes | None:
        """Return the path of a control group, as far as it can be read."""
        kernel, parts = self._kernel, list[bytes]()
        node = kernel.pointer(group, "cgroup", "kn")
        above = "parent" if kernel.offset("kernfs_node", "parent") is not None else "__parent"
        while node is not None and len(parts) < _MOST_ABOVE:
            name = kernel.string(kernel.pointer(node, "kernfs_node", "name"), _LONGEST + 1)
            if name is None:
                break
            parts.append(name)
            node = kernel.pointer(node, "kernfs_node", above)
        return b"/".join(reversed(parts)) if parts else None

    def _names_of(self, task: int) -> int | None:
        proxy = self._kernel.pointer(task, "task_struct", "nsproxy")
        return None if proxy is None else self._kernel.pointer(proxy, "nsproxy", "uts_ns")

    def _host_in(self, names: int | None) -> bytes | None:
        inside = self._kernel.offset("uts_namespace", "name")
        return None if names is None or inside is None else self._kernel.text(names + inside, "new_utsname", "nodename")
