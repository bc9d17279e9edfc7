"""What a process's user half is made of: a small language, and the processes that images have unless told otherwise."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from winimage.left_ram import LeftRam
    from winimage.userland import Userland


class Run(NamedTuple):
    """Consecutive 4 KiB pages of one kind, after a gap.

    `kind` is ``present``, ``transition``, ``masked`` (in transition, with the L1TF mask), or one of `tables.KINDS`;
    `chunk` is how many neighbouring frames in a row the pages get.
    """

    pages: int
    protection: str = "RW"
    kind: str = "present"
    chunk: int = 1
    gap: int = 0


class Heap(NamedTuple):
    """Runs and gaps of random lengths around these means.

    A share of the pages is in transition; a share of the gaps' pages has entries of the other kinds.
    """

    pages: int
    protection: str = "RW"
    run: int = 8
    gap: int = 4
    chunk: int = 1
    moving: float = 0.05
    soft: float = 0.6


class Large(NamedTuple):
    """Consecutive pages of 2 MiB, in blocks of physical memory that are no neighbours."""

    pages: int = 1
    protection: str = "RW"


class Huge(NamedTuple):
    """A page of 1 GiB: the first of physical memory, whether the image has as much or not."""

    protection: str = "RW"


#: the edge cases, each of which `Process.edges` can name
EDGES = (
    "identical-entries",
    "large-hole",
    "large-outside",
    "other-pdes",
    "page-outside",
    "pat",
    "permissions",
    "self-table",
    "table-outside",
    "transition-pde",
    "transition-pde-bit7",
    "transition-pdpte",
    "transition-pml4e",
)
#: a loop of tables that claims all of the address space that nothing else has: not among `EDGES`
LOOP = "loop"
#: edge cases that need blocks of 2 MiB
LARGE_EDGES = ("large-hole", "pat")


class Plan(NamedTuple):
    """A process: `exited` ones have no memory any more, those not `listed` were taken out of the list.

    One with a `userland` has what that says in its memory: environment blocks, modules, threads; and besides what
    `memory` and `edges` say, which is in no region. `minimal`: it has no program, as Registry has none. `wiped` are
    members of its structure that were zeroed at last; `unmapped`: no kernel address leads to its structure any more.
    It began `later` than its number says, in seconds. `left` is what of its memory is not in its page tables; it needs
    a `userland`.
    """

    pid: int
    name: bytes
    ppid: int = 4
    memory: tuple[Run | Heap | Large | Huge, ...] = (Run(40), Run(8, "R", gap=3))
    edges: tuple[str, ...] = ()
    exited: bool = False
    listed: bool = True
    wow64: bool = False
    userland: Userland | None = None
    minimal: bool = False
    wiped: tuple[str, ...] = ()
    unmapped: bool = False
    later: int = 0
    left: LeftRam | None = None

    @property
    def blocks(self) -> int:
        """How many blocks of 2 MiB it takes."""
        return sum(part.pages for part in self.memory if isinstance(part, Large)) + sum(
            name in LARGE_EDGES for name in self.edges
        )


def alike(links: int, create: int, times: int = 100) -> tuple[Run, ...]:
    """Return runs whose page tables look like processes that many times, given where links and time lie in one.

    A page of demand zero has an entry of 128, a process id; that of a prototype page on an odd place is as a kernel
    address; and in an entry that allows execution, bits that hardware ignores make a time.
    """
    odd = links // 8 % 2
    flink = 8 + odd
    # one of the two pointers may be damaged: where the first lies on an even place it is a page file's
    entries = {
        flink - 1: "demand-zero",
        **({flink: "prototype"} if odd else {flink: "pagefile", flink + 1: "prototype"}),
    }
    entries[flink + (create - links) // 8] = "present"
    runs, at = [], 0
    for place, kind in sorted(entries.items()):
        runs.append(Run(1, "RX" if kind == "present" else "RW", kind, gap=place - at))
        at = place + 1
    # many words apart, so that none of them is another one's member
    return (*runs, Run(1, kind="zero", gap=65 - at)) * times


#: every kind of page in one process
MIXED = (
    Run(33, "R", chunk=4),
    Run(20, "RX", chunk=20, gap=2),
    Run(9, "RWX", gap=1),
    Run(12, kind="transition"),
    Run(12, "RX", kind="masked"),
    Run(5, kind="demand-zero"),
    Run(5, kind="pagefile"),
    Run(5, kind="prototype"),
    Run(5, kind="zero"),
    Heap(500, chunk=3),
    Large(1),
    Heap(200, "RWX", moving=0.3),
)
PLANS = (
    Plan(388, b"smss.exe"),
    Plan(1624, b"explorer.exe", 388, MIXED),
    Plan(2036, b"thirtytwo.exe", 1624, (Heap(100),), wow64=True),
    Plan(2448, b"edges.exe", 1624, (Run(8),), EDGES),
    Plan(2860, b"gone.exe", 1624, exited=True),
    Plan(3272, b"hidden.exe", 388, (Heap(120),), listed=False),
    Plan(3684, b"both.exe", 388, exited=True, listed=False),
    Plan(4096, b"\x1b[2J\x1b]0;x\x07.ex", 388),
    Plan(4100, b"\xff\xfe\xc3(.exe\xe2\x80\xae"),
    Plan(4104, b"../../etc/cron", 388),
    Plan(4108, b"fifteen-bytes.x", 4104),
    Plan(70000, b"", 4112),
    Plan(70004, b'=1+1"<b>,\n', 70000, (Heap(60, run=1, gap=1),)),
)
