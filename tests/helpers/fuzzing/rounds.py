"""Rounds of cases: many in this process, or in one that may die, hang or run out of memory and is begun anew."""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import json
import mmap
import os
import signal
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
    from types import FrameType

    from fuzzing.case import Surface

#: a guard against hangs and no more: cases take milliseconds
HANG = 20
_MEMORY = 1536 << 20
_GROWN = 256 << 20
_MOST_KEPT = 200
#: cases of one process
_AT_ONCE = 5000


class HangError(BaseException):
    """A case did not end; nothing that catches exceptions keeps it."""


@dataclass
class Tally:
    """What came of cases: how far they got, the errors that they raised, what fell out."""

    depths: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    found: dict[str, str] = field(default_factory=dict)
    slowest: float = 0.0

    @property
    def count(self) -> int:
        """How many cases were run."""
        return sum(self.depths.values())

    def share(self, depth: Depth) -> float:
        """Return the share of the cases that got at least so far."""
        return sum(count for name, count in self.depths.items() if Depth[name] >= depth) / max(self.count, 1)

    def add(self, other: dict[str, Any]) -> None:
        """Add what another process counted."""
        self.depths.update(other["depths"])
        self.errors.update(other["errors"])
        self.slowest = max(self.slowest, other["slowest"])
        for name, place in other["found"].items():
            self.found.setdefault(name, place)

    def __str__(self) -> str:
        """Return the tally as a line."""
        depths = ", ".join(f"{name.lower()} {self.depths[name]}" for name in Depth.__members__)
        return f"{self.count} cases ({depths}), slowest {self.slowest:.2f} s, {len(self.found)} found"


class Round:
    """Cases of one surface, from one seed on; findings are kept in a folder, if there is one."""

    def __init__(self, name: str, surface: Surface, folder: str, keep: str | None = None) -> None:
        self.name, self.surface, self.folder, self.keep = name, surface, folder, keep
        self.tally = Tally()

    def case(self, seed: str) -> Case:
        """Return the case of a seed."""
        return self.surface.make(Draw(f"{self.name} {seed}"))

    def one(self, seed: str) -> None:
        """Make and run the case of a seed."""
        self.run(self.case(seed))

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
                self.found(case, wrong)
        except (Exception, HangError) as error:  # noqa: BLE001 - any of them is a finding
            self.found(case, error)
        self.tally.depths[reached.depth.name] += 1
        self.tally.slowest = max(self.tally.slowest, time.monotonic() - begun)

    def found(self, case: Case, error: BaseException) -> None:
        """Keep a case under the name of what was raised, and where."""
        frames = traceback.extract_tb(error.__traceback__)
        inner = [frame for frame in frames if f"{os.sep}memcarve{os.sep}" in frame.filename] or frames[-1:]
        place = f"{os.path.basename(inner[-1].filename)}-{inner[-1].lineno}" if inner else "nowhere"
        self.note(case, f"{type(error).__name__}-{place}", "".join(traceback.format_exception(error)))

    def note(self, case: Case, what: str, trace: str) -> None:
        """Keep a case, unless one like it was found before."""
        if what in self.tally.found or len(self.tally.found) >= _MOST_KEPT:
            return
        self.tally.found[what] = trace
        if self.keep is not None:
            place = os.path.join(self.keep, f"{self.name}-{what}")
            case.keep(place, self.name, trace)
            sys.stderr.write(f"{self.name}: {what}: kept in {place}\n")


_UNRECOGNISED = ("NotRecognisedError", "CounterpartError")


@contextlib.contextmanager
def strict() -> Iterator[None]:
    """Have warnings be errors: that numbers overflow is one."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


class Watched:
    """A round in processes of its own, each bounded in memory and in the time of one case."""

    def __init__(self, round_: Round, seed: str, seconds: float, most: int) -> None:
        self.round, self.seed, self.most = round_, seed, most
        self.end = time.monotonic() + seconds
        #: the number of the case at hand
        self.number = ctypes.c_uint64.from_buffer(mmap.mmap(-1, mmap.PAGESIZE))

    def run(self) -> Tally:
        """Run cases until time or number is used up; return the tally of all processes."""
        total = self.round.tally
        while time.monotonic() < self.end and self.number.value < self.most:
            before = self.number.value
            reader, writer = os.pipe()
            child = os.fork()
            if not child:
                os.close(reader)
                self._child(writer)
            os.close(writer)
            with open(reader, "rb") as pipe:
                status = self._watch(child)
                told = pipe.read()
            if told:
                total.add(json.loads(told))
            else:  # it died within a case: those before it are counted as far as is known
                case = self.round.case(f"{self.seed} {self.number.value}")
                self.round.note(case, f"died-{status}", f"the process ended with {status}")
                total.depths[Depth.REFUSED.name] += self.number.value - before + 1
                self.number.value += 1
        return total

    def _watch(self, child: int) -> int:
        seen, since = self.number.value, time.monotonic()
        while True:
            pid, status = os.waitpid(child, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(status)
            if self.number.value != seen:
                seen, since = self.number.value, time.monotonic()
            elif time.monotonic() - since > 3 * HANG:  # in a library, which no signal's handler interrupts
                os.kill(child, signal.SIGKILL)
            time.sleep(0.05)

    def _child(self, writer: int) -> None:
        """Run cases; the process ends here, and begins anew if it grew."""
        import resource  # noqa: PLC0415 - Unix has it alone

        used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
        with open("/proc/self/statm", encoding="ascii") as file:
            mapped = int(file.read().split()[0]) * mmap.PAGESIZE
        resource.setrlimit(resource.RLIMIT_AS, (mapped + _MEMORY,) * 2)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        signal.signal(signal.SIGALRM, _hang)
        faulthandler.enable()
        self.round.tally = Tally(found=dict.fromkeys(self.round.tally.found, ""))
        with strict():
            last = min(self.number.value + _AT_ONCE, self.most)
            while time.monotonic() < self.end and self.number.value < last:
                signal.setitimer(signal.ITIMER_REAL, HANG)
                self.round.one(f"{self.seed} {self.number.value}")
                signal.setitimer(signal.ITIMER_REAL, 0)
                self.number.value += 1
                if (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10) > used + _GROWN:
                    case = self.round.case(f"{self.seed} {self.number.value - 1}")
                    self.round.note(case, "grew", f"by {_GROWN >> 20} MiB")
                    break
        tally = self.round.tally
        with open(writer, "wb") as pipe:
            told = {"depths": tally.depths, "errors": tally.errors, "found": tally.found, "slowest": tally.slowest}
            pipe.write(json.dumps(told).encode())
        os._exit(0)


def _hang(_number: int, _frame: FrameType | None) -> None:
    raise HangError


def folder_for(name: str) -> tempfile.TemporaryDirectory[str]:
    """Return a new folder for a surface's files, in memory if there is such a place."""
    base = "/dev/shm"  # noqa: S108 - it is for this
    return tempfile.TemporaryDirectory(prefix=f"fuzz-{name}-", dir=base if os.path.isdir(base) else None)
