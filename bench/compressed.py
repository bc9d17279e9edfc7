"""Compressed pages: how fast they are decoded, and how fast a hibernation file is opened and read."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from measure import Contender, in_turn
from places import HERE, make_compressed, place
from table import Goal, Row

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from benchmarks import Settings

_PAGES = 100_000
_GOAL = Goal("seconds", 2.0)


def compressed(settings: Settings, command: Callable[..., list[str]]) -> Iterator[Row]:
    """Decode many pages of each method, those with Huffman codes in sets of 16; open and read a hibernation file.

    LZO is that of Linux's lzo-rle, which nothing else decodes.
    """
    del command
    child = [sys.executable, str(HERE / "children.py")]
    pages = min(_PAGES, settings.pages)
    with place(settings.fast, settings.place(settings.fast)) as here:
        others = {"Xpress": "libfwnt", "Xpress Huffman": "libfwnt", "LZ4": "lz4.block", "LZO": ""}
        for method, theirs in others.items():
            path = make_compressed(here.folder / method, method, pages)
            contenders = {"ours": Contender([*child, "decode", method, str(path)], reports=True)}
            if theirs:
                contenders["theirs"] = Contender([*child, "decode_each", method, str(path)], reports=True)
            found = in_turn(contenders, settings.runs, settings.warm_up)
            label = f"decode {pages} pages, {method}"
            yield Row(label, here.name, found["ours"], theirs, found.get("theirs", ()), goals=[_GOAL])
        path = make_compressed(here.folder / "hiberfil.sys", "hiberfil.sys", pages)
        contenders = {
            "index": Contender([*child, "index", str(path)], reports=True),
            "read": Contender([*child, "read_pages", str(path)], reports=True),
            "cat": Contender(["cat", str(path)]),
        }
        found = in_turn(contenders, settings.runs, settings.warm_up)
        label = f"hiberfil.sys of {pages} pages"
        yield Row(f"open {label}", here.name, found["index"], "cat > /dev/null", found["cat"])
        yield Row(f"read {label}", here.name, found["read"], "cat > /dev/null", found["cat"])
