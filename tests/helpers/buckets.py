"""A real S3 server (moto's) in this process, which notes every request, and fails as a test wants it to."""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import parse_qs

import boto3
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    import pytest

#: what the server does in place of its work: close the connection, or answer with a status
CUT = "cut"


class Request(NamedTuple):
    """A request: its method, bucket and key, and its query's names."""

    method: str
    path: str
    query: frozenset[str]

    @property
    def writes(self) -> bool:
        """Whether an object is there once it is answered."""
        return (self.method == "PUT" and "partNumber" not in self.query) or (
            self.method == "POST" and "uploadId" in self.query
        )


class Store:
    """The server. `begun` and `ended` are the requests so far; `fault` says of one what is done in place of it.

    A fault is CUT, or a status; None is none. `meanwhile` is called before a request is worked on.
    """

    def __init__(self) -> None:
        self.begun: list[Request] = []
        self.ended: list[Request] = []
        self.fault: Callable[[Request], str | int | None] = lambda _: None
        self.meanwhile: Callable[[Request], object] = lambda _: None
        self._lock = threading.Lock()
        self._app: Any = None
        self.url = ""

    def __call__(self, environ: dict[str, Any], start: Any) -> Iterable[bytes]:
        """Answer a request."""
        path = environ["PATH_INFO"].encode("latin-1").decode()
        query = frozenset(parse_qs(environ["QUERY_STRING"], keep_blank_values=True))
        request = Request(environ["REQUEST_METHOD"], path.removeprefix("/"), query)
        with self._lock:
            self.begun.append(request)
            fault = self.fault(request)
        self.meanwhile(request)
        if fault is not None:
            self._drain(environ)
        if fault == CUT:
            start("500 Cut", [])  # which nobody gets
            with contextlib.suppress(OSError):
                environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
            return []
        if fault is not None:
            start(f"{fault} Fault", [("Content-Type", "application/xml")])
            code = {503: "SlowDown", 403: "AccessDenied"}.get(int(fault), "InternalError")
            return [f"<Error><Code>{code}</Code><Message>{code}</Message></Error>".encode()]
        answer = list(self._app(environ, start))
        with self._lock:
            self.ended.append(request)
        return answer

    @staticmethod
    def _drain(environ: dict[str, Any]) -> None:
        left = int(environ.get("CONTENT_LENGTH") or 0)
        while left and (data := environ["wsgi.input"].read(min(left, 1 << 20))):
            left -= len(data)

    @contextlib.contextmanager
    def running(self) -> Iterator[Store]:
        """Serve on a port of this machine."""
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self._app = DomainDispatcherApplication(create_backend_app)
        server = make_server("127.0.0.1", 0, self, threaded=True)
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        self.url = f"http://127.0.0.1:{server.server_port}"
        try:
            yield self
        finally:
            server.shutdown()
            server.server_close()
            thread.join()


class Bucket:
    """One bucket of a store, with what lies in it."""

    def __init__(self, store: Store, name: str) -> None:
        self.store = store
        self.name = name
        self._client = boto3.client("s3", endpoint_url=store.url)
        self._client.create_bucket(Bucket=name)
        store.begun.clear()
        store.ended.clear()

    @property
    def url(self) -> str:
        """The bucket's name as a location."""
        return f"s3://{self.name}"

    def objects(self, prefix: str = "") -> dict[str, bytes]:
        """Return every object below a prefix, by the rest of its key."""
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self.name, Prefix=prefix)
        keys = [each["Key"] for page in pages for each in page.get("Contents", ())]
        return {key.removeprefix(prefix): self.get(key) for key in keys}

    def get(self, key: str) -> bytes:
        """Return an object's bytes."""
        data: bytes = self._client.get_object(Bucket=self.name, Key=key)["Body"].read()
        return data

    def put(self, key: str, data: bytes) -> None:
        """Write an object."""
        self._client.put_object(Bucket=self.name, Key=key, Body=data)

    def head(self, key: str) -> dict[str, Any]:
        """Return what the store says of an object."""
        found: dict[str, Any] = self._client.head_object(Bucket=self.name, Key=key)
        return found

    def remove(self, key: str) -> None:
        """Remove an object."""
        self._client.delete_object(Bucket=self.name, Key=key)

    @property
    def unfinished(self) -> list[str]:
        """The keys of uploads in parts that were neither completed nor given up."""
        found = self._client.list_multipart_uploads(Bucket=self.name)
        return [each["Key"] for each in found.get("Uploads", ())]


def set_credentials(patch: pytest.MonkeyPatch, url: str) -> None:
    """Have the environment name a store, and nothing of this machine's own settings be used."""
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN"):
        patch.delenv(name, raising=False)
    settings = {"AWS_ENDPOINT_URL": url, "AWS_ACCESS_KEY_ID": "someone", "AWS_SECRET_ACCESS_KEY": "secret-of-theirs"}
    more = {"AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true"}
    nothing = {"AWS_CONFIG_FILE": "/nonexistent", "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent"}
    for name, value in {**settings, **more, **nothing}.items():
        patch.setenv(name, value)
