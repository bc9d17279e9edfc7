"""Opening an input by one source alone, not by the first that recognises it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from memcarve.sources import open_by
from memcarve.sources.opening import OpenOptions

if TYPE_CHECKING:
    from pathlib import Path

    from memcarve.sources.opening import Source


def opened_as(source: Source, path: str | Path, options: OpenOptions = OpenOptions()) -> Any:  # noqa: B008 - a tuple
    """Open an input by one source alone; return its container."""
    return open_by([source], path, options)
