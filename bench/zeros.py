"""A file of zeros, served through the same library with the same settings: zeros.py FOLDER BYTES.

It is the limit of what can be served so.
"""

from __future__ import annotations

import sys

from memcarve.mount.file_server import serve
from memcarve.mount.virtual_file import Folder


class Zeros:
    """`size` bytes that are zero, copied from others."""

    def __init__(self, size: int) -> None:
        self.size = self.stored = size
        self._block = memoryview(bytes(1 << 20))

    def read_into(self, offset: int, view: memoryview) -> None:  # noqa: ARG002 - they are the same everywhere
        """Fill `view`."""
        view[:] = self._block[: len(view)]


class Tree:
    """A folder that holds the file, as far as it is asked."""

    def __init__(self, size: int) -> None:
        self.root = Folder({"zeros": Zeros(size)})

    def find(self, path: str) -> object:
        """Return what lies at a path."""
        return self.root if path == "/" else self.root.find(path[1:])

    def tell(self, text: str) -> None:
        """Print what went wrong."""
        print(text, file=sys.stderr)


if __name__ == "__main__":
    serve(Tree(int(sys.argv[2])), sys.argv[1], ready=lambda: print("mounted", file=sys.stderr))  # type: ignore[arg-type]
