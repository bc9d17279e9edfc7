"""The list of processes: a ring through the structures, out of which some were taken and which may be damaged."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

#: a kernel address that is canonical and not mapped
_NOWHERE = 0xFFFF923456789ABC


def _broken(ring: Sequence[int]) -> tuple[int, int]:
    """Return the places of the entries that damage befalls."""
    return len(ring) // 3, 2 * len(ring) // 3


def links(head: int, entries: Sequence[tuple[int, bool]], damage: str | None, noise: int) -> dict[int, tuple[int, int]]:
    """Return address to (forward, backward) of the head and of all entries, which are (address, listed).

    What was taken out of the list still points to those that were its neighbours. `noise` is a mapped address where no
    list is.
    """
    ring = [head, *(entry for entry, listed in entries if listed)]
    found = {entry: (ring[(place + 1) % len(ring)], ring[place - 1]) for place, entry in enumerate(ring)}
    before = 0
    for entry, listed in entries:
        before += listed
        if not listed:
            found[entry] = (ring[(before + 1) % len(ring)], ring[before])
    first, last = (ring[place] for place in _broken(ring))
    if damage in {"forward", "both"}:
        found[first] = (_NOWHERE, found[first][1])
    if damage in {"backward", "both"}:
        found[last] = (found[last][0], noise)
    if damage == "loop":
        found[last] = (ring[2], found[last][1])
    return found


def cut_off(listed: Sequence[int], damage: str | None) -> tuple[int, ...]:
    """Return which of the listed processes neither direction leads to any more."""
    first, last = _broken([0, *listed])
    # the head is in front of them all
    return tuple(listed[first : last - 1]) if damage == "both" else ()
