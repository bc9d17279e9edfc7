"""The whole image as one address space: physical memory, to be searched like a process's memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcarve.errors import UsageError

if TYPE_CHECKING:
    from memcarve.process import Container
    from memcarve.space import AddressSpace

_REMEDY = "search the memory of its processes instead"


def image_ranges(container: Container, remedy: str = _REMEDY) -> AddressSpace:
    """Return a machine's physical memory as an address space over its image: `start` are physical addresses.

    A segment of it is a stretch of physical memory without a hole, also if the container stores it in several pieces.
    What belongs to no physical memory (headers) is in no extent. Raises UsageError if the input is not an image;
    `remedy` is what it says to do then.
    """
    space = container.physical_space()
    if space is None:
        raise UsageError(
            "is not an image of a machine's memory: nothing tells physical addresses",
            subject=str(container),
            remedy=remedy,
        )
    return space
