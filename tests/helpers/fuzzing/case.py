"""A case: an input that was made, how far it got, and how one that fails is kept and run again."""

from __future__ import annotations

import enum
import json
import os
import shutil
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
        """Note a depth."""
        self.depth = max(self.depth, depth)


class Case(NamedTuple):
    """Files, by their names in the surface's folder; and what the surface is told, ready for JSON but for bytes."""

    files: dict[str, bytes]
    told: dict[str, Any]

    def write(self, folder: str) -> None:
        """Write the files."""
        for name, data in self.files.items():
            path = os.path.join(folder, name)
            if "/" in name:
                os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "wb") as file:
                file.write(data)

    def remove(self, folder: str) -> None:
        """Remove the files, and the folders that they lie in."""
        for name in {name.partition("/")[0] for name in self.files}:
            path = os.path.join(folder, name)
            if os.path.isdir(path):
                shutil.rmtree(path)
            elif os.path.lexists(path):
                os.unlink(path)

    def keep(self, folder: str, surface: str, trace: str) -> None:
        """Write down all that it takes to run the case again, and what went wrong."""
        names = {name: f"file-{number}" for number, name in enumerate(self.files)}
        document = {"surface": surface, "files": names, "told": self.told}
        text = json.dumps(document, indent=1, default=lambda data: {"hex": data.hex()})
        stored = {names[name]: data for name, data in self.files.items()}
        os.makedirs(folder, exist_ok=True)
        Case({**stored, "case.json": text.encode(), "trace.txt": trace.encode("utf-8", "replace")}, {}).write(folder)

    @classmethod
    def kept(cls, folder: str) -> tuple[str, Case]:
        """Return the surface and the case that `keep` wrote."""
        with open(os.path.join(folder, "case.json"), encoding="utf-8") as file:
            found = json.load(file, object_hook=lambda row: bytes.fromhex(row["hex"]) if row.keys() == {"hex"} else row)
        files = {}
        for name, stored in found["files"].items():
            with open(os.path.join(folder, stored), "rb") as file:
                files[name] = file.read()
        return found["surface"], cls(files, found["told"])


class Surface(Protocol):
    """One kind of input: sound ones are made once, in a folder of its own; each case changes what they mean."""

    def make(self, draw: Draw) -> Case:
        """Return a case; the same draw makes the same."""

    def run(self, case: Case, reached: Reached) -> None:
        """Use a case that was written into the folder; raise AssertionError if a property does not hold."""
