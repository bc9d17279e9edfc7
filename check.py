"""Run everything that must hold: linter, formatter, type checker, tests.

With ``--coverage`` the tests also report which branches they ran, which takes them twice as long; it fails nothing.
"""

from __future__ import annotations

import subprocess
import sys

STEPS = (
    ("ruff", "check"),
    ("ruff", "format", "--check"),
    ("mypy",),
    ("pytest", "--numprocesses", "auto"),
)
_COVERAGE = ("--cov", "--cov-report=term")


def main() -> int:
    """Run each step with this interpreter's tools; stop at the first that fails."""
    more = _COVERAGE if "--coverage" in sys.argv[1:] else ()
    for each in STEPS:
        step = (*each, *more) if each[0] == "pytest" else each
        print("+", *step, flush=True)  # noqa: T201 - that is its output
        status = subprocess.run([sys.executable, "-m", *step], check=False).returncode  # noqa: S603
        if status:
            return status
    return 0


if __name__ == "__main__":
    sys.exit(main())
