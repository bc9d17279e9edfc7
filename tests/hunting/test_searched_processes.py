"""find, scan and strings take a process, several or a container, and say of each hit whose memory it is in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import memcarve
import winimage
from memcarve.errors import UnreadableError, UsageError
from memcarve.process import ProcessMemory
from memcarve.space import AddressSpace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from winimage import Truth

RULE = 'rule mz { strings: $a = "MZ" condition: $a }'


def scanned(where: Any, **how: Any) -> Iterator[Any]:
    """Return what a rule matches."""
    pytest.importorskip("yara_x")
    return memcarve.scan(where, memcarve.Rules.of(RULE), **how)


ASKED: dict[str, Callable[..., Iterator[Any]]] = {
    "find": lambda where, **how: memcarve.find(where, b"MZ", **how),
    "scan": scanned,
    "strings": lambda where, **how: memcarve.strings(where, 8, ["ascii"], **how),
}


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> Truth:
    """Return an image with several processes."""
    return winimage.build(tmp_path_factory.mktemp("usual") / "mem.raw")


@pytest.mark.parametrize("asked", ASKED.values(), ids=ASKED)
def test_one_several_and_all(truth: Truth, asked: Callable[..., Iterator[Any]]) -> None:
    """All of a container are its processes one after another; the kernel's half comes once, last."""
    with memcarve.open(truth.path) as container:
        processes = [container.process(index=index) for index in container.certain()]
        alone = [(each.process.pid, each.hit.address) for process in processes for each in asked(process)]
        assert alone == [(each.process.pid, each.hit.address) for each in asked(processes)]
        told: list[tuple[int, int]] = []
        all_of_it = asked(container, progress=lambda done, total: told.append((done, total)))
        assert alone == [(each.process.pid, each.hit.address) for each in all_of_it]
        assert told == sorted(told)
        assert told[-1] == (told[0][1],) * 2
        assert len({pid for pid, _ in alone}) > 1
        both = [each.is_kernel for each in asked(container, selection=memcarve.Selection("all"))]
        assert both == sorted(both)
        assert both.count(False) == len(alone)
        last, hit, _ = [*asked(processes)][-1]
        limits = memcarve.Selection(address=((hit.address, hit.address + 1),))
        few = [each.hit.address for each in asked(last, selection=limits)]
        assert hit.address in few
        segments = last.segments(limits)
        assert few == [each.hit.address for each in asked(last, segments=segments)]
        with pytest.raises(UsageError, match="one process"):
            asked(processes, segments=segments)


class _Damaged:
    """A backing of which nothing can be read."""

    path = "damaged"
    size = 8192

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Raise what a medium that is damaged raises."""
        raise UnreadableError(f"cannot be read at {offset} ({len(buffer)} bytes)", offset, subject=self.path)


@pytest.mark.parametrize("asked", ASKED.values(), ids=ASKED)
def test_what_cannot_be_read(asked: Callable[..., Iterator[Any]]) -> None:
    """It is told with the process that it is of, or raises UnreadableError."""
    columns = (np.array([value], np.uint64) for value in (0x1000, 8192, 0))
    process = ProcessMemory(AddressSpace(*columns, _Damaged()))  # type: ignore[arg-type]
    with pytest.raises(UnreadableError):
        list(asked(process))
    lost: list[tuple[ProcessMemory, int, int]] = []
    assert list(asked([process], unreadable=lambda *what: lost.append(what))) == []
    assert {each for each, _, _ in lost} == {process}
    assert sum(size for _, _, size in lost) == 8192
