"""What the kernel saves of x86's floating-point registers becomes what XSAVE would have saved."""

from __future__ import annotations

import struct

import pytest

from memcarve.images.linux.user_floating import standard

_NEW = struct.pack("<H22xI", 0x37F, 0x1F80)


def area(used: int, form: int) -> bytes:
    """Return an area in which no byte is what it is in a new process, but for MXCSR."""
    legacy = bytearray(bytes([0xAB]) * 512)
    legacy[24:28] = struct.pack("<I", 0x1FA0)
    return bytes(legacy) + struct.pack("<2Q", used, form) + bytes(48) + bytes([0xCD]) * 256


@pytest.mark.parametrize("form", [0, 1 << 63 | 7])
@pytest.mark.parametrize("used", range(8))
def test_components(used: int, form: int) -> None:
    """A component that the header does not name is as in a new process, whatever lies there."""
    found = standard(area(used, form), 7)
    assert len(found) == 832
    assert found[:24] == (b"\xab" * 24 if used & 1 else _NEW[:24])
    assert found[32:160] == (b"\xab" if used & 1 else b"\0") * 128
    assert found[160:416] == (b"\xab" if used & 2 else b"\0") * 256
    new = form and not used & 2
    assert found[24:28] == (_NEW[24:28] if new else struct.pack("<I", 0x1FA0))
    assert struct.unpack_from("<Q", found, 464) == (7,)
    assert struct.unpack_from("<2Q", found, 512) == (used, 0)
    assert found[576:] == (b"\xcd" if used & 4 else b"\0") * 256


def test_without_avx() -> None:
    """Without AVX what FXSAVE saves is all; without XSAVE it is taken as it is."""
    assert len(standard(area(3, 0), 3)) == 512
    assert standard(area(0, 0), None) == area(0, 0)[:512]
    assert standard(area(3, 0)[:512], 3)[:24] == _NEW[:24]
