"""README.txt: how to run each of the scripts."""

from __future__ import annotations

NAME = "README.txt"

TEXT = """\
These scripts map a memory dump as it lies, at the addresses that it was taken from. They copy nothing and change
nothing; memory.json says which file they map, and where in it each address lies. They were written by
memcarve {version}.

The file that memory.json calls "original" is looked for at the same path relative to this folder, then where it was.
The Python scripts map nothing unless it has the same length, the same SHA-256 over 64 blocks of 4096 bytes spread
evenly over it, including the first and the last bytes, and the same SHA-256 as a whole if that was known. Other changes
are not noticed. radare2 and rizin can check only the length: make sure yourself that DUMP, as it is called below, is
the right file.

radare2        r2 -n -i map.r2 DUMP
rizin          rizin -n -i map.rz DUMP
IDA            ida -t -S/path/to/map_ida.py      (an empty database; or File > Script file... in one)
Ghidra         import DUMP as "Raw Binary" with the language of its processor (x86:LE:64:default, x86:LE:32:default,
               AARCH64:LE:64:v8A, ARM:LE:32:v8), do not analyse it, and run map_ghidra.py from the Script Manager; or
               analyzeHeadless PROJECTS NAME -import DUMP -loader BinaryLoader -processor x86:LE:64:default
               -noanalysis -scriptPath . -postScript map_ghidra.py
gdb            gdb -x map_gdb.py                 (then x/16xb ADDRESS, x/8i ADDRESS, memory-map, memory-map ADDRESS;
               needs python3 and a shell: Linux, macOS; of ARM64 and ARM: gdb-multiarch)
Binary Ninja   File > Run Script... > map_binja.py, or import it in a script; the view is called view

Access comes from the page tables if the dump has them, otherwise from the region; write-copy counts as writing. If it
is not known, IDA is told so, and the other programs are told that everything is allowed. radare2 and rizin read only
what is mapped readable, so all of it is. If the processor is not known, gdb takes it for x86, and you must choose it in
the others.

Names come from the dump, which may be hostile. In these scripts they are data.
"""
