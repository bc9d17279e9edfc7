"""Honest causes of flags: each flag has some, in the words of the documentation."""

from __future__ import annotations

import re

import pytest

from files import ROOT
from memcarve.hunting.findings.benign_causes import BENIGN
from memcarve.vocabulary import Flag, ProcessFlag

PAGES = " ".join((ROOT / "docs" / name).read_text("utf-8") for name in ("labels.md", "hunting.md"))


@pytest.mark.parametrize("flag", [*Flag, *ProcessFlag])
def test_causes_are_those_of_the_documentation(flag: str) -> None:
    """Every cause of a flag stands in the section of that flag; a younger parent's are a missing one's, too."""
    sections = [flag, *(["missing-parent"] if flag == ProcessFlag.YOUNGER_PARENT else [])]
    found = [re.search(rf"\n####? {name}\n(.*?)(?=\n##)", PAGES, re.DOTALL) for name in sections]
    said = " ".join(re.sub(r"\s+", " ", section[1]) for section in found if section is not None)
    assert BENIGN[flag]
    for cause in BENIGN[flag]:
        assert cause in said
