"""What `find` can be asked for: expressions, files of patterns, integers, pointers, bytes around, physical memory."""

from __future__ import annotations

import json
import re
import struct
from typing import TYPE_CHECKING, Any

import pytest

import memcarve
import winimage
from cli import invoke
from dumps import write_dump
from files import EXAMPLE
from memory import PAGE, noise

if TYPE_CHECKING:
    from pathlib import Path

    from cli import Ran
    from winimage import Truth

    Capture = pytest.CaptureFixture[bytes]

START = 0x10000000
TEXT = b"Password=secret;\0" + "PassWord=\u00c5".encode("utf-16-le") + b"\0pass word\0"


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> Truth:
    """Return an image as it is unless told otherwise."""
    return winimage.build(tmp_path_factory.mktemp("usual") / "mem.raw")


@pytest.fixture
def dump(tmp_path: Path) -> Path:
    """Return a dump with some text, integers and pointers in it."""
    words = struct.pack("<QQQ", START + 0x40, START + 0x1000, 0x12345678)
    data = TEXT.ljust(0x100, b"\1") + words + b"\1" + words + b"\0\0\0" + struct.pack(">I", 0x12345678)
    return write_dump(tmp_path, [(START, data.ljust(PAGE, b"\2")), (START + 4 * PAGE, noise(1))])


def rows_of(ran: Ran, code: int = 0) -> list[dict[str, Any]]:
    """Return the hits of a run that printed JSON lines."""
    assert ran.code == code, ran.err
    return [json.loads(line) for line in ran.out.splitlines()]


def hits(capfdbinary: Capture, *words: object) -> list[tuple[int, str, str]]:
    """Return address (from the start of the dump), pattern and encoding of each hit."""
    rows = rows_of(invoke(capfdbinary, "find", *map(str, words), "--format", "jsonl"))
    return [(int(row["address"], 16) - START, row["pattern"], row["encoding"]) for row in rows]


def test_without_case(dump: Path, capfdbinary: Capture) -> None:
    """With -i small and capital letters of ASCII are the same in every encoding, and no others."""
    assert hits(capfdbinary, dump, "-i", "PASSWORD") == [(0, "PASSWORD", "utf-8"), (17, "PASSWORD", "utf-16-le")]
    assert hits(capfdbinary, dump, "-i", "=\u00e5") == []
    assert hits(capfdbinary, dump, "-i", "d=\u00c5") == [(17 + 14, "d=\u00c5", "utf-16-le")]
    assert hits(capfdbinary, dump, "-i", "--encoding", "cp037", "password") == []


def test_expressions(dump: Path, capfdbinary: Capture) -> None:
    """Expressions are over bytes; a row says how long the match is, which is cut at --max-match."""
    rows = rows_of(invoke(capfdbinary, "find", str(dump), "--regex", r"(?i)pass ?word=?", "--format", "jsonl"))
    found = [(int(row["address"], 16) - START, row["encoding"], row["size"]) for row in rows]
    assert found == [(match.start(), "regex", len(match[0])) for match in re.finditer(rb"(?i)pass ?word=?", TEXT)]
    words = ["find", str(dump), "--regex", "\\x01+", "--max-match", "16", "--format", "jsonl", "--max-hits", "2"]
    rows = rows_of(invoke(capfdbinary, *words))
    assert [(int(row["address"], 16) - START, row["size"]) for row in rows] == [(len(TEXT), 16), (len(TEXT) + 16, 16)]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--regex", "("], "is not a regular expression"),
        (["--regex", "a$"], "cannot ask for the end"),
        (["--regex", "(?=.*a)b"], "looks ahead without end"),
        (["--regex", "--hex", "aa"], "--hex and --regex"),
        (["--regex", "a", "--max-match", "2M"], "1048576"),
        (["--integer", "x"], "is not an integer"),
        (["--integer", "256", "--width", "1"], "does not fit into 8 bits"),
        (["--pointer", "ntdll.dll"], "no modules are known"),
        (["--pointer", "0x1-0x1"], "holds no address"),
        (["--patterns", "/nonexistent"], "/nonexistent: cannot be opened"),
        ([], "PATTERN... is missing; or give --patterns, --pointer or --integer"),
        (["x", "--physical"], "is not an image of a machine's memory: nothing tells physical addresses; search"),
        (["x", "--physical", "--address", "0x1000"], "--physical takes all"),
        (["--encoding", "utf-7", "-i", "a+"], ""),
    ],
)
def test_refused(dump: Path, capfdbinary: Capture, words: list[str], message: str) -> None:
    """What cannot be searched for is told in one line, before anything is printed."""
    ran = invoke(capfdbinary, "find", str(dump), *words)
    if message:
        assert (ran.code in {1, 2}, ran.out, ran.err.count("\n")) == (True, b"", 1), ran.err
        assert message in ran.err


def test_files_of_patterns(dump: Path, tmp_path: Path, capfdbinary: Capture) -> None:
    """Patterns come from files, a line each, also bytes and expressions; empty lines and a mark are no patterns."""
    path = tmp_path / "patterns"
    path.write_bytes(b"\xef\xbb\xbfsecret\r\n\r\npass word\n" + b"".join(b"none %d\n" % each for each in range(5000)))
    assert hits(capfdbinary, dump, "--patterns", path, "ssw") == [
        (2, "ssw", "utf-8"),
        (9, "secret", "utf-8"),
        (TEXT.index(b"pass w"), "pass word", "utf-8"),
    ]
    path.write_bytes(b"50 61 ?? 73\n")
    assert hits(capfdbinary, dump, "--patterns", path, "--hex") == [(0, "50 61 ?? 73", "hex")]
    path.write_bytes(b"s.?c\nsecre[t-z]\n")
    assert hits(capfdbinary, dump, "--patterns", path, "--regex") == [
        (9, "s.?c", "regex"),
        (9, "secre[t-z]", "regex"),
    ]
    path.write_bytes(b"fine\n\xff\xfe\n")
    ran = invoke(capfdbinary, "find", str(dump), "--patterns", str(path))
    assert (ran.code, "line 2 is not UTF-8" in ran.err) == (2, True)
    path.write_bytes(b"a" * 70000)
    ran = invoke(capfdbinary, "find", str(dump), "--patterns", str(path))
    assert (ran.code, "line 1 has more than" in ran.err) == (2, True)


def test_integers(dump: Path, capfdbinary: Capture) -> None:
    """Integers are found at every address, in the byte order that is asked for."""
    first, second = 0x100 + 16, 0x100 + 24 + 1 + 16
    assert hits(capfdbinary, dump, "--integer", "0x12345678") == [
        (first, "0x12345678", "u32-le"),
        (second, "0x12345678", "u32-le"),
    ]
    assert hits(capfdbinary, dump, "--integer", "305419896", "--byte-order", "both", "--width", "4") == [
        (first, "305419896", "u32-le"),
        (second, "305419896", "u32-le"),
        (second + 8 + 3, "305419896", "u32-be"),
    ]
    assert hits(capfdbinary, dump, "--integer", "0x12345678", "--width", "8")[0] == (first, "0x12345678", "u64-le")


def test_pointers(dump: Path, capfdbinary: Capture) -> None:
    """Pointers to an address, and into a range; at every address only if that is asked for."""
    one, some = hex(START + 0x40), f"{START:#x}-{START + 0x1001:#x}"
    assert hits(capfdbinary, dump, "--pointer", one) == [(0x100, one, "pointer64")]
    assert hits(capfdbinary, dump, "--pointer", one, "--unaligned") == [
        (0x100, one, "pointer64"),
        (0x119, one, "pointer64"),
    ]
    assert [at for at, _, _ in hits(capfdbinary, dump, "--pointer", some)] == [0x100, 0x108]


def test_context(dump: Path, capfdbinary: Capture) -> None:
    """The bytes around a hit are a hexdump below its row, or hexadecimal; they end where the segment does."""
    words = ["find", str(dump), "word=secret", "--context", "6", "--encoding", "utf-8"]
    (row,) = rows_of(invoke(capfdbinary, *words, "--format", "jsonl"))
    assert (int(row["context_start"], 16) - START, bytes.fromhex(row["context"])) == (0, TEXT[:21])
    shown = invoke(capfdbinary, *words).out.decode()
    assert re.search(r"(?m)^  0000000010000000  50 61 73 73 .* \|Password=secret;\|$", shown)
    assert "context" not in shown
    csv = invoke(capfdbinary, *words, "--format", "csv").out.decode()
    assert csv.splitlines()[1].endswith(f",{TEXT[:21].hex()}")


def test_names_with_escapes(tmp_path: Path, capfdbinary: Capture) -> None:
    """A pattern that would command a terminal is shown as an escape."""
    dump = write_dump(tmp_path, [(START, b"\x1b[2Jx".ljust(PAGE))])
    (tmp_path / "patterns").write_bytes(b"\x1b[2J\n")
    ran = invoke(capfdbinary, "find", str(dump), "--patterns", str(tmp_path / "patterns"), "--context", "3")
    assert ran.code == 0
    assert b"\x1b" not in ran.out
    assert b"\\x1b[2J" in ran.out


def test_where(capfdbinary: Capture) -> None:
    """With --where a row has the module or the mapped file, if it is known."""
    words = ["find", EXAMPLE, "--hex", "4d 5a 90 00", "--where", "--format", "jsonl"]
    lists = ["--modules", str(EXAMPLE).replace("pid.1624.dmp", "dlllist.txt")]
    found = {row["address"]: row["where"] for row in rows_of(invoke(capfdbinary, *map(str, words), *lists))}
    assert found["0x00007ff673400000"] == "target.exe+0x0"
    assert found["0xfffff801de600000"] is None


def test_where_in_what_is_used(capfdbinary: Capture, tmp_path: Path) -> None:
    """What lies in a thread's stack, a TEB or a heap is called so; what is merely private has no name."""
    image = winimage.build(tmp_path / "mem.raw", processes=winimage.USERLAND).path
    places = {
        0x1F002FF000: "stack (thread 1632)+0xff000",
        0x2000009000: "TEB (thread 1636)+0x0",
        0x2000000000: "PEB+0x0",
        0x2010000000: "heap+0x0",
        0x10000005000: None,
    }
    with memcarve.open(image) as container:
        process = container.process(1624)
        patterns = [process.read(address, 2048).hex() for address in places]
    ran = invoke(capfdbinary, "find", str(image), "--pid", "1624", "--hex", *patterns, "--where", "--format", "jsonl")
    where = {int(row["address"], 16): row["where"] for row in rows_of(ran, ran.code)}
    assert {address: where[address] for address in places} == places


@pytest.mark.parametrize(
    ("words", "needed"),
    [
        (["--unaligned", "text"], "--pointer"),
        (["--width", "4", "text"], "--integer"),
        (["--byte-order", "big", "--pointer", "0x1000"], "--integer"),
        (["--max-match", "10", "text"], "--regex"),
        (["--max-owners", "3", "text"], "--physical"),
    ],
)
def test_options_that_mean_nothing_alone(dump: Path, capfdbinary: Capture, words: list[str], needed: str) -> None:
    """An option that says more of another is an error without that, and says so."""
    ran = invoke(capfdbinary, "find", str(dump), *words)
    assert ran.code == 2
    assert re.search(f"memcarve: --[a-z-]+ means nothing without {needed}; give both, or leave", ran.err)


def test_pointers_of_each_process(tmp_path: Path, capfdbinary: Capture) -> None:
    """What points to a module is found in each process by where its own module lies, and how wide its pointers are."""
    truth = winimage.build(tmp_path / "mem.raw", processes=winimage.USERLAND)
    expected: list[tuple[int | None, int, int]] = []
    with memcarve.open(truth.path) as container:
        for process in (container.process(index=index) for index in container.certain()):
            lists = [module for each in process.metadata.modules for module in each.rows]
            bases = {module.start for module in lists if (module.name or "").lower() == "kernel32.dll"}
            widths = (4, 8) if process.entry.wow64 else (8,)
            for segment in process.segments() if len(bases) == 1 else ():
                data = process.read(segment.start, segment.size)
                expected += [
                    (process.pid, segment.start + place, width)
                    for width in widths
                    for place in range(0, len(data), width)
                    if int.from_bytes(data[place : place + width], "little") in bases
                ]
    words = ["find", str(truth.path), "--all", "--pointer", "kernel32.dll", "--format", "jsonl"]
    ran = invoke(capfdbinary, *words)
    rows = rows_of(ran, ran.code)
    found = [(row["pid"], int(row["address"], 16), int(row["encoding"].removeprefix("pointer")) // 8) for row in rows]
    assert sorted(found) == sorted(expected)
    assert {width for _, _, width in found} == {4, 8}
    assert re.search("pointers to kernel32.dll.* were not looked for in [0-9]+ process", ran.err)


def test_physical(truth: Truth, capfdbinary: Capture) -> None:
    """Physical memory is searched once; each hit has a row for each who maps it, and those that nobody maps, too."""
    with memcarve.open(truth.path) as container, open(truth.path, "rb") as file:
        data = file.read()
        owners = memcarve.Owners(container)
        pages = range(0x800, len(data), PAGE)
        orphans = [pages[each.query] for each in owners.of(pages) if each.owner == "none found"]
        word = next(data[at : at + 8] for at in orphans if len({*data[at : at + 8]}) > 6)
        pattern = b"(?s)(?=MZ|" + re.escape(word) + b")"
        places = [match.start() for match in re.finditer(pattern, data)]
        expected = []
        for answer in owners.of(places):
            pid = None if answer.process is None else answer.process.pid
            expected.append((answer.offset, answer.owner, pid, answer.address))
    words = ["find", str(truth.path), "4d5a", word.hex(), "--hex", "--physical", "--format", "jsonl"]
    ran = invoke(capfdbinary, *words)
    rows = rows_of(ran, ran.code)
    found = [
        (row["offset"], row["owner"], row["pid"], None if row["address"] is None else int(row["address"], 16))
        for row in rows
    ]
    assert ran.code in {0, 3}
    assert found == expected
    assert {"process", "kernel", "none found"} <= {row["owner"] for row in rows}
    assert f"{len(places)} hits" in ran.err
    assert "with no known owner" in ran.err


def test_physical_with_many_owners(truth: Truth, capfdbinary: Capture) -> None:
    """Of a hit with more owners than are wanted the others are counted, in its last row and in a note."""
    words = ["find", str(truth.path), "MZ", "--physical", "--format", "jsonl"]
    ran = invoke(capfdbinary, *words)
    every = [row["physical"] for row in rows_of(ran, ran.code)]
    ran = invoke(capfdbinary, *words, "--max-owners", "1")
    few = rows_of(ran, ran.code)
    assert [row["physical"] for row in few] == [*dict.fromkeys(every)]
    assert [row["more"] for row in few] == [every.count(row["physical"]) - 1 for row in few]
    assert f"{sum(row['more'] for row in few)} more mapping" in ran.err
    with memcarve.open(truth.path) as container:
        owners = memcarve.Owners(container)
        found = [*memcarve.find_physical(owners, b"MZ", max_owners=1)]
        assert [hit.owners[-1].more for hit in found] == [row["more"] for row in few]
        for hit, row in zip(found, few, strict=True):
            [answer] = hit.owners
            assert (answer.module, answer.region) == (row["module"], row["region"])


def test_pointers_to_what_nobody_has(tmp_path: Path, capfdbinary: Capture) -> None:
    """If no process has a module, what is said is about one that has others."""
    winimage.build(tmp_path / "mem.raw", processes=winimage.USERLAND)
    ran = invoke(capfdbinary, "find", str(tmp_path / "mem.raw"), "--all", "--pointer", "absent.dll")
    assert (ran.code, ran.out) == (2, b"")
    assert "no module is called 'absent.dll'; it has " in ran.err


def test_library(truth: Truth) -> None:
    """The library finds in a container, in some processes, and in physical memory, as the command does."""
    with memcarve.open(truth.path) as container:
        one = [(hit.process.pid, hit.hit.address) for hit in memcarve.find(container, b"MZ")]
        processes = [container.process(index=index) for index in container.certain()]
        some = [(hit.process.pid, hit.hit.address) for hit in memcarve.find(processes, b"MZ")]
        alone = [(each.pid, hit.address) for each in processes for hit in each.find(b"MZ")]
        assert one == some == alone
        both = [hit.is_kernel for hit in memcarve.find(container, b"MZ", selection=memcarve.Selection("all"))]
        assert both.count(False) == len(one)
        assert both.count(True) > 0
        found = [each.hit.address for each in memcarve.find_physical(memcarve.Owners(container), b"MZ")]
        assert found == sorted(found)
        expressions = memcarve.find(processes[3], memcarve.expression("[ -~]{6,}"))
        assert all(hit.hit.size >= 6 for hit in expressions)
