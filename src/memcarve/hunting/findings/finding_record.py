"""A finding: what a flag says of a process or of a place in its memory, with the bytes that lie there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from memcarve.errors import encodable
from memcarve.labels.severities import RANKS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memcarve.metadata import Region
    from memcarve.process import ProcessEntry


class Evidence(NamedTuple):
    """Bytes that lie at `address`, fewer than were asked for if no more are there.

    `runs`: they may be executed, as instructions of `architecture` (a vocabulary.Architecture, None if unknown).
    """

    address: int
    data: bytes
    runs: bool
    architecture: str | None


class Finding(NamedTuple):
    """What a flag says of a process, or of the memory at `address` in it; None is not known, or no place.

    `flag` is a vocabulary.Flag or ProcessFlag, `severity` a vocabulary.Severity, which `reason` explains. `why` says in
    words what was found. `region` is the one that holds the address, `kind` its kind (by its areas, too), `file` the
    file or module there, `permissions` what the page tables allow in it. Text may hold anything.
    """

    severity: str
    flag: str
    why: str
    reason: str
    entry: ProcessEntry
    address: int | None = None
    region: Region | None = None
    kind: str | None = None
    file: str | None = None
    permissions: tuple[str, ...] = ()
    evidence: Evidence | None = None

    @property
    def rank(self) -> int:
        """How urgent it is: 0 is the worst."""
        return RANKS[self.severity]

    def facts(self) -> dict[str, Any]:
        """Return all that is known, ready for JSON: addresses and bytes are hexadecimal."""
        found, region = self.evidence, self.region
        return {
            "severity": str(self.severity),
            "pid": self.entry.pid,
            "process": None if self.entry.name is None else encodable(self.entry.name),
            "flag": str(self.flag),
            "address": None if self.address is None else f"0x{self.address:016x}",
            "kind": None if self.kind is None else str(self.kind),
            "file": None if self.file is None else encodable(self.file),
            "why": encodable(self.why),
            "reason": self.reason,
            "region": None if region is None else {name: _whole(value) for name, value in region.facts().items()},
            "permissions": list(self.permissions),
            "evidence": None
            if found is None
            else {
                "address": f"0x{found.address:016x}",
                "bytes": found.data.hex(),
                "runs": found.runs,
                "architecture": None if found.architecture is None else str(found.architecture),
            },
        }


class More(NamedTuple):
    """Findings of one `flag` in one process that were only counted, because there are so many."""

    entry: ProcessEntry
    flag: str
    severity: str
    number: int


def worst_first(findings: Sequence[Finding]) -> list[Finding]:
    """Return findings in order of severity; of one severity process by process, by flag and address."""
    return sorted(findings, key=_order)


def _order(found: Finding) -> tuple[Any, ...]:
    pid = found.entry.pid
    return (
        *(found.rank, -1 if pid is None else pid, found.entry.name or "", found.entry.object or 0),
        *(str(found.flag), -1 if found.address is None else found.address, found.why),
    )


def _whole(value: object) -> object:
    return encodable(value) if isinstance(value, str) else value
