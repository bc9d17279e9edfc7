"""A process's memory and what its source knew of it; and the container that a source opened."""

from __future__ import annotations

import copy
import dataclasses
import fnmatch
import functools
from abc import ABC, abstractmethod
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

import numpy as np

from memcarve.addresses import Address, AddressRange, parse_address, parse_range
from memcarve.backing import FileBacking
from memcarve.errors import InputError, ProcessError, UnreadableError, UsageError, printable
from memcarve.intervals import TOP, Intervals
from memcarve.metadata import Metadata, places
from memcarve.missing import CUT_OFF, UNREADABLE
from memcarve.note import Note
from memcarve.segments import KERNEL_HALF, Choice, LeftOut
from memcarve.times import rfc3339
from memcarve.unreadable import unreadable
from memcarve.vocabulary import NARROW, Architecture, Flag, Half, Kind, Split

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from types import TracebackType
    from typing import Self

    from memcarve.backing import Backing
    from memcarve.dtypes import U64, Bools
    from memcarve.metadata import Module, Region, Thread
    from memcarve.searching.engines import Pattern
    from memcarve.segments import Labels, Segment, Segments
    from memcarve.space import AddressSpace, Extent, Hit

_T = TypeVar("_T")

_KERNEL_HALF_32 = 0x80000000
_ATTEMPTS = 4  # at what may be unreadable: blocks that fail now and then are not waited for
#: what lies between these addresses needs more than 48 bits
_WIDEST, _WHOLE = 57, 64
_MOST_OTHERS = 4096
_LOWER_END, _UPPER_START = np.uint64(1 << 47), np.uint64(TOP - (1 << 47))


_BY_LABELS = ("file", "protection", "kind", "flag")


class Labeller(Protocol):
    """Says what is known of segments."""

    def __call__(self, process: ProcessMemory, segments: Segments, wanted: Selection) -> Labels:
        """Return labels of the segments, good for telling those that are `wanted`."""


@dataclasses.dataclass(frozen=True)
class Selection:
    """Which segments are wanted: by half, by addresses they touch (half-open), by size in bytes; None is no limit.

    `half` is ``"user"``, ``"kernel"`` or ``"all"``; None leaves it to the process: all of a dump, the user half of an
    image.

    By labels, of each kind any of those given, in any region that a segment touches: `file` (patterns for the mapped
    file's path or name, or the module's name), `protection` (letters that must all be in it, or its full name), `kind`
    (of vocabulary.Kind), `flag` (of vocabulary.Flag). Raises UsageError for an unknown half, kind or flag.
    """

    half: str | None = None
    address: Sequence[tuple[int, int]] = ()
    min_size: int | None = None
    max_size: int | None = None
    file: Sequence[str] = ()
    protection: Sequence[str] = ()
    kind: Sequence[str] = ()
    flag: Sequence[str] = ()

    def __post_init__(self) -> None:
        Half.check(self.half)
        Kind.check(*self.kind)
        Flag.check(*self.flag)

    def _replace(self, **changes: Any) -> Selection:  # noqa: ANN401 - members, as of the tuples that options are
        """Return the same with some members changed."""
        return dataclasses.replace(self, **changes)

    def facts(self) -> dict[str, Any]:
        """Return what is wanted, ready for JSON; `of_facts` reads it."""
        return {
            "half": self.half,
            "address": [[f"0x{start:x}", f"0x{end:x}"] for start, end in self.address],
            "min_size": self.min_size,
            "max_size": self.max_size,
            **{name: list(vars(self)[name]) for name in _BY_LABELS},
        }

    @classmethod
    def of_facts(cls, facts: Mapping[str, Any]) -> Selection:
        """Return the selection that `facts` describes; it may come from anywhere.

        Raises ValueError, TypeError, KeyError or UsageError if it describes none.
        """
        low, high = facts["min_size"], facts["max_size"]
        words = {name: tuple(facts[name]) for name in _BY_LABELS}
        if any(not (value is None or (type(value) is int and value >= 0)) for value in (low, high)):
            raise ValueError("a size of another kind")
        if any(not isinstance(word, str) for each in words.values() for word in each):
            raise ValueError("a word of another kind")
        address = tuple((int(start, 16), int(end, 16)) for start, end in facts["address"])
        if any(not 0 <= start < end <= TOP for start, end in address):
            raise ValueError("a range of addresses that is none")
        return cls(facts["half"], address, low, high, *(words[name] for name in _BY_LABELS))

    @property
    def by_labels(self) -> dict[str, Sequence[str]]:
        """What is wanted by labels, by the option's name."""
        wanted = {"file": self.file, "protection": self.protection, "kind": self.kind, "flag": self.flag}
        return {name: values for name, values in wanted.items() if values}

    def apply(self, segments: Segments, kernel_half: int = KERNEL_HALF) -> tuple[Segments, list[LeftOut]]:
        """Return the segments wanted, and what was left out by each of the limits."""
        touching: Bools | None = None
        for start, end in self.address:
            here = segments.touching(start, end)
            touching = here if touching is None else touching | here
        limits = (
            (
                f"outside --range {self.half}",
                None if self.half in (None, "all") else segments.in_half(self.half, kernel_half),
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


class Progress(Protocol):
    """Is told how far the work is, in bytes, several times a second."""

    def __call__(self, done: int, total: int) -> object:
        """Take note that `done` of `total` bytes are done."""


class Unix(NamedTuple):
    """What a Unix system knows of a process besides what every system does; None is unknown.

    `uid` and `gid` are the real user and group, `status` what it does in the words of proc_pid_status(5) (``sleeping``,
    ``zombie``), `namespace_pid` its number in its own pid namespace. A `kernel_thread` has no memory of its own.
    `container` is the identifier of the container that it runs in, `found` how it was found if no list leads to it:
    by its number (``pid table``), by one of its threads, by a search. `exit_code` is what wait(2) returns of one that
    has ended.
    """

    uid: int | None = None
    gid: int | None = None
    status: str | None = None
    namespace_pid: int | None = None
    kernel_thread: bool | None = None
    container: str | None = None
    found: str | None = None
    exit_code: int | None = None


class ProcessEntry(NamedTuple):
    """A process that a container holds; what its source does not say is None.

    From an image also: `parent` (pid), `created` and `exited` (UTC), `root` (physical address of its page tables),
    `image_base` and `peb` (addresses), `wow64` (32-bit on 64), `listed` (the kernel's list of processes leads to it),
    `ended`, and `object`, the address of what the kernel knows of it. `doubts` says in words what speaks against its
    being a process at all; nothing does if it is empty. `unix` is what only a Unix system knows.
    """

    pid: int | None = None
    name: str | None = None
    parent: int | None = None
    created: dt.datetime | None = None
    exited: dt.datetime | None = None
    root: int | None = None
    image_base: int | None = None
    peb: int | None = None
    wow64: bool | None = None
    listed: bool | None = None
    ended: bool | None = None
    object: int | None = None
    doubts: tuple[str, ...] = ()
    unix: Unix | None = None

    @property
    def state(self) -> str | None:
        """``"running"``, or ``"exited"``, ``"unlinked"``; and ``"doubtful"``, with commas; None if unknown.

        Of a Unix system its own word for what the process does (``"sleeping"``, ``"zombie"``) comes first, but for one
        that has ended and is in no list any more.
        """
        if self.listed is None:
            return None
        own = self.unix.status if self.unix and not (self.ended and not self.listed) else None
        words = [own] if own else ["exited"] * bool(self.ended)
        words += ["unlinked"] * (not self.listed)
        return ", ".join([*(words or ["running"]), *["doubtful"] * bool(self.doubts)])

    @property
    def has_memory(self) -> bool:
        """Whether there is memory of its own: a kernel's thread of a Unix system has none, and one that has ended."""
        return self.unix is None or self.root is not None

    def facts(self) -> dict[str, Any]:
        """Return what an image tells of the process, ready for JSON; nothing if only pid and name are known."""
        if self.root is None and self.unix is None:
            return {}

        def address(value: int | None) -> str | None:
            return None if value is None else f"0x{value:x}"

        def time(value: dt.datetime | None) -> str | None:
            return None if value is None else rfc3339(value, "microseconds")

        return {
            "parent": self.parent,
            "created": time(self.created),
            "exited": time(self.exited),
            "state": self.state,
            "root": address(self.root),
            "image_base": address(self.image_base),
            "peb": address(self.peb),
            "wow64": self.wow64,
            "object": address(self.object),
            "doubts": list(self.doubts),
            **({} if self.unix is None else self.unix._asdict()),
        }

    def __str__(self) -> str:
        words = ([] if self.pid is None else [str(self.pid)]) + ([self.name] if self.name else [])
        return " ".join(words) or "unknown process"


class Platform(NamedTuple):
    """The operating system that a process ran on: ``"windows"``, ``"linux"``; version and build; None is not known."""

    system: str | None = None
    major: int | None = None
    minor: int | None = None
    build: int | None = None


class Location(NamedTuple):
    """Where an address lies: the offset of its byte in the backing, its segment and its extent.

    No segment holds what page tables map again.
    """

    address: int
    offset: int
    segment: Segment | None
    extent: Extent


class Machine(NamedTuple):
    """What a process ran on; None is not known.

    `architecture` is a vocabulary.Architecture. Addresses are `address_bits` wide before their highest bit is extended.
    From `kernel_half` on they are the kernel's: by the architecture if that is not given.
    """

    platform: Platform = Platform()
    architecture: str | None = None
    address_bits: int = 48
    kernel_half: int | None = None


class Others:
    """The other processes of a `container` than the one at `index`, of those that the kernel's list leads to.

    They are opened one after the other, when it is their turn, and looked at once: what a function says of them is kept
    for the next one that asks with the same function.
    """

    def __init__(self, container: Container, index: int | None) -> None:
        """Of all processes but the one at `index`; None is all."""
        self._container = container
        self._index = index

    def __len__(self) -> int:
        return sum(index != self._index for index in self._certain)

    @functools.cached_property
    def _certain(self) -> list[int]:
        entries = enumerate(self._container.listed())
        return [index for index, entry in entries if not entry.doubts and not entry.ended][:_MOST_OTHERS]

    @property
    def place(self) -> int | None:
        """The place of the process itself in the container's list; None if all are others."""
        return self._index

    def together(self, gather: Callable[[Iterator[tuple[int, ProcessMemory]]], _T]) -> _T:
        """Return what `gather` makes of all of them and the process itself, each with its place in the list.

        One that cannot be opened is left out.
        """
        kept = self._container.gathered
        if gather not in kept:
            kept[gather] = gather(self._opened())
        found: _T = kept[gather]
        return found

    def _opened(self) -> Iterator[tuple[int, ProcessMemory]]:
        for index in self._certain:
            try:
                yield index, self._container.process(index=index, half="user")
            except InputError:
                continue


class Account(NamedTuple):
    """What of its input a process's memory is.

    `input_bytes` are to be accounted for: if they are not given, the backing's length, or of an image what its page
    tables lead to. `left_out` counts those that belong to no address, by reason. `incomplete`: bytes are known to be
    missing. `whole`: the input ends where it should; what is cut off was missing in what it was made from.
    """

    input_bytes: int | None = None
    left_out: Mapping[str, int] = MappingProxyType({})
    incomplete: bool = False
    whole: bool = False


class ProcessMemory:
    """An address space and what its source knew.

    `entry` is what the input's list of processes says of it; `pid` and `name` are None if unknown, and so are the
    members of `machine`, by which `platform`, `architecture`, `address_bits` and `kernel_half` are known here, and of
    `account`: `input_bytes`, `left_out`, `incomplete`. `inputs` says where the memory came from, ready for JSON;
    `positions` how the bytes' places were settled. `notes` are sentences for the user. `half` is what of the address
    space was looked at.

    From an image, `pages` counts 4 KiB pages by kind, and `file` is the image itself. `auxiliary_vector` is what Linux
    gave the program when it began (getauxval(3)), in words of its own size: debuggers find the program's place by it.
    `metadata` finds what is known of the memory beyond its bytes. `originals` returns what all processes share of some
    pages (addresses, uint64) of programs, whatever this one has there: None if nothing knows that, or it knows nothing.
    """

    def __init__(
        self,
        space: AddressSpace,
        entry: ProcessEntry | None = None,
        *,
        machine: Machine = Machine(),  # noqa: B008 - a tuple
        account: Account = Account(),  # noqa: B008 - a tuple
        inputs: dict[str, Any] | None = None,
        notes: Iterable[str] = (),
        metadata: Callable[[], Metadata] = Metadata,
        half: str = "all",
        positions: str | None = None,
        pages: dict[str, int] | None = None,
        file: Backing | None = None,
        auxiliary_vector: bytes | None = None,
        originals: Callable[[U64], AddressSpace | None] | None = None,
    ) -> None:
        self.space = space
        self.entry = entry or ProcessEntry()
        self.platform, self.architecture, self.address_bits, kernel_half = machine
        #: the first address of the kernel's half
        self.kernel_half = kernel_half or kernel_half_of(self.architecture)
        self._input_bytes, left_out, self.incomplete, self._whole = account
        self.left_out = dict(left_out)
        self.inputs = inputs or {}
        self.notes = list(notes)
        self._find_metadata = metadata
        self.half = half
        self.positions = positions
        self.pages = pages
        self.file = file or space.backing
        self.auxiliary_vector = auxiliary_vector
        self.originals = originals
        #: the other processes of the container that it is from; None if it is from none
        self.others: Others | None = None
        #: files that pages of it lie in besides `file`, in the order of ``inputs["page_files"]``
        self.page_files: Sequence[FileBacking] = ()
        self._lost = 0

    @property
    def pid(self) -> int | None:
        """The process's number."""
        return self.entry.pid

    @property
    def name(self) -> str | None:
        """The process's name."""
        return self.entry.name

    @property
    def is_image(self) -> bool:
        """Whether the memory was read through page tables, from an image of a machine's."""
        return self.pages is not None

    @property
    def default_half(self) -> str:
        """The half that is taken by default: ``"user"`` of an image, else ``"all"``."""
        return "user" if self.is_image else "all"

    @property
    def warnings(self) -> list[str]:
        """The notes that must not be missed and are about this process alone."""
        return Note.of(self.notes, "process")

    @property
    def used_inputs(self) -> dict[str, Any]:
        """`inputs`, and as ``evidence`` the files that `metadata` was read from, if it was looked up."""
        files = self.metadata.files if "metadata" in self.__dict__ else ()
        return {**self.inputs, "evidence": list(files)} if files else self.inputs

    def __repr__(self) -> str:
        words = [str(self.entry), *([self.architecture] if self.architecture else []), f"{self.space.total} bytes"]
        return f"<ProcessMemory: {printable(', '.join(words))}>"

    @functools.cached_property
    def metadata(self) -> Metadata:
        """What is known of the memory beyond its bytes: regions, modules, threads; looked up when it is asked for."""
        found = self._find_metadata()
        self.note_lost()
        return found

    def note_lost(self) -> None:
        """Take note of what of the file's own structures could not be read, once."""
        for why in self.file.lost[self._lost :] if isinstance(self.file, FileBacking) else ():
            self._lost += 1
            self.incomplete = True
            self.notes.append(Note(f"{self.file.path}: {why}; what its own structures say there is not known"))

    @property
    def input_bytes(self) -> int:
        """The bytes to account for: a dump's length; of an image, what the page tables lead to."""
        if self._input_bytes is not None:
            return self._input_bytes
        return self.space.total + self.space.repeated if self.is_image else self.space.backing.size

    def labelled(self, segments: Segments, selection: Selection, labeller: Labeller | None) -> Bools:
        """Say for each segment (bool) whether it has all the labels that a selection wants.

        Raises UsageError if there is no labeller, or nothing is known to choose by.
        """
        if labeller is None:
            raise UsageError(f"to choose by {next(iter(selection.by_labels))}, segments must be labelled")
        labels = labeller(self, segments, selection)
        keep = segments.in_half("all")
        for name, values in selection.by_labels.items():
            keep &= labels.matches(name, values)
        return keep

    def _places(self, split: str) -> U64:
        """Return the addresses at which segments end that are split."""
        if split == "permissions":
            if self.space.flags is None:
                raise UsageError(
                    "the input does not say what the page tables allow", remedy="{split:permissions} needs an image"
                )
            return self.space.changes()
        found = places(self.metadata, split)
        if found is None:
            files = "{modules:FILE} or {regions:FILE}" if split == "module" else "{regions:FILE}"
            raise UsageError(
                f"nothing is known to split by {split}",
                subject=str(self.entry),
                remedy=f"{files} gives what Volatility printed",
            )
        return found

    @property
    def first_cut_off(self) -> int | None:
        """The first address whose byte the input should hold but does not, because it ends too early."""
        if self._whole:
            return None
        return next((gap.start for gap in self.space.missing if gap.reason == CUT_OFF), None)

    def segments(
        self,
        selection: Selection | None = None,
        split: str = "none",
        labeller: Labeller | None = None,
        *,
        half: str | None = None,
        address: Sequence[tuple[int, int]] = (),
        min_size: int | None = None,
        max_size: int | None = None,
        file: Sequence[str] = (),
        protection: Sequence[str] = (),
        kind: Sequence[str] = (),
        flag: Sequence[str] = (),
    ) -> Segments:
        """Return the contiguous segments, in order of addresses: those selected, else those of `default_half`.

        Select by the words of a `Selection`, or give one. `split` is a vocabulary.Split: where they end, too.
        `labeller` (a ``memcarve.Labelling``) gives them labels. Their `choice` says what was left out by each of the
        limits. Raises UsageError for an unknown word, if both a selection and words of one are given, if the input
        does not say where to split, and if labels are asked for without a labeller.
        """
        words = Selection(half, address, min_size, max_size, file, protection, kind, flag)
        if selection is not None and words != Selection():
            raise UsageError("a selection was given, and words of one", remedy="give one or the other")
        selection = selection or words
        Split.check(split)
        if selection.half is None:
            selection = selection._replace(half=self.default_half)
        segments = self.space.segments()
        if split != "none":
            segments = self.space.cut(segments, self._places(split))
        across = np.uint64(self.kernel_half)
        if selection.half != "all" and ((segments.start < across) & (segments.last >= across)).any():
            segments = self.space.cut(segments, np.array([across]))
        segments, left_out = selection.apply(segments, self.kernel_half)
        if labeller is not None:
            segments = segments.labelled(labeller(self, segments, selection))
        for name, values in selection.by_labels.items():
            if segments.labels is None:
                raise UsageError(f"to choose by {name}, segments must be labelled")
            keep = segments.labels.matches(name, values)
            gone, segments = segments.where(~keep), segments.where(keep)
            if len(gone):
                left_out.append(LeftOut(f"not --{name} {', '.join(values)}", len(gone), gone.total))
        return segments.chosen(Choice(selection.half or "all", split, tuple(left_out), selection.facts()))

    def address_of(self, written: str | Address) -> int:
        """Return the address that is meant by text like ``ntdll.dll+0x1234``; raises UsageError.

        Modules are those of all lists, else files by their lowest region.
        """
        found = parse_address(written) if isinstance(written, str) else written
        return found.offset if found.module is None else found.among(self._named(), str(self.entry))

    def bounds_of(self, written: str | AddressRange) -> tuple[int, int]:
        """Return start and end, half-open, of what is meant by text like ``ntdll.dll+0x1000+4k``; raises UsageError."""
        found = parse_range(written) if isinstance(written, str) else written
        modules = self._named() if found.first.module is not None else ()
        return found.among(modules, str(self.entry))

    def _named(self) -> list[tuple[int, int | None, str | None]]:
        """Return start, size and name of what may be called a module."""
        rows = [module for each in self.metadata.modules for module in each.rows]
        modules = [(module.start, module.size, module.name or module.path) for module in rows]
        files: dict[str, tuple[int, int]] = {}
        for region in self.regions if not modules else ():
            if region.file is not None:
                start, end = files.get(region.file, (region.start, region.end))
                files[region.file] = min(start, region.start), max(end, region.end)
        return [*modules, *((start, end - start, file) for file, (start, end) in files.items())]

    def read(self, address: int, size: int) -> bytes:
        """Return exactly `size` bytes at an address; raises AddressError, which names the first that is not there."""
        try:
            return self.space.read(address, size)
        except UnreadableError:
            pieces = Intervals.of(self.space.pieces(address, size))
            return self.space.without(unreadable(self.space.backing, pieces)).read(address, size)

    def readable(self, segments: Segments | None = None) -> ProcessMemory:
        """Return the same process memory without what cannot be read of some segments (None: of all).

        They are read once. What cannot be read is missing then, with the reason ``"unreadable"``. Raises
        SourceReadError if hardly anything can be read.
        """
        space = self.space
        bad = unreadable(space.backing, space.stored(space.segments() if segments is None else segments))
        if not len(bad):
            return self
        there, input_bytes = space.without(bad), self.input_bytes  # which an image counts by what is there
        gone = space.total - there.total
        where = f"at {len(bad)} places, the first" if len(bad) > 1 else "at one place,"
        problem = f"{gone} bytes cannot be read, {where} at offset 0x{int(bad.start[0]):x}: they are missing"
        found = copy.copy(self)
        vars(found).update(
            space=there,
            _input_bytes=input_bytes,
            left_out={**self.left_out, UNREADABLE: self.left_out.get(UNREADABLE, 0) + gone},
            incomplete=True,
            notes=[*self.notes, Note(f"{space.backing.path}: {problem}")],
        )
        return found

    def past_unreadable(self, work: Callable[[ProcessMemory], _T], selection: Selection | None = None) -> _T:
        """Return ``work(self)``; if that meets what cannot be read, do the work again from its beginning without it.

        `selection` is what the work chooses: only that is searched for what cannot be read, if it is found there.
        Raises UnreadableError if the work still meets any after several attempts: blocks may fail now and then, and
        `work` may read what is not the process's memory.
        """
        process = self
        only = (selection or Selection())._replace(file=(), protection=(), kind=(), flag=())
        for attempt in range(_ATTEMPTS):
            try:
                return work(process)
            except UnreadableError:
                found = process.readable(None if attempt else process.segments(only))
                if attempt and found is process:
                    raise
                process = found
        return work(process)

    def find(
        self,
        patterns: Pattern | Sequence[Pattern],
        *,
        half: str | None = None,
        unreadable: Callable[[int, int], object] | None = None,
    ) -> Iterator[Hit]:
        """Yield every place where one of some patterns lies, in order of addresses; None is `default_half`.

        Patterns are bytes, or what `text_pattern` and `hex_pattern` make. `unreadable` is called with address and size
        of what cannot be read, which is passed over; without it that raises UnreadableError. ``space.find`` searches
        any segments. Raises ValueError for an empty pattern.
        """
        return self.space.find(patterns, self.segments(half=half), unreadable=unreadable)

    def locate(self, address: int) -> Location:
        """Return where an address lies; raises AddressError if nothing is there."""
        segment, extent = self.space.locate(address)
        return Location(address, extent.offset + address - extent.start, segment, extent)

    def locate_offset(self, offset: int) -> list[Location]:
        """Return the places that the input's byte at an offset (of the backing) has in memory: none, one or several."""
        return [self.locate(address) for address in self.space.addresses_of(offset)]

    @property
    def regions(self) -> Sequence[Region]:
        """The regions that the best source lists; none if nothing lists any. `metadata` has all sources."""
        return next((each.rows for each in self.metadata.regions), ())

    @property
    def modules(self) -> Sequence[Module]:
        """The modules that the best source lists; none if nothing lists any. `metadata` has all sources."""
        return next((each.rows for each in self.metadata.modules), ())

    @property
    def threads(self) -> Sequence[Thread]:
        """The threads of all lists, each once; none if nothing lists any. `metadata` has all sources."""
        return self.metadata.all_threads()


class Container(ABC):
    """What a source opened. Close it, or use it in a ``with`` statement: reading needs its files open.

    `default_half` is the half that is taken by default: ``"all"`` of a dump, ``"user"`` of an image.
    """

    default_half = "all"
    #: whether a copy of this program, made by forking, can open processes
    can_be_forked = False
    #: what was opened, as it is called in messages
    path = ""
    #: sentences for the user about the input
    notes: Sequence[str] = ()
    #: the one file that all processes lie in, if there is one
    stored: FileBacking | None = None
    #: files that pages of processes lie in besides that one
    page_files: Sequence[FileBacking] = ()
    #: whether part of the input could not be read when processes were looked for
    unreadable = False
    #: what is wrong with the system's list of processes, in words: some that it held may be unlisted then
    list_problem = ""
    #: what the user said that the input is, if anything
    input_type: str | None = None
    #: what was left out of a choice because it has no memory of its own, in words
    _left_out = ""

    @property
    def warnings(self) -> list[str]:
        """The notes that must not be missed and are about all of the input."""
        return Note.of(self.notes, "input")

    @property
    def said(self) -> dict[str, str]:
        """What the user said of the input, as it stands among the inputs in what is written."""
        return {} if self.input_type is None else {"input_type": self.input_type}

    @abstractmethod
    def processes(self) -> list[ProcessEntry]:
        """Return the processes it holds, in the order of the input."""

    def listed(self) -> list[ProcessEntry]:
        """Return the processes that the input lists by itself; of an image nothing is searched for."""
        return self.processes()

    def entry(self, index: int) -> ProcessEntry:
        """Return the process at a place in `processes()`; an image is not searched if the process is known already."""
        return self.processes()[index]

    def known(self, pids: Sequence[int]) -> list[ProcessEntry]:  # noqa: ARG002 - a source may look no further
        """Return the beginning of `processes()`, at least as long as it takes to hold these pids."""
        return self.processes()

    @abstractmethod
    def _process(self, index: int) -> ProcessMemory:
        """Return the memory of the process at a place in `processes()`."""

    def _half(self, index: int, half: str) -> ProcessMemory:  # noqa: ARG002 - only an image has halves
        """Return the same, at least one half of it."""
        return self._process(index)

    def open_span(self, index: int, start: int, end: int) -> ProcessMemory:  # noqa: ARG002 - a source may look no further
        """Return the memory of a process, at least what of it holds an address of ``start <= x < end``.

        Nothing else of an image is read, so that damage elsewhere does not matter.
        """
        return self.process(index=index)

    def start_of(self, index: int) -> Metadata:
        """Return what is known of how the process at a place in `processes()` was started, and what it unloaded.

        It is part of its metadata, and of an image found with less reading than all of that. Raises what opening a
        process and its metadata raise.
        """
        return self.process(index=index, half=self.default_half).metadata

    def physical_space(self) -> AddressSpace | None:
        """Return the machine's physical memory as an address space over its image, by physical address.

        None if the input is not an image.
        """
        return None

    def roots(self, half: str = "all") -> list[Any]:  # noqa: ARG002 - for images
        """Return the plausible page-table roots that lie in the input; raises UsageError if it is not an image."""
        raise UsageError("is not an image of a machine's memory, where page tables could be", subject=str(self))

    @abstractmethod
    def close(self) -> None:
        """Close the files; a second call does nothing."""

    def process(
        self, pid: int | None = None, *, entry: ProcessEntry | None = None, index: int | None = None, half: str = "all"
    ) -> ProcessMemory:
        """Return the memory of one process: by its number, as one of `processes()`, or by its index there.

        A `half` of an image is read alone. If the input holds only one process, nothing need be said.
        Raises UsageError if it holds several and none is named, ProcessError if it does not hold the one named.
        """
        Half.check(half)
        if entry is not None:
            index = self.processes().index(entry)
        if index is None:
            index = self.choose([] if pid is None else [pid])[0]
        found = self._half(index, half)
        found.others = Others(self, index)
        found.note_lost()
        return found

    def __iter__(self) -> Iterator[ProcessMemory]:
        """Yield the memory of each process, opened when it is its turn.

        What is doubtful as a process is left out, and what has no memory of its own.
        """
        for index in self.certain():
            yield self.process(index=index)

    def __len__(self) -> int:
        return len(self.certain())

    @functools.cached_property
    def gathered(self) -> dict[Callable[..., Any], Any]:
        """What functions made of all processes, so that one can be compared with the others."""
        return {}

    def certain(self) -> list[int]:
        """Return the places in `processes()` of all that have memory and that nothing speaks against."""
        entries = self.processes()
        found = [index for index, entry in enumerate(entries) if not entry.doubts]
        return self._with_memory(entries, found)

    def _with_memory(self, entries: Sequence[ProcessEntry], found: list[int]) -> list[int]:
        """Return those of some places in a list of processes at which one with memory is; take note of the others."""
        kept = [index for index in found if entries[index].has_memory]
        left = [entries[index] for index in found if not entries[index].has_memory]
        threads = sum(entry.unix is not None and entry.unix.kernel_thread is True for entry in left)
        words = [(threads, "kernel thread"), (len(left) - threads, "process that has ended")]
        self._left_out = ", ".join(
            f"{number} {word if number == 1 else _PLURAL[word]}" for number, word in words if number
        )
        return kept

    def choose(self, pids: Sequence[int] = (), name: str | None = None) -> list[int]:
        """Return the places in `processes()` of those with one of some numbers, and a name like the pattern `name`.

        If neither is given there must be one process only. What is left of a process that has ended does not hide the
        one that has its number now, nor what is doubtful any other. Raises UsageError, ProcessError.
        """
        entries = self.known(pids)
        if not pids and name is None:
            if len(entries) != 1:
                raise self._undecided(entries)
            return [0]
        if len(entries) == 1 and entries[0].pid is None and entries[0].root is not None:
            problem = "holds one address space, given by its root, which has neither a number nor a name"
            raise UsageError(problem, subject=str(self), remedy="leave {pid} and {name} out, or {dtb}")
        if not pids:
            return self._named_like(entries, name or "")
        found = list(dict.fromkeys(index for pid in pids for index in self._numbered(entries, pid)))
        if name is None:
            return found
        both = [index for index in found if _is_like(entries[index], name)]
        if not both:
            problem = (
                f"no process with this number is named like {name!r} ({listed_of(entries[index] for index in found)})"
            )
            raise ProcessError(problem, subject=str(self), remedy="leave {pid} or {name} out")
        return both

    def _named_like(self, entries: Sequence[ProcessEntry], name: str) -> list[int]:
        named = [index for index, entry in enumerate(entries) if _is_like(entry, name)]
        certain = [index for index in named if not entries[index].doubts]
        found = self._with_memory(entries, certain)
        if certain and not found:
            raise ProcessError(
                f"what is named like {name!r} has no memory of its own: {self._left_out}", subject=str(self)
            )
        if not found and named:
            raise ProcessError(
                f"only doubtful processes are named like {name!r} ({listed_of(entries[index] for index in named)})",
                subject=str(self),
                remedy="take them with {pid}, or with {dtb} by their root",
            )
        if not found:
            part = name.strip("*?").lower()
            near = [entry for entry in entries if part in (entry.name or "").lower()]
            raise ProcessError(
                f"no process is named like {name!r}; it holds: {listed_of(near or entries)}",
                subject=str(self),
                remedy="a pattern is for the whole name: {name:*NAME*} is for a part of it",
            )
        return found

    def _numbered(self, entries: Sequence[ProcessEntry], pid: int) -> list[int]:
        found = [index for index, entry in enumerate(entries) if entry.pid == pid]
        if not found:
            raise ProcessError(f"holds no process {pid}; it holds: {listed_of(entries)}", subject=str(self))
        certain = [index for index in found if not entries[index].doubts] or found
        running = [index for index in certain if entries[index].state in (None, "running")]
        return running or [index for index in certain if not entries[index].ended] or certain

    def _undecided(self, entries: Sequence[ProcessEntry]) -> UsageError:
        if all(entry == ProcessEntry() for entry in entries):
            listed, remedy = "it does not say which is which", "cut it into one map for each"
        else:
            listed, remedy = listed_of(entries), "choose with {pid} or {name}"
        return UsageError(f"holds {len(entries)} processes ({listed})", subject=str(self), remedy=remedy)

    def __str__(self) -> str:
        """Return what the input is called in messages."""
        return self.path or type(self).__name__

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {printable(str(self))}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _is_like(entry: ProcessEntry, pattern: str) -> bool:
    return fnmatch.fnmatchcase((entry.name or "").lower(), pattern.lower())


def kernel_half_of(architecture: str | None) -> int:
    """Return the first address of the kernel's half, if nothing more is known."""
    return _KERNEL_HALF_32 if architecture in NARROW else KERNEL_HALF


def width_of(start: U64, size: U64, architecture: str | None = None) -> int:
    """Return how many bits addresses have, by ranges of them (no size is 0): 57 if any needs more than 48, else 48.

    On ARM64 it is 64: either half of an address space has 48 bits for itself, or 52, and no bit is extended.
    """
    if architecture == Architecture.ARM64:
        return _WHOLE
    last = start + (size - np.uint64(1))
    return _WIDEST if ((last >= _LOWER_END) & (start < _UPPER_START)).any() else 48


def listed_of(entries: Iterable[ProcessEntry]) -> str:
    """Return processes in words, not more than a message can hold: kernel threads, which have no memory, last."""
    words = [*map(str, sorted(entries, key=lambda entry: entry.unix is not None and bool(entry.unix.kernel_thread)))]
    return ", ".join(words[:_LISTED]) + (", ..." if len(words) > _LISTED else "")


_LISTED = 40
_PLURAL = {"kernel thread": "kernel threads", "process that has ended": "processes that have ended"}
