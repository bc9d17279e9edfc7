"""Signs of life of a task: as long as it gives them it is not delivered to another worker, however long it takes."""

from __future__ import annotations

import contextlib
import threading
import time
from typing import TYPE_CHECKING, Any

import redis

from openrelik_worker_memcarve.app import UNACKED, redis_client
from openrelik_worker_memcarve.settings import VISIBILITY

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextlib.contextmanager
def signs_of_life(request: Any) -> Iterator[None]:  # noqa: ANN401 - of Celery
    """Renew the time of a task's delivery, several times within the time after which it would be delivered again.

    If that fails, because Redis is away or keeps deliveries otherwise, the task is delivered again, which `once` copes
    with.
    """
    tag = (request.properties or {}).get("delivery_tag")
    if tag is None:
        yield
        return
    done = threading.Event()

    def renew() -> None:
        while not done.wait(VISIBILITY / 4):
            with contextlib.suppress(redis.RedisError):
                redis_client.zadd(UNACKED["unacked_index_key"], {tag: time.time()}, xx=True)

    thread = threading.Thread(target=renew, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
