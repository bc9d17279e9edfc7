"""How a task fails: with one line, which is what OpenRelik shows."""

from __future__ import annotations

#: what is said if the bound is reached, in MiB
TOO_LITTLE = "needs more memory than the {} MiB that a task may have"


class TaskFailed(Exception):  # noqa: N818 - it is read as a sentence
    """The task cannot be done; the text says why, and is safe to print."""
