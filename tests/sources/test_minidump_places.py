"""Where the bytes of a minidump lie: lists that lead where no memory can be, and layouts of honest writers."""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, strategies as st

import minidumps
from cli import invoke
from memcarve.errors import AddressError, InputError
from memcarve.metadata import Thread
from memcarve.missing import MISPLACED, NOT_WRITTEN
from memcarve.sources.recognised import MINIDUMP
from memory import PAGE, noise
from minidumps import Dump, laid_out, memory64_list, memory_list, system_info
from opening import opened_as
from processes import balance, contents

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


ONE, TWO = noise(1, PAGE), noise(2, 2 * PAGE)
BOTH = {0x10000: ONE, 0x20000: TWO}
NAME = struct.pack("<I", 10) + "a.exe".encode("utf-16-le")


def module_list(*rows: tuple[int, int, int]) -> bytes:
    """Return a ModuleList: base, size, place of the name."""
    return struct.pack("<I", len(rows)) + b"".join(
        struct.pack("<QIIII52xIIIIQQ", base, size, 0, 0, name, 0, 0, 0, 0, 0, 0) for base, size, name in rows
    )


def thread_list(*rows: tuple[int, int, int, int, int, int]) -> bytes:
    """Return a ThreadList: id; stack, its size and place; size and place of the CONTEXT."""
    return struct.pack("<I", len(rows)) + b"".join(
        struct.pack("<IIIIQQIIII", tid, 0, 0, 0, 0, *stack_and_context) for tid, *stack_and_context in rows
    )


def full(base: str | int, offset: int = 0) -> bytes:
    """Return a minidump whose 64-bit list says that its bytes begin at a block, or a place, and some bytes behind."""

    def memory(places: Mapping[str, int]) -> bytes:
        at = base if isinstance(base, int) else places[base]
        return memory64_list(at + offset, (0x10000, len(ONE)), (0x20000, len(TWO)))

    return laid_out(
        {
            "directory": b"",
            "system": system_info(),
            "modules": lambda places: module_list((0x10000, PAGE, places["name"])),
            "name": NAME,
            "memory": memory,
            "bytes": ONE + TWO,
        },
        [(7, "system", None), (4, "modules", None), (9, "memory", None)],
    )


def test_where_the_bytes_are(opened: Any) -> None:
    """The same file with a right BaseRva is read whole: it differs from the damaged ones in nothing else."""
    process = opened(full("bytes"))
    assert contents(process) == BOTH
    assert not process.incomplete


@pytest.mark.parametrize(
    ("base", "offset"),
    [
        ("bytes", -8), ("bytes", -1), ("bytes", -47), ("memory", 0), ("name", 0), ("modules", 4), ("system", 8),
        ("directory", 0), ("directory", 35), (0, 0), (0, 8), (31, 0),
    ],
)  # fmt: skip
def test_memory64_in_structures(opened: Any, base: str | int, offset: int) -> None:
    """If a 64-bit list's bytes are said to lie where structures are, all would be shifted: all of it is missing."""
    data = full(base, offset)
    process = opened(data)
    assert contents(process) == {}
    assert process.incomplete
    assert [(gap.start, gap.size, gap.reason) for gap in process.space.missing] == [
        (0x10000, PAGE, MISPLACED),
        (0x20000, 2 * PAGE, MISPLACED),
    ]
    assert any("memory (64-bit) list says that memory lies at 0x" in note for note in process.warnings)
    assert any(f"{3 * PAGE} bytes are missing whose place" in note for note in process.warnings)
    assert balance(process) == process.input_bytes == len(data)
    with pytest.raises(AddressError, match=r"mapped but missing \(its place in the dump cannot be right\)"):
        process.space.read(0x10000, 1)


def test_memory64_over_a_later_list(opened: Any) -> None:
    """Sizes that reach over a list behind the bytes are as wrong as a BaseRva that is."""

    def made(size: int) -> bytes:
        return laid_out(
            {
                "directory": b"",
                "memory": lambda places: memory64_list(places["bytes"], (0x10000, size)),
                "bytes": ONE,
                "modules": module_list((0x10000, PAGE, 0)),
            },
            [(9, "memory", None), (4, "modules", None)],
        )

    assert contents(opened(made(PAGE))) == {0x10000: ONE}
    assert contents(opened(made(PAGE + 1))) == {}


def test_the_other_list_is_read(opened: Any) -> None:
    """What the list with places of its own has is read, whatever the 64-bit list says."""
    data = laid_out(
        {
            "directory": b"",
            "stack": noise(3, 64),
            "memory": lambda places: memory64_list(places["memory"], (0x10000, PAGE)),
            "list": lambda places: memory_list((0x10040, 64, places["stack"])),
            "bytes": ONE,
        },
        [(9, "memory", None), (5, "list", None)],
    )
    process = opened(data)
    assert contents(process) == {0x10040: noise(3, 64)}
    assert sum(gap.size for gap in process.space.missing) == PAGE - 64
    assert process.incomplete


def listed(rows: list[tuple[int, int, str | int, int]], *, before: bool = False) -> bytes:
    """Return a minidump of a MemoryList: address, size, block or place, and bytes behind it.

    `before` puts the bytes in front of the lists.
    """

    def memory(places: Mapping[str, int]) -> bytes:
        return memory_list(
            *((at, size, (place if isinstance(place, int) else places[place]) + more) for at, size, place, more in rows)
        )

    structures: dict[str, Any] = {
        "directory": b"",
        "system": system_info(),
        "memory": memory,
        "modules": lambda places: module_list((0x10000, PAGE, places["name"])),
        "infos": struct.pack("<IIQ", 16, 48, 1)
        + struct.pack("<QQIIQIII4x", 0x10000, 0x10000, 4, 0, PAGE, 0x1000, 4, 0),
        "threads": thread_list((4, 0, 0, 0, 0, 0)),
    }
    data = {"name": NAME, "one": ONE, "two": TWO}
    blocks = {**data, **structures} if before else {**structures, **data}
    return laid_out(blocks, [(7, "system", None), (5, "memory", None), (4, "modules", None), (16, "infos", None),
                             (3, "threads", None)])  # fmt: skip


@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize(
    ("place", "more"),
    [
        (1, 0), (31, 0), ("directory", 0), ("directory", 59), ("system", 0), ("system", 55), ("memory", 0),
        ("memory", 19), ("modules", 3), ("infos", 63), ("threads", 51),
    ],
)  # fmt: skip
def test_memory_list_in_structures(opened: Any, place: str | int, more: int, before: bool) -> None:  # noqa: FBT001
    """An entry whose bytes are said to lie in any structure is missing, and the others are read."""
    data = listed([(0x10000, PAGE, "one", 0), (0x30000, 16, place, more)], before=before)
    process = opened(data)
    assert contents(process) == {0x10000: ONE}
    assert [(gap.start, gap.size, gap.reason) for gap in process.space.missing] == [(0x30000, 16, MISPLACED)]
    assert process.incomplete
    assert any("of 1 of 2 entries of its memory list" in note for note in process.warnings)
    assert balance(process) == process.input_bytes == len(data)


def test_rva_0(opened: Any) -> None:
    """RVA 0 means that the bytes were not stored: they are missing, and reading them is an error with the reason."""
    process = opened(listed([(0x10000, PAGE, "one", 0), (0x30000, PAGE, 0, 0)]))
    assert contents(process) == {0x10000: ONE}
    assert [(gap.start, gap.size, gap.reason) for gap in process.space.missing] == [(0x30000, PAGE, NOT_WRITTEN)]
    assert process.incomplete
    assert any(f"{PAGE} bytes are missing that the minidump lists without a place" in note for note in process.warnings)
    with pytest.raises(AddressError, match=r"0x30000: mapped but missing \(not written to the dump\)"):
        process.space.read(0x2FFF0 + 16, 16)


def test_rva_0_of_what_the_other_list_has(opened: Any) -> None:
    """What one list did not store and the other one has is not missing."""
    data = laid_out(
        {
            "directory": b"",
            "memory": lambda places: memory64_list(places["bytes"], (0x10000, PAGE)),
            "list": memory_list((0x10040, 64, 0)),
            "bytes": ONE,
        },
        [(9, "memory", None), (5, "list", None)],
    )
    process = opened(data)
    assert contents(process) == {0x10000: ONE}
    assert not process.incomplete


def test_commands(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    """Commands say what is missing and end with 3; what they write is not complete; reading it is an error."""
    path = tmp_path / "some.mdmp"
    path.write_bytes(listed([(0x10000, PAGE, "one", 0), (0x30000, PAGE, 0, 0)]))
    shown = invoke(capfdbinary, "segments", path)
    assert shown.code == 3
    assert "without a place in it (RVA 0)" in shown.err
    assert invoke(capfdbinary, "carve", path, "-o", tmp_path / "out").code == 3
    document = json.loads((tmp_path / "out" / "segments.json").read_text())
    assert document["complete"] is False
    assert [row["reason"] for row in document["missing"]] == ["not written to the dump"]
    read = invoke(capfdbinary, "read", path, "0x30000", "16")
    assert (read.code, read.out) == (1, b"")
    assert "0x30000: mapped but missing (not written to the dump)" in read.err
    assert invoke(capfdbinary, "segments", tmp_path / "out").code == 3


STREAM_NAMES = {3: "thread", 4: "module", 5: "memory", 9: "memory (64-bit)", 16: "memory information"}


@pytest.mark.parametrize("kind", [3, 4, 16])
@pytest.mark.parametrize("place", [0, 8, "directory"])
def test_lists_in_the_header(opened: Any, kind: int, place: int | str) -> None:
    """A list that is said to lie in the header or the directory is not used, and a note says so."""
    data = bytearray(listed([(0x10000, PAGE, "one", 0)]))
    entry = next(at for at in range(32, 92, 12) if struct.unpack_from("<I", data, at)[0] == kind)
    struct.pack_into("<I", data, entry + 8, place if isinstance(place, int) else 32 + 8)
    process = opened(bytes(data))
    assert contents(process) == {0x10000: ONE}
    metadata = process.metadata
    assert [len(found) for found in (metadata.threads, metadata.modules, metadata.regions)] == [
        kind != 3, kind != 4, kind != 16,
    ]  # fmt: skip
    assert any(f"its {STREAM_NAMES[kind]} list is said to lie at" in note for note in process.warnings)
    assert process.name == (None if kind == 4 else "a.exe")


@pytest.mark.parametrize("kind", [5, 9])
def test_list_of_memory_in_the_header(opened: Any, kind: int) -> None:
    """If the only list of memory is said to lie in the header, it is an error, which is not that there is none."""
    data = bytearray(full("bytes") if kind == 9 else listed([(0x10000, PAGE, "one", 0)]))
    entry = next(at for at in range(32, 92, 12) if struct.unpack_from("<I", data, at)[0] == kind)
    for place in (0, 16, 40):
        struct.pack_into("<I", data, entry + 8, place)
        with pytest.raises(
            InputError, match=r"some\.mdmp: .* list of memory is said to lie in its header or directory"
        ):
            opened(bytes(data))


def test_directory_in_the_header(opened: Any) -> None:
    """A directory that is said to lie in the header is an error."""
    data = full("bytes")
    for place in (0, 12, 31):
        with pytest.raises(InputError, match=f"3 streams, listed at 0x{place:x}, inside its header"):
            opened(data[:12] + struct.pack("<I", place) + data[16:])


def twice(kind: int, one: Any, other: Any) -> bytes:
    """Return a minidump with two lists of memory of one kind, and bytes for each, at blocks ``a`` and ``b``."""
    return laid_out(
        {"directory": b"", "first": one, "second": other, "a": ONE, "b": TWO},
        [(kind, "first", None), (kind, "second", None)],
    )


def wide(block: str, *rows: tuple[int, int]) -> Any:
    """Return a 64-bit list of a block's bytes."""
    return lambda places: memory64_list(places[block], *rows)


def plain(*rows: tuple[int, int, str]) -> Any:
    """Return a list of blocks' bytes."""
    return lambda places: memory_list(*((at, size, places[block]) for at, size, block in rows))


@pytest.mark.parametrize(
    ("kind", "one", "other", "read", "missing"),
    [
        # other addresses, the same addresses with other bytes, the same list once more, one row in common
        (9, wide("a", (0x10000, PAGE)), wide("b", (0x20000, PAGE)), {}, {0x10000: PAGE, 0x20000: PAGE}),
        (9, wide("a", (0x10000, PAGE)), wide("b", (0x10000, PAGE)), {}, {0x10000: PAGE}),
        (9, wide("a", (0x10000, PAGE)), wide("a", (0x10000, PAGE)), {0x10000: ONE}, {}),
        (9, wide("a", (0x10000, PAGE), (0x20000, 64)), wide("a", (0x10000, PAGE), (0x20000, 32)), {0x10000: ONE},
         {0x20000: 64}),
        (5, plain((0x10000, PAGE, "a")), plain((0x10000, PAGE, "b")), {}, {0x10000: PAGE}),
        (5, plain((0x10000, PAGE, "a")), plain((0x10000, PAGE, "a"), (0x20000, PAGE, "b")), {0x10000: ONE},
         {0x20000: PAGE}),
    ],
)  # fmt: skip
def test_two_lists_of_memory(
    opened: Any, kind: int, one: Any, other: Any, read: dict[int, bytes], missing: dict[int, int]
) -> None:
    """Of two lists of one kind nobody knows which is right: what only one of them says is missing, never bytes."""
    process = opened(twice(kind, one, other))
    assert contents(process) == read
    assert {gap.start: gap.size for gap in process.space.missing} == missing
    assert process.incomplete
    assert any("has a second memory" in note for note in process.warnings)
    assert balance(process) == process.input_bytes


def test_one_stream_listed_twice(opened: Any) -> None:
    """A directory that lists one stream twice is told, and what is read is the same."""
    data = laid_out(
        {"directory": b"", "memory": wide("a", (0x10000, PAGE)), "a": ONE}, [(9, "memory", None), (9, "memory", None)]
    )
    process = opened(data)
    assert contents(process) == {0x10000: ONE}
    assert any("list is listed twice" in note for note in process.warnings)


def test_second_list_of_others(opened: Any) -> None:
    """Of two lists of modules the first one counts, and a note says that there is another."""
    data = laid_out(
        {
            "directory": b"",
            "memory": wide("a", (0x10000, PAGE)),
            "one": module_list((0x10000, PAGE, 0)),
            "other": module_list((0x20000, PAGE, 0)),
            "a": ONE,
        },
        [(9, "memory", None), (4, "one", None), (4, "other", None)],
    )
    process = opened(data)
    assert [row.start for row in process.metadata.modules[0].rows] == [0x10000]
    assert any("has a second module list" in note for note in process.notes)


def test_names_and_contexts_in_structures(opened: Any) -> None:
    """A module's name and a thread's registers that are said to lie in structures are not known."""
    registers = minidumps.some_registers(minidumps.AMD64_REGISTERS)
    context = minidumps.context64(registers)
    for name, at in (("name", "context"), ("directory", "directory"), ("modules", "threads"), (8, 8)):
        data = laid_out(
            {
                "directory": b"",
                "system": system_info(),
                "memory": wide("a", (0x10000, PAGE)),
                "modules": lambda places, name=name: module_list(
                    (0x10000, PAGE, name if isinstance(name, int) else places[name])
                ),
                "threads": lambda places, at=at: thread_list(
                    (4, 0x20000, 64, 0, len(context), at if isinstance(at, int) else places[at])
                ),
                "name": NAME,
                "context": context,
                "a": ONE,
            },
            [(7, "system", None), (9, "memory", None), (4, "modules", None), (3, "threads", None)],
        )
        process = opened(data)
        there = name == "name"
        assert process.name == ("a.exe" if there else None)
        assert list(process.metadata.threads[0].rows) == [
            Thread(4, None, 0x20000, 0x20040, None, registers if there else None)
        ]


@pytest.mark.parametrize("head", [0, 4, 15, 1 << 16])
def test_head_of_a_wide_list(opened: Any, head: int) -> None:
    """A list whose rows are said to begin inside its own head, or far away, is not used."""
    infos = struct.pack("<IIQ", head, 48, 1) + struct.pack("<QQIIQIII4x", 0, 0, 4, 0, PAGE, 0x1000, 4, 0)
    data = laid_out(
        {"directory": b"", "memory": wide("a", (0x10000, PAGE)), "infos": infos, "a": ONE},
        [(9, "memory", None), (16, "infos", None)],
    )
    process = opened(data)
    assert contents(process) == {0x10000: ONE}
    assert list(process.metadata.regions[0]) == []
    assert any(f"has a head of {head} bytes" in note for note in [*process.notes, *process.metadata.notes])


# what honest writers do

STACK = noise(4, 0x400)


@pytest.mark.parametrize(
    "order",
    [
        ["directory", "system", "threads", "modules", "memory", "name", "stack", "one", "two"],
        ["stack", "one", "two", "name", "memory", "modules", "threads", "system", "directory"],
        ["one", "directory", "threads", "stack", "memory", "two", "modules", "name", "system"],
    ],
)
@pytest.mark.parametrize("aligned", [False, True])
def test_layouts_of_honest_writers(opened: Any, order: list[str], aligned: bool) -> None:  # noqa: FBT001
    """Lists and bytes may lie in any order, and the memory list may have the threads' stacks: nothing is missing."""

    def padded(data: bytes) -> bytes:
        return data[:4] + bytes(4) + data[4:] if aligned else data

    blocks: dict[str, Any] = {
        "directory": b"",
        "system": system_info(),
        "threads": lambda places: padded(thread_list((4, 0x30000, len(STACK), places["stack"], 0, 0))),
        "modules": lambda places: padded(module_list((0x10000, PAGE, places["name"]))),
        "memory": lambda places: padded(
            memory_list(
                (0x10000, PAGE, places["one"]), (0x20000, 2 * PAGE, places["two"]), (0x30000, 0x400, places["stack"])
            )
        ),
        "name": NAME,
        "stack": STACK,
        "one": ONE,
        "two": TWO,
    }
    # a kind that is not read may lie anywhere, several of a kind as well: Crashpad's and users' own streams
    streams = [(5, "memory", None), (7, "system", None), (3, "threads", None), (0, "one", 0), (4, "modules", None),
               (0x43500001, "one", None), (0x43500001, "two", None), (0x47670009, "directory", None)]  # fmt: skip
    process = opened(laid_out({name: blocks[name] for name in order}, streams))
    assert contents(process) == BOTH | {0x30000: STACK}
    assert (process.name, process.incomplete, process.warnings) == ("a.exe", False, [])
    assert [row.stack_start for row in process.metadata.threads[0].rows] == [0x30000]


@pytest.mark.parametrize("more", [1, 2])
def test_more_streams_than_there_are(opened: Any, more: int) -> None:
    """A writer that counts streams which it left out, so that the next one lies among their entries, is read."""
    data = bytearray(listed([(0x10000, PAGE, "one", 0)]))
    struct.pack_into("<I", data, 8, 5 + more)
    process = opened(bytes(data))
    assert contents(process) == {0x10000: ONE}
    assert (process.name, process.architecture, process.warnings) == ("a.exe", "x64", [])


def test_a_damaged_list_loses_no_memory(opened: Any) -> None:
    """A list of threads whose place leads into memory is told, and the memory is read all the same."""
    data = laid_out(
        {"directory": b"", "memory": wide("a", (0x10000, PAGE)), "a": ONE}, [(9, "memory", None), (3, "a", 100)]
    )
    process = opened(data)
    assert contents(process) == {0x10000: ONE}
    assert any("thread list should have" in note for note in process.metadata.notes)


@given(st.lists(st.tuples(st.integers(0, 700), st.integers(1, 80)), min_size=1, max_size=8))
def test_any_places(tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[int, int]]) -> None:
    """Wherever entries lead: bytes are those of the file at that place, and none is of a structure."""
    path = tmp_path_factory.getbasetemp() / "places.mdmp"
    blocks: dict[str, Any] = {
        "one": noise(5, 120),
        "directory": b"",
        "two": noise(6, 100),
        "memory": memory_list(*((0x1000 * number, size, place) for number, (place, size) in enumerate(rows, 1))),
        "three": noise(7, 90),
        "modules": module_list((0x10000, PAGE, 0)),
        "four": noise(8, 60),
    }
    data = laid_out(blocks, [(5, "memory", None), (4, "modules", None)])
    path.write_bytes(data)
    structures = set(range(32))
    for name in ("directory", "memory", "modules"):
        size = 24 if name == "directory" else len(blocks[name])
        at = data.index(blocks[name]) if size and name != "directory" else 32 + 120
        structures |= set(range(at, at + size))
    with opened_as(MINIDUMP, path) as container:
        process = container.process()
        for number, (place, size) in enumerate(rows, 1):
            if place and not structures & set(range(place, place + size)):
                there = data[place : place + size]
                assert process.space.read(0x1000 * number, len(there)) == there
            else:
                with pytest.raises(AddressError):
                    process.space.read(0x1000 * number, 1)


def test_made_as_before() -> None:
    """What this file's own maker writes is what the other maker writes, up to the order of blocks."""
    data = Dump([(0x10000, ONE)], system=None, flags=2).build()
    again = laid_out(
        {"directory": b"", "memory": lambda places: memory64_list(places["bytes"], (0x10000, PAGE)), "bytes": ONE},
        [(9, "memory", None)],
    )
    assert data == again
