"""The process that is looked at: its entry, its family, and what is known of its memory, each found when asked for."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from memcarve.labels.flags import Flagged
from memcarve.labels.header_scan import headers_in
from memcarve.labels.metadata_index import Known
from memcarve.labels.same_files import compared
from memcarve.vocabulary import Half, System

if TYPE_CHECKING:
    from memcarve.hunting.findings.family import Family
    from memcarve.hunting.findings.frames_seen import FramesSeen
    from memcarve.labels.headers import Header
    from memcarve.process import ProcessEntry, ProcessMemory
    from memcarve.segments import Segments
    from memcarve.space import AddressSpace


class Subject:
    """A process; `memory` is None if it has none of its own.

    `frames` remember what of an image was read for other processes. `compare`: flags compare it with these.
    """

    def __init__(
        self,
        entry: ProcessEntry,
        family: Family,
        memory: ProcessMemory | None,
        frames: FramesSeen | None = None,
        *,
        compare: bool = True,
    ) -> None:
        self._frames = frames
        #: what was too much to be looked at, in words
        self.limits: list[str] = []
        self.entry = entry
        self.family = family
        self.memory = memory
        self._compare = compare

    @property
    def system(self) -> str | None:
        """The vocabulary.System that it ran on, by the list of processes, or else by its own memory's source."""
        if self.family.system is not None or self.memory is None:
            return self.family.system
        return self.memory.platform.system

    @functools.cached_property
    def known(self) -> Known | None:
        """What is known of the memory, by address."""
        return None if self.memory is None else Known(self.memory.metadata, self.memory)

    @functools.cached_property
    def headers(self) -> list[Header]:
        """The PE and ELF headers in the memory, at most as many as `headers_in` keeps. Raises SourceReadError."""
        if self.memory is None:
            return []
        space, chosen = self.memory.space, self._looked_at(self.memory.space)
        frames = self._frames if self.memory.is_image else None
        if frames is not None:
            space = frames.unseen(space, chosen)
            chosen = self._looked_at(space)
        found, more = headers_in(space, chosen)
        if more:
            self.limits.append(f"about {more} pages with headers of programs more than are looked at")
        elif frames is not None:
            frames.mark(space, chosen, found)
        return found

    def _looked_at(self, space: AddressSpace) -> Segments:
        segments, memory = space.segments(), self.memory
        if memory is None or memory.default_half == Half.ALL:
            return segments
        return segments.where(segments.in_half(memory.default_half, memory.kernel_half))

    @functools.cached_property
    def flagged(self) -> Flagged | None:
        """The flags of the memory. Raises SourceReadError."""
        if self.memory is None or self.known is None:
            return None
        others = compared(self.memory, code=True) if self._compare else None
        return Flagged(self.memory.space, self.known, self.headers, others)

    @functools.cached_property
    def program(self) -> str | None:
        """The path of the program by the system's own word, which the process cannot write; None if it is not known.

        On Windows it is the file that is mapped at the image base, on Linux what /proc/PID/exe shows.
        """
        if self.memory is None or self.known is None:
            return None
        if self.system == System.LINUX:
            return next((each.image_path for each in self.memory.metadata.parameters if each.image_path), None)
        base = self.entry.image_base
        held = None if base is None else self.known.region_at(base)
        return None if held is None else self.known.regions[held].file

    @functools.cached_property
    def command_line(self) -> str | None:
        """What the process says it was started with; None if that is not known."""
        memory = self.memory
        parameters = () if memory is None else memory.metadata.parameters
        return next((each.command_line for each in parameters if each.command_line is not None), None)
