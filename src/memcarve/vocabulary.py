"""The closed vocabularies: the words that commands, the library, metadata and labels share.

A word is checked where it is taken: ``Half("Kernel")`` raises a UsageError that lists the valid words.
"""

from __future__ import annotations

from enum import StrEnum

from memcarve.errors import UsageError

#: what the words of each list are called in messages
_NOUNS = {
    "Half": "half of an address space",
    "Split": "way to split",
    "ScanUnit": "unit of scanning",
    "PagesFrom": "choice of pages",
    "Trust": "thing to trust",
    "Search": "search",
    "System": "operating system",
    "Architecture": "architecture",
    "Paging": "kind of page tables",
    "InputType": "type of input",
    "OutputType": "output",
    "Content": "level of content",
    "Layout": "layout",
    "Kind": "kind of memory",
    "Flag": "flag",
    "ProcessFlag": "flag of a process",
    "Severity": "severity",
    "Encoding": "encoding of strings",
    "RunStatus": "status of an input of a batch",
}


class Word(StrEnum):
    """A word of a closed list."""

    @classmethod
    def check(cls, *given: str | None) -> None:
        """Raise UsageError if anything that was given is not one of the words; None means nothing was given."""
        for value in given:
            if value is not None:
                cls(value)

    @classmethod
    def _missing_(cls, value: object) -> None:
        raise UsageError(f"unknown {_NOUNS[cls.__name__]} {value!r}", remedy=f"choose from {', '.join(cls)}")


class Search(Word):
    """What of a machine's memory processes are looked for in."""

    LISTS = "lists"
    ALL = "all"


class Half(Word):
    """A half of an address space, or both."""

    USER = "user"
    KERNEL = "kernel"
    ALL = "all"


class Split(Word):
    """Where segments end besides gaps."""

    NONE = "none"
    REGION = "region"
    PROTECTION = "protection"
    PERMISSIONS = "permissions"
    MODULE = "module"


class ScanUnit(Word):
    """What YARA rules are asked of as one: it is to them what a file is on a disk."""

    SEGMENT = "segment"
    REGION = "region"
    PROCESS = "process"
    PAGE = "page"


class PagesFrom(Word):
    """Which pages of a process in an image are read: those that page tables lead to, or all that can be found."""

    RAM = "ram"
    ALL = "all"


class Trust(Word):
    """What to believe: which positions, if a map contradicts the dump's length; page files that seem wrong."""

    PRINTED = "printed"
    SUM = "sum"
    PAGE_FILES = "pagefile"


class System(Word):
    """An operating system, by the meaning of its page-table entries that are not present."""

    WINDOWS = "windows"
    LINUX = "linux"
    NONE = "none"


class Architecture(Word):
    """A processor, as far as memcarve knows its registers."""

    X64 = "x64"
    X86 = "x86"
    ARM64 = "arm64"
    ARM = "arm"


#: those whose addresses have 32 bits
NARROW = frozenset({Architecture.X86, Architecture.ARM})
#: Intel's and AMD's
INTEL = frozenset({Architecture.X86, Architecture.X64})


class Paging(Word):
    """A kind of page tables; of ARM64 by the size of pages and the bits of an address."""

    X64 = "x64"
    X64_5 = "x64-5"
    PAE = "pae"
    X86 = "x86"
    ARM64_4K_39 = "arm64-4k-39"
    ARM64_4K_48 = "arm64-4k-48"
    ARM64_4K_52 = "arm64-4k-52"
    ARM64_16K_36 = "arm64-16k-36"
    ARM64_16K_47 = "arm64-16k-47"
    ARM64_16K_48 = "arm64-16k-48"
    ARM64_16K_52 = "arm64-16k-52"
    ARM64_64K_42 = "arm64-64k-42"
    ARM64_64K_48 = "arm64-64k-48"
    ARM64_64K_52 = "arm64-64k-52"


class InputType(Word):
    """What an input can be declared to be; an image is a machine's memory in any container, or raw."""

    IMAGE = "image"
    DUMP = "dump"
    MAP = "map"
    CORE = "core"
    MINIDUMP = "minidump"
    FOLDER = "folder"
    PROC = "proc"


class OutputType(Word):
    """What a process can be written as."""

    SEGMENTS = "segments"
    MINIDUMP = "minidump"
    ELFCORE = "elfcore"
    FLAT = "flat"
    SCRIPTS = "scripts"
    MEMMAP = "memmap"


class Content(Word):
    """How closely the bytes are looked at for labels."""

    NONE = "none"
    HEADERS = "headers"
    FULL = "full"


class Layout(Word):
    """How an extracted program is laid out in its file: as on disk, or as in memory."""

    FILE = "file"
    MEMORY = "memory"


class Kind(Word):
    """What a piece of memory is used for."""

    PRIVATE = "private"
    MAPPED = "mapped"
    IMAGE = "image"
    STACK = "stack"
    HEAP = "heap"
    TEB = "TEB"
    PEB = "PEB"
    PAGE_TABLES = "page tables"


class Flag(Word):
    """What is remarkable about a segment."""

    PRIVATE_EXECUTABLE = "private-executable"
    WRITABLE_EXECUTABLE = "writable-executable"
    PE_IN_PRIVATE = "pe-in-private"
    ELF_IN_PRIVATE = "elf-in-private"
    BEYOND_SECTION = "beyond-section"
    MODULE_UNLISTED = "module-unlisted"
    ENTRY_UNMAPPED = "entry-unmapped"
    WIPED_HEADER = "wiped-header"
    EXECUTABLE_STACK = "executable-stack"
    MEMFD_EXECUTABLE = "memfd-executable"
    DELETED_EXECUTABLE = "deleted-executable"
    PRELOADED_LIBRARY = "preloaded-library"
    TEXT_DIFFERS = "text-differs"
    MODULE_UNLINKED = "module-unlinked"
    THREAD_IN_PRIVATE = "thread-in-private"
    STACK_IN_PRIVATE = "stack-in-private"
    HOLLOWED = "hollowed"


class ProcessFlag(Word):
    """What is remarkable about a process among the others, or about memory whatever segment it is in."""

    UNLINKED_PROCESS = "unlinked-process"
    DOUBTFUL_PROCESS = "doubtful-process"
    IMITATED_NAME = "imitated-name"
    WRONG_PATH = "wrong-path"
    WRONG_PARENT = "wrong-parent"
    KERNEL_THREAD_NAME = "kernel-thread-name"
    MISSING_PARENT = "missing-parent"
    YOUNGER_PARENT = "younger-parent"
    ODD_HEADER = "odd-header"


class Severity(Word):
    """How soon a finding deserves a look, the most urgent first.

    ``high`` has few benign causes, each of a kind that an analyst can name; ``medium`` has some that are usual in
    certain programs; ``low`` is everyday in many and counts beside something else; ``info`` is worth knowing alone.
    """

    HIGH = "high"
    MEDIUM = "medium"
    LOW = "low"
    INFO = "info"


class Encoding(Word):
    """How strings lie in memory; UTF-8 has ASCII in it."""

    ASCII = "ascii"
    UTF_8 = "utf-8"
    UTF_16_LE = "utf-16-le"


class RunStatus(Word):
    """How far a batch is with an input."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    INCOMPLETE = "incomplete"
    FAILED = "failed"
    TIMED_OUT = "timed out"
    KILLED = "killed"
    STOPPED = "stopped"
