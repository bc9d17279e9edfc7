"""Page files, swapfile.sys and swap areas given beside an image: ``[N=]FILE``, opened and laid behind the image."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from memcarve.backing import Composite, FileBacking, Zeros
from memcarve.errors import InputError, UsageError
from memcarve.formats.compression import compression_of, first_bytes
from memcarve.images.page_files import MOST, DecodedArea, PageFile, PageFiles
from memcarve.intervals import PAGE
from memcarve.remote import open_file

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memcarve.backing import Backing

_NUMBERED = re.compile(r"(\d{1,9})=(.+)", re.DOTALL)
#: Windows' file for apps that are swapped out whole; its number is 1 on a machine with one page file
_SWAP_FILE, _SWAP_NUMBER = "swapfile.sys", 1
#: the addresses of zeros are told apart by so many bytes
_ZEROS = 1 << 48
#: compressed pages are told apart by keys of 32 bits
_DECODED = 1 << 44


def numbered(given: Sequence[str]) -> list[tuple[int, str, bool]]:
    """Return number and path of each file given as ``[N=]FILE``, and whether the number was given; raises UsageError.

    Files without a number get the lowest that is free, in their order; swapfile.sys gets 1 if that is. What the system
    of the image knows of its page files comes first, see `windows/resolving/page_file_numbers.py`.
    """
    found: list[tuple[int | None, str]] = []
    for text in given:
        match = _NUMBERED.fullmatch(text)
        found.append((int(match[1]), match[2]) if match else (None, text))
    taken = [number for number, _ in found if number is not None]
    remedy = "give each file its own number with {page_files}, as 1=FILE"
    if len(found) > MOST or any(number >= MOST for number in taken):
        raise UsageError(f"page files have numbers below {MOST}", remedy=remedy)
    if len(set(taken)) < len(taken):
        raise UsageError(f"page file {max(taken, key=taken.count)} is given twice", remedy=remedy)
    free = [number for number in range(MOST) if number not in taken]
    rows = []
    for said, path in found:
        swap = os.path.basename(path).lower() == _SWAP_FILE and _SWAP_NUMBER in free
        number = said if said is not None else _SWAP_NUMBER if swap else free[0]
        if said is None:
            free.remove(number)
        rows.append((number, path, said is not None))
    return rows


def open_page_files(
    image: FileBacking, backing: Backing, given: Sequence[str], *, zeros: bool, trusted: bool
) -> tuple[PageFiles, list[str]]:
    """Return the image with the page files behind it, and room for what is decompressed; and notes for the user.

    With `zeros`, there are zeros for pages that nobody wrote; `trusted` files are read even if they seem wrong.
    Raises UsageError, InputError, SourceReadError.
    """
    files, notes = list[FileBacking](), list[str]()
    rows = numbered(given)
    try:
        for _, path, _ in rows:
            files.append(open_file(path))
            _check(files[-1], [image, *files[:-1]])
            name = files[-1].path
            if files[-1].size % PAGE:
                notes.append(f"{name}: ends within a page; it may be cut off")
    except BaseException:
        for file in files:
            file.close()
        raise
    area = DecodedArea(backing.path, _DECODED)
    whole = Composite(backing, [*files, area, *([Zeros(backing.path, _ZEROS)] if zeros else [])])
    area.begin = whole.begins[len(files)]
    placed = zip(rows, files, whole.begins, strict=False)
    known = tuple(PageFile(number, file, begin, said, trusted) for (number, _, said), file, begin in placed)
    return PageFiles(whole, known, whole.begins[-1] if zeros else None, area), notes


def _check(file: FileBacking, others: Sequence[FileBacking]) -> None:
    """Raise InputError if a file cannot be a page file, or is one of the others."""
    own = file.status.st_dev, file.status.st_ino
    if own[1] and own in [(other.status.st_dev, other.status.st_ino) for other in others]:
        raise InputError(
            "is the image itself, or a page file that was given already",
            subject=file.path,
            remedy="name each page file once with {page_files}",
        )
    if file.size < 2 * PAGE:
        raise InputError(
            f"is {file.size} bytes long: no page file",
            subject=file.path,
            remedy="a page file has whole pages of 4096 bytes; leave it out of {page_files}",
        )
    kind = compression_of(first_bytes(file))
    if kind is not None:
        raise InputError(
            f"is compressed ({kind}), and pages are read from all over it",
            subject=file.path,
            remedy="decompress it before it is given as {page_files}",
        )
