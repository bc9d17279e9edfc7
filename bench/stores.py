"""What comes from a store on the same machine, against the same from disk; README.md explains every line."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import urllib.request
from typing import TYPE_CHECKING

from measure import Contender, UnavailableError, in_turn
from places import HERE, make_image, place
from table import Goal, Row

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from benchmarks import Settings

PID, OTHER_PID = 1624, 404  # processes of some MiB
_TWICE = Goal("ratio", 2.0)


def stores(settings: Settings, command: Callable[..., list[str]]) -> Iterator[Row]:
    """List the processes of an object and carve one: from a web server, and from an S3 server."""
    with place(settings.fast, settings.place(settings.fast)) as here:
        path = make_image(here.folder / "mem.raw", "sparse", settings.gigabytes)
        with _served(path) as url:
            label = f"{settings.gigabytes} GiB, a web server"
            yield from _rows(settings, command, path, url, url, label, here.name, PID)
        path = make_image(here.folder / "small.raw", "many", settings.processes)
        label = f"{os.path.getsize(path) >> 20} MiB, S3 (moto)"
        with _served(path) as url, _bucket(path) as (location, plain):
            # the same requests are made of the web server, which remembers them
            yield from _rows(settings, command, path, location, url, label, here.name, OTHER_PID, plain)


def _rows(
    settings: Settings,
    command: Callable[..., list[str]],
    path: Path,
    location: str,
    watched: str,
    label: str,
    where: str,
    pid: int,
    plain: str | None = None,
) -> Iterator[Row]:
    """Yield both commands on an object; `watched` is where the server is that remembers what is asked for."""
    out = path.with_name("out")
    for name, words in (
        ("processes --search lists", ("processes", "-q", "--search", "lists")),
        ("carve --pid", ("carve", "-q", "--search", "lists", "--pid", str(pid), "-o", out)),
    ):

        def before() -> None:
            shutil.rmtree(out, ignore_errors=True)

        before()
        urllib.request.urlopen(f"{watched}?forget").close()  # noqa: S310 - it is our own server
        subprocess.run(command(words[0], watched, *words[1:]), check=True, stdout=subprocess.DEVNULL)
        ranges = path.with_name("ranges.json")
        with urllib.request.urlopen(f"{watched}?asked") as answer:  # noqa: S310 - it is our own server
            ranges.write_bytes(answer.read())
        count = len(json.loads(ranges.read_text()))
        contenders = {
            "disk": Contender(command(words[0], path, *words[1:]), before),
            "store": Contender(command(words[0], location, *words[1:]), before),
            "loop": Contender([sys.executable, str(HERE / "children.py"), "ask", plain or location, str(ranges)]),
        }
        found = in_turn(contenders, min(settings.runs, 5), settings.warm_up)
        row = Row(f"{name}, {label}", where, found["store"], "from disk", found["disk"], goals=[_TWICE])
        loop = sorted(run.seconds for run in found["loop"])[len(found["loop"]) // 2]
        row.note = f"{count} requests; the same one after the other in a bare loop: {loop:.2f} s"
        yield row
        before()
        if plain is not None and not settings.warm_up:  # --quick: moto copies all of an object for each request
            break


@contextlib.contextmanager
def _served(path: Path) -> Iterator[str]:
    with _child("serve", str(path)) as said:
        yield said


@contextlib.contextmanager
def _bucket(path: Path) -> Iterator[tuple[str, str]]:
    """Serve a file by moto; yield its location, and where anybody may ask for it."""
    try:
        with _child("bucket", str(path)) as url:
            names = {"AWS_ENDPOINT_URL": url, "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "hidden"}
            names["AWS_DEFAULT_REGION"] = "us-east-1"
            before = {name: os.environ.get(name) for name in names}
            os.environ.update(names)
            try:
                yield f"s3://evidence/{path.name}", f"{url}/evidence/{path.name}"
            finally:
                for name, value in before.items():
                    os.environ.pop(name) if value is None else os.environ.update({name: value})
    except ModuleNotFoundError as error:
        raise UnavailableError(f"{error.name} is not installed") from error


@contextlib.contextmanager
def _child(*words: str) -> Iterator[str]:
    """Run a server until the end of the block; yield what it says first."""
    program = subprocess.Popen([sys.executable, str(HERE / "children.py"), *words], stdout=subprocess.PIPE, text=True)
    try:
        said = program.stdout.readline().strip() if program.stdout else ""
        if not said:
            raise UnavailableError(f"{words[0]}: the server does not start")
        yield said
    finally:
        program.terminate()
        program.wait()
