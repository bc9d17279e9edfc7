"""Releasing: what is said of a version agrees, and what is not known of packages is told."""

from __future__ import annotations

import functools
import hashlib
import os
import runpy
import stat
import subprocess
import sys
import zipfile
from typing import TYPE_CHECKING, Any

import pytest

from files import ROOT

if TYPE_CHECKING:
    from pathlib import Path

    Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def release() -> dict[str, Any]:
    """Return what release.py defines."""
    return runpy.run_path(str(ROOT / "release.py"))


def test_versions_agree(release: dict[str, Any]) -> None:
    """Version, citation and changelog are of one version."""
    assert release["version_problems"](to_release=False) == []


@pytest.mark.parametrize(
    ("file", "old", "new", "said"),
    [
        ("CITATION.cff", "\nversion: ", "\nversion: 9", "CITATION.cff: is not of version"),
        ("CHANGELOG.md", "\n## ", "\n## 9.9.9 - 2030-01-01\n\n## ", "CHANGELOG.md: its newest version is not"),
        ("CHANGELOG.md", ")\n\nThe first", ") x\n\nThe first", "a date alone must stand there"),
    ],
)
def test_versions_that_disagree(file: str, old: str, new: str, said: str, tmp_path: Path) -> None:
    """A file that is of another version, or of none with a date, is named."""
    for name in ("CITATION.cff", "CHANGELOG.md", "src/memcarve/version.py", "release.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        text = (ROOT / name).read_text(encoding="utf-8")
        (tmp_path / name).write_text(text.replace(old, new, 1) if name == file else text, encoding="utf-8")
    problems = runpy.run_path(str(tmp_path / "release.py"))["version_problems"](to_release=True)
    assert any(said in problem for problem in problems)


def test_wrong_option() -> None:
    """An option that there is not is wrong usage, and does nothing."""
    done = subprocess.run([sys.executable, str(ROOT / "release.py"), "--bundel"], capture_output=True, check=False)
    assert (done.returncode, done.stdout, b"--bundle" in done.stderr) == (2, b"", True)


@pytest.mark.parametrize(
    ("told", "passes", "said"),
    [
        ('{"dependencies": [{"name": "a", "version": "1", "vulns": []}]}', True, "1 packages have no known"),
        ('{"dependencies": [{"name": "a", "skip_reason": "not found"}]}', True, "NOT CHECKED for vulnerabilities"),
        ("", True, "NOT CHECKED for vulnerabilities"),
        (
            '{"dependencies": [{"name": "a", "version": "1", "vulns": [{"id": "CVE-1"}]}]}',
            False,
            "vulnerable: a 1: CVE-1",
        ),
    ],
)
def test_audit(
    *, told: str, passes: bool, said: str, release: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """A vulnerability fails; what could not be asked about is named, and does not."""
    done = subprocess.CompletedProcess([], 0, stdout=told)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: done)
    assert release["audited"]({"a": "1"}) is passes
    assert said in capsys.readouterr().out


def test_wheelhouse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The archive of wheels has the script and the sums of all of them, and is the same if it is made again later."""
    bundle = pytest.importorskip("bundle")

    def download(wanted: list[str], system: str, python: str, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        for each in wanted:
            (folder / f"{each.replace('==', '-')}-{system}-{python}.whl").write_text(each)

    monkeypatch.setattr(bundle, "download", download)
    monkeypatch.setattr(bundle, "needed", lambda *_: {"numpy": "2"})
    wheel = tmp_path / "memcarve-1.2.3-py3-none-any.whl"
    wheel.write_text("memcarve")
    made = []
    for name in ("once", "again"):
        (tmp_path / name).mkdir()
        made.append(bundle.wheelhouse(wheel, tmp_path / name, "linux-x86_64"))
    assert made[0].read_bytes() == made[1].read_bytes()
    with zipfile.ZipFile(made[0]) as archive:
        names = [name.partition("/")[2] for name in archive.namelist()]
        top = "memcarve-1.2.3-wheels-linux-x86_64"
        assert {*names} >= {"install.sh", "SHA256SUMS", f"wheels/{wheel.name}", "wheels/numpy-2-linux-x86_64-3.14.whl"}
        assert stat.S_IMODE(archive.getinfo(f"{top}/install.sh").external_attr >> 16) == 0o755
        archive.extractall(tmp_path)
    subprocess.run(["sha256sum", "--quiet", "-c", "SHA256SUMS"], cwd=tmp_path / top, check=True)
    assert "memcarve[blake3,disassembly," in (tmp_path / top / "install.sh").read_text()


@pytest.mark.skipif(os.name != "posix", reason="a script of Unix")
def test_install_script(tmp_path: Path) -> None:
    """A relative folder is one where the user is; a Python that is too old, or none, is said; nothing is made then."""
    bundle, here, python = tmp_path / "bundle", tmp_path / "here", tmp_path / "python"
    for folder in (bundle / "wheels", here):
        folder.mkdir(parents=True)
    script = bundle / "install.sh"
    script.write_bytes((ROOT / "distribution" / "install.sh").read_bytes())
    (bundle / "wheels" / "pip-1.whl").write_text("pip")
    (bundle / "SHA256SUMS").write_text(f"{hashlib.sha256(b'pip').hexdigest()}  wheels/pip-1.whl\n")
    made = 'mkdir -p "$4/bin" && printf "#!/bin/sh\\nexit 0\\n" > "$4/bin/python" && chmod +x "$4/bin/python"'
    python.write_text(f'#!/bin/sh\n[ "$2" != venv ] || {{ {made}; }}\n')
    python.chmod(0o755)
    run = functools.partial(subprocess.run, ["sh", script, "tools"], cwd=here, capture_output=True, text=True)
    for absent in ("/nowhere/python3", "false"):
        ran = run(env={**os.environ, "PYTHON": absent}, check=False)
        assert (ran.returncode, ran.stdout) == (1, "")
        assert f"install.sh: {absent} is not there, or not 3.11 to 3.14: PYTHON names another" in ran.stderr
        assert not [*here.iterdir()]
    ran = run(env={**os.environ, "PYTHON": str(python)}, check=False)
    assert (ran.returncode, ran.stdout) == (0, f"installed: {here}/tools/bin/memcarve\n"), ran.stderr
