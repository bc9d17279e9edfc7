"""Compressed data as streams: how they are told, read to their end, and what becomes of damaged ones."""

from __future__ import annotations

import lzma
import random
import sys
from typing import TYPE_CHECKING

import pytest

from files import put
from memcarve.backing import FileBacking
from memcarve.errors import InputError, LimitError, MissingExtraError, UnreadableError
from memcarve.formats.compression import Decoder, RawFile, Reading, compression_of, plain_name
from memcarve.formats.decoded_file import DecodedFile
from memory import noise
from packing import ENDINGS, PACKERS, SKIPPABLE, zstd

if TYPE_CHECKING:
    from pathlib import Path

CONTENT = noise(1, 300_000) + bytes(100_000) + b"the same again and again " * 4000
KINDS = sorted(PACKERS)


def decode(path: Path, data: bytes, most: int = 1 << 30, piece: int = 70_000) -> tuple[bytes, Decoder]:
    """Return all that a file decodes to, and the decoder at its end."""
    with FileBacking(put(path / "packed", data)) as file:
        kind = compression_of(data[:4096])
        assert kind is not None
        decoder = Decoder(RawFile(file, hashed=False), kind, most)
        found = []
        while block := decoder.read(piece):
            found.append(block)
        return b"".join(found), decoder


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_told_by_the_first_bytes(kind: str) -> None:
    """Eighteen bytes tell how a file is compressed; none of them, zeros and noise are not compressed."""
    assert compression_of(PACKERS[kind](CONTENT)[:18]) == kind
    assert compression_of(PACKERS[kind](b"")) == kind
    assert all(compression_of(data) is None for data in (b"", bytes(100), b"\x7fELF", b"MDMP", b"BZh9", b"]\0\0"))


def test_chance_makes_no_compressed_file() -> None:
    """No page of a million that are noise behind two right bytes is taken for a compressed file of weak magic."""
    chance = random.Random(2)  # noqa: S311
    for start in (b"\x5d", b"BZ"):
        assert not any(compression_of(start + chance.randbytes(30)) for _ in range(100_000))


@pytest.mark.parametrize("kind", KINDS)
def test_content(kind: str, tmp_path: Path) -> None:
    """The content comes back whole, and nothing is said to be wrong."""
    found, decoder = decode(tmp_path, PACKERS[kind](CONTENT))
    assert found == CONTENT
    assert (decoder.total, decoder.damage, decoder.junk) == (len(CONTENT), None, None)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "lzma"])
def test_several_streams(kind: str, tmp_path: Path) -> None:
    """Streams that follow each other are read to the last, empty ones too."""
    parts = [CONTENT[:5000], b"", CONTENT[5000:200_000], b"x", CONTENT[200_000:]]
    found, decoder = decode(tmp_path, b"".join(map(PACKERS[kind], parts)))
    assert found == b"".join(parts)
    assert decoder.damage is decoder.junk is None


@pytest.mark.parametrize("kind", ["zstd", "lz4"])
def test_skippable_frames(kind: str, tmp_path: Path) -> None:
    """Skippable frames are passed over before, between and behind the others."""
    one, other = PACKERS[kind](CONTENT[:1000]), PACKERS[kind](CONTENT[1000:])
    found, decoder = decode(tmp_path, SKIPPABLE + one + SKIPPABLE * 2 + other + SKIPPABLE)
    assert found == CONTENT
    assert decoder.damage is decoder.junk is None
    found, decoder = decode(tmp_path, one + SKIPPABLE[:-1])
    assert found == CONTENT[:1000]
    assert "ends early" in str(decoder.damage)


@pytest.mark.parametrize("kind", ["gzip", "xz"])
def test_padding(kind: str, tmp_path: Path) -> None:
    """Zeros between and behind streams of gzip and xz mean nothing."""
    one, other = PACKERS[kind](CONTENT[:1000]), PACKERS[kind](CONTENT[1000:])
    found, decoder = decode(tmp_path, one + bytes(200_000) + other + bytes(70_000))
    assert found == CONTENT
    assert decoder.damage is decoder.junk is None


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "lzma"])
def test_rubbish_behind(kind: str, tmp_path: Path) -> None:
    """Other bytes behind the streams are not decoded; where they begin is known."""
    packed = PACKERS[kind](CONTENT)
    found, decoder = decode(tmp_path, packed + b"rubbish" * 30_000)
    assert found == CONTENT
    assert (decoder.damage, decoder.junk) == (None, len(packed))


@pytest.mark.parametrize("kind", KINDS)
def test_cut_off(kind: str, tmp_path: Path) -> None:
    """Of data that are cut off anywhere the beginning comes, and it is said where they end."""
    packed = PACKERS[kind](CONTENT)
    lengths = []
    for length in [18, 100, len(packed) // 3, len(packed) // 2, len(packed) - 1]:
        found, decoder = decode(tmp_path, packed[:length])
        assert CONTENT.startswith(found)
        assert decoder.damage is not None
        assert decoder.damage.endswith(f"ends early, near offset 0x{length:x}")
        lengths.append(len(found))
    assert lengths == sorted(lengths)
    assert lengths[-1] > 0


@pytest.mark.parametrize("kind", KINDS)
def test_cut_off_in_the_header(kind: str, tmp_path: Path) -> None:
    """Data that end within what tells how they are compressed are no error of another kind than later ends."""
    packed = PACKERS[kind](CONTENT)
    lengths = [length for length in range(1, 19) if compression_of(packed[:length]) is not None]
    assert 18 in lengths
    for length in lengths:
        found, decoder = decode(tmp_path, packed[:length])
        assert CONTENT.startswith(found)
        assert decoder.damage is not None
        assert decoder.damage.endswith(f"ends early, near offset 0x{length:x}")


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "lzma"])
def test_damaged(kind: str, tmp_path: Path) -> None:
    """Every damage to the body of data with a checksum is told."""
    packed = PACKERS[kind](CONTENT)
    for place in range(40, len(packed), len(packed) // 25):
        found, decoder = decode(tmp_path, packed[:place] + bytes([packed[place] ^ 0x5A]) + packed[place + 1 :])
        assert decoder.damage is not None or found == CONTENT


@pytest.mark.parametrize("kind", KINDS)
def test_a_bound_on_what_is_decoded(kind: str, tmp_path: Path) -> None:
    """More than the bound is an error that tells what it is and how to raise it; as much as the bound is not."""
    packed = PACKERS[kind](CONTENT)
    assert decode(tmp_path, packed, most=len(CONTENT))[0] == CONTENT
    with pytest.raises(LimitError, match=rf"more than {len(CONTENT) - 1} bytes.*limit_decoded=SIZE"):
        decode(tmp_path, packed, most=len(CONTENT) - 1)


def test_the_bound_without_one() -> None:
    """A small file may decode to 384 MiB, a larger one to 150 times its size, unless something else is said."""
    assert Reading().most(1000) == 384 << 20
    assert Reading().most(1 << 30) == 150 << 30
    assert Reading(decoded=5).most(1 << 30) == 5


def test_too_much_memory(tmp_path: Path) -> None:
    """Data that ask for more memory than is given are refused with the command that decodes them."""
    chain = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 1 << 30}]
    with pytest.raises(InputError, match=r"ask for too much memory.*unxz"):
        decode(tmp_path, lzma.compress(CONTENT, filters=chain))
    header = b"\x28\xb5\x2f\xfd\x00\xa8" + b"\x01\0\0" + b"\0" * 20  # a window of 2 GiB
    with pytest.raises(InputError, match=r"ask for too much memory.*unzstd --long=31"):
        decode(tmp_path, header)


@pytest.mark.parametrize("kind", ["zstd", "lz4", "lzma"])
def test_declared(kind: str, tmp_path: Path) -> None:
    """How much the data say to hold is known if their header tells."""
    assert decode(tmp_path, PACKERS[kind](CONTENT))[1].declared is None
    if kind == "zstd":
        packed: bytes | bytearray = zstd.compress(CONTENT)
    elif kind == "lz4":
        packed = pytest.importorskip("lz4.frame").compress(CONTENT)
    else:
        packed = bytearray(lzma.compress(CONTENT, lzma.FORMAT_ALONE))
        packed[5:13] = len(CONTENT).to_bytes(8, "little")
    assert decode(tmp_path, bytes(packed))[1].declared == len(CONTENT)


def test_without_lz4(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without its package, the message about a file of LZ4 names the extra and the command."""
    packed = PACKERS["lz4"](CONTENT)
    monkeypatch.setitem(sys.modules, "lz4", None)
    with pytest.raises(MissingExtraError, match=r"memcarve\[lz4\].*unlz4"):
        decode(tmp_path, packed)


def test_names() -> None:
    """A name loses the ending of a compressed file, whatever its case, and no other."""
    for ending in ENDINGS.values():
        assert plain_name(f"a/pid.4.dmp{ending}") == plain_name(f"a/pid.4.dmp{ending.upper()}") == "a/pid.4.dmp"
    assert plain_name("core.1234") == "core.1234"


class Broken(FileBacking):
    """A file with a place that cannot be read."""

    bad = 0

    def read_some(self, offset: int, buffer: memoryview) -> int:
        """Read as the file does, up to the bad place."""
        if offset >= self.bad:
            raise UnreadableError("cannot be read", offset, subject=self.path)
        return super().read_some(offset, buffer[: self.bad - offset])


def test_a_place_that_cannot_be_read(tmp_path: Path) -> None:
    """Data end at a bad block: what comes before it is used, and no hash is told."""
    packed = b"".join(PACKERS["xz"](CONTENT[place : place + 50_000]) for place in range(0, len(CONTENT), 50_000))
    with Broken(put(tmp_path / "packed", packed)) as file:
        file.bad = 150_000
        raw = RawFile(file, hashed=True)
        decoder = Decoder(raw, "xz", 1 << 30)
        found = decoder.read(1 << 20)
        assert CONTENT.startswith(found)
        assert len(found) >= 100_000
        assert decoder.damage is not None
        assert "cannot be read" in decoder.damage
        assert raw.digest() is None
        with DecodedFile(file, "xz", Reading(temp=str(tmp_path))) as decoded:
            assert decoded.incomplete
            assert decoded.read_at(0, len(found)) == found
            assert "sha256" not in decoded.described
