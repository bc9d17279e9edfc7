"""How fast find is beside ripgrep: one text, thousands of texts, an expression."""

from __future__ import annotations

import random
import shlex
import shutil
import string
from typing import TYPE_CHECKING

from measure import Contender, UnavailableError, in_turn
from places import make_process, place
from table import MIB, Goal, Row

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from benchmarks import Settings

_TEXTS = 3000
_RSS = Goal("rss", 300 * MIB)
#: ripgrep's speed by which find's may be less
_SLOWER = 1.25


def searching(settings: Settings, command: Callable[..., list[str]]) -> Iterator[Row]:
    """Search a dump in tmpfs for what ripgrep can search for, too; it counts lines, and find prints hits."""
    if shutil.which("rg") is None:
        raise UnavailableError("needs ripgrep (rg)")
    name = settings.where[0]
    with place(name, settings.place(name)) as here:
        for size in settings.sizes[:2]:
            folder = here.folder / f"input-{size}"
            dump = make_process(folder, size, settings.segments)
            texts = folder / "texts"
            chance = random.Random(3)  # noqa: S311 - the same texts each time
            texts.write_text("".join(f"{_word(chance)}\n" for _ in range(_TEXTS)))
            ways = {
                "a text": (["a needle in the haystack"], ["-F", "a needle in the haystack"], _SLOWER),
                f"{_TEXTS} texts": (["--patterns", str(texts)], ["-F", "-f", str(texts)], 2 * _SLOWER),
                "an expression": (["--regex", r"https?://[^\x00]{8,}"], [r"https?://[^\x00]{8,}"], None),
            }
            for label, (ours, theirs, goal) in ways.items():
                rg = shlex.join(["rg", "-c", "-a", *theirs, str(dump)])
                contenders = {
                    "rg": Contender(["sh", "-c", f"{rg} || true"]),  # it fails if it finds nothing
                    "find": Contender(command("find", "-q", dump, *ours, "--encoding", "utf-8")),
                }
                found = in_turn(contenders, settings.runs, settings.warm_up)
                goals = [_RSS] if goal is None else [Goal("ratio", goal), _RSS]
                shown = f"find {label}, {size >> 20} MiB"
                yield Row(shown, name, found["find"], "rg -c -a", found["rg"], goals=goals)


def _word(chance: random.Random) -> str:
    return "".join(chance.choices(string.ascii_lowercase + string.digits + "._-", k=chance.randint(8, 24)))
