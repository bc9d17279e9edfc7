"""What memcarve wrote, checked: by itself, by the seal that was printed, and against the source that it came from."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from memcarve.formats import manifest
from memcarve.sinks.verify.carved_check import CarvedCheck
from memcarve.sinks.verify.faults import seal_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from memcarve.process import Labeller, ProcessMemory, Progress
    from memcarve.sinks.sink import Result


def read_header(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the manifest's header: how the folder came to be. Raises InputError."""
    return manifest.read(os.path.join(os.fspath(folder), manifest.NAME))[0]


def verify(
    folder: str | os.PathLike[str],
    source: ProcessMemory | None = None,
    *,
    seal: str | None = None,
    labelling: Callable[[str], Labeller] | None = None,
    progress: Progress | None = None,
) -> Result:
    """Check every file of a carved folder: its name, its size, its hashes, and with `source` every byte.

    Also that nothing else lies there, that segments are in order and their sums are the totals, and that the files of
    checksums agree. `seal` is the SHA-256 of ``segments.json`` that was printed when it was written. With `source` the
    recorded choice is made again: what the source holds and the folder lacks, and whatever the manifest says of it
    that does not follow from the source. `labelling` (``memcarve.Labelling``) is needed to compare labels, too.

    Raises VerificationError that lists the faults (the first hundred, in `faults`), UsageError if `seal` is none.
    """
    digits = None if seal is None else seal_of(seal)
    return CarvedCheck(os.fspath(folder), source, labelling, progress).run(digits)
