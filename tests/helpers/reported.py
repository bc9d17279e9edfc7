"""Documents of reports: checked against the schema that is published."""

from __future__ import annotations

import importlib.resources
import json
from typing import Any

import jsonschema

SCHEMA = json.loads(importlib.resources.files("memcarve.report").joinpath("report.schema.json").read_text("utf-8"))
_VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)


def checked(document: dict[str, Any]) -> dict[str, Any]:
    """Return a document that is what the schema says; raises jsonschema.ValidationError."""
    _VALIDATOR.validate(document)
    return document


def unpacked(words: dict[str, Any]) -> list[Any]:
    """Return a column that is dictionary-encoded as its texts."""
    return [words["values"][code] for code in words["codes"]]
