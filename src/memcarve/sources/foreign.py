"""Files often taken for memory, or that hold it in a form that is not read: by their structure, with what helps.

Where each magic stands is specified in: Expert Witness (libewf, "EWF specification"), AFF 1 (afflib), AFF4 (Schatz and
Cohen, "AFF4 Standard v1.0", sections 3 and 4: a ZIP), ZIP (PKWARE, APPNOTE.TXT, 4.3), 7z (7zFormat.txt), RAR
(technote.txt), cabinets ([MS-CAB] 2.1), tar (POSIX.1-1988, 10.1.1), QCOW2 (QEMU, docs/interop/qcow2.txt), QED and
Parallels (docs/interop/qed_spec.txt, parallels.txt), VMDK (VMware, "Virtual Disk Format 5.0"), VHD (Microsoft,
"Virtual Hard Disk Image Format", the footer), VHDX ([MS-VHDX] 2.2), VDI (VirtualBox, VDICore.h), Mach-O
(mach-o/loader.h, fat.h), hibernation (Suiche, "Sandman"; Metz, libhibr), Xen
(docs/specs/libxc-migration-stream.pandoc), VirtualBox (SSM.cpp), Linux swap (mkswap), GPT (UEFI 5.3.2), ISO 9660
(ECMA-119, 8.1), evtx ([MS-EVEN6]), registry hives (Metz, libregf), compound files ([MS-CFB] 2.2), LZ4's legacy frames
(lz4_Frame_format.md), lzip (its manual, "File format"), lzop, lrzip and compress (file(1)'s magic), Snappy
(framing_format.txt), journals of systemd (JOURNAL_FILE_FORMAT), pcap (libpcap), SQLite (fileformat2), PDF (ISO
32000).
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from memcarve.errors import InputError, NotRecognisedError, UnreadableError
from memcarve.formats.compression import COMMANDS, compression_of
from memcarve.formats.programs import elf, pe
from memcarve.intervals import PAGE

if TYPE_CHECKING:
    from memcarve.backing import FileBacking
    from memcarve.sources.opening import Opened, OpenOptions

_HIBERNATED = (
    "a hibernation file of a kind that memcarve does not read (it reads those of 64-bit Windows 7 to 11); hibr2bin (of "
    "Comae) makes a raw image of it"
)
_XEN = "a saved domain of Xen, which memcarve does not read; restore it, and take its memory from inside (AVML, LiME)"
_MEMORY = "give the memory of the machine (virsh dump --memory-only, a .vmem, AVML)"
_DISK = (
    f"in which nothing lies at its physical address; {_MEMORY}; if somebody put an image of memory into it, qemu-img "
    "convert -O raw takes it out"
)
_RAW_DISK = f"the image of a disk ({{}}), not memory; {_MEMORY}"
_ARCHIVE = "an archive; unpack it ({}), and give what is in it"
_COMPRESSED = "compressed by {}, which memcarve does not read; decompress it ({}), and give that"
_AFF4 = "an AFF4 image, which memcarve does not read; pmem's or aff4imager's --export makes a raw image of it"
_MACH_O = "a core in the format of macOS (Mach-O), which memcarve does not read; lldb reads it"
_ENCASE = "an EnCase image; ewfexport -f raw makes a raw image of it"
_LOGICAL = "a logical EnCase image: files, not memory; ewfmount shows what is in it"
_NO_MEMORY = "not memory"
_PICTURE, _TRAFFIC = f"a picture, {_NO_MEMORY}", f"network traffic (pcap), {_NO_MEMORY}"
_PROGRAM = "a program or library ({}), not a process's memory"
_SWAP = "a swap area of Linux: pages that were taken from memory, without their addresses"


class Foreign(NamedTuple):
    """What a file is, with what helps. If it is not `sure`, memory that something is found in may begin so, too."""

    words: str
    sure: bool = True


#: by the first bytes
_FIRST = {
    **dict.fromkeys((b"hibr", b"HIBR", b"wake", b"WAKE", b"RSTR"), _HIBERNATED),
    **dict.fromkeys((b"LinuxGuestRecord", b"Xen saved domain", b"\xff" * 8 + b"XENF"), _XEN),
    b"\x7fVirtualBox": "a machine that VirtualBox saved; VBoxManage debugvm NAME dumpvmcore makes an ELF core of it",
    b"QFI\xfb": f"a QEMU disk image (QCOW2), {_DISK}",
    **dict.fromkeys((b"KDMV", b"COWD", b"# Disk Descripto"), f"a VMware disk image (VMDK), {_DISK}"),
    b"QED\0": f"a QEMU disk image (QED), {_DISK}",
    **dict.fromkeys((b"WithoutFreeSpace", b"WithouFreSpacExt"), f"a Parallels disk image, {_DISK}"),
    b"vhdxfile": f"a Hyper-V disk image (VHDX), {_DISK}",
    b"conectix": f"a Hyper-V disk image (VHD), {_DISK}",
    **dict.fromkeys((b"EVF\x09\r\n\xff\0", b"EVF2\r\n\x81\0"), _ENCASE),
    **dict.fromkeys((b"LVF\x09\r\n\xff\0", b"LEF2\r\n\x81\0"), _LOGICAL),
    **dict.fromkeys((b"AFF10\r\n\0", b"AFM\0"), "an AFF image; affconvert -r makes a raw image of it"),
    **dict.fromkeys((b"PK\3\4", b"PK\5\6", b"PK\7\x08PK"), f"a ZIP file: {_ARCHIVE.format('unzip')}"),
    b"7z\xbc\xaf\x27\x1c": f"a 7z file: {_ARCHIVE.format('7z x')}",
    b"Rar!\x1a\x07": f"a RAR file: {_ARCHIVE.format('unrar x')}",
    b"MSCF": f"a cabinet (ProcDump and Windows Error Reporting put dumps into such): "
    f"{_ARCHIVE.format('expand, cabextract')}",
    b"\x02\x21\x4c\x18": _COMPRESSED.format("LZ4 (its legacy form)", "unlz4"),
    b"LZIP\1": _COMPRESSED.format("lzip", "lzip -d"),
    b"\x89LZO\0\r\n\x1a\n": _COMPRESSED.format("lzop", "lzop -d"),
    b"LRZI\0": _COMPRESSED.format("lrzip", "lrzip -d"),
    b"\xff\6\0\0sNaPpY": _COMPRESSED.format("Snappy", "snzip -d"),
    b"HPAK": "an HPAK file of FastDump, which memcarve does not read; extract the raw image from it (hpakextract)",
    b"%PDF-": f"a PDF document, {_NO_MEMORY}",
    **dict.fromkeys((b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"\xff\xd8\xff\xe1", b"GIF8"), _PICTURE),
    b"SQLite format 3\0": f"an SQLite database, {_NO_MEMORY}",
    b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1": f"a compound file (an Office document, an installer), {_NO_MEMORY}",
    b"ElfFile\0": f"a Windows event log, {_NO_MEMORY}",
    b"regf": f"a Windows registry hive, {_NO_MEMORY}",
    b"LPKSHHRH": f"a systemd journal, {_NO_MEMORY}; coredumpctl dump writes the cores that it lists",
    **dict.fromkeys((b"\xd4\xc3\xb2\xa1", b"\x4d\x3c\xb2\xa1", b"\x0a\x0d\x0d\x0a"), _TRAFFIC),
    b'{"app_name":': f"a macOS crash report, {_NO_MEMORY}",
}  # fmt: skip
#: by bytes elsewhere; memory that begins so would be strange, and is read if a system is found in it
_ELSEWHERE = (
    (0, b"\x1f\x9d\x90", _COMPRESSED.format("compress", "gunzip")),
    (257, b"ustar", f"a tar file: {_ARCHIVE.format('tar -xf')}"),
    (64, b"\x7f\x10\xda\xbe", f"a VirtualBox disk image (VDI), {_DISK}"),
    (512, b"EFI PART", _RAW_DISK.format("GPT")),
    (3, b"NTFS    ", _RAW_DISK.format("NTFS")),
    (0x8001, b"CD001", _RAW_DISK.format("ISO 9660")),
    (PAGE - 10, b"SWAPSPACE2", _SWAP),
    (PAGE - 10, b"SWAP-SPACE", _SWAP),
    (PAGE - 10, b"S1SUSPEND\0", "a swap area of Linux that holds a hibernated machine, which memcarve does not read"),
)
#: by the first bytes of the last 512
_LAST = 512
_AT_THE_END = {
    b"conectix": f"a Hyper-V disk image (VHD), {_DISK}",
    b"koly": f"a disk image of macOS (dmg): {_ARCHIVE.format('7z x')}",
}
_XPRESS = b"\x81\x81xpress"  # before each set of pages in a hibernation file of Windows XP to 7
_XPRESS_WITHIN = 1 << 17
_DIRECTORY = 1 << 17  # of the end of a ZIP file, where its names are
_AFF4_NAMES = (b"container.description", b"information.turtle")
_CORE, _ELF_CORE = 4, 4  # filetype MH_CORE, e_type ET_CORE
_MOST_PARTS = 16  # of a fat file


def foreign(file: FileBacking) -> Foreign | None:
    """Return what a file is that memcarve does not read, with what helps; None if it is nothing that is known."""
    head = _at(file, 0, PAGE)
    if kind := compression_of(head):
        return Foreign(f"compressed twice; decompress it ({COMMANDS[kind]}), and give that")
    for magic, words in _FIRST.items():
        if head.startswith(magic):
            is_aff4 = magic.startswith(b"PK") and any(name in _tail(file, _DIRECTORY) for name in _AFF4_NAMES)
            return Foreign(_AFF4 if is_aff4 else words)
    return _mach_o(file, head) or _weak(file, head)


def _weak(file: FileBacking, head: bytes) -> Foreign | None:
    """Return what a file is by what memory may hold, too, at such a place."""
    for place, magic, words in _ELSEWHERE:
        if _at(file, place, len(magic)) == magic:
            return Foreign(words, sure=False)
    end = _tail(file, _LAST)
    for magic, words in _AT_THE_END.items():
        if len(end) == _LAST and end.startswith(magic):
            return Foreign(words, sure=False)
    if not any(head):  # Windows fills its first page with zeros when it has resumed
        start = _at(file, PAGE, _XPRESS_WITHIN)
        place = start.find(_XPRESS)
        while place % 8 and place >= 0:
            place = start.find(_XPRESS, place + 1)
        if place >= 0:
            return Foreign(f"{_HIBERNATED} (its first page was wiped when the machine went on)", sure=False)
    return _program(file, head)


def _program(file: FileBacking, head: bytes) -> Foreign | None:
    """Return that a file is a program, if all that its header says of the file is there."""
    found = elf.image(head)
    if found is not None and not found.wiped and found.kind != _ELF_CORE:
        whole = 0 < found.section_headers[1] <= file.size or not found.section_headers[1]
        stored = max((load.offset + load.stored for load in found.sections), default=0)
        return Foreign(_PROGRAM.format("ELF"), sure=False) if whole and stored <= file.size else None
    image = pe.image(head)
    if image is not None and not image.wiped:
        stored = max((section.offset + section.stored for section in image.sections), default=0)
        return Foreign(_PROGRAM.format("PE"), sure=False) if stored <= file.size else None
    return None


def _mach_o(file: FileBacking, head: bytes) -> Foreign | None:
    """Return whether a file is a core of macOS, of one processor or of several, or a program."""
    kind = _mach_o_kind(head)
    if head[:4] in (b"\xca\xfe\xba\xbe", b"\xca\xfe\xba\xbf"):
        wide = head[3:4] == b"\xbf"
        row = struct.Struct(">8xQQ8x" if wide else ">8xII4x")
        count = int.from_bytes(head[4:8], "big")
        if count <= _MOST_PARTS and len(head) >= 8 + count * row.size:  # else a class of Java, which begins so, too
            places = [row.unpack_from(head, 8 + number * row.size)[0] for number in range(count)]
            kinds = {_mach_o_kind(_at(file, place, 16)) for place in places} - {None}
            kind = _CORE if _CORE in kinds else next(iter(kinds), None)
    if kind is None:
        return None
    return Foreign(_MACH_O) if kind == _CORE else Foreign(_PROGRAM.format("Mach-O"), sure=False)


def _mach_o_kind(head: bytes) -> int | None:
    """Return the filetype in a header of either width and byte order; None if it is none."""
    magic = head[:4]
    if len(head) < 16 or not {magic, magic[::-1]} & {b"\xfe\xed\xfa\xce", b"\xfe\xed\xfa\xcf"}:  # noqa: PLR2004 - up to it
        return None
    return int.from_bytes(head[12:16], "big" if magic[:1] == b"\xfe" else "little")


def _at(file: FileBacking, offset: int, size: int) -> bytes:
    """Return the bytes at an offset, fewer if the file ends before; none if they cannot be read."""
    try:
        return file.read_at(offset, size) if offset < file.size else b""
    except UnreadableError:
        return b""


def _tail(file: FileBacking, size: int) -> bytes:
    return _at(file, max(file.size - size, 0), size)


def is_foreign(opened: Opened) -> bool:
    """Return True if a file is known to be of a kind that is not read."""
    return foreign(opened.file) is not None


def refuse(opened: Opened, options: OpenOptions) -> NoReturn:  # noqa: ARG001 - whatever was said of it
    """Raise InputError, which says what a file is; NotRecognisedError if that is not sure."""
    found = foreign(opened.file)
    if found is None:
        raise NotRecognisedError("is nothing that is known", subject=opened.path)
    raise (InputError if found.sure else NotRecognisedError)(f"is {found.words}", subject=opened.path)
