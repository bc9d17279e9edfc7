"""Memory maps and dumps for the benchmarks, always the same ones.

    python bench/inputs.py process FOLDER BYTES SEGMENTS    pid.4321.map and pid.4321.dmp
    python bench/inputs.py texts FILE                       texts in a sixth of a dump that is there
    python bench/inputs.py rows FILE ROWS joined|apart      a map alone, whose rows join to segments, or never do
    python bench/inputs.py image FILE big|many|sparse N     a Windows machine's memory: pages, processes or GiB
    python bench/inputs.py image FILE x64|arm64-4k-48 N     page tables of N pages, as Linux has them

This runs in a process of its own, so that the one that measures stays small.
"""

from __future__ import annotations

import itertools
import os
import random
import struct
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

PAGE = 4096
_SEED = 4321
#: pages that lie side by side in physical memory, too: as often as in the map of a real process
_RUNS = [*[1] * 24, *[2] * 7, *[3] * 2, *[4] * 5, 5, 6, 7, *[8] * 3, 9, 12, 16, 16, 40]
_CHUNK = 1 << 24
_TEXT = 1 << 16
#: where the rows of a process lie: few at low addresses, then its libraries, then the kernel (as printed, 48 bits)
_PLACES = ((0.0, 0x10000), (0.1, 0x7E0000000000), (0.4, 0xF80000000000))
_HEAD = "Volatility 3 Framework 2.28.2\n\nVirtual\tPhysical\tSize\tOffset in File\tFile output\n\n"


def write_map(path: str, rows: Iterable[tuple[int, int]], count: int) -> None:
    """Write a map as the quick renderer prints it; `rows` are pages and pages of gap behind them, roughly `count`."""
    chance = random.Random(_SEED)  # noqa: S311 - the same numbers every time are what is wanted
    starts = {int(share * count): start for share, start in _PLACES}
    offset = virtual = 0
    numbered = enumerate(rows)
    with open(path, "w", encoding="ascii", newline="\n") as file:
        file.write(_HEAD)
        while part := list(itertools.islice(numbered, 1 << 14)):
            lines = []
            for number, (pages, gap) in part:
                virtual = max(virtual, starts.get(number, 0))
                size = pages * PAGE
                physical = chance.getrandbits(22) * PAGE
                lines.append(f"0x{virtual:x}\t0x{physical:x}\t0x{size:x}\t0x{offset:x}\tpid.4321.dmp\n")
                offset += size
                virtual += size + gap * PAGE
            file.writelines(lines)


def process(folder: str, size: int, segments: int) -> None:
    """Write a map and a dump of `size` bytes that form `segments` segments or a few more."""
    chance = random.Random(_SEED)  # noqa: S311
    pages = size // PAGE
    cuts = [0, *sorted(chance.sample(range(1, pages), min(segments, pages) - 1)), pages]

    def rows() -> Iterator[tuple[int, int]]:
        for first, end in itertools.pairwise(cuts):
            place = first
            while place < end:
                run = min(chance.choice(_RUNS), end - place)
                place += run
                yield run, chance.randrange(1, 100) if place == end else 0

    write_map(os.path.join(folder, "pid.4321.map"), rows(), max(segments, pages // 4))
    import numpy as np  # noqa: PLC0415 - a map alone needs none

    noise = np.random.default_rng(_SEED)
    with open(os.path.join(folder, "pid.4321.dmp"), "wb") as file:
        file.writelines(noise.bytes(min(_CHUNK, pages * PAGE - done)) for done in range(0, pages * PAGE, _CHUNK))


def texts(path: str) -> None:
    """Write texts into a sixth of a dump, every sixth 64 KiB: as many and as long as the memory of real programs has.

    Most are ASCII, ended by zeros; one in eight is UTF-16, one in fifty Russian.
    """
    chance = random.Random(_SEED)  # noqa: S311
    words = ["".join(chance.choices("etaoinshrdlucmfwyp", k=chance.randrange(2, 10))) for _ in range(2000)]
    found = []
    for number in range(40_000):
        text = "_ /.:"[number % 5].join(chance.choices(words, k=chance.choice((1, 2, 2, 3, 3, 4, 8))))
        text = text.replace("e", "\u0435").replace("o", "\u043e") if number % 50 == 0 else text
        found.append(text.encode("utf-16-le" if number % 8 == 0 else "utf-8") + bytes(chance.randrange(2, 9)))
    data = b"".join(found)
    with open(path, "r+b") as file:
        for number, place in enumerate(range(0, os.path.getsize(path), 6 * _TEXT)):
            first = number * _TEXT % (len(data) - _TEXT)
            file.seek(place)
            file.write(data[first : first + _TEXT])


def rows(path: str, count: int, *, joined: bool) -> None:
    """Write a map of `count` rows that join to a segment in a thousand, or never join."""
    chance = random.Random(_SEED)  # noqa: S311
    write_map(
        path,
        ((chance.choice(_RUNS), 0 if joined and chance.random() > 0.001 else 1) for _ in range(count)),
        count,
    )


#: what became of a process's pages, and the layout of the kernel
_LEFT = {
    "xpress": ("compressed", 8),
    "lz4": ("compressed", 23),
    "pagefile": ("pagefile", 8),
    "scattered": ("scattered", 8),
    "few": ("few", 8),
    "views": ("views", 8),
}


def image(path: str, kind: str, count: int) -> None:
    """Write an image with the tests' generator: a process of many pages, many processes, or little in much memory.

    ``dense`` is one of about `count` MiB that 25 processes fill, ``wide`` one of `count` processes of 8 MiB each, which
    lie in ten times as much memory (8 GiB for 100). A process of ``xpress``, ``lz4``, ``pagefile`` and
    ``scattered`` has `count` pages that left memory, of ``few`` and ``views`` as many that did not.
    """
    sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "tests", "helpers"))
    import winimage  # noqa: PLC0415 - needs numpy

    if kind in _LEFT:
        left, layout = _LEFT[kind]
        winimage.departed(path, left, count, layout)
    elif kind == "big":
        winimage.big(path, count, max(64, count * 5 // 1000))
    elif kind == "many":
        winimage.many(path, count)
    elif kind == "wide":
        winimage.many(path, count, 2048, 128 + 8192 * count // 100)
    elif kind == "settled":
        winimage.settled(path, count, 2048, 128 + 8192 * count // 100)
    elif kind == "dense":
        winimage.many(path, 25, (count - 64) * 256 // 25 - 128)
    else:
        winimage.sparse(path, count)


def compressed(path: str, method: str, count: int) -> None:
    """Write compressed pages, or a hibernation file of them: texts, pointers and zeros, which pack to some 45 %.

    With Huffman codes 16 pages are a set. Compressed pages are the arrays `data`, `offset` and `size` of an .npz.
    """
    sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "tests", "helpers"))
    import lz4.block
    import numpy as np  # noqa: PLC0415

    import hibernation  # noqa: PLC0415
    import lzo_writer  # noqa: PLC0415
    import xpress_writer  # noqa: PLC0415

    chance = random.Random(_SEED)  # noqa: S311
    words = [chance.randbytes(chance.choice((2, 3, 6))) + bytes(chance.choice((0, 0, 2, 5))) for _ in range(600)]
    pages = [b"".join(chance.choices(words, k=PAGE))[:PAGE] for _ in range(256)]
    of_pages: dict[str, Callable[[bytes], bytes]] = {
        "Xpress": lambda page: xpress_writer.plain(xpress_writer.tokens(page)),
        "LZ4": lambda page: lz4.block.compress(page, store_size=False),
        "LZO": lambda page: lzo_writer.block(lzo_writer.tokens(page)),
    }
    if method in of_pages:
        blocks = [of_pages[method](page) for page in pages]
        number = count
    else:
        sets = [b"".join(pages[low : low + 16]) for low in range(0, len(pages), 16)]
        blocks = [xpress_writer.huffman(xpress_writer.tokens(one)) for one in sets]
        number = max(count // 16, 1)
    if method == "hiberfil.sys":
        length, _, kernel, _, kernel_pages, *_ = hibernation.header_of(19041)
        header = bytearray(PAGE)
        struct.pack_into("<4s8xIQI4xQ", header, 0, b"HIBR", length, 0, PAGE, hibernation.TIME)
        struct.pack_into("<Q", header, kernel, 1)
        struct.pack_into("<Q", header, kernel_pages, 16 * number)
        with open(path, "wb") as file:
            file.write(header)
            for at in range(number):
                block, frame = blocks[at % len(blocks)], 256 + 20 * at
                rows = hibernation.descriptors([*range(frame, frame + 7), *range(frame + 9, frame + 18)])
                file.write(struct.pack("<I", len(rows) // 8 | len(block) << 8 | 2 << 30) + rows + block)
        return
    repeated = [blocks[at % len(blocks)] for at in range(number)]
    size = np.array([len(block) for block in repeated], np.int64)
    data = np.frombuffer(b"".join(repeated), np.uint8)
    with open(path, "wb") as file:
        np.savez(file, data=data, offset=np.cumsum(size) - size, size=size)


def questions(path: str, image: str, count: int) -> None:
    """Write what ``strings -t x`` might print of an image: offsets, at which something was written, and texts."""
    chance = random.Random(_SEED)  # noqa: S311
    with open(image, "rb", buffering=0) as file:
        size, end, parts = os.fstat(file.fileno()).st_size, 0, []
        while end < size:
            try:
                start = os.lseek(file.fileno(), end, os.SEEK_DATA)
            except OSError:  # nothing but a hole is left
                break
            end = os.lseek(file.fileno(), start, os.SEEK_HOLE)
            parts.append((start, end - start))
    chosen = chance.choices(parts, [length for _, length in parts], k=count)
    offsets = sorted(start + chance.randrange(length) for start, length in chosen)
    with open(path, "w", encoding="ascii") as lines:
        lines.writelines(f"{offset:7x} a text, number {number}\n" for number, offset in enumerate(offsets))


#: what Linux sets in an entry that leads to a table, and in one that maps a program's page
_ENTRIES = {"x64": (0x67, 0x8000000000000067), "arm64-4k-48": (0x3, 0x60000000000F43)}


def tables(path: str, kind: str, count: int) -> None:
    """Write page tables of four levels, the root at 0x1000, that map `count` scattered pages of nothing but zeros.

    The pages lie in runs of a few, with gaps between, at addresses and frames that are the same for every kind.
    """
    import numpy as np  # noqa: PLC0415 - a map alone needs none

    table, leaf = _ENTRIES[kind]
    chance = np.random.default_rng(_SEED)
    page = np.cumsum(chance.choice(np.array([1, 1, 1, 1, 1, 1, 1, 30], np.uint64), count)) + np.uint64(0x7F0000000)
    levels = [page]
    for _ in range(3):
        levels.append(np.unique(levels[-1] >> np.uint64(9)))
    places, first = [], 1
    for numbers in [np.zeros(1, np.uint64), *reversed(levels[1:])]:  # in which frames the tables of each level lie
        places.append(np.arange(first, first + len(numbers), dtype=np.uint64))
        first += len(numbers)
    frames = np.uint64(first) + chance.permutation(count).astype(np.uint64)
    with open(path, "wb") as file:
        for place, numbers, behind, bits in zip(
            places, reversed(levels), [*places[1:], frames], [table] * 3 + [leaf], strict=True
        ):
            owner = np.searchsorted(np.unique(numbers >> np.uint64(9)), numbers >> np.uint64(9))
            entries = np.zeros((len(place), 512), "<u8")
            entries[owner, (numbers & np.uint64(511)).astype(np.int64)] = behind << np.uint64(12) | np.uint64(bits)
            file.seek(int(place[0]) * PAGE)
            file.write(entries.tobytes())
        file.truncate((first + count) * PAGE)


if __name__ == "__main__":
    if sys.argv[1] == "image" and sys.argv[3] in _ENTRIES:
        tables(*sys.argv[2:4], int(sys.argv[4]))
    elif sys.argv[1] == "compressed":
        compressed(sys.argv[2], sys.argv[3], int(sys.argv[4]))
    elif sys.argv[1] == "texts":
        texts(sys.argv[2])
    elif sys.argv[1] == "questions":
        questions(sys.argv[2], sys.argv[3], int(sys.argv[4]))
    elif sys.argv[1] == "image":
        image(sys.argv[2], sys.argv[3], int(sys.argv[4]))
    elif sys.argv[1] == "process":
        process(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
    else:
        rows(sys.argv[2], int(sys.argv[3]), joined=sys.argv[4] == "joined")
