"""The command that lists processes."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from memcarve.cli.exit_status import COMPLETE, INCOMPLETE
from memcarve.cli.frame import open_input
from memcarve.cli.printed_tables import print_table
from memcarve.cli.wording import complain, counted, say, tell
from memcarve.errors import InputError, UsageError
from memcarve.formats.tables.table_cells import Column
from memcarve.process import Unix
from memcarve.vocabulary import InputType, Search

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from memcarve.cli.option_groups import Input, Messages, Printing, ProcessList
    from memcarve.formats.tables.table_cells import Cell
    from memcarve.process import Container, ProcessEntry

_JSON = ("json", "jsonl")
#: columns that a table leaves out if it has command lines
_LEFT_OUT = ("exited", "root", "image_base", "peb", "wow64")
#: where pages are that page tables do not lead to
_PLACES = ("shared", "compressed", "in_pagefile", "in_file", "never_touched", "unknown")
_LONGEST = 120  # characters of a command line in it
_SHORT = 12  # characters of a container's identifier in it


def processes(file: str, wanted: ProcessList, source: Input, printing: Printing, messages: Messages) -> int:
    """Print a row for each process, or for each plausible page-table root."""
    layout, pages, environment = printing.layout, wanted.pages, wanted.environment
    if environment and layout not in _JSON:
        raise UsageError("an environment has no place in a table", remedy="print it with --format json or jsonl")
    details = wanted.details or environment
    if wanted.scan:
        return _scan(file, source, wanted, layout, messages)
    if wanted.half is not None:
        raise UsageError("--range narrows --scan", remedy="give both, or leave it out")
    if wanted.listed and source.search == Search.ALL:
        raise UsageError("--listed and --search all contradict each other", remedy="give one or the other")
    how = {**vars(source), "search": Search.LISTS if wanted.listed else source.search}
    with open_input(file, how, messages) as container:
        entries = container.processes()
        unix = any(entry.unix is not None for entry in entries)
        asked, details = details, details or unix
        columns = _unix_columns(entries, layout) if unix else _columns(entries, layout)
        counts = [_page_counts(container, index) for index in range(len(entries))] if pages else []
        told = [_told(container, index, environment=environment) for index in range(len(entries))] if details else []
        if layout == "table":
            counts = [None if count is None else _summed(count) for count in counts]
        # a doubtful process need not have page tables
        certain = [index for index, entry in enumerate(entries) if not entry.doubts]
        failed = any((pages and counts[index] is None) or (details and told[index] is None) for index in certain)
        kinds = list(dict.fromkeys(kind for count in counts for kind in count or {}))
        more = _detail_columns(layout, unix=unix, asked=asked) if details else []

        def row(index: int) -> list[Cell]:
            cells = [_cell(column.name, entries[index], layout) for column in columns]
            cells += [(counts[index] or {}).get(kind) for kind in kinds] if pages else []
            return cells + [_detail(column, told[index] or {}, layout) for column in more]

        shown = [*columns, *(Column(kind, "number") for kind in kinds), *more]
        rows: Iterable[list[Cell]] = map(row, range(len(entries)))
        if details and layout == "table":
            shown, rows = _narrowed(shown, rows)
        print_table(layout, "processes", shown, rows)
        sys.stdout.flush()
        say(container.notes if messages.verbose else container.warnings, quiet=messages.quiet)
        tell(counted(len(entries), "process"), quiet=messages.quiet)
        return INCOMPLETE if failed or container.unreadable else COMPLETE


def _columns(entries: Sequence[ProcessEntry], layout: str) -> list[Column]:
    """Return the columns of a list of processes: more of an image."""
    columns = [Column("pid", "number"), Column("name", "text")]
    if any(entry.root is not None for entry in entries):
        columns += [Column("parent", "number"), Column("created", "time"), Column("exited", "time")]
        columns += [Column("root", "address"), Column("image_base", "address"), Column("peb", "address")]
        columns += [Column("wow64", "flag"), Column("state", "text")]
        if layout != "table" or any(entry.doubts for entry in entries):
            columns.append(Column("doubts", "words"))
    return columns


def _unix_columns(entries: Sequence[ProcessEntry], layout: str) -> list[Column]:
    """Return the columns of a list of a Unix system's processes: in a table those that say something and fit."""
    columns = [Column("pid", "number"), Column("name", "text"), Column("parent", "number"), Column("uid", "number")]
    if layout != "table":
        columns += [Column("gid", "number"), Column("created", "time"), Column("root", "address")]
        columns += [Column("state", "text"), Column("namespace_pid", "number"), Column("kernel_thread", "flag")]
        columns += [Column("container", "text"), Column("found", "text"), Column("exit_code", "number")]
        return [*columns, Column("object", "address"), Column("doubts", "words")]
    columns += [Column("created", "time"), Column("state", "text")]
    known = [(entry, entry.unix) for entry in entries if entry.unix is not None]
    if any(unix.namespace_pid not in (None, entry.pid) for entry, unix in known):
        columns.append(Column("namespace_pid", "number"))
    if any(unix.container is not None for _, unix in known):
        columns.append(Column("container", "text"))
    return columns + ([Column("doubts", "words")] if any(entry.doubts for entry in entries) else [])


def _cell(name: str, entry: ProcessEntry, layout: str) -> Cell:
    """Return what a column shows of a process."""
    found: Cell = getattr(entry.unix, name, None) if name in Unix._fields else getattr(entry, name)
    if name == "doubts":
        return list(entry.doubts)
    if layout != "table":
        return found
    if name == "container" and isinstance(found, str):
        return found[:_SHORT]
    return None if name == "namespace_pid" and found == entry.pid else found


def _page_counts(container: Container, index: int) -> dict[str, int] | None:
    """Return the number of 4 KiB pages of each kind (none of a dump); None if the page tables cannot be walked."""
    if not container.entry(index).has_memory:
        return {}
    try:
        return container.process(index=index, half=container.default_half).pages or {}
    except InputError as error:
        complain(error)
        return None


def _summed(count: dict[str, int]) -> dict[str, int]:
    """Return pages by where they are, if that was found out; else by what page tables say."""
    if "shared" not in count:
        return count
    in_ram = sum(count.get(kind, 0) for kind in ("present", "transition"))
    return {"in_ram": in_ram, **{kind: count[kind] for kind in _PLACES}, "lost_tables": count["lost_tables"]}


def _told(container: Container, index: int, *, environment: bool) -> dict[str, Any] | None:
    """Return what a process says about itself, ready for JSON; None if it cannot be opened."""
    try:
        return container.start_of(index).told(environment=environment)
    except InputError as error:
        complain(error)
        return None


def _narrowed(columns: list[Column], rows: Iterable[list[Cell]]) -> tuple[list[Column], Iterable[list[Cell]]]:
    """Return a table without some of its columns: with command lines it is wide enough."""
    kept = [place for place, column in enumerate(columns) if column.name not in _LEFT_OUT]
    return [columns[place] for place in kept], ([cells[place] for place in kept] for cells in rows)


def _detail_columns(layout: str, *, unix: bool, asked: bool) -> list[Column]:
    """Return the columns of what processes say of themselves; of a Unix system a part of it is there unasked."""
    if layout == "table":
        return [Column("image_path", "text")] * (unix and asked) + [Column("command_line", "text")]
    texts = [Column(name, "text") for name in ("command_line", "image_path", "current_directory")]
    if layout in _JSON:
        return [*texts, Column("parameters", "record"), *([] if unix else [Column("unloaded", "record")])]
    return texts if unix else [*texts, Column("unloaded", "words")]


def _detail(column: Column, told: dict[str, Any], layout: str) -> Cell:
    found: Cell = told.get(column.name)
    if layout == "table" and isinstance(found, str) and len(found) > _LONGEST:
        return f"{found[: _LONGEST - 3]}..."
    if column.kind == "words" and isinstance(found, list):  # the names of unloaded modules
        return [str(row["name"] or row["base"]) for row in found if isinstance(row, dict)]
    return found


def _scan(file: str, source: Input, wanted: ProcessList, layout: str, messages: Messages) -> int:
    if wanted.listed or wanted.details or wanted.environment:
        word = "--listed" if wanted.listed else "--details"
        raise UsageError(f"--scan lists page-table roots, {word} processes", remedy="give one or the other")
    how = {**vars(source), "input_type": source.input_type or InputType.IMAGE}
    with open_input(file, how, messages) as container:
        roots = container.roots(wanted.half or "all")
        columns = [Column("root", "address"), Column("paging", "text"), Column("user_bytes", "number")]
        columns += [Column("kernel_bytes", "number"), Column("self_map", "number")]
        if layout != "table" or any(root.user_copy is not None for root in roots):
            columns += [Column("user_copy", "address")]
        print_table(layout, "roots", columns, (root[: len(columns)] for root in roots))
        sys.stdout.flush()
        say(container.warnings, quiet=messages.quiet)
    use = "; use one with --dtb" if roots else ""
    tell(f"{counted(len(roots), 'plausible page-table root')}{use}", quiet=messages.quiet)
    return INCOMPLETE if container.unreadable else COMPLETE
