"""Programs and libraries out of memory, a file each, with ``modules.json`` telling what of them was there."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import os
import shutil
import stat
import sys
import tempfile
import time
from collections import Counter
from typing import IO, TYPE_CHECKING, Any, NamedTuple, Protocol

from memcarve.backing import check_unchanged
from memcarve.copying.output_file import Target, write, write_error, write_sparse
from memcarve.errors import NoSpaceError
from memcarve.formats.programs import module_list
from memcarve.formats.programs.mapped_module import AS_IT_LIES
from memcarve.paths import base_name
from memcarve.sinks.archive import NewArchive
from memcarve.sinks.folder import NewFolder, create_file, leftover_notes
from memcarve.sinks.modulefile import ModuleFile
from memcarve.sinks.single_file import input_paths
from memcarve.version import __version__
from memcarve.vocabulary import Layout

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from memcarve.formats.programs.mapped_module import MappedModule
    from memcarve.process import ProcessMemory
    from memcarve.sinks.modulefile import Told
    from memcarve.sinks.segment_writer import Progress

LARGEST = 1 << 30
_MOST_MISSING = 16  # times the largest file: zeros that all files may hold
_MOST_COPIES = 4  # times the memory: bytes of overlapping modules, whose headers may claim anything
_INODE = 512
_CHUNK = 1 << 16


class ExtractOptions(NamedTuple):
    """How to extract: `layout` is ``"file"`` or ``"memory"``; no file becomes larger than `largest` bytes.

    `archive` writes one encrypted ZIP archive instead of a folder; `command` is recorded as the command line.
    """

    layout: str = Layout.FILE
    largest: int = LARGEST
    archive: bool = False
    force: bool = False
    command: Sequence[str] | None = None


class ExtractResult(NamedTuple):
    """What was written: `files` of `modules` modules, of together `bytes` bytes, `missing_bytes` of them not in memory.

    `complete` is false where bytes are known to be missing from the input, or a module was refused for its size; what
    the system had swapped out does not count.
    """

    path: str
    modules: int
    files: int
    bytes: int
    missing_bytes: int
    complete: bool
    seconds: float
    notes: Sequence[str]


class Store(Protocol):
    """Where files are put."""

    notes: Sequence[str]

    def add(self, name: str, file: ModuleFile, told: Told) -> str:
        """Write a module's file; return its SHA-256. `told` is called with the bytes written so far."""

    def write(self, name: str, chunks: Iterable[bytes]) -> None:
        """Write another file."""

    def needs(self, file: ModuleFile) -> int:
        """Return how much room a file takes at most, in bytes."""


def extract(
    process: ProcessMemory,
    out: str | os.PathLike[str],
    modules: Sequence[MappedModule],
    options: ExtractOptions | None = None,
    *,
    progress: Progress | None = None,
    **changes: Any,  # noqa: ANN401 - members of ExtractOptions
) -> ExtractResult:
    """Write a file for each of `modules` (``memcarve.find_modules``) into the new folder, or archive, `out`.

    `changes` are members of ExtractOptions by name. Of what is not in memory the files hold zeros. ``modules.json``
    lists all modules, also those without a file, and says why. It gets its name when it is whole. Raises UsageError,
    TargetExistsError, NoSpaceError, SourceReadError, OutputError, and MissingExtraError without pyzipper where there
    is to be an archive.
    """
    wanted = (options or ExtractOptions())._replace(**changes)
    Layout.check(wanted.layout)
    return _Extractor(process, os.fspath(out), modules, wanted, progress).run()


class _Extractor:
    def __init__(
        self,
        process: ProcessMemory,
        out: str,
        modules: Sequence[MappedModule],
        options: ExtractOptions,
        progress: Progress | None,
    ) -> None:
        self.process = process
        self.out = out
        self.modules = modules
        self.options = options
        self.progress = progress
        self.refused: dict[int, str] = {}
        self.whys: Counter[str] = Counter()
        self.files = self.bytes = self.missing = self.total = 0
        self.complete = not process.incomplete
        process.space.backing.spans(0, process.space.backing.size)  # complains where the dump is not at hand

    def run(self) -> ExtractResult:
        begun = time.monotonic()
        if self.options.archive:
            target: Any = NewArchive(self.out, force=self.options.force, inputs=input_paths(self.process))
        else:
            target = _NewModules(self.out, force=self.options.force, inputs=input_paths(self.process))
        target.check()
        with target as store, tempfile.TemporaryFile(dir=os.path.dirname(os.path.abspath(self.out))) as entries:
            self._choose(store)
            sums = []
            for index in range(len(self.modules)):
                sums += self._one(store, index, entries)
            check_unchanged([self.process.space.backing, self.process.file])
            notes = self._notes()
            digest = hashlib.sha256()
            store.write(module_list.NAME, _digested(self._document(entries, notes), digest))
            sums.append(f"{digest.hexdigest()}  {module_list.NAME}\n".encode())
            store.write(module_list.SUMS, sums)
            notes += store.notes
        return ExtractResult(
            path=self.out,
            modules=len(self.modules),
            files=self.files,
            bytes=self.bytes,
            missing_bytes=self.missing,
            complete=self.complete,
            seconds=time.monotonic() - begun,
            notes=notes,
        )

    def _file(self, index: int) -> ModuleFile:
        return ModuleFile(self.process.space, self.modules[index], self.options.layout, self.options.largest)

    def _choose(self, store: Store) -> None:
        """Settle which modules are given a file, so that headers which claim anything cannot fill the disk.

        Those that are listed come first. Raises NoSpaceError.
        """
        zeros, copies = _MOST_MISSING * self.options.largest, _MOST_COPIES * self.process.space.total
        needed = 0
        for index in sorted(range(len(self.modules)), key=lambda index: not self.modules[index].loaded):
            file = self._file(index)
            if file.refused is not None:
                self.refused[index] = file.refused
                self.complete = self.complete and not (file.too_large and file.resident)
            elif file.size - file.resident > zeros or file.resident > copies:
                self.refused[index] = "modules that overlap, or are not in memory, claim more than is taken of them"
                self.complete = False
            else:
                zeros -= file.size - file.resident
                copies -= file.resident
                needed += store.needs(file)
                self.total += file.size
        free = shutil.disk_usage(os.path.dirname(os.path.abspath(self.out))).free
        if needed > free:
            raise NoSpaceError(
                f"{self.out}: needs {needed} bytes, and its file system has {free} free; choose another with -o, or "
                "fewer modules"
            )

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
            name = module_list.file_name(module.start, _called(module))
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
            f"{words}: {count} of {total}; {module_list.NAME} says why"
            for words, count in sorted(self.whys.items())
            if count
        ]

    def _document(self, entries: IO[bytes], notes: Sequence[str]) -> Iterator[bytes]:
        process = self.process
        header = {
            "version": __version__,
            "command": list(self.options.command if self.options.command is not None else sys.argv),
            "time": dt.datetime.now(dt.UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
            "inputs": process.used_inputs,
            "process": {"pid": process.pid, "name": process.name, "architecture": process.architecture}
            | process.entry.facts(),
            "layout": self.options.layout,
            "complete": self.complete,
            "totals": {
                "modules": len(self.modules),
                "files": self.files,
                "bytes": self.bytes,
                "missing_bytes": self.missing,
            },
            "notes": [*process.notes, *notes],
        }
        entries.seek(0)
        rows = (line.decode().rstrip("\n") for line in entries)
        for text in module_list.lines(header, rows):
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


class _NewModules(NewFolder):
    """A folder of modules' files."""

    def __init__(self, target: str, *, force: bool, inputs: Sequence[str]) -> None:
        super().__init__(target, force=force, foreign=foreign, inputs=inputs)

    @property
    def notes(self) -> list[str]:
        """Folders that other runs have left."""
        return leftover_notes(self)

    def add(self, name: str, file: ModuleFile, told: Told) -> str:
        """Write a module's file, with holes where nothing is in memory; return its SHA-256."""
        digest, done = hashlib.sha256(), 0
        fd = create_file(os.path.join(self.path, name), None)
        target = Target(fd, os.path.join(self.name, name))
        try:
            for view, whole in file.blocks():
                digest.update(view)
                write(target, view) if whole else write_sparse(target, view)
                done += len(view)
                told(done)
            os.ftruncate(fd, file.size)
        except OSError as error:
            raise write_error(error, target) from error
        finally:
            os.close(fd)
        return digest.hexdigest()

    def write(self, name: str, chunks: Iterable[bytes]) -> None:
        """Write another file."""
        with os.fdopen(create_file(os.path.join(self.path, name), None), "wb", _CHUNK) as file:
            file.writelines(chunks)

    def needs(self, file: ModuleFile) -> int:
        """Return how much room a file takes, roughly: what is not in memory is a hole."""
        return file.resident + _INODE


def foreign(folder: str) -> str | None:
    """Say what in an existing folder memcarve did not write; None where all of it is its own, or it is empty."""
    with os.scandir(folder) as found:
        entries = {entry.name: entry.stat(follow_symlinks=False).st_mode for entry in found}
    if not entries:
        return None
    listed = module_list.files(os.path.join(folder, module_list.NAME))
    if listed is None:
        return f"holds no {module_list.NAME} that memcarve wrote"
    own = {module_list.NAME, module_list.SUMS, *listed}
    others = sorted(name for name, mode in entries.items() if name not in own or not stat.S_ISREG(mode))
    return f"holds {others[0]}, which memcarve did not write" if others else None
