"""The commands that look at single addresses."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from memcarve.addresses import Address, parse_address, parse_size
from memcarve.backing import Composite
from memcarve.cli.exit_status import COMPLETE
from memcarve.cli.frame import choose_one, open_input, say_notes
from memcarve.cli.hexdump import hexdump
from memcarve.cli.printed_tables import print_table
from memcarve.cli.wording import at_terminal, option, say
from memcarve.errors import AddressError, LimitError
from memcarve.formats.tables.table_cells import Column
from memcarve.intervals import Intervals
from memcarve.permissions import RESOLVED, origin

if TYPE_CHECKING:
    from memcarve.cli.option_groups import Input, Messages, OneProcess, Printing, ReadOutput
    from memcarve.process import Container
    from memcarve.space import AddressSpace

_PIECE = 1 << 20
_MOST_TOLD = 16  # stretches of which it is said how they were found


def read(
    file: str,
    address: Address,
    size: int,
    process: OneProcess,
    source: Input,
    printing: ReadOutput,
    messages: Messages,
) -> int:
    """Print bytes."""
    as_hex = at_terminal() if printing.as_hex is None else printing.as_hex
    with open_input(file, vars(source), messages) as container:
        index = choose_one(container, process)
        start = _resolved(container, index, address)
        memory = container.open_span(index, start, start + size)
        say_notes(memory, messages)
        for _ in memory.space.pieces(start, size):  # complain before anything is printed
            pass
        if messages.verbose:
            say(_origins(memory.space, start, size), quiet=messages.quiet)
        for place in range(start, start + size, _PIECE):
            data = memory.read(place, min(_PIECE, start + size - place))
            if as_hex:
                sys.stdout.writelines(f"{line}\n" for line in hexdump(place, data))
            else:
                sys.stdout.buffer.write(data)
    return COMPLETE


def _origins(space: AddressSpace, start: int, size: int) -> list[str]:
    """Return sentences on how the pages of a range were found, if an image's page tables do not map all of them."""
    if space.flags is None or not size:
        return []
    found, extent = Intervals.of([(start, size)]).intersect(space)
    rows = zip(found.start.tolist(), found.size.tolist(), space.flags[extent].tolist(), strict=True)
    told = [(address, length, origin(flags)) for address, length, flags in rows if flags & RESOLVED]
    more = [f"and {len(told) - _MOST_TOLD} more stretches like these"] if len(told) > _MOST_TOLD else []
    return [f"0x{address:x}: {length} bytes are from {word}" for address, length, word in told[:_MOST_TOLD]] + more


def _resolved(container: Container, index: int, address: Address) -> int:
    """Return an address, for which an image is read only if it is in a module."""
    if address.module is None:
        return address.offset
    return container.process(index=index, half=container.default_half).address_of(address)


def locate(file: str, target: str, process: OneProcess, source: Input, printing: Printing, messages: Messages) -> int:
    """Print a row for an address, or for each address that a byte of the file has."""
    by_offset = target.startswith("+")
    written = Address(parse_size(target[1:])) if by_offset else parse_address(target)
    with open_input(file, vars(source), messages) as container:
        index = choose_one(container, process)
        value = _resolved(container, index, written)
        known = True
        try:
            memory = container.process(index=index)
        except LimitError as error:
            if by_offset:
                raise
            # what page tables claim elsewhere does not matter to this address, only to where its segment ends
            memory, known = container.open_span(index, value, value + 1), False
            say([f"{error.worded(option)}; the segment is not known"], quiet=messages.quiet)
        say_notes(memory, messages)
        space = memory.space
        found = space.addresses_of(value) if by_offset else [value]
        if not found:
            # offsets count on behind an image, into page files and what is decoded: no file has that length
            length = 0 if isinstance(space.backing, Composite) else space.backing.size
            size = f"; the file is 0x{length:x} bytes long" if length else ""
            raise AddressError(value, "no address is known for the file's byte at this offset", size)
        columns = [Column("address", "address"), Column("offset", "number")]
        columns += [Column("segment", "address"), Column("segment_end", "end")]
        columns += [Column("extent", "address"), Column("extent_end", "end"), Column("extent_offset", "number")]
        columns += [] if space.flags is None else [Column("origin", "text")]

        def row(address: int) -> tuple[int | str | None, ...]:
            _, offset, segment, extent = memory.locate(address)
            bounds = (None, None) if segment is None or not known else (segment.start, segment.end)
            flags = None if space.flags is None else int(space.flags[space.index(space.walked(address))])
            found = () if flags is None else (origin(flags),)
            return address, offset, *bounds, extent.start, extent.end, extent.offset, *found

        print_table(printing.layout, "places", columns, [row(address) for address in found])
    return COMPLETE
