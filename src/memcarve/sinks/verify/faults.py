"""What is wrong, collected: each in one line with its place, told together at the end."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from memcarve.errors import UsageError, VerificationError
from memcarve.hashing import hash_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from memcarve.backing import FileBacking

MOST = 100  # faults that are told
_SEAL = re.compile(r"[0-9a-f]{64}")


class Faults:
    """What is wrong with what lies at a path."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.texts: list[str] = []
        self.count = 0

    def add(self, text: str) -> None:
        """Note what is wrong; the first hundred are kept."""
        self.count += 1
        if len(self.texts) < MOST:
            self.texts.append(text)

    def add_all(self, texts: Iterable[str], before: str = "") -> None:
        """Note several."""
        for text in texts:
            self.add(f"{before}{text}")

    def check_seal(self, file: FileBacking, seal: str, name: str) -> None:
        """Note it if a file does not have the SHA-256 that was given."""
        found = hash_of(file)
        if found != seal:
            self.add(f"{name}: its SHA-256 is {found}, and the seal is {seal}: it was changed since it was written")

    def check(self) -> None:
        """Raise VerificationError if anything is wrong."""
        if self.count:
            words = f"{self.path}: {self.count} fault{'s' * (self.count > 1)}"
            raise VerificationError("; ".join([words, *self.texts]), faults=self.texts)


def seal_of(text: str) -> str:
    """Return a seal as hashes are written; raises UsageError if it is none."""
    found = text.strip().lower()
    if not _SEAL.fullmatch(found):
        raise UsageError(
            f"{text[:80]!r} is not a seal",
            remedy="give the 64 hexadecimal digits that the command printed which wrote it",
        )
    return found
