"""How little of an image is read: bytes that a reader of whole blocks fetches, counted and not timed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

from linux import usual_machines
from measure import UnavailableError
from places import HERE, make_image, place
from table import MIB, Goal, Row

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from benchmarks import Settings

BLOCKS = (64 << 10, 256 << 10)
_SHARE = Goal("ratio", 0.03)


def frugal(settings: Settings, command: Callable[..., list[str]]) -> Iterator[Row]:
    """List the processes of large images that come over a network, and carve one: what is fetched for that."""
    del command
    size = settings.gigabytes << 30
    with place(settings.fast, settings.place(settings.fast)) as here:
        path = make_image(here.folder / "mem.raw", "settled", settings.processes)
        yield from _rows(path, 404, f"Windows, {settings.processes} processes", here.name)
    try:
        machines = usual_machines()
    except UnavailableError:
        return
    with place(settings.fast, settings.place(settings.fast)) as here:
        for machine in machines:
            path = here.folder / "large.raw"
            subprocess.run(["cp", "--sparse=always", machine.image(here), path], check=True)
            path.chmod(0o600)
            os.truncate(path, max(size, machine.memory))
            yield from _rows(path, machine.largest, machine.folder.name, here.name)


def _rows(path: Path, pid: int, label: str, where: str) -> Iterator[Row]:
    for block in BLOCKS:
        child = [sys.executable, str(HERE / "children.py"), "fetched", str(path), str(pid), str(block)]
        done = subprocess.run(child, capture_output=True, text=True, check=False)
        if done.returncode:
            raise UnavailableError(f"what is read of {path.name} cannot be counted: {done.stderr.splitlines()[-1:]}")
        found = json.loads(done.stdout.splitlines()[-1])
        size = os.path.getsize(path)
        share = max(found["processes"] + found["carve"] - found["own"], 0) / size
        note = (
            f"{share:.2%}: processes {found['processes'] / MIB:.0f} MiB in {found['waits'][0]} waits, "
            f"carve {found['carve'] / MIB:.0f} MiB in {found['waits'][1]}; "
            f"{found['own'] / MIB:.0f} MiB are the process's own"
        )
        row = Row(f"bytes read of {size / (1 << 30):.3g} GiB, {label}, blocks of {block >> 10} KiB", where, note=note)
        row.baseline, row.goals = "the image", [_SHARE]
        row.ratios = [share]
        yield row
