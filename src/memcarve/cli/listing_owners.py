"""The command that tells who maps what of an image."""

from __future__ import annotations

import contextlib
import sys
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from memcarve.cli import run_log
from memcarve.cli.exit_status import COMPLETE, INCOMPLETE
from memcarve.cli.frame import choose, open_input
from memcarve.cli.owner_columns import cells_if, owner_cells, owner_columns
from memcarve.cli.printed_columns import print_columns
from memcarve.cli.wording import complain, counted, say, tell
from memcarve.errors import SourceReadError, UsageError
from memcarve.formats.number_lines import Lines, NumberLines
from memcarve.formats.tables.table_cells import ADDRESS_WIDTH, Column
from memcarve.hunting.owners.asking import MOST_OWNERS, NONE_FOUND, NOT_MEMORY, Owners, column_of
from memcarve.hunting.owners.mappings import DIRECT_MAP
from memcarve.intervals import chunks, distinct

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import BinaryIO

    from memcarve.cli.option_groups import Asked, ChosenOwners, Input, Messages, Printing
    from memcarve.cli.printed_columns import Batch
    from memcarve.errors import MemcarveError
    from memcarve.hunting.owners.asking import Answers
    from memcarve.hunting.owners.mappings import Mapper

_QUESTIONS = 1 << 14  # answered in one go: each may have as many answers as --max-owners says
_ROWS = 1 << 20  # answers in one go
_PRINTED = 1 << 16  # of them, made words of in one go
_RADIX = {"x": 16, "d": 10, None: None}


class _Question(NamedTuple):
    """Some numbers that are asked for, whether they are physical addresses, and the texts that came with them."""

    numbers: np.ndarray
    physical: bool
    texts: list[str] | None


def owners(
    file: str,
    asked: Asked,
    chosen: ChosenOwners,
    source: Input,
    printing: Printing,
    messages: Messages,
) -> int:
    """Print a row for each who maps what was asked for."""
    if not (asked.physical or asked.offset or asked.physicals or asked.offsets):
        raise UsageError(
            "nothing is asked for", remedy="{physical:A} and {offset:N} ask for one byte, {offsets:FILE} for many"
        )
    if [*asked.physicals, *asked.offsets].count("-") > 1:
        raise UsageError("standard input can be read once", remedy="give - to one option")
    with open_input(file, vars(source), messages) as container:
        indexes = choose(container, chosen) if chosen.pid or chosen.name is not None else None
        known = Owners(container, indexes)
        run_log.record_inputs(known.inputs)
        _complain(known)
        counts: Counter[str] = Counter()
        questions = _Questions(asked)
        print_columns(
            printing.layout,
            "owners",
            _columns(known, texts=questions.have_texts),
            _batches(known, questions, MOST_OWNERS if asked.max_owners is None else asked.max_owners, counts),
        )
        for mapper, error in known.names.failures:
            say([f"{mapper.entry}: {error}: its regions and modules are not named"], quiet=messages.quiet)
        sys.stdout.flush()
        notes = [*container.warnings, *known.notes]
        if questions.cut:
            notes.append(f"{counted(questions.cut, 'line')} longer than could be kept: the texts are cut")
        if counts["none found"] or counts["direct map alone"]:
            others = "" if indexes is None else "only the chosen processes were asked; "
            notes.append(f"none found is not free: {others}{known.hidden}")
        say(notes, quiet=messages.quiet)
        tell(_summary(counts), quiet=messages.quiet)
        failed = known.failures or known.names.failures or known.incomplete or container.unreadable
        return INCOMPLETE if failed else COMPLETE


def _complain(known: Owners) -> None:
    """Print the first error of each process that failed, and how many parts of its memory failed besides."""
    errors: dict[Mapper, list[MemcarveError]] = {}
    for mapper, error in known.failures:
        errors.setdefault(mapper, []).append(error)
    for mapper, (first, *others) in errors.items():
        complain(first, mapper.entry or mapper.what)
        if others:
            complain(
                f"{counted(len(others), 'part')} more of its memory could not be read", mapper.entry or mapper.what
            )


def _summary(counts: Counter[str]) -> str:
    words = [counted(counts["asked"], "byte"), f"{counts['found']} with an owner"]
    words += [f"{counts[word]} {word}" for word in ("none found", "not memory") if counts[word]]
    if counts["direct map alone"]:
        words.append(f"{counts['direct map alone']} in the direct map alone")
    if counts["more"]:
        words.append(f"{counts['more']} more mappings without a row (--max-owners)")
    return ", ".join(words)


class _Questions:
    """What is asked, in the order of options: single numbers first, then files, each as it is read.

    `cut` counts the lines of which a part was left out.
    """

    def __init__(self, asked: Asked) -> None:
        self._asked = asked
        self.cut = 0

    @property
    def have_texts(self) -> bool:
        """Whether texts may come with the numbers."""
        return bool(self._asked.physicals or self._asked.offsets)

    def __iter__(self) -> Iterator[_Question]:
        for numbers, physical in ((self._asked.physical, True), (self._asked.offset, False)):
            if numbers:
                yield _Question(column_of(numbers), physical, None)
        for names, physical in ((self._asked.physicals, True), (self._asked.offsets, False)):
            for name in names:
                for lines in self._lines(name):
                    for part in chunks(len(lines.number), _QUESTIONS):
                        some = Lines(lines.number[part], lines.data, lines.begin[part], lines.end[part])
                        yield _Question(some.number, physical, some.texts() if some.has_texts else None)

    def _lines(self, name: str) -> Iterator[Lines]:
        shown = "standard input" if name == "-" else name
        with contextlib.ExitStack() as stack:
            try:
                file: BinaryIO = sys.stdin.buffer if name == "-" else stack.enter_context(open(name, "rb"))
                lines = NumberLines(file, shown, _RADIX[self._asked.radix])  # type: ignore[arg-type]
                yield from lines
            except OSError as error:
                raise SourceReadError(error.strerror or str(error), subject=shown) from error
            self.cut += lines.cut


def _columns(known: Owners, *, texts: bool) -> list[Column]:
    places = [Column("physical", "address", ADDRESS_WIDTH), Column("offset", "number", 12)]
    return [*places, *owner_columns(known), *([Column("text", "text", 4)] if texts else [])]


def _batches(known: Owners, questions: _Questions, most: int, counts: Counter[str]) -> Iterator[Batch]:
    for question in questions:
        for part in _parts(known, question, most):
            answers = _ask(known, question, part, most)
            texts = None if question.texts is None else question.texts[part]
            _count(answers, len(question.numbers[part]), known, counts)
            for rows in chunks(len(answers), _PRINTED):
                some = answers.part(rows)
                yield [
                    cells_if(some.physical, some.has_physical),
                    cells_if(some.offset, some.has_offset),
                    *owner_cells(some, known),
                    *_texts(some, texts, wanted=questions.have_texts),
                ]


def _ask(known: Owners, question: _Question, part: slice, most: int) -> Answers:
    ask = known.of_physical if question.physical else known.of
    return ask(question.numbers[part], most)


def _parts(known: Owners, question: _Question, most: int) -> Iterator[slice]:
    """Yield the parts of a question that have about `_ROWS` answers; one number may have more, if it is told to."""
    asked = len(question.numbers)
    if asked * most <= _ROWS:
        yield slice(0, asked)
        return
    few = _ask(known, question, slice(0, asked), 1)
    rows = np.bincount(few.query, np.minimum(few.more + 1, most), asked)
    sums, low = np.cumsum(rows), 0
    while low < asked:
        end = max(low + 1, int(np.searchsorted(sums, _ROWS + (sums[low - 1] if low else 0), "right")))
        yield slice(low, end)
        low = end


def _count(answers: Answers, asked: int, known: Owners, counts: Counter[str]) -> None:
    counts["asked"] += asked
    counts["more"] += int(answers.more.sum())
    direct = next((number for number, each in enumerate(known.mappers) if each.what == DIRECT_MAP), -3)
    for word, chosen in (
        ("found", answers.found),
        ("none found", answers.owner == NONE_FOUND),
        ("not memory", answers.owner == NOT_MEMORY),
    ):
        counts[word] += len(distinct(answers.query[chosen]))
    others = distinct(answers.query[answers.found & (answers.owner != direct)])
    counts["direct map alone"] += len(distinct(answers.query[answers.found])) - len(others)


def _texts(answers: Answers, texts: Sequence[str] | None, *, wanted: bool) -> Batch:
    """Return the column of texts, if it is wanted."""
    if texts is None:
        return [[None] * len(answers)] * wanted
    return [[texts[query] for query in answers.query.tolist()]]
