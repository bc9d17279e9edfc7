"""The kernel: a PE image with an export table, accessors in machine code and the variables that lead to processes."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np

    from winimage.layouts import Layout

NAME = b"ntoskrnl.exe"
SIZE = 0x600000
#: where things are in the image: code, that of the pool, pageable code (the accessors), read-only data, exports, data
TEXT, POOL, PAGEABLE, RDATA, EDATA, DATA = 0x1000, 0x17E000, 0x180000, 0x200000, 0x300000, 0x400000
ACCESSORS = PAGEABLE + 0x3000
#: the variables; the list's head is not exported
INITIAL, BUILD, HEAD = DATA + 0x1238, DATA + 0x2344, DATA + 0x3560
FILLERS = 400
_HEADER = 0x1000


class Section(NamedTuple):
    """A section of an image."""

    name: bytes
    start: int
    size: int
    flags: int


SECTIONS = (
    Section(b".text", TEXT, POOL - TEXT, 0x68000020),
    # by this name others know a kernel; all kernels have it
    Section(b"POOLCODE", POOL, PAGEABLE - POOL, 0x68000020),
    Section(b"PAGE", PAGEABLE, RDATA - PAGEABLE, 0x60000020),
    Section(b".rdata", RDATA, EDATA - RDATA, 0x48000040),
    Section(b".edata", EDATA, DATA - EDATA, 0x40000040),
    # others look for the list of page files in one of this name, if it is no larger
    Section(b".data", DATA, 1 << 20, 0xC8000040),
    Section(b"ALMOSTRO", DATA + (1 << 20), SIZE - DATA - (1 << 20), 0xC8000040),
)


def header(base: int, size: int, sections: tuple[Section, ...], exports: tuple[int, int] = (0, 0)) -> bytes:
    """Return a page of PE32+ headers; `exports` are address and size of the export directory."""
    directories = [exports] + [(0, 0)] * 15
    optional = struct.pack("<HBBIIIII", 0x20B, 14, 20, 0x1000, 0x1000, 0, 0x1000, 0x1000)
    optional += struct.pack("<QIIHHHHHHIIIIHH", base, 0x1000, 0x200, 10, 0, 10, 0, 10, 0, 0, size, 0x400, 0, 1, 0x160)
    optional += struct.pack("<QQQQII", 0x80000, 0x2000, 0x100000, 0x1000, 0, 16)
    optional += b"".join(struct.pack("<II", *directory) for directory in directories)
    data = b"MZ\x90\0\x03\0\0\0\x04\0\0\0\xff\xff\0\0\xb8".ljust(0x3C, b"\0") + struct.pack("<I", 0xE8)
    data = data.ljust(0xE8, b"\0")
    data += b"PE\0\0" + struct.pack("<HHIIIHH", 0x8664, len(sections), 0x5A5B4C3D, 0, 0, len(optional), 0x22) + optional
    for section in sections:
        data += struct.pack("<8sIIIIIIHHI", *section[:1], section.size, section.start, section.size,
                            section.start - 0xC00, 0, 0, 0, 0, section.flags)  # fmt: skip
    return data.ljust(_HEADER, b"\0")


def export_directory(at: int, name: bytes, exports: Mapping[bytes, int], rng: np.random.Generator) -> bytes:
    """Return an export directory for an address: names sorted as linkers sort them, functions in another order.

    Some functions have no name, and one is forwarded to another module.
    """
    names = sorted([*exports, b"RtlForwarded"])
    functions: list[bytes | int] = [*names, *(TEXT + 0x40 * number for number in range(7))]
    functions = [functions[place] for place in rng.permutation(len(functions))]
    addresses = 40
    pointers = addresses + 4 * len(functions)
    ordinals = pointers + 4 * len(names)
    strings = ordinals + 2 * len(names)
    texts = name + b"\0"
    places = {}
    for text in names:
        places[text] = strings + len(texts)
        texts += text + b"\0"
    forwarder = strings + len(texts)
    texts += b"hal.HalForwarded\0"
    values = [
        function if isinstance(function, int) else exports.get(function, at + forwarder) for function in functions
    ]
    data = struct.pack("<IIHHIIIIIII", 0, 0, 0, 0, at + strings, 1, len(functions), len(names), at + addresses,
                       at + pointers, at + ordinals)  # fmt: skip
    data += struct.pack(f"<{len(values)}I", *values)
    data += struct.pack(f"<{len(names)}I", *(at + places[text] for text in names))
    order = {function: number for number, function in enumerate(functions)}
    return data + struct.pack(f"<{len(names)}H", *(order[text] for text in names)) + texts


def accessors(layout: Layout) -> dict[bytes, bytes]:
    """Return the kernel's functions that read a field of the process that rcx points to."""
    load, ret = b"\x48\x8b\x81", b"\xc3"
    wow64 = load + struct.pack("<I", layout.wow64)
    # mov rax, [rcx+disp]; test rax, rax; jz over; mov rax, [rax]; ret
    wow64 += b"\x48\x85\xc0\x74\x03\x48\x8b\x00\xc3" if layout.wow64_structure else ret
    plain = {
        b"PsGetProcessId": "UniqueProcessId",
        b"PsGetProcessPeb": "Peb",
        b"PsGetProcessInheritedFromUniqueProcessId": "InheritedFromUniqueProcessId",
        b"PsGetProcessSectionBaseAddress": "SectionBaseAddress",
        b"PsGetProcessCreateTimeQuadPart": "CreateTime",
    }
    return {
        **{name: load + struct.pack("<I", layout[field]) + ret for name, field in plain.items()},
        b"PsGetProcessImageFileName": b"\x48\x8d\x81" + struct.pack("<I", layout["ImageFileName"]) + ret,
        b"PsGetProcessExitStatus": b"\x8b\x81" + struct.pack("<I", layout.exit_status) + ret,
        b"PsGetProcessWow64Process": wow64,
    }


def _misleading(number: int) -> bytes:
    """Return a function that no accessor looks like, though parts of it do: all displacements are wrong."""
    wrong = struct.pack("<I", 0x118 + 8 * number)
    return (
        # push rbx; sub rsp, 20h; mov rax, [rcx+wrong]; add rsp, 20h; pop rbx; ret
        b"\x40\x53\x48\x83\xec\x20\x48\x8b\x81" + wrong + b"\x48\x83\xc4\x20\x5b\xc3",
        # mov rcx, [rcx+wrong]; ret
        b"\x48\x8b\x89" + wrong + b"\xc3",
        # mov rax, [rdx+wrong]; ret
        b"\x48\x8b\x82" + wrong + b"\xc3",
        # jmp to what looks like one
        b"\xeb\x06\xcc\xcc\xcc\xcc\xcc\xcc\x48\x8b\x81" + wrong + b"\xc3",
        # no code at all
        b"\xff\xff\xff\xff" + wrong + b"\x0f\x0b",
    )[number % 5]


def code(layout: Layout, *, readable: bool = True) -> tuple[bytes, dict[bytes, int]]:
    """Return the page of the accessors and the place of each in it; not `readable`: other code stands there.

    Between them stand functions that look like accessors, with wrong displacements.
    """
    data, places = b"", {}
    for number, (name, function) in enumerate(accessors(layout).items()):
        alike = b"\x48\x8b\x81" + struct.pack("<I", 0x88 + 0x10 * number) + b"\xc3"
        data += alike.ljust(16, b"\xcc")
        places[name] = len(data)
        data += (function if readable else _misleading(number)).ljust(32, b"\xcc")
        # right behind the padding of one, in front of the next
        data += (b"\x8b\x81" + struct.pack("<I", 0x98 + 0x10 * number) + b"\xc3").rjust(16, b"\xcc")
    return data.ljust(0x1000, b"\xcc"), places


def image(base: int, layout: Layout, variant: str, initial: int, filler: bytes, rng: np.random.Generator) -> bytearray:
    """Return the kernel's image; `initial` is the System process, `filler` the bytes where nothing is planned.

    Variants: ``full``, ``none`` (no export directory), ``no-accessors`` and ``paged-out``, where the caller takes the
    page of the accessors away.
    """
    data = bytearray(filler)
    page, places = code(layout, readable=variant != "no-accessors")
    data[ACCESSORS : ACCESSORS + len(page)] = page
    exports = {name: ACCESSORS + place for name, place in places.items()}
    exports |= {b"PsInitialSystemProcess": INITIAL, b"NtBuildNumber": BUILD}
    for number in range(FILLERS):
        prefix = (b"Zw", b"Nt", b"Ps", b"Rtl", b"Ex", b"_str", b"PsGetProcess")[number % 7]
        exports[prefix + b"Filler%d" % number] = TEXT + int(rng.integers(0, (PAGEABLE - TEXT) // 16)) * 16
    directory = export_directory(EDATA, NAME, exports, rng)
    if variant != "none":
        data[EDATA : EDATA + len(directory)] = directory
    data[:_HEADER] = header(base, SIZE, SECTIONS, (EDATA, len(directory)) if variant != "none" else (0, 0))
    struct.pack_into("<Q", data, INITIAL, initial)
    struct.pack_into("<I", data, BUILD, 0xF0000000 | layout.build)
    return data


#: the decoy's size
DECOY = 0x10000


def decoy(base: int, filler: bytes, rng: np.random.Generator) -> bytearray:
    """Return a module that claims the kernel's name, with the kernel's exports: they lead to noise."""
    sections = (Section(b".text", 0x1000, 0x7000, 0x60000020), Section(b".data", 0x8000, 0x8000, 0xC0000040))
    names = [b"PsInitialSystemProcess", b"NtBuildNumber", b"PsGetProcessId", b"PsGetProcessImageFileName", b"HalDecoy"]
    exports = {name: 0x9000 + 0x118 * number for number, name in enumerate(names)}
    directory = export_directory(0x8000, NAME, exports, rng)
    data = bytearray(filler)
    data[:_HEADER] = header(base, DECOY, sections, (0x8000, len(directory)))
    data[0x8000 : 0x8000 + len(directory)] = directory
    # a build that there is, a process that is none: a pointer to the decoy itself
    struct.pack_into("<Q", data, exports[b"PsInitialSystemProcess"], base + 0x2000)
    struct.pack_into("<I", data, exports[b"NtBuildNumber"], 0xF0000000 | 14393)
    return data


def put_globals(image: bytearray, data: bytes) -> None:
    """Have the fourth section be the one in which the kernel keeps its aligned data, which begins with these."""
    (begin,) = struct.unpack_from("<I", image, 0x3C)
    (optional,) = struct.unpack_from("<H", image, begin + 20)
    struct.pack_into("8s", image, begin + 24 + optional + 3 * 40, b"CACHEALI")
    image[SECTIONS[3].start + 0x40 : SECTIONS[3].start + 0x40 + len(data)] = data
