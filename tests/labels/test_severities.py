"""Severities: every flag has one with its reason, and the documentation says the same in the same words."""

from __future__ import annotations

import re

import pytest

from files import ROOT
from memcarve.labels.flags import NEEDS
from memcarve.labels.severities import RATINGS
from memcarve.vocabulary import Flag, Severity

LABELS = (ROOT / "docs" / "labels.md").read_text(encoding="utf-8")


def test_every_flag_has_all_that_is_said_of_flags() -> None:
    """A severity with its reason, and what must be known to look for it."""
    assert set(RATINGS) == set(NEEDS) == set(Flag)
    assert all(rating.reason and isinstance(rating.severity, Severity) for rating in RATINGS.values())


@pytest.mark.parametrize("flag", Flag)
def test_the_documentation_says_the_same(flag: Flag) -> None:
    """A flag's section ends with its severity and the reason, names benign causes, and the table has it, too."""
    found = re.search(rf"^### {flag}\n(.*?)^##", LABELS, re.MULTILINE | re.DOTALL)
    assert found is not None
    section = " ".join(found[1].split())
    severity, reason = RATINGS[flag]
    assert section.endswith(f"**Severity.** {severity.capitalize()}: {reason}.")
    assert all(f"**{heading}.**" in section for heading in ("Looked for", "Why", "Benign causes"))
    assert re.search(rf"^\| \[{flag}\]\(#{flag}\) \| {severity} \| ", LABELS, re.MULTILINE)
