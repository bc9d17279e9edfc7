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

import bisect
import binascii
import re
import sys

MOST = 1 << 14  # bytes in one answer
ARCHITECTURES = {32: "i386", 64: "i386:x86-64"}
SEGMENTS = "eflags cs ss ds es fs gs".split()
REGISTERS = {  # in the order that gdb numbers them in, without those of the floating point unit
    32: "eax ecx edx ebx esp ebp esi edi eip".split() + SEGMENTS,
    64: "rax rbx rcx rdx rsi rdi rbp rsp r8 r9 r10 r11 r12 r13 r14 r15 rip".split() + SEGMENTS,
}


def registers_of(bits, known):
    """Return a thread's registers as gdb wants them: x where one is not known, but for the program counter."""
    found = []
    for name in REGISTERS[bits]:
        size = 4 if name in SEGMENTS or bits == 32 else 8
        value = known.get(name, 0 if name in ("eip", "rip") else None)  # without one gdb does not begin
        if value is None:
            found.append("xx" * size)
        else:
            found.append("".join("%02x" % (value >> 8 * place & 255) for place in range(size)))
    return "".join(found).encode("ascii")


TARGET = (
    b'<?xml version="1.0"?><!DOCTYPE target SYSTEM "gdb-target.dtd"><target version="1.0">'
    b"<architecture>%s</architecture></target>"
)


class Memory(object):
    """The dump by addresses."""

    def __init__(self, table, path):
        self.rows = [(int(row[0], 16), row[1], row[2]) for row in table["rows"]]
        self.starts = [row[0] for row in self.rows]
        self.file = open(path, "rb")

    def read(self, address, size):
        """Return up to `size` bytes at an address: none where the first one is not there."""
        found = []
        while size > 0:
            place = bisect.bisect_right(self.starts, address) - 1
            if place < 0:
                break
            start, length, offset = self.rows[place]
            count = min(size, start + length - address)
            if count <= 0:
                break
            self.file.seek(offset + address - start)
            data = self.file.read(count)
            found.append(data)
            if len(data) < count:
                break
            address, size = address + count, size - count
        return b"".join(found)


class Server(object):
    """Answers packets, one after the other, until gdb has had enough."""

    def __init__(self, table, memory, source, sink):
        self.memory = memory
        self.source = source
        self.sink = sink
        self.acknowledge = True
        architecture = ARCHITECTURES[table["bits"]] if table["process"]["architecture"] is not None else None
        self.target = b"" if architecture is None else TARGET % architecture.encode("ascii")
        self.bits = table["bits"]
        self.threads = dict((tid, known) for tid, known in table["threads"] if 0 < tid < 1 << 32) or {1: {}}
        self.chosen = min(self.threads)

    def packet(self):
        """Return the next packet; None at the end."""
        while True:
            byte = self.source.read(1)
            if not byte:
                return None
            if byte != b"$":
                continue
            data = b""
            while not data.endswith(b"#"):
                byte = self.source.read(1)
                if not byte or len(data) > 2 * MOST + 100:
                    return None
                data += byte
            self.source.read(2)
            if self.acknowledge:
                self.sink.write(b"+")
            return data[:-1]

    def run(self):
        """Answer until the connection ends."""
        while True:
            packet = self.packet()
            if packet is None or packet == b"k":
                return
            answer = self.answer(packet)
            self.sink.write(b"$" + answer + b"#" + ("%02x" % (sum(bytearray(answer)) & 255)).encode("ascii"))
            self.sink.flush()
            if packet == b"QStartNoAckMode":
                self.acknowledge = False
            if packet[:1] == b"D":
                return

    def answer(self, packet):
        """Return what is said to a packet: nothing to those that are not known."""
        if packet.startswith(b"m"):
            asked = re.match(b"m([0-9a-f]+),([0-9a-f]+)$", packet)
            data = self.memory.read(int(asked.group(1), 16), min(int(asked.group(2), 16), MOST)) if asked else b""
            return binascii.hexlify(data) if data else b"E01"
        if packet.startswith(b"qSupported"):
            features = b";qXfer:features:read+" if self.target else b""
            return ("PacketSize=%x;QStartNoAckMode+" % (2 * MOST + 64)).encode("ascii") + features
        if packet.startswith(b"qXfer:features:read:target.xml:") and self.target:
            return b"l" + (self.target if packet.startswith(b"qXfer:features:read:target.xml:0,") else b"")
        if packet == b"qfThreadInfo":
            return ("m" + ",".join("%x" % tid for tid in sorted(self.threads))).encode("ascii")
        if packet == b"qC":
            return ("QC%x" % self.chosen).encode("ascii")
        if packet == b"?":
            return ("T05thread:%x;" % self.chosen).encode("ascii")
        if packet[:1] in (b"H", b"T"):
            asked = re.match(b"(Hg|T)([0-9a-f]+)$", packet)
            tid = int(asked.group(2), 16) if asked else 0
            if tid and tid not in self.threads:
                return b"E01"
            if tid and packet.startswith(b"Hg"):
                self.chosen = tid
            return b"OK"
        if packet == b"g":
            return registers_of(self.bits, self.threads[self.chosen])
        if packet[:1] in b"GMXPcsCS" or packet.startswith((b"vCont;", b"vRun", b"vAttach")):
            return b"E01"  # it is the memory of what has long ended
        known = {b"QStartNoAckMode": b"OK", b"D": b"OK", b"qsThreadInfo": b"l", b"qAttached": b"1"}
        return known.get(packet, b"")


def serve(folder):
    """Answer gdb through the standard streams."""
    table = load(folder)
    source, sink = getattr(sys.stdin, "buffer", sys.stdin), getattr(sys.stdout, "buffer", sys.stdout)
    Server(table, Memory(table, os.environ["MEMCARVE_DUMP"]), source, sink).run()


def connect(folder):
    """Have gdb read the dump through this script, and teach it what the memory is called."""
    import shutil

    import gdb

    table = load(folder)
    path = original(table, folder)  # complains here, where it is read
    starts = [int(row[0], 16) for row in table["rows"]]

    def told(place):
        start, size, offset, access, name = table["rows"][place]
        text = table["names"][name][1]
        return "0x%016x-0x%016x %s %s\n" % (starts[place], starts[place] + size, access or "???", text)

    class MemoryMap(gdb.Command):
        """memory-map [ADDRESS]: show what lies where, or at one address: addresses, access, name."""

        def __init__(self):
            super(MemoryMap, self).__init__("memory-map", gdb.COMMAND_DATA)

        def invoke(self, argument, from_tty):
            places = range(len(starts))
            if argument.strip():
                address = int(gdb.parse_and_eval(argument)) % (1 << 64)
                place = bisect.bisect_right(starts, address) - 1
                places = [place] if place >= 0 and address - starts[place] < table["rows"][place][1] else []
            for place in places:
                gdb.write(told(place))
            if not len(places):
                gdb.write("nothing is there\n")

    MemoryMap()
    os.environ["MEMCARVE_PYTHON"] = shutil.which("python3") or shutil.which("python") or "python3"
    os.environ["MEMCARVE_SCRIPT"] = os.path.join(folder, "map_gdb.py")
    os.environ["MEMCARVE_DUMP"] = path
    if table["process"]["architecture"] is None:
        gdb.write("memcarve: the processor is not known and taken for %s\n" % ARCHITECTURES[table["bits"]])
        gdb.execute("set architecture " + ARCHITECTURES[table["bits"]])
    if not table["threads"]:
        gdb.write("memcarve: no thread's registers are known; the program counter is 0 for want of another\n")
    gdb.execute('target remote | exec "$MEMCARVE_PYTHON" "$MEMCARVE_SCRIPT" --serve')


if __name__ == "__main__":
    here = os.path.dirname(os.path.abspath(__file__))
    if "--serve" in sys.argv:
        serve(here)
    else:
        connect(here)
