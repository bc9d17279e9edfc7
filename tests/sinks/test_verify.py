"""Verifying a carved folder: every way of tampering with it is a fault."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
from typing import TYPE_CHECKING

import pytest

import memcarve
import sinking
from carved import file_name
from cli import invoke, run
from dumps import write_dump, write_several
from files import EXAMPLE, listing
from memory import PAGE, noise

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from dumps import Piece

ROWS: list[Piece] = [(0x10000, noise(1)), (0x20000, noise(2, 2 * PAGE)), (0x30000, bytes(PAGE)), (0x40000, noise(4))]
FIRST, SECOND, ZERO = file_name(0x10000, PAGE), file_name(0x20000, 2 * PAGE), file_name(0x30000, PAGE)


@pytest.fixture
def dump(tmp_path: Path) -> Path:
    """Return a dump with its map."""
    return write_dump(tmp_path, ROWS)


@pytest.fixture
def folder(tmp_path: Path, dump: Path) -> Path:
    """Return the carved folder of the dump."""
    return carve(dump, tmp_path / "out")


def carve(dump: Path, out: Path, *hashes: str) -> Path:
    """Carve a dump and return the folder."""
    with memcarve.open(dump) as container:
        sinking.carve(container.process(), out, hashes=hashes or ("sha256", "md5"))
    return out


def edit(path: Path, change: Callable[[str], str], *, sums: bool = False) -> None:
    """Change a text file, which must make a difference; with `sums` make the checksums fit the manifest again."""
    before = path.read_text()
    after = change(before)
    assert after != before
    path.write_text(after)
    if sums:
        for kind in ("sha256", "md5"):
            digest = hashlib.new(kind, after.encode()).hexdigest()
            file = path.parent / f"{kind.upper()}SUMS"
            file.write_text(re.sub(r"(?m)^\w+(?=  segments\.json$)", digest, file.read_text()))


def faults(folder: Path, source: Path | None = None) -> str:
    """Return the message with which verify refuses a folder."""
    with contextlib.ExitStack() as stack:
        process = None if source is None else stack.enter_context(memcarve.open(source)).process()
        with pytest.raises((memcarve.VerificationError, memcarve.InputError)) as caught:
            memcarve.verify(folder, process)
    message = str(caught.value)
    assert "\n" not in message
    return message


# what is well


def test_untouched(folder: Path) -> None:
    """A folder that nobody touched is well."""
    found = memcarve.verify(folder)
    assert (found.count, found.bytes, found.compared) == (4, 5 * PAGE, False)
    assert sorted(found.hashes) == ["md5", "sha256"]


def test_source(folder: Path, dump: Path) -> None:
    """A folder is well against the dump it came from."""
    with memcarve.open(dump) as container:
        found = memcarve.verify(folder, container.process())
    assert (found.count, found.bytes, found.compared) == (4, 5 * PAGE, True)
    assert sorted(found.hashes) == ["md5", "sha256"]


def test_nothing_is_changed(folder: Path) -> None:
    """Verifying changes nothing in the folder."""
    before = {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.iterdir()}
    memcarve.verify(folder)
    assert {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.iterdir()} == before


def test_command(folder: Path, dump: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    """The command exits 0 and says what was checked; with a fault it exits 1 and names the file."""
    assert invoke(capfdbinary, "verify", folder).code == 0
    ran = invoke(capfdbinary, "verify", folder, "--source", dump)
    assert (ran.code, ran.out) == (0, b"")
    assert "4 segments" in ran.err
    assert invoke(capfdbinary, "verify", "-q", folder).err == ""
    (folder / FIRST).unlink()
    ran = invoke(capfdbinary, "verify", "-q", folder)
    assert ran.code == 1
    assert FIRST in ran.err
    assert ran.err.count("\n") == 1


def test_source_of_the_example(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    """The example's folder is well against its dump, and against its map."""
    out = carve(EXAMPLE, tmp_path / "out")
    for source in (EXAMPLE, EXAMPLE.with_suffix(".map")):
        assert invoke(capfdbinary, "verify", out, "--source", source).code == 0


# the files


@pytest.mark.parametrize("place", [0, PAGE, 2 * PAGE - 1])
def test_byte_flipped(folder: Path, place: int) -> None:
    """A byte that changed, the first or the last one too, is a fault."""
    with (folder / SECOND).open("r+b") as file:
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ 0x10]))
    assert SECOND in faults(folder)


@pytest.mark.parametrize("size", [0, 1, 2 * PAGE - 1, 2 * PAGE + 1, 3 * PAGE])
def test_other_length(folder: Path, size: int) -> None:
    """A file that is shorter or longer is a fault."""
    os.truncate(folder / SECOND, size)
    assert f"{SECOND}: is {size} bytes long, not {2 * PAGE}" in faults(folder)


@pytest.mark.parametrize("name", [FIRST, SECOND, "segments.json"])
def test_missing_file(folder: Path, name: str) -> None:
    """A file that is missing is a fault."""
    (folder / name).unlink()
    assert name in faults(folder)


@pytest.mark.parametrize("name", ["notes.txt", ".hidden", file_name(0x50000, PAGE), "\x1b]0;x"])
def test_extra_file(folder: Path, name: str) -> None:
    """A file that does not belong there is a fault, and its name does no harm in the message."""
    (folder / name).write_bytes(noise(5))
    message = faults(folder)
    assert "is not in the manifest" in message
    assert "\x1b" not in message


def test_extra_folder(folder: Path) -> None:
    """A folder that does not belong there is a fault."""
    (folder / "more").mkdir()
    assert "more" in faults(folder)


@pytest.mark.parametrize("name", [FIRST, "segments.json", "SHA256SUMS"])
def test_link_in_place_of_a_file(tmp_path: Path, folder: Path, name: str) -> None:
    """A symbolic link in place of a file is a fault, even if it leads to the same bytes."""
    (folder / name).rename(tmp_path / "elsewhere")
    (folder / name).symlink_to(tmp_path / "elsewhere")
    assert name in faults(folder)


@pytest.mark.parametrize("name", [FIRST, "segments.json", "SHA256SUMS"])
def test_folder_in_place_of_a_file(folder: Path, name: str) -> None:
    """A folder in place of a file is a fault."""
    (folder / name).unlink()
    (folder / name).mkdir()
    assert name in faults(folder)


@pytest.mark.parametrize("name", [FIRST, "segments.json", "SHA256SUMS"])
def test_pipe_in_place_of_a_file(folder: Path, name: str) -> None:
    """A named pipe in place of a file is a fault, and nothing waits for it."""
    (folder / name).unlink()
    os.mkfifo(folder / name)
    ran = run("verify", folder)
    assert ran.code == 1
    assert name in ran.err


def test_files_exchanged(folder: Path) -> None:
    """Two files of one size that changed places are a fault."""
    last = file_name(0x40000, PAGE)
    (folder / FIRST).rename(folder / "aside")
    (folder / last).rename(folder / FIRST)
    (folder / "aside").rename(folder / last)
    message = faults(folder)
    assert FIRST in message
    assert last in message


def test_many_faults(folder: Path) -> None:
    """All faults are told in one message."""
    os.truncate(folder / FIRST, 1)
    (folder / SECOND).unlink()
    (folder / "more").write_text("")
    message = faults(folder)
    assert all(word in message for word in (FIRST, SECOND, "more", "3 faults"))


# the manifest


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"segments": 4', '"segments": 5'),
        (f'"bytes": {5 * PAGE}', f'"bytes": {5 * PAGE + 1}'),
        ('"segments": 4', '"segments": "4"'),
        ('"segments": 4,', ""),
    ],
)
def test_totals_edited(folder: Path, old: str, new: str) -> None:
    """Totals that are not the sum of the segments are a fault."""
    edit(folder / "segments.json", lambda text: text.replace(old, new), sums=True)
    assert "in total" in faults(folder)


def test_all_totals_gone(folder: Path) -> None:
    """A manifest without totals is faulty."""
    edit(folder / "segments.json", lambda text: re.sub(r'"totals": \{[^}]*\}', '"totals": null', text), sums=True)
    assert "in total" in faults(folder)


@pytest.mark.parametrize(
    "name",
    [
        "../pid.4.dmp", "/etc/passwd", "..", ".", "", "segments.json", "x.bin", f"./{FIRST}", f"{FIRST}\\u0000", SECOND,
        "..\\\\..\\\\x", "\\u001b]0;x",
    ],
)  # fmt: skip
def test_file_names_edited(folder: Path, name: str) -> None:
    """A file name in the manifest that does not follow from the addresses is a fault, and leads nowhere."""
    edit(folder / "segments.json", lambda text: text.replace(f'"file": "{FIRST}"', f'"file": "{name}"'), sums=True)
    message = faults(folder)
    assert "is not named by its addresses" in message
    assert "\x1b" not in message
    assert "bytes long" not in message


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (f'"size": {PAGE}', f'"size": -{PAGE}'),
        (f'"size": {PAGE}', f'"size": {2 * PAGE}'),
        (f'"size": {PAGE}', f'"size": {PAGE}.0'),
        (f'"size": {PAGE}', f'"size": "{PAGE}"'),
        (f'"size": {PAGE}', '"size": null'),
        (f'"size": {PAGE}', '"size": true'),
        (f'"size": {PAGE}', '"size": 1e400'),
        (f'"size": {PAGE}, ', ""),
        ('"offset": 0', '"offset": -1'),
        ('"extents": 1', '"extents": []'),
        ('"start": "0x0000000000010000"', '"start": "0x00000000000z0000"'),
        ('"start": "0x0000000000010000"', '"start": 65536'),
        ('"start": "0x0000000000010000"', '"start": "-0x10000"'),
        ('"end": "0x0000000000011000"', '"end": "0x00000000000"'),
        ('"sha256": "', '"sha256": 5, "x": "'),
        ('"zero": false', '"zero": 0'),
        ('"zero": false', '"zero": "no"'),
        ('{"start": "0x0000000000010000"', '["start", "0x0000000000010000"'),
        ('{"start": "0x0000000000010000"', '{{{{"start": "0x0000000000010000"'),
    ],
)
def test_segment_edited(folder: Path, old: str, new: str) -> None:
    """A segment in the manifest with numbers that do not fit, or values of other types, is a fault."""
    edit(folder / "segments.json", lambda text: before_first(text, old, new), sums=True)
    assert re.search(r"segment \d is damaged|is not named by", faults(folder))


def before_first(text: str, old: str, new: str) -> str:
    """Replace the first `old` within the list of segments."""
    head, opening, tail = text.partition(' "segments": [')
    return head + opening + tail.replace(old, new, 1)


def test_zero_flag_edited(folder: Path) -> None:
    """A zero flag that is not true is a fault, either way."""
    edit(folder / "segments.json", lambda text: before_first(text, '"zero": false', '"zero": true'), sums=True)
    assert FIRST in faults(folder)
    edit(folder / "segments.json", lambda text: before_first(text, '"zero": true', '"zero": false'), sums=True)
    edit(folder / "segments.json", lambda text: before_first(text, '"zero": true', '"zero": false'), sums=True)
    assert ZERO in faults(folder)


def segment_lines(text: str) -> tuple[str, list[str], str]:
    """Return a manifest's text up to the segments, their lines, and the rest."""
    head, opening, tail = text.partition(' "segments": [\n')
    lines, closing, rest = tail.partition("\n ]\n")
    return head + opening, lines.split(",\n"), closing + rest


def rearranged(text: str, order: list[int]) -> str:
    """Return a manifest with its segments in another order."""
    head, lines, rest = segment_lines(text)
    return head + ",\n".join(lines[at] for at in order) + rest


@pytest.mark.parametrize(
    ("order", "word"),
    [
        ([0, 0, 1, 2, 3], FIRST),
        ([1, 0, 2, 3], "out of order"),
        ([3, 2, 1, 0], "out of order"),
        ([0, 1, 2], "is not in the manifest"),
        ([1, 2, 3], FIRST),
    ],
)
def test_segments_rearranged(folder: Path, order: list[int], word: str) -> None:
    """Segments that are listed twice, out of order or not at all are faults."""
    edit(folder / "segments.json", lambda text: rearranged(text, order), sums=True)
    assert word in faults(folder)


def test_hash_edited(folder: Path) -> None:
    """A hash in the manifest that is not the file's is a fault, also where the checksums were edited alike."""
    digest = hashlib.sha256(noise(1)).hexdigest()
    for name in ("segments.json", "SHA256SUMS"):
        edit(folder / name, lambda text: text.replace(digest, digest[::-1]), sums=name == "segments.json")
    assert f"{FIRST}: its sha256" in faults(folder)


def test_hashes_removed_from_the_manifest(folder: Path) -> None:
    """Hashes that are gone from the manifest while the checksums are there are a fault."""
    edit(folder / "segments.json", lambda text: re.sub(r'"sha256": "\w+", ', "", text), sums=True)
    assert "SHA256SUMS" in faults(folder)


@pytest.mark.parametrize("share", range(0, 100, 7))
def test_manifest_truncated(folder: Path, share: int) -> None:
    """A manifest that is cut off anywhere is a fault."""
    size = (folder / "segments.json").stat().st_size
    os.truncate(folder / "segments.json", size * share // 100)
    assert "segments.json" in faults(folder)


@pytest.mark.parametrize("cut", [1, 2, 3, 4])
def test_manifest_lacks_its_end(folder: Path, cut: int) -> None:
    """A manifest that lacks its last bytes is a fault, even if it is only the line's end."""
    os.truncate(folder / "segments.json", (folder / "segments.json").stat().st_size - cut)
    assert "segments.json" in faults(folder)


@pytest.mark.parametrize(
    "content",
    [
        b"", b"\0" * 100, b"{}", b"[]", b"null", b'"segments"', b"{", b"not json at all\n", b"\xff\xfe{\0}\0",
        b'{\n "schema": 1\n}\n', b'{"schema": 1, "tool": "memcarve"}', b"[" * 100_000, b"1" * 10_000 + b"\n",
        b'{\n "tool": "memcarve",\n "missing": [\n ],\n "segments": [\n ]\n}\n',
        b'{\n "schema": 2,\n "tool": "memcarve",\n "missing": [\n ],\n "segments": [\n ]\n}\n',
    ],
)  # fmt: skip
def test_manifest_is_something_else(folder: Path, content: bytes) -> None:
    """A manifest that is no JSON, another document or of another schema is refused."""
    (folder / "segments.json").write_bytes(content)
    assert "segments.json" in faults(folder)


@pytest.mark.parametrize("place", ["before", "within", "after"])
def test_huge_line(folder: Path, place: str) -> None:
    """A manifest with a line of three million characters is refused without reading on."""
    head, lines, rest = segment_lines((folder / "segments.json").read_text())
    huge = " " * 3_000_000 + "\n"
    parts = {"before": huge + head, "within": head, "after": head}[place], ",\n".join(lines), rest
    text = parts[0] + (huge if place == "within" else "") + parts[1] + parts[2] + (huge if place == "after" else "")
    (folder / "segments.json").write_text(text)
    assert "segments.json" in faults(folder)


def test_text_after_the_end(folder: Path) -> None:
    """A manifest that goes on after its end is a fault."""
    edit(folder / "segments.json", lambda text: text + "x\n", sums=True)
    assert "does not end" in faults(folder)


def test_totals_of_any_type(folder: Path) -> None:
    """A total that is a list, a huge number or text is a fault and no crash, with a progress bar too."""
    for value in ("[]", "{}", '"many"', "1e400", "-5", "NaN", "9" * 4000):
        with (folder / "segments.json").open() as file:
            text = re.sub(r'"bytes": [^,]+', f'"bytes": {value}', file.read(), count=1)
        (folder / "segments.json").write_text(text)
        with pytest.raises((memcarve.VerificationError, memcarve.InputError)):
            memcarve.verify(folder, progress=lambda done, total: (done, total))


# the checksums


@pytest.mark.parametrize("name", ["SHA256SUMS", "MD5SUMS"])
@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("0x", "0X", 1),
        lambda text: ("0" if text[0] != "0" else "1") + text[1:],
        lambda text: "".join(text.splitlines(keepends=True)[1:]),
        lambda text: "".join(text.splitlines(keepends=True)[:-1]),
        lambda text: "".join(reversed(text.splitlines(keepends=True))),
        lambda text: text + text,
        lambda text: text + "x",
        lambda text: text[:-1],
        lambda text: text.replace("\n", "\r\n"),
        lambda _: "",
        lambda _: "x" * 5_000_000,
    ],
)
def test_checksums_edited(folder: Path, name: str, change: Callable[[str], str]) -> None:
    """A file of checksums that says anything else than the manifest is a fault."""
    path = folder / name
    path.write_bytes(change(path.read_text()).encode())
    assert name in faults(folder)


@pytest.mark.parametrize("name", ["SHA256SUMS", "MD5SUMS"])
def test_checksums_missing(folder: Path, name: str) -> None:
    """A file of checksums that is missing, though the manifest has such hashes, is a fault."""
    (folder / name).unlink()
    assert name in faults(folder)


def test_manifest_edited_alone(folder: Path) -> None:
    """A manifest whose header was edited does not fit its checksum any more."""
    edit(folder / "segments.json", lambda text: text.replace('"pid": 4', '"pid": 5'))
    assert "SHA256SUMS" in faults(folder)


# the source


@pytest.mark.parametrize("hashes", [["sha256"], []])
@pytest.mark.parametrize("place", [0, PAGE, 5 * PAGE - 1])
def test_other_source(tmp_path: Path, dump: Path, hashes: list[str], place: int) -> None:
    """A source that differs in one byte is a fault that says where, with hashes and without."""
    with memcarve.open(dump) as container:
        sinking.carve(container.process(), tmp_path / "out", hashes=hashes)
    with dump.open("r+b") as file:
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ 1]))
    message = faults(tmp_path / "out", dump)
    assert "differs from the source" in message
    memcarve.verify(tmp_path / "out")


def test_source_without_hashes(tmp_path: Path, dump: Path) -> None:
    """Without hashes only the source tells that a byte changed."""
    with memcarve.open(dump) as container:
        sinking.carve(container.process(), tmp_path / "out", hashes=[])
    (tmp_path / "out" / FIRST).write_bytes(noise(99))
    assert memcarve.verify(tmp_path / "out").hashes == ()
    assert FIRST in faults(tmp_path / "out", dump)


def test_source_without_the_addresses(tmp_path: Path, folder: Path) -> None:
    """A source that does not hold an address of a segment is a fault that names it."""
    (tmp_path / "other").mkdir()
    other = write_dump(tmp_path / "other", [*ROWS[:1], (0x20000, noise(2)), *ROWS[2:]])
    message = faults(folder, other)
    assert "0x21000" in message


def test_source_is_a_map_alone(folder: Path, dump: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    """A source whose dump is gone cannot be compared with: that is a failure, never a silent success."""
    dump.unlink()
    ran = invoke(capfdbinary, "verify", folder, "--source", dump.with_suffix(".map"))
    assert ran.code == 1
    assert "dump" in ran.err


def test_source_that_ends_early(folder: Path, dump: Path) -> None:
    """A source that has been cut off since is a fault."""
    os.truncate(dump, 5 * PAGE - 1)
    assert file_name(0x40000, PAGE) in faults(folder, dump)


def test_source_of_several_processes(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    """In a map of several processes the one that the manifest names is the source."""
    table = write_several(tmp_path, {4: ROWS, 88: ROWS[:2]})
    assert invoke(capfdbinary, "carve", table, "--pid", "88", "-o", tmp_path / "out").code == 0
    assert invoke(capfdbinary, "verify", tmp_path / "out", "--source", table).code == 0
    assert invoke(capfdbinary, "verify", tmp_path / "out", "--source", table, "--pid", "4").code in {0, 1}
    shutil.copy(tmp_path / "pid.4.dmp", tmp_path / "pid.88.dmp")
    os.truncate(tmp_path / "pid.88.dmp", 3 * PAGE)
    assert invoke(capfdbinary, "verify", tmp_path / "out", "--source", table).code == 0


def test_partial_folder_against_its_source(tmp_path: Path, dump: Path) -> None:
    """A folder that was carved partially is well, against its truncated source, too."""
    os.truncate(dump, 2 * PAGE)
    with memcarve.open(dump) as container:
        sinking.carve(container.process(), tmp_path / "out", partial=True)
        memcarve.verify(tmp_path / "out", container.process())


# what is no carved folder


@pytest.mark.parametrize("kind", ["missing", "file", "empty folder", "dump"])
def test_no_carved_folder(tmp_path: Path, dump: Path, kind: str, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    """What is no carved folder is refused in one line that names it."""
    target = dump if kind == "dump" else tmp_path / "it"
    if kind == "file":
        target.write_text("x")
    elif kind == "empty folder":
        target.mkdir()
    ran = invoke(capfdbinary, "verify", target)
    assert (ran.code, ran.out) == (1, b"")
    assert str(target) in ran.err
    assert ran.err.count("\n") == 1
    assert ran.err.endswith(
        "No such file or directory\n"
        if kind == "missing"
        else "give what memcarve carved, exported or extracted; of a memory map and its dump, the map\n"
    )


@pytest.fixture
def several(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> Path:
    """Return the carved folder of two processes."""
    table = write_several(tmp_path, {4: ROWS, 88: ROWS[:2]})
    assert invoke(capfdbinary, "carve", table, "--all", "-o", tmp_path / "out").code == 0
    assert listing(tmp_path / "out") == ["4", "88", "SHA256SUMS", "processes.json"]
    return tmp_path / "out"


def test_folder_of_several_processes(several: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    """A folder of several processes is verified as a whole, and so is each of its folders."""
    for folder in (several, several / "4", several / "88"):
        ran = invoke(capfdbinary, "verify", folder)
        assert (ran.code, ran.out) == (0, b""), ran.err


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no pipes in folders")
@pytest.mark.parametrize("name", ["processes.json", "segments.json"])
def test_pipe_in_place_of_a_list(tmp_path: Path, dump: Path, name: str) -> None:
    """A named pipe in place of what lists folders or segments is refused, and nothing waits for it."""
    os.mkfifo(tmp_path / name)
    ran = run("verify", tmp_path, "--source", dump)
    assert (ran.code, name in ran.err, ran.err.count("\n")) == (1, True, 1)


def test_list_of_no_folders(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    """Where no folder is listed, nothing was checked, and that is not well."""
    (tmp_path / "processes.json").write_text('{"tool": "memcarve", "schema": 2, "processes": []}')
    ran = invoke(capfdbinary, "verify", tmp_path)
    assert (ran.code, "lists no folder" in ran.err) == (1, True)


@pytest.mark.parametrize("what", ["byte", "folder", "empty folder", "file", "extra folder", "list", "entry"])
def test_folder_of_several_processes_tampered(
    several: Path, capfdbinary: pytest.CaptureFixture[bytes], what: str
) -> None:
    """In a folder of several processes a changed byte, and anything missing or extra, is a fault."""
    if what == "byte":
        (several / "88" / FIRST).write_bytes(noise(99))
    elif what == "folder":
        shutil.rmtree(several / "88")
    elif what == "empty folder":
        shutil.rmtree(several / "88")
        (several / "88").mkdir()
    elif what == "file":
        (several / "notes").write_text("")
    elif what == "extra folder":
        shutil.copytree(several / "88", several / "99")
    elif what == "list":
        os.truncate(several / "processes.json", 20)
    else:
        edit(several / "processes.json", lambda text: text.replace('["88"]', '["../88"]'))
    ran = invoke(capfdbinary, "verify", several)
    assert (ran.code, ran.out) == (1, b""), ran.err
    assert "Traceback" not in ran.err
