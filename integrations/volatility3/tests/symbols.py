# This file is Copyright 2026 the memcarve authors and licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""Makes Volatility accept the Windows images that memcarve's own tests build (``tests/winimage``), offline.

It needs to find the kernel (a processor's start block in low memory, the record that names the kernel's symbols), and
the symbols themselves: a table in Volatility's Intermediate Symbol Format with the few types that its plugins read. The
offsets are those by which winimage wrote the image, whose layout must be of Windows 10 and have every member.
"""

from __future__ import annotations

import hashlib
import json
import struct
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from winimage.layouts import Layout
    from winimage.truth import Truth

#: where in the kernel's image is noise that nobody misses: the record, the table of protections
RECORD, PROTECT = 0x2000, 0x400000 + 0x8000
_HEAD = 0x400000 + 0x3560
_LOW_STUB, _TARGET, _CR3, _JUMP = 0x1000, 0x70, 0xA0, 0x100064DE9
#: winnt.h; by _MMVAD_FLAGS.Protection
PROTECTIONS = [
    0x01, 0x02, 0x10, 0x20, 0x04, 0x08, 0x40, 0x80, 0x01, 0x202, 0x210, 0x220, 0x204, 0x208, 0x240, 0x280,
    0x01, 0x102, 0x110, 0x120, 0x104, 0x108, 0x140, 0x180, 0x01, 0x402, 0x410, 0x420, 0x404, 0x408, 0x440, 0x480,
]  # fmt: skip
_BASES = {
    "u8": ("unsigned char", "char", False, 1), "u16": ("unsigned short", "int", False, 2),
    "u32": ("unsigned long", "int", False, 4), "i32": ("long", "int", True, 4), "int": ("int", "int", True, 4),
    "u64": ("unsigned long long", "int", False, 8), "i64": ("long long", "int", True, 8),
    "i16": ("short", "int", True, 2), "wchar": ("wchar", "int", True, 2), "void": ("void", "void", True, 0),
    "uint": ("unsigned int", "int", False, 4), "i8": ("char", "char", True, 1), "ptr": ("pointer", "int", False, 8),
}  # fmt: skip
#: Volatility gives these classes of its own when it loads a kernel's symbols, and refuses a table without them
_DEMANDED = [
    "_POOL_TRACKER_BIG_PAGES",
    "_HANDLE_TABLE",
    "_ETHREAD",
    "_KTHREAD",
    "_ERESOURCE",
    "_TOKEN",
    "_OBJECT_HEADER",
    "_DEVICE_OBJECT",
    "_CM_KEY_BODY",
    "_CMHIVE",
    "_CM_KEY_NODE",
    "_CM_KEY_VALUE",
    "_HMAP_ENTRY",
    "_KMUTANT",
    "_DRIVER_OBJECT",
    "_OBJECT_SYMBOLIC_LINK",
    "_SHARED_CACHE_MAP",
    "_VACB",
    "_IMAGE_DOS_HEADER",
    "_KTIMER",
    "_LDR_DATA_TABLE_ENTRY",
    "_KSYSTEM_TIME",
    "_PEB",
    "_MM_SESSION_SPACE",
]


def install(truth: Truth, folder: Path) -> Path:
    """Write into an image what leads to its kernel, and its symbols into `folder`; return that."""
    table, guid = _table(truth.layout)
    with Path(truth.path).open("r+b") as image:

        def write(address: int, data: bytes) -> None:
            image.seek(_physical(truth, address))
            image.write(data)

        record = b"RSDS" + uuid.UUID(guid).bytes_le + struct.pack("<I", 1) + b"ntkrnlmp.pdb\0"
        write(truth.kernel_base + RECORD, record)
        write(truth.kernel_base + PROTECT, struct.pack("<32I", *PROTECTIONS))
        for place, value in ((0, _JUMP), (_TARGET, truth.kernel_base + 0x1000), (_CR3, truth.kernel_root)):
            image.seek(_LOW_STUB + place)
            image.write(struct.pack("<Q", value))
    path = folder / "windows" / "ntkrnlmp.pdb" / f"{guid}-1.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(table))
    return folder


def _physical(truth: Truth, address: int) -> int:
    """Return where an address of the kernel's half lies, as it was planned."""
    pages = truth.process(4).kernel
    for start, physical, size in zip(pages.address.tolist(), pages.physical.tolist(), pages.size.tolist(), strict=True):
        if start <= address < start + size:
            return int(physical + address - start)
    raise ValueError(f"0x{address:x} is not mapped")


def _types(layout: Layout) -> dict[str, tuple[str, int, dict[str, tuple[int, str]]]]:
    """Return kind, size and fields (offset and type) of each type."""
    at = layout.offsets

    def fields(name: str, **types: str) -> dict[str, tuple[int, str]]:
        return {field: (at[f"{name}.{field}"], kind) for field, kind in types.items()}

    def bit(name: str) -> tuple[int, str]:
        offset, place, width = layout.bits[f"_MMVAD_FLAGS.{name}"]
        return offset, f"u32:{place}:{width}"

    process = fields(
        "_EPROCESS",
        UniqueProcessId="*void",
        ActiveProcessLinks="_LIST_ENTRY",
        CreateTime="_LARGE_INTEGER",
        ExitTime="_LARGE_INTEGER",
        SectionBaseAddress="*void",
        InheritedFromUniqueProcessId="*void",
        Peb="*_PEB",
        Session="*_MM_SESSION_SPACE",
        ObjectTable="*_HANDLE_TABLE",
        WoW64Process="*void",
        ImageFileName="u8[15]",
        ThreadListHead="_LIST_ENTRY",
        ActiveThreads="u32",
        VadRoot="_RTL_AVL_TREE",
    )
    node = "*_RTL_BALANCED_NODE"
    return {
        **{name: ("struct", 64, {}) for name in _DEMANDED},
        "_LIST_ENTRY": ("struct", 16, {"Flink": (0, "*_LIST_ENTRY"), "Blink": (8, "*_LIST_ENTRY")}),
        "_LARGE_INTEGER": ("union", 8, {"LowPart": (0, "u32"), "HighPart": (4, "i32"), "QuadPart": (0, "i64")}),
        "_UNICODE_STRING": (
            "struct", 16, {"Length": (0, "u16"), "MaximumLength": (2, "u16"), "Buffer": (8, "*wchar")},
        ),
        "_EX_FAST_REF": ("struct", 8, {"Object": (0, "*void"), "RefCnt": (0, "u64:0:4"), "Value": (0, "u64")}),
        "_KPROCESS": ("struct", at["_KPROCESS.size"], fields("_KPROCESS", DirectoryTableBase="u64")),
        "_EPROCESS": ("struct", at["_EPROCESS.size"], {"Pcb": (0, "_KPROCESS"), **process}),
        "_RTL_AVL_TREE": ("struct", 8, {"Root": (0, node)}),
        "_RTL_BALANCED_NODE": ("struct", 24, {"Left": (0, node), "Right": (8, node), "ParentValue": (16, "u64")}),
        "_MMVAD_FLAGS": ("struct", 4, {name: bit(name) for name in ("VadType", "Protection", "PrivateMemory")}),
        "_MMVAD_FLAGS1": ("struct", 4, {"CommitCharge": (0, "u32:0:31"), "MemCommit": (0, "u32:31:1")}),
        "_u": ("union", 4, {"LongFlags": (0, "u32"), "VadFlags": (0, "_MMVAD_FLAGS")}),
        "_u1": ("union", 4, {"LongFlags1": (0, "u32"), "VadFlags1": (0, "_MMVAD_FLAGS1")}),
        "_MMVAD_SHORT": ("struct", at["_MMVAD_SHORT.size"], fields(
            "_MMVAD_SHORT", VadNode="_RTL_BALANCED_NODE", StartingVpn="u32", EndingVpn="u32", StartingVpnHigh="u8",
            EndingVpnHigh="u8", u="_u", u1="_u1",
        )),
        "_MMVAD": ("struct", at["_MMVAD.size"], fields("_MMVAD", Core="_MMVAD_SHORT", Subsection="*_SUBSECTION")),
        "_SUBSECTION": ("struct", at["_SUBSECTION.size"], fields("_SUBSECTION", ControlArea="*_CONTROL_AREA")),
        "_CONTROL_AREA": ("struct", at["_CONTROL_AREA.size"], fields("_CONTROL_AREA", FilePointer="_EX_FAST_REF")),
        "_FILE_OBJECT": ("struct", at["_FILE_OBJECT.size"], {
            "Type": (0, "i16"), "Size": (2, "i16"), "DeviceObject": (8, "*_DEVICE_OBJECT"),
            **fields("_FILE_OBJECT", FileName="_UNICODE_STRING"),
        }),
    }  # fmt: skip


def _table(layout: Layout) -> tuple[dict[str, Any], str]:
    """Return the table and the GUID that the image must name: a hash, as Volatility keeps what it has seen once."""
    types = _types(layout)

    def kind_of(text: str) -> dict[str, Any]:
        if text[0] == "*":
            return {"kind": "pointer", "subtype": kind_of(text[1:])}
        if text[-1] == "]":
            name, count = text[:-1].split("[")
            return {"kind": "array", "count": int(count), "subtype": kind_of(name)}
        if ":" in text:
            name, place, width = text.split(":")
            return {"kind": "bitfield", "bit_position": int(place), "bit_length": int(width), "type": kind_of(name)}
        return {"kind": types[text][0], "name": text} if text in types else {"kind": "base", "name": _BASES[text][0]}

    table: dict[str, Any] = {
        "metadata": {
            "format": "6.1.0",
            "producer": {"name": "memcarve", "version": "1.0.0", "datetime": "2026-01-01T00:00:00"},
        },
        "base_types": {
            name: {"kind": kind, "signed": signed, "size": size, "endian": "little"}
            for name, kind, signed, size in _BASES.values()
        },
        "enums": {},
        "user_types": {
            name: {
                "kind": kind,
                "size": size,
                "fields": {field: {"offset": at, "type": kind_of(text)} for field, (at, text) in members.items()},
            }
            for name, (kind, size, members) in types.items()
        },
        "symbols": {"PsActiveProcessHead": {"address": _HEAD}, "MmProtectToValue": {"address": PROTECT}},
    }
    guid = hashlib.sha256(json.dumps(table, sort_keys=True).encode()).hexdigest()[:32].upper()
    table["metadata"]["windows"] = {"pdb": {"GUID": guid, "age": 1, "database": "ntkrnlmp.pdb", "machine_type": 0x8664}}
    return table, guid
