"""``/proc/PID/maps`` and ``smaps`` as regions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings, strategies as st

from files import put
from memcarve.errors import MapError, MemcarveError, NotRecognisedError
from memcarve.formats.listing import Listing
from memcarve.metadata import Region
from memcarve.sources.listings import metadata_from_files
from real import needed

if TYPE_CHECKING:
    from pathlib import Path

LINE = "00400000-00452000 r-xp 00001000 08:02 173521 /bin/a"
SMAPS = (
    "00400000-00452000 r-xp 00001000 08:02 173521                             /bin/a b\n"
    "Size:                328 kB\nKernelPageSize:        4 kB\nTHPeligible:    0\nVmFlags: rd ex mr mw me sd \n"
    "7ffc0000-7ffd0000 rw-p 00000000 00:00 0                                  [stack]\n"
    "Size:                 64 kB\nVmFlags: \n"
)


def regions(path: str) -> list[Region]:
    """Return the regions that a file of /proc/PID/maps tells."""
    return metadata_from_files({"regions": (path,)}, None).regions[0].rows


def of(region: Region, device: tuple[int, int] = (0, 0), inode: int = 0) -> Region:
    """Return a region with what the line says of its file."""
    return region._replace(device=device, inode=inode)


def test_the_maps_of_a_real_process() -> None:
    """Every line of a real process's maps is read as it stands there."""
    path = needed("114.maps")
    lines = [line.split(maxsplit=5) for line in path.read_text().splitlines()]
    bounds = [[int(word, 16) for word in line[0].split("-")] for line in lines]
    found = regions(str(path))
    assert [(row.start, row.end, row.protection) for row in found] == [
        (*ends, line[1]) for ends, line in zip(bounds, lines, strict=True)
    ]
    paths = [line[5] if len(line) > 5 else None for line in lines]
    assert [row.file for row in found] == [None if path in ("[heap]", "[stack]") else path for path in paths]
    mapped = [path is not None and path.startswith("/") for path in paths]
    assert [row.offset for row in found] == [
        int(line[2], 16) if there else None for line, there in zip(lines, mapped, strict=True)
    ]
    assert [row.kind == "mapped" for row in found] == mapped
    assert [row.kind == "private" for row in found] == [path is None for path in paths]
    assert {row.kind for row in found if row.file in ("[vdso]", "[vvar]")} == {None}
    assert sum(row.kind == "stack" for row in found) == 1


@pytest.mark.parametrize(
    ("line", "region"),
    [
        (LINE, of(Region(0x400000, 0x52000, "r-xp", "mapped", "/bin/a", offset=0x1000), (8, 2), 173521)),
        ("0-1000 r--p 0 0:0 0", None),
        ("00000000-00001000 r--p 00000000 00:00 0 ", of(Region(0, 0x1000, "r--p", "private", private=True))),
        ("00000000-00001000 r--p 00000000 00:00 0", of(Region(0, 0x1000, "r--p", "private", private=True))),
        ("00001000-00002000 rw-s 00000000 00:00 0 ", of(Region(0x1000, 0x1000, "rw-s", private=False))),
        ("00001000-00002000 rw-p 00000000 00:00 0 [heap]", of(Region(0x1000, 0x1000, "rw-p", "heap", private=True))),
        (
            "00001000-00002000 rw-p 00000000 00:00 0 [stack:12]",
            of(Region(0x1000, 0x1000, "rw-p", "stack", private=True, detail="[stack:12]")),
        ),
        (
            "00001000-00002000 rw-p 00000000 00:00 0 [anon:a b]",
            of(Region(0x1000, 0x1000, "rw-p", "private", "[anon:a b]", private=True)),
        ),
        ("00001000-00002000 r--p 00000000 00:00 0 [vvar]", of(Region(0x1000, 0x1000, "r--p", file="[vvar]"))),
        (
            "ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]",
            of(Region(0xFFFFFFFFFF600000, 0x1000, "--xp", file="[vsyscall]")),
        ),
        (
            "7f0000000000-7f0000001000 rw-s 123456789a000 103:02 18446744073709551615 /a \\012 b (deleted) ",
            of(
                Region(
                    0x7F0000000000,
                    0x1000,
                    "rw-s",
                    "mapped",
                    "/a \\012 b (deleted) ",
                    private=False,
                    offset=0x123456789A000,
                ),
                (0x103, 2),
                18446744073709551615,
            ),
        ),
        (
            "00001000-00002000 rw-p 00000000 00:0e 7 anon_inode:[perf_event]",
            of(Region(0x1000, 0x1000, "rw-p", "mapped", "anon_inode:[perf_event]", offset=0), (0, 0xE), 7),
        ),
    ],
)
def test_a_line_of_maps(line: str, region: Region | None, tmp_path: Path) -> None:
    """What the kernel writes is taken as it stands, and says no more than it says."""
    path = put(tmp_path / "maps", f"{line}\n".encode())
    if region is None:
        with pytest.raises(NotRecognisedError):
            regions(path)
    else:
        assert regions(path) == [region]


@pytest.mark.parametrize("newline", ["\n", "\r\n"], ids=["LF", "CRLF"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_smaps_is_maps_with_details(newline: str, encoding: str, tmp_path: Path) -> None:
    """The lines of details between those of regions are passed over."""
    path = put(tmp_path / "smaps", SMAPS.replace("\n", newline).encode(encoding))
    assert regions(path) == [
        of(Region(0x400000, 0x52000, "r-xp", "mapped", "/bin/a b", offset=0x1000), (8, 2), 173521),
        of(Region(0x7FFC0000, 0x10000, "rw-p", "stack", private=True)),
    ]


def test_letters_that_are_no_utf_8_can_be_told_again(tmp_path: Path) -> None:
    """A path of any bytes stays what it is."""
    path = put(tmp_path / "maps", LINE.encode() + b"\xff\xc3(\x1b[31m\n")
    assert (regions(path)[0].file or "").encode("utf-8", "surrogateescape") == b"/bin/a\xff\xc3(\x1b[31m"


@pytest.mark.parametrize(
    "line",
    [
        "nonsense", "00400000-00452000", "00400000-00452000 rwxp", LINE.replace("r-xp", "rxxp"), f"00{'0' * 15}{LINE}",
        LINE.replace("173521", "1" * 100_000), LINE.replace("-", "_"), f" {LINE}",
        LINE.replace("00452000", "00300000"), LINE + "x" * (1 << 18),
    ],
    ids=range(10),
)  # fmt: skip
def test_a_line_that_is_none_is_named(line: str, tmp_path: Path) -> None:
    """A line that the kernel does not write so is refused by its number."""
    path = put(tmp_path / "maps", f"{LINE}\n\n{line}\n".encode())
    with pytest.raises(MapError, match="line 3: "):
        regions(path)


def test_a_last_line_that_is_cut_off_is_not_used(tmp_path: Path) -> None:
    """Where the last line has no end its path may go on: it is left out, and a note says so."""
    for length in range(len(LINE)):
        path = put(tmp_path / "maps", f"{LINE}\n{LINE[:length]}".encode())
        found = metadata_from_files({"regions": (path,)}, None)
        assert len(found.regions[0]) == 1
        assert any("line 2: is cut off" in note for note in found.notes) == (length > 0)


@given(data=st.data())
@settings(max_examples=300)
def test_damaged_maps_raise_only_declared_errors(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Whatever is put into the text or taken out, it is read or refused."""
    content = SMAPS.encode()
    for _ in range(data.draw(st.integers(1, 4))):
        place, length = data.draw(st.integers(0, len(content))), data.draw(st.integers(0, 30))
        content = content[:place] + data.draw(st.binary(max_size=10)) + content[place + length :]
    path = put(tmp_path_factory.getbasetemp() / "maps", content)
    try:
        with Listing(path) as listing:
            rows = [cells for _, cells in listing.rows()]
    except MemcarveError as error:
        message = str(error)
        assert message.isprintable()
        return
    assert all(isinstance(row["Start"], int) for row in rows if listing.name == "/proc/PID/maps")


def test_a_region_of_size_0_is_passed_over(tmp_path: Path) -> None:
    """A line of a region without a byte is not used, and the others are."""
    path = put(tmp_path / "maps", f"{LINE.replace('00452000', '00400000')}\n{LINE}\n".encode())
    assert [(row.start, row.end) for row in regions(path)] == [(0x400000, 0x452000)]
