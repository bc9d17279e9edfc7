"""Where the tests' files are, and how they are written and listed."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "pid.1624.dmp"
SAMPLES = str(ROOT / "tests" / "data" / "samples")


def sample(name: str) -> bytes:
    """Return the bytes of a sample."""
    with open(os.path.join(SAMPLES, name), "rb") as file:
        return file.read()


def put(path: Path, data: bytes) -> str:
    """Write a file; return its path."""
    path.write_bytes(data)
    return str(path)


def listing(folder: Path) -> list[str]:
    """Return the names in a folder, hidden ones too, in order."""
    return sorted(os.listdir(folder))
