"""The commands that look into memory without writing anything."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from memcarve.cli.options import (
    COMPLETE,
    INCOMPLETE,
    address as to_address,
    at_terminal,
    choose_one,
    file_argument,
    filter_options,
    input_options,
    labeller,
    number,
    open_one,
    process_options,
    quiet_options,
    say,
    say_notes,
    selection,
    size as to_size,
)
from memcarve.cli.progress import ProgressBar, counted
from memcarve.cli.tables import Column, format_option, print_table
from memcarve.cli.wording import complain, option
from memcarve.errors import AddressError, InputError, LimitError, UsageError
from memcarve.patterns import text_pattern

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from memcarve.cli.tables import Cell
    from memcarve.process import Container

_PIECE = 1 << 20
_JSON = ("json", "jsonl")
#: columns of processes that a table for people does not have beside command lines
_LEFT_OUT = ("exited", "root", "image_base", "peb", "wow64")
_LONGEST = 120  # characters of a command line in it


@click.command()
@file_argument
@click.argument("address", type=to_address)
@click.argument("size", type=to_size)
@click.option("--hex/--raw", "as_hex", default=None, help="Hexdump or plain bytes.  [default: hexdump at a terminal]")
@process_options
@input_options
@quiet_options
def read(
    file: str,
    address: int,
    size: int,
    pid: Sequence[int],
    name: str | None,
    opening: dict[str, Any],
    *,
    as_hex: bool | None,
    quiet: bool,
    verbose: bool,
) -> int:
    """Print SIZE bytes of memory at ADDRESS, exactly, or say which address is not there."""
    with open_one(file, pid, name, opening, span=(address, address + size)) as process:
        say_notes(process, quiet=quiet, verbose=verbose)
        for _ in process.space.pieces(address, size):  # complain before anything is printed
            pass
        for place in range(address, address + size, _PIECE):
            data = process.space.read(place, min(_PIECE, address + size - place))
            if as_hex if as_hex is not None else at_terminal():
                sys.stdout.writelines(_hexdump(place, data))
            else:
                sys.stdout.buffer.write(data)
    return COMPLETE


def _hexdump(address: int, data: bytes) -> Iterator[str]:
    """Yield lines of sixteen bytes with the addresses they lie at, which are multiples of sixteen."""
    place = address - address % 16
    while place < address + len(data):
        row = [data[at - address] if 0 <= at - address < len(data) else None for at in range(place, place + 16)]
        left, right = (" ".join("  " if byte is None else f"{byte:02x}" for byte in row[at : at + 8]) for at in (0, 8))
        text = "".join(" " if byte is None else chr(byte) if 32 <= byte < 127 else "." for byte in row)  # noqa: PLR2004
        yield f"{place:016x}  {left}  {right}  |{text}|\n"
        place += 16


@click.command()
@file_argument
@click.argument("patterns", metavar="PATTERN...", nargs=-1, required=True)
@click.option("--hex", "as_hex", is_flag=True, help="PATTERN is bytes in hexadecimal: 4d5a9000 or '4d 5a 90 00'.")
@click.option(
    "--encoding",
    "encodings",
    multiple=True,
    default=("utf-8", "utf-16-le"),
    show_default=True,
    help="How text lies in memory; may be repeated.",
)
@process_options
@filter_options
@format_option
@input_options
@quiet_options
def find(
    file: str,
    patterns: Sequence[str],
    encodings: Sequence[str],
    pid: Sequence[int],
    name: str | None,
    wanted: dict[str, Any],
    layout: str,
    opening: dict[str, Any],
    *,
    as_hex: bool,
    quiet: bool,
    verbose: bool,
) -> int:
    """Find text or bytes: every hit's address, segment and offset in the dump, across extents."""
    sought = _patterns(patterns, encodings, as_hex=as_hex)
    with open_one(file, pid, name, opening, wanted["half"]) as process:
        chosen = process.segments(selection(wanted), labeller=labeller(wanted))
        columns = [Column("address", "address"), Column("segment", "address"), Column("offset", "number")]
        columns += [Column("pattern", "text"), Column("encoding", "text")]
        labels = [(pattern, encoding) for pattern, encoding, _ in sought]
        count = done = 0

        def advance(searched: int) -> None:
            nonlocal done
            done += searched
            progress(done, chosen.total)

        def rows() -> Iterator[tuple[int, int, int, str, str]]:
            nonlocal count
            for hit in process.space.find([data for _, _, data in sought], chosen, progress=advance):
                count += 1
                yield (hit.address, hit.segment.start, hit.offset, *labels[hit.pattern])

        # hits and a bar would get into each other's way at a terminal
        with ProgressBar("searching", quiet=quiet or at_terminal()) as progress:
            print_table(layout, "hits", columns, rows())
        sys.stdout.flush()
        say_notes(process, quiet=quiet, verbose=verbose)
        if not quiet:
            click.echo(counted(count, "hit"), err=True)
        return INCOMPLETE if process.incomplete else COMPLETE


def _patterns(patterns: Sequence[str], encodings: Sequence[str], *, as_hex: bool) -> list[tuple[str, str, bytes]]:
    """Return pattern, encoding and bytes of what to search for; texts that are the same in two encodings once."""
    found: dict[bytes, tuple[str, str]] = {}
    for pattern in patterns:
        if as_hex:
            try:
                found.setdefault(bytes.fromhex(pattern.removeprefix("0x")), (pattern, "hex"))
            except ValueError:
                raise UsageError(f"{pattern!r} is not bytes in hexadecimal, like 4d5a9000") from None
            continue
        for encoding in encodings:
            wanted = text_pattern(pattern, encoding)
            found.setdefault(wanted.data, (pattern, wanted.encoding))
    if b"" in found or not found:
        raise UsageError("a pattern to search for is empty")
    return [(pattern, encoding, data) for data, (pattern, encoding) in found.items()]


@click.command()
@file_argument
@click.argument("place", metavar="ADDRESS|+OFFSET")
@process_options
@format_option
@input_options
@quiet_options
def locate(
    file: str,
    place: str,
    pid: Sequence[int],
    name: str | None,
    layout: str,
    opening: dict[str, Any],
    *,
    quiet: bool,
    verbose: bool,
) -> int:
    """Tell where ADDRESS lies in the dump, or which address the dump's byte at +OFFSET has."""
    try:
        value = number(place.removeprefix("+"))
    except ValueError:
        raise UsageError(f"{place!r} is neither an address (0x7ffe0000) nor an offset in the dump (+0x1000)") from None
    from memcarve.sources import open_container  # noqa: PLC0415 - numpy is not needed for --help

    by_offset = place.startswith("+")
    with open_container(file, **opening) as container:
        index = choose_one(container, pid, name)
        known = True
        try:
            process = container.open_process(index)
        except LimitError as error:
            if by_offset:
                raise
            # what page tables claim elsewhere does not matter to this address, only to where its segment ends
            process, known = container.open_span(index, value, value + 1), False
            say([f"{error.worded(option)}; the segment is not known"], quiet=quiet)
        say_notes(process, quiet=quiet, verbose=verbose)
        space = process.space
        found = space.addresses_of(value) if by_offset else [value]
        if not found:
            size = f"; the file is 0x{space.backing.size:x} bytes long" if space.backing.size else ""
            raise AddressError(value, "no address is known for the file's byte at this offset", size)
        columns = [Column("address", "address"), Column("offset", "number")]
        columns += [Column("segment", "address"), Column("segment_end", "end")]
        columns += [Column("extent", "address"), Column("extent_end", "end"), Column("extent_offset", "number")]

        def row(address: int) -> tuple[int | None, ...]:
            segment, extent = space.locate(address)
            offset = extent.offset + address - extent.start
            bounds = (None, None) if segment is None or not known else (segment.start, segment.end)
            return address, offset, *bounds, extent.start, extent.end, extent.offset

        print_table(layout, "places", columns, [row(address) for address in found])
    return COMPLETE


@click.command()
@file_argument
@click.option("--pages", is_flag=True, help="Count each process's pages by kind, in the user half.")
@click.option("--listed", is_flag=True, help="Those of the kernel's list alone, without a search of all memory.")
@click.option(
    "--details",
    is_flag=True,
    help="What each says of itself, too: its command line; in the other formats also image path, current directory, "
    "and the modules it unloaded.",
)
@click.option("--environment", is_flag=True, help="The details, and each process's environment; in JSON alone.")
@click.option("--scan", is_flag=True, help="List plausible page-table roots instead, whatever the system.")
@format_option
@input_options
@quiet_options
def processes(
    file: str,
    layout: str,
    opening: dict[str, Any],
    *,
    pages: bool,
    listed: bool,
    details: bool,
    environment: bool,
    scan: bool,
    quiet: bool,
    verbose: bool,
) -> int:
    """List the processes that an image of a machine's memory holds, or a map of several dumps.

    On 64-bit Windows without symbols: those of the kernel's list, and those that only a search of all memory finds,
    which are marked as unlinked or exited; and as doubtful, with what speaks against them, if not all of it holds up.
    The search takes as long as reading the image does.
    """
    from memcarve.sources import open_container  # noqa: PLC0415 - numpy is not needed for --help

    if environment and layout not in _JSON:
        raise UsageError("an environment has no place in a table; print it with --format json or jsonl")
    details = details or environment
    if scan and (listed or details):
        word = "--listed" if listed else "--details"
        raise UsageError(f"--scan lists page-table roots, {word} processes: give one or the other")
    with open_container(file, **opening, image=scan) as container:
        if scan:
            return _scan(container, layout, quiet=quiet)
        entries = container.listed() if listed else container.processes()
        columns = [Column("pid", "number"), Column("name", "text")]
        image = any(entry.root is not None for entry in entries)
        doubts = image and (layout != "table" or any(entry.doubts for entry in entries))
        if image:
            columns += [Column("parent", "number"), Column("created", "text"), Column("exited", "text")]
            columns += [Column("root", "address"), Column("image_base", "address"), Column("peb", "address")]
            columns += [Column("wow64", "flag"), Column("state", "text")]
            columns += [Column("doubts", "words")] if doubts else []
        counts = [_page_counts(container, index) for index in range(len(entries))] if pages else []
        told = [_told(container, index, environment=environment) for index in range(len(entries))] if details else []
        # what may be no process at all need not have page tables
        certain = [index for index, entry in enumerate(entries) if not entry.doubts]
        failed = any((pages and not counts[index]) or (details and told[index] is None) for index in certain)
        kinds = list(dict.fromkeys(kind for count in counts for kind in count))
        columns += [Column(kind, "number") for kind in kinds]
        more = _detail_columns(layout) if details else []
        columns += more

        def row(index: int) -> list[Cell]:
            entry = entries[index]
            cells: list[Cell] = [entry.pid, entry.name]
            if image:
                facts = entry.facts()
                times = [facts["created"], facts["exited"]]
                if layout == "table":
                    times = [time and time[:19].replace("T", " ") for time in times]
                cells += [entry.parent, *times, entry.root, entry.image_base, entry.peb, entry.wow64, entry.state]
                cells += [list(entry.doubts)] if doubts else []
            cells += [counts[index].get(kind) for kind in kinds] if pages else []
            return cells + [_detail(column, told[index] or {}, layout) for column in more]

        rows: Iterable[list[Cell]] = map(row, range(len(entries)))
        if details and layout == "table":
            columns, rows = _narrowed(columns, rows)
        print_table(layout, "processes", columns, rows)
        sys.stdout.flush()
        say(container.notes if verbose else container.remarks, quiet=quiet)
        if not quiet:
            click.echo(counted(len(entries), "process"), err=True)
        return INCOMPLETE if failed else COMPLETE


def _page_counts(container: Container, index: int) -> dict[str, int]:
    """Return the number of 4 KiB pages of each kind; nothing where the page tables cannot be walked."""
    try:
        return container.open_process(index, container.default_range).pages or {}
    except InputError as error:
        complain(error)
        return {}


def _told(container: Container, index: int, *, environment: bool) -> dict[str, Any] | None:
    """Return what a process says of itself, ready for JSON; None if it cannot be opened."""
    try:
        return container.start_of(index).told(environment=environment)
    except InputError as error:
        complain(error)
        return None


def _narrowed(columns: list[Column], rows: Iterable[list[Cell]]) -> tuple[list[Column], Iterable[list[Cell]]]:
    """Return a table for people without some of its columns: it is wide enough with command lines."""
    kept = [place for place, column in enumerate(columns) if column.name not in _LEFT_OUT]
    return [columns[place] for place in kept], ([cells[place] for place in kept] for cells in rows)


def _detail_columns(layout: str) -> list[Column]:
    if layout == "table":
        return [Column("command_line", "text")]
    texts = [Column(name, "text") for name in ("command_line", "image_path", "current_directory")]
    if layout in _JSON:
        return [*texts, Column("parameters", "record"), Column("unloaded", "record")]
    return [*texts, Column("unloaded", "words")]


def _detail(column: Column, told: dict[str, Any], layout: str) -> Cell:
    found: Cell = told.get(column.name)
    if layout == "table" and isinstance(found, str) and len(found) > _LONGEST:
        return f"{found[: _LONGEST - 3]}..."
    if column.kind == "words" and isinstance(found, list):  # of each module that was unloaded its name
        return [str(row["name"] or row["base"]) for row in found if isinstance(row, dict)]
    return found


def _scan(container: Container, layout: str, *, quiet: bool) -> int:
    roots = container.roots()
    columns = [Column("root", "address"), Column("paging", "text"), Column("user_bytes", "number")]
    columns += [Column("kernel_bytes", "number"), Column("self_map", "number")]
    print_table(layout, "roots", columns, roots)
    sys.stdout.flush()
    say(container.remarks, quiet=quiet)
    if not quiet:
        use = "; use one with --dtb" if roots else ""
        click.echo(f"{counted(len(roots), 'plausible page-table root')}{use}", err=True)
    return COMPLETE
