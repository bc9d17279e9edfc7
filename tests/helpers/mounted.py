"""Trees that are mounted for a test, in this process; and what a tree holds, read without mounting it."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import subprocess
import threading
from ctypes.util import find_library
from typing import TYPE_CHECKING

import pytest

from memcarve.mount.file_server import serve
from memcarve.mount.mounted_tree import MountedTree
from memcarve.mount.virtual_file import Folder, Link

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from memcarve.mount.virtual_file import Node, VirtualFile
    from memcarve.process import Container

_PATIENCE = 20.0


def need_fuse() -> None:
    """Skip the test, and say why, if nothing can be mounted here."""
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        pytest.skip("/dev/fuse is not there or not ours: mounting needs it")
    if find_library("fuse3") is None and find_library("fuse") is None:
        pytest.skip("libfuse is not installed (fuse3)")
    if importlib.util.find_spec("mfusepy") is None:
        pytest.skip("mfusepy is not installed")


def tree_of(container: Container, **options: object) -> MountedTree:
    """Return the tree of all processes of a container; whatever it tells is kept in `told`."""
    told: list[str] = []
    tree = MountedTree(container, container.certain(), tell=told.append, **options)  # type: ignore[arg-type]
    tree.told = told  # type: ignore[attr-defined]
    return tree


@contextlib.contextmanager
def mounted(tree: MountedTree, folder: Path, **options: bool) -> Iterator[Path]:
    """Mount a tree on a new folder until the block ends."""
    need_fuse()
    folder.mkdir()
    ready, failed = threading.Event(), list[BaseException]()

    def work() -> None:
        try:
            serve(tree, str(folder), ready=ready.set, **options)
        except BaseException as error:  # noqa: BLE001 - raised again below
            failed.append(error)
            ready.set()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        assert ready.wait(_PATIENCE), "it was not mounted"
        if failed:
            raise failed[0]
        yield folder
    finally:
        unmount(folder)
        thread.join(_PATIENCE)
        assert not thread.is_alive(), "it is still mounted"


def unmount(folder: Path) -> None:
    """Unmount a folder, if it is mounted; whoever still reads there loses it."""
    for words in (["fusermount3", "-u"], ["umount", "--lazy"]):
        if os.path.ismount(folder):
            subprocess.run([*words, folder], capture_output=True, check=False)


def content_of(file: VirtualFile, block: int = 1 << 20) -> bytes:
    """Return all of a file, read in blocks."""
    data = bytearray(file.size)
    view = memoryview(data)
    for place in range(0, file.size, block):
        file.read_into(place, view[place : place + block])
    return bytes(data)


def nodes_in(folder: Folder) -> dict[str, Node]:
    """Return what a folder lists, found by name."""
    found = {}
    for entry in folder.listed(0):
        node = folder.find(entry.name)
        assert node is not None, entry
        found[entry.name] = node
    return found


def files_in(folder: Folder, below: str = "") -> dict[str, bytes]:
    """Return every file below a folder by its path, with its content; of links, where they lead."""
    found = {}
    for name, node in nodes_in(folder).items():
        if isinstance(node, Folder):
            found |= files_in(node, f"{below}{name}/")
        elif isinstance(node, Link):
            found[f"{below}{name}"] = node.target.encode()
        else:
            found[f"{below}{name}"] = content_of(node)
    return found
