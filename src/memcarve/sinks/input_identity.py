"""What an input is, in so far as another run can tell by little reading that it is the same."""

from __future__ import annotations

import contextlib
import hashlib
import os
from typing import TYPE_CHECKING, Any

from memcarve.backing import FileBacking
from memcarve.errors import InputError, MemcarveError
from memcarve.formats import manifest
from memcarve.remote import facts_of, look_at
from memcarve.remote.locations import is_location

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_SAMPLES, _SAMPLE = 64, 1 << 12


def identity(path: str) -> dict[str, Any]:
    """Return path, length, time of modification (ns) and the SHA-256 of samples of a file, ready for JSON.

    Of a folder that memcarve wrote, its list stands for all of it; of any other, and of what is not there, only the
    path is known.
    """
    if is_location(path):
        with contextlib.suppress(MemcarveError):
            return {"path": path, **(facts_of(path) or look_at(path))}
        return {"path": path}
    listed = (os.path.join(path, name) for name in (manifest.PROCESSES, manifest.NAME)) if os.path.isdir(path) else ()
    found = next(filter(os.path.isfile, listed), path)
    with contextlib.suppress(InputError), FileBacking(found) as file:
        digest = hashlib.sha256()
        last = max(file.size - _SAMPLE, 0)
        for number in range(_SAMPLES):
            digest.update(file.read_at(last * number // (_SAMPLES - 1), _SAMPLE))
        return {"path": path, "size": file.size, "modified": file.status.st_mtime_ns, "samples": digest.hexdigest()}
    return {"path": path}


def identities(paths: Iterable[str], more: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the same of several inputs, each once, with what more is known of some."""
    return [{**identity(path), **more.get(path, {})} for path in dict.fromkeys(paths)]


def same_input(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Return True if nothing but the path differs between two of them."""
    return {**one, "path": None} == {**other, "path": None}
