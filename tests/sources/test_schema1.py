"""What memcarve wrote before its provenance had schema 2 is read, verified and replaced as ever."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

import memcarve
from files import ROOT
from memcarve.sinks.ownership import foreign
from memcarve.sinks.several import carved_folders

if TYPE_CHECKING:
    from pathlib import Path

DATA = ROOT / "tests" / "data" / "schema1"
FIRST, SECOND = 0x7FFE0000, 0x17F0001D000


def bytes_at(address: int) -> bytes:
    """Return a page of the example that all was made of."""
    offset = {FIRST: 0, SECOND: 106496}[address]
    with (ROOT / "examples" / "pid.1624.dmp").open("rb") as dump:
        dump.seek(offset)
        return dump.read(4096)


@pytest.mark.parametrize("name", ["minidump", "elfcore", "segments"])
def test_read(name: str) -> None:
    """A minidump, a core and a folder hold the memory, the process and its regions as they did."""
    with memcarve.open(DATA / name) as container:
        process = container.process()
        assert process.read(FIRST, 4096) == bytes_at(FIRST)
        assert (process.pid, process.kernel_half, process.address_bits) == (1624, 1 << 63, 48)
        region = next(row for row in process.regions if row.start == FIRST)
        assert region.protection == "PAGE_READONLY"
        assert any("pid.1624." in note for note in process.notes)


def test_segments_are_verified() -> None:
    """A carved folder, and each of several, is verified against its hashes."""
    assert memcarve.verify(DATA / "segments").count == 2
    assert [memcarve.verify(folder).count for folder in carved_folders(DATA / "several")] == [1, 1]
    with memcarve.open(DATA / "several") as container:
        assert sorted(entry.pid or 0 for entry in container.processes()) == [4, 1624]


@pytest.mark.parametrize("name", ["minidump", "elfcore", "segments", "several", "modules", "extracted", "scripts"])
def test_it_is_memcarves(name: str, tmp_path: Path) -> None:
    """What is memcarve's own is told to be, and what has something else in it is not."""
    assert foreign(str(DATA / name)) is None
    if (DATA / name).is_dir():
        shutil.copytree(DATA / name, tmp_path / name)
        (tmp_path / name / "notes").write_text("mine")
        assert foreign(str(tmp_path / name)) == "holds notes, which memcarve did not write"


def test_flat_is_memcarves() -> None:
    """A flat file is memcarve's by the document beside it, which is about no other file."""
    assert foreign(str(DATA / "flat"), str(DATA / "flat.json")) is None
    assert foreign(str(DATA / "flat.json")) is None
    assert foreign(str(DATA / "README.md"), str(DATA / "flat.json")) is not None
