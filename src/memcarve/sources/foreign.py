"""Files often taken for memory, or that hold it in a form that is not read: by their first bytes, with what helps."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

from memcarve.errors import InputError
from memcarve.formats.compression import COMMANDS, compression_of
from memcarve.sources.opening import FOR_IMAGES, IMAGE, Source

if TYPE_CHECKING:
    from memcarve.sources.opening import Opened, OpenOptions

_HIBERNATED = "a hibernation file, which memcarve does not read; hibr2bin (of Comae) makes a raw image of it"
_KDUMP = "a compressed kernel dump, which memcarve does not read; makedumpfile -E makes an ELF core of it"
_STREAM = (
    "a migration stream of QEMU (savevm, migrate to a file), in which nothing lies at its physical address; load it "
    "with -incoming and -S into the same machine, and dump-guest-memory in the monitor makes an ELF core of it"
)
_SAVED = (
    "a machine that libvirt saved (virsh save), in which nothing lies at its physical address; virsh restore --paused "
    "loads it, and then virsh dump --memory-only makes an ELF core of it"
)
_XEN = "a saved domain of Xen, which memcarve does not read; restore it, and take its memory from inside (AVML, LiME)"
_DISK = "and holds no memory as it lies; give the memory of the machine (virsh dump --memory-only, a .vmem, AVML)"
_ARCHIVE = "an archive; unpack what is in it, and give that"
_MACH_O = "a core in the format of macOS (Mach-O), which memcarve does not read"
_TAR = 257  # POSIX.1-1988, section 10.1.1: where the magic stands
#: by the first bytes, what the file is, and what helps
_FOREIGN = {
    **dict.fromkeys((b"hibr", b"HIBR", b"wake", b"WAKE", b"RSTR"), _HIBERNATED),
    **dict.fromkeys((b"KDUMP   ", b"DISKDUMP"), _KDUMP),
    b"makedumpfile\0": "a flattened kernel dump; makedumpfile -R puts it together",
    b"QEVM": _STREAM,
    **dict.fromkeys((b"LibvirtQemudSave", b"LibvirtQemudPart"), _SAVED),
    **dict.fromkeys((b"LinuxGuestRecord", b"Xen saved domain"), _XEN),
    b"\x7fVirtualBox": "a machine that VirtualBox saved; VBoxManage debugvm NAME dumpvmcore makes an ELF core of it",
    b"QFI\xfb": f"a disk of QEMU's (QCOW2), {_DISK}",
    **dict.fromkeys((b"KDMV", b"COWD", b"# Disk Descripto"), f"a disk of VMware's (VMDK), {_DISK}"),
    b"vhdxfile": f"a disk of Hyper-V's (VHDX), {_DISK}",
    b"conectix": f"a disk of Hyper-V's (VHD), {_DISK}",
    **dict.fromkeys((b"EVF\x09\r\n\xff\0", b"EVF2\r\n\x81\0"), "an EnCase image; ewfexport makes a raw image of it"),
    b"PK\3\4": f"a ZIP file (AFF4 images are such, too): {_ARCHIVE}",
    b"7z\xbc\xaf\x27\x1c": _ARCHIVE,
    b"HPAK": "an HPAK file of FastDump, which memcarve does not read; extract the raw image from it (hpakextract)",
}


def foreign(head: bytes) -> str | None:
    """Return what a file is by its first bytes, with what helps; None if it is nothing that is known."""
    if head[:4] in (b"\xce\xfa\xed\xfe", b"\xcf\xfa\xed\xfe") and head[12:16] == b"\4\0\0\0":  # filetype MH_CORE
        return _MACH_O
    if head[_TAR : _TAR + 5] == b"ustar":
        return _ARCHIVE
    if kind := compression_of(head):
        return f"compressed twice; decompress it ({COMMANDS[kind]}), and give that"
    return next((words for magic, words in _FOREIGN.items() if head.startswith(magic)), None)


def _refuse(opened: Opened, options: OpenOptions) -> NoReturn:  # noqa: ARG001 - whatever was said of it
    raise InputError(f"is {foreign(opened.head)}", subject=opened.path)


FOREIGN = Source(
    "a file that memcarve does not read",
    (IMAGE,),
    lambda opened: foreign(opened.head) is not None,
    _refuse,
    FOR_IMAGES,
    sure=False,
)
