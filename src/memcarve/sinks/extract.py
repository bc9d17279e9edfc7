"""Programs and libraries out of memory, a file each, with ``modules.json`` that tells what of them was there."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import threading
import time
from collections import Counter
from typing import IO, TYPE_CHECKING, Any, Protocol

from memcarve import provenance
from memcarve.backing import check_unchanged
from memcarve.copying.output_file import Target, write, write_error, write_sparse
from memcarve.formats import manifest
from memcarve.formats.programs.mapped_module import AS_IT_LIES
from memcarve.paths import base_name
from memcarve.remote.objects import objects_of
from memcarve.sinks.archive import NewArchive
from memcarve.sinks.final_name import NewFolder, buffered, check_room, input_paths
from memcarve.sinks.input_hash import input_hash
from memcarve.sinks.module_file import ModuleFile
from memcarve.sinks.object_output import ObjectFile, ObjectFolder, check_options
from memcarve.sinks.sink import Result, SinkOptions
from memcarve.vocabulary import Layout

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from memcarve.formats.programs.mapped_module import MappedModule
    from memcarve.process import ProcessMemory, Progress, Selection
    from memcarve.sinks.module_file import Told

_MOST_MISSING = 16  # times the largest file: zeros that all files may hold
_MOST_COPIES = 4  # times the memory: bytes of overlapping modules, whose headers may claim anything
_INODE = 512


class Store(Protocol):
    """Where files are put."""

    def add(self, name: str, file: ModuleFile, told: Told) -> str:
        """Write a module's file; return its SHA-256. `told` is called with the bytes written so far."""

    def write(self, name: str, chunks: Iterable[bytes]) -> None:
        """Write another file."""

    def needs(self, file: ModuleFile) -> int:
        """Return how much room a file takes at most, in bytes."""


def extract(
    process: ProcessMemory,
    modules: Sequence[MappedModule],
    out: str | os.PathLike[str],
    options: SinkOptions = SinkOptions(),  # noqa: B008 - it cannot be changed
    progress: Progress | None = None,
    *,
    choice: Selection | None = None,
) -> Result:
    """Write a file for each of `modules` (``memcarve.find_modules``) into the new folder, or archive, `out`.

    Of what is not in memory the files hold zeros. ``modules.json`` lists all modules, also those without a file, and
    says why. `choice` is what they were chosen by, which is recorded. It gets its name when it is whole. The result is
    not complete if bytes are known to be missing from the input, or a module was refused for its size; what the system
    had swapped out does not count.

    Raises UsageError, TargetExistsError, NoSpaceError, SourceReadError, OutputError, and MissingExtraError without
    pyzipper if there is to be an archive.
    """
    options.check("modules")
    return _Extractor(process, modules, options, progress, choice).run(out)


def settled(
    process: ProcessMemory, modules: Sequence[MappedModule], options: SinkOptions
) -> Iterator[tuple[int, ModuleFile, str | None]]:
    """Yield each module's place, its file, and why it is given none, None if it is: those that are listed come first.

    Headers that claim anything cannot fill the disk.
    """
    zeros, copies = _MOST_MISSING * options.largest, _MOST_COPIES * process.space.total
    for index in sorted(range(len(modules)), key=lambda index: not modules[index].loaded):
        file = ModuleFile(process.space, modules[index], options.layout, options.largest)
        why = file.refused
        if why is None and (file.size - file.resident > zeros or file.resident > copies):
            why = "modules that overlap, or are not in memory, claim more than is taken of them"
        if why is None:
            zeros -= file.size - file.resident
            copies -= file.resident
        yield index, file, why


def file_name(module: MappedModule) -> str:
    """Return what a module's file is called."""
    return manifest.module_file_name(module.start, _called(module))


class _Extractor:
    def __init__(
        self,
        process: ProcessMemory,
        modules: Sequence[MappedModule],
        options: SinkOptions,
        progress: Progress | None,
        choice: Selection | None,
    ) -> None:
        self.begun = time.monotonic()
        self.process = process
        self.modules = modules
        self.choice = None if choice is None else choice.facts()
        self.options = options
        self.progress = progress
        self.refused: dict[int, str] = {}
        self.whys: Counter[str] = Counter()
        self.files = self.bytes = self.missing = self.total = 0
        self.complete = not process.incomplete
        process.space.backing.spans(0, process.space.backing.size)  # raises if the dump is not at hand

    def run(self, out: str | os.PathLike[str]) -> Result:
        target = _store(out, self.options, input_paths(self.process))
        target.check()
        beside = None if isinstance(target, _ObjectModules) else os.path.dirname(target.target)
        with target, tempfile.TemporaryFile(dir=beside) as entries:
            needed = self._choose(target)
            if beside is not None:
                check_room(beside, target.name, needed, "or fewer modules")
            sums = []
            with input_hash(self.process, self.options, threading.Event()) as hashed:
                for index in range(len(self.modules)):
                    sums += self._one(target, index, entries)
            check_unchanged([self.process.space.backing, self.process.file])
            notes = self._notes()
            digest = hashlib.sha256()
            target.write(manifest.MODULES, _digested(self._document(entries, notes, hashed), digest))
            sums.append(f"{digest.hexdigest()}  {manifest.MODULES}\n".encode())
            target.write(manifest.SUMS["sha256"], sums)
        return Result(
            files=(target.name,),
            what="module",
            count=self.files,
            of=len(self.modules),
            bytes=self.bytes,
            missing_bytes=self.missing,
            complete=self.complete,
            seconds=time.monotonic() - self.begun,
            notes=[*notes, *target.notes],
            seal=digest.hexdigest(),
            sealed=manifest.MODULES,
        )

    def _file(self, index: int) -> ModuleFile:
        return ModuleFile(self.process.space, self.modules[index], self.options.layout, self.options.largest)

    def _choose(self, store: Store) -> int:
        """Settle which modules are given a file; return how many bytes of room they take."""
        needed = 0
        for index, file, why in settled(self.process, self.modules, self.options):
            if why is not None:
                self.refused[index] = why
                self.complete = self.complete and (file.refused is not None and not (file.too_large and file.resident))
            else:
                needed += store.needs(file)
                self.total += file.size
        return needed

    def _one(self, store: Store, index: int, entries: IO[bytes]) -> list[bytes]:
        """Write one module's file, if it has one, and what is said of it; return its line for the checksums."""
        file = self._file(index)
        module, plan = file.module, file.plan
        record: dict[str, Any] = {
            "file": None,
            "base": f"0x{module.start:x}",
            "size": module.size,
            "name": module.name,
            "path": module.path,
            "sources": [*module.sources],
            "loaded": module.loaded,
            "header": _facts(module),
        }
        record = {name: value for name, value in record.items() if value is not None or name in ("file", "header")}
        sums = []
        why = self.refused.get(index)
        if why is None:
            name = file_name(module)
            digest = store.add(name, file, self._told)
            self.files += 1
            self.bytes += file.size
            self.missing += file.missing
            sums = [f"{digest}  {name}\n".encode()]
            record |= {"file": name, "layout": plan.layout, "bytes": file.size, "sha256": digest}
            record |= {"resident": file.resident, "missing_bytes": file.missing}
            why = plan.why
            self.whys[_AS[plan.layout]] += plan.layout != self.options.layout
        else:
            self.whys["without a file"] += 1
        record |= {} if why is None else {"why": why}
        if record["file"] is None:  # there may be one for every page of memory, so little is said of each
            record |= {"resident": file.resident, "missing_bytes": file.missing, "sections": [], "changes": []}
        else:
            record["sections"] = file.sections()
            record["changes"] = [
                {"field": field, "offset": offset, "old": old.hex(), "new": new.hex()}
                for field, offset, old, new in plan.changes
            ]
        entries.write(json.dumps(record).encode() + b"\n")
        return sums

    def _told(self, done: int) -> None:
        if self.progress is not None:
            self.progress(self.bytes + done, self.total)

    def _notes(self) -> list[str]:
        total = f"{len(self.modules)} module{'s' * (len(self.modules) != 1)}"
        return [
            f"{words}: {count} of {total}; {manifest.MODULES} says why"
            for words, count in sorted(self.whys.items())
            if count
        ]

    def _document(self, entries: IO[bytes], notes: Sequence[str], hashed: Mapping[str, Any]) -> Iterator[bytes]:
        record = self.options.record(self.begun, input=hashed)
        document = provenance.document("modules", self.process, record, choice=self.choice, notes=notes)
        document |= {
            "complete": self.complete,
            "layout": self.options.layout,
            "totals": {
                "modules": len(self.modules),
                "files": self.files,
                "bytes": self.bytes,
                "missing_bytes": self.missing,
            },
        }
        entries.seek(0)
        rows = (line.decode().rstrip("\n") for line in entries)
        for text in provenance.lines(document, modules=rows):
            yield text.encode()


_AS = {Layout.FILE: "laid out as files", Layout.MEMORY: "laid out as in memory", AS_IT_LIES: "copied as they lie"}


def _facts(module: MappedModule) -> dict[str, Any] | None:
    """Return what the header says, but for its sections, which are listed as they lie in the file."""
    header = module.header
    return None if header is None else {name: value for name, value in header.items() if name != "sections"}


def _called(module: MappedModule) -> str:
    """Return what a module is called: by a list, by its mapping, by itself, or by what it is."""
    header = module.header or {}
    words = [module.name, module.path and base_name(module.path), header.get("name")]
    kind = f"unnamed.{header['kind']}" if header.get("kind") else "unnamed"
    return next((word for word in words if word), kind)


def _digested(chunks: Iterable[bytes], digest: hashlib._Hash) -> Iterator[bytes]:
    for chunk in chunks:
        digest.update(chunk)
        yield chunk


def _store(
    out: str | os.PathLike[str], options: SinkOptions, inputs: Sequence[str]
) -> NewArchive | _NewModules | _ObjectModules:
    """Return what builds the folder or archive, here or in a bucket."""
    objects = objects_of(out, folder=not options.archive)
    if objects is not None:
        check_options(objects, options)
        if not options.archive:
            return _ObjectModules(objects, manifest.MODULES, force=options.force, inputs=inputs)
    kind = NewArchive if objects is None else _ObjectArchive
    return (kind if options.archive else _NewModules)(out, force=options.force, inputs=inputs)


class _ObjectArchive(NewArchive, ObjectFile):
    """An archive that is sent once it is whole."""


class _ObjectModules(ObjectFolder):
    """Modules' files as objects."""

    def add(self, name: str, file: ModuleFile, told: Told) -> str:
        """Write a module's file; return its SHA-256."""
        digest, done = hashlib.sha256(), 0
        with self.create(name) as upload:
            for view, _ in file.blocks():
                digest.update(view)
                upload.write(view)
                done += len(view)
                told(done)
        return digest.hexdigest()

    def write(self, name: str, chunks: Iterable[bytes]) -> None:
        """Write another file."""
        with buffered(self, name) as file:
            for chunk in chunks:
                file.write(chunk)

    def needs(self, file: ModuleFile) -> int:  # noqa: ARG002 - a bucket has room for all
        """Return that no room is needed."""
        return 0


class _NewModules(NewFolder):
    """A folder of modules' files."""

    def add(self, name: str, file: ModuleFile, told: Told) -> str:
        """Write a module's file, with holes for what is not in memory; return its SHA-256."""
        digest, done = hashlib.sha256(), 0
        with self.create(name) as raw:
            target = Target(raw.fileno(), os.path.join(self.name, name))
            try:
                for view, whole in file.blocks():
                    digest.update(view)
                    write(target, view) if whole else write_sparse(target, view)
                    done += len(view)
                    told(done)
                raw.truncate(file.size)
            except OSError as error:
                raise write_error(error, target) from error
        return digest.hexdigest()

    def write(self, name: str, chunks: Iterable[bytes]) -> None:
        """Write another file."""
        with buffered(self, name) as file:
            for chunk in chunks:
                file.write(chunk)

    def needs(self, file: ModuleFile) -> int:
        """Return how much room a file takes, roughly: what is not in memory is a hole."""
        return file.resident + _INODE
