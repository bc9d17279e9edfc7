"""Make a real Linux machine whose swap is compressed, and take its memory: a folder that the tests look for.

    python -m swap_machine.make KERNEL OUT [--zswap COMPRESSOR POOL | --zram COMPRESSOR] [--mem MIB] [--pages N]

KERNEL is a folder into which a distribution's kernel was unpacked (``dpkg -x linux-image-6.12...deb KERNEL``). OUT
becomes ``memory.raw``, the machine's memory, and ``truth.json``: of each page its address, its place in the swap, the
CRC-32 of what it holds. QEMU, gcc with a static libc, cpio and kmod are needed; no /dev/kvm is, it takes half a minute.

Tests look for folders ``swap-*`` where they look for machines (`linux_machines.folders`).
"""

from __future__ import annotations

import argparse
import gzip
import json
import lzma
import re
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

_HERE = Path(__file__).parent
_READY = "MACHINE READY"


def main() -> None:
    """Make the machine that the command line describes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("kernel", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--zswap", nargs=2)
    parser.add_argument("--zram")
    parser.add_argument("--mem", type=int, default=256)
    parser.add_argument("--pages", type=int, default=1024)
    parser.add_argument("--patience", type=int, default=300)
    options = parser.parse_args()
    config = [f"pages {options.pages}"]
    if options.zram:
        modules = ["zram", options.zram.replace("-", "_"), f"crypto_{options.zram}"]
        config += [
            f"write /sys/block/zram0/comp_algorithm {options.zram}",
            "write /sys/block/zram0/disksize 64M",
            "swap /dev/zram0 64",
        ]
    else:
        compressor, pool = options.zswap
        modules = ["brd", compressor, f"crypto_{compressor}", pool]
        config += [f"write /sys/module/zswap/parameters/{name} {value}" for name, value in (
            ("compressor", compressor), ("zpool", pool), ("enabled", "Y"),
        )]  # fmt: skip
        config += ["swap /dev/ram0 16"]
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        kernel = next(options.kernel.glob("**/vmlinuz*"))
        packed = _initramfs(work, options.kernel, modules, config)
        log = _run(kernel, packed, options.mem, options.out / "memory.raw", work, options.patience)
    rows = re.findall(r"PAGE ([0-9a-f]+) ([0-9a-f]+) ([0-9a-f]+) (\w+)", log, re.MULTILINE)
    pages = []
    for address, entry, crc, kind in rows:
        word = int(entry, 16)
        place = [word & 31, word >> 5 & (1 << 50) - 1] if word >> 62 & 1 else None
        pages.append({"address": int(address, 16), "swapped": place, "crc32": int(crc, 16), "kind": kind})
    how = {"zswap": options.zswap, "zram": options.zram, "kernel": kernel.name}
    (options.out / "truth.json").write_text(json.dumps({**how, "pages": pages}, separators=(",", ":")))
    said = [line for line in log.splitlines() if "INIT:" in line]
    count = sum(page["swapped"] is not None for page in pages)
    sys.stdout.write("\n".join([*said, f"{len(pages)} pages, {count} swapped out\n"]))


def _initramfs(work: Path, kernel: Path, modules: list[str], config: list[str]) -> Path:
    root = work / "root"
    for name in ("proc", "sys", "dev", "modules"):
        (root / name).mkdir(parents=True)
    subprocess.run(["gcc", "-O2", "-w", "-static", "-o", root / "init", _HERE / "init.c"], check=True)
    folder = next(path for path in kernel.glob("**/lib/modules/*") if path.is_dir())
    base = folder.parent.parent.parent
    if not (folder / "modules.dep").exists():
        subprocess.run(["depmod", "-b", base, folder.name], check=True)
    names = []
    for module in modules:
        command = ["modprobe", "-d", base, "-S", folder.name, "--show-depends", module]
        shown = subprocess.run(command, capture_output=True, text=True, check=False).stdout
        for path in (Path(line.split()[1]) for line in shown.splitlines() if line.startswith("insmod")):
            name = re.sub(r"\.(xz|zst)$", "", path.name)
            if name in names:
                continue
            names.append(name)
            data = path.read_bytes()
            data = lzma.decompress(data) if path.suffix == ".xz" else data
            (root / "modules" / name).write_bytes(data)
    (root / "config").write_text("\n".join([*(f"module {name}" for name in names), *config, ""]))
    listed = "\n".join(str(path.relative_to(root)) for path in sorted(root.rglob("*")))
    command = ["cpio", "-o", "-H", "newc", "--quiet"]
    packed = subprocess.run(command, input=listed.encode(), cwd=root, capture_output=True, check=True)
    target = work / "initrd.gz"
    target.write_bytes(gzip.compress(packed.stdout, 1))
    return target


def _run(kernel: Path, initramfs: Path, mem: int, target: Path, work: Path, patience: int) -> str:
    """Run the machine until it is ready, save its memory, and return what it wrote."""
    serial, monitor = work / "serial", work / "monitor"
    command = [
        *("qemu-system-x86_64", "-M", "q35", "-accel", "tcg", "-cpu", "max,la57=off", "-smp", "2"),
        *("-m", str(mem), "-nographic", "-nodefaults", "-no-reboot", "-kernel", kernel, "-initrd", initramfs),
        *("-append", "console=ttyS0 rdinit=/init panic=-1 loglevel=4 no_timer_check", "-serial", f"file:{serial}"),
        *("-qmp", f"unix:{monitor},server=on,wait=off"),
    ]
    machine = subprocess.Popen(command, stderr=subprocess.PIPE)
    try:
        end = time.monotonic() + patience
        while _READY not in (log := serial.read_text(errors="replace") if serial.exists() else ""):
            if machine.poll() is not None or time.monotonic() > end:
                machine.kill()
                said = machine.communicate()[1].decode(errors="replace")
                sys.exit(f"the machine was not ready:\n{log[-3000:]}\n{said}")
            time.sleep(0.5)
        with socket.socket(socket.AF_UNIX) as link:
            link.connect(str(monitor))
            file = link.makefile("rw")
            file.readline()
            for name, arguments in (
                ("qmp_capabilities", {}),
                ("stop", {}),
                ("pmemsave", {"val": 0, "size": mem << 20, "filename": str(target.absolute())}),
                ("quit", {}),
            ):
                file.write(json.dumps({"execute": name, "arguments": arguments}) + "\n")
                file.flush()
                while "return" not in (answer := json.loads(file.readline())):
                    if "error" in answer:
                        sys.exit(str(answer))
        return log
    finally:
        machine.kill()
        machine.wait()


if __name__ == "__main__":
    main()
