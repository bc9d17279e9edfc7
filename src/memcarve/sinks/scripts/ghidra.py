"""The script for Ghidra: for the older Jython (Python 2.7) and for PyGhidra. The dump is imported as a raw binary."""

from __future__ import annotations

NAME = "map_ghidra.py"

HEAD = """\
# Maps a memory dump, imported as Raw Binary, at the addresses that it was taken from.
# @category Memory
"""

BODY = '''

def imported(table, memory, folder):
    """Return the bytes of the dump as Ghidra keeps them, and remove the blocks that show them as a plain file."""
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

    if wanted["sample"]["sha256"] not in (None, sampled(read, wanted)):
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
    """Make a block for each row, over the bytes of the dump; return how many there are."""
    table = load(folder)
    bits = currentProgram.getDefaultPointerSize() * 8
    if table["process"]["architecture"] is not None and bits != table["bits"]:
        raise ValueError("import the dump with a language of %d bits, not of %d" % (table["bits"], bits))
    memory = currentProgram.getMemory()
    held = imported(table, memory, folder)
    for start, size, offset, access, name in table["rows"]:
        word, text = table["names"][name]
        block = memory.createInitializedBlock(word, toAddr(start), held, offset, size, False)
        letters = "rwx" if access is None else access  # if it is not known, everything is allowed
        block.setPermissions("r" in letters, "w" in letters, "x" in letters)
        block.setComment(text if access is not None else text + "; access not known")
    return len(table["rows"])


print("memcarve: %d pieces mapped" % map_memory(u"%s" % getSourceFile().getParentFile().getAbsolutePath()))
'''
