"""The report as one HTML file that loads nothing: the page's parts, and the document in it as data.

Names in the document come from machines that may be hostile. It stands in a script element of a type that no browser
runs, in ASCII, and without ``<``, ``>`` and ``&``, so that nothing in it ends the element or begins another (HTML
Standard, 4.12.1.3); the page's script reads it with JSON.parse. The policy lets run the page's own script and style
alone, by their hashes (Content Security Policy Level 3, 2.3.1), and load nothing.
"""

from __future__ import annotations

import base64
import hashlib
import html
import importlib.resources
import re
from typing import TYPE_CHECKING

from memcarve.errors import printable
from memcarve.version import __version__

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

#: the parts of the page's script, in the order in which they stand
SCRIPTS = ("text", "ranges", "scale", "painting", "picture", "tables", "details", "searching", "page")
#: what a report says of who wrote it, in its second line
MARK = "<!-- written by memcarve "
_DOCTYPE = "<!DOCTYPE html>\n"
_PART = re.compile(r"\{\{(title|csp|style|script|document)\}\}")
#: what an element of HTML can end or begin with; in JSON they are in strings alone
_ESCAPES = str.maketrans({character: f"\\u{ord(character):04x}" for character in "<>&\u2028\u2029"})


def page(title: str, document: Iterable[str]) -> Iterator[str]:
    """Yield the page in pieces; `document` is JSON in ASCII, in pieces."""
    style, script = _part("style.css"), _script()
    parts = {
        "title": html.escape(printable(title)),
        "csp": html.escape(policy(style, script)),
        "style": style,
        "script": script,
    }
    template = _part("page.html").removeprefix(_DOCTYPE)
    yield f"{_DOCTYPE}{MARK}{__version__}: a report of memory, which may hold secrets and malware -->\n"
    at = 0
    for found in _PART.finditer(template):
        yield template[at : found.start()]
        at = found.end()
        if found[1] == "document":
            yield from (piece.translate(_ESCAPES) for piece in document)
        else:
            yield parts[found[1]]
    yield template[at:]


def policy(style: str, script: str) -> str:
    """Return what the page may do: run this script, use this style, show pictures that are in it, and nothing else."""
    return (
        f"default-src 'none'; script-src '{_hash(script)}'; style-src '{_hash(style)}'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def _script() -> str:
    """Return the page's script: its parts in one function, so that their names are not the window's."""
    return '(() => {\n"use strict";\n' + "".join(_part(f"{name}.js") for name in SCRIPTS) + "})();\n"


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode('utf-8')).digest()).decode('ascii')}"


def _part(name: str) -> str:
    """Return a part of the page: with line ends as browsers hash them."""
    found = importlib.resources.files("memcarve.report").joinpath("page", name).read_text("utf-8")
    return found.replace("\r\n", "\n")
