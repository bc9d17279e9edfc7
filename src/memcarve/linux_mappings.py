r"""What Linux says of a mapping: as a region, and as the line that /proc/PID/maps has for it.

Whoever knows the members of a line makes the region here: a running process, a table, the kernel's own structures in an
image. Sources: proc_pid_maps(5); how lines are padded, and that a newline in a path becomes ``\012`` and nothing else
is changed: the kernel's fs/proc/task_mmu.c (show_map_vma) and fs/seq_file.c (seq_setwidth, seq_path).
"""

from __future__ import annotations

import re
from typing import NamedTuple

from memcarve.metadata import Region
from memcarve.vocabulary import Kind

HEAP, STACK = "[heap]", "[stack]"
DELETED = " (deleted)"
#: what Linux before 4.5 calls the stacks of threads
_THREAD_STACK = re.compile(r"\[stack:\d{1,10}\]")
_PERMISSIONS = re.compile(r"[r-][w-][x-][ps]")
#: where the name begins, by the bits of the kernel's pointers: 25 + 6 * sizeof(void *)
_NAME_AT = {64: 73, 32: 49}
_NARROW = 32


class Mapping(NamedTuple):
    """The members of a line of /proc/PID/maps; None is unknown.

    `permissions` are four letters (``r-xp``), or three if it is not known whether the mapping is shared; `offset` is
    that in the file, in bytes; `device` major and minor number; `name` what stands at the end of the line, None if
    nothing does.
    """

    start: int
    size: int
    permissions: str | None = None
    offset: int | None = None
    device: tuple[int, int] | None = None
    inode: int | None = None
    name: str | None = None


def region(mapping: Mapping) -> Region:
    """Return a mapping as a region.

    What the kernel calls heap or stack is no file; the exact name of a thread's stack is the `detail`. A private
    mapping of a file is copied page by page as it is written to: `private` is then not known, and the region is one of
    the file all the same. Of what the kernel itself put there (``[vdso]``) it is not known whose it is.
    """
    kind, file, detail = _named(mapping.name)
    mapped = kind == Kind.MAPPED or (mapping.inode is not None and mapping.inode > 0)
    if mapped:
        kind = Kind.MAPPED
    letters = mapping.permissions or ""
    private = False if letters.endswith("s") else None
    if letters.endswith("p") and not mapped and (file is None or file.startswith("[anon")):
        private, kind = True, kind or Kind.PRIVATE
    offset = mapping.offset if mapped else None
    known = Region(mapping.start, mapping.size, mapping.permissions, kind, file, None, private, offset)
    return known._replace(detail=detail, device=mapping.device, inode=mapping.inode)


def _named(name: str | None) -> tuple[str | None, str | None, str | None]:
    """Return kind, file and detail by the name that Linux gives a mapping."""
    if not name:
        return None, None, None
    if name == HEAP:
        return Kind.HEAP, None, None
    if name == STACK or _THREAD_STACK.fullmatch(name):
        return Kind.STACK, None, None if name == STACK else name
    return Kind.MAPPED if name.startswith("/") else None, name, None


def unsaid(row: Region) -> list[str]:
    """Return which members of a line of /proc/PID/maps are not known of a region, in words."""
    found = [] if _PERMISSIONS.fullmatch(row.protection or "") else ["its protection in four letters"]
    if row.inode is None:
        found.append("the inode")
    if row.device is None:
        found.append("the device")
    if row.inode and row.offset is None:
        found.append("the offset in the file")
    return found


def line(row: Region, bits: int) -> str:
    """Return the line that /proc/PID/maps has for a region of which all of it is known, without its end.

    `bits` are those of the kernel's pointers: 64 or 32. A name may hold halves of characters (surrogateescape).
    """
    major, minor = row.device or (0, 0)
    head = (
        f"{row.start:08x}-{row.end:08x} {row.protection} {row.offset or 0:08x} {major:02x}:{minor:02x} "
        f"{row.inode or 0} "
    )
    name = _name(row)
    # the padding ends with a space of its own, however long what stands before it is
    return head if name is None else f"{head.ljust(_NAME_AT[64 if bits > _NARROW else 32] - 1)} {name}"


def _name(row: Region) -> str | None:
    if row.file is not None:
        return row.file.replace("\n", "\\012")
    return {Kind.HEAP: HEAP, Kind.STACK: row.detail or STACK}.get(Kind(row.kind)) if row.kind is not None else None
