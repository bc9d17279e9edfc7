"""What stands where in a minidump, and what its numbers mean."""

from __future__ import annotations

import struct
from typing import NamedTuple

import numpy as np

MAGIC = b"MDMP"
VERSION = 0xA793  # the lower half of the header's; the upper is the writer's own
LONGEST_COMMENT = 1 << 20
MOST_STREAMS = 1 << 12
#: what a comment begins with that memcarve wrote; the first one before its provenance had a schema
MARK = (b'{"tool": "memcarve"', b'{"schema": 2, "tool": "memcarve"')

#: signature, version, number of streams, RVA of their directory, check sum, time, flags
HEADER = struct.Struct("<4sIIIIIQ")
#: a stream's type, its size in bytes, its RVA
DIRECTORY = struct.Struct("<III")

THREAD_LIST, MODULE_LIST, MEMORY_LIST, SYSTEM_INFO, MEMORY64_LIST = 3, 4, 5, 7, 9
COMMENT, UNLOADED_MODULE_LIST, MISC_INFO, MEMORY_INFO_LIST, THREAD_INFO_LIST = 10, 14, 15, 16, 17
EXCEPTION, THREAD_EX_LIST, THREAD_NAMES = 6, 8, 24
#: what Breakpad and Crashpad copy from /proc/PID on Linux (minidump_format.h): status, cmdline, environ, auxv, maps
LINUX_STATUS, LINUX_COMMAND_LINE, LINUX_ENVIRONMENT = 0x47670004, 0x47670006, 0x47670007
LINUX_AUXV, LINUX_MAPS = 0x47670008, 0x47670009
#: streams that hold memory and are not read: Windows CE's
UNREAD = {0x8008: "ceStreamMemoryVirtualList", 0x8009: "ceStreamMemoryPhysicalList"}

FULL_MEMORY, FULL_MEMORY_INFO, THREAD_INFO = 0x2, 0x800, 0x1000  # of the header's flags

#: architecture, level, revision, processors, product; version, build, platform, RVA of the service pack's name; suite
SYSTEM = struct.Struct("<HHHBBIIIIIHH24x")
ARCHITECTURES = {"x86": 0, "arm": 5, "x64": 9, "arm64": 12}
#: those of 32 bits: x86, MIPS, PowerPC, SHx, ARM, and x86 and ARM as 64-bit Windows names programs of theirs
NARROW = frozenset({0, 1, 3, 4, 5, 10, 13, 14})
UNKNOWN_ARCHITECTURE = 0xFFFF
#: VER_PLATFORM_WIN32_NT; Linux has a number in the minidumps of Breakpad and Crashpad (minidump_extensions.h)
PLATFORMS = {"windows": 2, "linux": 0x8201}
#: Breakpad's number of any Unix, for systems that have none of their own
UNIX = 0x8000
UNIXES = ("freebsd", "netbsd", "openbsd")
#: from here on they are Breakpad's numbers of systems other than Windows
OTHER_PLATFORMS = 0x8000

MISC = struct.Struct("<III12x")  # size, which of the following are valid, process id
MISC_PROCESS_ID = 1

#: number of ranges, RVA of the first one's bytes; the others' follow
MEMORY64_HEAD = struct.Struct("<QQ")
MEMORY64 = np.dtype([("start", "<u8"), ("size", "<u8")])
MEMORY = np.dtype([("start", "<u8"), ("size", "<u4"), ("rva", "<u4")])

MEMORY_INFO_HEAD = struct.Struct("<IIQ")  # sizes of this and of an entry, number of entries
MEMORY_INFO = np.dtype(
    [
        ("base", "<u8"), ("allocation", "<u8"), ("began_with", "<u4"), ("_1", "<u4"), ("size", "<u8"), ("state", "<u4"),
        ("protect", "<u4"), ("type", "<u4"), ("_2", "<u4"),
    ]
)  # fmt: skip
COMMIT, RESERVE, FREE = 0x1000, 0x2000, 0x10000
PRIVATE, MAPPED, IMAGE = 0x20000, 0x40000, 0x1000000

#: base, size, check sum, time stamp, RVA of the name; VS_FIXEDFILEINFO; places of the CodeView and the other record
MODULE = struct.Struct("<QIIII52xIIII16x")
UNLOADED_MODULE_HEAD = struct.Struct("<III")  # sizes of this and of an entry, number of entries
#: base, size, check sum, time stamp, RVA of the name
UNLOADED_MODULE = struct.Struct("<QIIII")
#: id, suspended, priority class, priority; TEB; stack: address, size, RVA; place of the CONTEXT
THREAD = struct.Struct("<IIIIQQIIII")
#: where a thread's row says that its stack is stored, and one of the extended list the registers that Itanium spilled
THREAD_STACK = np.dtype([("_1", "V24"), ("start", "<u8"), ("size", "<u4"), ("rva", "<u4"), ("_2", "V8")])
THREAD_EX = np.dtype([("thread", THREAD_STACK), ("store", MEMORY)])
#: the id of a thread, the RVA of its name
THREAD_NAME = struct.Struct("<IQ")
THREAD_INFO_HEAD = struct.Struct("<III")  # sizes of this and of an entry, number of entries
#: id, flags, errors, exit code; four times; where it began; processors
THREAD_INFO_ENTRY = struct.Struct("<IIII32xQQ")
INVALID_CONTEXT, INVALID_TEB = 0x10, 0x20  # of the flags

#: id of the thread; code, flags, RVA of another record, address, number of parameters; these; place of the CONTEXT
EXCEPTION_RECORD = struct.Struct("<I4xIIQQI4x15QII")
MOST_PARAMETERS = 15

#: a CodeView record without a name: `RSDS`, a GUID, the age, the path of the PDB
NO_CODEVIEW = b"RSDS" + bytes(16 + 4 + 1)


class Module(NamedTuple):
    """A module, loaded or unloaded: what is 0 is not known, nor a name that is None, which may hold anything.

    `base` and `size` are in bytes. `codeview` is its CodeView record, a whole one; of what is unloaded there is none.
    """

    base: int
    size: int
    checksum: int
    timestamp: int
    name: str | None
    codeview: bytes = NO_CODEVIEW


#: protections by their words, and what is added to them
PROTECTIONS = {
    "PAGE_NOACCESS": 0x01,
    "PAGE_READONLY": 0x02,
    "PAGE_READWRITE": 0x04,
    "PAGE_WRITECOPY": 0x08,
    "PAGE_EXECUTE": 0x10,
    "PAGE_EXECUTE_READ": 0x20,
    "PAGE_EXECUTE_READWRITE": 0x40,
    "PAGE_EXECUTE_WRITECOPY": 0x80,
}
MODIFIERS = {"PAGE_GUARD": 0x100, "PAGE_NOCACHE": 0x200, "PAGE_WRITECOMBINE": 0x400}
GUARD = MODIFIERS["PAGE_GUARD"]


def is_likely(head: bytes, size: int) -> bool:
    """Return True if a file of `size` bytes could be a minidump by what stands in its header behind the signature."""
    if len(head) < HEADER.size:
        return False
    _, _, count, rva, *_ = HEADER.unpack_from(head)
    return bool(0 < count <= MOST_STREAMS and HEADER.size <= rva <= size - DIRECTORY.size * count)


def number_of(protection: str) -> int:
    """Return the number of a protection in words, joined by ``|``; 0, as for nothing known, if a word is unknown."""
    words = protection.split("|")
    known = {**PROTECTIONS, **MODIFIERS}
    return sum(known[word] for word in set(words)) if all(word in known for word in words) else 0


def words_of(number: int) -> str | None:
    """Return a protection in words; None if it is not exactly one, with modifiers or without."""
    base = [word for word, value in PROTECTIONS.items() if value & number]
    if len(base) != 1:
        return None
    return "|".join(base + [word for word, value in MODIFIERS.items() if value & number])
