"""What is a location and what is not, and what is shown of one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from cli import run
from contracts import MAKERS
from files import EXAMPLE
from memcarve.remote import locations
from ranged_server import serving

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    "path", ["s3://a/b", "S3://a/b", "gcs://a/b", "abfss://c@account.dfs.core.windows.net/b", "http://h/x"]
)
def test_locations(path: str) -> None:
    """A scheme, a colon, two slashes and something behind them."""
    assert locations.is_location(path)


@pytest.mark.parametrize(
    "path", ["C:\\x", "C:/x", "s3:/a/b", "./s3://a/b", "s3:a", "s3://", "s3:///x", "ftp://a/b", "file:///x", ""]
)
def test_paths(path: str) -> None:
    """Everything else is a path on disk."""
    assert not locations.is_location(path)


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        (
            "https://me:secret@host:8/a%20b?X-Amz-Signature=secret&versionId=7#secret",
            "https://host:8/a%20b?versionId=7",
        ),
        ("https://host/x?sig=secret", "https://host/x"),
        ("https://secret@host/x?token=secret&generation=3", "https://host/x?generation=3"),
        ("s3://key:secret@bucket/x?y", "s3://bucket/x?y"),
        ("abfs://container@account.dfs.core.windows.net/x", "abfs://container@account.dfs.core.windows.net/x"),
        ("https://[::1/x?secret", "https://[::1/x"),
        ("mem.raw?secret", "mem.raw?secret"),
    ],
)
def test_what_is_shown(given: str, shown: str) -> None:
    """Neither a login nor a signature is shown; which version it is stays."""
    assert locations.shown_of(given) == shown
    assert locations.without_secrets(f"--map={given} 'x'") in (f"--map={shown} 'x'", f"--map={given} 'x'")


def test_names() -> None:
    """An object's own name has nothing of the query, and no slash that was written otherwise."""
    assert locations.name_of("https://host/a/big%20mem.raw?x=1") == "big mem.raw"
    assert locations.name_of("https://host/a/..%2Fx") == "..%2Fx"
    assert locations.name_of("s3://bucket/a/mem%20.raw") == "mem%20.raw"


def test_nothing_is_imported_for_files() -> None:
    """A command that reads files on disk imports nothing of what reads elsewhere."""
    code = (
        "import sys; from memcarve.cli.program import run; run(['segments', '-q', sys.argv[1]]); "
        "heavy = {'asyncio', 'fsspec', 'aiohttp', 'memcarve.remote.remote_file'}; print(heavy & sys.modules.keys())"
    )
    ran = subprocess.run([sys.executable, "-c", code, EXAMPLE], capture_output=True, check=True, text=True)
    assert ran.stdout.splitlines()[-1] == "set()"


def test_batch(tmp_path: Path) -> None:
    """A batch reads what lies elsewhere, with logins that stand in none of its files, and notices what has changed."""
    with MAKERS["minidump"](tmp_path) as given:
        data = given.path.read_bytes()
    with serving({"a/x.dmp": data, "b/x.dmp": data}) as server:
        inputs = [server.url(f"{name}/x.dmp?sig=5ecret") for name in ("a", "b")]
        words = ["batch", "segments", *inputs, "--format", "json", "-o", tmp_path / "out"]
        ran = run(*words)
        assert ran.code == 0, ran.err
        rows = json.loads((tmp_path / "out" / "batch.json").read_text())["inputs"]
        assert [(row["path"], row["size"]) for row in rows] == [(url.partition("?")[0], len(data)) for url in inputs]
        assert sorted(row["folder"] for row in rows) == ["a-x.dmp", "b-x.dmp"]
        assert [each.path for each in server.asked if "5ecret" not in each.path] == []
        asked = len(server.asked)
        assert run(*words, "--resume").code == 0
        assert len(server.asked) == asked + 2
    for folder, _, names in os.walk(tmp_path / "out"):
        for name in names:
            with open(os.path.join(folder, name), "rb") as file:
                assert b"5ecret" not in file.read()
