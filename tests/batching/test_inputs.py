"""The inputs of a batch: how lists of them are read, and what their folders are called."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, strategies as st

from memcarve import InputError, UsageError
from memcarve.batching.inputs import folder_names, identity, once_each, read_list

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("data", "nul", "expected"),
    [
        (b"a.raw\nb c.raw\n", False, ["a.raw", "b c.raw"]),
        (b"a.raw\r\n\r\n b.raw \r\n", False, ["a.raw", " b.raw "]),
        (b"\xef\xbb\xbfa.raw", False, ["a.raw"]),
        ("\ufeffC:\\m\u00e9m.raw\r\n".encode("utf-16-le"), False, ["C:\\m\u00e9m.raw"]),
        (b"a\nb.raw\0-o\0", True, ["a\nb.raw", "-o"]),
        (b"\xff.raw\n", False, ["\udcff.raw"]),
        (b"", False, []),
        (b"", True, []),
    ],
)
def test_lists(tmp_path: Path, data: bytes, *, nul: bool, expected: list[str]) -> None:
    """A list has one name a line or before each NUL, as any shell of any system writes it."""
    path = tmp_path / "list"
    path.write_bytes(data)
    assert read_list(str(path), nul=nul) == expected


@pytest.mark.parametrize(("data", "nul"), [(b"a\0b\n", False), (b"a\nb\n", True)])
def test_a_list_of_the_other_kind_is_refused(tmp_path: Path, data: bytes, *, nul: bool) -> None:
    """A list that cannot be meant so, as NULs or their absence show, is wrong usage that says what to do."""
    path = tmp_path / "list"
    path.write_bytes(data)
    with pytest.raises(UsageError, match="-0"):
        read_list(str(path), nul=nul)


def test_a_list_that_is_not_there(tmp_path: Path) -> None:
    """A list that cannot be read is an error that names it."""
    with pytest.raises(InputError, match=r"absent: cannot be read: No such file"):
        read_list(str(tmp_path / "absent"), nul=False)


def test_what_is_named_twice(tmp_path: Path) -> None:
    """One file by two names, as links and dots make them, is one input."""
    (tmp_path / "a").touch()
    (tmp_path / "b").symlink_to("a")
    names = [str(tmp_path / "a"), str(tmp_path / "b"), f"{tmp_path}/./a", str(tmp_path / "c")]
    assert once_each(names) == ([names[0], names[3]], names[1:3])


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        (["/c/mem.raw", "/d/other.raw"], ["mem.raw", "other.raw"]),
        (["/c/h1/mem.raw", "/c/h2/mem.raw", "/c/x.raw"], ["h1-mem.raw", "h2-mem.raw", "x.raw"]),
        (["/1/h/mem.raw", "/2/h/mem.raw"], ["1-h-mem.raw", "2-h-mem.raw"]),
        (["/c/MEM.raw", "/d/mem.RAW"], ["c-MEM.raw", "d-mem.RAW"]),
        (["/c/a b.raw", "/c/a\nb.raw"], ["c-a_b.raw", "c-a_b.raw+2"]),
        (["/c/..raw", "/c/-o", "/c/\x1b[2J", "/c/\u202e"], ["raw", "o", "_2J", "_"]),
        (["/c/nul", "/c/COM1.raw"], ["_nul", "_COM1.raw"]),
        (["/c/\u043f\u0430\u043c\u044f\u0442\u044c.raw"], ["\u043f\u0430\u043c\u044f\u0442\u044c.raw"]),
        (["/c/batch.json"], ["batch.json+2"]),
        (["/"], ["input"]),
        (["/proc/1234"], ["1234"]),
    ],
)
def test_names_of_folders(paths: list[str], expected: list[str]) -> None:
    """A folder is named after its input, in plain characters, and told apart by the folders above, else by a number."""
    assert folder_names(paths, ["batch.json"]) == expected


@given(st.lists(st.text(st.characters(exclude_characters="\0"), min_size=1), max_size=20), st.data())
def test_names_of_folders_are_plain_and_differ(paths: list[str], data: st.DataObject) -> None:
    """Whatever inputs are called, no two folders have one name for any file system, and none leads elsewhere."""
    half = data.draw(st.integers(0, len(paths)))
    taken = folder_names(paths[:half])
    names = [*taken, *folder_names(paths[half:], taken)]
    assert len({name.casefold() for name in names}) == len(paths)
    for name in names:
        assert re.fullmatch(r"[\w+][\w.+-]*", name)
        assert name.isprintable()
        assert len(os.fsencode(name)) < 250


def test_identity(tmp_path: Path) -> None:
    """A file is known by length and time, a folder by its time, and what is not there by nothing."""
    file = tmp_path / "file"
    file.write_bytes(b"12345")
    os.utime(file, ns=(7, 7))
    assert identity(str(file)) == {"size": 5, "modified": 7}
    assert identity(str(tmp_path)) == {"size": None, "modified": tmp_path.stat().st_mtime_ns}
    for path in (tmp_path / "absent", "a\0b"):
        assert identity(str(path)) == {"size": None, "modified": None}
