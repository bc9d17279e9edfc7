"""YARA rules: source text from files and folders, and rules that were compiled before."""

from __future__ import annotations

import contextlib
import functools
import importlib
import io
import json
import os
import re
import traceback
from typing import TYPE_CHECKING, Any, NamedTuple

from memcarve.backing import FileBacking
from memcarve.errors import MemcarveError, MissingExtraError, RulesError, SourceReadError, UsageError
from memcarve.hunting.scanning.included import check_includes
from memcarve.hunting.scanning.rule_text import RuleText, texts_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    import yara_x

#: how a file of compiled rules begins
MAGIC = b"YARA-X\0\0"
NAMESPACE = "default"
_ENDINGS = (".yar", ".yara")
_LARGEST = 1 << 30
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")

Value = bool | int | float | str | bytes


class RuleFacts(NamedTuple):
    """What a rule says of itself; `patterns` are the names of its patterns."""

    name: str
    namespace: str
    tags: tuple[str, ...]
    meta: tuple[tuple[str, Value], ...]
    patterns: tuple[str, ...]


def _facts(rule: yara_x.Rule) -> RuleFacts:
    patterns = tuple(pattern.identifier for pattern in rule.patterns)
    return RuleFacts(rule.identifier, rule.namespace, rule.tags, rule.metadata, patterns)


def yara() -> Any:  # noqa: ANN401 - a module
    """Return the package that compiles rules and scans; raises MissingExtraError."""
    try:
        return importlib.import_module("yara_x")
    except ImportError:
        raise MissingExtraError("YARA rules need another package", remedy="pip install 'memcarve[yara]'") from None


@contextlib.contextmanager
def panics_told(subject: str = "") -> Iterator[None]:
    """Raise RulesError for what YARA-X itself takes for a fault of its own: no `Exception`, but for a caller no more.

    Damaged compiled rules lead to it.
    """
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise RulesError(f"YARA-X fails with these rules: {error}", subject=subject) from None


@contextlib.contextmanager
def frames_let_go() -> Iterator[None]:
    """Have an error that goes out keep none of the variables on its way, if YARA-X fails or refuses something.

    Its compilers and scanners must end in the thread that made them, and an error may end in any.
    """
    try:
        yield
    except MemcarveError as error:
        told: BaseException | None = error
        while told is not None:
            traceback.clear_frames(told.__traceback__)
            told = told.__cause__ or told.__context__
        raise


class Rules:
    """Compiled YARA rules, which any number of scans may use at once.

    `warnings` are what the compiler says of them, each several lines as its own tool prints it.
    """

    def __init__(
        self, compiled: Sequence[yara_x.Rules], warnings: Sequence[str] = (), sources: Sequence[_Source] = ()
    ) -> None:
        self.compiled = tuple(compiled)
        self.warnings = list(warnings)
        self._sources = sources
        #: of each compiled set, its rules by namespace and name
        self.tables = [{(rule.namespace, rule.identifier): _facts(rule) for rule in each} for each in self.compiled]

    @property
    def facts(self) -> list[RuleFacts]:
        """All rules."""
        return [facts for table in self.tables for facts in table.values()]

    def __len__(self) -> int:
        return sum(map(len, self.tables))

    def __repr__(self) -> str:
        return f"<Rules: {len(self)}>"

    @functools.cached_property
    def texts(self) -> Mapping[tuple[str, str], RuleText]:
        """What the source text says of rules, by namespace and name; of compiled rules nothing is known."""
        return {
            (source.namespace, name): text
            for source in self._sources
            for name, text in texts_of(source.text, source.includes).items()
        }

    @classmethod
    def read(
        cls,
        paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
        define: Mapping[str, object] | None = None,
    ) -> Rules:
        """Return the rules in files and folders: source text, or compiled by YARA-X.

        Of a folder, all files in it and its folders whose names end in ``.yar`` or ``.yara``. ``NAMESPACE:PATH`` puts
        rules into a namespace; without it is ``default``. Files that rules include are looked for in the folders of
        the files that are read. `define` gives external variables their values: int, float, bool, str.

        Compiled rules hold machine code, which is run: take them only from whom you would take a program.

        Raises RulesError for rules that cannot be used, UsageError for a variable that cannot be,
        SourceReadError if the system cannot read a file, InputError if it is no regular file, MissingExtraError.
        """
        given = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
        yara()
        sources, compiled = [], []
        for each in given:
            namespace, path = _namespace(os.fspath(each))
            for file in _files(path):
                data = _content(file)
                if data.startswith(MAGIC[:6]):
                    if namespace is not None:
                        raise UsageError(
                            "holds compiled rules, which are in namespaces already", subject=file, remedy=f"give {file}"
                        )
                    compiled.append(_loaded(data, file))
                else:
                    sources.append((namespace or NAMESPACE, file, _decoded(data, file)))
        if not given:
            raise UsageError("no rules are given")
        return cls._compiled(sources, define or {}, compiled)

    @classmethod
    def of(cls, text: str, define: Mapping[str, object] | None = None, *, includes: bool = True) -> Rules:
        """Return the rules in source text; raises what `read` raises.

        Without `includes` rules that include files are an error: a text that somebody else wrote reads none of yours.
        """
        return cls._compiled([(NAMESPACE, "", text)], define or {}, [], includes=includes)

    @classmethod
    def _compiled(
        cls,
        sources: Sequence[tuple[str, str, str]],
        define: Mapping[str, object],
        compiled: list[yara_x.Rules],
        *,
        includes: bool = True,
    ) -> Rules:
        if not sources:
            if define:
                raise UsageError("variables are given their values when rules are compiled, and these are already")
            return cls(compiled)
        if includes:
            check_includes([(file, text) for _, file, text in sources], _folders(sources))
        with frames_let_go(), panics_told():
            return cls._built(sources, define, compiled, includes=includes)

    @classmethod
    def _built(
        cls,
        sources: Sequence[tuple[str, str, str]],
        define: Mapping[str, object],
        compiled: list[yara_x.Rules],
        *,
        includes: bool,
    ) -> Rules:
        compiler = yara().Compiler()
        compiler.enable_includes(includes)
        for name, value in define.items():
            _define(compiler, name, value)
        folders = _folders(sources)
        for folder in folders:
            compiler.add_include_dir(folder)
        namespace = NAMESPACE
        broken = []
        for space, file, text in sources:
            if space != namespace:
                compiler.new_namespace(space)
                namespace = space
            try:
                compiler.add_source(text, origin=file or None)
            except yara().CompileError:
                broken.append(file)  # the compiler keeps what it has to say
            except UnicodeEncodeError:
                raise RulesError("is not text in UTF-8, or its name is not", subject=file) from None
        if broken:
            reports = [str(error["text"]) for error in compiler.errors()]
            first = compiler.errors()[0]
            problem = f"line {first['line']}: {first['title']}"
            more = len(reports) - 1
            raise RulesError(
                problem + (f" (and {more} more error{'s' * (more > 1)})" if more else ""),
                subject=str(next((label["code_origin"] for label in first["labels"]), None) or broken[0] or "rules"),
                reports=reports,
            )
        warnings = [str(warning["text"]) for warning in compiler.warnings()]
        known = [_Source(space, text, tuple(folders)) for space, _, text in sources]
        return cls([compiler.build(), *compiled], warnings, known)


def _folders(sources: Sequence[tuple[str, str, str]]) -> list[str]:
    """Return the folders of the files of sources, in which included files are looked for."""
    return [*dict.fromkeys(os.path.dirname(os.path.abspath(file)) for _, file, _ in sources if file)]


class _Source(NamedTuple):
    """Source text in a namespace; `includes` are the folders in which included files are looked for."""

    namespace: str
    text: str
    includes: tuple[str, ...]


def rules_of(given: Rules | str | os.PathLike[str] | Iterable[str | os.PathLike[str]] | object) -> Rules:
    """Return rules as what they are given as: Rules, ``yara_x.Rules``, or paths that `Rules.read` takes."""
    if isinstance(given, Rules):
        return given
    if isinstance(given, yara().Rules):
        return Rules([given])
    return Rules.read(given)  # type: ignore[arg-type]


def definition(text: str) -> tuple[str, object]:
    """Return name and value of ``NAME=VALUE``, typed as YARA-X's tool does: 1, 1.5, true, "text"; raises UsageError."""
    name, equals, written = text.partition("=")
    if not equals:
        raise UsageError(f"{text!r} defines nothing", remedy="write NAME=VALUE")

    def refuse(word: str) -> object:
        raise ValueError(word)

    try:
        value: object = json.loads(written, parse_constant=refuse)
    except (ValueError, RecursionError):
        raise UsageError(
            f"{written!r} is not a value", remedy=f"""write 1, 1.5, true or "text", with its quotes: '{name}="text"'"""
        ) from None
    return name, value


def _define(compiler: yara_x.Compiler, name: str, value: object) -> None:
    """Give an external variable its value; raises UsageError."""
    if not _IDENTIFIER.fullmatch(name):
        raise UsageError(f"{name!r} is not a name that a variable can have")
    try:
        compiler.define_global(name, value)
    except (TypeError, ValueError, OverflowError) as error:
        raise UsageError(f"the variable {name} cannot be {value!r}: {error}") from None


def _namespace(given: str) -> tuple[str | None, str]:
    """Return the namespace, None if there is none, and the path of what was given as ``NAMESPACE:PATH`` or ``PATH``."""
    namespace, colon, path = given.partition(":")
    drive = os.name == "nt" and len(namespace) == 1
    if not colon or drive or not namespace or (os.path.exists(given) and not os.path.exists(path)):
        return None, given
    return namespace, path


def _files(path: str) -> list[str]:
    """Return the files that a path means, a folder's in order of their names; raises RulesError, SourceReadError."""
    if not os.path.isdir(path):
        return [path]
    failed: list[OSError] = []
    found = [
        os.path.join(folder, name)
        for folder, folders, names in os.walk(path, onerror=failed.append)
        for name in (folders.sort(), sorted(names))[1]
        if name.endswith(_ENDINGS)
    ]
    if failed:
        raise SourceReadError(f"cannot be read: {failed[0].strerror}", subject=str(failed[0].filename))
    if not found:
        raise RulesError(f"no file in it ends in {' or '.join(_ENDINGS)}", subject=path)
    return found


def _content(path: str) -> bytes:
    """Return all of a file; raises SourceReadError, RulesError, InputError if it is no regular file."""
    with contextlib.closing(FileBacking(path)) as file:
        if file.size > _LARGEST:
            raise RulesError("is larger than rules can be", subject=path)
        data = bytearray(file.size)
        file.read_into(0, memoryview(data))
    return bytes(data)


def _decoded(data: bytes, path: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise RulesError(f"line {line}: is neither text in UTF-8 nor compiled rules of YARA-X", subject=path) from None


def _loaded(data: bytes, path: str) -> yara_x.Rules:
    try:
        with panics_told(path):
            rules: yara_x.Rules = yara().Rules.deserialize_from(io.BytesIO(data))
            yara().Scanner(rules).scan(b"")  # what is damaged is not always found before
    except (OSError, ValueError) as error:
        raise RulesError(
            f"compiled rules that cannot be used: {error}", subject=path, remedy="compile them again"
        ) from None
    return rules
