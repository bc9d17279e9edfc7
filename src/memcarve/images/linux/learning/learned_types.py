"""What was learned of a kernel's types, as `formats/kernel_types` gives types."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcarve.formats.kernel_types import Member

if TYPE_CHECKING:
    from collections.abc import Iterator


class LearnedTypes:
    """The members that were learned. See `KernelTypes`: what was not learned is None, as what a kernel does not have.

    Members are added while they are learned (`put`); who learns uses those that are there already.
    """

    def __init__(self, pointer_size: int, source: str = "what tasks look like") -> None:
        self.pointer_size = pointer_size
        self.source = source
        self._members: dict[tuple[str, str], Member] = {}
        self._sizes: dict[str, int] = {}

    def put(self, structure: str, path: str, offset: int, size: int | None) -> None:
        """Add a member of so many bytes; None if it is not known how many."""
        self._members[structure, path] = Member(offset, size)

    def put_pointer(self, structure: str, path: str, offset: int) -> None:
        """Add a member that is a pointer, or as large as one."""
        self._members[structure, path] = Member(offset, self.pointer_size)

    def put_list(self, structure: str, path: str, offset: int) -> None:
        """Add a member that is a list_head, or another structure of two pointers."""
        self._members[structure, path] = Member(offset, 2 * self.pointer_size)

    def put_size(self, structure: str, size: int) -> None:
        """Add a structure's size in bytes."""
        self._sizes[structure] = size

    def update(self, other: LearnedTypes) -> None:
        """Add all that another has learned."""
        self._members |= other._members
        self._sizes |= other._sizes

    def learned(self) -> Iterator[tuple[str, str, Member]]:
        """Yield structure, path and place of each member that is known."""
        for (structure, path), member in self._members.items():
            yield structure, path, member

    def at(self, structure: str, path: str) -> int | None:
        """Return the offset of a member in bytes; None if it is not known."""
        found = self.member(structure, path)
        return None if found is None else found.offset

    def member(self, structure: str, path: str) -> Member | None:
        """Return a member of a structure; see `KernelTypes`."""
        return self._members.get((structure, path))

    def size(self, structure: str) -> int | None:
        """Return the size of a structure in bytes; see `KernelTypes`."""
        return self._sizes.get(structure)

    def constant(self, enumeration: str | None, name: str) -> None:
        """Return None: constants are not learned."""
