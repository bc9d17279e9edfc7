# This file is Copyright 2026 the memcarve authors and licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""Pages in page files: what Volatility reads of them with its swap option, memcarve's own library reads as well."""

from __future__ import annotations

from pathlib import Path

import pytest
import winimage
from winimage.left_ram import MOVED, LeftRam, Private, View
from winimage.plans import Plan
from winimage.userland import plain

import memcarve
import symbols
from conftest import Vol

PAGE, PID = 0x1000, 5000
#: a build all of whose kernels have the old layout of entries, the only one that Volatility knows
LAYOUT, BUILD = 3, 10586
USER_END = 1 << 47
#: _MMPTE_SOFTWARE.Protection: bits 5 to 9; the third of them is clear if a page can be read or run, but not written
PROTECTION, WRITABLE = 0x1F << 5, 4 << 5
READ_ONLY, RUN_AND_READ, READ_AND_WRITE, ALL = 1, 3, 4, 6


class Protected(LeftRam):
    """Pages that left memory, with each protection in turn that private pages can have."""

    def entry(self, number: int, place: int, *, raw: bool = False) -> int:
        """Return the software entry for a page of a page file."""
        protection = (READ_AND_WRITE, READ_ONLY, ALL, RUN_AND_READ)[place % 4]
        return super().entry(number, place, raw=raw) & ~PROTECTION | protection << 5


def dumped(vol: Vol, folder: Path, *swap: str) -> dict[int, tuple[int, bytes]]:
    """Return of each page of the user half that Volatility finds where it says that it is, and its bytes."""
    given = ("-q", "-o", str(folder), "--single-swap-locations", *swap)
    rows = vol.rows("windows.memmap", "--pid", str(PID), "--dump", given=given)
    dump = (folder / f"pid.{PID}.dmp").read_bytes()
    found = {}
    for row in rows:
        for inside in range(0, row["Size"] if row["Virtual"] < USER_END else 0, PAGE):
            begin = row["Offset in File"] + inside
            found[row["Virtual"] + inside] = (row["Physical"] + inside, dump[begin : begin + PAGE])
    return found


@pytest.mark.newest
def test_volatility_reads_the_same_in_page_files(tmp_path: Path, home: Path) -> None:
    """Every page that it finds in a page file has the bytes that memcarve reads; why it lacks the others is known.

    It looks into page files only if a page may be written, and never behind the prototypes of sections.
    """
    private = Private(0x30000100000, ("pagefile 0", "pagefile 1", "neighbour 0", "beyond 0") * 64)
    section = View(0x31000000000, ("pagefile 0",) * 16, ("pointer", "zero", "by-vad", "copy-paged") * 4, "shared")
    left = Protected((section,), (MOVED, private), new=False, mask=0)
    plans = (Plan(388, b"smss.exe", memory=()), Plan(PID, b"left.exe", 388, (), userland=plain(PID), left=left))
    truth = winimage.build(tmp_path / "mem.raw", layout=LAYOUT, build=BUILD, megabytes=16, processes=plans)
    vol = Vol(tmp_path / "mem.raw", symbols.install(truth, tmp_path / "symbols"), home)
    files = [truth.page_files[number] for number in (0, 1)]
    theirs = dumped(vol, tmp_path, *(Path(path).as_uri() for path in files))

    found, entries = truth.left[PID].found, truth.left[PID].entries
    paged = {address for address, one in found.items() if "pagefile" in one.origin}
    own = {address for address in paged if found[address].origin == "pagefile"}
    writable = {address for address in own if entries[address] & WRITABLE}
    resident = {*truth.frames(PID, "user")[0].tolist(), *found} - paged
    # what Volatility finds, and nothing else; neither pages that are not writable, nor those of sections
    assert theirs.keys() == resident | writable
    assert min(len(own - writable), len(writable)) > 90
    assert len(paged - own) == 12
    # where it finds it: in the place that the entry says, of either page file
    assert {address: theirs[address][0] for address in writable} == {
        address: entries[address] >> 32 << 12 for address in writable
    }
    assert {entries[address] >> 1 & 0xF for address in writable} == {0, 1}
    # its bytes are those that were planned, and memcarve's; so are those that it does not find
    with memcarve.open(truth.path, page_files=[f"{number}={path}" for number, path in enumerate(files)]) as image:
        memory = image.process(PID)
        for address in sorted(theirs.keys() | paged):
            ours = memory.read(address, PAGE)
            assert address not in theirs or ours == theirs[address][1]
            assert address not in paged or ours == found[address].data
