"""What an installation consists of: its packages as a CycloneDX document, and whether any has a known vulnerability."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]


class Audit(NamedTuple):
    """What is known of packages: those with vulnerabilities, and those of which nothing could be learned."""

    vulnerable: list[str]
    unknown: list[str]


def packages(python: Path) -> dict[str, str]:
    """Return the versions of the packages of an environment, by name."""
    script = "import importlib.metadata as m, json; print(json.dumps({d.name: d.version for d in m.distributions()}))"
    done = subprocess.run([str(python), "-I", "-c", script], check=True, capture_output=True, text=True)
    return dict(sorted(json.loads(done.stdout).items()))


def write(python: Path, target: Path, *, interpreter: bool = False) -> None:
    """Write the packages of an environment as CycloneDX 1.6 in JSON; the same for the same packages.

    With `interpreter`, what is described has its own Python in it, too, with what that is linked with.
    """
    words = [sys.executable, "-m", "cyclonedx_py", "environment", str(python), "--output-reproducible"]
    words += ["--pyproject", str(ROOT / "pyproject.toml"), "--spec-version", "1.6", "--output-format", "JSON"]
    done = subprocess.run([*words, "--output-file", "-"], check=True, capture_output=True, text=True)
    document: dict[str, Any] = json.loads(done.stdout)
    if interpreter:
        document["components"] += [
            {
                "bom-ref": name,
                "type": "library",
                "name": name,
                "version": version,
                "cpe": f"cpe:2.3:a:{vendor}:{name}:{version}:*:*:*:*:*:*:*",
            }
            for vendor, name, version in _interpreter(python)
        ]
    target.write_text(json.dumps(document, indent=1, sort_keys=True) + "\n", encoding="utf-8", newline="\n")


def _interpreter(python: Path) -> list[list[str]]:
    """Return vendor, name and version of a Python, and of those libraries it uses that say which they are."""
    script = """if True:
        import json, platform, pyexpat, ssl, zlib
        print(json.dumps([
            ["python", "python", platform.python_version()],
            ["openssl", "openssl", ssl.OPENSSL_VERSION.split()[1]],
            ["zlib", "zlib", zlib.ZLIB_RUNTIME_VERSION],
            ["libexpat_project", "libexpat", ".".join(map(str, pyexpat.version_info))],
        ]))"""
    done = subprocess.run([str(python), "-I", "-c", script], check=True, capture_output=True, text=True)
    found: list[list[str]] = json.loads(done.stdout)
    return found


def audit(found: dict[str, str]) -> Audit:
    """Ask the service of vulnerabilities that pip-audit uses, PyPI's, about packages."""
    with tempfile.TemporaryDirectory() as temporary:
        listed = Path(temporary, "requirements.txt")
        listed.write_text("".join(f"{name}=={version}\n" for name, version in found.items()), encoding="utf-8")
        words = [sys.executable, "-m", "pip_audit", "--no-deps", "--disable-pip", "-r", str(listed), "--format", "json"]
        words += ["--progress-spinner", "off", "--timeout", "20"]
        environment = {**os.environ, "XDG_CACHE_HOME": temporary}
        done = subprocess.run(words, check=False, capture_output=True, text=True, env=environment)
    try:
        told = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):  # it could not ask at all
        return Audit([], sorted(found))
    vulnerable = [
        f"{each['name']} {each['version']}: {', '.join(flaw['id'] for flaw in each['vulns'])}"
        for each in told
        if each.get("vulns")
    ]
    known = {each["name"] for each in told if "vulns" in each}
    return Audit(vulnerable, sorted({each["name"] for each in told} - known))
