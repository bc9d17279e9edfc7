"""What a Linux kernel says of itself, found in one pass through a machine's memory.

Nothing here is believed because it was found: memory also holds the kernels of guests, files about kernels, and copies.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from memcarve.formats.images import vmcoreinfo
from memcarve.formats.kernel_types import btf
from memcarve.images.linux.tasks import NAME_SIZE
from memcarve.images.physical_scan import everything, look_through, part_of
from memcarve.intervals import PAGE, distinct

if TYPE_CHECKING:
    from memcarve.dtypes import I64, U32, U64, Bools
    from memcarve.formats.images.vmcoreinfo import Vmcoreinfo
    from memcarve.images.physical import PhysicalMemory
    from memcarve.intervals import Intervals

#: with what BTF (magic, version 1, no flags), VMCOREINFO, a banner and the first task's name begin: compilers put all
#: of them at whole words. Looking for words takes a third of the time that looking for text does
_BANNER = b"Linux ve"
_BEGINNINGS = ((btf.VERSION << 16 | btf.MAGIC).to_bytes(4, "little"), vmcoreinfo.BEGIN[:8], _BANNER, b"swapper")
_FIRST_TASK = re.compile(rb"swapper(?:/0)?\0")
_LONGEST_BANNER = 512
_WHOLE_BANNER = re.compile(rb"Linux version (\d[!-~]{0,127}) \([^\0\n]{1,480}\n")
_MOST_INFORMATION = 64
_MOST = 1 << 21  # places of a kind: a machine has some dozens


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


def find_landmarks(memory: PhysicalMemory, within: Intervals | None = None) -> Landmarks:
    """Look through all the memory, or `within` some physical ranges."""
    blocks = everything(memory) if within is None else part_of(memory, within)

    def look(physical: U64, words: U64) -> list[list[int]]:
        small = words.reshape(-1).view("<u4")
        found = [_begins(small, begin) for begin in _BEGINNINGS]
        found[-1] = found[-1][_ends_like_the_first(small, found[-1])]
        return [_places(physical, 4 * each) for each in found]

    places: list[list[int]] = [[] for _ in _BEGINNINGS]
    for found in look_through(memory, blocks, look):
        for kept, more in zip(places, found, strict=True):
            kept.extend(more[: _MOST - len(kept)])
    headers = ((place, _header(memory, place)) for place in sorted(places[0]))
    return Landmarks(
        [(place, found) for place, found in headers if found is not None],
        _information(memory, sorted(places[1])),
        _banners(memory, sorted(places[2])),
        [place for place in sorted(places[3]) if _FIRST_TASK.match(available(memory, place, NAME_SIZE))],
    )


def by_distance(places: list[int], anchors: list[int]) -> list[int]:
    """Return places in the order of how far each is from the nearest of some others, which are in ascending order."""
    found, known = np.array(sorted(places), np.int64), np.array(anchors, np.int64)
    if not len(known):
        return list(found.tolist())
    after = np.minimum(np.searchsorted(known, found), len(known) - 1)
    distance = np.minimum(np.abs(known[after] - found), np.abs(known[np.maximum(after - 1, 0)] - found))
    return list(found[np.argsort(distance, kind="stable")].tolist())


def first_banner(memory: PhysicalMemory) -> Banner | None:
    """Return a kernel's banner; None if there is none. The rest of the memory is not looked through once it is met."""

    def look(physical: U64, words: U64) -> list[int]:
        return _places(physical, 4 * _begins(words.reshape(-1).view("<u4"), _BANNER))

    found = (_banners(memory, places) for places in look_through(memory, everything(memory), look))
    return next((banners[0] for banners in found if banners), None)


def _begins(words: U32, begin: bytes) -> I64:
    """Return where (in words) some bytes begin, of which the first eight count; at the end the first four."""
    found = np.flatnonzero(words == np.uint32(int.from_bytes(begin[:4], "little")))
    rest = begin[4:]
    if rest and len(found):
        following = words[np.minimum(found + 1, len(words) - 1)] & np.uint32((1 << 8 * len(rest)) - 1)
        found = found[(following == int.from_bytes(rest, "little")) | (found == len(words) - 1)]
    return found


def _ends_like_the_first(words: U32, found: I64) -> Bools:
    """Return which names that begin with "swapper" end there or go on with "/0"; at the end of the words all may."""
    end = len(words) - 1
    last, behind = words[np.minimum(found + 1, end)] >> np.uint32(24), words[np.minimum(found + 2, end)]
    first = (last == ord("/")) & (behind & np.uint32(0xFFFF) == ord("0"))
    return np.asarray((found + 2 > end) | (last == 0) | first)


def _places(physical: U64, offsets: I64) -> list[int]:
    page = offsets // PAGE
    new = np.flatnonzero(np.diff(page)) + 1
    # programs can fill their memory with any: of each page the first and the last is kept
    found = offsets[distinct(np.concatenate([[0], new, new - 1, [len(page) - 1]]))] if len(page) else offsets
    where: list[int] = (physical[found // PAGE] + (found % PAGE).astype(np.uint64)).tolist()
    return where


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


def told_information(memory: PhysicalMemory) -> list[Information]:
    """Return the VMCOREINFO that the image's container has: one or none."""
    told = None if memory.vmcoreinfo is None else vmcoreinfo.parse(memory.vmcoreinfo)
    return [] if told is None else [Information(None, told)]


def _information(memory: PhysicalMemory, places: list[int]) -> list[Information]:
    found = told_information(memory)
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
