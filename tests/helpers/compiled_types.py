"""A small program with types like a kernel's, compiled by gcc; pahole makes BTF of them."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

from btf_writer import needs

if TYPE_CHECKING:
    from pathlib import Path

BANNER = "Linux version 6.99.1-test (someone@somewhere) (gcc 12) #1 SMP today"
SOURCE = r"""
struct list_head { struct list_head *next, *prev; };
typedef unsigned int u32;
enum colour { RED, GREEN = 7, BLUE = -3 };
enum wide { SMALL = 1, LARGE = 0x123456789abcULL };
union either { int a; double b; };
typedef struct { short s; const volatile char c[3][5]; } unnamed;
struct odd { char one; int packed : 5; unsigned across : 30; } __attribute__((packed));
struct thing {
    struct list_head list;
    union { struct { u32 low, high; }; unsigned long both; };
    int narrow : 3, other : 9;
    unsigned long long big : 40;
    enum colour colour;
    enum wide wide;
    unnamed inner[4];
    union either either;
    const char *const name;
    float ratio;
    struct { struct { struct { char deep; }; }; };
    struct odd odd;
    struct thing *rest[];
};
struct thing thing;
unnamed also;
struct unknown *pointer;
struct pid { int nr; } pid;
const char linux_banner[] = "BANNER\n";
"""


def linked(folder: Path, *flags: str) -> Path:
    """Return a linked library with the types as BTF (section .BTF) and as DWARF; skip what is not installed."""
    (folder / "thing.c").write_text(SOURCE.replace("BANNER", BANNER))
    command = [needs("gcc"), *flags, "-fPIC", "-shared", "-nostdlib", "-Wl,--build-id=0x0123456789abcdef"]
    subprocess.run([*command, "thing.c", "-o", "thing"], cwd=folder, check=True)
    subprocess.run([needs("pahole"), "-J", "thing"], cwd=folder, check=True)
    return folder / "thing"


def types_alone(program: Path) -> Path:
    """Return a file with the section .BTF of a program."""
    path = program.with_suffix(".btf")
    command = [needs("objcopy"), "-O", "binary", "-j", ".BTF", "--set-section-flags", ".BTF=alloc"]
    subprocess.run([*command, program, path], check=True)
    return path


def without(program: Path, *sections: str) -> Path:
    """Return a copy of a program without some sections."""
    path = program.with_name(f"{program.name}-without")
    subprocess.run([needs("objcopy"), *(f"--remove-section={each}" for each in sections), program, path], check=True)
    return path
