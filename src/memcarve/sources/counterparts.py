"""Which map belongs to which dump: by their names, in one folder."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any, TypeVar

from memcarve.errors import CounterpartError, InputError
from memcarve.formats.compression import ENDINGS, Reading, plain_name
from memcarve.formats.memmap import MemoryMap
from memcarve.formats.tables import TableFile
from memcarve.remote import is_there, names_in, open_file
from memcarve.remote.locations import is_location

if TYPE_CHECKING:
    from collections.abc import Callable

_Table = TypeVar("_Table", bound=TableFile)

#: endings under which users keep maps, in the order in which they are tried
MAP_ENDINGS = (".map", ".txt", ".csv", ".json", ".jsonl", ".parquet", ".arrow")
_COMPRESSED = ("", *ENDINGS)
_VOLATILITY_3 = re.compile(r"pid\.(\d{1,18})(-\d+)?(?:\.[\w.-]+)?\.dmp")
_VOLATILITY_2 = re.compile(r"(\d{1,18})\.dmp")
_REKALL = re.compile(r"(.+)_(\d{1,18})\.dmp(?:\.idx)?")


def pid_in_name(path: str) -> tuple[int | None, str | None]:
    """Return the pid, and with Rekall the process's name, that the name of a dump (or of Rekall's index) tells."""
    name = plain_name(os.path.basename(path))
    for pattern in (_VOLATILITY_3, _VOLATILITY_2):
        found = pattern.fullmatch(name)
        if found:
            return int(found[1]), None
    found = _REKALL.fullmatch(name)
    return (int(found[2]), found[1]) if found else (None, None)


def base_file(path: str) -> str:
    """Return the name of a dump as the map's rows give it: not compressed, and without the number against a clash."""
    return re.sub(r"^(pid\.\d+)-\d+(\.dmp)$", r"\1\2", plain_name(os.path.basename(path)))


def find_map(dump: str, *, hashed: bool, reading: Reading) -> tuple[MemoryMap, list[str]]:
    """Open the map that lies beside a dump; return it with notes on which was taken.

    Raises CounterpartError if there is none, and what is wrong with it if there is one that cannot be used.
    """
    folder, given = os.path.split(dump)
    name = plain_name(given)
    stem = os.path.splitext(name)[0]
    stems = dict.fromkeys([stem, re.sub(r"^(pid\.\d+)-\d+$", r"\1", stem)])
    tried = [stem + ending for stem in stems for ending in MAP_ENDINGS]
    tried = [f"{name}.idx", *tried]
    present = [file for base in tried for file in (base + end for end in _COMPRESSED) if _is_file(folder, file, given)]
    problem: InputError | None = None
    for file in present:
        try:
            found = open_beside(MemoryMap, os.path.join(folder, file), hashed=hashed, reading=reading)
        except InputError as error:
            problem = problem or error
            continue
        others = [other for other in present if other != file]
        also = f" (also there: {', '.join(others)})" if others else ""
        return found, [f"map: {found.path}, {found.description}{also}"]
    if problem:
        raise problem
    if is_location(dump) and names_in(folder) is None:
        raise CounterpartError(
            "its map was not looked for: there is no list of what lies beside it",
            subject=dump,
            remedy="give it with {memory_map}",
        )
    raise CounterpartError(
        f"no map is beside it (looked for {stem}{{{','.join(MAP_ENDINGS)}}} and {name}.idx, also compressed)",
        subject=dump,
        remedy="give it with {memory_map}",
    )


def find_dump(
    memory_map: str, file: str | None, pid: int | None, process: str | None, *, alone: bool
) -> tuple[str, list[str]]:
    """Return the dump that lies beside a map, with a note.

    `file` is the name in the rows, `process` the process's name. Only if the process is `alone` in the map can the dump
    have the map's own name.

    Raises CounterpartError if there is none, or if several could be it.
    """
    folder, name = os.path.split(memory_map)
    base = plain_name(name)
    stem = os.path.splitext(base)[0]
    wanted = [base.removesuffix(".idx") if base.endswith(".dmp.idx") else f"{stem}.dmp"] if alone else []
    wanted += [file] if file else []
    wanted += [f"{pid}.dmp", f"pid.{pid}.dmp"] if pid is not None else []
    wanted += [f"{process}_{pid}.dmp"] if process is not None and pid is not None else []
    # a name in the rows is data: nothing but a plain file name may come of it
    wanted = [plain for plain in dict.fromkeys(wanted) if os.path.basename(plain) == plain]
    for file_name in (plain + packed for plain in wanted for packed in _COMPRESSED):
        if _is_file(folder, file_name, name):
            return os.path.join(folder, file_name), [f"dump: {os.path.join(folder, file_name)}"]
    renamed = _renamed(folder, wanted)
    if len(renamed) == 1:
        path = os.path.join(folder, renamed[0])
        return path, [f"dump: {path} (the map's rows say {file or wanted[0]})"]
    if renamed:
        raise CounterpartError(
            f"{len(renamed)} dumps could belong to it ({', '.join(renamed)})",
            subject=memory_map,
            remedy="choose with {dump}",
        )
    if is_location(memory_map) and names_in(folder) is None:
        raise CounterpartError(
            "its dump was not looked for: the store gives no list of what lies beside it",
            subject=memory_map,
            remedy="give it with {dump}",
        )
    looked = f"looked for {', '.join(wanted)}" if wanted else "the map does not say which process it is"
    raise CounterpartError(f"its dump is not beside it ({looked})", subject=memory_map, remedy="give it with {dump}")


def _renamed(folder: str, wanted: list[str]) -> list[str]:
    """Return the dumps that Volatility numbered because the plain name was taken: pid.4-1.dmp for pid.4.dmp."""
    try:
        present = [*(names_in(folder) or ())] if is_location(folder) else os.listdir(folder or os.curdir)
    except OSError:
        return []
    return sorted(file for file in present if base_file(file) in wanted and file not in wanted)


def open_beside(kind: Callable[..., _Table], path: str, *, reading: Reading, **how: Any) -> _Table:  # noqa: ANN401 - as `kind` takes
    """Return a table in a file that nobody named, as `kind` opens it; raises what that raises.

    So it must be a regular file, and a link is not followed: InputError.
    """
    file = open_file(path, reading.keeping, follow=False)
    try:
        return kind(file, reading=reading, **how)
    except BaseException:
        file.close()
        raise


def _is_file(folder: str, file: str, given: str) -> bool:
    return file != given and is_there(os.path.join(folder, file))
