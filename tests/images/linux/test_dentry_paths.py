"""Paths of files cost little, whatever leads on from folder to folder; the kernels here have no more than names."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from memcarve.images.linux.dentry_paths import Paths

if TYPE_CHECKING:
    from memcarve.images.linux.kernel_structures import Structures

_MOUNT, _FIRST = 1 << 63, 1 << 63 | 1 << 40


class Endless:
    """A kernel of folders without an end, each with a name of some bytes."""

    def __init__(self, name: bytes) -> None:
        self.name, self.asked, self.reader = name, 0, self

    def is_kernel(self, address: int) -> bool:
        """All of the upper half is the kernel's."""
        return address >= _MOUNT

    def offset(self, structure: str, path: str) -> int:
        """Every member is the first."""
        del structure, path
        return 0

    def numbers(self, address: int, structure: str, paths: tuple[str, ...]) -> tuple[int | None, ...]:
        """Each folder lies in the next one."""
        self.asked += 1
        held = {"d_parent": address + 8, "d_name.name": address, "d_name.len": len(self.name)}
        return tuple(held.get(path, 0) if structure == "dentry" else None for path in paths)

    def number(self, address: int, structure: str, path: str) -> int | None:
        """Nothing else is known."""
        del address, structure, path
        return None

    def pointer(self, address: int, structure: str, path: str) -> int | None:
        """Each folder lies in the next one."""
        return address + 8 if (structure, path) == ("dentry", "d_parent") else None

    def read(self, address: int, size: int) -> bytes:
        """All names are the same."""
        del address
        return self.name[:size]


def _of(kernel: Endless) -> Paths:
    return Paths(cast("Structures", kernel), None)


def test_a_path_has_so_many_bytes() -> None:
    """Names of 4096 bytes are not put together without an end."""
    kernel = Endless(b"x" * 4096)
    assert _of(kernel).of(_MOUNT, _FIRST) is None
    assert kernel.asked < 10


def test_all_paths_together_have_so_many_steps() -> None:
    """However many files there are, each at the bottom of folders of its own, what is followed ends."""
    kernel = Endless(b"x")
    paths = _of(kernel)
    paths._steps_left = 10_000
    assert not paths.spent
    assert {paths.of(_MOUNT, _FIRST + (number << 20)) for number in range(100)} == {None}
    assert paths.spent
    assert kernel.asked < 10_200


def test_a_name_is_there_once() -> None:
    """What thousands of regions are called takes the memory of one text."""
    paths = _of(Endless(b""))
    assert paths.text(b"/lib/\xff" + bytes(1)) is paths.text(b"/lib/\xff" + bytes(1))
    assert paths.text(b"/lib/\xff") == "/lib/\udcff"


class Escaped(Endless):
    """A kernel whose fourth folder is its own parent, and not where something is mounted."""

    def numbers(self, address: int, structure: str, paths: tuple[str, ...]) -> tuple[int | None, ...]:
        """Say what `Endless` does, but for the parent of the highest folder."""
        found = super().numbers(address, structure, paths)
        highest = structure == "dentry" and address == _FIRST + 24
        return tuple(
            address if highest and path == "d_parent" else each for each, path in zip(found, paths, strict=True)
        )

    def pointer(self, address: int, structure: str, path: str) -> int | None:
        """Say the same of a single pointer."""
        return address if address == _FIRST + 24 else super().pointer(address, structure, path)


def test_a_folder_that_was_moved_out_of_what_is_mounted() -> None:
    """Names that lead to a folder above which nothing is are not the path: Linux prints a slash (d_path)."""
    kernel = Escaped(b"x")
    assert _of(kernel).of(_MOUNT, _FIRST) == b"/ (deleted)"
    assert _of(kernel).of(_MOUNT, _FIRST + 24) == b"/"
    assert kernel.asked < 20
