"""Streams of Breakpad and Crashpad, stacks that threads alone have, and minidumps whose signature was replaced."""

from __future__ import annotations

import os
import random
import struct
from typing import TYPE_CHECKING, Any

import pytest

import memcarve
import minidumps
from cli import invoke
from memcarve.errors import InputError, NotRecognisedError
from memcarve.metadata import Region
from memcarve.sources.recognised import MINIDUMP
from memory import PAGE, noise
from minidumps import AMD64, INTEL, LINUX, WINDOWS, Dump, Info, Thread
from opening import opened_as
from processes import balance, contents

if TYPE_CHECKING:
    from pathlib import Path

STATUS, COMMAND_LINE, ENVIRONMENT, AUXV, MAPS = 0x47670004, 0x47670006, 0x47670007, 0x47670008, 0x47670009
ON_LINUX = (AMD64, LINUX, 6, 1, 0)
SHARED = "/dev/shm/x"  # noqa: S108 - a name in a map
TEXT = b"""\
00010000-00011000 r-xp 00002000 08:01 5                                  /usr/bin/a prog
00020000-00022000 rw-p 00000000 00:00 0                                  [stack]
00030000-00031000 rw-s 00000000 00:05 7                                  /dev/shm/x
"""


def test_linux_maps(opened: Any) -> None:
    """The copy of /proc/PID/maps gives the regions: protections, files, offsets, kinds; MemoryInfoList adds nothing."""
    dump = Dump(
        memory32=[(0x10000, noise(1, PAGE)), (0x20000, noise(2, 2 * PAGE))],
        infos=[Info(0x10000, PAGE, 0x10000)],
        system=ON_LINUX,
        raw={MAPS: TEXT},
    )
    process = opened(dump)
    (regions,) = process.metadata.regions
    assert regions.source == "LinuxMaps (some.mdmp)"
    assert regions.rows == [
        Region(0x10000, PAGE, "r-xp", "mapped", "/usr/bin/a prog", offset=0x2000, device=(8, 1), inode=5),
        Region(0x20000, 2 * PAGE, "rw-p", "stack", private=True, device=(0, 0), inode=0),
        Region(0x30000, PAGE, "rw-s", "mapped", SHARED, private=False, offset=0, device=(0, 5), inode=7),
    ]
    assert not process.metadata.notes


def test_lines_that_are_none(opened: Any) -> None:
    """Lines of the copied map that say nothing, or what cannot be, are told in one note, and the others are used."""
    bad = b"nonsense \x1b[2J\n00050000-00040000 rw-p 00000000 00:00 0\n"
    process = opened(Dump(memory32=[(0x10000, b"x")], system=ON_LINUX, raw={MAPS: TEXT + bad * 500}))
    assert len(process.metadata.regions[0]) == 3
    (note,) = process.metadata.notes
    assert "1000 lines of its copy of /proc/PID/maps are not as they must be; not used, the first is line 4" in note
    assert "\x1b" not in note


def test_linux_status(opened: Any) -> None:
    """Pid and name are those of /proc/PID/status if nothing else tells; what tells them first takes precedence."""
    status = b"Name:\tmy prog\nState:\tR (running)\nPid:\t4242\nPPid:\t1\n"
    dump = Dump(memory32=[(0x10000, b"x")], system=ON_LINUX, raw={STATUS: status})
    process = opened(dump)
    assert (process.pid, process.name) == (4242, "my prog")
    dump.pid, dump.modules = 7, [(0x10000, PAGE, "/bin/other")]
    process = opened(dump)
    assert (process.pid, process.name) == (7, "other")
    nothing = opened(Dump(memory32=[(0x10000, b"x")], system=ON_LINUX, raw={STATUS: b"Pid:\tx\nName:\n:\n"}))
    assert (nothing.pid, nothing.name) == (None, None)


def test_what_a_linux_program_was_started_with(opened: Any) -> None:
    """The copies of cmdline, environ and auxv give the command line, the environment and the auxiliary vector."""
    vector = struct.pack("<4Q", 3, 0x400040, 0, 0)
    raw = {COMMAND_LINE: b"prog\0-x\0two words\0", ENVIRONMENT: b"A=1\0B=\xff\0", AUXV: vector}
    process = opened(Dump(memory32=[(0x10000, b"x")], system=ON_LINUX, raw=raw))
    (found,) = process.metadata.parameters
    assert found.command_line == "prog -x 'two words'"
    assert found.environment == ("A=1", "B=\udcff")
    assert process.auxiliary_vector == vector


def test_thread_names(opened: Any) -> None:
    """Threads have the names of ThreadNames."""
    threads = [Thread(4), Thread(5, name="worker \u00fc"), Thread(6, name="")]
    process = opened(Dump([(0x10000, b"x")], threads=threads))
    assert [(row.tid, row.name) for row in process.metadata.threads[0].rows] == [
        (4, None),
        (5, "worker \u00fc"),
        (6, None),
    ]


def test_stacks_of_threads_alone(opened: Any) -> None:
    """A stack that no list of memory has, and whose thread says where it is, is memory; without any list, too."""
    stack, page = noise(1, 0x345), noise(2, PAGE)
    threads = [Thread(4, stack=(0x7FFD0000, len(stack)), stored=stack), Thread(5, stack=(0x9000, 64))]
    process = opened(Dump(memory32=[(0x10000, page)], threads=threads, flags=0))
    assert contents(process) == {0x10000: page, 0x7FFD0000: stack}
    assert (process.incomplete, process.warnings) == (False, [])
    assert balance(process) == process.input_bytes
    assert contents(opened(Dump(threads=threads, flags=0))) == {0x7FFD0000: stack}
    with pytest.raises(InputError, match="holds no memory"):
        opened(Dump(threads=threads[1:], flags=0))


def test_stacks_that_lists_have_in_part(opened: Any) -> None:
    """Of a stack that a list has in part the rest is added; a second copy of the same bytes counts once."""
    stack = noise(3, 0x300)
    thread = Thread(4, stack=(0x20000, 0x300), stored=stack)
    process = opened(Dump(memory32=[(0x20100, stack[0x100:0x180]), (0x1FFF0, bytes(16))], threads=[thread]))
    assert contents(process) == {0x1FFF0: bytes(16) + stack}
    assert process.left_out["of addresses that the file holds twice"] == 0x80
    assert (process.incomplete, balance(process)) == (False, process.input_bytes)


def test_stacks_that_differ(opened: Any, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    """If stacks have other bytes than a list, the list's count; one note says how many there are, and exit is 3."""
    page = noise(4, PAGE)
    threads = [
        Thread(tid, stack=(0x20000 + 16 * tid, 24), stored=bytes(8) + noise(tid, 16)) for tid in range(0, 100, 2)
    ]
    process = opened(Dump(memory32=[(0x20000, page)], threads=threads))
    assert contents(process) == {0x20000: page}
    (note,) = process.warnings
    assert "the stacks of 50 threads have other bytes than a list of memory" in note
    assert "first at 0x20000" in note
    assert process.incomplete
    assert invoke(capfdbinary, "segments", str(tmp_path / "some.mdmp")).code == 3


def test_stacks_that_differ_from_each_other(opened: Any) -> None:
    """Stacks that share addresses and differ are not used; one that stands alone is."""
    threads = [
        Thread(1, stack=(0x20000, 32), stored=noise(1, 32)),
        Thread(2, stack=(0x20010, 8), stored=noise(2, 8)),
        Thread(3, stack=(0x20018, 16), stored=noise(3, 16)),
        Thread(4, stack=(0x20028, 16), stored=noise(4, 16)),
    ]
    process = opened(Dump(memory32=[(0x10000, b"x")], threads=threads))
    assert contents(process) == {0x10000: b"x", 0x20028: noise(4, 16)}
    assert any("the stacks of 3 threads" in note for note in process.warnings)


def test_stacks_against_a_dictionary(opened: Any) -> None:
    """Random stacks and lists over the same bytes give what a dictionary of addresses has."""
    dice = random.Random(5)  # noqa: S311
    for _ in range(60):
        truth = dice.randbytes(64)
        expected: dict[int, int] = {}
        rows: list[list[tuple[int, bytes]]] = [[], []]
        for found in rows:
            for _ in range(dice.randrange(4)):
                low = dice.randrange(60)
                found.append((0x20000 + low, truth[low : low + dice.randrange(1, 20)]))
        for low, data in rows[0] + rows[1]:
            expected.update({low + place: byte for place, byte in enumerate(data)})
        threads = [Thread(place, stack=(low, len(data)), stored=data) for place, (low, data) in enumerate(rows[1])]
        process = opened(Dump(memory32=[(0x10000, b"x"), *rows[0]], threads=threads))
        held = {at + place: byte for at, data in contents(process).items() for place, byte in enumerate(data)}
        assert held == expected | {0x10000: ord("x")}
        assert balance(process) == process.input_bytes


def test_places_that_lost_their_upper_half(tmp_path: Path) -> None:
    """In a file beyond 4 GiB with a 64-bit list, what threads say of places is not compared: it has 32 bits alone."""
    thread = Thread(4, stack=(0x10000, 16), stored=bytes(16))
    path = tmp_path / "long.dmp"
    for size, incomplete in ((0, True), ((1 << 32) + PAGE, False)):
        path.write_bytes(Dump([(0x10000, noise(1, PAGE))], threads=[thread]).build())
        os.truncate(path, max(path.stat().st_size, size))
        with memcarve.open(path) as container:
            process = container.process()
            assert process.read(0x10000, 16) == noise(1, PAGE)[:16]
            assert process.incomplete == incomplete


def test_a_stack_that_was_cut_off(opened: Any) -> None:
    """A stack for which the file is too short is missing from there on."""
    stack = noise(5, 0x200)
    data = Dump(memory32=[(0x10000, b"x")], threads=[Thread(4, stack=(0x20000, 0x200), stored=stack)]).build()
    place = data.index(stack)
    moved = bytearray(data + data[place : place + 0x100])
    row = data.index(struct.pack("<QII", 0x20000, 0x200, place))
    struct.pack_into("<I", moved, row + 12, len(data))
    process = opened(bytes(moved))
    assert contents(process) == {0x10000: b"x", 0x20000: stack[:0x100]}
    assert [(gap.start, gap.size, gap.reason) for gap in process.space.missing] == [
        (0x20100, 0x100, "the dump ends too early")
    ]
    assert process.incomplete


def test_stacks_in_structures(opened: Any) -> None:
    """A stack that is said to lie in a list is not used, and one note says of how many that is so."""
    data = Dump(memory32=[(0x10000, b"x")], threads=[Thread(n, stack=(0x20000 * n, 16), stored=b"s" * 16)
                                                     for n in (1, 2)]).build()  # fmt: skip
    wrong = bytearray(data)
    for start in (0x20000, 0x40000):
        struct.pack_into("<I", wrong, data.index(struct.pack("<QI", start, 16)) + 12, 40)
    process = opened(bytes(wrong))
    assert contents(process) == {0x10000: b"x"}
    (note,) = process.warnings
    assert "of 2 of its threads' stacks the place cannot be right, of the first that at 0x20000; not used" in note


def test_extended_threads(opened: Any) -> None:
    """ThreadExList gives threads, stacks, and what Itanium's registers were spilled to, which its rows alone have."""
    stack, store = noise(6, 32), noise(7, 48)
    data = bytearray(Dump(memory32=[(0x10000, stack + store)], raw={8: b"here" * 17}).build())
    place, row = data.index(stack), data.index(b"here" * 17)
    struct.pack_into("<IIIIIQQIIIIQII", data, row, 1, 77, 0, 0, 0, 0, 0x20000, 32, place, 0, 0, 0x30000, 48, place + 32)
    process = opened(bytes(data))
    assert contents(process) == {0x10000: stack + store, 0x20000: stack, 0x30000: store}
    assert [(each.tid, each.stack_start) for each in process.metadata.threads[0].rows] == [(77, 0x20000)]


def test_memory_that_is_not_read_is_named(opened: Any) -> None:
    """Streams that hold memory in a way that is not read are named by number and name; others are not."""
    process = opened(Dump(memory32=[(0x10000, b"x")], raw={0x8008: b"1234", 12: b"1234", 0x43500001: b"1234"}))
    (note,) = process.warnings
    assert "its stream 0x8008 (ceStreamMemoryVirtualList) holds memory that is not read" in note


def test_conflicts_are_summed_up(opened: Any) -> None:
    """Thousands of modules that cannot be, and rows of memory information that share addresses, are one note each."""
    infos = [Info(0x10000 + 0x10 * n, 0x20, 0x10000) for n in range(1000)]
    modules = [(0xFFFFFFFFFFFFF000 - n, 0x2000, "") for n in range(2000)]
    process = opened(Dump([(0x10000, b"x")], infos=infos, modules=modules))
    notes = process.metadata.notes
    assert len([note for note in notes if "ends beyond the last address, and 1999 more do; not used" in note]) == 1
    assert len([note for note in notes if "1000 regions share addresses" in note]) == 1
    assert len(notes) <= 4


def test_conflicts_between_a_minidumps_own_lists(opened: Any) -> None:
    """Modules that end beyond what is mapped are one note, with the first and how many more there are."""
    infos = [Info(0x100000 * n, PAGE, 0x100000 * n, kind=minidumps.IMAGE) for n in range(1, 301)]
    modules = [(0x100000 * n, 2 * PAGE, f"C:\\{n}.dll") for n in range(1, 301)]
    process = opened(Dump([(0x10000, b"x")], infos=infos, modules=modules))
    (note,) = memcarve.Labelling()(process, process.segments(), memcarve.Selection()).notes
    assert note.startswith("conflict at 0x100000: end of the module: MemoryInfoList (some.mdmp) says 0x101000, ")
    assert note.endswith("; 299 more conflicts within the same file")


# a signature that was replaced

NANO = Dump([(0x10000, noise(1, PAGE))], modules=[(0x10000, PAGE, "C:\\x\\lsass.exe")])


def disguised(signature: bytes, dump: Dump = NANO) -> bytes:
    """Return a minidump with other bytes in the place of signature and version."""
    return signature + dump.build()[len(signature) :]


@pytest.mark.parametrize(
    "signature",
    [
        bytes(8), b"\x137\xbe\xef\x34\x12\0\0", b"\xff" * 8, b"PMDM\x93\xa7\0\0", b"\x7fELF\2\1\1\0", b"PAGEDU64",
        b"EMiL\1\0\0\0", b"AVML\1\0\0\0", b"KDMV\0\0\0\0", b"TaskName",
    ],
)  # fmt: skip
def test_a_replaced_signature(tmp_path: Path, signature: bytes, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    """Whatever stands in the place of signature and version, the directory tells a minidump, and a note says so."""
    path = tmp_path / "nano.dmp"
    path.write_bytes(disguised(signature))
    with memcarve.open(path) as container:
        process = container.process()
        assert process.read(0x10000, PAGE) == noise(1, PAGE)
        assert (process.name, process.incomplete) == ("lsass.exe", False)
        assert any(
            f"begins with {signature[:4].hex()} in place of a minidump's signature" in note for note in process.notes
        )
    assert invoke(capfdbinary, "segments", str(path)).code == 0


@pytest.mark.parametrize(
    "damage",
    [
        (8, struct.pack("<I", 65)),  # number of streams
        (12, struct.pack("<I", 16)),  # the directory in the header
        (28, b"\1"),  # flags that there are not
        (32, struct.pack("<I", 0x1234567)),  # a kind of stream that there is not
        (40, struct.pack("<I", 1 << 30)),  # a stream outside the file
        (40, struct.pack("<I", 8)),  # one in the header
        (32, struct.pack("<I", 4)),  # no SystemInfo
    ],
)
def test_no_signature_and_no_sound_directory(tmp_path: Path, damage: tuple[int, bytes]) -> None:
    """Without a signature the whole directory must be sound; `--input-type minidump` takes what could be one."""
    data = bytearray(disguised(b"12345678"))
    place, value = damage
    data[place : place + len(value)] = value
    path = tmp_path / "nano.dmp"
    path.write_bytes(data)
    with pytest.raises(NotRecognisedError):
        opened_as(MINIDUMP, path)
    with pytest.raises(InputError), memcarve.open(path):
        pass


def test_said_to_be_a_minidump(tmp_path: Path) -> None:
    """What is said to be a minidump is read with any streams; what cannot be one is still not."""
    path = tmp_path / "nano.dmp"
    path.write_bytes(disguised(b"12345678", Dump([(0x10000, b"abc")], raw={0x1234567: b"unknown"}, system=None)))
    with pytest.raises(InputError), memcarve.open(path):
        pass
    with memcarve.open(path, input_type="minidump") as container:
        assert container.process().read(0x10000, 3) == b"abc"
    for other in (b"", b"short", bytes(PAGE), noise(9, PAGE), b"text " * 1000):
        path.write_bytes(other)
        with pytest.raises(NotRecognisedError, match="is not a minidump"), memcarve.open(path, input_type="minidump"):
            pass


def test_noise_is_no_minidump(tmp_path: Path) -> None:
    """Random bytes, also behind a likely header, are taken for no minidump."""
    dice, path = random.Random(7), tmp_path / "noise.bin"  # noqa: S311
    for number in range(300):
        data = bytearray(dice.randbytes(PAGE))
        if number % 2:
            struct.pack_into("<IIIIQ", data, 8, dice.randrange(1, 20), 32, 0, 0, 2)
        for place in range(32, 272, 12) if number % 3 == 0 else ():
            entry = dice.choice((3, 4, 5, 7, 9)), dice.randrange(200), dice.randrange(PAGE - 200)
            struct.pack_into("<III", data, place, *entry)
        path.write_bytes(data)
        with pytest.raises(NotRecognisedError):
            opened_as(MINIDUMP, path)


def test_options_that_contradict_each_other_before_a_likely_header(tmp_path: Path) -> None:
    """A file that could be a minidump and is none is refused like any other if options contradict each other."""
    path = tmp_path / "noise.bin"
    path.write_bytes(noise(1, 8) + struct.pack("<II", 1, 32) + noise(2, PAGE))
    with pytest.raises(memcarve.UsageError, match="cannot be both"), memcarve.open(path, dtb=0x1000, trust="sum"):
        pass


def test_narrow_stacks(opened: Any) -> None:
    """A stack of a 32-bit process from 2 GiB on, whose address was extended, lies where the process had it."""
    thread = Thread(4, stack=(0xFFFFFFFFA0000000, 16), stored=noise(1, 16))
    process = opened(Dump(memory32=[(0x10000, b"x")], threads=[thread], system=(INTEL, WINDOWS, 6, 1, 7601)))
    assert contents(process) == {0x10000: b"x", 0xA0000000: noise(1, 16)}
