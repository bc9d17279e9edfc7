"""Where MemProcFS finds bytes in a machine's processes, and which physical address it has for a virtual one, as JSON.

``python memprocfs_search.py IMAGE``, with the question as JSON on standard input: `patterns` (hexadecimal), and
`addresses` by pid. MemProcFS is under the AGPL: it runs here, in a process of its own that imports nothing of memcarve.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import memprocfs

from memprocfs_reader import OPTIONS, USER_END


def hits(process: Any, patterns: list[str]) -> list[list[int]]:
    """Return address and pattern of each place in the user half."""
    search = process.search(0, USER_END - 1)
    for pattern in patterns:
        search.add_search(bytes.fromhex(pattern))
    return [[address, number] for address, number in search.result()]


def physical(process: Any, address: int) -> int | None:
    """Return where an address lies; None if it lies nowhere."""
    try:
        return int(process.memory.virt2phys(address))
    except RuntimeError:
        return None


if __name__ == "__main__":
    asked = json.load(sys.stdin)
    machine = memprocfs.Vmm(["-device", sys.argv[1], *OPTIONS, "-waitinitialize"])
    said = {
        process.pid: {
            "hits": hits(process, asked["patterns"]),
            "physical": [[at, physical(process, at)] for at in asked["addresses"].get(str(process.pid), ())],
        }
        for process in machine.process_list()
    }
    json.dump(said, sys.stdout)
