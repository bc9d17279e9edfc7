"""Types and symbols of a kernel in the intermediate format that Volatility 3 reads (ISF), a JSON document.

Source: the published JSON schema of versions 4 to 6.2; what dwarf2json writes. Structures have sizes and fields with
offsets; a field's type is a tree of kinds: base, struct, union, enum, pointer, array, bitfield, function.
"""

from __future__ import annotations

import base64
import binascii
import json
from typing import Any

from memcarve.errors import KernelTypesError
from memcarve.formats.kernel_types.member_paths import Element, StructuredTypes, agreed

MOST_BYTES = 384 << 20  # those of whole distribution kernels have 30 to 70 MB
_NOT_ONE = "is not a symbol file of Linux: a JSON document with user_types, symbols and metadata of Linux was expected"
_LONGEST_CHAIN = 64
_POINTERS = (4, 8)
_Json = dict[str, Any]


class Isf(StructuredTypes[str]):
    """The types and symbols of one kernel from an ISF file. See `KernelTypes`.

    Types are referred to by their JSON text, which is short. Raises KernelTypesError, with `subject` in front, for
    another document. What makes no sense within is not known.
    """

    def __init__(self, data: bytes, source: str, subject: str = "") -> None:
        self.source = source
        try:
            document = json.loads(data)
        except (ValueError, RecursionError):
            raise KernelTypesError("is not a JSON document", subject=subject) from None
        metadata = _dictionary(document, "metadata")
        if "windows" in metadata or "mac" in metadata:
            other = "Windows" if "windows" in metadata else "macOS"
            raise KernelTypesError(f"has the symbols of {other}, not of a Linux kernel", subject=subject)
        self._user, self._enums = _dictionary(document, "user_types"), _dictionary(document, "enums")
        self._base, self._symbols = _dictionary(document, "base_types"), _dictionary(document, "symbols")
        if not self._user or not self._base:
            raise KernelTypesError(_NOT_ONE, subject=subject)
        size = _number(_dictionary(self._base, "pointer").get("size"))
        if size not in _POINTERS:
            raise KernelTypesError("does not say how large a pointer is", subject=subject)
        self.pointer_size: int = size

    def _structures_named(self, name: str) -> list[str]:
        return [json.dumps({"kind": "struct", "name": name})] if name in self._user else []

    def elements(self, structure: str) -> list[Element[str]]:
        """Return the members of a structure or union as they are written; none of another type."""
        fields = _dictionary(self._structure(json.loads(structure)), "fields")
        return [each for name, field in fields.items() if (each := _element(name, field)) is not None]

    def _structure(self, kind: _Json) -> _Json:
        name = kind.get("name")
        known = kind.get("kind") in ("struct", "union", "class") and isinstance(name, str)
        return _dictionary(self._user, name) if known and name is not None else {}

    def _inside(self, kind: str) -> str | None:
        found: Any = json.loads(kind)
        for _ in range(_LONGEST_CHAIN):
            if not isinstance(found, dict) or found.get("kind") != "array":
                break
            found = found.get("subtype")
        return json.dumps(found) if isinstance(found, dict) and self._structure(found) else None

    def _size_of(self, kind: str) -> int | None:
        found, count = json.loads(kind), 1
        for _ in range(_LONGEST_CHAIN):
            if not isinstance(found, dict) or found.get("kind") != "array":
                break
            elements = _number(found.get("count"))
            if elements is None:
                return None
            count, found = count * elements, found.get("subtype")
        if not isinstance(found, dict):
            return None
        name, what = found.get("name"), found.get("kind")
        if what == "pointer":
            return count * self.pointer_size
        table = {"base": self._base, "enum": self._enums}.get(what) if isinstance(what, str) else None
        entry = self._structure(found) if table is None else _dictionary(table, name if isinstance(name, str) else "")
        size = _number(entry.get("size"))
        return None if size is None else count * size

    def size(self, structure: str) -> int | None:
        """Return the size of a type in bytes; see `KernelTypes`."""
        tables = (self._user, self._enums, self._base)
        entry = next((_dictionary(table, structure) for table in tables if structure in table), {})
        return _number(entry.get("size"))

    def constant(self, enumeration: str | None, name: str) -> int | None:
        """Return the value of a constant; see `KernelTypes`."""
        names = [*self._enums] if enumeration is None else [enumeration]
        values = (_dictionary(_dictionary(self._enums, each), "constants").get(name) for each in names)
        return agreed(value if type(value) is int else None for value in values)

    @property
    def symbols(self) -> dict[str, int]:
        """The addresses of symbols as the kernel was linked."""
        found = ((name, _number(_dictionary(self._symbols, name).get("address"))) for name in self._symbols)
        return {name: address for name, address in found if address is not None}

    @property
    def banner(self) -> str | None:
        """What the kernel says of itself (linux_banner), without the end of the line; None if it is not there."""
        text = _dictionary(self._symbols, "linux_banner").get("constant_data")
        try:
            said = base64.b64decode(text, validate=True) if isinstance(text, str) else b""
        except (binascii.Error, ValueError):
            return None
        return said.rstrip(b"\n\0").decode("utf-8", "backslashreplace") or None


def _dictionary(document: Any, name: str) -> _Json:  # noqa: ANN401 - anything may stand there
    found = document.get(name) if isinstance(document, dict) else None
    return found if isinstance(found, dict) else {}


def _number(value: object) -> int | None:
    """Return what may be an offset, a size or an address."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 64 else None


def _element(name: str, field: Any) -> Element[str] | None:  # noqa: ANN401 - as above
    kind, offset = _dictionary(field, "type"), _number(_dictionary({"": field}, "").get("offset"))
    if offset is None or not kind:
        return None
    bit, bits = 8 * offset, 0
    if kind.get("kind") == "bitfield":
        position, length = _number(kind.get("bit_position")), _number(kind.get("bit_length"))
        kind = _dictionary(kind, "type")
        if position is None or not length:
            return None
        bit, bits = bit + position, length
    try:
        return Element("" if field.get("anonymous") is True else name, json.dumps(kind), bit, bits)
    except RecursionError:
        return None
