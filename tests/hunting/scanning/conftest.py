"""What tests of scanning share."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def _collected() -> Iterator[None]:
    """Collect what a test left, as errors with their frames: scanners of YARA-X must end where they began."""
    yield
    gc.collect()
