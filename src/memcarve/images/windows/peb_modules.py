"""The process environment block of a process on Windows x64: the modules that its loader lists, and its heaps.

Sources: winternl.h and Microsoft's symbols of _PEB, _PEB_LDR_DATA and _LDR_DATA_TABLE_ENTRY, which have kept these
offsets in every 64-bit Windows. All of it lies in the process's own memory, where the process may write what it likes,
and where pages may be missing.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from memcarve.errors import printable
from memcarve.images.structure_reader import counted
from memcarve.images.windows.eprocess_scan import USER_END
from memcarve.intervals import PAGE
from memcarve.metadata import INITIALIZATION_ORDER, Module, Region
from memcarve.vocabulary import Kind

if TYPE_CHECKING:
    from memcarve.images.structure_reader import Reader

PEB_IMAGE = 0x10  # PEB.ImageBaseAddress
_MOST_ENTRIES = 1 << 16  # in a list
_MOST_HEAPS = 1 << 16
#: the loader's lists, in the order of an entry's links
_ORDERS = ("load order", "memory order", INITIALIZATION_ORDER)
_INITIALIZATION = 2
_SHOWN = 3  # modules that a note names
_LONGEST = 60  # characters of a name that a note shows


class Form(NamedTuple):
    """The width of pointers, in bytes, and offsets of members: in the PEB, in the loader's data, in one of its entries.

    `program` is the PEB's ImageBaseAddress.

    An entry begins with three links, one for each of the `lists`.
    """

    source: str
    word: int
    program: int
    loader: int
    heap_count: int
    heaps: int
    lists: tuple[int, int, int]
    base: int
    size: int
    path: int
    name: int
    end: int


WIDE = Form("PEB", 8, PEB_IMAGE, 0x18, 0xE8, 0xF0, (0x10, 0x20, 0x30), 0x30, 0x40, 0x48, 0x58, 0x68)
NARROW = Form("32-bit PEB", 4, 0x08, 0x0C, 0x88, 0x90, (0x0C, 0x14, 0x1C), 0x18, 0x20, 0x24, 0x2C, 0x34)


class _Ring(NamedTuple):
    """The links of a list in order, and whether each agrees with the one before it; what is wrong with the list.

    `whole`: it leads back to its head, so nothing is missing.
    """

    links: dict[int, bool]
    problem: str
    whole: bool


def modules(reader: Reader, peb: int, form: Form, program: int | None) -> tuple[list[Module] | None, list[str]]:
    """Return the modules that the loader's lists hold, and notes for the user; None if there are no lists.

    Entries are in load order; after them come those that only other lists lead to. `program` is the address of the
    program's own image, which is never initialised as libraries are.
    """
    loader = reader.number(peb + form.loader, form.word)
    if loader is None:
        return None, [f"the {form.source} at 0x{peb:x} is not in memory: its list of modules is not known"]
    if not loader:
        return None, []  # the loader has not begun
    rings = [_ring(reader, loader + head, form.word) for head in form.lists]
    # each entry by its address, with the lists that lead to it; and the entries that some list agrees about
    entries: dict[int, set[int]] = {}
    sure: set[int] = set()
    for place, ring in enumerate(rings):
        for link, agrees in ring.links.items():
            address = link - 2 * form.word * place
            entries.setdefault(address, set()).add(place)
            sure |= {address} if agrees else set()
    notes = [
        f"the loader's list of modules in {order} ({form.source}) {ring.problem}"
        for order, ring in zip(_ORDERS, rings, strict=True)
        if ring.problem
    ]
    whole = {place for place, ring in enumerate(rings) if ring.whole}
    if not entries and not whole:
        return None, notes[:1]
    found, odd = [], []
    wrong: Counter[str] = Counter()
    for address, places in entries.items():
        module = _module(reader, address, form)
        if module is None or not 0 < module.start < USER_END or (address not in sure and module.start % PAGE):
            wrong["cannot be read" if module is None else "claimed impossible addresses"] += 1
            continue
        wrong["had no name that can be read"] += module.name is None
        missing = whole - places - ({_INITIALIZATION} if module.start == program else set())
        found.append(module._replace(missing=tuple(_ORDERS[place] for place in sorted(missing))))
        if missing:
            odd.append((module, missing))
    notes += [
        f"{counted(number, 'module')} of the loader's lists ({form.source}) {what}"
        for what, number in wrong.items()
        if number
    ]
    return found, [*notes, *_conflict(odd, form)]


def heaps(reader: Reader, peb: int, form: Form) -> tuple[list[Region], list[str]]:
    """Return the heaps that a PEB lists, each its first page, and notes for the user."""
    count, array = reader.number(peb + form.heap_count, 4), reader.number(peb + form.heaps, form.word)
    if count is None or array is None:
        return [], []  # the PEB is missing, which the modules' note says
    found: dict[int, None] = {}
    lost = impossible = 0
    for place in range(min(count, _MOST_HEAPS)):
        heap = reader.number(array + place * form.word, form.word)
        if heap is None:
            lost = count - place
            break
        if 0 < heap < USER_END and heap % PAGE == 0:
            found[heap] = None
        else:
            impossible += 1
    notes = []
    if count > _MOST_HEAPS:
        notes.append(f"the {form.source} claims {count} heaps: it is damaged or made to deceive")
    elif lost:
        notes.append(f"the addresses of {lost} of {counted(count, 'heap')} are not in memory ({form.source})")
    if impossible and count <= _MOST_HEAPS:
        notes.append(f"{impossible} of {counted(count, 'heap')} had impossible addresses ({form.source})")
    return [Region(heap, PAGE, kind=Kind.HEAP, whole=True) for heap in found], notes


def _ring(reader: Reader, head: int, word: int) -> _Ring:
    """Follow a list forward; if it is damaged, backward as well."""
    forward = _follow(reader, head, word, forward=True)
    if forward.whole:
        return forward
    backward = _follow(reader, head, word, forward=False).links
    rest = {link: backward[link] for link in reversed(backward) if link not in forward.links}
    return forward._replace(links={**forward.links, **rest})


def _follow(reader: Reader, head: int, word: int, *, forward: bool) -> _Ring:
    """Return the links from a head on in one direction, until they lead back to it or nowhere."""
    found: dict[int, bool] = {}
    here, before, last = head, head, head
    while True:
        pair = reader.read(here, 2 * word)
        if pair is None:
            found.pop(here, None)
            return _Ring(found, f"ends at 0x{here:x}, which is not in memory", whole=False)
        link, back = (int.from_bytes(part, "little") for part in (pair[:word], pair[word:])[:: 1 if forward else -1])
        if here == head:
            last = back  # where the list ends
        else:
            found[here] = back == before
        if link == head:
            agrees = last == here and all(found.values())
            return _Ring(found, "" if agrees else "is damaged: forward and backward links disagree", whole=True)
        if link in found or not 0 < link < USER_END or link % word:
            return _Ring(found, f"is damaged: 0x{here:x} leads to 0x{link:x}", whole=False)
        if len(found) >= _MOST_ENTRIES:
            return _Ring(found, f"does not end within {_MOST_ENTRIES} entries: it is made to deceive", whole=False)
        found[link] = False
        before, here = here, link


def _module(reader: Reader, address: int, form: Form) -> Module | None:
    data = reader.read(address, form.end)
    if data is None:
        return None
    base, size = (
        int.from_bytes(data[at : at + width], "little") for at, width in ((form.base, form.word), (form.size, 4))
    )
    name, path = (reader.text(data[at : at + 2 * form.word]) for at in (form.name, form.path))
    return Module(base, size, name, path)


def _conflict(odd: list[tuple[Module, set[int]]], form: Form) -> list[str]:
    """Return a note about modules that are not in all of the lists."""
    if not odd:
        return []
    shown = []
    for module, missing in odd[:_SHOWN]:
        name = printable(module.name[:_LONGEST]) if module.name is not None else f"0x{module.start:x}"
        shown.append(f"{name} is not in {' or '.join(_ORDERS[place] for place in sorted(missing))}")
    more = ", ..." if len(odd) > _SHOWN else ""
    return [
        f"the loader's lists ({form.source}) disagree about {counted(len(odd), 'module')}: {', '.join(shown)}{more}"
    ]
