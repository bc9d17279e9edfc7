"""Where an unknown kernel keeps what names a file: file, dentry, inode, super_block, mount; and what a task has open.

The order of members relied on is that of include/linux/fs.h, dcache.h, path.h, mount.h, fs_struct.h, fdtable.h
and fs/mount.h from Linux 4.19 to 7.3. What proves them: a name is as long as is said beside it, a dentry and its inode
are of one file system, which is that of the mount.
"""

from __future__ import annotations

import itertools
import re
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from memcarve.images.linux.learning.structure_table import MOSTLY, NEARLY, StructureTable, are_pointers, share, sole
from memcarve.intervals import distinct, spread

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memcarve.dtypes import U64
    from memcarve.images.linux.learning.learned_types import LearnedTypes
    from memcarve.images.linux.learning.memory_members import Spaces
    from memcarve.images.linux.learning.region_members import RegionTable
    from memcarve.images.linux.learning.task_members import Tasks
    from memcarve.images.structure_reader import Reader

_MOST_FILES = 256
_LEAST = 4
_FILE = 0x100  # bytes of each structure that are looked at
_DENTRY = 0x100
_INODE = 0x100
_FS = 0x80
_SYSTEM = 0x80
_LONGEST_NAME = 255  # NAME_MAX, include/uapi/linux/limits.h
_MOST_DEPTH = 64
_NOTHING = (1 << 64) - 1
_SYSTEM_NAME = re.compile(rb"[a-z][a-z0-9_.]{2,31}\0")
_READS, _OPENED = 1, 0x80000  # FMODE_READ, FMODE_OPENED, include/linux/fs.h
_UNCOUNTED, _BACKING = 1 << 29, 1 << 25 | 1 << 24  # FMODE_NOACCOUNT, FMODE_BACKING (6.5 and 6.10 on)
_DENTRY_FUNCTIONS = 13
_MOST_DESCRIPTORS = 1 << 24
_DESCRIPTORS = 8  # of a process, that are looked at


class Dentries(NamedTuple):
    """Where in a dentry its name's hash, length and pointer begin; what is around it follows. `word`: of a pointer."""

    name: int
    word: int

    @property
    def parent(self) -> int:
        """Where the parent is: before the name."""
        return self.name - self.word

    @property
    def inode(self) -> int:
        """Where the inode is: behind the name."""
        return self.name + 8 + self.word


def learn_files(spaces: Spaces, regions: RegionTable, tasks: Tasks) -> None:
    """Learn what leads from files that are mapped to their names, and from tasks to their files."""
    types = spaces.types
    files = _files(regions, types)
    if len(files) < _LEAST or not _learn_file(files, types):
        return
    _learn_program(spaces, types)
    _learn_task(tasks, types)
    _learn_made_names(tasks, files, types)


def _files(regions: RegionTable, types: LearnedTypes) -> StructureTable:
    at = types.at("vm_area_struct", "vm_file")
    found = np.zeros(0, np.uint64) if at is None else distinct(regions.table.column(at))
    found = found[found != 0]
    found = found[spread(len(found), _MOST_FILES)]
    return StructureTable(regions.table.reader, found.tolist(), _FILE, regions.table.word)


def _learn_file(files: StructureTable, types: LearnedTypes) -> bool:
    """Learn `f_path`, `f_inode` and `f_mode`, and what they lead to."""
    word = files.word
    found: list[tuple[int, Dentries]] = []
    for at in files.places(word, _FILE):
        pointers = files.column(at)
        if share(are_pointers(pointers, word)) < NEARLY:
            continue
        dentries = StructureTable(files.reader, pointers.tolist(), _DENTRY, word)
        found += [(at, Dentries(name, word)) for name in _names_of(dentries)]
    if len(found) != 1:
        return False
    at, form = found[0]
    dentries = StructureTable(files.reader, files.column(at).tolist(), _DENTRY, word)
    mounts = files.column(at - word)
    block = _learn_file_system(dentries, form, types)
    if block is None or share(files.follow(mounts, word) == dentries.column(block)) < MOSTLY:
        return False
    _put_dentry(dentries, form, types)
    types.put_list("file", "f_path", at - word)
    types.put_pointer("file", "f_path.mnt", at - word)
    types.put_pointer("file", "f_path.dentry", at)
    types.put_pointer("path", "mnt", 0)
    types.put_pointer("path", "dentry", word)
    inodes = dentries.column(form.inode)
    inode = sole([place for place in files.places(0, _FILE) if share(files.column(place) == inodes) >= NEARLY])
    if inode is not None:
        types.put_pointer("file", "f_inode", inode)
    wanted = np.uint64(_READS | _OPENED)
    modes = [
        place
        for place in files.places(0, at + 0x60, 4)
        if share((files.column(place, 4) & wanted) == wanted) >= NEARLY
        and share(are_pointers(files.column(place // word * word), word)) <= 1 - NEARLY
    ]
    mode = sole(modes)
    if mode is not None:
        types.put("file", "f_mode", mode, 4)
        _learn_backing(files, files.column(mode, 4), block, types)
    _learn_mount(files.reader, distinct(mounts), block, types)
    return True


def _learn_backing(files: StructureTable, modes: U64, block: int, types: LearnedTypes) -> None:
    """Learn where a file that serves an overlay's file keeps the path of that: behind itself, mount and dentry."""
    word = files.word
    rows = files.addresses[(modes & np.uint64(_UNCOUNTED) != 0) & (modes & np.uint64(_BACKING) != 0)]
    if not len(rows):
        return
    backing = StructureTable(files.reader, rows.tolist(), 2 * _FILE, word)
    begin = (types.at("file", "f_path") or 0) + 2 * word
    found = []
    for at in backing.places(begin, backing.size - word):
        mount, dentry = backing.column(at), backing.column(at + word)
        if share(are_pointers(mount, word) & are_pointers(dentry, word)) == 1:
            system = backing.follow(mount, word)
            if share(are_pointers(system, word) & (system == backing.follow(dentry, block))) == 1:
                found.append(at)
    at_path = sole(found)
    if at_path is not None:
        types.put_list("backing_file", "user_path", at_path)
        types.put_pointer("backing_file", "user_path.mnt", at_path)
        types.put_pointer("backing_file", "user_path.dentry", at_path + word)


def _names_of(dentries: StructureTable) -> list[int]:
    """Return the places at which what may be dentries has a name.

    It is as long as is said before it, and most have it inside, behind the inode. The parents have a name there, too,
    and lead to one that is its own parent.
    """
    word, found = dentries.word, []
    for at in dentries.places(2 * word, _DENTRY - 8 - 2 * word):
        form = Dentries(at, word)
        length, name = dentries.column(at + 4, 4), dentries.column(at + 8)
        if share((length > 0) & (length <= np.uint64(_LONGEST_NAME)) & (name >> np.uint64(8 * word - 1) == 1)) < NEARLY:
            continue
        inside = name - dentries.addresses
        inline = inside == np.uint64(form.inode + word)
        long = length > 2 * np.uint64(word)  # what is not inside is long
        if share(inline | long) < NEARLY or not inline.any():
            continue
        named = [_is_named(dentries.reader, *pair) for pair in zip(name.tolist(), length.tolist(), strict=True)]
        if share(np.array(named)) >= NEARLY and _lead_up(dentries, form):
            found.append(at)
    return found


def _is_named(reader: Reader, name: int, length: int) -> bool:
    """Return True if a text has exactly so many bytes."""
    text = reader.read(name, length + 1) if length <= _LONGEST_NAME else None
    return text is not None and text.find(b"\0") == length > 0


def _lead_up(dentries: StructureTable, form: Dentries) -> bool:
    """Return True if the dentries' parents have names, too, up to one that is its own parent."""
    led = 0
    for address in dentries.addresses[:32].tolist():
        at = address
        for _ in range(_MOST_DEPTH):
            parent = dentries.reader.number(at + form.parent, form.word)
            if parent is None or not _names(dentries.reader, parent, form):
                break
            if parent == at:
                led += 1
                break
            at = parent
    return led >= NEARLY * min(len(dentries), 32)


def _names(reader: Reader, dentry: int, form: Dentries) -> bool:
    length, name = reader.number(dentry + form.name + 4, 4), reader.number(dentry + form.name + 8, form.word)
    return length is not None and name is not None and _is_named(reader, name, length)


def _put_dentry(dentries: StructureTable, form: Dentries, types: LearnedTypes) -> None:
    """Add the members around the name; the links of the table of names, before the parent, lead back."""
    word = form.word
    types.put_pointer("dentry", "d_parent", form.parent)
    types.put("dentry", "d_name", form.name, 8 + word)
    types.put("dentry", "d_name.hash", form.name, 4)
    types.put("dentry", "d_name.len", form.name + 4, 4)
    types.put_pointer("dentry", "d_name.name", form.name + 8)
    types.put_pointer("dentry", "d_inode", form.inode)
    links = form.parent - 2 * word
    before = dentries.column(links + word)
    hashed = before != 0
    back = dentries.follow(before[hashed]) & ~np.uint64(1)  # the lowest bit is a lock
    if hashed.any() and share(back == dentries.addresses[hashed] + np.uint64(links)) >= NEARLY:
        types.put_list("dentry", "d_hash", links)
        types.put_pointer("dentry", "d_hash.pprev", links + word)


def _learn_file_system(dentries: StructureTable, form: Dentries, types: LearnedTypes) -> int | None:
    """Learn `d_sb` and `d_op` before it, members of an inode, and of a super_block.

    A dentry and its inode are of one file system, whose blocks have a power of 2 of bytes, and which has a type with a
    name. Behind that in an inode are what it maps, maybe something of a security module, and its number.
    """
    word = form.word
    inodes = StructureTable(dentries.reader, dentries.column(form.inode).tolist(), _INODE, word)
    own: list[tuple[int, int]] = []
    for at in dentries.places(form.inode + word, _DENTRY):
        block = dentries.column(at)
        if share(are_pointers(block, word)) >= NEARLY and _are_systems(dentries.reader, block, word):
            own += [(at, place) for place in inodes.places(0, _INODE) if share(inodes.column(place) == block) >= NEARLY]
    if len(own) != 1:
        return None
    at, inside = own[0]
    types.put_pointer("dentry", "d_sb", at)
    types.put_pointer("dentry", "d_op", at - word)
    types.put_pointer("inode", "i_sb", inside)
    types.put_pointer("inode", "i_mapping", inside + word)
    block = inodes.column(inside)
    for place in (inside + 2 * word, inside + 3 * word):
        number, links = inodes.column(place), inodes.column(place + word, 4)
        pairs = np.unique(np.stack([block, number, inodes.addresses], axis=1), axis=0)
        apart = len(np.unique(pairs[:, :2], axis=0)) >= NEARLY * len(pairs)
        small = (number > 0) & (number < np.uint64(1 << (8 * word - 1))) & (links < np.uint64(1 << 16))
        if apart and share(small) >= NEARLY:
            types.put_pointer("inode", "i_ino", place)
            break
    _learn_system(dentries.reader, distinct(block), types)
    return at


def _learn_system(reader: Reader, blocks: U64, types: LearnedTypes) -> None:
    """Learn the members of super_blocks: behind their links the number of the device, the size of a block, the type."""
    word = types.pointer_size
    systems = StructureTable(reader, blocks.tolist(), _SYSTEM, word)
    device = systems.column(2 * word, 4)
    if (device != 0).all() and len(distinct(device)) == len(device):
        types.put("super_block", "s_dev", 2 * word, 4)
    at = sole(_sizes_of_blocks(systems))
    if at is not None:
        types.put_pointer("super_block", "s_blocksize", at)
        types.put_pointer("super_block", "s_type", at + word + 8)
        types.put_pointer("file_system_type", "name", 0)


def _sizes_of_blocks(systems: StructureTable) -> list[int]:
    """Return where what may be file systems have the size of their blocks: a power of 2, which is said before it.

    Behind it are the size of the largest file, and the type of the file system, which has a name.
    """
    word, found = systems.word, []
    for at in systems.places(2 * word + 8, systems.size - word - 8):
        size, kind = systems.column(at), systems.column(at + word + 8)
        if share(are_pointers(kind, word)) < NEARLY or share((size & (size - np.uint64(1)) == 0) & (size > 1)) < NEARLY:
            continue
        bits = [systems.column(place, 1) for place in {at - word, at - 4}]
        if max(share(np.uint64(1) << (said & np.uint64(63)) == size) for said in bits) < NEARLY:
            continue
        texts = [systems.reader.read(name, 32) for name in systems.follow(kind).tolist()]
        if share(np.array([text is not None and _SYSTEM_NAME.match(text) is not None for text in texts])) >= NEARLY:
            found.append(at)
    return found


def _are_systems(reader: Reader, blocks: U64, word: int) -> bool:
    """Return True if these are file systems."""
    systems = StructureTable(reader, distinct(blocks).tolist(), _SYSTEM, word)
    return bool(_sizes_of_blocks(systems))


def _learn_mount(reader: Reader, mounts: U64, block: int, types: LearnedTypes) -> None:
    """Learn the members of mounts: a vfsmount is within a mount, behind the mount above, and the place there.

    That place is of the same file system as what is mounted above.
    """
    word = types.pointer_size
    begin = 4 * word
    sound = []
    for mount in (mounts - np.uint64(begin)).tolist():
        above, place = reader.number(mount + 2 * word, word), reader.number(mount + 3 * word, word)
        system = None if above is None else reader.number(above + begin + word, word)
        sound.append(system is not None and place is not None and reader.number(place + block, word) == system)
    types.put_pointer("vfsmount", "mnt_root", 0)
    types.put_pointer("vfsmount", "mnt_sb", word)
    if share(np.array(sound)) >= MOSTLY:
        types.put_pointer("mount", "mnt_parent", 2 * word)
        types.put_pointer("mount", "mnt_mountpoint", 3 * word)
        types.put("mount", "mnt", begin, None)


def _learn_program(spaces: Spaces, types: LearnedTypes) -> None:
    """Learn `exe_file` of an mm_struct: the file that is mapped where the program's code is."""
    code, file = types.at("mm_struct", "start_code"), types.at("vm_area_struct", "vm_file")
    if code is None or file is None:
        return
    word, table = spaces.word, spaces.table
    mapped = []
    for row, begin in zip(spaces.regions, table.column(code), strict=True):
        place = int(np.searchsorted(row.start, begin, "right")) - 1
        found = spaces.reader.number(int(row.address[place]) + file, word) if place >= 0 else None
        mapped.append(found or _NOTHING)
    own = np.array(mapped, np.uint64)
    at = sole([at for at in table.places(code, table.size) if share(table.column(at) == own) >= MOSTLY])
    if at is not None:
        types.put_pointer("mm_struct", "exe_file", at)


def _learn_task(tasks: Tasks, types: LearnedTypes) -> None:
    """Learn `fs` and `files` of a task, between its name and `signal`, in this order."""
    table, shape = tasks.table, tasks.shape
    word, end = shape.word, types.at("task_struct", "signal")
    if end is None:
        return
    found: list[tuple[int, int]] = []
    for at in table.places(shape.comm + 16, end):
        pointers = table.column(at)
        there = pointers != 0
        if share(there) < MOSTLY or share(are_pointers(pointers[there], word)) < NEARLY:
            continue
        held = StructureTable(table.reader, distinct(pointers[there]).tolist(), _FS, word)
        found += [(at, place) for place in held.places(word, _FS - 4 * word) if _is_place(held, place, types)]
    # since 7.3 there may be another fs before, which is the same one
    if len(found) > 1:
        found = [(at, root) for at, root in found if _learn_descriptors(tasks, at + word, types)]
    if len(found) == 1:
        at, root = found[0]
        types.put_pointer("task_struct", "fs", at)
        for name, place in (("root", root), ("pwd", root + 2 * word)):
            types.put_list("fs_struct", name, place)
            types.put_pointer("fs_struct", f"{name}.mnt", place)
            types.put_pointer("fs_struct", f"{name}.dentry", place + word)
        _learn_descriptors(tasks, at + word, types)


def _is_place(held: StructureTable, at: int, types: LearnedTypes) -> bool:
    """Return True if there are two paths at an offset: mount and dentry, both of one file system, both times."""
    block, word = types.at("dentry", "d_sb"), held.word
    if block is None:
        return False
    for place in (at, at + 2 * word):
        mount, dentry = held.column(place), held.column(place + word)
        if share(are_pointers(mount, word) & are_pointers(dentry, word)) < NEARLY:
            return False
        system = held.follow(mount, word)
        if share((system == held.follow(dentry, block)) & are_pointers(system, word)) < NEARLY:
            return False
    return True


def _learn_descriptors(tasks: Tasks, at: int, types: LearnedTypes) -> bool:
    """Learn `files`, if that is what lies there, and what leads to the files that a process has open.

    That is a table, which says for how many it has room, and where they are.
    """
    word, inode, path = tasks.shape.word, types.at("file", "f_inode"), types.at("file", "f_path.dentry")
    inside = types.at("dentry", "d_inode")
    pointers = tasks.table.column(at)
    used = distinct(pointers[(pointers != 0) & ~tasks.in_kernel])
    if inode is None or path is None or inside is None or not len(used):
        return False
    held = StructureTable(tasks.table.reader, used.tolist(), 0x80, word)
    found = []
    for place in held.places(word, held.size):
        table = held.column(place)
        if share(are_pointers(table, word)) < NEARLY:
            continue
        room, array = held.follow(table, 0, 4), held.follow(table, word)
        files = distinct(np.concatenate([held.follow(array, word * row) for row in range(3)]))
        files = files[are_pointers(files, word) & (files != np.uint64(_NOTHING))]
        own = held.follow(files, inode)
        agreed = (held.follow(held.follow(files, path), inside) == own) & are_pointers(own, word)
        sound = (room % np.uint64(8 * word) == 0) & (room > 0) & (room < np.uint64(_MOST_DESCRIPTORS))
        if share(sound) >= NEARLY and share(agreed) >= NEARLY:
            found.append(place)
    place_of_table = sole(found)
    if place_of_table is not None:
        types.put_pointer("task_struct", "files", at)
        types.put_pointer("files_struct", "fdt", place_of_table)
        types.put("fdtable", "max_fds", 0, 4)
        types.put_pointer("fdtable", "fd", word)
    return place_of_table is not None


def _learn_made_names(tasks: Tasks, files: StructureTable, types: LearnedTypes) -> None:
    """Learn `d_dname`: pipes, sockets and files in no folder have it as their only function."""
    word, reader = files.word, files.reader
    operations, parent = types.at("dentry", "d_op"), types.at("dentry", "d_parent")
    dentry = types.at("file", "f_path.dentry")
    if operations is None or parent is None or dentry is None:
        return
    places: set[int] = set()
    known: set[int] = set()
    for file in itertools.chain(files.addresses.tolist(), _opened(tasks, types)):
        entry = reader.number(file + dentry, word)
        if entry is None or reader.number(entry + parent, word) != entry:
            continue
        functions = reader.number(entry + operations, word)
        if functions is None or functions in known or functions >> (8 * word - 1) != 1:
            continue
        known.add(functions)
        used = [row for row in range(_DENTRY_FUNCTIONS) if reader.number(functions + row * word, word)]
        if len(used) == 1:
            places.add(used[0])
    if len(places) == 1:
        types.put_pointer("dentry_operations", "d_dname", places.pop() * word)


def _opened(tasks: Tasks, types: LearnedTypes) -> Iterator[int]:
    """Yield addresses of files that processes have open."""
    files, table, array = (
        types.at(*name) for name in (("task_struct", "files"), ("files_struct", "fdt"), ("fdtable", "fd"))
    )
    if files is None or table is None or array is None:
        return
    word, reader = tasks.shape.word, tasks.table.reader
    pointers = tasks.table.column(files)
    for held in distinct(pointers[(pointers != 0) & ~tasks.in_kernel]).tolist():
        descriptors = reader.number(held + table, word)
        first = None if descriptors is None else reader.number(descriptors + array, word)
        for row in range(_DESCRIPTORS):
            file = None if first is None else reader.number(first + row * word, word)
            if file:
                yield file
