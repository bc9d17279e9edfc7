"""BTF written by hand, after Documentation/bpf/btf.rst, and how bpftool reads BTF."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
from typing import Any

import pytest

INT, PTR, ARRAY, STRUCT, UNION, ENUM, FORWARD, TYPEDEF, VOLATILE, CONST, RESTRICT = range(1, 12)
FUNC, FUNC_PROTO, VAR, DATASEC, FLOAT, DECL_TAG, TYPE_TAG, ENUM64 = range(12, 20)


class Writer:
    """Types are numbered from 1 on, in the order in which they are added; each method returns the number."""

    def __init__(self, order: str = "<") -> None:
        self.order = order
        self.types: list[bytes] = []
        self.strings = bytearray(1)

    def string(self, text: str) -> int:
        """Add a string; return its offset."""
        if not text:
            return 0
        self.strings += text.encode() + b"\0"
        return len(self.strings) - len(text.encode()) - 1

    def add(self, kind: int, name: str = "", value: int = 0, *more: int, count: int = 0, flag: bool = False) -> int:
        """Add a type of any kind: its third word is `value`, and `more` words (taken modulo 2**32) follow."""
        words = (self.string(name), flag << 31 | kind << 24 | count, value, *more)
        self.types.append(struct.pack(f"{self.order}{len(words)}I", *(word & 0xFFFFFFFF for word in words)))
        return len(self.types)

    def integer(self, name: str, size: int, bits: int | None = None, shift: int = 0) -> int:
        """Add an integer."""
        return self.add(INT, name, size, shift << 16 | (8 * size if bits is None else bits))

    def structure(self, name: str, size: int, *members: tuple[str, int, int], kind: int = STRUCT) -> int:
        """Add a structure of members (name, type, offset in bits)."""
        words = [word for text, number, bit in members for word in (self.string(text), number, bit)]
        return self.add(kind, name, size, *words, count=len(members))

    def bit_fields(self, name: str, size: int, *members: tuple[str, int, int, int]) -> int:
        """Add a structure of members (name, type, offset in bits, bits or 0)."""
        words = [word for text, number, bit, bits in members for word in (self.string(text), number, bits << 24 | bit)]
        return self.add(STRUCT, name, size, *words, count=len(members), flag=True)

    def array(self, element: int, elements: int) -> int:
        """Add an array."""
        return self.add(ARRAY, "", 0, element, 1, elements)

    def enumeration(self, name: str, size: int, *, signed: bool = False, **constants: int) -> int:
        """Add an enumeration; one of 8 bytes is an ENUM64."""
        words: list[int] = []
        for text, value in constants.items():
            words += [self.string(text), value, value >> 32][: 3 if size == 8 else 2]
        return self.add(ENUM64 if size == 8 else ENUM, name, size, *words, count=len(constants), flag=signed)

    def written(self, layouts: bytes = b"", header: int | None = None) -> bytes:
        """Return all of it; with layouts or a size of header as Linux 7 writes it."""
        types = b"".join(self.types)
        size = header or (32 if layouts else 24)
        at = -(len(types) + len(self.strings)) % 4 + len(types) + len(self.strings)
        words = [size, 0, len(types), len(types), len(self.strings)] + [at, len(layouts)] * (size >= 32)
        head = struct.pack(f"{self.order}HBB{len(words)}I", 0xEB9F, 1, 0, *words).ljust(size, b"\0")
        return (
            (head + types + self.strings).ljust(size + at, b"\0") + layouts if layouts else head + types + self.strings
        )


def needs(program: str) -> str:
    """Return where a program is; skip the test, naming it, if it is nowhere."""
    path = shutil.which(program)
    if path is None:
        pytest.skip(f"{program} is not installed")
    return path


def bpftool_types(path: str) -> list[dict[str, Any]]:
    """Return all types of a file as bpftool reads them; skip if it is not installed."""
    done = subprocess.run(
        [needs("bpftool"), "btf", "dump", "file", path, "format", "raw", "-j"], capture_output=True, check=True
    )
    types: list[dict[str, Any]] = json.loads(done.stdout)["types"]
    return types
