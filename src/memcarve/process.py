"""A process's memory and what its source knew of it; and the container that a source opened."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, NamedTuple

from memcarve.errors import ProcessError, UsageError
from memcarve.space import CUT_OFF, KERNEL_HALF

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType
    from typing import Self

    import numpy as np
    import numpy.typing as npt

    from memcarve.space import AddressSpace, Segments

_KERNEL_HALF_32 = 0x80000000


class Selection(NamedTuple):
    """Which segments are wanted: by half, by addresses they touch (half-open), by size in bytes; None is no limit."""

    range: str = "all"
    address: Sequence[tuple[int, int]] = ()
    min_size: int | None = None
    max_size: int | None = None

    def apply(self, segments: Segments, kernel_half: int = KERNEL_HALF) -> tuple[Segments, list[LeftOut]]:
        """Return the segments wanted, and what was left out by each of the limits."""
        touching: npt.NDArray[np.bool_] | None = None
        for start, end in self.address:
            here = segments.touching(start, end)
            touching = here if touching is None else touching | here
        limits = (
            (
                f"outside --range {self.range}",
                None if self.range == "all" else segments.in_half(self.range, kernel_half),
            ),
            ("outside --address", touching),
            ("below --min-size", None if self.min_size is None else segments.at_least(self.min_size)),
            ("above --max-size", None if self.max_size is None else segments.at_most(self.max_size)),
        )
        left_out = []
        keep = segments.in_half("all")
        for reason, mask in limits:
            if mask is not None:
                gone = segments.where(keep & ~mask)
                left_out += [LeftOut(reason, len(gone), gone.total)] if len(gone) else []
                keep &= mask
        return segments.where(keep), left_out


class LeftOut(NamedTuple):
    """`segments` of together `bytes` bytes were left out, and why; bytes of no address are no segments."""

    reason: str
    segments: int
    bytes: int


class ProcessEntry(NamedTuple):
    """A process that a container holds; what its source does not say is None."""

    pid: int | None
    name: str | None

    def __str__(self) -> str:
        return " ".join(str(word) for word in (self.pid, self.name) if word is not None) or "unknown process"


class ProcessMemory:
    """An address space and what its source knew.

    `pid`, `name` and `architecture` (``"x86"``, ``"x64"``) are None where unknown. `inputs` says where the memory came
    from, ready for JSON; `positions` how the bytes' places were settled. `left_out` counts bytes of the input that
    belong to no address, by reason. `notes` are sentences for the user; `incomplete` is true where bytes are known to
    be missing.
    """

    def __init__(
        self,
        space: AddressSpace,
        *,
        pid: int | None = None,
        name: str | None = None,
        architecture: str | None = None,
        inputs: dict[str, Any] | None = None,
        positions: str | None = None,
        left_out: dict[str, int] | None = None,
        notes: Sequence[str] = (),
        incomplete: bool = False,
    ) -> None:
        self.space = space
        self.pid = pid
        self.name = name
        self.architecture = architecture
        self.inputs = inputs or {}
        self.positions = positions
        self.left_out = left_out or {}
        self.notes = list(notes)
        self.incomplete = incomplete

    @property
    def entry(self) -> ProcessEntry:
        """Pid and name."""
        return ProcessEntry(self.pid, self.name)

    @property
    def kernel_half(self) -> int:
        """The first address of the kernel's half."""
        return _KERNEL_HALF_32 if self.architecture == "x86" else KERNEL_HALF

    @property
    def first_cut_off(self) -> int | None:
        """The first address whose byte the input should hold but does not, because it ends too early."""
        return next((gap.start for gap in self.space.missing() if gap.reason == CUT_OFF), None)

    def segments(self, selection: Selection | None = None) -> Segments:
        """Return the contiguous segments, in order of addresses: all, or those selected."""
        segments = self.space.segments()
        return segments if selection is None else selection.apply(segments, self.kernel_half)[0]


class Container(ABC):
    """What a source opened. Close it, or use it in a ``with`` statement: reading needs its files open."""

    @abstractmethod
    def processes(self) -> list[ProcessEntry]:
        """Return the processes it holds, in the order of the input."""

    @abstractmethod
    def open_process(self, index: int) -> ProcessMemory:
        """Return the memory of the process at a place in `processes()`."""

    @abstractmethod
    def close(self) -> None:
        """Close the files; a second call does nothing."""

    def process(self, pid: int | None = None) -> ProcessMemory:
        """Return the memory of one process; `pid` may be left out where there is only one.

        Raises UsageError where it must be named, ProcessError where there is none such.
        """
        entries = self.processes()
        if pid is None:
            if len(entries) != 1:
                raise UsageError(self.choice(entries))
            return self.open_process(0)
        found = [index for index, entry in enumerate(entries) if entry.pid == pid]
        if not found:
            listed = ", ".join(map(str, entries[:_LISTED]))
            raise ProcessError(f"{self}: holds no process {pid}; it holds: {listed}")
        return self.open_process(found[0])

    def choice(self, entries: Sequence[ProcessEntry]) -> str:
        """Return the message that lists the processes to choose from."""
        listed = ", ".join(map(str, entries[:_LISTED])) + (", ..." if len(entries) > _LISTED else "")
        if all(entry == ProcessEntry(None, None) for entry in entries):
            return (
                f"{self}: holds {len(entries)} processes and does not say which is which; cut it into one map for each"
            )
        return f"{self}: holds {len(entries)} processes ({listed}); choose with --pid or --name, or take --all"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


_LISTED = 40
