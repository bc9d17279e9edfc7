"""The parts of memcarve that are written in C, compiled: optional, since Python does the same if they are not there."""

from __future__ import annotations

import os
import sys
import sysconfig
import tempfile
from pathlib import Path

from setuptools import Distribution, Extension
from setuptools.command.build_ext import build_ext
from setuptools.errors import BaseError, CCompilerError

#: modules, and the source below src/ of each
PARTS = {
    "memcarve.formats.compressed_pages._compiled": "memcarve/formats/compressed_pages/_compiled.c",
    "memcarve.labels._byte_counts": "memcarve/labels/_byte_counts.c",
}
if sys.platform != "win32":  # which has no pread
    PARTS["memcarve._read_pieces"] = "memcarve/_read_pieces.c"
#: the oldest Python whose stable interface it uses, as wheels call it
TAG = "cp311-abi3"
#: if set, nothing is compiled, and the wheel is for every system
PURE = "MEMCARVE_PURE"


def compile_parts(source: Path, folder: Path) -> list[Path]:
    """Compile into a folder, below which a file lies as below src/; return those that could be, none if not wanted.

    The same sources and compiler make the same file, in whatever folder they lie.
    """
    if os.environ.get(PURE):
        return []
    return [path for module in PARTS for path in _compiled(module, source, folder)]


def _compiled(module: str, source: Path, folder: Path) -> list[Path]:
    options = [] if sys.platform == "win32" else ["-g0", f"-ffile-prefix-map={source}=."]
    extension = Extension(
        module,
        [str(source / PARTS[module])],
        py_limited_api=True,
        extra_compile_args=options,
    )
    command = build_ext(Distribution({"name": "memcarve", "ext_modules": [extension]}))
    command.build_lib = str(folder)
    try:
        with tempfile.TemporaryDirectory() as temporary:
            command.build_temp = temporary
            command.ensure_finalized()
            command.run()
    except (BaseError, CCompilerError, OSError) as error:
        print(f"{PARTS[module]}: not compiled ({error}); what it does is done in Python", file=sys.stderr)
        return []
    return [Path(each) for each in command.get_outputs()]


def platform_tag() -> str:
    """Return what wheels call the system that this was compiled for."""
    return sysconfig.get_platform().replace("-", "_").replace(".", "_")
