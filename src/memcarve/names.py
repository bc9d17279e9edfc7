"""Words that commands, evidence and labels share: kinds of memory, and flags; and what a file is called."""

from __future__ import annotations

import ntpath

PRIVATE, MAPPED, IMAGE, STACK, HEAP, TEB, PEB, PAGE_TABLES = KINDS = (
    "private", "mapped", "image", "stack", "heap", "TEB", "PEB", "page tables",
)  # fmt: skip

PRIVATE_EXECUTABLE = "private-executable"
WRITABLE_EXECUTABLE = "writable-executable"
PE_IN_PRIVATE = "pe-in-private"
BEYOND_SECTION = "beyond-section"
MODULE_UNLISTED = "module-unlisted"
ENTRY_UNMAPPED = "entry-unmapped"
WIPED_HEADER = "wiped-header"
FLAGS = (
    PRIVATE_EXECUTABLE,
    WRITABLE_EXECUTABLE,
    PE_IN_PRIVATE,
    BEYOND_SECTION,
    MODULE_UNLISTED,
    ENTRY_UNMAPPED,
    WIPED_HEADER,
)


def base_name(path: str) -> str:
    """Return the last part of a path of any system: what is behind its last slash of either kind."""
    return ntpath.basename(path)
