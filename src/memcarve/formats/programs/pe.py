"""PE images as they lie in memory: headers, data directories, exports, names, CodeView records.

Source: Microsoft, "PE Format" (learn.microsoft.com/windows/win32/debug/pe-format).
"""

from __future__ import annotations

import itertools
import re
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from memcarve.errors import AddressError
from memcarve.formats.programs import mapped_module
from memcarve.formats.programs.mapped_module import Section, string_at
from memcarve.intervals import PAGE

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from memcarve.formats.programs.mapped_module import Read

    #: returns `size` bytes at an address relative to the image, zeros if a page is not in memory
    Peek = Callable[[int, int], bytes]

I386, AMD64 = 0x14C, 0x8664
MZ = b"MZ"
SIGNATURE = b"PE\0\0"
#: where e_lfanew may lead: multiples of four so far down that everything up to DllCharacteristics is in the page
_LOWEST, _HIGHEST = 4, PAGE - 96
#: how far down a signature is looked for if e_lfanew is gone
SEARCHED = 0x400

PE32, PE32_PLUS = 0x10B, 0x20B
#: the optional header's magic by machine: i386, ARM, THUMB, ARMNT, AMD64, ARM64
_MAGICS = {I386: PE32, 0x1C0: PE32, 0x1C2: PE32, 0x1C4: PE32, AMD64: PE32_PLUS, 0xAA64: PE32_PLUS}
_MOST_NAMES = 1 << 16
_MOST_TEXT = 1 << 22  # bytes of names that are read in one go
_LONGEST_NAME = 512
LFANEW, _DOS_HEADER = 0x3C, 0x40
_PE = SIGNATURE.rstrip(b"\0")
_MACHINES = (b".{18}".join(re.escape(struct.pack("<H", number)) for number in pair) for pair in _MAGICS.items())
_SIGNED = re.compile(b"(?=%b(?:%b))" % (SIGNATURE, b"|".join(_MACHINES)), re.DOTALL)  # lookahead: places may overlap
_MOST_PLACES = 4
_BLANK = bytes(_DOS_HEADER - len(MZ))
# what tells that headers may begin there: the first two bytes, e_lfanew; signature, machine, magic
_FRONT, _SIGNATURE = struct.Struct("<H58xI"), struct.Struct("<4sH18xH")
_MARK = int.from_bytes(MZ, "little")
_HEADER = struct.Struct("<4sHHI8xHHH")  # signature, file header, magic
#: from SectionAlignment on: it, FileAlignment, SizeOfImage, SizeOfHeaders, CheckSum, Subsystem, DllCharacteristics
_SIZES = struct.Struct("<II16xIIIHH")
#: where the optional header begins behind the signature, and how long a section header is
OPTIONAL, SECTION = 24, 40
#: AddressOfEntryPoint, behind the signature
ENTRY_AT = OPTIONAL + 16
_SIZES_AT = OPTIONAL + 32
_BASES = {PE32: struct.Struct("<24x28xI"), PE32_PLUS: struct.Struct("<24x24xQ")}
_DIRECTORIES = {PE32: 96, PE32_PLUS: 112}  # in the optional header; their number stands before them
_SECTION = struct.Struct("<8x4I12xI")
_PERMISSIONS = ("---", "--x", "r--", "r-x", "-w-", "-wx", "rw-", "rwx")  # by the upper bits of Characteristics
_EXECUTABLE_IMAGE, _DLL = 0x2, 0x2000  # Characteristics
_NATIVE, _EFI = 1, range(10, 14)  # Subsystem
_WDM_DRIVER = 0x2000  # DllCharacteristics
_KERNEL_HALF = 1 << 63
_MOST_SECTIONS = 96  # that Windows loads
_MOST_DIRECTORIES = 16
EXPORTS, CERTIFICATES, RELOCATIONS, DEBUG = 0, 4, 5, 6
_LARGEST = 1 << 31
_EXPORT_HEAD = struct.Struct("<I8xI4xII3I")
#: of the debug directory: type, size in bytes, relative address, offset in the file
DEBUG_ENTRY = struct.Struct("<12xIIII")
MOST_DEBUG = 16
_CODEVIEW = 2
_PDB = {b"RSDS": 24, b"NB10": 16}  # what stands before the path of the PDB, in bytes


def export_name(peek: Peek, directory: tuple[int, int]) -> bytes:
    """Return the name that an export directory gives its image; nothing if it cannot be read."""
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


@dataclass(frozen=True)
class Image(mapped_module.Image):
    """What an image's headers say.

    `place` is where the signature lies in the image, `directories` where the data directories do, `table` and
    `table_end` where section headers begin and end. `wide`: of PE32+. There are no sections if they have no pages of
    their own (SectionAlignment below a page: such an image is mapped as a whole). Marks that may be wiped are ``"MZ"``,
    ``"e_lfanew"``, ``"PE signature"``, ``"optional header's magic"``.
    """

    size: int
    place: int
    timestamp: int
    characteristics: int
    subsystem: int
    traits: int
    checksum: int
    alignment: int
    file_alignment: int
    headers_size: int
    wide: bool
    directories: int
    table: int
    table_end: int


class Facts(NamedTuple):
    """What identifies an image to a debugger: its headers; and its CodeView record up to the zero behind the path."""

    image: Image
    codeview: bytes | None


def image(page: bytes) -> Image | None:
    r"""Read an image's headers from its first page, as much of it as there is; None if there are none.

    Nothing behind the first 4096 bytes is looked at. With ``MZ``, an e_lfanew that is a multiple of four, and
    ``PE\0\0`` where it leads, everything else may be wrong. If a mark is wiped, everything else must be right, see
    `_is_sound`: where e_lfanew leads; or, if all of the DOS header but ``MZ`` is zeros, at one of the signatures that
    `_bare_places` finds, unless another DOS header leads there.
    """
    if len(page) < _DOS_HEADER:
        return None
    place = int.from_bytes(page[LFANEW:_DOS_HEADER], "little")
    if not place:
        blank = page.startswith((MZ, bytes(len(MZ)))) and page.startswith(_BLANK, len(MZ))
        return _without_dos_header(page) if blank else None
    if not _LOWEST <= place <= _HIGHEST or place % 4:
        return None
    return _image_at(page, place, () if page.startswith(MZ) else ("MZ",))


def image_name(read: Read, found: Image) -> str | None:
    """Return the name that an image's export directory gives it, else that of its PDB; None if there is none.

    The image may lie there as it is mapped, or as it is in its file. The name may hold anything; bytes that are not
    UTF-8 are escaped.
    """
    for look, number in ((_own_name, EXPORTS), (_pdb_name, DEBUG)):
        place, size = directory(read, found, number)
        for in_file in (False, True):
            at = _located(found, place, in_file) if place else None
            name = None if at is None else look(read, found, (at, size), in_file)
            if name:
                return name.decode("utf-8", "backslashreplace")
    return None


def directory(read: Read, found: Image, number: int) -> tuple[int, int]:
    """Return relative address and size of a data directory; zeros if there is none, or it cannot be read."""
    try:
        count = int.from_bytes(read(found.directories - 4, 4), "little")
        if number < min(count, _MOST_DIRECTORIES):
            address, size = struct.unpack("<II", read(found.directories + 8 * number, 8))
            return address, size
    except AddressError:
        pass
    return 0, 0


def facts(read: Read) -> Facts | None:
    """Return the facts of an image as it is mapped; None if its first page is not there or is not that of an image."""
    try:
        found = image(read(0, PAGE))
    except AddressError:
        return None
    return None if found is None else Facts(found, _codeview(read, directory(read, found, DEBUG), in_file=False))


def number_at(page: bytes, at: int, size: int) -> int:
    """Return the number of `size` bytes that stands there."""
    return int.from_bytes(page[at : at + size], "little")


def kind_of(found: Image, address: int) -> str | None:
    """Return what an image at `address` is: ``dll``, ``driver``, ``native``, ``efi``, ``exe``; None if no program."""
    if not found.characteristics & _EXECUTABLE_IMAGE:
        return None
    if found.characteristics & _DLL:
        return "dll"
    if found.subsystem == _NATIVE:
        kernel = found.traits & _WDM_DRIVER or max(address, found.base) >= _KERNEL_HALF
        return "driver" if kernel else "native"
    return "efi" if found.subsystem in _EFI else "exe"


def may_begin(view: memoryview, at: int, end: int) -> bool:
    """Return True if an image may begin at `at` of a block that is looked at up to `end`; 64 bytes are there at least.

    That is so of everything that `image` finds, and of next to nothing else.
    """
    mark, place = _FRONT.unpack_from(view, at)
    if not place:
        if mark not in (0, _MARK) or view[at + len(MZ) : at + _DOS_HEADER] != _BLANK:
            return False
        return bool(_bare_places(bytes(view[at : min(at + SEARCHED, end)])))
    if not _LOWEST <= place <= _HIGHEST or place & 3 or at + place + _SIGNATURE.size > end:
        return False
    signature, machine, magic = _SIGNATURE.unpack_from(view, at + place)
    return bool((signature == SIGNATURE and mark == _MARK) or _MAGICS.get(machine) == magic)


def _bare_places(front: bytes) -> list[int]:
    """Return where signatures lie in the first 0x400 bytes of a page that a known machine and its magic follow.

    Only the first four: a hostile page may hold many.
    """
    if _PE not in front:  # quick, even for zeros
        return []
    found = (match.start() for match in _SIGNED.finditer(front, _DOS_HEADER, SEARCHED))
    return [*itertools.islice((place for place in found if place % 4 == 0), _MOST_PLACES)]


def _without_dos_header(page: bytes) -> Image | None:
    wiped = ("e_lfanew",) if page.startswith(MZ) else ("MZ", "e_lfanew")
    for place in _bare_places(page):
        found = _image_at(page, place, wiped)
        if found is not None and not _is_led_to(page, place):
            return found
    return None


def _is_led_to(page: bytes, place: int) -> bool:
    """Return True if a DOS header within the page leads to a signature: then a file begins there, not at the page."""
    raw = np.frombuffer(page, np.uint8, place + _DOS_HEADER)
    begins = 1 + np.flatnonzero((raw[1:place] == MZ[0]) & (raw[2 : place + 1] == MZ[1]))
    leads = raw[begins[:, None] + np.arange(LFANEW, _DOS_HEADER)].view("<u4").reshape(-1)
    return bool((leads == place - begins).any())


def _image_at(page: bytes, place: int, wiped: tuple[str, ...]) -> Image | None:
    """Return what the headers say whose signature lies at `place`; `wiped` is what is already known to be."""
    if place > min(_HIGHEST, len(page) - (PAGE - _HIGHEST)):
        return None
    signature, machine, count, timestamp, length, characteristics, magic = _HEADER.unpack_from(page, place)
    if signature != SIGNATURE:
        wiped = (*wiped, "PE signature")
    if wiped and _MAGICS.get(machine) != magic:
        return None
    kind = magic
    if magic not in _BASES:
        kind = _MAGICS.get(machine, PE32)
        wiped = ("optional header's magic",)
    alignment, file_alignment, size, headers_size, checksum, subsystem, traits = _SIZES.unpack_from(
        page, place + _SIZES_AT
    )
    table = place + OPTIONAL + length
    found = Image(
        machine=machine,
        base=_BASES[kind].unpack_from(page, place)[0],
        size=size,
        sections=_sections(page, table, count, size) if alignment >= PAGE else (),
        wiped=wiped,
        place=place,
        timestamp=timestamp,
        characteristics=characteristics,
        subsystem=subsystem,
        traits=traits,
        checksum=checksum,
        alignment=alignment,
        file_alignment=file_alignment,
        headers_size=headers_size,
        wide=kind == PE32_PLUS,
        directories=place + OPTIONAL + _DIRECTORIES[kind],
        table=table,
        table_end=table + SECTION * count,
    )
    return None if wiped and magic == kind and not _is_sound(page, found) else found


def _is_sound(page: bytes, found: Image) -> bool:
    """Return True if numbers are as the loader wants them: those that a header without its marks is known by.

    Besides: the machine is known, and the optional header's magic is that machine's. SectionAlignment is a page at
    least, or `found` had no sections.
    """
    given = number_at(page, found.directories - 4, 4)
    stored = found.file_alignment
    return bool(
        given <= min((found.table - found.directories) // 8, _MOST_DIRECTORIES)
        and found.characteristics & _EXECUTABLE_IMAGE
        and found.sections
        and found.alignment & (found.alignment - 1) == 0
        and 0 < stored <= found.alignment
        and stored & (stored - 1) == 0
        and 0 < found.headers_size <= found.size <= _LARGEST
        and number_at(page, found.place + ENTRY_AT, 4) < found.size
    )


def _sections(page: bytes, place: int, count: int, size: int) -> tuple[Section, ...]:
    """Return the sections of an image of `size` bytes; none if they are too many, not in the page, out of order."""
    if not 0 < count <= _MOST_SECTIONS or place + SECTION * count > min(len(page), PAGE):
        return ()
    found, end = [], 0
    limit = size + -size % PAGE
    for virtual, address, stored, offset, flags in _SECTION.iter_unpack(page[place : place + SECTION * count]):
        if address % PAGE or address < end:
            return ()
        end = address + (virtual or stored)
        if end > limit:
            return ()
        found.append(Section(address, end - address, offset, stored, _PERMISSIONS[flags >> 29]))
    return tuple(found)


def mended_sections(page: bytes, found: Image) -> tuple[Section, ...]:
    """Return the sections of an image some of whose headers cannot be, in the order of the headers.

    Each that begins at a page within the image, behind the headers, is there up to the next one, or the image's end, if
    it claims more. Of the others nothing is left: they are of size 0. There are as many as headers are in the page.
    None is there if no header is sound.
    """
    count = min((found.table_end - found.table) // SECTION, (min(len(page), PAGE) - found.table) // SECTION)
    limit = found.size + -found.size % PAGE
    if found.alignment < PAGE or found.table_end - found.table > _MOST_SECTIONS * SECTION or limit > _LARGEST:
        return ()
    rows = [_SECTION.unpack_from(page, found.table + SECTION * number) for number in range(count)]
    sound = {
        number: address
        for number, (_, address, *_) in enumerate(rows)
        if address % PAGE == 0 and found.table_end <= address < limit
    }
    mended = []
    for number, (virtual, address, stored, offset, flags) in enumerate(rows):
        size = 0
        if number in sound:
            behind = [other for place, other in sound.items() if (other, place) > (address, number)]
            size = min(virtual or stored, min(behind, default=limit) - address)
        mended.append(Section(address, size, offset, stored, _PERMISSIONS[flags >> 29]))
    return tuple(mended) if any(row.size for row in mended) else ()


def _located(found: Image, address: int, in_file: bool) -> int | None:  # noqa: FBT001
    """Return where a relative address lies: the same, or its offset in the file; None if it lies in no section."""
    if not in_file:
        return address
    for section in found.sections:
        if section.address <= address < section.address + section.stored:
            return section.offset + address - section.address
    return None


def _own_name(read: Read, found: Image, directory: tuple[int, int], in_file: bool) -> bytes | None:  # noqa: FBT001
    try:
        flags, name, functions, names, *tables = _EXPORT_HEAD.unpack(read(directory[0], _EXPORT_HEAD.size))
    except AddressError:
        return None
    inside = all(address < found.size for address in (name, *tables))
    if flags or not name or not inside or max(functions, names) > _MOST_NAMES:
        return None  # another thing lies there
    at = _located(found, name, in_file)
    return None if at is None else string_at(read, at)


def _pdb_name(read: Read, _: Image, directory: tuple[int, int], in_file: bool) -> bytes | None:  # noqa: FBT001
    record = _codeview(read, directory, in_file=in_file)
    if record is None:
        return None
    return record[_PDB[record[:4]] : -1].replace(b"/", b"\\").rpartition(b"\\")[2]


def _codeview(read: Read, directory: tuple[int, int], *, in_file: bool) -> bytes | None:
    """Return the first CodeView record that is there, as far as the zero behind its path, of a debug directory."""
    try:
        rows = read(directory[0], DEBUG_ENTRY.size * min(directory[1] // DEBUG_ENTRY.size, MOST_DEBUG))
    except AddressError:
        return None
    for kind, size, address, offset in DEBUG_ENTRY.iter_unpack(rows if directory[0] else b""):
        at = offset if in_file else address
        if kind != _CODEVIEW or not at or size <= min(_PDB.values()):
            continue
        try:
            head = read(at, _PDB.get(read(at, 4), 0))
        except AddressError:
            continue
        path = string_at(read, at + len(head)) if head else None
        if path is not None:
            return head + path + b"\0"
    return None


def _text(data: bytes, place: int) -> bytes:
    end = data.find(b"\0", place, place + _LONGEST_NAME)
    return data[place:end] if end >= 0 else b""
