"""Lines that begin with numbers, against one line read after the other."""

from __future__ import annotations

import fcntl
import io
import os
import re
import resource
import threading
import tracemalloc

import pytest
from hypothesis import given, strategies as st

from memcarve.errors import InputError
from memcarve.formats.number_lines import LONGEST, NumberLines

TOP = 1 << 64
BEYOND_SELECT = 1024  # FD_SETSIZE


class Pieces(io.BytesIO):
    """A file that gives its bytes in pieces of some sizes, in turn."""

    def __init__(self, data: bytes, sizes: list[int]) -> None:
        super().__init__(data)
        self.sizes = sizes
        self.turn = 0

    def read1(self, size: int | None = -1, /) -> bytes:
        """Return the next piece."""
        self.turn += 1
        return self.read(min(size or -1, self.sizes[self.turn % len(self.sizes)]))


def read(data: bytes, radix: int | None, sizes: list[int] | None = None) -> list[tuple[int, str]]:
    """Return the numbers and texts of lines."""
    file = io.BytesIO(data) if sizes is None else Pieces(data, sizes)
    return [
        pair
        for lines in NumberLines(file, "list", radix)
        for pair in zip(lines.number.tolist(), lines.texts(), strict=True)
    ]


def slowly(data: bytes, radix: int | None) -> list[tuple[int, str]] | int:
    """Return the same, or the number of the first bad line."""
    found = []
    for number, line in enumerate(data.removesuffix(b"\n").split(b"\n"), 1):
        bare = line.removesuffix(b"\r")
        if not bare.strip(b" \t\r\v\f"):
            continue
        parts = re.match(rb"[ \t]*(0[xX])?([0-9a-fA-F]+)(?=[ \t:]|\Z)[ \t:]?", bare, re.DOTALL)
        base = 16 if parts and parts[1] else radix
        if parts is None or base is None or (base == 10 and re.search(rb"[a-fA-F]", parts[2])):
            return number
        if int(parts[2], base) >= TOP:
            return number
        found.append((int(parts[2], base), bare[parts.end() :].decode("utf-8", "surrogateescape")))
    return found


NUMBER = st.integers(0, TOP - 1) | st.integers(0, 1 << 33) | st.integers(TOP, TOP << 8)
FORMS = st.sampled_from(
    ["{:x}", "{:X}", "{:d}", "0x{:x}", "0X{:X}", "{:7x}", "\t{:20d}", "{:040x}", "{:025d}", "g{:x}"]
)
TEXT = st.sampled_from(
    [b"", b" ", b":", b"\t", b" text", b":a:b", b"  two", b" \xff\x00\x1b[2J", b"x", b" =cmd()", b" \r"]
)
LINE = st.builds(lambda form, number, text: form.format(number).encode() + text, FORMS, NUMBER, TEXT) | st.sampled_from(
    [b"", b"  ", b"\t", b"\x00", b"0", b"0x", b"0x ", b"x", b" 7", b"00", b"\xef\xbb\xbf1"]
)


@given(
    st.lists(LINE, max_size=8),
    st.sampled_from([10, 16, None]),
    st.sampled_from([b"\n", b"\r\n"]),
    st.integers(0, 1),
    st.lists(st.integers(1, 30), min_size=1, max_size=3),
)
def test_like_one_line_after_the_other(
    lines: list[bytes],
    radix: int | None,
    ending: bytes,
    last: int,
    sizes: list[int],
) -> None:
    """Numbers and texts are those of each line, however the bytes come; the first bad line is named."""
    data = ending.join(lines) + ending * last
    data = data.removeprefix(b"\xef\xbb\xbf")  # that the mark is passed over is another test's
    expected = slowly(data, radix) if data else []
    for pieces in (None, sizes):
        if isinstance(expected, int):
            with pytest.raises(InputError, match=rf"^list: line {expected}: "):
                read(data, radix, pieces)
        else:
            assert read(data, radix, pieces) == expected


def test_what_strings_prints() -> None:
    """What strings -t x and -t d, grep -abo and a list with a byte order mark look like is read."""
    assert read(b"    400 MZ and more\n  1f00  two blanks\n", 16) == [(0x400, "MZ and more"), (0x1F00, " two blanks")]
    assert read(b"1024 1f\n", 10) == [(1024, "1f")]
    assert read(b"17:pass: word\n", 10) == [(17, "pass: word")]
    assert read(b"\xef\xbb\xbf0x10\r\n\r\n0X20", None) == [(16, ""), (32, "")]


@pytest.mark.parametrize(
    ("line", "radix", "problem"),
    [
        (b"10", None, "may be decimal or hexadecimal; say which with radix='x' or radix='d', or write 0x"),
        (b"1f0", 10, "is not a decimal number; radix='x' reads hexadecimal ones"),
        (b"10000000000000000", 16, "is more than 64 bits can hold"),
        (b"\x1b[31mred", 16, "does not begin with a number"),
        (b"pid.dmp: 10 text", 10, "does not begin with a number"),
        (b"-1", 10, "does not begin with a number"),
        (b"9" * 5000, 10, "is more than 64 bits can hold"),
    ],
)
def test_bad_lines(line: bytes, radix: int | None, problem: str) -> None:
    """A line that is no number says which it is, in one line that is safe to print."""
    with pytest.raises(InputError) as found:
        read(b"0x1\n\n" + line + b"\n", radix)
    assert str(found.value).startswith("list: line 3: '")
    assert str(found.value).endswith(f"' {problem}")
    assert str(found.value).isprintable()
    assert len(str(found.value)) < 300


def test_lines_without_an_end() -> None:
    """A line of 64 MiB is cut, in bounded memory, and those behind it are read."""
    lines = NumberLines(io.BytesIO(b"1 first\n2 " + b"x" * (64 << 20) + b"\n3 third\n"), "list", 16)
    tracemalloc.start()
    found = [
        (number, len(text)) for part in lines for number, text in zip(part.number.tolist(), part.texts(), strict=True)
    ]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found == [(1, 5), (2, LONGEST - 2), (3, 5)]
    assert lines.cut == 1
    assert peak < 16 << 20
    assert [text[:3] for _, text in read(b"7 " + b"y" * (3 << 20), 10)] == ["yyy"]


@pytest.mark.parametrize("many", [False, True])
def test_pipe_that_waits(*, many: bool) -> None:
    """Lines that are there are answered before whoever writes goes on, also in a program with many files open."""
    reading, writing = os.pipe()
    if many:
        limit, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        if limit <= BEYOND_SELECT:
            pytest.skip(f"no descriptor beyond {BEYOND_SELECT} can be open here: the limit is {limit} of {most}")
        high = fcntl.fcntl(reading, fcntl.F_DUPFD_CLOEXEC, BEYOND_SELECT)
        os.close(reading)
        reading = high
    seen = threading.Event()

    def write() -> None:
        with open(writing, "wb", buffering=0) as pipe:
            pipe.write(b"0x1 one\n0x2 two\n0x3 th")
            assert seen.wait(30)
            pipe.write(b"ree\n")

    writer = threading.Thread(target=write)
    writer.start()
    with open(reading, "rb") as file:
        lines = iter(NumberLines(file, "list"))
        first = next(lines)
        assert first.number.tolist() == [1, 2]
        seen.set()
        assert [text for part in lines for text in part.texts()] == ["three"]
    writer.join()
