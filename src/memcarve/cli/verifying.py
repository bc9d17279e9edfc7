"""The command that checks what memcarve wrote."""

from __future__ import annotations

import contextlib
import fnmatch
import os
import re
from typing import TYPE_CHECKING, Any

from memcarve.cli.exit_status import COMPLETE
from memcarve.cli.frame import choose_one, open_input
from memcarve.cli.option_groups import OneProcess
from memcarve.cli.progress_bar import ProgressBar
from memcarve.cli.wording import counted, say, tell
from memcarve.errors import InputError, UsageError, VerificationError
from memcarve.labels import Labelling
from memcarve.labels.modules import find_modules
from memcarve.process import Selection
from memcarve.provenance import address, member
from memcarve.remote.locations import is_location
from memcarve.sinks.verify import document_of, verify as verify_output
from memcarve.sinks.verify.faults import Faults, seal_of
from memcarve.sinks.verify.fetched_objects import fetched
from memcarve.sinks.verify.several_check import check_list, check_part, check_selected, is_several
from memcarve.vocabulary import Half, InputType, PagesFrom, Paging, Search, System, Trust

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from memcarve.backing import Backing
    from memcarve.cli.option_groups import Input, Messages, Source
    from memcarve.process import Container, ProcessEntry, ProcessMemory, Progress
    from memcarve.sinks.sink import Result
    from memcarve.sinks.verify.fetched_objects import Fetched


def verify(file: str, process: OneProcess, compared: Source, source: Input, messages: Messages) -> int:
    """Check one output, or each in a folder of several."""
    if compared.source is None and (process.is_given or source.is_given):
        raise UsageError("--pid, --name and the options for opening need --source")
    seal = None if compared.seal is None else seal_of(compared.seal)
    with contextlib.ExitStack() as stack:
        there = None
        if is_location(file):
            there = stack.enter_context(fetched(file, whole=compared.source is not None, temp=source.temp))
            stack.enter_context(there.messages())
            file = there.path
        verifier = _Verifier(compared.source, process, source, messages, stack, there)
        try:
            if is_several(file):
                verifier.several(file, seal)
            else:
                verifier.one(file, seal)
        except VerificationError as error:
            if len(error.faults) < 2:  # noqa: PLR2004 - one stands in the error's own line
                raise
            for fault in error.faults:
                verifier.tell(f"fault: {fault}", quiet=False)
            told = str(error).removesuffix("; ".join(["", *error.faults]))
            raise VerificationError(told, faults=error.faults) from None
    return COMPLETE


class _Verifier:
    """Checks outputs; the source, if there is one, is opened once for all that were opened alike."""

    def __init__(
        self,
        path: str | None,
        process: OneProcess,
        source: Input,
        messages: Messages,
        stack: contextlib.ExitStack,
        there: Fetched | None = None,
    ) -> None:
        self.there = there
        self.path = path
        self.process = process
        self.source = source
        self.messages = messages
        self.stack = stack
        self.how: dict[str, Any] = {}
        self.container: Container | None = None

    def tell(self, text: str, *, quiet: bool) -> None:
        """Print a line, in which what lies in a bucket is called as it is there."""
        tell(text if self.there is None else self.there.told(text), quiet=quiet)

    def say(self, notes: Iterable[str]) -> None:
        """Print notes, in the same way."""
        told = str if self.there is None else self.there.told
        say([told(note) for note in notes], quiet=self.messages.quiet)

    def one(
        self, path: str, seal: str | None = None, row: dict[str, Any] | None = None
    ) -> tuple[Result, dict[str, Any]]:
        """Check one output, of several that of a `row`; return what was found, and its document."""
        memory = None
        header: dict[str, Any] = {} if self.path is None and row is None else document_of(path)
        if self.path is not None:
            known = header or ({} if row is None else {"process": row, "looked_at": "all"})  # a map has no document
            memory = _recorded_process(self.opened(header), known, self.process)
            say(memory.notes if self.messages.verbose else [], quiet=self.messages.quiet)
        with ProgressBar("verifying", self.messages) as progress:
            contents = None if self.there is None else self.there.contents
            found = _checked(path, memory, _selection(header), seal, self.source.temp, progress, contents)
        self.say(found.notes)
        self.tell(_verified(found), quiet=self.messages.quiet)
        return found, header

    def opened(self, header: dict[str, Any]) -> Container:
        """Return the source, opened as it was for what was written."""
        how = {**_as_recorded(header, self.source), "hashed": True}
        if self.container is None or self.how != how:
            self.how = how
            self.container = self.stack.enter_context(open_input(str(self.path), how, self.messages))
        return self.container

    def is_wanted(self, row: dict[str, Any]) -> bool:
        """Return True if a process that is listed is one of those that were named, or none was."""
        pattern = self.process.name
        named = pattern is None or fnmatch.fnmatchcase(str(row.get("name") or "").lower(), pattern.lower())
        return named and (not self.process.pid or row.get("pid") in self.process.pid)

    def several(self, top: str, seal: str | None) -> None:
        """Check a folder of several: the list, and each that is listed."""
        faults = Faults(top)
        listed = check_list(top, faults, seal)
        for row in sorted(listed.rows, key=lambda row: [*row["files"]]):
            if not self.is_wanted(row):
                continue
            if not row["files"]:
                self.say([f"{top}: process {row.get('pid')} was not written: {row.get('error')}"])
                continue
            path = os.path.join(top, row["files"][0])
            try:
                found, header = self.one(path, row=row)
            except VerificationError as error:
                faults.add_all(error.faults or [str(error)], f"{row['files'][0]}: ")
            except InputError as error:
                faults.add(str(error))
            else:
                faults.add_all(check_part(row, header, found), f"{row['files'][0]}: ")
        if self.container is not None and not self.process.is_given:
            self.say(check_selected(listed, self.container, faults))
        faults.check()
        if self.process.is_given:
            return
        self.tell(f"{top}: {counted(len(listed.rows), 'process')}, all well", quiet=self.messages.quiet)


def _selection(header: dict[str, Any]) -> Selection | None:
    """Return what was chosen, as far as it is recorded."""
    try:
        return Selection.of_facts(member(header, "choice"))
    except (ValueError, TypeError, KeyError, UsageError):
        return None


def _checked(
    path: str,
    memory: ProcessMemory | None,
    wanted: Selection | None,
    seal: str | None,
    temp: str | None,
    progress: Progress,
    contents: Callable[[str], Backing] | None,
) -> Result:
    """Check what lies at a path, against the source without what of that cannot be read."""

    def check(source: ProcessMemory | None) -> Result:
        return verify_output(
            path,
            source,
            seal=seal,
            labelling=Labelling,
            find=find_modules,
            temp=temp,
            progress=progress,
            contents=contents,
        )

    return check(None) if memory is None else memory.past_unreadable(check, wanted)


def _as_recorded(header: dict[str, Any], source: Input) -> dict[str, Any]:
    """Return how to open the source: as for the carve, unless options say otherwise."""
    opening = vars(source)
    inputs = header.get("inputs")
    used: dict[str, Any] = inputs if isinstance(inputs, dict) else {}
    if not source.is_given:
        said = [each.get("input_type") for each in used.values() if isinstance(each, dict)]
        opening = {**opening, "input_type": next((word for word in said if word in [*InputType]), None)}
    memory_map, image = used.get("map"), used.get("image")
    if isinstance(image, dict):
        given = {**opening, "search": opening["search"] or (Search.LISTS if image.get("search") == "lists" else None)}
        root = str(image.get("root"))
        if given["dtb"] is None and image.get("dtb") is True and re.fullmatch("0x[0-9a-f]{1,16}", root):
            told_root = address(member(header, "process").get("root"))  # with the flags that were given
            known = told_root is not None and told_root & ~0xFFF == int(root, 16) & ~0xFFF
            given["dtb"] = told_root if known else int(root, 16)
        if given["pages_from"] is None and not source.is_given:
            # what was written before this was recorded was read from page tables alone
            told_files = used.get("page_files")
            given["pages_from"] = PagesFrom.ALL if image.get("pages_from") == PagesFrom.ALL else PagesFrom.RAM
            given["demand_zero"] = image.get("demand_zero") is True
            rows = told_files if isinstance(told_files, list) else []
            given["page_files"] = _page_files(rows)
            if given["page_files"] and any(row.get("doubt") for row in rows if isinstance(row, dict)):
                given["trust"] = Trust.PAGE_FILES
        for name, key, words in (("system", "os", System), ("paging", "paging", Paging)):
            told = name == "paging" or str(image.get("system")).endswith("as given")  # else it is recognised again
            if given["dtb"] is not None and given[name] is None and told and image.get(key) in [*words]:
                given[name] = image[key]
        return given
    trusted = [memory_map.get("trusted") if isinstance(memory_map, dict) else None, header.get("positions")]
    believed = next((value for value in trusted if value in ("printed", "sum")), None)
    return {**opening, "trust": opening["trust"] or believed}


def _page_files(told: list[Any]) -> tuple[str, ...]:
    """Return the page files that were used, with their numbers, as far as they are recorded."""
    rows = [(row.get("number"), row.get("path")) for row in told if isinstance(row, dict)]
    return tuple(f"{number}={path}" for number, path in rows if type(number) is int and isinstance(path, str))


def _recorded_process(container: Container, header: dict[str, Any], said: OneProcess) -> ProcessMemory:
    """Open the process that a folder was carved from, unless options choose another; ids may have been reused."""
    found = header.get("process")
    recorded: dict[str, Any] = found if isinstance(found, dict) else {}
    number = recorded.get("pid")
    half = _looked_at(container, header)
    if said.is_given or type(number) is not int:
        return container.process(index=choose_one(container, said), half=half)
    entries = container.known([number])
    same = [index for index, entry in enumerate(entries) if entry.pid == number]
    if recorded.get("object") is not None and not any(_is_recorded(entries[index], recorded) for index in same):
        entries = container.processes()
    exactly = [index for index, entry in enumerate(entries) if _is_recorded(entry, recorded)]
    if exactly:
        return container.process(index=exactly[0], half=half)
    index = choose_one(container, OneProcess(pid=[number] if len(entries) > 1 else [], name=None))
    return container.process(index=index, half=half)


def _looked_at(container: Container, header: dict[str, Any]) -> str:
    """Return which half of the memory was looked at; documents of schema 1 do not say it of images."""
    said = header.get("looked_at") if header else "all"  # a map has no document
    if said in [*Half]:
        return str(said)
    rows = header.get("left_out")
    reasons = [row.get("reason") for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
    return "all" if "outside --range user" in reasons else container.default_half


def _is_recorded(entry: ProcessEntry, recorded: dict[str, Any]) -> bool:
    facts = entry.facts()
    same = entry.pid == recorded.get("pid")
    return same and bool(facts) and all(facts[name] == recorded.get(name) for name in ("object", "root"))


def _verified(found: Result) -> str:
    by = f"hashes {', '.join(found.hashes)}" if found.hashes else "no hashes recorded"
    also = (
        ", every byte compared with the source" if found.compared else "" if found.hashes else ": names and sizes only"
    )
    return f"{found.path}: {counted(found.count, found.what)}, {counted(found.bytes, 'byte')}, all well ({by}{also})"
