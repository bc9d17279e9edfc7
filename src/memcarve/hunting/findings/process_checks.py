"""The flags that are about processes, in the order in which they are looked for; a new one is a line here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcarve.hunting.findings import (
    doubtful_process,
    imitated_name,
    kernel_thread_name,
    missing_parent,
    odd_header,
    unlinked_process,
    wrong_parent,
    wrong_path,
    younger_parent,
)

if TYPE_CHECKING:
    from memcarve.hunting.findings.process_check import Check

CHECKS: tuple[Check, ...] = (
    unlinked_process.CHECK,
    doubtful_process.CHECK,
    imitated_name.CHECK,
    wrong_path.CHECK,
    wrong_parent.CHECK,
    kernel_thread_name.CHECK,
    missing_parent.CHECK,
    younger_parent.CHECK,
    odd_header.CHECK,
)
