"""Modules out of memory: made ones, as files and as in memory, listed or found, damaged, hostile; folders, archives."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import shutil
import stat
import struct
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import memcarve
import winimage
from carved import undone
from cli import invoke
from dumps import write_dump
from files import listing
from headers import BASE, DATA, TEXT, WIPED, edited, elf_page, pe_page
from memcarve.errors import AddressError, MissingExtraError, NoSpaceError, OutputError, TargetExistsError, UsageError
from memcarve.formats.programs import elf, elf_image, pe, pe_image
from memcarve.formats.programs.mapped_module import MappedModule, Plan
from memcarve.labels.content import observe
from memcarve.labels.modules import find_modules
from memcarve.metadata import Module, Region
from memcarve.process import ProcessMemory, Selection
from memcarve.sinks import extract as sink
from memcarve.sinks.archive import NewArchive
from memcarve.space import AddressSpace
from memory import PAGE, Memory, noise
from processes import metadata_of, process_of
from sinking import extract

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from memcarve.sinks.sink import Result

    Capture = pytest.CaptureFixture[bytes]

FIRST = BASE // PAGE
NAME = "0x00007ff612340000.unnamed.dll.bin"


def laid(header: bytes, pages: int = 5, base: int = FIRST) -> dict[int, bytes]:
    """Return the pages of an image by number: its header, and noise that says which page it is."""
    return {base: bytes(header), **{base + number: noise(number) for number in range(1, pages)}}


def memory(pages: Mapping[int, bytes], metadata: Any = None) -> ProcessMemory:
    """Return a process that has these pages, by number."""
    return process_of(dict.fromkeys(pages), metadata, pages)


def taken(
    process: ProcessMemory, out: Path, selection: Selection | None = None, **options: Any
) -> tuple[Result, dict[str, Any]]:
    """Extract the modules of a process; return the result and what modules.json says."""
    found = find_modules(process, selection)
    result = extract(process, out, found.modules, **options)
    return result, json.loads((out / "modules.json").read_text())


def only(document: dict[str, Any]) -> dict[str, Any]:
    """Return the one module that is listed."""
    (module,) = document["modules"]
    return dict(module)


# what is made of a PE image


def test_file_layout(tmp_path: Path) -> None:
    """Sections follow the headers page by page, section headers lead there, and the base is where the image lay."""
    pages = laid(pe_page())
    result, document = taken(memory(pages), tmp_path / "out")
    data = (tmp_path / "out" / NAME).read_bytes()
    assert (result.of, result.count, result.bytes, result.missing_bytes) == (1, 1, len(data), 0)
    order = [FIRST, FIRST + 1, FIRST + 2, FIRST + 3, FIRST + 4]  # two sections, of three pages and one
    assert undone(data, only(document)) == b"".join(pages[number] for number in order)
    rows = [struct.unpack_from("<IIII", data, 0x80 + 24 + 240 + 40 * number + 8) for number in range(2)]
    assert rows == [(0x2345, 0x1000, 0x3000, 0x1000), (0x100, 0x4000, 0x1000, 0x4000)]
    assert struct.unpack_from("<Q", data, 0x80 + 24 + 24) == (BASE,)
    assert only(document)["layout"] == "file"
    assert "why" not in only(document)


def test_sections_that_lie_apart(tmp_path: Path) -> None:
    """Between sections no room is left in the file; what is in memory there is listed as not in the file."""
    header = pe_page(sections=((0x2000, 0x800, TEXT), (0x10000, 0x1000, DATA)), size=0x12000)
    pages = {**laid(header, 4), FIRST + 16: noise(16), FIRST + 17: noise(17)}
    _, document = taken(memory(pages), tmp_path / "out")
    data = (tmp_path / "out" / NAME).read_bytes()
    assert data[0x1000:] == noise(2) + noise(16)
    beside = [row for row in only(document)["sections"] if row["offset"] is None]
    assert [(row["address"], row["size"], row["resident"]) for row in beside] == [
        (hex(BASE + 0x1000), 0x1000, 0x1000),
        (hex(BASE + 0x3000), 0xD000, 0x1000),
        (hex(BASE + 0x11000), 0x1000, 0x1000),
    ]


def test_memory_layout(tmp_path: Path) -> None:
    """With layout memory the file is what memory holds, byte for byte, up to the size in the header."""
    pages = {number: page for number, page in laid(pe_page(), 9).items() if number != FIRST + 2}
    result, document = taken(memory(pages), tmp_path / "out", layout="memory")
    data = (tmp_path / "out" / NAME).read_bytes()
    assert data == b"".join(pages.get(FIRST + number, bytes(PAGE)) for number in range(5))
    assert result.missing_bytes == only(document)["missing_bytes"] == PAGE
    assert only(document)["changes"] == []
    assert [row["offset"] for row in only(document)["sections"]] == [0, 0x1000, 0x4000]


@pytest.mark.parametrize("layout", ["file", "memory"])
def test_missing_pages(tmp_path: Path, layout: str) -> None:
    """Pages that are not in memory are zeros in the file, and listed with their addresses, section by section."""
    pages = {number: page for number, page in laid(pe_page()).items() if number not in (FIRST + 1, FIRST + 3)}
    result, document = taken(memory(pages), tmp_path / "out", layout=layout)
    data = (tmp_path / "out" / NAME).read_bytes()
    assert data[0x1000:] == bytes(PAGE) + noise(2) + bytes(PAGE) + noise(4)
    rows = {row.get("name"): row for row in only(document)["sections"]}
    gaps = [{"start": hex(BASE + at), "end": hex(BASE + at + PAGE), "size": PAGE} for at in (0x1000, 0x3000)]
    both = [row for row in only(document)["sections"] if row.get("name") == ".text"]
    assert (both[0]["resident"], both[0]["missing"]) == (PAGE, gaps)
    assert (both[1]["resident"], both[1]["missing"]) == (PAGE, [])
    assert rows[None]["resident"] == PAGE
    assert result.missing_bytes == 2 * PAGE
    assert result.complete  # what the system has swapped out is normal


def test_pieces_of_pages(tmp_path: Path) -> None:
    """Of a page of which only a part is there, that part is in the file and the rest is listed, to the byte."""
    starts, sizes = [BASE, BASE + 0x1800, BASE + 0x2FFF], [PAGE, 0x700, 2]
    blocks = [bytes(pe_page()), noise(1, 0x700), noise(2, 2)]
    offsets = np.array([0, PAGE, PAGE + 0x700], np.uint64)
    space = AddressSpace(np.array(starts, np.uint64), np.array(sizes, np.uint64), offsets, Memory(b"".join(blocks)))
    _, document = taken(ProcessMemory(space), tmp_path / "out")
    data = (tmp_path / "out" / NAME).read_bytes()
    expected = bytearray(0x5000)
    for start, block in zip(starts, blocks, strict=True):
        expected[start - BASE : start - BASE + len(block)] = block
    assert undone(data, only(document)) == bytes(expected)
    (text, _) = (row for row in only(document)["sections"] if "name" in row)
    bounds = [(int(gap["start"], 16) - BASE, int(gap["end"], 16) - BASE) for gap in text["missing"]]
    assert bounds == [(0x1000, 0x1800), (0x1F00, 0x2FFF), (0x3001, 0x4000)]


@pytest.mark.parametrize("machine", ["x64", "x86"])
@pytest.mark.parametrize("wiped", [*WIPED])
def test_wiped_marks(tmp_path: Path, machine: str, wiped: str) -> None:
    """Marks that were wiped are put back into a file, which is listed; as in memory they stay gone."""
    lief = pytest.importorskip("lief")
    page = edited(pe_page(machine), *WIPED[wiped])
    base = FIRST if machine == "x64" else 0x400
    process = memory(laid(page, base=base))
    _, document = taken(process, tmp_path / "out")
    name = only(document)["file"]
    data = (tmp_path / "out" / name).read_bytes()
    parsed = lief.PE.parse(data)
    assert [row.pointerto_raw_data for row in parsed.sections] == [0x1000, 0x4000]
    assert parsed.optional_header.imagebase == base * PAGE
    assert only(document)["header"]["wiped"] == wiped
    assert undone(data, only(document))[:PAGE] == page
    taken(process, tmp_path / "raw", layout="memory")
    assert (tmp_path / "raw" / name).read_bytes()[:PAGE] == page


def test_what_leads_nowhere(tmp_path: Path) -> None:
    """Symbols, certificates and line numbers are not in memory: what leads to them is taken out and listed."""
    page = pe_page(directories={4: (0x12345, 0x678), 1: (0x2000, 0x50)})
    struct.pack_into("<II", page, 0x8C, 0x9999, 77)
    struct.pack_into("<IIHH", page, 0x80 + 24 + 240 + 24, 5, 6, 7, 8)
    _, document = taken(memory(laid(page)), tmp_path / "out")
    data = (tmp_path / "out" / NAME).read_bytes()
    fields = {change["field"] for change in only(document)["changes"]}
    assert fields >= {"PointerToSymbolTable", "NumberOfSymbols", "certificate table's address"}
    assert data[0x8C:0x94] == bytes(8)
    assert data[0x80 + 24 + 112 + 32 : 0x80 + 24 + 112 + 40] == bytes(8)
    assert data[0x80 + 24 + 240 + 24 : 0x80 + 24 + 240 + 36] == bytes(12)
    assert struct.unpack_from("<II", data, 0x80 + 24 + 120) == (0x2000, 0x50)  # another directory stays
    assert undone(data, only(document))[:PAGE] == bytes(page)


def test_debug_directory(tmp_path: Path) -> None:
    """The debug directory leads to the name of the PDB in the new file; nothing else in a section is changed."""
    pefile = pytest.importorskip("pefile")
    header = pe_page(sections=((0x4000, 0x1000, TEXT), (0x6000, 0x1000, DATA)), size=0x7000,
                     directories={6: (0x4100, 28)})  # fmt: skip
    debug = bytearray(PAGE)
    struct.pack_into("<IIHHIIII", debug, 0x100, 0, 0, 0, 0, 2, 0x30, 0x6010, 0x777)
    record = b"RSDS" + noise(3, 16) + b"\1\0\0\0evil.pdb\0"
    pages = {FIRST: bytes(header), FIRST + 4: bytes(debug), FIRST + 6: (bytes(16) + record).ljust(PAGE, b"\0")}
    _, document = taken(memory(pages), tmp_path / "out")
    (name,) = [name for name in listing(tmp_path / "out") if name.startswith("0x")]
    data = (tmp_path / "out" / name).read_bytes()
    parsed = pefile.PE(data=data)
    assert parsed.DIRECTORY_ENTRY_DEBUG[0].entry.PdbFileName.rstrip(b"\0") == b"evil.pdb"
    assert struct.unpack_from("<I", data, 0x1100 + 24) == (0x2010,)
    assert undone(data, only(document)) == bytes(header) + pages[FIRST + 4] + pages[FIRST + 6]
    assert name == "0x00007ff612340000.evil.pdb.bin"


def test_base_that_does_not_fit(tmp_path: Path) -> None:
    """A 32-bit image above 4 GiB keeps the base in its header, which cannot hold the true one."""
    _, document = taken(memory(laid(pe_page("x86"))), tmp_path / "out")
    assert not [change for change in only(document)["changes"] if change["field"] == "ImageBase"]
    assert only(document)["base"] == hex(BASE)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"sections": ((0x1001, 0x2000, TEXT), (0x9000, 0x1000, DATA))}, "section headers are not sound"),
        ({"count": 97}, "section headers are not sound"),
        ({"sections": ((0, 0x2000, TEXT),)}, "first section lies where its headers do"),
    ],
)
def test_headers_that_make_no_file(tmp_path: Path, change: dict[str, Any], why: str) -> None:
    """Where sections cannot be laid out the file is as in memory, unchanged, and says why."""
    pages = laid(pe_page(**change))
    result, document = taken(memory(pages), tmp_path / "out")
    assert (tmp_path / "out" / NAME).read_bytes() == b"".join(pages.values())
    assert only(document)["layout"] == "memory"
    assert why in only(document)["why"]
    assert result.notes == ["laid out as in memory: 1 of 1 module; modules.json says why"]


#: headers (address, size), and what is left of each: how many of its pages; five pages belong to the image
ABSURD = {
    "beyond the image": ([(0x1000, 0x1000), (0x2000, 0x1000), (0x90000000, 0x7FFFFFFF)], [1, 1, 0]),
    "between others": ([(0x1000, 0x1000), (0x90000000, 0x7FFFFFFF), (0x2000, 0x3000)], [1, 0, 3]),
    "first": ([(0xFFFFF000, 0xFFFFFFFF), (0x1000, 0x1000), (0x2000, 0x1000)], [0, 1, 1]),
    "too large": ([(0x1000, 0x7FFFFFFF), (0x2000, 0x1000)], [1, 1]),
    "too large at the end": ([(0x1000, 0x1000), (0x2000, 0x7FFFFFFF)], [1, 3]),
    "overlapping": ([(0x1000, 0x2000), (0x2000, 0x1000)], [1, 1]),
    "twice the same": ([(0x1000, 0x1000), (0x1000, 0x1000)], [0, 1]),
    "in the middle of a page": ([(0x1800, 0x1000), (0x2000, 0x1000)], [0, 1]),
    "where the headers are": ([(0x1000, 0x1000), (0x0, 0x1000), (0x2000, 0x5000)], [1, 0, 3]),
    "out of order": ([(0x3000, 0x1000), (0x1000, 0x1000), (0x90000000, 0x1000)], [1, 1, 0]),
}


@pytest.mark.parametrize("kind", ABSURD)
def test_an_absurd_section_header(tmp_path: Path, kind: str) -> None:
    """Sound sections are laid out as in a file; one that cannot be is cut, and the change is listed."""
    rows, left = ABSURD[kind]
    pages = laid(pe_page(sections=[(at, size, TEXT) for at, size in rows], size=0x5000))
    _, document = taken(memory(pages), tmp_path / "out")
    module, data = only(document), (tmp_path / "out" / NAME).read_bytes()
    assert module["layout"] == "file"
    assert "headers of sections that cannot be were cut" in module["why"]
    assert data[0x1000:] == b"".join(
        noise(at // PAGE + number) for (at, _), count in zip(rows, left, strict=True) for number in range(count)
    )
    place = 0x1000
    for number, ((at, size), count) in enumerate(zip(rows, left, strict=True)):
        now = struct.unpack_from("<IIII", data, 0x80 + 24 + 240 + 40 * number + 8)
        whole = -(-size // PAGE) == count
        assert now == (size if whole else count * PAGE, at, count * PAGE, place if count else 0)
        assert any(change["field"].startswith("VirtualSize") for change in module["changes"])
        place += count * PAGE
    assert undone(data, module)[:0x1000] == pages[FIRST]


def test_an_absurd_section_header_in_other_readers(tmp_path: Path) -> None:
    """A file whose absurd section header was cut is read by pefile and lief, with its sound sections."""
    pefile, lief = pytest.importorskip("pefile"), pytest.importorskip("lief")
    rows = [(at, size, TEXT) for at, size in ABSURD["beyond the image"][0]]
    taken(memory(laid(pe_page(sections=rows))), tmp_path / "out")
    found = pefile.PE(str(tmp_path / "out" / NAME))
    assert [found.get_data(at, PAGE) for at in (0x1000, 0x2000)] == [noise(1), noise(2)]
    binary = lief.PE.parse(str(tmp_path / "out" / NAME))
    assert [bytes(section.content) for section in list(binary.sections)[:2]] == [noise(1), noise(2)]


def test_a_section_table_that_leaves_the_page(tmp_path: Path) -> None:
    """Of a table of section headers that goes on behind the first page, those within it are laid out."""
    rows = [(0x1000 * number, 0x1000, TEXT) for number in range(2, 5)]
    page = pe_page(sections=rows, count=96)
    _, document = taken(memory(laid(page)), tmp_path / "out")
    module = only(document)
    assert module["layout"] == "file"
    assert [row["offset"] for row in module["sections"] if row.get("name") is not None] == [0x2000, 0x3000, 0x4000]
    assert "NumberOfSections" in [change["field"] for change in module["changes"]]


def test_sections_without_pages_of_their_own(tmp_path: Path) -> None:
    """An image with a section alignment below a page is mapped as its file is; only its base is set."""
    pages = laid(pe_page(alignment=0x20))
    _, document = taken(memory(pages), tmp_path / "out")
    data = (tmp_path / "out" / NAME).read_bytes()
    assert [change["field"] for change in only(document)["changes"]] == ["ImageBase"]
    assert undone(data, only(document)) == b"".join(pages.values())
    assert only(document)["layout"] == "file"


@pytest.mark.parametrize("alignment", [0, 3, 0x10, 0x40000, 0xFFFFFFFF])
def test_file_alignment_that_cannot_be(tmp_path: Path, alignment: int) -> None:
    """A file alignment that no file has is set to the usual one."""
    page = edited(pe_page(), (0x80 + 24 + 36, struct.pack("<I", alignment)))
    _, document = taken(memory(laid(page)), tmp_path / "out")
    data = (tmp_path / "out" / NAME).read_bytes()
    assert struct.unpack_from("<I", data, 0x80 + 24 + 36) == (0x200,)
    assert undone(data, only(document))[:PAGE] == page


def test_large_file_alignment(tmp_path: Path) -> None:
    """Sections are padded to a file alignment that is larger than a page."""
    lief = pytest.importorskip("lief")
    page = edited(pe_page(), (0x80 + 24 + 36, struct.pack("<I", 0x10000)))
    taken(memory(laid(page)), tmp_path / "out")
    data = (tmp_path / "out" / NAME).read_bytes()
    parsed = lief.PE.parse(data)  # its sections do not outlive it
    rows = [(row.pointerto_raw_data, row.sizeof_raw_data) for row in parsed.sections]
    assert rows == [(0x10000, 0x10000), (0x20000, 0x10000)]
    assert data[0x10000:0x20000] == b"".join(map(noise, (1, 2, 3))) + bytes(0xD000)
    assert len(data) == 0x30000


# what lies in memory as in its file


def flat_file() -> bytes:
    """Return a PE file as it is on disk: sections of 0x200 bytes from 0x400 on."""
    head = bytes(pe_page())[:0x400]
    return head + noise(1, 0x200) + noise(2, 0x200)


def test_as_it_lies(tmp_path: Path) -> None:
    """A file that was read into memory is copied as it lies there, not taken for an image that is mapped."""
    data = flat_file()
    process = memory({FIRST: data, FIRST + 1: bytes(PAGE)})
    for layout in ("file", "memory"):
        _, document = taken(process, tmp_path / layout, layout=layout)
        assert (tmp_path / layout / NAME).read_bytes() == data
        module = only(document)
        assert (module["layout"], module["changes"], module["loaded"]) == ("as it lies", [], False)
        assert module["why"] == "it lies in memory as in its file"  # a note says that the document says why
        assert [(row.get("name"), row["offset"], row["size"]) for row in module["sections"]] == [
            (None, 0, 0x400), (".text", 0x400, 0x200), (".text", 0x600, 0x200),
        ]  # fmt: skip


def test_certificates_of_a_file(tmp_path: Path) -> None:
    """The certificates at the end of a file that was read belong to it."""
    data = bytearray(flat_file() + noise(7, 0x100))
    struct.pack_into("<II", data, 0x80 + 24 + 112 + 32, 0x800, 0x100)
    taken(memory({FIRST: bytes(data), FIRST + 1: noise(1)}), tmp_path / "out")
    assert (tmp_path / "out" / NAME).read_bytes() == bytes(data)


def test_what_is_listed_is_mapped(tmp_path: Path) -> None:
    """An image that a list names is taken as mapped, whatever its first page holds behind the headers."""
    pages = {**laid(pe_page()), FIRST: flat_file().ljust(PAGE, b"\1")}
    _, document = taken(memory(pages, metadata_of(modules=[Module(BASE, 0x5000, "x.dll")])), tmp_path / "out")
    assert only(document)["layout"] == "file"
    assert only(document)["loaded"]


@pytest.mark.parametrize("flat", [True, False])
def test_relocations_tell(flat: bool) -> None:  # noqa: FBT001
    """Base relocations at one of the two places tell how an image lies, whatever the first page holds."""
    page = pe_page(directories={5: (0x4020, 0x20)})
    blocks = struct.pack("<IIHHHHII", 0x1000, 16, 0, 0, 0, 0, 0x2000, 16) + bytes(8)
    whole = bytearray(bytes(page) + bytes(0x4000))
    whole[0x900:0x910] = b"\1" * 16 if not flat else bytes(16)  # behind the headers
    at = 0x620 if flat else 0x4020  # the second section begins at 0x600 of the file
    whole[at : at + len(blocks)] = blocks
    found = pe.image(bytes(whole[:PAGE]))
    assert found is not None
    assert pe_image.lies_as_in_file(bytes(whole[:PAGE]), found, reading(bytes(whole))) == flat


def reading(data: bytes) -> Any:
    """Return what reads relative addresses."""

    def read(address: int, size: int) -> bytes:
        if address < 0 or address + size > len(data):
            raise AddressError(max(address, len(data)), "not in the map")
        return data[address : address + size]

    return read


# ELF


def elf_pages(wide: bool, order: str, dynamic: bool) -> tuple[dict[int, bytes], bytearray]:  # noqa: FBT001
    """Return an ELF library's pages: a load of 0x1800 bytes, and one of 0x900 at 0x3000, 0x2000 of its file."""
    page = elf_page(wide=wide, order=order, dynamic=(0x2100, 0x3100, 0x100) if dynamic else None)
    return laid(page, 4, FIRST if wide else 0x400), page


@pytest.mark.parametrize("wide", [True, False])
@pytest.mark.parametrize("order", ["<", ">"])
def test_elf_file(tmp_path: Path, wide: bool, order: str) -> None:  # noqa: FBT001
    """What is loaded lies at its place in the file; what follows in its page, too; the section table is taken out."""
    pages, page = elf_pages(wide, order, dynamic=False)
    struct.pack_into(order + ("Q" if wide else "I"), page, 40 if wide else 32, 0x5000)
    struct.pack_into(order + "HHH", page, 58 if wide else 46, 64 if wide else 40, 12, 11)
    base = min(pages)
    pages[base] = bytes(page)
    _, document = taken(memory(pages), tmp_path / "out")
    module = only(document)
    data = (tmp_path / "out" / module["file"]).read_bytes()
    assert {change["field"] for change in module["changes"]} == {"e_shoff", "e_shnum", "e_shstrndx"}
    assert undone(data, module) == bytes(page) + noise(1) + noise(3)
    assert struct.unpack_from(order + "HHH", data, 58 if wide else 46) == (64 if wide else 40, 0, 0)
    assert module["layout"] == "file"


def test_elf_dynamic(tmp_path: Path) -> None:
    """Addresses that the loader wrote into the dynamic section are relative again, other values stay."""
    pages, _ = elf_pages(wide=True, order="<", dynamic=True)
    entries = [(1, 7), (5, BASE + 0x400), (6, 0x500), (10, BASE + 8), (0x6FFFFFF0, BASE + 0x3FFF), (4, BASE + 0x4000)]
    raw = b"".join(struct.pack("<qQ", *entry) for entry in [*entries, (0, 0), (5, BASE)])
    pages[FIRST + 3] = edited(pages[FIRST + 3], (0x100, raw))
    _, document = taken(memory(pages), tmp_path / "out")
    data = (tmp_path / "out" / only(document)["file"]).read_bytes()
    found = [*struct.iter_unpack("<qQ", data[0x2100 : 0x2100 + len(raw)])]
    assert [value for _, value in found] == [7, 0x400, 0x500, BASE + 8, 0x3FFF, BASE + 0x4000, 0, BASE]
    assert [change["field"] for change in only(document)["changes"]] == ["d_ptr of tag 0x5", "d_ptr of tag 0x6ffffff0"]


def test_elf_in_memory_alone(tmp_path: Path) -> None:
    """What a program has in memory beyond its file is listed as not in the file; as in memory it is in it."""
    page = bytearray(elf_page())
    struct.pack_into("<QQ", page, 64 + 56 + 32, 0x400, 0x1900)  # p_filesz, p_memsz of the second load
    pages = laid(page, 6)
    _, document = taken(memory(pages), tmp_path / "out")
    data = (tmp_path / "out" / only(document)["file"]).read_bytes()
    assert data[0x2000:] == noise(3)[:0x400]
    (beside,) = [row for row in only(document)["sections"] if row["offset"] is None and row["size"] == 0x1500]
    assert (beside["address"], beside["resident"]) == (hex(BASE + 0x3400), 0x1500)
    taken(memory(pages), tmp_path / "raw", layout="memory")
    (name,) = [name for name in listing(tmp_path / "raw") if name.startswith("0x")]
    assert (tmp_path / "raw" / name).read_bytes() == b"".join(pages[FIRST + number] for number in range(5))


def test_elf_that_was_read(tmp_path: Path) -> None:
    """An ELF file that lies in memory as on disk ends with its section headers and is copied as it lies."""
    page = bytearray(elf_page(((0, 0, 0x800, 5), (0x900, 0x1900, 0x100, 6))))
    struct.pack_into("<Q", page, 40, 0xC00)
    struct.pack_into("<HHH", page, 58, 64, 3, 2)
    page[0xC00 + 64 : 0xC00 + 192] = struct.pack("<II", 1, 3).ljust(64, b"\0") * 2
    _, document = taken(memory({FIRST: bytes(page), FIRST + 1: noise(1)}), tmp_path / "out")
    assert (tmp_path / "out" / only(document)["file"]).read_bytes() == bytes(page[: 0xC00 + 192])
    assert only(document)["layout"] == "as it lies"
    assert only(document)["why"] == "it lies in memory as in its file"


#: program headers (offset, address, size, flags), and which of them are sound
ABSURD_LOADS = {
    "beyond the last address": ([(0, 0, 0x1800, 5), (0x2000, 0x3000, 0x900, 6), (0, 1 << 63, 1 << 63 | 1, 6)], [0, 1]),
    "between, large": ([(0, 0, 0x1800, 5), (0x2000, 0x2000, 1 << 62, 6), (0x2000, 0x3000, 0x900, 6)], [0, 2]),
    "across all others": ([(0, 0, 0x1800, 5), (0x1000, 0x1000, 1 << 40, 6), (0x2000, 0x3000, 0x900, 6)], [0, 2]),
    "out of order": ([(0, 0, 0x1800, 5), (0x2000, 0x3000, 0x900, 6), (0x1000, 0x1000, 0x100, 6)], [0, 1]),
    "its offset fits no page": ([(0, 0, 0x1800, 5), (0x123, 0x9000, 0x10, 6), (0x2000, 0x3000, 0x900, 6)], [0, 2]),
}  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "wide"),
    [
        (kind, wide)
        for kind, (loads, _) in ABSURD_LOADS.items()
        for wide in (True, False)
        if wide or all(number >> 32 == 0 for load in loads for number in load)  # what 32-bit headers can hold
    ],
)
def test_an_absurd_program_header(tmp_path: Path, kind: str, wide: bool) -> None:  # noqa: FBT001
    """What sound program headers load lies at its place in the file; one that cannot be is taken out, and listed."""
    loads, sound = ABSURD_LOADS[kind]
    header = elf_page(loads, wide=wide)
    _, document = taken(memory(laid(header)), tmp_path / "out")
    module = only(document)
    (path,) = (tmp_path / "out").glob("0x*.bin")
    data = path.read_bytes()
    assert module["layout"] == "file"
    assert "program headers that cannot be were taken out: 1" in module["why"]
    table, row = (64, 56) if wide else (52, 32)
    kinds = [struct.unpack_from("<I", data, table + row * number)[0] for number in range(3)]
    assert kinds == [1 if number in sound else 0 for number in range(3)]
    assert data[PAGE : 2 * PAGE] == noise(1)[: len(data[PAGE : 2 * PAGE])]
    assert data[0x2000:0x2900] == noise(3)[:0x900]
    assert [change["field"] for change in module["changes"] if change["field"].startswith("p_type")] != []


def test_elf_without_program_headers(tmp_path: Path) -> None:
    """An ELF header of which nothing says how large it is has no file, and says so."""
    result, document = taken(memory(laid(elf_page(kind=4))), tmp_path / "out")
    assert (result.count, only(document)["file"]) == (0, None)
    assert "program headers are not sound" in only(document)["why"]


# what is found


def test_listed_without_header(tmp_path: Path) -> None:
    """A listed module whose header is not in memory is as in memory, of the listed size, and says why."""
    pages = {FIRST + number: noise(number) for number in (1, 2, 4)}
    process = memory(pages, metadata_of(modules=[Module(BASE, 0x5000, "gone.dll", "C:\\gone.dll")]))
    _, document = taken(process, tmp_path / "out")
    module = only(document)
    assert (tmp_path / "out" / "0x00007ff612340000.gone.dll.bin").read_bytes() == b"".join(
        pages.get(FIRST + number, bytes(PAGE)) for number in range(5)
    )
    assert (module["layout"], module["why"]) == ("memory", "its header is not in memory")
    assert (module["header"], module["sources"], module["path"]) == (None, ["windows.dlllist"], "C:\\gone.dll")


def test_listed_where_nothing_is(tmp_path: Path) -> None:
    """A listed module of which nothing is in memory has no file, and is listed all the same; that is complete."""
    modules = [Module(BASE, 0x5000, "gone.dll"), Module(0, None, "null.dll")]
    result, document = taken(memory({0: noise(0)}, metadata_of(modules=modules)), tmp_path / "out")
    rows = {row["name"]: row for row in document["modules"]}
    assert (rows["gone.dll"]["file"], rows["gone.dll"]["why"]) == (None, "none of it is in memory")
    assert (rows["null.dll"]["base"], rows["null.dll"]["file"]) == ("0x0", None)
    assert listing(tmp_path / "out") == ["SHA256SUMS", "modules.json"]
    assert (result.complete, result.of, result.count) == (True, 2, 0)


def test_the_mapping_is_the_limit(tmp_path: Path) -> None:
    """A module ends with the mapping that it begins in, whatever its header or a list says."""
    regions = [Region(BASE, 0x3000, kind="private"), Region(BASE + 0x3000, 0x9000, kind="image", file="other", tag="V")]
    pages = laid(pe_page(size=0x8000), 9)
    process = memory(pages, metadata_of(regions, [Module(BASE, 0x9000, "short.dll")]))
    taken(process, tmp_path / "raw", Selection(file=["short*"]), layout="memory")
    assert (tmp_path / "raw" / "0x00007ff612340000.short.dll.bin").read_bytes() == b"".join(
        pages[FIRST + number] for number in range(3)
    )
    _, document = taken(process, tmp_path / "out", Selection(file=["short*"]))
    data = (tmp_path / "out" / "0x00007ff612340000.short.dll.bin").read_bytes()
    rows = [struct.unpack_from("<IIII", data, 0x80 + 24 + 240 + 40 * number + 8) for number in range(2)]
    assert rows == [(0x2345, 0x1000, 0x2000, 0x1000), (0x100, 0x4000, 0, 0)]
    assert data[0x1000:] == noise(1) + noise(2)
    assert only(document)["layout"] == "file"


def test_mappings_of_unix() -> None:
    """A library that is mapped in several regions is one module, up to another file's mapping, header or not."""
    regions = [
        Region(BASE, 0x2000, "r--p", "mapped", "/lib/a.so", offset=0),
        Region(BASE + 0x2000, 0x1000, "r-xp", "mapped", "/lib/a.so", offset=0x2000),
        Region(BASE + 0x3000, 0x2000, "rw-p", "private"),
        Region(BASE + 0x5000, 0x1000, "r-xp", "mapped", "/lib/b.so", offset=0),
        Region(BASE + 0x8000, 0x1000, "r--p", "mapped", "/usr/share/data", offset=0),
    ]
    pages = {FIRST + number: noise(number) for number in range(9)}
    found = find_modules(memory(pages, metadata_of(regions))).modules
    assert [(module.path, module.start, module.size, module.end) for module in found] == [
        ("/lib/a.so", BASE, 0x3000, BASE + 0x5000),
        ("/lib/b.so", BASE + 0x5000, 0x1000, BASE + 0x6000),
    ]
    without = [row for row in regions if row.protection != "r-xp"]  # as in cores that leave code out
    pages[FIRST] = bytes(elf_page())
    assert find_modules(memory(pages, metadata_of(without))).modules[0].end == BASE + 0x2000
    without[1] = Region(BASE + 0x3000, 0x1000, "rw-p", "mapped", "/lib/a.so", offset=0x2000)
    assert find_modules(memory(pages, metadata_of(without))).modules[0].end == BASE + 0x4000
    pages[FIRST] = bytes(pe_page())  # as Wine maps it
    found = find_modules(memory(pages, metadata_of(regions))).modules
    assert found[0].room(0x9000) == 0x5000
    assert found[0].sources == ("windows.vadinfo", "header")


def test_images_by_protection() -> None:
    """An image that is listed in several regions, one for each protection, is one module; what follows is not its."""
    regions = [
        Region(BASE, PAGE, "PAGE_READONLY", "image"),
        Region(BASE + PAGE, 2 * PAGE, "PAGE_EXECUTE_READ", "image"),
        Region(BASE + 3 * PAGE, PAGE, "PAGE_READWRITE", "image"),
        Region(BASE + 4 * PAGE, 9 * PAGE, "PAGE_READWRITE", "private"),
    ]
    (module,) = find_modules(
        memory({FIRST + number: noise(number) for number in range(9)}, metadata_of(regions))
    ).modules
    assert (module.start, module.size, module.end) == (BASE, 4 * PAGE, BASE + 4 * PAGE)


def test_choosing() -> None:
    """Modules are chosen by an address in them, by name or path whatever the case, and by half."""
    high = 0xFFFF_F801_0000_0000
    pages = {**laid(pe_page()), **laid(pe_page(), base=high // PAGE)}
    modules = [Module(BASE, 0x5000, "User.DLL", "C:\\Sub\\User.DLL"), Module(high, 0x5000, "drv.sys")]
    process = memory(pages, metadata_of(modules=modules))

    def chosen(**members: Any) -> list[str | None]:
        return [module.name for module in find_modules(process, Selection(**members)).modules]

    assert chosen() == ["User.DLL", "drv.sys"]
    assert chosen(half="user") == ["User.DLL"]
    assert chosen(half="kernel") == ["drv.sys"]
    assert chosen(address=[(BASE + 0x4FFF, BASE + 0x5000)]) == ["User.DLL"]
    assert chosen(address=[(BASE + 0x5000, BASE + 0x6000)]) == []
    assert chosen(address=[(0, BASE + 1), (high, high + 1)]) == ["User.DLL", "drv.sys"]
    assert chosen(file=["user.*"]) == chosen(file=["c:\\sub\\*"]) == ["User.DLL"]
    for wrong in ({"kind": ["image"]}, {"min_size": 1}, {"file": [""]}):
        with pytest.raises(UsageError):
            chosen(**wrong)


def test_nothing_is_chosen(tmp_path: Path, capfdbinary: Capture) -> None:
    """Where modules are there and none is chosen a note says so; where there are none, that is no matter."""
    process = memory(laid(pe_page()))
    for wanted in (Selection(file=["nosuch*"]), Selection(address=[(0, 1)])):
        assert find_modules(process, wanted).notes == ["of 1 module in memory none is chosen"]
    assert find_modules(process).notes == []
    assert find_modules(memory({}), Selection(file=["nosuch*"])).notes == []
    dump = write_dump(tmp_path, [(BASE, bytes(pe_page())), (BASE + PAGE, noise(1))])
    ran = invoke(capfdbinary, "extract", dump, "--file", "nosuch*", "-o", tmp_path / "out")
    assert ran.code == 0
    assert "note: of 1 module in memory none is chosen\n" in ran.err
    assert "0 files of 0 modules" in ran.err


@pytest.mark.parametrize(
    ("header", "name"),
    [
        (pe_page(), "unnamed.dll"),
        (pe_page(traits=0x22), "unnamed.exe"),
        (pe_page(traits=0x20), "unnamed"),
        (elf_page(), "unnamed.dyn"),
    ],
)
def test_nameless(tmp_path: Path, header: bytearray, name: str) -> None:
    """A module that nothing names is called unnamed, and by its kind where that is known."""
    _, document = taken(memory(laid(header)), tmp_path / "out")
    assert only(document)["file"] == f"0x{BASE:016x}.{name}.bin"
    assert "name" not in only(document)


@pytest.mark.parametrize("layout", range(winimage.LAYOUTS))
def test_windows_process(tmp_path: Path, layout: int) -> None:
    """Of a process in an image everything is extracted that was planned: listed, hidden, wiped, injected, gone."""
    lief = pytest.importorskip("lief")
    winimage.build(tmp_path / "mem.raw", layout=layout, processes=winimage.USERLAND)
    with memcarve.open(tmp_path / "mem.raw") as image:
        process = image.process(1624)
        _, document = taken(process, tmp_path / "out")
        space = process.space
        rows = {int(row["base"], 16): row for row in document["modules"]}
        found = {rows[base].get("name"): (rows[base].get("layout"), rows[base].get("why")) for base in rows}
        assert found["ntdll.dll"] == found["patched.dll"] == found["hidden.dll"] == ("file", None)
        assert found["KERNEL32.DLL"] == ("memory", "no header lies where it begins")
        assert found["gone.dll"][0] is None
        assert rows[0x2A0000]["sources"] == ["header"]
        assert rows[0x7FFA13000000]["sources"] == ["VAD tree", "header"]
        for base, row in rows.items():
            if row["file"] is None:
                continue
            data = (tmp_path / "out" / row["file"]).read_bytes()
            assert hashlib.sha256(data).hexdigest() == row["sha256"]
            parsed = lief.PE.parse(data) if row["layout"] == "file" else None
            assert parsed is None or parsed.optional_header.imagebase == base
            data = undone(data, row)
            for section in row["sections"]:
                address, size, offset = int(section["address"], 16), section["size"], section["offset"]
                expected = bytearray(size)
                for extent in space.extents():
                    low, high = max(extent.start, address), min(extent.end, address + size)
                    if low < high:
                        expected[low - address : high - address] = space.read(low, high - low)
                assert offset is None or data[offset : offset + size] == bytes(expected), (row["name"], section)


# hostile


def test_hostile_names(tmp_path: Path) -> None:
    """Whatever a module is called, its file lies in the folder under a plain name that no double click runs."""
    names = [
        "../../../etc/passwd",
        "\x1b[2Jx",
        "a" * 500 + ".exe",
        "..",
        "CON",
        "\u202eexe.dll",
        "x\0y",
        "a b;$(id).dll",
        "",
    ]
    modules = [Module(BASE + number * PAGE, PAGE, name) for number, name in enumerate(names)]
    pages = {FIRST + number: noise(number) for number in range(len(names))}
    _, document = taken(memory(pages, metadata_of(modules=modules)), tmp_path / "out")
    files = [name for name in listing(tmp_path / "out") if name not in ("modules.json", "SHA256SUMS")]
    assert len(files) == len(names)
    assert sorted(row["file"] for row in document["modules"]) == files
    for name in files:
        assert name.endswith(".bin")
        assert name.replace(".", "").replace("_", "").replace("-", "").isalnum()
        assert len(name) < 120
    assert listing(tmp_path) == ["out"]
    assert [row["name"] for row in document["modules"]] == names


def test_hostile_sizes(tmp_path: Path) -> None:
    """A header that claims 4 GiB gets no file of 4 GiB: it is refused, listed, and the run is not complete."""
    result, document = taken(memory({FIRST: bytes(pe_page(size=0xFFFFFFFF))}), tmp_path / "out", layout="memory")
    assert (result.count, result.complete) == (0, False)
    assert only(document)["why"] == "its file would have 4294967295 bytes; --largest takes more"
    result, _ = taken(memory({FIRST: bytes(pe_page(size=0x4000_0000))}), tmp_path / "new", layout="memory")
    status = os.stat(tmp_path / "new" / NAME)
    assert (status.st_size, result.complete) == (0x4000_0000, True)
    assert getattr(status, "st_blocks", 0) * 512 < 1 << 20  # holes


def test_elf_with_a_far_place_in_its_file(tmp_path: Path) -> None:
    """An ELF header whose file would have exabytes is laid out as in memory, if that is small."""
    page = elf_page(((0, 0, 0x1000, 5), (0x4000_0000_0000_0000, 0x3000, 0x900, 6)))
    _, document = taken(memory(laid(page, 4)), tmp_path / "out")
    assert only(document)["layout"] == "memory"
    assert only(document)["why"] == f"its file would have {0x4000_0000_0000_0900} bytes"
    assert only(document)["bytes"] == 0x4000


def test_many_that_overlap(tmp_path: Path) -> None:
    """Headers in every page that each claim all of memory do not multiply it without end; listed modules come first."""
    count = 64
    pages = {FIRST + number: bytes(pe_page(size=count * PAGE)) for number in range(count)}
    modules = [Module(BASE + (count - 1) * PAGE, PAGE, "listed.dll")]
    result, document = taken(memory(pages, metadata_of(modules=modules)), tmp_path / "out", layout="memory")
    assert result.of == count
    assert 4 <= result.count < count
    assert result.bytes - result.missing_bytes <= 4 * count * PAGE
    assert not result.complete
    assert document["modules"][-1]["file"] is not None
    refused = [row for row in document["modules"] if row["file"] is None]
    assert all("claim more than is taken" in row["why"] for row in refused)


def test_refused_modules_take_little_room(tmp_path: Path) -> None:
    """Of headers in every other page that each claim 1 GiB, next to nothing is listed but the sums of their bytes."""
    count = 300
    pages = {FIRST + 2 * number: bytes(pe_page(size=1 << 30)) for number in range(count)}
    process = memory(pages)
    _, document = taken(process, tmp_path / "out", layout="memory")
    refused = [row for row in document["modules"] if row["file"] is None]
    assert len(refused) > count / 2
    for row in refused:
        at = (int(row["base"], 16) // PAGE - FIRST) // 2
        assert (row["resident"], row["missing_bytes"]) == ((count - at) * PAGE, (1 << 30) - (count - at) * PAGE)
        assert row["sections"] == row["changes"] == []
        assert len(json.dumps(row)) < 700


def test_headers_in_segments_of_any_kind() -> None:
    """Headers are found where looking at each segment by itself finds them: short, long, odd, cut, in pieces, wiped."""
    random = np.random.default_rng(5)
    headers = [bytes(pe_page()), bytes(elf_page()), *(edited(pe_page(), *changes) for changes in WIPED.values())]
    starts, blocks, address = [], [], 0x10000
    for number in range(3000):
        long = number % 500 == 0
        size = int(random.choice([1, 63, 64, 500, PAGE, PAGE + 100, 3 * PAGE, (300 if long else 16) * PAGE]))
        address += PAGE * int(random.integers(1, 4))
        begin = address + int(random.choice([0, 0, 0, 0, 0x200, 8]))
        data = bytearray(noise(number, PAGE) * (size // PAGE + 2) if number % 3 else bytes(size + PAGE))
        for _ in range(2 if number % 2 else 0):
            at = int(random.integers(0, size // PAGE + 1)) * PAGE - begin % PAGE * int(random.integers(0, 2))
            header = headers[int(random.integers(len(headers)))]
            data[max(at, 0) : max(at, 0) + PAGE] = header[max(-at, 0) :]
        cuts = sorted({0, size, *random.integers(0, size, 2).tolist()})
        for low, high in itertools.pairwise(cuts):  # extents
            starts.append(begin + low)
            blocks.append(bytes(data[low:high]))
        address = (begin + size) // PAGE * PAGE + PAGE
    order = random.permutation(len(blocks))
    offsets, place, parts = np.zeros(len(blocks), np.uint64), 0, []
    for index in order.tolist():
        offsets[index] = place
        parts.append(blocks[index])
        place += len(blocks[index])
    sizes = np.array([len(block) for block in blocks], np.uint64)
    space = AddressSpace(np.array(starts, np.uint64), sizes, offsets, Memory(b"".join(parts)))
    expected = {header.address for segment in space.segments() for header in observe(space, segment, "headers").headers}
    assert len(expected) > 500
    assert len({address % PAGE for address in expected}) == 3
    told: list[tuple[int, int]] = []
    found = find_modules(ProcessMemory(space), progress=lambda *done: told.append(done))
    assert {module.start for module in found.modules} == expected
    assert told[-1] == (space.total, space.total)


def test_short_segments_are_looked_at_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of many short segments only those are looked at by themselves that a header may be in."""
    seen: list[int] = []

    def counted(space: AddressSpace, segment: Any, level: str) -> Any:
        seen.append(segment.start)
        return observe(space, segment, level)

    monkeypatch.setattr("memcarve.labels.header_scan.observe", counted)
    pages = {2 * number: noise(number % 7) for number in range(20_000)} | {16: bytes(pe_page()), 18: bytes(PAGE)}
    found = find_modules(memory(pages))
    assert [module.start for module in found.modules] == [16 * PAGE]
    assert seen == [16 * PAGE]


def test_too_many_headers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of more headers than are looked at a note tells."""
    monkeypatch.setattr("memcarve.labels.modules.MOST_HEADERS", 3)
    pages = {FIRST + 2 * number: bytes(pe_page()) for number in range(5)}
    found = find_modules(memory(pages))
    assert len(found.modules) == 3
    assert found.notes == [
        "there are some 2 more headers of programs than the 3 that are looked at; choose less memory by half"
    ]
    assert not (tmp_path / "out").exists()


def test_at_the_top_of_the_address_space(tmp_path: Path) -> None:
    """A module that would reach beyond 2**64 ends there."""
    start = (1 << 64) - 2 * PAGE
    pages = {start // PAGE: bytes(pe_page()), start // PAGE + 1: noise(1)}
    result, document = taken(memory(pages), tmp_path / "out", layout="memory")
    assert (tmp_path / "out" / only(document)["file"]).read_bytes() == b"".join(pages.values())
    result, document = taken(memory(pages), tmp_path / "file")
    assert (tmp_path / "file" / only(document)["file"]).read_bytes()[PAGE:] == noise(1)
    assert result.count == 1


@pytest.mark.parametrize("kind", ["PE", "PE32", "ELF", "ELF32", "flat"])
@pytest.mark.parametrize("loaded", [True, False])
def test_damaged_anywhere(kind: str, loaded: bool) -> None:  # noqa: FBT001
    """Whatever is written over a header, a plan is made in which no two parts share a byte of the file."""
    made = {
        "PE": pe_page,
        "PE32": lambda: pe_page("x86"),
        "ELF": lambda: elf_page(dynamic=(0x2000, 0x3000, 0x100)),
        "ELF32": lambda: elf_page(wide=False, order=">"),
        "flat": lambda: bytearray(flat_file().ljust(PAGE, b"\0")),
    }
    page = made[kind]()
    random = np.random.default_rng(7)
    plans = 0
    for round_ in range(1500):
        damaged = bytearray(page)
        for at in random.integers(0, 0x220, 3).tolist():
            width = int(random.choice([1, 2, 4, 8]))
            damaged[at : at + width] = random.choice([b"\0", b"\xff", b"\x7f", b"\1", b"\x80", b"\x10"]) * width
        data = bytes(damaged) + noise(round_, 4 * PAGE)
        start, end = [(BASE, None), (0, 0x3800), ((1 << 64) - 0x3000, None)][round_ % 3]
        module = MappedModule(start, None, end, loaded=loaded)
        for layout in ("file", "memory"):
            plan = planned(module, data, layout)
            if plan is not None:
                plans += 1
                check(plan, start, end)
    assert plans > 500


def planned(module: MappedModule, data: bytes, layout: str) -> Plan | None:
    """Return the plan for a module in memory; None where no header is left."""
    program, image = elf.image(data[:PAGE]), pe.image(data[:PAGE])
    if program is not None:
        return elf_image.plan(module, data[:PAGE], program, reading(data), layout)
    return None if image is None else pe_image.plan(module, data[:PAGE], image, reading(data), layout)


def check(plan: Plan, start: int, end: int | None) -> None:
    """Check what must hold of every plan."""
    top = (1 << 64 if end is None else end) - start
    assert all(part.size > 0 and part.address >= 0 and part.address + part.size <= top for part in plan.parts)
    stored = sorted((part.offset, part.size) for part in plan.parts if part.offset is not None)
    done = 0
    for offset, size in stored:
        assert offset >= done
        done = offset + size
    assert done <= plan.size
    done = 0
    for part in plan.parts:
        assert part.address >= done
        done = part.address + part.size
    assert all(len(change.old) == len(change.new) and change.old != change.new for change in plan.changes)
    assert all(change.offset >= 0 and change.offset + len(change.new) <= plan.size for change in plan.changes)


def test_hostile_process(tmp_path: Path) -> None:
    """Damaged headers in a process end in files of bounded size, and nothing fails."""
    random = np.random.default_rng(11)
    pages, modules = {}, []
    for number in range(300):
        page = bytearray([pe_page(), elf_page(), pe_page("x86")][number % 3])
        for at in random.integers(0, 0x220, 4).tolist():
            page[at : at + 4] = random.choice([b"\0", b"\xff", b"\x7f", b"\1"]) * 4
        pages[FIRST + 3 * number] = bytes(page)
        modules.append(Module(BASE + 3 * number * PAGE, int(random.choice([0, 1, PAGE, 1 << 31])), str(number)))
    process = memory(pages, metadata_of(modules=modules))
    result, document = taken(process, tmp_path / "out", largest=1 << 24)
    assert len(document["modules"]) == result.of >= 300
    assert all(os.path.getsize(tmp_path / "out" / row["file"]) == row["bytes"] <= 1 << 24
               for row in document["modules"] if row["file"] is not None)  # fmt: skip
    assert all(row["file"] is not None or row["why"] for row in document["modules"])


# the folder


def test_folder(tmp_path: Path) -> None:
    """The folder is the user's alone, and modules.json has the totals."""
    result, document = taken(memory(laid(pe_page())), tmp_path / "out", command=["memcarve", "extract"])
    out = tmp_path / "out"
    assert stat.S_IMODE(out.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in out.iterdir()} == {0o600}
    assert document["totals"] == {"modules": 1, "files": 1, "bytes": 0x5000, "missing_bytes": 0}
    assert (document["schema"], document["tool"], document["layout"]) == (2, "memcarve", "file")
    assert document["command"] == ["memcarve", "extract"]
    assert result.path == str(out)


def test_checksums(tmp_path: Path) -> None:
    """The folder's checksums are what sha256sum takes."""
    program = shutil.which("sha256sum")
    if program is None:
        pytest.skip("sha256sum is missing (coreutils)")
    taken(memory({**laid(pe_page()), **laid(elf_page(), 4, 0x400)}), tmp_path / "out")
    assert (tmp_path / "out" / "SHA256SUMS").read_text().count("\n") == 3
    subprocess.run([program, "--quiet", "--strict", "-c", "SHA256SUMS"], cwd=tmp_path / "out", check=True)


def test_only_own_folders_are_replaced(tmp_path: Path) -> None:
    """What exists stays, unless it is to be replaced and memcarve wrote all of it."""
    process, out = memory(laid(pe_page())), tmp_path / "out"
    taken(process, out)
    with pytest.raises(TargetExistsError, match="force=True replaces it"):
        taken(process, out)
    taken(process, out, force=True, layout="memory")
    (out / "notes.txt").write_text("mine")
    with pytest.raises(TargetExistsError, match=r"holds notes\.txt, which memcarve did not write"):
        taken(process, out, force=True)
    (out / "notes.txt").unlink()
    (out / "modules.json").write_text("{}")
    with pytest.raises(TargetExistsError, match="holds a modules"):
        taken(process, out, force=True)
    assert listing(tmp_path) == ["out"]


@pytest.mark.parametrize("lie", ['"file": "../../precious"', '"file": "precious"', '"file": 7', '"file": ["x"]'])
def test_a_forged_list_owns_nothing(tmp_path: Path, lie: str) -> None:
    """A modules.json that lists other files does not make them memcarve's."""
    out = tmp_path / "out"
    taken(memory(laid(pe_page())), out)
    text = (out / "modules.json").read_text()
    (out / "modules.json").write_text(text.replace(f'"file": "{NAME}"', lie))
    (out / NAME).unlink()
    (out / "precious").write_text("mine")
    with pytest.raises(TargetExistsError, match=r"holds (precious|a)"):
        taken(memory(laid(pe_page())), out, force=True)


def test_nothing_is_kept_of_what_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where writing fails, or there is no room, nothing stays."""
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 0, 10))
    with pytest.raises(NoSpaceError, match="10 free"):
        taken(memory(laid(pe_page())), tmp_path / "out")
    monkeypatch.undo()

    def broken(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(sink, "write", broken)
    with pytest.raises(NoSpaceError, match="nothing was kept"):
        taken(memory(laid(pe_page())), tmp_path / "out")
    assert listing(tmp_path) == []


def test_unknown_layout(tmp_path: Path) -> None:
    """A layout that there is not is an error of usage."""
    with pytest.raises(UsageError, match="choose from file, memory"):
        taken(memory({}), tmp_path / "out", layout="raw")


def test_nothing_there(tmp_path: Path) -> None:
    """Memory without modules gives a folder that says so."""
    result, document = taken(memory({}), tmp_path / "out")
    assert (result.count, document["modules"]) == (0, [])


# the archive


def archived(process: ProcessMemory, path: Path, **options: Any) -> Result:
    """Extract all modules of a process into an archive."""
    return extract(process, path, find_modules(process).modules, archive=True, **options)


def test_archive(tmp_path: Path) -> None:
    """The archive holds what the folder would, each file encrypted with AES under the password infected."""
    pyzipper = pytest.importorskip("pyzipper")
    pages = {number: page for number, page in laid(pe_page()).items() if number != FIRST + 2}
    process = memory({**pages, **laid(elf_page(), 4, 0x400)})
    taken(process, tmp_path / "out")
    result = archived(process, tmp_path / "out.zip")
    assert stat.S_IMODE((tmp_path / "out.zip").stat().st_mode) == 0o600
    with pyzipper.AESZipFile(tmp_path / "out.zip") as archive:
        assert sorted(archive.namelist()) == listing(tmp_path / "out")
        for info in archive.infolist():
            assert info.flag_bits & 1, "not encrypted"
            with pytest.raises(RuntimeError):
                archive.read(info)
            if info.filename.endswith(".bin"):
                expected = (tmp_path / "out" / info.filename).read_bytes()
                assert archive.read(info, pwd=b"infected") == expected
        document = json.loads(archive.read("modules.json", pwd=b"infected"))
    assert [row["sha256"] for row in document["modules"]] == [
        row["sha256"] for row in json.loads((tmp_path / "out" / "modules.json").read_text())["modules"]
    ]
    assert result.count == 2


def test_archive_opens_elsewhere(tmp_path: Path) -> None:
    """Other programs take the archive apart with its password, and sha256sum finds everything in it as it was."""
    pytest.importorskip("pyzipper")
    archived(memory(laid(pe_page())), tmp_path / "out.zip")
    words = {"7z": ["x", "-pinfected", "-bso0"], "7zz": ["x", "-pinfected", "-bso0"],
             "bsdtar": ["--passphrase", "infected", "-xf"]}  # fmt: skip
    there = [program for program in words if shutil.which(program)]
    if not there:
        pytest.skip("7z, 7zz, bsdtar are missing; install 7zip or libarchive-tools")
    for program in there:
        folder = tmp_path / program
        folder.mkdir()
        subprocess.run([program, *words[program], tmp_path / "out.zip"], cwd=folder, check=True)
        assert listing(folder) == sorted([NAME, "SHA256SUMS", "modules.json"])
        subprocess.run(["sha256sum", "--quiet", "--strict", "-c", "SHA256SUMS"], cwd=folder, check=True)


def test_archive_is_no_bomb(tmp_path: Path) -> None:
    """A module of which next to nothing is in memory is stored, not packed; one that is there is packed."""
    pyzipper = pytest.importorskip("pyzipper")
    pages = {FIRST: bytes(pe_page(size=0x100000)), **laid(pe_page(), base=0x400)}
    archived(memory(pages), tmp_path / "out.zip", layout="memory")
    with pyzipper.AESZipFile(tmp_path / "out.zip") as archive:
        sizes = {info.filename: (info.file_size, info.compress_size) for info in archive.infolist()}
    size, packed = sizes[NAME]
    assert size == 0x100000
    assert packed >= size
    assert sizes["0x0000000000400000.unnamed.dll.bin"][1] > 0x4000  # noise


def test_archive_with_a_long_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A member whose size nobody knows before it is written may be larger than 32 bits of size can say."""
    pyzipper = pytest.importorskip("pyzipper")
    monkeypatch.setattr("pyzipper.zipfile.ZIP64_LIMIT", 3000)
    modules = [Module(BASE + number * PAGE, PAGE, "x" * 500) for number in range(20)]
    archived(memory({FIRST: noise(0)}, metadata_of(modules=modules)), tmp_path / "out.zip")
    with pyzipper.AESZipFile(tmp_path / "out.zip") as archive:
        assert archive.getinfo("modules.json").file_size > 3000
        assert len(json.loads(archive.read("modules.json", pwd=b"infected"))["modules"]) == 20


def test_only_own_archives_are_replaced(tmp_path: Path) -> None:
    """An archive that memcarve did not write, or that holds anything else, is not replaced."""
    pyzipper = pytest.importorskip("pyzipper")
    process, out = memory(laid(pe_page())), tmp_path / "out.zip"
    archived(process, out)
    with pytest.raises(TargetExistsError, match="exists"):
        archived(process, out)
    archived(process, out, force=True)
    with pyzipper.ZipFile(out, "a") as archive:
        archive.writestr("notes.txt", "mine")
    for content in (None, b"PK\5\6" + bytes(18), b"text", b""):
        if content is not None:
            out.write_bytes(content)
        with pytest.raises(TargetExistsError, match="only what memcarve wrote"):
            archived(process, out, force=True)
    assert listing(tmp_path) == ["out.zip"]


def test_nothing_is_kept_of_an_archive_that_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where reading or writing fails in the middle of an archive, nothing stays."""
    pytest.importorskip("pyzipper")

    def broken(*_: object) -> Any:
        raise OSError(5, "Input/output error")

    process = memory(laid(pe_page()))
    modules = find_modules(process).modules
    monkeypatch.setattr(Memory, "read_into", broken)
    monkeypatch.setattr("memcarve.sinks.module_file.ModuleFile._first_page", lambda _: bytes(pe_page()))
    with pytest.raises(OutputError, match="nothing was kept"):
        extract(process, tmp_path / "out.zip", modules, archive=True)
    assert listing(tmp_path) == []


@pytest.mark.parametrize("room", [10, 3000, 12_000])
def test_nothing_is_kept_of_an_archive_on_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    """Where the disk is full while a member is written, that is said and nothing stays."""
    pytest.importorskip("pyzipper")
    enter = NewArchive.__enter__

    class Limited:
        def __init__(self, file: Any) -> None:
            self.file, self.left = file, room

        def write(self, data: bytes) -> int:
            self.left -= len(data)
            if self.left < 0:
                raise OSError(28, "No space left on device")
            return int(self.file.write(data))

        def __getattr__(self, name: str) -> Any:
            return getattr(self.file, name)

    def limited(archive: NewArchive) -> NewArchive:
        found = enter(archive)
        found._archive.fp = Limited(found._archive.fp)
        return found

    monkeypatch.setattr(NewArchive, "__enter__", limited)
    with pytest.raises(NoSpaceError, match="nothing was kept"):
        archived(memory(laid(pe_page())), tmp_path / "out.zip")
    assert listing(tmp_path) == []


def test_archive_needs_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without pyzipper an archive is an error that says what to install, before anything is written."""
    monkeypatch.setitem(sys.modules, "pyzipper", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'memcarve\[zip\]'"):
        archived(memory(laid(pe_page())), tmp_path / "out.zip")
    assert listing(tmp_path) == []


# the command


def test_command(tmp_path: Path, capfdbinary: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command writes the folder that its input is called after, and says how much of the modules is missing."""
    monkeypatch.chdir(tmp_path)
    pages = [(BASE, bytes(pe_page())), (BASE + PAGE, noise(1)), (BASE + 4 * PAGE, noise(4)), (0x400000, noise(9))]
    dump = write_dump(tmp_path, sorted(pages))
    ran = invoke(capfdbinary, "extract", dump)
    assert (ran.code, ran.out) == (0, b"")
    assert "1 file of 1 module, 20.0 KiB, 8.0 KiB of them not in memory" in ran.err
    assert ran.err.splitlines()[-2].endswith("s: pid.4.modules")
    assert listing(tmp_path / "pid.4.modules") == sorted([NAME, "SHA256SUMS", "modules.json"])
    assert invoke(capfdbinary, "extract", dump).code == 1
    assert invoke(capfdbinary, "extract", dump, "--force", "-q").err == ""
    assert invoke(capfdbinary, "extract", dump, "-o", "none", "--address", "0x400000").code == 0
    assert listing(tmp_path / "none") == ["SHA256SUMS", "modules.json"]
    assert invoke(capfdbinary, "extract", dump, "-o", "small", "--largest", "4k").code == 3
    assert invoke(capfdbinary, "extract", dump, "-o", dump).code == 1


def test_command_archive(tmp_path: Path, capfdbinary: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    """With --zip the command writes one archive."""
    pytest.importorskip("pyzipper")
    monkeypatch.chdir(tmp_path)
    dump = write_dump(tmp_path, [(BASE, bytes(pe_page())), (BASE + PAGE, noise(1))])
    ran = invoke(capfdbinary, "extract", dump, "--zip", "--layout", "memory")
    assert (ran.code, ran.err.splitlines()[-2].endswith("pid.4.modules.zip")) == (0, True)
    assert (tmp_path / "pid.4.modules.zip").is_file()


def test_command_of_a_dump_that_ends_too_early(tmp_path: Path, capfdbinary: Capture) -> None:
    """Of a dump that ends too early what is there is extracted, with exit status 3."""
    dump = write_dump(tmp_path, [(BASE, bytes(pe_page())), (BASE + PAGE, noise(1)), (BASE + 2 * PAGE, noise(2))])
    os.truncate(dump, 2 * PAGE)
    ran = invoke(capfdbinary, "extract", dump, "-o", tmp_path / "out")
    assert ran.code == 3
    data = (tmp_path / "out" / NAME).read_bytes()
    assert data[PAGE:] == noise(1) + bytes(3 * PAGE)
