"""Servers that lie, locations that hold secrets, stores that several use at once: no harm, and no wrong byte."""

from __future__ import annotations

import asyncio
import random
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import yarl

from memcarve.batching.inputs import once_each
from memcarve.cli.option_values import PageFilePath
from memcarve.errors import InputError, SourceReadError
from memcarve.remote import Keeping, locations, open_file, requesting, transports
from memcarve.remote.block_store import GRANULE, LEAST, BlockStore
from memcarve.remote.cache import key_of
from memcarve.remote.transports import Facts
from memcarve.sources.page_file_option import open_page_files
from ranged_server import serving

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator
    from pathlib import Path

    from ranged_server import RangedServer

DATA = random.Random(7).randbytes(1_000_001)  # noqa: S311 - the same each time


def _run(task: Coroutine[Any, Any, Any]) -> Any:
    """Run a task in a thread of its own: in this one a browser of other tests may have a loop."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, task).result()


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have nothing wait long before it asks again, and nothing be known of other tests."""
    monkeypatch.setattr(requesting, "_FIRST_WAIT", 0.01)
    for name in ("_opened", "_logins"):
        monkeypatch.setattr(locations, name, {})


@pytest.fixture
def server() -> Iterator[RangedServer]:
    """Serve one file, ``x``."""
    with serving({"x": DATA}) as found:
        yield found


@pytest.mark.parametrize(
    ("headers", "problem"),
    [
        ({"Content-Range": f"bytes 0-6/{1 << 62}"}, "no machine has so much memory"),
        ({"Content-Range": f"bytes 0-6/{'9' * 5000}"}, "does not say which bytes it sent"),
    ],
    ids=["no machine's", "digits"],
)
def test_absurd_lengths(headers: dict[str, str], problem: str, server: RangedServer) -> None:
    """A length that nothing has is an error, before anything is made as large."""
    server.always = ("status", (206, headers))
    with pytest.raises(InputError, match=problem) as raised:
        open_file(server.url("x"))
    assert len(str(raised.value)) < 400


@pytest.mark.parametrize(
    "text", ["Sat, 07 Nov 99999999999999999999 10:20:30 GMT", "Sat, 07 Nov 2026 10:20:30 +99999999999999999999"]
)
def test_absurd_times(text: str, server: RangedServer) -> None:
    """A time that no calendar has is none."""
    server.headers = {"Last-Modified": text}
    with open_file(server.url("x")) as file:
        assert file.described["modified"] is None
    assert transports._seconds(text) in (None, 0)


def test_dripping(server: RangedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that sends so slowly that it would never end is given up."""
    with open_file(server.url("x")) as file:
        monkeypatch.setattr(requesting, "_PATIENCE", 0.1)
        monkeypatch.setattr(requesting, "_SLOWEST", 1 << 20)
        monkeypatch.setattr(requesting, "TRIES", 2)
        server.always = ("slow", 1)
        with pytest.raises(SourceReadError, match="did not send 65536 bytes in 0 seconds, 2 times in a row"):
            file.read_at(500_000, 10)


def test_endless_body() -> None:
    """A store that sends more than it announced is not listened to until memory is full."""

    class Body:
        taken = 0

        async def read(self, size: int) -> bytes:
            self.taken += size
            assert self.taken < 1 << 24
            return bytes(size)

    with pytest.raises(transports.FailedError, match="sent more than the 4096 bytes that it announced"):
        _run(transports._read(Body(), 4096))


def test_a_tag_that_vanishes(server: RangedServer) -> None:
    """Answers that do not say any more which version they are of are not mixed with those that did."""
    with open_file(server.url("x")) as file:
        server.headers = {"ETag": "", "Last-Modified": ""}
        with pytest.raises(SourceReadError, match="does not say any more of which version"):
            file.read_at(500_000, 10)


def test_led_into_the_own_network(server: RangedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server elsewhere may not lead to addresses that only this machine or its network reaches; one there may."""
    target = server.url("x").replace("127.0.0.1", "localhost") + "?signature=secret"
    server.faults = [("status", (302, {"Location": target}))]
    with open_file(server.url("led")) as file:
        assert file.read_at(0, 100) == DATA[:100]

    async def inside(host: str) -> bool:
        return host == "localhost"

    monkeypatch.setattr(transports, "_is_inside", inside)
    server.faults = [("status", (302, {"Location": target}))]
    asked = len(server.asked)
    with pytest.raises(
        SourceReadError, match=r"leads to http://localhost.*which is an address of this machine"
    ) as raised:
        open_file(server.url("led?again=1"))
    assert len(server.asked) == asked + 1
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    ("host", "inside"),
    [("127.0.0.1", True), ("169.254.169.254", True), ("10.1.2.3", True), ("::1", True), ("8.8.8.8", False)],
)
def test_what_is_inside(host: str, *, inside: bool) -> None:
    """Loopback, link-local and private addresses are."""
    assert _run(transports._is_inside(host)) == inside


def test_led_out_of_encryption() -> None:
    """A server that is reached by TLS may not lead to one that is not."""
    url = "https://192.0.2.1/x"

    async def check(target: str) -> None:
        way = transports.HttpTransport(locations.location_of(url))
        said = SimpleNamespace(headers={"Location": target}, url=yarl.URL(url))
        try:
            await way._check_redirect(None, None, SimpleNamespace(response=said))
        finally:
            await way.close()

    _run(check("/other"))
    with pytest.raises(transports.RefusedError, match=r"leads to http://192\.0\.2\.1/x, which is not encrypted"):
        _run(check("http://192.0.2.1/x"))


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://user:pa/ss@host/x", "https://host/x"),
        ("https://user:pa?ss@host/x?y=1", "https://host/x"),
        ("https://user:pa#ss@host/x", "https://host/x"),
        ("https://user:p'a <s>@host/x", "https://host/x"),
        ("s3://AKIAXX:abc/def+g@bucket/x", "s3://bucket/x"),
        ("s3://arn:aws:s3:us-east-1:1:accesspoint/name/a@b", None),
        ("https://host:80/a@b", None),
        ("https://[::1]:80/a@b", None),
    ],
)
def test_secrets_that_are_not_encoded(url: str, shown: str | None) -> None:
    """A login is found if it holds what ends a host's name, and is never shown; names that look a bit like one are."""
    assert locations.shown_of(url) == (shown or url)
    assert locations.word_without_secrets(f"--x={url}") == f"--x={shown or url}"
    if shown and "'" not in url:
        with pytest.raises(InputError, match="login") as raised:
            locations.location_of(url)
        assert str(raised.value).startswith(f"{shown}: ")


def test_page_files_with_secrets(server: RangedServer, tmp_path: Path) -> None:
    """The login of a page file's location goes no further than that of an image's, also behind a number."""
    url = server.url("x").replace("//", "//user:secret@")
    assert PageFilePath().convert(f"1={url}", None, None) == f"1={server.url('x')}"
    (tmp_path / "image").write_bytes(bytes(1 << 16))
    with open_file(str(tmp_path / "image")) as image:
        files, notes = open_page_files(image, image, [f"1={url}"], zeros=False, trusted=False)
        files.backing.close()
    assert notes
    assert "secret" not in repr((notes, files.described))


def test_queries_are_told_apart() -> None:
    """Two objects that differ in what is not shown alone are two; one that is signed anew is one."""
    first, second = "https://host/get?id=1&X-Amz-Signature=a", "https://host/get?id=2&X-Amz-Signature=a"
    shown = [locations.hidden(url) for url in (first, second)]
    assert once_each(shown) == (["https://host/get", "https://host/get#2"], [])
    assert [locations.location_of(name).url for name in shown] == [first, second]
    assert {locations.location_of(name).name for name in shown} == {"get"}
    assert locations.hidden(first.replace("=a", "=b")) == shown[0]
    assert [locations.location_of(name).shown for name in shown] == shown


def test_the_cache_tells_them_apart(server: RangedServer, tmp_path: Path) -> None:
    """Objects of which all is the same but the query, or the store, are kept apart in a cache."""
    facts = Facts(1, '"tag"', None, "2026-11-07T10:20:30Z")
    keys = {
        key_of("https://host/get", facts, locations.what_is_named(f"https://u:p@host/get?{query}"))
        for query in ("id=1&sig=a", "id=1&sig=b", "id=2&sig=a")
    }
    assert len(keys) == 2
    keeping = Keeping(cache=str(tmp_path))
    for query, data in (("?id=1", DATA), ("?id=2", DATA[::-1])):  # with the same tag
        server.files["x"] = data
        with open_file(server.url("x") + query, keeping) as file:
            assert file.read_at(500_000, 100) == data[500_000:500_100]


def test_reads_larger_than_what_is_kept(tmp_path: Path) -> None:
    """What is read at once may be more than the bound: it comes nevertheless, with an end to the requests."""
    data = random.Random(8).randbytes(4 * LEAST * GRANULE)  # noqa: S311 - the same each time
    with serving({"x": data}) as server:
        server.faults, server.always = [None] * 300, ("status", (403, {}))
        with open_file(server.url("x"), Keeping(str(tmp_path), None, 1)) as file:
            assert file.read_at(0, len(data)) == data


def test_giving_up(tmp_path: Path) -> None:
    """Granules leave the table before readers are told, and their room later; nothing is written meanwhile."""
    seen: list[tuple[bool, bool]] = []

    class Watched(BlockStore):
        def _set(self, name: str, value: int) -> None:
            if name == "epoch":
                seen.append((self.has(0, 1), punched()))
            super()._set(name, value)

        def _punch(self, offset: int, size: int) -> None:  # noqa: ARG002
            gone.append(offset)

        def _write(self, view: memoryview, offset: int) -> int:
            assert self._lock._is_owned()  # type: ignore[attr-defined]
            return super()._write(view, offset)

    gone: list[int] = []

    def punched() -> bool:
        return bool(gone)

    store = Watched.temporary(8 * LEAST * GRANULE, str(tmp_path), 1)
    for place in range(0, 2 * LEAST, 64):
        store.put(place * GRANULE, bytes(64 * GRANULE))
    assert gone
    assert seen[0] == (False, False)


def test_tables_are_mended_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A table of which another program left the numbers wrong is put right, however long it is."""
    monkeypatch.setattr("memcarve.remote.block_store._PART", 7)
    store = BlockStore.temporary(100 * GRANULE, str(tmp_path), 1 << 30)
    store.put(3 * GRANULE, bytes(9 * GRANULE))
    store._table[64:164] = (
        np.where(np.frombuffer(store._table[64:164], np.uint8) > 0, 200, 0).astype(np.uint8).tobytes()
    )
    store._set("kept", 77)
    store.mend()
    assert (store.number("kept"), store.number("age"), store.missing(0, 20)) == (9, 1, [(0, 3), (12, 20)])
