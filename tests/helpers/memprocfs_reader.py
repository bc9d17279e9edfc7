"""What MemProcFS reads of a machine's image, as JSON: ``memprocfs_reader.py IMAGE [OPTION]...``; without one, nothing.

MemProcFS is under the AGPL: it runs here, in a process of its own that imports nothing of memcarve, and nowhere else.
Standard input says what else is to be read, as JSON: pid to [[address, pages], ...].
"""

from __future__ import annotations

import hashlib
import json
import sys
from typing import TYPE_CHECKING, Any

import memprocfs

if TYPE_CHECKING:
    from collections.abc import Iterable

PAGE = 4096
USER_END = 1 << 47
SYSTEM = 4
#: nothing from the network, no symbols, nothing known of kernels beforehand, no plugins
OPTIONS = ("-disable-symbolserver", "-disable-symbols", "-disable-infodb", "-disable-python", "-disable-yara")


def pages(process: Any, ranges: Iterable[tuple[int, int]]) -> dict[int, str]:
    """Return the digests of those pages of ranges (address, pages) that can be read."""
    found = {}
    for start, count in ranges:
        for address in range(start, start + count * PAGE, PAGE):
            data = process.memory.read(address, PAGE)
            if len(data) == PAGE:
                found[address] = hashlib.blake2b(data, digest_size=8).hexdigest()
    return found


def vads(process: Any) -> list[tuple[int, int, str, str]]:
    """Return start, end (exclusive), protection and type of each region."""
    try:
        rows = process.maps.vad()
    except RuntimeError:
        # so it says that there are none
        return []
    return [(row["start"], row["end"] + 1, row["protection"], row["type"].strip()) for row in rows]


def started(process: Any) -> dict[str, str | None]:
    """Return command line and image path; None for what it does not say."""
    found: dict[str, str | None] = {}
    for name in ("cmdline", "pathuser"):
        try:
            found[name] = getattr(process, name)
        except RuntimeError:
            found[name] = None
    return found


def unloaded(process: Any) -> list[tuple[int, int, str, int, int, bool]]:
    """Return base, size, name, time stamp, check sum of modules that were unloaded, and whether they are of 32 bits."""
    members = ("va", "size", "name", "dwTimeDateStamp", "dwCheckSum", "wow64")
    return [tuple(row[member] for member in members) for row in process.maps.unloaded_module()]  # type: ignore[misc]


def told(process: Any, more: list[tuple[int, int]]) -> dict[str, Any]:
    """Return what is known of a process, and its pages: those it lists of the user half (of System: all), and more."""
    own = [(row["va"], row["pages"]) for row in process.maps.pte()]
    own = [(start, count) for start, count in own if start < USER_END or process.pid == SYSTEM]
    return {
        **{name: getattr(process, name) for name in ("pid", "ppid", "name", "dtb", "eprocess", "peb", "state")},
        "wow64": process.is_wow64,
        **started(process),
        "unloaded": unloaded(process),
        "vads": vads(process),
        "modules": [
            (module.base, module.image_size, module.name, module.fullname, module.is_wow64)
            for module in process.module_list()
        ],
        "pages": pages(process, own + more),
    }


if __name__ == "__main__" and sys.argv[1:]:
    wanted = json.load(sys.stdin)
    machine = memprocfs.Vmm(["-device", sys.argv[1], *OPTIONS, "-waitinitialize", *sys.argv[2:]])
    json.dump([told(process, wanted.get(str(process.pid), [])) for process in machine.process_list()], sys.stdout)
