"""What processes have of the same Windows images, compared page by page: on processes made for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from headers import TEXT, dll_page
from memcarve.metadata import Metadata, Region, Regions
from memcarve.permissions import TRANSITION
from memcarve.process import Container, Machine, ProcessEntry, ProcessMemory, Selection
from memcarve.space import AddressSpace
from memory import PAGE, Memory
from processes import RWX, RX, R, labels_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

BASE = 0x7FF0


class Images(Container):
    """Processes that map an image, over one backing: by its pages, what the page tables allow, and the frame."""

    path = "images"
    default_half = "user"

    def __init__(
        self, processes: Sequence[Mapping[int, tuple[int, int]]], frames: Sequence[bytes], *, sizes: Sequence[int] = ()
    ) -> None:
        self.mapped = processes
        self.sizes = sizes or [8] * len(processes)
        self.backing = Memory(b"".join(frame.ljust(PAGE, b"\0") for frame in frames))
        self.unlisted = 0

    def processes(self) -> list[ProcessEntry]:
        """Return them all."""
        return [ProcessEntry(index, image_base=BASE * PAGE) for index in range(len(self.mapped))]

    def listed(self) -> list[ProcessEntry]:
        """Return those that the kernel's list leads to."""
        return self.processes()[: len(self.mapped) - self.unlisted]

    def _process(self, index: int) -> ProcessMemory:
        rows = sorted(self.mapped[index].items())
        start = np.array([(BASE + page) * PAGE for page, _ in rows], np.uint64)
        flags = np.array([flag for _, (flag, _) in rows], np.uint8)
        offset = np.array([frame * PAGE for _, (_, frame) in rows], np.uint64)
        size = np.full(len(rows), PAGE, np.uint64)
        space = AddressSpace(start, size, offset, self.backing, flags=flags, physical=offset)
        row = Region(
            BASE * PAGE,
            self.sizes[index] * PAGE,
            "PAGE_EXECUTE_WRITECOPY",
            "image",
            "\\x\\A.DLL",
            "Vad ",
            private=False,
        )
        told = Metadata((Regions("VAD tree", [row]),))
        entry = self.processes()[index]
        return ProcessMemory(space, entry, machine=Machine(architecture="x64"), metadata=lambda: told, pages={})

    def close(self) -> None:
        """Do nothing."""


def found_in(container: Container, flag: str = "text-differs") -> dict[int, list[tuple[int, str]]]:
    """Return page of the image and reason of each finding, by process."""
    found = {}
    for index in range(len(container.processes())):
        rows = labels_of(container.process(index=index), Selection(flag=["text-differs"])).flagged.findings
        found[index] = [(row.address // PAGE - BASE, row.why) for row in rows if row.flag == flag]
    return {index: rows for index, rows in found.items() if rows}


FRAMES = [bytes([number]) * PAGE for number in range(1, 9)]


def test_only_code_that_may_not_be_written() -> None:
    """Data, pages that may be written, and pages that are on their way out are not compared."""
    for flags, expected in ((RX, [0]), (R, []), (RWX, []), (RX | TRANSITION, [])):
        container = Images([{1: (flags, 2)}, {1: (RX, 1)}, {1: (RX, 1)}], FRAMES)
        assert [*found_in(container)] == expected


class Twice(Images):
    """Processes that map the image again at other addresses: pages and frames by process and address."""

    again: Mapping[tuple[int, int], Mapping[int, int]]

    def _process(self, index: int) -> ProcessMemory:
        process = super()._process(index)
        (first,), rows = (
            process.metadata.regions[0].rows,
            [(BASE, page, *row) for page, row in self.mapped[index].items()],
        )
        rows += [
            (base, page, RX, frame)
            for (of, base), pages in self.again.items()
            for page, frame in pages.items()
            if of == index
        ]
        rows.sort()
        start, flags, offset = (
            np.array(column, kind)
            for column, kind in zip(
                zip(*(((base + page) * PAGE, flag, frame * PAGE) for base, page, flag, frame in rows), strict=True),
                (np.uint64, np.uint8, np.uint64),
                strict=True,
            )
        )
        size = np.full(len(rows), PAGE, np.uint64)
        space = AddressSpace(start, size, offset, self.backing, flags=flags, physical=offset)
        bases = sorted({base for base, *_ in rows})
        told = Metadata((Regions("VAD tree", [first._replace(start=base * PAGE) for base in bases]),))
        return ProcessMemory(space, process.entry, machine=Machine(architecture="x64"), metadata=lambda: told, pages={})


def test_a_file_that_is_mapped_again() -> None:
    """Each mapping is compared: a clean one before it does not hide another; and a process has one vote."""
    for low in (BASE - 0x100, BASE + 0x100):
        container = Twice([{1: (RX, 2)}, {1: (RX, 1)}, {1: (RX, 1)}], FRAMES)
        container.again = {(0, low): {1: 1}}
        found = found_in(container)
        assert {index: [page for page, _ in rows] for index, rows in found.items()} == {0: [1]}
        container = Twice([{1: (RX, 1)}, {1: (RX, 1)}, {1: (RX, 1)}], FRAMES)
        container.again = {(0, low + number): {1: 2} for number in range(0, 64, 8)}
        found = found_in(container)
        assert [*found] == [0]
        assert len(found[0]) == 8
        assert all("is not what 2 other processes have there; 1 have" in why for _, why in found[0][1:])


def test_imports_are_what_most_have() -> None:
    """A header of which nobody has a copy says that all code is imported addresses: that hides nothing."""
    headers = []
    for size in (0x40, 7 * PAGE):
        header = bytearray(dll_page([(1, 7, TEXT)], size=8))
        at = 0x80 + 24 + 112 + 8 * 12
        header[at : at + 8] = (PAGE + 0x20).to_bytes(4, "little") + size.to_bytes(4, "little")
        headers.append(bytes(header))
    changed = bytearray(FRAMES[1])
    changed[0x800] ^= 0xFF
    frames = [*headers, FRAMES[1], bytes(changed)]
    for others in (1, 2):
        processes = [{0: (R, 1), 1: (RX, 3)}, *[{0: (R, 0), 1: (RX, 2)}] * others]
        assert 0 in found_in(Images(processes, frames))


def test_how_many_have_which() -> None:
    """The finding counts those with the same bytes in other frames, and the largest of other kinds."""
    same = [*FRAMES[:3], FRAMES[1], FRAMES[2], FRAMES[2]]
    container = Images([{1: (RX, frame)} for frame in (0, 1, 3, 2, 4, 5, 2)], same)
    found = found_in(container)
    assert [*found] == [0, 1, 2]
    assert "is not what 4 other processes have there; 1 have these bytes" in found[0][0][1]
    assert "is not what 4 other processes have there; 2 have these bytes" in found[1][0][1]


def test_a_file_of_the_same_name_and_another_size() -> None:
    """A file that was replaced is another file."""
    processes = [{1: (RX, 1)}, {1: (RX, 2)}, {1: (RX, 2)}]
    assert [*found_in(Images(processes, FRAMES))] == [0]
    assert not found_in(Images(processes, FRAMES, sizes=[9, 8, 8]))


def test_a_process_that_is_in_no_list() -> None:
    """It is compared with those that are, and they not with it."""
    container = Images([{1: (RX, 1)}, {1: (RX, 1)}, {1: (RX, 2)}], FRAMES)
    container.unlisted = 1
    found = found_in(container)
    assert [*found] == [2]
    assert "is not what 2 other processes have there; 1 have" in found[2][0][1]
    # with the same bytes it agrees with them
    container = Images([{1: (RX, 1)}, {1: (RX, 1)}, {1: (RX, 2)}], [*FRAMES[:2], FRAMES[1]])
    container.unlisted = 1
    assert not found_in(container)


class Sections(Images):
    """Processes of which it is known what all share: frames by page of the image."""

    shared: Mapping[int, int]
    asked_for_nothing = False

    def _process(self, index: int) -> ProcessMemory:
        process = super()._process(index)
        process.originals = self._originals
        return process

    def _originals(self, pages: np.ndarray[tuple[int], np.dtype[np.uint64]]) -> AddressSpace:
        assert not self.asked_for_nothing
        rows = [(at, self.shared[at // PAGE - BASE]) for at in pages.tolist() if at // PAGE - BASE in self.shared]
        start, offset = (
            np.array([row[0] for row in rows], np.uint64),
            np.array([row[1] * PAGE for row in rows], np.uint64),
        )
        return AddressSpace(start, np.full_like(start, PAGE), offset, self.backing)


def test_what_all_share_counts_more_than_others() -> None:
    """What most changed is told, and what most changed alike makes no finding of the one that has the original."""
    header = bytearray(dll_page([(1, 7, TEXT)], size=8))
    header[0x80 + 48 : 0x80 + 56] = (BASE * PAGE).to_bytes(8, "little")
    hooked = bytearray(FRAMES[1])
    hooked[0x700:0x705] = b"\xe9hook"
    frames = [bytes(header), FRAMES[1], bytes(hooked), bytes(hooked), FRAMES[1]]
    mapped = [{0: (R, 0), 1: (RX, frame)} for frame in (2, 3, 1, 4)]
    container = Sections(mapped, frames)
    container.shared = {0: 0, 1: 1}
    found = found_in(container)
    assert [*found] == [0, 1]
    assert "is not the page that all share who map it: 5 bytes differ, the first at 0x7ff1700" in found[0][0][1]
    # without the header nothing tells where the section is: the others are asked
    container = Sections(mapped, frames)
    container.shared = {1: 1}
    assert "is not what 2 other processes have there; 2 have these bytes" in found_in(container)[0][0][1]
    # one process is enough
    container = Sections(mapped[:1], frames)
    container.shared = {0: 0, 1: 1}
    assert [*found_in(container)] == [0]
    # what nobody changed is not even asked for
    container = Sections([mapped[2]] * 2, frames)
    container.shared = {}
    container.asked_for_nothing = True
    assert not found_in(container)


def test_imported_addresses_are_not_compared() -> None:
    """A loader writes them; what lies beside them is compared."""
    header = bytearray(dll_page([(1, 7, TEXT)], size=8))
    at = 0x80 + 24 + 112 + 8 * 12
    header[at : at + 8] = (PAGE + 0x20).to_bytes(4, "little") + (0x40).to_bytes(4, "little")
    page = bytearray(FRAMES[1])
    for place, expected in ((0x20, []), (0x5F, []), (0x1F, [0]), (0x60, [0])):
        changed = bytearray(page)
        changed[place] ^= 0xFF
        frames = [bytes(header), bytes(page), bytes(changed)]
        processes = [{0: (R, 0), 1: (RX, frame)} for frame in (2, 1, 1)]
        assert [*found_in(Images(processes, frames))] == expected


def test_headers_of_one_file() -> None:
    """One that differs is told with what differs; of two that differ both are told; a page of zeros is none."""
    headers = [dll_page([(1, 7, TEXT)], size=8)] * 2
    headers[1] = headers[1][:0x88] + b"\1\2\3\4" + headers[1][0x8C:]
    moved = headers[0][:0xA8] + b"\0\0\1\0" + headers[0][0xAC:]
    frames = [*headers, moved, bytes(PAGE)]
    for having, expected in (
        ((0, 0, 1), {2: "(time stamp)"}),
        ((0, 0, 2), {2: "(entry point)"}),
        ((0, 1), {0: "(time stamp)", 1: "(time stamp)"}),
        ((0, 3), {}),
    ):
        container = Images([{0: (R, frame), 1: (RX, 3)} for frame in having], frames)
        found = found_in(container, "hollowed")
        assert [*found] == [*expected]
        assert all(words in found[index][0][1] for index, words in expected.items())
