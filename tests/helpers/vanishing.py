"""What lies in a folder that a running program changes: what it renames or removes meanwhile is not there."""

from __future__ import annotations

import glob
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def present(folder: Path, pattern: str) -> list[Path]:
    """Return what matches a pattern, hidden or not, below a folder; Path.glob raises if one in between vanishes."""
    return [folder / name for name in glob.glob(pattern, root_dir=folder, recursive=True, include_hidden=True)]


def text_of(path: Path) -> str:
    """Return what a file holds, as text; "" if it is not there, or a program that has ended."""
    try:
        return path.read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""
