"""What containers of a machine's memory begin with.

Their readers say where that is specified. It stands here so that none of them is imported for a file of another kind.
"""

from __future__ import annotations

LIME = b"EMiL"
AVML = b"AVML"
CRASH_DUMP, CRASH_DUMP_32 = CRASH_DUMPS = b"PAGEDU64", b"PAGEDUMP"
KDUMP, _ = KDUMPS = b"KDUMP   ", b"DISKDUMP"
FLATTENED = b"makedumpfile\0"
MIGRATION = b"QEVM"
LIBVIRT_WHOLE, _ = LIBVIRT = b"LibvirtQemudSave", b"LibvirtQemudPart"
#: of hiberfil.sys; those in small letters are older than what is read
HIBERFIL = (b"HIBR", b"WAKE", b"RSTR", b"HORM", b"hibr", b"wake")
VMWARE = frozenset({0xBED2BED2, 0xBED3BED3, 0xBAD1BAD1, 0xBAD2BAD2})
VMWARE_32 = frozenset({0xBED0BED0, 0xBED2BED0})  # of 32-bit products

#: all of them
SIGNATURES = (
    *(LIME, AVML, FLATTENED, MIGRATION, *CRASH_DUMPS, *KDUMPS, *LIBVIRT, *HIBERFIL),
    *(number.to_bytes(4, "little") for number in sorted(VMWARE | VMWARE_32)),
)
