"""What a row of a table says: a region, a module, a thread."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from memcarve import linux_mappings
from memcarve.formats.listing.listing_kinds import DLLLIST, LINUX_MAPS, MAC_MAPS, PROC_MAPS, THREADS, VADINFO, VADWALK
from memcarve.intervals import TOP
from memcarve.metadata import Module, Region, Thread
from memcarve.vocabulary import Kind

if TYPE_CHECKING:
    from collections.abc import Callable

    from memcarve.formats.listing.listing_kinds import Cells

_NARROW = 32
#: what stands for a file's name if there is none
_ANONYMOUS = "Anonymous Mapping"
_LOADER = "PAGE_EXECUTE_WRITECOPY"


class UnknownError(Exception):
    """A row does not say what is needed of it: what lacks could not be read when the table was made."""


class DoubtfulError(Exception):
    """A row says what cannot be."""


def reader(name: str) -> Callable[[Cells, int], Region | Module | Thread]:
    """Return what turns the cells of a table's row into what they say.

    It takes the cells and how many bits addresses have, and raises UnknownError or DoubtfulError.
    """
    return _READERS[name]


def canonical(address: int, bits: int) -> int:
    """Extend the highest of an address's `bits` through those above it, if they are not there yet.

    A 32-bit address has none above.
    """
    high = bits > _NARROW and address >> (bits - 1) == 1
    return address | (TOP - (1 << bits)) if high else address


def _vad(cells: Cells, bits: int) -> Region:
    """Return the region of a row of windows.vadinfo; `End VPN` is its last address.

    What is not private is a section. Of a file that is an image if all of it began as PAGE_EXECUTE_WRITECOPY: so the
    loader maps programs and libraries, whose parts are then protected one by one, while data is mapped with what is
    asked for, and what reads or writes a file never asks for that. Without a file it is memory of the paging file.
    """
    start, size = _range(cells, "Start VPN", "End VPN", bits, inclusive=True)
    file, protection = _text(cells, "File"), _text(cells, "Protection")
    flag = _number(cells, "PrivateMemory")
    private = None if flag is None else flag != 0
    kind = None
    if private:
        kind = Kind.PRIVATE
    elif file is not None and protection is not None and _LOADER in protection.split("|"):
        kind = Kind.IMAGE
    elif private is False or file is not None:
        kind = Kind.MAPPED
    return Region(start, size, protection, kind, file, _text(cells, "Tag"), private)


def _vad_node(cells: Cells, bits: int) -> Region:
    """Return the region of a row of windows.vadwalk: `End` is its last address."""
    return Region(*_range(cells, "Start", "End", bits, inclusive=True), tag=_text(cells, "Tag"))


def _linux(cells: Cells, bits: int) -> Region:
    """Return the region of a row of linux.proc.Maps, or of a line of /proc/PID/maps; `End` is the address after it.

    Only the latter says whether a mapping is shared (`s`) or private (`p`).
    """
    name, major, minor = _text(cells, "File Path"), _number(cells, "Major"), _number(cells, "Minor")
    return linux_mappings.region(
        linux_mappings.Mapping(
            *_range(cells, "Start", "End", bits, inclusive=False),
            _text(cells, "Flags"),
            _number(cells, "PgOff"),
            None if major is None or minor is None else (major, minor),
            _number(cells, "Inode"),
            None if name == _ANONYMOUS else name,
        )
    )


def _mac(cells: Cells, bits: int) -> Region:
    """Return the region of a row of mac.proc_maps.Maps: `End` is the address after it; names are as on Linux."""
    name = _text(cells, "Map Name")
    start, size = _range(cells, "Start", "End", bits, inclusive=False)
    return linux_mappings.region(
        linux_mappings.Mapping(start, size, _text(cells, "Protection"), name=None if name == _ANONYMOUS else name)
    )


def _module(cells: Cells, bits: int) -> Module:
    """Return the module of a row of windows.dlllist; such a list lies in the process's own memory, open to forgery."""
    start, size = _number(cells, "Base"), _number(cells, "Size")
    if start is None:
        raise UnknownError("its base could not be read")
    start = canonical(start, bits)
    if size is not None and start + size > TOP:
        raise UnknownError(f"the module at 0x{start:x} of 0x{size:x} bytes ends beyond the last address")
    return Module(start, size, _text(cells, "Name"), _text(cells, "Path"))


def _thread(cells: Cells, bits: int) -> Thread:
    """Return the thread of a row of windows.threads or windows.thrdscan.

    The address that was given to CreateThread counts; `StartAddress` is that of the system's code which calls it.
    """
    tid = _number(cells, "TID")
    if tid is None:
        raise UnknownError("its id could not be read")
    begin = _number(cells, "Win32StartAddress")
    begin = _number(cells, "StartAddress") if begin is None else begin
    return Thread(tid, begin=None if begin is None else canonical(begin, bits))


def _range(cells: Cells, first: str, last: str, bits: int, *, inclusive: bool) -> tuple[int, int]:
    """Return start and size (bytes) of a row's addresses."""
    start, end = _number(cells, first), _number(cells, last)
    if start is None or end is None:
        raise UnknownError("its addresses could not be read")
    size = end - start + inclusive
    if size == 0 and not inclusive:
        raise UnknownError("the region is of size 0")
    if size <= 0:
        raise DoubtfulError(f"the region at 0x{start:x} ends at 0x{end:x}")
    if size == TOP:
        raise DoubtfulError("the region is all of the address space, as none can be")
    start = canonical(start, bits)
    if start + size > TOP:
        raise DoubtfulError(f"the region at 0x{start:x} of 0x{size:x} bytes ends beyond the last address")
    return start, size


def _number(cells: Cells, column: str) -> int | None:
    return cast("int | None", cells.get(column))


def _text(cells: Cells, column: str) -> str | None:
    return cast("str | None", cells.get(column))


_READERS: dict[str, Callable[[Cells, int], Region | Module | Thread]] = {
    VADINFO: _vad,
    VADWALK: _vad_node,
    LINUX_MAPS: _linux,
    PROC_MAPS: _linux,
    MAC_MAPS: _mac,
    DLLLIST: _module,
    THREADS: _thread,
}
