"""An object that lies elsewhere, as a file: the right bytes or an error, whatever the server does."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from memcarve.backing import check_unchanged, fetch_ahead
from memcarve.errors import InputError
from memcarve.remote import open_file
from ranged_server import serving

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ranged_server import RangedServer

DATA = random.Random(17).randbytes(9_000_001)  # noqa: S311 - the same each time


@pytest.fixture
def server() -> Iterator[RangedServer]:
    """Serve one file, ``x``."""
    with serving({"x": DATA}) as found:
        yield found


def test_bytes(server: RangedServer) -> None:
    """What is read here and there, and in order, is what the server has, and nothing is fetched twice."""
    with open_file(server.url("x")) as file:
        assert file.size == len(DATA)
        for place in (0, 5, 4095, 5_000_000, len(DATA) - 3):
            assert file.read_at(place, 4099) == DATA[place : place + 4099]
        assert b"".join(file.read_at(place, 1 << 18) for place in range(0, len(DATA), 1 << 18)) == DATA
        assert server.sent() < len(DATA) + 3 * 65536
        assert len(server.asked) < 40


def test_ahead(server: RangedServer) -> None:
    """What is said to be read soon is fetched at once, neighbours in one request, and little else."""
    with open_file(server.url("x")) as file:
        before = len(server.asked), server.sent()
        offsets = [1_000_000 + 500_000 * number for number in range(12)]
        fetch_ahead(file, [*offsets, 1_008_192], 4096)
        assert len(server.asked) - before[0] == 12
        assert server.sent() - before[1] <= 12 * 8192 + 16384
        asked = len(server.asked)
        assert all(file.read_at(place, 4096) == DATA[place : place + 4096] for place in [*offsets, 1_008_192])
        assert len(server.asked) == asked


def test_changed(server: RangedServer) -> None:
    """An object that is another one meanwhile is an error, when it is read and in the end."""
    with open_file(server.url("x")) as file:
        file.read_at(3_000_000, 10)
        server.etags["x"] = '"another"'
        with pytest.raises(InputError, match="was changed while it was read"):
            file.read_at(7_000_000, 10)
        with pytest.raises(InputError, match="was changed while it was read"):
            check_unchanged([file])
