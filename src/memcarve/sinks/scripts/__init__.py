"""Scripts that have other programs map the original file at the right addresses; no byte of it is copied.

Everything that comes from evidence is in ``memory.json``; the Python scripts are the same text for every dump. Programs
that only know commands (radare2, rizin) are given numbers, plain words and base64.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from typing import TYPE_CHECKING, Any

from memcarve import provenance
from memcarve.backing import FileBacking, FolderBacking, check_unchanged
from memcarve.errors import UnreadableError, UsageError
from memcarve.remote.locations import is_location
from memcarve.remote.objects import objects_of
from memcarve.sinks.final_name import NewFolder, input_paths, write_text
from memcarve.sinks.input_hash import input_hash
from memcarve.sinks.ranges import ranges
from memcarve.sinks.scripts import binja, gdb, ghidra, ida, range_table, readme
from memcarve.sinks.scripts.original import COMMON
from memcarve.sinks.scripts.radare import RADARE, RIZIN, radare_lines
from memcarve.sinks.single_file import file_hash
from memcarve.sinks.sink import Result, SinkOptions
from memcarve.version import __version__
from memcarve.vocabulary import NARROW, Architecture

if TYPE_CHECKING:
    from collections.abc import Iterable

    from memcarve.process import ProcessMemory, Progress
    from memcarve.segments import Segments
    from memcarve.sinks.scripts.range_table import Rows

_BITS = {word: 32 if word in NARROW else 64 for word in Architecture}
_WRITER = f"# Written by memcarve {__version__}. The dump that this maps is described in memory.json.\n"
#: by what of it scripts recognise the original: so many blocks of so many bytes
_BLOCKS, _BLOCK = 64, 4096


def export_scripts(
    process: ProcessMemory,
    segments: Segments,
    out: str | os.PathLike[str],
    options: SinkOptions = SinkOptions(),  # noqa: B008 - it cannot be changed
    progress: Progress | None = None,  # noqa: ARG001 - no byte is moved
) -> Result:
    """Write scripts for radare2, rizin, IDA, Ghidra, gdb and Binary Ninja into the new folder `out`.

    They map the file that the process was read from, so its bytes must lie in one file as they are: raises UsageError
    if they must be decoded first, or lie in several files. Also raises TargetExistsError and OutputError.
    """
    from memcarve.formats.decoded_file import DecodedFile  # takes long to import

    begun = time.monotonic()
    options.check("scripts")
    if objects_of(out) is not None:
        problem = "scripts map a file of this machine, and do nothing in a bucket"
        raise UsageError(problem, subject=os.fspath(out), remedy="name a folder with {out}")
    backing = process.space.backing
    backing.spans(0, min(backing.size, 1))  # raises if the file is not at hand
    if isinstance(backing, FolderBacking):
        raise UsageError(
            "is a folder of files, and scripts map one file",
            subject=backing.path,
            remedy="give the dump that it was carved from, or export it with {to:minidump}, elfcore or flat",
        )
    if is_location(backing.path):
        raise UsageError(
            "lies elsewhere, and scripts map a file on disk",
            subject=backing.path,
            remedy="download it, or export it with {to:minidump}, elfcore or flat",
        )
    if not isinstance(backing, FileBacking) or isinstance(backing, DecodedFile):
        raise UsageError(
            "holds its bytes in another form (compressed, zeros that it does not store, or alive), or in page files "
            "besides, so nothing can map them as they lie",
            subject=process.file.path,
            remedy="export it with {to:minidump}, elfcore or flat; of an image {pages_from:ram} leaves page files out",
        )
    found = ranges(process, segments)
    rows = range_table.table_rows(found)
    bits = _bits(process, rows)
    target = NewFolder(out, force=options.force, inputs=input_paths(process))
    with input_hash(process, options, threading.Event()) as hashed:
        sample = _sampled(backing)
    document = provenance.document(
        "scripts",
        process,
        options.record(begun, input=hashed),
        left_out=segments.choice.left_out,
        choice=segments.choice.selection,
    )
    original = _original(process, backing, target, sample)
    original["sha256"] = hashed.get("sha256", original["sha256"])
    document |= {"original": original, "bits": bits, "threads": _threads(process)}
    texts: dict[str, Iterable[str]] = {
        RADARE: radare_lines(RADARE, __version__, backing.size, bits, rows, process.architecture),
        RIZIN: radare_lines(RIZIN, __version__, backing.size, bits, rows, process.architecture),
        ida.NAME: (_WRITER, COMMON, ida.BODY),
        ghidra.NAME: (ghidra.HEAD, _WRITER, COMMON, ghidra.BODY),
        gdb.NAME: (_WRITER, COMMON, gdb.BODY),
        binja.NAME: (_WRITER, COMMON, binja.BODY),
        readme.NAME: (readme.TEXT.format(version=__version__),),
    }
    with target:
        for file, text in texts.items():
            write_text(target, file, text)
        document["files"] = {file: file_hash(os.path.join(target.path, file), options) for file in texts}
        write_text(target, range_table.NAME, range_table.lines(document, rows))
        check_unchanged([backing, process.file])
        seal = file_hash(os.path.join(target.path, range_table.NAME), options)
    return Result(
        files=(target.name,),
        what="range",
        count=len(found),
        bytes=found.total,
        left_out=segments.choice.left_out,
        complete=not process.incomplete,
        seconds=time.monotonic() - begun,
        notes=target.notes,
        seal=seal,
        sealed=None if seal is None else range_table.NAME,
    )


def _original(process: ProcessMemory, backing: FileBacking, target: NewFolder, sample: str | None) -> dict[str, Any]:
    """Return where the file is that scripts map, and what it is recognised by."""
    path = os.path.abspath(backing.path)
    try:
        relative = os.path.relpath(path, target.target)
    except ValueError:  # on another drive
        relative = None
    known = [each for each in process.inputs.values() if isinstance(each, dict) and each.get("path") == backing.path]
    return {
        "path": path,
        "relative": relative,
        "size": backing.size,
        "sha256": next((each["sha256"] for each in known if each.get("sha256")), None),
        "sample": {"blocks": _BLOCKS, "size": _BLOCK, "sha256": sample},
    }


def _sampled(backing: FileBacking) -> str | None:
    """Return the SHA-256 of blocks spread evenly over a file, including its first and last bytes.

    The blocks cover all of a file that is not larger than all blocks together. None if one of them cannot be read.
    """
    digest, size = hashlib.sha256(), min(_BLOCK, backing.size)
    block = memoryview(bytearray(size))
    for number in range(_BLOCKS):
        try:
            backing.read_into((backing.size - size) * number // (_BLOCKS - 1), block)
        except UnreadableError:
            return None
        digest.update(block)
    return digest.hexdigest()


def _threads(process: ProcessMemory) -> list[tuple[int, dict[str, int]]]:
    """Return the ids and registers of the threads whose registers are known."""
    found: dict[int, dict[str, int]] = {}
    for threads in process.metadata.threads:
        for thread in threads.rows:
            if thread.registers:
                found.setdefault(
                    thread.tid, {range_table.plain(name): value for name, value in thread.registers.items()}
                )
    return sorted(found.items())


def _bits(process: ProcessMemory, rows: Rows) -> int:
    """Return the width of addresses in bits: if it is not known, that of the addresses that occur."""
    known = None if process.architecture is None else _BITS[Architecture(process.architecture)]
    if known is not None:
        return known
    return 64 if len(rows) and int(rows.start[-1]) + int(rows.size[-1]) > 1 << 32 else 32
