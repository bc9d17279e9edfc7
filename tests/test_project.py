"""The project itself: who imports whom, what an import costs, what is promised in words."""

from __future__ import annotations

import ast
import functools
import inspect
import re
import runpy
import subprocess
import sys
import tomllib
from typing import TYPE_CHECKING, NamedTuple

import pytest

import memcarve
from files import ROOT
from memcarve.version import __version__

if TYPE_CHECKING:
    from pathlib import Path

PACKAGE = ROOT / "src" / "memcarve"
FILES = sorted(PACKAGE.rglob("*.py"))

#: what DESIGN draws: a layer and those that it imports directly; what these import is open to it, too
ARROWS = {
    "errors": set(),
    "version": set(),
    "times": set(),
    "backing": {"errors", "dtypes", "times"},
    "dtypes": set(),
    "intervals": {"errors", "dtypes"},
    "permissions": {"errors", "dtypes"},
    "missing": {"intervals"},
    "vocabulary": {"errors"},
    "paths": set(),
    "addresses": {"errors", "paths"},
    "protection": {"errors"},
    "metadata": {"intervals", "protection", "vocabulary"},
    "linux_mappings": {"metadata"},
    "segments": {"intervals", "vocabulary"},
    "space": {"backing", "missing", "segments", "searching", "unreadable"},
    "searching": {"errors", "patterns", "dtypes", "intervals", "segments"},
    "note": set(),
    "process": {"note", "space", "permissions", "metadata", "linux_mappings", "addresses", "unreadable"},
    "unreadable": {"backing", "intervals"},
    "comparing": {"process"},
    "patterns": {"errors"},
    "copying": {"backing"},
    "file_systems": set(),
    "temporary_folders": {"errors", "file_systems"},
    "remote": {"backing", "forking", "temporary_folders", "times"},
    "formats": {"backing", "intervals", "remote", "temporary_folders", "vocabulary"},
    "images": {"formats", "process"},
    "labels": {"formats", "process"},
    "hunting": {"forking", "images", "labels", "process", "searching"},
    "hashing": {"backing"},
    "copies": set(),
    "forking": {"copies", "parent_program"},
    "parent_program": set(),
    "sources": {"images", "formats", "process", "provenance", "hashing"},
    "surroundings": {"version"},
    "provenance": {"backing", "formats", "remote", "process", "surroundings", "version"},
    "sinks": {
        *("copying", "file_systems", "forking", "hashing", "formats", "process", "provenance", "remote"),
        *("surroundings", "version"),
    },
    "mount": {"hunting", "labels", "provenance", "sinks"},
    "batching": {"forking", "remote", "sinks", "times", "vocabulary"},
    "report": {"comparing", "hunting", "labels", "provenance", "sinks", "times", "version"},
    "cli": {
        "batching",
        "parent_program",
        "hunting",
        "mount",
        "remote",
        "report",
        "sinks",
        "surroundings",
        "labels",
        "sources",
        "comparing",
        "vocabulary",
        "patterns",
        "addresses",
        "version",
    },
    "__main__": {"cli"},
    "__init__": {"cli", "hunting", "report", "sinks", "labels", "sources", "comparing", "patterns", "version"},
}
UNIX_ONLY = {
    "fcntl", "grp", "posix", "pty", "pwd", "readline", "resource", "syslog", "termios", "tty", "crypt", "curses",
}  # fmt: skip
#: under the AGPL and the GPL
MEMPROCFS = ("memprocfs", "leechcorepyc", "vmmpyc")
#: names that may stand twice: a format that is read and written; what two systems both have
BOTH_ENDS = {"minidump", "memmap", "folder", "images", "elf_core"}
BOTH_SYSTEMS = {"processes", "threads", "kernel", "learning"}
HEAVY = ("numpy", "click", "pyarrow", "rich", "backports.zstd", "concurrent.futures", "asyncio", "urllib.parse")
#: of `sources`, what a dump with its map needs, and what such a dump has no use for
OF_DUMPS = ("counterparts", "listings", "memmap", "opening", "recognised")
NOT_FOR_DUMPS = (
    *("memcarve.images.", "memcarve.formats.kernel_types", "memcarve.searching.", "memcarve.sinks", "memcarve.report"),
    *(
        "memcarve.labels.content",
        "memcarve.labels.same_files",
        "memcarve.labels.thread_flags",
        "memcarve.formats.listing",
    ),
    *("memcarve.formats.programs", "hashlib", "click.shell_completion", "cramjam", "lzallright"),
    *("memcarve.formats.decoded_file", "memcarve.forking", "ntpath", "shutil", "tempfile"),
)


def layer(module: str) -> str:
    """Return the layer of DESIGN that a module of memcarve belongs to."""
    words = module.split(".")
    name = words[1] if len(words) > 1 else "__init__"
    return "backing" if name == "_read_pieces" else name  # which is a part of it that is compiled


def module_of(path: Path) -> str:
    """Return a file's name as a module."""
    words = [*path.relative_to(PACKAGE.parent).with_suffix("").parts]
    return ".".join(words[:-1] if words[-1] == "__init__" else words)


class Said(NamedTuple):
    """What a file says: the modules that it imports, anywhere in it and when it is imported itself; its docstring."""

    imported: set[str]
    at_module_level: set[str]
    docstring: str | None


@functools.cache
def said(path: Path) -> Said:
    """Return what a file says, for types only too."""
    tree = ast.parse(path.read_text())
    return Said(_imported(path, tree), _at_module_level(tree), ast.get_docstring(tree))


def _imported(path: Path, tree: ast.Module) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module or ""}
    return found


def _at_module_level(tree: ast.Module) -> set[str]:
    found: set[str] = set()
    waiting: list[ast.AST] = [tree]
    while waiting:
        for node in ast.iter_child_nodes(waiting.pop()):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                found.add((node.module or "").partition(".")[0])
            elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
                waiting.append(node)
    return found


def open_to(name: str) -> set[str]:
    """Return the layers that a layer may import, directly or through others."""
    found: set[str] = set()
    waiting = [name]
    while waiting:
        for other in ARROWS[waiting.pop()] - found:
            found.add(other)
            waiting.append(other)
    return found


def test_arrows() -> None:
    """A module imports its own layer and those that the design's arrows lead to, for types too."""
    wrong = []
    for path in FILES:
        own = layer(module_of(path))
        assert own in ARROWS, f"{path}: {own} is no layer of the design"
        found = {layer(name) for name in said(path).imported if name.startswith("memcarve.") and name != "memcarve"}
        wrong += [f"{path} may not import {name}" for name in found - open_to(own) - {own}]
    assert wrong == []


@pytest.mark.parametrize("name", sorted(ARROWS.keys() - {"__init__", "__main__", "version"}))
def test_layers_are_documented(name: str) -> None:
    """docs/extending.md says what each layer is for, in the table of modules or in that of what goes where."""
    rows = [row for row in (ROOT / "docs/extending.md").read_text("utf-8").splitlines() if row.startswith("| ")]
    assert any(f"`{name}/" in row or f"`{name}.py`" in row for row in rows)


def test_sources_and_sinks_never_meet() -> None:
    """Neither sources nor sinks can be reached from the other by any path of arrows."""
    assert "sinks" not in open_to("sources")
    assert "sources" not in open_to("sinks")
    assert open_to("formats") == {
        *("backing", "dtypes", "errors", "intervals", "times", "vocabulary"),
        *("copies", "file_systems", "forking", "parent_program", "remote", "temporary_folders"),
    }


def test_volatility_is_neither_imported_nor_run() -> None:
    """Nothing imports Volatility or its relatives, nor MemProcFS; nothing runs another program, but a batch itself."""
    others = {"volatility3", "volatility", "volatility2", "rekall", "subprocess", *MEMPROCFS}
    found = [
        (module_of(path), name)
        for path in FILES
        for name in sorted({name.partition(".")[0] for name in said(path).imported} & others)
    ]
    assert found == [("memcarve.batching.children", "subprocess")]


def test_memprocfs_has_a_process_of_its_own() -> None:
    """Of the tests and the benchmarks, only the scripts that run MemProcFS in a process of its own import it."""
    files = [file for name in ("tests", "bench") for file in sorted((ROOT / name).rglob("*.py"))]
    texts = re.compile("|".join(MEMPROCFS))
    found = {file.name for file in files if texts.search(file.read_text()) and said(file).imported & {*MEMPROCFS}}
    assert found <= {"memprocfs_reader.py", "memprocfs_search.py", "children.py"}


def test_no_unix_only_import_at_module_level() -> None:
    """What only Unix has is imported where it is used, so that every module can be imported on Windows."""
    assert [path for path in FILES if said(path).at_module_level & UNIX_ONLY] == []


def test_every_module_says_what_it_is() -> None:
    """Every module begins with a docstring."""
    assert [path for path in FILES if not said(path).docstring] == []


def loaded(statement: str) -> set[str]:
    """Return which of the heavy modules are loaded after a statement in a fresh interpreter."""
    script = f"import sys\n{statement}\nprint(*[name for name in {HEAVY} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, check=True)
    return set(found.stdout.split())


def test_import_is_light() -> None:
    """Importing memcarve imports none of the heavy packages."""
    assert loaded("import memcarve") == set()


def test_help_is_light() -> None:
    """What --help needs is click alone."""
    assert loaded("import memcarve.cli") <= {"click"}


def test_a_commands_help_is_light() -> None:
    """What a command's own --help needs is click alone."""
    script = "import contextlib, io, memcarve.cli.program\nwith contextlib.redirect_stdout(io.StringIO()) as text:\n"
    script += "    memcarve.cli.program.run(['carve', '--help'])\nassert '--min-size' in text.getvalue()"
    assert loaded(script) <= {"click"}


def test_carving_needs_no_more_than_numpy() -> None:
    """Carving from a text map loads numpy, and neither pyarrow nor rich."""
    assert loaded("import memcarve; memcarve.open; memcarve.carve; memcarve.verify") <= {"numpy", "urllib.parse"}


def test_reading_a_file_on_disk_is_light() -> None:
    """Nothing that only inputs that lie elsewhere need is loaded for a dump on disk."""
    dump = str(ROOT / "examples" / "pid.1624.dmp")
    assert loaded(f"import memcarve\nwith memcarve.open({dump!r}) as opened:\n    opened.process()") <= {"numpy"}


def test_segments_of_a_dump_import_what_they_need() -> None:
    """What `segments` of a dump loads is neither for other kinds of input nor for what was not asked for."""
    dump = str(ROOT / "examples" / "pid.1624.dmp")
    script = (
        "import contextlib, io, sys, memcarve.cli.program\nwith contextlib.redirect_stdout(io.StringIO()) as text:\n"
    )
    script += f"    memcarve.cli.program.run(['segments', {dump!r}, '--format', 'csv'])\nprint(*sys.modules)"
    script += "\nassert text.getvalue().count('\\n') == 115"
    ran = subprocess.run([sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, check=True)
    found = {*ran.stdout.split()}
    others = {each.stem for each in (PACKAGE / "sources").iterdir() if each.stem not in OF_DUMPS}
    assert {f"memcarve.sources.{name}" for name in OF_DUMPS} < found
    assert not found & {f"memcarve.sources.{name}" for name in others}
    assert not {name for name in found if name.startswith(NOT_FOR_DUMPS)}


def test_exports_import_what_they_need(tmp_path: Path) -> None:
    """What `export` loads is not for other outputs, for what is replaced or gone on with, nor numpy's `ma`."""
    words = ["export", str(ROOT / "examples" / "pid.1624.dmp"), "--to", "minidump", "-q", "-o", str(tmp_path / "out")]
    script = f"import sys, memcarve.cli.program\nmemcarve.cli.program.run({words!r})\nprint(*sys.modules)"
    ran = subprocess.run([sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, check=True)
    found = {*ran.stdout.split()}
    assert "memcarve.sinks.minidump" in found
    others = {f"memcarve.sinks.{name}" for name in ("carved_folder", "elfcore", "scripts", "extract", "verify")}
    assert not found & {"numpy.ma", "zipfile", "pathlib", *others}


def test_numpy_ma_is_not_imported() -> None:
    """No member of numpy is used that imports `numpy.ma`, which takes as long as much of a command."""
    calls = {"unique", "union1d", "setdiff1d", "intersect1d"}
    spared = {"return_index", "return_inverse", "return_counts", "axis"}  # of `unique`; rows are seldom compared
    found = [
        f"{path.name}:{node.lineno}"
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and ast.unparse(node.func.value) == "np"
        and node.func.attr in calls
        and not spared & {str(keyword.arg) for keyword in node.keywords}
    ]
    assert found == []


@pytest.mark.parametrize("name", memcarve.__all__)
def test_public_names(name: str) -> None:
    """Every public name can be had, and has a docstring of its own."""
    value = getattr(memcarve, name)
    if name == "__version__":
        assert value == __version__
        return
    assert inspect.getdoc(value)
    assert not (value.__doc__ or "").startswith(f"{name}(")  # what NamedTuple writes by itself


def test_public_names_are_listed() -> None:
    """The public names are listed in order, once, and dir() shows them."""
    assert memcarve.__all__ == sorted(set(memcarve.__all__))
    assert dir(memcarve) == sorted(memcarve.__all__)
    assert {"open", "carve", "verify", "Container", "ProcessMemory", "MemcarveError"} < set(memcarve.__all__)
    with pytest.raises(AttributeError, match="no_such_name"):
        getattr(memcarve, "no_such_name")  # noqa: B009 - a type checker would complain of the plain way


def test_typed() -> None:
    """The package says that it is typed."""
    assert (PACKAGE / "py.typed").is_file()
    assert 'packages = ["src/memcarve"]' in (ROOT / "pyproject.toml").read_text()  # with all that is in it


def test_programs_of_users_are_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A small program that uses the library passes mypy --strict, and a slip in it is found."""
    monkeypatch.chdir(ROOT)  # with what mypy knows of the library from checking it
    api = pytest.importorskip("mypy.api")
    program = (
        'import memcarve\nwith memcarve.open("x") as m:\n    for p in m:\n'
        '        for s in p.segments(half="user"):\n            s.name.upper()\n'
    )
    for name, text, code in (("good", program, 0), ("slip", program.replace(".upper()", ".size"), 1)):
        (tmp_path / f"{name}.py").write_text(text)
        told, _, status = api.run(["--strict", str(tmp_path / f"{name}.py")])
        assert status == code, told
        assert ("has no attribute" in told) == bool(code)


STALE = """
import importlib, sys, types
part, user, called, *numbers = sys.argv[1:]
package, _, name = part.rpartition(".")
module = importlib.import_module(user)
for number in numbers:
    fake = types.SimpleNamespace(**{called: print}, **({"INTERFACE": int(number)} if number else {}))
    sys.modules[part] = fake
    setattr(importlib.import_module(package), name, fake)
    print(importlib.reload(module).IS_COMPILED)
"""


@pytest.mark.parametrize(
    ("part", "user", "called"),
    [
        ("memcarve._read_pieces", "memcarve.backing", "read_pieces"),
        ("memcarve.labels._byte_counts", "memcarve.labels.text_stats", "count_windows"),
        ("memcarve.formats.compressed_pages._compiled", "memcarve.formats.compressed_pages", "decode"),
    ],
)
def test_what_was_compiled_of_other_sources_is_not_used(part: str, user: str, called: str) -> None:
    """A compiled part is used if its number is that of the C beside it; one with another number, or none, is not."""
    source = (PACKAGE.parent / part.replace(".", "/")).with_suffix(".c").read_text(encoding="utf-8")
    found = re.search(r"INTERFACE = (\d+)", source)
    assert found is not None
    number = int(found[1])
    command = [sys.executable, "-c", STALE, part, user, called, str(number), str(number - 1), str(number + 1), ""]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert ran.stdout.split() == ["True", "False", "False", "False"]


def test_licence() -> None:
    """LICENSE is the text of the Apache License 2.0, and pyproject.toml says so."""
    text = (ROOT / "LICENSE").read_text()
    assert re.match(r"\s*Apache License\s+Version 2\.0, January 2004\s+http://www\.apache\.org/licenses/", text)
    assert "END OF TERMS AND CONDITIONS" in text
    assert 'license = "Apache-2.0"' in (ROOT / "pyproject.toml").read_text()


def test_version_is_in_the_changelog() -> None:
    """The newest entry of the changelog is the version's."""
    headings = re.findall(r"(?m)^## \[?v?(\d+\.\d+[\w.]*)", (ROOT / "CHANGELOG.md").read_text())
    assert headings
    assert headings[0] == __version__
    assert f"\nversion: {__version__}\n" in (ROOT / "CITATION.cff").read_text()
    assert f'version="{__version__}"\n' in (ROOT / "Dockerfile").read_text()


def test_nothing_knows_the_workplace() -> None:
    """No file of the package, the tests or the documentation names a folder of the machine it was written on."""
    places = [ROOT / name for name in ("src", "tests", "docs", "examples", "bench", "README.md", "CONTRIBUTING.md")]
    files = [file for place in places for file in (place.rglob("*") if place.is_dir() else [place])]
    texts = [file for file in files if file.suffix in {".py", ".md", ".toml"} and file.is_file()]
    workplace = re.compile(r"(?<![\w.])/(?:work)/(?:main|shared)\b")
    assert [str(file) for file in texts if workplace.search(file.read_text())] == []


def test_names_say_what_is_in_the_room() -> None:
    """No module's name is vague or stands twice, but for the ends of one format and what two systems both have."""
    shape = runpy.run_path(str(ROOT / "bench" / "shape.py"))["Shape"](PACKAGE)
    assert shape.vague == []
    twice = {name for name, count in shape.modules.items() if count > 1}
    assert twice <= BOTH_ENDS | BOTH_SYSTEMS, twice


def test_dtypes_are_named_once() -> None:
    """What an array holds is said by a name of dtypes.py, which alone spells it out."""
    assert [path.name for path in FILES if "NDArray" in path.read_text()] == ["dtypes.py"]


def test_imports_stand_at_the_top() -> None:
    """The linter is asked for no exception about imports: those it allows in functions stand in pyproject.toml."""
    assert [path for path in FILES if re.search("PLC0415|TID253", path.read_text())] == []


def test_tests_import_no_test() -> None:
    """What several test modules share is in tests/helpers; none imports another."""
    tests = sorted((ROOT / "tests").rglob("*.py"))
    names = {path.stem for path in tests if path.stem.startswith("test_")}
    assert [path.name for path in tests if said(path).imported & names] == []


def test_tools_are_pinned() -> None:
    """Every package that the extras of development name has one version in constraints.txt, which README uses."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    lines = [line for name in ("dev", "docs") for line in extras[name]]
    named = {re.split(r"[^\w.-]", line, maxsplit=1)[0].lower() for line in lines}
    pinned = {line.partition("==")[0].lower() for line in (ROOT / "constraints.txt").read_text().splitlines()}
    assert named - pinned <= {"memcarve"}
    assert "pip install -q -c constraints.txt -e '.[dev]'" in (ROOT / "README.md").read_text()


def test_tests_state_facts() -> None:
    """Every test has a docstring whose first line is a sentence: the fact that it states."""
    missing = []
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                first = (ast.get_docstring(node) or "").partition("\n")[0]
                if not first.endswith((".", ":")):
                    missing.append(f"{path.name}:{node.lineno} {node.name}")
    assert missing == []
