"""One file of checksums over all that was written of several processes, from the hashes that each of them has already.

``sha256sum -c SHA256SUMS`` in the folder that holds them checks every file of every process, and ``processes.json``.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from memcarve.backing import FileBacking, open_regular
from memcarve.formats import manifest
from memcarve.hashing import hash_of, new_digest

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from memcarve.sinks.sink import Result

_LONGEST = 1 << 12  # bytes of a line: a hash and a name


def sums(folder: str, kind: str, files: Iterable[str], known: Mapping[str, str], processes: bytes) -> Iterator[bytes]:
    """Yield the lines for the `files` of processes, names in `folder`, and for ``processes.json``, by their names.

    `kind` is a hash function in ``manifest.SUMS``. Of a folder with a file of such checksums those are taken; `known`
    are hashes of single files, and `processes` is what ``processes.json`` holds. What is left is read. Raises
    SourceReadError, InputError.
    """
    known = {**known, manifest.PROCESSES: new_digest(kind, processes).hexdigest()}
    for name in sorted({*files, manifest.PROCESSES}, key=lambda name: _key(folder, name)):
        path = os.path.join(folder, name)
        if not os.path.isdir(path):
            yield line(known.get(name) or _hash(path, kind), name)
        elif os.path.isfile(os.path.join(path, manifest.SUMS[kind])):
            for digest, inner in _listed(os.path.join(path, manifest.SUMS[kind])):
                yield line(digest, f"{name}/{inner}")
        else:
            for inner in sorted(os.listdir(path)):
                yield line(_hash(os.path.join(path, inner), kind), f"{name}/{inner}")


def chained(folder: str, part: Result, *, hashed: bool) -> dict[str, str]:
    """Return the SHA-256 of what stands for all that was written of a process, by names in `folder`.

    Of a folder that is its list of files. A file whose hash was not taken is read, if it is to be `hashed`.
    """
    found: dict[str, str] = {}
    for file in part.files:
        path = os.path.join(folder, file)
        if os.path.isdir(path):
            found |= {} if part.seal is None else {f"{file}/{part.sealed}": part.seal}
        elif part.seal is not None and os.path.basename(file) == part.sealed:
            found[file] = part.seal
        elif hashed:
            found[file] = _hash(path, "sha256")
    return found


def _key(folder: str, name: str) -> bytes:
    """Return what a name is sorted by: a folder like the names of what is in it."""
    return os.fsencode(f"{name}/" if os.path.isdir(os.path.join(folder, name)) else name)


def _listed(path: str) -> Iterator[tuple[str, str]]:
    """Yield hashes and names from a file of checksums that memcarve wrote."""
    with open_regular(path) as lines:
        while line := lines.readline(_LONGEST):
            digest, _, name = line.rstrip(b"\n").partition(b"  ")
            yield digest.decode("ascii", "replace"), os.fsdecode(name)


def line(digest: str, name: str) -> bytes:
    r"""Return a line as sha256sum reads it: a name with a backslash or a line's end has ``\`` before the hash."""
    data = os.fsencode(name)
    escaped = data.replace(b"\\", b"\\\\").replace(b"\n", b"\\n").replace(b"\r", b"\\r")
    return (b"\\" if escaped != data else b"") + digest.encode() + b"  " + escaped + b"\n"


def _hash(path: str, kind: str) -> str:
    with FileBacking(path, follow=False) as file:
        return hash_of(file, kind)
