"""The site: the pages beside this file, the README in front, and a reference made of the docstrings of public names."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import TYPE_CHECKING

from docutils.statemachine import StringList
from sphinx.util.docutils import SphinxDirective
from sphinx.util.parsing import nested_parse_to_nodes

import memcarve
from memcarve.version import __version__

if TYPE_CHECKING:
    from docutils import nodes
    from sphinx.application import Sphinx

project = "memcarve"
author = "The memcarve authors"
release = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc"]
html_theme = "furo"
html_title = f"memcarve {__version__}"
html_copy_source = False
html_extra_path = ["../src/memcarve/report/report.schema.json"]
myst_heading_anchors = 4  # as GitHub makes them
suppress_warnings = ["ref.python"]  # `bytes` is a type, and a member of several classes
default_role = "literal"  # docstrings use single backticks
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True

ROOT = Path(__file__).resolve().parents[1]
#: pages that begin with a file of the folder above
ABOVE = {"index": "README.md", "contributing": "CONTRIBUTING.md", "changelog": "CHANGELOG.md"}
_PAGES = {ROOT / file: f"{page}.md" for page, file in ABOVE.items()}
_LINK = re.compile(r"\[([^\]]+)\]\(((?!https?:|mailto:)[^)#\s]+)(#[^)]*)?\)")


class PublicNames(SphinxDirective):
    """Document every public name that is of a kind: functions, classes, exceptions."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Have autodoc write a section of each name."""
        lines: list[str] = []
        for name in memcarve.__all__:
            value = getattr(memcarve, name)
            error = inspect.isclass(value) and issubclass(value, BaseException)
            kind = "exception" if error else "class" if inspect.isclass(value) else "function"
            if kind == self.arguments[0] and name != "__version__":
                lines += [f".. auto{kind}:: memcarve.{name}", "   :members:" if kind == "class" else "", ""]
        return nested_parse_to_nodes(self.state, StringList(lines, source="memcarve"), offset=self.content_offset)


def page(app: Sphinx, name: str, source: list[str]) -> None:
    """Put the file above in front, and let links lead to pages; show files that have none by their paths."""
    folder = ROOT if name in ABOVE else Path(app.srcdir)

    def link(found: re.Match[str]) -> str:
        text, path, anchor = found.groups()
        file = (folder / path).resolve()
        if not file.is_file():
            raise ValueError(f"{name}: links to {path}, which is no file")
        if file.parent == Path(app.srcdir):
            return f"[{text}]({file.name}{anchor or ''})"
        return f"[{text}]({_PAGES[file]}{anchor or ''})" if file in _PAGES else f"`{file.relative_to(ROOT)}`"

    if name in ABOVE:
        app.env.note_dependency(ROOT / ABOVE[name])
        source[0] = f"{(ROOT / ABOVE[name]).read_text(encoding='utf-8')}\n{source[0]}"
    source[0] = _LINK.sub(link, source[0])


def setup(app: Sphinx) -> None:
    """Add what the pages use."""
    app.add_directive("public-names", PublicNames)
    app.connect("source-read", page)
