"""What a bug report should say about the machine and the installation, and nothing about evidence."""

from __future__ import annotations

import os
import platform
import sys

import click

from memcarve import backing
from memcarve.cli.exit_status import COMPLETE
from memcarve.formats import compressed_pages
from memcarve.labels import text_stats
from memcarve.version import __version__

#: what memcarve needs, and what its extras bring
_PACKAGES = (
    "numpy",
    "click",
    "rich",
    "backports.zstd",
    "blake3",
    "cramjam",
    "lz4",
    "lzallright",
    "pyarrow",
    "pyelftools",
    "pyzipper",
    "hyperscan",
    "yara-x",
    "capstone",
    "fsspec",
    "aiohttp",
    "s3fs",
    "gcsfs",
    "adlfs",
    "mfusepy",
    "pillow",
)
#: what the system can do for copying: see copying/copier.py
_CALLS = ("copy_file_range", "sendfile", "preadv", "fork")


def debug_info() -> int:
    """Print one fact per line."""
    for what, value in _facts():
        click.echo(f"{what}: {value}")
    return COMPLETE


def _facts() -> list[tuple[str, str]]:
    able = [call for call in _CALLS if hasattr(os, call)]
    return [
        ("memcarve", __version__),
        (
            "python",
            f"{platform.python_implementation()} {platform.python_version()}, {sys.maxsize.bit_length() + 1} bits",
        ),
        ("system", f"{platform.system()} {platform.release()}, {platform.machine()}, {sys.byteorder}-endian"),
        ("processors", str(os.cpu_count() or "unknown")),
        ("encoding", f"{sys.getfilesystemencoding()} for names, {sys.stdout.encoding} for output"),
        ("calls", ", ".join(able) or "none"),
        ("decoder of compressed pages", "compiled" if compressed_pages.IS_COMPILED else "in Python, slow"),
        ("scattered pages", "read by compiled code" if backing.IS_COMPILED else "read one by one"),
        ("entropy", "of compiled counts" if text_stats.IS_COMPILED else "of numpy's counts, slow"),
        *((package, _version(package)) for package in _PACKAGES),
    ]


def _version(package: str) -> str:
    from importlib import metadata  # slow, and seldom needed

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
