"""Programs and libraries as they lie in memory, and how a file is made of one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from memcarve.errors import AddressError
from memcarve.intervals import PAGE, TOP
from memcarve.vocabulary import Layout

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    #: returns exactly `size` bytes at an address relative to the module; raises AddressError if one is not there
    Read = Callable[[int, int], bytes]

_LONGEST_NAME = 512
#: what lies in memory as it lies in its file needs no layout: it was read or mapped, not loaded
AS_IT_LIES = "as it lies"
WHY_AS_IT_LIES = "it lies in memory as in its file"


class Section(NamedTuple):
    """What of a program is loaded together: a section of a PE image, what a program header of ELF loads.

    It has `size` bytes at `address`, relative to the image, and `stored` bytes at `offset` of the file; `permissions`
    are as ``r-x``.
    """

    address: int
    size: int
    offset: int
    stored: int
    permissions: str


@dataclass(frozen=True)
class Image:
    """What the headers of a program or library say; numbers are as they stand there.

    It wants to lie at `base` and takes `size` bytes in memory, None if nothing is known of that. `sections` are in
    order, and empty if their headers are not sound. `wiped` names the marks that are not as they must be.
    """

    machine: int
    base: int
    size: int | None
    sections: tuple[Section, ...]
    wiped: tuple[str, ...]


class MappedModule(NamedTuple):
    """A module in memory; None is not known.

    It begins at `start`; `size` in bytes is what a list or the system says, and nothing of it lies at `end` or behind:
    there the mapping ends that it begins in. `sources` say how it was found: lists that name it, and ``"header"``.
    `loaded` says that a list or the system has it as a program; else it may as well be a file that was read. `header`
    is what its header says, ready for JSON; None if there is none.
    """

    start: int
    size: int | None = None
    end: int | None = None
    name: str | None = None
    path: str | None = None
    sources: Sequence[str] = ()
    loaded: bool = False
    header: Mapping[str, Any] | None = None

    def room(self, size: int) -> int:
        """Return how many of `size` bytes lie before the mapping's end, or that of the address space."""
        return max(min(size, (TOP if self.end is None else self.end) - self.start), 0)


class Part(NamedTuple):
    """`size` bytes at `address`, relative to the module, that go to `offset` of the file; None: they are not in it.

    `name` and `permissions` (as ``r-x``) are what a section's header says; None for what no header speaks of.
    """

    name: str | None
    address: int
    size: int
    offset: int | None
    permissions: str | None = None


class Change(NamedTuple):
    """In the file the bytes at `offset` are `new` in place of `old`, which memory holds; `field` says what they are."""

    field: str
    offset: int
    old: bytes
    new: bytes


class Plan(NamedTuple):
    """A file of `size` bytes: `parts` in order of addresses, which share no byte of the file; all else in it is zeros.

    `layout` is one of vocabulary.Layout, or AS_IT_LIES; `why` says in words why it is not the one that was asked for.
    """

    layout: str
    size: int
    parts: tuple[Part, ...]
    changes: tuple[Change, ...] = ()
    why: str | None = None


def plan_memory(
    module: MappedModule, size: int | None = None, sections: Sequence[Part] = (), why: str | None = None
) -> Plan:
    """Return the file that holds a module as it is mapped, up to the end of its mapping.

    It is as large as its header says (`size`), or a list if that says more. `sections` are not yet in any file.
    """
    room = module.room(max(module.size or 0, size or 0))
    parts = [part._replace(offset=part.address) for part in sections]
    return Plan(Layout.MEMORY, room, between(parts, room, in_file=True), why=why)


def between(sections: Sequence[Part], size: int, *, in_file: bool) -> tuple[Part, ...]:
    """Return sections in order, as far as they lie in `size` bytes, and parts without a name for what lies between.

    The latter are in the file at their address, if they are in it at all.
    """
    found: list[Part] = []
    done = 0
    for part in sorted(sections, key=lambda part: (part.address, part.size)):
        begin, end = max(part.address, done), min(part.address + part.size, size)
        if begin >= end:
            continue
        if begin > done:
            found.append(Part(None, done, begin - done, done if in_file else None))
        offset = None if part.offset is None else part.offset + begin - part.address
        found.append(part._replace(address=begin, size=end - begin, offset=offset))
        done = end
    if done < size:
        found.append(Part(None, done, size - done, done if in_file else None))
    return tuple(found)


def offset_in_file(parts: Sequence[Part], address: int, size: int) -> int | None:
    """Return where `size` bytes at a relative address lie in the file; None if they are not in it in one piece."""
    for part in parts:
        if part.offset is not None and part.address <= address <= part.address + part.size - size:
            return part.offset + address - part.address
    return None


def up(value: int, alignment: int = PAGE) -> int:
    """Return the first multiple of `alignment` that is not below `value`."""
    return value + -value % alignment


def string_at(read: Read, place: int) -> bytes | None:
    """Return the string at `place`; None if a byte of it is not there, or no zero follows within 512 bytes."""
    data = b""
    try:
        while len(data) < _LONGEST_NAME:
            at = place + len(data)
            data += read(at, min(PAGE - at % PAGE, _LONGEST_NAME - len(data)))  # the page behind may not be there
            if b"\0" in data:
                return data[: data.index(b"\0")]
    except AddressError:
        pass
    return None
