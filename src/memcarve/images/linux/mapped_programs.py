"""The programs and libraries of a Linux process: ELF files that it maps, each where it maps the file's beginning.

How they are mapped: elf(5) and fs/binfmt_elf.c of Linux; ld.so does likewise. A file's further parts follow in order of
addresses, perhaps with room between them, in which nothing of another file lies.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcarve.formats.elf_layout import MAGIC
from memcarve.linux_mappings import DELETED
from memcarve.metadata import Module
from memcarve.paths import base_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from memcarve.images.structure_reader import Reader
    from memcarve.metadata import Region

    Identity = tuple[str | None, tuple[int, int] | None, int | None]

VDSO = "[vdso]"
_MOST_KEPT = 1 << 16


class MappedPrograms:
    """Tells programs and libraries from other files; what a file begins with is looked up once."""

    def __init__(self) -> None:
        self._programs: dict[Identity, bool] = {}

    def of(self, regions: Iterable[Region], memory: Reader) -> list[Module]:
        """Return the modules among a process's regions, which are in order of addresses; `memory` is the process's.

        A file whose beginning is not in memory counts as a program if code of it is mapped behind.
        """
        found = []
        for parts in _files(regions):
            first = parts[0]
            if self._is_program(parts, memory):
                name = first.file or ""
                path = name if name.startswith("/") else None
                short = base_name(name.removesuffix(DELETED))
                found.append(Module(first.start, parts[-1].end - first.start, short, path))
        return found

    def _is_program(self, parts: list[Region], memory: Reader) -> bool:
        first = parts[0]
        known = self._programs.get(_identity(first))
        if known is None:
            head = memory.read(first.start, len(MAGIC))
            if head is None:
                return any("x" in (part.protection or "") for part in parts)
            if len(self._programs) >= _MOST_KEPT:
                self._programs.clear()
            known = self._programs[_identity(first)] = head == MAGIC
        return known


def _identity(region: Region) -> Identity:
    return region.file, region.device, region.inode


def _files(regions: Iterable[Region]) -> Iterator[list[Region]]:
    """Yield the regions of each mapping of a file that begins with the file's beginning, and those of the vDSO."""
    parts: list[Region] = []
    for region in regions:
        if region.file is None or (region.file.startswith("[") and region.file != VDSO):
            continue  # between the parts of a file nothing else of it may lie, but memory without a file
        if parts and region.offset and _identity(region) == _identity(parts[0]):
            parts.append(region)
            continue
        if parts:
            yield parts
        parts = [region] if region.offset == 0 or region.file == VDSO else []
    if parts:
        yield parts
