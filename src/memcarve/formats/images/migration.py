"""Migration streams of QEMU (`migrate` to a file, savevm without a disk, and inside of what virsh save writes).

The format is QEMU's: docs/devel/migration, migration/savevm.c (sections), migration/ram.c (what is in those of RAM),
docs/devel/migration/mapped-ram.rst. Numbers are big-endian. Behind the magic and version 3 come sections. That of the
configuration names the machine. Those called `ram` begin with a list of blocks (name, length); each of the others is a
row of records of 8 bytes, an address in a block with flags below the page's size, and a page's bytes or the one byte
that fills it. A page that changed meanwhile is sent again: the last one counts. The state of devices follows, which
only QEMU can take apart, and which nothing here needs.

The stream does not say where in the machine a block lies. That is known by the machine (hw/i386/pc_q35.c, pc_piix.c,
hw/arm/virt.c): on PCs, RAM below 4 GiB ends at 2 GiB (q35; with less than 2.75 GiB all of it is below) or at 3 GiB
(i440fx; 3.5 GiB), unless max-ram-below-4g was set, and goes on at 4 GiB; on `virt` it begins at 1 GiB. Blocks of
firmware and video memory are not placed.
"""

from __future__ import annotations

import re
import struct
from array import array
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from memcarve.errors import InputError, SourceReadError, UnreadableError
from memcarve.formats.images.decoded_pages import DecodedPages
from memcarve.formats.images.machine import CutOff, MachineMemory, column
from memcarve.formats.images.signatures import MIGRATION as MAGIC
from memcarve.intervals import Intervals, joined, smallest_owner

if TYPE_CHECKING:
    from memcarve.backing import FileBacking
    from memcarve.dtypes import U64

_VERSION = 3
_END, _START, _PART, _LAST, _FULL, _SUBSECTION, _DESCRIPTION, _CONFIGURATION, _COMMAND = range(9)
_FOOTER = 0x7E
_FILL, _BLOCKS, _PAGE, _STOP, _SAME = 0x02, 0x04, 0x08, 0x10, 0x20
#: what memcarve does not read of records, by flag
_OTHERS = {
    0x01: "of a form that only old QEMUs wrote",
    0x40: "changes to pages (xbzrle)",
    0x80: "sent by RDMA",
    0x100: "compressed (the capability compress)",
}
_FLUSH = 0x200  # of multifd, whose pages go through other channels
_PAGE_BITS = 12
_POSSIBLE_PAGE_BITS = range(10, 17)
_RAM = b"\x03ram" + struct.pack(">II", 0, 4)  # of a section's header: name, instance and version
_EARLY = 1 << 20  # bytes within which the section of RAM begins: few devices come before it
_WINDOW = 4 << 20
_MOST_RUNS = 1 << 23
_MOST_BLOCKS = 1 << 12
_MOST_SECTIONS = 1 << 20  # QEMU sends pages for 50 ms in each
_MOST_BYTES = 1 << 52  # of RAM: a physical address has no more bits
_LONG = 256  # pages: so many zeros in a row are not looked through
_FILLED = 1 << 63  # in the place of a run: the lowest byte fills its pages
_MAPPED = struct.Struct(">IQQQ")  # version, page size, where bitmap and pages lie
_GIB = 1 << 30
#: the main memory by name; several nodes follow each other in the order of their numbers
_MAIN = re.compile(rb"(?:/objects/)?(?:pc\.ram|mach-virt\.ram|ram|mem|ram-node(\d{1,4})|node(\d{1,4})|mem(\d{1,4}))")
_REMEDY = (
    "load it with -incoming and -S into the same machine, and dump-guest-memory in the monitor makes an ELF core of it"
)


class _Block(NamedTuple):
    """A block of RAM: its name and length, and where it begins in all blocks, one behind the other."""

    name: bytes
    size: int
    base: int


def read(file: FileBacking, begin: int = 0) -> MachineMemory | None:
    """Return the machine's memory, None if no migration stream begins at an offset of the file.

    Reads the stream once. Raises InputError if it is of another version or machine, or its pages are in a form that
    memcarve does not read, or more scattered than any machine's; and SourceReadError. Close the backing, which closes
    `file`.
    """
    if file.read_there(begin, 4) != MAGIC:
        return None
    stream = _Stream(file, begin)
    stream.run()
    places = stream.places()
    start, size, offset = _moved(stream.stored, places)
    cut, lacking = CutOff(), Intervals(*_moved(stream.absent, places)[:2])
    if not stream.ended:
        cut.add(lacking.start, lacking.size)
    unsent = stream.ended and len(lacking) > 0
    return MachineMemory(
        f"QEMU migration stream ({stream.machine})" if stream.machine else "QEMU migration stream",
        _Pages(file, stream),
        start,
        size,
        offset,
        cut.listed(),
        declared=stream.ended,
        notes=(*stream.notes, *cut.notes()),
        zeros=Intervals(*_moved(stream.zeros, places)[:2]),
        gaps="QEMU does not send pages that the machine said to be free" if unsent else None,
        left_out=lacking if unsent else None,
        architecture="arm64" if stream.machine.startswith("virt-") else None,
    )


def _moved(rows: Intervals, places: list[tuple[int, int, int]]) -> tuple[U64, U64, U64]:
    """Return what of sorted ranges lies in the machine: physical start, size, and start as it was (uint64)."""
    begins = Intervals.of((begin, length) for begin, length, _ in places)
    found, _ = begins.intersect(rows)
    physical = column([physical for _, _, physical in places])
    shift = physical[found.owner] - begins.start[found.owner]  # modulo 2**64
    return found.start + shift, found.size, found.start


class _Stream:
    """What a stream says: its machine, its blocks of RAM, and where each of their pages lies.

    Addresses are those in all blocks, one behind the other. Runs of pages, uint64, sorted: `start`, `size` in bytes,
    and `place` of the first page's bytes in the file, `step` bytes before the next one's; or what fills them.
    """

    def __init__(self, file: FileBacking, begin: int) -> None:
        self._file = file
        self._at = begin + 8
        self.machine = ""
        self.capabilities: list[str] = []
        self.page = 1 << _PAGE_BITS
        self.blocks: list[_Block] = []
        self.ended = False
        self.notes: list[str] = []
        self._ram: int | None = None  # the number of its section
        self._block: _Block | None = None
        self._buffer = bytearray(min(_WINDOW, max(file.size, 1)))
        self._mapped = False
        self._runs = array("Q"), array("Q"), array("Q")  # first address, pages, place
        self.step = 0
        self.start, self.size, self.place = column([]), column([]), column([])
        self.stored = self.zeros = self.absent = Intervals.of([])

    def run(self) -> None:
        """Read the stream."""
        version = self._number(self._at - 4, 4)
        if version != _VERSION:
            raise self._refusal(f"is a migration stream of version {version}; expected version {_VERSION}")
        self._configuration()
        sections = 0
        while not self.ended:
            before, sections = self._at, sections + 1
            if sections > _MOST_SECTIONS:
                raise self._refusal(f"is a migration stream of more than {_MOST_SECTIONS} sections; it is damaged")
            if not self._section():
                break
            assert self._at > before  # noqa: S101 - else there would be no end
        if not self.blocks:
            raise self._refusal("is a migration stream without RAM")
        if not self.ended:
            self.notes.append(
                f"QEMU: the stream ends at 0x{min(self._at, self._file.size):x}, before all RAM was sent: pages may be "
                "missing, or have changed since they were sent"
            )
        self._arrange()

    def _refusal(self, problem: str) -> InputError:
        return InputError(problem, subject=self._file.path, remedy=_REMEDY)

    def _bytes(self, size: int) -> bytes:
        """Return the next bytes and pass over them, fewer if the file ends."""
        data = self._file.read_there(self._at, size)
        self._at += size
        return data

    def _number(self, at: int, size: int) -> int:
        return int.from_bytes(self._file.read_there(at, size), "big")

    def _text(self, width: int) -> bytes:
        """Return a text behind its length, which has `width` bytes."""
        return self._bytes(int.from_bytes(self._bytes(width), "big"))

    def _configuration(self) -> None:
        """Read what says which machine it is."""
        if self._number(self._at, 1) != _CONFIGURATION:
            return
        self._at += 1
        length = int.from_bytes(self._bytes(4), "big")
        if length > 256:  # noqa: PLR2004 - a machine's name
            raise self._refusal("is a migration stream whose machine has no name that makes sense; it is damaged")
        self.machine = self._bytes(length).decode("latin-1")
        while self._number(self._at, 1) == _SUBSECTION:
            self._at += 1
            name = self._text(1)
            self._at += 4  # its version
            if name == b"configuration/target-page-bits":
                bits = int.from_bytes(self._bytes(4), "big")
                if bits not in _POSSIBLE_PAGE_BITS:
                    raise self._refusal(f"is a migration stream of pages of 2**{bits} bytes")
                self.page = 1 << bits
            elif name == b"configuration/capabilities":
                count = min(int.from_bytes(self._bytes(4), "big"), 64)
                self.capabilities = [self._text(1).decode("latin-1") for _ in range(count)]
            elif name == b"configuration/uuid":
                self._at += 16
            else:
                return
        if "x-ignore-shared" in self.capabilities:
            raise self._refusal("is a migration stream without the memory that it shares with others (x-ignore-shared)")

    def _section(self) -> bool:
        """Read a section; return False if nothing behind it can be read."""
        kind = self._bytes(1)
        if not kind:
            return False
        number = kind[0]
        if number == _COMMAND:
            self._at += 2
            self._text(2)
        elif number in {_START, _FULL} and self._ram is None:
            section = int.from_bytes(self._bytes(4), "big")
            at = self._file.read_there(self._at, len(_RAM)) == _RAM
            if not at:  # a device that is early: what it has is not known
                head = self._file.read_there(self._at, _EARLY)
                found = head.find(_RAM)
                if found < 5 or head[found - 5] != _START:  # noqa: PLR2004 - kind and number stand before it
                    return False
                self._at += found - 4
                section = int.from_bytes(self._bytes(4), "big")
            self._ram = section
            self._at += len(_RAM)
            return self._records(last=False)
        elif number in {_PART, _LAST} and int.from_bytes(self._bytes(4), "big") == self._ram:
            return self._records(last=number == _LAST)
        else:
            return False
        return True

    def _records(self, *, last: bool) -> bool:
        """Read the records of a section of RAM and what ends it; return False if the file ends before."""
        if not self._all_records():
            return False
        if self._number(self._at, 1) == _FOOTER:
            self._at += 5
        self.ended = last
        return True

    def _all_records(self) -> bool:
        mask = self.page - 1
        while True:
            window = self._window()
            at = 0
            while at + 8 <= len(window):
                word = int.from_bytes(window[at : at + 8], "big")
                flags, address = word & mask, word & ~mask
                if flags == _PAGE | _SAME or flags == _FILL | _SAME:
                    step = self._run(window, at, flags)
                    if not step:
                        break
                    at += step
                    continue
                self._at += at
                going = self._record(flags, address)
                if going is not None:
                    return going
                window, at = window[:0], 0
                break
            else:
                if len(window) < _WINDOW:  # the file ends
                    self._at += at
                    return False
            if at == 0 and window:  # not even one whole record is left
                self._at = self._file.size
                return False
            self._at += at

    def _window(self) -> memoryview:
        """Return what follows, as much of it as is looked at together; valid until the next call."""
        window = memoryview(self._buffer)[: max(min(_WINDOW, self._file.size - self._at), 0)]
        try:
            self._file.read_into(self._at, window)
        except UnreadableError as error:
            return window[: error.offset - self._at]
        return window

    def _run(self, window: memoryview, at: int, flags: int) -> int:
        """Add the records at a place that are whole, alike, and of the same block; return how many bytes they have."""
        step = 8 + (self.page if flags & _PAGE else 1)
        most = (len(window) - at) // step
        if most <= 0:
            return 0
        mask, tried = np.uint64(self.page - 1), 16
        while True:  # runs are short or long: no more is looked at than is needed
            words = np.ndarray((min(tried, most),), ">u8", window, at, (step,)).astype(np.uint64)
            others = words & mask != np.uint64(flags)
            if others.any():
                words = words[: int(np.argmax(others))]
                break
            if tried >= most:
                break
            tried *= 16
        address = words & ~np.uint64(self.page - 1)
        place = np.uint64(self._at + at + 8) + np.arange(len(words), dtype=np.uint64) * np.uint64(step)
        if flags & _FILL:
            fill = np.ndarray((len(words),), np.uint8, window, at + 8, (step,))
            place = np.uint64(_FILLED) + fill.astype(np.uint64)
        self._add(address, place, filled=bool(flags & _FILL))
        return step * len(words)

    def _add(self, address: U64, place: U64, *, filled: bool) -> None:
        """Add pages of the block in the order they come, as runs."""
        block = self._block
        if block is None or int(address.max()) + self.page > block.size:
            raise self._refusal("is a migration stream with a page that lies in no block of RAM; it is damaged")
        new = np.diff(address) != np.uint64(self.page)
        if filled:
            new |= np.diff(place) != 0
        begins = np.append(0, np.flatnonzero(new) + 1)
        counts = np.diff(np.append(begins, len(address)))
        starts, pages, places = self._runs
        first, first_place = int(address[0]) + block.base, int(place[0])
        if len(starts) and counts[0] and starts[-1] + pages[-1] * self.page == first:  # it goes on
            step = 0 if filled else 8 + self.page
            if (places[-1] >= _FILLED) == filled and places[-1] + pages[-1] * step == first_place:
                pages[-1] += int(counts[0])
                begins, counts = begins[1:], counts[1:]
        starts.frombytes((address[begins] + np.uint64(block.base)).tobytes())
        pages.frombytes(counts.astype(np.uint64).tobytes())
        places.frombytes(place[begins].tobytes())
        if len(starts) > _MOST_RUNS:
            raise self._refusal(f"is a migration stream in more than {_MOST_RUNS} pieces")

    def _record(self, flags: int, address: int) -> bool | None:
        """Read one record; return whether the section ended as it should, None if it goes on."""
        self._at += 8
        if flags & _STOP:
            return True
        if flags & _BLOCKS:
            return None if self._list(address) else False
        if flags == _FLUSH:
            if not self._mapped:
                raise self._refusal("is a migration stream whose pages went through other channels (multifd)")
            return None
        if words := next((words for flag, words in _OTHERS.items() if flags & flag), None):
            raise self._refusal(f"is a migration stream with pages that are {words}")
        if flags not in {_PAGE, _FILL}:
            self.notes.append(f"QEMU: what lies at 0x{self._at - 8:x} of the stream makes no sense, and ends it")
            return False
        name = self._text(1)
        self._block = next((block for block in self.blocks if block.name == name), None)
        size = self.page if flags & _PAGE else 1
        data = self._file.read_there(self._at, 1) if flags & _FILL else b""
        if self._at + size > self._file.size:
            return False
        place = self._at if flags & _PAGE else _FILLED | data[0]
        self._add(np.array([address], np.uint64), np.array([place], np.uint64), filled=bool(flags & _FILL))
        self._at += size
        return None

    def _list(self, total: int) -> bool:
        """Read the list of blocks, which have `total` bytes; return False if the file ends before."""
        self._mapped = "mapped-ram" in self.capabilities
        base = 0
        while total > 0:
            name = self._text(1)
            length = int.from_bytes(self._bytes(8), "big")
            if self._at > self._file.size:
                return False
            if not 0 < length <= min(total, _MOST_BYTES) or len(self.blocks) >= _MOST_BLOCKS or length % self.page:
                raise self._refusal("is a migration stream whose list of blocks makes no sense; it is damaged")
            block = _Block(name, length, base)
            self.blocks.append(block)
            if self._mapped and not self._map(block):
                return False
            base, total = base + length, total - length
        return True

    def _map(self, block: _Block) -> bool:
        """Read where the pages of a block lie that have a place of their own (mapped-ram)."""
        data = self._bytes(_MAPPED.size)
        if len(data) < _MAPPED.size:
            return False
        version, page, bitmap, pages = _MAPPED.unpack(data)
        count = block.size // self.page
        if version != 1 or page != self.page or bitmap != self._at or pages < bitmap + count // 8:
            raise self._refusal("is a migration stream with mapped RAM whose header makes no sense")
        self._block = block
        for low in range(0, count, 1 << 22):
            most = min(1 << 22, count - low)
            bits = self._file.read_there(bitmap + low // 8, -(-most // 8))
            there = np.unpackbits(np.frombuffer(bits, np.uint8), bitorder="little")[:most].view(np.bool_)
            edges = np.flatnonzero(np.diff(there.view(np.int8), prepend=2)).astype(np.uint64)
            for begin, end in zip(edges.tolist(), [*edges[1:].tolist(), len(there)], strict=True):
                start = (low + begin) * self.page
                place = pages + start if there[begin] else _FILLED
                if there[begin] and place + (end - begin) * self.page > self._file.size:
                    end = begin + max(self._file.size - place, 0) // self.page  # noqa: PLW2901 - it is cut off
                if end > begin:
                    for values, value in zip(self._runs, (block.base + start, end - begin, place), strict=True):
                        values.append(value)
            if len(self._runs[0]) > _MOST_RUNS:
                raise self._refusal(f"is a migration stream in more than {_MOST_RUNS} pieces")
        self._at = pages + block.size
        return True

    def _arrange(self) -> None:
        """Sort the runs; of pages that were sent several times, the last counts."""
        start, pages, place = (column(values) for values in self._runs)
        self._runs, self._buffer = (array("Q"), array("Q"), array("Q")), bytearray()
        self.step = self.page if self._mapped else self.page + 8
        page = np.uint64(self.page)
        last = np.arange(len(start))[::-1].copy()
        once = smallest_owner(start, pages * page, last)
        owner = once.owner
        skipped = (once.start - start[owner]) // page
        filled = place[owner] >= np.uint64(_FILLED)
        self.start, self.size = once.start, once.size
        self.place = place[owner] + np.where(filled, np.uint64(0), skipped * np.uint64(self.step))
        zero = (self.place == np.uint64(_FILLED)) & (self.size >= page * np.uint64(_LONG))
        keep = joined(self.start[~zero], self.size[~zero], self.start[~zero])
        self.stored, self.zeros = Intervals(keep[0], keep[1]), Intervals(self.start[zero], self.size[zero])
        self.absent = Intervals.of((block.base, block.size) for block in self.blocks).subtract(once)

    def places(self) -> list[tuple[int, int, int]]:
        """Return where blocks lie: rows of their address here, length, and physical address."""
        main = [(block, found) for block in self.blocks if (found := _MAIN.fullmatch(block.name))]
        main.sort(key=lambda each: int(next(filter(None, each[1].groups()), b"0")))
        total = sum(block.size for block, _ in main)
        low, high = self._layout(total)
        rows, reached = [], 0
        for block, _ in main:
            below = max(min(block.size, low - reached), 0)
            if below:
                rows.append((block.base, below, reached))
            if below < block.size:
                rows.append((block.base + below, block.size - below, high + max(reached - low, 0)))
            reached += block.size
        others = [block for block in self.blocks if block.name.startswith((b"dimm", b"/objects/dimm"))]
        if others:
            self.notes.append(
                "QEMU: memory that was plugged in is in the stream, but not where it lies; it is not used: "
                + ", ".join(block.name.decode("latin-1", "replace") for block in others[:4])
            )
        return rows

    def _layout(self, total: int) -> tuple[int, int]:
        """Return how much of the RAM lies low, and where the rest begins (where all begins, if none lies low)."""
        name = self.machine
        if name.startswith("pc-q35"):
            return (total, 4 * _GIB) if total < 0xB0000000 else (2 * _GIB, 4 * _GIB)  # noqa: PLR2004
        if name.startswith("pc-i440fx"):
            old = re.match(r"pc-i440fx-1\.\d", name) is not None  # before 2.0
            most = 0xE0000000
            return (total, 4 * _GIB) if total < most else (most if old else 3 * _GIB, 4 * _GIB)
        if name.startswith("virt-"):
            return 0, _GIB
        if total and total <= 2 * _GIB and any(block.name == b"pc.ram" for block in self.blocks):
            return total, 4 * _GIB
        said = f"the machine {name!r}" if name else "a machine that it does not name"
        raise self._refusal(f"is a migration stream of {said}; where its RAM lies is not known")


class _Pages(DecodedPages):
    """All blocks of RAM, one behind the other; reading what was not sent raises."""

    def __init__(self, file: FileBacking, stream: _Stream) -> None:
        blocks = stream.blocks
        super().__init__(file, (blocks[-1].base + blocks[-1].size) // stream.page if blocks else 0, stream.page)
        self._runs = Intervals(stream.start, stream.size)
        self._place, self._step = stream.place, stream.step

    def decode(self, first: int, target: memoryview) -> None:
        """Fill `target` with pages. Raises SourceReadError if one was not sent."""
        begin, end = first * self.page, first * self.page + len(target)
        row = self._runs.at(begin)
        done = begin
        while row is not None and done < end and row < len(self._runs) and int(self._runs.start[row]) <= done:
            start, size, place = (int(values[row]) for values in (self._runs.start, self._runs.size, self._place))
            count = min(start + size, end) - done
            into = target[done - begin : done - begin + count]
            if place >= _FILLED:
                into[:] = bytes([place & 0xFF]) * count
            else:
                pages = count // self.page
                buffer = bytearray((pages - 1) * self._step + self.page)
                self.file.read_into(place + (done - start) // self.page * self._step, memoryview(buffer))
                found = np.ndarray((pages, self.page), np.uint8, buffer, 0, (self._step, 1))
                np.frombuffer(into, np.uint8).reshape(pages, self.page)[:] = found
            done += count
            row += 1
        if done < end:
            raise SourceReadError(f"the page at 0x{done:x} of its RAM was not sent", subject=self.path)
