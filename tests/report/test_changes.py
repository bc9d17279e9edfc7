"""What became of a process since an earlier state: marks on segments, and those that are gone."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

import memcarve
from cli import invoke
from dumps import write_dump
from memcarve.process import ProcessEntry
from memory import PAGE, noise
from processes import RW, RWX, Held, metadata_of, page_region, process_of
from reported import checked, unpacked

if TYPE_CHECKING:
    from pathlib import Path

    Capture = pytest.CaptureFixture[bytes]

#: pages 16 and 17 are one segment, and so are 20 and 21 in the past; 24 is gone, 30 is new
PAST = {16: noise(1), 17: noise(2), 20: noise(3), 21: noise(4), 24: noise(5), 40: noise(6)}
NOW = {16: noise(1), 17: noise(99), 20: noise(3), 30: noise(7), 40: noise(6)}


def document_of(now: Held, was: Held, folder: Path, **options: Any) -> dict[str, Any]:
    """Return the document of a report that compares two states."""
    memcarve.write_report(now, folder / "out", memcarve.ReportOptions(**options), form="json", before=was)
    return checked(json.loads((folder / "out").read_text("ascii")))


@pytest.mark.parametrize("split", ["none", "protection"])
def test_what_became_of_segments(split: str, tmp_path: Path) -> None:
    """Each segment is marked, what is gone is listed with its past labels, and facts stay with their rows."""
    regions = metadata_of([page_region(16, 1, "PAGE_READWRITE"), page_region(17, 8, "PAGE_EXECUTE_READWRITE")])
    now, was = process_of(dict.fromkeys(NOW, RW), regions, NOW), process_of(dict.fromkeys(PAST, RWX), regions, PAST)
    document = document_of(Held(now), Held(was), tmp_path, split=split)
    (process,) = document["processes"]
    rows = process["segments"]
    found = [
        (int(start, 16) // PAGE, size // PAGE, change)
        for start, size, change in zip(rows["start"], rows["size"], unpacked(rows["change"]), strict=True)
    ]
    both = [(16, 2, "changed")] if split == "none" else [(16, 1, None), (17, 1, "changed")]
    gone = [(21, 1, "removed"), (24, 1, "removed")]
    assert found == [*both, (20, 1, None), *gone, (30, 1, "added"), (40, 1, None)]
    at = [start for start, *_ in found].index(21)
    assert (rows["extents"][at], rows["offset"][at], rows["sha256"][at]) == (0, None, None)
    assert unpacked(rows["permissions"])[at : at + 2] == ["urwx", "urwx"]
    assert unpacked(rows["protection"])[at : at + 2] == ["rwx", "rwx"]
    assert (process["totals"]["removed_segments"], process["totals"]["segments"]) == (2, len(found) - 2)
    assert process["first_bytes"].keys() == {str(row) for row in range(len(found)) if row not in (at, at + 1)}
    for flag in process["flags"]:
        inside = int(flag["address"], 16) - int(rows["start"][flag["segment"]], 16)
        assert 0 <= inside < rows["size"][flag["segment"]]
    assert process["compared"] is True


def test_other_processes(tmp_path: Path) -> None:
    """Of several, one is compared with what it was; one that began is not; those that ended are named."""
    same, other, ended = (process_of({16: RW}) for _ in range(3))
    other.entry, ended.entry = ProcessEntry(8, "began"), ProcessEntry(12, "ended")
    document = document_of(Held(same, other), Held(ended, same), tmp_path)
    assert [process["compared"] for process in document["processes"]] == [True, False]
    assert "change" not in document["processes"][1]["segments"]
    assert document["compared_with"]["ended"] == [{"pid": 12, "name": "ended"}]


def test_as_diff_tells_it(tmp_path: Path, capfdbinary: Capture) -> None:
    """What is marked is what `memcarve diff` tells, of dumps."""
    one, two = tmp_path / "one", tmp_path / "two"
    for folder, pages in ((one, PAST), (two, NOW)):
        folder.mkdir()
        write_dump(folder, [(page * PAGE, data) for page, data in pages.items()], 1624)
    was, now = one / "pid.1624.dmp", two / "pid.1624.dmp"
    ran = invoke(capfdbinary, "report", now, "--diff", was, "--format", "json", "-q")
    assert ran.code == 0, ran.err
    document = checked(json.loads(ran.out))
    rows = document["processes"][0]["segments"]
    marks = dict(zip(rows["start"], unpacked(rows["change"]), strict=True))
    told = json.loads(invoke(capfdbinary, "diff", was, now, "--format", "json", "-q").out)["differences"]
    words = {"appeared": "added", "vanished": "removed", "changed": "changed"}
    for row in told:
        if row["state"] in words:
            sides = [*row["now"], *row["was"]]
            assert marks[f"0x{int(sides[0]['start'], 16):x}"] == words[row["state"]]
    assert {row["state"] for row in told} == {"changed", "shrunk", "vanished", "appeared"}
    assert {row["path"] for row in document["compared_with"]["inputs"]} == {str(was), str(was.with_suffix(".map"))}
