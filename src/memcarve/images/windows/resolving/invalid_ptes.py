"""What Windows x64 keeps in entries that are not valid (_MMPTE_SOFTWARE, _MMPTE_PROTOTYPE, _MMPTE_TRANSITION).

There are two layouts, between which fields changed places with the fixes for L1TF of August 2018, and a mask that some
machines put into such entries and others do not. Under the wrong layout, or with the wrong mask, an entry leads to the
wrong page without anything looking wrong. So both are proven from the machine's own entries, or are not known.

Sources: Microsoft's public symbols of these structures. Up to 17134 as released: PageFileLow in bits 1 to 4. From 17763
on, and in kernels of 10240 to 17134 that were serviced: PageFileLow in bits 12 to 15, and SwizzleBit in bit 4, which is
clear if the mask was put in. Both: Prototype bit 10, Transition bit 11, PageFileHigh bits 32 to 63.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from memcarve.images.paging_modes import FRAME
from memcarve.intervals import distinct, spread

if TYPE_CHECKING:
    from memcarve.dtypes import I64, U8, U64, Bools
    from memcarve.images.windows.kernel import Version

VALID, PROTOTYPE, TRANSITION = (np.uint64(1 << bit) for bit in (0, 10, 11))
_SWIZZLE = np.uint64(1 << 4)
_UPPER = np.uint64(0xFFFFFFFF00000000)
_ABOVE = np.uint64(0x000FFFFF00000000)  # bits 32 to 51: where a mask can be, in a frame and in a place of a page file
#: the upper half of an entry that says that the VAD's prototype counts
_BY_VAD = np.uint64(0xFFFFFFFF)
#: an entry that points to where the page lies in the mapped file: kernel addresses, aligned to 16 bytes
_POINTER, _ALIGNED = np.uint64(0xFFFF800000000000), np.uint64(0xF)
_KERNEL = 0xFFFF800000000000

#: builds of whose kernels some have the one layout and some the other
_EITHER = (10240, 14393, 15063, 16299, 17134)
_NEW = 17763
_ENOUGH = 16  # entries that tell of the mask
_AGREE = 0.95  # of the entries must say the same: some may be damaged, or forged

#: what entries are
(ZERO, IN_MEMORY, MOVED, BY_ADDRESS, BY_VAD, IN_FILE, DEMAND_ZERO, PAGED) = range(8)


class PteLayout(NamedTuple):
    """How software entries are read: `new` layout or old; `mask`, the bits that are put into some; 0 if there is none.

    `proof` says in words what it rests on.
    """

    new: bool
    mask: int
    proof: str

    def place(self, words: U64) -> tuple[U8, U64]:
        """Return the number of the page file (uint8) and the page in it (uint64) that software entries tell."""
        numbers = words >> np.uint64(12 if self.new else 1) & np.uint64(15)
        upper = words & _UPPER
        if self.new:
            upper = np.where(words & _SWIZZLE, upper, upper & ~np.uint64(self.mask))
        return numbers.astype(np.uint8), upper >> np.uint64(32)

    def written(self, words: U64, version: Version) -> Bools:
        """Return of which software entries (uint64) the place in a page file is not only reserved (bool)."""
        reserved, allocated = (1, 2) if self.new else (13, 14) if version[:2] < (10, 0) else (12, 13)
        if version[:2] < (6, 2):
            return np.ones(len(words), np.bool_)
        found: Bools = words & np.uint64(1 << reserved | 1 << allocated) == np.uint64(1 << allocated)
        return found


def kinds(words: U64, possible: np.uint64) -> U8:
    """Return what entries of the lowest level, or in arrays of prototypes, are (uint8): one of the constants above.

    `possible` has the bits that a physical address of the machine may have. PAGED are those that name a place in a
    page file; whether a mask alone looks like one, only a layout tells.
    """
    found = np.full(len(words), PAGED, np.uint8)
    upper = words & _UPPER
    prototype = words & PROTOTYPE != 0
    found[upper & ~masked_alone(words, possible) == 0] = DEMAND_ZERO
    found[(words & _POINTER == _POINTER) & (words & _ALIGNED == 0)] = IN_FILE
    found[words & (VALID | PROTOTYPE | TRANSITION) == TRANSITION] = MOVED
    found[prototype] = BY_ADDRESS
    found[(upper >> np.uint64(32) == _BY_VAD) & (prototype | (found == PAGED))] = BY_VAD
    found[words & VALID != 0] = IN_MEMORY
    found[words == 0] = ZERO
    return found


def masked_alone(words: U64, possible: np.uint64) -> U64:
    """Return the upper half of entries that is nothing but a mask may be, else 0 (uint64).

    SwizzleBit is clear then, and the bits are one run that no physical address has.
    """
    upper = words & _UPPER
    lowest = upper & (~upper + np.uint64(1))
    run = (upper & (upper + lowest)) == 0
    alone = run & (lowest > possible) & (words & _SWIZZLE == 0)
    return np.where(alone, upper, np.uint64(0))


def frames(words: U64, moved: Bools, possible: np.uint64) -> U64:
    """Return the physical addresses that entries hold that are valid, or `moved`: in transition, maybe with a mask."""
    physical = words & FRAME
    return np.where(moved & (words & _SWIZZLE == 0), physical & possible, physical)


def addresses(words: U64) -> U64:
    """Return the kernel addresses that entries for prototypes hold; 0 if one cannot be."""
    found = (words.view(np.int64) >> np.int64(16)).view(np.uint64)
    sound = (found >= np.uint64(_KERNEL)) & (found & np.uint64(7) == 0)
    return np.where(sound, found, np.uint64(0))


def proven(build: int | None, words: U64, possible: np.uint64) -> tuple[PteLayout | None, str]:
    """Return the layout that a machine's invalid entries prove, None if none is; and why not, in words.

    `words` (uint64) are entries of the lowest level of some processes that are neither valid nor 0.
    """
    if build is None:
        return None, "the build of Windows is not known"
    mask, said = _mask(words, possible)
    if mask is None:
        return None, said
    if mask:
        if build < _EITHER[0]:
            return None, f"entries have a mask, which no Windows of build {build} is known to have"
        return PteLayout(new=True, mask=mask, proof=f"the mask 0x{mask:x} in {said}"), ""
    if build in _EITHER:
        return None, f"kernels of build {build} have either layout, and no entry has a mask, which would tell"
    return PteLayout(build >= _NEW, 0, f"build {build}, and no mask in {said}"), ""


def sample(words: U64, most: int) -> U64:
    """Return `most` of some entries (uint64): up to half of them such as tell of the mask, the others evenly spread."""
    if len(words) <= most:
        return words
    moved = np.flatnonzero(words & (VALID | PROTOTYPE | TRANSITION) == TRANSITION)
    telling = moved[spread(len(moved), most // 2)]
    chosen: I64 = distinct(np.concatenate([telling, spread(len(words), most - len(telling))]))
    return words[chosen]


def _mask(words: U64, possible: np.uint64) -> tuple[int | None, str]:
    """Return the mask in invalid entries without SwizzleBit, None if it is not certain; and in words what shows it."""
    upper, moved = words & _UPPER, words & (VALID | PROTOTYPE | TRANSITION) == TRANSITION
    clear = (words & (VALID | PROTOTYPE | _SWIZZLE) == 0) & (kinds(words, possible) != IN_FILE)
    # whose upper half is known but for a mask: a frame of this machine; if there are too few of these, also nothing,
    # which now and then is a place in a page file that looks like it
    plain = clear & moved
    if np.count_nonzero(plain) < _ENOUGH:
        plain |= clear & (upper & ~masked_alone(words, possible) == 0)
    seen = words[plain] & _ABOVE & ~possible
    if len(seen) < _ENOUGH:
        return None, f"{len(seen)} entries show whether there is a mask in those that are not valid; {_ENOUGH} must"
    patterns, counts = np.unique(seen, return_counts=True)
    mask, agree = int(patterns[counts.argmax()]), int(counts.max())
    # nothing at all above means the same with any mask
    others = words[clear & ~plain & (upper != 0)]
    with_it = int(np.count_nonzero(others & np.uint64(mask) == np.uint64(mask)))
    if agree < _AGREE * len(seen) or with_it < _AGREE * len(others) or mask & (mask + (mask & -mask)):
        return None, "entries that are not valid contradict each other about the mask in them"
    return mask, f"{agree} of {len(seen)} entries"
