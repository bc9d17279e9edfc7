"""The paths of files as the kernel itself would print them: names along a dentry's parents, through mounts.

How Linux does it: fs/d_path.c (d_path, prepend_path, simple_dname); names that file systems make: anon_inodefs_dname of
fs/anon_inodes.c, pipefs_dname of fs/pipe.c, sockfs_dname of net/socket.c, dmabuffs_dname of drivers/dma-buf/dma-buf.c.
Members: include/linux/dcache.h, fs.h and fs/mount.h. A path is as a process sees it whose root is that of pid 1; below
a root of another mount namespace it begins there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from memcarve.linux_mappings import DELETED

if TYPE_CHECKING:
    from memcarve.images.linux.kernel_structures import Structures

# FMODE_NOACCOUNT, and FMODE_BACKING of 6.5 or of 6.10 on, include/linux/fs.h: a file below an overlay's file
_UNCOUNTED, _BACKING = 1 << 29, 1 << 25 | 1 << 24
_MOST_STEPS = 4096  # up to the root
_MOST_STEPS_IN_ALL = 1 << 22  # each path of 100,000 files of its own at a depth of 40
_LONGEST_NAME = 4096
_LONGEST_PATH = 1 << 14  # bytes; programs cannot ask for more than PATH_MAX, 4096
_MINOR_BITS = 20  # include/linux/kdev_t.h
_MOST_KEPT = 1 << 16  # paths and files


class File(NamedTuple):
    """What a ``struct file`` is of: its path, which may hold any bytes but NUL; device (major, minor) and inode number.

    None is unknown.
    """

    path: bytes | None
    device: tuple[int, int] | None
    inode: int | None


def place_in(kernel: Structures, task: int, name: str) -> tuple[int, int] | None:
    """Return ``vfsmount`` and ``dentry`` of a task's `root` or `pwd` (struct fs_struct); None if they are not known."""
    held = kernel.pointer(task, "task_struct", "fs")
    if held is None:
        return None
    mount, dentry = kernel.numbers(held, "fs_struct", (f"{name}.mnt", f"{name}.dentry"))
    return None if mount is None or dentry is None else (mount, dentry)


class Paths:
    """Finds the paths of files; those found are kept, as processes have many files in common."""

    def __init__(self, kernel: Structures, root: tuple[int, int] | None) -> None:
        self.kernel = kernel
        #: ``vfsmount`` and ``dentry`` of the root that paths begin at; None: that of each mount namespace
        self.root = root
        self._files: dict[int, File] = {}
        self._paths: dict[tuple[int, int], bytes | None] = {}
        self._names: dict[int, bytes | None] = {}
        self._steps_left, self._texts = _MOST_STEPS_IN_ALL, dict[bytes, str]()

    @property
    def spent(self) -> bool:
        """Whether the ways up to roots were longer than any machine's, so that no more is followed."""
        return self._steps_left <= 0

    def text(self, name: bytes) -> str:
        """Return a name as text; one that many regions have is there once."""
        found = self._texts.get(name)
        if found is None:
            if len(self._texts) >= _MOST_KEPT:
                self._texts.clear()
            found = self._texts[name] = name.decode("utf-8", "surrogateescape")
        return found

    def of_file(self, file: int) -> File:
        """Return what the ``struct file`` at a kernel address is of."""
        if file not in self._files:
            if len(self._files) >= _MOST_KEPT:
                self._files.clear()
            self._files[file] = self._file(file)
        return self._files[file]

    def path_of_file(self, file: int) -> bytes | None:
        """Return the path of the ``struct file`` at a kernel address; None if it is not known."""
        return self.of_file(file).path

    def of(self, mount: int, dentry: int) -> bytes | None:
        """Return the path of a ``dentry`` seen by way of a ``vfsmount``; None if it is not known."""
        key = (mount, dentry)
        if key not in self._paths:
            if len(self._paths) >= _MOST_KEPT:
                self._paths.clear()
            self._paths[key] = self._path(mount, dentry)
        return self._paths[key]

    def _file(self, file: int) -> File:
        kernel = self.kernel
        mode, mount, dentry, inode = kernel.numbers(file, "file", ("f_mode", "f_path.mnt", "f_path.dentry", "f_inode"))
        above = self._above_backing(file, mode)
        if above is not None:
            mount, dentry = above
            inode = kernel.pointer(dentry, "dentry", "d_inode")
        device, number = self._identity(inode)
        return File(None if mount is None or dentry is None else self.of(mount, dentry), device, number)

    def _above_backing(self, file: int, mode: int | None) -> tuple[int, int] | None:
        """Return ``vfsmount`` and ``dentry`` of the overlay's file that a file serves, as Linux prints it since 6.7.

        Which bit of the mode says so has changed: what would be the path must be one.
        """
        kernel = self.kernel
        if mode is None or not (mode & _UNCOUNTED and mode & _BACKING):
            return None
        mount, dentry = kernel.numbers(file, "backing_file", ("user_path.mnt", "user_path.dentry"))
        if mount is None or dentry is None or not (kernel.is_kernel(mount) and kernel.is_kernel(dentry)):
            return None
        block = kernel.pointer(dentry, "dentry", "d_sb")
        return (mount, dentry) if block is not None and block == kernel.pointer(mount, "vfsmount", "mnt_sb") else None

    def _identity(self, inode: int | None) -> tuple[tuple[int, int] | None, int | None]:
        """Return device and number of an inode."""
        kernel = self.kernel
        if inode is None or not kernel.is_kernel(inode):
            return None, None
        block, number = kernel.numbers(inode, "inode", ("i_sb", "i_ino"))
        device = None
        if block is not None and kernel.is_kernel(block):
            device = kernel.number(block, "super_block", "s_dev")
        return None if device is None else (device >> _MINOR_BITS, device & ((1 << _MINOR_BITS) - 1)), number

    def _path(self, mount: int, dentry: int) -> bytes | None:
        kernel = self.kernel
        if not (kernel.is_kernel(mount) and kernel.is_kernel(dentry)):
            return None
        members = kernel.numbers(dentry, "dentry", ("d_parent", "d_op", "d_hash.pprev"))
        parent, operations, hashed = members
        if parent is None:
            return None
        if operations is not None and kernel.is_kernel(operations):
            made = kernel.number(operations, "dentry_operations", "d_dname")
            if made and (parent != dentry or kernel.pointer(mount, "vfsmount", "mnt_root") != dentry):
                return self._made(dentry)
        found = self._above(mount, dentry)
        if found is None:
            return None
        return found + DELETED.encode() if hashed == 0 and parent != dentry else found

    def _above(self, mount: int, dentry: int) -> bytes | None:
        """Return the names on the way from a root to a dentry; None if one cannot be read or they lead nowhere."""
        kernel, parts = self.kernel, list[bytes]()
        inside = kernel.offset("mount", "mnt")
        if inside is None:
            return None
        length = 0
        for _ in range(min(_MOST_STEPS, self._steps_left)):
            self._steps_left -= 1
            at_root = dentry == kernel.pointer(mount, "vfsmount", "mnt_root")
            above = self._mounted_on(mount - inside) if at_root else None
            if (mount, dentry) == self.root or above == (mount - inside, None):
                return b"/" + b"/".join(reversed(parts))
            if above is not None and above[1] is not None:
                mount, dentry = above[0] + inside, above[1]
                continue
            parent, name = kernel.pointer(dentry, "dentry", "d_parent"), self._name(dentry)
            if at_root or parent is None or name is None:
                return None
            if parent == dentry:  # it was moved out of what is mounted
                return b"/"
            parts.append(name)
            length += len(name) + 1
            if length > _LONGEST_PATH:
                return None
            dentry = parent
        return None

    def _mounted_on(self, mount: int) -> tuple[int, int | None] | None:
        """Return the ``mount`` that one is mounted on and the dentry there; no dentry if it is the highest."""
        above, place = self.kernel.numbers(mount, "mount", ("mnt_parent", "mnt_mountpoint"))
        if above == mount:
            return mount, None
        known = (
            above is not None and place is not None and self.kernel.is_kernel(above) and self.kernel.is_kernel(place)
        )
        return (above or 0, place) if known else None

    def _name(self, dentry: int) -> bytes | None:
        if dentry not in self._names:
            if len(self._names) >= _MOST_KEPT:
                self._names.clear()
            name, length = self.kernel.numbers(dentry, "dentry", ("d_name.name", "d_name.len"))
            known = name is not None and length is not None and length <= _LONGEST_NAME
            self._names[dentry] = self.kernel.reader.read(name or 0, length or 0) if known else None
        return self._names[dentry]

    def _made(self, dentry: int) -> bytes | None:
        """Return the name that a file system without names in a tree gives to a file."""
        kernel, name = self.kernel, self._name(dentry)
        block = kernel.pointer(dentry, "dentry", "d_sb")
        kind = None if block is None else kernel.pointer(block, "super_block", "s_type")
        system = None if kind is None else kernel.string(kernel.pointer(kind, "file_system_type", "name"), 64)
        if name is None or system is None:
            return None
        if system == b"anon_inodefs":
            return b"anon_inode:" + name
        if system in (b"pipefs", b"sockfs"):
            inode = kernel.pointer(dentry, "dentry", "d_inode")
            number = None if inode is None else kernel.number(inode, "inode", "i_ino")
            return None if number is None else b"%s:[%d]" % (b"pipe" if system == b"pipefs" else b"socket", number)
        if system == b"dmabuf":
            buffer = kernel.pointer(dentry, "dentry", "d_fsdata")
            said = None if buffer is None else kernel.pointer(buffer, "dma_buf", "name")
            return b"/%s:%s" % (name, kernel.string(said, 64) or b"")
        return b"/" + name + DELETED.encode()
