"""Where a Windows x64 kernel keeps what it knows of a process: offsets in its EPROCESS.

They come from the kernel's own exported accessors, tiny functions whose machine code holds the offset. Members without
an accessor, or whose accessor cannot be read, come from a table of kernels, by build number
(``windows_x64_layouts.json``). Its first entries were read from Microsoft's symbols of the 213 kernels that they name.
Entries with an ``origin`` are for builds that these lack: facts read from public symbol files, gathered by others,
which do not say what a VAD is like. What comes from the table is checked against the memory, and what no table has is
learned there (``learning``).
"""

from __future__ import annotations

import json
import re
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from memcarve.images.windows.kernel import Version

    Offsets = dict[str, int | str]

#: Pcb is the first member; DirectoryTableBase has been here in every 64-bit Windows
ROOT = 0x28
#: bytes of ImageFileName
NAME = 15
SYSTEM = 4  # the id of the System process
RUNNING = 0x103  # STATUS_PENDING: what ExitStatus says until a process ends

#: accessors by member; the code that each may consist of, with the offset in it
_LOAD = rb"\x48\x8b\x81(....)\xc3"  # mov rax, [rcx+offset]; ret
_LOAD_32 = rb"\x8b\x81(....)\xc3"  # mov eax, [rcx+offset]; ret
_ADDRESS = rb"\x48\x8d\x81(....)\xc3"  # lea rax, [rcx+offset]; ret
_LOAD_TWICE = rb"\x48\x8b\x81(....)\x48\x85\xc0\x74\x03\x48\x8b\x00\xc3"  # and the first field behind it, if any
ACCESSORS = {
    "pid": (b"PsGetProcessId", _LOAD),
    "name": (b"PsGetProcessImageFileName", _ADDRESS),
    "peb": (b"PsGetProcessPeb", _LOAD),
    "parent": (b"PsGetProcessInheritedFromUniqueProcessId", _LOAD),
    "section": (b"PsGetProcessSectionBaseAddress", _LOAD),
    "wow64": (b"PsGetProcessWow64Process", _LOAD + rb"|" + _LOAD_TWICE),
    "create": (b"PsGetProcessCreateTimeQuadPart", _LOAD),
    "exit_status": (b"PsGetProcessExitStatus", _LOAD_32),
}
_LONGEST_CODE = 24
_LARGEST_OFFSET = 0x2000

_MEMBERS = {
    "pid": "UniqueProcessId",
    "name": "ImageFileName",
    "peb": "Peb",
    "parent": "InheritedFromUniqueProcessId",
    "section": "SectionBaseAddress",
    "create": "CreateTime",
    "exit": "ExitTime",
}
#: builds that carry a kernel file of an older number
_FILES = {
    **dict.fromkeys((19042, 19043, 19044, 19045), 19041),
    18363: 18362,
    22631: 22621,
    26200: 26100,
}
_LONGEST_MEMBER = 16  # bytes: a list's two links, a name


class Layout(NamedTuple):
    """Offsets in an EPROCESS, in bytes; None if unknown. ActiveProcessLinks follows UniqueProcessId directly."""

    pid: int
    name: int
    parent: int | None = None
    create: int | None = None
    exit: int | None = None
    exit_status: int | None = None
    section: int | None = None
    peb: int | None = None
    wow64: int | None = None

    @property
    def links(self) -> int:
        """The offset of ActiveProcessLinks."""
        return self.pid + 8

    @property
    def end(self) -> int:
        """The end of the last member that is known."""
        return max(self.links, *(offset for offset in self if offset is not None)) + _LONGEST_MEMBER

    def only(self, members: Iterable[str]) -> Layout:
        """Return the layout with only these members, and those that every layout has."""
        return Layout(**{name: at for name, at in self._asdict().items() if name in {"pid", "name", *members}})


class Found(NamedTuple):
    """Layouts to try, and in words where they come from; `own`: the table has them for the kernel's build."""

    layouts: list[Layout]
    source: str
    own: bool


def is_id(number: int) -> bool:
    """Return True if a process or a thread may have this id."""
    return 0 < number < 1 << 32 and number % 4 == 0


def decode(code_of: Callable[[bytes], bytes]) -> dict[str, int]:
    """Return the offsets that the accessors' code holds; `code_of` returns the code of an export, or nothing.

    Only code that is recognised to the last byte counts.
    """
    found = {}
    for member, (export, pattern) in ACCESSORS.items():
        match = re.match(pattern, code_of(export)[:_LONGEST_CODE], re.DOTALL)
        if match:
            offset = int.from_bytes(next(group for group in match.groups() if group is not None), "little")
            if ROOT < offset < _LARGEST_OFFSET:
                found[member] = offset
    return found if len(set(found.values())) == len(found) else {}


def layouts(version: Version, decoded: dict[str, int]) -> Iterator[Found]:
    """Yield the layouts that a kernel may have, the most likely first.

    They follow from what its accessors say (perhaps nothing), from its build, and finally from all known kernels. The
    caller must check that they hold up.
    """
    same_build = [layout for builds, layout, _ in _table() if _is_build(builds, version)]
    every = [layout for _, layout, _ in _table()]
    if {"pid", "name"} <= decoded.keys():
        # entries of the table that agree with all that is known may fill in the rest
        source = f"the accessors that the kernel exports ({len(decoded)} of {len(ACCESSORS)})"
        fitting = [layout for layout in same_build if _agrees(layout, decoded)]
        own = bool(fitting)
        fitting = fitting or [layout for layout in every if _agrees(layout, decoded)]
        filled = [
            Layout(**{**{name: at for name, at in layout._asdict().items() if at is not None}, **decoded})
            for layout in fitting
        ]
        yield Found(list(dict.fromkeys([*filled, Layout(**decoded)] if not own else filled)), source, own)
    if same_build:
        yield Found(list(dict.fromkeys(same_build)), f"the table of known kernels, by build {version}", own=True)
    yield Found(list(dict.fromkeys(every)), "the table of known kernels, by which of them fits", own=False)


def entries(version: Version, layout: Layout) -> tuple[list[Offsets], list[Offsets]]:
    """Return what the table says of all structures of the kernels that agree with a layout: its build's, others'."""
    known = {member: offset for member, offset in layout._asdict().items() if offset is not None}
    own: list[Offsets] = []
    others: list[Offsets] = []
    for builds, other, offsets in _table():
        if _agrees(other, known):
            (own if _is_build(builds, version) else others).append(offsets)
    return own, others


def every_entry() -> list[Offsets]:
    """Return what the table says of all structures of all kernels."""
    return [offsets for _, _, offsets in _table()]


def agreeing(layout: Layout) -> list[Layout]:
    """Return the layouts of all known kernels that agree with a layout, as far as it is known."""
    known = {member: offset for member, offset in layout._asdict().items() if offset is not None}
    return [other for _, other, _ in _table() if _agrees(other, known)]


def _agrees(layout: Layout, decoded: dict[str, int]) -> bool:
    known = layout._asdict()
    return all(known[member] in (None, offset) for member, offset in decoded.items())


def _is_build(builds: Iterable[tuple[int, int, int]], version: Version) -> bool:
    if version.build is None:
        return any(build[:2] == (version.major, version.minor) for build in builds)
    return (version.major, version.minor, _FILES.get(version.build, version.build)) in builds


@cache
def _table() -> list[tuple[list[tuple[int, int, int]], Layout, Offsets]]:
    """Return for each entry of the table the builds, the layout of an EPROCESS, and offsets in all structures."""
    text = resources.files("memcarve.images.windows").joinpath("windows_x64_layouts.json").read_text(encoding="utf-8")
    table = []
    for entry in json.loads(text):
        offsets = entry["offsets"]
        wow64 = offsets.get("_EPROCESS.Wow64Process", offsets.get("_EPROCESS.WoW64Process"))
        members = {member: offsets[f"_EPROCESS.{name}"] for member, name in _MEMBERS.items()}
        builds = []
        for build in entry["builds"]:
            major, minor, number = map(int, build.split("."))
            builds.append((major, minor, number))
        table.append((builds, Layout(**members, wow64=wow64), offsets))
    return table
