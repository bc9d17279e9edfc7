"""Headers that belong to a module which begins before them: its layout maps the first page of its file once more.

What lies there is part of that module, and no other one. Two mappings of one file that are no parts of each other are
two modules.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcarve.errors import AddressError
from memcarve.formats.programs.first_page import first_page_again
from memcarve.intervals import PAGE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from memcarve.formats.programs.first_page import Again
    from memcarve.labels.headers import Header
    from memcarve.labels.metadata_index import Known
    from memcarve.space import AddressSpace


def parts_of_others(
    space: AddressSpace, starts: Sequence[int], headers: Mapping[int, Header], known: Known
) -> dict[int, int]:
    """Return those of `starts`, in order, at which a part of another module lies, each with where that one begins.

    That is so if the other one is loaded as its header says: what it maps there is mapped to its end, from the same
    file as far as files are known, and the header is the same, if it is there. If it is missing where the module
    begins, the second one tells. Raises SourceReadError.
    """
    found: dict[int, int] = {}
    there = set(starts)
    for number, start in enumerate(starts):
        header = headers.get(start)
        if header is None or start in found:
            continue
        before = starts[number - 1] if number else start
        following = starts[number + 1] if number + 1 < len(starts) else start
        if before not in headers or following - start in range(1, (header.size or 0) + 1):
            for again in _first_page_again(space, start):
                other, first = start + again.place, start - again.place
                told = headers.get(other)
                same = told is None or _is_same(header, told)
                if other in there and same and _is_loaded(space, known, start, again, named=told is None):
                    found[other] = start
                if first == before and first not in headers and _is_loaded(space, known, first, again, named=True):
                    found[start] = first
    return found


def _first_page_again(space: AddressSpace, start: int) -> list[Again]:
    try:
        return first_page_again(space.read(start, PAGE))
    except AddressError:
        return []


def _is_same(one: Header, other: Header) -> bool:
    """Say whether two headers are the same but for what loaders change."""
    sections = [
        [(address - header.address, size, permissions) for address, size, permissions in header.sections]
        for header in (one, other)
    ]
    return sections[0] == sections[1] and all(
        getattr(one, name) == getattr(other, name) for name in ("format", "machine", "size", "timestamp")
    )


def _is_loaded(space: AddressSpace, known: Known, start: int, again: Again, *, named: bool) -> bool:
    """Say whether a module is loaded as its header says; `named`: only if regions know that it is of one file."""
    if not known.regions:
        return not named and _is_mapped(space, start + again.place) and _is_mapped(space, start + again.end - 1)
    held = [known.region_at(address) for address in (start, start + again.place, start + again.end - 1)]
    if None in held:
        return False
    own, other, last = (known.regions[place] for place in held if place is not None)
    if own.file != other.file or last.file not in (None, own.file) or (named and own.file is None):
        return False
    letters = own.collapsed
    return letters is None or again.executable is None or ("x" in letters) == again.executable


def _is_mapped(space: AddressSpace, address: int) -> bool:
    try:
        space.read(address, 1)
    except AddressError as error:
        return error.reason != space.absent
    return True
