"""The small programs that are measured beside the command itself: ``python bench/children.py NAME ARGUMENT...``.

Each imports only what it needs: start and imports are part of what is measured.
"""

from __future__ import annotations

import itertools
import os
import sys
import time


def copying(dump: str, out: str) -> None:
    """Carve without hashes; print the seconds inside ``carve``: making the folder, copying, writing the manifest."""
    import memcarve  # noqa: PLC0415

    with memcarve.open(dump) as container:
        process = container.process()
        process = container.process()
        print(memcarve.carve(process, process.segments(), out, memcarve.SinkOptions(hashes=())).seconds)


def extents(path: str) -> None:
    """Read a map and join its rows to extents."""
    import memcarve  # noqa: PLC0415

    with memcarve.open(path) as container:
        print(len(container.process().space))


def compile_rules(text: str, out: str) -> None:
    """Compile YARA rules into a file."""
    import yara_x

    with open(text, encoding="utf-8") as source, open(out, "wb") as file:
        yara_x.compile(source.read()).serialize_into(file)


def load_rules(path: str) -> None:
    """Load compiled YARA rules, and make a scanner."""
    import yara_x

    with open(path, "rb") as file:
        yara_x.Scanner(yara_x.Rules.deserialize_from(file)).scan(b"")


def scan_file(path: str, rules: str) -> None:
    """Scan a file as YARA-X does by itself; print what it finds."""
    import yara_x

    with open(rules, "rb") as file:
        scanner = yara_x.Scanner(yara_x.Rules.deserialize_from(file))
    for rule in scanner.scan_file(path).matching_rules:
        print(rule.identifier, sum(len(pattern.matches) for pattern in rule.patterns))


def labels(segments: str, regions: str) -> None:
    """Join segments with regions and modules, and look for flags; print the seconds of that."""
    import numpy as np  # noqa: PLC0415

    import memcarve  # noqa: PLC0415
    from memcarve.backing import AbsentBacking  # noqa: PLC0415
    from memcarve.process import ProcessMemory  # noqa: PLC0415

    random, page = np.random.default_rng(1), 4096
    start = np.cumsum(random.integers(2, 12, int(segments))).astype(np.uint64) * np.uint64(page)
    size = np.full(len(start), page, np.uint64)
    offset = np.arange(len(start), dtype=np.uint64) * np.uint64(page)
    flags = random.choice(np.array([1, 3, 5, 7], np.uint8), len(start))
    backing = AbsentBacking(memcarve.CounterpartError("there are no bytes"))
    space = memcarve.AddressSpace(start, size, offset, backing, physical=offset, flags=flags)
    bounds = [0, *sorted(random.choice(int(start[-1]) // page, int(regions), replace=False).tolist())]
    words = ("PAGE_READWRITE", "private"), ("PAGE_EXECUTE_WRITECOPY", "mapped"), ("PAGE_EXECUTE_READWRITE", "private")
    rows = [
        memcarve.Region(
            low * page, (high - low) * page, *words[place % 3], f"\\x\\{place}.dll" * (place % 3 == 1) or None
        )
        for place, (low, high) in enumerate(itertools.pairwise(bounds))
        if high > low
    ]
    modules = [memcarve.Module(row.start, row.size, row.file[3:]) for row in rows if row.file][:2000]
    metadata = memcarve.Metadata((memcarve.Regions("a", rows),), (memcarve.SourceRows("b", modules),))
    process = ProcessMemory(space, metadata=lambda: metadata)
    found = process.segments()
    begun = time.perf_counter()
    joined = memcarve.Labelling()(process, found, memcarve.Selection())
    joined.matches("flag", ["private-executable"])
    joined.matches("kind", ["mapped"])
    print(time.perf_counter() - begun)


def walk(path: str, pid: str) -> None:
    """Walk the page tables of a process of an image, both halves; print the seconds of the walk."""
    import memcarve  # noqa: PLC0415

    with memcarve.open(path) as container:
        index = [entry.pid for entry in container.known([int(pid)])].index(int(pid))
        begun = time.perf_counter()
        container.process(index=index)
        print(time.perf_counter() - begun)


def walk_root(path: str, root: str, paging: str) -> None:
    """Walk the user half of page tables of Linux, given their root; print the seconds of the walk."""
    import memcarve  # noqa: PLC0415

    with memcarve.open(path, dtb=int(root, 16), paging=paging, system="linux") as container:
        begun = time.perf_counter()
        container.process(half="user")
        print(time.perf_counter() - begun)


def read_compressed(path: str) -> None:
    """Find the compressed pages of a process and read them all; print the processors' seconds of that."""
    import memcarve  # noqa: PLC0415

    with memcarve.open(path, page_files=[f"0={path}.pagefile0"]) as container:
        list(container.known([5000]))
        begun = time.process_time()
        process = container.process(5000, half="user")
        for segment in process.segments():
            for start in range(segment.start, segment.end, 1 << 20):
                process.read(start, min(1 << 20, segment.end - start))
        print(time.process_time() - begun)


def decode(method: str, path: str) -> None:
    """Decode compressed pages, all in one call; print the seconds."""
    import numpy as np  # noqa: PLC0415

    from memcarve.formats import compressed_pages  # noqa: PLC0415

    blocks = np.load(path)
    pages = 16 if method == compressed_pages.XPRESS_HUFFMAN else 1
    length = np.full(len(blocks["size"]), 4096 * pages, np.int64)
    target, columns = np.zeros(int(length.sum()), np.uint8), (blocks["offset"], blocks["size"])
    data, place = blocks["data"], np.cumsum(length) - length
    begun = time.perf_counter()
    assert compressed_pages.decode(method, data, *columns, target, place, length).all()  # noqa: S101
    print(time.perf_counter() - begun)


def decode_each(method: str, path: str) -> None:
    """Decode compressed pages one by one as libfwnt and lz4 do; print the seconds."""
    import lz4.block
    import numpy as np  # noqa: PLC0415
    import pyfwnt  # noqa: PLC0415

    decoders = {
        "Xpress": lambda block: pyfwnt.lzxpress_decompress(block, 4096),
        "Xpress Huffman": lambda block: pyfwnt.lzxpress_huffman_decompress(block, 65536),
        "LZ4": lambda block: lz4.block.decompress(block, 4096),
    }
    blocks = np.load(path)
    data, rows = blocks["data"].tobytes(), zip(blocks["offset"].tolist(), blocks["size"].tolist(), strict=True)
    begun = time.perf_counter()
    for offset, size in rows:
        decoders[method](data[offset : offset + size])
    print(time.perf_counter() - begun)


def index(path: str) -> None:
    """Open a hibernation file, which makes an index of it; print the seconds."""
    from memcarve.backing import FileBacking  # noqa: PLC0415
    from memcarve.formats.images import hiberfil  # noqa: PLC0415

    file = FileBacking(path)
    begun = time.perf_counter()
    hiberfil.read(file)
    print(time.perf_counter() - begun)


def read_pages(path: str) -> None:
    """Read all pages of a hibernation file, 4 MiB at a time; print the seconds."""
    from memcarve.backing import FileBacking  # noqa: PLC0415
    from memcarve.formats.images import hiberfil  # noqa: PLC0415

    memory = hiberfil.read(FileBacking(path))
    assert memory is not None  # noqa: S101
    buffer = memoryview(bytearray(1 << 22))
    begun = time.perf_counter()
    for offset in range(0, memory.backing.size, len(buffer)):
        memory.backing.read_into(offset, buffer[: memory.backing.size - offset])
    print(time.perf_counter() - begun)


def known(path: str) -> None:
    """List regions and threads of every process of an image that has memory."""
    import memcarve  # noqa: PLC0415

    with memcarve.open(path) as container:
        for index in [index for index, entry in enumerate(container.listed()) if entry.root is not None]:
            process = container.process(index=index, half="user")
            print(process.pid, len(process.regions), len(process.threads))


def walk_slowly(path: str, pid: str) -> None:
    """Walk them slot by slot, as the tests' oracle does, whose tables are all in memory; print the seconds."""
    import memcarve  # noqa: PLC0415

    sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "tests", "helpers"))
    import walker  # noqa: PLC0415

    with memcarve.open(path) as container:
        root = next(entry.root for entry in container.known([int(pid)]) if entry.pid == int(pid))
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size

        def read(physical: int, count: int) -> bytes | None:
            return os.pread(file.fileno(), count, physical) if physical + count <= size else None

        begun = time.perf_counter()
        walker.walk(read, root, "x86-64", "windows", limit=1 << 24, top=size)
        print(time.perf_counter() - begun)


def memprocfs(path: str | None = None) -> None:
    """List an image's processes with MemProcFS, which is under the AGPL; without an image, only see that it is here."""
    import memprocfs as theirs  # noqa: PLC0415

    if path is not None:
        options = ("-disable-symbolserver", "-disable-symbols", "-disable-python", "-disable-yara")
        machine = theirs.Vmm(["-device", path, *options])
        print(*(f"{process.pid} {process.ppid} {process.name}" for process in machine.process_list()), sep="\n")


def memprocfs_pages(path: str) -> None:
    """Read an image's physical memory as MemProcFS shows it, in its library's own file system, 1 MiB at a time."""
    import memprocfs as theirs  # noqa: PLC0415

    options = ("-disable-symbolserver", "-disable-symbols", "-disable-python", "-disable-yara")
    files = theirs.Vmm(["-device", path, *options]).vfs
    size, block = files.list("/")["memory.pmem"]["size"], 1 << 20
    begun = time.perf_counter()
    for place in range(0, size, block):
        files.read("/memory.pmem", min(block, size - place), place)
    print(time.perf_counter() - begun)


def rows_kept(path: str) -> None:
    """Read a map as scripts do today: every row split and kept, then four columns made of them."""
    with open(path, encoding="utf-8") as file:
        rows = [line.split() for line in file.readlines()[4:]]
    columns = [[int(row[place].replace("0x", ""), 16) for row in rows] for place in range(4)]
    print(len(columns[0]))


def fetched(path: str, pid: str, block: str) -> None:
    """Run `processes` and `carve --pid` on a file as if it lay elsewhere; print what of it was fetched, as JSON."""
    import contextlib  # noqa: PLC0415
    import io  # noqa: PLC0415
    import json  # noqa: PLC0415
    import tempfile  # noqa: PLC0415

    sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "tests", "helpers"))
    import counted_reads  # noqa: PLC0415
    import memcarve  # noqa: PLC0415
    from memcarve.cli.program import run  # noqa: PLC0415

    known: set[int] = set()
    told: list[tuple[int, int]] = []
    with tempfile.TemporaryDirectory() as folder:
        out = os.path.join(folder, "out")
        for command in (["processes", "-q", path], ["carve", "-q", path, "--pid", pid, "-o", out]):
            with counted_reads.counting() as files, contextlib.redirect_stdout(io.StringIO()):
                status = run(command)
            if status not in (0, 3):
                sys.exit(f"{command[0]} ended with {status}")
            told.append(counted_reads.fetched(files[0].reads, int(block), known))
        with memcarve.open(out) as container:
            own = container.process().space.total
    (listed, first), (carved, second) = told
    print(json.dumps({"processes": listed, "carve": carved, "waits": [first, second], "own": own}))


def _helpers() -> None:
    sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "tests", "helpers"))


def serve(path: str) -> None:
    """Serve a file by a small web server, until this is ended; ``?asked`` are the ranges since ``?forget``, as JSON."""
    import json  # noqa: PLC0415

    _helpers()
    from ranged_server import serving  # noqa: PLC0415

    with serving({os.path.basename(path): path}) as server:
        server.special = {
            "asked": lambda: json.dumps([each.range for each in server.asked if each.range]).encode(),
            "forget": lambda: (server.asked.clear(), b"")[1],
        }
        print(server.url(os.path.basename(path)), flush=True)
        time.sleep(1 << 20)


def bucket(path: str) -> None:
    """Serve a file by moto as an object of the bucket ``evidence``, until this is ended."""
    _helpers()
    import s3_server  # noqa: PLC0415

    with s3_server.bucket({}) as client, open(path, "rb") as file:
        client.upload_fileobj(file, s3_server.BUCKET, os.path.basename(path))
        client.put_object_acl(Bucket=s3_server.BUCKET, Key=os.path.basename(path), ACL="public-read")
        print(os.environ["AWS_ENDPOINT_URL"], flush=True)
        time.sleep(1 << 20)


def write_report_page(path: str, count: str) -> None:
    """Write a report of a process of as many segments."""
    from pathlib import Path  # noqa: PLC0415

    _helpers()
    import browsing  # noqa: PLC0415
    import report_documents  # noqa: PLC0415

    browsing.write(report_documents.report(report_documents.large(int(count))), Path(path))


def open_report_page(path: str, what: str) -> None:
    """Open a report in Chromium; print the seconds until it can be used, or those of each frame while it is zoomed."""
    from pathlib import Path  # noqa: PLC0415

    _helpers()
    import browsing  # noqa: PLC0415

    zooming = """async () => {
        const [canvas, begun] = [document.querySelector("#picture canvas"), performance.now()];
        for (let i = 0; i < 60; i += 1) {
            canvas.dispatchEvent(new WheelEvent("wheel", { deltaY: i < 30 ? -60 : 60, cancelable: true }));
            await new Promise(requestAnimationFrame);
        }
        return (performance.now() - begun) / 60;
    }"""
    with browsing.browser() as running, browsing.shown(running, Path(path)) as shown:
        waited = "() => Number(document.documentElement.dataset.interactive)"
        print(shown.page.evaluate(waited if what == "open" else zooming) / 1000)


def ask(url: str, ranges: str) -> None:
    """Ask for ranges of an object, one after the other, and do nothing with what comes."""
    import http.client  # noqa: PLC0415
    import json  # noqa: PLC0415

    host, _, name = url.partition("://")[2].partition("/")
    connection, buffer = http.client.HTTPConnection(host), bytearray(1 << 22)
    with open(ranges, encoding="utf-8") as file:
        wanted = json.load(file)
    for begin, end in wanted:
        connection.request("GET", f"/{name}", headers={"Range": f"bytes={begin}-{end - 1}"})
        answer = connection.getresponse()
        count = 0
        while some := answer.readinto(buffer):
            count += some
        if count != end - begin:
            sys.exit(f"{count} bytes came of {end - begin}")


def rows_dropped(path: str) -> None:
    """Read a map as more careful scripts do: a row is dropped as soon as its four numbers are in their lists."""
    virtual, physical, size, offset = [], [], [], []
    with open(path, encoding="utf-8") as file:
        lines = file.readlines()
    for line in lines[4:]:
        cells = line.split()
        virtual.append(int(cells[0].replace("0x", ""), 16))
        physical.append(int(cells[1].replace("0x", ""), 16))
        size.append(int(cells[2].replace("0x", ""), 16))
        offset.append(int(cells[3].replace("0x", ""), 16))
    print(len(virtual))


def empty(folder: str, count: str) -> None:
    """Create empty files in a new folder; print the seconds."""
    os.mkdir(folder)
    directory = os.open(folder, os.O_RDONLY)
    begun = time.perf_counter()
    for number in range(int(count)):
        os.close(os.open(f"{number:041x}.bin", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=directory))
    print(time.perf_counter() - begun)


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
