"""Page files compared with what is in memory as well: of the moment of the image, of another one, or not known."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np
import pytest

import memcarve
import winimage
from cli import invoke
from memcarve.errors import InputError, UnreadableError
from memcarve.images.physical import PhysicalMemory
from memory import PAGE
from sweeps import some
from winimage import Plan, left_ram, userland

if TYPE_CHECKING:
    from pathlib import Path

    from memcarve.dtypes import U64
    from winimage import Truth

    Capture = pytest.CaptureFixture[bytes]

PID = 5000
#: pages that are the same in memory and in the page file, and those that need not be
SAME, OTHER = ("clean", "standby"), ("dirty", "modified", "reserved")


def built(place: Path, layout: int, pfn: str = "right", same: tuple[str, ...] = SAME) -> Truth:
    """Write an image of a process with pages that are in memory and in its page file."""
    old = winimage.layout_of(layout).version < (10, 0)
    kinds = (*same, *(OTHER[:2] if old else OTHER))
    words = ("pagefile 0", *(f"both 0 {kind}" for kind in kinds)) * 20
    left = left_ram.LeftRam(
        (), (left_ram.MOVED, left_ram.Private(0x30100000000, words)), not old, 0 if old else 1 << 45
    )
    processes = [Plan(388, b"smss.exe"), Plan(PID, b"left.exe", 388, userland=userland.plain(PID), left=left)]
    return winimage.build(place / "mem.raw", layout=layout, megabytes=24, processes=processes, pfn=pfn)


def changed(truth: Truth, every: int) -> None:
    """Change each `every`-th page of the page file's content: it is of another moment."""
    words = np.memmap(truth.page_files[0], np.uint64, "r+").reshape(-1, PAGE // 8)
    rows = np.flatnonzero(words.any(axis=1))[::every]
    words[rows] ^= np.uint64(1)
    words.flush()


@pytest.fixture(scope="module")
def wrong(tmp_path_factory: pytest.TempPathFactory) -> Truth:
    """Return an image with a page file of another moment."""
    truth = built(tmp_path_factory.mktemp("wrong"), 8)
    changed(truth, 1)
    return truth


@pytest.mark.parametrize(
    ("layout", "same"),
    [(0, SAME), (1, SAME), (8, SAME), (8, ("bare",)), *[(n, SAME) for n in some([14, 5, 20, 23], 3)]],
)
def test_a_file_of_the_moment(tmp_path: Path, layout: int, same: tuple[str, ...]) -> None:
    """Pages that were not written since they were read from the file are the same in both; others do not count."""
    truth = built(tmp_path, layout, same=same)
    with memcarve.open(truth.path, page_files=[truth.page_files[0]]) as container:
        memory = container.process(PID)
        (note,) = [note for note in memory.notes if "that should be the same in memory" in note]
        compared, alike = (int(word) for word in re.findall(r"of (\d+) pages of it .* memory, (\d+) are", note)[0])
        # pages of zeros would be the same in any file
        assert 15 * len(same) < compared == alike <= 20 * len(same)
        for page, one in truth.left[PID].found.items():
            assert memory.read(page, PAGE) == one.data


@pytest.mark.parametrize("every", [1, 3])
def test_a_file_of_another_moment(tmp_path: Path, capfdbinary: Capture, every: int) -> None:
    """If most of these pages differ, the file is refused; if some do, as of a machine that ran, it is said how many."""
    truth = built(tmp_path, 8)
    changed(truth, every)
    given = [truth.path, "--pid", str(PID), "--pagefile", f"0={truth.page_files[0]}"]
    ran = invoke(capfdbinary, "segments", *given)
    if every == 1:
        assert ran.code == 1
        assert re.search(
            r"of 3\d pages that should be the same in memory, only 0 are: it is of another moment, or another "
            "machine's, or page file of another number",
            ran.err,
        )
        with (
            memcarve.open(truth.path, page_files=[truth.page_files[0]]) as container,
            pytest.raises(InputError, match="another machine's"),
        ):
            container.process(PID)
        # whoever knows better has a way, and is told what speaks against it
        ran = invoke(
            capfdbinary,
            "segments",
            truth.path,
            "--pid",
            str(PID),
            "--pagefile",
            truth.page_files[0],
            "--trust",
            "pagefile",
        )
        assert ran.code == 3
        assert "because it is trusted, but of 3" in ran.err
        ran = invoke(capfdbinary, "carve", *given, "--trust", "pagefile", "-o", tmp_path / "out")
        assert ran.code == 3
        ran = invoke(capfdbinary, "verify", tmp_path / "out", "--source", truth.path)
        assert ran.code == 0, ran.err
    else:
        assert ran.code == 0
        assert re.search(r"of 3\d pages of it that should be the same in memory, 2\d are", ran.err)


@pytest.mark.parametrize("words", [("carve", "--all", "-o", "out"), ("processes",), ("hunt",)])
def test_a_wrong_file_is_refused_once(
    wrong: Truth, tmp_path: Path, capfdbinary: Capture, words: tuple[str, ...]
) -> None:
    """It is an error of the whole input, not of each process: one line, and nothing is read."""
    command, *options = words
    options = [str(tmp_path / word) if word == "out" else word for word in options]
    ran = invoke(capfdbinary, command, wrong.path, *options, "--pagefile", wrong.page_files[0])
    assert ran.code == 1
    assert ran.err.count("it is of another moment") == 1
    assert not ran.out
    assert not (tmp_path / "out").exists()


def test_an_offset_that_nothing_lies_at(tmp_path: Path, capfdbinary: Capture) -> None:
    """Offsets count on behind the image, so no file's length is told: it would be none that there is."""
    truth = built(tmp_path, 8)
    size = tmp_path.joinpath("mem.raw").stat().st_size
    words = "locate", truth.path, f"+{size}", "--pid", str(PID)
    ran = invoke(capfdbinary, *words, "--pagefile", truth.page_files[0])
    assert ran.code == 1
    assert "no address is known for the file's byte at this offset" in ran.err
    assert "bytes long" not in ran.err
    ran = invoke(capfdbinary, *words, "--pages-from", "ram")
    assert f"the file is 0x{size:x} bytes long" in ran.err


def test_a_database_that_does_not_prove_itself(tmp_path: Path) -> None:
    """If records have other entries' addresses, nothing is compared, and it is said."""
    truth = built(tmp_path, 8, "wrong")
    changed(truth, 1)
    with memcarve.open(truth.path, page_files=[truth.page_files[0]]) as container:
        notes = container.process(PID).notes
    why = "nothing in it tells whether it is of the image's moment, nor does memory: the PFN database is not known"
    assert any(why in note for note in notes)


def test_an_encrypted_file(tmp_path: Path) -> None:
    """Few pages that differ are enough to tell that all of them are noise."""
    truth = built(tmp_path, 8)
    words = np.memmap(truth.page_files[0], np.uint8, "r+")
    words[:] = np.random.default_rng(1).integers(0, 256, len(words), np.uint8)
    words.flush()
    with (
        memcarve.open(truth.path, page_files=[truth.page_files[0]]) as container,
        pytest.raises(InputError, match="it is encrypted"),
    ):
        container.processes()


def test_a_part_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A part of the image that cannot be read is gone on without, as elsewhere."""
    truth = built(tmp_path, 8)
    with memcarve.open(truth.path, page_files=[truth.page_files[0]]) as container:
        container.processes()
        true, failed = PhysicalMemory.pages, list[int]()

        def pages(memory: PhysicalMemory, physical: U64) -> U64:
            if len(failed) < 2:
                failed.append(1)
                raise UnreadableError("cannot be read", 0)
            return true(memory, physical)

        monkeypatch.setattr(PhysicalMemory, "pages", pages)
        notes = container.process(PID).notes
    assert len(failed) == 2
    assert any("that should be the same in memory" in note for note in notes)
