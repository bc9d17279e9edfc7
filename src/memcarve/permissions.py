"""What page tables allow, all levels combined, and the state of pages, as bits of a uint8 column.

The hardware enforces these permissions; the protection that the operating system gives a region is something else
(``protection.py``).
"""

from __future__ import annotations

USER, WRITE, EXECUTE, TRANSITION, PROT_NONE = 1, 2, 4, 8, 16


def permissions(flags: int) -> str | None:
    """Return what page tables allow, as ``urwx``; None if the pages were not present.

    The first letter is ``u`` if programs have access and ``s`` if only the kernel (supervisor) has. Present pages are
    readable; ``-`` stands for writing or executing that is not allowed.
    """
    if flags & (TRANSITION | PROT_NONE):
        return None
    whom = "u" if flags & USER else "s"
    return f"{whom}r{'w' if flags & WRITE else '-'}{'x' if flags & EXECUTE else '-'}"


def page_state(flags: int) -> str:
    """Return the state of pages: ``"present"``, ``"transition"`` (Windows) or ``"prot_none"`` (Linux)."""
    return "transition" if flags & TRANSITION else "prot_none" if flags & PROT_NONE else "present"
