"""Labels: what metadata and content say about segments."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from memcarve.labels.content import Contents, observe
from memcarve.labels.flags import BY_CONTENT
from memcarve.labels.metadata_index import Known
from memcarve.labels.segment_labels import SegmentLabels
from memcarve.labels.text_pages import can_be_compared, differing
from memcarve.vocabulary import Content, Flag

if TYPE_CHECKING:
    from collections.abc import Callable

    from memcarve.labels.text_pages import Difference
    from memcarve.process import ProcessMemory, Selection
    from memcarve.segments import Segments

__all__ = ["Known", "Labelling", "SegmentLabels"]


@dataclass(frozen=True)
class Labelling:
    """Labels segments: `process.segments(labeller=Labelling())`.

    `content` is a vocabulary.Content: ``"none"`` does not look at bytes; ``"headers"`` counts zero pages and looks for
    PE and ELF headers at the start of every page; ``"full"`` also measures entropy and the share of text. Sinks show
    the labels the bytes that they copy; with `read` they are read at once. Raises UsageError if `content` is another
    word.
    """

    content: str = "none"
    read: bool = False
    progress: Callable[[int, int], object] | None = None

    def __post_init__(self) -> None:
        Content.check(self.content)

    def level(self, wanted: Selection) -> str:
        """Return how closely bytes are looked at: a flag that is wanted may need it."""
        needed = bool(BY_CONTENT & set(wanted.flag))
        return "headers" if self.content == "none" and needed else self.content

    def __call__(self, process: ProcessMemory, segments: Segments, wanted: Selection) -> SegmentLabels:
        """Return the labels of segments; all bytes are read if a wanted flag depends on them.

        If code that differs from other processes' is wanted, these are looked at, each once for the whole container.
        Raises SourceReadError.
        """
        needed = bool(BY_CONTENT & set(wanted.flag))
        level = self.level(wanted)
        contents = None if level == "none" else Contents(len(segments), level)
        if contents is not None and (needed or self.read):
            done, total = 0, segments.total
            for index, segment in enumerate(segments):
                contents.keep(index, observe(process.space, segment, level))
                done += segment.size
                if self.progress is not None:
                    self.progress(done, total)
        known = Known(process.metadata, str(process.entry))
        differences = _differences(process) if Flag.TEXT_DIFFERS in wanted.flag else None
        return SegmentLabels(process.space, known, segments, contents, differences)


def _differences(process: ProcessMemory) -> list[Difference] | None:
    """Return what of the process's code differs from other processes'; None if there is nothing to compare."""
    regions = process.metadata.regions[0].rows if process.metadata.regions else ()
    if process.others is None or not len(process.others) or not can_be_compared(regions):
        return None
    return differing(process, process.others)
