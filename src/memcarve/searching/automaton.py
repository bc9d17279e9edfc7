"""Many expressions looked for at once, by hyperscan (the extra `find`), which lets go of the interpreter meanwhile.

The library is Intel's Hyperscan or Vectorscan, its portable descendant ("Hyperscan: A Fast Multi-pattern Regex Matcher
for Modern CPUs", NSDI 2019). Its expressions are bytes here, and a dot is any byte.
"""

from __future__ import annotations

import importlib
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

#: more become slow to prepare: seconds, and hundreds of MiB
_EXPRESSIONS = 1 << 15
_LENGTH = 16_000  # of one expression


class Automaton:
    """Expressions as one automaton; to be used in several threads at once."""

    def __init__(self, hyperscan: Any, database: Any) -> None:  # noqa: ANN401 - of a library without types
        self._hyperscan = hyperscan
        self._database = database
        self._local = threading.local()

    def scan(self, data: memoryview, told: Callable[[int, int], bool | None]) -> bool:
        """Call `told` with number and end of each match, in order of ends; return False if it stopped that with True.

        Matches of one number that end at the same place are told once.
        """
        scratch = getattr(self._local, "scratch", None)
        if scratch is None:
            scratch = self._local.scratch = self._hyperscan.Scratch(self._database)
        try:
            self._database.scan(data, lambda number, _begin, end, _flags, _context: told(number, end), scratch=scratch)
        except self._hyperscan.ScanTerminated:
            return False
        return True


def automaton(expressions: Sequence[bytes], *, once: bool = False) -> Automaton | None:
    """Return an automaton of expressions; None without the library, or if it cannot take them.

    With `once`, each number is told at its first end alone.
    """
    if len(expressions) > _EXPRESSIONS or any(len(each) > _LENGTH for each in expressions):
        return None
    try:
        hyperscan = importlib.import_module("hyperscan")
    except ImportError:
        return None
    flags = hyperscan.HS_FLAG_DOTALL | (hyperscan.HS_FLAG_SINGLEMATCH if once else 0)
    try:
        database = hyperscan.Database(mode=hyperscan.HS_MODE_BLOCK)
        numbers = list(range(len(expressions)))
        database.compile(expressions=list(expressions), ids=numbers, elements=len(numbers), flags=flags)
    except hyperscan.error:  # too large, too deep, or the processor lacks what it needs
        return None
    return Automaton(hyperscan, database)
