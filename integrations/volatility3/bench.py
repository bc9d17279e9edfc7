# This file is Copyright 2026 the memcarve authors and licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""Measure windows.segments against windows.memmap, on one process of many scattered pages.

    python bench.py [PAGES [ROUNDS]]

Run it with the interpreter of an environment that has volatility3, memcarve and this package. The image is generated in
a temporary folder (about 1.3 GB for 250,000 pages, in /dev/shm where there is one). The whole command counts: start of
``vol``, finding the kernel, and all. Runs take turns, and ratios are taken within a round.
"""

from __future__ import annotations

import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE / "tests"), str(HERE.parents[1] / "tests" / "helpers")]

import winimage  # noqa: E402

import symbols  # noqa: E402
from conftest import Vol  # noqa: E402

PID = "800"  # the process of many pages
GOALS = {(): 20.0, ("--dump",): 8.0}


def seconds(vol: Vol, plugin: str, options: tuple[str, ...], out: Path) -> float:
    """Return how long a run takes, from start to end; what it wrote is removed afterwards."""
    out.mkdir()
    begun = time.perf_counter()
    vol.run(plugin, "--pid", PID, *options, given=("-q", "-o", str(out)))
    took = time.perf_counter() - begun
    shutil.rmtree(out)
    return took


def main(pages: int = 250_000, rounds: int = 3) -> None:
    """Print a line for each way to run the two."""
    where = "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108 - a folder of its own is made there
    with tempfile.TemporaryDirectory(dir=where) as made:
        folder = Path(made)
        truth = winimage.big(folder / "mem.raw", pages)
        vol = Vol(folder / "mem.raw", symbols.install(truth, folder / "symbols"), folder / "home")
        vol.run("windows.info", check=False)  # what both look up once is in the cache
        for options, goal in GOALS.items():
            found = []
            for _ in range(rounds):
                theirs = seconds(vol, "windows.memmap", options, folder / "out")
                ours = seconds(vol, "windows.segments", options, folder / "out")
                found.append((theirs / ours, ours, theirs))
            ratio, ours, theirs = (statistics.median(column) for column in zip(*found, strict=True))
            spread = f"{min(found)[0]:.1f}..{max(found)[0]:.1f}"
            words = " ".join(["windows.segments", *options])
            print(f"{words}: {ours:.2f} s, windows.memmap {theirs:.2f} s: {ratio:.1f}x ({spread}), goal {goal:g}x")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
