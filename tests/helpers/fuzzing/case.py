"""A case: an input that was made, how it is used, how far that got, and how one that fails is kept and run again."""

from __future__ import annotations

import enum
import json
import os
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from fuzzing.draw import Draw


class Depth(enum.IntEnum):
    """How far a case got."""

    #: no reader took it for its own
    REFUSED = 0
    #: a reader did, and refused it for what it says; or it holds no memory
    PARSED = 1
    #: what it lists was used
    ROWS = 2
    #: bytes were read of the memory that it leads to
    MEMORY = 3


class Reached:
    """How far the case at hand got."""

    depth = Depth.REFUSED

    def __call__(self, depth: Depth) -> None:
        """Note that it got so far."""
        self.depth = max(self.depth, depth)


class Case(NamedTuple):
    """Files to be written, and what a surface is told of them, ready for JSON."""

    files: dict[str, bytes]
    told: dict[str, Any]

    def write(self, folder: str) -> None:
        """Write the files into a folder; of their names, those with a slash lie in one that is there."""
        for name, data in self.files.items():
            with open(os.path.join(folder, name), "wb") as file:
                file.write(data)

    def keep(self, folder: str, surface: str, trace: str) -> None:
        """Write down all that it takes to run the case again, and what went wrong."""
        os.makedirs(folder, exist_ok=True)
        names = {name: f"file-{number}" for number, name in enumerate(self.files)}
        Case({names[name]: data for name, data in self.files.items()}, {}).write(folder)
        with open(os.path.join(folder, "case.json"), "w", encoding="utf-8") as file:
            json.dump({"surface": surface, "files": names, "told": self.told}, file, indent=1)
        with open(os.path.join(folder, "trace.txt"), "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(trace)

    @classmethod
    def kept(cls, folder: str) -> tuple[str, Case]:
        """Return the surface and the case that `keep` wrote."""
        with open(os.path.join(folder, "case.json"), encoding="utf-8") as file:
            found = json.load(file)
        files = {}
        for name, stored in found["files"].items():
            with open(os.path.join(folder, stored), "rb") as file:
                files[name] = file.read()
        return found["surface"], cls(files, found["told"])


class Surface(Protocol):
    """One kind of input: sound ones are made once, each case changes what they mean."""

    def __init__(self, folder: str) -> None:
        """Prepare what all cases share, in a folder that is the surface's own."""

    def make(self, draw: Draw) -> Case:
        """Return a case; the same draw makes the same."""

    def run(self, case: Case, reached: Reached) -> None:
        """Use a case that was written into the folder; raise AssertionError if a property does not hold."""
