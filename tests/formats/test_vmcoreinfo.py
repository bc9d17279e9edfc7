"""VMCOREINFO: what its lines say, and what is not believed."""

from __future__ import annotations

import pytest

from memcarve.formats.images.vmcoreinfo import MOST_BYTES, parse

#: lines as kernels write them, in the forms that there are
TEXT = b"""OSRELEASE=6.12.1-test
BUILD-ID=0123456789abcdef0123456789abcdef01234567
PAGESIZE=4096
SYMBOL(init_uts_ns)=ffffffffae87a880
OFFSET(uts_namespace.name)=0
SIZE(list_head)=16
LENGTH(mem_section)=2048
NUMBER(phys_base)=-738197504
NUMBER(VA_BITS)=48
NUMBER(kimage_voffset)=0xffffd349a3a00000
NUMBER(TCR_EL1_T1SZ)=0x10
KERNELOFFSET=2c000000
CRASHTIME=1795896043
a line of another kind
NUMBER(odd)=12ab
"""


def test_values_of_every_kind() -> None:
    """Symbols are hexadecimal, numbers decimal unless they begin with 0x, and may be negative."""
    found = parse(TEXT + b"\0behind")
    assert found is not None
    assert found.release == "6.12.1-test"
    assert found.build_id == "0123456789abcdef0123456789abcdef01234567"
    assert found.page_size == 4096
    assert found.symbol("init_uts_ns") == 0xFFFFFFFFAE87A880
    assert found.number("phys_base") == -738197504
    assert found.number("kimage_voffset") == 0xFFFFD349A3A00000
    assert found.number("TCR_EL1_T1SZ") == 16
    assert found.number("odd") is None
    assert found.number("missing") is None


def test_what_is_absent_is_unknown() -> None:
    """The shortest one says the release and nothing else."""
    found = parse(b"OSRELEASE=5.4\n")
    assert found is not None
    assert (found.build_id, found.page_size) == (None, None)


@pytest.mark.parametrize(
    "data",
    [b"", b"OSRELEASE=", b"OSRELEASE=6.1", b"OSRELEASE=%s\n", b"OSRELEASE=\n", b"PAGESIZE=4096\n", b"OSRELEASE=6 1\n"],
)
def test_what_is_none(data: bytes) -> None:
    """Format strings of the kernel's own code, cut-off lines and other texts are none."""
    assert parse(data) is None


def test_long_ones_are_bounded() -> None:
    """Millions of lines, a line without an end and numbers of many digits are not followed."""
    many = parse(b"OSRELEASE=6.1\n" + b"".join(b"A%d=1\n" % number for number in range(1 << 18)))
    assert many is not None
    assert len(many.values) <= 1 << 14
    long = parse(b"OSRELEASE=6.1\nX=" + b"1" * 2 * MOST_BYTES)
    assert long is not None
    assert list(long.values) == ["OSRELEASE"]
    digits = parse(b"OSRELEASE=6.1\nNUMBER(x)=" + b"1" * 1000 + b"\n")
    assert digits is not None
    assert digits.number("x") is None
