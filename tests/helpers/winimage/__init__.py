"""Raw images of the physical memory of Windows x64 machines that never were, with known contents.

    truth = winimage.build(path, layout=8)
    truth.process(1624).user.items()    # its pages, as tests/walker.py lists them
    truth.segments(1624)                # address, size, SHA-256

Nothing here is memcarve's, but for the table of kernel layouts. What is expected follows from the plan of an image, not
from reading it. The same arguments make the same image.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from winimage import hostile, left_ram
from winimage.contents import page_bytes
from winimage.layouts import ALL_LAYOUTS, LAYOUTS, layout as layout_of
from winimage.plans import EDGES, LOOP, MIXED, PLANS, Heap, Huge, Large, Plan, Run, alike
from winimage.system import build_system
from winimage.truth import Pages, Process, Segment, Truth
from winimage.upper import Options
from winimage.userland import plain, usual, wow64

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from winimage.paging_files import PagingFiles

__all__ = [
    "ALL_LAYOUTS",
    "DAMAGE",
    "EDGES",
    "EXPORTS",
    "LAYOUTS",
    "LOOP",
    "MIXED",
    "PLANS",
    "USERLAND",
    "Heap",
    "Huge",
    "Large",
    "Pages",
    "Plan",
    "Process",
    "Run",
    "Segment",
    "Truth",
    "alike",
    "big",
    "build",
    "hostile",
    "layout_of",
    "many",
    "page_bytes",
    "settled",
    "sparse",
]

#: what can be wrong with the kernel's exports, and with the list of processes
EXPORTS = ("full", "none", "no-accessors", "paged-out")
DAMAGE = (None, "forward", "backward", "both", "loop")

#: processes whose memory is planned: a usual one, one of 32 bits; and one with everything wrong is in `hostile.PLANS`
USERLAND = (
    Plan(388, b"smss.exe"),
    Plan(1624, b"program.exe", 388, memory=(), userland=usual(1624)),
    Plan(2036, b"thirtytwo.exe", 1624, memory=(), wow64=True, userland=wow64(2036)),
    Plan(2860, b"gone.exe", 1624, exited=True),
)


def build(
    path: str | Path,
    *,
    layout: int = 8,
    build: int | None = None,
    megabytes: int = 32,
    seed: int = 1,
    processes: Sequence[Plan] = PLANS,
    exports: str = "full",
    damage: str | None = None,
    small_pages: bool = False,
    kpti: bool = False,
    decoy: bool = True,
    freed: bool = True,
    top_page: bool = False,
    moved: Mapping[str, int | str] | None = None,
    stub: bool = False,
    realistic: bool = False,
    paging: PagingFiles | None = None,
    pfn: str | None = None,
) -> Truth:
    """Write an image; return what it holds. There is a System process beside those asked for.

    `layout` is a place in the table of layouts, `build` a build number other than its newest. `exports` is one of
    `EXPORTS`, `damage` one of `DAMAGE`. `small_pages`: the kernel is mapped by 4 KiB pages; ``paged-out`` implies it.
    `kpti`: every process has a second root, for user mode. `decoy`: another module has the kernel's name. `freed`:
    there is an overwritten process and an old root. `top_page`: the last page of the address space is mapped. `moved`:
    what lies elsewhere than the table of layouts says, in its words. `stub`: the first MiB has the block that
    processors start with. `realistic`: System has regions. `paging` is what the kernel says of its page files.
    `pfn`: there is a PFN database, ``right`` or ``wrong``.
    """
    if exports not in EXPORTS or damage not in DAMAGE:
        raise ValueError(f"no such variant: exports {exports!r}, damage {damage!r}")
    options = Options(exports, damage, small_pages, kpti, decoy, freed, top_page, stub, realistic, paging, pfn)
    return build_system(path, layout_of(layout, build, moved), megabytes, seed, processes, options)


def big(path: str | Path, pages: int = 250_000, megabytes: int = 1280) -> Truth:
    """Write an image with one large process, pid 800, whose pages are scattered one by one."""
    plans = [Plan(388, b"smss.exe"), Plan(800, b"target.exe", 388, (Heap(pages, run=24, moving=0.02), Large(4)))]
    return build(path, megabytes=megabytes, processes=plans)


def many(path: str | Path, processes: int = 100, pages: int = 768, megabytes: int | None = None) -> Truth:
    """Write an image with many processes of some MiB each, which readers that know no layout can read, too."""
    plans = [
        Plan(400 + 4 * number, b"worker-%03d.exe" % (number % 1000), memory=(Heap(pages, run=12, chunk=2),))
        for number in range(processes)
    ]
    plans[0] = plans[0]._replace(name=b"smss.exe")
    megabytes = megabytes or 64 + processes * (pages + 128) // 256
    return build(path, megabytes=megabytes, processes=plans, stub=True, realistic=True)


def settled(path: str | Path, processes: int = 100, pages: int = 2048, megabytes: int = 8320) -> Truth:
    """Write an image with many processes that have regions, modules and threads, and some MiB besides."""
    plans = [Plan(388, b"smss.exe")]
    for number in range(processes):
        pid, name = 400 + 4 * number, b"worker-%03d.exe" % (number % 1000)
        plans.append(Plan(pid, name, 388, (Heap(pages, run=12, chunk=2),), userland=plain(pid)))
    return build(path, megabytes=megabytes, processes=plans, stub=True, realistic=True)


def departed(path: str | Path, kind: str, pages: int, layout: int = 8) -> Truth:
    """Write an image with one process, pid 5000, whose pages left memory as `left_ram.departed` says; and page files.

    If few did, or they are of views, `pages` more are in memory.
    """
    left = left_ram.departed(kind, pages)
    # nothing in transition: such entries of a Heap have one mask or another, which proves none
    memory = (Heap(pages, run=24, moving=0),) if kind in {"few", "views"} else ()
    plans = [
        Plan(388, b"smss.exe", memory=()),
        Plan(900, b"MemCompression", 4, memory=()),
        Plan(5000, b"departed.exe", 388, memory=memory, userland=plain(5000), left=left),
    ]
    each = {"compressed": 230, "pagefile": 10000, "scattered": 10000, "few": 200, "views": 150}[kind]
    megabytes = 96 + pages // each
    return build(path, layout=layout, megabytes=megabytes, processes=plans, stub=True, realistic=True)


def sparse(path: str | Path, gigabytes: int = 8) -> Truth:
    """Write an image of which little is ever written: the pages of its processes lie all over it.

    Readers that know no layout can read it, too.
    """
    return build(path, megabytes=gigabytes << 10, stub=True, realistic=True)
