"""Which processes of one container are those of another, made of the same machine at another time."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memcarve.process import ProcessEntry

#: a Unix kernel counts from its own start, and when that was follows from a clock that is corrected meanwhile
_CORRECTED = dt.timedelta(seconds=2)


class Pair(NamedTuple):
    """A process `was` before and `now` is: places in two lists; None if it had not begun yet, or has ended."""

    was: int | None
    now: int | None


def is_same(was: ProcessEntry, now: ProcessEntry) -> bool:
    """Return True if two entries of the same machine are of one process, as far as they tell.

    A number is used again after its process has ended, so the times of creation decide if both are known, else the
    names. What the kernel of a Unix system knows of a process stays at one address for as long as it lives.
    """
    if was.pid != now.pid:
        return False
    if was.created is not None and now.created is not None:
        if was.unix is None and now.unix is None:
            return was.created == now.created
        stays = was.object is not None and was.object == now.object and was.name == now.name
        return stays or abs(was.created - now.created) <= _CORRECTED
    return None in (was.name, now.name) or was.name == now.name


def paired(
    was: Sequence[ProcessEntry], now: Sequence[ProcessEntry], before: Sequence[int], after: Sequence[int]
) -> list[Pair]:
    """Pair those at places `before` in a list with those at places `after` in a later one.

    First come all of `before`, in order, then what began since.
    """
    by_pid: dict[int | None, list[int]] = {}
    for place in after:
        by_pid.setdefault(now[place].pid, []).append(place)
    pairs = []
    for place in before:
        candidates = by_pid.get(was[place].pid, [])
        found = next((other for other in candidates if is_same(was[place], now[other])), None)
        if found is not None:
            candidates.remove(found)
        pairs.append(Pair(place, found))
    begun = {place for places in by_pid.values() for place in places}
    return pairs + [Pair(None, place) for place in after if place in begun]
