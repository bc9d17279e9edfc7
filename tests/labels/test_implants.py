"""What is planted in processes of synthetic Windows images is flagged, in every layout, and nothing else is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import memcarve
import winimage
from memcarve.process import Selection
from memory import PAGE
from processes import labels_of
from winimage import implants

if TYPE_CHECKING:
    from pathlib import Path

    from memcarve.labels import SegmentLabels
    from memcarve.process import Container

Found = dict[int, set[tuple[str, int, str]]]

COMPARED = ("text-differs", "hollowed")
PROGRAM, LIBRARY, HOOKED = implants.PROGRAM, implants.LIBRARY, implants.ELSEWHERE + 2 * PAGE
#: flag, address and severity of each finding, by the number of the process
EXPECTED: Found = {
    1000: {("text-differs", LIBRARY + 2 * PAGE, "high")},
    1004: {("module-unlinked", LIBRARY, "high")},
    1008: {("module-unlinked", LIBRARY, "low")},
    1012: {("thread-in-private", implants.BEGIN, "high")},
    1016: {("thread-in-private", 0x66660000, "medium")},
    1020: {("stack-in-private", implants.RETURN, "medium")},
    1024: {
        ("hollowed", PROGRAM, "high"),
        ("entry-unmapped", PROGRAM, "medium"),
        ("thread-in-private", PROGRAM + PAGE, "high"),
    },
    # the data that the other header does not know is beyond its sections
    1028: {("hollowed", PROGRAM, "high"), ("beyond-section", PROGRAM + 20 * PAGE, "medium")},
    1032: {("hollowed", PROGRAM, "high")},
    1036: {("hollowed", 0x150000000, "high")},
    1040: {("text-differs", HOOKED, "high")},
    1044: {("text-differs", HOOKED, "high")},
}


def labels_in(container: Container, pid: int, flags: tuple[str, ...] = COMPARED) -> SegmentLabels:
    """Return the labels of a process's segments."""
    return labels_of(container.process(index=container.choose([pid])[0], half="user"), Selection(flag=flags))


def findings_in(container: Container, pids: object, flags: tuple[str, ...] = COMPARED) -> Found:
    """Return the findings of processes, as `EXPECTED` has them; of those without any nothing."""
    found = {}
    for pid in pids:  # type: ignore[attr-defined]
        rows = labels_in(container, pid, flags).flagged.findings
        found[pid] = {(row.flag, row.address, str(row.severity)) for row in rows}
    return {pid: rows for pid, rows in found.items() if rows}


@pytest.mark.parametrize("layout", range(winimage.LAYOUTS))
def test_what_is_planted_is_found(layout: int, tmp_path: Path) -> None:
    """Each process has the findings of what was planted in it; those without anything have none."""
    truth = winimage.build(tmp_path / "mem.raw", layout=layout, processes=implants.plans())
    with memcarve.open(truth.path) as container:
        pids = [entry.pid for entry in container.processes() if entry.pid != 4]
        assert set(pids) == {*implants.CLEAN, *implants.PLANTED}
        assert findings_in(container, pids) == EXPECTED


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the path of an image with everything planted."""
    path = tmp_path_factory.mktemp("implants") / "mem.raw"
    return winimage.build(path, processes=implants.plans()).path


def test_without_anything_there_is_nothing(tmp_path: Path) -> None:
    """Of processes that are as they should be no flag says anything, nor do its words."""
    truth = winimage.build(tmp_path / "mem.raw", processes=implants.plans([800, 804, 808, 812]))
    with memcarve.open(truth.path) as container:
        assert findings_in(container, implants.CLEAN.keys() - {816}) == {}
        for pid in (800, 812):
            flagged = labels_in(container, pid).flagged
            assert {"text-differs", "hollowed", "module-unlinked", "thread-in-private"} <= set(flagged.where)
            assert not any(len(where) for where in flagged.where.values())


def test_evidence_is_in_words(planted: str) -> None:
    """A finding names what it found, where, and how many processes have it otherwise."""
    wanted = {
        1000: [r"\Windows\System32\library-1.dll (offset 0x2000) is not what 16 other processes have there; 1 have"],
        1004: ["PEB lists library-1.dll, but not in load order"],
        1008: ["PEB lists library-1.dll, but not in initialization order"],
        1012: ["thread 1028 begins at 0x2a0040, in private memory that no file backs"],
        1016: ["thread 1032 begins at 0x66660000, where nothing is mapped"],
        1020: ["the stack of thread 1028 returns (at 0x1f002ffe28) to 0x2a0127, behind a call"],
        1024: ["private memory lies at the image base, not an image"],
        1028: ["claims 81920 bytes, but \\Temp\\plain.exe was mapped with 98304", "14 other processes have"],
        1032: ["not what 14 other processes have of \\Temp\\plain.exe (time stamp); 1 have this one"],
        1036: ["the PEB says that the program is at 0x150000000, the kernel that it is at 0x140000000"],
    }
    with memcarve.open(planted) as container:
        for pid, parts in wanted.items():
            words = " | ".join(row.why for row in labels_in(container, pid).flagged.findings)
            assert all(part in words for part in parts), words


def test_what_is_not_in_a_segment_is_a_note(planted: str) -> None:
    """Where nothing is mapped no segment can show it."""
    with memcarve.open(planted) as container:
        notes = {pid: labels_in(container, pid).notes for pid in (1016, 1036)}
    assert "thread-in-private: 0x66660000: thread 1032 begins at 0x66660000, where nothing is mapped" in notes[1016]
    assert any(note.startswith("hollowed: 0x150000000: the PEB says") for note in notes[1036])


@pytest.mark.parametrize(
    ("pids", "words"),
    [
        # nobody has the directory in memory
        ([800, 804, 808, 1044], "but for numbers that differ as the images' addresses do"),
        # another process has it
        ([800, 804, 808, 812, 1044], "at the places of its relocation directory"),
        ([800, 804, 808, 1040], "at the places of its relocation directory"),
    ],
)
def test_relocations_are_accounted_for(tmp_path: Path, pids: list[int], words: str) -> None:
    """By the directory if any process has it in memory, else by the difference of addresses; the hook is found."""
    truth = winimage.build(tmp_path / "mem.raw", processes=implants.plans(pids))
    with memcarve.open(truth.path) as container:
        expected = {pid: EXPECTED[pid] for pid in pids if pid >= 1000}
        assert findings_in(container, pids) == expected
        why = labels_in(container, pids[-1]).flagged.findings[0].why
    assert f"is not what {len(pids) - 1} other processes have there; 1 have" in why
    assert words in why


def test_the_others_are_opened_only_if_it_is_wanted(planted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a flag for which processes are compared, none but the process itself is opened."""
    with memcarve.open(planted) as container:
        process = container.process(index=container.choose([1032])[0], half="user")
        monkeypatch.setattr(container, "process", None)
        found = labels_of(process, Selection(flag=["module-unlinked"])).flagged
    assert [row.flag for row in found.findings] == []
    assert "hollowed" in found.where
    assert "text-differs" not in found.where


def test_segments_are_chosen_by_them(planted: str) -> None:
    """Segments with such a flag are those that hold its addresses."""
    with memcarve.open(planted) as container:
        for pid, rows in EXPECTED.items():
            process = container.process(index=container.choose([pid])[0], half="user")
            for flag, address, _ in rows - {
                ("thread-in-private", 0x66660000, "medium"),
                ("hollowed", 0x150000000, "high"),
            }:
                chosen = process.segments(flag=[flag], labeller=memcarve.Labelling())
                # a program whose first page is not there has none
                assert any(each.start <= address < each.end for each in chosen), (pid, flag)
