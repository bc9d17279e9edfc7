r"""What an input is called that lies in an object store or on a web server, and what may be shown of that name.

A location begins with one of a few schemes, a colon and two slashes, and something behind them. So no path of Windows
is one (`C:\x` has no slashes there), and a local file that is called like one is reached by any other spelling of its
path: `./s3://x`, `s3:/x`. Schemes are those of fsspec.

A location may hold secrets: a login before the host, a signature in the query. What is shown, printed or recorded is
`Location.shown`, which has neither; a location that was opened once is found again by what is shown of it. If two
differ in nothing that may be shown, the later one has a number behind it: ``https://host/get#2``.
"""

from __future__ import annotations

import json
import os
import re
from typing import NamedTuple

from memcarve.errors import InputError, printable

#: each scheme, and the one that stands for its kind
SCHEMES = {
    "s3": "s3",
    "s3a": "s3",
    "gs": "gs",
    "gcs": "gs",
    "az": "az",
    "abfs": "az",
    "abfss": "az",
    "http": "http",
    "https": "http",
}
_LOCATION = re.compile(rf"({'|'.join(SCHEMES)})://(?=[^/])", re.IGNORECASE)
_LIKE_ONE = re.compile(r"[a-z][a-z0-9+.-]+:/{2,}", re.IGNORECASE)
_IN_TEXT = re.compile(rf"(?:{'|'.join(SCHEMES)})://[^\s'\"<>]+", re.IGNORECASE)
_IN_WORD = re.compile(rf"(?:{'|'.join(SCHEMES)})://.+", re.IGNORECASE | re.DOTALL)
#: what a query may say without being a secret: which version of the object it is
_HARMLESS = ("versionid", "generation", "snapshot")
#: what signs a query of S3, Google, CloudFront or Azure, and is another each time one object is signed
_SIGNS = re.compile(
    r"(?i:x-(?:amz|goog|ms)-.*|signature|expires|awsaccesskeyid|googleaccessid|key-pair-id|policy)"
    r"|s(?:v|s|rt|p|e|t|pr|ip|r|i|ig|ke|koid|ks|kt|ktid|kv|dd|cid|aoid|uoid)"
)

#: the variable in which a program leaves the secrets of locations to those that it starts
SECRETS = "MEMCARVE_LOCATIONS"

_opened: dict[str, str] = {}  # what is shown of a location -> the location
_logins: dict[tuple[str, str], str] = {}  # scheme and host -> the login that was given for it


class Location(NamedTuple):
    """A location as it was given, in its parts: `kind` is one of the values of SCHEMES, `shown` holds no secret."""

    kind: str
    url: str
    shown: str

    @property
    def name(self) -> str:
        """The object's own name: what follows the last slash."""
        from urllib.parse import unquote  # not for files on disk

        last = self.shown.partition("?")[0]
        last = (last.partition("#")[0] if self.kind == "http" else last).rstrip("/").rpartition("/")[2]
        plain = unquote(last) if self.kind == "http" else last
        return plain if plain and "/" not in plain and "\0" not in plain else last


def is_location(path: object) -> bool:
    """Return True if a path names something that lies elsewhere."""
    return isinstance(path, str) and _LOCATION.match(path) is not None


def is_like_one(path: object) -> bool:
    """Return True if a path looks like a location and is none: of another scheme (``ftp://``), or without a name."""
    return isinstance(path, str) and not is_location(path) and _LIKE_ONE.match(path) is not None


def location_of(path: str) -> Location:
    """Return a location in its parts; one that was opened before may be given as it was shown.

    Raises InputError for a login before the name of a bucket, which no store takes, and for one that is not encoded.
    """
    from urllib.parse import urlsplit, urlunsplit  # not for files on disk

    found = _LOCATION.match(path)
    if found is None:
        raise ValueError(path)
    kind = SCHEMES[found[1].lower()]
    if kind != "http":
        if _login_end(kind, path[found.end() :]):
            raise InputError(
                "has a login before the name of the bucket, which is not used",
                subject=shown_of(path),
                remedy="leave it out: credentials come from the environment and files of the store's own tools",
            )
        return Location(kind, path, shown_of(path))
    if _login_end(kind, path[found.end() :]) and "@" not in re.split(r"[/?#]", path[found.end() :], maxsplit=1)[0]:
        raise InputError(
            "has a login with signs that must be encoded",
            subject=shown_of(path),
            remedy="write /, ? and # in it as %2F, %3F and %23, or give it in ~/.netrc",
        )
    _take_over()
    url = _opened.get(path, path)
    parts = urlsplit(url)
    if "@" not in parts.netloc:
        login = _logins.get((parts.scheme.lower(), parts.netloc))
        url = url if login is None else urlunsplit(parts._replace(netloc=f"{login}@{parts.netloc}"))
    return Location(kind, url, _told_apart(url))


def what_is_named(url: str) -> list[object]:
    """Return what in a location says which object it is: all but secrets and what is signed anew each time."""
    from urllib.parse import parse_qsl, urlsplit  # not for files on disk

    try:
        parts = urlsplit(url)
        query = [pair for pair in parse_qsl(parts.query, keep_blank_values=True) if not _SIGNS.fullmatch(pair[0])]
    except ValueError:  # an address in brackets that is none, or fields without end
        return [url]
    login, _, host = parts.netloc.rpartition("@")
    return [parts.scheme.lower(), login.partition(":")[0], host, parts.path, query]


def _told_apart(url: str) -> str:
    """Return what is shown of a URL; with a number behind it if that is another object's already."""
    shown = name = shown_of(url)
    number = 1
    while name in _opened and what_is_named(_opened[name]) != what_is_named(url):
        number += 1
        name = f"{shown}#{number}"
    return name


def remember(location: Location) -> None:
    """Keep the secrets of a location that was opened, for what is opened beside it, or again by what is shown of it."""
    if location.kind == "http":
        from urllib.parse import urlsplit  # not for files on disk

        parts = urlsplit(location.url)
        login, _, host = parts.netloc.rpartition("@")
        if login:
            _logins[parts.scheme.lower(), host] = login
        _opened[location.shown] = location.url


def shown_of(path: str) -> str:
    """Return a location without its secrets; any other path as it is."""
    found = _LOCATION.match(path)
    if found is None:
        return path
    kind, rest = SCHEMES[found[1].lower()], path[found.end() :]
    path = f"{found[0]}{rest[_login_end(kind, rest) :]}"
    if kind != "http":
        return path
    from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit  # not for files on disk

    try:
        parts = urlsplit(path)
        _ = parts.port
    except ValueError:  # an address in brackets that is none, or a port
        return path.partition("?")[0].partition("#")[0]
    told = [(name, value) for name, value in parse_qsl(parts.query) if name.lower() in _HARMLESS]
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=host, query=urlencode(told), fragment=""))


def _login_end(kind: str, rest: str) -> int:
    """Return where a login ends in what follows the slashes of a location, 0 if it has none.

    A secret that was not encoded may hold a slash, as those of AWS do; then no store or server would be found so.
    """
    host = re.split(r"[/?#]", rest, maxsplit=1)[0]
    login, at, _ = host.rpartition("@")
    if at:
        return len(login) + 1 if kind == "http" or ":" in login else 0
    user, colon, port = host.partition(":")
    odd = not port.isdecimal() if kind == "http" else user != "arn"
    return rest.rindex("@") + 1 if colon and odd and "@" in rest and not user.startswith("[") else 0


def without_secrets(text: str) -> str:
    """Return a text, as a library's message, with the locations in it as they are shown."""
    return _IN_TEXT.sub(lambda found: shown_of(found[0]), text)


def word_without_secrets(word: str) -> str:
    """Return a word of a command line; the location that it ends with, which may hold spaces, as it is shown."""
    return _IN_WORD.sub(lambda found: shown_of(found[0]), word)


def hidden(path: str) -> str:
    """Return a location as it may be shown, and keep its secrets for when it is opened; any other path as it is.

    Raises what `location_of` raises.
    """
    if not is_location(path):
        return path
    location = location_of(path)
    remember(location)
    return location.shown


def hand_on() -> None:
    """Leave the secrets of locations to the programs that this one starts, where only their user can read them."""
    if _opened:
        os.environ[SECRETS] = json.dumps({"by": os.getpid(), "locations": _opened})


def _take_over() -> None:
    """Take the secrets that the program left which started this one."""
    left = json.loads(os.environ.get(SECRETS, "null"))
    if left is not None and left["by"] != os.getpid():
        del os.environ[SECRETS]
        for shown, url in left["locations"].items():
            remember(Location(SCHEMES[url.partition("://")[0].lower()], url, shown))


def name_of(path: str) -> str:
    """Return the object's own name in a location."""
    return location_of(path).name


def described(error: BaseException) -> str:
    """Return what a library's error says, in one line and without secrets; the name of its type if it says nothing."""
    return printable(without_secrets(" ".join(str(error).split()))[:300]) or type(error).__name__
