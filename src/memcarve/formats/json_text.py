r"""JSON as every reader takes it: what is written holds no half of a character, and what is read may hold none.

Names come from hostile machines, and may hold UTF-16 surrogates that are not part of a pair, or bytes that are not
UTF-8. RFC 8259, section 8.2, leaves open what a reader does with an unpaired surrogate: Python takes it, others refuse
the document or change it. So it is written as text: the six characters ``\ud800`` stand for the surrogate U+D800, as
`errors.encodable` has it.
"""

from __future__ import annotations

import json
import re
from typing import Any

#: the escapes in JSON; the group is an unpaired surrogate's
_ESCAPES = re.compile(
    r"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)", re.DOTALL
)


class HalfError(ValueError):
    """A text holds an unpaired surrogate."""


def dumps(value: object, **how: Any) -> str:  # noqa: ANN401 - as json.dumps takes them
    """Return a value as JSON in ASCII; unpaired surrogates are written as text."""
    return whole(json.dumps(value, **how))


def whole(text: str) -> str:
    """Return JSON in ASCII with unpaired surrogates written as text."""
    if "\\ud" not in text:
        return text
    return _ESCAPES.sub(lambda found: f"\\{found[0]}" if found[1] else found[0], text)


def half_in(text: str) -> str | None:
    """Return the first unpaired surrogate in JSON, as it stands there; None if there is none."""
    if "\\u" not in text:
        return None
    return next((found[0] for found in _ESCAPES.finditer(text) if found[1]), None)


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object of JSON, as json.loads takes it; raises ValueError if a name is there twice.

    Of two members with one name some readers take the first and some the last.
    """
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name is there twice")
    return found


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def strict(text: str) -> Any:  # noqa: ANN401 - whatever it holds
    """Return what JSON holds; raises ValueError if it is damaged, has NaN, or a name twice in an object.

    Raises RecursionError if it is too deep.
    """
    return json.loads(text, object_pairs_hook=once, parse_constant=_no_constant)


def loads(text: str) -> Any:  # noqa: ANN401 - whatever it holds
    """Return what JSON holds.

    Raises ValueError as `strict`, and if it holds an unpaired surrogate; RecursionError.
    """
    half = half_in(text)
    if half is not None:
        raise HalfError(f"holds half of a character, {half}, which strict readers of JSON refuse")
    return strict(text)
