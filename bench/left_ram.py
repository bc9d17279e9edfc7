"""Pages that left memory: how long it takes to find and to read them, by the time of processors."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from measure import Contender, anonymous, in_turn
from places import HERE, make_image, place
from table import MIB, Goal, Row

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from benchmarks import Settings

_PID = "5000"
_PAGES = 100_000
_MOST = Goal("rss", 400 * MIB)


def left_ram(settings: Settings, command: Callable[..., list[str]]) -> Iterator[Row]:
    """Find and read compressed pages; carve what is in a page file, and a process of which little left memory."""
    pages = min(_PAGES, settings.pages)
    with place(settings.fast, settings.place(settings.fast)) as here:
        target = here.folder / "target"

        def before() -> None:
            here.clear(target)

        def carving(path: object, *, ram: bool = False, paged: bool = True) -> Contender:
            options = ["--pages-from", "ram"] if ram else ["--pagefile", f"0={path}.pagefile0"] if paged else []
            ours = command("carve", "-q", path, "--pid", _PID, "-o", target, "--hash", "none", *options)
            # 3: some entries of a process with pages in memory, too, name places behind the end of the page file
            return Contender(ours, before, busy=True, exits=(0, 3))

        child = [sys.executable, str(HERE / "children.py"), "read_compressed"]
        for method in ("Xpress", "LZ4"):
            path = make_image(here.folder / f"{method}.raw", method.lower(), pages)
            contenders = {
                "ours": Contender([*child, str(path)], reports=True),
                "carve": carving(path),
            }
            found = in_turn(contenders, settings.runs, settings.warm_up)
            label = f"{pages} compressed pages, {method}"
            yield Row(f"find and read {label}", here.name, found["ours"], goals=[Goal("seconds", 2.0)])
            row = Row(f"carve {label}", here.name, found["carve"], goals=[_MOST])
            row.rss = anonymous(contenders["carve"])
            yield row
            here.clear(path)
        for kind, words, size in (("pagefile", "", "1M"), ("scattered", ", one by one all over it", "4k")):
            path = make_image(here.folder / f"{kind}.raw", kind, pages)
            copied = [f"if={path}.pagefile0", f"of={target}", f"bs={size}", "status=none"]
            contenders = {
                "ours": carving(path),
                "ram": carving(path, ram=True),
                "dd": Contender(["dd", *copied], before, busy=True),
            }
            found = in_turn(contenders, settings.runs, settings.warm_up)
            label = f"carve {pages} pages of a page file{words}"
            row = Row(label, here.name, found["ours"], f"dd bs={size}", found["dd"], goals=[_MOST])
            row.rss = anonymous(contenders["ours"])
            yield row
            yield Row(f"{label}, without them", here.name, found["ram"], f"dd bs={size}", found["dd"])
            here.clear(path)
        path = make_image(here.folder / "few.raw", "few", settings.pages)
        contenders = {"all": carving(path), "ram": carving(path, ram=True)}
        found = in_turn(contenders, settings.runs, settings.warm_up)
        label = f"carve {settings.pages} pages in memory, a tenth besides"
        row = Row(label, here.name, found["all"], "--pages-from ram", found["ram"], goals=[Goal("ratio", 1.3), _MOST])
        row.rss = anonymous(contenders["all"])
        yield row
        here.clear(path)
        path = make_image(here.folder / "views.raw", "views", pages)
        contenders = {"all": carving(path, paged=False), "ram": carving(path, ram=True)}
        found = in_turn(contenders, settings.runs, settings.warm_up)
        label = f"carve {pages} pages in memory, and views of as many"
        row = Row(label, here.name, found["all"], "--pages-from ram", found["ram"], goals=[_MOST])
        row.rss = anonymous(contenders["all"])
        yield row
