"""What tests of several sources run with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from memcarve.sources.opening import OpenOptions
from memcarve.sources.recognised import MINIDUMP

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from memcarve.process import ProcessMemory
    from memcarve.sources.minidump import MinidumpContainer
    from minidumps import Dump
from opening import opened_as


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Any]:
    """Return what opens a minidump made by hand, or its bytes, and gives its one process."""
    containers: list[MinidumpContainer] = []

    def run(dump: Dump | bytes, **options: Any) -> ProcessMemory:
        path = tmp_path / "some.mdmp"
        path.write_bytes(dump if isinstance(dump, bytes) else dump.build())
        containers.append(opened_as(MINIDUMP, path, OpenOptions(**options)))
        return containers[-1].process()

    yield run
    for container in containers:
        container.close()
