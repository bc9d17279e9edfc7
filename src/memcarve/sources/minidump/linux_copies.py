"""What Breakpad and Crashpad copy from /proc/PID into the minidump of a Linux program: proc(5)."""

from __future__ import annotations

import os
import shlex
from typing import TYPE_CHECKING

from memcarve.errors import printable
from memcarve.formats.listing.listing_kinds import PROC_MAPS
from memcarve.formats.listing.procmaps import cells
from memcarve.formats.listing.text_listing import LONGEST_ROW
from memcarve.formats.minidump import structures
from memcarve.metadata import Parameters, Region, Regions
from memcarve.sources.listings.listing_rows import DoubtfulError, UnknownError, reader

if TYPE_CHECKING:
    from memcarve.formats.minidump.minidump_reading import Minidump

_MOST_REGIONS = 1 << 20
_MOST_STRINGS = 1 << 16
_SHOWN = 60


def status_of(dump: Minidump) -> tuple[int | None, str | None]:
    """Return pid and name of the process as /proc/PID/status has them; None is not known."""
    lines = dump.copied(structures.LINUX_STATUS).split(b"\n", 64)
    rows = dict(line.split(b":", 1) for line in lines if b":" in line)
    pid, name = rows.get(b"Pid", b"").strip(), rows.get(b"Name", b"").strip()
    return (
        int(pid) if pid.isdigit() and len(pid) <= 10 else None,  # noqa: PLR2004 - pids have 31 bits
        name.decode("utf-8", "surrogateescape") or None,
    )


def parameters_of(dump: Minidump) -> Parameters | None:
    """Return what the program was started with, its words joined as a shell wants them; None if it is not said."""
    words = _strings(dump.copied(structures.LINUX_COMMAND_LINE))
    environment = _strings(dump.copied(structures.LINUX_ENVIRONMENT))
    if not words and not environment:
        return None
    source = f"LinuxCmdLine ({os.path.basename(dump.file.path)})"
    return Parameters(source, shlex.join(words) if words else None, environment=tuple(environment) or None)


def regions_of(dump: Minidump, notes: list[str]) -> Regions | None:
    """Return the regions that /proc/PID/maps has, None if it was not copied; notes say which lines are not used."""
    data = dump.copied(structures.LINUX_MAPS)
    if not data:
        return None
    read, bits = reader(PROC_MAPS), 32 if dump.narrow else 64
    rows: list[Region] = []
    bad: list[tuple[int, bytes]] = []
    for number, line in enumerate(data.rstrip(b"\0\n").split(b"\n", _MOST_REGIONS)[:_MOST_REGIONS], 1):
        found = cells(line) if len(line) <= LONGEST_ROW else None
        try:
            row = None if found is None else read(found, bits)
        except (UnknownError, DoubtfulError):
            row = None
        if isinstance(row, Region) and dump.fits(row.start, row.size):
            rows.append(row)
        else:
            bad.append((number, line))
    if bad:
        first, text = bad[0][0], printable(bad[0][1][:_SHOWN].decode("utf-8", "replace"))
        notes.append(
            f"{dump.file.path}: {len(bad)} lines of its copy of /proc/PID/maps are not as they must be; not used, the "
            f"first is line {first}: {text!r}"
        )
    return Regions(f"LinuxMaps ({os.path.basename(dump.file.path)})", rows)


def _strings(data: bytes) -> list[str]:
    """Return texts, each of which ends with a zero."""
    words = data.rstrip(b"\0").split(b"\0", _MOST_STRINGS)[:_MOST_STRINGS]
    return [word.decode("utf-8", "surrogateescape") for word in words] if words != [b""] else []
