"""A program with a system program's name that lies elsewhere than that."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from memcarve.errors import printable
from memcarve.hunting.findings.process_check import Check, Remark
from memcarve.hunting.findings.system_programs import DAEMONS, FOLDERS, called, is_loose, is_of_packages
from memcarve.labels.linux_flags import is_memory
from memcarve.labels.severities import Rating
from memcarve.linux_mappings import DELETED
from memcarve.paths import base_name
from memcarve.vocabulary import ProcessFlag, Severity, System

if TYPE_CHECKING:
    from collections.abc import Iterable

    from memcarve.hunting.findings.subject import Subject

_COPY = Rating(Severity.MEDIUM, "copies of the system's folder have the same end: containers, updates, backups")
_OWN = Rating(Severity.MEDIUM, "developers run daemons that they have built, and users may call a program anything")
#: what may stand before the path of the system's folder
_VOLUME = r"(\\\?\?\\)?([a-z]:|\\device\\harddiskvolume\d+)?"
_LONGEST = 200


def look(subject: Subject) -> Iterable[Remark] | None:
    """Return a remark if the program's path is known, and is another than that of the program it is called like."""
    system, program = subject.system, subject.program
    if subject.entry.doubts or subject.entry.ended:
        return ()
    if system is None or (program is None and subject.memory is not None):
        return None
    if program is None:
        return ()
    return _on_linux(subject, program) if system == System.LINUX else _on_windows(subject, program)


def _on_windows(subject: Subject, program: str) -> Iterable[Remark]:
    name = called(subject.entry.name or "")
    if name is None:
        return ()
    path, folder = program.replace("/", "\\").lower(), FOLDERS[name]
    folders = [rf"\\windows{re.escape(folder)}", *([r"\\windows\\syswow64\\"])]
    ends = "(" + "|".join(folders) + ")" + re.escape(name)
    if re.fullmatch(_VOLUME + ends, path) or path == _native_folder(subject) + name:
        return ()
    why = f"{name} is {printable(program[:_LONGEST])}, not below \\Windows{folder}"
    return [Remark(why, _COPY if re.search(ends + "$", path) or "\\winsxs\\" in path else None)]


def _native_folder(subject: Subject) -> str:
    """Return the folder of the process's ntdll.dll, in small letters: where the system's own programs lie."""
    known = subject.known
    files = [] if known is None else [row.file.lower() for row in known.regions if row.file is not None]
    native = next((file for file in files if file.endswith("\\system32\\ntdll.dll")), "")
    return native.removesuffix("ntdll.dll")


def _on_linux(subject: Subject, program: str) -> Iterable[Remark]:
    first = (subject.command_line or "").partition(" ")[0].rstrip(":")
    names = [subject.entry.name or "", base_name(first)]
    name = next((each for each in names if each in DAEMONS), None)
    if name is None:
        return ()
    shown = printable(program[:_LONGEST])
    if is_memory(program):
        return [Remark(f"it is called {name}, and its program is memory that no disk holds ({shown})")]
    path = program.removesuffix(DELETED)
    if path != program and not is_of_packages(path):
        return [Remark(f"it is called {name}, and its program was deleted ({shown})")]
    if is_loose(path):
        return [Remark(f"it is called {name}, and its program is {shown}", _OWN)]
    return ()


CHECK = Check(
    ProcessFlag.WRONG_PATH,
    Rating(Severity.HIGH, "system programs lie in one place; what goes by their name elsewhere wants to be overlooked"),
    "the paths of programs by the system's own word, as an image has them",
    look,
)
