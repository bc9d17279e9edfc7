"""What page tables allow, all levels combined, and how pages were found: bits of a column of dtype uint8.

That is the hardware's word; what the operating system says of a region (its protection) is another thing.
"""

from __future__ import annotations

USER, WRITE, EXECUTE, TRANSITION, PROT_NONE = 1, 2, 4, 8, 16


def permissions(flags: int) -> str | None:
    """Return what page tables allow, as ``urwx``; None for pages that were not present.

    The first letter says to whom: ``u`` to programs too, ``s`` to the kernel (supervisor) alone. What is present can be
    read; ``w`` and ``x`` are writing and executing, ``-`` stands for what is not allowed.
    """
    if flags & (TRANSITION | PROT_NONE):
        return None
    whom = "u" if flags & USER else "s"
    return f"{whom}r{'w' if flags & WRITE else '-'}{'x' if flags & EXECUTE else '-'}"


def page_state(flags: int) -> str:
    """Return how pages were found: ``"present"``, ``"transition"`` (Windows) or ``"prot_none"`` (Linux)."""
    return "transition" if flags & TRANSITION else "prot_none" if flags & PROT_NONE else "present"
