"""The kernel's own types, found in a machine's memory.

Source: kernel/bpf/sysfs_btf.c of Linux (BTF lies whole in the kernel's image).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from memcarve.errors import KernelTypesError
from memcarve.formats.kernel_types.btf import Btf
from memcarve.intervals import PAGE

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from memcarve.formats.kernel_types.btf import Header
    from memcarve.images.linux.landmarks import Landmarks
    from memcarve.images.physical import PhysicalMemory

SOURCE = "BTF in the image"
_STRUCTURE = b"\0task_struct\0"
_SMALLEST = 1 << 12  # bytes of types: what holds task_struct has megabytes
_MOST_READ = 64  # that are read whole: of some dozens all but one or two do not name it
_MOST_BYTES = 1 << 30  # of strings that are looked through: headers can be put into any program's memory


class FoundBtf(NamedTuple):
    """The types of a kernel, the physical address of their BTF, and how many of its bytes are not in the image."""

    physical: int
    types: Btf
    missing: int


def kernel_btf(memory: PhysicalMemory, landmarks: Landmarks, known: Sequence[FoundBtf] = ()) -> Iterator[FoundBtf]:
    """Yield the BTF of kernels in a machine's memory, the one of most types first, each kernel's once.

    Its types must lie there whole, one after another to the end, and have a task_struct. Pages of its strings may be
    missing: what they name is not known then. Those that are `known` of this memory are not read again.
    """
    largest = sorted(
        (each for each in landmarks.btf if each[1].types_size >= _SMALLEST),
        key=lambda each: (-each[1].types_size, each[0]),
    )
    seen: set[bytes] = set()
    at_hand = {found.physical: found for found in known}
    budget, left = _MOST_BYTES, _MOST_READ
    for physical, header in largest:
        budget -= header.strings_size
        if budget < 0 or left == 0:
            return
        if _STRUCTURE not in _padded(memory, physical + header.strings, header.strings_size)[0]:
            continue
        left -= 1
        read = _read(memory, physical, header)
        if read is None or read[0] in seen:
            continue
        data, missing = read
        if physical in at_hand:
            seen.add(data)
            yield at_hand[physical]
            continue
        try:
            types = Btf(data, SOURCE)
        except KernelTypesError:  # a copy of the header with something else behind it
            continue
        if types.member("task_struct", "comm") is not None:
            seen.add(data)
            yield FoundBtf(physical, types, missing)


def _read(memory: PhysicalMemory, physical: int, header: Header) -> tuple[bytes, int] | None:
    """Return the bytes of a BTF, zeros for strings that are not in the image, and how many; None if types lack."""
    if header.strings < header.types:
        whole = memory.read(physical, header.size)
        return None if whole is None else (whole, 0)
    types = memory.read(physical, header.types + header.types_size)
    if types is None:
        return None
    rest, missing = _padded(memory, physical + len(types), header.size - len(types))
    return types + rest, missing


def _padded(memory: PhysicalMemory, physical: int, size: int) -> tuple[bytes, int]:
    """Return bytes of the memory, zeros for what of them is not in the image, and how many these are."""
    whole = memory.read(physical, size)
    if whole is not None:
        return whole, 0
    data, missing = bytearray(), 0
    while len(data) < size:
        at = physical + len(data)
        count = min(PAGE - at % PAGE, size - len(data))
        part = memory.read(at, count)
        missing += count if part is None else 0
        data += bytes(count) if part is None else part
    return bytes(data), missing
