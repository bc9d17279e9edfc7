# This file is Copyright 2026 the memcarve authors and licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""A plugin of Volatility 3 that lists the contiguous segments of Windows processes."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any

from volatility3.framework import exceptions, interfaces, renderers
from volatility3.framework.objects import utility

from memcarve_volatility3.requirements import MODULE, importing, options
from volatility3.plugins.windows import pslist, vadinfo

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from memcarve_volatility3.machine import Found

_BY_MODULE = 3  # since this version of PsList (2.26) processes are listed by the kernel's module


class Segments(interfaces.plugins.PluginInterface):
    """Lists the contiguous segments of processes' memory, and writes them into files.

    Each row is a stretch of addresses whose bytes are all in the image. Protection and File are those of the VAD that
    it begins in; (+2) says that it touches two more. memcarve walks the page tables and moves the bytes.
    """

    _required_framework_version = (2, 5, 0)
    _version = (1, 0, 0)

    @classmethod
    def get_requirements(cls) -> list[Any]:
        """Return the options."""
        return options("Windows", "VADs")

    def run(self) -> renderers.TreeGrid:
        """Return the rows."""
        with importing():  # others should not wait for numpy
            from memcarve_volatility3.rows import COLUMNS, Wanted, rows  # noqa: PLC0415

        config = self.config
        wanted = Wanted(config.get("name"), config["kernel"], config["split"], config["dump"])
        found = rows(self.context, self._processes(), wanted, self.open, self._progress_callback)
        return renderers.TreeGrid(COLUMNS, found)

    def _processes(self) -> Iterator[Found]:
        module = self.config[MODULE]
        kernel = self.context.modules[module]
        wanted = pslist.PsList.create_pid_filter(self.config.get("pid"))
        if pslist.PsList.version[0] >= _BY_MODULE:
            processes = pslist.PsList.list_processes(self.context, module, wanted)
        else:
            processes = pslist.PsList.list_processes(self.context, kernel.layer_name, kernel.symbol_table_name, wanted)
        protections = _Protections(self.context, kernel)
        for process in processes:
            found = _found(self.context, process, protections)
            if found is not None:
                yield found


class _Protections:
    """What the numbers in VADs mean on this machine: looked up once, when the first VAD is read."""

    def __init__(self, context: Any, kernel: Any) -> None:  # noqa: ANN401
        self._context = context
        self._kernel = kernel
        self._values: list[int] | None = None

    def of(self, vad: Any) -> str | None:  # noqa: ANN401
        if self._values is None:
            try:
                values = vadinfo.VadInfo.protect_values(
                    self._context, self._kernel.layer_name, self._kernel.symbol_table_name
                )
                self._values = [int(value) for value in values]
            except (exceptions.VolatilityException, ValueError):
                self._values = []
        if not self._values:
            return None
        return str(vad.get_protection(self._values, vadinfo.winnt_protections)) or None


def _found(context: Any, process: Any, protections: _Protections) -> Found | None:  # noqa: ANN401
    """Return a process; None where nothing of it can be read."""
    from memcarve.process import ProcessEntry  # noqa: PLC0415
    from memcarve_volatility3.machine import Found, table_of  # noqa: PLC0415

    try:
        pid = int(process.UniqueProcessId)
        layer = context.layers[process.add_process_layer()]
        table, physical, swap = table_of(layer, "windows")
        created, exited = _time(process.get_create_time()), _time(process.get_exit_time())
        entry = ProcessEntry(
            pid,
            _name(process),
            parent=int(process.InheritedFromUniqueProcessId),
            created=created,
            exited=exited,
            root=table.root,
            listed=True,
            ended=exited is not None,
            object=layer.canonicalize(process.vol.offset),
        )
    except exceptions.InvalidAddressException:
        return None

    def regions() -> Iterable[dict[str, Any]]:
        for vad in vadinfo.VadInfo.list_vads(process):
            file = vad.get_file_name()
            yield {
                "Start VPN": int(vad.get_start()),
                "End VPN": int(vad.get_end()),
                "Tag": vad.get_tag(),
                "Protection": protections.of(vad),
                "PrivateMemory": int(vad.get_private_memory()),
                "File": file if isinstance(file, str) else None,
            }

    return Found(entry, table, physical, regions, "windows.vadinfo", "VAD tree (Volatility)", swap)


def _name(process: Any) -> str | None:  # noqa: ANN401
    try:
        return str(utility.array_to_string(process.ImageFileName))
    except exceptions.InvalidAddressException:
        return None


def _time(value: Any) -> dt.datetime | None:  # noqa: ANN401
    return value if isinstance(value, dt.datetime) else None
