"""How commands end, for the shell."""

from __future__ import annotations

COMPLETE, FAILED, USAGE, INCOMPLETE = range(4)
