"""What is recorded of the machine: it is what the system says, whatever that is."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from memcarve import surroundings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(autouse=True)
def _anew() -> Iterator[None]:
    """Have the machine looked at anew, by each test and by those behind it."""
    surroundings._machine.cache_clear()
    yield
    surroundings._machine.cache_clear()


@pytest.mark.parametrize(
    ("zone", "expected"), [("IST-5:30", "+05:30 IST"), ("XXX3:15", "-03:15 XXX"), ("UTC0", "+00:00 UTC")]
)
def test_the_time_zone(zone: str, expected: str) -> None:
    """The time zone is that of the program: hours and minutes ahead of UTC, and its name."""
    script = "from memcarve.surroundings import surroundings; print(surroundings()['time_zone'])"
    if sys.platform == "win32":
        pytest.skip("the time zone is the system's")
    ran = subprocess.run(
        [sys.executable, "-c", script], env={**os.environ, "TZ": zone}, capture_output=True, text=True, check=True
    )
    assert ran.stdout.strip() == expected


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="the system has no numbers of users")
def test_a_user_without_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user whom the system has no name for is a number; the environment is not asked."""
    monkeypatch.setenv("USER", "somebody else")
    monkeypatch.setenv("LOGNAME", "somebody else")
    monkeypatch.setattr(os, "getuid", lambda: 1_234_567)
    assert surroundings.surroundings()["user"] == "1234567"


def test_a_system_without_a_description(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without /etc/os-release the kernel is named alone."""

    def absent() -> dict[str, str]:
        raise FileNotFoundError

    monkeypatch.setattr(platform, "freedesktop_os_release", absent)
    if sys.platform == "linux":
        assert surroundings.system() == f"Linux {platform.release()} {platform.machine()}"


@pytest.mark.skipif(sys.platform != "linux", reason="Linux tells about its clock")
@pytest.mark.parametrize(("state", "expected"), [(0, True), (5, False), (-1, None)])
def test_the_clock(monkeypatch: pytest.MonkeyPatch, state: int, expected: bool | None) -> None:  # noqa: FBT001
    """The clock is synchronised unless the system says that it is not; if it says nothing, that is not known."""

    class Library:
        def adjtimex(self, _: object) -> int:
            return state

    monkeypatch.setattr("ctypes.CDLL", lambda _: Library())
    assert surroundings.surroundings()["clock_synchronised"] is expected


def test_libraries() -> None:
    """Only packages that have been imported took part."""
    script = "from memcarve.surroundings import surroundings; print(surroundings()['libraries'])"
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "{}"


@pytest.mark.parametrize("package", ["click", "lzallright", "numpy", "pytest", "hypothesis"])
def test_versions_as_they_are_installed(package: str) -> None:
    """What the files beside a package say is what `importlib.metadata` says."""
    pytest.importorskip(package)
    assert surroundings._installed(package) == importlib.metadata.version(package)


def test_versions_that_are_not_plain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of what was installed twice, or not at all, nothing is said this way."""
    (tmp_path / "twice").mkdir()
    (tmp_path / "twice" / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.import_module("twice")
    assert surroundings._installed("twice") is None
    for version in ("1.0", "2.0"):
        (tmp_path / f"twice-{version}.dist-info").mkdir()
        (tmp_path / f"twice-{version}.dist-info" / "METADATA").write_text(f"Name: twice\nVersion: {version}\n\n")
        assert surroundings._installed("twice") == ("1.0" if version == "1.0" else None)
