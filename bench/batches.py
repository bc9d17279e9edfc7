"""What is measured on many inputs; README.md explains every line."""

from __future__ import annotations

import os
import shlex
from typing import TYPE_CHECKING

from measure import Contender, in_turn
from places import make_image, place
from table import Goal, Row

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from benchmarks import Settings

    Command = Callable[..., list[str]]

_AT_ONCE = 2
_WORDS = {"processes": [], "carve": ["--all"]}
#: an image is listed with processes that ended, which have no memory: that is no failure
_EXITS = (0, 3, 123)


def batch(settings: Settings, command: Command) -> Iterator[Row]:
    """Run a command on many images, against the same command begun by ``xargs``, two at a time both."""
    count, size = (20, 256) if settings.runs > 1 else (_AT_ONCE, 80)
    with place(settings.fast, settings.place(settings.fast)) as here:
        here.need((count + 2) * size << 20, "batch")
        images = [here.folder / f"{number}.raw" for number in range(count)]
        make_image(images[0], "dense", size)
        for image in images[1:]:
            os.link(images[0], image)
        for name, words in _WORDS.items():
            out = here.folder / "out"

            def before(out: Path = out) -> None:
                here.clear(out)

            def begun(out: Path = out) -> None:
                here.clear(out)
                out.mkdir()

            batched = command("batch", name, *images, *words, "-q", "-o", out, "--jobs", str(_AT_ONCE))
            contenders = {
                "batch": Contender(batched, before, exits=_EXITS),
                "xargs": Contender(_by_hand(command, name, images, out), begun, exits=_EXITS),
            }
            found = in_turn(contenders, min(settings.runs, 5), settings.warm_up)
            label = f"batch {name}, {count} images of {size} MiB, {_AT_ONCE} at once"
            goals = [Goal("ratio", 1.1)]
            yield Row(label, here.name, found["batch"], f"xargs -P {_AT_ONCE}", found["xargs"], goals=goals)


def _by_hand(command: Command, name: str, images: list[Path], out: Path) -> list[str]:
    """Return the line that somebody writes who has no batch."""
    target = f"-o {shlex.quote(str(out))}/$1" if name == "carve" else f"> {shlex.quote(str(out))}/$1.txt"
    line = f"{shlex.join(command(name))} $1.raw {shlex.join(_WORDS[name])} -q {target}"
    stems = " ".join(image.stem for image in images)
    each = f"echo {stems} | xargs -n 1 -P {_AT_ONCE} sh -c {shlex.quote(line)} sh"
    return ["sh", "-c", f"cd {shlex.quote(str(images[0].parent))} && {each}"]
