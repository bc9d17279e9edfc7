"""Whether a Windows process still runs the program that it was made from: what lies at its image base.

The kernel keeps where the program was mapped (EPROCESS.SectionBaseAddress) and which file a mapping is of (the VAD);
the process itself can change what lies there, and what its PEB says. An image's mapping is as large as the header of
its file says ("PE Format": SizeOfImage), in whole pages.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcarve.errors import printable
from memcarve.intervals import PAGE
from memcarve.labels.severities import NAMELESS, Rating
from memcarve.vocabulary import Kind

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from memcarve.labels.headers import Header
    from memcarve.labels.metadata_index import Known
    from memcarve.labels.same_files import SameFiles
    from memcarve.metadata import Region
    from memcarve.space import AddressSpace

#: what is wrong: the address, the reason in words, and what it deserves if that is not what the flag does
Wrong = tuple[int, str, Rating | None]
_LONGEST = 200


def can_be_told(known: Known) -> bool:
    """Return True if it is known where the kernel mapped the program, and which regions there are."""
    entry = known.entry
    return bool(entry is not None and entry.image_base and not entry.ended and known.regions and known.has_kinds)


def wrong_with_program(
    space: AddressSpace, known: Known, headers: Mapping[int, Header | None], same_files: SameFiles | None
) -> Iterator[Wrong]:
    """Yield what speaks against the program at a process's image base being the one that it was made from.

    `headers` are those at the starts of images whose first page is in memory; `same_files` is what other processes have
    of the same file, None if nobody looked. Call it only if it `can_be_told`.
    """
    base = (known.entry and known.entry.image_base) or 0
    for source, said in known.metadata.program_bases:
        if said and said != base:
            yield (
                said,
                f"the {source} says that the program is at 0x{said:x}, the kernel that it is at 0x{base:x}",
                None,
            )
    held = known.region_at(base)
    if held is None:
        yield base, "nothing is mapped at the image base", None
        return
    region, kind, whole = known.regions[held], known.kinds[held], known.allocation(held)
    if kind != Kind.IMAGE:
        yield base, f"{kind or 'other'} memory lies at the image base, not an image", None
        return
    if region.file is None:
        yield base, "the image at the image base is of no file whose name can be read", NAMELESS
    if whole.start != base:
        yield base, f"the image at the image base begins elsewhere, at 0x{whole.start:x}", None
        return
    header = headers.get(base)
    if header is not None:
        yield from _wrong_with_header(space, region, whole.size, header, same_files)


def _wrong_with_header(
    space: AddressSpace, region: Region, mapped: int, header: Header, same_files: SameFiles | None
) -> Iterator[Wrong]:
    """Yield what speaks against a header at the image base being that of the file which was mapped there."""
    base, size, name = header.address, header.size, printable((region.file or "no name")[:_LONGEST])
    if size is not None and -(-size // PAGE) * PAGE != mapped:
        why = f"the header at the image base claims {size} bytes, but {name} was mapped with {mapped}"
        yield base, why, None
    if same_files is not None and region.file is not None:
        same, other, which = same_files.compared(region, space.read(base, PAGE))
        if other and other >= same:
            have = f"{other} other process has" if other == 1 else f"{other} other processes have"
            why = (
                f"the header at the image base is not what {have} of {name} ({which}); {same} have this one, it counted"
            )
            yield base, why, None
