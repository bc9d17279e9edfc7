"""What every test runs under, and what is too large to be made more than once."""

from __future__ import annotations

import gc
import os
import signal
import sys
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

import portable  # noqa: F401 - before anything else it takes away what it is asked to
from real import needed
from sweeps import LONG

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# deadlines would make a slow machine a failing test. CI tries the same examples every time; elsewhere new ones are
# tried, and what failed once is tried again
settings.register_profile(
    "default", deadline=None, max_examples=100, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
settings.register_profile("ci", parent=settings.get_profile("default"), derandomize=True)
settings.register_profile("long", parent=settings.get_profile("default"), max_examples=2000)
# tests that are run once more, where the system lacks something
settings.register_profile("again", parent=settings.get_profile("ci"), max_examples=15)
_usual = "long" if LONG else "ci" if os.environ.get("CI") else "default"
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", _usual))

# Under nohup or in a background job these are ignored, and would be in every program that a test starts and interrupts.
# What is handled here has its usual meaning there.
for _name in ("SIGHUP", "SIGINT", "SIGQUIT"):
    _number = getattr(signal, _name, None)
    if _number is not None and signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, signal.default_int_handler if _name == "SIGINT" else lambda *_: None)

_BLOCK = 1 << 20


@pytest.hookimpl(hookwrapper=True)
def pytest_collection() -> Iterator[None]:
    """Keep what is collected out of the garbage collector's way.

    Thousands of tests and their modules stay for good: going through them would take a third of a second each time, and
    write into what processes that are forked share.
    """
    gc.disable()
    yield
    gc.freeze()
    gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the slow tests."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.fixture(scope="session")
def linux_image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a real Linux machine's memory, raw and with holes for zeros; skip where the compressed one is missing."""
    packed = needed("linux-wine.raw.zst")
    path, zeros = tmp_path_factory.mktemp("linux") / "linux-wine.raw", bytes(_BLOCK)
    with zstd.open(packed) as source, path.open("wb") as image:
        while block := source.read(_BLOCK):
            if block == zeros[: len(block)]:
                image.seek(len(block), os.SEEK_CUR)
            else:
                image.write(block)
        image.truncate()
    return path
