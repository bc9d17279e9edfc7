"""Scripts that have other programs map the original file at the right addresses; no byte of it is copied.

Everything that comes from evidence is in ``memory.json``; the Python scripts are the same text for every dump. Programs
that only know commands (radare2, rizin) are given numbers, plain words and base64.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import os
import stat
import sys
import time
from typing import TYPE_CHECKING, Any

from memcarve.backing import FileBacking, FolderBacking, check_unchanged
from memcarve.errors import UsageError, printable
from memcarve.sinks.folder import NewFolder, create_file, leftover_notes
from memcarve.sinks.ranges import ranges
from memcarve.sinks.scripts import binja, gdb, ghidra, ida, range_table, readme
from memcarve.sinks.scripts.radare import RADARE, RIZIN, radare_lines
from memcarve.sinks.scripts.script_parts import COMMON
from memcarve.sinks.single_file import FileOptions, Written, input_paths
from memcarve.version import __version__

if TYPE_CHECKING:
    from collections.abc import Iterable

    from memcarve.process import ProcessMemory
    from memcarve.sinks.scripts.range_table import Rows
    from memcarve.sinks.segment_writer import Progress

_FILES = (range_table.NAME, RADARE, RIZIN, ida.NAME, ghidra.NAME, gdb.NAME, binja.NAME, readme.NAME)
_BITS = {"x86": 32, "x64": 64}
_WRITER = f"# Written by memcarve {__version__}. The dump that this maps is described in memory.json.\n"
_LARGEST_HEADER = 1 << 16
#: the sample by which scripts recognise the original: so many blocks of so many bytes
_BLOCKS, _BLOCK = 64, 4096


def export_scripts(
    process: ProcessMemory,
    folder: str | os.PathLike[str],
    options: FileOptions = FileOptions(),  # noqa: B008 - a tuple
    *,
    progress: Progress | None = None,  # noqa: ARG001 - no byte is moved
) -> Written:
    """Write scripts for radare2, rizin, IDA, Ghidra, gdb and Binary Ninja into the new folder `folder`.

    They map the file that the process was read from, so its bytes must lie in one file as they are: raises UsageError
    if they must be decoded first, or lie in several files. Also raises TargetExistsError and OutputError.
    """
    begun = time.monotonic()
    backing = process.space.backing
    backing.spans(0, min(backing.size, 1))  # complains where the file is not at hand
    if isinstance(backing, FolderBacking):
        raise UsageError(
            f"{backing.path}: is a folder of files, and scripts map one; give the dump that it was carved from, or "
            "export it with --to minidump, elfcore or flat"
        )
    if not isinstance(backing, FileBacking):
        raise UsageError(
            f"{getattr(process.file, 'path', 'the input')}: holds its bytes in another form (compressed, zeros that "
            "it does not store, or alive), so nothing can map them as they lie; export it with --to minidump, elfcore "
            "or flat"
        )
    found, left_out = ranges(process, options.selection, options.labeller)
    rows = range_table.table_rows(found)
    name, bits = os.fspath(folder), _bits(process, rows)
    target = NewFolder(name, force=options.force, foreign=foreign, inputs=input_paths(process))
    header = _header(process, backing, target, options, bits)
    x86 = process.architecture in _BITS
    texts: dict[str, Iterable[str]] = {
        range_table.NAME: range_table.lines(header, rows),
        RADARE: radare_lines(RADARE, __version__, backing.size, bits, rows, x86=x86),
        RIZIN: radare_lines(RIZIN, __version__, backing.size, bits, rows, x86=x86),
        ida.NAME: (_WRITER, COMMON, ida.BODY),
        ghidra.NAME: (ghidra.HEAD, _WRITER, COMMON, ghidra.BODY),
        gdb.NAME: (_WRITER, COMMON, gdb.BODY),
        binja.NAME: (_WRITER, COMMON, binja.BODY),
        readme.NAME: (readme.TEXT.format(version=__version__),),
    }
    with target:
        for file in _FILES:
            _write(os.path.join(target.path, file), texts[file])
        check_unchanged([backing, process.file])
    return Written(
        files=(name,),
        ranges=len(found),
        bytes=found.total,
        left_out=left_out,
        complete=not process.incomplete,
        seconds=time.monotonic() - begun,
        moved={},
        notes=leftover_notes(target),
    )


def foreign(folder: str) -> str | None:
    """Say what in an existing folder is not a set of scripts that memcarve wrote; None if all of it is."""
    with os.scandir(folder) as entries:
        modes = {entry.name: entry.stat(follow_symlinks=False).st_mode for entry in entries}
    if not modes:
        return None
    if not stat.S_ISREG(modes.get(range_table.NAME, 0)) or not _is_own(os.path.join(folder, range_table.NAME)):
        return f"holds no {range_table.NAME} that memcarve wrote"
    others = sorted(name for name, mode in modes.items() if name not in _FILES or not stat.S_ISREG(mode))
    return f"holds {others[0]}, which memcarve did not write" if others else None


def _is_own(path: str) -> bool:
    try:
        with open(path, "rb") as file:
            head = file.read(_LARGEST_HEADER)
    except OSError:
        return False
    return head.startswith(
        f'{{\n "schema": {range_table.SCHEMA},\n "tool": "memcarve",\n "what": "{range_table.WHAT}",\n'.encode()
    )


def _header(
    process: ProcessMemory, backing: FileBacking, target: NewFolder, options: FileOptions, bits: int
) -> dict[str, Any]:
    path = os.path.abspath(backing.path)
    try:
        relative = os.path.relpath(path, target.target)
    except ValueError:  # on another drive
        relative = None
    known = [each for each in process.inputs.values() if isinstance(each, dict) and each.get("path") == backing.path]
    return {
        "tool": "memcarve",
        "what": range_table.WHAT,
        "version": __version__,
        "command": list(options.command if options.command is not None else sys.argv),
        "time": dt.datetime.now(dt.UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        "original": {
            "path": path,
            "relative": relative,
            "size": backing.size,
            "sha256": next((each["sha256"] for each in known if each.get("sha256")), None),
            "sample": {"blocks": _BLOCKS, "size": _BLOCK, "sha256": _sampled(backing)},
        },
        "process": {
            "pid": process.pid,
            "name": None if process.name is None else printable(process.name),
            "architecture": process.architecture if process.architecture in _BITS else None,
        },
        "bits": bits,
        "complete": not process.incomplete,
        "threads": _threads(process),
    }


def _sampled(backing: FileBacking) -> str:
    """Return the SHA-256 of blocks spread evenly over a file, including its first and last bytes.

    The blocks cover all of a file that is not larger than all blocks together.
    """
    digest, size = hashlib.sha256(), min(_BLOCK, backing.size)
    block = memoryview(bytearray(size))
    for number in range(_BLOCKS):
        backing.read_into((backing.size - size) * number // (_BLOCKS - 1), block)
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
    known = _BITS.get(process.architecture or "")
    if known is not None:
        return known
    return 64 if len(rows) and int(rows.start[-1]) + int(rows.size[-1]) > 1 << 32 else 32


def _write(path: str, texts: Iterable[str]) -> None:
    with os.fdopen(create_file(path, None), "w", encoding="ascii", newline="\n") as file:
        file.writelines(texts)
