"""What the file may be that a map is said to belong to, if its length is not that of the rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcarve.errors import InputError
from memcarve.formats.elf_core import core_headers
from memcarve.formats.minidump import structures
from memcarve.sources.counterparts import base_file, pid_in_name
from memcarve.sources.foreign import foreign
from memcarve.sources.image import holds_system, machine_memory
from memcarve.sources.opening import CORE, IMAGE, MINIDUMP

if TYPE_CHECKING:
    from memcarve.backing import FileBacking
    from memcarve.sources.memmap.map_rows import ProcessRows


def stranger(rows: ProcessRows, file: FileBacking | None) -> tuple[str, str]:
    """Return why a file, whose length is not that of the rows, may not be their dump, and a remedy.

    Both are empty if nothing says so. Raises InputError if it is of a kind that memcarve does not read.
    """
    if file is None:
        return "", ""
    if (other := foreign(file)) is not None and other.sure:
        raise InputError(f"is {other.words}", subject=file.path)
    machine = machine_memory(file)
    if machine is not None and machine.backing is not file:
        machine.backing.close()
    found = None if machine is None else (machine.kind, IMAGE)
    if found is None and core_headers.read_header(file) is not None:
        found = "ELF core of a process", CORE
    elif found is None and file.read_at(0, len(structures.MAGIC)) == structures.MAGIC:
        found = "minidump", MINIDUMP
    elif found is None and rows.file is None and file.size > rows.sum and holds_system(file):
        found = "raw image", IMAGE
    path, (pid, _) = file.path, pid_in_name(file.path)
    if found is not None:
        remedy = f"{{input_type:{found[1]}}} reads it without a map"
        return f"what is taken for the dump is something else ({found[0]})", remedy
    if rows.file and rows.file != base_file(path):
        why = f"the rows call their dump {rows.file}"
    elif rows.pid is not None and pid is not None and rows.pid != pid:
        why = f"the rows are of process {rows.pid}, and the dump's name is of {pid}"
    else:
        return "", ""
    return (
        f"{why}, and it has another length: they belong to different processes or runs, or it is not a dump",
        "give the right one with {memory_map} or {dump}, or a machine's image with {input_type:image}",
    )
