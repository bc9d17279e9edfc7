"""How programs name files by the addresses they hold: a table of forms, and what a name says by the first that fits.

Sources, by what each program writes: `dmd` of radare2 and rizin (cdebug.c), Volatility 3 (vadinfo.py, proc.py,
elfs.py), Volatility 2 (vadinfo.py, linux dump_map.py), Rekall (vadplugins.py), GRR (the flow YaraProcessScan), x64dbg
(the command savedata), fridump, MemProcFS (vmemd), and scripts around gdb's `dump memory`.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from memcarve.intervals import PAGE, TOP

_HEX = "[0-9a-fA-F]{1,17}"
_START, _END, _SIZE = (f"(?P<{name}>{_HEX})" for name in ("start", "end", "size"))
_X = "0[xX]"
_BOUNDS = f"{_X}{_START}-{_X}{_END}"
_BARE = f"(?:{_X})?{_START}-(?:{_X})?{_END}"
_PID = r"(?P<pid>\d{1,18})"
_NAME = "(?P<name>.{1,64})"
#: as a debugger or /proc/PID/maps has them; some add whether memory is shared
_PERMISSIONS = "(?P<permissions>[r-][w-][x-])[sp]?"
_AGAIN = r"(?:-\d{1,9})?"  # what Volatility 3 adds if a name is taken


class Form(NamedTuple):
    """A form of names, a regular expression for all of a name.

    Its groups: `start` and `end` or `size`, hexadecimal; a name without the last two leaves the end to the file's
    length. `pid` is decimal, `pid_16` hexadecimal, `name` the process's, `object` what else tells processes apart.

    `by` is who writes such files, None if many do. If each of them is a `region`, its bounds are what the system says.
    `pads`: pages that are not in memory are zeros there. `loaded`: the file holds what an ELF header loads, without
    what lies between. `sure`: nothing else is named so, and a file of another length is an error, not a stranger.
    """

    pattern: re.Pattern[str]
    by: str | None = None
    system: str | None = None
    region: bool = False
    pads: bool = False
    loaded: bool = False
    sure: bool = True


class Named(NamedTuple):
    """What a name says of a file; `prefix` is how it begins, before the addresses. Unknown is None.

    `bounds` are the two numbers as they stand there, the second one None if it is not; `measured` if it is a size.
    """

    form: Form
    prefix: str
    bounds: tuple[int, int | None]
    measured: bool
    pid: int | None
    name: str | None
    object: str | None
    permissions: str | None

    def sizes(self) -> list[int]:
        """Return how long the file may be: if the end is the first address outside, and if it is the last inside."""
        start, end = self.bounds
        if end is None or self.measured:
            return [] if end is None else [end]
        return [end - start, end - start + 1]

    def makes_a_range(self) -> bool:
        """Return True if the numbers are two addresses in order, or an address and a size."""
        start, second = self.bounds
        end = start if second is None else start + second if self.measured else second
        return start <= end <= TOP and start < TOP

    def of_pages(self) -> bool:
        """Return True if the numbers are of whole pages, as a date or a count hardly ever is."""
        start, end = self.bounds
        return start % PAGE == 0 and (end is None or end % PAGE in (0, PAGE - 1))

    def size(self, length: int) -> int | None:
        """Return how many bytes a file of this length holds; None if its name says something else."""
        start, end = self.bounds
        fits = end is None or length in self.sizes()
        # one that writes the size where others have the end: Process Hacker, and scripts
        fits = fits or (not self.form.sure and length == end)
        return length if length and fits and start < TOP and length <= TOP - start else None


def _form(pattern: str, by: str | None = None, system: str | None = None, **traits: bool) -> Form:
    return Form(re.compile(pattern, re.DOTALL), by, system, **traits)


#: longer names before those that they look like
FORMS = (
    _form(rf"{_BOUNDS}(?:[-.]{_PERMISSIONS})?(?:\..*)?"),
    _form(rf"pid\.{_PID}\.vad\.{_BOUNDS}{_AGAIN}\.dmp", "windows.vadinfo --dump", "windows", region=True, pads=True),
    _form(rf"pid\.{_PID}\.vma\.{_BOUNDS}{_AGAIN}\.dmp", "linux.proc.Maps --dump", "linux", region=True, pads=True),
    _form(
        rf"pid\.{_PID}\.{_NAME}\.{_X}{_START}{_AGAIN}\.dmp",
        "linux.elfs --dump",
        "linux",
        pads=True,
        loaded=True,
        sure=False,
    ),
    # Volatility 2 has the process's name and the physical address of what the kernel knows of it
    _form(
        rf"{_NAME}\.(?P<object>[0-9a-f]{{1,16}})\.{_BOUNDS}(?:-{_PERMISSIONS})?\.dmp",
        "vaddump",
        "windows",
        region=True,
        pads=True,
    ),
    _form(
        rf"{_NAME}\.(?P<object>[0-9a-f]{{1,16}})\.{_START}-{_END}\.dmp",
        "vaddump",
        "windows",
        region=True,
        pads=True,
        sure=False,
    ),
    _form(rf"task\.{_PID}\.{_X}{_START}\.vma", "linux_dump_map", "linux", region=True, pads=True, sure=False),
    _form(rf"{_NAME}_{_PID}_{_START}_{_END}\.tmp", "GRR", sure=False),
    _form(rf"memdump_(?P<pid_16>[0-9a-fA-F]{{1,8}})_{_START}_{_SIZE}\.bin", "x64dbg", "windows", sure=False),
    _form(rf"{_X}{_START}L?_dump\.data", "fridump", sure=False),
    _form(rf"{_X}{_START}(?:-.*)?\.vvmem", "MemProcFS", "windows", region=True, pads=True, sure=False),
    _form(rf"(?:{_PID}-)?{_BARE}(?:[-.]{_PERMISSIONS})?(?:\..*)?", sure=False),
    _form(rf".{{1,128}}?[-_. ]{_BOUNDS}(?:[-.]{_PERMISSIONS})?(?:\..*)?", sure=False),
)
#: what is said to be taken
ACCEPTED = (
    "0xSTART-0xEND.*, 0xSTART-0xEND-r-x.dmp, PID-START-END.dump, pid.N.vad.0xSTART-0xEND.dmp, "
    "pid.N.vma.0xSTART-0xEND.dmp, pid.N.NAME.0xSTART.dmp, NAME.OFFSET.0xSTART-0xEND.dmp"
)


def named(name: str) -> Named | None:
    """Return what a file's name says; None if it does not hold addresses."""
    for form in FORMS:
        found = form.pattern.fullmatch(name)
        if found is None:
            continue
        parts = found.groupdict()
        size, end, pid, pid_16 = (parts.get(key) for key in ("size", "end", "pid", "pid_16"))
        second = size or end
        return Named(
            form,
            re.sub(r"0[xX]$", "", name[: found.start("start")]).rstrip("._- "),
            (int(parts["start"], 16), None if second is None else int(second, 16)),
            size is not None,
            int(pid) if pid is not None else None if pid_16 is None else int(pid_16, 16),
            parts.get("name"),
            parts.get("object"),
            parts.get("permissions"),
        )
    return None
