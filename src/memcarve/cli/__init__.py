"""The command line: parse, call the library, print.

What a shell may have done to the program, closed streams and signals, is seen to before anything large is imported.
"""

from __future__ import annotations

import gc
import importlib
import os
import sys
from typing import TYPE_CHECKING, NoReturn

from memcarve.cli import standard_streams, stopping
from memcarve.parent_program import die_with_parent

if TYPE_CHECKING:
    from collections.abc import Sequence

_OBJECTS = 50_000  # that are made, and not gone again, before garbage is looked for


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit; every error is a line on standard error."""
    stopping.end_at_once()
    standard_streams.prepare()
    die_with_parent()  # if this is the run of one input in a batch
    # numpy's linear algebra, which is not used here, would start a thread for each processor when it is imported
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    gc.set_threshold(_OBJECTS)  # what is imported stays: it is not looked through for garbage meanwhile
    program = importlib.import_module("memcarve.cli.program")  # a signal may come meanwhile
    status = program.run(arguments)
    gc.freeze()  # what ends with the program is not looked through for garbage before: a tenth of a small command
    sys.exit(status)
