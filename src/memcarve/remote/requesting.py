"""When a store is asked for a range of bytes, and how often: several at once, again if it fails, never for ever.

All connections live in one thread with an event loop, which is begun when it is first needed. A copy of this program
that was forked has no such thread, and none of its connections may be used by both: it begins its own. Before copies
are made, the thread is ended (`quieten`), so that no lock of it is held in them for ever.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import os
import random
import threading
from typing import TYPE_CHECKING, Any, TypeVar

from memcarve import forking
from memcarve.errors import InputError, SourceReadError
from memcarve.remote.transports import (
    ChangedError,
    EmptyError,
    Facts,
    FailedError,
    RefusedError,
    Transport,
    transport_to,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence
    from concurrent.futures import Future

    from memcarve.remote.locations import Location
    from memcarve.remote.transports import Answer

_T = TypeVar("_T")

IN_FLIGHT = 16
TRIES = 6
_FIRST_WAIT, _LONGEST_WAIT = 0.2, 10.0  # seconds before it is asked again: twice as long each time
_MOST_PATIENT = 120.0  # what a store may ask for with Retry-After
_NAME = "memcarve-remote"  # how the names of its threads begin
_PATIENCE = 120.0  # seconds that a request may take, and more for each so many bytes
_SLOWEST = 1 << 12  # bytes a second
_LARGEST = 1 << 44  # bytes of an object: no machine has so much memory


class _Loop:
    """The thread with the event loop, of one process."""

    def __init__(self) -> None:
        from concurrent.futures import ThreadPoolExecutor

        self.pid = os.getpid()
        self.loop = asyncio.new_event_loop()
        self.loop.set_default_executor(ThreadPoolExecutor(4, _NAME))  # names of hosts are looked up there
        self.waiting = asyncio.Semaphore(IN_FLIGHT)
        self.transports: dict[Location, Transport] = {}
        self._thread = threading.Thread(target=self._run, name=_NAME, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()

    def submit(self, work: Coroutine[Any, Any, _T]) -> Future[_T]:
        return asyncio.run_coroutine_threadsafe(work, self.loop)

    def end(self) -> None:
        """Give up what is under way, close the connections and end the thread."""

        async def all_closed() -> None:
            others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)
            for transport in self.transports.values():
                with contextlib.suppress(Exception):  # what cannot be closed is gone
                    await transport.close()
            await asyncio.sleep(0)  # sockets are closed in the next round
            await self.loop.shutdown_default_executor()

        with contextlib.suppress(TimeoutError):
            self.submit(all_closed()).result(timeout=2)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(2)
        if not self._thread.is_alive():
            self.loop.close()


_here: list[_Loop] = []
_beginning = threading.Lock()


def _loop() -> _Loop:
    """Return this process's loop."""
    with _beginning:
        if _here and _here[0].pid != os.getpid():
            _here.clear()  # its thread and connections are those of the program that this one is a copy of
        if not _here:
            _here.append(_Loop())
        return _here[0]


def quieten() -> None:
    """End the thread and all connections, if no other thread may be using them; the next request begins new ones."""
    here = threading.current_thread()
    if all(each is here or each.name.startswith(_NAME) for each in threading.enumerate()):
        _end()


def _end() -> None:
    with _beginning:
        if _here and _here[0].pid == os.getpid():
            _here.pop().end()


atexit.register(_end)
forking.before_copies.append(quieten)


class Requests:
    """Asks for ranges of one object. `counted` is called with each request that was made, from the loop's thread."""

    def __init__(self, location: Location, counted: Callable[[], object]) -> None:
        self.location = location
        self.facts: Facts | None = None
        self._counted = counted
        self._meanwhile: set[Future[None]] = set()

    @property
    def known(self) -> Facts:
        """What identifies the object that `first` asked for."""
        if self.facts is None:
            raise SourceReadError("was not asked for", subject=self.location.shown)
        return self.facts

    def first(self, size: int) -> Answer | None:
        """Return the first `size` bytes, and keep what identifies the object; None if it is empty."""
        answer = self._wait(self._asked(0, size))
        self.facts = Facts(0) if answer is None else answer.facts
        return answer

    @property
    def origin(self) -> list[object]:
        """See `Transport.origin`."""
        transport = _loop().transports.get(self.location)
        return [] if transport is None else transport.origin

    def fetch(self, ranges: Sequence[tuple[int, int]], came: Callable[[int, bytes], object]) -> None:
        """Fetch ranges (begin, end), several at once; `came` gets each as it comes, in the loop's thread."""
        self._wait(self._all(ranges, came))

    def fetch_meanwhile(
        self, begin: int, end: int, came: Callable[[int, bytes], object], ended: Callable[[], object]
    ) -> None:
        """Begin to fetch a range; whatever fails is left to whoever asks for it. `ended` is called in the end."""

        async def work() -> None:
            with contextlib.suppress(Exception):
                await self._one(begin, end, came)

        future = _loop().submit(work())
        self._meanwhile.add(future)

        def done(_: Future[None]) -> None:
            self._meanwhile.discard(future)
            ended()

        future.add_done_callback(done)

    def give_up(self) -> None:
        """Give up what is being fetched meanwhile."""
        for future in [*self._meanwhile]:
            future.cancel()

    def changed(self) -> bool:
        """Return True if the object is another one than when it was opened."""
        facts = self.facts
        if facts is None or not facts.size:
            return False
        try:
            self._wait(self._asked(0, min(facts.size, 1)))
        except InputError as error:
            if isinstance(error.__cause__, ChangedError):
                return True
            raise
        return False

    async def _all(self, ranges: Sequence[tuple[int, int]], came: Callable[[int, bytes], object]) -> None:
        waiting = iter(ranges)

        async def worker() -> None:
            for begin, end in waiting:
                await self._one(begin, end, came)

        workers = [asyncio.ensure_future(worker()) for _ in range(min(IN_FLIGHT, len(ranges)))]
        try:
            await asyncio.gather(*workers)
        finally:
            for each in workers:
                each.cancel()

    async def _one(self, begin: int, end: int, came: Callable[[int, bytes], object]) -> None:
        answer = await self._asked(begin, end)
        if answer is None:
            raise self._error(ChangedError())
        came(answer.begin, answer.data)

    async def _asked(self, begin: int, end: int) -> Answer | None:
        """Return the bytes of a range; None if there are none, which only an object that is empty may say."""
        here = _loop_of_task()
        tries = 0
        while True:
            tries += 1
            try:
                async with here.waiting:
                    transport = here.transports.get(self.location)
                    if transport is None:
                        transport = here.transports[self.location] = transport_to(self.location)
                    self._counted()
                    patience = _PATIENCE + (end - begin) / _SLOWEST
                    try:
                        answer = await asyncio.wait_for(transport.get(begin, end, self.facts), patience)
                    except TimeoutError as error:
                        raise FailedError(f"did not send {end - begin} bytes in {patience:.0f} seconds") from error
                self._check(answer, begin, end)
            except EmptyError as error:
                if self.facts is None:
                    return None
                raise self._error(ChangedError()) from error
            except (ChangedError, RefusedError) as error:
                raise self._error(error) from error
            except FailedError as error:
                if tries >= TRIES or (error.after or 0) > _MOST_PATIENT:
                    raise self._error(error, tries) from error
                wait = min(_FIRST_WAIT * 2 ** (tries - 1), _LONGEST_WAIT) * random.uniform(0.5, 1)  # noqa: S311
                await asyncio.sleep(max(wait, error.after or 0))
            else:
                return answer

    def _check(self, answer: Answer, begin: int, end: int) -> None:
        """Raise ChangedError if an answer is about another object, FailedError if it is not what was asked for.

        RefusedError if no object is like that.
        """
        facts, size = self.facts, answer.facts.size
        if size > _LARGEST:
            raise RefusedError(f"the store says that it has {size} bytes; no machine has so much memory")
        if facts is not None and _differ(answer.facts, facts):
            raise ChangedError
        if facts is not None and any(facts[1:]) and not any(answer.facts[1:]):
            raise FailedError("the answer does not say any more of which version of the object it is")
        if facts is None and answer.begin == 0 and len(answer.data) == answer.facts.size:
            return  # all of it, from a server that knows no ranges
        expected = min(end, answer.facts.size) - begin
        if answer.begin != begin or len(answer.data) != expected:
            raise FailedError(f"{len(answer.data)} bytes came when {expected} were asked for")

    def _error(self, error: Exception, tries: int = 1) -> InputError:
        shown = self.location.shown
        if isinstance(error, ChangedError):
            return _from(InputError("was changed while it was read", subject=shown, remedy="read it again"), error)
        if isinstance(error, RefusedError):
            return _from(SourceReadError(error.problem, subject=shown, remedy=error.remedy), error)
        problem = error.problem if isinstance(error, FailedError) else str(error)
        return _from(
            SourceReadError(f"{problem}, {tries} times in a row", subject=shown, remedy="try again later"), error
        )

    def _wait(self, work: Coroutine[Any, Any, _T]) -> _T:
        return _waited(work)


def names_of(folder: Location) -> frozenset[str] | None:
    """Return the names in a folder of a store; None if it gives no list."""

    async def names() -> list[str] | None:
        transport = transport_to(folder)
        try:
            return await transport.names()
        finally:
            await transport.close()

    with contextlib.suppress(RefusedError, FailedError, ChangedError, EmptyError):
        found = _waited(names())
        return None if found is None else frozenset(found)
    return None


def _waited(work: Coroutine[Any, Any, _T]) -> _T:
    """Do some work in the loop's thread, and return its result; an exception here ends it."""
    future = _loop().submit(work)
    try:
        return forking.result_of(future)
    except BaseException:
        future.cancel()
        raise


def _from(error: InputError, cause: Exception) -> InputError:
    error.__cause__ = cause
    return error


def _loop_of_task() -> _Loop:
    return _here[0]


def _differ(one: Facts, other: Facts) -> bool:
    """Return True if two answers are about different versions: what only one of them says is not compared."""
    pairs = zip(one, other, strict=True)
    return any(mine is not None and theirs is not None and mine != theirs for mine, theirs in pairs)
