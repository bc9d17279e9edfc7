"""Paths as the evidence has them: of any system, on any system."""

from __future__ import annotations

import ntpath


def base_name(path: str) -> str:
    """Return the last part of a path of any system: what follows its last slash or backslash."""
    return ntpath.basename(path)
