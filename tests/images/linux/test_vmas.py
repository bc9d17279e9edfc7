"""Regions of Linux processes: as /proc/PID/maps of real machines had them."""

from __future__ import annotations

import pytest

from linux_machines import machine, machines
from linux_systems import stopped, system_of, typed_system_of
from memcarve.linux_mappings import line


@pytest.mark.parametrize("name", machines())
def test_maps(name: str) -> None:
    """Every field of every region is what the machine itself printed in the same moment."""
    given, system = machine(name), typed_system_of(name)
    bits = 32 if given.arch == "i386" else 64
    for pid, entry in stopped(given):
        found = system.metadata(entry, system.table_of(entry))
        lines = [line(region, bits).encode("utf-8", "surrogateescape") for region in found.regions[0]]
        assert b"".join(each + b"\n" for each in lines) == given.maps(pid), pid
        assert not found.notes, pid


@pytest.mark.parametrize("name", machines())
def test_kernel_threads(name: str) -> None:
    """The kernel's threads have no regions."""
    given, system = machine(name), system_of(name)
    for entry in system.listed():
        if given.processes[entry.pid or 0]["kernel_thread"]:
            assert not system.metadata(entry, system.table_of(entry)).regions
