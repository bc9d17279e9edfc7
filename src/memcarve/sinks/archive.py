"""One encrypted ZIP archive of files, as analysts exchange malware: AES-256, with the password that everybody uses.

The password keeps programs from being run, looked into or removed by accident on their way; it is no secret. Sources:
PKWARE, APPNOTE 6.3.10; WinZip, "AES Encryption Information" (AE-2).
"""

from __future__ import annotations

import contextlib
import hashlib
from typing import TYPE_CHECKING, Any

from memcarve.errors import MissingExtraError
from memcarve.sinks.final_name import NewFile
from memcarve.sinks.ownership import MARK
from memcarve.version import __version__

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Sequence
    from types import TracebackType
    from typing import Self

    from memcarve.sinks.module_file import ModuleFile, Told

PASSWORD = b"infected"

#: one byte in so many must be from memory for a file to be packed: the rest is zeros, of which packing makes bombs
_SHARE = 8
_OVERHEAD = 1 << 10  # of a member: headers, salt, code
_LARGE = 1 << 30  # bytes of a member whose lengths are written with 64 bits


class NewArchive(NewFile):
    """Builds an archive beside its final name; see NewFile. Raises MissingExtraError without pyzipper."""

    def __init__(self, target: str | os.PathLike[str], *, force: bool = False, inputs: Sequence[str] = ()) -> None:
        super().__init__(target, force=force, inputs=inputs)
        try:
            import pyzipper  # an extra
        except ImportError:
            raise MissingExtraError(
                "to write an encrypted archive: pip install 'memcarve[zip]'", subject=self.name
            ) from None
        self._pyzipper = pyzipper
        self._archive: Any = None

    def __enter__(self) -> Self:
        """Create the file beside the target; raises TargetExistsError, OutputError."""
        super().__enter__()
        self._archive = self._pyzipper.AESZipFile(
            self.path, "w", compression=self._pyzipper.ZIP_DEFLATED, encryption=self._pyzipper.WZ_AES
        )
        self._archive.setpassword(PASSWORD)
        self._archive.comment = MARK + __version__.encode()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            try:
                self._archive.close()
            except OSError as problem:
                kind, error, trace = type(problem), problem, problem.__traceback__
        else:  # it is not to be finished, and cannot be if a member is not
            file, self._archive.fp = self._archive.fp, None
            with contextlib.suppress(OSError):  # what is left to be written
                file.close()
        super().__exit__(kind, error, trace)

    def add(self, name: str, file: ModuleFile, told: Told) -> str:
        """Write a module's file; return its SHA-256. It is not compressed if most of it is not in memory."""
        digest, done = hashlib.sha256(), 0
        packed = file.resident * _SHARE >= file.size
        with self._member(name, file.size, packed=packed) as member:
            for view, _ in file.blocks():
                digest.update(view)
                member.write(view)
                done += len(view)
                told(done)
        return digest.hexdigest()

    def write(self, name: str, chunks: Iterable[bytes]) -> None:
        """Write another file."""
        with self._member(name, None, packed=True) as member:
            for chunk in chunks:
                member.write(chunk)

    def needs(self, file: ModuleFile) -> int:
        """Return how many bytes a file takes at most."""
        return file.size + _OVERHEAD

    def _member(self, name: str, size: int | None, *, packed: bool) -> Any:  # noqa: ANN401 - a file of the library's
        """Begin a member; None is a size that is not known, which may be any."""
        info = self._archive.zipinfo_cls(name)
        info.compress_type = self._pyzipper.ZIP_DEFLATED if packed else self._pyzipper.ZIP_STORED
        info.external_attr = 0o600 << 16
        info.file_size = size or 0
        return self._archive.open(info, "w", force_zip64=size is None or size >= _LARGE)
