"""Flags, each on a process made for it, with what must not be flagged beside it; spans against sets of addresses."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from headers import DATA, READ_ONLY, TEXT, dll_page
from memcarve.errors import UsageError
from memcarve.metadata import Module, SourceRows
from memcarve.permissions import PROT_NONE, TRANSITION
from memcarve.process import ProcessEntry, ProcessMemory, Selection
from memcarve.vocabulary import Flag
from memory import PAGE
from processes import RW, RWX, RX, R, labels_of, metadata_of, page_region, process_of

if TYPE_CHECKING:
    from memcarve.metadata import Region


def flags_of(process: ProcessMemory, content: str = "none", *, split: str = "none") -> dict[int, list[str]]:
    """Return the flags of each segment that has any, by the page it begins at."""
    labels = labels_of(process, Selection("all"), split, content=content, read=True)
    found = {segment.start // PAGE: [*labels.flags(index)] for index, segment in enumerate(labels.segments)}
    return {page: flags for page, flags in found.items() if flags}


def findings_of(process: ProcessMemory, content: str = "none") -> list[tuple[str, int]]:
    """Return the findings of a process: flag and page."""
    summary = labels_of(process, Selection("all"), content=content, read=True).summary()
    return [(found["flag"], int(found["address"], 16) // PAGE) for found in summary["findings"]]


def own(start: int, pages: int, protection: str) -> Region:
    """Return a region of private memory."""
    return page_region(start, pages, protection, kind="private", private=True)


def image(start: int, pages: int, file: str = "\\x\\a.dll") -> Region:
    """Return a region of a mapped image."""
    return page_region(start, pages, "PAGE_EXECUTE_WRITECOPY", kind="image", file=file, private=False)


def test_private_executable_by_protection() -> None:
    """Private memory that its protection lets run; not that which may only be written, nor images."""
    regions = [
        own(0, 2, "PAGE_EXECUTE_READ"),
        own(4, 2, "PAGE_READWRITE"),
        image(7, 2),
        own(12, 1, "PAGE_EXECUTE_READWRITE"),
    ]
    assert flags_of(process_of([0, 4, 8, 12], metadata_of(regions))) == {
        0: ["private-executable"],
        12: ["private-executable", "writable-executable"],
    }


def test_private_executable_by_page_tables() -> None:
    """A page made executable after allocation: the region says rw-, the page tables x; the address is the page's."""
    process = process_of({4: RW, 5: RX, 6: RW, 9: RX}, metadata_of([own(4, 3, "PAGE_READWRITE"), image(8, 2)]))
    labels = labels_of(process)
    assert labels.flags(0) == {"private-executable": 5 * PAGE}
    assert labels.flags(1) == {}


def test_page_tables_that_let_everything_run() -> None:
    """If even a stack of data may run by the page tables, these tell nothing: only what regions say is flagged."""
    stack = page_region(20, 2, "PAGE_READWRITE", kind="stack", private=True)
    known = metadata_of([own(4, 2, "PAGE_READWRITE"), own(8, 1, "PAGE_EXECUTE_READ"), stack])
    assert flags_of(process_of({4: RX, 5: RWX, 8: RX, 20: RWX}, known)) == {8: ["private-executable"]}
    flagged = flags_of(process_of({4: RX, 5: RW, 8: RX, 20: RWX}, known))
    assert flagged[4] == ["private-executable"]
    assert flagged[20] == ["private-executable", "writable-executable", "executable-stack"]


@pytest.mark.parametrize("state", [TRANSITION, PROT_NONE])
def test_pages_that_are_not_present_allow_nothing(state: int) -> None:
    """What stands in an entry of a page that is not present is no permission."""
    process = process_of({4: RWX | state}, metadata_of([own(4, 1, "PAGE_READWRITE")]))
    assert flags_of(process) == {}


def test_pages_of_the_kernel_are_not_programs() -> None:
    """Pages that only the kernel may use are not flagged."""
    assert flags_of(process_of({4: RWX & ~R}, metadata_of([own(4, 1, "PAGE_READWRITE")]))) == {}


def test_writable_and_executable_without_regions() -> None:
    """Page tables alone tell what may be written and run; without them and without regions nothing does."""
    assert flags_of(process_of({1: RWX, 3: RX, 5: RW})) == {1: ["writable-executable"]}
    assert labels_of(process_of([1])).flagged.where == {}
    with pytest.raises(UsageError, match="regions="):
        labels_of(process_of([1]), Selection(flag=["writable-executable"]))


def test_write_copy_is_not_writable() -> None:
    """Images are mapped as write-copy throughout: that is not worth a flag."""
    assert flags_of(process_of([8], metadata_of([image(7, 4)]))) == {}


def test_pe_in_private_memory() -> None:
    """A header at any page of private memory; only where the bytes were looked at, and not in images."""
    header = dll_page([(1, 2, TEXT)])
    regions = [own(0, 4, "PAGE_READWRITE"), image(8, 4)]
    process = process_of([0, 1, 2, 8], metadata_of(regions), {2: header, 8: header})
    assert flags_of(process) == {}
    assert flags_of(process, "headers") == {0: ["pe-in-private"]}
    labels = labels_of(process, content="headers", read=True)
    assert labels.flags(0) == {"pe-in-private": 2 * PAGE}
    assert findings_of(process, "headers") == [("pe-in-private", 2)]
    chosen = process.segments(Selection(flag=["pe-in-private"]), labeller=_labelling())
    assert [segment.start for segment in chosen] == [0]


def _labelling() -> object:
    from memcarve.labels import Labelling  # noqa: PLC0415

    return Labelling()


def test_beyond_section() -> None:
    """Pages that may be written or run although their section says otherwise; written data and running code may."""
    header = dll_page([(1, 2, TEXT), (3, 2, DATA), (5, 1, READ_ONLY)])
    regions, contents = [image(16, 8)], {16: header}
    honest = {16: R, 17: RX, 18: RX, 19: RW, 20: R, 21: R}
    assert flags_of(process_of(honest, metadata_of(regions), contents)) == {}
    for page, flags in ((16, RW), (17, RWX), (18, RW), (19, RX), (21, RW), (21, RX), (22, RW)):
        process = process_of({**honest, page: flags}, metadata_of(regions), contents)
        labels = labels_of(process)
        assert labels.flags(0)["beyond-section"] == page * PAGE, (page, flags)
    without_header = process_of({17: RWX}, metadata_of(regions))
    assert "beyond-section" not in flags_of(without_header).get(17, [])
    assert "beyond-section" not in labels_of(process_of([17], metadata_of(regions))).flagged.where


def test_modules_and_mappings() -> None:
    """An image in no list, and an entry in a list where nothing, or memory of the process's own, is mapped."""
    regions = [image(8, 4), image(16, 4, "\\x\\hidden.dll"), own(32, 4, "PAGE_READWRITE")]
    modules = [
        Module(8 * PAGE, 4 * PAGE, "a.dll"),
        Module(32 * PAGE, 2 * PAGE, "hollow.dll"),
        Module(64 * PAGE, 2 * PAGE, "gone.dll"),
        Module(96 * PAGE, None, None),
    ]
    header = dll_page([])
    process = process_of([8, 16, 33, 65], metadata_of(regions, modules), {8: header, 16: header})
    assert flags_of(process) == {16: ["module-unlisted"], 33: ["entry-unmapped"], 65: ["entry-unmapped"]}
    assert findings_of(process) == [
        ("module-unlisted", 16), ("entry-unmapped", 32), ("entry-unmapped", 64), ("entry-unmapped", 96),
    ]  # fmt: skip


def test_what_no_source_says_is_not_looked_for() -> None:
    """Regions without kinds or protections tell nothing of flags that need them; an empty answer would be a lie."""
    bare, letters = [page_region(1, 1)], [page_region(1, 1, "rwx"), page_region(3, 1, "r-x")]
    assert [*labels_of(process_of([1]), content="headers", read=True).flagged.where] == ["wiped-header"]
    assert [*labels_of(process_of([1], metadata_of(bare, [])), content="headers", read=True).flagged.where] == [
        "entry-unmapped", "wiped-header",
    ]  # fmt: skip
    looked = [*labels_of(process_of([1, 3], metadata_of(letters)), content="headers", read=True).flagged.where]
    assert looked == ["writable-executable", "wiped-header"]
    for flag in ("private-executable", "pe-in-private", "module-unlisted"):
        with pytest.raises(UsageError, match="regions that say what is"):
            labels_of(process_of([1, 3], metadata_of(letters)), Selection(flag=[flag]))
    with pytest.raises(UsageError, match="page tables of an image"):
        labels_of(process_of([8], metadata_of([image(8, 1)])), Selection(flag=["beyond-section"]))


def test_no_region_at_all_is_known() -> None:
    """A process of which it is known that it has no regions has none that is flagged, and choosing finds nothing."""
    process = process_of([1], metadata_of([]))
    assert flags_of(process) == {}
    assert len(process.segments(Selection(kind=["private"]), labeller=_labelling())) == 0


def test_a_forged_size_hides_nothing() -> None:
    """A list may claim any size: a module ends with its image, and an image is listed where a module begins in it."""
    regions = [image(8, 4), image(16, 4, "\\x\\hidden.dll"), own(24, 2, "PAGE_EXECUTE_READ")]
    process = process_of([8, 16, 24], metadata_of(regions, [Module(8 * PAGE, 64 * PAGE, "a.dll")]), {8: dll_page([])})
    labels = labels_of(process)
    assert [[*labels.flags(index)] for index in range(3)] == [
        [], ["module-unlisted", "wiped-header"], ["private-executable"],
    ]  # fmt: skip
    assert [labels.file(index)[:1] for index in range(3)] == [[("a.dll", 0)], [("\\x\\hidden.dll", None)], []]
    assert labels.conflicts(0) == [
        "end of the module: windows.vadinfo says 0xc000, windows.dlllist says 0x48000",
    ]


def test_an_entry_of_any_size_flags_what_is_in_no_region() -> None:
    """An entry where nothing is mapped ends with the next region, whatever it claims."""
    process = process_of(
        [3, 9], metadata_of([own(8, 4, "PAGE_READWRITE")], [Module(2 * PAGE, (1 << 64) - 2 * PAGE, "x")])
    )
    assert flags_of(process) == {3: ["entry-unmapped"]}


def test_one_header_says_nothing_of_another_image() -> None:
    """Sections that reach beyond their image, and headers at forged entries, do not excuse another image's pages."""
    greedy = dll_page([(1, 1 << 19, 0xE0000020)], size=(1 << 20) - 1)
    regions = [own(0, 2, "PAGE_READWRITE"), image(8, 4), image(32, 8, "\\x\\ntdll.dll")]
    contents = {0: greedy, 8: greedy, 32: dll_page([(1, 2, TEXT)])}
    metadata = metadata_of(regions, [Module(0, 1 << 31, "forged.dll")])
    found = flags_of(process_of({0: RW, 8: R, 9: RWX, 32: R, 33: RWX}, metadata, contents))
    assert "beyond-section" in found[32]
    assert "beyond-section" not in found[8]


def test_memory_without_a_file_that_is_not_private() -> None:
    """Sections that no file backs, and anonymous memory that has a name, are no place for programs either."""
    section = page_region(4, 2, "PAGE_EXECUTE_READ", kind="mapped", private=False)
    named = page_region(8, 2, "r-xp", kind="private", private=True, file="[anon:jit]")
    data = page_region(16, 2, "PAGE_EXECUTE_READ", kind="mapped", private=False, file="\\x\\data.bin")
    header = dll_page([])
    process = process_of([4, 8, 16], metadata_of([section, named, data]), dict.fromkeys((4, 8, 16), header))
    expected = ["private-executable", "pe-in-private"]
    assert flags_of(process, "headers") == {4: expected, 8: expected}


def test_overlapping_regions_are_told_once() -> None:
    """A region that another one cuts in two is one finding."""
    regions = [image(8, 8), own(10, 1, "PAGE_READWRITE")]
    assert findings_of(process_of([9, 12], metadata_of(regions, []))) == [("module-unlisted", 8)]


def test_without_lists_nothing_is_unlisted() -> None:
    """What cannot be known is not looked for; an empty list is a list."""
    assert "module-unlisted" not in labels_of(process_of([8], metadata_of([image(8, 1)]))).flagged.where
    assert "module-unlisted" in flags_of(process_of([8], metadata_of([image(8, 1)], [])))[8]


def test_lists_of_both_widths_are_needed() -> None:
    """A 32-bit program on 64-bit Windows has two loaders: with one of their lists alone, nothing is unlisted."""
    one = metadata_of([image(8, 1)], [])
    two = one._replace(modules=(*one.modules, SourceRows("32-bit PEB", [])))
    for told, wow64, looked in ((one, False, True), (one, None, True), (one, True, False), (two, True, True)):
        entry = ProcessEntry(4, image_base=0x9000, wow64=wow64)
        process = ProcessMemory(process_of([8]).space, entry, metadata=lambda told=told: told)
        assert ("module-unlisted" in labels_of(process).flagged.where) == looked


def test_modules_that_lists_lack() -> None:
    """One that some of the loader's lists hold and others do not; where that is not known, nothing is looked for."""
    rows = [
        Module(8 * PAGE, 4 * PAGE, "a.dll", missing=("load order", "initialization order")),
        Module(16 * PAGE, 4 * PAGE, "b.dll", missing=("initialization order",)),
        Module(24 * PAGE, 4 * PAGE, "c.dll", missing=()),
    ]
    regions = [image(8, 4), image(16, 4, "b.dll"), image(24, 4, "c.dll")]
    flagged = labels_of(process_of([9, 17, 25], metadata_of(regions, rows))).flagged
    found = [(row.address // PAGE, str(row.severity), row.size) for row in flagged.findings]
    assert found == [(8, "high", 4 * PAGE), (16, "low", 4 * PAGE)]
    assert flagged.findings[0].why == "windows.dlllist lists a.dll, but not in load order or initialization order"
    assert "module-unlinked" not in labels_of(process_of([9], metadata_of(regions, [Module(8 * PAGE)]))).flagged.where


def test_wiped_headers() -> None:
    """An image whose first page holds no header, or one without its marks; where that page is not there, nothing."""
    sound, wiped = dll_page([(1, 2, TEXT)]), dll_page([(1, 2, TEXT)], magic=b"\0\0")
    regions = [image(8, 4), image(16, 4, "b"), image(24, 4, "c"), image(32, 4, "d")]
    process = process_of([8, 16, 24, 33], metadata_of(regions), {8: sound, 16: wiped, 24: bytes(PAGE)})
    assert flags_of(process) == {16: ["wiped-header"], 24: ["wiped-header"]}
    assert findings_of(process) == [("wiped-header", 16), ("wiped-header", 24)]


def test_a_wiped_header_in_private_memory() -> None:
    """Only a look at the bytes finds one where nothing else says that an image is there."""
    wiped = dll_page([(1, 2, TEXT)], magic=b"\0\0")
    process = process_of([2, 3], metadata_of([own(0, 8, "PAGE_READWRITE")]), {3: wiped})
    assert flags_of(process) == {}
    assert flags_of(process, "headers") == {2: ["pe-in-private", "wiped-header"]}


def test_unknown_flag() -> None:
    """A flag that there is not is refused, and the message lists those that there are."""
    with pytest.raises(UsageError, match="private-executable"):
        labels_of(process_of({1: RW}), Selection(flag=["evil"]))
    assert len(Flag) == len({*Flag})
