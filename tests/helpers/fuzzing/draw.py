"""What a case is made of: numbers, texts, bytes and documents that readers err on, drawn from one number."""

from __future__ import annotations

import copy
import random
import re
import struct
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

TOP = 1 << 64
#: where arithmetic wraps, signs turn, halves begin and pages end; and steps from what a number was
NUMBERS = (
    *(0, 1, 2, 7, 8, 15, 16, 0xFFF, 0x1000, 0x1001, 0xFFFF, 0x10000, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 32),
    *((1 << 47) - 0x1000, (1 << 47) - 1, 1 << 47, 1 << 52, 0xFFFF800000000000, 1 << 62, (1 << 63) - 1, 1 << 63),
    *(TOP - 0x2000, TOP - 0x1000, TOP - 8, TOP - 1),
)
_STEPS = (1, -1, 8, -8, 16, 0x1000, -0x1000, 0x2000, 1 << 31, 1 << 32, -(1 << 32))
#: as readers of text take them or should refuse them; then cells that should hold a number
TEXTS = (
    *("", " ", "a", "a b.exe", "C:\\Windows\\System32\\ntdll.dll", "\\\\server\\share\\x.dll", "/usr/lib/libc.so.6"),
    *(
        "../../x.dll",
        "/etc/passwd",
        "CON",
        "a/b\\c",
        "a\nb",
        "a\tb",
        "a\0b",
        "\x1b[31mred",
        "\x85\u2028",
        "\u202egpj.exe",
    ),
    *("=1+1", "'\"<b>,;|", "\ud800", "\udfff\ud800", "\ufeff", "\u00e9\U0001f600", "N/A", "-", "x" * 300, "(deleted)"),
    *("[heap]", "[stack]", "Disabled", "Error outputting to file", "pid.4.dmp", "rwx", "PAGE_EXECUTE_READWRITE"),
)
CELLS = (
    *("0x", "0x0", "-1", "-0x1", "1e999", "NaN", "0x1_0", "+1", "0X10", " 0x10 ", "...", "null", "true", "\u0661"),
    *("18446744073709551616", "0xffffffffffffffff", "0x10000000000000000", "1" * 4400, "[" * 70, "<SNIP>", "0x12...0"),
)
#: what stands in a JSON document in place of what should
WILD = (
    *(None, True, False, 0, -1, 1.5, 1e308, TOP - 1, TOP, 1 << 70, "", [], {}, [[]], [None], {"a": 1}, "0x-1", "0x_1"),
    *("0x" + "f" * 30, "-0x10", " 0x10", "0x0", "0xffffffffffffffff", "x64", "x86", "sha256", "windows", *TEXTS),
)
_ADDRESS = re.compile("0x[0-9a-f]{1,16}")


class Draw(random.Random):
    """A source of everything that is drawn for a case; the same seed draws the same."""

    def chance(self, share: float) -> bool:
        """Return true for a share of the draws."""
        return self.random() < share

    def few(self, most: int = 4) -> int:
        """Return a small number, at least 1, mostly 1."""
        return min(1 + int(self.expovariate(0.9)), most)

    def number(self, old: int = 0, known: Sequence[int] = (), bits: int = 64) -> int:
        """Return a number in place of another one: an edge, near the old one or near one that is `known`."""
        kind = self.randrange(6)
        if kind < 2:
            value = self.choice(NUMBERS)
        elif kind == 2:
            value = old ^ 1 << self.randrange(bits)
        else:
            value = self.choice(known) if known and kind > 3 else old
            value += 0 if known and kind == 4 else self.choice(_STEPS)
        return value & (1 << bits) - 1

    def text(self, old: str = "") -> str:
        """Return a text in place of another one."""
        new = self.choice(TEXTS)
        return old[: self.randrange(len(old) + 1)] + new if self.chance(0.3) else new

    def plain(self, old: str = "") -> str:
        """Return the same in characters that UTF-8 has."""
        return self.text(old).encode("utf-8", "replace").decode()

    def fields(self, data: bytes, places: Sequence[tuple[int, int]], order: str = "<") -> bytes:
        """Return a structure with a few of its numbers changed; `places` are offsets and widths."""
        changed = bytearray(data)
        for _ in range(self.few() if places else 0):
            at, width = self.choice(places)
            if 0 <= at <= len(data) - width:
                code = order + {1: "B", 2: "H", 4: "I", 8: "Q"}[width]
                (old,) = struct.unpack_from(code, changed, at)
                known = (len(data), len(data) - 8, len(data) + 8)
                struct.pack_into(code, changed, at, self.number(old, known, 8 * width))
        return bytes(changed)

    def torn(self, data: bytes, first: int = TOP) -> bytes:
        """Return bytes that were damaged without regard to what they mean, among the `first` of them."""
        for _ in range(self.few(3)):
            at, kind = self.randrange(min(first, len(data)) + 1), self.randrange(5)
            count = self.choice((1, 4, 8, 40, 400))
            data = (
                data[:at],
                data[:at] + data[at + count :],
                data[:at] + self.randbytes(count) + data[at:],
                data + data[at : at + count],
                data[:at] + self.randbytes(1) + data[at + 1 :],
            )[kind]
        return data

    def lines(self, data: bytes) -> bytes:
        """Return text with a cell, a line or the order of lines changed."""
        lines = data.split(b"\n")
        for _ in range(self.few(3)):
            at, other, kind = self.randrange(len(lines)), self.randrange(len(lines)), self.randrange(5)
            if kind == 0:
                lines[at], lines[other] = lines[other], lines[at]
            elif kind == 1:
                lines[at : at + 1] = self.choice(([], [lines[other], lines[at]])) or lines[:1]
            else:
                mark = self.choice((b"\t", b",", b" ", b"|", b'"', b": "))
                cells = lines[at].split(mark)
                wild = self.choice((*CELLS, *TEXTS)).encode("utf-8", "surrogatepass")
                cells[self.randrange(len(cells))] = self.choice((wild, wild, self.choice(cells)))
                lines[at] = mark.join(cells)
        return b"\n".join(lines)

    def document(self, document: Any) -> Any:
        """Return a copy of a JSON document in which a few members are others, or are gone."""
        found = copy.deepcopy(document)
        for _ in range(self.few(3)):
            places = [*_places(found)]
            if not places:
                break
            inside, name = self.choice(places)
            kind, old = self.randrange(5), inside[name]
            if kind == 0:
                del inside[name]
            elif kind == 1 and isinstance(inside, dict):
                inside[self.choice((*TEXTS, *map(str, inside)))] = self.choice(WILD)
            elif kind == 1:
                inside.insert(name, copy.deepcopy(old))
            elif kind < 4 and type(old) is int:
                inside[name] = self.number(old)
            elif kind < 4 and isinstance(old, str) and _ADDRESS.fullmatch(old):
                inside[name] = f"0x{self.number(int(old, 16)):016x}"
            else:
                inside[name] = copy.deepcopy(self.choice(WILD))
        return found


def _places(document: Any) -> Iterator[tuple[Any, Any]]:
    """Yield what can be replaced in a document: what it is in, and its name or place there."""
    names = document if isinstance(document, dict) else range(len(document)) if isinstance(document, list) else ()
    for name in names:
        yield document, name
        yield from _places(document[name])
