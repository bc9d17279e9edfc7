"""What memcarve wrote, checked: by itself, by the seal that was printed, and against the source that it came from."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING

from memcarve.formats import manifest
from memcarve.remote.locations import is_location
from memcarve.sinks.ownership import SCRIPTS
from memcarve.sinks.verify import own_document
from memcarve.sinks.verify.carved_check import CarvedCheck
from memcarve.sinks.verify.faults import seal_of
from memcarve.sinks.verify.fetched_objects import fetched
from memcarve.sinks.verify.output_check import check_output

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from memcarve.backing import Backing
    from memcarve.process import Labeller, ProcessMemory, Progress
    from memcarve.sinks.sink import Result
    from memcarve.sinks.verify.output_check import Find


def read_header(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the manifest's header: how the folder came to be. Raises InputError."""
    return manifest.read(os.path.join(os.fspath(folder), manifest.NAME))[0]


def document_of(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the document that says how what memcarve wrote came to be. Raises InputError."""
    where = os.fspath(path)
    if _is_carved(where) and os.path.lexists(os.path.join(where, manifest.NAME)):
        return read_header(where)
    return own_document.find(where).document


def _is_carved(path: str) -> bool:
    others = (manifest.MODULES, SCRIPTS)
    if not os.path.isdir(path) or os.path.lexists(os.path.join(path, manifest.NAME)):
        return os.path.isdir(path)
    return not any(os.path.lexists(os.path.join(path, name)) for name in others)


def verify(
    path: str | os.PathLike[str],
    source: ProcessMemory | None = None,
    *,
    seal: str | None = None,
    labelling: Callable[[str], Labeller] | None = None,
    find: Find | None = None,
    temp: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
    contents: Callable[[str], Backing] | None = None,
) -> Result:
    """Check what memcarve wrote: every file's name, size and hashes, and with `source` every byte.

    Of a carved folder also that nothing else lies there, that segments are in order and their sums are the totals, and
    that the files of checksums agree. `seal` is the SHA-256 that was printed when it was written. With `source` the
    recorded choice is made again: what the source holds and the folder lacks is told, and whatever the document says
    that does not follow from the source. `labelling` (``memcarve.Labelling``) is needed to compare labels, too, and
    `find` (``memcarve.find_modules``) to compare what was extracted. What was exported or extracted is written again
    into a temporary folder for that: in `temp`, or where it lies on disk. Of what lies in a bucket
    (``s3://bucket/name``) the lists are fetched into such a folder and segments read as they are checked; with
    `source`, or if it is no carved folder, all of it is fetched. `contents` opens the bytes of segments, by the paths
    of their files, if they do not lie there.

    Raises VerificationError that lists the faults (the first hundred, in `faults`), UsageError if `seal` is none.
    """
    digits = None if seal is None else seal_of(seal)
    where = os.fspath(path)
    if is_location(where):
        with fetched(where, whole=source is not None, temp=None if temp is None else os.fspath(temp)) as there:
            with there.messages():
                result = verify(
                    there.path,
                    source,
                    seal=seal,
                    labelling=labelling,
                    find=find,
                    temp=temp,
                    progress=progress,
                    contents=there.contents,
                )
            return replace(result, files=(there.name,), notes=[there.told(note) for note in result.notes])
    if _is_carved(where):
        return CarvedCheck(where, source, labelling, progress, contents).run(digits)
    return check_output(where, source, labelling, find, temp, progress, digits)
