"""Scripts for radare2 and rizin: commands that map the file that was opened, and name what was mapped.

They hold only numbers, words of plain characters and base64. The commands are those in the programs' own help
(``om?``, ``f?``, ``CC?``, ``?``): ``om fd vaddr size paddr rwx name``, ``f name size @ addr``,
``CCu base64:... @ addr``. Either program gives the file on its command line the descriptor 3.
"""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

from memcarve.sinks.scripts.range_table import ACCESS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memcarve.sinks.scripts.range_table import Rows

RADARE, RIZIN = "map.r2", "map.rz"
#: how each evaluates an expression, runs a command unless the result is 0, and prints a text
_TEST = {RADARE: ("?=", "??", "?e"), RIZIN: ("%=", "%%", "echo")}
_FD = 3
#: what either calls processors (asm.arch); how many bits they have is said apart
_PROCESSORS = {"x86": "x86", "x64": "x86", "arm": "arm", "arm64": "arm"}


def radare_lines(
    script: str, version: str, size: int, bits: int, rows: Rows, architecture: str | None
) -> Iterator[str]:
    """Yield the script for radare2 or rizin; `size` is that of the original file, in bytes."""
    program = "radare2" if script == RADARE else "rizin"
    evaluate, unless, say = _TEST[script]
    yield f"# written by memcarve {version}; run as: {program} -n -i {script} DUMP\n"
    for doing in (f"{say} the file has not {size} bytes: it is not the one that this script was written for", "q!"):
        yield f"{evaluate} $s-0x{size:x}\n{unless} {doing}\n"
    known = _PROCESSORS.get(architecture or "")
    yield f"{'# the processor is not known: choose it by e asm.arch' if known is None else f'e asm.arch={known}'}\n"
    yield f"e asm.bits={bits}\ne io.va=true\nom-*\n"
    # neither reads what is not mapped readable; if the access is not known, everything is allowed
    access = ["rwx", *(f"r{letters[1:]}" for letters in ACCESS[1:] if letters is not None)]
    comments = [base64.b64encode(name.text.encode()).decode() for name in rows.names]
    for start, count, offset, letters, name, _ in rows:
        yield f"om {_FD} 0x{start:x} 0x{count:x} 0x{offset:x} {access[letters]} {rows.names[name].word}\n"
    for start, count, _, _, name, first in rows:
        if first:
            yield f"f mem.{rows.names[name].word}.{start:x} 0x{count:x} @ 0x{start:x}\n"
            yield f"CCu base64:{comments[name]} @ 0x{start:x}\n"
    if len(rows):
        yield f"s 0x{int(rows.start[0]):x}\n"
