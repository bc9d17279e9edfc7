"""The commands that write and check carved folders."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from typing import TYPE_CHECKING, Any

import click

from memcarve.cli.listing import content_option
from memcarve.cli.options import (
    COMPLETE,
    INCOMPLETE,
    choose,
    choose_one,
    file_argument,
    filter_options,
    input_options,
    process_options,
    process_words,
    quiet_options,
    say,
    selection,
    split_option,
    stem_of,
)
from memcarve.cli.progress import ProgressBar, amount, counted
from memcarve.cli.wording import complain
from memcarve.errors import UsageError, printable
from memcarve.vocabulary import InputType

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memcarve.process import Container, ProcessEntry, ProcessMemory
    from memcarve.sinks.carved_folder import CarveResult
    from memcarve.sinks.several import Outcome
    from memcarve.sinks.verify import Verified

_HASHES = ("sha256", "sha1", "md5", "none")


def _hash_names(text: str) -> list[str]:
    names = text.split(",")
    unknown = [name for name in names if name not in _HASHES]
    if unknown:
        raise click.BadParameter(f"{unknown[0]!r} is none of {', '.join(_HASHES)}")
    return names


@click.command()
@file_argument
@click.option("-o", "--output", metavar="DIR", type=click.Path(), help="The folder to write.  [default: STEM.segments]")
@click.option("--force", is_flag=True, help="Replace the folder if memcarve wrote it, once the new one is whole.")
@process_options
@click.option("--all", "everything", is_flag=True, help="Every process, one folder each; none that is doubtful.")
@filter_options
@split_option
@click.option("--skip-zero", is_flag=True, help="Leave out segments that are zero throughout.")
@click.option("--partial", is_flag=True, help="Of a dump that ends too early, carve what is there.")
@click.option("--sparse", is_flag=True, help="Write pages of zeros as holes.")
@click.option(
    "--hash",
    "hashes",
    type=_hash_names,
    metavar="|".join(_HASHES),
    multiple=True,
    help="Checksums of the segments; may be repeated.  [default: sha256]",
)
@content_option
@click.option(
    "--label-names", is_flag=True, help="Name files by protection and module, too: 0x...-0x....r-x.ntdll.dll.bin"
)
@click.option("--environment", is_flag=True, help="Put the process's environment into segments.json, if it is known.")
@click.option("--hash-input", is_flag=True, help="Take the SHA-256 of the dump or image, too.")
@input_options
@quiet_options
def carve(
    file: str,
    output: str | None,
    pid: Sequence[int],
    name: str | None,
    wanted: dict[str, Any],
    split: str,
    content: str | None,
    opening: dict[str, Any],
    hashes: Sequence[Sequence[str]],
    **flags: bool,
) -> int:
    """Write each contiguous stretch of virtual memory into a file named by its addresses.

    The folder also holds segments.json, which tells where every byte came from, and SHA256SUMS for sha256sum -c. It
    gets its name when it is whole.
    """
    from memcarve.labels import Labelling  # noqa: PLC0415
    from memcarve.sinks.carved_folder import Options, carve  # noqa: PLC0415 - numpy is not needed for --help
    from memcarve.sinks.several import carve_several  # noqa: PLC0415
    from memcarve.sources import open_container  # noqa: PLC0415

    quiet = flags["quiet"]
    names = list(dict.fromkeys(name for group in hashes for name in group)) or ["sha256"]
    if "none" in names and len(names) > 1:
        raise UsageError("--hash none leaves no room for another hash")
    hashed = [name for name in names if name != "none"]
    options = Options(
        hashes=hashed,
        selection=selection(wanted),
        split=split,
        labeller=Labelling(content or ("headers" if hashed else "none")),
        label_names=flags["label_names"],
        skip_zero=flags["skip_zero"],
        partial=flags["partial"],
        sparse=flags["sparse"],
        force=flags["force"],
        hash_input=flags["hash_input"],
        environment=flags["environment"],
        command=["memcarve", *sys.argv[1:]],
    )
    with open_container(file, hashed=True, **opening) as container:
        indexes = choose(container, pid, name, everything=flags["everything"])
        stem = stem_of(opening["dump"] or file)
        if len(indexes) > 1 or (flags["everything"] and len(container.processes()) > 1):
            out = output or f"{stem}.segments"
            with ProgressBar("carving", quiet=quiet) as progress:
                several = carve_several(container, indexes, out, options, progress=progress)
            say([*container.remarks, *several.notes], quiet=quiet)
            return _report_several(out, several.outcomes, quiet=quiet, verbose=flags["verbose"])
        process = container.open_process(indexes[0], wanted["half"] or container.default_range)
        say(process.notes, quiet=quiet)
        out = output or f"{'.'.join([stem, *process_words(process, indexes[0])])}.segments"
        with ProgressBar("carving", quiet=quiet) as progress:
            result = carve(process, out, options, progress=progress)
    _report(result, quiet=quiet, verbose=flags["verbose"])
    return COMPLETE if result.complete else INCOMPLETE


def _summary(result: CarveResult) -> str:
    if not result.bytes:
        return f"{counted(result.segments, 'segment')}, nothing to write: {result.path}"
    rate = result.bytes / max(result.seconds, 1e-9)
    how = " and ".join(sorted(result.moved, key=lambda way: -result.moved[way]))
    return (
        f"{counted(result.segments, 'segment')}, {amount(result.bytes)} in {result.seconds:.2f} s ({amount(rate)}/s), "
        f"by {how}: {result.path}"
    )


def _report(result: CarveResult, *, quiet: bool, verbose: bool) -> None:
    if quiet:
        return
    say(result.notes, quiet=False)
    for left in result.left_out if verbose else [left for left in result.left_out if left.bytes]:
        where = f" in {counted(left.segments, 'segment')}" if left.segments else ""
        click.echo(f"left out: {counted(left.bytes, 'byte')}{where}: {left.reason}", err=True)
    if not result.complete:
        click.echo("incomplete: bytes are known to be missing; segments.json lists them", err=True)
    for way, count in result.moved.items() if verbose else ():
        click.echo(f"moved: {counted(count, 'byte')} by {way}", err=True)
    click.echo(printable(_summary(result)), err=True)


def _report_several(out: str, outcomes: Sequence[Outcome], *, quiet: bool, verbose: bool) -> int:
    done = [outcome.result for outcome in outcomes if outcome.result is not None]
    for outcome in outcomes:
        if outcome.error is not None:
            complain(outcome.error, outcome.entry)
        elif outcome.result is not None and not quiet:
            click.echo(printable(f"{outcome.entry}:"), err=True)
            _report(outcome.result._replace(path=os.path.join(out, outcome.folder)), quiet=quiet, verbose=verbose)
    if not quiet:
        click.echo(printable(f"{len(done)} of {len(outcomes)} processes: {out}"), err=True)
    return COMPLETE if len(done) == len(outcomes) and all(result.complete for result in done) else INCOMPLETE


def _as_recorded(header: dict[str, Any], opening: dict[str, Any]) -> dict[str, Any]:
    """Return how to open the source: as it was opened for the carve, where nothing else is said now."""
    inputs = header.get("inputs")
    used: dict[str, Any] = inputs if isinstance(inputs, dict) else {}
    if all(value in (None, ()) for value in opening.values()):
        said = [each.get("input_type") for each in used.values() if isinstance(each, dict)]
        opening = {**opening, "input_type": next((word for word in said if word in [*InputType]), None)}
    memory_map, image = used.get("map"), used.get("image")
    if isinstance(image, dict):
        given = {**opening}
        root = str(image.get("root"))
        if given["dtb"] is None and image.get("dtb") is True and re.fullmatch("0x[0-9a-f]{1,16}", root):
            given["dtb"] = int(root, 16)
        for name, member in (("system", "os"), ("paging", "paging")):
            if given["dtb"] is not None and given[name] is None and isinstance(image.get(member), str):
                given[name] = image[member]
        return given
    trusted = [memory_map.get("trusted") if isinstance(memory_map, dict) else None, header.get("positions")]
    believed = next((value for value in trusted if value in ("printed", "sum")), None)
    return {**opening, "trust": opening["trust"] or believed}


@click.command()
@click.argument("folder", type=click.Path())
@click.option(
    "--source", metavar="FILE", type=click.Path(), help="Compare every byte with this image, or dump (or its map)."
)
@process_options
@input_options
@quiet_options
def verify(
    folder: str,
    source: str | None,
    pid: Sequence[int],
    name: str | None,
    opening: dict[str, Any],
    *,
    quiet: bool,
    verbose: bool,
) -> int:
    """Check a carved folder: every file's name, size and hash, the totals, and that nothing else lies there.

    Exit status 0 only if all of it holds.
    """
    from memcarve.sinks.several import carved_folders  # noqa: PLC0415
    from memcarve.sinks.verify import read_header, verify  # noqa: PLC0415 - numpy is not needed for --help
    from memcarve.sources import open_container  # noqa: PLC0415

    if source is None and (pid or name or any(value not in (None, ()) for value in opening.values())):
        raise UsageError("--pid, --name and how to open an input go with --source")
    opened: dict[str, Any] = {}
    with contextlib.ExitStack() as stack:
        for path in carved_folders(folder):
            process = None
            if source is not None:
                header = read_header(path)
                how = _as_recorded(header, opening)
                if opened.get("how") != how:  # the folders of one image are all of that image
                    opened = {"how": how, "container": stack.enter_context(open_container(source, **how))}
                process = _recorded_process(opened["container"], header, pid, name)
                say(process.notes if verbose else [], quiet=quiet)
            with ProgressBar("verifying", quiet=quiet) as progress:
                found = verify(path, process, progress=progress)
            if not quiet:
                click.echo(printable(_verified(path, found)), err=True)
    return COMPLETE


def _recorded_process(
    container: Container, header: dict[str, Any], pid: Sequence[int], name: str | None
) -> ProcessMemory:
    """Open the process that a folder was carved from, if nothing else is said; numbers may have been used twice."""
    found = header.get("process")
    recorded: dict[str, Any] = found if isinstance(found, dict) else {}
    number = recorded.get("pid")
    if pid or name is not None or type(number) is not int:
        return container.open_process(choose_one(container, pid, name))
    entries = container.known([number])
    same = [index for index, entry in enumerate(entries) if entry.pid == number]
    if recorded.get("object") is not None and not any(_is_recorded(entries[index], recorded) for index in same):
        entries = container.processes()
    exactly = [index for index, entry in enumerate(entries) if _is_recorded(entry, recorded)]
    if exactly:
        return container.open_process(exactly[0])
    return container.open_process(choose_one(container, [number] if len(entries) > 1 else [], None))


def _is_recorded(entry: ProcessEntry, recorded: dict[str, Any]) -> bool:
    facts = entry.facts()
    same = entry.pid == recorded.get("pid")
    return same and bool(facts) and all(facts[name] == recorded.get(name) for name in ("object", "root"))


def _verified(path: str, found: Verified) -> str:
    by = f"hashes {', '.join(found.hashes)}" if found.hashes else "no hashes recorded: names and sizes only"
    also = ", every byte compared with the source" if found.against_source else ""
    return f"{path}: {counted(found.segments, 'segment')}, {counted(found.bytes, 'byte')}, all well ({by}{also})"
