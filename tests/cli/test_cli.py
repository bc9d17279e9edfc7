"""The command line: every command and option, where its output goes, how it ends, and what it does with bad input."""

from __future__ import annotations

import csv
import hashlib
import inspect
import io
import itertools
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tomllib
from importlib import metadata
from typing import TYPE_CHECKING, Any

import click
import pytest

from carved import binaries, model, named
from cli import command, invoke, run
from dumps import HEADER, dump_bytes, map_rows, write_dump, write_several
from files import EXAMPLE, ROOT, listing
from memcarve.cli import program
from memcarve.cli.commands import COMMANDS as BY_PURPOSE, Command
from memcarve.cli.option_groups import HEADINGS
from memcarve.version import __version__
from memory import PAGE, noise

if TYPE_CHECKING:
    from pathlib import Path

    from cli import Ran
    from dumps import Piece

    Capture = pytest.CaptureFixture[bytes]

MAP = EXAMPLE.with_suffix(".map")
TRUTH = json.loads((EXAMPLE.parent / "truth.json").read_text())
COMMANDS = tuple(str(command.name) for commands in BY_PURPOSE.values() for command in commands)

#: user half: a segment of two extents with a word across their border; kernel half: one page
WORD = "N\u00e4del"
ROWS: list[Piece] = [
    (0x20000, noise(1, PAGE - 3) + WORD.encode()[:3]),
    (0x40000, noise(2, PAGE)),
    (0x21000, WORD.encode()[3:] + noise(3, PAGE - 3 - 10) + WORD.encode("utf-16-le")),
    (0x60000, noise(4, 3 * PAGE)),
    (0xF80000000000, bytes(PAGE)),
]


@pytest.fixture
def dump(tmp_path: Path) -> Path:
    """Return a dump with its map."""
    return write_dump(tmp_path, ROWS)


def command_of(name: str) -> click.Command:
    """Return a command by its name."""
    found = program.cli.get_command(click.Context(program.cli), name)
    assert found is not None
    return found


def rows_of(ran: Ran) -> list[dict[str, Any]]:
    """Return the rows that a command printed as JSON lines, after checking that it went well."""
    assert ran.code == 0, ran.err
    return [json.loads(line) for line in ran.out.splitlines()]


def one_line(ran: Ran, code: int, *words: object) -> None:
    """Hold that a run failed with one line, no traceback, and nothing on standard output; notes may stand before it."""
    assert (ran.code, ran.out) == (code, b""), ran.err
    assert "Traceback" not in ran.err
    (line,) = [line for line in ran.err.split("\n")[:-1] if not line.startswith("note: ")]
    assert line.startswith("memcarve: ")
    assert all(str(word) in line for word in words), ran.err


def printed(ran: Ran) -> bytes:
    """Return what a run printed as data, after checking that it went well and said nothing but notes."""
    assert ran.code == 0, ran.err
    assert all(line.startswith("note: ") for line in ran.err.splitlines()), ran.err
    return ran.out


# the whole


def test_version() -> None:
    """--version prints name and version on standard output."""
    assert run("--version") == (0, f"memcarve {__version__}\n".encode(), "")


def test_console_script() -> None:
    """The installed program memcarve is the same as python -m memcarve."""
    program = shutil.which("memcarve", path=os.path.dirname(sys.executable))
    if program is None:
        pytest.skip("the program memcarve is not installed beside this Python")
    found = subprocess.run([program, "--version"], capture_output=True, check=True)
    assert found.stdout == f"memcarve {__version__}\n".encode()


@pytest.mark.parametrize("option", ["--help", "-h"])
@pytest.mark.parametrize("name", ["", *COMMANDS])
def test_help(capfdbinary: Capture, name: str, option: str) -> None:
    """Each command's help goes to standard output, ends with 0 and mentions every option it takes."""
    ran = invoke(capfdbinary, *([name] if name else []), option)
    assert (ran.code, ran.err) == (0, "")
    chosen = command_of(name) if name else program.cli
    for parameter in chosen.params:
        for word in [*getattr(parameter, "opts", []), *getattr(parameter, "secondary_opts", [])]:
            if word.startswith("-"):
                assert word in ran.out.decode()
        assert parameter.param_type_name == "argument" or getattr(parameter, "help", "")


def test_help_lists_commands_and_exit_statuses(capfdbinary: Capture) -> None:
    """The program's help lists every command and what the exit statuses mean."""
    text = invoke(capfdbinary, "--help").out.decode()
    assert all(re.search(rf"(?m)^  {name} ", text) for name in COMMANDS)
    assert re.search(r"0 complete.*1 could not.*2 .*usage.*3 .*missing.*130.*143", text.replace("\n", " "))


def test_alone(capfdbinary: Capture) -> None:
    """Without arguments the program prints its help, and ends as wrong usage does."""
    ran = invoke(capfdbinary)
    assert (ran.code, ran.err) == (2, "")
    assert ran.out == invoke(capfdbinary, "--help").out


def test_help_says_what_each_command_says(capfdbinary: Capture) -> None:
    """What the program's help says of a command fits on a line of 80 columns, and the command has a help of its own."""
    text = invoke(capfdbinary, "--help").out.decode().splitlines()
    for commands in BY_PURPOSE.values():
        for each in commands:
            assert any(line.split() == [each.name, *str(each.short_help).split()] for line in text)
            assert each.help


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_takes_what_its_function_takes(name: str) -> None:
    """A command's function has a parameter for each argument and group of options, of the group's type."""
    command = command_of(name)
    assert isinstance(command, Command)
    taken = inspect.signature(command.function).parameters
    groups = {argument: group.__name__ for argument, group in command.groups.items()}
    arguments = {parameter.name for parameter in command.params if parameter.param_type_name == "argument"}
    assert taken.keys() == groups.keys() | arguments
    assert {argument: taken[argument].annotation for argument in groups} == groups


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_headings(capfdbinary: Capture, name: str) -> None:
    """Options stand in groups, those of what to take first, and each of them once."""
    text = invoke(capfdbinary, name, "--help").out.decode()
    headings = re.findall(r"(?m)^(\S.*):$", text)
    assert headings == [heading for heading in HEADINGS if heading in headings]
    assert "Options:" not in text
    words = re.findall(r"(?m)^  (?:-\w, )?(--[a-z-]+)", text[text.index(f"\n{headings[0]}:") :])
    assert len(words) == len(set(words))


def test_options_of_the_issue() -> None:
    """Every command has the options that were promised for it."""
    common = {"--map", "--dump", "--trust", "--pid", "--name", "--help"}
    filters = {"--range", "--address", "--min-size", "--max-size"}
    quiet = {"--quiet", "-q", "--verbose", "-v"}
    promised = {
        "carve": common | filters | quiet | {"--output", "-o", "--force", "--all", "--skip-zero", "--partial"}
        | {"--sparse", "--hash", "--hash-input"},
        "segments": common | filters | quiet | {"--extents", "--format"},
        "verify": common | quiet | {"--source"},
        "read": common | {"--hex", "--raw"},
        "find": common | filters | quiet | {"--hex", "--encoding", "--format"},
        "locate": common | {"--format"},
    }  # fmt: skip
    for name, words in promised.items():
        has = {word for parameter in command_of(name).params for word in parameter.opts + parameter.secondary_opts}
        assert words - {"--help"} <= has, name


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["carve"],
        ["--nonsense"],
        ["carve", "--nonsense", EXAMPLE],
        ["carve", EXAMPLE, "more"],
        ["segments", EXAMPLE, "--format", "xml"],
        ["segments", EXAMPLE, "--range", "middle"],
        ["segments", EXAMPLE, "--address", "here"],
        ["segments", EXAMPLE, "--address", "0x2000-0x1000"],
        ["segments", EXAMPLE, "--address", "0x1000-0x1000"],
        ["segments", EXAMPLE, "--address", "0x1ffffffffffffffff"],
        ["segments", EXAMPLE, "--address", "-1"],
        ["segments", EXAMPLE, "--min-size", "4x"],
        ["segments", EXAMPLE, "--min-size", "-4"],
        ["segments", EXAMPLE, "--max-size", ""],
        ["segments", EXAMPLE, "--pid", "four"],
        ["segments", EXAMPLE, "--trust", "me"],
        ["carve", "absent", "--kind", "imag"],
        ["carve", "absent", "--flag", "suspicious"],
        ["carve", EXAMPLE, "--hash", "crc32"],
        ["carve", EXAMPLE, "--hash", "none", "--hash", "md5"],
        ["read", EXAMPLE, "0x7ffe0000"],
        ["read", EXAMPLE, "zero", "16"],
        ["read", EXAMPLE, "0x7ffe0000", "many"],
        ["read", EXAMPLE, "0x10000000000000000", "1"],
        ["find", EXAMPLE],
        ["find", EXAMPLE, ""],
        ["find", EXAMPLE, "--hex", "xyz"],
        ["find", EXAMPLE, "--hex", "123"],
        ["find", EXAMPLE, "--hex", ""],
        ["find", EXAMPLE, "x", "--encoding", "nonsense"],
        ["find", EXAMPLE, "\u20ac", "--encoding", "latin-1"],
        *(["find", EXAMPLE, "x", "--encoding", name] for name in ("rot13", "hex", "base64", "undefined", "a.b", "")),
        ["locate", EXAMPLE, "here"],
        ["locate", EXAMPLE, "+"],
        ["locate", EXAMPLE, "++1"],
        ["completion", "tcsh"],
        ["verify"],
        ["verify", "x", "--map", "y"],
    ],
    ids=lambda arguments: " ".join(str(word) for word in arguments if word is not EXAMPLE) or "nothing",
)
def test_wrong_usage(
    capfdbinary: Capture, arguments: list[str | Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wrong usage ends with 2, says so on standard error, and prints nothing else."""
    monkeypatch.chdir(tmp_path)
    ran = invoke(capfdbinary, *arguments)
    assert (ran.code, ran.out) == (2, b"")
    assert ran.err
    assert "Traceback" not in ran.err
    assert listing(tmp_path) == []


# carve


@pytest.mark.parametrize(
    "words", [("carve",), ("extract",), *(("export", "--to", kind) for kind in ("flat", "memmap"))]
)
def test_output_without_a_name(dump: Path, tmp_path: Path, words: tuple[str, ...], capfdbinary: Capture) -> None:
    """An empty name, as of a variable that is not set, is not taken for the default: nothing is written."""
    before = listing(tmp_path)
    ran = invoke(capfdbinary, *words, dump, "-o", "")
    assert (ran.code, "'' is not a name" in ran.err, listing(tmp_path)) == (2, True, before)


def test_carve_default_output(dump: Path, tmp_path: Path) -> None:
    """Without -o the folder is called after the dump, and lies where the user is."""
    (tmp_path / "here").mkdir()
    ran = run("carve", "../pid.4.dmp", cwd=tmp_path / "here")
    assert (ran.code, ran.out) == (0, b"")
    assert listing(tmp_path / "here") == ["pid.4.segments"]
    assert binaries(tmp_path / "here" / "pid.4.segments") == named(model(ROWS))
    assert dump.exists()


@pytest.mark.parametrize("given", ["pid.4.map", "./pid.4.dmp"])
def test_carve_takes_either_file(dump: Path, tmp_path: Path, given: str) -> None:
    """Given the map, the dump is found beside it; the folder is called after the same stem."""
    assert run("carve", given, cwd=tmp_path).code == 0
    assert binaries(tmp_path / "pid.4.segments") == named(model(ROWS))
    assert dump.exists()


def test_carve_summary(dump: Path, tmp_path: Path, capfdbinary: Capture) -> None:
    """The last lines say segments, bytes, seconds, rate, how the bytes were moved, and where; then the seal."""
    ran = invoke(capfdbinary, "carve", dump, "-o", tmp_path / "out")
    assert (ran.code, ran.out) == (0, b"")
    last, seal = ran.err.splitlines()[-2:]
    digest = hashlib.sha256((tmp_path / "out" / "segments.json").read_bytes()).hexdigest()
    assert seal == f"seal (SHA-256 of segments.json): {digest}"
    assert re.fullmatch(r"4 segments, 28\.0 KiB in \d+\.\d\d s \(.+/s\), by .+: " + re.escape(f"{tmp_path}/out"), last)


def test_carve_quiet_and_verbose(dump: Path, tmp_path: Path, capfdbinary: Capture) -> None:
    """With -q nothing is said; with -v more is said than without."""
    plain = invoke(capfdbinary, "carve", dump, "-o", tmp_path / "a")
    quiet = invoke(capfdbinary, "carve", dump, "-o", tmp_path / "b", "-q")
    verbose = invoke(capfdbinary, "carve", dump, "-o", tmp_path / "c", "-v")
    assert (quiet.code, quiet.out, quiet.err) == (0, b"", "")
    assert verbose.out == b""
    assert verbose.err.count("\n") > plain.err.count("\n")


def test_carve_says_which_map_was_taken(dump: Path, tmp_path: Path, capfdbinary: Capture) -> None:
    """Where several maps lie beside the dump, the first kind is taken, and the message names it and the others."""
    shutil.copy(dump.with_suffix(".map"), dump.with_suffix(".txt"))
    ran = invoke(capfdbinary, "carve", dump, "-o", tmp_path / "out")
    assert f"{dump.with_suffix('.map')}" in ran.err
    assert "pid.4.txt" in ran.err


def test_carve_records_the_command(dump: Path, tmp_path: Path) -> None:
    """The manifest holds the command line as it was given."""
    assert run("carve", dump.name, "-o", "out", "--hash", "md5", cwd=tmp_path).code == 0
    with (tmp_path / "out" / "segments.json").open() as file:
        assert json.load(file)["command"] == ["memcarve", "carve", "pid.4.dmp", "-o", "out", "--hash", "md5"]


@pytest.mark.parametrize(
    ("options", "kinds"),
    [
        ([], ["SHA256SUMS"]),
        (["--hash", "md5"], ["MD5SUMS"]),
        (["--hash", "sha1", "--hash", "sha256"], ["SHA1SUMS", "SHA256SUMS"]),
        (["--hash", "sha1,md5"], ["MD5SUMS", "SHA1SUMS"]),
        (["--hash", "none"], []),
        (["--hash", "md5", "--hash", "md5"], ["MD5SUMS"]),
    ],
)
def test_carve_hashes(dump: Path, tmp_path: Path, capfdbinary: Capture, options: list[str], kinds: list[str]) -> None:
    """--hash chooses the checksums, SHA-256 without it; it may be repeated."""
    assert invoke(capfdbinary, "carve", dump, "-o", tmp_path / "out", *options).code == 0
    assert [name for name in listing(tmp_path / "out") if name.endswith("SUMS")] == kinds


@pytest.mark.parametrize(
    "option", [["--sparse"], ["--hash-input"], ["--partial"], ["--force"], ["--all"], ["--pid", "4"]]
)
def test_carve_options(dump: Path, tmp_path: Path, capfdbinary: Capture, option: list[str]) -> None:
    """Options that change how, and not what, give the same files."""
    assert invoke(capfdbinary, "carve", dump, "-o", tmp_path / "out", *option).code == 0
    assert binaries(tmp_path / "out") == named(model(ROWS))


def test_carve_skip_zero(dump: Path, tmp_path: Path, capfdbinary: Capture) -> None:
    """--skip-zero leaves zero segments out and says how many bytes that were; the exit status is 0."""
    ran = invoke(capfdbinary, "carve", dump, "-o", tmp_path / "out", "--skip-zero")
    assert ran.code == 0
    assert binaries(tmp_path / "out") == {name: data for name, data in named(model(ROWS)).items() if any(data)}
    assert re.search(rf"{PAGE} bytes.*zero", ran.err)


def test_carve_existing(dump: Path, tmp_path: Path, capfdbinary: Capture) -> None:
    """An existing folder makes the command fail with 1 and the remedy; with --force it is replaced."""
    assert invoke(capfdbinary, "carve", dump, "-o", tmp_path / "out").code == 0
    ran = invoke(capfdbinary, "carve", dump, "-o", tmp_path / "out", "-q")
    one_line(ran, 1, tmp_path / "out", "--force", "-o")
    assert invoke(capfdbinary, "carve", dump, "-o", tmp_path / "out", "--force").code == 0


def test_files_elsewhere(dump: Path, tmp_path: Path, capfdbinary: Capture) -> None:
    """--map and --dump name the other file, wherever it lies and whatever it is called."""
    (tmp_path / "a").mkdir()
    moved = dump.with_suffix(".map").rename(tmp_path / "a" / "rows")
    assert invoke(capfdbinary, "carve", dump, "--map", moved, "-o", tmp_path / "out1").code == 0
    dump = dump.rename(tmp_path / "a" / "memory")
    assert invoke(capfdbinary, "carve", moved, "--dump", dump, "-o", tmp_path / "out2").code == 0
    assert invoke(capfdbinary, "carve", dump, "--dump", dump, "--map", moved, "-o", tmp_path / "out3").code == 0
    for name in ("out1", "out2", "out3"):
        assert binaries(tmp_path / name) == named(model(ROWS))


def test_no_map(capfdbinary: Capture, dump: Path) -> None:
    """A dump without a map is an error that says what was looked for and names --map."""
    dump.with_suffix(".map").unlink()
    one_line(invoke(capfdbinary, "carve", dump), 1, dump, "--map", ".map")


@pytest.mark.parametrize("trust", ["printed", "sum"])
def test_trust(tmp_path: Path, capfdbinary: Capture, trust: str) -> None:
    """Where positions cannot be settled the error has the numbers; --trust decides."""
    rows: list[Piece] = [(0x1000, noise(1)), (0x2000, PAGE), (0x3000, noise(2)), (0x4000, PAGE)]
    dump = write_dump(tmp_path, rows)
    dump.write_bytes(noise(1) + noise(7) + noise(2))  # as long as neither way says
    ran = invoke(capfdbinary, "carve", dump, "-o", tmp_path / "out")
    one_line(ran, 1, "0x4000", "0x2000", "0x3000", "--trust")
    ran = invoke(capfdbinary, "carve", dump, "-o", tmp_path / "out", "--trust", trust)
    assert ran.code == 3
    found = binaries(tmp_path / "out")
    second = noise(7) if trust == "sum" else noise(2)
    assert found["0x0000000000003000-0x0000000000004000.bin"] == second


def test_names_of_processes(tmp_path: Path, capfdbinary: Capture) -> None:
    """--name chooses processes by a pattern, regardless of case; one that matches none is an error."""
    table = tmp_path / "both.txt"
    text = ""
    for pid, name in ((4, "System"), (88, "smss.exe"), (99, "csrss.exe")):
        text += f"{name} pid:{pid:>7}\nVirtual            Physical                         Size     DumpFileOffset\n"
        text += "------------------ ------------------ ------------------ ------------------\n"
        text += "0x0000000000010000 0x0000000000001000             0x1000                0x0\n" + "*" * 72 + "\n"
        (tmp_path / f"{pid}.dmp").write_bytes(noise(pid))
    table.write_text(text)
    assert invoke(capfdbinary, "carve", table, "--name", "SMSS*", "-o", tmp_path / "one").code == 0
    assert list(binaries(tmp_path / "one").values()) == [noise(88)]
    assert invoke(capfdbinary, "carve", table, "--name", "*.exe", "-o", tmp_path / "two").code == 0
    assert listing(tmp_path / "two") == ["88-smss.exe", "99-csrss.exe", "SHA256SUMS", "processes.json"]
    one_line(invoke(capfdbinary, "carve", table, "--name", "nobody", "-o", tmp_path / "no"), 1, "nobody")
    one_line(invoke(capfdbinary, "carve", table, "--pid", "5", "-o", tmp_path / "no"), 1, "5", "System")
    one_line(invoke(capfdbinary, "locate", table, "0x10000", "--name", "*s*"), 2, "several")
    assert invoke(capfdbinary, "carve", table, "--pid", "4", "--pid", "99", "-o", tmp_path / "three").code == 0
    assert listing(tmp_path / "three") == ["4-System", "99-csrss.exe", "SHA256SUMS", "processes.json"]


# segments


def expected_segments(rows: list[Piece]) -> list[tuple[int, int]]:
    """Return start and size of the segments that rows amount to."""
    return [(start, len(content)) for start, content in sorted(model(rows).items())]


def test_segments_of_the_map_alone(tmp_path: Path, capfdbinary: Capture, dump: Path) -> None:
    """Segments needs only the map."""
    dump.unlink()
    found = rows_of(invoke(capfdbinary, "segments", dump.with_suffix(".map"), "--format", "jsonl"))
    assert [(int(row["start"], 16), row["size"]) for row in found] == expected_segments(ROWS)
    assert tmp_path.exists()


def test_segments_of_the_example(capfdbinary: Capture) -> None:
    """The example has the segments that its generator knows of."""
    found = rows_of(invoke(capfdbinary, "segments", EXAMPLE, "--format", "jsonl"))
    assert [(int(row["start"], 16) & (1 << 48) - 1, row["size"], row["offset"]) for row in found] == [
        (start, size, offset) for start, size, offset, _ in sorted(TRUTH["segments"])
    ]
    assert all(int(row["end"], 16) - int(row["start"], 16) == row["size"] for row in found)


def test_segments_formats(dump: Path, capfdbinary: Capture) -> None:
    """Table, CSV, JSON and JSON lines say the same; addresses are strings, sizes are integers."""
    lines = rows_of(invoke(capfdbinary, "segments", dump, "--format", "jsonl"))
    document = json.loads(invoke(capfdbinary, "segments", dump, "--format", "json").out)
    assert next(iter(document)) == "schema"
    assert document["segments"] == lines
    assert all(isinstance(row["start"], str) and type(row["size"]) is int for row in lines)
    cells = list(csv.DictReader(io.StringIO(invoke(capfdbinary, "segments", dump, "--format", "csv").out.decode())))
    assert cells == [{name: str(value) for name, value in row.items()} for row in lines]
    table = invoke(capfdbinary, "segments", dump).out.decode().splitlines()
    assert table[0].split() == list(lines[0])
    assert [line.split() for line in table[1:]] == [[str(value) for value in row.values()] for row in lines]


def test_segments_parquet(dump: Path, capfdbinary: Capture) -> None:
    """Parquet has the same rows, in integers of 64 bits without a sign."""
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    ran = invoke(capfdbinary, "segments", dump, "--format", "parquet")
    assert ran.code == 0
    found = parquet.read_table(io.BytesIO(ran.out))
    lines = rows_of(invoke(capfdbinary, "segments", dump, "--format", "jsonl"))
    assert found.column("start").to_pylist() == [int(row["start"], 16) for row in lines]
    assert found.column("end").to_pylist() == [int(row["end"], 16) for row in lines]
    assert found.column("size").to_pylist() == [row["size"] for row in lines]
    assert {str(field.type) for field in found.schema} == {"uint64"}


@pytest.mark.parametrize("layout", ["table", "csv", "json", "jsonl", "parquet"])
def test_top_of_the_address_space_in_every_format(tmp_path: Path, capfdbinary: Capture, layout: str) -> None:
    """A segment that ends at 2**64 can be printed in every format."""
    if layout == "parquet":
        pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    dump = write_dump(tmp_path, [(0xFFFFFFFFF000, noise(1))])
    ran = invoke(capfdbinary, "segments", dump, "--format", layout)
    assert ran.code == 0, ran.err
    if layout == "parquet":
        table = pytest.importorskip("pyarrow.parquet").read_table(io.BytesIO(ran.out))
        assert table.select(["start", "end", "size"]).to_pylist() == [
            {"start": 2**64 - PAGE, "end": None, "size": PAGE}
        ]
    else:
        assert b"0x10000000000000000" in ran.out


def test_no_segment_left(dump: Path, capfdbinary: Capture) -> None:
    """Where no segment is left, every format is still whole: a header, an empty list, nothing."""
    found = {
        layout: invoke(capfdbinary, "segments", dump, "--format", layout, "--min-size", "1G")
        for layout in ("table", "csv", "json", "jsonl")
    }
    assert {ran.code for ran in found.values()} == {0}
    assert json.loads(found["json"].out)["segments"] == []
    assert found["jsonl"].out == b""
    assert len(found["csv"].out.splitlines()) == len(found["table"].out.splitlines()) == 1


def test_extents(dump: Path, capfdbinary: Capture) -> None:
    """--extents lists what continues both in memory and in the dump, with the segment it belongs to."""
    found = rows_of(invoke(capfdbinary, "segments", dump, "--extents", "--format", "jsonl"))
    assert [(int(row["start"], 16), row["size"], row["offset"], int(row["segment"], 16)) for row in found] == [
        (0x20000, PAGE, 0, 0x20000),
        (0x21000, PAGE, 2 * PAGE, 0x20000),
        (0x40000, PAGE, PAGE, 0x40000),
        (0x60000, 3 * PAGE, 3 * PAGE, 0x60000),
        (0xFFFFF80000000000, PAGE, 6 * PAGE, 0xFFFFF80000000000),
    ]


@pytest.mark.parametrize(
    ("options", "starts"),
    [
        (["--range", "user"], [0x20000, 0x40000, 0x60000]),
        (["--range", "kernel"], [0xFFFFF80000000000]),
        (["--range", "all", "--min-size", "8k"], [0x20000, 0x60000]),
        (["--min-size", "8k", "--max-size", "8192"], [0x20000]),
        (["--min-size", "0x2001"], [0x60000]),
        (["--min-size", "12KiB"], [0x60000]),
        (["--min-size", "2M"], []),
        (["--max-size", "1T"], [0x20000, 0x40000, 0x60000, 0xFFFFF80000000000]),
        (["--max-size", "0"], []),
        (["--min-size", "99999999999999999999G"], []),
        (["--address", "0x21fff"], [0x20000]),
        (["--address", "0x22000"], []),
        (["--address", "00000000`00040000"], [0x40000]),
        (["--address", "0x21000-0x40001"], [0x20000, 0x40000]),
        (["--address", "0x20000", "--address", "0x60000"], [0x20000, 0x60000]),
        (["--address", "0xffff800000000000-0x10000000000000000"], [0xFFFFF80000000000]),
    ],
)
@pytest.mark.parametrize("what", ["segments", "carve"])
def test_filters(
    dump: Path, tmp_path: Path, capfdbinary: Capture, options: list[str], starts: list[int], what: str
) -> None:
    """The filters mean the same in segments and in carve; sizes may be written 4k or 2M."""
    if what == "segments":
        found = rows_of(invoke(capfdbinary, "segments", dump, "--format", "jsonl", *options))
        assert [int(row["start"], 16) for row in found] == starts
    else:
        assert invoke(capfdbinary, "carve", dump, "-o", tmp_path / "out", *options).code == 0
        assert [int(name[:18], 16) for name in sorted(binaries(tmp_path / "out"))] == starts


def test_segments_incomplete(tmp_path: Path, capfdbinary: Capture) -> None:
    """Segments of a map with rows that were not written ends with 3, and its data is printed all the same."""
    dump = write_dump(tmp_path, [(0x1000, noise(1)), (0x2000, PAGE)])
    ran = invoke(capfdbinary, "segments", dump, "--format", "jsonl")
    assert ran.code == 3
    assert len(ran.out.splitlines()) == 1


def test_quiet_prints_data_alone(dump: Path, capfdbinary: Capture) -> None:
    """With -q the commands that print data print nothing else."""
    for arguments in (["segments", dump], ["find", dump, WORD]):
        loud, quiet = invoke(capfdbinary, *arguments), invoke(capfdbinary, *arguments, "-q")
        assert quiet.err == ""
        assert loud.err
        assert quiet.out == loud.out != b""


# read


@pytest.mark.parametrize(
    ("address", "size"), [("0x20000", "16"), ("00000000`00020000", "0x10"), ("0x20ff0", "32"), ("0x60000", "12k")]
)
def test_read_raw(dump: Path, capfdbinary: Capture, address: str, size: str) -> None:
    """Read prints exactly the bytes asked for, across extents, into a pipe."""
    content = model(ROWS)
    start = int(address.replace("`", ""), 16)
    begin = max(at for at in content if at <= start)
    count = 12 * 1024 if size == "12k" else int(size, 0)
    expected = content[begin][start - begin :][:count]
    assert printed(invoke(capfdbinary, "read", dump, address, size)) == expected
    assert printed(invoke(capfdbinary, "read", "--raw", dump, address, size)) == expected


def test_read_hex(tmp_path: Path, capfdbinary: Capture) -> None:
    """--hex prints addresses that are multiples of sixteen, the bytes and what is text of them."""
    dump = write_dump(tmp_path, [(0x1000, b"Hello, \x1b[31mworld" + bytes(PAGE - 17))])
    ran = invoke(capfdbinary, "read", "--hex", dump, "0x1003", "18")
    assert printed(ran).decode().splitlines() == [
        f"0000000000001000  {' ' * 9}6c 6f 2c 20 1b  5b 33 31 6d 77 6f 72 6c  |   lo, .[31mworl|",
        f"0000000000001010  64 00 00 00 00{' ' * 9}  {' ' * 23}  |d....{' ' * 11}|",
    ]


def test_read_nothing(dump: Path, capfdbinary: Capture) -> None:
    """Reading no bytes prints none and is no error."""
    assert printed(invoke(capfdbinary, "read", dump, "0x20000", "0")) == b""


@pytest.mark.parametrize(
    ("address", "size", "first"),
    [
        ("0x20000", "8193", "0x22000"),
        ("0x1ffff", "2", "0x1ffff"),
        ("0x0", "1", "0x0"),
        ("0x30000", "1", "0x30000"),
        ("0xfffff80000000fff", "2", "0xfffff80000001000"),
        ("0xffffffffffffffff", "1", "0xffffffffffffffff"),
        ("0xffffffffffffffff", "2", "0xffffffffffffffff"),
        ("0x20000", "99999999999999999999", "0x22000"),
    ],
)
def test_read_what_is_not_there(dump: Path, capfdbinary: Capture, address: str, size: str, first: str) -> None:
    """Reading beyond what is there prints nothing but the first missing address."""
    one_line(invoke(capfdbinary, "read", dump, address, size), 1, f"{first}: not in the map")


def test_read_reasons(tmp_path: Path, capfdbinary: Capture) -> None:
    """The message tells apart what was never in the map, what was not written, and what was cut off."""
    dump = write_dump(tmp_path, [(0x1000, noise(1)), (0x2000, PAGE), (0x3000, noise(2))])
    assert "mapped but missing" in invoke(capfdbinary, "read", dump, "0x1ff0", "32").err
    dump = write_dump(tmp_path, [(0x1000, noise(1)), (0x3000, noise(2))])
    os.truncate(dump, PAGE + 8)
    one_line(invoke(capfdbinary, "read", dump, "0x3000", "16"), 1, "0x3008", "ends too early")


def test_read_at_the_very_end(tmp_path: Path, capfdbinary: Capture) -> None:
    """The last byte of the address space can be read."""
    dump = write_dump(tmp_path, [(0xFFFFFFFFF000, noise(1))])
    assert printed(invoke(capfdbinary, "read", dump, "0xffffffffffffffff", "1")) == noise(1)[-1:]


def test_hexdump_at_the_very_end(tmp_path: Path, capfdbinary: Capture) -> None:
    """A hexdump ends with the address space."""
    dump = write_dump(tmp_path, [(0xFFFFFFFFF000, noise(1))])
    ran = invoke(capfdbinary, "read", "--hex", dump, "0xfffffffffffffff0", "16")
    assert ran.code == 0
    assert ran.out.startswith(b"fffffffffffffff0")
    assert ran.out.count(b"\n") == 1


# find


def test_find_text(dump: Path, capfdbinary: Capture) -> None:
    """Text is found in UTF-8 and in UTF-16LE, across extents, with segment and offset in the dump."""
    found = rows_of(invoke(capfdbinary, "find", dump, WORD, "--format", "jsonl"))
    assert [(int(row["address"], 16), int(row["segment"], 16), row["offset"], row["encoding"]) for row in found] == [
        (0x20000 + PAGE - 3, 0x20000, PAGE - 3, "utf-8"),
        (0x22000 - 10, 0x20000, 3 * PAGE - 10, "utf-16-le"),
    ]
    assert {row["pattern"] for row in found} == {WORD}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16-le", "latin-1"])
def test_find_encodings(tmp_path: Path, capfdbinary: Capture, encoding: str) -> None:
    """--encoding says how the text lies in memory."""
    dump = write_dump(tmp_path, [(0x1000, noise(1) + WORD.encode(encoding) + noise(2))])
    found = rows_of(invoke(capfdbinary, "find", dump, WORD, "--encoding", encoding, "--format", "jsonl"))
    assert [(row["address"], row["encoding"]) for row in found] == [("0x0000000000002000", encoding)]


def units(text: str, width: int) -> bytes:
    """Return a text of ASCII as little-endian numbers of `width` bytes."""
    return b"".join(bytes([ord(letter)]) + bytes(width - 1) for letter in text)


@pytest.mark.parametrize(
    ("encoding", "width", "shown"),
    [
        ("utf-16", 2, "utf-16-le"), ("UTF16", 2, "utf-16-le"), ("u16", 2, "utf-16-le"), ("utf_16", 2, "utf-16-le"),
        ("utf-32", 4, "utf-32-le"), ("UTF_32", 4, "utf-32-le"), ("utf-8-sig", 1, "utf-8"),
    ],
)  # fmt: skip
def test_find_without_marks(tmp_path: Path, capfdbinary: Capture, encoding: str, width: int, shown: str) -> None:
    """Encodings of files that begin with a byte-order mark find text without: little-endian, as the result says."""
    dump = write_dump(tmp_path, [(0x1000, noise(1) + b"x" * 7 + units("a plain word", width) + noise(2))])
    ran = invoke(
        capfdbinary, "find", dump, "a plain word", "--encoding", encoding, "--encoding", shown, "--format", "jsonl"
    )
    assert [(row["address"], row["encoding"]) for row in rows_of(ran)] == [("0x0000000000002007", shown)]


def test_find_bytes(tmp_path: Path, capfdbinary: Capture) -> None:
    """--hex finds bytes, overlapping ones too, however they are spelled."""
    dump = write_dump(tmp_path, [(0x1000, b"\xaa" * 4 + bytes(PAGE - 5) + b"\xaa")])
    for pattern in ("aaaa", "AA aa", "0xaaaa"):
        found = rows_of(invoke(capfdbinary, "find", dump, "--hex", pattern, "--format", "jsonl"))
        assert [int(row["address"], 16) for row in found] == [0x1000, 0x1001, 0x1002]
    found = rows_of(invoke(capfdbinary, "find", dump, "--hex", "00aa", "--format", "jsonl"))
    assert [int(row["address"], 16) for row in found] == [0x1FFE]


def test_find_several(dump: Path, capfdbinary: Capture) -> None:
    """Several patterns are searched for at once; hits are in the order of addresses and name their pattern."""
    first, second = noise(2)[:6].hex(), noise(4)[100:106].hex()
    ran = invoke(capfdbinary, "find", dump, "--hex", second, first, "--format", "jsonl")
    assert [(row["address"], row["pattern"]) for row in rows_of(ran)] == [
        ("0x0000000000040000", first),
        ("0x0000000000060064", second),
    ]


def test_find_filters(dump: Path, capfdbinary: Capture) -> None:
    """The filters limit where is searched."""
    found = rows_of(invoke(capfdbinary, "find", dump, "--hex", "00" * 8, "--range", "user", "--format", "jsonl"))
    assert found == []
    ran = invoke(
        capfdbinary, "find", dump, "--hex", "00" * PAGE, "--address", "0xfffff80000000000", "--format", "jsonl"
    )
    assert [row["offset"] for row in rows_of(ran)] == [6 * PAGE]


def test_find_everything_in_the_example(capfdbinary: Capture) -> None:
    """In the example every hit of a customary line is where it lies in the dump, as often as it lies there."""
    data, line = EXAMPLE.read_bytes(), "This program cannot be run in DOS mode"
    found = rows_of(invoke(capfdbinary, "find", EXAMPLE, line, "--encoding", "utf-8", "--format", "jsonl"))
    places = [match.start() for match in re.finditer(re.escape(line.encode()), data)]
    assert sorted(row["offset"] for row in found) == places != []


def test_find_nothing(dump: Path, capfdbinary: Capture) -> None:
    """Finding nothing is no failure: the exit status is 0, and the number of hits is told."""
    ran = invoke(capfdbinary, "find", dump, "no such text")
    assert ran.code == 0
    assert "0 hits" in ran.err


def test_find_without_dump(dump: Path, capfdbinary: Capture) -> None:
    """Searching needs the dump; without it the message names --dump."""
    dump.unlink()
    one_line(invoke(capfdbinary, "find", dump.with_suffix(".map"), "x", "--format", "jsonl"), 1, "--dump")


# locate


def test_locate_both_ways(dump: Path, capfdbinary: Capture) -> None:
    """Locate tells an address's place in the dump and, with +, the address of a place, in any notation."""
    for place in ("0x21005", "21005h", "00000000`00021005", f"+0x{2 * PAGE + 5:x}", f"+{2 * PAGE + 5}"):
        (found,) = rows_of(invoke(capfdbinary, "locate", dump, place, "--format", "jsonl"))
        assert (int(found["address"], 16), found["offset"]) == (0x21005, 2 * PAGE + 5)
        assert (int(found["segment"], 16), int(found["segment_end"], 16)) == (0x20000, 0x22000)
        assert (int(found["extent"], 16), int(found["extent_end"], 16)) == (0x21000, 0x22000)
        assert found["extent_offset"] == 2 * PAGE


def test_locate_offset_zero_and_address_zero(tmp_path: Path, capfdbinary: Capture) -> None:
    """Address 0 and offset 0 are places like any other."""
    dump = write_dump(tmp_path, [(0, noise(1)), (0x5000, noise(2))])
    for place in ("0", "0x0", "+0", "+0x0"):
        (found,) = rows_of(invoke(capfdbinary, "locate", dump, place, "--format", "jsonl"))
        assert (found["address"], found["offset"]) == ("0x0000000000000000", 0)


@pytest.mark.parametrize(
    "place", ["0x30000", "0xffffffffffffffff", "+0x7000", "+0xffffffffffffffff", "+99999999999999999999"]
)
def test_locate_what_is_not_there(dump: Path, capfdbinary: Capture, place: str) -> None:
    """An address that is not there, or an offset beyond the dump, fails with 1."""
    one_line(invoke(capfdbinary, "locate", dump, place), 1)


def test_locate_between_filtered_rows(tmp_path: Path, capfdbinary: Capture) -> None:
    """A byte of the dump that no row of the map names has no address."""
    dump = write_dump(tmp_path, [(0x1000, noise(1)), (0x5000, noise(2))])
    with dump.open("ab") as file:
        file.write(noise(3))
    one_line(invoke(capfdbinary, "locate", dump, f"+{2 * PAGE}"), 1, "no address is known")


@pytest.mark.parametrize("chosen", [("--all",), ("--pid", "4", "--pid", "8"), ("--pid", "4")], ids=" ".join)
def test_what_was_not_written_is_told_of_each_process(
    tmp_path: Path, capfdbinary: Capture, chosen: tuple[str, ...]
) -> None:
    """However processes are chosen, a note says of how many bytes the dump does not have, and the status is 3."""
    table = write_several(tmp_path, {4: [(0x10000, noise(1)), (0x20000, PAGE)], 8: [(0x30000, noise(2))]})
    ran = invoke(capfdbinary, "carve", table, *chosen, "-o", tmp_path / "out")
    assert ran.code == 3
    assert "4096 bytes were not written to the dump" in ran.err


def test_debug_info(capfdbinary: Capture) -> None:
    """The versions of memcarve, Python and every package that memcarve and its extras need are printed, and no path."""
    ran = invoke(capfdbinary, "debug-info")
    facts = dict(line.split(": ", 1) for line in ran.out.decode().splitlines())
    assert ran.code == 0
    assert facts["memcarve"] == __version__
    assert facts["python"].startswith(f"{platform.python_implementation()} {platform.python_version()}")
    assert facts["numpy"] == metadata.version("numpy")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = (texts for name, texts in project["optional-dependencies"].items() if name not in {"dev", "docs"})
    texts = itertools.chain(project["dependencies"], *extras)
    needed = {re.split(r"[^\w.-]", text)[0] for text in texts}
    assert needed <= facts.keys()
    assert os.getcwd() not in ran.out.decode()


def test_page_counts_of_a_dump(capfdbinary: Capture) -> None:
    """A dump has no page tables, so --pages adds nothing to its process, and nothing is amiss."""
    ran = invoke(capfdbinary, "processes", EXAMPLE, "--pages", "--format", "csv", "-q")
    assert (ran.code, ran.out, ran.err) == (0, b"pid,name\n1624,\n", "")


# completion, pipes, colours


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["carv", "x"], "'carv' is not a command; did you mean carve? see memcarve --help"),
        (["nonsense"], "'nonsense' is not a command; see memcarve --help"),
        (["-q", "carve", "x"], "-q is not an option of memcarve itself; those of a command stand after its name;"),
        (["carve", "--skip-zeros", "x"], "--skip-zeros is not an option; did you mean --skip-zero?"),
        (["carve", "-z", "x"], "-z is not an option; see memcarve carve --help"),
        (["carve", "--quiet=yes", "x"], "--quiet takes no value; leave out what follows the =; see memcarve carve"),
        (["carve", "x", "-o"], "-o has no value; it takes DIR; see memcarve carve --help"),
        (["segments", "x", "--range"], "--range has no value; it takes one of user, kernel, all; see memcarve seg"),
        (["carve"], "FILE is missing; see memcarve carve --help"),
        (["find", "x"], "PATTERN... is missing; or give --patterns, --pointer or --integer; see memcarve find --help"),
        (
            ["export", "x"],
            "--to is missing; it takes one of minidump, elfcore, flat, scripts, memmap; see memcarve exp",
        ),
        (["carve", "a", "b c"], "unexpected 'b c'; memcarve carve takes FILE; a name that holds spaces needs quotes;"),
        (["debug-info", "x"], "unexpected 'x'; memcarve debug-info takes no arguments; see memcarve debug-info --help"),
    ],
)
def test_wrong_usage_is_worded(capfdbinary: Capture, arguments: list[str], said: str) -> None:
    """What the parser of options finds wrong is told like everything else: what was found, and what to do."""
    ran = invoke(capfdbinary, *arguments)
    one_line(ran, 2)
    assert ran.err.startswith(f"memcarve: {said}")


def test_a_file_in_the_place_of_a_command(capfdbinary: Capture) -> None:
    """If the first word is a file, the command that was probably meant is named."""
    ran = invoke(capfdbinary, EXAMPLE)
    one_line(ran, 2, f"{str(EXAMPLE)!r} is not a command; did you mean carve {EXAMPLE}?")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(capfdbinary: Capture, shell: str) -> None:
    """Completion prints a script for the shell, and the shell finds nothing wrong with it."""
    ran = invoke(capfdbinary, "completion", shell)
    assert (ran.code, ran.err) == (0, "")
    assert b"_MEMCARVE_COMPLETE" in ran.out
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"{shell} is not installed: its script was not checked for syntax")
    checked = subprocess.run([program, "-n"], input=ran.out, capture_output=True, check=False)
    assert (checked.returncode, checked.stderr) == (0, b"")


def test_completion_completes() -> None:
    """What the script asks the program for is answered with commands and options."""
    env = {"_MEMCARVE_COMPLETE": "bash_complete", "COMP_WORDS": "memcarve se", "COMP_CWORD": "1"}
    assert b"segments" in run(env=env).out
    env = {"_MEMCARVE_COMPLETE": "bash_complete", "COMP_WORDS": "memcarve carve --sk", "COMP_CWORD": "2"}
    assert b"--skip-zero" in run(env=env).out
    for option, word in (("--flag", b"wiped-header"), ("--kind", b"TEB")):
        env = {"_MEMCARVE_COMPLETE": "bash_complete", "COMP_WORDS": f"memcarve carve {option} ", "COMP_CWORD": "3"}
        assert word in run(env=env).out


@pytest.mark.parametrize("arguments", [["segments"], ["segments", "--format", "json"], ["find", "--hex", "00"]])
def test_broken_pipe(arguments: list[str]) -> None:
    """A reader that goes away ends the command in silence, and not with success."""
    words = command(arguments[0], *arguments[1:-1], EXAMPLE, arguments[-1]) if "find" in arguments else command(
        arguments[0], EXAMPLE, *arguments[1:]
    )  # fmt: skip
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL) as process:
        assert process.stdout
        assert process.stderr
        process.stdout.close()
        error = process.stderr.read().decode()
        process.wait(60)
    assert error == ""
    assert process.returncode not in {0, 3}


def test_full_standard_output() -> None:
    """A standard output that cannot be written to is an error of one line."""
    if not os.path.exists("/dev/full"):
        pytest.skip("/dev/full: there is no such device")
    with open("/dev/full", "wb") as full:
        found = subprocess.run(
            command("segments", "-q", EXAMPLE), stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert found.returncode == 1
    assert "Traceback" not in found.stderr
    assert "No space left" in found.stderr
    assert found.stderr.count("\n") == 1


@pytest.mark.parametrize("env", [{}, {"NO_COLOR": "1"}, {"FORCE_COLOR": "1"}, {"TERM": "dumb"}])
def test_no_colours_in_pipes(tmp_path: Path, env: dict[str, str]) -> None:
    """Into pipes and files nothing but plain text is written, whatever the environment asks for."""
    ran = run("carve", EXAMPLE, "-o", tmp_path / "out", env=env)
    assert ran.code == 0
    assert "\x1b" not in ran.err
    ran = run("carve", "--nonsense", env=env)
    assert "\x1b" not in ran.err


def test_no_colour_at_a_terminal(tmp_path: Path) -> None:
    """With NO_COLOR nothing is coloured at a terminal, not even the progress bar."""
    pty = pytest.importorskip("pty", reason="pseudo terminals are for Unix")
    script = "import memcarve.cli.progress_bar as p; p._PATIENCE = -1.0"
    main, secondary = pty.openpty()
    with subprocess.Popen(
        command("carve", EXAMPLE, "-o", tmp_path / "out", before=script),
        stdin=subprocess.DEVNULL,
        stdout=secondary,
        stderr=secondary,
        env={**os.environ, "NO_COLOR": "1", "TERM": "xterm-256color"},
    ) as process:
        os.close(secondary)
        seen = b""
        try:
            while data := os.read(main, 65536):
                seen += data
        except OSError:  # how a terminal ends on Linux
            pass
        os.close(main)
    assert process.returncode == 0
    assert b"carving" in seen
    assert not re.search(rb"\x1b\[[\d;]*[34]\d(;\d+)*m", seen)


def test_hexdump_at_a_terminal() -> None:
    """At a terminal read prints a hexdump."""
    pty = pytest.importorskip("pty", reason="pseudo terminals are for Unix")
    main, secondary = pty.openpty()
    with subprocess.Popen(
        command("read", EXAMPLE, "0x7ffe0000", "16"), stdin=subprocess.DEVNULL, stdout=secondary, stderr=secondary
    ) as process:
        process.wait(60)
        os.close(secondary)
    seen = os.read(main, 65536)
    os.close(main)
    assert re.search(rb"(?m)^000000007ffe0000  ", seen)


# without pyarrow


@pytest.mark.parametrize("what", ["write", "read"])
def test_without_pyarrow(tmp_path: Path, what: str) -> None:
    """Without pyarrow, Parquet is an error of one line that says how to install it."""
    block = "import sys; sys.modules['pyarrow'] = None"
    if what == "write":
        ran = run("segments", "-q", EXAMPLE, "--format", "parquet", before=block)
    else:
        (tmp_path / "pid.4.parquet").write_bytes(b"PAR1" + bytes(100) + b"PAR1")
        ran = run("segments", tmp_path / "pid.4.parquet", before=block)
    one_line(ran, 1, "pip install 'memcarve[arrow]'")


def test_without_blake3(tmp_path: Path) -> None:
    """Without its package, BLAKE3 is an error of one line that says how to install it, and nothing is written."""
    block = "import sys; sys.modules['blake3'] = None"
    ran = run("carve", "-q", EXAMPLE, "--hash", "blake3", "-o", tmp_path / "o", before=block)
    one_line(ran, 1, "pip install 'memcarve[blake3]'")
    assert listing(tmp_path) == []


# hostile names

NAMES = ["\x1b]0;owned\x07", "a\nb", "\u202edmp.exe", "-rf", "--force", "%s{0}", "\x9b31m", "' ; id", "\udcff\udcfe"]


def hostile(tmp_path: Path, name: str) -> Path:
    """Return a folder of such a name with a dump in it."""
    folder = tmp_path / name
    folder.mkdir()
    return write_dump(folder, ROWS)


def harmless(ran: Ran) -> None:
    """Hold that nothing a run printed can do harm at a terminal."""
    text = ran.out.decode("utf-8", "surrogateescape") + ran.err
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", text.replace("\r\n", "\n"))


@pytest.mark.parametrize("name", NAMES)
def test_hostile_paths(tmp_path: Path, capfdbinary: Capture, name: str) -> None:
    """Whatever the folder of the input and the output are called, memcarve works and prints no escape sequence."""
    dump = hostile(tmp_path, name)
    out = tmp_path / f"{name}.out"
    ran = invoke(capfdbinary, "carve", "-v", dump, "-o", out)
    assert ran.code == 0
    harmless(ran)
    assert binaries(out) == named(model(ROWS))
    for arguments in (
        ["verify", out],
        ["verify", out, "--source", dump],
        ["segments", "-v", dump],
        ["carve", dump, "-o", out],
    ):
        harmless(invoke(capfdbinary, *arguments))
    dump.unlink()
    for arguments in (["carve", dump], ["read", dump, "0x0", "1"], ["verify", dump]):
        ran = invoke(capfdbinary, *arguments)
        one_line(ran, 1)
        harmless(ran)
    assert sorted(os.listdir(tmp_path)) == sorted([name, f"{name}.out"])


@pytest.mark.parametrize(
    "arguments",
    [
        ["\x1b]0;x\x07"],
        ["--\x1b]0;x\x07"],
        ["-\x1b"],
        ["carve", "--\x1b[31m"],
        ["carve", "\x1b[31m", "\x1b[32m"],
        ["carve", "--range", "\x1b[31m", "x"],
        ["carve", "--pid", "\x1b[31m", "x"],
        ["carve", "--hash", "\x1b[31m", "x"],
        ["segments", "--address", "\x1b[31m", "x"],
        ["segments", "--min-size", "\x1b[31m", "x"],
        ["segments", "--format", "\x1b[31m", "x"],
        ["segments", "--force=\x1b[31m", "x"],
        ["find", EXAMPLE, "--encoding", "\x1b[31m", "x"],
        ["find", EXAMPLE, "--hex", "\x1b[31m"],
        ["locate", EXAMPLE, "\x1b[31m"],
        ["read", EXAMPLE, "\x1b[31m", "1"],
        ["completion", "\x1b[31m"],
    ],
    ids=repr,
)
def test_hostile_arguments(capfdbinary: Capture, arguments: list[str | Path]) -> None:
    """No escape sequence in an argument, which a pattern of the shell may have made of a file's name, is printed."""
    ran = invoke(capfdbinary, *arguments)
    assert ran.code in {1, 2}
    harmless(ran)


@pytest.mark.parametrize(
    "name", ["\x1b]0;owned\x07", "../../../x", "/etc/passwd", "x" * 3000, "a\tb", "pid.4.dmp\x1b[2J"]
)
def test_hostile_names_in_the_map(tmp_path: Path, capfdbinary: Capture, name: str) -> None:
    """Whatever the map's rows say the dump is called, nothing outside of the target is written or read."""
    (tmp_path / "in").mkdir()
    table = tmp_path / "in" / "rows.map"
    table.write_text(HEADER + map_rows(ROWS, name) + map_rows(ROWS, "pid.5.dmp"))
    (tmp_path / "in" / "pid.5.dmp").write_bytes(dump_bytes(ROWS))
    for arguments in (["--all"], [], ["--pid", "5"], ["--name", "*"]):
        harmless(invoke(capfdbinary, "carve", table, *arguments, "-o", tmp_path / "in" / "out", "--force"))
    assert listing(tmp_path) == ["in"]
    assert set(listing(tmp_path / "in")) <= {"out", "pid.5.dmp", "rows.map"}


@pytest.mark.parametrize("name", ["\x1b]0;owned\x07", "../../../x", "a b pid: 7", "", ".", "=cmd()", "\u202egpj"])
def test_hostile_process_names(tmp_path: Path, capfdbinary: Capture, name: str) -> None:
    """Names of processes in a map of Volatility 2 do no harm: not in messages, not as folders."""
    head = "Virtual            Physical                         Size     DumpFileOffset\n"
    head += "------------------ ------------------ ------------------ ------------------\n"
    row = "0x0000000000010000 0x0000000000001000             0x1000                0x0\n"
    table = tmp_path / "in.txt"
    table.write_text(f"{name} pid: {4:>6}\n{head}{row}{'*' * 72}\nSystem pid: {8:>6}\n{head}{row}")
    for pid in (4, 8):
        (tmp_path / f"{pid}.dmp").write_bytes(noise(pid))
    harmless(invoke(capfdbinary, "carve", table, "-o", tmp_path / "no"))
    harmless(invoke(capfdbinary, "carve", table, "-o", tmp_path / "no", "--pid", "9"))
    harmless(invoke(capfdbinary, "carve", table, "-o", tmp_path / "no", "--name", name or "?"))
    ran = invoke(capfdbinary, "carve", table, "--all", "-v", "-o", tmp_path / "out")
    harmless(ran)
    assert ran.code == 0, ran.err
    assert set(listing(tmp_path)) <= {"4.dmp", "8.dmp", "in.txt", "no", "out"}
    assert len(listing(tmp_path / "out")) == 2 + 2


@pytest.mark.parametrize("text", ["=1+1", "\x1b[31m", "a,b", 'a"b', "+x"])
def test_patterns_do_no_harm(tmp_path: Path, capfdbinary: Capture, text: str) -> None:
    """A pattern that is a formula or an escape sequence is data in CSV, in a table and in JSON."""
    dump = write_dump(tmp_path, [(0x1000, text.encode() + bytes(100))])
    for layout in ("table", "csv", "json", "jsonl"):
        ran = invoke(capfdbinary, "find", dump, text, "--format", layout, "--encoding", "utf-8")
        assert ran.code == 0
        harmless(ran)
        if layout == "csv":
            (row,) = csv.DictReader(io.StringIO(ran.out.decode()))
            assert not row["pattern"].startswith(("=", "+", "-", "@"))
        if layout == "jsonl":
            assert json.loads(ran.out)["pattern"] == text


# wrong files of all sorts


def wrong_file(tmp_path: Path, kind: str) -> Path:
    """Return a file that is neither a dump with its map nor a map."""
    path = tmp_path / "pid.9.dmp"
    contents = {
        "empty": b"",
        "binary": bytes(range(256)) * 100,
        "zeros": bytes(100_000),
        "text": b"Hello,\nworld.\n",
        "a line of 10 MB": b"x" * 10_000_000,
        "JSON": b'{"a": 1}',
        "gzip alone": b"\x1f\x8b",
        "zstd alone": b"\x28\xb5\x2f\xfd",
        "xz alone": b"\xfd7zXZ\x00",
        "header alone": HEADER.encode(),
        "PNG": b"\x89PNG\r\n\x1a\n" + bytes(100),
        "ELF": b"\x7fELF\x02\x01\x01" + bytes(100),
        "parquet": b"PAR1" + bytes(100) + b"PAR1",
        "arrow": b"ARROW1\0\0" + bytes(100),
        "utf-16 mark": b"\xff\xfe",
    }
    if kind in contents:
        path.write_bytes(contents[kind])
    elif kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "dangling link":
        path.symlink_to(tmp_path / "nowhere")
    elif kind == "link to itself":
        path.symlink_to(path)
    elif kind == "/dev/zero":
        path = path.parent / kind
    return path


KINDS = [
    "empty", "binary", "zeros", "text", "a line of 10 MB", "JSON", "gzip alone", "zstd alone", "xz alone",
    "header alone", "PNG", "ELF", "parquet", "arrow", "utf-16 mark", "folder", "pipe", "dangling link",
    "link to itself", "/dev/zero", "nothing",
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_wrong_files(tmp_path: Path, capfdbinary: Capture, kind: str) -> None:
    """What is neither a dump with its map nor a map is refused in one line that begins with the file."""
    path = wrong_file(tmp_path, kind)
    for arguments in (["carve", path, "-o", tmp_path / "out"], ["segments", path], ["read", path, "0x0", "1"]):
        ran = invoke(capfdbinary, *arguments)
        one_line(ran, 1, f"memcarve: {path}")
    assert "out" not in listing(tmp_path)


@pytest.mark.parametrize("kind", KINDS)
def test_wrong_maps(tmp_path: Path, capfdbinary: Capture, kind: str, dump: Path) -> None:
    """What is no map is refused as --map in one line that names it."""
    path = wrong_file(tmp_path, kind)
    ran = invoke(capfdbinary, "carve", dump, "--map", path, "-o", tmp_path / "out")
    one_line(ran, 1, path)
    assert "out" not in listing(tmp_path)


@pytest.mark.parametrize("kind", ["folder", "pipe", "dangling link", "link to itself", "/dev/zero", "nothing"])
def test_wrong_dumps(tmp_path: Path, capfdbinary: Capture, kind: str, dump: Path) -> None:
    """What can be no dump is refused as --dump in one line that names it."""
    path = wrong_file(tmp_path, kind)
    ran = invoke(capfdbinary, "carve", dump.with_suffix(".map"), "--dump", path, "-o", tmp_path / "out")
    one_line(ran, 1, path)
    assert "out" not in listing(tmp_path)


@pytest.mark.parametrize("file", ["FILE", "beside", "--map", "--regions", "-o"])
def test_unreadable_files(
    tmp_path: Path, capfdbinary: Capture, monkeypatch: pytest.MonkeyPatch, dump: Path, file: str
) -> None:
    """A file that the user may not read is refused in one line that names it and says why."""
    assert invoke(capfdbinary, "carve", dump, "-o", tmp_path / "whole", "-q").code == 0  # and imports what it needs
    path = {"FILE": dump, "beside": dump.with_suffix(".map")}.get(file, tmp_path / "other")
    path.touch()
    path.chmod(0)
    tmp_path.chmod(0o777)
    monkeypatch.chdir(tmp_path)
    before = listing(tmp_path)
    given = [] if file in {"FILE", "beside"} else [file, "other"]
    everybody = os.geteuid()
    if not everybody:
        os.setresuid(65534, 65534, 0)  # the real one, too, which access() goes by
    try:
        ran = invoke(capfdbinary, "carve", "pid.4.dmp", *(["-o", "out"] if file != "-o" else []), *given, "-q")
    finally:
        os.setresuid(everybody, everybody, everybody)
    one_line(ran, 1, path.name, "cannot be written" if file == "-o" else "cannot be opened", "Permission denied")
    assert listing(tmp_path) == before


@pytest.mark.parametrize("text", ["x", "0", "-1", "1.5", ""])
def test_numbers_that_are_none(capfdbinary: Capture, text: str) -> None:
    """What is not a number of rows is refused in words like those of every other option."""
    ran = invoke(capfdbinary, "segments", "pid.4.dmp", "--limit-rows", text)
    one_line(ran, 2, f"--limit-rows: {text!r} is not a number of at least 1; write it in decimal; see memcarve")


def test_unwritable_target(tmp_path: Path, capfdbinary: Capture, monkeypatch: pytest.MonkeyPatch, dump: Path) -> None:
    """A folder that the user may not write to is refused in one line that names it and says why."""
    assert invoke(capfdbinary, "carve", dump, "-o", tmp_path / "whole", "-q").code == 0  # and imports what it needs
    (tmp_path / "target").mkdir(mode=0o555)
    tmp_path.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    everybody = os.geteuid()
    if not everybody:
        os.seteuid(65534)
    try:
        ran = invoke(capfdbinary, "carve", "-q", dump.name, "-o", "target/out")
    finally:
        os.seteuid(everybody)
    one_line(ran, 1, "target", "Permission denied")


def test_several_and_one_command(tmp_path: Path, capfdbinary: Capture) -> None:
    """Commands that take one process list the processes where several are there, and take --pid."""
    table = write_several(tmp_path, {4: ROWS, 88: ROWS[:2]})
    for arguments in (
        ["segments", table],
        ["read", table, "0x20000", "4"],
        ["find", table, "x"],
        ["locate", table, "+0"],
    ):
        one_line(invoke(capfdbinary, *arguments), 2, "4", "88", "--pid")
    assert printed(invoke(capfdbinary, "read", table, "0x20000", "4", "--pid", "88")) == noise(1)[:4]
