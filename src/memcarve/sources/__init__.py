"""What opens an input: one file for each kind, the most specific first."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from memcarve.errors import CounterpartError, InputError, NotRecognisedError
from memcarve.sources.core import open_core
from memcarve.sources.folder.carved import open_folder
from memcarve.sources.folder.named_by_address import open_named
from memcarve.sources.image import open_machine, open_raw
from memcarve.sources.memmap import open_memmap
from memcarve.sources.minidump import open_minidump
from memcarve.sources.options import CORE, DUMP, FOLDER, IMAGE, MAP, MINIDUMP, PROC, OpenOptions
from memcarve.sources.proc import open_live
from memcarve.vocabulary import InputType

if TYPE_CHECKING:
    from collections.abc import Iterable

    from memcarve.process import Container

    Paths = str | os.PathLike[str] | Iterable[str | os.PathLike[str]]

_SMALLEST_IMAGE = 1 << 20

#: each takes a path and OpenOptions, and raises NotRecognisedError where the file is not of its kind
SOURCES = (open_live, open_folder, open_named, open_minidump, open_core, open_machine, open_memmap, open_raw)
#: those that are tried where somebody says what the input is; what the last one says is the most useful
_BY_TYPE = {
    None: SOURCES,
    PROC: (open_live,),
    FOLDER: (open_folder, open_named),
    MINIDUMP: (open_minidump,),
    CORE: (open_core,),
    IMAGE: (open_machine, open_raw),
    MAP: (open_memmap,),
    DUMP: (open_memmap,),
}


def open_container(
    path: str | os.PathLike[str],
    *,
    memory_map: str | os.PathLike[str] | None = None,
    dump: str | os.PathLike[str] | None = None,
    trust: str | None = None,
    hashed: bool = False,
    dtb: int | None = None,
    system: str | None = None,
    paging: str | None = None,
    limit: int | None = None,
    image: bool = False,
    regions: Paths = (),
    modules: Paths = (),
    threads: Paths = (),
    input_type: str | None = None,
) -> Container:
    """Open what holds memory: an image of a machine's, or a process dump and its map, looked for beside each other.

    `memory_map` and `dump` name the other file where it lies elsewhere; `trust` (``"printed"`` or ``"sum"``) says which
    positions to believe where the map is at odds with itself; `hashed` has the map's SHA-256 taken on the way.

    Of an image, `dtb` is the physical address of one address space's page tables, whatever the system; `system`
    (``"windows"``, ``"linux"``, ``"none"``) and `paging` (``"x64"``, ``"x64-5"``, ``"pae"``, ``"x86"``) say how to read
    them where they are not recognised; `limit` is how many bytes of virtual memory they may be said to map; with
    `image` the file is taken for one whatever lies in it.

    `regions`, `modules` and `threads` are files (one or several each) that list those of the process, as Volatility 3
    prints them, or ``/proc/PID/maps``; of a dump they are also found beside it, as ``pid.N.vadinfo.csv``. They are
    read when the process's `evidence` is asked for, and errors in them are raised then.

    `input_type` (``"image"``, ``"dump"``, ``"map"``, ``"core"``, ``"minidump"``, ``"folder"``, ``"proc"``) says what
    the file is if it is not recognised, or taken for something else; nothing else is tried then. ``"core"`` is a
    process's, ``"image"`` any container of a machine's memory, its core among them, or a raw image.

    Close the result, or use it in a ``with`` statement. Raises InputError, with the remedy, where nothing can be made
    of it; UsageError where what was said contradicts itself, or is none of the words above.
    """
    name = os.fspath(path)
    options = OpenOptions(
        memory_map=None if memory_map is None else os.fspath(memory_map),
        dump=None if dump is None else os.fspath(dump),
        trust=trust,
        hashed=hashed,
        dtb=dtb,
        system=system,
        paging=paging,
        limit=limit,
        image=image,
        regions=_paths(regions),
        modules=_paths(modules),
        threads=_paths(threads),
        input_type=input_type,
    )
    options.check(name)
    problems: dict[object, InputError] = {}
    for source in _BY_TYPE[None if input_type is None else InputType(input_type)]:
        try:
            container: Container = source(name, options)
        except (NotRecognisedError, CounterpartError) as error:
            problems[source] = error
        else:
            container.input_type = input_type
            return container
    if input_type is not None:
        raise list(problems.values())[-1]
    # each source tells why the file is none of its; what is missing to a dump is the most useful of it all
    problem = problems[open_raw if options.for_image else open_memmap]
    if isinstance(problem, CounterpartError) and os.path.getsize(name) >= _SMALLEST_IMAGE:
        problem = CounterpartError(
            f"{problem}; if it is the image of a machine in which no system is recognised, give the root of one "
            "process's page tables with --dtb (memcarve processes --scan lists roots)"
        )
    raise type(problem)(f"{problem}; --input-type ({', '.join(InputType)}) says what it is if it is something else")


def _paths(given: Paths) -> tuple[str, ...]:
    """Return one path or several as a tuple."""
    if isinstance(given, str | os.PathLike):
        return (os.fspath(given),)
    return tuple(os.fspath(path) for path in given)
