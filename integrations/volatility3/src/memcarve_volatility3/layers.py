# This file is Copyright 2026 the memcarve authors and licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""Volatility's layers as memcarve sees a machine's memory: physical ranges over one backing.

Where segmented layers come down to a file that lies here as it is, the backing is that file, and the kernel can copy
from it. What must be decoded or fetched is read through the layer.
"""

from __future__ import annotations

import os
import urllib.parse  # noqa: TID253 - Volatility has it loaded
import urllib.request
from typing import TYPE_CHECKING, Any

from volatility3.framework import exceptions
from volatility3.framework.layers import physical, segmented

from memcarve.backing import FileBacking
from memcarve.errors import InputError, SourceReadError
from memcarve.formats.images.machine import CutOff, MachineMemory, column, fitted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memcarve.backing import Backing, Span

_BLOCK = 1 << 20  # bytes asked of a layer at once
_PROBE = 4096
#: what reading a damaged or remote container may raise besides Volatility's own
_FAILURES = (exceptions.VolatilityException, OSError, EOFError, ValueError)


class LayerBacking:
    """A layer's bytes, read by Volatility; an offset is an address of the layer. For one thread at a time.

    It has what an image asks of its file.
    """

    notes: tuple[tuple[str, str], ...] = ()
    incomplete = False

    def __init__(self, layer: Any, path: str) -> None:  # noqa: ANN401 - Volatility has no types to import
        self.layer = layer
        self.path = path
        self.size: int = layer.maximum_address + 1

    @property
    def described(self) -> dict[str, Any]:
        """What is known of the layer, ready for JSON."""
        return {"path": self.path, "size": self.size}

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` with the bytes at `offset`, or raise SourceReadError."""
        for done in range(0, len(buffer), _BLOCK):
            part = buffer[done : done + _BLOCK]
            try:
                data = self.layer.read(offset + done, len(part))
            except _FAILURES as error:
                raise SourceReadError(f"{self.path}: cannot be read at 0x{offset + done:x}: {error}") from error
            if len(data) != len(part):
                raise SourceReadError(f"{self.path}: gave {len(data)} of {len(part)} bytes at 0x{offset + done:x}")
            part[:] = data

    def spans(self, offset: int, size: int) -> list[Span] | None:  # noqa: ARG002 - no file holds them as they are
        """Return None: the bytes must be asked for."""
        return None

    def close(self) -> None:
        """Do nothing: the layer is Volatility's."""


def machine_of(context: Any, name: str) -> MachineMemory:  # noqa: ANN401
    """Return the physical memory that a layer gives; the backing is the caller's to close."""
    layers = context.layers
    layer = layers[name]
    start, end = layer.minimum_address, layer.maximum_address + 1
    pieces = list(_linear(layers, name, start, end - start))
    bases = {base for _, base, _, _ in pieces}
    kinds = [word for word in dict.fromkeys(_kinds(layers, name)) if word]
    plain = isinstance(layer, physical.FileLayer)
    if len(bases) != 1:  # none we know of has several
        pieces, bases = [(at, name, at, size) for at, size in _held(layer, start, end - start)], {name}
    base = layers[bases.pop()]
    backing = _backing(base, _location(layers, name))
    columns = [column([piece[place] for piece in pieces]) for place in (0, 3, 2)]
    cut = CutOff()
    ranges = fitted(*columns, backing.size, cut)
    kind = "raw image" if plain else f"Volatility's {' on '.join(kinds)}"
    return MachineMemory(kind, backing, *ranges, cut.listed(), declared=not plain, notes=cut.notes())


def _linear(layers: Any, name: str, start: int, size: int) -> Iterator[tuple[int, str, int, int]]:  # noqa: ANN401
    """Yield (address, layer, address in it, bytes) of the lowest layers that hold the bytes as they are."""
    layer = layers[name]
    if isinstance(layer, segmented.SegmentedLayer):
        for at, length, below_at, _, below in layer.mapping(start, size, ignore_errors=True):
            for place, base, offset, count in _linear(layers, below, below_at, length):
                yield at + place - below_at, base, offset, count
    else:
        for at, length in _held(layer, start, size):
            yield at, name, at, length


def _held(layer: Any, start: int, size: int) -> Iterator[tuple[int, int]]:  # noqa: ANN401
    """Yield (address, bytes) of what a layer has between two addresses."""
    if isinstance(layer, segmented.NonLinearlySegmentedLayer):
        for at, length, _, _, _ in layer.mapping(start, size, ignore_errors=True):
            yield at, length
    else:
        yield start, size


def _kinds(layers: Any, name: str) -> Iterator[str]:  # noqa: ANN401
    """Yield what the layers are called in Volatility, without the file below."""
    layer = layers[name]
    if not isinstance(layer, physical.FileLayer):
        yield type(layer).__name__
    for below in layer.dependencies[:1]:
        yield from _kinds(layers, below)


def _location(layers: Any, name: str) -> str:  # noqa: ANN401
    """Return where the lowest layer's bytes come from, for messages and records: a path, else what Volatility says."""
    layer = layers[name]
    while layer.dependencies:
        layer = layers[layer.dependencies[0]]
    location = str(getattr(layer, "location", type(layer).__name__))
    return _path(location) or location


def _path(location: str) -> str | None:
    """Return the path of a file: URL, None of others."""
    found = urllib.parse.urlparse(location)
    return urllib.request.url2pathname(found.path) if found.scheme == "file" and not found.netloc else None


def _backing(layer: Any, shown: str) -> Backing:  # noqa: ANN401
    """Return the file that a layer gives as it is, else the layer itself."""
    path = _path(layer.location) if isinstance(layer, physical.FileLayer) else None
    if path is not None:
        try:
            file = FileBacking(os.path.realpath(path))
        except InputError:
            return LayerBacking(layer, shown)
        if _is_same(file, layer):
            file.path = path
            return file
        file.close()  # Volatility unpacks what is compressed
    return LayerBacking(layer, shown)


def _is_same(file: FileBacking, layer: Any) -> bool:  # noqa: ANN401
    """Say whether a layer gives the bytes of the file: its length, its beginning and its end tell."""
    if file.size != layer.maximum_address + 1:
        return False
    for offset in {0, max(file.size - _PROBE, 0)}:
        buffer = bytearray(min(_PROBE, file.size))
        file.read_into(offset, memoryview(buffer))
        if layer.read(offset, len(buffer)) != buffer:
            return False
    return True
