"""What left memory, as forged structures tell it: a few pages that claim much, mapped at many places, cost little."""

from __future__ import annotations

import struct
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import memcarve
import winimage
from memcarve.errors import AddressError, LimitError, SourceReadError
from memcarve.images.kernel_half import KernelHalf
from memcarve.images.windows.resolving import (
    compression_store,
    paged_kernel,
    paging_files,
    pfn_database,
    prototype_arrays,
    windows_resolver,
)
from memcarve.images.windows.resolving.prototype_arrays import Arrays
from memcarve.images.windows.vads import Node
from memcarve.intervals import TOP, Intervals
from memory import PAGE
from winimage import Plan, left_ram, userland
from winimage.paging_files import PagingFiles

if TYPE_CHECKING:
    from memcarve.process import ProcessMemory
    from winimage import Truth

PID = 5000
VIEW, WORDS = 0x31200000000, ("valid", "transition") * 8


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> Truth:
    """Return an image of a process with a view, a page file and compressed pages; the kernel lists its page files."""
    private = left_ram.Private(0x30100000000, ("pagefile 0", "compressed packed", "both 0 clean") * 30)
    left = left_ram.LeftRam((left_ram.View(VIEW, WORDS, (), kind="shared"),), (left_ram.MOVED, private))
    plan = Plan(PID, b"left.exe", 388, userland=userland.plain(PID), left=left)
    processes = [Plan(388, b"smss.exe"), Plan(900, b"MemCompression", 4, memory=()), plan]
    place = tmp_path_factory.mktemp("bounds") / "mem.raw"
    return winimage.build(place, layout=8, megabytes=24, processes=processes, paging=PagingFiles(), pfn="right")


def opened(truth: Truth, **options: Any) -> ProcessMemory:
    """Return the process; the image is closed again."""
    with memcarve.open(truth.path, page_files=[f"0={truth.page_files[0]}"], **options) as container:
        return container.process(PID, half="user")


def said(memory: ProcessMemory, words: str) -> bool:
    """Return whether a note has some words."""
    return any(words in str(note) for note in memory.notes)


def test_nothing_is_cut(truth: Truth) -> None:
    """What an honest machine has is within all bounds."""
    memory = opened(truth)
    assert memory.pages is not None
    assert memory.pages["compressed"] == 30
    for words in ("left out", "is not known", "not all were followed", "contradict"):
        assert not said(memory, words)


@pytest.mark.parametrize(
    ("module", "name", "most", "why"),
    [
        (compression_store, "_MOST_KEYS", 100, "left out: the trees of its stores claim more than 100 pages"),
        (compression_store, "_TIMES", 0, "left out: the trees of its stores claim more than"),
        (compression_store, "_MOST_PLACES", 0, "left out: more than 0 pages of the kernel look like a store"),
        (paging_files, "_MOST_PLACES", 0, "list of its page files is not known (too many places"),
        (paging_files, "_MOST_BLOCKS", 0, "list of its page files is not known (the kernel's data hold too many"),
        (pfn_database, "_MOST_LIKELY", 0, "the PFN database is not known (too many addresses"),
        (windows_resolver, "_PAGES_OF_PIECE", 1 << 40, "more prototypes than {limit} has pages: not all were"),
    ],
)
def test_what_is_cut_is_said(
    truth: Truth, module: Any, name: str, most: int, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What claims more than there can be is not read, and that is said; pages of memory alone stay as they are."""
    monkeypatch.setattr(module, name, most)
    memory = opened(truth)
    assert said(memory, why)
    with memcarve.open(truth.path, pages_from="ram") as container:
        assert not said(container.process(PID, half="user"), why)


def test_pointers_that_are_tried(truth: Truth, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a build that is not known, no more than so many pointers are tried as that to a store's regions."""
    monkeypatch.setattr(compression_store, "_OFFSETS", compression_store._OFFSETS[:1])
    assert not said(opened(truth), "left out")
    monkeypatch.setattr(compression_store, "_MOST_TRIALS", 1)
    assert said(opened(truth), "compressed pages are left out: more than 1 pointers may lead to what stores hold")


def test_a_page_that_the_store_was_not_asked_for(truth: Truth) -> None:
    """Whatever is read of the store, a page that was not found right is an error."""
    with memcarve.open(truth.path) as container:
        resolver = container._resolver  # type: ignore[attr-defined]
        assert resolver.store is not None
        source = resolver.files.area.source
        for size in (PAGE, 100 * PAGE):
            with pytest.raises(SourceReadError, match="the key 0x0 cannot be decoded"):
                source.read_pieces([(0, size)], memoryview(bytearray(size)))


def test_a_tree_without_entries() -> None:
    """A root that has none, is not there, or is no page's address: nothing is in the tree."""
    zeros = np.zeros((1, PAGE // 8), np.uint64)
    for root, there in ((PAGE, True), (PAGE, False), (8, True)):
        resolver: Any = SimpleNamespace(
            memory=SimpleNamespace(total=0), pages_at=lambda pages, there=there: (zeros, np.full(len(pages), there))
        )
        keys, values = compression_store._tree(compression_store._Search(resolver), root)
        assert len(keys) == len(values) == 0


@pytest.mark.parametrize("keys", [[], [1], [1, 1], [1, 2, 2, 3], [5, 5, 5, 7], [9, 8, 7]])
def test_entries_of_a_leaf(keys: list[int]) -> None:
    """They are sorted; of a key that is there twice neither counts."""
    words = np.zeros((1, PAGE // 8), np.uint64)
    words[0, 0] = len(keys) | 1 << 24
    for at, key in enumerate(keys):
        words[0, 2 + at] = (100 + key) << 32 | key
    resolver: Any = SimpleNamespace(memory=SimpleNamespace(total=0), pages_at=lambda _: (words, np.ones(1, np.bool_)))
    found, values = compression_store._tree(compression_store._Search(resolver), PAGE)
    expected = [key for key in sorted(keys) if keys.count(key) == 1]
    assert found.tolist() == expected
    assert values.tolist() == [100 + key for key in expected]


def test_a_store_in_the_last_page() -> None:
    """What looks like a store in the last page of the address space has no second page, and is none."""
    words = np.zeros((2, PAGE // 8), np.uint64)
    words[0, 0x19B8 // 8 - 512] = words[1, 0x19B8 // 8 - 512] = 1 << 63 | 8
    resolver: Any = SimpleNamespace(
        memory=SimpleNamespace(total=0), pages_at=lambda pages: (words, np.array([True, bool(pages[1])]))
    )
    owner: Any = SimpleNamespace(object=1 << 63 | 8)
    offsets = compression_store.offsets_of(19041)
    assert offsets is not None
    search = compression_store._Search(resolver)
    assert compression_store._store_at(search, TOP - PAGE, owner, offsets) is None
    assert compression_store._learned_at(search, TOP - PAGE, owner, None) is None  # type: ignore[arg-type]


def test_a_kernel_that_ends_behind_all_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    """What its sections would have behind the last address is not in memory."""
    section = SimpleNamespace(size=PAGE, address=2 * PAGE, permissions="rw")
    monkeypatch.setattr(paging_files.pe, "image", lambda _: SimpleNamespace(sections=[section]))
    zeros = np.zeros((1, PAGE // 8), np.uint64)
    resolver: Any = SimpleNamespace(
        windows=SimpleNamespace(kernel=SimpleNamespace(base=TOP - PAGE)),
        kernel=SimpleNamespace(padded=lambda *_: b""),
        pages_at=lambda _: (zeros, np.zeros(1, np.bool_)),
    )
    words = paging_files.kernel_data(resolver)
    assert len(words) == PAGE // 8 + 16
    assert (words == 1).all()


def test_an_array_beyond_all_addresses() -> None:
    """A subsection that claims more entries than there are addresses behind its first has as many as fit."""
    kernel = 0xFFFFA00000000000
    subsections = {
        kernel + 0x1000: (kernel + 0x5000, 4, kernel + 0x2000),
        kernel + 0x2000: (TOP - PAGE, (1 << 32) - 1, 0),
    }

    def read(address: int, size: int) -> bytes | None:
        if address == kernel:  # of the VAD
            return struct.pack("<3Q", kernel + 0x1000, kernel + 0x5000, kernel + 0x5000 + 3 * 8)
        base, count, following = subsections[address]
        return struct.pack("<3Q20xI", kernel + 0x3000, base, following, count)[:size]

    reader, tree = SimpleNamespace(read=read), SimpleNamespace(subsection=0, control_area=0)
    node = Node(kernel, 0x10000, 1 << 40, 0, None, False, "Vad ")  # noqa: FBT003 - a member
    found = prototype_arrays.arrays(reader, tree, [node], 0, 1 << 47)  # type: ignore[arg-type]
    assert found.entries.tolist() == [kernel + 0x5000, TOP - PAGE]
    assert found.views.size.tolist() == [4 * PAGE, PAGE // 8 * PAGE]


@pytest.mark.parametrize(("forged", "numbers"), [(0, {2}), (9, {2}), (100, set())])
def test_few_keys_do_not_make_a_number(forged: int, numbers: set[int]) -> None:
    """A key that is damaged, or forged, does not say of a page file that it is none."""
    keys = np.array([2 << 28 | number for number in range(100)] + [*range(forged)], np.uint64)
    stores: Any = [SimpleNamespace(keys=keys)]
    offsets = compression_store.offsets_of(19041)
    assert offsets is not None
    resolver: Any = SimpleNamespace(files=SimpleNamespace(path=""))
    store = compression_store.CompressionStore(resolver, stores, None, offsets)  # type: ignore[arg-type]
    assert store.numbers == numbers


def test_a_store_without_a_number(truth: Truth, monkeypatch: pytest.MonkeyPatch) -> None:
    """If its keys do not agree on one, compressed pages are left out, and that is said."""
    true = compression_store._tree

    def tree(*given: Any) -> Any:
        keys, values = true(*given)
        return keys ^ (np.arange(len(keys), dtype=np.uint64) % np.uint64(3) << np.uint64(28)), values

    monkeypatch.setattr(compression_store, "_tree", tree)
    memory = opened(truth)
    assert said(memory, "compressed pages are left out: ")
    assert all(memory.space.at(page) is None for page, one in truth.left[PID].found.items() if "comp" in one.origin)


def test_pages_of_no_bytes(truth: Truth) -> None:
    """A page of 0 bytes is zeros, wherever its record says that it is; beside it others are decoded."""
    with memcarve.open(truth.path) as container:
        store = container._resolver.store  # type: ignore[attr-defined]
        assert store is not None
        pages = np.full((2, PAGE), 7, np.uint8)
        places = np.array([(1 << 47) - PAGE, 0x30], np.uint64)
        assert store._decode_into(pages, places, np.zeros(2, np.int64)).all()
        assert not pages.any()


def test_page_tables_of_the_kernel_that_claim_too_much(truth: Truth, monkeypatch: pytest.MonkeyPatch) -> None:
    """If they claim more than the limit, it is said that pages in memory alone can be read without."""

    def claims(*_: Any) -> None:
        raise LimitError("the page tables claim too much", 1 << 60, remedy="a larger {limit:SIZE} walks them")

    with memcarve.open(truth.path) as container, memcarve.open(truth.path, pages_from="ram") as alone:
        container.processes(), alone.processes()
        monkeypatch.setattr(KernelHalf, "whole", property(claims))
        with pytest.raises(LimitError, match="SIZE walks them; pages_from='ram' needs less"):
            container.process(PID, half="user")
        assert alone.process(PID, half="user").read(left_ram.MOVED.start, PAGE)


def test_a_process_that_claims_too_much(truth: Truth, monkeypatch: pytest.MonkeyPatch) -> None:
    """Page files are compared with what other processes have in memory."""
    true, limits = pfn_database.walk, list[int | None]()

    def walk(*given: Any) -> Any:
        limits.append(given[4])
        if len(limits) == 1:
            raise LimitError("the page tables claim too much", 1 << 60)
        return true(*given)

    monkeypatch.setattr(pfn_database, "walk", walk)
    assert said(opened(truth), "pages of it that should be the same in memory")
    assert len(limits) > 1
    assert {*limits} == {1 << 33}


def test_views_that_overlap(truth: Truth, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two views of the same addresses the first one counts: thousands of them cost as much as one."""
    true = windows_resolver.arrays

    def forged(*given: Any) -> Arrays:
        found = true(*given)
        views, entries = found.views, found.entries
        size = np.append(np.uint64(4 * PAGE), views.size)
        first = np.append(np.uint64(VIEW), views.start)
        return Arrays(Intervals(first, size), np.append(np.uint64(0xFFFFF00000000000), entries), 0)

    monkeypatch.setattr(windows_resolver, "arrays", forged)
    with memcarve.open(truth.path) as container:
        memory = container.process(PID)
        for page in range(len(WORDS)):
            if page < 4:
                with pytest.raises(AddressError, match="its prototype is not in memory"):
                    memory.read(VIEW + page * PAGE, 1)
            else:
                assert memory.read(VIEW + page * PAGE, PAGE) == truth.left[PID].found[VIEW + page * PAGE].data


def test_the_kernel_is_not_kept_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was looked up for many processes is let go of before the next one."""
    kept: Any = paged_kernel.PagedKernel(None)  # type: ignore[arg-type]
    kept._known = dict.fromkeys(range(3))
    kept.begin()
    assert len(kept._known) == 3
    monkeypatch.setattr(paged_kernel, "_MOST_KEPT", 2)
    kept.begin()
    assert not kept._known


@pytest.mark.parametrize("count", [0, 1, 15, 16, 17, 40, 200])
def test_where_lists_can_be(count: int) -> None:
    """Pointers are looked at if sixteen words around them are pointers, or zeros."""
    chance = np.random.default_rng(count)
    choices = np.array([0, 1, 0xFFFF900000000000, 0xFFFF900000000010], np.uint64)
    for _ in range(30):
        words = chance.choice(choices, count, p=(0.48, 0.02, 0.25, 0.25))
        fits = [word != 1 for word in words.tolist()]
        begins = [at for at in range(count - 15) if all(fits[at : at + 16])]
        expected = [at for at in range(count) if words[at] > 1 and any(0 <= at - begin < 16 for begin in begins)]
        assert paging_files._slots(words).tolist() == expected
