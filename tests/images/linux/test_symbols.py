"""An image whose kernel has no types opens with a file of them; one for another kernel is refused, both named."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING

import pytest

import memcarve
from linux_machines import machine, machines
from memcarve import MemcarveError

if TYPE_CHECKING:
    from pathlib import Path

    from linux_machines import Machine


def _without_types(real: Machine, folder: Path) -> tuple[Path, Path]:
    """Return a copy of a machine's memory in which its BTF is zeros, and a file with the BTF."""
    if not real.truth.get("btf"):
        pytest.skip(f"{real.name} has no BTF")
    data, found = bytearray(real.raw.read_bytes()), real.truth["btf"]
    at = found["physical"] - real.raw_base
    types = folder / "vmlinux.btf"
    types.write_bytes(data[at : at + found["size"]])
    data[at : at + found["size"]] = bytes(found["size"])
    image = folder / "memory.raw"
    image.write_bytes(data)
    return image, types


@pytest.mark.parametrize("name", machines())
def test_types_of_a_file_find_what_those_of_the_image_find(name: str, tmp_path: Path) -> None:
    """With the kernel's BTF in a file, an image without it has the same processes at the same places."""
    real = machine(name)
    image, types = _without_types(real, tmp_path)
    with memcarve.open(image, symbols=types) as container:
        found = [(entry.pid, entry.name, entry.root, entry.object) for entry in container.processes()]
        assert any(str(types) in str(note) for note in container.notes)
        assert container.process(1).inputs["image"]["symbols"] == str(types)
    with memcarve.open(real.raw) as container:
        assert found == [(entry.pid, entry.name, entry.root, entry.object) for entry in container.processes()]


def test_symbols_of_another_kernel_are_refused(tmp_path: Path) -> None:
    """A file that says which kernel it is for is not used for another one; the message has both versions."""
    real = machine(machines()[0])
    path = tmp_path / "other.json"
    document = {
        "metadata": {"linux": {}},
        "base_types": {"pointer": {"size": 8}},
        "user_types": {"task_struct": {"size": 8, "kind": "struct", "fields": {}}},
        "symbols": {"linux_banner": {"constant_data": base64.b64encode(b"Linux version 4.4.0-other (x)\n\0").decode()}},
    }
    path.write_text(json.dumps(document))
    with memcarve.open(real.raw, symbols=path) as container, pytest.raises(MemcarveError) as caught:
        container.processes()
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "Linux 4.4.0-other" in message
    assert f"Linux {real.truth['kernel']}" in message
