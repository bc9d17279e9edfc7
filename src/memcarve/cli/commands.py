"""Every command: what it is for, its arguments and options, and the module that does it.

The module is imported when the command runs, so that help and completion need only click.
"""

from __future__ import annotations

import functools
import importlib
import sys
from typing import TYPE_CHECKING, Any

import click

from memcarve.cli import option_groups as groups, run_log
from memcarve.cli.option_values import AnyPath, Choice, InputPath, OutputPath, PageFilePath, address, size
from memcarve.cli.stopping import raise_exceptions
from memcarve.cli.usage_errors import ExtraArgumentsError
from memcarve.remote.locations import word_without_secrets
from memcarve.times import now

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


#: where a command's context keeps when it began
BEGIN = "memcarve.begin"


def _path(name: str) -> click.Argument:
    return click.Argument([name], type=InputPath())


class Command(click.Command):
    """A command: the function with its name in a module of this folder, with options in groups.

    The function gets the arguments by name, and an instance of each group.
    """

    _params: list[click.Parameter]

    def __init__(
        self,
        name: str,
        module: str,
        summary: str,
        text: str,
        arguments: Sequence[click.Argument],
        **taken: type[groups.Group],
    ) -> None:
        self.module = module
        self.groups = taken
        self._arguments = arguments
        # more arguments than it takes are told below, in our words
        super().__init__(name, context_settings={"allow_extra_args": True}, help=text or summary, short_help=summary)

    @property
    def params(self) -> list[click.Parameter]:
        """Its arguments and options, made when they are asked for: all commands together have a thousand."""
        if not self._params:
            self._params = [*self._arguments, *(made for heading in self.headings.values() for made in heading)]
        return self._params

    @params.setter
    def params(self, params: list[click.Parameter]) -> None:
        self._params = params  # click sets it to nothing at first

    @functools.cached_property
    def headings(self) -> dict[str, list[click.Parameter]]:
        """Its options by their headings in help."""
        found: dict[str, list[click.Parameter]] = {heading: [] for heading in groups.HEADINGS}
        for argument, group in self.groups.items():
            for name, option in group.options.items():
                made = click.Option([*option.names, f"{argument}_{name}"], **option.how)
                found[option.heading or group.heading].append(made)
        return found

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Take the arguments and options; raises click.UsageError."""
        try:
            extra = super().parse_args(ctx, args)
        except click.UsageError as error:
            error.ctx = error.ctx or ctx  # the parser does not always say of which command
            raise
        if extra and not ctx.resilient_parsing:
            raise ExtraArgumentsError(extra, ctx)
        return extra

    @property
    def function(self) -> Callable[..., int]:
        """What is run."""
        module = importlib.import_module(f"memcarve.cli.{self.module}")
        found: Callable[..., int] = getattr(module, str(self.name).replace("-", "_"))
        return found

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401 - click's
        """Run the command."""
        ctx.meta[BEGIN] = now()
        given = dict(ctx.params)
        taken = {
            argument: group(**{name: given.pop(f"{argument}_{name}") for name in group.options})
            for argument, group in self.groups.items()
        }
        function = self.function  # imports
        raise_exceptions()
        messages = taken.get("messages")
        if isinstance(messages, groups.Messages):
            run_log.begin(messages.log, ["memcarve", *map(word_without_secrets, sys.argv[1:])], *self._paths(ctx))
        try:
            return function(**given, **taken)
        finally:
            if "memcarve.remote.remote_file" in sys.modules:
                remote_reads = importlib.import_module("memcarve.cli.remote_reads")
                remote_reads.tell_reads(quiet=isinstance(messages, groups.Messages) and messages.quiet)

    def _paths(self, ctx: click.Context) -> tuple[list[str], str | None]:
        """Return the inputs that were named, and the output."""
        named, output = list[str](), None
        for parameter in self.params:
            value = ctx.params.get(str(parameter.name))
            if isinstance(parameter.type, OutputPath):
                output = output if "--log" in parameter.opts else value
            elif isinstance(parameter.type, PageFilePath):
                named += map(PageFilePath.path, value or ())
            elif isinstance(parameter.type, InputPath) and value is not None:
                named += [value] if isinstance(value, str) else value
        return named, output

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options under their headings."""
        helping = self.get_help_option(ctx)
        for heading, options in self.headings.items():
            shown = [*options, *([helping] if helping and heading == groups.OTHER else [])]
            rows = [row for each in shown if (row := each.get_help_record(ctx))]
            if rows:
                with formatter.section(heading):
                    formatter.write_dl(rows)


_OPENING = {"source": groups.Input, "messages": groups.Messages}
_ONE = {"process": groups.OneProcess, **_OPENING}
_LISTED = {"processes": groups.ListedProcesses, **_OPENING}
_SEVERAL = {"processes": groups.SeveralProcesses, **_OPENING}
_LISTED = {"processes": groups.ListedProcesses, **_OPENING}
_WRITING = {**_SEVERAL, "record": groups.Record}

#: the commands by what they are for
COMMANDS = {
    "Look": [
        Command(
            "processes",
            "listing_processes",
            "List the processes of an image, or of a map of several.",
            """List the processes in an image of a machine's memory, or in a map of several dumps.

            On 64-bit Windows, no symbols are needed. The processes are those of the kernel's list and those that only a
            search of all memory finds, which are marked as unlinked or exited. Those that fail some of the checks are
            marked as doubtful, with the reasons. The search takes as long as reading the image.
            """,
            [_path("file")],
            **_OPENING,
            wanted=groups.ProcessList,
            printing=groups.Printing,
        ),
        Command(
            "segments",
            "listing_memory",
            "List the contiguous segments of memory.",
            """List the contiguous segments: start, end, size, extents, offset in the dump or image.

            For a dump, its map is enough. If regions or modules are known, each segment also has its protection, kind,
            file and flags. With --content (none by default) every byte is read. With several processes, rows say which
            they are of.
            """,
            [_path("file")],
            **_LISTED,
            filters=groups.SegmentFilters,
            segmenting=groups.Segmenting,
            listed=groups.Extents,
            printing=groups.Printing,
        ),
        Command(
            "regions",
            "listing_memory",
            "List what the operating system says about memory.",
            """List what the operating system says about memory: regions, and how much of each is there.

            They come from an image of 64-bit Windows or of Linux, or from what Volatility printed: beside the dump, or
            given with --regions. With several processes, rows say which they are of.
            """,
            [_path("file")],
            **_LISTED,
            filters=groups.RegionFilters,
            printing=groups.RegionPrinting,
        ),
        Command(
            "hunt",
            "hunt_command",
            "Show what deserves a look, in every process, the worst first.",
            """Show what deserves a look, in every process of an image or in one: the worst first, with the reason.

            These are flags of memory, such as code that no file backs, and of processes, such as a name that imitates a
            system program's. A finding is no verdict: docs/hunting.md and docs/labels.md name honest causes of each.
            Findings that are the same in several processes are one row of the table.
            """,
            [_path("file")],
            processes=groups.HuntedProcesses,
            **_OPENING,
            wanted=groups.Findings,
            printing=groups.Printing,
        ),
        Command(
            "report",
            "reporting",
            "Write a report that one opens in a browser.",
            """Write what is known of processes into one HTML file, which opens from disk and loads nothing: memory as
            a picture, segments, regions, modules, threads, findings, and what is missing.

            --format json prints the document that the page draws. A report holds names and at most --max-bytes of the
            memory: it may hold secrets.
            """,
            [_path("file")],
            processes=groups.HuntedProcesses,
            **_OPENING,
            write=groups.ReportOutput,
            record=groups.Record,
        ),
        Command(
            "read",
            "looking",
            "Print the bytes at an address.",
            "Print exactly SIZE bytes of memory at ADDRESS, or say which address is not there.",
            [_path("file"), click.Argument(["address"], type=address), click.Argument(["size"], type=size)],
            **_ONE,
            printing=groups.ReadOutput,
        ),
        Command(
            "find",
            "finding",
            "Find text, bytes, expressions or pointers.",
            """Find text, bytes, expressions, integers or pointers, also across extents: the address, segment and offset
            in the dump or image of every hit.

            In one process, several or all of them, whose rows then begin with pid and name; what they share is searched
            once. Hits come process by process, in order of addresses, as they are found. Patterns may be thousands
            (--patterns). With --regex PATTERN is a regular expression over bytes in the syntax of Python's re, in which
            a dot is any byte; its matches do not overlap, and have at most --max-match bytes.
            """,
            [_path("file"), click.Argument(["patterns"], metavar="[PATTERN]...", nargs=-1)],
            **_LISTED,
            sought=groups.Sought,
            filters=groups.SegmentFilters,
            printing=groups.Printing,
        ),
        Command(
            "strings",
            "listing_strings",
            "List the strings in memory, with their addresses.",
            """List the strings in memory, also across pages and extents: the address, segment, offset in the dump or
            image, encoding and text of each.

            In one process, several or all of them, whose rows then begin with pid and name; what they share is searched
            once. A string ends at the first character that is not printable. UTF-16 is found at even and odd addresses,
            in the usual characters of all alphabets of the first plane.
            """,
            [_path("file")],
            **_LISTED,
            limits=groups.StringLimits,
            filters=groups.SegmentFilters,
            printing=groups.Printing,
        ),
        Command(
            "scan",
            "scan_command",
            "Find what YARA rules match, in true addresses.",
            """Find what YARA rules match in memory as it was laid out: across pages, with true addresses.

            Rules are those of YARA-X (pip install 'memcarve[yara]'). They take each segment for a file, unless --by
            says otherwise. A row is a place where a pattern of a rule that is true lies. Memory that several processes
            share is scanned once.
            """,
            [_path("file")],
            processes=groups.ListedProcesses,
            **_OPENING,
            sought=groups.Scanning,
            filters=groups.SegmentFilters,
            printing=groups.Printing,
        ),
        Command(
            "locate",
            "looking",
            "Show where an address lies in the file, or the reverse.",
            "Show where ADDRESS lies in the dump, or the addresses of the dump's byte at +OFFSET.",
            [_path("file"), click.Argument(["target"], metavar="ADDRESS|+OFFSET")],
            **_ONE,
            printing=groups.Printing,
        ),
        Command(
            "owners",
            "listing_owners",
            "Show which processes map a page of an image, and where.",
            """Show which processes map a byte of an image, at which addresses, with which rights; or the kernel.

            Bytes are asked for by physical address or by offset in FILE, one by one or by the million:

            strings -t x mem.raw | memcarve owners mem.raw --offsets - --radix x

            The page tables of all processes are read once. A byte for which none is found may be in a cache, shared,
            compressed or paged out: it is not called free. Of a dump, --offset tells the addresses of its process.
            """,
            [_path("file")],
            asked=groups.Asked,
            chosen=groups.ChosenOwners,
            **_OPENING,
            printing=groups.Printing,
        ),
        Command(
            "diff",
            "diffing",
            "Show what changed in processes' memory.",
            """Show what changed in a process's memory from BEFORE to AFTER.

            Each is a dump, a folder that memcarve carved, or an image. A row is a segment, or several segments of both
            sides that share addresses because one was split or some were merged. Its state is appeared (nothing was at
            these addresses), vanished (nothing is there now: freed, or paged out), grown (bytes were added), shrunk
            (bytes were removed), changed (bytes at the same addresses differ) or unknown (one side is known to lack
            bytes); the last four may be combined.

            With several processes, rows say which they are of; a number that is used again is another process, and one
            that only one side holds has a row of its own, with the state process began or process ended.

            Columns that begin with was_ are about BEFORE. JSON also lists the segments of both sides (now, was) and the
            pages that changed. The exit status is 0 whether anything differs or not, and 3 if either side is known to
            lack bytes.
            """,
            [_path("before"), _path("after")],
            processes=groups.ListedProcesses,
            wanted=groups.Differences,
            filters=groups.SegmentFilters,
            source=groups.DiffInput,
            printing=groups.Printing,
            messages=groups.Messages,
        ),
    ],
    "Mount": [
        Command(
            "mount",
            "mounting",
            "Show all that can be written as a folder of files.",
            """Show all that memcarve can write of FILE as files in the empty folder DIR, made when they are read.

            Nothing is written to a disk. The folder is read-only, and yours alone. It is there until Ctrl-C, or until
            fusermount3 -u DIR. It takes FUSE: pip install 'memcarve[mount]', apt install fuse3.
            """,
            [_path("file"), click.Argument(["directory"], metavar="DIR", type=AnyPath())],
            processes=groups.MountedProcesses,
            **_OPENING,
            mounting=groups.Mounting,
        ),
    ],
    "Write": [
        Command(
            "carve",
            "carving",
            "Write each segment into a file named by its addresses.",
            """Write each contiguous stretch of virtual memory into a file named by its addresses.

            The folder also holds segments.json, which says where every byte came from, and SHA256SUMS for sha256sum
            -c. It has a temporary name until it is complete.
            """,
            [_path("file")],
            **_WRITING,
            filters=groups.SegmentFilters,
            segmenting=groups.Segmenting,
            write=groups.CarveOutput,
        ),
        Command(
            "export",
            "exporting",
            "Write one file that another program opens.",
            "Write a process's memory as one file that another program opens, or scripts that open the input there.",
            [_path("file")],
            **_WRITING,
            filters=groups.SegmentFilters,
            write=groups.ExportOutput,
        ),
        Command(
            "extract",
            "extracting",
            "Write the programs and libraries in memory as files.",
            """Write each program and library in memory, listed or found by its PE or ELF header, into a file.

            Bytes that are not in memory are zeros in the files; modules.json says which, for each section. The files
            may be malware: their names end in .bin, and --zip puts them into an encrypted archive.
            """,
            [_path("file")],
            **_WRITING,
            filters=groups.MemoryFilters,
            write=groups.ExtractOutput,
        ),
        Command(
            "verify",
            "verifying",
            "Check what was written, also against its source.",
            """Check what memcarve wrote: every file's name, size and hash, the totals, and that nothing else is there.

            It is a folder that was carved, or of several processes; a folder or archive of modules; or what was
            exported. With --source, what was chosen is chosen again, and all that follows from the source is compared.
            The exit status is 0 only if all checks pass.
            """,
            [_path("file")],
            compared=groups.Source,
            **_ONE,
        ),
    ],
    "Help": [
        Command(
            "completion",
            "completing",
            "Print a script that completes commands and options.",
            """Print a script that completes commands and options.

            For bash, add this to ~/.bashrc: eval "$(memcarve completion bash)"
            """,
            [click.Argument(["shell"], type=Choice(["bash", "zsh", "fish"]))],
        ),
        Command(
            "debug-info",
            "debugging",
            "Print what belongs in a bug report.",
            "Print versions and what the system can do, for a bug report. It says nothing about your files.",
            [],
        ),
    ],
}
