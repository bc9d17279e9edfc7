"""The Celery application: one queue, late acknowledgement, and a table of deliveries of its own."""

from __future__ import annotations

import redis
from celery.app import Celery

from openrelik_worker_memcarve.settings import REDIS_URL, VISIBILITY

#: by OpenRelik's rule the beginning of the names of tasks, too
QUEUE = "openrelik-worker-memcarve"
#: where kombu keeps what was delivered and is not acknowledged. Workers of other kinds on the same Redis would deliver
#: our tasks again after their own time-out, and we theirs after ours, if the table were the one that all share.
UNACKED = {
    "unacked_key": f"{QUEUE}:unacked",
    "unacked_index_key": f"{QUEUE}:unacked_index",
    "unacked_mutex_key": f"{QUEUE}:unacked_mutex",
}

#: how what cannot be told to Redis is told again: for about ten minutes
_AGAIN = {"max_retries": 120, "interval_start": 0.2, "interval_step": 0.5, "interval_max": 5}

celery = Celery(
    QUEUE,
    broker=REDIS_URL,
    backend=f"openrelik_worker_memcarve.backend:Backend+{REDIS_URL}",
    include=["openrelik_worker_memcarve.tasks"],
)
celery.conf.update(
    task_default_queue=QUEUE,
    accept_content=["json"],  # whoever writes into Redis is not to run code here
    result_accept_content=["json"],
    task_serializer="json",
    result_serializer="json",
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    worker_prefetch_multiplier=1,
    worker_max_memory_per_child=512 << 10,  # KiB; memory is read in processes of their own
    broker_connection_retry_on_startup=True,
    broker_connection_max_retries=None,
    broker_transport_options={"visibility_timeout": VISIBILITY, **UNACKED},
    result_backend_transport_options={"retry_policy": _AGAIN},
    result_backend_always_retry=True,
    result_backend_max_retries=_AGAIN["max_retries"],
    task_publish_retry_policy=_AGAIN,
    redis_retry_on_timeout=True,
    redis_socket_keepalive=True,
)
redis_client = redis.Redis.from_url(REDIS_URL)
