"""Compressed blocks of memory: Xpress in Python and compiled, LZ4, LZO and Zstandard, against others' programs."""

from __future__ import annotations

import base64
import importlib.util
import os
import random
import shutil
import subprocess
import sys
import sysconfig
import zlib
from typing import TYPE_CHECKING, Any

import cramjam
import lz4.block
import lzallright
import numpy as np
import pyfwnt
import pytest
from hypothesis import given, strategies
from ntcompress.ntdll import xpress as nt_plain, xpress_huff as nt_huffman

import lzo_writer
import xpress_writer
from files import ROOT
from memcarve.formats import compressed_pages
from memcarve.formats.compressed_pages import (
    LZ4,
    LZO,
    PAGE,
    XPRESS,
    XPRESS_HUFFMAN,
    ZSTD,
    check_pages,
    decode,
    decode_pages,
    lzo,
    xpress,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from xpress_writer import Token

    Decoder = Callable[[bytes, int], bytes | None]

#: where the compiled decoder's source is
SOURCE = ROOT / "src" / "memcarve" / "formats" / "compressed_pages" / "_compiled.c"
MODULE = "memcarve.formats.compressed_pages._compiled"
ALPHABET = bytes(range(ord("a"), ord("z") + 1))

#: [MS-XCA] 3.1 and 3.2: the method, what is decoded, the data. Of a table of codes (256 bytes) what is not zero
EXAMPLES = (
    (XPRESS, ALPHABET, bytes.fromhex("3f000000") + ALPHABET),
    (XPRESS, b"abc" * 100, bytes.fromhex("ffffff1f61626317000fff2601")),
    (
        XPRESS_HUFFMAN,
        ALPHABET,
        bytes(48) + bytes.fromhex("5055555555555555555555454404") + bytes(66) + b"\x04" + bytes(127)
        + bytes.fromhex("d8523ed794115be9195ff9d67cdf8d0400000000"),
    ),
    (
        XPRESS_HUFFMAN,
        b"abc" * 100,
        bytes(48) + b"\x30\x23" + bytes(78) + b"\x02" + bytes(14) + b"\x20" + bytes(112)
        + bytes.fromhex("a8dc0000ff2601"),
    ),
)  # fmt: skip
#: lengths of matches at every border between the ways of writing them
LENGTHS = (3, 9, 10, 17, 18, 24, 25, 26, 272, 273, 279, 280, 281, 282, 4000, 65538, 65539, 70000)


def seeded(seed: object) -> random.Random:
    """Return what draws the same each time."""
    return random.Random(str(seed))  # noqa: S311 - samples


def compiler() -> str | None:
    """Return a C compiler that knows the address sanitizer and Python's headers; None if there is none."""
    found = shutil.which("gcc") or shutil.which("clang")
    return found if os.path.exists(os.path.join(sysconfig.get_paths()["include"], "Python.h")) else None


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Return the compiled decoder: as it was installed, or built here."""
    if compressed_pages._compiled is not None:
        yield compressed_pages._compiled
        return
    path = build(tmp_path_factory.mktemp("compiled"))
    spec = importlib.util.spec_from_file_location(MODULE, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module


def build(folder: Path, *options: str) -> Path:
    """Build the compiled decoder."""
    program = compiler()
    if program is None:
        pytest.skip("needs gcc or clang and Python's headers, to build the compiled decoder")
    path = folder / "_compiled.so"
    include = "-I" + sysconfig.get_paths()["include"]
    warnings = ("-Wall", "-Wextra", "-Werror")
    subprocess.run([program, "-O2", "-shared", "-fPIC", *warnings, *options, include, SOURCE, "-o", path], check=True)
    return path


@pytest.fixture(params=["compiled", "Python"])
def each(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a test with the compiled decoder, and with that in Python."""
    module = request.getfixturevalue("compiled") if request.param == "compiled" else None
    monkeypatch.setattr(compressed_pages, "_compiled", module)


@pytest.fixture(params=["compiled", "lzallright", "Python"])
def each_lzo(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a test with the compiled decoder, with the library, and without either."""
    module = request.getfixturevalue("compiled") if request.param == "compiled" else None
    monkeypatch.setattr(compressed_pages, "_compiled", module)
    if request.param == "Python":
        monkeypatch.setattr(lzo, "lzallright", None)


def one(method: str, data: bytes, size: int) -> bytes | None:
    """Decode one block, between others' bytes; nothing but the target may be written."""
    target = np.full(size + 64, 0xEE, np.uint8)
    around = np.frombuffer(b"\xff" * 7 + data + b"\xff" * 9, np.uint8)
    columns = ([7], [len(data)], [32], [size])
    offset, count, place, length = (np.array(column, np.int64) for column in columns)
    sound = decode(method, around, offset, count, target, place, length)
    assert (target[:32] == 0xEE).all()
    assert (target[32 + size :] == 0xEE).all()
    if not sound[0]:
        assert not target[32 : 32 + size].any()
        return None
    return target[32 : 32 + size].tobytes()


@pytest.mark.usefixtures("each")
@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_examples_of_the_specification(number: int) -> None:
    """The examples of [MS-XCA] are decoded; to no other size, and not if a byte of the data is missing or more."""
    method, text, data = EXAMPLES[number]
    assert one(method, data, len(text)) == text
    for size in (0, 1, len(text) - 1, len(text) + 1, len(text) + 3, PAGE):
        assert one(method, data, size) is None
    for wrong in (b"", data[:-1], data[:-2], data + b"\0", data + b"\0\0", data[: len(data) // 2]):
        assert one(method, wrong, len(text)) is None


@pytest.mark.usefixtures("each")
@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("offset", [1, 2, 7, 8, 9, 255, 8192])
def test_every_form_of_a_match(offset: int, length: int) -> None:
    """Matches of every form of length, near and far, are decoded: as others decode them, too.

    ntcompress takes the symbol of the shortest and nearest match for the end of the data wherever it is.
    """
    before: list[Token] = [*seeded(offset).randbytes(8192)]
    written = [*before, (offset, length), 7, (offset, length), (1, 25), (3, 26), 9]
    text = xpress_writer.expand(written)
    data = xpress_writer.plain(written)
    assert one(XPRESS, data, len(text)) == text == nt_plain.decompress(data)
    data = xpress_writer.huffman(written)
    assert one(XPRESS_HUFFMAN, data, len(text)) == text
    assert (offset, length) == (1, 3) or nt_huffman.decompress(data) == text


@pytest.mark.usefixtures("each")
def test_far_matches_and_several_tables() -> None:
    """With Huffman codes a match reaches back 65535 bytes, beyond the table that its own block has."""
    written: list[Token] = [*seeded(1).randbytes(70000), (65535, 100), (32768, 66000), *b"the end", (4096, 3)]
    text = xpress_writer.expand(written)
    data = xpress_writer.huffman(written)
    assert one(XPRESS_HUFFMAN, data, len(text)) == text == nt_huffman.decompress(data)
    assert pyfwnt.lzxpress_huffman_decompress(data, len(text)) == text


@pytest.mark.usefixtures("each")
@pytest.mark.parametrize("size", [PAGE, 15 * PAGE, 16 * PAGE])
def test_an_end_that_is_not_written(size: int) -> None:
    """Huffman data need no symbol for the end if it has no code; then they end with the last symbol that is used."""
    text = bytes(seeded(size).choices(b"memory of pages ", k=size))
    written = xpress_writer.tokens(text)
    assert one(XPRESS_HUFFMAN, xpress_writer.huffman(written, end=False), size) == text
    assert one(XPRESS_HUFFMAN, xpress_writer.huffman([*written, 65], end=True), size) is None
    assert one(XPRESS_HUFFMAN, xpress_writer.huffman([*written, 65, *range(200)], end=False), size) is None


@pytest.mark.usefixtures("each")
def test_codes_of_every_length() -> None:
    """A code may have 15 bits; a table whose codes do not fit together is refused."""
    text = b"".join(bytes([byte]) * (1 << byte) for byte in range(15))[:-1]
    written: list[Token] = [*text]
    data = xpress_writer.huffman(written)
    assert {byte >> shift & 15 for byte in data[:256] for shift in (0, 4)} >= {1, 14, 15}
    assert one(XPRESS_HUFFMAN, data, len(text)) == text
    for at in range(256):
        table = bytearray(data)
        table[at] ^= 0x01
        assert one(XPRESS_HUFFMAN, bytes(table), len(text)) is None


@pytest.mark.usefixtures("each")
def test_other_encoders() -> None:
    """What other encoders write of text, of zeros and of noise is decoded, as single pages and as sets of 16.

    libfwnt refuses plain data with very long matches.
    """
    noise = seeded(3).randbytes(PAGE)
    for text in (bytes(PAGE), noise, b"a page of memory. " * 300, noise[:300] * 16 * 14, bytes(range(256)) * 256):
        for cut in (PAGE, len(text)):
            page = text[:cut]
            assert one(XPRESS, nt_plain.compress(page), len(page)) == page
            assert one(XPRESS_HUFFMAN, nt_huffman.compress(page), len(page)) == page
            own = xpress_writer.tokens(page)
            assert xpress_writer.expand(own) == page
            if all(isinstance(token, int) or token[1] < 1 << 15 for token in own):
                assert pyfwnt.lzxpress_decompress(xpress_writer.plain(own), len(page)) == page
            assert pyfwnt.lzxpress_huffman_decompress(xpress_writer.huffman(own), len(page)) == page
            assert one(XPRESS, xpress_writer.plain(own), len(page)) == page
            assert one(XPRESS_HUFFMAN, xpress_writer.huffman(own), len(page)) == page


@given(strategies.lists(strategies.binary(max_size=40), max_size=30), strategies.data())
def test_round_trips(parts: list[bytes], data: strategies.DataObject) -> None:
    """Any bytes that are written are decoded to the same, by both decoders in Python and as others decode them."""
    text = b"".join(data.draw(strategies.lists(strategies.sampled_from(parts), max_size=60))) if parts else b""
    written = xpress_writer.tokens(text)
    assert xpress_writer.expand(written) == text
    plain, huffman = xpress_writer.plain(written), xpress_writer.huffman(written)
    assert xpress.plain(plain, len(text)) == text == nt_plain.decompress(plain)
    assert xpress.huffman(huffman, len(text)) == text == nt_huffman.decompress(huffman)


@pytest.mark.parametrize("method", [XPRESS, XPRESS_HUFFMAN, LZO])
def test_both_decoders_judge_alike(method: str, compiled: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Damaged data are decoded to the same by both decoders, or refused by both; never to another size."""
    draw = seeded(method)
    texts = [bytes(draw.choices(b"abcdefgh", k=800)), b"page" * 200, draw.randbytes(800), bytes(800)]
    if method == LZO:
        monkeypatch.setattr(lzo, "lzallright", None)
        texts += [bytes(draw.choices(b"ab\0\0\0", k=99)) + bytes(602) + draw.randbytes(99)]
        samples = [lzo_writer.block(lzo_writer.tokens(text)) for text in texts]
        samples += [bytes(lzallright.LZOCompressor().compress(text)) for text in texts]
    else:
        encode = xpress_writer.plain if method == XPRESS else xpress_writer.huffman
        samples = [encode(xpress_writer.tokens(text)) for text in texts]
    refused = 0
    for _ in range(600):
        data = bytearray(draw.choice(samples))
        for _ in range(draw.choice((1, 1, 2, 5))):
            data[draw.randrange(len(data))] = draw.randrange(256)
        if draw.random() < 0.2:
            del data[draw.randrange(len(data)) :]
        found = []
        for module in (compiled, None):
            monkeypatch.setattr(compressed_pages, "_compiled", module)
            found.append(one(method, bytes(data), 800))
        assert found[0] == found[1]
        refused += found[0] is None
    assert 0 < refused < 600


@pytest.mark.usefixtures("each")
@pytest.mark.parametrize("method", [XPRESS, XPRESS_HUFFMAN, LZ4, LZO, ZSTD])
def test_bombs(method: str) -> None:
    """Few bytes that decode to very many are refused once they exceed what they should be."""
    written: list[Token] = [1, (1, 1 << 27)]
    data = {
        XPRESS: lambda: xpress_writer.plain(written),
        XPRESS_HUFFMAN: lambda: xpress_writer.huffman(written),
        LZ4: lambda: lz4.block.compress(bytes(1 << 20), store_size=False),
        LZO: lambda: bytes(lzallright.LZOCompressor().compress(bytes(1 << 20))),
        ZSTD: lambda: bytes(cramjam.zstd.compress(bytes(1 << 20))),
    }[method]()
    assert len(data) < 6000
    assert one(method, data, PAGE) is None


@pytest.mark.usefixtures("each")
@pytest.mark.parametrize("method", [XPRESS, XPRESS_HUFFMAN, LZ4, LZO, ZSTD])
def test_many_pages(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many pages are decoded in one call, by several threads: each is right by itself, and what is stored is copied."""
    draw = seeded(method)
    kinds = [
        bytes(draw.choices(b"memory", k=PAGE)),
        bytes(PAGE),
        draw.randbytes(PAGE),
        (b"stack of a thread " * 228)[:PAGE],
    ]
    pages = [kinds[index % 4][index:] + kinds[(index + 1) % 4][:index] for index in range(24)]
    encode = {
        XPRESS: lambda page: xpress_writer.plain(xpress_writer.tokens(page)),
        XPRESS_HUFFMAN: lambda page: xpress_writer.huffman(xpress_writer.tokens(page)),
        LZ4: lambda page: lz4.block.compress(page, store_size=False),
        LZO: lambda page: bytes(lzallright.LZOCompressor().compress(page)),
        ZSTD: lambda page: bytes(cramjam.zstd.compress(page)),
    }[method]
    blocks = [encode(page) for page in pages]
    blocks = [page if len(block) >= PAGE else block for page, block in zip(pages, blocks, strict=True)]
    assert sum(len(block) == PAGE for block in blocks) > 0
    broken = {3, 11}
    for number in broken:
        blocks[number] = blocks[number][: len(blocks[number]) // 2]
    sizes = np.array([len(block) for block in blocks])
    data = np.frombuffer(b"".join(blocks), np.uint8)
    order = draw.sample(range(24), 24)
    monkeypatch.setattr(compressed_pages, "_MUCH", 5 * PAGE)
    monkeypatch.setattr(compressed_pages, "_processors", lambda: 3)
    found, sound = decode_pages(method, data, (np.cumsum(sizes) - sizes)[order], sizes[order])
    assert found.shape == (24, PAGE)
    for row, number in enumerate(order):
        assert sound[row] == (number not in broken)
        assert found[row].tobytes() == (bytes(PAGE) if number in broken else pages[number])


def test_lz4_blocks() -> None:
    """LZ4 blocks of other encoders are decoded to the size that they should have, and to no other."""
    text = b"a page of memory. " * 228
    for data in (
        lz4.block.compress(text, store_size=False),
        lz4.block.compress(text, store_size=False, mode="high_compression"),
        bytes(cramjam.lz4.compress_block(text, store_size=False)),
    ):
        assert one(LZ4, data, len(text)) == text
        assert one(LZ4, data, len(text) - 1) is None
        assert one(LZ4, data, len(text) + 1) is None
        assert one(LZ4, data[:-1], len(text)) is None
        assert one(LZ4, data + b"\0", len(text)) is None


def lz4_strictly(data: bytes, size: int) -> bytes | None:
    """Decode an LZ4 block step by step, as lz4_Block_format.md says; None if it breaks any rule."""
    found, at = bytearray(), 0

    def more(length: int) -> int:
        nonlocal at
        while length >= 0:
            at += 1
            length += data[at - 1]
            if data[at - 1] != 255:
                break
        return length

    try:
        while True:
            token, at = data[at], at + 1
            literals = more(15) if token >> 4 == 15 else token >> 4
            if at + literals > len(data):
                return None
            found += data[at : at + literals]
            at += literals
            if at == len(data):
                return bytes(found) if len(found) == size else None
            offset, at = data[at] | data[at + 1] << 8, at + 2
            length = (more(15) if token & 15 == 15 else token & 15) + 4
            if not 0 < offset <= len(found) or len(found) + 12 > size or len(found) + length + 5 > size:
                return None
            for _ in range(length):
                found.append(found[-offset])
    except IndexError:
        return None


def test_lz4_is_judged_strictly(compiled: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Damaged LZ4 blocks are decoded by the compiled decoder as the rules say; what it takes, cramjam decodes alike."""
    draw = seeded("LZ4")
    texts = [bytes(draw.choices(b"abcdefgh", k=800)), b"page" * 200, draw.randbytes(790) + bytes(10), bytes(800)]
    samples = [lz4.block.compress(text, store_size=False) for text in texts]
    refused = looser = 0
    for number in range(800):
        data = bytearray(samples[number % 4])
        for _ in range(draw.choice((0, 1, 1, 2, 5))):
            data[draw.randrange(len(data))] = draw.choice((0, 1, 15, 240, 255, draw.randrange(256)))
        if draw.random() < 0.2:
            del data[draw.randrange(len(data)) :]
        found = []
        for module in (compiled, None):
            monkeypatch.setattr(compressed_pages, "_compiled", module)
            found.append(one(LZ4, bytes(data), 800))
        assert found[0] == (bytes(data) if len(data) == 800 else lz4_strictly(bytes(data), 800))
        assert found[0] in (None, found[1])
        refused += found[0] is None
        looser += found[0] != found[1]
    assert 100 < refused < 700
    assert looser < refused // 4


@pytest.mark.usefixtures("each")
@pytest.mark.parametrize("method", [XPRESS, LZ4, LZO])
def test_checked_pages(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is only checked is found right if it would be decoded, with several threads, too."""
    draw = seeded(method)
    texts = [bytes(draw.choices(b"memory", k=PAGE)), bytes(PAGE), (b"stack of a thread " * 228)[:PAGE]]
    encode = {
        XPRESS: lambda page: xpress_writer.plain(xpress_writer.tokens(page)),
        LZ4: lambda page: lz4.block.compress(page, store_size=False),
        LZO: lambda page: lzo_writer.block(lzo_writer.tokens(page)),
    }[method]
    samples = [encode(text) for text in texts]
    blocks = [b"", draw.randbytes(PAGE)]
    for number in range(40):
        block = bytearray(samples[number % 3])
        if number > 5:
            block[draw.randrange(len(block))] = draw.randrange(256)
        blocks.append(bytes(block) + bytes(number % 13 == 12))
    sizes = np.array([len(block) for block in blocks])
    data, begins = np.frombuffer(b"".join(blocks), np.uint8), np.cumsum(sizes) - sizes
    monkeypatch.setattr(compressed_pages, "_MUCH", 20 * PAGE)
    monkeypatch.setattr(compressed_pages, "_processors", lambda: 2)
    sound = check_pages(method, data, begins, sizes)
    assert sound[:5].tolist() == [False, True, True, True, True]
    assert not sound.all()
    assert sound.tolist() == decode_pages(method, data, begins, sizes)[1].tolist()
    with pytest.raises(ValueError, match="outside"):
        check_pages(method, data, begins + 1, sizes)


#: pages that a real Linux 6.1 compressed with lzo-rle for its zram: the CRC-32 of each, the block in base 85
RUNS = (
    (
        0xA344EB2F,
        (
            b"5di=uaA9X<ARr(hGd49KZ)PBCX>Md7b8umDb7dePAYpVMFnBO9Ff1TzZf|#PAYyqSXk}q?bS^F~#Q+K*0{s9qARheyI3OPV0AnB>{s1vBARh"
            b"bxARhe#F(4lO12G^T{R1)}9{mF{ARhe#G9VuP12P~U{R1;Q`~w{S|GO}FIXnCpAOZa&IUpYW8#y2z{Tn$T9{n3(ARhe#VIUs;17RQ@{R3ej9"
            b"{mGiARhe#Vjv#<17aW^{R3hk9{mGjARhe#V;~;=17jc_{R3kl9{mGkARhe#WFQ{>17si`{R3nm9{mGlARhe#Wgs5?17#o{{R3qn9{mGmARhe"
            b"#W*{E@17;u|{R3ty`~wakXk}q?bS^F~E-o%EE-o$#5dZ)"
        ),
    ),
    (
        0x1C38935C,
        (
            b"5di=uaA9X<ARr(hH8?RKZ)PBCX>Md7b8umDb7dePAYpVMFnBO9Ff1TzZf|#PAYyqSXk}q?bS^F~#Q+K*0{s9qARheyI3OPV0AnB>{s1vBARh"
            b"bxARhe#F(4lO12H@N104MSpCAGK8aE&w{TDYN9{m?LARhe}H#__nAOZaYI3OPV12`Za{R2249{mG2ARhe#IUpYW134fb{R2559{mG3ARhe#V"
            b"IUs;17RQ@{R3ej9{mGhARhe#Vjv#<17aW^{R3hk9{mGiARhe#V;~;=17jc_{R3kl9{mGjARhe#WFQ{>17si`{R3nm9{mGkARhe#Wgs5?17#o"
            b"{{R3qn9{mGlARhe#W*{E@17;u|{R3to9{mGmD*OWuAZTS_a&#^(E-o%EE-o%E3K0MR"
        ),
    ),
)


def lzo_pages() -> Iterator[bytes]:
    """Yield pages of noise, runs and repetitions, in many mixtures."""
    draw = seeded("lzo")
    for _ in range(40):
        page = bytearray()
        while len(page) < PAGE:
            back, length = draw.randrange(1, len(page) + 2), draw.randrange(3, 700)
            again = bytes(page[-back:]) * (length // back + 1)
            page += draw.choice((draw.randbytes(length // 3), again[:length], bytes(length), b"a word " * 9))
        yield bytes(page[:PAGE])


@pytest.mark.usefixtures("each_lzo")
def test_lzo_blocks() -> None:
    """LZO is decoded to the size that it should have and to no other, whatever decodes it."""
    for page in lzo_pages():
        data = bytes(lzallright.LZOCompressor().compress(page))
        assert one(LZO, data, PAGE) == page
        for wrong, size in ((data[:-1], PAGE), (data + b"\0", PAGE), (data, PAGE + 1), (data, PAGE - 1), (b"", PAGE)):
            assert one(LZO, wrong, size) is None
        assert one(LZO, data[:-3] + b"\x12\0\0", PAGE) is None  # the end, with another length than ends have


@pytest.mark.usefixtures("each_lzo")
@pytest.mark.parametrize("runs", [False, True])
@pytest.mark.parametrize("offset", [1, 2, 7, 8, 1024, 2048, 2049, 3072, 3073, 16384, 16385, 32767, 32768, 49000])
def test_every_form_of_lzo(offset: int, runs: bool) -> None:  # noqa: FBT001 - a case
    """Matches near and far, of every form of length, behind few literals or many, and runs of zeros are decoded.

    What has no runs of zeros, the library decodes alike.
    """
    draw = seeded((offset, runs))
    written: list[Token] = [*draw.randbytes(49000)]
    for length in (3, 4, 8, 9, 10, 33, 34, 264, 288, 289, 543, 544):
        for count in (0, 1, 2, 3, 4, 18, 19, 273, 274):
            written += [*draw.randbytes(count), (offset, length)]
        written += [5, (offset, 2)] if offset <= 1024 else []
        written += [(0, length + 1), 5, 6, (0, 2051 + length)] if runs else []
    text = xpress_writer.expand(written)
    data = lzo_writer.block(written, runs=runs)
    assert one(LZO, data, len(text)) == text
    if not runs:
        assert bytes(lzallright.LZOCompressor.decompress(data, len(text))) == text


def test_damaged_lzo() -> None:
    """Of damaged data the decoder in Python makes what the library does, or refuses what it does."""
    draw, refused = seeded("damaged lzo"), 0
    for page in lzo_pages():
        data = bytearray(lzallright.LZOCompressor().compress(page))
        for _ in range(5):
            data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
            if data[0] == 17:  # the library does not know versions
                continue
            try:
                said = bytes(lzallright.LZOCompressor.decompress(bytes(data), PAGE))
            except lzallright.LZOError:
                said = b""
            assert lzo.in_python(bytes(data), PAGE) == (said if len(said) == PAGE else None)
            refused += len(said) != PAGE
    assert 20 < refused < 200


@pytest.mark.usefixtures("each_lzo")
def test_runs_of_zeros() -> None:
    """What Linux writes as lzo-rle is decoded: as it wrote it on a real machine, and by the description."""
    for crc, text in RUNS:
        page = one(LZO, base64.b85decode(text), PAGE)
        assert page is not None
        assert zlib.crc32(page) == crc
    # version 1; a literal; H and all bits of the distance, lowest bits of the length, literals that follow, the rest
    begin, end = bytes([17, 1, 18]) + b"a", bytes([17, 0, 0])
    for length in (4, 5, 11, 12, 2051):
        rest = length - 4
        run = bytes([0x18 | rest & 7, 0xFC | 2, 0xFF, rest >> 3]) + b"bc"
        assert one(LZO, begin + run + end, length + 3) == b"a" + bytes(length) + b"bc"
        assert one(LZO, begin + run + end, length + 4) is None
        assert one(LZO, bytes([17, 2]) + begin[2:] + run + end, length + 3) is None
        assert one(LZO, begin[2:] + run + end, length + 3) is None  # version 0: a match that leads nowhere


@pytest.mark.usefixtures("each")
def test_blocks_outside() -> None:
    """A block that lies outside of the data or of the target is an error of the caller, and nothing is read there."""
    data, target = np.zeros(100, np.uint8), np.zeros(PAGE, np.uint8)
    for columns in (
        (90, 11, 0, 50),
        (-1, 10, 0, 50),
        (0, -1, 0, 50),
        (0, 10, 4000, 97),
        (0, 10, -5, 50),
        (1 << 62, 1 << 62, 0, 5),
    ):
        offset, size, place, length = (np.array([number], np.int64) for number in columns)
        with pytest.raises(ValueError, match="outside"):
            decode(XPRESS, data, offset, size, target, place, length)


def test_the_compiled_decoder_checks_its_arguments(compiled: Any) -> None:
    """Columns of other lengths, unknown methods and rows outside are refused by the compiled decoder itself."""
    data, target = np.zeros(100, np.uint8), np.zeros(100, np.uint8)
    column, sound = np.zeros(1, np.int64), np.zeros(1, np.bool_)
    for method, columns in (
        (4, [column] * 4),
        (0, [column, column, column, np.zeros(2, np.int64)]),
        (0, [column, column + 101, column, column]),
        (2, [column, column, column, column - 1]),
        (1, [column, column, column + 99, column + 2]),
        (0, [column - 1, column, column, column]),
    ):
        with pytest.raises(ValueError, match="outside"):
            compiled.decode(method, data, target, *columns, sound)
        if columns[2] is column:
            with pytest.raises(ValueError, match="outside"):
                compiled.check(method, data, *columns[:2], columns[3], sound)


#: decodes damaged blocks, each in buffers of its own size, with the module that is named
_ASAN = """
import importlib.util, random, sys
import lz4.block
import numpy as np
sys.path[:0] = sys.argv[2:]
import lzo_writer, xpress_writer
spec = importlib.util.spec_from_file_location("memcarve.formats.compressed_pages._compiled", sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
draw = random.Random(0)
texts = [bytes(draw.choices(b"abcdefgh", k=700)), b"page" * 200, draw.randbytes(700), bytes(700), b"0123456789" * 70]
encoders = xpress_writer.plain, xpress_writer.huffman
samples = [[encode(xpress_writer.tokens(text)) for text in texts] for encode in encoders]
samples.append([lz4.block.compress(text, store_size=False) for text in texts])
samples.append([lzo_writer.block(lzo_writer.tokens(text)) for text in texts])
zero = np.zeros(1, np.int64)
for number in range(20000):
    method = number % 4
    data = bytearray(draw.choice(samples[method]))
    for _ in range(draw.choice((0, 1, 1, 2, 5))):
        data[draw.randrange(len(data))] = draw.randrange(256)
    if draw.random() < 0.3:
        del data[draw.randrange(len(data)) :]
    size = draw.choice((700, 800, 1, 0, 690, 701, 5000))
    target, sound = np.empty(size, np.uint8), np.zeros(1, np.bool_)
    columns = zero, zero + len(data), zero, zero + size
    blocks = np.frombuffer(bytes(data), np.uint8).copy()
    module.decode(method, blocks, target, *columns, sound)
    checked = np.ones(1, np.bool_)
    module.check(method, blocks, *columns[:2], columns[3], checked)
    assert checked[0] == sound[0]
print("done")
"""


def test_compiled_code_keeps_within_bounds(tmp_path: Path) -> None:
    """The compiled decoder keeps within its buffers, whatever the data are: the sanitizer watches."""
    path = build(tmp_path, "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g")
    program = compiler()
    assert program is not None
    found = subprocess.run(
        [program, "-print-file-name=libasan.so"], capture_output=True, text=True, check=True
    ).stdout.strip()
    if not os.path.isabs(found):
        pytest.skip("needs libasan, gcc's address sanitizer")
    env = {**os.environ, "LD_PRELOAD": found, "ASAN_OPTIONS": "detect_leaks=0", "PYTHONMALLOC": "malloc"}
    command = [sys.executable, "-c", _ASAN, str(path), str(ROOT / "tests" / "helpers")]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300, check=False)
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr[-3000:]
