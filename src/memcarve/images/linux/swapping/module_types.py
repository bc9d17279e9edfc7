"""The types of loaded modules, which lie in the kernel's memory behind the kernel's own.

Source: kernel/bpf/btf.c of Linux (btf_modules; Linux 5.11 and later with CONFIG_DEBUG_INFO_BTF_MODULES).
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from memcarve.errors import KernelTypesError
from memcarve.formats.kernel_types.btf import Btf, module_types

if TYPE_CHECKING:
    from memcarve.formats.kernel_types import KernelTypes
    from memcarve.images.linux.kallsyms import Kallsyms
    from memcarve.images.linux.kernel_structures import Structures

_MOST_MODULES = 4096
_MOST_BYTES = 4 << 20  # of one: the largest drivers have 1 to 2 MB


def types_with(kernel: Structures, symbols: Kallsyms, module: str, structure: str) -> KernelTypes | None:
    """Return types that have a structure: the kernel's own, or those of a module by name; None if neither has it."""
    if kernel.types.size(structure) is not None:
        return kernel.types
    head, link = symbols.address("btf_modules"), kernel.offset("btf_module", "list")
    if head is None or link is None or not isinstance(kernel.types, Btf):
        return None
    for each in itertools.islice(kernel.linked(head, link), _MOST_MODULES):
        owner, btf = kernel.pointer(each, "btf_module", "module"), kernel.pointer(each, "btf_module", "btf")
        if owner is None or btf is None or kernel.text(owner, "module", "name") != module.encode():
            continue
        place = kernel.pointer(btf, "btf", "data")
        size, first = kernel.number(btf, "btf", "data_size"), kernel.number(btf, "btf", "start_id")
        # it goes on where the kernel's types end, or it is another kernel's
        if place is None or size is None or size > _MOST_BYTES or first != len(kernel.types) + 1:
            continue
        data = kernel.reader.read(place, size)
        try:
            found = None if data is None else module_types(kernel.types, data, kernel.types.source)
        except KernelTypesError:
            return None
        return found if found is not None and found.size(structure) is not None else None  # no other has this name
    return None
