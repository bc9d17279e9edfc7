# This file is Copyright 2026 the memcarve authors and licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""Measure memcarve against linux.pslist and linux.proc.Maps, on a real Linux machine's memory.

    python bench_linux.py IMAGE SYMBOLS [ROUNDS]

Run it with the interpreter of an environment that has volatility3 and memcarve. IMAGE is raw; SYMBOLS is a folder of
ready-made symbols of that kernel, with a folder ``linux`` in it. memcarve needs none. The whole command counts, from
start to end; Volatility's cache is warm. Runs take turns, and ratios are taken within a round.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE / "tests"), str(HERE.parents[1] / "tests" / "helpers")]

from conftest import Vol  # noqa: E402

#: what Volatility is asked for, and what of memcarve says as much
_LISTED = """
import sys, memcarve
with memcarve.open(sys.argv[1]) as container:
    for entry in container.listed():
        print(entry.pid, entry.parent, entry.name, entry.unix.uid, entry.unix.gid, entry.created)
"""
_MAPS = """
import sys, memcarve
from memcarve.linux_mappings import line
with memcarve.open(sys.argv[1]) as container:
    for index in [place for place, entry in enumerate(container.listed()) if entry.root is not None]:
        process = container.process(index=index, half="user")
        for region in process.regions:
            print(process.pid, process.name, line(region, 64))
"""
WAYS = {"linux.pslist": _LISTED, "linux.proc.Maps": _MAPS}


def seconds(command: list[str]) -> float:
    """Return how long a program takes, from start to end."""
    begun = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - begun


def main(image: str, symbols: str, rounds: int = 3) -> None:
    """Print a line for each plugin."""
    with tempfile.TemporaryDirectory() as made:
        vol = Vol(Path(image), Path(symbols), Path(made))
        vol.run("linux.pslist")  # what is looked up once is in the cache
        for plugin, program in WAYS.items():
            found = []
            for _ in range(rounds):
                begun = time.perf_counter()
                ran = vol.run(plugin, check=False)
                theirs = time.perf_counter() - begun
                ours = seconds([sys.executable, "-c", program, image])
                found.append((theirs / ours, ours, theirs))
            ratio, ours, theirs = (statistics.median(column) for column in zip(*found, strict=True))
            ended = "" if ran.status == 0 else f" (it ended with status {ran.status})"
            print(f"{plugin}: memcarve {ours:.2f} s, Volatility {theirs:.2f} s{ended}: {ratio:.1f}x")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:]))
