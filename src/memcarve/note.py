"""What a source tells the user besides data."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Literal, Self


class Note(str):
    """A note that must not be missed; `about` is ``"input"``, all of it, or ``"process"``, this one alone.

    `more` is what is true of this run alone: it is shown behind the note, and not recorded.
    """

    __slots__ = ("about", "more")
    about: str
    more: str

    def __new__(cls, text: str, about: Literal["input", "process"] = "process", more: str = "") -> Self:
        """Return a note."""
        note = super().__new__(cls, text)
        note.about = about
        note.more = more
        return note

    @staticmethod
    def of(notes: Iterable[str], about: str) -> list[str]:
        """Return those of some notes that must not be missed and are about something."""
        return [note for note in notes if isinstance(note, Note) and note.about == about]
