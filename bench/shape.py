"""Measure the house: how many kinds of thing there are, and what their names say.

    python bench/shape.py [FOLDER]

prints counts over the source below FOLDER (default: this checkout's ``src/memcarve``), one a line, each with what was
counted. They are for comparing two states of the project; nothing here judges.

A class is a kind of range if it holds a beginning and an extent: as members, or as `start` and `size` that it is made
with. One that is derived from another kind is of that kind. Classes that describe what stands in a file or in an
operating system's memory (a header, a section, where members of a structure lie) are counted apart, as records: those
below ``formats/``, ``images/windows/`` and ``images/linux/``, and headers of programs.
"""

from __future__ import annotations

import ast
import re
import sys
from collections import Counter, defaultdict
from pathlib import Path

#: a class with a beginning and an extent is a kind of range, whatever else it holds
_BEGINS = {"start", "begin", "address", "base", "low"}
_EXTENTS = {"size", "end", "last", "high"}
#: how classes end that say what to do, or what was done
_SAID = re.compile(
    r"(Options|Result|Results|Written|Outcome|Extracted|Verified|Loaded|Carved|Exported|Settings|Selection)$"
)
#: module names that do not say what is in the room
_VAGUE = {
    "common", "data", "evidence", "found", "helpers", "info", "kinds", "knowledge", "known", "members", "misc", "names",
    "options", "parts", "places", "placing", "records", "rows", "seeking", "shared", "showing", "table",
    "text", "things", "tools", "types", "util", "utils", "work",
}  # fmt: skip
#: where classes are records of files and of operating systems
_RECORDS = re.compile(r"(formats|images/(windows|linux))/|labels/headers\.py")
_ARRAY = re.compile(r"npt\.NDArray\[np\.(\w+)\]$")


class Shape:
    """What stands in the files below a folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.ranges: list[str] = []
        self.records: list[str] = []
        self._bases: dict[str, set[str]] = {}
        self.said: list[str] = []
        self.aliases: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self.modules: Counter[str] = Counter()
        self.vague: list[str] = []
        self.lines = self.logic = self.lazy = self.getattrs = self.classes = self.functions = 0
        for path in sorted(root.rglob("*.py")):
            self._read(path)

    def _read(self, path: Path) -> None:
        name = str(path.relative_to(self.root))
        stem = path.stem if path.stem != "__init__" else path.parent.name
        if path.stem != "__main__" and path.parent != self.root.parent:
            self.modules[stem] += 1
        if stem in _VAGUE:
            self.vague.append(name)
        text = path.read_text(encoding="utf-8")
        lines = text.splitlines()
        self.lines += len(lines)
        self.logic += sum(bool(line.strip()) and not line.strip().startswith("#") for line in lines)
        self.lazy += text.count("noqa: PLC0415")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ClassDef):
                self._class(node, name)
            elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                self.functions += 1
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "getattr":
                self.getattrs += 1
            elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                found = _ARRAY.match(ast.unparse(node.value))
                if found:
                    self.aliases[found[1]][node.targets[0].id] += 1

    def _class(self, node: ast.ClassDef, name: str) -> None:
        self.classes += 1
        fields = {
            each.target.id
            for each in node.body
            if isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name)
        }
        made = [each for each in node.body if isinstance(each, ast.FunctionDef) and each.name == "__init__"]
        given = {argument.arg for each in made for argument in each.args.args}
        fields |= given if {"start", "size"} <= given else set()
        self._bases[node.name] = {each.id for each in node.bases if isinstance(each, ast.Name)}
        if fields & _BEGINS and fields & _EXTENTS:
            (self.records if _RECORDS.match(name) else self.ranges).append(f"{name}:{node.name}")
        if _SAID.search(node.name) and not node.name.startswith("_"):
            self.said.append(f"{name}:{node.name}")

    def _above(self, name: str) -> set[str]:
        """Return what a class is derived from."""
        return {each for base in self._bases.get(name, ()) for each in ({base} | self._above(base))}

    def report(self) -> list[tuple[str, int, str]]:
        """Return what was counted, how many, and which."""
        twice = [f"{stem} x{count}" for stem, count in sorted(self.modules.items()) if count > 1]
        aliases = [f"{dtype}: {', '.join(sorted(names))}" for dtype, names in sorted(self.aliases.items())]
        kinds = {each.rpartition(":")[2] for each in self.ranges}
        ranges = [each for each in self.ranges if not self._above(each.rpartition(":")[2]) & kinds]
        several = sum(len(names) > 1 or sum(names.values()) > 1 for names in self.aliases.values())
        return [
            ("lines", self.lines, ""),
            ("lines that are neither blank nor comments", self.logic, ""),
            ("classes", self.classes, ""),
            ("functions", self.functions, ""),
            ("kinds of range", len(ranges), "; ".join(ranges)),
            ("records with an address and a size", len(self.records), "; ".join(self.records)),
            ("types of options and results", len(self.said), "; ".join(self.said)),
            ("dtypes with more than one alias", several, "; ".join(aliases)),
            ("module names that exist twice", len(twice), ", ".join(twice)),
            ("module names that say little", len(self.vague), ", ".join(self.vague)),
            ("calls of getattr", self.getattrs, ""),
            ("imports inside functions", self.lazy, ""),
        ]


def main() -> int:
    """Print the report."""
    given = sys.argv[1:]
    root = Path(given[0]) if given else Path(__file__).resolve().parent.parent / "src" / "memcarve"
    for what, count, which in Shape(root).report():
        print(f"{count:6}  {what}" + (f": {which}" if which else ""))
    return 0


if __name__ == "__main__":
    sys.exit(main())
