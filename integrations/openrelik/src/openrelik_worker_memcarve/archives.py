"""Files and folders as tar archives."""

from __future__ import annotations

import os
import tarfile
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_TOGETHER = 8 << 20


def pack(path: str, inside: Iterable[tuple[str, str]], *, compressed: bool, remove: bool = False) -> None:
    """Write an archive of what is given by path, and by name in it; folders with all that is in them.

    Files are written as they are, holes as zeros. With `remove` each is taken away as soon as it is in, so that not all
    of them take room twice.
    """
    more = {"compresslevel": 1} if compressed else {}
    with (
        open(path, "xb") as file,
        tarfile.open(  # type: ignore[call-overload]
            fileobj=file, mode="w:gz" if compressed else "w", format=tarfile.PAX_FORMAT, copybufsize=_TOGETHER, **more
        ) as archive,
    ):
        for given, name in inside:
            _add(archive, given, name, remove=remove)


def _add(archive: tarfile.TarFile, path: str, name: str, *, remove: bool) -> None:
    info = archive.gettarinfo(path, name)
    info.uid = info.gid = 0
    info.uname = info.gname = ""
    if info.isdir():
        archive.addfile(info)
        for inside in sorted(os.listdir(path)):
            _add(archive, os.path.join(path, inside), f"{name}/{inside}", remove=remove)
        if remove:
            os.rmdir(path)
    elif info.isreg():
        with open(path, "rb") as file:
            archive.addfile(info, file)
        if remove:
            os.unlink(path)
