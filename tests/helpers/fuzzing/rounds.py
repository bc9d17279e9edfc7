"""Rounds of cases: in this process, or in others that may die, hang or run out of memory and are begun anew."""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import json
import mmap
import os
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fuzzing import checks
from fuzzing.case import Case, Depth, Reached
from fuzzing.draw import Draw
from memcarve import MemcarveError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fuzzing.case import Surface

#: seconds, as a guard against hangs and no more: cases take milliseconds
_HANG = 60
#: bytes of addresses that a process may take, bytes by which it may grow, cases that it runs, findings of a round
_MEMORY, _GROWN, _AT_ONCE, _MOST_KEPT = 1536 << 20, 256 << 20, 10_000, 200
_OWN_FAULT = 70
_UNRECOGNISED = ("NotRecognisedError", "CounterpartError")


@dataclass
class Tally:
    """What came of cases: how far they got, the errors that they raised, what fell out."""

    depths: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    found: dict[str, str] = field(default_factory=dict)
    slowest: float = 0.0

    def share(self, depth: Depth) -> float:
        """Return the share of the cases that got at least so far."""
        return sum(count for name, count in self.depths.items() if Depth[name] >= depth) / max(self.depths.total(), 1)

    def add(self, other: dict[str, Any]) -> None:
        """Add what another process counted."""
        self.depths.update(other["depths"])
        self.errors.update(other["errors"])
        self.found = other["found"] | self.found
        self.slowest = max(self.slowest, other["slowest"])

    def __str__(self) -> str:
        """Return the tally as a line."""
        depths = ", ".join(f"{name.lower()} {self.depths[name]}" for name in Depth.__members__)
        through = f"{self.share(Depth.MEMORY):.0%} through to memory"
        last = f"slowest {self.slowest:.2f} s, {len(self.found)} found"
        return f"{self.depths.total()} cases ({depths}; {through}), {last}; {dict(self.errors)}"


class Round:
    """Cases of one surface; what falls out is kept in a folder, if there is one."""

    def __init__(self, name: str, surface: Surface, folder: str, keep: str | None = None) -> None:
        self.name, self.surface, self.folder, self.keep = name, surface, folder, keep
        self.tally = Tally()

    def case(self, seed: str) -> Case:
        """Return the case of a seed."""
        return self.surface.make(Draw(f"{self.name} {seed}"))

    def run(self, case: Case) -> None:
        """Run a case; count how far it got, and keep it if anything but a declared error came of it."""
        reached, begun = Reached(), time.monotonic()
        case.write(self.folder)
        try:
            self.surface.run(case, reached)
        except MemcarveError as error:
            reached(Depth.REFUSED if type(error).__name__ in _UNRECOGNISED else Depth.PARSED)
            self.tally.errors[type(error).__name__] += 1
            try:
                checks.message(error)
            except AssertionError as wrong:
                self._raised(case, wrong)
        except Exception as error:  # noqa: BLE001 - any of them is a finding
            self._raised(case, error)
        case.remove(self.folder)
        self.tally.depths[reached.depth.name] += 1
        self.tally.slowest = max(self.tally.slowest, time.monotonic() - begun)

    def _raised(self, case: Case, error: BaseException) -> None:
        """Keep a case under the name of what was raised, and where."""
        frames = traceback.extract_tb(error.__traceback__)
        inner = [frame for frame in frames if f"{os.sep}memcarve{os.sep}" in frame.filename] or frames[-1:]
        place = f"{os.path.basename(inner[-1].filename)}-{inner[-1].lineno}"
        self.found(case, f"{type(error).__name__}-{place}", "".join(traceback.format_exception(error)))

    def found(self, case: Case, what: str, trace: str) -> None:
        """Keep a case, unless one like it was found before."""
        if what in self.tally.found or len(self.tally.found) >= _MOST_KEPT:
            return
        self.tally.found[what] = trace
        if self.keep is not None:
            place = os.path.join(self.keep, f"{self.name}-{what}")
            case.keep(place, self.name, trace)
            sys.stderr.write(f"{self.name}: {what}: kept in {place}\n")


@contextlib.contextmanager
def strict() -> Iterator[None]:
    """Have warnings be errors: that numbers overflow is one."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


class Watched:
    """A round in processes of its own, each bounded in memory and in the time of one case."""

    def __init__(self, one: Round, seed: str, seconds: float, most: int) -> None:
        self.round, self.seed, self.most = one, seed, most
        self.end = time.monotonic() + seconds
        #: the number of the case at hand, which all processes see
        self.number = ctypes.c_uint64.from_buffer(mmap.mmap(-1, mmap.PAGESIZE))

    def run(self) -> Tally:
        """Run cases until time or number is used up; return the tally of all processes."""
        total = self.round.tally
        while self._goes_on(self.most):
            before = self.number.value
            reader, writer = os.pipe()
            child = os.fork()
            if not child:
                os.close(reader)
                try:
                    self._run_some(writer)
                except BaseException:  # noqa: BLE001 - a fault of the fuzzer's own: the copy must end here
                    traceback.print_exc()
                    os._exit(_OWN_FAULT)
                os._exit(0)
            os.close(writer)
            with open(reader, "rb") as pipe:
                counted = pipe.read()
            status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            if status == _OWN_FAULT:
                raise SystemExit(_OWN_FAULT)
            if counted:
                total.add(json.loads(counted))
            else:  # it died within a case; how far those before it got is not known
                total.depths[Depth.REFUSED.name] += self.number.value - before + 1
                case = self.round.case(f"{self.seed} {self.number.value}")
                self.round.found(case, f"died-{status}", f"the process ended with {status}")
                self.number.value += 1
        return total

    def _goes_on(self, last: int) -> bool:
        return time.monotonic() < self.end and self.number.value < last

    def _run_some(self, writer: int) -> None:
        """Run cases in a process that ends here; the next one begins where it ended, or grew too large."""
        import resource  # noqa: PLC0415 - Unix alone has it

        def used() -> int:
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10

        with open("/proc/self/statm", encoding="ascii") as file:
            mapped = int(file.read().split()[0]) * mmap.PAGESIZE
        resource.setrlimit(resource.RLIMIT_AS, (mapped + _MEMORY,) * 2)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        faulthandler.enable()
        begun, last = used(), min(self.number.value + _AT_ONCE, self.most)
        tally = self.round.tally = Tally(found=dict.fromkeys(self.round.tally.found, ""))
        with strict():
            while self._goes_on(last):
                case = self.round.case(f"{self.seed} {self.number.value}")
                faulthandler.dump_traceback_later(_HANG, exit=True)
                self.round.run(case)
                self.number.value += 1
                if used() > begun + _GROWN:
                    self.round.found(case, "grew", f"by {_GROWN >> 20} MiB")
                    break
        with open(writer, "wb") as pipe:
            pipe.write(json.dumps(vars(tally)).encode())


def folder_for(name: str) -> tempfile.TemporaryDirectory[str]:
    """Return a new folder for a surface's files, in memory if there is such a place."""
    base = "/dev/shm"  # noqa: S108 - it is for this
    return tempfile.TemporaryDirectory(prefix=f"fuzz-{name}-", dir=base if os.path.isdir(base) else None)
