"""The script for gdb: gdb asks it for memory as it would ask a debugger on another machine, and it reads the dump.

gdb cannot map parts of a plain file by itself. The same script, run a second time by ``target remote |``, answers the
few packets of the Remote Serial Protocol that reading needs (GDB manual, appendix E); it writes nothing and runs
nothing. No command for gdb holds a path: the shell takes the paths from the environment.
"""

from __future__ import annotations

NAME = "map_gdb.py"

BODY = '''
import bisect
import binascii
import re
import sys

MOST = 1 << 14  # bytes in one answer
ARCHITECTURES = {"x86": "i386", "x64": "i386:x86-64", "arm": "arm", "arm64": "aarch64"}
SEGMENTS = "eflags cs ss ds es fs gs".split()
REGISTERS = {  # in gdb's order, without those of the floating-point unit, but for old ones of ARM that come in between
    "x86": "eax ecx edx ebx esp ebp esi edi eip".split() + SEGMENTS,
    "x64": "rax rbx rcx rdx rsi rdi rbp rsp r8 r9 r10 r11 r12 r13 r14 r15 rip".split() + SEGMENTS,
    "arm": ["r%d" % number for number in range(13)] + "sp lr pc fpa cpsr".split(),
    "arm64": ["x%d" % number for number in range(31)] + "sp pc cpsr".split(),
}
SIZES = dict([(name, 4) for name in SEGMENTS + ["cpsr"]] + [("fpa", 100)])


def processor(table):
    """Return which processor it is; if that is not known, x86 by the width of addresses."""
    return table["process"]["architecture"] or {32: "x86", 64: "x64"}[table["bits"]]


def registers_of(word, known):
    """Return a thread's registers as gdb needs them: x if one is not known, except for the program counter."""
    found = []
    for name in REGISTERS[word]:
        size = SIZES.get(name, 8 if word in ("x64", "arm64") else 4)
        value = known.get(name, 0 if name in ("eip", "rip", "pc") else None)  # gdb does not start without it
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
        """Return up to `size` bytes at an address: none if the first one is not there."""
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
    """Answers packets, one after the other, until gdb disconnects."""

    def __init__(self, table, memory, source, sink):
        self.memory = memory
        self.source = source
        self.sink = sink
        self.acknowledge = True
        self.word = processor(table)
        known = table["process"]["architecture"] is not None
        self.target = TARGET % ARCHITECTURES[self.word].encode("ascii") if known else b""
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
        """Return the answer to a packet: nothing if the packet is not known."""
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
            return registers_of(self.word, self.threads[self.chosen])
        if packet[:1] in b"GMXPcsCS" or packet.startswith((b"vCont;", b"vRun", b"vAttach")):
            return b"E01"  # the process is not running: it can be neither changed nor resumed
        known = {b"QStartNoAckMode": b"OK", b"D": b"OK", b"qsThreadInfo": b"l", b"qAttached": b"1"}
        return known.get(packet, b"")


def serve(folder):
    """Answer gdb through the standard streams."""
    table = load(folder)
    source, sink = getattr(sys.stdin, "buffer", sys.stdin), getattr(sys.stdout, "buffer", sys.stdout)
    Server(table, Memory(table, os.environ["MEMCARVE_DUMP"]), source, sink).run()


def connect(folder):
    """Make gdb read the dump through this script, and give it the names of the memory."""
    import shutil

    import gdb

    table = load(folder)
    path = original(table, folder)  # raises its errors here, where the user sees them
    starts = [int(row[0], 16) for row in table["rows"]]

    def told(place):
        start, size, offset, access, name = table["rows"][place]
        text = table["names"][name][1]
        return "0x%016x-0x%016x %s %s\\n" % (starts[place], starts[place] + size, access or "???", text)

    class MemoryMap(gdb.Command):
        """memory-map [ADDRESS]: show what is mapped, or what lies at an address: addresses, access, name."""

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
                gdb.write("nothing is there\\n")

    MemoryMap()
    os.environ["MEMCARVE_PYTHON"] = shutil.which("python3") or shutil.which("python") or "python3"
    os.environ["MEMCARVE_SCRIPT"] = os.path.join(folder, "map_gdb.py")
    os.environ["MEMCARVE_DUMP"] = path
    if table["process"]["architecture"] is None:
        gdb.write("memcarve: the processor is not known and taken for %s\\n" % ARCHITECTURES[processor(table)])
        gdb.execute("set architecture " + ARCHITECTURES[processor(table)])
    if not table["threads"]:
        gdb.write("memcarve: no thread's registers are known; the program counter is 0 for want of another\\n")
    gdb.execute('target remote | exec "$MEMCARVE_PYTHON" "$MEMCARVE_SCRIPT" --serve')


if __name__ == "__main__":
    here = os.path.dirname(os.path.abspath(__file__))
    if "--serve" in sys.argv:
        serve(here)
    else:
        connect(here)
'''
