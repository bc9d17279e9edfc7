"""Page files and swap files that were given beside an image: which place of which of them is where in the backing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from memcarve.errors import InputError, SourceReadError
from memcarve.intervals import PAGE, distinct, spread

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from memcarve.backing import Backing, FileBacking, Span
    from memcarve.dtypes import I64, U8, U64, Bools
    from memcarve.images.page_decoding import DecodedPages

MOST = 16  # page files that Windows can have; Linux has up to 29 areas


_SAMPLE = 64  # pages of a file that are looked at
_FEWEST = 8  # pages that say whether a file is of the moment of memory
_NOISE = 7.9  # bits a byte of a page has if nothing but chance is in it: 7.95 on average; what is compressed has fewer


class PageFile(NamedTuple):
    """A file that holds pages: the `number` by which entries call it; its bytes lie from `begin` on in the backing.

    `said`: the user gave the number. `trusted`: it is read even if it seems wrong. `path` is what the machine itself
    called it, None if that is not known.
    `alike`: how many pages that should be the same in memory are, and how many were compared. `doubt` is what speaks
    against it, in words: it is read all the same.
    """

    number: int
    file: FileBacking
    begin: int
    said: bool = True
    trusted: bool = False
    path: str | None = None
    alike: tuple[int, int] = (0, 0)
    doubt: str = ""

    def doubted(self, problem: str) -> PageFile:
        """Return it with what speaks against it; raises InputError if it is not trusted.

        What speaks against a file may be wrong, too: whoever knows better must have a way.
        """
        if self.trusted:
            return self._replace(doubt="; ".join(dict.fromkeys(filter(None, (self.doubt, problem)))))
        raise InputError(
            problem,
            subject=self.file.path,
            remedy="give the one of the moment when memory was acquired, whole and decrypted, or leave it out; "
            "{trust:pagefile} goes ahead all the same",
        )


class DecodedArea:
    """Pages that a `source`, which is found later, decodes when they are read; they begin at `begin` of a backing."""

    def __init__(self, path: str, size: int) -> None:
        self.path = path
        self.size = size
        self.begin = 0
        self.source: DecodedPages | None = None

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` with the bytes at `offset`, or raise SourceReadError."""
        if self.source is None or offset + len(buffer) > self.size:
            raise SourceReadError(f"nothing is decoded at offset 0x{offset:x}", subject=self.path)
        self.source.read_into(offset, buffer)

    def read_pieces(self, pieces: Iterable[tuple[int, int]], buffer: memoryview) -> None:
        """Fill `buffer` with pieces (offset, length), one behind the other, or raise SourceReadError."""
        pieces = list(pieces)
        if self.source is None or any(offset + length > self.size for offset, length in pieces):
            raise SourceReadError("nothing is decoded there", subject=self.path)
        self.source.read_pieces(pieces, buffer)

    def spans(self, offset: int, size: int) -> list[Span] | None:  # noqa: ARG002 - they lie in no file
        """Return None."""
        return None

    def close(self) -> None:
        """Do nothing: what is decoded lies elsewhere."""


class PageFiles:
    """The image and what lies behind it in a `backing`: the files that were given, each under its number.

    `zeros` is where in the backing zeros lie, None: nowhere; `area` is where compressed pages do, None: nowhere.
    """

    def __init__(
        self,
        backing: Backing,
        files: tuple[PageFile, ...] = (),
        zeros: int | None = None,
        area: DecodedArea | None = None,
    ) -> None:
        self.backing = backing
        self.path = backing.path
        self.files = files
        self.zeros = zeros
        self.area = area
        #: whether numbers are settled: no system is asked for them any more
        self.settled = False
        #: why nothing in memory tells whether files are of its moment, in words
        self.uncompared = ""
        #: what the system found out about the files, in words
        self.remarks: list[str] = []
        #: what is wrong with files whose content was looked at, in words: of those that are right, nothing
        self._checked: dict[int, str] = {}

    @property
    def described(self) -> list[dict[str, Any]]:
        """What identifies the files, ready for JSON: as they were when they were opened."""
        return [
            {
                **each.file.described,
                "number": each.number,
                "begin": each.begin,
                **({"doubt": each.doubt} if each.doubt else {}),
                **each.file.hashed,
            }
            for each in self.files
        ]

    @property
    def doubted(self) -> bool:
        """Whether something speaks against one of the files, which is read all the same."""
        return any(each.doubt for each in self.files)

    @property
    def notes(self) -> list[str]:
        """A sentence for each file whose number is settled.

        The words are the same however the number came to be: verify gives it, and compares notes.
        """
        told = [each for each in self.files if each.said or self.settled]
        return [f"{each.file.path}: {_told(each, self.uncompared)}" for each in told] + self.remarks

    def unread(self, offset: U64) -> list[str]:
        """Return a sentence for each file that holds none of what lies at offsets (uint64), if entries name another.

        None if something was decompressed: it may come from a file without lying there.
        """
        end = 1 << 64 if self.zeros is None else self.zeros
        if self.area is not None and (offset - np.uint64(self.area.begin) < np.uint64(end - self.area.begin)).any():
            return []
        ends = [(each, each.begin + each.file.size) for each in self.files]
        return [
            f"{each.file.path}: no page was read from it: entries name another number than {each.number}"
            for each, end in ends
            if not ((offset >= np.uint64(each.begin)) & (offset < np.uint64(end))).any()
        ]

    def check(self, numbers: U8, pages: U64) -> None:
        """Look at some of the pages that entries lead to, once of each file: the kernel put content there.

        Raises InputError if all of them are zeros, or noise: the file was cleared, or is encrypted.
        """
        for each in self.files:
            mine = distinct(pages[(numbers == np.uint8(each.number)) & (pages < np.uint64(each.file.size // PAGE))])
            if each.number not in self._checked and len(mine) >= _SAMPLE:
                chosen = mine[spread(len(mine), _SAMPLE)].tolist()
                self._checked[each.number] = problem = _problem(each.file, chosen)
                if problem and each.trusted:
                    self.files = tuple(one.doubted(problem) if one is each else one for one in self.files)
            problem = self._checked.get(each.number, "")
            if problem and len(mine) and not each.trusted:
                each.doubted(problem)  # whichever process needs it, not only the first

    def compare(self, readings: Sequence[tuple[U8, U64]], contents: Callable[[I64], U64]) -> None:
        """Compare some pages with what memory has of them, if there are enough of a file, and note how many are alike.

        `readings` are numbers of files and pages in them, which may be told in several ways: what agrees best counts.
        `contents` returns the words of pages in memory by their places among these (shape (n, 512)). Raises InputError
        if most of them differ: the file was cleared, is encrypted or of another moment.
        """
        compared = []
        for each in self.files:
            best, looked_at = (0, 0), list[int]()
            for numbers, pages in readings:
                mine = np.flatnonzero((numbers == np.uint8(each.number)) & (pages < np.uint64(each.file.size // PAGE)))
                chosen = mine[spread(len(mine), 4 * _SAMPLE)]
                if len(chosen) < _FEWEST:
                    continue
                there = contents(chosen)
                telling = np.flatnonzero((there != there[:, :1]).any(axis=1))[:_SAMPLE]  # zeros are the same anywhere
                chosen, there = chosen[telling], there[telling]
                if len(chosen) < _FEWEST:
                    continue
                looked_at = pages[chosen].tolist()
                same = sum(
                    each.file.read_at(page * PAGE, PAGE) == there[row].tobytes() for row, page in enumerate(looked_at)
                )
                best = max(best, (same, len(chosen)))
            told = each._replace(alike=best)
            if best[0] < best[1] / 2:
                other = "" if each.path else ", or page file of another number"
                told = told.doubted(
                    _problem(each.file, looked_at)
                    or f"of {best[1]} pages that should be the same in memory, only {best[0]} are: it is of another "
                    f"moment, or another machine's{other}"
                )
            compared.append(told)
        self.files = tuple(compared)

    def place(self, numbers: U8, pages: U64) -> tuple[U64, Bools, Bools]:
        """Return where in the backing pages of files lie (uint64); and which files were given, and hold them (bool)."""
        offset = np.zeros(len(numbers), np.uint64)
        given, held = np.zeros(len(numbers), np.bool_), np.zeros(len(numbers), np.bool_)
        for each in self.files:
            mine = numbers == np.uint8(each.number)
            given |= mine
            inside = mine & (pages < np.uint64(each.file.size // PAGE))
            held |= inside
            offset[inside] = np.uint64(each.begin) + pages[inside] * np.uint64(PAGE)
        return offset, given, held


def _told(each: PageFile, uncompared: str) -> str:
    """Return as which file one is read, and what is known of its moment, or why that is not, in words."""
    read = f"is read as page file {each.number}{'' if each.path is None else f' ({each.path})'}"
    if each.doubt:
        return f"{read} because it is trusted, but {each.doubt}; what is read from it may be wrong"
    if not each.alike[1]:
        nor = f", nor does memory: {uncompared}" if uncompared else ""
        return f"{read}; nothing in it tells whether it is of the image's moment{nor}"
    return f"{read}; of {each.alike[1]} pages of it that should be the same in memory, {each.alike[0]} are"


def _problem(file: FileBacking, pages: list[int]) -> str:
    """Return what is wrong with a file of which so many pages should have content, in words; empty if nothing is."""
    told = [_entropy(file.read_at(page * PAGE, PAGE)) for page in pages]
    if not any(told):
        return "is zeros wherever entries lead: it was cleared, or is another machine's"
    return "is noise wherever entries lead: it is encrypted, or not a page file" if min(told) >= _NOISE else ""


def _entropy(page: bytes) -> float:
    """Return how many bits a byte of a page tells, 0 if all are the same."""
    counts = np.bincount(np.frombuffer(page, np.uint8), minlength=256)
    share = counts[counts > 0] / max(len(page), 1)
    return float(-(share * np.log2(share)).sum())
