"""Pages of a process that are not where its page tables point, planned: sections with their prototypes, page files.

How an entry looks is written here from Microsoft's public structures (_MMPTE_SOFTWARE, _MMPTE_PROTOTYPE,
_MMPTE_TRANSITION, _MMPTE_SUBSECTION, _MMVAD, _SUBSECTION), not from what memcarve reads.
"""

from __future__ import annotations

import functools
import hashlib
import os
import random
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from winimage.contents import PAGE, U64, page_bytes
from winimage.physical import numbers
from winimage.userland import IMAGE_MAP, Vad

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from winimage.compression import Store
    from winimage.layouts import Layout
    from winimage.physical import Physical
    from winimage.pool import Pool
    from winimage.tables import Tables
    from winimage.vadtree import Tree

_PROTOTYPE, _TRANSITION, _SWIZZLE = 1 << 10, 1 << 11, 1 << 4
_SOFT = 4 << 5
_BY_VAD = 0xFFFFFFFF << 32 | _PROTOTYPE | 1 << 5
_MASK64 = (1 << 64) - 1
_SCATTERED = 1 << 17
#: who wrote what lies in page files and in sections: numbers that no process has
_FILES, _SECTIONS = 900_000, 800_000

#: what an entry in an array of prototypes can be; `pagefile N` and `beyond N` name page file N
PROTOTYPES = ("valid", "transition", "pagefile 0", "demand-zero", "in-file", "zero", "beyond 0", "outside")
#: what a process's own entry can be for a page of a view: nothing (0), a pointer to the prototype, the word that the
#: VAD counts, a private copy that was written, one that was paged out since, the shared page itself, and none at all.
#: ``patched N`` is a private copy, which may run, with N bytes changed, of 0 none; ``rebased N`` one with a number that
#: is larger by N
OWN = ("zero", "pointer", "by-vad", "copy", "copy-paged", "shared")


@functools.cache
def _typical(number: int) -> bytes:
    """Return one of some pages that pack as most of memory does, to 45 %."""
    chance = random.Random(3)  # noqa: S311
    words = [chance.randbytes(chance.choice((2, 3, 6))) + bytes(chance.choice((0, 0, 2, 5))) for _ in range(600)]
    return b"".join(random.Random(number).choices(words, k=PAGE))[:PAGE]  # noqa: S311


class View(NamedTuple):
    """A view of a section, from `start` on: for each page what its prototype is, and what the process's own entry is.

    `parts` is how many pages each subsection has: of a view with one part the last entry is the view's. `kind` is
    ``image``, ``data`` or ``shared``; `tables`: whether the process has page tables there at all. `lost`: the array is
    not in memory. `wrong` is what is wrong with its structures: ``last``, ``base``, ``loop``, ``control``. `header` is
    what its first page holds, if that is valid.
    """

    start: int
    prototypes: tuple[str, ...]
    own: tuple[str, ...]
    kind: str = "data"
    parts: tuple[int, ...] = ()
    tables: bool = True
    lost: bool = False
    wrong: str = ""
    header: bytes = b""

    @property
    def vad(self) -> Vad:
        """Its region."""
        number = IMAGE_MAP if self.kind == "image" else 0
        file = None if self.kind == "shared" else f"\\Windows\\view-{self.start:x}.dll"
        protection = "PAGE_EXECUTE_WRITECOPY" if self.kind == "image" else "PAGE_READWRITE"
        kind = "image" if self.kind == "image" else "mapped"
        size = len(self.prototypes) * PAGE
        return Vad(self.start, size, protection, kind, file, "Vad ", private=False, type=number)


class Private(NamedTuple):
    """Private pages from `start` on.

    Each is ``pagefile N``, ``neighbour N`` (in page file N, right behind the one before), ``scattered N`` (all over a
    page file that has nothing else), ``compressed KIND``,
    ``demand-zero``, ``transition``, ``both N KIND`` (in memory as well; see `Left._both`), ``beyond N`` or ``raw N``,
    which is in page file N, without the mask, as its SwizzleBit says.
    """

    start: int
    kinds: tuple[str, ...]

    @property
    def vad(self) -> Vad:
        """Its region."""
        return Vad(self.start, len(self.kinds) * PAGE)


class PagedTable(NamedTuple):
    """A page table that left memory, or a directory of such (`level` 2), or a table of those (3): that of an address.

    It is ``pagefile N``, ``compressed KIND``, ``transition``, ``beyond N``, ``demand-zero`` or ``pointer``; ``ring N``:
    in page file N, where its first entry names itself; ``again``: its entry names the place of the table before.
    Lower ones come first.
    """

    level: int
    address: int
    kind: str


class LeftRam(NamedTuple):
    """What of a process left memory: `views` and `private` pages; and which `tables` that would lead there.

    `new` is the layout of entries, and `mask` what is put into those that are not valid. `kernel` is where the pages
    with its VADs, sections and prototypes are, in turn: as a private page's kind says, or ``here``. `user`: what its
    environment blocks lead to is in page files.
    """

    views: tuple[View, ...] = ()
    private: tuple[Private, ...] = ()
    new: bool = True
    mask: int = 1 << 45
    tables: tuple[PagedTable, ...] = ()
    kernel: tuple[str, ...] = ()
    user: bool = False

    def entry(self, number: int, place: int, *, raw: bool = False) -> int:
        """Return the software entry for a page of a page file; `raw`: the mask is not put in, and it says so."""
        if not self.new:
            return place << 32 | 1 << 13 | _SOFT | number << 1
        upper = place << 32
        # the mask is put only where it can be taken out again
        upper |= _SWIZZLE if raw or upper & self.mask else self.mask
        return upper | number << 12 | _SOFT | 1 << 2

    @property
    def nothing(self) -> int:
        """The entry of a page that was committed and never written."""
        return _SOFT | self.mask

    def moved(self, frame: int) -> int:
        """Return the entry of a page in transition."""
        return frame << 12 | _TRANSITION | _SOFT | self.mask


class Found(NamedTuple):
    """What is to be found at a page: how, and its bytes."""

    origin: str
    data: bytes


class Left:
    """What is to be found of one process, and what is not, by address; and what page files hold, by number and page."""

    def __init__(
        self, plan: LeftRam, physical: Physical, files: dict[int, dict[int, bytes]], store: Store | None
    ) -> None:
        self.plan, self.physical, self.files, self.store = plan, physical, files, store
        self.found: dict[int, Found] = {}
        self.lost: dict[int, str] = {}
        #: what the process's own page tables map there besides
        self.mapped: set[int] = set()
        self.entries: dict[int, int] = {}
        #: what the kernel keeps of frames that are in a page file as well: the original entry, and flags
        self.records: dict[int, tuple[int, int]] = {}
        self.version = (10, 0)
        self._array: dict[int, int] = {}
        self._prototype: dict[int, tuple[str, int]] = {}
        self._words: dict[tuple[int, int], int] = {}
        self._last_table = 0

    def _paged(
        self, number: int, owner: int, address: int, *, jumps: bool = True, scattered: bool = False
    ) -> tuple[int, bytes]:
        """Put a page into a page file; return which page of it, and its bytes."""
        file = self.files.setdefault(number, {})
        # some lie beyond 32 MiB, where the usual mask is a bit of the page's number
        place = 1 + len(file) + (0x2000 if jumps and len(file) % 5 == 4 else 0)
        if scattered:  # each of so many places comes once, and no neighbour follows another
            place = 1 + len(file) * 0x9E35 % _SCATTERED
        data = page_bytes(self.physical.seed + number, _FILES + owner, address)
        file[place] = data
        return place, data

    def _stored(self, kind: str, address: int, origin: str) -> int:
        """Put a page into the store; return its entry."""
        assert self.store is not None
        # text, so that it packs well; one in eight is noise
        text = b"".join(b"page 0x%012x word %06d; " % (address, word // 3) for word in range(200))[:PAGE]
        data = bytes(PAGE) if kind == "zeros" else text
        if kind == "raw" or (address >> 12 & 7 == 7 and kind == "packed"):
            data = page_bytes(self.physical.seed, _FILES, address | 0x7000)
        if kind == "typical":
            data = _typical(address >> 12 & 0xFF)
        place = self.store.add(kind, data)
        if kind in {"unknown", "broken"}:
            self.lost[address] = "compressed"
        else:
            self.found[address] = Found(origin, data)
        return self.plan.entry(self.store.number, place)

    def _framed(self, owner: int, address: int) -> tuple[int, bytes]:
        (frame,) = self.physical.take(1).tolist()
        self.physical.fill(owner, numbers(address >> 12, 1), np.array([frame], U64))
        return frame, page_bytes(self.physical.seed, owner, address)

    def leave(self, pool: Pool, first: int) -> None:
        """Take pages of the pool out of memory, from one on: all that is written there is written."""
        pages = [page for page in range(first, len(pool.data) // PAGE) if page not in pool.unmapped]
        for number, page in enumerate(pages):
            word, _, which = self.plan.kernel[number % len(self.plan.kernel)].partition(" ")
            data = bytes(pool.data[page * PAGE : (page + 1) * PAGE])
            if word == "pagefile":
                pool.paged[page], place = self._new_place(int(which))
                self.files[int(which)][place] = data
            elif word == "compressed":
                assert self.store is not None
                pool.paged[page] = self.plan.entry(self.store.number, self.store.add(which, data))
            elif word == "beyond":
                pool.paged[page] = self.plan.entry(int(which), 0x100000)
            elif word == "pointer":
                pool.paged[page] = (pool.base + page * PAGE) << 16 & _MASK64 | _PROTOTYPE | 1 << 5

    def put_out(self, page: int, data: bytes) -> int:
        """Put a page of the process into a page file; return its entry."""
        entry, place = self._new_place(page & 1)
        self.files[page & 1][place] = data
        self.found[page << 12] = Found("pagefile", data)
        return entry

    def _new_place(self, number: int) -> tuple[int, int]:
        place, _ = self._paged(number, _SECTIONS + 4, 0, jumps=False)
        return self.plan.entry(number, place), place

    def place(self, pool: Pool, layout: Layout, tree: Tree) -> None:
        """Write sections into the pool."""
        self.version = layout.version
        known = {vad.start: node for vad, node in zip(tree.vads, tree.nodes, strict=True)}
        for view in self.plan.views:
            self._view(view, pool, layout, known[view.start])
        for part in self.plan.private:
            for page, kind in enumerate(part.kinds):
                self._private(part.start + page * PAGE, kind)
        self._words = {(0, address >> 12): entry for address, entry in self.entries.items()}
        for table in self.plan.tables:
            self._page_out(table)

    def _page_out(self, table: PagedTable) -> None:
        """Take a table out of memory. Nobody follows one that holds what only tables in memory do."""
        shift = 12 + 9 * table.level
        key, word, number = table.address >> shift, *table.kind.partition(" ")[::2]
        words = np.zeros(512, U64)
        for each in [each for each in self._words if each[0] == table.level - 1 and each[1] >> 9 == key]:
            words[each[1] & 511] = self._words.pop(each)
        followed = word in {"pagefile", "compressed", "transition"} and number != "broken"
        if word != "transition":
            held = words & U64(_PROTOTYPE | _TRANSITION) == U64(_TRANSITION)
            followed &= not (held | (words & U64(1) != 0)).any()
        self._words[table.level, key] = self._entry_of_table(word, number, words)
        for address in [*self.found, *self.lost]:
            if address >> shift == key and not followed:
                self.found.pop(address, None)
                self.lost[address] = "its page table is not in memory"
                if word == "ring" and table.level > 1:  # it is a table of its own, too, and a page
                    del self.lost[address]
                    self.found[table.address] = Found("pagefile", words.tobytes())

    def _entry_of_table(self, word: str, number: str, words: NDArray[np.uint64]) -> int:
        """Put a table somewhere, and return the entry that names it."""
        if word in {"pagefile", "ring"}:
            self._last_table, place = self._new_place(int(number))
            if word == "ring":
                words[0] = self._last_table
            self.files[int(number)][place] = words.tobytes()
            return self._last_table
        if word == "compressed":
            assert self.store is not None
            return self.plan.entry(self.store.number, self.store.add(number, words.tobytes()))
        if word == "transition":
            frame = self.physical.take(1)
            self.physical.store(words.tobytes(), frame)
            return self.plan.moved(int(frame[0]))
        return {
            "again": self._last_table,
            "beyond": self.plan.entry(int(number or 0), 0x100000),
            "demand-zero": self.plan.nothing,
            "pointer": 0xFFFF8A0012345678 << 16 & _MASK64 | _PROTOTYPE | 1 << 5,
        }[word]

    def _view(self, view: View, pool: Pool, layout: Layout, node: int) -> None:
        pages = len(view.prototypes)
        at = node + layout["_MMVAD.Subsection"]
        first_section = int.from_bytes(pool.data[at - pool.base :][:8], "little")
        control = int.from_bytes(pool.data[first_section - pool.base :][:8], "little")
        parts = view.parts or (pages,)
        count_at = 0x2C if layout.version >= (6, 2) else 0x18
        begun, arrays, sections = 0, [], []
        for number, length in enumerate(parts):
            # behind each array lies something else that looks like entries
            size = (length + 4) * 8
            array = pool.place_unmapped(size, b"MmSt") if view.lost else pool.place(size, b"MmSt", None, 16)
            section = first_section if not number else pool.place(layout["_SUBSECTION.size"], b"MmSd", None, 16)
            arrays.append(array)
            sections.append(section)
            if not view.lost:
                for page in range(begun, min(begun + length, pages)):
                    entry = self._prototype_entry(view, page)
                    pool.put(array + (page - begun) * 8, "Q", entry)
                    self._array[view.start + page * PAGE] = array + (page - begun) * 8
                trap, _ = self._framed(_SECTIONS + 7, 0x666000)
                pool.put(array + length * 8, "QQQQ", *[trap << 12 | 0x25] * 4)
            begun += length
        for number, (array, section) in enumerate(zip(arrays, sections, strict=True)):
            following = sections[number + 1] if number + 1 < len(sections) else 0
            if view.wrong == "loop" and not following:
                following = sections[0]
            own = control + (64 if view.wrong == "control" and number else 0)
            base = array + (PAGE if view.wrong == "base" else 0)
            pool.put(section, "QQQ", own, base, following)
            pool.put(section + count_at, "I", parts[number])
        last = arrays[0] + (parts[0] - 1) * 8
        if view.wrong == "last":
            last = arrays[0] - 64
        pool.put(at, "QQQ", first_section, arrays[0], last)
        reached = parts[0] if view.wrong == "control" else sum(parts)
        for page in range(pages):
            self._expect(view, page, reached)

    def _prototype_entry(self, view: View, page: int) -> int:
        kind, address = view.prototypes[page], view.start + page * PAGE
        word, _, number = kind.partition(" ")
        if word == "valid":
            frame, data = self._framed(_SECTIONS, address)
            if view.header and not page:
                data = view.header
                self.physical.store(data, np.array([frame], U64))
            self._prototype[address] = "prototype", frame
            self._shared(address, "prototype", data)
            return frame << 12 | 0x225
        if word == "transition":
            frame, data = self._framed(_SECTIONS, address)
            self._shared(address, "prototype", data)
            return self.plan.moved(frame)
        if word == "pagefile":
            place, data = self._paged(int(number), _SECTIONS, address)
            self._shared(address, "prototype+pagefile", data)
            return self.plan.entry(int(number), place)
        if word == "compressed":
            return self._stored(number, address, "prototype+compressed")
        reasons = {
            "demand-zero": "zeros that nobody wrote yet",
            "in-file": "in the mapped file",
            "beyond": "the page file ends too early",
            "outside": "outside the image",
        }
        if word in reasons:
            self.lost[address] = reasons[word]
        return {
            "demand-zero": self.plan.nothing,
            "in-file": 0xFFFF8A0012345678 << 16 & _MASK64 | _PROTOTYPE | 1 << 5,
            "beyond": self.plan.entry(int(number or 0), 0x100000),
            "outside": 0xFFFFFF << 12 | 0x25,
            "zero": 0,
        }[word]

    def _shared(self, address: int, origin: str, data: bytes) -> None:
        self.found[address] = Found(origin, data)

    def _expect(self, view: View, page: int, reached: int) -> None:
        """Settle what is to be seen of a page, whose prototype is known: the process's own entry comes first."""
        address, own = view.start + page * PAGE, view.own[page] if view.own else "zero"
        away = view.lost or view.wrong in {"last", "base"} or page >= reached
        if away and own != "pointer":
            self.found.pop(address, None)
            self.lost.pop(address, None)
            if view.lost:
                self.lost[address] = "its prototype is not in memory"
        if own == "shared" and view.prototypes[page] != "valid":
            own = "zero"
        if view.tables:
            self._own_entry(view, page, own)

    def _own_entry(self, view: View, page: int, own: str) -> None:
        address = view.start + page * PAGE
        if own == "pointer":
            target = self._array.get(address, 0xFFFF8FFFFFFFF000)
            self.entries[address] = target << 16 & _MASK64 | _PROTOTYPE | 1 << 5
        elif own == "by-vad":
            self.entries[address] = _BY_VAD
        elif own == "copy":
            frame, data = self._framed(_SECTIONS + 1, address)
            self.lost.pop(address, None)
            self.entries[address] = frame << 12 | 0x867
            self.found[address] = Found("ram", data)
        elif own == "copy-paged":
            place, data = self._paged(0, _SECTIONS + 2, address)
            self.lost.pop(address, None)
            self.entries[address] = self.plan.entry(0, place)
            self.found[address] = Found("pagefile", data)
        elif own == "shared":
            frame = self._prototype[address][1]
            self.entries[address] = frame << 12 | 0x225
            data = view.header if view.header and not page else page_bytes(self.physical.seed, _SECTIONS, address)
            self.found[address] = Found("ram", data)
        elif own.startswith(("patched", "rebased")):
            word, _, count = own.partition(" ")
            # of a page that is in its file alone nobody knows what it was
            known = self.found.get(address, Found("", page_bytes(self.physical.seed, _SECTIONS, address)))
            patched = bytearray(known.data)
            if word == "rebased":
                number = int.from_bytes(patched[PATCH : PATCH + 8], "little") + int(count)
                patched[PATCH : PATCH + 8] = (number & _MASK64).to_bytes(8, "little")
            for place in range(int(count) if word == "patched" else 0):
                patched[PATCH + place] ^= 0xFF
            (frame,) = self.physical.take(1).tolist()
            self.physical.store(bytes(patched), np.array([frame], U64))
            self.lost.pop(address, None)
            self.entries[address] = frame << 12 | 0x225
            self.found[address] = Found("ram", bytes(patched))

    def map(self, tables: Tables) -> None:
        """Write the process's own entries."""
        for (level, key), entry in self._words.items():
            tables.put(level, key, entry)

    def _both(self, address: int, number: int, kind: str) -> None:
        """Have a page in memory and in a page file, where it is the same unless the kernel knows that it is not.

        It is if it is ``clean``, ``bare`` (the kernel noted its place without the mask) or on ``standby``. It is not if
        it is ``dirty``, ``modified``, or if its place is only ``reserved``.
        """
        place, data = self._paged(number, 0, address)
        frame, other = self._framed(_SECTIONS + 5, address)
        if kind in {"clean", "bare", "standby"}:
            self.physical.store(data, np.array([frame], U64))
        else:
            data = other
        original = self.plan.entry(number, place)
        if not self.plan.new:
            # the bit for a place that has been written lies elsewhere in Windows 8
            original = place << 32 | 1 << (14 if self.version < (10, 0) else 13) | _SOFT | number << 1
        if kind == "bare":
            original = place << 32 | number << 12 | _SOFT | 1 << 2
        if kind == "reserved":
            original = original & ~(1 << 2) | 1 << 1
        on = kind in {"standby", "modified"}
        self.records[frame] = original, {"standby": 2, "modified": 3 | 1 << 4}.get(kind, 6)
        # not written since, by the processor: without the dirty bit, which writing needs
        self.entries[address] = self.plan.moved(frame) if on else frame << 12 | (0x867 if kind == "dirty" else 0x825)
        self.found[address] = Found("transition" if on else "ram", data)

    def _private(self, address: int, kind: str) -> None:
        word, _, number = kind.partition(" ")
        if word == "both":
            number, _, kind = number.partition(" ")
            self._both(address, int(number), kind)
        elif word in {"pagefile", "raw", "neighbour", "scattered"}:
            jumps, scattered = word != "neighbour", word == "scattered"
            place, data = self._paged(int(number), 0, address, jumps=jumps, scattered=scattered)
            self.entries[address] = self.plan.entry(int(number), place, raw=word == "raw")
            self.found[address] = Found("pagefile", data)
        elif word == "compressed":
            self.entries[address] = self._stored(number, address, "compressed")
        elif word == "demand-zero":
            self.entries[address] = self.plan.nothing
            self.lost[address] = "zeros that nobody wrote yet"
        elif word == "transition":
            frame, data = self._framed(_SECTIONS + 3, address)
            self.entries[address] = self.plan.moved(frame)
            self.found[address] = Found("transition", data)
        elif word == "beyond":
            self.entries[address] = self.plan.entry(int(number), 0x100000)
            self.lost[address] = "the page file ends too early"


def file_pages(pages: Mapping[int, bytes]) -> int:
    """Return how many pages the page file has that holds some pages, by place."""
    return max(pages) + 9


def write_files(image: str | os.PathLike[str], files: Mapping[int, Mapping[int, bytes]]) -> dict[int, str]:
    """Write page files beside an image; return their paths by number. Pages that nobody has are noise."""
    written = {}
    for number, pages in sorted(files.items()):
        path = f"{os.fspath(image)}.pagefile{number}"
        with open(path, "wb") as file:
            for place, data in pages.items():
                file.seek(place * PAGE)
                file.write(data)
            file.truncate(file_pages(pages) * PAGE)
        written[number] = path
    return written


def digests(found: Mapping[int, Found], origins: set[str] | None = None) -> dict[int, str]:
    """Return the SHA-256 of each page that is to be found, by address; of some origins alone if they are said."""
    return {
        address: hashlib.sha256(one.data).hexdigest()
        for address, one in sorted(found.items())
        if origins is None or one.origin in origins
    }


#: where in a page its changed bytes are
PATCH = 0x234
#: sixteen entries and more that show the mask
MOVED = Private(0x30000000000, ("transition",) * 24)


def departed(kind: str, pages: int) -> LeftRam:
    """Return a process most of whose `pages` left memory in one way, or few of them.

    The ways are ``compressed``, ``pagefile``, where they lie one behind the other, and ``scattered`` in one.

    Of ``few``, one in twenty of `pages` each is shared, or compressed and in a page file. Of ``views``, all are parts
    of views of 200 pages each, of which the process has touched none: one in four is in memory, the others in files.
    """
    if kind == "views":
        words = ("valid", "in-file", "in-file", "in-file") * 50
        begins = range(0x31000000000, 0x31000000000 + (pages // 200 << 24), 1 << 24)
        return LeftRam(tuple(View(start, words, (), "image", tables=False) for start in begins), (MOVED,))
    if kind == "few":
        part = pages // 20
        words = tuple(
            ("compressed typical", "neighbour 0", "transition", "demand-zero")[each % 4] for each in range(part)
        )
        shared = tuple(("valid", "transition", "in-file", "zero")[each // 8 % 4] for each in range(part))
        view = View(0x31000000000, shared, ("pointer", "zero", "zero", "by-vad") * (part // 4), "image")
        return LeftRam((view,), (MOVED, Private(0x30100000000, words)))
    word = {"compressed": "compressed typical", "pagefile": "neighbour 0", "scattered": "scattered 0"}[kind]
    return LeftRam((), (MOVED, Private(0x30100000000, (word,) * pages)))


def everything(*, new: bool = True, mask: int = 1 << 45, tables: bool = False) -> LeftRam:
    """Return a process of which every kind of page left memory in every way.

    With `tables`, there are page tables everywhere, for readers that look no further if there is none.
    """
    crossed = tuple((prototype, own) for prototype in PROTOTYPES for own in OWN)
    both = [tuple(pair[place] for pair in crossed) for place in (0, 1)]
    mixed = ("valid", "transition", "pagefile 0", "pagefile 1", "in-file", "zero") * 12
    views = (
        View(0x31000000000, both[0], both[1], "image"),
        View(0x31100000000, both[0], both[1], "data"),
        View(0x31200000000, both[0], both[1], "shared"),
        # the array is longer than a page
        View(0x31300000000, mixed * 9, (), "image"),
        View(0x31440000000, mixed, (), "data", (7, 1, 64)),
        View(0x31480000000, mixed, (), "data", (7, 20)),
        View(0x314C0000000, mixed, (), "data", (7, 20), wrong="loop"),
        View(0x31500000000, mixed, (), "data", (30, 42), wrong="control"),
        View(0x31540000000, mixed, (), "image", wrong="last"),
        View(0x31580000000, mixed, (), "image", wrong="base"),
        View(0x315C0000000, mixed, (), "image", lost=True),
        # a view that is shorter than its section
        View(0x31600000000, mixed[:5], (), "data", (72,)),
    )
    if tables:
        one = ("pointer", *("zero",) * 99) * 7
        views = tuple(view if view.own else view._replace(own=one[: len(view.prototypes)]) for view in views)
    else:
        views = tuple(view if view.own else view._replace(tables=False) for view in views)
    private = (
        MOVED,
        Private(0x30100000000, ("pagefile 0", "pagefile 1", "raw 0", "demand-zero", "transition", "beyond 0") * 20),
    )
    return LeftRam(views, private, new, mask)


#: kinds of private pages of which nothing keeps their table in memory
_ALL_OUT = ("pagefile 0", "pagefile 1", "demand-zero", "compressed packed", "beyond 0", "raw 1")
_TABLE, _DIRECTORY = 1 << 21, 1 << 30


def tables_left(mask: int = 1 << 45, *, memory: bool = True) -> LeftRam:
    """Return a process whose page tables left memory, in every way; and directories of them, one level above another.

    With `memory`, tables in transition, which lead to memory, are among them.
    """
    prototypes = ("valid", "transition", "pagefile 0", "in-file", "zero", "compressed packed")
    own = ("zero", "pointer", "by-vad", "copy-paged", "zero", "pointer")
    first, nested = 0x32000000000, 0x3A000000000
    kinds = ("pagefile 0", "compressed packed", "compressed raw", "pagefile 1", "beyond 0", "demand-zero", "pointer",
             "pagefile 0", "compressed broken", "ring 0", "again", *(("transition",) if memory else ()))  # fmt: skip
    # what tells how entries are read is in memory
    private, tables, views = [MOVED, Private(0x30100000000, ("compressed packed",) * 24)], [], []
    for number, kind in enumerate(kinds):
        start = first + number * _TABLE
        # the eighth has an entry that only a table in memory has
        more = ("transition",) if number == 7 or kind == "transition" else ()
        private.append(Private(start, (*_ALL_OUT, *more, *_ALL_OUT)))
        views.append(View(start + 0x100000, prototypes * 2, own * 2, ("image", "shared")[number % 2]))
        tables.append(PagedTable(1, start, kind))
    for number in range(3):
        start = nested + number * _TABLE
        private.append(Private(start, _ALL_OUT * 2))
        views.append(View(start + 0x100000, prototypes, own[: len(prototypes)], "shared"))
        tables.append(PagedTable(1, start, ("pagefile 0", "compressed packed", "beyond 0")[number]))
    # a view where a directory has no table at all
    views.append(View(nested + 8 * _TABLE, prototypes, (), "shared", tables=False))
    private.append(Private(nested + 2 * _DIRECTORY, _ALL_OUT))
    tables += [
        PagedTable(2, nested, "pagefile 1"),
        PagedTable(1, nested + 2 * _DIRECTORY, "pagefile 1"),
        PagedTable(2, nested + 2 * _DIRECTORY, "ring 1"),
        PagedTable(3, nested, "compressed packed"),
    ]
    return LeftRam(tuple(views), tuple(private), mask=mask, tables=tuple(tables))


def squeezed(mask: int = 1 << 45, pages: int = 240) -> LeftRam:
    """Return a process much of which is compressed: its own pages, and shared ones."""
    kinds = ("packed", "raw", "packed", "zeros", "chain", "packed", "unknown", "packed", "broken", "packed", "packed")
    words = tuple(f"compressed {kinds[number % len(kinds)]}" for number in range(pages))
    shared = tuple(word if number % 3 else "valid" for number, word in enumerate(words[:60]))
    own = ("pointer", *("zero",) * 59)
    return LeftRam(
        (View(0x31000000000, shared, own[: len(shared)], "shared"),),
        (MOVED, Private(0x30100000000, words), Private(0x30200000000, ("pagefile 0", "pagefile 1") * 8)),
        mask=mask,
    )
