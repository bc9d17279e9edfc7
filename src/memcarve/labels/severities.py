"""How soon each flag deserves a look, and why; ``docs/labels.md`` repeats it in the same words."""

from __future__ import annotations

from typing import NamedTuple

from memcarve.vocabulary import Flag, Severity


class Rating(NamedTuple):
    """A severity, and its reason in words."""

    severity: Severity
    reason: str


#: how urgent each severity is: 0 is the worst
RANKS: dict[str, int] = {word: rank for rank, word in enumerate(Severity)}

#: what the findings of each flag deserve
RATINGS = {
    Flag.PRIVATE_EXECUTABLE: Rating(
        Severity.MEDIUM, "there is no file to compare the code with, but every run-time compiler makes such memory"
    ),
    Flag.WRITABLE_EXECUTABLE: Rating(
        Severity.MEDIUM, "careful software avoids it, but older run-time compilers and packed programs do not"
    ),
    Flag.PE_IN_PRIVATE: Rating(
        Severity.MEDIUM, "a program that was loaded by hand looks so, and so does any program file that was only read"
    ),
    Flag.ELF_IN_PRIVATE: Rating(
        Severity.MEDIUM, "a program that was loaded by hand looks so, and so does any program file that was only read"
    ),
    Flag.BEYOND_SECTION: Rating(
        Severity.MEDIUM, "code was patched, or made ready for it, but security products and overlays do that to many"
    ),
    Flag.MODULE_UNLISTED: Rating(
        Severity.LOW, "images that are mapped for their resources alone are in no list, and many processes have some"
    ),
    Flag.ENTRY_UNMAPPED: Rating(
        Severity.MEDIUM, "a program was replaced, or an entry forged, unless a library was being unloaded just then"
    ),
    Flag.WIPED_HEADER: Rating(
        Severity.MEDIUM, "a header is removed to hide code, but packers and copy protection have the same wish"
    ),
    Flag.EXECUTABLE_STACK: Rating(
        Severity.MEDIUM, "no compiler asks for it any more, but one old library is enough to give it to a whole process"
    ),
    Flag.MEMFD_EXECUTABLE: Rating(
        Severity.MEDIUM,
        "code that never touched a disk looks so, but container runtimes and run-time compilers do, too",
    ),
    Flag.DELETED_EXECUTABLE: Rating(
        Severity.LOW, "after an upgrade of packages, whatever has not been started again looks so"
    ),
    Flag.PRELOADED_LIBRARY: Rating(
        Severity.MEDIUM, "it can replace any function, but allocators, sanitizers and wrappers are loaded the same way"
    ),
    Flag.TEXT_DIFFERS: Rating(
        Severity.HIGH, "code that all share was changed in one process, which little but hooks and debuggers does"
    ),
    Flag.MODULE_UNLINKED: Rating(
        Severity.HIGH, "the loader itself keeps its lists in step, so somebody else took the module out of one"
    ),
    Flag.THREAD_IN_PRIVATE: Rating(
        Severity.HIGH, "programs begin their threads in files, and injected code begins its own where it lies"
    ),
    Flag.STACK_IN_PRIVATE: Rating(
        Severity.MEDIUM, "code that no file backs was called and is still waiting, as all run-time compiled code is"
    ),
    Flag.HOLLOWED: Rating(
        Severity.HIGH, "what runs is not the program that the process was made from, which no system does by itself"
    ),
}

#: what findings deserve that mean less than others of their flag: a module that only initialization order lacks,
NOT_INITIALISED = Rating(Severity.LOW, "libraries that are mapped without being initialised are never in that list")
#: a thread whose next instruction is what is in private memory, and one that begins where nothing is,
AT_INSTRUCTION = Rating(Severity.MEDIUM, "it is there just now, as threads are that run what was compiled at run time")
NOTHING_THERE = Rating(
    Severity.MEDIUM, "a thread that has ended, or a library that was unloaded, leaves such an address behind"
)
#: code of which as many processes have the one as the other,
AS_MANY = Rating(Severity.MEDIUM, "as many processes have the other bytes: nothing tells which are the file's")
#: and a program without a name
NAMELESS = Rating(Severity.MEDIUM, "the name may be what cannot be read")
