"""The modules that a process on Windows x64 has unloaded: ntdll keeps the last ones for debuggers.

Two functions of ntdll say where. RtlGetUnloadEventTrace returns the address of an array of 64 entries.
RtlGetUnloadEventTraceEx gives the addresses of three variables: the size of an entry, the number of entries, and a
pointer to them, which is null before there is one. An entry's index is its sequence number, modulo their number.

Sources: Microsoft, "RtlGetUnloadEventTrace function" and "RtlGetUnloadEventTraceEx function" (learn.microsoft.com,
Win32 developer notes). Programs that read the list (System Informer's phnt headers, NtUtils) show that Version ends an
entry, and what the second function looks like in 32 bits. All of it lies in the process's own memory.
"""

from __future__ import annotations

import struct
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from memcarve.formats.programs import pe
from memcarve.images.structure_reader import counted
from memcarve.intervals import PAGE
from memcarve.metadata import Module, SourceRows

if TYPE_CHECKING:
    from collections.abc import Iterable

    from memcarve.images.structure_reader import Reader

#: what the file of ntdll is called
NTDLL = "ntdll.dll"
_ARRAY, _VARIABLES = b"RtlGetUnloadEventTrace", b"RtlGetUnloadEventTraceEx"
_DIRECTORY = 40  # bytes of an export directory
_ENTRIES = 64  # of the array
_MOST_ENTRIES = 1 << 10  # that a program may have set for itself
_LARGEST_ENTRY = 1 << 10


class Form(NamedTuple):
    """An ntdll of one width: its machine, the width of a pointer (bytes), all the code of both functions, its entries.

    Code is what comes before, between and after addresses of four bytes, which may be `relative` to their own end.
    `entry` is how entries begin: base, size, sequence, time stamp, check sum, name. `sizes` (bytes) are those that an
    entry of the array may have: with Version at its end, and without.
    """

    source: str
    machine: int
    word: int
    relative: bool
    array: tuple[bytes, ...]
    variables: tuple[bytes, ...]
    entry: struct.Struct
    sizes: tuple[int, int]


#: by the width of a pointer
FORMS = {
    8: Form(
        "ntdll",
        pe.AMD64,
        8,
        relative=True,
        array=(b"\x48\x8d\x05", b"\xc3"),  # lea rax, [rip+array]; ret
        # lea rax, [rip+size]; mov [rcx], rax; the same of the number and rdx, of the pointer and r8; ret
        variables=(b"\x48\x8d\x05", b"\x48\x89\x01\x48\x8d\x05", b"\x48\x89\x02\x48\x8d\x05", b"\x49\x89\x00\xc3"),
        entry=struct.Struct("<QQIII64s"),
        sizes=(104, 96),
    ),
    4: Form(
        "32-bit ntdll",
        pe.I386,
        4,
        relative=False,
        array=(b"\xb8", b"\xc3"),  # mov eax, array; ret
        # mov edi, edi; push ebp; mov ebp, esp; thrice mov eax, [ebp+argument]; mov [eax], address; pop ebp; ret 12
        variables=(
            b"\x8b\xff\x55\x8b\xec\x8b\x45\x08\xc7\x00",
            b"\x8b\x45\x0c\xc7\x00",
            b"\x8b\x45\x10\xc7\x00",
            b"\x5d\xc2\x0c\x00",
        ),
        entry=struct.Struct("<IIIII64s"),
        sizes=(92, 84),
    ),
}


class _Entries(NamedTuple):
    """What a list of `number` entries holds: those that make sense, how many do not, how many are not in memory."""

    number: int
    rows: list[Module]
    wrong: int = 0
    lost: int = 0

    @property
    def sound(self) -> bool:
        """Whether it is the list: read with a wrong size, little of it would make sense."""
        return len(self.rows) >= self.wrong and (not self.number or self.lost < self.number)


def unloaded(reader: Reader, form: Form, bases: Iterable[int]) -> tuple[SourceRows[Module] | None, list[str]]:
    """Return the modules that were unloaded, in that order, and notes for the user; None if they are not known.

    `bases` are where ntdll may lie, the most likely first; what is not an ntdll of that width is skipped.
    """
    notes: list[str] = []
    seen: set[int] = set()
    for base in bases:
        if base in seen:
            continue
        seen.add(base)
        found = _read(reader, form, base)
        if isinstance(found, str):
            notes += [f"the unloaded modules are not known: {found} ({form.source} at 0x{base:x})"]
        elif found is not None:
            rows = sorted(found.rows, key=lambda row: row.sequence or 0)
            return SourceRows(form.source, rows), [
                f"{counted(count, 'module')} in the list of unloaded modules ({form.source}) {what}"
                for what, count in (("cannot be read", found.lost), ("had impossible values", found.wrong))
                if count
            ]
    return None, notes[:1]


def _read(reader: Reader, form: Form, base: int) -> _Entries | str | None:
    """Return what the list of the ntdll at an address holds, or why it is not known; None if there is no such ntdll."""
    page = reader.read(base, PAGE)
    image = None if page is None else pe.image(page)
    if page is not None and (image is None or image.machine != form.machine):
        return None
    if image is None:
        return "its headers are not in memory"
    exports = _exports(reader, base, image)
    if not exports:
        return None if exports is None else "its exports are not in memory"
    places = [
        _addresses(reader, base + exports[name], code, range(base, base + image.size), relative=form.relative)
        if name in exports
        else None
        for name, code in ((_VARIABLES, form.variables), (_ARRAY, form.array))
    ]
    if places == [None, None]:
        return "the code that leads to them is not in memory, or not the usual one"
    found = _by_variables(reader, form, places[0])
    if places[1] is not None:  # read with each size that the array's entries may have
        found += [_entries(reader, form, places[1][0], size, _ENTRIES) for size in form.sizes]
    sound = [entries for entries in found if entries.sound]
    if not sound:
        return "the list of them is not in memory, or makes no sense"
    return max(sound, key=lambda entries: (len(entries.rows), -entries.wrong, -entries.lost))


def _exports(reader: Reader, base: int, image: pe.Image) -> dict[bytes, int] | None:
    """Return the addresses of both functions, as far as ntdll's exports can be read; None if it is another image."""

    def look(at: int, size: int) -> bytes:
        return reader.padded(base + at, size)

    directory = pe.directory(look, image, pe.EXPORTS)
    if not directory[0]:
        return None
    if reader.read(base + directory[0], _DIRECTORY) is None:
        return {}
    name = pe.export_name(look, directory).lower()
    return pe.exported(look, directory, {_ARRAY, _VARIABLES}) if name in (NTDLL.encode(), b"") else None


def _addresses(
    reader: Reader, begin: int, code: tuple[bytes, ...], inside: range, *, relative: bool
) -> list[int] | None:
    """Return the addresses in a function's code; None if the code differs, or an address is not `inside` ntdll."""
    data = reader.read(begin, sum(map(len, code)) + 4 * (len(code) - 1))
    if data is None or not data.startswith(code[0]):
        return None
    at, found = len(code[0]), []
    for part in code[1:]:
        value, at = int.from_bytes(data[at : at + 4], "little", signed=relative), at + 4
        found.append(value + begin + at if relative else value)
        if data[at : at + len(part)] != part or found[-1] not in inside:
            return None
        at += len(part)
    return found


def _by_variables(reader: Reader, form: Form, places: list[int] | None) -> list[_Entries]:
    if places is None:
        return []
    size, number = (reader.number(place, 4) for place in places[:2])
    begin = reader.number(places[2], form.word)
    if begin == 0:
        return [_Entries(0, [])]
    if begin is None or size is None or number is None:
        return []
    if not form.entry.size <= size <= _LARGEST_ENTRY or not 0 < number <= _MOST_ENTRIES:
        return []
    return [_entries(reader, form, begin, size, number)]


def _entries(reader: Reader, form: Form, begin: int, size: int, number: int) -> _Entries:
    rows: list[tuple[int, Module]] = []
    wrong = lost = 0
    most = 1 << 32 if form.word == 4 else reader.end  # noqa: PLR2004 - bytes of a pointer
    for place in range(number):
        data = reader.read(begin + place * size, form.entry.size)
        if data is None:
            lost += 1
            continue
        base, length, sequence, timestamp, checksum, text = form.entry.unpack(data)
        if not base:
            continue  # as it is before there were so many
        if base % PAGE or not 0 < length <= most - min(base, most):
            wrong += 1
            continue
        name = text.decode("utf-16-le", "surrogatepass").partition("\0")[0]
        rows.append((place, Module(base, length, name or None, None, timestamp, checksum, sequence)))
    # an entry's place follows from its number
    shifts = Counter(((row.sequence or 0) - place) % number for place, row in rows)
    first = shifts.most_common(1)[0][0] if shifts else 0
    kept = [row for place, row in rows if ((row.sequence or 0) - place) % number == first]
    return _Entries(number, kept, wrong + len(rows) - len(kept), lost)
