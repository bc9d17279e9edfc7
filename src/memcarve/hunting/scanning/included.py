"""What YARA rules include, looked at before the compiler reads it.

The compiler reads whatever a rule file names: a pipe for ever, a device until memory is full, and files that include
others twice, which do so in turn, more often than anybody can wait. It cannot be interrupted meanwhile.
"""

from __future__ import annotations

import os
import re
import stat
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from memcarve.errors import RulesError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_DEEPEST = 16  # files that include each other
_MOST = 10_000  # files that are included in all, each as often as it is,
_MOST_BYTES = 1 << 28  # and their bytes
#: wherever it stands: what is in a comment is looked at as well, so that nothing can pass for one
_INCLUDE = re.compile(r"""include(?:\s|/\*.*?\*/|//[^\n]*)*"+([^"\n]*)\"""", re.DOTALL)


class _Size(NamedTuple):
    """How many files a file stands for with all that it includes, and of how many bytes."""

    files: int
    size: int


def check_includes(sources: Sequence[tuple[str, str]], folders: Sequence[str]) -> None:
    """Raise RulesError if what files (name and text) include, looked for in folders, is no regular file, or too much.

    Files that are not there, and those that include themselves, are for the compiler to tell.
    """
    known: dict[tuple[str, str], _Size] = {}
    files = size = 0
    for name, text in sources:
        here = os.path.dirname(os.path.abspath(name)) if name else os.getcwd()
        found = _of_text(text, here, folders, known, (), name)
        files, size = files + found.files, size + found.size - len(text)
        if files > len(sources) + _MOST or size > _MOST_BYTES:
            raise RulesError(f"includes more than {_MOST} files, or {_MOST_BYTES >> 20} MiB", subject=name)


def _of_text(
    text: str,
    here: str,
    folders: Sequence[str],
    known: dict[tuple[str, str], _Size],
    above: tuple[tuple[str, str], ...],
    subject: str,
) -> _Size:
    """Return the size of a file in the folder `here`; those `above` it include it. Names lead nowhere twice."""
    if len(above) > _DEEPEST:
        raise RulesError(f"includes files that include others, more than {_DEEPEST} deep", subject=subject)
    files, size = 1, len(text)
    for name, times in Counter(each[1] for each in _INCLUDE.finditer(text)).items():
        for path in _candidates(name, [*folders, here, os.getcwd()]):
            key = os.path.realpath(os.path.dirname(path)), os.path.realpath(path)
            if key in above:
                continue
            if key not in known:
                known[key] = _of_text(_read(path, subject), key[0], folders, known, (*above, key), subject)
            files, size = files + times * known[key].files, size + times * known[key].size
    return _Size(files, size)


def _candidates(name: str, folders: Sequence[str]) -> Iterator[str]:
    """Yield all files that a name may mean: in folders, or beside the file that includes it."""
    for folder in dict.fromkeys(folders):
        path = os.path.join(folder, name)
        if "\0" not in path and os.path.lexists(path):
            yield path


def _read(path: str, subject: str) -> str:
    """Return a file's text, nothing if it cannot be read; raises RulesError if it is no regular file."""
    try:
        found = os.stat(path)
        if not stat.S_ISREG(found.st_mode):
            raise RulesError(f"includes {path}, which is no regular file", subject=subject)
        if found.st_size > _MOST_BYTES:
            raise RulesError(f"includes {path}, which is larger than rules can be", subject=subject)
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(_MOST_BYTES)
    except OSError:
        return ""
