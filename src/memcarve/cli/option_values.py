"""What options take: each function returns the value of a text, or raises click.BadParameter."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Iterable

_TOP = 1 << 64
_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
HASHES = ("sha256", "sha1", "md5", "none")


class Choice(click.Choice[str]):
    """One of a few words."""

    def __init__(self, words: Iterable[str]) -> None:
        super().__init__([str(word) for word in words])

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:  # noqa: ANN401, ARG002 - click's
        """Return the word; raises click.BadParameter, which lists them."""
        if value not in self.choices:
            raise click.BadParameter(f"unknown {value!r}; choose from {', '.join(self.choices)}")
        return str(value)


class OutputPath(click.Path):
    """The name of a file or folder to write."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:  # noqa: ANN401 - click's
        """Return the name; raises click.BadParameter for an empty one, as of a variable that is not set."""
        if not value:
            raise click.BadParameter("'' is not a name; leave the option out for the default")
        return super().convert(value, param, ctx)


def number(text: str) -> int:
    """Return the number in `text`, decimal or with 0x; raises ValueError."""
    found = re.fullmatch(r"0[xX][0-9a-fA-F]{1,17}|[0-9]{1,20}", text.strip())
    if not found:
        raise ValueError(text)
    return int(text, 16 if text.strip()[:2].lower() == "0x" else 10)


def pid(text: str) -> int:
    """Return a process id."""
    if not re.fullmatch(r"[0-9]{1,20}", text.strip()):
        raise click.BadParameter(f"{text!r} is not a process id; write it in decimal")
    return int(text)


def size(text: str) -> int:
    """Return a number of bytes: 4096, 0x1000, 4k, 2M, 1GiB."""
    found = re.fullmatch(r"\s*(0[xX][0-9a-fA-F]{1,17}|\d{1,20})\s*(?:([kKmMgGtT])(?:i?[bB])?)?\s*", text)
    if not found:
        raise click.BadParameter(f"{text!r} is not a size; write 4096, 0x1000, 4k, 2M or 1G")
    return number(found[1]) * _UNITS[(found[2] or "").lower()]


def address(text: str) -> int:
    """Return a virtual address, given in hexadecimal with 0x or in decimal."""
    try:
        found = number(text)
    except ValueError:
        raise click.BadParameter(f"{text!r} is not an address; write 0x7ffe0000 or the same in decimal") from None
    if found >= _TOP:
        raise click.BadParameter(f"{text!r} is beyond 64 bits")
    return found


class OneAddress(tuple[int, int]):
    """Start and end of what was given as a single address: of one byte, by which a segment may be meant."""

    __slots__ = ()


def address_range(text: str) -> tuple[int, int]:
    """Return start and end, half-open, of an address (a OneAddress) or of two with a hyphen between."""
    first, hyphen, second = text.partition("-")
    try:
        start = number(first)
        end = number(second) if hyphen else start + 1
    except ValueError:
        raise click.BadParameter(f"{text!r} is not an address or range; write 0x400000 or 0x400000-0x480000") from None
    if not start < end <= _TOP:
        raise click.BadParameter(f"{text!r} holds no address; the end is the first address outside")
    return (start, end) if hyphen else OneAddress((start, end))


def hash_names(text: str) -> list[str]:
    """Return the names of hashes, with commas between."""
    names = text.split(",")
    unknown = [name for name in names if name not in HASHES]
    if unknown:
        raise click.BadParameter(f"unknown hash {unknown[0]!r}; choose from {', '.join(HASHES)}")
    return names


def byte(text: str) -> int:
    """Return a byte given by two hexadecimal digits."""
    found = re.fullmatch(r"(?:0[xX])?([0-9a-fA-F]{1,2})", text.strip())
    if not found:
        raise click.BadParameter(f"{text!r} is not a byte; write two hexadecimal digits, as 00 or cc")
    return int(found[1], 16)


def version(text: str) -> tuple[int, ...]:
    """Return a version: major, minor, build."""
    if not re.fullmatch(r"\d{1,9}(\.\d{1,9}){1,2}", text):
        raise click.BadParameter(f"{text!r} is not a version; write 10.0.19045")
    return tuple(map(int, text.split(".")))
