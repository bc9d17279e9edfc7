"""What is found in processes, and who owns a page, is what MemProcFS says of the same machine."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import memcarve
import winimage
from files import ROOT
from winimage import Plan, userland

if TYPE_CHECKING:
    from pathlib import Path

SEARCHER = str(ROOT / "tests" / "helpers" / "memprocfs_search.py")
LONGEST = 60
MACHINE = (
    *winimage.PLANS,
    Plan(5000, b"program.exe", 388, memory=(), userland=userland.usual(5000)),
    Plan(5008, b"plain.exe", 388, memory=(), userland=userland.plain(5008)),
)
WITH_REGIONS = {5000, 5008}
PATTERNS = (b"ntdll", b"MZ\x90", b"P\0r\0o\0", b"PE\0\0", b"\x48\x8b")


def asked(image: str, addresses: dict[int | None, list[int]]) -> dict[str, Any]:
    """Return what MemProcFS says, which has a process of its own; skip without it."""
    if importlib.util.find_spec("memprocfs") is None:
        pytest.skip("memprocfs is not installed")
    question = json.dumps({"patterns": [pattern.hex() for pattern in PATTERNS], "addresses": addresses})
    command = [sys.executable, SEARCHER, image]
    done = subprocess.run(command, input=question, capture_output=True, text=True, timeout=LONGEST, check=False)
    if "ImportError" in done.stderr:
        pytest.skip(f"memprocfs cannot be imported: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stderr[-2000:]
    told: dict[str, Any] = json.loads(done.stdout)
    return told


@pytest.mark.parametrize("layout", [3, 8])
def test_hits_and_owners(tmp_path: Path, layout: int) -> None:
    """Every hit in a process with regions is MemProcFS's, and the owner of its physical byte is that process, there."""
    truth = winimage.build(
        tmp_path / "mem.raw", layout=layout, megabytes=48, seed=layout, processes=MACHINE, stub=True, realistic=True
    )
    with memcarve.open(truth.path) as container:
        indexes = container.certain()
        ours: dict[int | None, list[tuple[int, int]]] = {}
        for index in indexes:
            process = container.process(index=index, half="user")
            ours[process.pid] = [(hit.address, hit.pattern) for hit in process.find(PATTERNS)]
        addresses = {pid: [address for address, _ in hits] for pid, hits in ours.items()}
        told = asked(truth.path, addresses)
        owners = memcarve.Owners(container, indexes)
        compared = 0
        for pid, theirs in told.items():
            hits = ours[int(pid)]
            if int(pid) not in WITH_REGIONS:  # it searches regions, of which the others have none
                assert not theirs["hits"]
                continue
            assert sorted(map(tuple, theirs["hits"])) == sorted(hits), pid
            places = [(at, physical) for at, physical in theirs["physical"] if physical is not None]
            assert len(places) == len(hits)
            answers = owners.of_physical(np.array([physical for _, physical in places], np.uint64))
            named = {
                (answer.query, answer.process.pid, answer.address) for answer in answers if answer.process is not None
            }
            for number, (address, _) in enumerate(places):
                assert (number, int(pid), address) in named
            compared += len(places)
        assert compared > 20
