"""The page of a report: how long it takes until it can be used, and to draw it again."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

from measure import Contender, UnavailableError, in_turn
from places import HERE, place
from table import Goal, Row

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks import Settings

_USUAL = 50_000


def report(settings: Settings) -> Iterator[Row]:
    """Open reports of many segments in Chromium, from disk, and zoom in them."""
    if shutil.which("chromium") is None or importlib.util.find_spec("playwright") is None:
        raise UnavailableError("Chromium and playwright")
    child = [sys.executable, str(HERE / "children.py")]
    with place(settings.fast, settings.place(settings.fast)) as here:
        for count in sorted({min(_USUAL, settings.many), settings.many}):
            path = here.folder / f"{count}.html"
            subprocess.run([*child, "write_report_page", str(path), str(count)], check=True)
            contenders = {
                what: Contender([*child, "open_report_page", str(path), what], reports=True)
                for what in ("open", "zoom")
            }
            found = in_turn(contenders, settings.runs, settings.warm_up)
            goals = [Goal("seconds", 2.0)] if count <= _USUAL else []
            yield Row(f"report of {count} segments: until it can be used", here.name, found["open"], goals=goals)
            yield Row(f"report of {count} segments: drawn again", here.name, found["zoom"])
            here.clear(path)
