"""What is fetched is kept from one run to the next: found again, within a bound, never believed if it is damaged."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import os
import random
from typing import TYPE_CHECKING

import pytest

from memcarve.errors import OutputError
from memcarve.remote import Keeping, open_file
from memcarve.remote.block_store import GRANULE, BlockStore
from ranged_server import serving

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ranged_server import RangedServer

pytestmark = pytest.mark.skipif(not hasattr(os, "geteuid"), reason="a cache is kept on Unix alone")

DATA = random.Random(5).randbytes(5_000_001)  # noqa: S311 - the same each time


@pytest.fixture
def server() -> Iterator[RangedServer]:
    """Serve two files."""
    with serving({"x": DATA, "y": DATA[::-1]}) as found:
        yield found


def read(url: str, cache: Path, bound: int = 1 << 30) -> bytes:
    """Return all of a file, read through the cache."""
    with open_file(url, Keeping(cache=str(cache), bound=bound)) as file:
        return b"".join(file.read_at(place, 1 << 17) for place in range(0, file.size, 1 << 17))


def test_kept(server: RangedServer, tmp_path: Path) -> None:
    """A second run fetches nothing but the beginning, by which it knows the object; files are for their owner alone."""
    assert read(server.url("x"), tmp_path / "c") == DATA
    before = server.sent()
    assert read(server.url("x"), tmp_path / "c") == DATA
    assert server.sent() - before <= 65536
    files = [*(tmp_path / "c" / "memcarve-blocks").iterdir()]
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}
    assert (tmp_path / "c" / "memcarve-blocks").stat().st_mode & 0o777 == 0o700


def test_another_version(server: RangedServer, tmp_path: Path) -> None:
    """A version of another tag is another object, of which nothing is kept."""
    read(server.url("x"), tmp_path)
    server.files["x"], server.etags["x"] = DATA[::-1], '"second"'
    assert read(server.url("x"), tmp_path) == DATA[::-1]


@pytest.mark.parametrize("damage", ["a bit", "cut off", "zeros", "table"])
def test_damage(damage: str, server: RangedServer, tmp_path: Path) -> None:
    """A block that is not what was kept is fetched again."""
    read(server.url("x"), tmp_path)
    blocks = next((tmp_path / "memcarve-blocks").glob("*.blocks"))
    if damage == "a bit":
        with blocks.open("r+b") as file:
            file.seek(3_000_000)
            file.write(bytes([DATA[3_000_000] ^ 4]))
    elif damage == "cut off":
        os.truncate(blocks, 2_000_000)
    elif damage == "zeros":
        blocks.write_bytes(bytes(len(DATA)))
    else:
        table = blocks.with_suffix(".table")
        table.write_bytes(random.Random(1).randbytes(table.stat().st_size))  # noqa: S311
    before = server.sent()
    assert read(server.url("x"), tmp_path) == DATA
    assert server.sent() - before > 65536


def test_bound(server: RangedServer, tmp_path: Path) -> None:
    """The folder keeps to its bound: what was opened longest ago goes, and then what was read longest ago."""
    bound = len(DATA) * 3 // 2
    read(server.url("x"), tmp_path, bound)
    read(server.url("y"), tmp_path, bound)
    folder = tmp_path / "memcarve-blocks"
    assert len([*folder.glob("*.blocks")]) == 1
    assert read(server.url("y"), tmp_path, 4 << 20) == DATA[::-1]
    assert sum(path.stat().st_blocks * 512 for path in folder.glob("*.blocks")) <= 5 << 20


def test_a_smaller_bound(server: RangedServer, tmp_path: Path) -> None:
    """What a run before was allowed to keep beyond this run's bound goes at once, though nothing new is fetched."""
    read(server.url("y"), tmp_path)
    with open_file(server.url("y"), Keeping(cache=str(tmp_path), bound=1)):
        kept = sum(path.stat().st_blocks * 512 for path in tmp_path.glob("*/*.blocks"))
        assert kept <= (4 << 20) + GRANULE
    assert read(server.url("y"), tmp_path) == DATA[::-1]


@pytest.mark.parametrize("what", ["a link", "open to others", "a file"])
def test_hostile_folders(what: str, server: RangedServer, tmp_path: Path) -> None:
    """A folder that somebody else put there, or may write to, is refused, and links in it are not followed."""
    folder, elsewhere = tmp_path / "memcarve-blocks", tmp_path / "elsewhere"
    elsewhere.mkdir()
    if what == "a link":
        folder.symlink_to(elsewhere)
    elif what == "open to others":
        folder.mkdir()
        folder.chmod(0o777)
    else:
        folder.write_bytes(b"")
    with pytest.raises(OutputError, match="not a folder that belongs to this user alone"):
        read(server.url("x"), tmp_path)
    assert not [*elsewhere.iterdir()]


def test_hostile_links(server: RangedServer, tmp_path: Path) -> None:
    """A link in the place of a file of the cache is refused; what it leads to stays as it is."""
    read(server.url("x"), tmp_path)
    blocks = next((tmp_path / "memcarve-blocks").glob("*.blocks"))
    target = tmp_path / "target"
    target.write_bytes(b"mine")
    blocks.unlink()
    blocks.symlink_to(target)
    with pytest.raises(OutputError, match=r"cannot be kept|not a file of the cache"):
        read(server.url("x"), tmp_path)
    assert target.read_bytes() == b"mine"


def _reads(url: str, cache: str, seed: int) -> bool:
    chosen = random.Random(seed)  # noqa: S311
    with open_file(url, Keeping(cache=cache, bound=2 << 20)) as file:
        places = [chosen.randrange(len(DATA) - 9000) for _ in range(60)]
        return all(file.read_at(place, 9000) == DATA[place : place + 9000] for place in places)


def test_several_programs(server: RangedServer, tmp_path: Path) -> None:
    """Several programs that share a cache smaller than what they read get the right bytes, all of them."""
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(3, context) as pool:
        found = [pool.submit(_reads, server.url("x"), str(tmp_path), seed) for seed in range(6)]
        assert all(each.result() for each in found)


def test_a_store_keeps_to_its_bound(tmp_path: Path) -> None:
    """Of more than may be kept, what was put or read last stays, and takes no more room than that."""
    count = 4096
    store = BlockStore.temporary(count * GRANULE, str(tmp_path), 1024 * GRANULE)
    try:
        for number in range(count):
            store.put(number * GRANULE, bytes([number % 251 + 1]) * GRANULE)
            if number > 10:
                store.used(3, 4)  # it is read all the time
        kept = [number for number in range(count) if store.has(number, number + 1)]
        assert 512 <= len(kept) <= 1024
        assert {3, count - 1} <= {*kept}
        assert os.fstat(store.fd).st_blocks * 512 <= 1100 * GRANULE
        for number in kept:
            assert os.pread(store.fd, GRANULE, number * GRANULE) == bytes([number % 251 + 1]) * GRANULE
        assert sum(end - first for first, end in store.missing(0, count)) == count - len(kept)
    finally:
        os.close(store.fd)


def test_a_file_as_the_cache(server: RangedServer, tmp_path: Path) -> None:
    """A file in the place of the cache's folder is told as such, and stays."""
    (tmp_path / "notes").write_text("mine")
    with pytest.raises(OutputError, match=r"notes: is a file, and what is fetched is kept in a folder"):
        read(server.url("x"), tmp_path / "notes")
    assert (tmp_path / "notes").read_text() == "mine"
