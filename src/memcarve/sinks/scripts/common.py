"""What the Python scripts begin with: they read the table, and make sure that the original is the one it is about.

Every script is the same text for every dump; what comes from evidence stands in the table, as data. Python 2.7 (as in
Ghidra's Jython) and Python 3 run it.
"""

from __future__ import annotations

COMMON = '''\
from __future__ import print_function

import hashlib
import io
import json
import os


def load(folder):
    """Return the table that was written beside this script."""
    with io.open(os.path.join(folder, "memory.json"), encoding="ascii") as file:
        table = json.load(file)
    if (table.get("tool"), table.get("what"), table.get("schema")) != ("memcarve", "scripts", 1):
        raise ValueError("memory.json: is not the one that memcarve wrote with this script")
    return table


def check(table, path, hashed):
    """Raise ValueError where a file is not the one that the table is about; its hash is looked at on request."""
    wanted = table["original"]
    size = os.path.getsize(path)
    if size != wanted["size"]:
        raise ValueError("%r: has %d bytes, and the dump had %d" % (path, size, wanted["size"]))
    if hashed and wanted["sha256"] is not None:
        digest = hashlib.sha256()
        with open(path, "rb") as file:
            for block in iter(lambda: file.read(1 << 20), b""):
                digest.update(block)
        if digest.hexdigest() != wanted["sha256"]:
            raise ValueError("%r: has another SHA-256 than the dump had" % path)


def original(table, folder, hashed=True):
    """Return the path of the dump, which may have moved together with this folder."""
    wanted = table["original"]
    paths = [wanted["path"]]
    if wanted["relative"] is not None:
        paths.append(os.path.join(folder, wanted["relative"]))
    for path in paths:
        if os.path.isfile(path):
            check(table, path, hashed)
            return path
    raise ValueError("%r: is missing; put it back, or write the scripts again" % wanted["path"])
'''
