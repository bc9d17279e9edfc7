"""A file with the types of one Linux kernel: ISF, BTF or the kernel as it was linked; also compressed.

What is often given instead is recognised, to say what helps. Source for those: Documentation/arch/x86/boot.rst (the
header of bzImage), Documentation/arch/arm64/booting.rst.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from memcarve.errors import InputError, KernelTypesError
from memcarve.formats.compression import open_file
from memcarve.formats.elf_layout import MAGIC as ELF
from memcarve.formats.kernel_types.btf import HEADER, MOST_BYTES, Btf, header
from memcarve.formats.kernel_types.dwarf import Dwarf
from memcarve.formats.kernel_types.isf import MOST_BYTES as MOST_ISF, Isf
from memcarve.formats.kernel_types.vmlinux import Vmlinux

if TYPE_CHECKING:
    from collections.abc import Mapping

    from memcarve.backing import FileBacking
    from memcarve.formats.compression import Reading
    from memcarve.formats.kernel_types import KernelTypes

_WANTED = "give Volatility's ISF (.json, .json.xz), BTF (/sys/kernel/btf/vmlinux), or vmlinux with BTF or DWARF"
_SYSTEM_MAP = re.compile(rb"[0-9a-f]{8,16} [a-zA-Z?] [\w.$]+\r?\n")
_RELEASE = re.compile(r"Linux version (\S+)")


class SymbolFile(NamedTuple):
    """What a file says of a kernel: its types, and what it is for as far as it tells.

    `banner` is what the kernel says of itself, `build_id` the identity that the linker gave it, in hexadecimal.
    `addresses` are those of symbols as the kernel was linked (without KASLR); None if the file has none.
    """

    path: str
    types: KernelTypes
    banner: str | None = None
    build_id: str | None = None
    addresses: Mapping[str, int] | None = None

    @property
    def release(self) -> str | None:
        """The kernel's release, as ``uname -r`` prints it; None if the file does not tell."""
        found = _RELEASE.match(self.banner or "")
        return None if found is None else found[1]

    def check(self, releases: set[str], banners: set[str], build_ids: set[str]) -> str | None:
        """Compare with what the memory says of its kernels; return a sentence for the user if another build was made.

        Raises KernelTypesError if the file is for a kernel of another release. What is not known on either side is not
        compared.
        """
        if self.build_id is not None and self.build_id in build_ids:
            return None
        if self.release is not None and releases and self.release not in releases:
            raise KernelTypesError(
                f"has the types of Linux {self.release}, but the memory is that of Linux {', '.join(sorted(releases))}",
                subject=self.path,
                remedy="{symbols} takes the types of exactly that kernel; without {symbols}, BTF in the image is used",
            )
        other = self.build_id is not None and build_ids
        if not other and (self.banner is None or not banners or _plain(self.banner) in map(_plain, banners)):
            return None
        mine = self.banner or f"build id {self.build_id}"
        theirs = " or ".join(sorted(banners or build_ids))
        return (
            f"{self.path} is of another build of the kernel than the image, and may be wrong: {mine}; image: {theirs}"
        )


def _plain(banner: str) -> str:
    """Return a banner without the number of its build, which one of a kernel's two copies does not have."""
    return re.sub(r"#\d* ", "# ", banner, count=1)


def read_symbols(path: str, reading: Reading) -> SymbolFile:
    """Read a file with the types of a kernel.

    Raises KernelTypesError if it is something else or damaged, MissingExtraError if a package is needed, and what
    `compression.open_file` raises.
    """
    file = open_file(path, reading)
    keep = False
    try:
        found = _read(file)
        keep = isinstance(found.types, Dwarf)  # which reads what it is asked for
    except KernelTypesError as error:
        error.subject = path
        raise
    finally:
        if not keep:
            file.close()
    return found


def _read(file: FileBacking) -> SymbolFile:
    path = file.path
    head = file.read_at(0, min(file.size, 4096))
    if header(head[: HEADER + 8]) is not None:
        if file.size > MOST_BYTES:
            raise KernelTypesError(f"is BTF of more than {MOST_BYTES} bytes, which no kernel has")
        return SymbolFile(path, Btf(file.read_at(0, file.size), f"BTF in {path}"))
    if head.startswith(ELF):
        return _linked(file)
    if head.lstrip()[:1] == b"{":
        if file.size > MOST_ISF:
            raise KernelTypesError(f"is a JSON document of more than {MOST_ISF} bytes, larger than any kernel's")
        types = Isf(file.read_at(0, file.size), f"ISF in {path}")
        return SymbolFile(path, types, types.banner, None, types.symbols)
    raise _foreign(head)


def _linked(file: FileBacking) -> SymbolFile:
    path = file.path
    try:
        program = Vmlinux(file)
        section = program.sections.get(".BTF")
        types: KernelTypes
        if section is not None:
            types = Btf(program.read(section, MOST_BYTES), f"BTF in {path}")
        else:
            types = Dwarf(program, f"DWARF in {path}")
        return SymbolFile(path, types, program.banner, program.build_id, program.symbols)
    except ValueError as error:
        raise KernelTypesError(f"is a damaged ELF file: {error}", remedy=_WANTED) from error


def _foreign(head: bytes) -> InputError:
    extract = "scripts/extract-vmlinux, in the kernel's source, takes vmlinux out of it, with BTF if the kernel has any"
    if head[0x202:0x206] == b"HdrS" or head[0x38:0x3C] == b"ARMd" or head[4:8] == b"zimg":
        return KernelTypesError("is a kernel as it is booted (vmlinuz), in which types are compressed", remedy=extract)
    if _SYSTEM_MAP.match(head):
        return KernelTypesError("is a list of symbols (System.map, kallsyms), which has no types", remedy=_WANTED)
    if head.startswith((b"Microsoft C/C++", b"MZ")):
        return KernelTypesError("has symbols or code of Windows, not the types of a Linux kernel", remedy=_WANTED)
    return KernelTypesError("is not a file with the types of a Linux kernel", remedy=_WANTED)
