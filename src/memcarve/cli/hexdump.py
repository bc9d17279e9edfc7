"""Bytes as people read them: sixteen a line, with their addresses; or as instructions."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from memcarve.vocabulary import Architecture

if TYPE_CHECKING:
    from collections.abc import Iterator

_MOST_LINES = 12  # of instructions
_MOST_UNKNOWN = 4  # a line in so many may be no instruction
_MOST_BYTES = 8  # of one instruction that are shown; few have more


def hexdump(address: int, data: bytes, columns: int = 16) -> Iterator[str]:
    """Yield lines of so many bytes (a multiple of eight) with the addresses they lie at, which are multiples of it."""
    place = address - address % columns
    while place < address + len(data):
        row = [data[at - address] if 0 <= at - address < len(data) else None for at in range(place, place + columns)]
        eights = [row[at : at + 8] for at in range(0, columns, 8)]
        digits = "  ".join(" ".join("  " if byte is None else f"{byte:02x}" for byte in eight) for eight in eights)
        text = "".join(" " if byte is None else chr(byte) if 32 <= byte < 127 else "." for byte in row)  # noqa: PLR2004
        yield f"{place:016x}  {digits}  |{text}|"
        place += columns


def disassembly(address: int, data: bytes, architecture: str | None) -> list[str]:
    """Return lines of one instruction each; none without capstone, or if what is there is not code of the architecture.

    Bytes that are no instruction are shown as such; if they are many it is none.
    """
    try:
        capstone: Any = importlib.import_module("capstone")
    except ImportError:  # it is optional
        return []
    modes = {
        Architecture.X64: ("CS_ARCH_X86", "CS_MODE_64"),
        Architecture.X86: ("CS_ARCH_X86", "CS_MODE_32"),
        Architecture.ARM64: ("CS_ARCH_AARCH64" if hasattr(capstone, "CS_ARCH_AARCH64") else "CS_ARCH_ARM64", ""),
    }
    names = modes.get(Architecture(architecture)) if architecture is not None else None
    if names is None:
        return []
    mode = getattr(capstone, names[1]) if names[1] else capstone.CS_MODE_LITTLE_ENDIAN
    lines, unknown = [], 0
    reader = capstone.Cs(getattr(capstone, names[0]), mode)
    reader.skipdata = True
    for at, size, mnemonic, operands in reader.disasm_lite(data, address):
        unknown += mnemonic == ".byte"
        code = data[at - address : at - address + size]
        shown = " ".join(f"{byte:02x}" for byte in code[:_MOST_BYTES]) + (" .." if size > _MOST_BYTES else "")
        lines.append(f"{at:016x}  {shown:<{3 * _MOST_BYTES + 2}} {mnemonic} {operands}".rstrip())
    more = [" " * 16 + "  .."] if len(lines) > _MOST_LINES else []
    return [*lines[:_MOST_LINES], *more] if unknown * _MOST_UNKNOWN <= len(lines) else []
