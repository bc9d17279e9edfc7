"""Labels joined with segments, against brute force; choosing and splitting by them; names; conflicts; residence."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings, strategies as st

from memcarve.errors import UsageError
from memcarve.formats.manifest import FILE_NAME, file_name
from memcarve.intervals import TOP
from memcarve.labels.resident_regions import Residence, resident
from memcarve.labels.segment_labels import permission_words
from memcarve.metadata import Metadata, Module, Region, Regions, SourceRows
from memcarve.process import Selection
from memory import PAGE
from processes import RW, RWX, RX, R, labels_of, metadata_of, page_region, process_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from memcarve.segments import Segment

PROTECTIONS = ("PAGE_READONLY", "PAGE_EXECUTE_READ", "PAGE_EXECUTE_READWRITE", None)
KINDS = ("private", "mapped", "image", None)
FILES = ("\\Windows\\System32\\a.dll", "\\b.dat", None)

page_sets = st.sets(st.integers(0, 40), max_size=30)
region_rows = st.lists(
    st.tuples(
        st.integers(0, 40),
        st.integers(1, 12),
        st.sampled_from(PROTECTIONS),
        st.sampled_from(KINDS),
        st.sampled_from(FILES),
    ),
    max_size=8,
)


def regions_from(rows: Iterable[tuple[int, int, str | None, str | None, str | None]]) -> list[Region]:
    """Return regions that do not overlap: what would overlap is left out."""
    found: list[Region] = []
    for start, pages, protection, kind, file in sorted(rows, key=lambda row: row[:2]):
        if not found or found[-1].end <= start * PAGE:
            found.append(page_region(start, pages, protection, kind=kind, file=file))
    return found


def touching(segment: Segment, regions: Iterable[Region]) -> list[Region]:
    """Return the regions that share an address with a segment."""
    return [region for region in regions if region.start < segment.end and segment.start < region.end]


@settings(deadline=None)
@given(page_sets, region_rows)
def test_join_against_brute_force(
    pages: set[int], rows: list[tuple[int, int, str | None, str | None, str | None]]
) -> None:
    """Each segment has the regions that it shares addresses with, and each filter the segments it should."""
    regions = regions_from(rows)
    process = process_of(sorted(pages), metadata_of(regions))
    labels = labels_of(process)
    segments = [*labels.segments]
    expected = [touching(segment, regions) for segment in segments]
    for index, rows_here in enumerate(expected):
        assert labels.regions(index) == rows_here
        assert labels.kinds(index) == [*dict.fromkeys(row.kind for row in rows_here if row.kind)]
        letters = [row.collapsed for row in rows_here]
        assert labels.protections(index) == [*dict.fromkeys(word for word in letters if word)]
        assert [name for name, _ in labels.file(index)] == [*dict.fromkeys(row.file for row in rows_here if row.file)]
    for name, values, wanted in (
        ("kind", ["private", "image"], lambda row: row.kind in ("private", "image")),
        ("protection", ["x"], lambda row: "x" in (row.collapsed or "")),
        ("protection", ["rw"], lambda row: row.collapsed == "rwx"),
        ("protection", ["PAGE_READONLY"], lambda row: row.protection == "PAGE_READONLY"),
        ("file", ["*.DLL"], lambda row: row.file == FILES[0]),
        ("file", ["b.dat", "none"], lambda row: row.file == FILES[1]),
    ):
        said = {"kind": "kind", "protection": "collapsed", "file": "file"}[name]
        if regions and all(getattr(row, said) is None for row in regions):
            with pytest.raises(UsageError, match=f"nothing is known to choose by {name}"):
                process.segments(Selection(**{name: values}), labeller=_labelling())
            continue
        chosen = [*process.segments(Selection(**{name: values}), labeller=_labelling())]
        assert [segment.start for segment in chosen] == [
            segment.start for segment, here in zip(segments, expected, strict=True) if any(map(wanted, here))
        ]


def _labelling() -> object:
    from memcarve.labels import Labelling  # noqa: PLC0415

    return Labelling()


@settings(deadline=None)
@given(page_sets, region_rows, st.sampled_from(["region", "protection", "module"]))
def test_split_against_brute_force(
    pages: set[int], rows: list[tuple[int, int, str | None, str | None, str | None]], split: str
) -> None:
    """A page is in one segment with the page before where both are there and belong to what is split by."""
    regions = regions_from(rows)
    process = process_of(sorted(pages), metadata_of(regions))

    def belongs(page: int) -> object:
        for number, row in enumerate(regions):
            if row.start <= page * PAGE < row.end:
                return "in", {"region": number, "protection": row.protection, "module": row.file}[split]
        return None

    expected: list[list[int]] = []
    for page in sorted(pages):
        if expected and expected[-1][-1] == page - 1 and belongs(page) == belongs(page - 1):
            expected[-1].append(page)
        else:
            expected.append([page])
    said = {"region": "start", "protection": "protection", "module": "file"}[split]
    if regions and all(getattr(row, said) is None for row in regions):
        with pytest.raises(UsageError, match=f"nothing is known to split by {split}"):
            process.segments(split=split)
        return
    found = [*process.segments(split=split)]
    assert [(one.start // PAGE, one.end // PAGE) for one in found] == [(run[0], run[-1] + 1) for run in expected]
    for segment in found:
        wholes = [whole for whole in process.segments() if whole.start <= segment.start < whole.end]
        assert segment.whole == (wholes[0].start, wholes[0].end)
        parts = b"".join(process.space.read(extent.start, extent.size) for extent in process.space.extents(segment))
        assert parts == process.space.read(segment.start, segment.size)


def test_split_needs_something_to_split_by() -> None:
    """What is not known is not split by; the message says what gives it."""
    process = process_of([1, 2])
    for split in ("region", "protection", "module"):
        with pytest.raises(UsageError, match="regions=FILE"):
            process.segments(split=split)
    with pytest.raises(UsageError, match="needs an image"):
        process.segments(split="permissions")
    with pytest.raises(UsageError, match="must be labelled"):
        process.segments(Selection(kind=["private"]))
    with pytest.raises(UsageError, match="regions=FILE"):
        process.segments(Selection(kind=["private"]), labeller=_labelling())


def test_split_within_an_extent() -> None:
    """A region may begin in the middle of an extent; offsets and extents follow."""
    process = process_of(range(8), metadata_of([page_region(2, 3), page_region(5, 1)]))
    assert len(process.space) == 1
    found = [
        (one.start // PAGE, one.size // PAGE, one.offset // PAGE, one.extents)
        for one in process.segments(split="region")
    ]
    assert found == [(0, 2, 0, 1), (2, 3, 2, 1), (5, 1, 5, 1), (6, 2, 6, 1)]


def test_split_by_modules() -> None:
    """Modules of any list cut; without a list the mapped files do."""
    modules = [Module(2 * PAGE, 2 * PAGE, "a.dll"), Module(6 * PAGE, None, "b.dll")]
    found = process_of(range(8), metadata_of([page_region(0, 8)], modules)).segments(split="module")
    starts = [one.start for one in found]
    assert starts == [0, 2 * PAGE, 4 * PAGE, 6 * PAGE]


def test_labels_of_modules_areas_and_kinds() -> None:
    """Modules come with the offset into them; areas change what a region is, all of it or their own part."""
    regions = [
        page_region(0, 4, "PAGE_READWRITE", kind="private", private=True),
        page_region(8, 4, "PAGE_READWRITE|PAGE_GUARD", kind="private", private=True),
        page_region(16, 4, "PAGE_EXECUTE_WRITECOPY", kind="image", file="\\x\\ntdll.dll", private=False),
        page_region(24, 4, "PAGE_READWRITE", kind="private", private=True),
    ]
    areas = [
        Region(2 * PAGE, PAGE, kind="TEB", detail="thread 8"),
        Region(9 * PAGE, 2 * PAGE, kind="stack", whole=True),
        Region(24 * PAGE, PAGE, kind="heap", whole=True),
        Region(1 << 63, 1 << 39, kind="page tables"),
    ]
    metadata = metadata_of(regions, [Module(16 * PAGE, 4 * PAGE, "ntdll.dll", "C:\\x\\ntdll.dll")], areas)
    process = process_of([1, 2, 8, 9, 17, 18, 25, (1 << 63) // PAGE], metadata)
    labels = labels_of(process, Selection("all"))
    assert [labels.kinds(index) for index in range(5)] == [
        ["TEB", "private"], ["stack"], ["image"], ["heap"], ["page tables"],
    ]  # fmt: skip
    assert labels.file(2) == [("ntdll.dll", PAGE)]
    assert labels.name(2) == ".rcx.ntdll.dll"
    record = labels.record(2)
    assert record["modules"] == [
        {"name": "ntdll.dll", "path": "C:\\x\\ntdll.dll", "base": "0x10000", "size": 4 * PAGE, "offset": PAGE,
         "source": "windows.dlllist"}
    ]  # fmt: skip
    assert record["regions"][0]["protection"] == "PAGE_EXECUTE_WRITECOPY"
    assert labels.record(0)["areas"] == [{"kind": "TEB", "start": "0x2000", "end": "0x3000", "detail": "thread 8"}]
    for kind, starts in (("TEB", [1]), ("stack", [8]), ("page tables", [(1 << 63) // PAGE]), ("private", [1])):
        chosen = process.segments(Selection("all", kind=[kind]), labeller=_labelling())
        assert [one.start // PAGE for one in chosen] == starts


def test_nothing_known_is_nothing_said() -> None:
    """Without evidence a record is empty, and so it is where a region says nothing of itself."""
    assert labels_of(process_of([1])).record(0) == {}
    labels = labels_of(process_of([1, 3], metadata_of([page_region(1, 1)])))
    assert labels.record(0) == {"regions": [{"start": "0x1000", "end": "0x2000"}]}
    assert labels.record(1) == {}
    assert labels.name(0) == ""


def test_offset_in_a_file() -> None:
    """Where regions know where in the file they begin, a segment's offset follows; where not, there is none."""
    regions = [page_region(4, 4, "r-xp", file="/lib/a.so", offset=0x28000), page_region(10, 2, "r--p", file="/b")]
    labels = labels_of(process_of([6, 10], metadata_of(regions)))
    assert labels.file(0) == [("/lib/a.so", 0x28000 + 2 * PAGE)]
    assert labels.file(1) == [("/b", None)]


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("\\Windows\\System32\\ntdll.dll", ".r-x.ntdll.dll"),
        ("/lib/../../etc/pass wd", ".r-x.pass_wd"),
        ("..", ".r-x"),
        ("/", ".r-x"),
        ("a\nb\x1b[2J", ".r-x.a_b_2J"),
        ("\ud800\u202egpj.exe", ".r-x._gpj.exe"),
        ("x" * 300, ".r-x." + "x" * 48),
        (".bin.", ".r-x.bin"),
        ("CON", ".r-x.CON"),
        ("-rf", ".r-x.-rf"),
    ],
)
def test_label_names_are_safe(file: str, words: str) -> None:
    """Names are plain characters of bounded length, they parse back, and they sort by address."""
    labels = labels_of(process_of([1], metadata_of([page_region(1, 1, "PAGE_EXECUTE_READ", file=file)])))
    assert labels.name(0) == words
    name = file_name(PAGE, 2 * PAGE, words)
    parsed = FILE_NAME.fullmatch(name)
    assert parsed
    assert (int(parsed[1], 16), int(parsed[2], 16)) == (PAGE, 2 * PAGE)
    assert name < file_name(2 * PAGE, 3 * PAGE)


def test_conflicts_are_shown() -> None:
    """What two sources say differently is said with both their names, at the segments it is about."""
    one = Regions(
        "VAD tree", [page_region(1, 2, "PAGE_READONLY", kind="private", private=True), page_region(5, 1, "r-xp")]
    )
    two = Regions(
        "windows.vadinfo", [page_region(1, 2, "PAGE_READWRITE", kind="mapped", file="\\a"), page_region(5, 1, "r-x")]
    )
    metadata = Metadata(regions=(one, two))
    labels = labels_of(process_of([1, 5], metadata))
    assert labels.conflicts(0) == [
        "kind: VAD tree says private, windows.vadinfo says mapped",
        "protection: VAD tree says PAGE_READONLY, windows.vadinfo says PAGE_READWRITE",
    ]
    assert labels.conflicts(1) == []
    assert labels.record(0)["conflicts"] == labels.conflicts(0)
    assert labels.summary()["conflicts"] == 2


def test_conflicts_of_modules() -> None:
    """Lists that disagree on a module, and a module that is not the image mapped there."""
    image = page_region(1, 2, "PAGE_EXECUTE_WRITECOPY", kind="image", file="\\x\\real.dll")
    metadata = Metadata(
        regions=(Regions("VAD tree", [image]),),
        modules=(
            SourceRows("PEB", [Module(PAGE, 2 * PAGE, "fake.dll")]),
            SourceRows("windows.dlllist", [Module(PAGE, PAGE, "real.dll")]),
        ),
    )
    found = labels_of(process_of([1], metadata)).conflicts(0)
    assert "file: VAD tree says real.dll, PEB says fake.dll" in found
    assert any(text.startswith("module's size: ") for text in found)
    assert any(text.startswith("module's name: ") for text in found)


def test_a_region_that_only_one_source_has() -> None:
    """A region of which the other source knows nothing is a conflict, too."""
    metadata = Metadata(
        regions=(Regions("VAD tree", [page_region(1, 1), page_region(3, 1)]), Regions("b", [page_region(1, 1)]))
    )
    labels = labels_of(process_of([1, 3], metadata))
    assert labels.conflicts(0) == []
    assert labels.conflicts(1) == ["region: VAD tree has one, b has none here"]


def test_permissions_stand_beside_protections() -> None:
    """What page tables allow is shown by itself, each once, whatever the region says."""
    process = process_of({1: R, 2: RX, 3: RX, 5: RW}, metadata_of([page_region(1, 8, "PAGE_READONLY")]))
    labels = labels_of(process)
    assert labels.permissions(0) == ["ur--", "ur-x"]
    assert labels.permissions(1) == ["urw-"]
    assert labels.protections(0) == ["r--"]
    parts = labels_of(process, split="permissions")
    assert [parts.permissions(index) for index in range(3)] == [["ur--"], ["ur-x"], ["urw-"]]
    assert labels_of(process_of([1])).permissions(0) == []


@settings(deadline=None)
@given(page_sets, st.lists(st.tuples(st.integers(0, 40), st.integers(1, 12)), max_size=6))
def test_residence_against_brute_force(pages: set[int], bounds: list[tuple[int, int]]) -> None:
    """The bytes of a region that are there are those of the pages in it."""
    rows = [page_region(start, count) for start, count in bounds]
    found = resident(process_of(sorted(pages)).space, rows)
    assert found == [sum(start <= page < start + count for page in pages) * PAGE for start, count in bounds]


@settings(deadline=None)
@given(page_sets, st.lists(st.lists(st.tuples(st.integers(0, 40), st.integers(1, 12)), max_size=5), max_size=3))
def test_totals_of_regions(pages: set[int], sources: list[list[tuple[int, int]]]) -> None:
    """In the sum of regions each address counts once, however many regions of however many sources it lies in."""
    metadata = Metadata(
        tuple(
            Regions(f"list {number}", [page_region(*bounds) for bounds in rows]) for number, rows in enumerate(sources)
        )
    )
    if not sources:
        return
    chosen = Residence(process_of(sorted(pages), metadata), Selection())
    covered = {page for rows in sources for start, count in rows for page in range(start, start + count)}
    assert (chosen.size, chosen.resident) == (len(covered) * PAGE, len(covered & pages) * PAGE)
    assert (chosen.count, chosen.sources) == (sum(map(len, sources)), sum(map(bool, sources)))


def test_residence_of_huge_regions() -> None:
    """A region of 8 TB with three pages costs nothing, and one may reach the top."""
    rows = [Region(0, 8 << 40, "PAGE_READWRITE"), Region(8 << 40, TOP - (8 << 40))]
    process = process_of([3, 9, (1 << 43) // PAGE - 1, (1 << 52) - 1], metadata_of(rows))
    chosen = Residence(process, Selection())
    assert [(*row.region[:2], row.resident) for row in chosen.rows()] == [
        (0, 8 << 40, 3 * PAGE),
        (8 << 40, TOP - (8 << 40), PAGE),
    ]
    assert (chosen.count, chosen.sources, chosen.size, chosen.resident) == (2, 1, TOP, 4 * PAGE)
    with pytest.raises(UsageError, match="nothing is known of its regions"):
        Residence(process_of([1]), Selection())


def test_permissions_of_regions() -> None:
    """A region shows what page tables allow of the pages in it; nothing of an empty one."""
    rows = [page_region(0, 3, "PAGE_READONLY"), page_region(3, 2), page_region(7, 5), page_region(20, 3)]
    process = process_of({1: R, 2: RWX, 3: RW, 8: RX}, metadata_of(rows))
    assert [permission_words(row.permissions) or None for row in Residence(process, Selection()).rows()] == [
        ["ur--", "urwx"],
        ["urw-"],
        ["ur-x"],
        None,
    ]


def test_records_are_json() -> None:
    """Text from evidence, unpaired surrogates too, goes into JSON and comes back."""
    labels = labels_of(process_of([1], metadata_of([page_region(1, 1, file='\ud800\\"\n\x1b')])))
    assert json.loads(json.dumps(labels.record(0)))["regions"][0]["file"] == '\ud800\\"\n\x1b'


def test_conflicts_are_of_the_addresses_they_are_about() -> None:
    """A segment shows the conflicts of its own addresses, and not thousands of them."""
    one = Regions("VAD tree", [page_region(0, 2000, "PAGE_READONLY")])
    two = Regions("b", [page_region(place, 1, "PAGE_NOACCESS", tag=str(place)) for place in range(0, 2000, 2)])
    labels = labels_of(process_of([2, 3, *range(100, 1100)], Metadata(regions=(one, two))))
    assert labels.conflicts(0) == ["protection: VAD tree says PAGE_READONLY, b says PAGE_NOACCESS"]
    assert labels.record(1)["conflicts"] == labels.conflicts(0)
    apart = labels_of(process_of([3], Metadata(regions=(one, two))))
    assert apart.conflicts(0) == []


def test_many_conflicts_are_counted() -> None:
    """Of very many only a bounded number is kept, and the rest is counted."""
    rows = [page_region(place, 1, "PAGE_READONLY", file=f"a{place}") for place in range(12_000)]
    others = [row._replace(file=f"b{place}") for place, row in enumerate(rows)]
    labels = labels_of(process_of(range(100), Metadata(regions=(Regions("a", rows), Regions("b", others)))))
    assert labels.summary()["conflicts"] == 12_000
    record = labels.record(0)
    assert len(record["conflicts"]) + record["conflicts_not_listed"] == 100


def test_a_module_that_begins_later() -> None:
    """Where a segment begins before a module or a file, it has no offset in it."""
    labels = labels_of(process_of(range(4), metadata_of([page_region(0, 8)], [Module(2 * PAGE, PAGE, "late.dll")])))
    assert labels.file(0) == [("late.dll", None)]
    assert "offset" not in labels.record(0)["modules"][0]


@pytest.mark.parametrize("value", ["", "FOO", "PAGE_EVERYTHING", "rwz"])
def test_unknown_protections(value: str) -> None:
    """A protection that there is not is refused; letters and words may be of either case."""
    process = process_of([1], metadata_of([page_region(1, 1, "PAGE_EXECUTE_READWRITE|PAGE_GUARD")]))
    with pytest.raises(UsageError, match="unknown protection"):
        process.segments(Selection(protection=[value]), labeller=_labelling())
    for known in ("RWX", "page_guard", "PAGE_EXECUTE_READWRITE"):
        assert len(process.segments(Selection(protection=[known]), labeller=_labelling())) == 1
    with pytest.raises(UsageError, match="pattern"):
        process.segments(Selection(file=[""]), labeller=_labelling())
