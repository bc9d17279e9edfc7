"""Paths as the evidence has them: of any system, on any system."""

from __future__ import annotations

#: what Linux puts before the name of a memfd, which may hold slashes: memfd_create(2)
_MEMFD = "memfd:"


def base_name(path: str) -> str:
    """Return the last part of a path of any system: what follows its last slash or backslash; of a memfd all."""
    import ntpath  # outside Windows it takes long to import: it looks for a module that is not there, several times

    bare = path.removeprefix("/")
    return bare if bare.startswith(_MEMFD) else ntpath.basename(path)
