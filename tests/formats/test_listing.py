"""Tables of regions, modules and threads in every renderer read as the same rows; what is doubtful is refused."""

from __future__ import annotations

import codecs
import gzip
import json
import lzma
import os
import re
import sys
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest

import listings
from files import SAMPLES, put, sample
from listings import (
    DLLLIST,
    LINUX,
    RECORDS,
    RENDERERS,
    SAMPLED,
    TABLES,
    TEXTS,
    TRACEBACK,
    USED,
    VADINFO,
    dll,
    held,
    read,
    vad,
    vma,
)
from memcarve.errors import MapError, MissingExtraError, NotRecognisedError
from memcarve.formats.listing import Listing

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def truth(stem: str, kind: str) -> list[dict[str, Any]]:
    """Return what the JSON sample says in the columns that are used."""
    return [{name: row[name] for name in USED[kind]} for row in json.loads(sample(stem.format("json")))]


@pytest.mark.parametrize("renderer", ["quick", "pretty", "csv", "json", "jsonl"])
@pytest.mark.parametrize("stem", SAMPLED)
def test_every_renderer_of_a_sample_holds_the_same(stem: str, renderer: str) -> None:
    """What was printed of one table by five renderers reads as the same rows, which are those of its JSON."""
    path = os.path.join(SAMPLES, stem.format(renderer))
    assert read(path) == truth(stem, SAMPLED[stem])
    with Listing(path) as listing:
        assert listing.name == SAMPLED[stem]
        assert f"volatility3 {renderer}" in listing.description
        assert listing.has_pid


@pytest.mark.parametrize("width", [8, 4, 2, 1])
@pytest.mark.parametrize("stem", SAMPLED)
def test_a_table_copied_from_a_terminal_holds_the_same(stem: str, width: int, tmp_path: Path) -> None:
    """With spaces for its tabs a table reads as the same rows: of each line there is one way to divide it."""
    text = sample(stem.format("quick")).decode().expandtabs(width)
    assert read(put(tmp_path / "copied.txt", text.encode())) == truth(stem, SAMPLED[stem])


@pytest.mark.parametrize("renderer", ["quick", "pretty", "csv", "jsonl"])
@pytest.mark.parametrize("stem", SAMPLED)
def test_rows_have_the_numbers_of_their_lines(stem: str, renderer: str) -> None:
    """The number of a text row is that of its line as an editor shows it."""
    lines = sample(stem.format(renderer)).decode().split("\n")
    with Listing(os.path.join(SAMPLES, stem.format(renderer))) as listing:
        numbers = [number for number, _ in listing.rows()]
    assert numbers == [number for number, line in enumerate(lines, 1) if "6988" in line or re.search(r"\b1\b.*0x", line)
                       or '"PID": 1,' in line]  # fmt: skip


def test_a_table_written_with_dump_holds_the_same() -> None:
    """With --dump the column of output files differs and nothing else."""
    assert read(os.path.join(SAMPLES, "e2e/vadinfo-dump.quick.stdout")) == truth(
        "e2e/vadinfo.{}.stdout", "windows.vadinfo"
    )


@pytest.mark.parametrize("renderer", RENDERERS)
@pytest.mark.parametrize("kind", TABLES)
def test_what_was_written_is_read(kind: str, renderer: str, tmp_path: Path) -> None:
    """Names with spaces, commas and backslashes, and cells that are not known, read the same in every renderer."""
    path = put(tmp_path / "table", RENDERERS[renderer](*TABLES[kind]))
    assert read(path) == held(kind)
    with Listing(path) as listing:
        assert listing.name == kind


@pytest.mark.parametrize("renderer", [name for name in RENDERERS if name != "expanded"])
def test_columns_may_be_hidden_and_in_any_order(renderer: str, tmp_path: Path) -> None:
    """Columns are found by their names; those that are not there are not in the rows."""
    columns = ("File", "End VPN", "Process", "PID", "Start VPN")
    path = put(tmp_path / "table", RENDERERS[renderer](TABLES["windows.vadinfo"][0], columns))
    wanted = [{name: row[name] for name in ("PID", "Start VPN", "End VPN", "File")} for row in held("windows.vadinfo")]
    assert read(path) == wanted


@pytest.mark.parametrize("renderer", RENDERERS)
@pytest.mark.parametrize("hidden", ["PID", "End VPN"])
def test_a_hidden_column_that_is_needed_is_named(renderer: str, hidden: str, tmp_path: Path) -> None:
    """Without the process or one of the addresses a table is refused, with the name of the column."""
    columns = [name for name in VADINFO if name != hidden]
    path = put(tmp_path / "table", RENDERERS[renderer](TABLES["windows.vadinfo"][0], columns))
    with pytest.raises(NotRecognisedError, match=rf"windows\.vadinfo prints, without the column {hidden}"):
        Listing(path)


ENCODINGS: dict[str, Callable[[str], bytes]] = {
    "utf-8": str.encode,
    "utf-8 with mark": lambda text: codecs.BOM_UTF8 + text.encode(),
    "utf-16-le with mark": lambda text: codecs.BOM_UTF16_LE + text.encode("utf-16-le"),
    "utf-16-be": lambda text: text.encode("utf-16-be"),
}
COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    "plain": bytes,
    "gzip": gzip.compress,
    "xz": lzma.compress,
    "zstd": zstd.compress,
}


@pytest.mark.parametrize("newline", ["\n", "\r\n"], ids=["LF", "CRLF"])
@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("renderer", [*TEXTS, *RECORDS])
def test_encodings_and_compression_change_nothing(
    renderer: str, encoding: str, compression: str, newline: str, tmp_path: Path
) -> None:
    """However a shell wrote a table and whatever packed it, it holds the same rows; letters beyond ASCII, too."""
    rows = [*TABLES["windows.vadinfo"][0], vad(0x500000, 0x500FFF, private=0, file="\\Users\\J\u00f6rg\\\u4e2d.dll")]
    text = RENDERERS[renderer](rows, VADINFO).decode().replace("\n", newline)
    path = put(tmp_path / "table", COMPRESSIONS[compression](ENCODINGS[encoding](text)))
    assert read(path) == [{name: row[name] for name in USED["windows.vadinfo"]} for row in rows]


PROGRESS = "\rProgress:  100.00\t\tPDB scanning finished                        \r\r"


@pytest.mark.parametrize("renderer", ["quick", "expanded", "pretty", "csv", "json", "jsonl"])
@pytest.mark.parametrize("kind", TABLES)
def test_messages_around_the_rows_are_passed_over(kind: str, renderer: str, tmp_path: Path) -> None:
    """Progress before the header, warnings between rows and a traceback behind the last one change no row."""
    first, _, rest = RENDERERS[renderer](*TABLES[kind]).decode().partition("\n")
    before = PROGRESS * 50 + "WARNING  volatility3.framework.plugins: something [odd] {here}\n" + PROGRESS
    text = f"{first}\n{before}{rest}" if renderer in ("quick", "expanded", "pretty") else f"{before}{first}\n{rest}"
    if renderer != "json":
        lines = text.split("\n")
        place = next(
            n for n, line in enumerate(lines) if "Disabled" in line or hex(0x7FFD0000) in line or '"TID"' in line
        )
        lines.insert(place + 1, "WARNING  volatility3.framework.layers: unable to map 0x1\t0x2")
        text = "\n".join(lines)
    assert read(put(tmp_path / "table", (text + TRACEBACK).encode())) == held(kind)


@pytest.mark.parametrize("renderer", ["quick", "pretty", "csv"])
def test_a_message_behind_the_last_cell_is_passed_over(renderer: str, tmp_path: Path) -> None:
    """A traceback that begins on the line of the last row, as a mixed output has it, changes no row."""
    data = RENDERERS[renderer](*TABLES["windows.vadinfo"]).rstrip(b"\n") + TRACEBACK.encode()
    assert read(put(tmp_path / "table", data)) == held("windows.vadinfo")


@pytest.mark.parametrize("renderer", TEXTS)
def test_two_tables_in_one_file_are_read_as_both(renderer: str, tmp_path: Path) -> None:
    """A second table may follow the first, with wider columns."""
    rows = TABLES["windows.vadinfo"][0]
    wider = [vad(0x900000, 0x900FFF, private=0, file="\\" + "long" * 40)]
    data = RENDERERS[renderer](rows, VADINFO) + RENDERERS[renderer](wider, VADINFO)
    found = read(put(tmp_path / "table", data))
    assert found[:-1] == held("windows.vadinfo")
    assert found[-1]["File"] == wider[0]["File"]


@pytest.mark.parametrize(
    ("path", "printed"),
    [
        ("C:\\Windows\\x.dll", "C:\\\\Windows\\\\x.dll"),
        ("C:\\Windows\\x.dll", "C:\\Windows\\x.dll"),
        ("\\\\server\\share\\x.dll", "\\\\\\\\server\\\\share\\\\x.dll"),
        ("\\\\server\\share\\x.dll", "\\\\server\\share\\x.dll"),
        ('C:\\a "b", c.dll', '"C:\\\\a ""b"", c.dll"'),
        ("svchost.exe ", "svchost.exe "),
    ],
)
def test_backslashes_and_quotes_of_csv(path: str, printed: str, tmp_path: Path) -> None:
    """A path's backslashes may be doubled or not; quotes and commas are as CSV has them; no space is lost."""
    text = f"TreeDepth,PID,Base,Size,Path\n0,4,0x1000,0x1000,{printed}\n\n"
    assert [row["Path"] for row in read(put(tmp_path / "table.csv", text.encode()))] == [path]


def test_bars_and_wide_letters_in_a_pretty_table(tmp_path: Path) -> None:
    """Cells are found by the bars of the header: one within a path is a part of the path, and so are spaces."""
    rows = [vma(0x1000, 0x2000, "/a | b ", inode=1), vma(0x3000, 0x4000, "/\u4e2d\u6587|\u00fc", inode=2)]
    assert [row["File Path"] for row in read(put(tmp_path / "table", listings.pretty(rows, LINUX)))] == [
        "/a | b ",
        "/\u4e2d\u6587|\u00fc",
    ]


def test_an_empty_protection_is_unknown(tmp_path: Path) -> None:
    """A VAD without a protection is read in every text, and so is one without a file."""
    for name, render in TEXTS.items():
        row = vad(0x1000, 0x1FFF, protection="")
        if name == "pretty":
            row["Protection"] = " "
        found = read(put(tmp_path / "table", render([row, vad(0x3000, 0x3FFF)], VADINFO)))
        assert [cells["Start VPN"] for cells in found] == [0x1000, 0x3000]
        assert found[0]["File"] is None
        assert (found[0]["Protection"] or "").strip() == ""


@pytest.mark.parametrize(
    ("rows", "columns"),
    [
        ([dll(0x1000, 0x1000, "a C:\\x", "C:\\y.dll")], DLLLIST),
        ([vma(0x1000, 0x2000, "/a Disabled")], (*LINUX[:-1], "Process", "File output")),
        ([vad(0x1000, 0x1FFF, file="\\" + "a " * 60)], VADINFO),
    ],
    ids=["two paths", "two texts", "many words"],
)
def test_a_line_that_can_be_divided_in_two_ways_is_refused(
    rows: list[dict[str, Any]], columns: tuple[str, ...], tmp_path: Path
) -> None:
    """Where a terminal's spaces leave it open which words belong together, the line is named, and nothing guessed."""
    path = put(tmp_path / "table", listings.expanded(rows, columns))
    with pytest.raises(MapError, match=r"line 5: .* several ways"):
        read(path)


# what is refused

REFUSED = {
    "malfind": ("PID,Process,Start VPN,End VPN,Tag,Protection,Hexdump,Disasm", "malfind prints"),
    "ldrmodules": ("Pid,Process,Base,InLoad,InInit,InMem,MappedPath", "windows.ldrmodules prints"),
    "modules": ("Offset,Base,Size,Name,Path,File output", "the kernel's modules"),
    "pslist": ("PID,PPID,ImageFileName,Offset(V)", "other columns (TreeDepth, PID, PPID"),
    "ends of unknown meaning": ("PID,Process,Start,End", "other columns"),
    "ends of two meanings": ("PID,Start,End,Tag,Flags", "other columns"),
    "twice": ("PID,Base,Size,Base", "the column Base more than once"),
    "nothing": ("", "is empty"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_other_tables_are_refused_with_what_they_are(name: str, tmp_path: Path) -> None:
    """What is no table of regions, modules or threads is refused with its columns or its name."""
    columns, why = REFUSED[name]
    path = put(tmp_path / "table", f"TreeDepth,{columns}\n".encode() if columns else b"")
    with pytest.raises(NotRecognisedError, match=re.escape(why)) as caught:
        Listing(path)
    assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize("renderer", ["quick", "pretty", "csv", "json", "jsonl"])
@pytest.mark.parametrize("stem", ["vad/malfind.{}", "e2e/malfind.{}.stdout", "2.28.2/{}.stdout"])
def test_samples_of_other_tables_are_refused(stem: str, renderer: str) -> None:
    """Neither what malfind prints, in rows of several lines, nor a memory map is taken for a table of regions."""
    with pytest.raises(NotRecognisedError, match="malfind prints" if "malfind" in stem else "memory map|other columns"):
        Listing(os.path.join(SAMPLES, stem.format(renderer)))


@pytest.mark.parametrize("data", [b"[]", b"\n[\n]\n", b"\x00\x01" * 99, b"{}\n", b"[1, 2]", b"PID\tTID\n", b"hello"])
def test_what_holds_no_table_is_refused(data: bytes, tmp_path: Path) -> None:
    """An empty array, binary data, and text without a header hold no table."""
    with pytest.raises(NotRecognisedError):
        Listing(put(tmp_path / "table", data))


def test_without_pyarrow_the_message_says_how_to_install_it(tmp_path: Path) -> None:
    """A Parquet file needs an extra, and the message names it."""
    path = put(tmp_path / "table", listings.parquet([vad(0, 0xFFF)], VADINFO))
    with mock.patch.dict(sys.modules, {"pyarrow": None}), pytest.raises(MissingExtraError, match="memcarve"):
        Listing(path)


def test_the_hash_is_that_of_the_file(tmp_path: Path) -> None:
    """SHA-256 and size are those of the file as it lies on disk, compressed or not."""
    import hashlib  # noqa: PLC0415

    for name, render in RENDERERS.items():
        for compress in COMPRESSIONS.values() if name not in listings.BINARIES else (bytes,):
            data = compress(render(*TABLES["windows.vadinfo"]))
            with Listing(put(tmp_path / "table", data)) as listing:
                assert len(list(listing.rows())) == 3
                assert listing.sha256 == hashlib.sha256(data).hexdigest()
                assert listing.size == len(data)
