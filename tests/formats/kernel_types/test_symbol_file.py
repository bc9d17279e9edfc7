"""Files with the types of a kernel: every form says the same of one program; what is none says what helps."""

from __future__ import annotations

import base64
import gzip
import json
import lzma
import re
import struct
from typing import TYPE_CHECKING, Any

import pytest

from btf_writer import Writer
from compiled_types import BANNER, linked, types_alone, without
from files import ROOT
from memcarve.errors import KernelTypesError
from memcarve.formats.compression import Reading
from memcarve.formats.kernel_types import Member
from memcarve.formats.kernel_types.btf import Btf
from memcarve.formats.kernel_types.isf import Isf
from memcarve.formats.kernel_types.symbol_file import SymbolFile, read_symbols

if TYPE_CHECKING:
    from pathlib import Path

    from memcarve.formats.kernel_types import KernelTypes

_PATHS = {
    "thing": (
        *("list", "list.prev", "low", "high", "both", "narrow", "other", "big", "colour", "wide", "inner", "inner.c"),
        *("either.b", "name", "ratio", "deep", "odd.packed", "odd.across", "rest", "list.nothing", "nothing", "name.x"),
    ),
    "list_head": ("next", "prev.next"),
    "unnamed": ("s", "c"),
    "pid": ("nr",),
    "nothing": ("x",),
    "unknown": ("x",),
}
_SIZES = ("thing", "list_head", "unnamed", "either", "odd", "pid", "colour", "u32", "int", "nothing")


def said_by(types: KernelTypes) -> dict[str, Any]:
    """Return all that types say of the small program."""
    found: dict[str, Any] = {f"{name}.{path}": types.member(name, path) for name, of in _PATHS.items() for path in of}
    found |= {f"sizeof {name}": types.size(name) for name in _SIZES}
    for owner, name in (("colour", "GREEN"), ("colour", "BLUE"), ("wide", "LARGE"), (None, "SMALL"), ("wide", "RED")):
        found[f"{owner}: {name}"] = types.constant(owner, name)
    return found | {"pointer": types.pointer_size}


def isf(**more: Any) -> dict[str, Any]:
    """Return a small document in the form of version 6.2."""
    pointer = {"kind": "pointer", "subtype": {"kind": "base", "name": "void"}}
    fields = {
        "next": {"type": pointer, "offset": 0},
        "unnamed_field_0": {"type": {"kind": "union", "name": "unnamed_1"}, "offset": 8, "anonymous": True},
        "bits": {
            "offset": 16,
            "type": {"kind": "bitfield", "bit_length": 3, "bit_position": 5, "type": {"kind": "base", "name": "int"}},
        },
        "many": {"offset": 20, "type": {"kind": "array", "count": 3, "subtype": {"kind": "struct", "name": "small"}}},
    }
    union = {"kind": "union", "size": 8, "fields": {"both": {"type": {"kind": "base", "name": "int"}, "offset": 4}}}
    small = {"kind": "struct", "size": 4, "fields": {"x": {"type": {"kind": "enum", "name": "e"}, "offset": 0}}}
    banner = base64.b64encode(f"{BANNER}\n\0".encode()).decode()
    symbols = {"linux_banner": {"address": 1, "constant_data": banner}, "init_task": {"address": 0xFFFFFFFF81000000}}
    return {
        "metadata": {"format": "6.2.0", "linux": {}},
        "base_types": {"pointer": {"size": 8}, "int": {"size": 4}, "void": {"size": 0}},
        "enums": {"e": {"size": 4, "base": "int", "constants": {"ONE": 1, "MINUS": -1}}},
        "user_types": {"s": {"kind": "struct", "size": 32, "fields": fields}, "unnamed_1": union, "small": small},
        "symbols": symbols,
    } | more


def written(path: Path, document: Any) -> Path:
    """Write a document as JSON."""
    path.write_text(json.dumps(document))
    return path


@pytest.mark.parametrize("flags", [("-gdwarf-5",), ("-gdwarf-4",), ("-gdwarf-5", "-gz=zlib"), ("-gdwarf-4", "-O2")])
def test_btf_and_dwarf_of_one_program_say_the_same(tmp_path: Path, flags: tuple[str, ...]) -> None:
    """What is read from DWARF, of any version and also compressed, is what pahole made BTF of."""
    pytest.importorskip("elftools")
    program = linked(tmp_path, *flags)
    alone = read_symbols(str(types_alone(program)), Reading())
    whole = read_symbols(str(program), Reading())
    dwarf = read_symbols(str(without(program, ".BTF")), Reading())
    assert [each.types.source.split()[0] for each in (alone, whole, dwarf)] == ["BTF", "BTF", "DWARF"]
    expected = said_by(Btf(types_alone(program).read_bytes(), "a test"))
    assert expected["thing.odd.across"] is not None
    for each in (alone, whole, dwarf):
        assert said_by(each.types) == expected
    assert (alone.banner, alone.build_id, alone.addresses) == (None, None, None)
    for each in (whole, dwarf):
        assert each.banner == BANNER
        assert each.release == "6.99.1-test"
        assert each.build_id == "0123456789abcdef"
        assert each.addresses is not None
        assert "linux_banner" in each.addresses


def test_isf_says_members_sizes_constants_and_symbols() -> None:
    """Anonymous members, bit fields and arrays are understood; addresses and the banner are those of its symbols."""
    types = Isf(json.dumps(isf()).encode(), "a test")
    assert types.member("s", "next") == Member(0, 8)
    assert types.member("s", "both") == Member(12, 4)
    assert types.member("s", "bits") == Member(16, 4, 5, 3)
    assert types.member("s", "many") == Member(20, 12)
    assert types.member("s", "many.x") == Member(20, 4)
    assert types.member("s", "nothing") is None
    assert (types.size("s"), types.size("e"), types.size("int"), types.size("nothing")) == (32, 4, 4, None)
    assert (types.constant("e", "MINUS"), types.constant(None, "ONE"), types.constant("s", "ONE")) == (-1, 1, None)
    assert types.banner == BANNER
    assert types.symbols["init_task"] == 0xFFFFFFFF81000000


@pytest.mark.parametrize("pack", [lzma.compress, gzip.compress, bytes])
def test_compressed_files_are_read(tmp_path: Path, pack: Any) -> None:
    """As they are handed on: .json, .json.xz, .json.gz."""
    path = tmp_path / "symbols"
    path.write_bytes(pack(json.dumps(isf()).encode()))
    found = read_symbols(str(path), Reading())
    assert found.types.member("s", "next") == Member(0, 8)
    assert found.release == "6.99.1-test"


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (json.dumps(isf(metadata={"windows": {}})).encode(), "symbols of Windows"),
        (json.dumps(isf(metadata={"mac": {}})).encode(), "symbols of macOS"),
        (json.dumps(isf(user_types={})).encode(), "not a symbol file of Linux"),
        (b'{"x": ', "not a JSON document"),
        (b"[" * 100000, "not a file with the types"),
        (b'{"a":' * 100000, "not a JSON document"),
        (b"ffffffff81000000 T _text\nffffffff81000000 T _stext\n", r"System\.map"),
        (bytes(0x202) + b"HdrS" + bytes(2000), "vmlinuz.*extract-vmlinux"),
        (bytes(0x38) + b"ARMd" + bytes(2000), "vmlinuz.*extract-vmlinux"),
        (b"MZ" + bytes(2000), "of Windows"),
        (b"Microsoft C/C++ MSF 7.00\r\n\x1aDS", "of Windows"),
        (b"", "not a file with the types"),
        (b"\x7fELF", "damaged ELF"),
        (b"\x7fELF\2\1\1" + bytes(100), "damaged ELF"),
        (struct.pack("<HBB5I", 0xEB9F, 1, 0, 24, 0, 12, 12, 1) + bytes(13), "BTF"),
    ],
)
def test_other_files_are_refused_with_what_helps(tmp_path: Path, data: bytes, problem: str) -> None:
    """What is often taken for symbols, and what is damaged, is said to be what it is."""
    path = tmp_path / "file"
    path.write_bytes(data)
    with pytest.raises(KernelTypesError, match=problem) as caught:
        read_symbols(str(path), Reading())
    assert caught.value.subject == str(path)


def test_a_program_without_types_is_refused(tmp_path: Path) -> None:
    """A vmlinux that was stripped has neither BTF nor DWARF."""
    pytest.importorskip("elftools")
    program = without(linked(tmp_path, "-g"), ".BTF", ".debug_info")
    with pytest.raises(KernelTypesError, match=r"it has no \.debug_info"):
        read_symbols(str(program), Reading())


def test_cut_and_changed_programs_end(tmp_path: Path) -> None:
    """Whatever a program's sections hold, there is an answer or a declared error."""
    pytest.importorskip("elftools")
    whole = without(linked(tmp_path, "-g"), ".BTF").read_bytes()
    path = tmp_path / "changed"
    places = [*range(0, 64, 3), *range(64, len(whole), len(whole) // 60)]
    for at in places:
        path.write_bytes(whole[:at] + b"\xff\x7f" + whole[at + 2 :])
        try:
            said_by(read_symbols(str(path), Reading()).types)
        except KernelTypesError:
            continue


@pytest.mark.parametrize("wrong", [None, 0, "x", [], {}, -1, 1 << 70, True, 1.5, {"kind": []}, {"kind": "array"}])
def test_any_value_of_isf_may_be_wrong(wrong: Any) -> None:
    """Whatever stands in the place of a value, there is an answer or a declared error."""

    def changed(node: Any, path: tuple[Any, ...]) -> Any:
        if not path:
            return wrong
        copy = dict(node)
        copy[path[0]] = changed(node[path[0]], path[1:])
        return copy

    def paths(node: Any, above: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        below = [paths(each, (*above, name)) for name, each in node.items()] if isinstance(node, dict) else []
        return [above, *(path for each in below for path in each)]

    for path in paths(isf()):
        try:
            types = Isf(json.dumps(changed(isf(), path)).encode(), "a test")
        except KernelTypesError:
            continue
        for name in ("next", "both", "bits", "many.x"):
            types.member("s", name)
        types.size("s")
        types.constant("e", "ONE")
        types.constant(None, "ONE")
        assert types.banner is None or isinstance(types.banner, str)
        assert isinstance(types.symbols, dict)


def test_symbols_of_another_kernel() -> None:
    """Another release is an error with both, another build of the same one a sentence; the unknown is not compared."""
    made = Writer()
    made.integer("long int", 8)
    types = Btf(made.written(), "a test")
    mine = SymbolFile("s.json", types, BANNER, "aa")
    with pytest.raises(KernelTypesError, match=re.escape("Linux 6.99.1-test, but the memory is that of Linux 6.1")):
        mine.check({"6.1"}, set(), set())
    assert mine.check({"6.99.1-test"}, {BANNER}, set()) is None
    assert mine.check({"6.99.1-test"}, {BANNER.replace("#1 ", "# ")}, set()) is None
    other = mine.check({"6.99.1-test"}, {BANNER.replace("today", "tomorrow")}, set())
    assert other is not None
    assert "today" in other
    assert "tomorrow" in other
    assert mine.check({"6.1"}, set(), {"aa"}) is None
    assert "build id" in (SymbolFile("s", types, None, "aa").check(set(), set(), {"bb"}) or "")
    assert SymbolFile("s", types).check({"6.1"}, {BANNER}, {"bb"}) is None
    assert mine.check(set(), set(), set()) is None


def test_a_real_symbol_file() -> None:
    """A real ISF says of Debian's kernel what its BTF says (offsets as measured in its image)."""
    folder = ROOT.parent / "shared" / "real" / "isf" / "linux"
    path = folder / "debian-6.1.0-56-cloud-amd64.json.xz"
    if not path.exists():
        pytest.skip(f"{path} is missing")
    found = read_symbols(str(path), Reading())
    assert found.release == "6.1.0-56-cloud-amd64"
    expected = {
        ("task_struct", "comm"): 0xBA0,
        ("vm_area_struct", "vm_flags"): 0x20,
        ("mm_struct", "context.vdso"): 0x370,
        ("file", "f_path.dentry"): 0x18,
        ("pid", "numbers"): 0x60,
        ("maple_node", "mr64"): 0,
    }
    members = {key: found.types.member(*key) for key in expected}
    assert {key: None if each is None else each.offset for key, each in members.items()} == expected
    assert found.types.size("task_struct") == 0x2600
    assert found.types.constant("maple_type", "maple_leaf_64") == 1
