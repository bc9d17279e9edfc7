"""Pages that Linux compressed in its memory: on zram, in zswap."""

from __future__ import annotations

import json
import zlib
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import memcarve
from kernel_memory import KernelMemory
from linux_machines import folders, machine
from memcarve.errors import KernelTypesError
from memcarve.formats.compressed_pages import LZO
from memcarve.formats.kernel_types.btf import module_types
from memcarve.images.linux.swapping import stored_pages, zswap as zswap_of_linux
from memcarve.images.linux.swapping.structure_columns import StructureColumns
from memcarve.images.linux.swapping.zram import Zram
from memcarve.images.linux.swapping.zswap import Zswap
from memcarve.intervals import TOP
from memcarve.permissions import origin
from memory import PAGE

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from linux_structures import Damaged

_ZRAM = "linux-6.12-amd64"
#: machines that tests/helpers/swap_machine/make.py makes: what of their pages is read
_MADE = (
    "swap-6.1-zram-lzo-rle", "swap-6.1-zram-zstd", "swap-6.12-zram-zstd", "swap-6.1-zswap-lzo-zbud",
    "swap-6.1-zswap-zstd-zsmalloc", "swap-6.12-zswap-lzo-zsmalloc",
)  # fmt: skip


def _made(name: str) -> Path:
    found = next((place / name for place in folders() if (place / name / "truth.json").is_file()), None)
    if found is None:
        pytest.skip(f"no machine {name} is in {', '.join(map(str, folders()))}; tests/helpers/swap_machine makes it")
    return found


@pytest.mark.parametrize("name", _MADE)
def test_machines(name: str) -> None:
    """Each page that is compressed has the bytes that the program had written; others say where they are."""
    folder = _made(name)
    pages = json.loads((folder / "truth.json").read_text())["pages"]
    with memcarve.open(folder / "memory.raw") as container:
        memory = container.process(1)
        assert memory.space.flags is not None
        read = dict.fromkeys((page["kind"] for page in pages), 0)
        for page in pages:
            row = memory.space.at(page["address"])
            if row is None:  # zswap does not keep what is larger compressed, or nearly so: it went to the disk
                assert "zswap" in name
                assert page["kind"] in ("noise", "half")
                continue
            read[page["kind"]] += 1
            assert origin(int(memory.space.flags[row])) == "compressed"
            assert zlib.crc32(memory.read(page["address"], PAGE)) == page["crc32"]
    assert min(count for kind, count in read.items() if kind != "noise" or "zram" in name) > 100


def _addresses(copy: Damaged) -> tuple[int, list[int]]:
    """Return a process with swapped pages, and their addresses."""
    machine = copy.machine
    pid = next(pid for pid in machine.stopped if len(machine.swapped(pid).address))
    return pid, machine.swapped(pid).address.tolist()


def test_memory_from_afar() -> None:
    """If the memory is not to be looked through, swapped pages are said to be out, and a note says why."""
    linux = machine(_ZRAM)
    pid = next(pid for pid in linux.stopped if len(linux.swapped(pid).address))
    with memcarve.open(linux.raw, search="lists") as container:
        memory = container.process(pid)
        assert memory.pages["in_pagefile"] == len(linux.swapped(pid).address)
        assert any("zram and in zswap are not looked for: that takes a search" in str(note) for note in memory.notes)


@pytest.mark.parametrize("what", ["object", "handle"])
def test_damaged_objects(what: str, damaged: Callable[[str], Damaged]) -> None:
    """A page whose object, or the word that leads to it, does not prove itself is not read; the others are."""
    copy = damaged(_ZRAM)
    pid, addresses = _addresses(copy)
    swapped = copy.machine.swapped(pid)
    at = len(addresses) // 2
    with memcarve.open(copy.path) as container:
        swap = container.system._compressed_swap("")  # type: ignore[attr-defined]
        device = swap.on_zram[0]
        stored = device.find(swapped.offset[at : at + 1])
        assert stored.how[0] > stored_pages.REPEATED
        header = int(stored.first[0]) + int(stored.away[0]) - 8
        handle = int.from_bytes(copy.read_physical(header, 8), "little") & ~1
    if what == "object":
        copy.write_physical(header, bytes(8))
    else:
        copy.write(handle, b"\xff" * 8)
    with memcarve.open(copy.path) as container:
        memory = container.process(pid)
        assert memory.pages["compressed"] == len(addresses)
        assert memory.space.at(addresses[at]) is None
        assert all(memory.space.at(address) is not None for address in addresses if address != addresses[at])
        assert any("1 pages are compressed (zram, zswap) and not read" in str(note) for note in memory.notes)


def test_an_algorithm_that_nothing_decodes(damaged: Callable[[str], Damaged]) -> None:
    """The pages are counted as compressed, and a note names the algorithm."""
    copy = damaged(_ZRAM)
    pid, addresses = _addresses(copy)
    with memcarve.open(copy.path) as container:
        kernel = container.system.kernel  # type: ignore[attr-defined]
        swap = container.system._compressed_swap("")  # type: ignore[attr-defined]
        columns, disk = (
            swap.on_zram[0]._columns,
            kernel.structures.pointer(
                kernel.structures.pointer(swap.areas[0][0], "swap_info_struct", "bdev"), "block_device", "bd_disk"
            ),
        )
        device = kernel.structures.pointer(disk, "gendisk", "private_data")
        name = columns.types.member("zram", "comp_algs").offset
        pointer = kernel.structures.reader.number(device + name)
    assert copy.read(pointer, 4) == b"lz4\0"
    copy.write(pointer, b"842\0")
    with memcarve.open(copy.path) as container:
        memory = container.process(pid)
        assert memory.pages["compressed"] == len(addresses)
        assert all(memory.space.at(address) is None for address in addresses)
        said = (
            f"{len(addresses)} pages are compressed (zram, zswap) and not read: zram0: they are compressed with '842'"
        )
        assert any(said in str(note) for note in memory.notes)


def test_types_of_modules() -> None:
    """What is no module's BTF, or is cut off, is refused."""
    kernel = SimpleNamespace(header=SimpleNamespace(order="<"))
    for data in (b"", bytes(64), b"\x9f\xeb\x01\0" + bytes(60)):
        with pytest.raises(KernelTypesError, match="a module's BTF"):
            module_types(kernel, data, "a test")  # type: ignore[arg-type]


class _Words:
    """Kernel memory, read as `KernelHalf` is."""

    def __init__(self, memory: KernelMemory) -> None:
        self.memory = memory

    def words_at(self, addresses: Any) -> tuple[Any, Any]:
        base, end = self.memory.base, self.memory.base + len(self.memory.data)
        there = (addresses >= np.uint64(base)) & (addresses < np.uint64(end))
        words = np.frombuffer(self.memory.data, "<u8")
        at = np.where(there, addresses - np.uint64(base), np.uint64(0)) >> np.uint64(3)
        return np.where(there, words[at.astype(np.int64)], np.uint64(0)), there


def _zswap(memory: KernelMemory, head: int, count: int | None = None) -> Zswap:
    symbols = {"zswap_trees": head} if count is None else {"zswap_trees": head, "nr_zswap_trees": head + 256}
    machine = SimpleNamespace(total=len(memory.data))
    kernel = SimpleNamespace(structures=memory.structures(), space=_Words(memory), memory=machine)
    columns = StructureColumns(kernel.space, memory.types, memory.base)  # type: ignore[arg-type]
    return Zswap(kernel, SimpleNamespace(address=symbols.get), columns, None)  # type: ignore[arg-type]


def test_trees_of_zswap() -> None:
    """Red-black trees as until Linux 6.8: each entry is found by its own place, loops and strangers end it."""
    memory = KernelMemory()
    types = memory.types
    types.lay_out("rb_node", "__rb_parent_color", "rb_right", "rb_left")
    types.lay_out("zswap_entry", "rbnode", "a", "b", "swpentry.val", "length", "pool", "handle", "value")
    types.lay_out("zswap_tree", "rbroot.rb_node")
    area = 3 << 58
    entries = [memory.make("zswap_entry", swpentry__val=area | place, handle=place * 7) for place in range(100)]
    for at, entry in enumerate(entries):
        children = [each for each in (2 * at + 1, 2 * at + 2) if each < 100]
        for child, side in zip(children, ("rb_left", "rb_right"), strict=False):
            memory.put(entry, "rb_node", side, entries[child])
    memory.put(entries[99], "rb_node", "rb_left", entries[0])  # a loop
    memory.put(entries[98], "rb_node", "rb_left", 0x1234)  # what is no address of the kernel
    memory.put(entries[50], "zswap_entry", "swpentry.val", 2 << 58 | 50)  # another area's
    memory.put(entries[60], "zswap_entry", "swpentry.val", area | 61)  # one place twice
    head = memory.take(512)
    memory.write(head + 24, memory.make("zswap_tree", rbroot__rb_node=entries[0]).to_bytes(8, "little"))
    zswap = _zswap(memory, head)
    pages = np.arange(120, dtype=np.uint64)
    stored, found = zswap.find(3, pages)
    lost = {50, 60, 61}
    assert found.tolist() == [entries[at] if at < 100 and at not in lost else 0 for at in range(120)]
    # of length 0: one word, repeated
    assert [at for at in range(120) if stored.how[at] == stored_pages.REPEATED] == [
        at for at in range(100) if found[at]
    ]
    assert stored.word[70] == 490
    assert zswap.doubted == {3}
    assert not zswap.find(0, pages)[1].any()
    assert zswap.doubted == {3}


def test_arrays_of_zswap() -> None:
    """Several xarrays for one area, as since Linux 6.10: with a node at the head or an entry, and a node in itself."""
    memory = KernelMemory()
    types = memory.types
    types.lay_out("zswap_entry", "swpentry.val", "length", "pool", "handle")
    types.lay_out("xarray", "xa_lock", "xa_head")
    types.lay_out("xa_node", "shift", "slots", sizes={"slots": 512})
    types.members["xa_node", "slots"] = types.members["xa_node", "slots"]._replace(size=512)
    entries = {place: memory.make("zswap_entry", swpentry__val=place) for place in (5, 63, 70, 16384)}
    arrays, head = memory.take(32), memory.take(512)
    upper, lower, second = (memory.take(types.sizes["xa_node"] + 512, 8) for _ in range(3))
    slots = types.members["xa_node", "slots"].offset

    def put(node: int, slot: int, value: int) -> None:
        memory.write(node + slots + 8 * slot, value.to_bytes(8, "little"))

    put(upper, 0, lower | 2)
    put(upper, 1, second | 2)
    put(upper, 2, upper | 2)  # a loop
    put(lower, 5, entries[5])
    put(lower, 63, entries[63])
    put(lower, 7, 0x2468 << 1 | 1)  # a value, no pointer
    put(second, 6, entries[70])
    memory.put(arrays, "xarray", "xa_head", upper | 2)
    memory.put(arrays + types.sizes["xarray"], "xarray", "xa_head", entries[16384])
    memory.write(head, arrays.to_bytes(8, "little"))
    memory.write(head + 256, (2).to_bytes(4, "little"))
    pages = np.array([5, 6, 63, 70, 16384], np.uint64)
    zswap = _zswap(memory, head, 2)
    expected = [entries[5], 0, entries[63], entries[70], entries[16384]]
    assert zswap.find(0, pages)[1].tolist() == expected
    assert zswap.doubted == {0}
    put(upper, 2, 0)
    zswap = _zswap(memory, head, 2)
    assert zswap.find(0, pages)[1].tolist() == expected
    assert not zswap.doubted
    put(second, 7, memory.base + (1 << 30) | 2)  # what is not there
    zswap = _zswap(memory, head, 2)
    assert zswap.find(0, pages)[1].tolist() == expected
    assert zswap.doubted == {0}


@pytest.mark.parametrize("head", [0x1234, 0xFFFF_8880_4000_0000])
def test_no_tree_of_zswap(head: int) -> None:
    """Of an area whose tree is not where it is said to be, what zswap has is not known."""
    memory = KernelMemory()
    memory.types.lay_out("xarray", "xa_head")
    memory.types.lay_out("zswap_entry", "swpentry.val")
    table = memory.take(512)
    memory.write(table, head.to_bytes(8, "little"))
    zswap = _zswap(memory, table)
    for area in (0, 1):
        assert not zswap.find(area, np.arange(3, dtype=np.uint64))[1].any()
    assert zswap.doubted == {0}  # there is none of area 1


def test_a_tree_beyond_all_addresses() -> None:
    """A head that would lie behind the last address is nowhere."""
    memory = KernelMemory()
    memory.types.lay_out("xarray", "xa_head", begin=1 << 20)
    memory.types.lay_out("zswap_entry", "swpentry.val")
    table = memory.take(512)
    memory.write(table, (TOP - 8192).to_bytes(8, "little"))
    zswap = _zswap(memory, table)
    assert not zswap.find(0, np.arange(3, dtype=np.uint64))[1].any()
    assert zswap.doubted == {0}


def test_layers_without_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the layers of a pool no more are read than any kernel has, whatever its types say."""
    memory = KernelMemory()
    memory.types.lay_out("zswap_pool", "tfm_name", "zpools", sizes={"tfm_name": 8, "zpools": 1 << 17})
    pool = memory.take(1 << 18)
    memory.write(pool, b"lzo\0")
    zswap = _zswap(memory, 0)
    reader, asked = zswap._kernel.structures.reader, list[int]()
    true = reader.number
    monkeypatch.setattr(reader, "number", lambda at, size=8: asked.append(at) or true(at, size))
    assert zswap._pool(pool)[0] is None
    assert len(asked) < 100
    assert "not read" in "".join(zswap.problems)


@pytest.mark.parametrize("flag", ["ZRAM_SAME", "ZRAM_WB", "ZRAM_LOCK", "ZRAM_COMP_PRIORITY_BIT1"])
@pytest.mark.parametrize("value", [-1, 64, (1 << 31) - 1])
def test_flags_that_no_word_has(flag: str, value: int) -> None:
    """Types that say that a flag is a bit that no word has are no kernel's."""
    memory = KernelMemory()
    types = memory.types
    types.lay_out("gendisk", "private_data")
    types.lay_out("zram", "table", "mem_pool", "disksize", "disk", "compressor")
    types.lay_out("zram_table_entry", "handle", "flags")
    constants = {"ZRAM_LOCK": 13, "ZRAM_SAME": 14, "ZRAM_WB": 15, "ZRAM_COMP_PRIORITY_BIT1": 18}
    table, disk = memory.take(4096), memory.take(64)
    device = memory.make(
        "zram", table=table, mem_pool=table, disksize=PAGE, disk=disk, compressor=int.from_bytes(b"lz4", "little")
    )
    memory.put(disk, "gendisk", "private_data", device)
    structures = memory.structures()
    kernel: Any = SimpleNamespace(structures=structures, space=structures.reader.space)
    zsmalloc: Any = SimpleNamespace(is_known=True)
    for changed, problem in (({}, ""), ({flag: value}, "its members are not known")):
        types.constants = constants | changed
        assert Zram(kernel, SimpleNamespace(address={}.get), disk, zsmalloc).problem == problem  # type: ignore[arg-type]


def test_nodes_without_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """What leads to more nodes than memory can hold, from few pages at many addresses, is not followed."""
    monkeypatch.setattr(zswap_of_linux, "_FEWEST_ENTRIES", 50)
    monkeypatch.setattr(zswap_of_linux, "_SMALLEST", 1 << 30)
    memory = KernelMemory()
    types = memory.types
    types.lay_out("rb_node", "__rb_parent_color", "rb_right", "rb_left")
    types.lay_out("zswap_entry", "rbnode", "a", "b", "swpentry.val", "length", "pool", "handle", "value")
    types.lay_out("zswap_tree", "rbroot.rb_node")
    entries = [memory.make("zswap_entry", swpentry__val=place) for place in range(100)]
    for at, entry in enumerate(entries):
        for child, side in zip(range(2 * at + 1, 2 * at + 3), ("rb_left", "rb_right"), strict=True):
            memory.put(entry, "rb_node", side, entries[child] if child < 100 else 0)
    head = memory.take(512)
    memory.write(head, memory.make("zswap_tree", rbroot__rb_node=entries[0]).to_bytes(8, "little"))
    zswap = _zswap(memory, head)
    found = zswap.find(0, np.arange(100, dtype=np.uint64))[1]
    assert 0 < np.count_nonzero(found) <= 50
    assert zswap.doubted == {0}
    monkeypatch.undo()
    zswap = _zswap(memory, head)
    assert zswap.find(0, np.arange(100, dtype=np.uint64))[1].tolist() == entries
    assert not zswap.doubted


def test_old_entries_of_zswap() -> None:
    """Entries that only have their page in the area (until Linux 6.4) are found in each area."""
    memory = KernelMemory()
    types = memory.types
    types.lay_out("rb_node", "__rb_parent_color", "rb_right", "rb_left")
    types.lay_out("zswap_entry", "rbnode", "a", "b", "offset", "length", "pool", "handle", "value")
    types.lay_out("zswap_tree", "rbroot.rb_node")
    entry, head = memory.make("zswap_entry", offset=9, handle=77), memory.take(512)
    memory.write(head + 16, memory.make("zswap_tree", rbroot__rb_node=entry).to_bytes(8, "little"))
    zswap = _zswap(memory, head)
    stored, found = zswap.find(2, np.array([8, 9], np.uint64))
    assert found.tolist() == [0, entry]
    assert not zswap.doubted
    assert (stored.how[1], stored.word[1]) == (stored_pages.REPEATED, 77)


def test_names_of_algorithms() -> None:
    """The names that zram and the crypto interface have for them."""
    for name in (b"lzo", b"lzo-rle", b"lzo-scomp"):
        assert stored_pages.method_of(name) == 2 + stored_pages.METHODS.index(LZO)
    assert stored_pages.method_of(b"lz4hc") == stored_pages.method_of(b"lz4") is not None
    assert stored_pages.method_of(b"deflate") is None
    assert stored_pages.method_of(None) is None
