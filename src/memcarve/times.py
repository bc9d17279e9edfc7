"""Times in UTC, written as RFC 3339 has them."""

from __future__ import annotations

import datetime as dt

_SECOND = 1_000_000_000  # in nanoseconds


def now() -> dt.datetime:
    """Return the time in UTC."""
    return dt.datetime.now(dt.UTC)


def rfc3339(time: dt.datetime, digits: str = "seconds") -> str:
    """Return a time, which knows its zone, in UTC; `digits` as `datetime.isoformat` takes them."""
    return time.astimezone(dt.UTC).isoformat(timespec=digits).replace("+00:00", "Z")


def rfc3339_of(nanoseconds: int) -> str:
    """Return a time given in nanoseconds since 1970, with all of them; those that no calendar has as a number."""
    seconds, rest = divmod(nanoseconds, _SECOND)
    try:
        return f"{rfc3339(dt.datetime.fromtimestamp(seconds, dt.UTC))[:-1]}.{rest:09}Z"
    except (OverflowError, OSError, ValueError):
        return f"{nanoseconds} ns"
