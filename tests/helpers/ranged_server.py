"""A web server that answers ranged requests for bytes in memory or files, and misbehaves as it is told."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import socket
import struct
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

MODIFIED = "Sat, 07 Nov 2026 10:20:30 GMT"
_RANGE = re.compile(r"bytes=(\d+)-(\d+)")


class Asked(NamedTuple):
    """A request: what for, and which bytes (None: all)."""

    path: str
    range: tuple[int, int] | None
    headers: dict[str, str]


class RangedServer(ThreadingHTTPServer):
    """Serves `files` (bytes, or paths) by their names.

    `faults` are taken one a request, from the front: a name of a method of the handler, or a tuple of one and what it
    takes. `always` is one for every request. `asked` has every request.
    """

    daemon_threads = True

    def __init__(self, files: dict[str, bytes | Path]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files = files
        self.faults: list[Any] = []
        self.always: Any = None
        self.asked: list[Asked] = []
        self.headers: dict[str, str] = {}
        self.etags: dict[str, str] = {}
        #: what is answered to queries by their words
        self.special: dict[str, Callable[[], bytes]] = {}
        self.lock = threading.Lock()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: clients that end in the middle are part of the tests."""

    def url(self, name: str) -> str:
        """Return where a file is."""
        return f"http://127.0.0.1:{self.server_address[1]}/{name}"

    def sent(self) -> int:
        """Return how many bytes were asked for."""
        return sum(each.range[1] - each.range[0] for each in self.asked if each.range is not None)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else each body waits 40 ms for its head to be acknowledged
    server: RangedServer

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its name there
        """Say nothing."""

    def do_HEAD(self) -> None:
        """Answer as GET does, without a body."""
        self.do_GET()

    def do_GET(self) -> None:  # noqa: C901, PLR0911 - what a server does is in one place
        """Answer a request, or misbehave."""
        name, _, query = self.path.lstrip("/").partition("?")
        self.fault = None
        if query in self.server.special:
            self._answer(200, self.server.special[query](), {})
            return
        found = _RANGE.fullmatch(self.headers.get("Range") or self.headers.get("x-ms-range", ""))
        wanted = (int(found[1]), int(found[2]) + 1) if found else None
        with self.server.lock:
            self.server.asked.append(Asked(self.path, wanted, dict(self.headers)))
            fault = self.server.faults.pop(0) if self.server.faults else self.server.always
        self.fault, self.detail = fault if isinstance(fault, tuple) else (fault, None)
        if self.fault == "status":
            status, headers = self.detail
            self._answer(status, b"trouble", headers)
            return
        if self.fault == "cut":  # before a word
            self._reset()
            return
        if self.fault == "slow":
            time.sleep(self.detail)
        if name not in self.server.files:
            self._answer(404, b"no such file", {})
            return
        data = self.server.files[name]
        size = len(data) if isinstance(data, bytes) else os.path.getsize(data)
        etag = self.server.etags.get(name) or f'"{hashlib.sha256(f"{name}{size}".encode()).hexdigest()[:16]}"'
        headers = {"ETag": etag, "Last-Modified": MODIFIED, "Accept-Ranges": "bytes", **self.server.headers}
        headers = {key: value for key, value in headers.items() if value}
        if "If-Match" in self.headers and self.headers["If-Match"] != etag and self.fault != "careless":
            self._answer(412, b"", {})
            return
        if wanted is None or self.fault == "ignored":
            self._answer(200, self._part(data, 0, size), headers)
            return
        begin, end = wanted[0], min(wanted[1], size)
        if begin >= size:
            self._answer(416, b"", {"Content-Range": f"bytes */{size}"})
            return
        body = self._part(data, begin, end)
        says = f"bytes {begin}-{end - 1}/{size}"
        if self.fault == "lies":  # other bytes than asked for
            says = f"bytes {begin + 16}-{end + 15}/{size + 64}"
        if self.fault == "fewer":
            body, says = body[:-7], f"bytes {begin}-{end - 8}/{size}"
        if self.fault == "other size":
            says = f"bytes {begin}-{end - 1}/{size + 1}"
        self._answer(206, body, {"Content-Range": says, **headers})

    def _part(self, data: bytes | Path, begin: int, end: int) -> bytes:
        if isinstance(data, bytes):
            return data[begin:end]
        with open(data, "rb") as file:
            return os.pread(file.fileno(), end - begin, begin)

    def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if self.fault != "no length":
            self.send_header("Content-Length", str(len(body) + (5 if self.fault == "short" else 0)))
        else:
            self.send_header("Connection", "close")
            self.close_connection = True
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.fault == "half":  # cut in the middle
            self.wfile.write(body[: len(body) // 2])
            self.wfile.flush()
            self._reset()
            return
        self.wfile.write(body)
        if self.fault == "short":
            self.wfile.flush()
            self._reset()

    def _reset(self) -> None:
        with contextlib.suppress(OSError):
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
        self.close_connection = True


@contextlib.contextmanager
def serving(files: dict[str, bytes | Path]) -> Iterator[RangedServer]:
    """Serve files as long as the block runs."""
    server = RangedServer(files)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
