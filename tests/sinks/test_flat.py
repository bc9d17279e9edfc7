"""Flat files: every byte at its address, gaps filled or holes, and said to be; against a model of single bytes."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import tempfile
import types
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import memcarve
import sinking
from dumps import write_dump
from files import EXAMPLE, listing
from memcarve.backing import FileBacking
from memcarve.errors import AddressError, InputError, NoSpaceError, OutputError, TargetExistsError, UsageError
from memcarve.missing import NOT_WRITTEN, Missing
from memcarve.process import ProcessMemory, Selection
from memcarve.space import AddressSpace
from memory import PAGE, noise
from processes import process_with
from sinking import How, export_flat

if TYPE_CHECKING:
    from collections.abc import Sequence

TOP = 1 << 64

#: (address, bytes) of what is there, and (address, size) of what is missing
Content = tuple[list[tuple[int, bytes]], list[tuple[int, int]]]


def column(values: Sequence[int]) -> Any:
    """Return numbers as a column."""
    return np.array(values, np.uint64)


def process_of(
    path: Path, pieces: Sequence[tuple[int, bytes]], missing: Sequence[tuple[int, int]] = ()
) -> ProcessMemory:
    """Write the pieces into a file, the last one first and with a byte between them; return them as a process."""
    data, offsets = bytearray(), {}
    for address, content in reversed(pieces):
        data += b"\xee"
        offsets[address] = len(data)
        data += content
    path.write_bytes(data)
    space = AddressSpace(
        column([address for address, _ in pieces]),
        column([len(content) for _, content in pieces]),
        column([offsets[address] for address, _ in pieces]),
        FileBacking(path),
        [Missing(start, size, NOT_WRITTEN) for start, size in missing],
    )
    return process_with(space, pid=7, inputs={"dump": {"path": str(path), "size": len(data)}})


def document(path: Path) -> dict[str, Any]:
    """Return what is written beside a flat file."""
    found: dict[str, Any] = json.loads(Path(f"{path}.json").read_text())
    return found


def three(tmp_path: Path) -> ProcessMemory:
    """Return a process of three segments, with gaps of two pages and of one, the latter known to be missing."""
    pieces = [(0x10000, noise(1, 2 * PAGE)), (0x14000, noise(2)), (0x16000, noise(3))]
    return process_of(tmp_path / "dump", pieces, [(0x15000, PAGE)])


@st.composite
def contents(draw: st.DrawFn) -> Content:
    """Draw pieces and missing ranges from a low or the very highest address on."""
    steps = draw(st.lists(st.tuples(st.sampled_from(["there", "missing", "gap"]), st.integers(1, 9)), max_size=9))
    length = sum(size for _, size in steps)
    address = draw(st.sampled_from([0, 3, 0x7FFF_FFFF_FFF0, (1 << 63) - 5, TOP - length]))
    pieces, missing = [], []
    for number, (kind, size) in enumerate(steps):
        if kind == "there":
            pieces.append((address, noise(number, size)))
        elif kind == "missing":
            missing.append((address, size))
        address += size
    return pieces, missing


@settings(max_examples=150)
@given(contents(), st.data(), st.integers(0, 255), st.booleans())
def test_flat_is_what_the_model_says(content: Content, data: st.DataObject, fill: int, sparse: bool) -> None:  # noqa: FBT001
    """A flat file holds every byte of its range that is there, and the fill elsewhere; the sums say which is which."""
    pieces, missing = content
    there = {address + place: byte for address, piece in pieces for place, byte in enumerate(piece)}
    gone = {address + place for address, size in missing for place in range(size)}
    known = sorted(there.keys() | gone) or [0]
    low = data.draw(st.integers(max(known[0] - 5, 0), known[-1]))
    high = data.draw(st.integers(low + 1, min(known[-1] + 6, TOP)))
    fill = 0 if sparse else fill
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "out")
        process = process_of(Path(folder, "dump"), pieces, missing)
        if not any(address in there for address in range(low, high)):
            with pytest.raises(AddressError):
                export_flat(process, out, address=(low, high))
            assert listing(Path(folder)) == ["dump"]
            return
        result = export_flat(process, out, How(sparse=sparse), address=(low, high), fill=fill)
        assert out.read_bytes() == bytes(there.get(address, fill) for address in range(low, high))
        said = document(out)
        count = sum(address in there for address in range(low, high))
        assert (result.bytes, said["bytes"], said["filled_bytes"]) == (count, count, high - low - count)
        assert said["missing_bytes"] == sum(address in gone for address in range(low, high))
        filled = [address for begin, end in said["filled"] for address in range(int(begin, 16), int(end, 16))]
        assert filled == [address for address in range(low, high) if address not in there]
        assert sum(left.bytes for left in result.left_out) == len(there) - count


def test_the_whole_by_default(tmp_path: Path) -> None:
    """Without a range it is from the first byte to the last; the notes say what was filled, and what was missing."""
    result = export_flat(three(tmp_path), tmp_path / "out", fill=0xCC)
    gap = b"\xcc" * PAGE
    assert (tmp_path / "out").read_bytes() == noise(1, 2 * PAGE) + 2 * gap + noise(2) + gap + noise(3)
    assert list(result.notes) == [
        f"{3 * PAGE} bytes in 2 gaps are not from the process: filled with 0xcc",
        f"{PAGE} of these bytes are mapped but missing in the input",
    ]
    assert result.files == (str(tmp_path / "out"), str(tmp_path / "out.json"))
    assert (result.count, result.left_out) == (3, [])


def test_nothing_to_fill(tmp_path: Path) -> None:
    """Where all of the range is there, that is said, and nothing is listed as filled."""
    result = export_flat(three(tmp_path), tmp_path / "out", address=(0x10800, 0x12000))
    assert (tmp_path / "out").read_bytes() == noise(1, 2 * PAGE)[0x800:]
    assert list(result.notes) == ["nothing was filled: all of the range is there"]
    assert document(tmp_path / "out")["filled"] == []


def test_document(tmp_path: Path) -> None:
    """The document beside says where the bytes came from and which of them are not the process's."""
    options = How(command=["memcarve", "export", "\x1b[31m"])
    export_flat(three(tmp_path), tmp_path / "out", options, fill=0x90)
    said = document(tmp_path / "out")
    said.pop("time"), said.pop("version"), said.pop("run")
    assert said == {
        "case_id": None,
        "operator": None,
        "sha256": hashlib.sha256((tmp_path / "out").read_bytes()).hexdigest(),
        "schema": 2,
        "tool": "memcarve",
        "what": "flat",
        "command": ["memcarve", "export", "\x1b[31m"],
        "file": "out",
        "start": "0x0000000000010000",
        "end": "0x0000000000017000",
        "size": 7 * PAGE,
        "inputs": {"dump": {"path": str(tmp_path / "dump"), "size": 4 * PAGE + 3}},
        "process": {"pid": 7, "name": None, "architecture": None},
        "platform": {"system": None, "major": None, "minor": None, "build": None},
        "address_bits": 48,
        "kernel_half": "0x8000000000000000",
        "choice": {
            "half": "all",
            "min_size": None,
            "max_size": None,
            **{name: [] for name in ("address", "file", "protection", "kind", "flag")},
        },
        "options": {"fill": 0x90},
        "looked_at": "all",
        "complete": True,
        "left_out": [],
        "notes": [],
        "bytes": 4 * PAGE,
        "fill": "90",
        "filled_bytes": 3 * PAGE,
        "missing_bytes": PAGE,
        "unselected_bytes": 0,
        "repeated_bytes": 0,
        "filled": [["0x0000000000012000", "0x0000000000014000"], ["0x0000000000015000", "0x0000000000016000"]],
    }
    assert b"\x1b" not in (tmp_path / "out.json").read_bytes()


def test_what_is_not_selected_is_filled(tmp_path: Path) -> None:
    """Segments that a selection leaves out are filled like gaps, and counted apart from them."""
    options = How(Selection(min_size=2 * PAGE))
    result = export_flat(three(tmp_path), tmp_path / "out", options, address=(0x10000, 0x17000), fill=1)
    assert (tmp_path / "out").read_bytes() == noise(1, 2 * PAGE) + b"\1" * 5 * PAGE
    assert result.notes[2] == f"{2 * PAGE} of these bytes are in the input, and were not selected"
    assert [(left.reason, left.bytes) for left in result.left_out] == [("below --min-size", 2 * PAGE)]


@pytest.mark.skipif(not hasattr(os, "SEEK_HOLE"), reason="the system does not tell of holes")
def test_gaps_are_holes_when_sparse(tmp_path: Path) -> None:
    """With sparse a gap takes no room: the file system knows it as a hole; else every byte of it is written."""
    pieces = [(0x100000, noise(1, 1 << 16)), (0x900000, noise(2, 1 << 16))]
    process = process_of(tmp_path / "dump", pieces)
    for sparse in (True, False):
        out = tmp_path / f"out{sparse}"
        result = export_flat(process, out, How(sparse=sparse))
        with out.open("rb") as file:
            hole = os.lseek(file.fileno(), 1 << 16, os.SEEK_HOLE)
        assert hole == (1 << 16 if sparse else 0x810000)
        assert out.stat().st_size == 0x810000
        assert ("left as holes" in result.notes[0]) == sparse
    assert document(tmp_path / "outTrue")["fill"] is None


def test_both_files_are_private(tmp_path: Path) -> None:
    """Both files can be read by their owner alone."""
    export_flat(three(tmp_path), tmp_path / "out")
    assert [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("out", "out.json")] == [0o600, 0o600]


@pytest.mark.parametrize("name", ["", "new/", "n" * 252, "n" * 256])
def test_names_that_no_file_can_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """A name that the file or its document cannot have is refused before anything is written; neither is kept."""
    process = three(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("memcarve.sinks.flat.Mover.move", None)
    with pytest.raises(OutputError, match=r"is not the name of a file; name one with|File name too long"):
        export_flat(process, name)
    assert listing(tmp_path) == ["dump"]


def test_a_new_folder_is_private(tmp_path: Path) -> None:
    """A folder that is made for the output can be entered by its owner alone."""
    export_flat(three(tmp_path), tmp_path / "new" / "out")
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o700


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"address": (0x2000, 0x2000)}, "is not a range"),
        ({"address": (0x3000, 0x2000)}, "is not a range"),
        ({"address": (-1, 0x2000)}, "is not a range"),
        ({"address": (0, TOP + 1)}, "is not a range"),
        ({"address": (0, TOP)}, "is longer than any file; choose a part with address="),
        ({"address": (0, 1 << 40)}, "bytes of gaps to fill.*address=.*sparse=True"),
        ({"fill": 256}, "is not a byte"),
        ({"fill": -1}, "is not a byte"),
        ({"fill": 1, "how": How(sparse=True)}, "contradict each other"),
        ({"how": How(Selection(min_size=1 << 30))}, "nothing is selected"),
    ],
)
def test_what_cannot_be_meant(tmp_path: Path, options: dict[str, Any], words: str) -> None:
    """A range, a byte or a choice that cannot be meant is refused with the remedy, and nothing is written."""
    process = three(tmp_path)
    with pytest.raises(UsageError, match=words):
        export_flat(process, tmp_path / "out", **options)
    assert listing(tmp_path) == ["dump"]


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ((0x12000, 0x14000), "0x12000: not in the map, and nothing else up to 0x14000 is there"),
        ((0x15000, 0x16000), "0x15000: mapped but missing, and nothing else up to 0x16000 is there"),
        ((0, 1), "0x0: not in the map, and nothing else up to 0x1 is there"),
        ((TOP - 1, TOP), "0xffffffffffffffff: not in the map, and nothing else up to 0x10000000000000000 is there"),
    ],
)
def test_nothing_there(tmp_path: Path, address: tuple[int, int], words: str) -> None:
    """A range of which nothing is there is an error that says why."""
    with pytest.raises(AddressError) as caught:
        export_flat(three(tmp_path), tmp_path / "out", address=address)
    assert str(caught.value) == words


def test_no_room_for_gaps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gaps that do not fit are told before anything is written; holes do fit."""
    process = three(tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda _: types.SimpleNamespace(free=3 * PAGE - 1))
    with pytest.raises(NoSpaceError, match=rf"out: needs {3 * PAGE} bytes.*leave gaps.*sparse=True"):
        export_flat(process, tmp_path / "out")
    assert listing(tmp_path) == ["dump"]
    export_flat(process, tmp_path / "out", How(sparse=True))


def test_force_replaces_only_its_own(tmp_path: Path) -> None:
    """What memcarve wrote is replaced on request; a file of somebody else's, or a document, is not."""
    process, out = three(tmp_path), tmp_path / "out"
    force = How(force=True)
    export_flat(process, out)
    with pytest.raises(TargetExistsError, match="force=True replaces it"):
        export_flat(process, out)
    export_flat(process, out, force, address=(0x10000, 0x11000))
    assert out.read_bytes() == noise(1, 2 * PAGE)[:PAGE]
    out.write_bytes(b"somebody's")  # the document is still there, but not about this
    with pytest.raises(TargetExistsError, match="only what memcarve wrote"):
        export_flat(process, out, force)
    assert out.read_bytes() == b"somebody's"
    out.unlink()
    (tmp_path / "out.json").write_text("{}")
    with pytest.raises(TargetExistsError, match=r"out\.json: exists.*force=True replaces only what memcarve wrote"):
        export_flat(process, out, force)
    assert listing(tmp_path) == ["dump", "out.json"]


def test_the_input_is_never_replaced(tmp_path: Path) -> None:
    """Neither the dump nor a link to it can be the output."""
    process = three(tmp_path)
    (tmp_path / "link").symlink_to(tmp_path / "dump")
    before = (tmp_path / "dump").read_bytes()
    for name in ("dump", "link"):
        with pytest.raises(TargetExistsError):
            export_flat(process, tmp_path / name, How(force=True))
    assert (tmp_path / "dump").read_bytes() == before


def test_a_dump_cut_off_meanwhile(tmp_path: Path) -> None:
    """A dump that ends too early is an error, and nothing is kept, neither the file nor what is said of it."""
    process = three(tmp_path)
    os.truncate(tmp_path / "dump", PAGE)
    with pytest.raises(InputError):
        export_flat(process, tmp_path / "out")
    assert listing(tmp_path) == ["dump"]


def test_progress(tmp_path: Path) -> None:
    """Progress is told of all that is written, gaps too, and ends with the whole."""
    told: list[tuple[int, int]] = []
    export_flat(three(tmp_path), tmp_path / "out", progress=lambda done, total: told.append((done, total)))
    assert told[-1] == (7 * PAGE, 7 * PAGE)
    assert told == sorted(told)


def test_the_example(tmp_path: Path) -> None:
    """Of a real process, a range that holds many segments reads the same from the flat file as through the map."""
    start, end = 0x17F00000000, 0x17F0D150000
    with memcarve.open(EXAMPLE) as dump:
        process = dump.process()
        export_flat(process, tmp_path / "out", How(sparse=True), address=(start, end))
        there = 0
        with (tmp_path / "out").open("rb") as file:
            for address in range(start, end, PAGE):
                try:
                    wanted = process.space.read(address, PAGE)
                except AddressError:
                    wanted = bytes(PAGE)
                else:
                    there += PAGE
                assert file.read(PAGE) == wanted
            assert file.read() == b""
    assert document(tmp_path / "out")["bytes"] == there > 150_000


def test_from_a_carved_folder(tmp_path: Path) -> None:
    """A carved folder gives the same flat file as the dump that it was carved from."""
    rows = [(0x10000, noise(1, 3 * PAGE)), (0x20000, noise(2)), (0x7FFF_0000_0000, noise(3))]
    with memcarve.open(write_dump(tmp_path, rows)) as dump:
        sinking.carve(dump.process(), tmp_path / "carved")
        export_flat(dump.process(), tmp_path / "one", address=(0x11000, 0x22000), fill=7)
    with memcarve.open(tmp_path / "carved") as folder:
        result = export_flat(folder.process(), tmp_path / "other", address=(0x11000, 0x22000), fill=7)
        with pytest.raises(TargetExistsError, match="lies in the input"):
            export_flat(folder.process(), tmp_path / "carved" / "flat", address=(0x11000, 0x22000))
    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()
    assert result.bytes == 3 * PAGE
    assert (tmp_path / "one").read_bytes() == noise(1, 3 * PAGE)[PAGE:] + b"\7" * 0xD000 + noise(2) + b"\7" * PAGE


def test_many_gaps(tmp_path: Path) -> None:
    """Tens of thousands of pages, each after a gap, all come to their places."""
    count, data = 40_000, noise(9, 40_000 * 16)
    (tmp_path / "dump").write_bytes(data)
    numbers = np.arange(count, dtype=np.uint64)
    size = np.full(count, 16, np.uint64)
    space = AddressSpace(numbers * np.uint64(32), size, numbers * np.uint64(16), FileBacking(tmp_path / "dump"))
    export_flat(ProcessMemory(space), tmp_path / "out", fill=0xFF)
    found = np.fromfile(tmp_path / "out", np.uint8)
    padded = np.append(found, np.full(16, 0xFF, np.uint8)).reshape(count, 32)
    assert padded[:, :16].tobytes() == data
    assert (padded[:, 16:] == 0xFF).all()


def test_never_without_its_document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the document cannot get its name, the file does not keep its own."""
    process, true = three(tmp_path), os.link

    def link(old: str, new: str) -> None:
        if new.endswith(".json"):
            raise OSError(5, "Input/output error")
        true(old, new)

    def replace(old: str, new: str) -> None:
        raise OSError(5, "Input/output error", old, None, new)

    monkeypatch.setattr(os, "link", link)
    monkeypatch.setattr(os, "replace", replace)
    before = listing(tmp_path)
    with pytest.raises(OutputError, match="Input/output error"):
        export_flat(process, tmp_path / "out")
    assert listing(tmp_path) == before
