"""A tiny made-up Linux machine: its kernel's types, page tables and tasks, for tests that need no real machine.

Members lie in another order than in any kernel, because only the BTF in the memory says where they lie. All memory is
mapped from `BASE` on, and from `IMAGE` on as well, where the first task says that it is; structures are placed one
behind the other.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

from btf_writer import Writer

if TYPE_CHECKING:
    from pathlib import Path

BASE, IMAGE = 0xFFFF888000000000, 0xFFFFFFFF80000000
SIZE = 4 << 20
BEGAN = 1_700_000_000  # when the machine began, in seconds since 1970
PROGRAM = 0x400000  # where the one page of every program lies: its arguments
_ROOT, _TABLES, _TYPES, _FREE = 0x1000, 0x2000, 0x20000, 0x40000
_PAGE, _LARGE = 0x63, 0xE3  # present, writable, accessed, dirty; a page of 2 MiB
_STACK_END = 0x57AC6E9D
_MOST_TYPES = 300

#: each structure's members: a size in bytes, or the structure that the member is
_LAYOUT: dict[str, dict[str, int | str]] = {
    "list_head": {"next": 8, "prev": 8},
    "timespec64": {"tv_sec": 8, "tv_nsec": 8},
    "timekeeper": {
        "offs_boot": 8, "offs_real": 8, "wall_to_monotonic": "timespec64", "xtime_sec": 8
    },
    "upid": {"nr": 4, "pad": 4, "ns": 8},
    "pid": {"count": 4, "level": 4, "tasks": 32, "numbers": "upid", "inner": "upid"},
    "xarray": {"xa_lock": 8, "xa_head": 8},
    "idr": {"idr_rt": "xarray", "idr_base": 8},
    "xa_node": {"shift": 8, "slots": 512},
    "pid_namespace": {"idr": "idr"},
    "new_utsname": {"sysname": 65, "nodename": 65, "release": 65},
    "uts_namespace": {"name": "new_utsname"},
    "nsproxy": {"uts_ns": 8, "pid_ns_for_children": 8},
    "kernfs_node": {"name": 8, "parent": 8},
    "cgroup": {"kn": 8},
    "css_set": {"dfl_cgrp": 8},
    "cred": {"usage": 4, "gid": 4, "uid": 4, "pad": 4, "user": 8},
    "signal_struct": {"nr_threads": 8, "thread_head": "list_head"},
    "maple_tree": {"ma_lock": 8, "ma_root": 8},
    "maple_range_64": {"parent": 8, "pivot": 120, "slot": 128},
    "vm_area_struct": {
        "vm_mm": 8, "vm_start": 8, "vm_end": 8, "vm_pgoff": 8, "vm_file": 8, "vm_ops": 8, "vm_private_data": 8,
        "vm_flags": 8, "anon_name": 8,
    },
    "anon_vma_name": {"kref": 4, "name": 76},
    "vm_operations_struct": {"open": 8, "name": 8},
    "vm_special_mapping": {"pages": 8, "name": 8},
    "path": {"dentry": 8, "mnt": 8},
    "file": {"f_mode": 8, "f_inode": 8, "f_path": "path"},
    "fs_struct": {"users": 8, "pwd": "path", "root": "path"},
    "qstr": {"hash": 4, "len": 4, "name": 8},
    "hlist_bl_node": {"next": 8, "pprev": 8},
    "dentry": {
        "d_op": 8, "d_sb": 8, "d_inode": 8, "d_parent": 8, "d_hash": "hlist_bl_node", "d_name": "qstr", "d_fsdata": 8
    },
    "vfsmount": {"mnt_sb": 8, "mnt_root": 8},
    "mount": {"mnt_mountpoint": 8, "mnt": "vfsmount", "mnt_parent": 8},
    "inode": {"i_ino": 8, "i_sb": 8},
    "super_block": {"s_dev": 4, "pad": 4, "s_type": 8},
    "mm_struct": {
        "mm_users": 8, "pgd": 8, "env_end": 8, "env_start": 8, "arg_end": 8, "arg_start": 8, "exe_file": 8,
        "saved_auxv": 352, "map_count": 4, "pad": 4, "start_stack": 8, "brk": 8, "start_brk": 8, "mm_mt": "maple_tree",
    },
    "task_struct": {
        "comm": 16, "pid": 4, "tgid": 4, "flags": 4, "__state": 4, "exit_state": 4, "exit_code": 4, "parent": 8,
        "real_parent": 8, "group_leader": 8, "tasks": "list_head", "mm": 8, "active_mm": 8, "stack": 8,
        "thread_pid": 8, "pid_links": 64, "thread_node": "list_head", "start_boottime": 8, "cred": 8, "real_cred": 8,
        "nsproxy": 8, "sighand": 8, "signal": 8, "cgroups": 8, "fs": 8,
    },
}  # fmt: skip


def _size(kind: int | str) -> int:
    return kind if isinstance(kind, int) else sum(map(_size, _LAYOUT[kind].values()))


def _place(structure: str, path: str) -> tuple[int, int]:
    """Return offset and size of a member in bytes."""
    name, _, rest = path.partition(".")
    at = 0
    for member, kind in _LAYOUT[structure].items():
        if member == name and rest and isinstance(kind, str):
            inner, size = _place(kind, rest)
            return at + inner, size
        if member == name:
            return at, _size(kind)
        at += _size(kind)
    raise KeyError(path)


def _types() -> bytes:
    """Return the BTF of all structures."""
    writer, known = Writer(), dict[int | str, int]()
    byte = writer.integer("char", 1)
    for structure, members in _LAYOUT.items():
        at, rows = 0, []
        for name, kind in members.items():
            if kind not in known:
                sized = isinstance(kind, int) and kind in (4, 8)
                known[kind] = writer.integer(f"u{kind}", _size(kind)) if sized else writer.array(byte, _size(kind))
            rows.append((name, known[kind], at * 8))
            at += _size(kind)
        known[structure] = writer.structure(structure, at, *rows)
    while len(writer.types) < _MOST_TYPES:  # as many as to be a kernel's
        writer.integer("", 8)
    return writer.written()


class MadeLinux:
    """The memory of a machine without processes; add some, change what they say, and write it as a raw image."""

    def __init__(self) -> None:
        self.memory = bytearray(SIZE)
        self._free = _FREE
        self._put64(_ROOT + (BASE >> 39 & 511) * 8, _TABLES | _PAGE)
        self._put64(_TABLES + (BASE >> 30 & 511) * 8, _TABLES + 0x1000 | _PAGE)
        self._put64(_ROOT + 511 * 8, _TABLES + 0x2000 | _PAGE)
        self._put64(_TABLES + 0x2000 + 510 * 8, _TABLES + 0x1000 | _PAGE)
        for number in range(SIZE >> 21):
            self._put64(_TABLES + 0x1000 + number * 8, number << 21 | _LARGE)
        types = _types()
        self.memory[_TYPES : _TYPES + len(types)] = types
        self.uts = self._new("uts_namespace")
        self.put(self.uts, "uts_namespace", "name.nodename", b"host")
        self.put(self.uts, "uts_namespace", "name.release", b"6.12.1-made")
        self.numbers, self.node = self._new("pid_namespace"), self._new("xa_node", 64)
        self.put(self.numbers, "pid_namespace", "idr.idr_rt.xa_head", self.node | 2)
        self.proxy = self._proxy(self.uts)
        self.user = self._new("cred")
        clock = self._new("timekeeper")
        real = BEGAN * 1_000_000_000 + 5
        self.put(clock, "timekeeper", "offs_real", real + 7)
        self.put(clock, "timekeeper", "offs_boot", 12)
        self.put(clock, "timekeeper", "wall_to_monotonic.tv_sec", -BEGAN - 1)
        self.put(clock, "timekeeper", "wall_to_monotonic.tv_nsec", 1_000_000_000 - 12)
        self.put(clock, "timekeeper", "xtime_sec", BEGAN + 60)
        self.first = self._new("task_struct", 64) - BASE + IMAGE
        memory = self._new("mm_struct")
        self.put(memory, "mm_struct", "pgd", BASE + _ROOT)
        self.put(self.first, "task_struct", "active_mm", memory)
        self._fill(self.first, 0, 0, b"swapper/0", self.first)
        self.link(self.first, self.first, self.first)

    # memory

    def _put64(self, physical: int, value: int) -> None:
        struct.pack_into("<Q", self.memory, physical, value)

    def _new(self, structure: str, aligned: int = 16, size: int | None = None) -> int:
        """Return the address of a new structure."""
        self._free = -(-self._free // aligned) * aligned
        found = self._free
        self._free += _size(structure) if size is None else size
        return BASE + found

    @property
    def used(self) -> int:
        """Where in the memory the last structure ends."""
        return self._free

    def put(self, address: int, structure: str, path: str, value: int | bytes) -> None:
        """Change a member of a structure."""
        offset, size = _place(structure, path)
        data = (
            value.ljust(size, b"\0") if isinstance(value, bytes) else (value % (1 << 8 * size)).to_bytes(size, "little")
        )
        at = address % SIZE + offset
        self.memory[at : at + size] = data

    def get(self, address: int, structure: str, path: str) -> int:
        """Return a member of a structure."""
        offset, size = _place(structure, path)
        at = address % SIZE + offset
        return int.from_bytes(self.memory[at : at + size], "little")

    def task(self, task: int, **members: Any) -> None:
        """Change members of a task."""
        for name, value in members.items():
            self.put(task, "task_struct", name, value)

    # processes

    def _proxy(self, names: int) -> int:
        proxy = self._new("nsproxy")
        self.put(proxy, "nsproxy", "uts_ns", names)
        self.put(proxy, "nsproxy", "pid_ns_for_children", self.numbers)
        return proxy

    def link(self, before: int, task: int, behind: int) -> None:
        """Put a task between two others of the list."""
        at = _place("task_struct", "tasks")[0]
        for left, right in ((before, task), (task, behind)):
            self.put(left, "task_struct", "tasks.next", right + at)
            self.put(right, "task_struct", "tasks.prev", left + at)

    def unlink(self, task: int) -> None:
        """Take a task out of the list; its own links stay."""
        at = _place("task_struct", "tasks")[0]
        behind, before = (self.get(task, "task_struct", f"tasks.{way}") - at for way in ("next", "prev"))
        self.put(before, "task_struct", "tasks.next", behind + at)
        self.put(behind, "task_struct", "tasks.prev", before + at)

    def forget(self, task: int) -> None:
        """Take a task away from its number."""
        self.put(self.get(task, "task_struct", "thread_pid"), "pid", "tasks", bytes(32))

    def _fill(self, task: int, pid: int, tgid: int, name: bytes, leader: int, uid: int = 0) -> None:
        cred, stack = self._new("cred"), self._new("", 4096, 4096)
        for member, value in (("usage", 3), ("uid", uid), ("gid", uid + 1), ("user", self.user)):
            self.put(cred, "cred", member, value)
        self._put64(stack % SIZE, _STACK_END)
        parent = self.first
        self.task(task, pid=pid, tgid=tgid, comm=name, group_leader=leader, real_parent=parent, parent=parent)
        self.task(task, real_cred=cred, cred=cred, stack=stack, nsproxy=self.proxy, sighand=cred, __state=1)
        self.task(task, start_boottime=pid * 1_000_000_000)
        if leader == task:
            signal = self._new("signal_struct")
            head = signal + _place("signal_struct", "thread_head")[0]
            self.task(task, signal=signal)
            self.put(signal, "signal_struct", "thread_head.next", head)
            self.put(signal, "signal_struct", "thread_head.prev", head)
        signal, node = self.get(leader, "task_struct", "signal"), task + _place("task_struct", "thread_node")[0]
        head = signal + _place("signal_struct", "thread_head")[0]
        last = self.get(signal, "signal_struct", "thread_head.prev")
        self._put64(last % SIZE, node)
        self.put(task, "task_struct", "thread_node.prev", last)
        self.put(task, "task_struct", "thread_node.next", head)
        self.put(signal, "signal_struct", "thread_head.prev", node)
        self.task(task, signal=signal)
        number = self._new("pid", 64)
        self.task(task, thread_pid=number)
        self.put(number, "pid", "tasks", (task + _place("task_struct", "pid_links")[0]).to_bytes(8, "little"))
        self.put(number, "pid", "numbers.nr", pid)
        self.put(number, "pid", "numbers.ns", self.numbers)
        if pid:
            slot = self.node - BASE + _place("xa_node", "slots")[0] + pid % 64 * 8
            self._put64(slot, number)

    def thread(self, leader: int, tid: int) -> int:
        """Add a thread to a process; return its task."""
        task = self._new("task_struct", 64)
        self._fill(task, tid, self.get(leader, "task_struct", "tgid"), b"thread", leader)
        self.task(task, mm=self.get(leader, "task_struct", "mm"))
        return task

    def process(
        self, pid: int, name: bytes, arguments: bytes | None = None, environment: bytes = b"", uid: int = 0
    ) -> int:
        """Add a process at the end of the list (pid below 64); without arguments a thread of the kernel."""
        task = self._new("task_struct", 64)
        self._fill(task, pid, pid, name, task, uid)
        last = self.get(self.first, "task_struct", "tasks.prev") - _place("task_struct", "tasks")[0]
        self.link(last, task, self.first)
        if arguments is None:
            self.task(task, flags=0x200000)
            return task
        memory = self._new("mm_struct")
        root, *tables, page = (self._new("", 4096, 4096) - BASE for _ in range(5))
        for above, below, shift in zip([root, *tables], [*tables, page], (39, 30, 21, 12), strict=True):
            self._put64(above + (PROGRAM >> shift & 511) * 8, below | 0x67)
        self.memory[root + 2048 : root + 4096] = self.memory[_ROOT + 2048 : _ROOT + 4096]
        self.memory[page : page + len(arguments + environment)] = arguments + environment
        behind = PROGRAM + len(arguments)
        self.task(task, mm=memory, active_mm=memory)
        for member, value in (
            ("pgd", BASE + root), ("mm_users", 1), ("arg_start", PROGRAM), ("arg_end", behind), ("env_start", behind),
            ("env_end", behind + len(environment)), ("saved_auxv", struct.pack("<4Q", 6, 4096, 0, 0)),
        ):  # fmt: skip
            self.put(memory, "mm_struct", member, value)
        return task

    def isolate(self, task: int, *, copied: bool = True) -> None:
        """Let a process have two roots, as with page-table isolation; or only the first, with nothing behind it."""
        memory = self.get(task, "task_struct", "mm")
        old = self.get(memory, "mm_struct", "pgd") - BASE
        root = self._new("", 8192, 8192) - BASE
        for place in range(512):
            entry = int.from_bytes(self.memory[old + place * 8 :][:8], "little")
            user = entry != 0 and place < 256
            self._put64(root + place * 8, entry | user << 63)
            self._put64(root + 4096 + place * 8, entry if user and copied else 0)
        self.put(memory, "mm_struct", "pgd", BASE + root)

    def mounted(self) -> int:
        """Return the ``vfsmount`` of a new root; its dentry is in it."""
        mount, root, block = (self._new(kind) for kind in ("mount", "dentry", "super_block"))
        inside = mount + _place("mount", "mnt")[0]
        self.put(block, "super_block", "s_dev", 8 << 20 | 1)
        self.put(root, "dentry", "d_parent", root)
        self.put(root, "dentry", "d_sb", block)
        for member, value in (("mnt_parent", mount), ("mnt_mountpoint", root), ("mnt.mnt_root", root)):
            self.put(mount, "mount", member, value)
        self.put(inside, "vfsmount", "mnt_sb", block)
        return inside

    def file(self, mount: int, *names: bytes) -> int:
        """Return the ``struct file`` of a path below a root."""
        dentry, block = (self.get(mount, "vfsmount", name) for name in ("mnt_root", "mnt_sb"))
        for name in names:
            above, dentry, text = dentry, self._new("dentry"), self._new("", 16, len(name) + 1)
            self.memory[text - BASE : text - BASE + len(name)] = name
            for member, value in (("d_parent", above), ("d_sb", block), ("d_name.name", text), ("d_hash.pprev", text)):
                self.put(dentry, "dentry", member, value)
            self.put(dentry, "dentry", "d_name.len", len(name))
        file, inode = self._new("file"), self._new("inode")
        self.put(inode, "inode", "i_ino", 77)
        self.put(inode, "inode", "i_sb", block)
        for member, value in (("f_path.dentry", dentry), ("f_path.mnt", mount), ("f_inode", inode)):
            self.put(file, "file", member, value)
        return file

    def regions(self, task: int, *rows: tuple[int, int, int, int]) -> None:
        """Give a process up to 7 regions: start, end, flags, file (0: none), by address, in one node."""
        memory, node = self.get(task, "task_struct", "mm"), self._new("", 256, 256)
        pivot, slot = (_place("maple_range_64", name)[0] for name in ("pivot", "slot"))
        place, behind = 0, 0
        for start, end, flags, file in rows:
            for last, value in ((start - 1, 0), (end - 1, self._new("vm_area_struct"))):
                if last + 1 > behind:
                    self._put64(node % SIZE + pivot + 8 * place, last)
                    self._put64(node % SIZE + slot + 8 * place, value)
                    place, behind = place + 1, last + 1
            members = {"vm_mm": memory, "vm_start": start, "vm_end": end, "vm_flags": flags, "vm_file": file}
            for member, number in members.items():
                self.put(value, "vm_area_struct", member, number)
        self.put(memory, "mm_struct", "mm_mt.ma_root", node | 1 << 3 | 2)  # maple_leaf_64
        self.put(memory, "mm_struct", "map_count", len(rows))

    def ended(self, task: int) -> None:
        """Leave of a task what is left of one that was waited for (kernel/exit.c, kernel/fork.c)."""
        self.unlink(task)
        self.forget(task)
        self.task(task, exit_state=0x10, __state=0x80, exit_code=0x300, mm=0, stack=0, sighand=0, cred=0, real_cred=0)
        self.task(task, thread_pid=0)
        self.put(task, "task_struct", "tasks.prev", 0xDEAD000000000122)

    def contained(self, task: int, *groups: bytes, host: bytes = b"host") -> None:
        """Put a task into control groups, the innermost last, and under a host's name."""
        above = 0
        for group in groups:
            text, node = self._new("", 16, 128), self._new("kernfs_node")
            self.memory[text - BASE : text - BASE + len(group)] = group
            self.put(node, "kernfs_node", "name", text)
            self.put(node, "kernfs_node", "parent", above)
            above = node
        group, groups_of = self._new("cgroup"), self._new("css_set")
        self.put(group, "cgroup", "kn", above)
        self.put(groups_of, "css_set", "dfl_cgrp", group)
        names = self._new("uts_namespace")
        self.put(names, "uts_namespace", "name.nodename", host)
        self.task(task, cgroups=groups_of, nsproxy=self._proxy(names))

    def written(self, folder: Path) -> Path:
        """Write the memory as a raw image; return its path."""
        path = folder / "made.raw"
        path.write_bytes(self.memory)
        return path
