"""The report as a file: the page holds the document as data and lets nothing else run, and is written safely."""

from __future__ import annotations

import base64
import hashlib
import html.parser
import json
import stat
from typing import TYPE_CHECKING, Any

import pytest

import memcarve
from cli import invoke
from files import ROOT
from memcarve.errors import InputError, TargetExistsError
from memcarve.metadata import Metadata, Module, Parameters, Regions, SourceRows, Thread
from memcarve.process import ProcessEntry
from memory import PAGE, noise
from processes import RW, RWX, Held, metadata_of, page_region, process_of
from reported import checked, unpacked

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from memcarve.process import ProcessMemory

    Capture = pytest.CaptureFixture[bytes]

#: what would end the element that the document is in, begin one, run, turn text around, or end a line of a script
HOSTILE = (
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "<!--<script>",
    "&lt;b&gt; \"'`",
    "\u202egpj.exe",
    "\u2028\u2029",
    "\0\x1b[2J\ud800",
    "{{document}}{{script}}",
)


class Parsed(html.parser.HTMLParser):
    """The elements of a page with their attributes, and the text in each script and style."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str | None, str]] = []
        self._open: tuple[str, str | None] | None = None
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Take an element."""
        self.elements.append((tag, dict(attrs)))
        if tag in ("script", "style", "title"):
            self._open = tag, dict(attrs).get("type")
            self.texts.append((*self._open, ""))

    def handle_endtag(self, tag: str) -> None:
        """End an element."""
        if self._open is not None and tag == self._open[0]:
            self._open = None

    def handle_data(self, data: str) -> None:
        """Take text."""
        if self._open is not None:
            tag, kind, text = self.texts[-1]
            self.texts[-1] = tag, kind, text + data

    def text(self, tag: str, kind: str | None = None) -> str:
        """Return the text of the only element of a kind."""
        (found,) = (text for name, other, text in self.texts if (name, other) == (tag, kind))
        return found

    @property
    def document(self) -> dict[str, Any]:
        """The document in it."""
        found: dict[str, Any] = json.loads(self.text("script", "application/json"))
        return checked(found)


def hostile() -> ProcessMemory:
    """Return a process all of whose names are hostile."""
    regions = [page_region(16 + 2 * at, 1, "PAGE_READWRITE", file=name, tag=name) for at, name in enumerate(HOSTILE)]
    known = Metadata(
        regions=(Regions(HOSTILE[0], regions),),
        modules=(SourceRows(HOSTILE[1], [Module(row.start, PAGE, row.file, row.file) for row in regions]),),
        threads=(SourceRows("threads", [Thread(at, name=name) for at, name in enumerate(HOSTILE)]),),
        parameters=(Parameters("PEB", HOSTILE[0], HOSTILE[1]),),
    )
    found = process_of({16 + 2 * at: RW for at in range(len(HOSTILE))}, known)
    found.entry = ProcessEntry(4, "".join(HOSTILE))
    return found


def page_of(container: Held, folder: Path, **options: Any) -> str:
    """Return the report that is written."""
    memcarve.write_report(container, folder / "report.html", memcarve.ReportOptions(**options))
    return (folder / "report.html").read_text("utf-8")


def test_hostile_names_are_data(tmp_path: Path) -> None:
    """No name makes an element, none is lost, and the page has the elements that it has without them."""
    plain = Parsed(page_of(Held(process_of({16: RW})), tmp_path))
    (tmp_path / "report.html").unlink()
    text = page_of(Held(hostile()), tmp_path, title="".join(HOSTILE))
    found = Parsed(text)
    assert [name for name, _ in found.elements] == [name for name, _ in plain.elements]
    inside = text.partition('id="document">')[2].partition("</script>")[0]
    assert inside.isascii()
    assert not set("<>&") & set(inside)
    (process,) = found.document["processes"]
    told = [name.replace("\ud800", "\\ud800") for name in HOSTILE]  # no half of a character is in JSON
    assert process["name"] == found.document["title"] == "".join(told)
    assert unpacked(process["regions"]["file"]) == process["modules"]["path"] == process["threads"]["name"] == told
    assert (process["command_line"], process["path"]) == (told[0], told[1])
    title = found.text("title")
    assert title.startswith("".join(HOSTILE[:4]))
    assert title.isprintable()


def test_the_policy_lets_the_page_run_alone(tmp_path: Path) -> None:
    """Nothing is loaded; the script and the style that may run are those in the page, by their hashes."""
    text = page_of(Held(hostile()), tmp_path)
    found = Parsed(text)
    (policy,) = (
        each["content"] for name, each in found.elements if each.get("http-equiv") == "Content-Security-Policy"
    )

    def hashed(part: str) -> str:
        return base64.b64encode(hashlib.sha256(part.encode()).digest()).decode()

    assert policy == (
        f"default-src 'none'; script-src 'sha256-{hashed(found.text('script'))}'; "
        f"style-src 'sha256-{hashed(found.text('style'))}'; img-src data:; base-uri 'none'; form-action 'none'"
    )
    names = [name for name, _ in found.elements]
    assert names.index("meta") < names.index("style")
    assert [name for name in names if name in ("script", "style")] == ["style", "script", "script"]
    assert not {"link", "img", "iframe", "object", "embed", "base", "form"} & set(names)
    attributes = {attribute for _, each in found.elements for attribute in each}
    assert not {"src", "href", "style", "srcset", "action"} & attributes
    assert not [attribute for attribute in attributes if attribute.startswith("on")]
    assert text.startswith("<!DOCTYPE html>\n<!-- written by memcarve ")


def secrets(count: int, flagged: tuple[int, ...] = ()) -> tuple[ProcessMemory, Mapping[int, bytes]]:
    """Return a process of single pages of noise, of which some are flagged, and what is in them."""
    pages = {16 + 2 * at: noise(at) for at in range(count)}
    regions = [
        page_region(page, 1, "PAGE_EXECUTE_READWRITE" if at in flagged else "PAGE_READWRITE", kind="private")
        for at, page in enumerate(pages)
    ]
    flags = {page: RWX if at in flagged else RW for at, page in enumerate(pages)}
    return process_of(flags, metadata_of(regions), pages), pages


def shows(text: str, data: bytes) -> bool:
    """Return True if 16 bytes that follow each other in `data` are in a text, in any form that a report could use."""
    for at in range(64):
        part = data[at : at + 16]
        forms = [part.hex(), part.hex(" "), base64.b64encode(part)[:20].decode(), str(list(part))[1:-1]]
        if any(form in text for form in forms):
            return True
    return False


@pytest.mark.parametrize("options", [{"max_bytes": 0}, {}])
def test_no_bytes(options: dict[str, int], tmp_path: Path) -> None:
    """Without bytes of memory none is in the page, in no form; otherwise they are, and are counted."""
    process, pages = secrets(8, (1, 2))
    text = page_of(Held(process), tmp_path, **options)
    document = Parsed(text).document
    assert [shows(text, data) for data in pages.values()] == [not options] * 8
    assert bool(document["bytes"]["embedded"]) == (not options)
    assert document["processes"][0]["totals"]["flagged_segments"] == 2


def test_bytes_are_bounded(tmp_path: Path) -> None:
    """No more bytes than were allowed are in it: at findings first, then of flagged segments, then of the others."""
    one, pages = secrets(8, (5, 6))
    document = Parsed(page_of(Held(one), tmp_path, max_bytes=4 * 64 + 256 + 300)).document
    (process,) = document["processes"]
    evidence = [bytes.fromhex(flag["evidence"]["bytes"]) for flag in process["flags"] if flag["evidence"]]
    first = {int(row): base64.b64decode(data) for row, data in process["first_bytes"].items()}
    assert document["bytes"] == {"embedded": sum(map(len, [*evidence, *first.values()])), "limit": 812}
    assert document["bytes"]["embedded"] == 812
    assert len(evidence) == 4  # two flags of two segments
    assert {row: len(data) for row, data in first.items()} == {0: 44, 5: 256, 6: 256}
    assert all(data == [*pages.values()][row][: len(data)] for row, data in first.items())


def test_one_fails(tmp_path: Path) -> None:
    """A process that cannot be opened is in the report with its error; the others are whole, and share the bytes."""
    good, _ = secrets(3)
    other, _ = secrets(3)
    other.entry = ProcessEntry(8, "other")
    container = Held(good, InputError("is broken"), other)
    document = Parsed(page_of(container, tmp_path, max_bytes=600)).document
    rows = [(row["pid"], row["error"], row["totals"]["segments"]) for row in document["processes"]]
    assert rows == [(4, None, 3), (1001, "is broken", 0), (8, None, 3)]
    sizes = [sum(len(base64.b64decode(data)) for data in row["first_bytes"].values()) for row in document["processes"]]
    assert sizes == [200, 0, 400]
    assert document["provenance"]["complete"] is False


def test_written_for_its_owner(tmp_path: Path) -> None:
    """The file is its owner's alone, replaces nothing unasked and nothing that memcarve did not write."""
    target, container = tmp_path / "report.html", Held(process_of({16: RW}))
    memcarve.write_report(container, target)
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    with pytest.raises(TargetExistsError, match="exists"):
        memcarve.write_report(container, target)
    memcarve.write_report(container, target, memcarve.ReportOptions(force=True), form="json")
    checked(json.loads(target.read_text("ascii")))
    memcarve.write_report(container, target, memcarve.ReportOptions(force=True))
    for text in ("<!DOCTYPE html>\n<p>mine</p>", '{"schema": 1, "kind": "memcarve-report"}', ""):
        target.write_text(text)
        with pytest.raises(TargetExistsError, match="replaces only what memcarve wrote"):
            memcarve.write_report(container, target, memcarve.ReportOptions(force=True))
        assert target.read_text() == text


def test_interrupted(tmp_path: Path) -> None:
    """A report that is stopped leaves nothing behind."""

    def stop(*_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        memcarve.write_report(Held(process_of({16: RW})), tmp_path / "report.html", progress=stop)
    assert list(tmp_path.iterdir()) == []


def test_the_command(tmp_path: Path, capfdbinary: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page holds the document that is printed; its default name is beside the user; lists end where asked."""
    dump = ROOT / "examples" / "pid.1624.dmp"
    monkeypatch.chdir(tmp_path)
    options = "--content", "none", "--hash", "none", "--no-bytes", "--case-id", "4711", "--title", "A <b>"
    ran = invoke(capfdbinary, "report", dump, *options)
    assert (ran.code, ran.out) == (0, b""), ran.err
    assert ran.err.endswith(
        "1 process, 114 segments, 0 findings, 0 bytes of memory in the report: pid.1624.report.html\n"
    )
    page = Parsed((tmp_path / "pid.1624.report.html").read_text("utf-8"))
    printed = invoke(capfdbinary, "report", dump, *options, "--format", "json", "--hash-input")
    document = checked(json.loads(printed.out))
    assert page.document["processes"] == document["processes"]
    assert document["title"] == "A <b>"
    assert document["provenance"]["case_id"] == "4711"
    hashes = {row["path"]: row["sha256"] for row in document["provenance"]["inputs"]}
    assert hashes[str(dump)] == hashlib.sha256(dump.read_bytes()).hexdigest()
    assert set(unpacked(document["processes"][0]["segments"]["content"])) == {None}
    assert set(document["processes"][0]["segments"]["sha256"]) == {None}
    assert invoke(capfdbinary, "report", dump).code == 1
    for words in (["-o", "s3://bucket/case.html"], ["--picture", "s3://bucket/case.svg"]):
        ran = invoke(capfdbinary, "report", dump, *words)
        assert ran.code == 2
        assert "a report is a file of this machine" in ran.err
    assert invoke(capfdbinary, "report", dump, "--force", "--max-bytes", "0").code == 0
    assert Parsed((tmp_path / "pid.1624.report.html").read_text("utf-8")).document["title"] == "pid.1624.dmp"


def test_in_a_batch(tmp_path: Path, capfdbinary: Capture) -> None:
    """A batch writes a report of each input, with the picture, into the input's folder."""
    dump = ROOT / "examples" / "pid.1624.dmp"
    ran = invoke(capfdbinary, "batch", "report", dump, "--picture", "p.svg", "--format", "html", "-o", tmp_path / "out")
    assert ran.code == 0, ran.err
    folder = tmp_path / "out" / dump.name
    Parsed((folder / "report.html").read_text("utf-8"))
    assert {"report.html", "p.svg"} <= {path.name for path in folder.iterdir()}
