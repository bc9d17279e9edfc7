"""The document of a report: its schema, its facts beside those of other commands, its bounds."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import TYPE_CHECKING, Any

import jsonschema
import pytest

import memcarve
import winimage
from cli import invoke
from reported import SCHEMA, checked, unpacked

if TYPE_CHECKING:
    from pathlib import Path

    Capture = pytest.CaptureFixture[bytes]


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an image of Windows with oddities in it."""
    path = tmp_path_factory.mktemp("machine") / "mem.raw"
    winimage.build(path, processes=winimage.USERLAND)
    return path


@pytest.fixture(scope="module")
def case(machine: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return the document about all its processes."""
    out = tmp_path_factory.mktemp("case") / "case.json"
    with memcarve.open(machine) as container:
        memcarve.write_report(container, out, form="json")
    found: dict[str, Any] = json.loads(out.read_text("ascii"))
    return found


def asked(capture: Capture, *words: str | Path) -> Any:
    """Return the JSON that a command prints."""
    ran = invoke(capture, *words, "--format", "json", "-q")
    assert ran.code in (0, 3), ran.err
    return json.loads(ran.out)


def test_schema(case: dict[str, Any]) -> None:
    """The document is what the published schema says, and the schema is one; a slip would be found."""
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert checked(case) is case
    case["processes"][0]["segments"]["size"].append(-1)
    with pytest.raises(jsonschema.ValidationError, match="-1"):
        checked(case)
    case["processes"][0]["segments"]["size"].pop()


def test_columns_are_as_long(case: dict[str, Any]) -> None:
    """All columns of a table have as many rows as the totals say."""
    for process in case["processes"]:
        for name in ("segments", "regions", "modules", "threads", "missing"):
            lengths = {
                len(column["codes"] if isinstance(column, dict) else column) for column in process[name].values()
            }
            assert len(lengths) == 1
            if name != "missing":
                assert lengths == {process["totals"][name]}


def test_segments_are_those_of_segments(case: dict[str, Any], machine: Path, capfdbinary: Capture) -> None:
    """Every fact of a segment is that of `memcarve segments`."""
    rows = asked(capfdbinary, "segments", machine, "--all", "--content", "full")["segments"]
    compared = 0
    for process in case["processes"]:
        found = process["segments"]
        own = [row for row in rows if row["pid"] == process["pid"]]
        assert [int(start, 16) for start in found["start"]] == [int(row["start"], 16) for row in own]
        assert found["size"] == [row["size"] for row in own]
        assert found["extents"] == [row["extents"] for row in own]
        assert found["offset"] == [row["offset"] for row in own]
        for name in ("permissions", "protection", "kind"):
            assert unpacked(found[name]) == [", ".join(row[name] or []) or None for row in own]
        assert unpacked(found["flagged"]) == [", ".join(row["flags"] or []) or None for row in own]
        assert unpacked(found["file"]) == [row["file"] for row in own]
        assert found["entropy"] == pytest.approx([row["entropy"] for row in own], abs=0.0015)
        compared += len(own)
    assert compared == len(rows) > 50


def test_hashes_and_first_bytes(case: dict[str, Any], machine: Path) -> None:
    """Hashes and first bytes are those of the memory; the entropy along a segment is told part by part."""
    with memcarve.open(machine) as container:
        for process in case["processes"]:
            memory = container.process(process["pid"]) if process["segments"]["start"] else None
            for row, (start, size) in enumerate(
                zip(process["segments"]["start"], process["segments"]["size"], strict=True)
            ):
                assert memory is not None
                data = memory.read(int(start, 16), size)
                assert process["segments"]["sha256"][row] == hashlib.sha256(data).hexdigest()
                assert base64.b64decode(process["first_bytes"][str(row)]) == data[:256]
                assert len(process["entropy_along"].get(str(row), [0])) == min(-(-size // 4096), 64)


def test_findings_are_those_of_hunt(case: dict[str, Any], machine: Path, capfdbinary: Capture) -> None:
    """Every finding is that of `memcarve hunt`, and leads to its segment."""
    rows = asked(capfdbinary, "hunt", machine, "--severity", "info")["findings"]
    found = [
        (process["pid"], flag["flag"], flag["severity"], flag["address"], flag["why"], flag["evidence"])
        for process in case["processes"]
        for flag in process["flags"]
    ]
    told = [(row["pid"], row["flag"], row["severity"], row["address"], row["why"], row["evidence"]) for row in rows]

    def plain(row: tuple[Any, ...]) -> tuple[Any, ...]:
        pid, flag, severity, address, why, evidence = row
        lies = None if evidence is None else {**evidence, "address": int(evidence["address"], 16)}
        return pid, flag, severity, None if address is None else int(address, 16), why, json.dumps(lies)

    assert sorted(map(plain, found), key=str) == sorted(map(plain, told), key=str)
    assert len(found) > 10
    for process in case["processes"]:
        segments = process["segments"]
        for number, flag in enumerate(process["flags"]):
            if flag["segment"] is not None:
                start = int(segments["start"][flag["segment"]], 16)
                assert start <= int(flag["address"], 16) < start + segments["size"][flag["segment"]]
                assert number in segments["flags"][flag["segment"]]
        for row, words in enumerate(unpacked(segments["flagged"])):
            own = {process["flags"][number]["flag"] for number in segments["flags"][row]}
            assert set((words or "").split(", ")) - {""} <= own


def test_regions_are_those_of_regions(case: dict[str, Any], machine: Path, capfdbinary: Capture) -> None:
    """Every region is that of `memcarve regions`."""
    rows = asked(capfdbinary, "regions", machine, "--all")["regions"]
    found = [
        (process["pid"], int(start, 16), size, resident, protection, kind, file, source)
        for process in case["processes"]
        for start, size, resident, protection, kind, file, source in zip(
            *(process["regions"][name] for name in ("start", "size", "resident")),
            *(unpacked(process["regions"][name]) for name in ("protection", "kind", "file", "source")),
            strict=True,
        )
    ]
    names = "pid", "size", "resident", "protection", "kind", "file", "source"
    told = [(row["pid"], int(row["start"], 16), *(row[name] for name in names[1:])) for row in rows]
    assert found == told
    assert len(found) > 50
