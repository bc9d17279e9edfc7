"""Carving into a bucket, against s3fs's own put of the same files: both to moto's server on this machine.

python bench/to_bucket.py [MIB]
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "helpers"))

from dumps import write_dump
from memory import PAGE

_SERVER = """
import sys
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
"""
_PUT = "import s3fs, sys; s3fs.S3FileSystem().put(sys.argv[1], sys.argv[2], recursive=True)"
_MAKE = "import s3fs; s3fs.S3FileSystem().mkdir('bench')"
_ACCOUNT = {"AWS_ACCESS_KEY_ID": "bench", "AWS_SECRET_ACCESS_KEY": "bench", "AWS_DEFAULT_REGION": "us-east-1"}


def make_dump(folder: Path, total: int) -> Path:
    """Write a dump of segments as processes have them: four large ones, and many of up to 4 MiB."""
    chance = random.Random(1)  # noqa: S311 - the same sizes every time
    sizes = [total * share // 100 // PAGE * PAGE for share in (36, 18, 7, 4)]
    while sum(sizes) < total:
        sizes.append(chance.choice((1, 2, 4, 16, 64, 256, 1024)) * PAGE)
    rows, start = [], 0x10000
    for size in sizes:
        rows.append((start, os.urandom(size)))
        start += size + PAGE * chance.randint(1, 100)
    return write_dump(folder, rows)


def seconds(*command: str, environment: dict[str, str]) -> float:
    """Return how long a command takes, start to end."""
    begun = time.monotonic()
    subprocess.run([sys.executable, *command], env=environment, check=True, capture_output=True)
    return time.monotonic() - begun


def main() -> None:
    """Measure both three times, one after the other."""
    total = int(sys.argv[1] if len(sys.argv) > 1 else 800) << 20
    with (
        tempfile.TemporaryDirectory() as name,
        subprocess.Popen(
            [sys.executable, "-c", _SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        ) as server,
    ):
        port = int(server.stdout.readline()) if server.stdout else 0
        environment = {**os.environ, **_ACCOUNT, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"}
        dump, carved = make_dump(Path(name), total), str(Path(name) / "carved")
        seconds("-c", _MAKE, environment=environment)
        disk = seconds("-m", "memcarve", "carve", str(dump), "-o", carved, environment=environment)
        print(f"carve to a disk {disk:.1f} s")
        for number in range(3):
            put = seconds("-c", _PUT, carved, f"bench/put{number}", environment=environment)
            out = f"s3://bench/carved{number}"
            carve = seconds("-m", "memcarve", "carve", str(dump), "-o", out, environment=environment)
            print(f"put {put:.1f} s, carve {carve:.1f} s: {carve / put:.2f}x")
        if server.stdin:
            server.stdin.close()


if __name__ == "__main__":
    main()
