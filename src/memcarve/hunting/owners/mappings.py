"""Everything that the page tables of a machine's processes map, in columns, by where its bytes lie."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from memcarve.errors import LimitError, MemcarveError, UsageError
from memcarve.hunting.chosen_processes import opened
from memcarve.hunting.owners.kernel_halves import KernelHalves
from memcarve.intervals import PAGE
from memcarve.vocabulary import System

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memcarve.dtypes import U8, U64
    from memcarve.process import Container, ProcessEntry
    from memcarve.space import AddressSpace

_LEAST_ROWS = 1 << 22  # stretches that are kept in any case: 170 MB
_ROWS_A_PAGE = 4  # of the image, that are kept: a machine has less than one

#: who else than a process maps memory: the kernel, and Linux's map of all memory
KERNEL, DIRECT_MAP = "kernel", "direct map"


@dataclasses.dataclass(frozen=True)
class Mapper:
    """Who maps memory: a process, by its place in `Container.processes()` and its entry; or the kernel.

    `what` is ``"process"``, ``"kernel"``, or ``"direct map"``: where Linux's kernel maps all memory, whosever it is.
    """

    what: str
    index: int | None = None
    entry: ProcessEntry | None = None


class _Part(NamedTuple):
    """The columns of one mapper's memory."""

    number: int
    key: U64
    size: U64
    address: U64
    flags: U8


class Mappings:
    """Stretches of memory in columns, a row for each, in order of mappers and addresses.

    `key` (uint64) is where the bytes lie: a physical address if `by_physical`, else an offset in the backing; `size`
    (uint64) is that of the stretch, `away` (uint64) what is to be added to a key for its address, modulo 2**64;
    `mapper` (int32) is a place in `mappers`, `flags` (uint8) what page tables say (`memcarve.permissions`), 0 if there
    are none.
    """

    def __init__(self, container: Container, indexes: Sequence[int] | None = None) -> None:
        self.container = container
        self.indexes = [*(container.certain() if indexes is None else indexes)]
        doubtful = sum(bool(entry.doubts) for entry in container.processes()) if indexes is None else 0
        self.image = container.physical_space()
        self.by_physical = self.image is not None
        self.mappers: list[Mapper] = []
        #: what could not be opened or walked, whole or in part
        self.failures: list[tuple[Mapper, MemcarveError]] = []
        words = "process was" if doubtful == 1 else "processes were"
        self.notes = [f"{doubtful} doubtful {words} not asked"] if doubtful else []
        self.system: str | None = None
        #: of an input that is no image, the bytes that its offsets count
        self.backing_size = 0
        #: where the memory came from, ready for JSON
        self.inputs: dict[str, Any] = {}
        #: whether bytes of a process are known to be missing
        self.incomplete = False
        self._most = max(_LEAST_ROWS, 0 if self.image is None else _ROWS_A_PAGE * (self.image.total // PAGE))
        self._parts: list[_Part] = []
        self._rows = 0
        if self.image is None and len(self.indexes) > 1 and container.stored is None:
            raise UsageError(
                f"holds {len(self.indexes)} processes, each in a file of its own: an offset does not tell in which",
                subject=str(container),
                remedy="choose one with {pid}",
            )
        self._gather()
        self._lay_out()

    def _gather(self) -> None:
        """Open every process, and note what its memory is."""
        of_process: dict[int, int] = {}
        for part in opened(self.container, self.indexes, "user" if self.by_physical else "all"):
            of_process[part.place] = len(self.mappers)
            mapper = Mapper("process", part.place, part.entry)
            self.mappers.append(mapper)
            try:
                process = part.opened
                self._add(of_process[part.place], process.space)
            except MemcarveError as error:
                self.failures.append((mapper, error))
                continue
            self.system = self.system or process.platform.system
            self.inputs = self.inputs or process.used_inputs
            self.incomplete |= process.incomplete
            self.backing_size = max(self.backing_size, process.space.backing.size)
            self.image = self.container.physical_space()  # of less, if part of it could not be read
        if self.failures and len(self.failures) == len(self.indexes):
            raise self.failures[0][1]
        if self.by_physical:
            self._gather_kernel(of_process)

    def _gather_kernel(self, of_process: dict[int, int]) -> None:
        kernel = len(self.mappers)
        self.mappers += [Mapper(KERNEL), Mapper(DIRECT_MAP)]
        halves = KernelHalves(self.container, self.indexes)
        for part in halves.parts():
            number = kernel if part.process is None else of_process[part.process]
            try:
                self._add(number, part.space)
            except LimitError as error:
                self.failures.append((self.mappers[number], error))
        self.notes += halves.notes
        self.failures += [
            (self.mappers[kernel if index is None else of_process[index]], error) for index, error in halves.failures
        ]

    def _add(self, number: int, space: AddressSpace) -> None:
        """Keep what a mapper maps; of what is too much the largest parts go, whoever came first. Raises LimitError."""
        while self._rows + len(space) > self._most:
            largest = max(self._parts, key=lambda part: len(part.key), default=None)
            if largest is None or len(largest.key) <= len(space):
                raise self._too_much(len(space))
            self._parts = [part for part in self._parts if part is not largest]
            self._rows -= len(largest.key)
            self.failures.append((self.mappers[largest.number], self._too_much(len(largest.key))))
        self._rows += len(space)
        flags = np.zeros(len(space), np.uint8) if space.flags is None else space.flags
        key = space.offset if space.physical is None else space.physical
        self._parts.append(_Part(number, key, space.size, space.start, flags))

    def _too_much(self, count: int) -> LimitError:
        return LimitError(
            f"maps {count} stretches; more than {self._most} in all are not kept: nothing is known of it",
            count,
            subject=str(self.container),
            remedy="choose processes with {pid} or {name}",
        )

    def _lay_out(self) -> None:
        """Make columns of what was gathered, and let go of it."""
        self._parts.sort(key=lambda part: part.number)
        self.key, self.size, self.away = (np.empty(self._rows, np.uint64) for _ in range(3))
        self.mapper, self.flags = np.empty(self._rows, np.int32), np.empty(self._rows, np.uint8)
        row = 0
        while self._parts:
            part = self._parts.pop(0)
            here = slice(row, row + len(part.key))
            self.mapper[here], self.key[here], self.size[here] = part.number, part.key, part.size
            self.away[here], self.flags[here] = part.address - part.key, part.flags
            row = here.stop
        if self.by_physical and self.system == System.LINUX:
            self._find_direct_map()

    def _find_direct_map(self) -> None:
        """Tell Linux's map of all memory from what else its kernel maps: it is so far from physical addresses.

        Documentation/arch/x86/x86_64/mm.rst, Documentation/arch/arm64/memory.rst: there address minus physical address
        is one number. What maps most bytes of all that have such a number in common is it, if it is most of the memory.
        """
        rows = np.flatnonzero(self.mapper == len(self.mappers) - 2)
        if not len(rows) or self.image is None:
            return
        _, inverse = np.unique(self.away[rows], return_inverse=True)
        mapped = np.bincount(inverse, self.size[rows].astype(np.float64))
        most = int(mapped.argmax())
        if 2 * mapped[most] > self.image.total:
            chosen = rows[inverse == most]
            self.mapper[chosen] = len(self.mappers) - 1
            order = np.argsort(self.mapper, kind="stable")
            self.key, self.size, self.away = self.key[order], self.size[order], self.away[order]
            self.flags, self.mapper = self.flags[order], self.mapper[order]
