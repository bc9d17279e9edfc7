"""What a Linux kernel says of itself, found in one pass through all of a machine's memory.

Nothing here is believed because it was found: memory also holds the kernels of guests, files about kernels, and copies.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from memcarve.formats.images import vmcoreinfo
from memcarve.formats.kernel_types import btf
from memcarve.images.physical_scan import everything, look_through
from memcarve.intervals import PAGE

if TYPE_CHECKING:
    from memcarve.dtypes import U64
    from memcarve.formats.images.vmcoreinfo import Vmcoreinfo
    from memcarve.images.physical import PhysicalMemory

#: the first words of BTF (magic, version 1, no flags) and of VMCOREINFO; both lie at whole words
_BTF = np.uint32(btf.VERSION << 16 | btf.MAGIC)
_VMCOREINFO = np.uint32(int.from_bytes(vmcoreinfo.BEGIN[:4], "little"))
_BANNER = b"Linux version "
_FIRST_TASK = re.compile(rb"swapper(?:/0)?\0")
_LONGEST_BANNER = 512
_WHOLE_BANNER = re.compile(rb"Linux version (\d[!-~]{0,127}) \([^\0\n]{1,480}\n")
_MOST_INFORMATION = 64
_MOST = 1 << 14  # places of a kind: a machine has some dozens


class Banner(NamedTuple):
    """What a kernel says of itself: where, its release, and all of it, without the end of the line."""

    physical: int
    release: str
    text: str


class Information(NamedTuple):
    """A VMCOREINFO and the physical address of its text; None if the image's container has it."""

    physical: int | None
    vmcoreinfo: Vmcoreinfo


class Landmarks(NamedTuple):
    """What was found, each in ascending order of physical addresses but for `information`: the longest first.

    `btf` are the physical addresses of what reads like the header of BTF: the kernel's own, those of modules, copies.
    `names` are those of what may be the name of the first task, ``swapper/0`` (``swapper`` with one processor).
    """

    btf: list[tuple[int, btf.Header]]
    information: list[Information]
    banners: list[Banner]
    names: list[int]


def find_landmarks(memory: PhysicalMemory) -> Landmarks:
    """Look through all the memory."""

    def look(physical: U64, words: U64) -> tuple[list[int], ...]:
        raw = words.reshape(-1)
        small = raw.view("<u4")
        headers, notes = (4 * np.flatnonzero(small == word) for word in (_BTF, _VMCOREINFO))
        data = raw.tobytes()
        banners: list[int] = []
        at = data.find(_BANNER)
        while at >= 0 and len(banners) <= _MOST:
            banners.append(at)
            at = data.find(_BANNER, at + 1)
        # one that begins in this block and ends in the next one
        banners += [len(data) - cut for cut in range(1, len(_BANNER)) if data.endswith(_BANNER[:cut])]
        names = [found.start() for found in _FIRST_TASK.finditer(data)]
        return tuple(_places(physical, found) for found in (headers.tolist(), notes.tolist(), banners, names))

    places: tuple[list[int], ...] = ([], [], [], [])
    for found in look_through(memory, everything(memory), look):
        for kept, more in zip(places, found, strict=True):
            kept.extend(more[: _MOST - len(kept)])
    headers = ((place, _header(memory, place)) for place in sorted(places[0]))
    return Landmarks(
        [(place, found) for place, found in headers if found is not None],
        _information(memory, sorted(places[1])),
        _banners(memory, sorted(places[2])),
        sorted(places[3]),
    )


def _places(physical: U64, offsets: list[int]) -> list[int]:
    return [int(physical[offset // PAGE]) + offset % PAGE for offset in offsets]


def available(memory: PhysicalMemory, physical: int, most: int) -> bytes:
    """Return the bytes at a physical address, up to the first that is not in the image; `most` at most."""
    parts: list[bytes] = []
    at = physical
    while at < physical + most:
        size = min(PAGE - at % PAGE, physical + most - at)
        part = memory.read(at, size)
        if part is None:
            break
        parts.append(part)
        at += size
    return b"".join(parts)


def _header(memory: PhysicalMemory, physical: int) -> btf.Header | None:
    return btf.header(available(memory, physical, 32))


def _information(memory: PhysicalMemory, places: list[int]) -> list[Information]:
    told = None if memory.vmcoreinfo is None else vmcoreinfo.parse(memory.vmcoreinfo)
    found = [] if told is None else [Information(None, told)]
    for place in places:
        if len(found) < _MOST_INFORMATION and memory.read(place, len(vmcoreinfo.BEGIN)) == vmcoreinfo.BEGIN:
            parsed = vmcoreinfo.parse(available(memory, place, vmcoreinfo.MOST_BYTES))
            if parsed is not None:
                found.append(Information(place, parsed))
    return sorted(found, key=lambda each: -len(each.vmcoreinfo.values))


def _banners(memory: PhysicalMemory, places: list[int]) -> list[Banner]:
    found: list[Banner] = []
    for place in places:
        said = _WHOLE_BANNER.match(available(memory, place, _LONGEST_BANNER))
        if said is not None:
            found.append(Banner(place, said[1].decode("ascii"), said[0][:-1].decode("utf-8", "backslashreplace")))
    return found
