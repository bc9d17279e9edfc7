"""Flags: memory that deserves an analyst's look. ``docs/labels.md`` gives the reasons and the false positives."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from memcarve.intervals import PAGE, Intervals, union
from memcarve.labels import hollowing, linux_flags
from memcarve.labels.metadata_index import OWN
from memcarve.labels.severities import AS_MANY, NOT_INITIALISED, RATINGS
from memcarve.metadata import INITIALIZATION_ORDER
from memcarve.permissions import EXECUTE, NOT_PRESENT, USER, WRITE
from memcarve.vocabulary import Flag, Kind, Severity

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from memcarve.labels.headers import Header
    from memcarve.labels.metadata_index import Known
    from memcarve.labels.same_files import Compared, Difference
    from memcarve.labels.severities import Rating
    from memcarve.labels.thread_flags import Place
    from memcarve.space import AddressSpace


#: what must be known to look for a flag, as remedies word it
NEEDS = {
    Flag.PRIVATE_EXECUTABLE: "regions that say what is private: {regions:FILE}, as windows.vadinfo prints them",
    Flag.WRITABLE_EXECUTABLE: "an image, or regions that say their protection: {regions:FILE}",
    Flag.PE_IN_PRIVATE: "regions that say what is private: {regions:FILE}, as windows.vadinfo prints them",
    Flag.ELF_IN_PRIVATE: "regions that say what is private: {regions:FILE}, as /proc/PID/maps has them",
    Flag.BEYOND_SECTION: "the page tables of an image, and regions that say what is an image",
    Flag.MODULE_UNLISTED: "a list of modules ({modules:FILE}) and regions that say what is an image ({regions:FILE})",
    Flag.ENTRY_UNMAPPED: "all of a list of modules ({modules:FILE}) and of the regions ({regions:FILE})",
    Flag.WIPED_HEADER: "the bytes, and what is mapped where: {content:headers}, or {regions:FILE}",
    Flag.EXECUTABLE_STACK: "regions that say what is a stack, and an image or their protection: {regions:FILE}",
    Flag.MEMFD_EXECUTABLE: "regions of Linux with files and protections: {regions:FILE}, as /proc/PID/maps has them",
    Flag.DELETED_EXECUTABLE: "regions of Linux with files and protections: {regions:FILE}, as /proc/PID/maps has them",
    Flag.PRELOADED_LIBRARY: "the environment of a Linux process, and regions with files",
    Flag.TEXT_DIFFERS: "an image whose regions say which part of which file is run, and other processes or prototypes",
    Flag.MODULE_UNLINKED: "an image of Windows, and the loader's lists (PEB) in its memory",
    Flag.THREAD_IN_PRIVATE: "where threads began or are ({threads:FILE}), and regions that say what is private",
    Flag.STACK_IN_PRIVATE: "stacks of threads, what may run that no file backs, and the bytes of both",
    Flag.HOLLOWED: "an image of Windows, and regions that say what is an image",
}
#: the flags that need the bytes of all pages
BY_CONTENT = frozenset({Flag.PE_IN_PRIVATE, Flag.ELF_IN_PRIVATE, Flag.WIPED_HEADER})
#: the flags for which other processes of the image must be looked at, and those that see more if they are
BY_COMPARISON = frozenset({Flag.TEXT_DIFFERS, Flag.HOLLOWED})

_MOST_BASES = 1 << 16
_ARTICLES = {"PE": "a PE", "ELF": "an ELF"}
_SHOWN = 10
#: findings that are listed in words; the flags of segments are not bounded
MOST_FINDINGS = 1000


class Finding(NamedTuple):
    """A flag, the first address that it concerns, and the reason in words.

    `size` is how many bytes from there on it concerns, None if that is not bounded by what was found. `exception` is
    the severity with its reason of a finding that deserves another one than its flag.
    """

    flag: str
    address: int
    why: str
    size: int | None = None
    exception: Rating | None = None

    @property
    def severity(self) -> Severity:
        """How soon it deserves a look."""
        return (self.exception or RATINGS[Flag(self.flag)]).severity


class Flagged:
    """The addresses of each flag that could be looked for, in `where` by name; `findings` say them in words.

    `by_content` is True if the segments' bytes were looked at.
    """

    def __init__(
        self,
        space: AddressSpace,
        known: Known,
        headers: Sequence[Header] | None,
        others: Compared | None = None,
    ) -> None:
        """Look for all flags; `headers` are those found in the segments, None if they were not looked for.

        `others` is what other processes have of the same files, None if that was not looked for.
        """
        self.space = space
        self.known = known
        self.by_content = headers is not None
        self.where: dict[str, Intervals] = {}
        self.findings: list[Finding] = []
        self._others = others
        self._beyond: list[str] = []
        bases = self._look_at_bases()
        self._bases = bases or {}
        self._has_bytes = bases is not None
        executable = self._pages(EXECUTE)
        regions, modules = bool(known.regions), bool(known.metadata.modules)
        if known.has_kinds and (known.has_protections or executable is not None):
            by_region = self._regions(
                lambda place: known.is_unbacked(place) and "x" in (known.regions[place].collapsed or "")
            )
            by_page = None if executable is None else executable.intersect(self._regions(known.is_unbacked))[0]
            self._set(Flag.PRIVATE_EXECUTABLE, [by_region, by_page])
        if known.has_protections or executable is not None:
            by_region = self._regions(lambda place: known.regions[place].collapsed in ("rwx", "-wx"))
            self._set(Flag.WRITABLE_EXECUTABLE, [by_region, self._pages(EXECUTE | WRITE)])
        if known.has_kinds and executable is not None and bases is not None:
            self._set(Flag.BEYOND_SECTION, [*self._beyond_sections()])
        if modules and known.has_kinds and self._has_all_lists:
            self._set(Flag.MODULE_UNLISTED, [*self._unlisted()])
        if modules and regions and known.metadata.complete:
            self._set(Flag.ENTRY_UNMAPPED, [*self._unmapped()])
        if bases is not None and (headers is not None or regions or modules):
            self._set(Flag.WIPED_HEADER, [*self._wiped(headers or ())])
        if headers is not None and known.has_kinds:
            self._set(Flag.PE_IN_PRIVATE, [*self._in_private(headers, Flag.PE_IN_PRIVATE, "PE")])
            self._set(Flag.ELF_IN_PRIVATE, [*self._in_private(headers, Flag.ELF_IN_PRIVATE, "ELF")])
        self._look_at_mappings(executable)
        self._look_at_threads()
        self._look_at_programs(others)

    @property
    def notes(self) -> list[str]:
        """The findings that may lie outside all segments, in words; and what was too much to be looked at."""
        notes = self.limits
        for flag in (Flag.ENTRY_UNMAPPED, Flag.THREAD_IN_PRIVATE, Flag.HOLLOWED):
            found = [row for row in self.findings if row.flag == flag and self._may_be_outside(row)]
            notes += [f"{flag}: 0x{row.address:x}: {row.why}" for row in found[:_SHOWN]]
            notes += [f"{flag}: {len(found) - _SHOWN} more"] if len(found) > _SHOWN else []
        return notes

    @property
    def limits(self) -> list[str]:
        """What was too much to be looked at, in words."""
        compared = 0 if self._others is None else self._others.uncompared
        notes = [f"{Flag.TEXT_DIFFERS}: {compared} pages of code were too many to be compared"] if compared else []
        return [*notes, *self._beyond]

    def _may_be_outside(self, finding: Finding) -> bool:
        return finding.flag == Flag.ENTRY_UNMAPPED or self.known.region_at(finding.address) is None

    def _look_at_mappings(self, executable: Intervals | None) -> None:
        """Look for stacks that run, and for what files say of Linux mappings."""
        known = self.known
        if known.has_kinds and (known.has_protections or executable is not None):
            stacks = self._regions(lambda place: known.kinds[place] == Kind.STACK)
            by_page = None if executable is None else executable.intersect(stacks)[0]
            places = [place for place, row in enumerate(known.regions) if "x" in (row.collapsed or "")]
            running = {place for place in places if known.kinds[place] == Kind.STACK}
            self._set(Flag.EXECUTABLE_STACK, [self._regions(running.__contains__), by_page])
        if not known.is_unix:
            return
        if known.has_files and known.has_protections:
            for flag, rows in (
                (Flag.MEMFD_EXECUTABLE, linux_flags.memory_run(known.regions)),
                (Flag.DELETED_EXECUTABLE, linux_flags.deleted_run(known.regions)),
            ):
                self._set(flag, [*self._mappings_of(flag, dict(rows))])
        environments = [each.environment for each in known.metadata.parameters if each.environment is not None]
        if known.has_files and environments:
            found = linux_flags.preloaded(known.regions, itertools.chain(*environments))
            self._set(Flag.PRELOADED_LIBRARY, [*self._mappings_of(Flag.PRELOADED_LIBRARY, dict(found))])

    def _mappings_of(self, flag: str, rows: Mapping[int, str]) -> Iterator[Intervals]:
        """Yield regions by their places, with the reason in words, which is found once for each file."""
        said = set()
        for place in sorted(rows):
            row = self.known.regions[place]
            if row.file not in said:
                said.add(row.file)
                self.findings.append(Finding(flag, row.start, rows[place]))
        yield self._regions(rows.__contains__)

    def _look_at_programs(self, others: Compared | None) -> None:
        """Look for modules and programs that are not what loader, kernel and other processes say."""
        if any(listed.module.missing is not None for listed in self.known.modules):
            self._set(Flag.MODULE_UNLINKED, [*self._unlinked()])
        if self._has_bytes and hollowing.can_be_told(self.known):
            self._set(Flag.HOLLOWED, [*self._hollowed(others)])
        if others is not None and others.differences is not None:
            self._set(Flag.TEXT_DIFFERS, [*self._differing(others.differences)])

    def _look_at_threads(self) -> None:
        """Look for threads that begin in memory that no file backs, or are to return there."""
        known = self.known
        if not (known.metadata.threads and known.regions and known.has_kinds):
            return
        from memcarve.labels import thread_flags

        self._set(Flag.THREAD_IN_PRIVATE, [*self._places(Flag.THREAD_IN_PRIVATE, thread_flags.in_private(known))])
        code = self.where.get(Flag.PRIVATE_EXECUTABLE)
        if code is not None and self._has_bytes and thread_flags.have_stacks(known):
            beyond: list[str] = []
            found = thread_flags.returning(self.space, known, code, beyond)
            self._set(Flag.STACK_IN_PRIVATE, [*self._places(Flag.STACK_IN_PRIVATE, found)])
            self._beyond += [f"{Flag.STACK_IN_PRIVATE}: {words}" for words in beyond]

    def _places(self, flag: str, places: Iterable[Place]) -> Iterator[Intervals]:
        """Yield the pages of places that threads lead to."""
        found = [*places]
        self.findings += [Finding(flag, row.address, row.why, None, row.exception) for row in found]
        yield Intervals.of((row.address - row.address % PAGE, PAGE) for row in found)

    def _hollowed(self, others: Compared | None) -> Iterator[Intervals]:
        same_files = None if others is None else others.same_files
        for address, why, exception in hollowing.wrong_with_program(self.space, self.known, self._bases, same_files):
            self.findings.append(Finding(Flag.HOLLOWED, address, why, None, exception))
            yield Intervals.of([(address - address % PAGE, PAGE)])

    def _unlinked(self) -> Iterator[Intervals]:
        """Yield the modules that some of the loader's lists hold and others do not."""
        for listed in self.known.modules:
            module, missing = listed.module, listed.module.missing
            if missing:
                size = self.known.module_end(module) - module.start
                usual = NOT_INITIALISED if missing == (INITIALIZATION_ORDER,) else None
                why = f"{listed.source} lists {module.name or 'a module'}, but not in {' or '.join(missing)}"
                self.findings.append(Finding(Flag.MODULE_UNLINKED, module.start, why, size, usual))
                yield Intervals.of([(module.start, size)])

    def _differing(self, differences: Sequence[Difference]) -> Iterator[Intervals]:
        for each in differences:
            how = f" (compared {each.rebased})" if each.rebased else ""
            why = (
                f"code of {each.file} (offset 0x{each.place:x}) is not what {each.others} other processes have there; "
                f"{each.own} have these bytes, this one counted{how}"
            )
            if each.changed:
                bytes_differ = "1 byte differs" if each.changed == 1 else f"{each.changed} bytes differ"
                why = (
                    f"code of {each.file} (offset 0x{each.place:x}) is not the page that all share who map it: "
                    f"{bytes_differ}, the first at 0x{each.first:x}{how}"
                )
            exception = AS_MANY if each.own == each.others else None
            self.findings.append(Finding(Flag.TEXT_DIFFERS, each.address, why, PAGE, exception))
        yield Intervals.of((each.address, PAGE) for each in differences)

    def _set(self, flag: str, parts: list[Intervals | None]) -> None:
        self.where[flag] = union(*(part for part in parts if part is not None))

    def _regions(self, wanted: Callable[[int], bool]) -> Intervals:
        keep = np.array([wanted(place) for place in range(len(self.known.regions))], np.bool_)
        found = self.known.region_pieces
        return found.where(keep[found.owner]) if len(keep) else found

    def _pages(self, wanted: int) -> Intervals | None:
        """Return the extents with the `wanted` permissions for programs; None if no page tables tell of them.

        They do not tell what may be executed if that is everything, also a stack that should not: an x86 without NX, or
        Linux from 5.19 on on 32 bits with PAE, which loses the bit (``vm_get_page_prot`` of arch/x86/mm/pgprot.c keeps
        32 bits of an entry). Then the regions' protection is what is known.
        """
        space = self.space
        if space.flags is None:
            return None
        programs = space.flags & np.uint8(USER | NOT_PRESENT) == np.uint8(USER)
        if wanted & EXECUTE and (space.flags[programs] & np.uint8(EXECUTE)).all():
            present = Intervals(space.start[programs], space.size[programs])
            if len(present.intersect(self._regions(self._is_stack_of_data))[0]):
                return None
        keep = programs & (space.flags & np.uint8(wanted) == np.uint8(wanted))
        return Intervals(space.start[keep], space.size[keep])

    def _is_stack_of_data(self, place: int) -> bool:
        """Return True if a region is a stack, and its protection does not let it run."""
        said = self.known.regions[place].collapsed
        return self.known.kinds[place] == Kind.STACK and said is not None and "x" not in said

    # images and modules

    @property
    def _has_all_lists(self) -> bool:
        """Whether all lists of modules are known that an image should have: a 32-bit program's loader has its own."""
        entry = self.known.entry
        narrow = entry is not None and entry.wow64 is True and entry.image_base is not None
        return len(self.known.metadata.modules) > 1 or not narrow

    def _look_at_bases(self) -> dict[int, Header | None] | None:
        """Return the headers at the starts of images and listed modules, as far as those pages are there.

        Return None if there are no bytes to look at.
        """
        known = self.known
        images = [known.allocation(place).start for place, kind in enumerate(known.kinds) if kind == Kind.IMAGE]
        bases = dict.fromkeys([*images, *(listed.module.start for listed in known.modules)])
        if not bases:
            return {}
        from memcarve.labels.base_headers import headers_at  # of most dumps alone nothing tells where programs lie

        return headers_at(self.space, [*bases][:_MOST_BASES])

    def _beyond_sections(self) -> Iterator[Intervals]:
        """Yield pages of images that are writable or executable, although the header says otherwise."""
        known = self.known
        for flag, letter, words in ((WRITE, "w", "writable"), (EXECUTE, "x", "executable")):
            pages = self._pages(flag)
            if pages is None:
                continue
            images = self._regions(lambda place: known.kinds[place] == Kind.IMAGE and self._has_sections(place))
            beyond = images.intersect(pages)[0].subtract(self._sections(letter))
            yield beyond
            self._say_of_images(beyond, words)

    def _say_of_images(self, beyond: Intervals, words: str) -> None:
        """Add a finding for each image with pages beyond its sections; the owners are regions, in order."""
        if not len(beyond):
            return
        first = np.flatnonzero(np.append([True], beyond.owner[1:] != beyond.owner[:-1]))
        sizes = np.add.reduceat(beyond.size, first)
        for at, size in zip(first.tolist(), sizes.tolist(), strict=True):
            name = self.known.regions[int(beyond.owner[at])].file or "an image"
            why = f"{size} bytes of {name} are {words}, not by its section"
            self.findings.append(Finding(Flag.BEYOND_SECTION, int(beyond.start[at]), why))

    def _has_sections(self, place: int) -> bool:
        header = self._bases.get(self.known.allocation(place).start)
        return header is not None and bool(header.sections)

    def _sections(self, letter: str) -> Intervals:
        """Return the addresses at which images' own sections have a permission, given by its letter."""
        rows = []
        for place, region in enumerate(self.known.regions):
            base = self.known.allocation(place).start
            header = self._bases.get(base) if self.known.kinds[place] == Kind.IMAGE else None
            for address, size, permissions in header.sections if header is not None else ():
                # a section takes whole pages
                last = min((address + size - 1) | (PAGE - 1), region.end - 1)
                first = max(address, region.start)
                if letter in permissions and size and address >= base and first <= last:
                    rows.append((first, last + 1 - first))
        return union(Intervals.of(rows))

    def _unlisted(self) -> Iterator[Intervals]:
        """Yield the images that are not listed; an allocation is one image, however many regions it has."""
        known = self.known
        starts = [listed.module.start for listed in known.modules]
        held = {known.region_at(start) for start in starts} - {None}
        named = {*starts, *(known.allocation(place).start for place in held if place is not None)}
        found = self._regions(
            lambda place: known.kinds[place] == Kind.IMAGE and known.allocation(place).start not in named
        )
        images = {known.allocated(place): known.regions[place] for place in reversed(found.owner.tolist())}
        for row in sorted(images.values(), key=lambda row: row.start):
            why = f"an image is mapped ({row.file or 'no name'}) that no list names"
            self.findings.append(Finding(Flag.MODULE_UNLISTED, row.start, why))
        yield found

    def _unmapped(self) -> Iterator[Intervals]:
        known = self.known
        begins = {known.allocation(place).start for place in range(len(known.regions))}
        for listed in known.modules:
            module = listed.module
            held = known.region_at(module.start)
            # the first region of an allocation need not be listed
            if module.start in begins if held is None else known.kinds[held] not in OWN:
                continue
            what = "nothing is mapped there" if held is None else f"{known.kinds[held]} memory lies there"
            self.findings.append(
                Finding(
                    Flag.ENTRY_UNMAPPED, module.start, f"{listed.source} lists {module.name or 'a module'}, but {what}"
                )
            )
            yield Intervals.of([(module.start, known.module_end(module) - module.start)])

    def _wiped(self, headers: Sequence[Header]) -> Iterator[Intervals]:
        wiped = [(header.address, f"a header without its {header.wiped}") for header in headers if header.wiped]
        wiped += [
            (base, "an image's first page holds no header" if header is None else f"no {header.wiped}")
            for base, header in self._bases.items()
            if (header.wiped if header is not None else self._is_image(base))
        ]
        yield from self._pages_of(Flag.WIPED_HEADER, wiped)

    def _is_image(self, base: int) -> bool:
        held = self.known.region_at(base)
        return held is not None and self.known.kinds[held] == Kind.IMAGE

    def _in_private(self, headers: Sequence[Header], flag: str, kind: str) -> Iterator[Intervals]:
        """Yield the pages with headers of a kind in memory that no file backs; a core is no program."""
        known = self.known
        found = [header for header in headers if header.format == kind and header.kind != "core"]
        places = [(header, known.region_at(header.address)) for header in found]
        own = [
            (header.address, f"{_ARTICLES[kind]} header in {known.kinds[place]} memory that no file backs")
            for header, place in places
            if place is not None and self.known.is_unbacked(place)
        ]
        yield from self._pages_of(flag, own)

    def _pages_of(self, flag: str, found: list[tuple[int, str]]) -> Iterator[Intervals]:
        """Yield the pages at these addresses."""
        rows = dict(reversed(found))
        self.findings += [Finding(flag, address, rows[address]) for address in sorted(rows)]
        yield Intervals.of((address, PAGE - address % PAGE) for address in rows)
