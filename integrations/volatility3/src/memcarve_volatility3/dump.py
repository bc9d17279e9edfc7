# This file is Copyright 2026 the memcarve authors and licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""What ``--dump`` writes: memcarve's carved folder, every file of it through Volatility's file handler."""

from __future__ import annotations

import contextlib
import os
import threading
from typing import TYPE_CHECKING, Any

from volatility3.framework import constants

from memcarve.backing import FileBacking
from memcarve.copying.output_file import Target, write
from memcarve.sinks.carved_folder import carve
from memcarve.sinks.final_name import write_all
from memcarve.sinks.sink import SinkOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from memcarve.process import ProcessMemory
    from memcarve.segments import Segments

    Open = Callable[[str], Any]
    Progress = Callable[[int, int], object]

#: an unfinished file's ending: its content is not what its name says
INCOMPLETE = ".incomplete"
_SEGMENT = ".bin"
#: whether a handler tells after `close` what its file is called in the end; looking before costs as much as closing
_TELLS = (constants.VERSION_MAJOR, constants.VERSION_MINOR) >= (2, 8)


class HandlerFiles:
    """Files that Volatility's handler opens (a memcarve.Files); `names` are what those are called that are whole.

    Only a process that is written `alone` has the names for what describes it that memcarve gives.
    """

    def __init__(self, open_method: Open, pid: int | None, *, alone: bool) -> None:
        self.open = open_method
        self.pid = pid
        self.alone = alone
        self.names: dict[str, str] = {}
        # a handler makes many short calls: threads that do so at once mostly hand the interpreter to and fro
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def create(self, name: str) -> Iterator[Any]:
        """Create a file, and give it its name when it is whole."""
        stem, ending = os.path.splitext(name)
        called = f"{stem}.pid.{self.pid}{ending}" if ending == _SEGMENT else name
        if ending != _SEGMENT and not self.alone:
            called = f"pid.{self.pid}.{name}"
        handle = self.open(called)
        if not os.path.splitext(called)[1] and _final_name(handle).startswith("."):
            # Volatility before 2.6 hides files whose names have no ending
            handle.preferred_filename = f"{called}.txt"
        try:
            yield handle
        except BaseException:
            handle.preferred_filename = f"{called}{INCOMPLETE}"
            handle.close()
            raise
        before = None if _TELLS else _final_name(handle)
        handle.close()
        self.names[name] = before or str(handle.preferred_filename)

    def write_new(self, files: Iterable[tuple[str, memoryview]], shown: str) -> None:
        """Create files, each with all of its bytes; messages call their folder `shown`."""
        with self._lock:
            for name, data in files:
                with self.create(name) as handle:
                    try:
                        target = Target(handle.fileno(), f"{shown}{name}")
                    except OSError:  # it is not one of the system's
                        write_all(handle, data)
                    else:
                        write(target, data)

    def named(self, name: str) -> str:
        """Return what a file is called in the end."""
        return self.names[name]


def dump(process: ProcessMemory, segments: Segments, files: HandlerFiles, progress: Progress) -> None:
    """Write the segments, then segments.json and SHA256SUMS.

    Raises MemcarveError. What was written by then stays, without a manifest.
    """
    # a layer of Volatility's is for one thread at a time
    threads = None if isinstance(process.space.backing, FileBacking) else 1
    carve(process, segments, files, SinkOptions(threads=threads), progress)


def _final_name(handle: Any) -> str:  # noqa: ANN401
    """Return the name that a handler will give its file, which is another one if there is a file of that name."""
    find = getattr(handle, "_get_final_filename", None)
    return os.path.basename(find()) if find is not None else str(handle.preferred_filename)
