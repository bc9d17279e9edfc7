"""The headers of programs where they are known to begin."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcarve.errors import AddressError, CounterpartError, SourceReadError
from memcarve.intervals import PAGE
from memcarve.labels.headers import parse_header

if TYPE_CHECKING:
    from collections.abc import Iterable

    from memcarve.labels.headers import Header
    from memcarve.space import AddressSpace


def headers_at(space: AddressSpace, bases: Iterable[int]) -> dict[int, Header | None] | None:
    """Return the headers at addresses, None for what is none, as far as these pages are there.

    Return None if there are no bytes to look at.
    """
    found: dict[int, Header | None] = {}
    for base in bases:
        try:
            page = space.read(base, PAGE)
        except (AddressError, SourceReadError):
            continue
        except CounterpartError:  # there is a map alone
            return None
        found[base] = parse_header(base, page)
    return found
