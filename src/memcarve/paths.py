"""Paths as evidence has them: of any system, on any system."""

from __future__ import annotations

import ntpath


def base_name(path: str) -> str:
    """Return the last part of a path of any system: what is behind its last slash of either kind."""
    return ntpath.basename(path)
