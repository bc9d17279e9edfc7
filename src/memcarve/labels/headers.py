"""PE and ELF headers in memory: where they may be, what they say, and the file's name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from memcarve.errors import AddressError
from memcarve.formats.programs import elf, pe
from memcarve.intervals import PAGE, TOP

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from memcarve.formats.programs.mapped_module import Section

    #: returns exactly `size` bytes at an address; raises AddressError if one is not there
    Read = Callable[[int, int], bytes]

ZEROS = bytes(PAGE)

_MACHINES = {
    "PE": {0x8664: "x64", 0x14C: "x86", 0xAA64: "arm64", 0x1C0: "arm", 0x1C2: "arm", 0x1C4: "arm"},
    "ELF": {62: "x64", 3: "x86", 183: "arm64", 40: "arm"},
}
_ELF_KINDS = {1: "rel", 2: "exec", 3: "dyn", 4: "core"}


class Header(NamedTuple):
    """A PE or ELF header at `address`; None is not known.

    `format` is ``"PE"`` or ``"ELF"``. `machine` is ``x64``, ``x86``, ``arm64``, ``arm``, or the number in hex. `kind`
    of a PE image is ``dll``, ``driver``, ``efi``, ``native`` (a driver, or one of the few programs that need no Windows
    subsystem) or ``exe``; of ELF ``exec``, ``dyn`` (library or position-independent program), ``rel``, ``core``, or the
    number in hex. `size` is what the image takes in memory by its own account, in bytes; `timestamp` is what stands
    there, seconds since 1970 or a hash. `sections` (of ELF: what is loaded) are (address, size, permissions as
    ``r-x``), none if their headers are not sound. `wiped` says in words which marks are gone.
    """

    address: int
    format: str
    machine: str
    kind: str | None
    size: int | None
    timestamp: int | None
    sections: tuple[tuple[int, int, str], ...]
    wiped: str | None

    def members(self) -> dict[str, Any]:
        """Return what is known, ready for JSON."""
        found = self._asdict()
        found["address"] = f"0x{self.address:x}"
        found["sections"] = [
            {"address": f"0x{address:x}", "size": size, "permissions": permissions}
            for address, size, permissions in self.sections
        ]
        return {name: value for name, value in found.items() if value is not None and value != []}


def parse_header(address: int, page: bytes) -> Header | None:
    """Return the header that begins at `address`, whose bytes are `page`; None if there is none.

    The first 4096 bytes are looked at, fewer if there are no more. `formats.pe.image` and `formats.elf.image` say
    what must be right in them.
    """
    found = pe.image(page) or elf.image(page)
    if found is None:
        return None
    timestamp: int | None = None
    if isinstance(found, pe.Image):
        kind, timestamp, name = pe.kind_of(found, address), found.timestamp, "PE"
    else:
        kind, name = _ELF_KINDS.get(found.kind, f"0x{found.kind:04x}"), "ELF"
    machine = _MACHINES[name].get(found.machine, f"0x{found.machine:04x}")
    wiped = " and ".join(found.wiped) or None
    return Header(address, name, machine, kind, found.size, timestamp, _sections(address, found.sections), wiped)


def may_begin(view: memoryview, at: int, end: int) -> bool:
    """Return True if a header may begin at `at` of a block that is looked at up to `end`; 64 bytes are there at least.

    That is so of everything that `parse_header` finds, and of next to nothing else.
    """
    return elf.may_begin(view, at) or pe.may_begin(view, at, end)


def name_of(read: Read, header: Header) -> str | None:
    """Return a file's name according to itself; None if it has none, or that page is not there.

    That is the name in a PE's export directory, else that of its PDB; of ELF DT_SONAME. It may hold anything. Reads
    some hundred bytes in a few places. Raises what `read` raises, but not AddressError.
    """
    page = _there(read, header.address)

    def near(place: int, size: int) -> bytes:
        return read(header.address + place, size)

    if header.format == "PE":
        found = pe.image(page)
        return None if found is None else pe.image_name(near, found)
    program = elf.image(page)
    return None if program is None else elf.image_name(near, program, header.address)


def _there(read: Read, address: int) -> bytes:
    """Return the bytes of the page at `address`, as many as are there."""
    try:
        return read(address, PAGE)
    except AddressError as error:
        size = error.address - address
    try:
        return read(address, size) if 0 < size < PAGE else b""
    except AddressError:
        return b""


def _sections(address: int, rows: Sequence[Section]) -> tuple[tuple[int, int, str], ...]:
    """Return sections by their addresses; none if the image would end beyond the address space."""
    if not rows or address + rows[-1].address + rows[-1].size > TOP:
        return ()
    return tuple((address + row.address, row.size, row.permissions) for row in rows)
