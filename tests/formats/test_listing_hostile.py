"""Tables that are damaged or made to harm: rows, or a declared error that names the line; nothing is skipped."""

from __future__ import annotations

from typing import TYPE_CHECKING
from unittest import mock

import pytest
from hypothesis import given, settings, strategies as st

import listings
from files import put, sample
from listings import RECORDS, RENDERERS, SAMPLED, TABLES, TRACEBACK, VADINFO, held, read, vad
from memcarve.errors import InputError, MapError, MemcarveError
from memcarve.formats import listing as listing_module
from memcarve.formats.listing import Listing
from sweeps import LONG

if TYPE_CHECKING:
    from pathlib import Path

BAD_NUMBERS = ["0x", "1000", "0x1_0", "-0x1", "0x10000000000000000", "0x" + "1" * 50_000, "0xg", "", "...", "\u0661"]


@pytest.mark.parametrize("cell", BAD_NUMBERS, ids=range(len(BAD_NUMBERS)))
@pytest.mark.parametrize("renderer", ["quick", "csv", "pretty"])
def test_a_cell_that_is_no_number_is_named(renderer: str, cell: str, tmp_path: Path) -> None:
    """Where an address should stand and does not, the message names line and column."""
    rows = [vad(0x1000, 0x1FFF), vad(0x3000, 0x3FFF), vad(0x5000, 0x5FFF)]
    rows[1]["End VPN"] = cell
    path = put(tmp_path / "table", RENDERERS[renderer](rows, VADINFO))
    number = {"quick": 6, "csv": 3, "pretty": 4}[renderer]
    with pytest.raises(MapError, match=rf"line {number}: "):
        read(path)


VALUES = [-1, 1 << 64, 1.5, True, "0x1000", [1], {"a": 1}, 10**4000, ""]


@pytest.mark.parametrize("value", VALUES, ids=[str(value)[:8] for value in VALUES])
@pytest.mark.parametrize("renderer", RECORDS)
def test_a_member_that_is_no_number_is_named(renderer: str, value: object, tmp_path: Path) -> None:
    """Where a record holds anything but a whole number of 64 bits for an address, the message names the row."""
    rows = [vad(0x1000, 0x1FFF), {**vad(0x3000, 0x3FFF), "Start VPN": value}]
    path = put(tmp_path / "table", RENDERERS[renderer](rows, VADINFO))
    with pytest.raises(MapError, match=r"(line 3|row 2): .*Start VPN"):
        read(path)


@pytest.mark.parametrize(
    "text",
    [
        '[{"PID": 4, "Start VPN": 0, "End VPN": 1, "File": 7}]',
        '[{"PID": 4, "Start VPN": 0, "End VPN": 1, "__children": [{"PID": 4}]}]',
        '[{"PID": 4, "Start VPN": 0, "End VPN": 1}, {"PID": 4}]',
        '[{"PID": 4, "Start VPN": 0, "End VPN": 1}, 7]',
        '[{"PID": 4, "Start VPN": 0, "End VPN": 1}, {x}]',
        '{"PID": 4, "Start VPN": 0, "End VPN": 1}\nnonsense\n',
        '{"PID": 4, "Start VPN": 0, "End VPN": 1}\n[1]\n',
        '{"PID": 4, "Start VPN": 0, "End VPN": 1' + "1" * 5000 + "}\n",
        '{"PID": 4, "Start VPN": 0, "End VPN": 1}\n' + '{"a":' * 5000 + "\n",
    ],
    ids=range(9),
)
def test_records_that_are_not_as_they_should_be(text: str, tmp_path: Path) -> None:
    """Records of other types, of other members, within each other or broken are refused."""
    with pytest.raises(InputError):
        read(put(tmp_path / "table", text.encode()))


@pytest.mark.parametrize("renderer", ["quick", "pretty", "csv", "expanded"])
@pytest.mark.parametrize("line", ["...", "<SNIP>", "a\tb", "0,4,0x1", "* | 4 | x", "00000000: 4d 5a", '0,4,"open'])
def test_a_line_that_is_no_row_is_named(renderer: str, line: str, tmp_path: Path) -> None:
    """What is neither a row nor a message is not skipped."""
    data = RENDERERS[renderer](TABLES["windows.vadinfo"][0], VADINFO)
    path = put(tmp_path / "table", data.rstrip(b"\n") + f"\n{line}\n".encode())
    with pytest.raises(MapError, match=r"line \d+: "):
        read(path)


def test_a_row_behind_the_rest_of_a_message_is_refused(tmp_path: Path) -> None:
    """After a message of several lines no row may follow: it cannot be told what the lines between were."""
    first, second = (
        listings.quick([vad(0, 0xFFF)], VADINFO),
        b"\t".join(listings.quick([vad(0, 0xFFF)], VADINFO).split(b"\n")[-2:-1]),
    )
    with pytest.raises(MapError, match="neither a row"):
        read(put(tmp_path / "table", first + TRACEBACK.encode() + b"  odd\n" + second + b"\n"))


def test_long_lines_are_refused(tmp_path: Path) -> None:
    """A row of more than 128 KiB, and one of megabytes, are refused; a path of 32,767 letters is none of these."""
    with pytest.raises(MapError, match="in the column Start VPN"):
        read(put(tmp_path / "table", listings.quick([{**vad(0, 1), "Start VPN": "0x" + "1" * 100_000}], VADINFO)))
    long = vad(0x1000, 0x1FFF, private=0, file="\\" + "x" * 32766)
    for render in (listings.quick, listings.csv, listings.pretty):
        assert read(put(tmp_path / "table", render([long], VADINFO)))[0]["File"] == long["File"]
    for length in (1 << 18, 3 << 20):
        long["File"] = "\\" + "x" * length
        with pytest.raises(MapError):
            read(put(tmp_path / "table", listings.quick([long], VADINFO)))


@pytest.mark.parametrize("renderer", RENDERERS)
def test_too_many_rows_are_refused(renderer: str, tmp_path: Path) -> None:
    """A table of more rows than any process has regions, or of as much text, is not read to its end."""
    path = put(tmp_path / "table", RENDERERS[renderer]([vad(0, 0xFFF)] * 6, VADINFO))
    with mock.patch.object(listing_module, "MOST_ROWS", 6):
        assert len(read(path)) == 6
    with mock.patch.object(listing_module, "MOST_ROWS", 5), pytest.raises(MapError, match="more than 5 rows"):
        read(path)
    with mock.patch.object(listing_module, "MOST_TEXT", 50), pytest.raises(MapError, match="more than 50 characters"):
        read(path)


@pytest.mark.parametrize("renderer", ["quick", "csv", "old csv", "pretty", "jsonl"])
def test_a_table_cut_off_anywhere_holds_the_whole_rows(renderer: str, tmp_path: Path) -> None:
    """A table that ends within a row holds the rows before it, and a note says so; a whole object needs no newline."""
    columns = ("PID", "Start VPN", "End VPN", "File")
    rows = [vad(0x1000, 0x1FFF), vad(0x3000, 0x3FFF, private=0, file="\\a, b.dll"), vad(0x5000, 0x5FFF, file="\\b.dll")]
    whole = [{name: row[name] for name in columns} for row in rows]
    data = RENDERERS[renderer](rows, columns)
    begin = data.rindex(b"\n", 0, data.index(b"{" if renderer == "jsonl" else b"0x1000")) + 1
    for length in range(data.index(b"}") + 1 if renderer == "jsonl" else begin, len(data)):
        ended, _, rest = data[begin:length].rpartition(b"\n")
        count = len(ended.splitlines()) + (renderer == "jsonl" and rest.endswith(b"}"))
        with Listing(put(tmp_path / "table", data[:length])) as listing:
            assert [cells for _, cells in listing.rows()] == whole[:count]
            assert [note for note in listing.notes if "cut off" not in note] == []
            assert len(listing.notes) == (1 if rest.strip() and not rest.endswith(b"}") else 0)


def test_an_array_cut_off_anywhere_holds_the_whole_rows(tmp_path: Path) -> None:
    """A JSON array that ends too early holds the objects before, and a note says so."""
    data = listings.json_array(*TABLES["windows.vadinfo"])
    for length in range(data.index(b"}") + 1, len(data) - 2):
        with Listing(put(tmp_path / "table", data[:length])) as listing:
            count = data[:length].count(b"}")
            assert [cells for _, cells in listing.rows()] == held("windows.vadinfo")[:count]
            assert [f"is cut off after row {count}" in note for note in listing.notes] == [True]


# whatever comes: declared errors only

CORPUS = {
    stem.format(renderer): sample(stem.format(renderer))
    for stem in SAMPLED
    for renderer in ("quick", "pretty", "csv", "json", "jsonl")
}
CORPUS |= {f"{kind} {name}": render(*table) for kind, table in TABLES.items() for name, render in RENDERERS.items()}
CORPUS["maps"] = (
    b"00400000-00452000 r-xp 00000000 08:02 173521                             /usr/bin/a b (deleted)\n"
    b"00e03000-00e24000 rw-p 00000000 00:00 0                                  [heap]\n"
    b"Size:                132 kB\nVmFlags: rd wr mr\n7f0000000000-7f0000001000 ---s 00000000 00:00 0 \n"
)
PIECES = [
    *(b"\0", b"\r", b"\n", b"\t", b"|", b" | ", b",", b'"', b"[", b"]", b"{", b"}", b":", b"\\", b" ", b"-", b"* "),
    *(b"0x", b"0xffffffffffffffff", b"18446744073709551615", b"18446744073709551616", b"-1", b"1e999", b"NaN", b"null"),
    *(
        b"\xff",
        b"\xff\xfe",
        b"\xe2\x80\xa6",
        b"\x1b[31m",
        b"\\ud800",
        b"\xed\xa0\x80",
        b"Hexdump",
        b"PID",
        b"Start VPN",
    ),
    *(b"1" * 5000, b"[" * 3000, b'{"a":' * 3000, b" " * 3000, b"a " * 500, b"Traceback (most recent call last):\n"),
]


def survives(path: str) -> None:
    """Check that nothing but a declared error comes of a file, with a message of one printable line."""
    try:
        rows = read(path)
    except MemcarveError as error:
        message = str(error)
        assert message.isprintable()
        assert 0 < len(message) < 2000
        return
    assert all(value is None or isinstance(value, int | str) for row in rows for value in row.values())


@pytest.mark.parametrize("name", CORPUS)
@given(data=st.data())
@settings(max_examples=60 if LONG else 20)
def test_a_damaged_table_raises_only_declared_errors(
    name: str, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Whatever is put into a table, taken out of it or cut off, it is read or refused."""
    content = CORPUS[name]
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(content)))
        length = data.draw(st.sampled_from([0, 0, 1, 4, 40]))
        content = content[:place] + data.draw(st.sampled_from([b"", *PIECES])) + content[place + length :]
    survives(put(tmp_path_factory.getbasetemp() / "fuzzed", content))


@given(before=st.binary(max_size=40), text=st.text(max_size=200))
def test_any_text_behind_a_header_raises_only_declared_errors(
    before: bytes, text: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Anything before and behind a header is rows or a declared error."""
    for render in (listings.quick, listings.csv, listings.pretty, listings.expanded, listings.json_lines):
        data = before + render([vad(0, 0xFFF)], VADINFO) + text.encode("utf-8", "surrogatepass")
        survives(put(tmp_path_factory.getbasetemp() / "fuzzed", data))
