"""Swapped pages of real Linux machines, in the disks that they were swapped to."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

import memcarve
from cli import invoke
from files import EXAMPLE
from linux_machines import machine, machines
from memcarve.errors import InputError, UsageError
from memcarve.images.linux.swapping.compressed_swap import CompressedSwap
from memcarve.permissions import origin
from memory import PAGE

if TYPE_CHECKING:
    from pathlib import Path


#: what swapped programs filled their memory with, in lines of 64 bytes
_LINE = re.compile(rb"swap-[a-z-]+ *pid +(\d+) off 0x([0-9a-f]{12}) ")
#: a machine that swapped to zram: the disk is area 1, formatted, and was never used
_ZRAM = "linux-6.12-amd64"


@pytest.mark.parametrize("name", machines())
def test_swapped_pages_are_found(name: str) -> None:
    """Each page that the machine said was swapped to its disk, or to zram, has the program's own text."""
    linux = machine(name)
    area = linux.path("swap.img")
    image = area.read_bytes()
    seen, begins = 0, set()
    given, expected = ([], "compressed") if name == _ZRAM else ([str(area)], "pagefile")
    with memcarve.open(linux.raw, page_files=given) as container:
        for pid in linux.stopped:
            swapped = linux.swapped(pid)
            if not len(swapped.address):
                continue
            memory = container.process(pid)
            assert memory.space.flags is not None
            for address, place in zip(swapped.address.tolist(), swapped.offset.tolist(), strict=True):
                data = memory.read(address, PAGE)
                assert origin(int(memory.space.flags[memory.space.index(address)])) == expected
                if given:
                    assert data == image[place * PAGE : (place + 1) * PAGE]
                line = _LINE.match(data)
                assert line is not None
                assert int(line[1]) == pid
                begins.add(address - int(line[2], 16))
                seen += 1
    assert seen > 100
    # of two mappings that were filled from their beginning on
    assert len(begins) <= 2


def test_a_file_for_an_area_on_zram() -> None:
    """A file under the number of an area that is on zram is refused; without a number it has one that is not."""
    linux = machine(_ZRAM)
    pid = next(pid for pid in linux.stopped if len(linux.swapped(pid).address))
    area = linux.path("swap.img")
    with (
        memcarve.open(linux.raw, page_files=[f"0={area}"]) as container,
        pytest.raises(UsageError, match=r"swap area 0 is on zram.*as 1=FILE"),
    ):
        container.process(pid)
    with memcarve.open(linux.raw, page_files=[str(area)]) as container:
        memory = container.process(pid)
        assert [row["number"] for row in memory.inputs["page_files"]] == [1]
        assert memory.pages["compressed"] == len(linux.swapped(pid).address)
        assert memory.pages["in_pagefile"] == 0


def test_another_number() -> None:
    """A file from which nothing comes while entries name another number is told; with the right number nothing is."""
    linux = machine(machines()[0])
    pid = next(pid for pid in linux.stopped if len(linux.swapped(pid).address))
    area = linux.path("swap.img")
    said = f"{area}: no page was read from it: entries name another number than 7"
    for number, told in ("7", True), ("0", False):
        with memcarve.open(linux.raw, page_files=[f"{number}={area}"]) as container:
            notes = [str(note) for note in container.process(pid).notes]
            assert (said in notes) == told
            assert any("no page was read" in note for note in notes) == told


def test_a_file_that_is_no_swap_area(tmp_path: Path) -> None:
    """A file without the mark of a swap area is refused by name."""
    linux = machine(machines()[0])
    path = tmp_path / "no.img"
    path.write_bytes(bytes(8 * PAGE))
    with memcarve.open(linux.raw, page_files=[str(path)]) as container, pytest.raises(InputError, match="SWAPSPACE2"):
        container.process(linux.stopped[0])


def test_what_zswap_has_is_doubted(monkeypatch: pytest.MonkeyPatch) -> None:
    """If what zswap holds of an area is damaged, and pages are read from its file, that is said: they may be older."""
    linux = machine(machines()[0])
    pid = next(pid for pid in linux.stopped if len(linux.swapped(pid).address))
    area = linux.path("swap.img")

    def said(number: int) -> bool:
        with memcarve.open(linux.raw, page_files=[f"{number}={area}"]) as container:
            notes = container.process(pid).notes
        return any(f"zswap holds of swap area {number} is damaged" in str(note) for note in notes)

    assert not said(0)
    monkeypatch.setattr(CompressedSwap, "doubted", {0, 1})
    assert said(0)
    assert not said(1)


def test_a_dump(capfdbinary: pytest.CaptureFixture[bytes], tmp_path: Path) -> None:
    """A page file beside a process's dump has no use: the error says what to leave out."""
    area = tmp_path / "swap.img"
    area.write_bytes(bytes(8 * PAGE))
    ran = invoke(capfdbinary, "segments", EXAMPLE, "--pagefile", area)
    assert ran.code == 1
    assert "if it is no image but a process's dump, leave --pagefile out; else give a page-table root" in ran.err
