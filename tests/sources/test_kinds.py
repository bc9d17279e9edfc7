"""What is not a regular file, in the place of each file that a command reads, is refused by kind: nothing waits."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from cli import Ran, invoke
from dumps import write_dump
from files import EXAMPLE
from memcarve.backing import FileBacking
from memcarve.errors import InputError
from memcarve.formats import manifest
from memcarve.formats.json_text import HalfError, dumps, loads
from memory import noise

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no pipes in folders")

#: a guard: what waits for a pipe or reads a device does so for ever
_SECONDS = 60


def _device(path: Path) -> None:
    try:
        os.mknod(path, 0o600 | 0o020000, os.makedev(1, 5))  # as /dev/zero
    except PermissionError:
        pytest.skip("devices are made by root alone")


def _socket(path: Path) -> None:
    here = os.getcwd()
    os.chdir(path.parent)  # a socket's path may be no longer than 107 bytes
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(here)


def _link(path: Path) -> None:
    kept = path.parent.parent / f"kept-{path.name}"
    if not kept.exists():
        kept.write_bytes(b"")
    path.symlink_to(kept)


KINDS: dict[str, Callable[[Path], None]] = {
    "a named pipe": os.mkfifo,
    "a device": _device,
    "a socket": _socket,
    "a symbolic link": _link,
    "a folder": os.mkdir,
}


@pytest.fixture(autouse=True)
def in_time() -> Iterator[None]:
    """Let a test that waits for ever fail: what waits for a pipe or reads a device does."""

    def late(*_: object) -> None:
        raise AssertionError("waited")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(_SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


Run = Callable[..., Ran]


@pytest.fixture
def ran(capfdbinary: pytest.CaptureFixture[bytes]) -> Run:
    """Return what runs a command, which must end by itself, without a traceback."""

    def run(*words: object) -> Ran:
        done = invoke(capfdbinary, *words)
        assert "bug in memcarve" not in done.err
        return done

    return run


def replaced(path: Path, kind: str) -> None:
    """Put something that is not a regular file in the place of a file, which a link leads to."""
    path.rename(path.parent.parent / f"kept-{path.name}")
    KINDS[kind](path)


@pytest.fixture
def carved(tmp_path: Path, ran: Run) -> Path:
    """Return a carved folder, beside the dump that it came from."""
    write_dump(tmp_path, [(0x10000, noise(1)), (0x20000, noise(2))], 1624)
    out = tmp_path / "out"
    assert ran("carve", tmp_path / "pid.1624.dmp", "-o", out).code == 0
    return out


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("segments.json", ("verify", "{out}")),
        ("SHA256SUMS", ("verify", "{out}")),
        ("segments.json", ("segments", "{out}")),
        ("segments.json", ("carve", "{out}", "-o", "{out}2")),
        ("segments.json", ("diff", "{out}", "{out}")),
        ("segments.json", ("carve", "{dump}", "-o", "{out}", "--force")),
        ("SHA256SUMS", ("carve", "{dump}", "-o", "{out}", "--force")),
        ("0x0000000000010000-0x0000000000011000.bin", ("verify", "{out}")),
        ("0x0000000000010000-0x0000000000011000.bin", ("read", "{out}", "0x10000", "16")),
    ],
)
def test_in_a_carved_folder(
    tmp_path: Path, carved: Path, kind: str, name: str, words: tuple[str, ...], ran: Run
) -> None:
    """A pipe, device, socket, link or folder in place of a file of a carved folder is refused; nothing waits for it."""
    replaced(carved / name, kind)
    dump = tmp_path / "pid.1624.dmp"
    done = ran(*(word.format(out=carved, dump=dump) for word in words))
    assert done.code == 1
    assert name in done.err
    if "--force" not in words:
        assert f"is {kind}, not a regular file" in done.err
    assert (carved / name).is_symlink() or not (carved / name).is_file()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("words", [("verify", "{0}"), ("segments", "{0}"), ("carve", "{1}", "-o", "{0}", "--force")])
def test_in_place_of_the_list_of_processes(
    tmp_path: Path, carved: Path, kind: str, words: tuple[str, ...], ran: Run
) -> None:
    """The same holds of what tells of several folders."""
    several = tmp_path / "several" / "all"
    several.mkdir(parents=True)
    shutil.copytree(carved, several / "1-a")
    KINDS[kind](several / "processes.json")
    done = ran(*(word.format(several, tmp_path / "pid.1624.dmp") for word in words))
    assert done.code == 1
    assert "processes.json" in done.err
    if "--force" not in words:
        assert f"is {kind}, not a regular file" in done.err


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["modules.json", "memory.json"])
def test_in_place_of_other_lists(tmp_path: Path, carved: Path, kind: str, name: str, ran: Run) -> None:
    """The same holds of what tells of modules and of scripts: nothing is replaced."""
    folder = tmp_path / "other" / "out"
    folder.mkdir(parents=True)
    KINDS[kind](folder / name)
    dump = tmp_path / "pid.1624.dmp"
    for words in (("carve", dump, "-o", folder, "--force"), ("verify", folder)):
        done = ran(*words)
        assert done.code == 1
        assert name in done.err
    assert f"is {kind}, not a regular file" in done.err
    assert os.path.lexists(folder / name)
    assert carved.exists()


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "a folder"])
def test_beside_an_input(tmp_path: Path, carved: Path, kind: str, ran: Run) -> None:
    """The same holds of the map beside a dump, and of the dump beside a map, which nobody named."""
    folder = tmp_path / "evidence" / "here"
    folder.mkdir(parents=True)
    for name, given in (("pid.1624.map", "pid.1624.dmp"), ("pid.1624.dmp", "pid.1624.map")):
        for each in ("pid.1624.map", "pid.1624.dmp"):
            with_suppressed_unlink(folder / each)
            shutil.copy(tmp_path / each, folder / each)
        with_suppressed_unlink(folder.parent / f"kept-{name}")
        replaced(folder / name, kind)
        done = ran("segments", folder / given)
        assert (done.code, name in done.err) == (1, True)
        assert f"is {kind}, not a regular file" in done.err
    assert carved.exists()


def with_suppressed_unlink(path: Path) -> None:
    """Remove what lies at a path, if anything does."""
    if os.path.lexists(path):
        path.unlink()


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "a folder"])
def test_listing_beside_a_dump(tmp_path: Path, kind: str, ran: Run) -> None:
    """A list of regions beside a dump that is no regular file is not read, and a note says so."""
    folder = tmp_path / "here"
    folder.mkdir()
    for ending in (".dmp", ".map"):
        shutil.copy(EXAMPLE.with_suffix(ending), folder / f"pid.1624{ending}")
    listed = folder / "pid.1624.vadinfo.csv"
    listed.write_bytes(b"")
    replaced(listed, kind)
    done = ran("segments", folder / "pid.1624.dmp", "-v")
    assert done.code == 0
    assert f"is {kind}, not a regular file" in done.err


@pytest.mark.parametrize("kind", ["a named pipe", "a device", "a socket"])
@pytest.mark.parametrize("command", ["segments", "processes", "verify", "carve"])
def test_named_by_the_user(tmp_path: Path, kind: str, command: str, ran: Run) -> None:
    """What the user names and is no regular file is refused with what to do; nothing waits for it."""
    KINDS[kind](tmp_path / "input")
    done = ran(command, tmp_path / "input")
    assert done.code == 1
    assert "input: is" in done.err


def test_link_named_by_the_user(tmp_path: Path) -> None:
    """A link that the user names is followed."""
    (tmp_path / "link.core").symlink_to(EXAMPLE)
    with FileBacking(tmp_path / "link.core") as file:
        assert file.size == EXAMPLE.stat().st_size


# halves of characters


@pytest.mark.parametrize("half", [r"\ud800", r"\uDFFF", r"\udc80 \ud83d\ude00", r"\ud800\u0041", r"\ud800\ud800"])
@pytest.mark.parametrize("command", ["verify", "segments", "diff", "carve"])
def test_half_of_a_character(tmp_path: Path, carved: Path, half: str, command: str, ran: Run) -> None:
    """Half of a character anywhere in a manifest is refused, and the line is named."""
    path = carved / "segments.json"
    text = path.read_text().replace('"0x0000000000010000-0x0000000000011000.bin"', f'"{half}"')
    path.write_text(text)
    line = 1 + text.split(half)[0].count("\n")
    more = {"diff": [carved], "carve": ["-o", tmp_path / "new"]}.get(command, [])
    done = ran(command, carved, *more)
    assert done.code == 1
    assert f"segments.json: line {line}: holds half of a character" in done.err


def test_half_in_the_header_and_in_other_documents(tmp_path: Path, carved: Path, ran: Run) -> None:
    """So it is in the header of a manifest, and in processes.json; bytes that are not UTF-8 are refused likewise."""
    path = carved / "segments.json"
    whole = path.read_bytes()
    for bad, words in ((rb"\udead", "half of a character"), (b"\xff", "is not UTF-8")):
        path.write_bytes(whole.replace(b'"tool": "memcarve"', b'"tool": "memcarve", "x": "' + bad + b'"'))
        done = ran("verify", carved)
        assert (done.code, f"line 3: {'holds ' if b'u' in bad else ''}{words}" in done.err) == (1, True)
    several = tmp_path / "several"
    several.mkdir()
    text = json.dumps({"schema": 2, "tool": "memcarve", "processes": [{"files": ["a"], "name": "\ud812"}]})
    (several / "processes.json").write_text(text)
    done = ran("verify", several)
    assert (done.code, "line 1: holds half of a character, \\ud812" in done.err) == (1, True)


@pytest.mark.parametrize(
    "text", ["\ud800", "a\udfff\udbffb", "\U0001f512", "\\ud800", "\\\ud800", "\ud800\ud800\udc00", "\udc80" * 3]
)
def test_written_json_holds_no_half(text: str) -> None:
    """What is written holds no half of a character: it stands there as text, and all else comes back."""
    written = dumps({text: [text]})
    found = loads(written)
    assert found == {_escaped(text): [_escaped(text)]}
    "".join(found).encode()


def _escaped(text: str) -> str:
    """Return a text with every half of a character escaped, by another way than the program's."""
    units = text.encode("utf-16-le", "surrogatepass")
    found, place = "", 0
    while place < len(units):
        for length in (2, 4):
            try:
                found += units[place : place + length].decode("utf-16-le")
            except UnicodeDecodeError:
                continue
            break
        else:
            length = 2
            found += f"\\u{int.from_bytes(units[place : place + 2], 'little'):04x}"
        place += length
    return found


def test_reading_refuses_halves() -> None:
    """A half of a character in JSON is an error, a pair is not, nor is an escaped backslash before what looks so."""
    assert loads(r'["\ud83d\ude00", "\\ud800", "\\\\ud800"]') == ["\U0001f600", "\\ud800", "\\\\ud800"]
    for bad in (r'["\ude00\ud83d"]', r'["\\\ud800"]', r'{"\udc00": 1}'):
        with pytest.raises(HalfError, match="half of a character"):
            loads(bad)


def test_lines_of_a_document(tmp_path: Path) -> None:
    """A document is read line by line, and a line that nobody writes is refused by its number."""
    (tmp_path / "x.json").write_bytes(b'{\n "a": "\\ud800"\n}\n')
    with pytest.raises(InputError, match=r"x\.json: line 2: holds half of a character, \\ud800"):
        list(manifest.lines(str(tmp_path / "x.json")))
