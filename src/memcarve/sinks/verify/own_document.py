"""What an output is, and the document that says where it comes from: in it, beside it, or in the archive."""

from __future__ import annotations

import contextlib
import os
import stat
import zipfile
from collections import Counter
from typing import IO, TYPE_CHECKING, Any, NamedTuple

from memcarve.backing import FileBacking, open_regular
from memcarve.errors import InputError, MissingExtraError, NotRecognisedError
from memcarve.formats import manifest
from memcarve.formats.elf_core import core_headers
from memcarve.formats.elf_layout import is_core
from memcarve.formats.json_text import HalfError, half_in, loads, strict
from memcarve.formats.minidump import structures
from memcarve.sinks.archive import PASSWORD
from memcarve.sinks.ownership import MARK, SCRIPTS

if TYPE_CHECKING:
    from collections.abc import Iterator

MODULES, SCRIPT, FLAT, CORE, MINIDUMP, MEMMAP = "modules", "scripts", "flat", "elfcore", "minidump", "memmap"
_LARGEST = 1 << 28
_LONGEST_BANNER = 200
#: what can be verified
WANTED = "give what memcarve carved, exported or extracted; of a memory map and its dump, the map"


class Own(NamedTuple):
    """An output: `what` it is, the `document` in it, and the name and bytes of the file that the seal is about.

    `files` are those that lie in it by name: paths, or members of an archive. Of a file, it is that.
    """

    what: str
    path: str
    document: dict[str, Any]
    sealed: str
    archive: bool = False

    @property
    def sealed_path(self) -> str:
        """Where the file lies that the seal is about; in an archive there is no path to it."""
        if self.what in (MODULES, SCRIPT):
            return os.path.join(self.path, self.sealed)
        return os.path.join(os.path.dirname(self.path), self.sealed)

    @contextlib.contextmanager
    def reader(self) -> Iterator[Members]:
        """Give access to the files in a folder or archive."""
        if not self.archive:
            yield _Folder(self.path)
            return
        with _archive(self.path) as found:
            yield _Archive(found)


class Members:
    """Files in a folder or archive."""

    def names(self) -> dict[str, str | None]:
        """Return the names, each with what is wrong with it, if anything."""
        raise NotImplementedError

    def open(self, name: str) -> contextlib.AbstractContextManager[IO[bytes]]:
        """Open a file. Raises InputError."""
        raise NotImplementedError


class _Folder(Members):
    def __init__(self, path: str) -> None:
        self.path = path

    def names(self) -> dict[str, str | None]:
        with os.scandir(self.path) as entries:
            modes = {entry.name: entry.stat(follow_symlinks=False).st_mode for entry in entries}
        return {name: None if stat.S_ISREG(mode) else "is not a regular file" for name, mode in modes.items()}

    def open(self, name: str) -> contextlib.AbstractContextManager[IO[bytes]]:
        return open_regular(os.path.join(self.path, name))


class _Archive(Members):
    def __init__(self, archive: Any) -> None:  # noqa: ANN401 - the library has no types
        self.archive = archive

    def names(self) -> dict[str, str | None]:
        count = Counter(self.archive.namelist())
        return {name: "is there twice" if times > 1 else None for name, times in count.items()}

    def open(self, name: str) -> contextlib.AbstractContextManager[IO[bytes]]:
        found: contextlib.AbstractContextManager[IO[bytes]] = self.archive.open(name)
        return found


@contextlib.contextmanager
def _archive(path: str) -> Iterator[Any]:
    try:
        import pyzipper  # an extra
    except ImportError:
        raise MissingExtraError("to read an encrypted archive: pip install 'memcarve[zip]'", subject=path) from None
    with open_regular(path, follow=True) as file:
        try:
            with pyzipper.AESZipFile(file) as found:
                found.setpassword(PASSWORD)
                yield found
        except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, KeyError) as error:
            raise InputError(f"is a damaged archive: {error}", subject=path) from None


def find(path: str) -> Own:
    """Return what lies at a path. Raises InputError if memcarve did not write it, or not something that says so."""
    try:
        if os.path.isdir(path):
            return _in_folder(path)
        with FileBacking(path) as file:
            found = _in_file(path, file)
    except HalfError as error:
        raise InputError(str(error), subject=path) from None
    if found is None:
        raise InputError("is not something that memcarve wrote and can check", subject=path, remedy=WANTED)
    return found


def _in_folder(path: str) -> Own:
    for what, name in ((MODULES, manifest.MODULES), (SCRIPT, SCRIPTS)):
        listing = os.path.join(path, name)
        if os.path.lexists(listing):
            return Own(what, path, manifest.document(listing), name)
    raise InputError(f"holds no {manifest.NAME}", subject=path, remedy=WANTED)


def _in_file(path: str, file: FileBacking) -> Own | None:
    head = file.read_at(0, 4096)
    name = os.path.basename(path)
    if head.startswith(structures.MAGIC) and (document := _of_minidump(file, head)) is not None:
        return Own(MINIDUMP, path, document, name)
    if is_core(head) and (document := _of_core(file)) is not None:
        return Own(CORE, path, document, name)
    # the memory in a flat file may begin with anything
    found = _beside(path, head, name)
    if found is None and head.startswith(b"PK"):
        return _in_archive(path)
    return found or _of_map(path, head, name)


def _in_archive(path: str) -> Own | None:
    with _archive(path) as archive:
        if not archive.comment.startswith(MARK) or manifest.MODULES not in archive.namelist():
            return None
        with archive.open(manifest.MODULES) as member:
            return Own(MODULES, path, _parsed(member.read(_LARGEST), path), manifest.MODULES, archive=True)


def _beside(path: str, head: bytes, name: str) -> Own | None:
    """Return a flat file with the document beside it; either may have been named."""
    if head.startswith(b"{") and path.endswith(".json"):
        with contextlib.suppress(NotRecognisedError):
            found = manifest.document(path)
            if found.get("what") == FLAT:
                return Own(FLAT, path.removesuffix(".json"), found, name)
    if os.path.lexists(f"{path}.json"):
        found = manifest.document(f"{path}.json")
        if found.get("what") == FLAT:
            return Own(FLAT, path, found, f"{name}.json")
    return None


def _of_map(path: str, head: bytes, name: str) -> Own | None:
    line = head[:_LONGEST_BANNER].partition(b"\n")[0]
    if line.startswith(b"Volatility 3 Framework") and MARK in line:
        return Own(MEMMAP, path, {}, name)
    beside = f"{path.removesuffix('.dmp')}.map"
    if path.endswith(".dmp") and os.path.lexists(beside):
        with FileBacking(beside, follow=False) as file:
            return _of_map(beside, file.read_at(0, 4096), os.path.basename(beside))
    return None


def _of_minidump(file: FileBacking, head: bytes) -> dict[str, Any] | None:
    if len(head) < structures.HEADER.size:
        return None
    place = structures.HEADER.size + structures.DIRECTORY.size * structures.HEADER.unpack_from(head)[2]
    text = file.read_at(place + -place % 8, structures.LONGEST_COMMENT).partition(b"\0")[0]
    return _parsed(text, file.path, halves=True) if text.startswith(structures.MARK) else None


def _of_core(file: FileBacking) -> dict[str, Any] | None:
    header = core_headers.read_header(file)
    if header is None:
        return None
    table, _ = core_headers.program_headers(file, header)
    first = next(core_headers.read_notes(file, header, table[:1]), None)
    if first is None or (first.owner, first.kind) != (core_headers.OWNER, core_headers.PROVENANCE):
        return None
    return _parsed(file.read_at(first.offset, first.size), file.path, halves=True)


def _parsed(data: bytes, path: str, *, halves: bool = False) -> dict[str, Any]:
    """Return the document; one in a core or minidump may hold `halves` of characters, as names there do."""
    try:
        text = data.rstrip(b"\0").decode("utf-8")
        found = strict(text) if halves and half_in(text) else loads(text)
    except (ValueError, RecursionError) as error:
        if isinstance(error, HalfError):
            raise
        found = None
    if not isinstance(found, dict):
        raise InputError("the document that says where it comes from is damaged", subject=path)
    return found
