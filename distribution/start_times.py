"""How fast programs start: the first time, and ever after.

    python distribution/start_times.py .venv/bin/memcarve dist/memcarve-0.1.0-linux-x86_64

Each program is memcarve, packed in some way. Printed are its size, the time of its first start in a home of its own,
and of later ones the least time and the least processor time of 21: of `--version`, and of `segments` of the example.
On a busy machine processor times are what can be compared.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RUNS = 21
JOBS = {"--version": ["--version"], "segments": ["segments", str(ROOT / "examples" / "pid.1624.dmp")]}


def main() -> int:
    """Print a table of the programs."""
    if not sys.argv[1:]:
        print(__doc__, file=sys.stderr)
        return 2
    heads = [f"{name} {kind}" for name in JOBS for kind in ("time", "processor")]
    print("| program | MB | first start |", " | ".join(heads), "|")
    print("| --- |", "---: |" * (2 + len(heads)))
    for program in map(os.path.abspath, sys.argv[1:]):
        with tempfile.TemporaryDirectory() as home:
            environment = {**os.environ, "HOME": home, "XDG_CACHE_HOME": f"{home}/.cache"}
            environment |= {"SHIV_ROOT": f"{home}/.shiv", "PEX_ROOT": f"{home}/.pex"}
            environment.pop("PYTHONDONTWRITEBYTECODE", None)
            first, _ = _run([program, "--version"], environment)
            cells = []
            for words in JOBS.values():
                times = [_run([program, *words], environment) for _ in range(RUNS)]
                cells += [f"{1000 * min(each):.0f} ms" for each in zip(*times, strict=True)]
        size = f"{os.path.getsize(program) / 1e6:.0f}"
        print(f"| {os.path.basename(program)} | {size} | {first:.1f} s |", " | ".join(cells), "|", flush=True)
    return 0


def _run(words: list[str], environment: dict[str, str]) -> tuple[float, float]:
    """Run a program; return how long it took, and how much processor time."""
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(words, env=environment, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    took, after = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
    return took, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    sys.exit(main())
