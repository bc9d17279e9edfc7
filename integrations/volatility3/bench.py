# This file is Copyright 2026 the memcarve authors and licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""Measure windows.segments against windows.memmap, on one process of many scattered pages; owners of texts in another.

    python bench.py [PAGES [ROUNDS]]
    python bench.py strings [PROCESSES [PAGES [STRINGS]]]      # memcarve owners against windows.strings

Run it with the interpreter of an environment that has volatility3, memcarve and this package. The image is generated in
a temporary folder (about 1.3 GB for 250,000 pages, in /dev/shm where there is one). The whole command counts: start of
``vol``, finding the kernel, and all. Runs take turns, and ratios are taken within a round.
"""

from __future__ import annotations

import json
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE / "tests"), str(HERE.parents[1] / "tests" / "helpers")]

import winimage  # noqa: E402
from winimage.truth import Truth  # noqa: E402, TC002

import symbols  # noqa: E402
from conftest import Vol  # noqa: E402

PID = "800"  # the process of many pages
SYSTEM = 4
GOALS = {(): 20.0, ("--dump",): 6.0}


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
        floor = statistics.median(seconds(vol, "windows.pslist", (), folder / "out") for _ in range(rounds))
        print(f"windows.pslist: {floor:.2f} s, which is vol's start, finding the kernel and the processes", flush=True)
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


def owners(folder: Path, vol: Vol, offsets: list[int]) -> tuple[float, float, int]:
    """Return the seconds that both take, from start to end, and for how many offsets they agree about the kernel.

    Of processes Volatility 2.28.2 looks texts up by virtual addresses, so that what it says of them is not compared.
    """
    (folder / "hexadecimal").write_text("".join(f"{offset:7x} a text\n" for offset in offsets))
    (folder / "decimal").write_text("".join(f"{offset} a text\n" for offset in offsets))
    begun = time.perf_counter()
    words = ["owners", str(vol.image), "--offsets", str(folder / "hexadecimal"), "--radix", "x", "--format", "jsonl"]
    done = subprocess.run([sys.executable, "-m", "memcarve", *words, "-q"], capture_output=True, check=True)
    ours = time.perf_counter() - begun
    begun = time.perf_counter()
    said = vol.rows("windows.strings", "--strings-file", str(folder / "decimal"))
    theirs = time.perf_counter() - begun
    mine, told = set[int](), set[int]()
    for row in map(json.loads, done.stdout.splitlines()):
        if row["owner"] == "kernel" or row["pid"] == SYSTEM:
            mine.add(row["offset"])
    for row in said:
        if "kernel:" in row["Result"]:
            told.add(int(row["Physical Address"]))
    return ours, theirs, sum((offset in mine) == (offset in told) for offset in offsets)


def enlarge(truth: Truth) -> int:
    """Have the kernel map all memory, up to 1 GiB of it, page by page; return how many MiB it maps so.

    A real kernel has mapped about as much: its paged pool, its file cache, its drivers. The one that is generated maps
    a few MiB.
    """
    with Path(truth.path).open("r+b") as image:

        def table(at: int) -> list[int]:
            image.seek(at)
            return [int.from_bytes(image.read(8), "little") for _ in range(512)]

        def entries(begin: int, count: int) -> bytes:
            """Return entries for consecutive pages."""
            return b"".join((begin + 4096 * number | 1 << 63 | 0x63).to_bytes(8, "little") for number in range(count))

        below = table(truth.kernel_root)[truth.kernel_base >> 39 & 511] & ((1 << 52) - 4096)
        free = table(below).index(0)
        tables = min(truth.size >> 21, 512)
        image.seek(truth.size)
        image.write(entries(truth.size + 4096, tables).ljust(4096, b"\0"))
        image.writelines(entries(number << 21, 512) for number in range(tables))
        image.seek(below + 8 * free)
        image.write((truth.size | 0x63).to_bytes(8, "little"))
    return tables << 1


def strings(processes: int = 100, pages: int = 768, count: int = 10_000) -> None:
    """Print two lines of how long both take to tell who owns as many texts: with a small kernel, and a large one."""
    where = "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108 - a folder of its own is made there
    with tempfile.TemporaryDirectory(dir=where) as made:
        folder = Path(made)
        truth = winimage.many(folder / "mem.raw", processes, pages)
        vol = Vol(folder / "mem.raw", symbols.install(truth, folder / "symbols"), folder / "home")
        vol.run("windows.info", check=False)
        offsets = sorted(random.Random(1).sample(range(truth.size), count))  # noqa: S311
        for kernel in ("a kernel of a few MiB", "a kernel that maps {} MiB"):
            words = kernel.format(enlarge(truth) if "{}" in kernel else 0)
            ours, theirs, same = owners(folder, vol, offsets)
            print(
                f"owners of {count} texts, {processes} processes of {pages} pages, {words}: {ours:.2f} s, "
                f"windows.strings {theirs:.2f} s: {theirs / ours:.1f}x, goal 500x; both say the same of the kernel for "
                f"{same} texts",
                flush=True,
            )


if __name__ == "__main__":
    if sys.argv[1:2] == ["strings"]:
        strings(*map(int, sys.argv[2:]))
    else:
        main(*map(int, sys.argv[1:]))
