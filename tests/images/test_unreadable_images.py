"""Images with blocks that cannot be read: what is mapped in them is missing, page tables there are lost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

import containers
import memcarve
import walker
import winimage
from carved import binaries, manifest, model, named
from cli import invoke
from memory import PAGE
from planned import tables_below
from unreadable_files import ranges_of, unreadable

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from winimage import Truth

    Capture = pytest.CaptureFixture[bytes]

PID = 1624
MIB = 1 << 20


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> Truth:
    """Return a small machine, as it was planned."""
    return winimage.build(tmp_path_factory.mktemp("machine") / "mem.raw", stub=True)


def rest(truth: Truth, bad: Sequence[tuple[int, int]]) -> dict[int, bytes]:
    """Return the segments of the user half that are left, by walking the tables slowly over what can be read."""
    image = Path(truth.path).read_bytes()

    def read(physical: int, size: int) -> bytes | None:
        there = physical + size <= len(image)
        return image[physical : physical + size] if there and not touched(bad, physical, size) else None

    rows = []
    for address, size, physical, *_ in walker.walk(read, truth.process(PID).root, "x86-64", "windows", top=truth.size):
        for at in range(0, size, PAGE):
            page = read(physical + at, PAGE)
            if page is not None and address < 1 << 47:
                rows.append((address + at, page))
    return model(rows)


def touched(bad: Iterable[tuple[int, int]], place: int, size: int) -> bool:
    """Return whether a range shares a byte with what is bad."""
    return any(begin < place + size and place < end for begin, end in bad)


def frames(truth: Truth) -> tuple[list[int], list[int]]:
    """Return the frames of a process's own tables below its root, and those of its pages that no other has."""
    words = np.memmap(truth.path, np.uint64, "r").reshape(-1, 512)
    others = set().union(*(tables_below(words, truth.process(pid).root) for pid in (4, 2036)))
    own = sorted(tables_below(words, truth.process(PID).root) - others - {truth.process(PID).root >> 12})
    shared = {int(physical) >> 12 for physical in truth.process(2036).pages("user").physical.tolist()}
    content = [int(physical) >> 12 for physical in truth.process(PID).pages("user").physical.tolist()]
    return own, [frame for frame in content if frame << 12 < truth.size and frame not in shared]


CASES = ("content", "a table", "a directory", "block 0", "hundreds")


def chosen(truth: Truth, case: str) -> list[int]:
    """Return the blocks that are bad in a case."""
    words = np.memmap(truth.path, np.uint64, "r").reshape(-1, 512)
    own, content = frames(truth)
    lowest = [
        frame for frame in own if set(words[frame].tolist() and (words[frame] >> 12 & 0xFFFFF).tolist()) & {*content}
    ]
    upper = [frame for frame in own if frame not in lowest]
    return {
        "content": [content[3], content[4], content[-1]],
        "a table": [lowest[len(lowest) // 2]],
        "a directory": [upper[-1]],
        "block 0": [0],
        "hundreds": [0, *content[::3], *lowest[::4]],
    }[case]


@pytest.mark.parametrize("case", CASES)
def test_a_process_of_an_image_gives_the_rest(truth: Truth, tmp_path: Path, capfdbinary: Capture, case: str) -> None:
    """What can be read of a process is carved whole, through the page tables that can be read."""
    bad = ranges_of(chosen(truth, case))
    expected = rest(truth, bad)
    with unreadable(linked(truth, tmp_path), {"mem.raw": bad}) as folder:
        ran = invoke(capfdbinary, "carve", folder / "mem.raw", "--pid", PID, "-o", tmp_path / "out")
        assert ran.code == (0 if case == "block 0" else 3), ran.err
        assert binaries(tmp_path / "out") == named(expected)
        told = manifest(tmp_path / "out")
        assert told["complete"] is (case == "block 0")
        if case in ("content", "hundreds"):
            assert {row["reason"] for row in told["missing"]} >= {"unreadable"}
        if "table" in case or "directory" in case:
            assert told["pages"]["lost_tables"] == 1
        checked = invoke(capfdbinary, "verify", tmp_path / "out", "--source", folder / "mem.raw")
        assert checked.code == 0, checked.err


def linked(truth: Truth, tmp_path: Path) -> Path:
    """Return a folder that holds the image."""
    folder = tmp_path / "good"
    folder.mkdir()
    (folder / "mem.raw").hardlink_to(truth.path)
    return folder


def test_the_list_of_processes_past_bad_blocks(truth: Truth, tmp_path: Path, capfdbinary: Capture) -> None:
    """A search of an image with bad blocks passes over them page by page, says so, and exits 3."""
    _, content = frames(truth)
    with unreadable(linked(truth, tmp_path), {"mem.raw": ranges_of([0, *content[::5]])}) as folder:
        ran = invoke(capfdbinary, "processes", folder / "mem.raw", "--format", "json")
    assert ran.code == 3, ran.err
    assert {row["pid"] for row in json.loads(ran.out)["processes"]} == {each.pid for each in truth.processes}
    assert "part of the image cannot be read" in ran.err


def test_all_processes_past_bad_blocks(truth: Truth, tmp_path: Path, capfdbinary: Capture) -> None:
    """Of all processes each is carved as far as it can be read."""
    bad = ranges_of(chosen(truth, "hundreds"))
    with unreadable(linked(truth, tmp_path), {"mem.raw": bad}) as folder:
        ran = invoke(capfdbinary, "carve", folder / "mem.raw", "--all", "-o", tmp_path / "out")
    assert ran.code == 3, ran.err
    rows = json.loads((tmp_path / "out" / "processes.json").read_text())["processes"]
    (row,) = (row for row in rows if row["pid"] == PID)
    assert binaries(tmp_path / "out" / row["files"][0]) == named(rest(truth, bad))
    assert [row["error"] for row in rows] == [None] * len(rows)


def test_roots_past_bad_blocks(truth: Truth, tmp_path: Path, capfdbinary: Capture) -> None:
    """`processes --scan` finds the roots that can be read."""
    own, content = frames(truth)
    with unreadable(linked(truth, tmp_path), {"mem.raw": ranges_of([0, *content[::3], *own[::2]])}) as folder:
        ran = invoke(capfdbinary, "processes", folder / "mem.raw", "--scan", "--format", "json")
    assert ran.code == 3, ran.err
    roots = {int(row["root"], 16) for row in json.loads(ran.out)["roots"]}
    assert truth.process(2036).root in roots


def test_a_container_with_bad_blocks_within_pages(truth: Truth, tmp_path: Path) -> None:
    """In a LiME file, whose header moves all pages by 32 bytes, a bad block takes parts of two pages."""
    (tmp_path / "good").mkdir()
    containers.write_lime(tmp_path / "good" / "mem.lime", [(0, containers.Slice(truth.path, 0, truth.size))])
    _, content = frames(truth)
    blocks = [frame for frame in content[10:200:40] if frame]
    bad = ranges_of(blocks)
    with (
        unreadable(tmp_path / "good", {"mem.lime": bad}) as folder,
        memcarve.open(folder / "mem.lime") as container,
    ):
        process = container.process(PID, half="user").readable()
        image = Path(truth.path).read_bytes()
        shifted = [(begin - 32, end - 32) for begin, end in bad]
        rows = []
        pages = truth.process(PID).pages("user")
        for address, size, physical in zip(
            pages.address.tolist(), pages.size.tolist(), pages.physical.tolist(), strict=True
        ):
            at = physical
            for begin, end in [*sorted(shifted), (physical + size,) * 2]:
                if at < begin and physical < begin:
                    until = min(begin, physical + size)
                    if at < until <= len(image):
                        rows.append((address + at - physical, image[at:until]))
                at = max(at, min(end, physical + size))
        segments = process.segments()
        assert {each.start: process.read(each.start, each.size) for each in segments} == model(rows)
        assert process.incomplete
