"""--input-type: only what was said is tried, on every command and in the library; and words that there are not."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import pytest

import containers
import memcarve
from carved import manifest
from cli import invoke
from contracts import MAKERS, PAGE, PIECES, Given
from cores import Load, core, info, status
from dumps import write_dump
from files import EXAMPLE, put
from memcarve.images.paging_modes import MODES
from memcarve.process import Selection
from memcarve.vocabulary import Flag, InputType, Kind, Paging, Split
from memory import content

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    Capture = pytest.CaptureFixture[bytes]

RIGHT = {
    "dump": "dump",
    "image": "image",
    "LiME image": "image",
    "carved folder": "folder",
    "named folder": "folder",
    "core": "core",
    "minidump": "minidump",
    "live": "proc",
}
#: what the complaint of each type is about, of an input of another
COMPLAINT = {
    "image": ".",
    "dump": ".",
    "map": ".",
    "core": "ELF core",
    "minidump": "minidump",
    "folder": "is not a folder",
    "proc": "below /proc",
}
COMMANDS: dict[str, list[str]] = {
    "processes": [],
    "segments": [],
    "regions": [],
    "read": ["0x10000", "1", "--raw"],
    "find": ["nothing"],
    "locate": ["0x10000"],
    "carve": ["-o", "{out}"],
    "export": ["--to", "elfcore", "-o", "{out}"],
    "extract": ["-o", "{out}"],
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, Given]]:
    """Return an input of each kind."""
    with contextlib.ExitStack() as stack:
        yield {
            name: stack.enter_context(make(tmp_path_factory.mktemp("input")))
            for name, make in MAKERS.items()
            if name != "live"
        }


@pytest.mark.parametrize("name", [name for name in RIGHT if name != "live"])
def test_said_as_it_is(inputs: Mapping[str, Given], name: str) -> None:
    """An input that is said to be what it is opens as without that, and what was said is recorded, but of folders."""
    given = inputs[name]
    with memcarve.open(given.path) as plain, memcarve.open(given.path, input_type=RIGHT[name]) as said:
        assert type(plain) is type(said)
        process = said.process(given.pid)
        start, data = next(iter(given.memory.items()))
        assert process.space.read(start, len(data)) == data
        recorded = [each.get("input_type") for each in process.inputs.values()]
        assert recorded.count(RIGHT[name]) == (RIGHT[name] != "folder")


def test_a_running_process(tmp_path: Path) -> None:
    """A running process opens as one, and as nothing else."""
    with MAKERS["live"](tmp_path) as given:
        with memcarve.open(given.path, input_type="proc") as container:
            assert container.process().pid == given.pid
        for word in ("image", "dump", "map", "core", "minidump"):
            with pytest.raises(memcarve.InputError, match=r"folder|directory|opened"):
                memcarve.open(given.path, input_type=word)


def test_a_map(tmp_path: Path) -> None:
    """A map opens as one, with its dump beside it or named; a dump is none."""
    dump = write_dump(tmp_path, [*PIECES], 4)
    table = dump.with_suffix(".map")
    for options in ({}, {"dump": dump}, {"memory_map": table}):
        with memcarve.open(table, input_type="map", **options) as container:  # type: ignore[arg-type]
            assert container.process().space.total == sum(len(data) for _, data in PIECES)
    with pytest.raises(memcarve.NotRecognisedError, match="not a memory map"):
        memcarve.open(dump, input_type="map")


def test_a_dump(tmp_path: Path) -> None:
    """A dump opens as one, with its map beside it or named, whatever it looks like: as a map, or an image."""
    table = write_dump(tmp_path, [*PIECES], 4).with_suffix(".map")
    dump = tmp_path / "pid.4.dmp"
    for options in ({}, {"memory_map": table}, {"dump": dump}):
        with memcarve.open(dump, input_type="dump", **options) as container:  # type: ignore[arg-type]
            assert container.process().pid == 4
    with pytest.raises(memcarve.CounterpartError, match="no map is beside"):
        memcarve.open(table, input_type="dump")
    with pytest.raises(memcarve.SourceReadError):
        memcarve.open(tmp_path / "nothing", input_type="dump")
    # a process whose lowest page begins like an image does
    page = b"EMiL\1\0\0\0" + bytes(8) + b"\xff\x0f".ljust(16, b"\0")
    odd = write_dump(tmp_path, [(0x10000, page.ljust(PAGE, b"\0"))], 5)
    with memcarve.open(odd, input_type="dump") as container:
        assert container.process().space.read(0x10000, 4) == b"EMiL"


@pytest.mark.parametrize("name", [name for name in RIGHT if name != "live"])
@pytest.mark.parametrize("word", InputType)
def test_said_as_it_is_not(inputs: Mapping[str, Given], name: str, word: str) -> None:
    """An input that is said to be another kind is refused by the complaint of that kind, or holds nothing of it."""
    if word == RIGHT[name] or (name, word) == ("dump", "image"):
        return
    path = inputs[name].path
    with (
        pytest.raises(memcarve.InputError, match=COMPLAINT[word]) as caught,
        memcarve.open(path, input_type=word) as container,
    ):
        container.process()
    assert str(caught.value).startswith(f"{path}: ")


def test_whatever_as_an_image(tmp_path: Path) -> None:
    """Any file is an image where somebody says so: then no system is found in it, but --scan and --dtb work."""
    path = put(tmp_path / "notes.txt", b"nothing of interest\n" * 1000)
    with memcarve.open(path, input_type="image") as container:
        with pytest.raises(memcarve.ProcessError, match="no 64-bit Windows and no Linux was found"):
            container.processes()
        assert container.roots() == []
    with memcarve.open(path, input_type="image", dtb=0, system="none") as container:
        assert container.processes()[0].root == 0


@pytest.mark.parametrize("command", COMMANDS)
def test_commands(tmp_path: Path, capfdbinary: Capture, command: str) -> None:
    """Every command that takes an input takes --input-type."""
    notes = info(7, b"a") + status(7, range(27))
    path = put(tmp_path / "core", core([Load(0x10000, content(0x10000, PAGE))], notes))
    words = [word.format(out=tmp_path / "out") for word in COMMANDS[command]]
    assert invoke(capfdbinary, command, path, *words, "--input-type", "core").code == 0
    for wrong in ("minidump", "folder", "proc", "map", "dump"):
        ran = invoke(capfdbinary, command, path, *words, "--input-type", wrong)
        assert (ran.code, ran.out) == (1, b"")
        assert ran.err.startswith(f"memcarve: {path}: ")
    ran = invoke(capfdbinary, command, path, *words, "--input-type", "picture")
    assert ran.code == 2
    assert all(word in ran.err for word in InputType)


def test_verify(tmp_path: Path, capfdbinary: Capture) -> None:
    """The source of verify is opened as the folder says that it was, unless something else is said; or as is said."""
    path = put(tmp_path / "core", core([Load(0x40000000, content(0x40000000, PAGE), flags=0)], physical=[0x40000000]))
    folder = tmp_path / "carved"
    assert invoke(capfdbinary, "carve", path, "-o", folder).code == 1  # taken for a machine's
    assert invoke(capfdbinary, "carve", path, "--input-type", "core", "-o", folder).code == 0
    assert manifest(folder)["inputs"]["dump"]["input_type"] == "core"
    assert invoke(capfdbinary, "verify", folder, "--source", path).code == 0
    assert invoke(capfdbinary, "verify", folder, "--source", path, "--input-type", "core").code == 0
    assert invoke(capfdbinary, "verify", folder, "--source", path, "--input-type", "minidump").code == 1
    assert invoke(capfdbinary, "verify", folder, "--input-type", "core").code == 2


def test_diff(tmp_path: Path, capfdbinary: Capture) -> None:
    """Of diff --input-type is about both sides, --other-input-type about the second."""
    path = put(tmp_path / "core", core([Load(0x40000000, content(0x40000000, PAGE), flags=0)], physical=[0x40000000]))
    folder = tmp_path / "carved"
    assert invoke(capfdbinary, "carve", path, "--input-type", "core", "-o", folder).code == 0
    assert invoke(capfdbinary, "diff", path, path).code == 1
    assert invoke(capfdbinary, "diff", path, path, "--input-type", "core").code == 0
    assert invoke(capfdbinary, "diff", folder, path).code == 1
    assert invoke(capfdbinary, "diff", folder, path, "--other-input-type", "core").code == 0
    assert invoke(capfdbinary, "diff", path, folder, "--input-type", "core", "--other-input-type", "folder").code == 0
    assert invoke(capfdbinary, "diff", path, folder, "--input-type", "core").code == 1


@pytest.mark.parametrize(
    ("word", "options"),
    [
        *((word, {"dtb": 0}) for word in InputType if word != "image"),
        *((word, {"system": "linux"}) for word in InputType if word != "image"),
        *((word, {"limit": 1}) for word in InputType if word != "image"),
        *((word, {"trust": "sum"}) for word in InputType if word not in {"dump", "map"}),
        *((word, {"memory_map": "x"}) for word in InputType if word != "dump"),
        *((word, {"dump": "x"}) for word in InputType if word != "map"),
    ],
)
def test_contradictions(tmp_path: Path, word: str, options: dict[str, Any]) -> None:
    """What is said of the input besides must be about inputs of that type: else the call contradicts itself."""
    with pytest.raises(memcarve.UsageError, match=r"was said to be .*; leave .* out") as caught:
        memcarve.open(tmp_path / "nothing", input_type=word, **options)
    assert str(caught.value).startswith(f"{tmp_path / 'nothing'}: ")


@pytest.mark.parametrize("data", [b"", b"\0" * 5000, b"some text\n", b"\x80" * (1 << 20)])
def test_errors_say_it(tmp_path: Path, data: bytes) -> None:
    """Where nothing is recognised, or the map of what may be a dump is not found, the error names --input-type."""
    with pytest.raises(memcarve.InputError, match=r"input_type= \(image, dump, map, core, minidump, folder, proc\)"):
        memcarve.open(put(tmp_path / "what", data))


@pytest.mark.parametrize("data", [b"", b"some text\n", b"\0" * 5000, b"\0" * 4096])
@pytest.mark.parametrize("name", ["notes.txt", "x.dmp"])
def test_errors_if_a_map_was_meant(tmp_path: Path, name: str, data: bytes) -> None:
    """An option for maps beside a file that is none, and that no image can be, ends in an error of the input."""
    with pytest.raises(memcarve.InputError):
        memcarve.open(put(tmp_path / name, data), trust="sum")


# words that there are not


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("input_type", "Image", InputType),
        ("input_type", "elf", InputType),
        ("trust", "Sum", ("printed", "sum", "pagefile")),
        ("trust", "", ("printed", "sum", "pagefile")),
        ("system", "windoze", ("windows", "linux", "none")),
        ("system", "Windows", ("windows", "linux", "none")),
        ("paging", "x46", Paging),
        ("paging", "X64", Paging),
    ],
)
@pytest.mark.parametrize("path", [EXAMPLE, "nothing"])
def test_words_of_open(path: Path, name: str, value: str, words: tuple[str, ...]) -> None:
    """A word that there is not is a UsageError that lists those that there are, whatever the file."""
    options: dict[str, Any] = {name: value} | ({"dtb": 0x1000} if name == "paging" else {})
    with pytest.raises(memcarve.UsageError) as caught:
        memcarve.open(path, **options)
    assert repr(value) in str(caught.value)
    assert str(caught.value).endswith(f"choose from {', '.join(words)}")


def test_paging_names() -> None:
    """The kinds of page tables that can be named are those that can be read."""
    assert set(Paging) == set(MODES)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("half", "Kernel", ("user", "kernel", "all")),
        ("half", "", ("user", "kernel", "all")),
        ("kind", ["private", "Stack"], Kind),
        ("kind", "private", Kind),  # a text is a sequence of letters
        ("flag", ["pe-in-privat"], Flag),
    ],
)
def test_words_of_selections(name: str, value: object, words: tuple[str, ...]) -> None:
    """A selection cannot be made of words that there are not, nor changed to them."""
    options: dict[str, Any] = {name: value}
    for make in (lambda: Selection(**options), lambda: Selection()._replace(**options)):
        with pytest.raises(memcarve.UsageError) as caught:
            make()
        assert str(caught.value).endswith(f"choose from {', '.join(words)}")


@pytest.mark.parametrize("value", ["regions", "Region", ""])
def test_words_of_splits(value: str) -> None:
    """Segments cannot be split by a word that there is not."""
    with memcarve.open(EXAMPLE) as container:
        process = container.process()
        with pytest.raises(memcarve.UsageError, match=f"choose from {', '.join(Split)}"):
            process.segments(split=value)


def test_words_of_halves(tmp_path: Path) -> None:
    """A half of an image that there is not is refused."""
    path = put(tmp_path / "image", containers.lime([(0, bytes(4 * PAGE))]))
    with (
        memcarve.open(path, dtb=0x1000, system="none") as image,
        pytest.raises(memcarve.UsageError, match="user, kern"),
    ):
        image.process(index=0, half="Kernel")


def test_words_at_the_command_line(capfdbinary: Capture) -> None:
    """A kind or flag that there is not ends a command as wrong usage, with the words."""
    for option, words in (("--kind", Kind), ("--flag", Flag)):
        ran = invoke(capfdbinary, "segments", EXAMPLE, option, "nothing")
        assert ran.code == 2
        assert f"; choose from {', '.join(words)}; see " in ran.err
        assert ran.err.count("\n") == 1
