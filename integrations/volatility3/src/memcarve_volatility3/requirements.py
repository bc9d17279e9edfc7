# This file is Copyright 2026 the memcarve authors and licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""The options of the plugins, and how they import what they run."""

from __future__ import annotations

import contextlib
import gc
import os
from typing import TYPE_CHECKING, Any

from volatility3.framework.configuration import requirements

if TYPE_CHECKING:
    from collections.abc import Iterator

#: the requirement's name of the kernel's module: --kernel is an option
MODULE = "kernel_module"
SPLITS = ["none", "region"]


def options(system: str, regions: str) -> list[Any]:
    """Return the requirements of the plugin for `system`, which calls its regions `regions`."""
    return [
        requirements.ModuleRequirement(
            name=MODULE, description=f"{system} kernel", architectures=["Intel32", "Intel64"]
        ),
        requirements.ListRequirement(
            name="pid", element_type=int, description="Process IDs to include (all others are excluded)", optional=True
        ),
        requirements.StringRequirement(
            name="name",
            description="Pattern of the names of processes to include, as svc*; upper and lower case are the same",
            optional=True,
        ),
        requirements.BooleanRequirement(
            name="kernel", description="Take the kernel's half of the address space, too", default=False, optional=True
        ),
        requirements.ChoiceRequirement(
            name="split",
            choices=SPLITS,
            description=f"Where segments end besides gaps: region, where {regions} begin and end",
            default="none",
            optional=True,
        ),
        requirements.BooleanRequirement(
            name="dump",
            description="Write each segment into a file, and what is known of them into segments.json",
            default=False,
            optional=True,
        ),
    ]


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """Import numpy and memcarve in the block, quickly: no garbage is collected, and no threads are started.

    A collection would go through all that Volatility has read by then, hundreds of thousands of objects; later ones
    leave that out. The threads would be those of numpy's linear algebra, which is not used here.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if collecting:
            gc.enable()
