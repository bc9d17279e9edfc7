"""Where large temporary files go: to a folder on disk, never unasked into memory."""

from __future__ import annotations

import tempfile

from memcarve.errors import OutputError
from memcarve.file_systems import on_disk


def temporary_folder(path: str, why: str = "is compressed") -> str:
    """Return a folder on disk for what is made of the file at `path`, or raise OutputError, which says why it is."""
    folder = on_disk(tempfile.gettempdir(), "/var/tmp")  # noqa: S108 - the file in it has no name
    if folder is None:
        raise OutputError(
            f"{why}, and the temporary folders of this system lie in memory, where nothing large is written unasked",
            subject=path,
            remedy="{temp:DIR} names a folder",
        )
    return folder
