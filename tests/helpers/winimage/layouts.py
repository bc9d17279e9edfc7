"""Where Windows kernels keep what: the table of known layouts, as the tests' images use it."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

_IMAGES = os.path.join(os.path.dirname(__file__), *[".."] * 3, "src", "memcarve", "images", "windows")


@cache
def _table() -> list[dict[str, Any]]:
    with open(os.path.join(_IMAGES, "windows_x64_layouts.json"), encoding="utf-8") as file:
        table: list[dict[str, Any]] = json.load(file)
    return table


#: how many layouts there are whose every member is known; those behind them lack what `_likely` gives them
LAYOUTS = sum("_MMVAD_SHORT.size" in entry["offsets"] for entry in _table())
ALL_LAYOUTS = len(_table())
#: which kernel's VADs those of builds have whose own are not known, from which build on: places in the table
_NEIGHBOURS = {6000: 0, 9200: 1, 10240: 3, 15063: 3, 16299: 5, 18362: 7, 22621: 9}
#: what became of a VAD with build 28000: eight bytes less
_SHORTER = {"_MMVAD_SHORT.size": 56, "_MMVAD.u2": 56, "_MMVAD.Subsection": 64, "_MMVAD.size": 128}
#: up to Windows 8 the number of threads lies further behind the head of their list
_ACTIVE, _ACTIVE_BEFORE_8 = 16, 32


def _likely(build: int, offsets: dict[str, Any]) -> dict[str, Any]:
    """Return the offsets of a kernel, with what is not known of it as its neighbours have it."""
    neighbour = _table()[max((at, place) for at, place in _NEIGHBOURS.items() if at <= build)[1]]["offsets"]
    old = build < 9200
    likely = {name: at for name, at in neighbour.items() if name.startswith(("_MMVAD", "_MMPTE"))}
    likely |= {name: neighbour[name] for name in ("_KPROCESS.size", "_KTHREAD.size")}
    likely["_KPROCESS.UserDirectoryTableBase"] = offsets["_EPROCESS.UniqueProcessId"] - 32
    likely["_EPROCESS.ActiveThreads"] = offsets["_EPROCESS.ThreadListHead"] + (_ACTIVE_BEFORE_8 if old else _ACTIVE)
    name = "WoW64Process" if build >= 10240 else "Wow64Process"
    likely[f"_EPROCESS.{name}"] = offsets["_EPROCESS.Peb"] + (-24 if old else 48)
    return {**likely, **(_SHORTER if build >= 28000 else {}), **offsets}


@dataclass(frozen=True)
class Layout:
    """A kernel's layout: place in the table, build number, version, offsets of fields by their name in the table."""

    number: int
    build: int
    version: tuple[int, int]
    offsets: dict[str, int]
    #: bit fields: offset, bit and width
    bits: dict[str, tuple[int, int, int]]

    def __getitem__(self, name: str) -> int:
        """Return the offset of a field of _EPROCESS, or of any structure if its name is given too."""
        return self.offsets[name if "." in name else f"_EPROCESS.{name}"]

    @property
    def modern(self) -> bool:
        """Whether it is Windows 10 or later."""
        return self.version >= (10, 0)

    @property
    def wow64(self) -> int:
        """The offset of the 32-bit side's pointer."""
        return self["WoW64Process" if self.wow64_structure else "Wow64Process"]

    @property
    def wow64_structure(self) -> bool:
        """Whether that pointer leads to a structure, whose first field is the 32-bit PEB."""
        return "_EPROCESS.WoW64Process" in self.offsets

    @property
    def exit_status(self) -> int:
        """The place of the exit status: right before the regions' root, as far as is known; the table has it not.

        If a field of the table lies there, which is so where one was moved, it is somewhere else.
        """
        taken = [at for name, at in self.offsets.items() if name.startswith("_EPROCESS.") and not name.endswith("size")]
        if not any(self["VadRoot"] - 16 < at < self["VadRoot"] for at in taken):
            return self["VadRoot"] - 4
        # the root of the regions takes 64 bytes on Windows 7
        places = range(self["VadRoot"] + 64, self["size"] - 8, 8)
        # no field that is used here is longer than 16 bytes
        return next(place for place in places if not any(at - 8 < place < at + 16 for at in taken))


def layout(number: int, build: int | None = None, moved: Mapping[str, int | str] | None = None) -> Layout:
    """Return a layout of the table, for its newest build or for a build that is said; `moved` are other offsets."""
    known = _table()[number]
    major, minor, newest = (int(part) for part in known["builds"][-1].split("."))
    offsets = known["offsets"] if number < LAYOUTS else _likely(int(newest), known["offsets"])
    table = {**offsets, **(moved or {})}
    # bit fields are texts, the rest are numbers
    offsets = {name: at for name, at in table.items() if isinstance(at, int)}
    fields = {name: text.split(":") for name, text in table.items() if isinstance(text, str)}
    bits = {name: (int(at), int(bit), int(width)) for name, (at, bit, width) in fields.items()}
    return Layout(number, newest if build is None else build, (major, minor), offsets, bits)
