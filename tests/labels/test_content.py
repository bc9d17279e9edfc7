"""What segments' bytes say, in blocks of any length, against simple Python over all the bytes at once."""

from __future__ import annotations

import collections
import itertools
import math
import tracemalloc
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import memcarve
from headers import edited, elf_page, pe_page
from memcarve.labels import text_stats
from memcarve.labels.content import Content, ContentObserver, Contents, observe
from memcarve.labels.headers import name_of, parse_header
from memcarve.labels.text_stats import is_text
from memcarve.space import AddressSpace
from memory import Memory
from real import needed, needed_dlls

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    import numpy.typing as npt

PAGE, WINDOW = 4096, 65536
START = 0x7FF6_0000_0000
BLOCK = 1 << 18
MIB = 1 << 20
FOX = b"The quick brown fox jumps over the lazy dog.\r\n\t"


def shown(
    data: bytes, start: int = START, level: str = "headers", cuts: Iterable[int] = (), most: int = 1024
) -> Content:
    """Return what an observer says that is shown `data` in blocks that end at `cuts`, all in one buffer."""
    observer = ContentObserver(start, level, most)
    bounds = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    buffer = memoryview(bytearray(len(data)))
    for begin, end in itertools.pairwise(bounds):
        buffer[: end - begin] = data[begin:end]
        observer(buffer[: end - begin])
        buffer[: end - begin] = b"\xaa" * (end - begin)
    return observer.finish()


def blocks(data: bytes) -> range:
    """Return where the copier would cut."""
    return range(BLOCK, len(data), BLOCK)


def pages_of(data: bytes, start: int) -> list[tuple[int, bytes]]:
    """Return the pages that a segment touches: (address, what is there)."""
    bounds = [start, *range(start + PAGE - start % PAGE, start + len(data), PAGE), start + len(data)]
    return [(low, data[low - start : high - start]) for low, high in itertools.pairwise(bounds)]


def bits(data: bytes) -> float:
    """Return the entropy of bytes, from its definition."""
    shares = [count / len(data) for count in collections.Counter(data).values()]
    return -sum(share * math.log2(share) for share in shares)


def model(data: bytes, start: int, level: str) -> Content:
    """Return what an observer should say: page by page, with all bytes at hand."""
    pages = pages_of(data, start)
    headers = [parse_header(address, data[address - start : address - start + PAGE]) for address, _ in pages]
    found = Content(
        len(pages),
        sum(not any(page) for _, page in pages),
        None,
        None,
        tuple(header for header in headers if header is not None),
        0,
    )
    if level == "headers":
        return found
    bounds = [start, *range(start + WINDOW - start % WINDOW, start + len(data), WINDOW), start + len(data)]
    windows = [data[low - start : high - start] for low, high in itertools.pairwise(bounds)]
    text = sum(is_text(page) for _, page in pages) / len(pages)
    return found._replace(entropy=bits(data), text=text, peak=max(map(bits, windows)))


PAGES = {
    "zeros": bytes(PAGE),
    "last byte": bytes(PAGE - 1) + b"\1",
    "first byte": b"\1" + bytes(PAGE - 1),
    "behind the front": bytes(64) + b"\1" + bytes(PAGE - 65),
    "noise": np.random.default_rng(1).bytes(PAGE),
    "text": (FOX * 100)[:PAGE],
    "wide text": (FOX.decode() * 100).encode("utf-16-le")[:PAGE],
    "numbers": np.arange(PAGE // 4, dtype="<u4").tobytes(),
    "small numbers": (b"\x80\0\0\0" * (PAGE // 4)),
    "pe": bytes(pe_page()),
    "pe further down": bytes(pe_page("x86", 0xC00)),
    "no MZ": edited(pe_page(), (0, b"\0\0")),
    "no signature": edited(pe_page("arm64"), (0x80, b"\0\0\0\0")),
    "no DOS header": edited(pe_page(), (0, bytes(64))),
    "no e_lfanew": edited(pe_page(), (2, bytes(62))),
    "unsound": edited(pe_page(size=0), (0, b"\0\0")),
    "elf": bytes(elf_page()),
    "no magic": edited(elf_page(wide=False), (0, b"\0\0\0\0")),
}


@pytest.mark.parametrize("level", ["headers", "full"])
@pytest.mark.parametrize("name", [*PAGES])
@pytest.mark.parametrize("around", [0, 3, 9])
def test_one_of_each(name: str, level: str, around: int) -> None:
    """Each kind of page is recognised alone, among few and among many, at every place of a block."""
    for before in {0, around // 2, around}:
        pages = [PAGES["numbers"]] * before + [PAGES[name]] + [PAGES["numbers"]] * (around - before)
        data = b"".join(pages)
        assert_same(shown(data, level=level), model(data, START, level))


def assert_same(found: Content, expected: Content) -> None:
    """Compare, entropies but for rounding."""
    assert found._replace(entropy=None, peak=None) == expected._replace(entropy=None, peak=None)
    assert found.entropy == (None if expected.entropy is None else pytest.approx(expected.entropy, abs=1e-9))
    assert found.peak == (None if expected.peak is None else pytest.approx(expected.peak, abs=1e-9))


@given(
    names=st.lists(st.sampled_from([*PAGES]), min_size=1, max_size=40),
    skip=st.sampled_from([0, 0, 1, 63, 64, 100, 2048, 4032, 4095]),
    lost=st.sampled_from([0, 0, 1, 40, 2048, 4031, 4095]),
    shift=st.sampled_from([0, 1, 0x40, 0xFFF]),
    cuts=st.lists(st.integers(1, 40 * PAGE), max_size=8),
    level=st.sampled_from(["headers", "full"]),
)
def test_blocks_of_any_length(
    names: Sequence[str], skip: int, lost: int, shift: int, cuts: Sequence[int], level: str
) -> None:
    """However the bytes are cut into blocks, and wherever the segment begins and ends, the same is found, once."""
    data = b"".join(PAGES[name] for name in names)
    data = data[skip : len(data) - lost]
    if not data:
        return
    start = START + 15 * PAGE + (skip + shift) % PAGE
    assert_same(shown(data, start, level, cuts), model(data, start, level))


@settings(max_examples=40)
@given(
    parts=st.lists(st.lists(st.sampled_from([*PAGES]), min_size=1, max_size=6), min_size=1, max_size=8),
    lost=st.sampled_from([0, 0, 0, 1, 2048]),
    level=st.sampled_from(["headers", "headers", "full"]),
    known=st.sampled_from([None, None, 0]),
)
def test_several_segments_together(parts: Sequence[Sequence[str]], lost: int, level: str, known: int | None) -> None:
    """Segments that lie one behind the other in a block are looked at together, and of each the same is found."""
    data = [b"".join(PAGES[name] for name in names) for names in parts]
    data[-1] = data[-1][: len(data[-1]) - lost]
    start = np.array([START + at * 100 * PAGE for at in range(len(data))], np.uint64)
    size = np.array([*map(len, data)], np.uint64)
    contents = Contents(len(data) + 1, level)  # the first of which is another one
    expected = [model(each, int(begin), level) for each, begin in zip(data, start, strict=True)]
    if known is not None:  # it was looked at, and is not again
        expected[known] = Content(9, 9, None, None, (), 0)
        contents.keep(1 + known, expected[known])
    contents.observe_together(1, start, size, memoryview(b"".join(data)))
    assert contents.known.tolist() == [False] + [True] * len(data)
    for row, content in enumerate(expected, 1):
        found = (contents.pages[row], contents.zero_pages[row], contents.headers_of.get(row, ()))
        assert found == (content.pages, content.zero_pages, content.headers)
        if level == "full" and content.text is not None:
            found = (contents.entropy[row], contents.peak[row], contents.share_of_text[row])
            assert found == pytest.approx((content.entropy, content.peak, content.text), abs=1e-6)


def test_byte_by_byte() -> None:
    """Blocks of one byte do, too."""
    data = PAGES["pe"] + PAGES["elf"] + PAGES["zeros"] + PAGES["no DOS header"][:900]
    content = shown(data, level="full", cuts=range(len(data)))
    assert_same(content, model(data, START, "full"))
    assert [header.address - START for header in content.headers] == [0, PAGE, 3 * PAGE]


def test_pages_are_counted_where_the_segment_touches_them() -> None:
    """A segment's pages are those that it touches: of two bytes around a page's beginning there are two."""
    assert shown(b"\0\1", START - 1)[:2] == (2, 1)
    assert shown(bytes(PAGE), START)[:2] == (1, 1)
    assert shown(bytes(PAGE), START + 1)[:2] == (2, 2)
    assert shown(b"", START, "full") == Content(0, 0, None, None, (), 0)


def test_start_that_is_no_page() -> None:
    """A header is found where the segment starts, also across the page's end, and where pages begin."""
    page = PAGES["pe further down"]
    data = page[: PAGE - 8] + PAGES["elf"]
    start = START + 8
    for cuts in ([], [100, 3000, 4000], range(0, len(data), 7)):
        found = shown(data, start, cuts=cuts).headers
        assert [(header.address, header.format) for header in found] == [(start, "PE"), (START + PAGE, "ELF")]


def test_top_of_the_address_space() -> None:
    """The last page there is can be looked at."""
    assert shown(PAGES["pe"], (1 << 64) - PAGE).headers[0].address == (1 << 64) - PAGE


def noise(kind: str) -> bytes:
    """Return 16 MiB that holds no header."""
    random, size = np.random.default_rng(7), 16 * MIB
    few = np.frombuffer(b"\0\0\0\0\1\1\2\3MZPE\x7fELF\x80\x40", np.uint8)  # of which headers are made
    makers: dict[str, Callable[[], npt.ArrayLike]] = {
        "noise": lambda: random.integers(0, 256, size, np.uint8),
        "zeros": lambda: np.zeros(size, np.uint8),
        "text": lambda: np.frombuffer(b"MZ PE\r\n" * (size // 7 + 1), np.uint8)[:size],
        "small numbers": lambda: random.integers(0, 1 << 12, size // 4, np.uint32),
        "sparse": lambda: random.integers(0, 256, size, np.uint8) * (random.random(size) < 0.01),
        "few values": lambda: random.choice(few, size),
        "pointers": lambda: random.integers(0, 1 << 20, size // 8, np.uint64) * 8 + 0x7FF6_1000_0000,
    }
    return np.asarray(makers[kind]()).tobytes()


@pytest.mark.parametrize("kind", ["noise", "zeros", "text", "small numbers", "sparse", "few values", "pointers"])
def test_no_false_headers(kind: str) -> None:
    """In 4,096 pages each of noise, zeros, text, numbers and addresses there is no header, whole or wiped."""
    data = noise(kind)
    content = shown(data, cuts=blocks(data))
    assert content.headers == ()
    assert content[:2] == (4096, 4096 if kind == "zeros" else 0)


def test_no_false_headers_in_programs() -> None:
    """In real images nothing but the page that begins with one holds a header."""
    data = bytearray()
    starts = []
    for path in needed_dlls()[:30]:
        with open(path, "rb") as file:
            content = file.read()
        starts.append(START + len(data))
        data += content + bytes(-len(content) % PAGE)
    found = shown(bytes(data), cuts=blocks(data))
    assert [header.address for header in found.headers] == starts
    assert not any(header.wiped for header in found.headers)


def test_more_headers_than_anybody_reads() -> None:
    """Of very many headers the first are kept, in bounded memory, and the others are counted."""
    page = bytes(pe_page(sections=[(PAGE * number, PAGE, 0x60000020) for number in range(1, 80)], size=0x100000))
    view = memoryview(page * 64)
    observer = ContentObserver(START, "headers")
    tracemalloc.start()
    for _ in range(200):
        observer(view)
    content = observer.finish()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(content.headers) == 1024
    assert content.more_headers == 200 * 64 - 1024
    assert peak < 32 * MIB


def test_flat_memory() -> None:
    """Looking at much takes no more memory than looking at little."""
    view = memoryview(b"".join(PAGES.values()) * 3)
    view = view[: len(view) - 100]
    observer = ContentObserver(START, "full", 0)
    observer(view)
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    for _ in range(30):
        observer(view)
    after, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert after - before < 8 * PAGE
    assert peak - before < 4 * MIB


# entropy


def test_entropy() -> None:
    """Entropy is in bits a byte: none of one value, one of two, eight of all; of all bytes, of the richest 64 KiB."""
    assert shown(bytes(PAGE), level="full")[2:4] == (0.0, 0.0)
    assert shown(b"\0\1" * 2048, level="full").entropy == pytest.approx(1)
    assert shown(bytes(range(256)) * 16, level="full").entropy == pytest.approx(8)
    content = shown(bytes(WINDOW) + bytes(range(256)) * 256 + bytes(2 * WINDOW), level="full")
    assert content.peak == pytest.approx(8)
    assert content.entropy == pytest.approx(bits(bytes(3 * 256) + bytes(range(256))))


@pytest.mark.parametrize("way", ["compiled", "numpy"])
@given(
    names=st.lists(st.sampled_from([*PAGES]), min_size=1, max_size=40),
    lost=st.sampled_from([0, 0, 1, PAGE - 1]),
    first=st.sampled_from([1, 7, PAGE, WINDOW - 1, WINDOW]),
)
def test_counts_of_bytes(way: str, names: Sequence[str], lost: int, first: int) -> None:
    """How often each byte occurs in each window is the same, whether it is counted in C or with numpy."""
    compiled = text_stats._count_windows
    if way == "compiled" and compiled is None:
        pytest.skip("no C compiler was there when memcarve was installed")
    data = b"".join(PAGES[name] for name in names)
    data = data[: len(data) - lost]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_stats, "_count_windows", compiled if way == "compiled" else None)
        found = text_stats.window_counts(memoryview(data), first)
        together = text_stats.counts_of(memoryview(data))
    bounds = [0, *range(first, len(data), WINDOW), len(data)]
    expected = [collections.Counter(data[begin:end]) for begin, end in itertools.pairwise(bounds)]
    whole = collections.Counter(data)
    assert together.tolist() == [whole[byte] for byte in range(256)]
    assert found.tolist() == [[each[byte] for byte in range(256)] for each in expected]


def test_counts_go_where_they_fit() -> None:
    """What is compiled adds to counts, and refuses those that are not 256 numbers of 64 bits for each window."""
    count_windows = pytest.importorskip("memcarve.labels._byte_counts").count_windows
    counts = np.arange(256, dtype=np.int64)
    count_windows(b"\xff\xff\0", 3, 4, counts)
    assert counts.tolist() == [1, *range(1, 255), 257]
    count_windows(b"", 3, 4, np.zeros(0, np.int64))
    unaligned = memoryview(bytearray(2056))[1:2049]
    for other in (
        np.zeros(255, np.int64),
        np.zeros(256, np.int32),
        np.zeros(512, np.int64),
        bytearray(2049),
        unaligned,
    ):
        with pytest.raises(ValueError, match="256"):
            count_windows(b"a", 1, 1, other)
    for data, first, window in (
        (b"a", 0, 1),
        (b"a", 2, 1),
        (b"a", 1, 1 << 40),
        (b"a", -1, 1),
        (b"", 1, 1),
        (b"abc", 1, 1),
    ):
        with pytest.raises(ValueError, match="256"):
            count_windows(data, first, window, np.zeros(256, np.int64))


def test_only_where_asked() -> None:
    """Entropy and text are not known unless they were asked for."""
    content = shown(PAGES["text"])
    assert (content.entropy, content.text, content.peak) == (None, None, None)
    full = shown(PAGES["text"], level="full")
    assert (full.pages, full.zero_pages, full.text) == (1, 0, 1.0)
    assert (full.entropy, full.peak) == pytest.approx((bits(PAGES["text"]), bits(PAGES["text"])))


# text

TEXTS = {
    "ascii": FOX * 80,
    "terminal": b"\x1b[31mfailed\x1b[0m: " + FOX * 3,
    "short": b"C:\\Windows\\System32\\drivers\\etc\\",
    "latin": "Größe, façade, naïve: 10 €\n".encode() * 90,
    "cyrillic": "Съешь ещё этих мягких французских булок\n".encode() * 40,
    "chinese": "我能吞下玻璃而不伤身体。\n".encode() * 50,
    "wide": (FOX.decode() * 40).encode("utf-16-le"),
    "wide cyrillic": ("Съешь ещё этих мягких булок\n" * 40).encode("utf-16-le"),
    "wide chinese": ("我能吞下玻璃而不伤身体。😀\n" * 80).encode("utf-16-le"),
    "strings": b"PATH=/usr/bin:/bin\0HOME=/root\0LANG=C.UTF-8\0" * 20,
    "wide strings": "SystemRoot=C:\\Windows\0Path=C:\\Windows\\system32\0\0".encode("utf-16-le") * 20,
    "base64": b"TVqQAAMAAAAEAAAA//8AALgAAAAAAAAAQAAAAAAAAAA" * 90,
}
OTHERS = {
    "empty": b"",
    "too short": b"twenty-odd characters",
    "noise": PAGES["noise"],
    "numbers": PAGES["numbers"],
    "filling": b"\xcc" * PAGE,
    "filling with letters": b"AAAA" * 1024,
    "free memory": b"\xfe\xee" * 2048,
    "pixels": bytes([0x30, 0x31, 0x32, 0xFF] * 1024),
    "pointers": (np.arange(512, dtype="<u8") * 24 + 0x1F2_6A3B_4C50).tobytes(),
    "one control character": (FOX * 80)[:2000] + b"\1" + FOX,
    "strings of two": b"ab\0cd\0ef\0gh\0" * 300,
    "C1 controls": "abcdefghi\x85\x9b".encode() * 100,
    "cut inside": b"abcdefghijk\xe4\xf6" * 100,
    "samples": (np.sin(np.arange(2048) / 30) * 9000).astype("<i2").tobytes(),
}


@pytest.mark.parametrize("name", [*TEXTS])
def test_text(name: str) -> None:
    """Text is recognised in UTF-8 and UTF-16, strings side by side too, with zeros behind it, and in what is shown."""
    data = TEXTS[name][:PAGE]
    assert is_text(data)
    assert is_text(data.ljust(PAGE, b"\0"))
    page = data.ljust(PAGE, b"\0")
    assert shown(page, level="full").text == 1
    assert shown(page * 2 + PAGES["numbers"] * 7 + bytes(PAGE) + page[:3000], level="full").text == 3 / 11


@pytest.mark.parametrize("name", [*OTHERS])
def test_no_text(name: str) -> None:
    """What is not text is not taken for text: noise, numbers, addresses, filling, pixels, sound."""
    page = OTHERS[name][:PAGE].ljust(PAGE, b"\0")
    assert not is_text(OTHERS[name])
    assert not is_text(page)
    assert shown(page * 3, level="full").text == 0


@given(
    text=st.text(st.characters(min_codepoint=0xA0, max_codepoint=0xFFFF, categories=("L", "N")), min_size=32),
    cut=st.integers(0, 8),
)
def test_characters_may_be_cut(text: str, cut: int) -> None:
    """Characters that a page's ends cut do not matter."""
    data = (FOX.decode() + text + FOX.decode()).encode()
    begin = len(FOX) + cut
    data = data[begin : len(data) - len(FOX) - (8 - cut) % 4]
    if len(data) >= 32 and len(set(data)) >= 8:
        assert is_text(data)


# whole address spaces


def test_observe() -> None:
    """A segment is read in blocks, whatever pieces it consists of, and says what its bytes are."""
    names = [*PAGES] * 8
    data = b"".join(PAGES[name] for name in names)
    order = np.random.default_rng(2).permutation(len(names))
    stored = b"".join(PAGES[names[index]] for index in order.tolist())
    start = order.astype(np.uint64) * np.uint64(PAGE) + np.uint64(START)
    sizes = np.full(len(order), PAGE, np.uint64)
    space = AddressSpace(start, sizes, np.arange(len(order), dtype=np.uint64) * np.uint64(PAGE), Memory(stored))
    (segment,) = space.segments()
    for level in ("headers", "full"):
        assert_same(observe(space, segment, level), model(data, START, level))


def test_real_process() -> None:
    """In a real process's dump every program and library that is mapped from its beginning is found, and nothing else.

    Names are those of the files, as far as the page that holds them is there.
    """
    with memcarve.open(needed("pid.114.user.dmp"), memory_map=needed("pid.114.user.map")) as dump:
        space = dump.process().space
        contents = [observe(space, segment, "headers") for segment in space.segments()]
        headers = {header.address: header for content in contents for header in content.headers}
        rows = [line.rstrip("\n").split(None, 5) for line in needed("114.maps").read_text().splitlines()]
        begun = {
            int(row[0].partition("-")[0], 16): row[5]
            for row in rows
            if len(row) > 5
            and int(row[2], 16) == 0
            and (".so" in row[5] or row[5].endswith((".dll", ".exe", "64", "]")))
        }
        there = {address: path for address, path in begun.items() if resident(space, address)}
        unnamed = {path for path in there.values() if path.startswith("[") and path != "[vdso]"}
        expected = {address: path for address, path in there.items() if path not in unnamed}
        assert headers.keys() == expected.keys()
        assert len(headers) > 20
        names = {address: name_of(space.read, header) for address, header in headers.items()}
    assert not any(header.wiped for header in headers.values())
    for address, path in expected.items():
        header, last = headers[address], path.rpartition("/")[2].lower()
        assert header.format == ("PE" if last.endswith((".dll", ".exe")) else "ELF")
        assert header.machine == "x64"
        name = names[address]
        assert name is None or path == "[vdso]" or last.startswith(name.lower()), path
    assert sum(name is not None for name in names.values()) > 15
    assert sum(content.zero_pages for content in contents) == zero_pages()


def resident(space: AddressSpace, address: int) -> bool:
    """Say whether a page is in the dump."""
    return any(segment.start <= address < segment.end for segment in space.segments())


def zero_pages() -> int:
    """Count the pages of zeros in the real dump."""
    data = needed("pid.114.user.dmp").read_bytes()
    return sum(not any(data[at : at + PAGE]) for at in range(0, len(data), PAGE))
