"""What page tables allow, all levels combined, and how pages were found: bits of a column of dtype uint8.

That is the hardware's word; what the operating system says of a region (its protection) is another thing.
"""

from __future__ import annotations

USER, WRITE, EXECUTE, TRANSITION, PROT_NONE = 1, 2, 4, 8, 16


def permissions(flags: int) -> str | None:
    """Return what page tables allow, as ``urwx``: user, read, write, execute; None for pages that were not present."""
    if flags & (TRANSITION | PROT_NONE):
        return None
    return "".join(
        letter if flags & bit else "-" for letter, bit in (("u", USER), ("r", ~0), ("w", WRITE), ("x", EXECUTE))
    )


def page_state(flags: int) -> str:
    """Return how pages were found: ``"present"``, ``"transition"`` (Windows) or ``"prot_none"`` (Linux)."""
    return "transition" if flags & TRANSITION else "prot_none" if flags & PROT_NONE else "present"
