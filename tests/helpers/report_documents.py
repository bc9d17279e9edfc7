"""Documents of reports as memcarve writes them, for tests of the page alone: small, hostile, large."""

from __future__ import annotations

import base64
import random
from typing import Any

PAGE = 4096
EXE, DLL = "C:\\Users\\a\\target.exe", "C:\\Windows\\System32\\ntdll.dll"
REGIONS = (0x7FFE0000, 0xA02F500000, 0x17F00000000, 0x17F0D100000, 0x7DF400000000, 0x7FF6A2200000, 0x7FFA12200000)
#: what a page must show as text and never run, load, or let turn the text around it
HOSTILE = '</script><script>window.owned=1</script><img src=x onerror="window.owned=1">&lt;b&gt;\u202egpj.exe\x00'


def encoded(values: list[Any]) -> dict[str, list[Any]]:
    """Return a column as a list of its values and a code for each row."""
    known = list(dict.fromkeys(values))
    codes = {value: code for code, value in enumerate(known)}
    return {"values": known, "codes": [codes[value] for value in values]}


def report(*processes: dict[str, Any], **members: Any) -> dict[str, Any]:
    """Return a document of some processes."""
    return {
        "schema": 1,
        "kind": "memcarve-report",
        "title": "mem.raw",
        "created": "2026-11-30T01:02:03Z",
        "tool": {"name": "memcarve", "version": "0.1.0"},
        "processes": list(processes),
        "bytes": {"embedded": sum(len(each["first_bytes"]) * 256 for each in processes), "limit": 1 << 20},
        "provenance": {
            "tool": "memcarve",
            "what": "report",
            "version": "0.1.0",
            "time": "2026-11-30T01:02:03Z",
            "case_id": None,
            "operator": None,
            "complete": True,
            "notes": [],
            "options": {"content": "full", "split": "none", "sha256": True, "max_bytes": 1 << 20},
            "command": ["memcarve", "report", "mem.raw", "-o", "case.html"],
            "inputs": [{"role": "image", "path": "mem.raw", "size": 8 << 30, "sha256": "5f" * 32}],
            "run": {"begin": "2026-11-30T01:02:00Z", "end": "2026-11-30T01:02:03Z", "host": "analysis-3"},
        },
        **members,
    }


def process(pid: int = 1624, name: str = "target.exe", ppid: int = 700, **members: Any) -> dict[str, Any]:
    """Return a process of a program, a library, a heap, stacks and a piece of injected code."""
    rows = _rows()
    count = len(rows)
    starts, sizes = [f"0x{row[0]:x}" for row in rows], [row[1] for row in rows]
    injected = next(i for i, row in enumerate(rows) if row[2] == "rwx")
    main = next(i for i, row in enumerate(rows) if row[4] == EXE)
    draw = random.Random(pid)  # noqa: S311 - data
    path = f"C:\\Users\\a\\{name}"
    named = ["private-executable, writable-executable" if i == injected else None for i in range(count)]
    flags = [
        _flag("private-executable", "high", starts[injected], injected, sizes[injected])
        | {
            "why": "private memory that may be executed, and no file behind it",
            "reason": "few programs make such memory",
            "benign": ["compilers at run time (.NET, JavaScript)"],
            "evidence": {"address": starts[injected], "bytes": "fc4883e4f0e8", "runs": True, "architecture": "x64"},
        },
        _flag("writable-executable", "medium", starts[injected], injected),
        _flag("module-unlinked", "low", "0x7ffa12200000", None),
    ]
    found = {
        "pid": pid,
        "ppid": ppid,
        "name": name,
        "state": None,
        "doubts": [],
        "error": None,
        "incomplete": False,
        "started": "2026-11-29T22:10:11Z",
        "exited": None,
        "command_line": f'"{path}" -q',
        "path": path,
        "bits": 64,
        "architecture": "x64",
        "system": "windows",
        "address_bits": 48,
        "looked_at": "user",
        "kernel_half": "0x8000000000000000",
        "notes": [],
        "flags_counted": [],
        "flags_looked_for": [],
        "totals": {
            "segments": count,
            "regions": 7,
            "modules": 2,
            "threads": 2,
            "flags": 3,
            "flagged_segments": 1,
            "bytes": sum(sizes),
            "missing_bytes": 0,
            "not_in_memory_bytes": 0x6000,
        },
        "segments": {
            "start": starts,
            "size": sizes,
            "extents": [1] * count,
            "offset": [0] * count,
            "permissions": encoded([f"u{row[2]}" for row in rows]),
            **{
                word: encoded([row[i] for row in rows])
                for i, word in enumerate(("protection", "kind", "file", "content"), 2)
            },
            "entropy": [row[6] for row in rows],
            "sha256": [f"{draw.getrandbits(256):064x}" for _ in rows],
            "flags": [[0, 1] if i == injected else [] for i in range(count)],
            "flagged": encoded(named),
        },
        "entropy_along": {
            str(injected): [round(5 + 3 * draw.random(), 2) for _ in range(32)],
            str(main): [1.2, 6.1, 6.0, 5.5, 4.1, 0],
        },
        "first_bytes": {
            str(injected): _base64(bytes.fromhex("fc4883e4f0e8c0000000415141505251") + draw.randbytes(240)),
            str(main): _base64(b"MZ\x90\0\3\0\0\0\4\0\0\0\xff\xff\0\0" + draw.randbytes(240)),
        },
        "header": {
            str(main): {
                "kind": "PE",
                "address": "0x7ff6a2200000",
                "machine": "x64",
                "type": "exe",
                "size": 0x60000,
                "timestamp": 1515932733,
                "sections": [{"address": "0x7ff6a2201000", "size": 0x2F000, "permissions": "r-x"}],
            }
        },
        "regions": {
            "start": [f"0x{start:x}" for start in REGIONS],
            "size": [PAGE, 0x100000, 0x30000, 0x100000, 0x20000000000, 0x60000, 0x1F8000],
            "protection": encoded(["r--", "rw-", "rwx", "rw-", "r--", "rcx", "rcx"]),
            "kind": encoded(["private", "stack", "private", "heap", "mapped", "image", "image"]),
            "file": encoded([None, None, None, None, None, EXE, DLL]),
            "tag": ["VadS", "VadS", "VadF", "VadS", "Vad", "Vad", "Vad"],
            "resident": [PAGE] * 7,
            "private": [True] * 7,
            "file_offset": [None] * 7,
            "permissions": encoded([None] * 7),
            "source": encoded(["VAD tree"] * 7),
        },
        "modules": {
            "start": ["0x7ff6a2200000", "0x7ffa12200000"],
            "size": [0x60000, 0x1F8000],
            "name": [name, "ntdll.dll"],
            "path": [path, DLL],
            "source": encoded(["PEB", "PEB"]),
        },
        "threads": {
            "tid": [1628, 1700],
            "state": encoded(["waiting", "waiting"]),
            "start": ["0x7ffa12250000", "0x17f00000040"],
            **{word: [None, None] for word in ("name", "instruction", "teb", "stack_start", "stack_end")},
        },
        "flags": flags,
        "missing": {
            "start": ["0x17f00012000", "0x7ff6a2240000"],
            "size": [0x4000, 0x2000],
            "reason": encoded(["paged out", "paged out"]),
            "known_missing": [False, False],
        },
        "missing_not_listed": {"rows": 0, "bytes": 0},
    }
    return {**found, **members}


def _flag(flag: str, severity: str, address: str, segment: int | None, size: int | None = None) -> dict[str, Any]:
    return {
        "flag": flag,
        "severity": severity,
        "address": address,
        "size": size,
        "segment": segment,
        "why": "may be written and executed at once",
        "reason": "some programs do so",
        "kind": None,
        "file": None,
        "region": None,
        "permissions": [],
        "evidence": None,
        "benign": [],
    }


def _base64(text: bytes) -> str:
    return base64.b64encode(text).decode("ascii")


def _rows() -> list[tuple[int, int, str, str, str | None, str | None, float | None]]:
    """Return segments: start, size, permissions, kind, file, content, entropy."""
    rows: list[tuple[int, int, str, str, str | None, str | None, float | None]] = [
        (0x7FFE0000, PAGE, "r--", "private", None, None, 0.079),
        (0xA02F5D2000, 0x2000, "rw-", "TEB", None, None, 0.9),
        (0xA02F5F8000, 0x8000, "rw-", "stack", None, None, 1.4),
        (0x17F00000000, 0x12000, "rwx", "private", None, None, 7.904),
        (0x17F00016000, 0x1A000, "rw-", "private", None, "zeros", 0.0),
    ]
    at = 0x17F0D130000
    for i in range(24):
        rows.append((at, 0x1000 * (1 + i * 7 % 5), "rw-", "heap", None, "text" if i % 3 else None, 3.2 + i / 20))
        at += 0x8000
    rows += [
        (0x7DF400001000, 0x6000, "r--", "mapped", "C:\\Windows\\Globalization\\locale.nls", None, 4.5),
        (0x7FF6A2200000, 0x1000, "r--", "image", EXE, "PE", 1.2),
        (0x7FF6A2201000, 0x2F000, "r-x", "image", EXE, None, 6.1),
        (0x7FF6A2230000, 0x10000, "r--", "image", EXE, None, 5.0),
        (0x7FF6A2242000, 0x8000, "rw-", "image", EXE, None, 2.0),
        (0x7FFA12200000, 0x1000, "r--", "image", DLL, "PE", 1.0),
        (0x7FFA12201000, 0x120000, "r-x", "image", DLL, None, 6.3),
        (0x7FFA12321000, 0x48000, "r--", "image", DLL, None, 5.6),
        (0x7FFA12369000, 0xA000, "rw-", "image", DLL, None, 1.9),
        (0x7FFA12380000, 0x2000, "r--, r-x", "image", DLL, None, 4.4),
    ]
    return rows


def large(count: int, pid: int = 4) -> dict[str, Any]:
    """Return a process of many segments, half beyond 2^63; every hundredth is flagged, every tenth in a region."""
    draw = random.Random(count)  # noqa: S311 - data
    starts: list[int] = []
    at = 0x10000
    for i in range(count):
        if i == count // 2:
            at = 0xFFFF800000000000
        starts.append(at)
        at += PAGE * draw.choice((2, 3, 5, 17, 1024 if i % 50 == 0 else 4)) + 4 * PAGE
    sizes = [PAGE * draw.choice((1, 1, 2)) for _ in starts]
    protections = ["rw-", "r--", "r-x", "rw-", "rwx" if count > 10 else "rw-", "r-x"]
    return process(
        pid,
        "large",
        segments={
            "start": [f"0x{start:x}" for start in starts],
            "size": sizes,
            "permissions": {"values": protections, "codes": [i * 7 % 6 for i in range(count)]},
            "kind": {"values": ["private", "image", "mapped"], "codes": [i % 3 for i in range(count)]},
            "file": {
                "values": [None, *[f"/usr/lib/lib{i}.so" for i in range(200)]],
                "codes": [i % 201 for i in range(count)],
            },
            "entropy": [None if i % 3 else round(i % 800 / 100, 2) for i in range(count)],
            "sha256": [None] * count,
            "flags": [[i // 100] if i % 100 == 0 else [] for i in range(count)],
        },
        flags=[
            {
                "flag": "writable-executable",
                "severity": "medium",
                "address": f"0x{starts[i]:x}",
                "why": "may be written and executed",
            }
            for i in range(0, min(count, 100_000), 100)
        ],
        regions={
            "start": [f"0x{start:x}" for start in starts[::10]],
            "size": sizes[::10],
            "protection": {"values": ["rw-"], "codes": [0] * len(starts[::10])},
        },
        modules={},
        threads={},
        missing={},
        entropy_along={},
        first_bytes={},
        header={},
        totals={},
    )
