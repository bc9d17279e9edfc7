"""Processes that cannot be opened."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from memcarve.errors import ProcessError
from memcarve.sources.image import ImageContainer

if TYPE_CHECKING:
    import pytest

    from memcarve.process import ProcessMemory


def fail_to_open(monkeypatch: pytest.MonkeyPatch, pid: int) -> None:
    """Have a process of any image fail with "maps too much" when it is opened."""
    true = ImageContainer.process

    def process(self: ImageContainer, *given: Any, **how: Any) -> ProcessMemory:
        if self.entry(how["index"]).pid == pid:
            raise ProcessError("maps too much")
        return true(self, *given, **how)

    monkeypatch.setattr(ImageContainer, "process", process)
