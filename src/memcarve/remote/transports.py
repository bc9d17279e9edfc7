"""How each kind of store is asked for a range of an object's bytes, through the file systems of fsspec.

A file system finds credentials, regions and endpoints as its users know it: by environment variables, files and
fsspec's own configuration. What it does not offer is asked of the client below it: that an answer belongs to the same
version of the object as the one before it. Each request is one `get`; when to ask again is for `requesting` to say.
"""

from __future__ import annotations

import asyncio
import email.utils
import importlib
import ipaddress
import re
import time
import weakref
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from memcarve.errors import MissingExtraError
from memcarve.remote.locations import described, shown_of, what_is_named
from memcarve.times import rfc3339

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from memcarve.remote.locations import Location

_SILENCE = 60.0  # seconds without a byte, upon which a connection counts as lost
_CONNECTIONS = 64
_PAGES = 10  # of a list of names
_WHOLE = 64 << 20  # a server that knows no ranges may send a whole object of this size
_PIECE = 1 << 18
_RANGE = re.compile(r"bytes ([0-9]{1,19})-([0-9]{1,19})/([0-9]{1,19})")
_LONGEST_CODE = 60  # characters of what a store says is wrong
_TOO_LATE = (408, 425, 429, 500, 502, 503, 504)
_LOGIN = {
    "s3": "give credentials as for the AWS tools (AWS_PROFILE, AWS_ACCESS_KEY_ID, ~/.aws; AWS_ENDPOINT_URL for another "
    "server), or FSSPEC_S3_ANON=true for a public bucket",
    "gs": "give credentials as for Google's tools (GOOGLE_APPLICATION_CREDENTIALS, gcloud auth application-default "
    "login), or FSSPEC_GS_TOKEN=anon for a public bucket",
    "az": "give credentials as for Azure's tools (AZURE_STORAGE_ACCOUNT_NAME with AZURE_STORAGE_ACCOUNT_KEY, "
    "AZURE_STORAGE_SAS_TOKEN or AZURE_STORAGE_CONNECTION_STRING)",
    "http": "give a login in ~/.netrc or in the URL, or a URL that is signed and has not expired",
}

_FOLDERS = (
    "; of folders carved into a bucket memcarve reads the objects by verify alone: copy one here to use it otherwise"
)
_WHOLE_NAME = {
    "s3": f"name one object whole: s3://BUCKET/KEY{_FOLDERS}",
    "gs": "name one object whole: gs://BUCKET/NAME",
    "az": "name one blob whole: az://CONTAINER/BLOB",
    "http": "is the address, or the file's name, another one?",
}


class Facts(NamedTuple):
    """What tells one version of an object from another: `size` in bytes, its tag, version, and time of modification."""

    size: int
    etag: str | None = None
    version: str | None = None
    modified: str | None = None


class Answer(NamedTuple):
    """The bytes that came, from `begin` of the object on; `encoding` is how the server says that it stores it."""

    begin: int
    data: bytes
    facts: Facts
    encoding: str | None = None


class RefusedError(Exception):
    """The store will not answer otherwise if it is asked again: what is wrong, and a remedy."""

    def __init__(self, problem: str, remedy: str = "") -> None:
        super().__init__(problem)
        self.problem = problem
        self.remedy = remedy


class ChangedError(Exception):
    """The object is another one than before."""


class EmptyError(Exception):
    """The object has no byte where the first one was asked for."""


class FailedError(Exception):
    """The store did not answer, or not well; it may do so if it is asked again, `after` some seconds if it says so."""

    def __init__(self, problem: str, after: float | None = None) -> None:
        super().__init__(problem)
        self.problem = problem
        self.after = after


class Transport:
    """The way to one object; its methods run in one event loop."""

    def __init__(self, location: Location) -> None:
        self.location = location

    async def get(self, begin: int, end: int, known: Facts | None) -> Answer:
        """Return the bytes from `begin` to `end`, of the version that is `known`.

        Fewer come if the object ends before. Raises the errors above.
        """
        raise NotImplementedError

    async def names(self) -> list[str] | None:
        """Return the names of what lies in the folder that the location is; None if there is no list of all of them."""
        return None

    @property
    def origin(self) -> list[object]:
        """What tells the object from those of the same name elsewhere, once it was asked for: JSON, without secrets."""
        return []

    async def close(self) -> None:
        """Close all connections."""

    def _package(self, name: str, package: str) -> Any:  # noqa: ANN401 - a module
        try:
            return importlib.import_module(name)
        except ImportError as error:
            raise MissingExtraError(
                f"cannot be read without {package}",
                subject=self.location.shown,
                remedy="pip install 'memcarve[cloud]'",
            ) from error

    def _need(self, name: str) -> None:
        """Raise RefusedError if a location has no name of an object behind that of its bucket."""
        if not name:
            raise RefusedError("names a bucket, and no object in it", _WHOLE_NAME[self.location.kind])

    def _judge(self, status: int, headers: Mapping[str, str], code: str = "") -> NoReturn:
        """Raise the error that an answer's status stands for."""
        code = code[:_LONGEST_CODE]
        said = f"the store answered {status}{f' ({code})' if code and code != str(status) else ''}"
        if status == 412:  # noqa: PLR2004 - HTTP's numbers
            raise ChangedError
        if status == 416:  # noqa: PLR2004
            raise EmptyError
        if status in _TOO_LATE or code == "RequestTimeout":
            raise FailedError(said, _seconds(headers.get("retry-after")))
        if status in (401, 403, 407) or code in ("ExpiredToken", "InvalidAccessKeyId", "InvalidToken"):
            raise RefusedError(f"access is refused: {said}", _LOGIN[self.location.kind])
        if status in (404, 410):
            raise RefusedError(f"is not there: {said}", _WHOLE_NAME[self.location.kind])
        raise RefusedError(said)


class HttpTransport(Transport):
    """A file on a web server."""

    def __init__(self, location: Location) -> None:
        super().__init__(location)
        http = self._package("fsspec.implementations.http", "fsspec and aiohttp")
        self._aiohttp = self._package("aiohttp", "fsspec and aiohttp")
        self._yarl = self._package("yarl", "fsspec and aiohttp")
        redirects = self._aiohttp.TraceConfig()
        redirects.on_request_redirect.append(self._check_redirect)
        options = {
            "trace_configs": [redirects],
            "trust_env": True,  # proxies, ~/.netrc
            "auto_decompress": False,
            "connector": self._aiohttp.TCPConnector(limit=_CONNECTIONS),
            "timeout": self._aiohttp.ClientTimeout(total=None, sock_connect=_SILENCE, sock_read=_SILENCE),
        }
        self._files = http.HTTPFileSystem(asynchronous=True, skip_instance_cache=True, client_kwargs=options)

    async def get(self, begin: int, end: int, known: Facts | None) -> Answer:
        """Return a range; see `Transport.get`."""
        session = await self._files.set_session()
        headers = {"Range": f"bytes={begin}-{end - 1}", "Accept-Encoding": "identity"}
        if known is not None and known.etag is not None and not known.etag.startswith("W/"):
            headers["If-Match"] = known.etag  # a weak tag never matches: it is compared with the answer's
        url = self._yarl.URL(self.location.url, encoded="%" in self.location.url)
        try:
            async with session.get(url, headers=headers, **self._files.kwargs) as answer:
                if answer.status not in (200, 206):
                    self._judge(answer.status, answer.headers)
                encoding = answer.headers.get("Content-Encoding")
                if answer.status == 200:  # noqa: PLR2004
                    return await self._whole(answer, known)
                first, last, size = _content_range(answer.headers.get("Content-Range"))
                if first != begin or last >= end:
                    raise FailedError(f"the server sent bytes {first}-{last} when {begin}-{end - 1} were asked for")
                data = await _body(answer, last + 1 - first)
                return Answer(begin, data, self._facts(answer.headers, size), encoding)
        except (TimeoutError, self._aiohttp.ClientError, OSError) as error:
            if isinstance(error, self._aiohttp.ClientSSLError):
                raise _no_tls(error) from error
            if isinstance(error, self._aiohttp.InvalidURL | self._aiohttp.TooManyRedirects):
                raise RefusedError(f"cannot be asked for: {described(error)}") from error
            raise FailedError(_lost(error)) from error

    @property
    def origin(self) -> list[object]:
        """All of the URL that names the object: what is shown of it may lack that."""
        return what_is_named(self.location.url)

    async def _check_redirect(self, session: Any, context: Any, params: Any) -> None:  # noqa: ANN401, ARG002 - aiohttp's
        """Raise RefusedError if a server leads to where it should not: out of TLS, or back into the own network."""
        said = params.response.headers.get("Location") or params.response.headers.get("URI") or ""
        try:
            target = params.response.url.join(self._yarl.URL(said))
        except ValueError:
            return  # it is refused
        shown = shown_of(str(target))
        if params.response.url.scheme == "https" and target.scheme == "http":
            raise RefusedError(f"the server leads to {shown}, which is not encrypted", "if that is right, name it")
        if await _is_inside(target.host) and not await _is_inside(self._yarl.URL(self.location.url).host):
            raise RefusedError(
                f"the server leads to {shown}, which is an address of this machine or its network",
                "if that is right, name it",
            )

    async def _whole(self, answer: Any, known: Facts | None) -> Answer:  # noqa: ANN401 - aiohttp's
        """Return all of a small file from a server that knows no ranges."""
        length = answer.headers.get("Content-Length")
        if known is not None or (length is not None and (len(length) > _LONGEST_CODE or int(length) > _WHOLE)):
            told = "" if length is None else f", of {length[:_LONGEST_CODE]} bytes,"
            raise RefusedError(
                f"the server does not know ranged requests: it would send the whole file{told} each time",
                "download it, or serve it by a server that does (nginx, Apache, an object store)",
            )
        data = await _body(answer, _WHOLE if length is None else int(length), exact=length is not None)
        return Answer(0, data, self._facts(answer.headers, len(data)), answer.headers.get("Content-Encoding"))

    def _facts(self, headers: Mapping[str, str], size: int) -> Facts:
        return Facts(size, headers.get("ETag"), None, _http_time(headers.get("Last-Modified")))

    async def close(self) -> None:
        """Close all connections."""
        if self._files._session is not None:  # noqa: SLF001 - fsspec leaves it to whoever runs the loop
            await self._files._session.close()  # noqa: SLF001


class S3Transport(Transport):
    """An object in S3, or in a store that speaks like it."""

    def __init__(self, location: Location) -> None:
        super().__init__(location)
        package = self._package("s3fs", "s3fs")
        self._errors = self._package("botocore.exceptions", "s3fs")
        self._aiohttp = self._package("aiohttp", "s3fs")
        limits = {"retries": {"max_attempts": 0}, "max_pool_connections": _CONNECTIONS}  # `requesting` asks again
        self._files = package.S3FileSystem(
            asynchronous=True,
            skip_instance_cache=True,
            config_kwargs={**limits, "read_timeout": _SILENCE, "connect_timeout": _SILENCE},
        )
        self._bucket, self._key, self._version = self._files.split_path(location.url.replace("s3a://", "s3://", 1))

    async def get(self, begin: int, end: int, known: Facts | None) -> Answer:
        """Return a range; see `Transport.get`."""
        wanted = {"Bucket": self._bucket, "Key": self._key, "Range": f"bytes={begin}-{end - 1}"}
        self._need(self._key)
        if self._version is not None:
            wanted["VersionId"] = self._version
        if known is not None and known.etag is not None:
            wanted["IfMatch"] = known.etag
        try:
            await self._files.set_session()
            client = await self._files.get_s3(self._bucket)
            answer = await client.get_object(**wanted)
            first, last, size = _content_range(answer.get("ContentRange"))
            if first != begin or last >= end:
                raise FailedError(f"the store sent bytes {first}-{last} when {begin}-{end - 1} were asked for")
            async with answer["Body"] as body:
                data = await _read(body, last + 1 - first)
        except self._errors.ClientError as error:
            said = error.response.get("ResponseMetadata", {})
            code = error.response.get("Error", {}).get("Code", "")
            self._judge(said.get("HTTPStatusCode", 0), said.get("HTTPHeaders", {}), code)
        except (self._errors.NoCredentialsError, self._errors.PartialCredentialsError) as error:
            raise RefusedError("there are no credentials for it", _LOGIN["s3"]) from error
        except (
            TimeoutError,
            self._errors.HTTPClientError,
            self._errors.ConnectionError,
            self._aiohttp.ClientError,
            OSError,
        ) as error:
            if isinstance(error, self._errors.SSLError):
                raise _no_tls(error) from error
            raise FailedError(_lost(error)) from error
        except self._errors.BotoCoreError as error:
            raise RefusedError(f"cannot be asked for: {described(error)}") from error
        modified = _time(answer.get("LastModified"))
        facts = Facts(size, answer.get("ETag"), answer.get("VersionId"), modified)
        return Answer(begin, data, facts, answer.get("ContentEncoding") or None)

    @property
    def origin(self) -> list[object]:
        """The store, which a setting may say is another."""
        client = self._files._s3  # noqa: SLF001 - s3fs leaves it to whoever runs the loop
        return [] if client is None else [client.meta.endpoint_url]

    async def names(self) -> list[str] | None:
        """Return the names in a folder; None if there are very many."""
        found: list[str] = []
        more: dict[str, str] = {}
        try:
            await self._files.set_session()
            client = await self._files.get_s3(self._bucket)
            for _ in range(_PAGES):
                page = await client.list_objects_v2(Bucket=self._bucket, Prefix=self._key, Delimiter="/", **more)
                found += [each["Key"].removeprefix(self._key) for each in page.get("Contents", ())]
                if not page.get("IsTruncated"):
                    return found
                more = {"ContinuationToken": page["NextContinuationToken"]}
        except (self._errors.BotoCoreError, self._errors.ClientError, OSError) as error:
            raise RefusedError(described(error)) from error
        return None

    async def close(self) -> None:
        """Close all connections."""
        if self._files._s3 is not None:  # noqa: SLF001 - s3fs leaves it to whoever runs the loop
            await self._files._s3.close()  # noqa: SLF001


class GoogleTransport(Transport):
    """An object in Google Cloud Storage."""

    def __init__(self, location: Location) -> None:
        super().__init__(location)
        package = self._package("gcsfs", "gcsfs")
        self._aiohttp = self._package("aiohttp", "gcsfs")
        self._auth = self._package("google.auth.exceptions", "gcsfs")
        kwargs = {"auto_decompress": False, "trust_env": True}
        try:
            self._files = package.GCSFileSystem(
                asynchronous=True, skip_instance_cache=True, session_kwargs=kwargs, version_aware=True
            )
        except (self._auth.GoogleAuthError, OSError) as error:
            raise RefusedError(f"there are no credentials for it: {described(error)}", _LOGIN["gs"]) from error
        self._path = location.url.partition("://")[2]

    async def get(self, begin: int, end: int, known: Facts | None) -> Answer:
        """Return a range; see `Transport.get`."""
        # without gzip the store would send what it stores compressed decompressed, and whole
        headers = {"Range": f"bytes={begin}-{end - 1}", "Accept-Encoding": "gzip"}
        self._need(self._path.partition("/")[2])
        url = self._files.url(self._path)
        if known is not None and known.version is not None:
            url += f"&ifGenerationMatch={known.version}"
        try:
            session = await self._files._set_session()  # noqa: SLF001 - gcsfs leaves it to whoever runs the loop
            headers = self._files._get_headers(headers)  # noqa: SLF001 - with the login
            wait = self._aiohttp.ClientTimeout(total=None, sock_connect=_SILENCE, sock_read=_SILENCE)
            async with session.get(url, headers=headers, timeout=wait) as answer:
                if answer.status != 206:  # noqa: PLR2004 - HTTP's number
                    if known is not None and answer.status == 404:  # noqa: PLR2004
                        raise ChangedError
                    self._judge(answer.status, answer.headers)
                first, last, size = _content_range(answer.headers.get("Content-Range"))
                if first != begin or last >= end:
                    raise FailedError(f"the store sent bytes {first}-{last} when {begin}-{end - 1} were asked for")
                data = await _body(answer, last + 1 - first)
        except self._auth.GoogleAuthError as error:
            raise RefusedError(f"there are no credentials for it: {described(error)}", _LOGIN["gs"]) from error
        except (self._aiohttp.ClientError, OSError) as error:
            raise FailedError(_lost(error)) from error
        said = answer.headers
        facts = Facts(size, said.get("ETag"), said.get("X-Goog-Generation"), _http_time(said.get("Last-Modified")))
        return Answer(begin, data, facts, said.get("X-Goog-Stored-Content-Encoding"))

    @property
    def origin(self) -> list[object]:
        """The store, which a setting may say is another."""
        return [self._files.base]

    async def names(self) -> list[str] | None:
        """Return the names in a folder."""
        try:
            return _last(await self._files._ls(self._path.rstrip("/"), detail=False))  # noqa: SLF001 - `ls` in a loop
        except Exception as error:
            raise RefusedError(described(error)) from error

    async def close(self) -> None:
        """Close all connections."""
        if self._files._session is not None:  # noqa: SLF001
            await self._files._session.close()  # noqa: SLF001


class AzureTransport(Transport):
    """A blob in Azure's storage."""

    def __init__(self, location: Location) -> None:
        super().__init__(location)
        package = self._package("adlfs", "adlfs")
        self._errors = self._package("azure.core.exceptions", "adlfs")
        self._core = self._package("azure.core", "adlfs")
        try:
            self._files = package.AzureBlobFileSystem(
                asynchronous=True, loop=asyncio.get_running_loop(), skip_instance_cache=True, **_account(location.url)
            )
        except ValueError as error:
            raise RefusedError(f"there are no credentials for it: {described(error)}", _LOGIN["az"]) from error
        _forget_end_of(self._files)
        self._container, self._blob, _ = self._files.split_path(location.url)

    async def get(self, begin: int, end: int, known: Facts | None) -> Answer:
        """Return a range; see `Transport.get`."""
        self._need(self._blob)
        headers: dict[str, str] = {}
        same: dict[str, Any] = {}
        if known is not None and known.etag is not None:
            same = {"etag": known.etag, "match_condition": self._core.MatchConditions.IfNotModified}

        def noted(response: Any) -> None:  # noqa: ANN401 - azure's
            headers.update({name.lower(): value for name, value in response.http_response.headers.items()})

        client = self._files.service_client.get_blob_client(container=self._container, blob=self._blob)
        try:
            stream = await client.download_blob(
                offset=begin,
                length=end - begin,
                max_concurrency=1,
                retry_total=0,
                connection_timeout=_SILENCE,
                read_timeout=_SILENCE,
                raw_response_hook=noted,
                **same,
            )
            data = await stream.readall()
        except self._errors.ResourceModifiedError as error:
            raise ChangedError from error
        except self._errors.HttpResponseError as error:
            if error.status_code is None:
                raise FailedError(_lost(error)) from error
            said = {} if error.response is None else error.response.headers
            self._judge(error.status_code, said, str(error.error_code or "") if hasattr(error, "error_code") else "")
        except self._errors.ClientAuthenticationError as error:
            raise RefusedError(f"there are no credentials for it: {described(error)}", _LOGIN["az"]) from error
        except (self._errors.AzureError, OSError) as error:
            raise FailedError(_lost(error)) from error
        if not data:
            raise EmptyError
        first, last, size = _content_range(headers.get("content-range"))
        if first != begin or last >= end:
            raise FailedError(f"the store sent bytes {first}-{last} when {begin}-{end - 1} were asked for")
        facts = Facts(size, headers.get("etag"), None, _http_time(headers.get("last-modified")))
        return Answer(begin, data, facts, headers.get("content-encoding"))

    @property
    def origin(self) -> list[object]:
        """The account, which settings say, too."""
        return [self._files.service_client.primary_hostname]

    async def names(self) -> list[str] | None:
        """Return the names in a folder."""
        try:
            return _last(await self._files._ls(f"{self._container}/{self._blob}".rstrip("/"), detail=False))  # noqa: SLF001 - `ls` in a loop
        except Exception as error:
            raise RefusedError(described(error)) from error

    async def close(self) -> None:
        """Close all connections."""
        await self._files.service_client.close()


_TRANSPORTS: dict[str, type[Transport]] = {
    "s3": S3Transport,
    "gs": GoogleTransport,
    "az": AzureTransport,
    "http": HttpTransport,
}


def transport_to(location: Location) -> Transport:
    """Return the way to an object. Raises MissingExtraError if the package for its store is not installed."""
    return _TRANSPORTS[location.kind](location)


def _account(url: str) -> dict[str, str]:
    """Return what a URL says of an account of Azure: abfs://container@account.dfs.core.windows.net/blob."""
    host = url.partition("://")[2].partition("/")[0].partition("@")[2]
    return {"account_name": host.partition(".")[0]} if host else {}


def _forget_end_of(files: Any) -> None:  # noqa: ANN401 - adlfs's
    """Have nothing close a file system when the program ends, in a loop that has ended before: `close` does it."""
    for each in [*getattr(weakref.finalize, "_registry", ())]:
        found = each.peek()
        if found is not None and found[0] is files:
            each.detach()


def _last(paths: list[str]) -> list[str]:
    return [path.rpartition("/")[2] for path in paths]


async def _body(answer: Any, expected: int, *, exact: bool = True) -> bytes:  # noqa: ANN401 - aiohttp's
    """Return an answer's body: at most `expected` bytes, and so many if that is `exact`."""
    parts, got = [], 0
    async for part in answer.content.iter_any():
        parts.append(part)
        got += len(part)
        if got > expected:
            raise FailedError(f"the server sent more than the {expected} bytes that it announced")
    if exact and got != expected:
        raise FailedError(f"the server sent {got} bytes of {expected}")
    return parts[0] if len(parts) == 1 else b"".join(parts)


async def _read(body: Any, expected: int) -> bytes:  # noqa: ANN401 - aiobotocore's
    """Return a body of `expected` bytes, without taking more than that into memory."""
    data = bytearray()
    while part := await body.read(_PIECE):
        data += part
        if len(data) > expected:
            raise FailedError(f"the store sent more than the {expected} bytes that it announced")
    return bytes(data)


async def _is_inside(host: str | None) -> bool:
    """Return True if a name, or an address, leads to this machine or into a network that is not public."""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, None)
    except (OSError, UnicodeError):
        return False  # it is not found, or by a proxy alone
    addresses = {ipaddress.ip_address(str(each[4][0]).partition("%")[0]) for each in found}
    return any(not address.is_global and not address.is_multicast for address in addresses)


def _content_range(text: str | None) -> tuple[int, int, int]:
    """Return first and last byte and the object's size from a header; raises FailedError."""
    found = _RANGE.fullmatch((text or "").strip())
    if found is None:
        raise FailedError(f"the server does not say which bytes it sent (Content-Range: {(text or '')[:100]})")
    first, last, size = int(found[1]), int(found[2]), int(found[3])
    if not first <= last < size:
        raise FailedError(f"the server says of the bytes it sent what cannot be (Content-Range: {text})")
    return first, last, size


def _seconds(text: str | None) -> float | None:
    """Return how long Retry-After says to wait; None if it says nothing that is understood."""
    if text is None:
        return None
    if text.strip().isdecimal():
        return float(text)
    try:
        return max(email.utils.parsedate_to_datetime(text).timestamp() - time.time(), 0.0)
    except (ValueError, OverflowError):
        return None


def _http_time(text: str | None) -> str | None:
    try:
        return None if text is None else _time(email.utils.parsedate_to_datetime(text))
    except (ValueError, OverflowError):
        return None


def _time(when: datetime | None) -> str | None:
    return None if when is None else rfc3339(when)


def _lost(error: BaseException) -> str:
    if isinstance(error, TimeoutError | asyncio.TimeoutError):
        return f"no byte came for {_SILENCE:.0f} seconds"
    cause = getattr(error, "os_error", error)  # aiohttp's: its own text has settings in it
    return f"the connection failed: {described(cause)}"


def _no_tls(error: BaseException) -> RefusedError:
    """Return what is raised if the server has no certificate that is trusted, or speaks no TLS at all."""
    return RefusedError(
        f"no secure connection can be made: {described(error)}",
        "SSL_CERT_FILE (AWS_CA_BUNDLE of S3) names the certificates to trust; http:// is without any",
    )
