"""Members looked for by their paths: the same in whatever form types are written down."""

from __future__ import annotations

import abc
import functools
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

from memcarve.formats.kernel_types import Member

if TYPE_CHECKING:
    from collections.abc import Iterable

_T = TypeVar("_T")
#: how a form of types refers to one of them: anything that can be a key
TypeRef = TypeVar("TypeRef")

_MOST_ANONYMOUS = 4096  # structures without a name that are looked into for one member


class Element(NamedTuple, Generic[TypeRef]):
    """A member as it is written: name (empty if it has none), type, offset in bits, and bits or 0."""

    name: str
    type: TypeRef
    bit: int
    bits: int


def agreed(found: Iterable[_T | None]) -> _T | None:
    """Return what all say that know something; None if they disagree."""
    known = {each for each in found if each is not None}
    return known.pop() if len(known) == 1 else None


class StructuredTypes(abc.ABC, Generic[TypeRef]):
    """Types in which members are found by their paths. What a form must tell is abstract."""

    #: bits are counted from the lowest, as in all that Linux runs on here; False of big-endian machines
    from_lowest = True

    @abc.abstractmethod
    def _structures_named(self, name: str) -> list[TypeRef]:
        """Return the structures and unions of a name, also of a typedef; those first that are sure."""

    @abc.abstractmethod
    def elements(self, structure: TypeRef) -> list[Element[TypeRef]]:
        """Return the members of a structure or union as they are written; none of another type."""

    @abc.abstractmethod
    def _size_of(self, kind: TypeRef) -> int | None:
        """Return the size of a type in bytes; None if it is not known."""

    @abc.abstractmethod
    def _inside(self, kind: TypeRef) -> TypeRef | None:
        """Return the structure that a type is, an array's elements are, or a typedef leads to; None if it is none."""

    @functools.cached_property
    def _known(self) -> dict[TypeRef, tuple[dict[str, Element[TypeRef]], list[Element[TypeRef]]]]:
        """What `_members` has found: kept as long as the types are."""
        return {}

    def _members(self, structure: TypeRef) -> tuple[dict[str, Element[TypeRef]], list[Element[TypeRef]]]:
        """Return the named members of a structure (the first one of each name), and those that are anonymous."""
        found = self._known.get(structure)
        if found is None:
            elements = self.elements(structure)
            named = {each.name: each for each in reversed(elements) if each.name}
            found = self._known[structure] = named, [each for each in elements if not each.name]
        return found

    def _find(self, structure: TypeRef, name: str) -> Element[TypeRef] | None:
        """Return a member of a structure or of the anonymous ones in it, its bit from the structure's begin."""
        waiting, seen = [(structure, 0)], {structure}
        while waiting and len(seen) <= _MOST_ANONYMOUS:
            inner, base = waiting.pop()
            named, anonymous = self._members(inner)
            if name in named:
                found = named[name]
                return found._replace(bit=base + found.bit)
            fresh: list[tuple[TypeRef, int]] = []
            for each in anonymous:
                reference = self._inside(each.type)
                if reference is not None and reference not in seen:
                    seen.add(reference)
                    fresh.append((reference, base + each.bit))
            waiting += reversed(fresh)
        return None

    def member(self, structure: str, path: str) -> Member | None:
        """Return a member of a structure; see `KernelTypes`.

        None also if it does not lie within its structure, or if several structures of that name disagree about it.
        """
        return agreed(self._member(each, path) for each in self._structures_named(structure))

    def _member(self, structure: TypeRef, path: str) -> Member | None:
        bit, reference = 0, structure
        found: Element[TypeRef] | None = None
        for name in path.split("."):
            if found is not None:
                bit += found.bit
                inside = self._inside(found.type)
                if inside is None:
                    return None
                reference = inside
            found = self._find(reference, name)
            whole = self._size_of(reference)
            if found is None or whole is None:
                return None
            if found.bit < 0 or found.bit + (found.bits or 8 * (self._size_of(found.type) or 0)) > 8 * whole:
                return None
        return None if found is None else self._placed(found, bit + found.bit)

    def _placed(self, element: Element[TypeRef], bit: int) -> Member | None:
        size, bits = self._size_of(element.type), element.bits
        if not bits:
            return None if bit % 8 else Member(bit // 8, size)
        if not size or bits > 8 * size:
            return None
        at = bit // (8 * size) * size
        if bit - 8 * at + bits > 8 * size:  # packed: it does not lie in one whole unit
            at, size = bit // 8, (bit % 8 + bits + 7) // 8
        within = bit - 8 * at
        return Member(at, size, within if self.from_lowest else 8 * size - within - bits, bits)
