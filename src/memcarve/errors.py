"""What can go wrong, as types; and how text from evidence is made safe to show.

    MemcarveError                  everything memcarve raises on purpose
    |-- UsageError                 the call itself does not say enough, or contradicts itself
    |-- MissingExtraError          an optional package is needed
    |-- InputError                 an input cannot be used
    |   |-- NotRecognisedError     no source knows the file
    |   |-- CounterpartError       the map that belongs to a dump (or the dump to a map) was not found
    |   |-- ProcessError           the input does not hold the process that was asked for
    |   |-- MapError               a memory map is malformed: names the file and the line
    |   |   |-- OverlapError       two rows claim the same address
    |   |   `-- PositionError      where the rows' bytes lie in the dump cannot be settled
    |   |-- TruncatedError         the dump ends before the map does
    |   |-- KernelTypesError       a kernel's types or symbols are damaged, or are not those of the kernel in the image
    |   |-- RulesError             YARA rules cannot be used: ``reports``
    |   |-- LimitError             page tables map, or compressed data decode to, more than a limit
    |   `-- SourceReadError        the operating system could not read an input
    |       `-- UnreadableError    it could not read one place of it: ``offset``
    |-- AddressError               bytes were asked for that are not there: ``address`` and ``reason``
    |-- OutputError                the output could not be written
    |   |-- TargetExistsError      something is there already
    |   |-- NoSpaceError           the file system is or would be full
    |   `-- MountError             a folder cannot be mounted on, or the system cannot mount
    `-- VerificationError          what was written is not what its manifest says, or its source: ``faults``

An error says what it is about, what is wrong, what to do, and what state things were left in, each in a member:

    raise TargetExistsError("exists", subject=path, remedy="{force} replaces it, {out} chooses another")
    -> path: exists; force=True replaces it, out= chooses another          str(error), for a caller of the library
    -> path: exists; --force replaces it, -o chooses another               on the command line

`remedy` is a constant template: ``{name}`` or ``{name:value}`` stands for an argument of the library; the command line
shows its option instead (`MemcarveError.worded`; cli/wording.py knows those that are called differently). What comes
from evidence stands in `subject` and `problem`, which are not templates. Code that passes an error on sets its members
(``error.subject = path``, ``error.state = "nothing was kept"``) or adds to its remedy (`MemcarveError.suggest`), and
raises the same error; its text is never taken apart.

Messages are one line, lower case, the file first. They may hold names from evidence: each is passed through `printable`
when it is shown, so showing one is safe on any terminal.
"""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Self

_ARGUMENT = re.compile(r"\{(\w+)(?::([^{}]*))?\}")
#: arguments that are switched on; of the others a remedy may give the value
_SWITCHES = {"force", "partial", "resume", "sparse"}
#: what a remedy names that is not an argument
_CALLS = {"scan": "open(path, input_type='image').roots()"}

_LONGEST_MESSAGE = 1500


def printable(text: str) -> str:
    r"""Return `text` with everything that is not plainly visible written as an escape.

    Names come from hostile machines: control characters, terminal escapes, bidirectional overrides and unpaired
    surrogates become ``\xNN`` or ``\uNNNN``; every other character stays.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else _escaped(c) for c in text)


def _escaped(character: str) -> str:
    code = ord(character)
    if code <= 0xFF:  # noqa: PLR2004 - the width of the escape, as in a Python literal
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"  # noqa: PLR2004


def encodable(text: str) -> str:
    r"""Return `text` with halves of characters, which UTF-8 and strict readers of JSON refuse, as ``\uNNNN``."""
    return text.encode("utf-8", "backslashreplace").decode()


class MemcarveError(Exception):
    """Everything memcarve raises on purpose; ``str()`` of it is a message for the user, safe to print."""

    def __init__(self, problem: str, *, subject: str = "", remedy: str = "", state: str = "") -> None:
        super().__init__(problem)
        #: the file, address or process that it is about
        self.subject = subject
        self.problem = problem
        self._remedies = [remedy] if remedy else []
        #: what was left behind
        self.state = state

    @property
    def remedy(self) -> str:
        """What can be done about it, in terms of the library's arguments."""
        return self._remedy(_argument)

    def suggest(self, remedy: str) -> Self:
        """Add another remedy (a template)."""
        self._remedies.append(remedy)
        return self

    def worded(self, word: Callable[[str, str], str]) -> str:
        """Return the message as one line, safe to print; `word` gives an argument (name, value or "") its wording."""
        parts = "; ".join(filter(None, (self.problem, self._remedy(word), self.state)))
        shown = printable(f"{self.subject}: {parts}" if self.subject else parts)
        if len(shown) > _LONGEST_MESSAGE:  # what stands in it came from evidence
            shown = f"{shown[:1000]}...{shown[-400:]}"
        return shown

    def _remedy(self, word: Callable[[str, str], str]) -> str:
        return "; ".join(
            _ARGUMENT.sub(lambda found: word(found[1], found[2] or ""), remedy) for remedy in self._remedies
        )

    def __str__(self) -> str:
        return self.worded(_argument)

    def __reduce__(self) -> tuple[object, ...]:
        """Let an error travel between programs with all that it says."""
        return _restored, (type(self), self.args, dict(self.__dict__))


def _argument(name: str, value: str) -> str:
    """Return an argument as a caller of the library writes it; a value in capitals stands for any."""
    if name in _CALLS:
        return _CALLS[name]
    if not value:
        return f"{name}=True" if name in _SWITCHES else f"{name}="
    return f"{name}={value}" if value.isupper() else f"{name}={value!r}"


def _restored(kind: type[MemcarveError], args: tuple[object, ...], members: dict[str, object]) -> MemcarveError:
    error = kind.__new__(kind)
    error.args = args
    error.__dict__.update(members)
    return error


class UsageError(MemcarveError):
    """The call does not say enough, or contradicts itself."""


class MissingExtraError(MemcarveError):
    """An optional package is needed; the message says how to install it."""

    def __init__(self, problem: str, *, subject: str = "", remedy: str = "") -> None:
        super().__init__(problem, subject=subject, remedy=remedy)
        if getattr(sys, "frozen", False):
            self.suggest("the single file cannot be added to: it takes memcarve installed by pip")


class InputError(MemcarveError):
    """An input cannot be used."""


class NotRecognisedError(InputError):
    """No source knows the file."""


class CounterpartError(InputError):
    """The map that belongs to a dump, or the dump that belongs to a map, was not found."""


class ProcessError(InputError):
    """The input does not hold the process that was asked for."""


class MapError(InputError):
    """A memory map is malformed; the message names the file and the line."""


class OverlapError(MapError):
    """Two rows of one process claim the same address, ``address``."""

    def __init__(self, problem: str, address: int, *, subject: str = "", remedy: str = "") -> None:
        super().__init__(problem, subject=subject, remedy=remedy)
        self.address = address


class PositionError(MapError):
    """Where the rows' bytes lie in the dump cannot be settled from the map and the dump's length."""


class TruncatedError(InputError):
    """The dump ends before the map does; ``address`` is the first missing one."""

    def __init__(self, problem: str, address: int, *, subject: str = "", remedy: str = "") -> None:
        super().__init__(problem, subject=subject, remedy=remedy)
        self.address = address


class KernelTypesError(InputError):
    """What says where a kernel's structures have their members is damaged, or belongs to another kernel."""


class RulesError(InputError):
    """YARA rules cannot be used; ``reports`` has what the compiler says of each error, on several lines."""

    def __init__(self, problem: str, *, subject: str = "", remedy: str = "", reports: Sequence[str] = ()) -> None:
        super().__init__(problem, subject=subject, remedy=remedy)
        self.reports = reports


class LimitError(InputError):
    """More is claimed than a limit allows.

    ``claimed`` are the bytes of virtual memory that page tables claim to map, or those that compressed data, or a table
    in columns, decode to (at least).
    """

    def __init__(self, problem: str, claimed: int, *, subject: str = "", remedy: str = "") -> None:
        super().__init__(problem, subject=subject, remedy=remedy)
        self.claimed = claimed


class SourceReadError(InputError):
    """The operating system could not read an input."""


class UnreadableError(SourceReadError):
    """The operating system could not read the file `subject` at ``offset``; it may well read other places."""

    def __init__(self, problem: str, offset: int, *, subject: str = "", remedy: str = "") -> None:
        super().__init__(problem, subject=subject, remedy=remedy)
        self.offset = offset


class AddressError(MemcarveError):
    """Bytes were asked for that are not there.

    ``address`` is the first bad address; ``reason`` is ``"not in the map"`` (of an image ``"not in memory"``),
    ``"mapped but missing"`` or ``"the file ends too early"``.
    """

    def __init__(self, address: int, reason: str, detail: str = "", *, remedy: str = "") -> None:
        super().__init__(f"{reason}{detail}", subject=f"0x{address:x}", remedy=remedy)
        self.address = address
        self.reason = reason


class OutputError(MemcarveError):
    """The output could not be written."""


class TargetExistsError(OutputError):
    """Something is there already and may not be replaced."""


class NoSpaceError(OutputError):
    """The file system is full; or it would be, and nothing was written: ``needed`` is how many bytes it takes then."""

    needed: int | None = None


class MountError(OutputError):
    """A folder cannot be mounted on, or the system lacks what mounts it."""


class VerificationError(MemcarveError):
    """What memcarve wrote is not what its manifest says, or not what its source holds: ``faults``, one line each."""

    def __init__(
        self, problem: str, *, subject: str = "", remedy: str = "", state: str = "", faults: Sequence[str] = ()
    ) -> None:
        super().__init__(problem, subject=subject, remedy=remedy, state=state)
        self.faults = faults
