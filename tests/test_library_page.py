"""The tutorial of the library: its examples run as they are written, and print what their comments say."""

from __future__ import annotations

import contextlib
import io
import re
from typing import TYPE_CHECKING, Any

from files import ROOT

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "library.md").read_text(encoding="utf-8"), re.DOTALL)
_SAID = re.compile(r"(?m)^(?:# |.*print\(.*\)  # )(.*)$")


def test_examples_print_what_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each example runs after the ones before it, and prints what its comments say; one needs an image."""
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    needing_an_image = 0
    for block in BLOCKS:
        program = compile(block, "library.md", "exec")
        if "mem.raw" in block:
            needing_an_image += 1
            continue
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(program, names)  # noqa: S102 - the project's own page
        assert printed.getvalue().splitlines() == _SAID.findall(block), block
    assert needing_an_image == 1 < len(BLOCKS)
