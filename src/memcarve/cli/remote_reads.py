"""What is said in the end of inputs that lie elsewhere: how much of them was fetched."""

from __future__ import annotations

import sys

from memcarve import remote
from memcarve.cli import run_log
from memcarve.cli.wording import amount, counted, tell


def tell_reads(*, quiet: bool) -> None:
    """Print how much was read of each object that was opened, in how many requests."""
    module = sys.modules.get("memcarve.remote.remote_file")
    if module is None:  # nothing of the kind was opened
        return
    for path in module.opened():
        read, size = remote.read_of(path) or {}, (remote.facts_of(path) or {})["size"]
        many = counted(read["requests"], "request")
        again = f", and {amount(read['reused'])} from the cache" if read["reused"] else ""
        tell(f"{path}: read {amount(read['fetched'])} of {amount(size)} in {many}{again}", quiet=quiet)
        run_log.record("info", "read", path=path, size=size, **read)
