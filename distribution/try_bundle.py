"""Try an offline bundle as somebody who is offline does.

    python distribution/try_bundle.py dist/memcarve-0.1.0-linux-x86_64
    python distribution/try_bundle.py dist/memcarve-0.1.0-wheels-linux-x86_64.zip

The single file is tried where there is nothing: with a root file system of a shell, tar and gzip; no Python, pip or
network. Every job runs there and, with the memcarve of the Python that runs this, outside; both must come to the same.
That needs Linux, and bubblewrap (`bwrap`) or root and `unshare`; if neither can be used, it says so and ends with 77.

The wheels are installed without a network with each Python that is here, and the README's main job is done.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from wheels import PYTHONS

ROOT = Path(__file__).resolve().parents[1]
#: what the file needs of the system
_PROGRAMS = ("sh", "tar", "gzip", "tail", "mkdir", "mv", "rm")
_SKIPPED = 77
#: the README's main job first; then all that runs several processes at once, or needs something that is not Python
JOBS = """
carve examples/pid.1624.dmp -o one
verify one --source examples/pid.1624.dmp
segments examples/pid.1624.dmp --regions examples/vadinfo.txt --modules examples/dlllist.txt
segments examples/pid.1624.dmp.zst
processes mem.raw --format csv
carve mem.raw --all -o all
verify all
hunt mem.raw --format csv
scan mem.raw --all --rules examples/programs.yar --format csv
find mem.raw --all KERNEL32 --format csv
find examples/pid.1624.dmp --regex DOS.mode --format csv
strings mem.raw --pid 1624 --min-length 12 --format csv
extract mem.raw --pid 1624 --zip -o programs
export mem.raw --pid 1624 --to elfcore -o core
export examples/pid.1624.dmp --to scripts -o scripts
batch carve mem.raw examples/pid.1624.dmp --pid 1624 -o many
""".strip().splitlines()  # fmt: skip


def main() -> int:
    """Run every job inside and outside."""
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    file = Path(sys.argv[1]).resolve()
    if file.suffix == ".zip":
        return 1 if try_wheels(file) else 0
    with tempfile.TemporaryDirectory() as temporary:
        inner, outer = Path(temporary, "root", "case"), Path(temporary, "case")
        prepare(inner.parent, file)
        words = isolated(inner.parent)
        if words is None:
            print("NOT TRIED: neither bwrap works here, nor unshare and chroot (which need root)")
            return _SKIPPED
        evidence(inner)
        shutil.copytree(inner, outer)
        return 1 if compare(words, inner, outer) else 0


def try_wheels(archive: Path) -> list[str]:
    """Install from an archive of wheels with each Python; return those for which that, or the main job, fails."""
    alone = ["unshare", "--net"] if os.geteuid() == 0 and shutil.which("unshare") else []
    print(f"wheels: without a network{'' if alone else ' (only by pip: it takes root to have none)'}")
    wrong = []
    for version in PYTHONS:
        python = shutil.which(f"python{version}")
        if python is None or subprocess.run([python, "-V"], capture_output=True, check=False).returncode:
            print(f"NOT TRIED: Python {version} is not here")
            continue
        with tempfile.TemporaryDirectory() as temporary:
            shutil.unpack_archive(archive, temporary)
            (folder,) = Path(temporary).iterdir()
            (Path(temporary) / "python3").symlink_to(python)
            environment = {"HOME": temporary, "PATH": f"{temporary}:/usr/bin:/bin", "LANG": "C.UTF-8"}
            program, example, out = (
                f"{temporary}/memcarve/bin/memcarve",
                f"{ROOT}/examples/pid.1624.dmp",
                f"{temporary}/out",
            )
            jobs = [["sh", f"{folder}/install.sh"], [program, "carve", example, "-o", out]]
            jobs += [[program, "verify", out, "--source", example]]
            ran = [_run([*alone, *job], Path(temporary), environment) for job in jobs]
            good = not any(each.returncode for each in ran)
            print(f"{'works' if good else 'DOES NOT WORK'}: Python {version}")
            if not good:
                print(*(each.stderr[-500:] for each in ran))
                wrong.append(version)
    return wrong


def compare(words: list[str], inner: Path, outer: Path) -> list[str]:
    """Run the jobs; return those that came to something else."""
    environment = {"HOME": "/home", "PATH": "/bin", "LANG": "C.UTF-8"}
    inside_words, outside_words = [*words, "/bin/memcarve"], [sys.executable, "-P", "-m", "memcarve"]
    asked = ["debug-info"]
    lacking = [
        re.findall(r"(?m)^(\S+): not installed$", _run([*words, *asked], folder, given).stdout)
        for words, folder, given in ((inside_words, inner, environment), (outside_words, outer, {**os.environ}))
    ]
    wrong = [] if lacking[0] == lacking[1] else [f"debug-info: not in the file: {lacking[0]}"]
    print(*wrong, sep="\n", end="")
    for job in JOBS:
        inside = _run([*inside_words, *job.split()], inner, environment)
        outside = _run([*outside_words, *job.split()], outer, {**os.environ})
        told_same = job.startswith("batch") or inside.stdout == outside.stdout  # a batch tells how long it took
        same = told_same and inside.returncode == outside.returncode
        same &= inside.returncode in (0, 3) and _files(inner) == _files(outer)
        print(f"{'same' if same else 'NOT THE SAME'}: memcarve {job}", flush=True)
        if not same:
            files = sorted({path for path, _ in {*_files(inner).items()} ^ {*_files(outer).items()}})
            for ran in (inside, outside):
                print(ran.returncode, ran.stdout[-300:], ran.stderr[-300:])
            print(f"{len(files)} files differ: {files[:5]}")
            wrong.append(job)
    unpacked = inner.parent / "home" / ".cache" / "memcarve"
    left = [str(path) for path in [*(inner.parent / "tmp").iterdir(), *sorted(unpacked.iterdir())[1:]]]
    if left:
        print(f"left behind: {', '.join(left)}")
    return wrong + left


def _run(words: list[str], folder: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        words, cwd=folder, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )


def _files(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each file of memory; documents say when and where they were made."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.suffix in (".bin", ".map", ".py"))
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def prepare(root: Path, file: Path) -> None:
    """Make a root file system of the programs that the file needs, the libraries that these need, and the file."""
    for name in ("bin", "tmp", "home", "proc", "dev", "case"):
        (root / name).mkdir(parents=True)
    libraries: set[str] = set()
    for program in _PROGRAMS:
        path = shutil.which(program)
        if path is None:
            raise SystemExit(f"{program}: is not installed")
        shutil.copy(path, root / "bin" / program)
        listed = subprocess.run(["ldd", path], capture_output=True, text=True, check=False).stdout
        libraries |= set(re.findall(r"(/\S+) \(0x", listed))
    for name in ("libm.so.6", "libpthread.so.0", "libdl.so.2", "librt.so.1", "libutil.so.1"):  # those of glibc
        libraries |= {str(Path(each).with_name(name)) for each in libraries if each.endswith("/libc.so.6")}
    for library in filter(os.path.exists, libraries):
        (root / library[1:]).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(library, root / library[1:])
    shutil.copy(file, root / "bin" / "memcarve")


def isolated(root: Path) -> list[str] | None:
    """Return what runs a program with that root and no network, in its folder /case; None if nothing here can."""
    bubblewrap = ["bwrap", "--unshare-all", "--die-with-parent", "--bind", str(root), "/", "--proc", "/proc"]
    bubblewrap += ["--dev", "/dev", "--chdir", "/case"]
    script = 'mount --rbind /dev "$0/dev" && mount -t proc proc "$0/proc" && '
    script += """exec chroot "$0" /bin/sh -c 'cd /case && exec "$@"' sh "$@\""""
    unshared = ["unshare", "--net", "--pid", "--fork", "--mount", "sh", "-c", script, str(root)]
    for words in (bubblewrap, unshared):
        trial = [*words, "/bin/sh", "-c", ":"]
        if shutil.which(words[0]) and not subprocess.run(trial, capture_output=True, check=False).returncode:
            return words
    return None


def evidence(folder: Path) -> None:
    """Make what is carved: the example, also compressed, and an image of a Windows machine that never was."""
    from backports import zstd

    sys.path.insert(0, str(ROOT / "tests" / "helpers"))
    import winimage  # type: ignore[import-not-found] # it is on the path now

    winimage.build(folder / "mem.raw", processes=winimage.USERLAND)
    shutil.copytree(ROOT / "examples", folder / "examples")
    for name in ("pid.1624.dmp", "pid.1624.map"):
        (folder / "examples" / f"{name}.zst").write_bytes(zstd.compress((ROOT / "examples" / name).read_bytes()))


if __name__ == "__main__":
    sys.exit(main())
