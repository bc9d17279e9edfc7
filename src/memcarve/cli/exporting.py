"""The command that writes a process's memory as another program opens it."""

from __future__ import annotations

import os
import re
import sys
from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from memcarve.cli.options import (
    COMPLETE,
    INCOMPLETE,
    OneAddress,
    choose,
    file_argument,
    filter_options,
    input_options,
    labeller,
    process_options,
    process_words,
    quiet_options,
    say,
    selection,
    stem_of,
)
from memcarve.cli.progress import ProgressBar, amount, counted
from memcarve.cli.wording import complain
from memcarve.errors import MemcarveError, NoSpaceError, UsageError, printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memcarve.process import Container, Platform, ProcessMemory
    from memcarve.sinks.memmap import ExportResult
    from memcarve.sinks.segment_writer import Progress
    from memcarve.sinks.single_file import FileOptions, Written


class _Kind(NamedTuple):
    """What can be written: the ending of its default name, and which options are about it alone."""

    ending: str
    options: frozenset[str]


_KINDS = {
    "minidump": _Kind(
        "mdmp", frozenset({"--sparse", "--placeholder-thread", "--resident", "--architecture", "--os-version"})
    ),
    "elfcore": _Kind("core", frozenset({"--sparse", "--architecture"})),
    "flat": _Kind("bin", frozenset({"--sparse", "--fill"})),
    "scripts": _Kind("scripts", frozenset()),
    "memmap": _Kind("", frozenset({"--format"})),
}
#: what also holds regions, modules or threads
_WITH_METADATA = ("minidump", "elfcore", "scripts")


def _byte(text: str) -> int:
    """Return a byte given by two hexadecimal digits."""
    found = re.fullmatch(r"(?:0[xX])?([0-9a-fA-F]{1,2})", text.strip())
    if not found:
        raise click.BadParameter(f"{text!r} is no byte; write two hexadecimal digits, as 00 or cc")
    return int(found[1], 16)


def _version(text: str) -> tuple[int, ...]:
    """Return a version: major, minor, build."""
    if not re.fullmatch(r"\d{1,9}(\.\d{1,9}){1,2}", text):
        raise click.BadParameter(f"{text!r} is no version; write 10.0.19045")
    return tuple(map(int, text.split(".")))


@click.command()
@file_argument
@click.option(
    "--to",
    "kind",
    type=click.Choice([*_KINDS]),
    required=True,
    help="What to write. minidump: for WinDbg, IDA, Ghidra, Binary Ninja, radare2, lldb. elfcore: for gdb, lldb and "
    "others. flat: one range, gaps filled. scripts: for radare2, rizin, IDA, Ghidra, gdb and Binary Ninja: they map "
    "the input as it is. memmap: pid.N.map and pid.N.dmp as Volatility's windows.memmap --dump writes them.",
)
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    type=click.Path(),
    help="The file to write; a folder with --to memmap and scripts, and for several processes.  [default: named after "
    "the input, in this folder]",
)
@click.option(
    "--format",
    "renderer",
    type=click.Choice(["quick", "csv", "json", "jsonl"]),
    help="memmap: how the map is written.  [default: quick]",
)
@click.option("--fill", type=_byte, metavar="HEX", help="flat: the byte that fills gaps.  [default: 00]")
@click.option("--sparse", is_flag=True, help="Holes instead of zeros in what is written (not memmap, scripts).")
@click.option("--placeholder-thread", is_flag=True, help="minidump: where no thread is known, make one up: for WinDbg.")
@click.option("--resident", is_flag=True, help="minidump: no modules or threads whose page is missing: for angr.")
@click.option(
    "--architecture",
    type=click.Choice(["x64", "x86"]),
    help="minidump, elfcore: the processor, instead of what is known.",
)
@click.option(
    "--os-version", type=_version, metavar="VERSION", help="minidump: of Windows, as 10.0.19045, where not known."
)
@click.option("--force", is_flag=True, help="Replace what has the name if memcarve wrote it.")
@process_options
@click.option("--all", "everything", is_flag=True, help="Every process, a file each; none that is doubtful.")
@filter_options
@input_options
@quiet_options
def export(
    file: str,
    kind: str,
    output: str | None,
    pid: Sequence[int],
    name: str | None,
    wanted: dict[str, Any],
    opening: dict[str, Any],
    *,
    everything: bool,
    quiet: bool,
    verbose: bool,
    **given: Any,  # noqa: ANN401 - the options of one kind
) -> int:
    """Write a process's memory as one file that another program opens, or as what it needs to open the input."""
    from memcarve.sinks.several import folder_name  # noqa: PLC0415 - numpy is not needed for --help
    from memcarve.sources import open_container  # noqa: PLC0415

    _check(kind, given, wanted)
    with open_container(file, **opening) as container:
        indexes = choose(container, pid, name, everything=everything)
        several = len(indexes) > 1 or (everything and len(container.processes()) > 1)
        stem = stem_of(opening["dump"] or file)
        taken: Counter[str] = Counter()
        statuses = []
        for index in indexes:
            try:
                process = container.open_process(index, _half(kind, wanted, container))
                say(process.notes, quiet=quiet)
                words = process_words(process, index)
                if several and not words:
                    words = [folder_name(process.entry, index, taken)]
                out = _path(kind, output, [stem, *words], wanted, several=several)
                with ProgressBar("exporting", quiet=quiet) as progress:
                    result = _write(kind, process, out, given, wanted, taken, progress)
                say(process.metadata.notes if kind in _WITH_METADATA else (), quiet=quiet)
            except NoSpaceError:
                raise
            except MemcarveError as error:
                if not several:
                    raise
                complain(error, container.entry(index))
                statuses.append(False)
            else:
                _report(result, quiet=quiet, verbose=verbose)
                statuses.append(result.complete)
    return COMPLETE if all(statuses) else INCOMPLETE


def _check(kind: str, given: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Raise UsageError where an option was given that is not about what is written."""
    said = {
        "--format": given["renderer"] is not None,
        "--fill": given["fill"] is not None,
        "--sparse": given["sparse"],
        "--placeholder-thread": given["placeholder_thread"],
        "--resident": given["resident"],
        "--architecture": given["architecture"] is not None,
        "--os-version": given["os_version"] is not None,
    }
    for option, is_said in said.items():
        if is_said and option not in _KINDS[kind].options:
            others = " and ".join(other for other, each in _KINDS.items() if option in each.options)
            raise UsageError(f"{option} is for --to {others}; leave it out")
    if kind == "memmap" and any(value not in (None, ()) for name, value in wanted.items() if name != "half"):
        raise UsageError("--to memmap takes --range alone: such maps are of a whole process")


def _half(kind: str, wanted: dict[str, Any], container: Container) -> str:
    """Return which half of the space is needed."""
    half: str | None = wanted["half"]
    return half or ("all" if kind == "memmap" else container.default_range)


def _path(kind: str, output: str | None, words: Sequence[str], wanted: dict[str, Any], *, several: bool) -> str:
    """Return where to write: what was named, or a name after the input's; of several, in the folder that was named."""
    if kind == "memmap":
        return output or "."
    if output is not None and not several:
        return output
    if kind == "flat" and len(wanted["addresses"]) == 1:
        start, end = wanted["addresses"][0]
        single = isinstance(wanted["addresses"][0], OneAddress)
        words = [*words, f"0x{start:x}" if single else f"0x{start:x}-0x{end:x}"]
    return os.path.join(output or "", f"{'.'.join(words)}.{_KINDS[kind].ending}")


def _write(
    kind: str,
    process: ProcessMemory,
    out: str,
    given: dict[str, Any],
    wanted: dict[str, Any],
    taken: Counter[str],
    progress: Progress,
) -> Written | ExportResult:
    from memcarve.sinks import SINKS  # noqa: PLC0415
    from memcarve.sinks.memmap import stem_of as own_stem  # noqa: PLC0415
    from memcarve.sinks.single_file import FileOptions  # noqa: PLC0415

    sink: Any = SINKS[kind]
    if kind == "memmap":
        stem = own_stem(process)
        # of two processes with one number the second is called as Volatility does it
        again = f"-{taken[stem]}" if taken[stem] else ""
        taken[stem] += 1
        how = {"half": wanted["half"] or "all", "renderer": given["renderer"] or "quick", "stem": stem + again}
        memmap: ExportResult = sink(process, out, **how, force=given["force"], progress=progress)
        return memmap
    own: dict[str, Any] = {}
    chosen = selection(wanted)
    if kind == "minidump":
        platform = _platform(process, given["os_version"])
        own = {name: given[name] for name in ("placeholder_thread", "resident", "architecture")}
        own["platform"] = platform
    elif kind == "elfcore":
        own = {"architecture": given["architecture"]}
    elif kind == "flat":
        address = next((bounds for bounds in chosen.address if not isinstance(bounds, OneAddress)), None)
        if address is not None:
            if len(chosen.address) > 1:
                raise UsageError("--to flat writes one range; give one --address A-B")
            chosen = chosen._replace(address=())
        own = {"address": address, "fill": given["fill"] or 0}
    options: FileOptions = FileOptions(
        chosen, labeller(wanted), given["sparse"], given["force"], ["memcarve", *sys.argv[1:]]
    )
    written: Written = sink(process, out, options, **own, progress=progress)
    return written


def _platform(process: ProcessMemory, version: tuple[int, ...] | None) -> Platform | None:
    """Return the system with the version that was given; None where none was."""
    if version is None:
        return None
    if process.platform.system not in (None, "windows"):
        raise UsageError(
            f"--os-version is about Windows, and the process is of {process.platform.system}; leave it out"
        )
    major, minor, build = (*version, None)[:3]
    return process.platform._replace(system="windows", major=major, minor=minor, build=build)


def _report(result: Written | ExportResult, *, quiet: bool, verbose: bool) -> None:
    if quiet:
        return
    say(getattr(result, "notes", ()), quiet=False)
    for left in result.left_out:
        click.echo(f"left out: {counted(left.bytes, 'byte')}: {left.reason}", err=True)
    for way, count in result.moved.items() if verbose else ():
        click.echo(f"moved: {counted(count, 'byte')} by {way}", err=True)
    if not result.complete:
        click.echo("incomplete: bytes are known to be missing", err=True)
    rows = getattr(result, "rows", None)
    if not (result.ranges if rows is None else rows):  # type: ignore[union-attr]
        say(["nothing is selected, or nothing is there: no memory is in what was written"], quiet=False)
    words = [counted(result.ranges, "range") if rows is None else counted(rows, "row")]  # type: ignore[union-attr]
    if result.moved:
        rate = result.bytes / max(result.seconds, 1e-9)
        words.append(f"{amount(result.bytes)} in {result.seconds:.2f} s ({amount(rate)}/s)")
    click.echo(printable(f"{', '.join(words)}: {', '.join(result.files)}"), err=True)
