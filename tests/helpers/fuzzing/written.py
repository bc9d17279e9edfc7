"""All that the command line writes, with other documents in it, verified and read by the command line again."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import re
from typing import TYPE_CHECKING, Any

import listings
import maps
from fuzzing import checks
from fuzzing.case import Case, Depth
from headers import pe_page
from maps import written
from memcarve.cli.program import run as run_program
from memory import PAGE, content

if TYPE_CHECKING:
    from fuzzing.case import Reached
    from fuzzing.draw import Draw

#: where a document of memcarve's begins, in a file of its own or within another
_DOCUMENT = re.compile(rb'\{\s*"(?:schema|tool)": ')
#: members whose elements have a line each
_LINED = ("missing", "segments", "modules", "processes")
_OUTPUTS = ("all", "one", "modules", "minidump", "elfcore", "flat", "scripts", "memmap")
_COMPLETE, _INCOMPLETE = 0, 3


class Written:
    """Outputs of every kind; a case is one whose document says something else, and whose sums agree with that."""

    def __init__(self, folder: str) -> None:
        self.folder, self.map = folder, os.path.join(folder, "x.map")
        rows = [*written([(0x10000, 2 * PAGE), (0x50000, 2 * PAGE)]), *written([(0x9000, PAGE)], "pid.8.dmp")]
        image = listings.vad(0x10000, 0x1FFFF, file="\\W\\x.dll", tag="Vad ", private=0, protection="PAGE_READONLY")
        regions = listings.quick([image, listings.vad(0x50000, 0x5FFFF)], listings.VADINFO)
        files = {"x.map": maps.quick(rows), "pid.4.dmp": bytes(pe_page()) + content(0, 3 * PAGE)}
        Case({**files, "pid.8.dmp": content(0, PAGE), "pid.4.vadinfo.txt": regions}, {}).write(folder)
        self.outputs = {name: self._output(name) for name in _OUTPUTS}

    def _output(self, name: str) -> dict[str, bytes]:
        """Write an output; return its files."""
        out = os.path.join(self.folder, "made", name)
        words = {"all": ["carve", "--all"], "one": ["carve", "--pid", "4", "--label-names"]}
        words["modules"] = ["extract", "--pid", "4"]
        word, *options = words.get(name, ["export", "--pid", "4", "--to", name])
        assert run_program([word, self.map, *options, "--quiet", "-o", out]) == _COMPLETE
        paths = [os.path.join(place, file) for place, _, names in os.walk(os.path.dirname(out)) for file in names]
        files = {}
        for path in sorted(path for path in paths if path.startswith(out)):
            with open(path, "rb") as file:
                files[os.path.relpath(path, os.path.dirname(out))] = file.read()
        return files

    def make(self, draw: Draw) -> Case:
        """Change a document, and mostly all sums that follow from it."""
        name = draw.choice(_OUTPUTS)
        files = dict(self.outputs[name])
        changed = draw.choice([path for path, data in files.items() if _DOCUMENT.search(data)] or [*files])
        if name in {"one", "all"} and draw.chance(0.3):
            changed = self._move(draw, files)
        if draw.chance(0.7):
            files[changed] = self._changed(draw, files[changed])
        for path in (changed, *sorted(files, key=lambda path: path.endswith("SUMS"))) if draw.chance(0.9) else ():
            before, now = (_sum(data) for data in (self.outputs[name].get(path, b""), files[path]))
            if before != now:  # lists of files are hashed in other lists, and those in sums
                files = {other: data.replace(before, now) for other, data in files.items()}
        if draw.chance(0.1):
            path = draw.choice([*files])
            files[path] = draw.torn(files[path])
        uses = [["verify", "OUT"], ["verify", "OUT"], ["verify", "OUT", "--source", "MAP"]]
        if name not in {"flat", "scripts", "modules"}:  # which are no inputs
            uses += [["segments", "OUT", "--format", "json"], ["processes", "OUT", "--format", "jsonl"]]
        if name == "one":
            uses += [["look"], ["look"], ["diff", "MAP", "OUT", "--pid", "4"]]
            uses.append(["carve", "MAP", "--pid", "4", "--force", "-o", "OUT"])
        use = draw.choice(uses)
        return Case({f"made/{path}": data for path, data in files.items()}, {"use": use, "name": name})

    @staticmethod
    def _move(draw: Draw, files: dict[str, bytes]) -> str:
        """Have a segment lie elsewhere or be shorter, and all say so that names it; return the manifest's path."""
        path = draw.choice([path for path in files if path.endswith("segments.json")])
        folder, document = os.path.dirname(path), json.loads(files[path])
        rows = document["segments"]
        row = draw.choice(rows)
        start = draw.number(int(row["start"], 16), [int(one[name], 16) for one in rows for name in ("start", "end")])
        old, before = row["file"], files.pop(f"{folder}/{row['file']}")
        data = before[: draw.choice((len(before), len(before), PAGE, 1))]
        row |= {"start": f"0x{start:016x}", "end": f"0x{min(start + len(data), 1 << 64):016x}", "size": len(data)}
        row |= {"file": f"{row['start']}-{row['end']}.bin"}
        if draw.chance(0.7):
            rows.sort(key=lambda one: int(one["start"], 16))
            document["totals"]["bytes"] = sum(one["size"] for one in rows)
        files[path] = laid_out(document)
        for other, text in files.items():
            files[other] = text.replace(old.encode(), row["file"].encode()).replace(_sum(before), _sum(data))
        files[f"{folder}/{row['file']}"] = data
        return path

    @staticmethod
    def _changed(draw: Draw, data: bytes) -> bytes:
        found = _DOCUMENT.search(data)
        if not found:
            return draw.lines(data)
        text = data[found.start() :].decode("latin-1")
        document, end = json.JSONDecoder().raw_decode(text)
        new = draw.document(document)
        # within a file it must be as long as before
        laid = laid_out(new) if "\n" in text[:end] else json.dumps(new).encode()[:end].ljust(end)
        return data[: found.start()] + laid + data[found.start() + end :]

    def run(self, case: Case, reached: Reached) -> None:
        """Run the command line on the output."""
        use = case.told["use"]
        path = os.path.join(self.folder, "made", case.told["name"])
        if case.told["name"] == "memmap":
            path = os.path.join(path, "pid.4.map")
        if use == ["look"]:
            checks.look(path, reached)
            return
        words = [{"OUT": path, "MAP": self.map}.get(word, word) for word in use]
        well = checks.printed(words) in {_COMPLETE, _INCOMPLETE}
        reached(Depth.MEMORY if well else Depth.PARSED)
        if well and "--source" in use:  # then the memory is what was written
            for name, data in self.outputs[case.told["name"]].items():
                if name.endswith((".bin", ".dmp")) or name == "flat":
                    assert case.files.get(f"made/{name}") == data, (
                        f"{name} is another, and verify says that all is well"
                    )


def _sum(data: bytes) -> bytes:
    return hashlib.sha256(data).hexdigest().encode()


def laid_out(document: Any) -> bytes:
    """Return a document as memcarve lays it out: the elements of its lists have a line each."""
    if not isinstance(document, dict):
        return json.dumps(document).encode()
    lined = [*itertools.takewhile(lambda name: isinstance(document[name], list) and name in _LINED, [*document][::-1])]
    text = json.dumps({name: value for name, value in document.items() if name not in lined}, indent=1)
    text = text.removesuffix("\n}").removesuffix("{}")
    for name in reversed(lined):
        rows = ",".join(f"\n  {json.dumps(row)}" for row in document[name])
        text += f',\n "{name}": [{rows}\n ]'
    return f"{text}\n}}\n".encode()
