"""Memory of several processes, cut so that what is the same in several of them is recognised.

Programs share pages: the same places of the image stand in many address spaces, in the same order. Memory is cut into
units at pages that are chosen by their place in the image, so that a sequence of pages is cut alike wherever it stands
(content-defined chunking, with places as the content). Units are the same if they have the same pages, and the same
pages around them as far as a search looks there.
"""

from __future__ import annotations

import functools
import itertools
import secrets
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from memcarve.intervals import PAGE
from memcarve.searching.location_hashes import image_of, mixed

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from memcarve.dtypes import I64, U64, Bools
    from memcarve.searching.memory import Memory
    from memcarve.segments import Segments

_CUT = np.uint64(15)  # a page in 16 begins a unit
_LONGEST = 256  # pages in a unit
_PAGES = 1 << 16  # pages looked at in one go: some MiB
_SHIFT = np.uint64(12)
# Nobody can make places in an image that are taken for others: keys are polynomials of the pages in two secret numbers,
# modulo a prime. Modulo a power of two there are sequences of pages whose polynomials are the same whatever the number.
_PRIME, _BITS = (1 << 31) - 1, 31
_FACTOR, _NO_PAGE = (np.uint64(secrets.randbits(64) | 1) for _ in range(2))
_NUMBERS = [2 + secrets.randbelow(_PRIME - 3) for _ in range(2)]


class Units(NamedTuple):
    """Units in columns, in order of addresses: the segment's `row` (int64), `start`, `size`, `key` (uint64).

    Units with the same `key` have the same bytes in and around them, if their memory is of the same backing.
    """

    row: I64
    start: U64
    size: U64
    key: U64


class _Pieces(NamedTuple):
    """Parts of segments (int64): the segment's `row`, the first page in it, and how many pages."""

    row: I64
    low: I64
    pages: I64


def can_be_shared(space: Memory, segments: Segments) -> bool:
    """Return True if the memory is an image's, which has whole pages that others may have, too."""
    if space.physical is None:
        return False
    low = np.uint64(PAGE - 1)
    borders = (space.start, space.size, segments.start, segments.size)
    return not any(bool((column & low).any()) for column in borders)


def units(space: Memory, segments: Segments, before: int, after: int) -> Iterator[Units]:
    """Yield the units of segments, in order of addresses, some at a time.

    `before` and `after` are how many bytes around a unit a search looks at. `can_be_shared` must be true.
    """
    context = -(-before // PAGE), -(-after // PAGE)
    for pieces in _pieces(segments, sum(context)):
        yield _cut(space, segments, pieces, *context)


def _pieces(segments: Segments, context: int) -> Iterator[_Pieces]:
    """Yield segments, and parts of large ones, as many at a time as have so many pages together."""
    pages = (segments.size >> _SHIFT).astype(np.int64)
    parts = -(-pages // _PAGES)
    row = np.repeat(np.arange(len(pages)), parts)
    low = (np.arange(len(row)) - np.repeat(np.cumsum(parts) - parts, parts)) * _PAGES
    count = np.minimum(pages[row] - low, _PAGES)
    group = np.cumsum(count + context) // _PAGES
    first = np.flatnonzero(np.append(True, group[1:] != group[:-1])) if len(group) else np.zeros(0, np.int64)
    for begin, end in itertools.pairwise([*first.tolist(), len(row)]):
        yield _Pieces(row[begin:end], low[begin:end], count[begin:end])


def _cut(space: Memory, segments: Segments, pieces: _Pieces, before: int, after: int) -> Units:
    """Return the units that pieces are cut into; `before` and `after` are pages."""
    # each piece has a slot for each page that is looked at
    slots = pieces.pages + (before + after)
    ends = np.cumsum(slots)
    piece = np.repeat(np.arange(len(slots)), slots)
    place = np.arange(len(piece)) - (ends - slots)[piece] - before
    page = place + pieces.low[piece]
    pages = (segments.size >> _SHIFT).astype(np.int64)[pieces.row]
    there = (page >= 0) & (page < pages[piece])
    address = segments.start[pieces.row][piece] + (np.where(there, page, 0).astype(np.uint64) << _SHIFT)
    held = np.searchsorted(space.start, address, "right") - 1
    offset = np.add(space.offset[held], address - space.start[held], dtype=np.uint64)
    numbers = np.where(there, mixed(offset), _NO_PAGE)
    first = np.flatnonzero(_begins(numbers, place, pieces.pages[piece]))
    holder = piece[first]
    last = np.minimum(np.append(first[1:], len(piece)), ends[holder] - after)
    size = (last - first).astype(np.uint64)
    key = (size + np.uint64(id(image_of(space)))) * _FACTOR
    for number, bits in zip(_NUMBERS, (numbers >> np.uint64(64 - _BITS), numbers & np.uint64(_PRIME)), strict=True):
        key = (key << np.uint64(32) | key >> np.uint64(32)) + _polynomials(bits, number, first - before, last + after)
    return Units(pieces.row[holder], address[first], size << _SHIFT, key)


def _polynomials(values: U64, number: int, low: I64, high: I64) -> U64:
    """Return the polynomials in a number of stretches of values, from `low` to `high`, from differences of sums."""
    powers, inverses = _powers(number, 1 << max(len(values), 1).bit_length())
    sums = np.append(np.uint64(0), np.cumsum(_reduced(values * powers[: len(values)]), dtype=np.uint64))
    return _reduced(_reduced(sums[high] - sums[low]) * inverses[low])


def _reduced(values: U64) -> U64:
    """Return numbers of at most 62 bits modulo the prime."""
    prime, bits = np.uint64(_PRIME), np.uint64(_BITS)
    values = (values & prime) + (values >> bits)
    values = (values & prime) + (values >> bits)
    return np.asarray(np.minimum(values, values - prime))  # a difference below zero is large


def _begins(numbers: U64, place: I64, count: I64) -> Bools:
    """Return which slots (bool) begin a unit, by their places in pieces that have `count` pages of their own."""
    own = (place >= 0) & (place < count)
    begins = own & ((numbers & _CUT == 0) | (place == 0))
    slot = np.arange(len(numbers))
    away = slot - np.maximum.accumulate(np.where(begins, slot, 0))
    return np.asarray(begins | (own & (away % _LONGEST == 0)))


@functools.lru_cache(maxsize=8)
def _powers(number: int, count: int) -> tuple[U64, U64]:
    """Return the first powers of a number and of its inverse, modulo the prime; `count` is a power of two."""
    both = []
    for factor in (number, pow(number, -1, _PRIME)):
        powers = np.ones(1, np.uint64)
        while len(powers) < count:
            powers = np.append(powers, _reduced(powers * np.uint64(pow(factor, len(powers), _PRIME))))
        both.append(powers)
    return both[0], both[1]


def shared_keys(parts: Iterable[tuple[Memory, Segments]], before: int, after: int) -> U64:
    """Return the keys (uint64, sorted) of units that stand in several places of some processes' memory."""
    keys = [np.zeros(0, np.uint64)]
    keys += [
        found.key
        for space, segments in parts
        if can_be_shared(space, segments)
        for found in units(space, segments, before, after)
    ]
    found, counts = np.unique(np.concatenate(keys), return_counts=True)
    return found[counts > 1]
