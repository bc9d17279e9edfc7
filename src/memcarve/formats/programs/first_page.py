"""Where a module's layout maps the first page of its file once more, with the header.

A linker that does not give code pages of its own puts the end of one part and the beginning of the next into one page
of the file, and the loader maps that page twice (System V ABI, chapter 5): in a small program it is the first one. In
the same way a section of a PE may begin with the file itself: Windows takes the first 512 bytes whole.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

from memcarve.formats.programs import elf, pe
from memcarve.formats.programs.mapped_module import up

#: the largest page that systems map files by
_LARGEST_PAGE = 1 << 16
_SECTOR = 0x200


class Again(NamedTuple):
    """Where the header lies again, and where what is mapped with it ends; relative to the module.

    `executable` says whether the header's own part is to be run, None if that tells nothing.
    """

    place: int
    end: int
    executable: bool | None


def first_page_again(page: bytes) -> list[Again]:
    """Return where the first page of a module's file lies again by its header, which is in `page`."""
    program = elf.image(page)
    if program is not None:
        own = next((load for load in program.sections if load.address == load.offset), None)
        executable = None if own is None else "x" in own.permissions
        return [
            Again(load.address - load.offset, load.address + load.size, executable)
            for before, load in itertools.pairwise(program.sections)
            # whatever size pages have: it is mapped from the file's beginning, behind all of what comes before
            if up(before.address + before.size) <= load.address - load.offset
            and load.stored
            and load.offset < _LARGEST_PAGE
        ]
    found = pe.image(page)
    return [
        Again(section.address, section.address + section.size, None)
        for section in (() if found is None else found.sections)
        if section.offset < _SECTOR and section.stored and section.size
    ]
