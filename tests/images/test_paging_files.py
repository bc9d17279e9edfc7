"""Which page file has which number, by Windows' own list of them: found, or not if it does not prove itself.

The images' lists are written from Microsoft's public symbols; MemProcFS finds the store's number by the same list.
"""

from __future__ import annotations

import hashlib
import json
import os
from typing import TYPE_CHECKING, Any

import pytest

import memcarve
import winimage
from cli import invoke
from memcarve.errors import InputError, UsageError
from memory import PAGE
from memprocfs_runs import run as run_memprocfs, skip_without, with_xpress
from sweeps import some
from winimage import Plan, left_ram, userland
from winimage.paging_files import PagingFiles

if TYPE_CHECKING:
    from pathlib import Path

    from memcarve.process import ProcessMemory
    from winimage import Truth

    Capture = pytest.CaptureFixture[bytes]

PID = 5000
C, D, SWAP = "\\??\\C:\\pagefile.sys", "\\??\\D:\\pagefile.sys", "\\??\\C:\\swapfile.sys"
#: four files: the store's number is not the usual one
FOUR = (C, SWAP, D, None)
NAMES = {0: "PageFile.sys", 1: "swapfile.sys", 2: "d/pagefile.sys"}


def built(place: Path, paging: PagingFiles | None, layout: int = 8, *, numbers: int = 2, **options: Any) -> Truth:
    """Write an image of a process with pages in page files and, if there is a store, in that."""
    words = tuple(f"pagefile {number}" for number in range(numbers)) * 8
    if paging is not None and None in paging.paths:
        words += ("compressed packed",) * 20
    old = winimage.layout_of(layout).version < (10, 0)
    left = left_ram.LeftRam(
        (), (left_ram.MOVED, left_ram.Private(0x30100000000, words)), not old, 0 if old else 1 << 45
    )
    others = [Plan(400 + 4 * number, b"w%d.exe" % number, 388, memory=()) for number in range(10)]
    plan = Plan(PID, b"left.exe", 388, memory=(), userland=userland.plain(PID), left=left)
    owner = Plan(900, b"MemCompression", 4, memory=())
    processes = [Plan(388, b"smss.exe"), owner, *others, plan]
    options = {"megabytes": 32, "stub": True, "realistic": True, **options}
    return winimage.build(place / "mem.raw", layout=layout, processes=processes, paging=paging, **options)


def named(truth: Truth, place: Path, names: dict[int, str] = NAMES) -> list[str]:
    """Return the page files under names of their own, the last one first."""
    found = []
    for number, path in sorted(truth.page_files.items(), reverse=True):
        to = place / names[number]
        to.parent.mkdir(exist_ok=True)
        os.link(path, to)
        found.append(str(to))
    return found


def assert_right(truth: Truth, memory: ProcessMemory) -> None:
    """Hold every page that was planned against what is read."""
    for address, one in truth.left[PID].found.items():
        assert memory.read(address, PAGE) == one.data, hex(address)


def opened(truth: Truth, given: list[str]) -> ProcessMemory:
    """Open the process, and close the image again."""
    with memcarve.open(truth.path, page_files=given) as container:
        memory = container.process(PID)
        assert_right(truth, memory)
        return memory


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Truth:
    """Return a machine with three page files and a store."""
    return built(tmp_path_factory.mktemp("four"), PagingFiles(FOUR), numbers=3)


@pytest.mark.parametrize("layout", [0, 1, 14, 8, 23, *some([5, 7, 9, 10, 13, 15, 17, 24], 2)])
def test_names_have_numbers(tmp_path: Path, layout: int) -> None:
    """A file whose name the machine had has the number that it had there, in whatever order files are given."""
    stores = winimage.layout_of(layout).build >= 14393
    truth = built(tmp_path, PagingFiles((C, SWAP, None) if stores else (C, SWAP)), layout)
    memory = opened(truth, named(truth, tmp_path))
    assert [row["number"] for row in memory.inputs["page_files"]] == [1, 0]
    assert any(f"PageFile.sys: is read as page file 0 ({C})" in note for note in memory.notes)


def test_names_in_other_order(tmp_path: Path) -> None:
    """The machine's order counts, not the usual one: also if swapfile.sys has another number."""
    truth = built(tmp_path, PagingFiles((SWAP, "", C)), numbers=1)
    os.link(truth.page_files[0], tmp_path / "swapfile.sys")
    opened(truth, [str(tmp_path / "swapfile.sys")])


@pytest.mark.parametrize("wrong", ["number", "sizes", "file", "names", "loop", "slot", "two"])
def test_a_list_that_does_not_prove_itself(tmp_path: Path, wrong: str) -> None:
    """A list that is damaged, or that another one contradicts, counts for nothing: order gives numbers, as is said."""
    truth = built(tmp_path, PagingFiles(wrong=wrong))
    memory = opened(truth, [truth.page_files[0], truth.page_files[1]])
    (note,) = [note for note in memory.notes if "own list of its page files is not known" in note]
    assert ("contradict" in note) == (wrong == "two")


@pytest.mark.parametrize("wrong", ["copy", "drive", "name"])
def test_a_list_that_lacks_little(tmp_path: Path, wrong: str) -> None:
    """Two lists that agree are one; a name that is not in memory is in the file object; without it, numbers remain."""
    truth = built(tmp_path, PagingFiles(wrong=wrong))
    memory = opened(truth, named(truth, tmp_path))
    assert not any("own list of its page files" in note for note in memory.notes)


def test_a_name_that_is_not_known(tmp_path: Path) -> None:
    """If a file whose name is not in memory may have the same name as another one, the number must be said."""
    truth = built(tmp_path, PagingFiles((C, SWAP, D, None), wrong="name"), numbers=3)
    paths = named(truth, tmp_path)
    with (
        memcarve.open(truth.path, page_files=paths[:1]) as container,
        pytest.raises(UsageError, match=r"or may have it: 2 is .*, 0 is a page file whose name is not in memory"),
    ):
        container.process(PID)
    opened(truth, [f"2={paths[0]}", f"1={paths[1]}", f"0={paths[2]}"])


def test_two_of_one_name(machine: Truth, tmp_path: Path) -> None:
    """Two page files of the same name on two drives: their numbers must be said, and the store has another one."""
    paths = named(machine, tmp_path)
    with (
        memcarve.open(machine.path, page_files=paths) as container,
        pytest.raises(UsageError, match=r"several .* 0 is .*C:\\pagefile.sys, 2 is .*D:\\pagefile.sys"),
    ):
        container.process(PID)
    memory = opened(machine, [f"2={paths[0]}", paths[1], f"0={paths[2]}"])
    assert memory.pages is not None
    assert memory.pages["compressed"] == 20


def alike(truth: Truth, path: Path, number: int, more: int = 0) -> str:
    """Make a file as large as a page file of the machine, or a little larger or smaller; return its path."""
    path.parent.mkdir(exist_ok=True)
    path.touch()
    os.truncate(path, os.stat(truth.page_files[number]).st_size + more)
    return str(path)


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (["1=c/pagefile.sys"], "is given as page file 1, and is another"),
        (["3=c/pagefile.sys"], "page file 3 is none: compressed pages go by this number"),
        (["4=c/pagefile.sys"], "the machine had no page file 4: 0 is .*, 3 is where compressed pages are"),
        (["swapfile.sys", "1=other.bin"], "page file 1 is given twice: 1 is"),
        (["0=c/pagefile.sys", "pagefile.sys"], "several page files"),
        (["a.bin", "b.bin", "c.bin", "d.bin"], "more page files than the machine had: 0 is"),
    ],
)
def test_contradictions(machine: Truth, tmp_path: Path, given: list[str], why: str) -> None:
    """What contradicts the machine's own list is refused, and the list is shown."""
    words = []
    for word in given:
        number, _, name = word.rpartition("=")
        words.append(f"{number}{'=' if number else ''}{alike(machine, tmp_path / name, 0)}")
    with memcarve.open(machine.path, page_files=words) as container, pytest.raises(UsageError, match=why):
        container.process(PID)


@pytest.mark.parametrize(
    ("more", "why"), [(-1, "it is cut off, or another one"), (2 << 20, "it is another one"), ((2 << 20) - 1, "")]
)
def test_sizes(tmp_path: Path, more: int, why: str) -> None:
    """A file that is shorter than the machine's, or longer than that could become, is refused without its number.

    A copy may be longer by less than a cluster.
    """
    truth = built(tmp_path, PagingFiles())
    pages = os.stat(truth.page_files[0]).st_size // PAGE
    truth = built(tmp_path, PagingFiles(most=((0, pages),)))
    path = tmp_path / "pagefile.sys"
    os.rename(truth.page_files[0], path)
    os.truncate(path, pages * PAGE + more)
    with memcarve.open(truth.path, page_files=[f"0={path}"]) as container:
        if why:
            with pytest.raises(InputError, match=why):
                container.process(PID)
            with memcarve.open(truth.path, page_files=[f"0={path}"], trust="pagefile") as said:
                memory = said.process(PID)
                assert memory.read(0x30100000000, PAGE) == truth.left[PID].found[0x30100000000].data
                assert any("because it is trusted, but has" in note and why in note for note in memory.notes)
                assert memory.incomplete
        else:
            container.process(PID)


def test_without_the_files(machine: Truth) -> None:
    """Without the files, the list tells what is in a page file from what is compressed and not in the store."""
    with memcarve.open(machine.path) as container:
        memory = container.process(PID, half="user")
    assert memory.pages is not None
    assert memory.pages["in_pagefile"] == 24
    assert memory.pages["compressed"] == 20


def test_a_store_whose_number_contradicts_its_keys(tmp_path: Path) -> None:
    """If keys say another number than the list, no page is taken from the store, and it is said why."""
    truth = built(tmp_path, PagingFiles(wrong="keys"))
    with memcarve.open(truth.path) as container:
        memory = container.process(PID, half="user")
    assert any("their keys and Windows' list of page files contradict each other" in note for note in memory.notes)
    for page, one in truth.left[PID].found.items():
        assert (memory.space.at(page) is None) == (one.origin != "transition")


def test_a_carve_by_names_is_verified(machine: Truth, tmp_path: Path, capfdbinary: Capture) -> None:
    """A carve records the numbers that names had, and is verified with them."""
    path = named(machine, tmp_path)[1]
    ran = invoke(capfdbinary, "carve", machine.path, "--pid", str(PID), "--pagefile", path, "-o", tmp_path / "out")
    assert ran.code == 0, ran.err
    assert f"swapfile.sys: is read as page file 1 ({SWAP})" in ran.err
    rows = json.loads((tmp_path / "out" / "segments.json").read_text())["inputs"]["page_files"]
    assert [row["number"] for row in rows] == [1]
    assert invoke(capfdbinary, "verify", tmp_path / "out", "--source", machine.path).code == 0
    ran = invoke(
        capfdbinary, "carve", machine.path, "--pid", str(PID), "--pagefile", f"0={path}", "-o", tmp_path / "no"
    )
    assert ran.code == 2
    assert "leave the number out of --pagefile" in ran.err


def test_memprocfs_finds_the_store_by_the_same_list(tmp_path: Path) -> None:
    """MemProcFS reads the same pages of three page files, and of a store whose number is 3 by the kernel's list."""
    skip_without()
    truth = built(tmp_path, PagingFiles(FOUR), 9, numbers=3)
    pages = sorted(truth.left[PID].found)
    options = [word for number, path in truth.page_files.items() for word in (f"-pagefile{number}", path)]
    wanted = json.dumps({PID: [(page, 1) for page in pages]})
    told = json.loads(run_memprocfs(truth.path, *options, stdin=wanted, package=with_xpress(tmp_path)))
    theirs = next(one["pages"] for one in told if one["pid"] == PID)
    digest = {page: hashlib.blake2b(one.data, digest_size=8).hexdigest() for page, one in truth.left[PID].found.items()}
    assert {page: theirs.get(str(page)) for page in pages} == digest
    opened(truth, [f"{number}={path}" for number, path in truth.page_files.items()])
