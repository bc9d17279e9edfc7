"""The page of old system calls, which no tree of regions holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from linux_systems import entries, opened
from memcarve.linux_mappings import line

if TYPE_CHECKING:
    from collections.abc import Callable

    from linux_structures import Damaged

_PRINTED = "ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]"


@pytest.mark.parametrize("name", ["linux-6.12-amd64", "linux-5.10-amd64"])
def test_page_that_may_be_executed(name: str, damaged: Callable[[str], Damaged]) -> None:
    """Made executable alone, as vsyscall=xonly does, it is the last region of each 64-bit process, and of no other."""
    copy = damaged(name)
    given = copy.machine
    pid = next(pid for pid in given.stopped if given.processes[pid]["comm"] == "syslogd")
    narrow = next(pid for pid in given.stopped if given.processes[pid]["links"]["exe"].endswith("rich32"))
    copy.put(given.kallsyms["gate_vma"], "vm_area_struct.vm_flags", 4)
    system = opened(copy.path)
    for each in (pid, narrow):
        entry = entries(system)[each]
        found = system.metadata(entry, system.table_of(entry))
        lines = [line(region, 64).encode("utf-8", "surrogateescape") for region in found.regions[0]]
        assert lines == given.maps(each).splitlines() + [_PRINTED.encode()] * (each == pid)
        assert not found.notes
