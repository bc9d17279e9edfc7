"""Which search looks for which patterns: all that are wanted, as one search of a window."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from memcarve.patterns import Expression, HexPattern, Integer, Pointers, TextPattern
from memcarve.searching.automaton_search import fast_expressions, fast_fixed
from memcarve.searching.expression_search import ExpressionSearch
from memcarve.searching.key_search import KeySearch
from memcarve.searching.plain_search import PlainSearch, Sought
from memcarve.searching.pointer_search import PointerSearch
from memcarve.searching.window import NOWHERE, numbered

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memcarve.searching.window import Engine, Places, Window

    Pattern = bytes | HexPattern | TextPattern | Integer | Pointers | Expression

_PATTERNS = bytes | HexPattern | TextPattern | Integer | Pointers | Expression
_FEW = 8  # patterns that are looked for one after another
_WORTH = 32 << 20  # bytes for which importing an engine is worth it
_PATIENT = 1 << 28  # ways to look at one place that take an engine a second


class PatternSearch:
    """Looks for all of some patterns, whose numbers are their places in the sequence.

    `chained` are the expressions, by number: each match that is told is one, but may overlap one that began before the
    window. `threads` is how many may search at once, None for any number: 1 if an expression may take so long that it
    must be where it can be interrupted.
    """

    def __init__(self, patterns: Pattern | Sequence[Pattern], size: int) -> None:
        """Prepare a search of so many bytes.

        Raises ValueError if a pattern is empty, TypeError if it is text, UsageError for an expression that cannot be
        searched for in parts of memory.
        """
        if isinstance(patterns, str):
            raise TypeError("patterns are bytes; memcarve.text_pattern makes them of text")
        several = [patterns] if isinstance(patterns, _PATTERNS) else [*patterns]
        fixed: list[int] = []
        wanted: list[Sought] = []
        pointers: dict[tuple[int, bool], list[int]] = {}
        self.chained: dict[int, ExpressionSearch] = {}
        for number, each in enumerate(several):
            if isinstance(each, Expression):
                self.chained[number] = ExpressionSearch(each)
            elif isinstance(each, Pointers):
                pointers.setdefault((each.width, each.anywhere), []).append(number)
            else:
                fixed.append(number)
                wanted.append(_sought(each))
        self._engines: list[tuple[list[int], Engine]] = []
        if fixed:
            self._engines.append((fixed, _of_fixed(wanted, size)))
        self._engines += _of_expressions(self.chained, size)
        for (width, anywhere), numbers in pointers.items():
            own = [
                each
                for each in several
                if isinstance(each, Pointers) and (each.width, each.anywhere) == (width, anywhere)
            ]
            self._engines.append((numbers, PointerSearch(own, width, anywhere=anywhere)))
        self._numbers = [np.array(numbers, np.int64) for numbers, _ in self._engines]
        self.before = max((engine.before for _, engine in self._engines), default=0)
        self.after = max((engine.after for _, engine in self._engines), default=0)
        self.in_zeros = any(engine.in_zeros for _, engine in self._engines)
        self.threads = 1 if any(each.ways > _PATIENT for each in self.chained.values()) else None

    def __bool__(self) -> bool:
        return bool(self._engines)

    def __call__(self, buffer: bytearray, window: Window) -> Places:
        """Return what begins in the window."""
        found = [engine(buffer, window) for _, engine in self._engines]
        if all(each is NOWHERE for each in found):
            return NOWHERE
        return numbered([*zip(self._numbers, found, strict=True)])


def _sought(pattern: bytes | HexPattern | TextPattern | Integer) -> Sought:
    data = pattern if isinstance(pattern, bytes) else pattern.data
    if not data:
        raise ValueError("a pattern to search for is empty")
    mask = pattern.mask if isinstance(pattern, HexPattern | TextPattern) else None
    if mask is None or set(mask) == {0xFF}:
        return Sought(data, None)
    return Sought(bytes(byte & bits for byte, bits in zip(data, mask, strict=True)), mask)


def _of_fixed(wanted: Sequence[Sought], size: int) -> Engine:
    if size >= _WORTH and (fast := fast_fixed(wanted)) is not None:
        return fast
    return PlainSearch(wanted) if len(wanted) <= _FEW else KeySearch(wanted)


def _of_expressions(searches: dict[int, ExpressionSearch], size: int) -> list[tuple[list[int], Engine]]:
    if searches and size >= _WORTH and (fast := fast_expressions([*searches.values()])) is not None:
        return [([*searches], fast)]
    return [([number], search) for number, search in searches.items()]
