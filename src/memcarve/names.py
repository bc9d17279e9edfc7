"""Words that commands, the library, evidence and labels share, each list closed; and what a file is called."""

from __future__ import annotations

import ntpath

#: what an input may be said to be; `image` is any container of a machine's memory, and a raw one
INPUT_TYPES = ("image", "dump", "map", "core", "minidump", "folder", "proc")
TRUSTS = ("printed", "sum")
SYSTEMS = ("windows", "linux", "none")
PAGINGS = ("x64", "x64-5", "pae", "x86")
HALVES = ("user", "kernel", "all")
SPLITS = ("none", "region", "protection", "permissions", "module")

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
