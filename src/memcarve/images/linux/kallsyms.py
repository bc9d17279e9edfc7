"""The names and addresses of a Linux kernel's symbols, as the kernel keeps them in its memory (kallsyms).

Source: scripts/kallsyms.c (how the tables are written), kernel/kallsyms.c (how they are read).

Names are compressed: each symbol is a count and so many bytes, each of which stands for one of 256 tokens; the first
character is the symbol's type, as nm(1) writes it. The tables lie one behind another in the kernel's read-only data:

    until Linux 6.3   offsets, relative_base, num_syms, names, markers, [seqs_of_names,] token_table, token_index
    since Linux 6.4   num_syms, names, markers, token_table, token_index, offsets, [relative_base,] seqs_of_names

Nothing says where they are. A character that occurs in names is its own token, so that the tokens of the digits stand
together, and the index of the tokens behind them must fit them; each other table is found by the ones beside it.
"""

from __future__ import annotations

import functools
import itertools
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from memcarve.images.linux.landmarks import available

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from memcarve.dtypes import I64, U8, U64
    from memcarve.images.physical import PhysicalMemory

_DIGITS = b"".join(b"%d\0" % digit for digit in range(10))
_TOKENS = 256
_LONGEST_TOKEN = 512
_INDEX = 2 * _TOKENS  # bytes of token_index
_EVERY = 256  # names from one marker to the next
_MOST_NAMES = 1 << 21
_FEWEST_MARKERS = 4
_NAMES_BYTES = 24 << 20  # looked at before the tokens: names have 2 to 4 MB
_STEP = 1 << 22  # read at a time, until the tables are found
_SHORTEST, _LONGEST = 2 * _EVERY, 256 * _EVERY  # bytes of 256 names
_MOST_WALKED = 1 << 23  # names that are walked through until one way fits
_MOST_TABLES = 256  # of what could be tokens that are looked at
_MOST_PARTS = 1 << 9  # of memory that are looked through
_AROUND = 64 << 20  # bytes before and behind a kernel's types in which its symbols are looked for
_UNSIGNED = 0xFFFFFFFF
_LARGE = 0x80  # a count has two bytes, since Linux 6.1


class _Tokens(NamedTuple):
    """The 256 tokens; where their table begins, and where the index behind it ends (physical)."""

    tokens: list[bytes]
    begin: int
    end: int


class _Names(NamedTuple):
    """The names' bytes (uint8), where each one's count stands in them (int64), and where num_syms lies (physical).

    `symbols` is how many there are; `large` says whether counts may have two bytes.
    """

    data: U8
    at: I64
    symbols: int
    large: bool


class Kallsyms:
    """The symbols of one kernel. Names are bytes made text; addresses are virtual, or None if they are not known."""

    def __init__(self, tokens: list[bytes], names: _Names, addresses: U64 | None) -> None:
        self._tokens = tokens
        self._names = names
        #: of each symbol (uint64), in the order of `names`
        self.addresses = addresses

    def __len__(self) -> int:
        """Return how many symbols there are."""
        return len(self._names.at)

    @functools.cached_property
    def _decoded(self) -> list[str]:
        """Each symbol's type, one character, and its name."""
        data, at = self._names.data.astype(np.int16), self._names.at
        data[at] = _TOKENS  # a count ends the name before
        if self._names.large:
            data[at[self._names.data[at] >= _LARGE] + 1] = _TOKENS + 1
        tokens = [*(token.decode("utf-8", "backslashreplace").replace("\n", " ") for token in self._tokens), "\n", ""]
        return "".join(map(tokens.__getitem__, data.tolist())).split("\n")[1:]

    def names(self) -> list[str]:
        """Return all names."""
        return [each[1:] for each in self._decoded]

    def types(self) -> list[str]:
        """Return the type of each symbol: one character, as /proc/kallsyms shows it."""
        return [each[:1] for each in self._decoded]

    @functools.cached_property
    def _numbers(self) -> dict[str, int]:
        found: dict[str, int] = {}
        for number, each in enumerate(self._decoded):
            found.setdefault(each[1:], number)
        return found

    def address(self, name: str) -> int | None:
        """Return the address of a symbol, the first of several of its name; None if it is not there or not known."""
        number = self._numbers.get(name)
        return None if number is None or self.addresses is None else int(self.addresses[number])


def find_kallsyms(
    memory: PhysicalMemory, near: Sequence[int], pointer_size: int, virtual_minus_physical: int | None = None
) -> Kallsyms | None:
    """Find the symbols of a kernel; None if they are not there.

    They are looked for around each of `near`, physical addresses of what may lie in the kernel's image, in this order:
    its BTF, its banner (of which there are copies in its log).

    Since Linux 7 addresses are distances from where these themselves lie: they are known only if it is known how far
    the kernel's image lies above its physical place.
    """
    walker = _Walker()
    for tokens in _token_tables(memory, near):
        names = _find_names(memory, tokens.begin, walker)
        if names is not None:
            addresses = _addresses(memory, tokens, names, pointer_size, virtual_minus_physical)
            return Kallsyms(tokens.tokens, names[0], addresses)
    return None


def _token_tables(memory: PhysicalMemory, near: Sequence[int]) -> Iterator[_Tokens]:
    """Yield the token tables around physical addresses, the nearest parts of memory first."""
    overlap, looked_at = len(_DIGITS) - 1, 0
    parts = (each // _STEP + side * far for each in near for far in range(_AROUND // _STEP + 1) for side in (1, -1))
    for part in dict.fromkeys(itertools.islice(parts, _MOST_PARTS)):
        data = _stretch(memory, part * _STEP, _STEP + overlap) if part >= 0 else b""
        at = data.find(_DIGITS)
        while at >= 0 and looked_at < _MOST_TABLES:
            looked_at += 1
            found = _token_table(memory, part * _STEP + at)
            if found is not None:
                yield found
            at = data.find(_DIGITS, at + 1)


def _stretch(memory: PhysicalMemory, physical: int, size: int) -> bytes:
    """Return the bytes at a physical address; as far as they are there, if not all are."""
    data = memory.read(physical, size)
    return available(memory, physical, size) if data is None else data


def _token_table(memory: PhysicalMemory, digits: int) -> _Tokens | None:
    """Read the token table in which the tokens of the digits lie at a physical address; None if it is none."""
    before_digits = ord("0")
    begin = max(digits - before_digits * _LONGEST_TOKEN // 8, 0)
    data = _stretch(memory, begin, digits - begin + _TOKENS * _LONGEST_TOKEN // 8)
    here, tokens = digits - begin, []
    at = here
    for _ in range(_TOKENS - before_digits):
        end = data.find(b"\0", at, at + _LONGEST_TOKEN)
        if end < 0:
            return None
        tokens.append(data[at:end])
        at = end + 1
    offsets = np.cumsum([0, *(len(token) + 1 for token in tokens[:-1])])
    for place in range(at + (-(begin + at) % 4), at + 16, 4):  # aligned, to 8 bytes mostly
        index = np.frombuffer(data[place : place + _INDEX], "<u2")
        if len(index) < _TOKENS or ((index[before_digits:] - index[before_digits]) != offsets).any():
            continue
        first = here - int(index[before_digits])
        rest = data[max(first, 0) : here].split(b"\0")
        if first < 0 or len(rest) != before_digits + 1 or rest.pop():
            return None
        if [0, *np.cumsum([len(token) + 1 for token in rest])][:-1] != index[:before_digits].tolist():
            return None
        return _Tokens(rest + tokens, begin + first, begin + place + _INDEX)
    return None


def _find_names(memory: PhysicalMemory, end: int, walker: _Walker) -> tuple[_Names, int] | None:
    """Find the names in the memory before the token table, and the physical address of their number."""
    size = min(_NAMES_BYTES, end // 4 * 4)
    data = b""
    while len(data) < size:  # what lies before, as far as it is there
        more = min(_STEP, size - len(data))
        part = memory.read(end - len(data) - more, more)
        if part is None:
            break
        data = part + data
        found = _names_in(data, end - len(data), walker)
        if found is not None:
            return found
    return None


def _names_in(data: bytes, begin: int, walker: _Walker) -> tuple[_Names, int] | None:
    """Find names and their number in bytes that end where the token table begins."""
    shift = -begin % 4
    words = np.frombuffer(data[shift : shift + (len(data) - shift) // 4 * 4], "<u4").astype(np.int64)
    steps = np.diff(words)
    fits = (steps >= _SHORTEST) & (steps < _LONGEST)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], fits.view(np.int8), [0]])))
    starts, ends = edges[::2], edges[1::2]
    # markers: from 0 on, ascending
    rows: list[int] = np.flatnonzero((words[starts] == 0) & (ends - starts >= _FEWEST_MARKERS - 1)).tolist()
    for row in sorted(rows, key=lambda row: int(starts[row] - ends[row]))[:8]:
        markers = words[starts[row] : ends[row] + 1]
        place = shift + 4 * int(starts[row])
        # as many names as this many markers are made for; the number stands one word, or two, before the names
        for size in range(len(markers), max(len(markers) - 2, 0), -1):
            found = _names_before(data, place, markers[:size], begin, walker)
            if found is not None:
                return found
    return None


def _names_before(data: bytes, place: int, markers: I64, begin: int, walker: _Walker) -> tuple[_Names, int] | None:
    last = int(markers[-1])
    low, high = max(place - last - _LONGEST, 0), place - last
    low += -(begin + low) % 4
    numbers = np.frombuffer(data[low : low + max(high - low, 0) // 4 * 4], "<u4")
    likely = np.flatnonzero((numbers > _EVERY * (len(markers) - 1)) & (numbers <= _EVERY * len(markers)))
    for number in likely[::-1][:64].tolist():
        count = int(numbers[number])
        for gap in (4, 8):
            start = low + 4 * number + gap
            for large in (True, False):
                at = walker.walk(data[start:place], count, markers, large=large)
                if at is not None:
                    used = np.frombuffer(data[start : start + at.pop()], np.uint8)
                    names = _Names(used, np.array(at, np.int64), count, large)
                    return names, begin + low + 4 * number
    return None


class _Walker:
    """Walks from name to name, and gives up after `_MOST_WALKED` of them."""

    def __init__(self) -> None:
        self.left = _MOST_WALKED

    def walk(self, data: bytes, count: int, markers: I64, *, large: bool) -> list[int] | None:
        """Return where each of `count` names begins, and where the last one ends; None unless all markers agree."""
        places: list[int] = []
        at, size = 0, len(data)
        for begin, marker in zip(range(0, count, _EVERY), markers.tolist(), strict=True):
            if marker != at or self.left < 0:
                return None
            here = min(_EVERY, count - begin)
            self.left -= here
            for _ in range(here):
                if at + 1 >= size:
                    return None
                places.append(at)
                length = data[at]
                if large and length >= _LARGE:
                    length = (length & 0x7F) + (data[at + 1] << 7) + 1
                at += length + 1
        if at > size or size - at > 8 or any(data[at:]):  # noqa: PLR2004 - behind them, zeros up to a whole word
            return None
        return [*places, at]


def _addresses(
    memory: PhysicalMemory, tokens: _Tokens, names: tuple[_Names, int], pointer_size: int, shift: int | None
) -> U64 | None:
    """Return the addresses of all symbols (uint64); None if there are none that make sense, or `shift` is needed."""
    count, number_at = names[0].symbols, names[1]
    size, top = 4 * count, np.uint64((1 << 8 * pointer_size) - 1)
    behind = [tokens.end + -tokens.end % pointer_size, tokens.end + -tokens.end % 4]
    before = number_at - pointer_size
    places = [(start, start + size + -(start + size) % pointer_size) for start in behind]
    places += [(before - size - gap, before) for gap in (0, 4)]
    for start, base_at in places:
        signed, base = _offsets(memory, start, count), _base(memory, base_at, pointer_size)
        if signed is None or base is None:
            continue
        if _ascends(signed & _UNSIGNED):
            return (np.uint64(base) + (signed & _UNSIGNED).astype(np.uint64)) & top
        absolute = signed >= 0  # CONFIG_KALLSYMS_ABSOLUTE_PERCPU: they stand first, the rest below the base
        if _ascends(np.where(absolute, signed, -1 - signed + (1 << 32))):
            below = (np.uint64(base) - np.uint64(1) - signed.astype(np.uint64)) & top
            return np.where(absolute, signed.astype(np.uint64), below)
    for start in behind:
        signed = _offsets(memory, start, count)
        if signed is not None and _ascends(4 * np.arange(count) + signed) and signed.min() != signed.max():
            own = np.uint64(start) + np.arange(count, dtype=np.uint64) * np.uint64(4)
            return None if shift is None else (own + signed.astype(np.uint64) + np.uint64(shift & int(top))) & top
    return None


def _offsets(memory: PhysicalMemory, start: int, count: int) -> I64 | None:
    """Return `count` signed numbers of 32 bits (int64); None if they are not in the image."""
    data = memory.read(start, 4 * count) if start >= 0 else None
    return None if data is None else np.frombuffer(data, "<i4").astype(np.int64)


def _base(memory: PhysicalMemory, physical: int, pointer_size: int) -> int | None:
    """Return what could be relative_base: an address of the kernel's half."""
    data = memory.read(physical, pointer_size) if physical >= 0 else None
    value = int.from_bytes(data or b"", "little")
    return value if value >> (8 * pointer_size - 2) >= (1 if pointer_size == 4 else 3) else None  # noqa: PLR2004 - bits


def _ascends(values: I64) -> bool:
    """Return True if values are sorted, as the symbols are, and not all one."""
    return bool((np.diff(values) >= 0).all() and values[0] != values[-1])
