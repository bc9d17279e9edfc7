"""What opens an input: one file for each kind, the most specific first."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from memcarve.errors import CounterpartError, InputError, NotRecognisedError, UnreadableError, UsageError
from memcarve.formats.compression import plain_name
from memcarve.intervals import PAGE
from memcarve.sources.counterparts import pid_in_name
from memcarve.sources.opening import Opened, OpenOptions, refusal
from memcarve.sources.recognised import CARVED, CORE, FOREIGN, LIVE, MACHINE, MEMMAP, MINIDUMP, NAMED, RAW
from memcarve.vocabulary import InputType

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from memcarve.process import Container, Progress
    from memcarve.sources.opening import Source

    Paths = str | os.PathLike[str] | Iterable[str | os.PathLike[str]]

_SMALLEST_IMAGE = 1 << 20

#: the sources, those that are surest of what they recognise first
SOURCES = (LIVE, CARVED, NAMED, MINIDUMP, CORE, MACHINE, MEMMAP, FOREIGN, RAW)


def open(  # noqa: A001 - that is what it does, and memcarve.open is what it is called
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
    symbols: str | os.PathLike[str] | None = None,
    page_files: Paths = (),
    pages_from: str | None = None,
    demand_zero: bool = False,
    search: str | None = None,
    regions: Paths = (),
    modules: Paths = (),
    threads: Paths = (),
    input_type: str | None = None,
    temp: str | os.PathLike[str] | None = None,
    limit_rows: int | None = None,
    limit_decoded: int | None = None,
    cache: str | os.PathLike[str] | None = None,
    cache_size: int | None = None,
    progress: Progress | None = None,
) -> Container:
    """Open what holds memory: an image of a machine's, or a process dump and its map, looked for beside each other.

    `memory_map` and `dump` name the other file if it lies elsewhere; `trust` (``"printed"`` or ``"sum"``; see below
    for page files) says which positions to believe if the map is at odds with itself; `hashed` also takes the map's
    SHA-256.

    For an image, `dtb` is the physical address of one address space's page tables, whatever the system; `system`
    (``"windows"``, ``"linux"``, ``"none"``) and `paging` (a word of `vocabulary.Paging`, as ``"x64"``) say how to read
    them if they are not recognised; `limit` is how many bytes of virtual memory they may claim to map.
    `symbols` is a file with the types of the Linux kernel in the image: Volatility's ISF, BTF, or vmlinux; only Linux
    is looked for then. `search` says in what its processes are looked for: ``"lists"`` is those that the system keeps,
    ``"all"`` also all of the memory, for those that no list holds. By default that is done unless reading all of it
    is costly, as it is of an object in a store.

    `pages_from` says which pages of a process in an image are read: ``"ram"``, those that its page tables lead to, or
    ``"all"``, also those that are found by what the system knows besides: shared ones, and those in `page_files`, which
    are page files (or swapfile.sys, or Linux's swap areas) of the same moment, each as ``FILE`` or ``N=FILE`` with its
    number; without, Windows' own list gives it by name, else their order. One that seems wrong is refused, unless
    `trust` is ``"pagefile"``: then a note says so, and processes are incomplete. With `demand_zero`, pages that nobody
    has written yet are zeros; else they are not there.

    `regions`, `modules` and `threads` are files (one or several each) that list those of the process, as Volatility 3
    prints them, or ``/proc/PID/maps``; those of a dump are also found beside it, as ``pid.N.vadinfo.csv``. They are
    read, and their errors raised, when the process's `metadata` is first used.

    `input_type` (``"image"``, ``"dump"``, ``"map"``, ``"core"``, ``"minidump"``, ``"folder"``, ``"proc"``) says what
    the file is if it is not recognised, or taken for something else; nothing else is tried then. ``"core"`` is a
    process's, ``"image"`` any container of a machine's memory, its core among them, or a raw image.

    A compressed file (gzip, bzip2, xz, Zstandard, LZ4, LZMA) is decoded once, into a temporary file in the folder
    `temp`: by default the system's, or /var/tmp if that lies in memory; maps and tables are decoded while they are
    read. `limit_decoded` is how many bytes an input may decode to (by default 384 MiB, or 150 times its size if that
    is more; zeros in an image take no room and do not count before they are 4096 times as much), `limit_rows` how many
    rows a map or table may have.

    An input may lie elsewhere: `path`, and whatever else names a file, may be a location as ``"s3://bucket/mem.raw"``
    (also gs, az, abfs, http and https). What is fetched of it is kept in a temporary file in `temp`, or for other runs
    in the folder `cache`; `cache_size` is how many bytes are kept there, at most (by default 16 GiB). Where the pages
    of a hiberfil.sys lie is kept there as well, wherever it is.

    `progress` is called with the bytes of a file that were decoded and its length, and, while all of an image is
    searched, with the bytes done and those in all.

    Close the result, or use it in a ``with`` statement. Raises InputError, with a remedy, if the
    input cannot be used; UsageError if arguments contradict each other or are none of the words above.
    """
    options = OpenOptions(
        memory_map=None if memory_map is None else os.fspath(memory_map),
        dump=None if dump is None else os.fspath(dump),
        trust=trust,
        hashed=hashed,
        dtb=dtb,
        system=system,
        paging=paging,
        limit=limit,
        symbols=None if symbols is None else os.fspath(symbols),
        page_files=_paths(page_files),
        pages_from=pages_from,
        demand_zero=demand_zero,
        search=search,
        regions=_paths(regions),
        modules=_paths(modules),
        threads=_paths(threads),
        input_type=input_type,
        temp=None if temp is None else os.fspath(temp),
        limit_rows=limit_rows,
        limit_decoded=limit_decoded,
        cache=None if cache is None else os.fspath(cache),
        cache_size=cache_size,
        progress=progress,
    )
    return open_by([source for source in SOURCES if input_type is None or input_type in source.types], path, options)


def open_by(sources: Sequence[Source], path: str | os.PathLike[str], options: OpenOptions) -> Container:
    """Open an input with the first of some sources that can. Raises what `open` raises."""
    options.check()
    foreign = [options.given - source.understands for source in sources]
    if options.input_type is not None and all(foreign):
        raise refusal(os.fspath(path), f"was said to be {sources[0].what}", min(foreign, key=len))
    with Opened(path, options.reading) as opened:
        said: dict[Source, InputError] = {}
        for source, others in zip(sources, foreign, strict=True):
            if (others and not source.sure) or not source.recognise(opened):
                continue
            try:
                container = source.open(opened, options)
            except (NotRecognisedError, CounterpartError) as error:
                said[source] = error
                continue
            except UnreadableError as error:
                if opened.headless is None:  # it is what it was recognised as
                    raise
                said[source] = error
                continue
            opened.keep()
            if others:
                container.close()
                raise refusal(opened.path, f"is {source.what}", others)
            container.input_type = options.input_type
            return container
        raise _complaint(opened, sources, options, said)


def _complaint(
    opened: Opened, sources: Sequence[Source], options: OpenOptions, said: dict[Source, InputError]
) -> InputError | UsageError:
    """Return the error for an input that no source opens, from what those said that looked closer."""
    if said.keys().isdisjoint((MEMMAP, RAW)) and all(options.given - source.understands for source in sources):
        return refusal(opened.path, "cannot be both a dump with a map and an image", options.given)
    if opened.headless is not None and not isinstance(said.get(MEMMAP), CounterpartError):
        return opened.headless.suggest(
            "what it is cannot be told without its beginning: a raw image opens with {dtb} ({scan} lists roots) or "
            "{input_type:image}, a process's dump with its map ({memory_map})"
        )
    if len(sources) < len(SOURCES):  # the user said what it is
        kind = "a folder, not " if opened.is_folder and InputType.FOLDER not in sources[-1].types else "not "
        unknown = NotRecognisedError(f"is {kind}{sources[-1].what}", subject=opened.path)
        return list(said.values())[-1] if said else unknown
    problem = said[RAW if MEMMAP not in said else MEMMAP]
    named = plain_name(opened.path).endswith(".dmp") or pid_in_name(opened.path)[0] is not None
    if FOREIGN in said and not named:
        problem = said[FOREIGN]
    elif isinstance(problem, CounterpartError):
        size = opened.file.size
        if not (size and size % PAGE == 0) and not named:
            problem = said.get(RAW, problem)  # which is not tried if an option speaks against it
        elif size >= _SMALLEST_IMAGE:
            problem.suggest(
                "if it is the image of a machine in which no system is recognised, give the root of one process's page "
                "tables with {dtb} ({scan} lists roots)"
            )
    if not opened.is_folder and opened.file.incomplete:
        problem.suggest("its compressed data are cut off or damaged, which may be why: get the whole file")
    return problem.suggest(f"{{input_type}} ({', '.join(InputType)}) says what it is if it is something else")


def _paths(given: Paths) -> tuple[str, ...]:
    """Return one path or several as a tuple."""
    if isinstance(given, str | os.PathLike):
        return (os.fspath(given),)
    return tuple(os.fspath(path) for path in given)
