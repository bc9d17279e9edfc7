"""Which of the page files that were given is which of the machine's: by name, if Windows' own list of them is known."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from memcarve.errors import UsageError
from memcarve.intervals import PAGE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memcarve.images.page_files import PageFile
    from memcarve.images.windows.resolving.paging_files import PagingFile

_NUMBERED = "give each file its own number with {page_files}, as 1=FILE"
#: a copy of a file may end with the cluster in which it ended, which has 2 MiB at most
_CLUSTER = 2 << 20
_SWAP_NAME = "swapfile.sys"  # Windows says of a page file that it is this one, also if the name is not in memory


def numbered_by_name(files: Sequence[PageFile], known: Sequence[PagingFile]) -> tuple[PageFile, ...]:
    """Return files that were given with the numbers that Windows has them under; `known` are its own.

    A file whose name none of these has keeps the number that was given, or gets the lowest that no other has. Raises
    UsageError if what was given contradicts what is known, InputError if a file cannot be the one because of its size.
    """
    by_number = {each.number: each for each in known}
    unknown = [each for each in known if not each.path and not each.store]
    numbers: dict[int, int] = {}
    for place, file in enumerate(files):
        same = [each for each in known if each.path and each.name == _name(file)]
        if file.said:
            _check_number(file, same, by_number)
            numbers[place] = file.number
        elif same and len(same) + (0 if _name(file) == _SWAP_NAME else len(unknown)) > 1:
            raise UsageError(
                f"several page files of the machine have this name, or may have it: {_list([*same, *unknown])}",
                subject=file.file.path,
                remedy=_NUMBERED,
            )
        elif same:
            numbers[place] = same[0].number
    twice = next((number for number in numbers.values() if [*numbers.values()].count(number) > 1), None)
    if twice is not None:
        raise UsageError(f"page file {twice} is given twice: {_list([by_number[twice]])}", remedy=_NUMBERED)
    free = sorted({each.number for each in known if not each.store} - {*numbers.values()})
    found = []
    for place, file in enumerate(files):
        if place not in numbers:
            if not free:
                raise UsageError(
                    f"there are more page files than the machine had: {_list(known)}",
                    subject=file.file.path,
                    remedy="leave out of {page_files} what is none of these",
                )
            numbers[place] = free.pop(0)
        mine = by_number[numbers[place]]
        found.append(_sized(file._replace(number=mine.number, path=mine.path or None), mine))
    return tuple(found)


def _name(file: PageFile) -> str:
    """Return the name of a file that was given, in lower case."""
    return re.split(r"[/\\]", file.file.path)[-1].lower()


def _check_number(file: PageFile, same: Sequence[PagingFile], by_number: dict[int, PagingFile]) -> None:
    """Raise UsageError if a file cannot have the number that was given."""
    mine, path = by_number.get(file.number), file.file.path
    if mine is None:
        raise UsageError(
            f"the machine had no page file {file.number}: {_list([*by_number.values()])}",
            subject=path,
            remedy=_NUMBERED,
        )
    if mine.store:
        raise UsageError(
            f"page file {file.number} is none: compressed pages go by this number", subject=path, remedy=_NUMBERED
        )
    if same and mine.path and mine not in same:
        raise UsageError(
            f"is given as page file {file.number}, and is another: {_list([*by_number.values()])}",
            subject=path,
            remedy="leave the number out of {page_files}, or rename the file if its name is wrong",
        )


def _sized(file: PageFile, known: PagingFile) -> PageFile:
    """Return a file, doubted if it is shorter than the machine's was, or longer than that could become.

    Raises InputError if it is not trusted.
    """
    size, least, most = file.file.size, known.pages * PAGE, known.most * PAGE
    if size < least:
        return file.doubted(
            f"has {size} bytes, and page file {known.number} had {least}: it is cut off, or another one"
        )
    if size >= most + _CLUSTER:
        return file.doubted(
            f"has {size} bytes, and page file {known.number} could not have more than {most}: it is another one"
        )
    return file


def _list(known: Sequence[PagingFile]) -> str:
    return ", ".join(map(str, known))
