"""The common beginning of the Python scripts: it reads the table, and checks that the original is the right file.

Every script is the same text for every dump; what comes from evidence is in the table, as data. It runs in Python 2.7
(as in Ghidra's Jython) and Python 3.
"""

from __future__ import annotations

COMMON = '''\
from __future__ import print_function

import hashlib
import io
import json
import os
import re


def load(folder):
    """Return the table that was written beside this script."""
    with io.open(os.path.join(folder, "memory.json"), encoding="ascii") as file:
        table = json.load(file)
    if (table.get("tool"), table.get("what"), table.get("schema")) != ("memcarve", "scripts", 2):
        raise ValueError("memory.json: is not the one that memcarve wrote with this script")
    return table


def sampled(read, wanted):
    """Return the SHA-256 of blocks that are spread evenly over a file, including the first and the last bytes."""
    count, length = wanted["sample"]["blocks"], wanted["sample"]["size"]
    digest = hashlib.sha256()
    for number in range(count):
        digest.update(read(max(wanted["size"] - length, 0) * number // (count - 1), min(length, wanted["size"])))
    return digest.hexdigest()


def check(table, path):
    """Raise ValueError if a file is not the one that the table describes."""
    wanted = table["original"]
    size = os.path.getsize(path)
    if size != wanted["size"]:
        raise ValueError("%r: has %d bytes, and the dump had %d" % (path, size, wanted["size"]))
    with open(path, "rb") as file:

        def read(place, count):
            file.seek(place)
            return file.read(count)

        if wanted["sample"]["sha256"] not in (None, sampled(read, wanted)):
            raise ValueError("%r: has other bytes than the dump had" % path)
        if wanted["sha256"] is not None:
            file.seek(0)
            digest = hashlib.sha256()
            for block in iter(lambda: file.read(1 << 20), b""):
                digest.update(block)
            if digest.hexdigest() != wanted["sha256"]:
                raise ValueError("%r: has another SHA-256 than the dump had" % path)


def undecoded(path):
    """Return a path with the bytes that are no text, which the table has as escapes; Python 2 has no such paths."""
    if str is bytes:
        return path
    return re.sub(r"\\\\u(dc[89a-f][0-9a-f])", lambda found: chr(int(found.group(1), 16)), path)


def original(table, folder):
    """Return the path of the dump: at the same path relative to this folder, else where it was."""
    wanted = table["original"]
    paths = [] if wanted["relative"] is None else [os.path.normpath(os.path.join(folder, wanted["relative"]))]
    problems = []
    for path in [spelled for path in paths + [wanted["path"]] for spelled in (path, undecoded(path))]:
        if os.path.isfile(path):
            try:
                check(table, path)
            except ValueError as error:
                problems.append(error)
            else:
                return path
    if problems:
        raise problems[0]
    raise ValueError("%r: is missing; put it back, or write the scripts again" % wanted["path"])
'''
