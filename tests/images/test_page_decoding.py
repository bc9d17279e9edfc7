"""Pages that are decoded when they are read."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from memcarve.errors import SourceReadError
from memcarve.images import page_decoding
from memcarve.images.page_decoding import DecodedPages
from memory import PAGE

_BROKEN = 77


class _Decoder:
    """Fills pages with the number that is known of each; one cannot be decoded. Counts pages of each call."""

    def __init__(self) -> None:
        self.calls: list[int] = []

    def __call__(self, pages: Any, filled: Any) -> Any:
        self.calls.append(len(pages))
        pages[:] = filled[:, None]
        return filled != _BROKEN


def _pages(count: int = 100) -> tuple[DecodedPages, _Decoder]:
    """Return pages with keys 1000 - n, in this order, that are filled with n."""
    decoder = _Decoder()
    pages = DecodedPages(decoder, "an image")
    filled = np.arange(count, dtype=np.uint8)
    pages.add(np.uint64(1000) - filled, (filled,))
    return pages, decoder


def _read(pages: DecodedPages, *pieces: tuple[int, int]) -> bytes:
    buffer = bytearray(sum(length for _, length in pieces))
    pages.read_pieces(pieces, memoryview(buffer))
    return bytes(buffer)


def test_some_are_decoded_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a page come those that were added after it; of the batches that came so, the last are kept."""
    monkeypatch.setattr(page_decoding, "_AHEAD", 8)
    monkeypatch.setattr(page_decoding, "_BATCHES", 2)
    pages, decoder = _pages()
    assert _read(pages, ((1000 - 16) * PAGE + 9, 9), ((1000 - 8) * PAGE, 9)) == bytes([16] * 9 + [8] * 9)
    assert decoder.calls == [8, 8]
    assert _read(pages, *(((1000 - n) * PAGE + n, 1) for n in range(8, 24))) == bytes(range(8, 24))
    assert _read(pages, ((1000 - 9) * PAGE + 4090, 8)) == bytes([9] * 6 + [8] * 2)
    assert decoder.calls == [8, 8]
    assert _read(pages, ((1000 - 95) * PAGE, 1), ((1000 - 8) * PAGE, 1)) == bytes([95, 8])
    assert decoder.calls == [8, 8, 5]
    assert _read(pages, ((1000 - 16) * PAGE, 1)) == bytes([16])  # it was let go of
    assert decoder.calls == [8, 8, 5, 8]


def test_many_are_decoded_to_their_places(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many whole pages are decoded in few calls, in whatever order they are asked for, twice if asked for twice."""
    monkeypatch.setattr(page_decoding, "_PAGES", 50)
    pages, decoder = _pages()
    wanted = [*range(70, 10, -1), 5, 5, 5, *range(20, 30)]
    pieces = [((1000 - 70) * PAGE, 60 * PAGE), *(((1000 - n) * PAGE, PAGE) for n in wanted[60:])]
    assert _read(pages, *pieces) == b"".join(bytes([n]) * PAGE for n in wanted)
    assert decoder.calls == [50, 23]
    assert _read(pages, *pieces, ((1000 - 3) * PAGE + 5, 9))[-9:] == bytes([3] * 9)  # in pieces: not all are whole


@pytest.mark.parametrize("key", [1000 - _BROKEN, 5000, 0])
def test_what_cannot_be_decoded(key: int) -> None:
    """A page that was not added, or is not right, is an error that names its key, however it is read."""
    pages, _ = _pages()
    whole = [((1000 - n) * PAGE, PAGE) for n in range(70)]
    for pieces in ([(key * PAGE, PAGE)], [*whole, (key * PAGE, PAGE)], [(key * PAGE, PAGE), *whole]):
        with pytest.raises(SourceReadError, match=f"key 0x{key:x} cannot be decoded"):
            _read(pages, *pieces)
    with pytest.raises(SourceReadError, match="key 0x3e8 "):
        _read(DecodedPages(_Decoder(), "nothing was added"), (1000 * PAGE, PAGE))
    assert _read(pages, *whole)[-PAGE:] == bytes([69]) * PAGE


def test_pages_are_added_once() -> None:
    """What is added again changes nothing; more can be added after some were read."""
    pages, decoder = _pages()
    assert _read(pages, (1000 * PAGE, 1)) == bytes(1)
    more = np.array([1000, 2000, 999, 1], np.uint64)
    pages.add(more, (np.array([9, 10, 11, 12], np.uint8),))
    assert _read(pages, *((key * PAGE, 1) for key in (1000, 2000, 999, 1))) == bytes([0, 10, 1, 12])
    assert decoder.calls == [100, 2]
