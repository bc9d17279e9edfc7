"""What is written to a bucket: a folder of objects whose list comes last, or a file that is sent once it is whole.

An object is there once all of it has arrived, but several cannot be renamed together as a folder can. So a folder
begins with an object that marks it as partial (``segments.json.partial``), and its list (``segments.json``) is the last
that is written: a folder with its list is whole. The store makes sure that only one run makes the mark.
"""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
import uuid
from typing import TYPE_CHECKING, Any

from memcarve.errors import MemcarveError, NoSpaceError, OutputError, TargetExistsError, UsageError
from memcarve.file_systems import on_disk
from memcarve.formats import manifest
from memcarve.formats.json_text import dumps
from memcarve.remote.objects import PART, Objects, Uploads, objects_of
from memcarve.sinks.final_name import NewFile, NewFolder
from memcarve.sinks.object_ownership import LISTS, MARKS, foreign_object, foreign_objects, lists_first
from memcarve.times import now, rfc3339

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType
    from typing import Self

    from memcarve.remote.objects import Upload
    from memcarve.sinks.sink import SinkOptions

_TOO = "is written by another run, too"
_ANOTHER, _REPLACE = "choose another with {out}", "{force} replaces it, {out} chooses another"
_LONGEST_KEY = 1024  # bytes (Amazon S3 User Guide, "Naming objects")
#: what a name in a folder may be: of the user's own machine it may hold anything
_NAME = re.compile(r"[^\x00-\x1f\x7f/\\]{1,255}")
_LONGEST_NAME = 255


def new_folder(
    out: str | os.PathLike[str], sealed: str, options: SinkOptions, inputs: Sequence[str]
) -> NewFolder | ObjectFolder:
    """Return what builds the folder `out`, here or in a bucket; `sealed` is the list of what will be in it.

    Raises UsageError if options make no sense in a bucket.
    """
    objects = objects_of(out, folder=True)
    if objects is None:
        return NewFolder(out, force=options.force, inputs=inputs)
    check_options(objects, options)
    return ObjectFolder(objects, sealed, force=options.force, inputs=inputs)


def new_file(
    out: str | os.PathLike[str], options: SinkOptions, inputs: Sequence[str], beside: str | None = None
) -> NewFile:
    """Return what builds the file `out`, here or for a bucket, with another `beside` it that describes it."""
    objects = objects_of(out)
    if objects is None:
        return NewFile(out, force=options.force, inputs=inputs, beside=beside)
    check_options(objects, options)
    return ObjectFile(out, force=options.force, inputs=inputs, beside=beside)


def check_options(objects: Objects, options: SinkOptions) -> None:
    """Raise UsageError for what a bucket cannot do."""
    if options.sparse:
        raise UsageError("objects have no holes", subject=objects.name, remedy="leave {sparse} out: zeros are written")
    if options.resume:
        raise UsageError(
            "what is written to a bucket cannot be gone on with",
            subject=objects.name,
            remedy="leave {resume} out: {force} begins anew",
        )


class ObjectFolder:
    """Writes a folder of objects; see `final_name.Files`. `sealed` is the list of what is in it, and comes last.

    An exception in the ``with`` block removes what was written, and the error says so.
    """

    def __init__(self, objects: Objects, sealed: str, *, force: bool = False, inputs: Sequence[str] = ()) -> None:
        self.objects = objects
        #: the name as messages have it, and what other names in it begin with
        self.name = self.path = objects.name.rstrip("/")
        self.force = force
        self.notes: Sequence[str] = ()
        self.uploads = Uploads(objects)
        self._sealed = sealed
        self._inputs = inputs
        self._mark_name = sealed + MARKS
        self._mark = b""
        self._last: Upload | None = None

    def check(self) -> None:
        """Raise TargetExistsError if anything is there that may not be replaced, or is an input; OutputError."""
        if len((self.objects.key + "x" * _LONGEST_NAME).encode()) > _LONGEST_KEY:
            raise OutputError("is too long a name", subject=self.name, remedy=_ANOTHER)
        for path in self._inputs:
            if path == self.name or path.startswith(f"{self.name}/"):
                raise self._exists("is the input, or holds it", _ANOTHER)
        if self.force or not self.objects.listed(1):
            return
        if any(self.objects.size(name) is not None for name in LISTS):
            raise self._exists("exists", _REPLACE)
        raise self._there()

    def _there(self) -> TargetExistsError:
        """Return the error for what is there without a list."""
        if self.objects.size(self._mark_name) is None:
            return self._exists("holds objects", _ANOTHER)
        return self._exists(
            "is partial: another run writes it, or was killed",
            "wait until it has ended; if it was killed, {force} begins anew",
        )

    def __enter__(self) -> Self:
        """Mark it as partial, and remove what is replaced; raises TargetExistsError, OutputError."""
        self.check()
        replaced = self._replaced() if self.force else []
        self._mark = dumps(self._head(), default=str).encode("ascii")
        try:
            self.objects.put(self._mark_name, self._mark, new=not self.force)
            for group in replaced:
                self.objects.remove(name for name in group if name != self._mark_name)
        except FileExistsError:
            raise self._there() from None
        except BaseException as error:
            self._failed(error)
            raise
        return self

    def _head(self) -> dict[str, Any]:
        """Return what the mark says; no two runs say the same."""
        return {
            "schema": manifest.SCHEMAS[-1],
            "tool": manifest.TOOL,
            "what": self._sealed.removesuffix(".json"),
            "state": "partial",
            "run": {"begin": rfc3339(now())},
            "id": uuid.uuid4().hex,
        }

    def _replaced(self) -> list[list[str]]:
        """Return what is to be removed, in groups, lists first.

        Raises TargetExistsError if memcarve did not write all of it.
        """
        listed = self.objects.listed()
        problem = foreign_objects(self.objects, listed)
        if problem is not None:
            raise self._exists(problem, "{force} replaces only what memcarve wrote; " + _ANOTHER)
        return lists_first(listed)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._failed(error)
            return
        try:
            self._end()
        except BaseException as problem:
            self._failed(problem)
            if isinstance(problem, FileExistsError):
                raise self._exists("was written by another run meanwhile", _ANOTHER) from None
            raise

    def _end(self) -> None:
        """See that all is there, and then write the list."""
        self.uploads.wait()
        self._check_there()
        if self._last is not None:
            self._last.finish()
            self.uploads.wait()
            if not self._is_ours():  # another run has begun to replace all of this just before
                self.objects.remove([self._sealed])
                raise OutputError(_TOO, subject=self.name, remedy=_ANOTHER)
        self.objects.remove([self._mark_name])

    def _check_there(self) -> None:
        """Raise OutputError if what lies there is not what was written: another program was there."""
        mark = None
        with contextlib.suppress(FileNotFoundError):
            mark = self.objects.read(self._mark_name)
        if mark != self._mark:
            raise OutputError(_TOO, subject=self.name, remedy=_ANOTHER)
        there = self._listed()
        wanted = {name: size for name, size in self.uploads.written.items() if name != self._sealed}
        for name in sorted(there.keys() | wanted.keys()):
            _check_size(f"{self.name}/{name}", wanted.get(name), there.get(name))

    def _listed(self) -> dict[str, int]:
        there = self.objects.listed()
        there.pop(self._mark_name, None)
        return there

    def create(self, name: str) -> Upload:
        """Begin an object; see `final_name.Files`."""
        if not _NAME.fullmatch(name) or name in (".", "..") or not _encodable(name):
            raise OutputError(f"cannot hold an object called {name!r}", subject=self.name, remedy=_ANOTHER)
        last = name == self._sealed
        upload = self.uploads.create(name, later=last, new=last)
        if last:
            self._last = upload
        return upload

    def named(self, name: str) -> str:
        """Return what an object is called: as it was created."""
        return name

    def _failed(self, error: BaseException) -> None:
        """Remove what was written, and have the error say so."""
        state = "nothing was kept"
        try:
            self._undo()
        except (OSError, MemcarveError):
            state = f"what was written could not be removed: {self.name} holds objects, and no {self._sealed}"
        if isinstance(error, MemcarveError):
            error.state = state
        else:
            error.add_note(state)

    def _undo(self) -> None:
        self.uploads.abort()
        names = [*self.uploads.written]
        if self._is_ours():
            self.objects.remove([self._sealed])
            self.objects.remove(names)
            self.objects.remove([self._mark_name])

    def _is_ours(self) -> bool:
        """Return True if the mark is that of this run: else what lies there may be another's."""
        try:
            return self.objects.read(self._mark_name) == self._mark
        except FileNotFoundError:
            return False

    def _exists(self, problem: str, remedy: str) -> TargetExistsError:
        return TargetExistsError(problem, subject=self.name, remedy=remedy)


class ObjectFile(NewFile):
    """Builds a file in a temporary folder, and sends it once it is whole; see NewFile."""

    def __init__(
        self,
        target: str | os.PathLike[str],
        *,
        force: bool = False,
        inputs: Sequence[str] = (),
        beside: str | None = None,
    ) -> None:
        self._objects = _objects_at(target)
        self._beside_objects = None if beside is None else _objects_at(beside)
        self._folder = os.path.join(_temporary(), f"memcarve-{uuid.uuid4().hex}")
        near = None if self._beside_objects is None else self._near(self._beside_objects)
        super().__init__(self._near(self._objects), force=force, inputs=inputs, beside=near)
        self.name = self._objects.name

    def _near(self, objects: Objects) -> str:
        base = objects.key.rpartition("/")[2]
        if not _NAME.fullmatch(base):
            raise OutputError("is not the name of a file", subject=objects.name, remedy="name one with {out}")
        return os.path.join(self._folder, base)

    def check(self) -> None:
        """Raise TargetExistsError if an object exists that may not be replaced, or is an input; OutputError."""
        for path in self._inputs:
            if path == self.name:
                raise self._exists("is the input, or holds it")
        both = [each for each in (self._objects, self._beside_objects) if each is not None]
        present = [(each, size) for each in both if (size := each.size()) is not None]
        rows = [(each.key.rpartition("/")[2], size) for each, size in present]
        for number, (each, _) in enumerate(present):
            problem: str | None = "exists"
            if self.force:
                problem = foreign_object(
                    _folder_of(each), *rows[number], rows[number + 1] if rows[number + 1 :] else None
                )
            if problem is not None:
                remedy = "{force} replaces only what memcarve wrote; " + _ANOTHER if self.force else _REPLACE
                raise TargetExistsError(problem, subject=each.name, remedy=remedy)

    def _rename(self) -> None:
        """Send the files; what describes the other is removed before and sent after it."""
        pairs = [(self._objects, self.path)]
        if self._beside_objects is not None:
            if self.force:
                self._beside_objects.remove([""])
            pairs.append((self._beside_objects, self.beside_path))
        for objects, path in pairs:
            self._send(objects, path)
        self._remove()

    def _send(self, objects: Objects, path: str) -> None:
        uploads = Uploads(objects)
        try:
            with open(path, "rb", buffering=0) as file, uploads.create("", new=not self.force) as upload:
                while data := file.read(PART):
                    upload.write(data)
            uploads.wait()
            _check_size(objects.name, upload.bytes, objects.size())
        except FileExistsError:
            raise self._exists("was written by another run meanwhile", _REPLACE) from None
        except BaseException:
            with contextlib.suppress(MemcarveError, OSError):
                uploads.abort()
            raise

    def _failed(self, error: BaseException) -> None:
        super()._failed(error)
        if isinstance(error, NoSpaceError):
            built = os.path.dirname(self._folder)
            error.suggest(f"it is built in {built} before it is sent: TMPDIR names a folder with more room")


def _objects_at(name: str | os.PathLike[str]) -> Objects:
    found = objects_of(name)
    if found is None:
        raise OutputError("is not the name of an object", subject=os.fspath(name), remedy=_ANOTHER)
    return found


def _folder_of(objects: Objects) -> Objects:
    """Return the objects beside one."""
    key, name = objects.key.rpartition("/")[0], objects.name.rpartition("/")[0]
    return objects.below(f"{key}/" if key else "", f"{name}/")


def _temporary() -> str:
    """Return where files are built."""
    system = tempfile.gettempdir()
    return on_disk(system, "/var/tmp") or system  # noqa: S108 - a folder of its own is made there


def _encodable(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _check_size(name: str, written: int | None, there: int | None) -> None:
    """Raise OutputError if the store has more or fewer bytes of an object than were sent."""
    if written != there:
        problem = f"{_bytes(written)} were written, and the store has {_bytes(there)}"
        raise OutputError(problem, subject=name, remedy="try again")


def _bytes(size: int | None) -> str:
    return "no bytes" if size is None else f"{size} bytes"
