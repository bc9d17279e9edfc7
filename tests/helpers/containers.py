"""Writers of containers of a machine's physical memory: from the formats' descriptions, with nothing of memcarve's own.

Each takes ranges, (physical start, bytes or a `Slice` of a file), and returns the container; `write` does the same into
a file, without ever holding more than a block.
"""

from __future__ import annotations

import itertools
import struct
import zlib
from typing import TYPE_CHECKING, Any, NamedTuple

import cramjam
import lzallright

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Iterator, Sequence

PAGE = 0x1000
_READ = 1 << 20
AVML_BLOCK = 1 << 24


class Slice(NamedTuple):
    """`size` bytes at `offset` of a file."""

    path: str | os.PathLike[str]
    offset: int
    size: int


if TYPE_CHECKING:
    Content = bytes | Slice
    Ranges = Sequence[tuple[int, Content]]


def length(content: Content) -> int:
    """Return how many bytes a range has."""
    return content.size if isinstance(content, Slice) else len(content)


def blocks(content: Content, size: int = _READ) -> Iterator[bytes]:
    """Yield the bytes of a range, `size` at a time."""
    if not isinstance(content, Slice):
        yield from (content[low : low + size] for low in range(0, len(content), size))
        return
    with open(content.path, "rb") as file:
        file.seek(content.offset)
        left = content.size
        while left:
            data = file.read(min(size, left))
            assert data, f"{content.path} ends too early"
            left -= len(data)
            yield data


def write(path: str | os.PathLike[str], parts: Iterable[bytes]) -> str:
    """Write what one of the `_parts` yields into a file; return its path."""
    with open(path, "wb") as file:
        file.writelines(parts)
    return str(path)


# LiME and AVML


def lime_header(start: int, size: int) -> bytes:
    """Return the header of a range of LiME's."""
    return struct.pack("<IIQQ8x", 0x4C694D45, 1, start, start + size - 1)


def avml_header(start: int, size: int) -> bytes:
    """Return the header of a range of AVML's."""
    return struct.pack("<4sIQQ8x", b"AVML", 2, start, start + size - 1)


def lime_parts(ranges: Ranges) -> Iterator[bytes]:
    """Yield a LiME file."""
    for start, content in ranges:
        yield lime_header(start, length(content))
        yield from blocks(content)


def lime(ranges: Ranges) -> bytes:
    """Return a LiME file."""
    return b"".join(lime_parts(ranges))


def lime_of_avml_parts(ranges: Ranges, *, block: int = AVML_BLOCK, zeros: str = "left out") -> Iterator[bytes]:
    """Yield LiME as AVML writes it: in blocks, of which those of zeros are "left out" or a header "alone"."""
    for start, content in ranges:
        address = start
        for data in blocks(content, block):
            if any(data):
                yield lime_header(address, len(data)) + data
            elif zeros == "alone":
                yield lime_header(address, len(data))
            address += len(data)


def lime_of_avml(ranges: Ranges, *, block: int = AVML_BLOCK, zeros: str = "left out") -> bytes:
    """Return LiME as AVML writes it."""
    return b"".join(lime_of_avml_parts(ranges, block=block, zeros=zeros))


def write_lime(path: str | os.PathLike[str], ranges: Ranges) -> str:
    """Write a LiME file."""
    return write(path, lime_parts(ranges))


def avml_parts(
    ranges: Ranges, *, counts: bool = True, skip_zeros: bool = False, alone: bool = False, block: int = AVML_BLOCK
) -> Iterator[bytes]:
    """Yield an AVML file; without `counts` the sizes behind the blocks are left out.

    AVML itself leaves out blocks that are zero (`skip_zeros`), or for a year all but their headers (`alone`).
    """
    for start, content in ranges:
        address = start
        for data in blocks(content, block):
            begin, address = address, address + len(data)
            if skip_zeros and not any(data):
                continue
            yield avml_header(begin, len(data))
            if alone and not any(data):
                continue
            stream = bytes(cramjam.snappy.compress(data))
            yield stream
            if counts:
                yield struct.pack("<Q", len(stream))


def avml(
    ranges: Ranges, *, counts: bool = True, skip_zeros: bool = False, alone: bool = False, block: int = AVML_BLOCK
) -> bytes:
    """Return an AVML file."""
    return b"".join(avml_parts(ranges, counts=counts, skip_zeros=skip_zeros, alone=alone, block=block))


def write_avml(path: str | os.PathLike[str], ranges: Ranges) -> str:
    """Write an AVML file."""
    return write(path, avml_parts(ranges))


# ELF


def note(name: bytes, kind: int, content: bytes, *, counted: bool = True) -> bytes:
    """Return a note; `counted`: its name's length counts the zero byte behind it, as it should."""
    size = len(name) + counted
    padded = name.ljust(len(name) + 1 + 3 & ~3, b"\0")
    return struct.pack("<III", size, len(content), kind) + padded + content.ljust(len(content) + 3 & ~3, b"\0")


def qemu_note(root: int, cr0: int = 0x80000011) -> bytes:
    """Return QEMU's note of a processor: version, size, registers, segments, cr0 to cr4, and more since 2019."""
    state = bytes(18 * 8 + 10 * 24) + struct.pack("<5QQ", cr0, 0, 0, root, 0x6A0, 0)
    return note(b"QEMU", 0, struct.pack("<II", 1, 8 + len(state)) + state)


def notes_of(flavour: str, root: int = 0x1AD000) -> bytes:
    """Return the notes that QEMU, VirtualBox or kdump write for two processors, and what is in a process's core."""
    status = note(b"CORE", 1, bytes(336))
    return {
        "qemu": status * 2 + qemu_note(root) + qemu_note(0x1000),
        "virtualbox": note(
            b"VBCORE", 0xB00, struct.pack("<6I", 0xC01AC0DE, 0x10006, 24, 0x7000012, 1, 2), counted=False
        )
        + note(b"VBCPU", 0xB01, bytes(1024), counted=False) * 2,
        "kdump": status * 2 + note(b"VMCOREINFO", 0, b"OSRELEASE=6.1.0\nPAGESIZE=4096\n"),
        "process": status
        + note(b"CORE", 3, bytes(136))
        + note(b"CORE", 6, bytes(320))
        + note(b"CORE", 0x46494C45, b""),
        "none": b"",
    }[flavour]


def elf_core_parts(
    ranges: Ranges,
    *,
    bits: int = 64,
    many: bool = False,
    flavour: str = "qemu",
    unstored: int = 0,
    root: int = 0x1AD000,
) -> Iterator[bytes]:
    """Yield an ELF core, laid out as QEMU does: headers, program headers, section header, notes, memory.

    `many` puts the number of program headers into the section header, as it is when it has more than 16 bits;
    `unstored` bytes of each range are in memory (p_memsz) and not in the file.
    """
    wide, notes, count = bits == 64, notes_of(flavour, root), len(ranges) + 1
    header_size, row, section = (64, 56, 64) if wide else (52, 32, 40)
    sections = header_size + row * count
    place = sections + section * many
    ident = b"\x7fELF" + bytes([2 if wide else 1, 1, 1]).ljust(12, b"\0")
    yield ident + struct.pack(
        "<HHIQQQIHHHHHH" if wide else "<HHIIIIIHHHHHH",
        *(4, 62 if wide else 3, 1, 0, header_size, sections * many, 0, header_size, row),
        *(0xFFFF if many else count, section * many, int(many), 0),
    )

    def program(kind: int, offset: int, virtual: int, physical: int, size: int, whole: int) -> bytes:
        if wide:
            return struct.pack("<IIQQQQQQ", kind, 0, offset, virtual, physical, size, whole, 0)
        return struct.pack("<8I", kind, offset, virtual, physical, size, whole, 0, 0)

    yield program(4, place, 0, 0, len(notes), len(notes))
    offset, rows = place + len(notes), []
    for start, content in ranges:
        virtual = {"qemu": start, "kdump": start ^ 0x100000, "process": start}.get(flavour, 0)
        physical = 0 if flavour == "process" else start
        rows.append(program(1, offset, virtual, physical, length(content), length(content) + unstored))
        offset += length(content)
    yield b"".join(rows)
    if many:
        yield (
            (bytes(44) + struct.pack("<I", count)).ljust(64, b"\0")
            if wide
            else bytes(28) + struct.pack("<III", count, 0, 0)
        )
    yield notes
    for _, content in ranges:
        yield from blocks(content)


def elf_core(ranges: Ranges, *, bits: int = 64, many: bool = False, flavour: str = "qemu", unstored: int = 0) -> bytes:
    """Return an ELF core."""
    return b"".join(elf_core_parts(ranges, bits=bits, many=many, flavour=flavour, unstored=unstored))


def write_elf_core(path: str | os.PathLike[str], ranges: Ranges, *, bits: int = 64, flavour: str = "qemu") -> str:
    """Write an ELF core."""
    return write(path, elf_core_parts(ranges, bits=bits, flavour=flavour))


# cores of Xen's domains (docs/misc/dump-core-format.txt): starts and lengths are whole pages


def xen_core_parts(
    ranges: Ranges, *, kind: str = "hvm", root: int = 0x1AD000, machine: int = 62, page: int = PAGE, absent: int = 0
) -> Iterator[bytes]:
    """Yield what xl dump-core writes of a domain, "hvm" or "pv"; `absent` pages have a number and no place."""
    pages = [(start + at, data) for start, content in ranges for at, data in zip(*_pages(content, page), strict=True)]
    count = len(pages) + absent
    context = bytearray(5168)
    struct.pack_into("<QQQQ", context, 4984, 0x80000011, 0, 0, root)
    if kind == "hvm":
        table = b"".join(struct.pack("<Q", start // page) for start, _ in pages) + b"\xff" * 8 * absent
    else:
        rows = (struct.pack("<QQ", number, start // page) for number, (start, _) in enumerate(pages))
        table = b"".join(rows) + (bytes(8) + b"\xff" * 8) * absent
    magic = 0xF00FEBEE if kind == "hvm" else 0xF00FEBED
    notes = note(b"Xen", 0x2000000, b"") + note(b"Xen", 0x2000001, struct.pack("<QQQQ", magic, 2, count, page))
    notes += note(b"Xen", 0x2000003, struct.pack("<Q", 1))
    bodies = {
        b".shstrtab": b"",
        b".note.Xen": notes,
        b".xen_prstatus": bytes(context) * 2,
        b".xen_shared_info": bytes(page),
        b".xen_pfn" if kind == "hvm" else b".xen_p2m": table,
        b".xen_pages": b"",
    }
    names = b"\0" + b"".join(name + b"\0" for name in bodies)
    bodies[b".shstrtab"] = names
    place = 64 + 64 * (len(bodies) + 1)
    yield b"\x7fELF\2\1\1".ljust(16, b"\0")
    yield struct.pack("<HHIQQQIHHHHHH", 4, machine, 1, 0, 0, 64, 0, 64, 0, 0, 64, len(bodies) + 1, 1)
    yield bytes(64)
    headers, placed = [], []
    for name, body in bodies.items():
        place += -place % (page if name == b".xen_pages" else 8)
        size = count * page if name == b".xen_pages" else len(body)
        headers.append(struct.pack("<IIQQQQIIQQ", names.index(name), 1, 0, 0, place, size, 0, 0, 1, 0))
        placed.append((place, body))
        place += size
    yield b"".join(headers)
    reached = 64 + 64 * (len(bodies) + 1)
    for at, body in placed:
        yield bytes(at - reached) + body
        reached = at + len(body)
    yield from (data for _, data in pages)
    yield bytes(absent * page)


def xen_core(ranges: Ranges, **how: Any) -> bytes:
    """Return what xl dump-core writes."""
    return b"".join(xen_core_parts(ranges, **how))


# Windows crash dumps: starts and lengths are whole pages

KINDS = {"full": 1, "FDMP": 5, "SDMP": 5, "live": 6, "kernel": 8, "kernel and user": 9, "complete": 10}


def crash_dump_parts(ranges: Ranges, *, kind: str = "full", root: int = 0x1AD000) -> Iterator[bytes]:
    """Yield a 64-bit crash dump of one of the `KINDS`; those with a bitmap need their ranges sorted."""
    runs = [(start // PAGE, length(content) // PAGE) for start, content in ranges]
    total = sum(count for _, count in runs)
    header = bytearray(b"PAGE" * (0x2000 // 4))
    struct.pack_into("<4s4sIIQQQQII", header, 0, b"PAGE", b"DU64", 15, 19041, root, 0, 0, 0, 0x8664, 4)
    if kind == "full":
        struct.pack_into("<IIQ", header, 0x88, len(runs), 0, total)
        for index, run in enumerate(runs):
            struct.pack_into("<QQ", header, 0x98 + 16 * index, *run)
    struct.pack_into("<I", header, 0x348 + 0x34, 0x1F80)  # MxCsr, twice in the context record: readers compare them
    struct.pack_into("<I", header, 0x348 + 0x118, 0x1F80)
    struct.pack_into("<I", header, 0xF98, KINDS[kind])
    yield bytes(header)
    if kind in {"FDMP", "SDMP", "live"}:
        pages = max((first + count for first, count in runs), default=0) + 7 & ~7
        bits = bytearray(pages // 8)
        for first, count in runs:
            for page in range(first, first + count):
                bits[page // 8] |= 1 << page % 8
        place = 0x2038 + len(bits) + PAGE - 1 & ~(PAGE - 1)
        second = struct.pack("<4s4s24xQQQ", b"SDMP" if kind != "FDMP" else b"FDMP", b"DUMP", place, total, pages) + bits
        yield second.ljust(place - 0x2000, b"\0")
    elif kind != "full":
        table = b"".join(struct.pack("<QQ", *run) for run in runs) + bytes(16)
        metadata = len(table) + 16
        metadata += -(0x2020 + metadata) % PAGE  # the pages begin at a page
        second = struct.pack("<I4s4sIQQ", 0x40, b"RDMP", b"DUMP", 0, metadata, metadata + 0x2020)
        second += (struct.pack("<IIQ", len(runs), 0, total) if kind == "complete" else bytes(16)) + table
        yield second.ljust(metadata + 0x20, b"\0")
    for _, content in ranges:
        yield from blocks(content)


def crash_dump(ranges: Ranges, *, kind: str = "full", root: int = 0x1AD000) -> bytes:
    """Return a 64-bit crash dump."""
    return b"".join(crash_dump_parts(ranges, kind=kind, root=root))


# compressed kernel dumps (makedumpfile's IMPLEMENTATION, diskdump_mod.h): starts and lengths are whole pages

PACKERS = {
    "plain": (0, bytes),
    "zlib": (1, zlib.compress),
    "lzo": (2, lzallright.LZOCompressor().compress),
    "snappy": (4, lambda data: bytes(cramjam.snappy.compress_raw(data))),
    "zstd": (0x20, lambda data: bytes(cramjam.zstd.compress(data))),
}


def kdump_parts(
    ranges: Ranges,
    *,
    how: str = "zlib",
    bits: int = 64,
    page: int = PAGE,
    version: int = 6,
    machine: bytes = b"x86_64",
    magic: bytes = b"KDUMP   ",
    left_out: Sequence[tuple[int, int]] = (),
    bitmaps: int = 2,
    split: tuple[int, int] | None = None,
    level: int = 1,
    status: int = 0,
    share: bool = True,
    vmcoreinfo: bytes = b"",
    notes: bytes = b"",
    erased: int = 0,
) -> Iterator[bytes]:
    """Yield a compressed kernel dump, whose ranges are sorted; what was `left_out` is in the first bitmap alone.

    `split`: only these pages, as one of several files. `share`: pages of zeros are stored once.
    """
    stored = {
        (start + at) // page: data for start, content in ranges for at, data in zip(*_pages(content, page), strict=True)
    }
    known = {number for start, size in left_out for number in range(start // page, (start + size) // page)} | set(
        stored
    )
    top = max(known, default=0) + 1
    blocks = -(-top // (8 * page))
    sub = 1 + -(-(len(vmcoreinfo) + len(notes)) // page)
    names = [b"" if magic == b"DISKDUMP" else b"Linux", b"machine", b"6.1.0", b"#1 SMP", machine, b"(none)"]
    first = b"".join(name.ljust(65, b"\0") for name in names)
    header = magic + struct.pack("<I", version) + first
    header = header.ljust(424 if bits == 64 else 412, b"\0")
    flag, pack = PACKERS[how]
    header += struct.pack(
        "<IiiIIIIIIi", flag | status, page, sub, bitmaps * blocks, min(top, (1 << 32) - 1), *[0] * 4, 1
    )
    yield header.ljust(page, b"\0")
    low, high = split or (0, 0)
    place = page + 200
    second = struct.pack(
        "<QiiQQQQQQQQQQQ" if bits == 64 else "<IiiIIQIQIQIQQQ",
        *(0x1000000, level, int(split is not None), low, high),
        *(place, len(vmcoreinfo), place + len(vmcoreinfo), len(notes), place * (erased > 0), erased),
        *(low, high, top),
    )
    yield (second.ljust(200, b"\0") + vmcoreinfo + notes).ljust(sub * page, b"\0")
    for present in [known, set(stored)][-bitmaps:]:
        bitmap = bytearray(blocks * page)
        for number in present:
            bitmap[number // 8] |= 1 << number % 8
        yield bytes(bitmap)
    if split:
        stored = {number: data for number, data in stored.items() if low <= number < high}
    begin = (1 + sub + bitmaps * blocks) * page + 24 * len(stored)
    table, bodies, shared = [], [], None
    if share and any(not any(data) for data in stored.values()):
        shared = struct.pack("<QIIQ", begin, page, 0, 0)
        bodies, begin = [bytes(page)], begin + page
    for number in sorted(stored):
        data = stored[number]
        if shared and not any(data):
            table.append(shared)
            continue
        packed = pack(data)
        flags, packed = (flag, packed) if len(packed) < page else (0, data)
        table.append(struct.pack("<QIIQ", begin, len(packed), flags, 0))
        bodies.append(packed)
        begin += len(packed)
    yield from table
    yield from bodies


def _pages(content: Content, page: int) -> tuple[range, list[bytes]]:
    return range(0, length(content), page), list(blocks(content, page))


def kdump(ranges: Ranges, **how: Any) -> bytes:
    """Return a compressed kernel dump."""
    return b"".join(kdump_parts(ranges, **how))


def flattened(pieces: Iterable[tuple[int, bytes]], *, end: bool = True) -> bytes:
    """Return pieces, (offset, bytes), of a file as makedumpfile -F sends them."""
    parts = [struct.pack(">16sqq", b"makedumpfile", 1, 1).ljust(4096, b"\0")]
    for offset, data in pieces:
        parts += [struct.pack(">qq", offset, len(data)), data]
    return b"".join(parts) + struct.pack(">qq", -1, -1) * end


def in_pieces(data: bytes, *, size: int = 3000) -> list[tuple[int, bytes]]:
    """Return a file in pieces, the second half first, and all of the beginning again with zeros before it."""
    pieces = [(at, data[at : at + size]) for at in range(0, len(data), size)]
    half = len(pieces) // 2
    return [(0, bytes(min(size // 2, len(data)))), *pieces[half:], *pieces[:half]]


# migration streams of QEMU (docs/devel/migration, migration/ram.c) and what libvirt puts before them


def migration_parts(
    blocks: Sequence[tuple[bytes, int]],
    pages: Iterable[tuple[bytes, int, bytes]],
    *,
    machine: bytes = b"pc-q35-7.2",
    page: int = PAGE,
    capabilities: Sequence[bytes] = (),
    footers: bool = True,
    end: bool = True,
    per_section: int = 7,
) -> Iterator[bytes]:
    """Yield a stream of blocks (name, length) and pages (block, address in it, content) in the order they are sent."""
    yield b"QEVM" + struct.pack(">IBI", 3, 7, len(machine)) + machine
    if page != PAGE:
        name = b"configuration/target-page-bits"
        yield bytes([5, len(name)]) + name + struct.pack(">II", 1, page.bit_length() - 1)
    if capabilities:
        name = b"configuration/capabilities"
        yield bytes([5, len(name)]) + name + struct.pack(">II", 1, len(capabilities))
        yield b"".join(bytes([len(each)]) + each for each in capabilities)
    footer = struct.pack(">BI", 0x7E, 2) * footers
    yield struct.pack(">BI", 1, 2) + b"\x03ram" + struct.pack(">II", 0, 4)
    yield struct.pack(">Q", sum(size for _, size in blocks) | 4)
    yield b"".join(bytes([len(name)]) + name + struct.pack(">Q", size) for name, size in blocks)
    yield struct.pack(">Q", 0x10) + footer
    sent = [*pages]
    for at in range(0, max(len(sent), 1), per_section):
        last = at + per_section >= len(sent)
        yield struct.pack(">BI", 3 if last and end else 2, 2)
        block = None
        for name, address, data in sent[at : at + per_section]:
            same = 0x20 if name == block else 0
            head = b"" if same else bytes([len(name)]) + name
            if data.count(data[:1]) == len(data):
                yield struct.pack(">Q", address | 2 | same) + head + data[:1]
            else:
                yield struct.pack(">Q", address | 8 | same) + head + data
            block = name
        yield struct.pack(">Q", 0x10) + footer
    if end:
        yield b"\x04" + struct.pack(">I", 9) + b"\x05timer" + bytes(40) + b"\0"


def main_memory(ranges: Ranges) -> tuple[int, list[tuple[bytes, int, bytes]]]:
    """Return the size of a PC's memory that holds ranges (sorted, low), and its pages for `migration_parts`.

    Between ranges are zeros.
    """
    pages, reached = [], 0
    for start, content in ranges:
        pages += [(b"pc.ram", at, bytes(PAGE)) for at in range(reached, start, PAGE)]
        pages += [(b"pc.ram", start + at, data) for at, data in zip(*_pages(content, PAGE), strict=True)]
        reached = start + length(content)
    return reached, pages


def libvirt_parts(stream: Iterable[bytes], *, number: int = 0, magic: bytes = b"LibvirtQemudSave") -> Iterator[bytes]:
    """Yield what virsh save writes: `number` says how the stream is compressed."""
    xml = b"<domain type='kvm'><name>x</name></domain>\0"
    yield magic + struct.pack("<5I56x", 2, len(xml), 1, number, 0) + xml
    yield from stream


# VMware


def tag(name: bytes, *indices: int, value: bytes) -> bytes:
    """Return a tag with a value."""
    numbers = b"".join(struct.pack("<I", index) for index in indices)
    return bytes([len(indices) << 6 | len(value), len(name)]) + name + numbers + value


def vmware_state(
    regions: Sequence[tuple[int, int, int]], memory: bytes | None = None, magic: int = 0xBED2BED2
) -> bytes:
    """Return a VMware machine's state: `regions` are (page, page in the memory, pages), `memory` is put into it."""

    def number(name: bytes, *indices: int, value: int) -> bytes:
        return tag(name, *indices, value=struct.pack("<I", value))

    tags = number(b"align_mask", value=0xFFF) + number(b"regionsCount", value=len(regions))
    for index, row in enumerate(regions):
        for name, value in zip((b"regionPPN", b"regionPageNum", b"regionSize"), row, strict=True):
            tags += number(name, index, value=value)
    groups = {b"Checkpoint": number(b"vers", value=8), b"cpu": tag(b"rip", 0, value=bytes(8)), b"memory": tags}
    position = 12 + 80 * len(groups)
    if memory is not None:
        begin = position + sum(len(body) + 2 for body in [*groups.values()][:2]) + len(tags) + 2 + 6 + 8 + 18
        padding = -begin % PAGE
        block = bytes([2 << 6 | 63, 6]) + b"Memory" + struct.pack("<II", 0, 0)
        groups[b"memory"] += block + struct.pack("<QQH", len(memory), len(memory), padding) + bytes(padding) + memory
    table, bodies = b"", b""
    for name, body in groups.items():
        table += struct.pack("<64sQQ", name, position + len(bodies), len(body) + 2)
        bodies += body + b"\0\0"
    return struct.pack("<III", magic, 8, len(groups)) + table + bodies


def vmware(ranges: Ranges, *, embedded: bool = False) -> tuple[bytes, bytes]:
    """Return a .vmem and its .vmsn; `embedded` puts the memory into the latter."""
    sizes = [length(content) // PAGE for _, content in ranges]
    places = itertools.accumulate(sizes, initial=0)
    regions = [(start // PAGE, place, size) for (start, _), place, size in zip(ranges, places, sizes, strict=False)]
    memory = b"".join(block for _, content in ranges for block in blocks(content))
    return memory, vmware_state(regions, memory if embedded else None)
