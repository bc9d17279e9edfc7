"""VMCOREINFO: what a Linux kernel says of itself for those who will read its memory.

Source: Documentation/admin-guide/kdump/vmcoreinfo.rst; kernel/crash_core.c (kernel/vmcore_info.c since Linux 6.9) for
how each line is written. A text of lines ``NAME=value``; it lies in the kernel's memory, in the notes of ELF cores
(name VMCOREINFO) and in kdump's headers.
"""

from __future__ import annotations

import re

BEGIN = b"OSRELEASE="
MOST_BYTES = 1 << 18  # kernels reserve a page, of 64 KiB at most
_MOST_LINES = 1 << 14
_LINE = re.compile(rb"([A-Za-z][\w.\-]{0,63}(?:\([^()\n]{1,256}\))?)=([^\n]{0,1024})")
_PLAIN = re.compile(rb"[\t\n\x20-\x7e]*")
_RELEASE = re.compile(r"\d[!-~]{0,127}")


class Vmcoreinfo:
    """The lines of one VMCOREINFO: `values` by their names, texts both. What is not there, or is no number, is None.

    If a name comes twice, the last one counts, as the kernel adds what it knows better.
    """

    def __init__(self, values: dict[str, str]) -> None:
        self.values = values

    @property
    def release(self) -> str:
        """The kernel's release, as ``uname -r`` prints it."""
        return self.values["OSRELEASE"]

    @property
    def page_size(self) -> int | None:
        """Bytes of a page."""
        return self._number("PAGESIZE", 10)

    @property
    def build_id(self) -> str | None:
        """The identity that the linker gave the kernel, in hexadecimal (Linux 5.8 and later)."""
        return self.values.get("BUILD-ID")

    def symbol(self, name: str) -> int | None:
        """Return the virtual address of a symbol."""
        return self._number(f"SYMBOL({name})", 16)

    def number(self, name: str) -> int | None:
        """Return a number; it may be negative (``phys_base``)."""
        return self._number(f"NUMBER({name})", 10)

    def _number(self, name: str, base: int) -> int | None:
        text = self.values.get(name, "")
        found = re.fullmatch(r"(-?)(0[xX])?([0-9a-fA-F]{1,20})", text)
        if found is None:
            return None
        try:
            value = int(found[3], 16 if found[2] else base)
        except ValueError:  # letters in a decimal number
            return None
        return -value if found[1] else value


def parse(data: bytes) -> Vmcoreinfo | None:
    """Read a VMCOREINFO from its first byte on, up to the first byte that is no text; None if there is none.

    The first line must say the release. Lines of another form are passed over; so is what an end of the bytes cuts off.
    """
    text = _PLAIN.match(data, 0, MOST_BYTES)
    lines = (text[0] if text else b"").split(b"\n", _MOST_LINES)[:-1]
    if not lines or not lines[0].startswith(BEGIN):
        return None
    found = (_LINE.fullmatch(line) for line in lines)
    values = {each[1].decode("ascii"): each[2].decode("ascii") for each in found if each is not None}
    return Vmcoreinfo(values) if _RELEASE.fullmatch(values.get("OSRELEASE", "")) else None
