"""Paths through mounts against a model: a test's own files, mounted on each other, deleted, made up by file systems."""

from __future__ import annotations

import pytest

from kernel_memory import KernelMemory
from memcarve.images.linux.dentry_paths import File, Paths


class FileSystems(KernelMemory):
    """File systems whose dentries, mounts and files the test makes."""

    def __init__(self) -> None:
        super().__init__()
        lay_out = self.types.lay_out
        lay_out(
            "dentry",
            "d_hash.pprev",
            "d_parent",
            "d_name.len",
            "d_name.name",
            "d_inode",
            "d_op",
            "d_sb",
            sizes={"d_name.len": 4},
        )
        lay_out("mount", "mnt_parent", "mnt_mountpoint", "mnt")
        lay_out("vfsmount", "mnt_root", "mnt_sb")
        self.types.sizes["mount"] += self.types.sizes["vfsmount"]
        lay_out("file", "f_mode", "f_path.mnt", "f_path.dentry", "f_inode", sizes={"f_mode": 4})
        lay_out("backing_file", "user_path.mnt", "user_path.dentry", begin=self.types.sizes["file"])
        lay_out("inode", "i_sb", "i_ino")
        lay_out("super_block", "s_dev", "s_type", sizes={"s_dev": 4})
        lay_out("file_system_type", "name")
        lay_out("dentry_operations", "d_hash", "d_dname")

    def block(self, kind: bytes = b"ext4", device: int = 0xFE << 20 | 1) -> int:
        """Return a new super block."""
        return self.make("super_block", s_dev=device, s_type=self.make("file_system_type", name=self.text(kind)))

    def dentry(self, name: bytes, parent: int | None, block: int, *, hashed: bool = True, operations: int = 0) -> int:
        """Return a new dentry, its own parent if none is given; of a file that has the inode 5."""
        inode = self.make("inode", i_sb=block, i_ino=5)
        made = self.make(
            "dentry", d_name__len=len(name), d_name__name=self.text(name), d_inode=inode, d_op=operations, d_sb=block
        )
        self.put(made, "dentry", "d_parent", made if parent is None else parent)
        self.put(made, "dentry", "d_hash.pprev", self.base if hashed else 0)
        return made

    def mount(self, root: int, block: int, on: tuple[int, int] | None) -> int:
        """Return a new ``vfsmount``, mounted on a dentry of another one, or nowhere."""
        at = self.make("mount")
        inside = self.types.members["mount", "mnt"].offset
        self.put(at + inside, "vfsmount", "mnt_root", root)
        self.put(at + inside, "vfsmount", "mnt_sb", block)
        self.put(at, "mount", "mnt_parent", at if on is None else on[0] - inside)
        self.put(at, "mount", "mnt_mountpoint", root if on is None else on[1])
        return at + inside

    def file(self, mount: int, dentry: int, mode: int = 1) -> int:
        """Return a new file."""
        address = self.take(self.types.sizes["backing_file"])
        inode = int.from_bytes(self.data[self._at(dentry, "d_inode") :][:8], "little")
        for path, value in (("f_mode", mode), ("f_path.mnt", mount), ("f_path.dentry", dentry), ("f_inode", inode)):
            self.put(address, "file", path, value)
        return address

    def _at(self, dentry: int, member: str) -> int:
        return dentry - self.base + self.types.members["dentry", member].offset


@pytest.fixture
def it() -> FileSystems:
    """Return memory without a file."""
    return FileSystems()


def tree(it: FileSystems, *names: bytes, block: int, root: int | None = None) -> list[int]:
    """Return dentries below each other, the root first."""
    found = [it.dentry(b"/", None, block) if root is None else root]
    for name in names:
        found.append(it.dentry(name, found[-1], block))
    return found


def test_mounts_on_mounts(it: FileSystems) -> None:
    """Names go on at each mount point, also if several mounts lie on one, and a mount shows a part of its tree."""
    block = it.block()
    outer = tree(it, b"a", b"b", block=block)
    first = it.mount(outer[0], block, None)
    middle = tree(it, b"part", b"c", b"d", block=block)
    second = it.mount(middle[1], block, (first, outer[2]))
    third = it.mount(middle[1], block, (second, middle[1]))
    inner = tree(it, b"e" * 255, block=block)
    fourth = it.mount(inner[0], block, (third, middle[3]))
    paths = Paths(it.structures(), None)
    assert paths.of(first, outer[0]) == b"/"
    assert paths.of(first, outer[2]) == b"/a/b"
    assert paths.of(second, middle[3]) == paths.of(third, middle[3]) == b"/a/b/c/d"
    assert paths.of(fourth, inner[1]) == b"/a/b/c/d/" + b"e" * 255
    assert paths.of(second, middle[0]) == b"/"  # out of what is mounted


def test_root_of_the_reader(it: FileSystems) -> None:
    """Paths begin at the root of pid 1, and in another mount namespace at its own."""
    block = it.block()
    outer, other = tree(it, b"new", b"x", block=block), tree(it, b"x", block=block)
    first, second = it.mount(outer[0], block, None), it.mount(other[0], block, None)
    paths = Paths(it.structures(), (first, outer[1]))
    assert paths.of(first, outer[2]) == b"/x"
    assert paths.of(first, outer[1]) == b"/"
    assert paths.of(first, outer[0]) == b"/"
    assert paths.of(second, other[1]) == b"/x"


@pytest.mark.parametrize("name", [b"a\nb", b"\xff\xfe", b"x (deleted)", b"\x1b[2J"])
def test_names(it: FileSystems, name: bytes) -> None:
    """A name is any bytes; a file that was deleted says so."""
    block = it.block()
    root = it.dentry(b"/", None, block)
    mount = it.mount(root, block, None)
    there, gone = it.dentry(name, root, block), it.dentry(name, root, block, hashed=False)
    files = it.file(mount, there), it.file(mount, gone)
    paths = Paths(it.structures(), None)
    assert paths.of_file(files[0]) == File(b"/" + name, (0xFE, 1), 5)
    assert paths.path_of_file(files[1]) == b"/" + name + b" (deleted)"


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (b"tmpfs", b"/memfd:x (deleted)"),
        (b"anon_inodefs", b"anon_inode:memfd:x"),
        (b"sockfs", b"socket:[5]"),
        (b"pipefs", b"pipe:[5]"),
        (b"dmabuf", b"/memfd:x:"),
    ],
)
def test_names_that_file_systems_make(it: FileSystems, kind: bytes, expected: bytes) -> None:
    """Files that lie in no directory have names all the same."""
    block = it.block(kind)
    operations = it.make("dentry_operations", d_dname=it.base)
    root = it.dentry(b"/", None, block)
    mount = it.mount(root, block, None)
    file = it.file(mount, it.dentry(b"memfd:x", None, block, hashed=False, operations=operations))
    assert Paths(it.structures(), None).path_of_file(file) == expected


@pytest.mark.parametrize("bit", [24, 25])
def test_file_of_an_overlay(it: FileSystems, bit: int) -> None:
    """Of a file that serves one of an overlay, path, device and inode are those of the overlay's."""
    below, above = it.block(device=1), it.block(b"overlay", device=2)
    real, user = tree(it, b"upper", b"f", block=below), tree(it, b"f", block=above)
    mounts = it.mount(real[0], below, None), it.mount(user[0], above, None)
    file = it.file(mounts[0], real[2], 1 << 29 | 1 << bit)
    plain = it.file(mounts[0], real[2], 1 << bit)
    unlike = it.file(mounts[0], real[2], 1 << 29 | 1 << bit)
    for each, mount in ((file, mounts[1]), (plain, mounts[1]), (unlike, mounts[0])):
        it.put(each, "backing_file", "user_path.mnt", mount)
        it.put(each, "backing_file", "user_path.dentry", user[1])
    paths = Paths(it.structures(), None)
    assert paths.of_file(file) == File(b"/f", (0, 2), 5)
    assert paths.of_file(plain) == File(b"/upper/f", (0, 1), 5)
    assert paths.of_file(unlike) == File(b"/upper/f", (0, 1), 5)


def test_loops(it: FileSystems) -> None:
    """Dentries and mounts that lead back to themselves have no path; one that never ends is given up."""
    block = it.block()
    names = tree(it, b"a", b"b", block=block)
    first = it.mount(it.dentry(b"/", None, block), block, None)
    it.put(names[1], "dentry", "d_parent", names[2])
    second = it.mount(names[0], block, (first, names[0]))
    third = it.mount(names[0], block, (second, names[0]))
    inside = it.types.members["mount", "mnt"].offset
    it.put(second - inside, "mount", "mnt_parent", third - inside)
    paths = Paths(it.structures(), None)
    assert paths.of(first, names[2]) is None
    assert paths.of(third, names[0]) is None


def test_pointers_that_lead_nowhere(it: FileSystems) -> None:
    """What cannot be followed is not known; nothing is raised."""
    block = it.block()
    names = tree(it, b"a", block=block)
    mount = it.mount(names[0], block, None)
    file = it.file(mount, names[1])
    for address, structure, member in (
        (file, "file", "f_path.mnt"),
        (file, "file", "f_path.dentry"),
        (names[1], "dentry", "d_parent"),
        (names[1], "dentry", "d_name.name"),
    ):
        before = bytes(it.data)
        for value in (0, 1, 1 << 63, (1 << 64) - 8):
            it.put(address, structure, member, value)
            assert Paths(it.structures(), None).path_of_file(file) is None, (member, value)
            it.data[:] = before
    it.put(names[1], "dentry", "d_name.len", 1 << 31)
    assert Paths(it.structures(), None).path_of_file(file) is None
    assert Paths(it.structures(), None).of_file(0) == File(None, None, None)
