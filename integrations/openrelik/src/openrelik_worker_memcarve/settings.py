"""What whoever runs the worker can set, by variables of the environment."""

from __future__ import annotations

import os

_MIB = 1 << 20


def _number(name: str, default: int) -> int:
    given = os.environ.get(name)
    if not given:
        return default
    try:
        number = int(given)
    except ValueError:
        number = 0
    if number < 1:
        raise SystemExit(f"{name} is {given!r}: give a whole number from 1 on, or leave it out")
    return number


REDIS_URL = os.environ.get("REDIS_URL") or "redis://localhost:6379/0"
#: seconds after which a task of a worker that gives no sign of life any more is delivered to another
VISIBILITY = _number("MEMCARVE_VISIBILITY_TIMEOUT", 900)
#: bytes from which an image is large: a sub-task is made for each of its processes
LARGE = _number("MEMCARVE_FAN_OUT_MIB", 1024) * _MIB
#: bytes of memory of its own that the process of one task may have
MEMORY = _number("MEMCARVE_MEMORY_MIB", 4096) * _MIB
#: seconds that one task, or sub-task, may take
TIME = _number("MEMCARVE_TIME_LIMIT", 43200)
#: seconds that the process of a task may do nothing at all: one that found no memory for a thread may wait for ever
IDLE = _number("MEMCARVE_IDLE_LIMIT", 600)
#: how often a task is begun again that never came to an end, because workers ended while they were at it
ATTEMPTS = _number("MEMCARVE_ATTEMPTS", 3)
#: the folder of rules that tasks may name files and folders of
RULES = os.environ.get("MEMCARVE_RULES") or "/usr/share/openrelik/data/yara"
#: bytes that a compressed input may decode to; None leaves it to memcarve
DECODED = _number("MEMCARVE_DECODED_MIB", 0) * _MIB if os.environ.get("MEMCARVE_DECODED_MIB") else None
