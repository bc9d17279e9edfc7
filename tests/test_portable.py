"""The tests of what is written, once more without what other systems lack: fork, sendfile, reflinks, dir_fd."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from files import ROOT
from sweeps import LONG

#: where a way of its own is taken there; /proc is Linux's, tests of reflinks are in test_system
FILES = (
    ("sinks/test_carve.py", "sinks/test_sink_contract.py", "sinks/test_flat.py", "sinks/test_verify.py"),
    ("cli/test_cli.py", "cli/test_export_cli.py"),
)


@pytest.mark.slow
@pytest.mark.parametrize("files", FILES, ids=["sinks", "cli"])
def test_without_what_linux_has(files: tuple[str, ...]) -> None:
    """Tests pass where the calls are missing that other systems lack, in the programs that they start, too."""
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "not live"]
    done = subprocess.run(
        [*words, *(f"tests/{file}" for file in files)],
        cwd=ROOT,
        env={**os.environ, "MEMCARVE_PORTABLE": "1", "HYPOTHESIS_PROFILE": "long" if LONG else "again"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:]


def test_it_is_missing() -> None:
    """With MEMCARVE_PORTABLE, a program finds none of the calls, and no folder's descriptor is taken."""
    script = (
        "import os, shutil, portable\n"
        "assert not [name for name in ('fork', 'sendfile', 'copy_file_range', 'pread') if hasattr(os, name)]\n"
        "assert os.open not in os.supports_dir_fd\n"
        "try: os.mkdir('x', dir_fd=0)\n"
        "except NotImplementedError: print('as elsewhere')\n"
    )
    environment = {**os.environ, "MEMCARVE_PORTABLE": "1", "PYTHONPATH": str(ROOT / "tests" / "helpers")}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "as elsewhere\n"
