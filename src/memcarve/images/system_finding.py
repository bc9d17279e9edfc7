"""Which operating system's memory an image is: what tells itself comes first, then what all memory is searched for.

A quick look takes the few pages first that tell where a real machine's kernel is, and looks through all the memory only
if they do not lead to one whose processes can be listed.

This is what leads to the modules of all systems. They take longer to import than everything else, and dumps, minidumps
and cores need none of them; those of Linux are imported if Windows is not found.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcarve.errors import ProcessError
from memcarve.images.paging_modes import LINUX, WINDOWS
from memcarve.images.windows.kernel import KNOWN, LOW
from memcarve.images.windows.windows_system import find_windows

if TYPE_CHECKING:
    from memcarve.formats.compression import Reading
    from memcarve.images.physical import PhysicalMemory
    from memcarve.images.system import OperatingSystem


def find_system(
    memory: PhysicalMemory,
    wanted: str | None,
    limit: int | None,
    symbols: str | None,
    reading: Reading,
    *,
    quick: bool = False,
) -> OperatingSystem | None:
    """Return the operating system of a machine; None if none is found.

    `wanted` is a vocabulary.System, None for any; `limit` that of `paging.walk`; `symbols` a file with the types of a
    Linux kernel, which is read as `reading` says: then only Linux is looked for. `quick`: few pages may tell, and what
    all of the memory must be looked through for is left for later. Raises ProcessError if there is a system that cannot
    be read, and what `read_symbols` raises.
    """
    types, unread = None, None
    if symbols is not None:
        from memcarve.formats.kernel_types.symbol_file import read_symbols

        wanted, types = LINUX, read_symbols(symbols, reading)
    found: OperatingSystem | None = None
    windows = wanted in (None, WINDOWS) and memory.architecture in (None, "x64")
    if windows:
        found = find_windows(memory, limit, KNOWN, quick=quick)
    if found is None and quick and wanted in (None, LINUX):
        from memcarve.images.linux import linux_system

        found = linux_system.find_linux_quickly(memory, types)
    if found is None and quick and windows:
        found = find_windows(memory, limit, LOW, quick=True)
    if found is None and wanted in (None, LINUX):
        from memcarve.images.linux import linux_system

        try:
            found = linux_system.find_linux(memory, types)
        except ProcessError as error:  # a Windows may hold a Linux (WSL)
            unread = error
    if found is None and windows:
        found = find_windows(memory, limit, quick=quick)
    if found is None and unread is not None:
        raise unread
    return found
