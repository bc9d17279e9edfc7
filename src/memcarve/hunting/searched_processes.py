"""The memory that find, scan and strings go through: of one process, several, or all of a container."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

from memcarve.errors import UsageError
from memcarve.hunting.chosen_processes import opened
from memcarve.labels import Labelling
from memcarve.process import Container, ProcessMemory, Selection
from memcarve.vocabulary import Split

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from memcarve.errors import MemcarveError
    from memcarve.process import ProcessEntry
    from memcarve.segments import Segments
    from memcarve.space import AddressSpace

    Where = Container | ProcessMemory | Iterable[ProcessMemory]

_Hit = TypeVar("_Hit")


class ProcessHit(NamedTuple, Generic[_Hit]):
    """A `hit` in the memory of a `process`; in the kernel's, which belongs to none, the process is one it was read by.

    `is_kernel` says that it is the kernel's.
    """

    process: ProcessMemory
    hit: _Hit
    is_kernel: bool = False


class SearchedProcesses:
    """Processes, and what is searched of each: `parts`, address spaces and their segments, by number.

    `where` is one process, several, or a container: all of it that nothing speaks against. Of several processes of an
    image that are opened here, the kernel's half comes once, last. `selection` chooses the segments; of one process
    `segments` may be given instead. What cannot be opened is told to `failed`, what cannot be read to `unreadable`
    (process, address, size); without them it is raised.
    """

    def __init__(
        self,
        where: Where,
        selection: Selection | None = None,
        segments: Segments | None = None,
        *,
        failed: Callable[[ProcessEntry, MemcarveError], object] | None = None,
        unreadable: Callable[[ProcessMemory, int, int], object] | None = None,
        split: str = Split.NONE,
    ) -> None:
        """Open the processes; raises what that raises, and UsageError if segments are given of several."""
        self._failed, self._unreadable = failed, unreadable
        self._chosen: list[tuple[ProcessMemory, bool]] = []
        self.parts: list[tuple[AddressSpace, Segments]] = []
        if segments is not None and (selection is not None or not isinstance(where, ProcessMemory)):
            raise UsageError("segments are of one process", remedy="choose memory of several with a selection")
        selection = selection or Selection()
        if isinstance(where, Container):
            for part in opened(where, where.certain(), selection.half):
                if part.error is not None:
                    self.fail(part.entry, part.error)
                else:
                    self._add(part.opened, selection, segments, split, is_kernel=part.is_kernel)
        else:
            for process in [where] if isinstance(where, ProcessMemory) else where:
                self._add(process, selection, segments, split, is_kernel=False)

    def _add(
        self, process: ProcessMemory, selection: Selection, segments: Segments | None, split: str, *, is_kernel: bool
    ) -> None:
        if segments is None:
            wanted = selection._replace(half="kernel") if is_kernel else selection
            segments = process.segments(wanted, split, Labelling() if selection.by_labels else None)
        self._chosen.append((process, is_kernel))
        self.parts.append((process.space, segments))

    def fail(self, which: ProcessEntry | int, error: MemcarveError) -> None:
        """Tell, or raise, the error of a process, or of the one that has a number."""
        if self._failed is None:
            raise error
        self._failed(self._chosen[which][0].entry if isinstance(which, int) else which, error)

    def lose(self, part: int, address: int, size: int) -> None:
        """Tell what cannot be read, or raise UnreadableError."""
        process = self._chosen[part][0]
        if self._unreadable is not None:
            self._unreadable(process, address, size)
            return
        process.space.refuse(address, size)

    def hit(self, part: int, hit: _Hit) -> ProcessHit[_Hit]:
        """Return a hit with its process."""
        process, is_kernel = self._chosen[part]
        return ProcessHit(process, hit, is_kernel)
