"""Progress on standard error: rate and time left, at a terminal, for work of more than a second."""

from __future__ import annotations

import importlib
import sys
import time
from typing import TYPE_CHECKING, Any

from memcarve.cli.wording import amount, at_terminal

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from memcarve.cli.option_groups import Messages

_PATIENCE = 1.0  # seconds before anything is shown


class ProgressBar:
    """Called with the bytes done and the total; draws nothing unless standard error is a terminal.

    With `data`, rows are printed meanwhile, which would clash with a bar at a terminal.
    """

    def __init__(self, label: str, messages: Messages, *, data: bool = False) -> None:
        self._label = label
        self._shown = sys.stderr.isatty() and not messages.quiet and not (data and at_terminal())
        self._begun = time.monotonic()
        self._quiet_until = self._begun + _PATIENCE
        self._bar: Any = None
        self._task: Any = None

    def __call__(self, done: int, total: int) -> None:
        """Draw how far the work is."""
        if not self._shown or (self._bar is None and time.monotonic() < self._quiet_until):
            return
        if self._bar is None:
            self._start(total)
        self._bar.update(self._task, completed=done, total=total, rate=amount(done / (time.monotonic() - self._begun)))

    def clear(self) -> None:
        """Take the bar off the terminal, where something else is going to be printed; it comes back a second later."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
            self._quiet_until = time.monotonic() + _PATIENCE

    def _start(self, total: int) -> None:
        # importing rich takes longer than most commands
        progress = importlib.import_module("rich.progress")
        console = importlib.import_module("rich.console")
        self._bar = progress.Progress(
            progress.TextColumn("{task.description}"),
            progress.BarColumn(),
            progress.DownloadColumn(binary_units=True),
            progress.TextColumn("{task.fields[rate]}/s"),
            progress.TimeRemainingColumn(),
            console=console.Console(stderr=True),
            transient=True,
        )
        self._bar.start()
        self._task = self._bar.add_task(self._label, total=total, rate="")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()


class OpeningBar:
    """Called with the bytes that were decoded of a compressed file, or searched of an image: draws a bar for each."""

    def __init__(self, messages: Messages) -> None:
        self._messages = messages
        self._bar: ProgressBar | None = None

    def __call__(self, done: int, total: int) -> None:
        """Draw how far the work is."""
        if self._bar is None:
            self._bar = ProgressBar("reading", self._messages)
        self._bar(done, total)
        if done >= total:
            self.__exit__()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.__exit__(None, None, None)
        self._bar = None
