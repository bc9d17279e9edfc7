"""What can be told of a regular expression without running it: how far it looks, and what its matches begin like.

Read from Python's own tree of the expression (`re._parser`), which is not a public interface: what is in it that is not
known here makes an expression slower to search for, or is refused, but never answered wrongly.
"""

from __future__ import annotations

import importlib
import re
from typing import TYPE_CHECKING, Any

from memcarve.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable

_EVERY = frozenset(range(256))
_DIGITS = frozenset(b"0123456789")
_SPACES = frozenset(b" \t\n\r\f\v")
_WORDS = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_")
_CATEGORIES = {"DIGIT": _DIGITS, "SPACE": _SPACES, "WORD": _WORDS}
_REPEATS = ("MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT")
#: what a match has no bytes of its own for
_NOTHING = ("ASSERT", "ASSERT_NOT", "AT")
_AHEAD_AT_MOST = 1 << 16  # bytes that an expression may look ahead
#: repeats that are written out are at most so many, of what is in another repeat fewer
_OUTER, _INNER = 64, 4


class _UnknownError(Exception):
    """There is something in an expression that is not known here."""


class Shape:
    """What is known of an expression.

    `behind` and `ahead`: how many bytes before a match, and behind it, decide whether it is one. `in_zeros`: it may
    match zeros alone. `plain`: a match needs nothing but its own bytes, so that it is one however much is seen behind
    it. `empty`: it may match nothing. `loose`: an expression that matches at every place where this one does (with no
    assertions, in a syntax that all engines share), None if that says nothing. `starts`: what a match that is not empty
    may begin with. `ways`: about how often the engine may have to look at one place.
    """

    def __init__(self, compiled: re.Pattern[bytes]) -> None:
        """Look at an expression; raises UsageError if it cannot be searched for in parts of memory."""
        tree = importlib.import_module("re._parser").parse(compiled.pattern, compiled.flags)
        self.behind = self.ahead = 0
        self.plain = True
        self.ways = 1
        self.empty = tree.getwidth()[0] == 0
        self._look(tree, compiled.flags, 0)
        try:
            self.loose: bytes | None = _loose(tree, compiled.flags, _OUTER, tail=True) or None
            self.starts = _starts(tree, compiled.flags)[0]
            self.in_zeros = _in_zeros(tree, compiled.flags)
        except (_UnknownError, RecursionError):
            self.loose, self.starts, self.in_zeros = None, _EVERY, True

    def _look(self, tree: Iterable[Any], flags: int, depth: int) -> None:
        """Find how far an expression looks, and what makes it more than plain."""
        for op, value in tree:
            name = str(op)
            if name in ("ASSERT", "ASSERT_NOT"):
                self.plain = False
                width = int(value[1].getwidth()[1])
                if value[0] < 0:
                    self.behind = max(self.behind, width)
                elif width > _AHEAD_AT_MOST:
                    raise UsageError(
                        "an expression that looks ahead without end cannot be searched for in parts of memory",
                        remedy="bound what is in (?=...) or (?!...), as in .{0,100}",
                    )
                outer = self.behind, self.ahead
                self.behind = self.ahead = 0
                self._look(value[1], flags, depth)
                self.behind, self.ahead = (
                    max(outer[0], width * (value[0] < 0) + self.behind),
                    max(outer[1], width * (value[0] > 0) + self.ahead),
                )
            elif name == "AT":
                self._anchor(str(value), flags)
            elif name in _REPEATS:
                low, high, inner = value
                self.plain &= name != "POSSESSIVE_REPEAT"
                if int(high) != int(low):
                    self.ways *= min(int(high) - int(low) + 1, 4096) if not depth else 1 << 40
                self._look(inner, flags, depth + (int(high) != int(low)))
            else:
                self.plain &= name != "ATOMIC_GROUP"
                for inner, inner_flags in _inside(name, value, flags):
                    self._look(inner, inner_flags, depth)

    def _anchor(self, where: str, flags: int) -> None:
        self.plain = False
        self.behind = max(self.behind, 1)
        if where == "AT_END_STRING" or (where == "AT_END" and not flags & re.MULTILINE):
            raise UsageError(
                "an expression cannot ask for the end of memory with $ or \\Z",
                remedy="leave it out; (?m) makes $ the end of a line",
            )
        if where not in ("AT_BEGINNING", "AT_BEGINNING_STRING"):
            self.ahead = max(self.ahead, 1)


def _inside(name: str, value: Any, flags: int) -> list[tuple[Any, int]]:  # noqa: ANN401 - parts of Python's tree
    """Return the parts of a branch, a group or a condition, each with the flags that hold in it; else none."""
    if name == "ATOMIC_GROUP":
        return [(value, flags)]
    if name == "SUBPATTERN":
        return [(value[3], (flags | value[1]) & ~value[2])]
    if name == "BRANCH":
        return [(each, flags) for each in value[1]]
    if name == "GROUPREF_EXISTS":
        return [(each, flags) for each in value[1:] if each is not None]
    return []


def _may_be_left_out(name: str, value: Any) -> bool:  # noqa: ANN401 - as above
    """Return True for a condition without a part for when it does not hold."""
    return name == "GROUPREF_EXISTS" and value[2] is None


def _bytes_of(name: str, value: Any, flags: int) -> frozenset[int] | None:  # noqa: ANN401 - as above
    """Return which bytes one item matches; None if it is no single byte. Raises _UnknownError."""
    if name == "ANY":
        return _EVERY if flags & re.DOTALL else _EVERY - {10}
    if name not in ("LITERAL", "NOT_LITERAL", "IN"):
        return None
    if flags & re.LOCALE:
        raise _UnknownError
    items = value if name == "IN" else [("LITERAL", value)]
    negated = name == "NOT_LITERAL"
    found = set[int]()
    for op, what in items:
        kind = str(op)
        if kind == "NEGATE":
            negated = True
        elif kind == "LITERAL":
            found.add(what)
        elif kind == "RANGE":
            found.update(range(what[0], what[1] + 1))
        elif kind == "CATEGORY" and str(what).removeprefix("CATEGORY_").removeprefix("NOT_") in _CATEGORIES:
            word = str(what).removeprefix("CATEGORY_")
            own = _CATEGORIES[word.removeprefix("NOT_")]
            found |= _EVERY - own if word.startswith("NOT_") else own
        else:
            raise _UnknownError
    if flags & re.IGNORECASE:
        both = bytes(found)
        found |= {*both.lower(), *both.upper()}
    return _EVERY - found if negated else frozenset(found)


def byte_set(found: Iterable[int]) -> bytes:
    """Return an expression for one of some bytes, of which there is at least one."""
    ranges: list[list[int]] = []
    for byte in sorted(found):
        if ranges and ranges[-1][1] == byte - 1:
            ranges[-1][1] = byte
        else:
            ranges.append([byte, byte])
    if ranges == [[0, 255]]:
        return b"."
    written = b"".join(b"\\x%02x" % low if low == high else b"\\x%02x-\\x%02x" % (low, high) for low, high in ranges)
    return written if len(written) == len(b"\\x00") else b"[" + written + b"]"


def _loose(tree: Iterable[Any], flags: int, most: int, *, tail: bool) -> bytes:
    """Return an expression that matches whatever a tree does, or, if it is the tail, begins like that."""
    parts: list[bytes] = []
    for op, value in reversed([*tree]):
        part = _loose_item(str(op), value, flags, most, tail=tail)
        tail &= not part
        parts.append(part)
    return b"".join(reversed(parts))


def _loose_item(name: str, value: Any, flags: int, most: int, *, tail: bool) -> bytes:  # noqa: ANN401 - as above
    single = _bytes_of(name, value, flags)
    if single is not None:
        return byte_set(single) if single else b"[^\\x00-\\xff]"
    if name in _NOTHING:
        return b""
    if name == "GROUPREF":
        return b"" if tail else b".*"
    if name in _REPEATS:
        return _loose_repeat(value, flags, most, tail=tail)
    ways = [_loose(inner, own, most, tail=tail) for inner, own in _inside(name, value, flags)]
    if not ways:
        raise _UnknownError
    if _may_be_left_out(name, value):
        ways.append(b"")
    if len(ways) == 1 or (b"" in ways and tail):
        return ways[0] if len(ways) == 1 else b""
    return b"(?:" + b"|".join(ways) + b")"


def _loose_repeat(value: Any, flags: int, most: int, *, tail: bool) -> bytes:  # noqa: ANN401 - as above
    low, high, inner = int(value[0]), int(value[1]), value[2]
    if tail and low == 1:
        return _loose(inner, flags, most, tail=True)
    one = _loose(inner, flags, min(most, _INNER), tail=False)
    if not one or (tail and not low):
        return b""
    least = min(low, most)
    if tail:
        return b"(?:%b){%d}" % (one, least)
    if high > most:
        return b"(?:%b){%d,}" % (one, least)
    return b"(?:%b){%d,%d}" % (one, low, high) if high else b""


def _starts(tree: Iterable[Any], flags: int) -> tuple[frozenset[int], bool]:
    """Return what a match of a tree that is not empty may begin with, and whether it may be empty."""
    found: frozenset[int] = frozenset()
    for op, value in tree:
        name = str(op)
        single = _bytes_of(name, value, flags)
        if single is not None:
            own, empty = single, False
        elif name in _NOTHING:
            own, empty = frozenset[int](), True
        elif name == "GROUPREF":
            own, empty = _EVERY, True
        elif name in _REPEATS:
            own, empty = _starts(value[2], flags)
            empty |= int(value[0]) == 0
        else:
            inside = [_starts(inner, inner_flags) for inner, inner_flags in _inside(name, value, flags)]
            if not inside:
                raise _UnknownError
            own = frozenset[int]().union(*(each[0] for each in inside))
            empty = any(each[1] for each in inside) or _may_be_left_out(name, value)
        found |= own
        if not empty:
            return found, False
    return found, True


def _in_zeros(tree: Iterable[Any], flags: int) -> bool:
    """Return True if a tree may match zeros alone."""
    return all(_item_in_zeros(str(op), value, flags) for op, value in tree)


def _item_in_zeros(name: str, value: Any, flags: int) -> bool:  # noqa: ANN401 - as above
    single = _bytes_of(name, value, flags)
    if single is not None:
        return 0 in single
    if name in _NOTHING or name == "GROUPREF":
        return True
    if name in _REPEATS:
        return int(value[0]) == 0 or _in_zeros(value[2], flags)
    inside = _inside(name, value, flags)
    if not inside:
        raise _UnknownError
    return _may_be_left_out(name, value) or any(_in_zeros(inner, own) for inner, own in inside)
