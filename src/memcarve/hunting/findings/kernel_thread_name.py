"""A program of Linux that is called like one of the kernel's threads: ``[kworker/u8:7]``."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from memcarve.errors import printable
from memcarve.hunting.findings.process_check import Check, Remark
from memcarve.labels.severities import Rating
from memcarve.vocabulary import ProcessFlag, Severity, System

if TYPE_CHECKING:
    from collections.abc import Iterable

    from memcarve.hunting.findings.subject import Subject

_BRACKETS = Rating(Severity.MEDIUM, "programs that choose their title may put it into brackets")
#: names of threads that every kernel has, and of its work queues
_NAMES = re.compile(
    r"(kthreadd|pool_workqueue_release|(kworker|ksoftirqd|migration|cpuhp|idle_inject|rcuo[bcgps]|irq|card\d+-crtc)/.*"
    r"|rcu_(sched|bh|preempt|gp|par_gp|tasks\w*|exp\w*)|kswapd\d+|kcompactd\d+|khugepaged|ksmd|oom_reaper|writeback"
    r"|kblockd|kdevtmpfs|kauditd|khungtaskd|kintegrityd|netns|ata_sff|md|edac-poller|devfreq_wq|watchdogd|kthrotld"
    r"|scsi_(eh|tmf)_\d+|jbd2/.*|ext4-rsv-conver|xfs\w*/.*|kstrp|mld|ipv6_addrconf|slub_flushwq|inet_frag_wq)",
    re.DOTALL,
)
_TITLE = re.compile(r"\[([^\]]*)\]", re.DOTALL)
_LONGEST = 80


def look(subject: Subject) -> Iterable[Remark] | None:
    """Return a remark if a program has the name or the command line that lists show of a kernel's thread."""
    entry, family = subject.entry, subject.family
    if subject.system != System.LINUX:
        return None if subject.system is None else ()
    if subject.memory is None or entry.ended or entry.doubts or (entry.unix is not None and entry.unix.kernel_thread):
        return ()
    name = entry.name or ""
    if name in family.kernel_threads or _NAMES.fullmatch(name):
        return [Remark(f"a program is called {printable(name)!r} like a thread of the kernel")]
    first = (subject.command_line or "").partition(" ")[0]
    title = _TITLE.fullmatch(first)
    if title is None:
        return ()
    shown = printable(first[:_LONGEST])
    if title[1] in family.kernel_threads or _NAMES.fullmatch(title[1]):
        return [Remark(f"a program's command line is {shown!r}, as lists show a thread of the kernel")]
    return [Remark(f"a program's command line is {shown!r}: lists show threads of the kernel in brackets", _BRACKETS)]


CHECK = Check(
    ProcessFlag.KERNEL_THREAD_NAME,
    Rating(Severity.HIGH, "the kernel's threads have no program; what takes their name wants to be overlooked"),
    "processes of Linux",
    look,
)
