"""What the commands share: exit statuses, kinds of parameters, opening an input."""

from __future__ import annotations

import functools
import os
import re
import sys
from collections import Counter
from typing import TYPE_CHECKING, Any, TypeVar

import click

from memcarve.errors import ProcessError, UsageError, printable
from memcarve.vocabulary import Flag, Half, InputType, Kind, Paging, Split, System, Trust, Word

if TYPE_CHECKING:
    import contextlib
    from collections.abc import Callable, Iterator, Sequence

    from memcarve.process import Container, Labeller, ProcessMemory, Selection

COMPLETE, FAILED, USAGE, INCOMPLETE = 0, 1, 2, 3

_TOP = 1 << 64
_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}

_F = TypeVar("_F", bound="Callable[..., Any]")


def choice(words: type[Word]) -> click.Choice[str]:
    """Return a choice from a vocabulary."""
    return click.Choice([word.value for word in words])


def number(text: str) -> int:
    """Return the number in `text`, decimal or with 0x; raises ValueError."""
    found = re.fullmatch(r"0[xX][0-9a-fA-F]{1,17}|[0-9]{1,20}", text.strip())
    if not found:
        raise ValueError(text)
    return int(text, 16 if text.strip()[:2].lower() == "0x" else 10)


def size(text: str) -> int:
    """Return a number of bytes: 4096, 0x1000, 4k, 2M, 1GiB."""
    found = re.fullmatch(r"\s*(0[xX][0-9a-fA-F]{1,17}|\d{1,20})\s*(?:([kKmMgGtT])(?:i?[bB])?)?\s*", text)
    if not found:
        raise click.BadParameter(f"{text!r} is no size; write 4096, 0x1000, 4k, 2M or 1G")
    return number(found[1]) * _UNITS[(found[2] or "").lower()]


def address(text: str) -> int:
    """Return a virtual address, given in hexadecimal with 0x or in decimal."""
    try:
        found = number(text)
    except ValueError:
        raise click.BadParameter(f"{text!r} is no address; write 0x7ffe0000 or the same in decimal") from None
    if found >= _TOP:
        raise click.BadParameter(f"{text!r} is beyond 64 bits")
    return found


class OneAddress(tuple[int, int]):
    """Start and end of what was given as a single address: of one byte, by which a segment may be meant."""

    __slots__ = ()


def address_range(text: str) -> tuple[int, int]:
    """Return start and end, half-open, of an address (a OneAddress) or of two with a hyphen between."""
    first, hyphen, second = text.partition("-")
    try:
        start = number(first)
        end = number(second) if hyphen else start + 1
    except ValueError:
        raise click.BadParameter(f"{text!r} is no address or range; write 0x400000 or 0x400000-0x480000") from None
    if not start < end <= _TOP:
        raise click.BadParameter(f"{text!r} holds no address; the end is the first address outside")
    return (start, end) if hyphen else OneAddress((start, end))


def together(*decorators: Callable[[_F], _F]) -> Callable[[_F], _F]:
    """Return one decorator that applies several, the first one outermost."""

    def apply(function: _F) -> _F:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return apply


file_argument = click.argument("file", type=click.Path())


def _everywhere(wanted: dict[str, Any]) -> None:
    """Take both halves of an image, where nobody says which, if addresses are given: they may lie in either."""
    if wanted["half"] is None and wanted["addresses"]:
        wanted["half"] = "all"


def _collected(
    argument: str, names: Sequence[str], settle: Callable[[dict[str, Any]], object] | None = None
) -> Callable[[_F], _F]:
    """Return a decorator that hands the options of these names to a command as one argument, once they are settled."""

    def decorate(function: _F) -> _F:
        @functools.wraps(function)
        def command(**given: Any) -> Any:  # noqa: ANN401 - a command's arguments
            collected = {name: given.pop(name) for name in names}
            if settle is not None:
                settle(collected)
            return function(**{argument: collected}, **given)

        return command  # type: ignore[return-value]

    return decorate


#: what the library's `open` takes
_OPENING = (
    *("input_type", "memory_map", "dump", "trust", "dtb", "system", "paging", "limit"),
    *("regions", "modules", "threads"),
)
_WANTED = ("half", "addresses", "min_size", "max_size", "files", "protections", "kinds", "flags")

input_type_option = click.option(
    "--input-type",
    type=choice(InputType),
    help="What the input is, if it is not recognised or taken for something else; a core is a process's, an image a "
    "machine's memory in any container.",
)

input_options = together(
    input_type_option,
    click.option("--map", "memory_map", metavar="FILE", type=click.Path(), help="The memory map, if not beside it."),
    click.option("--dump", metavar="FILE", type=click.Path(), help="The dump, where FILE is the map."),
    click.option(
        "--trust",
        type=choice(Trust),
        help="Which positions to believe where the map is at odds with the dump's length.",
    ),
    click.option(
        "--dtb",
        type=address,
        metavar="ROOT",
        help="Of an image: the address space whose page tables have their root at this physical address.",
    ),
    click.option(
        "--os",
        "system",
        type=choice(System),
        help="Of an image: what page-table entries mean that are not present.  [default: recognised]",
    ),
    click.option(
        "--paging",
        type=choice(Paging),
        help="Of an image with --dtb: the kind of page tables.  [default: recognised]",
    ),
    click.option(
        "--limit",
        type=size,
        metavar="SIZE",
        help="Of an image: how much virtual memory page tables may claim.  [default: 4 times the image, at least 16G]",
    ),
    click.option(
        "--regions",
        metavar="FILE",
        type=click.Path(),
        multiple=True,
        help="What the system said of regions: windows.vadinfo, linux.proc.Maps, mac.proc_maps, /proc/PID/maps.",
    ),
    click.option(
        "--modules", metavar="FILE", type=click.Path(), multiple=True, help="The list of modules: windows.dlllist."
    ),
    click.option(
        "--threads", metavar="FILE", type=click.Path(), multiple=True, help="The list of threads: windows.threads."
    ),
    _collected("opening", _OPENING),
)

process_options = together(
    click.option(
        "--pid",
        type=click.IntRange(0),
        multiple=True,
        help="The process with this id; carve, export, extract take several.",
    ),
    click.option("--name", metavar="GLOB", help="The processes with such a name."),
)

filter_options = together(
    click.option(
        "--range",
        "half",
        type=choice(Half),
        help="Which half of the space.  [default: all of a dump, user of an image; with --address all]",
    ),
    click.option(
        "--address",
        "addresses",
        type=address_range,
        multiple=True,
        metavar="A[-B]",
        help="Segments that hold the address, or touch the range (B is the first address outside); may be repeated.",
    ),
    click.option("--min-size", type=size, metavar="SIZE", help="Segments of at least this size (4096, 4k, 2M)."),
    click.option("--max-size", type=size, metavar="SIZE", help="Segments of at most this size."),
    click.option(
        "--file", "files", metavar="GLOB", multiple=True, help="Segments of a mapped file or module like this."
    ),
    click.option(
        "--protection",
        "protections",
        metavar="rwx",
        multiple=True,
        help="Segments of regions whose protection has all these letters (c: write-copy), or this full name.",
    ),
    click.option("--kind", "kinds", metavar="KIND", multiple=True, help=f"Segments of this kind: {', '.join(Kind)}."),
    click.option(
        "--flag",
        "flags",
        metavar="FLAG",
        multiple=True,
        help=f"Segments with this flag: {', '.join(Flag)}.",
    ),
    _collected("wanted", _WANTED, _everywhere),
)

split_option = click.option(
    "--split",
    type=choice(Split),
    default="none",
    show_default=True,
    help="End segments also where regions or modules do, or where the system's protection or the page tables' "
    "permissions change.",
)

quiet_options = together(
    click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors and data."),
    click.option("-v", "--verbose", is_flag=True, help="Say more of what is done."),
)


def selection(wanted: dict[str, Any]) -> Selection:
    """Return what `filter_options` collected as the library takes it."""
    from memcarve.process import Selection  # noqa: PLC0415 - numpy is not needed for --help

    return Selection(
        range=wanted["half"],
        address=wanted["addresses"],
        min_size=wanted["min_size"],
        max_size=wanted["max_size"],
        file=wanted["files"],
        protection=wanted["protections"],
        kind=wanted["kinds"],
        flag=wanted["flags"],
    )


def labeller(wanted: dict[str, Any]) -> Labeller | None:
    """Return what labels segments where something is asked for by labels."""
    from memcarve.labels import Labelling  # noqa: PLC0415

    return Labelling() if selection(wanted).by_labels else None


def open_one(
    file: str,
    pid: Sequence[int],
    name: str | None,
    opening: dict[str, Any],
    half: str | None = "all",
    span: tuple[int, int] | None = None,
) -> contextlib.AbstractContextManager[ProcessMemory]:
    """Open an input and choose its one process; None is the half that is the input's default.

    With `span` (addresses, half-open) no more of it than that is needed.
    """
    import contextlib  # noqa: PLC0415

    from memcarve.sources import open_container  # noqa: PLC0415 - numpy is not needed for --help

    @contextlib.contextmanager
    def opened() -> Iterator[ProcessMemory]:
        with open_container(file, **opening) as container:
            index = choose_one(container, pid, name)
            if span is None:
                yield container.open_process(index, half or container.default_range)
            else:
                yield container.open_span(index, *span)

    return opened()


def say_notes(process: ProcessMemory, *, quiet: bool, verbose: bool) -> None:
    """Say which files were taken; and the rest where something is wrong with them, or where it is asked for."""
    everything = verbose or process.incomplete or process.pages is not None or process.positions in {"printed", "sum"}
    say(process.notes if everything else process.notes[:1], quiet=quiet)


def choose(
    container: Container, pids: Sequence[int], name: str | None, *, everything: bool = False, several: bool = True
) -> list[int]:
    """Return the places of the processes that were asked for; raises UsageError, ProcessError.

    `several`: the command takes more than one.
    """
    import fnmatch  # noqa: PLC0415

    entries = container.known(pids if name is None and not everything else [])
    if everything and (pids or name is not None):
        raise UsageError("--all takes every process; --pid and --name choose: give one or the other")
    certain = {index for index, entry in enumerate(entries) if not entry.doubts}
    if everything:
        return sorted(certain)
    if (pids or name is not None) and len(entries) == 1 and entries[0].pid is None and entries[0].root is not None:
        raise UsageError("--dtb gives one address space by itself; --pid and --name choose processes: leave them out")
    if not pids and name is None:
        if len(entries) > 1:
            raise container.choice(entries, f"choose with --pid or --name{', or take --all' if several else ''}")
        return [0]
    found = []
    for pid in pids:
        found += container.matching(entries, pid)
    if name is not None:
        pattern = name.lower()
        named = [
            index for index, entry in enumerate(entries) if fnmatch.fnmatchcase((entry.name or "").lower(), pattern)
        ]
        found += [index for index in named if index in certain]
        if not found and named:
            listed = ", ".join(str(entries[index]) for index in named[:40])
            raise ProcessError(
                f"only doubtful processes are named like {name!r} ({listed})",
                subject=str(container),
                remedy="take them with {pid}, or with {dtb} by their root",
            )
        if not found:
            raise ProcessError(f"no process is named like {name!r}", subject=str(container))
    return list(dict.fromkeys(found))


def choose_one(container: Container, pids: Sequence[int], name: str | None) -> int:
    """Return the place of the one process that was asked for."""
    found = choose(container, pids, name, several=False)
    if len(found) > 1:
        listed = ", ".join(str(container.entry(index)) for index in found[:40])
        raise UsageError(f"several processes match ({listed})", subject=str(container), remedy="this command takes one")
    return found[0]


def stem_of(path: str) -> str:
    """Return an input's name without folder and endings: what is written is named after it.

    A number is no ending: ``core.1234`` is a process's.
    """
    base = os.path.basename(os.path.normpath(path))
    for ending in (".gz", ".zst", ".xz"):
        base = base.removesuffix(ending)
    stem, ending = os.path.splitext(base)
    return base if ending[1:].isdigit() else stem or base


def process_words(process: ProcessMemory, index: int) -> list[str]:
    """Return what is added to an image's name in what is written: ``4-System``, or the page tables' root."""
    from memcarve.sinks.several import folder_name  # noqa: PLC0415

    if process.pages is None:
        return []
    if process.pid is None:
        return [str(process.inputs["image"]["root"])]
    return [folder_name(process.entry, index, Counter())]


def say(notes: Sequence[str], *, quiet: bool) -> None:
    """Print notes for the user on standard error."""
    if not quiet:
        for note in notes:
            click.echo(f"note: {printable(note)}", err=True)


def at_terminal() -> bool:
    """Say whether data goes to a person's terminal."""
    return sys.stdout.isatty()
