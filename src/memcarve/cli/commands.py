"""Every command: what it is for, its arguments and options, and the module that does it.

That module is imported when the command runs, so that help and completion need click alone.
"""

from __future__ import annotations

import dataclasses
import importlib
from typing import TYPE_CHECKING, Any

import click

from memcarve.cli import option_groups as groups
from memcarve.cli.option_values import Choice, address, size

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


def _path(name: str) -> click.Argument:
    return click.Argument([name], type=click.Path())


class Command(click.Command):
    """A command: the function of its name in a module of this folder, with options in groups.

    The function gets the arguments by name, and of each group an instance.
    """

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
        self._headings: dict[str, list[click.Parameter]] = {heading: [] for heading in groups.HEADINGS}
        for argument, group in taken.items():
            for field in dataclasses.fields(group):
                how = field.metadata
                made = click.Option([*how["names"], f"{argument}_{field.name}"], **how["how"])
                self._headings[how["heading"] or group.heading].append(made)
        options = [made for heading in self._headings.values() for made in heading]
        super().__init__(name, params=[*arguments, *options], help=text or summary, short_help=summary)

    @property
    def function(self) -> Callable[..., int]:
        """What is run."""
        module = importlib.import_module(f"memcarve.cli.{self.module}")
        found: Callable[..., int] = getattr(module, str(self.name).replace("-", "_"))
        return found

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401 - click's
        """Run the command."""
        given = dict(ctx.params)
        taken = {
            argument: group(
                **{field.name: given.pop(f"{argument}_{field.name}") for field in dataclasses.fields(group)}
            )
            for argument, group in self.groups.items()
        }
        return self.function(**given, **taken)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options under their headings."""
        helping = self.get_help_option(ctx)
        for heading, options in self._headings.items():
            shown = [*options, *([helping] if helping and heading == groups.OTHER else [])]
            rows = [row for each in shown if (row := each.get_help_record(ctx))]
            if rows:
                with formatter.section(heading):
                    formatter.write_dl(rows)


_OPENING = {"source": groups.Input, "messages": groups.Messages}
_ONE = {"process": groups.OneProcess, **_OPENING}
_SEVERAL = {"processes": groups.SeveralProcesses, **_OPENING}

#: the commands by what they are for
COMMANDS = {
    "Look": [
        Command(
            "processes",
            "listing_processes",
            "List the processes of an image, or of a map of several.",
            """List the processes that an image of a machine's memory holds, or a map of several dumps.

            On 64-bit Windows without symbols: those of the kernel's list, and those that only a search of all memory
            finds, which are marked as unlinked or exited; and as doubtful, with what speaks against them, if not all of
            it holds up. The search takes as long as reading the image does.
            """,
            [_path("file")],
            **_OPENING,
            wanted=groups.ProcessList,
            printing=groups.Printing,
        ),
        Command(
            "segments",
            "listing_memory",
            "List the contiguous segments of a process's memory.",
            """List the contiguous segments: start, end, size, extents, offset in the dump or image.

            For a dump the map alone is enough. If regions or modules are known, also what each segment is: protection,
            kind, file, flags. With --content (none by default) every byte is read.
            """,
            [_path("file")],
            **_ONE,
            filters=groups.SegmentFilters,
            segmenting=groups.Segmenting,
            listed=groups.Extents,
            printing=groups.Printing,
        ),
        Command(
            "regions",
            "listing_memory",
            "List what the operating system says of memory.",
            """List what the operating system says of memory: regions, and how much of each is there.

            From an image of 64-bit Windows, or from what Volatility printed: beside the dump, or given with --regions.
            """,
            [_path("file")],
            **_ONE,
            filters=groups.RegionFilters,
            printing=groups.Printing,
        ),
        Command(
            "read",
            "looking",
            "Print the bytes at an address.",
            "Print SIZE bytes of memory at ADDRESS, exactly, or say which address is not there.",
            [_path("file"), click.Argument(["address"], type=address), click.Argument(["size"], type=size)],
            **_ONE,
            printing=groups.ReadOutput,
        ),
        Command(
            "find",
            "finding",
            "Find text or bytes, with their addresses.",
            "Find text or bytes: every hit's address, segment and offset in the dump, across extents.",
            [_path("file"), click.Argument(["patterns"], metavar="PATTERN...", nargs=-1, required=True)],
            **_ONE,
            sought=groups.Sought,
            filters=groups.SegmentFilters,
            printing=groups.Printing,
        ),
        Command(
            "locate",
            "looking",
            "Tell where an address lies in the file, and back.",
            "Tell where ADDRESS lies in the dump, or which address the dump's byte at +OFFSET has.",
            [_path("file"), click.Argument(["place"], metavar="ADDRESS|+OFFSET")],
            **_ONE,
            printing=groups.Printing,
        ),
        Command(
            "diff",
            "diffing",
            "Show what changed in a process's memory.",
            """Show what changed in a process's memory from BEFORE to AFTER.

            Each is a dump, a folder that memcarve carved, or an image. A row is a segment, or several of both sides
            that share addresses: one that was split, or some that were merged. Its state: appeared (nothing was at
            these addresses), vanished (nothing is there now: freed, or paged out), grown and shrunk (bytes were added,
            removed), changed (bytes at the same addresses differ), unknown (one side knows of bytes that it lacks);
            several of the last four may hold.

            What is called was_ is of BEFORE. JSON also lists the segments of both sides (now, was) and the pages that
            changed. Exit status: 0 whether anything differs or not, 3 if either side is known to lack bytes.
            """,
            [_path("before"), _path("after")],
            process=groups.OneProcess,
            wanted=groups.Differences,
            filters=groups.SegmentFilters,
            source=groups.DiffInput,
            printing=groups.Printing,
            messages=groups.Messages,
        ),
    ],
    "Write": [
        Command(
            "carve",
            "carving",
            "Write each segment into a file named by its addresses.",
            """Write each contiguous stretch of virtual memory into a file named by its addresses.

            The folder also holds segments.json, which tells where every byte came from, and SHA256SUMS for sha256sum
            -c. It has another name until it is complete.
            """,
            [_path("file")],
            **_SEVERAL,
            filters=groups.SegmentFilters,
            segmenting=groups.Segmenting,
            write=groups.CarveOutput,
        ),
        Command(
            "export",
            "exporting",
            "Write one file that another program opens.",
            "Write a process's memory as one file that another program opens, or as what it needs to open the input.",
            [_path("file")],
            **_SEVERAL,
            filters=groups.SegmentFilters,
            write=groups.ExportOutput,
        ),
        Command(
            "extract",
            "extracting",
            "Write the programs and libraries in memory as files.",
            """Write each program and library in memory, listed or found by its PE or ELF header, into a file.

            What is not in memory is zeros in the files; modules.json says of each section what that is. The files may
            be malware: their names end in .bin, and --zip puts them into an encrypted archive.
            """,
            [_path("file")],
            **_SEVERAL,
            filters=groups.MemoryFilters,
            write=groups.ExtractOutput,
        ),
        Command(
            "verify",
            "verifying",
            "Check a carved folder, also against its source.",
            """Check a carved folder: every file's name, size and hash, the totals, and that nothing else lies there.

            Exit status 0 only if all of it holds.
            """,
            [_path("folder")],
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

            For bash, put this into ~/.bashrc: eval "$(memcarve completion bash)"
            """,
            [click.Argument(["shell"], type=Choice(["bash", "zsh", "fish"]))],
        ),
        Command(
            "debug-info",
            "debugging",
            "Print what a report of a fault should say.",
            "Print versions and what the system can do, for a report of a fault. Nothing of your files is in it.",
            [],
        ),
    ],
}
