"""A core that was cut off is incomplete, whatever its headers say; and so is what was made of an incomplete input."""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING, Any

import pytest

import containers
import memcarve
import sinking
from carved import manifest
from cli import invoke
from cores import PAGE, Load, core, info, status
from dumps import write_dump
from files import put
from memory import content, noise

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Capture = pytest.CaptureFixture[bytes]

LOADS = [Load(0x400000, content(0x400000, 2 * PAGE), flags=5), Load(0x600000, content(0x600000, 3 * PAGE), flags=6)]
NOTES = info(1234, b"program") + status(1235, range(27))
WHOLE = core(LOADS, NOTES)
MEMORY = len(WHOLE) - 5 * PAGE


def cut_core(folder: Path, lost: int = PAGE + 7) -> Path:
    """Write a core without its last bytes; its headers say p_filesz = p_memsz throughout."""
    (folder / "cut.core").write_bytes(WHOLE[: len(WHOLE) - lost])
    return folder / "cut.core"


def cut_dump(folder: Path) -> Path:
    """Write a dump without its last bytes, and its map."""
    dump = write_dump(folder, [(0x400000, noise(1)), (0x600000, noise(2)), (0x800000, noise(3))])
    with dump.open("r+b") as file:
        file.truncate(2 * PAGE + 100)
    return dump


def cut_machine(folder: Path) -> Path:
    """Write a LiME image without its last pages, whose tables at 0x1000 map one page that is there, one that is not."""
    tables = bytearray(6 * PAGE)
    for table, entry in ((1, 0x2007), (2, 0x3007), (3, 0x4007)):
        struct.pack_into("<Q", tables, table * PAGE, entry)
    struct.pack_into("<2Q", tables, 4 * PAGE + 8, 0x5007, 0x6007)
    tables[5 * PAGE :] = noise(7)
    (folder / "cut.lime").write_bytes(containers.lime([(0, bytes(tables) + noise(8))])[:-PAGE])
    return folder / "cut.lime"


#: name -> what writes it, the options that read it
SOURCES: dict[str, tuple[Callable[[Path], Path], list[str]]] = {
    "core": (cut_core, []),
    "dump": (cut_dump, []),
    "image": (cut_machine, ["--dtb", "0x1000", "--os", "none"]),
}


def document(path: Path) -> dict[str, Any]:
    """Return a JSON document."""
    found: dict[str, Any] = json.loads(path.read_text())
    return found


@pytest.mark.parametrize("lost", [1, PAGE, 3 * PAGE, 4 * PAGE + 5, 5 * PAGE])
@pytest.mark.parametrize("flags", [0, 4, 6])
def test_cut_off_whatever_the_headers_say(tmp_path: Path, lost: int, flags: int) -> None:
    """A core whose p_filesz is p_memsz, and that ends too early, is incomplete, also where nobody could access that."""
    loads = [load._replace(flags=flags) for load in LOADS]
    data = core(loads, NOTES)
    for length, incomplete in ((len(data), False), (len(data) - lost, True)):
        with memcarve.open(put(tmp_path / "core", data[:length])) as container:
            assert container.process().incomplete is incomplete


def test_commands(tmp_path: Path, capfdbinary: Capture) -> None:
    """Every command that tells of the whole core exits with 3; what reads a place exits as the place demands."""
    cut, whole = cut_core(tmp_path), put(tmp_path / "whole.core", WHOLE)
    last = 0x600000 + 2 * PAGE - 7

    def code(*words: object) -> int:
        return invoke(capfdbinary, *map(str, words)).code

    assert code("segments", cut) == code("regions", cut) == code("find", cut, "no such text") == 3
    assert code("carve", cut, "-o", tmp_path / "carved") == 1
    assert not (tmp_path / "carved").exists()
    assert code("carve", cut, "-o", tmp_path / "carved", "--partial") == 3
    assert (manifest(tmp_path / "carved")["complete"], manifest(tmp_path / "carved")["partial"]) == (False, True)
    assert code("verify", tmp_path / "carved", "--source", cut) == 0
    assert code("extract", cut, "-o", tmp_path / "modules") == 3
    assert code("diff", cut, whole) == code("diff", whole, cut) == code("diff", tmp_path / "carved", cut) == 3
    assert code("read", cut, hex(last - 1), 1) == 0
    assert code("read", cut, hex(last - 1), 2) == code("locate", cut, hex(last)) == 1
    assert code("segments", whole) == code("diff", whole, whole) == code("find", whole, "no such text") == 0
    for kind in ("elfcore", "minidump", "flat"):
        assert code("export", cut, "--to", kind, "-o", tmp_path / kind) == 3
        assert code("export", whole, "--to", kind, "-o", tmp_path / f"{kind}.whole") == 0
    assert document(tmp_path / "flat.json")["complete"] is False
    assert document(tmp_path / "flat.whole.json")["complete"] is True


@pytest.mark.parametrize("name", SOURCES)
@pytest.mark.parametrize("kind", ["elfcore", "minidump", "quick", "csv", "json", "jsonl"])
def test_what_was_exported(tmp_path: Path, capfdbinary: Capture, name: str, kind: str) -> None:
    """What was exported from an input that ends too early is carved without --partial, and is incomplete like that."""
    write, options = SOURCES[name]
    source, out = write(tmp_path), tmp_path / "out"
    words = ["--to", kind] if kind in {"elfcore", "minidump"} else ["--to", "memmap", "--format", kind]
    assert invoke(capfdbinary, "export", source, *words, "-o", out, *options).code == 3
    path = next(each for each in out.iterdir() if each.suffix == ".dmp") if out.is_dir() else out
    again = invoke(capfdbinary, "carve", path, "-o", tmp_path / "carved")
    assert again.code == 3, again.err
    assert (manifest(tmp_path / "carved")["complete"], manifest(tmp_path / "carved")["partial"]) == (False, False)
    assert invoke(capfdbinary, "segments", path).code == 3
    how: dict[str, Any] = {"dtb": 0x1000, "system": "none"} if options else {}
    with memcarve.open(source, **how) as first, memcarve.open(path) as second:
        was, now = first.process().space, second.process().space
        rows = [(each.start, each.size) for each in was.segments()]
        assert rows == [(each.start, each.size) for each in now.segments()]
        assert [was.read(*row) for row in rows] == [now.read(*row) for row in rows]
        if kind != "minidump":  # which has no place for it
            lost = sum(gap.size for gap in was.missing)
            assert sum(gap.size for gap in now.missing) == lost > 0


def test_exported_and_cut_off_itself(tmp_path: Path, capfdbinary: Capture) -> None:
    """An exported core that ends too early itself needs --partial, though it was exported from a whole input."""
    whole = put(tmp_path / "whole.core", WHOLE)
    assert invoke(capfdbinary, "export", whole, "--to", "elfcore", "-o", tmp_path / "out.core").code == 0
    assert invoke(capfdbinary, "carve", tmp_path / "out.core", "-o", tmp_path / "a").code == 0
    with (tmp_path / "out.core").open("r+b") as file:
        file.truncate(file.seek(0, 2) - 1)
    assert invoke(capfdbinary, "carve", tmp_path / "out.core", "-o", tmp_path / "b").code == 1
    assert invoke(capfdbinary, "carve", tmp_path / "out.core", "-o", tmp_path / "b", "--partial").code == 3


@pytest.mark.parametrize("renderer", ["quick", "csv", "json", "jsonl"])
def test_maps_of_what_is_missing(tmp_path: Path, renderer: str) -> None:
    """Rows of what is missing come last: the positions of all others are where their bytes lie, and nothing drifts."""
    with memcarve.open(cut_core(tmp_path)) as container:
        sinking.export_memmap(container.process(), tmp_path / "out", renderer=renderer)
    dump = next((tmp_path / "out").glob("*.dmp"))
    with memcarve.open(dump) as container:
        process = container.process()
        assert process.positions == "printed and summed"
        assert [(gap.start, gap.size) for gap in process.space.missing] == [(0x600000 + 2 * PAGE - 7, PAGE + 7)]


@pytest.mark.parametrize("half", ["user", "all"])
def test_maps_where_nothing_is_there(tmp_path: Path, half: str) -> None:
    """Of a process of which nothing is there a map has one process, of rows that could not be written."""
    data = core(LOADS, NOTES)[:MEMORY]
    with memcarve.open(put(tmp_path / "core", data)) as container:
        sinking.export_memmap(container.process(), tmp_path / "out", half=half)
    with memcarve.open(next((tmp_path / "out").glob("*.map"))) as container:
        process = container.process()
        assert process.incomplete
        assert [(gap.start, gap.size) for gap in process.space.missing] == [
            (0x400000, 2 * PAGE),
            (0x600000, 3 * PAGE),
        ]


def test_maps_that_cannot_say_it(tmp_path: Path, capfdbinary: Capture) -> None:
    """Where it is not known what is missing, quick says so in its banner, and another format that it cannot."""
    loads = core(LOADS, NOTES)
    data = bytearray(loads)
    struct.pack_into("<Q", data, 40, len(data))  # e_shoff: the file ends before section headers
    struct.pack_into("<HH", data, 58, 64, 1)
    path = put(tmp_path / "core", bytes(data))
    for renderer, code in (("quick", 3), ("csv", 0)):
        out = tmp_path / renderer
        ran = invoke(capfdbinary, "export", path, "--to", "memmap", "--format", renderer, "-o", out)
        assert ran.code == 3
        assert ("cannot say that bytes are missing" in ran.err) is (code == 0)
        assert invoke(capfdbinary, "segments", next(out.glob("*.dmp"))).code == code


def test_notes_cut_off(tmp_path: Path) -> None:
    """A core that ends inside its notes, with memory before them, has its memory, and is incomplete, with a note."""
    data = bytearray(core(LOADS, NOTES))
    body, notes = bytes(data[MEMORY:]), bytes(data[MEMORY - len(NOTES) : MEMORY])
    head = MEMORY - len(NOTES)
    struct.pack_into("<Q", data, 64 + 8, head + len(body))  # p_offset of the notes
    for index, place in enumerate((head, head + 2 * PAGE), 1):
        struct.pack_into("<Q", data, 64 + 56 * index + 8, place)
    moved = bytes(data[:head]) + body + notes
    for lost, incomplete in ((0, False), (5, True), (len(notes), True)):
        with memcarve.open(put(tmp_path / "core", moved[: len(moved) - lost])) as container:
            process = container.process()
            assert process.incomplete is incomplete
            assert process.space.total == 5 * PAGE
            assert any("ends before its notes do" in each for each in process.notes) is incomplete
            assert process.first_cut_off is None


def test_section_headers_cut_off(tmp_path: Path) -> None:
    """A core that ends inside its section headers, as gcore writes them last, is incomplete, with a note."""
    data = bytearray(core(LOADS, NOTES))
    struct.pack_into("<Q", data, 40, len(data))
    struct.pack_into("<HHH", data, 58, 64, 3, 0)
    data += bytes(3 * 64)
    for lost, incomplete in ((0, False), (1, True), (192, True)):
        with memcarve.open(put(tmp_path / "core", bytes(data[: len(data) - lost]))) as container:
            process = container.process()
            assert process.incomplete is incomplete
            assert any("section headers" in each for each in process.warnings) is incomplete


@pytest.mark.parametrize("kept", [1, 2])
def test_program_headers_cut_off(tmp_path: Path, kept: int) -> None:
    """A core that ends inside its program headers is incomplete, or holds no memory if none of them is there."""
    path = put(tmp_path / "core", WHOLE[: 64 + 56 * kept + 9])
    with memcarve.open(path) as container:
        if kept == 1:  # the notes' alone
            with pytest.raises(memcarve.InputError, match="1 of 3 are there"):
                container.process()
            return
        process = container.process()
        assert process.incomplete
        assert [(gap.start, gap.size) for gap in process.space.missing] == [(0x400000, 2 * PAGE)]


@pytest.mark.parametrize("behind", [True, False])
def test_many_segments_cut_off(tmp_path: Path, behind: bool) -> None:  # noqa: FBT001 - a parameter
    """Where the number of program headers lay behind the memory and is cut off, where the notes begin tells it."""
    count = 65_537
    loads = [Load(0x10000 + index * 2 * PAGE, b"%08d" % index) for index in range(count)]
    data = bytearray(core(loads, NOTES, many=True))
    sections = struct.unpack_from("<Q", data, 40)[0]
    if behind:  # as Linux does: behind the memory; before it there is nothing then
        section = bytes(data[sections : sections + 64])
        del data[sections : sections + 64]
        for index in range(count + 1):
            place = 64 + 56 * index + 8
            struct.pack_into("<Q", data, place, struct.unpack_from("<Q", data, place)[0] - 64)
        struct.pack_into("<Q", data, 40, len(data))
        data += section
    lost = 64 if behind else 8
    for length in (len(data), len(data) - lost):
        with memcarve.open(put(tmp_path / "core", bytes(data[:length]))) as container:
            process = container.process()
            assert process.incomplete is (length < len(data))
            assert len(process.space) == count - (not behind and length < len(data))
            assert process.space.read(loads[65_535].start, 8) == b"%08d" % 65_535
