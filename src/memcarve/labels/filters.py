"""Choosing by labels: what the kinds, protections and files of a selection mean."""

from __future__ import annotations

import fnmatch
import re
from typing import TYPE_CHECKING

from memcarve.errors import UsageError
from memcarve.paths import base_name
from memcarve.protection import WORDS
from memcarve.vocabulary import Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from memcarve.metadata import Region

    #: says whether a region, of a kind, is wanted
    Wanted = Callable[[Region, str | None], bool]

_LETTERS = re.compile(r"[rwcx]+")


def _is_kind(values: Sequence[str]) -> Wanted:
    Kind.check(*values)
    return lambda _, kind: kind in values


def _is_protected(values: Sequence[str]) -> Wanted:
    letters = [frozenset(value.lower()) for value in values if _LETTERS.fullmatch(value.lower())]
    words = frozenset(value.upper() for value in values if not _LETTERS.fullmatch(value.lower()))
    unknown = sorted(words - WORDS)
    if unknown:
        raise UsageError(
            f"unknown protection {unknown[0]!r}", remedy="write letters of rwxc, or a full name like PAGE_READONLY"
        )

    def wanted(region: Region, _: str | None) -> bool:
        allowed = frozenset(region.collapsed or "")
        return any(each <= allowed for each in letters) or not words.isdisjoint((region.protection or "").split("|"))

    return wanted


def _is_file(values: Sequence[str]) -> Wanted:
    if "" in values:
        raise UsageError("a pattern for files is empty", remedy="write a name or path, like ntdll* or *.dll")
    return lambda region, _: names_match(values, region.file)


def names_match(patterns: Sequence[str], *names: str | None) -> bool:
    """Return True if a path, or the last part of it, is like any of the patterns, whatever the case."""
    found = [form.lower() for name in names if name is not None for form in (name, base_name(name))]
    return any(fnmatch.fnmatchcase(name, pattern.lower()) for name in found for pattern in patterns)


#: by the name of the selection's member, what tells from its values which regions are wanted
CHOICES: dict[str, Callable[[Sequence[str]], Wanted]] = {
    "kind": _is_kind,
    "protection": _is_protected,
    "file": _is_file,
}
