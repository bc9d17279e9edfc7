"""Run everything that must hold: linter, formatter, type checker, tests with branch coverage."""

from __future__ import annotations

import subprocess
import sys

STEPS = (
    ("ruff", "check"),
    ("ruff", "format", "--check"),
    ("mypy",),
    ("pytest", "--cov", "--cov-report=term"),
)


def main() -> int:
    """Run each step with this interpreter's tools; stop at the first that fails."""
    for step in STEPS:
        print("+", *step, flush=True)  # noqa: T201 - that is its output
        status = subprocess.run([sys.executable, "-m", *step], check=False).returncode  # noqa: S603
        if status:
            return status
    return 0


if __name__ == "__main__":
    sys.exit(main())
