"""Page-table roots of real Linux machines, found by what tables look like: those of all processes are among them."""

from __future__ import annotations

import numpy as np
import pytest

import memcarve
from linux_machines import machine, machines
from memcarve.images import arm64_roots
from memcarve.images.page_table_roots import address_table
from memcarve.sources.image import ImageContainer


@pytest.mark.parametrize("name", machines())
def test_roots_of_processes(name: str) -> None:
    """Each process's root is found, in the machine's mode; with page-table isolation its copy is named beside it."""
    real = machine(name)
    if real.arch == "i386":
        pytest.skip("roots of 32-bit Linux are not looked for")
    with memcarve.open(real.raw, input_type="image") as container:
        assert isinstance(container, ImageContainer)
        found = {each.root: each for each in container.roots()}
        isolated = b"pti=on" in real.truth["cmdline"].encode()
        seen = 0
        for entry in container.listed():
            if entry.pid in real.stopped and entry.root is not None:
                table, root = container.system.table_of(entry), found[entry.root]
                assert root.mode == table.mode.name
                assert root.user_bytes
                assert root.user_copy == (entry.root + 4096 if isolated else None)
                assert entry.root + 4096 not in found or not isolated
                assert (
                    address_table(container.memory, entry.root, None, None)[0].mode is table.mode
                    or real.arch == "arm64"
                )
                seen += 1
            if real.arch == "arm64" and entry.root is None:
                kernel = container.system.table_of(entry).kernel_root
                assert kernel is not None
                assert found[kernel].user_bytes == 0
        assert seen > 10


@pytest.mark.parametrize("name", machines())
def test_root_of_arm64_given(name: str) -> None:
    """A root of a raw image of an ARM64 machine is read as such, and the kernel half through the kernel's root."""
    real = machine(name)
    if real.arch != "arm64":
        pytest.skip(f"{real.name} is no ARM64 machine")
    with memcarve.open(real.raw, input_type="image") as container:
        assert isinstance(container, ImageContainer)
        entry = next(entry for entry in container.listed() if entry.pid == 1)
        assert entry.root is not None
        table = container.system.table_of(entry)
        mode = arm64_roots.recognised(container.memory, entry.root)
        wanted = container.process(pid=1).space
    assert mode is table.mode
    for words in ({}, {"paging": table.mode.name}):
        with memcarve.open(real.raw, input_type="image", dtb=entry.root, **words) as given:
            process = given.process()
            assert process.architecture == "arm64"
            assert process.address_bits == 64
            for name_of in ("start", "size", "offset", "flags"):
                assert np.array_equal(getattr(process.space, name_of), getattr(wanted, name_of))
