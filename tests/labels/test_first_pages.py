"""Modules whose layout maps the first page of their file once more: one module each, and what is not such a part."""

from __future__ import annotations

import json
import struct
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import memcarve
from cores import compiled, needed
from headers import BASE, elf_page, pe_page
from memcarve.formats.programs.first_page import Again, first_page_again
from memcarve.labels.modules import find_modules
from memcarve.metadata import Metadata, Module, Region, Regions
from memcarve.sinks.ranges import known_modules
from memory import PAGE, noise
from processes import metadata_of, process_of
from sinking import extract

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from memcarve.process import ProcessMemory

#: a program of two parts that share a page of its file, the first; the second one is mapped one page further up
SMALL = bytes(elf_page(((0, 0, 0x800, 5), (0x900, 0x1900, 0x900, 6))))
#: the same with the second part 2 MiB further up, as older linkers have it
APART = bytes(elf_page(((0, 0, 0x800, 5), (0x900, 0x200900, 0x900, 6))))
FAR = BASE + 0x200000


def memory(pages: Mapping[int, bytes], regions: Sequence[Region] | None, modules: Any = None) -> ProcessMemory:
    """Return a process that has these pages, by address."""
    numbered = {address // PAGE: data for address, data in pages.items()}
    return process_of(dict.fromkeys(numbered), metadata_of(regions, modules), numbered)


def starts(process: ProcessMemory) -> list[int]:
    """Return where modules are found."""
    return [module.start for module in find_modules(process).modules]


def mapped(start: int, letters: str, offset: int, size: int = PAGE, file: str = "/bin/small") -> Region:
    """Return a region of a file, as /proc/PID/maps has it."""
    return Region(start, size, letters, "mapped", file, offset=offset)


REGIONS = [mapped(BASE, "r-xp", 0), mapped(BASE + PAGE, "rw-p", 0), mapped(BASE + 2 * PAGE, "rw-p", 0x1000)]
PAGES = {BASE: SMALL, BASE + PAGE: SMALL, BASE + 2 * PAGE: noise(1)}


@pytest.mark.parametrize("regions", [None, REGIONS])
def test_small_program(regions: list[Region] | None, tmp_path: Path) -> None:
    """A program whose second part is of its file's first page is one module, and written once."""
    process = memory(PAGES, regions)
    (module,) = find_modules(process).modules
    assert (module.start, (module.header or {})["size"]) == (BASE, 3 * PAGE)
    result = extract(process, tmp_path / "out", [module])
    assert result.count == 1
    (row,) = json.loads((tmp_path / "out" / "modules.json").read_text())["modules"]
    made = (tmp_path / "out" / row["file"]).read_bytes()
    # the first part fills its page; of the second only what lies behind it in the file is its own
    assert made == SMALL + noise(1)[: 0x900 + 0x900 - PAGE]


def test_parts_that_lie_apart(tmp_path: Path) -> None:
    """The second part may lie far behind the first one: the module reaches up to its end, with all its bytes."""
    regions = [mapped(BASE, "r-xp", 0), mapped(FAR, "rw-p", 0), mapped(FAR + PAGE, "rw-p", 0x1000)]
    process = memory({BASE: APART, FAR: APART, FAR + PAGE: noise(1)}, regions)
    (module,) = find_modules(process).modules
    assert (module.start, module.end) == (BASE, FAR + 2 * PAGE)
    extract(process, tmp_path / "out", [module])
    (row,) = json.loads((tmp_path / "out" / "modules.json").read_text())["modules"]
    assert (tmp_path / "out" / row["file"]).read_bytes() == APART + noise(1)[: 0x900 + 0x900 - PAGE]


@pytest.mark.parametrize("there", [BASE, BASE + PAGE])
def test_one_header_is_missing(there: int) -> None:
    """Either header tells, if the other one's page is not in memory and regions say that both are of one file."""
    pages = {there: SMALL, BASE + 2 * PAGE: noise(1)}
    assert starts(memory(pages, REGIONS)) == [BASE]


def test_one_header_is_missing_and_no_file_is_known() -> None:
    """Without regions a single header is a module: nothing tells that it is a part of another one."""
    assert starts(memory({BASE + PAGE: SMALL, BASE + 2 * PAGE: noise(1)}, None)) == [BASE + PAGE]


OTHER = bytes(elf_page(((0, 0, 0x800, 5), (0x900, 0x1900, 0x908, 6))))


@pytest.mark.parametrize(
    ("pages", "regions", "modules"),
    [
        # one file mapped far apart, each as its header says
        ({**PAGES, FAR: SMALL, FAR + PAGE: SMALL, FAR + 2 * PAGE: noise(1)}, None, None),
        # read, not loaded: two mappings of a file's first page that happen to touch
        ({BASE: SMALL, FAR: SMALL}, [mapped(BASE, "r--p", 0), mapped(FAR, "r--p", 0)], None),
    ],
)
def test_distinct_mappings(pages: dict[int, bytes], regions: Any, modules: Any) -> None:
    """Two mappings of one file at different addresses are two modules."""
    assert starts(memory(pages, regions, modules)) == [BASE, FAR]


@pytest.mark.parametrize(
    ("pages", "regions", "modules"),
    [
        # another header, another file, a mapping of its own by the list
        ({**PAGES, BASE + PAGE: OTHER}, REGIONS, None),
        (PAGES, [REGIONS[0], mapped(BASE + PAGE, "rw-p", 0, file="/bin/other"), REGIONS[2]], None),
        (PAGES, REGIONS, [Module(BASE + PAGE, 2 * PAGE, "small")]),
        # not loaded as the header says: read only, or not up to its end
        (PAGES, [mapped(BASE, "r--p", 0), mapped(BASE + PAGE, "r--p", 0), mapped(BASE + 2 * PAGE, "r--p", 0)], None),
        ({BASE: SMALL, BASE + PAGE: SMALL}, REGIONS[:2], None),
        ({BASE: SMALL, BASE + PAGE: SMALL}, None, None),
    ],
)
def test_what_is_no_part(pages: dict[int, bytes], regions: Any, modules: Any) -> None:
    """What only lies where a part could is a module of its own."""
    assert starts(memory(pages, regions, modules)) == [BASE, BASE + PAGE]


@pytest.mark.parametrize(("offset", "found"), [(0, [BASE]), (0x100, [BASE]), (0x200, [BASE, BASE + 0x4000])])
def test_section_of_the_header(offset: int, found: list[int]) -> None:
    """A PE's section that begins in its file's first 512 bytes has the header in it, and is no module of its own."""
    page = pe_page()
    struct.pack_into("<I", page, 0x80 + 24 + 240 + 40 + 20, offset)  # PointerToRawData of the second section
    pages = {BASE + number * PAGE: noise(number) for number in range(1, 4)}
    pages |= {BASE: bytes(page), BASE + 0x4000: bytes(page)}
    regions = [Region(BASE, 0x5000, "PAGE_EXECUTE_WRITECOPY", "image", "\\a.exe")]
    assert starts(memory(pages, regions)) == found
    assert starts(memory(pages, None)) == found


def test_first_page_again() -> None:
    """Where the header lies again is told by the places of parts in the file, of all sizes of pages."""
    assert first_page_again(SMALL) == [Again(0x1000, 0x2200, executable=True)]
    assert first_page_again(APART) == [Again(0x200000, 0x201200, executable=True)]
    assert first_page_again(bytes(elf_page())) == []
    large = bytes(elf_page(((0, 0, 0x800, 4), (0x2900, 0x12900, 0x100, 6), (0x20000, 0x40000, 8, 6))))
    assert first_page_again(large) == [Again(0x10000, 0x12A00, executable=False)]
    assert first_page_again(b"") == first_page_again(bytes(PAGE)) == []


def test_modules_of_exports() -> None:
    """Exports list such a program once, up to the end of its last part; what is no part is another one."""
    rows = [
        mapped(BASE, "r-xp", 0), mapped(FAR, "rw-p", 0), mapped(FAR + PAGE, "rw-p", 0x1000),
        mapped(FAR + 0x100000, "r-xp", 0),
    ]  # fmt: skip
    regions = Regions("here", rows)
    pages = {BASE: APART, FAR: APART, FAR + PAGE: noise(1), FAR + 0x100000: APART}
    numbered = {address // PAGE: data for address, data in pages.items()}
    process = process_of(dict.fromkeys(numbered), Metadata((regions,)), numbered)
    assert known_modules(process, regions) == [
        Module(BASE, FAR + 2 * PAGE - BASE, "small", "/bin/small"),
        Module(FAR + 0x100000, PAGE, "small", "/bin/small"),
    ]


TEXT_OF_PROGRAM = """
#include <stdio.h>
#include <unistd.h>
int data = 5;
int main(void) { puts("ready"); fflush(stdout); pause(); return data; }
"""


@pytest.mark.parametrize(
    "options",
    [
        ["-pie", "-fPIE", "-Wl,-z,noseparate-code"],
        ["-no-pie", "-Wl,-z,noseparate-code", "-Wl,-z,norelro"],
        ["-no-pie", "-Wl,-z,noseparate-code", "-Wl,-z,norelro", "-Wl,-z,max-page-size=0x200000"],
        ["-pie", "-fPIE", "-Wl,-z,noseparate-code", "-Wl,-z,norelro", "-Wl,-z,max-page-size=0x10000"],
        ["-pie", "-fPIE"],
    ],
)
def test_real_programs(tmp_path: Path, options: list[str]) -> None:
    """A program that gcc made and gcore wrote a core of is extracted once, however the linker laid it out."""
    gcore = needed("gcore")
    program = compiled(tmp_path, TEXT_OF_PROGRAM, *options)
    with subprocess.Popen([str(program)], stdout=subprocess.PIPE, text=True) as child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n"
            time.sleep(0.05)  # until it waits
            ran = subprocess.run([gcore, "-o", tmp_path / "core", str(child.pid)], capture_output=True, check=False)
            rows = [line.split(None, 5) for line in Path(f"/proc/{child.pid}/maps").read_text().splitlines()]
        finally:
            child.kill()
    core = tmp_path / f"core.{child.pid}"
    if not core.exists():
        pytest.skip(f"gcore may not look into a process here: {ran.stderr.decode()[-200:]}")
    base = min(int(row[0].split("-")[0], 16) for row in rows if row[-1] == str(program))
    with memcarve.open(core) as container:
        process = container.process()
        found = [module for module in find_modules(process).modules if module.path == str(program)]
        assert [module.start for module in found] == [base]
        extract(process, tmp_path / "out", found)
    (row,) = json.loads((tmp_path / "out" / "modules.json").read_text())["modules"]
    made, original = (tmp_path / "out" / row["file"]).read_bytes(), program.read_bytes()
    # all but the section headers, and what the loader and the program changed: data and the dynamic section
    assert len(made) > 0.2 * len(original)
    assert sum(one != other for one, other in zip(made, original, strict=False)) < 0.2 * len(made)
