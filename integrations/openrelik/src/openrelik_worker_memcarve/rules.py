"""YARA rules as tasks give them: text, files among the inputs, and files of the worker's folder of rules."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import memcarve
from openrelik_worker_memcarve.failure import TaskFailed
from openrelik_worker_memcarve.settings import RULES

if TYPE_CHECKING:
    from collections.abc import Mapping

ENDINGS = (".yar", ".yara")
_LARGEST = 64 << 20


def rules_of(files: Mapping[str, str], text: str, named: str) -> memcarve.Rules:
    """Return rules as one set: `files` by their names, a text, and what lines name in the folder of rules.

    What is uploaded is taken as source text alone: compiled rules hold machine code, which would be run here. It
    includes no files: they would be the worker's, or of other workflows. Raises RulesError, UsageError, TaskFailed.
    """
    paths = [_within(line.strip()) for line in named.splitlines() if line.strip()]
    texts = [_source(name, path) for name, path in files.items()]
    if text.strip():
        texts.append(text)
    if texts and paths:
        raise TaskFailed("rules are given as text and as paths; give one of the two")
    if not texts and not paths:
        raise TaskFailed("there are no rules: give them as text, as input files that end in .yar, or by path")
    rules = memcarve.Rules.read(paths) if paths else memcarve.Rules.of("\n".join(texts), includes=False)
    if not len(rules):
        raise TaskFailed("there are no rules in what was given")
    return rules


def _within(path: str) -> str:
    """Return the path of rules in the worker's folder of rules; what lies elsewhere on it is nobody's business."""
    top = os.path.realpath(RULES)
    found = os.path.realpath(os.path.join(top, path))
    if os.path.commonpath([top, found]) != top or not os.path.exists(found):
        raise TaskFailed(f"{path}: no rules of this name are in the worker's folder of rules")
    return found


def _source(name: str, path: str) -> str:
    with open(path, "rb") as file:
        data = file.read(_LARGEST + 1)
    if len(data) > _LARGEST:
        raise TaskFailed(f"{name}: is larger than rules can be")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise TaskFailed(f"{name}: is not the source text of rules (compiled ones are not taken from inputs)") from None
