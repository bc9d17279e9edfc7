"""Folders that were written of single processes, as one folder like memcarve's own of several."""

from __future__ import annotations

import hashlib
import json
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

_LIST, _SUMS = "processes.json", "SHA256SUMS"


def joined(scratch: str, folders: Sequence[str]) -> list[tuple[str, str]]:
    """Return what is in the one folder that some folders are together: paths, and names in it.

    The list of processes and the checksums of all are written into a new folder, `scratch`; nothing else is moved. What
    has the same name in two of them (of two processes with one number) gets a number.
    """
    if len(folders) == 1:
        return [(os.path.join(folders[0], name), name) for name in sorted(os.listdir(folders[0]))]
    os.mkdir(scratch)
    document: dict[str, Any] = {}
    rows, lines, found = [], [], []
    taken: set[str] = set()
    for folder in folders:
        part, sums = _read(folder)
        document = document or part
        for row in part["processes"]:
            names = {}
            for name in row["files"]:
                number, free = 1, name
                while free.lower() in taken:
                    number += 1
                    free = f"{name}+{number}"
                taken.add(free.lower())
                names[name] = free
                found.append((os.path.join(folder, name), free))
            row["files"] = [*names.values()]
            row["sha256"] = {_renamed(path, names): digest for path, digest in row["sha256"].items()}
            sums = [(_renamed(path, names), digest) for path, digest in sums]
            rows.append(row)
        lines += sums
    data = json.dumps({**document, "processes": rows}).encode("ascii") + b"\n"
    lines.append((_LIST, hashlib.sha256(data).hexdigest()))
    with open(os.path.join(scratch, _LIST), "xb") as file:
        file.write(data)
    with open(os.path.join(scratch, _SUMS), "x", encoding="ascii") as file:
        file.writelines(f"{digest}  {path}\n" for path, digest in sorted(lines))
    return sorted([*found, *((os.path.join(scratch, name), name) for name in (_LIST, _SUMS))], key=lambda pair: pair[1])


def _renamed(path: str, names: dict[str, str]) -> str:
    first, slash, rest = path.partition("/")
    return names.get(first, first) + slash + rest


def _read(folder: str) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """Return the list in a folder, and names with their checksums, but for the list's own."""
    with open(os.path.join(folder, _LIST), encoding="ascii") as file:
        document = json.load(file)
    with open(os.path.join(folder, _SUMS), encoding="ascii") as file:
        lines = [line.rstrip("\n").partition("  ") for line in file]
    return document, [(path, digest) for digest, _, path in lines if path != _LIST]
