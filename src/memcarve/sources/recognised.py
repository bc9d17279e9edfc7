"""How each kind of input is recognised, by its path and first bytes; what opens it is imported when it is.

All kinds are asked for most inputs, and one of them opens it: the readers of the others would take most of the time
that a command on a small dump takes.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

from memcarve.formats.compression import plain_name
from memcarve.formats.elf_layout import is_core
from memcarve.formats.images.signatures import SIGNATURES
from memcarve.formats.minidump import structures
from memcarve.sources.opening import (
    CORE as CORES,
    DUMP,
    FOLDER,
    FOR_IMAGES,
    IMAGE,
    MAP,
    MINIDUMP as MINIDUMPS,
    PROC,
    Source,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from memcarve.sources.opening import Opened


def _later(module: str, name: str) -> Callable[..., Any]:
    """Return what calls a function or class of a module of this folder, which is imported then."""

    def call(*given: Any) -> Any:  # noqa: ANN401 - what it takes and returns
        return getattr(importlib.import_module(f"memcarve.sources.{module}"), name)(*given)

    return call


_is_live, _is_carved = _later("proc", "is_process"), _later("folder.carved", "is_carved")
_is_foreign, _is_wiped = _later("foreign", "is_foreign"), _later("image", "is_wiped")


def _may_run(opened: Opened) -> bool:
    """Return True if it is ``/proc/PID`` or ``/proc/PID/mem``: what is not called like these is neither."""
    names = os.path.abspath(opened.path).split(os.sep)[-2:]
    return any(name == "self" or name.isdigit() for name in names) and bool(_is_live(opened))


def _may_be_minidump(opened: Opened) -> bool:
    """Return True if it is a minidump, or could be one whose signature was replaced: opening it looks closer."""
    head, size = opened.head, opened.size
    if head.startswith(structures.MAGIC):
        return True
    # of a compressed file no more than the head is known here: nothing else is decoded to find out
    return bool(head) and structures.is_likely(head, len(head) if size is None else size)


def _may_be_machine(opened: Opened) -> bool:
    """Return True if a file may be a container of a machine's memory; what describes a .vmem lies beside it."""
    head = opened.head
    named = plain_name(opened.path).lower().endswith(".vmem")
    if head.startswith(SIGNATURES) or is_core(head) or named:
        return True
    return not any(head) and bool(_is_wiped(opened))  # nothing else is decoded for this


def _is_file(opened: Opened) -> bool:
    return not opened.is_folder


LIVE = Source("a running process below /proc", (PROC,), _may_run, _later("proc", "LiveContainer"))
CARVED = Source(
    "a folder that memcarve carved",
    (FOLDER,),
    lambda opened: opened.is_folder and _is_carved(opened),
    _later("folder.carved", "FolderContainer"),
)
NAMED = Source(
    "a folder", (FOLDER,), lambda opened: opened.is_folder, _later("folder.named_by_address", "NamedContainer")
)
MINIDUMP = Source("a minidump", (MINIDUMPS,), _may_be_minidump, _later("minidump", "MinidumpContainer"))
CORE = Source(
    "an ELF core of a process", (CORES,), lambda opened: is_core(opened.head), _later("core", "CoreContainer")
)
MACHINE = Source(
    "a machine's memory", (IMAGE,), _may_be_machine, _later("image", "open_machine"), FOR_IMAGES, sure=False
)
MEMMAP = Source(
    "a dump with a map",
    (MAP, DUMP),
    _is_file,
    _later("memmap", "open_dump_or_map"),
    frozenset({"memory_map", "dump", "trust"}),
    sure=False,
)
FOREIGN = Source(
    "a file that memcarve does not read",
    (IMAGE,),
    lambda opened: not opened.is_folder and _is_foreign(opened),
    _later("foreign", "refuse"),
    FOR_IMAGES,
    sure=False,
)
RAW = Source("a raw image", (IMAGE,), _is_file, _later("image", "open_raw"), FOR_IMAGES, sure=False)
