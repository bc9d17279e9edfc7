"""What OpenRelik asks of a person for each task, and what of it a task takes."""

from __future__ import annotations

from typing import Any

from openrelik_worker_memcarve.failure import TaskFailed


def _field(name: str, label: str, description: str, kind: str = "text") -> dict[str, Any]:
    return {"name": name, "label": label, "description": description, "type": kind, "required": False}


_PROCESSES = _field(
    "processes", "Processes", "Numbers and patterns for names, like 4, 1624, svchost*. Without: all that have memory."
)
_RANGE = _field("range", "Half", "user, kernel or all. Without: all of a dump, the user half of an image.")
_CASE = _field("case_id", "Case", "A text on one line that is recorded in what is written.")
_HASH = _field("hash_input", "Hash the input", "Also take and record the SHA-256 of the input.", "checkbox")
_ARCHIVE = _field("archive", "Archives", "process: one for each process. all: one for all of an input.")
_COMPRESS = _field("compress", "Compress", "Compress archives (gzip).", "checkbox")

#: title, description and fields, by the word in a task's name
TASKS: dict[str, tuple[str, str, list[dict[str, Any]]]] = {
    "processes": (
        "Processes",
        "Lists the processes in memory images and dumps.",
        [
            _PROCESSES,
            _field("command_lines", "Command lines", "Also how each process was started; takes longer.", "checkbox"),
        ],
    ),
    "carve": (
        "Carve",
        "Writes the contiguous segments of each process's memory, with a manifest and checksums.",
        [_PROCESSES, _RANGE, _ARCHIVE, _COMPRESS, _CASE, _HASH],
    ),
    "extract": (
        "Extract",
        "Writes the programs and libraries in each process's memory as files.",
        [
            _PROCESSES,
            _RANGE,
            _field("files", "Files", "Patterns for names of modules, like ntdll* *.exe. Without: all."),
            _ARCHIVE,
            _COMPRESS,
            _CASE,
            _HASH,
        ],
    ),
    "export": (
        "Export",
        "Writes processes as debuggers and disassemblers read them.",
        [
            _PROCESSES,
            _RANGE,
            _field("type", "Type", "minidump, elfcore, scripts or memmap. Without: minidump."),
            _COMPRESS,
            _CASE,
            _HASH,
        ],
    ),
    "hunt": (
        "Hunt",
        "Looks in all processes for injected code, hollowed programs and the like.",
        [_PROCESSES, _field("severity", "Severity", "The least that is told: info, low, medium, high. Without: low.")],
    ),
    "scan": (
        "Scan",
        "Scans the memory of processes, as it was laid out, with YARA rules.",
        [
            _field("rules", "Rules", 'Source text, like rule test { strings: $a = "MZ" condition: $a }', "textarea"),
            _field(
                "rules_path",
                "Paths of rules",
                "Files and folders in the worker's folder of rules, a line each.",
                "textarea",
            ),
            _PROCESSES,
            _RANGE,
            _field("by", "Unit", "What rules take for a file: segment, region, process or page. Without: segment."),
        ],
    ),
}
_WORDS = {
    "range": ("user", "kernel", "all"),
    "archive": ("process", "all"),
    "type": ("minidump", "elfcore", "scripts", "memmap"),
    "severity": ("info", "low", "medium", "high"),
    "by": ("segment", "region", "process", "page"),
}
_DEFAULTS = {"type": "minidump", "archive": "process"}


def metadata(task: str) -> dict[str, Any]:
    """Return what OpenRelik is told of a task."""
    title, description, fields = TASKS[task]
    return {"display_name": f"memcarve: {title}", "description": description, "task_config": fields}


def wanted(task: str, given: dict[str, Any] | None) -> dict[str, Any]:
    """Return what is asked of a task, by the names of its fields; raises TaskFailed for a word that is none."""
    found: dict[str, Any] = {}
    for field in TASKS[task][2]:
        name, value = field["name"], (given or {}).get(field["name"])
        if field["type"] == "checkbox":
            found[name] = value is True or str(value).lower() in ("true", "on", "1")
            continue
        found[name] = str(value or "") if field["type"] == "textarea" else str(value or "").strip()
        if name in _WORDS:
            found[name] = found[name].lower() or _DEFAULTS.get(name, "")
            if found[name] and found[name] not in _WORDS[name]:
                raise TaskFailed(f"{field['label']}: {found[name]!r} is not one of {', '.join(_WORDS[name])}")
    return found
