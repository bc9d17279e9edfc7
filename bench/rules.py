"""YARA rules for the benchmarks: as many, and of such kinds, as in the sets that people publish; always the same ones.

Of 5,800 rules in such a set, two in five ask for a program's header first, most for several texts, some for bytes with
wildcards or an expression; together they have 33,000 patterns.
"""

from __future__ import annotations

import random
import sys
from typing import TYPE_CHECKING

from measure import Contender, in_turn, run
from places import HERE, make_process, place
from table import MIB, Goal, Row

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from benchmarks import Settings

_SEED = 4321
_RULES = 5800
_HEADERS = ("uint16(0) == 0x5a4d and ", "uint32(0) == 0x464c457f and ", "")
_CONDITIONS = ("all of them", "3 of them", "any of ($s*) and filesize < 5MB", "$s0 and 2 of ($s*)", "2 of ($s*)")
_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.:/ "


def rules(count: int = _RULES) -> str:
    """Return the text of so many rules."""
    chance = random.Random(_SEED)  # noqa: S311 - the same numbers every time are what is wanted
    return "\n".join(_rule(chance, number) for number in range(count))


def _rule(chance: random.Random, number: int) -> str:
    patterns = [f"    $s{place} = {_pattern(chance)}" for place in range(chance.choice((3, 4, 5, 6, 7, 8)))]
    header = chance.choices(_HEADERS, (35, 5, 60))[0]
    body = "\n".join(patterns)
    condition = f"{header}({chance.choice(_CONDITIONS)})"
    return (
        f'rule made_{number} : made\n{{\n  meta:\n    author = "bench"\n    score = {chance.randrange(100)}\n'
        f"  strings:\n{body}\n  condition:\n    {condition}\n}}\n"
    )


def _pattern(chance: random.Random) -> str:
    kind = chance.choices(("text", "bytes", "expression"), (85, 10, 5))[0]
    words = "".join(chance.choices(_LETTERS, k=chance.randrange(6, 40)))
    if kind == "text":
        modifiers = chance.choice(("", " ascii wide", " wide", " nocase", " fullword ascii"))
        return f'"{words}"{modifiers}'
    if kind == "bytes":
        several = [f"{chance.randrange(1, 256):02x}" for _ in range(chance.randrange(8, 24))]
        several[4:6] = ["??", f"[2-{chance.randrange(3, 20)}]"]
        return "{ " + " ".join(several) + " }"
    return f"/{''.join(c for c in words if c.isalnum())[:6]}ab[0-9a-f]{{4,16}}/"


def scan(settings: Settings, command: Callable[..., list[str]]) -> Iterator[Row]:
    """Rules asked of a dump, against YARA-X's own scan of the same file with the same rules."""

    def child(*arguments: object) -> list[str]:
        return [sys.executable, str(HERE / "children.py"), *map(str, arguments)]

    size = settings.sizes[0]
    label = f"scan, {size >> 20} MiB in {settings.segments}"
    with place(settings.fast, settings.place(settings.fast)) as here:
        text, compiled = here.folder / "rules.yar", here.folder / "rules.yarc"
        text.write_text(rules(_RULES if settings.runs > 1 else 200))
        dump = make_process(here.folder / "input", size, settings.segments)
        run(Contender(child("compile_rules", text, compiled)))
        alone = run(Contender(child("load_rules", compiled))).rss
        contenders = {
            "scan_file": Contender(child("scan_file", dump, compiled)),
            "by segment": Contender(command("scan", "-q", dump, "--rules", compiled)),
            "by process": Contender(command("scan", "-q", dump, "--rules", compiled, "--by", "process")),
        }
        found = in_turn(contenders, min(settings.runs, 5), settings.warm_up)
        for name in ("by segment", "by process"):
            goals = [Goal("ratio", 1.15), Goal("rss", 300 * MIB + alone)]
            yield Row(f"{label}: {name}", here.name, found[name], "YARA-X scan_file", found["scan_file"], goals=goals)
