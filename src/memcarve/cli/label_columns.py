"""Labels as columns of a table, and what of long names a table for people shows."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from memcarve.formats.tables.table_cells import Column
from memcarve.paths import base_name
from memcarve.vocabulary import Content, Flag

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from memcarve.labels.segment_labels import SegmentLabels

_LONGEST_NAME, _LONGEST_PATH = 48, 60  # characters that a table for people shows
_SHOWN = 3  # different labels of one segment that a table for people shows


class LabelColumn(NamedTuple):
    """A column of a table: its name, its kind (as of a Column), and what gives a segment's cell."""

    name: str
    kind: str
    cell: Callable[[int], str | int | float | list[str] | None]


def label_columns(labels: SegmentLabels, *, short: bool) -> list[LabelColumn]:
    """Return the columns for what is known at all; `short`, for people, shows names without paths, and few of many."""
    most = _SHOWN if short else 1 << 30
    known = labels.known
    found = []
    if known.regions:
        found += [LabelColumn("protection", "words", lambda index: _words(labels.protections(index), most) or None)]
    if labels.space.flags is not None:
        found += [LabelColumn("permissions", "words", lambda index: _words(labels.permissions(index), most) or None)]
    if known.regions or known.areas:
        found += [LabelColumn("kind", "words", lambda index: _words(labels.kinds(index), most) or None)]
    if known.regions or known.modules:
        if short:
            found += [LabelColumn("file", "text", lambda index: _file(labels, index))]
            if len(known.conflicts):
                found += [LabelColumn("conflicts", "number", lambda index: len(labels.conflicts(index)))]
        else:
            found += [LabelColumn("file", "text", lambda index: next((name for name, _ in labels.file(index)), None))]
            found += [
                LabelColumn("file_offset", "number", lambda index: next((at for _, at in labels.file(index)), None))
            ]
            found += [LabelColumn("regions", "number", lambda index: len(labels.regions(index)))]
            found += [LabelColumn("conflicts", "number", lambda index: len(labels.conflicts(index)))]
    if labels.contents is not None:
        found += _content_columns(labels)
    if labels.flagged.where:
        found += [LabelColumn("flags", "words", lambda index: _words([*labels.flags(index)], len(Flag)))]
    return found


def possible_columns(*, image: bool, content: str, short: bool) -> list[Column]:
    """Return the columns for all that may be known of some of several processes, the same whichever these are.

    `image`: they are an image's. `content` is how closely bytes are looked at (a vocabulary.Content). A table for
    people goes without the number of conflicts.
    """
    allowed = [Column("permissions", "words", 14)] if image else []
    numbers = [Column("file_offset", "number"), Column("regions", "number"), Column("conflicts", "number")]
    found = [Column("protection", "words", 11), *allowed, Column("kind", "words", 11)]
    found += [Column("file", "text", 24), *([] if short else numbers)]
    if content != Content.NONE:
        found.append(Column("zero_pages", "number", 10))
        found += [Column("entropy", "real", 7), Column("text", "real", 4)] if content == Content.FULL else []
        found.append(Column("headers", "words", 18))
    return [*found, Column("flags", "words", 5)]


def _content_columns(labels: SegmentLabels) -> list[LabelColumn]:
    contents = labels.contents
    if contents is None:
        return []

    def number(column: np.ndarray[tuple[int], np.dtype[np.float32]]) -> Callable[[int], float | None]:
        return lambda index: None if np.isnan(column[index]) else round(float(column[index]), 3)

    def headers(index: int) -> list[str]:
        rows = contents.headers_of.get(index, ())
        words = [f"{'wiped ' if row.wiped else ''}{row.format}@0x{row.address:x}" for row in rows]
        return _words(words, _SHOWN, contents.more_of.get(index, 0))

    found = [LabelColumn("zero_pages", "number", lambda index: int(contents.zero_pages[index]))]
    if contents.level == "full":
        found += [LabelColumn("entropy", "real", number(contents.entropy))]
        found += [LabelColumn("text", "real", number(contents.share_of_text))]
    return [*found, LabelColumn("headers", "words", headers)]


def _file(labels: SegmentLabels, index: int) -> str | None:
    """Return the name of the first file in a segment, where in it that begins, and how many more there are."""
    files = labels.file(index)
    if not files:
        return None
    name, offset = files[0]
    more = f",+{len(files) - 1}" if len(files) > 1 else ""
    return _shortened(base_name(name)) + ("" if offset is None else f"+0x{offset:x}") + more


def _shortened(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 3]}..."


def shortened_path(path: str | None) -> str | None:
    """Return the end of a long path, where the name is."""
    return path if path is None or len(path) <= _LONGEST_PATH else f"...{path[3 - _LONGEST_PATH :]}"


def _words(words: Sequence[str], most: int, further: int = 0) -> list[str]:
    """Return words, no more than `most` of them, and how many more there are."""
    further += max(len(words) - most, 0)
    return [*words[:most], *([f"+{further}"] if further else [])]
