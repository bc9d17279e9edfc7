"""What a kernel's own types say: where the members of its structures lie."""

from __future__ import annotations

from typing import NamedTuple, Protocol


class Member(NamedTuple):
    """A member of a structure: `offset` from the structure's begin and `size` of its type, in bytes.

    `size` is None if the type's size is not known. A bit field has `bit_size` bits from bit `bit_offset` on, counted
    from the lowest, of the `size` bytes at `offset`, read as one number; both are None if it is none.
    """

    offset: int
    size: int | None
    bit_offset: int | None = None
    bit_size: int | None = None


class KernelTypes(Protocol):
    """The types of one kernel. What it does not know is None; nothing is raised once it is made."""

    #: where the types come from, in words for the user: "BTF in the image", the name of a file
    source: str
    #: bytes of a pointer: 4 or 8
    pointer_size: int

    def member(self, structure: str, path: str) -> Member | None:
        """Return a member of a structure or union, found by its name or the name of a typedef.

        `path` are names with dots between (``"f_path.dentry"``): each is looked for in the anonymous structures and
        unions, too, and in the first element of arrays. None if there is no such member.
        """

    def size(self, structure: str) -> int | None:
        """Return the size of a structure, union, enumeration, typedef or basic type in bytes; None if unknown."""

    def constant(self, enumeration: str | None, name: str) -> int | None:
        """Return the value of a constant of an enumeration, or of any if that is None; None if there is none."""
