"""Segments drawn in a terminal's width, with colour if it is one that wants any."""

from __future__ import annotations

import os
import shutil
import sys
from typing import TYPE_CHECKING, Any

from memcarve.cli.wording import at_terminal
from memcarve.errors import printable
from memcarve.labels.severities import RATINGS
from memcarve.report.picture.memory_line import Drawn, severities
from memcarve.report.picture.terminal_picture import terminal_picture

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memcarve.formats.tables.table_cells import Cell
    from memcarve.process import ProcessEntry
    from memcarve.segments import Segments

_WIDTH, _WIDEST = 80, 200


def draw(segments: Segments, labels: Any, entry: ProcessEntry | None) -> Iterator[list[Cell]]:  # noqa: ANN401 - theirs
    """Print the picture of a process's segments, below its name if `entry` is given; there are no rows."""
    words = labels.columns()
    drawn = Drawn(segments, words, severities(words["flags"], RATINGS), labels.known.region_pieces)
    if entry is not None:
        sys.stdout.write(f"{printable(str(entry))}:\n")
    width = min(shutil.get_terminal_size((_WIDTH, 0)).columns, _WIDEST)
    # https://no-color.org: set and not empty
    colour = at_terminal() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    sys.stdout.writelines(f"{line}\n" for line in terminal_picture(drawn, width, colour=colour))
    yield from ()
