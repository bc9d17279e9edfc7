"""A name that looks like a system program's of Windows and is not it: ``svch0st.exe``, ``scvhost.exe``."""

from __future__ import annotations

import functools
import itertools
import unicodedata
from typing import TYPE_CHECKING

from memcarve.errors import printable
from memcarve.hunting.findings.process_check import Check, Remark
from memcarve.hunting.findings.system_programs import CUT, FOLDERS, NEIGHBOURS, called
from memcarve.labels.severities import Rating
from memcarve.paths import base_name
from memcarve.vocabulary import ProcessFlag, Severity, System

if TYPE_CHECKING:
    from collections.abc import Iterable

    from memcarve.hunting.findings.subject import Subject

_SAME_LOOK = Rating(Severity.HIGH, "the name differs in characters that look the same, which nothing honest needs")
#: characters that look like another, in small letters: digits, and letters of other alphabets
_LOOKS = str.maketrans(
    {
        "0": "o", "1": "i", "l": "i", "|": "i", "!": "i", "3": "e", "5": "s", "$": "s", "8": "b", "9": "g",
        "а": "a", "с": "c", "ԁ": "d", "е": "e", "һ": "h", "і": "i", "ј": "j", "ӏ": "i", "о": "o", "р": "p",  # noqa: RUF001
        "ѕ": "s", "т": "t", "у": "y", "х": "x", "ѵ": "v", "ԝ": "w", "α": "a", "ο": "o", "ν": "v", "ρ": "p",  # noqa: RUF001
        "ι": "i", "κ": "k", "ı": "i", "ø": "o", "ł": "i",  # noqa: RUF001
    }
)  # fmt: skip
_LONGEST = 40
_LONG = 6  # letters from which on any slip counts
_SHORT = 4  # letters from which on an exchange counts


def look(subject: Subject) -> Iterable[Remark] | None:
    """Return a remark if the name or that of the program's file is another one's with a slip in it."""
    entry = subject.entry
    if subject.system != System.WINDOWS:
        return None if subject.system is None else ()
    if entry.ended or entry.doubts:
        return ()
    program = subject.program
    names = dict.fromkeys(filter(None, (entry.name, None if program is None else base_name(program))))
    for name in names:
        found = imitated(name)
        if found is not None:
            like, same = found
            how = "looks the same as" if same else "is one slip away from"
            return [Remark(f"the name {printable(name)!r} {how} {like}", _SAME_LOOK if same else None)]
    return ()


@functools.lru_cache(maxsize=4096)
def imitated(name: str) -> tuple[str, bool] | None:
    """Return the system program that a name imitates, and whether the two look the same; None if it imitates none."""
    small = name.lower()
    if called(name) or small in NEIGHBOURS or not small or len(small) > _LONGEST:
        return None
    looks = _look_of(small)
    for each in FOLDERS:
        if looks == _look_of(each) or (len(small) >= CUT and _look_of(each).startswith(looks)):
            return each, True
    stem, dot, ending = small.rpartition(".")
    stem = stem if dot else ending
    for each in FOLDERS:
        other = each.removesuffix(".exe")
        if (stem == other and ending != "exe") or (ending == "exe" and is_slip(stem, other)):
            return each, False
    return None


def _look_of(name: str) -> str:
    """Return a name with all that looks alike made the same."""
    plain = "".join(c for c in unicodedata.normalize("NFKD", name) if c.isprintable() and not c.isspace())
    bare = "".join(c for c in plain if not unicodedata.combining(c)).lower().translate(_LOOKS)
    return bare.replace("rn", "m").replace("vv", "w")


def is_slip(name: str, meant: str) -> bool:
    """Return True if one letter more, less or other, or two exchanged, make one name of another.

    Of short names only an exchange counts, and a letter that is doubled.
    """
    if name == meant or len(meant) < _SHORT:
        return False
    if len(name) == len(meant):
        differ = [place for place, (one, two) in enumerate(zip(name, meant, strict=True)) if one != two]
        first = differ[0]
        exchanged = len(differ) == 2 and differ[1] == first + 1 and name[first] == meant[first + 1]  # noqa: PLR2004 - two letters
        return (exchanged and name[first + 1] == meant[first]) or (len(differ) == 1 and len(meant) >= _LONG)
    shorter, longer = sorted((name, meant), key=len)
    if len(longer) != len(shorter) + 1:
        return False
    at = next(
        (place for place, (one, two) in enumerate(zip(shorter, longer, strict=False)) if one != two), len(shorter)
    )
    if shorter[at:] != longer[at + 1 :]:
        return False
    doubled = any(one == two == longer[at] for one, two in itertools.pairwise(longer)) and longer is name
    return len(meant) >= _LONG or doubled


CHECK = Check(
    ProcessFlag.IMITATED_NAME,
    Rating(Severity.MEDIUM, "it is one slip away from a system program's name, which may be chance"),
    "processes of Windows with their names",
    look,
)
