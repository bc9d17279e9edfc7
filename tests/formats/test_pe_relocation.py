"""Base relocations: images laid out at two addresses by brute force are the same once these are accounted for."""

from __future__ import annotations

import random
import struct
from typing import TYPE_CHECKING

import pytest

from memcarve.formats.programs.pe_relocation import Relocations, differ_by_bases, unrelocated
from memory import PAGE

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

SIZE = 6 * PAGE
DIRECTORY = 0x10000


def blocks(places: Mapping[int, int]) -> bytes:
    """Return a directory of places and their widths, in pages of their own, padded as linkers do."""
    found = b""
    for page in sorted({place // PAGE for place in places}):
        entries = [
            (10 if width == 8 else 3) << 12 | place % PAGE
            for place, width in sorted(places.items())
            if place // PAGE == page
        ]
        entries += [0] * (len(entries) % 2)
        found += struct.pack(f"<II{len(entries)}H", page * PAGE, 8 + 2 * len(entries), *entries)
    return found


def read_of(data: bytes, lost: range = range(0)) -> Callable[[int, int], bytes | None]:
    """Return what reads a directory, of which some bytes are not in memory."""

    def read(place: int, size: int) -> bytes | None:
        at = place - DIRECTORY
        there = at >= 0 and at + size <= len(data) and not (at < lost.stop and at + size > lost.start)
        return data[at : at + size] if there else None

    return read


def laid_out(image: bytes, places: Mapping[int, int], base: int) -> bytes:
    """Return an image as a loader lays it out at an address."""
    found = bytearray(image)
    for place, width in places.items():
        value = int.from_bytes(found[place : place + width], "little") + base
        found[place : place + width] = (value % (1 << 8 * width)).to_bytes(width, "little")
    return bytes(found)


@pytest.mark.parametrize("seed", range(20))
def test_images_at_two_addresses(seed: int) -> None:
    """Page by page the same: by the directory, and by the difference of the addresses; a changed byte is seen."""
    chance = random.Random(seed)  # noqa: S311 - examples
    width = chance.choice((4, 8))
    bits = 31 if width == 4 else 47
    bases = [chance.randrange(1, 1 << bits - 16) << 16 for _ in range(2)]
    image, places, at = bytearray(chance.randbytes(SIZE)), {}, chance.randrange(40)
    while at + width <= SIZE:
        places[at] = width
        image[at : at + width] = chance.randrange(SIZE).to_bytes(width, "little")
        # many are cut by the border of two pages
        at = chance.choice(
            (at + width + chance.randrange(900), max(at + width, (at // PAGE + 1) * PAGE - chance.randrange(width)))
        )
    first, second = (laid_out(bytes(image), places, base) for base in bases)
    told = blocks(places)
    known = Relocations(read_of(told), (DIRECTORY, len(told)))
    for page in range(SIZE // PAGE):
        part = slice(page * PAGE, (page + 1) * PAGE)
        found = known.of(page)
        assert found is not None
        assert sorted(found) == sorted(
            (place - page * PAGE, size) for place, size in places.items() if -size < place - page * PAGE < PAGE
        )
        assert unrelocated(first[part], bases[0], found) == unrelocated(second[part], bases[1], found)
        assert differ_by_bases(first[part], second[part], *bases)
        changed = bytearray(second[part])
        within = {place + more for place, size in found for more in range(size)}
        free = chance.choice([at for at in range(PAGE) if at not in within])
        changed[free] ^= chance.randrange(1, 256)
        assert unrelocated(first[part], bases[0], found) != unrelocated(bytes(changed), bases[1], found)
        assert not differ_by_bases(first[part], bytes(changed), *bases)


def test_what_is_not_there_is_not_known() -> None:
    """Up to the first block that cannot be read; behind the last one nothing is relocated."""
    told = blocks({0x1010: 8, 0x3FFC: 8, 0x5000: 4})
    whole = Relocations(read_of(told), (DIRECTORY, len(told)))
    assert [whole.of(page) for page in range(7)] == [
        [],
        [(0x10, 8)],
        [],
        [(0xFFC, 8)],
        [(-4, 8)],
        [(0, 4)],
        [],
    ]
    cut = Relocations(read_of(told, range(12, len(told))), (DIRECTORY, len(told)))
    assert [cut.of(page) for page in range(4)] == [[], [(0x10, 8)], None, None]
    lost = Relocations(read_of(told, range(4)), (DIRECTORY, len(told)))
    assert lost.of(0) is None


@pytest.mark.parametrize(
    ("directory", "data"),
    [
        ((0, 0), b""),
        ((DIRECTORY, 4), bytes(64)),
        ((DIRECTORY, 1 << 31), bytes(64)),
        ((DIRECTORY, 64), struct.pack("<II", 0x1000, 0) + bytes(56)),
        ((DIRECTORY, 64), struct.pack("<II", 0x1004, 16) + bytes(56)),
        ((DIRECTORY, 64), struct.pack("<II", 0x1000, 15) + bytes(56)),
        ((DIRECTORY, 64), struct.pack("<II", 0x1000, 0xFFFFFFF0) + bytes(56)),
    ],
)
def test_a_damaged_directory_tells_nothing(directory: tuple[int, int], data: bytes) -> None:
    """It ends, and claims no page that it does not tell of."""
    assert Relocations(read_of(data), directory).of(1) is None


@pytest.mark.parametrize("places", [[8, 8], [8, 12], [16, 9]])
def test_places_that_overlap_tell_nothing(places: list[int]) -> None:
    """Added up they explain any change: nothing is known of their page, and all of others."""
    told = b"".join(
        struct.pack("<II2H", page, 12, *(10 << 12 | place for place in own))
        for page, own in ((0x1000, [0, 8]), (0x2000, places), (0x3000, [8, 0]))
    )
    found = Relocations(read_of(told), (DIRECTORY, len(told)))
    assert [found.of(page) for page in range(1, 4)] == [[(0, 8), (8, 8)], None, [(0, 8), (8, 8)]]


def test_blocks_out_of_order_end_it() -> None:
    """A page whose block may come again is not known."""
    told = blocks({0x3000: 8}) + blocks({0x1000: 8})
    found = Relocations(read_of(told), (DIRECTORY, len(told)))
    assert found.of(3) == [(0, 8)]
    assert found.of(4) is None


def test_the_same_address_explains_nothing() -> None:
    """Pages of images at one address differ, whatever the difference."""
    assert not differ_by_bases(bytes(PAGE), bytes(PAGE - 1) + b"\1", 0x10000, 0x10000)
    assert differ_by_bases(bytes(PAGE), bytes(PAGE), 0x10000, 0x20000)
