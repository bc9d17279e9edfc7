"""What a process of Linux was started with: command line, environment, auxiliary vector, program.

They lie on its stack, where it can write anything; Linux shows them as /proc/PID/cmdline and /proc/PID/environ
(fs/proc/base.c: get_mm_cmdline, environ_read). What was swapped out is not known.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcarve.images.linux.dentry_paths import place_in
from memcarve.images.structure_reader import Reader
from memcarve.intervals import PAGE
from memcarve.metadata import Parameters

if TYPE_CHECKING:
    from memcarve.images.linux.dentry_paths import Paths
    from memcarve.images.linux.kernel_structures import Structures
    from memcarve.images.structure_reader import Readable

SOURCE = "mm_struct"
_LONGEST = 1 << 20  # bytes of a command line or an environment that are read
_WIDE = 8  # bytes of a word
_NARROW_END, _PAGES_BELOW = 1 << 32, 1 << 30  # TASK_SIZE of 32-bit programs: 3 GiB or more
_AT_NULL = 0
_MOST_AUXILIARY = 44  # words that every kernel has room for (AT_VECTOR_SIZE)


def parameters(kernel: Structures, mm: int, memory: Readable, end: int, image_path: str | None = None) -> Parameters:
    """Return what the process was started with whose memory the ``mm_struct`` at `mm` describes.

    `memory` is its memory, whose user half ends at `end`; `image_path` its program's path.
    """
    reader = Reader(memory, end)
    line, environment = command_line(kernel, mm, reader), _between(kernel, mm, reader, "env_start", "env_end")
    strings = None if environment is None else [*filter(None, environment.split(b"\0"))]
    return Parameters(
        SOURCE,
        None if line is None else _text(line.rstrip(b"\0").replace(b"\0", b" ")),
        image_path,
        environment=None if strings is None else tuple(map(_text, strings)),
    )


def command_line(kernel: Structures, mm: int, reader: Reader) -> bytes | None:
    """Return what /proc/PID/cmdline shows: the arguments, each with a NUL; None if it cannot be read.

    A program that writes over the NUL behind the last one made a title of its own, which may go on where the
    environment was.
    """
    start, end = (kernel.number(mm, "mm_struct", name) for name in ("arg_start", "arg_end"))
    line = _between(kernel, mm, reader, "arg_start", "arg_end")
    if not line or start is None or end is None or line.endswith(b"\0") or end - start > len(line):
        return line
    behind = kernel.number(mm, "mm_struct", "env_start"), kernel.number(mm, "mm_struct", "env_end")
    last = behind[1] if behind[0] == end and behind[1] is not None and behind[1] > end else end
    title = reader.read(start, min(max(last, end) - start, PAGE))
    return None if title is None else title[: title.index(b"\0") + 1] if b"\0" in title else title


def program(kernel: Structures, mm: int, paths: Paths) -> str | None:
    """Return the path of a process's program, as /proc/PID/exe shows it; None if it is not known."""
    file = kernel.pointer(mm, "mm_struct", "exe_file")
    path = None if file is None else paths.path_of_file(file)
    return None if path is None else _text(path)


def directory(kernel: Structures, task: int, paths: Paths) -> str | None:
    """Return the path of a task's working directory, as /proc/PID/cwd shows it; None if it is not known."""
    place = place_in(kernel, task, "pwd")
    path = None if place is None else paths.of(*place)
    return None if path is None else _text(path)


def is_narrow(kernel: Structures, mm: int) -> bool:
    """Return True if a program of 32 bits runs on a kernel of 64: its addresses end with the first 4 GiB."""
    end = kernel.number(mm, "mm_struct", "task_size")
    return kernel.word == _WIDE and end is not None and _PAGES_BELOW < end <= _NARROW_END


def auxiliary_vector(kernel: Structures, mm: int) -> bytes | None:
    """Return the auxiliary vector (getauxval(3)) up to its end, in words of the program's size."""
    place, word = kernel.place("mm_struct", "saved_auxv"), _WIDE // 2 if is_narrow(kernel, mm) else kernel.word
    longest = None if place is None else min(max(place[1], _MOST_AUXILIARY * kernel.word), PAGE)
    data = None if place is None or longest is None else kernel.reader.read(mm + place[0], longest)
    if data is None:
        return None
    step = 2 * word
    for at in range(0, len(data) - step + 1, step):
        if int.from_bytes(data[at : at + word], "little") == _AT_NULL:
            return data[: at + step]
    return None


def _between(kernel: Structures, mm: int, reader: Reader, first: str, last: str) -> bytes | None:
    start, end = kernel.number(mm, "mm_struct", first), kernel.number(mm, "mm_struct", last)
    if start is None or end is None:
        return None
    return reader.read(start, min(end - start, _LONGEST)) if start < end else b""


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")
