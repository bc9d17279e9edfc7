"""Writers of hiberfil.sys: of 64-bit Windows 8 to 11, and of Windows 7; with nothing of memcarve's own.

What is where in the headers is as LeechCore's device_hibr.c and libhibr's documentation have it. Ranges are (physical
start, bytes or a `containers.Slice`), of whole pages.
"""

from __future__ import annotations

import functools
import struct
from typing import TYPE_CHECKING, Any

import containers
import xpress_writer
from containers import PAGE

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from containers import Ranges

    Pages = list[tuple[int, bytes]]

#: first build: length of the header, and where it has the first pages of the loader's and the kernel's sets, the number
#: of pages of each, the highest page of the machine, and Hiberboot
HEADERS = {
    9200: (0x360, 0x60, 0x68, 0x58, 0x1C8, 0x330, 0x2FC),
    10240: (0x3B0, 0x68, 0x70, 0x58, 0x218, 0x380, 0x34C),
    14393: (0x3C8, 0x68, 0x70, 0x58, 0x220, 0x388, 0x354),
    15063: (0x3D8, 0x68, 0x70, 0x58, 0x230, 0x398, 0x364),
    17763: (0x3E0, 0x68, 0x70, 0x58, 0x230, 0x398, 0x364),
    20348: (0x448, 0x68, 0x70, 0x58, 0x230, 0x400, 0x3CC),
    26100: (0x4D8, 0x68, 0x70, 0x58, 0x238, 0x498, 0x464),
}
#: 2024-05-06 07:08:09 UTC in 100 ns since 1601
TIME = 133594528890000000
#: how sets are compressed, one after the other: what is written into the header of the set, and what it is
USUAL = ((0, "plain"), (2, "huffman"), (3, "huffman"), (0, "stored"))
EVERY = (*USUAL, (1, "plain"), (1, "huffman"), (2, "stored"))


def header_of(build: int) -> tuple[int, ...]:
    """Return the row of `HEADERS` that a build has."""
    return HEADERS[max(first for first in HEADERS if first <= build)]


@functools.lru_cache(maxsize=1 << 10)
def pack(data: bytes, how: str, *, quick: bool = False) -> bytes:
    """Return pages compressed; as they are if they do not become less, or (`quick`) if that would take long."""
    if how == "stored" or (quick and data.count(0) < len(data) * 7 // 8):
        return data
    written = xpress_writer.tokens(data)
    packed = xpress_writer.plain(written) if how == "plain" else xpress_writer.huffman(written)
    return packed if len(packed) < len(data) else data


def pages_of(ranges: Ranges) -> Iterator[tuple[int, bytes]]:
    """Yield the frame and the content of each page."""
    for start, content in ranges:
        yield from ((start // PAGE + number, data) for number, data in enumerate(containers.blocks(content, PAGE)))


def descriptors(frames: Iterable[int]) -> bytes:
    """Return the descriptors of the pages of a set: of at most 16 consecutive ones each."""
    runs: list[list[int]] = []
    for frame in frames:
        if runs and runs[-1][0] + runs[-1][1] == frame and runs[-1][1] < 16:
            runs[-1][1] += 1
        else:
            runs.append([frame, 1])
    return b"".join(struct.pack("<Q", frame << 4 | count - 1) for frame, count in runs)


def sets(pages: Pages, methods: Sequence[tuple[int, str]], per_set: int, *, quick: bool = False) -> Iterator[bytes]:
    """Yield the sets of pages of Windows 8 and later."""
    for number, low in enumerate(range(0, len(pages), per_set)):
        some = pages[low : low + per_set]
        method, how = methods[number % len(methods)]
        data = pack(b"".join(content for _, content in some), how, quick=quick and number % 50 > 3)
        rows = descriptors(frame for frame, _ in some)
        yield struct.pack("<I", len(rows) // 8 | len(data) << 8 | method << 30) + rows + data


def processor(root: int) -> bytes:
    """Return the processor's state: cr0, cr2, cr3 and cr4 come first."""
    return struct.pack("<4Q", 0x80050033, 0, root, 0x6F8).ljust(PAGE, b"\0")


def eight_parts(
    ranges: Ranges,
    *,
    build: int = 19041,
    state: bytes = b"HIBR",
    root: int = 0x1AD000,
    methods: Sequence[tuple[int, str]] = EVERY,
    per_set: int = 16,
    loader: float = 0.25,
    kernel_first: bool = False,
    slack: int = 0,
    fast: bool = False,
    secure: int = 0,
    quick: bool = False,
) -> Iterator[bytes]:
    """Yield a file of Windows 8 or later; `loader` is the share of the pages that the loader restores.

    `kernel_first`: the kernel's sets lie before the loader's in the file. `slack` pages are added to the highest.
    `fast`: users were logged off; `secure` is the page that the secure kernel's begin at.
    """
    length, boot_at, kernel_at, boot_pages, kernel_pages, highest, hiberboot = header_of(build)
    pages = [*pages_of(ranges)]
    border = int(len(pages) * loader) // per_set * per_set
    parts = {boot_at: pages[:border], kernel_at: pages[border:]}
    first, runs = 3, []
    header = bytearray(PAGE)
    struct.pack_into("<4s8xIQI4xQ", header, 0, state, length, 0, PAGE, TIME)
    for at in (kernel_at, boot_at) if kernel_first else (boot_at, kernel_at):
        run = b"".join(sets(parts[at], methods, per_set, quick=quick))
        run = run.ljust(-(-len(run) // PAGE) * PAGE + PAGE, b"\xaa")
        struct.pack_into("<Q", header, at, first)
        runs.append(run)
        first += len(run) // PAGE
    struct.pack_into("<Q", header, boot_pages, border)
    header[hiberboot] = int(fast)
    if boot_at != 0x60:
        struct.pack_into("<Q", header, 0x60, secure)
    struct.pack_into("<Q", header, kernel_pages, len(pages) - border)
    struct.pack_into("<Q", header, highest, max((frame for frame, _ in pages), default=0) + slack)
    yield bytes(header)
    yield processor(root)
    yield bytes(PAGE)
    yield from runs


def seven_parts(
    ranges: Ranges, *, state: bytes = b"HIBR", root: int = 0x1AD000, stale: int = 0, quick: bool = False
) -> Iterator[bytes]:
    """Yield a file of Windows 7, whose first table is in the seventh page; the last one says that `stale` is the next.

    A table has 255 ranges, the last one fewer.
    """
    header, at = bytearray(PAGE), 6
    if state != bytes(4):
        struct.pack_into("<4s8xIQI4xQ", header, 0, state, 0x128, 0, PAGE, TIME)
        struct.pack_into("<QQ", header, 0x60, at, 0x1A9286514)  # then times
    yield bytes(header)
    yield processor(root)
    yield bytes((at - 2) * PAGE)
    tables = [ranges[low : low + 255] for low in range(0, len(ranges), 255)] or [[]]
    for number, some in enumerate(tables):
        body = b"".join(blocks_of([data for _, data in pages_of(some)], quick=quick))
        body = body.ljust(-(-len(body) // PAGE) * PAGE, b"\0")
        following = at + 1 + len(body) // PAGE
        rows = [(start // PAGE, start // PAGE + containers.length(content) // PAGE) for start, content in some]
        table = struct.pack("<QI4x", following if number + 1 < len(tables) else stale, len(rows))
        yield (table + b"".join(struct.pack("<QQ", *row) for row in rows)).ljust(PAGE, b"\0")
        yield body
        at = following


def blocks_of(pages: list[bytes], *, quick: bool = False) -> Iterator[bytes]:
    """Yield pages in the blocks of Windows 7."""
    for number, low in enumerate(range(0, len(pages), 16)):
        some = pages[low : low + 16]
        data = pack(b"".join(some), "stored" if number % 4 == 3 else "plain", quick=quick and number % 50 > 3)
        head = struct.pack("<8sBI19x", b"\x81\x81xpress", len(some) - 1, 4 * len(data) - 1)
        yield head + data + bytes(-len(data) % 8)


def eight(ranges: Ranges, **how: Any) -> bytes:
    """Return a file of Windows 8 or later."""
    return b"".join(eight_parts(ranges, **how))


def seven(ranges: Ranges, **how: Any) -> bytes:
    """Return a file of Windows 7."""
    return b"".join(seven_parts(ranges, **how))
