"""The folder of objects that several processes are written into: what each of them is, is whole by itself.

It is marked as `object_output.ObjectFolder` says: the mark is what ``processes.json.partial`` says in a folder of
files, and ``processes.json`` is written last. What is whole stays if a run is stopped.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any

from memcarve.errors import MemcarveError
from memcarve.formats import manifest, partial_mark
from memcarve.hashing import new_digest
from memcarve.sinks.object_output import ObjectFolder
from memcarve.sinks.several_sums import line

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

    from memcarve.remote.objects import Objects
    from memcarve.sinks.sink import Result

_BLOCK = 1 << 23


class ObjectsOfSeveral(ObjectFolder):
    """Writes a folder of several processes; `begin` returns the document of its mark. See `PartialFolder`."""

    room: int | None = None
    #: whether copies of this program may write to it: they cannot use this one's connections
    in_copies = False

    def __init__(
        self, objects: Objects, begin: Callable[[], dict[str, Any]], *, force: bool = False, inputs: Sequence[str] = ()
    ) -> None:
        super().__init__(objects, manifest.PROCESSES, force=force, inputs=inputs)
        #: the document of the mark
        self.head: dict[str, Any] = {}
        self._begin_with = begin
        self._rows: dict[int, dict[str, Any]] = {}

    def _head(self) -> dict[str, Any]:
        self.head = self._begin_with()
        return {**self.head, "id": super()._head()["id"]}

    def mark(self) -> partial_mark.Mark:
        """Return what is whole."""
        said = {name: self.head.get(name) for name in ("command", "operator")}
        return partial_mark.Mark(self.head, dict(self._rows), [{**said, **self.head["run"], "end": None}])

    def add(self, members: Mapping[str, Any]) -> None:
        """Note that a process is whole."""
        self._rows[members["process"]] = {**members}

    def clear(self, keep: Collection[str]) -> None:
        """Do nothing: what was not whole has been removed by who wrote it."""

    def put(self, name: str, chunks: Iterable[bytes]) -> None:
        """Write an object that is about all processes."""
        with self.create(name) as upload:
            for chunk in chunks:
                upload.write(chunk)

    def hashes_of(
        self,
        files: Iterable[str],  # noqa: ARG002 - as of a folder
        known: Mapping[str, str],
        check: Callable[[], object],  # noqa: ARG002
    ) -> dict[str, str]:
        """Return the SHA-256 that are `known`: more are needed only to go on."""
        return dict(known)

    def chained(self, part: Result, *, hashed: bool) -> dict[str, str]:
        """Return the SHA-256 of what stands for all that was written of a process; see `several_sums.chained`."""
        found: dict[str, str] = {}
        for file in part.files:
            if part.seal is not None and os.path.basename(file) == part.sealed:
                found[file] = part.seal
            elif self.objects.size(file) is None:  # it is a folder
                found |= {} if part.seal is None else {f"{file}/{part.sealed}": part.seal}
            elif hashed:
                found[file] = self._hash(file, "sha256")
        return found

    def sums(self, kind: str, files: Iterable[str], known: Mapping[str, str], processes: bytes) -> Iterator[bytes]:
        """Yield the lines of a file of checksums; see `several_sums.sums`."""
        known = {**known, manifest.PROCESSES: new_digest(kind, processes).hexdigest()}
        inner = {name: self._inner_sums(name, kind) for name in files}
        names = [*files, manifest.PROCESSES]
        for name in sorted(set(names), key=lambda name: os.fsencode(f"{name}/" if inner.get(name) else name)):
            listed = inner.get(name)
            if listed is None:
                yield line(known.get(name) or self._hash(name, kind), name)
                continue
            for row in listed.splitlines():
                digest, _, base = row.partition(b"  ")
                yield line(digest.decode("ascii", "replace"), f"{name}/{os.fsdecode(base)}")

    def _inner_sums(self, name: str, kind: str) -> bytes | None:
        """Return the checksums in the folder of a process; None if it is a file."""
        with contextlib.suppress(FileNotFoundError):
            return self.objects.read(f"{name}/{manifest.SUMS[kind]}")
        return None

    def _hash(self, name: str, kind: str) -> str:
        digest, size = new_digest(kind), self.objects.size(name) or 0
        for place in range(0, size, _BLOCK):
            digest.update(self.objects.read(name, place, min(_BLOCK, size - place)))
        return digest.hexdigest()

    def _listed(self) -> dict[str, int]:
        """Return what lies in the folder itself: what is below was looked at when it became whole."""
        listed = self.objects.listed(deep=False)
        listed.pop(self._mark_name, None)
        return {name: size for name, size in listed.items() if not self._is_part(name)}

    def _is_part(self, name: str) -> bool:
        return any(name in row["files"] for row in self._rows.values())

    def _failed(self, error: BaseException) -> None:
        """Keep what is whole, if anything is, and have the error say so."""
        if not self._rows:
            super()._failed(error)
            return
        with contextlib.suppress(OSError, MemcarveError):
            self.uploads.abort()
            if self._is_ours():
                self.objects.remove(self.uploads.written)
        state = f"{self.name} {self.mark().problem}"
        if isinstance(error, MemcarveError):
            error.state = state
        else:
            error.add_note(state)
