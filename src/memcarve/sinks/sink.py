"""What every sink takes and returns: ``sink(process, segments, out, options, progress)`` gives a `Result`."""

from __future__ import annotations

import datetime as dt
import re
import time
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Protocol

from memcarve.errors import MemcarveError, UsageError
from memcarve.formats import manifest
from memcarve.formats.memmap.map_writing import RENDERERS
from memcarve.hashing import BLAKE3, new_digest
from memcarve.process import Platform
from memcarve.times import now
from memcarve.vocabulary import Layout

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence

    from memcarve.process import ProcessEntry, ProcessMemory, Progress
    from memcarve.segments import LeftOut, Segments

#: a SHA-256 as people write it, and how much they may write about a case
SHA256 = re.compile(r"[0-9a-fA-F]{64}")
LONGEST_TEXT = 1000
#: bytes of a file that is made of a module
LARGEST = 1 << 30
_UNKNOWN = Platform()


#: what has hashes; but for segments, SHA-256 or none
_HASHED = ("segments", "minidump", "elfcore", "flat", "scripts", "memmap")


#: what is recorded elsewhere, or changes nothing in what is written
_NOT_SHAPING = {
    "force", "resume", "command", "begin", "case_id", "operator", "hash_input", "input_sha256", "threads", "again",
    "partial",
}  # fmt: skip


def _about(*sinks: str, default: Any) -> Any:  # noqa: ANN401 - of a field, whose type stands beside it
    return field(default=default, metadata={"sinks": sinks})


@dataclass(frozen=True)
class SinkOptions:
    """How to write. Some options apply to some sinks alone; the others refuse them.

    Several processes: `resume` goes on with a folder that is partial.

    All: `force` replaces what memcarve wrote. The rest is recorded: `command`, the command line (None: this program's
    arguments); `begin`, when the work began (None: when the sink was called); `case_id` and `operator`, free text on
    one line, at most 1,000 characters. `hash_input` takes the SHA-256 of the file that the memory lies in;
    `input_sha256` is what that is known to be, and is recorded as stated. With both they are compared. `again` is a
    document that was written before: what does not follow from the input (`provenance.said_again`) is said as there, so
    that the output is the same byte for byte if all else is.

    segments, minidump, elfcore, flat: `sparse` writes pages of zeros as holes.

    segments, minidump, elfcore, flat, scripts, memmap: `hashes` are names in ``formats.manifest.SUMS``; but for
    segments, the SHA-256 of the file that was written, or none.

    segments: `label_names` has files named by labels, too; `skip_zero`
    leaves out segments that are zero throughout; `partial` takes a dump that ends too early; `environment` records the
    process's; `threads` copy at once (None: as many as are fast).

    minidump: `placeholder_thread` makes up a thread if none is known; `resident` leaves out modules whose first page is
    missing, and threads whose TEB is; `platform` takes precedence over what is known of the system, and so does
    `architecture` of the processor (for elfcore, too).

    flat: `address` is the range to write, half-open (None: from the first byte to the last); `fill` is the byte that
    gaps get (None: 0).

    memmap: `renderer` is how the map is written, one of ``formats.memmap.map_writing.RENDERERS`` (None: quick).

    modules: `layout` is a vocabulary.Layout; no file becomes larger than `largest` bytes; `archive` writes one
    encrypted ZIP archive.

    Raises UsageError for unknown words and for values out of range, MissingExtraError if a hash needs a package.
    """

    force: bool = False
    command: Sequence[str] | None = None
    begin: dt.datetime | None = None
    case_id: str | None = None
    operator: str | None = None
    hash_input: bool = False
    input_sha256: str | None = None
    again: Mapping[str, Any] | None = None
    resume: bool = _about("several processes", default=False)
    sparse: bool = _about("segments", "minidump", "elfcore", "flat", default=False)
    hashes: Sequence[str] = _about(*_HASHED, default=("sha256",))
    label_names: bool = _about("segments", default=False)
    skip_zero: bool = _about("segments", default=False)
    partial: bool = _about("segments", default=False)
    environment: bool = _about("segments", default=False)
    threads: int | None = _about("segments", default=None)
    placeholder_thread: bool = _about("minidump", default=False)
    resident: bool = _about("minidump", default=False)
    platform: Platform = field(default=_UNKNOWN, metadata={"sinks": ("minidump",)})
    architecture: str | None = _about("minidump", "elfcore", default=None)
    address: tuple[int, int] | None = _about("flat", default=None)
    fill: int | None = _about("flat", default=None)
    renderer: str | None = _about("memmap", default=None)
    layout: str = _about("modules", default=Layout.FILE)
    largest: int = _about("modules", default=LARGEST)
    archive: bool = _about("modules", default=False)

    def __post_init__(self) -> None:
        Layout.check(self.layout)
        for what, names, known in (
            ("hash function", self.hashes, list(manifest.SUMS)),
            ("format of a map", [self.renderer or "quick"], list(RENDERERS)),
        ):
            unknown = [name for name in names if name not in known]
            if unknown:
                raise UsageError(f"unknown {what} {unknown[0]!r}", remedy=f"choose from {', '.join(known)}")
        if BLAKE3 in self.hashes:
            new_digest(BLAKE3)  # raises if its package is not installed
        if self.fill is not None and not 0 <= self.fill < 1 << 8:
            raise UsageError(f"{self.fill} is not a byte to fill gaps with", remedy="give one from 00 to ff")
        for name, text in (("case_id", self.case_id), ("operator", self.operator)):
            if text is not None and (len(text) > LONGEST_TEXT or not text.isprintable() or not text.strip()):
                raise UsageError(
                    f"{text[:40]!r} is not text on one line of at most {LONGEST_TEXT} characters",
                    remedy=f"give another {{{name}}}",
                )
        if self.input_sha256 is not None and not SHA256.fullmatch(self.input_sha256):
            raise UsageError(f"{self.input_sha256[:80]!r} is not a SHA-256", remedy="give 64 hexadecimal digits")

    def record(self, begun: float, **more: Any) -> dict[str, Any]:  # noqa: ANN401 - ready for JSON
        """Return what `provenance.document` takes; `begun` is when the sink was called (``time.monotonic``)."""
        begin = self.begin or now() - dt.timedelta(seconds=time.monotonic() - begun)
        said = {"command": self.command, "case_id": self.case_id, "operator": self.operator}
        return {**said, "begin": begin, "options": self.facts(), "again": self.again, **more}

    def facts(self) -> dict[str, Any]:
        """Return the options that shape what is written, ready for JSON: those that are not left as they are."""
        found: dict[str, Any] = {}
        for each in fields(self):
            value, default = vars(self)[each.name], each.default
            if each.name == "hashes":
                value, default = list(value), ["sha256"]
            if each.name not in _NOT_SHAPING and value != default:
                if isinstance(value, Platform):
                    value = value._asdict()
                elif each.name == "address":
                    value = [f"0x{bound:x}" for bound in value]
                found[each.name] = value
        return found

    @classmethod
    def of_facts(cls, facts: Mapping[str, Any]) -> SinkOptions:
        """Return the options that `facts` describes; it may come from anywhere.

        Raises ValueError, TypeError, KeyError or UsageError if it describes none.
        """
        given = dict(facts)
        known = {each.name: each for each in fields(cls) if each.name not in _NOT_SHAPING}
        for name, value in given.items():
            default = known[name].default
            if isinstance(default, bool) and not isinstance(value, bool):
                raise TypeError(name)
        if "platform" in given:
            given["platform"] = Platform(**given["platform"])
        if "address" in given:
            start, end = given["address"]
            given["address"] = int(start, 16), int(end, 16)
        for name in ("fill", "largest"):
            if name in given and type(given[name]) is not int:
                raise TypeError(name)
        if "hashes" in given:
            given["hashes"] = tuple(str(name) for name in given["hashes"])
        return cls(**given)

    def check(self, sink: str) -> None:
        """Raise UsageError if an option is given that does not apply to a sink."""
        for each in fields(self):
            sinks = each.metadata.get("sinks", (sink,))
            if sink not in sinks and vars(self)[each.name] != each.default:
                raise UsageError(
                    f"an option does not apply to {sink}",
                    remedy=f"{{{each.name}}} is for {', '.join(sinks)}; leave it out",
                )
        if sink != "segments" and not {*self.hashes} <= {"sha256"}:
            raise UsageError(f"{sink} is hashed with SHA-256 alone", remedy="{hashes} holds sha256 or nothing")


@dataclass(frozen=True)
class Result:
    """What was written, of one process or of several.

    `files` are paths, the most important one first; a folder is one. `count` is how many of `what` (``"segment"``,
    ``"range"``, ``"row"``, ``"module"``, ``"process"``) are in them, `of` how many there were. Of `bytes` of memory in
    all, `missing_bytes` are not there: mapped but missing in the input, or not in the memory that a module was
    made of. `input_bytes` is what was looked at: `bytes` and what was `left_out`, None if that is not counted.
    `complete` is false if bytes are known to be missing. `moved` counts the bytes by how they were moved; `hashes`
    names those that were taken of segments, or checked. `compared` is true if `verify` compared every byte with the
    source. `notes` are for the user. `seal` is the SHA-256 of `sealed`, the file among these that says what all others
    must be, or the one file that was written; None if nothing was hashed.

    Of several processes, `parts` are the results of each, in which `entry` is the process, and `error` says what went
    wrong: then nothing was written.
    """

    files: tuple[str, ...]
    what: str
    count: int
    bytes: int
    complete: bool
    seconds: float
    of: int = 0
    left_out: Sequence[LeftOut] = ()
    missing_bytes: int = 0
    input_bytes: int | None = None
    moved: Mapping[str, int] = field(default_factory=dict)
    hashes: Sequence[str] = ()
    compared: bool = False
    notes: Sequence[str] = ()
    seal: str | None = None
    sealed: str | None = None
    entry: ProcessEntry | None = None
    error: MemcarveError | None = None
    parts: tuple[Result, ...] = ()

    @property
    def path(self) -> str:
        """The first of the files."""
        return self.files[0]


class Sink(Protocol):
    """Writes segments of a process."""

    def __call__(
        self,
        process: ProcessMemory,
        segments: Segments,
        out: str | os.PathLike[str],
        options: SinkOptions = ...,
        progress: Progress | None = None,
    ) -> Result:
        """Write them to `out`, whole or not at all."""
