"""Options, in groups that commands share: what each is called, takes and means stands here, and once.

A group is a dataclass: a command that takes it is handed an instance with the values. Nothing here needs numpy: a
command's help shows without it.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, ClassVar, dataclass_transform

import click

from memcarve.cli.option_values import HASHES, Choice, address, address_range, byte, hash_names, pid, size, version
from memcarve.vocabulary import Content, Flag, Half, InputType, Kind, Layout, Paging, Split, System, Trust

if TYPE_CHECKING:
    from collections.abc import Sequence

#: what help puts options under, in this order
HEADINGS = TAKE, FROM, WRITE, OTHER = "What to take", "Where from", "How to write", "Other"
FORMATS = ("table", "csv", "json", "jsonl", "parquet")


def option(*names: str, heading: str | None = None, preset: Any = ..., **how: Any) -> Any:  # noqa: ANN401 - click's
    """Return a group's member that is an option; `how` is what click takes.

    `heading` is another than the group's; `preset` is click's default, which is not a default of the dataclass.
    """
    if preset is not ...:
        how |= {"default": preset, "show_default": preset is not None}
    return dataclasses.field(metadata={"names": names, "heading": heading, "how": how})


def paths(name: str, text: str) -> Any:  # noqa: ANN401 - as above
    """Return an option that takes files; `text` is its help."""
    return option(name, metavar="FILE", type=click.Path(), multiple=True, help=text)


@dataclass_transform(frozen_default=True, field_specifiers=(option, paths))
class Group:
    """Options under one heading: the members of a subclass, which is a frozen dataclass."""

    heading: ClassVar[str]
    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]

    def __init_subclass__(cls, heading: str | None = None) -> None:
        cls.heading = heading or cls.heading
        dataclasses.dataclass(frozen=True)(cls)

    @property
    def is_given(self) -> bool:
        """Whether any of them is given."""
        return any(value not in (None, (), False) for value in vars(self).values())


class OneProcess(Group, heading=TAKE):
    """Which process."""

    pid: Sequence[int] = option("--pid", type=pid, metavar="PID", multiple=True, help="The process with this id.")
    name: str | None = option("--name", metavar="GLOB", help="The process with such a name.")


class SeveralProcesses(OneProcess):
    """Which processes."""

    pid: Sequence[int] = option(
        "--pid", type=pid, metavar="PID", multiple=True, help="The process with this id; may be repeated."
    )
    name: str | None = option("--name", metavar="GLOB", help="All processes with such a name.")
    everything: bool = option(
        "--all", is_flag=True, help="Every process but doubtful ones, each into a file or folder of its own."
    )


class MemoryFilters(Group, heading=TAKE):
    """What part of memory."""

    given_half: str | None = option(
        "--range",
        type=Choice(Half),
        help="Which half of the address space.  [default: all of a dump, user of an image; with --address all]",
    )
    address: Sequence[tuple[int, int]] = option(
        "--address",
        type=address_range,
        multiple=True,
        metavar="A[-B]",
        help="What holds the address, or touches the range (B is the first address outside); may be repeated.",
    )
    file: Sequence[str] = option(
        "--file",
        metavar="GLOB",
        multiple=True,
        help="What belongs to a mapped file or module with such a name or path.",
    )

    @property
    def half(self) -> str | None:
        """The half that is wanted: an address may lie in either."""
        return self.given_half or ("all" if self.address else None)


class RegionFilters(MemoryFilters):
    """Which regions."""

    protection: Sequence[str] = option(
        "--protection",
        metavar="rwx",
        multiple=True,
        help="Regions whose protection has all these letters (c: write-copy), or this full name.",
    )
    kind: Sequence[str] = option(
        "--kind", metavar="KIND", multiple=True, help=f"Memory of this kind: {', '.join(Kind)}."
    )


class SegmentFilters(RegionFilters):
    """Which segments."""

    min_size: int | None = option("--min-size", type=size, metavar="SIZE", help="At least this size (4096, 4k, 2M).")
    max_size: int | None = option("--max-size", type=size, metavar="SIZE", help="At most this size.")
    flag: Sequence[str] = option(
        "--flag", metavar="FLAG", multiple=True, help=f"Segments with this flag: {', '.join(Flag)}."
    )


class Segmenting(Group, heading=TAKE):
    """Where segments end, and how far their bytes are looked at."""

    split: str = option(
        "--split",
        type=Choice(Split),
        metavar="WHERE",
        preset="none",
        help="End segments also at the borders of regions or modules, or if the system's protection or the page "
        f"tables' permissions change: {', '.join(Split)}.",
    )
    content: str | None = option(
        "--content",
        type=Choice(Content),
        help="Look at the bytes: for zero pages and PE and ELF headers (headers), also entropy and text (full).",
    )


class Input(Group, heading=FROM):
    """What the input is, and what belongs to it: what the library's `open` takes."""

    input_type: str | None = option(
        "--input-type",
        type=Choice(InputType),
        metavar="TYPE",
        help=f"What the input is, if it is not recognised or taken for something else: {', '.join(InputType)}. A core "
        "is a process's; an image is a machine's memory in any container.",
    )
    memory_map: str | None = option("--map", metavar="FILE", type=click.Path(), help="The memory map of a dump.")
    dump: str | None = option("--dump", metavar="FILE", type=click.Path(), help="The dump, if FILE is its map.")
    trust: str | None = option(
        "--trust", type=Choice(Trust), help="Which positions to believe if the map is at odds with the dump's length."
    )
    regions: Sequence[str] = paths(
        "--regions", "A list of regions: windows.vadinfo, linux.proc.Maps, mac.proc_maps, /proc/PID/maps."
    )
    modules: Sequence[str] = paths("--modules", "A list of modules: windows.dlllist.")
    threads: Sequence[str] = paths("--threads", "A list of threads: windows.threads.")
    dtb: int | None = option(
        "--dtb",
        type=address,
        metavar="ROOT",
        help="Image: the address space whose page tables have their root (DTB, CR3) at this physical address.",
    )
    system: str | None = option(
        "--os", type=Choice(System), help="Image: whose page-table entries they are.  [default: recognised]"
    )
    paging: str | None = option(
        "--paging", type=Choice(Paging), help="Image, with --dtb: the kind of page tables.  [default: recognised]"
    )
    limit: int | None = option(
        "--limit",
        type=size,
        metavar="SIZE",
        help="Image: how much virtual memory page tables may claim.  [default: 4 times the image, at least 16G]",
    )


class DiffInput(Group, heading=FROM):
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
        "--os", type=Choice(System), help="Images: whose page-table entries they are.  [default: recognised]"
    )
    limit: int | None = option(
        "--limit", type=size, metavar="SIZE", help="Images: how much virtual memory page tables may claim."
    )


class Source(Group, heading=FROM):
    """What a carved folder is compared with."""

    source: str | None = option(
        "--source",
        metavar="FILE",
        type=click.Path(),
        help="Compare every byte with this image, or dump (or its map); the options below say how to open it.",
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


class Messages(Group, heading=OTHER):
    """What is printed besides data."""

    quiet: bool = option("-q", "--quiet", is_flag=True, help="Print nothing but errors and data.")
    verbose: bool = option("-v", "--verbose", is_flag=True, help="Say more of what is done.")


# those of one command


class CarveOutput(Group, heading=WRITE):
    """How carve writes."""

    output: str | None = option(
        "-o", "--output", metavar="DIR", type=click.Path(), help="The folder to write.  [default: STEM.segments]"
    )
    force: bool = option(
        "--force", is_flag=True, help="Replace the folder if memcarve wrote it, once the new one is whole."
    )
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
        help="Checksums of the segments; may be repeated.  [default: sha256]",
    )
    hash_input: bool = option("--hash-input", is_flag=True, help="Also record the SHA-256 of the dump or image.")
    label_names: bool = option(
        "--label-names", is_flag=True, help="Name files by protection and module, too: 0x...-0x....r-x.ntdll.dll.bin"
    )
    environment: bool = option(
        "--environment", is_flag=True, help="Put the process's environment into segments.json, if it is known."
    )


class ExportOutput(Group, heading=WRITE):
    """What export writes, and how."""

    kind: str = option(
        "--to",
        type=Choice(["minidump", "elfcore", "flat", "scripts", "memmap"]),
        required=True,
        help="What to write. minidump: for WinDbg, IDA, Ghidra, Binary Ninja, radare2, lldb. elfcore: for gdb, lldb "
        "and others. flat: one range, gaps filled. scripts: for radare2, rizin, IDA, Ghidra, gdb and Binary Ninja: "
        "they map the input as it is. memmap: pid.N.map and pid.N.dmp as Volatility's windows.memmap --dump writes "
        "them.",
    )
    output: str | None = option(
        "-o",
        "--output",
        metavar="FILE",
        type=click.Path(),
        help="The file to write; a folder with --to memmap and scripts, and a new one for several processes.  "
        "[default: named after the input, in this folder]",
    )
    force: bool = option("--force", is_flag=True, help="Replace what has the name if memcarve wrote it.")
    renderer: str | None = option(
        "--format",
        type=Choice(["quick", "csv", "json", "jsonl"]),
        help="memmap: how the map is written.  [default: quick]",
    )
    fill: int | None = option("--fill", type=byte, metavar="HEX", help="flat: the byte that fills gaps.  [default: 00]")
    sparse: bool = option(
        "--sparse", is_flag=True, help="minidump, elfcore, flat: holes instead of zeros in what is written."
    )
    placeholder_thread: bool = option(
        "--placeholder-thread", is_flag=True, help="minidump: make up a thread if none is known, for WinDbg."
    )
    resident: bool = option(
        "--resident", is_flag=True, help="minidump: no modules or threads whose page is missing, for angr."
    )
    architecture: str | None = option(
        "--architecture",
        type=Choice(["x64", "x86"]),
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
        type=click.Path(),
        help="The folder (archive) to write; for several processes a folder with one of each.  [default: STEM.modules]",
    )
    force: bool = option(
        "--force", is_flag=True, help="Replace what memcarve extracted before, once the new one is whole."
    )
    layout: str = option(
        "--layout",
        type=Choice(Layout),
        preset="file",
        help="As a file that tools parse, each section where its header says; or as it is mapped.",
    )
    archive: bool = option("--zip", is_flag=True, help="Write one encrypted ZIP archive; its password is infected.")
    largest: int = option(
        "--largest",
        type=size,
        preset="1G",
        metavar="SIZE",
        help="No file becomes larger than this, whatever a header claims.",
    )


class Extents(Group, heading=TAKE):
    """What segments lists."""

    extents: bool = option(
        "--extents", is_flag=True, help="List the extents beneath: each continues both in memory and in the dump."
    )


class ProcessList(Group, heading=TAKE):
    """Which processes are listed, and what of them."""

    pages: bool = option("--pages", is_flag=True, help="Count each process's pages by kind, in the user half.")
    listed: bool = option(
        "--listed", is_flag=True, help="Only those of the kernel's list, without a search of all memory."
    )
    details: bool = option(
        "--details",
        is_flag=True,
        help="Also the command line; in formats other than table also image path, current directory, and the modules "
        "it unloaded.",
    )
    environment: bool = option(
        "--environment", is_flag=True, help="The details and each process's environment, in JSON only."
    )
    scan: bool = option("--scan", is_flag=True, help="List plausible page-table roots instead, whatever the system.")


class ReadOutput(Group, heading=WRITE):
    """How bytes are printed."""

    as_hex: bool | None = option(
        "--hex/--raw", preset=None, help="Hexdump or plain bytes.  [default: hexdump at a terminal]"
    )


class Sought(Group, heading=TAKE):
    """What the patterns mean that are searched for."""

    as_hex: bool = option("--hex", is_flag=True, help="PATTERN is bytes in hexadecimal: 4d5a9000 or '4d 5a 90 00'.")
    encodings: Sequence[str] = option(
        "--encoding", multiple=True, preset=("utf-8", "utf-16-le"), help="How text lies in memory; may be repeated."
    )


class Differences(Group, heading=TAKE):
    """Which differences are listed, and whose."""

    other_pid: int | None = option(
        "--other-pid", type=pid, metavar="PID", help="The process of AFTER, if its id differs."
    )
    unchanged: bool = option("--unchanged", is_flag=True, help="List what did not change, too.")
    changed_pages: bool = option(
        "--changed-pages", is_flag=True, help="List the pages that changed instead, a row for each stretch."
    )
