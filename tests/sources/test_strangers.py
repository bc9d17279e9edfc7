"""A map beside a file that is not its dump; and files that are often taken for a machine's image, and are none."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import pytest

import containers
import memcarve
import minidumps
import winimage
from cli import invoke
from cores import Load, core, info
from dumps import HEADER, map_rows, write_dump
from files import put
from headers import elf_page, pe_page
from memory import PAGE, noise

if TYPE_CHECKING:
    from pathlib import Path

    Capture = pytest.CaptureFixture[bytes]

ROWS = [(0x10000, noise(1, 2 * PAGE)), (0x20000, noise(2, 3 * PAGE))]
SIZE = 5 * PAGE
MACHINE = [(0, noise(3, 4 * PAGE)), (0x8000, noise(4, PAGE))]


def renamed(folder: Path, change: int, name: str = "evidence.dmp") -> Path:
    """Write a map whose rows call their dump pid.4.dmp, and a dump of another name and length beside it."""
    dump = write_dump(folder, [*ROWS])
    data = dump.read_bytes()
    dump.unlink()
    dump.with_suffix(".map").rename(folder / f"{name.removesuffix('.dmp')}.map")
    (folder / name).write_bytes(data[:change] if change < 0 else data + noise(9, change))
    return folder / name


@pytest.mark.parametrize("change", [-2 * PAGE, -1, 1, PAGE, 100 * PAGE])
@pytest.mark.parametrize("given", ["dump", "map", "both"])
def test_another_name_and_length(tmp_path: Path, capfdbinary: Capture, change: int, given: str) -> None:
    """A dump of another name and length than the rows say is refused; --partial is no remedy, --trust is."""
    dump = renamed(tmp_path, change)
    table = dump.with_suffix(".map")
    words = {"dump": [dump], "map": [table], "both": [table, "--dump", dump]}[given]
    for more in ([], ["--partial"]):
        ran = invoke(capfdbinary, "carve", *words, *more, "-o", tmp_path / "out")
        assert ran.code == 1
        assert "the rows call their dump pid.4.dmp, and it has another length" in ran.err
        assert "--trust printed or --trust sum" in ran.err
        assert "--partial" not in ran.err
        assert not (tmp_path / "out").exists()
    for trust in ("printed", "sum"):
        ran = invoke(capfdbinary, "carve", *words, "--trust", trust, "--partial", "-o", tmp_path / trust)
        assert ran.code == 3, ran.err


def test_another_name(tmp_path: Path, capfdbinary: Capture) -> None:
    """A dump that was given another name, and has the length of its rows, is read with a note."""
    dump = renamed(tmp_path, 0)
    with memcarve.open(dump) as container:
        process = container.process()
        assert process.space.read(0x20000, 3 * PAGE) == ROWS[1][1]
        assert not process.incomplete
        assert any("call their dump pid.4.dmp" in note for note in process.notes)
    assert invoke(capfdbinary, "segments", dump).code == 0


@pytest.mark.parametrize("name", ["pid.4.dmp", "pid.4-1.dmp"])
def test_the_right_name(tmp_path: Path, capfdbinary: Capture, name: str) -> None:
    """A dump of the right name that ends too early is one that was cut off, and --partial is the remedy."""
    dump = write_dump(tmp_path, [*ROWS])
    put(tmp_path / name, dump.read_bytes()[:-PAGE])
    ran = invoke(capfdbinary, "carve", tmp_path / name, "-o", tmp_path / "out")
    assert ran.code == 1
    assert "ends too early" in ran.err
    assert "--partial" in ran.err
    assert invoke(capfdbinary, "carve", tmp_path / name, "--partial", "-o", tmp_path / "out").code == 3


def test_another_length_where_rows_could_not_be_written(tmp_path: Path) -> None:
    """Where the length is that of the rows in either way to count them, the name does not matter."""
    rows = [ROWS[0], (0x30000, PAGE), (0x40000, noise(3))]
    for size in (3 * PAGE, 4 * PAGE):
        dump = write_dump(tmp_path, [*rows])
        put(tmp_path / "x.dmp", noise(5, size))
        dump.with_suffix(".map").replace(tmp_path / "x.map")
        with memcarve.open(tmp_path / "x.dmp") as container:
            assert container.process().incomplete


def test_another_pid(tmp_path: Path) -> None:
    """Where rows name no file and tell their process, a dump named after another one, of another length, is refused."""
    lines = ["System pid:      4", "Virtual            Physical                         Size     DumpFileOffset"]
    lines += ["-" * 18 + " " + "-" * 18 + " " + "-" * 18 + " " + "-" * 18]
    lines += ["0x0000000000010000 0x0000000000001000             0x1000                0x0"]
    put(tmp_path / "a.txt", "\n".join([*lines, ""]).encode())
    for name, size, fine in (("8.dmp", 3 * PAGE, False), ("8.dmp", PAGE, True), ("4.dmp", 3 * PAGE, True)):
        dump = put(tmp_path / name, noise(1, size))
        with memcarve.open(dump, memory_map=tmp_path / "a.txt") as container:
            if fine:
                assert container.process().space.total == PAGE
                continue
            with pytest.raises(memcarve.PositionError, match=r"of process 4, and the dump's name is of 8"):
                container.process()


MACHINES = {
    "LiME": containers.lime(MACHINE),
    "AVML": containers.avml(MACHINE),
    "ELF core (QEMU)": containers.elf_core(MACHINE),
    "Windows crash dump (complete)": containers.crash_dump(MACHINE),
    "VMware": containers.vmware(MACHINE, embedded=True)[1],
}
PROCESSES = {
    "core": core([Load(0x1000, noise(1))], info(4, b"a")),
    "minidump": minidumps.Dump(memory64=[(0x1000, noise(1))]).build(),
}


@pytest.mark.parametrize("kind", MACHINES)
def test_a_machines_image_beside_a_map(tmp_path: Path, kind: str) -> None:
    """A machine's image is not a dump, whatever its name, and the error says how to read it."""
    put(tmp_path / "pid.4.map", (HEADER + map_rows([*ROWS], "pid.4.dmp")).encode())
    image = put(tmp_path / "pid.4.dmp", MACHINES[kind])
    with memcarve.open(tmp_path / "pid.4.map") as container:
        with pytest.raises(memcarve.PositionError, match="input_type='image'") as caught:
            container.process()
        assert kind.partition(" (")[0] in str(caught.value)
        assert "--partial" not in str(caught.value)
    with memcarve.open(image, memory_map=tmp_path / "pid.4.map", trust="sum") as container:
        assert container.process().space.read(0x10000, 4) == MACHINES[kind][:4]


@pytest.mark.parametrize("kind", PROCESSES)
def test_a_core_beside_a_map(tmp_path: Path, kind: str) -> None:
    """A core and a minidump need no map, and are no dumps."""
    put(tmp_path / "pid.4.map", (HEADER + map_rows([*ROWS], "pid.4.dmp")).encode())
    put(tmp_path / "pid.4.dmp", PROCESSES[kind])
    with (
        memcarve.open(tmp_path / "pid.4.map") as container,
        pytest.raises(memcarve.PositionError, match=f"input_type='{kind}' reads it"),
    ):
        container.process()


def test_a_raw_image_beside_a_map(tmp_path: Path) -> None:
    """A raw image in which a system is found is not the dump of a map that names none."""
    image = tmp_path / "mem.raw"
    winimage.build(image, processes=[winimage.Plan(388, b"small.exe")])
    lines = (HEADER + map_rows([*ROWS], "pid.4.dmp")).splitlines()
    table = "\n".join(line.rpartition("\t")[0] if "\t" in line else line for line in lines)
    put(tmp_path / "mem.map", f"{table}\n".encode())
    with (
        memcarve.open(image) as container,
        pytest.raises(memcarve.PositionError, match=r"raw image.*input_type='image'"),
    ):
        container.process()
    with memcarve.open(image, input_type="image") as container:
        assert 388 in [entry.pid for entry in container.processes()]


# what is no image

#: the header of a file for several processors, of which the part of one begins right behind it
FAT = b"\xca\xfe\xba\xbe\0\0\0\1\1\0\0\x07\0\0\0\3\0\0\0\x1c\0\0\x10\0\0\0\0\0"
NOT_READ = {
    "Xen": (b"LinuxGuestRecord\0", "domain of Xen"),
    "xl": (b"Xen saved domain, xl format\n \0\r", "domain of Xen"),
    "VirtualBox": (b"\x7fVirtualBox SavedState V2.0\n", "dumpvmcore"),
    "qcow2": (b"QFI\xfb\0\0\0\3", "QCOW2.*qemu-img convert -O raw"),
    "QED": (b"QED\0\0\0\1\0", "QED"),
    "Parallels": (b"WithouFreSpacExt\2\0\0\0", "Parallels"),
    "Parallels, older": (b"WithoutFreeSpace\2\0\0\0", "Parallels"),
    "LZ4, legacy": (b"\x02\x21\x4c\x18\x10\0\0\0", r"LZ4 \(its legacy form\).*\(unlz4\)"),
    "lzip": (b"LZIP\1\x17", r"\(lzip -d\)"),
    "lzop": (b"\x89LZO\0\r\n\x1a\n", r"\(lzop -d\)"),
    "lrzip": (b"LRZI\0\6", r"\(lrzip -d\)"),
    "Snappy": (b"\xff\6\0\0sNaPpY", r"Snappy.*\(snzip -d\)"),
    "vmdk": (b"KDMV\1\0\0\0", "VMDK"),
    "vmdk in text": (b"# Disk DescriptorFile\nversion=1\n", "VMDK"),
    "vhdx": (b"vhdxfile", "VHDX"),
    "vhd": (b"conectix", "VHD"),
    "E01": (b"EVF\x09\r\n\xff\0\1", "ewfexport -f raw"),
    "Ex01": (b"EVF2\r\n\x81\0\2", "ewfexport -f raw"),
    "ZIP": (b"PK\3\4\x14\0", r"ZIP.*unpack it \(unzip\)"),
    "7z": (b"7z\xbc\xaf\x27\x1c\0\4", r"7z.*unpack it \(7z x\)"),
    "RAR": (b"Rar!\x1a\x07\1\0", r"RAR.*unpack it \(unrar x\)"),
    "cabinet": (b"MSCF\0\0\0\0", "cabinet.*expand"),
    "L01": (b"LVF\x09\r\n\xff\0\1", "logical EnCase"),
    "Lx01": (b"LEF2\r\n\x81\0\2", "logical EnCase"),
    "AFF": (b"AFF10\r\n\0", "affconvert"),
    "Xen, migration": (b"\xff" * 8 + b"XENF\0\0\0\2", "domain of Xen"),
    "PDF": (b"%PDF-1.7\n", "PDF"),
    "PNG": (b"\x89PNG\r\n\x1a\n", "picture"),
    "SQLite": (b"SQLite format 3\0", "database"),
    "Office": (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "compound file"),
    "evtx": (b"ElfFile\0", "event log"),
    "registry": (b"regf", "registry"),
    "journal": (b"LPKSHHRH", "coredumpctl dump"),
    "pcapng": (b"\x0a\x0d\x0d\x0a", "network traffic"),
    "HPAK": (b"HPAK", "FastDump"),
    "Mach-O core": (b"\xcf\xfa\xed\xfe\x07\0\0\1\3\0\0\x80\4\0\0\0", "Mach-O"),
    "Mach-O core, 32 bits": (b"\xce\xfa\xed\xfe\x07\0\0\0\3\0\0\0\4\0\0\0", "Mach-O"),
    "Mach-O core, PowerPC": (b"\xfe\xed\xfa\xce\0\0\0\x12\0\0\0\0\0\0\0\4", "Mach-O"),
    "Mach-O core, PowerPC 64": (b"\xfe\xed\xfa\xcf\1\0\0\x12\0\0\0\0\0\0\0\4", "Mach-O"),
    "Mach-O core, fat": (
        FAT + b"\xcf\xfa\xed\xfe\x07\0\0\1\3\0\0\x80\4\0\0\0",
        "Mach-O",
    ),
    **{f"hibernation, {word.decode()}": (word, "hibr2bin") for word in (b"hibr", b"HIBR", b"wake", b"WAKE", b"RSTR")},
}


@pytest.mark.parametrize("name", NOT_READ)
@pytest.mark.parametrize(
    "words", [["processes"], ["segments", "--dtb", "0x1000"], ["segments", "--input-type", "image"]]
)
def test_what_is_no_image(tmp_path: Path, capfdbinary: Capture, name: str, words: list[str]) -> None:
    """A file that says that it is something else is refused by name, with what helps, however it is opened."""
    magic, said = NOT_READ[name]
    path = put(tmp_path / "memory.bin", magic + bytes(8 * PAGE))
    ran = invoke(capfdbinary, words[0], path, *words[1:])
    assert (ran.code, ran.out) == (1, b"")
    with pytest.raises(memcarve.InputError, match=said):
        memcarve.open(path)


def swap(kind: bytes) -> bytes:
    """Return a swap area of Linux: its magic ends the first page."""
    return bytes(PAGE - 10) + kind + bytes(PAGE)


def xen_core(bits: int) -> bytes:
    """Return the headers of what xl dump-core writes: no program headers, a section of Xen's notes."""
    head, row = (64, 64) if bits == 64 else (52, 40)
    word = "Q" if bits == 64 else "I"
    data = bytearray(b"\x7fELF" + bytes([2 if bits == 64 else 1, 1, 1]) + bytes(9))
    data += struct.pack(f"<HHI3{word}I6H", 4, 62, 1, 0, 0, head, 0, head, 0, 0, row, 3, 1)
    data += bytes(row)
    for kind, place in ((3, head + 3 * row), (7, head + 3 * row + 16)):
        data += struct.pack(f"<II4{word}II2{word}", 1, kind, 0, 0, place, 32, 0, 0, 1, 0)
    data += b"\0.shstrtab\0".ljust(16, b"\0") + struct.pack("<III4s", 4, 32, 0x2000001, b"Xen\0") + bytes(32)
    return bytes(data) + bytes(-len(data) % PAGE)


#: structures that do not stand at the beginning, or that a few bytes do not tell
STRUCTURED = {
    "tar": (bytes(257) + b"ustar\x0000" + bytes(PAGE), r"tar.*unpack it \(tar -xf\)"),
    "compress": (b"\x1f\x9d\x90" + noise(1, PAGE), r"compressed by compress.*\(gunzip\)"),
    "VDI": (b"<<< Oracle VM VirtualBox Disk Image >>>\n".ljust(64, b"\0") + b"\x7f\x10\xda\xbe" + bytes(PAGE), "VDI"),
    "VHD, fixed": (noise(1, PAGE) + b"conectix" + bytes(504), "VHD"),
    "GPT": (bytes(512) + b"EFI PART" + bytes(PAGE), "disk"),
    "NTFS": (b"\xeb\x52\x90NTFS    " + bytes(PAGE), "disk"),
    "ISO 9660": (bytes(0x8001) + b"CD001" + bytes(PAGE), "disk"),
    "swap": (swap(b"SWAPSPACE2"), "swap area"),
    "hibernated Linux": (swap(b"S1SUSPEND\0"), "hibernated"),
    "hibernation, wiped": (bytes(PAGE) + noise(1, PAGE) + b"\x81\x81xpress" + bytes(PAGE), "hibr2bin.*wiped"),
    "hibernation, the word before": (
        bytes(PAGE) + noise(1, PAGE) + b"....\x81\x81xpress....\x81\x81xpress" + bytes(PAGE),
        "hibr2bin.*wiped",
    ),
    "hibernation, misplaced": (bytes(PAGE) + noise(1, PAGE) + b"....\x81\x81xpress" + bytes(PAGE), "is not recognised"),
    "AFF4": (b"PK\3\4" + noise(1, PAGE) + b"PK\1\2information.turtle" + bytes(50), "AFF4.*raw image"),
    "AFF4, named": (b"PK\3\4" + noise(1, 400_000) + b"container.description" + bytes(50), "AFF4"),
    "Mach-O program": (b"\xcf\xfa\xed\xfe\x07\0\0\1\3\0\0\x80\2\0\0\0" + bytes(PAGE), r"program.*Mach-O"),
    "Java class": (b"\xca\xfe\xba\xbe\0\0\0\x41" + bytes(99), "is not recognised"),
    "Xen's core": (xen_core(64), "Xen's dump-core"),
    "Xen's core, 32 bits": (xen_core(32), "Xen's dump-core"),
    "PE": (pe_page() + bytes(0x4000), r"program or library \(PE\)"),
    "ELF": (elf_page() + bytes(0x4000), r"program or library \(ELF\)"),
}


@pytest.mark.parametrize("name", STRUCTURED)
def test_what_its_structure_tells(tmp_path: Path, name: str) -> None:
    """What is told by its structure is named with what helps, and no map is looked for on account of its name."""
    data, said = STRUCTURED[name]
    with pytest.raises(memcarve.InputError, match=said) as caught:
        memcarve.open(put(tmp_path / "memory.bin", data))
    assert "no map is beside it" not in str(caught.value)


@pytest.mark.parametrize("name", ["tar", "swap", "PE", "ELF", "VHD, fixed"])
def test_a_machine_with_such_bytes(tmp_path: Path, name: str) -> None:
    """A raw image in which such bytes happen to stand is read if its page tables are named."""
    data = STRUCTURED[name][0]
    path = put(tmp_path / "mem.raw", data + bytes(-len(data) % PAGE))
    with memcarve.open(path, dtb=0x1000, paging="x64") as container:
        assert len(container.processes()) == 1


@pytest.mark.parametrize("name", ["pid.4.dmp", "evidence.dmp"])
def test_a_dump_that_begins_with_a_program(tmp_path: Path, name: str) -> None:
    """What is named like a dump lacks its map, though it begins with a program's header."""
    with pytest.raises(memcarve.CounterpartError, match="no map is beside it"):
        memcarve.open(put(tmp_path / name, STRUCTURED["PE"][0]))


TABLE = HEADER.partition("\n\n")[2] + map_rows([*ROWS], "pid.4.dmp")


@pytest.mark.parametrize(
    "text",
    [
        f"# Notes\n\nThe map:\n\n```\n{TABLE}```\n",
        f"# Notes\n\n## The map\n\n{TABLE}\nThat is all.\n",
        f"<!DOCTYPE html>\n<pre>\n{TABLE}</pre>\n",
        '# a\n\n## b\n\n~~~\n[{"Virtual": 4096, "Size": 4096, "Offset in File": 0}]\n~~~\n',
    ],
    ids=["fence", "headings", "HTML", "JSON"],
)
def test_a_document_is_no_map(tmp_path: Path, text: str) -> None:
    """A text that shows a map is not taken for one, alone or beside a dump."""
    path = put(tmp_path / "README.md", text.encode())
    with pytest.raises(memcarve.NotRecognisedError, match="is a document"):
        memcarve.open(path)
    put(tmp_path / "pid.4.dmp", bytes(SIZE))
    put(tmp_path / "pid.4.txt", text.encode())
    with pytest.raises(memcarve.InputError, match="is a document"):
        memcarve.open(tmp_path / "pid.4.dmp")


def test_a_map_below_a_prompt(tmp_path: Path) -> None:
    """A map that was copied from a terminal with the prompt of root above it is one."""
    put(tmp_path / "pid.4.dmp", bytes(SIZE))
    text = f"# vol -f mem.raw windows.memmap --pid 4 --dump\n{HEADER}{map_rows([*ROWS], 'pid.4.dmp')}"
    with memcarve.open(put(tmp_path / "pid.4.map", text.encode())) as container:
        assert container.process().space.total == SIZE


def test_a_program_is_no_core(tmp_path: Path) -> None:
    """A program of macOS is not refused as a core: it may be the beginning of a process."""
    path = put(tmp_path / "memory.bin", b"\xcf\xfa\xed\xfe\x07\0\0\1\3\0\0\x80\2\0\0\0" + bytes(8 * PAGE))
    with pytest.raises(memcarve.NotRecognisedError):
        memcarve.open(path)


@pytest.mark.parametrize("name", NOT_READ)
def test_a_dump_that_begins_so(tmp_path: Path, name: str) -> None:
    """A dump whose first bytes happen to be such is read, as the map beside it tells what it is."""
    data = NOT_READ[name][0].ljust(PAGE, b"\0")
    with memcarve.open(write_dump(tmp_path, [(0x10000, data)])) as container:
        assert container.process().space.read(0x10000, PAGE) == data
