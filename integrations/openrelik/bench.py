"""What the queue costs: the same commands on the same images, by hand two at a time, and as tasks on two workers.

    python bench.py [--images 20] [--mib 256] [--task carve]

Run it in an environment of the worker, with `redis-server` on the path. Images are made in a folder for temporary files
(TMPDIR); the first is made of a plan, the others are copies. Each way is run twice, in turn, and the better run counts:
"by hand" is `memcarve` begun for each image by two shells' worth of threads, and for `carve` `tar` after it, because an
archive is what a task gives.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[2] / "tests" / "helpers"), str(Path(__file__).parent / "tests")]

from winimage import PLANS, build  # noqa: E402

from conftest import Relik, Server  # noqa: E402

_AT_ONCE = 2


def by_hand(task: str, images: list[Path], folder: Path) -> float:
    """Return the seconds that the commands take."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()

    def one(image: Path) -> None:
        out = folder / image.stem
        command = [sys.executable, "-m", "memcarve", task, str(image)]
        if task == "carve":
            command += ["--all", "--content", "headers", "-o", str(out)]
        with (folder / f"{image.stem}.txt").open("wb") as said:
            status = subprocess.run(command, stdout=said, stderr=said, check=False).returncode
        if status not in (0, 3):  # one of the processes fails, as it is meant to
            raise SystemExit(f"{command}: status {status}")
        if task == "carve":
            subprocess.run(["tar", "cf", f"{out}.tar", "-C", str(folder), image.stem], check=True)
            shutil.rmtree(out)

    begin = time.monotonic()
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        list(pool.map(one, images))
    return time.monotonic() - begin


def queued(task: str, images: list[Path], relik: Relik) -> float:
    """Return the seconds from the first task that is sent to the last result."""
    shutil.rmtree(relik.out)
    relik.out.mkdir()
    begin = time.monotonic()
    results = [relik.send(task, image, archive="all") for image in images]
    for result in results:
        relik.get(result)
    return time.monotonic() - begin


def main() -> None:
    """Print the two times and what they differ by."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=20)
    parser.add_argument("--mib", type=int, default=256)
    parser.add_argument("--task", default="carve", choices=["processes", "carve", "hunt"])
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        images = [folder / f"{number}.raw" for number in range(given.images)]
        build(images[0], megabytes=given.mib, processes=PLANS)
        for image in images[1:]:
            shutil.copyfile(images[0], image)
        server = Server(folder)
        server.start()
        relik = Relik(server, folder)
        try:
            relik.work(_AT_ONCE)
            hand, queue = [], []
            for _ in range(2):
                hand.append(by_hand(given.task, images, folder / "hand"))
                queue.append(queued(given.task, images, relik))
        finally:
            relik.close()
            server.stop()
        more = 100 * (min(queue) / min(hand) - 1)
        size = os.path.getsize(images[0]) >> 20 if images[0].exists() else given.mib
        print(f"{given.task}, {given.images} images of {size} MiB, {_AT_ONCE} at a time")
        print(f"by hand {min(hand):.2f} s, as tasks {min(queue):.2f} s: {more:+.0f} %")


if __name__ == "__main__":
    main()
