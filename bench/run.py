"""Measure how good memcarve is; see README.md. ``python bench/run.py --help`` lists what can be chosen."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from pathlib import Path

import benchmarks
import table
from benchmarks import Settings
from measure import UnavailableError

_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
_MANY = {"K": 10**3, "M": 10**6}


def _number(text: str, units: dict[str, int]) -> int:
    unit = units.get(text[-1:].upper())
    return int(float(text[:-1]) * unit) if unit else int(text)


def _sizes(text: str) -> list[int]:
    return [_number(part, _UNITS) for part in text.split(",")]


def _count(text: str) -> int:
    return _number(text, _MANY)


def _list(text: str) -> list[str]:
    return text.split(",")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure memcarve against its goals.")
    parser.add_argument("--only", type=_list, metavar="NAME,...", help=f"of {', '.join(benchmarks.ALL)}")
    parser.add_argument("--without", type=_list, default=[], metavar="NAME,...", help="all but these")
    parser.add_argument("--size", type=_sizes, metavar="SIZE,...", help="of the dumps  [800M,4G]")
    parser.add_argument("--segments", type=_count, help="in a dump  [5000]")
    parser.add_argument("--rows", type=_count, help="of a map, for the speed of parsing  [4M]")
    parser.add_argument("--most-rows", type=_count, help="of a map, for the memory that parsing takes  [12M]")
    parser.add_argument("--many", type=_count, help="segments, for the cost per segment  [500K]")
    parser.add_argument("--pages", type=_count, help="scattered ones, of a process of an image  [250K]")
    parser.add_argument("--processes", type=_count, help="of an image  [100]")
    parser.add_argument("--gigabytes", type=int, help="of an image of which little is used  [8]")
    parser.add_argument("--where", type=_list, help="tmpfs, disk or both  [tmpfs,disk]")
    parser.add_argument("--tmpfs", type=Path, default=Path("/dev/shm"), metavar="FOLDER")  # noqa: S108 - it is one
    parser.add_argument("--disk", type=Path, default=Path("/var/tmp"), metavar="FOLDER")  # noqa: S108
    parser.add_argument("--runs", type=int, help="rounds that count, after one that does not  [7]")
    parser.add_argument("--quick", action="store_true", help="small inputs, one round: does it work at all?")
    parser.add_argument("--output", type=Path, metavar="FILE", help="also write there: JSON if it ends so, else text")
    return parser.parse_args()


def _settings(arguments: argparse.Namespace) -> Settings:
    quick = arguments.quick
    where = ["tmpfs" if arguments.tmpfs.is_dir() else "disk"] if quick else ["tmpfs", "disk"]
    return Settings(
        sizes=arguments.size or ([4 << 20] if quick else [800 << 20, 4 << 30]),
        segments=arguments.segments or (50 if quick else 5000),
        rows=arguments.rows or (20_000 if quick else 4_000_000),
        most_rows=arguments.most_rows or (40_000 if quick else 12_000_000),
        many=arguments.many or (1_000 if quick else 500_000),
        pages=arguments.pages or (2_000 if quick else 250_000),
        processes=arguments.processes or (3 if quick else 100),
        gigabytes=arguments.gigabytes or (1 if quick else 8),
        where=arguments.where or where,
        folders={"tmpfs": arguments.tmpfs, "disk": arguments.disk},
        runs=arguments.runs or (1 if quick else 7),
        warm_up=0 if quick else 1,
    )


def main() -> None:
    """Measure, print the table as it grows, and write it."""
    arguments = _arguments()
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # so that everything is removed
    settings = _settings(arguments)
    names = arguments.only or [name for name in benchmarks.ALL if name != "reflinks" or not arguments.quick]
    names = [name for name in names if name not in arguments.without]
    unknown = [name for name in [*names, *arguments.without] if name not in benchmarks.ALL]
    unknown += [name for name in settings.where if name not in settings.folders]
    if unknown or benchmarks.NEEDED:
        sys.exit(f"{unknown[0]}: unknown name" if unknown else f"{benchmarks.NEEDED[0]}: is not installed")
    rows: list[table.Row] = []
    for name in names:
        print(f"{name} ...", file=sys.stderr, flush=True)
        try:
            for row in benchmarks.ALL[name](settings):
                rows.append(row)
                print("  " + "  ".join(filter(None, row.cells())), file=sys.stderr, flush=True)
        except UnavailableError as reason:
            rows.append(table.Row(name, "", note=f"not measured: {reason}"))
    machine = table.machine()
    text = table.text(rows) + "\n" + "\n".join(f"{key}: {value}" for key, value in machine.items()) + "\n"
    document = json.dumps({"schema": 1, "machine": machine, "results": [row.record() for row in rows]}, indent=1) + "\n"
    print(text, end="")
    results = Path(__file__).parent / "results"
    results.mkdir(exist_ok=True)
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    (results / f"{stamp}.txt").write_text(text, encoding="utf-8")
    (results / f"{stamp}.json").write_text(document, encoding="utf-8")
    if arguments.output:
        arguments.output.write_text(document if arguments.output.suffix == ".json" else text, encoding="utf-8")


if __name__ == "__main__":
    main()
