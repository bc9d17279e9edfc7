"""What Windows knows of a process's memory, planned: regions, modules, threads, heaps; and two processes of that kind.

The names are Microsoft's: VAD, PEB, TEB. Protections are in the words of winnt.h, modifiers last.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from winimage import ntdll
from winimage.contents import PAGE
from winimage.kernel import header
from winimage.ntdll import Trace, events
from winimage.programs import Content, module, sections

if TYPE_CHECKING:
    from collections.abc import Iterable

_BASES = (
    "NOACCESS", "READONLY", "EXECUTE", "EXECUTE_READ", "READWRITE", "WRITECOPY", "EXECUTE_READWRITE",
    "EXECUTE_WRITECOPY",
)  # fmt: skip
#: the words for the 32 values that a VAD's protection can have: the kernel's MmProtectToValue
PROTECTIONS = tuple(
    f"PAGE_{base}" + (f"|PAGE_{modifier}" if modifier and base != "NOACCESS" else "")
    for modifier in ("", "NOCACHE", "GUARD", "WRITECOMBINE")
    for base in _BASES
)
#: kinds of VAD, of which the type says more than whether it is private: _MI_VAD_TYPE
IMAGE_MAP, WRITE_WATCH, LARGE_PAGE_SECTION = 2, 4, 7


class Name(NamedTuple):
    """A UNICODE_STRING as it stands in memory; None is what an honest one has. `buffer` is where the text should be."""

    text: str
    length: int | None = None
    maximum: int | None = None
    buffer: int | None = None

    def packed(self, at: int, *, narrow: bool = False) -> tuple[int, ...]:
        """Return length, maximum and buffer where the text lies at an address; `narrow`: of 32 bits."""
        size = len(encoded(self.text))
        length = size if self.length is None else self.length
        maximum = size + 2 if self.maximum is None else self.maximum
        buffer = at if self.buffer is None else self.buffer
        return length, maximum, buffer & 0xFFFFFFFF if narrow else buffer


def encoded(text: str) -> bytes:
    """Return UTF-16, lone surrogates and all."""
    return text.encode("utf-16-le", "surrogatepass")


class Vad(NamedTuple):
    """A region: what a reader is to see, and below it what stands in the tree where that is something else."""

    start: int
    size: int
    protection: str = "PAGE_READWRITE"
    kind: str = "private"
    file: str | None = None
    tag: str = "VadS"
    private: bool = True
    type: int = 0
    name: Name | None = None
    value: int | None = None
    vpns: tuple[int, int] | None = None

    @property
    def end(self) -> int:
        """The address after the last byte."""
        return self.start + self.size

    @property
    def seen(self) -> tuple[int, int, str, str, str | None, str, bool]:
        """Start, end, protection, kind, file, tag, private."""
        return self.start, self.end, self.protection, self.kind, self.file, self.tag, self.private


def mapped(
    start: int, size: int, file: str | None = None, protection: str = "PAGE_READONLY", *,
    tag: str = "Vad ", number: int = 0, name: Name | None = None,
) -> Vad:  # fmt: skip
    """Return the region of a section: of a file, or of none."""
    return Vad(start, size, protection, "mapped", file, tag, private=False, type=number, name=name)


def image(start: int, pages: int, file: str) -> Vad:
    """Return the region of a module."""
    return Vad(start, pages * PAGE, "PAGE_EXECUTE_WRITECOPY", "image", file, "Vad ", private=False, type=IMAGE_MAP)


class Loaded(NamedTuple):
    """An entry of the loader's lists; `lists` are those it is in: load, memory, initialization."""

    base: int
    size: int
    name: str
    path: str
    lists: str = "lmi"
    raw: Name | None = None

    @property
    def seen(self) -> tuple[int, int, str | None, str | None]:
        """Start, size, name, path; None where it cannot be read."""
        return self.base, self.size, None if self.raw else self.name, None if self.raw else self.path


class Stack(NamedTuple):
    """A stack: its top, the lowest address that is committed, and the lowest that is reserved."""

    base: int
    limit: int
    reserved: int


class Threaded(NamedTuple):
    """A thread; `narrow` is its stack for code of 32 bits. A `teb` may be said to be where nothing is: not `mapped`."""

    tid: int
    teb: int
    stack: Stack
    begin: int
    narrow: Stack | None = None
    mapped: bool = True


class Started(NamedTuple):
    """What a process was started with, and how it stands in memory.

    `normalised`: texts are found by their addresses, else relative to the parameters; `flagged`: and they say so.
    `lost` is what is not in memory: ``parameters``, ``command_line``, ``image_path``, ``directory``, ``environment``
    (its last page). `at` and `environment_at` are where parameters and environment are said to be, None: where they
    are; so it is with `environment_size`. The environment `ends`, or runs on into something else.
    """

    command_line: Name
    image_path: Name
    directory: Name
    environment: tuple[str, ...] = ()
    normalised: bool = True
    flagged: bool = True
    lost: tuple[str, ...] = ()
    at: int | None = None
    environment_at: int | None = None
    environment_size: int | None = None
    ends: bool = True

    @property
    def seen(self) -> tuple[str, str, str, tuple[str, ...]]:
        """Command line, image path, current directory, environment, where nothing is wrong with them."""
        return self.command_line.text, self.image_path.text, self.directory.text, self.environment


class Userland(NamedTuple):
    """All of a process's memory. The loader's entries lie from `arena` on, those of 32 bits from `arena32`."""

    image_base: int
    peb: int
    vads: tuple[Vad, ...]
    modules: tuple[Loaded, ...]
    threads: tuple[Threaded, ...]
    heaps: tuple[int, ...]
    contents: tuple[Content, ...]
    arena: int
    peb32: int | None = None
    modules32: tuple[Loaded, ...] = ()
    heaps32: tuple[int, ...] = ()
    arena32: int = 0
    started: Started | None = None
    started32: Started | None = None
    #: where ntdll is, if it is in memory with what it keeps of modules that were unloaded
    ntdll: int = 0
    trace: Trace | None = None
    ntdll32: int = 0
    trace32: Trace | None = None
    #: what the PEB says of the program's address, None: the truth; and whether what is the same and may not be written
    #: has the same frames as in other processes that say so
    peb_image: int | None = None
    shares: bool = False
    #: which way the tree of VADs leans: it is balanced unless told otherwise
    lean: str = ""
    #: the name of what is wrong: see `hostile`
    damage: str = ""


SYSTEM32 = "\\Windows\\System32\\"
#: where the environment blocks of the 64-bit side are
_BLOCKS = 0x2000000000
_HEAP = 0x2010000000
_KUSER = Vad(0x7FFE0000, PAGE, "PAGE_READONLY")


def _library(
    base: int, pages: int, path: str, *, lists: str = "lmi", narrow: bool = False, wiped: bool = False,
    patched: bool = False,
) -> tuple[Vad, Loaded, list[Content]]:  # fmt: skip
    """Return a module's region, its entry in the lists, and its pages."""
    entry = Loaded(base, pages * PAGE, path.rpartition("\\")[2], "C:" + path, lists)
    return image(base, pages, path), entry, module(base, pages, narrow=narrow, wiped=wiped, patched=patched)


def _ntdll(base: int, path: str) -> tuple[Vad, Loaded, list[Content]]:
    """Return what `_library` does of an ntdll whose pages follow from the plan's trace."""
    entry = Loaded(base, ntdll.PAGES * PAGE, "ntdll.dll", "C:" + path)
    return image(base, ntdll.PAGES, path), entry, []


def _thread(
    pid: int, number: int, begin: int, narrow: Stack | None = None, blocks: int = _BLOCKS
) -> tuple[Threaded, Vad, list[Content]]:
    """Return a thread with its TEB, its stack's region (every second is guarded), and the stack's pages."""
    reserved = 0x1F00000000 + number * 0x200000
    stack = Stack(reserved + 0x100000, reserved + 0xFD000, reserved)
    region = Vad(reserved, 0x100000, "PAGE_READWRITE|PAGE_GUARD" if number % 2 else "PAGE_READWRITE")
    thread = Threaded(pid + 4 + 4 * number, blocks + 0x1000 + number * 0x4000, stack, begin, narrow)
    return thread, region, [Content(stack.limit, None, 3)]


#: file names that tempt a reader, a terminal or a file system
NAMES = (
    "\\Windows\\System32\\locale.nls",
    "\\..\\..\\..\\etc/passwd",
    "//server/share//x",
    "\\\x1b[2J\x1b]0;x\x07.dll",
    "\\half \ud800 pair \udc00\ud800 again",
    "\\whole \U0001f512 pair",
    "\\nul\0inside\0",
    "\\\u202egnp.exe",
    '\\con\r\naux: *?"<>|',
    "\\" + "long\\" * 6000,
    "\\caf\u00e9\u4e2d\u6587\uffff",
)
_EIGHT_TB = 8 << 40
#: more than a page of it
ENVIRONMENT = (
    "=C:=C:\\Users",
    "=ExitCode=00000000",
    "EMPTY=",
    "Path=C:\\Windows\\System32;C:\\Windows",
    "ODD=\x1b[2J\t\r\n\ud800 \U0001f512",
    "WIDE=\u4e2d\u6587",
    "no sign",
    *(f"VARIABLE_{number}=" + "x" * number for number in range(80)),
)


def _started(path: str, arguments: str = "") -> Started:
    """Return what a program is usually started with."""
    folder = path.rpartition("\\")[0] + "\\"
    return Started(Name(f'"{path}"{arguments}'), Name(path), Name(folder), ENVIRONMENT)


#: what System has: the shared page, and the library of every process; no page of which is in memory
SYSTEM_REGIONS = (_KUSER, image(0x7FFA10000000, 40, SYSTEM32 + "ntdll.dll"))


def usual(pid: int) -> Userland:
    """Return an ordinary process with everything that a label can be about."""
    program, native, kernel32 = 0x7FF612340000, 0x7FFA10000000, 0x7FFA11000000
    libraries = [
        _library(program, 24, "\\Users\\John, Doe\\program.exe", lists="lm"),
        _ntdll(native, SYSTEM32 + "ntdll.dll"),
        _library(kernel32, 32, SYSTEM32 + "KERNEL32.DLL", wiped=True),
        _library(0x7FFA12000000, 20, SYSTEM32 + "patched.dll", patched=True),
        _library(0x7FFA13000000, 16, SYSTEM32 + "hidden.dll", lists=""),
        _library(0x7FFA14000000, 16, "\\Temp\\only-in-memory-order.dll", lists="m"),
    ]
    gone = Loaded(0x7FFA15000000, 0x9000, "gone.dll", "C:\\Temp\\gone.dll")
    threads = [_thread(pid, number, program + 0x1000 + number * 0x40) for number in range(3)]
    injected, reserved = 0x2A0000, 0x10000000000
    contents = [
        # a program in private memory
        Content(injected, header(injected, 16 * PAGE, sections(16)), 1, "RWX"),
        Content(injected + PAGE, None, 3, "RWX"),
        # three pages of 8 TB
        Content(reserved + 5 * PAGE, None),
        Content(reserved + (3 << 40), None),
        Content(reserved + _EIGHT_TB - PAGE, None),
        # a mapped file
        Content(0x600000, None, 2, "R"),
        Content(0x60A000, None, 1, "R"),
    ]
    vads = [
        _KUSER,
        mapped(0x10000, 0x10000, None, "PAGE_READWRITE"),
        Vad(injected, 16 * PAGE, "PAGE_EXECUTE_READWRITE"),
        mapped(0x600000, 0x337000, SYSTEM32 + "C_1252.NLS"),
        Vad(0xA00000, 0x20000, tag="VadF", type=WRITE_WATCH),
        mapped(0xB00000, 0x200000, None, "PAGE_READWRITE", tag="Vadl", number=LARGE_PAGE_SECTION),
        mapped(0xE00000, 0x1000, SYSTEM32 + "m.dat", tag="Vadm"),
        # a long one that is private, and a short one that is not: neither has a file
        Vad(0xE10000, 0x1000, tag="Vadl"),
        mapped(0xE20000, 0x1000, tag="VadS"),
        Vad(_BLOCKS, 0x200000),
        Vad(_HEAP, 0x100000),
        Vad(_HEAP + 0x200000, 0x10000),
        mapped(reserved, _EIGHT_TB, None, "PAGE_NOACCESS"),
        Vad(0x7FFFFFFE0000, 0x10000, "PAGE_NOACCESS"),
        *(Vad(0x40000000 + 0x40000 * value, PAGE * (1 + value), words, value=value)
          for value, words in enumerate(PROTECTIONS)),
        *(mapped(0x50000000 + 0x10000 * number, PAGE, name) for number, name in enumerate(NAMES)),
    ]  # fmt: skip
    plan = _userland(program, libraries, threads, contents, vads, more=[gone], heaps=(_HEAP, _HEAP + 0x200000))
    odd = " =1+1 /x:'\"' \x1b[2J\x1b]0;x\x07 \u202egnp \ud800 half \U0001f512 \u4e2d\u6587 \r\n\0 end"
    return plan._replace(
        started=_started("C:\\Users\\John, Doe\\program.exe", odd),
        # the seventieth is the last of so many
        trace=Trace(events(7, 64)),
        ntdll=native,
    )


def wow64(pid: int) -> Userland:
    """Return a 32-bit process."""
    program, below = 0x400000, 0x70000000
    syswow64 = "\\Windows\\SysWOW64\\"
    shared = _library(program, 24, "\\Program Files (x86)\\thirtytwo.exe", lists="lm", narrow=True)
    wide = [
        shared,
        _ntdll(0x7FFA10000000, SYSTEM32 + "ntdll.dll"),
        _library(0x6FF00000, 24, SYSTEM32 + "wow64.dll"),
    ]
    narrow = [
        _ntdll(below, syswow64 + "ntdll.dll"),
        _library(below + 0x100000, 20, syswow64 + "kernel32.dll", narrow=True),
    ]
    gone = Loaded(0x10000000, 0x5000, "gone32.dll", "C:\\Temp\\gone32.dll")
    # both environment blocks lie below 4 GiB
    heap, blocks = 0x5000000, 0x200000
    threads, stacks = [], []
    for number in range(2):
        start = 0x3100000 + number * 0x200000
        stack = Stack(start + 0x100000, start + 0xFE000, start)
        threads.append(_thread(pid, number, program + 0x1000, stack, blocks))
        stacks.append((Vad(start, 0x100000), Content(stack.limit, None, 2)))
    contents = [content for _, _, pages in narrow for content in pages] + [content for _, content in stacks]
    vads = [
        _KUSER,
        Vad(blocks, 0x200000),
        Vad(_HEAP, 0x100000),
        Vad(heap, 0x100000),
        Vad(heap + 0x200000, 0x10000),
        *(vad for vad, _, _ in narrow),
        *(vad for vad, _ in stacks),
    ]
    plan = _userland(program, wide, threads, contents, vads, heaps=(_HEAP,))
    return plan._replace(
        peb=blocks,
        peb32=blocks + 0xF0000,
        modules32=(shared[1], *(entry for _, entry, _ in narrow), gone),
        heaps32=(heap, heap + 0x200000),
        arena32=heap + 0xFC0,
        started=_started("C:\\Program Files (x86)\\thirtytwo.exe", " -a"),
        # as it is before the 32-bit side has begun; and that side has gone to another folder since
        started32=_started("C:\\Program Files (x86)\\thirtytwo.exe", " -a")._replace(
            directory=Name("D:\\elsewhere\\"), normalised=False
        ),
        trace=Trace(events(0, 3)),
        ntdll=0x7FFA10000000,
        trace32=Trace(events(0, 10, 0x60000000)),
        ntdll32=below,
    )


def plain(pid: int) -> Userland:
    """Return a small process: fifteen regions, five modules, four threads."""
    program = 0x140000000
    libraries = [_library(program, 24, "\\Temp\\plain.exe", lists="lm")]
    libraries += [_ntdll(0x7FFA10000000, SYSTEM32 + "ntdll.dll")]
    libraries += [_library(0x7FFA10000000 + (n << 24), 16, f"{SYSTEM32}library-{n}.dll") for n in range(1, 4)]
    threads = [_thread(pid, number, program + 0x1000) for number in range(4)]
    vads = [Vad(0x10000, 0x1000), mapped(0x20000, 0x3000, SYSTEM32 + "a.nls"), _KUSER, Vad(_BLOCKS, 0x200000),
            Vad(_HEAP, 0x100000), Vad(_HEAP + 0x200000, 0x10000)]  # fmt: skip
    plan = _userland(program, libraries, threads, [], vads, heaps=(_HEAP, _HEAP + 0x200000))
    return plan._replace(
        started=_started("C:\\Temp\\plain.exe", " plain"), trace=Trace(events(0, 5)), ntdll=0x7FFA10000000
    )


def _userland(
    program: int,
    libraries: list[tuple[Vad, Loaded, list[Content]]],
    threads: list[tuple[Threaded, Vad, list[Content]]],
    contents: Iterable[Content],
    vads: Iterable[Vad],
    *,
    heaps: tuple[int, ...],
    more: Iterable[Loaded] = (),
) -> Userland:
    pages = [content for _, _, part in [*libraries, *threads] for content in part]
    regions = [*vads, *(vad for vad, _, _ in libraries), *(vad for _, vad, _ in threads)]
    return Userland(
        image_base=program,
        peb=_BLOCKS,
        vads=tuple(sorted(regions)),
        modules=(*(entry for _, entry, _ in libraries if entry.lists), *more),
        threads=tuple(thread for thread, _, _ in threads),
        heaps=heaps,
        contents=(*contents, *pages),
        # entries reach from one page into the next
        arena=_HEAP + 0xFC0,
    )
