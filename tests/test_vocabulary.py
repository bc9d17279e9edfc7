"""The closed vocabularies: words are what they say, and a word that there is not is refused where it is taken."""

from __future__ import annotations

import json
from typing import Any

import pytest

import memcarve
from files import EXAMPLE
from memcarve import vocabulary
from memcarve.vocabulary import Half, Kind, Word


def export(**how: Any) -> None:
    """Export the example."""
    process = memcarve.open(EXAMPLE).process()
    memcarve.export(process, process.segments(), "out", **how)


WORDS = [found for found in vars(vocabulary).values() if isinstance(found, type) and issubclass(found, Word)]


@pytest.mark.parametrize("words", [each for each in WORDS if each is not Word])
def test_another_word_is_refused_with_the_list(words: type[Word]) -> None:
    """Whatever is no word of a list is a UsageError that names the list and all that is in it."""
    for other in ("", "no such word", next(iter(words)).upper() + "x", 0):
        with pytest.raises(memcarve.UsageError, match=r"unknown .*; choose from ") as caught:
            words(other)
        assert str(caught.value).endswith(", ".join(words))


def test_a_word_is_its_text() -> None:
    """In comparisons, in JSON and in messages a word is the text that users write."""
    assert Half.USER == "user"
    assert json.dumps({"kind": Kind.PAGE_TABLES}) == '{"kind": "page tables"}'
    assert f"{Kind.TEB}" == "TEB"
    assert {"user": 1}[Half.USER] == 1


def test_nothing_given_is_no_word() -> None:
    """None and no words at all are nothing that could be wrong."""
    Half.check(None)
    Kind.check()


@pytest.mark.parametrize(
    "call",
    [
        lambda: memcarve.Selection(half="Kernel"),
        lambda: memcarve.Selection(kind=["Stack"]),
        lambda: memcarve.Selection(flag=["rwx"]),
        lambda: memcarve.open(EXAMPLE, trust="Sum"),
        lambda: memcarve.open(EXAMPLE, system="windoze", dtb=0x1000),
        lambda: memcarve.open(EXAMPLE, paging="x46", dtb=0x1000),
        lambda: memcarve.open(EXAMPLE, input_type="raw"),
        lambda: export(to="mini"),
        lambda: memcarve.open(EXAMPLE).process().segments(split="regions"),
        lambda: memcarve.Labelling("all"),
    ],
)
def test_the_library_checks_words_where_it_takes_them(call: Any) -> None:
    """A typing mistake is an error of usage, never another half, another byte or a KeyError."""
    with pytest.raises(memcarve.UsageError, match="choose from"):
        call()
