"""What may be wrong with the program that a Windows process was made from, on processes made for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from headers import TEXT, dll_page
from memcarve.errors import UsageError
from memcarve.metadata import Module
from memcarve.process import ProcessEntry, ProcessMemory, Selection
from memory import PAGE
from processes import RX, R, labels_of, metadata_of, page_region, process_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memcarve.metadata import Region

HEADER = dll_page([(1, 2, TEXT)], size=16)


def image(start: int = 0x100, pages: int = 16, file: str | None = "\\x\\a.exe") -> Region:
    """Return the region of a program."""
    return page_region(start, pages, "PAGE_EXECUTE_WRITECOPY", kind="image", file=file, private=False)


def own(start: int = 0x100, pages: int = 16, **members: object) -> Region:
    """Return private memory."""
    known = {"kind": "private", "private": True, **members}
    return page_region(start, pages, "PAGE_EXECUTE_READWRITE", **known)


def made(
    regions: Sequence[Region],
    header: bytes = HEADER,
    *,
    base: int | None = 0x100 * PAGE,
    said: int | None = 0x100 * PAGE,
    ended: bool = False,
) -> ProcessMemory:
    """Return a process whose program is at page 0x100 by the kernel's word; its PEB says `said`."""
    bases = () if said is None else (("PEB", said),)
    told = metadata_of(regions, [Module(0x100 * PAGE, 16 * PAGE, "a.exe")])._replace(program_bases=bases)
    space = process_of({0x100: R, 0x101: RX, 0x200: R}, None, {0x100: header}).space
    return ProcessMemory(space, ProcessEntry(4, image_base=base, ended=ended), metadata=lambda: told)


@pytest.mark.parametrize(
    ("regions", "words", "severity"),
    [
        ([image()], "", ""),
        ([own(0x200)], "nothing is mapped at the image base", "high"),
        ([own()], "private memory lies at the image base, not an image", "high"),
        ([own(kind="mapped", private=False)], "mapped memory lies at the image base", "high"),
        ([image(file=None)], "is of no file whose name can be read", "medium"),
        ([image(0xF0, 32)], "the image at the image base begins elsewhere, at 0xf0000", "high"),
        ([image(pages=17)], "claims 65536 bytes, but \\x\\a.exe was mapped with 69632", "high"),
    ],
)
def test_what_lies_at_the_image_base(regions: Sequence[Region], words: str, severity: str) -> None:
    """An image of a file, that begins there, with a header of its size; all else is told."""
    found = [row for row in labels_of(made(regions)).flagged.findings if row.flag == "hollowed"]
    assert [str(row.severity) for row in found] == ([severity] if severity else [])
    assert all(words in row.why for row in found)


def test_what_the_process_says_itself() -> None:
    """Another address in its PEB; none at all is no other."""
    for said, count in ((0x200 * PAGE, 1), (0, 0), (None, 0)):
        found = labels_of(made([image()], said=said)).flagged.findings
        assert [row.flag for row in found] == ["hollowed"] * count


def test_a_size_that_is_no_whole_page_is_rounded() -> None:
    """The mapping has whole pages."""
    header = dll_page([(1, 2, TEXT)], size=15)
    process = made([image()], header[:0xD0] + (15 * PAGE + 1).to_bytes(4, "little") + header[0xD4:])
    assert not labels_of(process).flagged.findings


def test_a_header_that_is_not_there_says_nothing() -> None:
    """Neither one that is not in memory nor a page without one: that is a wiped header."""
    found = labels_of(made([image()], bytes(PAGE))).flagged.findings
    assert [row.flag for row in found] == ["wiped-header"]


@pytest.mark.parametrize(
    "process",
    [
        made([image()], base=None),
        made([image()], base=0),
        made([image()], ended=True),
        made([]),
    ],
)
def test_what_is_not_known_is_not_looked_for(process: ProcessMemory) -> None:
    """Without the kernel's word, or without regions, of a process that has ended."""
    with pytest.raises(UsageError, match="hollowed by; it needs an image of Windows"):
        labels_of(process, Selection(flag=["hollowed"]))
