"""A real Redis and real workers, small images with known contents, and OpenRelik's part: tasks sent, results read."""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from celery import Celery
from celery.result import AsyncResult

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
sys.path[:0] = [str(ROOT / "tests" / "helpers")]

import winimage  # noqa: E402
from vanishing import present  # noqa: E402
from winimage import USERLAND, Plan  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

QUEUE = "openrelik-worker-memcarve"
HOSTILE = b"\x1b[31m|<b>x.exe"
#: processes that have memory, by number; 2860 has ended
WITH_MEMORY = [4, 388, 1624, 2036, 2860, 3004]
#: seconds to wait for what must come: with other tests beside these on two processors all takes several times as long
PATIENCE = 120
_DATABASES = itertools.count()

#: a result that is forgotten tells the server so, which may be gone by then
AsyncResult.__del__ = lambda _: None


def pytest_configure() -> None:
    """End what tests have begun, if they take longer than CI waits for them, too."""
    signal.signal(signal.SIGTERM, lambda *_: pytest.exit("SIGTERM", 143))


class Server:
    """A Redis that keeps what it has been told, in a folder of its own, whatever happens to it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Begin to serve, with what was kept."""
        options = [
            "--port",
            str(self.port),
            "--bind",
            "127.0.0.1",
            "--dir",
            str(self.folder),
            "--save",
            "",
            "--databases",
            "64",
            "--logfile",
            str(self.folder / "redis.log"),
        ]
        options += ["--appendonly", "yes", "--appendfsync", "always"]
        self._process = subprocess.Popen(["redis-server", *options], stdout=subprocess.DEVNULL)
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1) as one:
                one.sendall(b"PING\r\n")
                if one.recv(16).startswith(b"+PONG"):
                    return
            time.sleep(0.02)
        raise TimeoutError("redis-server")

    def stop(self) -> None:
        """Stop at once, as a machine that loses power does."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()


class Worker:
    """A real worker in a session of its own."""

    def __init__(self, url: str, folder: Path, number: int, concurrency: int, **settings: str) -> None:
        self.log = folder / f"worker-{number}.log"
        environment = {**os.environ, "REDIS_URL": url, **settings}
        command = [sys.executable, "-m", "celery", "--app=openrelik_worker_memcarve.tasks", "worker", "--task-events"]
        command += [
            f"--concurrency={concurrency}",
            "--loglevel=INFO",
            "-Q",
            QUEUE,
            "-n",
            f"w{number}@test",
            "--without-mingle",
        ]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command, env=environment, stdout=log, stderr=log, start_new_session=True, cwd=folder
            )

    def wait(self) -> None:
        """Wait until it takes tasks."""
        eventually(lambda: "ready." in self.log.read_text() or self.process.poll() is not None, self.log.read_text)
        assert self.process.poll() is None, self.log.read_text()

    @property
    def children(self) -> list[int]:
        """Return the processes that do its tasks."""
        done = subprocess.run(["pgrep", "-P", str(self.process.pid)], capture_output=True, text=True, check=False)
        return [int(word) for word in done.stdout.split()]

    def kill(self) -> None:
        """End it and all that it began, at once."""
        for pid in [*self.children, self.process.pid]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()


def eventually(true: Callable[[], Any], say: Callable[[], object] = str, patience: float = PATIENCE) -> Any:
    """Wait until something is true, and return it."""
    until = time.monotonic() + patience
    while time.monotonic() < until:
        if found := true():
            return found
        time.sleep(0.02)
    raise AssertionError(f"has not come true: {say()}")


class Relik:
    """What OpenRelik does: sends tasks by name with input files and an output folder, and reads results."""

    def __init__(self, server: Server, folder: Path) -> None:
        self.server, self.folder = server, folder
        #: workers of one part take no other's tasks
        self.database = next(_DATABASES)
        url = f"{server.url}/{self.database}"
        self.app = Celery(broker=url, backend=url)
        self.out = folder / "out"
        self.out.mkdir(exist_ok=True)
        self.workers: list[Worker] = []

    def close(self) -> None:
        """End the workers, and what a test that failed left stopped."""
        for worker in self.workers:
            worker.kill()
        for pid in self.jobs():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.app.close()

    def jobs(self) -> list[int]:
        """Return the processes that do the work of tasks with this output folder: they hold their journals."""
        command = ["pgrep", "-f", "openrelik_worker_memcarve.job"]
        found = []
        for pid in subprocess.run(command, capture_output=True, text=True, check=False).stdout.split():
            links = []
            for each in present(Path(f"/proc/{pid}/fd"), "*"):
                with contextlib.suppress(OSError):  # it was closed
                    links.append(os.readlink(each))
            if any(link.startswith(str(self.out)) for link in links):
                found.append(int(pid))
        return found

    def work(self, concurrency: int = 1, **settings: str) -> Worker:
        """Begin a worker."""
        worker = Worker(f"{self.server.url}/{self.database}", self.folder, len(self.workers), concurrency, **settings)
        self.workers.append(worker)
        worker.wait()
        return worker

    def signature(self, task: str, *paths: Path, named: dict[Path, str] | None = None, **config: Any) -> Any:
        """Return a task as OpenRelik makes it of what a person chose."""
        files = [
            {"path": str(path), "display_name": (named or {}).get(path, path.name), "uuid": uuid.uuid4().hex}
            for path in paths
        ]
        given = {"input_files": files, "output_path": str(self.out), "workflow_id": "7", "task_config": config}
        name = f"{QUEUE}.tasks.{task}"
        return self.app.signature(name, kwargs=given, queue=QUEUE, task_id=uuid.uuid4().hex)

    def send(self, task: str, *paths: Path, **config: Any) -> AsyncResult:
        """Send a task."""
        return self.signature(task, *paths, **config).apply_async()

    def get(self, result: AsyncResult) -> Told:
        """Return what a task gave back."""
        return Told(json.loads(base64.b64decode(result.get(timeout=PATIENCE))))

    def fails(self, result: AsyncResult, words: str) -> str:
        """Return why a task failed: one line that matches some words."""
        with pytest.raises(Exception, match=words) as told:
            result.get(timeout=PATIENCE)
        assert type(told.value).__name__ == "TaskFailed"
        assert "\n" not in str(told.value)
        return str(told.value)

    def leftovers(self) -> list[str]:
        """Return what lies in the output folder and is no output, but for journals."""
        return [path.name for path in self.out.iterdir() if path.name.startswith(".") and path.suffix != ".journal"]

    def log(self) -> str:
        """Return what the workers said."""
        return "\n".join(worker.log.read_text() for worker in self.workers)


class Told:
    """What a task gave back."""

    def __init__(self, document: dict[str, Any]) -> None:
        self.document = document
        self.files = document["output_files"]

    def names(self) -> list[str]:
        """Return the outputs' names, in order."""
        return [file["display_name"] for file in self.files]

    def path(self, ending: str) -> Path:
        """Where the one output lies whose name has an ending."""
        (found,) = [file["path"] for file in self.files if file["display_name"].endswith(ending)]
        return Path(found)

    def json(self, ending: str) -> Any:
        """Return what an output holds."""
        return json.loads(self.path(ending).read_text())

    def lines(self, ending: str) -> list[Any]:
        """Return what the lines of an output hold."""
        return [json.loads(line) for line in self.path(ending).read_text().splitlines()]


@pytest.fixture(scope="session")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an image of a Windows machine."""
    path = tmp_path_factory.mktemp("images") / "machine.raw"
    winimage.build(path, processes=(*USERLAND, Plan(3004, HOSTILE, 1624)))
    return path


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Return a Redis that serves for the whole run."""
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed")
    server = Server(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def relik(redis_server: Server, tmp_path: Path) -> Iterator[Relik]:
    """Return OpenRelik's part, with no worker yet."""
    made = Relik(redis_server, tmp_path)
    yield made
    made.close()
