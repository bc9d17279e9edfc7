"""A Windows machine as `images/system.py` asks for it: processes, and what Windows knows of them."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from memcarve.errors import LimitError, ProcessError
from memcarve.images.paging_modes import ROOT, WINDOWS
from memcarve.images.windows import kernel
from memcarve.images.windows.kernel import EVERYWHERE, LOW
from memcarve.images.windows.processes import Windows
from memcarve.images.windows.resolving.windows_resolver import WindowsResolver
from memcarve.images.windows.windows_metadata import Knowledge
from memcarve.process import Platform
from memcarve.vocabulary import Architecture

if TYPE_CHECKING:
    from memcarve.images.nonresident import Resolver
    from memcarve.images.page_files import PageFiles
    from memcarve.images.paging_modes import AddressTable
    from memcarve.images.physical import PhysicalMemory
    from memcarve.images.windows.offsets import Tree
    from memcarve.metadata import Metadata
    from memcarve.process import ProcessEntry


class WindowsSystem(Windows):
    """A Windows x64 machine."""

    #: whether it was found by a quick look, and whether it was met in low memory by that, which nothing told
    quick = met = False

    def confirm(self) -> bool:
        """Make up for what a quick look left out; return False if a look through all memory must tell the system."""
        if self.quick and not self.met:
            try:
                _ = self.kernel.space.whole
            except LimitError:
                return False
            self.quick = False
        return not self.quick

    @property
    def platform(self) -> Platform:
        """The version of Windows."""
        version = self.kernel.version
        known = version.major != 0
        return Platform(WINDOWS, version.major if known else None, version.minor if known else None, version.build)

    def table_of(self, entry: ProcessEntry) -> AddressTable:
        """Return the page tables of a process."""
        return self.kernel.table._replace(root=(entry.root or 0) & ROOT)

    def architecture_of(self, entry: ProcessEntry) -> str:
        """Return that it is a 64-bit process: one of 32 bits is that, too, with a 32-bit program within."""
        del entry
        return Architecture.X64

    def metadata(self, entry: ProcessEntry, table: AddressTable, resolver: Resolver | None = None) -> Metadata:
        """Return what Windows knows of a process."""
        return self._knowledge.of(entry, table, resolver if isinstance(resolver, WindowsResolver) else None)

    def start_of(self, entry: ProcessEntry, table: AddressTable, resolver: Resolver | None = None) -> Metadata:
        """Return what a process was started with and what it unloaded."""
        own = resolver if isinstance(resolver, WindowsResolver) else None
        # to prove how entries are read, tables of other processes are: too much if they come from afar for nothing
        if own is not None and not self.memory.searchable and not own.files.files:
            own = None
        return self._knowledge.start_of(entry, table, own)

    def auxiliary_vector(self, _entry: ProcessEntry) -> None:
        """Return None: Windows gives programs none."""
        return

    @property
    def vad_tree(self) -> Tree | None:
        """Where the tree of VADs is, and what its nodes hold; None if it is not known."""
        return self._knowledge.tree

    def resolver(self, files: PageFiles) -> Resolver:
        """Return what finds pages that page tables do not lead to, also in page files."""
        return WindowsResolver(self, files)

    @functools.cached_property
    def _knowledge(self) -> Knowledge:
        return Knowledge(self)


def find_windows(
    memory: PhysicalMemory, limit: int | None = None, where: str = EVERYWHERE, *, quick: bool = False
) -> WindowsSystem | None:
    """Return the Windows of a machine, None if there is none; `limit` is that of `paging.walk`.

    `where` says how far its page tables are looked for: `KNOWN` is if something in the memory tells where they are,
    `LOW` if they lie where Windows usually has them; there a kernel is believed if its list of processes is whole.
    `quick`: the kernel's half is not walked before all of it is needed. Raises ProcessError if there is one for
    certain, but its processes cannot be found; not if it was looked for in low memory alone.
    """
    unsettled: ProcessError | LimitError | None = None
    for table, version in kernel.find_tables(memory, where):
        try:
            found = WindowsSystem(memory, table, version, limit, quick=quick)
        except (ProcessError, LimitError) as error:
            if where == LOW:  # another one may lie behind
                return None
            if version.major:  # a Windows for certain
                unsettled = unsettled or error
        else:
            found.quick, found.met = quick, where == LOW
            return found if where != LOW or not found.problem else None
    if unsettled is not None:
        raise ProcessError(unsettled.problem) from unsettled
    return None
