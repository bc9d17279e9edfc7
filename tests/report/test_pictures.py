"""Pictures: what is drawn of an address space, in characters, as SVG and as PNG."""

from __future__ import annotations

import importlib
import importlib.resources
import io
import re
import stat
import xml.etree.ElementTree as ET
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, strategies as st

import memcarve
from cli import invoke
from files import ROOT
from memcarve.cli import drawing_segments
from memcarve.errors import MissingExtraError, TargetExistsError, UsageError
from memcarve.intervals import Intervals
from memcarve.labels.segment_labels import Words
from memcarve.report.picture.drawing_memory import Portrait, drawing_of
from memcarve.report.picture.memory_line import Drawn, MemoryLine
from memcarve.report.picture.palette import ACCESS, LETTERS, SEVERITIES, Access
from memcarve.report.picture.png_picture import write_png
from memcarve.report.picture.shapes import HATCHES, Box, Drawing, Text
from memcarve.report.picture.svg_picture import svg
from memcarve.report.picture.terminal_picture import terminal_picture
from memory import PAGE
from processes import RW, RWX, Held, R, metadata_of, page_region, process_of

if TYPE_CHECKING:
    from pathlib import Path

    Capture = pytest.CaptureFixture[bytes]

TOP = 1 << 64
SVG = "{http://www.w3.org/2000/svg}"


def drawn(
    rows: list[tuple[int, int]], access: list[str | None] | None = None, severity: dict[int, int] | None = None
) -> Drawn:
    """Return segments to be drawn, by page and number of pages, with what page tables allow."""
    nothing = Words.empty(len(rows))
    words = {"permissions": Words.of(access or ["ur--"] * len(rows)), "protection": nothing}
    marks = np.array([(severity or {}).get(row, 0) for row in range(len(rows))], np.int64)
    intervals = Intervals.of((page * PAGE, pages * PAGE) for page, pages in rows)
    return Drawn(intervals, {**words, "kind": nothing, "file": nothing}, marks, Intervals.of([(0, 64 * PAGE)]))


@given(st.lists(st.tuples(st.integers(1, 1 << 44), st.integers(1, 1 << 20)), min_size=1, max_size=40))
def test_every_segment_has_a_cell(steps: list[tuple[int, int]]) -> None:
    """If there is room each segment has a cell at least, in order of addresses; a line begins where memory does."""
    rows, at = list[tuple[int, int]](), 0
    for gap, pages in steps:
        rows.append((at + gap, pages))
        at += gap + pages
    line = MemoryLine(drawn(rows), 80)
    owners = [owner for owner in line.owner.tolist() if owner >= 0]
    assert owners == sorted(owners)
    assert {*owners} == {*range(len(rows))}
    assert line.owner[0] == 0
    assert line.owner[-1] == len(rows) - 1
    places = line.addresses().tolist()
    assert places == sorted(places)
    assert {start * PAGE for start, _ in rows} <= {*places}
    assert not (line.folded & (line.owner >= 0)).any()


def test_to_scale_and_folded() -> None:
    """Segments take cells by their sizes, small gaps, too; a large one is one cell. The top of memory is no trouble."""
    rows = [(16, 10), (29, 20), (TOP // PAGE - 30, 30)]
    line = MemoryLine(drawn(rows), 67)  # a cell each and one for the fold, and 63 for 63 pages
    counts = [int(np.count_nonzero(line.owner == row)) for row in range(3)]
    assert np.flatnonzero(line.folded).tolist() == [35]
    assert counts == [11, 21, 31]
    assert int(np.count_nonzero(line.owner < 0)) == 4  # 3 pages to scale, and the fold
    assert np.flatnonzero(line.reserved).tolist() == [11, 12, 13, 35]
    assert line.addresses()[-1] < TOP


def test_nothing_is_too_small_to_be_seen() -> None:
    """Of very many segments in few cells, the one that may be written and run shows, and so does a flag."""
    rows = [(16 + 3 * row, 1) for row in range(20_000)]
    access = ["ur--"] * len(rows)
    access[12_345] = "urwx"
    line = MemoryLine(drawn(rows, access, {777: 4}), 80)
    assert np.count_nonzero(line.access == Access.WRITE_AND_EXECUTE) == 1
    assert np.count_nonzero(line.severity == 4) == 1
    assert int(line.owner[line.access == Access.WRITE_AND_EXECUTE][0]) == 12_345


@pytest.mark.parametrize(
    ("word", "access"),
    [
        ("ur--", "READ"), ("urw-", "WRITE"), ("ur-x", "EXECUTE"), ("urwx", "WRITE_AND_EXECUTE"), ("r-x", "EXECUTE"),
        ("rcx", "EXECUTE_COPY"), ("rcx, r-x", "EXECUTE"), ("rc-", "WRITE"), ("---", "NONE"), ("r-x, rw-", "EXECUTE"),
        ("rw-, rwx", "WRITE_AND_EXECUTE"), ("strange", "UNKNOWN"), (None, "UNKNOWN"),
    ],
)  # fmt: skip
def test_access(word: str | None, access: str) -> None:
    """What may be done is told by words, of several the most; write here and execute there are not both at once."""
    assert drawn([(16, 1)], [word]).access.tolist() == [Access[access]]


#: 20 cells: one for each segment and for the fold, and 16 for 6 pages
PICTURE = """\
                        MMM
0x0000000000010000  rrrrXXX~wwwwwwwwwwww
                        ppp mmmmmmmmmmmm
r read, w write, X write and execute, ~
folded gap
below: p private, m mapped
above: flags, M medium
"""


def made() -> Held:
    """Return a process of three segments, one of which is flagged; a file's name is hostile."""
    regions = [
        page_region(17, 1, "PAGE_EXECUTE_READWRITE", kind="private"),
        page_region(99, 4, "PAGE_READWRITE", kind="mapped", file="</text><script>\u202e\x07&"),
    ]
    pages = {16: R, 17: RWX, **dict.fromkeys(range(99, 103), RW)}
    return Held(process_of(pages, metadata_of(regions)))


def test_in_a_terminal() -> None:
    """The picture says all by characters, in ASCII and the given width; colour adds nothing but colour."""
    labels: Any = made().process().segments(split="protection", labeller=memcarve.Labelling()).labels
    severity = np.array([0, 3, 0])
    what = Drawn(labels.segments, labels.columns(), severity, labels.known.region_pieces)
    plain = "".join(f"{line}\n" for line in terminal_picture(what, 40, colour=False))
    assert plain == PICTURE
    painted = "".join(f"{line}\n" for line in terminal_picture(what, 40, colour=True))
    assert re.sub(r"\x1b\[[0-9;]*m", "", painted) == plain
    assert painted.count("\x1b[97;41m") == 1
    for width in (1, 20, 79, 200):
        lines = [*terminal_picture(what, width, colour=False)]
        assert max(map(len, lines[:3])) <= max(width, 40)
        assert all(map(str.isascii, lines))


def test_segments_are_drawn(capfdbinary: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    """`segments --draw` draws as wide as the terminal, in colour only at one that wants it, and nothing else."""
    dump = ROOT / "examples" / "pid.1624.dmp"
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    words = "segments", dump, "--regions", ROOT / "examples" / "vadinfo.txt", "--draw", "-q"
    plain = invoke(capfdbinary, *words)
    assert plain.code == 0, plain.err
    rows = plain.out.decode("ascii").splitlines()
    assert max(map(len, rows)) == 100
    assert rows[1].startswith("0x000000007ffe0000  r~ww~XXX")
    assert b"\x1b" not in plain.out
    monkeypatch.setattr(drawing_segments, "at_terminal", lambda: True)
    assert b"\x1b[97;41m" in invoke(capfdbinary, *words).out
    monkeypatch.setenv("NO_COLOR", "1")
    assert invoke(capfdbinary, *words).out == plain.out
    for options in (["--extents"], ["--format", "csv"]):
        ran = invoke(capfdbinary, *words, *options)
        assert (ran.code, ran.out) == (2, b"")
        assert "leave --format and --extents out" in ran.err


def test_svg(tmp_path: Path) -> None:
    """The SVG is sound XML of shapes and text alone: nothing runs, nothing is loaded, and names are text."""
    memcarve.write_report(
        made(),
        tmp_path / "out",
        memcarve.ReportOptions(title="A & <b>", split="protection"),
        pictures=[str(tmp_path / "p.svg")],
    )
    assert stat.S_IMODE((tmp_path / "p.svg").stat().st_mode) == 0o600
    root = ET.fromstring((tmp_path / "p.svg").read_text("utf-8"))  # noqa: S314 - written just now
    names = {each.tag.removeprefix(SVG) for each in root.iter()}
    assert names == {"svg", "title", "defs", "pattern", "circle", "path", "rect", "polyline", "polygon", "text"}
    attributes = {name for each in root.iter() for name in each.attrib}
    assert not [name for name in attributes if name.startswith("on") or "href" in name or name == "style"]
    links = {value for each in root.iter() for value in each.attrib.values() if "url(" in value}
    assert links <= {f"url(#{each.get('id')})" for each in root.iter(f"{SVG}pattern")}
    texts = [each.text or "" for each in root.iter(f"{SVG}text")]
    assert texts[0] == "A & <b>"
    assert {"0x0000000000010000", "rwx writable and executable", "rwx P", "rw- M"} <= {*texts}
    assert any(text.startswith("text><script>\\u202e\\x07&") for text in texts)
    assert all(map(str.isprintable, texts))


def test_shapes_tell_without_colour() -> None:
    """What may be done is told by letters, and by lines below: no two are alike; the legend has words."""
    access = ["ur--", "urw-", "ur-x", "urwx", "rcx", "----"]
    what = drawn([(16 * row + 16, 12) for row in range(len(access))], access)
    found = drawing_of("title", "subtitle", [Portrait("heading", what)])
    bands = [shape for shape in found.shapes if isinstance(shape, Box) and shape.height == 16 and shape.fill]
    assert [box.fill for box in bands] == [look.colour for look in map(ACCESS.get, what.access.tolist()) if look]

    def below(box: Box) -> tuple[tuple[float, float], ...]:
        """Return the lines below a box: where and how thick."""
        return tuple(
            (shape.y - box.y, shape.height)
            for shape in found.shapes
            if isinstance(shape, Box) and (shape.x, shape.width) == (box.x, box.width) and shape.height <= 2
        )

    lines = [below(box) for box in bands]
    assert len({*lines}) == len(access)
    assert [len(each) for each in lines] == [1, 2, 2, 3, 3, 0]
    assert all(box.x + box.width <= found.width for box in bands)
    said = {shape.text for shape in found.shapes if isinstance(shape, Text)}
    assert {"r--", "rw-", "r-x", "rwx", "rcx", "---", "--- no access", "gap, folded"} <= said
    assert [*svg(found)] == [*svg(drawing_of("title", "subtitle", [Portrait("heading", what)]))]


def test_long_names() -> None:
    """No text is longer than the picture is wide, however long a name is."""
    found = drawing_of("W" * 400_000, "W" * 400_000, [Portrait("W" * 400_000, drawn([(16, 1)]))])
    assert max(len(shape.text) for shape in found.shapes if isinstance(shape, Text)) <= 150
    assert len(found.title) <= 300


def test_one_palette() -> None:
    """The page, pictures and the terminal show the same by the same colours, letters and words."""
    page = importlib.resources.files("memcarve.report").joinpath("page")
    style, script = (page.joinpath(name).read_text("utf-8") for name in ("style.css", "ranges.js"))
    light = dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6});", style.partition("}")[0]))
    words = {
        name: (letters, said)
        for name, letters, said in re.findall(r'(\w+): \{ letters: "(.+?)", name: "(.+?)"', script)
    }
    for look in ACCESS.values():
        assert (look.colour, look.letters, look.said) == (light[f"protection-{look.name}"], *words[look.name])
    assert {*words} - {look.name for look in ACCESS.values()} == {"mixed"}  # pictures show the most remarkable instead
    assert {str(each): colour for each, colour in SEVERITIES.items()} == {
        name.removeprefix("severity-"): colour for name, colour in light.items() if name.startswith("severity-")
    }
    kinds = re.search(r"const KINDS = \{(.*?)\};", script, re.DOTALL)
    assert kinds
    assert dict(re.findall(r'"?(\w[\w ]*)"?: "(\w)"', kinds[1])) == {
        str(kind): letter for kind, letter in LETTERS.items()
    }


def test_png(tmp_path: Path) -> None:
    """The PNG shows the same in twice as many pixels, and says who wrote it."""
    image_of = pytest.importorskip("PIL.Image", reason="pillow is not installed: no PNG was drawn")
    memcarve.write_report(made(), tmp_path / "out", pictures=[str(tmp_path / "p.png"), str(tmp_path / "p.svg")])
    root = ET.fromstring((tmp_path / "p.svg").read_text("utf-8"))  # noqa: S314 - written just now
    with image_of.open(tmp_path / "p.png") as image:
        assert image.size == (2 * int(root.attrib["width"]), 2 * int(root.attrib["height"]))
        assert image.info["Software"].startswith("written by memcarve ")
        seen = {colour for _, colour in image.convert("RGB").getcolors(1 << 24)}
        for box in root.iter(f"{SVG}rect"):
            if box.attrib["fill"].startswith("#"):
                assert tuple(bytes.fromhex(box.attrib["fill"][1:])) in seen


def test_hatches_stay_inside() -> None:
    """Hatches of any box are drawn in it, and are there."""
    image_of = pytest.importorskip("PIL.Image", reason="pillow is not installed: no PNG was drawn")
    boxes = [Box(20, 20 + 20 * row, 30, 9, "#ffffff", hatch) for row, hatch in enumerate(HATCHES)]
    out = io.BytesIO()
    write_png(Drawing(80, 160, "", tuple(boxes)), out)
    with image_of.open(out) as image:
        paper = {(x, y) for x in range(160) for y in range(320) if image.getpixel((x, y)) != (255, 255, 255)}
    for box in boxes:
        inside = {(x, y) for x, y in paper if 40 <= x < 100 and 2 * box.y <= y < 2 * (box.y + box.height)}
        assert len(inside) > 30, box.hatch
        paper -= inside
    assert not paper


def test_pictures_are_written_safely(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is looked at it is said what cannot be written; only memcarve's own pictures are replaced."""
    monkeypatch.chdir(tmp_path)

    def write(name: str, **options: Any) -> None:
        (tmp_path / "out").unlink(missing_ok=True)
        memcarve.write_report(made(), "out", memcarve.ReportOptions(**options), pictures=[name])

    for name in ("p.jpg", "p"):
        with pytest.raises(UsageError, match=r"neither \.svg nor \.png"):
            write(name)
    for names in (["p.svg", "./p.svg"], ["p.svg", "out.svg"]):
        with pytest.raises(UsageError, match="is to be written twice; pictures= names another file"):
            memcarve.write_report(made(), "out.svg", pictures=names)
    for name in ("p.svg", "p.PNG"):
        write(name)
        with pytest.raises(TargetExistsError, match="pictures= chooses another"):
            write(name)
        write(name, force=True)
        (tmp_path / name).write_bytes(b"<svg>" if "svg" in name else b"\x89PNG\r\n\x1a\n")
        with pytest.raises(TargetExistsError, match="does not say that memcarve wrote it"):
            write(name, force=True)
    imported = importlib.import_module

    def without(name: str) -> Any:
        if name.startswith("PIL"):
            raise ImportError(name)
        return imported(name)

    monkeypatch.setattr(importlib, "import_module", without)
    with pytest.raises(MissingExtraError, match=r"memcarve\[picture\]"):
        write("q.png")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["p.PNG", "p.svg"]


def test_the_picture_alone(tmp_path: Path, capfdbinary: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    """With --picture and nothing else said, the picture is all that is written."""
    monkeypatch.chdir(tmp_path)
    dump = ROOT / "examples" / "pid.1624.dmp"
    ran = invoke(capfdbinary, "report", dump, "--picture", "p.svg")
    assert (ran.code, ran.out) == (0, b""), ran.err
    assert ran.err.endswith("1 process, 114 segments, 0 findings: p.svg\n")
    assert [path.name for path in tmp_path.iterdir()] == ["p.svg"]
    ran = invoke(capfdbinary, "report", dump, "--picture", "p.svg", "-o", "r.html")
    assert ran.code == 1
    assert "--picture chooses another" in ran.err
    assert invoke(capfdbinary, "report", dump, "--picture", "p.svg", "-o", "r.html", "--force").code == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["p.svg", "r.html"]
