"""What Linux kernels say of themselves is found in memory, wherever it lies; and copies of it are told apart."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import numpy as np
import pytest

from btf_writer import PTR, Writer
from linux_machines import machine, machines
from memcarve.backing import FileBacking
from memcarve.formats.images.machine import MachineMemory
from memcarve.images.linux.btf_search import kernel_btf
from memcarve.images.linux.landmarks import by_distance, find_landmarks
from memcarve.images.physical import PhysicalMemory
from memcarve.images.physical_scan import BLOCK
from memory import PAGE, Memory

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memcarve.backing import Backing

_BANNER = b"Linux version 6.12.1-test (someone@somewhere) (gcc 12) #1 SMP\n\0"


def memory_of(backing: Backing, ranges: Sequence[tuple[int, int, int]]) -> PhysicalMemory:
    """Return memory of ranges: physical start, size, offset in the backing."""
    columns = (np.array(column, np.uint64) for column in zip(*ranges, strict=True))
    return PhysicalMemory(MachineMemory("test", backing, *columns, [], declared=False))


def whole(data: bytes) -> PhysicalMemory:
    """Return memory that begins at physical address 0."""
    return memory_of(Memory(data), [(0, len(data), 0)])


def kernel_types(structures: int = 400, name: str = "task_struct") -> bytes:
    """Return BTF that could be a kernel's: it has a task_struct and a struct btf, and many more."""
    made = Writer()
    long, void = made.integer("long unsigned int", 8), made.add(PTR, "", 0)
    made.structure(name, 128, ("pid", long, 0), ("comm", long, 64))
    header = made.structure("btf_header", 24, ("magic", long, 0))
    made.structure("btf", 96, ("data", void, 0), ("hdr", header, 8 * 48))
    for number in range(structures):
        made.structure(f"other{number}", 8, ("x", long, 0))
    return made.written()


def placed(size: int, *parts: tuple[int, bytes]) -> bytes:
    """Return zeros with parts at offsets."""
    data = bytearray(size)
    for at, part in parts:
        data[at : at + len(part)] = part
    return bytes(data)


@pytest.mark.parametrize("at", [0x328, BLOCK - 4, BLOCK - 24, BLOCK - 5000, BLOCK])
def test_types_are_found_anywhere(at: int) -> None:
    """BTF begins at any word of a page, also across blocks."""
    memory = whole(placed(2 * BLOCK, (at, kernel_types())))
    found = list(kernel_btf(memory, find_landmarks(memory)))
    assert [(each.physical, each.missing) for each in found] == [(at, 0)]
    assert found[0].types.size("task_struct") == 128


def test_types_across_ranges() -> None:
    """A BTF whose pages lie in several ranges that continue each other is read piece by piece."""
    btf, at = kernel_types(), 3 * PAGE + 0x17C
    data = placed(8 * BLOCK // 4, (at, btf))
    cut = 4 * PAGE
    turned = data[cut:] + data[:cut]
    memory = memory_of(Memory(turned), [(0, cut, len(data) - cut), (cut, len(data) - cut, 0)])
    found = list(kernel_btf(memory, find_landmarks(memory)))
    assert [each.physical for each in found] == [at]


def test_strings_that_are_missing_are_names_not_known() -> None:
    """Types that lack a page of strings still tell the rest; those that lack a page of types are none."""
    btf = kernel_types(3000)
    header = struct.unpack_from("<5I", btf, 4)
    strings = header[0] + header[3]
    data = placed(1 << 19, (0, btf))
    gone = (strings // PAGE + 2) * PAGE
    memory = memory_of(Memory(data), [(0, gone, 0), (gone + PAGE, len(data) - gone - PAGE, gone + PAGE)])
    found = list(kernel_btf(memory, find_landmarks(memory)))
    assert [each.missing for each in found] == [PAGE]
    assert found[0].types.size("task_struct") == 128
    assert found[0].types.size("other2999") == 8
    unknown = sum(found[0].types.size(f"other{number}") is None for number in range(3000))
    assert 300 < unknown < 400  # 12 bytes of strings each
    memory = memory_of(Memory(data), [(0, PAGE, 0), (2 * PAGE, len(data) - 2 * PAGE, 2 * PAGE)])
    assert not list(kernel_btf(memory, find_landmarks(memory)))


def test_decoys_are_passed_over() -> None:
    """A copy of the header alone (as in struct btf), a module's BTF and a damaged one are not taken."""
    btf, at = kernel_types(), 5 * PAGE + 0xB80
    decoy = bytes(48) + btf[:24]
    damaged = btf[:1000] + b"\xff" * 24 + btf[1024:]
    module = kernel_types(500, "another_struct")
    parts = (
        (0x1040, decoy),
        (at, btf),
        (BLOCK // 4, damaged),
        (BLOCK // 2, module),
        (BLOCK // 4 * 3, kernel_types(900)),
    )
    memory = whole(placed(BLOCK, *parts))
    found = list(kernel_btf(memory, find_landmarks(memory)))
    assert [each.physical for each in found] == [BLOCK // 4 * 3, at]  # the one of most types first


@pytest.mark.parametrize("at", [0x1E0, 0x11E4, BLOCK - 4, BLOCK - 12, BLOCK])
def test_banners_are_found_anywhere(at: int) -> None:
    """A banner begins at any whole word, where compilers put it, also across blocks; the format string is none."""
    memory = whole(placed(2 * BLOCK, (at, _BANNER), (0x9000, b"Linux version %s (x) y\n\0")))
    (banner,) = find_landmarks(memory).banners
    assert (banner.physical, banner.release) == (at, "6.12.1-test")
    assert banner.text == _BANNER[:-2].decode()


def test_the_name_of_the_first_task() -> None:
    """It is found among any number of words that begin like it, also if a block ends within it."""
    data = placed(
        2 * BLOCK, (0x80C40, b"swapper/0" + bytes(7)), (BLOCK - 4, b"swapper\0"), (0x81000, b"swapper/1" + bytes(7))
    )
    data = b"swap" * 0x20000 + data[0x80000:]
    assert find_landmarks(whole(data)).names == [0x80C40, BLOCK - 4]


def test_names_in_every_place_of_other_pages() -> None:
    """However many names a page is filled with, those of another are found; of it the first and the last are kept."""
    data = placed(4 * PAGE, (PAGE, b"swapper/0".ljust(16, b"\0") * (PAGE // 16)), (2 * PAGE + 64, b"swapper/0\0"))
    assert find_landmarks(whole(data)).names == [PAGE, 2 * PAGE - 16, 2 * PAGE + 64]
    assert by_distance([1, 5, 7, 100], [6, 90]) == [5, 7, 1, 100]
    assert by_distance([7, 5], []) == [5, 7]


def test_information_is_found_longest_first() -> None:
    """VMCOREINFO is found at whole words; what follows a missing page is not read."""
    short, long = b"OSRELEASE=6.1\n\0", b"OSRELEASE=6.1\nPAGESIZE=4096\nX=y\n\0"
    memory = whole(placed(BLOCK, (0x18, short), (0x3000, long), (0x5000, b"OSRELEASE=%s\n\0")))
    found = find_landmarks(memory).information
    assert [each.physical for each in found] == [0x3000, 0x18]
    data = placed(4 * PAGE, (2 * PAGE - 24, long))
    memory = memory_of(Memory(data), [(0, 2 * PAGE, 0), (3 * PAGE, PAGE, 3 * PAGE)])
    (cut,) = find_landmarks(memory).information
    assert cut.vmcoreinfo.values == {"OSRELEASE": "6.1"}


def test_many_copies_of_a_header_take_no_time() -> None:
    """Memory full of headers that claim megabytes each is looked at within bounds."""
    header = struct.pack("<HBB5I", 0xEB9F, 1, 0, 24, 0, 1 << 22, 1 << 22, 1 << 22)
    memory = whole(header * (4 * BLOCK // 24))
    landmarks = find_landmarks(memory)
    assert len(landmarks.btf) <= 2 * 4 * BLOCK // PAGE
    assert not list(kernel_btf(memory, landmarks))


def test_headers_in_all_pages_do_not_hide_the_types() -> None:
    """Thousands of headers of larger types, with nothing sensible behind them, leave time for the right ones."""
    types = kernel_types()
    header = struct.pack("<HBB5I", 0xEB9F, 1, 0, 24, 0, 1 << 19, 1 << 19, 1 << 15)
    data = placed(3 * BLOCK, *((page, header) for page in range(0, BLOCK, PAGE)), (2 * BLOCK + 0x78, types))
    memory = whole(data)
    assert [found.physical for found in kernel_btf(memory, find_landmarks(memory))] == [2 * BLOCK + 0x78]


@pytest.mark.parametrize("name", machines())
def test_real_machines(name: str) -> None:
    """In real memory the types lie where the machine's truth says, and all ways to the kernel's place agree."""
    real = machine(name)
    backing = FileBacking(str(real.raw))
    try:
        memory = memory_of(backing, [(real.raw_base, backing.size, 0)])
        landmarks = find_landmarks(memory)
        release = real.truth["kernel"]
        assert release in {each.release for each in landmarks.banners}
        assert {each.vmcoreinfo.release for each in landmarks.information} == {release}
        found = list(kernel_btf(memory, landmarks))
        assert [each.physical for each in found] == ([real.truth["btf"]["physical"]] if real.truth.get("btf") else [])
    finally:
        backing.close()
