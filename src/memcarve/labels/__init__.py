"""Labels: what metadata and content say about segments."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from memcarve.labels.flags import BY_COMPARISON, BY_CONTENT
from memcarve.labels.metadata_index import Known
from memcarve.labels.segment_labels import SegmentLabels
from memcarve.vocabulary import Content, Flag

if TYPE_CHECKING:
    from collections.abc import Callable

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

        If a wanted flag depends on other processes, these are looked at, each once for the whole container.
        Raises SourceReadError.
        """
        needed = bool(BY_CONTENT & set(wanted.flag))
        level = self.level(wanted)
        contents = others = None
        if level != "none":
            from memcarve.labels.looked_at import contents_of

            progress = self.progress or (lambda _done, _total: None)
            contents = contents_of(process.space, segments, level, progress if needed or self.read else None)
        if BY_COMPARISON & set(wanted.flag):
            from memcarve.labels.looked_at import compared

            others = compared(process, code=Flag.TEXT_DIFFERS in wanted.flag)
        return SegmentLabels(process.space, Known(process.metadata, process), segments, contents, others)
