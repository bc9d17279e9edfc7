"""Revoked tasks: what they were building is taken away, and their sub-tasks are given up with them."""

from __future__ import annotations

import threading
from typing import Any

from celery.worker.request import Request
from celery.worker.state import revoked as revoked_tasks, task_ready

from openrelik_worker_memcarve.app import QUEUE
from openrelik_worker_memcarve.once import Journal

ONE = f"{QUEUE}.one"


class Revocable(Request):  # type: ignore[misc] # Celery has no types
    """A task as the worker's main process sees it, which does no work, and lives on when a task is ended."""

    def revoked(self) -> bool:
        """Say whether a task is not to be begun: it was revoked itself, or what it is a sub-task of was."""
        if super().revoked():
            return True
        if self.name == ONE and self._told["parent"] in revoked_tasks:
            self._announce_revoked("revoked", terminated=False, signum=None, expired=False)
            return True
        return False

    @property
    def _told(self) -> dict[str, Any]:
        """What the task was called with; of a sub-task only what is needed here."""
        if self.name != ONE:
            return dict(self.kwargs)
        parent, _number, _folder, output_path = self.args
        return {"parent": parent, "output_path": output_path}

    def _announce_revoked(self, reason: str, terminated: Any, signum: Any, expired: Any) -> None:  # noqa: ANN401
        told = self._told
        task = told.get("parent", self.id)
        if self.name == ONE:
            # that it was is not told to the last task, which would fail of it
            task_ready(self)
            self.acknowledge()
            self._already_revoked = True
        else:
            super()._announce_revoked(reason, terminated, signum, expired)
        if told.get("output_path"):
            # whoever is at it is ended, but may take a moment to clear up
            args = self.task.app, str(told["output_path"]), task, self.name == ONE
            threading.Thread(target=_end, args=args, daemon=True).start()


def _end(app: Any, output_path: str, task: str, tell: bool) -> None:  # noqa: ANN401, FBT001 - a thread's
    """Write down that a task was revoked, once nobody is at it, and take away what it was building."""
    journal = Journal(output_path, task)
    if not journal.exists:
        return
    with journal.held():
        known = journal.read()
        if "result" in known or "failed" in known:
            return
        journal.add(failed="the task was revoked")
        journal.add(end=True)
        journal.clear()
    if tell:
        app.backend.mark_as_revoked(task, "revoked")
        with app.events.default_dispatcher() as dispatcher:
            dispatcher.send("task-revoked", uuid=task, terminated=False, signum=None, expired=False)
