"""Fuzzing of every reader: sound inputs whose meaning is changed before they are encoded.

A `Surface` makes a `Case` from a seed, and uses it; what must hold is in `checks`. `rounds` runs many, and counts how
far each got: a generator is good if most get to the memory that the input leads to. ``tests/fuzz.py`` is the command.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fuzzing.case import Surface

#: the surfaces: where the class of each is
SURFACES = {
    "maps": "tables.Maps",
    "lists": "tables.Lists",
    "minidumps": "dumps.Minidumps",
    "cores": "dumps.Cores",
    "containers": "machines.Containers",
    "hibernated": "hibernated.Containers",
    "kernel-types": "kernel_types.Types",
    "linux": "linux.Linux",
    "linux-containers": "linux_containers.Containers",
    "paging": "machines.Paging",
    "windows": "windows.Windows",
    "hunted": "hunted.Hunted",
    "named": "dumps.Named",
    "programs": "programs.Programs",
    "written": "written.Written",
}


def surface(name: str, folder: str) -> Surface:
    """Return a surface that has its files in a folder."""
    module, _, kind = SURFACES[name].partition(".")
    made: Surface = getattr(importlib.import_module(f"fuzzing.{module}"), kind)(folder)
    return made
