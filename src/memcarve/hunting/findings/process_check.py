"""What a finding about a process is made of: a flag, its severity with the reason, what it needs, and how to look."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from memcarve.hunting.findings.subject import Subject
    from memcarve.labels.severities import Rating
    from memcarve.vocabulary import ProcessFlag


class Remark(NamedTuple):
    """What was found, in words; its rating if that is not the flag's usual one; the address that it concerns, if any.

    `bytes_at` is where the first bytes are of what is there, None if none are. One that stands for a `number` of others
    is counted, and not shown.
    """

    why: str
    rating: Rating | None = None
    address: int | None = None
    bytes_at: int | None = None
    number: int = 1


class Check(NamedTuple):
    """A flag that is looked for in each process.

    `look` returns what it found, and None if too little is known to look: then `needs` says what would help, as
    remedies word it.
    """

    flag: ProcessFlag
    rating: Rating
    needs: str
    look: Callable[[Subject], Iterable[Remark] | None]
