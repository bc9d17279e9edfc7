"""Regions of Windows processes, read from images whose trees of VADs were planned: honest ones and tampered ones."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import pytest

import memcarve
import winimage
from winimage import hostile
from winimage.userland import PROTECTIONS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from memcarve.metadata import Metadata
    from winimage import Process, Truth

    Seen = tuple[int, int, str | None, str | None, str | None, str | None, bool | None]

#: regions of user mode end below this
USER_END = 1 << 47
#: tampered with in their trees, or in what the tree says
TREES = [name for name in hostile.NAMES if name not in hostile.LOADER and name not in hostile.THREADS]


@contextmanager
def opened(truth: Truth) -> Iterator[memcarve.Container]:
    """Open the image of a truth."""
    with memcarve.open(truth.path) as image:
        yield image


def seen(metadata: Metadata) -> list[Seen]:
    """Return the regions, as `Vad.seen` has them."""
    (regions,) = metadata.regions
    assert regions.source == "VAD tree"
    return [(row.start, row.end, row.protection, row.kind, row.file, row.tag, row.private) for row in regions.rows]


def planned(process: Process) -> list[Seen]:
    """Return the regions that the kernel leads to, in order."""
    return sorted(vad.seen for vad in process.vads)


# honest images


@pytest.mark.parametrize("exports", ["full", "none"])
@pytest.mark.parametrize("layout", range(winimage.LAYOUTS))
def test_regions_are_as_planned(tmp_path: Path, layout: int, exports: str) -> None:
    """In every layout, with the kernel's exports or without, the regions are exactly those planned, to every word."""
    truth = winimage.build(tmp_path / "mem.raw", layout=layout, exports=exports, processes=winimage.USERLAND)
    with opened(truth) as image:
        for pid in (1624, 2036):
            metadata = image.process(pid).metadata
            assert seen(metadata) == planned(truth.process(pid))
            assert not metadata.regions[0].overlapping


@pytest.mark.parametrize(
    "options",
    [
        {"exports": "no-accessors"},
        {"exports": "paged-out", "layout": 0},
        {"build": 19045},
        {"layout": 7, "build": 18363},
        {"kpti": True, "layout": 5},
        {"damage": "both"},
    ],
    ids=str,
)
def test_regions_whatever_the_kernel_is_like(tmp_path: Path, options: dict[str, object]) -> None:
    """Paged-out exports, builds that carry an older kernel and other roots do not change what the regions are."""
    truth = winimage.build(tmp_path / "mem.raw", processes=winimage.USERLAND, **options)  # type: ignore[arg-type]
    with opened(truth) as image:
        assert seen(image.process(1624).metadata) == planned(truth.process(1624))


@pytest.mark.parametrize("exports", ["full", "none"])
@pytest.mark.parametrize(("layout", "build"), [(0, 7602), (1, 9601), (3, 15063), (8, 22631), (9, 22631)])
def test_an_unknown_build(tmp_path: Path, layout: int, build: int, exports: str) -> None:
    """Of a build that no table knows, laid out as one that is known, the regions are right."""
    truth = winimage.build(
        tmp_path / "mem.raw", layout=layout, build=build, exports=exports, processes=winimage.USERLAND
    )
    with opened(truth) as image:
        assert seen(image.process(1624).metadata) == planned(truth.process(1624))


def test_a_kernel_that_is_laid_out_otherwise(tmp_path: Path) -> None:
    """Where the ranges lie as in no kernel that is known, nor near it, no regions are told, and a note says so."""
    moved = {"_MMVAD_SHORT.StartingVpn": 28, "_MMVAD_SHORT.EndingVpn": 24}
    truth = winimage.build(tmp_path / "mem.raw", build=26100, moved=moved, processes=winimage.USERLAND)
    with opened(truth) as image:
        for pid in (388, 1624):
            metadata = image.process(pid).metadata
            assert metadata.regions == ()
            assert any("regions" in note for note in metadata.notes)


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Truth, memcarve.Container]]:
    """Return a usual image, opened."""
    truth = winimage.build(tmp_path_factory.mktemp("usual") / "mem.raw", processes=winimage.USERLAND)
    with opened(truth) as image:
        yield truth, image


def test_every_protection(usual: tuple[Truth, memcarve.Container]) -> None:
    """All 32 values that a VAD's protection can have are put in the words of winnt.h."""
    (regions,) = usual[1].process(1624).metadata.regions
    found = {row.start: row.protection for row in regions.rows}
    assert [found[0x40000000 + 0x40000 * value] for value in range(32)] == list(PROTECTIONS)


def test_file_names_are_what_they_are(usual: tuple[Truth, memcarve.Container]) -> None:
    """Slashes, dots, escapes, NULs and lone surrogates in a file's name are kept, and a long one is whole."""
    (regions,) = usual[1].process(1624).metadata.regions
    found = [row.file for row in regions.rows if 0x50000000 <= row.start < 0x51000000]
    assert found == [
        "\\Windows\\System32\\locale.nls",
        "\\..\\..\\..\\etc/passwd",
        "//server/share//x",
        "\\\x1b[2J\x1b]0;x\x07.dll",
        "\\half \ud800 pair \udc00\ud800 again",
        "\\whole \U0001f512 pair",
        "\\nul\0inside\0",
        "\\\u202egnp.exe",
        '\\con\r\naux: *?"<>|',
        "\\" + "long\\" * 6000,
        "\\caf\u00e9\u4e2d\u6587\uffff",
    ]


def test_eight_terabytes_cost_nothing(usual: tuple[Truth, memcarve.Container]) -> None:
    """A region of 8 TB with three pages in memory is one row, and divides the address space once."""
    process = usual[1].process(1624)
    (regions,) = process.metadata.regions
    (row,) = (row for row in regions.rows if row.size == 8 << 40)
    assert (row.start, row.protection, row.kind, row.file) == (0x10000000000, "PAGE_NOACCESS", "mapped", None)
    inside = [item for item in process.segments() if row.start <= item.start < row.end]
    assert sum(item.size for item in inside) == 3 * 4096


def test_processes_without_regions(usual: tuple[Truth, memcarve.Container]) -> None:
    """An empty tree has no regions; the System process, and one that has ended, can be asked all the same."""
    for pid in (4, 388, 2860):
        metadata = usual[1].process(pid).metadata
        assert [row for regions in metadata.regions for row in regions.rows] == []


def test_two_processes_do_not_mix(usual: tuple[Truth, memcarve.Container]) -> None:
    """Each process has its own regions, and they are looked up once."""
    truth, image = usual
    one, other = (image.process(pid) for pid in (1624, 2036))
    assert {row.file for row in other.metadata.regions[0].rows} == {vad.file for vad in truth.process(2036).vads}
    assert one.metadata is one.metadata
    assert seen(one.metadata) != seen(other.metadata)


# tampered ones


class Tampered(NamedTuple):
    """The image in which everything is wrong, and what each process is known to be."""

    truth: Truth
    found: dict[str, Metadata]


@pytest.fixture(scope="module", params=[0, 1, 8, 10])
def tampered(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Tampered:
    """Return the tampered processes of an image, in layouts with either kind of tree and of flags."""
    path = tmp_path_factory.mktemp("tampered") / "mem.raw"
    truth = winimage.build(path, layout=request.param, megabytes=64, processes=hostile.PLANS)
    with opened(truth) as image:
        return Tampered(truth, {name: image.process(hostile.PIDS[name]).metadata for name in TREES})


#: what is not wrong with the tree itself, and what cannot be told from an honest one
UNREMARKED = {"regions-right", "regions-left", "tags"}
#: those that tests of their own are about
APART = {"names", "tags", "region-high", "child-noise"}
_ELSEWHERE = {"module", "teb", "stack", "peb", "start", "environment", "unload"}
ELSEWHERE = {name for name in TREES if name.split("-", maxsplit=1)[0] in _ELSEWHERE}


@pytest.mark.parametrize("name", [name for name in TREES if name not in APART])
def test_what_can_be_reached_is_there(tampered: Tampered, name: str) -> None:
    """Whatever is wrong with a tree, the regions are those that it still leads to, each once, and a note says so."""
    metadata = tampered.found[name]
    assert seen(metadata) == planned(tampered.truth.process(hostile.PIDS[name]))
    if name not in UNREMARKED | ELSEWHERE:
        assert metadata.notes or metadata.regions[0].overlapping
    assert len(metadata.notes) < 20
    assert all(len(note) < 1000 and note.isprintable() for note in metadata.notes)


def test_nothing_is_read_from_the_process_itself(tampered: Tampered) -> None:
    """A VAD in user memory, which the process can write at will, is none: not even as the root."""
    fake = hostile.FAKE_REGION.start
    assert not any(row.start == fake for metadata in tampered.found.values() for row in metadata.regions[0].rows)


def test_a_region_that_ends_beyond_everything(tampered: Tampered) -> None:
    """A number of a page that no user address has is no region's; the others are all there, and a note says so."""
    metadata = tampered.found["region-high"]
    found = seen(metadata)
    assert set(planned(tampered.truth.process(hostile.PIDS["region-high"]))) <= set(found)
    assert all(end <= USER_END for _, end, *_ in found)
    assert metadata.notes


def test_a_child_where_no_node_is(tampered: Tampered) -> None:
    """A pointer into some other structure hides none of what the rest of the tree leads to, and a note says so."""
    metadata = tampered.found["child-noise"]
    assert set(planned(tampered.truth.process(hostile.PIDS["child-noise"]))) <= set(seen(metadata))
    assert metadata.notes


def test_overlapping_regions_are_counted(tampered: Tampered) -> None:
    """Regions that share addresses are kept, and counted."""
    (regions,) = tampered.found["regions-overlap"].regions
    assert regions.overlapping >= 4
    assert len(regions) == 15


@pytest.mark.parametrize("name", ["regions-right", "regions-left", "ladder"])
def test_deep_trees(tampered: Tampered, name: str) -> None:
    """Three thousand nodes in one line, and nodes that more paths lead to than can be walked, are read once each."""
    rows = tampered.found[name].regions[0].rows
    assert len(rows) == len({row.start for row in rows}) == (hostile.DEEP if name == "ladder" else hostile.LONG)


def test_names_that_cannot_be(tampered: Tampered) -> None:
    """A file's name that is not what it says costs neither its region nor the others; it is never made up."""
    process = tampered.truth.process(hostile.PIDS["names"])
    found = {row.start: row for row in tampered.found["names"].regions[0].rows}
    assert sorted(found) == sorted(vad.start for vad in process.vads)
    for vad in process.vads:
        row = found[vad.start]
        assert (row.end, row.protection, row.kind, row.tag) == (vad.end, vad.protection, vad.kind, vad.tag)
        if vad.name is None:
            assert row.file == vad.file
    raw = {name.text: found[0x50000000 + 0x10000 * number].file for number, name in enumerate(hostile.RAW)}
    assert raw == dict.fromkeys(raw)


def test_tags_are_what_they_are(tampered: Tampered) -> None:
    """A tag that is none of the known is kept as it is, or is not known; the region is there."""
    plans = tampered.truth.process(hostile.PIDS["tags"]).vads
    rows = tampered.found["tags"].regions[0].rows
    assert [(row.start, row.end, row.protection) for row in rows] == [
        (vad.start, vad.end, vad.protection) for vad in plans
    ]
    assert rows[0].tag in {None, "\x1b[2J"}
    assert [row.tag for row in rows[2:]] == [vad.tag for vad in plans[2:]]
