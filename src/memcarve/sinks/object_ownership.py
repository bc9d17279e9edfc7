"""Whether memcarve wrote the objects that lie in a bucket already: only those are replaced.

The rules are those for files (`ownership`): what lies there is laid out in a temporary folder as files of the same
names and lengths, of which only what tells who wrote them is fetched.
"""

from __future__ import annotations

import itertools
import os
import sys
from collections import defaultdict
from typing import TYPE_CHECKING

from memcarve.errors import InputError
from memcarve.formats import manifest
from memcarve.formats.json_text import loads
from memcarve.sinks.object_mirror import is_plain, mirror
from memcarve.sinks.ownership import SCRIPTS, foreign

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from memcarve.remote.objects import Objects

#: what lists the files of a folder
LISTS = (manifest.PROCESSES, manifest.NAME, manifest.MODULES, SCRIPTS)
#: how the name of what marks a folder as partial ends, behind that of its list
MARKS = ".partial"
_MARKS = {name + MARKS for name in LISTS}
_OF_SEVERAL = manifest.PROCESSES + MARKS
_END = 1 << 22  # bytes at both ends of an object that are fetched to tell what it is
_LARGEST_MARK = 1 << 28


def lists_first(names: Iterable[str]) -> list[list[str]]:
    """Return names in groups, as objects are removed: first the lists, that of all processes before others.

    Each group takes a request of its own: in which order a store removes what one names is its own business.
    """

    def rank(name: str) -> int:
        return name.count("/") if name.rpartition("/")[2] in LISTS else sys.maxsize

    return [sorted(group) for _, group in itertools.groupby(sorted(names, key=rank), rank)]


def foreign_objects(objects: Objects, listed: Mapping[str, int]) -> str | None:
    """Return what of the `listed` objects memcarve did not write; None if all of it is memcarve's own.

    A folder without its list, which a run that was killed has left, is memcarve's if it has memcarve's mark, and all
    that is in it is called as memcarve calls it.
    """
    for name in listed:
        if not is_plain(name):
            return f"holds {name!r}, which memcarve did not write"
    left = dict(listed)
    for folder, names in _by_folder(listed).items():
        for name in _begun(objects, folder, names):
            if not _is_called_as_ours(name):
                return f"holds {folder}{name}, which memcarve did not write"
            del left[f"{folder}{name}"]
    if not left:
        return None
    try:
        with mirror(objects, left, _telling) as path:
            return foreign(path)
    except InputError as error:
        return error.problem


def foreign_object(objects: Objects, name: str, size: int, beside: tuple[str, int] | None) -> str | None:
    """Return why one of `objects` is not memcarve's, with what is `beside` it if anything; None if it is."""
    listed = dict([(name, size), *([beside] if beside else [])])
    try:
        with mirror(objects, listed, _telling) as path:
            return foreign(os.path.join(path, name), os.path.join(path, beside[0]) if beside else None)
    except InputError as error:
        return error.problem


def _begun(objects: Objects, folder: str, names: set[str]) -> set[str]:
    """Return which names in a folder are not looked at any further: marks, and what lies there without a list.

    The mark of several processes says which folders there may be, and counts as their list as long as that is missing.
    """
    marks = {name for name in names & _MARKS if _is_mark(objects, folder + name)}
    if not names.isdisjoint(LISTS):
        return marks
    return names if marks - {_OF_SEVERAL} else set()


def _is_mark(objects: Objects, name: str) -> bool:
    """Return True if an object is a mark that memcarve made."""
    try:
        found = loads(objects.read(name, 0, _LARGEST_MARK).partition(b"\n")[0].decode("ascii"))
    except (ValueError, RecursionError, FileNotFoundError):
        return False
    return isinstance(found, dict) and (found.get("tool"), found.get("state")) == (manifest.TOOL, "partial")


def _by_folder(names: Iterable[str]) -> dict[str, set[str]]:
    """Return the names in each folder, by what the names of the folder begin with."""
    found: dict[str, set[str]] = defaultdict(set)
    for name in names:
        folder, parted, base = name.rpartition("/")
        found[folder + parted].add(base)
    return found


def _is_called_as_ours(name: str) -> bool:
    known = manifest.FILE_NAME.fullmatch(name) or manifest.MODULE_FILE.fullmatch(name)
    return known is not None or name in _MARKS or name in manifest.SUMS.values()


def _telling(name: str, size: int) -> list[tuple[int, int]]:
    """Return which stretches of an object tell who wrote it: its ends, or all of it; nothing if its name does."""
    base = name.rpartition("/")[2]
    if base in LISTS or base in _MARKS or base in manifest.SUMS.values() or base.endswith((".json", ".map")):
        return [(0, size)]
    if manifest.FILE_NAME.fullmatch(base) or manifest.MODULE_FILE.fullmatch(base):
        return []
    return [(0, size)] if size <= 2 * _END else [(0, _END), (size - _END, _END)]
