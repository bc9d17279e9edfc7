# Maps a memory dump, imported as Raw Binary, at the addresses that it was taken from.
# @category Memory
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


def imported(table, memory, folder):
    """Return the bytes of the dump as Ghidra keeps them, and take away the blocks that show them as a plain file."""
    wanted = table["original"]
    held = None
    for each in memory.getAllFileBytes():
        if each.getSize() == wanted["size"]:
            held = each
    if held is None:
        from java.io import FileInputStream

        path = original(table, folder)
        stream = FileInputStream(path)
        try:
            return memory.createFileBytes(os.path.basename(path), 0, wanted["size"], stream, monitor)
        finally:
            stream.close()

    def read(place, count):
        return bytes(bytearray(held.getOriginalByte(place + number) & 255 for number in range(count)))

    if sampled(read, wanted) != wanted["sample"]["sha256"]:
        raise ValueError("what was imported has other bytes than the dump had")
    digest = currentProgram.getExecutableSHA256()
    if wanted["sha256"] is not None and digest is not None and digest != wanted["sha256"]:
        raise ValueError("what was imported has another SHA-256 than the dump had")
    for block in list(memory.getBlocks()):
        infos = block.getSourceInfos()
        if len(infos) and infos[0].getFileBytes().isPresent() and infos[0].getFileBytes().get().equals(held):
            memory.removeBlock(block, monitor)
    return held


def map_memory(folder):
    """Make a block of each row, over the bytes of the dump; return how many there are."""
    table = load(folder)
    bits = currentProgram.getDefaultPointerSize() * 8
    if table["process"]["architecture"] is not None and bits != table["bits"]:
        raise ValueError("import the dump with a language of %d bits, not of %d" % (table["bits"], bits))
    memory = currentProgram.getMemory()
    held = imported(table, memory, folder)
    for start, size, offset, access, name in table["rows"]:
        word, text = table["names"][name]
        block = memory.createInitializedBlock(word, toAddr(start), held, offset, size, False)
        letters = "rwx" if access is None else access  # what is not known may be anything
        block.setPermissions("r" in letters, "w" in letters, "x" in letters)
        block.setComment(text if access is not None else text + "; access not known")
    return len(table["rows"])


print("memcarve: %d pieces mapped" % map_memory(u"%s" % getSourceFile().getParentFile().getAbsolutePath()))
