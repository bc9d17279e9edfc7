"""Every source passes the same tests."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest

import memcarve
from contracts import MAKERS, SourceContract
from files import ROOT
from memcarve import sources
from opening import opened_as

if TYPE_CHECKING:
    from pathlib import Path


class TestDump(SourceContract):
    """A dump and its map."""

    kind = "dump"
    opens = sources.MEMMAP
    foreign = ()  # with --dtb it is taken for an image


class TestImage(SourceContract):
    """The image of a machine as it lies in memory."""

    kind = "image"
    opens = sources.RAW
    foreign = ()  # with --map it is taken for a dump


class TestLime(SourceContract):
    """The image of a machine in a format of its own."""

    kind = "LiME image"
    opens = sources.MACHINE
    foreign = ()


class TestCarvedFolder(SourceContract):
    """A carved folder."""

    kind = "carved folder"
    opens = sources.CARVED


class TestNamedFolder(SourceContract):
    """A bare folder of files named by addresses."""

    kind = "named folder"
    opens = sources.NAMED


class TestCore(SourceContract):
    """An ELF core of a process."""

    kind = "core"
    opens = sources.CORE


class TestMinidump(SourceContract):
    """A Windows minidump."""

    kind = "minidump"
    opens = sources.MINIDUMP


class TestLive(SourceContract):
    """A running Linux process."""

    kind = "live"
    opens = sources.LIVE


def test_the_example_of_the_documentation(tmp_path: Path) -> None:
    """The source that docs/extending.md shows recognises its files, and opens them."""
    text = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
    names: dict[str, Any] = {}
    exec(re.findall(r"```python\n(.*?)```", text.partition("## A source\n")[2], re.DOTALL)[0], names)  # noqa: S102
    (tmp_path / "0x400000.raw").write_bytes(b"there")
    with opened_as(names["FLAT"], tmp_path / "0x400000.raw") as container:
        assert container.process().read(0x400000, 5) == b"there"
        assert str(container) == str(tmp_path / "0x400000.raw")
    with pytest.raises(memcarve.NotRecognisedError, match="is not a flat file"):
        opened_as(names["FLAT"], tmp_path / "other.raw")


def test_every_source_has_its_tests() -> None:
    """There is a class of tests for every source, and for every kind of input."""
    classes = SourceContract.__subclasses__()
    assert {each.kind for each in classes} == MAKERS.keys()
    assert {each.opens for each in classes} == {*sources.SOURCES} - {sources.FOREIGN}  # which opens nothing
