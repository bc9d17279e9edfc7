"""Honest causes of each flag, in short; ``docs/labels.md`` and ``docs/hunting.md`` have these words and more."""

from __future__ import annotations

from memcarve.vocabulary import Flag, ProcessFlag

#: what else than an attack makes memory, or a process, look so
BENIGN: dict[str, tuple[str, ...]] = {
    Flag.PRIVATE_EXECUTABLE: (
        (
            "Compilers that work while the program runs: .NET, JavaScript (browsers, Electron, Office add-ins), "
            "Java, Lua, "
            "regular expressions, database queries, shaders."
        ),
        "Security products and overlays that redirect functions put their code there.",
        "Packers and copy protection.",
        "Emulators and debuggers.",
    ),
    Flag.WRITABLE_EXECUTABLE: (
        (
            "Older run-time compilers, packers, copy protection; old programs with a section that is both writable and "
            "executable; security products that left their hooks so"
        ),
    ),
    Flag.PE_IN_PRIVATE: (
        "Files that were only read: downloads, attachments, installers, resource editors, antivirus scanners",
        ".NET assemblies that were loaded from an array of bytes.",
        "Loaders that read instead of mapping: Wine, plug-in hosts, some games and copy protection.",
        "Debuggers, and memory analysis tools themselves.",
    ),
    Flag.BEYOND_SECTION: (
        (
            "Security products, compatibility shims, overlays and profilers that hook functions and leave the page "
            "writable."
        ),
        "Packers and copy protection, which unpack into their own sections.",
        "Pages caught while the loader relocates or binds them.",
    ),
    Flag.MODULE_UNLISTED: (
        (
            "Images that are mapped but not loaded: for their resources or version (LoadLibraryEx as an image "
            "resource), "
            "by analysis tools and installers, by .NET for its assemblies"
        ),
        "A process that is being made or ended.",
    ),
    Flag.ENTRY_UNMAPPED: (
        "A library that was unloaded while the image was taken.",
        "Entries of a damaged list that were believed because their neighbours agree.",
    ),
    Flag.WIPED_HEADER: (
        "Packers, copy protection and security products do it for the same reason.",
        "A first page whose content was lost and that is zeros in the image.",
    ),
    Flag.ELF_IN_PRIVATE: (
        (
            "Files that were only read: linkers, debuggers, package managers, profilers (perf), antivirus "
            "scanners, and "
            "programs that look for symbols in themselves when they crash (Go, Rust)."
        ),
        "Packers such as UPX, emulators such as qemu-user, and loaders that read instead of mapping",
    ),
    Flag.EXECUTABLE_STACK: (
        (
            "a program or library that is linked so: assembly without the section `.note.GNU-stack`, nested "
            "functions in C "
            "(GCC's trampolines), old programs"
        ),
    ),
    Flag.MEMFD_EXECUTABLE: (
        "Container runtimes, which copy themselves there first",
        "Run-time compilers that map their code twice, once to write and once to run",
        "Snap and Flatpak helpers.",
    ),
    Flag.DELETED_EXECUTABLE: (
        "a package upgrade: whatever ran before it still runs the old, deleted files until it is started again.",
        (
            "Containers whose image was removed; build and test directories; libffi and run-time compilers that delete "
            "their temporary file."
        ),
    ),
    Flag.PRELOADED_LIBRARY: (
        (
            "Allocators (jemalloc, tcmalloc), sanitizers, fakeroot, faketime, stdbuf, proxychains, snap's and Steam's "
            "wrappers, tracing agents."
        ),
    ),
    Flag.TEXT_DIFFERS: (
        "Debuggers and tracers (breakpoints, uprobes), live patching of user programs, hot patches",
        "Security products and overlays hook functions of most processes, but not of all.",
        "Copy protection, which decrypts its own code.",
        "A file that was overwritten in place while it is mapped",
    ),
    Flag.MODULE_UNLINKED: (
        "A list that changed while the image was taken.",
        "Copy protection and loaders of plug-ins that hide their libraries.",
    ),
    Flag.THREAD_IN_PRIVATE: (
        "Packers and copy protection, which unpack a program and begin its threads there.",
        "Programs that are loaded by hand (plug-in hosts, emulators, Wine, old .NET hosts).",
        "A thread that is at an instruction of a run-time compiler's",
    ),
    Flag.STACK_IN_PRIVATE: (
        "run-time compilers (browsers, .NET, Java) are on the stacks of all of their threads.",
        "Words that were left behind by calls that have ended",
        "Callbacks and trampolines of foreign-function interfaces (libffi, ctypes).",
    ),
    Flag.HOLLOWED: (
        "Packers and copy protection that rewrite their own header in memory.",
        "A file that was replaced by one of the same size while an older process still runs.",
    ),
    ProcessFlag.UNLINKED_PROCESS: (
        (
            "The image was taken while the machine ran: what began or ended in that time is in one place and not "
            "yet, or "
            "no longer, in another."
        ),
        "What remains of a process that ended without a trace of it.",
    ),
    ProcessFlag.DOUBTFUL_PROCESS: (
        "The image was taken while the machine ran, and the process began or ended in that time",
        "memory that was damaged or is missing in the image",
    ),
    ProcessFlag.IMITATED_NAME: ("Programs of other makers whose names happen to be close",),
    ProcessFlag.WRONG_PATH: (
        "On Windows, copies of its folder: containers, updates, backups",
        "On Linux, daemons that were built by their users; a program may have any name.",
    ),
    ProcessFlag.WRONG_PARENT: ("Developers and administrators who start a service's program by hand; sandboxes.",),
    ProcessFlag.KERNEL_THREAD_NAME: (
        "Programs that choose such a title.",
        "Helpers that the kernel itself starts have its thread's name for a moment, before their program runs.",
    ),
    ProcessFlag.MISSING_PARENT: (
        "On Windows it is everyday: launchers, installers and shells end before what they started.",
    ),
    ProcessFlag.YOUNGER_PARENT: (
        "launchers, installers and shells end before what they started.",
        "On Linux, a clock or a number that was changed.",
    ),
    ProcessFlag.ODD_HEADER: (
        (
            "Files that are read for their resources, versions or symbols: icons, languages, installers, debuggers, "
            "antivirus scanners; programs that carry others with them."
        ),
    ),
}
