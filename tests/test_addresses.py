"""Addresses and sizes as people write them."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from memcarve.addresses import parse_address, parse_range, parse_size
from memcarve.errors import UsageError

MODULES = [
    (0x7FF673400000, 0x20000, "C:\\Temp\\target.exe"),
    (0x7FFE10000000, 0x1F8000, "C:\\Windows\\System32\\ntdll.dll"),
    (0x77A00000, 0x1A0000, "C:\\Windows\\SysWOW64\\wow.dll"),
    (0x7FFD00000000, 0x1A0000, "C:\\Windows\\System32\\WOW.dll"),
    (0x7F0000000000, None, "/usr/lib/libstdc++.so.6"),
    (0x7F1000000000, 0x1000, "api-ms-win-core.dll"),
]
ADDRESS = st.integers(0, 2**64 - 1)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("0x7ffe0000", 0x7FFE0000),
        ("0X7FFE0000", 0x7FFE0000),
        ("00007ff6`73400000", 0x7FF673400000),
        ("7ff673400000", 0x7FF673400000),
        ("7FF673400000", 0x7FF673400000),
        ("7ff673400000h", 0x7FF673400000),
        ("400000H", 0x400000),
        ("0x7ff6_7340_0000", 0x7FF673400000),
        ("0x00007ff6`73400000", 0x7FF673400000),
        ("123456789012", 0x123456789012),
        ("000000400000", 0x400000),
        ("7a", 0x7A),
        ("0", 0),
        ("7", 7),
        ("0007", 7),
        (" 0x10 ", 0x10),
        ("ffffffffffffffff", 2**64 - 1),
        ("ntdll.dll+0x1234", 0x7FFE10001234),
        ("NTDLL.DLL+0x1234", 0x7FFE10001234),
        ("ntdll+0x1234", 0x7FFE10001234),
        ("ntdll+1a0h", 0x7FFE100001A0),
        ("ntdll.dll", 0x7FFE10000000),
        ("ntdll.dll+0x1f8000", 0x7FFE101F8000),
        ("libstdc++.so.6+0x10", 0x7F0000000010),
        ("api-ms-win-core.dll+0x10", 0x7F1000000010),
    ],
)
def test_addresses_as_debuggers_print_them(text: str, address: int) -> None:
    """An address means what the debugger that prints it so means."""
    assert parse_address(text).among(MODULES) == address


@given(ADDRESS)
def test_every_way_to_print_an_address_is_read(address: int) -> None:
    """All ways in which WinDbg, gdb, x64dbg, IDA and MASM print an address lead back to it."""
    wide = f"{address:016x}"
    texts = [hex(address), wide, wide.upper(), f"{wide[:8]}`{wide[8:]}", f"0{address:x}h", f"0x{wide[:8]}_{wide[8:]}"]
    assert {parse_address(text).among(()) for text in texts} == {address}


@given(st.integers(10, 10**11 - 1))
def test_decimal_digits_alone_are_refused_with_both_readings(number: int) -> None:
    """Fewer than twelve decimal digits are no address; the message has both that they may mean."""
    with pytest.raises(UsageError) as caught:
        parse_address(str(number))
    assert f"0x{number} " in str(caught.value)
    assert f"0x{number:x} " in str(caught.value)


@pytest.mark.parametrize(
    ("text", "start", "end", "single"),
    [
        ("0x400000-0x480000", 0x400000, 0x480000, False),
        ("0-0x1000", 0, 0x1000, False),
        ("7ff673400000 - 7ff673401000", 0x7FF673400000, 0x7FF673401000, False),
        ("00007ff6`73400000-00007ff6`73401000", 0x7FF673400000, 0x7FF673401000, False),
        ("0x400000+512k", 0x400000, 0x480000, False),
        ("0x400000+4096", 0x400000, 0x401000, False),
        ("400000h+0x1000", 0x400000, 0x401000, False),
        ("0x400000", 0x400000, 0x400001, True),
        ("ntdll.dll+0x10", 0x7FFE10000010, 0x7FFE10000011, True),
        ("ntdll.dll+0x10+4k", 0x7FFE10000010, 0x7FFE10001010, False),
        ("ntdll.dll+0x10-ntdll.dll+0x20", 0x7FFE10000010, 0x7FFE10000020, False),
        ("libstdc++.so.6+0x10", 0x7F0000000010, 0x7F0000000011, True),
        ("libstdc++.so.6+0x10+16", 0x7F0000000010, 0x7F0000000020, False),
        ("api-ms-win-core.dll+0x10", 0x7F1000000010, 0x7F1000000011, True),
        ("0xffffffffffffffff", 2**64 - 1, 2**64, True),
        ("0xfffffffffffff000-0x10000000000000000", 2**64 - 4096, 2**64, False),
        ("0xfffffffffffff000+4k", 2**64 - 4096, 2**64, False),
    ],
)
def test_ranges(text: str, start: int, end: int, single: bool) -> None:  # noqa: FBT001 - a table's column
    """A range is two addresses, or an address and a size; it may end at 2^64."""
    found = parse_range(text)
    assert found.among(MODULES) == (start, end)
    assert found.is_single == single


@pytest.mark.parametrize(
    "text",
    [
        "", "zzz", "0x", "0x1_", "_1", "1__0h", "0xg", "+", "-", "-5", "ntdll.dll+", "a/b.dll+0x10", "ntdll.dll+100",
        "1" * 17, "0x1" + "0" * 16, "0x1-0x1", "0x2-0x1", "0x1+0", "400000-480000", "0x1000-480000", "0x10+",
        "a" * 5000, "0xffffffffffffffff+2", "0x10+0x10+0x10",
    ],
)  # fmt: skip
def test_what_is_no_address_is_refused(text: str) -> None:
    """What is no address, or holds none, raises UsageError, whose message is one line."""
    with pytest.raises(UsageError) as caught:
        parse_range(text).among(MODULES)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "0x7ff673400000+0x10", "00007ff6`73400000+10h", "7ff673400000+0x10", "400000h+10h", "0x7ff673400000+64k",
        "400000+0x10", "cafe+0x10",
    ],
)  # fmt: skip
def test_a_sum_is_no_address(text: str) -> None:
    """A number with a plus is not taken for the name of a module where one address is wanted."""
    with pytest.raises(UsageError, match="is not an address; write it like"):
        parse_address(text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("kernel32.dll+0x10", "no module is called 'kernel32.dll'; it has target.exe, ntdll.dll"),
        ("wow.dll+0x10", "2 modules are called 'wow.dll', at 0x77a00000, 0x7ffd00000000; give the address as a number"),
        ("target.exe+0x20001", "target.exe+0x20001 is not within target.exe, which is 0x20000 bytes long"),
    ],
)
def test_modules_that_do_not_say_where(text: str, words: str) -> None:
    """A module that is not there, is there twice or is too small is told, with what there is."""
    with pytest.raises(UsageError) as caught:
        parse_address(text).among(MODULES, "4 System")
    assert str(caught.value).startswith(f"4 System: {words}")


def test_no_modules() -> None:
    """If no modules are known, the message says how to give them."""
    with pytest.raises(UsageError, match=r"no modules are known.*modules="):
        parse_address("ntdll.dll+0x1").among(())


@pytest.mark.parametrize(
    ("text", "size"),
    [
        *((text, 4096) for text in ("4096", "0x1000", "4k", "4K", "4KB", "4KiB", "4 kb", "4kib", "4096B", "4096 b")),
        ("2M", 2 << 20), ("1GiB", 1 << 30), ("1T", 1 << 40), ("0", 0),
    ],
)  # fmt: skip
def test_sizes(text: str, size: int) -> None:
    """A size has binary units, however they are written."""
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "k", "4q", "4kk", "-1", "1.5k", "0x", "4 k k", "4ki"])
def test_what_is_no_size_is_refused(text: str) -> None:
    """What is no size raises UsageError with examples."""
    with pytest.raises(UsageError, match="is not a size; write 4096"):
        parse_size(text)
