"""The kernel's own table of symbols is found and read in each of its forms, and never believed too much."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from kallsyms_writer import TOKENS, tables
from linux_machines import machine, machines
from linux_systems import system_of
from memcarve.formats.images.machine import MachineMemory
from memcarve.images.linux.kallsyms import find_kallsyms
from memcarve.images.physical import PhysicalMemory
from memory import Memory

_BASE = 0xFFFFFFFF81000000
_SIZE = 1 << 20


def memory_of(*parts: tuple[int, bytes]) -> PhysicalMemory:
    """Return memory of zeros with parts at physical addresses."""
    data = bytearray(_SIZE)
    for at, part in parts:
        data[at : at + len(part)] = part
    columns = (np.array([value], np.uint64) for value in (0, _SIZE, 0))
    return PhysicalMemory(MachineMemory("test", Memory(bytes(data)), *columns, [], declared=False))


def symbols(base: int = _BASE, count: int = 2000) -> list[tuple[int, str]]:
    """Return symbols: some per processor, then those of the image, with a long name and two of one name."""
    image = [(base + 16 * number, f"Tfunction_ab_{number}") for number in range(count)]
    return [
        (0, "A__per_cpu_start"),
        (64, "Acurrent_task"),
        *image,
        (base + 16 * count, "t" + "x" * 300),
        (base + 16 * count, "tfunction_ab_7"),
    ]


@pytest.mark.parametrize("place", [0x10000, 0x10008, 0x1FFF8])
def test_the_table_until_linux_6_3(place: int) -> None:
    """Offsets stand first; those that are not negative are absolute, the others lie below the base."""
    expected = [each for each in symbols() if len(each[1]) < 128]
    found = find_kallsyms(memory_of((place, tables(expected, "old")[0])), [0], 8)
    assert found is not None
    assert found.names() == [name[1:] for _, name in expected]
    assert "".join(found.types()) == "".join(name[0] for _, name in expected)
    assert found.addresses is not None
    assert found.addresses.tolist() == [address for address, _ in expected]
    assert found.address("function_ab_7") == _BASE + 16 * 7
    assert found.address("current_task") == 64
    assert found.address("nothing") is None


@pytest.mark.parametrize("form", ["seqs", "new"])
@pytest.mark.parametrize(("align", "base"), [(8, _BASE), (8, 0xFFFF800080000000), (4, 0xC1000000)])
def test_the_tables_of_linux_6(form: str, align: int, base: int) -> None:
    """Unsigned offsets from the base; names of 128 bytes and more; the order of the tables changed; 32 bits too."""
    expected = symbols(base)[2:]
    data, _ = tables(expected, form, align, base)
    found = find_kallsyms(memory_of((0x20010, data)), [0x1000], align)
    assert found is not None
    assert found.names() == [name[1:] for _, name in expected]
    assert found.addresses is not None
    assert found.addresses.tolist() == [address for address, _ in expected]


@pytest.mark.parametrize("place", [0x20010, 0x20014])
def test_the_table_of_linux_7(place: int) -> None:
    """Distances from the entries themselves tell addresses once it is known where the kernel lies."""
    shift = 0xFFFFFFFF80000000
    expected = symbols(shift + 0x40000)[2:]
    memory = memory_of((place, tables(expected, "self", base=shift + place)[0]))
    found = find_kallsyms(memory, [0], 8, shift)
    assert found is not None
    assert found.addresses is not None
    assert found.addresses.tolist() == [address for address, _ in expected]
    unplaced = find_kallsyms(memory, [0], 8)
    assert unplaced is not None
    assert unplaced.names() == found.names()
    assert unplaced.address("function_ab_7") is None


def test_damage_is_not_found() -> None:
    """Tokens that do not fit their index, names that do not fit their markers, unsorted addresses: nothing is told."""
    expected = symbols()[2:]
    data, first = tables(expected, "new")
    assert find_kallsyms(memory_of((0x20000, data)), [0], 8) is not None
    for at in (9 + data[8], data.index(b"0\x001\x00") + 900, data.index(b"0\x001\x00") - 3):
        broken = bytearray(data)
        broken[at : at + 2] = b"\x93\x93"
        assert find_kallsyms(memory_of((0x20000, bytes(broken))), [0], 8) is None
    broken = bytearray(data)
    broken[first : first + 4] = struct.pack("<I", 1 << 30)
    found = find_kallsyms(memory_of((0x20000, bytes(broken))), [0], 8)
    assert found is not None
    assert found.addresses is None
    assert found.address("function_ab_7") is None
    for size in (len(data) // 3, first, first + 100):
        find_kallsyms(memory_of((0x20000, data[:size])), [0], 8)
    assert find_kallsyms(memory_of(), [0x7F000000, 0], 8) is None


def test_many_tables_of_tokens_are_not_followed() -> None:
    """Memory full of what could be tokens, or of what could be markers, is given up."""
    digits = b"".join(b"%d\0" % digit for digit in range(10))
    assert find_kallsyms(memory_of((0, digits * (_SIZE // len(digits)))), [0], 8) is None
    data, _ = tables(symbols()[2:], "new")
    at = data.index(b"".join(token + b"\0" for token in TOKENS))
    rising = struct.pack("<2000I", *range(0, 2000 * 2560, 2560))
    assert find_kallsyms(memory_of((0x20000, rising * 20 + data[at:])), [0], 8) is None


@pytest.mark.parametrize("name", machines())
def test_real_machines(name: str) -> None:
    """All names, and all addresses, are those of /proc/kallsyms."""
    real = machine(name)
    lines = [line.split(" ", 2) for line in real.path("kallsyms").read_text("latin-1").splitlines() if "\t" not in line]
    found = system_of(name).symbols
    assert found is not None
    assert found.names() == [line[2] for line in lines]
    assert found.types() == [line[1] for line in lines]
    assert found.addresses is not None
    assert found.addresses.tolist() == [int(line[0], 16) for line in lines]
