"""Findings about processes: for each a process that shows it, and those that look much the same and do not."""

from __future__ import annotations

import datetime as dt
import itertools
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, strategies as st

from headers import pe_page
from memcarve.hunting.findings.family import Family
from memcarve.hunting.findings.imitated_name import imitated, is_slip
from memcarve.hunting.findings.process_check import Remark
from memcarve.hunting.findings.process_checks import CHECKS
from memcarve.hunting.findings.subject import Subject
from memcarve.hunting.findings.system_programs import FOLDERS
from memcarve.metadata import Metadata, Parameters, Region, Regions
from memcarve.process import ProcessEntry, Unix
from memcarve.vocabulary import ProcessFlag
from memory import PAGE
from processes import RX, R, page_region, process_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memcarve.process import ProcessMemory

_BEGAN = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


def windows(pid: int, name: str, parent: int = 4, minute: int | None = None, **more: object) -> ProcessEntry:
    """Return a process of a Windows machine that began so many minutes after it, by its number if not given."""
    created = _BEGAN + dt.timedelta(minutes=pid if minute is None else minute)
    members = {"listed": True, "ended": False, "root": 0x1000, "image_base": 0x10 * PAGE, **more}
    return ProcessEntry(pid, name, parent, created, **members)  # type: ignore[arg-type]


def linux(pid: int, name: str, parent: int = 1, *, kernel: bool = False, **more: object) -> ProcessEntry:
    """Return a process of a Linux machine."""
    created = _BEGAN + dt.timedelta(minutes=pid)
    members = {"listed": True, "ended": False, "root": None if kernel else 0x1000, **more}
    unix = Unix(kernel_thread=kernel, status="sleeping", found=None if members["listed"] else "search")
    return ProcessEntry(pid, name, parent, created, unix=unix, **members)  # type: ignore[arg-type]


#: the processes that every machine has
WINDOWS = [
    windows(4, "System", 0),
    windows(100, "smss.exe", 4),
    windows(200, "wininit.exe", 190),
    windows(210, "services.exe", 200),
    windows(220, "lsass.exe", 200),
    windows(230, "svchost.exe", 210),
    windows(300, "explorer.exe", 290),
]
LINUX = [
    linux(1, "systemd", 0),
    linux(2, "kthreadd", 0, kernel=True),
    linux(30, "kworker/0:1", 2, kernel=True),
    linux(31, "my-own-thread", 2, kernel=True),
    linux(500, "sshd", 1),
]


def memory_of(program: str | None = None, line: str | None = None, regions: Sequence[Region] = ()) -> ProcessMemory:
    """Return a process's memory of one page, with its program and its command line."""
    rows = [*regions]
    if program is not None:
        rows += [Region(0x10 * PAGE, PAGE, "PAGE_EXECUTE_WRITECOPY", kind="image", file=program)]
    known = Metadata(regions=(Regions("VAD tree", rows),), parameters=(Parameters("PEB", line, program),))
    return process_of({0x10: R}, known)


def found(
    flag: str, entry: ProcessEntry, others: Sequence[ProcessEntry], memory: ProcessMemory | None = None
) -> object:
    """Return what a check remarks of a process, as texts; None if it cannot look."""
    check = next(check for check in CHECKS if check.flag == flag)
    remarks = check.look(Subject(entry, Family([*others, entry]), memory or memory_of()))
    return None if remarks is None else [remark.why for remark in remarks]


def rated(flag: str, entry: ProcessEntry, others: Sequence[ProcessEntry], memory: ProcessMemory | None = None) -> str:
    """Return the severity of the one remark of a check."""
    check = next(check for check in CHECKS if check.flag == flag)
    (remark,) = check.look(Subject(entry, Family([*others, entry]), memory or memory_of())) or ()
    return str((remark.rating or check.rating).severity)


def test_registry() -> None:
    """Every flag of processes is looked for by one check."""
    assert sorted(check.flag for check in CHECKS) == sorted(ProcessFlag)


def test_clean_machines_show_nothing() -> None:
    """The processes that every machine has show nothing."""
    for machine in (WINDOWS, LINUX):
        for entry, check in itertools.product(machine, CHECKS):
            memory = None if entry.unix is not None and entry.unix.kernel_thread else memory_of()
            assert [*(check.look(Subject(entry, Family(machine), memory)) or ())] == [], (entry, check.flag)


def test_nothing_is_said_of_what_is_not_known() -> None:
    """Of a dump, whose list says nothing of parents and lists, no check about them says anything."""
    entry = ProcessEntry(4, "svchost.exe")
    for flag in set(ProcessFlag) - {ProcessFlag.IMITATED_NAME, ProcessFlag.ODD_HEADER}:
        assert found(flag, entry, []) is None, flag


@pytest.mark.parametrize(
    ("flag", "entry", "others", "severity"),
    [
        ("unlinked-process", windows(900, "hidden.exe", listed=False), WINDOWS, "high"),
        ("unlinked-process", linux(900, "hidden", listed=False), LINUX, "high"),
        ("doubtful-process", windows(900, "odd.exe", doubts=("no time of creation",)), WINDOWS, "medium"),
        ("imitated-name", windows(900, "svch0st.exe"), WINDOWS, "high"),
        ("imitated-name", windows(900, "scvhost.exe"), WINDOWS, "medium"),
        ("imitated-name", windows(900, "Isass.exe"), WINDOWS, "high"),
        ("imitated-name", windows(900, "\u0435xplorer.exe"), WINDOWS, "high"),
        ("imitated-name", windows(900, "svchost .exe"), WINDOWS, "high"),
        ("imitated-name", windows(900, "svchost.com"), WINDOWS, "medium"),
        ("imitated-name", windows(900, "lssas.exe"), WINDOWS, "medium"),
        ("wrong-parent", windows(900, "svchost.exe", 300), WINDOWS, "high"),
        ("wrong-parent", windows(900, "LSASS.EXE", 300), WINDOWS, "high"),
        ("missing-parent", windows(900, "tool.exe", 899), WINDOWS, "info"),
        ("missing-parent", windows(900, "svchost.exe", 899), WINDOWS, "medium"),
        ("missing-parent", linux(900, "tool", 899), LINUX, "medium"),
        ("younger-parent", windows(900, "tool.exe", 230, minute=225), WINDOWS, "info"),
        ("younger-parent", linux(400, "tool", 500), LINUX, "low"),
        ("kernel-thread-name", linux(900, "kworker/3:1"), LINUX, "high"),
        ("kernel-thread-name", linux(900, "my-own-thread"), LINUX, "high"),
    ],
)
def test_shown(flag: str, entry: ProcessEntry, others: Sequence[ProcessEntry], severity: str) -> None:
    """What a flag is about has it, and is as urgent as it should be."""
    assert rated(flag, entry, others) == severity


@pytest.mark.parametrize(
    ("flag", "entry", "others"),
    [
        ("unlinked-process", windows(900, "gone.exe", listed=False, ended=True), WINDOWS),
        ("unlinked-process", windows(900, "odd.exe", listed=False, doubts=("no threads",)), WINDOWS),
        ("doubtful-process", windows(900, "odd.exe", listed=False, doubts=("no threads",)), WINDOWS),
        ("doubtful-process", windows(900, "usual.exe"), WINDOWS),
        *(("imitated-name", windows(900, name), WINDOWS) for name in sorted(FOLDERS)),
        *(
            ("imitated-name", windows(900, name), WINDOWS)
            for name in (
                "RuntimeBroker.",
                "SearchIndexer.",
                "service.exe",
                "sms.exe",
                "iexplore.exe",
                "host.exe",
                "",
                "a",
            )
        ),
        ("wrong-parent", windows(900, "svchost.exe", 210), WINDOWS),
        ("wrong-parent", windows(900, "svchost.exe", 899), WINDOWS),
        ("wrong-parent", windows(900, "lsass.exe", 300, minute=1), WINDOWS),
        ("wrong-parent", windows(900, "explorer.exe", 230), WINDOWS),
        ("wrong-parent", windows(900, "lsass.exe", 40), [windows(40, "winlogon.exe", 30)]),
        ("missing-parent", windows(900, "csrss.exe", 899), WINDOWS),
        ("missing-parent", windows(900, "tool.exe", 300), WINDOWS),
        ("missing-parent", linux(900, "tool", 500), LINUX),
        ("younger-parent", windows(900, "tool.exe", 230), WINDOWS),
        ("younger-parent", windows(150, "csrss.exe", 230), WINDOWS),
        ("kernel-thread-name", linux(900, "worker"), LINUX),
        ("kernel-thread-name", linux(900, "kworker/3:1", 2, kernel=True), LINUX),
        ("kernel-thread-name", windows(900, "kworker/3:1"), WINDOWS),
    ],
)
def test_not_shown(flag: str, entry: ProcessEntry, others: Sequence[ProcessEntry]) -> None:
    """What only looks like it has no flag."""
    memory = None if entry.unix is not None and entry.unix.kernel_thread else memory_of()
    check = next(check for check in CHECKS if check.flag == flag)
    remarks = check.look(Subject(entry, Family([*others, entry]), memory))
    assert [*(remarks or ())] == []


def test_a_number_used_twice() -> None:
    """If a parent's number was used again, the one that was there first is the parent."""
    first, second = windows(700, "services.exe", 200, minute=5), windows(700, "other.exe", 300, minute=950)
    child = windows(900, "svchost.exe", 700)
    assert found("wrong-parent", child, [*WINDOWS, first, second]) == []
    assert found("younger-parent", child, [*WINDOWS, second]) != []
    assert found("younger-parent", child, [*WINDOWS, first, second]) == []


def test_a_damaged_list_makes_unlinked_processes() -> None:
    """If the system's list is damaged, what is in no list is worth little."""
    entry = windows(900, "hidden.exe", listed=False)
    check = next(check for check in CHECKS if check.flag == "unlinked-process")
    (remark,) = check.look(Subject(entry, Family([entry], damaged=True), memory_of())) or ()
    assert remark.rating is not None
    assert remark.rating.severity == "low"


@pytest.mark.parametrize(
    ("name", "program", "severity"),
    [
        ("svchost.exe", "\\Windows\\System32\\svchost.exe", None),
        ("svchost.exe", "\\Windows\\SysWOW64\\svchost.exe", None),
        ("svchost.exe", "\\Device\\HarddiskVolume3\\WINDOWS\\system32\\svchost.exe", None),
        ("svchost.exe", "C:\\Windows\\System32\\svchost.exe", None),
        ("explorer.exe", "\\Windows\\explorer.exe", None),
        ("WmiPrvSE.exe", "\\Windows\\System32\\wbem\\WmiPrvSE.exe", None),
        ("RuntimeBroker.", "\\Windows\\System32\\RuntimeBroker.exe", None),
        ("tool.exe", "\\Temp\\tool.exe", None),
        ("svchost.exe", "\\Users\\Public\\svchost.exe", "high"),
        ("svchost.exe", "\\Windows\\svchost.exe", "high"),
        ("explorer.exe", "\\Windows\\System32\\explorer.exe", "high"),
        ("lsass.exe", "\\layers\\1\\Windows\\System32\\lsass.exe", "medium"),
    ],
)
def test_wrong_path_on_windows(name: str, program: str, severity: str | None) -> None:
    """A system program lies in the system's folder, on any volume; elsewhere it is remarkable."""
    entry, memory = windows(900, name, 210), memory_of(program)
    if severity is None:
        assert found("wrong-path", entry, WINDOWS, memory) == []
    else:
        assert rated("wrong-path", entry, WINDOWS, memory) == severity


def test_another_folder_of_the_system() -> None:
    """If the system was installed in another folder, that is where its library lies."""
    native = page_region(0x20, 1, "PAGE_EXECUTE_WRITECOPY", kind="image", file="\\WINNT.0\\System32\\ntdll.dll")
    memory = memory_of("\\WINNT.0\\System32\\svchost.exe", regions=[native])
    assert found("wrong-path", windows(900, "svchost.exe", 210), WINDOWS, memory) == []


@pytest.mark.parametrize(
    ("name", "line", "program", "severity"),
    [
        ("sshd", "/usr/sbin/sshd -D", "/usr/sbin/sshd", None),
        ("sshd", "sshd: user", "/usr/sbin/sshd (deleted)", None),
        ("sshd", "sshd -D", "/data/own/sshd", None),
        ("tool", "tool", "/tmp/tool (deleted)", None),  # noqa: S108 - a name
        ("sshd", "sshd -D", "/memfd:x (deleted)", "high"),
        ("tool", "sshd: user", "/memfd:x (deleted)", "high"),
        ("cron", "cron", "/srv/cron (deleted)", "high"),
        ("cron", "cron", "/dev/shm/cron", "medium"),  # noqa: S108 - a name
        ("cron", "cron", "/opt/.hidden/cron", "medium"),
    ],
)
def test_wrong_path_on_linux(name: str, line: str, program: str, severity: str | None) -> None:
    """A daemon's name is free, but its program lies where packages lie, if it may have been replaced since."""
    entry = linux(900, name)
    known = Metadata(parameters=(Parameters("mm_struct", line, program),))
    memory = process_of({0x10: R}, known)
    if severity is None:
        assert found("wrong-path", entry, LINUX, memory) == []
    else:
        assert rated("wrong-path", entry, LINUX, memory) == severity


@pytest.mark.parametrize(
    ("line", "severity"),
    [
        ("[kworker/u8:7] sleep", "high"),
        ("[my-own-thread]", "high"),
        ("[whatever]", "medium"),
        ("[lxc monitor] /var/lib/lxc", None),
        ("kworker", None),
        ("", None),
    ],
)
def test_kernel_threads_in_brackets(line: str, severity: str | None) -> None:
    """A command line in brackets is what lists show of the kernel's threads."""
    entry, memory = linux(900, "tool"), memory_of("/usr/bin/tool", line)
    if severity is None:
        assert found("kernel-thread-name", entry, LINUX, memory) == []
    else:
        assert rated("kernel-thread-name", entry, LINUX, memory) == severity


@given(st.sampled_from(sorted(FOLDERS)), st.data())
def test_one_slip_is_found(name: str, data: st.DataObject) -> None:
    """Any one letter of a long name that is more, less or other, or two that are exchanged, is a slip."""
    stem = name.removesuffix(".exe")
    at = data.draw(st.integers(0, len(stem) - 1))
    letter = data.draw(st.sampled_from("abcdefghkmnpqrstuvwxyz"))
    changed = {
        stem[:at] + letter + stem[at + 1 :],
        stem[:at] + stem[at + 1 :],
        stem[:at] + letter + stem[at:],
        stem[:at] + stem[at : at + 2][::-1] + stem[at + 2 :],
    } - {stem}
    if len(stem) >= 6:
        assert all(is_slip(each, stem) for each in changed)


@given(st.text(max_size=60))
def test_any_name_is_taken(name: str) -> None:
    """No name, whatever it holds, is too much; what is found is a system program."""
    found = imitated(name)
    assert found is None or (found[0] in FOLDERS and name.lower() not in FOLDERS)


def test_odd_headers() -> None:
    """A header in a data file is remarkable, more so if it may run; at an image's base it is none."""
    rows = [
        page_region(0x10, 2, "PAGE_EXECUTE_WRITECOPY", kind="image", file="\\a.dll"),
        page_region(0x20, 1, "PAGE_READONLY", kind="mapped", file="\\b.dat"),
        page_region(0x30, 1, "PAGE_EXECUTE_READ", kind="mapped", file="\\c.dat"),
        page_region(0x40, 1, "PAGE_READWRITE", kind="private"),
    ]
    pages = {0x10: R, 0x11: R, 0x20: R, 0x30: RX, 0x40: R}
    header = bytes(pe_page())
    memory = process_of(pages, Metadata(regions=(Regions("VAD tree", rows),)), dict.fromkeys(pages, header))
    check = next(check for check in CHECKS if check.flag == "odd-header")
    remarks = [*(check.look(Subject(windows(900, "x.exe"), Family(WINDOWS), memory)) or ())]
    assert [
        (each.address, str((each.rating or check.rating).severity)) for each in remarks if isinstance(each, Remark)
    ] == [
        (0x11 * PAGE, "info"),
        (0x20 * PAGE, "info"),
        (0x30 * PAGE, "medium"),
    ]
