"""What is done with memcarve: of one input or one of its processes (a unit), and of all units at the end."""

from __future__ import annotations

import itertools
import json
import os
import shutil
from typing import TYPE_CHECKING, Any

import memcarve
from memcarve.errors import MemcarveError, printable
from memcarve.hashing import hash_of
from openrelik_worker_memcarve import naming
from openrelik_worker_memcarve.archives import pack
from openrelik_worker_memcarve.failure import TaskFailed
from openrelik_worker_memcarve.joining import joined
from openrelik_worker_memcarve.opening import chosen, identity_of, is_same, opened
from openrelik_worker_memcarve.reports import report_of
from openrelik_worker_memcarve.rules import rules_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from memcarve.process import Container, ProcessEntry, ProcessMemory
    from memcarve.sinks.sink import Result, SinkOptions

    Progress = Callable[[int, int], object]
    Job = dict[str, Any]
    #: writes a process to a path
    One = Callable[[ProcessMemory, str, SinkOptions, Progress], Result]

UNIT = "unit.json"
_SCHEMA = 1
_ENDINGS = {"minidump": ".mdmp", "elfcore": ".core", "scripts": "", "memmap": ".dmp"}
_MOST_HITS = 100_000
_NOTES = 50
_HITS_TOLD = 1000  # in the report, at most


def plan(job: Job, progress: Progress) -> dict[str, Any]:
    """Return the processes of an image that are to be worked on, each by itself; none if it is better done at once.

    What is compressed is better done at once: every process of ours would have to decode it. If a hash of the input is
    wanted, it is taken here, once.
    """
    with opened(job, progress) as container:
        stored = container.stored
        if stored is None or "compression" in stored.described:
            return {"processes": []}
        indexes = chosen(container, job["wanted"])
        entries = [(index, container.entry(index)) for index in indexes]
        of_all = {"sha256": hash_of(stored) if job["wanted"].get("hash_input") else None}
        return {
            "processes": [
                of_all
                | {"index": index, "known": identity_of(entry), "row": {"pid": entry.pid, "name": _row(entry)["name"]}}
                for index, entry in entries
            ]
        }


def unit(job: Job, progress: Progress) -> dict[str, Any]:
    """Do what is asked of one input, or of one process in it, and write down how that ended."""
    found: dict[str, Any] = {"input": job["input"], "error": None, "notes": [], "processes": [], "files": []}
    os.makedirs(os.path.join(job["folder"], "out"), exist_ok=True)
    try:
        with opened(job, progress) as container:
            indexes = _indexes(container, job)
            _TASKS[job["task"]](container, indexes, job, found, progress)
            found["notes"] = _notes(container.warnings)
    except (MemcarveError, TaskFailed, OSError) as error:
        words = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) else str(error)
        found["error"] = printable(words.replace(os.path.join(job["folder"], "in") + os.sep, ""))
    with open(os.path.join(job["folder"], UNIT), "w", encoding="utf-8") as file:
        json.dump(found, file)
    return {"error": found["error"]}


def whole(job: Job, progress: Progress) -> dict[str, Any]:
    """Do the one unit of a task, and finish the task."""
    folder = os.path.join(job["folder"], "unit")
    os.mkdir(folder, 0o700)
    unit({**job, "folder": folder}, progress)
    return finish({**job, "units": [{"input": job["input"], "folder": folder}]}, progress)


def _indexes(container: Container, job: Job) -> list[int]:
    if job.get("index") is None:
        return chosen(container, job["wanted"])
    if not is_same(container, job["index"], job["known"]):
        raise TaskFailed("the input is not what it was when its processes were listed")
    return [job["index"]]


def _notes(notes: Sequence[str]) -> list[str]:
    return [printable(str(note)) for note in notes][:_NOTES]


# of one unit


def _processes(container: Container, indexes: list[int], job: Job, found: Job, progress: Progress) -> None:  # noqa: ARG001
    everything = not str(job["wanted"].get("processes") or "").strip()
    entries = container.processes()
    for index in range(len(entries)) if everything else indexes:
        row = _row(entries[index])
        if job["wanted"].get("command_lines") and not entries[index].doubts and entries[index].has_memory:
            try:
                row.update(container.start_of(index).told(environment=False))
            except MemcarveError as error:
                row["error"] = printable(str(error))
        found["processes"].append(row)


def _row(entry: ProcessEntry) -> dict[str, Any]:
    facts = {"pid": entry.pid, "name": entry.name, **entry.facts()}
    return {key: naming.text(value) if isinstance(value, str) else value for key, value in facts.items()}


def _write(
    container: Container, indexes: list[int], job: Job, found: Job, progress: Progress, one: One, **more: bool
) -> Result:
    """Write processes into the unit's folder, and note how each ended."""
    wanted = job["wanted"]
    options = memcarve.SinkOptions(
        command=["openrelik-worker-memcarve", job["task"]],
        case_id=wanted.get("case_id") or None,
        hash_input=bool(wanted.get("hash_input")) and job.get("sha256") is None,
        input_sha256=job.get("sha256"),
        **more,
    )
    out = os.path.join(job["folder"], "out", "all")

    def past(process: ProcessMemory, path: str, options: SinkOptions, told: Progress) -> Result:
        return process.past_unreadable(lambda there: one(there, path, options, told))

    named = {}
    if job["task"] == "export":
        ending = _ENDINGS[wanted["type"]]
        from memcarve.sinks.several import folder_name  # noqa: PLC0415 - one task needs it

        named = {"named": lambda *entry: folder_name(*entry) + ending}
    half = wanted.get("range") or None
    result = memcarve.write_several(container, indexes, out, past, options, half=half, progress=progress, **named)
    for part in result.parts:
        assert part.entry is not None  # noqa: S101 - of several
        row = _row(part.entry)
        row |= {
            "error": None if part.error is None else printable(str(part.error)),
            "what": part.what,
            "count": part.count,
            "bytes": part.bytes,
            "missing_bytes": part.missing_bytes,
            "complete": part.complete,
            "notes": _notes(part.notes),
            "outputs": [os.path.basename(file) for file in part.files],
        }
        found["processes"].append(row)
    return result


def _pack(result: Result, job: Job, found: Job) -> None:
    """Pack each process's folder, unless all are to be in one archive."""
    if job["wanted"].get("archive") == "all":
        return
    compressed = bool(job["wanted"].get("compress"))
    ending = ".tar.gz" if compressed else ".tar"
    for row, part in zip(found["processes"], result.parts, strict=True):
        for folder in part.files:
            name = os.path.basename(folder)
            path = os.path.join(job["folder"], "out", name + ending)
            pack(path, [(folder, name)], compressed=compressed, remove=True)
            found["files"].append({"path": path, "name": name + ending, "type": f"{job['task']}:archive"})
            row["outputs"] = [name + ending]


def _carve(container: Container, indexes: list[int], job: Job, found: Job, progress: Progress) -> None:
    labelling = memcarve.Labelling("headers")

    def one(process: ProcessMemory, out: str, options: SinkOptions, told: Progress) -> Result:
        return memcarve.carve(process, process.segments(labeller=labelling), out, options, told)

    _pack(_write(container, indexes, job, found, progress, one), job, found)


def _extract(container: Container, indexes: list[int], job: Job, found: Job, progress: Progress) -> None:
    files = tuple(str(job["wanted"].get("files") or "").replace(",", " ").split())

    def one(process: ProcessMemory, out: str, options: SinkOptions, told: Progress) -> Result:
        wanted = memcarve.Selection(half=job["wanted"].get("range") or None, file=files)
        modules = memcarve.find_modules(process, wanted, progress=told).modules
        return memcarve.extract(process, modules, out, options, told, choice=wanted)

    _pack(_write(container, indexes, job, found, progress, one), job, found)


def _export(container: Container, indexes: list[int], job: Job, found: Job, progress: Progress) -> None:
    kind = job["wanted"]["type"]
    more = {"placeholder_thread": True} if kind == "minidump" else {}

    def one(process: ProcessMemory, out: str, options: SinkOptions, told: Progress) -> Result:
        return memcarve.export(process, process.segments(), out, kind, options, told)

    result = _write(container, indexes, job, found, progress, one, **more)
    if kind == "scripts":
        _pack(result, job, found)
        return
    for file in [file for part in result.parts for file in part.files]:
        found["files"].append({"path": file, "name": os.path.basename(file), "type": f"export:{kind}"})


def _hunt(container: Container, indexes: list[int], job: Job, found: Job, progress: Progress) -> None:
    everything = not str(job["wanted"].get("processes") or "").strip()
    hunt = memcarve.hunt(
        container,
        None if everything else indexes,
        severity=job["wanted"].get("severity") or "low",
        progress=progress,
    )
    found["findings"] = [finding.facts() for finding in hunt]
    failed = dict(hunt.failed)
    entries = container.processes()
    for index in range(len(entries)) if everything else indexes:
        entry = entries[index]
        if not entry.doubts:
            error = failed.get(entry)
            found["processes"].append({**_row(entry), "error": None if error is None else printable(str(error))})
    found["findings_notes"] = _notes(hunt.notes)


def _scan(container: Container, indexes: list[int], job: Job, found: Job, progress: Progress) -> None:
    rules = rules_of(job["rules"], str(job["wanted"].get("rules") or ""), str(job["wanted"].get("rules_path") or ""))
    by = job["wanted"].get("by") or "segment"
    parts, rows = [], []
    for index in indexes:
        row = {**_row(container.entry(index)), "error": None, "count": 0}
        rows.append(row)
        try:
            process = container.process(index=index, half=job["wanted"].get("range") or container.default_half)
            segments = process.segments(split="region" if by == "region" else "none")
        except MemcarveError as error:
            row["error"] = printable(str(error))
            continue
        row["bytes"] = segments.total
        parts.append((row, process.space, segments))
    found["processes"] = rows
    scans = memcarve.Scans([part[1:] for part in parts], rules, by=by, progress=progress)
    path = os.path.join(job["folder"], "out", "hits.jsonl")
    with open(path, "w", encoding="utf-8") as file:
        for hit in itertools.islice(scans, _MOST_HITS):
            row = parts[hit.part][0]
            row["count"] += 1
            said = {
                "rule": hit.rule,
                "namespace": hit.namespace,
                "pattern": hit.pattern,
                "pid": row["pid"],
                "process": row["name"],
                "address": f"0x{hit.address:x}",
                "size": hit.size,
                "tags": list(hit.tags),
                "meta": [{"name": name, "value": _plain(value)} for name, value in hit.meta],
                "bytes": hit.data.hex(),
            }
            file.write(json.dumps(said) + "\n")
    for number, error in scans.failed.items():
        parts[number][0]["error"] = printable(str(error))
    found["hits"] = path
    notes = {"hits were told, and no more": sum(row["count"] for row in rows) >= _MOST_HITS and _MOST_HITS}
    notes |= {"bytes could not be read": scans.lost, "scans took too long": len(scans.late)}
    found["scan_notes"] = [f"{number} {words}" for words, number in notes.items() if number]


def _plain(value: object) -> object:
    """Return a value of a rule's meta section as JSON can hold it."""
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else value


_TASKS = {
    "processes": _processes,
    "carve": _carve,
    "extract": _extract,
    "export": _export,
    "hunt": _hunt,
    "scan": _scan,
}

# of all units


def finish(job: Job, progress: Progress) -> dict[str, Any]:  # noqa: ARG001 - as all are called
    """Make the outputs of a task of what its units left; raises TaskFailed with the reasons if none has any."""
    units = []
    for each in job["units"]:
        path = os.path.join(each["folder"], UNIT)
        if each.get("error") is None and os.path.exists(path):
            with open(path, encoding="utf-8") as file:
                found = json.load(file)
        else:
            reason = each.get("error") or "its sub-task left nothing"
            found = {"error": reason, "notes": [], "processes": [], "files": []}
        if found["error"] is not None and each.get("known") is not None:
            found["processes"] = [{**each["row"], "error": found["error"]}]
        units.append({**found, "input": each["input"], "folder": each["folder"]})
    units_failed = [each for each in units if each["error"] is not None]
    if len(units_failed) == len(units):
        reasons = [*dict.fromkeys(each["error"] for each in units_failed)]
        more = f" (and {len(reasons) - 1} more)" if len(reasons) > 1 else ""
        raise TaskFailed(f"{reasons[0]}{more}")
    final = os.path.join(job["folder"], "final")
    os.makedirs(final, exist_ok=True)
    gathered = _gathered(units)
    outputs = _moved(job, units, gathered)
    document = {
        "schema": _SCHEMA,
        "task": job["task"],
        "memcarve": memcarve.__version__,
        "inputs": gathered["inputs"],
        "processes": gathered["processes"],
    }
    outputs.append(_written(final, "processes.json", f"{job['task']}:processes", [json.dumps(document, indent=1)]))
    if gathered["findings"] is not None:
        rows = [json.dumps(row) for row in gathered["findings"]]
        outputs.append(_written(final, "findings.jsonl", "hunt:findings", rows))
    if gathered["hits"] is not None:
        outputs.append(_hits(final, units, gathered))
    report = report_of(f"memcarve: {job['task']}", gathered)
    outputs.append(_written(final, f"{job['task']}-report.md", f"{job['task']}:report", [report.to_markdown()]))
    meta = {"failed": len(units_failed), "summary": report.summary}
    return {"outputs": outputs, "report": report.to_dict(), "meta": meta}


def _gathered(units: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what units found, by kind; rows say which input they are of."""
    inputs: dict[str, dict[str, Any]] = {}
    processes: list[dict[str, Any]] = []
    findings: list[dict[str, Any]] | None = None
    hits: list[dict[str, Any]] | None = None
    for each in units:
        named = inputs.setdefault(each["input"], {"name": each["input"], "error": each["error"], "notes": []})
        if each["error"] is None:  # one of its processes, at least
            named["error"] = None
        known = [*each["notes"], *each.get("findings_notes", ()), *each.get("scan_notes", ())]
        named["notes"] = [*dict.fromkeys([*named["notes"], *known])]
        processes += [{"input": each["input"], **row} for row in each["processes"]]
        if "findings" in each:
            findings = [*(findings or []), *({"input": each["input"], **row} for row in each["findings"])]
        if "hits" in each:
            hits = hits or []
    if findings is not None:
        order = ["high", "medium", "low", "info"]
        findings.sort(key=lambda row: order.index(row["severity"]))
    return {"inputs": [*inputs.values()], "processes": processes, "findings": findings, "hits": hits, "hit_count": 0}


def _moved(job: Job, units: list[dict[str, Any]], gathered: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the files of all units, under names of which none is there twice; folders are packed into one archive."""
    final = os.path.join(job["folder"], "final")
    outputs: list[dict[str, Any]] = []
    taken: set[str] = set()
    for each in units:
        for file in each["files"]:
            name = f"{naming.stem(each['input'])}.{file['name']}"
            number = 1
            while name.lower() in taken:
                number += 1
                name = f"{naming.stem(each['input'])}.{number}.{file['name']}"
            taken.add(name.lower())
            path = os.path.join(final, f"{len(outputs)}")
            _link(file["path"], path)
            outputs.append({"path": path, "name": name, "type": file["type"]})
    if job["wanted"].get("archive") == "all" and job["task"] in ("carve", "extract"):
        for name in [each["name"] for each in gathered["inputs"] if each["error"] is None]:
            called = f"{naming.stem(name)}.{job['task']}"
            path = os.path.join(final, f"{len(outputs)}")
            compressed = bool(job["wanted"].get("compress"))
            ending = ".tar.gz" if compressed else ".tar"
            inside = joined(os.path.join(final, f"{len(outputs)}.joined"), _folders(units, name))
            pack(path, [(each, f"{called}/{inner}") for each, inner in inside], compressed=compressed)
            outputs.append({"path": path, "name": called + ending, "type": f"{job['task']}:archive"})
    return outputs


def _link(path: str, target: str) -> None:
    """Give a file a second name: should this be broken off, the first one is still there for the next attempt."""
    try:
        os.link(path, target)
    except OSError:  # not every file system has such names
        shutil.copyfile(path, target)


def _folders(units: list[dict[str, Any]], name: str) -> list[str]:
    whole = [each for each in units if each["input"] == name and each["error"] is None]
    found = [os.path.join(each["folder"], "out", "all") for each in whole]
    return [folder for folder in found if os.path.isdir(folder)]


def _written(final: str, name: str, kind: str, lines: Sequence[str]) -> dict[str, Any]:
    path = os.path.join(final, name)
    with open(path, "x", encoding="utf-8", errors="backslashreplace") as file:
        file.writelines(f"{line}\n" for line in lines)
    return {"path": path, "name": name, "type": kind}


def _hits(final: str, units: list[dict[str, Any]], gathered: dict[str, Any]) -> dict[str, Any]:
    """Join the hits of all units, and keep the first of them for the report."""
    path = os.path.join(final, "hits.jsonl")
    with open(path, "x", encoding="utf-8") as file:
        for each in units:
            if "hits" not in each:
                continue
            with open(each["hits"], encoding="utf-8") as part:
                for line in part:
                    row = {"input": each["input"], **json.loads(line)}
                    gathered["hit_count"] += 1
                    if len(gathered["hits"]) < _HITS_TOLD:
                        gathered["hits"].append(row)
                    file.write(json.dumps(row) + "\n")
    return {"path": path, "name": "hits.jsonl", "type": "scan:hits"}


DO = {"plan": plan, "unit": unit, "whole": whole, "finish": finish}
