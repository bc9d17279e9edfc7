"""Fuzz the readers: ``python tests/fuzz.py maps windows --seconds 600 --seed 7``; all surfaces, one after the other.

What falls out is kept in folders of its own under ``--keep``, each of which ``--replay FOLDER`` runs again.
"""

from __future__ import annotations

import argparse
import os
import sys

os.environ.setdefault("MEMCARVE_TRACEBACK", "1")  # what is not declared is raised by the command line, too
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, "helpers")]

import fuzzing  # noqa: E402 - found through the path above
from fuzzing import rounds  # noqa: E402
from fuzzing.case import Case  # noqa: E402


def main() -> int:
    """Run what the command line asks for; return 1 if anything fell out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("surfaces", nargs="*", help=f"some of: {', '.join(fuzzing.SURFACES)}")
    parser.add_argument("--seconds", type=float, default=60, help="for each surface")
    parser.add_argument("--cases", type=int, default=1 << 62, help="at most, for each surface")
    parser.add_argument("--seed", default="1")
    parser.add_argument("--keep", default="build/fuzz", help="a folder for what falls out")
    parser.add_argument("--replay", help="a folder that was kept")
    options = parser.parse_args()
    if unknown := {*options.surfaces} - {*fuzzing.SURFACES}:
        parser.error(f"unknown surface {', '.join(sorted(unknown))}")
    if options.replay:
        return replay(options.replay)
    found = 0
    for name in options.surfaces or fuzzing.SURFACES:
        with rounds.folder_for(name) as folder:
            one = rounds.Round(name, fuzzing.surface(name, folder), folder, options.keep)
            tally = rounds.Watched(one, options.seed, options.seconds, options.cases).run()
        print(f"{name}: {tally}", flush=True)
        found += len(tally.found)
    return min(found, 1)


def replay(kept: str) -> int:
    """Run a case that was kept, and let whatever it raises be seen."""
    name, case = Case.kept(kept)
    with rounds.folder_for(name) as folder, rounds.strict():
        one = rounds.Round(name, fuzzing.surface(name, folder), folder)
        one.run(case)
    print(one.tally, *one.tally.found.values(), sep="\n")
    return min(len(one.tally.found), 1)


if __name__ == "__main__":
    sys.exit(main())
