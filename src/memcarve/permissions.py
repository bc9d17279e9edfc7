"""What page tables allow, all levels combined, and how pages were found, as bits of a uint8 column.

The hardware enforces these permissions; the protection that the operating system gives a region is something else
(``protection.py``).
"""

from __future__ import annotations

USER, WRITE, EXECUTE, TRANSITION, PROT_NONE = 1, 2, 4, 8, 16
#: the page was not in the process's working set: it was found by a prototype PTE, and others may share it
PROTOTYPE = 32
#: where the page was if not in the machine's memory: in a page file, compressed, or nowhere (zeros nobody wrote)
PAGEFILE, COMPRESSED, DEMAND_ZERO = 64, 128, 192
_WHERE = {PAGEFILE: "pagefile", COMPRESSED: "compressed", DEMAND_ZERO: "demand_zero"}
#: bits of pages that the hardware does not get to by the process's page tables
NOT_PRESENT = TRANSITION | PROT_NONE | PROTOTYPE | DEMAND_ZERO
#: bits of pages that the process's page tables do not lead to
RESOLVED = PROTOTYPE | DEMAND_ZERO


def permissions(flags: int) -> str | None:
    """Return what page tables allow, as ``urwx``; None if the pages were not present.

    The first letter is ``u`` if programs have access and ``s`` if only the kernel (supervisor) has. Present pages are
    readable; ``-`` stands for writing or executing that is not allowed.
    """
    if flags & NOT_PRESENT:
        return None
    whom = "u" if flags & USER else "s"
    return f"{whom}r{'w' if flags & WRITE else '-'}{'x' if flags & EXECUTE else '-'}"


def page_state(flags: int) -> str:
    """Return the state of pages: ``"present"``, ``"transition"`` (Windows), ``"prot_none"`` (Linux).

    Of pages that the process's page tables do not lead to: ``"prototype"`` (Windows) or ``"absent"``.
    """
    if flags & RESOLVED:
        return "prototype" if flags & PROTOTYPE else "absent"
    return "transition" if flags & TRANSITION else "prot_none" if flags & PROT_NONE else "present"


def origin(flags: int) -> str:
    """Return how pages were found: ``"ram"``, ``"transition"``, ``"prototype"``, ``"compressed"``, ``"pagefile"``.

    Of a page that was found by a prototype PTE and is not in the machine's memory the word says both, as
    ``"prototype+pagefile"``. ``"demand_zero"`` are zeros that nobody wrote.
    """
    where = _WHERE.get(flags & DEMAND_ZERO)
    if flags & PROTOTYPE:
        return "prototype" if where is None else f"prototype+{where}"
    return where or ("transition" if flags & TRANSITION else "ram")


def is_in_memory(flags: int) -> bool:
    """Return whether pages were in the machine's memory, and so have a physical address."""
    return flags & DEMAND_ZERO == 0
