"""Options, in groups that commands share.

A group is a class whose members are options; a command that takes it gets an instance with the values. Nothing here
needs numpy, so that help is shown without it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, dataclass_transform

from memcarve.cli.option_values import (
    HASHES,
    AnyPath,
    Choice,
    InputPath,
    OutputPath,
    PageFilePath,
    address_range,
    byte,
    count,
    hash_names,
    pid,
    root,
    size,
    version,
)
from memcarve.vocabulary import (
    Architecture,
    Content,
    Encoding,
    Flag,
    Half,
    InputType,
    Kind,
    Layout,
    OutputType,
    PagesFrom,
    Paging,
    ProcessFlag,
    ScanUnit,
    Search,
    Severity,
    Split,
    System,
    Trust,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Self

    from memcarve.addresses import AddressRange

#: the headings of options in help, in this order
HEADINGS = BATCH, TAKE, FROM, WRITE, OTHER = "Many inputs", "What to take", "Where from", "How to write", "Other"
FORMATS = ("table", "csv", "json", "jsonl", "parquet")
#: what /proc/PID/maps looks like
MAPS = "maps"


class Option(NamedTuple):
    """What makes an option of click: its names, the heading if it is not the group's, and what click is told."""

    names: tuple[str, ...]
    heading: str | None
    how: dict[str, Any]


def option(*names: str, heading: str | None = None, preset: Any = ..., **how: Any) -> Any:  # noqa: ANN401 - click's
    """Return a member of a group that is an option; `how` is passed to click.

    `heading` replaces the group's; `preset` is click's default, which is not the member's.
    """
    if preset is not ...:
        how |= {"default": preset, "show_default": preset is not None}
    return Option(names, heading, how)


def paths(name: str, text: str) -> Any:  # noqa: ANN401 - as above
    """Return an option that takes files; `text` is its help."""
    return option(name, metavar="FILE", type=InputPath(), multiple=True, help=text)


def owners_limit(text: str) -> Any:  # noqa: ANN401 - as above
    """Return the option that limits the mappings that are told of a place; `text` begins its help."""
    text += " the other mappings are counted.  [default: 64]"
    return option("--max-owners", type=count, metavar="N", help=text)


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(option, paths, owners_limit))
class Group:
    """Options under one heading: the members of a subclass, of which an instance has the values.

    To type checkers it is a frozen dataclass; what else one has is not used, and to make it for every group would take
    time at every start.
    """

    heading: ClassVar[str]
    #: the options by the names of the members
    options: ClassVar[Mapping[str, Option]] = {}

    def __init_subclass__(cls, heading: str | None = None) -> None:
        cls.heading = heading or cls.heading
        cls.options = {**cls.options, **{name: made for name, made in vars(cls).items() if isinstance(made, Option)}}

    def __init__(self, **values: Any) -> None:  # noqa: ANN401 - what options give
        vars(self).update({name: values.pop(name) for name in self.options})
        if values:
            raise TypeError(f"{type(self).__name__} has no options {', '.join(values)}")

    def replaced(self, **values: Any) -> Self:  # noqa: ANN401 - as above
        """Return the same with other values of some members."""
        return type(self)(**{**vars(self), **values})

    @property
    def is_given(self) -> bool:
        """Whether any of them is given."""
        return any(value not in (None, (), False) for value in vars(self).values())


class OneProcess(Group, heading=TAKE):
    """Which process."""

    pid: Sequence[int] = option("--pid", type=pid, metavar="PID", multiple=True, help="The process with this id.")
    name: str | None = option("--name", metavar="GLOB", help="The process whose name matches.")


class SeveralProcesses(OneProcess):
    """Which processes."""

    pid: Sequence[int] = option(
        "--pid", type=pid, metavar="PID", multiple=True, help="The process with this id; may be repeated."
    )
    name: str | None = option("--name", metavar="GLOB", help="All processes whose name matches.")
    everything: bool = option(
        "--all", is_flag=True, help="Every process except doubtful ones, each into its own file or folder."
    )

    @property
    def selected(self) -> dict[str, Any]:
        """How processes are chosen, ready for JSON."""
        return {"all": self.everything, "pid": list(self.pid), "name": self.name}


class ListedProcesses(SeveralProcesses):
    """Which processes' memory is looked at."""

    everything: bool = option("--all", is_flag=True, help="Every process except doubtful ones; rows say which.")


class HuntedProcesses(SeveralProcesses):
    """Which processes are looked at."""

    everything: bool = option("--all", is_flag=True, help="Every process except doubtful ones.  [default]")


class MountedProcesses(SeveralProcesses):
    """Which processes are mounted."""

    everything: bool = option(
        "--all", is_flag=True, help="Every process that has memory of its own, except doubtful ones.  [default]"
    )


class MemoryFilters(Group, heading=TAKE):
    """What part of memory."""

    given_half: str | None = option(
        "--range",
        type=Choice(Half),
        help="Half of the address space.  [default: user for an image, else all; all with --address]",
    )
    address: Sequence[AddressRange] = option(
        "--address",
        type=address_range,
        multiple=True,
        metavar="A[-B|+SIZE]",
        help="What holds the address, or touches the range (B is exclusive); may be repeated. As debuggers print it: "
        "0x7ffe0000, 00007ff6`73400000, ntdll.dll+0x1234.",
    )
    file: Sequence[str] = option(
        "--file",
        metavar="GLOB",
        multiple=True,
        help="What belongs to a mapped file or module whose name or path matches.",
    )

    @property
    def half(self) -> str | None:
        """The half that is wanted; with an address it is both, unless one is given."""
        return self.given_half or ("all" if self.address else None)


class RegionFilters(MemoryFilters):
    """Which regions."""

    protection: Sequence[str] = option(
        "--protection",
        metavar="rwx",
        multiple=True,
        help="Regions whose protection has all these letters (c is write-copy), or this full name.",
    )
    kind: Sequence[str] = option(
        "--kind", type=Choice(Kind), metavar="KIND", multiple=True, help=f"Memory of this kind: {', '.join(Kind)}."
    )


class SegmentFilters(RegionFilters):
    """Which segments."""

    min_size: int | None = option("--min-size", type=size, metavar="SIZE", help="At least this size (4096, 4k, 2M).")
    max_size: int | None = option("--max-size", type=size, metavar="SIZE", help="At most this size.")
    flag: Sequence[str] = option(
        "--flag", type=Choice(Flag), metavar="FLAG", multiple=True, help=f"Segments with this flag: {', '.join(Flag)}."
    )


class Segmenting(Group, heading=TAKE):
    """Where segments end, and how closely their bytes are looked at."""

    split: str = option(
        "--split",
        type=Choice(Split),
        metavar="WHERE",
        preset="none",
        help="Also end segments where regions, the system's protection, the page tables' permissions or modules "
        f"change: {', '.join(Split)}.",
    )
    content: str | None = option(
        "--content",
        type=Choice(Content),
        help="How closely to look at the bytes: zero pages, PE and ELF headers (headers), entropy and text (full).  "
        "[default: headers for carve; none for segments and with --hash none]",
    )


class Decoding(Group, heading=FROM):
    """How inputs that must be decoded are read."""

    temp: str | None = option(
        "--temp",
        metavar="DIR",
        heading=OTHER,
        type=AnyPath(),
        help="Where compressed inputs are decoded to, in a file without a name, and outputs written again to be "
        "verified.  [default: beside the output, or the system's temporary folder; /var/tmp if that lies in memory]",
    )
    limit_decoded: int | None = option(
        "--limit-decoded",
        type=size,
        metavar="SIZE",
        heading=OTHER,
        help="How much a compressed input, or a table in columns, may decode to.  [default: 150 times its size, at "
        "least 384M]",
    )
    limit_rows: int | None = option(
        "--limit-rows",
        type=count,
        metavar="N",
        heading=OTHER,
        help="How many rows a map or a list may have.  [default: 134217728; 2000000 of a list]",
    )

    cache: str | None = option(
        "--cache",
        metavar="DIR",
        heading=OTHER,
        type=AnyPath(),
        help="Where what is fetched of s3://, gs://, az:// and https:// inputs is kept for other runs, and where the "
        "pages of a hiberfil.sys lie.  [default: in a temporary file]",
    )
    cache_size: int | None = option(
        "--cache-size",
        type=size,
        metavar="SIZE",
        heading=OTHER,
        help="How much of it is kept.  [default: 16G]",
    )

    @property
    def is_given(self) -> bool:
        """Whether anything is given that says what the input is."""
        how = Decoding.options
        return any(value not in (None, (), False) for name, value in vars(self).items() if name not in how)


class Input(Decoding):
    """What the input is, and what belongs to it: what the library's `open` takes."""

    input_type: str | None = option(
        "--input-type",
        type=Choice(InputType),
        metavar="TYPE",
        help="What the input is, if it is not recognised or is mistaken for something else: "
        f"{', '.join(InputType)}. An image is a machine's memory in any container; a core is a process's.",
    )
    memory_map: str | None = option("--map", metavar="FILE", type=InputPath(), help="The memory map of a dump.")
    dump: str | None = option("--dump", metavar="FILE", type=InputPath(), help="The dump, if FILE is its map.")
    trust: str | None = option(
        "--trust",
        type=Choice(Trust),
        help="Which positions to believe if the map contradicts the dump's length; or page files that seem wrong.",
    )
    regions: Sequence[str] = paths(
        "--regions", "A list of regions: windows.vadinfo, linux.proc.Maps, mac.proc_maps, /proc/PID/maps."
    )
    modules: Sequence[str] = paths("--modules", "A list of modules: windows.dlllist.")
    threads: Sequence[str] = paths("--threads", "A list of threads: windows.threads.")
    dtb: int | None = option(
        "--dtb",
        type=root,
        metavar="ROOT",
        help="For an image: the address space whose page-table root (DTB, CR3) is at this physical address.",
    )
    system: str | None = option(
        "--os", type=Choice(System), help="For an image: the system that made the page tables.  [default: recognised]"
    )
    paging: str | None = option(
        "--paging", type=Choice(Paging), help="With --dtb: the kind of page tables.  [default: recognised]"
    )
    limit: int | None = option(
        "--limit",
        type=size,
        metavar="SIZE",
        help="For an image: how much virtual memory page tables may claim.  [default: 4 times the image, at least 16G]",
    )
    symbols: str | None = option(
        "--symbols",
        metavar="FILE",
        type=InputPath(),
        help="For an image of Linux: its kernel's types, if it lacks them: ISF (.json.xz), BTF, vmlinux.",
    )
    page_files: Sequence[str] = option(
        "--pagefile",
        multiple=True,
        metavar="[N=]FILE",
        type=PageFilePath(),
        help="For an image: page file N (pagefile.sys, swapfile.sys, a swap area of Linux) of the same moment; "
        "repeatable.  [default: numbered as Windows has a file of that name, "
        "else from 0 in their order]",
    )
    pages_from: str | None = option(
        "--pages-from",
        type=Choice(PagesFrom),
        help="For an image: which pages to read: those that page tables lead to (ram), or shared and paged-out ones, "
        "too.  [default: all]",
    )
    demand_zero: bool = option(
        "--demand-zero", is_flag=True, help="For an image: pages that nobody has written yet are zeros, not missing."
    )
    search: str | None = option(
        "--search",
        type=Choice(Search),
        help="For an image: what processes are looked for in, the system's lists or all the memory.  [default: all; "
        "lists if the input comes over a network]",
    )


class DiffInput(Decoding):
    """What the two inputs of a comparison are."""

    input_type: str | None = option(
        "--input-type",
        type=Choice(InputType),
        metavar="TYPE",
        help=f"What BEFORE and AFTER are, if not recognised: {', '.join(InputType)}.",
    )
    other_input_type: str | None = option(
        "--other-input-type", type=Choice(InputType), metavar="TYPE", help="What AFTER is, if it is something else."
    )
    system: str | None = option(
        "--os", type=Choice(System), help="For images: the system that made the page tables.  [default: recognised]"
    )
    limit: int | None = option(
        "--limit", type=size, metavar="SIZE", help="For images: how much virtual memory page tables may claim."
    )
    symbols: str | None = option(
        "--symbols",
        metavar="FILE",
        type=InputPath(),
        help="For images of Linux: its kernel's types, if it lacks them: ISF (.json.xz), BTF, vmlinux.",
    )
    search: str | None = option(
        "--search", type=Choice(Search), help="For images: what processes are looked for in, lists or all the memory."
    )


class Source(Group, heading=FROM):
    """What is compared with what was written."""

    source: str | None = option(
        "--source",
        metavar="FILE",
        type=InputPath(),
        help="Compare every byte with this image or dump (or its map), make the recorded choice again, and compare the "
        "whole record; the options below say how to open it.",
    )
    seal: str | None = option(
        "--seal",
        metavar="HASH",
        heading=TAKE,
        help="The SHA-256 that was printed as the seal when it was written.",
    )


class Printing(Group, heading=WRITE):
    """How a table is printed."""

    layout: str = option(
        "--format",
        type=Choice(FORMATS),
        metavar="FORMAT",
        preset="table",
        help=f"How to print the table: {', '.join(FORMATS)}.",
    )


class RegionPrinting(Group, heading=WRITE):
    """How regions are printed."""

    layout: str = option(
        "--format",
        type=Choice([*FORMATS, MAPS]),
        metavar="FORMAT",
        preset="table",
        help=f"How to print the table: {', '.join(FORMATS)}; maps: as Linux has it in /proc/PID/maps.",
    )


class Messages(Group, heading=OTHER):
    """What is printed besides data."""

    quiet: bool = option("-q", "--quiet", is_flag=True, help="Print nothing but errors and data.")
    log: str | None = option(
        "--log", metavar="FILE", type=OutputPath(), help="Append a record of this run to a file, as JSON lines."
    )
    verbose: bool = option("-v", "--verbose", is_flag=True, help="Print all notes, and how bytes were moved.")


class Record(Group, heading=WRITE):
    """What is recorded of the work, in everything that is written."""

    case_id: str | None = option("--case-id", metavar="TEXT", help="Record this as the case.")
    operator: str | None = option("--operator", metavar="TEXT", help="Record this as who did the work.")
    hash_input: bool = option(
        "--hash-input",
        is_flag=True,
        help="Also record the SHA-256 of the dump or image, and of page files, read once more for it.",
    )
    input_sha256: str | None = option(
        "--input-sha256",
        metavar="HEX",
        help="The SHA-256 of the dump or image as you know it, recorded as stated; with --hash-input it is compared.",
    )


# those of one command

_RESUME = (
    "Of several processes: go on with an output that is partial, with the same input and options; what is there is "
    "verified first."
)


class CarveOutput(Group, heading=WRITE):
    """How carve writes."""

    output: str | None = option(
        "-o",
        "--output",
        metavar="DIR",
        type=OutputPath(),
        help="The folder to write, or s3://BUCKET/NAME.  [default: STEM.segments]",
    )
    force: bool = option(
        "--force", is_flag=True, help="Replace the output if memcarve wrote it, once the new one is whole."
    )
    resume: bool = option("--resume", is_flag=True, help=_RESUME)
    skip_zero: bool = option(
        "--skip-zero", heading=TAKE, is_flag=True, help="Leave out segments that are zero throughout."
    )
    partial: bool = option("--partial", heading=TAKE, is_flag=True, help="Carve a truncated dump as far as it goes.")
    sparse: bool = option("--sparse", is_flag=True, help="Write pages of zeros as holes.")
    hashes: Sequence[Sequence[str]] = option(
        "--hash",
        type=hash_names,
        metavar="|".join(HASHES),
        multiple=True,
        help="Checksums of the segments; may be repeated. blake3: pip install 'memcarve[blake3]'.  [default: sha256]",
    )
    label_names: bool = option(
        "--label-names", is_flag=True, help="Also name files by protection and module: 0x...-0x....r-x.ntdll.dll.bin"
    )
    environment: bool = option(
        "--environment", is_flag=True, help="Put the process's environment into segments.json, if it is known."
    )


class ExportOutput(Group, heading=WRITE):
    """What export writes, and how."""

    kind: str = option(
        "--to",
        type=Choice([word for word in OutputType if word != OutputType.SEGMENTS]),
        required=True,
        help="What to write. minidump: for WinDbg, IDA, Ghidra, Binary Ninja, radare2, lldb. elfcore: for gdb, lldb "
        "and others. flat: one range, gaps filled. scripts: radare2, rizin, IDA, Ghidra, gdb and Binary Ninja map the "
        "input as it is. memmap: pid.N.map and pid.N.dmp as Volatility's windows.memmap --dump writes them.",
    )
    output: str | None = option(
        "-o",
        "--output",
        metavar="FILE",
        type=OutputPath(),
        help="The file to write, or s3://BUCKET/NAME; a folder with --to memmap and scripts, and a new one for several "
        "processes.  "
        "[default: named after the input, in this folder]",
    )
    force: bool = option("--force", is_flag=True, help="Replace the output if memcarve wrote it.")
    resume: bool = option("--resume", is_flag=True, help=_RESUME)
    renderer: str | None = option(
        "--format",
        type=Choice(["quick", "csv", "json", "jsonl"]),
        help="memmap: how the map is written.  [default: quick]",
    )
    checksum: str = option(
        "--hash",
        type=Choice(["sha256", "none"]),
        preset="sha256",
        help="Read what was written once more for its SHA-256, or not.",
    )
    fill: int | None = option("--fill", type=byte, metavar="HEX", help="flat: the byte that fills gaps.  [default: 00]")
    sparse: bool = option(
        "--sparse", is_flag=True, help="minidump, elfcore: pages of zeros as holes; flat: gaps as well."
    )
    placeholder_thread: bool = option(
        "--placeholder-thread", is_flag=True, help="minidump: make up a thread if none is known, for WinDbg."
    )
    resident: bool = option(
        "--resident", is_flag=True, help="minidump: leave out modules and threads whose page is missing, for angr."
    )
    architecture: str | None = option(
        "--architecture",
        type=Choice(Architecture),
        help="minidump, elfcore: the processor, instead of what is known.",
    )
    os_version: tuple[int, ...] | None = option(
        "--os-version",
        type=version,
        metavar="VERSION",
        help="minidump: the version of Windows, if it is not known: 10.0.19045.",
    )


class ExtractOutput(Group, heading=WRITE):
    """How extract writes."""

    output: str | None = option(
        "-o",
        "--output",
        metavar="DIR",
        type=OutputPath(),
        help="The folder (or archive) to write, or s3://BUCKET/NAME; for several processes a folder with one each.  "
        "[default: STEM.modules]",
    )
    force: bool = option(
        "--force", is_flag=True, help="Replace the output if memcarve wrote it, once the new one is whole."
    )
    resume: bool = option("--resume", is_flag=True, help=_RESUME)
    layout: str = option(
        "--layout",
        type=Choice(Layout),
        preset="file",
        help="As a file that tools can parse, or as it is mapped.",
    )
    archive: bool = option("--zip", is_flag=True, help="Write one encrypted ZIP archive, with the password 'infected'.")
    largest: int = option(
        "--largest",
        type=size,
        preset="1G",
        metavar="SIZE",
        help="No file becomes larger than this, whatever a header claims.",
    )


class ReportOutput(Group, heading=WRITE):
    """What a report holds, and how it is written."""

    split: str = option(
        "--split",
        type=Choice(Split),
        metavar="WHERE",
        preset="none",
        heading=TAKE,
        help=f"Also end segments where these change: {', '.join(Split)}.",
    )
    content: str = option(
        "--content",
        type=Choice(Content),
        preset=str(Content.FULL),
        heading=TAKE,
        help="How closely to look at the bytes: zero pages, PE and ELF headers (headers), entropy and text (full).",
    )
    checksum: str = option(
        "--hash", type=Choice(["sha256", "none"]), preset="sha256", heading=TAKE, help="Checksums of the segments."
    )
    max_bytes: int = option(
        "--max-bytes",
        type=size,
        metavar="SIZE",
        preset="8M",
        heading=TAKE,
        help="How many bytes of memory the report may hold: at findings, and the first 256 of segments, flagged first.",
    )
    no_bytes: bool = option("--no-bytes", heading=TAKE, is_flag=True, help="No byte of memory is in the report.")
    before: str | None = option(
        "--diff",
        metavar="OTHER",
        type=InputPath(),
        heading=TAKE,
        help="Compare with this earlier state: segments are marked that were added, removed or changed.",
    )
    layout: str | None = option(
        "--format",
        type=Choice(["html", "json"]),
        help="A page for a browser, or the document that it draws.  [default: html; nothing with --picture alone]",
    )
    pictures: Sequence[str] = option(
        "--picture",
        metavar="FILE",
        type=OutputPath(),
        multiple=True,
        help="Draw the address spaces as .svg, or as .png with pip install 'memcarve[picture]'; may be repeated.",
    )
    output: str | None = option(
        "-o",
        "--output",
        metavar="FILE",
        type=OutputPath(),
        help="The file to write.  [default: STEM.report.html; json: standard output]",
    )
    force: bool = option("--force", is_flag=True, help="Replace the output if memcarve wrote it.")
    title: str | None = option("--title", metavar="TEXT", help="What stands at its top.  [default: the input's name]")


class Extents(Group, heading=TAKE):
    """What segments lists."""

    extents: bool = option(
        "--extents", is_flag=True, help="List the extents instead: stretches that are also contiguous in the dump."
    )
    draw: bool = option("--draw", is_flag=True, help="Draw them instead, along the line of addresses.")


class ProcessList(Group, heading=TAKE):
    """Which processes are listed, and with what."""

    pages: bool = option("--pages", is_flag=True, help="Count each process's pages by kind, in the user half.")
    listed: bool = option(
        "--listed",
        is_flag=True,
        help="List only the processes of the kernel's list, without a search of all memory: --search lists.",
    )
    details: bool = option(
        "--details",
        is_flag=True,
        help="Add the command line; except in tables, also the image path, the current directory and the unloaded "
        "modules.",
    )
    environment: bool = option(
        "--environment", is_flag=True, help="Add the details and each process's environment; in JSON only."
    )
    scan: bool = option("--scan", is_flag=True, help="List plausible page-table roots instead, of any system.")
    half: str | None = option(
        "--range", type=Choice(Half), help="With --scan: only roots that map memory in this half, and what."
    )


class ReadOutput(Group, heading=WRITE):
    """How bytes are printed."""

    as_hex: bool | None = option(
        "--hex/--raw", preset=None, help="Hexdump or plain bytes.  [default: hexdump at a terminal]"
    )


class Sought(Group, heading=TAKE):
    """What the patterns mean, what else is searched for, and what is told of it."""

    as_hex: bool = option(
        "--hex", is_flag=True, help="PATTERN is bytes in hexadecimal: 4d5a9000, or '4d 5a ?? 0?' with wildcards."
    )
    regex: bool = option(
        "--regex", is_flag=True, help="PATTERN is a regular expression over bytes, as Python's re has them."
    )
    max_match: int | None = option(
        "--max-match",
        type=size,
        metavar="SIZE",
        help="With --regex: how long a match may be; of a longer one, its beginning.  [default: 4096]",
    )
    encodings: Sequence[str] = option(
        "--encoding", multiple=True, preset=("utf-8", "utf-16-le"), help="How text lies in memory; may be repeated."
    )
    ignore_case: bool = option(
        "-i", "--ignore-case", is_flag=True, help="Small and capital letters of ASCII are the same."
    )
    pattern_files: Sequence[str] = paths(
        "--patterns", "Also what stands in this file, a pattern on each line; - for standard input."
    )
    pointers: Sequence[AddressRange] = option(
        "--pointer",
        type=address_range,
        multiple=True,
        metavar="A[-B|+SIZE]",
        help="Pointers to an address, or into a range (B is exclusive); may be repeated. As for --address.",
    )
    unaligned: bool = option(
        "--unaligned", is_flag=True, help="With --pointer: at every address, not only at multiples of its size."
    )
    integers: Sequence[str] = option(
        "--integer", multiple=True, metavar="N", help="An integer, in decimal or with 0x; may be repeated."
    )
    width: str | None = option(
        "--width", type=Choice(["1", "2", "4", "8"]), help="With --integer: how many bytes it has.  [default: 4]"
    )
    byte_order: str | None = option(
        "--byte-order",
        type=Choice(["little", "big", "both"]),
        help="With --integer: its byte order.  [default: little]",
    )
    context: int | None = option(
        "--context",
        type=size,
        metavar="N",
        heading=WRITE,
        help="Also so many bytes before and behind each hit: a hexdump in tables, else in hexadecimal.",
    )
    max_hits: int | None = option("--max-hits", type=count, metavar="N", help="Stop after so many hits.")
    physical: bool = option(
        "--physical",
        is_flag=True,
        help="For an image: search its physical memory once instead; rows name who maps each hit. --pid and --name: "
        "whose memory is named.",
    )
    max_owners: int | None = owners_limit("With --physical: print at most so many rows for a hit;")
    name_places: bool = option(
        "--where",
        is_flag=True,
        heading=WRITE,
        help="Also what each hit lies in, if it is known: a module, a mapped file, a thread's stack, a heap.",
    )


class Asked(Group, heading=TAKE):
    """What is asked for, and how many answers may come."""

    physical: Sequence[int] = option(
        "--physical", type=root, metavar="A", multiple=True, help="Who maps this physical address; may be repeated."
    )
    physicals: Sequence[str] = paths("--physicals", "The same for each line of a file (- is standard input).")
    offset: Sequence[int] = option(
        "--offset",
        type=size,
        metavar="N",
        multiple=True,
        help="Who maps the byte at this offset of FILE, as find prints it; may be repeated.",
    )
    offsets: Sequence[str] = paths(
        "--offsets",
        "The same for each line of a file (- is standard input): a number, and perhaps a text behind it, as strings -t "
        "x prints them.",
    )
    radix: str | None = option(
        "--radix",
        type=Choice(["x", "d"]),
        help="Numbers in files are hexadecimal (x) or decimal (d), unless they begin with 0x.",
    )
    max_owners: int | None = owners_limit("Print at most so many rows for a byte;")


class ChosenOwners(OneProcess):
    """Whose memory is looked at."""

    pid: Sequence[int] = option(
        "--pid",
        type=pid,
        metavar="PID",
        multiple=True,
        help="Ask only the process with this id, and the kernel; may be repeated.  [default: all processes]",
    )
    name: str | None = option("--name", metavar="GLOB", help="Ask only the processes whose name matches.")


class Findings(Group, heading=TAKE):
    """Which findings are shown, and with what."""

    severity: str = option(
        "--severity",
        type=Choice(Severity),
        preset=str(Severity.LOW),
        help=f"The least severity that is shown: {', '.join(Severity)}.",
    )
    flag: Sequence[str] = option(
        "--flag",
        type=Choice([*Flag, *ProcessFlag]),
        metavar="FLAG",
        multiple=True,
        help=f"This flag of memory ({', '.join(Flag)}) or of processes ({', '.join(ProcessFlag)}).",
    )
    kind: Sequence[str] = option(
        "--kind",
        type=Choice(Kind),
        metavar="KIND",
        multiple=True,
        help=f"Findings in memory of this kind: {', '.join(Kind)}.",
    )
    file: Sequence[str] = option(
        "--file",
        metavar="GLOB",
        multiple=True,
        help="Findings in a mapped file or module whose name or path matches.",
    )
    size: int = option(
        "--bytes",
        type=size,
        metavar="N",
        preset="64",
        help="How many bytes of each place are shown: as instructions if they may run and capstone is installed, else "
        "as a hexdump; in JSON in hexadecimal.",
    )
    no_bytes: bool = option("--no-bytes", is_flag=True, help="Show no bytes.")


class StringLimits(Group, heading=TAKE):
    """Which strings are listed."""

    encodings: Sequence[str] = option(
        "--encoding",
        type=Choice(Encoding),
        multiple=True,
        preset=("utf-8", "utf-16-le"),
        help="How strings lie in memory; may be repeated. UTF-8 has ASCII in it.",
    )
    min_length: int = option("--min-length", type=count, preset="4", metavar="N", help="At least so many characters.")
    max_length: int = option(
        "--max-length", type=count, preset="65536", metavar="N", help="Longer strings come in pieces of this length."
    )


class Scanning(Group, heading=TAKE):
    """Which rules, and what they are asked of."""

    rules: Sequence[str] = option(
        "--rules",
        metavar="[NAMESPACE:]PATH",
        type=InputPath(),
        multiple=True,
        required=True,
        help="YARA rules: a file, source text or compiled by YARA-X, or a folder with *.yar and *.yara; may be "
        "repeated. Compiled rules are programs: take them only from whom you trust.",
    )
    define: Sequence[str] = option(
        "--define",
        metavar="NAME=VALUE",
        multiple=True,
        help='The value of an external variable: 1, 1.5, true or "text", with its quotes; may be repeated.',
    )
    by: str = option(
        "--by",
        type=Choice(ScanUnit),
        metavar="WHAT",
        preset="segment",
        help=f"What rules take for a file: {', '.join(ScanUnit)}.",
    )
    physical: bool = option(
        "--physical",
        is_flag=True,
        help="Scan all of an image once, as it lies in physical memory; rows name who maps each hit. --pid and --name: "
        "whose memory is named.",
    )
    max_owners: int | None = owners_limit("With --physical: print at most so many rows for a hit;")
    timeout: int = option(
        "--timeout", type=count, metavar="SECONDS", preset="60", help="Give up what takes longer: exit status 3."
    )
    max_hits: int | None = option("--max-hits", type=count, metavar="N", help="Stop after so many hits.")
    most_matches: int = option(
        "--max-matches",
        type=count,
        metavar="N",
        preset="10000",
        help="How many matches of a pattern count in one segment, and are printed.",
    )
    window: int = option(
        "--window",
        type=size,
        metavar="SIZE",
        preset="64M",
        help="Scan what is larger in windows of this size, in which some rules may answer otherwise: a note names "
        "them. Memory grows with it.",
    )
    overlap: int | None = option(
        "--overlap",
        type=size,
        metavar="SIZE",
        help="How much neighbouring windows share.  [default: what the longest pattern needs, at least 1M]",
    )
    carve_hits: str | None = option(
        "--carve-hits",
        metavar="DIR",
        type=OutputPath(),
        heading=WRITE,
        help="Also write the segments with hits into a new folder, as carve does.",
    )


class Differences(Group, heading=TAKE):
    """Which differences are listed, and whose."""

    other_pid: int | None = option(
        "--other-pid", type=pid, metavar="PID", help="The process of AFTER, if its id differs."
    )
    unchanged: bool = option("--unchanged", is_flag=True, help="Also list what did not change.")
    changed_pages: bool = option(
        "--changed-pages", is_flag=True, help="List the pages that changed instead, one row per stretch."
    )


class Mounting(Group, heading=WRITE):
    """What is mounted, and for whom."""

    half: str | None = option(
        "--range",
        type=Choice(Half),
        heading=TAKE,
        help="Half of the address space.  [default: user for an image, else all]",
    )
    sparse: bool = option(
        "--sparse",
        is_flag=True,
        help="Also show flat and image.raw with more than 64 GiB of gaps, which read as zeros.",
    )
    allow_other: bool = option(
        "--allow-other",
        is_flag=True,
        help="Let other users read it, too; for who is not root, /etc/fuse.conf must allow it.",
    )


class Batch(Group, heading=BATCH):
    """Which inputs a command is run on, how, and where what comes of it goes."""

    output: str = option(
        "-o",
        "--output",
        metavar="DIR",
        type=OutputPath(),
        required=True,
        help="The folder to write: it gets one for each input, and batch.json.",
    )
    inputs: Sequence[str] = paths("--inputs", "Take inputs from a file, one a line (- is standard input).")
    nul: bool = option("-0", "--null", is_flag=True, help="Lists have a NUL after each input, as find -print0 writes.")
    jobs: int | None = option(
        "--jobs",
        type=count,
        metavar="N",
        help="Run so many at once.  [default: one for each processor, and for each 512 MiB of memory that is free]",
    )
    time_limit: int | None = option(
        "--time-limit", type=count, metavar="SECONDS", help="End the run of an input that takes longer."
    )
    resume: bool = option(
        "--resume",
        is_flag=True,
        help="Go on with a batch: what failed or was stopped is done again, what is done is not, unless its input has "
        "changed. Inputs may be added.",
    )
    summary: str = option(
        "--summary",
        type=Choice(FORMATS),
        metavar="FORMAT",
        preset="table",
        help=f"How to print what became of each input: {', '.join(FORMATS)}.",
    )
