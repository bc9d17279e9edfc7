"""Run everything that must hold: linter, formatter, type checker, documentation, tests.

With ``--coverage`` the tests also report which branches they ran, which takes them twice as long; it fails nothing.
With ``--long`` sweeps take every layout, seed and container instead of a sample, and Hypothesis many more examples:
some hours. With ``--renew`` nothing is checked: ``constraints.txt`` is made anew of the newest development tools.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent
# one more than there are processors: tests wait for programs that they start, for signals and for timeouts
WORKERS = str((os.cpu_count() or 1) + 1)
STEPS = (
    ("ruff", "check"),
    ("ruff", "format", "--check"),
    ("mypy",),
    ("sphinx", "-W", "--keep-going", "-q", "-E", "-b", "html", "docs", "build/docs"),
    ("pytest", "--numprocesses", WORKERS, "--dist", "worksteal"),
)
#: compiles the tests with what their assertions tell, beside the first steps: each worker would do so for itself
COMPILING = ("pytest", "--collect-only", "-q")
_COVERAGE = ("--cov", "--cov-report=term")
_OLDEST = (3, 11)
_HEAD = """\
# What the extra `dev` installs, in the versions that are tested. Made by: python check.py --renew
"""


def main() -> int:
    """Run each step with this interpreter's tools; stop at the first that fails."""
    options = sys.argv[1:]
    if unknown := {*options} - {"--coverage", "--long", "--renew"}:
        print(f"check.py: unknown option {', '.join(sorted(unknown))}\n\n{__doc__}", file=sys.stderr)
        return 2
    if "--renew" in options:
        return renew()
    # threads of numpy's for matrices, of which there are none, wait for work by asking for it all the time
    environment = {"OPENBLAS_NUM_THREADS": "1", **os.environ}
    environment |= {"MEMCARVE_LONG": "1"} if "--long" in options else {}
    # tests start hundreds of programs, each of which would compile all of memcarve again
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    words = [sys.executable, "-m", *COMPILING]
    # what is wrong with it, the workers will say
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment) as compiling:
        for each in STEPS:
            step = (*each, *_COVERAGE) if each[0] == "pytest" and "--coverage" in options else each
            if each[0] == "pytest":
                compiling.wait()
            print("+", *step, flush=True)
            status = subprocess.run([sys.executable, "-m", *step], check=False, env=environment).returncode
            if status:
                compiling.kill()
                return status
    return 0


def renew() -> int:
    """Install the newest tools into an environment of their own, and write down which these are."""
    if sys.version_info[:2] != _OLDEST or sys.platform != "linux":
        # what runs there runs with newer ones too, and elsewhere; the other way round packages may be missing
        print("check.py: --renew needs Python {}.{} on Linux".format(*_OLDEST), file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        pip = [f"{folder}/bin/python", "-m", "pip", "--disable-pip-version-check"]
        subprocess.run([*pip, "install", "-q", f"{ROOT}[dev]"], check=True)
        found = subprocess.run([*pip, "freeze", "--exclude", "memcarve"], check=True, capture_output=True, text=True)
    (ROOT / "constraints.txt").write_text(_HEAD + found.stdout, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
