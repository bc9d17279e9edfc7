"""A server that fails: what passes is asked for again, what does not is an error, and no wrong byte is ever read."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import fsspec
import pytest

from cli import command
from memcarve.errors import InputError, MissingExtraError, SourceReadError
from memcarve.remote import open_file, requesting, transports
from ranged_server import serving
from s3_server import bucket

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memcarve.backing import FileBacking
    from ranged_server import RangedServer

DATA = random.Random(3).randbytes(3_000_001)  # noqa: S311 - the same each time


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have nothing wait long before it asks again."""
    monkeypatch.setattr(requesting, "_FIRST_WAIT", 0.01)


@pytest.fixture
def server() -> Iterator[RangedServer]:
    """Serve one file, ``x``."""
    with serving({"x": DATA}) as found:
        yield found


def whole(file: FileBacking) -> bytes:
    """Return all of a file."""
    return b"".join(file.read_at(place, 1 << 17) for place in range(0, file.size, 1 << 17))


@pytest.mark.parametrize(
    "fault",
    [
        "cut",
        "half",
        "short",
        "fewer",
        "lies",
        ("status", (500, {})),
        ("status", (503, {"Retry-After": "0"})),
        ("status", (429, {"Retry-After": "Sat, 07 Nov 2026 10:20:30 GMT"})),
        ("status", (206, {"Content-Range": "bytes 9-1/2"})),
        ("status", (206, {})),
    ],
    ids=str,
)
def test_what_passes(fault: Any, server: RangedServer) -> None:
    """Connections that are cut, answers of another length than they say, and a store that is busy are asked again."""
    server.faults = [fault, None, fault, fault]
    with open_file(server.url("x")) as file:
        server.faults += [fault, fault]
        assert whole(file) == DATA
    assert not server.faults


@pytest.mark.parametrize(
    ("fault", "problem"),
    [
        (("status", (403, {})), "access is refused"),
        (("status", (401, {})), "access is refused"),
        (("status", (404, {})), "is not there"),
        (("status", (400, {})), "answered 400"),
        ("other size", "was changed while it was read"),
        (("status", (412, {})), "was changed while it was read"),
        (("status", (416, {})), "was changed while it was read"),
        ("ignored", "does not know ranged requests"),
    ],
    ids=str,
)
def test_what_does_not_pass(fault: Any, problem: str, server: RangedServer) -> None:
    """What will not be otherwise is asked for once, and said."""
    with open_file(server.url("x")) as file:
        server.always = fault
        before = len(server.asked)
        with pytest.raises(InputError, match=problem):
            file.read_at(2_000_000, 100)
        assert len(server.asked) == before + 1


def test_nothing_is_asked_for_ever(server: RangedServer) -> None:
    """A store that never answers well is given up after a few tries; one that is to be left alone for long, at once."""
    with open_file(server.url("x")) as file:
        server.always = ("status", (503, {}))
        before = len(server.asked)
        with pytest.raises(SourceReadError, match="answered 503, 6 times in a row"):
            file.read_at(2_000_000, 100)
        assert len(server.asked) == before + 6
        server.always = ("status", (503, {"Retry-After": "86400"}))
        with pytest.raises(SourceReadError, match="answered 503"):
            file.read_at(2_000_000, 100)
        assert len(server.asked) == before + 7
        server.always = None
        assert file.read_at(2_000_000, 100) == DATA[2_000_000:2_000_100]


def test_how_long_it_waits(server: RangedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Retry-After is honoured, in seconds or as a time."""
    waits: list[float] = []
    sleep = requesting.asyncio.sleep

    async def noted(seconds: float) -> None:
        waits.append(seconds)
        await sleep(0)

    with open_file(server.url("x")) as file:
        monkeypatch.setattr(requesting.asyncio, "sleep", noted)
        server.faults = [("status", (503, {"Retry-After": "7"}))]
        file.read_at(2_000_000, 100)
        assert [wait for wait in waits if wait] == [7]
    assert transports._seconds("Wed, 21 Oct 2015 07:28:00 GMT") == 0
    assert transports._seconds("soon") is None


def test_a_server_without_ranges(server: RangedServer) -> None:
    """A small file is read whole from a server that knows no ranges, once; so is one whose length it does not say."""
    server.always = "ignored"
    with open_file(server.url("x")) as file:
        assert whole(file) == DATA
        assert len(server.asked) == 1
    server.always = "no length"
    with open_file(server.url("x")) as file:
        assert whole(file) == DATA


def test_a_large_file_without_ranges(server: RangedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A large one is refused before it is sent."""
    monkeypatch.setattr(transports, "_WHOLE", 1 << 20)
    server.always = "ignored"
    with pytest.raises(SourceReadError, match=r"the server does not know ranged requests.*3000001 bytes"):
        open_file(server.url("x"))


def test_an_object_that_changes(server: RangedServer) -> None:
    """A tag that changes in the middle is an error, also of a server that does not compare it, and of a weak one."""
    for etag in ('"one"', 'W/"one"'):
        server.always, server.etags["x"] = None, etag
        with open_file(server.url("x")) as file:
            server.etags["x"], server.always = '"two"', "careless"
            with pytest.raises(InputError, match="was changed while it was read"):
                whole(file)


def test_stored_compressed(server: RangedServer) -> None:
    """Bytes that a server says to be encoded are taken as they are stored, and it is said."""
    server.headers["Content-Encoding"] = "gzip"
    with open_file(server.url("x")) as file:
        assert whole(file) == DATA
        assert "Content-Encoding gzip" in file.notes[0][0]


def test_empty(server: RangedServer) -> None:
    """An object may be empty."""
    server.files["nothing"] = b""
    with open_file(server.url("nothing")) as file:
        assert (file.size, file.read_at(0, 10)) == (0, b"")


@pytest.mark.parametrize("page", [b"<!DOCTYPE html>", b"\n <HTML lang='de'><body>log in</body>", b"\xef\xbb\xbf<html>"])
def test_a_page_instead_of_the_file(page: bytes) -> None:
    """What a server shows to people, such as a login, is told as such; a file that begins otherwise is read."""
    with serving({"x": page, "y": b"<htmlish>"}) as server:
        with pytest.raises(InputError, match=r"/x: is a page of HTML, not a file.*give the address") as caught:
            open_file(server.url("x"))
        assert caught.value.__cause__ is None
        with open_file(server.url("y")) as file:
            assert whole(file) == b"<htmlish>"


def test_no_tls(server: RangedServer) -> None:
    """A server that speaks no TLS, or has no certificate that is trusted, is asked once: later is no better."""
    with pytest.raises(SourceReadError, match=r"no secure connection can be made: .*SSL_CERT_FILE"):
        open_file(server.url("x").replace("http:", "https:"))


@pytest.mark.parametrize("path", ["ftp://host/mem.raw", "htps://host/mem.raw", "s3://", "s3:///mem.raw"])
def test_no_location(path: str) -> None:
    """What looks like a location and is none, and is no file either, is told with those that are."""
    with pytest.raises(InputError, match="is not a location that memcarve reads; it reads s3://BUCKET/KEY, "):
        open_file(path)


def test_a_name_is_missing() -> None:
    """A bucket alone, or a folder in it, is no object: the error says what to name."""
    with bucket({"case/segments.json": b"{}"}):
        for path in "s3://evidence", "s3://evidence/":
            with pytest.raises(SourceReadError, match="names a bucket, and no object in it; name one object whole"):
                open_file(path)
        with pytest.raises(SourceReadError, match=r"is not there: .* memcarve reads the objects by verify alone"):
            open_file("s3://evidence/case")


def test_no_server() -> None:
    """What nobody serves is an error, without a login that was given."""
    with pytest.raises(SourceReadError, match="connection failed") as caught:
        open_file("http://me:pa55word@127.0.0.1:9/x?sig=5ecret")
    assert "pa55word" not in str(caught.value)
    assert "5ecret" not in str(caught.value)


def test_s3() -> None:
    """In S3, what is not there, a change and an empty object are told apart."""
    with bucket({"x": DATA, "nothing": b""}) as client:
        with open_file("s3://evidence/x") as file:
            assert whole(file) == DATA
            client.put_object(Bucket="evidence", Key="x", Body=DATA[::-1])
            assert file.changed()
        with open_file("s3://evidence/nothing") as file:
            assert file.size == 0
        with pytest.raises(SourceReadError, match="is not there"):
            open_file("s3://evidence/none")
        with pytest.raises(SourceReadError, match="is not there"):
            open_file("s3://nowhere/x")
    with pytest.raises(InputError, match="has a login before the name of the bucket"):
        open_file("s3://key:hidden@evidence/x")


def test_google(server: RangedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """What Google's store says of an object's generation is held to: another one is a change."""
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.url("").rstrip("/"))
    monkeypatch.setitem(fsspec.config.conf, "gs", {"token": "anon"})
    name = "download/storage/v1/b/evidence/o/case%2Fmem.raw"
    server.files[name] = DATA
    server.headers["X-Goog-Generation"] = "17"
    with open_file("gs://evidence/case/mem.raw") as file:
        assert whole(file) == DATA
        assert file.described["object_version"] == "17"
        assert all("ifGenerationMatch=17" in each.path for each in server.asked[1:])
        server.headers["X-Goog-Generation"] = "18"
        assert file.changed()
        server.always = ("status", (404, {}))
        assert file.changed()
    with pytest.raises(SourceReadError, match="is not there"):
        open_file("gs://evidence/none")


def test_azure(server: RangedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A blob of Azure's is held to its tag."""
    said = "DefaultEndpointsProtocol=http;AccountName=me;AccountKey=aGlkZGVu;BlobEndpoint="
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", f"{said}{server.url('me')}")
    server.files["me/evidence/case/mem.raw"] = DATA
    with open_file("az://evidence/case/mem.raw") as file:
        assert whole(file) == DATA
        server.faults = [("status", (503, {})), "cut"]
        assert not file.changed()
        server.etags["me/evidence/case/mem.raw"] = '"another"'
        assert file.changed()
    with pytest.raises(SourceReadError, match="is not there"):
        open_file("abfs://evidence/none")


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the package for a store it is said how to install it."""
    for name, url in (("s3fs", "s3://a/b"), ("gcsfs", "gs://a/b"), ("adlfs", "az://a/b"), ("aiohttp", "http://a/b")):
        monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(MissingExtraError, match=r"pip install 'memcarve\[cloud\]'"):
            open_file(url)


_COPIES = """
import sys
from memcarve import forking
from memcarve.remote import open_file

with open_file(sys.argv[1]) as file:
    file.read_at(0, 10)
    with forking.signals_held():
        begun = forking.begin(lambda number: file.read_at(number * 300_000, 50_000), range(10), 2, in_copies=True)
    found = [forking.result_of(future) for future in begun.futures]
    begun.pool.shutdown()
    assert len(begun.copies) == 2
    before = file.read_so_far
    assert [file.read_at(number * 300_000, 50_000) for number in range(10)] == found
    assert file.read_so_far == before, "what they fetched is there"
    sys.stdout.buffer.write(b"".join(found) + file.read_at(0, file.size))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no copies are made here")
def test_copies(server: RangedServer) -> None:
    """Copies of the program that are forked read with connections of their own, and this one goes on with its own."""
    ran = subprocess.run([sys.executable, "-c", _COPIES, server.url("x")], capture_output=True, check=True, timeout=60)
    assert ran.stdout == b"".join(DATA[number * 300_000 :][:50_000] for number in range(10)) + DATA
    assert not ran.stderr


@pytest.mark.skipif(not hasattr(signal, "SIGINT") or os.name != "posix", reason="signals as on Unix")
def test_interrupted(server: RangedServer) -> None:
    """Ctrl-C ends a command that waits for a server that does not answer."""
    server.always = ("slow", 30)
    with subprocess.Popen(command("processes", server.url("x")), stderr=subprocess.PIPE) as program:
        while not server.asked:
            time.sleep(0.05)
        program.send_signal(signal.SIGINT)
        begun = time.monotonic()
        assert program.wait(timeout=20) == 130
        assert time.monotonic() - begun < 15
        assert program.stderr is not None
        assert b"Traceback" not in program.stderr.read()
