"""A tree served through FUSE: mfusepy's declarations of libfuse, and callbacks that fill its buffers directly.

mfusepy's own class copies what is read, and gives a folder's names without their attributes. What is called here is
documented in libfuse's fuse.h; https://libfuse.github.io/doxygen/.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import itertools
import os
import signal
import stat
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

from memcarve.errors import MemcarveError, MountError, printable
from memcarve.mount.memory_files import FlatFile
from memcarve.mount.mount_point import check_mount_point, check_system, fuse_library
from memcarve.mount.virtual_file import Folder, Link, VirtualFile

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from memcarve.mount.mounted_tree import MountedTree
    from memcarve.mount.virtual_file import Node

    #: mfusepy, and what ctypes gives
    Library = Any
    Pointer = Any

#: what is mounted does not change: the kernel may keep what it was told as long as it likes
_FOREVER = 1 << 30
_OPTIONS = (
    *("ro", "nosuid", "nodev", "noexec", "default_permissions", "fsname=memcarve", "subtype=memcarve"),
    *("kernel_cache", f"entry_timeout={_FOREVER}", f"attr_timeout={_FOREVER}", f"negative_timeout={_FOREVER}"),
)
#: fuse_common.h and fuse.h: give attributes with every name, not only if somebody seems to want them
_READDIRPLUS, _READDIRPLUS_AUTO = 1 << 13, 1 << 14
#: fuse_common.h: names in one folder may be looked up at the same time
_PARALLEL = 1 << 18
#: fuse_common.h: the kernel takes ENOSYS as the answer to opening any file
_NO_OPEN = 1 << 17
_WANTS_ATTRIBUTES, _HAS_ATTRIBUTES = 1 << 0, 1 << 1
#: so many readers may wait for documents that are being made before one waits for what is there. None of them ends
_THREADS = 16
_THREADS_SINCE = (3, 12)
#: so many requests for what is read ahead may wait before the kernel reads page by page instead (fuse_common.h: 12, 9)
_WAITING = 1024
#: KiB that the kernel reads ahead, if it lets us say so (128)
_AHEAD = 512
_BLOCK = 512
_READ = 16  # files that are kept while they are read
#: Python's C API: PyBUF_WRITE
_WRITABLE = 0x200
_POLL = 0.05  # seconds between attempts to wake the library


def serve(
    tree: MountedTree, folder: str, *, allow_other: bool = False, ready: Callable[[], object] = lambda: None
) -> None:
    """Mount a tree on an empty folder, and return when it is unmounted; `ready` is called once it can be read.

    `allow_other` lets other users read it, too. A signal that Python handles unmounts it, and is handled then. Raises
    MissingExtraError, MountError, TargetExistsError.
    """
    fuse = fuse_library()
    check_mount_point(folder)
    check_system(fuse)
    _Server(tree, fuse, ready, allow_other=allow_other).run(folder)


class _Server:
    """The callbacks: each returns what its C function does, a negative errno if it fails."""

    def __init__(self, tree: MountedTree, fuse: Library, ready: Callable[[], object], *, allow_other: bool) -> None:
        import ctypes

        self.ctypes = ctypes
        self.tree = tree
        self.fuse = fuse
        self.library = fuse._libfuse  # noqa: SLF001 - mfusepy's own `fuse_exit` is for callbacks alone
        # an array of ctypes would be a new class for each length
        view = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.c_ssize_t, ctypes.c_int)
        self.view_of = view(("PyMemoryView_FromMemory", ctypes.pythonapi))
        self.ready = ready
        self.allow_other = allow_other
        self.file_mode, self.folder_mode = (0o444, 0o555) if allow_other else (0o400, 0o500)
        self.owner = (os.getuid(), os.getgid()) if hasattr(os, "getuid") else (0, 0)
        self.begun = int(time.time())
        self.folder = ("", 0)  # what is mounted on, and the device that it is on
        self.here: str | None = None
        with contextlib.suppress(OSError):  # it may be gone
            self.here = os.getcwd()
        self.session: int | None = None
        self.mounted = False
        self.opening = True
        self.thread = threading.local()
        self.threads_stay = (fuse.fuse_version_major, fuse.fuse_version_minor) >= _THREADS_SINCE
        self._folders: dict[int, Folder] = {}
        self._numbers = itertools.count(1)
        # else what is read piece by piece might be made again for each; and files are mostly read folder by folder
        self._found_before = functools.lru_cache(_READ)(self._found)
        self._searched_before = functools.lru_cache(1)(self._searched)

    def run(self, folder: str) -> None:
        """Mount and serve until it is unmounted; raises MountError."""
        ctypes, fuse = self.ctypes, self.fuse
        operations = fuse.fuse_operations()
        names = ("init", "getattr", "readlink", "open", "read", "opendir", "readdir", "releasedir", "lseek")
        for name, prototype in (field[:2] for field in fuse.fuse_operations._fields_):
            if name in names:
                setattr(operations, name, prototype(self._guarded(getattr(self, name))))
        limit = [f"max_threads={_THREADS}", f"max_idle_threads={_THREADS}"] * self.threads_stay
        self.folder = os.path.abspath(folder), os.stat(folder).st_dev
        options = ",".join([*_OPTIONS, *limit, *["allow_other"] * self.allow_other])
        words = [word.encode("utf-8", "surrogateescape") for word in ("memcarve", "-f", "-o", options, self.folder[0])]
        arguments = (ctypes.c_char_p * len(words))(*words)
        with self._signals():
            status = fuse.fuse_main_real(
                len(words), arguments, ctypes.byref(operations), ctypes.sizeof(operations), None
            )
        if status and not self.mounted:
            error = MountError("cannot be mounted on: the line above is what FUSE says", subject=folder)
            raise error.suggest("other users need user_allow_other in /etc/fuse.conf") if self.allow_other else error

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """Have the library end when a signal comes that Python handles: its handler runs behind this block.

        The library waits in the main thread, and looks whether it is to end when a signal interrupts that.
        """
        if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "pthread_kill"):
            yield
            return
        receiving, sending = os.pipe()
        os.set_blocking(sending, False)
        ended, main = threading.Event(), threading.get_ident()

        def watch() -> None:
            number = os.read(receiving, 1)[0]
            while not ended.is_set():
                if self.session is not None:  # told once: soon the library frees it
                    self.library.fuse_exit(self.ctypes.c_void_p(self.session))
                    self.session = None
                ended.wait(_POLL)
                if not ended.is_set():
                    signal.pthread_kill(main, number)

        before = signal.set_wakeup_fd(sending, warn_on_full_buffer=False)
        watching = threading.Thread(target=watch)
        watching.start()
        try:
            yield
        finally:
            ended.set()
            signal.set_wakeup_fd(before)
            os.write(sending, b"\0")
            watching.join()
            os.close(receiving)
            os.close(sending)

    def _guarded(self, work: Callable[..., int | None]) -> Callable[..., int]:
        """Return a callback that raises nothing: errors are told, and are an errno to who asked."""

        def guarded(*arguments: Pointer) -> int:
            if self.threads_stay and not hasattr(self.thread, "known"):
                # else what Python knows of a thread of the library is made for each callback, and ends with it
                self.thread.known = self.ctypes.pythonapi.PyGILState_Ensure()
            try:
                return work(*arguments) or 0
            except OSError as error:
                return -(error.errno or errno.EIO)
            except MemcarveError as error:
                self.tree.tell(error.worded(self.tree.word))
            except MemoryError:
                return -errno.ENOMEM
            except Exception as error:  # noqa: BLE001 - nothing may reach C
                self.tree.tell(f"{type(error).__name__}: {error}; this is a bug in memcarve: please report it")
            return -errno.EIO

        return guarded

    def init(self, connection: Pointer, *_: Pointer) -> None:
        """Ask for attributes with names, and say that all is ready."""
        if (
            self.here is not None
        ):  # the library has gone to the root folder, but inputs are opened by relative paths, too
            with contextlib.suppress(OSError):
                os.chdir(self.here)
        self.session = self.library.fuse_get_context().contents.fuse
        if self.fuse.fuse_version_major > 2:  # noqa: PLR2004
            capable = connection.contents.capable
            self.opening = sys.platform != "linux" or not capable & _NO_OPEN
            connection.contents.want |= capable & _PARALLEL
            connection.contents.max_background = connection.contents.congestion_threshold = _WAITING
            if capable & _READDIRPLUS:
                connection.contents.want = connection.contents.want & ~_READDIRPLUS_AUTO | _READDIRPLUS
        self.mounted = True
        self.ready()

    def getattr(self, path: bytes, status: Pointer, *_: Pointer) -> None:
        """Fill in a file's attributes."""
        self._describe(status.contents, self._found(path))

    def readlink(self, path: bytes, buffer: Pointer, size: int) -> None:
        """Fill in where a link leads."""
        node = self._found(path)
        if not isinstance(node, Link):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        data = node.target.encode()[: size - 1] + b"\0"
        self.ctypes.memmove(buffer, data, len(data))

    def open(self, path: bytes, information: Pointer) -> int:  # noqa: ARG002 - C's
        """Say that files need not be opened: a Linux kernel then asks for that of none any more, nor for its end.

        Whoever opens one has asked for its attributes before, so that it is made, or could not be.
        """
        if self.opening:
            return 0
        self._read_ahead()
        return -errno.ENOSYS

    def _read_ahead(self) -> None:
        """Have the kernel read more ahead than it does by itself, which only root may."""
        folder, below = self.folder
        with contextlib.suppress(OSError):
            device = os.stat(folder).st_dev  # another thread answers
            if device != below:
                ahead = f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}/read_ahead_kb"
                with open(ahead, "w", encoding="ascii") as file:
                    file.write(str(_AHEAD))

    def opendir(self, path: bytes, information: Pointer) -> None:
        """Hold a folder, so that all its entries are those of one."""
        node = self._found(path)
        if not isinstance(node, Folder):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        number = next(self._numbers)
        self._folders[number] = node
        information.contents.fh = number

    def releasedir(self, path: bytes | None, information: Pointer) -> None:  # noqa: ARG002 - C's
        """Let go of it."""
        self._folders.pop(information.contents.fh, None)

    def read(self, path: bytes, buffer: Pointer, size: int, offset: int, information: Pointer) -> int:  # noqa: ARG002 - C's
        """Fill a buffer with a file's bytes; return how many."""
        node = self._file(path)
        length = min(size, node.size - offset)
        if length <= 0:
            return 0
        # the library's own buffer is filled; to have the kernel splice from the input (read_buf) is no faster
        place = self.ctypes.addressof(buffer.contents)
        try:
            node.read_into(offset, self.view_of(place, length, _WRITABLE))
        except MemcarveError as error:
            self.tree.tell(f"{printable(path.decode('utf-8', 'replace'))}: {error.worded(self.tree.word)}")
            raise OSError(errno.EIO, os.strerror(errno.EIO)) from error
        return length

    def lseek(self, path: bytes, offset: int, whence: int, information: Pointer) -> int:  # noqa: ARG002 - C's
        """Return where data, or a hole, begins from an offset on; raises ENXIO if there is none."""
        node = self._file(path)
        if offset >= node.size:
            raise OSError(errno.ENXIO, os.strerror(errno.ENXIO))
        if isinstance(node, FlatFile):
            found = node.next_data(offset) if whence == os.SEEK_DATA else node.next_hole(offset)
        else:
            found = offset if whence == os.SEEK_DATA else node.size
        if found is None:
            raise OSError(errno.ENXIO, os.strerror(errno.ENXIO))
        return found

    def readdir(
        self,
        path: bytes | None,  # noqa: ARG002 - C's
        buffer: Pointer,
        add: Pointer,
        first: int,
        information: Pointer,
        flags: int = 0,
    ) -> None:
        """Add a folder's entries from a number on until no more fit, with their attributes if these cost nothing."""
        node = self._folders[information.contents.fh]
        status = self.fuse.c_stat()
        reference = self.ctypes.byref(status)
        more = () if self.fuse.fuse_version_major == 2 else (0,)  # noqa: PLR2004
        for number, dots in enumerate((b".", b"..")[first:], first + 1):
            self._describe(status, node)
            if add(buffer, dots, reference, number, *more):
                return
        whole = bool(more) and bool(flags & _WANTS_ATTRIBUTES)
        known, unknown = ((_HAS_ATTRIBUTES if whole else 0,), (0,)) if more else ((), ())
        plain = False  # whether a file's attributes are filled in, but for its size
        for number, entry in enumerate(node.listed(max(first - 2, 0)), max(first, 2) + 1):
            name, other, size = entry
            if other is not None:
                self._describe(status, other)
                plain = False
            else:
                if not plain:
                    self._fill(status, stat.S_IFREG | self.file_mode, 0, 0)
                    plain = True
                if size is not None:  # there may be half a million of these
                    status.st_size, status.st_blocks = size, -(-size // _BLOCK)
            if add(buffer, name.encode(), reference, number, *(unknown if other is None and size is None else known)):
                return

    def _found(self, path: bytes) -> Node:
        """Return what lies at a path; raises FileNotFoundError, NotADirectoryError."""
        folder, _, name = path.decode("utf-8", "replace").rpartition("/")
        node = self._searched_before(folder or "/").find(name) if name else self.tree.root
        if node is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        return node

    def _searched(self, path: str) -> Folder:
        """Return the folder at a path; raises FileNotFoundError, NotADirectoryError."""
        node = self.tree.find(path)
        if node is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        if not isinstance(node, Folder):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        return node

    def _file(self, path: bytes) -> VirtualFile:
        """Return the file at a path."""
        node = self._found_before(path)
        if isinstance(node, Folder | Link):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        return node

    def _describe(self, status: Pointer, node: Node) -> None:
        if isinstance(node, Folder):
            self._fill(status, stat.S_IFDIR | self.folder_mode, 0, 0)
        elif isinstance(node, Link):
            self._fill(status, stat.S_IFLNK | 0o777, len(node.target.encode()), 0)
        else:
            self._fill(status, stat.S_IFREG | self.file_mode, node.size, node.stored)

    def _fill(self, status: Pointer, mode: int, size: int, stored: int) -> None:
        status.st_mode = mode
        status.st_nlink = 2 if stat.S_ISDIR(mode) else 1
        status.st_size = size
        status.st_blocks = -(-stored // _BLOCK)
        status.st_uid, status.st_gid = self.owner
        for name in ("st_atimespec", "st_mtimespec", "st_ctimespec"):
            getattr(status, name).tv_sec = self.begun
