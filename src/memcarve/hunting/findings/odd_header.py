"""A PE or ELF header where the system maps no program: in a file that is only data, or in the midst of one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcarve.hunting.findings.executable import may_run
from memcarve.hunting.findings.process_check import Check, Remark
from memcarve.labels.severities import Rating
from memcarve.vocabulary import Kind, ProcessFlag, Severity

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from memcarve.hunting.findings.subject import Subject
    from memcarve.labels.headers import Header
    from memcarve.labels.metadata_index import Known

_RUNS = Rating(Severity.MEDIUM, "what lies there may run, and the system does not know it as a program")


def look(subject: Subject) -> Iterable[Remark] | None:
    """Return a remark for each header in memory that a file backs and that is no image's first page."""
    known = subject.known
    if known is None or not known.has_kinds:
        return None if subject.entry.has_memory else ()
    return _headers(subject, known)


def _headers(subject: Subject, known: Known) -> Iterator[Remark]:
    for header in subject.headers:
        place = known.region_at(header.address)
        if place is None or known.is_unbacked(place) or header.kind in ("core", "rel"):
            continue
        why = _on_unix(known, place, header) if known.is_unix else _on_windows(known, place, header)
        if why is not None:
            runs = may_run(subject, header.address)
            yield Remark(
                why + (", which may run" if runs else ""), _RUNS if runs else None, header.address, header.address
            )


def _on_windows(known: Known, place: int, header: Header) -> str | None:
    kind, region = known.kinds[place], known.regions[place]
    if kind == Kind.MAPPED and region.file is not None:
        return f"{header.format} header in a file that is mapped as data"
    if kind == Kind.IMAGE and header.address != known.allocation(place).start:
        return f"{header.format} header within an image, 0x{header.address - known.allocation(place).start:x} from it"
    return None


def _on_unix(known: Known, place: int, header: Header) -> str | None:
    region = known.regions[place]
    if region.file is None or region.offset is None or not region.file.startswith("/"):
        return None
    inside = region.offset + header.address - region.start
    return f"{header.format} header within a file, 0x{inside:x} from its beginning" if inside else None


CHECK = Check(
    ProcessFlag.ODD_HEADER,
    Rating(Severity.INFO, "programs read other programs' files for their resources, versions and symbols"),
    "regions that say what is an image, and the bytes",
    look,
)
