"""BTF, the type format that Linux kernels carry in themselves (``/sys/kernel/btf/vmlinux``).

Source: Documentation/bpf/btf.rst; include/uapi/linux/btf.h for the names of fields, and for what Linux 7 changed: kinds
of 7 bits and counts of 24 (before, the bits in between were zero), and a section that says how large each kind is.

A header, then types one after another, each of 12 bytes and more by its kind and count, and strings. All of it but the
header's first words and the layouts are numbers of 32 bits, in the byte order of the machine.
"""

from __future__ import annotations

import functools
import itertools
import struct
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from memcarve.errors import KernelTypesError
from memcarve.formats.kernel_types.member_paths import Element, StructuredTypes, agreed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memcarve.dtypes import I64, U32

MAGIC = 0xEB9F
VERSION = 1
HEADER = 24  # bytes that every header has
MOST_HEADER = 4096
MOST_BYTES = 64 << 20  # of all of it: kernels have 3 to 6 MB, with all drivers built in twice that
MOST_TYPES = 1 << 22
LONGEST_NAME = 512  # KSYM_NAME_LEN

_INT, _PTR, _ARRAY, _STRUCT, _UNION, _ENUM, _FORWARD, _TYPEDEF, _VOLATILE, _CONST, _RESTRICT = range(1, 12)
_FLOAT, _TYPE_TAG, _ENUM64 = 16, 18, 19
_ALIASES = frozenset({_TYPEDEF, _VOLATILE, _CONST, _RESTRICT, _TYPE_TAG})
_SIZED = frozenset({_INT, _STRUCT, _UNION, _ENUM, _FLOAT, _ENUM64})
#: of each kind from 0 on: the bytes that follow a type's 12, and those of each of its `count` elements
_LAYOUTS = (
    *((0, 0), (4, 0), (0, 0), (12, 0), (0, 12), (0, 12), (0, 8), (0, 0), (0, 0), (0, 0)),
    *((0, 0), (0, 0), (0, 0), (0, 8), (4, 0), (0, 12), (0, 0), (4, 0), (0, 0), (0, 12)),
)
_KINDS = 128
_LONGS = ("long unsigned int", "unsigned long", "long int", "long")
_LONGEST_CHAIN = 64  # typedefs of typedefs, arrays of arrays


class Header(NamedTuple):
    """Where the sections lie: offsets in bytes from the begin of the BTF; `order` is ``"<"`` or ``">"``."""

    order: str
    types: int
    types_size: int
    strings: int
    strings_size: int
    layouts: int
    layouts_size: int

    @property
    def size(self) -> int:
        """Bytes of all of it."""
        return max(self.types + self.types_size, self.strings + self.strings_size, self.layouts + self.layouts_size)


def header(data: bytes | memoryview) -> Header | None:
    """Read a header from its first bytes (32 are enough); None if it is none, or if its sections do not make sense.

    They must not overlap, begin at whole words, and be no more than `MOST_BYTES`.
    """
    if len(data) < HEADER:
        return None
    order = next((each for each in "<>" if struct.unpack_from(f"{each}H", data)[0] == MAGIC), None)
    if order is None or data[2] != VERSION:
        return None
    size, types, types_size, strings, strings_size = struct.unpack_from(f"{order}5I", data, 4)
    layouts, layouts_size = struct.unpack_from(f"{order}2I", data, HEADER) if len(data) >= 32 <= size else (0, 0)  # noqa: PLR2004 - HEADER and these two
    if (
        not HEADER <= size <= MOST_HEADER
        or size % 4
        or types % 4
        or types_size % 4
        or not types_size
        or not strings_size
    ):
        return None
    rest = (size + layouts, layouts_size) if layouts_size else (size, 0)
    found = Header(order, size + types, types_size, size + strings, strings_size, *rest)
    sections = sorted([(found.types, types_size), (found.strings, strings_size), rest])
    if found.size > MOST_BYTES or any(
        first + length > second for (first, length), (second, _) in itertools.pairwise(sections)
    ):
        return None
    return found


class Btf(StructuredTypes[int]):
    """The types of one kernel, from its BTF. See `KernelTypes`.

    Raises KernelTypesError, with `subject` in front, if the header or the sections are not those of a whole BTF of its
    own (a module's, which goes on where the kernel's ends, is not). What single types say is only looked at when they
    are needed, and what makes no sense there counts as not known.
    """

    def __init__(self, data: bytes, source: str, subject: str = "") -> None:
        self.source = source
        found = header(data)
        if found is None:
            raise KernelTypesError("is not BTF: its header was expected", subject=subject)
        if found.size > len(data):
            raise KernelTypesError(
                f"the BTF is cut off: its header says {found.size} bytes, {len(data)} are there", subject=subject
            )
        self.header = found
        self.from_lowest = found.order == "<"
        self.strings = data[found.strings : found.strings + found.strings_size]
        if self.strings[0]:
            raise KernelTypesError("the BTF's strings do not begin with an empty one", subject=subject)
        self.said_layouts = data[found.layouts : found.layouts + found.layouts_size]
        raw = np.frombuffer(data, f"{found.order}u4", found.types_size // 4, found.types)
        self.words: U32 = raw.astype(np.uint32)  # in this machine's order, and aligned
        self.at = self._places(self._layouts(data), subject)
        #: of each type, from number 1 on: kind (0 to 127), count of elements, flag, name's offset, size or type
        info = self.words[self.at + 1]
        self._kind = ((info >> np.uint32(24)) & np.uint32(0x7F)).astype(np.uint8)
        self._count = info & np.uint32(0xFFFFFF)
        self._flag = info >> np.uint32(31)
        self._name, self._value = self.words[self.at], self.words[self.at + 2]
        self.pointer_size = self._pointer_size(subject)

    def __len__(self) -> int:
        """Return how many types there are, but for void, which has the number 0."""
        return len(self.at)

    def _layouts(self, data: bytes) -> list[tuple[int, int]]:
        """Return for each kind the bytes behind a type and of each element; odd ones for kinds that are not known."""
        size, at = self.header.layouts_size, self.header.layouts
        said = [struct.unpack_from("2B", data, at + 4 * kind) for kind in range(min(size // 4, _KINDS))]
        known = [*_LAYOUTS, *said[len(_LAYOUTS) :]]
        return [*known, *[(1, 1)] * (_KINDS - len(known))]

    def _places(self, layouts: list[tuple[int, int]], subject: str) -> I64:
        """Return where the types begin, in words (int64): each follows the one before, to the section's very end."""
        words = self.words
        kind = (words >> np.uint32(24)) & np.uint32(0x7F)
        table = np.array(layouts, np.int64)
        odd = np.asarray((table % 4).any(axis=1))
        more, each = table.T // 4
        # if a type began one word earlier, this is how many words it would have; 0 if nobody knows
        length = 3 + more[kind] + each[kind] * (words & np.uint32(0xFFFFFF)).astype(np.int64)
        length[odd[kind] | (kind == 0)] = 0
        steps = length.data  # a memoryview: numbers are made only of those that are looked at
        at, end, places = 0, len(words), []
        while at + 3 <= end:
            step = steps[at + 1]
            if not step:
                break
            places.append(at)
            at += step
        if at != end:
            what = "is of no known kind" if at + 3 <= end and not steps[at + 1] else "does not end if the section does"
            raise KernelTypesError(f"the BTF is damaged: type {len(places) + (at + 3 <= end)} {what}", subject=subject)
        if len(places) > MOST_TYPES:
            raise KernelTypesError(f"the BTF has {len(places)} types, more than {MOST_TYPES}", subject=subject)
        return np.array(places, np.int64)

    def _pointer_size(self, subject: str) -> int:
        """Return the size of a long, which is that of a pointer; else half of a list's head."""
        integers = self._by_name(_INT)
        said = [number for name in _LONGS for number in integers.get(name, ())]
        sizes = {int(self._value[number - 1]) for number in said}
        sizes = sizes or {int(self._value[number - 1]) // 2 for number in self._structures.get("list_head", ())}
        if sizes in ({4}, {8}):
            return sizes.pop()
        raise KernelTypesError("the BTF does not say how large a pointer is: no long, no list_head", subject=subject)

    def name_at(self, offset: int) -> str:
        """Return the string at an offset of the strings; empty if there is none, or an absurdly long one."""
        text, end, _ = self.strings[offset : offset + LONGEST_NAME].partition(b"\0")
        return text.decode("utf-8", "backslashreplace") if end else ""

    def _numbers(self, *kinds: int) -> list[int]:
        """Return the numbers of all types of some kinds, ascending."""
        return (np.flatnonzero(np.isin(self._kind, kinds)) + 1).tolist()

    def _by_name(self, *kinds: int) -> dict[str, list[int]]:
        found: dict[str, list[int]] = {}
        numbers = self._numbers(*kinds)
        names = self._name[np.array(numbers, np.int64) - 1].tolist()
        for number, at in zip(numbers, names, strict=True):
            if at:
                found.setdefault(self.name_at(at), []).append(number)
        found.pop("", None)
        return found

    @functools.cached_property
    def _structures(self) -> dict[str, list[int]]:
        return self._by_name(_STRUCT, _UNION)

    @functools.cached_property
    def _enumerations(self) -> dict[str, list[int]]:
        return self._by_name(_ENUM, _ENUM64)

    @functools.cached_property
    def _others(self) -> dict[str, list[int]]:
        return self._by_name(_TYPEDEF, _INT, _FLOAT)

    def structures(self) -> Iterator[str]:
        """Yield the names of all structures and unions that have one."""
        yield from self._structures

    def kind(self, number: int) -> int:
        """Return the kind of a type; 0 of void and of a number that no type has."""
        return int(self._kind[number - 1]) if 0 < number <= len(self.at) else 0

    def _resolved(self, number: int) -> int:
        """Return the type that typedefs and qualifiers lead to; 0 if they lead nowhere."""
        for _ in range(_LONGEST_CHAIN):
            if self.kind(number) not in _ALIASES:
                return number
            number = int(self._value[number - 1])
        return 0

    def _size_of(self, number: int) -> int | None:
        count = 1
        for _ in range(_LONGEST_CHAIN):
            number = self._resolved(number)
            kind = self.kind(number)
            if kind == _PTR:
                return count * self.pointer_size
            if kind in _SIZED:
                return count * int(self._value[number - 1])
            if kind != _ARRAY:
                return None
            number, elements = self._array(number)
            count *= elements
        return None

    def _array(self, number: int) -> tuple[int, int]:
        """Return the type of an array's elements, and how many there are."""
        at = int(self.at[number - 1])
        return int(self.words[at + 3]), int(self.words[at + 5])

    def elements(self, structure: int) -> list[Element[int]]:
        """Return the members of a structure or union as they are written; none of another type."""
        if self.kind(structure) not in (_STRUCT, _UNION):
            return []
        at, count = int(self.at[structure - 1]) + 3, int(self._count[structure - 1])
        rows = self.words[at : at + 3 * count].reshape(-1, 3).tolist()
        if self._flag[structure - 1]:
            return [Element(self.name_at(name), kind, bit & 0xFFFFFF, bit >> 24) for name, kind, bit in rows]
        placed = ((name, kind, self._integer_bits(kind)) for name, kind, _ in rows)
        return [
            Element(self.name_at(name), kind, bit + shift, bits)
            for (name, kind, (shift, bits)), (_, _, bit) in zip(placed, rows, strict=True)
        ]

    def _integer_bits(self, number: int) -> tuple[int, int]:
        """Return first bit and width of an integer that was made for a bit field; 0 and 0 of another type.

        Before Linux 5.0 (kind_flag) this was how bit fields were written.
        """
        number = self._resolved(number)
        if self.kind(number) != _INT:
            return 0, 0
        encoding = int(self.words[int(self.at[number - 1]) + 3])
        shift, width = encoding >> 16 & 0xFF, encoding & 0xFF
        return (shift, width) if shift or width != 8 * int(self._value[number - 1]) else (0, 0)

    def _inside(self, kind: int) -> int | None:
        for _ in range(_LONGEST_CHAIN):
            kind = self._resolved(kind)
            if self.kind(kind) != _ARRAY:
                return kind if self.kind(kind) in (_STRUCT, _UNION) else None
            kind, _ = self._array(kind)
        return None

    def _structures_named(self, name: str) -> list[int]:
        return self._structures.get(name) or [self._resolved(each) for each in self._others.get(name, ())]

    def size(self, structure: str) -> int | None:
        """Return the size of a type in bytes; see `KernelTypes`. None also if several types of that name disagree."""
        tables = (self._structures, self._enumerations, self._others)
        numbers = next((table[structure] for table in tables if structure in table), [])
        return agreed(self._size_of(number) for number in numbers)

    def constant(self, enumeration: str | None, name: str) -> int | None:
        """Return the value of a constant; see `KernelTypes`."""
        return self._constants.get((enumeration, name))

    @functools.cached_property
    def _constants(self) -> dict[tuple[str | None, str], int]:
        """All constants by the name of their enumeration, and by None if all of that name have one value.

        Until Linux 6.0 enumerations had no flag for signed values, and all were meant to be.
        """
        found: dict[tuple[str | None, str], int] = {}
        disagreed: set[tuple[str | None, str]] = set()
        enumerations = self._numbers(_ENUM, _ENUM64)
        unsaid = not self._flag[np.array(enumerations, np.int64) - 1].any() and not (self._kind == _ENUM64).any()
        for number in enumerations:
            at, count, signed = int(self.at[number - 1]) + 3, int(self._count[number - 1]), self._flag[number - 1]
            width = 3 if self.kind(number) == _ENUM64 else 2
            rows = self.words[at : at + width * count].reshape(-1, width)
            value = rows[:, 1].astype(np.uint64)
            if width == 3:  # noqa: PLR2004 - the higher half follows
                value |= rows[:, 2].astype(np.uint64) << np.uint64(32)
            elif signed or unsaid:
                value = value.astype(np.uint32).view(np.int32).astype(np.int64).view(np.uint64)
            values = value.view(np.int64) if signed or unsaid else value
            owner = self.name_at(int(self._name[number - 1])) or None
            for name, each in zip(rows[:, 0].tolist(), values.tolist(), strict=True):
                text = self.name_at(name)
                found.setdefault((owner, text), each)
                if found.setdefault((None, text), each) != each:
                    disagreed.add((None, text))
        for key in disagreed:
            del found[key]
        return found


def module_types(kernel: Btf, data: bytes, source: str) -> Btf:
    """Return the types of a module together with its kernel's, from the module's own BTF (``/sys/kernel/btf/NAME``).

    A module's types are numbered on from its kernel's, and so are the places of its strings. Raises KernelTypesError.
    """
    found, order = header(data), kernel.header.order
    if found is None or found.order != order or found.size > len(data):
        raise KernelTypesError("is not a module's BTF: its header was expected, and as many bytes as it says")
    types = kernel.words.astype(f"{order}u4").tobytes() + data[found.types :][: found.types_size]
    strings = kernel.strings + data[found.strings :][: found.strings_size]
    layouts = kernel.said_layouts
    size = HEADER + 8 * bool(layouts)
    strings += bytes(-len(strings) % 4)
    sections: tuple[int, ...] = (size, 0, len(types), len(types), len(strings))
    if layouts:
        sections = (*sections, len(types) + len(strings), len(layouts))
    begin = struct.pack(f"{order}HBB{len(sections)}I", MAGIC, VERSION, 0, *sections)
    return Btf(begin + types + strings + layouts, source)
