"""``memcarve export`` with every kind of output: names, options, several processes, what is printed."""

from __future__ import annotations

import json
import os
import shutil
import stat
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import memcarve
import sinking
import winimage
from cli import invoke
from files import ROOT
from memcarve.sinks import SINKS
from memcarve.vocabulary import OutputType

if TYPE_CHECKING:
    from collections.abc import Callable

    from cli import Ran
    from winimage.truth import Truth

    Invoke = Callable[..., Ran]

EXAMPLES = ROOT / "examples"
NAMES = {"minidump": "pid.1624.mdmp", "elfcore": "pid.1624.core", "flat": "pid.1624.0x7ffe0000-0x7ffe1000.bin"}
FIRST = 0x7FFE0000


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Truth:
    """Return an image with System and two processes more."""
    plans = (winimage.Plan(388, b"smss.exe"), winimage.Plan(1624, b"explorer.exe", 388, winimage.MIXED))
    return winimage.build(tmp_path_factory.mktemp("few") / "mem.raw", processes=plans)


@pytest.fixture
def go(capfdbinary: pytest.CaptureFixture[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Invoke:
    """Return what runs the command in an empty folder, beside which the example lies."""
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: invoke(capfdbinary, *map(str, arguments))


@pytest.fixture
def dump(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the example's dump in a folder of its own."""
    folder = tmp_path_factory.mktemp("dump")
    for name in ("pid.1624.dmp", "pid.1624.map"):
        shutil.copy(EXAMPLES / name, folder)
    return folder / "pid.1624.dmp"


def export(go: Invoke, dump: Path, kind: str, *more: object) -> Ran:
    """Export the example; flat needs to be told of what."""
    return go("export", dump, "--to", kind, *(["--address", "0x7ffe0000-0x7ffe1000"] * (kind == "flat")), *more)


@pytest.mark.parametrize("kind", NAMES)
def test_default_name(go: Invoke, dump: Path, tmp_path: Path, kind: str) -> None:
    """Without -o the file lies here, is named after the input, and nobody else may read it."""
    ran = export(go, dump, kind)
    assert ran.code == 0, ran.err
    assert ran.out == b""
    assert NAMES[kind] in ran.err
    found = tmp_path / NAMES[kind]
    assert stat.S_IMODE(found.stat().st_mode) == 0o600
    assert sorted(os.listdir(dump.parent)) == ["pid.1624.dmp", "pid.1624.map"]


@pytest.mark.parametrize("kind", [*NAMES, "scripts"])
def test_output(go: Invoke, dump: Path, tmp_path: Path, kind: str) -> None:
    """-o names it; what is there is not replaced unasked; --force replaces what memcarve wrote, and nothing else."""
    assert export(go, dump, kind, "-o", "out", "-q").err == ""
    again = export(go, dump, kind, "-o", "out")
    assert again.code == 1
    assert "--force" in again.err
    assert export(go, dump, kind, "-o", "out", "--force").code == 0
    (tmp_path / "other").write_bytes(b"somebody else's")
    refused = export(go, dump, kind, "-o", "other", "--force")
    assert refused.code == 1
    assert (tmp_path / "other").read_bytes() == b"somebody else's"


@pytest.mark.parametrize("kind", NAMES)
def test_never_onto_the_input(go: Invoke, dump: Path, kind: str) -> None:
    """The dump is never replaced, by force neither."""
    before = dump.read_bytes()
    assert export(go, dump, kind, "-o", dump, "--force").code == 1
    assert dump.read_bytes() == before


@pytest.mark.parametrize(
    ("kind", "options", "words"),
    [
        ("elfcore", ["--fill", "00"], "--fill is for flat"),
        ("minidump", ["--format", "csv"], "--format is for memmap"),
        ("memmap", ["--sparse"], "--sparse is for segments, minidump, elfcore, flat"),
        ("flat", ["--architecture", "x86"], "--architecture is for minidump, elfcore"),
        ("elfcore", ["--placeholder-thread"], "--placeholder-thread is for minidump"),
        ("flat", ["--os-version", "10.0.19045"], "--os-version is for minidump"),
        ("memmap", ["--min-size", "4k"], "--to memmap takes --range alone"),
        ("flat", ["--fill", "123"], "not a byte"),
        ("minidump", ["--os-version", "ten"], "not a version"),
        ("flat", ["--address", "0x1000-0x2000"], "one --address"),
    ],
)
def test_usage(go: Invoke, dump: Path, tmp_path: Path, kind: str, options: list[str], words: str) -> None:
    """An option that is not about what is written is wrong usage, and nothing is written."""
    ran = export(go, dump, kind, *options)
    assert ran.code == 2, ran
    assert words in ran.err
    assert os.listdir(tmp_path) == []


def test_what_the_help_names() -> None:
    """The help has every kind of output, and the program writes each that the help has."""
    from memcarve.cli.exporting import _ENDINGS  # noqa: PLC0415

    assert set(_ENDINGS) == SINKS.keys() - {"segments"} == set(OutputType) - {"segments"}


@pytest.mark.parametrize("kind", ["minidump", "elfcore"])
def test_filters(go: Invoke, dump: Path, kind: str) -> None:
    """What is not selected is left out, and said."""
    ran = export(go, dump, kind, "--range", "kernel", "-o", "out")
    assert ran.code == 0, ran.err
    assert "outside --range kernel" in ran.err
    with memcarve.open(dump) as one, memcarve.open("out") as other:
        wanted = one.process().segments(memcarve.Selection(half="kernel"))
        found = other.process().segments()
        assert [(each.start, each.end) for each in found] == [(each.start, each.end) for each in wanted]


def test_by_labels(go: Invoke, dump: Path) -> None:
    """Segments are chosen by labels, too: here those of one file."""
    how = ["--regions", EXAMPLES / "vadinfo.txt", "--file", "ntdll.dll"]
    assert export(go, dump, "elfcore", *how, "-o", "out").code == 0
    with memcarve.open("out") as container:
        assert {each.start & ~0xFFFFF for each in container.process().segments()} == {0x7FFA12200000}


def test_flat(go: Invoke, dump: Path, tmp_path: Path) -> None:
    """The byte at an address lies at the address less the range's start; gaps hold the byte of choice."""
    low, high = 0x7FF673400000, 0x7FF673430000
    ran = go("export", dump, "--to", "flat", "--address", f"0x{low:x}-0x{high:x}", "--fill", "cc", "-o", "out")
    assert ran.code == 0, ran.err
    assert "24576 bytes" in ran.err
    data = (tmp_path / "out").read_bytes()
    assert len(data) == high - low
    with memcarve.open(dump) as container:
        space = container.process().space
        for page in range(0, high - low, 4096):
            try:
                wanted = space.read(low + page, 4096)
            except memcarve.AddressError:
                wanted = b"\xcc" * 4096
            assert data[page : page + 4096] == wanted


def test_flat_of_one_address(go: Invoke, dump: Path, tmp_path: Path) -> None:
    """A single address means the segment that holds it."""
    assert go("export", dump, "--to", "flat", "--address", "0x7ffe0010", "-o", "out").code == 0
    assert (tmp_path / "out").stat().st_size == 4096


def test_flat_of_one_byte(go: Invoke, dump: Path, tmp_path: Path) -> None:
    """A range of one byte is one byte."""
    assert go("export", dump, "--to", "flat", "--address", "0x7ffe0030-0x7ffe0031", "-o", "out").code == 0
    assert (tmp_path / "out").read_bytes() == b"C"


def test_addresses_lie_in_either_half(go: Invoke, few: Truth, tmp_path: Path) -> None:
    """An address of an image means both halves, where --range says nothing."""
    with memcarve.open(few.path) as image:
        kernel = image.process(1624).segments(memcarve.Selection(half="kernel"))[0]
        wanted = image.process(1624).space.read(kernel.start, 4096)
    bounds = f"0x{kernel.start:x}-0x{kernel.start + 4096:x}"
    ran = go("export", few.path, "--to", "flat", "--pid", 1624, "--address", bounds, "-o", "out")
    assert ran.code == 0, ran.err
    assert (tmp_path / "out").read_bytes() == wanted
    assert f"0x{kernel.start:016x}" in go("segments", few.path, "--pid", 1624, "--address", bounds).out.decode()


@pytest.mark.parametrize("kind", ["minidump", "elfcore", "memmap"])
def test_nothing_selected(go: Invoke, dump: Path, kind: str) -> None:
    """Where nothing is in what was written, that is said."""
    how = ["--min-size", "1T"] if kind != "memmap" else []
    if kind == "memmap":
        assert go("carve", dump, "--min-size", "1T", "-o", "none").code == 0
        dump = Path("none")
    ran = export(go, dump, kind, *how, "-o", "out")
    assert ran.code == 0, ran.err
    assert "no memory is in what was written" in ran.err


@pytest.mark.parametrize("kind", ["minidump", "elfcore"])
def test_several(go: Invoke, few: Truth, tmp_path: Path, kind: str) -> None:
    """Of several processes each becomes a file in the folder that is named, called by number and name."""
    ran = go("export", few.path, "--to", kind, "--all", "-o", "out")
    assert ran.code == 0, ran.err
    ending = {"minidump": "mdmp", "elfcore": "core"}[kind]
    names = sorted(name for name in os.listdir(tmp_path / "out") if name not in ("SHA256SUMS", "processes.json"))
    assert all(name.startswith("mem.") and name.endswith(f".{ending}") for name in names)
    with memcarve.open(few.path) as image:
        assert {int(name.split(".")[1].partition("-")[0]) for name in names} == {e.pid for e in image.processes()}
        for name in names:
            pid = int(name.split(".")[1].partition("-")[0])
            with memcarve.open(tmp_path / "out" / name) as made:
                entry = next(each for each in image.processes() if each.pid == pid)
                wanted = image.process(index=image.processes().index(entry), half="user")
                assert made.process().pid == pid
                found = [(each.start, each.end) for each in made.process().segments()]
                assert found == [(each.start, each.end) for each in wanted.segments()]


def test_the_system_is_known(go: Invoke, few: Truth) -> None:
    """Of an image the minidump says which Windows it was; of a dump what was given."""
    assert go("export", few.path, "--to", "minidump", "--pid", "4", "-o", "one").code == 0
    with memcarve.open(few.path) as image, memcarve.open("one") as made:
        assert made.process().platform == image.process(4).platform
        assert made.process().platform.system == "windows"
    dump = EXAMPLES / "pid.1624.dmp"
    assert go("export", dump, "--to", "minidump", "--os-version", "6.1.7601", "-o", "two").code == 0
    with memcarve.open("two") as made:
        assert made.process().platform == memcarve.Platform("windows", 6, 1, 7601)


@pytest.mark.parametrize("kind", ["minidump", "elfcore"])
def test_recorded(go: Invoke, dump: Path, kind: str) -> None:
    """A carve of what was exported records where that came from, and verifies against it."""
    assert export(go, dump, kind, "-o", "out").code == 0
    assert go("carve", "out", "-o", "carved", "--hash-input").code == 0
    inputs = json.loads(Path("carved/segments.json").read_text())["inputs"]
    assert any(each.get("path") == "out" and len(each["sha256"]) == 64 for each in inputs.values())
    assert go("verify", "carved", "--source", "out").code == 0


@pytest.mark.parametrize("kind", [*NAMES, "memmap", "scripts"])
def test_nothing_is_put_into_evidence(go: Invoke, dump: Path, kind: str) -> None:
    """A folder that is the input gets no file more."""
    assert go("carve", dump, "-o", "carved").code == 0
    before = sorted(os.listdir("carved"))
    where = "carved" if kind == "memmap" else "carved/new"
    ran = export(go, Path("carved"), kind, "-o", where)
    assert ran.code in (1, 2), ran
    assert sorted(os.listdir("carved")) == before


def test_architecture(go: Invoke, dump: Path) -> None:
    """What the processor was may be said; a core of 32 bits cannot hold addresses of 64."""
    assert export(go, dump, "elfcore", "--architecture", "x64", "-o", "wide").code == 0
    assert Path("wide").read_bytes()[4] == 2
    ran = export(go, dump, "elfcore", "--architecture", "x86", "-o", "narrow")
    assert ran.code == 2
    assert "--architecture x64" in ran.err
    assert export(go, dump, "minidump", "--architecture", "x86", "-o", "made").code == 0
    with memcarve.open("made") as container:
        assert container.process().architecture == "x86"


def test_a_number_is_no_ending(go: Invoke, dump: Path) -> None:
    """What is made of core.1234 is not called as what is made of core.1235."""
    assert export(go, dump, "elfcore", "-o", "core.1624").code == 0
    assert go("carve", "core.1624").code == 0
    assert go("export", "core.1624", "--to", "minidump").code == 0
    assert {"core.1624.segments", "core.1624.mdmp"} <= set(os.listdir())


def test_the_version_of_another_system(go: Invoke, dump: Path) -> None:
    """What is known to be of Linux is not turned into Windows by giving its version."""
    with memcarve.open(dump) as container:
        process = container.process()
        process.platform = memcarve.Platform("linux")
        sinking.export_elfcore(process, "core")
    ran = go("export", "core", "--to", "minidump", "--os-version", "10.0.19045")
    assert ran.code == 2
    assert "of linux" in ran.err


def test_what_is_wrong_with_the_evidence_is_said(go: Invoke, dump: Path) -> None:
    """Notes on the sources of regions are printed where the output depends on them."""
    Path("maps").write_text("7ffe0000-7ffe1000 r--p 00000000 00:00 0 \n7ff673400000-7ff6734")
    ran = export(go, dump, "minidump", "--regions", "maps", "-o", "out")
    assert ran.code == 0, ran.err
    assert "maps: line 2: is cut off" in ran.err


@pytest.mark.parametrize("kind", ["minidump", "elfcore", "flat", "memmap"])
def test_a_pipe_is_not_waited_for(go: Invoke, dump: Path, tmp_path: Path, kind: str) -> None:
    """A pipe that has the name is somebody else's, and nobody waits for what may come out of it."""
    if not hasattr(os, "mkfifo"):
        pytest.skip("this system has no named pipes")
    os.mkfifo(tmp_path / {"flat": "out.json", "memmap": "pid.1624.map"}.get(kind, "out"))
    ran = export(go, dump, kind, "-o", "." if kind == "memmap" else "out", "--force")
    assert ran.code == 1
    assert "memcarve wrote" in ran.err
