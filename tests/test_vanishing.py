"""What the tests see of a folder while a program changes it."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING, Any

from vanishing import present, text_of

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_a_folder_vanishes_between(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two folders one is removed after it was seen and before it is listed: what is in the other is found."""
    for name in (".kept", ".gone"):
        (tmp_path / name).mkdir()
        (tmp_path / name / ".unit").touch()
    true = os.scandir

    def scandir(path: Any) -> Any:
        if ".gone" in str(path):
            shutil.rmtree(tmp_path / ".gone", ignore_errors=True)
        return true(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert present(tmp_path, ".*/.*nit") == [tmp_path / ".kept" / ".unit"]
    assert not (tmp_path / ".gone").exists()
    assert present(tmp_path / ".gone", "*") == []
    assert text_of(tmp_path / ".gone" / ".unit") == ""
