"""A real program of Linux that runs code in private memory, by the core that its kernel wrote."""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING

import pytest

import memcarve
from cores import compiled, crashed
from memcarve.process import Selection
from processes import labels_of

if TYPE_CHECKING:
    from pathlib import Path

#: one thread runs in circles there; another calls from there what waits for ever; a third waits in the C library
PROGRAM = r"""
#define _GNU_SOURCE
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
static void *waits(void *_) { for (;;) pause(); return _; }
int main(int count, char **given) {
    unsigned char *code = mmap(0, 4096, 7, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    unsigned char caller[] = {0x48, 0x83, 0xEC, 8, 0x48, 0xB8, 0, 0, 0, 0, 0, 0, 0, 0, 0xFF, 0xD0, 0x90};
    void *(*target)(void *) = waits;
    pthread_t thread;
    memcpy(caller + 6, &target, 8);
    memcpy(code, "\xEB\xFE", 2);
    memcpy(code + 64, caller, sizeof caller);
    if (count < 2) {
        pthread_create(&thread, 0, (void *(*)(void *))code, 0);
        pthread_create(&thread, 0, (void *(*)(void *))(code + 64), 0);
    }
    pthread_create(&thread, 0, waits, 0);
    printf("%p\n", code);
    fflush(stdout);
    usleep(200000);
    abort();
}
"""


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the code is of x86-64")
def test_threads_of_a_program_that_crashed(tmp_path: Path) -> None:
    """Where one is, and where another will return to, is told; those that run files' code are not."""
    path, said = crashed(compiled(tmp_path, PROGRAM, "-pthread"))
    code = int(said.split()[-1], 16)
    with memcarve.open(path) as container:
        process = container.process()
        flagged = labels_of(process, Selection("all")).flagged
        threads = len(process.threads)
    found = {(row.flag, row.address): row for row in flagged.findings if "in-private" in row.flag}
    assert threads == 4
    assert set(found) == {("thread-in-private", code), ("stack-in-private", code + 64 + 16)}
    assert "behind a call" in found["stack-in-private", code + 64 + 16].why
    assert str(found["thread-in-private", code].severity) == "medium"
