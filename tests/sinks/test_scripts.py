"""Scripts that map the original: what each maps, played by stand-ins for its program or by the program itself."""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import re
import shutil
import stat
import subprocess
import sys
import types
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pytest

import memcarve
import sinking
from dumps import write_dump
from files import EXAMPLE, listing
from memcarve.backing import AbsentBacking, FileBacking
from memcarve.errors import CounterpartError, TargetExistsError, UsageError, printable
from memcarve.metadata import Metadata, Module, Region, Regions, SourceRows, Thread
from memcarve.missing import MissingMemory
from memcarve.permissions import EXECUTE, TRANSITION, USER, WRITE
from memcarve.process import ProcessMemory, Selection
from memcarve.space import AddressSpace
from memory import PAGE, Memory, noise
from processes import process_with
from sinking import How, export_scripts

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

TOP = 1 << 64
FILES = ("memory.json", "map.r2", "map.rz", "map_ida.py", "map_ghidra.py", "map_gdb.py", "map_binja.py", "README.txt")
PYTHON = tuple(name for name in FILES if name.endswith(".py"))
COMMANDS = tuple(name for name in FILES if name.startswith("map.r"))

#: names that would do something if any of them were ever code; MARK is what they try to make
MARK = "broken-out"
HOSTILE = (
    f"a\n!touch {MARK}\n",
    f"b; !touch {MARK}",
    f"c`!touch {MARK}`",
    f"d|touch {MARK}",
    f"e $(touch {MARK})",
    f'f"; import os; os.system("touch {MARK}") #',
    f"g'; import os; os.system('touch {MARK}') #",
    f"h'''\nimport os; os.system('touch {MARK}')\n'''",
    f'i"""\nimport os; os.system("touch {MARK}")\n"""',
    f"j\\\nshell touch {MARK}\n",
    f"k @ 0x0; #!pipe touch {MARK}",
    f"l\r\npython open('{MARK}', 'w')\n",
    f"m > {MARK}",
    f"n\x00; touch {MARK}",
    f"{{o}} %s %n {{0}} \\x00 \\u0000 touch {MARK}",
    "p\x1b]0;owned\x07\x1b[2J",
    "q\u202egnp.exe\u2028\u2029\x85",
    "r\ud800\udfff\udc80",
    "s\U0001f980\U0010ffff",
    "~t?*<>#=,:+-/\\..\\..\\etc\\passwd",
    "../../../../u",
    "",
    " ",
    "." * 300,
    "v" * 5000,
    "$s",
    "0x1000",
    "-n",
    "base64:QQ==",
)


class Row(NamedTuple):
    """A piece that a script maps: where, and from where in the file."""

    start: int
    size: int
    offset: int


def column(values: Sequence[int], kind: type = np.uint64) -> Any:
    """Return numbers as a column."""
    return np.array(values, kind)


def process_of(
    path: Path,
    sizes: Mapping[int, int],
    metadata: Metadata = Metadata(),  # noqa: B008 - a tuple
    **more: Any,
) -> ProcessMemory:
    """Write a dump with `sizes` bytes at addresses, the last one first, and a byte between two; return the process."""
    data, offsets = bytearray(), {}
    for address, size in reversed(sizes.items()):
        data += b"\xee"
        offsets[address] = len(data)
        data += noise(address, size)
    path.write_bytes(data)
    starts = list(sizes)
    space = AddressSpace(
        column(starts), column(list(sizes.values())), column([offsets[at] for at in starts]), FileBacking(path)
    )
    inputs = {"dump": {"path": str(path), "size": len(data)}}
    return process_with(space, pid=7, inputs=inputs, metadata=lambda: metadata, **more)


def a_process(path: Path, **more: Any) -> ProcessMemory:
    """Return a process of two segments, one of them of two extents, in several regions and a module."""
    regions = [
        Region(0x10000, 2 * PAGE, "PAGE_READONLY", "mapped", "C:\\data\\a table.nls"),
        Region(0x12000, 2 * PAGE, "PAGE_EXECUTE_WRITECOPY", "image", "C:\\Windows\\x.dll"),
        Region(0x20000, PAGE, "PAGE_NOACCESS", "private"),
        Region(0x21000, PAGE, None, "heap"),
    ]
    modules = [Module(0x12000, 2 * PAGE, "x.dll", "C:\\Windows\\x.dll")]
    metadata = Metadata((Regions("vads", regions),), (SourceRows("list", modules),))
    sizes = {0x10000: 2 * PAGE + 0x10, 0x12010: 2 * PAGE - 0x10, 0x20000: 3 * PAGE}
    return process_of(path, sizes, metadata, **{"architecture": "x64", **more})


def exported(process: ProcessMemory, folder: Path, **options: Any) -> dict[str, Any]:
    """Write the scripts; return the table."""
    export_scripts(process, folder, How(**options))
    found: dict[str, Any] = json.loads((folder / "memory.json").read_text(encoding="ascii"))
    return found


def rows_of(table: dict[str, Any]) -> list[Row]:
    """Return the rows of a table."""
    return [Row(int(start, 16), size, offset) for start, size, offset, _, _ in table["rows"]]


def run_script(path: Path, modules: Mapping[str, Any], **names: Any) -> dict[str, Any]:
    """Run a script in this Python, with stand-ins for the modules of its program; return its names."""
    namespace = {"__name__": "__main__", "__file__": str(path), **names}
    before = {name: sys.modules.get(name) for name in modules}
    sys.modules.update(modules)
    try:
        exec(compile(path.read_text(encoding="ascii"), str(path), "exec"), namespace)  # noqa: S102
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module
    return namespace


def broken_out(*folders: Path) -> list[str]:
    """Return what a hostile name made, here or in folders."""
    return [str(path) for folder in (Path.cwd(), *folders) for path in folder.rglob(f"*{MARK}*")]


# the table


def test_table(tmp_path: Path) -> None:
    """The table says of each piece where it lies, what may be done with it, and what it is; all files are there."""
    table = exported(a_process(tmp_path / "dump"), tmp_path / "out", command=["memcarve"])
    assert listing(tmp_path / "out") == sorted(FILES)
    first, second = 2 + 3 * PAGE + 2 * PAGE - 0x10 + 1, 1 + 3 * PAGE + 1
    assert table["names"] == [
        ["memory", "memory"],
        ["a_table.nls", "C:\\data\\a table.nls; mapped; PAGE_READONLY"],
        ["private", "private; PAGE_NOACCESS"],
        ["heap", "heap"],
        ["x.dll", "C:\\Windows\\x.dll; image; PAGE_EXECUTE_WRITECOPY"],
    ]
    rest, nls, none, heap, dll = range(5)
    assert table["rows"] == [
        ["0x10000", 2 * PAGE, first, "r--", nls],
        ["0x12000", 0x10, first + 2 * PAGE, "rwx", dll],
        ["0x12010", 2 * PAGE - 0x10, second, "rwx", dll],
        ["0x20000", PAGE, 1, "---", none],
        ["0x21000", PAGE, 1 + PAGE, None, heap],
        ["0x22000", PAGE, 1 + 2 * PAGE, None, rest],
    ]
    size = (tmp_path / "dump").stat().st_size
    assert table["original"].pop("sample").keys() == {"blocks", "size", "sha256"}
    assert table["original"] == {
        "path": str(tmp_path / "dump"), "relative": "../dump", "size": size, "sha256": None,
    }  # fmt: skip
    assert (table["process"], table["bits"]) == ({"pid": 7, "name": None, "architecture": "x64"}, 64)
    assert (table["command"], table["complete"], table["threads"]) == (["memcarve"], True, [])


def test_page_tables_count_before_regions(tmp_path: Path) -> None:
    """What page tables allow counts before what regions say; where a page was not present, its region does."""
    (tmp_path / "image").write_bytes(noise(1, 4 * PAGE))
    starts = column([0x1000, 0x2000, 0x3000, 0x4000])
    flags = column([USER, USER | WRITE, USER | EXECUTE, TRANSITION | USER | WRITE], np.uint8)
    space = AddressSpace(
        starts, column([PAGE] * 4), starts - np.uint64(PAGE), FileBacking(tmp_path / "image"),
        MissingMemory.of([]), physical=starts, flags=flags,
    )  # fmt: skip
    metadata = Metadata((Regions("vads", [Region(0x1000, 4 * PAGE, "PAGE_EXECUTE_READ")]),))
    table = exported(ProcessMemory(space, metadata=lambda: metadata), tmp_path / "out")
    assert [row[3] for row in table["rows"]] == ["r--", "rw-", "r-x", "r-x"]


def test_a_selection(tmp_path: Path) -> None:
    """Only what is selected is mapped."""
    process = a_process(tmp_path / "dump")
    table = exported(process, tmp_path / "out", selection=Selection(address=[(0x20000, 0x20001)]))
    assert [row.start for row in rows_of(table)] == [0x20000, 0x21000, 0x22000]


@pytest.mark.parametrize(("architecture", "end", "bits"), [("x86", TOP, 32), (None, 1 << 32, 32), (None, TOP, 64)])
def test_bits(tmp_path: Path, architecture: str | None, end: int, bits: int) -> None:
    """Addresses are as wide as the processor's; where that is not known, as wide as those that occur."""
    process = process_of(tmp_path / "dump", {0x1000: PAGE, end - PAGE: PAGE}, architecture=architecture)
    table = exported(process, tmp_path / "out")
    assert (table["bits"], table["process"]["architecture"]) == (bits, architecture)
    assert rows_of(table)[1] == Row(end - PAGE, PAGE, 1)


def test_the_example(tmp_path: Path) -> None:
    """Of a real process, every byte that the table leads to in the dump is the one that the map leads to."""
    with memcarve.open(EXAMPLE) as dump:
        process = dump.process()
        rows = rows_of(exported(process, tmp_path / "out"))
        data = EXAMPLE.read_bytes()
        assert sum(row.size for row in rows) == process.space.total
        for row in rows:
            assert data[row.offset : row.offset + row.size] == process.space.read(row.start, row.size)


def test_result(tmp_path: Path) -> None:
    """The result counts what is mapped and names the folder; README.txt says of every script how it is run."""
    result = export_scripts(a_process(tmp_path / "dump", incomplete=True), tmp_path / "out")
    assert (result.files, result.count, result.bytes) == ((str(tmp_path / "out"),), 5, 7 * PAGE)
    assert (result.complete, result.moved, result.left_out) == (False, {}, ())
    said = (tmp_path / "out" / "README.txt").read_text(encoding="ascii")
    assert all(name in said for name in FILES[:-1])


def test_private(tmp_path: Path) -> None:
    """The folder and its files can be read by their owner alone."""
    exported(a_process(tmp_path / "dump"), tmp_path / "out")
    modes = {stat.S_IMODE((tmp_path / "out" / name).stat().st_mode) for name in FILES}
    assert (stat.S_IMODE((tmp_path / "out").stat().st_mode), modes) == (0o700, {0o600})


# what there is no script for


def test_a_carved_folder_is_refused(tmp_path: Path) -> None:
    """A folder of many files is refused, and the message says what can be done."""
    with memcarve.open(write_dump(tmp_path, [(0x1000, noise(1)), (0x3000, noise(2))])) as dump:
        sinking.carve(dump.process(), tmp_path / "carved")
    with memcarve.open(tmp_path / "carved") as folder, pytest.raises(UsageError, match=r"give the dump.*to='minidump'"):
        export_scripts(folder.process(), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_bytes_that_must_be_decoded_are_refused(tmp_path: Path) -> None:
    """Where bytes are compressed nothing can map them; where the dump is not at hand that is said."""
    space = AddressSpace(column([0]), column([4]), column([0]), Memory(b"text"))
    with pytest.raises(UsageError, match=r"in another form.*to='minidump'"):
        export_scripts(ProcessMemory(space), tmp_path / "out")
    space = AddressSpace(
        column([0]), column([4]), column([0]), AbsentBacking(CounterpartError("belongs to no dump", subject="x.map"))
    )
    with pytest.raises(CounterpartError, match="belongs to no dump"):
        export_scripts(ProcessMemory(space), tmp_path / "out")


def test_force_replaces_only_its_own(tmp_path: Path) -> None:
    """Scripts are replaced on request; a folder with anything else in it is not, nor is one of another table."""
    process, out = a_process(tmp_path / "dump"), tmp_path / "out"
    exported(process, out)
    with pytest.raises(TargetExistsError, match="force=True replaces it"):
        exported(process, out)
    exported(process, out, force=True)
    (out / "notes.txt").write_text("mine")
    with pytest.raises(TargetExistsError, match=r"holds notes\.txt"):
        exported(process, out, force=True)
    (out / "notes.txt").unlink()
    (out / "memory.json").write_text('{"tool": "other"}')
    with pytest.raises(TargetExistsError, match=r"holds a memory\.json"):
        exported(process, out, force=True)


# names are data


def hostile(path: Path) -> ProcessMemory:
    """Return a process whose regions, modules and process have the names that try to break out."""
    sizes, regions, modules = {}, [], []
    for number, name in enumerate(HOSTILE):
        start = 0x10000 * (number + 1)
        sizes[start] = 2 * PAGE
        regions.append(Region(start, PAGE, "PAGE_READWRITE", "mapped", name))
        modules.append(Module(start + PAGE, PAGE, name, name))
    metadata = Metadata((Regions("vads", regions),), (SourceRows("list", modules),))
    return process_of(path, sizes, metadata, architecture="x64", name=HOSTILE[0])


def test_python_scripts_do_not_depend_on_the_dump(tmp_path: Path) -> None:
    """The Python scripts are the same bytes for a plain and for a hostile process: no name is in them."""
    exported(a_process(tmp_path / "dump"), tmp_path / "plain")
    exported(hostile(tmp_path / "evil"), tmp_path / "hostile")
    for name in (*PYTHON, "README.txt"):
        assert (tmp_path / "plain" / name).read_bytes() == (tmp_path / "hostile" / name).read_bytes()


def test_no_file_can_do_anything_to_a_terminal(tmp_path: Path) -> None:
    """All files are plain ASCII in lines, and what the table's texts say has nothing in it but what is visible."""
    table = exported(hostile(tmp_path / "dump"), tmp_path / "out")
    for name in FILES:
        assert re.fullmatch(rb"[\n\x20-\x7e]+", (tmp_path / "out" / name).read_bytes())
    assert {word for word, _ in table["names"] if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.]{0,47}", word)} == set()
    texts = [text for _, text in table["names"]]
    assert all(text == printable(text) for text in texts)
    assert printable("\x1b\u202e\ud800") == "\\x1b\\u202e\\ud800"  # what that is worth
    assert any("\\x1b" in text for text in texts)
    assert max(map(len, texts)) < 2000


#: all that a script for radare2 or rizin may consist of
WORD = r"[A-Za-z0-9_][A-Za-z0-9_.]*"
GRAMMAR = [
    r"# written by memcarve [0-9a-z.+]+; run as: (radare2|rizin) -n -i map\.r[2z] DUMP",
    r"(\?|%)= \$s-0x[0-9a-f]+",
    r"(\?\?|%%) ((\?e|echo) the file has not \d+ bytes: it is not the one that this script was written for|q!)",
    r"e asm\.arch=x86",
    r"# the processor is not known: choose it by e asm\.arch",
    r"e asm\.bits=(32|64)",
    r"e io\.va=true",
    r"om-\*",
    rf"om 3 0x[0-9a-f]+ 0x[0-9a-f]+ 0x[0-9a-f]+ r[w-][x-] {WORD}",
    rf"f mem\.{WORD} 0x[0-9a-f]+ @ 0x[0-9a-f]+",
    r"CCu base64:[A-Za-z0-9+/]+={0,2} @ 0x[0-9a-f]+",
    r"s 0x[0-9a-f]+",
]


@pytest.mark.parametrize("name", COMMANDS)
def test_commands_hold_nothing_but_numbers_and_plain_words(tmp_path: Path, name: str) -> None:
    """Every line of a script for radare2 or rizin is one of a few forms, whatever things in memory are called."""
    exported(hostile(tmp_path / "dump"), tmp_path / "out")
    for line in (tmp_path / "out" / name).read_text(encoding="ascii").splitlines():
        assert any(re.fullmatch(form, line) for form in GRAMMAR), line


@pytest.mark.parametrize("name", COMMANDS)
def test_commands_map_the_table(tmp_path: Path, name: str) -> None:
    """radare2 and rizin are told to map what the table says, readable all of it; and what it is called, once."""
    table = exported(a_process(tmp_path / "dump"), tmp_path / "out")
    lines = (tmp_path / "out" / name).read_text(encoding="ascii").splitlines()
    found = [line.split() for line in lines if line.startswith("om 3 ")]
    assert [Row(*(int(word, 16) for word in words[2:5])) for words in found] == rows_of(table)
    assert [words[5] for words in found] == ["r--", "rwx", "rwx", "r--", "rwx", "rwx"]
    assert [words[6] for words in found] == ["a_table.nls", "x.dll", "x.dll", "private", "heap", "memory"]
    flags = [line for line in lines if line.startswith("f ")]
    assert flags[:2] == ["f mem.a_table.nls.10000 0x2000 @ 0x10000", "f mem.x.dll.12000 0x10 @ 0x12000"]
    assert len(flags) == 5
    comments = [line.split() for line in lines if line.startswith("CCu ")]
    texts = [base64.b64decode(words[1].removeprefix("base64:")).decode() for words in comments]
    assert texts[1] == "C:\\Windows\\x.dll; image; PAGE_EXECUTE_WRITECOPY"
    size = (tmp_path / "dump").stat().st_size
    assert lines[1:5:2] == [f"{'?=' if name == 'map.r2' else '%='} $s-0x{size:x}"] * 2


# IDA


class Ida(types.ModuleType):
    """Stands in for IDAPython: takes note of segments, and of the bytes that come into them."""

    SETPROC_LOADER_NON_FATAL, BADADDR = 3, TOP - 1
    saRelByte, scPub = 1, 2  # noqa: N815 - what they are called there
    ADDSEG_NOSREG, ADDSEG_QUIET, ADDSEG_SPARSE, ADDSEG_NOAA = 1, 8, 32, 64

    def __init__(self) -> None:
        super().__init__("idaapi")
        self.segments: list[Any] = []
        self.loaded: dict[int, bytes] = {}
        self.comments: list[str] = []
        self.processor: tuple[str, int] | None = None
        self.bits: int | None = None
        ida = self

        class Input:
            def open(self, path: str, remote: bool) -> bool:  # noqa: FBT001
                assert not remote
                self.data = Path(path).read_bytes()
                return True

            def file2base(self, place: int, start: int, end: int, patchable: bool) -> int:  # noqa: FBT001
                assert not patchable
                ida.loaded[start] = self.data[place : place + end - start]
                return 1

            def close(self) -> None:
                ida.closed = True

        self.loader_input_t, self.segment_t, self.closed = Input, types.SimpleNamespace, False

    def set_processor_type(self, name: str, level: int) -> None:
        """Take note of the processor."""
        self.processor = name, level

    def inf_set_app_bitness(self, bits: int) -> None:
        """Take note of the width of addresses."""
        self.bits = bits

    def setup_selector(self, base: int) -> int:
        """Return a selector."""
        assert base == 0
        return 1

    def add_segm_ex(self, segment: Any, name: str, kind: str, flags: int) -> bool:
        """Take note of a segment, which must be a sparse one."""
        assert flags == 1 | 8 | 32 | 64
        self.segments.append((segment.start_ea, segment.end_ea, segment.bitness, segment.perm, name, kind))
        return True

    def getseg(self, address: int) -> int:
        """Return a segment: its first address will do."""
        return address

    def set_segment_cmt(self, segment: int, text: str, repeatable: bool) -> None:  # noqa: FBT001
        """Take note of a comment."""
        assert segment in self.loaded
        assert not repeatable
        self.comments.append(text)


def test_ida(tmp_path: Path) -> None:
    """IDA gets a sparse segment with the right bytes, name, access and comment for each row; 0 is not known."""
    process = a_process(tmp_path / "dump")
    table = exported(process, tmp_path / "out")
    ida = Ida()
    run_script(tmp_path / "out" / "map_ida.py", {"idaapi": ida})
    names = table["names"]
    assert [(start, end, name) for start, end, _, _, name, _ in ida.segments] == [
        (int(row[0], 16), int(row[0], 16) + row[1], names[row[4]][0]) for row in table["rows"]
    ]
    assert [(perm, kind) for _, _, _, perm, _, kind in ida.segments] == [
        (4, "DATA"), (7, "CODE"), (7, "CODE"), (0, "DATA"), (0, "CODE"), (0, "CODE"),
    ]  # fmt: skip
    assert ida.comments == [names[row[4]][1] for row in table["rows"]]
    for start, data in ida.loaded.items():
        assert data == process.space.read(start, len(data))
    assert (ida.processor, ida.bits, ida.closed) == (("metapc", 3), 64, True)


def test_ida_at_the_end_of_all_addresses(tmp_path: Path) -> None:
    """IDA has no address for the very last byte: the segment ends before it; an older IDA is told its bits, too."""
    exported(process_of(tmp_path / "dump", {TOP - PAGE: PAGE}), tmp_path / "out")
    ida = Ida()
    del Ida.inf_set_app_bitness  # as before 8.2
    try:
        ida.inf_set_64bit = lambda wide: setattr(ida, "bits", wide)  # type: ignore[attr-defined]
        run_script(tmp_path / "out" / "map_ida.py", {"idaapi": ida})
    finally:
        Ida.inf_set_app_bitness = lambda self, bits: setattr(self, "bits", bits)  # type: ignore[method-assign]
    assert ida.segments == [(TOP - PAGE, TOP - 1, 2, 0, "memory", "CODE")]
    assert (ida.bits, ida.processor) == (True, None)


# Binary Ninja


class Binja(types.ModuleType):
    """Stands in for Binary Ninja: takes note of what a view is told."""

    class SegmentFlag:
        """As in Binary Ninja's enums."""

        SegmentExecutable, SegmentWritable, SegmentReadable = 1, 2, 4

    class SectionSemantics:
        """As in Binary Ninja's enums."""

        DefaultSectionSemantics, ReadOnlyCodeSectionSemantics = "default", "code"
        ReadOnlyDataSectionSemantics, ReadWriteDataSectionSemantics = "constants", "data"

    def __init__(self) -> None:
        super().__init__("binaryninja")
        self.Architecture = {"x86_64": types.SimpleNamespace(standalone_platform="x86_64 alone")}
        self.calls: list[tuple[Any, ...]] = []
        calls = self.calls

        class View:
            segments = (types.SimpleNamespace(start=0, __len__=lambda: 0),)

            def __init__(self, path: str) -> None:
                self.segments = (Whole(),)
                self.path = path

            def __getattr__(self, name: str) -> Any:
                if name.startswith("_"):
                    raise AttributeError(name)
                return lambda *arguments: calls.append((name, *arguments))

        class Whole:
            start = 0

            def __len__(self) -> int:
                return 99

        kinds = types.SimpleNamespace
        self.BinaryViewType = {"Raw": kinds(open=lambda path: path), "Mapped": kinds(create=View)}


def test_binary_ninja(tmp_path: Path) -> None:
    """Binary Ninja's view of the dump gets a segment for each row, a section with its name, and comments."""
    table = exported(a_process(tmp_path / "dump"), tmp_path / "out")
    binja = Binja()
    view = run_script(tmp_path / "out" / "map_binja.py", {"binaryninja": binja})["view"]
    calls = [call for call in binja.calls if call[0] == "add_user_segment"]
    assert [Row(start, size, offset) for _, start, size, offset, _, _ in calls] == rows_of(table)
    assert [(length == size, flags) for _, _, size, _, length, flags in calls] == [
        (True, 4), (True, 7), (True, 7), (True, 0), (True, 7), (True, 7),
    ]  # fmt: skip
    order = [call[0] for call in binja.calls]
    assert order[:3] == ["remove_auto_segment", "remove_user_segment", "begin_bulk_add_segments"]
    assert order.index("end_bulk_add_segments") < order.index("add_user_section")
    sections = [call[1:] for call in binja.calls if call[0] == "add_user_section"]
    assert sections[0] == ("a_table.nls.10000", 0x10000, 2 * PAGE, "constants")
    assert len({section[0] for section in sections}) == len(sections) == 6
    comments = [call[1:] for call in binja.calls if call[0] == "set_comment_at"]
    assert comments[1] == (0x12000, "C:\\Windows\\x.dll; image; PAGE_EXECUTE_WRITECOPY")
    assert (len(comments), view.path, view.platform) == (5, str(tmp_path / "dump"), "x86_64 alone")


# Ghidra

GHIDRA_HOST = """
from __future__ import print_function
import io, json, sys
calls = []
path, folder, length, state, bits, dump = sys.argv[1:]
length, imported = int(length), state == "imported"

class Some(object):
    def __init__(self, value): self.value = value
    def isPresent(self): return self.value is not None
    def get(self): return self.value

class Held(object):
    def __init__(self, size, data=b""): self.size, self.data = size, bytearray(data)
    def getSize(self): return self.size
    def getOriginalByte(self, place): return (self.data[place] + 128) % 256 - 128  # a byte of Java's has a sign
    def equals(self, other): return self is other

class Info(object):
    def __init__(self, held): self.held = held
    def getFileBytes(self): return Some(self.held)

class Block(object):
    def __init__(self, held=None): self.held = held
    def getSourceInfos(self): return [Info(self.held)]
    def setPermissions(self, r, w, x): calls.append(["access", r, w, x])
    def setComment(self, text): calls.append(["comment", text])

class Memory(object):
    def __init__(self):
        self.held = [Held(5)] + ([Held(length, io.open(dump, "rb").read())] if imported else [])
        self.blocks = [Block(None), Block(self.held[-1])]
    def getAllFileBytes(self): return self.held
    def getBlocks(self): return self.blocks
    def removeBlock(self, block, monitor): calls.append(["remove", self.blocks.index(block)])
    def createFileBytes(self, name, offset, size, stream, monitor):
        calls.append(["bytes", name, offset, size])
        return Held(size)
    def createInitializedBlock(self, name, start, held, offset, size, overlay):
        calls.append(["block", name, start, held.getSize(), offset, size, overlay])
        return Block(held)

class Program(object):
    memory = Memory()
    def getMemory(self): return self.memory
    def getDefaultPointerSize(self): return int(bits) // 8
    def getExecutableSHA256(self): return None

class File(object):
    def __init__(self, name): self.name = name
    def getParentFile(self): return File(folder)
    def getAbsolutePath(self): return self.name

if "java" not in sys.platform:
    import types
    class FileInputStream(object):
        def __init__(self, path): self.file = open(path, "rb")
        def close(self): self.file.close()
    java, java_io = types.ModuleType("java"), types.ModuleType("java.io")
    java_io.FileInputStream = FileInputStream
    sys.modules.update({"java": java, "java.io": java_io})

namespace = {"__name__": "__main__", "currentProgram": Program(), "monitor": None, "toAddr": lambda text: text}
namespace["getSourceFile"] = lambda: File(path)
out, sys.stdout = sys.stdout, sys.stderr
with io.open(path, encoding="ascii") as file:
    text = file.read()
try:
    exec(compile(text, str(path), "exec"), namespace)
except ValueError as error:
    calls = str(error)
sys.stdout = out
print(json.dumps(calls))
"""


def old_python() -> str | None:
    """Return a Python 2.7, if there is one."""
    for path in (shutil.which("python2.7"), *sorted(Path.home().glob(".pyenv/versions/2.7.*/bin/python2.7"))):
        if path and subprocess.run([path, "-c", ""], capture_output=True, check=False).returncode == 0:
            return str(path)
    return None


def interpreter(name: str) -> str:
    """Return a Python to run Ghidra's script in, or skip the test with the name of what is missing."""
    found = {"python3": sys.executable, "python2.7": old_python(), "jython": shutil.which("jython")}[name]
    if found is None:
        pytest.skip(f"{name} is missing (Debian has a package jython)")
    return found


def ghidra(python: str, folder: Path, size: int, state: str = "imported", bits: int = 64) -> Any:
    """Run Ghidra's script with a stand-in for Ghidra; return what it was told, or the error's text."""
    host = folder.parent / "host.py"
    host.write_text(GHIDRA_HOST, encoding="ascii")
    script = folder / "map_ghidra.py"
    dump = folder.parent / "dump"
    command = [interpreter(python), host, script, folder, str(size), state, str(bits), dump]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder.parent)
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout.strip().splitlines()[-1])


@pytest.mark.parametrize("python", ["python3", "python2.7", "jython"])
def test_ghidra(tmp_path: Path, python: str) -> None:
    """Ghidra, in Python 2.7 (Jython) as in Python 3, gets a block over the imported bytes for each row."""
    interpreter(python)
    table = exported(a_process(tmp_path / "dump"), tmp_path / "out")
    size = table["original"]["size"]
    calls = ghidra(python, tmp_path / "out", size)
    assert calls[0] == ["remove", 1]  # the block that shows the dump as a plain file, and no other
    blocks = [call[1:] for call in calls if call[0] == "block"]
    assert blocks == [
        [table["names"][name][0], start, size, offset, length, False]
        for start, length, offset, _, name in table["rows"]
    ]
    access = ["".join(letter if allowed else "-" for letter, allowed in zip("rwx", call[1:], strict=True))
              for call in calls if call[0] == "access"]  # fmt: skip
    assert access == ["r--", "rwx", "rwx", "---", "rwx", "rwx"]
    comments = [call[1] for call in calls if call[0] == "comment"]
    assert comments[2:5] == [table["names"][4][1], "private; PAGE_NOACCESS", "heap; access not known"]
    assert len(calls) == 1 + 3 * 6


def test_ghidra_takes_the_dump_itself(tmp_path: Path) -> None:
    """Where the dump was not imported, Ghidra reads the original; a language of another width is refused."""
    table = exported(a_process(tmp_path / "dump"), tmp_path / "out")
    size = table["original"]["size"]
    assert ghidra("python3", tmp_path / "out", size, "empty")[0] == ["bytes", "dump", 0, size]
    assert ghidra("python3", tmp_path / "out", size, bits=32) == "import the dump with a language of 64 bits, not of 32"


# whatever the program


def failure(name: str, folder: Path) -> str:
    """Run one of the Python scripts, which must fail; return why."""
    if name == "map_ghidra.py":
        found = ghidra("python3", folder, 1, "empty")
        assert isinstance(found, str)
        return found
    ida, binja, gdb = Ida(), Binja(), types.ModuleType("gdb")
    with pytest.raises(ValueError, match=r"dump|memory\.json") as caught:
        run_script(folder / name, {"idaapi": ida, "binaryninja": binja, "gdb": gdb})
    assert (ida.segments, binja.calls) == ([], [])
    return str(caught.value)


@pytest.mark.parametrize("name", PYTHON)
def test_another_file_is_not_mapped(tmp_path: Path, name: str) -> None:
    """A script maps nothing where the dump is gone, is longer, has other bytes, or the table is another's."""
    exported(a_process(tmp_path / "dump"), tmp_path / "out")
    data = (tmp_path / "dump").read_bytes()
    for place in (0, len(data) // 2, len(data) - 1):
        (tmp_path / "dump").write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        assert "has other bytes than the dump had" in failure(name, tmp_path / "out")
    (tmp_path / "dump").write_bytes(data + b"!")
    assert f"has {len(data) + 1} bytes, and the dump had {len(data)}" in failure(name, tmp_path / "out")
    (tmp_path / "dump").unlink()
    assert "is missing; put it back" in failure(name, tmp_path / "out")
    (tmp_path / "out" / "memory.json").write_text("{}")
    assert "is not the one that memcarve wrote" in failure(name, tmp_path / "out")


#: a dump of a size at which the blocks do not touch each other
FAR = {0x10000: 601 * PAGE, 0x1000000: 100}


@pytest.mark.parametrize("name", PYTHON)
def test_a_hash_that_is_known_is_held_against_all(tmp_path: Path, name: str) -> None:
    """Where the dump's SHA-256 was known every byte counts, also those between the blocks that are looked at."""
    process = process_of(tmp_path / "dump", FAR)
    process.inputs["dump"]["sha256"] = hashlib.sha256((tmp_path / "dump").read_bytes()).hexdigest()
    table = exported(process, tmp_path / "out")
    assert table["original"]["sha256"] == process.inputs["dump"]["sha256"]
    data = bytearray((tmp_path / "dump").read_bytes())
    data[PAGE] ^= 1
    (tmp_path / "dump").write_bytes(data)
    assert "has another SHA-256 than the dump had" in failure(name, tmp_path / "out")


def test_blocks_that_are_looked_at(tmp_path: Path) -> None:
    """The table has the SHA-256 of 64 blocks of 4096 bytes, spread evenly; a small dump is in them as a whole."""
    process_of(tmp_path / "dump", FAR)
    data = (tmp_path / "dump").read_bytes()
    for size in (0, 1, PAGE - 1, PAGE + 1, 63 * PAGE, 64 * PAGE, len(data)):
        (tmp_path / "dump").write_bytes(data[:size])
        space = AddressSpace(*(column([]) for _ in range(3)), FileBacking(tmp_path / "dump"))
        table = exported(ProcessMemory(space), tmp_path / f"{size}")
        places = [max(size - PAGE, 0) * number // 63 for number in range(64)]
        expected = hashlib.sha256(b"".join(data[at : min(at + PAGE, size)] for at in places)).hexdigest()
        assert table["original"]["sample"] == {"blocks": 64, "size": PAGE, "sha256": expected}
        assert (places[0], places[-1] + min(PAGE, size)) == (0, size)
        if size <= 64 * PAGE:
            assert all(after - before <= PAGE for before, after in itertools.pairwise(places))


@pytest.mark.slow
@pytest.mark.parametrize("python", ["python3", "python2.7", "jython"])
def test_what_ghidra_imported_is_looked_at(tmp_path: Path, python: str) -> None:
    """Imported bytes of the same length that are not the dump's are not mapped, and no block is taken away."""
    interpreter(python)
    table = exported(process_of(tmp_path / "dump", FAR), tmp_path / "out")
    size = table["original"]["size"]
    data = (tmp_path / "dump").read_bytes()
    assert ghidra(python, tmp_path / "out", size)[0] == ["remove", 1]
    (tmp_path / "dump").write_bytes(data[:-1] + bytes([data[-1] ^ 0x80]))
    assert ghidra(python, tmp_path / "out", size) == "what was imported has other bytes than the dump had"


@pytest.mark.parametrize("name", PYTHON)
def test_hostile_names_are_data(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python scripts run over the hostile names, and hand them on as plain words; nothing of them is executed."""
    monkeypatch.chdir(tmp_path)
    table = exported(hostile(tmp_path / "dump"), tmp_path / "out")
    words = [table["names"][row[4]][0] for row in table["rows"]]
    ida, binja = Ida(), Binja()
    if name == "map_ghidra.py":
        calls = ghidra("python3", tmp_path / "out", table["original"]["size"])
        assert [call[1] for call in calls if call[0] == "block"] == words
    elif name != "map_gdb.py":  # which gdb itself runs below
        run_script(tmp_path / "out" / name, {"idaapi": ida, "binaryninja": binja})
        found = [segment[4] for segment in ida.segments]
        found += [call[1].rpartition(".")[0] for call in binja.calls if call[0] == "add_user_section"]
        assert found == words
    assert broken_out(tmp_path) == []


def test_dump_and_scripts_may_move_together(tmp_path: Path) -> None:
    """The original is found where it lies as it did beside the scripts, before the place where it was."""
    (tmp_path / "case").mkdir()
    exported(a_process(tmp_path / "case" / "dump"), tmp_path / "case" / "out")
    shutil.copytree(tmp_path / "case", tmp_path / "elsewhere")
    script = tmp_path / "elsewhere" / "out" / "map_ida.py"
    there = run_script(script, {"idaapi": Ida()})
    folder = str(script.parent)
    assert there["original"](there["load"](folder), folder) == str(tmp_path / "elsewhere" / "dump")
    shutil.rmtree(tmp_path / "case")
    ida = Ida()
    run_script(script, {"idaapi": ida})
    assert len(ida.segments) == 6


def test_another_dump_beside_the_scripts(tmp_path: Path) -> None:
    """Where another file lies beside the scripts the original is taken from where it was."""
    (tmp_path / "case").mkdir()
    exported(a_process(tmp_path / "case" / "dump"), tmp_path / "case" / "out")
    shutil.copytree(tmp_path / "case", tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "dump").write_bytes(noise(3, (tmp_path / "case" / "dump").stat().st_size))
    ida = Ida()
    run_script(tmp_path / "elsewhere" / "out" / "map_ida.py", {"idaapi": ida})
    assert len(ida.segments) == 6


# gdb itself


def gdb(script: Path, *commands: str) -> subprocess.CompletedProcess[str]:
    """Run gdb with its script; skip where there is none."""
    program = shutil.which("gdb")
    if program is None:
        pytest.skip("gdb is missing (Debian has a package gdb)")
    arguments = [word for command in commands for word in ("-ex", command)]
    return subprocess.run(
        [program, "-nx", "-batch", "-x", script, *arguments],
        capture_output=True, text=True, check=False, cwd=script.parent.parent, errors="surrogateescape",
    )  # fmt: skip


def read_by_gdb(script: Path, out: Path, places: Sequence[tuple[int, int]]) -> list[bytes]:
    """Return what gdb reads at (address, size) places."""
    commands = [
        f"python open({str(out / f'{number}')!r}, 'wb').write(gdb.selected_inferior().read_memory({address}, {size}))"
        for number, (address, size) in enumerate(places)
    ]
    ran = gdb(script, *commands)
    assert ran.returncode == 0, ran.stderr
    return [(out / f"{number}").read_bytes() for number in range(len(places))]


def test_gdb_reads_the_dump(tmp_path: Path) -> None:
    """The debugger gdb reads the bytes at their addresses, across extents and regions, up to the last of all."""
    sizes = {0x10000: PAGE, 0x11000: 3 * PAGE, 0x7FFF_FFFF_0000: 40 * PAGE, TOP - 2 * PAGE: 2 * PAGE}
    process = process_of(tmp_path / "dump", sizes, architecture="x64")
    exported(process, tmp_path / "out")
    places = [
        (0x10000, 4 * PAGE), (0x10FFF, 2), (0x7FFF_FFFF_0001, 40 * PAGE - 1), (TOP - PAGE - 8, 16), (TOP - 8, 7),
    ]  # fmt: skip
    found = read_by_gdb(tmp_path / "out" / "map_gdb.py", tmp_path, places)
    assert found == [process.space.read(*place) for place in places]


def test_gdb_reads_the_example(tmp_path: Path) -> None:
    """Of a real process gdb reads the first and the last bytes of every segment as the map has them."""
    with memcarve.open(EXAMPLE) as dump:
        process = dump.process()
        exported(process, tmp_path / "out")
        places = [place for each in process.segments() for place in ((each.start, 64), (each.end - 64, 63))]
        assert len(places) == 228
        found = read_by_gdb(tmp_path / "out" / "map_gdb.py", tmp_path, places)
        assert found == [process.space.read(*place) for place in places]


def test_gdb_says_what_is_there(tmp_path: Path) -> None:
    """The debugger gdb knows gaps, and names by address; it can neither write nor run, and no register is made up."""
    exported(a_process(tmp_path / "dump"), tmp_path / "out")
    before = (tmp_path / "dump").read_bytes()
    ran = gdb(
        tmp_path / "out" / "map_gdb.py",
        "memory-map 0x12345", "memory-map 0x30000", "memory-map", "x/1xb 0x30000", "x/1xb 0x23000",
        "set {char}0x10000=1", "stepi", "print $rax", "print $sp", "info threads", "show architecture",
    )  # fmt: skip
    one = "0x0000000000012010-0x0000000000014000 rwx C:\\Windows\\x.dll; image; PAGE_EXECUTE_WRITECOPY\n"
    assert f"{one}nothing is there\n0x0000000000010000-0x0000000000012000 r-- C:\\data\\a table.nls" in ran.stdout
    assert "0x0000000000022000-0x0000000000023000 ??? memory\n" in ran.stdout
    assert "no thread's registers are known" in ran.stdout
    assert "$1 = <unavailable>\n$2 = <unavailable>\n" in ran.stdout
    assert 'currently "i386:x86-64"' in ran.stdout
    for address in ("0x30000", "0x23000", "0x10000"):
        assert f"Cannot access memory at address {address}" in ran.stderr
    assert (tmp_path / "dump").read_bytes() == before


@pytest.mark.parametrize("bits", [32, 64])
def test_gdb_knows_threads(tmp_path: Path, bits: int) -> None:
    """Threads whose registers are known are gdb's threads, each with its registers; what is not known stays so."""
    names = ("eax", "esp", "eip") if bits == 32 else ("rax", "rsp", "rip")
    top = (1 << bits) - 0x10
    threads = [
        Thread(0x1A4, registers={names[0]: top, names[1]: 0x20010, names[2]: 0x12345, "eflags": 0x246, "cs": 0x33}),
        Thread(0x2B8, registers={names[0]: 5, names[1]: 0x20020, names[2]: 0x10000}),
        Thread(0x300),
    ]
    metadata = Metadata(threads=(SourceRows("dump", threads),))
    process = process_of(
        tmp_path / "dump", {0x10000: 4 * PAGE, 0x20000: PAGE}, metadata, architecture="x86" if bits == 32 else "x64"
    )
    exported(process, tmp_path / "out")
    show = [f"output/x ${name}" for name in (*names, "eflags", "cs", "ds")]
    ran = gdb(tmp_path / "out" / "map_gdb.py", "thread 1", *show, "thread 2", *show)
    text = ran.stdout.split("[Switching to thread 2")
    assert f"0x{top:x}0x200100x123450x2460x33<unavailable>" in text[0]
    assert "0x50x200200x10000<unavailable><unavailable><unavailable>" in text[1]
    assert "Thread 420" in text[0]
    assert "Thread 696" in text[1]


def test_gdb_and_hostile_names(tmp_path: Path) -> None:
    """The debugger gdb shows the hostile names escaped, and executes nothing of them."""
    exported(hostile(tmp_path / "dump"), tmp_path / "out")
    ran = gdb(tmp_path / "out" / "map_gdb.py", "memory-map")
    assert ran.returncode == 0
    shown = [line for line in ran.stdout.splitlines() if line.startswith("0x0")]
    assert len(shown) >= 2 * len(HOSTILE)
    assert re.fullmatch(r"[\n\x20-\x7e\U0001f980]+", ran.stdout + ran.stderr)
    assert broken_out(tmp_path) == []


PLACES = ("a b", "a'b", 'a"b', f"$(touch {MARK})", f"`touch {MARK}`", f"x; touch {MARK}", f"n\nshell touch {MARK}\n")


@pytest.mark.parametrize("place", PLACES)
def test_folders_of_any_name(tmp_path: Path, place: str) -> None:
    """The dump and the scripts may lie in a folder of any name: it is found, and nothing in it is executed."""
    where = tmp_path / place
    where.mkdir()
    process = a_process(where / "du mp")
    exported(process, where / "o'ut")
    assert read_by_gdb(where / "o'ut" / "map_gdb.py", tmp_path, [(0x12000, 100)]) == [process.space.read(0x12000, 100)]
    ida = Ida()
    run_script(where / "o'ut" / "map_ida.py", {"idaapi": ida})
    assert len(ida.segments) == 6
    assert [path for path in broken_out(tmp_path) if Path(path).name == MARK] == []


def test_many_ranges(tmp_path: Path) -> None:
    """Of a process of 65,000 segments all are in the table, and gdb reads any of them."""
    count = 65_000
    (tmp_path / "dump").write_bytes(noise(4, count * 8))
    numbers = np.arange(count, dtype=np.uint64)
    space = AddressSpace(
        numbers * np.uint64(PAGE),
        np.full(count, 8, np.uint64),
        numbers[::-1] * np.uint64(8),
        FileBacking(tmp_path / "dump"),
    )
    process = process_with(space, architecture="x64")
    rows = rows_of(exported(process, tmp_path / "out"))
    assert rows == [Row(number * PAGE, 8, (count - 1 - number) * 8) for number in range(count)]
    places = [(0, 8), (12345 * PAGE, 8), ((count - 1) * PAGE + 1, 7)]
    found = read_by_gdb(tmp_path / "out" / "map_gdb.py", tmp_path, places)
    assert found == [space.read(*place) for place in places]
