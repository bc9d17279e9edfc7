"""Objects below one name of a bucket: written in parts, several at once, with bounded memory; listed; removed.

What S3 says of each call: Amazon S3 API Reference (PutObject, UploadPart, CompleteMultipartUpload, ListObjectsV2,
DeleteObjects). Every request that writes carries the SHA-256 of its bytes, which the store compares with what came.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import importlib
import io
import os
import re
import threading
import time
from typing import TYPE_CHECKING, Any

from memcarve import forking
from memcarve.errors import MemcarveError, MissingExtraError, OutputError, UsageError
from memcarve.remote.locations import SCHEMES, described, is_like_one, is_location, location_of, shown_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterable
    from concurrent.futures import Future
    from types import TracebackType

#: bytes of a part of an object; one that is shorter is the last, or all of it (S3 takes parts from 5 MiB on)
PART = 1 << 24
#: so many parts have one length, the next so many twice that: 10,000 parts, which S3 takes, hold 600 GB
_ALIKE = 2500
#: requests that are under way at once, and bytes in them
_MOST_REQUESTS = 32
_MOST_BYTES = 1 << 27
_MOST_REMOVED = 1000  # by one request
#: how often a request is sent if the store, or the way to it, fails; the waits in between become longer (20 s at most)
ATTEMPTS = 7
_SILENCE = 60  # seconds without a byte, upon which a connection counts as lost
_TYPE = "application/octet-stream"  # nothing that a browser shows
_STEP = 0.2  # seconds, so that a signal is noticed
#: seconds that are spent on removing what was written before a failure
PATIENCE = 60.0


class Objects:
    """The objects of `bucket` whose keys begin with `key`; messages call that `name`. `fs` is s3fs's file system.

    Every method raises OutputError if the store does not do what it is asked for.
    """

    def __init__(self, fs: Any, bucket: str, key: str, name: str) -> None:  # noqa: ANN401 - an extra, without types
        self._fs = fs
        self.bucket = bucket
        self.key = key
        self.name = name
        #: when no answer is waited for any more (``time.monotonic``); None is never
        self.deadline: float | None = None
        self._asyncio: Any = importlib.import_module("asyncio")  # which those who write to a disk do without

    def below(self, key: str, name: str) -> Objects:
        """Return other objects of the bucket, by what their keys begin with."""
        return Objects(self._fs, self.bucket, key, name)

    def listed(self, most: int | None = None, *, deep: bool = True) -> dict[str, int]:
        """Return the objects, their keys without `key`, and how many bytes each has; at most about `most`.

        Without `deep`, not those with a slash in what is left of their keys.
        """
        found: dict[str, int] = {}
        more: dict[str, str] = {} if deep else {"Delimiter": "/"}
        while True:
            answer = self.wait(self.call("list_objects_v2", Prefix=self.key, **more))
            for each in answer.get("Contents", ()):
                if each["Key"] != self.key:  # what consoles make to show a folder
                    found[each["Key"][len(self.key) :]] = each["Size"]
            if not answer.get("IsTruncated") or (most is not None and len(found) >= most):
                return found
            more["ContinuationToken"] = answer["NextContinuationToken"]

    def size(self, name: str = "") -> int | None:
        """Return how many bytes an object has; None if it is not there."""
        try:
            answer = self.wait(self.call("head_object", Key=self.key + name), absent=True)
        except FileNotFoundError:
            return None
        return int(answer["ContentLength"])

    def read(self, name: str, begin: int = 0, size: int | None = None) -> bytes:
        """Return the bytes of an object, or some of them; FileNotFoundError if it is not there."""
        return bytes(self.wait(self.reading(name, begin, size), absent=True))

    async def reading(self, name: str, begin: int = 0, size: int | None = None) -> bytes:
        """Return what `read` does."""
        if size == 0:
            return b""
        ranged = {} if size is None else {"Range": f"bytes={begin}-{begin + size - 1}"}
        answer = await self.call("get_object", Key=self.key + name, **ranged)
        async with answer["Body"] as body:
            return bytes(await body.read())

    def put(self, name: str, data: bytes, *, new: bool) -> None:
        """Write an object; with `new`, raises FileExistsError if there is one, as far as the store can tell."""
        self.wait(self.writing(name, io.BytesIO(data), new=new))

    async def writing(self, name: str, data: io.BytesIO, *, new: bool) -> None:
        """Write an object, see `put`; nothing of its rights is set: the bucket says who may read it."""
        condition = {"IfNoneMatch": "*"} if new else {}
        data.seek(0)
        body = {"Body": data, "ChecksumSHA256": _sha256(data), "ContentType": _TYPE}
        try:
            await self.call("put_object", Key=self.key + name, **body, **condition)
        except FileExistsError:
            # it may be this one: the store has taken it, and its answer was lost
            if await self.reading(name) != data.getvalue():
                raise

    def remove(self, names: Iterable[str]) -> None:
        """Remove objects; those that are not there do not matter."""
        listed = list(names)
        for first in range(0, len(listed), _MOST_REMOVED):
            keys = [{"Key": self.key + name} for name in listed[first : first + _MOST_REMOVED]]
            answer = self.wait(self.call("delete_objects", Delete={"Objects": keys, "Quiet": True}))
            for problem in answer.get("Errors", ()):
                shown = self.name + str(problem.get("Key"))[len(self.key) :]
                raise OutputError(f"cannot be removed: {problem.get('Code')}", subject=shown)

    async def call(self, method: str, **arguments: Any) -> Any:  # noqa: ANN401 - what the store answers
        """Ask the store; what can be tried again is, by s3fs."""
        return await self._fs._call_s3(method, Bucket=self.bucket, **arguments)  # noqa: SLF001 - the way that waits

    def begin(self, work: Coroutine[Any, Any, Any]) -> Future[Any]:
        """Begin work on the file system's own thread."""
        begun: Future[Any] = self._asyncio.run_coroutine_threadsafe(work, self._fs.loop)
        return begun

    def awaited(self, future: Future[Any]) -> Awaitable[Any]:
        """Return what other work can wait for what was begun with."""
        found: Awaitable[Any] = self._asyncio.wrap_future(future)
        return found

    def wait(self, work: Coroutine[Any, Any, Any], *, absent: bool = False) -> Any:  # noqa: ANN401 - of any work
        """Do work and return what comes of it; a signal ends it.

        Raises FileExistsError as the work does, FileNotFoundError only if something may be `absent`.
        """
        return self.wait_for(self.begin(work), absent=absent)

    def wait_for(self, future: Future[Any], *, absent: bool = False) -> Any:  # noqa: ANN401 - of any work
        """Wait for work that was begun; see `wait`."""
        try:
            return forking.result_of(future, self._refuse_late)
        except Exception as error:
            if isinstance(error, FileExistsError) or (absent and isinstance(error, FileNotFoundError)):
                raise
            raise output_error(error, self.name.rstrip("/")) from error
        finally:
            future.cancel()

    def _refuse_late(self) -> None:
        """Raise TimeoutError if no answer is waited for any more."""
        if self.deadline is not None and time.monotonic() >= self.deadline:
            raise TimeoutError


class Uploads:
    """Writes `objects`, several at once: `create` makes one after the other, `wait` returns once all are there.

    What has been begun and not been waited for is limited, so `write` of an object may wait; it raises what went wrong
    with any of them. `written` says how many bytes each has. Safe to use from several threads.
    """

    def __init__(self, objects: Objects, stop: threading.Event | None = None) -> None:
        self.objects = objects
        self.written: dict[str, int] = {}
        self._changed = threading.Condition()
        self._stop = stop or threading.Event()
        self._under_way: dict[Future[Any], int] = {}
        self._error: BaseException | None = None
        self._open: dict[str, str] = {}  # by the ids of uploads in parts that are not complete: their keys

    def create(self, name: str, *, later: bool = False, new: bool = False) -> Upload:
        """Begin an object, to be written in order.

        With `later` it is not there before `Upload.finish`; with `new`, finishing fails if there is one by then.
        """
        return Upload(self, name, later=later, new=new)

    def begin(self, work: Callable[[], Coroutine[Any, Any, Any]], size: int) -> Future[Any]:
        """Begin work that keeps `size` bytes, once there is room for it."""
        with self._changed:
            while self._error is None and self._under_way and not self._has_room(size):
                self._changed.wait(_STEP)
                self._check()
            self._check()
            future = self.objects.begin(work())
            self._under_way[future] = size
        future.add_done_callback(self._ended)
        return future

    def _has_room(self, size: int) -> bool:
        return len(self._under_way) < _MOST_REQUESTS and sum(self._under_way.values()) + size <= _MOST_BYTES

    def _check(self) -> None:
        if self._error is not None:
            raise self._error
        if self._stop.is_set():
            raise OutputError("was not written: it was stopped", subject=self.objects.name)

    def _ended(self, future: Future[Any]) -> None:
        with self._changed:
            self._under_way.pop(future, None)
            error = None if future.cancelled() else future.exception()
            if error is not None and self._error is None:
                self._error = output_error(error, self.objects.name.rstrip("/"))
            self._changed.notify_all()

    def wait(self) -> None:
        """Wait for all that has been begun; raises what went wrong with any of it."""
        with self._changed:
            while self._under_way and self._error is None:
                self._changed.wait(_STEP)
            if self._error is not None:
                raise self._error

    def abort(self) -> None:
        """End what is under way, and give up the parts of objects that are not whole; raises OutputError.

        From then on the store has a minute to answer, all in all: whoever stopped the program waits for it.
        """
        self._stop.set()
        self.objects.deadline = time.monotonic() + PATIENCE
        with self._changed:
            under_way = list(self._under_way)
        for future in under_way:
            future.cancel()
        # parts that were on their way may have come behind the end of an upload: it is ended once they are not any more
        with self._changed:
            self._changed.wait_for(lambda: not self._under_way, PATIENCE)
        calls = [("abort_multipart_upload", {"Key": key, "UploadId": upload}) for upload, key in self._open.items()]
        for method, arguments in calls:
            with contextlib.suppress(FileNotFoundError):  # it is complete, or was given up already
                self.objects.wait(self.objects.call(method, **arguments), absent=True)

    def began(self, upload: str, key: str) -> None:
        """Note that an object is being written in parts."""
        self._open[upload] = key

    def completed(self, upload: str) -> None:
        """Note that it is whole."""
        self._open.pop(upload, None)


class Upload(io.RawIOBase):
    """One object that is being written: see `Uploads.create`. It is given up if its ``with`` block raises."""

    def __init__(self, uploads: Uploads, name: str, *, later: bool, new: bool) -> None:
        super().__init__()
        self.name = name
        self.bytes = 0
        self._uploads = uploads
        self._objects = uploads.objects
        self._later = later
        self._new = new
        self._data = io.BytesIO()
        self._upload: str | None = None
        self._parts: list[Future[Any]] = []
        self._given_up = False

    def writable(self) -> bool:
        """Return True."""
        return True

    def write(self, data: Any) -> int:  # noqa: ANN401 - anything that holds bytes
        """Write all of some bytes behind the others; raises OutputError, also for what was written before."""
        size = len(memoryview(data).cast("B"))
        self._data.write(data)
        self.bytes += size
        if self._data.tell() >= PART << (len(self._parts) // _ALIKE):
            self._part()
        return size

    def close(self) -> None:
        """Finish it, if not to be finished later."""
        if not self.closed and not self._given_up and not self._later:
            self.finish()
        super().close()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._given_up = self._given_up or error is not None
        self.close()

    def finish(self) -> None:
        """Have the object be there; whoever waits for all knows that it is."""
        uploads, data, size = self._uploads, self._data, self._data.tell()
        self._data = io.BytesIO()
        if self._upload is None:
            uploads.begin(lambda: self._objects.writing(self.name, data, new=self._new), size)
        else:
            if size:
                self._begin_part(data)
            uploads.begin(self._complete, 0)
        uploads.written[self.name] = self.bytes

    def _part(self) -> None:
        """Begin to write what is there as one part."""
        key = self._objects.key + self.name
        if self._upload is None:
            how = {"ContentType": _TYPE, "ChecksumAlgorithm": "SHA256"}
            answer = self._objects.wait(self._objects.call("create_multipart_upload", Key=key, **how))
            self._upload = str(answer["UploadId"])
            self._uploads.began(self._upload, key)
        data, self._data = self._data, io.BytesIO()
        self._begin_part(data)

    def _begin_part(self, data: io.BytesIO) -> None:
        number, digest, key = len(self._parts) + 1, _sha256(data), self._objects.key + self.name

        async def work() -> dict[str, Any]:
            data.seek(0)
            answer = await self._objects.call(
                "upload_part", Key=key, UploadId=self._upload, PartNumber=number, Body=data, ChecksumSHA256=digest
            )
            return {"PartNumber": number, "ETag": answer["ETag"], "ChecksumSHA256": digest}

        self._parts.append(self._uploads.begin(work, data.tell()))

    async def _complete(self) -> None:
        parts = [await self._objects.awaited(part) for part in self._parts]
        condition = {"IfNoneMatch": "*"} if self._new else {}
        key = self._objects.key + self.name
        try:
            await self._objects.call(
                "complete_multipart_upload",
                Key=key,
                UploadId=self._upload,
                MultipartUpload={"Parts": parts},
                **condition,
            )
        except FileNotFoundError:
            # there is no such upload any more: the store has completed it, and its answer was lost
            if (await self._objects.call("head_object", Key=key))["ContentLength"] != self.bytes:
                raise
        self._uploads.completed(str(self._upload))


def output_error(error: BaseException, name: str) -> BaseException:
    """Return what is raised for what a store said, or for what went wrong on the way to it."""
    if isinstance(error, MemcarveError | FileExistsError) or not isinstance(error, Exception):
        return error
    kind, said = type(error).__name__, _QUERY.sub("", described(error)).rstrip(".")
    if isinstance(error, PermissionError):
        problem, remedy = f"access is refused: {said}", _RIGHTS
    elif kind in ("NoCredentialsError", "PartialCredentialsError", "ProfileNotFound", "InvalidConfigError"):
        problem, remedy = f"there are no credentials for it: {said}", _CREDENTIALS
    elif isinstance(error, FileNotFoundError):
        problem, remedy = f"is not there: {said}", "is the bucket, or is the name, another one?"
    elif isinstance(error, TimeoutError):
        problem, remedy = "the store does not answer", "try again"
    else:
        problem, remedy = f"the store, or the way to it, failed: {said}", "try again"
    return OutputError(problem, subject=name, remedy=remedy)


_QUERY = re.compile(r"\?[^\s'\"]*")
_RIGHTS = "it takes the rights to list the bucket, and to get, put and delete objects and to abort uploads in parts"
_CREDENTIALS = "give credentials as for the AWS tools: AWS_PROFILE, AWS_ACCESS_KEY_ID, ~/.aws"


def _sha256(data: io.BytesIO) -> str:
    with data.getbuffer() as view:
        return base64.b64encode(hashlib.sha256(view).digest()).decode("ascii")


def objects_of(out: str | os.PathLike[str], *, folder: bool = False) -> Objects | None:
    """Return the object that is called `out`, or with `folder` those below it; None if it is a path of this machine.

    Nothing is asked of the store yet. Raises UsageError if nothing can be written there, MissingExtraError.
    """
    text = os.fspath(out)
    if not isinstance(text, str) or not is_location(text):
        if isinstance(text, str) and (_NEARLY.match(text) or is_like_one(text)):
            raise UsageError(
                "is not where memcarve can write", subject=text, remedy="{out} is like s3://bucket/folder, or a path"
            )
        return None
    location = location_of(text)
    if location.kind != "s3":
        raise UsageError(_OTHER_KINDS[location.kind], subject=location.shown, remedy=_HERE)
    rest = location.url.partition("://")[2]
    files = _files(location.shown)
    bucket, key, _ = files.split_path(rest)
    key = key.removesuffix("/") if folder else key
    parts = key.split("/")
    if not key:
        raise UsageError(
            "names a bucket, and nothing in it", subject=location.shown, remedy="{out} is like s3://bucket/folder"
        )
    if not all(map(_PLAIN.fullmatch, parts)) or "?versionId=" in rest:
        raise UsageError(
            "is not a name that memcarve writes to: it has parts that are empty, . or .., or control characters",
            subject=location.shown,
            remedy="choose another with {out}",
        )
    end = "/" if folder else ""
    return Objects(files, bucket, key + end, location.shown.removesuffix("/") + end)


def check_here(path: str, why: str) -> None:
    """Raise UsageError, which says why, if a path is a location or looks like one."""
    if _NEARLY.match(path) or is_like_one(path):
        raise UsageError(why, subject=shown_of(path), remedy="name a place on this machine with {out}")


_NEARLY = re.compile(rf"(?:{'|'.join(SCHEMES)}):/", re.IGNORECASE)
_PLAIN = re.compile(r"(?!\.\.?$)[^\x00-\x1f\x7f\ud800-\udfff]+")
_HERE = "write to a folder of this machine, and copy that"
_OTHER_KINDS = {
    "http": "a web server takes no files",
    "gs": "memcarve writes to s3:// alone",
    "az": "memcarve writes to s3:// alone",
}


def _files(shown: str) -> Any:  # noqa: ANN401 - an extra, without types
    """Return s3fs's file system: one for all that is written with the same settings, as making one takes half a second.

    It has a thread of its own, which a copy of this program does not have: that makes another.
    """
    settings = {name: value for name, value in os.environ.items() if name.startswith(("AWS_", "FSSPEC_"))}
    key = (os.getpid(), ATTEMPTS, frozenset(settings.items()))
    if key not in _known:
        _known[key] = _new_files(shown)
    return _known[key]


_known: dict[tuple[int, int, frozenset[tuple[str, str]]], Any] = {}


def _new_files(shown: str) -> Any:  # noqa: ANN401
    try:
        s3fs: Any = importlib.import_module("s3fs")  # an extra
    except ImportError:
        problem = "to write to a bucket: pip install 'memcarve[cloud]'"
        raise MissingExtraError(problem, subject=shown) from None
    retries = {"mode": "standard", "total_max_attempts": ATTEMPTS}
    config = {"retries": retries, "max_pool_connections": _MOST_REQUESTS, "read_timeout": _SILENCE}
    files = s3fs.S3FileSystem(skip_instance_cache=True, use_listings_cache=False, config_kwargs=config)
    files.retries = 1  # it is asked again below
    return files
