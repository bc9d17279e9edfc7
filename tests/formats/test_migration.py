"""Migration streams of QEMU, also inside of what libvirt saves: RAM is found where the machine has it."""

from __future__ import annotations

import bz2
import gzip
import lzma
import random
import shutil
import struct
import subprocess
from typing import TYPE_CHECKING

import cramjam
import numpy as np
import pytest

import containers
from containers import PAGE
from memcarve.backing import FileBacking
from memcarve.errors import InputError, SourceReadError
from memcarve.formats.images import libvirt, migration
from memcarve.images.physical import PhysicalMemory
from memory import content

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from memcarve.formats.images.machine import MachineMemory

RAM = b"pc.ram"
PAGES = [(RAM, 0, content(0, PAGE)), (RAM, PAGE, bytes(PAGE)), (RAM, 2 * PAGE, b"\xee" * PAGE)]
BLOCKS = [(RAM, 3 * PAGE), (b"pc.bios", PAGE)]


def read(path: Path, data: bytes) -> MachineMemory:
    """Read a stream, saved by libvirt or not."""
    path.write_bytes(data)
    file = FileBacking(path)
    memory = migration.read(file) or libvirt.read(file)
    assert memory is not None
    return memory


def stream(pages: Sequence[tuple[bytes, int, bytes]] = PAGES, **how: object) -> bytes:
    """Return a stream of pages; all blocks of `BLOCKS` if no others are given."""
    return b"".join(containers.migration_parts(how.pop("blocks", BLOCKS), pages, **how))  # type: ignore[arg-type]


BIOS = (b"pc.bios", 0, content(5, PAGE))


def test_pages(tmp_path: Path) -> None:
    """Pages are found, also those that one byte fills; blocks that are no main memory are not placed."""
    memory = read(tmp_path / "image", stream([*PAGES, BIOS]))
    physical = PhysicalMemory(memory)
    assert physical.read(0, 3 * PAGE) == b"".join(data for _, _, data in PAGES)
    assert physical.end == 3 * PAGE
    assert memory.declared
    assert memory.notes == ()
    assert memory.kind == "QEMU migration stream (pc-q35-7.2)"


def test_the_last_copy_counts(tmp_path: Path) -> None:
    """Of pages that are sent again, in any order and in other forms, the last copy counts."""
    chance = random.Random(4)  # noqa: S311
    count = 40
    sent = [(RAM, number * PAGE, content(number, PAGE)) for number in range(count)]
    for turn in range(200):
        number = chance.randrange(count)
        fill = bytes([chance.choice((0, 0, 1))]) * PAGE
        sent.append((RAM, number * PAGE, content(1000 * turn, PAGE) if chance.random() < 0.6 else fill))
    expected = {address: data for _, address, data in sent}
    for per_section in (1, 3, 1000):
        data = stream(sent, blocks=[(RAM, count * PAGE)], per_section=per_section)
        physical = PhysicalMemory(read(tmp_path / "image", data))
        for address, page in expected.items():
            assert physical.read(address, PAGE) == page
        assert physical.read(0, count * PAGE) == b"".join(expected[at * PAGE] for at in range(count))


def test_zeros(tmp_path: Path) -> None:
    """Many zeros in a row take no room."""
    sent = [(RAM, number * PAGE, bytes(PAGE) if 1 <= number < 400 else content(number, PAGE)) for number in range(402)]
    memory = read(tmp_path / "image", stream(sent, blocks=[(RAM, 402 * PAGE)], per_section=1000))
    assert memory.zeros is not None
    assert list(memory.zeros.bounds()) == [(PAGE, 400 * PAGE)]
    assert PhysicalMemory(memory).stored == 3 * PAGE


@pytest.mark.parametrize(
    ("machine", "size", "low", "high"),
    [
        (b"pc-q35-9.1", 0xB0000000 - PAGE, 0xB0000000 - PAGE, 0),
        (b"pc-q35-rhel9.2.0", 0xB0000000, 0x80000000, 0x30000000),
        (b"pc-i440fx-7.2", 0xE0000000 - PAGE, 0xE0000000 - PAGE, 0),
        (b"pc-i440fx-jammy", 0xE0000000, 0xC0000000, 0x20000000),
        (b"pc-i440fx-1.7", 0xE0000000 + PAGE, 0xE0000000, PAGE),
        (b"virt-7.2", 0x200000000, 0, 0x200000000),
    ],
)
def test_where_ram_lies(tmp_path: Path, machine: bytes, size: int, low: int, high: int) -> None:
    """RAM lies as the machine has it, around the hole below 4 GiB."""
    name = b"mach-virt.ram" if machine.startswith(b"virt") else RAM
    sent = [(name, 0, content(1, PAGE)), (name, size - PAGE, content(2, PAGE))]
    if 0 < low < size:
        sent += [(name, low - PAGE, content(3, PAGE)), (name, low, content(4, PAGE))]
    memory = read(tmp_path / "image", stream(sent, blocks=[(name, size)], machine=machine))
    physical = PhysicalMemory(memory)
    top = 0x40000000 if machine.startswith(b"virt") else 4 << 30
    begin = 0 if low else top
    end = top + high if high else low
    assert physical.read(begin, PAGE) == content(1, PAGE)
    assert physical.read(end - PAGE, PAGE) == (content(4, PAGE) if high == PAGE else content(2, PAGE))
    if 0 < low < size:
        assert physical.read(low - PAGE, PAGE) == content(3, PAGE)
        assert physical.read(low, 1) is None
        assert physical.read(top, PAGE) == content(4, PAGE)
    assert memory.architecture == ("arm64" if machine.startswith(b"virt") else None)


def test_nodes(tmp_path: Path) -> None:
    """Memory of several nodes follows each other by number; what was plugged in has no known place."""
    blocks = [(b"ram-node1", PAGE), (b"ram-node0", 2 * PAGE), (b"dimm0", PAGE)]
    sent = [(name, 0, content(number, PAGE)) for number, (name, _) in enumerate(blocks)]
    sent.append((b"ram-node0", PAGE, content(9, PAGE)))
    memory = read(tmp_path / "image", stream(sent, blocks=blocks))
    assert PhysicalMemory(memory).read(0, 3 * PAGE) == content(1, PAGE) + content(9, PAGE) + content(0, PAGE)
    assert "plugged in" in memory.notes[0]
    assert "dimm0" in memory.notes[0]


def test_pages_that_were_not_sent(tmp_path: Path) -> None:
    """What a whole stream does not have is left out; of one that ends early it is cut off."""
    memory = read(tmp_path / "image", stream(PAGES[:1] + PAGES[2:]))
    assert memory.left_out is not None
    assert list(memory.left_out.bounds()) == [(PAGE, 2 * PAGE)]
    assert memory.cut_off == []
    memory = read(tmp_path / "image", stream(PAGES[:1], end=False))
    assert memory.cut_off == [(PAGE, 2 * PAGE)]
    assert not memory.declared
    assert "before all RAM was sent" in memory.notes[0]
    with pytest.raises(SourceReadError, match="was not sent"):
        memory.backing.read_into(0, memoryview(bytearray(2 * PAGE)))


def test_cut_off_anywhere(tmp_path: Path) -> None:
    """A stream that ends at any byte gives the pages that are whole, and says that there were more."""
    data = stream([*PAGES, (RAM, 0, content(7, PAGE)), BIOS], footers=False)
    whole = [content(0, PAGE), content(7, PAGE)]
    for length in [*range(160), *range(160, len(data), 97)]:
        try:
            memory = read(tmp_path / "image", data[:length])
        except (InputError, AssertionError):
            assert length < 120
            continue
        physical = PhysicalMemory(memory)
        assert physical.read(0, PAGE) in [*whole, None]
        assert sum(size for _, size in memory.cut_off) + physical.total == 3 * PAGE
        assert memory.declared or memory.notes


def test_what_is_refused(tmp_path: Path) -> None:
    """Pages in other forms, shared memory, multifd, other machines and versions are refused by name, with a remedy."""

    def flagged(flag: int) -> bytes:
        data = bytearray(stream())
        at = data.index(struct.pack(">Q", 8) + b"\x06pc.ram")
        data[at : at + 8] = struct.pack(">Q", flag)
        return bytes(data)

    for data, words in (
        (flagged(0x40), r"xbzrle"),
        (flagged(0x100), r"compressed \(the capability compress\)"),
        (flagged(0x80), "RDMA"),
        (flagged(0x200), "multifd"),
        (stream(capabilities=[b"x-ignore-shared"]), "x-ignore-shared"),
        (
            stream([], blocks=[(b"ppc_spapr.ram", PAGE)], machine=b"pseries-7.2"),
            "'pseries-7.2'; where its RAM lies",
        ),
        (stream([(RAM, 3 * PAGE, content(0, PAGE))]), "lies in no block"),
        (stream().replace(*(b"\x06pc.ram" + struct.pack(">Q", size) for size in (3 * PAGE, 100)), 1), "list of blocks"),
        (b"QEVM\0\0\0\2" + bytes(100), "version 2; expected version 3"),
        (b"QEVM\0\0\0\3" + bytes(100), "without RAM"),
    ):
        with pytest.raises(InputError, match=rf"{words}.*-incoming.*dump-guest-memory"):
            read(tmp_path / "image", data)


def test_sections_of_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream of commands alone, five bytes each, is not followed to its end, however long it is."""
    data = b"QEVM\0\0\0\3" + b"\x08\0\0\0\0" * 1000
    with pytest.raises(InputError, match="without RAM"):
        read(tmp_path / "image", data)
    monkeypatch.setattr(migration, "_MOST_SECTIONS", 900)
    with pytest.raises(InputError, match="of more than 900 sections; it is damaged"):
        read(tmp_path / "image", data)


def test_an_early_device(tmp_path: Path) -> None:
    """The section of RAM is found behind a device that comes before it."""
    data = stream()
    at = data.index(b"\x01\0\0\0\2\x03ram")
    early = b"\x04" + struct.pack(">I", 1) + b"\x10virtio-mem-early" + bytes(30)
    memory = read(tmp_path / "image", data[:at] + early + data[at:])
    assert PhysicalMemory(memory).read(0, PAGE) == content(0, PAGE)


def mapped(pages: dict[int, bytes], count: int, begin: int = 0) -> bytes:
    """Return a stream whose pages have places of their own (docs/devel/migration/mapped-ram.rst)."""
    head = stream([], blocks=[], capabilities=[b"mapped-ram"], end=False)
    head = head[: head.index(b"\x03ram") + 12] + struct.pack(">Q", count * PAGE | 4)
    head += bytes([len(RAM)]) + RAM + struct.pack(">Q", count * PAGE)
    bitmap_at = begin + len(head) + 28
    bits = bytearray(-(-count // 64) * 8)
    for number in pages:
        bits[number // 8] |= 1 << number % 8
    pages_at = bitmap_at + len(bits) + (1 << 20) - 1 & -(1 << 20)
    body = bytearray(count * PAGE)
    for number, data in pages.items():
        body[number * PAGE : (number + 1) * PAGE] = data
    head += struct.pack(">IQQQ", 1, PAGE, bitmap_at, pages_at) + bits
    tail = struct.pack(">Q", 0x10) + b"\x7e\0\0\0\2" + b"\3\0\0\0\2" + struct.pack(">Q", 0x10)
    return head.ljust(pages_at - begin, b"\xaa") + bytes(body) + tail


@pytest.mark.parametrize("saved", [False, True])
def test_mapped_ram(tmp_path: Path, *, saved: bool) -> None:
    """Pages with places of their own are found by the bitmap; the others are zeros. So are libvirt's sparse files."""
    pages = {number: content(number, PAGE) for number in (0, 5, 6, 7, 69)}
    head = b"".join(containers.libvirt_parts([], number=6)) if saved else b""
    memory = read(tmp_path / "image", head + mapped(pages, 70, len(head)))
    expected = b"".join(pages.get(number, bytes(PAGE)) for number in range(70))
    assert PhysicalMemory(memory).read(0, 70 * PAGE) == expected
    assert memory.declared


@pytest.mark.parametrize("number", range(6))
def test_saved_by_libvirt(tmp_path: Path, number: int) -> None:
    """What libvirt saves is read, compressed or not; lzop is refused by name."""
    pack = {
        0: bytes,
        1: gzip.compress,
        2: bz2.compress,
        3: lzma.compress,
        4: lambda data: b"\x89LZO\0\r\n\x1a\n" + data,
        5: lambda data: bytes(cramjam.zstd.compress(data)),
    }[number]
    data = b"".join(containers.libvirt_parts([pack(stream())], number=number))
    if number == 4:
        with pytest.raises(InputError, match=r"lzop.*virsh restore --paused"):
            read(tmp_path / "image", data)
        return
    memory = read(tmp_path / "image", data)
    assert PhysicalMemory(memory).read(0, 3 * PAGE) == b"".join(page for _, _, page in PAGES)
    assert memory.kind == "libvirt save (pc-q35-7.2)"
    memory.backing.close()


def test_hurt_by_libvirt(tmp_path: Path) -> None:
    """A save that was not finished says so; a header without a stream, or of another version, is refused."""
    data = b"".join(containers.libvirt_parts([stream()], magic=b"LibvirtQemudPart"))
    assert read(tmp_path / "image", data).notes == ("libvirt: the machine was not saved to the end",)
    for number, words in ((0, "ends inside its header"), (60, "ends inside"), (92, "QEMU's stream is not at 0x")):
        with pytest.raises(InputError, match=words):
            read(tmp_path / "image", data[: max(number, 16)])
    with pytest.raises(InputError, match="in version 9; expected version 2 or 3"):
        read(tmp_path / "image", data[:16] + b"\x09" + data[17:])


def test_streams_of_qemu(tmp_path: Path) -> None:
    """A stream that QEMU itself writes has the memory that its monitor saves."""
    qemu = shutil.which("qemu-system-x86_64")
    if qemu is None:
        pytest.skip("qemu-system-x86_64 is not installed")
    commands = "\n".join(
        (
            f'pmemsave 0 0x2000000 "{tmp_path}/raw"',
            f'migrate "exec:cat >{tmp_path}/stream"',
            "info migrate",
            "quit",
        )
    )
    subprocess.run(
        [
            *(qemu, "-M", "pc", "-accel", "tcg", "-m", "32", "-nodefaults", "-display", "none"),
            "-monitor",
            "stdio",
            "-S",
        ],
        input=commands + "\n",
        text=True,
        check=True,
        capture_output=True,
        timeout=120,
    )
    physical = PhysicalMemory(read(tmp_path / "image", (tmp_path / "stream").read_bytes()))
    expected = (tmp_path / "raw").read_bytes()
    found = physical.read(0, len(expected))
    assert found is not None
    # where the BIOS is, and video memory, the machine sees other things than RAM
    other = np.frombuffer(found, np.uint8) != np.frombuffer(expected, np.uint8)
    assert not [at for at in np.flatnonzero(other).tolist() if not 0xA0000 <= at < 0x100000]
