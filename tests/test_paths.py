"""The last parts of paths, of any system."""

from __future__ import annotations

import pytest

from memcarve.paths import base_name


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/usr/lib/libc.so.6", "libc.so.6"),
        ("\\Windows\\System32\\ntdll.dll", "ntdll.dll"),
        ("C:/Windows/a.exe", "a.exe"),
        ("plain", "plain"),
        ("/memfd:kworker/u8:7", "memfd:kworker/u8:7"),  # a name that its maker chose, not a folder
        ("memfd:kworker/u8:7", "memfd:kworker/u8:7"),
        ("/memfd:", "memfd:"),
        ("/srv/memfd:a/b", "b"),
    ],
)
def test_base_name(path: str, name: str) -> None:
    """Slashes and backslashes divide paths, but for the name of a memfd, which may hold them."""
    assert base_name(path) == name
