"""A first answer at once: the processes of the kernel's list without a search of all memory."""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING, Any

import pytest

import memcarve
import winimage
from cli import invoke
from memcarve.images.windows import kernel
from memcarve.images.windows.processes import Windows
from planned import found, in_order, planned

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from cli import Ran
    from winimage import Truth

    Capture = pytest.CaptureFixture[bytes]
    Invoke = Callable[..., Ran]

UNSOUGHT = "unlisted processes were not looked for"


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> Truth:
    """Return an image with listed, hidden and ended processes and the block with which processors start."""
    return winimage.build(tmp_path_factory.mktemp("usual") / "mem.raw", stub=True)


@pytest.fixture
def go(capfdbinary: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Invoke:
    """Return what runs the command line in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return lambda *words: invoke(capfdbinary, *map(str, words))


@pytest.fixture
def unsearched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a search of memory for processes or page tables fail the test."""

    def searched(*_: object, **__: object) -> Any:
        pytest.fail("memory was searched")

    monkeypatch.setattr(Windows, "_search", searched)
    monkeypatch.setattr(kernel, "_with_itself", searched)


def rows(ran: Ran) -> list[dict[str, Any]]:
    """Return the processes that were printed as JSON."""
    assert ran.code == 0, ran.err
    listed: list[dict[str, Any]] = json.loads(ran.out)["processes"]
    return listed


@pytest.mark.usefixtures("unsearched")
def test_listed_without_a_search(truth: Truth, go: Invoke) -> None:
    """`--listed` gives what the list holds, in its order, and says that others were not looked for."""
    ran = go("processes", truth.path, "--listed", "--format", "json")
    assert [row["pid"] for row in rows(ran)] == [process.pid for process in truth.processes if process.listed]
    assert UNSOUGHT in ran.err


def test_hidden_ones_are_behind_the_listed(truth: Truth, go: Invoke) -> None:
    """Without `--listed` the same processes come first, in the same words; behind them those that a search finds."""
    some = rows(go("processes", truth.path, "--listed", "--format", "json"))
    ran = go("processes", truth.path, "--format", "json")
    everything = rows(ran)
    assert everything[: len(some)] == some
    assert {row["pid"] for row in everything[len(some) :]} == {each.pid for each in truth.processes if not each.listed}
    assert UNSOUGHT not in ran.err


@pytest.mark.usefixtures("unsearched")
@pytest.mark.parametrize(
    "words",
    [
        ("carve", "--pid", 1624),
        ("carve", "--pid", 1624, "--pid", 388),
        ("regions", "--pid", 1624),
        ("segments", "--pid", 1624),
        ("export", "--pid", 1624, "--to", "elfcore"),
        ("extract", "--pid", 1624),
        ("find", "MZ", "--pid", 1624),
    ],
    ids=lambda words: " ".join(map(str, words)),
)
def test_commands_do_not_wait_for_the_search(truth: Truth, go: Invoke, words: tuple[object, ...]) -> None:
    """A listed process is taken by its pid without a search; a note says that another with this pid may exist."""
    command, *rest = words
    ran = go(command, truth.path, *rest)
    assert ran.code in (0, 3), ran.err
    assert f"{UNSOUGHT}: another with this pid may exist" in ran.err


def test_a_damaged_list_is_told(tmp_path: Path, go: Invoke) -> None:
    """If the list is damaged, `--listed` and a process taken by its pid say so; a whole list has no such note."""
    truth = winimage.build(tmp_path / "mem.raw", damage="both")
    assert truth.cut_off
    for words in (
        ("processes", truth.path, "--listed"),
        ("segments", truth.path, "--pid", 4),
        ("processes", truth.path),
    ):
        ran = go(*words)
        assert ran.code == 0
        assert ran.err.count("the list of processes is damaged (forward, 0x") == 1, words
    whole = winimage.build(tmp_path / "whole.raw")
    assert "damaged" not in go("processes", whole.path, "--listed").err


def test_what_the_list_lacks_is_searched_for(truth: Truth, go: Invoke) -> None:
    """A hidden process is found by its pid, and by its name, without the note."""
    hidden = next(process for process in truth.processes if not process.listed and process.exit == 0)
    for chosen in (("--pid", hidden.pid), ("--name", hidden.name.decode("ascii"))):
        ran = go("segments", truth.path, *chosen)
        assert ran.code == 0, ran.err
        assert UNSOUGHT not in ran.err


def test_an_ended_process_of_the_list_does_not_hide_a_running_one(tmp_path: Path) -> None:
    """If the list's only process of a pid has ended, others of that pid are looked for."""
    plans = [*winimage.USERLAND, winimage.Plan(2860, b"again.exe", 1624, listed=False)]
    truth = winimage.build(tmp_path / "mem.raw", processes=plans)
    with memcarve.open(truth.path) as container:
        assert container.process(2860).name == "again.exe"


def test_library(truth: Truth) -> None:
    """`listed` is the beginning of `processes`, before and after the search."""
    with memcarve.open(truth.path) as container:
        listed = container.listed()
        assert container.warnings == [UNSOUGHT]
        assert container.processes()[: len(listed)] == listed
        assert container.warnings == []
        assert container.listed() == listed
        assert sorted(found(container)) == sorted(map(planned, truth.processes))
        assert found(container)[: len(listed)] == in_order(truth)[: len(listed)]


@pytest.mark.parametrize("options", [{"kpti": True}, {"layout": 0}, {"layout": 3, "exports": "none"}], ids=str)
def test_start_block(tmp_path: Path, options: dict[str, Any]) -> None:
    """The block with which processors start names the root and an address in the kernel, as planned."""
    truth = winimage.build(tmp_path / "mem.raw", stub=True, **options)
    with memcarve.open(truth.path) as container:
        block = kernel.start_block(container.memory)  # type: ignore[attr-defined]
        assert block is not None
        assert block.root == truth.kernel_root
        assert truth.kernel_base < block.entry < truth.kernel_base + truth.kernel_size
        assert sorted(found(container)) == sorted(map(planned, truth.processes))


@pytest.mark.parametrize(
    ("at", "value"),
    [(0xA0, 0x5000), (0xA0, 0x7FFFFFF000), (0x70, 0xFFFFF80000000000), (0x70, 0xFFFFFFFFFFFFFFFC), (0x00, 0)],
)
def test_a_start_block_that_lies(tmp_path: Path, at: int, value: int) -> None:
    """What the block says is a hint: if it is wrong, everything is found without it."""
    truth = winimage.build(tmp_path / "mem.raw", stub=True)
    assert truth.stub is not None
    with open(truth.path, "r+b") as file:
        file.seek(truth.stub + at)
        file.write(struct.pack("<Q", value))
    with memcarve.open(truth.path) as container:
        assert sorted(found(container)) == sorted(map(planned, truth.processes))


def test_no_start_block(tmp_path: Path) -> None:
    """An image without the block has none; nor has one whose first MiB is not there."""
    truth = winimage.build(tmp_path / "mem.raw")
    with memcarve.open(truth.path) as container:
        memory = container.memory  # type: ignore[attr-defined]
        assert kernel.start_block(memory) is None
        memory.start = memory.start + (1 << 20)
        assert kernel.start_block(memory) is None


def test_entries_are_the_same(truth: Truth) -> None:
    """`entry` is what `processes` has at that place, searched or not."""
    with memcarve.open(truth.path) as container:
        first = container.listed()[1]
        assert container.entry(1) == first == container.processes()[1]
        last = len(container.processes()) - 1
        assert container.entry(last) == container.processes()[last]
