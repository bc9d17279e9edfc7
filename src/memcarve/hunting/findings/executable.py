"""Whether what lies at an address may run: by the page tables, or else by the region's protection."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcarve.errors import AddressError
from memcarve.permissions import EXECUTE, NOT_PRESENT, USER

if TYPE_CHECKING:
    from memcarve.hunting.findings.subject import Subject


def may_run(subject: Subject, address: int) -> bool:
    """Return True if programs may run what lies at an address."""
    memory, known = subject.memory, subject.known
    if memory is None or known is None:
        return False
    if memory.space.flags is not None:
        try:
            flags = int(memory.space.flags[memory.space.index(address)])
        except AddressError:
            return False
        if not flags & NOT_PRESENT:
            return flags & USER != 0 and flags & EXECUTE != 0
    place = known.region_at(address)
    return place is not None and "x" in (known.regions[place].collapsed or "")
