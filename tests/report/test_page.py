"""The page of a report in a browser: what one sees, points at, types, copies; it loads and runs nothing else."""

from __future__ import annotations

import csv
import io
import json
import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

import memcarve
from browsing import Shown, browser, shown, write
from files import ROOT
from report_documents import HOSTILE, encoded, large, process, report
from reported import checked
from sweeps import LONG

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from browsing import Opened

EXAMPLES = ROOT / "examples"
INJECTED = 0x17F00000000


@pytest.fixture(scope="session")
def chromium() -> Iterator[Opened]:
    """Return one browser for all tests."""
    with browser() as running:
        yield running


@pytest.fixture(scope="session")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return reports: of one process, of several, of many segments, of hostile names."""
    folder = tmp_path_factory.mktemp("reports")
    hostile = process(666, HOSTILE, path=HOSTILE, command_line=HOSTILE, error=HOSTILE)
    hostile["modules"]["name"][1] = HOSTILE
    hostile["segments"]["file"] = encoded([HOSTILE] * len(hostile["segments"]["start"]))
    hostile["flags"][0] |= {"flag": HOSTILE, "why": HOSTILE, "severity": HOSTILE}
    several = [
        process(
            4,
            "System",
            0,
            segments={},
            regions={},
            modules={},
            threads={},
            missing={},
            flags=[],
            error="cannot be read",
        )
    ]
    several += [process(700, "services.exe", 4, flags=[]), process(), process(1800, "svchost.exe", 700)]
    count = len(several[3]["segments"]["start"])
    several[3]["segments"]["change"] = encoded([None] * (count - 3) + ["added", "removed", "changed"])
    documents = {
        "one": report(process()),
        "several": report(*several),
        "many": report(large(50_000)),
        "hostile": report(
            hostile,
            process(667, HOSTILE),
            title=HOSTILE,
            provenance={"inputs": {"a": {"path": HOSTILE}}, HOSTILE: HOSTILE},
        ),
    }
    return {name: write(document, folder / f"{name}.html") for name, document in documents.items()}


@pytest.fixture
def opened(chromium: Opened, reports: dict[str, Path]) -> Any:
    """Return what opens a report; when it is closed, it must have loaded nothing, and nobody complained."""

    @contextmanager
    def opening(report: str | Path, link: str = "", **options: Any) -> Iterator[Shown]:
        path = reports[report] if isinstance(report, str) else report
        with shown(chromium, path, link, **options) as found:
            yield found
            if options.get("java_script_enabled", True):
                assert found.page.evaluate("[...violations]") == []
                assert found.page.evaluate("window.owned") is None
            assert {url.split("#")[0] for url in found.requests if not url.startswith("blob:")} == {path.as_uri()}
            assert found.complaints == []

    return opening


def copied(found: Shown) -> list[list[str]]:
    """Return what `Copy CSV` puts into the clipboard."""
    found.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    found.page.get_by_role("button", name="Copy CSV").click()
    found.page.get_by_role("button", name="Copied").wait_for()
    text = found.page.evaluate("navigator.clipboard.readText()")
    return list(csv.reader(io.StringIO(text)))


def tab(found: Shown, name: str) -> None:
    """Open a table."""
    found.page.get_by_role("tab", name=re.compile(f"^{name}")).click()
    found.settle()


def test_what_stands_above(opened: Any) -> None:
    """The head says what was read and by what, how many bytes the file holds, and what is known of the process."""
    with opened("one") as found:
        head = found.text("#subtitle")
        for part in (
            "mem.raw (8.0 GiB)",
            "SHA-256 5f5f5f5f5f5f…",
            "memcarve 0.1.0",
            "holds 512 B of memory, at most 1.0 MiB",
        ):
            assert part in head
        assert found.text("#process-name") == "target.exe · process 1624"
        facts = found.text("#process-facts")
        for part in (
            "39 segments, 2.3 MiB",
            "1 flag high",
            "24.0 KiB not in memory",
            "windows x64 64 bits",
            "parent 700",
        ):
            assert part in facts
        assert "r-x executable" in found.text("#legend")
        assert "H heap" in found.text("#legend")


def test_pointing(opened: Any) -> None:
    """The mouse over a place says what is there, a click shows all that is known of it; a gap says how long it is."""
    with opened("one") as found:
        box = found.page.locator("#picture canvas").bounding_box()
        tips: dict[str, int] = {}
        for x in range(66, int(box["width"]) - 12, 9):
            found.page.mouse.move(box["x"] + x, box["y"] + 45)
            tips.setdefault(found.text("#tip"), x)
        injected = next(text for text in tips if "urwx" in text)
        assert injected.split("\n") == [
            "0x017f00000000-0x017f00012000", "72.0 KiB", "urwx, private",
            "flag: private-executable (high)", "flag: writable-executable (medium)",
        ]  # fmt: skip
        # 0x7ffa12382000 is after the last segment; the region of ntdll goes on to 0x7ffa123f8000
        assert any("gap" in text and "folded" in text for text in tips)
        assert any("not there: paged out" in text for text in tips)
        found.page.mouse.click(box["x"] + tips[injected] + 2, box["y"] + 45)
        details = found.text("#details")
        for part in (
            "0x017f00000000",
            "private-executable high",
            "7.904 bits per byte",
            "First 256 bytes",
            "Entropy along it",
            "VadF",
        ):
            assert part in details
        assert "0000  fc 48 83 e4 f0 e8 c0 00  00 00 41 51 41 50 52 51  .H........AQAPRQ" in details
        assert found.page.url.endswith(f"#0x{INJECTED:x}")
        assert "flag: private-executable" in found.text("#said")


def test_zoom_and_pan(opened: Any) -> None:
    """The wheel zooms around the mouse, dragging and the keys move, and the whole is one click away."""
    with opened("one") as found:
        whole = found.range()
        assert whole[0] == 0x7FFE0000
        assert whole[1] >= 0x7FFA123F7000
        box = found.page.locator("#picture canvas").bounding_box()
        x, y = box["x"] + box["width"] * 0.7, box["y"] + 45
        found.page.mouse.move(x, y)
        before = found.text("#tip").split("\n")[0]
        for _ in range(3):
            found.page.mouse.wheel(0, -200)
        found.settle()
        near = found.range()
        assert near[0] > whole[0]
        assert near[1] - near[0] < (whole[1] - whole[0]) // 1000
        found.page.mouse.move(x + 1, y)
        assert found.text("#tip").split("\n")[0] == before
        found.page.mouse.down()
        found.page.mouse.move(x - 100, y, steps=3)
        found.page.mouse.up()
        moved = found.range()
        assert moved[0] > near[0]
        assert moved[1] > near[1]
        assert "0x" not in found.page.url.rpartition("/")[2]  # a drag chooses nothing
        found.press("ArrowLeft")
        assert found.range()[0] < moved[0]
        found.press("Home")
        assert found.range()[0] == whole[0]
        found.press("End")
        assert found.range()[1] == whole[1]
        found.press("+")
        closer = found.range()
        found.press("-")
        assert found.range()[0] < closer[0]
        for _ in range(60):
            found.press("+")
        first, last = found.range()
        assert last - first <= 64  # and not closer
        found.page.get_by_role("button", name="Whole").click()
        assert found.range() == whole


def test_stepping(opened: Any) -> None:
    """The keys n and p go from segment to segment, f from flag to flag; each place is told and has its link."""
    with opened("one") as found:
        found.press("n", "n", "n")
        assert found.page.url.endswith("#0xa02f5f8000")
        assert found.text("#said").startswith("0x00a02f5f8000-0x00a02f600000, 32.0 KiB, urw-, stack")
        found.press("p")
        assert found.page.url.endswith("#0xa02f5d2000")
        found.press("f")
        assert found.page.url.endswith(f"#0x{INJECTED:x}")
        found.press("f")
        assert found.page.url.endswith("#0x7ffa12200000")
        assert "flag: module-unlinked (low)" in found.text("#said")
        found.press("f")  # after the last one comes the first
        assert found.page.url.endswith(f"#0x{INJECTED:x}")
        found.press("F", "F")
        assert found.page.url.endswith(f"#0x{INJECTED:x}")
        first, last = found.range()
        assert first <= INJECTED < last


def test_search(opened: Any) -> None:
    """Addresses, as debuggers write them too, names, and flags are found; a hit is gone to."""
    with opened("several", "#1624") as found:
        box = found.page.get_by_role("combobox")
        for asked, link in (
            ("0x7ffa12250123", "#1624/0x7ffa12250123"),
            ("00007ffa`12250123", "#1624/0x7ffa12250123"),
            ("ntdll.dll+0x1234", "#1624/0x7ffa12201234"),
            ("locale.nls", "#1624/0x7df400001000"),
            ("unlinked", "#1624/0x7ffa12200000"),
            ("svchost", "#1800"),
        ):
            box.fill(asked)
            box.press("Enter")
            assert found.page.url.endswith(link), asked
        assert found.text("#process-name") == "svchost.exe · process 1800"
        box.fill("ntdll")
        hits = found.page.get_by_role("option")
        hits.first.wait_for()
        assert hits.first.inner_text() == "ntdll.dll\nmodule 0x7ffa12200000"
        assert hits.last.inner_text().endswith(", target.exe \u00b7 process 1624")  # not the one that is shown
        assert box.get_attribute("aria-expanded") == "true"
        box.press("ArrowDown")
        assert hits.nth(1).get_attribute("aria-selected") == "true"
        assert box.get_attribute("aria-activedescendant") == "hit-1"
        hits.nth(2).click()
        assert "/0x7ffa" in found.page.url
        box.fill("no such name")
        assert hits.inner_text() == "nothing found"
        box.press("Escape")
        assert box.get_attribute("aria-expanded") == "false"


def test_what_overlaps(opened: Any, tmp_path: Path) -> None:
    """Regions that all cover each other, as hostile evidence may have them, are drawn without end of work."""
    count = 20_000
    regions = {
        "start": [f"0x{i:x}000" for i in range(1, count + 1)],
        "size": [(2 * count - i) << 12 for i in range(count)],
    }
    segments = {"start": ["0x4000", "0x5000", "0x6000"], "size": [0x1000, 0x8000, 0x1000]}
    parts = {"regions": regions, "segments": segments, "flags": [], "modules": {}, "missing": {}}
    with opened(write(report(process(**parts)), tmp_path / "report.html")) as found:
        found.press("n", "n", "n")
        assert found.page.url.endswith("#0x6000")
        assert "range\n0x00006000-0x00007000" in found.text("#details")


def test_links(opened: Any) -> None:
    """A link to an address opens there, in its process; another one is followed; nonsense leads nowhere."""
    with opened("several", "#1800/0x7ffa12250123") as found:
        assert found.text("#process-name") == "svchost.exe · process 1800"
        assert "ntdll.dll+0x50123" in found.text("#details")
        found.page.evaluate("location.hash = '#1624/0x7ff6a2200000'")
        found.page.get_by_text("target.exe+0x0", exact=True).wait_for()
        assert found.text("#process-name") == "target.exe · process 1624"
        assert "2018-01-14T12:25:33Z" in found.text("#details")
        found.press("Home", "+", "+")
        assert found.range()[1] < 0x7FF6A2200000
        found.page.locator(".detail-title a").click()  # the link to where one is leads back there
        assert found.range()[0] <= 0x7FF6A2200000 < found.range()[1]
        found.page.evaluate("location.hash = '#9/0xzz'")
        found.settle()
        assert found.text("#process-name") == "target.exe · process 1624"
    with opened("one", f"#0x{INJECTED + 0x40:x}") as found:
        assert "offset in it\n0x40" in found.text("#details")
        first, last = found.range()
        assert first <= INJECTED + 0x40 < last
    with opened("one", "#0xffffffffffffffffff") as found:
        assert "Choose a segment" in found.text("#details")


def test_tree(opened: Any) -> None:
    """Processes stand below those that began them, and the keys go through them; one that failed says why."""
    with opened("several", "#1624") as found:
        items = found.page.get_by_role("treeitem")
        assert [text.split("\n")[0] for text in items.all_inner_texts()] == [
            "System",
            "services.exe",
            "target.exe",
            "svchost.exe",
        ]
        assert [item.get_attribute("aria-level") for item in items.all()] == ["1", "2", "3", "3"]
        items.nth(2).focus()
        found.page.keyboard.press("ArrowLeft")
        found.page.keyboard.press("ArrowUp")
        found.page.keyboard.press("Enter")
        assert found.text("#process-name") == "System · process 4"
        assert found.text("#process-error") == "Not read whole: cannot be read"
        assert found.page.url.endswith("#4")
        items.nth(3).click()
        assert found.text("#process-name") == "svchost.exe · process 1800"
        tab(found, "Processes")
        assert "1624" in found.text(".scroller")  # a number, not an amount
        assert "0x" not in found.page.url.rpartition("#")[2]


def test_tables(opened: Any) -> None:
    """Tables are sorted by each column, filtered by words, and copied as they are shown."""
    with opened("one") as found:
        assert [name.split()[0] for name in found.page.get_by_role("tab").all_inner_texts()] == [
            "Flags", "Segments", "Regions", "Modules", "Threads", "Missing", "Provenance",
        ]  # fmt: skip
        tab(found, "Segments")
        rows = copied(found)
        given = process()["segments"]
        assert rows[0][:4] == ["start", "end", "size", "permissions"]
        assert [int(row[0], 16) for row in rows[1:]] == [int(start, 16) for start in given["start"]]
        assert [int(row[2]) for row in rows[1:]] == given["size"]
        assert [row[rows[0].index("sha256")] for row in rows[1:]] == given["sha256"]
        head = found.page.get_by_role("columnheader", name="size")
        head.get_by_role("button").click()
        assert head.get_attribute("aria-sort") == "ascending"
        head.get_by_role("button").click()
        assert head.get_attribute("aria-sort") == "descending"
        assert [int(row[2]) for row in copied(found)[1:]] == sorted(given["size"], reverse=True)
        found.page.get_by_label("Filter segments").fill("NTDLL r-x")
        found.page.get_by_text("2 of 39 rows").wait_for()
        assert [row[0] for row in copied(found)[1:]] == ["0x7ffa12201000", "0x7ffa12380000"]
        found.page.locator("#tabpanel tr[data-place]").nth(1).click()
        assert found.page.url.endswith("#0x7ffa12380000")
        tab(found, "Flags")
        severity = found.page.get_by_role("columnheader", name="severity", exact=True).get_by_role("button")
        severity.click()
        severity.click()
        assert [row[0] for row in copied(found)[1:]] == ["low", "medium", "high"]
        tab(found, "Provenance")
        assert ["inputs 0 sha256", "5f" * 32] in copied(found)
        with found.page.expect_download() as saving:
            found.page.get_by_role("button", name="Save CSV").click()
        assert saving.value.suggested_filename == "provenance.csv"


def test_formulas(opened: Any, tmp_path: Path) -> None:
    """No cell of the CSV is a formula to a spreadsheet; quotes and line ends stay in their cells."""
    names = ["=1+1", "+cmd", "-2", "@sum", 'a"b,c', "x\r\n=y", "x;=y"]
    modules = {"start": [f"0x{i + 1:x}000" for i in range(7)], "size": [1] * 7, "name": names}
    with opened(write(report(process(modules=modules)), tmp_path / "report.html")) as found:
        tab(found, "Modules")
        rows = copied(found)
        assert [row[rows[0].index("name")] for row in rows[1:]] == [
            "'=1+1",
            "'+cmd",
            "'-2",
            "'@sum",
            'a"b,c',
            "x\\u000d\\u000a=y",
            "x;=y",
        ]
        text = found.page.evaluate("navigator.clipboard.readText()")
        assert ',"x;=y"' in text  # one cell, too, if a semicolon parts them


def test_many_segments(opened: Any) -> None:
    """Of 50,000 segments only what is in view is made; each is reached exactly, those beyond 2^63 too."""
    given = large(50_000)["segments"]["start"]
    with opened("many") as found:
        tab(found, "Segments")
        assert found.page.locator("tbody tr").count() < 60
        assert found.page.get_by_role("grid").get_attribute("aria-rowcount") == "50001"
        row = found.page.locator("tbody tr[tabindex='0']")
        row.focus()
        found.page.keyboard.press("End")
        assert row.get_attribute("aria-rowindex") == "50001"
        assert row.locator("td").first.inner_text() == given[-1]
        inner, outer = row.bounding_box(), found.page.locator(".scroller").bounding_box()
        assert outer["y"] < inner["y"] <= outer["y"] + outer["height"] - inner["height"]
        found.page.keyboard.press("PageUp")
        found.page.keyboard.press("ArrowUp")
        found.page.keyboard.press("Enter")
        place = int(row.get_attribute("aria-rowindex")) - 2
        assert found.page.url.endswith(f"#{given[place]}")
        first, last = found.range()
        assert first <= int(given[place], 16) < last < first + (1 << 24)
        found.press("n")
        assert found.page.url.endswith(f"#{given[place + 1]}")
        found.page.get_by_label("Filter segments").fill("lib7.so")
        found.page.get_by_text("249 of 50,000 rows").wait_for()


@pytest.mark.skipif(not LONG, reason="a large one, as every test of the long sweep")
def test_most_segments(opened: Any, tmp_path: Path) -> None:
    """A report of 500,000 segments opens, and its last one is reached."""
    document = report(large(500_000))
    with opened(write(document, tmp_path / "report.html")) as found:
        found.press("End")
        tab(found, "Segments")
        row = found.page.locator("tbody tr[tabindex='0']")
        row.focus()
        found.page.keyboard.press("End")
        assert row.locator("td").first.inner_text() == document["processes"][0]["segments"]["start"][-1]


def test_colours(opened: Any, tmp_path: Path) -> None:
    """Segments have the colour of their protection; one with several has those of its regions, if these differ."""
    segments = {
        "start": ["0x1000", "0x2000", "0x3000", "0x4000"],
        "size": [4096] * 4,
        "protection": ["rw-", "r--, r-x", "rwx", "r--, r-x"],
    }
    regions = {
        "start": ["0x1000", "0x2000", "0x2800", "0x4000"],
        "size": [4096, 2048, 2048, 4096],
        "protection": ["rw-", "r--", "r-x", "rcx"],
    }
    parts = {"segments": segments, "regions": regions, "flags": [], "modules": {}, "missing": {}}
    # the colour of segments, and whether what is below may be executed, at parts of the width
    read = """(canvas, parts) => {
      const { data, width } = canvas.getContext("2d").getImageData(0, 30, canvas.width, 61);
      const at = (part, y) => 4 * (62 + Math.trunc((width - 70) * part) + y * width);
      const colour = (i) => [...data.slice(i, i + 3)].map((each) => each.toString(16).padStart(2, "0")).join("");
      return parts.map((part) => [colour(at(part, 0)), data[at(part, 60)] < 128]);
    }"""
    with opened(write(report(process(**parts)), tmp_path / "report.html")) as found:
        found.settle()
        seen = found.page.locator("#picture canvas").evaluate(read, [0.2, 0.3, 0.45, 0.7, 0.98])
        assert [colour for colour, _ in seen] == ["5b8fc4", "bcd2e8", "e8a838", "b02418", "9a90cf"]
        assert [may_run for _, may_run in seen] == [False, False, True, True, True]
        assert "rcx executable, copied when written" in found.text("#legend")  # a region is


def test_what_limits_it(opened: Any, tmp_path: Path) -> None:
    """Doubts, what is known to be missing, what was only counted and notes stand above the picture."""
    limits = {
        "doubts": ["its name is odd"],
        "incomplete": True,
        "notes": ["read from a page file"],
        "flags_counted": [{"flag": "text-differs", "severity": "low", "number": 1200}],
        "missing_not_listed": {"rows": 3, "bytes": 8192},
    }
    with opened(write(report(process(**limits)), tmp_path / "report.html")) as found:
        assert "1,201 flags low" in found.text("#process-facts")
        assert found.text("#process-notes").split("\n") == [
            "Doubtful: its name is odd",
            "Bytes of it are known to be missing.",
            "text-differs, low: 1,200 more, only counted",
            "3 stretches of missing memory not listed (8.0 KiB)",
            "read from a page file",
        ]


def test_long_names(opened: Any, tmp_path: Path) -> None:
    """Names as long as hostile evidence has them are cut if they stand above."""
    name = "A" * 400_000
    flag = {"flag": name, "why": name, "severity": "high", "address": "0x1000"}
    segments = {"start": ["0x1000"], "size": [512]}
    document = report(process(1, name, command_line=name, flags=[flag], segments=segments), title=name)
    with opened(write(document, tmp_path / "report.html"), "#0x1000") as found:
        assert found.text("#title") == f"{name[:300]}\u2026"
        assert found.text("#process-name") == f"{name[:200]}\u2026 \u00b7 process 1"
        assert len(found.text("body")) < 20_000
        assert "size\n512 bytes\n" in found.text("#details")


def test_flags_of_no_place(opened: Any, tmp_path: Path) -> None:
    """What is said of the process itself is read in full where places are told."""
    flag = {"flag": "imitated-name", "severity": "high", "address": None, "why": "named like svchost.exe, almost"}
    with opened(write(report(process(flags=[flag])), tmp_path / "report.html")) as found:
        found.page.locator("#tabpanel tr[data-place]").click()
        assert "imitated-name high\n\nnamed like svchost.exe, almost" in found.text("#details")


def test_changes(opened: Any) -> None:
    """What changed is told by sign and word, not by colour alone."""
    with opened("several", "#1800/0x7ffa12380000") as found:
        assert found.text("#process-facts").startswith("38 segments, 2.2 MiB1 removed1 flag")
        assert "change\nchanged" in found.text("#details")
        assert {"+added", "\u2212removed", "\u2260changed"} <= {
            text.replace("\n", "") for text in found.page.locator("#legend li").all_inner_texts()
        }
        tab(found, "Segments")
        found.page.get_by_role("columnheader", name="change").get_by_role("button").click()
        found.settle()
        assert "\u2212 removed" in found.page.locator(".scroller").inner_text()


def test_hostile_names(opened: Any) -> None:
    """Names are text: nothing of them runs, is loaded, or turns the text around it; `opened` sees to the first two."""
    with opened("hostile", "#666") as found:
        seen = HOSTILE.replace("\u202e", "\\u202e").replace("\x00", "\\u0000")
        assert found.page.title() == seen
        assert found.text("#title") == seen
        assert seen in found.text("#process-facts")
        assert seen in found.text("#process-error")
        found.press("f")
        assert seen in found.text("#details")
        for name in ("Flags", "Segments", "Modules", "Processes", "Provenance"):
            tab(found, name)
            assert seen in found.page.locator(".scroller").inner_text() or name == "Segments"
        assert any(seen in cell for row in copied(found) for cell in row)
        found.page.get_by_role("combobox").fill("onerror")
        found.page.get_by_role("option").first.wait_for()
        assert "\u202e" not in found.page.locator("body").inner_text()
        assert found.page.locator("img, iframe, object, svg").count() == 0
        assert found.page.locator("script").count() == 2


def test_themes(opened: Any) -> None:
    """The page takes the system's theme, and can be told another; the picture follows."""
    picture = "document.querySelector('#picture canvas').getContext('2d', { willReadFrequently: true })"
    pixel = f"{picture}.getImageData(2, 2, 1, 1).data[0]"
    with opened("one", color_scheme="dark") as found:
        assert found.page.evaluate("document.documentElement.dataset.theme") == "dark"
        assert found.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(14, 19, 24)"
        toggle = found.page.locator("#theme")
        assert toggle.inner_text() == "Switch to light"  # what a click does, not what is
        toggle.click()
        assert toggle.inner_text() == "Switch to dark"
        assert found.page.evaluate(pixel) > 192
        assert found.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(243, 245, 247)"


def test_on_paper(opened: Any) -> None:
    """Paper is light and has each table as text, of long ones the first rows and how many more there are."""
    with opened("many", color_scheme="dark") as found:
        found.page.emulate_media(media="print")
        found.page.locator("#printed h3").first.wait_for()
        assert found.page.evaluate("document.documentElement.dataset.theme") == "light"
        printed = found.text("#printed")
        assert "Segments (50,000)" in printed
        assert "49,850 more rows in the report itself." in printed
        assert "as above" not in printed  # only what is long
        assert found.page.locator("#printed tr").count() < 700
        assert not found.page.get_by_role("tab").first.is_visible()
        assert found.page.locator("#picture canvas").is_visible()
        found.page.emulate_media(media="screen")
        found.page.get_by_role("tab").first.wait_for()
        assert found.page.evaluate("document.documentElement.dataset.theme") == "dark"


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 390)])
def test_for_everybody(opened: Any, scheme: str, width: int) -> None:
    """axe-core finds nothing, in either theme, wide and narrow; nothing is wider than the window."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    options = {"color_scheme": scheme, "viewport": {"width": width, "height": 900}}
    with opened("several", f"#1624/0x{INJECTED:x}", **options) as found:
        found.page.locator("#details .hexdump").wait_for()
        results = axe.Axe().run(found.page).response
        assert [(each["id"], [node["html"] for node in each["nodes"]]) for each in results["violations"]] == []
        assert found.page.evaluate("document.documentElement.scrollWidth") <= width


def test_keyboard_alone(opened: Any) -> None:
    """With Tab alone one comes to the search, the picture, the details and the tables, and out of them again."""
    with opened("several", f"#1624/0x{INJECTED:x}") as found:
        reached = []
        for _ in range(60):
            found.page.keyboard.press("Tab")
            reached.append(
                found.page.evaluate(
                    "(e => e.id || e.getAttribute('role') || e.getAttribute('aria-label') || e.textContent)"
                    "(document.activeElement)"
                )
            )
        wanted = ["search", "theme", "treeitem", "picture", "out", "region", "tab-flags", "Filter flags", "Copy CSV"]
        places = [reached.index(name) for name in wanted]
        assert places == sorted(places)
        assert reached.count("search") > 1  # out of the page, and into it again


def test_touch(opened: Any) -> None:
    """Fingers choose and pinch."""
    with opened("one", has_touch=True, is_mobile=True, viewport={"width": 390, "height": 844}) as found:
        found.page.get_by_role("combobox").fill("ntdll")
        found.page.get_by_role("option").first.wait_for()
        hits = found.page.locator("#hits").bounding_box()
        assert hits["x"] >= 0
        assert hits["x"] + hits["width"] <= 390
        found.page.get_by_role("combobox").press("Escape")
        box = found.page.locator("#picture canvas").bounding_box()
        x, y = box["x"] + box["width"] * 0.75, box["y"] + 45
        found.page.touchscreen.tap(x, y)
        assert "0x" in found.page.url.rpartition("#")[2]
        whole = found.range()
        session = found.page.context.new_cdp_session(found.page)
        for kind, apart in (("touchStart", 20), ("touchMove", 60), ("touchMove", 100), ("touchEnd", None)):
            points = [] if apart is None else [{"x": x - apart, "y": y, "id": 0}, {"x": x + apart / 2, "y": y, "id": 1}]
            session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
        found.settle()
        pinched = found.range()
        assert pinched[1] - pinched[0] < whole[1] - whole[0]


def test_edges(opened: Any, tmp_path: Path) -> None:
    """The last byte of 2^64, addresses that doubles cannot tell apart, and rows that are not sorted are exact."""
    starts = ["0xfffffffffffff000", "0xfffff80000000001", "0xfffff80000000003", "0x0"]
    segments = {"start": starts, "size": [4096, 1, 2, 16], "sha256": ["d", "b", "c", "a"]}
    members = {
        name: {} for name in ("regions", "modules", "threads", "missing", "first_bytes", "entropy_along", "header")
    }
    path = write(report(process(segments=segments, flags=[], **members)), tmp_path / "report.html")
    with opened(path, "#0xffffffffffffffff") as found:
        assert "0xfffffffffffff000-0x10000000000000000" in found.text("#details")
        found.press("Home", "p", "p", "p")
        assert found.page.url.endswith("#0xfffff80000000001")
        assert "SHA-256\nb" in found.text("#details")
        found.press("n")
        assert found.page.url.endswith("#0xfffff80000000003")
        assert "SHA-256\nc" in found.text("#details")
        found.press("p", "p")
        assert found.page.url.endswith("#0x0")
        tab(found, "Segments")
        assert [row[0] for row in copied(found)[1:]] == [starts[3], starts[1], starts[2], starts[0]]


ODD = {
    "nothing": {},
    "wrong types": {
        "processes": [{"pid": "x", "segments": [], "regions": 5, "flags": "no", "modules": {"start": None}}, 7],
        "provenance": [3],
        "tool": "x",
    },
    "odd values": {
        "processes": [
            {
                "pid": None,
                "segments": {"start": ["0x1000", "zz", None, -5], "size": [-1, None, "4096", 1e300], "flags": [[99]]},
                "regions": {"start": ["0x2000"], "size": [0], "kind": {"values": [], "codes": [4]}, "new": [{"a": 1}]},
                "flags": [{"address": "x"}, {"address": None}, None, {"severity": []}],
                "entropy_along": {"0": ["a", None]},
                "first_bytes": {"0": "%%%", "1": 3},
                "header": [],
                "unknown": {"deep": [{}]},
            }
        ]
    },
    "regions alone": {"processes": [process(segments={}, flags=[], missing={})]},
}  # fmt: skip


@pytest.mark.parametrize("name", ODD)
def test_what_is_odd_is_shown_all_the_same(opened: Any, tmp_path: Path, name: str) -> None:
    """Members that are missing, unknown or not what they should be leave a page that works."""
    with opened(write(ODD[name], tmp_path / "report.html"), "#0x1000") as found:
        found.press("n", "n", "f", "+", "End", "0")
        for each in found.page.get_by_role("tab").all():
            each.click()
        found.page.get_by_role("combobox").fill("0x2000")
        found.page.get_by_role("combobox").press("Enter")
        assert found.page.locator("#picture canvas").is_visible()


def test_without_scripts(opened: Any) -> None:
    """Where scripts are turned off the page says what it is."""
    with opened("one", java_script_enabled=False) as found:
        assert "scripts are turned off" in found.text("body")


def test_a_report_of_memcarve(opened: Any, tmp_path: Path) -> None:
    """What memcarve writes of the example is shown: each table has the rows of its document."""
    out = tmp_path / "pid.1624.html"
    lists = {"regions": EXAMPLES / "vadinfo.txt", "modules": EXAMPLES / "dlllist.txt"}
    with memcarve.open(EXAMPLES / "pid.1624.dmp", **lists) as container:
        memcarve.write_report(container, out)
    text = out.read_text(encoding="utf-8").partition('id="document">')[2].partition("</script>")[0]
    given = json.loads(text)["processes"][0]
    with opened(out) as found:
        for name in ("segments", "regions", "modules"):
            tab(found, name.capitalize())
            assert [int(row[0], 16) for row in copied(found)[1:]] == [int(start, 16) for start in given[name]["start"]]
        found.press("f")
        assert found.page.url.endswith(given["flags"][0]["address"])
        assert given["flags"][0]["why"] in found.text("#details")


def test_documents_are_as_the_schema_says() -> None:
    """What these tests draw is what the published schema describes."""
    checked(report(process(), process(700)))


def test_the_document_is_in_the_file(reports: dict[str, Path]) -> None:
    """The file holds the document as JSON that any program reads, and no markup of a name."""
    text = reports["hostile"].read_text(encoding="utf-8")
    found = re.search(r'<script type="application/json" id="document">(.*?)</script>', text, re.DOTALL)
    assert found
    assert json.loads(found[1])["title"] == HOSTILE
    assert "<img src=x" not in text
