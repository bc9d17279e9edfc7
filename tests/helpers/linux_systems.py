"""Real Linux machines as memcarve finds them."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, cast

import pytest

import memcarve
from linux_machines import Machine, machine
from memcarve.errors import ProcessError
from memcarve.images.linux.linux_system import LinuxSystem

if TYPE_CHECKING:
    from pathlib import Path

    from memcarve.process import ProcessEntry
    from memcarve.sources.image import ImageContainer


@functools.cache
def system_of(name: str) -> LinuxSystem:
    """Return the system of a machine by the machine's name; skip the test if its kernel has no types to go by."""
    given = machine(name)
    try:
        return opened(given.raw)
    except ProcessError:
        if given.truth["btf"]:
            raise
        pytest.skip(f"{name}: its kernel has no BTF")


def typed_system_of(name: str) -> LinuxSystem:
    """Return the system of a machine; skip the test if where its kernel keeps regions is not known."""
    system = system_of(name)
    if system.kernel.structures.offset("vm_area_struct", "vm_start") is None:
        pytest.skip(f"{name}: its kernel has no BTF, and where it keeps regions is not learned")
    return system


def opened(path: Path) -> LinuxSystem:
    """Return the system in an image."""
    system = cast("ImageContainer", memcarve.open(path)).system
    assert isinstance(system, LinuxSystem)
    return system


def entries(system: LinuxSystem) -> dict[int, ProcessEntry]:
    """Return the listed processes by pid."""
    return {entry.pid: entry for entry in system.listed() if entry.pid is not None}


def stopped(given: Machine) -> list[tuple[int, ProcessEntry]]:
    """Return the processes of a machine that stood still, by pid."""
    found = entries(system_of(given.name))
    return [(pid, found[pid]) for pid in given.stopped]
