"""What the source text of YARA rules says of how far they look: for large segments, which are scanned in windows.

Nothing here decides what matches. It is read only if a segment is too large to be scanned in one go, to know how far
windows must overlap, and to tell which rules may answer otherwise there.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

#: bytes that one run of YARA-X's matcher may take in each direction; measured, and in its source
_RUN = 4096
_DEEPEST = 16  # files that include each other
_TOKEN = re.compile(
    r"""(?P<comment>//[^\n]*|/\*.*?\*/)
    |(?P<text>"(?:\\.|[^"\\\n])*")
    |(?P<hex>=\s*\{(?:(?>/\*.*?\*/|//[^\n]*)|[^}/])*+\})
    |(?P<regex>/(?:\\.|[^/\\\n])+/[is]*)
    |(?P<word>[$#@!]?[A-Za-z_][A-Za-z0-9_.]*\*?|[$#@!]\*?)
    |(?P<mark>\.\.|[^\s])""",
    re.DOTALL | re.VERBOSE,
)
_JUMP = re.compile(r"\[\s*(\d*)\s*(-?)\s*(\d*)\s*\]")
_COUNTED = re.compile(r"\{(\d*)(,?)(\d*)\}")
#: a dot that may stand for any number of bytes: such matches are put together of parts, however far apart
_FAR = re.compile(r"(?<!\\)(?:\\\\)*\.(?:[*+]|\{\d*,\})")
#: what a condition may hold that is true of a segment if it is true of any part of it
_LOCAL = {"any", "of", "them", "or", "(", ")", ",", "1"}
_MODULES = re.compile(r"[a-z_0-9]+\.[A-Za-z_0-9.]+")
_SECTIONS = {"meta", "strings", "variables", "condition"}


class RuleText(NamedTuple):
    """How many bytes a rule's patterns match at most, None if any number; and what its condition `asks` besides them.

    A rule that asks for nothing is true of a segment exactly if it is true of a part of it.
    """

    longest: int | None
    asks: tuple[str, ...]


def texts_of(text: str, folders: Sequence[str] = ()) -> dict[str, RuleText]:
    """Return what the rules in source text say, by name; what is included is looked for in folders."""
    return dict(_rules(text, folders, 0))


def _rules(text: str, folders: Sequence[str], depth: int) -> Iterator[tuple[str, RuleText]]:
    tokens = ((str(each.lastgroup), each[0]) for each in _TOKEN.finditer(text) if each.lastgroup != "comment")
    for kind, word in tokens:
        if (kind, word) == ("word", "include"):
            _, name = next(tokens, ("", ""))
            if depth < _DEEPEST:
                yield from _rules(_included(name.strip('"'), folders), folders, depth + 1)
        elif (kind, word) == ("word", "rule"):
            _, name = next(tokens, ("", ""))
            yield name, _rule(tokens)


def _included(name: str, folders: Sequence[str]) -> str:
    for folder in folders:
        try:
            with open(os.path.join(folder, name), encoding="utf-8-sig") as file:
                return file.read()
        except (OSError, ValueError):
            continue  # the compiler found it: its rules are not known here
    return ""


def _rule(tokens: Iterator[tuple[str, str]]) -> RuleText:
    """Take the tokens of a rule after its name, to its end."""
    section, before = "", ""
    longest: int | None = 0
    asks: list[str] = []
    several = False
    for kind, word in tokens:
        if kind == "mark" and word == "}":
            break
        if kind == "mark" and word == ":" and before in _SECTIONS and section != "condition":
            section = before
        elif section == "strings" and kind in ("text", "hex", "regex"):
            size = _longest(kind, word)
            longest = None if size is None or longest is None else max(longest, size)
        elif section == "condition":
            ask = _asked(word, before)
            if ask:
                asks.append(ask)
            several |= word not in _LOCAL and not word.startswith("$")
        before = word
    found = dict.fromkeys(asks)
    if several and not found:
        found["more than one pattern"] = None
    return RuleText(longest, tuple(found))


def _asked(word: str, before: str) -> str:
    """Return in a word what a word of a condition asks for beyond that a pattern is there."""
    if word in ("filesize", "entrypoint"):
        return word
    if word in ("at", "in") and (before.startswith("$") or before in ("them", ")")):
        return f"$ {word}"
    if word[0] in "#@!" and len(word) > 1:
        return f"{word[0]}pattern"
    if re.fullmatch(r"u?int(8|16|32)(be)?|float(32|64)(be)?", word):
        return "bytes at an offset"
    found = _MODULES.fullmatch(word)
    return word.partition(".")[0] if found else ""


def _longest(kind: str, word: str) -> int | None:
    """Return a bound for the bytes that a pattern matches; None if there is none."""
    if kind == "text":
        return 8 * len(word)  # wide, base64 of wide text
    size = len(word)
    if kind == "hex":
        for low, to, high in _JUMP.findall(word):
            if to and not high:
                return None
            size += int(high or low or 0)
        return size
    if _FAR.search(word):
        return None
    # parts that are matched for themselves, each with its own run, and what is counted between them
    counted = [max(int(low or 0), int(high or 0)) for low, _, high in _COUNTED.findall(word)]
    return 2 * _RUN * (1 + len(counted)) + sum(counted)
