"""Containers of the world of Linux, of the machine that `machines.Containers` has, with other numbers in them."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import containers
from fuzzing import machines
from fuzzing.machines import ROOT, _grid
from memory import PAGE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fuzzing.draw import Draw
    from fuzzing.machines import Ranges


class Containers(machines.Containers):
    """Compressed kernel dumps, as they are and flattened; migration streams, also libvirt's; Xen's cores."""

    kinds = ("kdump", "kdump", "flattened", "migration", "libvirt", "xen hvm", "xen pv")

    @staticmethod
    def _possible(kind: str, ranges: Ranges) -> Ranges:
        """Return ranges as a kind of container can hold them."""
        if kind in {"migration", "libvirt"}:  # all of the memory is in them
            ranges = [(start & (1 << 20) - PAGE, data) for start, data in ranges]
        return machines.Containers._possible("crash", ranges)

    @staticmethod
    def _contained(draw: Draw, kind: str, ranges: Ranges) -> tuple[bytes, Sequence[tuple[int, int]]]:
        """Return a container, and what of it are numbers."""
        if kind in {"migration", "libvirt"}:
            size, pages = containers.main_memory(ranges)
            blocks = [(b"pc.ram", max(size, PAGE))]
            stream = b"".join(containers.migration_parts(blocks, pages, per_section=draw.choice((3, 1000))))
            head = b"" if kind == "migration" else b"".join(containers.libvirt_parts([]))
            return head + stream, [*_grid(0, len(head) + 200, 1)]
        if kind.startswith("xen"):
            data = containers.xen_core(ranges, kind=kind[4:], root=ROOT, absent=draw.choice((0, 1)))
            return data, [*_grid(0, 64 * 8), *_grid(64 * 8, 64 * 8 + 300)]
        bits, how = draw.choice((32, 64, 64)), draw.choice([*containers.PACKERS])
        data = containers.kdump(ranges, bits=bits, how=how, notes=containers.notes_of("qemu", ROOT))
        if kind == "flattened":
            flat = containers.flattened(containers.in_pieces(data, size=draw.choice((3000, PAGE, 1 << 20))))
            return flat, [*_grid(0, 32, 8), *_grid(PAGE, PAGE + 64, 8)]
        pages = sum(len(stored) for _, stored in ranges) // PAGE
        _, page, sub, bitmaps = struct.unpack_from("<IiiI", data, 424 if bits == 64 else 412)
        first = (1 + sub + bitmaps) * page
        return data, [*_grid(8, 16), *_grid(402, 480), *_grid(PAGE, PAGE + 104), *_grid(first, first + 24 * pages)]
