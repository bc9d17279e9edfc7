"""Headers and export directories of PE images as they lie in memory.

Source: Microsoft, "PE Format" (learn.microsoft.com/windows/win32/debug/pe-format).
"""

from __future__ import annotations

import itertools
import re
import struct
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from memcarve.errors import AddressError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    #: returns `size` bytes at an address relative to the image, zeros where a page is not in memory
    Peek = Callable[[int, int], bytes]
    #: returns exactly `size` bytes at an address relative to the image; raises AddressError where one is not there
    Read = Callable[[int, int], bytes]

AMD64 = 0x8664
MZ = b"MZ"
SIGNATURE = b"PE\0\0"
PAGE = 4096
#: where e_lfanew may lead: multiples of four so far down that everything up to DllCharacteristics is in the page
LOWEST, HIGHEST = 4, PAGE - 96
#: how far down a signature is looked for where e_lfanew is gone
SEARCHED = 0x400

_PE32, _PE32_PLUS = 0x10B, 0x20B
#: the optional header's magic by machine: i386, ARM, THUMB, ARMNT, AMD64, ARM64
MAGICS = {0x14C: _PE32, 0x1C0: _PE32, 0x1C2: _PE32, 0x1C4: _PE32, AMD64: _PE32_PLUS, 0xAA64: _PE32_PLUS}
_MOST_NAMES = 1 << 16
_MOST_TEXT = 1 << 22  # bytes of names that are read in one go
_LONGEST_NAME = 512
_LFANEW, _DOS_HEADER = 0x3C, 0x40
_PE = SIGNATURE.rstrip(b"\0")
_SIGNED = re.compile(  # lookahead: places may overlap
    b"(?=%b(?:%b))"
    % (
        SIGNATURE,
        b"|".join(
            re.escape(struct.pack("<H", machine)) + b".{18}" + re.escape(struct.pack("<H", magic))
            for machine, magic in MAGICS.items()
        ),
    ),
    re.DOTALL,
)
_MOST_PLACES = 4
_BLANK = bytes(_DOS_HEADER - len(MZ))
_HEADER = struct.Struct("<4sHHI8xHHH")  # signature, file header, magic
#: from SectionAlignment on: it, FileAlignment, SizeOfImage, SizeOfHeaders, Subsystem, DllCharacteristics
_SIZES = struct.Struct("<II16xII4xHH")
_SIZES_AT, _ENTRY_AT = 24 + 32, 24 + 16
_BASES = {_PE32: struct.Struct("<24x28xI"), _PE32_PLUS: struct.Struct("<24x24xQ")}
_DIRECTORIES = {_PE32: 96, _PE32_PLUS: 112}  # in the optional header; their number stands before them
_SECTION = struct.Struct("<8x4I12xI")
_PERMISSIONS = ("---", "--x", "r--", "r-x", "-w-", "-wx", "rw-", "rwx")  # by the upper bits of Characteristics
_EXECUTABLE_IMAGE = 2
_MOST_SECTIONS = 96  # that Windows loads
_MOST_DIRECTORIES = 16
_LARGEST = 1 << 31
_EXPORTS, _DEBUG = 0, 6
_EXPORT_HEAD = struct.Struct("<I8xI4xII3I")
_DEBUG_ENTRY = struct.Struct("<12xIIII")
_MOST_DEBUG = 16
_CODEVIEW = 2
_PDB = {b"RSDS": 24, b"NB10": 16}  # where the path is


class Headers(NamedTuple):
    """What the headers say of an image: sizes in bytes, `exports` as (relative address, size)."""

    machine: int
    timestamp: int
    size_of_image: int
    exports: tuple[int, int]


def headers(data: bytes) -> Headers | None:
    """Read the headers of a 64-bit image from its first page; None where they are not sound."""
    if len(data) < 0x40 or data[:2] != b"MZ":  # noqa: PLR2004
        return None
    place = int.from_bytes(data[0x3C:0x40], "little")
    if place + 0x90 > len(data) or data[place : place + 4] != b"PE\0\0":
        return None
    machine, _, timestamp = struct.unpack_from("<HHI", data, place + 4)
    magic = struct.unpack_from("<H", data, place + 24)[0]
    if magic != _PE32_PLUS:
        return None
    size, count = (struct.unpack_from("<I", data, place + 24 + at)[0] for at in (56, 108))
    exports = struct.unpack_from("<II", data, place + 24 + 112) if count else (0, 0)
    return Headers(machine, timestamp, size, exports)


def export_name(peek: Peek, directory: tuple[int, int]) -> bytes:
    """Return the name that an export directory gives its image; nothing where it cannot be read."""
    at = int.from_bytes(peek(directory[0] + 12, 4), "little")
    return _text(peek(at, _LONGEST_NAME), 0)


def exported(peek: Peek, directory: tuple[int, int], wanted: Collection[bytes]) -> dict[bytes, int]:
    """Return the relative addresses of those of the `wanted` names that an image exports.

    What cannot be read is left out: also what has the ordinal 0 like others, as zeros stand for what is not in memory.
    """
    head = peek(directory[0], 40)
    functions, names, functions_at, names_at, ordinals_at = struct.unpack_from("<5I", head, 20)
    names, functions = min(names, _MOST_NAMES), min(functions, _MOST_NAMES)
    places = np.frombuffer(peek(names_at, 4 * names), "<u4")
    ordinals = np.frombuffer(peek(ordinals_at, 2 * names), "<u2")
    addresses = np.frombuffer(peek(functions_at, 4 * functions), "<u4")
    there = places[places != 0]
    lost = np.count_nonzero(ordinals == 0) > 1
    found: dict[bytes, int] = {}
    if not len(there) or not len(addresses):
        return found
    low, high = int(there.min()), int(there.max()) + _LONGEST_NAME
    text = peek(low, high - low) if high - low <= _MOST_TEXT else None
    for place, ordinal in zip(places.tolist(), ordinals.tolist(), strict=True):
        if not place or ordinal >= len(addresses) or (lost and not ordinal):
            continue
        symbol = _text(text, place - low) if text is not None else _text(peek(place, _LONGEST_NAME), 0)
        if symbol in wanted and addresses[ordinal]:
            found.setdefault(symbol, int(addresses[ordinal]))
    return found


class Section(NamedTuple):
    """A section: relative address and size in memory (bytes), where it lies in the file, and as ``r-x``."""

    address: int
    size: int
    offset: int
    stored: int
    permissions: str


class Image(NamedTuple):
    """What an image's headers say; numbers are as they stand there.

    `place` is where the signature lies in the image, `directories` where the data directories do. `sections` are empty
    where their headers are not sound, and where sections have no pages of their own (SectionAlignment below a page:
    such an image is mapped as a whole). `wiped` names the marks that are not as they must be: ``"MZ"``, ``"e_lfanew"``,
    ``"PE signature"``, ``"optional header's magic"``.
    """

    place: int
    machine: int
    timestamp: int
    characteristics: int
    subsystem: int
    traits: int
    base: int
    size: int
    directories: int
    sections: tuple[Section, ...]
    wiped: tuple[str, ...]


def image(page: bytes) -> Image | None:
    r"""Read an image's headers from its first page, as much of it as there is; None where there are none.

    Nothing behind the first 4096 bytes is looked at. With ``MZ``, an e_lfanew that is a multiple of four, and
    ``PE\0\0`` where it leads, all else may be wrong. Where a mark is wiped, all else must be right, see `_is_sound`:
    where e_lfanew leads; or, where all of the DOS header is zeros but maybe ``MZ``, at one of the signatures that
    `bare_places` finds, unless another DOS header leads there.
    """
    if len(page) < _DOS_HEADER:
        return None
    place = int.from_bytes(page[_LFANEW:_DOS_HEADER], "little")
    if not place:
        blank = page.startswith((MZ, bytes(len(MZ)))) and page.startswith(_BLANK, len(MZ))
        return _without_dos_header(page) if blank else None
    if not LOWEST <= place <= HIGHEST or place % 4:
        return None
    return _image_at(page, place, () if page.startswith(MZ) else ("MZ",))


def image_name(read: Read, found: Image) -> str | None:
    """Return the name that an image's export directory gives it, else that of its PDB; None where there is none.

    The image may lie there as it is mapped, or as it is in its file. The name may hold anything; bytes that are no
    UTF-8 are escaped.
    """
    try:
        count = int.from_bytes(read(found.directories - 4, 4), "little")
        rows = read(found.directories, 8 * min(count, _MOST_DIRECTORIES))
    except AddressError:
        return None
    directories = [*struct.iter_unpack("<II", rows)]
    for look, number in ((_own_name, _EXPORTS), (_pdb_name, _DEBUG)):
        if number < len(directories) and directories[number][0]:
            for in_file in (False, True):
                name = look(read, found, directories[number], in_file)
                if name:
                    return name.decode("utf-8", "backslashreplace")
    return None


def string_at(read: Read, place: int, longest: int = _LONGEST_NAME) -> bytes | None:
    """Return the string at `place`; None where a byte of it is not there, or no zero follows within `longest`."""
    data = b""
    try:
        while len(data) < longest:
            at = place + len(data)
            data += read(at, min(PAGE - at % PAGE, longest - len(data)))  # the page behind may not be there
            if b"\0" in data:
                return data[: data.index(b"\0")]
    except AddressError:
        pass
    return None


def bare_places(front: bytes) -> list[int]:
    """Return where signatures lie in the first 0x400 bytes of a page that a known machine and its magic follow.

    Only the first four: a hostile page may hold many.
    """
    if _PE not in front:  # this is quick also where there are zeros
        return []
    found = (match.start() for match in _SIGNED.finditer(front, _DOS_HEADER, SEARCHED))
    return [*itertools.islice((place for place in found if place % 4 == 0), _MOST_PLACES)]


def _without_dos_header(page: bytes) -> Image | None:
    wiped = ("e_lfanew",) if page.startswith(MZ) else ("MZ", "e_lfanew")
    for place in bare_places(page):
        found = _image_at(page, place, wiped)
        if found is not None and not _is_led_to(page, place):
            return found
    return None


def _is_led_to(page: bytes, place: int) -> bool:
    """Say whether a DOS header within the page leads to a signature: then a file begins there, not at the page."""
    raw = np.frombuffer(page, np.uint8, place + _DOS_HEADER)
    begins = 1 + np.flatnonzero((raw[1:place] == MZ[0]) & (raw[2 : place + 1] == MZ[1]))
    leads = raw[begins[:, None] + np.arange(_LFANEW, _DOS_HEADER)].view("<u4").reshape(-1)
    return bool((leads == place - begins).any())


def _image_at(page: bytes, place: int, wiped: tuple[str, ...]) -> Image | None:
    """Return what the headers say whose signature lies at `place`; `wiped` is what is already known to be."""
    if place > min(HIGHEST, len(page) - (PAGE - HIGHEST)):
        return None
    signature, machine, count, timestamp, length, characteristics, magic = _HEADER.unpack_from(page, place)
    if signature != SIGNATURE:
        wiped = (*wiped, "PE signature")
    if wiped and MAGICS.get(machine) != magic:
        return None
    kind = magic
    if magic not in _BASES:
        kind = MAGICS.get(machine, _PE32)
        wiped = ("optional header's magic",)
    alignment, stored, size, head, subsystem, traits = _SIZES.unpack_from(page, place + _SIZES_AT)
    directories = place + 24 + _DIRECTORIES[kind]
    sections = _sections(page, place + 24 + length, count, size) if alignment >= PAGE else ()
    found = Image(
        place,
        machine,
        timestamp,
        characteristics,
        subsystem,
        traits,
        _BASES[kind].unpack_from(page, place)[0],
        size,
        directories,
        sections,
        wiped,
    )
    if wiped and magic == kind:
        given = int.from_bytes(page[directories - 4 : directories], "little")
        entry = int.from_bytes(page[place + _ENTRY_AT : place + _ENTRY_AT + 4], "little")
        room = (place + 24 + length - directories) // 8
        if not (given <= min(room, _MOST_DIRECTORIES) and _is_sound(found, alignment, stored, head, entry)):
            return None
    return found


def _is_sound(found: Image, alignment: int, stored: int, head: int, entry: int) -> bool:
    """Say whether numbers are as the loader wants them: those that a header without its marks is known by.

    Besides: the machine is known, and the optional header's magic is that machine's; the data directories fit into the
    optional header. `alignment`, of sections, is a page at least, or `found` had no sections.
    """
    return bool(
        found.characteristics & _EXECUTABLE_IMAGE
        and found.sections
        and alignment & (alignment - 1) == 0
        and 0 < stored <= alignment
        and stored & (stored - 1) == 0
        and 0 < head <= found.size <= _LARGEST
        and entry < found.size
    )


def _sections(page: bytes, place: int, count: int, size: int) -> tuple[Section, ...]:
    """Return the sections of an image of `size` bytes; none where they are too many, not in the page, out of order."""
    if not 0 < count <= _MOST_SECTIONS or place + 40 * count > min(len(page), PAGE):
        return ()
    found, end = [], 0
    limit = size + -size % PAGE
    for virtual, address, stored, offset, flags in _SECTION.iter_unpack(page[place : place + 40 * count]):
        if address % PAGE or address < end:
            return ()
        end = address + (virtual or stored)
        if end > limit:
            return ()
        found.append(Section(address, end - address, offset, stored, _PERMISSIONS[flags >> 29]))
    return tuple(found)


def _located(found: Image, address: int, in_file: bool) -> int | None:  # noqa: FBT001
    """Return where a relative address lies: the same, or its offset in the file; None where it lies in no section."""
    if not in_file:
        return address
    for section in found.sections:
        if section.address <= address < section.address + section.stored:
            return section.offset + address - section.address
    return None


def _own_name(read: Read, found: Image, directory: tuple[int, int], in_file: bool) -> bytes | None:  # noqa: FBT001
    place = _located(found, directory[0], in_file)
    if place is None:
        return None
    try:
        flags, name, functions, names, *tables = _EXPORT_HEAD.unpack(read(place, _EXPORT_HEAD.size))
    except AddressError:
        return None
    inside = all(address < found.size for address in (name, *tables))
    if flags or not name or not inside or max(functions, names) > _MOST_NAMES:
        return None  # another thing lies there
    at = _located(found, name, in_file)
    return None if at is None else string_at(read, at)


def _pdb_name(read: Read, found: Image, directory: tuple[int, int], in_file: bool) -> bytes | None:  # noqa: FBT001
    place = _located(found, directory[0], in_file)
    count = min(directory[1] // 28, _MOST_DEBUG)
    if place is None:
        return None
    try:
        for kind, size, address, offset in _DEBUG_ENTRY.iter_unpack(read(place, 28 * count)):
            at = offset if in_file else address
            skip = _PDB.get(read(at, 4)) if kind == _CODEVIEW and size > min(_PDB.values()) and at else None
            if skip is not None:
                path = string_at(read, at + skip)
                return path and path.replace(b"/", b"\\").rpartition(b"\\")[2]
    except AddressError:
        pass
    return None


def _text(data: bytes, place: int) -> bytes:
    end = data.find(b"\0", place, place + _LONGEST_NAME)
    return data[place:end] if end >= 0 else b""
