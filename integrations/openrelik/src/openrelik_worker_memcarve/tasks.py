"""The tasks: each as OpenRelik calls it, and two of our own, which it never sees: one of many, and the last."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
import uuid
from typing import TYPE_CHECKING, Any

import redis
from celery import chord, group, states
from celery.exceptions import Ignore
from celery.utils.log import get_task_logger
from kombu.exceptions import OperationalError
from openrelik_worker_common.task_utils import create_task_result, get_input_files

from openrelik_worker_memcarve.alive import signs_of_life
from openrelik_worker_memcarve.app import QUEUE, celery
from openrelik_worker_memcarve.failure import TaskFailed
from openrelik_worker_memcarve.fields import TASKS, metadata, wanted
from openrelik_worker_memcarve.inputs import inputs_of
from openrelik_worker_memcarve.once import Journal
from openrelik_worker_memcarve.outputs import placed
from openrelik_worker_memcarve.running import run
from openrelik_worker_memcarve.settings import LARGE

if TYPE_CHECKING:
    from collections.abc import Callable

    Job = dict[str, Any]

logger = get_task_logger(__name__)

#: what is done at once: its findings come from comparing processes with each other, or there is too little of it
_AT_ONCE = ("processes", "hunt")
#: seconds after the end of a task within which its end is told, if whoever did it has not ended then
_TELLING = 20.0
_REQUEST = "openrelik_worker_memcarve.revoking:Revocable"


def _task(name: str) -> Callable[..., str]:
    @celery.task(bind=True, name=f"{QUEUE}.tasks.{name}", metadata=metadata(name), Request=_REQUEST)
    def command(
        self: Any,  # noqa: ANN401 - Celery has no types
        pipe_result: str | None = None,
        input_files: list[dict[str, Any]] | None = None,
        output_path: str | None = None,
        workflow_id: str | None = None,
        task_config: dict[str, Any] | None = None,
    ) -> str:
        if output_path is None:
            raise TaskFailed("the task was given no output folder")
        journal = Journal(output_path, self.request.id)
        with signs_of_life(self.request), journal.held():
            known = journal.read()
            _return_known(self, known)
            if "result" in known:
                return str(known["result"])
            if known.get("sent"):
                raise Ignore  # its sub-tasks are under way, and the last task does the rest
            job = known.get("job")
            if job is None:
                journal.begin()
                with _failing(journal):
                    job = _job(name, get_input_files(pipe_result, input_files or []), task_config)
                    job |= {"folder": journal.folder, "output_path": output_path, "workflow_id": workflow_id}
                    job["units"] = _units(self, job, journal)
                    if len(job["units"]) == 1 and "index" not in job["units"][0]:
                        job["input"] = job["units"][0]["input"]
                        made = run(
                            {**job, "do": "whole", "clear": journal.folder}, _progress(self), [journal.descriptor]
                        )
                        return _done(journal, self.request.id, job, made)
                journal.add(job=job)
                journal.add(end=True)
            signature = _fanned_out(self.request.id, job)
            with contextlib.suppress(Ignore):
                self.replace(signature)
            journal.add(sent=True)
            raise Ignore

    command.__doc__ = TASKS[name][1]
    return command  # type: ignore[no-any-return]


def _return_known(task: Any, known: dict[str, Any]) -> None:  # noqa: ANN401
    """Raise Ignore if a task has ended and all was told of it; told again, its files would be listed twice.

    Raises TaskFailed if it has failed, and that was not told.
    """
    if _is_over(known):
        # whoever ended it may be about to tell
        until = known.get("at", 0.0) + _TELLING
        while True:
            if task.AsyncResult(task.request.id).state in states.READY_STATES:
                raise Ignore
            if time.time() > until:
                break
            time.sleep(0.1)
        if "failed" in known:
            raise TaskFailed(known["failed"])


def _job(name: str, files: list[dict[str, Any]], task_config: dict[str, Any] | None) -> Job:
    given = inputs_of(files)
    return {
        "task": name,
        "wanted": wanted(name, task_config),
        "inputs": given.files,
        "rules": given.rules,
        "evidence": given.memory,
    }


def _units(task: Any, job: Job, journal: Journal) -> list[dict[str, Any]]:  # noqa: ANN401
    """Return what is to be done by itself: each input, and of a large image each process."""
    units: list[dict[str, Any]] = []
    for number, name in enumerate(job["evidence"]):
        processes: list[dict[str, Any]] = []
        if job["task"] not in _AT_ONCE and _size(job["inputs"][name]) >= LARGE:
            folder = os.path.join(journal.folder, f"plan-{number}")
            with contextlib.suppress(TaskFailed):  # its unit will tell, and not stop the others
                processes = run(
                    {**job, "do": "plan", "input": name, "folder": folder, "clear": journal.folder},
                    _progress(task),
                    [journal.descriptor],
                )["processes"]
        units += [{"input": name, **each} for each in processes] or [{"input": name}]
    for number, unit in enumerate(units):
        unit["id"] = uuid.uuid5(uuid.NAMESPACE_URL, f"memcarve:{task.request.id}#{number}").hex
        unit["folder"] = os.path.join(journal.folder, f".memcarve-{unit['id']}")
    return units


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0


def _fanned_out(task_id: str, job: Job) -> Any:  # noqa: ANN401
    """Return a chord: a sub-task for each unit, and the last task, which is known by the identifier of all."""
    parts = [
        one.s(task_id, number, job["folder"], job["output_path"]).set(task_id=unit["id"], queue=QUEUE)
        for number, unit in enumerate(job["units"])
    ]
    header = group(parts)
    # the same group if this is sent again, so that what is done counts
    header.options["task_id"] = uuid.uuid5(uuid.NAMESPACE_URL, f"memcarve:{task_id}").hex
    return chord(header, last.s(output_path=job["output_path"]).set(queue=QUEUE))


@celery.task(bind=True, name=f"{QUEUE}.one", send_events=False, Request=_REQUEST)
def one(self: Any, parent: str, number: int, folder: str, output_path: str) -> dict[str, Any]:  # noqa: ANN401
    """Do one unit of a task; what goes wrong is told, and stops no other."""
    above = Journal(output_path, parent).read()
    if _is_over(above) or "job" not in above or not os.path.isdir(folder):
        return {"number": number, "error": "the task had ended before"}
    job = above["job"]
    unit = job["units"][number]
    journal = Journal(folder, unit["id"])
    with signs_of_life(self.request), journal.held():
        known = journal.read()
        if "answer" in known:
            return dict(known["answer"])
        answer = {"number": number, "error": None}
        try:
            journal.begin()
            run(
                {**job, **unit, "do": "unit", "units": [], "clear": unit["folder"]},
                lambda _done, _total: None,
                [journal.descriptor],
                lambda: "failed" in Journal(output_path, parent).read(),
            )
        except TaskFailed as error:
            answer["error"] = str(error)
        journal.add(answer=answer)
    if _is_over(Journal(output_path, parent).read()):
        # what was written while the folder was taken away
        shutil.rmtree(folder, ignore_errors=True)
    _tell(self, parent, job)
    return answer


@celery.task(bind=True, name=f"{QUEUE}.last", Request=_REQUEST)
def last(self: Any, answers: list[dict[str, Any]], output_path: str) -> str:  # noqa: ANN401
    """Make the outputs of a task of what its units left."""
    journal = Journal(output_path, self.request.id)
    with signs_of_life(self.request), journal.held():
        known = journal.read()
        _return_known(self, known)
        if "result" in known:
            return str(known["result"])
        if "job" not in known:
            raise TaskFailed("the task's journal is gone")
        job = known["job"]
        for answer in answers:
            job["units"][answer["number"]]["error"] = answer["error"]
        with _failing(journal):
            journal.begin(within="final")
            made = run(
                {**job, "do": "finish", "clear": os.path.join(journal.folder, "final")},
                _progress(self),
                [journal.descriptor],
            )
            return _done(journal, self.request.id, job, made)
    raise AssertionError


def _is_over(known: dict[str, Any]) -> bool:
    """Return True if a task has ended, by what its journal says."""
    return "result" in known or "failed" in known


@contextlib.contextmanager
def _failing(journal: Journal) -> Any:  # noqa: ANN401
    """Leave nothing half done of a task that fails, but for the line that says why."""
    try:
        yield
    except TaskFailed as error:
        journal.clear()
        journal.add(failed=str(error), at=time.time())
        journal.add(end=True)
        raise


def _done(journal: Journal, task_id: str, job: Job, made: dict[str, Any]) -> str:
    """Give outputs their places, and return what OpenRelik is told."""
    files = placed(job["output_path"], task_id, made["outputs"])
    result = create_task_result(
        output_files=[file.to_dict() for file in files],
        workflow_id=job["workflow_id"],
        command=f"memcarve {job['task']}",
        meta=made["meta"],
        task_report=made["report"],
    )
    journal.add(result=result, at=time.time())
    journal.clear()
    return str(result)


def _progress(task: Any) -> Callable[[int, int], object]:  # noqa: ANN401
    def told(done: int, total: int) -> None:
        with contextlib.suppress(OperationalError, OSError, redis.RedisError):
            task.send_event("task-progress", retry=False, data={"done_bytes": done, "total_bytes": total})

    return told


def _tell(task: Any, parent: str, job: Job) -> None:  # noqa: ANN401
    """Tell how many units are done, as an event of the task that they are of: OpenRelik knows no other."""
    done = sum(os.path.exists(os.path.join(unit["folder"], "unit.json")) for unit in job["units"])
    data = {"done_processes": done, "total_processes": len(job["units"])}
    with (
        contextlib.suppress(OperationalError, OSError, redis.RedisError),
        task.app.events.default_dispatcher(hostname=task.request.hostname) as dispatcher,
    ):
        dispatcher.send("task-progress", uuid=parent, data=data)


for _name in TASKS:
    globals()[_name] = _task(_name)
