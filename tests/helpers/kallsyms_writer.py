"""Tables of a kernel's symbols, after scripts/kallsyms.c, as four ages of Linux lay them out; nothing is compressed."""

from __future__ import annotations

import struct

#: one token a character, but for two of more characters
TOKENS = [bytes([code]) if 33 <= code < 127 else b"ab" if code == 1 else b"long" for code in range(256)]


def aligned(data: bytes, size: int) -> bytes:
    """Return data with zeros behind."""
    return data + bytes(-len(data) % size)


def encoded(names: list[str], *, large: bool = True) -> tuple[bytes, bytes]:
    """Return names and markers; with `large`, names of 128 bytes and more have two bytes for their length."""
    out, markers = bytearray(), []
    for number, name in enumerate(names):
        if number % 256 == 0:
            markers.append(len(out))
        text = name.encode().replace(b"ab", b"\1")
        size = len(text)
        out += bytes([size & 0x7F | 0x80, size >> 7]) if size >= 128 and large else bytes([size])
        out += text
    return bytes(out), struct.pack(f"<{len(markers)}I", *markers)


def tokens(align: int) -> bytes:
    """Return token_table and token_index."""
    offsets, table = [], b""
    for token in TOKENS:
        offsets.append(len(table))
        table += token + b"\0"
    return aligned(table, align) + struct.pack("<256H", *offsets)


def tables(
    symbols: list[tuple[int, str]], form: str, align: int = 8, base: int = 0xFFFFFFFF81000000
) -> tuple[bytes, int]:
    """Return all tables for symbols (address, type and name), and how many bytes stand before the first offset.

    `form`: ``"old"`` (until 6.3; per-processor symbols are absolute), ``"seqs"`` (6.2: with the order of names, and
    unsigned offsets), ``"new"`` (since 6.4), ``"self"`` (since 7: distances from themselves; `base` is then the virtual
    address of the tables' first byte).
    """
    names, markers = encoded([name for _, name in symbols], large=form != "old")
    number = aligned(struct.pack("<I", len(symbols)), align)
    front = number + aligned(names, align) + aligned(markers, align)
    seqs = aligned(bytes(3 * len(symbols)), align)
    if form == "old":
        words = [address if address < 1 << 20 else base - 1 - address for address, _ in symbols]
    else:
        words = [address - base for address, _ in symbols]
    pointer = struct.pack("<Q" if align == 8 else "<I", base)
    if form in {"old", "seqs"}:
        offsets = aligned(struct.pack(f"<{len(words)}i", *words), align) + pointer
        return offsets + front + (seqs if form == "seqs" else b"") + tokens(align), 0
    before = front + tokens(align)
    if form == "self":
        before = aligned(number[:4] + aligned(names, 4) + aligned(markers, 4) + tokens(4), 4)
        words = [address - (base + len(before) + 4 * row) for row, (address, _) in enumerate(symbols)]
        return before + struct.pack(f"<{len(words)}i", *words) + seqs, len(before)
    before = aligned(before, align)
    return before + aligned(struct.pack(f"<{len(words)}i", *words), align) + pointer + seqs, len(before)
