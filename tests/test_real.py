"""A real process's dump: what was carved from it against what the running system saw itself.

The files are not in the repository (they hold other people's programs). Their folder is given by MEMCARVE_REAL, or lies
beside the repository as ``shared/real``.
"""

from __future__ import annotations

import json
import os
import zlib
from typing import TYPE_CHECKING

import pytest

import memcarve
import sinking
from carved import binaries, manifest
from cli import invoke
from memcarve.images.structure_reader import Reader
from memcarve.images.windows import peb_modules, process_parameters, unloaded_modules
from memory import PAGE
from real import CLOCK, REAL, RENDERERS, STEM, needed

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="module")
def carved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder that the dump was carved into, through one of its maps."""
    out = tmp_path_factory.mktemp("real") / "out"
    with memcarve.open(needed(f"{STEM}.dmp"), memory_map=needed(f"{STEM}.map")) as dump:
        sinking.carve(dump.process(), out)
    return out


@pytest.fixture(scope="module")
def seen() -> dict[int, int]:
    """Return what the running system saw: the CRC-32 of each resident page by its address."""
    rows = (line.split() for line in needed("114.pages").read_text().splitlines())
    return {int(row[0], 16): int(row[2], 16) for row in rows if not {"err", "swap"} & set(row)}


def pages(folder: Path) -> Iterator[tuple[int, bytes]]:
    """Yield address and content of each page of a carved folder; the addresses come from the files' names."""
    for name, data in binaries(folder).items():
        start = int(name.partition("-")[0], 16)
        for at in range(0, len(data), PAGE):
            yield start + at, data[at : at + PAGE]


def test_every_page_is_what_the_system_saw(carved: Path, seen: dict[int, int]) -> None:
    """Each page has the CRC-32 that the running system saw, but the one that holds a running clock."""
    found = {address: zlib.crc32(data) for address, data in pages(carved)}
    assert len(seen) > 3000
    assert seen.keys() <= found.keys()
    assert [hex(address) for address, crc in seen.items() if found[address] != crc] == [hex(CLOCK)]


def test_one_page_more(carved: Path, seen: dict[int, int]) -> None:
    """The map holds exactly one page that the system could not read of itself, and it is in [vvar]."""
    (more,) = {address for address, _ in pages(carved)} - seen.keys()
    rows = (line.split(None, 5) for line in needed("114.maps").read_text().splitlines())
    ranges = {row[0]: row[-1].strip() for row in rows}
    inside = [
        name
        for span, name in ranges.items()
        if int(span.partition("-")[0], 16) <= more < int(span.partition("-")[2], 16)
    ]
    assert inside == ["[vvar]"]


def test_files_are_the_whole_dump(carved: Path) -> None:
    """Laid end to end in the order of their offsets, the files are the dump, and verify agrees."""
    listed = sorted(manifest(carved)["segments"], key=lambda segment: segment["offset"])
    contents = binaries(carved)
    dump = needed(f"{STEM}.dmp")
    assert b"".join(contents[segment["file"]] for segment in listed) == dump.read_bytes()
    with memcarve.open(dump, memory_map=needed(f"{STEM}.map")) as container:
        assert memcarve.verify(carved, container.process()).compared


def test_another_map_says_the_same(carved: Path) -> None:
    """Held against another renderer's map of the dump, the folder differs in nothing but which map it was."""
    with (
        memcarve.open(needed(f"{STEM}.dmp"), memory_map=needed(f"{STEM}.csv")) as container,
        pytest.raises(memcarve.VerificationError) as caught,
    ):
        memcarve.verify(carved, container.process())
    assert [fault.partition(" is ")[0] for fault in caught.value.faults] == [
        "segments.json: inputs.map.size:",
        "segments.json: inputs.map.format:",
    ]


@pytest.mark.parametrize("renderer", RENDERERS)
def test_renderers_agree(renderer: str, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    """All five renderers' maps give the same segments."""
    dump = needed(f"{STEM}.dmp")
    found = []
    for ending in ("map", renderer):
        memory_map = needed(f"{STEM}.{ending}")
        ran = invoke(capfdbinary, "segments", dump, "--map", memory_map, "--format", "json")
        assert ran.code == 0
        found.append(json.loads(ran.out)["segments"])
    assert found[0] == found[1]
    assert sum(segment["size"] for segment in found[1]) == dump.stat().st_size


def test_main_job(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    """The command alone finds the map beside the dump and carves it whole."""
    needed(f"{STEM}.map")
    ran = invoke(capfdbinary, "carve", needed(f"{STEM}.dmp"), "-o", tmp_path / "out")
    assert (ran.code, ran.out) == (0, b"")
    assert manifest(tmp_path / "out")["process"]["pid"] == 114
    assert invoke(capfdbinary, "verify", tmp_path / "out", "--source", REAL / f"{STEM}.map").code == 0


def test_programs_in_memory(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    """The process holds Wine's own programs: what marks them is found, at the offsets where it lies in the dump."""
    dump = needed(f"{STEM}.dmp")
    mark = b"Wine builtin DLL"
    ran = invoke(capfdbinary, "find", dump, mark.decode(), "--encoding", "utf-8", "--format", "jsonl")
    hits = [json.loads(line) for line in ran.out.splitlines()]
    data = dump.read_bytes()
    assert len(hits) == data.count(mark) > 0
    assert all(data[hit["offset"] :].startswith(mark) for hit in hits)


def test_labels_of_the_real_process(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    """Protection, file and offset of each segment are those of the maps that the system saw; headers have names."""
    dump, maps = needed(f"{STEM}.dmp"), needed("114.maps")
    options = ("--map", needed(f"{STEM}.map"), "--regions", maps, "--split", "region", "--hash", "none")
    out = tmp_path / "out"
    assert invoke(capfdbinary, "carve", dump, "-o", out, *options, "--content", "headers").code == 0
    seen = {}
    for line in maps.read_text().splitlines():
        bounds, flags, offset, *rest = line.split(None, 5)
        start, end = (int(bound, 16) for bound in bounds.split("-"))
        seen[start] = end, flags[:3], int(offset, 16), rest[2].strip() if len(rest) > 2 else None
    names: dict[str, str] = {}
    for segment in manifest(out)["segments"]:
        start, end = int(segment["start"], 16), int(segment["end"], 16)
        labels = segment["labels"]
        (region,) = labels["regions"]
        begin = int(region["start"], 16)
        last, flags, offset, file = seen[begin]
        assert begin <= start
        assert end <= last
        assert labels["protection"] == [flags]
        kinds = {"[heap]": ["heap"], "[stack]": ["stack"]}
        assert region.get("file") == (None if file in kinds else file)
        assert labels.get("kind") == kinds.get(file or "", labels.get("kind"))
        assert file is None or file.startswith("[") or region["offset"] == offset
        headers = labels.get("content", {}).get("headers", ())
        names.update((os.path.basename(file or ""), header["name"]) for header in headers if "name" in header)
    assert names["ntdll.dll"] == "ntdll.dll"
    assert names["kernelbase.dll"].lower() == "kernelbase.dll"
    assert names["libc.so.6"] == "libc.so.6"


def test_what_a_program_of_wines_says_of_itself() -> None:
    """Wine lays its PEB and ntdll out as Windows does: command line and environment are read, and no module unloaded.

    The first page that names the program as its image and leads to parameters is the PEB: the dump does not say where
    it is.
    """
    with memcarve.open(needed(f"{STEM}.dmp"), memory_map=needed(f"{STEM}.map")) as dump:
        reader = Reader(dump.process().space)
        pages = (page for segment in dump.process().segments() for page in range(segment.start, segment.end, PAGE))
        peb = next(page for page in pages if reader.number(page + 0x10) == 0x140000000 and reader.number(page + 0x20))
        found, notes = process_parameters.parameters(reader, peb, peb_modules.WIDE)
        modules, _ = peb_modules.modules(reader, peb, peb_modules.WIDE, 0x140000000)
        bases = [row.start for row in modules or () if row.name == "ntdll.dll"]
        gone, more = unloaded_modules.unloaded(reader, unloaded_modules.FORMS[8], bases)
    assert found is not None
    assert (found.command_line, found.image_path, found.current_directory) == (
        '"C:\\windows\\system32\\services.exe"',
        "C:\\windows\\system32\\services.exe",
        "C:\\windows\\",
    )
    environment = found.environment or ()
    assert {"SystemDrive=C:", "SystemRoot=C:\\windows", "WINEPREFIX=/root/.wine"} <= set(environment)
    assert all("=" in string for string in environment)
    assert gone is not None
    assert (list(gone.rows), notes, more) == ([], [], [])
