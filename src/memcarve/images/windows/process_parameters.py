"""What a process on Windows x64 was started with: command line, image path, current directory, environment.

Sources: winternl.h and Microsoft's symbols of _PEB and _RTL_USER_PROCESS_PARAMETERS, which have kept these offsets in
every 64-bit Windows. All of it lies in the process's own memory, which the process may change.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from memcarve.intervals import PAGE
from memcarve.metadata import Parameters

if TYPE_CHECKING:
    from memcarve.images.structure_reader import Reader
    from memcarve.images.windows.peb_modules import Form

#: bytes of an environment; Windows sets no limit to it since Vista
MOST_ENVIRONMENT = 1 << 20
_MAXIMUM_LENGTH, _FLAGS = 0, 8  # the first is the size (bytes) of the parameters, texts included
#: a flag: buffers of texts are addresses; without it, as before the program begins, they are relative to the
#: parameters. Nothing reads the flag later, so a buffer that cannot be relative is an address in any case
_NORMALISED = 1
_WORDS = ("command line", "image path", "current directory", "environment")


class _Offsets(NamedTuple):
    """Offset in the PEB of the pointer to the parameters, and offsets in them: texts, the environment and its size."""

    parameters: int
    directory: int
    image: int
    command: int
    environment: int
    environment_size: int


#: by the width of a pointer
_OFFSETS = {8: _Offsets(0x20, 0x38, 0x60, 0x70, 0x80, 0x3F0), 4: _Offsets(0x10, 0x24, 0x38, 0x40, 0x48, 0x290)}


def parameters(reader: Reader, peb: int, form: Form) -> tuple[Parameters | None, list[str]]:
    """Return the contents of the parameters that a PEB points to, and notes for the user; None if there are none."""
    at = _OFFSETS[form.word]
    place = reader.number(peb + at.parameters, form.word)
    if not place:
        return None, []  # there are none yet; or the PEB is not in memory, which the note about modules says
    flags, most = (reader.number(place + offset, 4) for offset in (_FLAGS, _MAXIMUM_LENGTH))
    if flags is None or most is None:
        return None, [f"the process parameters at 0x{place:x} ({form.source}) are not in memory"]
    relative = 0 if flags & _NORMALISED else most
    command, image, directory = (
        _text(reader, place, offset, form.word, relative) for offset in (at.command, at.image, at.directory)
    )
    found = Parameters(form.source, command, image, directory, _environment(reader, place, at, form.word))
    lost = [word for word, member in zip(_WORDS, found[1:], strict=True) if member is None]
    notes = [f"these process parameters ({form.source}) cannot be read: {', '.join(lost)}"] if lost else []
    return found, notes


def _text(reader: Reader, place: int, offset: int, word: int, relative: int) -> str | None:
    """Return the text of a UNICODE_STRING in the parameters; None if it cannot be read.

    A buffer below `relative` is relative to the parameters, which lie at `place`.
    """
    structure = reader.read(place + offset, 2 * word)
    if structure is None:
        return None
    if not any(structure[:2]):
        return ""
    buffer = int.from_bytes(structure[word:], "little")
    if buffer < relative:
        buffer += place
    return reader.text(structure[:8] + buffer.to_bytes(8, "little")) if buffer < reader.end else None


def _environment(reader: Reader, place: int, at: _Offsets, word: int) -> tuple[str, ...] | None:
    """Return the strings of the environment; None if one of them cannot be read, or it has no end."""
    begin, size = (reader.number(place + offset, word) for offset in (at.environment, at.environment_size))
    if begin is None:
        return None
    if not begin:
        return ()
    most = size if size is not None and 0 < size <= MOST_ENVIRONMENT else MOST_ENVIRONMENT
    data = bytearray()
    while len(data) < most:
        here = begin + len(data)
        part = reader.read(here, min(PAGE - here % PAGE, most - len(data)))
        if part is None:
            return None
        end = _end(data, part)
        data += part
        if end is not None:
            text = data[:end].decode("utf-16-le", "surrogatepass")
            return tuple(text.split("\0")) if text else ()
    return None


def _end(before: bytearray, part: bytes) -> int | None:
    """Return where the last string of an environment ends, if its next bytes are `part`; None if it goes on.

    An empty string follows the last one: two zeros, of two bytes each. If there are no strings, one zero is enough.
    """
    begin = max(len(before) - 3, 0) & ~1
    both = bytes(before[begin:]) + part
    if begin == 0 and both[:2] == b"\0\0":
        return 0
    place = both.find(b"\0\0\0\0")
    while place % 2 and place >= 0:
        place = both.find(b"\0\0\0\0", place + 1)
    return None if place < 0 else begin + place
