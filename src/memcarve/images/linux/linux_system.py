"""A Linux machine as `images/system.py` asks for it: its processes, and what Linux knows of them."""

from __future__ import annotations

import contextlib
import functools
import re
from typing import TYPE_CHECKING

from memcarve.errors import KernelTypesError, ProcessError
from memcarve.images.linux.absent_entries import rules_of
from memcarve.images.linux.btf_search import kernel_btf
from memcarve.images.linux.kallsyms import find_kallsyms
from memcarve.images.linux.kernel import find_kernel
from memcarve.images.linux.kernel_image import kernel_images
from memcarve.images.linux.landmarks import find_landmarks, told_information
from memcarve.images.linux.learning.learned_kernel import learned_kernel
from memcarve.images.linux.linux_metadata import Knowledge
from memcarve.images.linux.linux_processes import Processes
from memcarve.images.linux.page_table_isolation import is_isolated
from memcarve.images.linux.process_start import auxiliary_vector, directory, is_narrow, parameters, program
from memcarve.images.linux.swap_resolver import SwapResolver
from memcarve.images.linux.swapping.compressed_swap import CompressedSwap
from memcarve.images.paging_modes import LINUX
from memcarve.images.structure_reader import LookedUp
from memcarve.metadata import Metadata
from memcarve.process import Platform
from memcarve.vocabulary import Architecture

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memcarve.formats.kernel_types import KernelTypes
    from memcarve.formats.kernel_types.symbol_file import SymbolFile
    from memcarve.images.linux.btf_search import FoundBtf
    from memcarve.images.linux.kallsyms import Kallsyms
    from memcarve.images.linux.kernel import Kernel
    from memcarve.images.linux.landmarks import Landmarks
    from memcarve.images.nonresident import Resolver
    from memcarve.images.page_files import PageFiles
    from memcarve.images.paging_modes import AddressTable
    from memcarve.images.physical import PhysicalMemory
    from memcarve.process import ProcessEntry

_WORD = 8
_MOST_TEXT = 1 << 28  # characters of command lines and environments that are read in all
_MOST_NAMED = 3  # places in a sentence
_VERSION = re.compile(r"(\d+)\.(\d+)(?:\.(\d+))?")

_REMEDY = "{symbols} takes types of the kernel (ISF, BTF, vmlinux); {dtb} takes a page-table root ({scan} lists them)"


class LinuxSystem:
    """A Linux machine."""

    def __init__(
        self,
        kernel: Kernel,
        landmarks: Landmarks,
        file: SymbolFile | None = None,
        types: Sequence[FoundBtf] = (),
        *,
        quick: bool = False,
    ) -> None:
        """Of a kernel and what led to it, the types of a `file` or those found; `quick` as for `find_kernel`."""
        self._file, self._types = file, types
        #: whether it was found by a quick look
        self.quick = quick
        self.memory = kernel.memory
        self.kernel = kernel
        self._landmarks = landmarks
        self._processes = Processes(kernel)
        self.notes = self._processes.notes
        self._text_left = _MOST_TEXT

    def confirm(self) -> bool:
        """Look through all memory; return False if that leads to another kernel than the quick look did."""
        if not self.quick:
            return True
        landmarks = find_landmarks(self.memory)
        try:
            found = _found(self.memory, self._file, landmarks, known=self._types)
        except (ProcessError, KernelTypesError):
            return False
        if found is None or (found.kernel.table, found.kernel.first[:2]) != (self.kernel.table, self.kernel.first[:2]):
            return False
        self.kernel.space.walked_as(found.kernel.space)
        self.notes += [note for note in found.notes if note not in self.notes]
        self._landmarks, self.quick = landmarks, False
        return True

    @functools.cached_property
    def knowledge(self) -> Knowledge:
        """What is known of processes beyond their bytes."""
        return Knowledge(self)

    @functools.cached_property
    def release(self) -> str | None:
        """The kernel's version as ``uname -r`` prints it; None if nothing tells, or several kernels' banners do."""
        kernel = self.kernel.structures
        proxy = kernel.pointer(self.kernel.first.address, "task_struct", "nsproxy")
        names = None if proxy is None else kernel.pointer(proxy, "nsproxy", "uts_ns")
        inside = kernel.offset("uts_namespace", "name")
        found = None if names is None or inside is None else kernel.text(names + inside, "new_utsname", "release")
        if found:
            return found.decode("ascii", "backslashreplace")
        said = {each.release for each in self._landmarks.banners}
        return said.pop() if len(said) == 1 else None

    @functools.cached_property
    def symbols(self) -> Kallsyms | None:
        """The kernel's symbols by name, a help for those who ask; None if they are not found."""
        first = self.kernel.first
        return find_kallsyms(self.memory, [first.physical], first.types.pointer_size, first.shift)

    @property
    def platform(self) -> Platform:
        """The version of Linux: ``build`` is the third number."""
        found = _VERSION.match(self.release or "")
        if found is None:
            return Platform(LINUX)
        major, minor, patch = (None if number is None else int(number) for number in found.groups())
        return Platform(LINUX, major, minor, patch)

    @property
    def description(self) -> str:
        """Which Linux it is and how its processes are read, in words."""
        return f"Linux {self.release or 'of unknown version'}; types from {self.kernel.first.types.source}"

    @property
    def problem(self) -> str:
        """What is wrong with the kernel's list of tasks, in words; empty if it is whole."""
        return self._processes.problem

    def listed(self) -> list[ProcessEntry]:
        """Return the processes that the kernel's list of tasks leads to."""
        return self._processes.listed

    def processes(self) -> list[ProcessEntry]:
        """Return every process."""
        return self._processes.all

    def table_of(self, entry: ProcessEntry) -> AddressTable:
        """Return the page tables of a process; the kernel's own if it has none."""
        if entry.root is None:
            return self._table
        table = self._table._replace(root=entry.root)
        return table._replace(isolated=is_isolated(self.memory, table))

    @functools.cached_property
    def _table(self) -> AddressTable:
        """The kernel's page tables, and how its version marks pages that are not present."""
        version = self.platform
        if version.major is None or version.minor is None:
            return self.kernel.table
        return self.kernel.table._replace(absent=rules_of((version.major, version.minor)))

    def resolver(self, files: PageFiles) -> Resolver | None:
        """Return what finds swapped pages. Raises InputError if files that were given are no swap areas."""
        page = self.kernel.table.mode.page
        return SwapResolver(self.memory, files, page, functools.partial(self._compressed_swap, files.path))

    def _compressed_swap(self, path: str) -> CompressedSwap | str:
        """Return what of the swap is compressed in memory; why that is not known, in words, if it is not."""
        if not self.memory.searchable:
            return "that takes a search for the kernel's list of symbols, and the memory comes from afar"
        symbols = self.symbols
        if symbols is None or symbols.addresses is None:
            return "the kernel's list of symbols, which leads to them, was not found"
        if self.kernel.first.types.pointer_size != _WORD:
            return "the kernel is one of 32 bits"
        return CompressedSwap(self.kernel, symbols, path)

    def metadata(self, entry: ProcessEntry, table: AddressTable, resolver: Resolver | None = None) -> Metadata:
        """Return what Linux knows of a process."""
        known = self.knowledge.of(entry, self._processes.memory_of(entry), table)
        return known + self.start_of(entry, table, resolver)

    def start_of(self, entry: ProcessEntry, table: AddressTable, resolver: Resolver | None = None) -> Metadata:
        """Return what a process was started with, as far as it is in memory."""
        del resolver
        mm = self._processes.memory_of(entry)
        if mm is None or entry.object is None or self._text_left < 0:
            return Metadata()
        kernel, paths = self.kernel.structures, self.knowledge.paths
        memory = LookedUp(self.memory, table)
        found = parameters(kernel, mm, memory, table.kernel_half, program(kernel, mm, paths))
        self._text_left -= found.length
        if self._text_left < 0:
            self.notes.append("command lines are longer than any machine's: what is beyond is not read")
        return Metadata(parameters=(found._replace(current_directory=directory(kernel, entry.object, paths)),))

    def architecture_of(self, entry: ProcessEntry) -> str:
        """Return what a process is a program of: of 32 bits also on a kernel of 64."""
        mm, mode = self._processes.memory_of(entry), self.kernel.table.mode
        narrow = mm is not None and is_narrow(self.kernel.structures, mm)
        if mode.split:
            return Architecture.ARM if narrow else Architecture.ARM64
        return Architecture.X64 if mode.wide and not narrow else Architecture.X86

    def auxiliary_vector(self, entry: ProcessEntry) -> bytes | None:
        """Return what Linux gave a program when it began (getauxval(3)), in words of the kernel's size."""
        mm = self._processes.memory_of(entry)
        return None if mm is None else auxiliary_vector(self.kernel.structures, mm)


def find_linux_quickly(memory: PhysicalMemory, symbols: SymbolFile | None = None) -> LinuxSystem | None:
    """Return the Linux of a machine if few pages tell where its kernel is; None if all the memory must tell.

    A kernel is believed here if its list of tasks leads to others than the first.
    """
    for ranges in kernel_images(memory, told_information(memory)):
        with contextlib.suppress(ProcessError, KernelTypesError):
            found = _found(memory, symbols, find_landmarks(memory, ranges), quick=True)
            if found is not None and len(found.listed()) > 1:
                return found
    return None


def find_linux(memory: PhysicalMemory, symbols: SymbolFile | None = None) -> LinuxSystem | None:
    """Return the Linux of a machine, None if there is none; by the types in a file, or else those in the memory itself.

    Raises ProcessError if there is one for certain, but its processes cannot be found, and KernelTypesError if the file
    is for another kernel.
    """
    landmarks = find_landmarks(memory)
    system = _found(memory, symbols, landmarks)
    if system is not None or not landmarks.banners:
        return system
    by = "" if symbols is None else f" by the types in {symbols.path}, which may be another kernel's"
    raise ProcessError(f"Linux {landmarks.banners[0].release} was found, but not its processes{by}", remedy=_REMEDY)


def _found(
    memory: PhysicalMemory,
    symbols: SymbolFile | None,
    landmarks: Landmarks,
    *,
    quick: bool = False,
    known: Sequence[FoundBtf] = (),
) -> LinuxSystem | None:
    """Return the Linux that landmarks lead to; None if there is none, or a `quick` look is not enough to tell."""
    btf = [] if symbols is not None else [*kernel_btf(memory, landmarks, known)]
    types: list[tuple[KernelTypes, int | None]] = [(found.types, found.physical) for found in btf]
    note = None
    if symbols is not None:
        types, note = [(symbols.types, None)], _compared(symbols, landmarks)
        if quick and note is not None:  # what names the build of the kernel may lie elsewhere
            return None
    kernel = find_kernel(memory, types, landmarks, quick=quick)
    if kernel is None and symbols is None:
        kernel = learned_kernel(memory, landmarks, quick=quick)
    if kernel is None:
        return None
    system = LinuxSystem(kernel, landmarks, symbols, btf, quick=quick)
    system.notes += [*([] if note is None else [note]), *_others(kernel)]
    return system


def _others(kernel: Kernel) -> list[str]:
    """Return a sentence if other kernels lie in the memory."""
    if not kernel.others:
        return []
    places = ", ".join(f"0x{first.physical:x}" for first in kernel.others[:_MOST_NAMED])
    more = f" and {len(kernel.others) - _MOST_NAMED} more" if len(kernel.others) > _MOST_NAMED else ""
    believed = f"the one at 0x{kernel.first.physical:x} is believed, others' processes are not listed"
    return [f"another kernel's first task may lie at {places}{more}: {believed}"]


def _compared(symbols: SymbolFile, landmarks: Landmarks) -> str | None:
    """Return a sentence if a file is of another build of the kernel; KernelTypesError if it is for another one."""
    said = [each.vmcoreinfo for each in landmarks.information]
    releases = {each.release for each in landmarks.banners} | {each.release for each in said}
    ids = {each.build_id for each in said if each.build_id is not None}
    return symbols.check(releases, {each.text for each in landmarks.banners}, ids)
