"""What options take: each function returns the value of a text, or raises click.BadParameter."""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING, Any, TypeVar

import click

from memcarve.addresses import parse_address, parse_range, parse_size
from memcarve.errors import InputError, UsageError
from memcarve.remote.locations import hidden

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_T = TypeVar("_T")
HASHES = ("sha256", "sha1", "md5", "blake3", "none")


class Choice(click.Choice[str]):
    """One of a few words."""

    def __init__(self, words: Iterable[str]) -> None:
        super().__init__([str(word) for word in words])

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:  # noqa: ANN401, ARG002 - click's
        """Return the word; raises click.BadParameter, which lists them."""
        if value not in self.choices:
            raise click.BadParameter(f"unknown {value!r}; choose from {', '.join(self.choices)}")
        return str(value)


class AnyPath(click.Path):
    """The name of a file or folder, which is not looked at: what opens it says what is wrong with it."""

    def __init__(self) -> None:
        super().__init__(readable=False)


class InputPath(AnyPath):
    """The name of a file or folder to read, or a location, whose secrets go no further."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:  # noqa: ANN401 - click's
        """Return the name; raises click.BadParameter for a location that cannot be one."""
        found = super().convert(value, param, ctx)
        try:
            return self.without_secrets(found) if isinstance(found, str) else found
        except InputError as error:
            raise click.BadParameter(str(error)) from None

    def without_secrets(self, value: str) -> str:
        """Return a value whose secrets are kept for when it is opened."""
        return hidden(value)

    @staticmethod
    def path(value: str) -> str:
        """Return the name in a value: all of it."""
        return value


class PageFilePath(InputPath):
    """The name of a page file, after its number if that is said: ``1=swapfile.sys``."""

    def without_secrets(self, value: str) -> str:
        """Return a value whose secrets are kept for when it is opened."""
        path = self.path(value)
        return value.removesuffix(path) + hidden(path)

    @staticmethod
    def path(value: str) -> str:
        """Return the name without the number."""
        number, equals, rest = value.partition("=")
        return rest if equals and rest and number.isdigit() else value


class OutputPath(AnyPath):
    """The name of a file or folder to write."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:  # noqa: ANN401 - click's
        """Return the name; raises click.BadParameter for an empty one, as of a variable that is not set."""
        if not value:
            raise click.BadParameter("'' is not a name; leave the option out for the default")
        return super().convert(value, param, ctx)


def _said(parse: Callable[[str], _T]) -> Callable[[str], _T]:
    """Return a function that raises what click expects if the value cannot be parsed."""

    @functools.wraps(parse)
    def parsed(text: str) -> _T:
        try:
            return parse(text)
        except UsageError as error:
            raise click.BadParameter(str(error)) from None

    return parsed


size = _said(parse_size)
address = _said(parse_address)
address_range = _said(parse_range)


@_said
def root(text: str) -> int:
    """Return a physical address."""
    found = parse_address(text)
    if found.module is not None:
        raise UsageError(f"{text!r} is not a physical address", remedy="write it like 0x1ad000")
    return found.offset


def pid(text: str) -> int:
    """Return a process id, in decimal or with 0x."""
    found = re.fullmatch(r"0[xX]([0-9a-fA-F]{1,16})|([0-9]{1,20})", text.strip())
    if not found:
        raise click.BadParameter(f"{text!r} is not a process id; write it in decimal, or as 0x658")
    return int(found[1], 16) if found[1] else int(found[2])


def count(text: str) -> int:
    """Return a number of things, at least 1."""
    if not re.fullmatch(r"[0-9]{1,18}", text.strip()) or not int(text):
        raise click.BadParameter(f"{text!r} is not a number of at least 1; write it in decimal")
    return int(text)


def hash_names(text: str) -> list[str]:
    """Return the names of hashes, with commas between."""
    names = text.split(",")
    unknown = [name for name in names if name not in HASHES]
    if unknown:
        raise click.BadParameter(f"unknown hash {unknown[0]!r}; choose from {', '.join(HASHES)}")
    return names


def byte(text: str) -> int:
    """Return a byte given by two hexadecimal digits."""
    found = re.fullmatch(r"(?:0[xX])?([0-9a-fA-F]{1,2})", text.strip())
    if not found:
        raise click.BadParameter(f"{text!r} is not a byte; write two hexadecimal digits, as 00 or cc")
    return int(found[1], 16)


def version(text: str) -> tuple[int, ...]:
    """Return a version: major, minor, build."""
    if not re.fullmatch(r"\d{1,9}(\.\d{1,9}){1,2}", text):
        raise click.BadParameter(f"{text!r} is not a version; write 10.0.19045")
    return tuple(map(int, text.split(".")))
