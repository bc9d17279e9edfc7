"""The SHA-256 of the input: taken while its memory is written, or known to the user already."""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING, Any

from memcarve.copying.copier import StoppedError
from memcarve.errors import InputError, UnreadableError
from memcarve.hashing import hash_of
from memcarve.provenance import is_source

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from memcarve.backing import Backing, FileBacking
    from memcarve.process import ProcessMemory
    from memcarve.sinks.sink import SinkOptions

_WAIT = 0.2  # seconds
_BESIDE, _BEFORE = "beside the copying", "before the copying"


@contextlib.contextmanager
def input_hash(process: ProcessMemory, options: SinkOptions, stop: threading.Event) -> Iterator[dict[str, Any]]:
    """Hash the whole input while the ``with`` block runs, if that was asked for; yield what is recorded of it.

    It is complete behind the block. The copying is done by the kernel, by several threads and in the order of
    addresses, so the hash is a pass of its own beside it; a disk is read once, as long as memory holds what it gave.
    An exception in the block ends the pass, and so does setting `stop`. Raises InputError if the hash is not the one
    that was stated, SourceReadError.
    """
    _hash_page_files(process, options, stop)
    known = _known(process)
    found = stated(options) if known is None else _compared(process.file, known, options)
    if not options.hash_input or known is not None:
        yield found
        return
    digest: list[str] = []
    failed: list[BaseException] = []

    def work() -> None:
        try:
            digest.append(_sha256(process.file, stop))
        except StoppedError:
            pass
        except BaseException as error:  # noqa: BLE001 - raised again below
            failed.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield found
        while thread.is_alive():
            thread.join(_WAIT)  # in steps, so that a signal is noticed
    except BaseException:
        stop.set()
        thread.join()
        raise
    if failed:
        raise failed[0]
    if not digest:
        raise StoppedError
    found |= _checked(process.file, digest[0], options, _BESIDE)


def hash_to_come(process: ProcessMemory, options: SinkOptions, word: str) -> dict[str, Any]:
    """Return what `input_hash` is going to yield, with a word in place of a hash that is to be taken.

    Those of page files are taken.
    """
    _hash_page_files(process, options, threading.Event())
    known = _known(process)
    if known is not None:
        return _compared(process.file, known, options)
    return _computed(word, options, _BESIDE) if options.hash_input else stated(options)


def _hash_page_files(process: ProcessMemory, options: SinkOptions, stop: threading.Event) -> None:
    """Note the SHA-256 of the page files among what is known of a process's inputs, if that was asked for.

    If something is written again, that is if it has them.
    """
    wanted, rows = options.hash_input, process.inputs.get("page_files", ())
    if options.again is not None:
        inputs = options.again.get("inputs")
        before = inputs.get("page_files") if isinstance(inputs, dict) else None
        wanted = isinstance(before, list) and any(isinstance(row, dict) and "sha256" in row for row in before)
    if wanted:
        hash_all(process.page_files, stop)
        for file, row in zip(process.page_files, rows, strict=True):
            row.update(file.hashed)


def hash_all(files: Iterable[FileBacking], stop: threading.Event) -> None:
    """Take the SHA-256 of files, each once. Raises as `input_hash` does."""
    for file in files:
        if not file.hashed:
            file.hashed = {"sha256": _sha256(file, stop), "sha256_is": "computed", "sha256_pass": _BEFORE}


def hashed_before(file: FileBacking, options: SinkOptions) -> dict[str, Any]:
    """Return what is recorded of an input that several processes lie in: it is read once, before all of them.

    Raises as `input_hash` does.
    """
    known = file.described.get("sha256")
    if known is not None:  # it was taken while the file was decoded
        return _compared(file, known, options)
    if not options.hash_input:
        return stated(options)
    return _checked(file, _sha256(file, threading.Event()), options, _BEFORE)


def _sha256(file: Backing, stop: threading.Event) -> str:
    """Return the hash of a file; raises InputError if part of it cannot be read: then it has none. StoppedError."""

    def go_on(_: int) -> None:
        if stop.is_set():
            raise StoppedError

    try:
        return hash_of(file, between=go_on)
    except UnreadableError as error:
        raise InputError(
            error.problem, subject=error.subject, remedy="what cannot be read whole has no hash: leave {hash_input} out"
        ) from error


def stated(options: SinkOptions) -> dict[str, Any]:
    """Return what is recorded of a hash that the user knows; nothing if there is none."""
    known = options.input_sha256
    return {} if known is None else {"sha256": known.lower(), "sha256_is": "stated"}


def _known(process: ProcessMemory) -> str | None:
    """Return the hash if it was taken before, and is among what is known of the process's inputs."""
    sources = (each for each in process.inputs.values() if is_source(process, each))
    return next((each["sha256"] for each in sources if "sha256" in each and each.get("sha256_is") != "stated"), None)


def _checked(file: Backing, digest: str, options: SinkOptions, when: str) -> dict[str, Any]:
    """Return what is recorded of a hash that was taken; raises InputError if another one was stated."""
    return {**_computed(digest, options, when), **_compared(file, digest, options)}


def _compared(file: Backing, digest: str, options: SinkOptions) -> dict[str, Any]:
    """Return what is recorded of a stated hash beside the one that was taken; raises InputError if they differ."""
    known = stated(options).get("sha256")
    if known not in (None, digest):
        raise InputError(
            f"has the SHA-256 {digest}, and {known} was stated",
            subject=file.path,
            remedy="it is another file, or was changed: find out which; without {input_sha256} nothing is compared",
        )
    return {} if known is None else {"sha256_stated": known}


def _computed(digest: str, options: SinkOptions, when: str) -> dict[str, Any]:
    told = {} if options.input_sha256 is None else {"sha256_stated": options.input_sha256.lower()}
    return {"sha256": digest, "sha256_is": "computed", "sha256_pass": when, **told}
