"""The address space and its segments against a brute-force model: a dict from each address to its place."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, NamedTuple
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import memcarve
from memcarve import intervals as columns_module, space as space_module
from memcarve.backing import AbsentBacking
from memcarve.errors import AddressError, CounterpartError, MapError, OverlapError, SourceReadError, UsageError
from memcarve.intervals import TOP, total
from memcarve.metadata import Regions
from memcarve.missing import (
    BEYOND_FILE,
    BEYOND_PAGE_FILE,
    CUT_OFF,
    DENIED,
    DEVICE,
    ELSEWHERE,
    IMAGE_CUT_OFF,
    LEFT_OUT,
    MISPLACED,
    NOT_WRITTEN,
    OUTSIDE,
    REASONS,
    UNREADABLE,
    Missing,
)
from memcarve.process import LeftOut, ProcessMemory, Selection
from memcarve.segments import KERNEL_HALF, Segment, Segments
from memcarve.space import AddressSpace, Extent
from memory import Memory
from processes import process_with

if TYPE_CHECKING:
    from collections.abc import Iterator

BACKING = 48  # bytes behind the model's spaces
WHY = {
    **dict.fromkeys(
        (
            NOT_WRITTEN,
            OUTSIDE,
            DEVICE,
            BEYOND_FILE,
            DENIED,
            MISPLACED,
            LEFT_OUT,
            UNREADABLE,
            BEYOND_PAGE_FILE,
            *ELSEWHERE,
        ),
        "mapped but missing",
    ),
    **dict.fromkeys((BEYOND_PAGE_FILE, *ELSEWHERE), "mapped but missing"),
    **dict.fromkeys((CUT_OFF, IMAGE_CUT_OFF), "the file ends too early"),
}


def column(values: list[int]) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    """Return numbers as a column."""
    return np.array(values, np.uint64)


def space_of(
    extents: list[tuple[int, int, int]], data: bytes | None = b"", missing: list[Missing] | None = None
) -> AddressSpace:
    """Return a space of (start, size, offset) extents over bytes."""
    columns = [column([extent[place] for extent in extents]) for place in range(3)]
    return AddressSpace(
        *columns,
        AbsentBacking(CounterpartError("no dump", remedy="give it with {dump}")) if data is None else Memory(data),
        missing or [],
    )


@contextlib.contextmanager
def small_chunks(rows: int) -> Iterator[None]:
    """Have columns worked through a few rows at a time, as happens with millions of them."""
    with mock.patch.object(columns_module, "CHUNK", rows), mock.patch.object(space_module, "CHUNK", rows):
        yield


class Model(NamedTuple):
    """A space and what it should hold: the place of each address, and why others are missing."""

    space: AddressSpace
    data: bytes
    places: dict[int, int]
    missing: dict[int, str]
    gaps: list[Missing]

    def runs(self, *, in_backing: bool) -> list[list[int]]:
        """Return the runs of consecutive addresses; with `in_backing`, those whose places follow each other, too."""
        runs: list[list[int]] = []
        for address in sorted(self.places):
            last = runs[-1][-1] if runs else None
            follows = last is not None and last + 1 == address
            if follows and in_backing:
                follows = self.places[last] + 1 == self.places[address]  # type: ignore[index]
            if follows:
                runs[-1].append(address)
            else:
                runs.append([address])
        return runs

    def interesting(self) -> list[int]:
        """Return every address that is there or missing, and those next to them."""
        known = {*self.places, *self.missing}
        near = {address + step for address in known for step in (-1, 0, 1)} | {0, TOP - 1}
        return sorted(address for address in near if 0 <= address < TOP)

    def first_bad(self, address: int, size: int) -> tuple[int, str] | None:
        """Return the first address of a range whose byte is not there, and the reason."""
        for at in range(address, address + size):
            if at not in self.places:
                return at, WHY[self.missing[at]] if at in self.missing else "not in the map"
        return None


@st.composite
def models(draw: st.DrawFn) -> Model:
    """Return spaces at the bottom, in the middle and at the top of the addresses, their extents in any order."""
    seed = int.from_bytes(draw(st.binary(min_size=BACKING // 4, max_size=BACKING // 4)), "big")
    data = bytes(b"aab\0"[seed >> 2 * place & 3] for place in range(BACKING))
    extents: list[tuple[int, int, int]] = []
    gaps: list[Missing] = []
    for base in draw(st.sets(st.sampled_from(["bottom", "half", "top"]), min_size=1)):
        pieces = draw(
            st.lists(
                st.tuples(
                    st.sampled_from([0, 0, 0, 1, 2]),
                    st.integers(1, 6),
                    st.sampled_from(["there", "there", "there", "follows", *REASONS]),
                    st.integers(0, BACKING - 6),
                ),
                max_size=7,
            )
        )
        length = sum(skip + size for skip, size, _, _ in pieces)
        at = {"bottom": 0, "half": KERNEL_HALF - 5, "top": TOP - length}[base]
        end = None
        for skip, size, kind, offset in pieces:
            at += skip
            if kind in REASONS:
                gaps.append(Missing(at, size, kind))
            else:
                place = end if kind == "follows" and end is not None and end + size <= BACKING else offset
                extents.append((at, size, place))
                end = place + size
            at += size
    shuffled = draw(st.permutations(extents))
    space = space_of(list(shuffled), data, list(draw(st.permutations(gaps))))
    places = {start + n: offset + n for start, size, offset in extents for n in range(size)}
    missing = {gap.start + n: gap.reason for gap in gaps for n in range(gap.size)}
    return Model(space, data, places, missing, gaps)


# extents and segments


@given(models(), st.integers(1, 4))
def test_extents_are_the_maximal_runs_in_memory_and_in_the_backing(model: Model, chunk: int) -> None:
    """Extents come sorted, and those that continue each other in both are one, whatever the order they came in."""
    expected = [Extent(run[0], len(run), model.places[run[0]]) for run in model.runs(in_backing=True)]
    with small_chunks(chunk):
        again = AddressSpace(model.space.start, model.space.size, model.space.offset, Memory(b""), model.gaps)
        assert list(again.extents()) == expected
    assert list(model.space.extents()) == expected
    assert len(model.space) == len(expected)
    assert model.space.total == len(model.places)


@given(models(), st.integers(1, 4))
def test_segments_are_the_maximal_runs_of_addresses(model: Model, chunk: int) -> None:
    """A segment spans every extent that follows the one before, and ends at a gap and at missing bytes."""
    starts = [run[0] for run in model.runs(in_backing=True)]
    expected = []
    for run in model.runs(in_backing=False):
        first = starts.index(run[0])
        number = sum(run[0] <= start <= run[-1] for start in starts)
        expected.append(Segment(run[0], len(run), model.places[run[0]], number, first))
    with small_chunks(chunk):
        segments = model.space.segments()
        assert list(segments) == expected
        assert [list(model.space.extents(segment)) for segment in segments] == [
            [extent for extent in model.space.extents() if segment.start <= extent.start < segment.end]
            for segment in expected
        ]
    assert [segments[place] for place in range(len(segments))] == expected
    assert segments.total == len(model.places)


@given(models())
def test_what_is_missing_is_kept_apart(model: Model) -> None:
    """The missing ranges are listed in order of their addresses with the reasons they came with."""
    assert list(model.space.missing) == sorted(model.gaps)


def test_a_name_holds_both_ends_in_sixteen_digits() -> None:
    """A segment's name is its start and end, exclusive, in sixteen digits, seventeen for the end of all addresses."""
    assert Segment(0, 0x1000, 0, 1, 0).name == "0x0000000000000000-0x0000000000001000"
    assert Segment(TOP - 1, 1, 0, 1, 0).name == "0xffffffffffffffff-0x10000000000000000"


def test_address_0_offset_0_and_the_last_byte_are_ordinary() -> None:
    """The first and the last address of 64 bits, and the backing's first byte, are found like any other."""
    space = space_of([(TOP - 2, 2, 0), (0, 2, 2)], b"yzab")
    assert list(space.segments()) == [Segment(0, 2, 2, 1, 0), Segment(TOP - 2, 2, 0, 1, 1)]
    assert [extent.end for extent in space.extents()] == [2, TOP]
    assert space.read(0, 2) == b"ab"
    assert space.read(TOP - 2, 2) == b"yz"
    assert space.addresses_of(0) == [TOP - 2]
    assert space.addresses_of(2) == [0]
    assert [hit.address for hit in space.find(b"z")] == [TOP - 1]
    assert [hit.address for hit in space.find(b"a")] == [0]
    # the last address is not followed by the first one
    assert list(space.find(b"za")) == []
    assert space.segments().touching(TOP - 1, TOP).tolist() == [False, True]


def test_an_empty_space_has_nothing() -> None:
    """A space without extents has no segments, no bytes and no hits."""
    space = space_of([], b"abc")
    assert (len(space), space.total, list(space.extents()), list(space.missing)) == (0, 0, [], [])
    assert list(space.segments()) == []
    assert list(space.find(b"a")) == []
    assert space.addresses_of(0) == []
    with pytest.raises(AddressError):
        space.read(0, 1)


def test_one_extent_may_fill_the_upper_half() -> None:
    """An extent of 2**63 bytes that ends at 2**64 is legal, beside one that ends right before the half."""
    space = space_of([(KERNEL_HALF, KERNEL_HALF, 0), (0, KERNEL_HALF - 1, KERNEL_HALF)])
    assert space.total == TOP - 1
    assert [extent.end for extent in space.extents()] == [KERNEL_HALF - 1, TOP]
    assert [segment.size for segment in space.segments()] == [KERNEL_HALF - 1, KERNEL_HALF]


def test_sums_of_sizes_are_exact() -> None:
    """The sum of sizes is exact where 64 bits cannot hold it."""
    sizes = [TOP - 1, TOP - 1, (1 << 32) + 5, 1]
    assert total(column(sizes)) == sum(sizes)
    assert total(column([])) == 0
    assert total(column([TOP - 1])) == TOP - 1


# what may not be


@given(
    st.lists(st.tuples(st.integers(0, 30), st.integers(1, 6)), min_size=1, max_size=6),
    st.lists(st.tuples(st.integers(0, 30), st.integers(1, 6)), max_size=3),
    st.sampled_from([0, TOP - 36]),
    st.integers(1, 3),
)
@settings(max_examples=300)
def test_ranges_that_share_an_address_are_refused(
    there: list[tuple[int, int]], gone: list[tuple[int, int]], base: int, chunk: int
) -> None:
    """Two ranges that claim an address, extents or missing, are an error that names an address both claim."""
    claims: dict[int, int] = {}
    for start, size in there + gone:
        for address in range(base + start, base + start + size):
            claims[address] = claims.get(address, 0) + 1
    shared = {address for address, count in claims.items() if count > 1}
    extents = [(base + start, size, number * 8) for number, (start, size) in enumerate(there)]
    missing = [Missing(base + start, size, NOT_WRITTEN) for start, size in gone]
    with small_chunks(chunk):
        if shared:
            with pytest.raises(OverlapError) as caught:
                space_of(extents, None, missing)
            assert caught.value.address in shared
            assert f"0x{caught.value.address:x}" in str(caught.value)
        else:
            assert space_of(extents, None, missing).total == sum(size for _, size in there)


def test_both_ranges_that_overlap_are_named() -> None:
    """The error says both ranges, with half-open ends.

    0x1000 [ one          )
    0x1800         [ other        )
    """
    with pytest.raises(OverlapError, match=r"0x1000-0x2000 and 0x1800-0x2800"):
        space_of([(0x1800, 0x1000, 0), (0x1000, 0x1000, 0x1000)])


def test_what_touches_does_not_overlap() -> None:
    """Ranges that only touch, extents and missing ones, are fine.

    0 [ one ) [ missing ) [ other )
    """
    space = space_of([(0, 4, 0), (8, 4, 4)], bytes(8), [Missing(4, 4, NOT_WRITTEN)])
    assert [(segment.start, segment.end) for segment in space.segments()] == [(0, 4), (8, 12)]


@pytest.mark.parametrize(("start", "size"), [(TOP - 1, 2), (1, TOP - 1 + 0), (KERNEL_HALF, KERNEL_HALF + 1)])
def test_an_extent_beyond_the_last_address_is_refused(start: int, size: int) -> None:
    """An extent that would end behind 2**64 is an error; one that ends there is not."""
    if start + size > TOP:
        with pytest.raises(MapError, match="end of the address space"):
            space_of([(start, size, 0)])
    else:
        assert list(space_of([(start, size, 0)]).extents()) == [Extent(start, size, 0)]


def test_a_missing_range_beyond_the_last_address_is_refused() -> None:
    """A missing range that would end behind 2**64 is an error, too."""
    with pytest.raises(MapError):
        space_of([], None, [Missing(TOP - 1, 2, NOT_WRITTEN)])


# reading


@given(models(), st.data())
@settings(max_examples=200)
def test_a_read_is_exact_or_names_the_first_bad_address(model: Model, data: st.DataObject) -> None:
    """A read gives the very bytes asked for, or the first address that is not there and why."""
    address = data.draw(st.sampled_from(model.interesting()))
    size = data.draw(st.integers(0, 16))
    bad = model.first_bad(address, size)
    if bad is None:
        expected = bytes(model.data[model.places[at]] for at in range(address, address + size))
        assert model.space.read(address, size) == expected
        pieces = list(model.space.pieces(address, size))
        places = [offset + n for offset, length in pieces for n in range(length)]
        assert places == [model.places[at] for at in range(address, address + size)]
        assert all(length > 0 for _, length in pieces)
    else:
        with pytest.raises(AddressError) as caught:
            model.space.read(address, size)
        assert (caught.value.address, caught.value.reason) == bad
        with pytest.raises(AddressError) as caught:
            list(model.space.pieces(address, size))
        assert (caught.value.address, caught.value.reason) == bad


@pytest.mark.parametrize("address", [-1, TOP, TOP + 5, -TOP])
def test_what_is_no_address_is_not_in_the_map(address: int) -> None:
    """A negative number and 2**64 are addresses of nothing, also where the space ends at 2**64."""
    space = space_of([(0, 4, 0), (TOP - 4, 4, 4)], bytes(8))
    with pytest.raises(AddressError, match="not in the map"):
        space.read(address, 1)
    with pytest.raises(AddressError):
        space.locate(address)


def test_a_read_past_the_top_names_the_end() -> None:
    """A read that would leave the top of the address space names 2**64 as the first bad address."""
    space = space_of([(TOP - 4, 4, 0)], b"wxyz")
    with pytest.raises(AddressError) as caught:
        space.read(TOP - 1, 2)
    assert caught.value.address == TOP


def test_a_read_of_far_too_much_allocates_nothing() -> None:
    """A read of 2**62 bytes where there are four fails with the fifth address, before anything is allocated."""
    space = space_of([(0x1000, 4, 0)], b"abcd")
    with pytest.raises(AddressError) as caught:
        space.read(0x1000, 1 << 62)
    assert caught.value.address == 0x1004


def test_without_a_backing_nothing_is_read() -> None:
    """A space whose dump is not at hand has segments; reading and searching say what is lacking."""
    space = space_of([(0x1000, 4, 0)], None)
    assert len(space.segments()) == 1
    with pytest.raises(CounterpartError, match="dump="):
        space.read(0x1000, 1)
    with pytest.raises(CounterpartError, match="dump="):
        list(space.find(b"a"))
    assert space.read(0x1000, 0) == b""


def test_a_backing_that_ends_early_is_an_error_and_not_zeros() -> None:
    """Where the backing cannot give the bytes its error comes through."""
    space = space_of([(0x1000, 8, 0)], b"abcd")
    assert space.read(0x1000, 4) == b"abcd"
    with pytest.raises(SourceReadError):
        space.read(0x1000, 5)
    with pytest.raises(SourceReadError):
        list(space.find(b"d"))


# from an address to its place, and back


@given(models())
def test_locate_finds_the_segment_and_the_extent(model: Model) -> None:
    """An address leads to the one segment and the one extent that hold it, or to the reason there is none."""
    segments, extents = list(model.space.segments()), list(model.space.extents())
    for address in model.interesting():
        bad = model.first_bad(address, 1)
        if bad:
            with pytest.raises(AddressError) as caught:
                model.space.locate(address)
            assert (caught.value.address, caught.value.reason) == bad
            continue
        segment, extent = model.space.locate(address)
        assert [segment] == [one for one in segments if one.start <= address < one.end]
        assert [extent] == [one for one in extents if one.start <= address < one.end]
        assert extent.offset + address - extent.start == model.places[address]


@given(models())
def test_addresses_of_an_offset_are_all_of_them(model: Model) -> None:
    """A place in the backing leads to every address that is stored there: none, one or several."""
    for offset in range(-2, BACKING + 2):
        expected = sorted(address for address, place in model.places.items() if place == offset)
        assert sorted(model.space.addresses_of(offset)) == expected
    assert model.space.addresses_of(TOP) == []
    assert model.space.addresses_of(TOP - 1) == []


def test_offsets_at_the_end_of_64_bits_lead_back() -> None:
    """An extent stored at the last offsets of 64 bits is found by them, and by no others."""
    space = space_of([(0x1000, 0x10, TOP - 0x10), (0x2000, 0x10, 0)], None)
    assert space.addresses_of(TOP - 1) == [0x100F]
    assert space.addresses_of(0) == [0x2000]


# searching


def brute_hits(model: Model, patterns: list[bytes]) -> list[tuple[int, int, int]]:
    """Return (address, pattern, offset) of every match, by trying every address."""
    found = []
    for run in model.runs(in_backing=False):
        text = bytes(model.data[model.places[at]] for at in run)
        for place, address in enumerate(run):
            found += [
                (address, number, model.places[address])
                for number, pattern in enumerate(patterns)
                if text.startswith(pattern, place)
            ]
    return found


@given(
    models(),
    st.lists(st.text("ab\0", min_size=1, max_size=7).map(str.encode), min_size=1, max_size=4),
    st.integers(1, 9),
)
@settings(max_examples=400)
def test_find_gives_every_match_in_order(model: Model, patterns: list[bytes], block: int) -> None:
    """Every place where a pattern lies is found once, overlapping ones, across extents, whatever the window."""
    hits = list(model.space.find(patterns, block=block))
    assert [(hit.address, hit.pattern, hit.offset) for hit in hits] == brute_hits(model, patterns)
    assert all(hit.segment.start <= hit.address < hit.segment.end for hit in hits)
    assert list(model.space.find(patterns)) == hits


@pytest.mark.parametrize("block", range(1, 12))
def test_find_sees_the_last_byte_of_a_segment_and_not_across_a_gap(block: int) -> None:
    """A match that ends with a segment is found; one that would go on behind a gap is not.

    0x10 [ab][ca)   0x20 [b)
    """
    space = space_of([(0x10, 2, 0), (0x12, 2, 4), (0x20, 1, 1)], b"ab__ca")
    assert [hit.address for hit in space.find(b"ca", block=block)] == [0x12]
    assert [hit.address for hit in space.find(b"bca", block=block)] == [0x11]
    assert [hit.address for hit in space.find(b"ab", block=block)] == [0x10]
    assert [hit.address for hit in space.find(b"abca", block=block)] == [0x10]
    assert [hit.address for hit in space.find(b"abcab", block=block)] == []


@given(models(), st.data())
def test_find_keeps_to_the_segments_given(model: Model, data: st.DataObject) -> None:
    """With segments given, what lies in the others is not found."""
    segments = model.space.segments()
    keep = data.draw(st.lists(st.booleans(), min_size=len(segments), max_size=len(segments)))
    hits = model.space.find(b"a", segments.where(np.array(keep, np.bool_)), block=2)
    chosen = [segment for segment, kept in zip(segments, keep, strict=True) if kept]
    expected = [
        address
        for segment in chosen
        for address in range(segment.start, segment.end)
        if model.data[model.places[address]] == ord("a")
    ]
    assert [hit.address for hit in hits] == expected


def test_an_empty_pattern_is_an_error() -> None:
    """An empty pattern lies everywhere and is refused, also among others; so is text, which may lie in any encoding."""
    space = space_of([(0, 4, 0)], b"abcd")
    for patterns in (b"", [b"a", b""]):
        with pytest.raises(ValueError, match="empty"):
            list(space.find(patterns))
    with pytest.raises(TypeError, match="text_pattern"):
        list(space.find("a"))  # type: ignore[arg-type]


@pytest.mark.parametrize("block", [1, 2, 100])
def test_no_patterns_find_nothing(block: int) -> None:
    """A search for no pattern at all has no hits."""
    assert list(space_of([(0, 8, 0)], b"abcdefgh").find([], block=block)) == []


def test_the_same_pattern_twice_is_found_twice() -> None:
    """Each pattern has its own hits, equal ones too."""
    hits = space_of([(0, 3, 0)], b"aba").find([b"a", b"a"])
    assert [(hit.address, hit.pattern) for hit in hits] == [(0, 0), (0, 1), (2, 0), (2, 1)]


# choosing segments


@st.composite
def bounds(draw: st.DrawFn) -> int:
    """Return numbers at and around the places where the models have their extents."""
    near = draw(st.sampled_from([0, KERNEL_HALF, TOP, TOP - 36, 1 << 65]))
    return max(0, near + draw(st.integers(-12, 40)))


@given(models(), bounds(), bounds(), st.integers(-1, 20))
@settings(max_examples=300)
def test_masks_say_what_holds_for_each_segment(model: Model, start: int, end: int, size: int) -> None:
    """touching, in_half, at_least and at_most answer for each segment as comparing Python integers does."""
    segments = model.space.segments()
    assert segments.touching(start, end).tolist() == [
        start < end and one.start < end and start < one.end for one in segments
    ]
    assert segments.at_least(size).tolist() == [one.size >= size for one in segments]
    assert segments.at_most(size).tolist() == [one.size <= size for one in segments]
    assert segments.in_half("all").tolist() == [True] * len(segments)
    assert segments.in_half("user").tolist() == [one.start < KERNEL_HALF for one in segments]
    assert segments.in_half("kernel").tolist() == [one.start >= KERNEL_HALF for one in segments]


def test_size_limits_beyond_64_bits_are_limits() -> None:
    """A minimum of more than 64 bits keeps nothing that is smaller, a maximum of that size everything."""
    segments = space_of([(0, 4, 0)]).segments()
    assert segments.at_least(1 << 70).tolist() == [False]
    assert segments.at_most(1 << 70).tolist() == [True]
    assert segments.touching(1 << 70, 1 << 71).tolist() == [False]
    assert segments.touching(0, 1 << 71).tolist() == [True]


def test_where_keeps_every_column() -> None:
    """The segments kept are whole: start, size, offset, number of extents and first extent."""
    segments = space_of([(0, 2, 0), (2, 2, 9), (8, 4, 5)]).segments()
    kept = segments.where(np.array([False, True]))
    assert list(kept) == [Segment(8, 4, 5, 1, 2)]
    assert list(segments.where(np.array([True, False]))) == [Segment(0, 4, 0, 2, 0)]
    assert isinstance(kept, Segments)


@given(
    models(),
    st.sampled_from(["all", "user", "kernel"]),
    st.lists(st.tuples(bounds(), bounds()), max_size=3),
    st.none() | st.integers(0, 12),
    st.none() | st.integers(0, 12),
)
@settings(max_examples=300)
def test_a_selection_accounts_for_every_segment(
    model: Model, half: str, addresses: list[tuple[int, int]], smallest: int | None, largest: int | None
) -> None:
    """Every segment is kept or left out for the first limit it fails; the counts and bytes add up."""
    selection = Selection(half, addresses, smallest, largest)
    kept, left_out = selection.apply(model.space.segments())
    expected, counts = [], dict.fromkeys(["range", "address", "min", "max"], (0, 0))
    for segment in model.space.segments():
        own = "kernel" if segment.start >= KERNEL_HALF else "user"
        if half not in ("all", own):
            why = "range"
        elif addresses and not any(
            low < segment.end and segment.start < high and low < high for low, high in addresses
        ):
            why = "address"
        elif smallest is not None and segment.size < smallest:
            why = "min"
        elif largest is not None and segment.size > largest:
            why = "max"
        else:
            expected.append(segment)
            continue
        counts[why] = counts[why][0] + 1, counts[why][1] + segment.size
    assert list(kept) == expected
    names = {"range": f"outside --range {half}", "address": "outside --address"}
    names |= {"min": "below --min-size", "max": "above --max-size"}
    assert left_out == [LeftOut(names[why], *count) for why, count in counts.items() if count[0]]
    assert kept.total + sum(left.bytes for left in left_out) == len(model.places)


def test_the_kernel_half_of_32_bits_begins_at_2_gib() -> None:
    """In a process of x86 the kernel's half begins at 0x80000000, elsewhere at 2**63."""
    space = space_of([(0x7FFF0000, 0x10, 0), (0x80000000, 0x10, 0x10)], None)
    starts = {
        architecture: [
            [segment.start for segment in process_with(space, architecture=architecture).segments(Selection(half))]
            for half in ("user", "kernel")
        ]
        for architecture in ("x86", None)
    }
    assert starts == {"x86": [[0x7FFF0000], [0x80000000]], None: [[0x7FFF0000, 0x80000000], []]}


def test_the_first_address_cut_off_may_be_0() -> None:
    """The first address that the dump is too short for is told apart from none, also where it is 0."""
    assert ProcessMemory(space_of([], None, [Missing(0, 4, CUT_OFF)])).first_cut_off == 0
    assert ProcessMemory(space_of([], None, [Missing(0, 4, NOT_WRITTEN)])).first_cut_off is None


@pytest.mark.parametrize("block", [1, 2, 3, 4, 5, 8, 64])
def test_patterns_that_end_in_zeros_are_found_where_they_are_whole(block: int) -> None:
    """The zeros at a pattern's end count: in another stretch, at a segment's end, and never from an older stretch."""
    data = b"a\0b\0" + b"a\0b" + b"xa\0b\0\0a\0b\0"
    space = space_of([(0x10, 4, 0), (0x20, 3, 4), (0x30, len(data) - 7, 7)], data)
    pattern = "ab".encode("utf-16-le")
    found = [hit.address for hit in space.find([pattern, b"\0\0", b"b\0\0"], block=block)]
    assert found == [0x10, 0x31, 0x33, 0x34, 0x36]


@given(models(), st.data())
def test_segments_are_a_sequence(model: Model, data: st.DataObject) -> None:
    """Segments behave as a list of them does: places from either end, slices, and an IndexError beyond."""
    segments = model.space.segments()
    rows = list(segments)
    for index in range(-len(rows) - 2, len(rows) + 2):
        if -len(rows) <= index < len(rows):
            assert segments[index] == rows[index]
        else:
            with pytest.raises(IndexError):
                segments[index]
    bound = st.one_of(st.none(), st.integers(-5, 5))
    part = slice(data.draw(bound), data.draw(bound), data.draw(st.one_of(st.none(), st.integers(1, 3))))
    assert list(segments[part]) == rows[part]
    assert list(reversed(segments)) == rows[::-1]
    with pytest.raises(ValueError, match="negative step"):
        segments[::-1]


def test_representations_are_worth_reading() -> None:
    """What is shown at a prompt says how much there is, and where."""
    space = space_of([(0x1000, 16, 0), (TOP - 16, 16, 16)], bytes(32))
    assert repr(space) == "<AddressSpace: 2 extents of 32 bytes, 0x1000 to 0x10000000000000000>"
    assert repr(space.segments()) == "<Segments: 2 of 32 bytes, 0x1000 to 0x10000000000000000>"
    assert repr(space_of([])) == "<AddressSpace: 0 extents of 0 bytes>"
    assert repr(space_of([]).segments()) == "<Segments: 0 of 0 bytes>"
    named = process_with(space, pid=4, name="a\x1b[31m", architecture="x64")
    assert repr(named) == r"<ProcessMemory: 4 a\x1b[31m, x64, 32 bytes>"
    assert repr(Regions("b\x1b", [])) == r"<Regions: 0 of b\x1b>"
    assert repr(memcarve.compare(named, named)) == "<Comparison: 2 groups of 32 common bytes>"


def test_another_half_is_refused() -> None:
    """A half that there is not is an error of usage, never the user half."""
    with pytest.raises(UsageError, match="choose from user, kernel, all"):
        space_of([]).segments().in_half("Kernel")
