"""Which wheels there are of what memcarve needs, for each Python and system that it is said to run on.

pip judges the markers of requirements by the machine that it runs on. Here they are judged for the machine that the
wheels are for, and pip is asked about each package alone.

    python release.py --wheels    # prints what is missing, by extra
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any, NamedTuple

from packaging.requirements import Requirement
from packaging.utils import NormalizedName, canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
PIP = "26.3"  # which a bundle has with it


class System(NamedTuple):
    """A kind of machine: the platforms of wheels that it takes, and what markers of requirements ask about it."""

    platforms: tuple[str, ...]
    sys_platform: str
    platform_system: str
    platform_machine: str


def _linux(machine: str) -> System:
    # of those systems with glibc 2.28 or later: RHEL 8, Debian 10, Ubuntu 20.04
    tags = [f"manylinux_2_{minor}_{machine}" for minor in range(28, 4, -1)]
    tags += [f"{name}_{machine}" for name in ("manylinux2014", "manylinux2010", "manylinux1")]
    return System(tuple(tags), "linux", "Linux", machine)


SYSTEMS = {
    "linux-x86_64": _linux("x86_64"),
    "linux-aarch64": _linux("aarch64"),
    "macos-arm64": System(("macosx_14_0_arm64",), "darwin", "Darwin", "arm64"),
    "macos-x86_64": System(("macosx_14_0_x86_64",), "darwin", "Darwin", "x86_64"),
    "windows-x86_64": System(("win_amd64",), "win32", "Windows", "AMD64"),
    "windows-arm64": System(("win_arm64",), "win32", "Windows", "ARM64"),
}


class NoWheelError(Exception):
    """There is no wheel of a package."""


def this_system() -> str:
    """Return the name of the system that this runs on."""
    machine = {"AMD64": "x86_64", "ARM64": "arm64"}.get(platform.machine(), platform.machine())
    return f"{ {'Darwin': 'macos'}.get(platform.system(), platform.system().lower()) }-{machine}"


def needed(wanted: list[str], system: str, python: str) -> dict[str, str]:
    """Return the versions of all packages that requirements lead to, by name; raises NoWheelError."""
    of = SYSTEMS[system]
    environment = {
        "python_version": python,
        "python_full_version": f"{python}.0",
        "sys_platform": of.sys_platform,
        "platform_system": of.platform_system,
        "platform_machine": of.platform_machine,
        "os_name": "nt" if of.sys_platform == "win32" else "posix",
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
    }
    found: dict[str, str] = {}
    asked: dict[str, set[str]] = {}
    waiting = [Requirement(each) for each in wanted]
    while waiting:
        now: dict[NormalizedName, set[str]] = {}
        for each in waiting:
            extras = ["", *each.extras]
            name = canonicalize_name(each.name)
            if name not in asked or set(extras) - asked[name]:
                now[name] = now.get(name, set()) | set(extras)
                asked.setdefault(name, set()).update(extras)
        named = {canonicalize_name(each.name): each for each in waiting}
        waiting = []
        for item in _report([named[name] for name in now], of, python) if now else []:
            name = canonicalize_name(item["name"])
            found[name] = item["version"]
            for text in item.get("requires_dist", []):
                dependency = Requirement(text)
                marker = dependency.marker
                if marker is None or any(marker.evaluate({**environment, "extra": extra}) for extra in now[name]):
                    waiting.append(dependency)
    return found


def _report(requirements: list[Requirement], of: System, python: str) -> list[dict[str, Any]]:
    """Return the metadata of the wheels that pip would install."""
    for each in requirements:
        each.marker = None  # it is true of that machine
    with tempfile.TemporaryDirectory() as target:
        options = ["--dry-run", "--ignore-installed", "--report", "-", "--target", target]
        done = _pip("install", options, [*map(str, requirements)], of, python)
    return [item["metadata"] for item in json.loads(done.stdout)["install"]]


def _pip(
    command: str, options: list[str], wanted: list[str], of: System, python: str
) -> subprocess.CompletedProcess[str]:
    """Run pip for a machine that need not be this one; raises NoWheelError."""
    words = [sys.executable, "-m", "pip", command, "-q", "--no-deps", "--only-binary=:all:", "--implementation", "cp"]
    words += ["--python-version", python, "-c", str(ROOT / "constraints.txt"), *options]
    words += [word for each in of.platforms for word in ("--platform", each)]
    done = subprocess.run([*words, *wanted], check=False, capture_output=True, text=True)
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR: ")]
        raise NoWheelError(errors[0].removeprefix("ERROR: ") if errors else done.stderr.strip())
    return done


def download(wanted: list[str], system: str, python: str, folder: Path) -> None:
    """Download the wheels of packages into a folder; raises NoWheelError."""
    _pip("download", ["-d", str(folder)], wanted, SYSTEMS[system], python)


def requirements() -> dict[str, list[str]]:
    """Return what memcarve needs, as "", and what each of its extras for users brings."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = {name: each for name, each in project["optional-dependencies"].items() if name not in ("dev", "docs")}
    return {"": project["dependencies"], **extras}


def applying(texts: list[str], system: str, python: str) -> list[str]:
    """Return those requirements whose markers are true of a system and a Python."""
    of = SYSTEMS[system]
    environment = {
        "python_version": python,
        "sys_platform": of.sys_platform,
        "platform_machine": of.platform_machine,
    }
    parsed = [Requirement(text) for text in texts]
    return [str(each) for each in parsed if each.marker is None or each.marker.evaluate(environment)]


def table() -> tuple[list[str], bool]:
    """Return the lines of a table of which extras have wheels where, and whether memcarve itself has all of them."""
    lines = [f"| | {' | '.join(SYSTEMS)} |", f"| --- |{' --- |' * len(SYSTEMS)}"]
    whole = True
    for extra, texts in requirements().items():
        cells = []
        for system in SYSTEMS:
            without = {}
            for python in PYTHONS:
                try:
                    needed(applying(texts, system, python), system, python)
                except NoWheelError as error:
                    without[python] = str(error)
                    print(f"{extra or 'memcarve'}, {system}, Python {python}: {error}", file=sys.stderr)
            whole &= bool(extra) or not without
            cells.append(
                "yes" if not without else "no" if len(without) == len(PYTHONS) else f"not {', '.join(without)}"
            )
        lines.append(f"| {f'`{extra}`' if extra else 'memcarve'} | {' | '.join(cells)} |")
    return lines, whole
