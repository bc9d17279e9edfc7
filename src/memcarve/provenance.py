"""Where what memcarve wrote comes from: one document, which everything that is written holds or has beside it.

``docs/formats.md`` describes it.
"""

from __future__ import annotations

import datetime as dt
import json
import sys
from typing import TYPE_CHECKING, Any

from memcarve.version import __version__

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from memcarve.process import Platform, ProcessMemory
    from memcarve.segments import LeftOut

TOOL = "memcarve"
#: it changes when a reader of the description would be wrong; what was written with the first one is read, too
SCHEMA = 2
READ = (1, SCHEMA)


def written(what: str, command: Sequence[str] | None) -> dict[str, Any]:
    """Return what every document begins with: what it is about, and by which program and command it was written, when.

    `command` is the command line; None is this program's arguments.
    """
    return {
        "schema": SCHEMA,
        "tool": TOOL,
        "what": what,
        "version": __version__,
        "command": list(sys.argv if command is None else command),
        "time": dt.datetime.now(dt.UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
    }


def document(
    what: str,
    process: ProcessMemory,
    command: Sequence[str] | None,
    *,
    left_out: Iterable[LeftOut] = (),
    notes: Iterable[str] = (),
    told: Mapping[str, Any] | None = None,
    architecture: str | None = None,
    platform: Platform | None = None,
) -> dict[str, Any]:
    """Return what is said of a process, ready for JSON; a sink adds what is its own.

    `told` is what the process says of itself; `architecture` and `platform` are given if they are known better than
    from the process.
    """
    return {
        **written(what, command),
        "inputs": process.used_inputs,
        "process": {
            "pid": process.pid,
            "name": process.name,
            "architecture": architecture or process.architecture,
            **process.entry.facts(),
            **(told or {}),
        },
        "platform": (platform or process.platform)._asdict(),
        "address_bits": process.address_bits,
        "kernel_half": f"0x{process.kernel_half:x}",
        "complete": not process.incomplete,
        "left_out": [row._asdict() for row in left_out],
        "notes": [*process.notes, *notes],
    }


def lines(document: Mapping[str, Any], **arrays: Iterable[str]) -> Iterator[str]:
    """Yield a document as text in ASCII: its members, then arrays whose elements are JSON already, one a line.

    So one of half a million elements is written and read line by line.
    """
    yield json.dumps(document, indent=1)[:-2]
    for name, elements in arrays.items():
        yield f',\n "{name}": ['
        separator = "\n"
        for element in elements:
            yield f"{separator}  {element}"
            separator = ",\n"
        yield "\n ]"
    yield "\n}\n"
