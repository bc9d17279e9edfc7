"""Where Windows kernels keep what: the table of known layouts, as the tests' images use it."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

_IMAGES = os.path.join(os.path.dirname(__file__), "..", "..", "src", "memcarve", "images")


@cache
def _table() -> list[dict[str, Any]]:
    with open(os.path.join(_IMAGES, "windows_x64_layouts.json"), encoding="utf-8") as file:
        table: list[dict[str, Any]] = json.load(file)
    return table


#: how many layouts there are
LAYOUTS = len(_table())


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
    table = {**known["offsets"], **(moved or {})}
    # bit fields are texts, the rest are numbers
    offsets = {name: at for name, at in table.items() if isinstance(at, int)}
    fields = {name: text.split(":") for name, text in table.items() if isinstance(text, str)}
    bits = {name: (int(at), int(bit), int(width)) for name, (at, bit, width) in fields.items()}
    return Layout(number, newest if build is None else build, (major, minor), offsets, bits)
