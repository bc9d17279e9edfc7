"""The benchmarks: that they run, not how fast anything is."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sweeps import LONG

BENCH = Path(__file__).parent.parent / "bench"
#: begin servers or browsers, or make images for each line; tests elsewhere run what they measure
_LONG_ONES = "frugal,stores,compressed,left-ram,report,mount"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the benchmarks measure against cp and a tmpfs: Linux")
def test_the_benchmarks_run(tmp_path: Path) -> None:
    """One command measures everything that needs no root on small inputs, and writes table and JSON.

    Those that take long run with ``--long``.
    """
    missing = [name for name in ("cp", "cat") if shutil.which(name) is None]
    assert not missing
    command = [sys.executable, str(BENCH / "run.py"), "--quick", "--output", str(tmp_path / "table.json")]
    if not LONG:
        command += ["--without", _LONG_ONES]
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "copying alone" in done.stdout
    assert "ratio" in done.stdout
    json.loads((tmp_path / "table.json").read_text())
