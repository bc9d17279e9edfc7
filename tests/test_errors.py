"""What errors say, to a caller of the library and to a person at the command line."""

from __future__ import annotations

import ast
import inspect
import pickle
import sys
from pathlib import Path

import pytest

import memcarve
from memcarve import errors
from memcarve.cli.commands import COMMANDS
from memcarve.cli.wording import option
from memcarve.errors import AddressError, MemcarveError, MissingExtraError, OverlapError, TargetExistsError

SOURCE = Path(errors.__file__).parent


def an_error() -> TargetExistsError:
    """Return an error as a sink raises it."""
    return TargetExistsError("exists", subject="out", remedy="{force} replaces it, {out} chooses another")


def test_members() -> None:
    """An error has what it is about, what is wrong, what to do and what was left as members."""
    error = an_error()
    error.state = "nothing was kept"
    assert (error.subject, error.problem, error.state) == ("out", "exists", "nothing was kept")
    assert error.remedy == "force=True replaces it, out= chooses another"


def test_library_and_command_line() -> None:
    """A remedy speaks of arguments in the library and of options on the command line; the rest is the same."""
    assert str(an_error()) == "out: exists; force=True replaces it, out= chooses another"
    assert an_error().worded(option) == "out: exists; --force replaces it, -o chooses another"


def test_value() -> None:
    """A remedy may give an argument's value, or say what kind of value it takes."""
    error = MemcarveError("nothing is known", remedy="{trust:sum} or {regions:FILE} helps")
    assert error.remedy == "trust='sum' or regions=FILE helps"
    assert error.worded(option) == "nothing is known; --trust sum or --regions FILE helps"


def test_evidence_is_not_a_template() -> None:
    """Braces in what comes from evidence stay as they are."""
    error = MemcarveError("{force}", subject="{out}", remedy="{out} chooses another")
    assert error.worded(option) == "{out}: {force}; -o chooses another"


def test_suggest() -> None:
    """A remedy that is added stands behind the first one, before the state."""
    error = MemcarveError("is odd", remedy="leave it", state="nothing was kept").suggest("{dump} names another")
    assert str(error) == "is odd; leave it; dump= names another; nothing was kept"


def test_an_extra_and_the_single_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """An installer adds nothing to the single file: there the error says what does."""
    assert str(MissingExtraError("x", remedy="pip install 'memcarve[zip]'")) == "x; pip install 'memcarve[zip]'"
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    said = str(MissingExtraError("x", remedy="pip install 'memcarve[zip]'"))
    assert said.endswith("; the single file cannot be added to: it takes memcarve installed by pip")


def test_safe_and_short() -> None:
    """Members set later are escaped and cut as those given first are."""
    error = MemcarveError("x" * 5000)
    error.subject = "\x1b[31m"
    assert str(error).startswith("\\x1b[31m: xxx")
    assert len(str(error)) < 1500


@pytest.mark.parametrize(
    "error", [OverlapError("two rows", 0x1000, subject="a.map"), AddressError(0x1000, "not in the map"), an_error()]
)
def test_pickled(error: MemcarveError) -> None:
    """An error comes out of another program with its members."""
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301 - what was pickled here
    assert type(copy) is type(error)
    assert vars(copy) == vars(error)
    assert str(copy) == str(error)


def test_an_address_error() -> None:
    """An AddressError is about its address."""
    error = AddressError(0x1000, "not in the map")
    assert (str(error), error.subject, error.problem) == ("0x1000: not in the map", "0x1000", "not in the map")


def templates() -> list[tuple[str, str, str]]:
    """Return where a remedy names an argument, the argument and its value."""
    found = []
    for path in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            given = [each.value for each in node.keywords if each.arg == "remedy"] if isinstance(node, ast.Call) else []
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "suggest":
                given += node.args
            for text in (each.value for tree in given for each in ast.walk(tree) if isinstance(each, ast.Constant)):
                if isinstance(text, str):
                    found += [(path.name, match[1], match[2] or "") for match in errors._ARGUMENT.finditer(text)]
    return found


def test_arguments_and_options_exist() -> None:
    """Whatever remedies name is an argument of the library and an option of a command."""
    arguments = set(errors._CALLS)
    for public in memcarve.__all__:
        found = getattr(memcarve, public)
        if callable(found):
            arguments |= set(inspect.signature(found).parameters)
            arguments |= {
                name
                for _, method in inspect.getmembers(found, inspect.isfunction)
                for name in inspect.signature(method).parameters
            }
    options = {"-o"}
    for commands in COMMANDS.values():
        for command in commands:
            options |= {word for each in command.params for word in each.opts}
    for place, name, value in templates():
        assert name in arguments, (place, name)
        words = option(name, value).split()
        assert words[0] == "memcarve" or words[0] in options, (place, name)
