"""BTF: members, sizes and constants, against what was written, and against bpftool."""

from __future__ import annotations

import gc
import itertools
import struct
import weakref
from typing import TYPE_CHECKING, Any

import pytest

from btf_writer import (
    CONST,
    DATASEC,
    DECL_TAG,
    FLOAT,
    FORWARD,
    FUNC,
    FUNC_PROTO,
    PTR,
    RESTRICT,
    TYPE_TAG,
    TYPEDEF,
    UNION,
    VAR,
    VOLATILE,
    Writer,
    bpftool_types,
)
from compiled_types import linked, types_alone
from linux_machines import machine, machines
from memcarve.errors import KernelTypesError
from memcarve.formats.kernel_types import Member
from memcarve.formats.kernel_types.btf import Btf, header

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def _flattened(types: dict[int, dict[str, Any]], number: int, base: int = 0) -> Iterator[tuple[str, int, int, int]]:
    """Yield name, bit, bits and type of the members of a structure and of its anonymous ones, as bpftool says."""
    while types[number]["kind"] in {"TYPEDEF", "CONST", "VOLATILE"}:
        number = types[number]["type_id"]
    for each in types[number]["members"]:
        bit = base + each["bits_offset"]
        if each["name"] == "(anon)":
            yield from _flattened(types, each["type_id"], bit)
        else:
            yield each["name"], bit, each.get("bitfield_size", 0), each["type_id"]


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the BTF of a small program, as gcc and pahole make it."""
    return types_alone(linked(tmp_path_factory.mktemp("btf"), "-g"))


def test_members_are_those_that_bpftool_reads(compiled: Path) -> None:
    """Every member of what a compiler made lies where bpftool says, bit fields too."""
    types = {each["id"]: each for each in bpftool_types(str(compiled))}
    btf, checked = Btf(compiled.read_bytes(), "a test"), 0
    assert len(btf) == len(types)
    assert btf.pointer_size == struct.calcsize("P")
    for number, each in types.items():
        if each["kind"] not in {"STRUCT", "UNION"} or each["name"] == "(anon)":
            continue
        assert btf.size(each["name"]) == each["size"]
        for name, bit, bits, _ in _flattened(types, number):
            found = btf.member(each["name"], name)
            assert found is not None, name
            assert (8 * found.offset + (found.bit_offset or 0), found.bit_size or 0) == (bit, bits), name
            checked += 1
    assert checked > 20


def test_constants_are_those_that_bpftool_reads(compiled: Path) -> None:
    """Every constant, negative ones and those of 64 bits too, has the value that bpftool says."""
    btf, checked = Btf(compiled.read_bytes(), "a test"), 0
    for each in bpftool_types(str(compiled)):
        for constant in each.get("values", ()):
            assert btf.constant(each["name"], constant["name"]) == constant["val"]
            assert btf.constant(None, constant["name"]) == constant["val"]
            checked += 1
    assert checked == 5


def test_paths_and_sizes_of_what_a_compiler_made(compiled: Path) -> None:
    """Paths lead through typedefs, arrays and anonymous members; sizes are the compiler's (x86-64 and ARM64 agree)."""
    btf = Btf(compiled.read_bytes(), "a test")
    assert btf.member("thing", "high") == Member(20, 4)
    assert btf.member("thing", "list.prev") == Member(8, 8)
    assert btf.member("unnamed", "c") == Member(2, 15)
    inner = btf.member("thing", "inner")
    assert inner is not None
    assert btf.member("thing", "inner.c") == Member(inner.offset + 2, 15)
    assert inner.size == 4 * 18
    rest, whole = btf.member("thing", "rest"), btf.size("thing")
    assert rest == Member(whole or 0, 0)
    assert btf.size("unnamed") == 18
    assert btf.size("colour") == 4
    assert btf.size("u32") == 4
    for path in ("nothing", "list.nothing", "name.x", "", ".", "list.", "narrow.x"):
        assert btf.member("thing", path) is None
    assert btf.member("nothing", "list") is None
    assert btf.size("nothing") is None
    assert btf.member("unknown", "list") is None
    assert btf.size("unknown") is None
    assert btf.constant("colour", "SMALL") is None


def _every_kind(order: str = "<") -> Writer:
    """Return BTF with each kind of Linux 7.2, and a task_struct at its end."""
    made = Writer(order)
    long = made.integer("unsigned long", 8)
    small = made.integer("int", 4)
    pointer = made.add(PTR, "", small)
    array = made.array(pointer, 3)
    alias = made.add(TYPEDEF, "alias_t", made.add(CONST, "", made.add(VOLATILE, "", made.add(RESTRICT, "", array))))
    tagged = made.add(TYPE_TAG, "user", alias)
    made.add(FORWARD, "elsewhere", 0)
    prototype = made.add(FUNC_PROTO, "", small, made.string("x"), small, 0, 0, count=2)
    made.add(FUNC, "function", prototype)
    made.add(VAR, "variable", small, 0)
    made.add(DATASEC, ".data", 4, 10, 0, 4, count=1)
    made.add(DECL_TAG, "tag", small, -1)
    half = made.add(FLOAT, "double", 8)
    choice = made.enumeration("choice", 4, ONE=1, MANY=0xFFFFFFFF)
    signed = made.enumeration("signed", 8, signed=True, LOW=-(1 << 40))
    both = made.structure("", 8, ("first", small, 0), ("second", half, 0), kind=UNION)
    members = [("begin", long, 0), ("", both, 64), ("list", tagged, 128), ("c", choice, 320), ("d", signed, 384)]
    made.structure("task_struct", 64, *members)
    return made


@pytest.mark.parametrize("order", "<>")
def test_every_kind_is_passed_in_either_byte_order(order: str) -> None:
    """Types of every kind are stepped over, and what follows them is right."""
    btf = Btf(_every_kind(order).written(), "a test")
    assert btf.member("task_struct", "second") == Member(8, 8)
    assert btf.member("task_struct", "list") == Member(16, 24)
    assert btf.member("task_struct", "d") == Member(48, 8)
    assert btf.constant("choice", "MANY") == 0xFFFFFFFF
    assert btf.constant(None, "LOW") == -(1 << 40)
    assert btf.size("alias_t") == 24
    assert btf.size("double") == 8


def test_constants_of_old_kernels_are_signed() -> None:
    """Before there was a flag for it, every enumeration had signed values."""
    made = Writer()
    made.integer("long int", 8)
    made.enumeration("old", 4, MINUS=-1)
    assert Btf(made.written(), "a test").constant("old", "MINUS") == -1


def test_bit_fields_of_old_compilers() -> None:
    """Without the flag, an integer's own width says how many bits a member has."""
    made = Writer()
    made.integer("long int", 4)
    narrow = made.integer("unsigned int", 4, 5, 2)
    made.structure("s", 8, ("plain", 1, 0), ("field", narrow, 32))
    btf = Btf(made.written(), "a test")
    assert btf.pointer_size == 4
    assert btf.member("s", "field") == Member(4, 4, 2, 5)


def test_bits_are_found_where_the_compiler_put_them(compiled: Path) -> None:
    """The number read at a bit field's place has the field's bits from bit_offset on, also of packed ones."""
    btf = Btf(compiled.read_bytes(), "a test")
    for name in ("narrow", "other", "big", "odd.packed", "odd.across"):
        found = btf.member("thing", name)
        assert found is not None
        assert found.size is not None
        assert found.bit_offset is not None
        assert found.bit_size == {"narrow": 3, "other": 9, "big": 40, "odd.packed": 5, "odd.across": 30}[name]
        assert found.bit_offset + found.bit_size <= 8 * found.size


def test_types_of_one_name_that_disagree_are_not_known() -> None:
    """Of two structures of one name only that is known in which they agree, or that only one has."""
    made = Writer()
    long = made.integer("long int", 8)
    made.structure("twice", 16, ("same", long, 0), ("moved", long, 64), ("left", long, 64))
    made.structure("twice", 24, ("same", long, 0), ("moved", long, 128))
    btf = Btf(made.written(), "a test")
    assert btf.member("twice", "same") == Member(0, 8)
    assert btf.member("twice", "left") == Member(8, 8)
    assert btf.member("twice", "moved") is None
    assert btf.size("twice") is None


def test_layouts_tell_the_size_of_kinds_that_are_not_known() -> None:
    """A kind of the future is stepped over if the layout section says how; else the BTF is refused."""
    made = _every_kind()
    made.add(25, "new", 1, 2, 3, 4, 5, 6, count=2)
    made.structure("behind", 8, ("x", 1, 0))
    layouts = bytes(4 * 25) + struct.pack("<2BH", 4, 8, 0)
    assert Btf(made.written(layouts), "a test").member("behind", "x") == Member(0, 8)
    assert Btf(_every_kind().written(header=64), "a test").size("task_struct") == 64
    with pytest.raises(KernelTypesError, match="type 21 is of no known kind"):
        Btf(made.written(), "a test")


def test_structures_of_many_members() -> None:
    """Counts have 24 bits since Linux 7."""
    made = Writer()
    long = made.integer("long int", 8)
    members = [(f"m{number}", long, 64 * number) for number in range(70000)]
    made.structure("large", 8 * len(members), *members)
    made.structure("behind", 8, ("x", long, 0))
    btf = Btf(made.written(), "a test")
    assert btf.member("large", "m69999") == Member(8 * 69999, 8)
    assert btf.member("behind", "x") == Member(0, 8)


def test_types_are_not_kept_for_ever() -> None:
    """What was looked up in them ends with them: a run over many images reads as many kernels' types."""
    made = Writer()
    made.structure("one", 8, ("member", made.integer("long int", 8), 0))
    types = Btf(made.written(), "a test")
    assert types.member("one", "member") == types.member("one", "member") == Member(0, 8)
    kept = weakref.ref(types)
    del types
    gc.collect()
    assert kept() is None


def test_loops_end() -> None:
    """Typedefs, arrays and anonymous structures that contain themselves are not known."""
    made = Writer()
    long = made.integer("long int", 8)
    made.add(TYPEDEF, "round_t", 3)
    made.add(TYPEDEF, "again_t", 2)
    made.array(4, 5)
    made.structure("outer", 8, ("", 6, 0), ("", 5, 0))
    made.structure("", 8, ("", 5, 0), ("found", long, 0))
    made.structure("holder", 64, ("a", 4, 0), ("t", 2, 0), ("far", 1 << 30, 0), ("self", 7, 0))
    btf = Btf(made.written(), "a test")
    assert btf.size("round_t") is None
    assert btf.member("outer", "found") == Member(0, 8)
    assert btf.member("outer", "missing") is None
    assert btf.member("holder", "a.x") is None
    assert btf.member("holder", "t.x") is None
    assert btf.member("holder", "far") == Member(0, None)
    assert btf.member("holder", ".".join(["self"] * 10000)) == Member(0, 64)


def test_doubling_structures_are_looked_at_once() -> None:
    """Anonymous structures that each hold two more do not take exponential time."""
    made = Writer()
    made.integer("long int", 8)
    for number in range(2, 300):
        made.structure("" if number > 2 else "top", 8, ("", number + 1, 0), ("", number + 1, 0))
    made.structure("", 8, ("found", 1, 0))
    btf = Btf(made.written(), "a test")
    assert btf.member("top", "found") == Member(0, 8)
    assert btf.member("top", "missing") is None


def test_what_lies_outside_of_its_structure_is_not_known() -> None:
    """A member beyond its structure's end is not believed."""
    made = Writer()
    long = made.integer("long int", 8)
    made.structure("s", 8, ("inside", long, 0), ("outside", long, 8), ("half", long, 4))
    btf = Btf(made.written(), "a test")
    assert btf.member("s", "inside") == Member(0, 8)
    assert btf.member("s", "outside") is None
    assert btf.member("s", "half") is None


def test_damage_is_said() -> None:
    """Cut off, with the wrong magic, version or sections, or with a type that does not end: an error says so."""
    whole = _every_kind().written()
    Btf(whole, "a test")
    for size in (*range(60), len(whole) - 1):
        with pytest.raises(KernelTypesError):
            Btf(whole[:size], "a test")
    for at, value in ((0, 0), (2, 2), (4, 20), (5, 0xFF), (8, 2), (11, 0xFF), (12, 4), (15, 0xFF), (19, 1), (23, 1)):
        broken = bytearray(whole)
        broken[at] = value
        with pytest.raises(KernelTypesError):
            Btf(bytes(broken), "a test", "x.btf")
    assert header(b"") is None
    assert header(whole[:32]) is not None


def test_no_size_of_a_pointer_is_an_error() -> None:
    """A BTF that says neither how large a long nor how large a list's head is is not a kernel's."""
    made = Writer()
    made.integer("int", 4)
    with pytest.raises(KernelTypesError, match="how large a pointer is"):
        Btf(made.written(), "a test", "x.btf")
    made.structure("list_head", 8)
    assert Btf(made.written(), "a test").pointer_size == 4


def test_any_byte_may_be_wrong() -> None:
    """Whatever byte is changed, there is an answer or a declared error."""
    whole = _every_kind().written()
    for at, value in itertools.product(range(len(whole)), (0, 1, 0x7F, 0xFF)):
        broken = bytearray(whole)
        broken[at] = value
        try:
            btf = Btf(bytes(broken), "a test")
        except KernelTypesError:
            continue
        for name in btf.structures():
            btf.size(name)
            for path in ("begin", "second", "list.first", "d"):
                btf.member(name, path)
        btf.constant(None, "ONE")


@pytest.mark.slow
@pytest.mark.parametrize("name", machines())
def test_real_kernels_against_bpftool(name: str, tmp_path: Path) -> None:
    """Every member and the size of every structure of a real kernel are those that bpftool reads."""
    real = machine(name)
    found = real.truth.get("btf")
    if not found:
        pytest.skip(f"{name} has no BTF")
    path = tmp_path / "vmlinux.btf"
    with real.raw.open("rb") as memory:
        memory.seek(found["physical"] - real.raw_base)
        path.write_bytes(memory.read(found["size"]))
    types = {each["id"]: each for each in bpftool_types(str(path))}
    btf, checked = Btf(path.read_bytes(), "a test"), 0
    assert len(btf) == len(types)
    named: dict[str, list[int]] = {}
    for number, each in types.items():
        if each["kind"] in {"STRUCT", "UNION"} and each["name"] != "(anon)":
            named.setdefault(each["name"], []).append(number)
    for structure, (number, *others) in named.items():
        if others:  # several structures of one name: what they disagree about is not known
            continue
        assert btf.size(structure) == types[number]["size"]
        for member, bit, bits, _ in _flattened(types, number):
            placed = btf.member(structure, member)
            assert placed is not None, (structure, member)
            assert (8 * placed.offset + (placed.bit_offset or 0), placed.bit_size or 0) == (bit, bits), (
                structure,
                member,
            )
            checked += 1
    assert checked > 30000
