r"""What Linux says of a process's regions in ``/proc/PID/maps`` and ``smaps``: proc_pid_maps(5), proc_pid_smaps(5).

A line is ``start-end perms offset dev inode path``. The kernel writes a newline in a path as ``\012`` and everything
else as it is, a backslash too, and adds `` (deleted)`` to what is deleted: a path that holds these texts itself looks
the same, so they are left as they stand.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from memcarve.errors import MapError
from memcarve.formats.listing.text_listing import LONGEST_ROW
from memcarve.formats.tables.printed_table import PrintedTable, shown

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memcarve.formats.listing.listing_kinds import Cells
    from memcarve.formats.tables.text_file import TextFile

_ROW = re.compile(
    rb"([0-9a-f]{8,16})-([0-9a-f]{8,16}) ([r-][w-][x-][ps]) ([0-9a-f]{8,16}) ([0-9a-f]{2,8}):([0-9a-f]{2,8}) (\d{1,20})"
    rb"(?: +(\S.*)?)?",
    re.DOTALL,
)
_DETAILS = 64  # lines of smaps that may follow a row; Linux 6.12 has 25
_DETAIL = re.compile(rb"[A-Z][A-Za-z_]*: ")


def is_maps(head: bytes) -> bool:
    """Return True if the first line that is not empty is one of ``/proc/PID/maps``."""
    first = next((line for line in head.split(b"\n", 64) if line.strip()), b"")[:LONGEST_ROW]
    return _ROW.fullmatch(first.removesuffix(b"\r")) is not None


def cells(line: bytes) -> Cells | None:
    """Return what a line says, given without its end, in the names of linux.proc.Maps; None if it is another."""
    found = _ROW.fullmatch(line)
    if found is None:
        return None
    return {
        "Start": int(found[1], 16),
        "End": int(found[2], 16),
        "Flags": found[3].decode(),
        "PgOff": int(found[4], 16),
        "Major": int(found[5], 16),
        "Minor": int(found[6], 16),
        "Inode": int(found[7]),
        "File Path": None if found[8] is None else found[8].decode("utf-8", "surrogateescape"),
    }


class ProcMaps(PrintedTable):
    """``/proc/PID/maps`` or ``smaps``."""

    def __init__(self, text: TextFile) -> None:
        super().__init__(text, "text", [])

    def rows(self) -> Iterator[tuple[int, Cells]]:
        """Yield number and cells of each line, in the names of linux.proc.Maps; raise MapError if one is malformed."""
        for number, raw, ended in self.text.lines():
            line = raw[: LONGEST_ROW + 1].removesuffix(b"\r")
            if not line.strip() or _DETAIL.match(line):
                self.passed_over(1)
                continue
            found = cells(line) if len(raw) <= LONGEST_ROW else None
            if found is None and ended:
                raise MapError(
                    f"{shown(line)} is not a line of /proc/PID/maps (start-end perms offset dev inode path)",
                    subject=self.place(number),
                )
            if found is None or not ended:  # a path might go on
                self.note_cut_off(line, number)
                continue
            self.passed_over(-min(self._passed, _DETAILS))
            yield number, found
