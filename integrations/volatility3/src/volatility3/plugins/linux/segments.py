# This file is Copyright 2026 the memcarve authors and licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""A plugin of Volatility 3 that lists the contiguous segments of Linux processes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from volatility3.framework import exceptions, interfaces, renderers
from volatility3.framework.objects import utility

from memcarve_volatility3.requirements import MODULE, importing, options
from volatility3.plugins.linux import proc, pslist

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from memcarve_volatility3.machine import Found


class Segments(interfaces.plugins.PluginInterface):
    """Lists the contiguous segments of processes' memory, and writes them into files.

    Each row is a stretch of addresses whose bytes are all in the image. Protection and File are those of the VMA that
    it begins in; (+2) says that it touches two more. memcarve walks the page tables and moves the bytes.
    """

    _required_framework_version = (2, 5, 0)
    _version = (1, 0, 0)

    @classmethod
    def get_requirements(cls) -> list[Any]:
        """Return the options."""
        return options("Linux", "VMAs")

    def run(self) -> renderers.TreeGrid:
        """Return the rows."""
        with importing():  # others should not wait for numpy
            from memcarve_volatility3.rows import COLUMNS, Wanted, rows  # noqa: PLC0415

        config = self.config
        wanted = Wanted(config.get("name"), config["kernel"], config["split"], config["dump"])
        found = rows(self.context, self._processes(), wanted, self.open, self._progress_callback)
        return renderers.TreeGrid(COLUMNS, found)

    def _processes(self) -> Iterator[Found]:
        wanted = pslist.PsList.create_pid_filter(self.config.get("pid"))
        for task in pslist.PsList.list_tasks(self.context, self.config[MODULE], wanted):
            found = _found(self.context, task)
            if found is not None:
                yield found


def _found(context: Any, task: Any) -> Found | None:  # noqa: ANN401
    """Return a process; None where it is a thread of the kernel's, or nothing of it can be read."""
    from memcarve.process import ProcessEntry  # noqa: PLC0415
    from memcarve_volatility3.machine import Found, table_of  # noqa: PLC0415

    try:
        pid = int(task.pid)
        name = task.add_process_layer() if task.mm else None
        if name is None:
            return None
        layer = context.layers[name]
        table, physical, swap = table_of(layer, "linux")
        entry = ProcessEntry(
            pid,
            str(utility.array_to_string(task.comm)),
            parent=int(task.parent.pid) if task.parent else None,
            root=table.root,
            listed=True,
            object=layer.canonicalize(task.vol.offset),
        )
    except exceptions.InvalidAddressException:
        return None

    def regions() -> Iterable[dict[str, Any]]:
        for vma in proc.Maps.list_vmas(task):
            file = vma.get_name(context, task)
            yield {
                "Start": int(vma.vm_start),
                "End": int(vma.vm_end),
                "Flags": str(vma.get_protection()),
                "PgOff": int(vma.get_page_offset()),
                # its number does not matter: what has one maps a file
                "Inode": 1 if vma.vm_file else 0,
                "File Path": file if isinstance(file, str) else None,
            }

    return Found(entry, table, physical, regions, "linux.proc.Maps", "VMAs (Volatility)", swap)
