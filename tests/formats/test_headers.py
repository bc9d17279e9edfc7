"""PE and ELF headers: made ones, real ones against LIEF and pefile, wiped ones, hostile ones, and their names.

Real PE files come from Debian's packages gcc-mingw-w64-x86-64-posix-runtime, gcc-mingw-w64-i686-posix-runtime and
libwine: from where these install them, or from MEMCARVE_DLLS, a folder that they were unpacked into.
"""

from __future__ import annotations

import functools
import os
import struct
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from headers import BASE, DATA, MACHINES, SECTIONS, TEXT, WIPED, edited, elf_page, mapped, pe_page
from memcarve.errors import AddressError
from memcarve.formats.programs import pe
from memcarve.labels.headers import may_begin, name_of, parse_header
from memory import PAGE
from real import needed_dlls
from winimage.kernel import export_directory

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


def reader(memory: bytes, start: int = BASE, missing: Sequence[int] = ()) -> Callable[[int, int], bytes]:
    """Return what reads memory from `start` on, and raises AddressError at its end and in `missing` pages."""

    def read(address: int, size: int) -> bytes:
        for at in [address, *range(address + -address % PAGE, address + size, PAGE), start + len(memory)]:
            here = start <= at < start + len(memory) and at // PAGE * PAGE not in missing
            if address <= at < address + size and not here:
                raise AddressError(at, "not in the map")
        return memory[address - start : address - start + size]

    return read


# made headers


@pytest.mark.parametrize("machine", [*MACHINES])
@pytest.mark.parametrize("place", [0x40, 0x80, 0x3FC, 0xC00])
def test_pe(machine: str, place: int) -> None:
    """A PE header says machine, kind, size, time stamp and sections, wherever e_lfanew leads in the page."""
    header = parse_header(BASE, bytes(pe_page(machine, place)))
    assert header is not None
    assert header[:6] == (BASE, "PE", machine, "dll", 0x5000, 0x5F3759DF)
    assert header.sections == ((BASE + 0x1000, 0x2345, "r-x"), (BASE + 0x4000, 0x100, "rw-"))
    assert header.wiped is None


@pytest.mark.parametrize(
    ("traits", "subsystem", "address", "kind"),
    [
        (0x22, 3, BASE, "exe"),
        (0x22, 2, BASE, "exe"),
        (0x2022, 1, BASE, "dll"),
        (0x22, 1, BASE, "native"),
        (0x22, 1, 0xFFFF_F801_0000_0000, "driver"),
        (0x22, 10, BASE, "efi"),
        (0x20, 3, BASE, None),
    ],
)
def test_kinds(traits: int, subsystem: int, address: int, kind: str | None) -> None:
    """The kind follows from characteristics and subsystem; what needs no subsystem is a driver in the kernel's half."""
    header = parse_header(address, bytes(pe_page(traits=traits, subsystem=subsystem)))
    assert header is not None
    assert header.kind == kind


def test_unknown_machine() -> None:
    """A machine without a name is shown as a number."""
    header = parse_header(BASE, edited(pe_page(), (0x84, b"\x00\x02")))
    assert header is not None
    assert header.machine == "0x0200"


@pytest.mark.parametrize("wide", [True, False])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("kind", "word"), [(2, "exec"), (3, "dyn"), (4, "core"), (0xFE01, "0xfe01")])
def test_elf(wide: bool, order: str, kind: int, word: str) -> None:  # noqa: FBT001
    """An ELF header says its kind; of programs and libraries also their size in whole pages, and what lies where."""
    header = parse_header(BASE, bytes(elf_page(wide=wide, order=order, kind=kind)))
    loaded = kind in (2, 3)
    sections = ((BASE, 0x1800, "r-x"), (BASE + 0x3000, 0x900, "rw-"))
    assert header == (BASE, "ELF", "x64", word, 0x4000 if loaded else None, None, sections if loaded else (), None)


def test_program_at_its_own_address() -> None:
    """What is loaded at an address of its own lies relative to where its header was found."""
    header = parse_header(0x400000, bytes(elf_page(((0, 0x400000, 0x800, 4), (0x1000, 0x401000, 0x10, 5)), kind=2)))
    assert header is not None
    assert header.sections == ((0x400000, 0x800, "r--"), (0x401000, 0x10, "r-x"))
    assert header.size == 0x2000


@pytest.mark.parametrize(
    "loads",
    [
        ((0, 0, 0x1000, 5), (0x2100, 0x3000, 0x900, 6)),
        ((0, 0, 0x1000, 5), (0x2000, 0x800, 0x900, 6)),
        ((0x2000, 0x3000, 0x900, 6), (0, 0, 0x1000, 5)),
        ((0, 0, 0x1000, 5), (0x2000, 0x3000, 0xFFFF_FFFF_FFFF_F000, 6)),
        ((0x1000, 0x1000, 0x1000, 5),),
        (),
    ],
    ids=["at another place of a page", "overlapping", "out of order", "too large", "without the header", "nothing"],
)
def test_unsound_loads(loads: Sequence[tuple[int, int, int, int]]) -> None:
    """What is loaded is not told where program headers contradict each other or leave the header out, nor its size."""
    header = parse_header(BASE, bytes(elf_page(loads)))
    assert header is not None
    assert (header.size, header.sections, header.wiped) == (None, (), None)


def test_members() -> None:
    """JSON has addresses as strings and leaves out what is not known."""
    header = parse_header(BASE, bytes(pe_page(sections=SECTIONS[:1])))
    assert header is not None
    assert header.members() == {
        "address": "0x7ff612340000",
        "format": "PE",
        "machine": "x64",
        "kind": "dll",
        "size": 0x5000,
        "timestamp": 0x5F3759DF,
        "sections": [{"address": "0x7ff612341000", "size": 0x2345, "permissions": "r-x"}],
    }


# wiped marks


@pytest.mark.parametrize("machine", [*MACHINES])
@pytest.mark.parametrize("wiped", [*WIPED])
def test_wiped(machine: str, wiped: str) -> None:
    """A header is found without some of its marks; it says all the same, and which marks are gone."""
    page = pe_page(machine)
    whole, header = (parse_header(BASE, bytes(data)) for data in (page, edited(page, *WIPED[wiped])))
    assert whole is not None
    assert header == whole._replace(wiped=wiped)


@pytest.mark.parametrize("wide", [True, False])
def test_wiped_elf(wide: bool) -> None:  # noqa: FBT001
    """An ELF header is found without its magic."""
    page = elf_page(wide=wide)
    whole, header = (parse_header(BASE, data) for data in (bytes(page), edited(page, (0, b"\0\0\0\0"))))
    assert whole is not None
    assert header == whole._replace(wiped="magic")


UNSOUND = {
    "machine": (0x84, b"\x34\x12"),
    "another machine's magic": (0x84, b"\x4c\x01"),
    "no sections": (0x86, b"\0\0"),
    "97 sections": (0x86, b"\x61\0"),
    "optional header too short": (0x94, b"\x70\0"),
    "not executable": (0x96, b"\x20\x20"),
    "entry behind the end": (0xA8, b"\x00\x50\0\0"),
    "odd section alignment": (0xB8, b"\x00\x18\0\0"),
    "section alignment below a page": (0xB8, b"\x00\x08\0\0"),
    "no file alignment": (0xBC, b"\0\0\0\0"),
    "odd file alignment": (0xBC, b"\x00\x03\0\0"),
    "size 0": (0xD0, b"\0\0\0\0"),
    "larger than 2 GiB": (0xD0, b"\x00\x10\0\x80"),
    "headers larger than the image": (0xD4, b"\x00\x60\0\0"),
    "17 directories": (0x104, b"\x11\0\0\0"),
    "section behind the end": (0x194, b"\x00\x50\0\0"),
    "section not at a page": (0x194, b"\x10\x10\0\0"),
    "sections overlap": (0x190, b"\x01\x30\0\0"),
}


@pytest.mark.parametrize("field", [*UNSOUND])
def test_without_a_mark_all_else_must_be_right(field: str) -> None:
    """One field that is not sound, and a header without a mark is none; with its marks it still is one."""
    page = edited(pe_page(), UNSOUND[field])
    assert parse_header(BASE, page) is not None
    for wiped in ("MZ", "PE signature", "MZ and PE signature", "MZ and e_lfanew", "e_lfanew"):
        assert parse_header(BASE, edited(page, *WIPED[wiped])) is None


@pytest.mark.parametrize(
    "edit",
    [
        (9, b"\1"), (16, b"\1"), (18, b"\x11\x11"), (20, b"\0"), (32, b"\x10"), (52, b"\x34"), (54, b"\x20"),
        (56, b"\0"), (56, b"\xff"), (64, b"\3\0\0\0" + bytes(52) + b"\3"),
    ],
    ids=["pad", "type", "machine", "version", "table", "size", "row", "none", "too many", "nothing loaded"],
)  # fmt: skip
def test_without_magic_all_else_must_be_right(edit: tuple[int, bytes]) -> None:
    """One field of an ELF header that is not sound, and without the magic it is none."""
    assert parse_header(BASE, edited(elf_page(), (0, b"\0\0\0\0"), edit)) is None


def test_a_file_in_the_middle_of_a_page() -> None:
    """A page that begins with zeros and holds a PE file further down has no wiped header: that file has its own."""
    page = bytes(0x100) + bytes(pe_page())[: PAGE - 0x100]
    assert parse_header(BASE, page) is None
    assert parse_header(BASE, edited(page, (0x100, b"\0\0"))) is not None  # now nothing leads there


def test_signature_that_nothing_leads_to() -> None:
    """Without a DOS header a signature is looked for at multiples of four within the first 0x400 bytes."""
    tail = bytes(pe_page())[0x80:0x400]
    for place, there in ((0x40, True), (0x81, False), (0x82, False), (0x3E4, True), (0x3E8, False), (0x400, False)):
        header = parse_header(BASE, (bytes(place) + tail).ljust(PAGE, b"\0"))
        assert (header is not None) == there, hex(place)


def test_identification_alone_is_no_header() -> None:
    """Sixteen bytes that a loader compares others with are no ELF header."""
    assert parse_header(BASE, bytes(elf_page()[:16]).ljust(PAGE, b"\0")) is None


@pytest.mark.parametrize("marks", range(4))
def test_marked_noise_is_no_header(marks: int) -> None:
    """Noise with everything that is looked at first put in place is no header without its marks."""
    random = np.random.default_rng(marks)
    good = bytes(pe_page())
    for page in random.integers(0, 256, (3000, PAGE), np.uint8):
        page[0x3C:0x40] = np.frombuffer(good, np.uint8)[0x3C:0x40]
        page[0x84:0x86] = np.frombuffer(good, np.uint8)[0x84:0x86]
        page[0x98:0x9A] = np.frombuffer(good, np.uint8)[0x98:0x9A]
        if marks & 1:
            page[0x80:0x84] = np.frombuffer(good, np.uint8)[0x80:0x84]
        if marks & 2:
            page[4:7] = np.frombuffer(bytes(elf_page()), np.uint8)[4:7]
        assert may_begin(memoryview(page), 0, PAGE)
        assert parse_header(BASE, page.tobytes()) is None


# hostile headers


@pytest.mark.parametrize("place", [0, 1, 3, 0x82, 0xFFC, 0x1000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF])
def test_astray(place: int) -> None:
    """An e_lfanew that leads nowhere, or to a place that is no multiple of four, is no header's."""
    page = edited(pe_page(), (2, b"\x90"), (0x3C, struct.pack("<I", place)))
    if 0 < place < PAGE - 4:
        page = edited(page, (place, bytes(pe_page())[0x80:0x200]))
    assert parse_header(BASE, page[:PAGE]) is None


def test_headers_within_each_other() -> None:
    """PE headers that begin within the DOS header, as in the smallest programs, are read."""
    page = pe_page()
    small = bytearray(PAGE)
    small[:2] = b"MZ"
    small[4:0x104] = page[0x80:0x180]
    small[0x3C:0x40] = b"\4\0\0\0"  # SectionAlignment at the same place
    header = parse_header(BASE, bytes(small))
    assert header is not None
    assert (header.machine, header.size, header.sections) == ("x64", 0x5000, ())


@pytest.mark.parametrize(
    ("change", "size"),
    [
        ({"count": 65535}, 0x5000),
        ({"count": 97}, 0x5000),
        ({"size": 0}, 0),
        ({"sections": ((0x1000, 0x2000, TEXT), (0x2000, 0x1000, DATA))}, 0x5000),
        ({"sections": ((0x2000, 0x1000, TEXT), (0x1000, 0x1000, DATA))}, 0x5000),
        ({"sections": ((0x1000, 0xFFFFFFFF, TEXT),)}, 0x5000),
        ({"sections": ((0x1000, 0x10, TEXT),), "alignment": 0x20}, 0x5000),
        ({"sections": ()}, 0x5000),
    ],
)
def test_unsound_sections(change: dict[str, Any], size: int) -> None:
    """Sections that are too many, overlap, lie outside of the image or have no pages of their own are not told."""
    header = parse_header(BASE, bytes(pe_page(**change)))
    assert header is not None
    assert (header.sections, header.size, header.wiped) == ((), size, None)


def test_section_table_outside_of_the_page() -> None:
    """Sections whose headers are not in the first page are not told; one less, and they are."""
    most = (PAGE - 0x188 - 0x400) // 40
    sections = [(0x1000 * number, 0x1000, TEXT) for number in range(1, most + 2)]
    page = bytes(pe_page(place=0x480, sections=sections[:most], size=0x100000))
    header = parse_header(BASE, page)
    assert header is not None
    assert len(header.sections) == most
    header = parse_header(BASE, edited(page, (0x486, bytes([most + 1]))))
    assert header is not None
    assert header.sections == ()


def test_largest_image() -> None:
    """An image that says it takes 4 GiB is told so."""
    header = parse_header(BASE, bytes(pe_page(size=0xFFFFFFFF)))
    assert header is not None
    assert header.size == 0xFFFFFFFF
    assert len(header.sections) == 2


@pytest.mark.parametrize("page", [pe_page(), elf_page()], ids=["PE", "ELF"])
def test_at_the_top_of_the_address_space(page: bytearray) -> None:
    """Sections that would lie behind the last address are not told; up to it they are."""
    end = 0x4100 if page[:2] == b"MZ" else 0x3900
    for address, count in (((1 << 64) - 0x1000, 0), ((1 << 64) - end, 2)):
        header = parse_header(address, bytes(page))
        assert header is not None
        assert len(header.sections) == count
        assert all(start + size <= 1 << 64 for start, size, _ in header.sections)


@pytest.mark.parametrize("page", [pe_page(), elf_page(), elf_page(wide=False)], ids=["PE", "ELF", "ELF32"])
def test_cut_anywhere(page: bytearray) -> None:
    """However little of a header is there, nothing fails, and what is found is what the whole one says or less."""
    whole = parse_header(BASE, bytes(page))
    assert whole is not None
    for size in range(0x220):
        header = parse_header(BASE, bytes(page[:size]))
        assert header is None or header._replace(size=whole.size, sections=whole.sections) == whole


@pytest.mark.parametrize("page", [pe_page(), elf_page(), elf_page(wide=False)], ids=["PE", "ELF", "ELF32"])
def test_damaged_anywhere(page: bytearray) -> None:
    """Whatever is written over a header, reading it and its name ends, in nothing but a header or none."""
    random = np.random.default_rng(5)
    for _ in range(3000):
        damaged = page.copy()
        for at in random.integers(0, 0x220, 3).tolist():
            width = int(random.choice([1, 2, 4, 8]))
            damaged[at : at + width] = random.choice([b"\0", b"\xff", b"\x7f", b"\1", b"\x80"]) * width
        header = parse_header(BASE, bytes(damaged))
        assert may_begin(memoryview(damaged), 0, PAGE) or header is None
        if header is not None:
            assert sum(size for _, size, _ in header.sections) < 1 << 64
            assert name_of(reader(bytes(damaged)), header) is None


# names


def image_with_name(name: bytes, *, at: int = 0x2800, functions: int = 1) -> bytes:
    """Return an image in memory with an export directory at 0x2000 that leads to a name."""
    memory = pe_page(directories={0: (0x2000, 0x100)}) + bytearray(0x4000)
    struct.pack_into("<IIIIIIIIII", memory, 0x2000, 0, 0, 0, at, 1, functions, 0, 0x2100, 0, 0)
    memory[at : at + len(name)] = name
    return bytes(memory)


def named(memory: bytes, missing: Sequence[int] = ()) -> str | None:
    """Return the name of the image at BASE."""
    header = parse_header(BASE, memory[:PAGE])
    assert header is not None
    return name_of(reader(memory, missing=missing), header)


@pytest.mark.parametrize(
    ("raw", "name"),
    [
        (b"evil.dll\0", "evil.dll"),
        (b"\x1b[31mred\r\n.dll\0", "\x1b[31mred\r\n.dll"),
        ("größe.dll\0".encode(), "größe.dll"),
        (b"\xff\xfe.dll\0", "\\xff\\xfe.dll"),
        (b"\0", None),
        (b"A" * 511 + b"\0", "A" * 511),
        (b"A" * 512, None),
    ],
)
def test_export_name(raw: bytes, name: str | None) -> None:
    """The export directory's name is told as it stands there, what is no text escaped; one without end is not."""
    assert named(image_with_name(raw)) == name


def test_name_at_the_end_of_what_is_there() -> None:
    """A name is read up to its end: what lies behind it may be missing; where a byte of it is missing there is none."""
    memory = image_with_name(b"name.dll\0", at=0x2FF7)
    assert named(memory, missing=[BASE + 0x3000]) == "name.dll"
    assert named(image_with_name(b"name.dll\0", at=0x2FFA), missing=[BASE + 0x3000]) is None
    assert named(image_with_name(b"name.dll\0", at=0x2FFA)) == "name.dll"
    for page in (0, 0x2000):
        assert named(memory, missing=[BASE + page]) is None


def test_something_else_where_the_exports_were() -> None:
    """What is no export directory gives no name."""
    assert named(edited(image_with_name(b"name.dll\0"), (0x2000, b"\1"))) is None
    assert named(image_with_name(b"name.dll\0", functions=0xFFFFFFFF)) is None


@pytest.mark.parametrize("kind", [b"RSDS" + bytes(20), b"NB10" + bytes(12)])
@pytest.mark.parametrize("path", [b"C:\\build\\tool.pdb", b"/src/tool.pdb", b"tool.pdb"])
def test_pdb_name(kind: bytes, path: bytes) -> None:
    """Without exports the name is that of the PDB, without its folders."""
    memory = pe_page(directories={6: (0x2000, 56)}) + bytearray(0x4000)
    struct.pack_into("<12xIIII", memory, 0x2000, 12, 0, 0, 0)
    struct.pack_into("<12xIIII", memory, 0x201C, 2, 100, 0x3000, 0x600)
    memory[0x3000 : 0x3000 + len(kind + path)] = kind + path
    assert named(bytes(memory)) == "tool.pdb"


def _there(image: bytes, place: int, size: int) -> bytes:
    """Return bytes of an image, zeros behind its end."""
    return image[place : place + size].ljust(size, b"\0")


def test_exports_of_which_pages_are_not_in_memory() -> None:
    """Where a page of the export directory is not in memory a name leads to its own function, or to none."""
    names = [b"Name%04d" % number for number in range(1500)]
    at, rng = 0x1000, np.random.default_rng(1)
    expected = {name: 0x100000 + 16 * number for number, name in enumerate(names)}
    data = export_directory(at, b"some.dll", expected, rng)
    pages, found = -(-len(data) // PAGE), 0
    for lost in [None, *range(pages)]:
        image = bytearray(bytes(at) + data.ljust(pages * PAGE, b"\0"))
        if lost is not None:
            image[at + lost * PAGE : at + (lost + 1) * PAGE] = bytes(PAGE)
        peek = functools.partial(_there, bytes(image))
        exports = pe.exported(peek, (at, 0), names)
        wrong = {name for name, place in exports.items() if expected[name] != place}
        assert not wrong
        assert (lost is None) == (exports == expected)
        found += bool(exports)
    assert found > pages // 2


def test_endless_debug_directory() -> None:
    """A debug directory of 4 GiB is looked at up to its sixteenth entry."""
    sizes: list[int] = []
    memory = bytes(pe_page(directories={6: (0x1000, 0xFFFFFFFF)})) + bytes(0x4000)
    read = reader(memory)
    header = parse_header(BASE, memory[:PAGE])
    assert header is not None
    assert name_of(lambda address, size: sizes.append(size) or read(address, size), header) is None  # type: ignore[func-returns-value]
    assert max(sizes) <= PAGE
    assert len(sizes) < 10


@pytest.mark.parametrize("wide", [True, False])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("relocated", [True, False])
def test_soname(wide: bool, order: str, relocated: bool) -> None:  # noqa: FBT001
    """A library's name is found whether its loader left the addresses in the dynamic section as they were, or not."""
    base = BASE if wide else 0x7612_0000
    memory = elf_page(wide=wide, order=order, dynamic=(0x2000, 0x3000, 0x100)) + bytearray(0x3000)
    entries = [(1, 7), (5, 0x1000 + (base if relocated else 0)), (10, 0x40), (14, 0x10), (0, 0), (14, 0x20)]
    for number, entry in enumerate(entries):
        struct.pack_into(order + ("qQ" if wide else "iI"), memory, 0x3000 + (16 if wide else 8) * number, *entry)
    memory[0x1010:0x101C] = b"libevil.so.1"
    header = parse_header(base, bytes(memory[:PAGE]))
    assert header is not None
    assert name_of(reader(bytes(memory), base), header) == "libevil.so.1"
    assert name_of(reader(bytes(memory), base, missing=[base + 0x3000]), header) is None
    struct.pack_into(order + ("qQ" if wide else "iI"), memory, 0x3000 + (32 if wide else 16), 10, 0x10)
    assert name_of(reader(bytes(memory), base), header) is None  # behind the end of the strings


# real ones


def test_real_dlls() -> None:
    """Real images say what LIEF and pefile read from their files: also without marks, and from the first page alone."""
    lief, pefile = pytest.importorskip("lief"), pytest.importorskip("pefile")
    for path in needed_dlls():
        with open(path, "rb") as file:
            data = file.read()
        oracle, other = lief.PE.parse(data), pefile.PE(data=data, fast_load=True)
        header = parse_header(BASE, data[:PAGE])
        assert header is not None, path
        assert header.machine == {"AMD64": "x64", "I386": "x86", "ARM64": "arm64"}[oracle.header.machine.name]
        assert header.kind == ("dll" if other.is_dll() else "exe")
        assert (header.size, header.timestamp) == (other.OPTIONAL_HEADER.SizeOfImage, other.FILE_HEADER.TimeDateStamp)
        assert header.size == oracle.optional_header.sizeof_image
        sections = [(BASE + row.VirtualAddress, row.Misc_VirtualSize or row.SizeOfRawData) for row in other.sections]
        assert [row[:2] for row in header.sections] == sections, path
        for (_, _, permissions), section in zip(header.sections, oracle.sections, strict=True):
            has = {flag.name for flag in section.characteristics_lists}
            words = (("r", "MEM_READ"), ("w", "MEM_WRITE"), ("x", "MEM_EXECUTE"))
            assert permissions == "".join(letter if word in has else "-" for letter, word in words)
        place = other.DOS_HEADER.e_lfanew
        for edits, wiped in (
            (((0, b"\0\0"),), "MZ"),
            (((place, b"\0\0\0\0"),), "PE signature"),
            (((0, bytes(64)),), "MZ and e_lfanew"),
        ):
            assert parse_header(BASE, edited(data[:PAGE], *edits)) == header._replace(wiped=wiped), path


def test_names_of_real_dlls() -> None:
    """A real image's name is the one that LIEF reads, as the image is mapped and as it lies in its file."""
    lief = pytest.importorskip("lief")
    seen = 0
    for path in needed_dlls():
        with open(path, "rb") as file:
            data = file.read()
        oracle = lief.PE.parse(data)
        name = oracle.get_export().name if oracle.has_exports else None
        header = parse_header(BASE, data[:PAGE])
        assert header is not None
        for memory in (mapped(oracle, data), data):
            found = name_of(quick_reader(memory), header)
            assert found == name if name else found is None or found.endswith(".pdb"), path
        seen += bool(name)
    assert seen


def quick_reader(memory: bytes) -> Callable[[int, int], bytes]:
    """Return what reads large memory at BASE."""

    def read(address: int, size: int) -> bytes:
        if address < BASE or address + size > BASE + len(memory):
            raise AddressError(address, "not in the map")
        return memory[address - BASE : address - BASE + size]

    return read


@pytest.mark.skipif(sys.platform != "linux", reason="asks for the libraries that are loaded, which is Linux's to tell")
def test_real_libraries() -> None:
    """The libraries of this very program say what LIEF reads from their files: where they are mapped, and as files."""
    lief = pytest.importorskip("lief")
    with open("/proc/self/maps", encoding="utf-8") as maps:
        rows = [row for row in (line.rstrip("\n").split(None, 5) for line in maps) if len(row) > 5]
    firsts = {row[5]: int(row[0].split("-")[0], 16) for row in reversed(rows) if row[2] == "00000000"}
    libraries = {path: address for path, address in firsts.items() if os.path.isfile(path) and ".so" in path}
    assert libraries
    with open("/proc/self/mem", "rb", buffering=0) as memory:

        def read(address: int, size: int) -> bytes:
            try:
                memory.seek(address)
                return memory.read(size)
            except OSError:
                raise AddressError(address, "not in the map") from None

        for path, address in [*libraries.items()][:40]:
            oracle = lief.ELF.parse(path)
            header = parse_header(address, read(address, PAGE))
            assert header is not None, path
            assert (header.format, header.kind, header.wiped) == ("ELF", "dyn", None)
            loads = [row for row in oracle.segments if row.type == lief.ELF.Segment.TYPE.LOAD]
            expected = [(address + row.virtual_address, row.virtual_size) for row in loads]
            assert [row[:2] for row in header.sections] == expected, path
            last = loads[-1].virtual_address + loads[-1].virtual_size
            assert header.size == last + -last % PAGE
            tag = lief.ELF.DynamicEntry.TAG.SONAME
            name = oracle.get(tag).name if oracle.has(tag) else None
            assert name_of(read, header) == name, path
            with open(path, "rb") as file:
                assert name_of(quick_reader(file.read()), header._replace(address=BASE)) == name, path
