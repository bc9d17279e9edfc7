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


import idaapi

LETTERS = {"r": 4, "w": 2, "x": 1}


def setup(table):
    """Choose the processor, where the dump said which it was."""
    bits = table["bits"]
    if table["process"]["architecture"] in ("x86", "x64"):
        idaapi.set_processor_type("metapc", idaapi.SETPROC_LOADER_NON_FATAL)
    if hasattr(idaapi, "inf_set_app_bitness"):
        idaapi.inf_set_app_bitness(bits)
    else:
        idaapi.inf_set_64bit(bits == 64)


def map_memory(folder):
    """Make a sparse segment of each row, and load its bytes from the dump; return how many there are."""
    table = load(folder)
    source = idaapi.loader_input_t()
    if not source.open(original(table, folder), False):
        raise ValueError("the dump cannot be opened")
    try:
        setup(table)
        for start, size, offset, access, name in table["rows"]:
            begin = int(start, 16)
            end = min(begin + size, idaapi.BADADDR)  # IDA has no address for the very last byte
            if end <= begin:
                continue
            word, text = table["names"][name]
            segment = idaapi.segment_t()
            segment.start_ea = begin
            segment.end_ea = end
            segment.bitness = 2 if table["bits"] == 64 else 1
            segment.sel = idaapi.setup_selector(0)
            segment.align = idaapi.saRelByte
            segment.comb = idaapi.scPub
            # no letters: IDA takes 0 for "not known"
            segment.perm = sum(LETTERS.get(letter, 0) for letter in access or "")
            kind = "DATA" if access is not None and "x" not in access else "CODE"
            flags = idaapi.ADDSEG_SPARSE | idaapi.ADDSEG_NOSREG | idaapi.ADDSEG_QUIET | idaapi.ADDSEG_NOAA
            if not idaapi.add_segm_ex(segment, word, kind, flags):
                raise ValueError("the segment at %s cannot be made" % start)
            if not source.file2base(offset, begin, end, False):
                raise ValueError("the bytes at %s cannot be loaded" % start)
            idaapi.set_segment_cmt(idaapi.getseg(begin), text, False)
    finally:
        source.close()
    return len(table["rows"])


print("memcarve: %d pieces mapped" % map_memory(os.path.dirname(os.path.abspath(__file__))))
