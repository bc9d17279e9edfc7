"""Threads in memory that no file backs, and stacks that lead there, on processes made for it."""

from __future__ import annotations

import random
import struct
from typing import TYPE_CHECKING

import pytest

from memcarve.labels import thread_flags
from memcarve.metadata import SourceRows, Thread
from memcarve.permissions import USER
from memcarve.process import Machine, ProcessEntry, ProcessMemory, Selection
from memory import PAGE
from processes import RW, RX, labels_of, metadata_of, page_region, process_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from memcarve.labels.flags import Finding
    from memcarve.metadata import Region

CODE, STACK = 0x100, 0x200
#: a private page that may run, a stack of two pages, and a library
REGIONS = (
    page_region(CODE, 2, "PAGE_EXECUTE_READ", kind="private", private=True),
    page_region(STACK, 8, "PAGE_READWRITE", kind="private", private=True),
    page_region(0x300, 2, "PAGE_EXECUTE_WRITECOPY", kind="image", file="\\x\\a.dll", private=False),
)
CALL = b"\xff\x15\x10\x00\x00\x00"
TARGET = CODE * PAGE + 0x106


def code_page(before: bytes = CALL, at: int = TARGET % PAGE) -> bytes:
    """Return a page in which these bytes stand before a place."""
    return (b"\x90" * (at - len(before)) + before).ljust(PAGE, b"\x90")


def process_with(
    threads: Sequence[Thread],
    contents: Mapping[int, bytes] | None = None,
    *,
    pages: Sequence[int] = (CODE, STACK + 6, STACK + 7, 0x300),
    architecture: str = "x64",
    regions: Sequence[Region] = REGIONS,
    areas: Sequence[Region] = (),
    complete: bool = True,
) -> ProcessMemory:
    """Return a process of these threads."""
    told = metadata_of(regions, [], areas)._replace(threads=(SourceRows("thread list", threads),), complete=complete)
    flags = {page: RX if page in (CODE, CODE + 1, 0x300) else RW for page in pages}
    space = process_of(flags, None, contents).space
    machine = Machine(architecture=architecture)
    return ProcessMemory(space, ProcessEntry(4), machine=machine, metadata=lambda: told)


def found_in(process: ProcessMemory) -> list[Finding]:
    """Return the findings about threads."""
    rows = labels_of(process, Selection("all")).flagged.findings
    return [row for row in rows if row.flag in ("thread-in-private", "stack-in-private")]


def stack_page(*words: int, at: int = 0x800, layout: str = "Q") -> bytes:
    """Return a page with words at a place."""
    page = bytearray(PAGE)
    struct.pack_into(f"<{len(words)}{layout}", page, at, *words)
    return bytes(page)


@pytest.mark.parametrize(
    ("thread", "severity", "words"),
    [
        (Thread(8, begin=TARGET), "high", "thread 8 begins at 0x100106, in private memory that no file backs"),
        (Thread(8, begin=STACK * PAGE), "high", "thread 8 begins at 0x200000, in private memory"),
        (Thread(8, begin=0x400 * PAGE), "medium", "thread 8 begins at 0x400000, where nothing is mapped"),
        (Thread(8, registers={"rip": TARGET}), "medium", "thread 8 is at 0x100106, in private memory"),
        (Thread(8, begin=0x300 * PAGE, registers={"pc": TARGET}), "medium", "thread 8 is at"),
        (Thread(8, registers={"rip": 0x400 * PAGE}), None, ""),
        (Thread(8, begin=0x300 * PAGE), None, ""),
        (Thread(8, begin=0), None, ""),
        (Thread(8, begin=0xFFFFF80000000000), None, ""),
        (Thread(8), None, ""),
    ],
)
def test_where_threads_begin_and_are(thread: Thread, severity: str | None, words: str) -> None:
    """In private memory or nowhere; not in files, in the kernel, or where it is not known."""
    found = found_in(process_with([thread]))
    assert [str(row.severity) for row in found] == ([] if severity is None else [severity])
    assert all(words in row.why for row in found)


def test_nowhere_is_known_only_if_all_regions_are() -> None:
    """In a carved folder most regions are missing."""
    assert not found_in(process_with([Thread(8, begin=0x400 * PAGE)], complete=False))
    assert "thread-in-private" not in labels_of(process_with([], regions=())).flagged.where


def test_a_stack_that_leads_into_private_code() -> None:
    """A word behind a call is found with its place; the others of the same region are counted."""
    thread = Thread(8, stack_start=STACK * PAGE, stack_end=(STACK + 8) * PAGE)
    page = stack_page(0, TARGET, 0x300 * PAGE + 16, TARGET + 0x40)
    (found,) = found_in(process_with([thread], {CODE: code_page(), STACK + 7: page}))
    assert (found.flag, found.address, str(found.severity)) == ("stack-in-private", TARGET, "medium")
    assert found.why == "the stack of thread 8 returns (at 0x207808) to 0x100106, behind a call"
    both = bytearray(code_page())
    both[TARGET % PAGE + 0x40 - len(CALL) : TARGET % PAGE + 0x40] = CALL
    (found,) = found_in(process_with([thread], {CODE: bytes(both), STACK + 7: page}))
    assert found.why.endswith("behind a call; 1 more of its words lead into the same region")


def test_what_no_call_put_there() -> None:
    """A word that points into private code is nothing if other bytes stand before; if none are there, it is told."""
    thread = Thread(8, stack_start=STACK * PAGE, stack_end=(STACK + 8) * PAGE)
    stack = {STACK + 7: stack_page(TARGET)}
    assert not found_in(process_with([thread], {CODE: code_page(b"\x90"), **stack}))
    (found,) = found_in(process_with([thread], stack, pages=(STACK + 7, 0x300)))
    assert "what stands before is not in memory" in found.why
    # of an instruction that begins in the page before, which is not there
    first = {STACK + 7: stack_page((CODE + 1) * PAGE + 2)}
    (found,) = found_in(process_with([thread], first, pages=(CODE + 1, STACK + 7)))
    assert "what stands before is not in memory" in found.why
    (found,) = found_in(
        process_with([thread], {CODE + 1: b"\xff\xd0" + bytes(PAGE - 2), **first}, pages=(CODE + 1, STACK + 7))
    )
    assert "behind a call" in found.why


def test_without_private_code_no_stack_is_read() -> None:
    """Private memory that may not run is nowhere to return to."""
    regions = (page_region(CODE, 2, "PAGE_READWRITE", kind="private", private=True), *REGIONS[1:])
    thread = Thread(8, stack_start=STACK * PAGE, stack_end=(STACK + 8) * PAGE)
    process = process_with([thread], {CODE: code_page(), STACK + 7: stack_page(TARGET)}, regions=regions)
    process.space.flags[:] = USER  # type: ignore[index]
    assert not found_in(process)
    assert "stack-in-private" in labels_of(process).flagged.where


@pytest.mark.parametrize(("pointer", "count"), [(0x800, 1), (0x803, 1), (0x808, 0)])
def test_below_the_stack_pointer_nothing_counts(pointer: int, count: int) -> None:
    """What lies there was left behind by calls that have ended."""
    registers = {"rsp": (STACK + 7) * PAGE + pointer}
    process = process_with([Thread(8, registers=registers)], {CODE: code_page(), STACK + 7: stack_page(TARGET)})
    assert len(found_in(process)) == count


def test_only_the_top_is_read_if_the_pointer_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """As far as it is in memory, and not much of it."""
    thread = Thread(8, stack_start=STACK * PAGE, stack_end=(STACK + 8) * PAGE)
    contents = {CODE: code_page(), STACK + 6: stack_page(TARGET)}
    assert found_in(process_with([thread], contents))
    monkeypatch.setattr(thread_flags, "_TOP", PAGE)
    assert not found_in(process_with([thread], contents))
    # that page is the top if the one above is not there
    assert found_in(process_with([thread], contents, pages=(CODE, STACK + 6)))


def test_words_of_four_bytes() -> None:
    """Of 32-bit programs, and of the stacks of 32-bit code on 64-bit Windows, which are areas."""
    page = {CODE: code_page(), STACK + 7: stack_page(TARGET, at=0x804, layout="I")}
    thread = Thread(8, stack_start=STACK * PAGE, stack_end=(STACK + 8) * PAGE)
    assert found_in(process_with([thread], page, architecture="x86"))
    assert not found_in(process_with([thread], page))
    area = page_region(STACK, 8, kind="stack", detail="thread 8, 32-bit")
    (found,) = found_in(process_with([Thread(8)], page, areas=[area]))
    assert "the stack of thread 8, 32-bit returns (at 0x207804)" in found.why
    assert "stack-in-private" not in labels_of(process_with([thread], page, architecture="arm")).flagged.where


@pytest.mark.parametrize(
    ("instruction", "is_call"),
    [(0x94000010, True), (0xD63F0100, True), (0xD63F0909, True), (0x14000010, False), (0xD61F0100, False)],
)
def test_calls_of_arm64(instruction: int, is_call: bool) -> None:  # noqa: FBT001
    """BL and BLR, also with an authenticated pointer; the word on the stack may be signed."""
    thread = Thread(8, stack_start=STACK * PAGE, stack_end=(STACK + 8) * PAGE)
    target = CODE * PAGE + 0x108
    page = code_page(struct.pack("<I", instruction), 0x108)
    for word in (target, target | 0x2A << 56):
        process = process_with([thread], {CODE: page, STACK + 7: stack_page(word)}, architecture="arm64")
        assert bool(found_in(process)) == is_call


def test_a_stack_full_of_pointers(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many words lead into private code, none hides another; if too many do, that is told."""
    regions = (page_region(CODE, 0x100, "PAGE_EXECUTE_READ", kind="private", private=True), *REGIONS[1:])
    words = [struct.pack("<512Q", *((CODE + 8 * page + 8) * PAGE + at for at in range(512))) for page in range(2)]
    thread = Thread(8, stack_start=STACK * PAGE, stack_end=(STACK + 8) * PAGE)
    process = process_with([thread], {STACK + 6: words[0], STACK + 7: words[1]}, regions=regions)
    (found,) = found_in(process)
    assert found.why.endswith("; 1023 more of its words lead into the same region")
    # no call stands before where all of these but the last lead
    target = CODE * PAGE + 0x800
    last = words[1][:-8] + struct.pack("<Q", target)
    pages = {
        CODE: code_page(b"\xe8abcd", 0x800),
        **dict.fromkeys((CODE + 7, CODE + 8, CODE + 15, CODE + 16, CODE + 17), b"\x90" * PAGE),
    }
    pages |= {STACK + 6: words[0], STACK + 7: last}
    process = process_with([thread], pages, pages=sorted(pages), regions=regions)
    assert [row.address for row in found_in(process)] == [target]
    monkeypatch.setattr(thread_flags, "_MOST_TARGETS", 100)
    assert not found_in(process)
    assert [note for note in labels_of(process, Selection("all")).notes if note.startswith("stack-in-private")] == [
        "stack-in-private: more than 100 words of stacks lead to what no file backs: the others were not looked at"
    ]


def test_calls_as_a_disassembler_has_them() -> None:
    """What a disassembler says is a near call of x64 is taken for one up to its end, and nothing that is cut off."""
    capstone = pytest.importorskip("capstone")
    machine = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)

    def size(data: bytes) -> int | None:
        """Return the size of the near call that some bytes begin with."""
        found = next(machine.disasm(data, 0x1000), None)
        near = found is not None and found.mnemonic == "call" and not found.op_str.startswith("ptr")
        return found.size if near and data[0] in (0xE8, 0xFF) else None

    chance = random.Random(5)  # noqa: S311 - examples
    seen = 0
    for _ in range(4000):
        data = bytearray(chance.randbytes(7))
        data[0] = chance.choice((0xE8, 0xFF, 0xFF))
        data[1] = data[1] & 0xC7 | 0x10 if data[0] == 0xFF else data[1]
        length = size(bytes(data))
        if length is None:
            continue
        seen += 1
        call = bytes(data[:length])
        assert thread_flags._is_call(call)
        assert thread_flags._is_call((b"\x90" * 7 + call)[-7:])
        cut = call[:-1]
        inside = any(size(cut[at:]) == len(cut) - at for at in range(len(cut)))
        assert thread_flags._is_call(cut) == inside, cut.hex()
    assert seen > 3000
