"""The files that a task was given: which of them hold memory, which are rules, which belong to others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from openrelik_worker_memcarve import naming
from openrelik_worker_memcarve.failure import TaskFailed
from openrelik_worker_memcarve.rules import ENDINGS

if TYPE_CHECKING:
    from collections.abc import Sequence

#: what begins the data types of our outputs, and those of them that hold memory
TYPE = "worker:memcarve:"
_MEMORY = tuple(f"{TYPE}export:{kind}" for kind in ("minidump", "elfcore"))
#: endings of what tells of another file: maps of dumps, tables, what describes a virtual machine's memory
_BESIDE = (".map", ".map.txt", ".csv", ".json", ".vmss", ".vmsn", ".md", ".txt", *ENDINGS)


class Inputs(NamedTuple):
    """Paths by names, each unlike all others: all `files`; `rules`; and the names of those that hold `memory`."""

    files: dict[str, str]
    rules: dict[str, str]
    memory: list[str]


def inputs_of(given: Sequence[dict[str, Any]]) -> Inputs:
    """Sort what a task was given by names and data types; raises TaskFailed if nothing can hold memory."""
    found = Inputs({}, {}, [])
    for number, file in enumerate(given):
        path, kind = file.get("path"), str(file.get("data_type") or "")
        if not path or (kind.startswith(TYPE) and kind not in _MEMORY):
            continue
        name = naming.file_name(file.get("display_name"), f"input-{number + 1}")
        if name in found.files or name in found.rules:
            name = f"{number + 1}-{name}"
        if name.lower().endswith(ENDINGS):
            found.rules[name] = path
            continue
        found.files[name] = path
        if not name.lower().endswith(_BESIDE):
            found.memory.append(name)
    if not found.memory:
        raise TaskFailed("none of the inputs can be an image or a dump of memory")
    return found
