"""What stands in a mounted folder: folders, links, and files whose bytes are found when they are read."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping


class Link(NamedTuple):
    """A symbolic link."""

    target: str


class VirtualFile(Protocol):
    """A file of `size` bytes."""

    @property
    def size(self) -> int:
        """The number of bytes."""

    @property
    def stored(self) -> int:
        """How many of them are not in holes, which read as zeros."""

    def read_into(self, offset: int, view: memoryview) -> None:
        """Fill `view` with the bytes at `offset`, all of which are below `size`; raises MemcarveError."""


class Listed(NamedTuple):
    """What a folder holds: its name, of plain characters, and the node if making it costs nothing.

    Else it is a file, whose `size` is given if it is known.
    """

    name: str
    node: Node | None = None
    size: int | None = None


class Folder:
    """A folder whose entries are known: `entries` by name."""

    def __init__(self, entries: Mapping[str, Node]) -> None:
        self.entries = entries

    def find(self, name: str) -> Node | None:
        """Return what has a name; None if nothing has. Raises MemcarveError if it cannot be made."""
        return self.entries.get(name)

    def listed(self, first: int) -> Iterator[Listed]:
        """Yield the entries from the one with the number `first` on."""
        for name, node in [*self.entries.items()][first:]:
            yield Listed(name, node)


class MadeFolder(Folder):
    """A folder that takes work to make: `make` does it, or has it from before, whenever somebody looks into it."""

    def __init__(self, make: Callable[[], Folder]) -> None:
        super().__init__({})
        self.make = make

    def find(self, name: str) -> Node | None:
        """Return what has a name; None if nothing has."""
        return self.make().find(name)

    def listed(self, first: int) -> Iterator[Listed]:
        """Yield the entries."""
        return self.make().listed(first)


Node = Folder | VirtualFile | Link


class Text:
    """A file whose bytes are at hand."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    @property
    def size(self) -> int:
        """The number of bytes."""
        return len(self.data)

    @property
    def stored(self) -> int:
        """All of them."""
        return len(self.data)

    def read_into(self, offset: int, view: memoryview) -> None:
        """Fill `view` with the bytes at `offset`."""
        view[:] = self.data[offset : offset + len(view)]
