"""What an operating system's machine offers to whoever reads its processes: one shape for all of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memcarve.images.nonresident import Resolver
    from memcarve.images.page_files import PageFiles
    from memcarve.images.paging_modes import AddressTable
    from memcarve.images.physical import PhysicalMemory
    from memcarve.metadata import Metadata
    from memcarve.process import Platform, ProcessEntry


class OperatingSystem(Protocol):
    """The system of a machine, found in its memory, and its processes on demand.

    What finds one raises ProcessError if there is such a system, but its processes cannot be found.
    """

    #: the machine's memory; a raw image's may begin elsewhere than at physical address 0, which the system tells
    memory: PhysicalMemory
    #: sentences for the user about the machine as a whole, as they come up
    notes: list[str]
    #: whether a quick look found it: what all of the memory would tell may be another one
    quick: bool

    def confirm(self) -> bool:
        """Make up for what a quick look left out; return False if a look through all memory must tell the system.

        What was listed before stays what it is if it returns True.
        """

    @property
    def platform(self) -> Platform:
        """Which system it is."""

    @property
    def description(self) -> str:
        """Which system it is and how its processes are read, in words."""

    @property
    def problem(self) -> str:
        """What is wrong with the system's list of processes, in words; empty if it is whole."""

    def listed(self) -> Sequence[ProcessEntry]:
        """Return the processes that the system's list leads to, without a search of all memory."""

    def processes(self) -> Sequence[ProcessEntry]:
        """Return every process: in the order of the list, then those that only a search of memory finds."""

    def table_of(self, entry: ProcessEntry) -> AddressTable:
        """Return the page tables of a process and how to read them."""

    def architecture_of(self, entry: ProcessEntry) -> str:
        """Return of which vocabulary.Architecture a process's program is."""

    def resolver(self, files: PageFiles) -> Resolver | None:
        """Return what finds pages that page tables do not lead to, also in page files; None if nothing does."""

    def metadata(self, entry: ProcessEntry, table: AddressTable, resolver: Resolver | None = None) -> Metadata:
        """Return what is known of a process beyond its bytes: regions, modules, threads, areas.

        `resolver`, one of this system's, finds what of it left memory; None if nothing is to.
        """

    def start_of(self, entry: ProcessEntry, table: AddressTable, resolver: Resolver | None = None) -> Metadata:
        """Return what a process was started with and what it unloaded: a part of `metadata`, found sooner."""

    def auxiliary_vector(self, entry: ProcessEntry) -> bytes | None:
        """Return what the system gave a program when it began (getauxval(3)), in words of its size; None if nothing."""
