# This file is Copyright 2026 the memcarve authors and licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""Images with known contents, and the real, unmodified ``vol`` of the environment that runs the tests."""

from __future__ import annotations

import functools
import json
import lzma
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
sys.path[:0] = [str(ROOT / "tests" / "helpers"), str(HERE)]

import winimage  # noqa: E402
from winimage import EDGES, USERLAND, Plan  # noqa: E402
from winimage.programs import Content  # noqa: E402
from winimage.userland import Userland, Vad, mapped, plain  # noqa: E402

import symbols  # noqa: E402

if TYPE_CHECKING:
    from winimage.truth import Truth

SHARED = Path(os.environ.get("MEMCARVE_SHARED") or ROOT.parent / "shared").resolve()
HOSTILE = b"\x1b[31m=cmd\t.exe"
FILE = "\\Windows\\between.nls"


def neighbours() -> Userland:
    """Return a process whose segments lie in several regions: one in three, one that begins before its only one."""
    usual = plain(3008)
    vads = (
        Vad(0x30000, 0x2000),
        mapped(0x32000, 0x1000, FILE),
        Vad(0x33000, 0x1000, "PAGE_EXECUTE_READWRITE"),
        Vad(0x41000, 0x1000),
    )
    contents = (Content(0x30000, None, 4), Content(0x40000, None, 2))
    return usual._replace(vads=tuple(sorted((*usual.vads, *vads))), contents=(*usual.contents, *contents))


PLANS = (
    *USERLAND,
    Plan(3008, b"next.exe", 1624, memory=(), userland=neighbours()),
    Plan(3000, b"edge.exe", 1624, edges=EDGES),
    Plan(3004, HOSTILE, 1624),
)


class Vol:
    """Runs ``vol`` on one image, with a cache of its own and without the network."""

    def __init__(self, image: Path, symbols: Path, home: Path) -> None:
        self.program = Path(sys.executable).with_name("vol")
        self.image, self.symbols, self.home = image, symbols, home

    def run(self, *arguments: str, given: tuple[str, ...] = ("-q",), check: bool = True) -> Ran:
        """Run a plugin; `given` are options of vol's own."""
        command = [self.program, *self.always, "-f", self.image, *given, *arguments]
        return self.command(command, check=check)

    @property
    def always(self) -> tuple[str, ...]:
        """What every run is given."""
        return ("--offline", "-s", str(self.symbols))

    def command(self, command: list[Any], *, check: bool = True, cwd: Path | None = None) -> Ran:
        """Run a whole command."""
        environment = {**os.environ, "HOME": str(self.home), "XDG_CACHE_HOME": str(self.home / "cache")}
        done = subprocess.run(
            [str(part) for part in command], capture_output=True, check=False, env=environment, cwd=cwd
        )
        ran = Ran(done.returncode, done.stdout.decode(), done.stderr.decode())
        assert not check or ran.status == 0, ran.stderr
        return ran

    def rows(self, *arguments: str, given: tuple[str, ...] = ("-q",)) -> list[dict[str, Any]]:
        """Return the rows that a plugin prints; what writes no files is run once for all tests."""
        run = self.run if "-o" in given else self._printed
        return run(*arguments, given=(*given, "-r", "json")).json()

    @functools.cache  # noqa: B019 - a few images a session
    def _printed(self, *arguments: str, given: tuple[str, ...]) -> Ran:
        return self.run(*arguments, given=given)

    def of(self, image: Path | str) -> Vol:
        """Return the same for another image."""
        return Vol(Path(image), self.symbols, self.home)


class Ran(NamedTuple):
    """How a program ended, and what it printed."""

    status: int
    stdout: str
    stderr: str

    def json(self) -> list[dict[str, Any]]:
        """Return the rows that a run with ``-r json`` printed."""
        rows: list[dict[str, Any]] = json.loads(self.stdout[self.stdout.index("[") :])
        return rows


class Machine(NamedTuple):
    """An image, and what it holds."""

    truth: Truth
    vol: Vol


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return where vol keeps what it has seen."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="session")
def machine(tmp_path_factory: pytest.TempPathFactory, home: Path) -> Machine:
    """Return a Windows machine with usual and odd processes."""
    folder = tmp_path_factory.mktemp("windows")
    truth = winimage.build(folder / "mem.raw", megabytes=16, processes=PLANS, top_page=True)
    return Machine(truth, Vol(folder / "mem.raw", symbols.install(truth, folder / "symbols"), home))


@pytest.fixture(scope="session")
def linux(tmp_path_factory: pytest.TempPathFactory, home: Path) -> Vol:
    """Return a real Linux machine's memory; skip where it is not at hand."""
    packed = SHARED / "real" / "linux-wine.raw.zst"
    table = SHARED / "real" / "isf" / "linux" / "debian-6.1.0-56-cloud-amd64.json.xz"
    for needed in (packed, table):
        if not needed.exists():
            pytest.skip(f"{needed} is not here")
    folder = tmp_path_factory.mktemp("linux")
    _unpack(packed, folder / "mem.raw")
    _without_untyped(table, folder / "symbols" / "linux" / "kernel.json")
    return Vol(folder / "mem.raw", folder / "symbols", home)


def _without_untyped(table: Path, made: Path) -> None:
    """Write a table of symbols without those of no known type: Volatility spends seconds of every run on them."""
    with lzma.open(table) as packed:
        everything = json.load(packed)
    everything["symbols"] = {
        name: symbol
        for name, symbol in everything["symbols"].items()
        if symbol["type"] != {"kind": "base", "name": "void"}
    }
    made.parent.mkdir(parents=True)
    made.write_text(json.dumps(everything))


def _unpack(packed: Path, path: Path) -> None:
    if sys.version_info >= (3, 14):
        from compression import zstd  # noqa: PLC0415
    else:
        from backports import zstd  # noqa: PLC0415
    block = 1 << 20
    with zstd.open(packed) as source, path.open("wb") as image:
        while data := source.read(block):
            if data.count(0) == len(data):
                image.seek(len(data), os.SEEK_CUR)
            else:
                image.write(data)
        image.truncate()
