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
#: where arithmetic wraps, signs turn, halves begin and pages end
NUMBERS = (
    *(0, 1, 2, 7, 8, 15, 16, 0xFFF, 0x1000, 0x1001, 0xFFFF, 0x10000, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 32),
    *((1 << 47) - 0x1000, (1 << 47) - 1, 1 << 47, 1 << 52, 0xFFFF800000000000, 1 << 62, (1 << 63) - 1, 1 << 63),
    *(TOP - 0x2000, TOP - 0x1000, TOP - 8, TOP - 1),
)
_ADDRESS = re.compile("0x[0-9a-f]{1,16}")
_STEPS = (1, -1, 8, -8, 16, 0x1000, -0x1000, 0x2000, 1 << 31, 1 << 32, -(1 << 32))
#: as readers of text take them or should refuse them
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
    *("0x" + "f" * 30, "-0x10", " 0x10", "0x0", "0xffffffffffffffff", "x64", "x86", "sha256", "md5", "windows"),
    *("linux", "PAGE_READONLY", "0x0000000000010000", *TEXTS),
)


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
        elif kind == 2 or not known:
            value = old + self.choice(_STEPS)
        elif kind == 3:
            value = self.choice(known)
        elif kind == 4:
            value = self.choice(known) + self.choice(_STEPS)
        else:
            value = old ^ 1 << self.randrange(bits)
        return value & (1 << bits) - 1

    def text(self, old: str = "") -> str:
        """Return a text in place of another one."""
        new = self.choice(TEXTS)
        return old[: self.randrange(len(old) + 1)] + new if self.chance(0.3) else new

    def patch(self, data: bytearray, at: int, width: int, known: Sequence[int] = (), order: str = "<") -> None:
        """Change the number at a place in a structure."""
        if 0 <= at <= len(data) - width:
            code = order + {1: "B", 2: "H", 4: "I", 8: "Q"}[width]
            (old,) = struct.unpack_from(code, data, at)
            struct.pack_into(code, data, at, self.number(old, known, 8 * width))

    def fields(self, data: bytes, places: Sequence[tuple[int, int]], order: str = "<") -> bytes:
        """Return a structure with a few of its numbers changed; `places` are offsets and widths."""
        changed = bytearray(data)
        known = (len(data), len(data) - 8, len(data) + 8)
        for _ in range(self.few() if places else 0):
            self.patch(changed, *self.choice(places), known, order)
        return bytes(changed)

    def torn(self, data: bytes, first: int | None = None) -> bytes:
        """Return bytes that were damaged without regard to what they mean, mostly among the `first` of them."""
        for _ in range(self.few(3)):
            end = len(data) if first is None or self.chance(0.2) else min(first, len(data))
            at, kind = self.randrange(end + 1), self.randrange(6)
            if kind == 0:
                data = data[:at]
            elif kind == 1:
                data = data[:at] + data[at + self.choice((1, 4, 8, 16, 56)) :]
            elif kind == 2:
                data = data[:at] + self.randbytes(self.choice((1, 4, 8, 0x1000))) + data[at:]
            elif kind == 3:
                data += data[at : at + self.choice((8, 40, 400))]
            else:
                data = data[:at] + self.randbytes(1) + data[at + 1 :]
        return data

    def lines(self, data: bytes) -> bytes:
        """Return text with a cell, a line or the order of lines changed."""
        lines = data.split(b"\n")
        for _ in range(self.few(3)):
            at, other, kind = self.randrange(len(lines)), self.randrange(len(lines)), self.randrange(5)
            if kind == 0:
                lines[at], lines[other] = lines[other], lines[at]
            elif kind == 1:
                lines.insert(at, lines[other])
            elif kind == 2 and len(lines) > 1:
                del lines[at]
            else:
                mark = self.choice((b"\t", b",", b" ", b"|", b'"', b": "))
                cells = lines[at].split(mark)
                wild = self.choice((*CELLS, *TEXTS)).encode("utf-8", "surrogatepass")
                cells[self.randrange(len(cells))] = wild if self.chance(0.7) else self.choice(cells)
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
            kind = self.randrange(5)
            if kind == 0:
                del inside[name]
            elif kind == 1 and isinstance(inside, dict):
                inside[self.choice((*TEXTS, *map(str, inside)))] = self.choice(WILD)
            elif kind == 2 and isinstance(inside, list):
                inside.insert(name, copy.deepcopy(self.choice(inside)))
            elif kind == 3 and isinstance(inside[name], int) and not isinstance(inside[name], bool):
                inside[name] = self.number(inside[name])
            elif kind == 3 and isinstance(inside[name], str) and _ADDRESS.fullmatch(inside[name]):
                inside[name] = f"0x{self.number(int(inside[name], 16)):016x}"
            else:
                inside[name] = copy.deepcopy(self.choice(WILD))
        return found


def _places(document: Any) -> Iterator[tuple[Any, Any]]:
    """Yield what can be replaced in a document: what it is in, and its name or place there."""
    names = document if isinstance(document, dict) else range(len(document)) if isinstance(document, list) else ()
    for name in names:
        yield document, name
        yield from _places(document[name])
