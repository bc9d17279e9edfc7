"""What find searches for: patterns of the command line and of files, integers, and pointers for each process."""

from __future__ import annotations

import contextlib
import sys
from typing import IO, TYPE_CHECKING, NamedTuple

from memcarve.backing import open_regular
from memcarve.cli.wording import option
from memcarve.errors import SourceReadError, UsageError
from memcarve.patterns import MOST, Pointers, expression, hex_pattern, integer, text_pattern
from memcarve.vocabulary import NARROW

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from memcarve.cli.option_groups import Sought
    from memcarve.hunting.chosen_processes import Part
    from memcarve.process import ProcessEntry, ProcessMemory
    from memcarve.searching.engines import Pattern

_LONGEST = 1 << 16  # bytes of a line of a file of patterns
_BOM = b"\xef\xbb\xbf"


class Wanted(NamedTuple):
    """A pattern as it was written, what it is (an encoding, ``hex``, ``u32-le``, ``pointer64``), and itself."""

    text: str
    what: str
    pattern: Pattern


def patterns(given: Sequence[str], sought: Sought) -> list[Wanted]:
    """Return what is searched for in every process; what is the same bytes in two ways once."""
    if sought.as_hex and sought.regex:
        raise UsageError("--hex and --regex say two things of the patterns", remedy="give one of them")
    refuse_alone(
        ("--max-match", sought.max_match is not None, "--regex", sought.regex),
        ("--unaligned", sought.unaligned, "--pointer", bool(sought.pointers)),
        ("--width", sought.width is not None, "--integer", bool(sought.integers)),
        ("--byte-order", sought.byte_order is not None, "--integer", bool(sought.integers)),
        ("--max-owners", sought.max_owners is not None, "--physical", sought.physical),
    )
    if not (given or sought.pattern_files or sought.pointers or sought.integers):
        raise UsageError(
            "PATTERN... is missing", remedy="or give --patterns, --pointer or --integer; see memcarve find --help"
        )
    found: dict[object, Wanted] = {}
    for text in (*given, *_of_files(sought.pattern_files)):
        if not text:
            raise UsageError("a pattern to search for is empty")
        for key, wanted in _of_text(text, sought):
            found.setdefault(key, wanted)
    orders = ("little", "big") if sought.byte_order == "both" else (sought.byte_order,)
    for text in sought.integers:
        for order in orders:
            number = integer(text, int(sought.width or 4), big=order == "big")
            found.setdefault(number.data, Wanted(text, number.kind, number))
    return [*found.values()]


def refuse_alone(*options: tuple[str, bool, str, bool]) -> None:
    """Raise UsageError for an option that is given without the one that it says more of: names, and whether given."""
    for name, is_given, other, is_other_given in options:
        if is_given and not is_other_given:
            raise UsageError(f"{name} means nothing without {other}", remedy=f"give both, or leave {name} out")


def _of_text(text: str, sought: Sought) -> Iterator[tuple[object, Wanted]]:
    """Yield what a pattern stands for, each with what makes it the same as another."""
    if sought.as_hex:
        as_hex = hex_pattern(text)
        yield as_hex[1:], Wanted(text, "hex", as_hex)
    elif sought.regex:
        longest = MOST if sought.max_match is None else sought.max_match
        compiled = expression(text, ignore_case=sought.ignore_case, max_match=longest)
        yield text, Wanted(text, "regex", compiled)
    else:
        for encoding in sought.encodings:
            pattern = text_pattern(text, encoding, ignore_case=sought.ignore_case)
            mask = pattern.mask
            data = pattern.data if mask is None else bytes(a & b for a, b in zip(pattern.data, mask, strict=True))
            yield (data, mask), Wanted(text, pattern.encoding, pattern)


def _of_files(names: Sequence[str]) -> Iterator[str]:
    """Yield the lines of files that are not empty."""
    if [*names].count("-") > 1:
        raise UsageError("standard input can be read once", remedy="give - once")
    for name in names:
        shown = "standard input" if name == "-" else name
        with contextlib.ExitStack() as stack:
            file: IO[bytes] = sys.stdin.buffer
            if name != "-":
                file = stack.enter_context(open_regular(name, follow=True))
            try:
                yield from _lines(file, shown)
            except OSError as error:
                raise SourceReadError(error.strerror or str(error), subject=shown) from error


def _lines(file: IO[bytes], shown: str) -> Iterator[str]:
    number = 0
    while line := file.readline(_LONGEST + 2):
        number += 1
        text = (line.removeprefix(_BOM) if number == 1 else line).rstrip(b"\r\n")
        if len(text) > _LONGEST:
            raise UsageError(f"line {number} has more than {_LONGEST} bytes", subject=shown)
        try:
            found = text.decode("utf-8")
        except UnicodeDecodeError:
            raise UsageError(
                f"line {number} is not UTF-8",
                subject=shown,
                remedy="convert the file, or write bytes with --hex",
            ) from None
        if found:
            yield found


class PointedTo:
    """Pointers to what the options say, for each process: where its modules lie, and how wide its pointers are.

    `wanted` are the patterns for all processes together; `counts` says whether a hit is one in the process it is in.
    """

    def __init__(self, parts: Sequence[Part], sought: Sought) -> None:
        """Look for the addresses in all processes.

        Raises UsageError if a module is in none of them; in those that lack one, nothing points to it.
        """
        self.wanted: list[Wanted] = []
        #: of each target that some processes lack, how many they are and why each does
        self.unknown: list[tuple[str, list[tuple[ProcessEntry, str]]]] = []
        #: by part and place in `wanted`: the ranges there
        self._ranges: list[dict[int, tuple[int, int]]] = [{} for _ in parts]
        #: whether the ranges are the same in all processes
        self.same = True
        for target in sought.pointers:
            bounds: list[tuple[int, int] | None] = []
            failed: list[tuple[Part, UsageError]] = []
            for part in parts:
                try:
                    bounds.append(part.opened.bounds_of(target))
                except UsageError as error:
                    failed.append((part, error))
                    bounds.append(None)
            there = {each for each in bounds if each is not None}
            if not there and failed:  # one that has modules says which
                raise max(failed, key=lambda each: any(rows.rows for rows in each[0].opened.metadata.modules))[1]
            if failed:
                self.unknown.append((str(target), [(part.entry, error.worded(option)) for part, error in failed]))
            for width in sorted({width for part in parts for width in _widths(part.opened)}):
                for number, (part, own) in enumerate(zip(parts, bounds, strict=True)):
                    if own is not None and width in _widths(part.opened):
                        self._ranges[number][len(self.wanted)] = own
                    else:
                        self.same = False
                self.same &= len(there) <= 1
                pattern = Pointers(str(target), sorted(there), width, sought.unaligned)
                self.wanted.append(Wanted(str(target), f"pointer{8 * width}", pattern))

    def counts(self, part: int, number: int, process: ProcessMemory, address: int, size: int) -> bool:
        """Return True if what is at an address is a pointer into the range that the process has."""
        bounds = self._ranges[part].get(number)
        if self.same or bounds is None:
            return bounds is not None
        return bounds[0] <= int.from_bytes(process.space.read(address, size), "little") < bounds[1]


def _widths(process: ProcessMemory) -> list[int]:
    """Return how wide pointers are in a process: a 32-bit one on a 64-bit Windows has both."""
    if process.architecture in NARROW:
        return [4]
    return [4, 8] if process.entry.wow64 else [8]
