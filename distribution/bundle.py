"""The offline bundle: a folder of wheels with an install script, and the program as a single file that needs no Python.

The single file is a shell script (`launcher.sh`) and a compressed archive of what PyInstaller gathers. Both come out
equal, byte by byte, if they are made again of the same commit on the same system.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
import time
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

from wheels import PIP, PYTHONS, applying, download, needed, requirements, this_system

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[1]
#: what a bundle has besides what memcarve cannot do without: all but pyarrow, which alone is larger than the rest
EXTRAS = ("blake3", "disassembly", "dwarf", "find", "lz4", "yara", "zip")
#: what is imported by name only
_WHOLE = (
    "memcarve",
    "backports.zstd",
    "blake3",
    "capstone",
    "cramjam",
    "elftools",
    "hyperscan",
    "lz4",
    "lzallright",
    "yara_x",
)
#: what no command needs: the debugger and its like, and graphics
_WITHOUT = (
    "pdb",
    "pydoc",
    "readline",
    "tkinter",
    "unittest",
    "numpy.f2py",
    "numpy.testing",
    "IPython",
    "setuptools",
    "pip",
)
_ENTRY = "from memcarve.cli import main\n\nif __name__ == '__main__':\n    main()\n"
_LEVEL = 6  # of gzip: 9 takes twice as long for 1 % less


def wheelhouse(wheel: Path, out: Path, system: str) -> Path:
    """Write a zip of memcarve's wheel and of all that it needs, for each Python that it runs with; return its path."""
    name = f"{'-'.join(wheel.name.split('-')[:2])}-wheels-{system}"
    with tempfile.TemporaryDirectory() as temporary:
        wheels = Path(temporary, "wheels")
        wanted = [each for extra in ("", *EXTRAS) for each in requirements()[extra]]
        for python in PYTHONS:
            found = needed(applying(wanted, system, python), system, python)
            download([f"{name}=={version}" for name, version in {**found, "pip": PIP}.items()], system, python, wheels)
        shutil.copy(wheel, wheels)
        script = "install.cmd" if system.startswith("windows") else "install.sh"
        text = (ROOT / "distribution" / script).read_bytes().replace(b"@EXTRAS@", ",".join(EXTRAS).encode())
        Path(temporary, script).write_bytes(text)
        files = sorted(wheels.iterdir())
        sums = "".join(f"{hashlib.sha256(each.read_bytes()).hexdigest()}  wheels/{each.name}\n" for each in files)
        Path(temporary, "SHA256SUMS").write_text(sums, encoding="utf-8", newline="\n")
        target = out / f"{name}.zip"
        with zipfile.ZipFile(target, "w") as archive:  # wheels are compressed already
            for path in [Path(temporary, script), Path(temporary, "SHA256SUMS"), *files]:
                entry = zipfile.ZipInfo(f"{name}/{path.relative_to(temporary).as_posix()}", _date())
                entry.external_attr = (0o100755 if path.name == script else 0o100644) << 16
                archive.writestr(entry, path.read_bytes())
    return target


def single_file(python: Path, packages: list[str], out: Path, version: str) -> Path:
    """Write the single file of an environment's `packages`, which has PyInstaller as well; return its path."""
    target = out / f"memcarve-{version}-{this_system()}"
    with tempfile.TemporaryDirectory() as temporary:
        folder = _gathered(python, packages, Path(temporary))
        packed = io.BytesIO()
        with (
            gzip.GzipFile("", "wb", _LEVEL, packed, mtime=0) as compressed,
            tarfile.open(fileobj=compressed, mode="w", format=tarfile.USTAR_FORMAT) as archive,
        ):
            for path in sorted(folder.rglob("*")):
                archive.add(path, path.relative_to(folder).as_posix(), recursive=False, filter=_anonymous)
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    target.write_bytes(with_launcher(packed.getvalue(), size, version))
    target.chmod(0o755)
    return target


def with_launcher(content: bytes, size: int, version: str) -> bytes:
    """Return a single file of a compressed archive, which unpacks to `size` bytes."""
    script = (ROOT / "distribution" / "launcher.sh").read_text(encoding="utf-8")
    fields = {
        "VERSION": version,
        "NAME": f"{version}-{hashlib.sha256(content).hexdigest()[:16]}",
        "SIZE": str((size >> 20) + 1),
    }
    for name, value in fields.items():
        script = script.replace(f"@{name}@", value)
    length = len(script.replace("@OFFSET@", "0000000").encode())
    return script.replace("@OFFSET@", f"{length + 1:07}").encode() + content


def _gathered(python: Path, packages: list[str], temporary: Path) -> Path:
    """Have PyInstaller gather the program, its libraries and its Python in a folder; return it."""
    entry = temporary / "start.py"
    entry.write_text(_ENTRY, encoding="utf-8")
    words = [str(python), "-m", "PyInstaller", "--noconfirm", "--log-level", "ERROR", "--name", "memcarve", "--onedir"]
    for option, folder in (("distpath", "dist"), ("workpath", "work"), ("specpath", "spec")):
        words += [f"--{option}", str(temporary / folder)]
    words += [word for name in _WHOLE for word in ("--collect-all", name)]
    words += [word for name in packages for word in ("--copy-metadata", name)]
    words += [word for name in _WITHOUT for word in ("--exclude-module", name)]
    environment = {**os.environ, "PYTHONHASHSEED": "0", "SOURCE_DATE_EPOCH": os.environ.get("SOURCE_DATE_EPOCH", "0")}
    subprocess.run([*words, str(entry)], check=True, env=environment, cwd=temporary)
    return temporary / "dist" / "memcarve"


def _anonymous(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    """Return an entry that says nothing of who made it, where and when."""
    entry.uid = entry.gid = entry.mtime = 0
    entry.uname = entry.gname = ""
    entry.mode = 0o755 if entry.isdir() or entry.mode & 0o100 else 0o644
    return entry


def _date() -> tuple[int, int, int, int, int, int]:
    """Return the time that SOURCE_DATE_EPOCH says, as zip archives hold times."""
    found = time.gmtime(int(os.environ.get("SOURCE_DATE_EPOCH", "315532800")))
    return found[:6]


def glibc_needed(file: Path) -> str | None:
    """Return the newest version of glibc that anything in a single file asks for, or None if there is no objdump."""
    if not shutil.which("objdump"):
        return None
    newest = (0, 0)
    with tempfile.TemporaryDirectory() as temporary:
        for library in _libraries(file, Path(temporary)):
            asked = subprocess.run(["objdump", "-T", str(library)], check=False, capture_output=True, text=True).stdout
            found = {(int(major), int(minor)) for major, minor in re.findall(r"GLIBC_(\d+)\.(\d+)", asked)}
            newest = max(newest, *found) if found else newest
    return "{}.{}".format(*newest)


def _libraries(file: Path, folder: Path) -> Iterator[Path]:
    """Unpack a single file, and yield the programs and libraries in it."""
    offset = re.search(rb"tail -c \+(\d+)", file.read_bytes()[:8192])
    if offset is None:
        raise ValueError(f"{file}: is not a single file of memcarve")
    with tarfile.open(fileobj=io.BytesIO(file.read_bytes()[int(offset[1]) - 1 :]), mode="r:gz") as archive:
        archive.extractall(folder, filter="data")
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.is_symlink():
            with path.open("rb") as opened:
                if opened.read(4) == b"\x7fELF":
                    yield path
