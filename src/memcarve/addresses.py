"""Addresses and sizes as people and debuggers write them.

A number is read as hexadecimal if anything says so: ``0x7ffe0000``; a letter, as in ``7ff67340a000``; an ``h`` at the
end (MASM); a backtick, as WinDbg prints it (00007ff6`73400000); twelve digits or more. ``_`` and the backtick may stand
between digits. Fewer decimal digits alone may be meant either way, and are refused.

``ntdll.dll+0x1234`` is so far from the start of a module, ``ntdll.dll`` its start; the ending may be left out before a
plus. ``A-B`` is a range up to B, exclusive, ``A+SIZE`` one of so many bytes.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from memcarve.errors import UsageError, printable
from memcarve.paths import base_name

if TYPE_CHECKING:
    from collections.abc import Iterable

    #: start, size, name or path of a module
    Modules = Iterable[tuple[int, int | None, str | None]]

_TOP = 1 << 64
_NAME = re.compile(r"[^/\\\x00-\x1f]+")
_NUMBER = re.compile(r"(0[xX])?([0-9a-fA-F]+(?:[_`][0-9a-fA-F]+)*)([hH])?")
_SIZE = re.compile(r"(?:0[xX]([0-9a-fA-F]{1,17})|([0-9]{1,20}))\s*([kKmMgGtT]?)(?:i?[bB])?")
_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_LONG = 12  # digits of an address above 4 GiB, as debuggers print it
#: endings of names that debuggers leave out
_ENDINGS = (".dll", ".exe", ".sys", ".so")
_LISTED = 12
_FORMS = "write it like 0x7ffe0000, 00007ff6`73400000, 7ff673400000h or ntdll.dll+0x1234"


class Address(NamedTuple):
    """An address as it was written: a number, or how far from the start of a module, given by its name."""

    offset: int
    module: str | None = None

    def among(self, modules: Modules, subject: str = "") -> int:
        """Return the address, given the modules that are known.

        Raises UsageError, about `subject`, if no module or more than one has the name, or if it is not as large.
        """
        if self.module is None:
            return self.offset
        listed = [(start, size, base_name(name)) for start, size, name in modules if name]
        if not listed:
            raise UsageError(
                f"no modules are known, so {printable(str(self))} cannot be found",
                subject=subject,
                remedy="give the address as a number, or what Volatility listed with {modules:FILE}",
            )
        wanted = self.module.casefold()
        forms = {wanted, *(wanted + ending for ending in _ENDINGS)}
        found = {start: (size, name) for start, size, name in listed if name.casefold() in forms}
        if not found:
            names = list(dict.fromkeys(name for _, _, name in listed))
            held = ", ".join(names[:_LISTED]) + (", ..." if len(names) > _LISTED else "")
            raise UsageError(f"no module is called {self.module!r}; it has {printable(held)}", subject=subject)
        if len(found) > 1:
            places = ", ".join(f"0x{start:x}" for start in sorted(found))
            problem = f"{len(found)} modules are called {self.module!r}, at {places}"
            raise UsageError(problem, subject=subject, remedy="give the address as a number")
        [(start, (size, name))] = found.items()
        if self.offset > (self.offset if size is None else size):
            problem = f"{printable(str(self))} is not within {printable(name)}, which is 0x{size:x} bytes long"
            raise UsageError(problem, subject=subject)
        return start + self.offset

    def __str__(self) -> str:
        return f"0x{self.offset:x}" if self.module is None else f"{self.module}+0x{self.offset:x}"


class AddressRange(NamedTuple):
    """Addresses from `first` on: up to `last`, exclusive, or `size` of them; the one alone if neither is given."""

    first: Address
    last: Address | None = None
    size: int | None = None

    @property
    def is_single(self) -> bool:
        """Whether no end was given."""
        return self.last is None and self.size is None

    def among(self, modules: Modules, subject: str = "") -> tuple[int, int]:
        """Return start and end, half-open, as `Address.among` does; raises UsageError also if nothing is between."""
        known = list(modules)
        start = self.first.among(known, subject)
        end = start + (1 if self.size is None else self.size) if self.last is None else self.last.among(known, subject)
        if not start < end <= _TOP:
            problem = f"{printable(str(self))} holds no address; the end is the first address outside, at most 2^64"
            raise UsageError(problem, subject=subject)
        return start, end

    def __str__(self) -> str:
        end = "" if self.size is None else f"+0x{self.size:x}"
        return f"{self.first}{end if self.last is None else f'-{self.last}'}"


def parse_address(text: str) -> Address:
    """Return an address; raises UsageError if it is none, is beyond 64 bits, or could be meant in two ways."""
    found = _address(text.strip())
    if found is None or found.offset == _TOP:
        raise UsageError(f"{text!r} is not an address", remedy=_FORMS)
    return found


def parse_range(text: str) -> AddressRange:
    """Return an address, or a range of them; raises UsageError as `parse_address` does, and if it holds nothing."""
    text = text.strip()
    found = _range(text)
    if found is None:
        forms = "write 0x400000, 0x400000-0x480000 (the end is exclusive), 0x400000+512k or ntdll.dll+0x1234"
        raise UsageError(f"{text!r} is not an address or a range", remedy=forms)
    if found.first.module is None and (found.last is None or found.last.module is None):
        found.among(())  # what holds nothing is told at once
    return found


def parse_size(text: str) -> int:
    """Return a number of bytes: 4096, 0x1000, 4k, 4KB and 4KiB are the same; raises UsageError."""
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise UsageError(f"{text!r} is not a size", remedy="write 4096, 0x1000, 4k, 2M or 1G")
    return (int(found[1], 16) if found[1] else int(found[2])) * _UNITS[found[3].lower()]


def _range(text: str) -> AddressRange | None:
    sides = [(text[:at].strip(), text[at + 1 :].strip()) for at, letter in enumerate(text) if letter == "-"]
    for left, right in sides:  # a name may hold hyphens: both sides are numbers, or both are in modules
        first, last = _address(left), _address(right)
        if first is not None and last is not None and (first.module is None) == (last.module is None):
            return AddressRange(first, last)
    left, plus, right = text.rpartition("+")
    if plus and _SIZE.fullmatch(right.strip()):
        first = _address(left.strip())
        if first is not None and first.module != left.strip():  # behind a name alone comes an offset
            return AddressRange(first, None, parse_size(right))
    first = _address(text)
    return None if first is None else AddressRange(first)


def _address(text: str) -> Address | None:
    """Return an address, or None if it is not written like one."""
    number = _NUMBER.fullmatch(text)
    if number is not None:
        return Address(_number(number))
    name, plus, offset = (part.strip() for part in text.rpartition("+"))
    number = _NUMBER.fullmatch(offset)
    if plus and _NAME.fullmatch(name) and number is not None and not _NUMBER.fullmatch(name):
        return Address(_number(number), name)
    is_name = "." in text.strip(".") and not text.endswith("+") and _NAME.fullmatch(text)
    return Address(0, text) if is_name else None


def _number(found: re.Match[str]) -> int:
    """Return what matches _NUMBER; raises UsageError if it could be decimal as well, or is beyond 64 bits."""
    prefix, digits, suffix = found.groups()
    plain = re.sub(r"[_`]", "", digits)
    value = int(plain, 16) if len(plain) <= 3 * _LONG else _TOP + 1
    if value > _TOP:
        raise UsageError(f"{found[0]!r} is beyond 64 bits", remedy="an address has at most 16 hexadecimal digits")
    said = prefix or suffix or "`" in digits or len(plain) >= _LONG or not plain.isdigit()
    if not said and value != int(plain):
        raise UsageError(
            f"{found[0]!r} may be meant as 0x{plain.lstrip('0')} or as 0x{int(plain):x} (the same digits in decimal)",
            remedy="write one of the two",
        )
    return value
