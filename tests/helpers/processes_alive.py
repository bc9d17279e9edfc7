"""Whether a process runs: one that has ended and that nobody has asked for yet does not."""

from __future__ import annotations

import os
from pathlib import Path


def is_alive(number: int) -> bool:
    """Return True if a process runs."""
    try:
        os.kill(number, 0)
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False
