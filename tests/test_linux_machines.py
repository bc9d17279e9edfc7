"""The helper that reads real Linux machines: it decodes once, and what it parses is what lies in the image."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest

import linux_machines
from files import ROOT

if TYPE_CHECKING:
    from pathlib import Path

HELPERS = ROOT / "tests" / "helpers"


@pytest.mark.parametrize("name", linux_machines.machines())
def test_pages_of_truth_are_in_the_image(name: str) -> None:
    """The content of each page that a machine named is at its frame of the decoded image."""
    machine = linux_machines.machine(name)
    image, size = np.memmap(machine.raw, np.uint8, "r"), machine.page_size
    checked = 0
    for pid in machine.processes:
        pages = machine.pages(pid)
        at = pages.frame[pages.readable].astype(np.int64) * size - machine.raw_base
        content = b"".join(image[place : place + size].tobytes() for place in at)
        assert (linux_machines.crc32s(content, size) == pages.crc32[pages.readable]).all()
        checked += len(at)
    assert checked > 10_000


@pytest.mark.parametrize("name", linux_machines.machines())
def test_image_is_decoded_whole(name: str) -> None:
    """The decoded image has the hash that was taken in the beginning."""
    machine = linux_machines.machine(name)
    with machine.raw.open("rb") as file:
        assert hashlib.file_digest(file, "sha256").hexdigest() == machine.truth["raw_sha256"]


def test_several_processes_decode_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of several processes that want the same file at once, one decodes it, with holes for zeros."""
    content = b"begin" + bytes(3 << 20) + b"end" + bytes(5000)
    packed = tmp_path / "memory.raw.zst"
    packed.write_bytes(linux_machines.zstd.compress(content))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    program = (
        "import sys, pathlib, linux_machines as machines\n"
        "decode = machines._decode\n"
        "machines._decode = lambda *paths: (print('decodes', flush=True), decode(*paths))\n"
        "print(machines.decoded(pathlib.Path(sys.argv[1])))"
    )
    arguments = [sys.executable, "-c", program, str(packed)]
    running = [
        subprocess.Popen(arguments, stdout=subprocess.PIPE, cwd=HELPERS, text=True, env={"TMPDIR": str(tmp_path)})
        for _ in range(4)
    ]
    lines = [line for process in running for line in process.communicate()[0].splitlines()]
    assert lines.count("decodes") == 1
    (path,) = {line for line in lines if line != "decodes"}
    with open(path, "rb") as file:
        assert file.read() == content


def test_no_machine_is_skipped_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A test of a machine that is not there is skipped, and says which is missing and where it was looked for."""
    monkeypatch.setenv("MEMCARVE_MACHINES", str(tmp_path))
    with pytest.raises(pytest.skip.Exception, match=f"no machine linux-none is in {tmp_path}"):
        linux_machines.machine("linux-none")
