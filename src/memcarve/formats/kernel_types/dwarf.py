"""Types of a kernel from its DWARF, of which only what is asked for is read.

Source: DWARF Debugging Information Format, versions 4 and 5. pyelftools, an extra, decodes it.

A kernel has 200 to 500 MB of it in thousands of units, each of which has the types that it uses. A type is looked for
in the units that were read already, then in those whose bytes mention its name: as the place of the name among the
strings, or if it is shorter than that is long, as itself.
"""

from __future__ import annotations

import bisect
import functools
import io
import itertools
import re
import struct
import tempfile
import zlib
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from memcarve.errors import KernelTypesError, MissingExtraError, UnreadableError
from memcarve.formats.kernel_types.member_paths import Element, StructuredTypes
from memcarve.formats.kernel_types.vmlinux import RELOCATABLE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memcarve.backing import FileBacking
    from memcarve.dtypes import Bools
    from memcarve.formats.kernel_types.vmlinux import Section, Vmlinux

_NEEDED = (".debug_info", ".debug_abbrev", ".debug_str")
_OTHERS = (".debug_line_str", ".debug_str_offsets", ".debug_addr")
_STRUCTURES = ("DW_TAG_structure_type", "DW_TAG_union_type", "DW_TAG_class_type")
_ALIASES = ("DW_TAG_typedef", "DW_TAG_const_type", "DW_TAG_volatile_type", "DW_TAG_restrict_type", "DW_TAG_atomic_type")
_SIZED = (*_STRUCTURES, "DW_TAG_enumeration_type", "DW_TAG_base_type")
_POINTERS = ("DW_TAG_pointer_type", "DW_TAG_reference_type")
_ARRAY, _ENUMERATION, _TYPEDEF = "DW_TAG_array_type", "DW_TAG_enumeration_type", "DW_TAG_typedef"
#: class, enumeration, structure, typedef, union, base type, enumerator (DW_TAG_*)
_DEFINED = frozenset({0x02, 0x04, 0x13, 0x16, 0x17, 0x24, 0x28})
_NAME, _DECLARATION, _IMPLICIT = 0x03, 0x3C, 0x21  # DW_AT_name, DW_AT_declaration, DW_FORM_implicit_const
_MOST_ABBREVIATIONS = 1 << 16  # bytes of one unit's
_LONGEST_CHAIN = 64
_MOST_MENTIONS = 1 << 16
_MORE = 0x80  # set in all but the last byte of a number
_MOST_UNITS = 1 << 17
_MOST_TRIED = 12  # units that are read for one name
_MOST_READ = 256  # units that are read at all
_MOST_ENTRIES = 1 << 18  # of one unit
_MOST_DECODED = 2 << 30  # bytes of a compressed section
_MOST_PLACES = 1 << 16  # of strings that end like a name
_BLOCK = 1 << 22
_ZLIB = 1  # ELFCOMPRESS_ZLIB
_PLUS_CONSTANT = b"\x23"  # DW_OP_plus_uconst
#: what pyelftools raises for what makes no sense to it, and reading the file
_ERRORS = (
    KeyError, IndexError, ValueError, TypeError, AttributeError, AssertionError, OverflowError, EOFError,
    RecursionError, NotImplementedError, StopIteration, ZeroDivisionError, MemoryError, OSError,
    struct.error, UnreadableError,
)  # fmt: skip


class _Part(io.RawIOBase):
    """Part of a file, as a stream of its own."""

    def __init__(self, file: FileBacking, offset: int, size: int) -> None:
        self.file, self.offset, self.size, self.place = file, offset, size, 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        """Go to a place."""
        self.place = max(offset + (0, self.place, self.size)[whence], 0)
        return self.place

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # typeshed's Buffer needs 3.12
        """Fill `buffer` with what follows; return how many bytes that are."""
        view = memoryview(buffer).cast("B")
        count = min(len(view), max(self.size - self.place, 0))
        if count:
            self.file.read_into(self.offset + self.place, view[:count])
        self.place += count
        return count


class Dwarf(StructuredTypes[int]):
    """The types of one kernel from the DWARF of its ``vmlinux``. See `KernelTypes`.

    Types are referred to by where they stand in .debug_info. Raises MissingExtraError without pyelftools, and
    KernelTypesError if the file has no DWARF that can be read.
    """

    def __init__(self, program: Vmlinux, source: str) -> None:
        path = program.file.path
        try:
            from elftools.common.exceptions import DWARFError, ELFError, ELFParseError  # an extra
            from elftools.dwarf.dwarfinfo import DebugSectionDescriptor, DwarfConfig, DWARFInfo
        except ImportError:
            raise MissingExtraError(
                "has its types as DWARF only; to read it: pip install 'memcarve[dwarf]'", subject=path
            ) from None
        self.source = source
        self._errors = (*_ERRORS, DWARFError, ELFError, ELFParseError)
        missing = [name for name in _NEEDED if name not in program.sections]
        if missing or program.kind == RELOCATABLE:
            why = "it is not linked" if program.kind == RELOCATABLE else f"it has no {missing[0]}"
            raise KernelTypesError(f"has no types that can be read: no BTF, and of DWARF {why}", subject=path)
        self._streams = {
            name: _stream(program, program.sections[name]) for name in (*_NEEDED, *_OTHERS) if name in program.sections
        }

        def described(name: str) -> Any:  # noqa: ANN401 - pyelftools has no types
            if name not in self._streams:
                return None
            stream, size = self._streams[name]
            return DebugSectionDescriptor(stream=stream, name=name, global_offset=0, size=size, address=0)

        config = DwarfConfig(
            little_endian=program.order == "<", machine_arch="", default_address_size=program.bits // 8
        )
        sections = {f"{name[1:]}_sec": described(name) for name in (*_NEEDED, *_OTHERS)}
        others = {name: sections.get(name) for name in _arguments(DWARFInfo) if name != "config"}
        self._dwarf = DWARFInfo(config=config, **others)
        self._order = program.order
        self.from_lowest = program.order == "<"
        self._units = list(self._unit_places())
        if not self._units:
            raise KernelTypesError("has no DWARF that can be read", subject=path)
        self.pointer_size = program.bits // 8
        self._read: dict[int, dict[tuple[str, str], list[int]]] = {}
        self._constants: dict[tuple[str | None, str], int] = {}

    def _unit_places(self) -> Iterator[int]:
        """Yield where units begin in .debug_info (7.5.1)."""
        stream, size = self._streams[".debug_info"]
        at = 0
        for _ in range(_MOST_UNITS):
            stream.seek(at)
            head = stream.read(12)
            if len(head) < 12:  # noqa: PLR2004 - the longest form of a length
                return
            (length,) = struct.unpack_from(f"{self._order}I", head)
            long = length == 0xFFFFFFFF  # noqa: PLR2004 - 64-bit DWARF
            length = struct.unpack_from(f"{self._order}Q", head, 4)[0] + 12 if long else length + 4
            if at + length > size:
                return
            yield at
            at += length

    def _index(self, unit: int) -> dict[tuple[str, str], list[int]]:
        """Return the types that a unit has whole, by kind and name; and take note of its constants."""
        if unit not in self._read:
            found: dict[tuple[str, str], list[int]] = {}
            self._read[unit] = found
            try:
                compiled = self._dwarf.get_CU_at(unit)
                last = -1
                for die in itertools.islice(compiled.get_top_DIE().iter_children(), _MOST_ENTRIES):
                    if die.offset <= last:  # a loop
                        break
                    last = die.offset
                    if die.tag in (*_SIZED, _TYPEDEF) and "DW_AT_declaration" not in die.attributes:
                        name = _name(die)
                        kind = "structure" if die.tag in _STRUCTURES else die.tag
                        if name:
                            found.setdefault((kind, name), []).append(die.offset)
                        if die.tag == _ENUMERATION:
                            self._note_constants(name or None, die)
            except self._errors:
                pass  # what makes no sense ends it; what was read until there counts
        return self._read[unit]

    def _note_constants(self, owner: str | None, die: Any) -> None:  # noqa: ANN401 - pyelftools has no types
        for each in itertools.islice(die.iter_children(), _MOST_ENTRIES):
            value = each.attributes.get("DW_AT_const_value")
            if value is not None and isinstance(value.value, int):
                name = _name(each)
                self._constants.setdefault((owner, name), value.value)
                self._constants.setdefault((None, name), value.value)

    @functools.cache  # noqa: B019 - as many as are asked for
    def _mentions(self, name: str) -> tuple[int, ...]:
        """Return the units whose bytes may mention a name, the first `_MOST_TRIED`.

        Linkers let a string be the end of another one.
        """
        text, found = name.encode() + b"\0", list[int]()
        size = self._streams[".debug_str"][1]
        named = np.zeros(size, np.bool_)
        named[list(itertools.islice(self._occurrences(text), _MOST_PLACES))] = True
        inline = text if len(text) <= 4 else None  # noqa: PLR2004 - bytes of an offset into the strings
        for place in itertools.islice(self._references(named, inline), _MOST_MENTIONS):
            unit = self._units[max(bisect.bisect_right(self._units, place) - 1, 0)]
            if unit not in found and self._begins_here(unit, place):
                found.append(unit)
            if len(found) >= _MOST_TRIED:
                break
        return tuple(found)

    def _begins_here(self, unit: int, place: int) -> bool:
        """Return True if an entry that defines a type or a constant may begin just before its name's place.

        Compilers write the name first, behind the number of what says how the entry is written (7.5.2): a byte or two.
        """
        stream, _ = self._streams[".debug_info"]
        stream.seek(max(place - 2, 0))
        before, last = stream.read(2)
        defining = self._defining(self._abbreviations_of(unit))
        return (last < _MORE and last in defining) or (before >= _MORE and (before & 0x7F | last << 7) in defining)

    @functools.cache  # noqa: B019 - as many as there are units
    def _abbreviations_of(self, unit: int) -> int:
        """Return where the abbreviations of a unit stand (7.5.1)."""
        stream, _ = self._streams[".debug_info"]
        stream.seek(unit)
        head = stream.read(24)
        long = head.startswith(b"\xff" * 4)
        at = 12 if long else 4
        version = struct.unpack_from(f"{self._order}H", head, at)[0]
        at += 4 if version >= 5 else 2  # noqa: PLR2004 - kind of unit and size of addresses come first since DWARF 5
        return int(struct.unpack_from(f"{self._order}Q" if long else f"{self._order}I", head, at)[0])

    @functools.cache  # noqa: B019 - as many as there are units
    def _defining(self, place: int) -> frozenset[int]:
        """Return the numbers of abbreviations of types and constants that are whole and begin with a name (7.5.3)."""
        stream, size = self._streams[".debug_abbrev"]
        stream.seek(place)
        numbers, found = _numbers(stream.read(min(_MOST_ABBREVIATIONS, max(size - place, 0)))), set()
        for code in numbers:
            if not code:
                break
            tag = next(numbers, 0)
            next(numbers, 0)  # whether it has children
            names = []
            for name, form in zip(numbers, numbers, strict=False):
                if not name and not form:
                    break
                names.append(name)
                if form == _IMPLICIT:
                    next(numbers, 0)
            if tag in _DEFINED and names[:1] == [_NAME] and _DECLARATION not in names:
                found.add(code)
        return frozenset(found)

    def _occurrences(self, text: bytes) -> Iterator[int]:
        """Yield where a text stands among the strings."""
        stream, size = self._streams[".debug_str"]
        for begin in range(0, size, _BLOCK):
            stream.seek(begin)
            block = stream.read(min(_BLOCK + len(text) - 1, size - begin))
            at = block.find(text)
            while at >= 0:
                yield begin + at
                at = block.find(text, at + 1)

    def _references(self, named: Bools, inline: bytes | None) -> Iterator[int]:
        """Yield where .debug_info has the offset of a string that is `named`, or the text `inline`, in order."""
        stream, size = self._streams[".debug_info"]
        for begin in range(0, size, _BLOCK):
            stream.seek(begin)
            block = stream.read(min(_BLOCK + 3, size - begin))
            found: list[int] = []
            for shift in range(4):
                words = np.frombuffer(block[shift:], f"{self._order}u4", max(len(block) - shift, 0) // 4)
                rows = np.flatnonzero(words < len(named))
                found += (4 * rows[named[words[rows]]] + shift).tolist()
            if inline is not None:
                found += [each.start() for each in re.finditer(re.escape(inline), block)]
            yield from (begin + each for each in sorted(found) if each < _BLOCK)

    def _named(self, kinds: tuple[str, ...], name: str) -> list[int]:
        """Return the types of a kind and name, of the first unit that has one."""
        for unit in self._likely(name):
            index = self._index(unit)
            found = [offset for kind in kinds for offset in index.get((kind, name), ())]
            if found:
                return found
        return []

    def _likely(self, name: str) -> Iterator[int]:
        """Yield units that were read, then those that mention a name."""
        yield from list(self._read)
        for unit in self._mentions(name):
            if len(self._read) < _MOST_READ:
                yield unit

    @functools.cache  # noqa: B019 - as many as are asked for
    def _structures_named(self, name: str) -> list[int]:
        found = self._named(("structure", _TYPEDEF), name)
        return [inside for each in found if (inside := self._inside(each)) is not None][:1]

    def _die(self, offset: int) -> Any:  # noqa: ANN401 - pyelftools has no types
        return self._dwarf.get_DIE_from_refaddr(offset)

    def _type_of(self, die: Any) -> Any:  # noqa: ANN401 - pyelftools has no types
        return die.get_DIE_from_attribute("DW_AT_type") if "DW_AT_type" in die.attributes else None

    def elements(self, structure: int) -> list[Element[int]]:
        """Return the members of a structure or union as they are written; none of another type."""
        try:
            die = self._die(structure)
            if die.tag not in _STRUCTURES:
                return []
            children = itertools.islice(die.iter_children(), _MOST_ENTRIES)
            return [each for child in children if (each := self._element(child)) is not None]
        except self._errors:
            return []

    def _element(self, die: Any) -> Element[int] | None:  # noqa: ANN401 - pyelftools has no types
        kind = self._type_of(die)
        if die.tag != "DW_TAG_member" or kind is None:
            return None
        bits, at = _value(die, "DW_AT_bit_size") or 0, _value(die, "DW_AT_data_bit_offset")
        if at is None:
            at = 8 * (_value(die, "DW_AT_data_member_location") or 0)
            big = _value(die, "DW_AT_bit_offset")  # until DWARF 3: from the highest bit of the storage unit
            if bits and big is not None:
                unit = _value(die, "DW_AT_byte_size") or self._size_of(kind.offset) or 0
                at += 8 * unit - big - bits if self.from_lowest else big
        return Element(_name(die), kind.offset, at, bits)

    def _inside(self, kind: int) -> int | None:
        try:
            die = self._die(kind)
            for _ in range(_LONGEST_CHAIN):
                if die is None or die.tag not in (*_ALIASES, _ARRAY):
                    break
                die = self._type_of(die)
        except self._errors:
            return None
        return die.offset if die is not None and die.tag in _STRUCTURES else None

    @functools.cache  # noqa: B019 - as many as are asked for
    def _size_of(self, kind: int) -> int | None:
        try:
            die, count = self._die(kind), 1
            for _ in range(_LONGEST_CHAIN):
                if die is None:
                    return None
                if die.tag in _POINTERS:
                    return count * self.pointer_size
                size = _value(die, "DW_AT_byte_size")
                if die.tag in _SIZED:
                    return None if size is None else count * size
                if die.tag == _ARRAY:
                    count *= _count(die)
                elif die.tag not in _ALIASES:
                    return None
                die = self._type_of(die)
        except self._errors:
            return None
        return None

    def size(self, structure: str) -> int | None:
        """Return the size of a type in bytes; see `KernelTypes`."""
        kinds = ("structure", _ENUMERATION, _TYPEDEF, "DW_TAG_base_type")
        try:
            return next((self._size_of(each) for each in self._named(kinds, structure)), None)
        except self._errors:
            return None

    def member(self, structure: str, path: str) -> Any:  # noqa: D102, ANN401 - the inherited one, in which nothing is raised
        try:
            return super().member(structure, path)
        except self._errors:
            return None

    def constant(self, enumeration: str | None, name: str) -> int | None:
        """Return the value of a constant; see `KernelTypes`."""
        key = (enumeration, name)
        try:
            for unit in self._mentions(name) if key not in self._constants else ():
                if key in self._constants or len(self._read) >= _MOST_READ:
                    break
                self._index(unit)
        except self._errors:
            return None
        return self._constants.get(key)


def _numbers(data: bytes) -> Iterator[int]:
    """Yield the numbers of any length (LEB128, 7.6) that bytes are; negative ones as if they were not."""
    value = shift = 0
    for byte in data:
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < _MORE:
            yield value
            value = shift = 0
        elif shift > 70:  # noqa: PLR2004 - more than 64 bits
            return


def _arguments(kind: Any) -> list[str]:  # noqa: ANN401 - pyelftools has no types
    """Return what a class takes: later releases of pyelftools ask for more sections, None if they are not there."""
    code = kind.__init__.__code__
    return list(code.co_varnames[1 : code.co_argcount])


def _name(die: Any) -> str:  # noqa: ANN401 - pyelftools has no types
    found = die.attributes.get("DW_AT_name")
    return (
        found.value.decode("utf-8", "backslashreplace") if found is not None and isinstance(found.value, bytes) else ""
    )


def _value(die: Any, name: str) -> int | None:  # noqa: ANN401 - pyelftools has no types
    """Return an attribute that is a number, or an expression that adds one."""
    found = die.attributes.get(name)
    if found is None:
        return None
    value: object = found.value
    if isinstance(value, int):
        return value
    operation = bytes(value) if isinstance(value, (list, bytes, tuple)) else b""
    return next(_numbers(operation[1:]), None) if operation[:1] == _PLUS_CONSTANT else None


def _count(die: Any) -> int:  # noqa: ANN401 - pyelftools has no types
    """Return the number of elements of an array; 0 if it has no bound."""
    count = 1
    for each in itertools.islice(die.iter_children(), _LONGEST_CHAIN):
        if each.tag == "DW_TAG_subrange_type":
            top, here = _value(each, "DW_AT_upper_bound"), _value(each, "DW_AT_count")
            count *= here if here is not None else 0 if top is None else top + 1
    return count if 0 <= count < 1 << 32 else 0


def _stream(program: Vmlinux, section: Section) -> tuple[IO[bytes], int]:
    """Return a section as a stream, and its length; one that is compressed is decoded into a temporary file."""
    part = io.BufferedReader(_Part(program.file, section.offset, section.size), 1 << 16)
    if not section.compressed:
        return part, section.size
    wide = program.bits == 64  # noqa: PLR2004 - EI_CLASS
    head = part.read(24 if wide else 12)
    layout = f"{program.order}IIQQ" if wide else f"{program.order}III"
    if len(head) < struct.calcsize(layout):
        raise KernelTypesError("a compressed section of it is cut off", subject=program.file.path)
    fields = struct.unpack_from(layout, head)
    kind, size = fields[0], fields[2 if wide else 1]
    if kind != _ZLIB or size > _MOST_DECODED:
        raise KernelTypesError(
            "a section of it is compressed in a way that is not read",
            subject=program.file.path,
            remedy="objcopy --decompress-debug-sections writes it anew",
        )
    decoder, total = zlib.decompressobj(), 0
    decoded = tempfile.TemporaryFile()  # noqa: SIM115 - it stays open for as long as types are asked for
    try:
        while total <= size and (block := part.read(_BLOCK)):
            while block and total <= size:
                total += decoded.write(decoder.decompress(block, _BLOCK))
                block = decoder.unconsumed_tail
    except zlib.error as error:
        raise KernelTypesError(f"a compressed section of it is damaged: {error}", subject=program.file.path) from error
    if total != size:
        raise KernelTypesError("a compressed section of it is not as long as it says", subject=program.file.path)
    return decoded, size
