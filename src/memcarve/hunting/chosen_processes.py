"""The processes of a container that were chosen, opened one after another."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from memcarve.errors import MemcarveError, ProcessError
from memcarve.process import ProcessEntry
from memcarve.vocabulary import Half

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from memcarve.process import Container, ProcessMemory

#: the kernel's half of all processes of an image, which is the same for all
KERNEL = ProcessEntry(name="kernel")


class Part(NamedTuple):
    """One of the chosen: `memory` of the process that is `entry`, or the `error` that it cannot be opened for.

    `place` is its index in the container's list. `is_kernel`: it is the kernel's half, which belongs to none of them
    alone; `entry` is then KERNEL, and `place` the process by whose page tables it was read.
    """

    entry: ProcessEntry
    place: int
    memory: ProcessMemory | None
    error: MemcarveError | None = None
    is_kernel: bool = False

    @property
    def opened(self) -> ProcessMemory:
        """The memory; raises the error that it cannot be opened for."""
        if self.memory is None:
            raise self.error or MemcarveError("was not opened")
        return self.memory


def opened(container: Container, indexes: Sequence[int], half: str | None = None) -> Iterator[Part]:
    """Yield the processes at places in ``container.processes()``, opened when it is their turn.

    One that cannot be opened does not stop the others. `half` is what of their memory is wanted, None the container's
    own. Of several processes of an image, the kernel's half is the same: it comes once, last, as a part of its own.
    """
    half = half or container.default_half
    once = half != Half.USER and container.default_half == Half.USER and len(indexes) > 1
    own = Half.USER if once else half
    for index in indexes if half != Half.KERNEL or not once else ():
        yield _part(container, index, own)
    if once:
        yield kernel(container, indexes)


def kernel(container: Container, indexes: Sequence[int]) -> Part:
    """Return the kernel's half of an image's memory, by the page tables of the first process that can be opened."""
    failed: Part | None = None
    for index in indexes:
        part = _part(container, index, Half.KERNEL)._replace(entry=KERNEL, is_kernel=True)
        if part.error is None:
            return part
        failed = failed or part
    return failed or Part(KERNEL, 0, None, ProcessError("holds no process", subject=str(container)), is_kernel=True)


def _part(container: Container, index: int, half: str) -> Part:
    entry = container.entry(index)
    try:
        return Part(entry, index, container.process(index=index, half=half))
    except MemcarveError as error:
        return Part(entry, index, None, error)
