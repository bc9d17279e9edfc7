# Written by memcarve 0.1.0. The dump that this maps is described in memory.json.
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


def sampled(read, wanted):
    """Return the SHA-256 of blocks that are spread evenly over a file, the first and the last bytes among them."""
    count, length = wanted["sample"]["blocks"], wanted["sample"]["size"]
    digest = hashlib.sha256()
    for number in range(count):
        digest.update(read(max(wanted["size"] - length, 0) * number // (count - 1), min(length, wanted["size"])))
    return digest.hexdigest()


def check(table, path):
    """Raise ValueError where a file is not the one that the table is about."""
    wanted = table["original"]
    size = os.path.getsize(path)
    if size != wanted["size"]:
        raise ValueError("%r: has %d bytes, and the dump had %d" % (path, size, wanted["size"]))
    with open(path, "rb") as file:

        def read(place, count):
            file.seek(place)
            return file.read(count)

        if sampled(read, wanted) != wanted["sample"]["sha256"]:
            raise ValueError("%r: has other bytes than the dump had" % path)
        if wanted["sha256"] is not None:
            file.seek(0)
            digest = hashlib.sha256()
            for block in iter(lambda: file.read(1 << 20), b""):
                digest.update(block)
            if digest.hexdigest() != wanted["sha256"]:
                raise ValueError("%r: has another SHA-256 than the dump had" % path)


def original(table, folder):
    """Return the path of the dump: where it lies as it did beside this folder, else where it was."""
    wanted = table["original"]
    paths = [] if wanted["relative"] is None else [os.path.normpath(os.path.join(folder, wanted["relative"]))]
    problems = []
    for path in paths + [wanted["path"]]:
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


import binaryninja

ARCHITECTURES = {"x86": "x86", "x64": "x86_64"}


def flags_of(access):
    """Return what may be done, as Binary Ninja says it; what is not known may be anything."""
    letters = "rwx" if access is None else access
    flag = binaryninja.SegmentFlag
    found = flag.SegmentReadable if "r" in letters else 0
    found |= flag.SegmentWritable if "w" in letters else 0
    found |= flag.SegmentExecutable if "x" in letters else 0
    return found


def semantics_of(access):
    """Return what a section holds, as far as what may be done with it tells."""
    kinds = binaryninja.SectionSemantics
    if access is None or ("w" in access and "x" in access):
        return kinds.DefaultSectionSemantics
    if "x" in access:
        return kinds.ReadOnlyCodeSectionSemantics
    return kinds.ReadWriteDataSectionSemantics if "w" in access else kinds.ReadOnlyDataSectionSemantics


def map_memory(folder):
    """Return a new view of the dump in which each row is a segment, and a section with its name."""
    table = load(folder)
    raw = binaryninja.BinaryViewType["Raw"].open(original(table, folder))
    view = binaryninja.BinaryViewType["Mapped"].create(raw)
    for segment in list(view.segments):  # the one that shows the file as it lies
        view.remove_auto_segment(segment.start, len(segment))
        view.remove_user_segment(segment.start, len(segment))
    name = ARCHITECTURES.get(table["process"]["architecture"])
    if name is not None:
        view.platform = binaryninja.Architecture[name].standalone_platform
    bulk = hasattr(view, "begin_bulk_add_segments")
    if bulk:
        view.begin_bulk_add_segments()
    try:
        for start, size, offset, access, _ in table["rows"]:
            view.add_user_segment(int(start, 16), size, offset, size, flags_of(access))
    finally:
        if bulk:
            view.end_bulk_add_segments()
    for start, size, _, access, name in table["rows"]:
        word, text = table["names"][name]
        view.add_user_section("%s.%s" % (word, start[2:]), int(start, 16), size, semantics_of(access))
    seen = None
    for start, _, _, _, name in table["rows"]:
        if name != seen:
            view.set_comment_at(int(start, 16), table["names"][name][1])
        seen = name
    return view


view = map_memory(os.path.dirname(os.path.abspath(__file__)))
print("memcarve: mapped; the view is called view")
