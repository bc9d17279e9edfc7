"""Maps as they are written, against another writer that goes row by row."""

from __future__ import annotations

import random

import numpy as np
import pytest

import maps
from maps import FAILED, Row
from memcarve.formats.memmap import map_writing
from memcarve.formats.memmap.map_writing import RENDERERS, MapRows

#: a name may hold what means something to printf, to JSON, to CSV
FILE = 'pid.%d 100%% {"\\}.dmp'


@pytest.mark.parametrize("written", [0, 1, 63, 64, 65, 200, 203])
@pytest.mark.parametrize("renderer", RENDERERS)
def test_many_rows(monkeypatch: pytest.MonkeyPatch, renderer: str, written: int) -> None:
    """Numbers of every length are written as they are, in many blocks, before and after what is not in the dump."""
    monkeypatch.setattr(map_writing, "_ROWS", 64)
    chance = random.Random(written)  # noqa: S311 - test data
    numbers = [[chance.getrandbits(chance.randrange(65)) for _ in range(4)] for _ in range(201)]
    numbers += [[0] * 4, [(1 << 64) - 1] * 4]
    rows = [
        Row(virtual, size, offset, FILE if index < written else FAILED, physical)
        for index, (virtual, physical, size, offset) in enumerate(numbers)
    ]
    columns = np.array(numbers, np.uint64).T
    write = RENDERERS[renderer][0]
    text = "".join(write(MapRows(*columns, FILE, written, complete=True), "the tests"))
    if renderer == "quick":
        banner = f"Volatility 3 Framework {map_writing.RELEASE} (its layout, written by the tests)"
        assert text.encode() == maps.quick(rows, banner=banner)
    else:
        assert text.encode() == maps.RENDERERS[renderer](rows)
