"""What a mounted input shows is what would be written, whatever source it comes from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import memcarve
import sinking
from contracts import MAKERS
from mounted import files_in, tree_of

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("kind", sorted(MAKERS))
def test_files_are_those_that_are_written(kind: str, tmp_path: Path) -> None:
    """Each file has the bytes that carving writes under its name."""
    with MAKERS[kind](tmp_path) as given, memcarve.open(given.path) as container:
        index = container.choose([] if given.pid is None else [given.pid])[0]
        tree = tree_of(container)
        name = next(name for name, place in tree.indexes.items() if place == index)
        found = files_in(tree.find(f"/processes/{name}/segments"))
        sinking.carve(container.process(index=index, half=container.default_half), tmp_path / "out", hashes=())
        written = {path.name: path.read_bytes() for path in (tmp_path / "out").glob("*.bin")}
    assert found == written
