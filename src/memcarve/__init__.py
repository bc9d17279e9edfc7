"""Carve a process's memory into its contiguous segments.

    import memcarve

    with memcarve.open("mem.raw") as memory:
        for process in memory:
            for segment in process.segments(half="user", min_size=4096):
                print(process.name, segment.name, segment.size)
        memcarve.carve(memory.process(4321), "out")

The names below are the public ones; ``docs/library.md`` shows them at work. ``__init__.pyi`` has them, for
type checkers and for the program itself; each is imported when it is first used, so that ``--help`` does not wait for
numpy.
"""

from __future__ import annotations

import functools
import importlib
from importlib.machinery import PathFinder


@functools.cache
def _public() -> dict[str, tuple[str, str]]:
    """Return the public names, each with its module and its name there, as ``__init__.pyi`` imports them."""
    import ast  # not for the command line, which needs no public name
    import pkgutil

    stub = ast.parse(pkgutil.get_data("memcarve", "__init__.pyi") or b"")
    return {
        alias.asname or alias.name: (node.module or "", alias.name)
        for node in stub.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


def __getattr__(name: str) -> object:
    """Import a public name when it is asked for."""
    if name == "__all__":
        return sorted(_public())
    # `from memcarve import note` asks for a name first, and imports a module if there is none
    if PathFinder.find_spec(f"memcarve.{name}", __path__) is not None or name not in _public():
        raise AttributeError(f"module 'memcarve' has no attribute {name!r}")
    module, attribute = _public()[name]
    found: object = getattr(importlib.import_module(module), attribute)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted(_public())
