"""The tables that say what a process's memory holds: which columns tell them apart, which are needed, which are used.

Columns are known by their names: any but those needed may be hidden. The names are those that the plugins of
Volatility 3 print; those of its lists of threads are `Offset`, `PID`, `TID`, `StartAddress`, `StartPath`,
`Win32StartAddress`, `Win32StartPath`, `CreateTime`, `ExitTime`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from memcarve.errors import MapError
from memcarve.formats.tables.printed_table import shown
from memcarve.formats.tables.text_header import vocabulary
from memcarve.intervals import TOP

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

#: a cell's value: a number, a text, or None if the table says that it is not known
Value = int | str | None
Cells = dict[str, Value]

VADINFO, VADWALK = "windows.vadinfo", "windows.vadwalk"
LINUX_MAPS, MAC_MAPS, PROC_MAPS = "linux.proc.Maps", "mac.proc_maps.Maps", "/proc/PID/maps"
DLLLIST, THREADS = "windows.dlllist", "windows.threads or windows.thrdscan"  # the latter print the same columns

_LONGEST_HEADER = 1 << 16  # columns are as wide as the longest path in them
#: what stands in a cell whose value could not be read or does not exist
MISSING = ("-", "N/A")
HEXADECIMAL = {
    "Offset", "Start VPN", "End VPN", "Parent", "Left", "Right", "Start", "End", "PgOff", "Base", "Size",
    "StartAddress", "Win32StartAddress",
}  # fmt: skip
DECIMAL = {"PID", "TID", "CommitCharge", "PrivateMemory", "Major", "Minor", "Inode", "LoadCount"}
_TEXTS = {
    "Process", "Tag", "Protection", "File", "File output", "Flags", "File Path", "Map Name", "Name", "Path", "LoadTime",
    "StartPath", "Win32StartPath", "CreateTime", "ExitTime",
}  # fmt: skip


class Kind(NamedTuple):
    """A kind of table: its `name`, the columns that must be there, and those that are used if they are.

    `refused` says why such a table is of no use, and what to give instead.
    """

    name: str
    needed: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    refused: str | None = None

    def used(self, columns: Sequence[str]) -> list[str]:
        """Return those of a table's columns that are used."""
        return [name for name in (*self.needed, *self.optional) if name in columns]


_MALFIND = Kind(
    "malfind",
    refused="is what malfind prints: its cells hold hexadecimal dumps of many lines, and it lists suspicious regions "
    "only; give what windows.vadinfo or linux.proc.Maps prints",
)
_LDRMODULES = Kind(
    "windows.ldrmodules",
    refused="is what windows.ldrmodules prints: it compares lists of modules; give what windows.dlllist prints",
)
_KERNEL_MODULES = Kind(
    "windows.modules",
    refused="is a list of the kernel's modules (windows.modules), not of a process's; give what windows.dlllist prints",
)
_VADINFO = Kind(VADINFO, ("PID", "Start VPN", "End VPN"), ("Tag", "Protection", "PrivateMemory", "File"))
_VADWALK = Kind(VADWALK, ("PID", "Start", "End"), ("Tag",))
_LINUX = Kind(LINUX_MAPS, ("PID", "Start", "End"), ("Flags", "PgOff", "Major", "Minor", "Inode", "File Path"))
_MAC = Kind(MAC_MAPS, ("PID", "Start", "End"), ("Protection", "Map Name"))
_DLLLIST = Kind(DLLLIST, ("PID", "Base"), ("Size", "Name", "Path"))
_THREADS = Kind(THREADS, ("PID", "TID"), ("StartAddress", "Win32StartAddress"))


def kind_of(columns: Iterable[str]) -> Kind | None:  # noqa: PLR0911 - one for each kind
    """Return the kind of table that has these columns; None if it is none of the known ones, or may be several.

    In some tables with `Start` and `End` the latter is the last address, in others the address after it: without a
    column that only one kind has, none is taken.
    """
    here = set(columns)
    if here & {"Hexdump", "Disasm"}:
        return _MALFIND
    if here & {"InLoad", "InInit", "InMem"}:
        return _LDRMODULES
    if here & {"Start VPN", "End VPN"}:
        return _VADINFO
    if here & {"Start", "End"}:
        signs = ((_LINUX, {"Flags", "PgOff", "Inode"}), (_MAC, {"Map Name", "Protection"}), (_VADWALK, {"Tag", "Left"}))
        found = [kind for kind, names in signs if here & names]
        return found[0] if len(found) == 1 else None
    if here & {"StartAddress", "Win32StartAddress"}:
        return _THREADS
    if {"Base", "Size"} <= here:
        return _KERNEL_MODULES if "Offset" in here and "PID" not in here else _DLLLIST
    return None


#: longer names before those that they begin with
HEADER = vocabulary(
    sorted((name.encode() for name in HEXADECIMAL | DECIMAL | _TEXTS), key=len, reverse=True),
    lambda _, columns: kind_of(columns),
    _LONGEST_HEADER,
)


def value_of_text(column: str, cell: str) -> Value:
    """Return what a cell of a text table says; raises ValueError, with what was expected, if it says nothing."""
    if cell in MISSING:
        return None
    if column in HEXADECIMAL:
        digits = cell[2:] if cell[:2] in {"0x", "0X"} else ""
        if not 0 < len(digits) <= 16 or not digits.isascii() or not digits.isalnum():  # noqa: PLR2004 - 64 bits
            raise ValueError("a hexadecimal number of up to 64 bits")
        try:
            return int(digits, 16)
        except ValueError:
            raise ValueError("a hexadecimal number of up to 64 bits") from None
    if column in DECIMAL:
        if not (cell.isascii() and cell.isdigit() and len(cell) <= 20 and int(cell) <= TOP - 1):  # noqa: PLR2004
            raise ValueError("a whole number of up to 64 bits")
        return int(cell)
    return cell or None


def value_of_record(column: str, cell: object) -> Value:
    """Return what a member of a record says; raises ValueError, with what was expected, if it says nothing."""
    if cell is None or cell in MISSING:
        return None
    if column in HEXADECIMAL or column in DECIMAL:
        if type(cell) is not int or not 0 <= cell <= TOP - 1:
            raise ValueError("a whole number of up to 64 bits")
        return cell
    if not isinstance(cell, str):
        raise ValueError("text")  # noqa: TRY004 - one exception for all that a cell may be
    return cell or None


def unusable(place: str, column: str, cell: object, error: ValueError) -> MapError:
    """Return the error for a cell that says nothing; `error` is what was expected."""
    return MapError(f"{shown_value(cell)} in the column {column} is not {error}; the row cannot be used", subject=place)


def shown_value(value: object) -> str:
    """Return the beginning of a value for a message, in quotes."""
    return shown(str(value)[:200].encode("utf-8", "backslashreplace"))
